package api

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"example.org/odometer"
)

// UsageNow is what is recorded of the hour and the day that it is.
type UsageNow struct {
	At       time.Time `json:"at"`
	Timezone string    `json:"timezone"`  // where today begins
	Hour     Row       `json:"this_hour"` // what is recorded of this UTC hour so far
	Day      Row       `json:"today"`     // what is recorded of this day so far
}

// CurrentAnswer is the body of GET /api/v1/usage/instances/{id}/current.
type CurrentAnswer struct {
	Instance odometer.InstanceID `json:"instance_id"`
	Open     []Row               `json:"open" schema:"items=OpenPeriod"` // one row for each period that is open now
	UsageNow
}

// UserCurrentAnswer is the body of GET /api/v1/usage/users/{id}/current.
type UserCurrentAnswer struct {
	User odometer.UserID `json:"user_id"`
	Open []Row           `json:"open" schema:"items=OpenRow"` // what is open now, in one row; none where nothing is
	UsageNow
}

// OrganisationCurrentAnswer is the body of GET /api/v1/usage/organizations/{id}/current.
type OrganisationCurrentAnswer struct {
	Org  odometer.OrgID `json:"org_id"`
	Open []Row          `json:"open" schema:"items=OpenRow"` // what is open now, in one row; none where nothing is
	UsageNow
}

// UsageHistory is usage by intervals: one row for each interval in which something
// is recorded.
type UsageHistory struct {
	From     time.Time `json:"from"`
	To       time.Time `json:"to"`
	Interval Interval  `json:"interval"`
	Timezone string    `json:"timezone"`                    // where days and months begin
	Rows     []Row     `json:"rows"`                        // what is recorded
	Open     []Row     `json:"open" schema:"items=OpenRow"` // what is still open and not part of rows, grouped alike
}

// HistoryAnswer is the body of GET /api/v1/usage/instances/{id}/history.
type HistoryAnswer struct {
	Instance odometer.InstanceID `json:"instance_id"`
	UsageHistory
}

// UserHistoryAnswer is the body of GET /api/v1/usage/users/{id}/history.
type UserHistoryAnswer struct {
	User odometer.UserID `json:"user_id"`
	UsageHistory
}

// OrganisationHistoryAnswer is the body of GET /api/v1/usage/organizations/{id}/history.
type OrganisationHistoryAnswer struct {
	Org odometer.OrgID `json:"org_id"`
	UsageHistory
}

// Parameters of routes about the usage of somebody, who need not have an account.
var (
	usageUserPath = &parameter{
		name: "id", in: inPath, component: "UsageUserId", most: odometer.MaxIDBytes, valid: identifier("user"), example: "ada", description: "the user",
	}
	usageOrgPath = &parameter{
		name: "id", in: inPath, component: "UsageOrganizationId", most: odometer.MaxIDBytes, valid: identifier("org"), example: "acme", description: "the organisation",
	}
	historyInterval = &parameter{
		name: "interval", kind: asWord, words: []string{"hour", "day", "month"}, example: "day", description: "length of a row's time; hour where absent",
	}
	historySort   = sortParam("HistorySort", "-start", rowSortKeys[slices.Index(rowSortKeys, "start"):])
	historyFields = fieldsParam("HistoryFields", "start,cpu_us", rowFields[slices.Index(rowFields, "start"):])
)

func (s *server) ownUsageRoutes() (list []route) {
	for _, o := range []struct {
		path, current, history, of, about string
		param                             *parameter
		subject                           func(*http.Request) subject
		now, then                         any
	}{
		{
			"instances", "current", "history", "an instance", "",
			instancePath, s.instanceSubject, CurrentAnswer{}, HistoryAnswer{},
		},
		{
			"users", "userCurrent", "userHistory", "a user", " As far as the caller sees it.",
			usageUserPath, s.userSubject, UserCurrentAnswer{}, UserHistoryAnswer{},
		},
		{
			"organizations", "organizationCurrent", "organizationHistory", "an organisation", " As far as the caller sees it: who is only a member, what is his own in it.",
			usageOrgPath, s.orgSubject, OrganisationCurrentAnswer{}, OrganisationHistoryAnswer{},
		},
	} {
		list = append(list, route{
			pattern: "GET /api/v1/usage/" + o.path + "/{id}/current", access: reader, handle: s.currentOf(o.subject),
			id: o.current, tag: "usage", summary: "What is open of " + o.of + ", and this hour and day",
			description: "What is open is not part of this_hour and today." + o.about,
			params:      []*parameter{o.param, zoneParam},
			replies:     []reply{answers(http.StatusOK, "What is used now.", o.now)}, fails: missing,
		}, route{
			pattern: "GET /api/v1/usage/" + o.path + "/{id}/history", access: reader, handle: s.historyOf(o.subject),
			id: o.history, tag: "usage", summary: "Usage of " + o.of + " by hour, day or month",
			description: "Without `from`: 24 hours, 30 days or 365 days before `to`, by interval." + o.about,
			params:      []*parameter{o.param, fromParam, toParam, historyInterval, zoneParam, historySort, historyFields, matchParam},
			replies:     append([]reply{answers(http.StatusOK, "One row for each interval with usage.", o.then, etagHeader)}, cacheable...), fails: missing,
		})
	}
	return list
}

// subject is whose usage is asked for.
type subject struct {
	odometer.UsageQuery // of which it sets that
	name                string
	// Known reports whether the caller sees it, though nothing may be used.
	known func() error
	// Open returns what is open of it.
	open func() []Row
	// Current and history put together its answers.
	current func(open []Row, now UsageNow) any
	history func(UsageHistory) any
}

func (s *server) instanceSubject(r *http.Request) subject {
	id := odometer.InstanceID(queryOf(r).text("id"))
	return subject{
		UsageQuery: odometer.UsageQuery{Instance: id}, name: "instance " + string(id),
		known:   func() error { return odometer.ErrNotFound },
		open:    func() []Row { return openPeriods(s.Live.Open(seen(r), id), queryOf(r).now) },
		current: func(open []Row, now UsageNow) any { return CurrentAnswer{id, open, now} },
		history: func(h UsageHistory) any { return HistoryAnswer{id, h} },
	}
}

func (s *server) userSubject(r *http.Request) subject {
	id := odometer.UserID(queryOf(r).text("id"))
	q := odometer.UsageQuery{User: id}
	return subject{
		UsageQuery: q, name: "user " + string(id),
		known: func() error {
			_, err := s.People.User(r.Context(), caller(r), id)
			return err
		},
		open:    func() []Row { return s.openSum(r, q) },
		current: func(open []Row, now UsageNow) any { return UserCurrentAnswer{id, open, now} },
		history: func(h UsageHistory) any { return UserHistoryAnswer{id, h} },
	}
}

func (s *server) orgSubject(r *http.Request) subject {
	id := odometer.OrgID(queryOf(r).text("id"))
	q := odometer.UsageQuery{Org: id}
	return subject{
		UsageQuery: q, name: "organisation " + string(id),
		known: func() error {
			_, err := s.People.Organisation(r.Context(), caller(r), id)
			return err
		},
		open:    func() []Row { return s.openSum(r, q) },
		current: func(open []Row, now UsageNow) any { return OrganisationCurrentAnswer{id, open, now} },
		history: func(h UsageHistory) any { return OrganisationHistoryAnswer{id, h} },
	}
}

// openSum returns all that is open of somebody in one row.
func (s *server) openSum(r *http.Request, q odometer.UsageQuery) []Row {
	q.To = 1<<63 - 1
	return openRows(s.Live.Open(seen(r), ""), q, queryOf(r).now)
}

func (s *server) currentOf(of func(*http.Request) subject) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if s.Usage == nil {
			return absent("ledger")
		}
		p, sub := queryOf(r), of(r)
		zone := p.zone()
		now := UsageNow{At: instant(p.now.UnixMicro()), Timezone: zoneName(zone)}
		for bucket, row := range map[odometer.GroupBy]*Row{odometer.ByHour: &now.Hour, odometer.ByDay: &now.Day} {
			calendar, q := odometer.Calendar{By: bucket, Zone: zone}, sub.UsageQuery
			q.From, q.Zone = calendar.Start(p.now.UnixMicro()), zone
			q.To = calendar.Next(q.From)
			rows, err := s.recorded(r, q)
			if err != nil {
				return err
			}
			if len(rows) > 0 {
				*row = rows[0]
			}
		}
		// The open periods are read after what is recorded: one that closes in
		// between is then missing for a moment instead of being counted twice.
		open := []Row{}
		if s.Live != nil {
			open = sub.open()
		}
		if len(open) == 0 && now.Day.Known == 0 {
			if err := s.known(r, sub); err != nil {
				return err
			}
		}
		return writeJSON(w, http.StatusOK, sub.current(open, now))
	}
}

func (s *server) historyOf(of func(*http.Request) subject) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if s.Usage == nil {
			return absent("ledger")
		}
		p, sub := queryOf(r), of(r)
		interval := odometer.ByHour
		if text := p.text("interval"); text != "" {
			interval = odometer.GroupBy(text)
		}
		q := sub.UsageQuery
		q.GroupBy = []odometer.GroupBy{interval}
		q.From, q.To, q.Zone = p.spanIn(defaultSpan[interval])
		if err := p.done(); err != nil {
			return err
		}
		e := s.edition(r, q.From, q.To, asDocument)
		if e.had(w, func() []Row { return s.openOf(r, q, p.now) }) {
			return nil
		}
		rows, open, err := s.usage(r, q, p.now)
		if err != nil {
			return err
		}
		if len(rows) == 0 && len(open) == 0 {
			if err := s.known(r, sub); err != nil {
				return err
			}
		}
		e.set(w, open)
		words := p.words("sort")
		rowKeys.sort(rows, words)
		rowKeys.sort(open, words)
		return writeList(w, r, sub.history(UsageHistory{
			From: instant(q.From), To: instant(q.To), Interval: Interval(interval), Timezone: zoneName(q.Zone), Rows: rows, Open: open,
		}), "rows", "open")
	}
}

// known returns an error wrapping ErrNotFound when nothing was ever recorded of a
// subject that the caller sees, and he does not see itself either.
func (s *server) known(r *http.Request, sub subject) error {
	q := sub.UsageQuery
	q.To = queryOf(r).now.UnixMicro() + odometer.DayMicros
	rows, err := s.recorded(r, q)
	if err != nil || len(rows) > 0 {
		return err
	}
	if err = odometer.ErrNotFound; s.People != nil {
		err = sub.known()
	}
	if errors.Is(err, odometer.ErrNotFound) {
		return fmt.Errorf("%s has no usage, recorded or open: %w", sub.name, odometer.ErrNotFound)
	}
	return err
}
