package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"iter"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/port"
	"example.org/odometer/queue"
	"golang.org/x/sync/errgroup"
)

const (
	// away is how long the server of the herd is down: long enough for every
	// circuit breaker to open.
	away = 6 * time.Second
	// backlog events wait at each agent when the server comes back.
	backlog = 5
	// herdWithin is when everything has to be receipted, on any machine.
	herdWithin = 5 * time.Minute
	// connecting agents at once, at first: the herd is what comes later.
	connecting = 100
)

// herd is what came of many agents that came back at once.
type herd struct {
	Agents      int
	Events      int64
	Connected   time.Duration // from the server's return until the last connection
	Receipted   time.Duration // … until the last receipt
	Attempts    int64         // to send a frame, after the return
	Failures    int64         // of these
	Opened      int64         // breakers, in all
	Reconnects  int64
	PeakRSS     int64 // bytes, of agents, server and queue in one process
	Duplicates  int64
	Quarantined int64
}

func (h *herd) print(w io.Writer) {
	fmt.Fprintf(w, "herd: %d agents came back at once with %d events: the last connection after %.1f s, the last receipt after %.1f s\n",
		h.Agents, h.Events, h.Connected.Seconds(), h.Receipted.Seconds())
	fmt.Fprintf(w, "      %d attempts to send, %d failed; breakers opened %d times; %d duplicates; peak memory of everything %d MiB\n",
		h.Attempts, h.Failures, h.Opened, h.Duplicates, h.PeakRSS>>20)
}

// member is one agent of the herd: a connection and a publisher like any
// other's, and a spool in memory.
type member struct {
	spool     *memorySpool
	conn      *queue.Conn
	publisher *queue.Publisher
	instance  *instance
}

// stampede connects agents, takes the server away, lets events gather, brings
// the server back and waits until every event is receipted. The waits of the
// agents are those of the program.
func stampede(ctx context.Context, o options, agents int) (*herd, error) {
	if err := allowFiles(uint64(2*agents + 1000)); err != nil {
		return nil, err
	}
	h := &herd{Agents: agents}
	dir := filepath.Join(o.Dir, "site")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	e := &embedded{o: o, store: filepath.Join(o.Dir, "nats"), witness: newWitness()}
	var err error
	if e.addr, err = port.Free(); err != nil {
		return nil, err
	}
	if err := e.serve(); err != nil {
		return nil, err
	}
	defer func() { e.queue.Shutdown() }()
	e.site = newSite(dir, queue.ConnectOptions{URL: "nats://" + e.addr, Token: secret, Name: "server"}, e.witness, o.Log)
	if err := e.site.open(); err != nil {
		return nil, err
	}
	defer e.site.close()

	sending, stop := context.WithCancel(ctx)
	var publishers errgroup.Group
	members := make([]*member, agents)
	defer func() {
		stop()
		publishers.Wait()
		for _, m := range members {
			if m != nil {
				m.conn.Close()
			}
		}
	}()
	var connect errgroup.Group
	connect.SetLimit(connecting)
	for i := range members {
		connect.Go(func() error {
			id := odometer.AgentID(fmt.Sprintf("host-%d", i))
			conn, err := queue.Connect(queue.ConnectOptions{URL: "nats://" + e.addr, Token: secret, Agent: id, Logger: o.Log})
			if err != nil {
				return err
			}
			m := &member{spool: newMemorySpool(), conn: conn, instance: newInstance(odometer.InstanceID(fmt.Sprint("vm-", i)), id, odometer.Owner{User: "u-ada"}, mathrand.New(mathrand.NewPCG(o.Seed, uint64(i))))}
			m.publisher = queue.NewPublisher(conn, m.spool, queue.PublisherOptions{Agent: id, Logger: o.Log})
			m.spool.append(m.instance.next())
			members[i] = m
			return nil
		})
	}
	if err := connect.Wait(); err != nil {
		return nil, err
	}
	for _, m := range members {
		publishers.Go(func() error { return m.publisher.Run(sending) })
	}
	o.Progress(fmt.Sprintf("%d agents are connected", agents))
	if _, err := receipted(ctx, members, nil); err != nil {
		return nil, fmt.Errorf("before the server went away: %w", err)
	}

	if err := e.site.close(); err != nil {
		return nil, err
	}
	e.queue.Shutdown()
	o.Progress("the server is away")
	for range backlog {
		for _, m := range members {
			m.spool.append(m.instance.next())
		}
		time.Sleep(away / backlog)
	}
	var before []queue.PublisherStats
	for _, m := range members {
		before = append(before, m.publisher.Stats())
	}
	if err := e.serve(); err != nil {
		return nil, err
	}
	if err := e.site.open(); err != nil {
		return nil, err
	}
	since := time.Now()
	o.Progress("the server is back")
	last, err := receipted(ctx, members, func() {
		if h.Connected == 0 && all(members, func(m *member) bool { return m.conn.Status().Connected }) {
			h.Connected = time.Since(since)
		}
	})
	if err != nil {
		return nil, err
	}
	h.Receipted = last.Sub(since)
	for i, m := range members {
		st := m.publisher.Stats()
		h.Events += m.instance.events
		h.Attempts += int64(st.Frames - before[i].Frames)
		h.Failures += int64(st.Failures - before[i].Failures)
		h.Opened += int64(st.BreakerOpens)
		h.Reconnects += int64(m.conn.Status().Reconnects)
	}
	st, err := e.site.ledger.Stats(ctx)
	if err != nil {
		return nil, err
	}
	h.Duplicates, h.Quarantined = st.Counts["duplicate"], st.Counts["quarantined"]
	if got := st.Counts["recorded"]; got != h.Events || st.Entries != h.Events || h.Quarantined != 0 {
		return nil, fmt.Errorf("%d events were sent, %d are recorded in %d entries, %d are in quarantine", h.Events, got, st.Entries, h.Quarantined)
	}
	h.PeakRSS, err = peakRSS()
	return h, err
}

func all(members []*member, ok func(*member) bool) bool {
	for _, m := range members {
		if !ok(m) {
			return false
		}
	}
	return true
}

// receipted waits until every event of every member is receipted, and returns
// when the last one was. look is called now and then meanwhile.
func receipted(ctx context.Context, members []*member, look func()) (last time.Time, err error) {
	for deadline := time.Now().Add(herdWithin); ; time.Sleep(20 * time.Millisecond) {
		if look != nil {
			look()
		}
		if all(members, func(m *member) bool { return m.spool.done() }) {
			for _, m := range members {
				if at := m.publisher.Stats().LastReceipt; at.After(last) {
					last = at
				}
			}
			return last, nil
		}
		if ctx.Err() != nil || time.Now().After(deadline) {
			waiting := 0
			for _, m := range members {
				if !m.spool.done() {
					waiting++
					err = fmt.Errorf("%+v", m.publisher.Stats())
				}
			}
			return last, errors.Join(ctx.Err(), fmt.Errorf("%d of %d agents are not receipted after %v, one of them: %w", waiting, len(members), herdWithin, err))
		}
	}
}

// memorySpool is a spool without a disk.
type memorySpool struct {
	id odometer.SpoolID

	mu      sync.Mutex
	changed chan struct{}
	records []odometer.Record
	acked   uint64
}

func newMemorySpool() *memorySpool {
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails
	return &memorySpool{id: odometer.SpoolID(hex.EncodeToString(id[:])), changed: make(chan struct{})}
}

func (s *memorySpool) append(r odometer.Record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.First = uint64(len(s.records)) + 1
	r.Position = r.First
	s.records = append(s.records, r)
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *memorySpool) done() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked == uint64(len(s.records))
}

func (s *memorySpool) ID() odometer.SpoolID { return s.id }

func (s *memorySpool) After(position uint64) iter.Seq2[odometer.Record, error] {
	s.mu.Lock()
	records := s.records[min(position, uint64(len(s.records))):]
	s.mu.Unlock()
	return func(yield func(odometer.Record, error) bool) {
		for _, r := range records {
			if !yield(r, nil) {
				return
			}
		}
	}
}

func (s *memorySpool) Wait(ctx context.Context, after uint64) error {
	for {
		s.mu.Lock()
		more, changed := uint64(len(s.records)) > after, s.changed
		s.mu.Unlock()
		if more {
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
	}
}

func (s *memorySpool) Ack(r odometer.Receipt) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.acked = max(s.acked, r.Position)
	return nil
}

// allowFiles raises the limit of open files where it is below what is needed.
func allowFiles(need uint64) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Cur >= need {
		return nil
	}
	l.Cur, l.Max = need, max(l.Max, need)
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("%d open files are needed, and the limit cannot be raised: %w", need, err)
	}
	return nil
}

// peakRSS is the most memory that the process ever had.
func peakRSS() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("/proc/self/status does not say")
}
