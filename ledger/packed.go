package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"example.org/odometer"
)

// comparePacked reports where the tables that are summed from others do not
// say what those say: months against days, the owners' days and months against
// both, and the index of the owners' epochs against everything that has an
// owner. The days themselves are compared with the journal.
func comparePacked(ctx context.Context, db queryer, report *Report) error {
	days, err := integers(ctx, db, `SELECT DISTINCT day FROM days UNION SELECT DISTINCT day FROM owner_days`)
	if err != nil {
		return err
	}
	stored, err := integers(ctx, db, `SELECT DISTINCT month FROM months UNION SELECT DISTINCT month FROM owner_months`)
	if err != nil {
		return err
	}
	months := map[int64][]int64{} // to their days
	for _, m := range stored {
		months[m] = nil
	}
	for _, d := range days {
		m, _ := monthOf(d)
		months[m] = append(months[m], d)
	}
	for _, m := range slices.Sorted(maps.Keys(months)) {
		for p := range odometer.Partitions {
			if err := compareMonth(ctx, db, m, months[m], p, report); err != nil {
				return fmt.Errorf("table months: %w", err)
			}
		}
		if err := compareOwners(ctx, db, m, months[m], report); err != nil {
			return fmt.Errorf("tables of owners: %w", err)
		}
	}
	from, err := openFrom(ctx, db)
	if err != nil {
		return err
	}
	if err := compareOpen(ctx, db, from, report); err != nil {
		return err
	}
	return compareOwnerIndex(ctx, db, report)
}

// compareOpen compares what the rows of the table state say of their earliest
// open hour with what is in them. No hour is to be open before from.
func compareOpen(ctx context.Context, db queryer, from int64, report *Report) error {
	rows, err := db.QueryContext(ctx, `SELECT id, open_hour, body FROM state`)
	if err != nil {
		return fmt.Errorf("table state: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var id, open int64
		var body []byte
		if err := rows.Scan(&id, &open, &body); err != nil {
			return fmt.Errorf("table state: %w", err)
		}
		partition, first := firstOf(id)
		epochs, err := cutSiblings(body)
		if err != nil {
			return fmt.Errorf("table state, row of epoch %d-%d: %w", partition, first, err)
		}
		if earliest := epochs.earliestOpen(); open != earliest {
			report.differ("table state: row of epoch %q says that its earliest open hour is %d, it is %d", fmt.Sprintf("%d-%d", partition, first), open, earliest)
		} else if open > 0 && open < from {
			report.differ("table state: row of epoch %q has an hour open that is said to be sealed", fmt.Sprintf("%d-%d", partition, first))
		}
	}
	return rows.Err()
}

func integers(ctx context.Context, db queryer, query string, args ...any) (list []int64, err error) {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			return nil, err
		}
		list = append(list, n)
	}
	return list, rows.Err()
}

// eachPacked calls each for every row of a packed table that matches where.
func eachPacked(ctx context.Context, db queryer, columns, where string, args []any, each func(k share, blob []byte) error) error {
	rows, err := db.QueryContext(ctx, `SELECT `+columns+` FROM `+where, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k share
		var blob sql.RawBytes
		if err := rows.Scan(&k.epochNo, &k.owner.User, &k.owner.Org, &blob); err != nil {
			return err
		}
		if err := each(k, blob); err != nil {
			return err
		}
	}
	return rows.Err()
}

// compareMonth compares the month of each epoch of a partition with its days.
func compareMonth(ctx context.Context, db queryer, month int64, days []int64, partition int, report *Report) error {
	sums := map[share]*parts{}
	for _, day := range days {
		_, number := monthOf(day)
		err := eachPacked(ctx, db, `epoch_no, usr, org, hours`, `days WHERE day = ? AND partition = ?`, []any{day, partition}, func(k share, blob []byte) error {
			if sums[k] == nil {
				sums[k] = new(parts)
			}
			return cutParts(blob, func(_ int, p *part) error { return sums[k][number].add(p) })
		})
		if err != nil {
			return err
		}
	}
	name := func(k share) string {
		return fmt.Sprintf("%d-%d %s/%s month %d", partition, k.epochNo, k.owner.Org, k.owner.User, month)
	}
	err := eachPacked(ctx, db, `epoch_no, usr, org, days`, `months WHERE month = ? AND partition = ?`, []any{month, partition}, func(k share, blob []byte) error {
		var row parts
		if err := cutParts(blob, func(n int, p *part) error { return row[n].add(p) }); err != nil {
			return err
		}
		if sum := sums[k]; sum == nil {
			report.differ("table months: row %q has no days", name(k))
		} else if row != *sum {
			report.differ("table months: row %q is not the sum of its days", name(k))
		}
		delete(sums, k)
		return nil
	})
	for k := range sums {
		report.differ("table months: row %q is missing", name(k))
	}
	return err
}

// compareOwners compares what each owner used in a month with the days of the
// epochs.
func compareOwners(ctx context.Context, db queryer, month int64, days []int64, report *Report) error {
	inMonth := map[odometer.Owner]*amounts{}
	for _, day := range days {
		_, number := monthOf(day)
		inDay := map[odometer.Owner]*amounts{}
		err := eachPacked(ctx, db, `0, usr, org, hours`, `days WHERE day = ?`, []any{day}, func(k share, blob []byte) error {
			if inDay[k.owner] == nil {
				inDay[k.owner] = new(amounts)
			}
			if inMonth[k.owner] == nil {
				inMonth[k.owner] = new(amounts)
			}
			return cutParts(blob, func(n int, p *part) error {
				inDay[k.owner][n].add(&p.sums, p.recovered)
				inMonth[k.owner][number].add(&p.sums, p.recovered)
				return nil
			})
		})
		if err != nil {
			return err
		}
		if err := compareOwnerRows(ctx, db, "owner_days", `hours`, `day`, day, inDay, report); err != nil {
			return err
		}
	}
	return compareOwnerRows(ctx, db, "owner_months", `days`, `month`, month, inMonth, report)
}

func compareOwnerRows(ctx context.Context, db queryer, table, packed, time string, at int64, sums map[odometer.Owner]*amounts, report *Report) error {
	name := func(o odometer.Owner) string { return fmt.Sprintf("%s/%s %s %d", o.Org, o.User, time, at) }
	err := eachPacked(ctx, db, `0, usr, org, `+packed, table+` WHERE `+time+` = ?`, []any{at}, func(k share, blob []byte) error {
		var row amounts
		if err := cutAmounts(blob, func(n int, a *amount) error { row[n].addAmount(a); return nil }); err != nil {
			return err
		}
		if sum := sums[k.owner]; sum == nil {
			report.differ("table %s: row %q does not follow from the days", table, name(k.owner))
		} else if row != *sum {
			report.differ("table %s: row %q is not the sum of its days", table, name(k.owner))
		}
		delete(sums, k.owner)
		return nil
	})
	for o := range sums {
		report.differ("table %s: row %q is missing", table, name(o))
	}
	return err
}

// compareOwnerIndex reports usage of owners that their index does not lead to.
func compareOwnerIndex(ctx context.Context, db queryer, report *Report) error {
	missing := func(k epochNumber, o odometer.Owner) {
		report.differ("table owner_epochs: row \"%d-%d %s/%s\" is missing", k.partition, k.no, o.Org, o.User)
	}
	const enteredOnly = ` LEFT JOIN owners_known k ON k.partition = u.partition WHERE u.epoch_no <= coalesce(k.epoch_no, 1 << 62)`
	for _, from := range []string{
		`SELECT u.partition, u.epoch_no, u.usr, u.org FROM months u` + enteredOnly,
		`SELECT u.partition, u.epoch_no, u.usr, u.org FROM hours u` + enteredOnly,
	} {
		rows, err := db.QueryContext(ctx, from+` EXCEPT SELECT partition, epoch_no, usr, org FROM owner_epochs`)
		if err != nil {
			return fmt.Errorf("table owner_epochs: %w", err)
		}
		defer rows.Close()
		for rows.Next() {
			var k epochNumber
			var o odometer.Owner
			if err := rows.Scan(&k.partition, &k.no, &o.User, &o.Org); err != nil {
				return fmt.Errorf("table owner_epochs: %w", err)
			}
			missing(k, o)
		}
		if err := rows.Err(); err != nil {
			return fmt.Errorf("table owner_epochs: %w", err)
		}
	}
	open := map[epochNumber]odometer.Owner{}
	rows, err := db.QueryContext(ctx, `SELECT u.partition, u.epoch_no, s.body FROM epochs u JOIN state s ON s.id = (u.partition << 37) + (u.epoch_no >> 3)`+enteredOnly)
	if err != nil {
		return fmt.Errorf("table state: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var k epochNumber
		var e epoch
		var body []byte
		if err := rows.Scan(&k.partition, &k.no, &body); err != nil {
			return fmt.Errorf("table state: %w", err)
		}
		e.no = k.no
		if err := e.cutFrom(body); err != nil {
			return fmt.Errorf("table state: %w", err)
		}
		if e.open.owner.User != "" {
			open[k] = e.open.owner
		}
	}
	if err := rows.Err(); err != nil {
		return fmt.Errorf("table state: %w", err)
	}
	for k, o := range open {
		var there bool
		err := db.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM owner_epochs WHERE usr = ? AND org = ? AND partition = ? AND epoch_no = ?)`,
			string(o.User), string(o.Org), k.partition, k.no).Scan(&there)
		if err != nil {
			return fmt.Errorf("table owner_epochs: %w", err)
		}
		if !there {
			missing(k, o)
		}
	}
	return nil
}

// epochNumber names an epoch by its number.
type epochNumber struct {
	partition int
	no        int64
}
