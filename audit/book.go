package audit

import (
	"encoding/binary"

	"example.org/odometer"
)

// book follows one booking, of which entries have the parts: it must continue its
// epoch where the one before ended, be the difference of its readings, fill its
// span with time, and agree with the event that it books. Src is that event, nil
// where the record knows none; end is set with the last of the event's bookings.
//
// A booking that is out of place is a finding, and the epoch is followed from
// its end, so that one fault is not reported again with every booking after.
func (p *replay) book(r *row, parts []booking, src *source, end bool) error {
	rep := p.a.report
	for _, b := range parts {
		if b.entry.Event.Span.End <= b.entry.Event.Span.Start {
			rep.find("elapsed", "entry %s ends at %d and begins at %d", b.entry.ID, b.entry.Event.Span.End, b.entry.Event.Span.Start)
			return nil
		}
	}
	e := parts[0].entry
	if len(parts) > 1 {
		e = p.join(parts)
	}
	ev := &e.Event
	if e.BookedAt != r.at {
		rep.find("entry", "entry %s is booked at %d and its record committed at %d", e.ID, e.BookedAt, r.at)
	}
	w := p.epoch(ev.Epoch)
	if w.row == nil && w.instance == "" {
		rep.find("epochs", "entry %s: the table has no epoch %s", e.ID, ev.Epoch)
	}
	if w.instance == "" {
		w.instance, w.agent = ev.Instance, ev.Agent
	} else if w.instance != ev.Instance || w.agent != ev.Agent {
		rep.find("entry", "entry %s is of %s at %s, its epoch of %s at %s", e.ID, ev.Instance, ev.Agent, w.instance, w.agent)
	}
	if e.Kind == odometer.KindCorrection {
		return p.correct(r, w, e)
	}
	if !w.seen {
		w.seen = true
		p.a.instances[ev.Instance] = struct{}{}
	}
	p.a.gap += ev.Usage.Vector[odometer.GapTime]
	switch e.Kind {
	case odometer.KindRecovered:
		rep.Recovered++
	case odometer.KindUsage:
	default:
		rep.find("entry", "entry %s is of the unknown kind %q", e.ID, e.Kind)
	}
	if src == nil {
		rep.find("entry", "entry %s books %s, which %s neither received nor released", e.ID, e.SourceEventID, r)
	} else {
		src.booked++
		if ev.Instance != src.ev.Instance || ev.Epoch != epochOf(src.row, src.ev) {
			rep.find("entry", "entry %s is of %s, epoch %s; the event is of %s, epoch %s", e.ID, ev.Instance, ev.Epoch, src.ev.Instance, epochOf(src.row, src.ev))
		}
		for _, b := range parts {
			p.checkPayer(b.entry, src)
		}
		w.byTime = !src.ev.Integral()
		w.position = src.at.position
	}
	if w.limited && ev.Sequence > w.limit && !r.byPerson {
		rep.find("superseded", "entry %s books epoch %s beyond sequence %d, from where another goes on", e.ID, ev.Epoch, w.limit)
	}
	p.move(w, e)
	if src != nil && end {
		if err := p.arrive(w, e, src); err != nil {
			return err
		}
	}
	for _, b := range parts {
		if err := p.apportion(w, b.entry); err != nil {
			return err
		}
	}
	return nil
}

// move follows the watermark over one booking.
func (p *replay) move(w *watermark, e *odometer.Entry) {
	rep, ev := p.a.report, &e.Event
	if w.closed {
		rep.find("after_final", "entry %s is booked after epoch %s had ended with sequence %d", e.ID, ev.Epoch, w.sequence)
	}
	switch {
	case ev.FirstSequence <= w.sequence:
		rep.find("booked_twice", "entry %s books sequence %d to %d of epoch %s, of which %d is booked already", e.ID, ev.FirstSequence, ev.Sequence, ev.Epoch, w.sequence)
	case ev.FirstSequence > w.sequence+1:
		rep.find("sequence_hole", "entry %s books sequence %d of epoch %s after %d", e.ID, ev.FirstSequence, ev.Epoch, w.sequence)
	}
	if from := ev.Span.Start - ev.Span.Step; w.sequence > 0 && !w.byTime {
		switch {
		case from < w.end:
			rep.find("overlap", "entry %s begins %d µs before the one before it in epoch %s ended", e.ID, w.end-from, ev.Epoch)
		case from > w.end:
			rep.find("tiling", "entry %s begins %d µs after the one before it in epoch %s ended", e.ID, from-w.end, ev.Epoch)
		}
	}
	var elapsed int64
	for _, q := range [...]odometer.Quantity{odometer.MeasuredTime, odometer.EstimatedTime, odometer.GapTime} {
		elapsed += ev.Usage.Vector[q]
	}
	if length := ev.Span.End - ev.Span.Start; elapsed != length {
		rep.find("elapsed", "entry %s accounts for %d µs of a span of %d µs", e.ID, elapsed, length)
	}
	for q := range ev.Usage.Vector {
		name := odometer.Quantity(q)
		from, to, used := ev.Readings.Start.Vector[q], ev.Readings.End.Vector[q], ev.Usage.Vector[q]
		if from != w.vector.Vector[q] {
			rep.find("conservation", "entry %s begins at %s = %d, epoch %s stood at %d", e.ID, name, from, ev.Epoch, w.vector.Vector[q])
		}
		if to-from != used {
			rep.find("conservation", "entry %s books %s = %d between the readings %d and %d", e.ID, name, used, from, to)
		}
		if used < 0 {
			rep.find("conservation", "entry %s books %s = %d, less than nothing", e.ID, name, used)
		}
		w.total.Vector[q] += used
	}
	w.sequence, w.vector, w.end = max(w.sequence, ev.Sequence), ev.Readings.End, max(w.end, ev.Span.End)
	if !w.byTime {
		w.end = ev.Span.End
	}
}

// arrive checks, after the last booking for an event, that the epoch stands
// where the event ends.
func (p *replay) arrive(w *watermark, e *odometer.Entry, src *source) error {
	rep, ev := p.a.report, src.ev
	if w.byTime {
		usage, span, err := odometer.UsageOf10(ev)
		if err != nil || usage != e.Event.Usage || span != e.Event.Span {
			rep.find("entry", "entry %s does not book what its event %s of version 1.0 covers", e.ID, ev.ID())
		}
		digest := src.row.mark(src.at.index, ev).content
		return p.covers(ev.Instance, src.row.sender, span, digest[:], true)
	}
	if w.sequence != ev.Sequence || w.end != ev.Span.End || w.vector != ev.Readings.End {
		rep.find("entry", "entry %s leaves epoch %s at sequence %d, %d µs; its event %s ends elsewhere", e.ID, ev.Epoch, w.sequence, w.end, ev.ID())
	}
	w.closed = ev.Final
	digest := src.row.mark(src.at.index, ev).content
	w.remember(ev.FirstSequence, ev.Sequence, digest[:8])
	return nil
}

// apportion adds an entry to the owner's hours that it falls in.
func (p *replay) apportion(w *watermark, e *odometer.Entry) error {
	ev := &e.Event
	if err := p.attribute(e); err != nil {
		return err
	}
	for hour := hourOf(ev.Span.Start); hour < ev.Span.End; hour += odometer.HourMicros {
		part := ev.Usage
		if hour > ev.Span.Start || hour+odometer.HourMicros < ev.Span.End {
			part = share(&ev.Usage, ev.Span, hour, hour+odometer.HourMicros)
		}
		var recovered int64
		if e.Kind == odometer.KindRecovered || p.recovers[e.ID.Number] {
			recovered = part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime]
		}
		if err := p.a.hours.put(hourKey(p.partition, w.no(), hour, ev.Owner), true, &part, recovered); err != nil {
			return err
		}
	}
	return p.state(e)
}

// no returns the epoch's number in the tables, 0 where they have none.
func (w *watermark) no() int64 {
	if w.row == nil {
		return 0
	}
	return w.row.no
}

func hourKey(partition, epoch, hour int64, o odometer.Owner) []byte {
	b := make([]byte, 0, 64)
	b = binary.BigEndian.AppendUint64(b, uint64(partition))
	b = binary.BigEndian.AppendUint64(b, uint64(epoch))
	b = binary.BigEndian.AppendUint64(b, uint64(hour))
	return appendOwner(b, o)
}

func appendOwner(b []byte, o odometer.Owner) []byte {
	b = append(b, o.User...)
	b = append(b, '\t')
	return append(b, o.Org...)
}

// covers adds a covered period to one side of the comparison with the table.
func (p *replay) covers(instance odometer.InstanceID, source string, span odometer.Span, digest []byte, booked bool) error {
	b := append([]byte(instance), '\t')
	b = append(b, source...)
	b = append(b, '\t')
	b = binary.BigEndian.AppendUint64(b, uint64(span.Start))
	b = binary.BigEndian.AppendUint64(b, uint64(span.End))
	b = append(b, digest...)
	return p.coverage.put(b, booked, &odometer.Usage{Vector: odometer.Vector{1}}, 0)
}
