package main

import (
	"context"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/api"
	"example.org/odometer/audit"
	"example.org/odometer/ingest"
	"example.org/odometer/internal/memfs"
	"example.org/odometer/ledger"
	"example.org/odometer/meter"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

// A host samples every twenty seconds, which takes a twentieth of the time that
// every second would, and its periods are of a minute.
const (
	sampled = 20 * time.Second
	period  = time.Minute
)

// seldom is the clock by which it does.
type seldom struct{}

func (seldom) Now() time.Time { return time.Now() }

func (seldom) Sleep(ctx context.Context, _ time.Duration) error {
	select {
	case <-time.After(time.Until(time.Now().Truncate(sampled).Add(sampled))):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// metered is a host: its instances, its disk and what runs there.
type metered struct {
	*parts
	fleet   *vms
	limit   int64         // of the spool
	longest time.Duration // period that it needs, by its limit
	disk    *memfs.FS     // nil for a real directory
	dir     string        // of the spool
}

// open opens the host and returns what is to run there: its agent and its
// publisher.
func (m *metered) open(t *testing.T, dir string, q *line) (meterIt, publishIt func(context.Context) error) {
	m.dir = filepath.Join(dir, string(m.fleet.agent))
	o := spool.Options{Dir: m.dir, MaxBytes: m.limit, SegmentBytes: 16 << 10}
	if m.disk != nil {
		o.FS = m.disk
	}
	s, err := spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	m.fleet.now, m.fleet.begin = time.Now, time.Now()
	a, err := agent.New(agent.Options{
		Source: m.fleet, Spool: s, Interval: period, Clock: seldom{},
		Meter: meter.New(meter.Options{Agent: m.fleet.agent, Nonce: string(s.ID()), Interval: period.Microseconds()}),
	})
	if err != nil {
		t.Fatal(err)
	}
	publish := queue.NewPublisher(q, s, queue.PublisherOptions{Agent: m.fleet.agent, Last: lastReceipt(s, m.fleet.agent), FrameEvents: 10})
	m.parts = &parts{host: &host{spool: s, agent: a, started: time.Now()}, publish: publish.Stats, interval: sampled}
	return a.Run, publish.Run
}

// within checks that the spool takes no more than its limit, and its directory
// no more than that and what lies beside.
func (m *metered) within(t *testing.T) {
	t.Helper()
	if st := m.host.spool.Stats(); st.Bytes > m.limit {
		t.Fatalf("%s: the spool has %d bytes, want at most %d", m.fleet.agent, st.Bytes, m.limit)
	}
	if m.disk != nil {
		return
	}
	const beside = 128 << 10 // the reserve, the cursor and the checkpoints
	total := int64(0)
	files, err := os.ReadDir(m.dir)
	for _, f := range files {
		if info, err := f.Info(); err == nil {
			total += info.Size()
		}
	}
	if err != nil || total == 0 || total > m.limit+beside {
		t.Fatalf("%s: the spool's directory has %d bytes, %v, want at most %d", m.fleet.agent, total, err, m.limit+beside)
	}
}

// TestTheServersDiskIsFullForDays has three hosts meter nine instances while the
// server's disk takes nothing: two whose spools lie in real directories and are
// too small for what waits, and one whose own disk is as full. Whatever it is that
// cannot write says so all the time; periods become longer, within hours as long
// as that is enough; and when there is space again, all of it drains by itself
// and the sums are the truth.
func TestTheServersDiskIsFullForDays(t *testing.T) {
	for _, c := range []struct {
		name  string
		hours int
		queue bool
	}{
		{"the ledger's, and the queue has space", 4 * 24, false}, // longer than the queue keeps anything
		{"the ledger's and the queue's", 5 * 24, true},
	} {
		if testing.Short() || raceEnabled {
			c.hours = 12
		}
		t.Run(c.name, func(t *testing.T) {
			if raceEnabled && !c.queue {
				t.Skip("one of the two is enough to find a race")
			}
			dir := t.TempDir()
			if memory, err := os.MkdirTemp("/dev/shm", "odometer-full-"); err == nil { // its syncs take no time
				dir = memory
				defer os.RemoveAll(dir)
			}
			synctest.Test(t, func(t *testing.T) { fullServer(t, dir, c.hours, c.queue) })
			report, err := audit.Run(t.Context(), audit.Options{DataDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range report.Findings {
				t.Errorf("audit: %s: %s", f.Code, f.Detail)
			}
		})
	}
}

func fullServer(t *testing.T, dir string, hours int, queueToo bool) {
	time.Sleep(time.Until(time.Date(2026, 3, 1, 10, 20, 0, 0, time.UTC)))
	l, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(dir, ledgerFile), Driver: ledgerDiskName})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	q := &line{ledger: l, more: make(chan struct{}, 1), takes: map[odometer.AgentID]func(odometer.Receipt){}}
	in := ingest.New(ingest.Options{Ledger: l, Receipts: q})
	hosts := []*metered{
		{fleet: &vms{agent: "h1", names: []odometer.InstanceID{"vm-1", "vm-2", "vm-3", "vm-4"}}, limit: 512 << 10, longest: time.Hour},
		{fleet: &vms{agent: "h2", names: []odometer.InstanceID{"vm-5", "vm-6", "vm-7"}}, limit: 32 << 10, longest: time.Duration(hours) * time.Hour},
		{fleet: &vms{agent: "h3", names: []odometer.InstanceID{"vm-8", "vm-9"}}, limit: 512 << 10, longest: time.Hour, disk: memfs.New()},
	}
	metering, stopMetering := context.WithCancel(t.Context())
	flowing, stopFlow := context.WithCancel(t.Context())
	var intake, flow errgroup.Group
	flow.Go(func() error { return in.Run(flowing, q) })
	flow.Go(func() error { return upkeep(flowing, l, func(error) {}) })
	for _, h := range hosts {
		meterIt, publishIt := h.open(t, dir, q)
		intake.Go(func() error { return meterIt(metering) })
		flow.Go(func() error { return publishIt(flowing) })
	}
	defer func() { stopMetering(); stopFlow() }() // where it ends early
	s := &shortage{server: &parts{ledger: l, ingest: in}, hosts: hosts, queue: q, queueToo: queueToo}
	defer s.fill(false)

	s.pass(time.Hour + 7*time.Second)
	s.well(t, "before")
	s.fill(true)
	pending, heap := 0, 0
	for hour := 1; hour <= hours; hour++ {
		s.pass(time.Hour)
		s.said(t)
		pending = max(pending, hosts[2].host.agent.Live().Pending)
		if hour == 12 {
			heap = heapBytes() - q.bytes
		}
	}
	if heap = heapBytes() - q.bytes - heap; heap > 16<<20 {
		t.Errorf("the heap grew by %d bytes after half a day", heap)
	}
	s.fill(false)
	for s.behind() > 0 {
		if s.pass(time.Second); time.Since(s.ended) > drainsWithin {
			t.Fatalf("%d records are not in the ledger %s after there was space", s.behind(), drainsWithin)
		}
	}
	drained := time.Since(s.ended)
	s.pass(time.Hour)
	s.well(t, "afterwards")
	stopMetering()
	if err := intake.Wait(); err != nil {
		t.Error(err)
	}
	s.pass(time.Minute)
	if n := s.behind(); n != 0 {
		t.Errorf("at the end %d records are not in the ledger", n)
	}
	stopFlow()
	if err := flow.Wait(); err != nil {
		t.Error(err)
	}

	s.sums(t)
	st, err := l.Stats(t.Context())
	if err != nil || st.Quarantine != 0 || st.Counts["held"] != 0 || st.Err != "" {
		t.Errorf("the ledger has %+v, %v", st, err)
	}
	t.Logf("%d events received, %d entries, error 0; the longest periods before, meanwhile and after: %v; %d records waited in memory; "+
		"the queue stored %d frames, at most %d bytes at once; the heap grew by %d KiB; drained in %s",
		st.Counts["received"], st.Entries, s.periods(t), pending, q.frames, q.most, heap>>10, drained)
}

// drainsWithin is how long it may take until all is in the ledger: the longest
// that a publisher waits for a receipt, and an open breaker.
const drainsWithin = 6 * time.Minute

func heapBytes() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// shortage is the story: what there is, and since when and until when the disks
// were full.
type shortage struct {
	server       *parts
	hosts        []*metered
	queue        *line
	queueToo     bool
	began, ended time.Time
}

// pass lets time pass, and what is due happen.
func (s *shortage) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
	for _, h := range s.hosts {
		if h.disk != nil {
			h.disk.Change(func() { h.disk.Log = nil }) // of no use here, and long
		}
	}
}

// fill fills the disks, or empties them.
func (s *shortage) fill(full bool) {
	theLedgersDisk.full.Store(full)
	s.queue.full.Store(full && s.queueToo)
	limit := int64(0)
	if s.ended = time.Now(); full {
		s.began, limit = s.ended, 1
	}
	for _, h := range s.hosts {
		if h.disk != nil {
			h.disk.Change(func() { h.disk.Limit = limit })
		}
	}
}

// behind is how many records the ledger does not have.
func (s *shortage) behind() (n int64) {
	for _, h := range s.hosts {
		n += h.host.spool.Stats().Unacked + int64(h.host.agent.Live().Pending)
	}
	return n
}

func judged(p *parts) map[string]api.Component {
	return api.Judge(p.Facts(context.Background()), time.Now())
}

// well checks that every part of every process is.
func (s *shortage) well(t *testing.T, when string) {
	t.Helper()
	processes := []*parts{s.server}
	for _, h := range s.hosts {
		processes = append(processes, h.parts)
	}
	for i, p := range processes {
		for name, c := range judged(p) {
			if c.Status != api.OK {
				t.Errorf("%s: process %d: %s is %s: %s", when, i, name, c.Status, *c.Details)
			}
		}
	}
}

// said checks that health names what is wrong and for how long it has been, and
// that the spools are within their limits.
func (s *shortage) said(t *testing.T) {
	t.Helper()
	want := func(of map[string]api.Component, part string, status api.HealthStatus, texts ...string) {
		t.Helper()
		for _, text := range texts {
			if c := of[part]; c.Details == nil || c.Status != status || !strings.Contains(*c.Details, text) {
				t.Fatalf("full for %s: the health of the %s is %+v, want %s and %q", time.Since(s.began), part, c, status, text)
			}
		}
	}
	since := func(of map[string]api.Component, part, fact string) {
		t.Helper()
		age, _ := of[part].Facts[fact].(int64)
		if off := time.Since(s.began) - time.Duration(age)*time.Second; off.Abs() > 2*period {
			t.Fatalf("full for %s: the %s of the %s is %d", time.Since(s.began), fact, part, age)
		}
	}
	want(judged(s.server), "ledger", api.Failed, "database or disk is full (13)", "the ledger cannot be written")
	for _, h := range s.hosts {
		h.within(t)
		of := judged(h.parts)
		if h.disk != nil {
			want(of, "spool", api.Failed, "no space left on device", "wait in memory")
			continue
		}
		since(of, "spool", "oldest_age_seconds")
		if s.queueToo {
			want(of, "publisher", api.Degraded, "insufficient storage resources available", "the circuit breaker is ")
		} else {
			since(of, "publisher", "outstanding_age_seconds")
			want(of, "publisher", api.Degraded, "no receipt for ")
		}
		if c := of["spool"]; c.Status == api.OK || !strings.Contains(*c.Details, "wait for a receipt, the oldest for ") {
			t.Fatalf("full for %s: the health of the spool is %+v", time.Since(s.began), c)
		}
	}
}

// sums checks that what the ledger has of each instance is what it used.
func (s *shortage) sums(t *testing.T) {
	t.Helper()
	for _, h := range s.hosts {
		for i, name := range h.fleet.names {
			rows, err := s.server.ledger.Usage(t.Context(), odometer.UsageQuery{To: 1 << 60, Instance: name})
			if err != nil || len(rows) != 1 {
				t.Fatalf("usage of %s: %d rows, %v", name, len(rows), err)
			}
			for q, want := range h.fleet.used(i, h.host.agent.Live().Sampled) {
				if got, ok := rows[0].Totals[q].Int64(); !ok || got != want {
					t.Errorf("%s: %s is %d, want %d", name, odometer.Quantity(q), got, want)
				}
			}
		}
	}
}

// periods checks that periods were longer while the disks were full and at no
// other time. It returns the longest of each host: of those that ended before,
// of those that lay in that time or over its edges, and of those that began
// after.
func (s *shortage) periods(t *testing.T) map[odometer.AgentID][3]time.Duration {
	t.Helper()
	longest := map[odometer.AgentID][3]time.Duration{}
	for cursor, more := "", true; more; {
		list, next, err := s.server.ledger.Entries(t.Context(), odometer.EntryQuery{After: cursor, Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list {
			e, when := &list[i].Event, 1
			switch {
			case e.Span.End <= s.began.UnixMicro():
				when = 0
			case e.Span.Start >= s.ended.UnixMicro():
				when = 2
			}
			of := longest[e.Agent]
			of[when] = max(of[when], time.Duration(e.Span.End-e.Span.Start)*time.Microsecond)
			longest[e.Agent] = of
		}
		cursor, more = next, next != "" && next != cursor
	}
	for _, h := range s.hosts {
		of := longest[h.fleet.agent]
		if of[0] > period || of[2] > period || of[1] < 30*time.Minute || of[1] > h.longest || h.longest > time.Hour && of[1] <= time.Hour {
			t.Errorf("%s: the longest periods before, meanwhile and after are %v, want only those meanwhile longer, up to %s", h.fleet.agent, of, h.longest)
		}
	}
	return longest
}
