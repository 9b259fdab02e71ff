package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// Who owned an instance when is decided by a person, in the partition of the
// instance's name, and kept in the table ownership, where the times of an instance
// do not overlap. What is recorded decides; where nothing is, an event is charged
// to the owner that it names.
//
// An event is split where the owner changes, into entries that add up to it. Whom
// its entries are charged to stands in the record's result (charge), since it
// depends on other partitions: whoever folds the record again takes it from there.
//
// What was used before a decision is moved by it: for each hour and epoch two
// corrections, out of one account and into the other. They lie within the hours
// and between the moments at which the owner changes, so that in each of these
// stretches nobody but its owner has anything. What is moved stands in the
// decision (move), in the partition of the epoch.

// history is who owned an instance when, in order and without overlap.
type history []odometer.Ownership

// with returns h with o laid over it: what o covers is o's. Neighbours of the
// same owner become one.
func (h history) with(o odometer.Ownership) history {
	var out history
	add := func(o odometer.Ownership) {
		if n := len(out); n > 0 && out[n-1].Until == o.From && out[n-1].Owner == o.Owner {
			out[n-1].Until = o.Until
		} else if o.From < o.Until {
			out = append(out, o)
		}
	}
	placed := false
	for _, p := range h {
		if before := p; before.From < o.From {
			before.Until = min(p.Until, o.From)
			add(before)
		}
		if !placed && p.Until > o.From {
			add(o)
			placed = true
		}
		if after := p; after.Until > o.Until {
			after.From = max(p.From, o.Until)
			add(after)
		}
	}
	if !placed {
		add(o)
	}
	return out
}

// at is [odometer.OwnerAt] of h.
func (h history) at(us int64, claimed odometer.Owner) (owner odometer.Owner, until int64) {
	return odometer.OwnerAt(h, us, claimed)
}

// edges returns the moments within (from, until) at which the owner changes.
func (h history) edges(from, until int64) (list []int64) {
	for _, o := range h {
		for _, at := range [...]int64{o.From, o.Until} {
			if at > from && at < until {
				list = append(list, at)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (h history) covers(us int64) bool {
	o, _ := h.at(us, odometer.Owner{})
	return o != odometer.Owner{}
}

// historyOf reads who owned an instance when.
func historyOf(ctx context.Context, db queryer, instance odometer.InstanceID) (history, error) {
	rows, err := db.QueryContext(ctx, `SELECT from_us, until_us, usr, org FROM ownership WHERE instance = ? ORDER BY from_us`, string(instance))
	if err != nil {
		return nil, fmt.Errorf("who owned %s: %w", instance, err)
	}
	defer rows.Close()
	var h history
	for rows.Next() {
		o := odometer.Ownership{Instance: instance}
		if err := rows.Scan(&o.From, &o.Until, &o.Owner.User, &o.Owner.Org); err != nil {
			return nil, fmt.Errorf("who owned %s: %w", instance, err)
		}
		h = append(h, o)
	}
	return h, rows.Err()
}

// Ownership returns who owned an instance when, as it is recorded, in order.
func (l *Ledger) Ownership(ctx context.Context, instance odometer.InstanceID) ([]odometer.Ownership, error) {
	return historyOf(ctx, l.read, instance)
}

// Owned returns who owned instances when, of those and of that time of which it is
// recorded: what overlaps [from, to), in order of time.
func (l *Ledger) Owned(ctx context.Context, instances []odometer.InstanceID, from, to int64) (map[odometer.InstanceID][]odometer.Ownership, error) {
	of := map[odometer.InstanceID][]odometer.Ownership{}
	if len(instances) == 0 {
		return of, nil
	}
	names, err := json.Marshal(instances)
	if err != nil {
		return nil, err
	}
	rows, err := l.read.QueryContext(ctx, `SELECT instance, from_us, until_us, usr, org FROM ownership
		WHERE instance`+ofList+` AND from_us < ? AND until_us > ? ORDER BY instance, from_us`, string(names), to, from)
	if err != nil {
		return nil, fmt.Errorf("who owned instances: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var o odometer.Ownership
		if err := rows.Scan(&o.Instance, &o.From, &o.Until, &o.Owner.User, &o.Owner.Org); err != nil {
			return nil, fmt.Errorf("who owned instances: %w", err)
		}
		of[o.Instance] = append(of[o.Instance], o)
	}
	return of, rows.Err()
}

// charge says whom N entries are charged to, from the number Entry on, where that
// is not the owner that their event names. With Until an event is split there, and
// the next entry has what follows.
type charge struct {
	Entry uint64          `json:"entry"`
	N     uint64          `json:"n"`
	Until int64           `json:"until_us,omitempty"`
	User  odometer.UserID `json:"user"`
	Org   odometer.OrgID  `json:"org,omitempty"`
}

func (c *charge) owner() odometer.Owner { return odometer.Owner{User: c.User, Org: c.Org} }

// charges are in the order of their entries.
type charges []charge

// of returns whom an entry is charged to, where that is said.
func (list charges) of(entry uint64) *charge {
	i, _ := slices.BinarySearchFunc(list, entry, func(c charge, entry uint64) int {
		if c.Entry+c.N <= entry {
			return -1
		}
		return 1
	})
	if i < len(list) && list[i].Entry <= entry {
		return &list[i]
	}
	return nil
}

func (list *charges) add(c charge) {
	if n := len(*list); n > 0 {
		last := &(*list)[n-1]
		if last.Entry+last.N == c.Entry && last.Until == 0 && c.Until == 0 && last.owner() == c.owner() {
			last.N++
			return
		}
	}
	*list = append(*list, c)
}

// payer is who is charged for a booking, or for its part up to a moment.
type payer struct {
	owner odometer.Owner
	until int64
}

// payers returns who is charged for a booking of an event that names claimed, the
// next entry being number. The list holds until the next call.
func (f *fold) payers(e *epoch, span odometer.Span, claimed odometer.Owner, number uint64) ([]payer, error) {
	claimed = claimed.OrUnassigned()
	f.paying = f.paying[:0]
	if f.given != nil {
		for at := span.Start; at < span.End; number++ {
			p := payer{claimed, span.End}
			if c := f.given.of(number); c != nil {
				p.owner = c.owner()
				if c.Until != 0 {
					p.until = c.Until
				}
			}
			if p.until <= at || p.until > span.End {
				return nil, fmt.Errorf("entry %d is charged up to %d, which is not within its span: %w", number, p.until, odometer.ErrInvalid)
			}
			f.paying = append(f.paying, p)
			at = p.until
		}
		return f.paying, nil
	}
	if err := f.learnOwners(e); err != nil {
		return nil, err
	}
	for at := span.Start; at < span.End; {
		owner, until := e.owners.at(at, claimed)
		at = min(until, span.End)
		if n := len(f.paying); n > 0 && f.paying[n-1].owner == owner {
			f.paying[n-1].until = at
		} else {
			f.paying = append(f.paying, payer{owner, at})
		}
	}
	return f.paying, nil
}

// learnOwners has the epoch know who owned its instance when.
func (f *fold) learnOwners(e *epoch) (err error) {
	if !e.ownersKnown && f.someOwned {
		e.owners, err = historyOf(f.ctx, f.tx, e.instance)
	}
	e.ownersKnown = err == nil
	return err
}

// piece returns the part of k from one moment to another, whose readings go on from
// reading.
func (k *booking) piece(from, until int64, reading odometer.Usage) *booking {
	p := &booking{kind: k.kind, cause: k.cause, own: k.plain, more: until < k.span.End, span: odometer.Span{Start: from, End: until}}
	if from == k.span.Start {
		p.span.Step = k.span.Step
	}
	p.usage = k.usage.Between(k.span, from, until)
	p.readings = odometer.Readings{Start: reading, End: k.readings.End}
	if p.more {
		end := &p.readings.End
		end.Vector = reading.Vector
		for q, n := range p.usage.Vector {
			end.Vector[q] += n
		}
	}
	return p
}

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

// Assign records that an instance is somebody's, on the word of a person, named by
// actor, who says why, in one line for a person. Usage in that time that others
// have been charged is moved. With dry nothing is changed, and the answer says what
// would be.
//
// Until 0 stands for no end, and is refused with an error wrapping
// [odometer.ErrConflict] where changes after From are recorded: they would go. The
// error wraps [odometer.ErrInvalid] where names, times or the cause will not do, and
// where usage of an hour would have to be split whose journal was pruned.
func (l *Ledger) Assign(ctx context.Context, o odometer.Ownership, actor, cause string, dry bool) (a odometer.Assignment, err error) {
	endless := o.Until == 0
	if endless {
		o.Until = odometer.Forever
	}
	if err = o.Valid(); err == nil {
		err = checkCause(cause)
	}
	if err != nil {
		return a, fmt.Errorf("assign %s: %w", o.Instance, err)
	}
	var refused error // before anything changed: what is cached stands
	err = l.transact(ctx, func(f *fold, now int64) error {
		h, err := historyOf(f.ctx, f.tx, o.Instance)
		if err != nil {
			return err
		}
		if endless {
			refused = h.endsAfter(o.From)
		}
		if refused != nil {
			return nil
		}
		a, err = f.assignment(h, o)
		if refusal(err) {
			refused = err
			return nil
		}
		if err != nil || dry {
			return err
		}
		return f.assign(&a, now, actor, cause)
	})
	if refused != nil {
		err = refused
	}
	if err != nil {
		return odometer.Assignment{}, fmt.Errorf("assign %s: %w", o.Instance, err)
	}
	return a, nil
}

// endsAfter returns an error where the owner changes after a moment.
func (h history) endsAfter(from int64) error {
	var at []string
	for _, edge := range h.edges(from, odometer.Forever) {
		at = append(at, time.UnixMicro(edge).UTC().Format(time.RFC3339Nano))
	}
	if len(at) == 0 {
		return nil
	}
	return fmt.Errorf("its owner changes at %s already: say until when this is to hold: %w", strings.Join(at, ", "), odometer.ErrConflict)
}

// assignment works out what becomes of h where o is recorded.
func (f *fold) assignment(h history, o odometer.Ownership) (odometer.Assignment, error) {
	a := odometer.Assignment{Ownership: o}
	for _, p := range h {
		p.From, p.Until = max(p.From, o.From), min(p.Until, o.Until)
		if p.From < p.Until {
			a.Replaces = append(a.Replaces, p)
		}
	}
	if len(a.Replaces) == 1 && a.Replaces[0] == o {
		return a, nil // it is so already
	}
	epochs, err := f.epochsOf(o.Instance)
	if err != nil {
		return a, err
	}
	next := h.with(o)
	for _, e := range epochs {
		m, err := f.movesOf(e, next, &o)
		if err != nil {
			return a, err
		}
		a.Moves = append(a.Moves, m...)
	}
	return a, nil
}

// epochsOf returns the epochs of an instance of which something is booked.
func (f *fold) epochsOf(instance odometer.InstanceID) (list []*epoch, err error) {
	err = f.each(`SELECT `+epochColumns+` FROM `+epochTables+` WHERE e.instance = ? ORDER BY e.partition, e.epoch_no`, func(rows *sql.Rows) error {
		e := new(epoch)
		if err := e.scan(rows); err != nil {
			return err
		}
		if e.sequence > 0 {
			list = append(list, e)
		}
		return nil
	}, string(instance))
	if err != nil {
		return nil, fmt.Errorf("epochs of %s: %w", instance, err)
	}
	return list, nil
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
	u := newUsageQuery(f.ctx, f.tx, odometer.UsageQuery{
		From: from, To: to, Instance: e.instance, GroupBy: []odometer.GroupBy{odometer.ByHour, odometer.ByUser, odometer.ByOrg},
	})
	u.epochs, u.args, u.epoch = `(SELECT partition, epoch_no, instance FROM epochs WHERE partition = ? AND epoch_no = ?)`, []any{e.partition, e.no}, e.epochKey.epoch
	if err := u.run(); err != nil {
		return nil, err
	}
	for _, row := range u.result() {
		had := odometer.Owner{User: row.User, Org: row.Org}
		if had == owner {
			continue
		}
		m := odometer.Move{
			Epoch: e.epochKey.epoch, From: had, To: owner, Usage: odometer.Usage{Known: row.Known},
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

// assign takes the decision that a is, and those that move what it moves.
func (f *fold) assign(a *odometer.Assignment, now int64, actor, cause string) error {
	decide := func(partition int, d decision) error {
		d.Actor, d.Cause = actor, cause
		body, err := json.Marshal(d)
		if err != nil {
			return err
		}
		rec := &record{partition: partition, kind: kindDecision, at: now, sender: "operator", body: body}
		f.start(rec)
		_, err = f.decide(rec)
		return err
	}
	d := decision{Decision: decideOwned, Instance: a.Instance, From: a.From, Until: a.Until, User: a.Owner.User, Org: a.Owner.Org}
	if len(a.Replaces) == 1 && a.Replaces[0] == a.Ownership {
		return nil
	}
	if err := decide(a.Instance.Partition(), d); err != nil {
		return err
	}
	epochs, err := f.epochsOf(a.Instance)
	if err != nil {
		return err
	}
	home := map[odometer.Epoch]int{}
	for _, e := range epochs {
		home[e.epochKey.epoch] = e.partition
	}
	for rest := a.Moves; len(rest) > 0; {
		d := decision{Decision: decideMoved, Instance: a.Instance}
		partition, n := home[rest[0].Epoch], 0
		for n < len(rest) && n < maxMoves && home[rest[n].Epoch] == partition {
			d.Moves = append(d.Moves, moveOf(&rest[n]))
			n++
		}
		if err := decide(partition, d); err != nil {
			return err
		}
		rest = rest[n:]
	}
	return nil
}

// owned folds the decision who owns an instance in some time.
func (f *fold) owned(w *work, d *decision) error {
	o := odometer.Ownership{Instance: d.Instance, Owner: odometer.Owner{User: d.User, Org: d.Org}, From: d.From, Until: d.Until}
	if err := o.Valid(); err != nil {
		return err
	}
	h, err := historyOf(f.ctx, f.tx, o.Instance)
	if err != nil {
		return err
	}
	if _, err := f.exec(`DELETE FROM ownership WHERE instance = ?`, string(o.Instance)); err != nil {
		return fmt.Errorf("store who owned %s: %w", o.Instance, err)
	}
	h = h.with(o)
	for _, p := range h {
		_, err := f.exec(`INSERT INTO ownership (partition, instance, from_us, until_us, usr, org) VALUES (?, ?, ?, ?, ?, ?)`,
			w.rec.partition, string(p.Instance), p.From, p.Until, string(p.Owner.User), string(p.Owner.Org))
		if err != nil {
			return fmt.Errorf("store who owned %s: %w", o.Instance, err)
		}
	}
	f.someOwned = true
	for _, e := range f.epochs {
		if e.instance == o.Instance {
			e.owners, e.ownersKnown = h, true
		}
	}
	return nil
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
	return f.insertHour(e, &b, "moved")
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

// addOwnership makes the tables of who owned what, empty: in version 1 an event
// was charged to the owner that it named.
func addOwnership(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE ownership (
  partition INTEGER NOT NULL,
  instance  TEXT    NOT NULL,
  from_us   INTEGER NOT NULL,
  until_us  INTEGER NOT NULL,
  usr       TEXT    NOT NULL,
  org       TEXT    NOT NULL,
  PRIMARY KEY (instance, from_us)
);
CREATE INDEX ownership_partition ON ownership (partition);
CREATE TABLE moved (
  partition INTEGER NOT NULL,
  entry     INTEGER NOT NULL,
  PRIMARY KEY (partition, entry)
);`)
	return "", err
}
