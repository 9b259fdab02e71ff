package ledger

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

// exportUsage reads an answer piece by piece: it is the one that is given at once.
func exportUsage(rt *rapid.T, d *desk, q odometer.UsageQuery, want []odometer.UsageRow) {
	var got []odometer.UsageRow
	err := d.EachUsage(d.t.Context(), q, func(r *odometer.UsageRow) error {
		got = append(got, *r)
		return nil
	})
	if err != nil {
		rt.Fatal(err)
	}
	byInstance := slices.Contains(q.GroupBy, odometer.ByInstance)
	if byInstance && !slices.IsSortedFunc(got, compareInstances) {
		rt.Fatalf("%+v: rows are not in order of the instances", q)
	}
	none := func(r odometer.UsageRow) bool {
		return r.Totals == (odometer.UsageRow{}).Totals && r.Recovered.IsZero()
	}
	got, want = slices.DeleteFunc(got, none), slices.DeleteFunc(slices.Clone(want), none)
	if byInstance {
		slices.SortFunc(want, compareInstances)
	}
	if !slices.Equal(got, want) {
		rt.Fatalf("%+v: exported\n%v\nwant\n%v", q, got, want)
	}
}

// TestAnExportHasTheEndsOfItsTime exports, by instance, a time that begins and ends
// within hours: what was used there is in it once.
func TestAnExportHasTheEndsOfItsTime(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-1", "host-1", base)
	for range 4 {
		d.now = d.now.Add(time.Hour)
		d.send(m.next(odometer.HourMicros/2, 100, 0))
		d.send(m.next(odometer.HourMicros/2, 100, 0))
	}
	q := odometer.UsageQuery{From: base + odometer.HourMicros/2, To: base + 7*odometer.HourMicros/2, GroupBy: []odometer.GroupBy{odometer.ByInstance}}
	var rows []odometer.UsageRow
	err := d.EachUsage(t.Context(), q, func(r *odometer.UsageRow) error {
		rows = append(rows, *r)
		return nil
	})
	if err != nil || len(rows) != 1 || rows[0].Totals[odometer.CPU] != odometer.SumOf(600) {
		t.Errorf("got %v, %v, want 600 of one instance", rows, err)
	}
}

// TestAnExportHoldsFewRows reads a row of each hour of many instances, and of many
// owners: it takes no more memory at the end than at the beginning.
func TestAnExportHoldsFewRows(t *testing.T) {
	d := newDesk(t)
	const instances, days = 20, 30
	d.now = time.UnixMicro(base + days*odometer.DayMicros)
	for i := range instances {
		m := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%02d", i)), odometer.AgentID(fmt.Sprintf("host-%d", i)), base)
		m.owner = odometer.Owner{User: odometer.UserID(fmt.Sprintf("u-%02d", i))}
		d.commit(odometer.Frame{Agent: m.agent, Records: []odometer.Record{{Event: m.next(days*odometer.DayMicros, 1e9, 1e9)}}})
	}
	d.now = d.now.Add(3 * time.Hour)
	d.tick()
	for _, by := range []odometer.GroupBy{odometer.ByInstance, odometer.ByUser} {
		rows, begin, most := 0, uint64(0), uint64(0)
		err := d.EachUsage(t.Context(), odometer.UsageQuery{To: 1 << 60, GroupBy: []odometer.GroupBy{by, odometer.ByHour}}, func(*odometer.UsageRow) error {
			if rows++; rows%2000 == 1000 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				if begin == 0 {
					begin = m.HeapAlloc
				}
				most = max(most, m.HeapAlloc)
			}
			return nil
		})
		if err != nil || rows != instances*days*24 {
			t.Errorf("by %s: got %d rows, %v, want %d", by, rows, err, instances*days*24)
		}
		if most > begin+2<<20 { // the rows together are more than four
			t.Errorf("by %s: got %d bytes more than at the beginning", by, most-begin)
		}
	}
}

// TestExportsAreFew begins as many as may be at once, and another.
func TestExportsAreFew(t *testing.T) {
	d := newDesk(t)
	d.send(newMeter("vm-1", "host-1", base).next(30*sec, 1, 1))
	q := odometer.UsageQuery{To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance}}
	var begin func(n int) error
	begin = func(n int) error {
		return d.EachUsage(t.Context(), q, func(*odometer.UsageRow) error {
			if n == 1 {
				return nil
			}
			return begin(n - 1)
		})
	}
	if err := begin(exportsAtOnce); err != nil {
		t.Errorf("%d at once: %v", exportsAtOnce, err)
	}
	if err := begin(exportsAtOnce + 1); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("one more: got %v, want ErrUnavailable", err)
	}
	stop := errors.New("stop")
	for range exportsAtOnce + 1 {
		if err := d.EachUsage(t.Context(), q, func(*odometer.UsageRow) error { return stop }); !errors.Is(err, stop) {
			t.Errorf("got %v, want what ended it", err)
		}
	}
}

// TestAnExportOfEntriesIsOfItsBeginning has more booked while entries are read: they
// are none of those, and the cursor that was taken before leads to them.
func TestAnExportOfEntriesIsOfItsBeginning(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-1", "host-1", base)
	for range (entriesAtOnce + 10) / 10 {
		var events []*odometer.Event
		for range 10 {
			events = append(events, m.next(sec, 1, 1))
		}
		d.send(events...)
	}
	end, err := d.End(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	err = d.EachEntry(t.Context(), odometer.EntryQuery{}, func(e *odometer.Entry) error {
		if n++; n%100 == 0 {
			d.send(m.next(sec, 1, 1))
		}
		return nil
	})
	if err != nil || n != entriesAtOnce+10 {
		t.Errorf("got %d entries, %v, want the %d of the beginning", n, err, entriesAtOnce+10)
	}
	after := n / 100
	n = 0
	if err := d.EachEntry(t.Context(), odometer.EntryQuery{After: end}, func(*odometer.Entry) error { n++; return nil }); err != nil || n != after {
		t.Errorf("after the cursor: got %d, %v, want the %d that were booked meanwhile", n, err, after)
	}
	n = 0
	if err := d.EachEntry(t.Context(), odometer.EntryQuery{Before: end, Instance: "vm-1"}, func(*odometer.Entry) error { n++; return nil }); err != nil || n != entriesAtOnce+10 {
		t.Errorf("before the cursor: got %d, %v", n, err)
	}
	for _, q := range []odometer.EntryQuery{{After: "no"}, {Before: "no"}} {
		if err := d.EachEntry(t.Context(), q, nil); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%+v: got %v, want ErrInvalid", q, err)
		}
	}
	d.publishAll()
	n = 0
	err = d.EachEntry(t.Context(), odometer.EntryQuery{}, func(*odometer.Entry) error {
		if n++; n == 1 {
			d.now = d.now.Add(50 * 24 * time.Hour)
			d.prune(d.now, nil)
		}
		return nil
	})
	if !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("pruned meanwhile: got %d entries, %v, want ErrConflict", n, err)
	}
}

// follow returns all that is booked after a cursor, for q, and checks that it comes to
// rest.
func follow(t *testing.T, d *desk, q odometer.EntryQuery) (ids []odometer.EntryID, end string) {
	t.Helper()
	for range 1000 {
		list, next, err := d.Follow(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range list {
			e, err := odometer.DecodeEntry(f.Entry)
			if err != nil {
				t.Fatal(err)
			}
			ids = append(ids, e.ID)
		}
		if next == q.After {
			return ids, next
		}
		q.After = next
	}
	t.Fatal("it does not come to rest")
	return nil, ""
}

// TestWhoFollowsIsToldEachOnce has several follow while more is booked, from the
// beginning and from the end, of everything and of little; and each begins again at
// each entry that he had.
func TestWhoFollowsIsToldEachOnce(t *testing.T) {
	d := newDesk(t)
	var meters []*meter
	for i := range 4 {
		meters = append(meters, newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), odometer.AgentID(fmt.Sprintf("host-%d", i)), base))
	}
	meters[3].owner = odometer.Owner{User: "u-bob"}
	book := func(n int) {
		var frames []odometer.Frame
		for range n {
			for _, m := range meters {
				frames = append(frames, odometer.Frame{Agent: m.agent, Records: []odometer.Record{{Event: m.next(sec, 1, 1)}, {Event: m.next(sec, 1, 1)}}})
			}
		}
		if _, _, err := d.Commit(t.Context(), frames); err != nil {
			t.Fatal(err)
		}
	}
	queries := []odometer.EntryQuery{{}, {Instance: "vm-2"}, {View: viewOf("u-bob")}, {User: "u-ada"}, {View: viewOf("u-eve")}}
	at, had := make([]string, len(queries)), make([][]odometer.EntryID, len(queries))
	for i := range at {
		var err error
		if at[i], err = d.End(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{1, 0, tailRecords, 3, 300} {
		book(n)
		for i, q := range queries {
			if i == 1 && n == 3 {
				continue // he falls behind
			}
			q.After = at[i]
			var ids []odometer.EntryID
			ids, at[i] = follow(t, d, q)
			had[i] = append(had[i], ids...)
		}
	}
	if n := len(d.tail.list); n > tailKept {
		t.Errorf("got %d entries kept, want %d at most", n, tailKept)
	}
	all := d.entries()
	for i, q := range queries {
		var want []odometer.EntryID
		for j := range all {
			if q.Wants(&all[j]) {
				want = append(want, all[j].ID)
			}
		}
		if !slices.Equal(had[i], want) {
			t.Errorf("%+v: got %d entries as they were booked, want %d", q, len(had[i]), len(want))
		}
		for q.After = ""; len(want) > 0; {
			list, next, err := d.Follow(t.Context(), q)
			if err != nil || len(list) == 0 {
				t.Fatalf("%+v: got %d entries, %v, want %d more", q, len(list), err, len(want))
			}
			k := min(len(list), 37)
			for _, f := range list[:k] {
				if e, err := odometer.DecodeEntry(f.Entry); err != nil || e.ID != want[0] {
					t.Fatalf("%+v: got %v, %v, want %s", q, e, err, want[0])
				}
				want = want[1:]
			}
			if q.After = list[k-1].Cursor; k == len(list) {
				q.After = next
			}
		}
	}
	if _, _, err := d.Follow(t.Context(), odometer.EntryQuery{After: spot{id: math.MaxInt32}.cursor(1)}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("a cursor of another ledger: got %v, want ErrInvalid", err)
	}
}

// kept is an answer with the revision that its time had.
type kept struct {
	q        odometer.UsageQuery
	revision string
	rows     string
}

func keep(rt *rapid.T, d *desk) kept {
	q := drawQuery(rt)
	return kept{q, d.Revision(q.From, q.To), fmt.Sprint(d.usage(q))}
}

// check asks again: where the revision is the same the answer is.
func (k kept) check(rt *rapid.T, d *desk) {
	if k.revision == "" {
		rt.Fatalf("%+v: got no revision, and nobody commits", k.q)
	}
	if d.Revision(k.q.From, k.q.To) != k.revision {
		return
	}
	if rows := fmt.Sprint(d.usage(k.q)); rows != k.rows {
		rt.Fatalf("%+v: the revision %s is of %s and of %s", k.q, k.revision, k.rows, rows)
	}
}

// TestRevisionsAreOfTheirHours changes what an hour has in every way: its revision
// changes with it, and those of the hours beside it stay.
func TestRevisionsAreOfTheirHours(t *testing.T) {
	d := newDesk(t)
	d.now = time.UnixMicro(base + 40*odometer.HourMicros)
	m := newMeter("vm-1", "host-1", base)
	for range 4 {
		d.send(m.next(odometer.HourMicros, 100, 1))
	}
	late := newMeter("vm-2", "host-2", base+odometer.HourMicros)
	hour := func(n int64) (from, to int64) { return base + n*odometer.HourMicros, base + (n+1)*odometer.HourMicros }
	for _, c := range []struct {
		name    string
		change  func()
		changes bool
	}{
		{"upkeep", func() { d.tick() }, false},
		{"an event of another time", func() { d.send(m.next(odometer.HourMicros, 1, 1)) }, false},
		{"a late event", func() { d.send(late.next(odometer.HourMicros, 5, 5)) }, true},
		{"the same again", func() { d.commit(odometer.Frame{Agent: "host-2", Records: []odometer.Record{{Event: again(late)}}}) }, false},
		{"a move", func() {
			d.assign("vm-1", odometer.Owner{User: "u-bob"}, base+odometer.HourMicros+7, base+odometer.HourMicros+9)
		}, true},
		{"a reversal", func() { d.reverse(d.entries()[1].ID) }, true},
		{"packing", func() { d.now = d.now.Add(3 * time.Hour); d.tick() }, false},
		{"a span too long to be noted by the hour", func() {
			old := newMeter("vm-3", "host-3", base-longestNoted)
			d.send(old.next(longestNoted+2*odometer.HourMicros, 5, 5))
		}, true},
		{"another start", func() { d.reopen() }, true},
	} {
		from, to := hour(1)
		earlier, beside := hour(0)
		before, other := d.Revision(from, to), d.Revision(earlier, beside)
		c.change()
		if after := d.Revision(from, to); (after != before) != c.changes || after == "" {
			t.Errorf("%s: got the revision %q after %q, want another: %v", c.name, after, before, c.changes)
		}
		if all := c.name == "another start" || c.name == "a span too long to be noted by the hour"; !all && d.Revision(earlier, beside) != other {
			t.Errorf("%s: the hour beside has another revision, too", c.name)
		}
	}
	// While a commit is at work in an hour, it has none.
	d.revisions.begin([]stretch{{base, base + odometer.HourMicros}})
	if got := d.Revision(base-1, base+1); got != "" {
		t.Errorf("during a commit: got %q, want none", got)
	}
	if got := d.Revision(base+odometer.HourMicros, base+2*odometer.HourMicros); got == "" {
		t.Errorf("beside a commit: got none")
	}
	d.revisions.end()
}

// again is the last event of a meter, as it was sent.
func again(m *meter) *odometer.Event {
	other := *m
	other.seq, other.at = m.seq-1, m.at-odometer.HourMicros
	other.total = odometer.Usage{Known: m.total.Known}
	return other.next(odometer.HourMicros, 5, 5)
}
