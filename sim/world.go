package main

import (
	"container/heap"
	"context"
	"fmt"
	"hash"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"time"

	"example.org/odometer"
)

// world is one run: everything that happens in it follows from the seed. Time
// is a number, and what is to happen lies in a heap; one goroutine takes it out
// in order. Agents and batches of the server are coroutines of that goroutine.
type world struct {
	seed uint64
	dir  string // for the ledger
	r    *rand.Rand
	now  int64 // microseconds since the run began
	base int64 // what the clocks show then

	todo  todo
	order uint64

	on      [faults]bool
	reached [faults]int
	calm    bool // no more faults
	busy    int64

	hosts  []*host
	vms    []*vm
	broker *broker
	server *server
	truth  *truth
	old    *older

	interval time.Duration
	trace    hash.Hash64
	out      io.Writer // nil, or where the trace goes
	log      *slog.Logger
	broken   []string // what did not hold
	readings int64
	events   int64
	waited   int64 // what draining took
}

type doing struct {
	at    int64
	order uint64
	do    func()
}

type todo []doing

func (t todo) Len() int { return len(t) }
func (t todo) Less(i, j int) bool {
	return t[i].at < t[j].at || t[i].at == t[j].at && t[i].order < t[j].order
}
func (t todo) Swap(i, j int) { t[i], t[j] = t[j], t[i] }
func (t *todo) Push(x any)   { *t = append(*t, x.(doing)) }
func (t *todo) Pop() any {
	last := len(*t) - 1
	d := (*t)[last]
	(*t)[last] = doing{}
	*t = (*t)[:last]
	return d
}

const (
	second = int64(odometer.SecondMicros)
	minute = 60 * second
)

// after does something when d microseconds have passed.
func (w *world) after(d int64, do func()) {
	w.order++
	heap.Push(&w.todo, doing{w.now + max(d, 0), w.order, do})
}

// run lets time pass until a moment, or until something did not hold.
func (w *world) run(until int64, enough func() bool) {
	for len(w.todo) > 0 && w.todo[0].at <= until && len(w.broken) == 0 {
		d := heap.Pop(&w.todo).(doing)
		w.now = max(w.now, d.at)
		d.do()
		if enough != nil && enough() {
			return
		}
	}
	if len(w.broken) == 0 {
		w.now = max(w.now, until)
	}
}

// time is true time, as a clock that nobody sets would show it.
func (w *world) time() time.Time { return time.UnixMicro(w.base + w.now) }

// note adds a line to the trace.
func (w *world) note(format string, args ...any) {
	line := strings.ReplaceAll(fmt.Sprintf(format, args...), w.dir, "") // which another run has elsewhere
	fmt.Fprintf(w.trace, "%d %s\n", w.now, line)
	if w.out != nil {
		fmt.Fprintf(w.out, "%12.6f  %s\n", float64(w.now)/1e6, line)
	}
}

// wrong notes that something does not hold.
func (w *world) wrong(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	w.note("WRONG %s", line)
	if len(w.broken) < 20 {
		w.broken = append(w.broken, line)
	}
}

// chance says whether a fault happens now, where it does with probability p.
func (w *world) chance(f fault, p float64) bool {
	if w.calm || !w.on[f] || w.r.Float64() >= p {
		return false
	}
	w.hit(f)
	return true
}

func (w *world) hit(f fault) {
	w.reached[f]++
	w.note("fault: %v", f)
}

// between returns a number from low to high.
func (w *world) between(low, high int64) int64 { return low + w.r.Int64N(high-low+1) }

// chaos draws the moments at which a fault strikes: on average every mean
// microseconds while faults are made. strike says whether it did.
func (w *world) chaos(f fault, mean int64, strike func() bool) {
	if !w.on[f] {
		return
	}
	var again func()
	again = func() {
		if w.calm {
			return
		}
		if strike() {
			w.hit(f)
		}
		w.after(int64(w.r.ExpFloat64()*float64(mean)), again)
	}
	w.after(int64(w.r.ExpFloat64()*float64(mean)), again)
}

// random is where ids are drawn from.
type random struct{ w *world }

func (x random) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(x.w.r.Uint32())
	}
	return len(b), nil
}

// traced writes what the program logs to the trace. The attributes are left
// out: some tell how long something really took.
type traced struct{ w *world }

func (t traced) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelInfo }
func (t traced) Handle(_ context.Context, r slog.Record) error {
	t.w.note("log: %s", r.Message)
	if t.w.out != nil {
		r.Attrs(func(a slog.Attr) bool {
			fmt.Fprintf(t.w.out, "%16s%s = %v\n", "", a.Key, a.Value)
			return true
		})
	}
	return nil
}
func (t traced) WithAttrs([]slog.Attr) slog.Handler { return t }
func (t traced) WithGroup(string) slog.Handler      { return t }

func newWorld(seed uint64, dir string, out io.Writer) *world {
	w := &world{seed: seed, dir: dir, r: rand.New(rand.NewPCG(seed, 0x0d0)), trace: fnv.New64a(), out: out}
	w.log = slog.New(traced{w})
	return w
}
