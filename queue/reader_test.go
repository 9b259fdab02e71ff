package queue

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	readerOfAll  = odometer.ConsumerID("con_aaaaaaaaaaaaaaaa")
	readerOfAcme = odometer.ConsumerID("con_bbbbbbbbbbbbbbbb")
)

// booked is a server whose USAGE has entries of several organisations, and two
// consumers of it.
func booked(t *testing.T) (s *Server, r *roll, c *Conn, all, acme *Key) {
	t.Helper()
	s, r, c = guarded(t)
	for n, org := range []odometer.OrgID{"acme", "other", "", "acme", "ac.me", "acme2", "acme"} {
		subject := UsageSubject(odometer.Owner{User: "u", Org: org}, "i")
		if _, err := c.js.Publish(t.Context(), subject, fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	all, acme = r.add(t, odometer.Peer{Consumer: readerOfAll}), r.add(t, odometer.Peer{Consumer: readerOfAcme})
	if err := c.EnsureReaders(t.Context(), []odometer.Consumer{{ID: readerOfAll}, {ID: readerOfAcme, Org: "acme"}}); err != nil {
		t.Fatal(err)
	}
	return s, r, c, all, acme
}

// reading connects as a consumer does, with NATS' own client, and returns its place.
func reading(t *testing.T, s *Server, key *Key, id odometer.ConsumerID) (*intruder, jetstream.Consumer) {
	t.Helper()
	i := intrude(t, s, byKey(key), nats.CustomInboxPrefix(InboxPrefix(id)))
	js, err := jetstream.New(i.Conn)
	if err != nil {
		t.Fatal(err)
	}
	place, err := js.Consumer(t.Context(), UsageStream, string(id))
	if err != nil {
		t.Fatal(err)
	}
	return i, place
}

// read takes n messages and acknowledges them.
func read(t *testing.T, place jetstream.Consumer, n int) (got []string) {
	t.Helper()
	for len(got) < n { // no more than that: what is delivered and not acknowledged comes again after a minute
		batch, err := place.Fetch(n-len(got), jetstream.FetchMaxWait(20*time.Second))
		if err != nil {
			t.Fatal(err)
		}
		before := len(got)
		for m := range batch.Messages() {
			if err := m.DoubleAck(t.Context()); err != nil {
				t.Fatalf("acknowledge: %v", err)
			}
			got = append(got, string(m.Data()))
		}
		if len(got) == before {
			t.Fatalf("after %v: nothing comes: %v", got, batch.Error())
		}
	}
	return got
}

func TestAConsumerReadsWhatItIsBoundTo(t *testing.T) {
	s, _, c, all, acme := booked(t)
	_, place := reading(t, s, acme, readerOfAcme)
	if got := read(t, place, 2); !slices.Equal(got, []string{"0", "3"}) {
		t.Errorf("got %v, want the first two of acme", got)
	}
	// Its place is kept, over repetitions of what makes it too.
	if err := c.EnsureReaders(t.Context(), []odometer.Consumer{{ID: readerOfAll}, {ID: readerOfAcme, Org: "acme"}}); err != nil {
		t.Fatal(err)
	}
	_, place = reading(t, s, acme, readerOfAcme)
	if got := read(t, place, 1); !slices.Equal(got, []string{"6"}) {
		t.Errorf("got %v, want the last of acme", got)
	}
	if info, err := place.Info(t.Context()); err != nil || info.NumPending != 0 {
		t.Errorf("got %+v, %v, want nothing more", info, err)
	}
	_, place = reading(t, s, all, readerOfAll)
	if got := read(t, place, 7); !slices.Equal(got, strings.Fields("0 1 2 3 4 5 6")) {
		t.Errorf("got %v, want everything", got)
	}
}

func TestAConsumerDoesNothingElse(t *testing.T) {
	s, _, c, all, acme := booked(t)
	for id, key := range map[odometer.ConsumerID]*Key{readerOfAll: all, readerOfAcme: acme} {
		i := intrude(t, s, byKey(key), nats.CustomInboxPrefix(InboxPrefix(id)))
		mine := []string{"$JS.API.CONSUMER.INFO.USAGE." + string(id), "$JS.ACK.USAGE." + string(id) + ".1.1.1.1.1"}
		other := map[odometer.ConsumerID]odometer.ConsumerID{readerOfAll: readerOfAcme, readerOfAcme: readerOfAll}[id]
		theirs := []string{
			"$JS.API.CONSUMER.INFO.USAGE." + string(other), "$JS.API.CONSUMER.MSG.NEXT.USAGE." + string(other), "$JS.ACK.USAGE." + string(other) + ".1.1.1.1.1",
			"$JS.API.CONSUMER.DELETE.USAGE." + string(id), "$JS.API.CONSUMER.CREATE.USAGE." + string(id) + ".odometer.usage.>", "$JS.API.CONSUMER.DURABLE.CREATE.USAGE." + string(id),
			"$JS.API.CONSUMER.PAUSE.USAGE." + string(id), "$JS.API.CONSUMER.UNPIN.USAGE." + string(id), "$JS.ACK.USAGE.>", "$JS.ACK.INGEST." + string(id) + ".1.1.1.1.1",
			"_INBOX." + string(other) + ".>", "odometer.ingest." + string(id), "odometer.receipt." + string(id),
		}
		i.may(mine, []string{"_INBOX." + string(id) + ".>"}, slices.Concat(forbidden, theirs))
	}
	info := func(name string) *jetstream.StreamInfo {
		stream, err := c.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		return stream.CachedInfo()
	}
	if got := info(UsageStream).State; got.Msgs != 7 || got.Consumers != 2 {
		t.Errorf("USAGE: got %+v, want what was there", got)
	}
	if got := info(IngestStream).State; got.Msgs != 0 {
		t.Errorf("INGEST: got %+v, want nothing", got)
	}
}

// TestNoReplyLeadsOutOfTheAccountOfReaders has a consumer name others' subjects as
// where what it asks for goes: entries, and that there are none.
func TestNoReplyLeadsOutOfTheAccountOfReaders(t *testing.T) {
	s, _, c, all, _ := booked(t)
	var mu sync.Mutex
	var heard []string
	if _, err := c.nc.Subscribe("odometer.>", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		heard = append(heard, m.Subject)
	}); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	i := intrude(t, s, byKey(all))
	next := "$JS.API.CONSUMER.MSG.NEXT.USAGE." + string(readerOfAll)
	for _, reply := range append(slices.Clone(forbidden), "$JS.API.STREAM.DELETE.USAGE", "$JS.API.CONSUMER.DELETE.USAGE."+string(readerOfAcme)) {
		if strings.ContainsAny(reply, "*>") {
			continue
		}
		for _, body := range []string{``, `{"batch":1,"no_wait":true}`, `{"batch":0}`, `nonsense`} {
			if err := i.PublishMsg(&nats.Msg{Subject: next, Reply: reply, Data: []byte(body)}); err != nil {
				t.Fatal(err)
			}
		}
		for _, subject := range []string{"$JS.API.CONSUMER.INFO.USAGE." + string(readerOfAll), "$JS.ACK.USAGE." + string(readerOfAll) + ".1.1.1.1.1"} {
			if err := i.PublishMsg(&nats.Msg{Subject: subject, Reply: reply}); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := i.Flush(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	if len(heard) != 0 {
		t.Errorf("got messages on %v", heard)
	}
	for name, want := range map[string]uint64{UsageStream: 7, IngestStream: 0} {
		stream, err := c.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if st := stream.CachedInfo().State; st.Msgs != want {
			t.Errorf("%s: got %+v, want %d messages", name, st, want)
		}
	}
	if _, err := c.js.Consumer(t.Context(), UsageStream, string(readerOfAcme)); err != nil {
		t.Errorf("the place of the other: %v", err)
	}
}

func TestAConsumerThatIsRevokedIsOutAtOnce(t *testing.T) {
	s, r, c, all, acme := booked(t)
	i, place := reading(t, s, acme, readerOfAcme)
	read(t, place, 1)
	r.revoke(acme)
	s.Expel(acme.Public())
	eventually(t, "the connection ends", func() bool { return !i.IsConnected() })
	if nc, err := nats.Connect(s.URL(), byKey(acme)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a new connection: got %v, want it refused", err)
		nc.Close()
	}
	if err := c.EnsureReaders(t.Context(), []odometer.Consumer{{ID: readerOfAll}}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.js.Consumer(t.Context(), UsageStream, string(readerOfAcme)); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("its place: got %v, want it gone", err)
	}
	_, place = reading(t, s, all, readerOfAll)
	messages, err := place.Messages(jetstream.PullExpiry(2*time.Second), jetstream.PullHeartbeat(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	defer messages.Stop()
	for range 7 {
		if _, err := messages.Next(jetstream.NextMaxWait(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	// Its requests are renewed, and heartbeats come meanwhile.
	if _, err := messages.Next(jetstream.NextMaxWait(3 * time.Second)); !errors.Is(err, nats.ErrTimeout) {
		t.Errorf("with nothing to come: got %v, want it to wait", err)
	}
}

// TestConsumersGoOnWhenTheStoreIsOpenedAgain has JetStream closed and opened.
func TestConsumersGoOnWhenTheStoreIsOpenedAgain(t *testing.T) {
	s, _, _, all, acme := booked(t)
	if err := s.reopen(); err != nil {
		t.Fatal(err)
	}
	_, place := reading(t, s, acme, readerOfAcme)
	if got := read(t, place, 3); !slices.Equal(got, []string{"0", "3", "6"}) {
		t.Errorf("got %v, want what is of acme", got)
	}
	i := intrude(t, s, byKey(all))
	i.may(nil, []string{InboxPrefix(readerOfAll) + ".>"}, forbidden)
}

// TestPlacesThatOthersMadeAreLeftAlone, and one whose stream was lost is made again.
func TestPlacesThatOthersMadeAreLeftAlone(t *testing.T) {
	s, _, c, all, _ := booked(t)
	stream, err := c.js.Stream(t.Context(), UsageStream)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "billing"}); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureReaders(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Consumer(t.Context(), "billing"); err != nil {
		t.Errorf("another's place: %v", err)
	}
	if err := c.js.DeleteStream(t.Context(), UsageStream); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureReaders(t.Context(), []odometer.Consumer{{ID: readerOfAll}}); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("without a stream: got %v, want ErrUnavailable", err)
	}
	if err := c.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.EnsureReaders(t.Context(), []odometer.Consumer{{ID: readerOfAll}}); err != nil {
		t.Fatal(err)
	}
	reading(t, s, all, readerOfAll)
}
