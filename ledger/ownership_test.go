package ledger

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

var (
	ada = odometer.Owner{User: "u-ada", Org: "o-acme"}
	bob = odometer.Owner{User: "u-bob", Org: "o-bolt"}
	eve = odometer.Owner{User: "u-eve"}
)

func (d *desk) assign(instance odometer.InstanceID, owner odometer.Owner, from, until int64) odometer.Assignment {
	d.t.Helper()
	a, err := d.Assign(d.t.Context(), odometer.Ownership{Instance: instance, Owner: owner, From: from, Until: until}, "ada", "sold")
	if err != nil {
		d.t.Fatal(err)
	}
	return a
}

// Assign is [Ledger.Assign] in earnest.
func (d *desk) Assign(ctx context.Context, o odometer.Ownership, actor, cause string) (odometer.Assignment, error) {
	return d.Ledger.Assign(ctx, o, actor, cause, false)
}

// charged is how much processor time each owner is charged.
func (d *desk) charged() map[odometer.Owner]int64 {
	d.t.Helper()
	of := map[odometer.Owner]int64{}
	for _, r := range d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByUser, odometer.ByOrg}}) {
		if n, _ := r.Totals[odometer.CPU].Int64(); n != 0 {
			of[odometer.Owner{User: r.User, Org: r.Org}] = n
		}
	}
	return of
}

// TestWhoIsCharged tells who owns a machine before and after it is used.
func TestWhoIsCharged(t *testing.T) {
	const minute = 60 * sec
	for _, c := range []struct {
		name  string
		tell  func(d *desk, m *meter)
		want  map[odometer.Owner]int64
		kinds string // of the entries
	}{
		{"nothing is recorded: whom the event names", func(d *desk, m *meter) {
			d.send(m.next(minute, 600, 1))
		}, map[odometer.Owner]int64{ada: 600}, "usage"},
		{"the record decides", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base-1, 0)
			d.send(m.next(minute, 600, 1), m.next(minute, 60, 1))
		}, map[odometer.Owner]int64{bob: 660}, "usage usage"},
		{"what the record says of another decides nothing", func(d *desk, m *meter) {
			d.assign("vm-8", bob, base-1, 0)
			d.send(m.next(minute, 600, 1))
		}, map[odometer.Owner]int64{ada: 600}, "usage"},
		{"nobody, on somebody's word", func(d *desk, m *meter) {
			d.assign(m.instance, odometer.Owner{User: odometer.Unassigned}, base-1, 0)
			d.send(m.next(minute, 600, 1))
		}, map[odometer.Owner]int64{{User: odometer.Unassigned}: 600}, "usage"},
		{"it is sold within an event", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base+20*sec, 0)
			d.assign(m.instance, eve, base+30*sec, base+45*sec)
			d.send(m.next(minute, 600, 1))
		}, map[odometer.Owner]int64{ada: 200, bob: 250, eve: 150}, "usage usage usage usage"},
		{"it is sold again before it is used", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base, 0)
			d.assign(m.instance, eve, base, 0)
			d.send(m.next(minute, 600, 1))
			d.reopen()
			d.send(m.next(minute, 60, 1))
		}, map[odometer.Owner]int64{eve: 660}, "usage usage"},
		{"it was sold within an event", func(d *desk, m *meter) {
			d.send(m.next(minute, 600, 1))
			d.assign(m.instance, bob, base+20*sec, 0)
			d.send(m.next(minute, 60, 1))
		}, map[odometer.Owner]int64{ada: 200, bob: 460}, "usage correction correction usage"},
		{"it was sold and bought back", func(d *desk, m *meter) {
			d.send(m.next(minute, 600, 1))
			d.assign(m.instance, bob, base+20*sec, 0)
			d.assign(m.instance, ada, base+20*sec, 0)
		}, map[odometer.Owner]int64{ada: 600}, "usage correction correction correction correction"},
		{"it is so already", func(d *desk, m *meter) {
			d.send(m.next(minute, 600, 1))
			d.assign(m.instance, bob, base, 0)
			before := d.records()
			d.assign(m.instance, bob, base+1, 0)
			if d.records() != before {
				d.t.Error("something was written")
			}
		}, map[odometer.Owner]int64{bob: 600}, "usage correction correction"},
		{"it ran on several hosts, over days", func(d *desk, m *meter) {
			d.send(m.next(30*odometer.HourMicros, 30_000_000, 1))
			other := newMeter(m.instance, "host-2", m.at)
			d.send(other.next(30*odometer.HourMicros, 3_000_000, 1))
			d.now = d.now.Add(80 * time.Hour)
			d.tick()
			d.assign(m.instance, bob, base+15*odometer.HourMicros, base+45*odometer.HourMicros)
		}, map[odometer.Owner]int64{ada: 16_500_000, bob: 16_500_000}, "-"},
		{"it was lent for a while", func(d *desk, m *meter) {
			m.at, m.start = base-4*odometer.HourMicros, base-4*odometer.HourMicros
			d.send(m.next(4*odometer.HourMicros, 24_000, 1))
			d.assign(m.instance, bob, base-210*minute, base-30*minute)
		}, map[odometer.Owner]int64{ada: 6_000, bob: 18_000}, "-"},
		{"it was recovered", func(d *desk, m *meter) {
			d.send(m.next(minute, 600, 1))
			m.next(minute, 60, 1)
			d.want(d.send(m.next(minute, 6, 1)), "held hole")
			d.assign(m.instance, bob, base+90*sec, 0)
			d.now = d.now.Add(26 * time.Hour)
			d.tick()
		}, map[odometer.Owner]int64{ada: 630, bob: 36}, "usage recovered recovered usage"},
		{"an event of version 1.0", func(d *desk, m *meter) {
			d.assign("vm-1", bob, base+20*sec, 0)
			d.commit(odometer.Frame{Agent: "http:1", Records: []odometer.Record{{Event: &odometer.Event{
				Version: odometer.Version10, Instance: "vm-1", Owner: ada, Metrics: odometer.Metrics{CPUSeconds: 6},
				Timestamp: base/sec + 60, Period: odometer.Period{Start: base / sec, End: base/sec + 60},
			}}}})
		}, map[odometer.Owner]int64{ada: 2_000_000, bob: 4_000_000}, "usage usage"},
		{"it is reversed after it was sold", func(d *desk, m *meter) {
			d.send(m.next(minute, 600, 1), m.next(minute, 60, 1))
			d.assign(m.instance, bob, base+20*sec, 0)
			d.reverse(d.entries()[0].ID)
		}, map[odometer.Owner]int64{bob: 60}, "-"},
		{"it is reversed, sold, and given again", func(d *desk, m *meter) {
			d.send(m.next(minute, 600, 1), m.next(minute, 60, 1))
			c := d.reverse(d.entries()[0].ID)
			d.assign(m.instance, bob, base+20*sec, 0)
			d.reverse(c.ID)
		}, map[odometer.Owner]int64{ada: 200, bob: 460}, "-"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t)
			c.tell(d, newMeter("vm-7", "host-1", base))
			if got := d.charged(); !maps.Equal(got, c.want) {
				t.Errorf("charged: got %v, want %v", got, c.want)
			}
			var kinds []string
			for _, e := range d.entries() {
				kinds = append(kinds, string(e.Kind))
			}
			if got := strings.Join(kinds, " "); c.kinds != "-" && got != c.kinds {
				t.Errorf("entries: got %s, want %s", got, c.kinds)
			}
			d.proven()
			d.reopen()
			if got := d.charged(); !maps.Equal(got, c.want) {
				t.Errorf("charged after a restart: got %v, want %v", got, c.want)
			}
		})
	}
}

// TestHistory lays times over one another and asks for each moment: the last one
// that has it decides.
func TestHistory(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var h history
		var last [30]odometer.Owner
		for range rapid.IntRange(1, 8).Draw(rt, "times") {
			o := odometer.Ownership{Owner: rapid.SampledFrom([]odometer.Owner{ada, bob, eve}).Draw(rt, "owner"), From: rapid.Int64Range(0, 20).Draw(rt, "from")}
			o.Until = o.From + rapid.Int64Range(1, 9).Draw(rt, "length")
			h = h.with(o)
			for at := o.From; at < o.Until; at++ {
				last[at] = o.Owner
			}
		}
		claimed := odometer.Owner{User: "u-claimed"}
		for at := range int64(len(last)) {
			want := cmp.Or(last[at], claimed)
			owner, until := h.at(at, claimed)
			if owner != want || h.covers(at) != (want != claimed) {
				rt.Fatalf("at %d of %+v: got %+v, want %+v", at, h, owner, want)
			}
			for later := at; later < min(until, int64(len(last))); later++ {
				if cmp.Or(last[later], claimed) != want {
					rt.Fatalf("at %d of %+v: said to hold until %d, and not at %d", at, h, until, later)
				}
			}
			if changes := at > 0 && cmp.Or(last[at-1], claimed) != want; changes != slices.Contains(h.edges(0, odometer.Forever), at) {
				rt.Fatalf("at %d of %+v: changes %t, edges %v", at, h, changes, h.edges(0, odometer.Forever))
			}
		}
	})
}

// TestPartsTellTheWhole compares the entries of an event that is split with it.
func TestPartsTellTheWhole(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.assign(m.instance, bob, base+odometer.HourMicros/3, base+odometer.HourMicros*2/3)
	e := m.next(odometer.HourMicros+7, 1_000_003, 77)
	e.Final = true
	d.want(d.send(e), "recorded")
	at, reading := e.Span.Start, e.Readings.Start
	var sum odometer.Usage
	entries := d.entries()
	for i, part := range entries {
		ev := &part.Event
		if part.SourceEventID != e.ID() || ev.ID() != e.ID() || ev.Span.Start != at || ev.Readings.Start.Vector != reading.Vector || ev.Final != (i == len(entries)-1) {
			t.Errorf("part %d: got %+v, want it to go on at %d from %v", i, part, at, reading)
		}
		for q, n := range ev.Usage.Vector {
			if ev.Readings.End.Vector[q]-ev.Readings.Start.Vector[q] != n {
				t.Errorf("part %d: %s is %d between %d and %d", i, odometer.Quantity(q), n, ev.Readings.Start.Vector[q], ev.Readings.End.Vector[q])
			}
		}
		at, reading = ev.Span.End, ev.Readings.End
		sum.Add(ev.Usage)
	}
	if len(entries) != 3 || at != e.Span.End || reading != e.Readings.End || sum.Vector != e.Usage.Vector {
		t.Errorf("got %d parts up to %d, %v in all; want 3 up to %d, %v", len(entries), at, sum, e.Span.End, e.Usage)
	}
	d.proven()
}

func TestAssignRefuses(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(30*sec, 600, 1))
	d.assign(m.instance, bob, base+odometer.HourMicros, 0)
	for _, c := range []struct {
		name  string
		o     odometer.Ownership
		cause string
		want  error
		text  string
	}{
		{"no instance", odometer.Ownership{Owner: bob}, "why", odometer.ErrInvalid, "instance"},
		{"no user", odometer.Ownership{Instance: "vm-7", Owner: odometer.Owner{Org: "o"}}, "why", odometer.ErrInvalid, "user"},
		{"an organisation with a space", odometer.Ownership{Instance: "vm-7", Owner: odometer.Owner{User: "u", Org: "o o"}}, "why", odometer.ErrInvalid, "org"},
		{"before 1970", odometer.Ownership{Instance: "vm-7", Owner: bob, From: -1}, "why", odometer.ErrInvalid, "from"},
		{"it ends before it begins", odometer.Ownership{Instance: "vm-7", Owner: bob, From: 5, Until: 5}, "why", odometer.ErrInvalid, "until"},
		{"no cause", odometer.Ownership{Instance: "vm-7", Owner: bob}, "", odometer.ErrInvalid, "cause"},
		{"a later change would go", odometer.Ownership{Instance: "vm-7", Owner: eve, From: base}, "why", odometer.ErrConflict, "say until when"},
	} {
		t.Run(c.name, func(t *testing.T) {
			records := d.records()
			if _, err := d.Assign(t.Context(), c.o, "ada", c.cause); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.text)
			}
			if d.records() != records || d.fold.stale {
				t.Error("something was written, or forgotten")
			}
		})
	}
	if h, err := d.Ownership(t.Context(), m.instance); err != nil || len(h) != 1 || h[0] != (odometer.Ownership{Instance: m.instance, Owner: bob, From: base + odometer.HourMicros, Until: odometer.Forever}) {
		t.Errorf("what is recorded: got %+v, %v", h, err)
	}
}

// TestADryAssignmentChangesNothing and says what the one in earnest does.
func TestADryAssignmentChangesNothing(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(30*sec, 600, 1))
	o := odometer.Ownership{Instance: m.instance, Owner: bob, From: base + 10*sec}
	before := d.records()
	dry, err := d.Ledger.Assign(t.Context(), o, "ada", "sold", true)
	if err != nil || d.records() != before || len(dry.Moves) != 1 || dry.Moves[0].Usage.Vector[odometer.CPU] != 400 || dry.Moves[0].From != ada {
		t.Errorf("got %+v, %v and %d records of %d; want 400 µs of Ada's to be moved, and nothing written", dry, err, d.records(), before)
	}
	if a := d.assign(o.Instance, o.Owner, o.From, 0); fmt.Sprint(a) != fmt.Sprint(dry) {
		t.Errorf("in earnest: got %+v, want %+v", a, dry)
	}
	if again := d.assign(o.Instance, eve, o.From, 0); len(again.Replaces) != 1 || again.Replaces[0].Owner != bob {
		t.Errorf("replaced: got %+v, want Bob's time", again.Replaces)
	}
}

// TestMovesAreNotReversed but by assigning the instance anew.
func TestMovesAreNotReversed(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(30*sec, 600, 1))
	d.assign(m.instance, bob, base, 0)
	for _, e := range d.entries() {
		_, err := d.Reverse(t.Context(), e.ID, "ada", "why")
		if moved := e.Kind == odometer.KindCorrection; moved != (errors.Is(err, odometer.ErrConflict) && strings.Contains(err.Error(), "assign")) {
			t.Errorf("%s %s: got %v", e.Kind, e.ID, err)
		}
	}
	d.proven()
}

// TestAnAssignmentThatFailsLeavesNothing and is made when it is asked for again.
func TestAnAssignmentThatFailsLeavesNothing(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base-odometer.HourMicros)
	d.send(m.next(90*60*sec, 1e6, 7))
	before := d.used()
	for _, table := range []string{"ownership", "hours", "journal", "owner_epochs"} {
		if _, err := d.write.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON ` + table + ` BEGIN SELECT RAISE(ABORT, 'no space left'); END`); err != nil {
			t.Fatal(err)
		}
		if _, err := d.Assign(t.Context(), odometer.Ownership{Instance: m.instance, Owner: bob, From: base}, "ada", "sold"); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Fatalf("%s: got %v, want what the store said", table, err)
		}
		if _, err := d.write.Exec(`DROP TRIGGER refuse`); err != nil {
			t.Fatal(err)
		}
		if got := d.used(); !slices.Equal(got, before) {
			t.Errorf("%s: something was left: %+v", table, got)
		}
		d.proven()
	}
	d.assign(m.instance, bob, base, 0)
	d.proven()
}

// TestAPrunedHourIsNotSplit moves whole hours of a journal that was pruned, and
// refuses to split one.
func TestAPrunedHourIsNotSplit(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base-4*odometer.HourMicros)
	d.want(d.send(m.next(4*odometer.HourMicros, 4_000, 1)), "recorded")
	d.now = d.now.Add(48 * time.Hour)
	d.tick()
	d.send(m.next(30*sec, 10, 1)) // the record of a watermark stays
	d.publishAll()
	if r := d.prune(d.now, nil); r.Records == 0 {
		t.Fatal("nothing was pruned")
	}
	hour := base - 2*odometer.HourMicros
	if _, err := d.Assign(t.Context(), odometer.Ownership{Instance: m.instance, Owner: bob, From: hour + 1}, "ada", "sold"); !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), "pruned") {
		t.Errorf("within an hour: got %v", err)
	}
	d.assign(m.instance, bob, hour, hour+odometer.HourMicros)
	if got := d.charged(); got[bob] != 1000 || got[ada] != 3010 {
		t.Errorf("got %v, want an hour moved", got)
	}
	d.proven()
}

// TestWhatIsPrunedSaysWhomItCharged prunes events of which it was decided in another
// partition whose they are.
func TestWhatIsPrunedSaysWhomItCharged(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base-4*odometer.HourMicros)
	for i := 0; m.instance.Partition() <= m.agent.Partition(); i++ { // is pruned after the events
		m.instance = odometer.InstanceID(fmt.Sprint("vm-", i))
	}
	d.assign(m.instance, bob, base-3*odometer.HourMicros, 0)
	d.want(d.send(m.next(30*60*sec, 40, 1), m.next(3*odometer.HourMicros, 300, 1), m.next(60*sec, 6, 1)), "recorded", "recorded", "recorded")
	d.now = d.now.Add(48 * time.Hour)
	d.tick()
	d.send(m.next(30*sec, 10, 1)) // the record of a watermark stays
	d.publishAll()
	before := d.charged()
	if r := d.prune(d.now, nil); r.Records == 0 {
		t.Fatal("nothing was pruned")
	}
	if got := d.charged(); !maps.Equal(got, before) || got[bob] != 266 {
		t.Errorf("got %v, want %v", got, before)
	}
	d.proven()
}

// TestOwnersAddUp assigns machines at random, in the past and for the future, in
// random stories in which entries are reversed and hours sealed and packed: what is
// used stays the same, nobody but its owner has anything of a machine, however time
// is cut at the moments at which the owner changes, and the tables are a fold of
// the journal.
func TestOwnersAddUp(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("25") // a story commits some forty times
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t)
		tellUsage(rt, d)
		total := func() []odometer.UsageRow {
			return slices.DeleteFunc(d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance}}), func(r odometer.UsageRow) bool {
				return r.Totals == [odometer.Quantities]odometer.Sum{}
			})
		}
		for range rapid.IntRange(1, 12).Draw(rt, "decisions") {
			instance := rapid.SampledFrom([]odometer.InstanceID{"vm-0", "vm-1", "vm-2"}).Draw(rt, "instance")
			before := total()
			o := odometer.Ownership{Instance: instance, Owner: rapid.SampledFrom([]odometer.Owner{ada, bob, eve, {User: odometer.Unassigned}}).Draw(rt, "owner")}
			o.From = drawTime(rt, "from", 0, 1<<60-2)
			if o.Until = odometer.Forever; rapid.Bool().Draw(rt, "ends") {
				o.Until = drawTime(rt, "until", o.From+1, 1<<60)
			}
			if _, err := d.Assign(t.Context(), o, "ada", "sold"); err != nil {
				rt.Fatal(err)
			}
			if after := total(); fmt.Sprint(after) != fmt.Sprint(before) {
				rt.Fatalf("assigning %+v changed what was used: got %+v, before %+v", o, after, before)
			}
			switch rapid.IntRange(0, 6).Draw(rt, "then") {
			case 0:
				d.tick()
			case 1:
				d.now = d.now.Add(time.Duration(rapid.IntRange(1, 60).Draw(rt, "hours")) * time.Hour)
				d.tick()
			case 2:
				d.reopen()
			case 3:
				list := d.entries()
				if len(list) == 0 { // all of it is held
					break
				}
				e := list[rapid.IntRange(0, len(list)-1).Draw(rt, "entry")]
				if _, err := d.Reverse(t.Context(), e.ID, "ada", "why"); err != nil && !errors.Is(err, odometer.ErrConflict) {
					rt.Fatal(err)
				}
			case 4:
				m := newMeter(instance, "host-9", usageBase+rapid.Int64Range(0, usageHours).Draw(rt, "start")*odometer.HourMicros+int64(len(d.entries())))
				d.send(m.next(rapid.Int64Range(1, 30*odometer.HourMicros).Draw(rt, "length"), 1_000_003, 77))
			}
		}
		entries, recovered := d.entries(), map[odometer.EntryID]bool{}
		maps.Copy(recovered, recoveries(entries))
		rows, err := d.read.Query(`SELECT partition, entry FROM moved`)
		if err != nil {
			rt.Fatal(err)
		}
		for rows.Next() {
			var id odometer.EntryID
			if err := rows.Scan(&id.Partition, &id.Number); err != nil {
				rt.Fatal(err)
			}
			recovered[id] = true
		}
		rows.Close()
		for range 4 {
			q := drawQuery(rt)
			compareUsage(rt, q, d.usage(q), slowUsageOf(entries, recovered, q))
		}
		for _, instance := range []odometer.InstanceID{"vm-0", "vm-1", "vm-2"} {
			h, err := d.Ownership(t.Context(), instance)
			if err != nil {
				rt.Fatal(err)
			}
			for i, o := range h {
				if i > 0 && (h[i-1].Until > o.From || h[i-1].Until == o.From && h[i-1].Owner == o.Owner) {
					rt.Errorf("times overlap or are not joined: %+v", h)
				}
				for _, r := range d.usage(odometer.UsageQuery{Instance: instance, From: o.From, To: min(o.Until, 1<<60), GroupBy: []odometer.GroupBy{odometer.ByUser, odometer.ByOrg}}) {
					if had := (odometer.Owner{User: r.User, Org: r.Org}); had != o.Owner && (r.Totals != [odometer.Quantities]odometer.Sum{} || !r.Recovered.IsZero()) {
						rt.Errorf("%s is %+v's from %d to %d, and %+v has %v, %v recovered", instance, o.Owner, o.From, o.Until, had, r.Totals, r.Recovered)
					}
				}
			}
		}
		d.proven()
	})
}

// BenchmarkWhoIsCharged looks up who is charged for an event of an epoch that is
// cached, whose instance was sold three times.
func BenchmarkWhoIsCharged(b *testing.B) {
	e := &epoch{ownersKnown: true}
	for i, owner := range []odometer.Owner{ada, bob, eve} {
		e.owners = e.owners.with(odometer.Ownership{Instance: "vm-7", Owner: owner, From: base + int64(i)*odometer.HourMicros, Until: odometer.Forever})
	}
	f := &fold{someOwned: true}
	span := odometer.Span{Start: base + 3*odometer.HourMicros, End: base + 3*odometer.HourMicros + 30*sec}
	b.ReportAllocs()
	for b.Loop() {
		if p, err := f.payers(e, span, ada, 1); err != nil || len(p) != 1 || p[0].owner != eve {
			b.Fatal(p, err)
		}
	}
}
