package ledger

import (
	"context"
	"fmt"

	"example.org/odometer"
)

// bookedRecords is how many records of the journal [Ledger.Booked] reads at once, at
// most: few of them book hundreds of entries.
const bookedRecords = 64

// Booked returns entries of the journal's records after one, by its number in the order of
// commit: whole records, up to one where upTo is not 0, until there are at least limit
// entries; with the number of each entry's record, and of the last that it looked at. That
// is the one asked after where nothing more is booked. Records that were pruned are left
// out: removed is how many of them lie in between, of which some may have booked nothing.
// The error wraps [odometer.ErrConflict] where after lies beyond the last record.
func (l *Ledger) Booked(ctx context.Context, after, upTo int64, limit int) (entries []odometer.Entry, numbers []int64, last, removed int64, err error) {
	fail := func(err error) ([]odometer.Entry, []int64, int64, int64, error) {
		return nil, nil, after, 0, fmt.Errorf("read what was booked: %w", err)
	}
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return fail(err)
	}
	defer tx.end(ctx)
	end, err := lastRecord(ctx, tx)
	if err != nil {
		return fail(err)
	}
	if end < after {
		return fail(fmt.Errorf("record %d was read, and the last is %d, as after a restore from a backup without what reads it: %w", after, end, odometer.ErrConflict))
	}
	if upTo != 0 {
		end = min(end, upTo)
	}
	last = after
	for last < end && len(entries) < limit {
		read := 0
		for r, err := range records(ctx, tx, `WHERE id > ? AND id <= ? AND entries > 0 AND `+unpruned+` ORDER BY id LIMIT ?`, last, end, bookedRecords) {
			if err != nil {
				return fail(err)
			}
			booked, err := r.booked()
			if err != nil {
				return fail(err)
			}
			entries = append(entries, booked...)
			for range booked {
				numbers = append(numbers, r.id)
			}
			last = r.id
			if read++; len(entries) >= limit {
				break
			}
		}
		if read < bookedRecords && len(entries) < limit {
			last = end
		}
	}
	if removed, err = removedOf(ctx, tx, after, last); err != nil {
		return fail(err)
	}
	return entries, numbers, last, removed, nil
}

// Removed returns how many records between two cursors were pruned, of which some may have
// booked nothing: what one may have missed whom [Ledger.Follow] has just led from one to the
// other. A record that lies in part before the first counts.
func (l *Ledger) Removed(ctx context.Context, after, upTo string) (records int64, err error) {
	from, _, err := parseCursor(after)
	if err != nil {
		return 0, err
	}
	to, _, err := parseCursor(upTo)
	if err != nil {
		return 0, err
	}
	if l.tail.has(from) {
		return 0, nil
	}
	if records, err = removedOf(ctx, l.read, max(from.id, 1)-1, to.id-1); err != nil {
		return 0, fmt.Errorf("count what was pruned: %w", err)
	}
	return records, nil
}

// removedOf returns how many records after one, up to another, were pruned. Records are
// numbered without a gap, so they are those that are not there, and those that are kept
// only because something refers to them.
func removedOf(ctx context.Context, db queryer, after, upTo int64) (n int64, err error) {
	if upTo <= after {
		return 0, nil
	}
	err = db.QueryRowContext(ctx, `SELECT CASE WHEN EXISTS (SELECT 1 FROM heads)
		THEN ?2 - ?1 - (SELECT count(*) FROM journal WHERE id > ?1 AND id <= ?2 AND `+unpruned+`) ELSE 0 END`, after, upTo).Scan(&n)
	return n, err
}

// lastRecord returns the number of the last record of the journal, 0 for none.
func lastRecord(ctx context.Context, db queryer) (id int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) FROM journal`).Scan(&id)
	return id, err
}

// UsageAt is [Ledger.Usage] together with the number of the last record that the answer
// knows.
func (l *Ledger) UsageAt(ctx context.Context, q odometer.UsageQuery) (rows []odometer.UsageRow, last int64, err error) {
	tx, err := l.questions.begin(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("usage: %w", err)
	}
	defer tx.end(ctx)
	if last, err = lastRecord(ctx, tx); err != nil {
		return nil, 0, fmt.Errorf("usage: %w", err)
	}
	u := newUsageQuery(ctx, tx, q)
	if err := u.answer(); err != nil {
		return nil, 0, fmt.Errorf("usage: %w", err)
	}
	return u.result(), last, nil
}
