package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
)

// Source reads every instance it knows at one moment and hands each reading to
// emit, which keeps nothing of it. An error says that something could not be
// read; what could be was emitted all the same.
type Source interface {
	Sample(emit func(*odometer.Reading)) error
}

// Meter turns readings into records. See package meter for the promises.
type Meter interface {
	// Observe folds a reading in. After an error nothing has changed.
	Observe(r *odometer.Reading, emit func(odometer.Record)) error
	// Flush closes every open period at its last reading.
	Flush(emit func(odometer.Record)) error
	// Restore goes on from a checkpoint of this agent's own spool, Adopt from
	// one that the server kept, in a new epoch.
	Restore(checkpoint json.RawMessage) error
	Adopt(checkpoint json.RawMessage, emit func(odometer.Record)) error
	// Gone ends the epoch of an instance that was found to be gone.
	Gone(id odometer.InstanceID, at odometer.Moment, emit func(odometer.Record))
	// Open yields the open periods as the events they would be now.
	Open(yield func(*odometer.Event) bool)
}

// Spool stores records.
type Spool interface {
	// Append stores all of the records or none. An error that wraps
	// [odometer.ErrInvalid] is a record's fault.
	Append([]odometer.Record) error
	// Checkpoints returns the newest checkpoint of each epoch.
	Checkpoints() []json.RawMessage
}

// Clock tells the time and waits.
type Clock interface {
	Now() time.Time
	// Sleep returns after d, or with the context's error when that ends.
	Sleep(ctx context.Context, d time.Duration) error
}

const (
	// Tick is how often the source is sampled: gauges are watched at this
	// resolution, and the open period is at most this old.
	Tick = time.Second
	// DefaultMaxPending is how many records may wait in memory before they are
	// merged over hour edges too: some 10 MB.
	DefaultMaxPending = 10_000
	// lastAttempts is how often the last records are offered to the spool
	// before Run gives up.
	lastAttempts = 3
	// retryMost bounds the wait before records that the spool did not take are
	// offered again, which begins with a tick and doubles: a disk that is full
	// for days is not worth an attempt at every tick.
	retryMost = 2 * time.Minute
)

// Options of an [Agent]. Source, Meter and Spool are required.
type Options struct {
	Source Source
	Meter  Meter
	Spool  Spool
	// Interval is the meter's; it shortens the tick where it is below a second.
	Interval time.Duration
	Clock    Clock // the real one by default
	Logger   *slog.Logger
	// Recall asks the server for the checkpoints it kept of this agent. It is
	// called once, before the first sample, when the spool has none, and may
	// take its time within the context; after an error the agent begins anew.
	Recall func(context.Context) ([]json.RawMessage, error)
	// Owners, where it is not nil, decides whose an instance is before its source.
	Owners *Owners
	// OnPeriod is called from Run for each period that has been stored, in
	// order. It must not keep the event or block.
	OnPeriod   func(*odometer.Event)
	MaxPending int
}

// Agent meters what its source reads, for as long as Run runs.
type Agent struct {
	opts Options
	log  *slog.Logger

	// Of the goroutine of Run.
	pending   []odometer.Record
	retryAt   time.Time                    // when they are offered again
	wait      time.Duration                // before that, after the last attempt; 0 after one that did not fail
	unwatched map[odometer.InstanceID]bool // restored, and not read since
	reading   odometer.Reading             // that is observed, where it is not as the source has it

	// metering guards the meter: Run holds it for one reading at a time.
	metering sync.Mutex

	mu     sync.Mutex // guards what follows
	live   LiveState
	here   map[odometer.InstanceID]bool // all that there are, nil for not known
	hereAt odometer.Moment
}

// LiveState is an agent at one moment.
type LiveState struct {
	Sampled time.Time         // the last sample that gave a reading or found nothing to read; zero before the first
	Open    []*odometer.Event // the open periods, each with the sequence it will get
	Last    *odometer.Event   // the period stored last, nil before the first

	Readings int64 // taken in
	Refused  int64 // readings that the meter refused, and records that the spool did
	Periods  int64 // stored, since the start
	Restored int   // epochs that went on at the start
	Pending  int   // records that wait in memory because the spool takes none

	SampleErr  error // of the last sample, nil when it was good
	RefusedErr error // the last refusal
	SpoolErr   error // of the last attempt to store, nil when it was good
}

// New returns an agent.
func New(o Options) (*Agent, error) {
	if o.Source == nil || o.Meter == nil || o.Spool == nil {
		return nil, fmt.Errorf("agent needs a source, a meter and a spool: %w", odometer.ErrInvalid)
	}
	if o.Clock == nil {
		o.Clock = realClock{}
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.MaxPending <= 0 {
		o.MaxPending = DefaultMaxPending
	}
	return &Agent{opts: o, log: o.Logger, unwatched: map[odometer.InstanceID]bool{}}, nil
}

// Run meters until the context ends, and then closes the open periods and
// stores them. It returns nil unless something could not be stored at the end;
// that is found again in the counters at the next start.
func (a *Agent) Run(ctx context.Context) error {
	a.restore(ctx)
	every := Tick
	if a.opts.Interval > 0 {
		every = min(every, a.opts.Interval)
	}
	for ctx.Err() == nil {
		a.tick()
		if a.waitUntil(ctx, nextTick(a.opts.Clock.Now(), every), every) != nil {
			break
		}
	}
	return a.finish()
}

// nextTick returns the next whole multiple of every, or the next UTC hour if
// that comes before.
func nextTick(now time.Time, every time.Duration) time.Time {
	next, hour := now.Truncate(every).Add(every), now.Truncate(time.Hour).Add(time.Hour)
	if hour.Before(next) {
		return hour
	}
	return next
}

// waitUntil waits until the clock shows the time. A timer that fires a little
// early waits on, so that no tick falls just before an hour's edge; a clock that
// was set back meanwhile does not.
func (a *Agent) waitUntil(ctx context.Context, until time.Time, every time.Duration) error {
	for {
		left := until.Sub(a.opts.Clock.Now())
		if left <= 0 {
			return ctx.Err()
		}
		if err := a.opts.Clock.Sleep(ctx, min(left, every)); err != nil {
			return err
		}
		if until.Sub(a.opts.Clock.Now()) >= left {
			return nil
		}
	}
}

// restore gives the meter the state that the spool has, or else the server.
func (a *Agent) restore(ctx context.Context) {
	states, err := a.opts.Spool.Checkpoints(), error(nil)
	restore := a.opts.Meter.Restore
	if len(states) == 0 && a.opts.Recall != nil {
		if states, err = a.opts.Recall(ctx); err != nil {
			a.log.Warn("the server could not be asked for the state of this agent; metering begins anew", "err", err)
			a.refuse(fmt.Errorf("ask the server for checkpoints: %w", err), 0)
			return
		}
		restore = func(state json.RawMessage) error { return a.opts.Meter.Adopt(state, a.collect) }
	}
	restored := 0
	for _, state := range states {
		a.metering.Lock()
		err := restore(state)
		a.metering.Unlock()
		if err != nil {
			a.log.Error("a checkpoint is refused; its instance begins a new epoch", "err", err)
			a.refuse(err, 1)
			continue
		}
		if h := headOf(state); !h.Ended {
			a.unwatched[h.Instance] = true
			restored++
		}
	}
	a.mu.Lock()
	a.live.Restored = restored
	a.mu.Unlock()
}

// Here says which instances there are, all of them. Others that were metered
// before this agent started, by its own state or the server's, are gone, unless
// it has read them since.
func (a *Agent) Here(at odometer.Moment, ids []odometer.InstanceID) {
	here := make(map[odometer.InstanceID]bool, len(ids))
	for _, id := range ids {
		here[id] = true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.here, a.hereAt = here, at
}

// retire ends the epochs of instances that are gone.
func (a *Agent) retire() {
	a.mu.Lock()
	here, at := a.here, a.hereAt
	a.here = nil
	a.mu.Unlock()
	if here == nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(a.unwatched)) {
		if here[id] {
			continue
		}
		delete(a.unwatched, id)
		a.log.Info("an instance that was metered before is gone", "instance", id)
		a.metering.Lock()
		a.opts.Meter.Gone(id, at, a.collect)
		a.metering.Unlock()
	}
}

// tick samples once and stores what follows.
func (a *Agent) tick() {
	readings, before := int64(0), len(a.pending)
	err := a.opts.Source.Sample(func(r *odometer.Reading) {
		readings++
		a.observe(r)
	})
	a.retire()
	a.mu.Lock()
	if err != nil && a.live.SampleErr == nil {
		a.log.Error("sampling failed", "err", err)
	}
	a.live.SampleErr = err
	a.live.Readings += readings
	if readings > 0 || err == nil { // a host may have nothing to meter
		a.live.Sampled = a.opts.Clock.Now()
	}
	a.mu.Unlock()
	if left := a.retryAt.Sub(a.opts.Clock.Now()); left <= 0 || left > retryMost { // or the clock was set back
		_ = a.store() // it is seen in live, and tried again
		return
	}
	if len(a.pending) > before {
		a.pending = a.compacted(a.pending)
		a.mu.Lock()
		a.live.Pending = len(a.pending)
		a.mu.Unlock()
	}
}

// compacted merges what must wait.
func (a *Agent) compacted(rs []odometer.Record) []odometer.Record {
	if rs = compact(rs, false); len(rs) > a.opts.MaxPending {
		rs = compact(rs, true)
	}
	return rs
}

func (a *Agent) observe(r *odometer.Reading) {
	owner, first := r.Owner, len(a.unwatched) > 0 && a.unwatched[r.Instance]
	if a.opts.Owners != nil {
		owner = a.opts.Owners.Owner(r.Instance, r.At.Wall, owner)
	}
	if owner != r.Owner || first {
		a.reading = *r // the source's own stays as it was
		a.reading.Owner, a.reading.Unwatched = owner, r.Unwatched || first
		r = &a.reading
		delete(a.unwatched, r.Instance)
	}
	a.metering.Lock()
	err := a.opts.Meter.Observe(r, a.collect)
	a.metering.Unlock()
	if err != nil {
		a.refuse(err, 1)
	}
}

func (a *Agent) collect(r odometer.Record) { a.pending = append(a.pending, r) }

// refuse counts and reports what was left out; what recurs is logged once.
func (a *Agent) refuse(err error, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.live.RefusedErr == nil || a.live.RefusedErr.Error() != err.Error() {
		a.log.Error("refused and left out", "err", err)
	}
	a.live.Refused += n
	a.live.RefusedErr = err
}

// store offers what is pending to the spool. What it does not take waits.
func (a *Agent) store() error {
	if len(a.pending) == 0 {
		return nil
	}
	stored, rest, err := appendRecords(a.opts.Spool, a.pending, func(err error) { a.refuse(err, 1) })
	var last *odometer.Event
	periods := int64(0)
	for i := range stored {
		if e := stored[i].Event; e != nil {
			last = e
			periods++
			if a.opts.OnPeriod != nil {
				a.opts.OnPeriod(e)
			}
		}
	}
	if last != nil {
		last = new(*last)
	}
	if err != nil {
		a.pending = a.compacted(rest)
		a.wait = min(max(2*a.wait, Tick), retryMost)
		a.retryAt = a.opts.Clock.Now().Add(a.wait)
	} else {
		a.wait, a.retryAt = 0, time.Time{}
		clear(a.pending)
		a.pending = a.pending[:0]
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil && a.live.SpoolErr == nil:
		a.log.Error("the spool takes no records; they wait in memory", "records", len(a.pending), "err", err)
	case err == nil && a.live.SpoolErr != nil:
		a.log.Info("the spool takes records again", "records", len(stored))
	}
	a.live.SpoolErr, a.live.Pending = err, len(a.pending)
	a.live.Periods += periods
	if last != nil {
		a.live.Last = last
	}
	return err
}

// finish closes the open periods and stores them.
func (a *Agent) finish() error {
	a.metering.Lock()
	err := a.opts.Meter.Flush(a.collect)
	a.metering.Unlock()
	if err != nil {
		err = fmt.Errorf("close the open periods: %w", err)
	}
	for n := range lastAttempts {
		stored := a.store()
		if stored == nil {
			return err
		}
		if n == lastAttempts-1 {
			err = errors.Join(err, fmt.Errorf("%d records could not be stored; the next start finds their usage in the counters: %w", len(a.pending), stored))
		}
	}
	return err
}

// Live returns the agent as it is now. It may be called at any time, also
// before and after Run; the events are the caller's.
func (a *Agent) Live() LiveState {
	var open []*odometer.Event
	a.metering.Lock()
	a.opts.Meter.Open(func(e *odometer.Event) bool {
		open = append(open, new(*e))
		return true
	})
	a.metering.Unlock()
	a.mu.Lock()
	defer a.mu.Unlock()
	l := a.live
	l.Open = open
	if l.Last != nil {
		l.Last = new(*l.Last)
	}
	return l
}

// Sampled returns [LiveState.Sampled] without making up the rest, which takes
// a copy of every open period.
func (a *Agent) Sampled() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.live.Sampled
}

type realClock struct{}

func (realClock) Now() time.Time { return time.Now() }

func (realClock) Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
