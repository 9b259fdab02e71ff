package main

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"example.org/odometer"
	"example.org/odometer/crash/trace"
	"example.org/odometer/ledger"
)

// allRuns are the canonical runs with one for each older ledger that is kept,
// which the server has to migrate.
func allRuns() ([]*run, error) {
	out, err := exec.Command("go", "list", "-f", "{{.Dir}}", "example.org/odometer/ledger").Output()
	if err != nil {
		return nil, fmt.Errorf("find the older ledgers: %w", err)
	}
	found, err := filepath.Glob(filepath.Join(strings.TrimSpace(string(out)), "testdata", "ledger-v*.db.gz"))
	if err != nil {
		return nil, err
	}
	all := slices.Clone(runs)
	for _, path := range found {
		version := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "ledger-v"), ".db.gz")
		if version != fmt.Sprint(ledger.SchemaVersion) {
			all = append(all, migrationRun(path, version))
		}
	}
	if len(all) == len(runs) {
		return nil, errors.New("no older ledger was found: migration would not be proved")
	}
	return all, nil
}

// migrationRun is a server that finds a ledger of an older version. The truth
// is what a migration that nobody interrupts makes of it; that this is right is
// proved by ledger.TestGoldenLedgers.
func migrationRun(path, version string) *run {
	return &run{
		name:   "migrate-v" + version,
		server: "data",
		prepare: func(ctx context.Context, _, dir string) (truth, error) {
			in, out := filepath.Join(dir, "data", "ledger.db"), filepath.Join(dir, "migrated", "ledger.db")
			if err := errors.Join(unpack(path, in), unpack(path, out)); err != nil {
				return nil, err
			}
			l, err := ledger.Open(ctx, ledger.Options{Path: out})
			if err != nil {
				return nil, err
			}
			defer l.Close()
			if err := l.Tick(ctx); err != nil { // what had waited for its time is booked
				return nil, err
			}
			sum, err := usageOf(ctx, l)
			for _, a := range sum {
				for _, q := range []odometer.Quantity{odometer.MeasuredTime, odometer.EstimatedTime, odometer.GapTime} {
					delete(a, q.String()) // which the API tells in another form
				}
			}
			return sum, err
		},
		play: func(ctx context.Context, a *attempt) (err error) {
			if a.site, err = newSite(a.data()); err != nil {
				return err
			}
			p, err := a.under(a.site.args()...)
			if err != nil {
				return err
			}
			if err := a.site.ready(p); err != nil {
				return err
			}
			var wrong error
			if err := p.until("the usage being the truth", func() bool { wrong = a.settled(); return wrong == nil }); err != nil {
				return errors.Join(err, wrong)
			}
			return p.stop()
		},
		milestones: []milestone{
			{name: "the ledger is copied before", calls: func(c *trace.Call) bool {
				return c.Op == trace.Open && strings.HasPrefix(c.Path, "ledger.db.v"+version)
			}},
			{name: "the ledger is migrated", query: `SELECT count(*) FROM meta WHERE key = 'schema_version' AND value <> '` + version + `'`},
			{name: "the write-ahead log is checkpointed", calls: func(c *trace.Call) bool { return c.Op == trace.Write && c.Path == "ledger.db" }},
		},
	}
}

// unpack makes a file of a packed one, for its user alone.
func unpack(path, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	z, err := gzip.NewReader(in)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, z)
	return errors.Join(err, out.Close())
}
