package api

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"example.org/odometer"
)

// UsageAnswer is the body of GET /api/v1/usage.
type UsageAnswer struct {
	From     time.Time          `json:"from"`
	To       time.Time          `json:"to"`
	GroupBy  []odometer.GroupBy `json:"group_by"`
	Interval Interval           `json:"interval"`
	Timezone string             `json:"timezone"`                    // where days and months begin
	Rows     []Row              `json:"rows"`                        // what is recorded
	Open     []Row              `json:"open" schema:"items=OpenRow"` // what is still open and not part of rows, grouped alike
}

// Interval is the length of the time that a row is of.
type Interval string

const (
	IntervalHour  Interval = "hour"
	IntervalDay   Interval = "day"
	IntervalMonth Interval = "month"
	IntervalTotal Interval = "total" // all of the time that is asked for
)

// What is shown when no time is asked for, by interval of the history.
var defaultSpan = map[odometer.GroupBy]time.Duration{
	odometer.ByNothing: 24 * time.Hour,
	odometer.ByHour:    24 * time.Hour,
	odometer.ByDay:     30 * 24 * time.Hour,
	odometer.ByMonth:   365 * 24 * time.Hour,
}

// mostRows is how many rows an answer may have: a hundred megabytes of them. What is
// more is asked for in parts.
const mostRows = 250_000

// mostRanked is how many may be looked at for those with the most: a million
// instances.
const mostRanked = 1_000_000

// absent is the error of a route whose part this process does not have.
func absent(what string) error {
	return fmt.Errorf("this process has no %s: %w", what, odometer.ErrNotFound)
}

// Parameters of routes about usage.
var (
	groupByParam = &parameter{
		name: "group_by", kind: asWords, words: []string{"instance", "user", "org", "hour", "day", "month"}, valid: oneBucket, example: "instance,day",
		description: "what the rows are of, separated by commas; of hour, day and month one",
	}
	usageSort   = sortParam("UsageSort", "-cpu_us,instance", rowSortKeys)
	usageFields = fieldsParam("UsageFields", "instance,start,cpu_us", rowFields)
)

func (s *server) usageRoutes() []route {
	return slices.Concat([]route{
		{
			pattern: "GET /api/v1/usage", access: reader, handle: s.getUsage,
			id: "usage", tag: "usage", summary: "Recorded usage, and what is still open",
			description: "By time of use. Without `from`: the 24 hours before `to`. An hour (UTC) that a midnight of the time zone cuts is shared by time, and what has a part of it is marked as `apportioned`; the rows of an answer still add up to the unit. " +
				fmt.Sprintf("An answer has %d rows at most. ", mostRows) + byBooking,
			params: []*parameter{
				fromParam, toParam, instanceParam, userParam, orgParam, groupByParam,
				{
					name: "interval", component: "UsageInterval", kind: asWord, words: []string{"hour", "day", "month", "total"}, example: "day",
					description: "length of a row's time, as in `group_by`, where it may stand as well; all of it where it is absent",
				},
				zoneParam,
				{name: "top", kind: asNumber, least: 1, most: mostTop, example: "10", description: "only so many rows, those with the most of `top_by`, in that order"},
				{name: "top_by", kind: asWord, words: quantities(), example: "cpu_us", description: "with `top`: the quantity that counts; `cpu_us` without"},
				usageSort, usageFields, byParam, asOfParam, formatParam, matchParam,
			},
			replies: append([]reply{{http.StatusOK, "Rows of recorded usage; the open amounts apart.", []header{attached, etagHeader},
				append([]content{{odometer.ContentJSON, UsageAnswer{}}}, exported...)}}, cacheable...), fails: missing,
		},
	}, s.ownUsageRoutes(), s.topRoutes())
}

// quantities are the wire names of all that is counted.
func quantities() []string {
	names := make([]string, odometer.Quantities)
	for q := range names {
		names[q] = odometer.Quantity(q).String()
	}
	return names
}

func (s *server) getUsage(w http.ResponseWriter, r *http.Request) error {
	if s.Usage == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	q := odometer.UsageQuery{
		Instance: odometer.InstanceID(p.text("instance")),
		User:     odometer.UserID(p.text("user")),
		Org:      odometer.OrgID(p.text("org")),
		GroupBy:  p.groups(),
	}
	q.From, q.To, q.Zone = p.spanIn(defaultSpan[odometer.ByNothing])
	q.Top, q.TopBy = p.top()
	p.booked(&q)
	if err := p.done(); err != nil {
		return err
	}
	w.Header().Add("Vary", "Accept")
	f := formOf(r)
	e := s.edition(r, q.From, q.To, f)
	if q.Booked || q.AsOf != 0 { // what is booked at any time changes these
		e.revision = ""
	}
	if e.had(w, func() []Row { return s.openOf(r, q, p.now) }) {
		return nil
	}
	if f != asDocument {
		return s.exportUsage(w, r, q, e, f)
	}
	rows, open, err := s.usage(r, q, p.now)
	if err != nil {
		return err
	}
	e.set(w, open)
	words := p.words("sort")
	rowKeys.sort(rows, words)
	rowKeys.sort(open, words)
	return writeList(w, r, UsageAnswer{
		From: instant(q.From), To: instant(q.To), GroupBy: q.GroupBy, Interval: intervalOf(q.GroupBy), Timezone: zoneName(q.Zone), Rows: rows, Open: open,
	}, "rows", "open")
}

// intervalOf returns the length of a row's time.
func intervalOf(by []odometer.GroupBy) Interval {
	return cmp.Or(Interval(odometer.CalendarOf(by, nil).By), IntervalTotal)
}

// zoneName returns a zone's name; UTC for nil.
func zoneName(zone *time.Location) string {
	if zone == nil {
		return time.UTC.String()
	}
	return zone.String()
}

// usage returns what is recorded and what is open for q.
func (s *server) usage(r *http.Request, q odometer.UsageQuery, now time.Time) (rows, open []Row, err error) {
	if rows, err = s.recorded(r, q); err != nil {
		return nil, nil, err
	}
	open = s.openOf(r, q, now) // after what is recorded, as in getCurrent
	if q.Top != 0 {            // of those alone
		open = slices.DeleteFunc(open, func(o Row) bool {
			return !slices.ContainsFunc(rows, func(r Row) bool {
				return r.Instance == o.Instance && r.User == o.User && r.Org == o.Org && r.Start == o.Start
			})
		})
	}
	return rows, open, nil
}

// recorded returns the rows that are recorded, as many as may be answered.
func (s *server) recorded(r *http.Request, q odometer.UsageQuery) ([]Row, error) {
	q.Most = mostRows
	if q.Top != 0 {
		q.Most = mostRanked
	}
	recorded, err := s.Usage.Usage(r.Context(), seen(r), q)
	switch {
	case errors.Is(err, odometer.ErrTooManyRows):
		return nil, FieldError{"query", "from", fmt.Sprintf("the answer would have more than %d rows: ask for less time, longer intervals, or less at once", q.Most)}
	case err != nil:
		return nil, fmt.Errorf("read usage: %w", err)
	}
	rows := make([]Row, len(recorded))
	for i, row := range recorded {
		rows[i] = Row{UsageRow: row, By: q.GroupBy, Zone: q.Zone}
	}
	return rows, nil
}

// groups returns what is grouped by, the interval among it.
func (q *query) groups() []odometer.GroupBy {
	by := []odometer.GroupBy{}
	for _, word := range q.words("group_by") {
		by = append(by, odometer.GroupBy(word))
	}
	switch had, interval := odometer.CalendarOf(by, nil).By, Interval(q.text("interval")); {
	case interval == "" || interval == Interval(had):
	case had != odometer.ByNothing:
		q.fail("interval", "is %s, and group_by has %s; choose one", interval, had)
	case interval != IntervalTotal:
		by = append(by, odometer.GroupBy(interval))
	}
	return by
}

// oneBucket returns nil where of hour, day and month no more than one is named.
func oneBucket(words string) error {
	var had odometer.GroupBy
	for _, word := range listed(words) {
		g := odometer.CalendarOf([]odometer.GroupBy{odometer.GroupBy(word)}, nil).By
		if g != odometer.ByNothing && had != odometer.ByNothing && g != had {
			return fmt.Errorf("has both %s and %s; choose one: %w", had, g, odometer.ErrInvalid)
		}
		had = cmp.Or(g, had)
	}
	return nil
}

// mostTop is how many rows may be asked for by what they have most of: what a
// person reads.
const mostTop = 1000

// top returns how many rows are wanted, 0 for all, and what they shall have most
// of.
func (q *query) top() (int, odometer.Quantity) {
	top, name := int(q.number("top")), q.text("top_by")
	if name == "" {
		return top, odometer.CPU
	}
	if top == 0 {
		q.fail("top_by", "says nothing without top")
	}
	by, _ := odometer.QuantityOf(name) // as the parameter's words have it
	return top, by
}

// instant returns a time of the API's answers.
func instant(us int64) time.Time { return time.UnixMicro(us).UTC() }

// rowFields are the members that a [Row] may have.
var rowFields = slices.Concat([]string{"instance", "user", "org", "start"}, quantities()[:amounts],
	[]string{"measured_s", "recovered_s", "estimated_s", "gap_s", "time_us", "apportioned", "age_s"})

// rowSortKeys are what rows may be sorted by.
var rowSortKeys = slices.Concat([]string{"instance", "user", "org", "start"}, quantities()[:amounts], []string{"measured_s", "recovered_s", "estimated_s", "gap_s"})

var rowKeys = func() keysOf[Row] {
	keys := keysOf[Row]{
		"instance": func(r *Row) sortKey { return sortKey{text: string(r.Instance)} },
		"user":     func(r *Row) sortKey { return sortKey{text: string(r.User)} },
		"org":      func(r *Row) sortKey { return sortKey{text: string(r.Org), unknown: r.Org == ""} },
		"start":    func(r *Row) sortKey { return sortKey{sum: odometer.SumOf(r.Start)} },
		"measured_s": func(r *Row) sortKey {
			seen := r.Totals[odometer.MeasuredTime]
			seen.AddSum(r.Totals[odometer.EstimatedTime])
			seen.SubSum(r.Recovered)
			return sortKey{sum: seen}
		},
		"recovered_s": func(r *Row) sortKey { return sortKey{sum: r.Recovered} },
		"estimated_s": func(r *Row) sortKey { return sortKey{sum: r.Totals[odometer.EstimatedTime]} },
		"gap_s":       func(r *Row) sortKey { return sortKey{sum: r.Totals[odometer.GapTime]} },
	}
	for n := range amounts {
		q := odometer.Quantity(n)
		keys[q.String()] = func(r *Row) sortKey { return sortKey{sum: r.Totals[q], unknown: !r.Known.Has(q)} }
	}
	return keys
}()
