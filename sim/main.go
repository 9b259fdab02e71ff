package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"golang.org/x/term"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, out, errs io.Writer) int {
	flags := flag.NewFlagSet("sim", flag.ContinueOnError)
	flags.SetOutput(errs)
	seeds := flags.Int("seeds", 2000, "how many seeds to run")
	first := flags.Uint64("seed", 1, "the first seed")
	check := flags.Int("check", 20, "run every n-th seed twice and compare the traces; 0 for none")
	trace := flags.Bool("trace", false, "print what happens; with -seeds 1")
	workers := flags.Int("workers", runtime.NumCPU(), "seeds at once")
	profile := flags.String("cpuprofile", "", "write a profile to this file")
	dir := flags.String("dir", memoryDir(), "where the ledgers lie meanwhile")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	if *trace {
		*workers, *check = 1, 0
	}
	if *profile != "" {
		f, err := os.Create(*profile)
		if err == nil {
			err = pprof.StartCPUProfile(f)
		}
		if err != nil {
			fmt.Fprintln(errs, err)
			return 1
		}
		defer pprof.StopCPUProfile()
	}
	c := campaign{first: *first, seeds: *seeds, check: *check, workers: *workers, dir: *dir, out: out, log: errs}
	if *trace {
		c.trace = out
	}
	return c.run()
}

// memoryDir returns a directory in memory where there is one: what the
// simulator proves of the ledger does not depend on a disk.
func memoryDir() string {
	if info, err := os.Stat("/dev/shm"); err == nil && info.IsDir() {
		return "/dev/shm"
	}
	return os.TempDir()
}

// twice runs a seed two times, which must go the same way.
func twice(seed uint64, dir string, trace io.Writer) result {
	var a, b bytes.Buffer
	out := io.Writer(&a)
	if trace != nil {
		out = io.MultiWriter(&a, trace)
	}
	r := simulate(seed, dir, out)
	if again := simulate(seed, dir, &b); again.trace != r.trace {
		one, other := strings.Split(a.String(), "\n"), strings.Split(b.String(), "\n")
		i := 0
		for i < min(len(one), len(other))-1 && one[i] == other[i] {
			i++
		}
		r.broken = append(r.broken, fmt.Sprintf("the same seed went another way, first %q, then %q", one[i], other[i]))
	}
	return r
}

// campaign runs many seeds.
type campaign struct {
	first   uint64
	seeds   int
	check   int
	workers int
	dir     string
	out     io.Writer
	log     io.Writer
	trace   io.Writer
}

// run runs them, prints what came of it, and returns the exit status: 0 only
// where everything held and every fault was reached.
func (c *campaign) run() int {
	// A seed leaves little behind, and the collector takes a third of the time.
	defer debug.SetGCPercent(debug.SetGCPercent(800))
	began := time.Now()
	todo, done := make(chan uint64), make(chan result)
	var workers sync.WaitGroup
	for range max(1, c.workers) {
		workers.Go(func() {
			for seed := range todo {
				if c.check > 0 && seed%uint64(c.check) == 0 {
					done <- twice(seed, c.dir, c.trace)
				} else {
					done <- simulate(seed, c.dir, c.trace)
				}
			}
		})
	}
	go func() {
		for i := range c.seeds {
			todo <- c.first + uint64(i)
		}
		close(todo)
		workers.Wait()
		close(done)
	}()
	var sum result
	var failed []result
	n := 0
	show := newShow(c.log, c.seeds)
	for r := range done {
		n++
		sum.add(&r)
		if len(r.broken) > 0 {
			failed = append(failed, r)
			show.line(func(w io.Writer) { r.report(w) })
		}
		show.set(n, sum.events, len(failed))
	}
	show.end()
	took := time.Since(began)
	fmt.Fprintf(c.out, "%d seeds (from %d), %d failed\n", n, c.first, len(failed))
	fmt.Fprintf(c.out, "%d readings, %d events, %.0f simulated hours, longest drain %d s\n", sum.readings, sum.events, float64(sum.length)/3.6e9, sum.drained/second)
	fmt.Fprintf(c.out, "%.1f seeds/s, %.0f events/s\n", float64(n)/took.Seconds(), float64(sum.events)/took.Seconds())
	missing := 0
	for f := range sum.reached {
		mark := ""
		if sum.reached[f] == 0 {
			mark = "  NOT REACHED"
			missing++
		}
		fmt.Fprintf(c.out, "%9d  %v%s\n", sum.reached[f], fault(f), mark)
	}
	for _, r := range failed {
		fmt.Fprintf(c.out, "reproduce: go run ./sim -seeds 1 -seed %d -trace\n", r.seed)
	}
	switch {
	case len(failed) > 0:
		return 1
	case missing > 0 && c.seeds > 1:
		fmt.Fprintf(c.out, "%d kinds of fault were not reached: this run proves nothing of them\n", missing)
		return 1
	}
	return 0
}

func (r *result) add(o *result) {
	for f := range r.reached {
		r.reached[f] += o.reached[f]
	}
	r.readings += o.readings
	r.events += o.events
	r.length += o.length
	r.drained = max(r.drained, o.drained)
}

// report says what did not hold.
func (r *result) report(w io.Writer) {
	fmt.Fprintf(w, "seed %d FAILED\n", r.seed)
	for _, b := range r.broken {
		fmt.Fprintf(w, "  %s\n", b)
	}
	fmt.Fprintf(w, "  reproduce: go run ./sim -seeds 1 -seed %d -trace\n", r.seed)
}

// show shows how far a campaign has come: a bar for a person, a line now and
// then for a log.
type show struct {
	w       io.Writer
	all     int
	began   time.Time
	shown   time.Time
	bar     progress.Writer
	tracker *progress.Tracker
	stopped chan struct{}
}

// lineEvery is how often a log gets a line.
const lineEvery = 10 * time.Second

func newShow(w io.Writer, all int) *show {
	s := &show{w: w, all: all, began: time.Now(), shown: time.Now()}
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || all < 2 {
		return s
	}
	s.bar = progress.NewWriter()
	s.bar.SetOutputWriter(w)
	s.bar.SetUpdateFrequency(100 * time.Millisecond)
	s.bar.SetTrackerLength(25)
	s.bar.SetMessageLength(44)
	s.bar.Style().Visibility.Value = true
	s.tracker = &progress.Tracker{Message: "seeds", Total: int64(all)}
	s.bar.AppendTracker(s.tracker)
	s.stopped = make(chan struct{})
	go func() {
		s.bar.Render()
		close(s.stopped)
	}()
	return s
}

func (s *show) set(n int, events int64, failed int) {
	took := time.Since(s.began).Seconds()
	note := fmt.Sprintf("%.1f seeds/s, %.0f events/s, %d failed", float64(n)/took, float64(events)/took, failed)
	if s.bar != nil {
		s.tracker.UpdateMessage(note)
		s.tracker.SetValue(int64(n))
		return
	}
	if now := time.Now(); now.Sub(s.shown) >= lineEvery && s.all > 1 {
		s.shown = now
		fmt.Fprintf(s.w, "%d of %d seeds, %s\n", n, s.all, note)
	}
}

// line writes lines that stay.
func (s *show) line(write func(io.Writer)) {
	if s.bar == nil {
		write(s.w)
		return
	}
	var b lines
	write(&b)
	s.bar.Log("%s", string(b))
}

type lines []byte

func (l *lines) Write(b []byte) (int, error) {
	*l = append(*l, b...)
	return len(b), nil
}

func (s *show) end() {
	if s.bar != nil {
		s.bar.Stop()
		<-s.stopped
	}
}
