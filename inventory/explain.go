package inventory

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"example.org/odometer"
)

const (
	// rememberFor is within what time what a list shows and what a source tells
	// are one event, whichever comes first.
	rememberFor = 15 * odometer.SecondMicros
	// sameMoment is how much earlier than it was told a change may be said to have
	// been: a process begins before its machine has started, and a machine that
	// reboots is reset several times.
	sameMoment = 5 * odometer.SecondMicros
	// reasonWithin is how long an end or a start waits for the sources that know
	// more of it: the process is seen to end before libvirt has found out why,
	// which takes seconds where it waits for the process itself.
	reasonWithin = 5 * odometer.SecondMicros
	// rebootsEvery is how often reboots of a machine are told at most, each of which
	// ends a period and is kept for ever: a machine may reboot as it likes.
	rebootsEvery = 60 * odometer.SecondMicros
)

// reboots are those of one machine.
type reboots struct {
	told int64           // when one was told last, boot time in microseconds
	held odometer.Change // the last of those that were not told since
	n    int             // how many they are
}

// pending is a change that a source told and no list has shown yet.
type pending struct {
	odometer.Change
	source int
}

// shown is a change that a list has shown, with what was told of it.
type shown struct {
	odometer.Change
	told    []pending
	awaited []int // the sources that know the machine and tell, unless they told
	until   int64
}

// as is the change that tells those that were held.
func (r *reboots) as() odometer.Change {
	c := r.held
	if r.n > 1 {
		c.Detail = fmt.Sprintf("the last of %d since the one before", r.n)
	}
	return c
}

// alike reports whether two kinds may be of one event: a list shows that a run
// ended, and who was told knows how.
func alike(a, b odometer.ChangeKind) bool {
	if a == b {
		return true
	}
	for _, set := range [...][]odometer.ChangeKind{
		{odometer.ChangeStopped, odometer.ChangeCrashed, odometer.ChangeMoved},
		{odometer.ChangeStarted, odometer.ChangeMoved},
		{odometer.ChangeResumed, odometer.ChangeMoved},
	} {
		if slices.Contains(set, a) && slices.Contains(set, b) {
			return true
		}
	}
	return false
}

// explain replaces what the lists show by what was told of it, which has the
// moment and the reason.
//
// What was told and does not show is a reboot, which no list shows, or of a run
// that was too short for one: that is passed on when every source was listed
// since. Of a machine that is known it waits for the list that shows it, unless
// the machine is as it says already.
func (w *Watch) explain(seen []odometer.Change, now []odometer.VM, at odometer.Moment) []odometer.Change {
	for _, c := range seen {
		s := shown{Change: c}
		if c.Kind == odometer.ChangeStopped || c.Kind == odometer.ChangeStarted {
			s.awaited, s.until = w.knowing(c), at.Boot
			for _, i := range s.awaited {
				s.until = max(s.until, at.Boot+w.sources[i].patience())
			}
		}
		w.shown = append(w.shown, s)
	}
	for i := range w.shown {
		s := &w.shown[i]
		w.pending = slices.DeleteFunc(w.pending, func(p pending) bool {
			fits := p.Instance == s.Instance && alike(p.Kind, s.Kind)
			if fits {
				s.told = append(s.told, p)
				s.awaited = slices.DeleteFunc(s.awaited, func(i int) bool { return i == p.source })
			}
			return fits
		})
	}
	var tell []odometer.Change
	pass := func(c odometer.Change) {
		if r := w.reboots[c.Instance]; r != nil && (c.Kind == odometer.ChangeStopped || c.Kind == odometer.ChangeCrashed || c.Kind == odometer.ChangeDeleted) {
			delete(w.reboots, c.Instance)
			if r.n > 0 {
				tell, w.recent = append(tell, r.as()), append(w.recent, r.held)
			}
		}
		tell, w.recent = append(tell, c), append(w.recent, c)
	}
	w.shown = slices.DeleteFunc(w.shown, func(s shown) bool {
		over := len(s.awaited) == 0 || at.Boot >= s.until
		if over {
			pass(s.explained())
		}
		return over
	})
	for id, r := range w.reboots {
		if at.Boot-r.told < rebootsEvery {
			continue
		}
		delete(w.reboots, id)
		if r.n > 0 {
			pass(r.as())
			w.reboots[id] = &reboots{told: at.Boot}
		}
	}
	w.pending = slices.DeleteFunc(w.pending, func(p pending) bool {
		i, known := find(now, p.Instance)
		switch {
		case p.Kind == "" || w.toldBefore(p.Change):
			return true
		case p.Kind == odometer.ChangeRebooted:
			if w.rebooted(p.Change) {
				pass(p.Change)
			}
			return true
		case known:
			return w.sources[p.source].begun >= p.At.Boot && is(&now[i], p.Kind) || at.Boot-p.At.Boot > rememberFor
		}
		if slices.ContainsFunc(w.sources, func(s *watchedSource) bool { return s.begun < p.At.Boot && s.answering() }) {
			return false
		}
		pass(p.Change)
		return true
	})
	slices.SortStableFunc(tell, func(a, b odometer.Change) int { return cmp.Compare(a.At.Boot, b.At.Boot) })
	w.recent = slices.DeleteFunc(w.recent, func(c odometer.Change) bool { return c.At.Boot < at.Boot-rememberFor })
	return tell
}

// rebooted reports whether a reboot is told, or held until more of them are told
// as one.
func (w *Watch) rebooted(c odometer.Change) bool {
	r := w.reboots[c.Instance]
	if r == nil {
		w.reboots[c.Instance] = &reboots{told: c.At.Boot}
		return true
	}
	if r.n == 0 || c.At.Boot-r.held.At.Boot >= sameMoment {
		r.n, r.held = r.n+1, c
	}
	return false
}

// is reports whether a machine is as a change of this kind leaves it.
func is(v *odometer.VM, kind odometer.ChangeKind) bool {
	switch kind {
	case odometer.ChangeStarted:
		return v.State != odometer.Stopped
	case odometer.ChangeResumed:
		return v.State == odometer.Running
	case odometer.ChangePaused:
		return v.State == odometer.Paused
	case odometer.ChangeStopped, odometer.ChangeCrashed:
		return v.State == odometer.Stopped
	}
	return false
}

// knowing lists the sources that tell what happens to a machine of theirs.
func (w *Watch) knowing(c odometer.Change) []int {
	var list []int
	for i, s := range w.sources {
		_, tells := s.Source.(Teller)
		if s.witness() && c.Kind == odometer.ChangeStarted {
			continue // which it sees, and is not told
		}
		if tells && !s.hung && (s.has(c.Instance, s.vms) || s.has(c.Instance, s.before)) {
			list = append(list, i)
		}
	}
	return list
}

// patience is how long what a source tells is waited for, in microseconds: a
// witness tells before it lists.
func (s *watchedSource) patience() int64 {
	if s.witness() {
		return odometer.SecondMicros
	}
	return reasonWithin
}

func (s *watchedSource) witness() bool {
	x, ok := s.Source.(Witness)
	return ok && x.SeesEnds()
}

func (s *watchedSource) has(id odometer.InstanceID, vms []odometer.VM) bool {
	return slices.ContainsFunc(vms, func(v odometer.VM) bool { return v.Instance == id })
}

// explained is the change with its moment and reason. Of several sources that
// told it the one that knows best is believed, and the others' details are
// added.
func (s *shown) explained() odometer.Change {
	c := s.Change
	if len(s.told) == 0 {
		return c
	}
	slices.SortStableFunc(s.told, func(a, b pending) int { return a.source - b.source })
	var details []string
	for _, p := range s.told {
		if p.Detail != "" && !slices.Contains(details, p.Detail) {
			details = append(details, p.Detail)
		}
	}
	c.Kind, c.Detail = s.told[0].Kind, strings.Join(details, "; ")
	if s.Kind != odometer.ChangeStarted { // of which the process's own is the more exact
		c.At = slices.MinFunc(s.told, func(a, b pending) int { return cmp.Compare(a.At.Boot, b.At.Boot) }).At
	}
	return c
}

// toldBefore reports whether a change like c was passed on lately.
func (w *Watch) toldBefore(c odometer.Change) bool {
	return slices.ContainsFunc(w.recent, func(r odometer.Change) bool {
		return r.Instance == c.Instance && alike(c.Kind, r.Kind) && r.At.Boot > c.At.Boot-sameMoment
	})
}

// find looks a machine up in a list in order of identity.
func find(vms []odometer.VM, id odometer.InstanceID) (int, bool) {
	return slices.BinarySearchFunc(vms, id, func(v odometer.VM, id odometer.InstanceID) int {
		return strings.Compare(string(v.Instance), string(id))
	})
}
