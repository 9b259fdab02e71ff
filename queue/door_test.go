package queue

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// roll is who has a key, as the accounts know it.
type roll struct {
	mu   sync.Mutex
	keys map[odometer.Key]odometer.Peer
}

func (r *roll) PeerOf(k odometer.Key) (odometer.Peer, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.keys[k]
	return p, ok
}

// enrol returns a key that is the agent's from now on.
func (r *roll) enrol(t testing.TB, id odometer.AgentID) *Key {
	t.Helper()
	return r.add(t, odometer.Peer{Agent: id})
}

func (r *roll) add(t testing.TB, p odometer.Peer) *Key {
	t.Helper()
	k, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.keys == nil {
		r.keys = map[odometer.Key]odometer.Peer{}
	}
	r.keys[k.Public()] = p
	return k
}

func (r *roll) revoke(k *Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.keys, k.Public())
}

// guarded starts a server that knows keys, with its streams, and returns its own
// connection.
func guarded(t testing.TB) (*Server, *roll, *Conn) {
	t.Helper()
	r := &roll{}
	s, err := StartServer(ServerOptions{StoreDir: t.TempDir(), Addr: anyPort, Token: testToken, Peers: r})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	c := connect(t, ConnectOptions{Server: s})
	if err := c.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s, r, c
}

// intruder is a client of somebody who has an agent's key and uses it for
// something else.
type intruder struct {
	*nats.Conn
	t      testing.TB
	denied chan error
}

func intrude(t testing.TB, s *Server, how ...nats.Option) *intruder {
	t.Helper()
	i := &intruder{t: t, denied: make(chan error, 1024)}
	nc, err := nats.Connect(s.URL(), append(how, nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { i.denied <- err }))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	i.Conn = nc
	return i
}

func byKey(k *Key) nats.Option { return nats.Nkey(string(k.Public()), k.Sign) }

// may demands that the intruder may publish to these and hear those, and is
// refused everything of neither, either way.
func (i *intruder) may(publish, hear, neither []string) {
	i.t.Helper()
	// What is allowed goes first: refusals come in the order of what is refused.
	for _, subject := range publish {
		if err := i.Publish(subject, nil); err != nil {
			i.t.Errorf("publish to %s: %v", subject, err)
		}
	}
	for _, subject := range hear {
		if _, err := i.SubscribeSync(subject); err != nil {
			i.t.Errorf("subscribe to %s: %v", subject, err)
		}
	}
	want := map[string]bool{}
	for _, subject := range neither {
		if !slices.Contains(publish, subject) {
			if i.Publish(subject, nil) == nil { // the client knows what is no subject
				want[fmt.Sprintf("publish %q", subject)] = true
			}
		}
		if !slices.Contains(hear, subject) {
			want[fmt.Sprintf("subscription %q", subject)] = true
			if _, err := i.SubscribeSync(subject); err != nil {
				i.t.Fatalf("subscribe to %s: %v", subject, err)
			}
		}
	}
	const last = "nobody.may"
	if err := i.Publish(last, nil); err != nil {
		i.t.Fatal(err)
	}
	for deadline := time.After(20 * time.Second); ; {
		select {
		case err := <-i.denied:
			text := strings.ToLower(err.Error())
			refused := func(w string) bool {
				verb, subject, _ := strings.Cut(w, " ")
				return errors.Is(err, nats.ErrPermissionViolation) && strings.Contains(text, verb) && strings.Contains(text, " to "+strings.ToLower(subject))
			}
			if refused(fmt.Sprintf("publish %q", last)) {
				if len(want) > 0 {
					i.t.Fatalf("got no refusal of %v", slices.Collect(maps.Keys(want)))
				}
				return
			}
			known := len(want)
			maps.DeleteFunc(want, func(w string, _ bool) bool { return refused(w) })
			if len(want) == known {
				i.t.Fatalf("got %v, want that allowed", err)
			}
		case <-deadline:
			i.t.Fatalf("got no refusal of %s and of %v", last, slices.Collect(maps.Keys(want)))
		}
	}
}

// forbidden is what no agent and no consumer may send to or hear of.
var forbidden = []string{
	"odometer.ingest.other", "odometer.ingest.*", "odometer.ingest.>", "odometer.live.other", "odometer.live.*", "odometer.receipt-request.other",
	"odometer.owners.other", "odometer.owners.*", "odometer.owners.>", "odometer.receipt.other", "odometer.receipt.*", "odometer.receipt.>", "odometer.>", "odometer.*.*", "*.*.*", ">", "*",
	"odometer.usage.>", "odometer.usage.o.u.i", "odometer.usage.*.*.*", "odometer.violation.o.u.i",
	"_INBOX.>", "_INBOX.*", "_INBOX.*.>", "_INBOX.other.x", "_INBOX.other.>", "_INBOX.*.*.*",
	"$JS.API.>", "$JS.>", "$JS.API.INFO", "$JS.API.STREAM.CREATE.X", "$JS.API.STREAM.UPDATE.INGEST", "$JS.API.STREAM.DELETE.INGEST", "$JS.API.STREAM.DELETE.USAGE",
	"$JS.API.STREAM.PURGE.USAGE", "$JS.API.STREAM.PURGE.INGEST", "$JS.API.STREAM.MSG.GET.USAGE", "$JS.API.STREAM.MSG.DELETE.USAGE", "$JS.API.STREAM.INFO.USAGE",
	"$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.STREAM.SNAPSHOT.USAGE", "$JS.API.STREAM.RESTORE.USAGE", "$JS.API.DIRECT.GET.USAGE",
	"$JS.API.CONSUMER.CREATE.USAGE", "$JS.API.CONSUMER.CREATE.USAGE.x", "$JS.API.CONSUMER.DURABLE.CREATE.INGEST.ledger", "$JS.API.CONSUMER.DELETE.INGEST.ledger",
	"$JS.API.CONSUMER.MSG.NEXT.INGEST.ledger", "$JS.ACK.INGEST.ledger.1.1.1.1.1", "$JS.ACK.>", "$JS.EVENT.ADVISORY.>",
	"$SYS.>", "$SYS.REQ.SERVER.PING", "$SYS.REQ.USER.INFO", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.ACCOUNT.*.CONNECT", "$G.>", "_R_.>", "_GR_.>", "$NRG.>",
}

func TestAHostIsHeldToItsOwnSubjects(t *testing.T) {
	s, r, _ := guarded(t)
	for _, id := range []odometer.AgentID{"host", "host.1", "a*b", "a.>", "münchen", "ホスト", "_", "=", "other2", "$SYS", "_INBOX", odometer.AgentID(strings.Repeat("x", odometer.MaxIDBytes))} {
		t.Run(string(id), func(t *testing.T) {
			key := r.enrol(t, id)
			if odometer.ValidID("agent", string(id)) != nil { // ">"
				if _, err := nats.Connect(s.URL(), byKey(key)); !errors.Is(err, nats.ErrAuthorization) {
					t.Errorf("got %v, want it refused", err)
				}
				return
			}
			tok := Token(string(id))
			for name, how := range map[string][]nats.Option{"key": {byKey(key)}, "token": {nats.Token(testToken), nats.UserInfo(tok, "")}} {
				t.Run(name, func(t *testing.T) {
					i := intrude(t, s, how...)
					mine := []string{"odometer.ingest." + tok, "odometer.live." + tok, "odometer.receipt-request." + tok}
					heard := []string{"odometer.receipt." + tok, "odometer.owners." + tok, "_INBOX." + tok + ".x", "_INBOX." + tok + ".>"}
					// What it may send to it may not hear, and the other way round.
					i.may(mine, heard, slices.Concat(forbidden, mine, heard))
				})
			}
		})
	}
}

func TestIdsThatAreNoneAreNotLetIn(t *testing.T) {
	s, r, _ := guarded(t)
	for _, id := range []odometer.AgentID{"", "a b", "a\tb", "a\r\nb", "a\x00b", "a\x7fb", "\xff", "a\u202eb", "a\u00a0b", odometer.AgentID(strings.Repeat("x", odometer.MaxIDBytes+1))} {
		if nc, err := nats.Connect(s.URL(), byKey(r.enrol(t, id))); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%q: got %v, want it refused", id, err)
			nc.Close()
		}
	}
}

func TestAKeyThatIsNotProvenIsNotLetIn(t *testing.T) {
	s, r, _ := guarded(t)
	key, stranger := r.enrol(t, "host"), r.enrol(t, "other")
	unknown, _, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	public := string(key.Public())
	for name, how := range map[string]nats.Option{
		"a key that nobody enrolled":       byKey(unknown),
		"signed with another's key":        nats.Nkey(public, stranger.Sign),
		"something else is signed":         nats.Nkey(public, func([]byte) ([]byte, error) { return key.Sign([]byte("nonce")) }),
		"nothing is signed":                nats.Nkey(public, func([]byte) ([]byte, error) { return nil, nil }),
		"a key beside the token":           func(o *nats.Options) error { o.Token = testToken; return byKey(unknown)(o) },
		"a name beside the key of another": func(o *nats.Options) error { o.User = "host"; return byKey(unknown)(o) },
		"the public key as a token":        nats.Token(public),
		"the public key as a name":         nats.UserInfo(public, ""),
	} {
		if nc, err := nats.Connect(s.URL(), how); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: got %v, want it refused", name, err)
			nc.Close()
		}
	}
	_, err = Connect(ConnectOptions{URL: s.URL(), Agent: "host", Key: unknown})
	if !errors.Is(err, odometer.ErrForbidden) || !strings.Contains(err.Error(), "refused the key") {
		t.Errorf("Connect: got %v, want it to say that the key is refused", err)
	}
}

// TestNoReplyLeadsOutOfTheAccountOfHosts has an agent name others' subjects as
// where the answer to what it may send goes. The server and JetStream answer with
// their own rights.
func TestNoReplyLeadsOutOfTheAccountOfHosts(t *testing.T) {
	s, r, c := guarded(t)
	go c.ServeReceipts(t.Context(), func(_ context.Context, a odometer.AgentID, sp odometer.SpoolID) (odometer.Receipt, error) {
		return odometer.Receipt{Agent: a, Spool: sp, Ledger: "l"}, nil
	})
	var mu sync.Mutex
	heard := map[string]int{}
	hear := func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		heard[m.Subject]++
	}
	if _, err := c.nc.Subscribe("odometer.>", hear); err != nil {
		t.Fatal(err)
	}
	victim := intrude(t, s, byKey(r.enrol(t, "other")))
	var strange []string
	for _, subject := range []string{"odometer.receipt.other", "_INBOX.other.>"} {
		if _, err := victim.Subscribe(subject, func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			strange = append(strange, fmt.Sprintf("%s %s", m.Subject, m.Data))
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(victim.Flush(), c.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	i := intrude(t, s, byKey(r.enrol(t, "host")))
	for _, reply := range forbidden {
		if strings.ContainsAny(reply, "*>") {
			continue
		}
		for _, subject := range []string{"odometer.ingest.host", "odometer.receipt-request.host", "odometer.live.host"} {
			m := &nats.Msg{Subject: subject, Reply: reply, Data: []byte(testSpool)}
			if err := i.PublishMsg(m); err != nil {
				t.Fatalf("reply to %s: %v", reply, err)
			}
			m = &nats.Msg{Subject: subject, Data: []byte(testSpool), Header: nats.Header{"Nats-Trace-Dest": {reply}, "Odometer-Reply": {reply}}}
			if err := i.PublishMsg(m); err != nil {
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
	for subject := range heard {
		if !strings.HasSuffix(subject, ".host") {
			t.Errorf("got a message on %s", subject)
		}
	}
	if len(heard) != 3 {
		t.Errorf("got messages on %v, want what was sent", heard)
	}
	for _, m := range strange { // it can be made to hear an answer, which is none to it
		if subject, data, _ := strings.Cut(m, " "); subject == "odometer.receipt.other" {
			if _, err := decodeReceipt([]byte(data), "other"); err == nil {
				t.Errorf("got %s, taken for a receipt", m)
			}
		}
	}
	for name, want := range map[string]string{IngestStream: "odometer.ingest.host", UsageStream: ""} {
		stream, err := c.js.Stream(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(">"))
		if err != nil || strings.Join(slices.Collect(maps.Keys(info.State.Subjects)), " ") != want || info.State.FirstSeq > 1 {
			t.Errorf("%s: got %+v, %v, want messages on %q alone", name, info.State, err, want)
		}
	}
}

func TestAHostThatIsRevokedIsOutAtOnce(t *testing.T) {
	s, r, c := guarded(t)
	l := newLedger()
	ingest(t, c, l, nil)
	key, other := r.enrol(t, testAgent), r.enrol(t, "other")
	conn := connect(t, ConnectOptions{URL: s.URL(), Agent: testAgent, Key: key})
	neighbour := connect(t, ConnectOptions{URL: s.URL(), Agent: "other", Key: other})
	spool := newSpool()
	spool.append(100)
	p := publishing(t, conn, spool, fast)
	eventually(t, "the events are receipted", func() bool { return p.Stats().Receipted == 100 })
	if _, err := conn.RequestCheckpoints(t.Context(), testAgent); err != nil {
		t.Errorf("checkpoints: %v", err)
	}
	heard := make(chan LiveMessage, 1)
	live := NewLive(c, func(m LiveMessage) { heard <- m })
	go live.Run(t.Context())
	eventually(t, "live messages are heard", func() bool {
		if err := conn.PublishLive(testAgent, []byte("{}")); err != nil {
			t.Fatal(err)
		}
		select {
		case m := <-heard:
			return m.Agent == testAgent
		case <-time.After(10 * time.Millisecond):
			return false
		}
	})

	r.revoke(key)
	s.Expel(key.Public())
	if nc, err := nats.Connect(s.URL(), byKey(key)); !errors.Is(err, nats.ErrAuthorization) {
		t.Errorf("a new connection: got %v, want it refused", err)
		nc.Close()
	}
	eventually(t, "the connection is lost, and says why", func() bool {
		st := conn.Status()
		return !st.Connected && errors.Is(st.Err, odometer.ErrForbidden) && strings.Contains(st.Err.Error(), "the key is refused")
	})
	spool.append(10)
	if got := p.Stats().Receipted; got != 100 {
		t.Errorf("receipted: got %d, want 100", got)
	}
	if st := neighbour.Status(); !st.Connected || st.Reconnects != 0 {
		t.Errorf("the neighbour: got %+v, want it undisturbed", st)
	}
}

// TestNoConnectionOutlivesTheRevocation has many connect at the moment of it.
func TestNoConnectionOutlivesTheRevocation(t *testing.T) {
	s, r, _ := guarded(t)
	for range 20 {
		key := r.enrol(t, "host")
		var wg sync.WaitGroup
		var conns [8]*nats.Conn
		in := make(chan struct{}, len(conns))
		for n := range conns {
			wg.Go(func() {
				conns[n], _ = nats.Connect(s.URL(), byKey(key), nats.NoReconnect())
				in <- struct{}{}
			})
		}
		<-in // one is in, and the others are about to be
		r.revoke(key)
		s.Expel(key.Public())
		wg.Wait()
		for _, nc := range conns {
			if nc != nil {
				eventually(t, "the connection ends", nc.IsClosed)
			}
		}
	}
}

func TestAKeyHasAFewConnections(t *testing.T) {
	s, r, _ := guarded(t)
	key := r.enrol(t, "host")
	var conns []*nats.Conn
	for range 3 * maxPerKey {
		conns = append(conns, intrude(t, s, byKey(key), nats.NoReconnect()).Conn)
	}
	eventually(t, "the oldest make room", func() bool {
		return !slices.ContainsFunc(conns[:2*maxPerKey], func(nc *nats.Conn) bool { return !nc.IsClosed() })
	})
	for _, nc := range conns[2*maxPerKey:] {
		if err := nc.Flush(); err != nil {
			t.Errorf("one of the newest: %v", err)
		}
	}
}

// TestHostsGoOnWhenTheStoreIsOpenedAgain has JetStream closed and opened while an
// account without it is there.
func TestHostsGoOnWhenTheStoreIsOpenedAgain(t *testing.T) {
	s, r, c := guarded(t)
	l := newLedger()
	ingest(t, c, l, nil)
	conn := connect(t, ConnectOptions{URL: s.URL(), Agent: testAgent, Key: r.enrol(t, testAgent)})
	spool := newSpool()
	p := publishing(t, conn, spool, fast)
	for n := range 2 {
		spool.append(10)
		eventually(t, "the events are receipted", func() bool { return p.Stats().Receipted == uint64(10*(n+1)) })
		if n == 0 {
			if err := s.reopen(); err != nil {
				t.Fatal(err)
			}
		}
	}
	i := intrude(t, s, byKey(r.enrol(t, "host")))
	i.may([]string{"odometer.live.host"}, nil, forbidden)
}
