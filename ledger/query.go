package ledger

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

// Usage answers q from the last commit. Whole hours come from the sealed and
// open sums; where From or To cuts an hour, the entries of that hour are read
// from the journal and cut there, so that answers over adjoining times add up
// to the answer over both, to the unit.
func (l *Ledger) Usage(ctx context.Context, q odometer.UsageQuery) ([]odometer.UsageRow, error) {
	if q.From >= q.To {
		return nil, fmt.Errorf("usage from %d to %d: the end must be later: %w", q.From, q.To, odometer.ErrInvalid)
	}
	tx, err := l.read.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	defer tx.Rollback()
	u := &usageQuery{UsageQuery: q, ctx: ctx, tx: tx, rows: map[rowKey]*odometer.UsageRow{}}
	if err := u.run(); err != nil {
		return nil, fmt.Errorf("usage: %w", err)
	}
	return u.result(), nil
}

type usageQuery struct {
	odometer.UsageQuery
	ctx  context.Context
	tx   queryer
	rows map[rowKey]*odometer.UsageRow
}

// rowKey is what usage is grouped by.
type rowKey struct {
	instance odometer.InstanceID
	owner    odometer.Owner
	start    int64
}

func (u *usageQuery) run() error {
	var first, last *int64
	err := u.tx.QueryRowContext(u.ctx, `SELECT (SELECT min(min_us) FROM journal WHERE entries > 0), (SELECT max(max_us) FROM journal)`).Scan(&first, &last)
	if err != nil || first == nil {
		return err
	}
	// Beyond all usage, an edge inside an hour cuts nothing.
	from, to := max(u.From, odometer.Hour(*first)), u.To
	if to >= *last {
		to = odometer.Hour(*last-1) + odometer.HourMicros
	}
	if from <= *first {
		from = odometer.Hour(*first)
	}
	whole, end := ceilHour(from), odometer.Hour(to)
	if whole >= end { // within an hour or two
		return u.cut(from, to, whole, end)
	}
	if err := u.hours(whole, end); err != nil {
		return err
	}
	if err := u.days(whole, end); err != nil {
		return err
	}
	if err := u.open(whole, end); err != nil {
		return err
	}
	return u.cut(from, to, whole, end)
}

// cut adds the pieces of hours at the edges of [from, to) that lie outside
// the whole hours [whole, end).
func (u *usageQuery) cut(from, to, whole, end int64) error {
	if whole > end { // both edges cut the same hour
		return u.entries(from, to)
	}
	if err := u.entries(from, min(whole, to)); err != nil {
		return err
	}
	return u.entries(max(end, from), to)
}

func ceilHour(us int64) int64 {
	if h := odometer.Hour(us); h != us {
		return h + odometer.HourMicros
	}
	return us
}

// add adds what owner used of instance in the hour to its row.
func (u *usageQuery) add(instance odometer.InstanceID, owner odometer.Owner, hour int64, sums *odometer.Usage, recovered int64) {
	if u.User != "" && owner.User != u.User || u.Org != "" && owner.Org != u.Org || u.Instance != "" && instance != u.Instance {
		return
	}
	var k rowKey
	for _, by := range u.GroupBy {
		switch by {
		case odometer.ByInstance:
			k.instance = instance
		case odometer.ByUser:
			k.owner.User = owner.User
		case odometer.ByOrg:
			k.owner.Org = owner.Org
		case odometer.ByHour:
			k.start = hour
		case odometer.ByDay:
			k.start = hour - hour%odometer.DayMicros
		case odometer.ByMonth:
			t := time.UnixMicro(hour).UTC()
			k.start = time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC).UnixMicro()
		}
	}
	row := u.rows[k]
	if row == nil {
		row = &odometer.UsageRow{Instance: k.instance, User: k.owner.User, Org: k.owner.Org, Start: k.start}
		u.rows[k] = row
	}
	for i, n := range sums.Vector {
		row.Totals[i].Add(n)
	}
	row.Recovered.Add(recovered)
	row.Known |= sums.Known
}

// where returns the condition and arguments that narrow epochs e to the
// instance that is asked for.
func (u *usageQuery) where() (string, []any) {
	if u.Instance == "" {
		return "", nil
	}
	return ` AND e.instance = ?`, []any{string(u.Instance)}
}

// hours adds the sealed pieces of [from, to).
func (u *usageQuery) hours(from, to int64) error {
	cond, args := u.where()
	return u.each(`SELECT h.hour, e.instance, h.usr, h.org, h.sums, h.recovered_us FROM hours h
		JOIN epochs e ON e.partition = h.partition AND e.epoch_no = h.epoch_no WHERE h.hour >= ? AND h.hour < ?`+cond, append([]any{from, to}, args...))
}

// open adds the open hours within [from, to).
func (u *usageQuery) open(from, to int64) error {
	cond, args := u.where()
	rows, err := u.tx.QueryContext(u.ctx, `SELECT `+epochColumns+` FROM `+epochTables+` WHERE s.open_hour >= ? AND s.open_hour < ?`+cond, append([]any{from, to}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var e epoch
		if err := e.scan(rows); err != nil {
			return err
		}
		if o := &e.open; o.sums != (odometer.Usage{}) {
			u.add(e.instance, o.owner, o.hour, &o.sums, o.recovered)
		}
	}
	return rows.Err()
}

func (u *usageQuery) each(query string, args []any) error {
	rows, err := u.tx.QueryContext(u.ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var hour, recovered int64
		var instance odometer.InstanceID
		var owner odometer.Owner
		var blob []byte
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

// days adds the compacted hours of [from, to).
func (u *usageQuery) days(from, to int64) error {
	cond, args := u.where()
	rows, err := u.tx.QueryContext(u.ctx, `SELECT d.day, e.instance, d.usr, d.org, d.hours FROM days d
		JOIN epochs e ON e.partition = d.partition AND e.epoch_no = d.epoch_no WHERE d.day > ? AND d.day < ?`+cond,
		append([]any{from - odometer.DayMicros, to}, args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var day int64
		var instance odometer.InstanceID
		var owner odometer.Owner
		var blob []byte
		if err := rows.Scan(&day, &instance, &owner.User, &owner.Org, &blob); err != nil {
			return err
		}
		err := cutDay(blob, func(h int, sums odometer.Usage, recovered int64) error {
			if hour := day + int64(h)*odometer.HourMicros; hour >= from && hour < to {
				u.add(instance, owner, hour, &sums, recovered)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return rows.Err()
}

// entries adds what the entries of the journal say of [from, to), cut at its
// edges and at the hours within.
func (u *usageQuery) entries(from, to int64) error {
	if from >= to {
		return nil
	}
	for r, err := range records(u.ctx, u.tx, `WHERE max_us > ? AND min_us < ? AND entries > 0`, from, to) {
		if err != nil {
			return err
		}
		booked, err := r.booked()
		if err != nil {
			return err
		}
		for i := range booked {
			ev := &booked[i].Event
			for a := max(from, odometer.Hour(max(from, ev.Span.Start))); a < min(to, ev.Span.End); a = odometer.Hour(a) + odometer.HourMicros {
				part := ev.Usage.Between(ev.Span, max(a, from), min(odometer.Hour(a)+odometer.HourMicros, to))
				if part.Vector == (odometer.Vector{}) {
					continue
				}
				recovered := int64(0)
				if booked[i].Kind == odometer.KindRecovered {
					recovered = part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime]
				}
				u.add(ev.Instance, ev.Owner, odometer.Hour(a), &part, recovered)
			}
		}
	}
	return nil
}

// result returns the rows in order of time, instance and owner.
func (u *usageQuery) result() []odometer.UsageRow {
	list := make([]odometer.UsageRow, 0, len(u.rows))
	for _, r := range u.rows {
		list = append(list, *r)
	}
	slices.SortFunc(list, func(a, b odometer.UsageRow) int {
		if a.Start != b.Start {
			if a.Start < b.Start {
				return -1
			}
			return 1
		}
		if c := strings.Compare(string(a.Instance), string(b.Instance)); c != 0 {
			return c
		}
		if c := strings.Compare(string(a.Org), string(b.Org)); c != 0 {
			return c
		}
		return strings.Compare(string(a.User), string(b.User))
	})
	return list
}

// Entries returns entries in the order in which they were booked, at most
// q.Limit, with the cursor after the last of them: "" when there was none.
func (l *Ledger) Entries(ctx context.Context, q odometer.EntryQuery) ([]odometer.Entry, string, error) {
	id, index, err := parseCursor(q.After)
	if err != nil {
		return nil, "", err
	}
	if q.To == 0 {
		q.To = math.MaxInt64
	}
	var list []odometer.Entry
	next := ""
	for r, err := range records(ctx, l.read, `WHERE id >= ? AND entries > 0 AND max_us > ? AND min_us < ? ORDER BY id`, id, q.From, q.To) {
		if err != nil {
			return nil, "", err
		}
		booked, err := r.booked()
		if err != nil {
			return nil, "", err
		}
		for i, e := range booked {
			if r.id == id && i < index {
				continue
			}
			if q.Instance != "" && e.Event.Instance != q.Instance || e.Event.Span.End <= q.From || e.Event.Span.Start >= q.To {
				continue
			}
			list = append(list, e)
			next = formatCursor(r.id, i+1)
			if len(list) >= q.Limit {
				return list, next, nil
			}
		}
	}
	return list, next, nil
}

func formatCursor(id int64, index int) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d.%d", id, index))
}

// parseCursor returns the journal row and the number of its entries that were
// seen already.
func parseCursor(s string) (id int64, index int, err error) {
	if s == "" {
		return 0, 0, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err == nil {
		a, c, ok := strings.Cut(string(b), ".")
		id, err = strconv.ParseInt(a, 10, 64)
		if err == nil && ok {
			index, err = strconv.Atoi(c)
		}
		if !ok {
			err = odometer.ErrInvalid
		}
	}
	if err != nil || id < 0 || index < 0 {
		return 0, 0, fmt.Errorf("cursor %q was not given out by this ledger: %w", s, odometer.ErrInvalid)
	}
	return id, index, nil
}
