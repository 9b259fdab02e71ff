package api

import (
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

// Lines of CSV as RFC 4180 has it. The first has the names of the columns. A quantity
// that nobody measured, and a name that there is not, is an empty cell.
//
// A spreadsheet takes a cell that begins with = + - @, a tab or a line break for a
// formula. A text that does is preceded by an apostrophe, and so is one that begins
// with an apostrophe: whoever takes the first of these away, where a text begins with
// one, has the text as it was. Numbers stand as they are.
//
// What appends a cell appends the comma after it, too; see lines.line.

// appendText appends a cell with a text.
func appendText(b []byte, s string) []byte {
	if s != "" && strings.IndexByte("=+-@\t\r\n'", s[0]) >= 0 {
		s = "'" + s
	}
	if !strings.ContainsAny(s, "\",\r\n") {
		return append(append(b, s...), ',')
	}
	return append(append(append(b, '"'), strings.ReplaceAll(s, `"`, `""`)...), '"', ',')
}

func appendCount(b []byte, n int64) []byte { return append(strconv.AppendInt(b, n, 10), ',') }

func appendInstant(b []byte, us int64) []byte {
	return append(time.UnixMicro(us).UTC().AppendFormat(b, time.RFC3339Nano), ',')
}

// appendTotal appends a cell with a sum, which has no bound.
func appendTotal(b []byte, sum odometer.Sum) []byte {
	if n, ok := sum.Int64(); ok {
		return appendCount(b, n)
	}
	return append(append(b, sum.String()...), ',')
}

func appendTitles(b []byte, titles ...string) []byte {
	for _, t := range titles {
		b = appendText(b, t)
	}
	return b
}

// appendUsageTitles appends the names of the cells of rows that are grouped by by.
func appendUsageTitles(b []byte, by []odometer.GroupBy) []byte {
	b = appendTitles(b, "state")
	for _, g := range by {
		if bucketOf([]odometer.GroupBy{g}) != odometer.ByNothing {
			g = "start"
		}
		b = appendTitles(b, string(g))
	}
	for q := range amounts {
		b = appendTitles(b, odometer.Quantity(q).String())
	}
	return appendTitles(b, "measured_us", "estimated_us", "recovered_us", "gap_us", "age_s")
}

// appendCSV appends the row's cells; the times are those of time_us.
func (r *Row) appendCSV(b []byte) []byte {
	for _, g := range r.By {
		switch g {
		case odometer.ByInstance:
			b = appendText(b, string(r.Instance))
		case odometer.ByUser:
			b = appendText(b, string(r.User))
		case odometer.ByOrg:
			b = appendText(b, string(r.Org))
		default:
			b = appendInstant(b, r.Start)
		}
	}
	for q := range amounts {
		if r.Known.Has(odometer.Quantity(q)) {
			b = appendTotal(b, r.Totals[q])
		} else {
			b = append(b, ',')
		}
	}
	for _, sum := range []odometer.Sum{r.Totals[odometer.MeasuredTime], r.Totals[odometer.EstimatedTime], r.Recovered, r.Totals[odometer.GapTime]} {
		b = appendTotal(b, sum)
	}
	if r.Age == nil {
		return append(b, ',')
	}
	return appendCount(b, *r.Age)
}

// appendEntryTitles appends the names of the cells of entries.
func appendEntryTitles(b []byte) []byte {
	b = appendTitles(b, "entry_id", "kind", "booked_at", "instance_id", "user_id", "org_id", "agent_id", "used_from", "used_until", "cause", "source_event_id")
	for q := range odometer.Quantities {
		b = appendTitles(b, odometer.Quantity(q).String())
	}
	return b
}

// appendEntry appends an entry's cells.
func appendEntry(b []byte, e *odometer.Entry) []byte {
	ev := &e.Event
	b = appendTitles(b, e.ID.String(), string(e.Kind))
	b = appendInstant(b, e.BookedAt)
	b = appendTitles(b, string(ev.Instance), string(ev.Owner.User), string(ev.Owner.Org), string(ev.Agent))
	b = appendInstant(b, ev.Span.Start)
	b = appendInstant(b, ev.Span.End)
	b = appendTitles(b, e.Cause, e.SourceEventID)
	for q, n := range ev.Usage.Vector {
		if ev.Usage.Known.Has(odometer.Quantity(q)) {
			b = appendCount(b, n)
		} else {
			b = append(b, ',')
		}
	}
	return b
}
