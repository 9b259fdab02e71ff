package directory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
)

// Source knows whose instances are. Its methods may be called at once.
type Source interface {
	// Owner returns whose an instance is, since when (From), and that it has no end
	// (Until is [odometer.Forever]). An error that wraps [odometer.ErrNotFound] says
	// that nobody is known to own it, one that wraps [odometer.ErrInvalid] that the
	// answer cannot be right; after any other one it is asked again soon.
	Owner(ctx context.Context, instance odometer.InstanceID) (odometer.Ownership, error)
}

const (
	// DefaultMaxAge is how old an answer may be: a minute, in which a service that
	// answers a thousand questions a second is asked for the largest fleet.
	DefaultMaxAge = time.Minute
	// DefaultTimeout is how long one question may take.
	DefaultTimeout = 5 * time.Second
	// atOnce questions are asked at a time.
	atOnce = 8
	// pace is how often it is looked what is due.
	pace = 250 * time.Millisecond
	// retryFirst is the wait after a question that failed, which doubles up to MaxAge.
	retryFirst = time.Second
	// breakAfter failures in a row the service is left alone for breakFor, and then
	// asked one question.
	breakAfter = 5
	breakFor   = 30 * time.Second
	// aheadMost is how far in the future an answer may begin: clocks differ.
	aheadMost = 5 * time.Minute
)

// Options of a [Follower]. Source, Instances and Record are required.
type Options struct {
	Source Source
	// Instances returns those that are there. It waits for nothing.
	Instances func() []odometer.InstanceID
	// Record records an answer. It changes nothing where that is so already, and wraps
	// [odometer.ErrConflict] where something else was decided that is to stay.
	Record  func(context.Context, odometer.Ownership) error
	MaxAge  time.Duration // DefaultMaxAge where it is 0
	Timeout time.Duration // DefaultTimeout where it is 0
	Logger  *slog.Logger

	rest time.Duration // breakFor where it is 0
}

// Follower asks a [Source] for the owners of instances, and has them recorded.
type Follower struct {
	o Options

	mu    sync.Mutex // guards what follows
	known map[odometer.InstanceID]*answer
	stats Stats
}

// answer is what is known of an instance.
type answer struct {
	owner    odometer.Ownership // the last good answer; no user before that
	answered time.Time          // when the service said so, or said that it knows nobody
	recorded bool               // the answer
	due      time.Time          // when it is asked for again
	failures int                // since the last answer
}

// Stats are figures about following.
type Stats struct {
	Instances int       // that are followed
	Answered  int       // of these, once or more
	Oldest    time.Time // the answer that is oldest, zero for none
	Last      time.Time // the last answer
	Asked     uint64
	Failed    uint64 // questions that got no answer
	Wrong     uint64 // answers that cannot be right
	Unknown   uint64 // answers that nobody is known to own it
	Conflicts uint64 // answers that something that was decided stands against
	Failures  int    // in a row
	Open      bool   // the service is left alone for now
	Err       string // of the last question that failed, "" after one that did not
}

// New returns a follower.
func New(o Options) (*Follower, error) {
	if o.Source == nil || o.Instances == nil || o.Record == nil {
		return nil, fmt.Errorf("follow an account service: a source, instances and a record are needed: %w", odometer.ErrInvalid)
	}
	if o.MaxAge <= 0 {
		o.MaxAge = DefaultMaxAge
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	if o.rest <= 0 {
		o.rest = breakFor
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Follower{o: o, known: map[odometer.InstanceID]*answer{}}, nil
}

// Run follows until ctx is done, and then returns nil.
func (f *Follower) Run(ctx context.Context) error {
	tick := time.NewTicker(min(pace, f.o.MaxAge/4))
	defer tick.Stop()
	var rests time.Time // until when the service is left alone
	for {
		now := time.Now()
		if !now.Before(rests) {
			f.round(ctx, now)
			f.mu.Lock()
			f.stats.Open = f.stats.Failures >= breakAfter
			if f.stats.Open {
				rests = time.Now().Add(f.o.rest)
			}
			f.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// round asks for everything that is due. Once the service fails, no more questions are
// asked than are under way; while it is left alone one is.
func (f *Follower) round(ctx context.Context, now time.Time) {
	due := f.due(now)
	f.mu.Lock()
	if f.stats.Failures >= breakAfter && len(due) > 1 {
		due = due[:1]
	}
	f.mu.Unlock()
	var g errgroup.Group
	g.SetLimit(atOnce)
	for _, instance := range due {
		f.mu.Lock()
		stop := len(due) > 1 && f.stats.Failures >= breakAfter
		f.mu.Unlock()
		if ctx.Err() != nil || stop {
			break
		}
		g.Go(func() error {
			f.ask(ctx, instance)
			return nil
		})
	}
	_ = g.Wait()
}

// due returns the instances that are to be asked for, and forgets those that are gone.
func (f *Follower) due(now time.Time) (due []odometer.InstanceID) {
	instances := f.o.Instances()
	f.mu.Lock()
	defer f.mu.Unlock()
	here := make(map[odometer.InstanceID]bool, len(instances))
	for _, instance := range instances {
		here[instance] = true
		a := f.known[instance]
		if a == nil {
			a = new(answer)
			f.known[instance] = a
		}
		if !now.Before(a.due) {
			due = append(due, instance)
		}
	}
	for instance := range f.known {
		if !here[instance] {
			delete(f.known, instance)
		}
	}
	return due
}

// ask asks for one instance and has the answer recorded.
func (f *Follower) ask(ctx context.Context, instance odometer.InstanceID) {
	asking, cancel := context.WithTimeout(ctx, f.o.Timeout)
	own, err := f.o.Source.Owner(asking, instance)
	cancel()
	if ctx.Err() != nil {
		return
	}
	now := time.Now()
	if err == nil {
		err = right(&own, instance, now)
	}
	changed := f.take(instance, own, err, now)
	if !changed {
		return
	}
	err = f.o.Record(ctx, own)
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.known[instance]
	switch {
	case a == nil:
	case err == nil:
		a.recorded = true
	case errors.Is(err, odometer.ErrConflict), errors.Is(err, odometer.ErrInvalid):
		a.recorded = true // it would be refused again
		f.stats.Conflicts++
		f.o.Logger.Warn("whose an instance is, as the account service says, is not recorded: something else was decided", "instance", instance, "err", err)
	case ctx.Err() == nil:
		a.due = now.Add(retryFirst)
		f.o.Logger.Error("whose an instance is, as the account service says, cannot be recorded: trying again", "instance", instance, "err", err)
	}
}

// take takes an answer, or its failure, and reports whether it is to be recorded.
func (f *Follower) take(instance odometer.InstanceID, own odometer.Ownership, err error, now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.known[instance]
	if a == nil {
		return false
	}
	f.stats.Asked++
	wrong := errors.Is(err, odometer.ErrInvalid)
	switch {
	case err == nil, errors.Is(err, odometer.ErrNotFound):
		a.answered, a.due, a.failures = now, now.Add(f.o.MaxAge), 0
		f.stats.Last, f.stats.Failures, f.stats.Err = now, 0, ""
		if err != nil {
			f.stats.Unknown++
			return false
		}
		if a.owner != own {
			a.owner, a.recorded = own, false
		}
		return !a.recorded
	case wrong:
		f.stats.Wrong++ // the service answers: another instance may be answered well
		f.stats.Failures = 0
	default:
		f.stats.Failed++
		f.stats.Failures++
	}
	if f.stats.Err == "" {
		f.o.Logger.Warn("the account service does not say whose an instance is: what was decided stays", "instance", instance, "err", err)
	}
	f.stats.Err = err.Error()
	a.due = now.Add(min(retryFirst<<min(a.failures, 16), f.o.MaxAge))
	a.failures++
	return false
}

// right returns nil where an answer can be right, and otherwise an error wrapping
// [odometer.ErrInvalid].
func right(own *odometer.Ownership, instance odometer.InstanceID, now time.Time) error {
	if own.Instance != instance {
		return fmt.Errorf("asked for %q, the answer is of %q: %w", instance, own.Instance, odometer.ErrInvalid)
	}
	if err := own.Valid(); err != nil {
		return err
	}
	if since := time.UnixMicro(own.From); since.After(now.Add(aheadMost)) {
		return fmt.Errorf("%s is said to have an owner since %s, which is yet to come: %w", instance, since.UTC().Format(time.RFC3339), odometer.ErrInvalid)
	}
	return nil
}

// Stats returns the figures as of now.
func (f *Follower) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Instances = len(f.known)
	for _, a := range f.known {
		if a.answered.IsZero() {
			continue
		}
		s.Answered++
		if s.Oldest.IsZero() || a.answered.Before(s.Oldest) {
			s.Oldest = a.answered
		}
	}
	return s
}
