package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	"example.org/odometer"
)

// A correction follows from the decision of a person to reverse an entry, which
// is a record of the journal and has that entry in it. It must be the entry's
// exact negation, the only one, and the entry must be what the partition booked
// before, word for word. Of an entry whose record was pruned since, the
// decision's own copy is what is left: it is part of the chain.

// reversal is the decision to reverse an entry.
type reversal struct {
	entry *odometer.Entry // as the decision has it
	actor string
	cause string
}

// readDecision reads what a record of kind decision decides.
func (r *row) readDecision() (err error) {
	var d struct {
		Decision string          `json:"decision"`
		Entry    json.RawMessage `json:"entry"`
		Actor    string          `json:"actor"`
		Cause    string          `json:"cause"`
		Epoch    odometer.Epoch  `json:"epoch"`
		Sequence uint64          `json:"sequence"`
		Until    int64           `json:"until_us"`
		Moves    []move          `json:"moves"`

		Month     odometer.Month `json:"month"`
		Everybody bool           `json:"everybody"`
		Org       odometer.OrgID `json:"org"`
		Statement string         `json:"statement"`
	}
	if err := json.Unmarshal(r.body, &d); err != nil {
		return err
	}
	r.actor, r.cause, r.moves = d.Actor, d.Cause, d.Moves
	switch d.Decision {
	case "":
		return errors.New("it decides nothing")
	case "owned":
		return r.decidedOwner()
	case "moved":
		if len(d.Moves) == 0 {
			return errors.New("it moves nothing")
		}
	case "reversed":
		var e *odometer.Entry
		e, err = odometer.DecodeEntry(d.Entry)
		r.reverses = &reversal{e, d.Actor, d.Cause}
	case "offered":
		r.offers, r.offered = &offer{d.Epoch, d.Until}, d.Sequence
	case "released":
		r.byPerson = true
	case "closed":
		r.closes = &closing{d.Month, d.Everybody, d.Org}
	case "stated":
		r.states, r.statement = &statementOf{d.Month, d.Org}, []byte(d.Statement)
	}
	return err
}

// reversed is what the table reversals must say of an entry.
type reversed struct {
	by        uint64
	recovered int64 // 1 where its time counts as recovered
}

// reverse follows the decision of r to reverse an entry.
func (p *replay) reverse(ctx context.Context, r *row) error {
	rep, d := p.a.report, r.reverses
	old := d.entry
	if int64(old.ID.Partition) != p.partition {
		rep.find("partition", "%s reverses entry %s", r, old.ID)
		return nil
	}
	if d.actor == "" || d.cause == "" {
		rep.find("reversal", "%s reverses entry %s and does not say who decided it and why", r, old.ID)
	}
	if before, twice := p.reversals[old.ID.Number]; twice {
		rep.find("reversal", "%s reverses entry %s, which entry %d-%d has reversed", r, old.ID, p.partition, before.by)
	}
	if old.ID.Number > p.a.goneEntry(old.ID.Partition) {
		booked, err := p.bookedBefore(ctx, r, old.ID.Number)
		if err != nil {
			return err
		}
		if booked == nil || string(essence(booked)) != string(essence(old)) {
			rep.find("reversal", "%s reverses entry %s, which was not booked before it or says something else", r, old.ID)
		}
	}
	by := r.firstEntry
	p.recovers[by] = old.Kind == odometer.KindRecovered || p.recovers[old.ID.Number]
	p.reversals[old.ID.Number] = reversed{by, oneIf(p.recovers[by])}
	if len(r.booked) != 1+2*len(r.moves) {
		rep.find("reversal", "%s reverses entry %s, moves %d amounts and books %d entries", r, old.ID, len(r.moves), len(r.booked))
	} else if got, want := r.booked[0].entry, opposite(old, r, d.cause); string(got.AppendJSON(nil)) != string(want.AppendJSON(nil)) {
		rep.find("reversal", "entry %s is not the negation of entry %s, which %s reverses", got.ID, old.ID, r)
	}
	return nil
}

// essence is what an entry says of usage, without what happened to its instance
// and the members that nobody knows: they are not reversed.
func essence(e *odometer.Entry) []byte {
	known := *e
	known.Event.Extra, known.Event.Lifecycle = nil, nil
	return known.AppendJSON(nil)
}

// opposite is the correction that r must book.
func opposite(old *odometer.Entry, r *row, cause string) *odometer.Entry {
	c := &odometer.Entry{
		ID: odometer.EntryID{Partition: old.ID.Partition, Number: r.firstEntry}, Kind: odometer.KindCorrection,
		SourceEventID: old.SourceEventID, BookedAt: r.at, Cause: fmt.Sprintf("reverses %d-%d: %s", old.ID.Partition, old.ID.Number, cause), Event: old.Event,
	}
	ev := &c.Event
	for q := range ev.Usage.Vector {
		ev.Usage.Vector[q] *= -1
	}
	ev.Metrics, ev.Readings, ev.Final, ev.Extra, ev.Lifecycle = odometer.Metrics{}, odometer.Readings{}, false, nil, nil
	return c
}

// bookedBefore returns the entry of a number that a record before r booked, nil
// where none did. Positions are dense and entries are numbered in their order,
// which is proven elsewhere: the record is searched for by halves.
func (p *replay) bookedBefore(ctx context.Context, r *row, number uint64) (*odometer.Entry, error) {
	low, high := int64(0), r.position
	if h := p.a.heads[p.partition]; h != nil {
		low = h.Position
	}
	for low+1 < high {
		mid := low + (high-low)/2
		var first int64
		err := p.a.snap.conn.QueryRowContext(ctx, `SELECT first_entry FROM journal WHERE partition = ? AND position = ?`, p.partition, mid).Scan(&first)
		if errors.Is(err, sql.ErrNoRows) {
			return nil, nil
		}
		if err != nil {
			return nil, fmt.Errorf("find entry %d-%d: %w", p.partition, number, err)
		}
		if uint64(first) <= number {
			low = mid
		} else {
			high = mid
		}
	}
	in := new(row)
	err := in.scan(p.a.snap.conn.QueryRowContext(ctx, `SELECT `+rowColumns+` FROM journal WHERE partition = ? AND position = ?`, p.partition, low))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find entry %d-%d: %w", p.partition, number, err)
	}
	if !in.read(newReport()) {
		return nil, nil
	}
	for _, b := range in.booked {
		if b.entry.ID.Number == number {
			return b.entry, nil
		}
	}
	return nil, nil
}

// correct follows one correction, which a decision must have led to.
func (p *replay) correct(r *row, w *watermark, e *odometer.Entry) error {
	rep := p.a.report
	rep.Corrections++
	if r.reverses == nil && len(r.moves) == 0 {
		rep.find("reversal", "entry %s is a correction that nobody decided", e.ID)
	}
	if w.sequence == 0 {
		rep.find("reversal", "entry %s corrects epoch %s, of which nothing is booked", e.ID, e.Event.Epoch)
	}
	return p.apportion(w, e)
}

// checkReversals compares the table reversals with what was decided.
func (p *replay) checkReversals(ctx context.Context) error {
	rep := p.a.report
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var entry, by int64
		var is reversed
		if err := rows.Scan(&entry, &by, &is.recovered); err != nil {
			return err
		}
		is.by = uint64(by)
		if want, ok := p.reversals[uint64(entry)]; !ok || want != is {
			rep.find("reversal_table", "partition %d: the table says that entry %d reverses %d, the journal does not", p.partition, by, entry)
		}
		delete(p.reversals, uint64(entry))
		return nil
	}, `SELECT entry, by_entry, recovered FROM reversals WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the reversals: %w", err)
	}
	for entry, is := range p.reversals {
		rep.find("reversal_table", "partition %d: entry %d reverses %d and the table does not have it", p.partition, is.by, entry)
	}
	return nil
}

// startReversals takes over what was reversed by records that are gone.
func (p *replay) startReversals(ctx context.Context, _ map[int64]int64) error {
	return p.a.base.each(ctx, func(rows *sql.Rows) error {
		var entry, by int64
		var is reversed
		if err := rows.Scan(&entry, &by, &is.recovered); err != nil {
			return err
		}
		is.by = uint64(by)
		p.reversals[uint64(entry)] = is
		p.recovers[is.by] = is.recovered == 1
		p.a.report.Corrections++
		return nil
	}, `SELECT entry, by_entry, recovered FROM reversals WHERE partition = ?`, p.partition)
}
