package account_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ed25519"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/audit"
	"example.org/odometer/ledger"
)

// TestBesideTheLedger has accounts in a ledger's file of every version: they come
// to be there before it is migrated or after, and migration, audit, rebuild,
// pruning, backup and restore leave them as they are and hold beside them.
func TestBesideTheLedger(t *testing.T) {
	goldens, err := filepath.Glob("../ledger/testdata/ledger-v*.db.gz")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("got %d golden ledgers, %v, want those of every version", len(goldens), err)
	}
	for i, golden := range goldens {
		for _, before := range []bool{false, true} {
			if testing.Short() && (i > 0 || !before) {
				continue // one that is migrated with accounts in it
			}
			name := filepath.Base(golden)
			if before {
				name += ", accounts first"
			}
			t.Run(name, func(t *testing.T) { beside(t, golden, before) })
		}
	}
}

func beside(t *testing.T, golden string, before bool) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	unpack(t, golden, path)
	ctx := t.Context()
	by := odometer.Actor{Caller: odometer.Caller{Name: "admin", Scopes: []odometer.Scope{odometer.ScopeAdmin}}, Remote: "::1"}
	var secret string
	create := func() {
		a := accounts(t, path)
		var err error
		if _, secret, err = a.CreateToken(ctx, by, odometer.Token{Name: "billing", Scopes: []odometer.Scope{odometer.ScopeRead}}); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
	}
	stands := func(when, path string) {
		t.Helper()
		a := accounts(t, path)
		defer a.Close()
		if c, ok := a.Authenticate(ctx, secret); !ok || c.Name != "billing" {
			t.Errorf("%s: got %v, %v, want the token", when, c, ok)
		}
		if log, err := a.AuditLog(ctx, 0, 10); err != nil || len(log) != 1 {
			t.Errorf("%s: got the log %+v, %v, want one line", when, log, err)
		}
	}
	holds := func(when, dir string) {
		t.Helper()
		report, err := audit.Run(ctx, audit.Options{DataDir: dir})
		if err != nil || !report.OK || report.Recorded == 0 {
			t.Errorf("%s: audit: got %+v, %v, want everything to hold", when, report, err)
		}
		rebuilt, err := ledger.Rebuild(ctx, filepath.Join(dir, "ledger.db"), nil)
		if err != nil || rebuilt.Total != 0 || rebuilt.Records == 0 {
			t.Errorf("%s: rebuild: got %+v, %v, want no difference", when, rebuilt, err)
		}
	}
	if before {
		create()
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: path}) // migrates
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close() }()
	if !before {
		create()
	}
	stands("migrated", path)
	holds("migrated", filepath.Dir(path))

	copied := filepath.Join(t.TempDir(), "copy")
	if _, err := ledger.Backup(ctx, path, copied); err != nil {
		t.Fatal(err)
	}
	stays, err := os.ReadFile(filepath.Join(copied, "ledger.db"))
	if err != nil || bytes.Contains(stays, []byte(secret[4:])) {
		t.Errorf("the backup has the secret in it: %v", err)
	}
	if _, err := l.Prune(ctx, ledger.PruneOptions{Before: time.Now(), Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))}); err != nil {
		t.Fatal(err)
	}
	stands("pruned", path)
	holds("pruned", filepath.Dir(path))
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}

	back := filepath.Join(t.TempDir(), "ledger.db")
	if _, err := ledger.Restore(ctx, copied, back, ledger.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	stands("restored", back)
	if l, err = ledger.Open(ctx, ledger.Options{Path: back}); err != nil { // another generation
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	stands("restored and opened", back)
	holds("restored and opened", filepath.Dir(back))
}

func accounts(t *testing.T, path string) *account.Accounts {
	t.Helper()
	a, err := account.OpenAccounts(t.Context(), account.AccountsOptions{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func unpack(t *testing.T, golden, path string) {
	t.Helper()
	f, err := os.Open(golden)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err := errors.Join(err, os.WriteFile(path, b, 0o600)); err != nil {
		t.Fatal(err)
	}
}
