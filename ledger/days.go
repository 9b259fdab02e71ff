package ledger

import (
	"encoding/binary"
	"fmt"

	"example.org/odometer"
)

// compactAfter is how long after the end of a day its hours are compacted:
// long enough for most late events, so that few pieces come after it.
const compactAfter = odometer.DayMicros

// dayHours are the 24 hours of one owner's use of one epoch on one day.
type dayHours [24]struct {
	sums      odometer.Usage
	recovered int64
}

// appendDay encodes d: for each hour that has anything its number, its sums
// in their binary form and the recovered time as a varint.
func appendDay(b []byte, d *dayHours) []byte {
	for h := range d {
		if d[h].sums == (odometer.Usage{}) {
			continue
		}
		b = append(b, byte(h))
		b = d[h].sums.AppendBinary(b)
		b = binary.AppendVarint(b, d[h].recovered)
	}
	return b
}

// cutDay decodes what appendDay wrote and calls each for every hour in it.
func cutDay(b []byte, each func(hour int, sums odometer.Usage, recovered int64) error) error {
	for len(b) > 0 {
		hour := int(b[0])
		sums, rest, err := odometer.CutUsage(b[1:])
		if err != nil || hour > 23 {
			return fmt.Errorf("hours of a day: %w", odometer.ErrInvalid)
		}
		recovered, n := binary.Varint(rest)
		if n <= 0 {
			return fmt.Errorf("hours of a day: %w", odometer.ErrInvalid)
		}
		b = rest[n:]
		if err := each(hour, sums, recovered); err != nil {
			return err
		}
	}
	return nil
}

type dayKey struct {
	partition int
	epochNo   int64
	owner     odometer.Owner
}

type ownerKey struct {
	partition int
	owner     odometer.Owner
}

// compact moves the pieces of one past day, the oldest there is, into one row
// for each epoch and owner, and adds them to the owners' totals of that day.
// Pieces that come later for that day are compacted again.
func (f *fold) compact(now int64) error {
	var oldest *int64
	if err := f.tx.QueryRowContext(f.ctx, `SELECT min(hour) FROM hours`).Scan(&oldest); err != nil {
		return fmt.Errorf("compact: %w", err)
	}
	if oldest == nil || *oldest-*oldest%odometer.DayMicros+odometer.DayMicros+compactAfter > now {
		return nil
	}
	day := *oldest - *oldest%odometer.DayMicros
	if err := f.compactDay(day); err != nil {
		return fmt.Errorf("compact day %d: %w", day, err)
	}
	return nil
}

func (f *fold) compactDay(day int64) error {
	rows, err := f.tx.QueryContext(f.ctx, `SELECT hour, partition, epoch_no, usr, org, sums, recovered_us FROM hours WHERE hour >= ? AND hour < ?`, day, day+odometer.DayMicros)
	if err != nil {
		return err
	}
	days := map[dayKey]*dayHours{}
	owners := map[ownerKey]*bucket{}
	for rows.Next() {
		var k dayKey
		var hour, recovered int64
		var blob []byte
		if err := rows.Scan(&hour, &k.partition, &k.epochNo, &k.owner.User, &k.owner.Org, &blob, &recovered); err != nil {
			rows.Close()
			return err
		}
		sums, _, err := odometer.CutUsage(blob)
		if err != nil {
			rows.Close()
			return err
		}
		d := days[k]
		if d == nil {
			d = new(dayHours)
			days[k] = d
		}
		ok := ownerKey{k.partition, k.owner}
		o := owners[ok]
		if o == nil {
			o = new(bucket)
			owners[ok] = o
		}
		h := &d[(hour-day)/odometer.HourMicros]
		if !h.sums.Add(sums) || !o.sums.Add(sums) {
			rows.Close()
			return fmt.Errorf("sum overflows: %w", odometer.ErrInvalid)
		}
		h.recovered += recovered
		o.recovered += recovered
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for k, d := range days {
		if err := f.mergeDay(day, k, d); err != nil {
			return err
		}
	}
	for k, o := range owners {
		if err := f.mergeOwnerDay(day, k, o); err != nil {
			return err
		}
	}
	_, err = f.exec(`DELETE FROM hours WHERE hour >= ? AND hour < ?`, day, day+odometer.DayMicros)
	return err
}

// mergeDay adds d to what the day's row has already.
func (f *fold) mergeDay(day int64, k dayKey, d *dayHours) error {
	var blob []byte
	err := f.tx.QueryRowContext(f.ctx, `SELECT coalesce(max(hours), x'') FROM days WHERE day = ? AND partition = ? AND epoch_no = ? AND usr = ? AND org = ?`,
		day, k.partition, k.epochNo, string(k.owner.User), string(k.owner.Org)).Scan(&blob)
	if err != nil {
		return err
	}
	err = cutDay(blob, func(hour int, sums odometer.Usage, recovered int64) error {
		if !d[hour].sums.Add(sums) {
			return fmt.Errorf("sum overflows: %w", odometer.ErrInvalid)
		}
		d[hour].recovered += recovered
		return nil
	})
	if err != nil {
		return err
	}
	_, err = f.exec(`INSERT INTO days (day, partition, epoch_no, usr, org, hours) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (day, partition, epoch_no, usr, org) DO UPDATE SET hours = excluded.hours`,
		day, k.partition, k.epochNo, string(k.owner.User), string(k.owner.Org), appendDay(nil, d))
	return err
}

func (f *fold) mergeOwnerDay(day int64, k ownerKey, o *bucket) error {
	var blob []byte
	var recovered int64
	err := f.tx.QueryRowContext(f.ctx, `SELECT coalesce(max(sums), x''), coalesce(max(recovered_us), 0) FROM owner_days WHERE day = ? AND partition = ? AND usr = ? AND org = ?`,
		day, k.partition, string(k.owner.User), string(k.owner.Org)).Scan(&blob, &recovered)
	if err != nil {
		return err
	}
	if len(blob) > 0 {
		sums, _, err := odometer.CutUsage(blob)
		if err != nil {
			return err
		}
		if !o.sums.Add(sums) {
			return fmt.Errorf("sum overflows: %w", odometer.ErrInvalid)
		}
	}
	_, err = f.exec(`INSERT INTO owner_days (day, partition, usr, org, sums, recovered_us) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (day, partition, usr, org) DO UPDATE SET sums = excluded.sums, recovered_us = excluded.recovered_us`,
		day, k.partition, string(k.owner.User), string(k.owner.Org), o.sums.AppendBinary(nil), o.recovered+recovered)
	return err
}
