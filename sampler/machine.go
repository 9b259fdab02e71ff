package sampler

import (
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// rescanEvery is how often a [Machine] looks for disks, interfaces, GPUs and
// filesystems anew although nothing told it to. What comes or goes shows in
// the samples themselves and is looked for at once; this is for the changes
// that do not: a disk resized, a slave enslaved, a file that failed.
const rescanEvery = 30 * time.Second

// cpuWobble is how far the kernel's sum of CPU time may step back without
// having started anew: it is summed over CPUs that go on counting.
const cpuWobble = time.Second

// MachineOptions says which machine to meter and as whom.
type MachineOptions struct {
	// Root is the directory under which proc and sys are found; "" is "/".
	// Another root is read without rtnetlink, which knows only this host.
	Root string

	// What every reading says.
	Instance odometer.InstanceID
	Agent    odometer.AgentID
	Owner    odometer.Owner

	// PreviousBoot is the boot id in which the instance was last read, as
	// whoever keeps its state remembers it; "" where nobody does. Where the
	// machine has booted since, all its counters count from 0 since that
	// reading: they are Born in the first one.
	PreviousBoot string

	Clock  Clock        // nil is SystemClock
	Logger *slog.Logger // nil logs nothing
}

// Machine meters the machine it runs on.
//
// Sample is called by one goroutine at a time; Metrics, Sources and Close may
// be called from others meanwhile. In between samples only goroutines waiting
// for something to do are left, one for each filesystem; Close ends them.
type Machine struct {
	// Fixed at the start.
	opt       MachineOptions
	clock     Clock
	log       *slog.Logger
	root      string
	tickNanos uint64
	statfs    statfsFunc
	smi       smiFunc
	host      bool // Root is the host's own, so that rtnetlink answers for it

	// sampling is held through a whole Sample or Metrics and guards all that
	// follows.
	sampling sync.Mutex
	closed   bool
	buf      []byte
	head     [512]byte

	stat, meminfo, online, loadavg, diskstats, netdev, mountinfo *kept

	bootID    string
	scannedAt int64 // boot time in microseconds
	sampled   bool  // a reading was emitted
	rebooted  bool  // the first reading is the first of this boot
	suspended sleepWatch

	// The processors: what the last reading said, and what to compare it with.
	cpu           ratchet
	cpuGeneration int
	cpuName       string // its incarnation
	cpuNow        cpuTimes
	cpuWindow     [2]cpuMark
	vcpus         int64
	memory        memInfo

	disks       group
	provisioned int64
	links       group
	stats       *statsSocket // nil where /proc/net/dev has to do
	linkMark    func()
	linkSaw     func(uint32, linkStats)
	storage     storage
	gpus        gpuSet
	busy        busyGPUs

	sources map[string]*source
	// reading is what Sample emits; only Sample touches it.
	reading odometer.Reading
}

// source is the state of one [SourceStatus].
type source struct {
	ok      bool
	detail  string
	problem error
}

// ratchet holds a counter through small steps back.
type ratchet struct {
	max   uint64
	begun bool
}

// fold returns the greater of v and the greatest value so far, unless v lies
// more than wobble below it: then the counter has started anew at v.
func (r *ratchet) fold(v, wobble uint64) (value uint64, anew bool) {
	anew = r.begun && v < r.max && r.max-v > wobble
	if !r.begun || anew || v > r.max {
		r.max, r.begun = v, true
	}
	return r.max, anew
}

// cpuMark is the processors' time at one moment.
type cpuMark struct {
	times cpuTimes
	boot  int64
}

// OpenMachine looks for what there is to measure. It fails only when nothing
// can be: no processor time, no memory, no disk and no interface.
func OpenMachine(opt MachineOptions) (*Machine, error) {
	return openMachine(opt, statfsOf, ticksPerSecond(), runSMI)
}

func openMachine(opt MachineOptions, statfs statfsFunc, hz uint64, smi smiFunc) (*Machine, error) {
	m := &Machine{
		opt: opt, clock: opt.Clock, log: opt.Logger,
		root: opt.Root, host: opt.Root == "" || filepath.Clean(opt.Root) == "/",
		statfs: statfs, smi: smi,
		tickNanos: uint64(time.Second) / hz,
		buf:       make([]byte, 16<<10),
		sources:   map[string]*source{},
	}
	if m.root == "" {
		m.root = "/"
	}
	if m.clock == nil {
		m.clock = SystemClock{}
	}
	if m.log == nil {
		m.log = slog.New(slog.DiscardHandler)
	}
	for _, name := range sourceNames {
		m.sources[name] = &source{}
	}
	m.stat = keep(m.path("proc/stat"))
	m.meminfo = keep(m.path("proc/meminfo"))
	m.online = keep(m.path("sys/devices/system/cpu/online"))
	m.loadavg = keep(m.path("proc/loadavg"))
	m.diskstats = keep(m.path("proc/diskstats"))
	m.netdev = keep(m.path("proc/net/dev"))
	m.mountinfo = keep(m.path("proc/self/mountinfo"))
	m.linkMark, m.linkSaw = m.links.begin, m.sawLink
	m.busy.open = openNVML
	m.storage.init()
	if m.host {
		var err error
		if m.stats, err = openStats(); err != nil {
			m.log.Warn("network counters come from /proc/net/dev, which costs more", "err", err)
		}
	}
	m.scan(m.clock.Now())
	if !m.read(m.clock.Now()) {
		err := m.nothing()
		m.Close()
		return nil, err
	}
	m.cpuWindow = [2]cpuMark{{m.cpuNow, m.scannedAt}, {m.cpuNow, m.scannedAt}}
	m.rebooted = opt.PreviousBoot != "" && m.sources["boot"].ok && opt.PreviousBoot != m.bootID
	m.suspended.since(m.clock)
	return m, nil
}

var sourceNames = [...]string{"boot", "cpu", "vcpus", "memory", "storage", "disks", "network", "gpu"}

func (m *Machine) path(p string) string { return filepath.Join(m.root, p) }

// Close ends what the machine holds open. It waits at most [statfsPatience]
// for each filesystem; a goroutine inside a filesystem that hangs for longer
// ends when that does.
func (m *Machine) Close() error {
	m.sampling.Lock()
	defer m.sampling.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	for _, k := range m.files() {
		k.close()
	}
	if m.stats != nil {
		m.stats.close()
	}
	m.storage.close()
	m.gpus.close()
	m.busy.close()
	return nil
}

func (m *Machine) files() [7]*kept {
	return [...]*kept{m.stat, m.meminfo, m.online, m.loadavg, m.diskstats, m.netdev, m.mountinfo}
}

var errClosed = errors.New("the machine source is closed")

// Sample takes one reading and hands it to emit, which must not keep its
// Counters. What cannot be read is missing from it; only when nothing at all
// can be read is there no reading but an error, and the next call tries again.
//
// The first reading of a Machine is Unwatched, since whoever measured before
// was another, and so is the first after the machine was suspended. A device
// that appeared since the previous reading is Born in the first that has it.
//
// A sample does not allocate unless something changed, and does not wait,
// except up to [statfsPatience] once for a filesystem that begins to hang.
func (m *Machine) Sample(emit func(*odometer.Reading)) error {
	if err := m.sample(); err != nil {
		return err
	}
	emit(&m.reading)
	return nil
}

func (m *Machine) sample() error {
	m.sampling.Lock()
	defer m.sampling.Unlock()
	if m.closed {
		return errClosed
	}
	at := m.clock.Now()
	switch {
	case at.Boot-m.scannedAt >= rescanEvery.Microseconds():
		m.scan(at)
		at = m.clock.Now()
	case m.mountsChanged():
		m.scanMounts()
		at = m.clock.Now()
	}
	if !m.read(at) {
		return m.nothing()
	}
	m.fill(at)
	m.sampled = true
	return nil
}

// nothing says why there is no reading.
func (m *Machine) nothing() error {
	var errs []error
	for _, name := range sourceNames {
		if s := m.sources[name]; s.problem != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, s.problem))
		}
	}
	return fmt.Errorf("sample the machine under %s: nothing can be read: %w", m.root, errors.Join(errs...))
}

// read reads all sources and reports whether there is anything to tell.
func (m *Machine) read(at odometer.Moment) bool {
	cpu := m.readCPU(at)
	m.readMemory()
	m.readDisks()
	m.readLinks()
	m.storage.refresh()
	return cpu || m.memory.known != 0 || m.disks.any() || m.links.any()
}

// fill turns what was read into m.reading.
func (m *Machine) fill(at odometer.Moment) {
	r := &m.reading
	r.Instance, r.Agent, r.Owner, r.At = m.opt.Instance, m.opt.Agent, m.opt.Owner, at
	r.State = odometer.Running
	r.Unwatched = m.suspended.since(m.clock) || !m.sampled
	r.Counters = r.Counters[:0]
	if m.sources["cpu"].ok {
		r.Counters = append(r.Counters, odometer.Counter{Quantity: odometer.CPU, Incarnation: m.cpuName, Value: m.cpu.max})
	}
	r.Counters = m.disks.emit(r.Counters, odometer.DiskRead, odometer.DiskWrite, m.sampled)
	r.Counters = m.links.emit(r.Counters, odometer.NetworkIngress, odometer.NetworkEgress, m.sampled)
	r.Counters = m.busy.emit(r.Counters, at)
	if m.rebooted && !m.sampled {
		for i := range r.Counters {
			r.Counters[i].Born = true
		}
	}

	r.Gauges = odometer.NoGauges
	if m.sources["memory"].ok {
		r.Gauges.Memory = int64(m.memory.total - min(m.memory.available, m.memory.total))
	}
	if m.memory.known&memTotal != 0 {
		r.Gauges.MemoryAllocated = int64(m.memory.total)
	}
	r.Gauges.Storage = m.storage.used()
	r.Gauges.StorageProvisioned = m.provisioned
	r.Gauges.VCPUs = m.vcpus
	r.Gauges.GPUs = m.gpus.gauge()
}

func (m *Machine) readCPU(at odometer.Moment) bool {
	b, err := m.stat.head(m.head[:])
	var t cpuTimes
	if err == nil {
		t, err = parseStat(b)
	}
	m.note("cpu", err)
	if err == nil {
		_, anew := m.cpu.fold(t.busy*m.tickNanos, uint64(cpuWobble))
		if anew {
			// Either another boot, which a container can be moved into, or a
			// counter that starts anew in the same one.
			m.cpuGeneration++
			m.scanBoot()
			m.nameCPU()
			m.log.Warn("the processor time counter started anew", "incarnation", m.cpuName)
		}
		m.cpuNow = t
		if at.Boot-m.cpuWindow[1].boot >= time.Second.Microseconds() {
			m.cpuWindow[0], m.cpuWindow[1] = m.cpuWindow[1], cpuMark{t, at.Boot}
		}
	}
	m.vcpus = odometer.Unknown
	online, onlineErr := m.online.head(m.head[:])
	if onlineErr == nil {
		m.vcpus, onlineErr = parseCPUList(online)
	}
	if onlineErr != nil {
		m.vcpus = odometer.Unknown
		if b, err := m.stat.all(&m.buf); err == nil {
			if n := countCPUs(b); n > 0 {
				m.vcpus, onlineErr = n, nil
			}
		}
	}
	m.note("vcpus", onlineErr)
	return err == nil
}

// nameCPU derives the processors' incarnation: the boot, and how often the
// counter started anew in it.
func (m *Machine) nameCPU() {
	m.cpuName = m.bootID
	if m.cpuGeneration > 0 {
		m.cpuName = fmt.Sprintf("%s#%d", m.bootID, m.cpuGeneration)
	}
}

var (
	errNoAvailable = errors.New("MemAvailable or MemTotal is missing from /proc/meminfo")
	errNoTotal     = errors.New("MemTotal is 0")
)

func (m *Machine) readMemory() {
	b, err := m.meminfo.all(&m.buf)
	m.memory = memInfo{}
	if err == nil {
		m.memory = parseMemInfo(b)
		switch {
		case m.memory.known&(memTotal|memAvailable) != memTotal|memAvailable:
			err = errNoAvailable
		case m.memory.total == 0:
			err = errNoTotal
		}
	}
	m.note("memory", err)
}

func (m *Machine) readDisks() {
	for attempt := range 2 {
		b, err := m.diskstats.all(&m.buf)
		m.disks.begin()
		if err != nil {
			m.note("disks", err)
			return
		}
		for len(b) > 0 {
			var line []byte
			line, b = cutLine(b)
			if name, d, ok := parseDiskLine(line); ok {
				m.disks.sawName(name, d.sectorsRead*sectorBytes, d.sectorsWritten*sectorBytes)
			}
		}
		if attempt > 0 || !m.disks.changed() {
			m.disks.settle()
			m.note("disks", m.disks.problem)
			return
		}
		m.scanDisks()
	}
}

func (m *Machine) readLinks() {
	for attempt := range 2 {
		if err := m.readLinksOnce(); err != nil {
			m.links.begin()
			m.note("network", err)
			return
		}
		if attempt > 0 || !m.links.changed() {
			m.links.settle()
			m.note("network", m.links.problem)
			return
		}
		m.scanLinks()
	}
}

func (m *Machine) readLinksOnce() error {
	if m.stats != nil {
		err := m.stats.dump(m.linkMark, m.linkSaw)
		if err == nil || errors.Is(err, errInterrupted) {
			return err
		}
		m.log.Warn("network counters come from /proc/net/dev from now on", "err", err)
		m.stats.close()
		m.stats = nil
	}
	b, err := m.netdev.all(&m.buf)
	if err != nil {
		return err
	}
	m.links.begin()
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		if name, s, ok := parseNetDevLine(line); ok {
			m.links.sawName(name, s.rxBytes, s.txBytes)
		}
	}
	return nil
}

func (m *Machine) sawLink(ifindex uint32, s linkStats) {
	m.links.sawSeq(ifindex, s.rxBytes, s.txBytes)
}

// mountsChanged reports whether the mount table has changed since the last
// call. The kernel tells that by an exceptional condition on the open file.
func (m *Machine) mountsChanged() bool {
	if m.mountinfo.fd < 0 {
		return false
	}
	m.storage.poll[0] = unix.PollFd{Fd: int32(m.mountinfo.fd), Events: unix.POLLPRI}
	n, err := unix.Poll(m.storage.poll[:], 0)
	return err == nil && n > 0 && m.storage.poll[0].Revents&(unix.POLLPRI|unix.POLLERR) != 0
}

// note records how a source fared and logs it when that changed.
func (m *Machine) note(name string, err error) {
	s := m.sources[name]
	ok := err == nil
	if ok == s.ok && (ok || s.problem == err || s.problem != nil && s.problem.Error() == err.Error()) {
		return
	}
	switch {
	case !ok:
		m.log.Warn("cannot measure", "source", name, "err", err)
	case s.problem != nil:
		m.log.Info("measured again", "source", name)
	}
	s.ok, s.problem = ok, err
}

// Sources says what the machine measures and what it cannot, and why, as of
// the last sample, in a fixed order.
func (m *Machine) Sources() []SourceStatus {
	m.sampling.Lock()
	defer m.sampling.Unlock()
	list := make([]SourceStatus, 0, len(sourceNames))
	for _, name := range sourceNames {
		s := m.sources[name]
		st := SourceStatus{Name: name, OK: s.ok, Detail: s.detail}
		switch name {
		case "cpu":
			st.Detail = fmt.Sprintf("processor time in steps of %s", time.Duration(m.tickNanos))
		case "vcpus":
			st.Detail = fmt.Sprintf("%d online", max(m.vcpus, 0))
		case "memory":
			st.Detail = fmt.Sprintf("%d MiB in all", m.memory.total>>20)
		case "storage":
			m.storage.describe(&st)
		case "gpu":
			busy := m.busy.trouble()
			if errors.Is(busy, errNotBuilt) {
				st.Detail, busy = st.Detail+"; "+busy.Error(), nil
			}
			if err := errors.Join(m.gpus.trouble(), busy); err != nil {
				st.Problem = err.Error()
			}
		case "network":
			if m.stats != nil {
				st.Detail += " (rtnetlink)"
			} else {
				st.Detail += " (/proc/net/dev)"
			}
		}
		if s.problem != nil {
			st.Problem = s.problem.Error()
		}
		list = append(list, st)
	}
	return list
}

// scanBoot reads which boot this is and names everything after it.
func (m *Machine) scanBoot() {
	id, err := readBootID(m.path(bootIDPath))
	m.note("boot", err)
	m.sources["boot"].detail = id
	switch {
	case err == nil && id != m.bootID:
		m.bootID, m.cpuGeneration = id, 0
	case m.bootID == "":
		// Nothing tells boots apart: then each start of the agent has to
		// count as one, at the price of a new baseline.
		m.bootID = "process-" + rand.Text()
	}
	m.nameCPU()
}

// scan looks for everything anew.
func (m *Machine) scan(at odometer.Moment) {
	m.scannedAt = at.Boot
	for _, k := range m.files() {
		k.reopen()
	}
	m.scanBoot()
	m.scanDisks()
	m.scanLinks()
	m.scanMounts()
	m.scanGPUs(at)
}
