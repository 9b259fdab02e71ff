package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"example.org/odometer"
)

// Questions about statements, and about usage by when it was booked.

// Statements returns the statements that q asks for, the newest month first and in
// order of organisation.
func (l *Ledger) Statements(ctx context.Context, q odometer.StatementQuery) ([]odometer.StatementInfo, error) {
	where, args := `WHERE 1`, []any{}
	if q.Month != 0 {
		where, args = where+` AND month = ?`, append(args, int64(q.Month))
	}
	if q.Org != "" {
		where, args = where+` AND org = ?`, append(args, string(q.Org))
	}
	rows, err := l.read.QueryContext(ctx, `SELECT id, month, org, at_us, actor, cause, hash, lines, missing FROM statements `+where+` ORDER BY month DESC, org`, args...)
	if err != nil {
		return nil, fmt.Errorf("list statements: %w", err)
	}
	defer rows.Close()
	list := []odometer.StatementInfo{}
	behind := q.After == "" // one that is not seen is as one that there is not
	for rows.Next() && (q.Limit == 0 || len(list) < q.Limit) {
		var i odometer.StatementInfo
		if err := rows.Scan(&i.ID, (*int64)(&i.Month), &i.Org, &i.At, &i.Actor, &i.Cause, &i.Hash, &i.Lines, &i.Missing); err != nil {
			return nil, fmt.Errorf("list statements: %w", err)
		}
		if !q.View.SeesStatement(i.Org) {
			continue
		}
		if behind {
			list = append(list, i)
		}
		behind = behind || i.ID == q.After
	}
	return list, rows.Err()
}

// Statement returns a statement and its text. One that the view does not see is
// answered as one that there is not: the error wraps [odometer.ErrNotFound].
func (l *Ledger) Statement(ctx context.Context, seen odometer.View, id string) (s *odometer.Statement, text []byte, err error) {
	var org odometer.OrgID
	err = l.read.QueryRowContext(ctx, `SELECT org, body FROM statements WHERE id = ?`, id).Scan(&org, &text)
	if errors.Is(err, sql.ErrNoRows) || err == nil && !seen.SeesStatement(org) {
		err = odometer.ErrNotFound
	}
	if err == nil {
		s, err = odometer.ParseStatement(text)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("statement %s: %w", id, err)
	}
	return s, text, nil
}

// ClosedMonths returns the months that are closed for anybody whom the view sees, the
// newest first.
func (l *Ledger) ClosedMonths(ctx context.Context, seen odometer.View) ([]odometer.ClosedMonth, error) {
	statements, err := l.Statements(ctx, odometer.StatementQuery{View: seen})
	if err != nil {
		return nil, err
	}
	count := map[odometer.Month]int{}
	for i := range statements {
		count[statements[i].Month]++
	}
	rows, err := l.read.QueryContext(ctx, `SELECT month, everybody, org, at_us FROM closes WHERE partition = 0 ORDER BY month DESC, everybody DESC, org`)
	if err != nil {
		return nil, fmt.Errorf("list closed months: %w", err)
	}
	defer rows.Close()
	list := []odometer.ClosedMonth{}
	for rows.Next() {
		var m odometer.ClosedMonth
		var org odometer.OrgID
		if err := rows.Scan((*int64)(&m.Month), &m.Everybody, &org, &m.At); err != nil {
			return nil, fmt.Errorf("list closed months: %w", err)
		}
		m.Statements = count[m.Month]
		if !m.Everybody && !seen.SeesStatement(org) {
			continue
		}
		n := len(list)
		if n == 0 || list[n-1].Month != m.Month {
			list, n = append(list, m), n+1
		}
		last := &list[n-1]
		last.At = max(last.At, m.At)
		if !m.Everybody {
			last.Orgs = append(last.Orgs, org)
		}
	}
	return list, rows.Err()
}

// adjustment is a row of the table adjustments.
type adjustment struct {
	month, booked odometer.Month
	instance      odometer.InstanceID
	owner         odometer.Owner
	sums          odometer.Usage
	recovered     int64
}

// eachAdjustment calls do for the adjustments that match.
func eachAdjustment(ctx context.Context, db queryer, where string, do func(*adjustment), args ...any) error {
	rows, err := db.QueryContext(ctx, `SELECT month, booked, instance, usr, org, sums, recovered_us FROM adjustments WHERE `+where, args...)
	if err != nil {
		return fmt.Errorf("adjustments: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var a adjustment
		var blob sql.RawBytes
		err := rows.Scan((*int64)(&a.month), (*int64)(&a.booked), &a.instance, &a.owner.User, &a.owner.Org, &blob, &a.recovered)
		if err == nil {
			a.sums, _, err = odometer.CutUsage(blob)
		}
		if err != nil {
			return fmt.Errorf("adjustments: %w", err)
		}
		do(&a)
	}
	return rows.Err()
}

// markAdjustments says of each entry which closed months it adjusts.
func markAdjustments(ctx context.Context, db queryer, entries []odometer.Entry) error {
	var last sql.NullInt64 // every partition knows which months are closed
	if err := db.QueryRowContext(ctx, `SELECT max(month) FROM closes WHERE partition = 0`).Scan(&last); err != nil || !last.Valid {
		return err
	}
	late := map[odometer.EntryID]*odometer.Entry{}
	within := map[int][2]uint64{} // by partition, the numbers of those that may
	for i := range entries {
		e := &entries[i]
		if e.Event.Span.Start < odometer.Month(last.Int64).End() {
			late[e.ID] = e
			if w, ok := within[e.ID.Partition]; ok {
				within[e.ID.Partition] = [2]uint64{min(w[0], e.ID.Number), max(w[1], e.ID.Number)}
			} else {
				within[e.ID.Partition] = [2]uint64{e.ID.Number, e.ID.Number}
			}
		}
	}
	for p, w := range within {
		rows, err := db.QueryContext(ctx, `SELECT entry, month FROM adjustments WHERE partition = ? AND entry BETWEEN ? AND ? ORDER BY entry, month`, p, int64(w[0]), int64(w[1]))
		if err != nil {
			return fmt.Errorf("adjustments: %w", err)
		}
		for rows.Next() {
			id, month := odometer.EntryID{Partition: p}, int64(0)
			if err := rows.Scan(&id.Number, &month); err != nil {
				rows.Close()
				return fmt.Errorf("adjustments: %w", err)
			}
			if e := late[id]; e != nil {
				e.Adjusts = append(e.Adjusts, odometer.Month(month))
			}
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("adjustments: %w", err)
		}
	}
	return nil
}

// revision is what a question about usage takes away of what is known now.
type revision struct {
	less  bool                                  // what is met is taken away
	hours bool                                  // and is of whole hours
	later map[*odometer.UsageRow]odometer.Known // what is known of what was taken away
}

// revisable refuses what is not asked for by month of booking.
func (u *usageQuery) revisable() error {
	if !u.Booked {
		return nil
	}
	for _, at := range [...]int64{u.From, u.To} {
		if odometer.MonthOf(at).Start() != at {
			return fmt.Errorf("by month of booking usage is asked for by whole months, and %s is no edge of one (UTC): %w",
				time.UnixMicro(at).UTC().Format(time.RFC3339), odometer.ErrInvalid)
		}
	}
	if u.by[odometer.ByHour] || u.by[odometer.ByDay] {
		return fmt.Errorf("by month of booking there are no hours and days: %w", odometer.ErrInvalid)
	}
	if u.Zone != nil {
		return fmt.Errorf("by month of booking months are those of UTC, and not of %s: %w", u.Zone, odometer.ErrInvalid)
	}
	if u.AsOf != 0 {
		return fmt.Errorf("usage is asked for by month of booking or as of a moment, not both: %w", odometer.ErrInvalid)
	}
	return nil
}

// revise turns what was used into what was booked in the same months, or leaves out
// what was booked after the moment that is asked for.
func (u *usageQuery) revise() error {
	switch {
	case u.Booked:
		return u.booked()
	case u.AsOf != 0:
		return u.asOf()
	}
	return nil
}

// settle says what is not known any more of that from which something was taken away,
// and leaves out what is nothing.
func (u *usageQuery) settle() {
	for row, known := range u.later {
		for q := range row.Totals {
			if row.Totals[q].IsZero() && known.Has(odometer.Quantity(q)) { // whether what is left knew it cannot be told any more
				row.Known &^= 1 << q
			}
		}
	}
	maps.DeleteFunc(u.rows, func(_ rowKey, row *odometer.UsageRow) bool {
		_, taken := u.later[row]
		return taken && row.Totals == [odometer.Quantities]odometer.Sum{} && row.Recovered.IsZero()
	})
}

// take takes away from a row what was added.
func (u *usageQuery) take(row *odometer.UsageRow, sums *odometer.Usage, recovered int64) {
	for q, n := range sums.Vector {
		row.Totals[q].SubSum(odometer.SumOf(n))
	}
	row.Recovered.SubSum(odometer.SumOf(recovered))
	u.later[row] |= sums.Known
}

// booked moves what adjusts closed months out of these, and into those in which it
// was booked.
func (u *usageQuery) booked() error {
	from, to := u.From, u.To
	within := func(m odometer.Month) bool { return from <= m.Start() && m.Start() < to }
	return eachAdjustment(u.ctx, u.tx, `month >= ?1 AND month < ?2 OR booked >= ?1 AND booked < ?2`, func(a *adjustment) {
		if within(a.month) {
			u.less = true
			u.add(a.instance, a.owner, a.month.Start(), &a.sums, a.recovered)
			u.less = false
		}
		if within(a.booked) {
			u.add(a.instance, a.owner, a.booked.Start(), &a.sums, a.recovered)
		}
	}, from, to)
}

// asOf takes away what was booked after u.AsOf, which the journal must still have:
// where run added it, which is by whole hours within the reach of the answer, so that
// an hour that the calendar cuts is shared as it was then.
func (u *usageQuery) asOf() error {
	if u.AsOf < u.gone.at {
		return fmt.Errorf("the journal up to %s was pruned, and what the ledger knew before cannot be told any more: ask for what it knew then or later: %w",
			time.UnixMicro(u.gone.at).UTC().Format(time.RFC3339Nano), odometer.ErrInvalid)
	}
	partitions, err := u.partitions()
	if err != nil || partitions == "" {
		return err
	}
	u.less = true
	r := u.reach
	if r.whole >= r.end {
		err = u.takeLater(partitions, r.from, r.to)
	} else {
		err = cmp.Or(u.takeLater(partitions, r.from, r.whole), u.takeLater(partitions, r.end, r.to))
		if u.hours = true; err == nil {
			err = u.takeLater(partitions, r.whole, r.end)
		}
	}
	u.less, u.hours = false, false
	return err
}

// takeLater takes away what was booked after u.AsOf for the time [from, to).
func (u *usageQuery) takeLater(partitions string, from, to int64) error {
	if from >= to {
		return nil
	}
	in := `WHERE partition` + ofList + ` AND max_us > ? AND min_us < ? AND entries > 0 AND at_us > ? AND `
	err := u.cutRecords(from, to, in+shortRecords+` AND max_us < ?`, partitions, from, to, u.AsOf, min(to, math.MaxInt64-longRecord-1)+longRecord+1)
	if err != nil {
		return err
	}
	return u.cutRecords(from, to, in+longRecords, partitions, from, to, u.AsOf)
}

// place returns the slot of a moment at which an entry is cut.
func (u *usageQuery) place(us int64) slot {
	if u.hours {
		return u.at(odometer.Hour(us))
	}
	return u.exactly(us)
}

// nextCut returns where an entry is cut next after a moment.
func (u *usageQuery) nextCut(us int64) int64 {
	if u.hours {
		return odometer.Hour(us) + odometer.HourMicros
	}
	return u.nextEdge(us)
}
