package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

const (
	// liveEvery is how often an agent looks whether there is a new sample, whose
	// open periods it then tells: so that the first is seen within two seconds
	// of the start.
	liveEvery = 250 * time.Millisecond
	// liveSilence is when what an agent told is no longer shown as open: it
	// was cut off, and what is current there is not known here.
	liveSilence = time.Minute
)

// liveMessage is what an agent tells on its live subject, or a part of it.
// Everything up to Position of the spool is closed and not among Open. Open is
// the last member: whoever wants only what comes before reads no further.
type liveMessage struct {
	Agent    odometer.AgentID `json:"agent_id"`
	At       int64            `json:"at_us"` // microseconds of the agent's wall clock
	Spool    odometer.SpoolID `json:"spool"`
	Position uint64           `json:"position"`
	// Interval is the length of the agent's periods, microseconds. Agents of before do
	// not tell it.
	Interval int64 `json:"interval_us,omitempty"`
	// Owners names the list that the agent has of whose its instances are, "" for
	// none; nil where it wants none, as agents of before.
	Owners *string `json:"owners,omitempty"`
	// Machines are descriptions of instances, each told when it changed and at
	// least once a minute; Gone are those that were here a moment ago. Agents of
	// before tell neither.
	Machines []json.RawMessage     `json:"machines,omitempty"`
	Gone     []odometer.InstanceID `json:"gone,omitempty"`
	Open     []json.RawMessage     `json:"open"` // events, each with the sequence that it will get
}

// speak tells the server what is here and what is open, and hears from it whose that
// is, until ctx is done.
func (h *host) speak(ctx context.Context, conn *queue.Conn) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.owners.follow(ctx, conn) })
	g.Go(func() error { return h.tellLive(ctx, conn) })
	return g.Wait()
}

// tellLive tells what is here and what is open until ctx is done. What does not
// get through is replaced by the next.
func (h *host) tellLive(ctx context.Context, conn *queue.Conn) error {
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	var told time.Time
	tell := newTeller()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-tick.C:
			if h.agent.Sampled().Equal(told) {
				continue
			}
			// The position before the open periods: one that closes in
			// between is then in neither, and not in both.
			m := liveMessage{Agent: conn.Agent(), At: now.UnixMicro(), Spool: h.spool.ID(), Position: h.spool.Stats().Last, Interval: h.interval.Microseconds(), Owners: new(h.owners.Revision())}
			live := h.agent.Live()
			if live.Sampled.Equal(told) {
				continue
			}
			told = live.Sampled
			tell.look(h.vms.known(), h.own(), now)
			m.Machines, m.Gone = tell.next(now)
			if parts, err := m.parts(live.Open); err == nil {
				_ = conn.PublishLive(m.Agent, parts...)
			}
		}
	}
}

// saidOfMachines is what a live message says of machines.
type saidOfMachines struct {
	told     []odometer.Description
	gone     []odometer.InstanceID
	owners   *string // see liveMessage
	interval int64   // the same
}

// machinesOf returns what a live message says of machines, and reads no further:
// most messages say nothing of them and are large. A description that cannot be
// read costs itself.
func machinesOf(data []byte) (said saidOfMachines, err error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return said, fmt.Errorf("no object: %w: %w", odometer.ErrInvalid, err)
	}
	for dec.More() {
		name, err := dec.Token()
		if err != nil {
			return said, err
		}
		var skipped json.RawMessage
		var machines []json.RawMessage
		switch name {
		case "open":
			return said, nil
		case "machines":
			err = dec.Decode(&machines)
		case "gone":
			err = dec.Decode(&said.gone)
		case "owners":
			err = dec.Decode(&said.owners)
		case "interval_us":
			err = dec.Decode(&said.interval)
		default:
			err = dec.Decode(&skipped)
		}
		if err != nil {
			return said, err
		}
		for _, raw := range machines {
			var d odometer.Description
			if json.Unmarshal(raw, &d) == nil { // an invalid one is counted by whoever takes it
				said.told = append(said.told, d)
			}
		}
	}
	return said, nil
}

// liveView shows what agents told last, as far as the ledger does not have it.
type liveView struct {
	heard  *queue.Live
	ledger *ledger.Ledger
	now    func() time.Time

	mu    sync.Mutex // guards reads
	reads map[odometer.AgentID][]livePart
}

// livePart is a part of a live message, read.
type livePart struct {
	liveMessage
	received time.Time
	events   []*odometer.Event
}

// read returns what an agent told, from its parts. It is read once, however
// often it is asked for.
func (v *liveView) read(agent odometer.AgentID, parts []queue.LiveMessage) []livePart {
	v.mu.Lock()
	defer v.mu.Unlock()
	have := v.reads[agent]
	if len(have) == len(parts) && !slices.ContainsFunc(parts, func(m queue.LiveMessage) bool {
		return !slices.ContainsFunc(have, func(p livePart) bool { return p.received.Equal(m.Received) })
	}) {
		return have
	}
	read := make([]livePart, 0, len(parts))
	for _, got := range parts {
		p := livePart{received: got.Received}
		if json.NewDecoder(bytes.NewReader(got.Data)).Decode(&p.liveMessage) != nil || p.Agent != agent {
			continue
		}
		for _, raw := range p.liveMessage.Open {
			if e, err := odometer.DecodeEvent(raw); err == nil && e.Agent == agent {
				p.events = append(p.events, e)
			}
		}
		p.liveMessage.Open, p.Machines = nil, nil
		read = append(read, p)
	}
	if v.reads == nil {
		v.reads = map[odometer.AgentID][]livePart{}
	}
	v.reads[agent] = read
	return read
}

// all returns what each agent told lately, in the order of their names.
func (v *liveView) all() (agents []odometer.AgentID, told map[odometer.AgentID][]livePart) {
	parts := map[odometer.AgentID][]queue.LiveMessage{}
	for _, m := range v.heard.All() {
		parts[m.Agent] = append(parts[m.Agent], m)
	}
	told = map[odometer.AgentID][]livePart{}
	for agent, list := range parts {
		if read := v.read(agent, list); len(read) > 0 {
			told[agent] = read
			agents = append(agents, agent)
		}
	}
	v.mu.Lock()
	for agent := range v.reads {
		if parts[agent] == nil {
			delete(v.reads, agent)
		}
	}
	v.mu.Unlock()
	slices.Sort(agents)
	return agents, told
}

// of returns what one agent told lately.
func (v *liveView) of(agent odometer.AgentID) []livePart {
	return v.read(agent, v.heard.Last(agent))
}

// open returns the periods of an instance that are open in a part and seen, or of
// all where instance is "". Each is of whom it will be charged to.
func (v *liveView) open(p *livePart, seen odometer.View, instance odometer.InstanceID) (open []api.OpenPeriod) {
	if v.now().Sub(p.received) > liveSilence || v.ledger.Receipt(p.Agent, p.Spool).Position > p.Position {
		return nil // what was open then may be recorded by now
	}
	for _, e := range p.events {
		if instance == "" || e.Instance == instance {
			open = append(open, api.OpenPeriod{Event: *e, HeardAt: p.received})
		}
	}
	return v.owned(open, seen)
}

// owned has periods, which are the caller's own, be of whom the ledger has recorded
// before whom their agent says, and leaves those that are seen: of a period in which
// the owner changes whoever sees both. Where the record cannot be read, who sees
// everything sees them as they are told, and nobody else.
func (v *liveView) owned(open []api.OpenPeriod, seen odometer.View) []api.OpenPeriod {
	from, to := int64(odometer.Forever), int64(0)
	instances := make([]odometer.InstanceID, len(open))
	for i := range open {
		e := &open[i].Event
		instances[i], from, to = e.Instance, min(from, e.Span.Start), max(to, e.Span.End)
	}
	recorded, err := v.ledger.Owned(context.Background(), instances, from, to)
	if err != nil && !seen.All() {
		return nil
	}
	kept := open[:0]
	for _, o := range open {
		e := &o.Event
		claimed, sees := e.Owner.OrUnassigned(), true
		for at := e.Span.Start; at < e.Span.End; {
			from := at
			e.Owner, at = odometer.OwnerAt(recorded[e.Instance], at, claimed)
			sees = sees && seen.SeesUse(e.Instance, e.Owner, from)
		}
		if sees {
			kept = append(kept, o)
		}
	}
	return kept
}

// Open implements [api.LiveView].
func (v *liveView) Open(seen odometer.View, instance odometer.InstanceID) []api.OpenPeriod {
	var open []api.OpenPeriod
	agents, told := v.all()
	for _, agent := range agents {
		for i := range told[agent] {
			open = append(open, v.open(&told[agent][i], seen, instance)...)
		}
	}
	return open
}

// agents lists the agents that were heard lately.
func (v *liveView) agents() []api.AgentStatus {
	var out []api.AgentStatus
	agents, told := v.all()
	for _, agent := range agents {
		parts := told[agent]
		last := parts[0].received
		st := api.AgentStatus{ID: agent, Spool: parts[0].Spool, Position: v.ledger.Receipt(agent, parts[0].Spool).Position, LastSeen: &last}
		for _, p := range parts {
			st.Open += len(p.events)
			if p.received.After(last) {
				last = p.received
			}
		}
		out = append(out, st)
	}
	return out
}

// summary is what a person sees of a period: "cpu 0.31 s · mem 3.2 GiB …".
// Memory and disk are means over the period, like the plan's fields.
func summary(e *odometer.Event) string {
	var b strings.Builder
	elapsed := float64(e.Usage.Elapsed()) / odometer.SecondMicros
	add := func(name string, q odometer.Quantity, show func(float64) string) {
		if b.Len() > 0 {
			b.WriteString(" · ")
		}
		if !e.Usage.Known.Has(q) {
			none := "unknown"
			if q == odometer.GPU {
				none = "none"
			}
			fmt.Fprintf(&b, "%s %s", name, none)
			return
		}
		fmt.Fprintf(&b, "%s %s", name, show(float64(e.Usage.Vector[q])))
	}
	mean := func(mibSeconds float64) string {
		if elapsed <= 0 {
			return humanBytes(0)
		}
		return humanBytes(mibSeconds / elapsed * (1 << 20))
	}
	add("cpu", odometer.CPU, humanTime)
	add("mem", odometer.Memory, mean)
	add("disk", odometer.Storage, mean)
	add("out", odometer.NetworkEgress, humanBytes)
	add("gpu", odometer.GPU, humanTime)
	return b.String()
}
