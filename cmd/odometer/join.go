package main

import (
	"context"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// Here the rooms meet that speak of the same thing in their own words.

const (
	// receiveMost deliveries are handed to the ledger at once: what one of its
	// commits takes.
	receiveMost = 1000
	// receiveLinger is how long deliveries gather: about one disk flush, so
	// that it costs no time that a commit does not take anyway.
	receiveLinger = 2 * time.Millisecond
)

// deliveries is a [queue.Receiver] as package ingest wants it.
type deliveries struct{ from *queue.Receiver }

func (d deliveries) Receive(ctx context.Context) ([]ingest.Delivery, error) {
	got, err := d.from.Receive(ctx, receiveMost, receiveLinger)
	if err != nil {
		return nil, err
	}
	out := make([]ingest.Delivery, len(got))
	for i, g := range got {
		out[i] = ingest.Delivery{Agent: g.Agent, Data: g.Data, Err: g.Err, Respond: g.Respond, Ack: g.Ack}
	}
	return out, nil
}

// feedName names the cursor of the topic USAGE in the ledger.
const feedName = "usage"

// entries is the ledger as a [queue.Feed] wants it, and knows for how long the
// topic has been behind.
type entries struct {
	ledger.Feed

	mu     sync.Mutex
	oldest time.Time // when the first of the entries being published was booked, zero for none
}

func (e *entries) Pending(ctx context.Context, limit int) ([]odometer.Entry, func(context.Context, string, uint64, uint64) error, error) {
	list, advance, err := e.Feed.Pending(ctx, limit)
	if err != nil {
		return nil, nil, err
	}
	var oldest time.Time
	for i := range list {
		if booked := time.UnixMicro(list[i].BookedAt); oldest.IsZero() || booked.Before(oldest) {
			oldest = booked
		}
	}
	e.note(oldest)
	return list, func(ctx context.Context, stream string, back, last uint64) error {
		err := advance(ctx, stream, back, last)
		if err == nil {
			e.note(time.Time{})
		}
		return err
	}, nil
}

func (e *entries) note(oldest time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.oldest = oldest
}

func (e *entries) since() time.Time {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.oldest
}

// tickEvery is how often the ledger does what only time brings about.
const tickEvery = time.Minute

// upkeep calls the ledger's Tick until ctx is done. What fails is tried again
// a minute later.
func upkeep(ctx context.Context, l *ledger.Ledger, failed func(error)) error {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	for {
		if err := l.Tick(ctx); err != nil && ctx.Err() == nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
