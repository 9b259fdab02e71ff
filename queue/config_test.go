package queue

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
)

// outside is a NATS server of somebody else's, which reads a configuration file.
type outside struct {
	*Server
	file string
}

// told writes what the server is told.
func (o *outside) told(t *testing.T, own *Key, hosts []odometer.Host, consumers []odometer.Consumer) {
	t.Helper()
	if err := os.WriteFile(o.file, []byte(Config(own.Public(), hosts, consumers)), 0o600); err != nil {
		t.Fatal(err)
	}
}

// startOutside starts it once it was told something.
func (o *outside) start(t *testing.T) {
	t.Helper()
	main := filepath.Join(filepath.Dir(o.file), "nats.conf")
	text := fmt.Sprintf("listen: \"127.0.0.1:-1\"\njetstream { store_dir: %q }\ninclude ./%s\n", filepath.Join(t.TempDir(), "js"), filepath.Base(o.file))
	if err := os.WriteFile(main, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(main)
	if err != nil {
		t.Fatal(err)
	}
	opts.NoSigs, opts.NoLog = true, true
	ns, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server does not start")
	}
	o.Server = &Server{nats: ns}
}

// TestAnExternalServerHoldsEachToItsOwn is the embedded one's, by configuration.
func TestAnExternalServerHoldsEachToItsOwn(t *testing.T) {
	r := &roll{}
	own := r.enrol(t, "server")
	ids := []odometer.AgentID{testAgent, "other", "a*b", "a.b", "münchen"}
	var hosts []odometer.Host
	keys := map[odometer.AgentID]*Key{}
	for _, id := range ids {
		keys[id] = r.enrol(t, id)
		hosts = append(hosts, odometer.Host{Agent: id, Key: keys[id].Public()})
	}
	all, acme, gone := r.enrol(t, "all"), r.enrol(t, "acme"), r.enrol(t, "gone")
	consumers := []odometer.Consumer{
		{ID: readerOfAll, Key: all.Public()}, {ID: readerOfAcme, Org: "acme", Key: acme.Public()},
		{ID: "con_cccccccccccccccc", Key: gone.Public(), Revoked: time.Now()},
	}
	o := &outside{file: filepath.Join(t.TempDir(), "odometer.conf")}
	o.told(t, own, hosts, consumers)
	o.start(t)

	c := connect(t, ConnectOptions{URL: o.URL(), Key: own})
	eventually(t, "the streams are there", func() bool { return c.EnsureStreams(t.Context()) == nil })
	if err := c.EnsureReaders(t.Context(), consumers[:2]); err != nil {
		t.Fatal(err)
	}
	l := newLedger()
	ingest(t, c, l, nil)
	conn := connect(t, ConnectOptions{URL: o.URL(), Agent: testAgent, Key: keys[testAgent]})
	spool := newSpool()
	spool.append(100)
	p := publishing(t, conn, spool, fast)
	eventually(t, "the events are receipted", func() bool { return p.Stats().Receipted == 100 })
	if _, err := conn.RequestCheckpoints(t.Context(), testAgent); err != nil {
		t.Errorf("checkpoints: %v", err)
	}
	for n, org := range []odometer.OrgID{"acme", "other", "acme"} {
		if _, err := c.js.Publish(t.Context(), UsageSubject(odometer.Owner{User: "u", Org: org}, "i"), fmt.Append(nil, n)); err != nil {
			t.Fatal(err)
		}
	}
	_, place := reading(t, o.Server, acme, readerOfAcme)
	if got := read(t, place, 2); !slices.Equal(got, []string{"0", "2"}) {
		t.Errorf("got %v, want what is of acme", got)
	}

	for _, id := range ids[2:] {
		tok := Token(string(id))
		i := intrude(t, o.Server, byKey(keys[id]))
		i.may([]string{"odometer.live." + tok, "odometer.receipt-request." + tok}, []string{"odometer.receipt." + tok, "odometer.owners." + tok, "_INBOX." + tok + ".>"}, slices.Concat(forbidden, []string{IngestSubject(testAgent)}))
	}
	i := intrude(t, o.Server, byKey(all))
	i.may(nil, []string{InboxPrefix(readerOfAll) + ".>"}, slices.Concat(forbidden, []string{"$JS.API.CONSUMER.MSG.NEXT.USAGE." + string(readerOfAcme)}))
	for _, reply := range forbidden { // and by no reply subject
		if strings.ContainsAny(reply, "*>") {
			continue
		}
		if err := i.PublishMsg(&nats.Msg{Subject: nextPrefix + UsageStream + "." + string(readerOfAll), Reply: reply, Data: []byte(`{"batch":1,"no_wait":true}`)}); err != nil {
			t.Fatal(err)
		}
		if err := conn.nc.PublishMsg(&nats.Msg{Subject: IngestSubject(testAgent), Reply: reply, Header: nats.Header{headerFormat: {"none"}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(i.Flush(), conn.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond)
	usage, err := c.js.Stream(t.Context(), UsageStream)
	if err != nil || usage.CachedInfo().State.Msgs != 3 {
		t.Errorf("USAGE: got %v, %v, want three messages", usage, err)
	}

	for name, k := range map[string]*Key{"a consumer that was revoked": gone, "nobody": r.enrol(t, "nobody")} {
		if nc, err := nats.Connect(o.URL(), byKey(k)); !errors.Is(err, nats.ErrAuthorization) {
			t.Errorf("%s: got %v, want it refused", name, err)
			nc.Close()
		}
	}
	// A host is revoked, and the server told again.
	hosts[0].Revoked = time.Now()
	o.told(t, own, hosts, consumers)
	if err := o.nats.Reload(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the connection is lost, and says why", func() bool {
		st := conn.Status()
		return !st.Connected && errors.Is(st.Err, odometer.ErrForbidden)
	})
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("the server itself: %v", err)
	}
	_, place = reading(t, o.Server, all, readerOfAll)
	if info, err := place.Info(t.Context()); err != nil || info.NumPending+uint64(info.NumAckPending) != 3 {
		t.Errorf("a place in the topic: got %+v, %v, want three messages for it", info, err)
	}
}

// TestConfigOfHostileIds has nothing of an id end the string that it stands in.
func TestConfigOfHostileIds(t *testing.T) {
	r := &roll{}
	var hosts []odometer.Host
	for _, id := range []odometer.AgentID{"a{b}", "a$b", "a#b", "a;b", "a'b", "a,b", "a]b", "a:b", "$ODOMETER", "日本"} {
		hosts = append(hosts, odometer.Host{Agent: id, Key: r.enrol(t, id).Public()})
	}
	file := filepath.Join(t.TempDir(), "odometer.conf")
	if err := os.WriteFile(file, []byte(Config(r.enrol(t, "server").Public(), hosts, nil)), 0o600); err != nil {
		t.Fatal(err)
	}
	opts, err := server.ProcessConfigFile(file)
	if err != nil || len(opts.Nkeys) != len(hosts)+1 {
		t.Fatalf("got %d keys, %v, want %d", len(opts.Nkeys), err, len(hosts)+1)
	}
	for _, u := range opts.Nkeys {
		if u.Permissions == nil {
			continue
		}
		agent, err := agentOf(u.Permissions.Publish.Allow[0], ingestPrefix)
		if p, ok := r.PeerOf(odometer.Key(u.Nkey)); err != nil || !ok || p.Agent != agent {
			t.Errorf("%s: got %q, %v, want %q", u.Nkey, agent, err, p.Agent)
		}
	}
}
