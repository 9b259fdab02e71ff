package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"example.org/odometer"
)

// What was booked is never rewritten. An entry that should not stand is
// reversed: a decision of a person, a record of the journal like any other,
// books a correction, which is exactly the entry's negation, for the same time
// and owner. It is a piece beside each hour that the entry had a share in.
//
// The decision has the whole entry in it, so that its fold does not need the
// record that booked the entry: that may be pruned by then. Where another owns the
// instance in its time by now, the decision moves what is taken back to him. The table reversals
// is the fold of these decisions: what was reversed, and by which entry. A
// correction is an entry too, and its reversal books the original again.
//
// No watermark moves. What was received stays received, and a reversed event
// that comes again is a duplicate.

// MaxCauseBytes is the longest cause of a reversal, in bytes of UTF-8: a few
// sentences.
const MaxCauseBytes = 512

// Reverse books the negation of an entry on the word of a person, named by
// actor, and returns the correction. Cause says why, in one line for a person.
// Each entry can be reversed once; its correction is an entry too.
//
// The error wraps [odometer.ErrNotFound] where there is no such entry,
// [odometer.ErrConflict] where it was reversed before or its record was pruned,
// and [odometer.ErrInvalid] where the cause is empty, longer than
// [MaxCauseBytes] or no printable text.
func (l *Ledger) Reverse(ctx context.Context, id odometer.EntryID, actor, cause string) (entry odometer.Entry, err error) {
	if err = checkCause(cause); err == nil {
		var refused error // before anything changed: what is cached stands
		err = l.transact(ctx, func(f *fold, now int64) error {
			old, err := f.reversible(id)
			if refusal(err) {
				refused = err
				return nil
			}
			if err == nil {
				entry, err = f.decideReversal(old, now, actor, cause)
			}
			return err
		})
		err = errors.Join(refused, err)
	}
	if err != nil {
		return odometer.Entry{}, fmt.Errorf("reverse entry %s: %w", id, err)
	}
	return entry, nil
}

func checkCause(cause string) error {
	switch {
	case strings.TrimSpace(cause) == "":
		return fmt.Errorf("the cause is empty: %w", odometer.ErrInvalid)
	case len(cause) > MaxCauseBytes:
		return fmt.Errorf("the cause is %d bytes long, at most %d are allowed: %w", len(cause), MaxCauseBytes, odometer.ErrInvalid)
	case !utf8.ValidString(cause) || strings.ContainsFunc(cause, func(r rune) bool { return !unicode.IsPrint(r) }):
		return fmt.Errorf("the cause %q is not one line of printable text: %w", cause, odometer.ErrInvalid)
	}
	return nil
}

// reversible returns the entry that is to be reversed, or why it cannot be.
func (f *fold) reversible(id odometer.EntryID) (*odometer.Entry, error) {
	var by uint64
	err := f.queryRow(`SELECT by_entry FROM reversals WHERE partition = ? AND entry = ?`, []any{id.Partition, int64(id.Number)}, &by)
	if err == nil {
		err = fmt.Errorf("it was reversed by entry %s: %w", odometer.EntryID{Partition: id.Partition, Number: by}, odometer.ErrConflict)
	}
	if !errors.Is(err, sql.ErrNoRows) {
		return nil, err
	}
	old, err := f.entryOf(id)
	if err == nil && old.Kind == odometer.KindCorrection {
		err = f.queryRow(`SELECT entry FROM reversals WHERE partition = ? AND by_entry = ?`, []any{id.Partition, int64(id.Number)}, &by)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("it moves usage to who owned the instance, which an assignment to another changes: %w", odometer.ErrConflict)
		}
	}
	return old, err
}

// decideReversal takes the decision to reverse an entry and returns what it
// booked, as the journal has it.
func (f *fold) decideReversal(old *odometer.Entry, now int64, actor, cause string) (odometer.Entry, error) {
	old.Event.Extra, old.Event.Lifecycle = nil, nil // it takes back usage, and nothing that happened or that this version does not know
	d := decision{Decision: decideReversed, Entry: old.AppendJSON(nil), Actor: actor, Cause: cause}
	e, err := f.epoch(epochKey{old.ID.Partition, old.Event.Epoch})
	if err == nil && e != nil {
		var recovered bool
		if recovered, err = timeIsRecovered(f.ctx, f.tx, old); err == nil {
			d.Moves, err = f.follow(e, old, recovered)
		}
	}
	if err != nil {
		return odometer.Entry{}, err
	}
	body, err := json.Marshal(d)
	if err != nil {
		return odometer.Entry{}, err
	}
	rec := &record{partition: old.ID.Partition, kind: kindDecision, at: now, sender: "operator", body: body}
	f.start(rec)
	if _, err := f.decide(rec); err != nil {
		return odometer.Entry{}, err
	}
	booked, err := rec.booked()
	if err != nil {
		return odometer.Entry{}, err
	}
	return booked[0], markAdjustments(f.ctx, f.tx, booked[:1])
}

// entryOf returns an entry from the journal.
func (f *fold) entryOf(id odometer.EntryID) (*odometer.Entry, error) {
	if f.heads[id.Partition] == nil {
		return nil, odometer.ErrNotFound
	}
	gone, err := headOf(f.ctx, f.tx, id.Partition)
	if err != nil {
		return nil, err
	}
	if id.Number <= gone.Entry {
		return nil, fmt.Errorf("the journal no longer has the record that booked it: it was pruned: %w", odometer.ErrConflict)
	}
	// Behind those that are gone, positions are dense and entries in their order.
	after := sort.Search(int(f.head(id.Partition).position-gone.Position), func(i int) bool {
		var first uint64
		if err == nil {
			err = f.queryRow(`SELECT first_entry FROM journal WHERE partition = ? AND position = ?`, []any{id.Partition, gone.Position + 1 + int64(i)}, &first)
		}
		return first > id.Number
	})
	if err != nil {
		return nil, fmt.Errorf("find its record: %w", err)
	}
	if after == 0 {
		return nil, odometer.ErrNotFound
	}
	rec, err := recordAt(f.ctx, f.tx, id.Partition, gone.Position+int64(after))
	if errors.Is(err, ErrDamaged) {
		err = errors.Join(err, odometer.ErrConflict)
	}
	if err != nil {
		return nil, err
	}
	if id.Number-rec.firstEntry >= rec.entries {
		return nil, odometer.ErrNotFound
	}
	booked, err := rec.booked()
	if err != nil {
		return nil, err
	}
	return &booked[id.Number-rec.firstEntry], nil
}

// reverse folds the decision to reverse an entry.
func (f *fold) reverse(w *work, d *decision) error {
	p := w.rec.partition
	old, err := odometer.DecodeEntry(d.Entry)
	if err != nil {
		return err
	}
	if old.ID.Partition != p || old.ID.Number > f.head(p).entry {
		return fmt.Errorf("entry %s is none of those before: %w", old.ID, odometer.ErrInvalid)
	}
	e, err := f.epoch(epochKey{p, old.Event.Epoch})
	if err != nil {
		return err
	}
	if e == nil {
		return fmt.Errorf("epoch %s of entry %s: %w", old.Event.Epoch, old.ID, odometer.ErrNotFound)
	}
	recovered, err := timeIsRecovered(f.ctx, f.tx, old)
	if err != nil {
		return err
	}
	f.head(p).entry++
	entry := negation(old, odometer.EntryID{Partition: p, Number: f.head(p).entry}, w.rec.at, d.Cause)
	w.res.Bookings = append(w.res.Bookings, entry.AppendJSON(nil))
	w.rec.covers(entry.Event.Span)
	for b := range cutAtHours(&entry.Event, recovered) {
		if err := f.insertHour(e, &b, "correction"); err != nil {
			return err
		}
	}
	_, err = f.exec(`INSERT INTO reversals (partition, entry, by_entry, recovered) VALUES (?, ?, ?, ?)`, p, int64(old.ID.Number), int64(entry.ID.Number), recovered)
	if err != nil {
		return fmt.Errorf("note the reversal of entry %s: %w", old.ID, err)
	}
	if err := f.adjust(&entry, recovered); err != nil {
		return err
	}
	return f.moved(w, d)
}

// negation returns the correction that takes an entry back. Its amounts stand
// in its usage alone: it has no readings, which never fall, and its fields of
// version 1.0, which have no sign, are 0.
func negation(old *odometer.Entry, id odometer.EntryID, at int64, cause string) odometer.Entry {
	entry := *old
	entry.ID, entry.Kind, entry.BookedAt = id, odometer.KindCorrection, at
	entry.Cause = fmt.Sprintf("reverses %s: %s", old.ID, cause)
	ev := &entry.Event
	ev.Usage = odometer.Usage{Known: old.Event.Usage.Known}.Sub(old.Event.Usage)
	ev.Readings, ev.Metrics, ev.Final = odometer.Readings{}, odometer.Metrics{}, false
	return entry
}

// timeIsRecovered reports whether the time of an entry counts as recovered: it
// is a recovery, or a correction that takes one back or gives it again.
func timeIsRecovered(ctx context.Context, db queryer, entry *odometer.Entry) (recovered bool, err error) {
	if entry.Kind != odometer.KindCorrection {
		return entry.Kind == odometer.KindRecovered, nil
	}
	err = db.QueryRowContext(ctx, `SELECT coalesce((SELECT recovered FROM reversals WHERE partition = ?1 AND by_entry = ?2),
		EXISTS (SELECT 1 FROM moved WHERE partition = ?1 AND entry = ?2))`, entry.ID.Partition, int64(entry.ID.Number)).Scan(&recovered)
	if err != nil {
		return false, fmt.Errorf("what correction %s is of: %w", entry.ID, err)
	}
	return recovered, nil
}
