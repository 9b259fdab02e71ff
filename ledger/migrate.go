package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"example.org/odometer"
)

// A ledger of an older schema version is migrated when it is opened for
// writing, version by version. Each version is reached in steps, and each
// step works in transactions of bounded size: what it has done is noted in
// the same transaction, so that a process which is killed at any moment, and
// a disk that fills up, leave a ledger which the next Open goes on with. A
// step leaves the old tables as they are until the new ones are complete.
//
// While a migration is under way, meta has the version that it leads to, so
// that an older program leaves the ledger alone, and a row 'migration' that
// says how far it has come; readers refuse such a ledger with [ErrMigrating].
// Before the first change the file is copied: ledger.db.v1-20261127T072054Z
// beside it is the ledger as the older version left it.

// SchemaVersion is the version of the tables that this program writes.
const SchemaVersion = 2

// migrations lead from each version to the next.
var migrations = map[int][]step{
	1: {
		{"heads of a pruned journal", addHeads},
		{"state of epochs", copyState},
		{"identity of epochs", splitEpochs},
		{"generations", addGenerations},
		{"checksums of the journal", addChecksums},
		{"tables of months and owners", addPacked},
		{"indexes of the journal by time", indexJournalByTime},
		{"months and owners from days", packDays},
		{"owners of pieces", ownersOfPieces},
		{"receipts of own partitions", addHomes},
		{"reversals of entries", addReversals},
		{"handovers of epochs", addHandovers},
		{"lifecycle of instances", addLifecycle},
		{"where a feed reads back from", addFeedBack},
		{"owners of instances", addOwnership},
		{"months that are closed", addMonths},
	},
}

// step is a part of a migration. Its name says how far a migration has come:
// it is unique within the version and never changes.
type step struct {
	name string
	// do makes one transaction's worth of the change in tx and returns where to
	// go on from, which is given to the next call: "" at the first, and
	// returned when the step is complete. It writes some thousand rows at most.
	do func(ctx context.Context, tx *sql.Tx, from string) (next string, err error)
}

// Why a ledger cannot be read, or not yet.
var (
	// ErrNewer says that the ledger was written by a newer version of this
	// program; it is left untouched.
	ErrNewer = errors.New("the ledger was written by a newer version of odometer")
	// ErrOlder says that the ledger is of an older schema version and was not
	// migrated yet.
	ErrOlder = errors.New("the ledger was written by an older version of odometer; starting `odometer serve` brings it to this one")
	// ErrMigrating says that the ledger is on its way from one schema version
	// to the next.
	ErrMigrating = errors.New("the ledger is being migrated, or its migration was interrupted; `odometer serve` completes it")
)

// migration is what meta says while one is under way.
type migration struct {
	From   int    `json:"from"`
	To     int    `json:"to"`
	Step   string `json:"step"`
	At     string `json:"at"`     // in the step
	Backup string `json:"backup"` // file name of the copy that was made before
}

// migrate creates the tables of an empty database, brings those of an older
// version to this one, and refuses those of a version that it does not know.
func (l *Ledger) migrate(ctx context.Context, o *Options) error {
	var n int
	if err := l.write.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table'`).Scan(&n); err != nil {
		return err
	}
	if n == 0 {
		return l.create(ctx)
	}
	began := time.Now()
	backup := ""
	for {
		version, under, err := schemaOf(ctx, l.write)
		switch {
		case err != nil:
			return err
		case version > SchemaVersion:
			return fmt.Errorf("tables of version %d, this program knows %d: %w", version, SchemaVersion, ErrNewer)
		case under != nil:
			if backup == "" {
				l.logger.Info("going on with the ledger's migration", "from", under.From, "to", under.To, "step", under.Step, "backup", under.Backup)
			}
		case version == SchemaVersion:
			if backup != "" {
				l.logger.Info("the ledger is migrated", "version", version, "took", time.Since(began).Round(time.Millisecond), "backup", backup)
			}
			return nil
		default:
			if backup == "" {
				if backup, err = l.copyBefore(ctx, o, version); err != nil {
					return fmt.Errorf("copy the ledger before it is migrated: %w", err)
				}
			}
			under = &migration{From: version, To: version + 1, Step: migrations[version][0].name, Backup: backup}
			if err := l.beginMigration(ctx, o, under); err != nil {
				return fmt.Errorf("begin the migration to version %d: %w", under.To, err)
			}
		}
		backup = under.Backup
		for done := false; !done; {
			if done, err = l.migrateOn(ctx, o); err != nil {
				return fmt.Errorf("migrate to version %d (what is done is kept, opening it again goes on): %w", under.To, err)
			}
		}
	}
}

// create makes the tables of a new ledger.
func (l *Ledger) create(ctx context.Context) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, schema); err != nil {
		return fmt.Errorf("create tables: %w", err)
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ('schema_version', ?), ('ledger_id', ?), ('generation', '1'), ('writer', '')`,
		strconv.Itoa(SchemaVersion), randomHex(l.random))
	if err != nil {
		return err
	}
	return tx.Commit()
}

// schemaOf returns the version of the tables, and how far their migration to
// it has come where one is under way.
func schemaOf(ctx context.Context, db queryer) (version int, under *migration, err error) {
	var text string
	if err := db.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'schema_version'`).Scan(&text); err != nil {
		return 0, nil, fmt.Errorf("this is not a ledger: %w", err)
	}
	if version, err = strconv.Atoi(text); err != nil || version < 1 {
		return 0, nil, fmt.Errorf("this is not a ledger: schema version %q", text)
	}
	err = db.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'migration'`).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return version, nil, nil
	}
	under = new(migration)
	if err == nil {
		err = json.Unmarshal([]byte(text), under)
	}
	if err == nil && (under.To != version || under.From != version-1) {
		err = fmt.Errorf("it leads from version %d to %d: %w", under.From, under.To, odometer.ErrInvalid)
	}
	if err != nil {
		return version, nil, fmt.Errorf("how far the migration has come: %w", err)
	}
	return version, under, nil
}

// readable returns nil where the tables are of this version, and otherwise
// why they cannot be read: for those that do not migrate.
func readable(ctx context.Context, db queryer) error {
	version, under, err := schemaOf(ctx, db)
	switch {
	case err != nil:
		return err
	case version > SchemaVersion:
		return fmt.Errorf("tables of version %d, this program knows %d: %w", version, SchemaVersion, ErrNewer)
	case under != nil:
		return fmt.Errorf("from version %d to %d: %w", under.From, under.To, ErrMigrating)
	case version < SchemaVersion:
		return fmt.Errorf("tables of version %d, this program reads %d: %w", version, SchemaVersion, ErrOlder)
	}
	return nil
}

// beginMigration raises the version and notes that nothing is done yet. A
// process of the older version that still has the ledger open is fenced off.
func (l *Ledger) beginMigration(ctx context.Context, o *Options, m *migration) error {
	return l.migrating(ctx, o, func(tx *sql.Tx) error {
		version, under, err := schemaOf(ctx, tx)
		if err != nil {
			return err
		}
		if version != m.From || under != nil {
			return nil // another process was faster
		}
		if _, err := tx.ExecContext(ctx, `UPDATE meta SET value = ? WHERE key = 'schema_version'`, strconv.Itoa(m.To)); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `UPDATE meta SET value = ? WHERE key = 'writer'`, randomHex(l.random)); err != nil {
			return err
		}
		return noteMigration(ctx, tx, m)
	})
}

// migrateOn makes the next transaction of the migration under way and reports
// whether it was the last.
func (l *Ledger) migrateOn(ctx context.Context, o *Options) (done bool, err error) {
	err = l.migrating(ctx, o, func(tx *sql.Tx) error {
		_, m, err := schemaOf(ctx, tx)
		if err != nil {
			return err
		}
		if m == nil {
			done = true
			return nil
		}
		steps := migrations[m.From]
		at := 0
		for at < len(steps) && steps[at].name != m.Step {
			at++
		}
		if at == len(steps) {
			return fmt.Errorf("step %q is not known to this program: %w", m.Step, ErrNewer)
		}
		if m.At, err = steps[at].do(ctx, tx, m.At); err != nil {
			return fmt.Errorf("step %q: %w", m.Step, err)
		}
		if m.At == "" {
			if at++; at == len(steps) {
				done = true
				_, err := tx.ExecContext(ctx, `DELETE FROM meta WHERE key = 'migration'`)
				return err
			}
			m.Step = steps[at].name
		}
		return noteMigration(ctx, tx, m)
	})
	return done, err
}

func noteMigration(ctx context.Context, tx *sql.Tx, m *migration) error {
	text, err := json.Marshal(m)
	if err == nil {
		_, err = tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ('migration', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, string(text))
	}
	return err
}

// migrating runs do in one transaction.
func (l *Ledger) migrating(ctx context.Context, o *Options, do func(*sql.Tx) error) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	if err := o.at("before commit"); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	return o.at("after commit")
}

// at passes a point at which a test may let the work fail or the process die.
func (o *Options) at(point string) error {
	if o.point == nil {
		return nil
	}
	return o.point(point)
}

// copyBefore copies the ledger beside itself and returns the name of the
// copy. There must be room for the copy and for the new tables beside the
// old ones.
func (l *Ledger) copyBefore(ctx context.Context, o *Options, version int) (string, error) {
	size, err := databaseSize(ctx, l.write)
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(o.Path)
	free := o.free
	if free == nil {
		free = freeSpace
	}
	have, err := free(dir)
	if err != nil {
		return "", err
	}
	if need := 2*size + 1<<20; have < need {
		return "", fmt.Errorf("%s has %d MiB free, %d MiB are needed for a copy of the ledger and for its new tables: %w", dir, have>>20, need>>20, unix.ENOSPC)
	}
	name := fmt.Sprintf("%s.v%d-%s", filepath.Base(o.Path), version, o.Clock().UTC().Format("20060102T150405Z"))
	for n, first := 2, name; exists(filepath.Join(dir, name)); n++ { // killed after the copy and started again within a second
		name = fmt.Sprintf("%s-%d", first, n)
	}
	l.logger.Info("the ledger is of an older version: it is copied and then migrated", "from", version, "to", SchemaVersion, "backup", name)
	if err := copyDatabase(ctx, l.write, filepath.Join(dir, name), o.at); err != nil {
		return "", err
	}
	return name, nil
}

// databaseSize returns the bytes that a database takes.
func databaseSize(ctx context.Context, db queryer) (int64, error) {
	var pages, size int64
	if err := db.QueryRowContext(ctx, `SELECT page_count, page_size FROM pragma_page_count, pragma_page_size`).Scan(&pages, &size); err != nil {
		return 0, fmt.Errorf("size of the database: %w", err)
	}
	return pages * size, nil
}

// freeSpace returns the bytes that may still be written below dir.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

// execer is what a connection, a database and a transaction have in common.
type execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// copyDatabase writes one moment of db to a new file at path, mode 0600. It
// is there in full, durably, or not at all; beside it a .tmp may be left by a
// crash, which the next copy to that path replaces. It blocks no writer.
func copyDatabase(ctx context.Context, db execer, path string, at func(string) error) (err error) {
	if exists(path) {
		return fmt.Errorf("%s is there already: %w", path, odometer.ErrConflict)
	}
	tmp := path + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // VACUUM takes an empty file, and leaves its mode
	if err != nil {
		return err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(tmp)
		}
	}()
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, tmp); err != nil {
		return err
	}
	if err := at("copied"); err != nil {
		return err
	}
	// The content before the name: SQLite does not sync what VACUUM INTO writes.
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// exists reports whether there is anything at path, or it cannot be known.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// addHeads makes the tables of a pruned journal, empty.
func addHeads(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE heads (
  partition INTEGER PRIMARY KEY,
  position  INTEGER NOT NULL,
  body      BLOB    NOT NULL,
  key       BLOB    NOT NULL,
  signature BLOB    NOT NULL
)`)
	return "", err
}

// addGenerations makes the table of generations. Whatever was restored by the
// older version left no trace in the journal and is not in it.
func addGenerations(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE generations (
  partition  INTEGER NOT NULL,
  generation INTEGER NOT NULL,
  position   INTEGER NOT NULL,
  entry      INTEGER NOT NULL,
  PRIMARY KEY (partition, generation)
)`)
	return "", err
}

// addFeedBack has each feed read back from the message that it noted.
func addFeedBack(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `ALTER TABLE feed_stream ADD COLUMN back INTEGER NOT NULL DEFAULT 0; UPDATE feed_stream SET back = seq`)
	return "", err
}

// addReversals makes the table of reversals, empty: version 1 had none.
func addReversals(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE reversals (
  partition INTEGER NOT NULL,
  entry     INTEGER NOT NULL,
  by_entry  INTEGER NOT NULL,
  recovered INTEGER NOT NULL,
  PRIMARY KEY (partition, entry),
  UNIQUE (partition, by_entry)
)`)
	return "", err
}
