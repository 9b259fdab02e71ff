package agent

import (
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/meter"
)

// fleet is a source of instances whose CPU counter shows half of the time that
// has passed since the fleet was made, and whose memory is 1 GiB.
type fleet struct {
	made    time.Time
	names   []odometer.InstanceID
	err     error
	samples []time.Time
	mangle  func(*odometer.Reading)
}

func newFleet(names ...odometer.InstanceID) *fleet { return &fleet{made: time.Now(), names: names} }

// cpu is the true usage up to a moment, microseconds.
func (f *fleet) cpu(now time.Time) int64 { return now.Sub(f.made).Microseconds() / 2 }

func (f *fleet) Sample(emit func(*odometer.Reading)) error {
	now := time.Now()
	f.samples = append(f.samples, now)
	r := odometer.Reading{Counters: make([]odometer.Counter, 1)}
	for _, name := range f.names {
		r.Instance, r.Agent, r.State = name, "h1", odometer.Running
		r.At = odometer.Moment{Boot: now.Sub(f.made).Microseconds() + 1e9, Wall: now.UnixMicro()}
		r.Counters[0] = odometer.Counter{Quantity: odometer.CPU, Incarnation: "boot", Value: uint64(f.cpu(now)) * 1000}
		r.Gauges = odometer.NoGauges
		r.Gauges.Memory = 1 << 30
		if f.mangle != nil {
			f.mangle(&r)
		}
		emit(&r)
		if r.Unwatched {
			panic("the source's reading was changed")
		}
	}
	return f.err
}

func newMeter(interval time.Duration) *meter.Meter {
	return meter.New(meter.Options{Agent: "h1", Nonce: "nonce", Interval: interval.Microseconds()})
}

// memSpool is a spool in memory. Fail decides about each Append.
type memSpool struct {
	mu      sync.Mutex
	records []odometer.Record
	appends int
	fail    func(n int, rs []odometer.Record) error
}

func (s *memSpool) Append(rs []odometer.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.appends++
	if s.fail != nil {
		if err := s.fail(s.appends, rs); err != nil {
			return err
		}
	}
	s.records = append(s.records, rs...)
	return nil
}

func (s *memSpool) Checkpoints() []json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest, order := map[odometer.Epoch]json.RawMessage{}, []odometer.Epoch{}
	for _, r := range s.records {
		if r.Checkpoint != nil {
			epoch := headOf(r.Checkpoint).Epoch
			if newest[epoch] == nil {
				order = append(order, epoch)
			}
			newest[epoch] = r.Checkpoint
		}
	}
	var all []json.RawMessage
	for _, epoch := range order {
		all = append(all, newest[epoch])
	}
	return all
}

func (s *memSpool) events() (es []*odometer.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.records {
		if r.Event != nil {
			es = append(es, r.Event)
		}
	}
	return es
}

// sum adds up the usage of an instance and checks that its events follow one
// another.
func sum(t *testing.T, s *memSpool, instance odometer.InstanceID) odometer.Usage {
	t.Helper()
	var u odometer.Usage
	last := map[odometer.Epoch]*odometer.Event{}
	for _, e := range s.events() {
		if e.Instance != instance {
			continue
		}
		if err := e.Check(); err != nil {
			t.Errorf("event %s: %v", e.ID(), err)
		}
		want := uint64(1)
		if p := last[e.Epoch]; p != nil {
			want = p.Sequence + 1
			if e.Span.Start != p.Span.End+e.Span.Step {
				t.Errorf("event %s starts at %d, the one before ends at %d", e.ID(), e.Span.Start, p.Span.End)
			}
		}
		if e.FirstSequence != want {
			t.Errorf("event %s, want sequence %d", e.ID(), want)
		}
		last[e.Epoch] = e
		if !u.Add(e.Usage) {
			t.Fatal("overflow")
		}
	}
	return u
}

// script is a source for Replay: seconds of several instances.
type script struct {
	instances, seconds int
	line               int
	bad                map[int]bool // lines with a reading that no meter takes
	end                error
}

func (s *script) Next(r *odometer.Reading) error {
	if s.line == s.instances*s.seconds {
		if s.end != nil {
			return s.end
		}
		return io.EOF
	}
	i, sec := s.line%s.instances, int64(s.line/s.instances)
	s.line++
	at := (1767225600 + sec) * odometer.SecondMicros
	*r = odometer.Reading{
		Instance: odometer.InstanceID(fmt.Sprintf("vm-%d", i)), Agent: "h1", Epoch: "e1", State: odometer.Running,
		At:       odometer.Moment{Boot: at, Wall: at},
		Started:  sec == 0,
		Gauges:   odometer.NoGauges,
		Counters: r.Counters[:0],
	}
	if sec > 0 {
		r.Counters = append(r.Counters, odometer.Counter{Quantity: odometer.CPU, Incarnation: "e1", Value: uint64(sec) * 5e8, Born: sec == 1})
	}
	if s.bad[s.line] {
		r.Counters[0].Quantity = odometer.Memory // is no counter
	}
	return nil
}

func (s *script) Line() int     { return s.line }
func (s *script) Offset() int64 { return int64(s.line) * 100 }

func replayMeter() *meter.Meter {
	return meter.New(meter.Options{Named: true, Interval: 30 * odometer.SecondMicros})
}
