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

// entryColumns calls each for every column of entries: its title, and what appends an
// entry's cell. Of fields, which are members of an entry, those that are named, nil for
// all.
func entryColumns(fields []string, each func(title string, cell func(b []byte, e *odometer.Entry) []byte)) {
	column := func(member, title string, cell func(b []byte, e *odometer.Entry) []byte) {
		if fields == nil || slices.Contains(fields, member) {
			each(title, cell)
		}
	}
	text := func(member string, of func(e *odometer.Entry) string) {
		column(member, member, func(b []byte, e *odometer.Entry) []byte { return appendText(b, of(e)) })
	}
	text("entry_id", func(e *odometer.Entry) string { return e.ID.String() })
	text("kind", func(e *odometer.Entry) string { return string(e.Kind) })
	column("booked_at", "booked_at", func(b []byte, e *odometer.Entry) []byte { return appendInstant(b, e.BookedAt) })
	text("instance_id", func(e *odometer.Entry) string { return string(e.Event.Instance) })
	text("user_id", func(e *odometer.Entry) string { return string(e.Event.Owner.User) })
	text("org_id", func(e *odometer.Entry) string { return string(e.Event.Owner.Org) })
	text("agent_id", func(e *odometer.Entry) string { return string(e.Event.Agent) })
	column("span", "used_from", func(b []byte, e *odometer.Entry) []byte { return appendInstant(b, e.Event.Span.Start) })
	column("span", "used_until", func(b []byte, e *odometer.Entry) []byte { return appendInstant(b, e.Event.Span.End) })
	text("cause", func(e *odometer.Entry) string { return e.Cause })
	text("source_event_id", func(e *odometer.Entry) string { return e.SourceEventID })
	for n := range odometer.Quantities {
		q := odometer.Quantity(n)
		column("usage", q.String(), func(b []byte, e *odometer.Entry) []byte {
			if !e.Event.Usage.Known.Has(q) {
				return append(b, ',')
			}
			return appendCount(b, e.Event.Usage.Vector[q])
		})
	}
}
