package notify

import (
	"compress/gzip"
	"context"
	"crypto/ed25519"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/ledger"
	"example.org/odometer/threshold"
)

// TestBesideTheLedger has thresholds and notifications in a ledger's file of every version:
// they come to be there before it is migrated or after, and migration, audit, rebuild,
// pruning, backup and restore leave each of their rows as it is and hold beside them.
func TestBesideTheLedger(t *testing.T) {
	goldens, err := filepath.Glob("../ledger/testdata/ledger-v*.db.gz")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("got %d golden ledgers, %v, want those of every version", len(goldens), err)
	}
	for i, golden := range goldens {
		for _, before := range []bool{false, true} {
			if testing.Short() && (i > 0 || !before) {
				continue // one that is migrated with their tables in it
			}
			name := filepath.Base(golden)
			if before {
				name += ", tables first"
			}
			t.Run(name, func(t *testing.T) { beside(t, golden, before) })
		}
	}
}

func beside(t *testing.T, golden string, before bool) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	unpack(t, golden, path)
	ctx := t.Context()
	want := ""
	if before {
		want = tell(t, path)
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: path}) // migrates
	if err != nil {
		t.Fatal(err)
	}
	defer func() { l.Close() }()
	if !before {
		want = tell(t, path)
	}
	stands := func(when, path string) {
		t.Helper()
		if got := rowsOf(t, path); got != want {
			t.Errorf("%s: got the rows\n%s\nwant\n%s", when, got, want)
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
		stands(when+" and rebuilt", filepath.Join(dir, "ledger.db"))
	}
	holds("migrated", filepath.Dir(path))
	copied := filepath.Join(t.TempDir(), "copy")
	if _, err := ledger.Backup(ctx, path, copied); err != nil {
		t.Fatal(err)
	}
	pruned, err := l.Prune(ctx, ledger.PruneOptions{Before: time.Now(), Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d records pruned", pruned.Records)
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
	holds("restored and opened", filepath.Dir(back))
	n, err := Open(ctx, Options{Path: back, Key: make([]byte, KeyBytes)})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	if list, err := n.List(ctx, admin.Caller, odometer.ChannelQuery{}); err != nil || len(list) != 1 || list[0].Secrets != 1 {
		t.Errorf("restored: got %+v, %v, want the channel with its secret", list, err)
	}
}

// tell makes a threshold, and a channel with a delivery that waits, in a ledger's file, and
// returns the rows.
func tell(t *testing.T, path string) string {
	t.Helper()
	ctx := t.Context()
	th, err := threshold.Open(ctx, threshold.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	defer th.Close()
	if _, err := th.Create(ctx, admin, odometer.Threshold{
		Name: "busy", Enabled: true, Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod,
		Levels: []odometer.ThresholdLevel{{Name: "warning", Value: 80}}, Action: odometer.ActionLog,
	}, odometer.Once{}); err != nil {
		t.Fatal(err)
	}
	n, err := Open(ctx, Options{Path: path, Key: make([]byte, KeyBytes)})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	c, _, err := n.Create(ctx, admin, odometer.Channel{Name: "hook", Kind: odometer.ChannelWebhook, URL: "https://example.com/", Events: []odometer.EventKind{odometer.EventViolation}, Enabled: true}, Secrets{}, odometer.Once{})
	if err != nil {
		t.Fatal(err)
	}
	v := violation("vm-1", 1)
	if err := n.transact(ctx, func(tx *sql.Tx) error { return n.takeChange(ctx, tx, n.now(), &c, &v) }); err != nil {
		t.Fatal(err)
	}
	return rowsOf(t, path)
}

// rowsOf are all rows of the tables of thresholds and notifications in a file.
func rowsOf(t *testing.T, path string) string {
	t.Helper()
	ctx := t.Context()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	rows, err := db.QueryContext(ctx, `SELECT name FROM sqlite_master WHERE type = 'table' AND (name LIKE 'threshold\_%' ESCAPE '\' OR name LIKE 'notify\_%' ESCAPE '\') ORDER BY name`)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := texts(rows)
	if err != nil || len(tables) < 10 {
		t.Fatalf("got the tables %v, %v", tables, err)
	}
	var b strings.Builder
	for _, table := range tables {
		if err := dump(ctx, db, &b, table); err != nil {
			t.Fatal(err)
		}
	}
	return b.String()
}

func dump(ctx context.Context, db *sql.DB, w io.Writer, table string) error {
	rows, err := db.QueryContext(ctx, `SELECT * FROM `+table+` ORDER BY 1, 2`)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values, into := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return err
		}
		fmt.Fprintf(w, "%s %v\n", table, values)
	}
	return rows.Err()
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
