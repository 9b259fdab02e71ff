package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// known is a fleet with a real directory, ledger and queue.
type knownFleet struct {
	*fleet
	t      *testing.T
	dir    string
	agents map[odometer.AgentID]*queue.Conn
	server *queue.Server
	ingest *ingest.Ingest
	now    time.Time
	every  time.Duration // that agents say their periods last, 0 where they do not
}

func newFleet(t *testing.T) *knownFleet {
	t.Helper()
	dir := t.TempDir()
	k := &knownFleet{t: t, dir: dir, agents: map[odometer.AgentID]*queue.Conn{}, now: time.Now().Truncate(time.Second)}
	clock := func() time.Time { return k.now }
	l, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(dir, "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	d, err := account.Open(t.Context(), account.Options{Path: filepath.Join(dir, "directory.db"), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	if k.server, err = queue.StartServer(queue.ServerOptions{StoreDir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Token: "secret"}); err != nil {
		t.Fatal(err)
	}
	conn, err := queue.Connect(queue.ConnectOptions{Server: k.server, Name: "server"})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	kept, err := account.OpenAccounts(t.Context(), account.AccountsOptions{Path: filepath.Join(dir, "ledger.db"), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	k.ingest = ingest.New(ingest.Options{Ledger: l, Receipts: conn})
	k.fleet = &fleet{directory: d, ledger: l, kept: kept, now: clock}
	heard := queue.NewLive(conn, k.hear)
	k.live = &liveView{heard: heard, ledger: l, now: clock}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 2)
	go func() { done <- heard.Run(ctx) }()
	go func() { done <- k.ingest.Run(ctx, deliveries{queue.NewReceiver(conn)}) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, <-done); err != nil {
			t.Error(err)
		}
		for _, c := range k.agents {
			c.Close()
		}
		conn.Close()
		k.server.Shutdown()
		if err := errors.Join(d.Close(), kept.Close(), l.Close()); err != nil {
			t.Error(err)
		}
	})
	return k
}

// period is the event of an instance at an agent of the second that ends at now,
// its first, or one of so many seconds later.
func (k *knownFleet) period(instance odometer.InstanceID, agent odometer.AgentID, user odometer.UserID, later int) *odometer.Event {
	var u odometer.Usage
	u.Known = u.Known.With(odometer.CPU).With(odometer.MeasuredTime).With(odometer.EstimatedTime).With(odometer.GapTime)
	u.Vector[odometer.CPU], u.Vector[odometer.MeasuredTime] = 500_000, odometer.SecondMicros
	end := k.now.UnixMicro()
	e := &odometer.Event{
		Version: odometer.Version11, Instance: instance, Agent: agent, Owner: odometer.Owner{User: user}, Quality: odometer.Measured,
		Epoch: odometer.NewEpoch(instance, agent, "n", "1"), EpochStart: end - odometer.SecondMicros, FirstSequence: 1, Sequence: 1,
		Span: odometer.Span{Start: end - odometer.SecondMicros, End: end}, Usage: u,
	}
	e.Readings.Start.Known, e.Readings.End = u.Known, u
	for range later {
		e.Sequence, e.FirstSequence = e.Sequence+1, e.FirstSequence+1
		e.Span = odometer.Span{Start: e.Span.End, End: e.Span.End + odometer.SecondMicros}
		e.Readings.Start = e.Readings.End
		for q, n := range u.Vector {
			e.Readings.End.Vector[q] += n
		}
	}
	e.Derive(0, 0)
	return e
}

// book has the ledger record events.
func (k *knownFleet) book(events ...*odometer.Event) {
	k.t.Helper()
	for chunk := range slices.Chunk(events, 500) {
		var records []odometer.Record
		for _, e := range chunk {
			records = append(records, odometer.Record{Event: e})
		}
		results, err := k.ingest.Submit(k.t.Context(), records)
		if err != nil {
			k.t.Fatal(err)
		}
		for _, r := range results {
			if r.Outcome != odometer.Recorded {
				k.t.Fatalf("got %+v, want it recorded", r)
			}
		}
	}
}

// tell has an agent tell open periods and machines, and waits until it is heard.
func (k *knownFleet) tell(agent odometer.AgentID, open []*odometer.Event, machines ...odometer.VM) {
	k.t.Helper()
	conn := k.agents[agent]
	if conn == nil {
		var err error
		if conn, err = queue.Connect(queue.ConnectOptions{Server: k.server, Agent: agent, Name: "agent"}); err != nil {
			k.t.Fatal(err)
		}
		k.agents[agent] = conn
	}
	m := liveMessage{Agent: agent, At: time.Now().UnixMicro(), Spool: "s", Interval: k.every.Microseconds()}
	for i := range machines {
		m.Machines = append(m.Machines, describe(&machines[i]))
	}
	parts, err := m.parts(open)
	if err != nil {
		k.t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if err := conn.PublishLive(agent, parts...); err != nil {
			k.t.Fatal(err)
		}
		if read := k.live.of(agent); len(read) == len(parts) && read[0].At == m.At && k.directory.Agents()[agent] >= len(machines) {
			return
		}
		if time.Now().After(deadline) {
			k.t.Fatal("what an agent tells is not heard")
		}
	}
}

// find returns what a query finds as "id@agent state user".
func (k *knownFleet) find(q api.InstanceQuery) []string { return k.findAs(odometer.Everything, q) }

// findAs is find for who sees less.
func (k *knownFleet) findAs(seen odometer.View, q api.InstanceQuery) (found []string) {
	k.t.Helper()
	if q.Limit == 0 {
		q.Limit = 10_000
	}
	list, err := k.Instances(k.t.Context(), seen, q)
	if err != nil {
		k.t.Fatal(err)
	}
	for i := range list {
		user := odometer.UserID("-")
		if list[i].User != nil {
			user = *list[i].User
		}
		found = append(found, fmt.Sprintf("%s@%s %s %s", list[i].Description.Instance, list[i].Agent, list[i].State, user))
	}
	return found
}

func vmOn(instance odometer.InstanceID, attributes ...string) odometer.VM {
	v := odometer.VM{Instance: instance, Name: "name-of-" + string(instance), Source: "libvirt", State: odometer.Running, VCPUs: 2, Memory: 1 << 30, Attributes: map[string]string{}}
	for i := 0; i < len(attributes); i += 2 {
		v.Attributes[attributes[i]] = attributes[i+1]
	}
	return v
}

// What is known of an instance comes from those who know it: the directory, the
// ledger, and what is open.
// TestWhatIsKeptIsListed, page by page among what hosts tell and what is booked, and
// what nobody has told yet to who sees everything.
func TestWhatIsKeptIsListed(t *testing.T) {
	k := newFleet(t)
	k.book(k.period("booked", "http-1", "eve", 0))
	k.tell("h1", nil, vmOn("a-told"), vmOn("told"))
	by := odometer.Actor{Caller: odometer.Caller{Name: "admin", Scopes: []odometer.Scope{odometer.ScopeAdmin}}}
	for _, id := range []odometer.InstanceID{"a-kept", "booked", "told", "z-kept"} {
		r := odometer.Registered{Instance: id, Name: "called " + string(id), Labels: map[string]string{"first": string(id[:1])}}
		if _, err := k.kept.Register(t.Context(), by, odometer.Once{}, r); err != nil {
			t.Fatal(err)
		}
	}
	k.book(k.period("sold", "http-1", "eve", 0))
	fay := odometer.Actor{Caller: odometer.Caller{Bound: odometer.Bound{User: "fay"}, Scopes: []odometer.Scope{odometer.ScopeAccount}}}
	before := odometer.Ownership{Instance: "sold", Owner: odometer.Owner{User: "fay"}}
	if _, err := k.kept.SetRegistered(t.Context(), fay, before, odometer.AnyVersion, odometer.Registered{Labels: map[string]string{"whose": "fay"}}); err != nil {
		t.Fatal(err)
	}
	bob := odometer.Caller{Bound: odometer.Bound{User: "bob"}, Scopes: []odometer.Scope{odometer.ScopeRead}}
	eve := odometer.Caller{Bound: odometer.Bound{User: "eve"}, Scopes: []odometer.Scope{odometer.ScopeRead}}
	for _, c := range []struct {
		name string
		seen odometer.View
		q    api.InstanceQuery
		want string
	}{
		{"all", odometer.Everything, api.InstanceQuery{}, "a-kept a-told booked sold told z-kept"},
		{"what nobody describes", odometer.Everything, api.InstanceQuery{State: api.StateUnknown}, "a-kept booked sold z-kept"},
		{"on a host", odometer.Everything, api.InstanceQuery{Agent: "h1"}, "a-told told"},
		{"a label", odometer.Everything, api.InstanceQuery{Label: "first:z"}, "z-kept"},
		{"a label and a host's name", odometer.Everything, api.InstanceQuery{Label: "first:t", Name: "name-of-told"}, "told"},
		{"what people call it", odometer.Everything, api.InstanceQuery{Name: "called told"}, "told"},
		{"what people call what nobody has told", odometer.Everything, api.InstanceQuery{Name: "called z-kept"}, "z-kept"},
		{"what his is called", eve.View(), api.InstanceQuery{Name: "called booked"}, "booked"},
		{"his by a label", eve.View(), api.InstanceQuery{Label: "first:b"}, "booked"},
		{"others' by a label", bob.View(), api.InstanceQuery{Label: "first:b"}, ""},
		{"to who sees nothing of it", bob.View(), api.InstanceQuery{}, ""},
		{"what who had it before called his", eve.View(), api.InstanceQuery{Label: "whose:fay"}, ""},
		{"the same, to the operator", odometer.Everything, api.InstanceQuery{Label: "whose:fay"}, "sold"},
	} {
		var got []string
		c.q.Limit = 2 // pages
		for {
			list, err := k.Instances(t.Context(), c.seen, c.q)
			if err != nil {
				t.Fatal(err)
			}
			for i := range list {
				got = append(got, string(list[i].Description.Instance))
			}
			if len(list) < c.q.Limit {
				break
			}
			c.q.After = list[len(list)-1].Description.Instance
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	one, _, err := k.Instance(t.Context(), odometer.Everything, "z-kept")
	if err != nil || one.State != api.StateUnknown || one.Record == nil || one.Record.Name != "called z-kept" {
		t.Errorf("got %+v, %v, want it unknown by the name that it was given", one, err)
	}
	if _, _, err := k.Instance(t.Context(), bob.View(), "z-kept"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("to who does not see it: got %v, want ErrNotFound", err)
	}
}

func TestFleetJoinsWhatIsKnown(t *testing.T) {
	k := newFleet(t)
	k.book(k.period("booked", "http-1", "eve", 0), k.period("both", "h1", "bob", 0))
	both, open := k.period("both", "h1", "ada", 1), k.period("open", "h3", "cy", 0)
	k.tell("h1", []*odometer.Event{both}, vmOn("both", "rack", "r1"), vmOn("only-told"))
	k.tell("h3", []*odometer.Event{open}) // an agent of before: it describes nothing
	for _, c := range []struct {
		name string
		q    api.InstanceQuery
		want string
	}{
		{"all", api.InstanceQuery{}, "booked@http unknown eve, both@h1 running ada, only-told@h1 running -"},
		{"a state that is told", api.InstanceQuery{State: "running"}, "both@h1 running ada, only-told@h1 running -"},
		{"what nobody describes", api.InstanceQuery{State: api.StateUnknown}, "booked@http unknown eve"},
		{"a user, by what is booked", api.InstanceQuery{User: "eve"}, "booked@http unknown eve"},
		{"a user, by what is open", api.InstanceQuery{User: "ada"}, "both@h1 running ada"},
		{"a user of whom only what is open is known", api.InstanceQuery{User: "cy"}, "open@h3 unknown cy"},
		{"whose it was before", api.InstanceQuery{User: "bob"}, ""},
		{"a host", api.InstanceQuery{Agent: "h1"}, "both@h1 running ada, only-told@h1 running -"},
		{"a user on a host", api.InstanceQuery{Agent: "h1", User: "ada"}, "both@h1 running ada"},
		{"a user on another host", api.InstanceQuery{Agent: "h2", User: "ada"}, ""},
		{"a name", api.InstanceQuery{Name: "name-of-both"}, "both@h1 running ada"},
		{"an attribute of a user", api.InstanceQuery{Attribute: "rack", Value: "r1", User: "ada"}, "both@h1 running ada"},
		{"another attribute of a user", api.InstanceQuery{Attribute: "rack", Value: "r2", User: "ada"}, ""},
		{"after one", api.InstanceQuery{After: "booked", Limit: 1}, "both@h1 running ada"},
	} {
		got := strings.Join(k.find(c.q), ", ")
		got = strings.ReplaceAll(got, "booked@"+string(agentOfBooked(k)), "booked@http")
		if got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
	for _, c := range []struct {
		name string
		of   odometer.Caller
		q    api.InstanceQuery
		want string
	}{
		{"a user", odometer.Caller{Bound: odometer.Bound{User: "ada"}}, api.InstanceQuery{}, "both@h1 running ada"},
		{"a user, by what is open alone", odometer.Caller{Bound: odometer.Bound{User: "cy"}}, api.InstanceQuery{}, "open@h3 unknown cy"},
		{"who had it before", odometer.Caller{Bound: odometer.Bound{User: "bob"}}, api.InstanceQuery{}, ""},
		{"a user, another's", odometer.Caller{Bound: odometer.Bound{User: "ada"}}, api.InstanceQuery{User: "eve"}, ""},
		{"a user, by a name that is another's", odometer.Caller{Bound: odometer.Bound{User: "ada"}}, api.InstanceQuery{Name: "name-of-only-told"}, ""},
		{"nobody", odometer.Caller{}, api.InstanceQuery{}, ""},
	} {
		seen := c.of.View()
		if got := strings.Join(k.findAs(seen, c.q), ", "); got != c.want {
			t.Errorf("seen by %s: got %q, want %q", c.name, got, c.want)
		}
		for _, id := range []odometer.InstanceID{"booked", "both", "only-told", "open", "nobody"} {
			_, _, err := k.Instance(t.Context(), seen, id)
			if sees := strings.Contains(c.want, string(id)+"@") && c.q == (api.InstanceQuery{}); c.q == (api.InstanceQuery{}) && (err == nil) != sees || err != nil && err != odometer.ErrNotFound {
				t.Errorf("%s, seen by %s: got %v, want it seen %v, and otherwise as absent", id, c.name, err, sees)
			}
		}
	}
	one, _, err := k.Instance(t.Context(), odometer.Everything, "both")
	if err != nil || len(one.Periods) != 1 || one.Age == nil || one.LastReading.UnixMicro() != both.Span.End || one.FirstSeen.UnixMicro() != both.EpochStart {
		t.Errorf("got %+v, %v, want its open period, its last reading and when it was seen first", one, err)
	}
	if one, _, err := k.Instance(t.Context(), odometer.Everything, "open"); err != nil || one.Agent != "h3" || len(one.Periods) != 1 {
		t.Errorf("in its first period: got %+v, %v, want what its agent tells", one, err)
	}
	if _, _, err := k.Instance(t.Context(), odometer.Everything, "nobody"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("nobody: got %v, want an error wrapping ErrNotFound", err)
	}
	// It is recorded whose a machine is, other than its agent says: that decides.
	if _, err := k.ledger.Assign(t.Context(), odometer.Ownership{Instance: "both", Owner: odometer.Owner{User: "dan"}, From: 0}, "admin", "sold", false); err != nil {
		t.Fatal(err)
	}
	for user, want := range map[odometer.UserID]string{"ada": "", "dan": "both@h1 running dan"} {
		c := odometer.Caller{Bound: odometer.Bound{User: user}}
		if got := strings.Join(k.findAs(c.View(), api.InstanceQuery{}), ", "); got != want {
			t.Errorf("recorded as dan's, seen by %s: got %q, want %q", user, got, want)
		}
		if open := k.live.Open(c.View(), "both"); len(open) > 0 != (user == "dan") || len(open) > 0 && open[0].Event.Owner.User != user {
			t.Errorf("seen by %s: got %+v, want what is open of the machine where it is his", user, open)
		}
	}
	// The agents fall silent: what they told last ages.
	k.now = k.now.Add(10 * time.Minute)
	one, _, err = k.Instance(t.Context(), odometer.Everything, "both")
	if err != nil || one.State != api.StateUnobserved || one.LastState != odometer.Running || *one.Age < 590 || *one.Age > 660 || len(one.Periods) != 0 {
		t.Errorf("ten minutes later: got %+v, %v, want it unobserved, with the age of its last reading", one, err)
	}
}

// agentOfBooked is what the ledger calls the sender of an event over HTTP.
func agentOfBooked(k *knownFleet) odometer.AgentID {
	rows, err := k.ledger.Instances(k.t.Context(), ledger.InstanceQuery{Instance: "booked", Limit: 1})
	if err != nil || len(rows) != 1 {
		k.t.Fatalf("got %+v, %v, want the one that is booked", rows, err)
	}
	return rows[0].Agent
}

// Pages are complete and in order, whoever knows the instances on them.
func TestFleetIsPaged(t *testing.T) {
	k := newFleet(t)
	var events []*odometer.Event
	var vms []odometer.VM
	var want []string
	for i := range 2*fleetMost + 5 {
		id := odometer.InstanceID(fmt.Sprintf("i%05d", i))
		want = append(want, string(id))
		if i%3 != 0 {
			events = append(events, k.period(id, "h1", "ada", 0))
		}
		if i%3 != 1 {
			vms = append(vms, vmOn(id))
		}
	}
	k.book(events...)
	for chunk := range slices.Chunk(vms, 300) {
		var told []odometer.Description
		for i := range chunk {
			told = append(told, odometer.Describe(&chunk[i]))
		}
		k.directory.Describe("h1", k.now, told, nil)
	}
	for _, limit := range []int{97, fleetMost, fleetMost + 1} {
		var got []string
		q := api.InstanceQuery{Limit: limit}
		for {
			page := k.find(q)
			for _, f := range page {
				id, _, _ := strings.Cut(f, "@")
				got = append(got, id)
				q.After = odometer.InstanceID(id)
			}
			if len(page) < limit {
				break
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %d instances, want all %d in order", limit, len(got), len(want))
		}
	}
	if got := len(k.find(api.InstanceQuery{State: api.StateUnknown})); got != len(want)/3 {
		t.Errorf("what nobody describes: got %d, want %d", got, len(want)/3)
	}
	if got := len(k.find(api.InstanceQuery{User: "ada", State: "running"})); got != len(want)/3 {
		t.Errorf("a user's that are described: got %d, want %d", got, len(want)/3)
	}
}

// What an agent of before tells is heard, and nothing of it is taken for a
// description.
func TestAnAgentOfBeforeIsHeard(t *testing.T) {
	k := newFleet(t)
	e := k.period("vm-1", "h1", "ada", 0)
	old, err := json.Marshal(map[string]any{"agent_id": "h1", "at_us": e.Span.End, "spool": "s", "position": 0, "open": []json.RawMessage{e.AppendJSON(nil)}})
	if err != nil {
		t.Fatal(err)
	}
	k.tell("h1", nil) // connects
	if err := k.agents["h1"].PublishLive("h1", old); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(patience); len(k.live.Open(odometer.Everything, "vm-1")) == 0; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("its open period is not seen")
		}
	}
	if n := len(k.directory.Agents()); n != 0 {
		t.Errorf("got %d agents that describe machines, want none", n)
	}
}

// Without a directory the list is refused and says what to do; everything else
// goes on.
func TestFleetWithoutADirectory(t *testing.T) {
	_, err := openDirectory(t.Context(), filepath.Join(t.TempDir(), "missing", "directory.db"), account.Options{})
	f := &fleet{absent: err, now: time.Now}
	if err == nil || f.facts().Absent == "" || f.conflicts() != nil {
		t.Errorf("got %v and %+v, want why there is none", err, f.facts())
	}
	f.hear(queue.LiveMessage{Agent: "h1", Data: []byte(`{"machines":[]}`)})
	if _, err := f.Instances(t.Context(), odometer.Everything, api.InstanceQuery{Limit: 1}); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("list: got %v, want an error wrapping ErrUnavailable", err)
	}
	if _, _, err := f.Instance(t.Context(), odometer.Everything, "vm-1"); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("show: got %v, want an error wrapping ErrUnavailable", err)
	}
}
