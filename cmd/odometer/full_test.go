package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/api"
	"example.org/odometer/internal/memfs"
	"example.org/odometer/meter"
	"example.org/odometer/spool"
)

// days is a host on fake time: a second passes whenever the agent sleeps, and
// what is due then happens.
type days struct {
	now  time.Time
	due  func(second int)
	n    int
	stop context.CancelFunc
	last int // the second after which it stops
}

func (d *days) Now() time.Time { return d.now }

func (d *days) Sleep(ctx context.Context, s time.Duration) error {
	d.now = d.now.Add(s)
	d.n++
	d.due(d.n)
	if d.n >= d.last {
		d.stop()
	}
	return ctx.Err()
}

// vms are instances of one host whose counters grow unevenly, and whose true
// totals are known.
type vms struct {
	agent    odometer.AgentID
	now      func() time.Time
	names    []odometer.InstanceID
	begin    time.Time
	counters []odometer.Counter
}

// counted are the quantities that come from counters.
var counted = [...]odometer.Quantity{
	odometer.CPU, odometer.GPUBusy, odometer.NetworkEgress, odometer.NetworkIngress, odometer.DiskRead, odometer.DiskWrite,
}

// used is what instance i has used up to a moment.
func (v *vms) used(i int, at time.Time) (u odometer.Vector) {
	s, n := int64(at.Sub(v.begin)/time.Second), int64(1+i)
	for k, q := range counted {
		u[q] = s*n*int64(331+k) + s%97*int64(i)
	}
	u[odometer.GPU], u[odometer.VCPU] = s*odometer.SecondMicros, 2*s*odometer.SecondMicros
	u[odometer.Memory], u[odometer.MemoryAllocated] = s*n, s*1024
	u[odometer.Storage], u[odometer.StorageProvisioned] = s*n*3, s*4096
	u[odometer.MeasuredTime] = s * odometer.SecondMicros
	return u
}

func (v *vms) Sample(emit func(*odometer.Reading)) error {
	now := v.now()
	for i, name := range v.names {
		used := v.used(i, now)
		v.counters = v.counters[:0]
		for _, q := range counted {
			value := uint64(used[q])
			if q == odometer.CPU || q == odometer.GPUBusy {
				value *= 1000
			}
			v.counters = append(v.counters, odometer.Counter{Quantity: q, Incarnation: "7", Value: value})
		}
		n := int64(1 + i)
		emit(&odometer.Reading{
			Instance: name, Agent: v.agent, State: odometer.Running, Counters: v.counters,
			At:     odometer.Moment{Boot: now.Sub(v.begin).Microseconds() + 1e9, Wall: now.UnixMicro()},
			Gauges: odometer.Gauges{Memory: n << 20, MemoryAllocated: 1 << 30, Storage: n * 3 << 20, StorageProvisioned: 4 << 30, VCPUs: 2, GPUs: 1},
		})
	}
	return nil
}

// booked is what a ledger makes of a spool's records: each epoch's events must
// follow one another.
type booked struct {
	t        *testing.T
	position uint64
	last     map[odometer.Epoch]*odometer.Event
	sums     map[odometer.InstanceID]odometer.Usage
	events   int
	longest  time.Duration
}

// take receipts everything that the spool has.
func (b *booked) take(s *spool.Spool) {
	b.t.Helper()
	for r, err := range s.After(b.position) {
		if err != nil {
			b.t.Fatal(err)
		}
		b.position = r.Position
		e := r.Event
		if e == nil {
			continue
		}
		if err := e.Check(); err != nil {
			b.t.Errorf("event %s: %v", e.ID(), err)
		}
		used := e.Usage
		if p := b.last[e.Epoch]; p != nil {
			if e.Sequence <= p.Sequence {
				continue
			}
			// What was joined to it may have been receipted before: what is
			// beyond counts.
			if e.FirstSequence > p.Sequence+1 || e.FirstSequence == p.Sequence+1 && e.Span.Start != p.Span.End {
				b.t.Errorf("event %s of %v does not follow %s of %v", e.ID(), e.Span, p.ID(), p.Span)
			}
			used = e.Readings.End.Sub(p.Readings.End)
		}
		b.last[e.Epoch] = e
		b.events++
		b.longest = max(b.longest, time.Duration(e.Span.End-e.Span.Start)*time.Microsecond)
		u := b.sums[e.Instance]
		if !u.Add(used) {
			b.t.Fatal("overflow")
		}
		b.sums[e.Instance] = u
	}
	if err := s.Ack(odometer.Receipt{Agent: "h1", Spool: s.ID(), Position: b.position, Ledger: "ledger", Generation: 1}); err != nil {
		b.t.Fatal(err)
	}
}

const day = 24 * 60 * 60

// The agent's disk is full for a week while the server is away. Periods become
// longer, within hours first, memory stays bounded, health says all of it, and
// when there is space again, or the server is back, the sums are exact.
func TestAFullDiskForAWeek(t *testing.T) {
	for _, c := range []struct {
		name       string
		days       int
		limit      int64 // of the disk
		maxPending int
		spaceBack  bool          // else the server comes back
		longest    time.Duration // period
		events     int           // at most
	}{
		{"with no byte left, then there is space: periods wait in memory, by the hour", 7, 1, 0, true, time.Hour, 3 * (7*24 + 60)},
		{"with some space, then the server is back: periods are joined on the disk", 1, 96 << 10, 0, false, time.Hour, 3 * 600},
		{"with hardly any, then there is more: periods go over the edges of hours", 1, 24 << 10, 0, true, 24 * time.Hour, 3 * 60},
		{"with no byte left and little memory", 1, 1, 40, true, 24 * time.Hour, 3 * 60},
	} {
		if (testing.Short() || raceEnabled) && c.days > 2 {
			c.days = 2
		}
		t.Run(c.name, func(t *testing.T) { fullDisk(t, c.days*day, c.limit, c.maxPending, c.spaceBack, c.longest, c.events) })
	}
}

func fullDisk(t *testing.T, seconds int, limit int64, maxPending int, spaceBack bool, longest time.Duration, events int) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	begin := time.Date(2026, 3, 1, 10, 20, 0, 0, time.UTC)
	clock := &days{now: begin, stop: stop, last: seconds + 600}
	fleet := &vms{agent: "h1", now: clock.Now, names: []odometer.InstanceID{"vm-1", "vm-2", "vm-3"}, begin: begin}
	fs := memfs.New()
	s, err := spool.Open(spool.Options{Dir: "/spool", FS: fs, MaxBytes: 1 << 20, SegmentBytes: 8 << 10, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	a, err := agent.New(agent.Options{
		Source: fleet, Spool: s, Interval: 30 * time.Second, Clock: clock, MaxPending: maxPending,
		Meter: meter.New(meter.Options{Agent: "h1", Nonce: "nonce", Interval: 30 * odometer.SecondMicros}),
	})
	if err != nil {
		t.Fatal(err)
	}
	p := &parts{host: &host{spool: s, agent: a, started: begin}, interval: time.Second}
	ledger := &booked{t: t, last: map[odometer.Epoch]*odometer.Event{}, sums: map[odometer.InstanceID]odometer.Usage{}}
	health := func() api.Component { return api.Judge(p.Facts(ctx), clock.now)["spool"] }
	pending, waited, joined := 0, 0, 0
	said := map[api.HealthStatus]string{}
	clock.due = func(second int) {
		switch {
		case second < 300:
			if second%60 == 0 {
				ledger.take(s)
				if h := health(); h.Status != api.OK {
					t.Fatalf("before: %s", *h.Details)
				}
			}
		case second == 300:
			fs.Limit = limit
			fs.Log = nil
		case second < seconds:
			if second%97 != 0 {
				return
			}
			fs.Log = nil // of no use here, and long
			l := a.Live()
			pending = max(pending, l.Pending)
			if l.SpoolErr != nil {
				waited++
			}
			if s.Stats().Coalesced > 0 {
				joined++
			}
			if h := health(); h.Details != nil {
				said[h.Status] = *h.Details
			}
		case second == seconds:
			if spaceBack {
				fs.Limit = 0
			}
			ledger.take(s) // after which the spool frees itself
		case second == seconds+300:
			fs.Limit = 0
			ledger.take(s)
		case second%30 == 0:
			ledger.take(s)
		}
	}
	if err := a.Run(ctx); err != nil {
		t.Fatal(err)
	}
	ledger.take(s)

	for i, name := range fleet.names {
		want := fleet.used(i, clock.now.Add(-time.Second)) // at the last sample
		if got := ledger.sums[name].Vector; got != want {
			t.Errorf("%s used %v, want %v", name, got, want)
		}
	}
	bound := maxPending
	if bound == 0 {
		bound = len(fleet.names) * (seconds/3600 + 2)
	}
	if pending > bound+2*len(fleet.names) {
		t.Errorf("%d records waited in memory, want at most %d", pending, bound)
	}
	if ledger.longest > longest || ledger.longest < 10*time.Minute {
		t.Errorf("the longest period is %s, want one of at most %s that was joined", ledger.longest, longest)
	}
	if ledger.events > events || ledger.events < 3*seconds/day {
		t.Errorf("%d events, want at most %d", ledger.events, events)
	}
	if waited == 0 && joined == 0 {
		t.Error("the disk was never full: the test proves nothing")
	}
	if text := said[api.Failed]; waited > 0 && (!strings.Contains(text, "no space left on device") || !strings.Contains(text, "wait in memory")) {
		t.Errorf("while nothing was taken, health said %q", text)
	}
	if text := said[api.Degraded]; waited == 0 && text == "" {
		t.Errorf("while periods were joined, health said %q", said)
	}
	if h := health(); h.Status != api.OK {
		t.Errorf("afterwards health says %s: %s", h.Status, *h.Details)
	}
	if l := a.Live(); l.Pending != 0 || l.SpoolErr != nil {
		t.Errorf("afterwards %d records wait, %v", l.Pending, l.SpoolErr)
	}
	st := s.Stats()
	t.Logf("%s full: %d events, the longest of %s; at most %d waited in memory; %d joined on the disk; error 0",
		time.Duration(seconds-300)*time.Second, ledger.events, ledger.longest, pending, st.Coalesced)
}
