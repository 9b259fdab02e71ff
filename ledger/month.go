package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// A month is closed by a person, for an organisation or for all for whom it is open.
// What each organisation used in it becomes a statement, which never changes: the
// usage of the month, and what was booked in it for earlier months that were closed
// by then. What is booked afterwards for a closed month stays where it was used in
// questions by time of use, and is an adjustment of the month in which it is booked
// in questions by time of booking. So statements and adjustments add up to all that
// was used.
//
// That a month is closed is decided in every partition, since each is folded by
// itself: from that record on what it books for the month is an adjustment (table
// closes). A statement depends on all partitions, and stands whole in a decision in
// the partition of its organisation's name (table statements), so that its fold reads
// nothing else; the audit adds it up again. All of these decisions are one
// transaction.
//
// In a ledger that was restored from a backup a month is as it was then: one that
// was closed since is open, and may be closed again, with another statement. Its id
// has its text's hash, so that the two are never taken for one another.

// CloseMonth closes a month on the word of a person, named by c.Actor, who says why.
// With c.Dry nothing is changed, and the answer says what would be, and what is
// missing.
//
// The error wraps [odometer.ErrInvalid] where the month is not over or texts will not
// do, [odometer.ErrNotFound] where nothing of the organisation is booked in it, which
// may be spelt otherwise, and [odometer.ErrConflict] where it is closed already, or where something is
// missing and that is not accepted: it is a [*MissingError] then.
func (l *Ledger) CloseMonth(ctx context.Context, c odometer.MonthClose) (r odometer.MonthClosed, err error) {
	if err = checkCause(c.Cause); err == nil {
		err = odometer.ValidLine("who closes it", c.Actor)
	}
	if err == nil && c.Org != nil {
		err = odometer.ValidID("org", string(*c.Org))
	}
	if err == nil {
		var refused error // before anything changed: what is cached stands
		err = l.transact(ctx, func(f *fold, now int64) error {
			statements, err := f.closing(&c, now)
			if refusal(err) {
				refused = err
				return nil
			}
			if err != nil {
				return err
			}
			r = statements.told(l, &c, now)
			if len(r.Missing) > 0 && !c.AcceptGaps && !c.Dry {
				refused = &MissingError{c.Month, r.Missing}
			}
			if refused != nil || c.Dry {
				return nil
			}
			return f.close(&c, statements.list, now)
		})
		err = errors.Join(refused, err)
	}
	if err != nil {
		return odometer.MonthClosed{}, fmt.Errorf("close %s: %w", c.Month, err)
	}
	return r, nil
}

// MissingError says that a month is not closed, because it may not be complete.
type MissingError struct {
	Month   odometer.Month
	Missing []odometer.Missing
}

// missingShown is how many things that are missing an error names.
const missingShown = 10

func (e *MissingError) Error() string {
	var b strings.Builder
	b.WriteString("it may not be complete, and that is not accepted; missing: ")
	for i := range e.Missing {
		if i == missingShown {
			fmt.Fprintf(&b, "; and %d more", len(e.Missing)-i)
			break
		}
		if i > 0 {
			b.WriteString("; ")
		}
		b.WriteString(whatLacks(&e.Missing[i]))
	}
	return b.String()
}

// Unwrap says of which kind the error is.
func (e *MissingError) Unwrap() error { return odometer.ErrConflict }

func whatLacks(m *odometer.Missing) string {
	what := map[odometer.MissingKind]string{
		odometer.MissingGap: "a time that nobody measured", odometer.MissingHeld: "an event that is held",
		odometer.MissingQuarantine: "an event in quarantine", odometer.MissingSilent: "a silence",
		odometer.MissingBacklog: "events that are not committed yet",
	}[m.Kind]
	if m.Instance != "" {
		what += " of " + string(m.Instance)
	}
	if m.Host != "" {
		what += " on " + string(m.Host)
	}
	if m.To != 0 {
		clock := func(us int64) string { return time.UnixMicro(us).UTC().Format(time.RFC3339) }
		what += fmt.Sprintf(" (%s to %s)", clock(m.From), clock(m.To))
	}
	return what
}

// closing is what closing a month comes to.
type closing struct {
	list  []*odometer.Statement // in order of organisation; without who closes it, and when
	lacks []lack
}

// told completes the statements and says what becomes of the month.
func (c *closing) told(l *Ledger, ask *odometer.MonthClose, now int64) odometer.MonthClosed {
	r := odometer.MonthClosed{Missing: make([]odometer.Missing, len(c.lacks))}
	for i := range c.lacks {
		r.Missing[i] = c.lacks[i].Missing
	}
	for _, s := range c.list {
		s.Ledger, s.Generation, s.At, s.Actor, s.Cause = l.id, l.gen, now, ask.Actor, ask.Cause
		r.Statements = append(r.Statements, s.Info())
	}
	return r
}

// closing adds up what a month has for those for whom it is to be closed.
func (f *fold) closing(c *odometer.MonthClose, now int64) (r closing, err error) {
	if c.Month.End() > now {
		return r, fmt.Errorf("it is not over, which it is at %s: %w", time.UnixMicro(c.Month.End()).UTC().Format(time.RFC3339), odometer.ErrInvalid)
	}
	everybody, orgs, err := f.closedFor(c.Month)
	if err != nil {
		return r, err
	}
	if everybody || c.Org != nil && orgs[*c.Org] {
		return r, fmt.Errorf("it is closed already: %w", odometer.ErrConflict)
	}
	wanted := func(o odometer.OrgID) bool { return !orgs[o] && (c.Org == nil || o == *c.Org) }
	lines, err := f.monthLines(c.Month, wanted)
	if err != nil {
		return r, err
	}
	if r.lacks, err = f.lacking(c, lines, wanted); err != nil {
		return r, err
	}
	if c.Org != nil && lines[*c.Org] == nil {
		return r, fmt.Errorf("nothing of organisation %s is booked in it: %w", *c.Org, odometer.ErrNotFound)
	}
	asOf := f.marks()
	for _, org := range slices.Sorted(maps.Keys(lines)) {
		r.list = append(r.list, &odometer.Statement{Month: c.Month, Org: org, AsOf: asOf, Lines: lines[org], Missing: missingOf(r.lacks, org)})
	}
	return r, nil
}

// closedFor says for whom a month is closed. Every partition knows.
func (f *fold) closedFor(m odometer.Month) (everybody bool, orgs map[odometer.OrgID]bool, err error) {
	orgs = map[odometer.OrgID]bool{}
	err = f.each(`SELECT everybody, org FROM closes WHERE partition = 0 AND month = ?`, func(rows *sql.Rows) error {
		var all bool
		var org odometer.OrgID
		err := rows.Scan(&all, &org)
		everybody = everybody || all
		if !all {
			orgs[org] = true
		}
		return err
	}, int64(m))
	if err != nil {
		return false, nil, fmt.Errorf("for whom %s is closed: %w", m, err)
	}
	return everybody, orgs, nil
}

// marks returns up to where each partition is booked.
func (f *fold) marks() (list []odometer.StatementMark) {
	for _, p := range slices.Sorted(maps.Keys(f.heads)) {
		if h := f.heads[p]; h.position > 0 {
			list = append(list, odometer.StatementMark{Partition: p, Position: h.position, Entry: h.entry})
		}
	}
	return list
}

// monthLines returns what was booked in a month that is open for those who are
// wanted: what was used in it, and its adjustments of earlier ones.
func (f *fold) monthLines(m odometer.Month, wanted func(odometer.OrgID) bool) (map[odometer.OrgID][]odometer.StatementLine, error) {
	type key struct {
		org odometer.OrgID
		odometer.Month
		odometer.UserID
		odometer.InstanceID
	}
	lines := map[key]*odometer.StatementLine{}
	line := func(month odometer.Month, instance odometer.InstanceID, owner odometer.Owner) *odometer.StatementLine {
		k := key{owner.Org, month, owner.User, instance}
		if lines[k] == nil {
			lines[k] = &odometer.StatementLine{Month: month, User: owner.User, Instance: instance}
		}
		return lines[k]
	}
	u := newUsageQuery(f.ctx, f.tx, odometer.UsageQuery{
		From: m.Start(), To: m.End(), GroupBy: []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg},
	})
	if err := u.run(); err != nil {
		return nil, err
	}
	for _, row := range u.rows {
		if wanted(row.Org) {
			l := line(m, row.Instance, odometer.Owner{User: row.User, Org: row.Org})
			l.Totals, l.Known, l.Recovered = row.Totals, row.Known, row.Recovered
		}
	}
	err := eachAdjustment(f.ctx, f.tx, `booked = ?`, func(a *adjustment) {
		if wanted(a.owner.Org) {
			l := line(a.month, a.instance, a.owner)
			for q, n := range a.sums.Vector {
				l.Totals[q].Add(n)
			}
			l.Known |= a.sums.Known
			l.Recovered.Add(a.recovered)
		}
	}, int64(m))
	if err != nil {
		return nil, err
	}
	of := map[odometer.OrgID][]odometer.StatementLine{}
	for k, l := range lines {
		if !l.Zero() {
			of[k.org] = append(of[k.org], *l)
		}
	}
	for _, list := range of {
		slices.SortFunc(list, func(a, b odometer.StatementLine) int { return a.Compare(&b) })
	}
	return of, nil
}

// close takes the decisions that close a month.
func (f *fold) close(c *odometer.MonthClose, statements []*odometer.Statement, now int64) error {
	decide := func(partition int, d decision) error {
		d.Month, d.Actor, d.Cause = c.Month, c.Actor, c.Cause
		body, err := json.Marshal(d)
		if err != nil {
			return err
		}
		rec := &record{partition: partition, kind: kindDecision, at: now, sender: "operator", body: body}
		f.start(rec)
		_, err = f.decide(rec)
		return err
	}
	d := decision{Decision: decideClosed, Everybody: c.Org == nil}
	if c.Org != nil {
		d.Org = *c.Org
	}
	for p := range odometer.Partitions {
		if err := decide(p, d); err != nil {
			return err
		}
	}
	for _, s := range statements {
		if err := decide(s.Org.Partition(), decision{Decision: decideStated, Org: s.Org, Statement: string(s.AppendText(nil))}); err != nil {
			return err
		}
	}
	return nil
}

// closed folds the decision that a month is closed.
func (f *fold) closed(w *work, d *decision) error {
	p := w.rec.partition
	_, err := f.exec(`INSERT INTO closes (partition, month, everybody, org, position, entry, at_us) VALUES (?, ?, ?, ?, ?, ?, ?)`,
		p, int64(d.Month), d.Everybody, string(d.Org), w.rec.position, int64(f.head(p).entry), w.rec.at)
	if err != nil {
		return fmt.Errorf("close %s: %w", d.Month, err)
	}
	f.closedTo[p] = max(f.closedTo[p], d.Month.End())
	return nil
}

// stated folds the decision what an organisation used in a month.
func (f *fold) stated(w *work, d *decision) error {
	s, err := odometer.ParseStatement([]byte(d.Statement))
	if err != nil {
		return err
	}
	i := s.Info()
	_, err = f.exec(`INSERT INTO statements (partition, month, org, id, at_us, actor, cause, hash, lines, missing, body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		w.rec.partition, int64(s.Month), string(s.Org), i.ID, s.At, s.Actor, s.Cause, i.Hash, i.Lines, i.Missing, []byte(d.Statement))
	if err != nil {
		return fmt.Errorf("store statement %s: %w", i.ID, err)
	}
	return nil
}

// loadClosed reads which is the last month that was closed in each partition.
func (f *fold) loadClosed() error {
	f.closedTo = [odometer.Partitions]int64{}
	err := f.each(`SELECT partition, max(month) FROM closes GROUP BY partition`, func(rows *sql.Rows) error {
		var p int
		var m int64
		err := rows.Scan(&p, &m)
		f.closedTo[p] = odometer.Month(m).End()
		return err
	})
	if err != nil {
		return fmt.Errorf("read which months are closed: %w", err)
	}
	return nil
}

// isClosed reports whether a month is closed for an organisation, as a partition
// knows.
func (f *fold) isClosed(partition int, m odometer.Month, org odometer.OrgID) (closed bool, err error) {
	err = f.queryRow(`SELECT EXISTS (SELECT 1 FROM closes WHERE partition = ? AND month = ? AND (everybody = 1 OR org = ?))`,
		[]any{partition, int64(m), string(org)}, &closed)
	if err != nil {
		return false, fmt.Errorf("whether %s is closed: %w", m, err)
	}
	return closed, nil
}

// adjust notes what an entry, which is being booked, has of months that are closed.
// Recovered says that its time counts as recovered.
func (f *fold) adjust(entry *odometer.Entry, recovered bool) error {
	p, ev := entry.ID.Partition, &entry.Event
	if ev.Span.Start >= f.closedTo[p] { // as nearly always
		return nil
	}
	for m := odometer.MonthOf(ev.Span.Start); m.Start() < min(ev.Span.End, f.closedTo[p]); m = m.Next() {
		closed, err := f.isClosed(p, m, ev.Owner.Org)
		if err != nil {
			return err
		}
		if !closed {
			continue
		}
		booked := odometer.MonthOf(entry.BookedAt)
		for closed {
			if closed, err = f.isClosed(p, booked, ev.Owner.Org); err != nil {
				return err
			}
			if closed { // a clock that was set back
				booked = booked.Next()
			}
		}
		part := ev.Usage.Between(ev.Span, m.Start(), m.End())
		us := int64(0)
		if recovered {
			us = part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime]
		}
		_, err = f.exec(`INSERT INTO adjustments (partition, entry, month, booked, instance, usr, org, sums, recovered_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			p, int64(entry.ID.Number), int64(m), int64(booked), string(ev.Instance), string(ev.Owner.User), string(ev.Owner.Org), part.AppendBinary(nil), us)
		if err != nil {
			return fmt.Errorf("note that entry %s adjusts %s: %w", entry.ID, m, err)
		}
	}
	return nil
}

// addMonths makes the tables of months that are closed, empty.
func addMonths(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE closes (
  partition INTEGER NOT NULL,
  month     INTEGER NOT NULL,
  everybody INTEGER NOT NULL,
  org       TEXT    NOT NULL,
  position  INTEGER NOT NULL,
  entry     INTEGER NOT NULL,
  at_us     INTEGER NOT NULL,
  PRIMARY KEY (partition, month, everybody, org)
);
CREATE TABLE statements (
  partition INTEGER NOT NULL,
  month     INTEGER NOT NULL,
  org       TEXT    NOT NULL,
  id        TEXT    NOT NULL,
  at_us     INTEGER NOT NULL,
  actor     TEXT    NOT NULL,
  cause     TEXT    NOT NULL,
  hash      TEXT    NOT NULL,
  lines     INTEGER NOT NULL,
  missing   INTEGER NOT NULL,
  body      BLOB    NOT NULL,
  PRIMARY KEY (month, org)
);
CREATE UNIQUE INDEX statements_id ON statements (id);
CREATE TABLE adjustments (
  partition    INTEGER NOT NULL,
  entry        INTEGER NOT NULL,
  month        INTEGER NOT NULL,
  booked       INTEGER NOT NULL,
  instance     TEXT    NOT NULL,
  usr          TEXT    NOT NULL,
  org          TEXT    NOT NULL,
  sums         BLOB    NOT NULL,
  recovered_us INTEGER NOT NULL,
  PRIMARY KEY (partition, entry, month)
);
CREATE INDEX adjustments_month ON adjustments (month);
CREATE INDEX adjustments_booked ON adjustments (booked);`)
	return "", err
}
