package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

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

// liveMessage is what an agent tells on its live subject. Everything up to
// Position of the spool is closed and not among Open.
type liveMessage struct {
	Agent    odometer.AgentID  `json:"agent_id"`
	At       int64             `json:"at_us"` // microseconds of the agent's wall clock
	Spool    odometer.SpoolID  `json:"spool"`
	Position uint64            `json:"position"`
	Open     []json.RawMessage `json:"open"` // events, each with the sequence that it will get
}

// tellLive tells the open periods until ctx is done. What does not get through
// is replaced by the next.
func (h *host) tellLive(ctx context.Context, conn *queue.Conn) error {
	tick := time.NewTicker(liveEvery)
	defer tick.Stop()
	var told time.Time
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
			m := liveMessage{Agent: conn.Agent(), At: now.UnixMicro(), Spool: h.spool.ID(), Position: h.spool.Stats().Last}
			live := h.agent.Live()
			if live.Sampled.Equal(told) {
				continue
			}
			told = live.Sampled
			for _, e := range live.Open {
				m.Open = append(m.Open, e.AppendJSON(nil))
			}
			if data, err := json.Marshal(m); err == nil {
				_ = conn.PublishLive(m.Agent, data)
			}
		}
	}
}

// liveView shows what agents told last, as far as the ledger does not have it.
type liveView struct {
	heard  *queue.Live
	ledger *ledger.Ledger
	now    func() time.Time
}

// messages returns what each agent told lately, in the order of their names.
func (v *liveView) messages() (list []liveMessage, received []time.Time) {
	all := v.heard.All()
	slices.SortFunc(all, func(a, b queue.LiveMessage) int { return strings.Compare(string(a.Agent), string(b.Agent)) })
	for _, got := range all {
		var m liveMessage
		dec := json.NewDecoder(bytes.NewReader(got.Data))
		if dec.Decode(&m) != nil || m.Agent != got.Agent {
			continue
		}
		list, received = append(list, m), append(received, got.Received)
	}
	return list, received
}

// Open implements [api.LiveView].
func (v *liveView) Open(instance odometer.InstanceID) []api.OpenPeriod {
	var open []api.OpenPeriod
	list, received := v.messages()
	for i, m := range list {
		if v.now().Sub(received[i]) > liveSilence || v.ledger.Receipt(m.Agent, m.Spool).Position > m.Position {
			continue // what was open then may be recorded by now
		}
		for _, raw := range m.Open {
			e, err := odometer.DecodeEvent(raw)
			if err == nil && e.Agent == m.Agent && (instance == "" || e.Instance == instance) {
				open = append(open, api.OpenPeriod{Event: *e, HeardAt: received[i]})
			}
		}
	}
	return open
}

// agents lists the agents that were heard lately.
func (v *liveView) agents() []api.AgentStatus {
	var out []api.AgentStatus
	list, received := v.messages()
	for i, m := range list {
		out = append(out, api.AgentStatus{
			ID: m.Agent, Spool: m.Spool, Position: v.ledger.Receipt(m.Agent, m.Spool).Position, LastSeen: &received[i], Open: len(m.Open),
		})
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
