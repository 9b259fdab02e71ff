package threshold

import (
	"slices"
	"strconv"

	"example.org/odometer"
)

// Machine is an instance that is known to run.
type Machine struct {
	Instance odometer.InstanceID
	Owner    odometer.Owner
	Last     int64 // end of the latest that was heard of it, microseconds of the wall clock
	Interval int64 // after which something is due, microseconds; 0 where it is too early to tell
}

// listen compares how long nothing was heard of machines with the thresholds of silence.
// What is not among the machines does not run any more, as far as is known; what is open
// of one of which it is too early to tell stays so.
func (f *fold) listen(machines []Machine) {
	heard := map[*watch]map[string]bool{}
	for i := range machines {
		m := &machines[i]
		f.index.each(m.Instance, m.Owner.OrUnassigned(), func(w *watch) {
			if w.Condition != odometer.ConditionSilence {
				return
			}
			if heard[w] == nil {
				heard[w] = map[string]bool{}
			}
			heard[w][string(m.Instance)] = true
			if m.Interval > 0 {
				f.miss(w, m)
			}
		})
	}
	for _, w := range f.watches {
		if w.Condition != odometer.ConditionSilence {
			continue
		}
		for subject, s := range w.states {
			if !heard[w][subject] {
				f.hush(w, s, seen{before: s.Value, to: f.now})
			}
		}
	}
}

// miss compares one machine.
func (f *fold) miss(w *watch, m *Machine) {
	at := seen{value: max(0, float64(f.now-m.Last)/float64(m.Interval)), from: m.Last, to: f.now}
	reached := reachedBy(w.Threshold, at.value)
	s := w.states[string(m.Instance)]
	if reached == 0 {
		if s != nil { // heard again, at its last
			at.before, at.to = s.Value, m.Last
			f.hush(w, s, at)
		}
		return
	}
	s = f.state(w, string(m.Instance))
	s.Instance, s.Owner, at.before = m.Instance, m.Owner.OrUnassigned(), s.Value
	for i := range w.Levels {
		l := s.level(w.Levels[i].Name)
		if reached>>i&1 != 0 && !l.open() && f.now >= l.Rests {
			f.reach(w, s, l, w.Levels[i].Value, at, "silence since "+strconv.FormatInt(m.Last, 10))
			f.touch(w, s)
		}
	}
	s.Value = at.value
}

// hush ends what is open of a machine that was heard, or runs no more.
func (f *fold) hush(w *watch, s *state, at seen) {
	for i := range s.Levels {
		if l := &s.Levels[i]; l.open() {
			f.turn(l.Now, odometer.StandingRecovered, at)
			l.Covered, l.Rests = f.now, f.now+w.CoolDown.Microseconds()
			f.touch(w, s)
		}
	}
	if s.Last = f.now; s.idle() {
		delete(w.states, s.Subject)
		f.touch(w, s)
	}
}

// depart ends what is open of machines of which an event was checked and which, as is
// known, run no more: none will fall below. What an agent has yet to send is waited for as
// long as what a machine came to counts in a sum.
func (f *fold) depart(ask func(odometer.InstanceID) (bool, error)) error {
	known := map[odometer.InstanceID]bool{}
	ended := func(id odometer.InstanceID) (is bool, err error) { // asked once of each
		is, asked := known[id]
		if !asked {
			is, err = ask(id)
			known[id] = is
		}
		return is, err
	}
	for _, w := range f.watches {
		if w.Condition == odometer.ConditionSilence || w.Condition == odometer.ConditionBudget {
			continue
		}
		for _, s := range w.states {
			if s.Last > f.now-partsLast || !slices.ContainsFunc(s.Levels, func(l level) bool { return l.open() }) {
				continue
			}
			over, err := s.over(ended)
			if err != nil {
				return err
			}
			for i := range s.Levels {
				if l := &s.Levels[i]; over && l.open() {
					f.turn(l.Now, odometer.StandingRecovered, seen{before: s.Value, value: s.Value, to: s.Last})
					l.Since, l.Covered, l.Rests = 0, s.Last, s.Last+w.CoolDown.Microseconds()
					f.touch(w, s)
				}
			}
		}
	}
	return nil
}

// over reports whether the machine of a state has ended, or of a sum all whose values are
// in it.
func (s *state) over(ended func(odometer.InstanceID) (bool, error)) (bool, error) {
	if s.Instance != "" {
		return ended(s.Instance)
	}
	for id := range s.Parts {
		if over, err := ended(id); err != nil || !over {
			return false, err
		}
	}
	return true, nil
}
