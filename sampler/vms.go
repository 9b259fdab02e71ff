package sampler

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// endPatience is how long the last reading of a machine that ended waits for
// an update that says whether the machine is gone or only stopped.
const endPatience = 10 * time.Second

// VMsOptions says as whom to meter machines, and what was read before.
type VMsOptions struct {
	// Root is the directory under which proc, sys and the machines' disks are
	// found; "" is "/". Another root is read without netlink, which knows only
	// this host, and each file is opened anew for each sample.
	Root  string
	Agent odometer.AgentID
	// Previous is what this agent read before it was started.
	Previous Previous
	// Shared is what [VMs.Shared] returned before: the images are nobody's own
	// still. At most 10,000 are remembered.
	Shared []SharedImage
	// Period is how long the periods are that are made of the readings. Disk
	// I/O, which is the dearest counter to read, is read six times in each, and
	// every 5 s at most. It is read by each sample where Period is 0, and where
	// no exit record tells what a machine came to after the last look.
	Period time.Duration
	// MaxFiles bounds how many files are kept open; 0 is what the process may
	// have open, less what the rest of it needs.
	MaxFiles int
	Clock    Clock        // nil is SystemClock
	Logger   *slog.Logger // nil logs nothing
}

// Previous is when instances were last read before this source was opened, as
// whoever keeps their state remembers it. A run that began after the last
// reading of its instance counts from 0 since then. An instance that is not
// among them was first seen after all of them. Nothing at all means that a run
// that is under way is not to be billed for what it used before.
type Previous struct {
	BootID   string                        // of the boot in which that was, "" where nothing was read
	Readings map[odometer.InstanceID]int64 // CLOCK_BOOTTIME in microseconds
}

// VMs meters the virtual machines of a list from outside: see the package's
// documentation for what counts.
//
// Update, Sources and Close may be called from any goroutine; Sample by one at
// a time, and what it calls must not call the source. Each machine that runs
// costs four open files. One goroutine waits for the ends of machines, and there
// is one for each filesystem that has disks, block device that is one, and card
// whose virtual functions machines have; Close ends them.
type VMs struct {
	// Fixed at the start.
	opt         VMsOptions
	clock       Clock
	log         *slog.Logger
	root        string
	host        bool // Root is the host's own, so that netlink answers for it
	bootID      string
	bootProblem error
	tickNanos   uint64
	hierarchies []hierarchy
	opened      int64 // boot time in microseconds
	tasks       *taskSocket
	taskProblem error
	exits       *taskExits
	exitProblem error
	ownSpace    uint64
	ends        *endWatch
	maxKept     int
	ioEvery     time.Duration // 0 is at each sample

	updating sync.Mutex // one Update at a time; before mu

	// mu is held through a whole Sample, and for the changes that an Update or
	// the end of a machine makes. It guards all that follows.
	mu        sync.Mutex
	closed    bool
	buf       []byte
	list      []*vm // by instance
	byID      map[odometer.InstanceID]*vm
	byPID     map[int]*vm
	byPidfd   map[int]*vm
	spaces    map[uint64]*space
	order     []*space
	images    images
	suspended sleepWatch
	refused   []string                                  // why machines of the last list are not metered
	overrun   mishap                                    // of the exit records
	noted     map[odometer.InstanceID][]odometer.Change // for the next reading to tell
	hour      int64                                     // of the last sample
	tookExit  func(taskExit)
	reading   odometer.Reading
}

// vm is a machine of the list.
type vm struct {
	// What every sample touches comes first, as in [run].
	run    *run  // nil while it does not run
	end    *edge // the last reading of a run, which waits to be told
	last   int64 // boot time of the last reading, 0 before the first
	edges  []edge
	listed bool
	hadGPU bool            // then none is 0 and not unknown
	sized  uint64          // images.version of which Storage is
	given  odometer.Gauges // what the definition says, and Storage; memory is the run's
	// Copies of what def says.
	id        odometer.InstanceID
	owner     odometer.Owner
	declared  odometer.State
	ballooned int64

	parts []diskPart // set by setParts
	def   odometer.VM

	past    string // the name of the run before
	pastPID int
	problem error // why its process is not read
}

// edge is a reading between two samples: something happened there.
type edge struct {
	at       odometer.Moment
	state    odometer.State
	final    bool
	counters []odometer.Counter
	nics     []nic // whose counters are to be added: they were being deleted
	gauges   odometer.Gauges
}

// OpenVMs prepares to read machines. Nothing that is missing here makes it
// fail; [VMs.Sources] says what is, and what is not measured therefore.
func OpenVMs(opt VMsOptions) *VMs {
	s := &VMs{
		opt: opt, clock: opt.Clock, log: opt.Logger,
		root: opt.Root, host: opt.Root == "" || filepath.Clean(opt.Root) == "/",
		tickNanos: uint64(time.Second) / ticksPerSecond(),
		buf:       make([]byte, 16<<10),
		byID:      map[odometer.InstanceID]*vm{}, byPID: map[int]*vm{}, byPidfd: map[int]*vm{}, spaces: map[uint64]*space{},
		noted:   map[odometer.InstanceID][]odometer.Change{},
		maxKept: opt.MaxFiles / filesPerRun,
	}
	if s.root == "" {
		s.root = "/"
	}
	if s.clock == nil {
		s.clock = SystemClock{}
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.tookExit = s.takeExit
	if s.bootID, s.bootProblem = readBootID(filepath.Join(s.root, bootIDPath)); s.bootProblem != nil {
		// Nothing tells boots apart: then each start of the agent has to
		// count as one, at the price of a new baseline.
		s.bootID = "process-" + rand.Text()
	}
	s.hierarchies = cpuHierarchies(parseMounts([]byte(word(filepath.Join(s.root, "proc/self/mountinfo")))))
	s.images.init(statFile, s.blockLayers())
	s.images.shared = slices.Clone(opt.Shared)
	if opt.MaxFiles == 0 {
		s.maxKept = keptRuns()
	}
	if s.host {
		if s.tasks, s.taskProblem = openTasks(); s.taskProblem == nil {
			// Who may not ask about a process learns it with the first question.
			if _, err := s.tasks.cpu(unix.Getpid()); err != nil {
				s.tasks.close()
				s.tasks, s.taskProblem = nil, fmt.Errorf("ask taskstats: %w", err)
			}
		}
		s.exits, s.exitProblem = openExits("/sys/devices/system/cpu/possible")
		if s.exits != nil && s.tasks != nil && s.tasks.tellsProcess() {
			s.ioEvery = min(ioEvery, opt.Period/6)
		}
		s.ownSpace, _ = namespaceOf(selfNamespace)
		if _, err := s.space(selfNamespace); err != nil {
			s.log.Warn("network counters cannot be read", "err", err)
		}
		s.ends = watchEnds(s)
	}
	s.opened = s.clock.Now().Boot
	s.suspended.since(s.clock)
	return s
}

// readUntil is up to when an instance was read, or would have been.
func (s *VMs) readUntil(id odometer.InstanceID) int64 {
	p := s.opt.Previous
	switch at, ok := p.Readings[id]; {
	case p.BootID == "":
		return s.opened
	case p.BootID != s.bootID:
		return 0
	case ok:
		return at
	}
	last := int64(0)
	for at := range maps.Values(p.Readings) {
		last = max(last, at)
	}
	return last
}

// Close ends what the source holds open. It waits at most [statPatience] for
// each filesystem; a goroutine inside one that hangs for longer ends when
// that does.
func (s *VMs) Close() error {
	s.updating.Lock()
	defer s.updating.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for _, v := range s.list {
		if v.run != nil {
			s.release(v)
		}
	}
	for _, sp := range s.order {
		sp.close()
	}
	if s.tasks != nil {
		s.tasks.close()
	}
	if s.exits != nil {
		s.exits.close()
	}
	s.images.close()
	s.mu.Unlock()
	if s.ends != nil {
		s.ends.close()
	}
	return nil
}

var errVMsClosed = errors.New("the source of virtual machines is closed")

// state is the machine's as the inventory and its process have it.
func (v *vm) state() odometer.State {
	if v.run == nil && v.def.PID > 0 && v.pastPID == v.def.PID && v.past == v.def.Run {
		return odometer.Stopped // the inventory does not know yet that it has ended
	}
	return v.declared
}

// gauges are the amounts that are in force.
func (s *VMs) gauges(v *vm) odometer.Gauges {
	if n := s.images.version.Load(); v.sized != n {
		v.sized, v.given.Storage = n, v.occupied()
	}
	g := v.given
	switch {
	case v.run != nil:
		g.Memory = v.run.memory
	case v.state() == odometer.Stopped:
		g.Memory = 0
	}
	if b := v.ballooned; b > 0 && g.MemoryAllocated > 0 && g.Memory >= 0 {
		// The machine tells it, which would pay for less: what the host keeps for
		// it, in memory or on its swap, it has not given back.
		kept := g.Memory
		if v.run != nil {
			kept += v.run.swapped
		}
		g.MemoryAllocated = min(g.MemoryAllocated, max(g.MemoryAllocated-b, kept))
	}
	return g
}

// drain takes in what netlink told of ends since the last look.
func (s *VMs) drain() {
	for _, sp := range s.order {
		sp.drain()
	}
	if s.exits != nil {
		if err := s.exits.drain(s.tookExit); err != nil {
			s.log.Warn("exit records were lost", "err", err)
			s.overrun = mishap{err, time.Now()}
		}
	}
}

// mishap is a problem that is over.
type mishap struct {
	err error
	at  time.Time
}

// mishapsFor is how long one is told of.
const mishapsFor = time.Hour

func (m mishap) recent() error {
	if m.err == nil || time.Since(m.at) > mishapsFor {
		return nil
	}
	return fmt.Errorf("at %s %w", m.at.UTC().Format(time.RFC3339), m.err)
}

// takeExit remembers what a machine's process came to. A process of one
// thread is told as a thread only; of others the first thread's record, which
// may come while the process lives, says less than that of the process.
func (s *VMs) takeExit(e taskExit) {
	if v := s.byPID[int(e.id)]; v != nil && v.run != nil {
		v.run.exit = max(v.run.exit, e.cpu)
	}
	if e.group {
		return
	}
	if v := s.byPID[int(e.process)]; v != nil && v.run != nil {
		v.run.ended.add(e)
	}
}

// finishRun ends a machine's run: its last reading waits to be told.
func (s *VMs) finishRun(v *vm, at odometer.Moment) {
	r := v.run
	s.finish(r)
	v.past, v.pastPID = r.name, r.pid
	v.end = &edge{at: at, state: odometer.Stopped}
	for i := range r.nics {
		if n := &r.nics[i]; n.untold > 0 {
			v.end.nics = append(v.end.nics, *n)
			n.host = nil // passed on
		}
	}
	v.end.counters = r.counters(nil)
	s.release(v)
	v.end.gauges = s.gauges(v)
	v.end.gauges.Memory = 0
}

// tellEnd lets the last reading of a run go out.
func (s *VMs) tellEnd(v *vm, final bool) {
	v.end.final = final
	v.edges = append(v.edges, *v.end)
	v.end = nil
}

// release closes all that belongs to a machine's run.
func (s *VMs) release(v *vm) {
	r := v.run
	v.run = nil
	delete(s.byPID, r.pid)
	if r.pidfd >= 0 {
		delete(s.byPidfd, r.pidfd)
	}
	s.closeFiles(r)
	for i := range r.nics {
		r.nics[i].drop()
	}
	s.leaveSpaces()
}

// note records how one reading of a machine fared and logs it when that
// changed.
func (s *VMs) note(slot *error, id odometer.InstanceID, what string, err error) {
	was := *slot
	*slot = err
	switch {
	case errors.Is(err, unix.ESRCH):
		s.log.Debug("a machine's process has ended", "instance", id, "err", err)
	case err != nil && (was == nil || was.Error() != err.Error()):
		s.log.Warn("cannot measure", "instance", id, "what", what, "err", err)
	case err == nil && was != nil:
		s.log.Info("measured again", "instance", id, "what", what)
	}
}
