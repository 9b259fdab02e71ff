package threshold

import (
	"math"
	"slices"
	"strconv"

	"example.org/odometer"
)

// fold is what is remembered of all thresholds, as of the ledger's entries that it took
// in, and what that changed since it was stored last. It does no I/O but through what it
// is given.
type fold struct {
	watches map[odometer.ThresholdID]*watch
	index   *index
	now     int64 // microseconds of the wall clock

	// stored returns the state of a budget's period that is not held in memory, nil for
	// none; earlier the violations that an event did to a threshold, as they were told
	// last. Both may be nil.
	stored  func(w *watch, subject string, period int64) (*state, error)
	earlier func(w *watch, event string) ([]odometer.Violation, error)
	// previous returns what the threshold's value was in the entry of the same instance
	// before, 0 where there was none lately; nil for never.
	previous func(w *watch, e *odometer.Entry) (float64, error)
	recent   int64 // periods that end later are held in memory, if there is anything of them

	changes []odometer.Violation // since the last time, without numbers
	touched map[place]*watch     // states to be stored
	begun   []*watch             // that are new, or were changed
}

// place is where a state is stored.
type place struct {
	threshold odometer.ThresholdID
	subject   string
	period    int64
}

func newFold() *fold {
	return &fold{watches: map[odometer.ThresholdID]*watch{}, index: newIndex(), touched: map[place]*watch{}}
}

// replace watches other thresholds from now on.
func (f *fold) replace(list []*watch) {
	f.watches, f.index = make(map[odometer.ThresholdID]*watch, len(list)), newIndex()
	for _, w := range list {
		f.watches[w.ID] = w
		f.index.add(w)
	}
}

// silences reports whether any threshold is of silence.
func (f *fold) silences() bool {
	for _, w := range f.watches {
		if w.Condition == odometer.ConditionSilence {
			return true
		}
	}
	return false
}

// seen is what a level is compared with, and what it came from.
type seen struct {
	value, before float64
	from, to      int64 // time of use
	event         string
	by            *odometer.EntryID // nil for no entry; few of them are written
	late          bool
	reaches       int64 // of a forecast
}

// entry is the id of the entry that did it, "" for none.
func (at *seen) entry() string {
	if at.by == nil {
		return ""
	}
	return at.by.String()
}

func seenOf(e *odometer.Entry) seen {
	return seen{from: e.Event.Span.Start, to: e.Event.Span.End, event: e.SourceEventID, by: &e.ID}
}

// take takes in an entry of the ledger, which is in the journal's record of a number.
func (f *fold) take(e *odometer.Entry, record int64) (err error) {
	f.index.each(e.Event.Instance, e.Event.Owner.OrUnassigned(), func(w *watch) {
		if err != nil || record <= w.from {
			return
		}
		switch w.Condition {
		case odometer.ConditionBudget:
			err = f.spend(w, e)
		case odometer.ConditionSilence: // told by the clock
		default:
			err = f.check(w, e)
		}
	})
	return err
}

// takesBack reports whether an entry takes something away.
func takesBack(e *odometer.Entry) bool {
	return slices.ContainsFunc(e.Event.Usage.Vector[:], func(n int64) bool { return n < 0 })
}

// subjectOf names what a threshold's state is of.
func subjectOf(w *watch, instance odometer.InstanceID) string {
	if w.Scope.Sum {
		return ""
	}
	return string(instance)
}

// check takes an entry into a threshold that looks at each.
func (f *fold) check(w *watch, e *odometer.Entry) error {
	if e.Kind == odometer.KindCorrection {
		if takesBack(e) {
			return f.retract(w, e)
		}
		return nil // what was used already, given back or given to another
	}
	num, den, ok := parts(w.Threshold, e)
	if !ok {
		return nil
	}
	subject := subjectOf(w, e.Event.Instance)
	s := w.states[subject]
	at := seenOf(e)
	at.value = num / den
	if w.Scope.Sum {
		s = f.state(w, subject)
		at.value = s.total(e.Event.Instance, num, den, at.to, w.Unit == odometer.UnitPercent)
	}
	reached := reachedBy(w.Threshold, at.value)
	if reached == 0 && s == nil {
		return nil
	}
	fresh := s == nil
	s = f.state(w, subject)
	w.of(s, e)
	at.before, at.late = s.Value, at.to < s.Last && !w.Scope.Sum
	if fresh || at.late && reached != 0 { // what was before is not remembered
		at.before = 0
		if f.previous != nil {
			var err error
			if at.before, err = f.previous(w, e); err != nil {
				return err
			}
		}
	}
	if at.late {
		f.checkLate(w, s, at, reached)
		return nil
	}
	f.step(w, s, at, reached)
	s.Value, s.Last = at.value, max(s.Last, at.to)
	f.touch(w, s)
	if s.idle() {
		delete(w.states, subject)
	}
	return nil
}

// state returns what is remembered of a subject, and begins it where there is nothing.
func (f *fold) state(w *watch, subject string) *state {
	s := w.states[subject]
	if s == nil {
		s = &state{Subject: subject}
		w.states[subject] = s
	}
	return s
}

// of notes whose a state is: an entry's instance and owner, or whom a sum is over.
func (w *watch) of(s *state, e *odometer.Entry) {
	if w.Scope.Sum {
		s.Owner = w.sumOf()
		return
	}
	s.Instance, s.Owner = e.Event.Instance, e.Event.Owner.OrUnassigned()
}

// sumOf is whom a sum is over; the zero Owner for everybody.
func (w *watch) sumOf() odometer.Owner {
	if w.Scope.All {
		return odometer.Owner(w.Holder)
	}
	return odometer.Owner{User: w.Scope.User, Org: w.Scope.Org}
}

// total notes what an instance came to and returns the sum over all of lately. Parts are
// whole numbers, so that their sum does not depend on the order in which they came.
func (s *state) total(instance odometer.InstanceID, num, den float64, at int64, quotient bool) float64 {
	p := part{Num: int64(math.Round(num / den * 1e6)), At: at}
	if quotient {
		p.Num, p.Den = int64(math.Round(num)), int64(math.Round(den))
	}
	if s.Parts == nil {
		s.Parts = map[odometer.InstanceID]part{}
	}
	if was, there := s.Parts[instance]; (!there || at >= was.At) && at >= s.Newest-partsLast {
		s.Num, s.Den = s.Num+p.Num-was.Num, s.Den+p.Den-was.Den
		s.Parts[instance] = p
	}
	s.Newest = max(s.Newest, at)
	if s.Newest >= s.Swept+partsLast/10 { // what is old is looked for now and then
		s.Swept = s.Newest
		for id, p := range s.Parts {
			if p.At < s.Newest-partsLast {
				s.Num, s.Den = s.Num-p.Num, s.Den-p.Den
				delete(s.Parts, id)
			}
		}
	}
	if quotient {
		return float64(s.Num) / float64(max(1, s.Den))
	}
	return float64(s.Num) / 1e6
}

// lull is how much time may lie between two events without that what lasts is taken for
// interrupted: more than between two periods of one instance.
const lull = odometer.SecondMicros

// rearm is the value below which a level that was reached is armed again.
func (w *watch) rearm(value float64) float64 { return value * (1 - w.Hysteresis/100) }

// step compares what was seen with every level.
func (f *fold) step(w *watch, s *state, at seen, reached uint32) {
	for i := range w.Levels {
		limit := w.Levels[i].Value
		l := s.level(w.Levels[i].Name)
		hit := reached>>i&1 != 0
		lasts := hit
		if w.For > 0 {
			switch {
			case !hit:
				l.Since = 0
			case l.Since == 0 || at.from > s.Last+lull:
				l.Since = at.from
			}
			lasts = hit && at.to-l.Since >= w.For.Microseconds()
		}
		switch {
		case lasts && !l.open() && at.to >= l.Rests:
			f.reach(w, s, l, limit, at, at.event)
		case !hit && l.open() && at.value < w.rearm(limit):
			f.turn(l.Now, odometer.StandingRecovered, at)
			l.Covered, l.Rests = at.to, at.to+w.CoolDown.Microseconds()
		}
	}
}

// checkLate compares an event that came after later ones: what it did was over already
// when it came, unless a violation covers it.
func (f *fold) checkLate(w *watch, s *state, at seen, reached uint32) {
	for i := range w.Levels {
		l := s.level(w.Levels[i].Name)
		covered := l.Now != nil && l.Now.Standing != odometer.StandingRetracted && l.Now.Crossed <= at.to && (l.open() || at.to <= l.Covered)
		if reached>>i&1 == 0 || covered || w.For > 0 {
			continue
		}
		over := at
		over.before = at.value
		f.turn(f.cross(w, s, l.Name, w.Levels[i].Value, at, at.event), odometer.StandingRecovered, over)
	}
}

// did reports whether what was seen is what did a violation: of one event there are
// several entries where its owner changed, and what is moved to another owner carries the
// id of an event that did nothing of it.
func (at *seen) did(v *odometer.Violation) bool {
	return v.Event == at.event && v.From == at.from && v.To == at.to
}

// retract finds what an event did that is taken back.
func (f *fold) retract(w *watch, e *odometer.Entry) error {
	at := seenOf(e)
	done := map[odometer.ViolationID]bool{}
	if s := w.states[subjectOf(w, e.Event.Instance)]; s != nil {
		for i := range s.Levels {
			l := &s.Levels[i]
			if l.Now != nil && at.did(l.Now) {
				done[l.Now.ID] = true
				if l.open() {
					l.Since = 0
				}
				if at.before = l.Now.Value; l.Now.Standing != odometer.StandingRetracted {
					f.turn(l.Now, odometer.StandingRetracted, at)
					f.touch(w, s)
				}
			}
		}
	}
	for _, v := range slices.Clone(f.changes) { // not stored yet
		if v.Threshold == w.ID && at.did(&v) && !done[v.ID] {
			done[v.ID] = true
			if last := f.lastOf(v.ID); last.Standing != odometer.StandingRetracted {
				at.before = last.Value
				f.turn(last, odometer.StandingRetracted, at)
			}
		}
	}
	if f.earlier == nil {
		return nil
	}
	list, err := f.earlier(w, at.event)
	if err != nil {
		return err
	}
	for i := range list {
		if v := &list[i]; v.Standing != odometer.StandingRetracted && at.did(v) && !done[v.ID] {
			at.before = v.Value
			f.turn(v, odometer.StandingRetracted, at)
		}
	}
	return nil
}

// lastOf returns a violation as it was told last among the changes.
func (f *fold) lastOf(id odometer.ViolationID) *odometer.Violation {
	for i := len(f.changes) - 1; ; i-- {
		if f.changes[i].ID == id {
			v := f.changes[i]
			return &v
		}
	}
}

// reach has a level be reached: a violation begins, or the last one goes on where it is of
// the same, told as the threshold says now.
func (f *fold) reach(w *watch, s *state, l *level, limit float64, at seen, basis string) {
	if l.Now == nil || l.Now.ID != odometer.NewViolationID(w.ID, l.Name, s.Subject, basis) {
		l.Now = f.cross(w, s, l.Name, limit, at, basis)
		return
	}
	v := l.Now
	v.Version, v.Name, v.About, v.Shared, v.Action, v.Channels = w.Version, w.Name, w.Description, w.Shared, w.Action, w.Channels
	v.Limit, v.Reaches, v.Event, v.Entry = limit, at.reaches, at.event, at.entry()
	f.turn(v, odometer.StandingOpen, at)
}

// cross begins a violation.
func (f *fold) cross(w *watch, s *state, name string, limit float64, at seen, basis string) *odometer.Violation {
	v := &odometer.Violation{
		ID: odometer.NewViolationID(w.ID, name, s.Subject, basis), Change: 1, Threshold: w.ID, Version: w.Version, Name: w.Name, About: w.Description, Holder: w.Holder, Shared: w.Shared, Level: name, Standing: odometer.StandingOpen,
		Instance: s.Instance, Owner: s.Owner, Sum: w.Scope.Sum, Resource: w.Resource, Condition: w.Condition, Unit: w.Unit, Limit: limit, Before: at.before, Value: at.value,
		From: at.from, To: at.to, Crossed: at.to, Detected: f.now, Changed: f.now, Event: at.event, Entry: at.entry(), Late: at.late, Reaches: at.reaches, Action: w.Action, Channels: w.Channels,
	}
	if s.Period != 0 {
		v.From, v.To = s.Period, s.End
	}
	f.changes = append(f.changes, *v)
	return v
}

// turn notes what becomes of a violation by what was seen.
func (f *fold) turn(v *odometer.Violation, to odometer.Standing, at seen) {
	v.Change++
	v.Standing, v.Before, v.Value, v.Changed = to, at.before, at.value, f.now
	if v.Ended, v.EndedBy = 0, ""; to == odometer.StandingRecovered {
		v.Ended, v.EndedBy = at.to, at.event
	}
	f.changes = append(f.changes, *v)
}

// still is a value of which nothing became: it ends now, and no event did that.
func (f *fold) still(value float64) seen { return seen{before: value, value: value, to: f.now} }

// touch notes that a state is to be stored.
func (f *fold) touch(w *watch, s *state) { f.touched[place{w.ID, s.Subject, s.Period}] = w }

// end ends what is open of a threshold that is not watched any more.
func (f *fold) end(w *watch) {
	for _, s := range w.states {
		for i := range s.Levels {
			if l := &s.Levels[i]; l.open() {
				f.turn(l.Now, odometer.StandingRecovered, f.still(l.Now.Value))
				f.touch(w, s)
			}
		}
	}
}

// leave ends what is open of a threshold as it was and is none of it as it is now. What
// the sum of a budget of the same kind comes to is compared when it begins.
func (f *fold) leave(was, is *watch) {
	same := was.Condition == is.Condition && was.Resource == is.Resource && was.Unit == is.Unit && was.Every == is.Every && was.Zone.String() == is.Zone.String()
	budget := is.Condition == odometer.ConditionBudget
	for _, s := range was.states {
		mine := budget || was.Scope.Sum == is.Scope.Sum && (is.Scope.Sum && was.Scope == is.Scope || !is.Scope.Sum && is.covers(s.Instance, s.Owner))
		for i := range s.Levels {
			if l := &s.Levels[i]; l.open() && !(same && mine && is.has(l.Name)) {
				f.turn(l.Now, odometer.StandingRecovered, f.still(l.Now.Value))
				f.touch(was, s)
			}
		}
	}
}

// has reports whether a threshold has a level of a name.
func (w *watch) has(name string) bool {
	return name == odometer.ForecastLevel && w.Forecast || slices.ContainsFunc(w.Levels, func(l odometer.ThresholdLevel) bool { return l.Name == name })
}

// basisOf is what a budget's violation is of, beside its subject: the period.
func basisOf(period int64) string { return "period " + strconv.FormatInt(period, 10) }
