package inventory

import (
	"cmp"
	"slices"
	"strings"

	"example.org/odometer"
)

const (
	// rememberFor is within what time what a list shows and what a source tells
	// are one event, whichever comes first.
	rememberFor = 15 * odometer.SecondMicros
	// sameMoment is how much earlier than the event itself a list may have shown
	// it: a process begins before its machine is said to have started.
	sameMoment = 5 * odometer.SecondMicros
	// reasonWithin is how long an end waits for the source that knows its reason:
	// the process is seen to end before libvirt has found out why.
	reasonWithin = odometer.SecondMicros
)

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
// since. Of a machine that is known it waits for the list that shows it.
func (w *Watch) explain(seen []odometer.Change, now []odometer.VM, at odometer.Moment) []odometer.Change {
	for _, c := range seen {
		s := shown{Change: c}
		if c.Kind == odometer.ChangeStopped {
			s.awaited, s.until = w.knowing(c.Instance), at.Boot+reasonWithin
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
	w.shown = slices.DeleteFunc(w.shown, func(s shown) bool {
		awaited := slices.ContainsFunc(s.awaited, func(i int) bool { return w.sources[i].answering() })
		if awaited && at.Boot < s.until {
			return false
		}
		tell = append(tell, s.explained())
		return true
	})
	w.pending = slices.DeleteFunc(w.pending, func(p pending) bool {
		_, known := find(now, p.Instance)
		switch {
		case p.Kind == "":
			return true
		case p.Kind == odometer.ChangeRebooted:
			tell = append(tell, p.Change)
			return true
		case w.toldBefore(p.Change):
			return true
		case known:
			return at.Boot-p.At.Boot > rememberFor
		}
		if slices.ContainsFunc(w.sources, func(s *attended) bool { return s.begun < p.At.Boot && s.answering() }) {
			return false
		}
		tell = append(tell, p.Change)
		return true
	})
	slices.SortStableFunc(tell, func(a, b odometer.Change) int { return cmp.Compare(a.At.Boot, b.At.Boot) })
	w.recent = slices.DeleteFunc(w.recent, func(c odometer.Change) bool { return c.At.Boot < at.Boot-rememberFor })
	w.recent = append(w.recent, tell...)
	return tell
}

// knowing lists the sources that tell what happens to a machine.
func (w *Watch) knowing(id odometer.InstanceID) []int {
	var list []int
	for i, s := range w.sources {
		if _, tells := s.Source.(Teller); tells && (s.has(id, s.vms) || s.has(id, s.before)) {
			list = append(list, i)
		}
	}
	return list
}

func (s *attended) has(id odometer.InstanceID, vms []odometer.VM) bool {
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
