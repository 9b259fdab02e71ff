package ledger

import (
	"fmt"

	"example.org/odometer"
)

// Events of version 1.0 carry no readings: they are counted by the time they
// cover. For each instance and source the table coverage keeps the periods
// that are booked; they never overlap. What they book belongs to an epoch of
// the ledger's own making, whose vector is the running total.

// epoch10 returns the epoch in which a source's events of an instance are
// counted, opening it at the first.
func (f *fold) epoch10(w *work, ev *odometer.Event) (*epoch, error) {
	key := epochKey{w.rec.partition, odometer.NewEpoch(ev.Instance, odometer.AgentID(w.rec.sender), "1.0", "")}
	e, err := f.epoch(key)
	if err != nil || e != nil {
		return e, err
	}
	first := *ev
	first.Agent = odometer.AgentID(w.rec.sender)
	first.EpochStart = ev.Period.Start * odometer.SecondMicros
	return f.newEpoch(key, &first, byTime), nil
}

// covered folds an event of version 1.0.
func (f *fold) covered(w *work, index int, r *odometer.Record) error {
	e, err := f.epoch10(w, r.Event)
	if err != nil {
		return err
	}
	digest := r.Event.Content()
	if e.held > 0 {
		v, ok, err := f.heldBefore(e, uint64(r.Event.Period.Start), uint64(r.Event.Period.End), digest)
		if err != nil {
			return err
		}
		if ok {
			return f.settle(w, index, r, v)
		}
	}
	if reason := clockReason10(r.Event, w.rec.at); reason != "" {
		return f.hold(w, index, r, e, digest, reason)
	}
	v, err := f.cover(w, e, r.Event, digest, place{w.rec.position, index})
	if err != nil {
		return err
	}
	return f.settle(w, index, r, v)
}

func clockReason10(ev *odometer.Event, at int64) string {
	span := odometer.Span{Start: ev.Period.Start * odometer.SecondMicros, End: ev.Period.End * odometer.SecondMicros}
	return clockReason(&odometer.Event{Span: span}, at)
}

// cover books ev where nothing covers its period yet.
func (f *fold) cover(w *work, e *epoch, ev *odometer.Event, digest odometer.Digest, at place) (verdict, error) {
	usage, span, err := odometer.UsageOf10(ev)
	if err != nil {
		return refuse(reasonInvalid, "%s", err), nil
	}
	v, err := f.coveredBefore(w, e, span, digest)
	if err != nil || v.outcome != odometer.Recorded {
		return v, err
	}
	if why := f.bounds.check(usage); why != "" {
		return refuse(reasonImpossible, "%s", why), nil
	}
	sum := e.vector
	if !sum.Add(usage) {
		return refuse(reasonImpossible, "the running total overflows"), nil
	}
	_, err = f.exec(`INSERT INTO coverage (partition, instance, source, start_us, end_us, digest) VALUES (?, ?, ?, ?, ?, ?)`,
		e.partition, string(e.instance), string(e.agent), span.Start, span.End, digest[:])
	if err != nil {
		return v, fmt.Errorf("cover the period of event %s: %w", ev.ID(), err)
	}
	return v, f.bookCovered(w, e, ev, booking{kind: odometer.KindUsage, span: span, usage: usage, readings: odometer.Readings{Start: e.vector, End: sum}}, at)
}

// coveredBefore returns Recorded when nothing covers any part of span.
func (f *fold) coveredBefore(w *work, e *epoch, span odometer.Span, digest odometer.Digest) (verdict, error) {
	rows, err := f.query(`SELECT start_us, end_us, digest FROM coverage
		WHERE partition = ? AND instance = ? AND source = ? AND start_us < ? AND end_us > ? ORDER BY start_us LIMIT 2`,
		e.partition, string(e.instance), string(e.agent), span.End, span.Start)
	if err != nil {
		return verdict{}, fmt.Errorf("look up the periods of %s: %w", e.instance, err)
	}
	defer rows.Close()
	v := verdict{outcome: odometer.Recorded}
	for rows.Next() {
		var start, end int64
		var d []byte
		if err := rows.Scan(&start, &end, &d); err != nil {
			return verdict{}, err
		}
		switch {
		case start != span.Start || end != span.End:
			return refuse(reasonOverlap, "another event covers %d to %d", start/odometer.SecondMicros, end/odometer.SecondMicros), nil
		case odometer.Digest(d) == digest:
			v = verdict{outcome: odometer.Duplicate}
		default:
			v = refuse(reasonConflict, "an event for the same period was recorded with other content")
		}
	}
	return v, rows.Err()
}

func (f *fold) bookCovered(w *work, e *epoch, ev *odometer.Event, k booking, at place) error {
	e.sequence++
	as := *ev
	as.Version, as.Agent, as.Epoch, as.EpochStart = odometer.Version11, e.agent, e.epochKey.epoch, e.started
	as.FirstSequence, as.Sequence = e.sequence, e.sequence
	as.Span, as.Usage, as.Readings, as.Quality = k.span, k.usage, k.readings, odometer.Measured
	k.plain = true
	if err := f.charge(w, e, &as, &k, false, ev); err != nil {
		return err
	}
	e.vector, e.end, e.position = k.readings.End, max(e.end, k.span.End), at.position
	f.touch(e)
	return nil
}

// releaseCovered books a held event of version 1.0.
func (f *fold) releaseCovered(w *work, e *epoch, h *heldEvent, r *odometer.Record) error {
	v, err := f.cover(w, e, r.Event, odometer.Digest(h.digest), h.at)
	if err != nil {
		return err
	}
	return f.unhold(w, e, h, r, v)
}
