package api

import (
	"cmp"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// HealthStatus is one of three words, in order of gravity.
type HealthStatus string

const (
	OK       HealthStatus = "ok"
	Degraded HealthStatus = "degraded" // works, but late, behind or soon no longer
	Failed   HealthStatus = "error"    // does not work
)

// worse returns the graver of two.
func (s HealthStatus) worse(t HealthStatus) HealthStatus {
	order := []HealthStatus{OK, Degraded, Failed}
	return order[max(slices.Index(order, s), slices.Index(order, t))]
}

// When a fact becomes a complaint.
const (
	// A sample is due every interval; three that failed are a fault and no
	// hiccup of the scheduler, which the grace allows for.
	lateSamples  = 3
	sampleGrace  = 5 * time.Second
	deadSamples  = 10
	deadGrace    = time.Minute
	spoolOld     = 5 * time.Minute // several retries and one opening of the breaker fit in
	spoolFullPct = 80
	spoolEndPct  = 95
	receiptsLate = 2 * time.Minute // four periods of 30 s
	feedOld      = 5 * time.Minute
	pendingMany  = 10_000          // messages: more than a second's work for the ledger
	clockOff     = 5 * time.Minute // what lies further ahead is held by the ledger
	conflictOld  = time.Minute     // a machine that is moved may be seen twice for a moment
)

// Facts are what health is computed from. A part that this process does not
// have is nil. Err is the last error that still stands, "" for none.
type Facts struct {
	Inventory *InventoryFacts

	Sampler *SamplerFacts
	Spool   *SpoolFacts
	Publish *PublishFacts
	Queue   *QueueFacts
	Ledger  *LedgerFacts
	Feed    *FeedFacts
	Clock   *ClockFacts
	TLS     *TLSFacts

	Instances *InstanceFacts
	Directory *DirectoryFacts

	Thresholds    *ThresholdFacts
	Notifications *NotificationFacts
}

// SamplerFacts are about reading the counters.
type SamplerFacts struct {
	Started    time.Time
	LastSample time.Time     // zero before the first
	Interval   time.Duration // between samples that are due
	Err        string
}

// SpoolFacts are about what waits on this disk.
type SpoolFacts struct {
	Records  int64     // accepted and not receipted
	Bytes    int64     // of the disk
	Limit    int64     // of Bytes, 0 for none
	Oldest   time.Time // when the oldest record was accepted, zero when empty
	Accepted time.Time // the last accepted record
	Full     bool      // the disk or the limit is reached: it makes room by joining periods
	Waiting  int       // records that wait in memory because it accepts none
	Err      string    // why it accepts nothing any more
}

// PublishFacts are about sending.
type PublishFacts struct {
	Breaker     string    // "closed", "half-open" or "open"
	Outstanding int64     // frames sent and not receipted
	Since       time.Time // when the oldest of them was sent, zero for none
	LastReceipt time.Time
	Err         string
}

// QueueFacts are about the connection to the queue.
type QueueFacts struct {
	Connected bool
	Since     time.Time // when it became so
	Pending   int64     // messages that wait for the ledger, -1 where that is not known
	Err       string
	Store     string // why its own store takes nothing, "" while it does or is elsewhere
}

// LedgerFacts are about the ledger's file.
type LedgerFacts struct {
	Writable   bool
	LastCommit time.Time // zero before the first
	Err        string
}

// FeedFacts are about the topic of entries.
type FeedFacts struct {
	Behind int64     // entries booked and not yet published
	Oldest time.Time // when the oldest of them was booked, zero for none
	Last   time.Time // the last one published
	Err    string
}

// ClockFacts are about the wall clock of this machine.
type ClockFacts struct {
	Set          bool          // it shows a plausible date
	Synchronised bool          // the kernel says that something keeps it right
	Ahead        time.Duration // of the server's, where both are known
}

// InstanceFacts are about the directory of instances.
type InstanceFacts struct {
	Instances int
	Pending   int // changes that its file does not have yet
	Conflicts []InstanceConflict
	Err       string // why its file takes nothing
	Absent    string // why there is no directory, "" where there is one
	OwnerMap  string // why the file that maps hints to owners is not as it was read last
	// Disagreements are of the agents that named other owners than are recorded.
	Disagreements []OwnerDisagreement
}

// DirectoryFacts are about following an account service.
type DirectoryFacts struct {
	Instances int           // that are asked for
	Answered  int           // of these, once or more
	Oldest    time.Time     // the oldest answer that stands, zero for none
	Last      time.Time     // the last answer
	MaxAge    time.Duration // of an answer, when it is asked again
	Wrong     uint64        // answers that cannot be right
	Unknown   uint64        // answers that nobody is known to own it
	Conflicts uint64        // answers that were not recorded, since something else was decided
	LeftAlone bool          // it is asked nothing for now, since it failed again and again
	Err       string        // of the last question
}

// OwnerDisagreement is how often an agent named another owner of an instance than is
// recorded, since the start.
type OwnerDisagreement struct {
	Agent    odometer.AgentID
	Events   uint64
	Instance odometer.InstanceID // of the last of them
	At       time.Time           // when that was received
}

// Component is one part's health.
type Component struct {
	Status      HealthStatus   `json:"status"`
	LastSuccess *int64         `json:"last_success"`    // Unix seconds, null before the first
	Details     *string        `json:"details"`         // for a person, null when there is nothing to say
	Facts       map[string]any `json:"facts,omitempty"` // what the status was computed from; only with a token
}

// Health is the body of GET /api/v1/health/status.
type Health struct {
	Status        HealthStatus         `json:"status"` // the gravest of the components
	UptimeSeconds int64                `json:"uptime_seconds"`
	Components    map[string]Component `json:"components"` // those that the process has
	Version       string               `json:"version"`
}

// Judge computes the health of every part from facts, as of now.
func Judge(f Facts, now time.Time) map[string]Component {
	parts := make(map[string]Component)
	if s := f.Sampler; s != nil {
		parts["sampler"] = judgeSampler(s, now)
	}
	if i := f.Inventory; i != nil {
		parts["inventory"] = judgeInventory(i)
	}
	if s := f.Spool; s != nil {
		parts["spool"] = judgeSpool(s, now)
	}
	if p := f.Publish; p != nil {
		parts["publisher"] = judgePublisher(p, now)
	}
	if q := f.Queue; q != nil {
		parts["queue"] = judgeQueue(q, now)
	}
	if l := f.Ledger; l != nil {
		parts["ledger"] = judgeLedger(l, now)
	}
	if d := f.Feed; d != nil {
		parts["feed"] = judgeFeed(d, now)
	}
	if c := f.Clock; c != nil {
		parts["clock"] = judgeClock(c)
	}
	if c := f.TLS; c != nil {
		parts["tls"] = judgeTLS(c, now)
	}
	if i := f.Instances; i != nil {
		parts["instances"] = judgeInstances(i, now)
	}
	if d := f.Directory; d != nil {
		parts["account_service"] = judgeDirectory(d, now)
	}
	if t := f.Thresholds; t != nil {
		parts["thresholds"] = judgeThresholds(t)
	}
	if n := f.Notifications; n != nil {
		parts["notifications"] = judgeNotifications(n, now)
	}
	return parts
}

// verdict gathers one component's complaints; the gravest decides.
type verdict struct {
	status HealthStatus
	says   []string
	facts  map[string]any
}

func newVerdict(err string) *verdict {
	v := &verdict{status: OK, facts: make(map[string]any)}
	if err != "" {
		v.note("%s", err)
	}
	return v
}

func (v *verdict) note(format string, args ...any) {
	v.says = append(v.says, fmt.Sprintf(format, args...))
}

func (v *verdict) complain(s HealthStatus, format string, args ...any) {
	v.status = v.status.worse(s)
	v.note(format, args...)
}

func (v *verdict) component(last time.Time) Component {
	c := Component{Status: v.status, Facts: v.facts}
	if !last.IsZero() {
		c.LastSuccess = new(last.Unix())
	}
	if len(v.says) > 0 {
		c.Details = new(strings.Join(v.says, "; "))
	}
	return c
}

// age is how long ago t was: whole seconds for people and JSON, nil for never.
func age(t, now time.Time) any {
	if t.IsZero() {
		return nil
	}
	return int64(max(0, now.Sub(t)) / time.Second)
}

func judgeSampler(s *SamplerFacts, now time.Time) Component {
	v := newVerdict("")
	v.facts["age_seconds"] = age(s.LastSample, now)
	v.facts["interval_seconds"] = s.Interval.Seconds()
	since, what := s.LastSample, "the last sample is %s old, one is due every %s"
	if since.IsZero() {
		since, what = s.Started, "no sample since the start %s ago, one is due every %s"
	}
	switch silent := now.Sub(since); {
	case silent > deadSamples*s.Interval+deadGrace:
		v.complain(Failed, what, silent.Round(time.Second), s.Interval)
	case silent > lateSamples*s.Interval+sampleGrace:
		v.complain(Degraded, what, silent.Round(time.Second), s.Interval)
	}
	if s.Err != "" {
		v.complain(Degraded, "%s", s.Err)
	}
	return v.component(s.LastSample)
}

func judgeSpool(s *SpoolFacts, now time.Time) Component {
	v := newVerdict("")
	v.facts["records"] = s.Records
	v.facts["bytes"] = s.Bytes
	v.facts["limit_bytes"] = s.Limit
	v.facts["oldest_age_seconds"] = age(s.Oldest, now)
	if s.Err != "" {
		v.complain(Failed, "%s", s.Err)
	}
	if s.Waiting > 0 {
		v.facts["waiting_in_memory"] = s.Waiting
		v.complain(Degraded, "%d records wait in memory and are joined there", s.Waiting)
	}
	if s.Full && s.Err == "" {
		v.complain(Degraded, "the disk or the limit is reached: periods are being joined to make room")
	}
	if waits := now.Sub(s.Oldest); !s.Oldest.IsZero() && waits > spoolOld {
		v.complain(Degraded, "%d records wait for a receipt, the oldest for %s", s.Records, waits.Round(time.Second))
	}
	if s.Limit > 0 {
		switch full := float64(s.Bytes) / float64(s.Limit) * 100; {
		case full >= spoolEndPct:
			v.complain(Failed, "%d of %d bytes are full: periods are being joined to make room", s.Bytes, s.Limit)
		case full >= spoolFullPct:
			v.complain(Degraded, "%d of %d bytes are full", s.Bytes, s.Limit)
		}
	}
	return v.component(s.Accepted)
}

func judgePublisher(p *PublishFacts, now time.Time) Component {
	v := newVerdict(p.Err)
	v.facts["breaker"] = p.Breaker
	v.facts["outstanding"] = p.Outstanding
	v.facts["outstanding_age_seconds"] = age(p.Since, now)
	if p.Breaker != "closed" {
		v.complain(Degraded, "the circuit breaker is %s: records wait in the spool", p.Breaker)
	}
	if waits := now.Sub(p.Since); p.Outstanding > 0 && !p.Since.IsZero() && waits > receiptsLate {
		v.complain(Degraded, "no receipt for %s for %d frames that were sent", waits.Round(time.Second), p.Outstanding)
	}
	return v.component(p.LastReceipt)
}

func judgeQueue(q *QueueFacts, now time.Time) Component {
	v := newVerdict(q.Err)
	v.facts["connected"] = q.Connected
	v.facts["since_seconds"] = age(q.Since, now)
	last := time.Time{}
	if q.Connected {
		last = now
	} else {
		v.complain(Failed, "not connected to the queue")
	}
	if q.Store != "" {
		v.complain(Failed, "%s", q.Store)
	}
	if q.Pending >= 0 {
		v.facts["pending_messages"] = q.Pending
		if q.Pending > pendingMany {
			v.complain(Degraded, "%d messages wait for the ledger", q.Pending)
		}
	}
	return v.component(last)
}

func judgeLedger(l *LedgerFacts, now time.Time) Component {
	v := newVerdict(l.Err)
	v.facts["writable"] = l.Writable
	v.facts["last_commit_age_seconds"] = age(l.LastCommit, now)
	if !l.Writable {
		v.complain(Failed, "the ledger cannot be written")
	} else if l.Err != "" {
		v.status = Degraded
	}
	return v.component(l.LastCommit)
}

func judgeFeed(f *FeedFacts, now time.Time) Component {
	v := newVerdict("")
	v.facts["behind_entries"] = f.Behind
	v.facts["oldest_age_seconds"] = age(f.Oldest, now)
	if f.Err != "" {
		v.complain(Degraded, "%s", f.Err)
	}
	if waits := now.Sub(f.Oldest); f.Behind > 0 && !f.Oldest.IsZero() && waits > feedOld {
		v.complain(Degraded, "%d entries wait to be published, the oldest for %s", f.Behind, waits.Round(time.Second))
	}
	return v.component(f.Last)
}

func judgeClock(c *ClockFacts) Component {
	v := newVerdict("")
	v.facts["set"] = c.Set
	v.facts["synchronised"] = c.Synchronised
	v.facts["ahead_seconds"] = c.Ahead.Seconds()
	switch {
	case !c.Set:
		v.complain(Failed, "the clock was never set: its events are held until it is")
	case c.Ahead.Abs() > clockOff:
		v.complain(Degraded, "the clock differs from the server's by %s: events of the future are held", c.Ahead.Round(time.Second))
	case !c.Synchronised:
		// True of many sound machines and every container: worth saying,
		// nothing to wake anybody for.
		v.note("nothing is known to keep the clock right")
	}
	return v.component(time.Time{})
}

// conflictsNamed is how many conflicts are named in a sentence.
const conflictsNamed = 3

func judgeInstances(f *InstanceFacts, now time.Time) Component {
	v := newVerdict("")
	v.facts["instances"] = f.Instances
	v.facts["conflicts"] = len(f.Conflicts)
	v.facts["pending_changes"] = f.Pending
	if f.Absent != "" {
		v.complain(Failed, "%s", f.Absent)
	}
	if f.Err != "" {
		v.complain(Degraded, "%s", f.Err)
	}
	named, more := []string{}, 0
	for _, c := range f.Conflicts {
		if now.Sub(c.Since) <= conflictOld {
			continue
		}
		if len(named) == conflictsNamed {
			more++
			continue
		}
		named = append(named, fmt.Sprintf("%s runs on %s at once since %s", c.Instance, joinAgents(c.Agents), c.Since.UTC().Format(time.RFC3339)))
	}
	if more > 0 {
		named = append(named, fmt.Sprintf("and %d more", more))
	}
	if len(named) > 0 {
		v.complain(Degraded, "%s", strings.Join(named, ", "))
	}
	if f.OwnerMap != "" {
		v.complain(Degraded, "the owner map: %s; it stands as it was read before", f.OwnerMap)
	}
	noteDisagreements(v, f.Disagreements)
	return v.component(time.Time{})
}

// directoryLate is how much older than it may be an answer is before that is worth a
// word: the next question was asked when it was due.
const directoryLate = 30 * time.Second

// judgeDirectory says whether what an account service says is followed. While it is not,
// what was decided stays, and metering waits for nothing.
func judgeDirectory(f *DirectoryFacts, now time.Time) Component {
	v := newVerdict("")
	v.facts["instances"], v.facts["answered"] = f.Instances, f.Answered
	v.facts["wrong"], v.facts["unknown"], v.facts["conflicts"] = f.Wrong, f.Unknown, f.Conflicts
	if f.Err != "" {
		v.complain(Degraded, "the account service: %s", f.Err)
	}
	if f.LeftAlone {
		v.complain(Degraded, "it is left alone for a while, since it failed again and again")
	}
	if !f.Oldest.IsZero() {
		age := now.Sub(f.Oldest)
		v.facts["oldest_age_seconds"] = int64(age / time.Second)
		if age > f.MaxAge+directoryLate {
			v.complain(Degraded, "its oldest answer is %s old, and is to be %s at most: owners are as they were then", age.Truncate(time.Second), f.MaxAge)
		}
	}
	return v.component(f.Last)
}

// disagreementsNamed is how many agents are named that name other owners.
const disagreementsNamed = 3

// noteDisagreements names the agents that name other owners than are recorded, most
// of all first. It is no worse than well: who is recorded is charged.
func noteDisagreements(v *verdict, list []OwnerDisagreement) {
	v.facts["owner_disagreements"] = len(list)
	list = slices.Clone(list)
	slices.SortFunc(list, func(a, b OwnerDisagreement) int {
		return cmp.Or(cmp.Compare(b.Events, a.Events), cmp.Compare(a.Agent, b.Agent))
	})
	for i := range list {
		d := &list[i]
		if i == disagreementsNamed {
			v.note("and %d more agents name other owners than are recorded", len(list)-i)
			break
		}
		events := "events"
		if d.Events == 1 {
			events = "event"
		}
		v.note("%s named another owner than is recorded in %d %s, at last of %s at %s: who is recorded was charged",
			d.Agent, d.Events, events, d.Instance, d.At.UTC().Format(time.RFC3339))
	}
}

func joinAgents(agents []odometer.AgentID) string {
	var b strings.Builder
	for i, a := range agents {
		switch {
		case i > 0 && i == len(agents)-1:
			b.WriteString(" and ")
		case i > 0:
			b.WriteString(", ")
		}
		b.WriteString(string(a))
	}
	return b.String()
}

// vital are the parts without which a process does not do what it is for: the
// server takes and answers, the agent measures and keeps, even while the
// server is away.
var (
	vitalServer = []string{"ledger", "queue"}
	vitalAgent  = []string{"sampler", "spool"}
)

// health computes the process's health and whether it is ready: no vital part
// has failed.
func (s *server) health(r *http.Request) (Health, bool) {
	now := s.router.clock()
	h := Health{
		Status: OK, Version: s.Version,
		UptimeSeconds: int64(now.Sub(s.router.started) / time.Second),
		Components:    make(map[string]Component),
	}
	if s.Health != nil {
		h.Components = Judge(s.Health.Facts(r.Context()), now)
	}
	for name, c := range h.Components {
		if s.agent && name == "queue" && c.Status == Failed {
			c.Status = Degraded // an agent is made to go on without the server
			h.Components[name] = c
		}
		h.Status = h.Status.worse(c.Status)
	}
	vital := vitalServer
	if s.agent {
		vital = vitalAgent
	}
	ready := s.Health != nil
	for _, name := range vital {
		c, there := h.Components[name]
		ready = ready && there && c.Status != Failed
	}
	return h, ready
}

// healthRoutes are those that both servers have. Probes of other people's making ask
// the first three: what they add to the address is ignored.
func (s *server) healthRoutes() []route {
	return []route{
		{
			pattern: "GET /health", access: anybody, handle: s.getAlive("healthy"),
			id: "health", tag: "health", summary: "The process answers", lenient: true,
			description: "For load balancers. It says nothing of the parts: see `/readyz` and `/api/v1/health/status`.",
			replies:     []reply{says(http.StatusOK, "It does.")},
		},
		{
			pattern: "GET /livez", access: anybody, handle: s.getAlive("ok"),
			id: "live", tag: "health", summary: "The process answers, by the name that Kubernetes uses", lenient: true,
			description: "Where it does not, the process is to be started anew.",
			replies:     []reply{says(http.StatusOK, "It does.")},
		},
		{
			pattern: "GET /readyz", access: anybody, handle: s.getReady,
			id: "ready", tag: "health", summary: "Every vital part works", lenient: true,
			description: "Of a server the ledger and the queue, of an agent the sampler and the spool.",
			params: []*parameter{{
				name: "verbose", kind: asFlag, example: "1", description: "name each part and its status, whatever the value",
			}},
			replies: []reply{
				says(http.StatusOK, "Every vital part works."),
				says(http.StatusServiceUnavailable, "A vital part does not work.", waitFor),
			},
		},
		{
			pattern: "GET /api/v1/health/status", access: brief, handle: s.getHealth,
			id: "healthStatus", tag: "health", summary: "Health of every component, computed from facts",
			description: "Answers without a token too, and to one without the scope read, then without details and facts.",
			replies: []reply{
				answers(http.StatusOK, "Every component is ok.", Health{}),
				answers(http.StatusServiceUnavailable, "A component is degraded or in error.", Health{}, waitFor),
			},
		},
	}
}

// getAlive answers that the process runs and serves requests, and no more.
func (s *server) getAlive(text string) handler {
	return func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Write([]byte(text))
		return nil
	}
}

// getReady answers 200 when every vital part works, and 503 otherwise; with
// ?verbose it names each part and its status.
func (s *server) getReady(w http.ResponseWriter, r *http.Request) error {
	h, ready := s.health(r)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	text := "ready\n"
	if !ready {
		text = "not ready\n"
		w.Header().Set("Retry-After", retryAfter)
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	if queryOf(r).has("verbose") {
		var b strings.Builder
		for _, name := range slices.Sorted(maps.Keys(h.Components)) {
			fmt.Fprintf(&b, "%s %s\n", name, h.Components[name].Status)
		}
		text = b.String() + text
	}
	w.Write([]byte(text))
	return nil
}

// getHealth answers with every component; 503 unless all is well. A caller
// without the scope read, or who does not see everything, sees the statuses and no
// details: these name instances.
func (s *server) getHealth(w http.ResponseWriter, r *http.Request) error {
	h, _ := s.health(r)
	if by := caller(r); !by.May(odometer.ScopeRead) || !seen(r).All() {
		for name, c := range h.Components {
			c.Details, c.Facts = nil, nil
			h.Components[name] = c
		}
	}
	status := http.StatusOK
	if h.Status != OK {
		status = http.StatusServiceUnavailable
		w.Header().Set("Retry-After", retryAfter)
	}
	return writeJSON(w, status, h)
}
