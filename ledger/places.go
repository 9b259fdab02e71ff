package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strconv"

	"example.org/odometer"
)

// The entries of an owner or of an instance are found without going through the
// journal. In which hours it used something is in the tables of usage, which have
// each epoch of each owner by the day; which records of the epoch's partition have
// entries of such an hour is in the journal's indexes by time. So commits pay nothing
// for it, and a question costs what the records of those hours cost, which other
// instances of the partition share.

const (
	// listMost is how many records are listed at once, in half a megabyte. A
	// question about more goes through the journal, of which it wants much anyway.
	listMost = 1 << 16
	// hourlyMost is how many days of epochs are taken apart into hours, which
	// takes a look at each. Of more, the days are taken as a whole.
	hourlyMost = 1000
)

// places say which records may have entries that are asked for.
type places struct {
	narrow     bool   // those of some partitions only
	partitions string // these, as a JSON array; "" for none
	listed     bool   // those of ids only, which are in order
	ids        []int64
}

// placesOf returns where the entries lie that q asks for, of those in rows from
// from to upto of the journal.
func placesOf(ctx context.Context, tx queryer, q *odometer.EntryQuery, from, upto int64) (p places, err error) {
	u := newUsageQuery(ctx, tx, odometer.UsageQuery{From: odometer.Hour(q.From), To: min(cmp.Or(q.To, forever), forever), Instance: q.Instance, User: q.User, Org: q.Org, View: q.View})
	if u.epochs == "" { // of everything
		return p, nil
	}
	used, err := u.stretches()
	if err != nil {
		return p, err
	}
	granted, err := u.grantedParts()
	if err != nil {
		return p, err
	}
	for _, g := range granted {
		more, err := g.stretches()
		if err != nil {
			return p, err
		}
		for partition, list := range more {
			used[partition] = append(used[partition], list...)
		}
	}
	p.narrow, p.listed = true, true
	var partitions []string
	for _, partition := range slices.Sorted(maps.Keys(used)) {
		partitions = append(partitions, strconv.Itoa(partition))
		for _, s := range joined(used[partition]) {
			if !p.listed {
				break
			}
			ids, err := integers(ctx, tx, recordsOfTime, partition, s.from, s.to, s.to+longRecord+1, from, upto, listMost+1-len(p.ids))
			if err != nil {
				return p, err
			}
			p.ids = append(p.ids, ids...)
			p.listed = len(p.ids) <= listMost
		}
	}
	p.partitions = jsonArray(partitions)
	if !p.listed {
		p.ids = nil
	}
	slices.Sort(p.ids)
	p.ids = slices.Compact(p.ids)
	return p, nil
}

// forever is later than all usage, and can be rounded up.
const forever = math.MaxInt64 / 2

// recordsOfTime selects the rows of the journal, from one to another, that have
// entries of a partition in a time. The plus keeps the search to the indexes by time,
// which have all of it.
var recordsOfTime = fmt.Sprintf(`SELECT id FROM journal WHERE partition = ?1 AND max_us > ?2 AND max_us < ?4 AND min_us < ?3 AND +id >= ?5 AND +id <= ?6 AND %s
	UNION ALL SELECT id FROM journal WHERE partition = ?1 AND max_us > ?2 AND min_us < ?3 AND +id >= ?5 AND +id <= ?6 AND %s LIMIT ?7`, shortRecords, longRecords)

// records yields the records at p that may have entries which q asks for, from a
// spot to a row of the journal, in its order.
func (p *places) records(ctx context.Context, tx queryer, q *odometer.EntryQuery, from spot, upto int64) iter.Seq2[*record, error] {
	const of = ` AND entries > 0 AND max_us > ? AND min_us < ? AND ` + unpruned
	args := []any{q.From, cmp.Or(q.To, forever)}
	switch {
	case p.narrow && p.partitions == "":
		return func(func(*record, error) bool) {}
	case !p.narrow:
		return records(ctx, tx, `WHERE id BETWEEN ? AND ?`+of+` ORDER BY id`, append([]any{from.id, upto}, args...)...)
	case !p.listed:
		return records(ctx, tx, `WHERE id BETWEEN ? AND ?`+of+` AND +partition`+ofList+` ORDER BY id`, append([]any{from.id, upto}, append(args, p.partitions)...)...)
	}
	return func(yield func(*record, error) bool) {
		for i, _ := slices.BinarySearch(p.ids, from.id); i < len(p.ids) && p.ids[i] <= upto; i++ {
			for r, err := range records(ctx, tx, `WHERE id = ?`+of, append([]any{p.ids[i]}, args...)...) {
				if !yield(r, err) {
					return
				}
			}
		}
	}
}

// stretch is a time in whole hours.
type stretch struct{ from, to int64 }

// joined returns the times that are covered by list, in order and apart.
func joined(list []stretch) []stretch {
	slices.SortFunc(list, func(a, b stretch) int { return cmp.Compare(a.from, b.from) })
	var out []stretch
	for _, s := range list {
		if n := len(out); n > 0 && s.from <= out[n-1].to {
			out[n-1].to = max(out[n-1].to, s.to)
		} else {
			out = append(out, s)
		}
	}
	return out
}

// stretches returns by partition when anything was used of what is asked for.
// It may return more.
func (u *usageQuery) stretches() (map[int][]stretch, error) {
	used := map[int][]stretch{}
	add := func(partition int, from, length int64) {
		if from < u.To && from+length > u.From {
			used[partition] = append(used[partition], stretch{from, from + length})
		}
	}
	days, err := u.packedDays()
	if err == nil && len(days) <= hourlyMost {
		err = u.packedHours(days, add)
	} else {
		for _, d := range days {
			add(d.partition, d.day, odometer.DayMicros)
		}
	}
	if err == nil {
		err = u.loosePieces(add)
	}
	if err == nil {
		err = u.openHours(add)
	}
	return used, err
}

type epochDay struct {
	epochNumber
	day int64
}

// packedDays returns the days of the epochs in which something is packed.
func (u *usageQuery) packedDays() (days []epochDay, err error) {
	starts, err := u.starts(monthsOfDays, u.From, u.To)
	if err != nil || starts == "" {
		return nil, err
	}
	cond, args := u.ofOwner("p")
	rows, err := u.tx.QueryContext(u.ctx, `SELECT p.partition, p.epoch_no, p.month, p.days FROM `+u.epochs+` e CROSS JOIN months p
		ON p.partition = e.partition AND p.epoch_no = e.epoch_no WHERE p.month`+ofList+cond, slices.Concat(u.args, []any{starts}, args)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var k epochNumber
		var month int64
		var blob sql.RawBytes
		if err := rows.Scan(&k.partition, &k.no, &month, &blob); err != nil {
			return nil, err
		}
		err := cutParts(blob, func(n int, _ *part) error {
			if day := month + int64(n)*odometer.DayMicros; day < u.To && day+odometer.DayMicros > u.From {
				days = append(days, epochDay{k, day})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return days, rows.Err()
}

// packedHours adds the hours of days in which something is packed.
func (u *usageQuery) packedHours(days []epochDay, add func(partition int, from, length int64)) error {
	cond, args := u.ofOwner("p")
	for _, d := range days {
		rows, err := u.tx.QueryContext(u.ctx, `SELECT p.hours FROM days p WHERE p.day = ? AND p.partition = ? AND p.epoch_no = ?`+cond,
			append([]any{d.day, d.partition, d.no}, args...)...)
		if err != nil {
			return err
		}
		for rows.Next() && err == nil {
			var blob sql.RawBytes
			if err = rows.Scan(&blob); err == nil {
				err = cutParts(blob, func(n int, _ *part) error {
					add(d.partition, d.day+int64(n)*odometer.HourMicros, odometer.HourMicros)
					return nil
				})
			}
		}
		err = cmp.Or(err, rows.Err())
		rows.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// loosePieces adds the hours of pieces that are not packed yet: few hours have any,
// and each is looked at for each epoch.
func (u *usageQuery) loosePieces(add func(partition int, from, length int64)) error {
	cond, args := u.ofOwner("h")
	rows, err := u.tx.QueryContext(u.ctx, `WITH RECURSIVE t (hour) AS (SELECT min(hour) FROM hours WHERE hour >= ?
			UNION ALL SELECT (SELECT min(hour) FROM hours WHERE hour > t.hour AND hour < ?) FROM t WHERE t.hour IS NOT NULL)
		SELECT DISTINCT h.partition, h.hour FROM t CROSS JOIN `+u.epochs+` e CROSS JOIN hours h
			ON h.hour = t.hour AND h.partition = e.partition AND h.epoch_no = e.epoch_no WHERE t.hour < ?`+cond,
		slices.Concat([]any{u.From, u.To}, u.args, []any{u.To}, args)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var partition int
		var hour int64
		if err := rows.Scan(&partition, &hour); err != nil {
			return err
		}
		add(partition, hour, odometer.HourMicros)
	}
	return rows.Err()
}

// openHours adds those that are open, of the epochs and their neighbours in the table
// state.
func (u *usageQuery) openHours(add func(partition int, from, length int64)) error {
	rows, err := u.tx.QueryContext(u.ctx, `SELECT id, body FROM state WHERE open_hour <> 0 AND open_hour < ?
		AND id IN (SELECT (partition << 37) + (epoch_no >> 3) FROM `+u.epochs+`)`, append([]any{u.To}, u.args...)...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id int64
		var body []byte
		if err := rows.Scan(&id, &body); err != nil {
			return err
		}
		partition, first := firstOf(id)
		epochs, err := cutSiblings(body)
		if err != nil {
			return fmt.Errorf("state of epochs from %d on of partition %d: %w", first, partition, err)
		}
		for _, e := range epochs {
			if e == nil || e.open.empty() || u.User != "" && e.open.owner.User != u.User || u.Org != "" && e.open.owner.Org != u.Org || u.View != nil && u.granted == nil && !u.View.Sees(e.open.owner) {
				continue
			}
			add(partition, e.open.hour, odometer.HourMicros)
		}
	}
	return rows.Err()
}
