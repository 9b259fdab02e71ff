package ledger

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

// TestUsageIsTheFoldOfTheEntries tells random stories (several epochs of an
// instance, owners that change within an hour, gaps, lost events, clocks that
// are set back, upkeep at any moment, so that pieces come before and after
// compaction) and asks questions of every shape: each answer is what the
// entries add up to, one by one, to the unit.
func TestUsageIsTheFoldOfTheEntries(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("30") // a story commits some forty times
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(rt *rapid.T) {
		d := newDesk(t)
		tellUsage(rt, d)
		entries := d.entries()
		if len(entries) == 0 {
			rt.Skip("everything is held")
		}
		for range 12 {
			q := drawQuery(rt)
			got, want := d.usage(q), slowUsage(entries, q)
			compareUsage(rt, q, got, want)
			exportUsage(rt, d, q, got)
			if q.To-q.From < 2 {
				continue
			}
			top := q
			top.Top, top.TopBy = rapid.IntRange(1, 4).Draw(rt, "top"), rapid.SampledFrom([]odometer.Quantity{odometer.CPU, odometer.NetworkEgress}).Draw(rt, "by")
			compareTop(rt, top, d.usage(top), got)
			// Adjoining ranges add up to the whole.
			at := drawTime(rt, "cut", q.From+1, q.To-1)
			if newLocalDays(q.Zone).cuts(at) && newLocalDays(q.Zone).inside(odometer.Hour(at)) != nil {
				continue // an hour that is shared here, and cut as its entries say there
			}
			first, second := q, q
			first.To, second.From = at, at
			sum := map[usageKey]*odometer.UsageRow{}
			for _, r := range append(d.usage(first), d.usage(second)...) {
				addRow(sum, &r)
			}
			compareUsage(rt, q, got, sum)
		}
		findEntries(rt, d)
		d.proven()
	})
}

// TestOwnersAreFound asks for each owner's use of an instance, wherever it lies
// and however it came there: open, sealed or compacted, of an epoch that is new,
// that changed hands, or that fell silent before its owner was entered.
func TestOwnersAreFound(t *testing.T) {
	d := newDesk(t)
	check := func(when string, want map[odometer.UserID]int64) {
		t.Helper()
		for _, user := range []odometer.UserID{"u-ada", "u-bob", "u-cy"} {
			rows := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, User: user, GroupBy: []odometer.GroupBy{odometer.ByInstance}})
			got := int64(0)
			for _, r := range rows {
				n, _ := r.Totals[odometer.CPU].Int64()
				got += n
			}
			if got != want[user] {
				t.Errorf("%s: cpu of %s: got %d, want %d", when, user, got, want[user])
			}
		}
		d.proven()
	}
	start := usageBase
	d.now = time.UnixMicro(start + odometer.HourMicros)
	m := newMeter("vm-1", "host-1", start)
	d.send(m.next(30*sec, 1, 0))
	check("a new epoch", map[odometer.UserID]int64{"u-ada": 1})
	d.reopen()
	m.owner = odometer.Owner{User: "u-bob"}
	d.send(m.next(30*sec, 2, 0))
	check("taken over within the hour, while it is new", map[odometer.UserID]int64{"u-ada": 1, "u-bob": 2})
	d.tick()
	m.owner = odometer.Owner{User: "u-cy"}
	d.now = d.now.Add(2 * time.Hour)
	d.send(m.next(2*odometer.HourMicros, 100, 0))
	check("taken over after it was entered", map[odometer.UserID]int64{"u-ada": 1, "u-bob": 2, "u-cy": 100})
	silent := newMeter("vm-2", "host-2", start)
	d.send(silent.next(30*sec, 10, 0))
	d.now = d.now.Add(5 * time.Hour)
	d.tick()
	check("silent before it was entered", map[odometer.UserID]int64{"u-ada": 11, "u-bob": 2, "u-cy": 100})
	d.reopen()
	m.owner = odometer.Owner{User: "u-ada"}
	d.now = d.now.Add(60 * time.Hour)
	d.send(m.next(40*odometer.HourMicros, 1000, 0)) // into the next day and month
	d.tick()
	check("compacted", map[odometer.UserID]int64{"u-ada": 1011, "u-bob": 2, "u-cy": 100})
	byDay := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByDay}})
	if len(byDay) != 3 {
		t.Errorf("by day: got %d rows, want 3", len(byDay))
	}
}

// TestHoursThatOpenLateAreFound opens an hour that lies before everything which
// the upkeep has sealed, and one in the first hour of 1970.
func TestHoursThatOpenLateAreFound(t *testing.T) {
	d := newDesk(t)
	d.now = time.UnixMicro(base + 10*odometer.HourMicros)
	d.tick()
	m := newMeter("vm-1", "host-1", base)
	d.send(m.next(30*sec, 7, 0))
	if rows := d.usage(odometer.UsageQuery{From: base, To: base + odometer.HourMicros}); len(rows) != 1 {
		t.Errorf("an hour ten hours ago: got %d rows, want 1", len(rows))
	}
	d.proven()
	d.tick()
	d.proven()
	unset := newMeter("vm-2", "host-2", 30*sec)
	d.want(d.send(unset.next(30*sec, 5, 0)), "held clock_unset")
	d.now = d.now.Add(25 * time.Hour)
	d.tick()
	list, err := d.Quarantine(t.Context(), 10)
	if err != nil || len(list) != 1 {
		t.Fatalf("quarantine: got %d, %v, want one", len(list), err)
	}
	if _, err := d.Release(t.Context(), list[0].Partition, list[0].No, "ops"); err != nil {
		t.Fatal(err)
	}
	if rows := d.usage(odometer.UsageQuery{From: -1, To: odometer.HourMicros}); len(rows) != 1 {
		t.Errorf("an hour of a clock that was never set: got %d rows, want 1", len(rows))
	}
	d.proven()
}

// Whatever is asked, the statements are few, and prepared once; and questions
// that are asked at once, more of them than there are connections, wait for each
// other and not for ever.
func TestQuestionsShareStatements(t *testing.T) {
	d := newDesk(t)
	d.now = time.UnixMicro(base + 4*odometer.HourMicros)
	for i := range 20 {
		m := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), odometer.AgentID(fmt.Sprintf("host-%d", i)), base)
		d.send(m.next(3*odometer.HourMicros, 7, 0))
	}
	ask := func(i int) {
		q := odometer.UsageQuery{From: base + int64(i)*sec, To: base + 2*odometer.HourMicros + int64(i)*odometer.DayMicros, GroupBy: []odometer.GroupBy{odometer.ByHour}}
		switch i % 3 {
		case 0:
			q.Instance = odometer.InstanceID(fmt.Sprintf("vm-%d", i%20))
		case 1:
			q.User = "u-ada"
		}
		if rows, err := d.Usage(t.Context(), q); err != nil || len(rows) == 0 {
			t.Errorf("question %d: got %d rows, %v", i, len(rows), err)
		}
	}
	var wait sync.WaitGroup
	for i := range 60 {
		wait.Go(func() { ask(i) })
	}
	wait.Wait()
	prepared := len(d.questions.of)
	for i := range 60 {
		ask(i)
	}
	if n := len(d.questions.of); n != prepared || n == 0 {
		t.Errorf("statements: %d were prepared by as many questions again, want the %d of before", n, prepared)
	}
}

// usageBase is two days before the end of a month.
var usageBase = time.Date(2026, 1, 30, 20, 0, 0, 0, time.UTC).UnixMicro()

// usageHours is about how long the stories are.
const usageHours = 80

func tellUsage(rt *rapid.T, d *desk) {
	owners := []odometer.Owner{{User: "u-ada", Org: "o-acme"}, {User: "u-bob", Org: "o-acme"}, {User: "u-ada", Org: "o-other"}, {}}
	var meters []*meter
	for i := range rapid.IntRange(1, 4).Draw(rt, "instances") {
		for range rapid.IntRange(1, 2).Draw(rt, "epochs") {
			agent := odometer.AgentID(fmt.Sprintf("host-%d", rapid.IntRange(1, 3).Draw(rt, "host")))
			m := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), agent, usageBase+rapid.Int64Range(0, usageHours/2).Draw(rt, "start")*odometer.HourMicros+7)
			m.owner = rapid.SampledFrom(owners).Draw(rt, "owner")
			meters = append(meters, m)
		}
	}
	d.now = time.UnixMicro(usageBase)
	for range rapid.IntRange(1, 30).Draw(rt, "steps") {
		m := rapid.SampledFrom(meters).Draw(rt, "meter")
		length := rapid.SampledFrom([]int64{1, 30 * sec, 20 * 60 * sec, odometer.HourMicros - 1, odometer.HourMicros, 5*odometer.HourMicros + 3, 26 * odometer.HourMicros}).Draw(rt, "length")
		if rapid.IntRange(0, 4).Draw(rt, "transfer") == 0 {
			m.owner = rapid.SampledFrom(owners).Draw(rt, "new owner")
		}
		step := int64(0)
		if m.seq > 0 && rapid.IntRange(0, 5).Draw(rt, "clock") == 0 {
			step = -rapid.Int64Range(1, 3*odometer.HourMicros).Draw(rt, "step")
			m.at += step
		}
		e := m.next(length, rapid.Int64Range(0, length).Draw(rt, "cpu"), rapid.Int64Range(0, 1<<30).Draw(rt, "egress"))
		e.Span.Step = step
		if rapid.IntRange(0, 5).Draw(rt, "gap") == 0 {
			e = gap(m, e)
		}
		if t := time.UnixMicro(m.at); t.After(d.now) {
			d.now = t
		}
		if rapid.IntRange(0, 6).Draw(rt, "lost") > 0 {
			d.send(e)
		}
		if rapid.IntRange(0, 3).Draw(rt, "wait") == 0 {
			d.now = d.now.Add(time.Duration(rapid.IntRange(0, 30).Draw(rt, "hours")) * time.Hour)
		}
		if rapid.IntRange(0, 2).Draw(rt, "tick") == 0 {
			d.tick()
		}
		if rapid.IntRange(0, 9).Draw(rt, "reopen") == 0 {
			d.reopen()
		}
	}
	for _, m := range meters { // at least one event is booked
		d.send(m.next(30*sec, 1, 1))
	}
	if rapid.Bool().Draw(rt, "give up holes") {
		d.now = d.now.Add(25 * time.Hour)
		d.tick()
	}
}

// gap turns the time of m's last event into one that nobody measured.
func gap(m *meter, e *odometer.Event) *odometer.Event {
	length := e.Usage.Vector[odometer.MeasuredTime]
	for _, v := range []*odometer.Usage{&e.Usage, &e.Readings.End, &m.total} {
		v.Vector[odometer.MeasuredTime] -= length
		v.Vector[odometer.GapTime] += length
	}
	e.Quality = odometer.Gap
	e.Derive(0, 0)
	return e
}

// drawTime draws a time within [least, most], often at the edge of an hour, a
// day or the month.
func drawTime(rt *rapid.T, name string, least, most int64) int64 {
	first, last := max(least, usageBase-odometer.DayMicros), min(most, usageBase+(usageHours+100)*odometer.HourMicros)
	if first >= last {
		return least
	}
	at := rapid.Int64Range(first, last).Draw(rt, name)
	switch rapid.IntRange(0, 5).Draw(rt, name+" at the edge of") {
	case 0:
		at = odometer.Hour(at)
	case 1:
		at = dayOf(at)
	case 2:
		at, _ = monthOf(dayOf(at))
	case 3:
		at = dayOf(at) + 18*odometer.HourMicros + odometer.HourMicros/2 // midnight in Kolkata
	}
	return min(max(at, least), most)
}

func drawQuery(rt *rapid.T) odometer.UsageQuery {
	q := odometer.UsageQuery{
		Instance: rapid.SampledFrom([]odometer.InstanceID{"", "", "vm-0", "vm-1", "vm-none"}).Draw(rt, "of instance"),
		User:     rapid.SampledFrom([]odometer.UserID{"", "", "u-ada", "u-bob", odometer.Unassigned, "u-none"}).Draw(rt, "of user"),
		Org:      rapid.SampledFrom([]odometer.OrgID{"", "", "o-acme", "o-other"}).Draw(rt, "of org"),
		View:     rapid.SampledFrom([]*odometer.View{nil, nil, nil, &odometer.Everything, new(odometer.View), viewOf("u-ada"), viewOf("u-bob", "o-acme"), viewOf("", "o-other")}).Draw(rt, "seen by"),
		From:     1, To: 1 << 60,
		Zone: rapid.SampledFrom(zones).Draw(rt, "in zone"),
	}
	if rapid.IntRange(0, 2).Draw(rt, "granted") == 0 {
		q.View = drawGrants(rt)
	}
	if rapid.IntRange(0, 4).Draw(rt, "all time") > 0 {
		q.From = drawTime(rt, "from", 1, 1<<60-1)
		q.To = drawTime(rt, "to", q.From+1, 1<<60)
	}
	for _, by := range []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg} {
		if rapid.Bool().Draw(rt, "by "+string(by)) {
			q.GroupBy = append(q.GroupBy, by)
		}
	}
	if by := rapid.SampledFrom([]odometer.GroupBy{odometer.ByNothing, odometer.ByHour, odometer.ByDay, odometer.ByMonth}).Draw(rt, "by time"); by != odometer.ByNothing {
		q.GroupBy = append(q.GroupBy, by)
	}
	return q
}

// drawGrants is what a user sees who owns some of it, or nothing, and holds grants.
func drawGrants(rt *rapid.T) *odometer.View {
	c := odometer.Caller{Bound: odometer.Bound{User: rapid.SampledFrom([]odometer.UserID{"u-ada", "u-none"}).Draw(rt, "granted to")}}
	for _, instance := range []odometer.InstanceID{"vm-0", "vm-1", "vm-none"} {
		if rapid.Bool().Draw(rt, "granted "+string(instance)) {
			c.Grants = append(c.Grants, odometer.Grant{
				Instance: instance, User: c.User,
				Of:    rapid.SampledFrom([]odometer.Owner{{}, {User: "u-ada", Org: "o-acme"}, {User: "u-bob", Org: "o-acme"}, {User: odometer.Unassigned}}).Draw(rt, "in the name of"),
				Since: time.UnixMicro(odometer.Hour(drawTime(rt, "since", 1, 1<<59))),
			})
		}
	}
	v := c.View()
	return &v
}

type usageKey struct {
	instance odometer.InstanceID
	user     odometer.UserID
	org      odometer.OrgID
	start    int64
}

func addRow(rows map[usageKey]*odometer.UsageRow, r *odometer.UsageRow) {
	k := usageKey{r.Instance, r.User, r.Org, r.Start}
	if rows[k] == nil {
		rows[k] = &odometer.UsageRow{}
	}
	for i, n := range r.Totals {
		rows[k].Totals[i].AddSum(n)
	}
	rows[k].Recovered.AddSum(r.Recovered)
	rows[k].Known |= r.Known
}

// slowUsage answers q from the entries alone, second for second: each is cut
// at every edge of an hour and shared.
func slowUsage(entries []odometer.Entry, q odometer.UsageQuery) map[usageKey]*odometer.UsageRow {
	return slowUsageOf(entries, recoveries(entries), q)
}

// slowUsageOf is slowUsage where it is known whose time is recovered.
func slowUsageOf(entries []odometer.Entry, recovered map[odometer.EntryID]bool, q odometer.UsageQuery) map[usageKey]*odometer.UsageRow {
	if q.Zone != nil {
		return slowZoned(entries, recovered, q)
	}
	rows := map[usageKey]*odometer.UsageRow{}
	for i := range entries {
		ev := &entries[i].Event
		if q.Instance != "" && ev.Instance != q.Instance || q.User != "" && ev.Owner.User != q.User || q.Org != "" && ev.Owner.Org != q.Org {
			continue
		}
		for hour := odometer.Hour(ev.Span.Start); hour < ev.Span.End; hour += odometer.HourMicros {
			if q.View != nil && !q.View.SeesUse(ev.Instance, ev.Owner, hour) {
				continue
			}
			part := ev.Usage.Between(ev.Span, max(hour, q.From), min(hour+odometer.HourMicros, q.To))
			row := odometer.UsageRow{}
			for _, by := range q.GroupBy {
				at := time.UnixMicro(hour).UTC()
				switch by {
				case odometer.ByInstance:
					row.Instance = ev.Instance
				case odometer.ByUser:
					row.User = ev.Owner.User
				case odometer.ByOrg:
					row.Org = ev.Owner.Org
				case odometer.ByHour:
					row.Start = hour
				case odometer.ByDay:
					row.Start = time.Date(at.Year(), at.Month(), at.Day(), 0, 0, 0, 0, time.UTC).UnixMicro()
				case odometer.ByMonth:
					row.Start = time.Date(at.Year(), at.Month(), 1, 0, 0, 0, 0, time.UTC).UnixMicro()
				}
			}
			for q, n := range part.Vector {
				row.Totals[q] = odometer.SumOf(n)
			}
			if recovered[entries[i].ID] {
				row.Recovered = odometer.SumOf(part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime])
			}
			row.Known = part.Known
			if part.Vector != (odometer.Vector{}) {
				addRow(rows, &row)
			}
		}
	}
	return rows
}

// recoveries returns the entries whose time is recovered: recoveries, and what
// takes them back or gives them again.
func recoveries(entries []odometer.Entry) map[odometer.EntryID]bool {
	of := map[odometer.EntryID]bool{}
	for more := true; more; {
		more = false
		for _, e := range entries {
			old, _, _ := strings.Cut(strings.TrimPrefix(e.Cause, "reverses "), ":")
			id, err := odometer.ParseEntryID(old)
			if !of[e.ID] && (e.Kind == odometer.KindRecovered || e.Kind == odometer.KindCorrection && err == nil && of[id]) {
				of[e.ID], more = true, true
			}
		}
	}
	return of
}

// compareTop checks that an answer has the rows with the most among all.
func compareTop(rt *rapid.T, q odometer.UsageQuery, answer, all []odometer.UsageRow) {
	if len(answer) != min(q.Top, len(all)) {
		rt.Fatalf("%+v: got %d rows of %d", q, len(answer), len(all))
	}
	for i, r := range answer {
		if !slices.Contains(all, r) {
			rt.Fatalf("%+v: row %+v is none of all", q, r)
		}
		if i > 0 && answer[i-1].Totals[q.TopBy].Cmp(r.Totals[q.TopBy]) < 0 {
			rt.Fatalf("%+v: row %d has more than the one before", q, i)
		}
	}
	for _, r := range all {
		if len(answer) > 0 && !slices.Contains(answer, r) && r.Totals[q.TopBy].Cmp(answer[len(answer)-1].Totals[q.TopBy]) > 0 {
			rt.Fatalf("%+v: row %+v has more than the last and is left out", q, r)
		}
	}
}

// compareUsage compares an answer with what is wanted; rows in which nothing
// was used may be left out on either side.
func compareUsage(rt *rapid.T, q odometer.UsageQuery, answer []odometer.UsageRow, want map[usageKey]*odometer.UsageRow) {
	got := map[usageKey]*odometer.UsageRow{}
	for i := range answer {
		k := usageKey{answer[i].Instance, answer[i].User, answer[i].Org, answer[i].Start}
		if got[k] != nil {
			rt.Fatalf("%+v: row %+v came twice", q, k)
		}
		addRow(got, &answer[i])
	}
	var none [odometer.Quantities]odometer.Sum
	for k, w := range want {
		if w.Totals == none && w.Recovered.IsZero() {
			continue
		}
		g := got[k]
		if g == nil {
			rt.Fatalf("%+v: row %+v is missing, it has %v", q, k, w.Totals)
		}
		if g.Totals != w.Totals || g.Recovered != w.Recovered || w.Known&^g.Known != 0 {
			rt.Fatalf("%+v: row %+v: got %v recovered %v known %b,\nwant %v recovered %v known %b", q, k, g.Totals, g.Recovered, g.Known, w.Totals, w.Recovered, w.Known)
		}
	}
	for k, g := range got {
		if want[k] == nil && (g.Totals != none || !g.Recovered.IsZero()) {
			rt.Fatalf("%+v: row %+v was not used: %v", q, k, g.Totals)
		}
	}
	if !slices.IsSortedFunc(answer, func(a, b odometer.UsageRow) int { return int(min(1, max(-1, a.Start-b.Start))) }) {
		rt.Fatalf("%+v: rows are not in order of time", q)
	}
}
