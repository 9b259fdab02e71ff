package ledger

import (
	"encoding/json"
	"fmt"

	"example.org/odometer"
)

// maxHold is how long a hole is waited for before the difference over it is
// booked as recovered: a day covers any outage that an agent's own spool does
// not already answer for.
const maxHold = 24 * odometer.HourMicros

// heldEvent is a row of the table held.
type heldEvent struct {
	key             epochKey
	first, sequence uint64
	at              place
	since           int64
	reason          string
	end             int64
	digest          []byte
}

const heldColumns = `partition, epoch, first, sequence, position, idx, since_us, reason, end_us, digest`

func (f *fold) heldEvents(where string, args ...any) ([]heldEvent, error) {
	rows, err := f.query(`SELECT `+heldColumns+` FROM held `+where, args...)
	if err != nil {
		return nil, fmt.Errorf("held events: %w", err)
	}
	defer rows.Close()
	var held []heldEvent
	for rows.Next() {
		var h heldEvent
		if err := rows.Scan(&h.key.partition, &h.key.epoch, &h.first, &h.sequence, &h.at.position, &h.at.index, &h.since, &h.reason, &h.end, &h.digest); err != nil {
			return nil, fmt.Errorf("held events: %w", err)
		}
		held = append(held, h)
	}
	return held, rows.Err()
}

// hold keeps an event until what it waits for has come.
func (f *fold) hold(w *work, index int, r *odometer.Record, e *epoch, digest odometer.Digest, reason string) error {
	first, last := r.Event.FirstSequence, r.Event.Sequence
	if e.countedBy == byTime {
		first, last = uint64(r.Event.Period.Start), uint64(r.Event.Period.End)
	}
	_, err := f.exec(`INSERT INTO held (`+heldColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		e.partition, string(e.epochKey.epoch), first, last, w.rec.position, index, w.rec.at, reason, heldUntil(r.Event), digest[:])
	if err != nil {
		return fmt.Errorf("hold event %s: %w", r.Event.ID(), err)
	}
	f.setHeld(e, e.held+1)
	detail := fmt.Sprintf("waits for sequence %d of the epoch", e.sequence+1)
	switch reason {
	case reasonAhead:
		detail = "lies more than 5 minutes ahead of the server's clock"
	case reasonUnset:
		detail = "comes from a clock that was never set"
	}
	return f.settle(w, index, r, verdict{outcome: odometer.Held, reason: reason, detail: detail})
}

func heldUntil(ev *odometer.Event) int64 {
	if ev.Integral() {
		return ev.Span.End
	}
	return ev.Period.End * odometer.SecondMicros
}

func (f *fold) setHeld(e *epoch, n int) {
	e.held = n
	if n > 0 {
		f.held[e.epochKey] = n
	} else {
		delete(f.held, e.epochKey)
	}
}

// heldBefore judges an event whose identity is held already.
func (f *fold) heldBefore(e *epoch, first, sequence uint64, digest odometer.Digest) (verdict, bool, error) {
	held, err := f.heldEvents(`WHERE partition = ? AND epoch = ? AND first = ? AND sequence = ?`, e.partition, string(e.epochKey.epoch), first, sequence)
	if err != nil || len(held) == 0 {
		return verdict{}, false, err
	}
	if odometer.Digest(held[0].digest) == digest {
		return verdict{outcome: odometer.Duplicate}, true, nil
	}
	return refuse(reasonConflict, "the event with sequence %d is held with other content", sequence), true, nil
}

// releaseHeld lets go of what e holds and no longer has to wait, in order.
// With giveUp the first hole is not waited for any longer.
func (f *fold) releaseHeld(w *work, e *epoch, giveUp bool) error {
	held, err := f.heldEvents(`WHERE partition = ? AND epoch = ? ORDER BY first, sequence`, e.partition, string(e.epochKey.epoch))
	if err != nil {
		return err
	}
	w.releasing = true
	defer func() { w.releasing = false }()
	for _, h := range held {
		r, err := f.eventAt(w, h.key.partition, h.at)
		if err != nil {
			return err
		}
		if e.countedBy == byTime {
			if clockReason10(r.Event, w.rec.at) == "" {
				err = f.releaseCovered(w, e, &h, r)
			}
			if err != nil {
				return err
			}
			continue
		}
		if clockReason(r.Event, w.rec.at) != "" {
			break
		}
		if h.first > e.sequence+1 && !giveUp && !r.Resumes {
			explained, err := f.inQuarantine(e, e.sequence+1, h.first-1)
			if err != nil {
				return err
			}
			if !explained {
				break
			}
		}
		if h.first > e.sequence+1 {
			giveUp = false // one hole was given up, the next one is not
		}
		if err := f.releaseIntegral(w, e, &h, r); err != nil {
			return err
		}
	}
	return nil
}

// releaseIntegral books a held event, or puts it where it belongs by now.
func (f *fold) releaseIntegral(w *work, e *epoch, h *heldEvent, r *odometer.Record) error {
	ev := r.Event
	digest := odometer.Digest(h.digest)
	v := verdict{outcome: odometer.Recorded}
	if ev.Sequence <= e.sequence {
		var err error
		if v, err = f.recordedBefore(e, ev, digest); err != nil {
			return err
		}
	} else if late, yes := f.superseded(e, ev); yes {
		v = late
	} else if v = judge(e, ev, f.bounds, false); v.outcome == odometer.Recorded {
		if err := f.book(w, e, ev, v.bookings, digest, &h.at); err != nil {
			return err
		}
	}
	return f.unhold(w, e, h, r, v)
}

// unhold removes a held event from the table with its new outcome.
func (f *fold) unhold(w *work, e *epoch, h *heldEvent, r *odometer.Record, v verdict) error {
	_, err := f.exec(`DELETE FROM held WHERE partition = ? AND epoch = ? AND first = ? AND sequence = ?`, e.partition, string(e.epochKey.epoch), h.first, h.sequence)
	if err != nil {
		return fmt.Errorf("release held event: %w", err)
	}
	f.setHeld(e, e.held-1)
	if v.outcome == odometer.Quarantined {
		again, err := f.quarantineAt(w, h.at, r, v)
		if err != nil {
			return err
		}
		if again {
			v.outcome = odometer.Duplicate
		}
	}
	f.changed(w, h.at, odometer.Held, v.outcome)
	return nil
}

// changed notes that an event received earlier has another outcome now.
func (f *fold) changed(w *work, at place, from, to odometer.Outcome) {
	w.res.Released = append(w.res.Released, release{Position: at.position, Index: at.index, Outcome: to})
	f.count(w.rec.partition, string(from), -1)
	f.count(w.rec.partition, string(to), 1)
}

// eventAt returns an event of the record at work or of an earlier one.
func (f *fold) eventAt(w *work, partition int, at place) (*odometer.Record, error) {
	if at.position == w.rec.position && w.frame != nil {
		return &w.frame.Records[at.index], nil
	}
	rec, err := recordAt(f.ctx, f.tx, partition, at.position)
	if err != nil {
		return nil, err
	}
	return rec.event(at.index)
}

// decision is the body of a record of kind decision.
type decision struct {
	Decision string         `json:"decision"`
	Epoch    odometer.Epoch `json:"epoch,omitempty"`
	No       int64          `json:"no,omitempty"` // of the quarantine
	Actor    string         `json:"actor,omitempty"`
	// Bounded says that what is released has to be possible: nobody looked at it.
	Bounded bool `json:"bounded,omitempty"`
	// Entry that is reversed, whole but for members that nobody knows, and why.
	Entry json.RawMessage `json:"entry,omitempty"`
	Cause string          `json:"cause,omitempty"`
	// Sequence is of the last event of an epoch that was offered, Until its end;
	// Until also ends the time of an owner.
	Sequence uint64 `json:"sequence,omitempty"`
	Until    int64  `json:"until_us,omitempty"`
	// Instance that is somebody's in a time, and what is moved because of that.
	Instance odometer.InstanceID `json:"instance,omitempty"`
	From     int64               `json:"from_us,omitempty"`
	User     odometer.UserID     `json:"user,omitempty"`
	Org      odometer.OrgID      `json:"org,omitempty"`
	Moves    []move              `json:"moves,omitempty"`
	// Generation that begins.
	Generation uint64 `json:"generation,omitempty"`
	// Month that is closed, of Org or of everybody, and a statement's text.
	Month     odometer.Month `json:"month,omitempty"`
	Everybody bool           `json:"everybody,omitempty"`
	Statement string         `json:"statement,omitempty"`
}

// The decisions there are.
const (
	decideGiveUp   = "give_up"  // the first hole of an epoch is not waited for any longer
	decideClock    = "clock"    // the time of held events has come
	decideUnset    = "unset"    // held events from a clock never set go to quarantine
	decideReleased = "released" // a person released an event from quarantine
	decideReversed = "reversed" // a person reversed an entry
	decideOffered  = "offered"  // an agent that lost its state was told where the epoch stands: see handover.go
	decideOwned    = "owned"    // a person said whose an instance is in some time: see ownership.go
	decideMoved    = "moved"    // and that is moved which others had of it
	decideClosed   = "closed"   // a person closed a month: see month.go
	decideStated   = "stated"   // and that is what an organisation used in it
	decideRestored = "restored" // the ledger was restored from a backup
)

// decide folds a decision. rec has everything but its result and entries.
func (f *fold) decide(rec *record) (odometer.Result, error) {
	var d decision
	if err := json.Unmarshal(rec.body, &d); err != nil {
		return odometer.Result{}, fmt.Errorf("decision %d-%d: %w", rec.partition, rec.position, err)
	}
	w := &work{rec: rec, releasing: true}
	if d.Decision == decideReleased {
		res, err := f.releaseQuarantined(w, &d)
		if err != nil {
			return res, err
		}
		return res, f.finish(w)
	}
	if d.Decision == decideReversed {
		if err := f.reverse(w, &d); err != nil {
			return odometer.Result{}, err
		}
		return odometer.Result{}, f.finish(w)
	}
	if do := map[string]func(*work, *decision) error{
		decideOwned: f.owned, decideMoved: f.moved, decideClosed: f.closed, decideStated: f.stated,
	}[d.Decision]; do != nil {
		if err := do(w, &d); err != nil {
			return odometer.Result{}, fmt.Errorf("decision %d-%d: %w", rec.partition, rec.position, err)
		}
		return odometer.Result{}, f.finish(w)
	}
	if d.Decision == decideRestored {
		return odometer.Result{}, f.beginGeneration(w, d.Generation)
	}
	e, err := f.epoch(epochKey{rec.partition, d.Epoch})
	if err != nil {
		return odometer.Result{}, err
	}
	if e == nil {
		return odometer.Result{}, fmt.Errorf("decision %d-%d: epoch %s: %w", rec.partition, rec.position, d.Epoch, odometer.ErrNotFound)
	}
	switch d.Decision {
	case decideGiveUp, decideClock:
		err = f.releaseHeld(w, e, d.Decision == decideGiveUp)
	case decideUnset:
		err = f.refuseUnset(w, e)
	case decideOffered:
		err = f.offered(e, d.Sequence, d.Until)
	default:
		err = fmt.Errorf("decision %q is unknown: %w", d.Decision, odometer.ErrInvalid)
	}
	if err != nil {
		return odometer.Result{}, err
	}
	return odometer.Result{}, f.finish(w)
}

// refuseUnset puts the events of e whose clock was never set in quarantine.
func (f *fold) refuseUnset(w *work, e *epoch) error {
	held, err := f.heldEvents(`WHERE partition = ? AND epoch = ? AND reason = ? ORDER BY first, sequence`, e.partition, string(e.epochKey.epoch), reasonUnset)
	if err != nil {
		return err
	}
	for _, h := range held {
		r, err := f.eventAt(w, h.key.partition, h.at)
		if err != nil {
			return err
		}
		if err := f.unhold(w, e, &h, r, refuse(reasonUnset, "comes from a clock that was never set")); err != nil {
			return err
		}
	}
	return f.releaseHeld(w, e, false)
}
