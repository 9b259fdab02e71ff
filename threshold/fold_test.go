package threshold

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

// story is what was booked, in that order, of some machines of some owners: some of it
// late, unknown, given to another owner later, or taken back and given again.
func story(t *rapid.T) (list []odometer.Entry) {
	zone := time.Date(2026, 3, 29, 0, 0, 0, 0, time.UTC) // clocks change in Europe that night
	owners := []odometer.Owner{ada, bob, eve}
	type machine struct {
		id    odometer.InstanceID
		owner odometer.Owner
		at    int64
		seq   int
	}
	var machines []*machine
	for i := range rapid.IntRange(1, 3).Draw(t, "machines") {
		machines = append(machines, &machine{odometer.InstanceID(fmt.Sprint("vm-", i)), owners[i], zone.Add(-30 * time.Hour).UnixMicro(), 0})
	}
	var held []odometer.Entry // come late
	reversed := map[odometer.EntryID]bool{}
	book := func(e odometer.Entry) {
		e.ID.Number, e.BookedAt = uint64(len(list)+1), max(e.BookedAt, e.Event.Span.End)
		if len(list) > 0 {
			e.BookedAt = max(e.BookedAt, list[len(list)-1].BookedAt+1)
		}
		list = append(list, e)
	}
	lengths := []int64{30e6, 600e6, odometer.HourMicros, 7 * odometer.HourMicros, 1}
	if rapid.Bool().Draw(t, "often") {
		lengths = []int64{30e6}
	}
	for range rapid.IntRange(1, 60).Draw(t, "entries") {
		switch what := rapid.IntRange(0, 19).Draw(t, "what"); {
		case what < 2 && len(list) > 0: // one is reversed, which may be a reversal
			back := list[rapid.IntRange(0, len(list)-1).Draw(t, "which")]
			if reversed[back.ID] {
				continue // each once
			}
			reversed[back.ID] = true
			book(negated(back))
			continue
		case what == 2 && len(list) > 0: // it is another's, which is noted with the latest event
			of := list[rapid.IntRange(0, len(list)-1).Draw(t, "which")]
			if of.Kind == odometer.KindCorrection || of.Event.Span.End > odometer.Hour(of.Event.Span.Start)+odometer.HourMicros {
				continue
			}
			for _, e := range list {
				if e.Event.Instance == of.Event.Instance {
					of.SourceEventID = e.SourceEventID
				}
			}
			of.Event.Span = odometer.Span{Start: odometer.Hour(of.Event.Span.Start), End: odometer.Hour(of.Event.Span.Start) + odometer.HourMicros}
			book(negated(of))
			of.Kind, of.Event.Owner = odometer.KindCorrection, rapid.SampledFrom(owners).Draw(t, "owner")
			reversed[list[len(list)-1].ID] = true
			book(of)
			reversed[list[len(list)-1].ID] = true
			continue
		case what == 3 && len(held) > 0:
			i := rapid.IntRange(0, len(held)-1).Draw(t, "late")
			book(held[i])
			held = slices.Delete(held, i, i+1)
			continue
		}
		m := rapid.SampledFrom(machines).Draw(t, "machine")
		if rapid.IntRange(0, 19).Draw(t, "sold") == 0 {
			m.owner = rapid.SampledFrom(owners).Draw(t, "owner")
		}
		length := rapid.SampledFrom(lengths).Draw(t, "length")
		m.seq++
		e := odometer.Entry{Kind: odometer.KindUsage, SourceEventID: fmt.Sprint(m.id, "/", m.seq)}
		e.Event = odometer.Event{Instance: m.id, Owner: m.owner, Span: odometer.Span{Start: m.at, End: m.at + length}}
		u := &e.Event.Usage
		u.Known = odometer.AllKnown
		m.at += length
		switch rapid.IntRange(0, 19).Draw(t, "kind") {
		case 0: // nobody measured it
			u.Vector[odometer.GapTime] = length
		case 1:
			u.Known &^= 1 << odometer.CPU
			u.Vector[odometer.MeasuredTime] = length
		default:
			u.Vector[odometer.MeasuredTime], u.Vector[odometer.VCPU] = length, length
			u.Vector[odometer.CPU] = length * rapid.SampledFrom([]int64{0, 10, 64, 79, 80, 85, 90, 100}).Draw(t, "percent") / 100
		}
		switch rapid.IntRange(0, 11).Draw(t, "then") {
		case 0:
			held = append(held, e)
			continue
		case 1: // of what follows nothing is known
			m.at += rapid.SampledFrom([]int64{odometer.SecondMicros, 20 * odometer.SecondMicros, odometer.HourMicros}).Draw(t, "pause")
		}
		book(e)
	}
	if len(list) == 0 {
		t.Skip("nothing is booked")
	}
	return list
}

// negated is the correction that takes an entry back.
func negated(e odometer.Entry) odometer.Entry {
	e.Kind = odometer.KindCorrection
	for q := range e.Event.Usage.Vector {
		e.Event.Usage.Vector[q] = -e.Event.Usage.Vector[q]
	}
	return e
}

func someThresholds(t *rapid.T) (list []odometer.Threshold) {
	berlin, err := odometer.LoadZone("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "thresholds") {
		d := odometer.Threshold{
			ID: odometer.ThresholdID(fmt.Sprint("thr_", i)), Version: 1, Name: "x", Enabled: true, Resource: odometer.ResourceCPU, Action: odometer.ActionLog,
			Scope:    rapid.SampledFrom([]odometer.Scoped{{All: true}, {All: true, Sum: true}, {User: "u-ada"}, {Org: "acme", Sum: true}, {Instance: "vm-1"}}).Draw(t, "scope"),
			CoolDown: rapid.SampledFrom([]time.Duration{0, 2 * time.Minute, 3 * time.Hour}).Draw(t, "cool-down"), Hysteresis: rapid.SampledFrom([]float64{0, 20}).Draw(t, "hysteresis"),
			Condition: rapid.SampledFrom([]odometer.Condition{odometer.ConditionBudget, odometer.ConditionPeriod, odometer.ConditionSustained, odometer.ConditionRate, odometer.ConditionGap}).Draw(t, "condition"),
		}
		if d.Scope.Sum && d.Condition == odometer.ConditionGap {
			d.Condition = odometer.ConditionBudget
		}
		switch d.Condition {
		case odometer.ConditionBudget:
			d.Unit, d.Limit, d.CoolDown, d.Hysteresis = odometer.UnitHours, rapid.SampledFrom([]float64{0.5, 2, 6}).Draw(t, "limit"), 0, 0
			d.Every = rapid.SampledFrom([]odometer.Cycle{odometer.CycleHour, odometer.CycleDay, odometer.CycleMonth}).Draw(t, "every")
			d.Zone = rapid.SampledFrom([]*time.Location{nil, berlin}).Draw(t, "zone")
			d.Levels = []odometer.ThresholdLevel{{Name: "50%", Percent: 50}, {Name: "100%", Percent: 100}}
		case odometer.ConditionGap:
			d.Resource, d.Unit, d.Levels = odometer.ResourceNone, odometer.UnitSeconds, []odometer.ThresholdLevel{{Name: "any", Value: 1}, {Name: "long", Value: 600}}
		default:
			d.Unit = odometer.UnitCores
			if d.Condition != odometer.ConditionRate && rapid.Bool().Draw(t, "percent") {
				d.Unit = odometer.UnitPercent
			}
			if d.Condition == odometer.ConditionSustained {
				d.For = rapid.SampledFrom([]time.Duration{time.Second, 90 * time.Second, 20 * time.Minute, 2 * time.Hour}).Draw(t, "for")
			}
			d.Levels = []odometer.ThresholdLevel{{Name: "warning", Value: 0.5}, {Name: "critical", Value: 0.8}}
			if d.Unit == odometer.UnitPercent {
				d.Levels[0].Value, d.Levels[1].Value = 10, 80
			} else if d.Scope.Sum {
				d.Levels[1].Value = 1.5
			}
		}
		d.Settle()
		if err := d.Valid(); err != nil {
			t.Fatal(err)
		}
		list = append(list, d)
	}
	return list
}

func folded(t *rapid.T, thresholds []odometer.Threshold, states map[odometer.ThresholdID]map[string]*state) *fold {
	f := newFold()
	var list []*watch
	for i := range thresholds {
		w := newWatch(&thresholds[i], 0)
		if states[w.ID] != nil {
			w.states = states[w.ID]
		}
		list = append(list, w)
	}
	f.replace(list)
	return f
}

// TestBudgetsAreTheFoldOfTheEntries compares what was told of budgets with what their
// periods come to in the end, added up in another way: one violation of each level that
// was ever reached, by subject and period, and it stands as the sum does.
func TestBudgetsAreTheFoldOfTheEntries(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries, thresholds := story(t), someThresholds(t)
		f := folded(t, thresholds, nil)
		for i := range entries {
			f.now = entries[0].BookedAt // no period ends
			if err := f.take(&entries[i], 1); err != nil {
				t.Fatal(err)
			}
		}
		last := map[string]odometer.Violation{}
		for _, v := range f.changes {
			k := fmt.Sprint(v.Threshold, " ", v.Level, " ", v.Instance, " ", v.From)
			if was, told := last[k]; v.Condition == odometer.ConditionBudget && (told && (was.ID != v.ID || v.Change != was.Change+1 || v.Standing == was.Standing) || !told && v.Change != 1) {
				t.Fatalf("%s: got %+v after %+v", k, v, was)
			}
			last[k] = v
		}
		for i := range thresholds {
			d := &thresholds[i]
			if d.Condition != odometer.ConditionBudget {
				continue
			}
			type bucket struct {
				instance odometer.InstanceID
				start    int64
			}
			sums, most := map[bucket]int64{}, map[bucket]int64{}
			w := newWatch(d, 0)
			for j := range entries {
				e := &entries[j]
				if !w.covers(e.Event.Instance, e.Event.Owner) {
					continue
				}
				for at := w.calendar.Start(e.Event.Span.Start); at < e.Event.Span.End; at = w.calendar.Next(at) {
					b := bucket{e.Event.Instance, at}
					if d.Scope.Sum {
						b.instance = ""
					}
					part := e.Event.Usage.Between(e.Event.Span, at, w.calendar.Next(at))
					sums[b] += part.Vector[odometer.CPU]
					most[b] = max(most[b], sums[b])
				}
			}
			for b := range sums {
				for _, l := range d.Levels {
					limit := int64(l.Value * float64(odometer.HourMicros))
					v, told := last[fmt.Sprint(d.ID, " ", l.Name, " ", b.instance, " ", b.start)]
					if told != (most[b] >= limit) {
						t.Fatalf("%s of %+v, which came to %d of %d at most: told %t", l.Name, b, most[b], limit, told)
					}
					if want := map[bool]odometer.Standing{true: odometer.StandingOpen, false: odometer.StandingRetracted}[sums[b] >= limit]; told && v.Standing != want {
						t.Fatalf("%s of %+v, which came to %d of %d: it is %s, want %s", l.Name, b, sums[b], limit, v.Standing, want)
					}
				}
			}
		}
	})
}

// TestWhatIsReadAgainIsToldOnce has the fold die at any moment and go on from what was
// stored last: the log is then the one of a fold that never died.
func TestWhatIsReadAgainIsToldOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		entries, thresholds := story(t), someThresholds(t)
		take := func(f *fold, i int) {
			f.now = entries[i].BookedAt
			f.elapse(0)
			if err := f.take(&entries[i], 1); err != nil {
				t.Fatal(err)
			}
		}
		whole := folded(t, thresholds, nil)
		for i := range entries {
			take(whole, i)
		}
		var log []odometer.Violation
		stored := map[place][]byte{}
		cursor := 0
		load := func() *fold {
			states := map[odometer.ThresholdID]map[string]*state{}
			for at, body := range stored {
				s := &state{}
				if err := json.Unmarshal(body, s); err != nil {
					t.Fatal(err)
				}
				s.Subject, s.Period = at.subject, at.period
				if states[at.threshold] == nil {
					states[at.threshold] = map[string]*state{}
				}
				states[at.threshold][key(at.subject, at.period)] = s
			}
			f := folded(t, thresholds, states)
			f.earlier = func(w *watch, event string) ([]odometer.Violation, error) {
				last := map[odometer.ViolationID]odometer.Violation{}
				for _, v := range log {
					if v.Threshold == w.ID && v.Event == event {
						last[v.ID] = v
					}
				}
				return slices.Collect(maps.Values(last)), nil
			}
			return f
		}
		f := load()
		for i := 0; i < len(entries); {
			take(f, i)
			i++
			switch rapid.IntRange(0, 4).Draw(t, "then") {
			case 0: // it is stored
				for at, w := range f.touched {
					if s := w.states[key(at.subject, at.period)]; s == nil {
						delete(stored, at)
					} else if stored[at], _ = json.Marshal(s); len(stored[at]) == 0 {
						t.Fatal("got a state that cannot be stored")
					}
				}
				log = append(log, f.changes...)
				f.changes = nil
				clear(f.touched)
				cursor = i
			case 1: // it dies
				f, i = load(), cursor
			}
		}
		log = append(log, f.changes...)
		if got, want := lines(log), lines(whole.changes); !slices.Equal(got, want) {
			t.Fatalf("got\n%q\nwant\n%q", got, want)
		}
	})
}

// lines writes changes in an order that does not depend on that of maps.
func lines(changes []odometer.Violation) (list []string) {
	for _, v := range changes {
		list = append(list, fmt.Sprintf("%d %s %d %s %.6g %d", v.Changed, v.ID, v.Change, v.Standing, v.Value, v.Crossed))
	}
	slices.Sort(list)
	return list
}

// TestTheCheckHasNoMemory looks at units, edges and what is absent.
func TestTheCheckHasNoMemory(t *testing.T) {
	entry := func(amounts map[odometer.Quantity]int64) *odometer.Entry {
		e := &odometer.Entry{Kind: odometer.KindUsage}
		for q, n := range amounts {
			e.Event.Usage.Vector[q], e.Event.Usage.Known = n, e.Event.Usage.Known.With(q)
		}
		return e
	}
	const half = 30_000_000 // a minute's half, µs
	for _, c := range []struct {
		says     string
		resource odometer.Resource
		unit     odometer.Unit
		amounts  map[odometer.Quantity]int64
		want     float64
		unknown  bool
	}{
		{"percent of processors", odometer.ResourceCPU, odometer.UnitPercent, map[odometer.Quantity]int64{odometer.CPU: half, odometer.VCPU: 2 * half}, 50, false},
		{"no processors", odometer.ResourceCPU, odometer.UnitPercent, map[odometer.Quantity]int64{odometer.CPU: half, odometer.VCPU: 0}, 0, true},
		{"processors that nobody knows", odometer.ResourceCPU, odometer.UnitPercent, map[odometer.Quantity]int64{odometer.CPU: half}, 0, true},
		{"processor time that nobody knows", odometer.ResourceCPU, odometer.UnitPercent, map[odometer.Quantity]int64{odometer.VCPU: half}, 0, true},
		{"seconds", odometer.ResourceCPU, odometer.UnitSeconds, map[odometer.Quantity]int64{odometer.CPU: half}, 30, false},
		{"cores", odometer.ResourceCPU, odometer.UnitCores, map[odometer.Quantity]int64{odometer.CPU: 3 * half, odometer.MeasuredTime: half, odometer.EstimatedTime: half}, 1.5, false},
		{"cores in no time", odometer.ResourceCPU, odometer.UnitCores, map[odometer.Quantity]int64{odometer.CPU: half, odometer.MeasuredTime: 0}, 0, true},
		{"cores in a gap", odometer.ResourceCPU, odometer.UnitCores, map[odometer.Quantity]int64{odometer.CPU: half, odometer.GapTime: half}, 0, true},
		{"GB in memory", odometer.ResourceMemory, odometer.UnitGB, map[odometer.Quantity]int64{odometer.Memory: 30 * 3 * 1024, odometer.MeasuredTime: half}, 3, false},
		{"percent of memory", odometer.ResourceMemory, odometer.UnitPercent, map[odometer.Quantity]int64{odometer.Memory: 3, odometer.MemoryAllocated: 4}, 75, false},
		{"GB on disks", odometer.ResourceStorage, odometer.UnitGB, map[odometer.Quantity]int64{odometer.Storage: 30 * 1024, odometer.MeasuredTime: half}, 1, false},
		{"MB sent", odometer.ResourceNetworkEgress, odometer.UnitMB, map[odometer.Quantity]int64{odometer.NetworkEgress: 3 << 20}, 3, false},
		{"GB received", odometer.ResourceNetworkIngress, odometer.UnitGB, map[odometer.Quantity]int64{odometer.NetworkIngress: 3 << 30}, 3, false},
		{"MB read a second", odometer.ResourceDiskRead, odometer.UnitMBPerSec, map[odometer.Quantity]int64{odometer.DiskRead: 60 << 20, odometer.MeasuredTime: half}, 2, false},
		{"Mbit sent a second", odometer.ResourceNetworkEgress, odometer.UnitMbitPerS, map[odometer.Quantity]int64{odometer.NetworkEgress: 30e6 / 8, odometer.MeasuredTime: half}, 1, false},
		{"percent of GPUs", odometer.ResourceGPU, odometer.UnitPercent, map[odometer.Quantity]int64{odometer.GPUBusy: half, odometer.GPU: 4 * half}, 25, false},
		{"GPUs attached", odometer.ResourceGPU, odometer.UnitCores, map[odometer.Quantity]int64{odometer.GPU: 4 * half, odometer.MeasuredTime: 2 * half}, 2, false},
		{"what was taken back", odometer.ResourceCPU, odometer.UnitSeconds, map[odometer.Quantity]int64{odometer.CPU: -half}, 0, true},
	} {
		d := odometer.Threshold{Resource: c.resource, Condition: odometer.ConditionPeriod, Unit: c.unit, Levels: []odometer.ThresholdLevel{{Name: "just", Value: max(c.want, 1e-9)}, {Name: "above", Value: max(c.want, 1) * 1.000001}}}
		for range 2 {
			value, reached, ok := Check(&d, entry(c.amounts))
			if ok == c.unknown || ok && (value != c.want || reached != 1) {
				t.Errorf("%s: got %v, %b, %t, want %v and the level that it is just at", c.says, value, reached, ok, c.want)
			}
		}
	}
	gap := odometer.Threshold{Condition: odometer.ConditionGap, Unit: odometer.UnitSeconds, Levels: []odometer.ThresholdLevel{{Name: "any", Value: 1}}}
	if value, reached, ok := Check(&gap, entry(map[odometer.Quantity]int64{odometer.GapTime: 90e6})); value != 90 || reached != 1 || !ok {
		t.Errorf("a gap: got %v, %b, %t", value, reached, ok)
	}
}
