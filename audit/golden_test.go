package audit_test

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"example.org/odometer/audit"
	"example.org/odometer/ledger"
)

// TestGoldenLedgersHold audits the ledger that each schema version left
// behind, after this version has taken it over, and refuses it before.
func TestGoldenLedgersHold(t *testing.T) {
	goldens, err := filepath.Glob("../ledger/testdata/ledger-v*.db.gz")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("got %d golden ledgers, %v, want those of every version", len(goldens), err)
	}
	for _, golden := range goldens {
		t.Run(filepath.Base(golden), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "ledger.db")
			unpack(t, golden, path)
			if golden != fmt.Sprintf("../ledger/testdata/ledger-v%d.db.gz", ledger.SchemaVersion) {
				if _, err := audit.Run(t.Context(), audit.Options{DataDir: dir}); !errors.Is(err, audit.ErrOlder) {
					t.Errorf("before it is migrated: got %v, want %v", err, audit.ErrOlder)
				}
			}
			l, err := ledger.Open(t.Context(), ledger.Options{Path: path})
			if err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			report, err := audit.Run(t.Context(), audit.Options{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if !report.OK || report.Recorded == 0 || report.Quarantined == 0 || report.Held == 0 || report.Covered == 0 || report.Recovered == 0 {
				t.Errorf("got %+v, want everything to hold and something of everything", report)
			}
		})
	}
}

func unpack(t *testing.T, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, z)
	if err := errors.Join(err, out.Close()); err != nil {
		t.Fatal(err)
	}
}
