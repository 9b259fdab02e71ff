package queue

import (
	"time"

	"example.org/odometer"
)

// World does for a publisher what takes its time. Nothing of it blocks: what
// comes of a call is told later, by the function that was given, never during
// the call itself.
type World interface {
	// Send hands a message over and calls sent once, with nil when the message
	// is stored and otherwise with why that is not known: by then within has
	// passed at the latest. See [Wire.Send] for the order of messages. Once
	// cancel was called nobody cares what came of it.
	Send(subject string, header map[string][]string, data []byte, within time.Duration, sent func(error)) (cancel func())
	// Ask asks the server how far a spool is committed.
	Ask(agent odometer.AgentID, spool odometer.SpoolID, within time.Duration, answered func(odometer.Receipt, error))
	// Await has [Steps.More] called once, when the spool has records beyond a
	// position.
	Await(after uint64)
}

// Steps is a publisher that somebody else drives, one step at a time and by
// another clock; [Publisher.Run] drives it by goroutines, timers and the real
// one. It is not for concurrent use. After each call of any of its methods, and
// after each function that the [World] calls, Step is called.
type Steps struct{ sending }

// Steps begins to publish, in place of Run.
func (p *Publisher) Steps(now func() time.Time, w World) *Steps {
	s := &Steps{sending{
		Publisher: p, now: now, world: w,
		cursor: p.o.Last.Position, last: p.o.Last, hungry: true,
		breaker: breaker{
			threshold: p.o.BreakerThreshold, delay: p.o.BreakerDelay,
			first: p.o.RetryFirst, most: p.o.RetryMost, random: p.o.Random, state: BreakerClosed,
		},
		perFrame: p.o.FrameEvents, format: odometer.FrameFormatJSON,
	}}
	s.ask()
	return s
}

// Step sends a frame if one may be sent now. It returns when to call Due if
// nothing happens before: now where it sent, zero for never.
func (s *Steps) Step() time.Time {
	at := s.now()
	if !s.send() {
		at = s.deadline()
	}
	s.publishStats()
	return at
}

// Due is called when the time has come that Step returned.
func (s *Steps) Due() { s.listen() }

// Receipt is called with each receipt that comes by itself.
func (s *Steps) Receipt(x odometer.Receipt) { s.receipt(x, false) }

// More is called when the spool has what [World.Await] waited for, or with why
// it never will. An error ends the publisher.
func (s *Steps) More(err error) error { return s.noticed(err) }
