package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"text/tabwriter"
	"time"

	"example.org/odometer/crash/trace"
)

// sweepOptions say how much of a sweep is done.
type sweepOptions struct {
	Runs     []*run
	Sample   int // points in all; 0 for every one there is
	Seed     uint64
	Parallel int
	Out      io.Writer
	Progress io.Writer // nil for none
	List     io.Writer // of the calls of each run; nil for none
	// spoil is a fault of the program that a test plants: what happens to the
	// attempt's directory between the kill and the restart.
	spoil func(dir string) error
}

// point is one moment at which a run is killed.
type point struct {
	call  int
	after bool // not before it
}

func (p point) String() string {
	if p.after {
		return fmt.Sprintf("after call %d", p.call)
	}
	return fmt.Sprintf("before call %d", p.call)
}

// swept is what became of one run.
type swept struct {
	calls   map[string]int // that the canonical run makes, by name
	tried   int
	missed  int            // points that were not reached: the run had ended
	killed  map[string]int // at calls, by name
	failed  []string
	seconds float64
}

// sweep does all runs and returns an error unless every kill was survived.
func sweep(ctx context.Context, o sweepOptions) error {
	dir, err := workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := build(dir)
	if err != nil {
		return err
	}
	begin := time.Now()
	all, tried, killed, failed := 0, 0, 0, 0
	// The small runs first: what they leave of their share goes to the others.
	plans := make([]*plan, len(o.Runs))
	for i, r := range o.Runs {
		if plans[i], err = newPlan(ctx, r, binary, filepath.Join(dir, r.name), o.List); err != nil {
			return fmt.Errorf("canonical run of the %s: %w", r.name, err)
		}
	}
	slices.SortStableFunc(plans, func(a, b *plan) int { return cmp.Compare(len(a.calls), len(b.calls)) })
	left := o.Sample
	for i, p := range plans {
		points := p.points()
		all += len(points)
		if o.Sample > 0 {
			share := left / (len(plans) - i)
			points = sample(points, share, o.Seed)
			left -= len(points)
		}
		s := p.sweep(ctx, points, o)
		p.report(o.Out, s)
		tried, killed, failed = tried+s.tried, killed+s.tried-s.missed, failed+len(s.failed)
	}
	fmt.Fprintf(o.Out, "%d kill points exist, %d tried, %d reached, %d failed, in %.0f s", all, tried, killed, failed, time.Since(begin).Seconds())
	if failed == 0 && killed > 0 {
		fmt.Fprintf(o.Out, "; below %.2g %% at 95 %%", 300/float64(killed))
	}
	fmt.Fprintln(o.Out)
	if failed > 0 {
		return fmt.Errorf("%d of %d kills were not survived", failed, killed)
	}
	if killed == 0 && ctx.Err() == nil {
		return errors.New("no point was reached: the sweep proves nothing")
	}
	return ctx.Err() // interrupted: what was done before was reported
}

// plan is a run that has been prepared and played once.
type plan struct {
	run      *run
	binary   string
	dir      string
	template string
	truth    truth
	calls    []*trace.Call
}

// newPlan prepares a run and plays it once, to its end, to learn its calls,
// which it writes to list unless that is nil.
func newPlan(ctx context.Context, r *run, binary, dir string, list io.Writer) (*plan, error) {
	p := &plan{run: r, binary: binary, dir: dir, template: filepath.Join(dir, "template")}
	if err := os.MkdirAll(p.template, 0o700); err != nil {
		return nil, err
	}
	var err error
	if p.truth, err = r.prepare(ctx, binary, p.template); err != nil {
		return nil, fmt.Errorf("prepare: %w", err)
	}
	a, err := p.attempt("canonical")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(a.dir)
	defer a.close()
	a.start = func(args ...string) (*process, error) {
		return launchTraced(trace.Options{Dir: a.data(), After: func(c *trace.Call) trace.Verdict {
			p.calls = append(p.calls, c)
			return trace.Go
		}}, binary, args...)
	}
	reached := map[string]bool{}
	a.between = func() error { return r.reach(ctx, a.dir, p.calls, reached) }
	if err := r.play(ctx, a); err != nil {
		return nil, err
	}
	if _, err := audited(ctx, filepath.Join(a.dir, r.server)); err != nil {
		return nil, err
	}
	if list != nil {
		for _, c := range p.calls {
			fmt.Fprintln(list, r.name, c)
		}
	}
	if err := r.reach(ctx, a.dir, p.calls, reached); err != nil {
		return nil, err
	}
	return p, r.complete(reached)
}

// attempt copies the template.
func (p *plan) attempt(name string) (*attempt, error) {
	a := &attempt{run: p.run, binary: p.binary, dir: filepath.Join(p.dir, name), truth: p.truth}
	return a, copyTree(p.template, a.dir)
}

// points are all that the run has.
func (p *plan) points() []point {
	var points []point
	for n := range p.calls {
		points = append(points, point{n + 1, false}, point{n + 1, true})
	}
	return points
}

// sample returns at most n of the points, evenly spread; the seed decides
// where they begin.
func sample[T any](all []T, n int, seed uint64) []T {
	if n >= len(all) {
		return all
	}
	some := make([]T, 0, n)
	shift := int(seed*2654435761) % max(1, len(all)/max(1, n))
	for i := range n {
		some = append(some, all[(i*len(all)/n+shift)%len(all)])
	}
	return some
}

// sweep kills the run at each of the points.
func (p *plan) sweep(ctx context.Context, points []point, o sweepOptions) *swept {
	s := &swept{calls: map[string]int{}, killed: map[string]int{}}
	for _, c := range p.calls {
		s.calls[c.Name]++
	}
	begin := time.Now()
	work := make(chan point)
	var mu sync.Mutex
	var all sync.WaitGroup
	for range max(1, o.Parallel) {
		all.Go(func() {
			for at := range work {
				call, err := p.kill(ctx, at, o.spoil)
				if ctx.Err() != nil {
					continue // it was interrupted, which says nothing about it
				}
				mu.Lock()
				s.tried++
				switch {
				case err != nil:
					s.failed = append(s.failed, fmt.Sprintf("%s killed %s (%v): %v", p.run.name, at, call, err))
				case call == nil:
					s.missed++
				}
				if call != nil {
					s.killed[call.Name]++
				}
				if o.Progress != nil {
					fmt.Fprintf(o.Progress, "\r%s: %d of %d points, %d failed ", p.run.name, s.tried, len(points), len(s.failed))
				}
				mu.Unlock()
			}
		})
	}
	for _, at := range points {
		if ctx.Err() != nil {
			break
		}
		work <- at
	}
	close(work)
	all.Wait()
	if o.Progress != nil {
		fmt.Fprintln(o.Progress)
	}
	s.seconds = time.Since(begin).Seconds()
	return s
}

// kill plays the run, kills it at the point, lets it go on, and returns the
// call at which it was killed: nil where the run ended before it got there.
func (p *plan) kill(ctx context.Context, at point, spoil func(string) error) (killed *trace.Call, err error) {
	a, err := p.attempt(fmt.Sprintf("%d-%v", at.call, at.after))
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(a.dir)
	defer a.close()
	var before int // calls of the processes before this one
	var last *process
	verdict := func(c *trace.Call) trace.Verdict {
		if before+c.N == at.call {
			killed = c
			return trace.Kill
		}
		return trace.Go
	}
	a.start = func(args ...string) (*process, error) {
		if last != nil {
			before += last.traced.Calls()
		}
		o := trace.Options{Dir: a.data(), Before: verdict}
		if at.after {
			o = trace.Options{Dir: a.data(), After: verdict}
		}
		var err error
		last, err = launchTraced(o, p.binary, args...)
		return last, err
	}
	err = p.run.play(ctx, a)
	if last != nil {
		last.kill() // it is dead; what is awaited is that the tracer has seen it
	}
	if killed == nil {
		if err != nil {
			return nil, fmt.Errorf("not killed, and yet: %w", err)
		}
		return nil, p.check(ctx, a)
	}
	if err != nil && !errors.Is(err, errEnded) && last.state.Signal() != 9 {
		return killed, err
	}
	if spoil != nil {
		if err := spoil(a.dir); err != nil {
			return killed, err
		}
	}
	a.again = true
	a.start = func(args ...string) (*process, error) { return launch(p.binary, args...) }
	if err := p.run.play(ctx, a); err != nil {
		return killed, fmt.Errorf("going on: %w", err)
	}
	return killed, p.check(ctx, a)
}

func (p *plan) check(ctx context.Context, a *attempt) error {
	_, err := audited(ctx, filepath.Join(a.dir, p.run.server))
	return err
}

// report prints what became of the run.
func (p *plan) report(w io.Writer, s *swept) {
	fmt.Fprintf(w, "%s: %d calls, %d kill points exist, %d tried, %d reached, %d failed, in %.0f s\n",
		p.run.name, len(p.calls), 2*len(p.calls), s.tried, s.tried-s.missed, len(s.failed), s.seconds)
	for _, m := range p.run.milestones {
		fmt.Fprintf(w, "  went through: %s\n", m.name)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "system call\texist\treached\t\n")
	for _, name := range slices.Sorted(maps.Keys(s.calls)) {
		fmt.Fprintf(t, "%s\t%d\t%d\t\n", name, 2*s.calls[name], s.killed[name])
	}
	t.Flush()
	for _, f := range s.failed {
		fmt.Fprintf(w, "FAILED: %s\n", f)
	}
}
