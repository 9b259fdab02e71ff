package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"example.org/odometer"
)

// Every bit of every column of a record, flipped in turn: what reads the record
// says that it is damaged, and never tells what it would say of usage.
func TestADamagedRecordIsNotRead(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	a, b := m.next(30*sec, 5, 7), m.next(30*sec, 11, 13)
	whole := *a
	merge(t, &whole, b)
	d.want(d.send(a, &whole), "recorded", "recorded") // one booked as it is, one written out
	if _, err := d.write.Exec(`PRAGMA synchronous = OFF`); err != nil {
		t.Fatal(err)
	}
	flips := 0
	for _, column := range []string{"partition", "position", "kind", "at_us", "sender", "spool", "first", "last", "min_us", "max_us",
		"first_entry", "entries", "body", "result", "hash", "checksum"} {
		var value any
		if err := d.write.QueryRow(`SELECT ` + column + ` FROM journal`).Scan(&value); err != nil {
			t.Fatal(err)
		}
		set := func(v any) {
			if _, err := d.write.Exec(`UPDATE journal SET `+column+` = ?`, v); err != nil {
				t.Fatalf("%s: %v", column, err)
			}
		}
		size := 64
		switch v := value.(type) {
		case string:
			size = 8 * len(v)
		case []byte:
			size = 8 * len(v)
		}
		for bit := range size {
			turn := func(v []byte) []byte {
				v = bytes.Clone(v)
				v[bit/8] ^= 1 << (bit % 8)
				return v
			}
			switch v := value.(type) {
			case int64:
				set(v ^ 1<<bit)
			case string:
				set(string(turn([]byte(v))))
			case []byte:
				set(turn(v))
			}
			flips++
			entries, _, err := d.FeedAfter(t.Context(), "usage", 10)
			if column == "position" && err == nil && entries == nil {
				continue // it lies before the first: nobody finds it, and the audit misses it
			}
			if !errors.Is(err, ErrDamaged) || entries != nil {
				t.Errorf("bit %d of %s: the feed got %d entries, %v, want %v", bit, column, len(entries), err, ErrDamaged)
			}
		}
		set(value)
	}
	if flips < 3000 {
		t.Errorf("bits flipped: got %d, want all of some hundred bytes", flips)
	}
	d.proven()

	// Whoever else reads a record.
	if _, err := d.write.Exec(`UPDATE journal SET result = result || ' '`); err != nil {
		t.Fatal(err)
	}
	_, _, entries := d.Entries(t.Context(), odometer.EntryQuery{Limit: 10})
	_, usage := d.Usage(t.Context(), odometer.UsageQuery{From: base + 1, To: base + 40*sec})
	_, rebuilt := Rebuild(t.Context(), d.path, nil)
	_, _, feed := d.FeedAfter(t.Context(), "usage", 10)
	_, at := recordAt(t.Context(), d.read, odometer.AgentID("host-1").Partition(), 1)
	for who, err := range map[string]error{"entries": entries, "usage cut at an edge": usage, "rebuild": rebuilt, "feed": feed, "one record": at} {
		if !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: got %v, want %v", who, err, ErrDamaged)
		}
	}
}

// A record of version 1 that was damaged before the migration gets no checksum
// that would call it good.
func TestMigrationGivesNoChecksumToADamagedRecord(t *testing.T) {
	path := unpackGolden(t, 1)
	db, err := connect(path, "rw", 1)
	if err != nil {
		t.Fatal(err)
	}
	var id, all int64
	if err := db.QueryRow(`SELECT max(id), count(*) FROM journal WHERE entries > 0`).Scan(&id, &all); err != nil {
		t.Fatal(err)
	}
	if _, err := db.Exec(`UPDATE journal SET at_us = at_us + 1 WHERE id = ?`, id); err != nil {
		t.Fatal(err)
	}
	db.Close()
	l, err := openGolden(t, path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	good, damaged := 0, ""
	for r, err := range records(t.Context(), l.read, `WHERE entries > 0 ORDER BY id`) {
		switch {
		case err == nil:
			good++
		case errors.Is(err, ErrDamaged):
			damaged += fmt.Sprint(r.id)
		default:
			t.Fatal(err)
		}
	}
	if damaged != fmt.Sprint(id) || int64(good) != all-1 {
		t.Errorf("got %d good records and damaged %s, want %d and %d", good, damaged, all-1, id)
	}
}
