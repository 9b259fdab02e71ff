package odometer

import (
	"fmt"
	"slices"
	"time"
)

// What becomes of an event that is received. Every event received has exactly
// one of these; received = recorded + covered + duplicate + quarantined + held.
type Outcome string

const (
	Recorded    Outcome = "recorded"    // booked
	Covered     Outcome = "covered"     // lies within what was booked already (part of a coalesced event)
	Duplicate   Outcome = "duplicate"   // the same event, recorded before
	Quarantined Outcome = "quarantined" // put aside with a reason; adds nothing to the totals
	Held        Outcome = "held"        // waits for an earlier event, or for its time to come
)

// Outcomes lists every outcome, in the order in which they are shown.
var Outcomes = [...]Outcome{Recorded, Covered, Duplicate, Quarantined, Held}

// Result is the answer to one event.
type Result struct {
	EventID string  `json:"id"`
	Outcome Outcome `json:"outcome"`
	Reason  string  `json:"reason,omitempty"` // a word, for quarantined and held: see package ledger
	Detail  string  `json:"detail,omitempty"` // for a person
}

// GroupBy is one way to break usage down.
type GroupBy string

const (
	ByNothing  GroupBy = ""
	ByInstance GroupBy = "instance"
	ByUser     GroupBy = "user"
	ByOrg      GroupBy = "org"
	ByHour     GroupBy = "hour"  // UTC
	ByDay      GroupBy = "day"   // of the query's time zone
	ByMonth    GroupBy = "month" // of the query's time zone
)

// UsageQuery asks for recorded usage in [From, To), microseconds of the wall
// clock, by time of use. Empty filters match everything.
type UsageQuery struct {
	From, To int64
	Instance InstanceID
	User     UserID
	Org      OrgID
	GroupBy  []GroupBy // several combine: one row for each combination
	// Zone, where it is not nil, is whose days and months count. A UTC hour that an
	// edge of a day of it cuts, as in a zone half an hour apart, is apportioned
	// there by time, also where From or To is that edge; but an hour that From or To
	// cuts elsewhere is cut as its entries say.
	Zone *time.Location
	// Top, where it is not 0, asks for the rows with the most of TopBy only: so
	// many of them at most, in that order.
	Top   int
	TopBy Quantity
	// Most, where it is not 0, refuses what takes more rows, Top or not, with
	// [ErrTooManyRows].
	Most int
	// Booked asks by the month of booking: what a month had when it was closed stays
	// in it, and what was booked later for it is in the month in which it was booked.
	// From and To are edges of months then, and rows of no shorter time.
	Booked bool
	// AsOf, where it is not 0, leaves out what was booked after that moment.
	AsOf int64
	// View, where it is not nil, leaves out what it does not see.
	View *View
}

// ErrTooManyRows says that an answer would be longer than [UsageQuery].Most.
var ErrTooManyRows = fmt.Errorf("%w: the answer has too many rows", ErrInvalid)

// Rank returns the rows that q asks for, in order, from all of them, in the
// order of an answer without Top. Rows with as much stay in that order.
func (q *UsageQuery) Rank(rows []UsageRow) []UsageRow {
	if q.Top == 0 {
		return rows
	}
	slices.SortStableFunc(rows, func(a, b UsageRow) int { return b.Totals[q.TopBy].Cmp(a.Totals[q.TopBy]) })
	return rows[:min(q.Top, len(rows))]
}

// UsageRow is the sum of usage over one group. Fields that are not grouped by
// are empty; Start is the start of the hour, day or month, or 0.
type UsageRow struct {
	Instance InstanceID
	User     UserID
	Org      OrgID
	Start    int64
	Totals   [Quantities]Sum
	Known    Known
	// Recovered is the part of measured and estimated time whose events never
	// arrived and whose usage was booked from the difference, microseconds.
	Recovered Sum
	// Apportioned says that an hour of it is cut by the edge of a day or month, and
	// shared by time. All rows of an answer still add up to the unit.
	Apportioned bool
}

// LifecycleQuery asks what happened to an instance: of more changes than Limit
// the newest, and all of the moment of the oldest of these, so that the next
// question, up to that moment, leaves none out.
type LifecycleQuery struct {
	Instance InstanceID
	From, To int64 // microseconds of the wall clock, [From, To); To 0 for no end
	Limit    int
	// View, where it is not nil, leaves out what happened in an hour in which the
	// instance was not wholly what it sees.
	View *View
}

// Happening is a change as it was told by an agent.
type Happening struct {
	Change
	Agent AgentID
}

// EntryQuery asks for entries in the order in which they were booked.
type EntryQuery struct {
	After    string // cursor of the last page, "" for the beginning
	Before   string // cursor up to which entries are read one after the other, "" for no such
	Limit    int    // at most this many in a page
	Instance InstanceID
	User     UserID // whom it is charged to
	Org      OrgID
	From, To int64 // overlap of the entry's span with [From, To); To 0 for no end
	View     *View // where it is not nil, what it does not see is left out
}

// Wants reports whether an entry is one of those that q asks for, wherever it stands.
func (q *EntryQuery) Wants(e *Entry) bool {
	ev := &e.Event
	return (q.Instance == "" || ev.Instance == q.Instance) && (q.User == "" || ev.Owner.User == q.User) && (q.Org == "" || ev.Owner.Org == q.Org) &&
		ev.Span.End > q.From && (q.To == 0 || ev.Span.Start < q.To) && (q.View == nil || q.View.SeesUse(ev.Instance, ev.Owner, ev.Span.Start))
}

// Followed is an entry in its JSON form, with the cursor after it. It is shared.
type Followed struct {
	Cursor string
	Entry  []byte
}
