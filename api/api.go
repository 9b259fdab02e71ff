// Package api answers over HTTP: usage, events, health and metrics, for people,
// for other programs and for agents that have no queue to write to.
//
// It decides nothing about usage. It reads the ledger and the state of the
// stages through the small interfaces declared here, which package cmd joins to
// the real ones, and what it writes (events that came by HTTP, quarantine that
// is released, entries that are reversed) it hands on and answers only after the
// ledger has committed it.
//
// # What holds for every route
//
// Everything is denied unless the route's row in the table says otherwise: each
// declares the scope that the caller's token must have. Only the health routes
// answer without a token, and then without details; and a host that wants to be let
// in, which has a one-time token or a key that is known. No or a wrong token is a 401,
// a token without the scope a 403 of its own code. No answer and no line of the
// log repeats what looks like a token.
//
// Whose objects a caller sees is his [odometer.View], which every part that answers
// about usage, entries and instances is given as an argument: what it does not see
// is answered as what there is not. docs/access.md has the tables.
//
// Every request has an id, which the answer carries (X-Request-Id), a time
// limit, and a limit on its body that is checked before the body is read. How often one
// token may ask is limited (limit.go), and so is what connections may take (conns.go).
// Parameters are strict: the row declares each, the router reads them by that, and
// an unknown, repeated or unreadable one is refused by name, all of them at once
// (only probes of health may add what they like). The OpenAPI document is made of
// the table of routes by the tests: openapi.go. An error is problem+json (RFC 9457) with a stable
// `type` and `code`; one table in problem.go maps each kind of error to its
// status.
//
// # Numbers
//
// Amounts are exact integers in the units that their names end in, and strings
// where they exceed 2^53-1. A quantity that nobody measured is null and never 0.
//
// # On a crash
//
// The package keeps nothing, cursors neither: cursor.go. A client that got no answer to a POST sends the
// same events again and is told that they are duplicates.
package api

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"time"

	"example.org/odometer"
)

// Limits of requests and of the time that they may take.
const (
	// MaxBodyBytes of a request: one frame's worth, so that what is accepted
	// always fits the ledger's journal.
	MaxBodyBytes = odometer.MaxFrameUnpacked
	// MaxBatch is the most events that one request may carry.
	MaxBatch = 1000
	// RequestTimeout is how long the answer to one request may take; the
	// ledger's slowest query over a year of hours takes a tenth of it.
	RequestTimeout = 30 * time.Second
	// DefaultPage and MaxPage bound GET /api/v1/events.
	DefaultPage = 100
	MaxPage     = 1000
	// RetryAfter is what a client is told to wait when a part is unavailable:
	// longer than the ledger's busy timeout, shorter than anybody's patience.
	RetryAfter = 5 * time.Second
)

// UsageReader answers what was recorded and is seen. The ledger is one.
type UsageReader interface {
	Usage(ctx context.Context, seen odometer.View, q odometer.UsageQuery) ([]odometer.UsageRow, error)
}

// EntryReader pages through the ledger's entries that are seen, in the order in
// which they were booked. The cursor that comes back is that after the last entry of the
// page, "" when there was none. A cursor it did not make is an error wrapping
// [odometer.ErrInvalid].
type EntryReader interface {
	Entries(ctx context.Context, seen odometer.View, q odometer.EntryQuery) (entries []odometer.Entry, next string, err error)
}

// Submitter takes events that came by HTTP and returns what became of each, in
// their order, after the ledger has committed all of them. A record without an
// Event has Raw and Err instead: it goes to quarantine as it came. On an error
// nothing is known to have been committed and the client sends again.
type Submitter interface {
	Submit(ctx context.Context, records []odometer.Record) ([]odometer.Result, error)
}

// OpenPeriod is the period of an instance that has not closed yet, as its
// agent last told it.
type OpenPeriod struct {
	// Event is what would be recorded if the period closed now; its sequence
	// is the one that it will get.
	Event odometer.Event
	// HeardAt is when this process heard it, by its own clock.
	HeardAt time.Time
}

// LiveView knows the open periods of an instance that are seen, or of all where
// instance is "". It leaves out those that are in the ledger already and those of agents
// that fell silent for longer than their usage could still be open.
type LiveView interface {
	Open(seen odometer.View, instance odometer.InstanceID) []OpenPeriod
}

// HealthSource gathers the facts from which health is computed.
type HealthSource interface {
	Facts(ctx context.Context) Facts
}

// MachineReader reads the current metrics of the machine that this process
// runs on. Before the first sample it returns an error wrapping
// [odometer.ErrUnavailable].
type MachineReader interface {
	Machine(ctx context.Context) (Machine, error)
}

// QuarantineAdmin lists what was put aside, newest first and at most limit of
// it, and books an item after all in the name of actor. Releasing what is not
// there wraps [odometer.ErrNotFound], what was released before
// [odometer.ErrConflict].
type QuarantineAdmin interface {
	Quarantine(ctx context.Context, limit int) ([]QuarantineItem, error)
	Release(ctx context.Context, partition int, no int64, actor string) (odometer.Result, error)
}

// EntryAdmin books the negation of an entry in the name of actor, with a cause
// for a person to read, and returns the correction. An entry that there is not
// wraps [odometer.ErrNotFound], one that was reversed before or cannot be read
// any more [odometer.ErrConflict], a cause that will not do
// [odometer.ErrInvalid].
type EntryAdmin interface {
	Reverse(ctx context.Context, id odometer.EntryID, actor, cause string) (odometer.Entry, error)
}

// StatusReader gathers what `odometer status` shows, apart from health, which
// the server adds.
type StatusReader interface {
	Status(ctx context.Context) (Status, error)
}

// Deps is what the API of `odometer serve` stands on. A part that is nil is
// absent and its routes answer 404; without Auth every route that wants a token
// refuses.
type Deps struct {
	Version string
	Logger  *slog.Logger     // nil for none
	Clock   func() time.Time // nil for time.Now
	Auth    Authenticator

	Usage      UsageReader
	Entries    EntryReader
	Exports    Exporter
	Revisions  Reviser
	Stream     Follower
	StreamLife time.Duration // how long a stream lasts; [StreamLife] where it is 0
	Submit     Submitter
	Live       LiveView
	Quarantine QuarantineAdmin
	Reversals  EntryAdmin
	Status     StatusReader
	Instances  InstanceReader
	Lifecycle  LifecycleReader
	Ownership  OwnershipAdmin
	Months     MonthAdmin
	Tokens     TokenAdmin
	Hosts      HostAdmin
	Consumers  ConsumerAdmin
	People     PeopleAdmin
	Grants     GrantAdmin
	Identities IdentityAdmin
	Registered RegisteredAdmin
	Audit      AuditLogger
	Refused    *Refusals // what was refused; nil to note none of it
	Limits     Limits

	Health  HealthSource
	Machine MachineReader
	Stats   Stats
	// QueueURL is where agents reach the queue, "" where they cannot.
	QueueURL func() string
	// CursorKey makes cursors that nobody else can; nil for one that ends with the
	// process.
	CursorKey []byte
}

// AgentDeps is what the API of `odometer agent` stands on.
type AgentDeps struct {
	Version string
	Logger  *slog.Logger
	Clock   func() time.Time
	Auth    Authenticator
	Limits  Limits

	Health  HealthSource
	Machine MachineReader
	Stats   Stats
}

// NewServer returns the API of `odometer serve`. It may be called from many
// goroutines at once.
func NewServer(d Deps) http.Handler {
	s := &server{Deps: d}
	rt := newRouter(d.Version, d.Logger, d.Clock, d.Auth, d.Stats, s.routes)
	rt.limits, rt.refused = newLimiter(d.Limits), d.Refused
	rt.cursorKey = cursorKey(d.CursorKey)
	return rt
}

// NewAgentServer returns the API of `odometer agent`: the machine, health and
// metrics, all of which answer while the server is away.
func NewAgentServer(d AgentDeps) http.Handler {
	s := &server{agent: true, Deps: Deps{
		Version: d.Version, Logger: d.Logger, Clock: d.Clock, Auth: d.Auth,
		Health: d.Health, Machine: d.Machine, Stats: d.Stats,
	}}
	rt := newRouter(d.Version, d.Logger, d.Clock, d.Auth, d.Stats, s.agentRoutes)
	rt.limits = newLimiter(d.Limits)
	return rt
}

// server holds the handlers. They are safe for concurrent use because its
// fields never change and its parts are.
type server struct {
	Deps
	agent   bool
	router  *router
	streams streams
}

func (s *server) routes(r *router) []route {
	s.router = r
	return slices.Concat(s.healthRoutes(), s.operationRoutes(), s.serverRoutes(), documentRoutes(OpenAPI, serverPage), s.usageRoutes(), s.currentRoutes(),
		s.instanceRoutes(), s.registeredRoutes(), s.ownershipRoutes(), s.grantRoutes(), s.monthRoutes(), s.eventRoutes(), s.streamRoutes(), s.correctionRoutes(), s.tokenRoutes(), s.organisationRoutes(), s.memberRoutes(), s.userRoutes(), s.identityRoutes(),
		s.hostRoutes(), s.consumerRoutes(), s.auditRoutes())
}

func (s *server) agentRoutes(r *router) []route {
	s.router = r
	return slices.Concat(s.healthRoutes(), s.operationRoutes(), documentRoutes(AgentOpenAPI, agentPage))
}
