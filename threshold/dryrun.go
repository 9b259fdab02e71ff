package threshold

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"example.org/odometer"
)

// mostTested is how many changes a dry run tells: what a person reads of a threshold
// that fires much too often.
const mostTested = 1000

var errEnough = errors.New("enough")

// Test returns what a threshold would have done with what was used from a time to
// another, microseconds of the wall clock, and how it stands then; the changes that it
// would have made are the first thousand. It changes nothing. Silence is told by the
// clock, so that nothing is known of it in the past.
func (t *Thresholds) Test(ctx context.Context, by odometer.Caller, d odometer.Threshold, from, to int64) (test odometer.ThresholdTest, err error) {
	d.Settle()
	err = errors.Join(d.Valid(), within(&d))
	if err == nil && !by.MaySee(d.Holder) && !by.MayManage(d.Holder) {
		err = odometer.ErrNotFound
	}
	if err == nil && from >= to {
		err = fmt.Errorf("from %d to %d: the end must be later: %w", from, to, odometer.ErrInvalid)
	}
	if err != nil {
		return test, fmt.Errorf("test a threshold: %w", err)
	}
	w := newWatch(&d, -1)
	f := newFold()
	f.replace([]*watch{w})
	start := from
	if d.Condition == odometer.ConditionBudget { // whose period began before
		start = w.calendar.Start(from)
	}
	q := odometer.EntryQuery{Instance: d.Scope.Instance, User: cmp.Or(d.Scope.User, d.Holder.User), Org: cmp.Or(d.Scope.Org, d.Holder.Org), From: start, To: to}
	test.From, test.To = from, to
	collect := func() {
		for _, v := range f.changes {
			if v.Crossed >= from && len(test.Changes) < mostTested {
				test.Changes = append(test.Changes, v)
			}
		}
		f.changes = nil
		clear(f.touched)
	}
	last := map[odometer.InstanceID]seen{}
	f.previous = func(_ *watch, e *odometer.Entry) (float64, error) {
		if at := last[e.Event.Instance]; at.to <= e.Event.Span.Start && at.to > e.Event.Span.Start-partsLast {
			return at.value, nil
		}
		return 0, nil
	}
	err = t.o.Ledger.EachEntry(ctx, q, func(e *odometer.Entry) error {
		f.now = max(f.now, e.BookedAt)
		f.elapse(math.MinInt64)
		err := f.take(e, 0)
		if num, den, ok := parts(&d, e); ok && e.Kind != odometer.KindCorrection {
			last[e.Event.Instance] = seen{value: num / den, to: e.Event.Span.End}
		}
		if collect(); err == nil && len(test.Changes) == mostTested {
			err = errEnough
		}
		return err
	})
	if err != nil && !errors.Is(err, errEnough) {
		return test, fmt.Errorf("test a threshold: %w", err)
	}
	f.now = max(f.now, min(to, t.clock().UnixMicro()))
	f.elapse(math.MinInt64)
	collect()
	test.Now = w.standing(f.now)
	return test, nil
}

// standing returns how a threshold stands for each of its subjects, of a budget in the
// period of a moment; those that have reached most first.
func (w *watch) standing(now int64) []odometer.SubjectTest {
	list := []odometer.SubjectTest{}
	for _, s := range w.states {
		if s.Period != 0 && (now < s.Period || now > s.End) {
			continue
		}
		is := odometer.SubjectTest{Instance: s.Instance, Owner: s.Owner, Value: s.Value}
		if w.Condition == odometer.ConditionBudget {
			is.Value = inUnits(w.Threshold, s.Sum)
		}
		for i := range w.Levels {
			if is.Value >= w.Levels[i].Value {
				is.Reached = append(is.Reached, w.Levels[i].Name)
			}
		}
		list = append(list, is)
	}
	slices.SortFunc(list, func(a, b odometer.SubjectTest) int {
		return cmp.Or(cmp.Compare(len(b.Reached), len(a.Reached)), cmp.Compare(b.Value, a.Value), cmp.Compare(a.Instance, b.Instance))
	})
	return list[:min(len(list), mostTested)]
}
