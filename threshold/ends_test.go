package threshold

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
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

// watched waits until a threshold is watched as it was changed, or not any more.
func (w *watchtower) watched(d odometer.Threshold) {
	w.t.Helper()
	w.await("it is watched as it is now", func() bool {
		is, record, err := scanThreshold(w.db.QueryRow(`SELECT `+columns+` FROM threshold_thresholds WHERE id = ?`, string(d.ID)))
		return err == nil && is.Version == d.Version && (record >= 0 || !is.Enabled) && w.Stats().Err == nil
	})
}

// TestWhatComesBackGoesOn has a threshold disabled and enabled again, or a level taken out
// and put back, by a server that goes on and by one that dies between.
func TestWhatComesBackGoesOn(t *testing.T) {
	forecast := monthlyOf(ada)
	forecast.Forecast, forecast.Limit, forecast.Levels = true, 1000, forecast.Levels[2:]
	silent := odometer.Threshold{Name: "silent", Enabled: true, Action: odometer.ActionLog, Scope: odometer.Scoped{All: true}, Condition: odometer.ConditionSilence, Levels: []odometer.ThresholdLevel{{Name: "quiet", Value: 3}}}
	disable := func(d *odometer.Threshold) { d.Enabled = false }
	for _, c := range []struct {
		says       string
		is         odometer.Threshold
		change     func(*odometer.Threshold)
		violations int // in the end
		want       []string
	}{
		{"a budget that is disabled", monthlyOf(ada), disable, 1, []string{"u-ada 50% open 6", "u-ada 50% recovered 6", "u-ada 50% open 6"}},
		{"a level of a budget", monthlyOf(ada), func(d *odometer.Threshold) { d.Levels = d.Levels[1:] }, 1, []string{"u-ada 50% open 6", "u-ada 50% recovered 6", "u-ada 50% open 6"}},
		{"a forecast", forecast, func(d *odometer.Threshold) { d.Forecast = false }, 1, []string{"u-ada forecast open 2005", "u-ada forecast recovered 2005", "u-ada forecast open 2005"}},
		{"a machine that is silent", silent, disable, 1, []string{"vm-1 quiet open 4", "vm-1 quiet recovered 4", "vm-1 quiet open 4"}},
		{"what is checked by the event, with the next", busy(odometer.Scoped{All: true}), disable, 2, []string{
			"vm-1 warning open 90", "vm-1 warning recovered 90", "vm-1 warning open 90"}},
	} {
		for _, dies := range []bool{false, true} {
			if !t.Run(fmt.Sprintf("%s, killed %t", c.says, dies), func(t *testing.T) {
				w := newListener(t)
				w.run()
				d := w.create(c.is)
				use := func() {
					switch {
					case d.Condition == odometer.ConditionSilence:
						w.hears(begin, time.Minute)
						if w.clock().Equal(begin) {
							w.pass(4 * time.Minute)
						}
					case d.Condition == odometer.ConditionPeriod:
						w.use("vm-1", ada, 30*time.Second, cpu(90))
					case w.epochs["vm-1"] == nil && d.Forecast:
						w.use("vm-1", ada, time.Hour, hours(617))
					case w.epochs["vm-1"] == nil:
						w.use("vm-1", ada, time.Hour, hours(6))
					}
				}
				use()
				w.await("it is told", func() bool { return w.Stats().Changes == 1 })
				other := d
				other.Levels = slices.Clone(d.Levels)
				c.change(&other)
				d.Channels, d.Shared = []odometer.ChannelID{"chn_aaaaaaaaaaaaaaaa"}, true // from now on
				d.Action = odometer.ActionNotify
				for i, is := range []odometer.Threshold{other, d} {
					set, err := w.Update(t.Context(), admin, is, 0)
					if err != nil {
						t.Fatal(err)
					}
					w.watched(set)
					if i == 0 {
						w.await("it ends", func() bool { list, err := w.ChangesAfter(t.Context(), 0, 10); return err == nil && len(list) == 2 })
					}
					if dies {
						w.restart()
						w.watched(set)
					}
				}
				use()
				w.await("it is told again", func() bool { list, err := w.ChangesAfter(t.Context(), 0, 10); return err == nil && len(list) == 3 })
				w.is(c.want...)
				list, err := w.Violations(t.Context(), odometer.ViolationQuery{Limit: 10})
				if err != nil || len(list) != c.violations || list[0].Standing != odometer.StandingOpen || !list[0].Shared || !slices.Equal(list[0].Channels, d.Channels) {
					t.Errorf("got %+v, %v, want %d, the last of them open and told to whom it is told now", list, err, c.violations)
				}
				by := odometer.Caller{Bound: odometer.Bound{User: "u-ada"}, Scopes: []odometer.Scope{odometer.ScopeRead}}
				view := by.View()
				seen, err := w.Violations(t.Context(), odometer.ViolationQuery{Limit: 10, View: &view})
				if err != nil || len(seen) != 1 {
					t.Errorf("whose use it is sees %+v, %v, want the one that is shared", seen, err)
				}
			}) {
				return // the others would wait as long
			}
		}
	}
}

// TestWhatComesBackAfterItsPeriodStaysOver has a budget be there again in another month.
func TestWhatComesBackAfterItsPeriodStaysOver(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	d := w.create(monthlyOf(ada))
	w.use("vm-1", ada, time.Hour, hours(6))
	w.is("u-ada 50% open 6")
	was := d
	for _, enabled := range []bool{false, true} {
		was.Enabled = enabled
		set, err := w.Update(t.Context(), admin, was, 0)
		if err != nil {
			t.Fatal(err)
		}
		w.watched(set)
		w.await("it ends", func() bool { list, err := w.ChangesAfter(t.Context(), 0, 10); return err == nil && len(list) == 2 })
		w.pass(30 * 24 * time.Hour)
	}
	e := w.event("vm-2", ada, &epoch{began: begin, at: begin}, time.Hour, hours(1))
	w.book(e) // late, of March
	w.is("u-ada 50% open 6", "u-ada 50% recovered 6")
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

// TestFromWhichValueAndWhen: a violation says what the value was before, though nothing is
// remembered of what reaches no level, and when by the time of use and by which event it
// fell back. What another used is not told.
func TestFromWhichValueAndWhen(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	d := twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent})
	d.Name, d.Description = "the operator's", "call the one who is on duty"
	w.create(d)
	d.Name, d.Holder = "ada's", odometer.Bound{User: "u-ada"}
	w.create(d)
	w.use("vm-1", bob, 30*time.Second, cpu(60))
	for _, percent := range []int64{85, 97, 96, 70} {
		w.use("vm-1", ada, 30*time.Second, cpu(percent))
	}
	ended := w.epochs["vm-1"].at.UnixMicro()
	w.use("vm-1", ada, 20*time.Minute, map[odometer.Quantity]int64{odometer.GapTime: (20 * time.Minute).Microseconds()})
	w.use("vm-1", ada, 30*time.Second, cpu(90))
	w.settled()
	list, err := w.ChangesAfter(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]string{}
	for _, v := range list {
		got[v.Name] = append(got[v.Name], fmt.Sprintf("%s %s %v to %v", v.Level, v.Standing, v.Before, v.Value))
		if v.About != d.Description {
			t.Errorf("got the description %q", v.About)
		}
		switch v.Standing {
		case odometer.StandingOpen:
			if v.Ended != 0 || v.EndedBy != "" {
				t.Errorf("got %+v, want it not ended", v)
			}
		default:
			if v.Ended != ended || v.EndedBy == "" || v.EndedBy == v.Event {
				t.Errorf("got %+v, want it ended at %d by the event that did it", v, ended)
			}
		}
	}
	after := []string{"critical open 85 to 97", "warning recovered 96 to 70", "critical recovered 96 to 70", "warning open 70 to 90"}
	for name, want := range map[string][]string{
		"the operator's": append([]string{"warning open 60 to 85"}, after...),
		"ada's":          append([]string{"warning open 0 to 85"}, after...),
	} {
		if !slices.Equal(got[name], want) {
			t.Errorf("%s: got %q, want %q", name, got[name], want)
		}
	}
}

// TestWhatRunsNoMoreIsOver: what is open of a machine that has ended ends with its last
// event, alone and in a sum, and not while that is not known.
func TestWhatRunsNoMoreIsOver(t *testing.T) {
	w := newWatchtower(t)
	ended, fails := atomic.Bool{}, atomic.Bool{}
	w.Close()
	w.options.Ended = func(_ context.Context, id odometer.InstanceID) (bool, error) {
		if fails.Load() {
			return true, errors.New("the directory cannot be read")
		}
		return id == "vm-1" && ended.Load(), nil
	}
	w.open()
	w.run()
	sum := busy(odometer.Scoped{Org: "acme", Sum: true})
	sum.Name = "all of acme"
	each := w.create(busy(odometer.Scoped{All: true}))
	w.create(sum)
	w.use("vm-1", ada, 30*time.Second, cpu(85))
	last := w.clock().UnixMicro()
	w.settled()
	looks := func() {
		t.Helper()
		w.pass(departEvery)
		time.Sleep(10 * w.options.tick)
	}
	changes := func(want uint64, when string) {
		t.Helper()
		if got := w.Stats().Changes; got != want {
			t.Errorf("%s: got %d changes, want %d", when, got, want)
		}
	}
	ended.Store(true)
	looks()
	changes(2, "what was sent may not have come yet")
	ended.Store(false)
	w.pass(time.Hour)
	looks()
	changes(2, "its agent is cut off")
	ended.Store(true)
	fails.Store(true)
	looks()
	changes(2, "nobody knows what runs")
	fails.Store(false)
	looks()
	w.await("it is over", func() bool { return w.Stats().Changes == 4 })
	list, err := w.Violations(t.Context(), odometer.ViolationQuery{Threshold: each.ID, Limit: 10})
	if err != nil || len(list) != 1 {
		t.Fatalf("got %+v, %v, want one", list, err)
	}
	if v := list[0]; v.Standing != odometer.StandingRecovered || v.Ended != last || v.EndedBy != "" || v.Value != 85 {
		t.Errorf("got %+v, want it over with the last event, at %d", v, last)
	}
	w.restart()
	w.use("vm-1", ada, 30*time.Second, cpu(90)) // what was only late begins anew
	w.await("it is told anew", func() bool { return w.Stats().Changes == 2 })
}
