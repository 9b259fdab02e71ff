package queue

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"sync"
	"testing"

	"example.org/odometer"
)

const (
	testAgent = odometer.AgentID("host.1")
	testSpool = odometer.SpoolID("0123456789abcdef0123456789abcdef")
	testToken = "secret"
)

var discard = slog.New(slog.DiscardHandler)

// memorySpool is a spool without a disk.
type memorySpool struct {
	id odometer.SpoolID

	mu      sync.Mutex
	changed chan struct{}
	records []odometer.Record
	acked   odometer.Receipt
	fail    error // of After and Ack
}

func newSpool() *memorySpool {
	return &memorySpool{id: testSpool, changed: make(chan struct{})}
}

func (s *memorySpool) ID() odometer.SpoolID { return s.id }

func (s *memorySpool) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// append adds n events, one position each.
func (s *memorySpool) append(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		p := uint64(len(s.records)) + 1
		s.records = append(s.records, odometer.Record{First: p, Position: p, Event: testEvent(p)})
	}
	s.notify()
}

func testEvent(n uint64) *odometer.Event {
	start := int64(1_763_881_200_000_000) + int64(n-1)*odometer.SecondMicros
	e := &odometer.Event{
		Version: odometer.Version11, Instance: "vm-7", Agent: testAgent, Owner: odometer.Owner{User: "u-ada", Org: "o-acme"},
		Epoch: odometer.NewEpoch("vm-7", testAgent, "nonce", "now"), EpochStart: 1_763_881_200_000_000,
		FirstSequence: n, Sequence: n, Span: odometer.Span{Start: start, End: start + odometer.SecondMicros}, Quality: odometer.Measured,
	}
	total := func(n uint64) (u odometer.Usage) {
		u.Known = u.Known.With(odometer.CPU).With(odometer.MeasuredTime)
		u.Vector[odometer.CPU], u.Vector[odometer.MeasuredTime] = int64(n)*400_000, int64(n)*odometer.SecondMicros
		return u
	}
	e.Readings.Start, e.Readings.End = total(n-1), total(n)
	e.Usage = e.Readings.End.Sub(e.Readings.Start)
	e.Derive(0, 0)
	return e
}

func (s *memorySpool) After(pos uint64) iter.Seq2[odometer.Record, error] {
	return func(yield func(odometer.Record, error) bool) {
		for {
			s.mu.Lock()
			err := s.fail
			var r odometer.Record
			more := pos < uint64(len(s.records))
			if more {
				r = s.records[pos]
			}
			s.mu.Unlock()
			if err != nil {
				yield(odometer.Record{}, err)
				return
			}
			if !more || !yield(r, nil) {
				return
			}
			pos = r.Position
		}
	}
}

func (s *memorySpool) Wait(ctx context.Context, after uint64) error {
	for {
		s.mu.Lock()
		ok, changed := uint64(len(s.records)) > after, s.changed
		s.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *memorySpool) Ack(r odometer.Receipt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	if r.Ledger == s.acked.Ledger && (r.Generation < s.acked.Generation || r.Generation == s.acked.Generation && r.Position <= s.acked.Position) {
		return nil
	}
	s.acked = r
	s.notify()
	return nil
}

func (s *memorySpool) receipted() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked.Position
}

// memoryLedger counts each position of each spool once and takes frames in
// order only, as the ledger does.
type memoryLedger struct {
	mu         sync.Mutex
	positions  map[odometer.SpoolID]uint64
	seen       map[string]int // times that an event was booked
	id         odometer.LedgerID
	generation uint64
	duplicates int
	ahead      int
	frames     int // the format it says it takes
}

func newLedger() *memoryLedger {
	return &memoryLedger{id: "ledger", generation: 1, positions: map[odometer.SpoolID]uint64{}, seen: map[string]int{}}
}

func (l *memoryLedger) commit(f *odometer.Frame) odometer.Receipt {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.positions[f.Spool]
	r := odometer.Receipt{Agent: f.Agent, Spool: f.Spool, Position: at, Ledger: l.id, Generation: l.generation, Frames: l.frames}
	if f.First > at+1 {
		l.ahead++
		r.Ahead = true
		return r
	}
	for _, rec := range f.Records {
		if rec.Position <= at {
			l.duplicates++
			continue
		}
		l.seen[rec.Event.ID()]++
	}
	l.positions[f.Spool] = max(at, f.Last)
	r.Position = l.positions[f.Spool]
	return r
}

func (l *memoryLedger) last(_ context.Context, agent odometer.AgentID, spool odometer.SpoolID) (odometer.Receipt, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return odometer.Receipt{Agent: agent, Spool: spool, Position: l.positions[spool], Ledger: l.id, Generation: l.generation, Frames: l.frames}, nil
}

// check finds what is missing or was booked twice of n events.
func (l *memoryLedger) check(t *testing.T, n uint64) {
	t.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if got := uint64(len(l.seen)); got != n {
		t.Errorf("events in the ledger: got %d, want %d", got, n)
	}
	for id, times := range l.seen {
		if times != 1 {
			t.Errorf("event %s was booked %d times, want once", id, times)
		}
	}
	if got := l.positions[testSpool]; got != n {
		t.Errorf("position of the ledger: got %d, want %d", got, n)
	}
}

// span is a frame as a wire sees it.
type span struct{ first, last uint64 }

func (s span) String() string { return fmt.Sprintf("%d-%d", s.first, s.last) }
