package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
)

// ingesting moves what is received into a ledger, as package ingest does,
// until the test ends or stop is called.
type ingesting struct {
	t           testing.TB
	c           *Conn
	r           *Receiver
	ledger      *memoryLedger
	checkpoints json.RawMessage
	lose        func(*Delivery) bool // neither committed nor acknowledged
	stop        func()

	mu       sync.Mutex
	unusable []Delivery
	asked    []uint64 // positions of the ledger when checkpoints were asked for
}

func ingest(t testing.TB, c *Conn, l *memoryLedger, lose func(*Delivery) bool) *ingesting {
	in := &ingesting{t: t, c: c, r: NewReceiver(c), ledger: l, lose: lose, checkpoints: json.RawMessage(`[{"n":1}]`)}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { in.run(ctx) })
	wg.Go(func() {
		if err := c.ServeReceipts(ctx, l.last); err != nil {
			t.Errorf("ServeReceipts: %v", err)
		}
	})
	in.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(in.stop)
	return in
}

func (in *ingesting) run(ctx context.Context) {
	defer in.r.Close()
	for {
		batch, err := in.r.Receive(ctx, 100, time.Millisecond)
		if err != nil {
			if ctx.Err() == nil {
				in.t.Errorf("Receive: %v", err)
			}
			return
		}
		receipts := map[odometer.SpoolID]odometer.Receipt{}
		for i := range batch {
			d := &batch[i]
			if in.lose != nil && in.lose(d) {
				continue
			}
			switch d.Kind {
			case Frame:
				f, err := odometer.DecodeFrame(d.Data)
				if err != nil || f.Agent != d.Agent {
					in.t.Errorf("frame of %s: got agent %v, %v", d.Agent, f, err)
					continue
				}
				r := in.ledger.commit(f)
				if r.Ahead {
					if err := in.c.SendReceipt(r); err != nil {
						in.t.Logf("SendReceipt: %v", err)
					}
					break
				}
				receipts[f.Spool] = r
			case CheckpointRequest:
				in.mu.Lock()
				in.asked = append(in.asked, in.ledger.position())
				in.mu.Unlock()
				if err := d.Respond(in.checkpoints); err != nil {
					in.t.Logf("Respond: %v", err)
				}
			case Unusable:
				in.mu.Lock()
				in.unusable = append(in.unusable, *d)
				in.mu.Unlock()
			}
			if err := d.Ack(); err != nil {
				in.t.Logf("Ack: %v", err)
			}
		}
		for _, r := range receipts {
			if err := in.c.SendReceipt(r); err != nil {
				in.t.Logf("SendReceipt: %v", err)
			}
		}
	}
}

func (l *memoryLedger) position() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.positions[testSpool]
}

// fast makes a publisher find out soon.
var fast = PublisherOptions{StallAfter: 500 * time.Millisecond, RetryMost: 200 * time.Millisecond, BreakerDelay: 300 * time.Millisecond, AttemptTimeout: 2 * time.Second, FrameEvents: 10}

func (l *memoryLedger) has(n uint64) func() bool {
	return func() bool { return l.position() == n }
}

func TestFromSpoolToReceipt(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	ledger := newLedger()
	in := ingest(t, connect(t, ConnectOptions{Server: s}), ledger, nil)
	spool := newSpool()
	spool.append(1000)
	eventually(t, "the stream is there", func() bool { return in.r.Stats().Rebuilt > 0 })
	p := publishing(t, connected(t, s, testAgent), spool, PublisherOptions{FrameEvents: 50})
	eventually(t, "everything is receipted", func() bool { return p.Stats().Receipted == 1000 })
	spool.append(1)
	eventually(t, "one more is receipted", func() bool { return p.Stats().Receipted == 1001 })
	st := p.Stats()
	same(t, "freed", spool.receipted(), 1001)
	same(t, "emitted", st.Emitted, 1001)
	same(t, "acknowledged", st.Acknowledged, 1001)
	same(t, "frames", st.Frames, 21)
	same(t, "failures", st.Failures, 0)
	same(t, "resends", st.Resends, 0)
	same(t, "unreceipted", st.Unreceipted, 0)
	same(t, "the ledger", st.Ledger, "ledger")
	ledger.check(t, 1001)
	eventually(t, "the queue is empty", func() bool { n, err := in.c.Backlog(t.Context()); return err == nil && n == 0 })
}

func TestTheQueueForgets(t *testing.T) {
	for _, c := range []struct {
		name string
		wipe func(t *testing.T, s *Server, c *Conn, dir string)
	}{
		{"the stream is deleted", func(t *testing.T, s *Server, c *Conn, dir string) {
			if err := c.js.DeleteStream(t.Context(), IngestStream); err != nil {
				t.Fatal(err)
			}
		}},
		{"the stream is purged", func(t *testing.T, s *Server, c *Conn, dir string) {
			stream, err := c.js.Stream(t.Context(), IngestStream)
			if err == nil {
				err = stream.Purge(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}},
		{"the consumer is deleted", func(t *testing.T, s *Server, c *Conn, dir string) {
			if err := c.js.DeleteConsumer(t.Context(), IngestStream, ingestConsumer); err != nil {
				t.Fatal(err)
			}
		}},
		{"the server is stopped, its store removed, and started again", func(t *testing.T, s *Server, c *Conn, dir string) {
			addr := s.Addr()
			s.Shutdown()
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			serving(t, dir, addr)
		}},
		{"the server is stopped and started again", func(t *testing.T, s *Server, c *Conn, dir string) {
			addr := s.Addr()
			s.Shutdown()
			serving(t, dir, addr)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := serving(t, dir, anyPort)
			conn := connected(t, s, "")
			ledger := newLedger()
			var mu sync.Mutex
			losing := false
			in := ingest(t, conn, ledger, func(*Delivery) bool { mu.Lock(); defer mu.Unlock(); return losing })
			spool := newSpool()
			eventually(t, "the stream is there", func() bool { return in.r.Stats().Rebuilt > 0 })
			p := publishing(t, connected(t, s, testAgent), spool, fast)
			spool.append(100)
			eventually(t, "the first are with the ledger", ledger.has(100))

			// Frames are stored, delivered and in nobody's ledger …
			mu.Lock()
			losing = true
			mu.Unlock()
			spool.append(200)
			eventually(t, "the queue has acknowledged the next", func() bool { return p.Stats().Stored == 300 })
			same(t, "freed by the queue's acknowledgement", spool.receipted(), 100)
			// … when the queue forgets them.
			c.wipe(t, s, conn, dir)
			mu.Lock()
			losing = false
			mu.Unlock()
			spool.append(50)
			eventually(t, "everything is with the ledger", ledger.has(350))
			eventually(t, "everything is receipted", func() bool { return spool.receipted() == 350 })
			ledger.check(t, 350)
		})
	}
}

func TestAStoreThatFailsUnderARunningServerIsOpenedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := serving(t, dir, anyPort)
	ledger := newLedger()
	in := ingest(t, connected(t, s, ""), ledger, nil)
	eventually(t, "the stream is there", func() bool { return in.r.Stats().Rebuilt > 0 })
	spool := newSpool()
	spool.append(80)
	chance := rand.NewChaCha8([32]byte{1})
	for i := range spool.records[10:] { // beyond what fits into the file that is open
		pad := make([]byte, 90_000)
		chance.Read(pad)
		spool.records[10+i].Checkpoint = fmt.Appendf(nil, `"%x"`, pad)
	}
	// Nothing can be created any more.
	if err := os.RemoveAll(filepath.Join(dir, "jetstream")); err != nil {
		t.Fatal(err)
	}
	p := publishing(t, connected(t, s, testAgent), spool, fast)
	eventually(t, "the failure shows", func() bool { return errors.Is(s.Health(), odometer.ErrUnavailable) })
	eventually(t, "everything is receipted", func() bool { return p.Stats().Receipted == 80 })
	same(t, "health", s.Health(), nil)
	ledger.check(t, 80)
}

func TestTheServerIsAwayAndComesBack(t *testing.T) {
	dir := t.TempDir()
	s := serving(t, dir, anyPort)
	addr := s.Addr()
	agent := connected(t, s, testAgent)
	s.Shutdown()
	spool := newSpool()
	spool.append(50)
	p := publishing(t, agent, spool, fast)
	eventually(t, "the breaker opens", func() bool { return p.Stats().BreakerOpens > 0 })
	spool.append(50)
	if st := p.Stats(); st.Failures < 5 || st.Stored != 0 || st.Err == nil || spool.receipted() != 0 {
		t.Errorf("while the server is away: got %d failures, %d stored, %v, want 5, 0 and the reason", st.Failures, st.Stored, st.Err)
	}
	s = serving(t, dir, addr)
	ledger := newLedger()
	ingest(t, connected(t, s, ""), ledger, nil)
	eventually(t, "everything is receipted", func() bool { return p.Stats().Receipted == 100 })
	st := p.Stats()
	same(t, "breaker", st.Breaker, BreakerClosed)
	same(t, "error", st.Err, nil)
	ledger.check(t, 100)
}

func TestALedgerThatIsSlowAndForgetfulEndsWithEverythingOnce(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	ledger := newLedger()
	chance := rand.New(rand.NewPCG(1, 2))
	in := ingest(t, connected(t, s, ""), ledger, func(d *Delivery) bool {
		if chance.IntN(20) == 0 { // lost after the queue thinks that it is dealt with
			if err := d.Ack(); err != nil {
				t.Error(err)
			}
			return true
		}
		return false
	})
	eventually(t, "the stream is there", func() bool { return in.r.Stats().Rebuilt > 0 })
	spool := newSpool()
	p := publishing(t, connected(t, s, testAgent), spool, fast)
	for range 20 {
		spool.append(50)
		time.Sleep(10 * time.Millisecond)
	}
	eventually(t, "everything is receipted", func() bool { return p.Stats().Receipted == 1000 })
	if p.Stats().Resends == 0 {
		t.Error("resends: got none")
	}
	ledger.check(t, 1000)
}

func TestADeliveryComesAgainUntilItIsAcknowledged(t *testing.T) {
	dir := t.TempDir()
	s := serving(t, dir, anyPort)
	c := connected(t, s, "")
	if err := c.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		wait, err := c.Send("odometer.ingest.a", nil, []byte{byte(i)})
		if err == nil {
			err = wait(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r := NewReceiver(c)
	receive := func(max int) []Delivery {
		t.Helper()
		ds, err := r.Receive(short(t, 20*time.Second), max, 100*time.Millisecond)
		if err != nil {
			t.Fatal(err)
		}
		return ds
	}
	first := receive(3)
	if len(first) != 3 {
		t.Fatalf("deliveries: got %d, want 3", len(first))
	}
	for i, d := range first {
		if d.Agent != "a" || d.Kind != Frame || d.Sequence != uint64(i+1) || d.Data[0] != byte(i) || d.Redelivered || d.Stored.IsZero() {
			t.Errorf("delivery %d: got %+v", i, d)
		}
	}
	if err := first[1].Ack(); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.Close()
	// Another server takes over: what is not acknowledged comes again, at
	// once and in order.
	s.Shutdown()
	s = serving(t, dir, anyPort)
	r = NewReceiver(connected(t, s, ""))
	r.wait = time.Second
	defer r.Close()
	sequences := func(ds []Delivery) (got []uint64) {
		for _, d := range ds {
			got = append(got, d.Sequence)
		}
		return got
	}
	equal(t, "delivered to the next receiver", sequences(receive(10)), []uint64{1, 3, 4, 5})
	again := receive(10)
	for len(again) < 4 {
		again = append(again, receive(10)...)
	}
	equal(t, "delivered when it acknowledges nothing", sequences(again), []uint64{1, 3, 4, 5})
	same(t, "redelivered", again[0].Redelivered, true)
	for _, d := range again {
		if err := d.Ack(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the queue is empty", func() bool { n, err := r.c.Backlog(t.Context()); return err == nil && n == 0 })
	if _, err := r.Receive(short(t, 50*time.Millisecond), 1, 0); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Receive from an empty queue until its deadline: got %v, want DeadlineExceeded", err)
	}
}

func TestMessagesThatAreNoFrames(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	c := connected(t, s, "")
	in := ingest(t, c, newLedger(), nil)
	eventually(t, "the stream is there", func() bool { return in.r.Stats().Rebuilt > 0 })
	for _, m := range []struct {
		subject string
		header  map[string][]string
		data    []byte
	}{
		{"odometer.ingest.a", nil, make([]byte, odometer.MaxFramePacked+1)},
		{"odometer.ingest.a", map[string][]string{headerFormat: {"frame-9"}}, []byte("x")},
		{"odometer.ingest.a.b", nil, []byte("x")},
		{"odometer.ingest.=zz", nil, []byte("x")},
	} {
		wait, err := c.Send(m.subject, m.header, m.data)
		if err == nil {
			err = wait(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "all are received", func() bool { in.mu.Lock(); defer in.mu.Unlock(); return len(in.unusable) == 4 })
	for i, want := range []struct {
		agent odometer.AgentID
		size  int
		kept  int
		msg   string
	}{
		{"a", odometer.MaxFramePacked + 1, clipBytes, "262145 bytes"},
		{"a", 1, 1, "frame-9"},
		{"", 1, 1, "a.b"},
		{"", 1, 1, "=zz"},
	} {
		d := in.unusable[i]
		if d.Agent != want.agent || d.Size != want.size || len(d.Data) != want.kept || !errors.Is(d.Err, odometer.ErrInvalid) || !strings.Contains(d.Err.Error(), want.msg) {
			t.Errorf("message %d: got agent %q, size %d, kept %d, %v, want %+v", i, d.Agent, d.Size, len(d.Data), d.Err, want)
		}
	}
	same(t, "counted", in.r.Stats().Unusable, 4)
	eventually(t, "the queue is empty", func() bool { n, err := c.Backlog(t.Context()); return err == nil && n == 0 })
}

func TestCheckpointsComeAfterEveryOlderFrame(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	server, agent := connected(t, s, ""), connected(t, s, testAgent)
	if err := server.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The agent sends, and loses its state before the ledger has read any of it.
	spool := newSpool()
	spool.append(500)
	p := publishing(t, agent, spool, fast)
	eventually(t, "the queue has everything", func() bool { return p.Stats().Stored == 500 })
	type result struct {
		checkpoints []json.RawMessage
		err         error
	}
	got := make(chan result, 1)
	go func() {
		c, err := agent.RequestCheckpoints(short(t, 20*time.Second), testAgent)
		got <- result{c, err}
	}()
	eventually(t, "the request is stored", func() bool { n, err := server.Backlog(t.Context()); return err == nil && n > 50 })
	in := ingest(t, server, newLedger(), nil)
	in.mu.Lock()
	var large []json.RawMessage
	for i := range 20_000 { // an answer of several parts
		large = append(large, fmt.Appendf(nil, `{"n":%d,"digest":"%x"}`, i, testEvent(uint64(i+1)).Content()))
	}
	in.checkpoints, _ = json.Marshal(large)
	in.mu.Unlock()
	r := <-got
	if r.err != nil {
		t.Fatal(r.err)
	}
	if len(r.checkpoints) != len(large) || string(r.checkpoints[19_999]) != string(large[19_999]) {
		t.Errorf("checkpoints: got %d, want %d", len(r.checkpoints), len(large))
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.asked) == 0 || in.asked[0] != 500 {
		t.Errorf("position of the ledger when it was asked: got %v, want 500", in.asked)
	}
}

func TestCheckpointRequestsThatFail(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	agent := connected(t, s, testAgent)
	if _, err := agent.RequestCheckpoints(t.Context(), "another"); !errors.Is(err, odometer.ErrForbidden) {
		t.Errorf("for another agent: got %v, want an error wrapping ErrForbidden", err)
	}
	if _, err := agent.RequestCheckpoints(short(t, 300*time.Millisecond), testAgent); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("without a stream: got %v, want the deadline and why", err)
	}
	if err := agent.respond(testAgent, inboxPrefix+"host=2E1.x", make([]byte, maxAnswerBytes+1)); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("an answer that is too large: got %v, want an error wrapping ErrInvalid", err)
	}
	for _, reply := range []string{"", "odometer.ingest.host", "_INBOX.host.x", "_INBOX.host=2E1.", "_INBOX.host=2E1.>", "_INBOX.host=2E1.a b", "$JS.API.STREAM.DELETE.INGEST"} {
		if err := agent.respond(testAgent, reply, nil); !errors.Is(err, odometer.ErrForbidden) {
			t.Errorf("an answer to %q: got %v, want an error wrapping ErrForbidden", reply, err)
		}
	}
}

func TestReceiptRequests(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	server, agent := connected(t, s, ""), connected(t, s, testAgent)
	if _, err := agent.LastReceipt(t.Context(), testAgent, testSpool); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("while nobody serves: got %v, want an error wrapping ErrUnavailable", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- server.ServeReceipts(ctx, func(_ context.Context, a odometer.AgentID, sp odometer.SpoolID) (odometer.Receipt, error) {
			if sp != testSpool {
				return odometer.Receipt{}, errors.New("the ledger is closed\r\nfor good")
			}
			return odometer.Receipt{Agent: a, Spool: sp, Position: 42, Ledger: "l", Generation: 3}, nil
		})
	}()
	var r odometer.Receipt
	eventually(t, "it is answered", func() bool {
		var err error
		r, err = agent.LastReceipt(t.Context(), testAgent, testSpool)
		return err == nil
	})
	same(t, "receipt", r, odometer.Receipt{Agent: testAgent, Spool: testSpool, Position: 42, Ledger: "l", Generation: 3, Frames: odometer.FrameFormatBinary})
	if _, err := agent.LastReceipt(t.Context(), testAgent, "other"); err == nil || !strings.Contains(err.Error(), "the ledger is closed  for good") {
		t.Errorf("a refusal: got %v, want the server's reason on one line", err)
	}
	if _, err := agent.LastReceipt(t.Context(), testAgent, ""); err == nil {
		t.Error("without a spool: got no error")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ServeReceipts at its end: got %v, want nil", err)
	}
}

func TestReceiptsThatAreNotBelieved(t *testing.T) {
	for _, c := range []struct{ name, data string }{
		{"no JSON", "x"},
		{"another agent's", `{"agent_id":"b","spool":"s","position":1,"ledger_id":"l"}`},
		{"without a spool", `{"agent_id":"host.1","position":1,"ledger_id":"l"}`},
		{"without a ledger", `{"agent_id":"host.1","spool":"s","position":1}`},
		{"a negative position", `{"agent_id":"host.1","spool":"s","position":-1,"ledger_id":"l"}`},
	} {
		if _, err := decodeReceipt([]byte(c.data), testAgent); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%s: got %v, want an error wrapping ErrInvalid", c.name, err)
		}
	}
}

func FuzzReceipt(f *testing.F) {
	f.Add([]byte(`{"agent_id":"host.1","spool":"s","position":1,"ledger_id":"l","generation":2,"ahead":true}`))
	f.Add([]byte(`{"agent_id":"host.1","spool":"s","position":18446744073709551616,"ledger_id":"l"}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := decodeReceipt(data, testAgent)
		if err == nil && (r.Agent != testAgent || r.Spool == "" || r.Ledger == "") {
			t.Fatalf("got %+v without an error", r)
		}
	})
}

func TestLive(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	server, agent := connected(t, s, ""), connected(t, s, testAgent)
	var heard atomic.Int64
	l := NewLive(server, func(m LiveMessage) { heard.Add(1) })
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	before := time.Now()
	eventually(t, "it is heard", func() bool {
		if err := agent.PublishLive(testAgent, []byte(`{"n":1}`)); err != nil {
			t.Fatal(err)
		}
		return len(l.Last(testAgent)) == 1
	})
	if err := agent.PublishLive(testAgent, []byte(`{"n":2}`)); err != nil {
		t.Fatal(err)
	}
	says := func(want ...string) func() bool {
		return func() bool {
			return slices.EqualFunc(l.Last(testAgent), want, func(m LiveMessage, s string) bool { return string(m.Data) == s })
		}
	}
	eventually(t, "the next takes its place", says(`{"n":2}`))
	if heard.Load() < 2 {
		t.Errorf("messages that were handed on: got %d, want each", heard.Load())
	}
	m := l.Last(testAgent)[0]
	if m.Agent != testAgent || m.Received.Before(before) || m.Received.After(time.Now()) {
		t.Errorf("message: got %+v", m)
	}
	for _, parts := range [][]string{{"a", "b", "c"}, {"d", "e"}, {"f"}} {
		var data [][]byte
		for _, p := range parts {
			data = append(data, []byte(p))
		}
		if err := agent.PublishLive(testAgent, data...); err != nil {
			t.Fatal(err)
		}
		eventually(t, fmt.Sprintf("%d parts are heard", len(parts)), says(parts...))
	}
	if err := agent.PublishLive(testAgent, make([][]byte, maxLiveParts+1)...); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("a message of too many parts: got %v, want an error wrapping ErrInvalid", err)
	}
	if len(l.Last("another")) != 0 {
		t.Error("an agent that said nothing: got a message")
	}
	if err := agent.PublishLive(testAgent, make([]byte, maxLiveBytes+1)); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("a message that is too large: got %v, want an error wrapping ErrInvalid", err)
	}
	nc := server.nc
	nc.Publish(livePrefix+"=zz", []byte("x"))
	nc.Publish(livePrefix+"big", make([]byte, maxLiveBytes+1))
	for _, part := range []string{"0/1", "3/2", "1/257", "x", "-1/2", "1"} {
		nc.PublishMsg(&nats.Msg{Subject: livePrefix + "big", Data: []byte("x"), Header: nats.Header{livePartHeader: {part}}})
	}
	nc.Publish(livePrefix+"b", []byte("y"))
	eventually(t, "others are heard", func() bool { return len(l.Last("b")) == 1 })
	same(t, "agents that are remembered", len(l.All()), 2)
	l.forget(time.Now().Add(time.Second))
	same(t, "agents that are remembered after a while", len(l.All()), 0)
	same(t, "bytes that are remembered", l.bytes, 0)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run at its end: got %v, want nil", err)
	}
}

// TestALiveMessageIsTakenAsAWhole has parts shift, go missing and come twice.
func TestALiveMessageIsTakenAsAWhole(t *testing.T) {
	l := NewLive(&Conn{log: discard}, nil)
	steps := []struct {
		part, parts int
		data, want  string
	}{
		{1, 2, "b", ""}, // began to listen in its middle
		{0, 2, "a", ""},
		{1, 2, "b", "ab"},
		{0, 3, "c", "ab"},
		{1, 3, "d", "ab"},
		{2, 3, "e", "cde"},
		{0, 2, "f", "cde"}, // its end is lost
		{0, 2, "g", "cde"},
		{1, 2, "h", "gh"},
		{0, 3, "i", "gh"},
		{2, 3, "k", "gh"}, // its middle is lost
		{1, 3, "j", "gh"},
		{2, 3, "k", "gh"},
		{0, 2, "l", "gh"},
		{1, 3, "m", "gh"}, // of another
		{0, 1, "n", "n"},
	}
	for i, s := range steps {
		l.keep(LiveMessage{Agent: testAgent, Data: []byte(s.data), Received: time.UnixMicro(int64(i))}, s.part, s.parts)
		got := ""
		for _, m := range l.Last(testAgent) {
			got += string(m.Data)
		}
		if got != s.want {
			t.Fatalf("step %d: got %q, want %q", i, got, s.want)
		}
	}
	same(t, "bytes that are remembered", l.bytes, 1)
}

func TestLiveIsBounded(t *testing.T) {
	l := NewLive(&Conn{log: discard}, nil)
	for i := range 2*maxLive/maxLiveBytes + 3 {
		l.keep(LiveMessage{Agent: odometer.AgentID(fmt.Sprint(i)), Data: make([]byte, maxLiveBytes)}, 0, 1)
	}
	if l.bytes > maxLive || len(l.All()) != maxLive/maxLiveBytes {
		t.Errorf("remembered: got %d bytes of %d agents, want at most %d", l.bytes, len(l.All()), maxLive)
	}
	// Who is remembered is heard on, and of a message that finds no room nothing
	// remains.
	full := l.bytes
	l.keep(LiveMessage{Agent: "1", Data: make([]byte, maxLiveBytes), Received: time.UnixMicro(7)}, 0, 1)
	if got := l.Last("1"); len(got) != 1 || !got[0].Received.Equal(time.UnixMicro(7)) || l.bytes != full {
		t.Errorf("an agent that is remembered says something new: got %d messages, %d bytes", len(got), l.bytes)
	}
	for range 3 {
		l.keep(LiveMessage{Agent: "1", Data: make([]byte, 100)}, 0, 2) // whose end is lost
		l.keep(LiveMessage{Agent: "1", Data: make([]byte, 2*maxLiveBytes)}, 0, 2)
		l.keep(LiveMessage{Agent: "1", Data: make([]byte, 100)}, 1, 2)
	}
	if got := l.Last("1"); len(got) != 1 || !got[0].Received.Equal(time.UnixMicro(7)) || l.bytes != full {
		t.Errorf("a message that finds no room: got %d messages, %d bytes, want what was before and %d", len(got), l.bytes, full)
	}
	l.forget(time.Now().Add(time.Hour))
	same(t, "bytes that are remembered when all is forgotten", l.bytes, 0)
}

var _ Wire = (*Conn)(nil)

// A receipt of a newer server says more, and what this version knows of it is
// read; one of an older server says less.
func TestReceiptsOfNeighbouringVersionsAreRead(t *testing.T) {
	want := odometer.Receipt{Agent: testAgent, Spool: "s", Position: 7, Ledger: "l", Generation: 2}
	for _, data := range []string{
		`{"agent_id":"` + string(testAgent) + `","spool":"s","position":7,"ledger_id":"l","generation":2,"frame_format":99,"hint":{"a":[1,null]}}`,
		`{"agent_id":"` + string(testAgent) + `","spool":"s","position":7,"ledger_id":"l","generation":2}`,
	} {
		got, err := decodeReceipt([]byte(data), testAgent)
		if err != nil || got.Agent != want.Agent || got.Spool != want.Spool || got.Position != want.Position || got.Ledger != want.Ledger || got.Generation != want.Generation || got.Ahead {
			t.Errorf("%s: got %+v, %v, want %+v", data, got, err, want)
		}
	}
}
