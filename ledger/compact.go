package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.org/odometer"
)

// compactAfter is how long after the end of an hour its pieces are compacted.
// By then all but silent epochs have sealed the hour, so that few pieces come
// after it, and questions find a quarter of an hour's pieces at most.
const compactAfter = 15 * 60 * odometer.SecondMicros

// compactMost is about how many pieces are compacted in one transaction:
// commits wait for it some tens of milliseconds.
const compactMost = 2000

// slice is what is compacted at once: pieces of one day in one partition.
type slice struct {
	day       int64
	partition int
}

// compactable returns the slices that have pieces from before until, in order.
func compactable(ctx context.Context, db queryer, until int64) ([]slice, error) {
	rows, err := db.QueryContext(ctx, `SELECT DISTINCT hour, partition FROM hours WHERE hour < ?`, until)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	seen := map[slice]bool{}
	var list []slice
	for rows.Next() {
		var s slice
		if err := rows.Scan(&s.day, &s.partition); err != nil {
			return nil, err
		}
		s.day = dayOf(s.day)
		if !seen[s] {
			seen[s] = true
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b slice) int {
		return cmp.Or(cmp.Compare(a.day, b.day), cmp.Compare(a.partition, b.partition))
	})
	return list, rows.Err()
}

// compact moves pieces of past hours into days, months and the owners' days
// and months, a bounded number in each transaction. Pieces that come later for
// the same hours are added in turn.
func (l *Ledger) compact(ctx context.Context, now int64) error {
	until := odometer.Hour(now - compactAfter)
	list, err := compactable(ctx, l.read, until)
	if err != nil {
		return fmt.Errorf("find what to compact: %w", err)
	}
	for len(list) > 0 {
		err := l.transact(ctx, func(f *fold, _ int64) error {
			c := &compaction{fold: f, day: list[0].day, until: min(list[0].day+odometer.DayMicros, until), owners: map[odometer.Owner]*amounts{}}
			for len(list) > 0 && list[0].day == c.day && c.pieces < compactMost {
				more, err := c.slice(list[0].partition)
				if err != nil {
					return err
				}
				if more {
					break
				}
				list = list[1:]
			}
			return c.storeOwners()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// compaction adds pieces of one day to the packed tables, in one transaction.
type compaction struct {
	*fold
	day, until int64
	pieces     int
	owners     map[odometer.Owner]*amounts // the hours of the day
}

// share is one owner's use of one epoch: what a row of days or months is of.
type share struct {
	epochNo int64
	owner   odometer.Owner
}

// slice compacts pieces of a partition and reports whether there are more than
// it took: of an epoch it takes all or none, so that what it took can be named.
func (c *compaction) slice(partition int) (more bool, err error) {
	here := `hour IN (` + c.hours() + `) AND partition = ?`
	var first, bound int64
	err = c.tx.QueryRowContext(c.ctx, `SELECT coalesce(min(epoch_no), 0), coalesce((SELECT epoch_no FROM hours WHERE `+here+` ORDER BY epoch_no LIMIT 1 OFFSET ?), 0)
		FROM hours WHERE `+here, partition, compactMost, partition).Scan(&first, &bound)
	if err != nil || first == 0 {
		return false, err
	}
	if more = bound != 0; !more {
		bound = 1 << 62
	} else if bound == first {
		bound++
	}
	days, err := c.pieced(here+` AND epoch_no < ?`, partition, bound)
	if err != nil {
		return false, err
	}
	month, number := monthOf(c.day)
	months := make(map[share]*parts, len(days))
	for k, hours := range days {
		m := new(parts)
		for h := range hours {
			if err := m[number].add(&hours[h]); err != nil {
				return false, err
			}
		}
		months[k] = m
	}
	if err := c.addTo("days", "hours", "day", c.day, partition, first, bound, days); err != nil {
		return false, err
	}
	if err := c.addTo("months", "days", "month", month, partition, first, bound, months); err != nil {
		return false, err
	}
	_, err = c.exec(`DELETE FROM hours WHERE `+here+` AND epoch_no < ?`, partition, bound)
	return more, err
}

// hours lists the hours of the day that are compacted.
func (c *compaction) hours() string {
	var list []string
	for h := c.day; h < c.until; h += odometer.HourMicros {
		list = append(list, strconv.FormatInt(h, 10))
	}
	return strings.Join(list, ", ")
}

// pieced returns the pieces that match where, summed, and adds them to the
// owners' hours.
func (c *compaction) pieced(where string, args ...any) (map[share]*parts, error) {
	rows, err := c.tx.QueryContext(c.ctx, `SELECT hour, epoch_no, usr, org, sums, recovered_us FROM hours WHERE `+where, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	days := map[share]*parts{}
	for rows.Next() {
		var k share
		var hour int64
		var blob sql.RawBytes
		var p part
		if err := rows.Scan(&hour, &k.epochNo, &k.owner.User, &k.owner.Org, &blob, &p.recovered); err != nil {
			return nil, err
		}
		if p.sums, _, err = odometer.CutUsage(blob); err != nil {
			return nil, err
		}
		if days[k] == nil {
			days[k] = new(parts)
		}
		if c.owners[k.owner] == nil {
			c.owners[k.owner] = new(amounts)
		}
		n := (hour - c.day) / odometer.HourMicros
		if err := days[k][n].add(&p); err != nil {
			return nil, err
		}
		c.owners[k.owner][n].add(&p.sums, p.recovered)
		c.pieces++
	}
	return days, rows.Err()
}

// addTo adds rows to what stands of the epochs first … bound-1 in a table of
// days or months, whose column time says when and column packed what.
func (c *compaction) addTo(table, packed, time string, at int64, partition int, first, bound int64, add map[share]*parts) error {
	err := eachPacked(c.ctx, c.tx, `epoch_no, usr, org, `+packed, table+` WHERE `+time+` = ? AND partition = ? AND epoch_no >= ? AND epoch_no < ?`,
		[]any{at, partition, first, bound}, func(k share, blob []byte) error {
			row := add[k]
			if row == nil {
				return nil
			}
			return cutParts(blob, func(n int, p *part) error { return row[n].add(p) })
		})
	if err != nil {
		return err
	}
	var blob []byte
	for _, k := range slices.SortedFunc(maps.Keys(add), share.compare) {
		blob = appendParts(blob[:0], add[k])
		_, err := c.exec(`INSERT INTO `+table+` (`+time+`, partition, epoch_no, usr, org, `+packed+`) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (`+time+`, partition, epoch_no, usr, org) DO UPDATE SET `+packed+` = excluded.`+packed,
			at, partition, k.epochNo, string(k.owner.User), string(k.owner.Org), blob)
		if err != nil {
			return err
		}
	}
	return nil
}

func (k share) compare(o share) int {
	return cmp.Or(cmp.Compare(k.epochNo, o.epochNo), cmp.Compare(k.owner.User, o.owner.User), cmp.Compare(k.owner.Org, o.owner.Org))
}

// storeOwners adds what was compacted to the owners' days and months.
func (c *compaction) storeOwners() error {
	month, number := monthOf(c.day)
	for owner, hours := range c.owners {
		day := new(amounts)
		for h := range hours {
			day[number].addAmount(&hours[h])
		}
		if err := c.addToOwner("owner_days", "hours", "day", c.day, owner, hours); err != nil {
			return err
		}
		if err := c.addToOwner("owner_months", "days", "month", month, owner, day); err != nil {
			return err
		}
	}
	return nil
}

func (c *compaction) addToOwner(table, packed, time string, at int64, owner odometer.Owner, add *amounts) error {
	var blob []byte
	err := c.tx.QueryRowContext(c.ctx, `SELECT `+packed+` FROM `+table+` WHERE `+time+` = ? AND usr = ? AND org = ?`, at, string(owner.User), string(owner.Org)).Scan(&blob)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return err
	}
	if err := cutAmounts(blob, func(n int, a *amount) error { add[n].addAmount(a); return nil }); err != nil {
		return err
	}
	_, err = c.exec(`INSERT INTO `+table+` (`+time+`, usr, org, `+packed+`) VALUES (?, ?, ?, ?)
		ON CONFLICT (`+time+`, usr, org) DO UPDATE SET `+packed+` = excluded.`+packed, at, string(owner.User), string(owner.Org), appendAmounts(nil, add))
	return err
}
