package api

import (
	"cmp"
	"context"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// MonthAdmin closes months and knows the statements that come of that. CloseMonth
// wraps [odometer.ErrInvalid] for a month that is not over, [odometer.ErrNotFound] where
// nothing of the organisation is booked in it, and [odometer.ErrConflict] where it is
// closed or something is missing and that is not accepted. A statement that is not seen
// is answered like one that there is not, with [odometer.ErrNotFound].
type MonthAdmin interface {
	CloseMonth(ctx context.Context, c odometer.MonthClose) (odometer.MonthClosed, error)
	ClosedMonths(ctx context.Context, seen odometer.View) ([]odometer.ClosedMonth, error)
	Statements(ctx context.Context, q odometer.StatementQuery) ([]odometer.StatementInfo, error)
	Statement(ctx context.Context, seen odometer.View, id string) (s *odometer.Statement, text []byte, err error)
}

// MonthsAnswer is the body of GET /api/v1/months.
type MonthsAnswer struct {
	Months []Month `json:"months"` // the newest first
	Next   *string `json:"next"`   // cursor of the page that follows, null when there is none
}

// Month is a month that is closed for somebody.
type Month struct {
	Month     string           `json:"month" schema:"pattern=^[0-9]{4}-(0[1-9]|1[0-2])$"`
	Everybody bool             `json:"everybody"`                     // it is closed for all, and not for those of org_ids alone
	ClosedAt  time.Time        `json:"closed_at"`                     // for the last of them
	Orgs      []odometer.OrgID `json:"org_ids"`                       // for which it was closed by themselves, as far as they are seen
	Number    int              `json:"statements" schema:"minimum=0"` // that are seen
}

// MonthCloseRequest is the body of POST /api/v1/months/{month}/close.
type MonthCloseRequest struct {
	Org *odometer.OrgID `json:"org_id,omitempty" schema:"nullable"` // absent for all for whom the month is open
	// AcceptGaps closes the month although something is missing, which the statements
	// then name.
	AcceptGaps bool `json:"accept_gaps,omitempty"`
	// Cause is why, in one line of printable text for a person, of at most 512 bytes;
	// absent for that it is over.
	Cause  string `json:"cause,omitempty" schema:"maxLength=512"`
	DryRun bool   `json:"dry_run,omitempty"` // change nothing, and say what would be, and what is missing
}

// MonthCloseAnswer is the answer to POST /api/v1/months/{month}/close.
type MonthCloseAnswer struct {
	Month      string             `json:"month" schema:"pattern=^[0-9]{4}-(0[1-9]|1[0-2])$"`
	DryRun     bool               `json:"dry_run"`
	Statements []StatementSummary `json:"statements"` // of a dry run, as they would be if it was in earnest now
	Missing    []MissingItem      `json:"missing"`    // the first thousand
	// MissingTotal is how many things are missing in all.
	MissingTotal int `json:"missing_total" schema:"minimum=0"`
}

// StatementSummary is a statement without what it says.
type StatementSummary struct {
	ID       string          `json:"id"`
	Month    string          `json:"month" schema:"pattern=^[0-9]{4}-(0[1-9]|1[0-2])$"`
	Org      *odometer.OrgID `json:"org_id"` // null for users without an organisation
	ClosedAt time.Time       `json:"closed_at"`
	ClosedBy string          `json:"closed_by"`
	Cause    string          `json:"cause"`
	SHA256   string          `json:"sha256"`                           // of its text, hexadecimal
	Lines    int             `json:"lines_total" schema:"minimum=0"`   // of usage
	Missing  int             `json:"missing_total" schema:"minimum=0"` // things that were accepted as missing
}

// StatementsAnswer is the body of GET /api/v1/statements.
type StatementsAnswer struct {
	Statements []StatementSummary `json:"statements"` // the newest month first, and in the order of organisations
	Next       *string            `json:"next"`       // cursor of the page that follows, null when there is none
}

// StatementAnswer is the body of GET /api/v1/statements/{id}.
type StatementAnswer struct {
	StatementSummary
	Ledger     odometer.LedgerID `json:"ledger_id"`
	Generation uint64            `json:"generation"`
	TimeZone   string            `json:"time_zone"` // of the month: UTC
	AsOf       []StatementMark   `json:"as_of"`     // up to where each partition was booked
	Usage      []StatementLine   `json:"lines"`     // in the order of months, users and instances
	Without    []MissingItem     `json:"missing"`   // what was accepted as missing
}

// StatementMark is up to where a partition was booked when a month was closed.
type StatementMark struct {
	Partition int    `json:"partition"`
	Position  int64  `json:"position"` // of its last record in the journal
	Entry     uint64 `json:"entry"`    // the number of its last entry
}

// StatementLine is what a user used of an instance.
type StatementLine struct {
	// Month is that of use: the statement's own, or an earlier one that was closed before
	// and that this adjusts.
	Month string `json:"month" schema:"pattern=^[0-9]{4}-(0[1-9]|1[0-2])$"`
	Usage Row    `json:"usage"`
}

// MissingItem is something for which a month may not be complete.
type MissingItem struct {
	Kind     odometer.MissingKind `json:"kind"`
	Instance *odometer.InstanceID `json:"instance_id"` // null where it is not known
	Host     *odometer.AgentID    `json:"agent_id"`    // the host; null where it is not known
	From     *time.Time           `json:"from"`        // the time of use that may lack; null where it is not known
	To       *time.Time           `json:"to"`
	// Amount is, of a gap, its time in microseconds, of a backlog its messages, and else 1.
	Amount int64 `json:"amount"`
}

// closedBecause is the cause of closing a month where nobody says another.
const closedBecause = "the month is over"

// mostMissing is how many things that are missing one answer lists.
const mostMissing = 1000

var (
	byParam = &parameter{
		name: "by", kind: asWord, words: []string{"use", "booking"}, example: "use", description: "by which time: of use, or of booking; `use` where it is absent",
	}
	asOfParam = &parameter{
		name: "as_of", kind: asMoment, example: "now", description: "only what was booked up to then; with `by=use` alone, and as far back as the journal is kept",
	}
	monthPath = &parameter{
		name: "month", in: inPath, component: "Month", most: 7, valid: validMonth, pattern: "^[0-9]{4}-(0[1-9]|1[0-2])$", example: "2025-12", description: "the month, in UTC",
	}
	statementPath = &parameter{
		name: "id", in: inPath, component: "StatementId", most: 24, valid: validStatement, pattern: "^[0-9]{4}-(0[1-9]|1[0-2])-[0-9a-f]{16}$", example: exampleStatement,
		description: "the id of a statement: its month and the beginning of its hash",
	}
)

// exampleStatement is the id of a statement that the server of the examples has.
const exampleStatement = "2025-12-78eb8a996c9d642d"

func validMonth(text string) error {
	_, err := odometer.ParseMonth(text)
	return err
}

func validStatement(text string) error {
	month, hash, _ := strings.Cut(strings.Replace(text, "-", "/", 1), "-")
	if err := validMonth(strings.Replace(month, "/", "-", 1)); err != nil || len(hash) != 16 || strings.Trim(hash, "0123456789abcdef") != "" {
		return fmt.Errorf("%q is no id of a statement: %w", clip(text), odometer.ErrInvalid)
	}
	return nil
}

func (s *server) monthRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/months", access: reader, handle: s.getMonths,
			id: "months", tag: "usage", summary: "The months that are closed",
			description: "What was booked for a month after it was closed adjusts the month in which it was booked.",
			params:      []*parameter{afterCursor, limitParam},
			replies:     []reply{answers(http.StatusOK, "Those that are closed for somebody whom the caller sees, one page.", MonthsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/months/{month}/close", access: administrator, handle: s.postMonthClose,
			id: "closeMonth", tag: "usage", summary: "Close a month, for good",
			description: "For each organisation it makes a statement of what was used, which never changes. It is refused while something may be missing: times that " +
				"nobody measured, events that are held, in quarantine or on their way, and hosts that were not heard of up to the end of the month. " +
				"A dry run lists what is, `accept_gaps` closes it all the same. Who closed it and why is kept in the journal.",
			params:  []*parameter{monthPath},
			takes:   takes(MonthCloseRequest{}),
			replies: []reply{answers(http.StatusOK, "The statements, and what is missing.", MonthCloseAnswer{})}, fails: conflict,
		},
		{
			pattern: "GET /api/v1/statements", access: reader, handle: s.getStatements,
			id: "statements", tag: "usage", summary: "The statements of closed months",
			description: "Who sees all usage of an organisation sees its statements; a grant on an instance shows none. Those of users without an organisation the operator sees.",
			params: []*parameter{
				{name: "month", most: 7, valid: validMonth, pattern: "^[0-9]{4}-(0[1-9]|1[0-2])$", example: "2025-12", description: "only of this month"},
				orgParam,
				afterCursor, limitParam,
			},
			replies: []reply{answers(http.StatusOK, "One page.", StatementsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "GET /api/v1/statements/{id}", access: reader, handle: s.getStatement,
			id: "statement", tag: "usage", summary: "What an organisation used in a month, as it was stated when that was closed",
			description: "Ask with Accept: text/plain for the text that its hash is of.",
			params:      []*parameter{statementPath},
			replies: []reply{{http.StatusOK, "The statement.", nil, []content{
				{odometer.ContentJSON, StatementAnswer{}}, {"text/plain", nil},
			}}},
			fails: missing,
		},
	}
}

func (s *server) getMonths(w http.ResponseWriter, r *http.Request) error {
	if s.Months == nil {
		return absent("ledger")
	}
	list, err := s.Months.ClosedMonths(r.Context(), seen(r))
	if err != nil {
		return err
	}
	if after := queryOf(r).text("after"); after != "" {
		list = slices.DeleteFunc(list, func(m odometer.ClosedMonth) bool { return m.Month.String() >= after })
	}
	list, next := paged(w, r, list, func(m odometer.ClosedMonth) string { return m.Month.String() })
	answer := MonthsAnswer{Months: []Month{}, Next: next}
	for _, m := range list {
		answer.Months = append(answer.Months, Month{
			Month: m.Month.String(), Everybody: m.Everybody, ClosedAt: instant(m.At), Orgs: append([]odometer.OrgID{}, m.Orgs...), Number: m.Statements,
		})
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postMonthClose(w http.ResponseWriter, r *http.Request) error {
	if s.Months == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	wrong := checks{p.done()}
	var ask MonthCloseRequest
	if err := readJSON(r, &ask); err != nil {
		wrong = append(wrong, err)
	} else if ask.Org != nil {
		wrong.body("org_id", odometer.ValidID("org", string(*ask.Org)))
	}
	if err := join(wrong...); err != nil {
		return err
	}
	month, err := odometer.ParseMonth(p.text("month"))
	if err != nil {
		return err
	}
	by := caller(r)
	c := odometer.MonthClose{Month: month, Org: ask.Org, AcceptGaps: ask.AcceptGaps, Actor: by.String(), Cause: cmp.Or(ask.Cause, closedBecause), Dry: ask.DryRun}
	closed, err := s.Months.CloseMonth(r.Context(), c)
	if err != nil {
		return err
	}
	answer := MonthCloseAnswer{Month: month.String(), DryRun: ask.DryRun, Statements: []StatementSummary{}, Missing: missingItems(closed.Missing), MissingTotal: len(closed.Missing)}
	for i := range closed.Statements {
		answer.Statements = append(answer.Statements, summaryOf(&closed.Statements[i]))
	}
	if !ask.DryRun {
		s.note(r, odometer.ActionMonthClose, month.String(), fmt.Sprintf("%s, %d statements, %d things missing: %s", whose(ask.Org), len(closed.Statements), len(closed.Missing), c.Cause))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func whose(org *odometer.OrgID) string {
	if org == nil {
		return "for everybody"
	}
	return "for " + string(*org)
}

func (s *server) getStatements(w http.ResponseWriter, r *http.Request) error {
	if s.Months == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	q := odometer.StatementQuery{Org: odometer.OrgID(p.text("org")), View: seen(r), After: p.text("after"), Limit: p.limit() + 1}
	if text := p.text("month"); text != "" {
		var err error
		if q.Month, err = odometer.ParseMonth(text); err != nil {
			return err
		}
	}
	list, err := s.Months.Statements(r.Context(), q)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(i odometer.StatementInfo) string { return i.ID })
	answer := StatementsAnswer{Statements: []StatementSummary{}, Next: next}
	for i := range list {
		answer.Statements = append(answer.Statements, summaryOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) getStatement(w http.ResponseWriter, r *http.Request) error {
	if s.Months == nil {
		return absent("ledger")
	}
	st, text, err := s.Months.Statement(r.Context(), seen(r), queryOf(r).text("id"))
	if err != nil {
		return err
	}
	w.Header().Add("Vary", "Accept")
	if wantsText(r.Header.Values("Accept")) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write(text)
		return nil
	}
	info := st.Info()
	answer := StatementAnswer{
		StatementSummary: summaryOf(&info), Ledger: st.Ledger, Generation: st.Generation, TimeZone: "UTC",
		AsOf: []StatementMark{}, Usage: []StatementLine{}, Without: missingItems(st.Missing),
	}
	for _, m := range st.AsOf {
		answer.AsOf = append(answer.AsOf, StatementMark(m))
	}
	for i := range st.Lines {
		l := &st.Lines[i]
		row := Row{By: []odometer.GroupBy{odometer.ByInstance, odometer.ByUser}}
		row.Instance, row.User, row.Totals, row.Known, row.Recovered = l.Instance, l.User, l.Totals, l.Known, l.Recovered
		answer.Usage = append(answer.Usage, StatementLine{l.Month.String(), row})
	}
	return writeJSON(w, http.StatusOK, answer)
}

// wantsText reports whether a client asks for plain text before all else.
func wantsText(accept []string) bool {
	for _, list := range accept {
		first, _, _ := strings.Cut(list, ",")
		media, _, err := mime.ParseMediaType(first)
		return err == nil && media == "text/plain"
	}
	return false
}

func summaryOf(i *odometer.StatementInfo) StatementSummary {
	return StatementSummary{
		ID: i.ID, Month: i.Month.String(), Org: named(i.Org), ClosedAt: instant(i.At), ClosedBy: i.Actor, Cause: i.Cause,
		SHA256: i.Hash, Lines: i.Lines, Missing: i.Missing,
	}
}

// missingItems lists what is missing, the first of it.
func missingItems(list []odometer.Missing) []MissingItem {
	items := []MissingItem{}
	for _, m := range list[:min(len(list), mostMissing)] {
		item := MissingItem{Kind: m.Kind, Amount: m.Amount}
		if m.Instance != "" {
			item.Instance = &m.Instance
		}
		if m.Host != "" {
			item.Host = &m.Host
		}
		if m.To != 0 {
			item.From, item.To = new(instant(m.From)), new(instant(m.To))
		}
		items = append(items, item)
	}
	return items
}

// byBooking says of a route what by=booking tells.
const byBooking = "By month of booking, what was booked for a month after it was closed is in the month in which it was booked; " +
	"months (UTC) are asked for as a whole, by default this one, without open amounts and without what grants show."

// booked completes a question by month of booking: without times it is of this month.
func (q *query) booked(ask *odometer.UsageQuery) {
	ask.Booked = q.text("by") == "booking"
	ask.AsOf = q.time("as_of", 0)
	if ask.Booked && ask.AsOf != 0 {
		q.fail("as_of", "says nothing by month of booking")
	}
	if !ask.Booked {
		return
	}
	if ask.Zone != nil {
		q.fail("timezone", "says nothing by booking, whose months are those of UTC")
	}
	this := odometer.MonthOf(q.now.UnixMicro())
	ask.From, ask.To = q.time("from", this.Start()), q.time("to", this.End())
	edge := func(name string, at int64) {
		if odometer.MonthOf(at).Start() != at {
			q.fail(name, "is no edge of a month (UTC), by which alone usage is told by booking")
		}
	}
	edge("from", ask.From)
	edge("to", ask.To)
	if b := odometer.CalendarOf(ask.GroupBy, nil).By; b == odometer.ByHour || b == odometer.ByDay {
		name := "group_by"
		if q.text("interval") == string(b) {
			name = "interval"
		}
		q.fail(name, "has %s, and by booking there are months alone", b)
	}
	if len(q.errs) == 0 {
		q.inOrder(ask.From, ask.To)
	}
}
