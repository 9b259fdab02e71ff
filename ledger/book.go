package ledger

import (
	"fmt"

	"example.org/odometer"
)

// Reasons for which an event is put in quarantine or held.
const (
	reasonConflict   = "conflict"    // same identity as a recorded event, other content
	reasonBroken     = "chain"       // its first reading is not where the watermark stands
	reasonBackwards  = "backwards"   // it would lower the odometer or go back in time
	reasonImpossible = "impossible"  // more than is physically possible
	reasonClosed     = "closed"      // its epoch had ended
	reasonSuperseded = "superseded"  // the agent, which had lost its state, tells this time in another epoch
	reasonOverlap    = "overlap"     // version 1.0: part of its period is covered by another event
	reasonInvalid    = "invalid"     // it could not be decoded or contradicts itself
	reasonVersion    = "version"     // a major version this program does not know
	reasonFrame      = "frame"       // a whole frame that could not be opened
	reasonHole       = "hole"        // held: an earlier event is missing
	reasonAhead      = "clock_ahead" // held: it lies in the future
	reasonUnset      = "clock_unset" // held: it comes from a clock that was never set

	reasonForeign = odometer.RefusedForeign
	reasonSender  = odometer.RefusedSender
)

// maxAhead is how far an event may lie ahead of the server's clock: time
// synchronisation keeps hosts within milliseconds, five minutes is what
// others accept too.
const maxAhead = 5 * 60 * odometer.SecondMicros

// clockSet is the earliest time that a clock which was ever set can show:
// machines without one start in 1970.
const clockSet = 946684800 * odometer.SecondMicros // 2000-01-01

// booking is one amount to be booked for an event.
type booking struct {
	kind     odometer.Kind
	plain    bool // the event as it is
	own      bool // a part of the event as it is
	more     bool // another part of it follows
	span     odometer.Span
	usage    odometer.Usage
	readings odometer.Readings
	cause    string
}

// verdict is what the watermark says of one event.
type verdict struct {
	outcome  odometer.Outcome
	reason   string
	detail   string
	bookings []booking
}

func refuse(reason, format string, args ...any) verdict {
	return verdict{outcome: odometer.Quarantined, reason: reason, detail: fmt.Sprintf(format, args...)}
}

// judge decides what becomes of ev, whose first sequence number lies at most
// one beyond the watermark or whose hole is not to be waited for (given up).
// It changes nothing. The event is not one that was recorded before.
//
// Whatever it books is the difference between the event's end and the
// watermark: the event itself where it begins at the watermark, the rest of
// it where some of its parts had arrived, and before it what was lost.
func judge(w *epoch, ev *odometer.Event, b Bounds, unbounded bool) verdict {
	if w.closed {
		return refuse(reasonClosed, "epoch %s ended with sequence %d", w.epoch, w.sequence)
	}
	v := verdict{outcome: odometer.Recorded}
	start := &ev.Readings.Start
	switch {
	case ev.FirstSequence == w.sequence+1:
		if start.Vector != w.vector.Vector {
			return refuse(reasonBroken, "readings begin at %s, the watermark of sequence %d stands elsewhere", firstDifference(start.Vector, w.vector.Vector), w.sequence)
		}
		if ev.Span.Start-ev.Span.Step != w.end {
			return refuse(reasonBroken, "its span begins at %d µs after a step of %d, the watermark of sequence %d ends at %d", ev.Span.Start, ev.Span.Step, w.sequence, w.end)
		}
		v.bookings = []booking{{kind: odometer.KindUsage, plain: true, span: ev.Span, usage: ev.Usage, readings: ev.Readings}}
	case ev.FirstSequence > w.sequence+1:
		lost := start.Sub(w.vector)
		if start.Vector != w.vector.Vector {
			end := ev.Span.Start - ev.Span.Step
			span := odometer.Span{Start: end - lost.Elapsed(), End: end}
			span.Step = span.Start - w.end
			v.bookings = append(v.bookings, booking{
				kind: odometer.KindRecovered, span: span, usage: lost, readings: odometer.Readings{Start: w.vector, End: *start},
				cause: fmt.Sprintf("events %d to %d of the epoch never arrived", w.sequence+1, ev.FirstSequence-1),
			})
		}
		v.bookings = append(v.bookings, booking{kind: odometer.KindUsage, plain: true, span: ev.Span, usage: ev.Usage, readings: ev.Readings})
	default: // coalesced from events of which some are recorded
		rest := ev.Readings.End.Sub(w.vector)
		span := odometer.Span{Start: ev.Span.End - rest.Elapsed(), End: ev.Span.End}
		span.Step = span.Start - w.end
		v.bookings = []booking{{kind: odometer.KindUsage, span: span, usage: rest, readings: odometer.Readings{Start: w.vector, End: ev.Readings.End}}}
	}
	for _, k := range v.bookings {
		if k.usage.Elapsed() <= 0 {
			return refuse(reasonBackwards, "no time has passed since the watermark of sequence %d", w.sequence)
		}
		for q, n := range k.usage.Vector {
			if n < 0 {
				return refuse(reasonBackwards, "%s would fall by %d below the watermark of sequence %d", odometer.Quantity(q), -n, w.sequence)
			}
		}
		if !unbounded {
			if why := b.check(k.usage); why != "" {
				return refuse(reasonImpossible, "%s", why)
			}
		}
	}
	return v
}

// clockReason returns why ev must wait because of its clock, or "".
func clockReason(ev *odometer.Event, at int64) string {
	switch {
	case ev.Span.Start < clockSet:
		return reasonUnset
	case ev.Span.End > at+maxAhead:
		return reasonAhead
	}
	return ""
}

func firstDifference(a, b odometer.Vector) string {
	for q := range a {
		if a[q] != b[q] {
			return fmt.Sprintf("%s = %d and not %d", odometer.Quantity(q), a[q], b[q])
		}
	}
	return "the same values"
}
