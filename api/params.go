package api

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

// ParseTime reads a time as people and programs write it:
//
//   - RFC 3339 with or without a fraction: 2026-01-02T15:04:05Z
//   - a day, which begins at midnight UTC: 2026-01-02
//   - now
//   - relative to now: -24h, -90m, -7d, -2w, -1d12h, +5m; "now" may precede it
//
// The result is in UTC, whole microseconds, from 1970 to 9999. The error wraps
// [odometer.ErrInvalid].
func ParseTime(s string, now time.Time) (time.Time, error) {
	t, err := parseTime(s, now)
	if err != nil {
		return time.Time{}, err
	}
	t = t.UTC().Truncate(time.Microsecond)
	if t.Year() < 1970 || t.Year() > 9999 {
		return time.Time{}, fmt.Errorf("time %q is outside the years 1970 to 9999: %w", clip(s), odometer.ErrInvalid)
	}
	return t, nil
}

func parseTime(s string, now time.Time) (time.Time, error) {
	if t, err := time.Parse(time.RFC3339Nano, s); err == nil {
		return t, nil
	}
	if t, err := time.Parse(time.DateOnly, s); err == nil {
		return t, nil
	}
	if s == "now" {
		return now, nil
	}
	if d, ok := parseRelative(strings.TrimPrefix(s, "now")); ok {
		return now.Add(d), nil
	}
	hint := ""
	if strings.Contains(s, " ") {
		hint = " (in a URL a + is written %2B)"
	}
	return time.Time{}, fmt.Errorf("time %q is neither RFC 3339, such as 2026-01-02T15:04:05Z, nor relative, such as -24h or -7d%s: %w",
		clip(s), hint, odometer.ErrInvalid)
}

// parseRelative reads a sign, then weeks, days and whatever time.ParseDuration
// takes, in this order.
func parseRelative(s string) (time.Duration, bool) {
	if len(s) < 2 || s[0] != '-' && s[0] != '+' {
		return 0, false
	}
	sign, rest := s[0], s[1:]
	var total time.Duration
	for _, unit := range []struct {
		suffix string
		length time.Duration
	}{{"w", 7 * 24 * time.Hour}, {"d", 24 * time.Hour}} {
		digits, after, found := strings.Cut(rest, unit.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 31)
		if err != nil || time.Duration(n) > (1<<62)/unit.length {
			return 0, false
		}
		total += time.Duration(n) * unit.length
		rest = after
	}
	if rest != "" {
		if rest[0] == '-' || rest[0] == '+' {
			return 0, false
		}
		d, err := time.ParseDuration(rest)
		if err != nil || total+d < total {
			return 0, false
		}
		total += d
	}
	if total < 0 {
		return 0, false
	}
	if sign == '-' {
		total = -total
	}
	return total, true
}

// clip shortens what a client sent for an error message.
func clip(s string) string {
	if len(s) > 64 {
		return s[:61] + "..."
	}
	return s
}

// query has the parameters of one request, read by what its route declares, and
// remembers everything that is wrong with them.
type query struct {
	declared []*parameter
	values   []value // of declared, in their order
	now      time.Time
	cursors  *cursors // nil where there are none
	errs     []error
}

// value is one parameter of a request.
type value struct {
	text   string // "" where it is absent or empty
	number int64  // of a number; its standard where it is absent
	micros int64  // of a moment
	there  bool   // it is given, be it empty
}

// readQuery reads what r has of the declared parameters. One that is not
// declared is wrong, as is one that is given twice, or a cursor of somebody else.
func readQuery(declared []*parameter, r *http.Request, now time.Time, cursors *cursors) *query {
	q := &query{declared: declared, values: make([]value, len(declared)), now: now, cursors: cursors}
	var given url.Values
	if r.URL.RawQuery != "" {
		var err error
		if given, err = url.ParseQuery(r.URL.RawQuery); err != nil {
			q.errs = append(q.errs, FieldError{"query", "?", "the query is not well formed: " + err.Error()})
		}
	}
	for i, p := range declared {
		v := &q.values[i]
		v.number = p.standard
		switch p.in {
		case inHeader:
			continue
		case inPath:
			v.text, v.there = r.PathValue(p.name), true
			q.read(p, v)
			continue
		}
		switch list := given[p.name]; len(list) {
		case 0:
		case 1:
			v.text, v.there = list[0], true
			if v.text != "" && p.kind != asFlag {
				q.read(p, v)
			}
		default:
			q.fail(p.name, "is given %d times", len(list))
		}
	}
	q.openCursors()
	q.unknown(given)
	return q
}

// read reads the parameter's text.
func (q *query) read(p *parameter, v *value) {
	wrong := func(format string, args ...any) {
		q.errs = append(q.errs, FieldError{p.in.String(), p.name, fmt.Sprintf(format, args...)})
	}
	switch p.kind {
	case asNumber:
		n, err := strconv.ParseInt(v.text, 10, 64)
		switch {
		case err == nil && n >= p.least && n <= p.most:
			v.number = n
		case p.most == anyNumber:
			wrong("%q is not a whole number from %d on", clip(v.text), p.least)
		default:
			wrong("%q is not a whole number from %d to %d", clip(v.text), p.least, p.most)
		}
	case asMoment:
		t, err := ParseTime(v.text, q.now)
		if err != nil {
			wrong("%s", reason(err))
		}
		v.micros = t.UnixMicro()
	case asWord:
		if !slices.Contains(p.words, v.text) {
			wrong("%q is none of %s", clip(v.text), p.choices())
		}
	case asWords:
		for at, w := range listed(v.text) {
			switch {
			case !slices.Contains(p.words, w):
				wrong("%q is none of %s", clip(w), p.choices())
			case slices.Contains(listed(v.text)[:at], w):
				wrong("has %s twice", w)
			}
		}
	case asText, asCursor:
		if p.valid == nil && int64(len(v.text)) > p.most {
			wrong("is longer than %d bytes", p.most)
		}
	}
	if p.valid != nil {
		if err := p.valid(v.text); err != nil {
			wrong("%s", reason(err))
		}
	}
}

// listed returns what commas separate. More than maxListed of it come as one, which
// is then none of the words.
func listed(text string) []string {
	if strings.Count(text, ",") >= maxListed {
		return []string{text}
	}
	words := strings.Split(text, ",")
	for i := range words {
		words[i] = strings.TrimSpace(words[i])
	}
	return words
}

// maxListed bounds the work that a list makes, which compares each with each.
const maxListed = 64

// unknown refuses each parameter that is not declared.
func (q *query) unknown(given url.Values) {
	var unknown []string
	for name := range given {
		if !slices.ContainsFunc(q.declared, func(p *parameter) bool { return p.in == inQuery && p.name == name }) {
			unknown = append(unknown, name)
		}
	}
	if unknown == nil {
		return
	}
	var names []string
	for _, p := range q.declared {
		if p.in == inQuery {
			names = append(names, p.name)
		}
	}
	known := "there are none here"
	if len(names) > 0 {
		slices.Sort(names)
		known = "known are " + strings.Join(names, ", ")
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		q.fail(clip(name), "is not a known parameter; %s", known)
	}
}

// fail remembers what is wrong with a parameter of the query.
func (q *query) fail(name, format string, args ...any) {
	q.errs = append(q.errs, FieldError{"query", name, fmt.Sprintf(format, args...)})
}

// value returns what the request has of a parameter, which the route must have
// declared: who reads another makes a mistake in the program.
func (q *query) value(name string) *value {
	for i, p := range q.declared {
		if p.name == name {
			return &q.values[i]
		}
	}
	panic("the parameter " + name + " is read and not declared")
}

// text returns the parameter's text, "" where it is absent or empty.
func (q *query) text(name string) string { return q.value(name).text }

// has reports whether the parameter is given.
func (q *query) has(name string) bool { return q.value(name).there }

// number returns the parameter's number, or its standard where it is absent.
func (q *query) number(name string) int64 { return q.value(name).number }

// limit returns how much of a page is asked for.
func (q *query) limit() int { return int(q.number(limitParam.name)) }

// words returns what the parameter lists, nothing where it is absent.
func (q *query) words(name string) []string {
	if s := q.text(name); s != "" {
		return listed(s)
	}
	return nil
}

// time returns the parameter's value in microseconds, or standard where absent.
func (q *query) time(name string, standard int64) int64 {
	if v := q.value(name); v.text != "" {
		return v.micros
	}
	return standard
}

// span returns the parameters from and to. Where `to` is absent it is now,
// where `from` is absent it is `length` before `to`.
func (q *query) span(length time.Duration) (from, to int64) {
	to = q.time("to", q.now.UnixMicro())
	from = q.time("from", max(0, to-length.Microseconds()))
	if len(q.errs) == 0 {
		q.inOrder(from, to)
	}
	return from, to
}

// zone returns the time zone that the request names, nil for UTC.
func (q *query) zone() *time.Location {
	name := q.text(zoneParam.name)
	if name == "" {
		return nil
	}
	zone, _ := odometer.LoadZone(name) // which the parameter's valid has done
	if zone == time.UTC {
		return nil
	}
	return zone
}

// spanIn is span in the time zone that the request names: there a day without a time
// begins.
func (q *query) spanIn(length time.Duration) (from, to int64, zone *time.Location) {
	if zone = q.zone(); zone != nil {
		for _, name := range []string{"from", "to"} {
			v := q.value(name)
			if t, err := time.Parse(time.DateOnly, v.text); err == nil {
				v.micros = odometer.Midnight(t.Year(), t.Month(), t.Day(), zone).UnixMicro()
			}
		}
	}
	from, to = q.span(length)
	return from, to, zone
}

// maxSpan is the longest time that may be asked for: longer than anything is kept.
const maxSpan = 200 * 366 * 24 * time.Hour

// inOrder refuses a time that does not end after it begins, or has no end.
func (q *query) inOrder(from, to int64) {
	switch {
	case from >= to:
		q.fail("to", "must be later than from: from is %s, to is %s", formatMicros(from), formatMicros(to))
	case to-from > maxSpan.Microseconds():
		q.fail("to", "must be within %d days of from: from is %s, to is %s", maxSpan/(24*time.Hour), formatMicros(from), formatMicros(to))
	}
}

// done returns all that is wrong, joined, or nil.
func (q *query) done() error { return join(q.errs...) }

type queryKey struct{}

// queryOf returns the parameters of a request that the router has read. Unless
// the route takes a body, nothing is wrong with them so far.
func queryOf(r *http.Request) *query {
	return r.Context().Value(queryKey{}).(*query)
}

// reason returns err's text without the kind at its end.
func reason(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+odometer.ErrInvalid.Error())
}

// formatMicros returns a time as the API writes it: RFC 3339, UTC.
func formatMicros(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339Nano) }
