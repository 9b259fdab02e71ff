package notify

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"example.org/odometer"
)

const (
	// lookEvery is how often Run looks though nothing woke it: whatever is due, and a
	// clock that was set, is found by then.
	lookEvery = 5 * time.Second
	// failedPause is how long Run waits after a transaction that failed.
	failedPause = time.Second
	// gatherShare is for how many times as long as the round before took the next one
	// waits for more after it was woken, at least gatherLeast and at most gatherMost: what
	// comes in at once is one transaction and not many, and the ledger, whose commits wait
	// for each, has the file for most of the time, however slow the disk is.
	gatherShare = 3
	gatherLeast = time.Millisecond
	gatherMost  = 20 * time.Millisecond
)

// result is how an attempt went.
type result struct {
	job       *job
	attempt   odometer.Attempt
	wait      time.Duration // for which the receiver asked to be left alone, 0 for not
	gone      bool          // it said that it is there no more
	cancelled bool          // the server ended before the receiver answered
	closed    bool          // a breaker closed by it
}

func (r *result) ok() bool { return r.attempt.Err == "" }

// Run delivers until ctx is done, and then waits for attempts that go on, which it
// cancels, and records them. It returns an error only where another process has opened
// the ledger since. Whatever else fails is tried again, and is in [Stats].
func (n *Notifier) Run(ctx context.Context) error {
	flights, land := context.WithCancel(ctx)
	defer land()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		changes, entries := n.newsOf()
		began := time.Now()
		next, err := n.round(ctx, flights)
		gather := min(gatherMost, max(gatherLeast, gatherShare*time.Since(began)))
		wait := n.until(next)
		switch {
		case ctx.Err() != nil:
			land()
			return n.settle(context.WithoutCancel(ctx))
		case permanent(err):
			land()
			n.flight.Wait()
			return fmt.Errorf("deliver notifications: %w", err)
		case err != nil:
			wait = failedPause
		}
		n.failed(err)
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-changes:
			pause(ctx, gather)
		case <-entries:
			pause(ctx, gather)
		case <-n.wake:
			pause(ctx, gather)
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// newsOf returns what wakes Run. It is taken before Run looks.
func (n *Notifier) newsOf() (changes, entries <-chan struct{}) {
	if n.o.Changes != nil {
		changes = n.o.Changes.News()
	}
	if n.o.Entries != nil {
		entries = n.o.Entries.News()
	}
	return changes, entries
}

// settle records what the last attempts came to.
func (n *Notifier) settle(ctx context.Context) error {
	n.flight.Wait()
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n.gatherResults()
	if len(n.pending) == 0 {
		return nil
	}
	err := n.transact(ctx, func(tx *sql.Tx) error { return n.recordAll(ctx, tx, n.now()) })
	if err != nil { // they are made again, under the same ids
		n.logger.Warn("what the last attempts of notifications came to is not recorded; they are made again", "attempts", len(n.pending), "err", err)
	}
	n.pending = nil
	return nil
}

// failed notes how a round went, and logs it where that changed.
func (n *Notifier) failed(err error) {
	text := ""
	if err != nil {
		text = err.Error()
	}
	n.mu.Lock()
	was := n.failing
	n.failing = text
	n.mu.Unlock()
	switch {
	case err != nil && was == "":
		n.logger.Error("notifications wait; trying again", "err", err)
	case err == nil && was != "":
		n.logger.Info("notifications go on")
	}
}

func (n *Notifier) gatherResults() {
	for {
		select {
		case r := <-n.results:
			n.pending = append(n.pending, r)
		default:
			return
		}
	}
}

// round does what is to be done now, in one transaction, begins the attempts that it
// claimed, and says when the next one has something to do where nothing happens, zero for
// never. A round that finds nothing to do writes nothing.
func (n *Notifier) round(ctx, flights context.Context) (next time.Time, err error) {
	n.gatherResults()
	usage := time.Since(n.looked) >= n.usagePause
	w, err := n.look(ctx, usage)
	if err != nil {
		return next, unavailable(err)
	}
	if usage {
		n.looked = time.Now()
	} else if n.o.Entries != nil { // something may have been booked
		defer func() { next = earlier(next, n.clock().Add(n.usagePause)) }()
	}
	now := n.now()
	if err := n.keepUp(ctx, now); err != nil {
		return next, err
	}
	list, err := dues(ctx, n.db)
	if err != nil {
		return next, unavailable(err)
	}
	again := n.retell(ctx, flights, now)
	if len(n.pending) == 0 && w.none() {
		ready, later := n.ready(list, now)
		if !ready {
			return earlier(again, later), nil
		}
	}
	var jobs []*job
	var later time.Time
	err = n.transact(ctx, func(tx *sql.Tx) error {
		now = n.now()
		if err := n.recordAll(ctx, tx, now); err != nil {
			return err
		}
		if err := n.take(ctx, tx, now, &w); err != nil {
			return err
		}
		if list, err = dues(ctx, tx); err != nil {
			return err
		}
		jobs, later, err = n.claims(ctx, tx, now, list)
		return err
	})
	if err != nil {
		return next, err
	}
	n.landed()
	for _, j := range jobs {
		n.launch(flights, j)
	}
	if w.more() {
		return n.clock(), nil
	}
	return earlier(again, later), nil
}

// ready reports whether anything of a list may be claimed, or else when to look again.
func (n *Notifier) ready(list []due, now int64) (ready bool, later time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, d := range list {
		t := moment(d.next)
		if d.next <= now {
			e := n.endpoints[d.id]
			if e == nil {
				return true, later
			}
			most, again := e.may(moment(now))
			if most > 0 {
				return true, later
			}
			if t = again; t.IsZero() { // a result comes first
				continue
			}
		}
		later = earlier(later, t)
	}
	return false, later
}

// earlier is the first of two moments, of which zero is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// until is how long Run waits for a moment.
func (n *Notifier) until(t time.Time) time.Duration {
	if t.IsZero() {
		return lookEvery
	}
	return min(lookEvery, max(t.Sub(n.clock()), time.Millisecond))
}

// launch begins an attempt that was claimed.
func (n *Notifier) launch(ctx context.Context, j *job) {
	began := n.clock()
	n.mu.Lock()
	e := n.endpointOf(&j.channel)
	e.flying[j.id] = true
	if groups(j.channel.Kind) && !j.urgent {
		e.last = grouped{began, j.events}
	}
	n.mu.Unlock()
	n.flight.Go(func() {
		r := n.attempt(ctx, j)
		n.ended(&r)
		n.results <- r
		n.poke()
	})
}

// ended notes in memory how an attempt went.
func (n *Notifier) ended(r *result) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.endpoints[r.job.channel.ID]; e != nil { // it was not deleted meanwhile
		r.closed = e.ended(r.ok(), r.wait, n.clock())
	}
	n.counts[Count{r.job.channel.Kind, r.ok()}]++
}

// recordAll puts on record what attempts came to.
func (n *Notifier) recordAll(ctx context.Context, tx *sql.Tx, now int64) error {
	for i := range n.pending {
		if err := n.record(ctx, tx, now, &n.pending[i]); err != nil {
			return err
		}
	}
	return nil
}

// landed notes that what was pending is on record.
func (n *Notifier) landed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i := range n.pending {
		j := n.pending[i].job
		if e := n.endpoints[j.channel.ID]; e != nil {
			delete(e.flying, j.id)
		}
	}
	n.pending = n.pending[:0]
}
