package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"example.org/odometer"
)

// quarantine puts an event of the record at work aside. It returns true when
// the same event is there already: it is then a duplicate.
func (f *fold) quarantine(w *work, index int, r *odometer.Record, v verdict) (again bool, err error) {
	return f.quarantineAt(w, place{w.rec.position, index}, r, v)
}

func (f *fold) quarantineAt(w *work, at place, r *odometer.Record, v verdict) (again bool, err error) {
	sum := sha256.Sum256(r.Raw)
	digest := odometer.Digest(sum[:16])
	var id, instance, epoch string
	var first, sequence uint64
	if ev := r.Event; ev != nil {
		digest = ev.Content()
		id, instance, epoch, first, sequence = ev.ID(), string(ev.Instance), string(ev.Epoch), ev.FirstSequence, ev.Sequence
	}
	var n int
	err = f.queryRow(`SELECT count(*) FROM quarantine WHERE partition = ? AND digest = ? AND event_id = ?`, []any{w.rec.partition, digest[:], id}, &n)
	if err != nil {
		return false, fmt.Errorf("look into quarantine: %w", err)
	}
	if n > 0 {
		return true, nil
	}
	h := f.head(w.rec.partition)
	h.quarNo++
	_, err = f.exec(`INSERT INTO quarantine (partition, no, position, idx, reason, detail, event_id, instance, epoch, first, sequence, digest, at_us, released_us)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0)`,
		w.rec.partition, h.quarNo, at.position, at.index, v.reason, v.detail, id, instance, epoch, first, sequence, digest[:], w.rec.at)
	if err != nil {
		return false, fmt.Errorf("put event %s in quarantine: %w", id, err)
	}
	if v.reason == reasonForeign {
		f.waits[epochKey{w.rec.partition, odometer.Epoch(epoch)}]++
	}
	return false, nil
}

// inQuarantine reports whether every sequence number from first to last of an
// epoch lies in quarantine: the hole they leave is explained.
func (f *fold) inQuarantine(e *epoch, first, last uint64) (bool, error) {
	rows, err := f.query(`SELECT first, sequence FROM quarantine
		WHERE partition = ? AND epoch = ? AND sequence >= ? ORDER BY first, sequence`, e.partition, string(e.epochKey.epoch), first)
	if err != nil {
		return false, fmt.Errorf("look into quarantine: %w", err)
	}
	defer rows.Close()
	next := first
	for rows.Next() && next <= last {
		var a, b uint64
		if err := rows.Scan(&a, &b); err != nil {
			return false, fmt.Errorf("look into quarantine: %w", err)
		}
		if a <= next {
			next = max(next, b+1)
		}
	}
	return next > last, rows.Err()
}

// releaseQuarantined books an event that a person has released, without the
// bounds of what is possible and without waiting for what is missing before
// it. What still contradicts the watermark is refused.
func (f *fold) releaseQuarantined(w *work, d *decision) (odometer.Result, error) {
	no := d.No
	fail := func(err error) (odometer.Result, error) {
		return odometer.Result{}, fmt.Errorf("release %d-%d from quarantine: %w", w.rec.partition, no, err)
	}
	var at place
	var released int64
	var epoch odometer.Epoch
	var reason string
	err := f.queryRow(`SELECT position, idx, released_us, epoch, reason FROM quarantine WHERE partition = ? AND no = ?`, []any{w.rec.partition, no},
		&at.position, &at.index, &released, &epoch, &reason)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return fail(odometer.ErrNotFound)
	case err != nil:
		return fail(err)
	case released != 0:
		return fail(fmt.Errorf("it was released at %s: %w", time.UnixMicro(released).UTC().Format(time.RFC3339), odometer.ErrConflict))
	}
	if reason == reasonForeign {
		res, err := f.admit(w, epochKey{w.rec.partition, epoch}, d)
		if err != nil {
			return fail(err)
		}
		return res, nil
	}
	r, err := f.eventAt(w, w.rec.partition, at)
	if err != nil {
		return fail(fmt.Errorf("what was received cannot be read as an event: %w", errors.Join(err, odometer.ErrConflict)))
	}
	if r.Event == nil || !r.Event.Integral() {
		return fail(fmt.Errorf("only an event with readings can be released: %w", odometer.ErrConflict))
	}
	ev := r.Event
	key := epochKey{w.rec.partition, ev.Epoch}
	e, err := f.epoch(key)
	if err != nil {
		return fail(err)
	}
	if e == nil {
		e = f.newEpoch(key, ev, byVector)
		if err := f.goOn(e); err != nil {
			return fail(err)
		}
	}
	v := verdict{outcome: odometer.Recorded}
	if ev.Sequence <= e.sequence {
		if v, err = f.recordedBefore(e, ev, ev.Content()); err != nil {
			return fail(err)
		}
	} else if v = judge(e, ev, f.bounds, true); v.outcome == odometer.Recorded {
		if err := f.book(w, e, ev, v.bookings, ev.Content(), &at); err != nil {
			return fail(err)
		}
	}
	if v.outcome == odometer.Quarantined {
		return fail(fmt.Errorf("%s: %s: %w", v.reason, v.detail, odometer.ErrConflict))
	}
	if _, err := f.exec(`UPDATE quarantine SET released_us = ? WHERE partition = ? AND no = ?`, w.rec.at, w.rec.partition, no); err != nil {
		return fail(err)
	}
	f.changed(w, at, odometer.Quarantined, v.outcome)
	if e.held > 0 {
		if err := f.releaseHeld(w, e, false); err != nil {
			return fail(err)
		}
	}
	return odometer.Result{EventID: ev.ID(), Outcome: v.outcome}, nil
}

// Release books an event from quarantine on the word of a person, named by
// actor; that is a record of the journal too. It returns what became of the
// event, or an error wrapping [odometer.ErrNotFound] or
// [odometer.ErrConflict]. With an event that is there because its instance was
// known to run elsewhere those go that are there with it, of its epoch.
func (l *Ledger) Release(ctx context.Context, partition int, no int64, actor string) (odometer.Result, error) {
	return l.release(ctx, partition, decision{Decision: decideReleased, No: no, Actor: actor})
}

func (l *Ledger) release(ctx context.Context, partition int, d decision) (odometer.Result, error) {
	body, err := json.Marshal(&d)
	if err != nil {
		return odometer.Result{}, err
	}
	var res odometer.Result
	err = l.transact(ctx, func(f *fold, now int64) error {
		rec := &record{partition: partition, kind: kindDecision, at: now, sender: "operator", body: body}
		f.start(rec)
		var err error
		res, err = f.decide(rec)
		return err
	})
	return res, err
}

// QuarantineRow is one event in quarantine.
type QuarantineRow struct {
	Partition int       `json:"partition"`
	No        int64     `json:"no"`
	Reason    string    `json:"reason"`
	Detail    string    `json:"detail"`
	EventID   string    `json:"event_id,omitempty"`
	Instance  string    `json:"instance_id,omitempty"`
	Sender    string    `json:"sender"`
	At        time.Time `json:"at"`
}

// Quarantine returns at most limit events in quarantine, the newest first.
func (l *Ledger) Quarantine(ctx context.Context, limit int) ([]QuarantineRow, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT q.partition, q.no, q.reason, q.detail, q.event_id, q.instance, j.sender, q.at_us
		FROM quarantine q JOIN journal j ON j.partition = q.partition AND j.position = q.position
		WHERE q.released_us = 0 ORDER BY q.at_us DESC, q.no DESC LIMIT ?`, limit)
	if err != nil {
		return nil, fmt.Errorf("list quarantine: %w", err)
	}
	defer rows.Close()
	list := []QuarantineRow{}
	for rows.Next() {
		var q QuarantineRow
		var at int64
		if err := rows.Scan(&q.Partition, &q.No, &q.Reason, &q.Detail, &q.EventID, &q.Instance, &q.Sender, &at); err != nil {
			return nil, fmt.Errorf("list quarantine: %w", err)
		}
		q.At = time.UnixMicro(at).UTC()
		list = append(list, q)
	}
	return list, rows.Err()
}
