package api

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
)

// Now is the time at which every fixture stands.
var Now = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// InMemory is a whole ledger in memory, with live view, quarantine and status:
// it keeps the promises of the interfaces in api.go, only not across a crash.
type InMemory struct {
	mu         sync.Mutex
	entries    []odometer.Entry
	epochs     map[odometer.Epoch]uint64 // the last sequence that is booked
	contents   map[string]odometer.Digest
	held       map[string]odometer.Event
	quarantine []quarantined
	open       []OpenPeriod
	described  []described
	kept       *account.Accounts // of instances
	counts     map[string]int64
	news       chan struct{} // closed when something is booked; nil while nobody waits
	// Fails is what every call answers while it is set.
	Fails  error
	owners []odometer.Ownership

	closed     []odometer.MonthClose
	statements []*odometer.Statement // in the order of lists
}

type quarantined struct {
	item   QuarantineItem
	record odometer.Record
}

// NewInMemory returns an empty ledger.
func NewInMemory() *InMemory {
	return &InMemory{
		epochs: map[odometer.Epoch]uint64{}, contents: map[string]odometer.Digest{},
		held: map[string]odometer.Event{}, counts: map[string]int64{},
	}
}

func (m *InMemory) Submit(ctx context.Context, records []odometer.Record) ([]odometer.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.Fails, ctx.Err()); err != nil {
		return nil, err
	}
	results := make([]odometer.Result, len(records))
	for i, r := range records {
		results[i] = m.take(r)
		m.counts["received"]++
		m.counts[string(results[i].Outcome)]++
	}
	return results, nil
}

func (m *InMemory) take(r odometer.Record) odometer.Result {
	if r.Err != nil {
		return m.putAside(r, "undecodable", r.Err.Error())
	}
	e := r.Event
	if content, known := m.contents[e.ID()]; known {
		if content != e.Content() {
			return m.putAside(r, "conflict", "the same event was recorded with other content")
		}
		return odometer.Result{EventID: e.ID(), Outcome: odometer.Duplicate}
	}
	last := m.epochs[e.Epoch]
	switch {
	case e.Integral() && e.Sequence <= last:
		return odometer.Result{EventID: e.ID(), Outcome: odometer.Covered}
	case e.Integral() && e.FirstSequence > last+1:
		m.held[e.ID()] = *e
		return odometer.Result{EventID: e.ID(), Outcome: odometer.Held, Reason: "hole", Detail: fmt.Sprintf("waits for sequence %d", last+1)}
	}
	m.book(*e)
	for released := true; released; {
		released = false
		for id, h := range m.held {
			if h.Epoch == e.Epoch && h.FirstSequence == m.epochs[e.Epoch]+1 {
				delete(m.held, id)
				m.book(h)
				released = true
			}
		}
	}
	return odometer.Result{EventID: e.ID(), Outcome: odometer.Recorded}
}

func (m *InMemory) book(e odometer.Event) {
	id, partition := e.ID(), e.Agent.Partition()
	if !e.Integral() {
		usage, span, err := odometer.UsageOf10(&e)
		if err != nil {
			panic(err) // DecodeEvent had refused it
		}
		e.Usage, e.Span = usage, span
		partition = odometer.AgentID(e.Source).Partition()
	}
	m.contents[id] = e.Content()
	m.epochs[e.Epoch] = max(m.epochs[e.Epoch], e.Sequence)
	e.Owner = e.Owner.OrUnassigned()
	n := uint64(1)
	for _, have := range m.entries {
		if have.ID.Partition == partition {
			n++
		}
	}
	m.entries = append(m.entries, odometer.Entry{
		ID: odometer.EntryID{Partition: partition, Number: n}, Kind: odometer.KindUsage,
		SourceEventID: id, BookedAt: Now.UnixMicro(), Event: e,
	})
	m.told()
}

// told tells those who wait that something is booked.
func (m *InMemory) told() {
	if m.news != nil {
		close(m.news)
		m.news = nil
	}
}

func (m *InMemory) News() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.news == nil {
		m.news = make(chan struct{})
	}
	return m.news
}

// Follow answers two entries at a time, and looks at all.
func (m *InMemory) Follow(ctx context.Context, seen odometer.View, q odometer.EntryQuery) ([]odometer.Followed, string, error) {
	end, _ := m.End(ctx)
	q.Limit = 2
	entries, next, err := m.Entries(ctx, seen, q)
	if err != nil {
		return nil, "", err
	}
	var list []odometer.Followed
	for i := range entries {
		q := q
		q.Limit = i + 1
		_, after, err := m.Entries(ctx, seen, q)
		if err != nil {
			return nil, "", err
		}
		list = append(list, odometer.Followed{Cursor: after, Entry: entries[i].AppendJSON(nil)})
	}
	if len(list) < q.Limit {
		next = end
	}
	return list, next, nil
}

func (m *InMemory) putAside(r odometer.Record, reason, detail string) odometer.Result {
	item := QuarantineItem{No: int64(len(m.quarantine) + 1), Reason: reason, Detail: detail, At: Now, Event: r.Raw}
	if e := r.Event; e != nil {
		item.EventID, item.Instance, item.Partition = e.ID(), e.Instance, e.Agent.Partition()
	}
	m.quarantine = append(m.quarantine, quarantined{item, r})
	return odometer.Result{EventID: item.EventID, Outcome: odometer.Quarantined, Reason: reason, Detail: detail}
}

func (m *InMemory) Usage(ctx context.Context, seen odometer.View, q odometer.UsageQuery) ([]odometer.UsageRow, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.Fails, ctx.Err()); err != nil {
		return nil, err
	}
	type key struct {
		i odometer.InstanceID
		u odometer.UserID
		o odometer.OrgID
		t int64
	}
	rows := map[key]*odometer.UsageRow{}
	calendar := odometer.CalendarOf(q.GroupBy, q.Zone)
	for _, entry := range m.entries {
		e := entry.Event
		if q.Instance != "" && e.Instance != q.Instance || q.User != "" && e.Owner.User != q.User || q.Org != "" && e.Owner.Org != q.Org || q.AsOf != 0 && entry.BookedAt > q.AsOf {
			continue
		}
		// Cut at the edges of the calendar and never shared: an entry of the tests
		// lies on one side.
		since, sees := seen.SeesFrom(e.Instance, e.Owner)
		for from := max(q.From, e.Span.Start, since); sees && from < min(q.To, e.Span.End); {
			k, to := key{}, min(q.To, e.Span.End)
			if calendar.By != odometer.ByNothing {
				k.t = calendar.Start(from)
				to = min(to, calendar.Next(k.t))
			}
			for _, g := range q.GroupBy {
				switch g {
				case odometer.ByInstance:
					k.i = e.Instance
				case odometer.ByUser:
					k.u = e.Owner.User
				case odometer.ByOrg:
					k.o = e.Owner.Org
				}
			}
			if rows[k] == nil {
				rows[k] = &odometer.UsageRow{Instance: k.i, User: k.u, Org: k.o, Start: k.t}
			}
			part := e.Usage.Between(e.Span, from, to)
			for i, n := range part.Vector {
				rows[k].Totals[i].Add(n)
			}
			rows[k].Known |= part.Known
			from = to
		}
	}
	if q.Most != 0 && len(rows) > q.Most {
		return nil, odometer.ErrTooManyRows
	}
	var all []odometer.UsageRow
	for _, row := range rows {
		all = append(all, *row)
	}
	slices.SortFunc(all, func(a, b odometer.UsageRow) int {
		return cmp.Or(cmp.Compare(a.Start, b.Start), cmp.Compare(a.Org, b.Org), cmp.Compare(a.User, b.User), cmp.Compare(a.Instance, b.Instance))
	})
	return q.Rank(all), nil
}

func (m *InMemory) Entries(ctx context.Context, seen odometer.View, q odometer.EntryQuery) ([]odometer.Entry, string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.Fails, ctx.Err()); err != nil {
		return nil, "", err
	}
	at := 0
	if q.After != "" {
		digits, ok := strings.CutPrefix(q.After, "m")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || n < 0 || n > len(m.entries) {
			return nil, "", fmt.Errorf("cursor %q is not of this ledger: %w", q.After, odometer.ErrInvalid)
		}
		at = n
	}
	end := len(m.entries)
	if q.Before != "" {
		end, _ = strconv.Atoi(strings.TrimPrefix(q.Before, "m"))
	}
	var page []odometer.Entry
	next := ""
	for ; at < end && len(page) < q.Limit; at++ {
		e := m.entries[at]
		if !q.Wants(&e) || !seen.SeesUse(e.Event.Instance, e.Event.Owner, e.Event.Span.Start) {
			continue
		}
		page, next = append(page, e), fmt.Sprintf("m%d", at+1)
	}
	return page, next, nil
}

// EachUsage and EachEntry are what Usage and Entries answer, without a limit.
func (m *InMemory) EachUsage(ctx context.Context, seen odometer.View, q odometer.UsageQuery, each func(*odometer.UsageRow) error) error {
	rows, err := m.Usage(ctx, seen, q)
	for i := 0; err == nil && i < len(rows); i++ {
		err = each(&rows[i])
	}
	return err
}

func (m *InMemory) EachEntry(ctx context.Context, seen odometer.View, q odometer.EntryQuery, each func(*odometer.Entry) error) error {
	q.Limit = math.MaxInt
	entries, _, err := m.Entries(ctx, seen, q)
	for i := 0; err == nil && i < len(entries); i++ {
		err = each(&entries[i])
	}
	return err
}

func (m *InMemory) End(context.Context) (string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprintf("m%d", len(m.entries)), m.Fails
}

func (m *InMemory) Revision(_, _ int64) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprint(len(m.entries))
}

// Lifecycle tells what the booked events tell that are seen.
func (m *InMemory) Lifecycle(_ context.Context, seen odometer.View, q odometer.LifecycleQuery) ([]odometer.Happening, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Fails != nil {
		return nil, m.Fails
	}
	var list []odometer.Happening
	for _, e := range m.entries {
		for _, c := range e.Event.Lifecycle {
			if c.Instance = e.Event.Instance; c.Instance == q.Instance && c.At.Wall >= q.From && (q.To == 0 || c.At.Wall < q.To) && seen.SeesUse(e.Event.Instance, e.Event.Owner, odometer.Hour(c.At.Wall)) {
				list = append(list, odometer.Happening{Change: c, Agent: e.Event.Agent})
			}
		}
	}
	cut := max(0, len(list)-q.Limit)
	for cut > 0 && list[cut-1].At.Wall == list[cut].At.Wall {
		cut--
	}
	return list[cut:], nil
}

// Ownership is what was assigned, each over all that was before.
func (m *InMemory) Ownership(_ context.Context, instance odometer.InstanceID) (list []odometer.Ownership, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.owners {
		if o.Instance == instance {
			list = append(list, o)
		}
	}
	slices.SortFunc(list, func(a, b odometer.Ownership) int { return cmp.Compare(a.From, b.From) })
	return list, m.Fails
}

// Assign ends what is recorded from the moment on. It moves entries that lie within
// the time as a whole, and has no corrections booked.
func (m *InMemory) Assign(_ context.Context, o odometer.Ownership, actor, cause string, dry bool) (odometer.Assignment, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	endless := o.Until == 0
	if endless {
		o.Until = odometer.Forever
	}
	a := odometer.Assignment{Ownership: o}
	if m.Fails != nil {
		return a, m.Fails
	}
	if err := o.Valid(); err != nil {
		return a, err
	}
	var kept []odometer.Ownership
	for _, p := range m.owners {
		switch {
		case p.Instance != o.Instance || p.Until <= o.From || p.From >= o.Until:
			kept = append(kept, p)
			continue
		case endless && p.From > o.From:
			return a, fmt.Errorf("its owner changes already: say until when this is to hold: %w", odometer.ErrConflict)
		}
		before := p
		before.Until, p.From = min(p.Until, o.From), max(p.From, o.From)
		if a.Replaces = append(a.Replaces, p); before.From < before.Until {
			kept = append(kept, before)
		}
	}
	for i := range m.entries {
		ev := &m.entries[i].Event
		if ev.Instance == o.Instance && ev.Span.Start >= o.From && ev.Span.End <= o.Until && ev.Owner != o.Owner {
			a.Moves = append(a.Moves, odometer.Move{Epoch: ev.Epoch, Span: ev.Span, From: ev.Owner, To: o.Owner, Usage: ev.Usage})
		}
	}
	if !dry {
		m.owners = append(kept, o)
	}
	return a, nil
}

func (m *InMemory) Quarantine(_ context.Context, limit int) ([]QuarantineItem, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var items []QuarantineItem
	for _, q := range slices.Backward(m.quarantine) {
		if len(items) < limit {
			items = append(items, q.item)
		}
	}
	return items, m.Fails
}

func (m *InMemory) Release(_ context.Context, partition int, no int64, actor string) (odometer.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.quarantine {
		q := &m.quarantine[i]
		if q.item.Partition != partition || q.item.No != no {
			continue
		}
		switch {
		case q.item.Released != nil:
			return odometer.Result{}, fmt.Errorf("quarantine %d-%d was released before: %w", partition, no, odometer.ErrConflict)
		case q.record.Event == nil:
			return odometer.Result{}, fmt.Errorf("quarantine %d-%d is no event: %w", partition, no, odometer.ErrConflict)
		}
		q.item.Released = &Now
		m.book(*q.record.Event)
		return odometer.Result{EventID: q.item.EventID, Outcome: odometer.Recorded, Detail: "released by " + actor}, nil
	}
	return odometer.Result{}, fmt.Errorf("quarantine %d-%d: %w", partition, no, odometer.ErrNotFound)
}

func (m *InMemory) Reverse(_ context.Context, id odometer.EntryID, actor, cause string) (odometer.Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fail := func(err error) (odometer.Entry, error) {
		return odometer.Entry{}, fmt.Errorf("reverse entry %s: %w", id, err)
	}
	i := slices.IndexFunc(m.entries, func(e odometer.Entry) bool { return e.ID == id })
	if m.Fails != nil || i < 0 {
		return fail(cmp.Or(m.Fails, odometer.ErrNotFound))
	}
	e := m.entries[i]
	for _, c := range m.entries {
		if strings.HasPrefix(c.Cause, "reverses "+id.String()+":") {
			return fail(fmt.Errorf("it was reversed by entry %s: %w", c.ID, odometer.ErrConflict))
		}
		if c.ID.Partition == id.Partition {
			e.ID.Number = c.ID.Number + 1
		}
	}
	e.Kind, e.Cause, e.BookedAt = odometer.KindCorrection, fmt.Sprintf("reverses %s: %s, says %s", id, cause, actor), Now.UnixMicro()
	for q := range e.Event.Usage.Vector {
		e.Event.Usage.Vector[q] *= -1
	}
	e.Event.Metrics, e.Event.Readings = odometer.Metrics{}, odometer.Readings{}
	m.entries = append(m.entries, e)
	m.told()
	return e, nil
}

func (m *InMemory) Open(seen odometer.View, instance odometer.InstanceID) []OpenPeriod {
	m.mu.Lock()
	defer m.mu.Unlock()
	var open []OpenPeriod
	for _, o := range m.open {
		if (instance == "" || o.Event.Instance == instance) && m.epochs[o.Event.Epoch] < o.Event.Sequence && seen.SeesUse(o.Event.Instance, o.Event.Owner.OrUnassigned(), o.Event.Span.Start) {
			open = append(open, o)
		}
	}
	return open
}

// Hear makes e the open period of its epoch.
func (m *InMemory) Hear(e odometer.Event, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open = slices.DeleteFunc(m.open, func(o OpenPeriod) bool { return o.Event.Epoch == e.Epoch })
	m.open = append(m.open, OpenPeriod{Event: e, HeardAt: at})
}

func (m *InMemory) Status(context.Context) (Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Status{
		Ledger: LedgerStatus{
			ID: "00112233445566778899aabbccddeeff", Generation: 1, Entries: int64(len(m.entries)),
			Epochs: int64(len(m.epochs)), Instances: int64(len(m.epochs)), Held: int64(len(m.held)),
			Quarantine: int64(len(m.quarantine)), Counts: m.counts, LastCommit: &Now,
		},
		Agents:    []AgentStatus{{ID: "host-1", Spool: "0123456789abcdef0123456789abcdef", Position: 7, LastSeen: &Now, Open: len(m.open), Instances: new(len(m.described))}},
		Pipeline:  map[string]uint64{"emitted": 7, "acknowledged": 7, "receipted": 7},
		Conflicts: m.conflicts(),
	}, m.Fails
}

// SampleEvent is the event number seq, of 30 seconds each from 14:00 on, of an
// instance on host-1. GPU quantities are unknown.
func SampleEvent(instance odometer.InstanceID, seq uint64, owner odometer.Owner) odometer.Event {
	u := odometer.Usage{Known: odometer.AllKnown &^ (1<<odometer.GPU | 1<<odometer.GPUBusy)}
	u.Vector = odometer.Vector{
		odometer.CPU: 12_060_000, odometer.VCPU: 60_000_000, odometer.Memory: 46_080, odometer.MemoryAllocated: 122_880,
		odometer.Storage: 614_400, odometer.StorageProvisioned: 1_228_800, odometer.NetworkEgress: 1_310_720,
		odometer.NetworkIngress: 524_288, odometer.DiskRead: 4096, odometer.DiskWrite: 8192, odometer.MeasuredTime: 30_000_000,
	}
	start := time.Date(2026, 1, 2, 14, 0, 0, 0, time.UTC).UnixMicro()
	e := odometer.Event{
		Version: odometer.Version11, Instance: instance, Owner: owner, Agent: "host-1",
		Epoch: odometer.NewEpoch(instance, "host-1", "sample", "1"), EpochStart: start,
		FirstSequence: seq, Sequence: seq,
		Span:  odometer.Span{Start: start + int64(seq-1)*30_000_000, End: start + int64(seq)*30_000_000},
		Usage: u, Quality: odometer.Measured,
	}
	e.Readings.Start.Known, e.Readings.End.Known = u.Known, u.Known
	for q, n := range u.Vector {
		e.Readings.Start.Vector[q] = n * int64(seq-1)
		e.Readings.End.Vector[q] = n * int64(seq)
	}
	e.Derive(0, 0)
	return e
}

// Healthy are the facts of a server with nothing to complain about.
func Healthy() Facts {
	return Facts{
		Sampler: &SamplerFacts{Started: Now.Add(-time.Hour), LastSample: Now.Add(-time.Second), Interval: time.Second},
		Spool:   &SpoolFacts{Bytes: 4096, Limit: 1 << 30, Accepted: Now.Add(-10 * time.Second)},
		Publish: &PublishFacts{Breaker: "closed", LastReceipt: Now.Add(-9 * time.Second)},
		Queue:   &QueueFacts{Connected: true, Since: Now.Add(-time.Hour)},
		Ledger:  &LedgerFacts{Writable: true, LastCommit: Now.Add(-9 * time.Second)},
		Feed:    &FeedFacts{Last: Now.Add(-9 * time.Second)},
		Clock:   &ClockFacts{Set: true, Synchronised: true},
	}
}

// FixedFacts is a HealthSource whose facts the test sets.
type FixedFacts struct{ Facts Facts }

func (f *FixedFacts) source() HealthSource { return factsOf{f} }

type factsOf struct{ f *FixedFacts }

func (f factsOf) Facts(context.Context) Facts { return f.f.Facts }

// FixedMachine is a machine that never changes.
type FixedMachine struct{ Err error }

func (m FixedMachine) read(context.Context) (Machine, error) {
	return Machine{
		Timestamp: Now.Unix(), Instance: new("web-01"),
		CPU:    CPU{UsagePercent: new(12.5), Processes: new(int64(211))},
		Memory: Memory{Total: new(int64(8 << 30)), Free: new(int64(1 << 30)), Available: new(int64(5 << 30)), Used: new(int64(3 << 30)), TotalSwap: new(int64(0)), UsedSwap: new(int64(0))},
		Disks:  []Disk{{Name: "vda", ReadsCompleted: 10, SectorsRead: 80, WritesCompleted: 20, SectorsWritten: 160}},
		Network: Network{Interfaces: []Interface{
			{Name: "eth0", BytesSent: 1000, BytesReceived: 2000, PacketsSent: 10, PacketsReceived: 20},
		}},
		Load: Load{Load1: new(0.31), Load5: new(0.25), Load15: new(0.2)},
	}, m.Err
}

// Fixture is a server on an InMemory ledger, with real accounts.
type Fixture struct {
	*InMemory
	Accounts *account.Accounts
	Alerts   *Alerts
	Health   *FixedFacts
	Machine  *FixedMachine
	Deps     Deps
}

// NewFixture returns a server's parts. Its tokens are "secret", whose holder
// is admin, and "other", whose holder is bob.
func NewFixture(t *testing.T) *Fixture {
	t.Helper()
	clock := func() time.Time { return Now }
	f := &Fixture{InMemory: NewInMemory(), Accounts: NewAccounts(t, clock), Alerts: NewAlerts(), Health: &FixedFacts{Healthy()}, Machine: &FixedMachine{}}
	f.InMemory.kept = f.Accounts
	f.Deps = Deps{
		Version: "0.1", Clock: clock, Tokens: f.Accounts, People: f.Accounts, Grants: f.Accounts, Identities: f.Accounts, Registered: f.Accounts, Hosts: Office{f.Accounts}, Consumers: f.Accounts, Audit: f.Accounts, Thresholds: f.Alerts, Violations: f.Alerts, Channels: f.Alerts,
		Auth:  Authenticators{Tokens{HashToken("admin", "secret"), HashToken("bob", "other")}, f.Accounts},
		Usage: f.InMemory, Entries: f.InMemory, Exports: f.InMemory, Revisions: f.InMemory, Stream: f.InMemory, StreamLife: time.Millisecond, Submit: f.InMemory, Live: f.InMemory, Lifecycle: f.InMemory, Ownership: f.InMemory, Months: f.InMemory, Quarantine: f.InMemory, Reversals: f.InMemory, Status: f.InMemory, Instances: f.InMemory,
		Health: f.Health.source(), Machine: machineOf{f.Machine}, Stats: SampleStats(),
		QueueURL: func() string { return "nats://127.0.0.1:4222" }, CursorKey: []byte("of the tests"),
	}
	return f
}

// NewAccounts returns accounts without a ledger beside them, whose secrets are the
// same in every test.
func NewAccounts(t *testing.T, clock func() time.Time) *account.Accounts {
	t.Helper()
	a, err := account.OpenAccounts(t.Context(), account.AccountsOptions{
		Path: filepath.Join(t.TempDir(), "ledger.db"), Clock: clock, Random: rand.NewChaCha8([32]byte{1}),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

type machineOf struct{ m *FixedMachine }

func (m machineOf) Machine(ctx context.Context) (Machine, error) {
	if m.m.Err != nil {
		return Machine{}, m.m.Err
	}
	return m.m.read(ctx)
}

// SampleStats are figures that differ from one another.
func SampleStats() Stats {
	return Stats{
		Sampler: func() SamplerStats { return SamplerStats{Samples: 1, Errors: 2, LastSample: Now, Instances: 3} },
		Spool: func() SpoolStats {
			return SpoolStats{Records: 4, Bytes: 5, Limit: 6, Oldest: Now, Appended: 7, Coalesced: 8}
		},
		Publish: func() PublishStats {
			return PublishStats{Emitted: 9, Acknowledged: 10, Receipted: 11, Duplicates: 12, Attempts: 13, Retries: 14, Failures: 15, Resends: 16, Breaker: "half-open", BreakerOpens: 17}
		},
		Ingest: func() IngestStats {
			return IngestStats{Frames: 18, Received: 19, Outcomes: map[odometer.Outcome]uint64{odometer.Recorded: 20}, Quarantined: map[string]uint64{"conflict": 21}, Refused: 22, Pending: 23}
		},
		Ledger: func() LedgerStats {
			return LedgerStats{Entries: 24, Instances: 25, Epochs: 26, Held: 27, Quarantine: 28, Disagreements: 33, Commits: 29, CommitSeconds: 1.5, LastCommit: Now, Writable: true}
		},
		Feed:  func() FeedStats { return FeedStats{Published: 30, Behind: 31, Errors: 32} },
		TLS:   func() TLSStats { return TLSStats{NotAfter: Now, Loaded: 33, Failed: 34, Stale: true} },
		Conns: func() ConnStats { return ConnStats{Open: 35, Refused: 36} },
		Thresholds: func() ThresholdStats {
			return ThresholdStats{Enabled: 37, Checked: 38, Skipped: 47, Reached: map[string]uint64{"budget": 39}, Changes: 40, Behind: 1500 * time.Millisecond, Published: 41}
		},
		Notifications: func() NotificationStats {
			return NotificationStats{Attempts: []AttemptCount{{odometer.ChannelWebhook, "delivered", 42}, {odometer.ChannelWebhook, "failed", 43}}, Waiting: 44, Dead: 45, Open: 46}
		},
	}
}

// Structured returns e as a CloudEvent in its JSON form.
func Structured(e *odometer.Event) json.RawMessage {
	b, err := json.Marshal(map[string]any{
		"specversion": "1.0", "id": e.ID(), "source": "/test", "type": odometer.CloudEventType, "data": json.RawMessage(e.AppendJSON(nil)),
	})
	if err != nil {
		panic(err)
	}
	return b
}

// Office enrols hosts where no queue has connections to end.
type Office struct{ *account.Accounts }

func (o Office) Enrol(ctx context.Context, ask odometer.EnrolRequest) (odometer.Host, error) {
	h, _, err := o.Accounts.Enrol(ctx, ask)
	return h, err
}
