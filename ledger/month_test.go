package ledger

import (
	"errors"
	"flag"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

func month(t interface{ Fatal(...any) }, text string) odometer.Month {
	m, err := odometer.ParseMonth(text)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// close closes a month with everything that is missing accepted.
func (d *desk) close(m odometer.Month, org ...odometer.OrgID) odometer.MonthClosed {
	d.t.Helper()
	c := odometer.MonthClose{Month: m, AcceptGaps: true, Actor: "ada", Cause: "it is over"}
	if len(org) > 0 {
		c.Org = &org[0]
	}
	r, err := d.CloseMonth(d.t.Context(), c)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// texts are the texts of all statements, by id.
func (d *desk) texts() map[string]string {
	d.t.Helper()
	list, err := d.Statements(d.t.Context(), odometer.StatementQuery{View: odometer.Everything})
	if err != nil {
		d.t.Fatal(err)
	}
	texts := map[string]string{}
	for _, i := range list {
		s, text, err := d.Statement(d.t.Context(), odometer.Everything, i.ID)
		if err != nil {
			d.t.Fatal(err)
		}
		if s.Info() != i || s.ID() != i.ID || odometer.StatementHash(text) != i.Hash {
			d.t.Errorf("statement %s: got %+v of its text, want %+v", i.ID, s.Info(), i)
		}
		texts[i.ID] = string(text)
	}
	return texts
}

// sums writes down the rows that have anything, by what they are of.
func sums(rows []odometer.UsageRow) map[string]string {
	m := map[string]string{}
	for _, r := range rows {
		if r.Totals != [odometer.Quantities]odometer.Sum{} || !r.Recovered.IsZero() {
			m[fmt.Sprint(odometer.MonthOf(r.Start), " ", r.Org, "/", r.User, " ", r.Instance)] = fmt.Sprint(r.Totals, r.Recovered)
		}
	}
	return m
}

// lines is sums of each row.
func lines(rows []odometer.UsageRow) map[string]string {
	m := map[string]string{}
	for _, r := range rows {
		if r.Totals != [odometer.Quantities]odometer.Sum{} || !r.Recovered.IsZero() {
			m[fmt.Sprint(r.Start, " ", r.Org, "/", r.User, " ", r.Instance)] = fmt.Sprint(r.Totals, r.Recovered, r.Apportioned)
		}
	}
	return m
}

// revisable are questions of which each finds what it takes away in another way: by
// months that are packed, by days of a zone that cut hours, in a time that cuts hours
// itself, and of what is granted.
func revisable() []odometer.UsageQuery {
	daily := []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByDay}
	granted := grantedTo(odometer.Owner{}, usageBase+usageHours/2*odometer.HourMicros)
	const half = int64(odometer.HourMicros) / 2
	return []odometer.UsageQuery{
		yearsUsed,
		{From: 0, To: yearsUsed.To, GroupBy: daily, Zone: zone("Asia/Kolkata")},
		{From: usageBase + 10*odometer.HourMicros + half, To: usageBase + 70*odometer.HourMicros + half + 1, Zone: zone("Asia/Kolkata")},
		{From: usageBase + 7*sec, To: usageBase + 40*odometer.HourMicros - 7*sec, GroupBy: []odometer.GroupBy{odometer.ByOrg}},
		{From: usageBase + half, To: yearsUsed.To, GroupBy: daily, Zone: zone("Asia/Kathmandu"), View: granted},
		{From: 0, To: yearsUsed.To, GroupBy: monthly, View: granted},
	}
}

func differ(a, b map[string]string) (list []string) {
	for k := range a {
		if a[k] != b[k] {
			list = append(list, fmt.Sprintf("%s: got %s, want %s", k, a[k], b[k]))
		}
	}
	for k := range b {
		if _, ok := a[k]; !ok {
			list = append(list, fmt.Sprintf("%s: got nothing, want %s", k, b[k]))
		}
	}
	return list
}

var (
	monthly   = []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg, odometer.ByMonth}
	yearsUsed = odometer.UsageQuery{From: 0, To: time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro(), GroupBy: monthly}
)

// cut is what a closing cut off: the entries up to which it has.
type cutOff struct {
	month odometer.Month
	org   odometer.OrgID // "*" for everybody
	marks map[int]uint64
}

// adjustsBy reports whether an entry was booked after a month was closed for its owner.
func adjustsBy(cuts []cutOff, e *odometer.Entry, m odometer.Month) bool {
	for _, c := range cuts { // an organisation's own comes first
		if c.month == m && (c.org == e.Event.Owner.Org || c.org == "*") {
			return e.ID.Number > c.marks[e.ID.Partition]
		}
	}
	return false
}

// TestMonthsAddUp closes months at random, of one organisation or of everybody, while
// events come late, entries are reversed, machines change hands and hours are sealed
// and packed. A statement never changes and is what its month has by time of booking;
// by time of booking and by time of use all adds up to the same, as an entry at a time
// tells; what the ledger knew at a moment it tells later; and all of it is a fold of
// the journal.
func TestMonthsAddUp(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("20") // a story commits some forty times
		defer f.Value.Set(f.DefValue)
	}
	adjusted := 0
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t)
		tellUsage(rt, d)
		january := odometer.MonthOf(usageBase)
		texts := map[string]string{}
		var cuts []cutOff
		type moment struct {
			at   int64
			knew []map[string]string // of asked
		}
		asked := revisable()
		var moments []moment
		for range rapid.IntRange(4, 16).Draw(rt, "steps") {
			d.now = d.now.Add(time.Second)
			instance := rapid.SampledFrom([]odometer.InstanceID{"vm-0", "vm-1", "vm-2"}).Draw(rt, "instance")
			switch rapid.IntRange(0, 8).Draw(rt, "then") {
			case 0:
				d.tick()
			case 1:
				d.now = d.now.Add(time.Duration(rapid.IntRange(1, 600).Draw(rt, "hours")) * time.Hour)
				d.tick()
			case 2:
				d.reopen()
			case 3:
				if list := d.entries(); len(list) > 0 {
					e := list[rapid.IntRange(0, len(list)-1).Draw(rt, "entry")]
					if _, err := d.Reverse(t.Context(), e.ID, "ada", "why"); err != nil && !errors.Is(err, odometer.ErrConflict) {
						rt.Fatal(err)
					}
				}
			case 4:
				m := newMeter(instance, "host-9", usageBase+rapid.Int64Range(0, usageHours).Draw(rt, "start")*odometer.HourMicros+int64(d.records()))
				m.owner = rapid.SampledFrom([]odometer.Owner{ada, bob, eve}).Draw(rt, "owner")
				d.send(m.next(rapid.Int64Range(1, 60*odometer.HourMicros).Draw(rt, "length"), 1_000_003, 77))
			case 5:
				o := odometer.Ownership{Instance: instance, Owner: rapid.SampledFrom([]odometer.Owner{ada, bob, eve}).Draw(rt, "owner"), Until: odometer.Forever}
				o.From = drawTime(rt, "from", 0, 1<<60-2)
				if _, err := d.Assign(t.Context(), o, "ada", "sold"); err != nil {
					rt.Fatal(err)
				}
			case 6:
				m := moment{at: d.now.UnixMicro()}
				for _, q := range asked {
					m.knew = append(m.knew, lines(d.usage(q)))
				}
				moments = append(moments, m)
			default:
				c := odometer.MonthClose{Month: rapid.SampledFrom([]odometer.Month{january, january.Next()}).Draw(rt, "month"), AcceptGaps: true, Actor: "ada", Cause: "it is over"}
				cut := cutOff{month: c.Month, org: "*", marks: map[int]uint64{}}
				if org := rapid.SampledFrom([]odometer.OrgID{"", ada.Org, bob.Org}).Draw(rt, "org"); org != "" {
					c.Org, cut.org = &org, org
				}
				for p, h := range d.fold.heads {
					cut.marks[p] = h.entry
				}
				if c.Month.End() > d.now.UnixMicro() && rapid.Bool().Draw(rt, "wait") {
					d.now = time.UnixMicro(c.Month.End()).Add(time.Hour)
				}
				_, err := d.CloseMonth(t.Context(), c)
				if err != nil && !refusal(err) {
					rt.Fatal(err)
				}
				if err == nil {
					cuts = append(cuts, cut)
				}
			}
			now := d.texts()
			for id, text := range texts {
				if now[id] != text {
					rt.Fatalf("statement %s changed", id)
				}
			}
			texts = now
		}
		used, q := d.usage(yearsUsed), yearsUsed
		q.Booked = true
		booked := d.usage(q)
		exportUsage(rt, d, q, booked)
		all := func(rows []odometer.UsageRow) map[string]string { // whenever it was
			byOwner := map[string]*odometer.UsageRow{}
			for _, r := range rows {
				k := fmt.Sprint(r.Org, r.User, r.Instance)
				if byOwner[k] == nil {
					byOwner[k] = &odometer.UsageRow{Instance: r.Instance, User: r.User, Org: r.Org}
				}
				for q := range r.Totals {
					byOwner[k].Totals[q].AddSum(r.Totals[q])
				}
				byOwner[k].Recovered.AddSum(r.Recovered)
			}
			var list []odometer.UsageRow
			for _, r := range byOwner {
				list = append(list, *r)
			}
			return sums(list)
		}
		if diff := differ(all(booked), all(used)); len(diff) > 0 {
			rt.Errorf("by time of booking and by time of use: %s", strings.Join(diff, "\n"))
		}
		// Each entry by itself.
		moved := map[odometer.EntryID]bool{}
		rows, err := d.read.Query(`SELECT partition, entry FROM moved UNION SELECT partition, by_entry FROM reversals WHERE recovered = 1`)
		if err != nil {
			rt.Fatal(err)
		}
		for rows.Next() {
			var id odometer.EntryID
			if err := rows.Scan(&id.Partition, &id.Number); err != nil {
				rt.Fatal(err)
			}
			moved[id] = true
		}
		rows.Close()
		slices.SortStableFunc(cuts, func(a, b cutOff) int { return strings.Compare(string(b.org), string(a.org)) }) // "*" last
		slow := map[rowKey]*odometer.UsageRow{}
		for _, e := range d.entries() {
			var months []odometer.Month
			for m := odometer.MonthOf(e.Event.Span.Start); m.Start() < e.Event.Span.End; m = m.Next() {
				in := m
				if adjustsBy(cuts, &e, m) {
					months = append(months, m)
					for in = odometer.MonthOf(e.BookedAt); adjustsBy(cuts, &e, in); in = in.Next() {
					}
				}
				k := rowKey{instance: e.Event.Instance, owner: e.Event.Owner, start: in.Start()}
				if slow[k] == nil {
					slow[k] = &odometer.UsageRow{Instance: k.instance, User: k.owner.User, Org: k.owner.Org, Start: k.start}
				}
				part := e.Event.Usage.Between(e.Event.Span, m.Start(), m.End())
				for q, n := range part.Vector {
					slow[k].Totals[q].Add(n)
				}
				if e.Kind == odometer.KindRecovered || moved[e.ID] {
					slow[k].Recovered.Add(part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime])
				}
			}
			if !slices.Equal(months, e.Adjusts) {
				rt.Errorf("entry %s adjusts %v, want %v", e.ID, e.Adjusts, months)
			}
			adjusted += len(months)
		}
		var want []odometer.UsageRow
		for _, r := range slow {
			want = append(want, *r)
		}
		if diff := differ(sums(booked), sums(want)); len(diff) > 0 {
			rt.Errorf("by time of booking, an entry at a time: %s", strings.Join(diff, "\n"))
		}
		for _, text := range texts {
			s, err := odometer.ParseStatement([]byte(text))
			if err != nil {
				rt.Fatal(err)
			}
			var lines []odometer.UsageRow
			for _, l := range s.Lines {
				lines = append(lines, odometer.UsageRow{Instance: l.Instance, User: l.User, Org: s.Org, Totals: l.Totals, Recovered: l.Recovered})
			}
			has := sums(slices.DeleteFunc(slices.Clone(booked), func(r odometer.UsageRow) bool { return r.Org != s.Org || r.Start != s.Month.Start() }))
			want := map[string]string{}
			for k, v := range all(lines) {
				_, rest, _ := strings.Cut(k, " ")
				want[s.Month.String()+" "+rest] = v
			}
			if diff := differ(has, want); len(diff) > 0 {
				rt.Errorf("the statement of %q for %s: %s", s.Org, s.Month, strings.Join(diff, "\n"))
			}
		}
		for _, m := range moments {
			for i, q := range asked {
				q.AsOf = m.at
				rows := d.usage(q)
				if diff := differ(lines(rows), m.knew[i]); len(diff) > 0 {
					rt.Errorf("as of %d, %+v: %s", m.at, q, strings.Join(diff, "\n"))
				}
				exportUsage(rt, d, q, rows)
			}
		}
		d.proven()
	})
	if adjusted == 0 {
		t.Error("no entry adjusted a month: the stories test nothing")
	}
}

// TestAMonthIsNotClosed tells what stands in the way of closing a month, and by whom.
func TestAMonthIsNotClosed(t *testing.T) {
	const hour, day = odometer.HourMicros, odometer.DayMicros
	march := month(t, "2026-03")
	ended := func(e *odometer.Event) *odometer.Event { e.Final = true; return e }
	for _, c := range []struct {
		name string
		tell func(d *desk, m *meter)
		want string
	}{ // where there is a hole, the agent is silent, too
		{"nothing", func(d *desk, m *meter) { d.send(m.next(hour, 6, 1), ended(m.next(hour, 6, 1))) }, ""},
		{"an agent that was heard of in the next month", func(d *desk, m *meter) { d.send(m.next(31*day, 600, 1)) }, ""},
		{"a gap", func(d *desk, m *meter) { d.send(ended(gap(m, m.next(hour, 0, 0)))) }, "a time that nobody measured of vm-7 on host-1 (2026-03-01T00:00:00Z to 2026-04-01T00:00:00Z)"},
		{"a gap of another month", func(d *desk, m *meter) {
			d.send(m.next(31*day, 6, 1), gap(m, m.next(hour, 0, 0)))
		}, ""},
		{"a hole", func(d *desk, m *meter) {
			d.send(m.next(hour, 6, 1))
			m.next(hour, 6, 1)
			d.want(d.send(m.next(31*day, 6, 1)), "held hole")
		}, "an event that is held of vm-7 on host-1 (2026-03-01T13:00:00Z to 2026-04-01T14:00:00Z)"},
		{"an event in quarantine", func(d *desk, m *meter) {
			e := m.next(hour, 6, 1)
			d.send(e, m.next(31*day, 6, 1))
			other := *e
			other.Usage.Vector[odometer.CPU]++
			other.Readings.End.Vector[odometer.CPU]++
			d.want(d.send(&other), "quarantined conflict")
		}, "an event in quarantine of vm-7 on host-1 (2026-03-01T12:00:00Z to 2026-03-01T13:00:00Z)"},
		{"what could not be read", func(d *desk, m *meter) {
			d.send(m.next(31*day, 6, 1))
			d.commit(odometer.Frame{Agent: "host-3", Spool: goldenSpool, Packed: []byte("rubbish"), Err: odometer.ErrInvalid})
		}, "an event in quarantine on host-3"},
		{"an agent that fell silent", func(d *desk, m *meter) { d.send(m.next(hour, 6, 1)) }, "a silence of vm-7 on host-1 (2026-03-01T13:00:00Z to 2026-04-01T00:00:00Z)"},
		{"an agent whose silence was accepted in the month before", func(d *desk, m *meter) {
			m.at, m.start = base-10*day, base-10*day
			d.send(m.next(day, 6, 1), newMeter("vm-8", "host-1", base).next(32*day, 6, 1))
			d.close(month(d.t, "2026-02"))
		}, ""},
		{"an agent that goes on elsewhere", func(d *desk, m *meter) {
			d.pos++
			d.want(d.commit(odometer.Frame{Agent: "host-1", Spool: goldenSpool, First: d.pos, Last: d.pos, Records: []odometer.Record{
				{First: d.pos, Position: d.pos, Event: m.next(hour, 6, 1), Checkpoint: []byte(`{"instance":"vm-7"}`)},
			}}), "recorded")
			if list, err := d.Checkpoints(d.t.Context(), "host-1"); err != nil || len(list) != 1 {
				d.t.Fatal(list, err)
			}
			d.want(d.send(newMeter("vm-7", "host-1", m.at).next(31*day, 6, 1)), "recorded")
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t)
			d.now = time.UnixMicro(march.End()).Add(40 * time.Hour)
			c.tell(d, newMeter("vm-7", "host-1", base))
			before := d.records()
			ask := odometer.MonthClose{Month: march, Actor: "ada", Cause: "it is over", Dry: true}
			dry, err := d.CloseMonth(t.Context(), ask)
			if err != nil || d.records() != before {
				t.Fatalf("dry: got %v, and %d records of %d", err, d.records(), before)
			}
			ask.Dry = false
			r, err := d.CloseMonth(t.Context(), ask)
			if c.want == "" {
				if err != nil || len(dry.Missing) != 0 {
					t.Fatalf("got %v and %+v missing, want it closed", err, dry.Missing)
				}
				return
			}
			if _, is := errors.AsType[*MissingError](err); !is || !errors.Is(err, odometer.ErrConflict) || !strings.Contains(err.Error(), c.want) || d.records() != before {
				t.Fatalf("got %v, want what is missing named: %s", err, c.want)
			}
			ask.AcceptGaps = true
			if r, err = d.CloseMonth(t.Context(), ask); err != nil || !slices.Equal(r.Missing, dry.Missing) || len(r.Statements) != 1 || r.Statements[0].Missing != len(r.Missing) {
				t.Fatalf("accepted: got %+v, %v, want one statement with what was missing", r, err)
			}
			s, _, err := d.Statement(t.Context(), odometer.Everything, r.Statements[0].ID)
			if named := s.Missing[0]; err != nil || named.Kind != dry.Missing[0].Kind || (named.Host == "") != (dry.Missing[0].Instance == "") {
				t.Errorf("the statement says %+v, %v; want the instance and the host of what is its own", s.Missing, err)
			}
			d.proven()
		})
	}
}

func TestClosingRefuses(t *testing.T) {
	d := newDesk(t)
	march := month(t, "2026-03")
	d.now = time.UnixMicro(march.End()).Add(time.Hour)
	m, other := newMeter("vm-7", "host-1", base), newMeter("vm-8", "host-1", base)
	other.owner = bob
	d.send(m.next(60*sec, 600, 1), other.next(60*sec, 6, 1))
	d.close(march, ada.Org)
	for _, c := range []struct {
		name string
		ask  odometer.MonthClose
		want error
		text string
	}{
		{"it is not over", odometer.MonthClose{Month: march.Next()}, odometer.ErrInvalid, "which it is at 2026-05-01T00:00:00Z"},
		{"it is closed", odometer.MonthClose{Month: march, Org: &ada.Org}, odometer.ErrConflict, "closed already"},
		{"an organisation that has nothing", odometer.MonthClose{Month: march, Org: new(odometer.OrgID("o-acne"))}, odometer.ErrNotFound, "o-acne"},
		{"an organisation with a space", odometer.MonthClose{Month: march, Org: new(odometer.OrgID("o o"))}, odometer.ErrInvalid, "org"},
		{"no cause", odometer.MonthClose{Month: march, Cause: " "}, odometer.ErrInvalid, "cause"},
		{"an actor of two lines", odometer.MonthClose{Month: march, Actor: "a\tb"}, odometer.ErrInvalid, "who closes it"},
		{"a backlog", odometer.MonthClose{Month: march, Backlog: []odometer.Missing{{Kind: odometer.MissingBacklog, Host: "host-2", Amount: 7}}}, odometer.ErrConflict, "not committed yet on host-2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.ask.Cause == "" {
				c.ask.Cause = "it is over"
			}
			if c.ask.Backlog == nil {
				c.ask.AcceptGaps = true
			}
			records := d.records()
			if _, err := d.CloseMonth(t.Context(), c.ask); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.text)
			}
			if d.records() != records || d.fold.stale {
				t.Error("something was written, or forgotten")
			}
		})
	}
	if r := d.close(march); len(r.Statements) != 1 || r.Statements[0].Org != bob.Org {
		t.Errorf("everybody else: got %+v, want Bob's", r.Statements)
	}
	months, err := d.ClosedMonths(t.Context(), odometer.Everything)
	if err != nil || len(months) != 1 || !months[0].Everybody || months[0].Statements != 2 || !slices.Equal(months[0].Orgs, []odometer.OrgID{ada.Org}) {
		t.Errorf("closed months: got %+v, %v", months, err)
	}
	first := d.texts()
	for id := range first {
		if _, _, err := d.Statement(t.Context(), odometer.View{}, id); !errors.Is(err, odometer.ErrNotFound) {
			t.Errorf("statement %s for who sees nothing: got %v", id, err)
		}
	}
	page, err := d.Statements(t.Context(), odometer.StatementQuery{View: odometer.Everything, Limit: 1, Month: march})
	if err == nil {
		var rest []odometer.StatementInfo
		rest, err = d.Statements(t.Context(), odometer.StatementQuery{View: odometer.Everything, After: page[0].ID})
		page = append(page, rest...)
	}
	if err != nil || len(page) != 2 || page[0].Org != ada.Org || page[1].Org != bob.Org {
		t.Errorf("by pages: got %+v, %v", page, err)
	}
}

// TestAClosingThatFailsLeavesNothing and is made when it is asked for again.
func TestAClosingThatFailsLeavesNothing(t *testing.T) {
	march := month(t, "2026-03")
	for _, table := range []string{"closes", "statements", "journal"} {
		t.Run(table, func(t *testing.T) {
			d := newDesk(t)
			d.now = time.UnixMicro(march.End()).Add(time.Hour)
			m := newMeter("vm-7", "host-1", base)
			d.send(m.next(60*sec, 600, 1))
			if _, err := d.write.Exec(`CREATE TRIGGER refuse BEFORE INSERT ON ` + table + ` BEGIN SELECT RAISE(ABORT, 'no space left'); END`); err != nil {
				t.Fatal(err)
			}
			if _, err := d.CloseMonth(t.Context(), odometer.MonthClose{Month: march, AcceptGaps: true, Actor: "ada", Cause: "over"}); err == nil || !strings.Contains(err.Error(), "no space left") {
				t.Fatalf("got %v, want what the store said", err)
			}
			if _, err := d.write.Exec(`DROP TRIGGER refuse`); err != nil {
				t.Fatal(err)
			}
			if len(d.texts()) != 0 || d.records() != 1 {
				t.Error("something was left")
			}
			d.want(d.send(m.next(60*sec, 600, 1)), "recorded")
			if e := d.entries()[1]; len(e.Adjusts) != 0 {
				t.Errorf("entry %s adjusts %v, which is open", e.ID, e.Adjusts)
			}
			d.proven()
			d.close(march)
			d.proven()
		})
	}
}

// TestStatementsStay when the journal is pruned, and when the ledger is backed up and
// restored. A ledger that is restored from before a month was closed has it open, and
// another statement when it is closed again.
func TestStatementsStay(t *testing.T) {
	d := newDesk(t)
	march := month(t, "2026-03")
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(60*sec, 600, 1))
	copied := filepath.Join(t.TempDir(), "before")
	if _, err := Backup(t.Context(), d.path, copied); err != nil {
		t.Fatal(err)
	}
	pos := d.pos
	d.now = time.UnixMicro(march.End()).Add(time.Hour)
	d.close(march)
	want := d.texts()
	late := m.next(60*sec, 6, 1)
	d.send(late)
	if e := d.entries(); !slices.Equal(e[1].Adjusts, []odometer.Month{march}) {
		t.Errorf("a late entry adjusts %v, want March", e[1].Adjusts)
	}
	q := odometer.UsageQuery{From: march.Start(), To: march.End(), Booked: true}
	booked := func() string { d.t.Helper(); return fmt.Sprint(sums(d.usage(q))) }
	before := booked()
	knew := d.now.UnixMicro()
	d.now = d.now.Add(72 * time.Hour)
	d.tick()
	d.send(m.next(31*odometer.DayMicros, 6, 1))
	d.publishAll()
	if r := d.prune(d.now, nil); r.Records == 0 {
		t.Fatal("nothing was pruned")
	}
	check := func(when string) {
		t.Helper()
		if got := d.texts(); !maps.Equal(got, want) || booked() != before {
			t.Errorf("%s: got %v and %s, want %v and %s", when, got, booked(), want, before)
		}
		d.proven()
	}
	check("pruned")
	if _, err := d.Usage(t.Context(), odometer.UsageQuery{From: march.Start(), To: march.End(), AsOf: knew - 1}); !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), "pruned") {
		t.Errorf("as of a moment whose journal is gone: got %v", err)
	}
	whole := filepath.Join(t.TempDir(), "whole")
	if _, err := Backup(t.Context(), d.path, whole); err != nil {
		t.Fatal(err)
	}
	d.restore(whole)
	check("restored")
	d.restore(copied)
	d.pos = pos
	if len(d.texts()) != 0 {
		t.Error("a month that was closed after the backup is closed")
	}
	d.send(late)
	d.close(march)
	for id := range d.texts() {
		if _, was := want[id]; was {
			t.Errorf("statement %s is another than it was, and has its id", id)
		}
	}
	d.proven()
}

// TestAdjustmentsAreStated in the statement of the month in which they were booked, as
// of the month of their use, and of an entry over two months the part of the closed one.
func TestAdjustmentsAreStated(t *testing.T) {
	d := newDesk(t)
	march := month(t, "2026-03")
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(60*sec, 600, 1))
	d.now = time.UnixMicro(march.End()).Add(48 * time.Hour)
	d.close(march)
	over := newMeter("vm-8", "host-1", march.End()-odometer.HourMicros)
	d.send(m.next(60*sec, 6, 1), over.next(4*odometer.HourMicros, 4000, 4))
	d.now = time.UnixMicro(march.Next().End()).Add(time.Hour)
	s, _, err := d.Statement(t.Context(), odometer.Everything, d.close(march.Next()).Statements[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range s.Lines {
		got = append(got, fmt.Sprint(l.Month, " ", l.Instance, " ", l.Totals[odometer.CPU]))
	}
	if want := []string{"2026-03 vm-7 6", "2026-03 vm-8 1000", "2026-04 vm-8 3000"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	d.proven()
}

// TestAClockThatIsSetBackAdjustsTheNextMonth that is open, and no statement.
func TestAClockThatIsSetBackAdjustsTheNextMonth(t *testing.T) {
	d := newDesk(t)
	march := month(t, "2026-03")
	d.send(newMeter("vm-7", "host-1", base).next(60*sec, 600, 1))
	d.now = time.UnixMicro(march.Next().End()).Add(time.Hour)
	d.close(march)
	d.close(march.Next())
	d.now = time.UnixMicro(march.End()).Add(time.Hour)
	d.reverse(d.entries()[0].ID)
	q := yearsUsed
	q.Booked = true
	if got := sums(d.usage(q)); len(got) != 2 || !strings.HasPrefix(got["2026-05 o-acme/u-ada vm-7"], "[-600") {
		t.Errorf("got %v, want what is taken back in May", got)
	}
	d.proven()
}

// TestUsageByBookingRefuses what has no months.
func TestUsageByBookingRefuses(t *testing.T) {
	d := newDesk(t)
	march := month(t, "2026-03")
	for name, q := range map[string]odometer.UsageQuery{
		"is no edge":     {From: march.Start() + 1, To: march.End()},
		"hours and days": {From: march.Start(), To: march.End(), GroupBy: []odometer.GroupBy{odometer.ByDay}},
		"not both":       {From: march.Start(), To: march.End(), AsOf: 1},
		"of UTC":         {From: march.Start(), To: march.End(), Zone: zone("Europe/Berlin")},
	} {
		q.Booked = true
		if _, err := d.Usage(t.Context(), q); !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: got %v", name, err)
		}
		if err := d.EachUsage(t.Context(), q, func(*odometer.UsageRow) error { return nil }); !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s, exported: got %v", name, err)
		}
	}
}

// TestAGrantShowsNothingByBooking has a closed month of an instance that is granted:
// its use is shown, and neither its statement nor what that says.
func TestAGrantShowsNothingByBooking(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-1", "host-1", base)
	m.owner = ada
	d.send(m.next(60*sec, 600, 1))
	of := odometer.MonthOf(base)
	d.now = time.UnixMicro(of.End()).Add(time.Hour)
	d.close(of)
	guest := grantedTo(odometer.Owner{}, odometer.Hour(base))
	q := odometer.UsageQuery{From: of.Start(), To: of.End(), View: guest}
	if rows := d.usage(q); len(rows) != 1 || rows[0].Totals[odometer.CPU] != odometer.SumOf(600) {
		t.Errorf("by use: got %+v, want 600 µs", rows)
	}
	q.Booked = true
	if rows := d.usage(q); len(rows) != 0 {
		t.Errorf("by booking: got %+v, want nothing", rows)
	}
	if list, err := d.Statements(t.Context(), odometer.StatementQuery{View: *guest}); err != nil || len(list) != 0 {
		t.Errorf("statements: got %+v, %v", list, err)
	}
	for id := range d.texts() {
		if _, _, err := d.Statement(t.Context(), *guest, id); !errors.Is(err, odometer.ErrNotFound) {
			t.Errorf("statement %s: got %v", id, err)
		}
	}
}

// TestRevisedExportsAreBounded asks for more rows of a revised answer than may be.
func TestRevisedExportsAreBounded(t *testing.T) {
	d := newDesk(t)
	d.send(newMeter("vm-1", "host-1", base).next(60*sec, 600, 0), newMeter("vm-2", "host-1", base).next(60*sec, 600, 0))
	q := odometer.UsageQuery{From: base, To: base + odometer.HourMicros, GroupBy: []odometer.GroupBy{odometer.ByInstance}, AsOf: d.now.UnixMicro(), Most: 1}
	if err := d.EachUsage(t.Context(), q, func(*odometer.UsageRow) error { return nil }); !errors.Is(err, odometer.ErrTooManyRows) {
		t.Errorf("got %v", err)
	}
}

// TestAsOf leaves out what was booked later, also of an hour that is cut, and says of
// what it does not know any more that it is unknown.
func TestAsOf(t *testing.T) {
	d := newDesk(t)
	m, other := newMeter("vm-7", "host-1", base), newMeter("vm-8", "host-1", base)
	d.send(m.next(60*sec, 600, 0))
	knew := d.now.UnixMicro()
	d.now = d.now.Add(time.Second)
	d.send(m.next(60*sec, 60, 0), other.next(60*sec, 6, 1))
	rows := d.usage(odometer.UsageQuery{From: base + 30*sec, To: base + 90*sec, AsOf: knew, GroupBy: []odometer.GroupBy{odometer.ByInstance}})
	if len(rows) != 1 || rows[0].Instance != "vm-7" || rows[0].Totals[odometer.CPU] != odometer.SumOf(300) || rows[0].Known.Has(odometer.NetworkEgress) || !rows[0].Known.Has(odometer.CPU) {
		t.Errorf("got %+v, want 300 µs of vm-7, and its egress unknown", rows)
	}
}
