package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

// instance makes the events of one virtual machine: thirty seconds each, one
// after the other, now and then with the end of its odometer and the beginning
// of another. It knows the truth about what it used.
type instance struct {
	id    odometer.InstanceID
	agent odometer.AgentID
	owner odometer.Owner
	rand  *rand.Rand

	epochs   int
	epoch    odometer.Epoch
	begun    int64
	now      int64 // µs, where the next span starts
	sequence uint64
	total    odometer.Usage // of this epoch
	truth    odometer.Usage // of all of them
	events   int64
}

// begin is when every instance starts: long ago, so that hours are sealed.
var begin = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

func newInstance(id odometer.InstanceID, agent odometer.AgentID, owner odometer.Owner, r *rand.Rand) *instance {
	return &instance{id: id, agent: agent, owner: owner, rand: r, now: begin, truth: odometer.Usage{Known: odometer.AllKnown}}
}

func (v *instance) next() odometer.Record {
	const second = odometer.SecondMicros
	if v.epoch == "" {
		v.epochs++
		v.epoch = odometer.NewEpoch(v.id, v.agent, "cluster", fmt.Sprint(v.epochs))
		v.begun, v.sequence, v.total = v.now, 0, odometer.Usage{Known: odometer.AllKnown}
	}
	n := v.rand.Int64N(1 << 20)
	used := odometer.Usage{Known: odometer.AllKnown}
	used.Vector = odometer.Vector{n * 20, 0, 0, 60 * second, 30 * 900, 30 * 2048, 30 * 20480, 30 * 40960, n * 3, n * 7, n, n * 2, 30 * second}
	v.sequence++
	e := &odometer.Event{
		Version: odometer.Version11, Instance: v.id, Agent: v.agent, Owner: v.owner, Quality: odometer.Measured,
		Epoch: v.epoch, EpochStart: v.begun, FirstSequence: v.sequence, Sequence: v.sequence, Final: v.rand.IntN(500) == 0,
		Span: odometer.Span{Start: v.now, End: v.now + 30*second}, Usage: used, Readings: odometer.Readings{Start: v.total},
	}
	v.total.Add(used)
	v.truth.Add(used)
	e.Readings.End = v.total
	e.Derive(0, 0)
	v.now = e.Span.End
	v.events++
	if e.Final {
		v.epoch = ""
	}
	return odometer.Record{Event: e}
}

// host is an agent: a real spool, a real connection and a real publisher. Its
// events come from instances instead of a meter.
type host struct {
	id        odometer.AgentID
	dir       string
	connect   queue.ConnectOptions
	publish   queue.PublisherOptions
	links     []*link // to each node
	instances []*instance
	witness   *witness

	mu        sync.Mutex // of what a restart replaces
	spool     *spool.Spool
	conn      *queue.Conn
	publisher *queue.Publisher
	stopped   context.CancelFunc
	ended     chan error

	past queue.PublisherStats // of publishers before this one
}

// newHost makes a host with some instances. via are the addresses by which it
// reaches the queue, each through a link of its own; first is where it begins.
func newHost(dir string, n, instances int, via []string, first int, seed uint64, w *witness, publish queue.PublisherOptions, log *slog.Logger) (*host, error) {
	id := odometer.AgentID(fmt.Sprintf("host-%d", n))
	h := &host{id: id, dir: filepath.Join(dir, string(id)), publish: publish, witness: w}
	urls := make([]string, len(via))
	for i, to := range via {
		k, err := newLink(to)
		if err != nil {
			return nil, err
		}
		h.links = append(h.links, k)
		urls[(i+len(via)-first%len(via))%len(via)] = "nats://" + k.addr()
	}
	h.connect = queue.ConnectOptions{URL: strings.Join(urls, ","), Agent: id, Logger: log.With("agent", id)}
	h.publish.Agent, h.publish.Logger = id, h.connect.Logger
	for i := range instances {
		owner := odometer.Owner{User: odometer.UserID(fmt.Sprintf("u-%d", i%5)), Org: odometer.OrgID(fmt.Sprintf("o-%d", n%2))}
		v := odometer.InstanceID(fmt.Sprintf("vm-%d-%d", n, i))
		h.instances = append(h.instances, newInstance(v, id, owner, rand.New(rand.NewPCG(seed, uint64(n*1000+i)))))
	}
	return h, nil
}

// start opens the spool and sends from it until stop.
func (h *host) start() error {
	s, err := spool.Open(spool.Options{Dir: h.dir, SegmentBytes: 1 << 20, Logger: h.connect.Logger})
	if err != nil {
		return err
	}
	conn, err := queue.Connect(h.connect)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	o := h.publish
	st := s.Stats()
	o.Last = odometer.Receipt{Agent: h.id, Spool: s.ID(), Position: st.Acked, Ledger: st.Ledger, Generation: st.Generation}
	p := queue.NewPublisher(h.witness.of(conn), s, o)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	h.mu.Lock()
	defer h.mu.Unlock()
	h.spool, h.conn, h.publisher, h.stopped, h.ended = s, conn, p, cancel, ended
	return nil
}

// stop ends the agent; the spool stays.
func (h *host) stop() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spool == nil {
		return nil
	}
	h.stopped()
	err := <-h.ended
	h.conn.Close()
	st := h.publisher.Stats()
	h.past.Emitted += st.Emitted
	h.past.Acknowledged += st.Acknowledged
	h.past.Resends += st.Resends
	h.past.BreakerOpens += st.BreakerOpens
	h.past.Failures += st.Failures
	err = errors.Join(err, h.spool.Close())
	h.spool = nil
	return err
}

// append adds one event of every instance.
func (h *host) append() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spool == nil {
		return nil // restarting: what it does not measure now it measures later
	}
	records := make([]odometer.Record, len(h.instances))
	for i, v := range h.instances {
		records[i] = v.next()
	}
	return h.spool.Append(records)
}

// events returns how many its instances made.
func (h *host) events() (n int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, v := range h.instances {
		n += v.events
	}
	return n
}

// positions returns the last position of the spool and the last one that is
// receipted.
func (h *host) positions() (last, acked uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.spool == nil {
		return 1, 0 // restarting
	}
	st := h.spool.Stats()
	return st.Last, st.Acked
}

// stats are the publishers' together.
func (h *host) stats() queue.PublisherStats {
	h.mu.Lock()
	defer h.mu.Unlock()
	st := h.past
	if h.spool != nil {
		now := h.publisher.Stats()
		st.Emitted += now.Emitted
		st.Acknowledged += now.Acknowledged
		st.Resends += now.Resends
		st.BreakerOpens += now.BreakerOpens
		st.Failures += now.Failures
		st.Breaker, st.Err = now.Breaker, now.Err
	}
	return st
}

func (h *host) mend() {
	for _, k := range h.links {
		k.mend()
	}
}

func (h *host) close() error {
	err := h.stop()
	for _, k := range h.links {
		k.close()
	}
	return err
}
