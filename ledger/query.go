package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.org/odometer"
)

// Usage answers q from the last commit. Whole days come from the packed months
// (days.go) unless q asks for hours, whole hours beside them from the packed
// days, from pieces that are not compacted yet, and from the open hours. Where
// From or To cuts an hour, the entries of that hour are read from the journal
// and cut there, so that answers over adjoining times add up to the answer over
// both, to the unit. Hours that the edge of a zone's day cuts are another
// matter: see zone.go.
//
// What is asked without instances is answered from what is summed for each
// owner; what is asked of one instance or owner is looked up and never
// searched for. The cost does not grow with the history before and after.
func (l *Ledger) Usage(ctx context.Context, q odometer.UsageQuery) ([]odometer.UsageRow, error) {
	if q.From >= q.To {
		return nil, fmt.Errorf("usage from %d to %d: the end must be later: %w", q.From, q.To, odometer.ErrInvalid)
	}
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	defer tx.end(ctx)
	u := newUsageQuery(ctx, tx, q)
	if err := u.answer(); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	list := u.result()
	if u.full {
		return nil, fmt.Errorf("usage: %w: they are more than %d", odometer.ErrTooManyRows, q.Most)
	}
	return list, nil
}

type usageQuery struct {
	odometer.UsageQuery
	ctx     context.Context
	tx      queryer
	by      map[odometer.GroupBy]bool
	epochs  string         // the epochs that are asked for, as a table; "" for all
	args    []any          // of epochs
	epoch   odometer.Epoch // the only one; "" for all of epochs
	rows    map[rowKey]*odometer.UsageRow
	lastKey rowKey
	lastRow *odometer.UsageRow
	room    []odometer.UsageRow // for rows to come
	gone    pruned              // what the journal no longer has
	granted granted             // what is asked for beside what the view's own is; nil for that
	// within are the only instances of which what is granted is asked for, in order; nil for all.
	within []odometer.InstanceID
	full   bool // there are more rows than may be

	calendar odometer.Calendar
	places   map[int64]slot // of hours and days; nil for UTC's
	wholes   map[int64]bool // of days, beside places: whether they are cut
	reach
	revision
}

// reach is the time of an answer, with its whole hours; those of [from, to) outside of
// [whole, end) are cut as entries say.
type reach struct{ from, to, whole, end int64 }

// rowKey is what usage is grouped by. What lies in an hour that an edge of the
// calendar cuts is gathered by itself, under the hour, and shared in the end.
type rowKey struct {
	instance odometer.InstanceID
	owner    odometer.Owner
	start    int64
	cut      bool
}

func newUsageQuery(ctx context.Context, tx queryer, q odometer.UsageQuery) *usageQuery {
	u := &usageQuery{UsageQuery: q, ctx: ctx, tx: tx, by: map[odometer.GroupBy]bool{}, rows: map[rowKey]*odometer.UsageRow{},
		calendar: odometer.CalendarOf(q.GroupBy, q.Zone)}
	if q.Booked || q.AsOf != 0 {
		u.later = map[*odometer.UsageRow]odometer.Known{}
	}
	if q.Zone != nil {
		u.places, u.wholes = map[int64]slot{}, map[int64]bool{}
	}
	for _, by := range q.GroupBy {
		u.by[by] = true
	}
	cond, args := u.ofOwner("o")
	switch {
	case q.Instance != "":
		u.epochs = `(SELECT partition, epoch_no, instance FROM epochs WHERE instance = ?)`
		u.args = []any{string(q.Instance)}
	case len(args) > 0:
		u.epochs = `(SELECT e.partition, e.epoch_no, e.instance FROM owner_epochs o CROSS JOIN epochs e
			ON e.partition = o.partition AND e.epoch_no = o.epoch_no WHERE 1` + cond + `
			UNION SELECT e.partition, e.epoch_no, e.instance FROM owners_known k CROSS JOIN epochs e
			ON e.partition = k.partition AND e.epoch_no > k.epoch_no)`
		u.args = args
	}
	return u
}

// ofOwner returns the condition and arguments that narrow a table to the owner
// that is asked for.
func (u *usageQuery) ofOwner(table string) (cond string, args []any) {
	if u.User != "" {
		cond += ` AND ` + table + `.usr = ?`
		args = append(args, string(u.User))
	}
	if u.Org != "" {
		cond += ` AND ` + table + `.org = ?`
		args = append(args, string(u.Org))
	}
	if u.View != nil && !u.View.All() && u.granted == nil {
		seen, orgs := seenBy(u.View, table)
		cond, args = cond+` AND `+seen, append(args, string(u.View.User()), orgs)
	}
	return cond, args
}

// seenBy returns the condition that a view sees the owners of a table, with its
// second argument; the first is the view's user. Nobody owns as "" or for "".
func seenBy(v *odometer.View, table string) (cond, orgs string) {
	orgs = `[]`
	if list := v.Orgs(); len(list) > 0 {
		b, _ := json.Marshal(list) // strings always encode
		orgs = string(b)
	}
	return `(` + table + `.usr = ? OR ` + table + `.org` + ofList + `)`, orgs
}

// answer gathers all that is asked for.
func (u *usageQuery) answer() error {
	if err := u.revisable(); err != nil {
		return err
	}
	if err := u.run(); err != nil {
		return err
	}
	if err := u.revise(); err != nil {
		return err
	}
	if err := u.runGranted(); err != nil {
		return err
	}
	u.settle()
	return nil
}

// run adds what was used, as it is known now.
func (u *usageQuery) run() error {
	from, to := u.From, u.To
	var err error
	if u.gone, err = prunedOf(u.ctx, u.tx); err != nil {
		return err
	}
	whole, end := ceilHour(from), odometer.Hour(to)
	if u.midnight(from) {
		whole = odometer.Hour(from)
	}
	switch {
	case u.midnight(to):
		end = ceilHour(to)
	case end != to && u.at(end).edges == nil:
		last, err := u.last()
		if err != nil {
			return err
		}
		if to >= max(last, u.gone.maxUS) { // beyond all usage, an edge inside an hour cuts nothing
			to = ceilHour(to)
			end = to
		}
	}
	u.reach = reach{from, to, whole, end}
	if whole >= end { // within an hour or two
		return u.cut(from, to, whole, end)
	}
	for _, part := range []func(from, to int64) error{u.compacted, u.pieces, u.open} {
		if err := part(whole, end); err != nil {
			return err
		}
	}
	return u.cut(from, to, whole, end)
}

// row returns the row to which what owner used of instance at a place in time
// belongs, nil where it was not asked for.
func (u *usageQuery) row(instance odometer.InstanceID, owner odometer.Owner, at slot) *odometer.UsageRow {
	if u.User != "" && owner.User != u.User || u.Org != "" && owner.Org != u.Org || u.Instance != "" && instance != u.Instance || !u.sees(instance, owner) {
		return nil
	}
	k := rowKey{start: at.start, cut: at.edges != nil}
	if u.by[odometer.ByInstance] {
		k.instance = instance
	}
	if u.by[odometer.ByUser] {
		k.owner.User = owner.User
	}
	if u.by[odometer.ByOrg] {
		k.owner.Org = owner.Org
	}
	if u.lastRow != nil && k == u.lastKey {
		return u.lastRow
	}
	row := u.rows[k]
	if row == nil {
		if u.full = u.full || u.Most != 0 && len(u.rows) >= u.Most; u.full {
			return nil
		}
		if len(u.room) == 0 {
			u.room = make([]odometer.UsageRow, min(len(u.rows)+1, 256))
		}
		row, u.room = &u.room[0], u.room[1:]
		row.Instance, row.User, row.Org, row.Start = k.instance, k.owner.User, k.owner.Org, k.start
		u.rows[k] = row
	}
	u.lastKey, u.lastRow = k, row
	return row
}

// add adds what owner used of instance in the hour or on the day that starts
// at start.
func (u *usageQuery) add(instance odometer.InstanceID, owner odometer.Owner, start int64, sums *odometer.Usage, recovered int64) {
	u.addAt(u.at(start), instance, owner, sums, recovered)
}

func (u *usageQuery) addAt(at slot, instance odometer.InstanceID, owner odometer.Owner, sums *odometer.Usage, recovered int64) {
	row := u.row(instance, owner, at)
	if row == nil {
		return
	}
	if u.less {
		u.take(row, sums, recovered)
		return
	}
	for i, n := range sums.Vector {
		row.Totals[i].Add(n)
	}
	row.Recovered.Add(recovered)
	row.Known |= sums.Known
}

// addAmount adds what owner used of all instances together.
func (u *usageQuery) addAmount(owner odometer.Owner, start int64, a *amount) {
	row := u.row("", owner, u.at(start))
	if row == nil {
		return
	}
	for i, n := range a.totals {
		row.Totals[i].AddSum(n)
	}
	row.Recovered.AddSum(a.recovered)
	row.Known |= a.known
}

// compacted adds what is compacted of the whole hours [from, to): from months
// where it covers whole days and hours were not asked for.
func (u *usageQuery) compacted(from, to int64) error {
	first, end := dayOf(from+odometer.DayMicros-1), dayOf(to)
	if u.by[odometer.ByHour] || first >= end {
		return u.packed(daysOfHours, from, to)
	}
	if err := u.packed(daysOfHours, from, first); err != nil {
		return err
	}
	months := monthsOfDays
	if u.places != nil { // a day that the calendar cuts is put together from its hours
		hours := daysOfHours
		hours.of = func(hour int64) bool { return !u.whole(dayOf(hour)) }
		if err := u.packed(hours, first, end); err != nil {
			return err
		}
		months.of = u.whole
	}
	if err := u.packed(months, first, end); err != nil {
		return err
	}
	return u.packed(daysOfHours, end, to)
}

// level is one of the packed tables; a row starts at column time and has parts
// of a length in column packed. Of says which of the parts are wanted; nil for all.
type level struct {
	table, time, packed string
	length              int64
	of                  func(start int64) bool
}

var (
	daysOfHours  = level{"days", "day", "hours", odometer.HourMicros, nil}
	monthsOfDays = level{"months", "month", "days", odometer.DayMicros, nil}
)

// wants reports whether a part that starts at start is, of those in [from, to).
func (v *level) wants(start, from, to int64) bool {
	return start >= from && start < to && (v.of == nil || v.of(start))
}

// starts returns, as a JSON array, the rows' times that there are and that
// overlap [from, to); "" for none.
func (u *usageQuery) starts(v level, from, to int64) (string, error) {
	var first, last sql.NullInt64
	if err := u.tx.QueryRowContext(u.ctx, `SELECT (SELECT min(`+v.time+`) FROM `+v.table+`), (SELECT max(`+v.time+`) FROM `+v.table+`)`).Scan(&first, &last); err != nil {
		return "", err
	}
	next := func(at int64) int64 { return at + odometer.DayMicros }
	begin := dayOf
	if v.time == "month" {
		next = monthAfter
		begin = func(at int64) int64 { m, _ := monthOf(dayOf(at)); return m }
	}
	if !first.Valid {
		return "", nil
	}
	var list []string
	for at := begin(max(from, first.Int64)); at < to && at <= last.Int64; at = next(at) {
		if v.time == "month" || v.of == nil || v.of(at) {
			list = append(list, strconv.FormatInt(at, 10))
		}
	}
	return jsonArray(list), nil
}

// jsonArray is how a statement is given a list; "" for none.
func jsonArray(numbers []string) string {
	if len(numbers) == 0 {
		return ""
	}
	return "[" + strings.Join(numbers, ",") + "]"
}

// ofList is the condition that what stands before it is in a list.
const ofList = ` IN (SELECT value FROM json_each(?))`

// packed adds the parts of a packed table that lie in [from, to).
func (u *usageQuery) packed(v level, from, to int64) error {
	if from >= to {
		return nil
	}
	ofOwners := u.Instance == "" && !u.by[odometer.ByInstance] && u.granted == nil
	if ofOwners {
		v.table = "owner_" + v.table
	}
	starts, err := u.starts(v, from, to)
	if err != nil || starts == "" {
		return err
	}
	if ofOwners {
		return u.packedOfOwners(v, starts, from, to)
	}
	cond, args := u.ofOwner("p")
	query := `SELECT p.` + v.time + `, e.instance, p.usr, p.org, p.` + v.packed + ` FROM `
	if u.epochs != "" {
		query += u.epochs + ` e CROSS JOIN ` + v.table + ` p ON p.partition = e.partition AND p.epoch_no = e.epoch_no`
		args = slices.Concat(u.args, []any{starts}, args)
	} else {
		args = append([]any{starts}, args...)
		query += v.table + ` p JOIN epochs e ON e.partition = p.partition AND e.epoch_no = p.epoch_no`
	}
	rows, err := u.tx.QueryContext(u.ctx, query+` WHERE p.`+v.time+ofList+cond, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() && !u.full {
		var at int64
		var instance odometer.InstanceID
		var owner odometer.Owner
		var blob sql.RawBytes
		if err := rows.Scan(&at, &instance, &owner.User, &owner.Org, &blob); err != nil {
			return err
		}
		err := cutParts(blob, func(n int, p *part) error {
			if start := at + int64(n)*v.length; v.wants(start, from, to) {
				u.add(instance, owner, start, &p.sums, p.recovered)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return rows.Err()
}

func (u *usageQuery) packedOfOwners(v level, starts string, from, to int64) error {
	cond, args := u.ofOwner("p")
	rows, err := u.tx.QueryContext(u.ctx, `SELECT p.`+v.time+`, p.usr, p.org, p.`+v.packed+` FROM `+v.table+` p
		WHERE p.`+v.time+ofList+cond, append([]any{starts}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() && !u.full {
		var at int64
		var owner odometer.Owner
		var blob sql.RawBytes
		if err := rows.Scan(&at, &owner.User, &owner.Org, &blob); err != nil {
			return err
		}
		err := cutAmounts(blob, func(n int, a *amount) error {
			if start := at + int64(n)*v.length; v.wants(start, from, to) {
				u.addAmount(owner, start, a)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return rows.Err()
}

// pieces adds the sealed pieces of [from, to) that are not compacted yet.
func (u *usageQuery) pieces(from, to int64) error {
	cond, args := u.ofOwner("h")
	if u.epochs == "" {
		return u.each(`SELECT h.hour, e.instance, h.usr, h.org, h.sums, h.recovered_us FROM hours h
			JOIN epochs e ON e.partition = h.partition AND e.epoch_no = h.epoch_no WHERE h.hour >= ? AND h.hour < ?`+cond, append([]any{from, to}, args...))
	}
	// Few hours have pieces: each is looked at for each epoch.
	return u.each(`WITH RECURSIVE t (hour) AS (SELECT min(hour) FROM hours WHERE hour >= ?
			UNION ALL SELECT (SELECT min(hour) FROM hours WHERE hour > t.hour AND hour < ?) FROM t WHERE t.hour IS NOT NULL)
		SELECT h.hour, e.instance, h.usr, h.org, h.sums, h.recovered_us FROM t CROSS JOIN `+u.epochs+` e CROSS JOIN hours h
			ON h.hour = t.hour AND h.partition = e.partition AND h.epoch_no = e.epoch_no WHERE t.hour < ?`+cond,
		slices.Concat([]any{from, to}, u.args, []any{to}, args))
}

// open adds the open hours within [from, to). A row of the table state is read
// once, for all of its epochs; whose they are, row tells.
func (u *usageQuery) open(from, to int64) error {
	if first, err := openFrom(u.ctx, u.tx); err != nil || to <= first {
		return err
	}
	instances, err := u.instances(to)
	if err != nil {
		return err
	}
	query := `SELECT id, body FROM state WHERE open_hour <> 0 AND open_hour < ?`
	if u.epochs != "" {
		query += ` AND id IN (SELECT (partition << 37) + (epoch_no >> 3) FROM ` + u.epochs + `)` // see stateID
	}
	rows, err := u.tx.QueryContext(u.ctx, query, append([]any{to}, u.args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() && !u.full {
		var id int64
		var body sql.RawBytes
		if err := rows.Scan(&id, &body); err != nil {
			return err
		}
		partition, first := firstOf(id)
		states, err := splitRow(body)
		for i := 0; i < len(states) && err == nil; i++ {
			instance, asked := instances[epochNumber{partition, first + int64(i)}]
			if states[i] == nil || !asked && instances != nil {
				continue
			}
			var e epoch
			err = e.cutState(states[i])
			if o := &e.open; err == nil && o.sums != (odometer.Usage{}) && o.hour >= from && o.hour < to {
				u.add(instance, o.owner, o.hour, &o.sums, o.recovered)
			}
		}
		if err != nil {
			return fmt.Errorf("state of epochs from %d on of partition %d: %w", first, partition, err)
		}
	}
	return rows.Err()
}

// instances returns of which instance the epochs are that are asked for and may
// have an hour open before to; nil where nobody asks.
func (u *usageQuery) instances(to int64) (map[epochNumber]odometer.InstanceID, error) {
	if u.Instance == "" && !u.by[odometer.ByInstance] && u.granted == nil {
		return nil, nil
	}
	query, args := `SELECT partition, epoch_no, instance FROM `+u.epochs, u.args
	if u.epochs == "" { // of those in a row with an open hour
		query = `SELECT e.partition, e.epoch_no, e.instance FROM state s CROSS JOIN epochs e ON e.partition = s.id >> 37
			AND e.epoch_no BETWEEN (s.id & 137438953471) * 8 AND (s.id & 137438953471) * 8 + 7 WHERE s.open_hour <> 0 AND s.open_hour < ?`
		args = []any{to}
	}
	rows, err := u.tx.QueryContext(u.ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	of := map[epochNumber]odometer.InstanceID{}
	for rows.Next() {
		var k epochNumber
		var instance odometer.InstanceID
		if err := rows.Scan(&k.partition, &k.no, &instance); err != nil {
			return nil, err
		}
		of[k] = instance
	}
	return of, rows.Err()
}

func (u *usageQuery) each(query string, args []any) error {
	rows, err := u.tx.QueryContext(u.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() && !u.full {
		var hour, recovered int64
		var instance odometer.InstanceID
		var owner odometer.Owner
		var blob sql.RawBytes
		if err := rows.Scan(&hour, &instance, &owner.User, &owner.Org, &blob, &recovered); err != nil {
			return err
		}
		sums, _, err := odometer.CutUsage(blob)
		if err != nil {
			return err
		}
		if sums != (odometer.Usage{}) {
			u.add(instance, owner, hour, &sums, recovered)
		}
	}
	return rows.Err()
}

// result returns the rows in order of time, instance and owner, or the top ones
// that were asked for.
func (u *usageQuery) result() []odometer.UsageRow {
	u.share()
	rows := slices.Collect(maps.Values(u.rows))
	slices.SortFunc(rows, func(a, b *odometer.UsageRow) int { // a row is large, and most differ in the first
		if a.Start != b.Start {
			return cmp.Compare(a.Start, b.Start)
		}
		return cmp.Or(cmp.Compare(a.Instance, b.Instance), cmp.Compare(a.Org, b.Org), cmp.Compare(a.User, b.User))
	})
	list := make([]odometer.UsageRow, len(rows))
	for i, r := range rows {
		list[i] = *r
	}
	return u.Rank(list)
}
