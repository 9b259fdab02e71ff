package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"example.org/odometer"
)

// packed compares what is summed from the days, so that questions are answered
// quickly, with the days: the months of each epoch, and the hours and days of
// each owner. The days themselves are compared with the journal.
type packed struct {
	months     *balance // by partition, epoch number, day and owner
	ownerHours *balance // by hour and owner
	ownerDays  *balance // by day and owner
}

func newPacked(o *Options) *packed {
	return &packed{newBalance(o), newBalance(o), newBalance(o)}
}

func (p *packed) close() {
	p.months.aside.close()
	p.ownerHours.aside.close()
	p.ownerDays.aside.close()
}

// hour takes in an hour of a row of days.
func (p *packed) hour(partition, no, day, hour int64, owner odometer.Owner, sums *odometer.Usage, recovered int64) error {
	return errors.Join(
		p.months.put(hourKey(partition, no, day, owner), true, sums, recovered),
		p.ownerHours.put(hourKey(0, 0, day+hour*odometer.HourMicros, owner), true, sums, recovered),
		p.ownerDays.put(hourKey(0, 0, day, owner), true, sums, recovered))
}

// checkPacked compares the packed tables with the days that p has taken in.
func (a *audit) checkPacked(ctx context.Context, p *packed) error {
	rep := a.report
	err := a.snap.each(ctx, func(rows *sql.Rows) error {
		var month, partition, no int64
		var owner odometer.Owner
		var blob []byte
		if err := rows.Scan(&month, &partition, &no, &owner.User, &owner.Org, &blob); err != nil {
			return err
		}
		days := daysOf(month)
		err := eachPart(blob, days, func(n int64, sums *odometer.Usage, recovered int64) error {
			return p.months.put(hourKey(partition, no, month+n*24*odometer.HourMicros, owner), false, sums, recovered)
		})
		if errors.Is(err, odometer.ErrInvalid) {
			rep.find("table", "months, partition %d, epoch number %d, %s: %v", partition, no, clock(month), err)
			return nil
		}
		return err
	}, `SELECT month, partition, epoch_no, usr, org, days FROM months`)
	if err != nil {
		return fmt.Errorf("read the months: %w", err)
	}
	for _, t := range []struct {
		name, query string
		length      int64
		parts       func(at int64) int64
		balance     *balance
	}{
		{"owner_days", `SELECT day, usr, org, hours FROM owner_days`, odometer.HourMicros, func(day int64) int64 { return 24 * oneIf(day == dayOf(day)) }, p.ownerHours},
		{"owner_months", `SELECT month, usr, org, days FROM owner_months`, 24 * odometer.HourMicros, daysOf, p.ownerDays},
	} {
		err := a.snap.each(ctx, func(rows *sql.Rows) error {
			var at int64
			var owner odometer.Owner
			var blob []byte
			if err := rows.Scan(&at, &owner.User, &owner.Org, &blob); err != nil {
				return err
			}
			parts := t.parts(at)
			err := eachAmount(blob, func(n int64, sums *odometer.Usage, recovered int64) error {
				if n >= parts {
					return fmt.Errorf("it has a part %d, there are %d: %w", n+1, parts, odometer.ErrInvalid)
				}
				return t.balance.put(hourKey(0, 0, at+n*t.length, owner), false, sums, recovered)
			})
			if errors.Is(err, odometer.ErrInvalid) {
				rep.find("table", "%s, %s of %s: %v", t.name, clock(at), owner.User, err)
				return nil
			}
			return err
		}, t.query)
		if err != nil {
			return fmt.Errorf("read %s: %w", t.name, err)
		}
	}
	err = p.months.settle(func(key string, d *amount) {
		partition, epoch, day, owner := cutHourKey(key)
		rep.find("months", "partition %d, epoch number %d, day %s, owner %s, against its hours: %s", partition, epoch, clock(day), owner, d)
	})
	if err != nil {
		return err
	}
	err = p.ownerHours.settle(func(key string, d *amount) {
		_, _, hour, owner := cutHourKey(key)
		rep.find("owner_days", "hour %s, owner %s, against the days: %s", clock(hour), owner, d)
	})
	if err != nil {
		return err
	}
	err = p.ownerDays.settle(func(key string, d *amount) {
		_, _, day, owner := cutHourKey(key)
		rep.find("owner_months", "day %s, owner %s, against its hours: %s", clock(day), owner, d)
	})
	if err != nil {
		return err
	}
	if err := a.checkOpenFrom(ctx); err != nil {
		return err
	}
	return a.checkOwnerEpochs(ctx)
}

// checkOpenFrom looks for open hours before the time from which questions look
// for them.
func (a *audit) checkOpenFrom(ctx context.Context) error {
	err := a.snap.each(ctx, func(rows *sql.Rows) error {
		var partition, no, hour int64
		if err := rows.Scan(&partition, &no, &hour); err != nil {
			return err
		}
		a.report.find("open_from", "partition %d: of the epochs from number %d on one has its hour %s open, which questions do not look at", partition, no, clock(hour))
		return nil
	}, `SELECT id >> 37, (id & 137438953471) * 8, open_hour FROM state
		WHERE open_hour > 0 AND open_hour < (SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'open_from')`)
	if err != nil {
		return fmt.Errorf("read the open hours: %w", err)
	}
	return nil
}

func oneIf(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// daysOf returns how many days the month has that starts at month; 0 where
// none does.
func daysOf(month int64) int64 {
	t := time.UnixMicro(month).UTC()
	if first := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC); first.UnixMicro() != month {
		return 0
	}
	return int64(time.Date(t.Year(), t.Month()+1, 0, 0, 0, 0, 0, time.UTC).Day())
}

// eachAmount decodes an owner's row: for each hour or day its number (a byte),
// the set of what is known (uvarint), and 128 bits each of the quantities and
// the recovered time, as the upper half (varint) and the lower (uvarint). Sums
// are given modulo 2^64, as a balance compares them; one that does not fit in
// 64 bits would take millions of machines an hour.
func eachAmount(b []byte, do func(n int64, sums *odometer.Usage, recovered int64) error) error {
	damaged := fmt.Errorf("the amounts are damaged: %w", odometer.ErrInvalid)
	for len(b) > 0 {
		n := int64(b[0])
		known, size := binary.Uvarint(b[1:])
		if size <= 0 || known > uint64(odometer.AllKnown) {
			return damaged
		}
		b = b[1+size:]
		var sums [odometer.Quantities + 1]int64
		for q := range sums {
			hi, m := binary.Varint(b)
			if m <= 0 {
				return damaged
			}
			lo, k := binary.Uvarint(b[m:])
			if k <= 0 {
				return damaged
			}
			if sums[q] = int64(lo); hi != sums[q]>>63 {
				return fmt.Errorf("a sum is beyond 64 bits: %w", odometer.ErrInvalid)
			}
			b = b[m+k:]
		}
		u := odometer.Usage{Known: odometer.Known(known)}
		copy(u.Vector[:], sums[:])
		if err := do(n, &u, sums[odometer.Quantities]); err != nil {
			return err
		}
	}
	return nil
}

// checkOwnerEpochs looks for usage of an owner that the index of owners' epochs
// does not lead to: of each partition it has the epochs up to a number.
func (a *audit) checkOwnerEpochs(ctx context.Context) error {
	for _, t := range []struct{ name, rows string }{
		{"days", `SELECT partition, epoch_no, usr, org FROM days`},
		{"hours", `SELECT partition, epoch_no, usr, org FROM hours`},
	} {
		err := a.snap.each(ctx, func(rows *sql.Rows) error {
			var partition, no int64
			var owner odometer.Owner
			if err := rows.Scan(&partition, &no, &owner.User, &owner.Org); err != nil {
				return err
			}
			a.report.find("owner_epochs", "partition %d, epoch number %d has usage of %s in %s that its index does not lead to", partition, no, owner.User, t.name)
			return nil
		}, `SELECT DISTINCT u.partition, u.epoch_no, u.usr, u.org FROM (`+t.rows+`) u
			WHERE u.epoch_no <= (SELECT coalesce(max(epoch_no), 1 << 62) FROM owners_known k WHERE k.partition = u.partition)
			AND NOT EXISTS (SELECT 1 FROM owner_epochs o WHERE o.usr = u.usr AND o.org = u.org AND o.partition = u.partition AND o.epoch_no = u.epoch_no)`)
		if err != nil {
			return fmt.Errorf("read the owners' epochs: %w", err)
		}
	}
	return nil
}

// checkOpenOwners looks for owners of the partition's open hours whose index
// does not lead to them.
func (p *replay) checkOpenOwners(ctx context.Context, owners map[int64]odometer.Owner) error {
	var known int64
	err := p.a.snap.conn.QueryRowContext(ctx, `SELECT coalesce(max(epoch_no), 1 << 62) FROM owners_known WHERE partition = ?`, p.partition).Scan(&known)
	if err != nil {
		return fmt.Errorf("read the owners' epochs: %w", err)
	}
	find, err := p.a.snap.conn.PrepareContext(ctx, `SELECT count(*) FROM owner_epochs WHERE usr = ? AND org = ? AND partition = ? AND epoch_no = ?`)
	if err != nil {
		return fmt.Errorf("read the owners' epochs: %w", err)
	}
	defer find.Close()
	for _, no := range slices.Sorted(maps.Keys(owners)) {
		if no > known {
			break
		}
		var n int
		if err := find.QueryRowContext(ctx, string(owners[no].User), string(owners[no].Org), p.partition, no).Scan(&n); err != nil {
			return fmt.Errorf("read the owners' epochs: %w", err)
		}
		if n == 0 {
			p.a.report.find("owner_epochs", "partition %d, epoch number %d is in an hour of %s that its index does not lead to", p.partition, no, owners[no].User)
		}
	}
	return nil
}
