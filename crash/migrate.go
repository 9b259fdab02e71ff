package main

import (
	"compress/gzip"
	"context"
	"database/sql"
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
	return append(all, retentionRun(all[len(all)-1])), nil
}

// retentionRun is a server that is told to keep its journal for a month and
// finds one that is older and published: what came of the migration of an older
// ledger.
func retentionRun(older *run) *run {
	return &run{
		name:   "retention",
		server: "data",
		prepare: func(ctx context.Context, binary, dir string) (truth, error) {
			sum, err := older.prepare(ctx, binary, dir)
			if err != nil {
				return nil, err
			}
			site, err := newSite(filepath.Join(dir, "data"))
			if err != nil {
				return nil, err
			}
			p, err := launch(binary, site.args()...)
			if err != nil {
				return nil, err
			}
			defer p.kill()
			if err := p.until("the journal being published", func() bool {
				return countsNone(ctx, site.dir, `SELECT count(*) FROM (SELECT partition, max(position) AS last FROM journal GROUP BY partition) j
					LEFT JOIN feed f ON f.partition = j.partition WHERE coalesce(f.position, 0) < j.last`)
			}); err != nil {
				return nil, err
			}
			return sum, p.stop()
		},
		play: func(ctx context.Context, a *attempt) (err error) {
			if a.site, err = newSite(a.data()); err != nil {
				return err
			}
			a.site.extra = []string{"--keep-journal", "30d"}
			p, err := a.under(a.site.args()...)
			if err != nil {
				return err
			}
			if err := a.site.ready(p); err != nil {
				return err
			}
			if err := p.until("the journal being pruned", func() bool { // up to the last record of each partition
				return countsNone(ctx, a.data(), `SELECT count(*) FROM (SELECT partition, max(position) AS last FROM journal GROUP BY partition) j
					LEFT JOIN heads h ON h.partition = j.partition WHERE coalesce(h.position, 0) < j.last - 1`)
			}); err != nil {
				return err
			}
			if err := a.settled(); err != nil {
				return err
			}
			return p.stop()
		},
		milestones: []milestone{
			{name: "the key is made", calls: func(c *trace.Call) bool { return c.Op == trace.Rename && c.To == "ledger.key" }},
			{name: "the base takes the records", calls: func(c *trace.Call) bool { return c.Op == trace.Write && strings.HasPrefix(c.Path, "ledger-base.db") }},
			{name: "the journal is cut and its head is signed", query: `SELECT count(*) FROM heads h WHERE h.position > (SELECT count(*) FROM journal j WHERE j.partition = h.partition AND j.position <= h.position)`},
		},
	}
}

// countsNone reports whether a query of the ledger in a data directory counts 0.
func countsNone(ctx context.Context, dir, query string) bool {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db")+"?mode=ro")
	if err != nil {
		return false
	}
	defer db.Close()
	var n int
	return db.QueryRowContext(ctx, query).Scan(&n) == nil && n == 0
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
