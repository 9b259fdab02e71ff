package threshold

import (
	"cmp"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modernc.org/sqlite"
	sqlitecode "modernc.org/sqlite/lib"

	"example.org/odometer"
)

// failing is a driver of which one write fails, a statement or a commit: before it has an
// effect, or after.
type failing struct {
	sqlite.Driver

	mu     sync.Mutex // guards what follows
	writes []string   // so far
	fails  int        // which of them does, from 1 on; 0 for none
	how    failure
}

// failure is how a write fails.
type failure struct {
	name  string
	after bool // it has its effect nevertheless
	err   error
}

var theDisk = &failing{}

func init() { sql.Register("threshold-failing", theDisk) }

// arm has the n-th write from now fail, none where n is 0, and returns what was written
// since the last time.
func (d *failing) arm(n int, how failure) (writes []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	writes, d.writes, d.fails, d.how = d.writes, nil, n, how
	return writes
}

// write notes a write and reports whether it fails, and how.
func (d *failing) write(what string) (how failure, fails bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes = append(d.writes, what)
	return d.how, len(d.writes) == d.fails
}

// failed returns which write failed, "" for none yet.
func (d *failing) failed() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fails == 0 || d.fails > len(d.writes) {
		return ""
	}
	return d.writes[d.fails-1]
}

func (d *failing) Open(name string) (driver.Conn, error) {
	c, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return &failingConn{conn: c.(conn), d: d}, nil
}

type conn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

type failingConn struct {
	conn
	d     *failing
	first string // statement of the transaction
}

func (c *failingConn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	what := strings.Join(strings.Fields(query), " ")
	c.first = cmp.Or(c.first, what)
	how, fails := c.d.write(what)
	if !fails {
		return c.conn.ExecContext(ctx, query, args)
	}
	if how.after {
		if _, err := c.conn.ExecContext(ctx, query, args); err != nil {
			return nil, err
		}
	}
	return nil, how.err
}

func (c *failingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.conn.BeginTx(ctx, o)
	c.first = ""
	return &failingTx{tx, c}, err
}

type failingTx struct {
	driver.Tx
	c *failingConn
}

func (tx *failingTx) Commit() error {
	how, fails := tx.c.d.write("COMMIT of " + tx.c.first)
	switch {
	case !fails:
		return tx.Tx.Commit()
	case how.after:
		return errors.Join(how.err, tx.Tx.Commit())
	}
	return errors.Join(how.err, tx.Rollback())
}

var errDisk = errors.New("the disk does not answer")

// diskFull returns the error of a database that may have no page more.
func diskFull(t *testing.T) error {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "full.db")+"?_pragma=max_page_count(2)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	_, err = db.Exec(`CREATE TABLE a (b); CREATE TABLE c (d); CREATE TABLE e (f)`)
	if full, ok := errors.AsType[*sqlite.Error](err); !ok || full.Code() != sqlitecode.SQLITE_FULL {
		t.Fatalf("got %v, want a full disk", err)
	}
	return err
}

// TestEveryWriteFails has each write that thresholds make fail once, without and with its
// effect, and for want of space: whoever asked for it is told, what he tries again is done
// once, and what Run goes on to tell is what it tells where nothing fails, none of it
// twice. Each kind of write fails where it is made first, and where it is made last.
func TestEveryWriteFails(t *testing.T) {
	var want, writes []string
	synctest.Test(t, func(t *testing.T) { want, writes = aDay(t, 0, failure{}) })
	places := map[string][]int{}
	for i, what := range writes {
		if n := places[what]; len(n) > 1 {
			n[1] = i + 1
		} else {
			places[what] = append(n, i+1)
		}
	}
	if len(want) < 15 || len(places) < 20 {
		t.Fatalf("got %q and %q, want more to be told and written", want, writes)
	}
	for i, how := range []failure{{"failed, not persisted", false, errDisk}, {"failed, but persisted", true, errDisk}, {"disk full", false, diskFull(t)}} {
		for j, what := range slices.Sorted(maps.Keys(places)) {
			if testing.Short() && (i+j)%16 != 0 {
				continue
			}
			for k, n := range places[what] {
				if testing.Short() && k > 0 {
					break
				}
				synctest.Test(t, func(t *testing.T) {
					if got, writes := aDay(t, n, how); !slices.Equal(got, want) {
						t.Errorf("%s, write %d, %s: got\n%s\nwant\n%s", how.name, n, writes[n-1], strings.Join(got, "\n"), strings.Join(want, "\n"))
					}
				})
			}
		}
	}
}

// aDay runs thresholds over everything that writes while the n-th write fails, and returns
// the log of changes and of what was noted, and all writes.
func aDay(t *testing.T, n int, how failure) (log, writes []string) {
	defer theDisk.arm(0, failure{})
	file := filepath.Join(t.TempDir(), "thresholds.yaml")
	w := newTower(t)
	aside, err := sql.Open("sqlite", "file:"+w.path+"?_txlock=immediate&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer aside.Close()
	if _, err := aside.Exec(`CREATE TABLE notes (line TEXT NOT NULL)`); err != nil {
		t.Fatal(err)
	}
	w.options.Driver, w.options.File = "threshold-failing", file
	w.options.Note = func(ctx context.Context, tx *sql.Tx, by odometer.Actor, action odometer.Action, object, detail string) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO notes (line) VALUES (?)`, string(action)+" "+detail)
		return err
	}
	// try does what may fail once, and then not again; what was done nevertheless is not
	// tried again.
	try := func(what string, do func() error) {
		t.Helper()
		if err := do(); err != nil {
			switch {
			case n == 0:
				t.Fatalf("%s: %v", what, err)
			case !errors.Is(err, how.err) || !strings.HasPrefix(err.Error(), what):
				t.Errorf("got %v, want that it says %q and why it failed", err, what)
			case how.err != errDisk && what != "open the thresholds" && !errors.Is(err, odometer.ErrUnavailable):
				t.Errorf("%s: got %v, want ErrUnavailable", what, err)
			}
			if done := theDisk.failed(); how.after && strings.HasPrefix(done, "COMMIT") && what != "open the thresholds" {
				return
			}
			if err := do(); err != nil {
				t.Fatalf("%s again: %v", what, err)
			}
		}
	}
	write := func(text string) {
		t.Helper()
		at := w.clock()
		if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Chtimes(file+".new", at, at), os.Rename(file+".new", file)); err != nil {
			t.Fatal(err)
		}
		w.pass(fileLook)
	}
	named := func(want ...string) {
		t.Helper()
		w.await(fmt.Sprint("there are ", want), func() bool {
			var names []string
			list, err := w.List(t.Context(), admin.Caller, odometer.ThresholdQuery{Limit: 10})
			for _, d := range list {
				if _, record, err := scanThreshold(aside.QueryRow(`SELECT `+columns+` FROM threshold_thresholds WHERE id = ?`, string(d.ID))); err == nil && (record >= 0 || !d.Enabled) {
					names = append(names, fmt.Sprint(d.Name, " ", d.Levels[0].Value))
				}
			}
			slices.Sort(names)
			return err == nil && slices.Equal(names, want)
		})
	}
	use := func(d time.Duration, amounts map[odometer.Quantity]int64) {
		t.Helper()
		synctest.Wait() // who waits for the ledger's lock stops the clock
		w.use("vm-1", ada, d, amounts)
		w.settled()
	}
	theDisk.arm(n, how)
	gaps := "thresholds:\n  - {name: gaps, scope: {all: true}, condition: gap, levels: [{name: long, value: 60}]}\n"
	write(gaps)
	try("open the thresholds", func() error { w.Thresholds, err = Open(t.Context(), w.options); return err })
	t.Cleanup(func() { w.stop(); w.Close() })
	w.run()
	named("gaps 60")
	told, done := w.follower(), map[string]odometer.Threshold{}
	for _, d := range []odometer.Threshold{busy(odometer.Scoped{All: true}), monthlyOf(ada)} {
		try("create a threshold", func() error {
			_, err := w.Create(t.Context(), admin, d, odometer.Once{Key: d.Name})
			return err
		})
	}
	named("busy 80", "gaps 60", "month 5")
	list, err := w.List(t.Context(), admin.Caller, odometer.ThresholdQuery{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		done[d.Name] = d
	}
	use(time.Minute, map[odometer.Quantity]int64{odometer.CPU: 59e6, odometer.VCPU: 60e6})
	use(time.Hour, hours(6))
	use(2*time.Minute, map[odometer.Quantity]int64{odometer.GapTime: 120e6})
	write(strings.Replace(gaps, "60", "300", 1))
	named("busy 80", "gaps 300", "month 5")
	month := done["month"]
	month.Limit, month.Levels = 12, month.Levels[:2]
	try("change threshold", func() error { _, err := w.Update(t.Context(), admin, month, 0); return err })
	named("busy 80", "gaps 300", "month 6")
	use(time.Hour, hours(9))
	entries, _, err := w.ledger.Entries(t.Context(), odometer.EntryQuery{Limit: 10})
	if err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
	if _, err := w.ledger.Reverse(t.Context(), entries[len(entries)-1].ID, "admin", "a mistake"); err != nil {
		t.Fatal(err)
	}
	w.settled()
	try("delete threshold", func() error { return w.Delete(t.Context(), admin, done["busy"].ID, 0) })
	write("thresholds: []\n")
	named("month 6")
	synctest.Wait()
	_, err = aside.Exec(`INSERT INTO threshold_states VALUES ('thr_x', '', 1, ?, '{}')`, w.clock().Add(-keepStates-time.Second).UnixMicro())
	if err != nil {
		t.Fatal(err)
	}
	w.pass(30 * 24 * time.Hour)
	w.await("old states go, and the month is over", func() bool {
		var old, open int
		err := aside.QueryRow(`SELECT (SELECT count(*) FROM threshold_states WHERE threshold = 'thr_x'), (SELECT count(*) FROM threshold_violations WHERE standing = 'open')`).Scan(&old, &open)
		return err == nil && old == 0 && open == 0
	})
	log = w.log(aside)
	w.await("who waits for news has all of it", func() bool { return told() == w.last(aside) })
	return log, theDisk.arm(0, failure{})
}

// follower reads changes when there is news of them, and returns what says how many it
// has.
func (w *watchtower) follower() (read func() uint64) {
	var seen atomic.Uint64
	th, ctx := w.Thresholds, w.t.Context()
	go func() {
		for ctx.Err() == nil {
			news := th.News()
			list, err := th.ChangesAfter(ctx, seen.Load(), 100)
			if err == nil && len(list) > 0 {
				seen.Store(list[len(list)-1].Number)
			}
			select {
			case <-news:
			case <-ctx.Done():
			}
		}
	}()
	return seen.Load
}

// last returns the number of the last change.
func (w *watchtower) last(aside *sql.DB) (number uint64) {
	w.t.Helper()
	if err := aside.QueryRow(`SELECT max(number) FROM threshold_changes`).Scan(&number); err != nil {
		w.t.Fatal(err)
	}
	return number
}

// log returns what was told, and what was noted: once what was done again at once.
func (w *watchtower) log(aside *sql.DB) []string {
	w.t.Helper()
	var notes []string
	rows, err := aside.Query(`SELECT line FROM notes ORDER BY rowid`)
	if err != nil {
		w.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var line string
		if err := rows.Scan(&line); err != nil {
			w.t.Fatal(err)
		}
		notes = append(notes, line)
	}
	if err := rows.Err(); err != nil {
		w.t.Fatal(err)
	}
	return append(strings.Split(w.told(), "\n"), slices.Compact(notes)...)
}
