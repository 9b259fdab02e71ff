package audit

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"

	"example.org/odometer"
)

// That a month is closed is decided in every partition; what its journal books behind
// that for the month is an adjustment of the month in which it was booked. So each
// entry is either in the statement of a month that is closed, or in no statement yet,
// and it can be told of every entry by itself in which: statements are added up here
// from the entries and compared, line by line. Where records are gone, what a statement
// has of them is the sums of their hours, less what the base says were adjustments.

// closing is for whom a month was closed.
type closing struct {
	month     odometer.Month
	everybody bool
	org       odometer.OrgID
}

// closed is where a partition has that a month is closed.
type closed struct {
	position, entry, at int64
}

// stated is a decision what an organisation used in a month.
type stated struct {
	partition int64
	hash      [sha256.Size]byte
	at        int64
	actor     string
	cause     string
}

// statementOf names a statement.
type statementOf struct {
	month odometer.Month
	org   odometer.OrgID
}

// loadCloses reads the table closes, which each partition's journal is compared with.
func (a *audit) loadCloses(ctx context.Context) error {
	a.closes = map[int64]map[closing]closed{}
	err := eachClosing(ctx, a.snap, -1, func(partition int64, c closing, at closed) {
		if a.closes[partition] == nil {
			a.closes[partition] = map[closing]closed{}
		}
		a.closes[partition][c] = at
	})
	if err != nil {
		return err
	}
	all := map[closing]map[int64]int{} // by when: in how many partitions
	for _, of := range a.closes {
		for c, at := range of {
			if all[c] == nil {
				all[c] = map[int64]int{}
			}
			all[c][at.at]++
		}
	}
	for c, times := range all {
		for _, n := range times {
			if n != odometer.Partitions {
				a.report.find("close", "%s is closed in %d partitions of %d at a time", c, n, odometer.Partitions)
			}
		}
	}
	return nil
}

func (c closing) String() string {
	switch {
	case c.everybody:
		return c.month.String() + " of everybody"
	case c.org == "":
		return c.month.String() + " of users without an organisation"
	}
	return fmt.Sprintf("%s of %s", c.month, c.org)
}

func eachClosing(ctx context.Context, from *snapshot, partition int64, each func(partition int64, c closing, at closed)) error {
	err := from.each(ctx, func(rows *sql.Rows) error {
		var p int64
		var c closing
		var at closed
		err := rows.Scan(&p, (*int64)(&c.month), &c.everybody, &c.org, &at.position, &at.entry, &at.at)
		each(p, c, at)
		return err
	}, `SELECT partition, month, everybody, org, position, entry, at_us FROM closes WHERE partition = ?1 OR ?1 < 0`, partition)
	if err != nil {
		return fmt.Errorf("read which months are closed: %w", err)
	}
	return nil
}

// closedFor returns where a partition has that a month is closed for an organisation.
func (a *audit) closedFor(partition int64, m odometer.Month, org odometer.OrgID) (at closed, yes bool) {
	if at, yes = a.closes[partition][closing{month: m, org: org}]; !yes {
		at, yes = a.closes[partition][closing{month: m, everybody: true}]
	}
	return at, yes
}

// monthsOf calls do for each month of a span.
func monthsOf(span odometer.Span, do func(m odometer.Month) error) error {
	for m := odometer.MonthOf(span.Start); m.Start() < span.End; m = m.Next() {
		if err := do(m); err != nil {
			return err
		}
	}
	return nil
}

// adjusts returns the months that an entry adjusts.
func (a *audit) adjusts(e *odometer.Entry) (list []odometer.Month) {
	p := int64(e.ID.Partition)
	if len(a.closes[p]) == 0 {
		return nil
	}
	monthsOf(e.Event.Span, func(m odometer.Month) error { // never fails
		if at, yes := a.closedFor(p, m, e.Event.Owner.Org); yes && int64(e.ID.Number) > at.entry {
			list = append(list, m)
		}
		return nil
	})
	return list
}

// bookedIn returns the month that has what adjusts another.
func (a *audit) bookedIn(e *odometer.Entry) odometer.Month {
	m := odometer.MonthOf(e.BookedAt)
	for {
		at, yes := a.closedFor(int64(e.ID.Partition), m, e.Event.Owner.Org)
		if !yes || int64(e.ID.Number) <= at.entry {
			return m
		}
		m = m.Next()
	}
}

// state adds an entry to the statements that have it, and to the adjustments.
func (p *replay) state(e *odometer.Entry) error {
	if len(p.a.closes[p.partition]) == 0 {
		return nil
	}
	ev := &e.Event
	return monthsOf(ev.Span, func(m odometer.Month) error {
		at, yes := p.a.closedFor(p.partition, m, ev.Owner.Org)
		if !yes {
			return nil
		}
		part := share(&ev.Usage, ev.Span, m.Start(), m.End())
		var recovered int64
		if e.Kind == odometer.KindRecovered || p.recovers[e.ID.Number] {
			recovered = part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime]
		}
		if int64(e.ID.Number) <= at.entry {
			return p.a.states(m, m, ev.Instance, ev.Owner, true, part, recovered)
		}
		booked := p.a.bookedIn(e)
		key := adjustmentKey(e.ID.Number, m, booked, ev.Instance, ev.Owner)
		if err := p.adjusted.put(key, true, &part, recovered); err != nil {
			return err
		}
		if _, yes := p.a.closedFor(p.partition, booked, ev.Owner.Org); yes {
			return p.a.states(booked, m, ev.Instance, ev.Owner, true, part, recovered)
		}
		return nil
	})
}

// states adds to what the statement of a month has of the use of another, or of the
// same: what the journal books, or what the statement says. Where records are gone,
// what of it was known is not compared: it cannot be told of each entry.
func (a *audit) states(m, use odometer.Month, instance odometer.InstanceID, owner odometer.Owner, booked bool, part odometer.Usage, recovered int64) error {
	if a.base != nil {
		part.Known = 0
	}
	b := binary.BigEndian.AppendUint64(nil, uint64(m))
	b = binary.BigEndian.AppendUint64(b, uint64(use))
	b = append(append(b, instance...), '\t')
	return a.statements.put(appendOwner(b, owner), booked, &part, recovered)
}

func adjustmentKey(entry uint64, m, booked odometer.Month, instance odometer.InstanceID, owner odometer.Owner) []byte {
	b := binary.BigEndian.AppendUint64(nil, entry)
	b = binary.BigEndian.AppendUint64(b, uint64(m))
	b = binary.BigEndian.AppendUint64(b, uint64(booked))
	b = append(append(b, instance...), '\t')
	return appendOwner(b, owner)
}

// close follows the decision that a month is closed.
func (p *replay) close(r *row) {
	c := *r.closes
	_, twice := p.closed[c]
	_, before := p.closed[closing{month: c.month, everybody: true}]
	if twice || before {
		p.a.report.find("close", "%s closes %s, which is closed", r, c)
	}
	if r.actor == "" || r.cause == "" || c.month.End() > r.at || c.everybody != (c.org == "") {
		p.a.report.find("close", "%s closes %s, and it was not over, or nobody says who decided it and why", r, c)
	}
	p.closed[c] = closed{r.position, int64(r.firstEntry) - 1, r.at}
}

// stateDecided follows the decision what an organisation used in a month.
func (p *replay) stateDecided(r *row) {
	k := *r.states
	if int64(k.org.Partition()) != p.partition {
		p.a.report.find("partition", "%s has the statement of %s", r, k.org)
	}
	if _, twice := p.a.stated[k]; twice {
		p.a.report.find("statement", "%s has another statement of %s for %s", r, k.org, k.month)
	}
	p.a.stated[k] = stated{p.partition, sha256.Sum256(r.statement), r.at, r.actor, r.cause}
}

// startMonths takes over what was closed, stated and adjusted by records that are gone.
func (p *replay) startMonths(ctx context.Context, _ map[int64]int64) error {
	err := eachClosing(ctx, p.a.base, p.partition, func(_ int64, c closing, at closed) { p.closed[c] = at })
	if err != nil {
		return err
	}
	err = p.a.base.each(ctx, func(rows *sql.Rows) error {
		var k statementOf
		d := stated{partition: p.partition}
		var body []byte
		err := rows.Scan((*int64)(&k.month), &k.org, &d.at, &d.actor, &d.cause, &body)
		d.hash = sha256.Sum256(body)
		p.a.stated[k] = d
		return err
	}, `SELECT month, org, at_us, actor, cause, body FROM statements WHERE partition = ?`, p.partition)
	if err != nil {
		return err
	}
	return eachAdjustment(ctx, p.a.base, p.partition, func(ad *adjustment) error {
		key := adjustmentKey(ad.entry, ad.month, ad.booked, ad.instance, ad.owner)
		if err := p.adjusted.put(key, true, &ad.sums, ad.recovered); err != nil {
			return err
		}
		less := ad.sums
		for q := range less.Vector {
			less.Vector[q] *= -1
		}
		if err := p.a.states(ad.month, ad.month, ad.instance, ad.owner, true, less, -ad.recovered); err != nil {
			return err
		}
		if _, yes := p.a.closedFor(p.partition, ad.booked, ad.owner.Org); !yes {
			return nil
		}
		return p.a.states(ad.booked, ad.month, ad.instance, ad.owner, true, ad.sums, ad.recovered)
	})
}

// adjustment is a row of the table adjustments.
type adjustment struct {
	entry         uint64
	month, booked odometer.Month
	instance      odometer.InstanceID
	owner         odometer.Owner
	sums          odometer.Usage
	recovered     int64
}

func eachAdjustment(ctx context.Context, from *snapshot, partition int64, do func(*adjustment) error) error {
	err := from.each(ctx, func(rows *sql.Rows) error {
		var ad adjustment
		var entry int64
		var blob []byte
		err := rows.Scan(&entry, (*int64)(&ad.month), (*int64)(&ad.booked), &ad.instance, &ad.owner.User, &ad.owner.Org, &blob, &ad.recovered)
		if err != nil {
			return err
		}
		ad.entry = uint64(entry)
		if ad.sums, err = cutUsage(blob); err != nil {
			ad.sums = odometer.Usage{} // not what was booked
		}
		return do(&ad)
	}, `SELECT entry, month, booked, instance, usr, org, sums, recovered_us FROM adjustments WHERE partition = ?`, partition)
	if err != nil {
		return fmt.Errorf("read the adjustments: %w", err)
	}
	return nil
}

// checkMonths compares the partition's tables of closed months and of adjustments with
// what was decided and booked.
func (p *replay) checkMonths(ctx context.Context) error {
	if !maps.Equal(p.closed, p.a.closes[p.partition]) {
		p.a.report.find("close", "partition %d: the table of closed months says otherwise than the decisions", p.partition)
	}
	err := eachAdjustment(ctx, p.a.snap, p.partition, func(ad *adjustment) error {
		return p.adjusted.put(adjustmentKey(ad.entry, ad.month, ad.booked, ad.instance, ad.owner), false, &ad.sums, ad.recovered)
	})
	if err != nil {
		return err
	}
	return p.adjusted.settle(func(key string, d *amount) {
		p.a.report.find("adjustments", "partition %d, entry %d: what it has of %s that was closed before: %s",
			p.partition, binary.BigEndian.Uint64([]byte(key)), odometer.Month(binary.BigEndian.Uint64([]byte(key[8:]))), d)
	})
}

// checkStatements compares each statement with what was decided and with what the
// entries that it has add up to.
func (a *audit) checkStatements(ctx context.Context) error {
	rep := a.report
	err := a.snap.each(ctx, func(rows *sql.Rows) error {
		var k statementOf
		var is odometer.StatementInfo
		var partition int64
		var body []byte
		err := rows.Scan(&partition, (*int64)(&is.Month), &is.Org, &is.ID, &is.At, &is.Actor, &is.Cause, &is.Hash, &is.Lines, &is.Missing, &body)
		if err != nil {
			return err
		}
		k = statementOf{is.Month, is.Org}
		sum := sha256.Sum256(body)
		was, decided := a.stated[k]
		delete(a.stated, k)
		if !decided || was.hash != sum || was.partition != partition {
			rep.find("statement_table", "statement %s is not what was decided, or nobody decided it", is.ID)
		}
		s, err := odometer.ParseStatement(body)
		if err != nil {
			rep.find("statement", "statement %s cannot be read: %v", is.ID, err)
			return nil
		}
		want := odometer.StatementInfo{
			ID: s.Month.String() + "-" + hex.EncodeToString(sum[:8]), Month: s.Month, Org: s.Org, At: s.At, Actor: s.Actor, Cause: s.Cause,
			Hash: hex.EncodeToString(sum[:]), Lines: len(s.Lines), Missing: len(s.Missing),
		}
		if is != want {
			rep.find("statement_table", "the table describes statement %s otherwise than its text and its hash do", is.ID)
		}
		if decided && (was.at != s.At || was.actor != s.Actor || was.cause != s.Cause) || s.Ledger != odometer.LedgerID(a.snap.id) {
			rep.find("statement", "statement %s names another ledger, or says otherwise than the decision who closed the month, when and why", is.ID)
		}
		a.checkMarks(is.ID, s)
		a.checkGaps(is.ID, s)
		return a.addStatement(is.ID, s)
	}, `SELECT partition, month, org, id, at_us, actor, cause, hash, lines, missing, body FROM statements`)
	if err != nil {
		return fmt.Errorf("read the statements: %w", err)
	}
	for k := range a.stated {
		rep.find("statement_table", "what %q used in %s was stated and the table does not have it", k.org, k.month)
	}
	return a.statements.settle(func(key string, d *amount) {
		if d.known[1] == 0 && *d == (amount{known: d.known}) {
			return // nothing, of which there is no line
		}
		m, use := odometer.Month(binary.BigEndian.Uint64([]byte(key))), odometer.Month(binary.BigEndian.Uint64([]byte(key[8:])))
		rep.find("statement", "the statement of %s is not what was booked for it, of the use of %s (instance, user, organisation): %q: %s", m, use, key[16:], d)
	})
}

// checkMarks compares as of which records a statement says it was made with where the
// month was closed.
func (a *audit) checkMarks(id string, s *odometer.Statement) {
	var want []odometer.StatementMark
	for p := range int64(odometer.Partitions) {
		at, yes := a.closedFor(p, s.Month, s.Org)
		if !yes || at.at != s.At {
			a.report.find("statement", "statement %s is of a month that was not closed then in partition %d", id, p)
			return
		}
		if at.position > 1 {
			want = append(want, odometer.StatementMark{Partition: int(p), Position: at.position - 1, Entry: uint64(at.entry)})
		}
	}
	if !slices.Equal(s.AsOf, want) {
		a.report.find("statement", "statement %s is said to be as of other records than those before the month was closed", id)
	}
}

// checkGaps compares the times that nobody measured in a statement's lines with those
// that it says were accepted.
func (a *audit) checkGaps(id string, s *odometer.Statement) {
	gaps := map[odometer.InstanceID]odometer.Sum{}
	for i := range s.Lines {
		if l := &s.Lines[i]; l.Month == s.Month {
			sum := gaps[l.Instance]
			sum.AddSum(l.Totals[odometer.GapTime])
			gaps[l.Instance] = sum
		}
	}
	for _, m := range s.Missing {
		if m.Kind == odometer.MissingGap {
			sum := gaps[m.Instance]
			sum.SubSum(odometer.SumOf(m.Amount))
			gaps[m.Instance] = sum
		}
	}
	for instance, left := range gaps {
		if !left.IsZero() {
			a.report.find("statement", "statement %s has %s µs that nobody measured of %s beyond those that were accepted", id, left, instance)
		}
	}
}

// addStatement puts a statement's lines beside what the entries add up to.
func (a *audit) addStatement(id string, s *odometer.Statement) error {
	for i := range s.Lines {
		l := &s.Lines[i]
		u := odometer.Usage{Known: l.Known}
		fits := true
		for q, n := range l.Totals {
			var ok bool
			u.Vector[q], ok = n.Int64()
			fits = fits && ok
		}
		recovered, ok := l.Recovered.Int64()
		if !fits || !ok || i > 0 && s.Lines[i-1].Compare(l) >= 0 {
			a.report.find("statement", "statement %s: line %d is out of order, or more than one instance can use", id, i+1)
		}
		if err := a.states(s.Month, l.Month, l.Instance, odometer.Owner{User: l.User, Org: s.Org}, false, u, recovered); err != nil {
			return err
		}
	}
	return nil
}
