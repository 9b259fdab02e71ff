package ledger

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// restore brings back the ledger as it was when the copy was made.
func (d *desk) restore(copied string) {
	d.t.Helper()
	if err := d.Close(); err != nil {
		d.t.Fatal(err)
	}
	if _, err := Restore(d.t.Context(), copied, d.path, RestoreOptions{Now: d.now, Replace: true}); err != nil {
		d.t.Fatal(err)
	}
	d.Ledger = nil
	d.reopen()
}

// TestNoNumberIsGivenToTwoEntries restores a ledger twice from one backup and
// goes on each time: what was published meanwhile has other numbers than what
// is booked anew, and ordinals are dense.
func TestNoNumberIsGivenToTwoEntries(t *testing.T) {
	d := newDesk(t)
	seen := map[odometer.EntryID]string{}
	publish := func() {
		t.Helper()
		for {
			entries, at, err := d.FeedAfter(t.Context(), "usage", 3)
			if err != nil {
				t.Fatal(err)
			}
			if len(entries) == 0 {
				return
			}
			for _, e := range entries {
				what := fmt.Sprint(e.SourceEventID, e.BookedAt, e.Event.Usage.Vector)
				if was, ok := seen[e.ID]; ok && was != what {
					t.Errorf("entry %s was %s and is %s", e.ID, was, what)
				}
				seen[e.ID] = what
			}
			if err := d.FeedAdvance(t.Context(), "usage", at, "stream-1", uint64(len(seen)), uint64(len(seen))); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := newMeter("vm-a", "host-1", base)
	for range 5 {
		d.send(m.next(30*sec, 1e6, 1))
	}
	publish()
	copied := t.TempDir() + "/backup"
	if _, err := Backup(t.Context(), d.path, copied); err != nil {
		t.Fatal(err)
	}
	spool := d.pos
	var generations []uint64
	for round := range 3 {
		again := *m
		if round > 0 {
			d.now = d.now.Add(10 * time.Second)
			d.restore(copied)
			d.pos = spool
			again.owner = odometer.Owner{User: odometer.UserID(fmt.Sprint("u-", round))} // what is booked anew may differ
		}
		r := d.Receipt("host-1", goldenSpool)
		if r.Position != spool {
			t.Fatalf("round %d: receipted %d, want %d", round, r.Position, spool)
		}
		generations = append(generations, r.Generation)
		for range 3 {
			d.send(again.next(30*sec, 1e6, 1))
		}
		s, err := d.Stats(t.Context())
		if err != nil || s.Entries != 8 {
			t.Errorf("round %d: got %d entries, %v, want 8", round, s.Entries, err)
		}
		if lag, err := d.FeedLag(t.Context(), "usage"); err != nil || lag != 3 {
			t.Errorf("round %d: lag %d, %v, want 3", round, lag, err)
		}
		publish()
		for i, e := range d.entries() {
			want := generations[0]
			if i >= 5 {
				want = r.Generation
			}
			if e.ID.Ordinal() != uint64(i+1) || e.ID.Generation() != want {
				t.Errorf("round %d: entry %s has ordinal %d and generation %d, want %d and %d", round, e.ID, e.ID.Ordinal(), e.ID.Generation(), i+1, want)
			}
		}
		d.proven()
		list, err := d.Generations(t.Context())
		if err != nil || len(list) != min(round, 1) { // each restore forgets the one before
			t.Fatalf("round %d: generations %+v, %v, want %d", round, list, err, min(round, 1))
		}
		if p := odometer.AgentID("host-1").Partition(); round > 0 && (list[0].Generation != r.Generation || list[0].After[p] != 5 || list[0].After[(p+1)%odometer.Partitions] != 0) {
			t.Errorf("round %d: got %+v, want generation %d after entry 5 of partition %d", round, list[0], r.Generation, p)
		}
	}
	if generations[0] != 1 || generations[1] <= 1 || generations[2] <= generations[1] {
		t.Errorf("generations: got %v, want each later than the one before", generations)
	}
	if len(seen) != 5+3*3 {
		t.Errorf("entries published: got %d, want %d", len(seen), 5+3*3)
	}
}

// TestACursorFromBeforeTheRestore: whoever kept a cursor outside of a ledger that was
// restored is led on where the backup has what he read, and refused where it has not,
// though the ledger has grown past the place since.
func TestACursorFromBeforeTheRestore(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	send := func(m *meter, n int) {
		for range n {
			d.send(m.next(30*sec, 1e6, 1))
		}
	}
	// end is the cursor after all that is booked, mid the one before the last entry.
	where := func() (mid, end string) {
		t.Helper()
		list, next, err := d.Follow(t.Context(), odometer.EntryQuery{})
		if err != nil {
			t.Fatal(err)
		}
		return list[len(list)-2].Cursor, next
	}
	// leads asks in every way what comes after a cursor: nil where it is refused.
	leads := func(cursor string) (ids []odometer.EntryID) {
		t.Helper()
		q := odometer.EntryQuery{After: cursor, Limit: 100}
		list, _, err := d.Entries(t.Context(), q)
		followed, _, err2 := d.Follow(t.Context(), q)
		var each []odometer.EntryID
		err3 := d.EachEntry(t.Context(), q, func(e *odometer.Entry) error { each = append(each, e.ID); return nil })
		if errors.Is(err, odometer.ErrInvalid) && errors.Is(err2, odometer.ErrInvalid) && errors.Is(err3, odometer.ErrInvalid) {
			return nil
		}
		if err := errors.Join(err, err2, err3); err != nil {
			t.Fatal(err)
		}
		ids = []odometer.EntryID{}
		for i := range list {
			ids = append(ids, list[i].ID)
		}
		if len(followed) != len(ids) || !slices.Equal(each, ids) {
			t.Fatalf("after %s: got %v, %d that follow and %v of all", cursor, ids, len(followed), each)
		}
		return ids
	}
	send(m, 3)
	mid, end := where()
	copied := t.TempDir() + "/backup"
	if _, err := Backup(t.Context(), d.path, copied); err != nil {
		t.Fatal(err)
	}
	spool, again := d.pos, *m
	send(m, 2)
	lostMid, lostEnd := where()
	for round := range 2 { // from one backup, twice
		d.now = d.now.Add(2 * time.Minute)
		d.restore(copied)
		d.pos = spool
		more := again
		send(&more, 4)
		ids := leads("")
		if len(ids) != 7 {
			t.Fatalf("round %d: got the entries %v, want 7", round, ids)
		}
		if got := leads(mid); !slices.Equal(got, ids[2:]) {
			t.Errorf("round %d: within the backup: got %v of %v", round, got, ids)
		}
		if got := leads(end); !slices.Equal(got, ids[3:]) {
			t.Errorf("round %d: at the end of the backup: got %v of %v", round, got, ids)
		}
		for _, cursor := range []string{lostMid, lostEnd} {
			if got := leads(cursor); got != nil {
				t.Errorf("round %d: beyond the backup: got %v, want it refused", round, got)
			}
		}
		lostMid, lostEnd = where()
		if got := leads(lostEnd); got == nil || len(got) != 0 {
			t.Errorf("round %d: given out since: got %v, want nothing more", round, got)
		}
		if got := leads(lostMid); len(got) != 1 {
			t.Errorf("round %d: given out since: got %v, want the last", round, got)
		}
	}
	if _, _, err := d.Follow(t.Context(), odometer.EntryQuery{After: spot{id: 1, index: 1}.cursor(d.gen + 1)}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("of a later generation: got %v, want it refused", err)
	}
	for _, wrong := range []string{"1.1.0", "1.1.-1", "1.1.x", "1.1.1.1"} {
		if _, _, err := parseCursor(base64.RawURLEncoding.EncodeToString([]byte(wrong))); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%s: got %v, want it refused", wrong, err)
		}
	}
}
