package main

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/api"
	"example.org/odometer/directory"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// parts are the stages of a process as the API looks at them. What a process
// does not have is nil.
type parts struct {
	dataDir string
	host    *host
	publish func() queue.PublisherStats
	conn    func() *queue.Conn // returns nil while there is no connection yet
	// why there is no connection yet; only called where conn returns nil.
	unconnected func() error
	// store says whether the embedded queue stores messages; nil where the
	// queue is elsewhere.
	store   func() error
	ledger  *ledger.Ledger
	ingest  *ingest.Ingest
	entries *entries
	feed    *queue.Feed
	live    *liveView
	fleet   *fleet
	tls     *tlsPair // nil for no TLS
	// listener is where the API answers, nil for nowhere.
	listener *api.Listener
	hints    *ownerMap           // nil without one
	service  *directory.Follower // nil without an account service
	maxAge   time.Duration       // of its answers
	alerts   *alerts             // nil for an agent
	// interval between samples that are due.
	interval time.Duration
}

// backlogWithin bounds how long a look at the queue may delay an answer about
// health.
const backlogWithin = time.Second

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// Facts implements [api.HealthSource].
func (p *parts) Facts(ctx context.Context) api.Facts {
	var f api.Facts
	if h := p.host; h != nil {
		live := h.agent.Live()
		f.Sampler = &api.SamplerFacts{Started: h.started, LastSample: live.Sampled, Interval: p.interval, Err: reason(live.SampleErr)}
		st := h.spool.Stats()
		f.Spool = &api.SpoolFacts{
			Records: st.Unacked, Bytes: st.Unfreed, Limit: st.MaxBytes, Oldest: st.Oldest, Err: reason(st.Err),
			Full: st.Full, Waiting: live.Pending,
		}
		if last := live.Last; last != nil {
			f.Spool.Accepted = time.UnixMicro(last.Span.End)
		}
		f.Clock = clockFacts()
		if h.vms != nil {
			f.Inventory = h.vms.facts()
		}
	}
	if p.publish != nil {
		st := p.publish()
		f.Publish = &api.PublishFacts{
			Breaker: string(st.Breaker), Outstanding: int64(st.Unreceipted), Since: st.Oldest, LastReceipt: st.LastReceipt, Err: reason(st.Err),
		}
	}
	if p.conn != nil {
		f.Queue = p.queueFacts(ctx)
	}
	f.TLS = p.tls.facts()
	if p.ledger != nil {
		f.Ledger = p.ledgerFacts(ctx)
	}
	if p.fleet != nil {
		f.Instances = p.fleet.facts()
		if p.hints != nil {
			f.Instances.OwnerMap = reason(p.hints.err())
		}
	}
	if p.service != nil {
		f.Directory = directoryFacts(p.service, p.maxAge)
	}
	if p.feed != nil {
		st := p.feed.Stats()
		f.Feed = &api.FeedFacts{Behind: st.Lag, Oldest: p.entries.since(), Last: st.Last, Err: reason(st.Err)}
	}
	if p.alerts != nil {
		p.alerts.facts(&f)
	}
	return f
}

func (p *parts) queueFacts(ctx context.Context) *api.QueueFacts {
	f := &api.QueueFacts{Pending: -1, Since: time.Now()}
	conn := p.conn()
	if conn == nil {
		f.Err = reason(p.unconnected())
		return f
	}
	st := conn.Status()
	f.Connected, f.Since, f.Err = st.Connected, st.Since, reason(st.Err)
	if p.store != nil {
		f.Store = reason(p.store())
	}
	if p.ledger != nil && st.Connected {
		ctx, cancel := context.WithTimeout(ctx, backlogWithin)
		defer cancel()
		if n, err := conn.Backlog(ctx); err == nil {
			f.Pending = int64(n)
		} else {
			f.Err = reason(err)
		}
	}
	return f
}

func (p *parts) ledgerFacts(ctx context.Context) *api.LedgerFacts {
	st, err := p.ledger.Stats(ctx)
	if err != nil {
		return &api.LedgerFacts{Err: reason(err)}
	}
	return &api.LedgerFacts{Writable: st.Err == "", LastCommit: st.LastCommit, Err: st.Err}
}

// clockFacts asks the kernel about the wall clock.
func clockFacts() *api.ClockFacts {
	var tx unix.Timex
	_, err := unix.Adjtimex(&tx)
	return &api.ClockFacts{Set: time.Now().After(earliest), Synchronised: err == nil && clockSynchronised(&tx)}
}

// Machine implements [api.MachineReader]. The sampler and the API agree on
// the names of the JSON form, which is how one becomes the other.
func (p *parts) Machine(context.Context) (m api.Machine, err error) {
	now, err := p.host.machine.Metrics()
	if err != nil {
		return m, fmt.Errorf("read this machine: %w: %w", odometer.ErrUnavailable, err)
	}
	if now.AccountID != nil && *now.AccountID == odometer.Unassigned {
		now.AccountID = nil // nobody was named
	}
	b, err := json.Marshal(now)
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// stats are the figures for /metrics.
func (p *parts) stats() api.Stats {
	var s api.Stats
	if h := p.host; h != nil {
		s.Sampler = func() api.SamplerStats {
			live := h.agent.Live()
			return api.SamplerStats{
				Samples: uint64(live.Readings), Errors: uint64(live.Refused), LastSample: live.Sampled, Instances: instances(live.Open),
			}
		}
		s.Spool = func() api.SpoolStats {
			st := h.spool.Stats()
			return api.SpoolStats{
				Records: st.Unacked, Bytes: st.Bytes, Limit: st.MaxBytes, Oldest: st.Oldest,
				Appended: uint64(st.Appended), Coalesced: uint64(st.Coalesced),
			}
		}
	}
	if p.publish != nil {
		s.Publish = func() api.PublishStats { return publishStats(p.publish()) }
	}
	if p.ledger != nil {
		s.Ingest, s.Ledger = p.ingestStats, p.ledgerStats
	}
	if p.feed != nil {
		s.Feed = func() api.FeedStats {
			st := p.feed.Stats()
			return api.FeedStats{Published: st.Published, Behind: st.Lag, Errors: st.Errors}
		}
	}
	if p.alerts != nil {
		p.alerts.stats(&s)
	}
	if p.tls != nil {
		s.TLS = p.tls.stats
	}
	if p.listener != nil {
		s.Conns = p.listener.Stats
	}
	return s
}

func instances(open []*odometer.Event) int {
	seen := map[odometer.InstanceID]bool{}
	for _, e := range open {
		seen[e.Instance] = true
	}
	return len(seen)
}

func publishStats(st queue.PublisherStats) api.PublishStats {
	return api.PublishStats{
		Emitted: st.Emitted, Acknowledged: st.Acknowledged, Receipted: st.Committed,
		Attempts: st.Frames, Retries: st.Retries, Failures: st.Failures, Resends: st.Resends,
		Breaker: string(st.Breaker), BreakerOpens: st.BreakerOpens,
	}
}

func (p *parts) ledgerStats() api.LedgerStats {
	st, err := p.ledger.Stats(context.Background())
	if err != nil {
		return api.LedgerStats{}
	}
	in, disagreements := p.ingest.Stats(), uint64(0)
	for _, d := range p.ledger.Disagreements() {
		disagreements += d.Events
	}
	return api.LedgerStats{
		Entries: st.Entries, Instances: st.Instances, Epochs: st.Epochs, Held: st.Counts[string(odometer.Held)], Quarantine: st.Quarantine, Disagreements: disagreements,
		Commits: uint64(in.Commits), CommitSeconds: in.CommitTime.Seconds(), LastCommit: st.LastCommit, Writable: st.Err == "",
	}
}

func (p *parts) ingestStats() api.IngestStats {
	st, err := p.ledger.Stats(context.Background())
	if err != nil {
		return api.IngestStats{Pending: -1}
	}
	in := p.ingest.Stats()
	out := api.IngestStats{
		Frames: uint64(in.Frames), Received: uint64(st.Counts["received"]), Outcomes: map[odometer.Outcome]uint64{}, Pending: int64(in.Waiting),
	}
	for _, o := range odometer.Outcomes {
		out.Outcomes[o] = uint64(st.Counts[string(o)])
	}
	return out
}

// Status implements [api.StatusReader].
func (p *parts) Status(ctx context.Context) (api.Status, error) {
	st, err := p.ledger.Stats(ctx)
	if err != nil {
		return api.Status{}, err
	}
	out := api.Status{
		DataDir: p.dataDir,
		Ledger: api.LedgerStatus{
			ID: st.Ledger, Generation: st.Generation, Schema: ledger.SchemaVersion,
			Entries: st.Entries, Instances: st.Instances, Epochs: st.Epochs,
			Held: st.Counts[string(odometer.Held)], Quarantine: st.Quarantine, Counts: st.Counts,
		},
		Agents: p.live.agents(), Conflicts: p.fleet.conflicts(), Pipeline: map[string]uint64{},
	}
	disagreeing := map[odometer.AgentID]uint64{}
	for _, d := range p.ledger.Disagreements() {
		disagreeing[d.Agent] = d.Events
	}
	for i := range out.Agents {
		out.Agents[i].OwnerDisagreements = disagreeing[out.Agents[i].ID]
	}
	if p.fleet.directory != nil {
		described := p.fleet.directory.Agents()
		for i := range out.Agents {
			if n, ok := described[out.Agents[i].ID]; ok {
				out.Agents[i].Instances = &n
			}
		}
	}
	if !st.LastCommit.IsZero() {
		out.Ledger.LastCommit = &st.LastCommit
	}
	if from, err := p.ledger.JournalFrom(ctx); err != nil {
		return api.Status{}, err
	} else if !from.IsZero() {
		out.Ledger.JournalFrom = &from
	}
	generations, err := p.ledger.Generations(ctx)
	if err != nil {
		return api.Status{}, err
	}
	for _, g := range generations {
		out.Ledger.Generations = append(out.Ledger.Generations, api.GenerationStatus{Generation: g.Generation, Began: g.Began, After: g.After})
	}
	if p.publish != nil {
		s := p.publish()
		out.Pipeline["emitted"], out.Pipeline["acknowledged"], out.Pipeline["receipted"] = s.Emitted, s.Acknowledged, s.Committed
	}
	if p.host != nil {
		out.Pipeline["spooled"] = uint64(p.host.spool.Stats().Unacked)
	}
	return out, nil
}

// quarantine joins the ledger's quarantine to the API's.
type quarantine struct{ *ledger.Ledger }

func (q quarantine) Quarantine(ctx context.Context, limit int) ([]api.QuarantineItem, error) {
	rows, err := q.Ledger.Quarantine(ctx, limit)
	if err != nil {
		return nil, err
	}
	items := make([]api.QuarantineItem, len(rows))
	for i, r := range rows {
		items[i] = api.QuarantineItem{
			Partition: r.Partition, No: r.No, Reason: r.Reason, Detail: r.Detail,
			EventID: r.EventID, Instance: odometer.InstanceID(r.Instance), At: r.At,
		}
	}
	return items, nil
}

// sampleEvery is how often an agent with this interval samples.
func sampleEvery(interval time.Duration) time.Duration { return min(interval, agent.Tick) }
