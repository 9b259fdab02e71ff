package audit_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
	"example.org/odometer/audit"
)

// forger changes a ledger behind its back.
type forger struct {
	t       *testing.T
	db      *sql.DB
	touched []string // the tables that were changed
}

var changes = regexp.MustCompile(`^(?:UPDATE|DELETE FROM|INSERT INTO) (\w+)`)

// exec runs a statement that must change exactly n rows; -1 for at least one.
func (f *forger) exec(n int64, query string, args ...any) {
	f.t.Helper()
	res, err := f.db.Exec(query, args...)
	if err != nil {
		f.t.Fatalf("%s: %v", query, err)
	}
	if got, _ := res.RowsAffected(); got != n && (n != -1 || got == 0) {
		f.t.Fatalf("%s: got %d rows changed, want %d", query, got, n)
	}
	if table := changes.FindStringSubmatch(query)[1]; !slices.Contains(f.touched, table) {
		f.touched = append(f.touched, table)
	}
}

// behind changes a table without one of its indexes taking notice.
func (f *forger) behind(index string, change func()) {
	f.t.Helper()
	var table, sql string
	var root int64
	if err := f.db.QueryRow(`SELECT tbl_name, rootpage, coalesce(sql, '') FROM sqlite_master WHERE name = ?`, index).Scan(&table, &root, &sql); err != nil {
		f.t.Fatalf("index %s: %v", index, err)
	}
	master := func(query string) {
		f.t.Helper()
		conn, err := f.db.Conn(f.t.Context())
		if err != nil {
			f.t.Fatal(err)
		}
		defer conn.Close()
		for _, q := range []string{`PRAGMA writable_schema = ON`, query, `PRAGMA writable_schema = RESET`} {
			if _, err := conn.ExecContext(f.t.Context(), q); err != nil {
				f.t.Fatalf("%s: %v", q, err)
			}
		}
	}
	f.db.SetMaxOpenConns(1)
	master(`DELETE FROM sqlite_master WHERE name = '` + index + `'`)
	change()
	master(`INSERT INTO sqlite_master VALUES ('index', '` + index + `', '` + table + `', ` + itoa(root) + `, '` + sql + `')`)
	f.touched = []string{"index " + index}
}

// number returns what a query finds.
func (f *forger) number(query string, args ...any) (n int64) {
	f.t.Helper()
	if err := f.db.QueryRow(query, args...).Scan(&n); err != nil {
		f.t.Fatalf("%s: %v", query, err)
	}
	return n
}

// usage changes a stored Usage.
func (f *forger) usage(table, column, where string, change func(*odometer.Usage)) {
	f.t.Helper()
	var id int64
	var blob []byte
	if err := f.db.QueryRow(`SELECT rowid, `+column+` FROM `+table+` WHERE `+where+` LIMIT 1`).Scan(&id, &blob); err != nil {
		f.t.Fatalf("%s where %s: %v", table, where, err)
	}
	u, _, err := odometer.CutUsage(blob)
	if err != nil {
		f.t.Fatal(err)
	}
	change(&u)
	f.exec(1, `UPDATE `+table+` SET `+column+` = ? WHERE rowid = ?`, u.AppendBinary(nil), id)
}

// epochState is the state of an epoch, taken apart.
type epochState struct {
	flags                byte
	sequence, position   uint64
	end, hour, recovered int64 // hour in hours since 1970
	vector, sums         odometer.Usage
	rest                 []byte // owner and digests
}

// state changes the first state, of the epochs that match.
func (f *forger) state(where string, change func(*epochState)) {
	f.t.Helper()
	var id, place int64
	var row []byte
	if err := f.db.QueryRow(`SELECT s.id, e.epoch_no & 7, s.body FROM epochs e JOIN state s ON s.id = (e.partition << 37) + (e.epoch_no >> 3) WHERE `+where+` LIMIT 1`).Scan(&id, &place, &row); err != nil {
		f.t.Fatalf("state where %s: %v", where, err)
	}
	at := 0
	for range place {
		at += 2 + int(binary.BigEndian.Uint16(row[at:]))
	}
	size := int(binary.BigEndian.Uint16(row[at:]))
	b, after := row[at+2:at+2+size], row[at+2+size:]
	var s epochState
	var n int
	var err error
	s.flags, b = b[0], b[1:]
	s.sequence, n = binary.Uvarint(b)
	b = b[n:]
	s.end, n = binary.Varint(b)
	b = b[n:]
	s.position, n = binary.Uvarint(b)
	if s.vector, b, err = odometer.CutUsage(b[n:]); err != nil {
		f.t.Fatal(err)
	}
	s.hour, n = binary.Varint(b)
	if s.sums, b, err = odometer.CutUsage(b[n:]); err != nil {
		f.t.Fatal(err)
	}
	s.recovered, n = binary.Varint(b)
	s.rest = b[n:]
	change(&s)
	b = binary.AppendUvarint([]byte{s.flags}, s.sequence)
	b = binary.AppendVarint(b, s.end)
	b = binary.AppendUvarint(b, s.position)
	b = binary.AppendVarint(s.vector.AppendBinary(b), s.hour)
	b = binary.AppendVarint(s.sums.AppendBinary(b), s.recovered)
	b = append(b, s.rest...)
	row = slices.Concat(row[:at], binary.BigEndian.AppendUint16(nil, uint16(len(b))), b, after)
	f.exec(1, `UPDATE state SET body = ? WHERE id = ?`, row, id)
}

// amount adds n to the first sum of a packed row of an owner: its lower 32 bits
// to the lower half of the sum, the others to the upper.
func (f *forger) amount(table, column string, n uint64) {
	f.t.Helper()
	var id int64
	var blob []byte
	if err := f.db.QueryRow(`SELECT rowid, `+column+` FROM `+table+` LIMIT 1`).Scan(&id, &blob); err != nil {
		f.t.Fatalf("%s: %v", table, err)
	}
	_, known := binary.Uvarint(blob[1:])
	at := 1 + known
	hi, size := binary.Varint(blob[at:])
	lo, more := binary.Uvarint(blob[at+size:])
	changed := binary.AppendVarint(slices.Clone(blob[:at]), hi+int64(n>>32))
	changed = binary.AppendUvarint(changed, lo+n&(1<<32-1))
	f.exec(1, `UPDATE `+table+` SET `+column+` = ? WHERE rowid = ?`, append(changed, blob[at+size+more:]...), id)
}

// record is what a forger needs of a journal record.
type record struct {
	partition, position int64
	body, result        []byte
}

// find returns the first record of the journal whose result holds text.
func (f *forger) find(text string) record {
	f.t.Helper()
	var r record
	err := f.db.QueryRow(`SELECT partition, position, body, result FROM journal WHERE instr(CAST(result AS TEXT), ?) > 0 ORDER BY id LIMIT 1`, text).
		Scan(&r.partition, &r.position, &r.body, &r.result)
	if err != nil {
		f.t.Fatalf("no record says %s: %v", text, err)
	}
	return r
}

func (f *forger) decode(data []byte, v any) {
	f.t.Helper()
	if err := json.Unmarshal(data, v); err != nil {
		f.t.Fatal(err)
	}
}

// rewrite changes the result of the first record that holds old, and mends the
// chain so that only what it says gives it away.
func (f *forger) rewrite(old, new string) {
	f.t.Helper()
	r := f.find(old)
	f.exec(1, `UPDATE journal SET result = ? WHERE partition = ? AND position = ?`, bytes.Replace(r.result, []byte(old), []byte(new), 1), r.partition, r.position)
	f.rehash(r.partition)
}

// booking changes the first explicit booking that holds text.
func (f *forger) booking(text string, change func(*odometer.Entry)) {
	f.t.Helper()
	r := f.find(text)
	var result map[string]json.RawMessage
	var bookings []json.RawMessage
	f.decode(r.result, &result)
	f.decode(result["bookings"], &bookings)
	i := slices.IndexFunc(bookings, func(b json.RawMessage) bool { return strings.Contains(string(b), text) })
	e, err := odometer.DecodeEntry(bookings[max(i, 0)])
	if err != nil {
		f.t.Fatal(err)
	}
	change(e)
	bookings[max(i, 0)] = e.AppendJSON(nil)
	result["bookings"], _ = json.Marshal(bookings)
	changed, _ := json.Marshal(result)
	f.exec(1, `UPDATE journal SET result = ? WHERE partition = ? AND position = ?`, changed, r.partition, r.position)
	f.rehash(r.partition)
}

// frame changes the frame of the first record whose result holds text.
func (f *forger) frame(text string, change func(*odometer.Frame)) {
	f.t.Helper()
	r := f.find(text)
	fr, err := odometer.DecodeFrame(r.body)
	if err != nil {
		f.t.Fatal(err)
	}
	change(fr)
	fr.Packed = nil
	for i := range fr.Records {
		if fr.Records[i].Event != nil {
			fr.Records[i].Raw = nil // it may say otherwise by now
		}
	}
	body, err := fr.Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	f.exec(1, `UPDATE journal SET body = ? WHERE partition = ? AND position = ?`, body, r.partition, r.position)
	f.rehash(r.partition)
}

func (f *forger) rehash(partition int64) {
	f.t.Helper()
	if err := audit.Rehash(f.db, partition); err != nil {
		f.t.Fatal(err)
	}
}

const cpu = odometer.CPU

func TestCleanLedger(t *testing.T) {
	r := run(t, told(t))
	if !r.OK || r.FindingsTotal != 0 {
		t.Fatalf("audit of an honest ledger: got %s, want ok", show(r))
	}
	want := audit.Report{
		Events: 603, Instances: 8, Epochs: 11, Conflicts: 2, Quarantined: 6, GapSeconds: 150,
		Received: 616, Recorded: 603, Covered: 1, Duplicates: 5, Held: 1, Corrections: 20,
	}
	for _, c := range []struct {
		name      string
		got, want int64
	}{
		{"events", r.Events, want.Events}, {"instances", r.Instances, want.Instances}, {"epochs", r.Epochs, want.Epochs},
		{"conflicts", r.Conflicts, want.Conflicts}, {"quarantined", r.Quarantined, want.Quarantined}, {"gap seconds", r.GapSeconds, want.GapSeconds},
		{"received", r.Received, want.Received}, {"recorded", r.Recorded, want.Recorded}, {"covered", r.Covered, want.Covered},
		{"duplicates", r.Duplicates, want.Duplicates}, {"held", r.Held, want.Held},
		{"corrections", r.Corrections, want.Corrections},
		{"sum of outcomes", r.Recorded + r.Covered + r.Duplicates + r.Quarantined + r.Held, r.Received},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, c.got, c.want)
		}
	}
	for _, name := range []string{"journal", "tiling", "conservation", "once", "reversals", "counts", "owners", "attribution", "statements", "fold"} {
		if !slices.Contains(r.Checked, name) {
			t.Errorf("checked: got %q, want %q among them", r.Checked, name)
		}
	}
}

// The same on disk as in memory: neither hides a fault nor invents one.
func TestSpilled(t *testing.T) {
	dir := told(t)
	audited := func() *audit.Report {
		r, err := audit.Run(context.Background(), audit.Tight(audit.Options{DataDir: dir, TempDir: t.TempDir()}))
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if r := audited(); !r.OK || r.Events != run(t, dir).Events {
		t.Errorf("audit with everything on disk: got %s, want what it finds in memory", show(r))
	}
	f := &forger{t: t, db: open(t, dir)}
	f.exec(1, `DELETE FROM hours WHERE rowid = (SELECT min(rowid) FROM hours)`)
	if r := audited(); r.FindingCounts["hours"] == 0 {
		t.Errorf("audit with everything on disk of a ledger that lacks an hour: got %s, want the finding", show(r))
	}
}

var one, two, third = hostOne.Partition(), hostTwo.Partition(), billing.Partition()

// corruption is a fault that may befall a ledger, or be made, and what the
// audit must call it.
type corruption struct {
	name  string
	want  string // the finding
	forge func(*forger)
}

var corruptions = slices.Concat(reversalCorruptions, ownershipCorruptions, monthCorruptions, handoverCorruptions, lifecycleCorruptions, []corruption{
	{"a record is read out of its turn", "journal_position", func(f *forger) {
		f.exec(1, `UPDATE journal SET id = id + 1000 WHERE id = (SELECT max(id) FROM journal WHERE partition = ?)`, hostTwo.Partition())
	}},
	{"the first record is read before there was one", "journal_position", func(f *forger) {
		f.exec(1, `UPDATE journal SET id = -id WHERE id = 1`)
	}},
	{"an event of version 1.0 is booked again instead of being a duplicate", "booked_twice", func(f *forger) {
		r := f.find(`"source_event_id":"vm-8/`)
		var result map[string]json.RawMessage
		var bookings []json.RawMessage
		f.decode(r.result, &result)
		f.decode(result["bookings"], &bookings)
		e, err := odometer.DecodeEntry(bookings[0])
		if err != nil {
			f.t.Fatal(err)
		}
		before, err := odometer.DecodeEntry(bookings[1])
		if err != nil {
			f.t.Fatal(err)
		}
		e.ID.Number, e.Event.FirstSequence, e.Event.Sequence = 3, 3, 3
		e.Event.Readings.Start, e.Event.Readings.End = before.Event.Readings.End, before.Event.Readings.End
		e.Event.Readings.End.Add(e.Event.Usage)
		result["bookings"], _ = json.Marshal(append(bookings, e.AppendJSON(nil)))
		result["runs"] = bytes.Replace(result["runs"], []byte(`"duplicate"`), []byte(`"recorded"`), 1)
		changed, _ := json.Marshal(result)
		f.exec(1, `UPDATE journal SET result = ?, entries = 3 WHERE partition = ? AND position = ?`, changed, r.partition, r.position)
		f.rehash(r.partition)
	}},
	{"a frame is journaled twice and booked twice", "booked_twice", func(f *forger) {
		last := f.number(`SELECT max(position) FROM journal WHERE partition = ?`, one)
		entry := f.number(`SELECT max(first_entry + entries) FROM journal WHERE partition = ?`, one)
		var result []byte
		if err := f.db.QueryRow(`SELECT result FROM journal WHERE partition = ? AND position = 1`, one).Scan(&result); err != nil {
			f.t.Fatal(err)
		}
		result = bytes.Replace(result, []byte(`"entry":1}`), []byte(`"entry":`+itoa(entry)+`}`), 1)
		f.exec(1, `INSERT INTO journal (partition, position, kind, at_us, sender, spool, first, last, min_us, max_us, first_entry, entries, body, result, hash, checksum)
				SELECT partition, ?, kind, at_us, sender, spool, first, last, min_us, max_us, ?, entries, body, ?, hash, 0 FROM journal WHERE partition = ? AND position = 1`,
			last+1, entry, result, one)
		f.rehash(int64(one))
	}},
	{"the sum of an hour is off by one", "hours", func(f *forger) {
		f.usage("hours", "sums", "1", func(u *odometer.Usage) { u.Vector[cpu]++ })
	}},
	{"a piece of an hour is missing", "hours", func(f *forger) {
		f.exec(1, `DELETE FROM hours WHERE rowid = (SELECT max(rowid) FROM hours)`)
	}},
	{"a piece of an hour is there twice", "hours", func(f *forger) {
		f.exec(1, `INSERT INTO hours SELECT * FROM hours LIMIT 1`)
	}},
	{"an hour is charged to another owner", "hours", func(f *forger) {
		f.exec(1, `UPDATE hours SET usr = 'u-mallory' WHERE rowid = (SELECT min(rowid) FROM hours)`)
	}},
	{"an hour was moved to another hour", "hours", func(f *forger) {
		f.exec(1, `UPDATE hours SET hour = hour + 3600000000 WHERE rowid = (SELECT min(rowid) FROM hours)`)
	}},
	{"an unknown quantity became a known zero", "hours", func(f *forger) {
		f.usage("hours", "sums", "1", func(u *odometer.Usage) { u.Known = u.Known.With(odometer.GPU) })
	}},
	{"recovered time is shown as measured", "hours", func(f *forger) {
		f.exec(-1, `UPDATE hours SET recovered_us = 0 WHERE recovered_us > 0`)
	}},
	{"the open hour has a microsecond too many", "hours", func(f *forger) {
		f.state("1", func(s *epochState) { s.sums.Vector[cpu]++ })
	}},
	{"the earliest open hour of some epochs is said to be later", "open_from", func(f *forger) {
		f.exec(1, `UPDATE state SET open_hour = open_hour + 3600000000 WHERE id = (SELECT min(id) FROM state WHERE open_hour > 0)`)
	}},
	{"open hours of some epochs are said not to be there", "open_from", func(f *forger) {
		f.exec(1, `UPDATE state SET open_hour = 0 WHERE id = (SELECT min(id) FROM state WHERE open_hour > 0)`)
	}},
	{"an hour of a compacted day is off", "hours", func(f *forger) {
		var id int64
		var blob []byte
		if err := f.db.QueryRow(`SELECT rowid, hours FROM days LIMIT 1`).Scan(&id, &blob); err != nil {
			f.t.Fatal(err)
		}
		u, rest, err := odometer.CutUsage(blob[1:])
		if err != nil {
			f.t.Fatal(err)
		}
		u.Vector[cpu]++
		f.exec(1, `UPDATE days SET hours = ? WHERE rowid = ?`, append(u.AppendBinary([]byte{blob[0]}), rest...), id)
	}},
	{"a compacted day is missing", "hours", func(f *forger) {
		f.exec(1, `DELETE FROM days WHERE rowid = (SELECT min(rowid) FROM days)`)
	}},
	{"a compacted day cannot be read", "table", func(f *forger) {
		f.exec(1, `UPDATE days SET hours = x'63ff' WHERE rowid = (SELECT min(rowid) FROM days)`)
	}},
	{"an owner's day is off by one", "owner_days", func(f *forger) {
		f.amount("owner_days", "hours", 1)
	}},
	{"an owner's day is missing", "owner_days", func(f *forger) {
		f.exec(1, `DELETE FROM owner_days WHERE rowid = (SELECT min(rowid) FROM owner_days)`)
	}},
	{"an owner's hour is beyond what 64 bits hold", "table", func(f *forger) {
		f.amount("owner_days", "hours", 1<<32)
	}},
	{"an owner's month is off by one", "owner_months", func(f *forger) {
		f.amount("owner_months", "days", 1)
	}},
	{"an owner's month is charged to another", "owner_months", func(f *forger) {
		f.exec(1, `UPDATE owner_months SET usr = 'u-mallory' WHERE rowid = (SELECT min(rowid) FROM owner_months)`)
	}},
	{"an owner's month cannot be read", "table", func(f *forger) {
		f.exec(1, `UPDATE owner_months SET days = x'00ffff' WHERE rowid = (SELECT min(rowid) FROM owner_months)`)
	}},
	{"an owner's month does not begin with a month", "table", func(f *forger) {
		f.exec(1, `UPDATE owner_months SET month = month + 86400000000 WHERE rowid = (SELECT min(rowid) FROM owner_months)`)
	}},
	{"a month of an instance is off by one", "months", func(f *forger) {
		var id int64
		var blob []byte
		if err := f.db.QueryRow(`SELECT rowid, days FROM months LIMIT 1`).Scan(&id, &blob); err != nil {
			f.t.Fatal(err)
		}
		u, rest, err := odometer.CutUsage(blob[1:])
		if err != nil {
			f.t.Fatal(err)
		}
		u.Vector[odometer.Memory]--
		f.exec(1, `UPDATE months SET days = ? WHERE rowid = ?`, append(u.AppendBinary([]byte{blob[0]}), rest...), id)
	}},
	{"a month of an instance is missing", "months", func(f *forger) {
		f.exec(1, `DELETE FROM months WHERE rowid = (SELECT min(rowid) FROM months)`)
	}},
	{"a month has a day too many", "table", func(f *forger) {
		f.exec(1, `UPDATE months SET days = x'1f' || substr(days, 2) WHERE rowid = (SELECT min(rowid) FROM months)`)
	}},
	{"a day has an hour too many", "table", func(f *forger) {
		f.exec(1, `UPDATE days SET hours = x'18' || substr(hours, 2) WHERE rowid = (SELECT min(rowid) FROM days)`)
	}},
	{"an owner's index lacks an epoch", "owner_epochs", func(f *forger) {
		f.exec(1, `DELETE FROM owner_epochs WHERE rowid = (SELECT min(rowid) FROM owner_epochs)`)
	}},
	{"open hours are said to be sealed", "open_from", func(f *forger) {
		f.exec(1, `UPDATE meta SET value = '9000000000000000' WHERE key = 'open_from'`)
	}},
	{"an owner's index claims to be further than it is", "owner_epochs", func(f *forger) {
		f.exec(1, `UPDATE owners_known SET epoch_no = 1000 WHERE partition = ?`, one)
	}},
	{"a record is not chained", "journal_chain", func(f *forger) {
		f.exec(1, `UPDATE journal SET hash = zeroblob(32) WHERE partition = ? AND position = 3`, one)
	}},
	{"the time of a record was changed", "journal_chain", func(f *forger) {
		f.exec(1, `UPDATE journal SET at_us = at_us + 1 WHERE partition = ? AND position = 3`, one)
	}},
	{"a bit of a body flipped", "journal_chain", func(f *forger) {
		var body []byte
		if err := f.db.QueryRow(`SELECT body FROM journal WHERE partition = ? AND position = 5`, one).Scan(&body); err != nil {
			f.t.Fatal(err)
		}
		body[len(body)/2] ^= 4
		f.exec(1, `UPDATE journal SET body = ? WHERE partition = ? AND position = 5`, body, one)
	}},
	{"a body cannot be read", "journal_body", func(f *forger) {
		f.exec(1, `UPDATE journal SET body = x'00' WHERE partition = ? AND position = 5`, one)
		f.rehash(int64(one))
	}},
	{"a frame is of another sender than the journal says", "journal_body", func(f *forger) {
		f.frame(`"runs"`, func(fr *odometer.Frame) { fr.Agent = "host-3" })
	}},
	{"a record is of an unknown kind", "journal_body", func(f *forger) {
		f.exec(1, `UPDATE journal SET kind = 'rumour' WHERE partition = ? AND position = 5`, one)
		f.rehash(int64(one))
	}},
	{"a decision cannot be read", "journal_body", func(f *forger) {
		f.exec(-1, `UPDATE journal SET body = x'7b' WHERE kind = 'decision' AND partition = ?`, one)
		f.rehash(int64(one))
	}},
	{"a result cannot be read", "journal_result", func(f *forger) {
		f.exec(1, `UPDATE journal SET result = x'7b' WHERE partition = ? AND position = 5`, one)
		f.rehash(int64(one))
	}},
	{"two records changed places", "journal_chain", func(f *forger) {
		f.exec(1, `UPDATE journal SET position = -1 WHERE partition = ? AND position = 4`, one)
		f.exec(1, `UPDATE journal SET position = 4 WHERE partition = ? AND position = 5`, one)
		f.exec(1, `UPDATE journal SET position = 5 WHERE partition = ? AND position = -1`, one)
	}},
	{"two records changed places and the chain was mended", "journal_entries", func(f *forger) {
		f.exec(1, `UPDATE journal SET position = -1 WHERE partition = ? AND position = 4`, one)
		f.exec(1, `UPDATE journal SET position = 4 WHERE partition = ? AND position = 5`, one)
		f.exec(1, `UPDATE journal SET position = 5 WHERE partition = ? AND position = -1`, one)
		f.rehash(int64(one))
	}},
	{"a record is missing", "journal_position", func(f *forger) {
		f.exec(1, `DELETE FROM journal WHERE partition = ? AND position = 4`, one)
	}},
	{"the last record is missing", "receipt", func(f *forger) {
		f.exec(1, `DELETE FROM journal WHERE partition = ? AND position = (SELECT max(position) FROM journal WHERE partition = ?)`, one, one)
	}},
	{"all of a partition is missing", "receipt", func(f *forger) {
		f.exec(-1, `DELETE FROM journal WHERE partition = ?`, two)
	}},
	{"a record claims an entry more than it books", "journal_entries", func(f *forger) {
		f.exec(1, `UPDATE journal SET entries = entries + 1 WHERE partition = ? AND position = 4`, one)
	}},
	{"an entry was deleted", "journal_entries", func(f *forger) {
		f.rewrite(`"outcome":"recorded","entry":1}`, `"outcome":"recorded"}`)
	}},
	{"outcomes leave out an event", "journal_runs", func(f *forger) {
		f.rewrite(`{"n":12,`, `{"n":11,`)
	}},
	{"outcomes outnumber the events", "journal_runs", func(f *forger) {
		f.rewrite(`{"n":12,`, `{"n":9999999999,`)
	}},
	{"an outcome has no meaning", "journal_runs", func(f *forger) {
		f.rewrite(`"outcome":"covered"`, `"outcome":"mislaid"`)
	}},
	{"a record's checksum is another's", "journal_checksum", func(f *forger) {
		f.exec(1, `UPDATE journal SET checksum = (SELECT checksum FROM journal WHERE partition = ? AND position = 4) WHERE partition = ? AND position = 5`, one, one)
	}},
	{"a record is read before its turn", "journal_position", func(f *forger) {
		f.exec(1, `UPDATE journal SET id = -1 WHERE partition = ? AND position = 5`, one)
	}},
	{"the index of the journal by time lost a row", "storage", func(f *forger) {
		f.behind("journal_short", func() {
			f.exec(1, `UPDATE journal SET id = (SELECT max(id) + 1 FROM journal) WHERE id = (SELECT max(id) FROM journal)`)
		})
	}},
	{"the index of sealed hours lost a row", "storage", func(f *forger) {
		f.behind("hours_hour", func() {
			f.exec(1, `UPDATE hours SET rowid = (SELECT max(rowid) + 1 FROM hours) WHERE rowid = (SELECT max(rowid) FROM hours)`)
		})
	}},
	{"the times that queries go by are wrong", "journal_span", func(f *forger) {
		f.exec(1, `UPDATE journal SET max_us = max_us - 1 WHERE partition = ? AND position = 4`, one)
	}},
	{"a part of a frame takes fewer positions than it has records", "journal_frame", func(f *forger) {
		f.exec(1, `UPDATE journal SET last = first WHERE sender = 'relay' AND partition = ?`, one)
		f.rehash(int64(one))
	}},
	{"a frame is not the next of its spool", "spool_hole", func(f *forger) {
		f.frame(`{"runs":[{"n":1,"outcome":"checkpoint"`, func(fr *odometer.Frame) {
			fr.First, fr.Last = fr.First+5, fr.Last+5
			fr.Records[0].First, fr.Records[0].Position = fr.First, fr.First
		})
		r := f.find(`{"runs":[{"n":1,"outcome":"checkpoint"`)
		f.exec(1, `UPDATE journal SET first = first + 5, last = last + 5 WHERE partition = ? AND position = ?`, r.partition, r.position)
		f.rehash(r.partition)
	}},
	{"a new event is called a duplicate", "duplicate_unfounded", func(f *forger) {
		f.rewrite(`"outcome":"held","reason":"hole"`, `"outcome":"duplicate","reason":"hole"`)
	}},
	{"a new event is called covered", "covered_unfounded", func(f *forger) {
		f.rewrite(`"outcome":"held","reason":"hole","detail":"waits for sequence 3 `, `"outcome":"covered","detail":"waits for sequence 3 `)
	}},
	{"a recorded event has no booking", "unbooked", func(f *forger) {
		f.rewrite(`"outcome":"covered"`, `"outcome":"recorded"`)
	}},
	{"an outcome changed that was final", "released", func(f *forger) {
		f.rewrite(`"released":[{"position":`, `"released":[{"position":1`)
	}},
	{"a booking names no owner", "journal_result", func(f *forger) {
		r := f.find(`"kind":"recovered"`)
		f.exec(1, `UPDATE journal SET result = ? WHERE partition = ? AND position = ?`, bytes.ReplaceAll(r.result, []byte(`"user_id":"u-bob"`), []byte(`"user_id":null`)), r.partition, r.position)
		f.rehash(r.partition)
	}},
	{"a booking charges another owner", "entry", func(f *forger) {
		f.booking(`"kind":"recovered"`, func(e *odometer.Entry) { e.Event.Owner.User = "u-mallory" })
	}},
	{"a booking was made dearer", "conservation", func(f *forger) {
		f.booking(`"kind":"recovered"`, func(e *odometer.Entry) {
			e.Event.Usage.Vector[cpu]++
			e.Event.Readings.End.Vector[cpu]++
		})
	}},
	{"a booking begins before the one before it ended", "overlap", func(f *forger) {
		f.booking(`"kind":"recovered"`, func(e *odometer.Entry) {
			e.Event.Span.Start -= 1000
			e.Event.Usage.Vector[odometer.MeasuredTime] += 1000
			e.Event.Readings.End.Vector[odometer.MeasuredTime] += 1000
		})
	}},
	{"a booking begins after the one before it ended", "tiling", func(f *forger) {
		f.booking(`"kind":"recovered"`, func(e *odometer.Entry) {
			e.Event.Span.Start += 1000
			e.Event.Usage.Vector[odometer.MeasuredTime] -= 1000
			e.Event.Readings.End.Vector[odometer.MeasuredTime] -= 1000
		})
	}},
	{"a booking does not fill its span with time", "elapsed", func(f *forger) {
		f.booking(`"kind":"recovered"`, func(e *odometer.Entry) {
			e.Event.Usage.Vector[odometer.MeasuredTime] -= 1000
			e.Event.Readings.End.Vector[odometer.MeasuredTime] -= 1000
		})
	}},
	{"something is booked after its epoch had ended", "after_final", func(f *forger) {
		r := f.find(`"reason":"closed"`)
		entry := f.number(`SELECT first_entry FROM journal WHERE partition = ? AND position = ?`, r.partition, r.position)
		f.exec(1, `UPDATE journal SET entries = 2, result = ? WHERE partition = ? AND position = ?`,
			`{"runs":[{"n":2,"outcome":"recorded","entry":`+itoa(entry)+`}]}`, r.partition, r.position)
		f.exec(-1, `UPDATE journal SET first_entry = first_entry + 1 WHERE partition = ? AND position > ?`, r.partition, r.position)
		f.rehash(r.partition)
	}},
	{"a booking skips a sequence number", "sequence_hole", func(f *forger) {
		f.booking(`"kind":"recovered"`, func(e *odometer.Entry) { e.Event.FirstSequence++; e.Event.Sequence++ })
	}},
	{"an event of version 1.0 is booked for more than it said", "entry", func(f *forger) {
		f.booking(`"source_event_id":"vm-8/`, func(e *odometer.Entry) {
			e.Event.Usage.Vector[cpu]++
			e.Event.Readings.End.Vector[cpu]++
		})
	}},
	{"an event in the journal says something else than is booked", "conservation", func(f *forger) {
		f.frame(`{"n":12,`, func(fr *odometer.Frame) {
			e := fr.Records[3].Event
			e.Usage.Vector[cpu]--
			e.Readings.End.Vector[cpu]--
		})
	}},
	{"a watermark was advanced", "epochs", func(f *forger) {
		f.state("e.instance = 'vm-1'", func(s *epochState) { s.vector.Vector[cpu] += 1000 })
	}},
	{"a watermark's sequence was put back", "epochs", func(f *forger) {
		f.state(fmt.Sprintf("e.epoch_no = 1 AND e.partition = %d", one), func(s *epochState) { s.sequence-- })
	}},
	{"an ended epoch was opened again", "epochs", func(f *forger) {
		f.state("e.instance = 'vm-3'", func(s *epochState) { s.flags = 0 })
	}},
	{"an epoch was given to another instance", "epochs", func(f *forger) {
		f.exec(1, `UPDATE epochs SET instance = 'vm-mallory' WHERE epoch_no = 1 AND partition = ?`, two)
	}},
	{"a state is missing", "table", func(f *forger) {
		f.exec(1, `DELETE FROM state WHERE id = ? << 37`, two)
	}},
	{"a state of no epoch", "table", func(f *forger) {
		f.exec(1, `INSERT INTO state SELECT id + 1000, open_hour, body FROM state WHERE id = ? << 37`, two)
	}},
	{"an epoch began at another time", "epochs", func(f *forger) {
		f.exec(1, `UPDATE epochs SET started_us = started_us + 1 WHERE epoch_no = 1 AND partition = ?`, two)
	}},
	{"an epoch of version 1.0 began at another time", "epochs", func(f *forger) {
		f.exec(1, `UPDATE epochs SET started_us = started_us + 1 WHERE counted_by = 'time'`)
	}},
	{"the table has an epoch that was never heard of", "epochs", func(f *forger) {
		f.exec(1, `INSERT INTO epochs SELECT partition, 99, '00000000000000000000000000000000', instance, agent, counted_by, started_us FROM epochs WHERE epoch_no = 1 AND partition = ?`, two)
	}},
	{"an epoch is missing", "epochs", func(f *forger) {
		f.exec(1, `DELETE FROM epochs WHERE epoch_no = 1 AND partition = ?`, two)
	}},
	{"a row of states is cut off", "table", func(f *forger) {
		f.exec(1, `UPDATE state SET body = substr(body, 1, length(body) - 1) WHERE id = ? << 37`, two)
	}},
	{"a row of states is too long", "table", func(f *forger) {
		f.exec(1, `UPDATE state SET body = CAST(body || x'00' AS BLOB) WHERE id = ? << 37`, two)
	}},
	{"a watermark cannot be read", "table", func(f *forger) {
		f.exec(1, `UPDATE state SET body = x'000000020101' || zeroblob(12) WHERE id = ? << 37`, two)
	}},
	{"a chunk of digests is missing", "digests", func(f *forger) {
		f.exec(1, `DELETE FROM digests WHERE chunk = 3 AND partition = ?`, one)
	}},
	{"a digest was changed", "digests", func(f *forger) {
		var data []byte
		if err := f.db.QueryRow(`SELECT data FROM digests WHERE chunk = 3 AND partition = ?`, one).Scan(&data); err != nil {
			f.t.Fatal(err)
		}
		data[5] ^= 1
		f.exec(1, `UPDATE digests SET data = ? WHERE chunk = 3 AND partition = ?`, data, one)
	}},
	{"a chunk of digests is not where it is looked for", "table", func(f *forger) {
		f.exec(1, `UPDATE digests SET chunk = chunk - 9223372036854775807 - 1 WHERE chunk = 3 AND partition = ?`, one)
	}},
	{"a count is off", "counts", func(f *forger) {
		f.exec(1, `UPDATE counts SET n = n + 1 WHERE partition = ? AND outcome = 'recorded'`, one)
	}},
	{"a count is missing", "counts", func(f *forger) {
		f.exec(1, `DELETE FROM counts WHERE partition = ? AND outcome = 'received'`, one)
	}},
	{"a receipt lies beyond the journal", "receipt", func(f *forger) {
		f.exec(1, `UPDATE spools SET position = position + 7 WHERE agent = 'host-1'`)
	}},
	{"a receipt was put back", "receipt", func(f *forger) {
		f.exec(1, `UPDATE spools SET position = position - 1 WHERE agent = 'host-1'`)
	}},
	{"how far a spool came in its own partition is wrong", "receipt", func(f *forger) {
		f.exec(1, `UPDATE spools SET home = home - 1 WHERE agent = 'host-1'`)
	}},
	{"a receipt is missing", "receipt", func(f *forger) {
		f.exec(1, `DELETE FROM spools WHERE agent = 'host-2'`)
	}},
	{"a receipt lies in another partition", "partition", func(f *forger) {
		f.exec(1, `UPDATE spools SET partition = (partition + 1) % 64 WHERE agent = 'host-2'`)
	}},
	{"a row of the quarantine was deleted", "quarantine_lost", func(f *forger) {
		f.exec(-1, `DELETE FROM quarantine WHERE partition = ? AND no = (SELECT max(no) FROM quarantine WHERE partition = ?)`, two, two)
	}},
	{"the quarantine has a row that was never received", "quarantine_table", func(f *forger) {
		f.exec(1, `UPDATE quarantine SET idx = idx + 7 WHERE partition = ? AND no = 1`, two)
	}},
	{"a row of the quarantine is marked as released", "quarantine_table", func(f *forger) {
		f.exec(-1, `UPDATE quarantine SET released_us = 1 WHERE released_us = 0`)
	}},
	{"a row of the quarantine gives another explanation", "quarantine_table", func(f *forger) {
		f.exec(-1, `UPDATE quarantine SET detail = 'nothing' WHERE reason = 'conflict' AND partition = ?`, one)
	}},
	{"an hour lies in a partition that there is not", "hours", func(f *forger) {
		f.exec(1, `UPDATE hours SET partition = partition + 256 WHERE rowid = (SELECT max(rowid) FROM hours)`)
	}},
	{"a row of the quarantine names another event", "quarantine_table", func(f *forger) {
		f.exec(-1, `UPDATE quarantine SET event_id = 'vm-1/x/1' WHERE event_id <> ''`)
	}},
	{"a held event was deleted", "held_lost", func(f *forger) {
		f.exec(-1, `DELETE FROM held`)
	}},
	{"a held event was changed", "held_table", func(f *forger) {
		f.exec(-1, `UPDATE held SET sequence = sequence + 1`)
	}},
	{"an event is held that was recorded", "held_table", func(f *forger) {
		f.exec(1, `INSERT INTO held SELECT partition, epoch, first + 1, sequence + 1, 1, 0, since_us, reason, end_us, digest FROM held`)
	}},
	{"a covered period is missing", "coverage", func(f *forger) {
		f.exec(1, `DELETE FROM coverage WHERE rowid = (SELECT min(rowid) FROM coverage)`)
	}},
	{"covered periods overlap", "overlap", func(f *forger) {
		f.exec(1, `INSERT INTO coverage SELECT partition, instance, source, start_us + 1000000, end_us, digest FROM coverage WHERE partition = ? ORDER BY start_us LIMIT 1`, third)
	}},
	{"a checkpoint's place is wrong", "checkpoints", func(f *forger) {
		f.exec(-1, `UPDATE checkpoints SET position = position - 1`)
	}},
	{"a checkpoint was forgotten", "checkpoints", func(f *forger) {
		f.exec(-1, `DELETE FROM checkpoints`)
	}},
	{"the table has a generation that the journal does not begin", "generation", func(f *forger) {
		f.exec(1, `INSERT INTO generations (partition, generation, position, entry) VALUES (7, 30000000, 1, 0)`)
	}},
	{"the feed claims to have published what is not booked", "feed_cursor", func(f *forger) {
		f.exec(1, `INSERT INTO feed VALUES ('usage', ?, 9999, 9999)`, one)
	}},
	{"the feed's cursors do not agree", "feed_cursor", func(f *forger) {
		f.exec(1, `INSERT INTO feed VALUES ('usage', ?, 1, 11)`, one)
	}},
})

func TestCorruption(t *testing.T) {
	for _, c := range corruptions {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := told(t)
			db := open(t, dir)
			f := &forger{t: t, db: db}
			c.forge(f)
			db.Close()
			t.Attr("where", strings.Join(f.touched, " "))
			t.Attr("finding", c.want)
			r := run(t, dir)
			if r.OK || r.FindingCounts[c.want] == 0 {
				t.Errorf("audit: got %s, want a finding %s", show(r), c.want)
			}
			if r.Duplicated+r.Lost+r.Overlaps+r.Unreconciled == 0 {
				t.Errorf("headline numbers: got none raised, want one: %s", show(r))
			}
		})
	}
}

func itoa(n int64) string {
	b, _ := json.Marshal(n)
	return string(b)
}
