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

// story is what was booked, in that order, of some machines of some owners.
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
	for n := range rapid.IntRange(1, 60).Draw(t, "entries") {
		if len(list) > 0 && rapid.IntRange(0, 9).Draw(t, "what") == 0 {
			back := list[rapid.IntRange(0, len(list)-1).Draw(t, "which")]
			if back.Kind == odometer.KindCorrection {
				continue
			}
			back.Kind = odometer.KindCorrection
			for q := range back.Event.Usage.Vector {
				back.Event.Usage.Vector[q] = -back.Event.Usage.Vector[q]
			}
			back.ID.Number, back.BookedAt = uint64(n+1), list[len(list)-1].BookedAt+1
			if slices.ContainsFunc(list, func(e odometer.Entry) bool {
				return e.Kind == odometer.KindCorrection && e.SourceEventID == back.SourceEventID
			}) {
				continue // each once
			}
			list = append(list, back)
			continue
		}
		m := rapid.SampledFrom(machines).Draw(t, "machine")
		if rapid.IntRange(0, 19).Draw(t, "sold") == 0 {
			m.owner = rapid.SampledFrom(owners).Draw(t, "owner")
		}
		length := rapid.SampledFrom([]int64{30e6, 600e6, odometer.HourMicros, 7 * odometer.HourMicros, 1}).Draw(t, "length")
		m.seq++
		e := odometer.Entry{ID: odometer.EntryID{Number: uint64(n + 1)}, Kind: odometer.KindUsage, SourceEventID: fmt.Sprint(m.id, "/", m.seq), BookedAt: m.at + length}
		if len(list) > 0 {
			e.BookedAt = max(e.BookedAt, list[len(list)-1].BookedAt)
		}
		e.Event = odometer.Event{Instance: m.id, Owner: m.owner, Span: odometer.Span{Start: m.at, End: m.at + length}}
		u := &e.Event.Usage
		u.Known = odometer.AllKnown
		u.Vector[odometer.MeasuredTime], u.Vector[odometer.VCPU] = length, length
		u.Vector[odometer.CPU] = length * rapid.Int64Range(0, 100).Draw(t, "percent") / 100
		m.at += length
		list = append(list, e)
	}
	return list
}

func someThresholds(t *rapid.T) (list []odometer.Threshold) {
	berlin, err := odometer.LoadZone("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	for i := range rapid.IntRange(1, 3).Draw(t, "thresholds") {
		d := odometer.Threshold{
			ID: odometer.ThresholdID(fmt.Sprint("thr_", i)), Version: 1, Name: "x", Enabled: true, Resource: odometer.ResourceCPU, Action: odometer.ActionLog,
			Scope: rapid.SampledFrom([]odometer.Scoped{{All: true}, {All: true, Sum: true}, {User: "u-ada"}, {Org: "acme", Sum: true}, {Instance: "vm-1"}}).Draw(t, "scope"),
		}
		if rapid.Bool().Draw(t, "budget") {
			d.Condition, d.Unit, d.Limit = odometer.ConditionBudget, odometer.UnitHours, rapid.SampledFrom([]float64{0.5, 2, 6}).Draw(t, "limit")
			d.Every = rapid.SampledFrom([]odometer.Cycle{odometer.CycleHour, odometer.CycleDay, odometer.CycleMonth}).Draw(t, "every")
			d.Zone = rapid.SampledFrom([]*time.Location{nil, berlin}).Draw(t, "zone")
			d.Levels = []odometer.ThresholdLevel{{Name: "50%", Percent: 50}, {Name: "100%", Percent: 100}}
		} else {
			d.Condition, d.Unit = odometer.ConditionPeriod, odometer.UnitPercent
			if d.Scope.Sum {
				d.Condition, d.Unit = odometer.ConditionRate, odometer.UnitCores
			}
			d.Levels = []odometer.ThresholdLevel{{Name: "warning", Value: 0.5}, {Name: "critical", Value: 80}}
			if d.Unit == odometer.UnitCores {
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
