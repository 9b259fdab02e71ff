package notify

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"database/sql"
	_ "embed"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/outward"
	"modernc.org/sqlite"
	sqlitecode "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schema string

// SchemaVersion is the version of the tables that this program writes. It is not the
// ledger's.
const SchemaVersion = 1

// ErrNewer says that a newer version of this program wrote the tables of notifications;
// they are left untouched.
var ErrNewer = errors.New("the tables of notifications were written by a newer version of odometer")

const (
	// attemptWithin bounds an attempt. Standard Webhooks advises 15 to 30 s; who is to
	// take a message and work on it later needs none of that, and what hangs holds a
	// place among few.
	attemptWithin = 10 * time.Second
	// claimFor is how long a claim lasts: an attempt and what recording it may take.
	claimFor = attemptWithin + 5*time.Second
	// answerRead is how much of an answer is read, so that its connection can be used
	// again, and answerKept how much of that is kept.
	answerRead = 64 << 10
	answerKept = 512
	// lockWait is how long a transaction waits for a database that is locked, as the
	// ledger does.
	lockWait = 5 * time.Second
)

// Changes are the changes of violations, in the order of their numbers.
type Changes interface {
	// ChangesAfter returns at most limit changes whose numbers follow.
	ChangesAfter(ctx context.Context, number uint64, limit int) ([]odometer.Violation, error)
	// News returns a channel that is closed at the next change. Whoever takes it
	// before he reads misses nothing.
	News() <-chan struct{}
}

// Entries are the ledger's, for webhooks of usage.
type Entries interface {
	Follow(ctx context.Context, q odometer.EntryQuery) (list []odometer.Followed, next string, err error)
	News() <-chan struct{}
	// End returns the cursor after everything that is booked.
	End(ctx context.Context) (cursor string, err error)
	// Removed returns how many records of the ledger's journal between two cursors were
	// pruned: Follow leaves them out.
	Removed(ctx context.Context, after, upTo string) (records int64, err error)
}

// Options say where notifications lie and what they follow.
type Options struct {
	Path    string // of the ledger's file, which is there
	Key     []byte // 32 bytes, that secrets are sealed with; kept outside of that file
	Changes Changes
	Entries Entries

	// Owns returns an error where another process has opened the ledger since.
	Owns func(context.Context, *sql.Tx) error
	// Note writes a line of the audit log in the transaction of what it says. Nil for
	// none.
	Note func(ctx context.Context, tx *sql.Tx, by odometer.Actor, action odometer.Action, object, detail string) error
	// Namer returns the name of a threshold that names a channel of a holder, in the
	// transaction that would take the channel away; "" for none. Nil knows of none.
	Namer func(ctx context.Context, tx *sql.Tx, holder odometer.Bound, id odometer.ChannelID) (name string, err error)
	// View returns what a holder may see now. When nil that is what is his own, without
	// what membership and grants show a user.
	View func(context.Context, odometer.Bound) (odometer.View, error)

	Allow    []netip.Prefix // ranges that tenants' URLs may lead to beside the public internet
	Resolver *net.Resolver  // the system's when nil
	TLS      *tls.Config    // whom receivers are trusted by; the system's when nil
	SMTP     SMTP           // the server for e-mail, without an address for none

	Clock  func() time.Time // time.Now when nil
	Logger *slog.Logger     // discarded when nil
	Driver string           // of database/sql; "sqlite" when empty
	Wait   time.Duration    // for a database that is locked; 5 s when zero

	synchronous string        // of SQLite; FULL when empty; tests
	within      time.Duration // an attempt; attemptWithin when zero; tests
}

// Notifier keeps channels and delivers. Its methods may be called at once; Run is
// called once.
type Notifier struct {
	o      Options
	db     *sql.DB
	clock  func() time.Time
	logger *slog.Logger
	guard  *outward.Guard
	client *http.Client
	seal   *sealer

	keepMost   int
	usagePause time.Duration

	wake    chan struct{} // has a value when there may be something to do
	results chan result   // of attempts
	flight  sync.WaitGroup

	mu        sync.Mutex // guards what follows
	endpoints map[odometer.ChannelID]*endpoint
	counts    map[Count]int64
	failing   string // why the last round failed, "" where it did not
	figures   Stats  // without what is counted in memory

	// Of the rounds alone.
	pending []result  // that are not on record yet
	counted time.Time // when it is counted again
	trimmed time.Time // when it is trimmed again
	alerts  bool      // there may be some that are open at an Alertmanager
	retold  time.Time // when Alertmanagers are told again what is open
	looked  time.Time // for entries of usage, last
	seenTo  map[odometer.ChannelID]position
}

// Open opens the notifications in the ledger's file, creating their tables where there
// are none. An error that wraps [ErrNewer] says that they are of a newer version.
func Open(ctx context.Context, o Options) (*Notifier, error) {
	n := &Notifier{
		o: o, clock: o.Clock, logger: o.Logger, guard: outward.NewGuard(o.Allow...), keepMost: keepMost, usagePause: usagePause,
		wake: make(chan struct{}, 1), results: make(chan result, maxFlight), endpoints: map[odometer.ChannelID]*endpoint{}, counts: map[Count]int64{}, seenTo: map[odometer.ChannelID]position{}, alerts: true,
	}
	if n.clock == nil {
		n.clock = time.Now
	}
	if n.logger == nil {
		n.logger = slog.New(slog.DiscardHandler)
	}
	n.client = outward.Client(outward.Options{Guard: n.guard, Within: cmp.Or(o.within, attemptWithin), TLS: o.TLS, Resolver: o.Resolver})
	err := n.open(ctx)
	if err != nil {
		if n.db != nil {
			n.db.Close()
		}
		return nil, fmt.Errorf("open the notifications in %s: %w", o.Path, err)
	}
	return n, nil
}

func (n *Notifier) open(ctx context.Context) (err error) {
	if n.seal, err = newSealer(n.o.Key); err != nil {
		return err
	}
	// As the ledger has it: what was claimed and recorded is there after a power cut.
	n.db, err = sql.Open(cmp.Or(n.o.Driver, "sqlite"), "file:"+n.o.Path+"?_txlock=immediate&_pragma=busy_timeout("+strconv.FormatInt(cmp.Or(n.o.Wait, lockWait).Milliseconds(), 10)+
		")&_pragma=journal_mode(WAL)&_pragma=synchronous("+cmp.Or(n.o.synchronous, "FULL")+")&_pragma=cache_size(-1000)&_pragma=wal_autocheckpoint(8192)&_pragma=secure_delete(1)")
	if err != nil {
		return err
	}
	n.db.SetMaxOpenConns(4) // while one change waits, others read
	return n.transact(ctx, func(tx *sql.Tx) error {
		var tables int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'notify_meta'`).Scan(&tables); err != nil {
			return err
		}
		if tables == 0 {
			if _, err := tx.ExecContext(ctx, schema); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO notify_meta (key, value) VALUES ('schema_version', ?), ('changes', '0')`, strconv.Itoa(SchemaVersion))
			return err
		}
		version, err := metaNumber(ctx, tx, "schema_version")
		if err == nil && version != SchemaVersion {
			err = fmt.Errorf("tables of version %d, this program knows %d: %w", version, SchemaVersion, ErrNewer)
		}
		return err
	})
}

func metaNumber(ctx context.Context, tx *sql.Tx, key string) (uint64, error) {
	var text string
	if err := tx.QueryRowContext(ctx, `SELECT value FROM notify_meta WHERE key = ?`, key).Scan(&text); err != nil {
		return 0, fmt.Errorf("%s of notifications: %w", key, err)
	}
	number, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s of notifications: %w", key, err)
	}
	return number, nil
}

// Close closes the file. Run has returned by then.
func (n *Notifier) Close() error {
	n.client.CloseIdleConnections()
	return n.db.Close()
}

// transact writes under the ledger's fence: nothing where another process has the ledger.
func (n *Notifier) transact(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := n.db.BeginTx(ctx, nil)
	if err != nil {
		return unavailable(err)
	}
	defer tx.Rollback()
	if n.o.Owns != nil {
		if err := n.o.Owns(ctx, tx); err != nil {
			return unavailable(err)
		}
	}
	if err := do(tx); err != nil {
		return unavailable(err)
	}
	return unavailable(tx.Commit())
}

// unavailable makes an error of SQLite that passes, or that somebody has to see to, an
// [odometer.ErrUnavailable]: the disk is full, the file is locked.
func unavailable(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if ok && slices.Contains([]int{
		sqlitecode.SQLITE_FULL, sqlitecode.SQLITE_BUSY, sqlitecode.SQLITE_LOCKED, sqlitecode.SQLITE_IOERR, sqlitecode.SQLITE_READONLY, sqlitecode.SQLITE_CANTOPEN,
	}, e.Code()&0xff) {
		return fmt.Errorf("%w: %w", odometer.ErrUnavailable, err)
	}
	return err
}

// permanent reports whether the ledger marks an error as one that stays.
func permanent(err error) bool {
	p, ok := errors.AsType[interface {
		error
		Permanent() bool
	}](err)
	return ok && p.Permanent()
}

// note writes a line of the audit log in a transaction.
func (n *Notifier) note(ctx context.Context, tx *sql.Tx, by odometer.Actor, action odometer.Action, object, detail string) error {
	if n.o.Note == nil {
		return nil
	}
	return n.o.Note(ctx, tx, by, action, object, detail)
}

// now returns the time in microseconds, which is all that is stored of it.
func (n *Notifier) now() int64 { return n.clock().UnixMicro() }

// poke wakes Run.
func (n *Notifier) poke() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// newID returns an id of so many characters, of 5 random bits each.
func newID(prefix string, chars int) string {
	b := make([]byte, (chars*5+7)/8)
	rand.Read(b) // never fails
	return idOf(prefix, b, chars)
}

// idOf returns an id of so many characters of the bits of b.
func idOf(prefix string, b []byte, chars int) string {
	return prefix + strings.ToLower(base32.StdEncoding.EncodeToString(b))[:chars]
}

// moment is the time of a column, zero for 0.
func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}

// flag is a condition as a column has it.
func flag(b bool) int {
	if b {
		return 1
	}
	return 0
}
