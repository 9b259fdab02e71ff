package api

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// UsageAnswer is the body of GET /api/v1/usage. Rows is what is recorded, Open
// what is still open and not part of Rows, grouped alike.
type UsageAnswer struct {
	From    time.Time          `json:"from"`
	To      time.Time          `json:"to"`
	GroupBy []odometer.GroupBy `json:"group_by"`
	Rows    []Row              `json:"rows"`
	Open    []Row              `json:"open"`
}

// CurrentAnswer is the body of GET /api/v1/usage/instances/{id}/current. Open
// has one row for each period that is open now; Hour and Day are what is
// recorded of this UTC hour and day so far.
type CurrentAnswer struct {
	Instance odometer.InstanceID `json:"instance_id"`
	At       time.Time           `json:"at"`
	Open     []Row               `json:"open"`
	Hour     Row                 `json:"this_hour"`
	Day      Row                 `json:"today"`
}

// HistoryAnswer is the body of GET /api/v1/usage/instances/{id}/history: one
// row for each interval in which something is recorded.
type HistoryAnswer struct {
	Instance odometer.InstanceID `json:"instance_id"`
	From     time.Time           `json:"from"`
	To       time.Time           `json:"to"`
	Interval odometer.GroupBy    `json:"interval"`
	Rows     []Row               `json:"rows"`
	Open     []Row               `json:"open"`
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

func (s *server) getUsage(w http.ResponseWriter, r *http.Request) error {
	if s.Usage == nil {
		return absent("ledger")
	}
	now := s.router.clock()
	p := queryOf(r, now)
	q := odometer.UsageQuery{
		Instance: odometer.InstanceID(p.id("instance")),
		User:     odometer.UserID(p.id("user")),
		Org:      odometer.OrgID(p.id("org")),
		GroupBy:  p.groups("group_by"),
	}
	q.From, q.To = p.span(defaultSpan[odometer.ByNothing])
	q.Top, q.TopBy = p.top()
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
	now := s.router.clock()
	p := queryOf(r, now)
	instance := p.instance(r)
	interval := odometer.ByHour
	if text := p.text("interval"); text != "" {
		interval = odometer.GroupBy(text)
		if interval != odometer.ByHour && interval != odometer.ByDay && interval != odometer.ByMonth {
			p.fail("interval", "%q is none of hour, day, month", clip(text))
		}
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
	now := s.router.clock()
	p := queryOf(r, now)
	instance := p.instance(r)
	if err := p.done(); err != nil {
		return err
	}
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
	if s.Live != nil { // after what is recorded, as in getCurrent
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

// instance returns the instance that the path names.
func (q *query) instance(r *http.Request) odometer.InstanceID {
	id := r.PathValue("id")
	if err := odometer.ValidID("instance", id); err != nil {
		q.errs = append(q.errs, FieldError{"path", "id", reason(err)})
	}
	return odometer.InstanceID(id)
}

// groups reads a list of group keys, separated by commas. Of hour, day and
// month there may be one.
func (q *query) groups(name string) []odometer.GroupBy {
	by := []odometer.GroupBy{}
	text := q.text(name)
	if text == "" {
		return by
	}
	for word := range strings.SplitSeq(text, ",") {
		g := odometer.GroupBy(strings.TrimSpace(word))
		switch g {
		case odometer.ByHour, odometer.ByDay, odometer.ByMonth:
			if other := bucketOf(by); other != odometer.ByNothing && other != g {
				q.fail(name, "has both %s and %s; choose one", other, g)
				continue
			}
		case odometer.ByInstance, odometer.ByUser, odometer.ByOrg:
		default:
			q.fail(name, "%q is none of instance, user, org, hour, day, month", clip(word))
			continue
		}
		if slices.Contains(by, g) {
			q.fail(name, "has %s twice", g)
			continue
		}
		by = append(by, g)
	}
	return by
}

// mostTop is how many rows may be asked for by what they have most of: what a
// person reads.
const mostTop = 1000

// top reads how many rows are wanted, 0 for all, and what they shall have most
// of.
func (q *query) top() (int, odometer.Quantity) {
	top := q.number("top", 0, mostTop)
	name := q.text("top_by")
	if name == "" {
		return top, odometer.CPU
	}
	by, ok := odometer.QuantityOf(name)
	if !ok {
		q.fail("top_by", "%q is no quantity, such as %s or %s", clip(name), odometer.CPU, odometer.Memory)
	} else if top == 0 {
		q.fail("top_by", "says nothing without top")
	}
	return top, by
}

// instant returns a time of the API's answers.
func instant(us int64) time.Time { return time.UnixMicro(us).UTC() }
