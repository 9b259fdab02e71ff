// Package ledger is the append-only record of usage: the one source of truth.
//
// It promises that each event counts exactly once, for ever. [Ledger.Commit]
// takes frames of events and, in one transaction, writes them to the journal
// with what was decided about each, moves the watermarks of their epochs,
// books entries, and advances the receipts. A crash at any moment leaves
// either all of that or nothing; receipts are only ever given for what the
// transaction has committed (SQLite in WAL mode with synchronous=FULL).
//
// What is booked is decided by the watermark (book.go): an epoch's whole last
// vector with its time and sequence. An event books the difference between
// its own end and the watermark, never more, so that a repeated event adds
// nothing and a coalesced one is right whether none, some or all of its parts
// had arrived. What does not follow from the watermark is held until it does,
// or put in quarantine with a reason; nothing is dropped.
//
// The cost of a commit does not grow with history: the open state of each
// epoch is one small row, cached in memory and written back in the batch's
// own transaction; finished hours are appended once. All tables but the
// journal are a fold of the journal (fold.go), and [Rebuild] proves that.
//
// Commit, Tick, Release, Reverse and the feed's cursor may be called at once;
// they are serialised, because a partition has one writer. Queries run beside
// them on their own connections and see the last commit.
package ledger

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"example.org/odometer"
	_ "modernc.org/sqlite" // the embedded store
)

//go:embed schema.sql
var schema string

// ErrFenced says that another process has opened this ledger for writing
// since; this one must not write any more.
var ErrFenced error = fenced{}

type fenced struct{}

func (fenced) Error() string { return "another process writes to this ledger now" }

// Permanent says that trying again does not help.
func (fenced) Permanent() bool { return true }

// Options says where a ledger lies and how it decides.
type Options struct {
	Path   string           // of the database file; created when it is not there
	Clock  func() time.Time // wall clock; time.Now when nil
	Logger *slog.Logger     // discarded when nil
	Bounds Bounds           // DefaultBounds when zero
	// Driver names the database/sql driver: "sqlite", or one around it that
	// fails when it is told to.
	Driver string
	Random io.Reader // what the ids are drawn from; crypto/rand when nil

	point func(string) error              // tests: passes a point of a migration
	free  func(dir string) (int64, error) // tests: room on the disk
}

// Ledger is an open ledger. See the package's documentation for its promises.
type Ledger struct {
	path   string
	clock  func() time.Time
	logger *slog.Logger
	random io.Reader
	id     odometer.LedgerID
	gen    uint64

	read      *sql.DB // queries
	questions *statements
	exports   chan struct{} // holds one for each that is being read
	revisions revisions
	tail      tail

	mu     sync.Mutex // guards what follows: one writer
	write  *sql.DB    // a single connection
	fold   *fold
	token  string        // fencing token, compared in every transaction
	news   chan struct{} // closed and replaced after a commit that booked something
	last   time.Time     // of the last commit
	failed error         // of the last commit, nil when it went through
}

// Open opens the ledger at o.Path, creating it when it is not there. A ledger
// of an older version is copied and migrated first (migrate.go), which may
// take a while and is gone on with by the next Open when it does not complete.
// Open returns an error wrapping [ErrNewer] for a ledger of a newer version
// and leaves that untouched.
func Open(ctx context.Context, o Options) (*Ledger, error) {
	l, err := open(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", o.Path, err)
	}
	return l, nil
}

func open(ctx context.Context, o Options) (_ *Ledger, err error) {
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Bounds == (Bounds{}) {
		o.Bounds = DefaultBounds
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if !exists(o.Path) && exists(o.Path+restoring) {
		return nil, errors.New("restoring it from a backup was interrupted; `odometer restore` does it again")
	}
	write, err := connectBy(o.Driver, o.Path, "rwc", 1)
	if err != nil {
		return nil, err
	}
	read, err := connectBy(o.Driver, o.Path, "rw", 4)
	if err != nil {
		write.Close()
		return nil, err
	}
	l := &Ledger{path: o.Path, clock: o.Clock, logger: o.Logger, random: o.Random, read: read, write: write, news: make(chan struct{})}
	l.questions = &statements{db: read, of: map[string]*sql.Stmt{}}
	l.exports = make(chan struct{}, exportsAtOnce)
	defer func() {
		if err != nil {
			l.Close()
		}
	}()
	if err := l.migrate(ctx, &o); err != nil {
		return nil, err
	}
	if err := l.identify(ctx); err != nil {
		return nil, err
	}
	if l.fold, err = newFold(ctx, write, o.Bounds); err != nil {
		return nil, err
	}
	l.fold.since = l.clock().UnixMicro()
	return l, l.nextGeneration(ctx)
}

// connect opens the SQLite database with the settings that the durability of
// a commit rests on.
func connect(path, mode string, conns int) (*sql.DB, error) {
	return connectBy("", path, mode, conns)
}

// writerCache keeps the pages of the open state in memory, of some 100,000
// instances, which every commit writes again (a smaller cache is not filled,
// and read back with a system call a page), and lets the log grow to 32 MiB
// before its pages are copied to the database: a page that many commits
// change is then copied once.
const writerCache = "&_pragma=cache_size(-65536)&_pragma=wal_autocheckpoint(8192)"

// readerCache is 16 MiB for each of a few connections: the open hours of some
// ten thousand epochs, and the rows that a question goes through.
const readerCache = "&_pragma=cache_size(-16000)"

// connectBy is connect through a driver of that name.
func connectBy(driver, path, mode string, conns int) (*sql.DB, error) {
	lock, journal, cache := "deferred", "&_pragma=journal_mode(WAL)", readerCache
	switch mode {
	case "rwc":
		lock = "immediate" // the writer takes its lock at once and not halfway
		cache = writerCache
	case "ro":
		journal = "" // as it is: a copy is in WAL mode only from its first opening on
	}
	dsn := "file:" + path + "?mode=" + mode + "&_txlock=" + lock +
		"&_pragma=busy_timeout(5000)" + journal + "&_pragma=synchronous(FULL)" +
		"&_pragma=foreign_keys(1)" + cache
	db, err := sql.Open(cmp.Or(driver, "sqlite"), dsn)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	if err := db.Ping(); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func (l *Ledger) identify(ctx context.Context) error {
	id, err := l.meta(ctx, "ledger_id")
	if err != nil {
		return err
	}
	if l.gen, err = generationOf(ctx, l.write); err != nil {
		return err
	}
	l.id = odometer.LedgerID(id)
	l.token = randomHex(l.random)
	_, err = l.write.ExecContext(ctx, `UPDATE meta SET value = ? WHERE key = 'writer'`, l.token)
	return err
}

func (l *Ledger) meta(ctx context.Context, key string) (value string, err error) {
	err = l.write.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = ?`, key).Scan(&value)
	return value, err
}

func randomHex(from io.Reader) string {
	var b [16]byte
	if _, err := io.ReadFull(from, b[:]); err != nil {
		panic(err) // crypto/rand never fails
	}
	return hex.EncodeToString(b[:])
}

// Close closes the ledger. Nothing is pending: every commit was durable when
// it returned.
func (l *Ledger) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return errors.Join(l.questions.close(), l.read.Close(), l.write.Close())
}

// transact runs do in one transaction, after checking that this process is
// still the writer. When do or the commit fails, nothing is stored and the
// cached state is forgotten, to be read again from the tables.
func (l *Ledger) transact(ctx context.Context, do func(*fold, int64) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	booked := l.fold.booked
	err := l.try(ctx, do)
	if err != nil {
		l.fold.forget()
		if !refusal(err) {
			l.failed = err
		}
		return err
	}
	l.failed = nil
	l.last = l.clock()
	if l.fold.booked != booked {
		close(l.news)
		l.news = make(chan struct{})
	}
	return nil
}

// refusal reports whether err says that something was asked for which cannot
// be done, and nothing about whether the ledger can be written.
func refusal(err error) bool {
	return errors.Is(err, odometer.ErrNotFound) || errors.Is(err, odometer.ErrConflict) || errors.Is(err, odometer.ErrInvalid)
}

// Owns returns an error that wraps [ErrFenced] where another process has opened the
// ledger since, for whoever writes tables of his own into its file, in a transaction
// that has the file locked.
func (l *Ledger) Owns(ctx context.Context, tx *sql.Tx) error { return l.owns(ctx, tx) }

// owns returns ErrFenced where another process has opened the ledger since.
func (l *Ledger) owns(ctx context.Context, tx *sql.Tx) error {
	var token string
	if err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'writer'`).Scan(&token); err != nil {
		return err
	}
	if token != l.token {
		return ErrFenced
	}
	return nil
}

func (l *Ledger) try(ctx context.Context, do func(*fold, int64) error) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := l.owns(ctx, tx); err != nil {
		return err
	}
	if err := l.fold.begin(ctx, tx); err != nil {
		return err
	}
	if err := do(l.fold, l.clock().UnixMicro()); err != nil {
		return err
	}
	if err := l.fold.flush(); err != nil {
		return err
	}
	l.revisions.begin(l.fold.bookedIn)
	defer l.revisions.end()
	if err := tx.Commit(); err != nil {
		return err
	}
	l.fold.committed()
	return nil
}

// Stats are figures about the whole ledger.
type Stats struct {
	Ledger     odometer.LedgerID `json:"ledger_id"`
	Generation uint64            `json:"generation"`
	// Counts of events: by outcome, and "received" and "checkpoint".
	Counts     map[string]int64 `json:"counts"`
	Entries    int64            `json:"entries"`
	Instances  int64            `json:"instances"`
	Epochs     int64            `json:"epochs"`
	Quarantine int64            `json:"quarantine"` // not yet released
	LastCommit time.Time        `json:"last_commit"`
	// Err is why the last commit failed; "" when it went through.
	Err string `json:"error,omitempty"`
}

// Stats returns the ledger's figures as of the last commit.
func (l *Ledger) Stats(ctx context.Context) (Stats, error) {
	s := Stats{Counts: map[string]int64{"received": 0}}
	for _, o := range odometer.Outcomes {
		s.Counts[string(o)] = 0
	}
	rows, err := l.read.QueryContext(ctx, `SELECT outcome, sum(n) FROM counts GROUP BY outcome`)
	if err != nil {
		return s, fmt.Errorf("ledger statistics: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		var n int64
		if err := rows.Scan(&name, &n); err != nil {
			return s, fmt.Errorf("ledger statistics: %w", err)
		}
		s.Counts[name] = n
	}
	if err := rows.Err(); err != nil {
		return s, fmt.Errorf("ledger statistics: %w", err)
	}
	err = l.read.QueryRowContext(ctx, `SELECT
		(SELECT coalesce(sum(entry % ?), 0) FROM `+journalEnds+`),
		(SELECT count(DISTINCT instance) FROM epochs), (SELECT count(*) FROM epochs),
		(SELECT count(*) FROM quarantine WHERE released_us = 0)`, odometer.GenerationEntries).Scan(&s.Entries, &s.Instances, &s.Epochs, &s.Quarantine)
	if err != nil {
		return s, fmt.Errorf("ledger statistics: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Ledger, s.Generation, s.LastCommit = l.id, l.gen, l.last
	if l.failed != nil {
		s.Err = l.failed.Error()
	}
	return s, nil
}
