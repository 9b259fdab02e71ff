package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// memoryChanges is a log of changes of violations.
type memoryChanges struct {
	mu   sync.Mutex
	news chan struct{}
	list []odometer.Violation
	fail error
}

func newChanges() *memoryChanges { return &memoryChanges{news: make(chan struct{})} }

// tell appends n changes of violations of acme's, which are told apart by a name.
func (m *memoryChanges) tell(n int, name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for range n {
		number := uint64(1)
		if len(m.list) > 0 {
			number += m.list[len(m.list)-1].Number
		}
		m.list = append(m.list, odometer.Violation{
			ID: odometer.ViolationID(fmt.Sprintf("vio_%s%d", name, number)), Change: 1, Number: number, Threshold: "thr_a", Level: "warning", Standing: odometer.StandingOpen,
			Instance: "vm.1", Owner: odometer.Owner{User: "u-ada", Org: "acme"}, Unit: odometer.UnitPercent, Limit: 80, Value: 81, Changed: 1_763_881_200_000_005,
		})
	}
	close(m.news)
	m.news = make(chan struct{})
}

func (m *memoryChanges) ChangesAfter(_ context.Context, number uint64, limit int) (list []odometer.Violation, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.list {
		if v.Number > number && len(list) < limit {
			list = append(list, v)
		}
	}
	return list, m.fail
}

func (m *memoryChanges) News() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.news
}

// become makes the log another one.
func (m *memoryChanges) become(list []odometer.Violation, fail error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.list, m.fail = list, fail
}

func (m *memoryChanges) ids() (ids []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range m.list {
		ids = append(ids, m.list[i].ChangeID())
	}
	return ids
}

func telling(t *testing.T, c *Conn, m *memoryChanges) (f *ViolationFeed, stop func()) {
	t.Helper()
	f = NewViolationFeed(c, m)
	f.check = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- f.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	t.Cleanup(stop)
	return f, stop
}

// violations reads the whole stream: the ids of its messages, in order.
func violations(t *testing.T, c *Conn) (ids []string, last jetstream.Msg) {
	t.Helper()
	consumer, err := c.js.OrderedConsumer(t.Context(), ViolationStream, jetstream.OrderedConsumerConfig{})
	if err != nil {
		t.Fatal(err)
	}
	iter, err := consumer.Messages()
	if err != nil {
		t.Fatal(err)
	}
	defer iter.Stop()
	for left := consumer.CachedInfo().NumPending; left > 0; left-- {
		if last, err = iter.Next(jetstream.NextMaxWait(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, last.Headers().Get(nats.MsgIdHdr))
	}
	return ids, last
}

func tells(t *testing.T, f *ViolationFeed, n uint64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d changes are published", n), func() bool { return f.Stats().Published >= n })
	same(t, "published", f.Stats().Published, n)
}

func wantTold(t *testing.T, c *Conn, want []string) {
	t.Helper()
	if got, _ := violations(t, c); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("messages in the stream: got %d, %v, want %d, %v", len(got), got, len(want), want)
	}
}

func TestViolationsArePublishedOnceInOrder(t *testing.T) {
	srv := serving(t, t.TempDir(), anyPort)
	c := connect(t, ConnectOptions{Server: srv})
	m := newChanges()
	m.tell(600, "a")
	f, stop := telling(t, c, m)
	tells(t, f, 600)
	m.tell(1, "a")
	tells(t, f, 601)
	wantTold(t, c, m.ids())
	_, last := violations(t, c)
	same(t, "subject", last.Subject(), "odometer.violation.acme.u-ada.vm=2E1")
	same(t, "data", string(last.Data()), string(m.list[600].AppendJSON(nil)))
	for name, value := range map[string]string{
		"ce-specversion": "1.0", "ce-id": "vio_a601.1", "ce-source": entrySource, "ce-type": "org.odometer.violation.v1", "ce-subject": "vm.1",
		"ce-time": "2025-11-23T07:00:00.000005Z", "ce-datacontenttype": "application/json", "Content-Type": "application/json", headerNumber: "601",
	} {
		same(t, "header "+name, last.Headers().Get(name), value)
	}

	sum := changeMessage(&odometer.Violation{ID: "vio_x", Change: 1, Sum: true, Owner: odometer.Owner{Org: "acme"}}, 0)
	if subject, there := sum.Header["ce-subject"]; there {
		t.Errorf("a sum: got the subject %q, want none", subject)
	}

	// Another feed, after ids are forgotten, finds how far this one was.
	stop()
	time.Sleep(usageDuplicates + 100*time.Millisecond)
	m.tell(3, "a")
	f, _ = telling(t, c, m)
	tells(t, f, 3)
	wantTold(t, c, m.ids())
}

func TestSubjectsOfViolations(t *testing.T) {
	for _, c := range []struct {
		name string
		v    odometer.Violation
		want string
	}{
		{"an instance of an organisation", odometer.Violation{Instance: "vm-1", Owner: odometer.Owner{User: "ada", Org: "acme"}}, "acme.ada.vm-1"},
		{"an instance of nobody's", odometer.Violation{Instance: "vm-1"}, "_._.vm-1"},
		{"the sum over an organisation", odometer.Violation{Sum: true, Owner: odometer.Owner{Org: "a.b"}}, "a=2Eb._._"},
		{"the sum over a user", odometer.Violation{Sum: true, Owner: odometer.Owner{User: "_"}}, "_.=5F._"},
		{"the sum over all", odometer.Violation{Sum: true}, "_._._"},
	} {
		same(t, c.name, ViolationSubject(&c.v), "odometer.violation."+c.want)
	}
}

// TestViolationsOfWhatTheStreamDoesNotHave has the stream and the log differ.
func TestViolationsOfWhatTheStreamDoesNotHave(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, c *Conn, m *memoryChanges)
		want   func(before []string, m *memoryChanges) []string
	}{
		{"the stream was deleted: everything again", func(t *testing.T, c *Conn, m *memoryChanges) {
			if err := c.js.DeleteStream(t.Context(), ViolationStream); err != nil {
				t.Fatal(err)
			}
		}, func(_ []string, m *memoryChanges) []string { return m.ids() }},
		{"its messages went by age: what is new", func(t *testing.T, c *Conn, m *memoryChanges) {
			s, err := c.js.Stream(t.Context(), ViolationStream)
			if err == nil {
				err = s.Purge(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
			m.tell(2, "a")
		}, func(_ []string, m *memoryChanges) []string { return m.ids()[10:] }},
		{"changes are gone before they were published: those that are left", func(t *testing.T, c *Conn, m *memoryChanges) {
			m.tell(9, "a")
			m.become(m.list[15:], nil)
		}, func(before []string, m *memoryChanges) []string { return append(before, m.ids()...) }},
		{"the ledger was restored and has fewer: all of it again", func(t *testing.T, c *Conn, m *memoryChanges) {
			m.become(m.list[:4:4], nil)
		}, func(before []string, m *memoryChanges) []string { return append(before, m.ids()...) }},
		{"the ledger was restored and has others since: all of it again", func(t *testing.T, c *Conn, m *memoryChanges) {
			m.become(m.list[:4:4], nil)
			m.tell(8, "b")
		}, func(before []string, m *memoryChanges) []string { return append(before, m.ids()...) }},
		{"the ledger was restored and has none: nothing, and then what comes", func(t *testing.T, c *Conn, m *memoryChanges) {
			m.become(nil, nil)
			m.tell(1, "b")
		}, func(before []string, m *memoryChanges) []string { return append(before, m.ids()...) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			srv := serving(t, t.TempDir(), anyPort)
			conn := connect(t, ConnectOptions{Server: srv})
			m := newChanges()
			m.tell(10, "a")
			f, stop := telling(t, conn, m)
			tells(t, f, 10)
			stop()
			before := m.ids()
			c.change(t, conn, m)
			time.Sleep(usageDuplicates + 100*time.Millisecond)
			want := c.want(before, m)
			_, stop = telling(t, conn, m)
			eventually(t, "the rest is published", func() bool {
				s, err := conn.js.Stream(t.Context(), ViolationStream)
				return err == nil && s.CachedInfo().State.Msgs >= uint64(len(want))
			})
			stop()
			wantTold(t, conn, want)

			// And goes on from there, whichever number a message has then.
			m.tell(1, "c")
			f, _ = telling(t, conn, m)
			tells(t, f, 1)
			wantTold(t, conn, append(want, m.ids()[len(m.list)-1]))
		})
	}
}

// TestViolationsAreTriedOn: a log that cannot be read, and a stream that something else
// writes to, are told and tried again.
func TestViolationsAreTriedOn(t *testing.T) {
	srv := serving(t, t.TempDir(), anyPort)
	c := connect(t, ConnectOptions{Server: srv})
	m := newChanges()
	m.tell(2, "a")
	m.become(m.list, errors.New("the disk is away"))
	f, _ := telling(t, c, m)
	eventually(t, "it says so", func() bool { st := f.Stats(); return st.Errors > 0 && st.Err != nil })
	m.become(m.list, nil)
	tells(t, f, 2)
	eventually(t, "all is well", func() bool { return f.Stats().Err == nil })

	if _, err := c.js.Publish(t.Context(), violationPrefix+"x.y.z", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it says that something else writes there", func() bool { return errors.Is(f.Stats().Err, odometer.ErrConflict) })
	s, err := c.js.Stream(t.Context(), ViolationStream)
	if err == nil {
		err = s.DeleteMsg(t.Context(), 3)
	}
	if err != nil {
		t.Fatal(err)
	}
	config := s.CachedInfo().Config
	config.Metadata[aheadKey] = strconv.Itoa(1) // what a person does about it: the message that was not ours is one ahead
	if _, err := c.js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	m.tell(1, "a")
	tells(t, f, 3)
	wantTold(t, c, m.ids())
}

// TestWhoReadsViolations: a consumer of everything does, and one of an organisation not.
func TestWhoReadsViolations(t *testing.T) {
	s, _, c, all, acme := booked(t)
	m := newChanges()
	m.tell(3, "a")
	m.list[1].Owner.Org = "other"
	f, _ := telling(t, c, m)
	tells(t, f, 3)
	for id, key := range map[odometer.ConsumerID]*Key{readerOfAll: all, readerOfAcme: acme} {
		i := intrude(t, s, byKey(key), nats.CustomInboxPrefix(InboxPrefix(id)))
		js, err := jetstream.New(i.Conn)
		if err != nil {
			t.Fatal(err)
		}
		place, err := js.Consumer(t.Context(), ViolationStream, string(id))
		if id == readerOfAcme {
			if !errors.Is(err, jetstream.ErrConsumerNotFound) {
				t.Errorf("a consumer of one organisation: got %v, want no place", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		var expect []string
		for _, v := range m.list {
			expect = append(expect, string(v.AppendJSON(nil)))
		}
		same(t, string(id), fmt.Sprint(read(t, place, len(expect))), fmt.Sprint(expect))
		if info, err := place.Info(t.Context()); err != nil || info.NumPending != 0 {
			t.Errorf("%s: got %+v, %v, want nothing more", id, info, err)
		}
	}
	if err := c.EnsureReaders(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	for _, topic := range topics {
		if _, err := c.js.Consumer(t.Context(), topic.stream, string(readerOfAcme)); !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Errorf("%s: got %v, want the place of who was put out gone", topic.stream, err)
		}
	}
}
