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

// query reads a request's parameters and remembers everything that is wrong
// with them. A parameter that nobody reads is unknown.
type query struct {
	values url.Values
	read   []string
	now    time.Time
	errs   []error
}

func queryOf(r *http.Request, now time.Time) *query {
	values, err := url.ParseQuery(r.URL.RawQuery)
	q := &query{values: values, now: now}
	if err != nil {
		q.errs = append(q.errs, FieldError{"query", "?", "the query is not well formed: " + err.Error()})
	}
	return q
}

func (q *query) fail(name, format string, args ...any) {
	q.errs = append(q.errs, FieldError{"query", name, fmt.Sprintf(format, args...)})
}

// text returns the parameter's value, "" where it is absent or empty.
func (q *query) text(name string) string {
	q.read = append(q.read, name)
	switch v := q.values[name]; len(v) {
	case 0:
		return ""
	case 1:
		return v[0]
	default:
		q.fail(name, "is given %d times", len(v))
		return ""
	}
}

// id returns the parameter's value, which must be an identifier where it is
// there.
func (q *query) id(name string) string {
	s := q.text(name)
	if s == "" {
		return ""
	}
	if err := odometer.ValidID(name, s); err != nil {
		q.fail(name, "%s", reason(err))
		return ""
	}
	return s
}

// time returns the parameter's value in microseconds, or def where absent.
func (q *query) time(name string, def int64) int64 {
	s := q.text(name)
	if s == "" {
		return def
	}
	t, err := ParseTime(s, q.now)
	if err != nil {
		q.fail(name, "%s", reason(err))
		return def
	}
	return t.UnixMicro()
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

// inOrder refuses a time that does not end after it begins.
func (q *query) inOrder(from, to int64) {
	if from >= to {
		q.fail("to", "must be later than from: from is %s, to is %s", formatMicros(from), formatMicros(to))
	}
}

// number returns the parameter's value, which must lie in [1, most], or def
// where it is absent.
func (q *query) number(name string, def, most int) int {
	s := q.text(name)
	if s == "" {
		return def
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 || n > most {
		q.fail(name, "%q is not a whole number from 1 to %d", clip(s), most)
		return def
	}
	return n
}

// done returns all that is wrong, joined, or nil.
func (q *query) done() error {
	var unknown []string
	for name := range q.values {
		if !slices.Contains(q.read, name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	slices.Sort(q.read)
	for _, name := range unknown {
		known := "there are none here"
		if len(q.read) > 0 {
			known = "known are " + strings.Join(q.read, ", ")
		}
		q.fail(clip(name), "is not a known parameter; %s", known)
	}
	return join(q.errs...)
}

// reason returns err's text without the kind at its end.
func reason(err error) string {
	return strings.TrimSuffix(err.Error(), ": "+odometer.ErrInvalid.Error())
}

// formatMicros returns a time as the API writes it: RFC 3339, UTC.
func formatMicros(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339Nano) }
