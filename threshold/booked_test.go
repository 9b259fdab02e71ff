package threshold

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

func gap(d time.Duration) map[odometer.Quantity]int64 {
	return map[odometer.Quantity]int64{odometer.GapTime: d.Microseconds()}
}

// TestGapsAreTold books times that nobody measured, by a server that goes on and by one
// that dies in each of them.
func TestGapsAreTold(t *testing.T) {
	for _, dies := range []bool{false, true} {
		t.Run(fmt.Sprint("killed ", dies), func(t *testing.T) {
			w := newWatchtower(t)
			w.run()
			gaps := odometer.Threshold{Scope: odometer.Scoped{All: true}, Condition: odometer.ConditionGap, Levels: []odometer.ThresholdLevel{{Name: "any", Value: 60}, {Name: "long", Value: 600}}}
			w.create(gaps)
			gaps.Holder, gaps.Levels = odometer.Bound{Org: "evil"}, gaps.Levels[:1] // hers, who has no gap
			w.create(gaps)
			w.use("vm-2", eve, time.Hour, cpu(90))
			for _, d := range []time.Duration{0, 59 * time.Second, 0, 60 * time.Second, 0, 700 * time.Second, 80 * time.Second, 30 * time.Second, 0} {
				if d == 0 {
					w.use("vm-1", ada, 30*time.Second, cpu(90))
				} else {
					w.use("vm-1", ada, d, gap(d))
				}
				if dies {
					w.settled()
					w.restart()
				}
			}
			w.is("vm-1 any open 60", "vm-1 any recovered 0", "vm-1 any open 700", "vm-1 long open 700", "vm-1 long recovered 80", "vm-1 any recovered 30")
			list, err := w.Violations(t.Context(), odometer.ViolationQuery{Limit: 10, Level: "long"})
			if err != nil || len(list) != 1 || list[0].To-list[0].From != (700*time.Second).Microseconds() || list[0].Crossed != list[0].To || list[0].Resource != odometer.ResourceNone || list[0].Unit != odometer.UnitSeconds {
				t.Errorf("got %+v, %v, want the time that nobody measured", list, err)
			}
		})
	}
}

// TestTheOrderInWhichItIsSentTellsNothing sends what was measured in any order, some of it
// twice: what is told is what is told of it in order.
func TestTheOrderInWhichItIsSentTellsNothing(t *testing.T) {
	all := odometer.Scoped{All: true}
	thresholds := []odometer.Threshold{
		{Scope: all, Condition: odometer.ConditionGap, Levels: []odometer.ThresholdLevel{{Name: "gap", Value: 60}}},
		twoLevels(odometer.Threshold{Scope: all, Resource: odometer.ResourceCPU, Condition: odometer.ConditionSustained, For: time.Minute, Hysteresis: 20, CoolDown: 2 * time.Minute}),
		{Scope: all, Resource: odometer.ResourceCPU, Condition: odometer.ConditionRate, Levels: []odometer.ThresholdLevel{{Name: "fast", Value: 0.9}}},
		{Scope: odometer.Scoped{User: "u-ada", Sum: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionBudget, Unit: odometer.UnitSeconds, Every: odometer.CycleHour,
			Levels: []odometer.ThresholdLevel{{Name: "some", Value: 100}, {Name: "much", Value: 400}}},
	}
	for seed := range uint64(3) {
		sent := func(shuffled bool) string {
			r := rand.New(rand.NewPCG(seed, 1))
			w := newWatchtower(t)
			w.run()
			for _, d := range thresholds {
				w.create(d)
			}
			ep := &epoch{began: begin, at: begin}
			var events []*odometer.Event
			for range 40 {
				if r.IntN(8) == 0 {
					d := time.Duration(40+r.IntN(40)) * time.Second
					events = append(events, w.event("vm-1", ada, ep, d, gap(d)))
				} else {
					events = append(events, w.event("vm-1", ada, ep, 30*time.Second, cpu([]int64{10, 70, 85, 96, 96, 96}[r.IntN(6)])))
				}
			}
			w.pass(ep.at.Sub(begin))
			for len(events) > 0 {
				i := 0
				if shuffled {
					i = r.IntN(min(5, len(events)))
				}
				e, f := events[i], odometer.Frame{Agent: "host-1"}
				f.Records = append(f.Records, odometer.Record{Event: e})
				if !shuffled || r.IntN(4) > 0 { // otherwise it is sent once more later
					events = append(events[:i], events[i+1:]...)
				}
				if _, _, err := w.ledger.Commit(t.Context(), []odometer.Frame{f}); err != nil {
					t.Fatal(err)
				}
			}
			return w.told()
		}
		want, got := sent(false), sent(true)
		if got != want || strings.Count(want, "\n") < 10 {
			t.Errorf("seed %d: got\n%s\nwant\n%s", seed, got, want)
		}
	}
}
