package ledger

import (
	"slices"

	"example.org/odometer"
)

// Days and months of a time zone begin in the middle of UTC's days, and some in
// the middle of an hour. A day of UTC that such an edge cuts is put together from
// its hours. An hour that it cuts is shared by time, as a whole for each row of the
// answer: so the answer does not depend on where the hour's pieces lie, nor on
// whether the journal still has its entries, and all rows add up to the unit. The
// same hour shared among more rows may be a unit apart from these together.

// slot is where an hour, a day or a moment belongs in the answer.
type slot struct {
	start int64   // of the row
	edges []int64 // within the hour that starts there; nil for one that is not cut
}

// at returns the slot of the hour or the whole day that starts at start.
func (u *usageQuery) at(start int64) slot {
	if u.places == nil {
		return slot{start: u.rowStart(start)}
	}
	p, known := u.places[start]
	if known {
		return p
	}
	p.start = u.rowStart(start)
	end := start + odometer.HourMicros
	for at := u.nextEdge(start); at < end; at = u.nextEdge(at) {
		p.edges = append(p.edges, at)
	}
	for _, at := range [...]int64{u.From, u.To} {
		if at > start && at < end && u.midnight(at) && !slices.Contains(p.edges, at) {
			p.edges = append(p.edges, at)
		}
	}
	if p.edges != nil {
		slices.Sort(p.edges)
		p.start = start
	}
	u.places[start] = p
	return p
}

// exactly returns the slot of a moment in an hour that is cut as its entries say.
func (u *usageQuery) exactly(us int64) slot { return slot{start: u.rowStart(us)} }

// rowStart returns the start of the row to which a moment belongs.
func (u *usageQuery) rowStart(us int64) int64 {
	if u.calendar.By == odometer.ByNothing {
		return 0
	}
	if u.calendar.By == odometer.ByMonth && u.places == nil {
		month, _ := monthOf(dayOf(us))
		return month
	}
	return u.calendar.Start(us)
}

// nextEdge returns the first edge of an hour or of the calendar after a moment.
func (u *usageQuery) nextEdge(us int64) int64 {
	end := odometer.Hour(us) + odometer.HourMicros
	if u.places == nil || u.calendar.By == odometer.ByNothing {
		return end
	}
	return min(end, u.calendar.Next(u.calendar.Start(us)))
}

// midnight reports whether a day of the zone begins at us, in the middle of an hour.
func (u *usageQuery) midnight(us int64) bool {
	return u.Zone != nil && odometer.Hour(us) != us && odometer.Calendar{By: odometer.ByDay, Zone: u.Zone}.Start(us) == us
}

// whole reports whether a day of UTC lies in one row.
func (u *usageQuery) whole(day int64) bool {
	if u.calendar.By == odometer.ByNothing {
		return true
	}
	whole, known := u.wholes[day]
	if !known {
		whole = u.rowStart(day) == u.rowStart(day+odometer.DayMicros-1)
		u.wholes[day] = whole
	}
	return whole
}

// share gives what lies in hours that are cut to the rows that they belong to, as
// far as it was asked for.
func (u *usageQuery) share() {
	var cut []rowKey
	for k := range u.rows {
		if k.cut {
			cut = append(cut, k)
		}
	}
	for _, k := range cut {
		row, at := u.rows[k], k.start
		delete(u.rows, k)
		for _, edge := range append(slices.Clone(u.places[k.start].edges), k.start+odometer.HourMicros) {
			part := row.Between(at-k.start, edge-k.start, odometer.HourMicros)
			if at >= u.From && edge <= u.To && (part.Totals != [odometer.Quantities]odometer.Sum{} || !part.Recovered.IsZero()) {
				u.give(rowKey{k.instance, k.owner, u.rowStart(at), false}, &part)
			}
			at = edge
		}
	}
}

// give adds a part of a row to another.
func (u *usageQuery) give(k rowKey, part *odometer.UsageRow) {
	row := u.rows[k]
	if row == nil {
		if u.full = u.full || u.Most != 0 && len(u.rows) >= u.Most; u.full {
			return
		}
		row = &odometer.UsageRow{Instance: k.instance, User: k.owner.User, Org: k.owner.Org, Start: k.start}
		u.rows[k] = row
	}
	for q, n := range part.Totals {
		row.Totals[q].AddSum(n)
	}
	row.Recovered.AddSum(part.Recovered)
	row.Known |= part.Known
	row.Apportioned = true
}
