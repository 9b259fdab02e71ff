package ledger

import (
	"cmp"
	"fmt"

	"example.org/odometer"
)

// maxMoves is how many moves one decision has; a longer one is followed by others.
const maxMoves = 200

// move is what a decision moves: see [odometer.Move].
type move struct {
	Epoch     odometer.Epoch  `json:"epoch"`
	Start     int64           `json:"start_us"`
	End       int64           `json:"end_us"`
	FromUser  odometer.UserID `json:"from_user"`
	FromOrg   odometer.OrgID  `json:"from_org,omitempty"`
	ToUser    odometer.UserID `json:"to_user"`
	ToOrg     odometer.OrgID  `json:"to_org,omitempty"`
	Usage     []byte          `json:"usage"` // in binary form
	Recovered bool            `json:"recovered,omitempty"`
}

func moveOf(m *odometer.Move) move {
	return move{
		Epoch: m.Epoch, Start: m.Span.Start, End: m.Span.End, FromUser: m.From.User, FromOrg: m.From.Org, ToUser: m.To.User, ToOrg: m.To.Org,
		Usage: m.Usage.AppendBinary(nil), Recovered: m.Recovered,
	}
}

// movesOf returns what of an epoch is not where h has it, in the time of o and in
// the hours at its ends.
func (f *fold) movesOf(e *epoch, h history, o *odometer.Ownership) (moves []odometer.Move, err error) {
	until := odometer.Hour(odometer.Forever)
	if o.Until < until {
		until = ceilHour(o.Until)
	}
	for at := odometer.Hour(o.From); at < until; {
		to := at + odometer.HourMicros
		edges := h.edges(at, to)
		if len(edges) == 0 { // one owner, for as many hours as that holds
			_, next := h.at(at, odometer.Owner{})
			to = until
			if next < until {
				to = max(odometer.Hour(next), at+odometer.HourMicros)
			}
		}
		for _, edge := range append(edges, to) {
			if h.covers(at) {
				if moves, err = f.misplaced(moves, e, h, at, edge); err != nil {
					return nil, err
				}
			}
			at = edge
		}
	}
	return moves, nil
}

// misplaced appends what others have of an epoch than its owner, in a stretch in
// which that does not change.
func (f *fold) misplaced(moves []odometer.Move, e *epoch, h history, from, to int64) ([]odometer.Move, error) {
	owner, _ := h.at(from, odometer.Owner{})
	rows, err := f.usedIn(e, from, to, odometer.ByHour, odometer.ByUser, odometer.ByOrg)
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		had := odometer.Owner{User: row.User, Org: row.Org}
		if had == owner {
			continue
		}
		m := odometer.Move{
			Partition: e.partition, Epoch: e.epochKey.epoch, From: had, To: owner, Usage: odometer.Usage{Known: row.Known},
			Span: odometer.Span{Start: max(from, row.Start, e.started), End: min(to, row.Start+odometer.HourMicros, e.end)},
		}
		if m.Span.Start >= m.Span.End { // a step of the clock has the usage elsewhere than the epoch
			m.Span = odometer.Span{Start: max(from, row.Start), End: min(to, row.Start+odometer.HourMicros)}
		}
		for q, n := range row.Totals {
			var fits bool
			if m.Usage.Vector[q], fits = n.Int64(); !fits {
				return nil, fmt.Errorf("%s of an hour does not fit in 64 bits: %w", odometer.Quantity(q), odometer.ErrInvalid)
			}
		}
		recovered, fits := row.Recovered.Int64()
		if !fits {
			return nil, fmt.Errorf("recovered time of an hour does not fit in 64 bits: %w", odometer.ErrInvalid)
		}
		if recovered != 0 { // a correction's time is recovered or not: what is makes one of its own
			again := m
			again.Recovered, again.Usage.Vector = true, odometer.Vector{}
			again.Usage.Known &= 1<<odometer.MeasuredTime | 1<<odometer.EstimatedTime
			estimated := min(max(m.Usage.Vector[odometer.EstimatedTime], min(recovered, 0)), max(recovered, 0))
			again.Usage.Vector[odometer.EstimatedTime] = estimated
			again.Usage.Vector[odometer.MeasuredTime] = recovered - estimated
			for q, n := range again.Usage.Vector {
				m.Usage.Vector[q] -= n
			}
			moves = append(moves, again)
		}
		if m.Usage.Vector != (odometer.Vector{}) {
			moves = append(moves, m)
		}
	}
	return moves, nil
}

// moved books what a decision moves: for each move two corrections. Neither names
// the other's owner, who is none of his business.
func (f *fold) moved(w *work, d *decision) error {
	for i := range d.Moves {
		m := &d.Moves[i]
		usage, rest, err := odometer.CutUsage(m.Usage)
		if err != nil || len(rest) > 0 {
			return fmt.Errorf("what is moved of epoch %s: %w", m.Epoch, cmp.Or(err, odometer.ErrInvalid))
		}
		e, err := f.epoch(epochKey{w.rec.partition, m.Epoch})
		if err != nil {
			return err
		}
		if e == nil {
			return fmt.Errorf("epoch %s: %w", m.Epoch, odometer.ErrNotFound)
		}
		from, to := odometer.Owner{User: m.FromUser, Org: m.FromOrg}, odometer.Owner{User: m.ToUser, Org: m.ToOrg}
		out := odometer.Usage{Known: usage.Known}.Sub(usage)
		if err := f.correct(w, e, m, from, out, "moved to another owner: "+d.Cause); err != nil {
			return err
		}
		if err := f.correct(w, e, m, to, usage, "moved from another owner: "+d.Cause); err != nil {
			return err
		}
	}
	return nil
}

// correct books one half of a move.
func (f *fold) correct(w *work, e *epoch, m *move, owner odometer.Owner, usage odometer.Usage, cause string) error {
	hour := odometer.Hour(m.Start)
	if m.End <= m.Start || m.End > hour+odometer.HourMicros {
		return fmt.Errorf("what is moved of epoch %s lies from %d to %d, which is not within an hour: %w", m.Epoch, m.Start, m.End, odometer.ErrInvalid)
	}
	h := f.head(w.rec.partition)
	h.entry++
	entry := odometer.Entry{
		ID: odometer.EntryID{Partition: w.rec.partition, Number: h.entry}, Kind: odometer.KindCorrection, BookedAt: w.rec.at, Cause: cause,
		Event: odometer.Event{
			Version: odometer.Version11, Instance: e.instance, Agent: e.agent, Owner: owner, Epoch: e.epochKey.epoch, EpochStart: e.started,
			FirstSequence: e.sequence, Sequence: e.sequence, Span: odometer.Span{Start: m.Start, End: m.End}, Usage: usage, Quality: odometer.Measured,
			Timestamp: m.End / odometer.SecondMicros, Period: odometer.Period{Start: m.Start / odometer.SecondMicros, End: m.End / odometer.SecondMicros},
		},
	}
	entry.SourceEventID = entry.Event.ID()
	w.res.Bookings = append(w.res.Bookings, entry.AppendJSON(nil))
	w.rec.covers(entry.Event.Span)
	b := bucket{hour: hour, owner: owner, sums: usage}
	if m.Recovered {
		b.recovered = usage.Vector[odometer.MeasuredTime] + usage.Vector[odometer.EstimatedTime]
		if _, err := f.exec(`INSERT INTO moved (partition, entry) VALUES (?, ?)`, w.rec.partition, int64(h.entry)); err != nil {
			return fmt.Errorf("note that the time of entry %s is recovered: %w", entry.ID, err)
		}
	}
	if err := f.own(e, owner); err != nil {
		return err
	}
	if err := f.insertHour(e, &b, "moved"); err != nil {
		return err
	}
	return f.adjust(&entry, m.Recovered)
}

// follow returns what a correction that takes an entry back leaves with others
// than had it: the part of it whose owner was recorded since.
func (f *fold) follow(e *epoch, old *odometer.Entry, recovered bool) (moves []move, err error) {
	ev := &old.Event
	if err := f.learnOwners(e); err != nil {
		return nil, err
	}
	for at := ev.Span.Start; at < ev.Span.End; {
		owner, until := e.owners.at(at, ev.Owner)
		to := min(until, ev.Span.End, odometer.Hour(at)+odometer.HourMicros)
		if owner != ev.Owner {
			m := odometer.Move{Epoch: ev.Epoch, Span: odometer.Span{Start: at, End: to}, From: ev.Owner, To: owner, Recovered: recovered}
			m.Usage = odometer.Usage{Known: ev.Usage.Known}.Sub(ev.Usage.Between(ev.Span, at, to))
			if m.Usage.Vector != (odometer.Vector{}) {
				moves = append(moves, moveOf(&m))
			}
		}
		at = to
	}
	return moves, nil
}
