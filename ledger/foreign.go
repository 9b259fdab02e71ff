package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"example.org/odometer"
)

// Whoever receives an event may know that its word is not to be taken: its instance
// runs with another agent, or another agent measured it than sent it. That does not
// follow from the journal, so it stands in the record's result, as the reason, and
// whoever folds the record again takes it from there.
//
// An event of an instance that runs elsewhere waits in quarantine, and with it what
// follows in its epoch: booked, that would be the difference to the watermark, with
// what waits in it. When the move is known all of it is booked, in order.

// refuseAgain marks the records of a frame as they were when it was received.
func refuseAgain(fr *odometer.Frame, runs []run) {
	i := 0
	for _, run := range runs {
		for range run.N {
			if (run.Reason == reasonForeign || run.Reason == reasonSender) && i < len(fr.Records) {
				fr.Records[i].Refused = &odometer.Refusal{Reason: run.Reason, Detail: run.Detail}
			}
			i++
		}
	}
}

// imposed settles an event that another agent measured than sent it: it begins
// nothing and tells nothing. What was recorded already is known.
func (f *fold) imposed(w *work, index int, r *odometer.Record) error {
	ev := r.Event
	v := refuse(reasonSender, "%s", r.Refused.Detail)
	if ev.Integral() {
		e, err := f.epoch(epochKey{w.rec.partition, ev.Epoch})
		if err != nil {
			return err
		}
		if e != nil && e.instance == ev.Instance && ev.Sequence <= e.sequence {
			before, err := f.recordedBefore(e, ev, ev.Content())
			if err != nil {
				return err
			}
			if before.outcome != odometer.Quarantined {
				v.outcome = before.outcome
			}
		}
	}
	return f.settle(w, index, r, v)
}

// foreign reports whether an event beyond the watermark has to wait since its
// instance runs elsewhere, or since it goes on from one that waits.
func (f *fold) foreign(e *epoch, r *odometer.Record) (verdict, bool) {
	switch {
	case r.Refused != nil:
		return refuse(reasonForeign, "%s", r.Refused.Detail), true
	case len(f.waits) > 0 && f.waits[e.epochKey] > 0:
		return refuse(reasonForeign, "it goes on from an event in quarantine, of an instance that ran elsewhere"), true
	}
	return verdict{}, false
}

// loadForeign reads which epochs have events in quarantine that are foreign.
func (f *fold) loadForeign() error {
	err := f.each(`SELECT partition, epoch, count(*) FROM quarantine WHERE reason = ? AND released_us = 0 GROUP BY partition, epoch`, func(rows *sql.Rows) error {
		var k epochKey
		var n int
		err := rows.Scan(&k.partition, &k.epoch, &n)
		f.waits[k] = n
		return err
	}, reasonForeign)
	if err != nil {
		return fmt.Errorf("read the events of instances that ran elsewhere: %w", err)
	}
	return nil
}

// foreignRow is an event in quarantine that is foreign.
type foreignRow struct {
	no int64
	at place
}

// admit books the events of an epoch that are in quarantine as foreign, in order, and
// answers for the one that d names. It stops at one that cannot be booked, which is an
// error where that one is not behind it.
func (f *fold) admit(w *work, key epochKey, d *decision) (res odometer.Result, err error) {
	var rows []foreignRow
	err = f.each(`SELECT no, position, idx FROM quarantine WHERE partition = ? AND epoch = ? AND reason = ? AND released_us = 0 ORDER BY first, sequence`, func(r *sql.Rows) error {
		var row foreignRow
		err := r.Scan(&row.no, &row.at.position, &row.at.index)
		rows = append(rows, row)
		return err
	}, key.partition, string(key.epoch), reasonForeign)
	if err != nil {
		return res, err
	}
	e, err := f.epoch(key)
	if err != nil {
		return res, err
	}
	if e == nil {
		return res, fmt.Errorf("epoch %s: %w", key.epoch, odometer.ErrNotFound)
	}
	for _, row := range rows {
		r, err := f.eventAt(w, key.partition, row.at)
		if err != nil {
			return res, fmt.Errorf("what was received cannot be read as an event: %w", errors.Join(err, odometer.ErrConflict))
		}
		v, err := f.admitOne(w, e, r.Event, &row.at, d.Bounded)
		if err != nil {
			return res, err
		}
		if v.outcome == odometer.Quarantined {
			if res.EventID == "" {
				return res, fmt.Errorf("%s: %s: %s: %w", r.Event.ID(), v.reason, v.detail, odometer.ErrConflict)
			}
			break
		}
		if _, err := f.exec(`UPDATE quarantine SET released_us = ? WHERE partition = ? AND no = ?`, w.rec.at, key.partition, row.no); err != nil {
			return res, err
		}
		f.changed(w, row.at, odometer.Quarantined, v.outcome)
		if f.waits[key]--; f.waits[key] == 0 {
			delete(f.waits, key)
		}
		if row.no == d.No {
			res = odometer.Result{EventID: r.Event.ID(), Outcome: v.outcome}
		}
	}
	if e.held > 0 {
		err = f.releaseHeld(w, e, false)
	}
	return res, err
}

// admitOne books an event that was in quarantine, where it can be.
func (f *fold) admitOne(w *work, e *epoch, ev *odometer.Event, at *place, bounded bool) (verdict, error) {
	if ev.Sequence <= e.sequence {
		return f.recordedBefore(e, ev, ev.Content())
	}
	if v, yes := f.superseded(e, ev); yes {
		return v, nil
	}
	if reason := clockReason(ev, w.rec.at); reason != "" && bounded {
		return refuse(reason, "its time has not come"), nil
	}
	v := judge(e, ev, f.bounds, !bounded)
	if v.outcome != odometer.Recorded {
		return v, nil
	}
	return v, f.book(w, e, ev, v.bookings, ev.Content(), at)
}

// Stranger is an epoch of which events wait in quarantine because its instance ran
// elsewhere.
type Stranger struct {
	Partition int
	No        int64 // of the first event in quarantine
	Instance  odometer.InstanceID
	Agent     odometer.AgentID
	Start     int64 // of that event, µs
	Until     int64 // how far usage of the instance is booked that other agents measured, µs; 0 for none
}

// Strangers returns the epochs of which events wait because their instance ran
// elsewhere, in no order. Those whose events cannot be read any more wait for a person.
func (l *Ledger) Strangers(ctx context.Context) ([]Stranger, error) {
	l.mu.Lock()
	n := len(l.fold.waits)
	l.mu.Unlock()
	if n == 0 {
		return nil, nil
	}
	var list []Stranger
	var places []place
	rows, err := l.read.QueryContext(ctx, `SELECT partition, no, instance, position, idx FROM (
		SELECT *, row_number() OVER (PARTITION BY partition, epoch ORDER BY first, sequence) AS n FROM quarantine WHERE reason = ? AND released_us = 0) WHERE n = 1`, reasonForeign)
	if err != nil {
		return nil, fmt.Errorf("events of instances that ran elsewhere: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var s Stranger
		var at place
		if err := rows.Scan(&s.Partition, &s.No, &s.Instance, &at.position, &at.index); err != nil {
			return nil, err
		}
		list, places = append(list, s), append(places, at)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	known := list[:0]
	for i, s := range list {
		rec, err := recordAt(ctx, l.read, s.Partition, places[i].position)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			continue
		}
		r, err := rec.event(places[i].index)
		if err != nil || r.Event == nil {
			continue
		}
		s.Agent, s.Start = r.Event.Agent, r.Event.Span.Start
		if s.Until, err = l.measuredByOthers(ctx, s.Instance, s.Agent); err != nil {
			return nil, err
		}
		known = append(known, s)
	}
	return known, nil
}

// measuredByOthers returns how far usage of an instance is booked that others than an
// agent measured.
func (l *Ledger) measuredByOthers(ctx context.Context, instance odometer.InstanceID, agent odometer.AgentID) (until int64, err error) {
	rows, err := l.read.QueryContext(ctx, `SELECT `+epochColumns+` FROM `+epochTables+` WHERE e.instance = ? AND e.agent <> ?`, string(instance), string(agent))
	if err != nil {
		return 0, fmt.Errorf("epochs of %s: %w", instance, err)
	}
	defer rows.Close()
	for rows.Next() {
		var e epoch
		if err := e.scan(rows); err != nil {
			return 0, err
		}
		if e.sequence > 0 {
			until = max(until, e.end)
		}
	}
	return until, rows.Err()
}

// Admit books what waits of a [Stranger], as far as it is possible, on the word of
// actor: it is known now that the instance has moved. It is a record of the journal.
// What cannot be booked stays, and is an error wrapping [odometer.ErrConflict].
func (l *Ledger) Admit(ctx context.Context, s *Stranger, actor string) error {
	_, err := l.release(ctx, s.Partition, decision{Decision: decideReleased, No: s.No, Actor: actor, Bounded: true})
	return err
}
