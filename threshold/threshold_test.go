package threshold

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

var (
	admin = odometer.Actor{Caller: odometer.Caller{Name: "admin", Scopes: []odometer.Scope{odometer.ScopeAdmin}}}
	begin = time.Date(2026, 3, 10, 12, 0, 0, 0, time.UTC)
	ada   = odometer.Owner{User: "u-ada", Org: "acme"}
	bob   = odometer.Owner{User: "u-bob", Org: "acme"}
	eve   = odometer.Owner{User: "u-eve", Org: "evil"}
)

// watchtower is a ledger with thresholds beside it, on a clock of its own.
type watchtower struct {
	t      *testing.T
	path   string
	ledger *ledger.Ledger
	*Thresholds
	options Options

	mu       sync.Mutex
	now      time.Time
	machines []Machine

	epochs map[odometer.InstanceID]*epoch
	stop   func()
}

type epoch struct {
	began, at time.Time
	seq       uint64
	sum       odometer.Usage
}

func newWatchtower(t *testing.T) *watchtower {
	t.Helper()
	w := newTower(t)
	w.open()
	t.Cleanup(func() { w.stop(); w.Close() })
	return w
}

// newTower has no thresholds opened yet.
func newTower(t *testing.T) *watchtower {
	t.Helper()
	w := &watchtower{t: t, path: filepath.Join(t.TempDir(), "ledger.db"), now: begin, epochs: map[odometer.InstanceID]*epoch{}, stop: func() {}}
	l, err := ledger.Open(t.Context(), ledger.Options{Path: w.path, Clock: w.clock})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	w.ledger = l
	w.options = Options{Path: w.path, Ledger: l, Owns: l.Owns, Clock: w.clock, tick: 20 * time.Millisecond}
	return w
}

// newListener is one that knows which machines run: none until it hears of some.
func newListener(t *testing.T) *watchtower {
	t.Helper()
	w := newWatchtower(t)
	w.options.Running = func(context.Context) ([]Machine, error) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return slices.Clone(w.machines), nil
	}
	w.Thresholds.o.Running = w.options.Running
	return w
}

func (w *watchtower) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *watchtower) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *watchtower) open() {
	w.t.Helper()
	th, err := Open(w.t.Context(), w.options)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Thresholds = th
}

// hears has one machine run of which something was heard last at a time.
func (w *watchtower) hears(at time.Time, interval time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.machines = []Machine{{Instance: "vm-1", Owner: ada, Last: at.UnixMicro(), Interval: interval.Microseconds()}}
}

// run follows the ledger until the function that it returns is called.
func (w *watchtower) run() {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	th := w.Thresholds
	go func() { done <- th.Run(ctx) }()
	w.stop = func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
		w.stop = func() {}
	}
}

// restart has everything read anew, as after a crash.
func (w *watchtower) restart() {
	w.stop()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
	w.run()
}

func (w *watchtower) create(d odometer.Threshold) odometer.Threshold {
	w.t.Helper()
	d.Enabled = true
	if d.Name == "" {
		d.Name = "a threshold"
	}
	if d.Action == "" {
		d.Action = odometer.ActionLog
	}
	made, err := w.Create(w.t.Context(), admin, d, odometer.Once{})
	if err != nil {
		w.t.Fatal(err)
	}
	w.await("it is watched", func() bool {
		_, record, err := scanThreshold(w.db.QueryRow(`SELECT `+columns+` FROM threshold_thresholds WHERE id = ?`, string(made.ID)))
		return err == nil && record >= 0
	})
	return made
}

func (w *watchtower) await(what string, is func() bool) {
	w.t.Helper()
	for range 2000 {
		if is() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	w.t.Fatalf("waited for long that %s; %+v", what, w.Stats())
}

// use books that an instance used so much of some quantities for a time.
func (w *watchtower) use(id odometer.InstanceID, owner odometer.Owner, d time.Duration, amounts map[odometer.Quantity]int64) {
	w.t.Helper()
	ep := w.epochs[id]
	if ep == nil {
		ep = &epoch{began: w.clock(), at: w.clock()}
		w.epochs[id] = ep
	}
	e := w.event(id, owner, ep, d, amounts)
	if end := ep.at; end.After(w.clock()) {
		w.pass(end.Sub(w.clock()))
	}
	w.book(e)
}

func (w *watchtower) event(id odometer.InstanceID, owner odometer.Owner, ep *epoch, d time.Duration, amounts map[odometer.Quantity]int64) *odometer.Event {
	var u odometer.Usage
	for q, n := range amounts {
		u.Vector[q], u.Known = n, u.Known.With(q)
	}
	if amounts[odometer.GapTime] == 0 {
		u.Vector[odometer.MeasuredTime] = d.Microseconds()
	}
	u.Known = u.Known.With(odometer.MeasuredTime).With(odometer.EstimatedTime).With(odometer.GapTime)
	ep.seq++
	e := &odometer.Event{
		Version: odometer.Version11, Instance: id, Agent: "host-1", Owner: owner, Quality: odometer.Measured, Epoch: odometer.NewEpoch(id, "host-1", "n", "1"), EpochStart: ep.began.UnixMicro(),
		FirstSequence: ep.seq, Sequence: ep.seq, Span: odometer.Span{Start: ep.at.UnixMicro(), End: ep.at.Add(d).UnixMicro()}, Usage: u,
	}
	if amounts[odometer.GapTime] != 0 {
		e.Quality = odometer.Gap
	}
	e.Readings.Start = ep.sum
	e.Readings.Start.Known |= u.Known
	if !ep.sum.Add(u) {
		w.t.Fatal("overflow")
	}
	e.Readings.End = ep.sum
	e.Readings.Start.Known = e.Readings.End.Known
	ep.at = ep.at.Add(d)
	e.Derive(0, 0)
	return e
}

func (w *watchtower) book(events ...*odometer.Event) {
	w.t.Helper()
	f := odometer.Frame{Agent: "host-1"}
	for _, e := range events {
		f.Records = append(f.Records, odometer.Record{Event: e})
	}
	results, _, err := w.ledger.Commit(w.t.Context(), []odometer.Frame{f})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range results[0] {
		if r.Outcome != odometer.Recorded && r.Outcome != odometer.Duplicate {
			w.t.Fatalf("got %+v, want it recorded", r)
		}
	}
}

// settled waits until all that is booked is taken in.
func (w *watchtower) settled() {
	w.t.Helper()
	w.await("everything is taken in", func() bool {
		_, last, err := w.ledger.UsageAt(w.t.Context(), odometer.UsageQuery{From: 0, To: odometer.HourMicros})
		return err == nil && w.Stats().Record >= last && w.Stats().Err == nil
	})
}

// told returns the log of changes, one line each.
func (w *watchtower) told() string {
	w.t.Helper()
	w.settled()
	list, err := w.ChangesAfter(w.t.Context(), 0, 10_000)
	if err != nil {
		w.t.Fatal(err)
	}
	var lines []string
	for i := range list {
		v := &list[i]
		if v.Number != uint64(i+1) {
			w.t.Errorf("got the number %d, want %d", v.Number, i+1)
		}
		who := string(v.Instance)
		if v.Sum {
			who = string(v.Owner.User) + string(v.Owner.Org)
		}
		line := fmt.Sprintf("%s %s %s %.4g", who, v.Level, v.Standing, v.Value)
		if v.Late {
			line += " late"
		}
		lines = append(lines, line)
	}
	return strings.Join(lines, "\n")
}

func (w *watchtower) is(want ...string) {
	w.t.Helper()
	if got := w.told(); got != strings.Join(want, "\n") {
		w.t.Errorf("got\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

func cpu(percent int64) map[odometer.Quantity]int64 {
	return map[odometer.Quantity]int64{odometer.CPU: percent * 300_000, odometer.VCPU: 30_000_000}
}

func twoLevels(d odometer.Threshold) odometer.Threshold {
	d.Levels = []odometer.ThresholdLevel{{Name: "warning", Value: 80}, {Name: "critical", Value: 95}}
	return d
}

func TestEventsThatReachLevels(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod}))
	for _, percent := range []int64{10, 79, 80, 85, 96, 85, 79, 10, 95} {
		w.use("vm-1", ada, 30*time.Second, cpu(percent))
		w.use("vm-2", eve, 30*time.Second, cpu(10))
	}
	w.is("vm-1 warning open 80", "vm-1 critical open 96", "vm-1 critical recovered 85", "vm-1 warning recovered 79", "vm-1 warning open 95", "vm-1 critical open 95")
	w.restart()
	w.use("vm-1", ada, 30*time.Second, cpu(96))
	w.use("vm-1", ada, 30*time.Second, cpu(1))
	w.is("vm-1 warning open 80", "vm-1 critical open 96", "vm-1 critical recovered 85", "vm-1 warning recovered 79", "vm-1 warning open 95", "vm-1 critical open 95",
		"vm-1 warning recovered 1", "vm-1 critical recovered 1")
	list, err := w.Violations(t.Context(), odometer.ViolationQuery{Limit: 10, Level: "warning"})
	if err != nil || len(list) != 2 || list[0].Standing != odometer.StandingRecovered || list[0].Change != 2 || list[0].Crossed <= list[1].Crossed || list[0].Event != "vm-1/"+string(odometer.NewEpoch("vm-1", "host-1", "n", "1"))+"/9" || list[0].Owner != ada {
		t.Errorf("got %+v, %v, want the two of the level, the newest first", list, err)
	}
}

func TestWhatLastsIsTold(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(twoLevels(odometer.Threshold{
		Scope: odometer.Scoped{Instance: "vm-1"}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionSustained, For: 2 * time.Minute, Hysteresis: 10, CoolDown: 5 * time.Minute,
	}))
	for _, percent := range []int64{90, 90, 90, 79, 90, 90, 90} { // no two minutes
		w.use("vm-1", ada, 30*time.Second, cpu(percent))
	}
	w.is()
	for _, percent := range []int64{90, 75, 71, 73, 90, 90, 90, 90, 90} { // the fourth at once, 75 and 73 arm nothing
		w.use("vm-1", ada, 30*time.Second, cpu(percent))
	}
	w.is("vm-1 warning open 90", "vm-1 warning recovered 71")
	for range 12 { // it rests for five minutes
		w.use("vm-1", ada, 30*time.Second, cpu(90))
	}
	w.is("vm-1 warning open 90", "vm-1 warning recovered 71", "vm-1 warning open 90")
}

func hours(h int64) map[odometer.Quantity]int64 {
	return map[odometer.Quantity]int64{odometer.CPU: h * odometer.HourMicros, odometer.VCPU: 100 * odometer.HourMicros}
}

func monthly(scope odometer.Scoped) odometer.Threshold {
	return odometer.Threshold{
		Scope: scope, Resource: odometer.ResourceCPU, Condition: odometer.ConditionBudget, Unit: odometer.UnitHours, Every: odometer.CycleMonth, Limit: 10,
		Levels: []odometer.ThresholdLevel{{Name: "50%", Percent: 50}, {Name: "80%", Percent: 80}, {Name: "100%", Percent: 100}},
	}
}

func TestABudgetIsASumOverItsPeriod(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(monthly(odometer.Scoped{Org: "acme", Sum: true}))
	w.use("vm-1", ada, time.Hour, hours(3))
	w.use("vm-2", bob, time.Hour, hours(1))
	w.use("vm-3", eve, time.Hour, hours(50))
	w.is()
	w.use("vm-2", bob, time.Hour, hours(5)) // passes two levels at once
	w.is("acme 50% open 9", "acme 80% open 9")
	w.restart()
	w.use("vm-1", ada, time.Hour, hours(1))
	w.is("acme 50% open 9", "acme 80% open 9", "acme 100% open 10")
	w.pass(30 * 24 * time.Hour) // April
	w.await("the period is over", func() bool { return w.Stats().Changes >= 4 })
	w.is("acme 50% open 9", "acme 80% open 9", "acme 100% open 10", "acme 50% recovered 10", "acme 80% recovered 10", "acme 100% recovered 10")
}

func TestABudgetBeginsWithWhatWasUsed(t *testing.T) {
	w := newWatchtower(t)
	w.use("vm-1", ada, time.Hour, hours(6))
	w.run()
	w.settled()
	d := w.create(monthly(odometer.Scoped{User: "u-ada", Sum: true}))
	w.is("u-ada 50% open 6")
	w.use("vm-1", ada, time.Hour, hours(2))
	w.is("u-ada 50% open 6", "u-ada 80% open 8")
	d.Limit = 20
	if _, err := w.Update(t.Context(), admin, d, d.Version); err != nil {
		t.Fatal(err)
	}
	w.await("it is looked at again", func() bool { return w.Stats().Changes == 4 })
	w.is("u-ada 50% open 6", "u-ada 80% open 8", "u-ada 50% retracted 8", "u-ada 80% retracted 8")
	w.use("vm-1", ada, time.Hour, hours(2))
	w.is("u-ada 50% open 6", "u-ada 80% open 8", "u-ada 50% retracted 8", "u-ada 80% retracted 8", "u-ada 50% open 10")
	if list, err := w.Violations(t.Context(), odometer.ViolationQuery{Limit: 10}); err != nil || len(list) != 2 {
		t.Errorf("got %d violations, %v, want one of each level", len(list), err)
	}
}

func TestACorrectionRetracts(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(monthly(odometer.Scoped{User: "u-ada", Sum: true}))
	w.create(twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod}))
	w.use("vm-1", ada, time.Hour, hours(4))
	w.use("vm-1", ada, time.Hour, map[odometer.Quantity]int64{odometer.CPU: 2 * odometer.HourMicros, odometer.VCPU: 2 * odometer.HourMicros})
	w.settled()
	entries, _, err := w.ledger.Entries(t.Context(), odometer.EntryQuery{Limit: 10})
	if err != nil || len(entries) == 0 {
		t.Fatal(entries, err)
	}
	last := entries[len(entries)-1]
	if _, err := w.ledger.Reverse(t.Context(), last.ID, "admin", "a mistake"); err != nil {
		t.Fatal(err)
	}
	got := w.told()
	for _, want := range []string{"u-ada 50% open 6", "vm-1 critical open 100", "vm-1 warning open 100", "u-ada 50% retracted 4", "vm-1 critical retracted", "vm-1 warning retracted"} {
		if !strings.Contains(got, want) {
			t.Errorf("got\n%s\nwant %s in it", got, want)
		}
	}
}

func TestSilenceIsTold(t *testing.T) {
	w := newListener(t)
	w.run()
	w.create(odometer.Threshold{Scope: odometer.Scoped{All: true}, Condition: odometer.ConditionSilence, Levels: []odometer.ThresholdLevel{{Name: "quiet", Value: 3}}})
	due := 30 * time.Second
	heard := func(at time.Time) { w.hears(at, due) }
	changes := func(n uint64) { w.await("it is told", func() bool { return w.Stats().Changes == n }) }
	heard(begin)
	w.pass(89 * time.Second)
	time.Sleep(10 * w.options.tick)
	w.is()
	w.pass(time.Second)
	changes(1)
	w.pass(time.Hour)
	time.Sleep(10 * w.options.tick) // once
	changes(1)
	due = 0 // it is too early to tell: nothing ends, nothing begins
	heard(w.clock())
	time.Sleep(10 * w.options.tick)
	changes(1)
	due = 10 * time.Second
	heard(w.clock())
	changes(2)
	due = 0
	heard(w.clock().Add(-time.Hour))
	time.Sleep(10 * w.options.tick)
	changes(2)
	due = 10 * time.Second
	heard(w.clock().Add(-45 * time.Second))
	changes(3)
	if got := w.told(); got != "vm-1 quiet open 3\nvm-1 quiet recovered 0\nvm-1 quiet open 4.5" {
		t.Errorf("got %s", got)
	}
}

func TestOfAnotherTenantNothingIsTold(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	d := twoLevels(odometer.Threshold{Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod})
	d.Levels = d.Levels[:1]
	for holder, scope := range map[odometer.Bound]odometer.Scoped{{Org: "acme"}: {All: true}, {User: "u-eve"}: {Instance: "vm-1"}, {User: "u-bob"}: {All: true}, {Org: "evil"}: {Instance: "vm-1"}} {
		d.Holder, d.Scope, d.Name = holder, scope, fmt.Sprint(holder)
		w.create(d)
	}
	w.use("vm-1", ada, 30*time.Second, cpu(90))
	w.use("vm-2", eve, 30*time.Second, cpu(90))
	w.is("vm-1 warning open 90")
}

func TestWhoKeepsThresholds(t *testing.T) {
	w := newWatchtower(t)
	ctx := t.Context()
	user := func(id odometer.UserID, role odometer.Role) odometer.Actor {
		c := odometer.Caller{Bound: odometer.Bound{User: id}, Scopes: []odometer.Scope{odometer.ScopeRead, odometer.ScopeAccount}}
		if role != "" {
			c.Memberships = []odometer.Membership{{Org: "acme", User: id, Role: role}}
		}
		return odometer.Actor{Caller: c}
	}
	owner, billing, member, other := user("u-owner", odometer.RoleOwner), user("u-bill", odometer.RoleBilling), user("u-ada", odometer.RoleMember), user("u-eve", "")
	d := monthly(odometer.Scoped{Org: "acme", Sum: true})
	d.Name, d.Action, d.Holder = "month", odometer.ActionLog, odometer.Bound{Org: "acme"}
	made, err := w.Create(ctx, owner, d, odometer.Once{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := w.Create(ctx, owner, d, odometer.Once{Key: "k"}); err != nil || again.ID != made.ID {
		t.Errorf("the same once more: got %+v, %v", again, err)
	}
	for _, c := range []struct {
		says string
		by   odometer.Actor
		sees bool
		want error
	}{
		{"an owner", owner, true, nil}, {"the administrator", admin, true, nil}, {"billing", billing, true, odometer.ErrForbidden},
		{"a member", member, false, odometer.ErrNotFound}, {"another", other, false, odometer.ErrNotFound},
	} {
		is, err := w.Get(ctx, c.by.Caller, made.ID)
		if (err == nil) != c.sees || !c.sees && !errors.Is(err, odometer.ErrNotFound) {
			t.Errorf("%s: got %+v, %v", c.says, is, err)
		}
		list, err := w.List(ctx, c.by.Caller, odometer.ThresholdQuery{Limit: 10})
		if err != nil || (len(list) == 1) != c.sees {
			t.Errorf("%s: got %+v, %v", c.says, list, err)
		}
		set, err := w.Update(ctx, c.by, made, 0)
		if !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: got %+v, %v, want %v", c.says, set, err, c.want)
		}
	}
	if _, err := w.Update(ctx, owner, made, 1); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("of a version of before: got %v, want ErrStale", err)
	}
	beyond := d
	beyond.Scope = odometer.Scoped{Org: "evil"}
	if _, err := w.Create(ctx, owner, beyond, odometer.Once{}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("of another organisation: got %v, want ErrInvalid", err)
	}
	if err := w.Delete(ctx, billing, made.ID, 0); !errors.Is(err, odometer.ErrForbidden) {
		t.Errorf("got %v, want ErrForbidden", err)
	}
	if err := w.Delete(ctx, owner, made.ID, 0); err != nil {
		t.Error(err)
	}
	if _, err := w.Get(ctx, admin.Caller, made.ID); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("what was deleted: got %v, want ErrNotFound", err)
	}
	b, _ := json.Marshal(made)
	if strings.Contains(string(b), "\x00") {
		t.Error("got a zero byte")
	}
}

func TestWhatItWouldHaveDone(t *testing.T) {
	w := newWatchtower(t)
	from := w.clock()
	for _, h := range []int64{3, 3, 1, 4} {
		w.use("vm-1", ada, time.Hour, hours(h))
	}
	w.use("vm-2", eve, time.Hour, hours(90))
	d := monthly(odometer.Scoped{Org: "acme", Sum: true})
	d.Name, d.Action = "month", odometer.ActionLog
	test, err := w.Test(t.Context(), admin.Caller, d, from.UnixMicro(), w.clock().UnixMicro()+1)
	if err != nil || len(test.Changes) != 3 || test.Changes[1].Level != "80%" || test.Changes[2].Value != 11 {
		t.Errorf("got %+v, %v, want all three levels", test, err)
	}
	if len(test.Now) != 1 || test.Now[0].Value != 11 || len(test.Now[0].Reached) != 3 {
		t.Errorf("got %+v, want 11 hours", test.Now)
	}
	alarm := twoLevels(odometer.Threshold{Name: "busy", Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Action: odometer.ActionLog})
	if test, err = w.Test(t.Context(), admin.Caller, alarm, from.UnixMicro(), w.clock().UnixMicro()+1); err != nil || len(test.Changes) != 1 || test.Changes[0].Instance != "vm-2" {
		t.Errorf("got %+v, %v, want that of vm-2", test, err)
	}
	none := odometer.Caller{Bound: odometer.Bound{User: "u-none"}, Scopes: []odometer.Scope{odometer.ScopeRead}}
	d.Holder = odometer.Bound{Org: "acme"}
	if _, err := w.Test(t.Context(), none, d, 0, 1); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("of an organisation that is not seen: got %v", err)
	}
	if _, err := w.Test(t.Context(), admin.Caller, d, 1, 1); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("of no time: got %v", err)
	}
	w.run()
	w.is() // nothing came of it
}

func monthlyOf(owner odometer.Owner) odometer.Threshold {
	d := monthly(odometer.Scoped{User: owner.User, Sum: true})
	d.Name, d.Action, d.Enabled = "month", odometer.ActionLog, true
	return d
}

// TestABudgetThatBeginsBehindCountsOnce is made while what is booked was not taken in yet.
func TestABudgetThatBeginsBehindCountsOnce(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(twoLevels(odometer.Threshold{Scope: odometer.Scoped{Instance: "other"}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod}))
	w.use("vm-1", ada, time.Hour, hours(1))
	w.settled()
	w.stop()
	w.use("vm-1", ada, time.Hour, hours(5))
	if _, err := w.Create(t.Context(), admin, monthlyOf(ada), odometer.Once{}); err != nil {
		t.Fatal(err)
	}
	w.run()
	w.await("it is watched", func() bool { return w.Stats().Thresholds == 2 })
	w.is("u-ada 50% open 6")
	w.use("vm-1", ada, time.Hour, hours(2))
	w.is("u-ada 50% open 6", "u-ada 80% open 8")
}

// TestASumIsOfWhatMachinesCameToLast, of those that were heard within ten minutes.
func TestASumIsOfWhatMachinesCameToLast(t *testing.T) {
	w := newWatchtower(t)
	w.run()
	w.create(odometer.Threshold{
		Scope: odometer.Scoped{Org: "acme", Sum: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionRate, Levels: []odometer.ThresholdLevel{{Name: "much", Value: 1.5}},
	})
	busy := map[odometer.Quantity]int64{odometer.CPU: 60 * odometer.SecondMicros}
	w.use("vm-1", ada, time.Minute, busy)
	w.use("vm-3", eve, time.Minute, busy)
	w.is()
	w.use("vm-2", bob, time.Minute, busy)
	w.is("acme much open 2")
	w.restart()
	for range 15 { // of vm-2 nothing is heard
		w.use("vm-1", ada, time.Minute, busy)
	}
	w.is("acme much open 2", "acme much recovered 1")
}
