package ledger

import (
	"errors"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// booked reads what a reader at a record is given until there is no more.
func (d *desk) booked(after int64) (ids []odometer.EntryID, last, removed int64) {
	d.t.Helper()
	for last = after; ; {
		entries, numbers, at, gone, err := d.Booked(d.t.Context(), last, 0, 3)
		if err != nil || len(entries) != len(numbers) {
			d.t.Fatalf("after %d: got %d entries of %d records, %v", last, len(entries), len(numbers), err)
		}
		for i := range entries {
			ids = append(ids, entries[i].ID)
		}
		removed += gone
		if at == last {
			return ids, last, removed
		}
		last = at
	}
}

// TestWhatWasPrunedIsCountedToReaders: a reader is told of all records that were pruned
// before he read them, and of none that he did read, wherever he stands and whatever was
// pruned since, by numbers of records and by cursors.
func TestWhatWasPrunedIsCountedToReaders(t *testing.T) {
	d := newDesk(t)
	tellGolden(d)
	d.publishAll()
	all, end, removed := d.booked(0)
	if len(all) == 0 || len(all) != len(d.entries()) || removed != 0 {
		t.Fatalf("before anything is pruned: got %d entries of %d, %d records removed", len(all), len(d.entries()), removed)
	}
	cut := time.UnixMicro(base - 50*odometer.HourMicros)
	for day := 1; day <= 3; day++ {
		d.prune(cut.AddDate(0, 0, day), nil)
		for after := range end + 1 {
			ids, last, removed := d.booked(after)
			var gone int64
			err := d.read.QueryRow(`SELECT (SELECT count(*) FROM (WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ?2) SELECT id FROM n) WHERE id > ?1
				AND id NOT IN (SELECT id FROM journal WHERE position > coalesce((SELECT position FROM heads h WHERE h.partition = journal.partition), 0)))`, after, end).Scan(&gone)
			if err != nil || last != end || removed != gone {
				t.Fatalf("day %d, after %d of %d: told of %d removed, %d are, %v; stopped at %d", day, after, end, removed, gone, err, last)
			}
			if gone == 0 && !slices.Equal(ids, all[len(all)-len(ids):]) {
				t.Errorf("day %d, after %d: got %d entries, want the last of all", day, after, len(ids))
			}
			if n, err := d.Removed(t.Context(), spot{id: after + 1}.cursor(1), spot{id: end + 1}.cursor(1)); err != nil || n != gone {
				t.Errorf("day %d, by cursor after %d: told of %d removed, %v, %d are", day, after, n, err, gone)
			}
		}
	}
	if _, _, removed := d.booked(0); removed == 0 || removed == end {
		t.Fatalf("%d of %d records were pruned, want some", removed, end)
	}
	for what, c := range map[string]struct {
		after, upTo string
		want        int64
	}{
		"from the beginning":                          {"", spot{id: 2}.cursor(1), 1},
		"a record of which some was read":             {spot{id: 1, index: 1}.cursor(1), spot{id: 2}.cursor(1), 1},
		"nothing in between":                          {spot{id: 2}.cursor(1), spot{id: 2}.cursor(1), 0},
		"one record, of which some was read in a row": {spot{id: 1, index: 1}.cursor(1), spot{id: 1, index: 2}.cursor(1), 0},
	} {
		if n, err := d.Removed(t.Context(), c.after, c.upTo); err != nil || n != c.want {
			t.Errorf("%s: got %d, %v, want %d", what, n, err, c.want)
		}
	}
	for _, c := range [][2]string{{"nowhere", ""}, {"", "nowhere"}} {
		if _, err := d.Removed(t.Context(), c[0], c[1]); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%q: got %v, want it refused", c, err)
		}
	}
}

// TestAReaderBeyondTheEnd is told that the ledger has not what he read.
func TestAReaderBeyondTheEnd(t *testing.T) {
	d := newDesk(t)
	d.send(newMeter("vm-a", "host-1", base).next(30*sec, 1e6, 1))
	_, end, _ := d.booked(0)
	if _, _, last, removed, err := d.Booked(t.Context(), end+1, 0, 10); !errors.Is(err, odometer.ErrConflict) || last != end+1 || removed != 0 {
		t.Errorf("got %v at %d, want it refused", err, last)
	}
}

// TestFollowersFromMemoryHaveNoGap: where nobody followed the ledger until records were
// pruned, what is kept in memory does not go on over what is gone, and the next who follows
// from there can tell.
func TestFollowersFromMemoryHaveNoGap(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	d.send(m.next(30*sec, 1e6, 1))
	follow := func(after string) (n int, next string, removed int64) {
		t.Helper()
		list, next, err := d.Follow(t.Context(), odometer.EntryQuery{After: after})
		if err == nil {
			removed, err = d.Removed(t.Context(), after, next)
		}
		if err != nil {
			t.Fatal(err)
		}
		return len(list), next, removed
	}
	_, at, _ := follow("") // the tail begins
	if n, _, _ := follow(at); n != 0 {
		t.Fatalf("got %d entries, want none yet", n)
	}
	for range 3 {
		d.send(m.next(30*sec, 1e6, 1))
	}
	d.publishAll()
	if n := d.prune(d.now.AddDate(0, 0, 2), nil).Records; n != 3 {
		t.Fatalf("%d records were pruned, want 3", n)
	}
	n, next, removed := follow(at)
	if n != 1 || removed != 2 {
		t.Errorf("got %d entries and %d removed, want the last and 2", n, removed)
	}
	d.send(m.next(30*sec, 1e6, 1))
	if n, _, removed := follow(next); n != 1 || removed != 0 {
		t.Errorf("then: got %d entries and %d removed, want 1 and 0", n, removed)
	}
}
