package threshold

import (
	"context"

	"example.org/odometer"
)

// What is read behind the ledger can find that something of it is gone: records were
// pruned while nobody checked thresholds, for weeks, or the file that has what is
// remembered is newer than the ledger in it. Nothing brings back what single events did.
// Sums can be had: what the ledger answers of a budget's present period is whole.

// skip goes on after records that were pruned before they were taken in.
func (f *follower) skip(ctx context.Context, last, removed int64) error {
	f.logger.Error("records of the journal were pruned before thresholds were checked on them: what single events in them reached is not told; budgets are summed anew",
		"records", removed, "after", f.record, "up_to", last)
	f.count(func(s *Stats) { s.Skipped += uint64(removed) })
	return f.sumAll(ctx)
}

// resume goes on at the journal's end where more was taken in than there is, and fails
// with why where that is not so.
func (f *follower) resume(ctx context.Context, why error) error {
	_, end, err := f.end(ctx)
	if err != nil {
		return err
	}
	if end >= f.record {
		return why
	}
	f.logger.Error("thresholds were checked on more than the ledger has: going on from its end; budgets are summed anew", "record", f.record, "end", end)
	f.count(func(s *Stats) { s.Resumed++ })
	f.record = end
	if err := f.sumAll(ctx); err != nil {
		return err
	}
	return f.store(ctx, true)
}

// sumAll sums every budget anew, as of what is booked now. What looks at single events
// counts from where that is read on, unless it did before.
func (f *follower) sumAll(ctx context.Context) error {
	for _, w := range f.fold.watches {
		if w.Condition != odometer.ConditionBudget {
			w.from = min(w.from, f.record)
		} else if err := f.sum(ctx, w); err != nil {
			return err
		}
		f.fold.begun = append(f.fold.begun, w)
	}
	return nil
}
