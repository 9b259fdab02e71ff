package threshold

import (
	"fmt"
	"testing"
	"time"

	"example.org/odometer"
)

// kept returns how many states are stored of a threshold.
func (w *watchtower) kept(id odometer.ThresholdID) (n int) {
	w.t.Helper()
	if err := w.db.QueryRow(`SELECT count(*) FROM threshold_states WHERE threshold = ?`, string(id)).Scan(&n); err != nil {
		w.t.Fatal(err)
	}
	return n
}

// TestPeriodsAreKeptForAYear has a budget's period be over for long: what comes late for it
// counts, and the period is forgotten some day later than a year.
func TestPeriodsAreKeptForAYear(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	d := w.create(monthlyOf(ada))
	w.use("vm-1", ada, time.Hour, hours(6))
	w.is("u-ada 50% open 6")
	end, year := time.Date(2026, 4, 1, 0, 0, 0, 0, time.UTC), 400*24*time.Hour
	w.pass(end.Add(year - 3*time.Hour).Sub(w.clock()))
	w.restart()
	w.await("the month is over", func() bool { list, err := w.ChangesAfter(t.Context(), 0, 10); return err == nil && len(list) == 2 })
	if _, err := w.db.Exec(`INSERT INTO threshold_states VALUES ('thr_x', '', 1, 2, '{}')`); err != nil {
		t.Fatal(err)
	}
	w.pass(pruneEvery)
	w.await("what is old is looked for", func() bool { return w.kept("thr_x") == 0 })
	w.book(w.event("vm-2", ada, &epoch{began: begin, at: begin}, time.Hour, hours(3)))
	w.await("that is over too", func() bool { list, err := w.ChangesAfter(t.Context(), 0, 10); return err == nil && len(list) == 4 })
	w.is("u-ada 50% open 6", "u-ada 50% recovered 6", "u-ada 80% open 9 late", "u-ada 80% recovered 9 late")
	if n := w.kept(d.ID); n != 1 {
		t.Errorf("got %d states, want that of the month", n)
	}
	w.pass(3 * time.Hour)
	w.restart()
	w.await("the month is forgotten", func() bool { return w.kept(d.ID) == 0 })
	w.is("u-ada 50% open 6", "u-ada 50% recovered 6", "u-ada 80% open 9 late", "u-ada 80% recovered 9 late")
}

// TestNothingIsKeptOfWhatIsOver looks at what is stored of machines that fell below, or
// were heard again, and of thresholds that are gone.
func TestNothingIsKeptOfWhatIsOver(t *testing.T) {
	w := newListener(t)
	w.run()
	d := busy(odometer.Scoped{All: true})
	d.CoolDown = 3 * time.Hour
	events := w.create(d)
	silence := w.create(odometer.Threshold{Scope: odometer.Scoped{All: true}, Condition: odometer.ConditionSilence, CoolDown: 2 * time.Hour, Levels: []odometer.ThresholdLevel{{Name: "quiet", Value: 3}}})
	sum := d
	sum.Scope.Sum, sum.Name = true, "all"
	sums := w.create(sum)
	for i := range 3 {
		w.use(odometer.InstanceID(fmt.Sprint("vm-", i)), ada, 30*time.Second, cpu(90))
	}
	w.hears(begin, 30*time.Second)
	w.pass(time.Hour)
	w.await("all are kept", func() bool {
		w.pass(saveEvery)
		return w.kept(events.ID) == 3 && w.kept(silence.ID) == 1 && w.kept(sums.ID) == 1
	})
	w.hears(w.clock(), 30*time.Second)
	w.await("it is heard", func() bool {
		list, err := w.Violations(t.Context(), odometer.ViolationQuery{Limit: 10, Threshold: silence.ID, Standing: odometer.StandingRecovered})
		return err == nil && len(list) == 1
	})
	w.hears(w.clock().Add(24*time.Hour), 30*time.Second)
	for i := range 3 {
		id := odometer.InstanceID(fmt.Sprint("vm-", i))
		w.use(id, ada, 30*time.Second, cpu(10))
		w.use(id, ada, 4*time.Hour, map[odometer.Quantity]int64{odometer.CPU: 1, odometer.VCPU: 4 * odometer.HourMicros})
	}
	w.await("what is over is not kept", func() bool { w.pass(saveEvery); return w.kept(events.ID) == 0 && w.kept(silence.ID) == 0 })
	if err := w.Delete(t.Context(), admin, sums.ID, 0); err != nil {
		t.Fatal(err)
	}
	var body string
	if err := w.db.QueryRow(`SELECT body FROM threshold_thresholds WHERE id = ?`, string(sums.ID)).Scan(&body); err != nil || body != "" {
		t.Errorf("of what is gone: got %q, %v, want nothing of what was said of it", body, err)
	}
	w.await("it is gone", func() bool { return w.Stats().Thresholds == 2 })
	w.pass(keepStates + pruneEvery)
	w.await("nothing is kept of it", func() bool { return w.kept(sums.ID) == 0 })
}

// TestAnEntryIsHeldToFewThresholds counts which of many thresholds are looked at for an
// entry, and what is allocated for that.
func TestAnEntryIsHeldToFewThresholds(t *testing.T) {
	var list []odometer.Threshold
	for i := range 10_000 {
		d := busy(odometer.Scoped{User: odometer.UserID(fmt.Sprint("u-", i))})
		switch i % 4 {
		case 1:
			d.Scope = odometer.Scoped{Instance: odometer.InstanceID(fmt.Sprint("vm-", i))}
		case 2:
			d.Scope = odometer.Scoped{Org: odometer.OrgID(fmt.Sprint("o-", i))}
		case 3:
			d.Scope, d.Holder = odometer.Scoped{All: true}, odometer.Bound{Org: odometer.OrgID(fmt.Sprint("o-", i-1))}
		}
		d.Settle()
		list = append(list, d)
	}
	c := NewChecker(list)
	e := &odometer.Entry{Kind: odometer.KindUsage, Event: odometer.Event{Instance: "vm-1", Owner: odometer.Owner{User: "u-4", Org: "o-2"}}}
	e.Event.Usage.Known = odometer.AllKnown
	e.Event.Usage.Vector[odometer.CPU], e.Event.Usage.Vector[odometer.VCPU] = 90, 100
	n := 0
	look := func() {
		n = 0
		c.Check(e, func(*odometer.Threshold, float64, uint32) { n++ })
	}
	if allocs := testing.AllocsPerRun(100, look); allocs != 0 || n != 4 {
		t.Errorf("got %d thresholds and %v allocations, want the machine's, the user's and two of the organisation, and none", n, allocs)
	}
	looked := 0
	for _, found := range [][]*watch{c.index.instances["vm-1"], c.index.users["u-4"], c.index.orgs["o-2"], c.index.all} {
		looked += len(found)
	}
	if looked != n {
		t.Errorf("got %d thresholds looked at, want the %d that cover it", looked, n)
	}
}
