package audit

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.org/odometer"
)

// checkHours compares what the entries add up to for each epoch, hour and
// owner with hours, days and the open parts; and with the days what is summed
// from them.
func (a *audit) checkHours(ctx context.Context) error {
	rep := a.report
	err := a.snap.each(ctx, func(rows *sql.Rows) error {
		var partition, hour, no, recovered int64
		var owner odometer.Owner
		var blob []byte
		if err := rows.Scan(&partition, &hour, &no, &owner.User, &owner.Org, &blob, &recovered); err != nil {
			return err
		}
		sums, err := cutUsage(blob)
		if err != nil {
			rep.find("table", "hours, partition %d, epoch number %d, %s: %v", partition, no, clock(hour), err)
			return nil
		}
		return a.hours.put(hourKey(partition, no, hour, owner), false, &sums, recovered)
	}, `SELECT partition, hour, epoch_no, usr, org, sums, recovered_us FROM hours`)
	if err != nil {
		return fmt.Errorf("read the hours: %w", err)
	}
	p := newPacked(&a.o)
	defer p.close()
	err = a.snap.each(ctx, func(rows *sql.Rows) error {
		var partition, day, no int64
		var owner odometer.Owner
		var blob []byte
		if err := rows.Scan(&partition, &day, &no, &owner.User, &owner.Org, &blob); err != nil {
			return err
		}
		err := eachPart(blob, 24, func(h int64, sums *odometer.Usage, recovered int64) error {
			if err := p.hour(partition, no, day, h, owner, sums, recovered); err != nil {
				return err
			}
			return a.hours.put(hourKey(partition, no, day+h*odometer.HourMicros, owner), false, sums, recovered)
		})
		if errors.Is(err, odometer.ErrInvalid) {
			rep.find("table", "days, partition %d, epoch number %d, %s: %v", partition, no, clock(day), err)
			return nil
		}
		return err
	}, `SELECT partition, day, epoch_no, usr, org, hours FROM days`)
	if err != nil {
		return fmt.Errorf("read the days: %w", err)
	}
	err = a.hours.settle(func(key string, d *amount) {
		partition, epoch, hour, owner := cutHourKey(key)
		rep.find("hours", "partition %d, epoch number %d, hour %s, owner %s: %s", partition, epoch, clock(hour), owner, d)
	})
	if err != nil {
		return err
	}
	return a.checkPacked(ctx, p)
}

// eachPart decodes the hours of a day or the days of a month, of which there are
// so many: for each its number from 0 (a byte), its sums, and the recovered time
// (varint).
func eachPart(b []byte, many int64, do func(n int64, sums *odometer.Usage, recovered int64) error) error {
	for len(b) > 0 {
		part := int64(b[0])
		if part >= many {
			return fmt.Errorf("of %d parts there is one with the number %d: %w", many, part, odometer.ErrInvalid)
		}
		sums, rest, err := odometer.CutUsage(b[1:])
		if err != nil {
			return err
		}
		recovered, n := binary.Varint(rest)
		if n <= 0 {
			return fmt.Errorf("the hours are damaged: %w", odometer.ErrInvalid)
		}
		b = rest[n:]
		if err := do(part, &sums, recovered); err != nil {
			return err
		}
	}
	return nil
}

func cutHourKey(key string) (partition, epoch, time int64, owner string) {
	next := func() int64 {
		n := int64(binary.BigEndian.Uint64([]byte(key)))
		key = key[8:]
		return n
	}
	partition, epoch, time = next(), next(), next()
	user, org, _ := strings.Cut(key, "\t")
	if org != "" {
		user += " (" + org + ")"
	}
	return partition, epoch, time, user
}

// String says how far the two sides are apart.
func (a *amount) String() string {
	var parts []string
	add := func(name string, n int64) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf("the tables lack %d %s", n, name))
		} else if n < 0 {
			parts = append(parts, fmt.Sprintf("the tables have %d %s too much", -n, name))
		}
	}
	for q, n := range a.sum {
		add(odometer.Quantity(q).String(), n)
	}
	add("recovered_us", a.recovered)
	if len(parts) == 0 {
		return "the tables and the journal differ in what is known and what is not"
	}
	return strings.Join(parts, ", ")
}

func clock(us int64) string { return time.UnixMicro(us).UTC().Format("2006-01-02T15Z") }
