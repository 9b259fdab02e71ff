package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// memorySource is a ledger's entries and the feed's cursor among them.
type memorySource struct {
	mu      sync.Mutex
	news    chan struct{}
	entries [odometer.Partitions][]odometer.Entry
	at      [odometer.Partitions]int
	stream  string
	back    uint64
	last    uint64
	rewinds int
	fail    func(what string) error // "pending", "advance" or "advanced"
}

func newSource() *memorySource { return &memorySource{news: make(chan struct{})} }

// book appends n entries to a partition.
func (s *memorySource) book(partition, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		number := uint64(len(s.entries[partition])) + 1
		e := testEvent(number)
		e.Instance = odometer.InstanceID(fmt.Sprintf("vm.%d", partition))
		s.entries[partition] = append(s.entries[partition], odometer.Entry{
			ID: odometer.EntryID{Partition: partition, Number: number}, Kind: odometer.KindUsage,
			SourceEventID: e.ID(), BookedAt: e.Span.End + 5, Event: *e,
		})
	}
	close(s.news)
	s.news = make(chan struct{})
}

func (s *memorySource) failing(what string) error {
	if s.fail == nil {
		return nil
	}
	return s.fail(what)
}

func (s *memorySource) Pending(_ context.Context, limit int) ([]odometer.Entry, func(context.Context, string, uint64, uint64) error, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.failing("pending"); err != nil {
		return nil, nil, err
	}
	var entries []odometer.Entry
	at := s.at
	for p := range s.entries {
		n := min(len(s.entries[p])-at[p], limit-len(entries))
		entries = append(entries, s.entries[p][at[p]:at[p]+n]...)
		at[p] += n
	}
	return entries, func(_ context.Context, stream string, back, last uint64) error {
		s.mu.Lock()
		defer s.mu.Unlock()
		if err := s.failing("advance"); err != nil {
			return err
		}
		s.at, s.stream, s.back, s.last = at, stream, back, last
		return s.failing("advanced")
	}, nil
}

func (s *memorySource) Position(context.Context) (string, uint64, uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stream, s.back, s.last, nil
}

func (s *memorySource) Rewind(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at, s.stream, s.back, s.last = [odometer.Partitions]int{}, "", 0, 0
	s.rewinds++
	return nil
}

func (s *memorySource) Lag(context.Context) (n int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.entries {
		n += int64(len(s.entries[p]) - s.at[p])
	}
	return n, nil
}

func (s *memorySource) News() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.news
}

func (s *memorySource) total() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		n += len(e)
	}
	return n
}

// caughtUp reports whether the cursor is behind the last entry.
func (s *memorySource) caughtUp() bool {
	n, _ := s.Lag(context.Background())
	return n == 0
}

// feeding runs a feed until the test ends or stop is called.
func feeding(t testing.TB, c *Conn, s Source) (*Feed, func()) {
	f := NewFeed(c, s)
	f.check = 300 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return f, stop
}

// topic reads the whole topic as a consumer does that knows no more than the
// stream's name.
func topic(t testing.TB, c *Conn) (messages []jetstream.Msg) {
	t.Helper()
	consumer, err := c.js.OrderedConsumer(t.Context(), UsageStream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	iter, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer iter.Stop()
	for left := consumer.CachedInfo().NumPending; left > 0; left-- {
		m, err := iter.Next(jetstream.NextMaxWait(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	return messages
}

// checkTopic holds the topic against the source: each entry once, in the
// order of its partition, under its own subject.
func checkTopic(t testing.TB, c *Conn, s *memorySource) {
	t.Helper()
	var next [odometer.Partitions]uint64
	messages := topic(t, c)
	for _, m := range messages {
		e, err := odometer.DecodeEntry(m.Data())
		if err != nil {
			t.Fatalf("message on %s: %v", m.Subject(), err)
		}
		p := e.ID.Partition
		if next[p]++; e.ID.Number != next[p] {
			t.Fatalf("entry of partition %d: got %s, want number %d", p, e.ID, next[p])
		}
		if want := s.entries[p][e.ID.Number-1].Event.Usage; e.Event.Usage != want {
			t.Fatalf("usage of %s: got %v, want %v", e.ID, e.Event.Usage, want)
		}
	}
	if got, want := len(messages), s.total(); got != want {
		t.Errorf("messages in the topic: got %d, want %d", got, want)
	}
}

func TestFeedPublishesEachEntryOnceInOrder(t *testing.T) {
	srv := serving(t, t.TempDir(), anyPort)
	c := connect(t, ConnectOptions{Server: srv})
	s := newSource()
	s.book(3, 2500)
	s.book(17, 40)
	f, _ := feeding(t, c, s)
	eventually(t, "all is published", s.caughtUp)
	s.book(17, 2)
	s.book(0, 1)
	eventually(t, "more is published", s.caughtUp)
	checkTopic(t, c, s)
	st := f.Stats()
	same(t, "published", st.Published, 2543)
	same(t, "errors", st.Errors, 0)
	same(t, "rewinds", st.Rewinds, 0)
	eventually(t, "the lag is seen to be 0", func() bool { return f.Stats().Lag == 0 })

	m := topic(t, c)[0]
	same(t, "subject", m.Subject(), "odometer.usage.o-acme.u-ada.vm=2E3")
	want := map[string]string{
		"ce-specversion": "1.0", "ce-id": "3-1", "ce-source": entrySource, "ce-type": entryType, "ce-subject": "vm.3",
		"ce-time": "2025-11-23T07:00:01.000005Z", "ce-datacontenttype": "application/json", "Content-Type": "application/json", nats.MsgIdHdr: "3-1",
	}
	for name, value := range want {
		same(t, "header "+name, m.Headers().Get(name), value)
	}
}

func TestFeedAfterACrashBetweenPublishingAndAdvancing(t *testing.T) {
	for _, c := range []struct {
		name, at string
	}{
		{"the cursor was not moved", "advance"},
		{"the cursor was moved and the answer lost", "advanced"},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := serving(t, t.TempDir(), anyPort)
			conn := connect(t, ConnectOptions{Server: srv})
			s := newSource()
			s.book(9, 100)
			_, stop := feeding(t, conn, s)
			eventually(t, "the first are published", s.caughtUp)
			crashed := make(chan struct{})
			var once sync.Once
			s.mu.Lock()
			s.fail = func(what string) error {
				if what != c.at {
					return nil
				}
				once.Do(func() { close(crashed) })
				return errors.New("killed")
			}
			s.mu.Unlock()
			s.book(9, 50)
			<-crashed
			stop()
			s.mu.Lock()
			s.fail = nil
			s.mu.Unlock()
			// More was booked meanwhile, in a partition that is read before.
			s.book(2, 30)
			time.Sleep(usageDuplicates + 100*time.Millisecond) // the stream knows no ids any more
			f, _ := feeding(t, conn, s)
			eventually(t, "all is published", s.caughtUp)
			checkTopic(t, conn, s)
			same(t, "rewinds", s.rewinds, 0)
			if c.at == "advance" {
				same(t, "entries found in the stream", f.Stats().Skipped, 50)
			}
		})
	}
}

func purging(what ...jetstream.StreamPurgeOpt) func(*testing.T, *Server, *Conn, string) {
	return func(t *testing.T, _ *Server, c *Conn, _ string) {
		stream, err := c.js.Stream(t.Context(), UsageStream)
		if err == nil {
			err = stream.Purge(t.Context(), what...)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFeedRewindsWhenTheTopicIsLost(t *testing.T) {
	for _, c := range []struct {
		name string
		wipe func(t *testing.T, s *Server, c *Conn, dir string)
		idle bool // nothing is booked afterwards
	}{
		{"the stream is deleted", func(t *testing.T, s *Server, c *Conn, dir string) {
			if err := c.js.DeleteStream(t.Context(), UsageStream); err != nil {
				t.Fatal(err)
			}
		}, false},
		{"the server's store is removed", func(t *testing.T, s *Server, c *Conn, dir string) {
			addr := s.Addr()
			s.Shutdown()
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			serving(t, dir, addr)
		}, false},
		{"the stream is deleted while nothing happens", func(t *testing.T, s *Server, c *Conn, dir string) {
			if err := c.js.DeleteStream(t.Context(), UsageStream); err != nil {
				t.Fatal(err)
			}
		}, true},
		{"the stream is purged", purging(), false},
		{"the stream is purged while nothing happens", purging(), true},
		{"the stream loses its beginning", purging(jetstream.WithPurgeSequence(100)), true},
		{"the stream loses a message in its middle", func(t *testing.T, s *Server, c *Conn, dir string) {
			stream, err := c.js.Stream(t.Context(), UsageStream)
			if err == nil {
				err = stream.DeleteMsg(t.Context(), 150)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			srv := serving(t, dir, anyPort)
			conn := connected(t, srv, "")
			s := newSource()
			s.book(1, 300)
			s.book(2, 10)
			feed, _ := feeding(t, conn, s)
			eventually(t, "the first are published", s.caughtUp)
			c.wipe(t, srv, conn, dir)
			if !c.idle {
				s.book(1, 5)
			}
			eventually(t, "it rewinds", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return s.rewinds == 1 })
			eventually(t, "all is published again", s.caughtUp)
			checkTopic(t, conn, s)
			same(t, "rewinds", feed.Stats().Rewinds, 1)
		})
	}
}

// A feed that was interrupted while it passed over what the topic has after a
// rewind must read all of that back: the cursor is far behind the topic's end.
func TestFeedInterruptedWhileItCatchesUpPublishesNothingTwice(t *testing.T) {
	srv := serving(t, t.TempDir(), anyPort)
	conn := connect(t, ConnectOptions{Server: srv})
	s := newSource()
	s.book(1, 3*feedBatch)
	s.book(2, 10)
	_, stop := feeding(t, conn, s)
	eventually(t, "all is published", s.caughtUp)
	stop()
	// As after a power failure that took the end of the topic: the cursor
	// names a message that is no longer there.
	s.mu.Lock()
	s.back, s.last = s.back+5, s.last+5
	moved := 0
	s.fail = func(what string) error { // the process dies after the first batch
		if moved += map[string]int{"advanced": 1}[what]; moved > 0 {
			return errors.New("killed")
		}
		return nil
	}
	s.mu.Unlock()
	_, stop = feeding(t, conn, s)
	eventually(t, "it is interrupted", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return moved > 0 })
	stop()
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	feed, _ := feeding(t, conn, s)
	s.book(1, 3)
	eventually(t, "all is published again", s.caughtUp)
	checkTopic(t, conn, s)
	same(t, "published by the last", feed.Stats().Published, 3)
}

// A feed that is interrupted while it passes over what the topic has after a
// rewind has published more behind that; when the topic then loses it, it must
// notice, although the cursor is to be read back from before.
func TestFeedSeesATopicLoseItsEndAgainWhileItCatchesUp(t *testing.T) {
	dir, old := t.TempDir(), t.TempDir()
	srv := serving(t, dir, anyPort)
	conn := connected(t, srv, "")
	s := newSource()
	s.book(1, 3*feedBatch)
	s.book(2, 10)
	_, stop := feeding(t, conn, s)
	eventually(t, "all is published", s.caughtUp)
	stop()
	addr := srv.Addr()
	srv.Shutdown()
	if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	srv = serving(t, dir, addr)
	s.book(1, feedBatch) // is published before what lies beyond it in partition 2 is passed
	s.mu.Lock()
	s.back, s.last = s.back+5, s.last+5
	batches := 0
	s.fail = func(what string) error {
		if batches += map[string]int{"advanced": 1}[what]; batches >= 4 {
			return errors.New("killed")
		}
		return nil
	}
	s.mu.Unlock()
	_, stop = feeding(t, conn, s)
	eventually(t, "it is interrupted", func() bool { s.mu.Lock(); defer s.mu.Unlock(); return batches >= 4 })
	stop()
	if got := len(topic(t, conn)); got != 4*feedBatch+10 {
		t.Fatalf("messages in the topic: got %d, want %d", got, 4*feedBatch+10)
	}
	srv.Shutdown()
	if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(old))); err != nil {
		t.Fatal(err)
	}
	serving(t, dir, addr)
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	feeding(t, conn, s)
	eventually(t, "all is published again", s.caughtUp)
	checkTopic(t, conn, s)
	same(t, "rewinds", s.rewinds, 2)
}

func TestFeedFillsATopicThatLostItsEnd(t *testing.T) {
	srv := serving(t, t.TempDir(), anyPort)
	conn := connect(t, ConnectOptions{Server: srv})
	s := newSource()
	s.book(1, 50)
	s.book(2, 50)
	_, stop := feeding(t, conn, s)
	eventually(t, "all is published", s.caughtUp)
	stop()
	// As after a power failure: the cursor is beyond the end of the stream,
	// which has 1-1 to 1-50 and 2-1 to 2-50.
	s.mu.Lock()
	for p, n := range map[int]int{1: 7, 2: 3} {
		for range n {
			number := uint64(len(s.entries[p])) + 1
			e := s.entries[p][0]
			e.ID.Number = number
			s.entries[p] = append(s.entries[p], e)
		}
		s.at[p] = len(s.entries[p])
	}
	s.back, s.last = s.back+10, s.last+10
	s.mu.Unlock()
	feed, _ := feeding(t, conn, s)
	eventually(t, "all is published", func() bool { return feed.Stats().Published == 10 && s.caughtUp() })
	checkTopic(t, conn, s)
	same(t, "rewinds", s.rewinds, 1)
	same(t, "skipped", feed.Stats().Skipped, 100)
}

func TestFeedGoesOnWhenSomethingElseWroteToTheTopic(t *testing.T) {
	srv := serving(t, t.TempDir(), anyPort)
	conn := connect(t, ConnectOptions{Server: srv})
	s := newSource()
	s.book(1, 20)
	f, _ := feeding(t, conn, s)
	eventually(t, "the first are published", s.caughtUp)
	if _, err := conn.js.Publish(t.Context(), "odometer.usage._.x.y", []byte("not an entry")); err != nil {
		t.Fatal(err)
	}
	s.book(1, 20)
	eventually(t, "all is published", s.caughtUp)
	var ids []string
	for _, m := range topic(t, conn) {
		if id := m.Headers().Get(nats.MsgIdHdr); id != "" {
			ids = append(ids, id)
		}
	}
	if len(ids) != 40 || ids[39] != "1-40" || !slices.Equal(slices.Compact(ids), ids) {
		t.Errorf("entries: got %d, last %s, want 40", len(ids), ids[len(ids)-1])
	}
	if f.Stats().Errors == 0 {
		t.Error("errors: got none, want the one that was found out")
	}
}

func TestFeedOverALedgerAndAServerThatFail(t *testing.T) {
	dir := t.TempDir()
	srv := serving(t, dir, anyPort)
	addr := srv.Addr()
	conn := connected(t, srv, "")
	s := newSource()
	n := 0
	s.fail = func(what string) error {
		if n++; n%4 == 0 {
			return errors.New("database is locked")
		}
		return nil
	}
	f, _ := feeding(t, conn, s)
	for range 3 {
		s.book(5, 700)
		time.Sleep(20 * time.Millisecond)
		srv.Shutdown()
		s.book(6, 10)
		srv = serving(t, dir, addr)
	}
	eventually(t, "all is published", s.caughtUp)
	checkTopic(t, conn, s)
	if f.Stats().Errors == 0 {
		t.Error("errors: got none")
	}
}

func TestHeaderValue(t *testing.T) {
	for in, want := range map[string]string{"vm-7": "vm-7", "a b%c": "a%20b%25c", "ü": "%C3%BC", "x\r\ny\"": "x%0D%0Ay%22"} {
		same(t, "header value of "+in, headerValue(in), want)
	}
}

// TestFeedEmptiesATopicThatCannotBeRead has a topic that answers and lets
// nobody read it, as one does whose blocks are damaged on every copy.
func TestFeedEmptiesATopicThatCannotBeRead(t *testing.T) {
	opts := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true, JetStream: true, StoreDir: t.TempDir(),
		Users: []*server.User{
			{Username: "all", Password: "x"},
			{Username: "blind", Password: "x", Permissions: &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{"$JS.API.CONSUMER.CREATE.>"}}}},
		},
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	srv.Start()
	t.Cleanup(func() { srv.Shutdown(); srv.WaitForShutdown() })
	if !srv.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	as := func(user string) *Conn {
		return connect(t, ConnectOptions{URL: "nats://" + user + ":x@" + srv.Addr().String()})
	}
	all, blind := as("all"), as("blind")
	s := newSource()
	s.book(1, 20)
	_, stop := feeding(t, all, s)
	eventually(t, "all is published", s.caughtUp)
	stop()
	s.mu.Lock()
	s.back, s.last = s.back-5, s.last-5 // as if it had been stopped between publishing and moving the cursor
	s.mu.Unlock()
	f := NewFeed(blind, s)
	f.unread = unreadMost - 2
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	eventually(t, "the topic is fed again", func() bool { return f.Stats().Published == 20 && s.caughtUp() })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := f.Stats().Rewinds; n != 1 {
		t.Errorf("rewinds: got %d, want 1", n)
	}
	checkTopic(t, all, s)
}
