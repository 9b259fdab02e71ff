package api

import (
	"cmp"
	"fmt"
	"net/http"
	"slices"
	"time"

	"example.org/odometer"
)

// UsageAnswer is the body of GET /api/v1/usage.
type UsageAnswer struct {
	From    time.Time          `json:"from"`
	To      time.Time          `json:"to"`
	GroupBy []odometer.GroupBy `json:"group_by"`
	Rows    []Row              `json:"rows"`                        // what is recorded
	Open    []Row              `json:"open" schema:"items=OpenRow"` // what is still open and not part of rows, grouped alike
}

// CurrentAnswer is the body of GET /api/v1/usage/instances/{id}/current.
type CurrentAnswer struct {
	Instance odometer.InstanceID `json:"instance_id"`
	At       time.Time           `json:"at"`
	Open     []Row               `json:"open" schema:"items=OpenPeriod"` // one row for each period that is open now
	Hour     Row                 `json:"this_hour"`                      // what is recorded of this UTC hour so far
	Day      Row                 `json:"today"`                          // what is recorded of this UTC day so far
}

// HistoryAnswer is the body of GET /api/v1/usage/instances/{id}/history: one
// row for each interval in which something is recorded.
type HistoryAnswer struct {
	Instance odometer.InstanceID `json:"instance_id"`
	From     time.Time           `json:"from"`
	To       time.Time           `json:"to"`
	Interval odometer.GroupBy    `json:"interval" schema:"enum=hour|day|month"`
	Rows     []Row               `json:"rows"`                        // what is recorded
	Open     []Row               `json:"open" schema:"items=OpenRow"` // what is still open and not part of rows, grouped alike
}

// What is shown when no time is asked for, by interval of the history.
var defaultSpan = map[odometer.GroupBy]time.Duration{
	odometer.ByNothing: 24 * time.Hour,
	odometer.ByHour:    24 * time.Hour,
	odometer.ByDay:     30 * 24 * time.Hour,
	odometer.ByMonth:   365 * 24 * time.Hour,
}

// absent is the error of a route whose part this process does not have.
func absent(what string) error {
	return fmt.Errorf("this process has no %s: %w", what, odometer.ErrNotFound)
}

func (s *server) usageRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/usage", access: reader, handle: s.getUsage,
			id: "usage", tag: "usage", summary: "Recorded usage, and what is still open",
			description: "By time of use, or by month of booking: what was booked for a month after it was closed is then in the month in which it was booked, " +
				"and months are asked for as a whole, without open amounts. Without `from`: the 24 hours before `to`, and by booking this month.",
			params: []*parameter{
				fromParam, toParam, instanceParam, userParam, orgParam,
				{
					name: "group_by", kind: asWords, words: []string{"instance", "user", "org", "hour", "day", "month"}, valid: oneBucket, example: "instance,day",
					description: "what the rows are of, separated by commas; of hour, day and month one",
				},
				{name: "top", kind: asNumber, least: 1, most: mostTop, example: "10", description: "only so many rows, those with the most of `top_by`, in that order"},
				{name: "top_by", kind: asWord, words: quantities(), example: "cpu_us", description: "with `top`: the quantity that counts; `cpu_us` without"},
				byParam, asOfParam,
			},
			replies: []reply{answers(http.StatusOK, "Rows of recorded usage; the open amounts apart.", UsageAnswer{})}, fails: missing,
		},
		{
			pattern: "GET /api/v1/usage/instances/{id}/current", access: reader, handle: s.getCurrent,
			id: "current", tag: "usage", summary: "The open periods of an instance, and this hour and day",
			description: "The open periods are not part of this_hour and today.",
			params:      []*parameter{instancePath},
			replies:     []reply{answers(http.StatusOK, "What it uses now.", CurrentAnswer{})}, fails: missing,
		},
		{
			pattern: "GET /api/v1/usage/instances/{id}/history", access: reader, handle: s.getHistory,
			id: "history", tag: "usage", summary: "Usage of an instance by hour, day or month",
			description: "Without `from`: 24 hours, 30 days or 365 days before `to`, by interval.",
			params: []*parameter{
				instancePath, fromParam, toParam,
				{name: "interval", kind: asWord, words: []string{"hour", "day", "month"}, example: "day", description: "length of a row's time, in UTC; hour where absent"},
			},
			replies: []reply{answers(http.StatusOK, "One row for each interval with usage.", HistoryAnswer{})}, fails: missing,
		},
	}
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
	now := p.now
	q := odometer.UsageQuery{
		Instance: odometer.InstanceID(p.text("instance")),
		User:     odometer.UserID(p.text("user")),
		Org:      odometer.OrgID(p.text("org")),
		GroupBy:  p.groups(),
	}
	q.From, q.To = p.span(defaultSpan[odometer.ByNothing])
	q.Top, q.TopBy = p.top()
	p.booked(&q)
	if err := p.done(); err != nil {
		return err
	}
	rows, open, err := s.usage(r, q, now)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, UsageAnswer{
		From: instant(q.From), To: instant(q.To), GroupBy: q.GroupBy, Rows: rows, Open: open,
	})
}

func (s *server) getHistory(w http.ResponseWriter, r *http.Request) error {
	if s.Usage == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	now := p.now
	instance := odometer.InstanceID(p.text("id"))
	interval := odometer.ByHour
	if text := p.text("interval"); text != "" {
		interval = odometer.GroupBy(text)
	}
	q := odometer.UsageQuery{Instance: instance, GroupBy: []odometer.GroupBy{interval}}
	q.From, q.To = p.span(defaultSpan[interval])
	if err := p.done(); err != nil {
		return err
	}
	rows, open, err := s.usage(r, q, now)
	if err != nil {
		return err
	}
	if len(rows) == 0 && len(open) == 0 {
		if err := s.known(r, instance, now); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, HistoryAnswer{
		Instance: instance, From: instant(q.From), To: instant(q.To), Interval: interval, Rows: rows, Open: open,
	})
}

func (s *server) getCurrent(w http.ResponseWriter, r *http.Request) error {
	if s.Usage == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	now := p.now
	instance := odometer.InstanceID(p.text("id"))
	answer := CurrentAnswer{Instance: instance, At: instant(now.UnixMicro())}
	for bucket, row := range map[odometer.GroupBy]*Row{odometer.ByHour: &answer.Hour, odometer.ByDay: &answer.Day} {
		from := startOf(bucket, now.UnixMicro())
		rows, err := s.Usage.Usage(r.Context(), seen(r), odometer.UsageQuery{From: from, To: nextAfter(bucket, from), Instance: instance})
		if err != nil {
			return fmt.Errorf("read usage of %s: %w", instance, err)
		}
		if len(rows) > 0 {
			row.UsageRow = rows[0]
		}
	}
	// The open periods are read after what is recorded: one that closes in
	// between is then missing for a moment instead of being counted twice.
	if s.Live != nil {
		answer.Open = openPeriods(s.Live.Open(seen(r), instance), now)
	} else {
		answer.Open = []Row{}
	}
	if len(answer.Open) == 0 && answer.Day.Known == 0 {
		if err := s.known(r, instance, now); err != nil {
			return err
		}
	}
	return writeJSON(w, http.StatusOK, answer)
}

// usage returns what is recorded and what is open for q.
func (s *server) usage(r *http.Request, q odometer.UsageQuery, now time.Time) (rows, open []Row, err error) {
	recorded, err := s.Usage.Usage(r.Context(), seen(r), q)
	if err != nil {
		return nil, nil, fmt.Errorf("read usage: %w", err)
	}
	rows = make([]Row, len(recorded))
	for i, row := range recorded {
		rows[i] = Row{UsageRow: row, By: q.GroupBy}
	}
	open = []Row{}
	if s.Live != nil && !q.Booked && q.AsOf == 0 { // after what is recorded, as in getCurrent
		open = openRows(s.Live.Open(seen(r), q.Instance), q, now)
	}
	if q.Top != 0 { // of those alone
		open = slices.DeleteFunc(open, func(o Row) bool {
			return !slices.ContainsFunc(rows, func(r Row) bool {
				return r.Instance == o.Instance && r.User == o.User && r.Org == o.Org && r.Start == o.Start
			})
		})
	}
	return rows, open, nil
}

// known returns an error wrapping ErrNotFound when nothing was ever recorded
// of the instance that the caller sees.
func (s *server) known(r *http.Request, instance odometer.InstanceID, now time.Time) error {
	rows, err := s.Usage.Usage(r.Context(), seen(r), odometer.UsageQuery{
		To: now.UnixMicro() + odometer.DayMicros, Instance: instance, GroupBy: []odometer.GroupBy{odometer.ByInstance},
	})
	if err != nil {
		return fmt.Errorf("read usage of %s: %w", instance, err)
	}
	if len(rows) == 0 {
		return fmt.Errorf("instance %s has no usage, recorded or open: %w", instance, odometer.ErrNotFound)
	}
	return nil
}

// groups returns what is grouped by.
func (q *query) groups() []odometer.GroupBy {
	by := []odometer.GroupBy{}
	for _, word := range q.words("group_by") {
		by = append(by, odometer.GroupBy(word))
	}
	return by
}

// oneBucket returns nil where of hour, day and month no more than one is named.
func oneBucket(words string) error {
	var had odometer.GroupBy
	for _, word := range listed(words) {
		g := bucketOf([]odometer.GroupBy{odometer.GroupBy(word)})
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
