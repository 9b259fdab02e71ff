package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
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
// its entries are charged to stands in the record's result (charge.go), since it
// depends on other partitions: whoever folds the record again takes it from there.
//
// What was used before a decision is moved by it: for each hour and epoch two
// corrections, out of one account and into the other. They lie within the hours
// and between the moments at which the owner changes, so that in each of these
// stretches nobody but its owner has anything. What is moved stands in the
// decision (moves.go), in the partition of the epoch.

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
		if err != nil || dry || soAlready(&a) {
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
	if soAlready(&a) {
		return a, nil
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

// soAlready reports whether an assignment says what is recorded.
func soAlready(a *odometer.Assignment) bool {
	return len(a.Replaces) == 1 && a.Replaces[0] == a.Ownership
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
	if err := decide(a.Instance.Partition(), d); err != nil {
		return err
	}
	for rest := a.Moves; len(rest) > 0; {
		d := decision{Decision: decideMoved, Instance: a.Instance}
		partition, n := rest[0].Partition, 0
		for n < len(rest) && n < maxMoves && rest[n].Partition == partition {
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
	f.decided[o.Instance] = max(f.decided[o.Instance], w.rec.at)
	for _, e := range f.epochs {
		if e.instance == o.Instance {
			e.owners, e.ownersKnown = h, true
		}
	}
	return nil
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
