package sampler

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// Sample takes one reading of every machine and hands each to emit, which
// must not keep its Counters: before it, where something happened since the
// last sample, one for each such moment. What cannot be read is missing, and
// named by [VMs.Sources]; the only error is that the source is closed.
//
// A machine's first reading is Unwatched where it ran before anybody looked,
// and so is each machine's first after the host was suspended. A run that
// began since its instance was last read begins with a reading of its first
// moment. One that ended gives one more reading, Stopped, of the moment of its
// end; where the last update leaves the machine out it is Final.
//
// A sample does not allocate unless something changed, and does not wait.
func (s *VMs) Sample(emit func(*odometer.Reading)) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return errVMsClosed
	}
	slept := s.suspended.since(s.clock)
	s.drain()
	at := s.clock.Now()
	for _, sp := range s.order {
		sp.read()
	}
	s.searchNICs()
	if at.Boot-s.images.since >= statEvery.Microseconds() {
		s.images.since = at.Boot
		s.images.refresh()
	}
	if s.images.news.Load() {
		s.share()
	}
	// Periods close at UTC hours, and what was used is told by the hour.
	hour := odometer.Hour(at.Wall)
	everything := hour != s.hour
	s.hour = hour
	left := false
	for _, v := range s.list {
		s.sample(v, at, slept, everything, emit)
		left = left || v.over()
	}
	if left {
		s.list = slices.DeleteFunc(s.list, func(v *vm) bool {
			if v.over() {
				delete(s.byID, v.id)
			}
			return v.over()
		})
	}
	return nil
}

// over reports whether a machine is not listed any more and all of it told.
func (v *vm) over() bool { return !v.listed && len(v.edges) == 0 }

// searchNICs has the interfaces that were not there looked for where others
// came.
func (s *VMs) searchNICs() {
	news := false
	for _, sp := range s.order {
		news = news || sp.news
		sp.news = false
	}
	if !news {
		return
	}
	for _, v := range s.list {
		if v.run == nil {
			continue
		}
		for i := range v.run.nics {
			n := &v.run.nics[i]
			n.search = n.search || n.host == nil
		}
	}
}

// sample tells what happened to a machine since the last sample, and what it
// comes to now.
func (s *VMs) sample(v *vm, at odometer.Moment, slept, everything bool, emit func(*odometer.Reading)) {
	switch r := v.run; {
	case r == nil:
	case !v.listed:
		s.finishRun(v, at)
	default:
		there := s.look(r, at, everything)
		if there && due(&r.compareAt, at, compareEvery) {
			s.findStrayed(r)
		}
		switch {
		case !there, r.strayed && r.exited():
			s.drain() // its end may have been told since the sample began
			s.finishRun(v, at)
		case r.strayed:
			s.rehome(v, at)
		}
	}
	if v.end != nil && (!v.listed || at.Boot-v.end.at.Boot >= endPatience.Microseconds()) {
		s.tellEnd(v, !v.listed)
	}
	final := false
	for i := range v.edges {
		e := &v.edges[i]
		if !s.tellNICs(e, at) {
			v.edges = slices.Delete(v.edges, 0, i)
			return
		}
		s.reading.Counters = append(s.reading.Counters[:0], e.counters...)
		s.tell(v, e.at, e.state, e.gauges, slept, e.final, emit)
		final = e.final
	}
	v.edges = v.edges[:0]
	switch {
	case v.end != nil, final:
	case v.run != nil:
		s.readNICs(v.run)
		s.reading.Counters = v.run.counters(s.reading.Counters[:0])
		v.run.settle()
		s.tell(v, at, v.state(), s.gauges(v), slept, false, emit)
	case !v.listed && v.last == 0:
	case v.problem == nil || !isGone(v.problem) || !v.listed:
		s.reading.Counters = s.reading.Counters[:0]
		s.tell(v, at, v.state(), s.gauges(v), slept, !v.listed, emit)
	}
}

// tellNICs adds what the interfaces came to that were being deleted when their
// machine ended, and reports false while that is not known yet.
func (s *VMs) tellNICs(e *edge, at odometer.Moment) bool {
	if len(e.nics) == 0 {
		return true
	}
	if at.Boot-e.at.Boot < endPatience.Microseconds() && slices.ContainsFunc(e.nics, func(n nic) bool { return !n.told() }) {
		return false
	}
	for i := range e.nics {
		n := &e.nics[i]
		n.take(n.host)
		e.counters = n.append(e.counters, n.born)
		n.drop()
	}
	e.nics = nil
	s.leaveSpaces()
	return true
}

// tell emits a reading whose counters are there already. Readings of a machine
// follow one another by a microsecond at least.
func (s *VMs) tell(v *vm, at odometer.Moment, state odometer.State, g odometer.Gauges, slept, final bool, emit func(*odometer.Reading)) {
	if at.Boot <= v.last {
		at = moment(at, v.last+1)
	}
	r := &s.reading
	r.Instance, r.Agent, r.Owner, r.At = v.id, s.opt.Agent, v.owner, at
	r.State, r.Gauges, r.Final = state, g, final
	if r.Changes = nil; len(s.noted) > 0 {
		r.Changes = s.noted[v.id]
		delete(s.noted, v.id)
	}
	r.Unwatched = slept || v.last < s.opened
	v.last = at.Boot
	emit(r)
}

// readNICs takes in what the last dump said of a machine's interfaces.
func (s *VMs) readNICs(r *run) {
	for i := range r.nics {
		n := &r.nics[i]
		if n.search && n.host == nil {
			s.findNIC(r, n, false)
		}
		if n.host != nil {
			n.take(n.host)
		}
	}
}

// counters appends what is known of a run's counters.
func (r *run) counters(to []odometer.Counter) []odometer.Counter {
	if r.cpuKnown {
		to = append(to, odometer.Counter{Quantity: odometer.CPU, Incarnation: r.cpuName, Value: r.cpu.max, Born: r.cpuBorn})
	}
	if r.ioKnown {
		to = append(to,
			odometer.Counter{Quantity: odometer.DiskRead, Incarnation: r.device, Value: r.read.max},
			odometer.Counter{Quantity: odometer.DiskWrite, Incarnation: r.device, Value: r.wrote.max})
	}
	for i := range r.nics {
		if n := &r.nics[i]; n.host != nil {
			to = n.append(to, n.born)
		}
	}
	return to
}

// settle forgets what a reading has told: that an interface was new, or that
// it is gone.
func (r *run) settle() {
	leaves := false
	r.cpuBorn = false
	for i := range r.nics {
		n := &r.nics[i]
		n.born = false
		if n.host != nil && (n.host.gone || n.leaves && n.host.left.IsZero()) {
			n.drop()
			n.search = true // another may have its name already
			leaves = leaves || n.leaves
		}
	}
	if leaves {
		r.nics = slices.DeleteFunc(r.nics, func(n nic) bool { return n.leaves && n.host == nil })
	}
}

// rehome goes on with the cgroup to which a machine's process was moved. What
// the one before came to is told first: at least what the process has used and
// what that cgroup was ahead of it.
func (s *VMs) rehome(v *vm, at odometer.Moment) {
	r := v.run
	if own, err := s.processCPU(r); err == nil && r.cpu.begun {
		r.cpu.max = r.atLeast(own)
	}
	e := edge{at: at, state: v.state(), gauges: s.gauges(v)}
	if r.cpu.begun {
		e.counters = []odometer.Counter{{Quantity: odometer.CPU, Incarnation: r.cpuName, Value: r.cpu.max}}
	}
	v.edges = append(v.edges, e)
	was := r.cpuName
	s.chooseCPU(r)
	s.log.Info("a machine's processor time is counted elsewhere now", "instance", r.instance, "before", was, "now", r.cpuName)
	s.compare(r)
	n, err := s.readCPU(r)
	s.tookCPU(r, n, err)
	r.strayed = false
	if r.loose {
		s.closeFiles(r)
	}
}

// Sources says what is measured and what cannot be, and why, as of the last
// sample, in a fixed order.
func (s *VMs) Sources() []SourceStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var machines, cpu, memory, disks, network, storage problems
	var running, kept, links, files, elsewhere int
	gpus := map[odometer.GPUKind]int{}
	var from [3]int
	machines = append(machines, s.refused...)
	for _, v := range s.list {
		for _, g := range v.def.GPUs {
			gpus[g.Kind]++
		}
		for _, d := range v.def.Disks {
			if !d.ReadOnly && !hasFile(d) {
				elsewhere++
			}
		}
		machines.add(v.def.Instance, v.problem)
		for _, f := range v.parts {
			files++
			if p := f.problem.Load(); p != nil {
				storage.add(v.def.Instance, *p)
			}
		}
		r := v.run
		if r == nil {
			continue
		}
		running++
		if !r.loose {
			kept++
		}
		from[r.cpuFrom]++
		cpu.add(v.def.Instance, r.cpuProblem)
		memory.add(v.def.Instance, r.memoryProblem)
		disks.add(v.def.Instance, r.ioProblem)
		for i := range r.nics {
			n := &r.nics[i]
			if n.host != nil {
				links++
			}
			if n.problem != nil {
				network.add(v.def.Instance, fmt.Errorf("%s: %w", n.def.Name, n.problem))
			}
		}
	}
	for _, sp := range s.order {
		network.add("", errors.Join(sp.problem, sp.missed.recent(), sp.functions.problem()))
	}
	for _, point := range s.images.hung() {
		storage = append(storage, point+" does not answer; what its disks last occupied is held")
	}
	if from[cpuFromStat] > 0 {
		cpu.add("", s.taskProblem)
	}
	fileList := problems(nil)
	if kept < running {
		fileList = append(fileList, fmt.Sprintf("the files of %d machines are opened anew for each sample, which costs more: as many as are allowed are open", running-kept))
	}
	var ends problems
	if s.host {
		ends.add("", s.exitProblem)
		ends.add("", s.overrun.recent())
	}
	return []SourceStatus{
		machines.status("machines", fmt.Sprintf("%d, of which %d run", len(s.list), running)),
		cpu.status("cpu", fmt.Sprintf("%d by their cgroup, %d by taskstats, %d by /proc/PID/stat in steps of %s",
			from[cpuFromCgroup], from[cpuFromTasks], from[cpuFromStat], time.Duration(s.tickNanos))),
		memory.status("memory", "anonymous, shared and huge pages of the process"),
		disks.status("disks", "what the process had the storage layer read and write"),
		network.status("network", fmt.Sprintf("%d interfaces in %d namespaces", links, len(s.order))),
		storage.status("storage", fmt.Sprintf("%d files and devices; %d disks elsewhere, of which only the size is known, if that", files, elsewhere)),
		problems(nil).status("gpu", fmt.Sprintf("%d attached whole, %d shares of one, %d slices (MIG)", gpus[odometer.GPUWhole], gpus[odometer.GPUVGPU], gpus[odometer.GPUMIG])),
		ends.status("ends", "exit records and link deletions"),
		fileList.status("files", fmt.Sprintf("%d machines with open files, at most %d", kept, s.maxKept)),
		problems(nil).status("boot", s.bootID),
	}
}

// problems are why parts of a source are not measured.
type problems []string

func (p *problems) add(id odometer.InstanceID, err error) {
	switch {
	case err == nil:
	case id == "":
		*p = append(*p, err.Error())
	default:
		*p = append(*p, fmt.Sprintf("%s: %v", id, err))
	}
}

// mostProblems is how many of a source's problems are told in full.
const mostProblems = 3

func (p problems) status(name, detail string) SourceStatus {
	st := SourceStatus{Name: name, OK: true, Detail: detail}
	if len(p) > mostProblems {
		p = append(slices.Clip(p[:mostProblems]), fmt.Sprintf("and %d more", len(p)-mostProblems))
	}
	st.Problem = strings.Join(p, "; ")
	return st
}

// filesPerRun is how many files a machine that runs keeps open.
const filesPerRun = 4

// spareFiles is how many files the rest of the process may need: sockets,
// the spool, the ledger.
const spareFiles = 512

// keptRuns returns of how many machines the files may be kept open. The limit
// that counts is the hard one: the soft one is raised to it.
func keptRuns() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	if limit.Cur < limit.Max {
		raised := unix.Rlimit{Cur: limit.Max, Max: limit.Max}
		if unix.Setrlimit(unix.RLIMIT_NOFILE, &raised) == nil {
			limit = raised
		}
	}
	const enough = 1 << 30
	return int(max(0, int64(min(limit.Cur, enough))-spareFiles)) / filesPerRun
}
