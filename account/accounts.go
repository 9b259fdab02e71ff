package account

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"sync"
	"time"

	"example.org/odometer"
	"modernc.org/sqlite"
	sqlitecode "modernc.org/sqlite/lib"
)

//go:embed accounts.sql
var accountsSchema string // of version 1; what later ones add is added by the migrations

//go:embed people.sql
var peopleSchema string

// AccountsVersion is the version of the tables of accounts that this program
// writes. It is not the ledger's.
const AccountsVersion = 4

// accountsMigrations[n] leads from version n to n+1, in one transaction.
var accountsMigrations = map[int]func(context.Context, *sql.Tx) error{
	1: addPeople,
	2: addHostsGrantsAndIdentities,
	3: addRegistered,
}

func addPeople(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, peopleSchema)
	return err
}

func addHostsGrantsAndIdentities(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, hostsSchema)
	if err == nil {
		_, err = tx.ExecContext(ctx, grantsSchema+identitiesSchema)
	}
	return err
}

func addRegistered(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, registeredSchema)
	return err
}

// ErrNewerAccounts says that a newer version of this program wrote the tables of
// accounts; they are left untouched.
var ErrNewerAccounts = errors.New("the tables of accounts were written by a newer version of odometer")

const (
	// MaxTokens bounds the tokens that are valid at a time: each is held in
	// memory.
	MaxTokens = 10_000
	// MaxUserTokens bounds those of one user, so that nobody takes what all have.
	MaxUserTokens = 100
	// saveUsed is how often it is written when tokens were last used.
	saveUsed = time.Minute
	// lockWait is how long a change waits for a database that is locked, as the
	// ledger does: a request may take six times as long.
	lockWait = 5 * time.Second
	// saveLast bounds how long the last time takes, while the process ends.
	saveLast = time.Second
)

// AccountsOptions say where accounts lie.
type AccountsOptions struct {
	Path   string           // of the ledger's file, which is there
	Clock  func() time.Time // time.Now when nil
	Logger *slog.Logger     // discarded when nil
	Random io.Reader        // what ids and secrets are drawn from; crypto/rand when nil
	Driver string           // of database/sql; "sqlite" when empty
	Wait   time.Duration    // for a database that is locked; 5 s when zero

	maxTokens, maxHosts int // tests
}

// Accounts knows tokens, users and organisations, grants, identities, hosts and
// consumers, and keeps the audit log. Its methods may be called at once. One process has them open: it is the one that has the ledger open.
type Accounts struct {
	db        *sql.DB
	clock     func() time.Time
	logger    *slog.Logger
	random    io.Reader
	maxTokens int
	maxHosts  int

	changing chan struct{} // has a value while people are changed

	mu     sync.RWMutex // guards what follows; never held over a look at the disk
	valid  map[short]*held
	people people
	unsure bool                           // what is stored of people could not be read after a change
	keys   map[odometer.Key]odometer.Peer // that are not revoked
	hosts  map[odometer.AgentID]bool      // that are or were enrolled
}

// OpenAccounts opens the accounts in the ledger's file, creating their tables
// where there are none and bringing older ones to this version. An error that
// wraps [ErrNewerAccounts] says that they are of a newer one.
func OpenAccounts(ctx context.Context, o AccountsOptions) (*Accounts, error) {
	a := &Accounts{
		clock: o.Clock, logger: o.Logger, random: o.Random, maxTokens: cmp.Or(o.maxTokens, MaxTokens), maxHosts: cmp.Or(o.maxHosts, MaxHosts),
		valid: map[short]*held{}, keys: map[odometer.Key]odometer.Peer{}, hosts: map[odometer.AgentID]bool{}, changing: make(chan struct{}, 1),
	}
	if a.clock == nil {
		a.clock = time.Now
	}
	if a.logger == nil {
		a.logger = slog.New(slog.DiscardHandler)
	}
	if a.random == nil {
		a.random = rand.Reader
	}
	err := a.open(ctx, &o)
	if err != nil {
		if a.db != nil {
			a.db.Close()
		}
		return nil, fmt.Errorf("open the accounts in %s: %w", o.Path, err)
	}
	return a, nil
}

func (a *Accounts) open(ctx context.Context, o *AccountsOptions) (err error) {
	// As the ledger has it: a token that was answered is there after a power cut,
	// and the log's pages are copied to the file as seldom. What is erased is
	// overwritten: names go for good.
	a.db, err = sql.Open(cmp.Or(o.Driver, "sqlite"), "file:"+o.Path+"?_txlock=immediate&_pragma=busy_timeout("+
		strconv.FormatInt(cmp.Or(o.Wait, lockWait).Milliseconds(), 10)+
		")&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=cache_size(-1000)&_pragma=wal_autocheckpoint(8192)&_pragma=secure_delete(1)")
	if err != nil {
		return err
	}
	a.db.SetMaxOpenConns(4) // while one change waits, others read
	if err := a.migrate(ctx); err != nil {
		return err
	}
	for _, load := range []func(context.Context) error{a.load, a.loadPeople, a.loadIdentities, a.loadHosts, a.loadConsumers} {
		if err := load(ctx); err != nil {
			return unavailable(err)
		}
	}
	return nil
}

// migrate brings the tables to this version, creating them where there are none.
func (a *Accounts) migrate(ctx context.Context) error {
	return a.transact(ctx, func(tx *sql.Tx) error {
		var tables int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'account_meta'`).Scan(&tables); err != nil {
			return err
		}
		if tables == 0 {
			if _, err := tx.ExecContext(ctx, accountsSchema); err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO account_meta (key, value) VALUES ('schema_version', '1')`); err != nil {
				return err
			}
		}
		var text string
		if err := tx.QueryRowContext(ctx, `SELECT value FROM account_meta WHERE key = 'schema_version'`).Scan(&text); err != nil {
			return fmt.Errorf("their version: %w", err)
		}
		version, err := strconv.Atoi(text)
		if err != nil || version < 1 {
			return fmt.Errorf("their version is %q, which is no number", text)
		}
		if version > AccountsVersion {
			return fmt.Errorf("tables of version %d, this program knows %d: %w", version, AccountsVersion, ErrNewerAccounts)
		}
		if version == AccountsVersion {
			return nil
		}
		for ; version < AccountsVersion; version++ {
			if err := accountsMigrations[version](ctx, tx); err != nil {
				return fmt.Errorf("migrate from version %d: %w", version, err)
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE account_meta SET value = ? WHERE key = 'schema_version'`, strconv.Itoa(AccountsVersion))
		return err
	})
}

// Close closes the file. When tokens were used since Run wrote it last is lost.
func (a *Accounts) Close() error { return a.db.Close() }

// Run writes when tokens were last used, once a minute and when ctx is done, and
// looks again for what could not be read.
func (a *Accounts) Run(ctx context.Context) error {
	tick := time.NewTicker(saveUsed)
	defer tick.Stop()
	failed := false
	save := func(within time.Duration) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
		defer cancel()
		err := a.saveUsed(ctx)
		if err != nil && !failed { // once, while it lasts
			a.logger.Warn("it cannot be written when tokens were last used; trying again", "err", err)
		}
		failed = err != nil
	}
	for {
		select {
		case <-tick.C:
			save(saveUsed / 2)
			if err := a.lookAgain(ctx); err != nil {
				a.logger.Error("users and organisations cannot be read; trying again", "err", err)
			}
		case <-ctx.Done():
			save(saveLast)
			return nil
		}
	}
}

func (a *Accounts) transact(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := a.db.BeginTx(ctx, nil)
	if err != nil {
		return unavailable(err)
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return unavailable(err)
	}
	return unavailable(tx.Commit())
}

// unavailable makes an error of SQLite that passes, or that somebody has to see
// to, an [odometer.ErrUnavailable]: the disk is full, the file is locked.
func unavailable(err error) error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if ok && slices.Contains([]int{
		sqlitecode.SQLITE_FULL, sqlitecode.SQLITE_BUSY, sqlitecode.SQLITE_LOCKED, sqlitecode.SQLITE_IOERR, sqlitecode.SQLITE_READONLY, sqlitecode.SQLITE_CANTOPEN,
	}, e.Code()&0xff) {
		return fmt.Errorf("%w: %w", odometer.ErrUnavailable, err)
	}
	return err
}
