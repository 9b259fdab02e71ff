package ledger

import (
	"database/sql"
	"fmt"
	"strconv"
	"time"

	"example.org/odometer"
)

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

// partitions returns, as a JSON array, those in which what is asked for may lie;
// "" for none.
func (u *usageQuery) partitions() (string, error) {
	if u.epochs == "" {
		list := make([]string, odometer.Partitions)
		for p := range list {
			list[p] = strconv.Itoa(p)
		}
		return jsonArray(list), nil
	}
	var list sql.NullString
	err := u.tx.QueryRowContext(u.ctx, `SELECT '[' || group_concat(partition, ',') || ']' FROM (SELECT DISTINCT partition FROM `+u.epochs+`)`, u.args...).Scan(&list)
	return list.String, err
}

// longRecord is what a record of the journal rarely covers: the indexes of the
// journal by time tell the two kinds apart.
const longRecord = 2 * odometer.HourMicros

// The conditions of those indexes, as the schema has them.
var (
	shortRecords = fmt.Sprintf(`max_us - min_us <= %d`, longRecord)
	longRecords  = fmt.Sprintf(`max_us - min_us > %d`, longRecord)
)

// last returns the end of the latest usage there is.
func (u *usageQuery) last() (int64, error) {
	partitions, err := u.partitions()
	if err != nil || partitions == "" {
		return 0, err
	}
	var last int64
	err = u.tx.QueryRowContext(u.ctx, `SELECT coalesce(max(max(
			coalesce((SELECT j.max_us FROM journal j WHERE `+shortRecords+` AND j.partition = k.partition ORDER BY j.max_us DESC LIMIT 1), 0),
			coalesce((SELECT j.max_us FROM journal j WHERE `+longRecords+` AND j.partition = k.partition ORDER BY j.max_us DESC LIMIT 1), 0))), 0)
		FROM owners_known k WHERE k.partition`+ofList, partitions).Scan(&last)
	return last, err
}

// entries adds what the entries of the journal say of [from, to), cut at its
// edges and at the hours within.
func (u *usageQuery) entries(from, to int64) error {
	if from >= to {
		return nil
	}
	if from < u.gone.maxUS && to > odometer.Hour(u.gone.minUS) {
		return fmt.Errorf("the journal before %s was pruned, and usage before that can only be asked for by whole hours (UTC), which %s to %s is not: %w",
			time.UnixMicro(ceilHour(u.gone.maxUS)).UTC().Format(time.RFC3339), time.UnixMicro(from).UTC().Format(time.RFC3339Nano), time.UnixMicro(to).UTC().Format(time.RFC3339Nano), odometer.ErrInvalid)
	}
	partitions, err := u.partitions()
	if err != nil || partitions == "" {
		return err
	}
	in := `WHERE partition` + ofList + ` AND max_us > ? AND min_us < ? AND entries > 0 AND `
	if err := u.cutRecords(from, to, in+shortRecords+` AND max_us < ?`, partitions, from, to, to+longRecord+1); err != nil {
		return err
	}
	return u.cutRecords(from, to, in+longRecords, partitions, from, to)
}

func (u *usageQuery) cutRecords(from, to int64, where string, args ...any) error {
	for r, err := range records(u.ctx, u.tx, where, args...) {
		if err != nil {
			return err
		}
		booked, err := r.booked()
		if err != nil {
			return err
		}
		for i := range booked {
			if u.full {
				return nil
			}
			ev := &booked[i].Event
			if u.epoch != "" && ev.Epoch != u.epoch {
				continue
			}
			recovery, err := timeIsRecovered(u.ctx, u.tx, &booked[i])
			if err != nil {
				return err
			}
			for a := max(from, odometer.Hour(max(from, ev.Span.Start))); a < min(to, ev.Span.End); a = u.nextCut(a) {
				part := ev.Usage.Between(ev.Span, a, min(u.nextCut(a), to))
				if part.Vector == (odometer.Vector{}) {
					continue
				}
				recovered := int64(0)
				if recovery {
					recovered = part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime]
				}
				u.addAt(u.place(a), ev.Instance, ev.Owner, &part, recovered)
			}
		}
	}
	return nil
}
