package ledger

import (
	"strconv"
	"sync"

	"example.org/odometer"
)

// An answer about some time is the same as before while nothing is booked in it: not
// by an event that comes late, nor by a correction or a move. So the hours that a
// commit books in get a number, one that none had before, and the greatest number of
// the hours of a time is its revision. It is kept in memory, and tells the ledger's
// opening too: what was answered before a restart is answered anew, never taken for
// the same.

// revisions number what is booked, by the hour.
type revisions struct {
	mu     sync.Mutex
	last   uint64           // number that was given out
	hours  map[int64]uint64 // by start; what is absent has all
	all    uint64           // of everything, since a span was too long to be noted by the hour
	booked []stretch        // in the commit at work, of which nobody knows whether it is seen
}

// longestNoted is up to how long a span is noted by the hour.
const longestNoted = 400 * odometer.DayMicros

// begin notes in which hours a commit books, before it can be seen.
func (v *revisions) begin(booked []stretch) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.booked = booked
}

// end numbers those hours, after the commit was seen or has failed.
func (v *revisions) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.booked) > 0 {
		v.last++
	}
	for _, s := range v.booked {
		if s.to-s.from > longestNoted {
			v.all = v.last
			continue
		}
		if v.hours == nil {
			v.hours = map[int64]uint64{}
		}
		for hour := s.from; hour < s.to; hour += odometer.HourMicros {
			v.hours[hour] = v.last
		}
	}
	v.booked = nil
}

// of returns the number of a time, and whether nothing is being booked in it.
func (v *revisions) of(from, to int64) (n uint64, ok bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, s := range v.booked {
		if s.from < to && s.to > from {
			return 0, false
		}
	}
	n = v.all
	if first := odometer.Hour(from); (to-first)/odometer.HourMicros < int64(len(v.hours)) {
		for hour := first; hour < to; hour += odometer.HourMicros {
			n = max(n, v.hours[hour])
		}
		return n, true
	}
	for hour, at := range v.hours {
		if hour < to && hour+odometer.HourMicros > from {
			n = max(n, at)
		}
	}
	return n, true
}

// Revision returns a text that is another one after anything was booked in [from,
// to). Where it is the same before and after something was read of that time, this
// is what every other reader under the same text has read. It is "" while a commit is
// at work there.
func (l *Ledger) Revision(from, to int64) string {
	n, ok := l.revisions.of(from, to)
	if !ok {
		return ""
	}
	return l.token + "-" + strconv.FormatUint(n, 10)
}
