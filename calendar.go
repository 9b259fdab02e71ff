package odometer

import (
	"fmt"
	"path"
	"strings"
	"time"
	_ "time/tzdata" // the time zones, for a host that has none
)

// Calendar divides time into the hours, days or months of a place. Days and
// months begin at the first midnight there; where that is left out because
// clocks are put forward, at that moment. So a day has 23 hours or 25 where
// clocks change, and one that a place leaves out is no day. Hours are those of
// UTC in every place.
type Calendar struct {
	By   GroupBy        // ByHour, ByDay or ByMonth
	Zone *time.Location // nil for UTC
}

// CalendarOf returns the calendar by which groups divide time; By is ByNothing
// where they do not.
func CalendarOf(by []GroupBy, zone *time.Location) Calendar {
	for _, g := range by {
		if g == ByHour || g == ByDay || g == ByMonth {
			return Calendar{g, zone}
		}
	}
	return Calendar{ByNothing, zone}
}

// utc reports whether c is that of UTC, whose days are all of one length.
func (c Calendar) utc() bool { return c.Zone == nil || c.Zone == time.UTC }

// Start returns the start of the hour, day or month that contains the time us,
// both in microseconds of the wall clock.
func (c Calendar) Start(us int64) int64 {
	switch {
	case c.By == ByHour:
		return Hour(us)
	case c.By == ByDay && c.utc():
		return us - ((us%DayMicros)+DayMicros)%DayMicros
	}
	y, m, d := c.date(us)
	// A clock that is put back over midnight shows the day before once more.
	if next := c.begins(y, m, d+1); next <= us {
		return next
	}
	return c.begins(y, m, d)
}

// Next returns the start of the hour, day or month after the one that begins at
// start.
func (c Calendar) Next(start int64) int64 {
	switch {
	case c.By == ByHour:
		return start + HourMicros
	case c.By == ByDay && c.utc():
		return start + DayMicros
	}
	y, m, d := c.date(start)
	for n := 1; ; n++ {
		if next := c.begins(y, m, d+n); next > start {
			return next
		}
	}
}

// date returns which day or month the clock of the place shows at us, as what
// begins takes.
func (c Calendar) date(us int64) (y, m, d int) {
	t := time.UnixMicro(us).In(c.zone())
	year, month, day := t.Date()
	if c.By == ByMonth {
		return year, 0, int(month)
	}
	return year, int(month), day
}

func (c Calendar) zone() *time.Location {
	if c.Zone == nil {
		return time.UTC
	}
	return c.Zone
}

// begins returns when a day begins, or a month: then m is 0 and d its number.
// Numbers beyond the last go on in the next year or month.
func (c Calendar) begins(y, m, d int) int64 {
	if c.By == ByMonth {
		m, d = d, 1
	}
	return Midnight(y, time.Month(m), d, c.zone()).UnixMicro()
}

// Midnight returns the first moment at which the clock of a place shows the day
// or a later one.
func Midnight(y int, m time.Month, d int, zone *time.Location) time.Time {
	t := time.Date(y, m, d, 0, 0, 0, 0, zone)
	wall := time.Date(y, m, d, 0, 0, 0, 0, time.UTC) // as the clock shows it
	_, offset := t.Zone()
	since, until := t.ZoneBounds()
	switch shown := t.Add(time.Duration(offset) * time.Second); { // in UTC, to compare
	case shown.Before(wall): // the clock jumps over it, and t is before that
		return until
	case shown.After(wall):
		return since
	case since.IsZero():
		return t
	}
	// Shown twice where the clock was put back since: the first time counts.
	_, before := since.Add(-time.Second).Zone()
	if first := t.Add(time.Duration(offset-before) * time.Second); first.Before(since) {
		return first
	}
	return t
}

// LoadZone returns the time zone with a name of the IANA's database, such as
// Europe/Berlin or UTC. The error wraps [ErrInvalid].
func LoadZone(name string) (*time.Location, error) {
	zone, err := time.LoadLocation(name)
	// Local and localtime are the host's own affair, right/… have leap seconds in them,
	// and a file has other paths than its zone has names.
	own := name == "" || name == "Local" || name == "localtime" || strings.HasPrefix(name, "posix")
	if err != nil || own || strings.HasPrefix(name, "right/") || path.Clean(name) != name {
		return nil, fmt.Errorf("time zone %q is none of the IANA's, such as Europe/Berlin: %w", clip(name), ErrInvalid)
	}
	return zone, nil
}

// Share is [Share] of a sum.
func (s Sum) Share(elapsed, span int64) Sum {
	if n, ok := s.Int64(); ok {
		return SumOf(Share(n, elapsed, span))
	}
	return s.bigShare(elapsed, span)
}

// Between returns the part of a row over a time of length span that falls
// between from and to, all of them from its start. Parts over adjoining times
// sum to the row to the unit, none of one that only grows is negative, and the
// recovered time is never more than the measured and estimated one.
func (r *UsageRow) Between(from, to, span int64) UsageRow {
	part := *r
	share := func(s Sum) Sum {
		p := s.Share(to, span)
		p.SubSum(s.Share(from, span))
		return p
	}
	for q := range part.Totals {
		part.Totals[q] = share(r.Totals[q])
	}
	// What was recovered is apart from what arrived; each is shared by itself.
	measured, estimated := r.Totals[MeasuredTime], r.Totals[EstimatedTime]
	of := [2]Sum{measured, r.Recovered} // recovered of the measured, and of the estimated time
	if r.Recovered.Cmp(measured) < 0 {
		of[0] = r.Recovered
	}
	of[1].SubSum(of[0])
	part.Recovered = Sum{}
	for i, q := range [2]Quantity{MeasuredTime, EstimatedTime} {
		arrived := [2]Sum{measured, estimated}[i]
		arrived.SubSum(of[i])
		recovered := share(of[i])
		part.Totals[q] = share(arrived)
		part.Totals[q].AddSum(recovered)
		part.Recovered.AddSum(recovered)
	}
	return part
}
