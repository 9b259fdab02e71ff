package sampler

import (
	"cmp"
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
	run    *run  // nil while it does not run
	end    *edge // the last reading of a run, which waits to be told
	last   int64 // boot time of the last reading, 0 before the first
	edges  []edge
	listed bool
	hadGPU bool            // then none is 0 and not unknown
	given  odometer.Gauges // what the definition says: all but memory and storage
	parts  []diskPart
	def    odometer.VM

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

// Note has what happened to machines told by the next reading of each. It comes
// before the Update that follows from it; what happened to a machine that is in
// neither list is not told.
func (s *VMs) Note(changes []odometer.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range changes {
		s.noted[c.Instance] = append(s.noted[c.Instance], c)
	}
}

// Update says which machines there are from now on. What changed takes effect
// at this moment, not at the next sample: a machine that is new is read at
// once, one that is not listed any more gets its last reading, Final, in the
// next sample. The list is copied.
//
// It waits up to [statPatience] for the filesystems of new disks.
func (s *VMs) Update(vms []odometer.VM) {
	s.updating.Lock()
	defer s.updating.Unlock()
	found := s.openRuns(vms)
	files := s.apply(vms, found)
	if files == nil {
		return
	}
	points := s.mountPoints()
	s.mu.Lock()
	s.images.replace(files, points)
	s.images.refresh()
	asked := slices.Collect(maps.Values(s.images.byFS))
	s.mu.Unlock()
	s.images.wait(asked)
	s.mu.Lock()
	s.share()
	s.mu.Unlock()
}

// opening is a run that was found to be new, or why it cannot be read.
type opening struct {
	run *run
	err error
}

// openRuns opens the runs that are not read yet. That takes a while where
// there are many, during which samples go on.
func (s *VMs) openRuns(vms []odometer.VM) map[odometer.InstanceID]opening {
	s.mu.Lock()
	kept := 0
	for _, v := range s.list {
		if v.run != nil && !v.run.loose {
			kept++
		}
	}
	var list []*odometer.VM
	for i := range vms {
		if def := &vms[i]; def.PID > 0 && !s.closed && !s.knows(s.byID[def.Instance], def) {
			list = append(list, def)
		}
	}
	s.mu.Unlock()
	found := make(map[odometer.InstanceID]opening, len(list))
	for _, def := range list {
		if _, twice := found[def.Instance]; twice {
			continue
		}
		r, err := s.openRun(def, !s.host || kept >= s.maxKept)
		if err == nil && !r.loose {
			kept++
		}
		found[def.Instance] = opening{r, err}
	}
	return found
}

// knows reports whether a definition's run is the one that v has, or had and
// that has ended.
func (s *VMs) knows(v *vm, def *odometer.VM) bool {
	if v == nil {
		return false
	}
	if v.run != nil && v.run.pid == def.PID && v.run.name == def.Run {
		return true
	}
	return v.run == nil && v.pastPID == def.PID && v.past == def.Run
}

// apply takes a list over. It returns the files of all disks where they have
// changed.
func (s *VMs) apply(vms []odometer.VM, found map[odometer.InstanceID]opening) (files []*diskFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		for _, o := range found {
			if o.run != nil {
				s.closeFiles(o.run)
			}
		}
		return nil
	}
	now := s.clock.Now()
	s.drain()
	for _, v := range s.list {
		v.listed = false
	}
	s.refused = s.refused[:0]
	changed := false
	for i := range vms {
		def := &vms[i]
		v := s.byID[def.Instance]
		if v != nil && v.listed {
			s.refused = append(s.refused, fmt.Sprintf("%s is listed twice", def.Instance))
			continue
		}
		isNew := v == nil
		if isNew {
			v = &vm{}
			s.byID[def.Instance] = v
			s.list = append(s.list, v)
		}
		o, opened := found[def.Instance]
		delete(found, def.Instance)
		changed = s.update(v, def, now) || changed
		if opened {
			s.begin(v, o, now)
		}
		if isNew {
			s.sinceBoot(v, now)
		}
	}
	for _, v := range s.list {
		if !v.listed {
			changed = changed || len(v.parts) > 0
			v.parts = nil
		}
	}
	slices.SortFunc(s.list, func(a, b *vm) int { return cmp.Compare(a.def.Instance, b.def.Instance) })
	maps.DeleteFunc(s.noted, func(id odometer.InstanceID, _ []odometer.Change) bool { return s.byID[id] == nil })
	if !changed {
		return nil
	}
	files = []*diskFile{}
	for _, v := range s.list {
		for _, p := range v.parts {
			files = append(files, p.diskFile)
		}
	}
	s.share()
	return files
}

// sinceBoot tells of a machine that was last read before the host booted that
// it did not run at that instant, and had used nothing since: the time before
// is not to be billed as if it had gone on.
func (s *VMs) sinceBoot(v *vm, now odometer.Moment) {
	p := s.opt.Previous
	if _, ok := p.Readings[v.def.Instance]; !ok || p.BootID == s.bootID {
		return
	}
	e := edge{at: moment(now, 1), state: odometer.Stopped, gauges: v.gauges()}
	e.gauges.Memory = 0
	e.counters = []odometer.Counter{{Quantity: odometer.CPU, Incarnation: s.bootID, Born: true}}
	v.edges = slices.Insert(v.edges, 0, e)
}

// update takes a machine's definition over and reports whether its disks
// have changed.
func (s *VMs) update(v *vm, def *odometer.VM, now odometer.Moment) (disks bool) {
	old := v.def
	v.def, v.listed = *def, true
	v.def.Disks, v.def.NICs, v.def.GPUs = slices.Clone(def.Disks), slices.Clone(def.NICs), slices.Clone(def.GPUs)
	v.given = odometer.Gauges{
		Memory: odometer.Unknown, MemoryAllocated: def.Memory, Storage: odometer.Unknown, StorageProvisioned: v.provisioned(),
		VCPUs: def.VCPUs, GPUs: odometer.Unknown,
	}
	if v.hadGPU = v.hadGPU || len(def.GPUs) > 0; v.hadGPU {
		v.given.GPUs = int64(len(def.GPUs))
	}
	if v.end != nil && (def.PID == 0 || !s.knows(v, def)) {
		s.tellEnd(v, false)
	}
	if v.run != nil && !s.knows(v, def) {
		s.finishRun(v, now)
		s.tellEnd(v, false)
	}
	if disks = !slices.EqualFunc(old.Disks, v.def.Disks, odometer.Disk.Equal); disks {
		v.parts = s.diskParts(v)
	}
	if v.run == nil {
		return disks
	}
	if old.Owner != def.Owner || old.State != def.State {
		v.run.ioAt = 0 // so that what is told by owner and state is as of now
	}
	if !slices.Equal(old.NICs, v.def.NICs) {
		s.replaceNICs(v.run, v.def.NICs, false)
	}
	if v.last > 0 && (old.State != def.State || old.VCPUs != def.VCPUs || old.Memory != def.Memory || len(old.GPUs) != len(def.GPUs)) {
		v.edges = append(v.edges, edge{at: now, state: v.state(), gauges: v.gauges()})
	}
	return disks
}

// begin takes a run over that was opened.
func (s *VMs) begin(v *vm, o opening, now odometer.Moment) {
	v.problem = nil
	if o.err != nil {
		v.problem = o.err
		if !isGone(o.err) {
			s.log.Warn("cannot read a machine", "instance", v.def.Instance, "err", o.err)
		}
		return
	}
	r := o.run
	if other := s.byPID[r.pid]; other != nil {
		v.problem = fmt.Errorf("its process %d is that of %s", r.pid, other.def.Instance)
		s.closeFiles(r)
		return
	}
	v.run = r
	s.byPID[r.pid] = v
	s.replaceNICs(r, v.def.NICs, r.born)
	ahead := s.compare(r)
	n, err := s.readCPU(r)
	s.tookCPU(r, n, err)
	s.lookIO(r)
	s.lookEndedIO(r)
	s.lookMemory(r)
	turn := func(every time.Duration) int64 {
		return now.Boot + (int64(r.pid)%max(1, int64(every/time.Second))+1)*odometer.SecondMicros
	}
	r.ioAt, r.memoryAt, r.compareAt = turn(s.ioEvery), turn(memoryEvery), turn(compareEvery)
	if r.born {
		e := edge{at: moment(now, r.began), state: v.state(), gauges: v.gauges()}
		cpu := odometer.Counter{Quantity: odometer.CPU, Incarnation: r.cpuName, Value: uint64(max(0, ahead)), Born: ahead <= 0}
		if ahead < 0 {
			cpu.Incarnation = r.device + "/before"
		}
		e.counters = append(e.counters, cpu,
			odometer.Counter{Quantity: odometer.DiskRead, Incarnation: r.device, Born: true},
			odometer.Counter{Quantity: odometer.DiskWrite, Incarnation: r.device, Born: true})
		for i := range r.nics {
			if n := &r.nics[i]; n.host != nil {
				e.counters = n.append(e.counters, n.born)
				n.born = false
			}
		}
		v.edges = append(v.edges, e)
		if ahead < 0 { // it was put into its cgroup when it had used this much
			cpu.Value, cpu.Born, r.cpuBorn = uint64(-ahead), false, true
			v.edges = append(v.edges, edge{at: now, state: e.state, gauges: e.gauges, counters: []odometer.Counter{cpu}})
		}
	}
	if r.loose {
		s.closeFiles(r)
	} else if s.ends != nil {
		s.byPidfd[r.pidfd] = v
		if err := s.ends.add(r.pidfd); err != nil {
			v.problem = err
		}
	}
}

// moment is when the boot clock stood at boot.
func moment(now odometer.Moment, boot int64) odometer.Moment {
	return odometer.Moment{Boot: boot, Wall: now.Wall - (now.Boot - boot)}
}

// replaceNICs takes over which interfaces a machine has. One that is not
// among them any more is told once more.
func (s *VMs) replaceNICs(r *run, defs []odometer.NIC, fresh bool) {
	old := r.nics
	r.nics = make([]nic, 0, len(defs))
	for _, def := range defs {
		i := slices.IndexFunc(old, func(n nic) bool { return n.def == def })
		if i >= 0 {
			r.nics = append(r.nics, old[i])
			old[i].host = nil
			continue
		}
		n := nic{def: def}
		s.findNIC(r, &n, fresh)
		r.nics = append(r.nics, n)
	}
	for _, n := range old {
		if n.host != nil && !slices.ContainsFunc(defs, func(d odometer.NIC) bool { return d.Name == n.def.Name }) {
			n.leaves = true
			r.nics = append(r.nics, n)
		} else if n.host != nil {
			n.drop()
		}
	}
}

// state is the machine's as the inventory and its process have it.
func (v *vm) state() odometer.State {
	if v.run == nil && v.def.PID > 0 && v.pastPID == v.def.PID && v.past == v.def.Run {
		return odometer.Stopped // the inventory does not know yet that it has ended
	}
	return v.def.State
}

// gauges are the amounts that are in force.
func (v *vm) gauges() odometer.Gauges {
	g := v.given
	g.Storage = v.occupied()
	switch {
	case v.run != nil:
		g.Memory = v.run.memory
	case v.state() == odometer.Stopped:
		g.Memory = 0
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
	counters := r.counters(nil)
	s.release(v)
	v.end = &edge{at: at, state: odometer.Stopped, counters: counters, gauges: v.gauges()}
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
	case err != nil && (was == nil || was.Error() != err.Error()):
		s.log.Warn("cannot measure", "instance", id, "what", what, "err", err)
	case err == nil && was != nil:
		s.log.Info("measured again", "instance", id, "what", what)
	}
}
