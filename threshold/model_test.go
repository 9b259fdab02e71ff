package threshold

import (
	"flag"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

// TestWhatIsToldFollowsFromTheEntries compares what a fold tells of thresholds that look
// at each entry with a model that has no memory: at each entry it works out anew, from all
// entries so far, what docs/thresholds.md says of them.
func TestWhatIsToldFollowsFromTheEntries(t *testing.T) {
	if f := flag.Lookup("rapid.checks"); f.Value.String() == f.DefValue {
		f.Value.Set("2000") // a story takes a tenth of a millisecond
		defer f.Value.Set(f.DefValue)
	}
	rapid.Check(t, func(t *rapid.T) {
		entries, thresholds := story(t), someThresholds(t)
		f := folded(t, thresholds, nil)
		got := map[odometer.ThresholdID][]string{}
		for i := range entries {
			f.now = entries[i].BookedAt
			if err := f.take(&entries[i], 1); err != nil {
				t.Fatal(err)
			}
			for _, v := range f.changes {
				if v.Condition == odometer.ConditionBudget {
					continue
				}
				got[v.Threshold] = append(got[v.Threshold], told{
					i, v.Level, v.Instance, v.Owner, v.Event, v.Crossed, v.Standing, v.Before, v.Value, v.Late,
				}.String())
				if v.Changed != f.now || v.Change == 1 && v.Detected != f.now || (v.Change == 1) != (v.Standing == odometer.StandingOpen) {
					t.Fatalf("%s\n%+v: got at %d\n%+v", written(entries), v.Threshold, f.now, v)
				}
				if e := &entries[i]; v.Standing == odometer.StandingRecovered && (v.Ended != e.Event.Span.End || v.EndedBy != e.SourceEventID) ||
					v.Standing != odometer.StandingRecovered && (v.Ended != 0 || v.EndedBy != "") {
					t.Fatalf("%s\n%+v: got that it ended at %d by %s\n%+v", written(entries), v.Threshold, v.Ended, v.EndedBy, v)
				}
			}
			f.moveOn()
		}
		for i := range thresholds {
			d := &thresholds[i]
			if d.Condition == odometer.ConditionBudget {
				continue
			}
			want := model{d}.tells(entries)
			slices.Sort(got[d.ID])
			slices.Sort(want)
			if !slices.Equal(got[d.ID], want) {
				t.Fatalf("%s\n%+v: got\n%s\nwant\n%s", written(entries), *d, strings.Join(got[d.ID], "\n"), strings.Join(want, "\n"))
			}
		}
	})
}

// moveOn keeps the changes so far where a fold looks for what an event did, as if they
// were stored.
func (f *fold) moveOn() {
	log := slices.Clone(f.changes)
	before := f.earlier
	f.earlier = func(w *watch, event string) (list []odometer.Violation, err error) {
		if before != nil {
			list, err = before(w, event)
		}
		for _, v := range log {
			if v.Threshold != w.ID || v.Event != event {
				continue
			}
			list = slices.DeleteFunc(list, func(was odometer.Violation) bool { return was.ID == v.ID })
			list = append(list, v)
		}
		return list, err
	}
	if len(log) == 0 {
		f.earlier = before
	}
	f.changes = nil
}

// written is a story as it is printed.
func written(entries []odometer.Entry) string {
	var b strings.Builder
	start := entries[0].Event.Span.Start
	for i := range entries {
		e := &entries[i]
		ev := &e.Event
		fmt.Fprintf(&b, "%2d %s %s of %s %s: from %g s for %g s, %d of %d µs, gap %d µs\n", i, e.Kind, e.SourceEventID, ev.Owner.User, ev.Instance,
			float64(ev.Span.Start-start)/1e6, float64(ev.Span.End-ev.Span.Start)/1e6, ev.Usage.Vector[odometer.CPU], ev.Usage.Vector[odometer.VCPU], ev.Usage.Vector[odometer.GapTime])
	}
	return b.String()
}

// told is a change that an entry brings about.
type told struct {
	entry         int
	level         string
	instance      odometer.InstanceID
	owner         odometer.Owner
	event         string
	crossed       int64
	standing      odometer.Standing
	before, value float64
	late          bool
}

func (c told) String() string {
	return fmt.Sprintf("%02d %s %s%v by %q at %d: %s %.9g to %.9g late %t", c.entry, c.level, c.instance, c.owner, c.event, c.crossed, c.standing, c.before, c.value, c.late)
}

// used is what a threshold sees of an entry.
type used struct {
	entry    int
	from, to int64
	value    float64
	event    string
	owner    odometer.Owner
	instance odometer.InstanceID
	back     bool // it takes back what an event did
}

// model says what holds of a threshold that looks at each entry.
type model struct{ *odometer.Threshold }

// tells returns all that entries bring about.
func (m model) tells(entries []odometer.Entry) (list []string) {
	for _, subject := range m.subjects(entries) {
		var known []told // the changes so far
		of := m.of(entries, subject)
		begin := -1 // of what is remembered
		for i := range of {
			if begin < 0 && !of[i].back && (m.Scope.Sum || of[i].value >= m.Levels[0].Value) {
				begin = i
			}
			var now []told
			if begin >= 0 && !of[i].back {
				for _, l := range m.Levels {
					now = append(now, m.brings(of[begin:i+1], l)...)
				}
				if m.forgotten(of[begin : i+1]) {
					begin = -1
				}
			}
			if of[i].back {
				now = undone(known, &of[i])
			}
			known = append(known, now...)
		}
		for _, c := range known {
			list = append(list, c.String())
		}
	}
	return list
}

func (m model) sees(e *odometer.Entry) bool {
	s, o := m.Scope, e.Event.Owner
	return s.All || s.Instance == e.Event.Instance || s.User != "" && s.User == o.User || s.Org != "" && s.Org == o.Org
}

func (m model) subjects(entries []odometer.Entry) (list []odometer.InstanceID) {
	if m.Scope.Sum {
		return []odometer.InstanceID{""}
	}
	for i := range entries {
		if id := entries[i].Event.Instance; m.sees(&entries[i]) && !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	return list
}

// amount is a value of an entry as a quotient.
func (m model) amount(e *odometer.Entry) (num, den float64, ok bool) {
	u, v := &e.Event.Usage, &e.Event.Usage.Vector
	switch {
	case m.Condition == odometer.ConditionGap:
		return float64(v[odometer.GapTime]), 1e6, true
	case !u.Known.Has(odometer.CPU):
		return 0, 0, false
	case m.Unit == odometer.UnitPercent:
		return 100 * float64(v[odometer.CPU]), float64(v[odometer.VCPU]), v[odometer.VCPU] > 0
	}
	return float64(v[odometer.CPU]), float64(v[odometer.MeasuredTime]), v[odometer.MeasuredTime] > 0
}

// of returns what the threshold sees of a subject, in the order of booking: nothing of
// corrections but that they take an event back.
func (m model) of(entries []odometer.Entry, subject odometer.InstanceID) (list []used) {
	var sum sums
	for i := range entries {
		e := &entries[i]
		if !m.sees(e) || !m.Scope.Sum && e.Event.Instance != subject {
			continue
		}
		u := used{entry: i, from: e.Event.Span.Start, to: e.Event.Span.End, event: e.SourceEventID, owner: e.Event.Owner, instance: e.Event.Instance}
		if e.Kind == odometer.KindCorrection {
			if u.back = slices.Min(e.Event.Usage.Vector[:]) < 0; u.back {
				list = append(list, u)
			}
			continue
		}
		num, den, ok := m.amount(e)
		if !ok {
			continue
		}
		u.value = num / den
		if m.Scope.Sum {
			sum = append(sum, summand{u.instance, num, den, u.to})
			u.value = sum.value(m.Unit == odometer.UnitPercent)
			u.owner, u.instance = odometer.Owner{User: m.Scope.User, Org: m.Scope.Org}, ""
		}
		list = append(list, u)
	}
	return list
}

type summand struct {
	instance odometer.InstanceID
	num, den float64
	at       int64
}

// sums are what instances came to, in the order of booking.
type sums []summand

// value adds up what each instance came to last, within ten minutes. What is older than
// that is looked for at most once a minute of the time of use.
func (list sums) value(quotient bool) float64 {
	const minute = 60 * odometer.SecondMicros
	var newest, looked int64
	gone := make([]bool, len(list))
	for i, s := range list {
		gone[i] = s.at < newest-10*minute
		for j := range i { // one of each instance
			if s.instance == list[j].instance && !gone[j] && !gone[i] {
				gone[j], gone[i] = list[j].at <= s.at, list[j].at > s.at
			}
		}
		newest = max(newest, s.at)
		if newest >= looked+minute {
			looked = newest
			for j := range i + 1 {
				gone[j] = gone[j] || list[j].at < newest-10*minute
			}
		}
	}
	var num, den, millionths int64
	for i, s := range list {
		if !gone[i] {
			num, den, millionths = num+int64(math.Round(s.num)), den+int64(math.Round(s.den)), millionths+int64(math.Round(s.num/s.den*1e6))
		}
	}
	if quotient {
		return float64(num) / float64(max(1, den))
	}
	return float64(millionths) / 1e6
}

// run is a violation of what comes in order, by places among what is remembered; end is
// -1 while it lasts.
type run struct{ first, end int }

// inOrder reports whether nothing that ended later came before.
func (m model) inOrder(list []used, i int) bool { return m.Scope.Sum || list[i].to >= latest(list[:i]) }

// before returns the last that came in order before one, -1 for none.
func (m model) before(list []used, i int) int {
	for i--; i >= 0 && (list[i].back || !m.inOrder(list, i)); i-- {
	}
	return i
}

func latest(list []used) (at int64) {
	for _, u := range list {
		if !u.back {
			at = max(at, u.to)
		}
	}
	return at
}

// lasts reports whether a value was at a level or above for long enough, without a break
// after a place.
func (m model) lasts(list []used, i int, limit float64, after int) bool {
	since := i
	for {
		was := m.before(list, since)
		if was < after || was < 0 || list[was].value < limit || list[since].from > latest(list[:since])+odometer.SecondMicros {
			break
		}
		since = was
	}
	return list[i].value >= limit && list[i].to-list[since].from >= m.For.Microseconds()
}

// runs returns the violations of a level by what came in order.
func (m model) runs(list []used, limit float64) (runs []run) {
	rests, after := int64(0), 0
	for i := 0; i < len(list); i++ {
		if list[i].back || !m.inOrder(list, i) || list[i].to < rests || !m.lasts(list, i, limit, after) {
			continue
		}
		r := run{i, -1}
		for j := i + 1; j < len(list) && r.end < 0; j++ {
			switch u := &list[j]; {
			case u.back && u.takesBack(&list[i]):
				r.end, after = j, j
			case !u.back && m.inOrder(list, j) && u.value < limit*(1-m.Hysteresis/100):
				r.end, rests = j, u.to+m.CoolDown.Microseconds()
			}
		}
		if runs = append(runs, r); r.end < 0 {
			break
		}
		i = r.end
	}
	return runs
}

func (u *used) takesBack(done *used) bool {
	return u.event == done.event && u.from == done.from && u.to == done.to
}

// brings returns what the last of what is remembered does to a level.
func (m model) brings(list []used, l odometer.ThresholdLevel) []told {
	last := len(list) - 1
	u := &list[last]
	c := told{u.entry, l.Name, u.instance, u.owner, u.event, u.to, odometer.StandingOpen, 0, u.value, false}
	if !m.inOrder(list, last) {
		if m.For > 0 || u.value < l.Value || m.covered(list, l.Value) {
			return nil
		}
		c.late = true
		over := c
		over.standing, over.before = odometer.StandingRecovered, c.value
		return []told{c, over}
	}
	is, was := m.runs(list, l.Value), m.runs(list[:last], l.Value)
	switch {
	case len(is) > len(was):
		if i := m.before(list, last); i >= 0 {
			c.before = list[i].value
		}
		return []told{c}
	case len(is) > 0 && is[len(is)-1] != was[len(was)-1]:
		by, before := &list[is[len(is)-1].first], &list[m.before(list, last)]
		return []told{{u.entry, l.Name, by.instance, by.owner, by.event, by.to, odometer.StandingRecovered, before.value, u.value, false}}
	}
	return nil
}

// covered reports whether the last violation of a level covers the last of what is
// remembered, which came late.
func (m model) covered(list []used, limit float64) bool {
	u := list[len(list)-1]
	runs := m.runs(list[:len(list)-1], limit)
	if len(runs) == 0 {
		return false
	}
	r := runs[len(runs)-1]
	by := list[r.first]
	if u.to < by.to || slices.ContainsFunc(list, func(u used) bool { return u.back && u.takesBack(&by) }) {
		return false
	}
	return r.end < 0 || u.to <= list[r.end].to
}

// forgotten reports whether nothing is remembered any more after the last: no level is
// reached or open, none rests, and the last violations are over for an hour.
func (m model) forgotten(list []used) bool {
	last := len(list) - 1
	if m.Scope.Sum || !m.inOrder(list, last) {
		return false
	}
	for _, l := range m.Levels {
		if m.For > 0 && list[last].value >= l.Value {
			return false
		}
		for i, r := range slices.Backward(m.runs(list, l.Value)) {
			switch {
			case r.end < 0:
				return false
			case list[r.end].back && i > 0:
				continue
			case !list[r.end].back && list[last].to < list[r.end].to+max(m.CoolDown.Microseconds(), odometer.HourMicros):
				return false
			}
			break
		}
	}
	return true
}

// undone returns what is taken back of what was told, by what was told last of each.
func undone(known []told, by *used) (list []told) {
	for i, c := range known {
		again := slices.ContainsFunc(known[i+1:], func(d told) bool { return d.level == c.level && d.event == c.event && d.crossed == c.crossed })
		if c.event != by.event || c.crossed != by.to || again || c.standing == odometer.StandingRetracted {
			continue
		}
		c.entry, c.standing, c.before, c.value = by.entry, odometer.StandingRetracted, c.value, 0
		list = append(list, c)
	}
	return list
}

// TestACorrectionOfWhatIsOverBreaksNothing takes back what reached a level that lasts again
// by now.
func TestACorrectionOfWhatIsOverBreaksNothing(t *testing.T) {
	d := twoLevels(odometer.Threshold{ID: "thr_x", Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionSustained, Unit: odometer.UnitPercent, For: time.Minute})
	f := newFold()
	f.replace([]*watch{newWatch(&d, 0)})
	var entries []odometer.Entry
	for i, percent := range []int64{90, 90, 10, 90, -90, 90} {
		e := odometer.Entry{Kind: odometer.KindUsage, SourceEventID: fmt.Sprint("vm-1/", i)}
		at := begin.UnixMicro() + int64(i)*30e6
		if i > 4 { // the correction took no time
			at -= 30e6
		}
		e.Event = odometer.Event{Instance: "vm-1", Owner: ada, Span: odometer.Span{Start: at, End: at + 30e6}}
		e.Event.Usage.Known = odometer.AllKnown
		e.Event.Usage.Vector[odometer.CPU], e.Event.Usage.Vector[odometer.VCPU] = 30e6*percent/100, 30e6
		if percent < 0 {
			e = negated(entries[1])
		}
		entries = append(entries, e)
		if err := f.take(&e, 1); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, v := range f.changes {
		got = append(got, fmt.Sprint(v.Event, " ", v.Standing))
	}
	if want := []string{"vm-1/1 open", "vm-1/1 recovered", "vm-1/1 retracted", "vm-1/5 open"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
