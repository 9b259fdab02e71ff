package ledger

import (
	"bytes"
	"errors"
	"flag"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

// allHours asks for everything, as finely as it can be asked.
var allHours = odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg, odometer.ByHour}}

// used is what was used, but for hours in which nothing is left.
func (d *desk) used() (rows []odometer.UsageRow) {
	d.t.Helper()
	return slices.DeleteFunc(d.usage(allHours), func(r odometer.UsageRow) bool {
		return r.Totals == [odometer.Quantities]odometer.Sum{} && r.Recovered.IsZero()
	})
}

func (d *desk) reverse(id odometer.EntryID) odometer.Entry {
	d.t.Helper()
	e, err := d.Reverse(d.t.Context(), id, "ada", "it was wrong")
	if err != nil {
		d.t.Fatal(err)
	}
	return e
}

// states is what the ledger knows of every epoch.
func (d *desk) states() (all []byte) {
	d.t.Helper()
	rows, err := d.write.Query(`SELECT body FROM state ORDER BY id`)
	if err != nil {
		d.t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			d.t.Fatal(err)
		}
		all = append(all, body...)
	}
	return all
}

// entry returns the last entry of a kind.
func (d *desk) entry(kind odometer.Kind) odometer.Entry {
	d.t.Helper()
	for _, e := range slices.Backward(d.entries()) {
		if e.Kind == kind {
			return e
		}
	}
	d.t.Fatalf("no entry of kind %s", kind)
	return odometer.Entry{}
}

func TestReverse(t *testing.T) {
	poisoned := func(d *desk) odometer.Entry { return d.entry(odometer.KindUsage) }
	long := func(d *desk, m *meter) {
		d.send(m.next(30*sec, 1e6, 7))
		d.send(m.next(2*odometer.HourMicros+1, 1_000_003, 77))
	}
	for _, c := range []struct {
		name string
		tell func(d *desk, m *meter) odometer.Entry
	}{
		{"its hour is open", func(d *desk, m *meter) odometer.Entry {
			d.send(m.next(30*sec, 1e6, 7), m.next(30*sec, 5e6, 7))
			return poisoned(d)
		}},
		{"it is all that there is", func(d *desk, m *meter) odometer.Entry {
			d.send(m.next(30*sec, 1e6, 7))
			return poisoned(d)
		}},
		{"its hour is sealed", func(d *desk, m *meter) odometer.Entry {
			long(d, m)
			e := poisoned(d)
			d.send(m.next(odometer.HourMicros, 1, 1))
			return e
		}},
		{"its hours are compacted", func(d *desk, m *meter) odometer.Entry {
			long(d, m)
			d.now = d.now.Add(40 * time.Hour)
			d.tick()
			d.reopen()
			return poisoned(d)
		}},
		{"its epoch has ended", func(d *desk, m *meter) odometer.Entry {
			long(d, m)
			e := m.next(30*sec, 1e6, 0)
			e.Final = true
			d.send(e)
			d.reopen()
			return poisoned(d)
		}},
		{"somebody else owns the machine by now", func(d *desk, m *meter) odometer.Entry {
			long(d, m)
			e := poisoned(d)
			m.owner = odometer.Owner{User: "u-bob"}
			d.send(m.next(30*sec, 5, 5))
			return e
		}},
		{"its owner is not entered yet, and the hour is silent", func(d *desk, m *meter) odometer.Entry {
			long(d, m)
			e := poisoned(d)
			m.owner = odometer.Owner{User: "u-bob"}
			d.send(m.next(30*sec, 5, 5))
			d.now = d.now.Add(3 * time.Hour)
			if err := d.sealSilent(d.t.Context()); err != nil {
				d.t.Fatal(err)
			}
			d.reopen()
			return e
		}},
		{"it was recovered", func(d *desk, m *meter) odometer.Entry {
			d.send(m.next(30*sec, 1e6, 7))
			m.next(odometer.HourMicros, 9e6, 1)
			d.want(d.send(m.next(30*sec, 1e6, 7)), "held hole")
			d.now = d.now.Add(26 * time.Hour)
			d.tick()
			return d.entry(odometer.KindRecovered)
		}},
		{"nobody measured it", func(d *desk, m *meter) odometer.Entry {
			d.send(m.next(30*sec, 1e6, 7))
			d.send(gap(m, m.next(30*sec, 0, 0)))
			return poisoned(d)
		}},
		{"it is the rest of an event of which a part had come", func(d *desk, m *meter) odometer.Entry {
			a, b := m.next(30*sec, 1e6, 7), m.next(30*sec, 2e6, 8)
			whole := *a
			merge(d.t, &whole, b)
			d.want(d.send(a, &whole), "recorded", "recorded")
			return poisoned(d)
		}},
		{"it was released from quarantine", func(d *desk, m *meter) odometer.Entry {
			d.send(m.next(30*sec, 1e6, 0))
			d.want(d.send(m.next(30*sec, 1<<50, 0)), "quarantined impossible")
			if _, err := d.Release(d.t.Context(), m.agent.Partition(), 1, "ada"); err != nil {
				d.t.Fatal(err)
			}
			return poisoned(d)
		}},
		{"it is of version 1.0", func(d *desk, _ *meter) odometer.Entry {
			at := base / sec
			d.want(d.commit(odometer.Frame{Agent: "http:a", Records: []odometer.Record{{Event: &odometer.Event{
				Version: odometer.Version10, Instance: "vm-old", Owner: odometer.Owner{User: "u-eve"}, Timestamp: at + 7000,
				Period: odometer.Period{Start: at - 7, End: at + 7000}, Metrics: odometer.Metrics{CPUSeconds: 40, MemoryGB: 0.3},
			}}}}), "recorded")
			return poisoned(d)
		}},
		{"it has members that nobody knows", func(d *desk, m *meter) odometer.Entry {
			e := m.next(30*sec, 1e6, 7)
			e.Extra = []odometer.Member{{Name: "note", Value: []byte(`"<&>"`)}, {In: "usage", Name: "tokens", Value: []byte(`3`)}}
			d.want(d.send(e), "recorded")
			return poisoned(d)
		}},
		{"it was booked before the ledger was restored", func(d *desk, m *meter) odometer.Entry {
			long(d, m)
			e := poisoned(d)
			copied := filepath.Join(d.t.TempDir(), "backup")
			if _, err := Backup(d.t.Context(), d.path, copied); err != nil {
				d.t.Fatal(err)
			}
			d.send(m.next(30*sec, 1e6, 7))
			d.restore(copied)
			return e
		}},
		{"it is a correction", func(d *desk, m *meter) odometer.Entry {
			long(d, m)
			return d.reverse(poisoned(d).ID)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t)
			d.now = time.UnixMicro(base + 6*odometer.HourMicros)
			old := c.tell(d, newMeter("vm-7", "host-1", base))
			before, states := d.used(), d.states()
			check := func(when string) {
				t.Helper()
				rows := map[usageKey]*odometer.UsageRow{}
				for _, r := range d.usage(allHours) {
					addRow(rows, &r)
				}
				for k, want := range slowUsage(d.entries(), allHours) {
					if got := rows[k]; got == nil || got.Totals != want.Totals || got.Recovered != want.Recovered {
						t.Errorf("%s: %+v: got %+v, want %+v", when, k, got, want)
					}
				}
				d.proven()
			}
			e := d.reverse(old.ID)
			if e.Kind != odometer.KindCorrection || e.Cause != "reverses "+old.ID.String()+": it was wrong" || e.SourceEventID != old.SourceEventID || e.BookedAt != d.now.UnixMicro() {
				t.Errorf("correction: got %s of %s at %d, cause %q", e.Kind, e.SourceEventID, e.BookedAt, e.Cause)
			}
			if ev := &e.Event; ev.ID() != old.Event.ID() || ev.Span != old.Event.Span || ev.Owner != old.Event.Owner || ev.Final || ev.Extra != nil || ev.Metrics != (odometer.Metrics{}) || ev.Readings != (odometer.Readings{}) {
				t.Errorf("correction: got %+v, want it to be of %+v", ev, old.Event)
			}
			for q, n := range old.Event.Usage.Vector {
				if e.Event.Usage.Vector[q] != -n {
					t.Errorf("%s: got %d, want %d", odometer.Quantity(q), e.Event.Usage.Vector[q], -n)
				}
			}
			if last := d.entries(); last[len(last)-1].ID != e.ID || e.Event.Usage.Known != old.Event.Usage.Known {
				t.Errorf("the last entry: got %s, want %s", last[len(last)-1].ID, e.ID)
			}
			if !bytes.Equal(d.states(), states) {
				t.Error("a watermark or an open hour moved")
			}
			check("reversed")
			d.reopen()
			d.now = d.now.Add(30 * time.Hour)
			d.tick()
			d.tick()
			check("compacted")
			again := d.reverse(e.ID)
			if again.Event.Usage != old.Event.Usage {
				t.Errorf("reversed again: got %v, want %v", again.Event.Usage, old.Event.Usage)
			}
			check("given again")
			if got := d.used(); !slices.Equal(got, before) {
				t.Errorf("given again: got\n%+v\nwant\n%+v", got, before)
			}
		})
	}
}

// A query that cuts an hour reads the journal: what is reversed is no more in
// either part, and neither is its recovered time.
func TestReversalsAreCut(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(30*sec, 1e6, 7))
	m.next(10*60*sec, 9e6, 1)
	d.want(d.send(m.next(30*sec, 1e6, 7)), "held hole")
	d.now = d.now.Add(26 * time.Hour)
	d.tick()
	e := d.reverse(d.entry(odometer.KindRecovered).ID)
	for _, c := range []struct{ cpu, recovered string }{{"2000000", "0"}, {"11000000", "600000000"}} {
		var cpu, recovered odometer.Sum
		for _, q := range []odometer.UsageQuery{{From: base - 1, To: base + 100*sec}, {From: base + 100*sec, To: 1 << 60}} {
			for _, r := range d.usage(q) {
				cpu.AddSum(r.Totals[odometer.CPU])
				recovered.AddSum(r.Recovered)
			}
		}
		if cpu.String() != c.cpu || recovered.String() != c.recovered {
			t.Errorf("got %s µs of cpu and %s recovered, want %s and %s", cpu, recovered, c.cpu, c.recovered)
		}
		e = d.reverse(e.ID)
	}
}

func TestReverseRefuses(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	p := m.agent.Partition()
	d.send(m.next(30*sec, 1e6, 7))
	old := d.entry(odometer.KindUsage)
	d.publishAll()
	d.now = d.now.Add(48 * time.Hour)
	d.send(m.next(30*sec, 1e6, 7), m.next(30*sec, 1e6, 7))
	d.publishAll()
	if r := d.prune(d.now, nil); r.Records != 1 {
		t.Fatalf("removed %d records, want one", r.Records)
	}
	m.at += odometer.HourMicros
	d.send(m.next(30*sec, 1, 1)) // in quarantine: a record without entries
	last := d.entry(odometer.KindUsage).ID
	by := d.reverse(last)
	second := odometer.EntryID{Partition: p, Number: last.Number - 1}
	for _, c := range []struct {
		name  string
		id    odometer.EntryID
		cause string
		want  error
		text  string
	}{
		{"an entry that is still to come", odometer.EntryID{Partition: p, Number: by.ID.Number + 1}, "why", odometer.ErrNotFound, "reverse entry"},
		{"an entry of a partition that has none", odometer.EntryID{Partition: (p + 1) % odometer.Partitions, Number: 1}, "why", odometer.ErrNotFound, ""},
		{"an entry of a partition that there is not", odometer.EntryID{Partition: odometer.Partitions, Number: 1}, "why", odometer.ErrNotFound, ""},
		{"an entry that was reversed", last, "why", odometer.ErrConflict, "it was reversed by entry " + by.ID.String()},
		{"an entry whose record was pruned", old.ID, "why", odometer.ErrConflict, "it was pruned"},
		{"no cause", second, "", odometer.ErrInvalid, "the cause is empty"},
		{"a cause of spaces", second, "  ", odometer.ErrInvalid, "the cause is empty"},
		{"a cause that is too long", second, strings.Repeat("a", MaxCauseBytes+1), odometer.ErrInvalid, "at most 512 are allowed"},
		{"a cause of two lines", second, "a\nb", odometer.ErrInvalid, "one line"},
		{"a cause that is no text", second, "a\xff", odometer.ErrInvalid, "printable"},
	} {
		t.Run(c.name, func(t *testing.T) {
			records := d.records()
			if _, err := d.Reverse(t.Context(), c.id, "ada", c.cause); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.text)
			}
			if s, err := d.Stats(t.Context()); err != nil || s.Err != "" || d.records() != records {
				t.Errorf("afterwards: %d records of %d, error %q, %v; want nothing written and the ledger well", d.records(), records, s.Err, err)
			}
		})
	}
	if e, err := d.Reverse(t.Context(), second, "ada", strings.Repeat("ü", MaxCauseBytes/2)); err != nil || e.Event.Usage.Vector[odometer.CPU] != -1e6 {
		t.Errorf("the longest cause: got %+v, %v, want it booked", e.Event.Usage, err)
	}
	d.proven()
}

// An entry of a damaged record is not reversed: nobody knows what it was.
func TestWhatCannotBeReadIsNotReversed(t *testing.T) {
	d := newDesk(t)
	d.send(newMeter("vm-7", "host-1", base).next(30*sec, 1e6, 7))
	id := d.entry(odometer.KindUsage).ID
	if _, err := d.write.Exec(`UPDATE journal SET checksum = checksum + 1`); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Reverse(t.Context(), id, "ada", "why"); !errors.Is(err, ErrDamaged) || !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("got %v, want %v and %v", err, ErrDamaged, odometer.ErrConflict)
	}
}

// A reversal that fails leaves nothing, and is made when it is asked for again;
// one that went through, unknown to whoever asked, is refused by its name.
func TestAReversalThatFailsLeavesNothing(t *testing.T) {
	d := newDesk(t)
	d.send(newMeter("vm-7", "host-1", base-odometer.HourMicros).next(90*60*sec, 1e6, 7))
	id := d.entry(odometer.KindUsage).ID
	before := d.used()
	for _, table := range []string{"hours", "reversals", "journal"} {
		if _, err := d.write.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON ` + table + ` BEGIN SELECT RAISE(ABORT, 'no space left'); END`); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Reverse(t.Context(), id, "ada", "why"); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Fatalf("%s: got %v, want what the store said", table, err)
		}
		if _, err := d.write.Exec(`DROP TRIGGER refuse`); err != nil {
			t.Fatal(err)
		}
		if got := d.used(); !slices.Equal(got, before) || d.records() != 1 {
			t.Errorf("%s: something was left: %+v", table, got)
		}
		d.proven()
	}
	e := d.reverse(id)
	d.reopen()
	if _, err := d.Reverse(t.Context(), id, "ada", "why"); !errors.Is(err, odometer.ErrConflict) || !strings.Contains(err.Error(), e.ID.String()) {
		t.Errorf("again: got %v, want %v by entry %s", err, odometer.ErrConflict, e.ID)
	}
	d.proven()
}

// TestReversalsArePruned prunes the journal between entries and their
// reversals, and behind them: what was reversed stays known, and rebuild never
// needs a record that is gone.
func TestReversalsArePruned(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	send := func() odometer.EntryID {
		t.Helper()
		d.want(d.send(m.next(30*sec, 1e6, 7)), "recorded")
		return d.entry(odometer.KindUsage).ID
	}
	prune := func() {
		t.Helper()
		d.now = d.now.Add(48 * time.Hour)
		d.tick()
		d.send(newMeter("vm-8", m.agent, d.now.UnixMicro()-sec).next(1, 0, 0)) // the last record stays
		d.publishAll()
		before := d.used()
		if r := d.prune(d.now, nil); r.Records == 0 {
			t.Error("nothing was pruned")
		}
		if got := d.used(); !slices.Equal(got, before) {
			t.Errorf("after pruning: got %+v, want %+v", got, before)
		}
		d.proven()
	}
	first, second := send(), send()
	d.reverse(first)
	d.now = d.now.Add(24 * time.Hour)
	by := d.reverse(second)
	d.publishAll()
	if r := d.prune(d.now, nil); r.Records != 2 {
		t.Errorf("the entries alone: got %d records removed, want 2 and that of the watermark kept", r.Records)
	}
	d.proven()
	again := d.reverse(by.ID)
	d.proven()
	prune()
	d.reopen()
	for _, c := range []struct {
		id   odometer.EntryID
		text string
	}{{first, "it was reversed by"}, {second, "it was reversed by"}, {by.ID, "it was reversed by"}, {again.ID, "it was pruned"}} {
		if _, err := d.Reverse(t.Context(), c.id, "ada", "why"); !errors.Is(err, odometer.ErrConflict) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("entry %s: got %v, want %v and %q", c.id, err, odometer.ErrConflict, c.text)
		}
	}
	copied := filepath.Join(t.TempDir(), "backup")
	if _, err := Backup(t.Context(), d.path, copied); err != nil {
		t.Fatal(err)
	}
	d.restore(copied)
	last := d.entry(odometer.KindUsage)
	d.reverse(last.ID)
	prune()
	if got := d.total(odometer.CPU); got != 1e6 {
		t.Errorf("in the end: got %d µs, want 1000000", got)
	}
}

// TestReversalsAddUp reverses entries at random in random stories, with upkeep
// and pruning between: what every owner used is what was received less what is
// reversed, whichever way it is asked, and the tables are a fold of the journal.
func TestReversalsAddUp(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("20") // a story commits some forty times
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t)
		tellUsage(rt, d)
		all := map[odometer.EntryID]odometer.Entry{} // also those that are pruned
		by := map[odometer.EntryID]odometer.EntryID{}
		list := func() []odometer.Entry {
			entries := d.entries()
			for _, e := range entries {
				all[e.ID] = e
			}
			return entries
		}
		for range rapid.IntRange(1, 12).Draw(rt, "reversals") {
			entries := list()
			if len(entries) == 0 {
				break
			}
			e := entries[rapid.IntRange(0, len(entries)-1).Draw(rt, "entry")]
			c, err := d.Reverse(t.Context(), e.ID, "ada", "why")
			_, before := by[e.ID]
			switch {
			case before != (err != nil), err != nil && !errors.Is(err, odometer.ErrConflict):
				rt.Fatalf("entry %s, reversed before %t: got %v", e.ID, before, err)
			case err == nil:
				by[e.ID], all[c.ID] = c.ID, c
			}
			switch rapid.IntRange(0, 5).Draw(rt, "then") {
			case 0:
				d.tick()
			case 1:
				d.now = d.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(rt, "hours")) * time.Hour)
				d.tick()
			case 2:
				d.reopen()
			case 3:
				list()
				d.publishAll()
				d.prune(d.now, nil)
			}
		}
		list()
		findEntries(rt, d)
		entries := make([]odometer.Entry, 0, len(all))
		owners := map[odometer.Owner]*odometer.Usage{} // received less reversed
		for id, e := range all {
			entries = append(entries, e)
			standing := e.Kind != odometer.KindCorrection
			for at, ok := by[id]; ok; at, ok = by[at] { // reversed, given again, reversed …
				standing = !standing
			}
			if owners[e.Event.Owner] == nil {
				owners[e.Event.Owner] = new(odometer.Usage)
			}
			if standing && e.Kind != odometer.KindCorrection {
				owners[e.Event.Owner].Add(e.Event.Usage)
			}
		}
		for _, r := range d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByUser, odometer.ByOrg}}) {
			want := owners[odometer.Owner{User: r.User, Org: r.Org}]
			for q, n := range r.Totals {
				if n != odometer.SumOf(want.Vector[q]) {
					rt.Errorf("%s of %s/%s: got %s, received and not reversed %d", odometer.Quantity(q), r.Org, r.User, n, want.Vector[q])
				}
			}
		}
		for _, by := range []odometer.GroupBy{odometer.ByHour, odometer.ByDay, odometer.ByMonth} {
			q := odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg, by}}
			compareUsage(rt, q, d.usage(q), slowUsage(entries, q))
		}
		d.proven()
	})
}

// A reversal that is refused leaves what the ledger keeps in memory as it is: a
// mistyped number does not have the next commits read everything again.
func TestARefusedReversalKeepsTheCache(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-1", "host-1", base)
	d.want(d.send(m.next(30*sec, 1, 0)), "recorded")
	id := d.entries()[0].ID
	if _, err := d.Reverse(t.Context(), odometer.EntryID{Partition: id.Partition, Number: 99}, "operator", "a typo"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("reverse an entry that there is not: got %v, want not found", err)
	}
	if d.fold.stale || len(d.fold.epochs) != 1 {
		t.Errorf("cached: got %d epochs, stale %t, want 1 and not", len(d.fold.epochs), d.fold.stale)
	}
	d.want(d.send(m.next(30*sec, 1, 0)), "recorded")
	d.proven()
}
