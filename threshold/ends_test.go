package threshold

import (
	"fmt"
	"testing"
	"time"

	"example.org/odometer"
)

func busy(scope odometer.Scoped) odometer.Threshold {
	return twoLevels(odometer.Threshold{Name: "busy", Enabled: true, Action: odometer.ActionLog, Scope: scope, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod})
}

// TestWhatAThresholdLeavesEnds changes a threshold so that what is open is none of it any
// more.
func TestWhatAThresholdLeavesEnds(t *testing.T) {
	everybody := odometer.Scoped{All: true}
	for _, c := range []struct {
		says   string
		is     odometer.Threshold
		change func(*odometer.Threshold)
		want   []string // beside what is open before
	}{
		{"a level less", busy(everybody), func(d *odometer.Threshold) { d.Levels = d.Levels[:1] }, []string{"vm-1 critical recovered 96"}},
		{"another machine", busy(everybody), func(d *odometer.Threshold) { d.Scope = odometer.Scoped{Instance: "vm-2"} }, []string{"vm-1 warning recovered 96", "vm-1 critical recovered 96"}},
		{"the same machine", busy(everybody), func(d *odometer.Threshold) { d.Scope = odometer.Scoped{Instance: "vm-1"} }, nil},
		{"another name", busy(everybody), func(d *odometer.Threshold) { d.Name = "busier" }, nil},
		{"no budget any more", monthlyOf(ada), func(d *odometer.Threshold) {
			id := d.ID
			*d = busy(odometer.Scoped{Instance: "vm-2"})
			d.ID = id
		}, []string{"u-ada 50% recovered 96", "u-ada 80% recovered 96", "u-ada 100% recovered 96"}},
	} {
		t.Run(c.says, func(t *testing.T) {
			w := newWatchtower(t)
			w.run()
			d := w.create(c.is)
			w.use("vm-1", ada, time.Hour, map[odometer.Quantity]int64{odometer.CPU: 96 * odometer.HourMicros, odometer.VCPU: 100 * odometer.HourMicros})
			w.settled()
			before, err := w.ChangesAfter(t.Context(), 0, 10)
			if err != nil || len(before) < 2 {
				t.Fatal(before, err)
			}
			var want []string
			for _, l := range c.is.Levels {
				who := "vm-1"
				if c.is.Scope.Sum {
					who = "u-ada"
				}
				want = append(want, fmt.Sprintf("%s %s open 96", who, l.Name))
			}
			c.change(&d)
			set, err := w.Update(t.Context(), admin, d, 0)
			if err != nil {
				t.Fatal(err)
			}
			w.await("it is watched as it is now", func() bool {
				is, record, err := scanThreshold(w.db.QueryRow(`SELECT `+columns+` FROM threshold_thresholds WHERE id = ?`, string(d.ID)))
				return err == nil && is.Version == set.Version && record >= 0
			})
			w.is(append(want, c.want...)...)
		})
	}
}

// TestWhatIsOpenOfNothingEnds deletes a threshold while nothing runs.
func TestWhatIsOpenOfNothingEnds(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	d := w.create(busy(odometer.Scoped{All: true}))
	w.use("vm-1", ada, 30*time.Second, cpu(96))
	w.is("vm-1 warning open 96", "vm-1 critical open 96")
	w.stop()
	if err := w.Delete(t.Context(), admin, d.ID, 0); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		w.restart()
		w.await("it ends", func() bool { list, err := w.ChangesAfter(t.Context(), 0, 10); return err == nil && len(list) == 4 })
		w.is("vm-1 warning open 96", "vm-1 critical open 96", "vm-1 warning recovered 96", "vm-1 critical recovered 96")
	}
}

// TestAPeriodThatEndedLongAgoEnds has nothing run over the end of a month and for long
// after it.
func TestAPeriodThatEndedLongAgoEnds(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(monthlyOf(ada))
	w.use("vm-1", ada, time.Hour, hours(6))
	w.is("u-ada 50% open 6")
	w.stop()
	w.pass(60 * 24 * time.Hour)
	w.restart()
	w.await("it ends", func() bool { list, err := w.ChangesAfter(t.Context(), 0, 10); return err == nil && len(list) == 2 })
	w.is("u-ada 50% open 6", "u-ada 50% recovered 6")
}

// TestAForecastIsALevel of its own, withdrawn when less is used than it looked like.
func TestAForecastIsALevel(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	d := monthlyOf(ada)
	d.Forecast, d.Limit = true, 100
	w.create(d)
	w.use("vm-1", ada, time.Hour, hours(40)) // until 13:00 on the 10th: 229 hours of 744
	w.is("u-ada forecast open 130")
	list, err := w.ChangesAfter(t.Context(), 0, 10)
	if want := time.Date(2026, 3, 24, 20, 30, 0, 0, time.UTC); err != nil || len(list) != 1 || list[0].Reaches != want.UnixMicro() || list[0].Limit != 100 {
		t.Fatalf("got %+v, %v, want that 100 hours are reached at %s", list, err, want)
	}
	w.use("vm-1", ada, 96*time.Hour, hours(1)) // 41 hours in 325
	w.is("u-ada forecast open 130", "u-ada forecast retracted 93.86")
	w.use("vm-1", ada, time.Hour, hours(60)) // reached: nothing is left to be foretold
	w.is("u-ada forecast open 130", "u-ada forecast retracted 93.86", "u-ada 50% open 101", "u-ada 80% open 101", "u-ada 100% open 101")
}
