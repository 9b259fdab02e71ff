package threshold

import (
	"math/big"

	"example.org/odometer"
)

// spend takes an entry into a budget: each period gets its share of it, so that shares
// add up to the entry to the unit.
func (f *fold) spend(w *watch, e *odometer.Entry) error {
	u, span := &e.Event.Usage, e.Event.Span
	n := u.Vector[w.quantity]
	if !u.Known.Has(w.quantity) || n == 0 {
		return nil
	}
	length := span.End - span.Start
	for start := w.calendar.Start(span.Start); ; {
		next := w.calendar.Next(start)
		share := n
		if length > 0 {
			share = odometer.Share(n, min(next, span.End)-span.Start, length) - odometer.Share(n, max(start, span.Start)-span.Start, length)
		}
		if share != 0 {
			if err := f.add(w, e, start, next, share, min(next, span.End)); err != nil {
				return err
			}
		}
		if start = next; next >= span.End {
			return nil
		}
	}
}

// period returns what is remembered of a budget's period, and begins it where there is
// nothing.
func (f *fold) period(w *watch, subject string, start, end int64) (*state, error) {
	k := key(subject, start)
	s := w.states[k]
	if s == nil && end <= f.recent && f.stored != nil {
		var err error
		if s, err = f.stored(w, subject, start); err != nil {
			return nil, err
		}
	}
	if s == nil {
		s = &state{Subject: subject, Period: start, End: end}
	}
	w.states[k] = s
	return s, nil
}

// add adds a share to the sum of a period.
func (f *fold) add(w *watch, e *odometer.Entry, start, end, share, used int64) error {
	s, err := f.period(w, subjectOf(w, e.Event.Instance), start, end)
	if err != nil {
		return err
	}
	w.of(s, e)
	at := seenOf(e)
	at.before = inUnits(w.Threshold, s.Sum)
	s.Sum.Add(share)
	at.value, at.to = inUnits(w.Threshold, s.Sum), used
	at.late = end <= f.now // the period was over already
	s.Used = max(s.Used, used)
	f.compare(w, s, at)
	f.touch(w, s)
	return nil
}

// compare compares the sum of a period with every level.
func (f *fold) compare(w *watch, s *state, at seen) {
	for i := range w.Levels {
		l := s.level(w.Levels[i].Name)
		f.settle(w, s, l, w.Levels[i].Value, s.Sum.Cmp(w.limits[i]) >= 0, inUnits(w.Threshold, s.Sum) < w.rearm(w.Levels[i].Value), at)
	}
	if w.Forecast {
		f.forecast(w, s, at)
	}
}

// settle has a level of a period be as the sum says: one violation of it, whatever
// comes and is taken back.
func (f *fold) settle(w *watch, s *state, l *level, limit float64, reached, below bool, at seen) {
	switch {
	case reached && f.due(s, l):
		f.reach(w, s, l, limit, at, basisOf(s.Period))
	case !reached && below && l.Now != nil && l.Now.Standing != odometer.StandingRetracted:
		f.turn(l.Now, odometer.StandingRetracted, at)
	}
}

// due reports whether a level of a period is told where it is reached: it was not yet, or
// was retracted, or recovered before the period is over, as its threshold was disabled or
// did not have it for a while.
func (f *fold) due(s *state, l *level) bool {
	return l.Now == nil || l.Now.Standing == odometer.StandingRetracted || l.Now.Standing == odometer.StandingRecovered && s.End > f.now
}

// A forecast is made once a twentieth of the period is over: before that an hour of
// work makes a month of it. It is withdrawn when it falls below the limit by as much.
const forecastPart = 20

// forecast tells that the limit will be reached before the period's end, if what is used
// goes on as in the period so far.
func (f *fold) forecast(w *watch, s *state, at seen) {
	length, gone := s.End-s.Period, s.Used-s.Period
	if gone < length/forecastPart || s.Sum.Cmp(odometer.Sum{}) <= 0 {
		return
	}
	last := len(w.limits) - 1
	limit, value := w.limits[last], w.Levels[last].Value
	if w.Limit != 0 {
		_, scale := budgetUnit(w.Threshold)
		limit, value = atLeast(w.Limit, scale), w.Limit
	}
	part := float64(length) / float64(gone)
	at.value, at.before = at.value*part, at.before*part
	l := s.level(odometer.ForecastLevel)
	switch {
	case at.value >= value && s.Sum.Cmp(limit) < 0 && f.due(s, l):
		at.reaches = s.Period + ratio(gone, limit, s.Sum)
		f.reach(w, s, l, value, at, basisOf(s.Period))
	case at.value < value*(1-1.0/forecastPart) && l.open():
		f.turn(l.Now, odometer.StandingRetracted, at)
	}
}

// ratio returns n × a / b.
func ratio(n int64, a, b odometer.Sum) int64 {
	x, _ := new(big.Int).SetString(a.String(), 10)
	y, _ := new(big.Int).SetString(b.String(), 10)
	return x.Mul(x, big.NewInt(n)).Quo(x, y).Int64()
}

// elapse ends the violations of periods that are over, and forgets periods that nothing
// comes for any more: they are stored.
func (f *fold) elapse(keep int64) {
	for _, w := range f.watches {
		if w.Condition != odometer.ConditionBudget {
			continue
		}
		for k, s := range w.states {
			if s.End > f.now {
				continue
			}
			for i := range s.Levels {
				if l := &s.Levels[i]; l.open() {
					at := f.still(inUnits(w.Threshold, s.Sum))
					at.to = s.End
					f.turn(l.Now, odometer.StandingRecovered, at)
					f.touch(w, s)
				}
			}
			if _, dirty := f.touched[place{w.ID, s.Subject, s.Period}]; !dirty && s.End < keep {
				delete(w.states, k)
			}
		}
	}
	f.recent = max(f.recent, keep)
}

// begin has a budget that is new, or was changed, begin with what was used in its present
// period already.
func (f *fold) begin(w *watch, rows []odometer.UsageRow, start, end int64) {
	type had struct {
		sum   odometer.Sum
		owner odometer.Owner
	}
	sums := map[string]had{}
	for _, s := range w.states { // of which nothing may be there any more
		if s.Period == start {
			sums[s.Subject] = had{owner: s.Owner}
		}
	}
	for i := range rows {
		r := &rows[i]
		owner := odometer.Owner{User: r.User, Org: r.Org}
		if w.Scope.Sum {
			owner = w.sumOf()
		} else if !w.covers(r.Instance, owner) {
			continue
		}
		h := sums[subjectOf(w, r.Instance)]
		h.sum.AddSum(r.Totals[w.quantity])
		h.owner = owner
		sums[subjectOf(w, r.Instance)] = h
	}
	for subject, h := range sums {
		k := key(subject, start)
		s := w.states[k]
		if s == nil {
			s = &state{Subject: subject, Period: start, End: end}
			w.states[k] = s
		}
		if s.Owner = h.owner; !w.Scope.Sum {
			s.Instance = odometer.InstanceID(subject)
		}
		at := seen{before: inUnits(w.Threshold, s.Sum), value: inUnits(w.Threshold, h.sum), to: min(f.now, end)}
		s.Sum, s.Used = h.sum, max(s.Used, at.to)
		f.compare(w, s, at)
		f.touch(w, s)
	}
}
