package api

import (
	"slices"
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

// usageColumns calls each for every column of rows that are grouped by by: its title,
// and what appends a row's cell. Of fields those that are named, nil for all.
func usageColumns(by []odometer.GroupBy, fields []string, each func(title string, cell func(b []byte, r *Row) []byte)) {
	column := func(title string, cell func(b []byte, r *Row) []byte, of ...string) {
		if fields == nil || slices.ContainsFunc(append(of, title), func(f string) bool { return slices.Contains(fields, f) }) {
			each(title, cell)
		}
	}
	for _, g := range by {
		switch g {
		case odometer.ByInstance:
			column(string(g), func(b []byte, r *Row) []byte { return appendText(b, string(r.Instance)) })
		case odometer.ByUser:
			column(string(g), func(b []byte, r *Row) []byte { return appendText(b, string(r.User)) })
		case odometer.ByOrg:
			column(string(g), func(b []byte, r *Row) []byte { return appendText(b, string(r.Org)) })
		default:
			column("start", func(b []byte, r *Row) []byte { return appendText(b, r.startText()) })
		}
	}
	for n := range amounts {
		q := odometer.Quantity(n)
		column(q.String(), func(b []byte, r *Row) []byte {
			if !r.Known.Has(q) {
				return append(b, ',')
			}
			return appendTotal(b, r.Totals[q])
		})
	}
	column("measured_us", func(b []byte, r *Row) []byte { return appendTotal(b, r.Totals[odometer.MeasuredTime]) }, "measured_s", "time_us")
	column("estimated_us", func(b []byte, r *Row) []byte { return appendTotal(b, r.Totals[odometer.EstimatedTime]) }, "estimated_s", "time_us")
	column("recovered_us", func(b []byte, r *Row) []byte { return appendTotal(b, r.Recovered) }, "recovered_s", "time_us")
	column("gap_us", func(b []byte, r *Row) []byte { return appendTotal(b, r.Totals[odometer.GapTime]) }, "gap_s", "time_us")
	column("apportioned", func(b []byte, r *Row) []byte {
		if r.Apportioned {
			b = append(b, "true"...)
		}
		return append(b, ',')
	})
	column("age_s", func(b []byte, r *Row) []byte {
		if r.Age == nil {
			return append(b, ',')
		}
		return appendCount(b, *r.Age)
	})
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
