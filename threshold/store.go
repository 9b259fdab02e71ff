package threshold

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"example.org/odometer"
	"modernc.org/sqlite"
)

//go:embed schema.sql
var schema string

// SchemaVersion is the version of the tables that this program writes. It is not the
// ledger's.
const SchemaVersion = 1

// ErrNewer says that a newer version of this program wrote the tables of thresholds; they
// are left untouched.
var ErrNewer = errors.New("the tables of thresholds were written by a newer version of odometer")

// errNotOurs says that the ledger has another writer, which has the thresholds too.
var errNotOurs = errors.New("thresholds are another process's")

const (
	// MaxThresholds bounds those of all holders, each of which is held in memory.
	MaxThresholds = 1_000_000
	// MaxHeld bounds those of one user or organisation, so that nobody takes what all
	// have.
	MaxHeld = 1000
	// lockWait is how long a change waits for a database that is locked, as accounts do.
	lockWait = 5 * time.Second
)

// Ledger is what is followed.
type Ledger interface {
	// Booked returns entries of the journal's records after one, whole records in the
	// order of commit, up to a record where that is not 0, until there are about limit;
	// and the last record that it looked at. It is that after which nothing is booked
	// where that is what was asked after. Of the records in between, removed were pruned
	// before they were read. The error wraps [odometer.ErrConflict] where the one asked
	// after lies beyond the last.
	Booked(ctx context.Context, after, upTo int64, limit int) (entries []odometer.Entry, records []int64, last, removed int64, err error)
	// UsageAt answers a question together with the last record that the answer knows.
	UsageAt(ctx context.Context, q odometer.UsageQuery) (rows []odometer.UsageRow, last int64, err error)
	// EachEntry calls each for every entry that q asks for, in the order of booking.
	EachEntry(ctx context.Context, q odometer.EntryQuery, each func(*odometer.Entry) error) error
	// News returns a channel that is closed at the next commit that books something.
	News() <-chan struct{}
}

// Options say what thresholds stand on.
type Options struct {
	Path   string // of the ledger's file, which is there
	Ledger Ledger
	// Owns returns an error in a transaction of a process that is not the ledger's writer
	// any more; nil asks nobody.
	Owns func(context.Context, *sql.Tx) error
	// Note writes a line of the audit log in the transaction of what it tells; nil writes
	// none.
	Note func(ctx context.Context, tx *sql.Tx, by odometer.Actor, action odometer.Action, object, detail string) error
	// Channels refuses, in the transaction that names them, channels that a holder has not,
	// each by an [odometer.ThresholdProblem]; nil refuses none.
	Channels func(ctx context.Context, tx *sql.Tx, holder odometer.Bound, list []odometer.ChannelID) error
	// Running lists the machines that are known to run, for thresholds of silence; nil
	// for none.
	Running func(context.Context) ([]Machine, error)
	// Ended reports whether a machine is known to run no more; nil knows of none.
	Ended  func(context.Context, odometer.InstanceID) (bool, error)
	File   string           // of thresholds, YAML, see [ReadFile]; "" for none
	Clock  func() time.Time // time.Now when nil
	Logger *slog.Logger     // discarded when nil
	Random io.Reader        // what ids are drawn from; crypto/rand when nil
	Driver string           // of database/sql; "sqlite" when empty
	Wait   time.Duration    // for a database that is locked; 5 s when zero

	tick time.Duration // how often the clock is looked at; tickEvery when zero; tests
}

// Thresholds keeps thresholds, follows the ledger, and records violations. Its methods
// may be called at once; Run once.
type Thresholds struct {
	o      Options
	db     *sql.DB
	clock  func() time.Time
	logger *slog.Logger

	again chan struct{} // has a value when thresholds changed

	mu    sync.Mutex // guards what follows
	news  chan struct{}
	stats Stats
}

// Open opens the thresholds in the ledger's file, creating their tables where there are
// none. An error that wraps [ErrNewer] says that they are of a newer version.
func Open(ctx context.Context, o Options) (*Thresholds, error) {
	t := &Thresholds{o: o, clock: o.Clock, logger: o.Logger, again: make(chan struct{}, 1), news: make(chan struct{})}
	if t.clock == nil {
		t.clock = time.Now
	}
	if t.logger == nil {
		t.logger = slog.New(slog.DiscardHandler)
	}
	if t.o.Random == nil {
		t.o.Random = rand.Reader
	}
	if err := t.open(ctx); err != nil {
		if t.db != nil {
			t.db.Close()
		}
		return nil, fmt.Errorf("open the thresholds in %s: %w", o.Path, err)
	}
	return t, nil
}

func (t *Thresholds) open(ctx context.Context) (err error) {
	// As the ledger has it, so that what was answered is there after a power cut.
	t.db, err = sql.Open(cmp.Or(t.o.Driver, "sqlite"), "file:"+t.o.Path+"?_txlock=immediate&_pragma=busy_timeout("+
		strconv.FormatInt(cmp.Or(t.o.Wait, lockWait).Milliseconds(), 10)+
		")&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-2000)&_pragma=wal_autocheckpoint(8192)")
	if err != nil {
		return err
	}
	t.db.SetMaxOpenConns(4)
	return t.transact(ctx, func(tx *sql.Tx) error {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE name = 'threshold_meta'`).Scan(&n); err != nil {
			return err
		}
		if n == 0 {
			_, err := tx.ExecContext(ctx, schema+`INSERT INTO threshold_meta (key, value) VALUES ('schema_version', '`+strconv.Itoa(SchemaVersion)+`')`)
			return err
		}
		var version int
		if err := tx.QueryRowContext(ctx, `SELECT CAST(value AS INTEGER) FROM threshold_meta WHERE key = 'schema_version'`).Scan(&version); err != nil {
			return err
		}
		if version > SchemaVersion {
			return fmt.Errorf("tables of version %d, this program knows %d: %w", version, SchemaVersion, ErrNewer)
		}
		return nil
	})
}

// Close closes the file. What Run has not stored is taken in again.
func (t *Thresholds) Close() error { return t.db.Close() }

// transact does something in a transaction of the ledger's writer.
func (t *Thresholds) transact(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if t.o.Owns != nil {
		err := t.o.Owns(ctx, tx)
		if _, ours := errors.AsType[*sqlite.Error](err); err != nil && !ours && ctx.Err() == nil {
			return fmt.Errorf("%w: %w", errNotOurs, err)
		} else if err != nil {
			return err
		}
	}
	if err := do(tx); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil { // it may be stored nevertheless
		t.changed()
		t.wake()
		return err
	}
	return nil
}

// wake has those who wait for changes of violations look.
func (t *Thresholds) wake() {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.news)
	t.news = make(chan struct{})
}

// cursor returns the last record that was taken in, and false where there is none yet.
func (t *Thresholds) cursor(ctx context.Context) (record int64, there bool, err error) {
	err = t.db.QueryRowContext(ctx, `SELECT CAST(value AS BIGINT) FROM threshold_meta WHERE key = 'cursor'`).Scan(&record)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, false, nil
	}
	return record, err == nil, err
}

// save stores what a fold changed, and that it took in the journal up to a record.
func (t *Thresholds) save(ctx context.Context, f *fold, record int64) error {
	err := t.transact(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO threshold_meta (key, value) VALUES ('cursor', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, strconv.FormatInt(record, 10))
		if err != nil {
			return err
		}
		for at, w := range f.touched {
			if err := saveState(ctx, tx, at, w.states[key(at.subject, at.period)]); err != nil {
				return err
			}
		}
		for _, w := range f.begun {
			if _, err := tx.ExecContext(ctx, `UPDATE threshold_thresholds SET record = ? WHERE id = ? AND version = ?`, w.from, string(w.ID), w.Version); err != nil {
				return err
			}
		}
		return saveChanges(ctx, tx, f.changes)
	})
	if err != nil {
		return err
	}
	told := len(f.changes)
	f.changes, f.begun = nil, nil
	clear(f.touched)
	if told > 0 {
		t.wake()
	}
	return nil
}

// saveState stores a state, or that there is none any more.
func saveState(ctx context.Context, tx *sql.Tx, at place, s *state) error {
	if s == nil {
		_, err := tx.ExecContext(ctx, `DELETE FROM threshold_states WHERE threshold = ? AND subject = ? AND period_us = ?`, string(at.threshold), at.subject, at.period)
		return err
	}
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO threshold_states (threshold, subject, period_us, end_us, body) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (threshold, subject, period_us) DO UPDATE SET end_us = excluded.end_us, body = excluded.body`, string(at.threshold), at.subject, at.period, s.End, string(body))
	return err
}

// saveChanges appends to the log. A change that is in it is not told again.
func saveChanges(ctx context.Context, tx *sql.Tx, changes []odometer.Violation) error {
	var number uint64
	if len(changes) > 0 {
		if err := tx.QueryRowContext(ctx, `SELECT coalesce(max(number), 0) FROM threshold_changes`).Scan(&number); err != nil {
			return err
		}
	}
	for i := range changes {
		v := changes[i]
		v.Number = number + 1
		body, err := json.Marshal(v)
		if err != nil {
			return err
		}
		done, err := tx.ExecContext(ctx, `INSERT INTO threshold_changes (number, violation, change, body) VALUES (?, ?, ?, ?) ON CONFLICT (violation, change) DO NOTHING`,
			v.Number, string(v.ID), v.Change, string(body))
		if err != nil {
			return err
		}
		if n, err := done.RowsAffected(); err != nil || n == 0 {
			if err != nil {
				return err
			}
			continue
		}
		number++
		_, err = tx.ExecContext(ctx, `INSERT INTO threshold_violations (id, number, threshold, level, standing, resource, instance, usr, org, holder_usr, holder_org, shared, event, crossed_us, body)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (id) DO UPDATE SET number = excluded.number, standing = excluded.standing, shared = excluded.shared, event = excluded.event, body = excluded.body`,
			string(v.ID), v.Number, string(v.Threshold), v.Level, string(v.Standing), string(v.Resource), string(v.Instance), string(v.Owner.User), string(v.Owner.Org),
			string(v.Holder.User), string(v.Holder.Org), v.Shared, v.Event, v.Crossed, string(body))
		if err != nil {
			return err
		}
	}
	return nil
}
