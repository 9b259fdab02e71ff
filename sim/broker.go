package main

import (
	"fmt"
	"slices"
	"time"

	"context"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/queue"
)

// broker is the queue and the network around it: a work queue as JetStream
// keeps one, which acknowledges what it has stored and may forget it
// nevertheless.
type broker struct {
	w       *world
	down    bool
	full    bool
	seq     uint64
	stored  []*message
	older   []*message // as the store was once
	session int        // of the consumer
}

type message struct {
	seq     uint64
	subject string
	header  map[string][]string
	data    []byte
	respond func([]byte)
	session int   // in which it was delivered last
	due     int64 // when it is delivered again
}

// ackWait is when a delivery that nobody acknowledged comes again.
const ackWait = minute

// latency is how long a message takes from one machine to another.
func (w *world) latency() int64 { return w.between(200, 20_000) }

// Send implements [queue.World].
func (p *process) Send(subject string, header map[string][]string, data []byte, within time.Duration, sent func(error)) func() {
	w, h, b := p.w, p.h, p.w.broker
	done := false
	tell := func(err error) {
		if !done && !p.dead {
			done = true
			sent(err)
			p.pump()
		}
	}
	w.after(within.Microseconds(), func() { tell(context.DeadlineExceeded) })
	w.note("%s sends %d bytes", h.id, len(data))
	if h.cut || b.down {
		w.after(w.latency(), func() { tell(fmt.Errorf("the queue cannot be reached: %w", odometer.ErrUnavailable)) })
		return func() { done = true }
	}
	if w.chance(frameLost, 0.05) {
		return func() { done = true }
	}
	at := w.now + w.latency()
	if w.chance(frameDelayed, 0.05) {
		at += w.between(second, 10*second)
	}
	if !w.chance(frameReordered, 0.05) {
		at = max(at, h.arrived+1) // one connection keeps the order
		h.arrived = at
	}
	data = slices.Clone(data)
	if w.chance(newerAgent, 0.2) {
		data = newer(w, header, data)
	}
	times := 1
	if w.chance(frameTwice, 0.05) {
		times = 2
	}
	for range times {
		w.after(at-w.now, func() {
			switch {
			case h.cut || b.down:
				return
			case b.full:
				w.after(w.latency(), func() {
					tell(fmt.Errorf("the queue refused it: maximum bytes exceeded: %w", odometer.ErrUnavailable))
				})
				return
			}
			b.store(&message{subject: subject, header: header, data: data})
			if !w.chance(ackLost, 0.05) {
				w.after(w.latency(), func() { tell(nil) })
			}
		})
		at += w.latency()
	}
	return func() { done = true }
}

// newer makes a frame what an agent of a later version would have sent: its
// events have members that this one does not know.
func newer(w *world, header map[string][]string, data []byte) []byte {
	f, err := odometer.DecodeFrame(data)
	if err != nil {
		w.wrong("a frame that the publisher made does not open: %v", err)
		return data
	}
	for i := range f.Records {
		if e := f.Records[i].Event; e != nil {
			e.Version = "1.7"
			e.Extra = append(e.Extra, odometer.Member{Name: "carbon_g", Value: []byte("12.5")}, odometer.Member{In: "usage", Name: "npu_us", Value: []byte("77")})
		}
	}
	format := odometer.FrameFormatBinary
	if header["Odometer-Format"][0] == "frame-1" {
		format = odometer.FrameFormatJSON
	}
	f.Packed = nil
	again, err := f.EncodeAs(format)
	if err != nil {
		w.wrong("a frame of a newer agent cannot be made: %v", err)
		return data
	}
	return again
}

// Ask implements [queue.World].
func (p *process) Ask(agent odometer.AgentID, spool odometer.SpoolID, within time.Duration, answered func(odometer.Receipt, error)) {
	w, h := p.w, p.h
	done := false
	tell := func(r odometer.Receipt, err error) {
		if !done && !p.dead {
			done = true
			answered(r, err)
			p.pump()
		}
	}
	w.after(within.Microseconds(), func() { tell(odometer.Receipt{}, context.DeadlineExceeded) })
	w.after(w.latency(), func() {
		s := w.server
		if h.cut || w.broker.down || s.down() {
			tell(odometer.Receipt{}, fmt.Errorf("nobody answers: %w", odometer.ErrUnavailable))
			return
		}
		r := s.ledger.Receipt(agent, spool)
		r.Frames = s.frames
		w.after(w.latency(), func() { tell(r, nil) })
	})
}

// Await implements [queue.World].
func (p *process) Await(after uint64) { p.awaits, p.after = true, after }

// request sends a request for an agent's checkpoints on the way of its frames.
func (b *broker) request(p *process, answer func([]byte)) {
	w, h := b.w, p.h
	if h.cut || b.down || b.full {
		return
	}
	at := max(w.now+w.latency(), h.arrived+1)
	h.arrived = at
	w.after(at-w.now, func() {
		if h.cut || b.down {
			return
		}
		b.store(&message{
			subject: "odometer.ingest." + queue.Token(string(h.id)), header: map[string][]string{"Odometer-Format": {"checkpoint-request"}},
			respond: func(data []byte) {
				w.after(w.latency(), func() {
					if !p.dead && !h.cut {
						answer(data)
					}
				})
			},
		})
	})
}

func (b *broker) store(m *message) {
	b.seq++
	m.seq = b.seq
	b.stored = append(b.stored, m)
	b.w.note("queue stores %d: %d bytes", m.seq, len(m.data))
	b.w.after(b.w.latency(), b.w.server.work)
}

// take delivers up to most messages, in order.
func (b *broker) take(most int) (list []ingest.Delivery) {
	w := b.w
	list = w.old.take()
	if b.down {
		return list
	}
	for _, m := range b.stored {
		if len(list) >= most {
			break
		}
		if m.session == b.session && w.now < m.due {
			continue
		}
		again := m.session == b.session
		m.session, m.due = b.session, w.now+ackWait
		w.after(ackWait+1, w.server.work)
		list = append(list, b.delivery(m))
		if !again && w.chance(deliveredTwice, 0.05) {
			list = append(list, b.delivery(m))
		}
	}
	return list
}

// delivery is a message as the program's receiver hands it over.
func (b *broker) delivery(m *message) ingest.Delivery {
	w, session := b.w, b.session
	q := queue.Read(m.subject, m.header, m.data)
	d := ingest.Delivery{Agent: q.Agent, Data: q.Data, Err: q.Err}
	if q.Kind == queue.CheckpointRequest {
		d.Respond = func(data []byte) error {
			if w.server.batch.dead {
				return odometer.ErrUnavailable
			}
			m.respond(data)
			return nil
		}
	}
	d.Ack = func() error {
		if w.server.batch.dead || b.down || session != b.session {
			return fmt.Errorf("acknowledge: %w", odometer.ErrUnavailable)
		}
		if w.chance(serverKilledAfterCommit, 0.01) {
			w.server.batch.dead = true
			return odometer.ErrUnavailable
		}
		if i := slices.Index(b.stored, m); i >= 0 {
			b.stored = slices.Delete(b.stored, i, i+1)
		}
		return nil
	}
	return d
}

// keep remembers the store as it is.
func (b *broker) keep() {
	b.older = nil
	for _, m := range b.stored {
		n := *m
		n.session = 0
		b.older = append(b.older, &n)
	}
}

// SendReceipt implements [ingest.Receipts].
func (s *server) SendReceipt(r odometer.Receipt) error {
	w := s.w
	if s.batch.dead || w.broker.down {
		return fmt.Errorf("receipt: %w", odometer.ErrUnavailable)
	}
	r.Frames = s.frames
	w.note("receipt for %s: %d, generation %d, ahead %v", r.Agent, r.Position, r.Generation, r.Ahead)
	if w.chance(receiptLost, 0.1) {
		return nil
	}
	for _, h := range w.hosts {
		if h.id != r.Agent {
			continue
		}
		at := w.now + w.latency()
		if w.chance(receiptReordered, 0.1) {
			at += w.between(second/10, 3*second)
		} else {
			at = max(at, h.told+1)
			h.told = at
		}
		w.after(at-w.now, func() {
			if h.p != nil && !h.p.dead && !h.cut && h.p.steps != nil {
				h.p.steps.Receipt(r)
				if !h.p.killed() {
					h.p.pump()
				}
			}
		})
	}
	return nil
}
