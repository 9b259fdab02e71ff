package ledger

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"example.org/odometer"
)

// What is too much for one answer is read some of it at a time, so that it takes as
// much memory as a page, however long it is.

const (
	// rowsAtOnce is about how many rows of usage are held: some two megabytes.
	rowsAtOnce = 4096
	// exportsAtOnce is how many answers are read from one commit each at a time.
	// Each has one of the ledger's connections for as long as its reader takes, and
	// keeps what is written meanwhile from being checkpointed.
	exportsAtOnce = 2
	// entriesAtOnce is how many entries are read in one transaction.
	entriesAtOnce = 500
	// revisedMost is how many rows an answer as of a moment or by month of booking may
	// have, which is held as a whole: a hundred megabytes of them.
	revisedMost = 250_000
	// instancesAtOnce is how many ids of instances are held.
	instancesAtOnce = 4096
)

// EachUsage calls each for every row of the answer to q, all from one commit, and
// ends with the first error. Rows by instance come in the order of the instances,
// and of time within each; others as [Ledger.Usage] has them. A row holds until each
// returns. The error wraps [odometer.ErrUnavailable] where too many do so already, and
// [odometer.ErrTooManyRows] where q.Most or q.AsOf and q.Booked bound the answer.
func (l *Ledger) EachUsage(ctx context.Context, q odometer.UsageQuery, each func(*odometer.UsageRow) error) error {
	if q.From >= q.To || q.Top != 0 {
		rows, err := l.Usage(ctx, q)
		return cmp.Or(err, eachOf(rows, each))
	}
	select {
	case l.exports <- struct{}{}:
		defer func() { <-l.exports }()
	default:
		return fmt.Errorf("%d exports are being read already, which is as many as may be at once: %w", exportsAtOnce, odometer.ErrUnavailable)
	}
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return fmt.Errorf("usage: %w", err)
	}
	defer tx.end(context.WithoutCancel(ctx))
	x := &usageExport{ctx, tx, q, each}
	if q.Booked || q.AsOf != 0 {
		return x.revised()
	}
	x.q.Most = 0
	if slices.Contains(q.GroupBy, odometer.ByInstance) {
		return x.byInstance()
	}
	return x.byTime()
}

func eachOf(rows []odometer.UsageRow, each func(*odometer.UsageRow) error) error {
	for i := range rows {
		if err := each(&rows[i]); err != nil {
			return err
		}
	}
	return nil
}

// usageExport answers one question piece by piece, in one transaction.
type usageExport struct {
	ctx  context.Context
	tx   queryer
	q    odometer.UsageQuery
	each func(*odometer.UsageRow) error
}

// of returns the question's part of a time, answered.
func (x *usageExport) of(from, to int64, prepare func(*usageQuery)) (*usageQuery, error) {
	q := x.q
	q.From, q.To = from, to
	u := newUsageQuery(x.ctx, x.tx, q)
	if prepare != nil {
		prepare(u)
	}
	if err := u.answer(); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	return u, nil
}

// revised answers at once. What was booked after a moment is found by going through
// the journal, and adjustments by going through all of a month, so that to do so for
// some instances after others would take as often as long.
func (x *usageExport) revised() error {
	x.q.Most = cmp.Or(x.q.Most, revisedMost)
	u, err := x.of(x.q.From, x.q.To, nil)
	if err != nil {
		return err
	}
	rows := u.result()
	if u.full {
		return fmt.Errorf("usage: %w: as of a moment, or by month of booking, they are more than %d", odometer.ErrTooManyRows, x.q.Most)
	}
	if slices.Contains(x.q.GroupBy, odometer.ByInstance) {
		slices.SortFunc(rows, compareInstances)
	}
	return eachOf(rows, x.each)
}

// byTime goes through the rows of owners: by the hour those of a day at a time, by
// the day those of a month. What lies before and after all that is packed is little.
func (x *usageExport) byTime() error {
	next := func(int64) int64 { return x.q.To }
	switch {
	case slices.Contains(x.q.GroupBy, odometer.ByHour):
		next = func(at int64) int64 { return dayOf(at) + odometer.DayMicros }
	case slices.Contains(x.q.GroupBy, odometer.ByDay):
		months := odometer.Calendar{By: odometer.ByMonth, Zone: x.q.Zone}
		next = func(at int64) int64 { return months.Next(months.Start(at)) }
	}
	var first, last int64
	err := x.tx.QueryRowContext(x.ctx, `SELECT (SELECT coalesce(min(day), 0) FROM days), (SELECT coalesce(max(day), 0) FROM days)`).Scan(&first, &last)
	if err != nil {
		return fmt.Errorf("usage: %w", err)
	}
	for from := x.q.From; from < x.q.To; {
		to := x.q.To
		if from <= last {
			to = min(to, next(max(from, first)))
		}
		u, err := x.of(from, to, nil)
		if err == nil {
			err = eachOf(u.result(), x.each)
		}
		if err != nil {
			return err
		}
		from = to
	}
	return nil
}

// byInstance goes through the instances, some at a time. The pieces of hours at the
// ends, for which the journal is read, are answered once, for all of them.
func (x *usageExport) byInstance() error {
	whole, end := ceilHour(x.q.From), odometer.Hour(x.q.To)
	if whole >= end {
		whole, end = x.q.To, x.q.To
	}
	var edges []odometer.UsageRow
	for _, s := range []stretch{{x.q.From, whole}, {end, x.q.To}} {
		if s.from < s.to {
			u, err := x.of(s.from, s.to, nil)
			if err != nil {
				return err
			}
			edges = append(edges, u.result()...)
		}
	}
	slices.SortFunc(edges, compareInstances)
	from, args := newUsageQuery(x.ctx, x.tx, x.q).ofInstances()
	for after := odometer.InstanceID(""); ; {
		ids, err := instanceIDs(x.ctx, x.tx, `SELECT DISTINCT instance FROM `+from+` WHERE instance > ? ORDER BY instance LIMIT ?`, append(args, string(after), instancesAtOnce)...)
		if err != nil {
			return err
		}
		for some := range slices.Chunk(ids, x.atOnce(whole, end)) {
			n, _ := slices.BinarySearchFunc(edges, some[len(some)-1], func(r odometer.UsageRow, last odometer.InstanceID) int {
				return cmp.Or(cmp.Compare(r.Instance, last), -1)
			})
			if err := x.instances(some, whole, end, edges[:n]); err != nil {
				return err
			}
			edges = edges[n:]
		}
		if len(ids) < instancesAtOnce {
			return nil
		}
		after = ids[len(ids)-1]
	}
}

// atOnce returns of how many instances the rows are held, which have a row of each
// hour, day or month at most, and mostly one owner.
func (x *usageExport) atOnce(from, to int64) int {
	rows := int64(1)
	for _, by := range x.q.GroupBy {
		switch by {
		case odometer.ByHour:
			rows = (to-from)/odometer.HourMicros + 2
		case odometer.ByDay:
			rows = (to-from)/odometer.DayMicros + 2
		case odometer.ByMonth:
			rows = (to-from)/(28*odometer.DayMicros) + 2
		}
	}
	return int(max(1, rowsAtOnce/rows))
}

// instances answers for some, in whole hours and with the rows of the ends.
func (x *usageExport) instances(ids []odometer.InstanceID, from, to int64, edges []odometer.UsageRow) error {
	rows := edges
	if from < to {
		names, err := json.Marshal(ids)
		if err != nil {
			return err
		}
		u, err := x.of(from, to, func(u *usageQuery) {
			u.epochs, u.args, u.within = epochsOfList, []any{string(names)}, ids
		})
		if err != nil {
			return err
		}
		rows = append(u.result(), edges...)
	}
	slices.SortStableFunc(rows, compareInstances)
	for i := 0; i < len(rows); {
		row := rows[i]
		for i++; i < len(rows) && compareInstances(row, rows[i]) == 0; i++ { // the same of another part of the time
			for q, n := range rows[i].Totals {
				row.Totals[q].AddSum(n)
			}
			row.Recovered.AddSum(rows[i].Recovered)
			row.Known |= rows[i].Known
			row.Apportioned = row.Apportioned || rows[i].Apportioned
		}
		if err := x.each(&row); err != nil {
			return err
		}
	}
	return nil
}

func compareInstances(a, b odometer.UsageRow) int {
	return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Start, b.Start), cmp.Compare(a.Org, b.Org), cmp.Compare(a.User, b.User))
}

func instanceIDs(ctx context.Context, tx queryer, query string, args ...any) (ids []odometer.InstanceID, err error) {
	rows, err := tx.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list instances: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id odometer.InstanceID
		if err := rows.Scan(&id); err != nil {
			return nil, fmt.Errorf("list instances: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, rows.Err()
}

// End returns the cursor after everything that is booked.
func (l *Ledger) End(ctx context.Context) (string, error) {
	at, err := endOf(ctx, l.read)
	return at.cursor(l.gen), err
}

func endOf(ctx context.Context, db queryer) (s spot, err error) {
	if err := db.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) + 1 FROM journal`).Scan(&s.id); err != nil {
		return s, fmt.Errorf("find the journal's end: %w", err)
	}
	return s, nil
}

// EachEntry calls each for every entry that q asks for, in the order in which they
// were booked, and ends with the first error: for those of before the cursor
// q.Before, "" for what is booked now, without a limit. It reads them some at a time,
// so that whoever takes long with them holds nothing up. The error wraps
// [odometer.ErrConflict] where records were pruned meanwhile.
func (l *Ledger) EachEntry(ctx context.Context, q odometer.EntryQuery, each func(*odometer.Entry) error) error {
	x := entryExport{q: q}
	var err error
	if x.from, err = l.place(ctx, q.After); err != nil {
		return err
	}
	if x.end, err = l.place(ctx, q.Before); err == nil && q.Before == "" {
		x.end, err = endOf(ctx, l.read)
	}
	for err == nil && x.from.compare(x.end) < 0 {
		if err = x.read(ctx, l); err != nil {
			return fmt.Errorf("entries: %w", err)
		}
		for i := range x.list {
			if err := each(&x.list[i]); err != nil {
				return err
			}
		}
	}
	return err
}

// entryExport is how far the reading of entries has come.
type entryExport struct {
	q         odometer.EntryQuery
	from, end spot
	at        *places // of their records; nil before the first
	gone      int64   // records that were pruned then
	list      []odometer.Entry
}

// read reads the next entries, in a transaction of its own.
func (x *entryExport) read(ctx context.Context, l *Ledger) error {
	x.list = x.list[:0]
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return err
	}
	defer tx.end(ctx)
	var gone int64
	if err := tx.QueryRowContext(ctx, `SELECT coalesce(sum(position), 0) FROM heads`).Scan(&gone); err != nil {
		return err
	}
	switch {
	case x.at == nil:
		at, err := placesOf(ctx, tx, &x.q, x.from.id, x.end.id)
		if err != nil {
			return err
		}
		x.at, x.gone = &at, gone
	case gone != x.gone:
		return fmt.Errorf("the journal was pruned while it was read: %w", odometer.ErrConflict)
	}
	looked := 0
	for r, err := range x.at.records(ctx, tx, &x.q, x.from, x.end.id) {
		if err != nil {
			return err
		}
		booked, err := r.booked()
		if err != nil {
			return err
		}
		for i := range booked {
			if after := (spot{r.id, i + 1}); after.compare(x.from) > 0 && after.compare(x.end) <= 0 && x.q.Wants(&booked[i]) {
				x.list = append(x.list, booked[i])
			}
		}
		x.from = spot{id: r.id + 1} // what a record booked is held as a whole
		if looked++; len(x.list) >= entriesAtOnce || looked >= entriesAtOnce {
			return markAdjustments(ctx, tx, x.list)
		}
	}
	x.from = x.end
	return markAdjustments(ctx, tx, x.list)
}
