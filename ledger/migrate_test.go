package ledger

import (
	"bytes"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
)

// goldenNow is a time after the golden story.
var goldenNow = time.UnixMicro(base + 1000*odometer.HourMicros)

func openGolden(t *testing.T, path string, point func(string) error) (*Ledger, error) {
	t.Helper()
	return Open(t.Context(), Options{Path: path, Clock: func() time.Time { return goldenNow }, point: point})
}

// tablesOf describes the tables and indexes of a database.
func tablesOf(t *testing.T, db *sql.DB) []string {
	t.Helper()
	rows, err := db.Query(`SELECT m.type || ' ' || m.name || ': ' || group_concat(c.name || ' ' || c.type || ' ' || c."notnull" || ' ' || coalesce(c.dflt_value, '-') || ' ' || c.pk, ', ')
		FROM sqlite_master m JOIN pragma_table_xinfo(m.name) c WHERE m.type = 'table' GROUP BY m.name
		UNION ALL SELECT 'index of ' || m.name || ': ' || i."unique" || i.origin || i.partial || ' ' || (SELECT group_concat(coalesce(x.name, '-')) FROM pragma_index_xinfo(i.name) x)
		FROM sqlite_master m JOIN pragma_index_list(m.name) i WHERE m.type = 'table' ORDER BY 1`)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var list []string
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	return list
}

// TestMigratedTablesAreThoseOfANewLedger migrates the golden ledger of each
// version: no table, column or index differs from a ledger made by this one.
func TestMigratedTablesAreThoseOfANewLedger(t *testing.T) {
	fresh := newDesk(t)
	want := tablesOf(t, fresh.write)
	for version := 1; version < SchemaVersion; version++ {
		l, err := openGolden(t, unpackGolden(t, version), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if got := tablesOf(t, l.write); !slices.Equal(got, want) {
			t.Errorf("from version %d: got\n%s\nwant\n%s", version, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

// TestMigrationKeepsACopy finds the ledger as it was beside the migrated one.
func TestMigrationKeepsACopy(t *testing.T) {
	path := unpackGolden(t, 1)
	var log bytes.Buffer
	l, err := Open(t.Context(), Options{Path: path, Clock: func() time.Time { return goldenNow }, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	name := "ledger.db.v1-" + goldenNow.UTC().Format("20060102T150405Z")
	copied, err := connect(filepath.Join(filepath.Dir(path), name), "ro", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	was, err := connect(unpackGolden(t, 1), "ro", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer was.Close()
	if got, want := tablesOf(t, copied), tablesOf(t, was); !slices.Equal(got, want) {
		t.Errorf("tables of the copy: got %q, want %q", got, want)
	}
	var version string
	var records, want int
	err = errors.Join(copied.QueryRow(`SELECT value, (SELECT count(*) FROM journal) FROM meta WHERE key = 'schema_version'`).Scan(&version, &records),
		was.QueryRow(`SELECT count(*) FROM journal`).Scan(&want))
	if err != nil || version != "1" || records != want {
		t.Errorf("copy: got version %s with %d records, %v, want version 1 with %d", version, records, err, want)
	}
	if info, err := os.Stat(filepath.Join(filepath.Dir(path), name)); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode of the copy: got %v, %v, want 0600", info, err)
	}
	for _, want := range []string{name, "it is copied and then migrated", "the ledger is migrated"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log: got %q, want it to say %q", log.String(), want)
		}
	}
}

func TestMigrationNeedsRoom(t *testing.T) {
	path := unpackGolden(t, 1)
	before, _ := os.ReadFile(path)
	_, err := Open(t.Context(), Options{Path: path, free: func(string) (int64, error) { return int64(len(before)), nil }})
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "MiB are needed") {
		t.Errorf("got %v, want %v and how much is needed", err, syscall.ENOSPC)
	}
	left, _ := filepath.Glob(path + ".*")
	if after, _ := os.ReadFile(path); !bytes.Equal(before, after) || len(left) != 0 {
		t.Errorf("the ledger was touched, or %q left behind", left)
	}
}

// settled checks that the ledger at path answers as the golden one of version
// 1, after the migration was interrupted in the way that how says.
func settled(t *testing.T, path, how string, want account) {
	t.Helper()
	d := &desk{t: t, path: path, now: goldenNow}
	d.reopen()
	defer d.Close()
	compareAccounts(t, d.account(), want)
	d.proven()
	if t.Failed() {
		t.Fatalf("after %s", how)
	}
	if left, _ := filepath.Glob(path + "*.tmp"); len(left) != 0 {
		t.Fatalf("after %s: %q left behind", how, left)
	}
}

// refused checks that who only reads says why it does not, whatever stage an
// interrupted migration has reached.
func refused(t *testing.T, path, how string) {
	t.Helper()
	_, err := Rebuild(t.Context(), path, nil)
	if err != nil && !errors.Is(err, ErrOlder) && !errors.Is(err, ErrMigrating) {
		t.Fatalf("a reader after %s: got %v, want %v or %v", how, err, ErrOlder, ErrMigrating)
	}
}

// TestMigrationIsGoneOnWith fails the migration at every point there is, each
// transaction once not persisted and once persisted, and opens again.
func TestMigrationIsGoneOnWith(t *testing.T) {
	notShort(t)
	want := goldenAccount(t, 1)
	points := 0
	for n := 1; ; n++ {
		path := unpackGolden(t, 1)
		point, where := failAt(n, errInterrupted)
		l, err := openGolden(t, path, point)
		if where() == "" {
			points = n - 1
			l.Close()
			break
		}
		if !errors.Is(err, errInterrupted) {
			t.Fatalf("%s: got %v, want %v", where(), err, errInterrupted)
		}
		refused(t, path, where())
		settled(t, path, where(), want)
	}
	if points < 4 {
		t.Errorf("got %d points, want at least those of two transactions", points)
	}
	t.Logf("%d points", points)
}

// TestMigrationIsKilled is the same with a process that dies of SIGKILL.
func TestMigrationIsKilled(t *testing.T) {
	if n := dying(); n > 0 {
		l, err := openGolden(t, os.Getenv("MIGRATE"), dieAt(n))
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		return
	}
	notShort(t)
	want := goldenAccount(t, 1)
	for n := 1; ; n++ {
		path := unpackGolden(t, 1)
		if !killed(t, "TestMigrationIsKilled", n, "MIGRATE="+path) {
			break // there are no more points
		}
		how := fmt.Sprintf("being killed at point %d", n)
		refused(t, path, how)
		settled(t, path, how, want)
	}
}

func TestMigrationRefuses(t *testing.T) {
	for _, c := range []struct {
		name, meta string
		want       error
	}{
		{"a step that it does not know", `{"from":1,"to":2,"step":"of another build"}`, ErrNewer},
		{"a way that leads elsewhere", `{"from":2,"to":3,"step":"heads of a pruned journal"}`, odometer.ErrInvalid},
		{"a note that cannot be read", `{`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := unpackGolden(t, 1)
			db, err := connect(path, "rw", 1)
			if err == nil {
				_, err = db.Exec(`UPDATE meta SET value = '2' WHERE key = 'schema_version'`)
			}
			if err == nil {
				_, err = db.Exec(`INSERT INTO meta (key, value) VALUES ('migration', ?)`, c.meta)
			}
			if err := errors.Join(err, db.Close()); err != nil {
				t.Fatal(err)
			}
			if _, err := openGolden(t, path, nil); err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
}
