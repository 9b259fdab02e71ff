package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"
)

// phase is a part of the flow whose stages are stopped together. A process is
// a few phases that are stopped in flow order, so that what one has handed on
// still finds the next at work.
type phase struct {
	name  string
	ctx   context.Context // of its stages
	stop  context.CancelFunc
	group errgroup.Group
	fail  context.CancelCauseFunc // ends the whole process
}

// newPhase returns a phase whose stages go on after ctx is done, until end is
// called. A stage that fails, or returns unasked, calls fail.
func newPhase(ctx context.Context, name string, fail context.CancelCauseFunc) *phase {
	p := &phase{name: name, fail: fail}
	p.ctx, p.stop = context.WithCancel(context.WithoutCancel(ctx))
	return p
}

// run starts a stage. It must return soon after its context is done.
func (p *phase) run(stage string, f func(context.Context) error) {
	p.group.Go(func() error {
		err := f(p.ctx)
		if p.ctx.Err() != nil && errors.Is(err, context.Canceled) {
			err = nil
		}
		if err == nil && p.ctx.Err() == nil {
			err = errors.New("ended by itself")
		}
		if err != nil {
			err = fmt.Errorf("%s: %w", stage, err)
			p.fail(err)
		}
		return err
	})
}

// end asks the stages to stop and returns when all have, or when the time is
// up. Its error is the first of a stage's.
func (p *phase) end(within time.Duration) error {
	p.stop()
	done := make(chan error, 1)
	go func() { done <- p.group.Wait() }()
	select {
	case err := <-done:
		return err
	case <-time.After(within):
		return fmt.Errorf("%s did not stop within %s; nothing is lost, the next start goes on from what is on the disk", p.name, within)
	}
}

// until waits until ready returns true, at most so long, and reports whether
// it did.
func until(within time.Duration, ready func() bool) bool {
	const look = 10 * time.Millisecond
	for deadline := time.Now().Add(within); !ready(); time.Sleep(look) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}
