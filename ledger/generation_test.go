package ledger

import (
	"fmt"
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
