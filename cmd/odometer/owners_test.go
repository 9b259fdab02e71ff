package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
	"example.org/odometer/internal/port"
	"example.org/odometer/queue"
)

// site is a server and an agent as they are started by hand, in this process.
type site struct {
	t             *testing.T
	dir           string
	http, nats    string
	mu            sync.Mutex
	sent          []*odometer.Event // to the queue
	subscriptions *nats.Conn
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	for _, at := range []*string{&s.http, &s.nats} {
		addr, err := port.Free()
		if err != nil {
			t.Fatal(err)
		}
		*at = addr
	}
	return s
}

// start runs a command until it is stopped.
func (s *site) start(args ...string) (stop func()) {
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan int, 1)
	go func() {
		done <- run(ctx, args, streams{out: io.Discard, err: io.Discard, env: func(string) (string, bool) { return "", false }})
	}()
	stop = sync.OnceFunc(func() {
		cancel()
		if code := <-done; code != 0 {
			s.t.Errorf("%s: got exit code %d", args[0], code)
		}
	})
	s.t.Cleanup(stop)
	return stop
}

// serve starts the server and listens to what agents send.
func (s *site) serve(more ...string) (stop func()) {
	s.t.Helper()
	end := s.start(append([]string{"serve", "--data-dir", filepath.Join(s.dir, "data"), "--http", s.http, "--nats", s.nats, "--no-agent", "--log-level", "error"}, more...)...)
	s.eventually("the server answers", func() bool {
		_, err := s.client().Status(s.t.Context())
		return err == nil
	})
	nc, err := nats.Connect("nats://"+s.nats, nats.Token(s.token()))
	if err != nil {
		s.t.Fatal(err)
	}
	s.subscriptions = nc
	_, err = nc.Subscribe("odometer.ingest.*", func(m *nats.Msg) {
		f, err := odometer.DecodeFrame(m.Data)
		if err != nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		for i := range f.Records {
			if e := f.Records[i].Event; e != nil {
				s.sent = append(s.sent, e)
			}
		}
	})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		s.t.Fatal(err)
	}
	return func() { nc.Close(); end() }
}

func (s *site) agent() (stop func()) {
	return s.agentAs("h1", "--token-file", filepath.Join(s.dir, "data", tokenFile), "--source", "machine")
}

// agentAs starts an agent of that name, always in the same directory.
func (s *site) agentAs(id string, more ...string) (stop func()) {
	return s.start(append([]string{"agent", "--id", id, "--server", "http://" + s.http, "--data-dir", filepath.Join(s.dir, "agent"),
		"--http", "", "--interval", "1s", "--log-level", "error"}, more...)...)
}

// enrols returns the file of a one-time token for a host.
func (s *site) enrols(id odometer.AgentID) (file string) {
	s.t.Helper()
	e, err := s.client().CreateEnrolment(s.t.Context(), api.EnrolmentRequest{Agent: &id})
	if err != nil {
		s.t.Fatal(err)
	}
	file = filepath.Join(s.dir, string(id)+".token")
	if err := os.WriteFile(file, []byte(e.Secret), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

func (s *site) token() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "data", tokenFile))
	return strings.TrimSpace(string(text))
}

func (s *site) client() *client.Client { return newClient("http://"+s.http, s.token(), nil) }

func (s *site) eventually(what string, ok func() bool) {
	s.t.Helper()
	if !until(patience, ok) {
		s.t.Fatalf("%s: not within %s", what, patience)
	}
}

func (s *site) assign(instance odometer.InstanceID, user odometer.UserID, org odometer.OrgID) {
	s.t.Helper()
	if _, err := s.client().Assign(s.t.Context(), instance, api.OwnershipRequest{User: user, Org: &org, Cause: "sold"}); err != nil {
		s.t.Fatal(err)
	}
}

// names waits until the agent names somebody as the owner of its machine.
func (s *site) names(owner odometer.Owner) {
	s.t.Helper()
	s.eventually("the agent names "+string(owner.User), func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.sent) > 0 && s.sent[len(s.sent)-1].Owner == owner
	})
}

// TestAgentsFollowWhoseTheirMachinesAre assigns the machine of an agent while it runs,
// and then takes the server away and starts the agent again.
func TestAgentsFollowWhoseTheirMachinesAre(t *testing.T) {
	s := newSite(t)
	stopServer := s.serve()
	stopAgent := s.agent()
	s.names(odometer.Owner{User: odometer.Unassigned})
	s.assign("h1", "u-ada", "o-acme")
	ada, bob := odometer.Owner{User: "u-ada", Org: "o-acme"}, odometer.Owner{User: "u-bob", Org: "o-bolt"}
	s.names(ada)
	s.assign("h1", "u-bob", "o-bolt")
	s.names(bob)

	stopServer()
	stopAgent()
	away := time.Now().UnixMicro()
	stopAgent = s.agent()
	time.Sleep(3 * time.Second) // it meters
	stopAgent()
	s.mu.Lock()
	s.sent = nil
	s.mu.Unlock()
	s.serve()
	s.agent()
	s.eventually("what was metered meanwhile is sent", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.sent, func(e *odometer.Event) bool { return e.Span.Start >= away })
	})
	s.names(bob)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.sent {
		if e.Span.Start >= away && e.Owner != bob {
			t.Errorf("%s: got %v named while the server was away, want %v", e.ID(), e.Owner, bob)
		}
	}
}

// TestAnAgentThatLiesIsNotBelieved has an agent name somebody else than is recorded: who
// is recorded is charged, and it is counted.
func TestAnAgentThatLiesIsNotBelieved(t *testing.T) {
	s := newSite(t)
	s.serve()
	s.assign("vm-1", "u-bob", "o-bolt")
	k := &knownFleet{t: t, now: time.Now().Add(2 * time.Minute)} // its clock is ahead, and it should have heard
	lie := k.period("vm-1", "h2", "u-eve", 0)
	truth := k.period("vm-2", "h2", "u-eve", 0)
	f := odometer.Frame{Agent: "h2", Spool: "0123456789abcdef0123456789abcdef", First: 1, Last: 2, Records: []odometer.Record{
		{First: 1, Position: 1, Event: lie}, {First: 2, Position: 2, Event: truth},
	}}
	body, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.subscriptions.Publish(queue.IngestSubject("h2"), body); err != nil {
		t.Fatal(err)
	}
	s.eventually("it is booked, and charged to whom it is recorded", func() bool {
		return strings.Contains(s.get("/api/v1/events?instance=vm-1"), `"user_id":"u-bob"`)
	})
	if text := s.get("/api/v1/events?instance=vm-2"); !strings.Contains(text, `"user_id":"u-eve"`) {
		t.Errorf("got %s, want whom the event names where nothing is recorded", text)
	}
	s.eventually("it is counted", func() bool { return strings.Contains(s.get("/metrics"), "\nodometer_owner_disagreements_total 1\n") })
	s.eventually("health names the agent", func() bool {
		return strings.Contains(s.get("/api/v1/health/status"), "h2 named another owner than is recorded in 1 event, at last of vm-1")
	})
}

// TestTheServerFollowsWhoDecides has an account service and an owner map say whose
// machines are, and one of them change.
func TestTheServerFollowsWhoDecides(t *testing.T) {
	s := newSite(t)
	var owner atomic.Pointer[string]
	owner.Store(new("u-ada"))
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/instances/h1" || r.Header.Get("Authorization") != "Bearer of-the-service" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, `{"owner":%q,"organisation":"o-acme","since":%q}`, *owner.Load(), time.Now().UTC().Format(time.RFC3339Nano))
	}))
	defer service.Close()
	file := func(name, text string) string {
		path := filepath.Join(s.dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	token, owners := file("service.token", "of-the-service\n"), file("owners.csv", "attribute,value,user,org\nrack,r12,u-bob,o-bolt\n")
	s.serve("--directory-url", service.URL+"/v1", "--directory-token-file", token, "--directory-max-age", "1s", "--owner-map", owners)
	s.agentAs("h1", "--token-file", filepath.Join(s.dir, "data", tokenFile), "--source", "machine,vms",
		"--vm-file", file("vms.yaml", "vms: [{name: web, id: vm-web, attributes: {rack: r12}}]\n"))
	recorded := func(instance odometer.InstanceID) (users string) {
		a, err := s.client().Ownership(t.Context(), instance)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range a.Ownership {
			users += string(o.User) + "/" + orEmpty(o.Org) + " "
		}
		return users
	}
	s.eventually("the service decides", func() bool { return recorded("h1") == "u-ada/o-acme " })
	s.eventually("the map decides", func() bool { return recorded("vm-web") == "u-bob/o-bolt " })
	owner.Store(new("u-cleo"))
	s.eventually("the service says something else", func() bool { return recorded("h1") == "u-ada/o-acme u-cleo/o-acme " })
	s.eventually("the agent names whom the service says", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.sent, func(e *odometer.Event) bool { return e.Instance == "h1" && e.Owner.User == "u-cleo" })
	})
	service.Close()
	s.eventually("the service is away, and health says so", func() bool {
		h, err := s.client().Health(t.Context())
		c := h.Components["account_service"]
		return err == nil && c.Details != nil && strings.Contains(*c.Details, "refused")
	})
	if got := recorded("h1"); got != "u-ada/o-acme u-cleo/o-acme " {
		t.Errorf("got %q recorded while it is away, want what was", got)
	}
}

// TestAHostThatIsRenamedSendsOn lets a host in under another name that has in its spool
// what it measured under the one before.
func TestAHostThatIsRenamedSendsOn(t *testing.T) {
	s := newSite(t)
	stopServer := s.serve()
	machine := []string{"--source", "machine", "--instance-id", "vm-1"}
	stopAgent := s.agentAs("h1", append(machine, "--enroll", s.enrols("h1"))...)
	sent := func(agent odometer.AgentID) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.sent, func(e *odometer.Event) bool { return e.Agent == agent })
	}
	s.eventually("it sends", func() bool { return sent("h1") })
	stopServer()
	time.Sleep(3 * time.Second) // it meters
	stopAgent()
	s.serve()
	if _, err := s.client().RevokeHost(t.Context(), "h1"); err != nil {
		t.Fatal(err)
	}
	s.agentAs("h2", append(machine, "--enroll", s.enrols("h2"))...)
	s.eventually("what it measures under its new name is booked", func() bool {
		return strings.Contains(s.get("/api/v1/events?instance=vm-1&limit=1000"), `"agent_id":"h2"`)
	})
	list, err := s.client().Quarantine(t.Context(), 1000)
	if err != nil || len(list) == 0 {
		t.Fatalf("got %+v, %v, want what it measured under its name before in quarantine", list, err)
	}
	for _, q := range list {
		if q.Reason != "sender" || q.Instance != "vm-1" {
			t.Errorf("got %+v in quarantine, want nothing else", q)
		}
	}
	item := list[len(list)-1]
	if res, err := s.client().Release(t.Context(), item.Partition, item.No); err != nil || res.Outcome != odometer.Recorded {
		t.Errorf("released: got %+v, %v, want it booked to the epoch that it is of", res, err)
	}
	audited(t, filepath.Join(s.dir, "data"))
}

func (s *site) get(path string) string {
	s.t.Helper()
	r, err := http.NewRequestWithContext(s.t.Context(), http.MethodGet, "http://"+s.http+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.token())
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(resp.Body)
	return string(text)
}

// listed is the record and the queue of an [ownerTeller], in memory.
type listed struct {
	owned map[odometer.InstanceID][]odometer.Ownership
	fails error
	sent  []odometer.Owners
}

func (l *listed) Owned(_ context.Context, instances []odometer.InstanceID, _, _ int64) (map[odometer.InstanceID][]odometer.Ownership, error) {
	of := map[odometer.InstanceID][]odometer.Ownership{}
	for _, id := range instances {
		if own := l.owned[id]; own != nil {
			of[id] = own
		}
	}
	return of, l.fails
}

func (l *listed) SendOwners(_ odometer.AgentID, o odometer.Owners) error {
	l.sent = append(l.sent, o)
	return nil
}

// TestWhatAnAgentIsTold tells an agent step by step.
func TestWhatAnAgentIsTold(t *testing.T) {
	now := time.Unix(1_767_366_245, 0)
	d, err := account.Open(t.Context(), account.Options{Path: filepath.Join(t.TempDir(), "directory.db"), Clock: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	l := &listed{owned: map[odometer.InstanceID][]odometer.Ownership{}}
	o := newOwnerTeller(d, l, l, slog.New(slog.DiscardHandler))
	o.now = func() time.Time { return now }
	has := ""
	step := func(name string, want int, do func()) {
		t.Helper()
		before := len(l.sent)
		do()
		o.tell(t.Context())
		if got := len(l.sent) - before; got != want {
			t.Errorf("%s: got %d lists sent, want %d", name, got, want)
		}
		now = now.Add(time.Second)
	}
	hear := func() { o.heard("h1", has) }
	takes := func() { has = l.sent[len(l.sent)-1].Revision; hear() }
	vms := []odometer.Description{odometer.Describe(new(vmOn("vm-1"))), odometer.Describe(new(vmOn("vm-2")))}
	at := now.UnixMicro()
	ada, bob := odometer.Owner{User: "u-ada"}, odometer.Owner{User: "u-bob"}
	l.owned["vm-1"] = []odometer.Ownership{{Instance: "vm-1", Owner: ada, From: 1, Until: 5}, {Instance: "vm-1", Owner: bob, From: 5, Until: at - 1}, {Instance: "vm-1", Owner: ada, From: at - 1, Until: at + 3.6e9}}

	step("its first word", 1, func() { d.Describe("h1", now, vms[:1], nil); hear() })
	if list := l.sent[0].List; len(list) != 2 || list[0].Owner != bob || list[1].Owner != ada {
		t.Errorf("got %+v, want what is and what was last", list)
	}
	step("it has not got it yet", 0, hear)
	step("still", 0, hear)
	step("it never got it", 1, hear)
	step("it has it", 0, takes)
	step("nothing changes", 0, hear)
	l.owned["vm-1"] = []odometer.Ownership{{Instance: "vm-1", Owner: bob, From: 1, Until: odometer.Forever}}
	step("it is sold", 1, func() { o.decided("vm-1") })
	step("it has that", 0, takes)
	step("another one, nobody's, is there", 0, func() { d.Describe("h1", now, vms, nil); hear() })
	l.owned["vm-2"] = []odometer.Ownership{{Instance: "vm-2", Owner: ada, From: 1, Until: odometer.Forever}}
	l.fails = odometer.ErrUnavailable
	step("the record cannot be read", 0, func() { o.decided("vm-2") })
	l.fails = nil
	step("it is tried again", 1, hear)
	step("it has that, too", 0, takes)
	step("one leaves", 1, func() { d.Describe("h1", now, vms[:1], []odometer.InstanceID{"vm-2"}); hear() })
	step("it has that, too", 0, takes)
	step("another host has it", 0, func() { o.decided("vm-9") })

	// A server that knows nothing of an agent that it told before.
	o = newOwnerTeller(d, l, l, slog.New(slog.DiscardHandler))
	o.now = func() time.Time { return now }
	has = "of before"
	d.Describe("h2", now, vms[1:], nil)
	step("what it was told before stands", 0, func() { o.heard("h2", has) })
	for range 40 {
		now = now.Add(time.Second)
		d.Describe("h2", now, vms[1:], nil)
	}
	step("until all it has is known", 1, func() { o.heard("h2", has) })
}
