package ledger

import (
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
)

// An agent is told whose its instances are, and names that in its events. One that
// names somebody else has not heard of a change for long, or says what is not so. Its
// event is charged to whom it is recorded all the same (charge.go); that it disagrees
// is counted here, by what has been committed since the start.

// heardWithin is how long after a decision an agent may not have heard of it: it is
// told within a second, comes back within ten when the queue was lost, and its clock
// may be off.
const heardWithin = 30 * odometer.SecondMicros

// Disagreement is how often an agent named another owner than was recorded.
type Disagreement struct {
	Agent    odometer.AgentID
	Events   uint64
	Instance odometer.InstanceID // of the last of them
	Named    odometer.Owner      // by that
	Recorded odometer.Owner
	At       time.Time // when it was received
}

// disagreements counts what is committed.
type disagreements struct {
	mu sync.Mutex
	of map[odometer.AgentID]*Disagreement
}

func (d *disagreements) add(list []Disagreement) {
	if len(list) == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.of == nil {
		d.of = map[odometer.AgentID]*Disagreement{}
	}
	for _, one := range list {
		n := uint64(1)
		if before := d.of[one.Agent]; before != nil {
			n += before.Events
		}
		one.Events = n
		d.of[one.Agent] = &one
	}
}

// Disagreements returns how often each agent named another owner than was recorded,
// since the start, in order of the agents. An event counts once, and not where its
// agent may not have heard of the decision yet, nor where it names nobody.
func (l *Ledger) Disagreements() []Disagreement {
	d := &l.fold.disagreed
	d.mu.Lock()
	defer d.mu.Unlock()
	list := make([]Disagreement, 0, len(d.of))
	for _, one := range d.of {
		list = append(list, *one)
	}
	slices.SortFunc(list, func(a, b Disagreement) int { return strings.Compare(string(a.Agent), string(b.Agent)) })
	return list
}

// disagrees notes that an event names another owner than is recorded from a moment
// on, unless its agent may not know better.
func (f *fold) disagrees(w *work, ev *odometer.Event, from int64, recorded odometer.Owner) {
	if f.given != nil || w.disagreed || ev.Agent == "" || ev.Owner.OrUnassigned().User == odometer.Unassigned {
		return
	}
	if from < max(f.decided[ev.Instance], f.since)+heardWithin {
		return
	}
	w.disagreed = true
	f.disagreeing = append(f.disagreeing, Disagreement{
		Agent: odometer.AgentID(strings.Clone(string(ev.Agent))), Instance: odometer.InstanceID(strings.Clone(string(ev.Instance))),
		Named:    odometer.Owner{User: odometer.UserID(strings.Clone(string(ev.Owner.User))), Org: odometer.OrgID(strings.Clone(string(ev.Owner.Org)))},
		Recorded: recorded, At: time.UnixMicro(w.rec.at).UTC(),
	})
}
