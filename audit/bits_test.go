package audit_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/ledger"
)

// A bit may flip anywhere in a ledger's file. Whatever it is, one of three
// things must hold: the audit names it; the ledger or the audit refuses to read
// it; or it is harmless, which is not assumed but shown: every answer that the
// ledger gives is what it was, and the journal rebuilds the tables.

var (
	everyBit = flag.Bool("every-bit", false, "flip every bit of a ledger, not a sample where a table is not the journal")
	bitSeed  = flag.Uint64("bit-seed", uint64(time.Now().Unix()/86400), "seed of the sample of bits")
)

// anecdote is a short story in which each table gets a row.
func (s *teller) anecdote() {
	s.t.Helper()
	s.now = time.UnixMicro(base + 3*hour)
	one := newOdo("vm-1", hostOne, base)
	a := one.next(40*sec, 1_234_567)
	s.send(hostOne, []string{"recorded", "duplicate"}, a, a)
	one.owner = bob // within the hour
	s.send(hostOne, []string{"recorded"}, one.next(2*hour+1, 77))
	s.now = s.now.Add(80 * time.Hour)
	s.tick() // seals
	s.tick() // compacts
	s.send(hostOne, []string{"recorded"}, one.next(2*hour, 1_000_003))
	for range 40 { // lost, so that a chunk of digests is finished without them
		one.next(sec, 1)
	}
	s.commit(s.frame(hostOne, odometer.Record{Event: one.next(30*sec, 3), Resumes: true}), "recorded")
	one.next(30*sec, 5)
	s.send(hostOne, []string{"held"}, one.next(30*sec, 6))
	s.reverse(odometer.EntryID{Partition: hostOne.Partition(), Number: 1})
	s.commit(s.frame(hostOne, odometer.Record{Checkpoint: json.RawMessage(`{"instance":"vm-9"}`)}), "checkpoint")
	two := newOdo("vm-2", hostTwo, one.at)
	s.send(hostTwo, []string{"quarantined"}, two.next(30*sec, 1<<50))
	rows, err := s.l.Quarantine(context.Background(), 10)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.l.Release(context.Background(), rows[0].Partition, rows[0].No, "operator"); err != nil {
		s.t.Fatal(err)
	}
	s.commit(odometer.Frame{Agent: hostTwo, Spool: spoolID, Packed: []byte("no frame"), Err: odometer.ErrInvalid}, "quarantined")
	s.http([]string{"recorded"}, event10("vm-8", base/sec, base/sec+60, 40))
	three := newOdo("vm-3", hostTwo, two.at).next(30*sec, 7)
	three.Lifecycle = []odometer.Change{{Kind: odometer.ChangeStarted, At: odometer.Moment{Boot: 1, Wall: three.Span.Start}, Detail: "at dawn"}}
	s.commit(s.frame(hostTwo, odometer.Record{Event: three, Checkpoint: json.RawMessage(`{"instance":"vm-3"}`)}), "recorded")
	if _, err := s.l.Checkpoints(context.Background(), hostTwo); err != nil {
		s.t.Fatal(err)
	}
	s.assign("vm-1", odometer.Owner{User: "u-eve"}, base+20*sec)
	_, at, err := s.l.FeedAfter(context.Background(), "usage", 3)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.l.FeedAdvance(context.Background(), "usage", at, "a stream", 3, 3); err != nil {
		s.t.Fatal(err)
	}
}

// bench is where bits are flipped: in memory, where there is such a place.
func bench(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "odometer-bits-*")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// toldShort returns a data directory with the anecdote's ledger, and what it
// answers. Its pages are of the size given, so that few of its bits are in
// none of its rows.
func toldShort(t testing.TB, pageSize int) (dir, truth string) {
	t.Helper()
	long := bench(t)
	s := newTeller(t, long)
	s.anecdote()
	s.close()
	dir = bench(t)
	db := open(t, long)
	db.SetMaxOpenConns(1)
	statement(t, db, fmt.Sprintf(`PRAGMA page_size = %d`, pageSize))
	statement(t, db, `VACUUM INTO '`+filepath.Join(dir, "ledger.db")+`'`)
	if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if r := run(t, dir); !r.OK {
		t.Fatalf("audit of an honest ledger: got %s, want ok", show(r))
	}
	truth, err := answers(filepath.Join(dir, "ledger.db"), bench(t))
	if err != nil {
		t.Fatal(err)
	}
	return dir, truth
}

// answers is everything that a ledger says about usage, asked of a copy in
// scratch, in one text.
func answers(path, scratch string) (text string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	path = filepath.Join(scratch, "asked.db")
	for _, suffix := range []string{"-wal", "-shm"} {
		_ = os.Remove(path + suffix)
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		return "", err
	}
	ctx := context.Background()
	report, err := ledger.Rebuild(ctx, path, nil)
	if err != nil {
		return "", err
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: func() time.Time { return time.UnixMicro(base + 1000*hour) }})
	if err != nil {
		return "", err
	}
	defer l.Close()
	var b strings.Builder
	fmt.Fprintf(&b, "rebuilt %+v\n", *report)
	for _, q := range []odometer.UsageQuery{
		{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg, odometer.ByHour}},
		{From: base + 11*sec, To: base + 3*hour + 7, GroupBy: []odometer.GroupBy{odometer.ByUser}},
		{From: base + hour + 1, To: base + 2*hour - 1},
		{From: 1, To: 1 << 60, Instance: "vm-1", GroupBy: []odometer.GroupBy{odometer.ByDay}},
		{From: 1, To: 1 << 60, User: "u-bob"},
	} {
		rows, err := l.Usage(ctx, q)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "usage %+v\n", rows)
	}
	for _, q := range []odometer.EntryQuery{{Limit: 1000}, {Limit: 1000, Instance: "vm-1", From: base + hour, To: base + 2*hour}} {
		entries, _, err := l.Entries(ctx, q)
		if err != nil {
			return "", err
		}
		for i := range entries {
			fmt.Fprintf(&b, "entry %s\n", entries[i].AppendJSON(nil))
		}
	}
	fed, _, err := l.FeedAfter(ctx, "anew", 1000)
	if err != nil {
		return "", err
	}
	for i := range fed {
		fmt.Fprintf(&b, "fed %s\n", fed[i].AppendJSON(nil))
	}
	stats, err := l.Stats(ctx)
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&b, "counts %v entries %d quarantine %d\n", stats.Counts, stats.Entries, stats.Quarantine)
	for _, agent := range []odometer.AgentID{hostOne, hostTwo} {
		fmt.Fprintf(&b, "receipt %d\n", l.Receipt(agent, spoolID).Position)
	}
	return b.String(), nil
}

// bits counts what became of flipped bits.
type bits struct {
	mu                                        sync.Mutex
	flipped, named, refused, unread, harmless int
	wrong                                     []string
}

func (b *bits) String() string {
	return fmt.Sprintf("%d bits flipped: %d named by the audit, %d refused by the store or the audit, %d refused when read, %d harmless, %d wrong",
		b.flipped, b.named, b.refused, b.unread, b.harmless, len(b.wrong))
}

// judge finds out what became of a bit that was flipped in dir.
func (b *bits) judge(dir, truth, scratch, what string) {
	r, err := audit.Run(context.Background(), audit.Options{DataDir: dir})
	var said string
	var unread error
	if err == nil && r.OK {
		said, unread = answers(filepath.Join(dir, "ledger.db"), scratch)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flipped++
	switch {
	case err != nil:
		b.refused++
	case !r.OK:
		b.named++
	case unread != nil:
		b.unread++
	case said == truth:
		b.harmless++
	default:
		b.wrong = append(b.wrong, what+": the audit says ok, and the ledger\n\t"+differ(truth, said))
	}
}

// differ returns the first line in which two texts differ.
func differ(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range min(len(w), len(g)) {
		if w[i] != g[i] {
			return fmt.Sprintf("answers %.600s\n\tand not %.600s", g[i], w[i])
		}
	}
	return fmt.Sprintf("answers %d lines and not %d", len(g), len(w))
}

func (b *bits) check(t *testing.T) {
	t.Helper()
	for _, w := range b.wrong[:min(len(b.wrong), 20)] {
		t.Error(w)
	}
	if n := b.named + b.refused + b.unread + b.harmless + len(b.wrong); n != b.flipped || n == 0 {
		t.Errorf("%d bits flipped and %d accounted for", b.flipped, n)
	}
}

// cell is one value of a table, and a bit in it.
type cell struct {
	table, column string
	row           int64
	bit           int
}

// cells lists every bit of every value of a table.
func cells(t testing.TB, db *sql.DB, table string) (list []cell) {
	t.Helper()
	var columns []string
	rows, err := db.Query(`SELECT name FROM pragma_table_info(?)`, table)
	if err != nil {
		t.Fatal(err)
	}
	for rows.Next() {
		var c string
		if err := rows.Scan(&c); err != nil {
			t.Fatal(err)
		}
		columns = append(columns, c)
	}
	for _, c := range columns {
		rows, err := db.Query(fmt.Sprintf(`SELECT rowid, CASE typeof(%[1]s) WHEN 'integer' THEN 8 ELSE length(CAST(%[1]s AS BLOB)) END FROM %[2]s`, c, table))
		if err != nil {
			t.Fatal(err)
		}
		for rows.Next() {
			var id int64
			var size int
			if err := rows.Scan(&id, &size); err != nil {
				t.Fatal(err)
			}
			for bit := range size * 8 {
				list = append(list, cell{table, c, id, bit})
			}
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
	}
	return list
}

// flip flips the bit in the database and returns how to flip it back.
func (c cell) flip(db *sql.DB) (back func() error, err error) {
	var value any
	var kind string
	if err := db.QueryRow(fmt.Sprintf(`SELECT %[1]s, typeof(%[1]s) FROM %[2]s WHERE rowid = ?`, c.column, c.table), c.row).Scan(&value, &kind); err != nil {
		return nil, err
	}
	turned := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[c.bit/8] ^= 1 << (c.bit % 8)
		return b
	}
	var flipped any
	switch v := value.(type) {
	case int64:
		flipped = v ^ 1<<c.bit
	case string:
		flipped = string(turned([]byte(v)))
	case []byte:
		flipped = turned(v)
	default:
		return nil, fmt.Errorf("%s.%s is a %T", c.table, c.column, value)
	}
	set := func(row int64, v any) error {
		_, err := db.Exec(fmt.Sprintf(`UPDATE %s SET %s = ? WHERE rowid = ?`, c.table, c.column), v, row)
		return err
	}
	row := c.row
	if err := set(c.row, flipped); err != nil {
		return nil, fmt.Errorf("%w: %w", errNotStored, err)
	}
	if rowids[c.table] == c.column {
		row = flipped.(int64)
	}
	return func() error { return set(row, value) }, nil
}

// rowids are the columns that SQLite keeps as the number of the row.
var rowids = map[string]string{"journal": "id", "state": "id", "heads": "partition", "owners_known": "partition"}

var errNotStored = fmt.Errorf("two rows of one key")

// flipCells flips the bits of cells, each by itself, on every processor.
func flipCells(t *testing.T, dir, truth string, list []cell) map[string]*bits {
	t.Helper()
	tables := map[string]*bits{}
	for _, c := range list {
		if tables[c.table] == nil {
			tables[c.table] = &bits{}
		}
	}
	next := make(chan cell)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		mine, scratch := bench(t), bench(t)
		for _, name := range []string{"ledger.db", "lock"} {
			copyFile(t, filepath.Join(mine, name), filepath.Join(dir, name))
		}
		db := open(t, mine)
		db.SetMaxOpenConns(1)
		statement(t, db, `PRAGMA synchronous = OFF`)
		statement(t, db, `PRAGMA journal_mode = MEMORY`)
		wg.Go(func() {
			defer db.Close()
			for c := range next {
				b := tables[c.table]
				back, err := c.flip(db)
				if err != nil {
					b.mu.Lock()
					b.flipped++
					if b.refused++; !strings.HasPrefix(err.Error(), errNotStored.Error()) {
						b.wrong = append(b.wrong, fmt.Sprintf("%+v: %v", c, err))
					}
					b.mu.Unlock()
					continue
				}
				b.judge(mine, truth, scratch, fmt.Sprintf("table %s, row %d, column %s, bit %d", c.table, c.row, c.column, c.bit))
				if err := back(); err != nil {
					t.Errorf("%+v: flip it back: %v", c, err)
				}
			}
		})
	}
	for _, c := range list {
		next <- c
	}
	close(next)
	wg.Wait()
	return tables
}

// sampled returns n of a list, all of it where every bit is asked for.
func sampled[T any](list []T, n int) []T {
	if *everyBit || n >= len(list) {
		return list
	}
	r := rand.New(rand.NewPCG(*bitSeed, 1))
	r.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list[:n]
}

// Sizes of the samples in the quick form.
const (
	sampleJournal = 500
	sampleState   = 400
	sampleFile    = 250
)

func TestEveryBitOfTheJournal(t *testing.T) {
	dir, truth := toldShort(t, 4096)
	db := open(t, dir)
	all := cells(t, db, "journal")
	total := len(all)
	b := flipCells(t, dir, truth, sampled(all, sampleJournal))["journal"]
	t.Logf("journal of %d bits, seed %d: %s", total, *bitSeed, b)
	b.check(t)
}

func TestBitsOfTheTables(t *testing.T) {
	dir, truth := toldShort(t, 4096)
	db := open(t, dir)
	// What a restore, a pruning and the closing of a month write is forged in
	// TestCorruption: a restore and a closing write to every partition, and the audit of a bit would take ten times as long.
	rows, err := db.Query(`SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name NOT IN ('journal', 'meta', 'heads', 'generations', 'closes', 'statements', 'adjustments')`)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		names = append(names, name)
	}
	var all []cell
	for _, name := range names {
		list := cells(t, db, name)
		if len(list) == 0 {
			t.Errorf("the story leaves table %s empty", name)
		}
		all = append(all, list...)
	}
	total := len(all)
	tables := flipCells(t, dir, truth, sampled(all, sampleState))
	t.Logf("tables of %d bits, seed %d", total, *bitSeed)
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		t.Logf("%s: %s", name, tables[name])
		tables[name].check(t)
	}
}

func TestBitsOfTheFile(t *testing.T) {
	dir, truth := toldShort(t, 512)
	data, err := os.ReadFile(filepath.Join(dir, "ledger.db"))
	if err != nil {
		t.Fatal(err)
	}
	all := make([]int, len(data)*8)
	for i := range all {
		all[i] = i
	}
	b := &bits{}
	next := make(chan int)
	var wg sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		mine, scratch := bench(t), bench(t)
		copyFile(t, filepath.Join(mine, "ledger.db"), filepath.Join(dir, "ledger.db"))
		copyFile(t, filepath.Join(mine, "lock"), filepath.Join(dir, "lock"))
		f, err := os.OpenFile(filepath.Join(mine, "ledger.db"), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer f.Close()
			for bit := range next {
				at := int64(bit / 8)
				if _, err := f.WriteAt([]byte{data[at] ^ 1<<(bit%8)}, at); err != nil {
					t.Error(err)
				}
				b.judge(mine, truth, scratch, fmt.Sprintf("byte %d of the file (page %d, byte %d), bit %d", at, at/512+1, at%512, bit%8))
				if _, err := f.WriteAt(data[at:at+1], at); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for _, bit := range sampled(all, sampleFile) {
		next <- bit
	}
	close(next)
	wg.Wait()
	t.Logf("file of %d bits, seed %d: %s", len(data)*8, *bitSeed, b)
	b.check(t)
}
