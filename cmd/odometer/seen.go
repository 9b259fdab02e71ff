package main

import (
	"context"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// seenLedger answers the API's questions from the ledger: each with the view of who
// asks as a condition.
type seenLedger struct{ ledger *ledger.Ledger }

// narrow returns a view as a condition, nil for none.
func narrow(seen odometer.View) *odometer.View {
	if seen.All() {
		return nil
	}
	return &seen
}

// Usage implements [api.UsageReader].
func (l seenLedger) Usage(ctx context.Context, seen odometer.View, q odometer.UsageQuery) ([]odometer.UsageRow, error) {
	q.View = narrow(seen)
	return l.ledger.Usage(ctx, q)
}

// Entries implements [api.EntryReader].
func (l seenLedger) Entries(ctx context.Context, seen odometer.View, q odometer.EntryQuery) ([]odometer.Entry, string, error) {
	q.View = narrow(seen)
	return l.ledger.Entries(ctx, q)
}

// Lifecycle implements [api.LifecycleReader].
func (l seenLedger) Lifecycle(ctx context.Context, seen odometer.View, q odometer.LifecycleQuery) ([]odometer.Happening, error) {
	q.View = narrow(seen)
	return l.ledger.Lifecycle(ctx, q)
}

// EachUsage implements [api.Exporter].
func (l seenLedger) EachUsage(ctx context.Context, seen odometer.View, q odometer.UsageQuery, each func(*odometer.UsageRow) error) error {
	q.View = narrow(seen)
	return l.ledger.EachUsage(ctx, q, each)
}

// EachEntry implements [api.Exporter].
func (l seenLedger) EachEntry(ctx context.Context, seen odometer.View, q odometer.EntryQuery, each func(*odometer.Entry) error) error {
	q.View = narrow(seen)
	return l.ledger.EachEntry(ctx, q, each)
}

// End implements [api.Exporter].
func (l seenLedger) End(ctx context.Context) (string, error) { return l.ledger.End(ctx) }

// Follow implements [api.Follower].
func (l seenLedger) Follow(ctx context.Context, seen odometer.View, q odometer.EntryQuery) ([]odometer.Followed, string, error) {
	q.View = narrow(seen)
	return l.ledger.Follow(ctx, q)
}

// News implements [api.Follower].
func (l seenLedger) News() <-chan struct{} { return l.ledger.News() }
