package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	_ "modernc.org/sqlite" // the embedded store
)

// schemaKnown is the version of the ledger's tables that this audit reads.
const schemaKnown = 2

// Why an audit could not run.
var (
	// ErrNotLedger says that the data directory holds no ledger.
	ErrNotLedger = errors.New("not a ledger")
	// ErrNewer says that the ledger was written by a newer version of this
	// program.
	ErrNewer = errors.New("the ledger was written by a newer version of odometer")
	// ErrOlder says that the ledger is of an older version, or on its way from
	// one, and can be read when it has been brought to this one.
	ErrOlder = errors.New("the ledger is not brought to this version of odometer yet; starting `odometer serve` does that")
)

// snapshot is one moment of a ledger: a read transaction. It blocks no
// writer and changes nothing.
type snapshot struct {
	db   *sql.DB
	conn *sql.Conn
	id   string // of the ledger
}

// openSnapshot opens the ledger in dir as of now. Still says that no server can
// start meanwhile.
func openSnapshot(ctx context.Context, dir string, still bool, busy time.Duration) (*snapshot, error) {
	return openSnapshotAt(ctx, filepath.Join(dir, "ledger.db"), still, busy)
}

// openSnapshotAt is openSnapshot of a file.
func openSnapshotAt(ctx context.Context, path string, still bool, busy time.Duration) (*snapshot, error) {
	_, err := os.Stat(path + "-wal")
	alone := still && errors.Is(err, fs.ErrNotExist)
	mode := "mode=ro"
	if alone {
		// Without a writer and a write-ahead log the file is all there is and
		// cannot change: SQLite then needs no files of its own beside it, for
		// which there may be no place.
		mode += "&immutable=1"
	}
	s, err := trySnapshot(ctx, path, fmt.Sprintf("%s&_pragma=busy_timeout(%d)", mode, busy.Milliseconds()))
	if err != nil {
		return nil, fmt.Errorf("open ledger %s: %w", path, err)
	}
	return s, nil
}

func trySnapshot(ctx context.Context, path, mode string) (_ *snapshot, err error) {
	if info, err := os.Stat(path); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("it is no file: %w", ErrNotLedger)
	}
	db, err := sql.Open("sqlite", "file:"+escapePath(path)+"?"+mode+"&_pragma=query_only(1)&_pragma=cache_size(-16000)")
	if err != nil {
		return nil, err
	}
	s := &snapshot{db: db}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if s.conn, err = db.Conn(ctx); err != nil {
		return nil, err
	}
	if _, err = s.conn.ExecContext(ctx, `BEGIN`); err != nil {
		return nil, err
	}
	// The first read fixes the moment.
	var tables int
	err = s.conn.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN ('meta', 'journal', 'epochs', 'hours')`).Scan(&tables)
	if err != nil {
		return nil, err
	}
	if tables != 4 {
		return nil, fmt.Errorf("it has not the tables of a ledger: %w", ErrNotLedger)
	}
	return s, s.identify(ctx)
}

// escapePath makes a path safe within an SQLite URI.
func escapePath(path string) string {
	var b []byte
	for i := range len(path) {
		switch c := path[i]; c {
		case '%', '?', '#':
			b = fmt.Appendf(b, "%%%02X", c)
		default:
			b = append(b, c)
		}
	}
	return string(b)
}

func (s *snapshot) identify(ctx context.Context) error {
	meta := func(key string) (value string, err error) {
		err = s.conn.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = ?`, key).Scan(&value)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("its table meta has no %s: %w", key, ErrNotLedger)
		}
		return value, err
	}
	text, err := meta("schema_version")
	if err != nil {
		return err
	}
	version, err := strconv.Atoi(text)
	switch {
	case err != nil || version < 1:
		return fmt.Errorf("schema version %q: %w", text, ErrNotLedger)
	case version > schemaKnown:
		return fmt.Errorf("tables of version %d, this program knows %d: %w", version, schemaKnown, ErrNewer)
	case version < schemaKnown:
		return fmt.Errorf("tables of version %d, this program reads %d: %w", version, schemaKnown, ErrOlder)
	}
	if _, err := meta("migration"); err == nil {
		return fmt.Errorf("its migration to version %d has not finished: %w", version, ErrOlder)
	} else if !errors.Is(err, ErrNotLedger) {
		return err
	}
	s.id, err = meta("ledger_id")
	return err
}

// flaws returns how the database contradicts itself: rows that an index does
// not find or says something else of, pages that cannot be. Queries go by
// indexes and the audit by tables, so that an audit of the tables alone would
// not see what a query misses. The pages of the journal's bodies are not
// looked at here: they are read with the journal.
func (s *snapshot) flaws(ctx context.Context) (flaws []string, err error) {
	var tables []string
	err = s.each(ctx, func(rows *sql.Rows) error {
		var name string
		err := rows.Scan(&name)
		tables = append(tables, name)
		return err
	}, `SELECT name FROM sqlite_master WHERE type = 'table' AND name <> 'journal' ORDER BY name`)
	if err != nil {
		return nil, fmt.Errorf("list the tables: %w", err)
	}
	for _, table := range tables {
		err := s.each(ctx, func(rows *sql.Rows) error {
			var flaw string
			err := rows.Scan(&flaw)
			if err == nil && flaw != "ok" {
				flaws = append(flaws, "table "+table+": "+flaw)
			}
			return err
		}, fmt.Sprintf(`PRAGMA integrity_check("%s")`, strings.ReplaceAll(table, `"`, `""`)))
		if err != nil {
			return nil, fmt.Errorf("check table %s: %w", table, err)
		}
	}
	more, err := s.journalIndexes(ctx)
	return append(flaws, more...), err
}

// journalIndexes checks that each row of the journal is found by every index
// that has it, and that the indexes have no other.
func (s *snapshot) journalIndexes(ctx context.Context) (flaws []string, err error) {
	columns := map[string][]string{}
	which := map[string]string{} // rows an index has
	err = s.each(ctx, func(rows *sql.Rows) error {
		var index, column, text string
		err := rows.Scan(&index, &column, &text)
		columns[index] = append(columns[index], column)
		which[index] = "true"
		if _, where, partial := strings.Cut(text, " WHERE "); partial {
			which[index] = where
		}
		return err
	}, `SELECT l.name, i.name, coalesce(m.sql, '') FROM pragma_index_list('journal') l, pragma_index_info(l.name) i
		JOIN sqlite_master m ON m.type = 'index' AND m.name = l.name ORDER BY l.name, i.seqno`)
	if err != nil {
		return nil, fmt.Errorf("list the journal's indexes: %w", err)
	}
	for _, index := range slices.Sorted(maps.Keys(columns)) {
		same := "k.id = j.id"
		for _, c := range columns[index] {
			same += fmt.Sprintf(" AND k.%s = j.%s", c, c)
		}
		var rows, has, lost int64
		err := s.conn.QueryRowContext(ctx, fmt.Sprintf(`SELECT (SELECT count(*) FROM journal NOT INDEXED WHERE %[4]s),
			(SELECT count(*) FROM journal INDEXED BY %[1]s WHERE %[2]s > -9e18 AND %[4]s),
			(SELECT count(*) FROM journal j NOT INDEXED WHERE %[4]s AND NOT EXISTS (SELECT 1 FROM journal k INDEXED BY %[1]s WHERE %[3]s AND %[4]s))`,
			index, columns[index][0], same, which[index])).Scan(&rows, &has, &lost)
		if err != nil {
			return nil, fmt.Errorf("check the journal's index %s: %w", index, err)
		}
		if has != rows || lost > 0 {
			flaws = append(flaws, fmt.Sprintf("table journal: of %d rows %d are not found by index %s, which has %d", rows, lost, index, has))
		}
	}
	return flaws, nil
}

// each calls row for every row of a query.
func (s *snapshot) each(ctx context.Context, row func(*sql.Rows) error, query string, args ...any) error {
	rows, err := s.conn.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := row(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (s *snapshot) close() {
	if s.conn != nil {
		s.conn.Close() // ends the transaction with the connection
	}
	s.db.Close()
}

// lockData takes the lock of a data directory as a reader, so that no server
// starts meanwhile. It returns a nil file where a server runs, and where the
// directory was never served from and has no lock to take.
func lockData(dir string) (lock *os.File, running bool, err error) {
	f, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, true, nil
		}
		return nil, false, fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return f, false, nil
}
