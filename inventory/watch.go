package inventory

import (
	"context"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
)

const (
	// DefaultEvery is how often a source is listed that tells changes itself or
	// whose lists are dear; processes are listed every second.
	DefaultEvery = 10 * time.Second
	// DefaultTimeout is how long a list may take before its source counts as
	// hung.
	DefaultTimeout = 5 * time.Second

	// overruledFor is how long a list is overruled that has a process which was
	// seen to end; after that whoever made it is believed.
	overruledFor = 30 * odometer.SecondMicros
)

// Watched is a source with how often it is listed.
type Watched struct {
	Source
	Every   time.Duration // 0 is DefaultEvery
	Timeout time.Duration // 0 is DefaultTimeout
}

// WatchOptions says what to watch and who hears of it.
type WatchOptions struct {
	Sources []Watched // the one that knows best first
	Agent   odometer.AgentID
	Clock   Clock
	Logger  *slog.Logger // nil logs nothing

	// Changed is given the machines on the host, in order of identity, and what
	// happened since it was last given them, in order of time; also when only
	// something else about them is different. It keeps the list and changes
	// nothing in it. It is called by one goroutine, which waits for it.
	Changed func(vms []odometer.VM, changes []odometer.Change)
}

// SourceStatus says how one source of a [Watch] is.
type SourceStatus struct {
	Name     string        `json:"name"`
	OK       bool          `json:"ok"`                // its last list was had, and the next is not late
	Problem  string        `json:"problem,omitempty"` // why not
	Problems []string      `json:"problems,omitzero"` // what it could not read of its machines
	VMs      int           `json:"vms"`               // in its last list
	Age      time.Duration `json:"age_ns"`            // of that; -1 where there was none
}

// Watch lists several sources again and again, each in a goroutine of its own,
// and tells what changes on the host.
//
// A machine that several sources know is one. What a source said holds until
// its next list, whether that fails or does not come. A source that hangs is
// named in the status, is asked nothing more until it answers, and delays none.
type Watch struct {
	opt WatchOptions
	log *slog.Logger

	// Run's own.
	sources []*watchedSource
	events  chan event
	begun   int64 // boot time in microseconds
	known   []odometer.VM
	looked  bool  // known is what was there at a first look
	lastAt  int64 // when known was made, boot time in microseconds
	gone    map[int]int64
	pending []pending
	shown   []shown
	recent  []odometer.Change
	reboots map[odometer.InstanceID]*reboots // of those that were told of lately

	mu       sync.Mutex // guards what is told about it
	status   []SourceStatus
	at       []int64 // when each was last listed, boot time in microseconds
	list     []odometer.VM
	problems []string
}

// watchedSource is what is known of one source.
type watchedSource struct {
	Watched
	poke   chan struct{}
	vms    []odometer.VM
	before []odometer.VM // the list before that, while it is compared with it
	begun  int64         // when its last list was begun
	lists  int           // how many were had
	failed int           // how many were not, in a row
	hung   bool
}

// settled reports whether the source has said anything, be it that it cannot.
func (s *watchedSource) settled() bool { return s.lists > 0 || s.failed > 0 || s.hung }

// answering reports whether the source's next list can be waited for.
func (s *watchedSource) answering() bool { return s.failed == 0 && !s.hung }

// event is what a source's goroutine reports.
type event struct {
	source   int
	vms      []odometer.VM
	problems []string
	err      error
	hung     bool
	begun    odometer.Moment
	told     *odometer.Change
}

// NewWatch returns a watch that does nothing before Run.
func NewWatch(opt WatchOptions) *Watch {
	w := &Watch{opt: opt, log: opt.Logger, events: make(chan event), gone: map[int]int64{}, reboots: map[odometer.InstanceID]*reboots{}}
	if w.log == nil {
		w.log = slog.New(slog.DiscardHandler)
	}
	for _, s := range opt.Sources {
		if s.Every <= 0 {
			s.Every = DefaultEvery
		}
		if s.Timeout <= 0 {
			s.Timeout = DefaultTimeout
		}
		w.sources = append(w.sources, &watchedSource{Watched: s, poke: make(chan struct{}, 1)})
		w.status = append(w.status, SourceStatus{Name: s.Name(), Problem: "it was not listed yet", Age: -1})
	}
	w.at = make([]int64, len(w.sources))
	return w
}

// Status says how each source is.
func (w *Watch) Status() []SourceStatus {
	now := w.opt.Clock.Now().Boot
	w.mu.Lock()
	defer w.mu.Unlock()
	list := slices.Clone(w.status)
	for i := range list {
		if list[i].Age >= 0 {
			list[i].Age = time.Duration(now-w.at[i]) * time.Microsecond
		}
	}
	return list
}

// Problems names what is wrong between the sources: machines that claim one
// identity.
func (w *Watch) Problems() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.problems)
}

// List returns the machines that were last told.
func (w *Watch) List() []odometer.VM {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.list
}

// Run watches until the context ends. It tells the machines for the first time
// when each source has answered once, or is late. The sources remain open; a
// goroutine that waits for one that hangs ends when that answers.
func (w *Watch) Run(ctx context.Context) error {
	w.begun = w.opt.Clock.Now().Boot
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range w.sources {
		running.Go(func() { w.attend(ctx, i) })
		if t, ok := w.sources[i].Source.(Teller); ok {
			running.Go(func() { w.hear(ctx, i, t) })
		}
	}
	var due <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e := <-w.events:
			w.take(e)
		case <-due:
			due = nil
			w.settle(w.opt.Clock.Now())
		}
		if len(w.shown) > 0 && due == nil {
			due = time.After(time.Second)
		}
	}
}

// send hands an event to Run, and reports whether it did.
func (w *Watch) send(ctx context.Context, e event) bool {
	select {
	case w.events <- e:
		return true
	case <-ctx.Done():
		return false
	}
}

// hear passes on what a source tells.
func (w *Watch) hear(ctx context.Context, i int, t Teller) {
	for {
		select {
		case <-ctx.Done():
			return
		case c := <-t.Told():
			if !w.send(ctx, event{source: i, told: &c}) {
				return
			}
		}
	}
}

// passOn passes on what a source has told so far, and reports whether it did.
func (w *Watch) passOn(ctx context.Context, i int, t Teller) bool {
	for {
		select {
		case c := <-t.Told():
			if !w.send(ctx, event{source: i, told: &c}) {
				return false
			}
		default:
			return true
		}
	}
}

// attend lists one source again and again.
func (w *Watch) attend(ctx context.Context, i int) {
	s := w.sources[i]
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.poke:
		}
		answer := make(chan event, 1)
		limited, cancel := context.WithTimeout(ctx, s.Timeout)
		go func() {
			e := event{source: i, begun: w.opt.Clock.Now()}
			e.vms, e.err = s.List(limited)
			if r, ok := s.Source.(Reporter); ok && e.err == nil {
				e.problems = r.Problems()
			}
			answer <- e
		}()
		var e event
		late := time.NewTimer(s.Timeout + s.Timeout/4) // a source that keeps its time says why itself
		select {
		case e = <-answer:
		case <-late.C:
			if !w.send(ctx, event{source: i, hung: true}) {
				cancel()
				return
			}
			select {
			case <-answer: // of long ago: it is asked again
				cancel()
				timer.Reset(0)
				continue
			case <-ctx.Done():
				cancel()
				return
			}
		case <-ctx.Done():
			cancel()
			return
		}
		late.Stop()
		cancel()
		// What was told before the list was made explains it.
		if t, ok := s.Source.(Teller); ok && !w.passOn(ctx, i, t) || !w.send(ctx, e) {
			return
		}
		timer.Reset(s.Every)
	}
}

// take takes an event in, and tells what follows from it.
func (w *Watch) take(e event) {
	s := w.sources[e.source]
	now := w.opt.Clock.Now()
	switch {
	case e.told != nil:
		w.pending = append(w.pending, pending{*e.told, e.source})
		w.poke(e.source)
		return // the list says what is
	case e.hung:
		s.hung = true
		w.log.Warn("a source does not answer", "source", s.Name(), "timeout", s.Timeout)
	case e.err != nil:
		s.hung = false
		if s.failed++; s.failed == 1 {
			w.log.Warn("a source cannot be listed", "source", s.Name(), "err", e.err)
		}
	default:
		if s.failed > 0 || s.hung {
			w.log.Info("a source is listed again", "source", s.Name())
		}
		w.left(s, e)
		s.before, s.vms = s.vms, e.vms
		s.begun, s.hung, s.failed = e.begun.Boot, false, 0
		s.lists++
	}
	w.report(e, s, now)
	if slices.ContainsFunc(w.sources, func(s *watchedSource) bool { return !s.settled() }) {
		return
	}
	w.settle(now)
}

// poke has a source listed at once.
func (w *Watch) poke(i int) {
	select {
	case w.sources[i].poke <- struct{}{}:
	default: // it is about to be
	}
}

// left notes the processes that are not in a source's new list any more, and
// has the others look where something came or went.
func (w *Watch) left(s *watchedSource, e event) {
	has := map[int]string{}
	for i := range e.vms {
		if e.vms[i].PID != 0 {
			has[e.vms[i].PID] = e.vms[i].Run
		}
	}
	witness, different := s.witness(), false
	for i := range s.vms {
		v := &s.vms[i]
		if run, ok := has[v.PID]; v.PID != 0 && (!ok || run != v.Run) {
			different = true
			if witness && !ok {
				w.gone[v.PID] = e.begun.Boot
			}
		}
		delete(has, v.PID)
	}
	for pid := range has {
		if witness {
			delete(w.gone, pid) // another process has the number
		}
	}
	different = (different || len(has) > 0) && s.lists > 0
	for i := range w.sources {
		if different && w.sources[i] != s {
			w.poke(i)
		}
	}
}

// report brings the status of a source up to date.
func (w *Watch) report(e event, s *watchedSource, now odometer.Moment) {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := &w.status[e.source]
	switch {
	case e.hung:
		st.OK, st.Problem = false, fmt.Sprintf("it has not answered for %v", s.Timeout+s.Timeout/4)
	case e.err != nil:
		st.OK, st.Problem = false, e.err.Error()
	default:
		*st = SourceStatus{Name: st.Name, OK: true, Problems: e.problems, VMs: len(e.vms)}
		w.at[e.source] = now.Boot
	}
}

// settle makes one list of all and tells it where it is different.
func (w *Watch) settle(now odometer.Moment) {
	lists := make([]listed, len(w.sources))
	fresh := map[string]bool{}
	oldest := now.Boot
	for i, s := range w.sources {
		lists[i] = listed{s.vms, s.begun, s.answering()}
		if s.lists > 0 {
			oldest = min(oldest, s.begun)
		}
		if s.lists <= 1 {
			for _, v := range s.vms {
				fresh[v.Source] = true
			}
		}
	}
	merged := merge(lists, w.gone)
	problems := distinct(w.opt.Agent, merged)
	since := w.begun
	if !w.looked {
		since = math.MaxInt64 // whatever is there was there before
	}
	changes := difference(w.known, merged, now, w.lastAt, since, func(source string) bool { return !w.looked || fresh[source] })
	changes = w.explain(changes, merged, now)
	for _, s := range w.sources {
		s.before = nil
	}
	for pid, at := range w.gone {
		listed := slices.ContainsFunc(w.sources, func(s *watchedSource) bool {
			return slices.ContainsFunc(s.vms, func(v odometer.VM) bool { return v.PID == pid })
		})
		if !listed && oldest > at || now.Boot-at > overruledFor {
			delete(w.gone, pid)
		}
	}
	same := w.looked && slices.EqualFunc(w.known, merged, func(a, b odometer.VM) bool { return equalVM(&a, &b) })
	w.known, w.looked, w.lastAt = merged, true, now.Boot
	w.mu.Lock()
	w.list, w.problems = merged, problems
	w.mu.Unlock()
	if len(changes) == 0 && same {
		return
	}
	w.opt.Changed(merged, changes)
}
