package audit_test

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"example.org/odometer"
	"example.org/odometer/audit"
)

// Each of these is no verdict: the audit could not run.
func TestCannotRun(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(t *testing.T) string // returns the data directory
		want    error                     // nil for any
	}{
		{"the data directory is missing", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, fs.ErrNotExist},
		{"the data directory is a file", func(t *testing.T) string {
			path := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return path
		}, nil},
		{"there is no ledger in it", func(t *testing.T) string { return t.TempDir() }, fs.ErrNotExist},
		{"the ledger is a directory", func(t *testing.T) string {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "ledger.db"), 0o700); err != nil {
				t.Fatal(err)
			}
			return dir
		}, audit.ErrNotLedger},
		{"the ledger is no database", func(t *testing.T) string {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "ledger.db"), []byte("dear diary, today I measured nothing, and nobody was charged for it"), 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}, nil},
		{"the database is empty", func(t *testing.T) string {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "ledger.db"), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return dir
		}, audit.ErrNotLedger},
		{"the database is of another program", func(t *testing.T) string {
			dir := t.TempDir()
			statement(t, open(t, dir), `CREATE TABLE recipes (name TEXT)`)
			return dir
		}, audit.ErrNotLedger},
		{"the ledger does not say its version", func(t *testing.T) string {
			dir := told(t)
			statement(t, open(t, dir), `DELETE FROM meta WHERE key = 'schema_version'`)
			return dir
		}, audit.ErrNotLedger},
		{"the ledger's version is no number", func(t *testing.T) string {
			dir := told(t)
			statement(t, open(t, dir), `UPDATE meta SET value = 'II' WHERE key = 'schema_version'`)
			return dir
		}, audit.ErrNotLedger},
		{"the ledger is of a newer version", func(t *testing.T) string {
			dir := told(t)
			statement(t, open(t, dir), `UPDATE meta SET value = '99' WHERE key = 'schema_version'`)
			return dir
		}, audit.ErrNewer},
		{"a table is missing", func(t *testing.T) string {
			dir := told(t)
			statement(t, open(t, dir), `DROP TABLE coverage`)
			return dir
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := audit.Run(t.Context(), audit.Options{DataDir: c.prepare(t)})
			if err == nil || r != nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("audit: got report %v, error %v, want error %v", r, err, c.want)
			}
		})
	}
}

func statement(t testing.TB, db *sql.DB, query string) {
	t.Helper()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

func TestLocked(t *testing.T) {
	dir := told(t)
	db := open(t, dir)
	db.SetMaxOpenConns(1)
	statement(t, db, `PRAGMA locking_mode = EXCLUSIVE`)
	statement(t, db, `UPDATE meta SET value = value`)
	if r, err := audit.Run(t.Context(), audit.Impatient(audit.Options{DataDir: dir})); err == nil {
		t.Errorf("audit of a ledger that another process has for itself: got %s, want an error", show(r))
	}
}

func TestCancelled(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := audit.Run(ctx, audit.Options{DataDir: told(t)}); !errors.Is(err, context.Canceled) {
		t.Errorf("audit that was cancelled: got error %v, want %v", err, context.Canceled)
	}
}

func TestBesideWriter(t *testing.T) {
	dir := t.TempDir()
	s := newTeller(t, dir)
	defer s.close()
	o := newOdo("vm-1", hostOne, base)
	ctx, cancel := context.WithCancel(t.Context())
	written := make(chan int64)
	go func() {
		var n int64
		for ctx.Err() == nil {
			fr := s.frame(hostOne, odometer.Record{Event: o.next(sec/10, 1)}, odometer.Record{Event: o.next(sec/10, 1)})
			if _, _, err := s.l.Commit(context.Background(), []odometer.Frame{fr}); err != nil {
				t.Errorf("commit: got %v, want none", err)
				break
			}
			n += 2
		}
		written <- n
	}()
	var last int64
	for range 20 {
		r := run(t, dir)
		if !r.OK || r.Events < last {
			t.Errorf("audit beside a writer: got %s with %d events after %d, want ok", show(r), r.Events, last)
		}
		last = r.Events
	}
	cancel()
	want := <-written
	if r := run(t, dir); !r.OK || r.Events != want {
		t.Errorf("audit after the writer: got %s with %d events, want %d", show(r), r.Events, want)
	}
}

func TestEmptyLedger(t *testing.T) {
	dir := t.TempDir()
	newTeller(t, dir).close()
	r := run(t, dir)
	if !r.OK || r.Events != 0 || r.Records != 0 || r.Findings == nil || r.Warnings == nil {
		t.Errorf("audit of an empty ledger: got %+v, want ok and nothing", r)
	}
}

// A directory in which nothing can be made still has its ledger read.
func TestReadOnlyDirectory(t *testing.T) {
	dir := told(t)
	// What SQLite would make is there already and of no use to it.
	if err := os.Mkdir(filepath.Join(dir, "ledger.db-shm"), 0o700); err != nil {
		t.Fatal(err)
	}
	if r := run(t, dir); !r.OK || r.Events == 0 {
		t.Errorf("audit where SQLite cannot make its files: got %s, want ok", show(r))
	}
}

func TestProgress(t *testing.T) {
	var done, all int64
	r, err := audit.Run(t.Context(), audit.Options{DataDir: told(t), Progress: func(d, a int64) { done, all = d, a }})
	if err != nil {
		t.Fatal(err)
	}
	if done != r.Records || all != r.Records {
		t.Errorf("progress at the end: got %d of %d, want %d of both", done, all, r.Records)
	}
}

// Every finding there is has a fault that leads to it.
func TestEveryFindingIsProvoked(t *testing.T) {
	var provoked []string
	for _, c := range corruptions {
		provoked = append(provoked, c.want)
	}
	for _, c := range forgeries {
		provoked = append(provoked, c.want)
	}
	for _, c := range baseForgeries {
		provoked = append(provoked, c.want)
	}
	for _, code := range audit.Codes() {
		if !slices.Contains(provoked, code) {
			t.Errorf("finding %s: got no fault in the tables that leads to it, want one", code)
		}
	}
}
