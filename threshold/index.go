package threshold

import (
	"example.org/odometer"
)

// watch is a threshold that is enabled, made ready to be checked.
type watch struct {
	*odometer.Threshold
	limits   []odometer.Sum // of a budget
	quantity odometer.Quantity
	calendar odometer.Calendar
	from     int64             // the journal's record after which it counts
	states   map[string]*state // by subject and, of a budget, period; what is not there is as at the beginning
}

func newWatch(t *odometer.Threshold, from int64) *watch {
	w := &watch{Threshold: t, from: from, states: map[string]*state{}}
	if t.Condition == odometer.ConditionBudget {
		w.limits, w.calendar = limits(t), t.Calendar()
		w.quantity, _ = budgetUnit(t)
	}
	return w
}

// covers reports whether what an instance used for an owner is the threshold's to watch:
// within its scope, and its holder's to see.
func (w *watch) covers(instance odometer.InstanceID, owner odometer.Owner) bool {
	s, h := &w.Scope, &w.Holder
	return (s.Instance == "" || s.Instance == instance) && (s.User == "" || s.User == owner.User) && (s.Org == "" || s.Org == owner.Org) &&
		(h.User == "" || h.User == owner.User) && (h.Org == "" || h.Org == owner.Org)
}

// index finds the watches of an entry without looking at all.
type index struct {
	instances map[odometer.InstanceID][]*watch
	users     map[odometer.UserID][]*watch
	orgs      map[odometer.OrgID][]*watch
	all       []*watch // the operator's, of everybody
}

func newIndex() *index {
	return &index{map[odometer.InstanceID][]*watch{}, map[odometer.UserID][]*watch{}, map[odometer.OrgID][]*watch{}, nil}
}

// add puts a watch where few others are.
func (x *index) add(w *watch) {
	s, h := &w.Scope, &w.Holder
	switch {
	case s.Instance != "":
		x.instances[s.Instance] = append(x.instances[s.Instance], w)
	case s.User != "":
		x.users[s.User] = append(x.users[s.User], w)
	case h.User != "":
		x.users[h.User] = append(x.users[h.User], w)
	case s.Org != "":
		x.orgs[s.Org] = append(x.orgs[s.Org], w)
	case h.Org != "":
		x.orgs[h.Org] = append(x.orgs[h.Org], w)
	default:
		x.all = append(x.all, w)
	}
}

// each calls do for every watch that covers what an instance used for an owner.
func (x *index) each(instance odometer.InstanceID, owner odometer.Owner, do func(*watch)) {
	for _, list := range [...][]*watch{x.instances[instance], x.users[owner.User], x.orgs[owner.Org], x.all} {
		for _, w := range list {
			if w.covers(instance, owner) {
				do(w)
			}
		}
	}
}

// Checker checks entries against many thresholds, without a memory: those of periods, of
// what is sustained, of rates and of gaps, by each entry alone. It may be used by many
// goroutines at once.
type Checker struct{ index *index }

// NewChecker returns a Checker of those thresholds that are enabled.
func NewChecker(list []odometer.Threshold) *Checker {
	c := &Checker{newIndex()}
	for i := range list {
		if list[i].Enabled {
			c.index.add(newWatch(&list[i], 0))
		}
	}
	return c
}

// Check calls reached for every threshold of which an entry reaches levels by itself: bit
// i of levels stands for level i.
func (c *Checker) Check(e *odometer.Entry, reached func(t *odometer.Threshold, value float64, levels uint32)) {
	c.index.each(e.Event.Instance, e.Event.Owner.OrUnassigned(), func(w *watch) {
		if value, levels, ok := Check(w.Threshold, e); ok && levels != 0 {
			reached(w.Threshold, value, levels)
		}
	})
}
