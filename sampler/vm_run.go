package sampler

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// run is one run of a machine: the process of its hypervisor from start to
// end, and the open files that its counters are read from.
type run struct {
	// What every sample touches comes first, so that it lies close together:
	// fetching it from memory costs as much as all arithmetic.

	// Open while loose is false; otherwise opened for each sample.
	files    [4]int                       // see the indexes; -1 where one is not open
	parse    func([]byte) (uint64, error) // of the cgroup's file
	cpuFrom  cpuSource
	loose    bool
	strayed  bool // the process is in another cgroup now
	cpuKnown bool // this sample read it
	cpuBorn  bool // it counts from 0 since the last reading
	ioKnown  bool // the last look at it did

	cpu         ratchet
	read, wrote ratchet
	nics        []nic
	ioAt        int64 // boot time of the next look at it
	memoryAt    int64
	compareAt   int64
	memory      int64  // bytes, Unknown
	swapped     int64  // bytes of it that are on the host's swap, beside memory
	cpuName     string // incarnation of the processor time
	device      string // incarnation of what counts with the process

	cpuProblem, ioProblem, memoryProblem error

	// Fixed when it is found.
	instance odometer.InstanceID
	name     string // as the inventory calls it, "" where it does not
	pid      int
	pidfd    int       // -1 where there is none
	started  uint64    // when the process began, in ticks since boot
	began    int64     // the same in microseconds, or as the inventory knows it
	born     bool      // it began since the instance was last read
	paths    [4]string // of files

	cgroup      cpuCgroup
	cgroupError error // why there is no cgroup
	// offset is how far the counter of processor time is at least ahead of the
	// process's own, by the last comparison: helpers, and what the cgroup
	// counted before; below 0 what the process used before it was in the cgroup.
	offset int64
	exit   uint64 // the process's own at its end, as the exit record has it
	ended  endedThreads
}

// cpuSource says where processor time is read.
type cpuSource uint8

const (
	cpuFromCgroup cpuSource = iota
	cpuFromTasks
	cpuFromStat
)

// The files of a run.
const (
	fileCPU = iota // of the cgroup
	fileIO
	fileStatus
	fileStat // only where processor time comes from it or is held to it, or while a run is opened
)

// open opens one of a run's files.
func (r *run) open(file int, path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		r.files[file] = -1
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	r.files[file], r.paths[file] = fd, path
	return nil
}

func (r *run) close(file int) {
	if r.files[file] >= 0 {
		_ = unix.Close(r.files[file]) // only ever read
		r.files[file] = -1
	}
}

var errNotOpen = errors.New("it could not be opened")

// get reads the beginning of one of a run's files with one system call.
func (r *run) get(file int, buf []byte) ([]byte, error) {
	fd := r.files[file]
	if fd < 0 {
		return nil, errNotOpen
	}
	for {
		n, err := unix.Pread(fd, buf, 0)
		switch err {
		case nil:
			return buf[:n], nil
		case unix.EINTR:
			continue
		}
		return nil, &fs.PathError{Op: "read", Path: r.paths[file], Err: err}
	}
}

// What costs much or changes little is read now and then only; runs take turns.
const (
	ioEvery      = 5 * time.Second // at most, see [VMsOptions.Period]
	memoryEvery  = 30 * time.Second
	compareEvery = 2 * time.Minute // how far the cgroup is ahead of the process
)

// errAnother says that a process is not the one that the inventory saw.
var errAnother = errors.New("the process is another one: its number was used again")

// openRun opens what is needed to read a machine that runs. It fails only
// where the process is not there or another one.
func (s *VMs) openRun(def *odometer.VM, loose bool) (*run, error) {
	r := &run{loose: loose, instance: def.Instance, name: def.Run, pid: def.PID, began: def.Began, pidfd: -1, memory: odometer.Unknown}
	for i := range r.files {
		r.files[i] = -1
	}
	buf := make([]byte, 4096)
	if err := s.openFiles(r, buf); err != nil {
		s.closeFiles(r)
		return nil, err
	}
	// The inventory knows the moment better than to a tick where it knows it at all.
	tick := time.Duration(s.tickNanos).Microseconds()
	began := int64(r.started) * tick
	if r.began == 0 {
		r.began = began
	}
	if r.began < began-tick || r.began > began+2*tick {
		s.closeFiles(r)
		return nil, errAnother
	}
	r.born = r.began > s.readUntil(def.Instance)
	r.device = fmt.Sprintf("%s/pid%d@%d", s.bootID, r.pid, r.started)
	s.chooseCPU(r)
	return r, nil
}

// openFiles opens a run's files, all of the same process.
func (s *VMs) openFiles(r *run, buf []byte) error {
	dir := filepath.Join(s.root, "proc", strconv.Itoa(r.pid))
	if err := r.open(fileStat, filepath.Join(dir, "stat")); err != nil {
		return err
	}
	st, err := r.readStat(buf)
	if err != nil {
		return err
	}
	if r.started != 0 && st.started != r.started {
		return errAnother
	}
	r.started = st.started
	if s.host && !r.loose {
		if r.pidfd, err = unix.PidfdOpen(r.pid, 0); err != nil {
			if errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("open process %d: %w", r.pid, err)
			}
			r.pidfd, r.loose = -1, true // its end is not told, so each sample has to look
		}
	}
	if err := r.open(fileIO, filepath.Join(dir, "io")); err != nil {
		s.note(&r.ioProblem, r.instance, "disk I/O", err)
	}
	if err := r.open(fileStatus, filepath.Join(dir, "status")); err != nil {
		s.note(&r.memoryProblem, r.instance, "memory", err)
	}
	// The first file is bound to the process it was opened of. That it still
	// answers says that the others, opened since, are of the same one.
	_, err = r.readStat(buf)
	return err
}

func (r *run) readStat(buf []byte) (processStat, error) {
	b, err := r.get(fileStat, buf)
	if err != nil {
		return processStat{}, err
	}
	st, err := parseProcessStat(b)
	if err != nil {
		return processStat{}, fmt.Errorf("%s: %w", r.paths[fileStat], err)
	}
	return st, nil
}

func (s *VMs) closeFiles(r *run) {
	for i := range r.files {
		r.close(i)
	}
	if r.pidfd >= 0 {
		_ = unix.Close(r.pidfd) // holds nothing
		r.pidfd = -1
	}
}

// chooseCPU decides where the processor time of a run comes from, opens it
// and reads it for the first time.
func (s *VMs) chooseCPU(r *run) {
	r.cpu, r.cpuKnown = ratchet{}, false
	r.close(fileCPU)
	if r.cgroup, r.cgroupError = findCgroup(s.root, s.hierarchies, r.pid); r.cgroupError == nil {
		r.cgroupError = r.open(fileCPU, r.cgroup.path)
	}
	switch {
	case r.cgroupError == nil:
		r.cpuFrom, r.cpuName, r.parse = cpuFromCgroup, s.bootID+"/"+r.cgroup.name, r.cgroup.parse
	case s.tasks != nil:
		r.cpuFrom, r.cpuName = cpuFromTasks, r.device+"/taskstats"
	default:
		r.cpuFrom, r.cpuName = cpuFromStat, r.device
	}
	if r.cpuFrom == cpuFromCgroup && !r.loose && s.tasks != nil {
		r.close(fileStat)
	}
}

// readCPU reads the processor time of a run in nanoseconds.
func (s *VMs) readCPU(r *run) (uint64, error) {
	switch r.cpuFrom {
	case cpuFromTasks:
		return s.tasksCPU(r, r.cpu.max)
	case cpuFromStat:
		return s.processCPU(r)
	}
	b, err := r.get(fileCPU, s.buf)
	if err != nil {
		return 0, err
	}
	n, err := r.parse(b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", r.paths[fileCPU], err)
	}
	return n, nil
}

// processCPU returns the processor time of the process alone.
func (s *VMs) processCPU(r *run) (uint64, error) {
	if s.tasks != nil {
		return s.tasks.cpu(r.pid)
	}
	return s.statCPU(r)
}

func (s *VMs) statCPU(r *run) (uint64, error) {
	if r.files[fileStat] < 0 {
		if err := r.open(fileStat, filepath.Join(s.root, "proc", strconv.Itoa(r.pid), "stat")); err != nil {
			return 0, err
		}
	}
	st, err := r.readStat(s.buf)
	if err == nil && st.started != r.started {
		err = errAnother
	}
	return st.cpu * s.tickNanos, err
}

// tasksCPU asks taskstats for the processor time of the process. A thread that
// ends is in it twice for a while, as one that has ended and as one that lives:
// its exit is accounted for (taskstats_exit) long before it has ended
// (exit_notify), while the memory of a machine that was killed is freed. So what
// has grown since before is held to /proc/PID/stat, where that cannot be, and which
// has whole ticks of user and system time.
func (s *VMs) tasksCPU(r *run, before uint64) (uint64, error) {
	n, err := s.tasks.cpu(r.pid)
	if err != nil || n < before+s.tickNanos {
		return n, err
	}
	whole, err := s.statCPU(r)
	if err != nil {
		return 0, err
	}
	return s.onceOnly(n, whole, before), nil
}

// onceOnly is what taskstats said, n, unless it is more than /proc/PID/stat had
// just after that.
func (s *VMs) onceOnly(n, whole, before uint64) uint64 {
	if n > whole+3*s.tickNanos {
		return max(before, whole)
	}
	return n
}

// compare finds out how far the cgroup is ahead of the process, and returns
// by how much it is at most; below 0 it lies behind. Both are 0 where processor
// time is the process's own.
func (s *VMs) compare(r *run) (most int64) {
	if r.cpuFrom != cpuFromCgroup {
		r.offset = 0
		return 0
	}
	// What the process uses while the cgroup is read cannot be told from how far that is
	// ahead: whoever was interrupted meanwhile looks again.
	const enough = uint64(100 * time.Microsecond)
	narrowest := uint64(math.MaxUint64)
	for try := 0; try < 5 && narrowest > enough; try++ {
		before, err1 := s.processCPU(r)
		all, err2 := s.readCPU(r)
		after, err3 := s.processCPU(r)
		if errors.Join(err1, err2, err3) != nil {
			if try == 0 {
				most = int64(all)
			}
			break
		}
		if after-before < narrowest {
			narrowest = after - before
			r.offset, most = int64(all)-int64(after), int64(all)-int64(before)
		}
	}
	return most
}

// findStrayed finds out whether the process has been moved out of the cgroup
// that is read: then it runs on, and the cgroup falls behind it.
func (s *VMs) findStrayed(r *run) {
	const beyondDoubt = int64(100 * time.Millisecond)
	if r.cpuFrom != cpuFromCgroup || r.loose {
		return
	}
	own, err := s.processCPU(r)
	if err != nil || !r.cpuKnown {
		return
	}
	// What this sample read of the cgroup is older than what is known of the
	// process, so that the cgroup is at least that far ahead.
	if offset := int64(r.cpu.max) - int64(own); offset+beyondDoubt < r.offset {
		r.strayed = true
	} else {
		r.offset = offset
	}
}

// look reads the counters of a run: processor time always, the others where
// they are due or everything is asked for. It reports whether the process is
// there.
func (s *VMs) look(r *run, at odometer.Moment, everything bool) bool {
	if r.loose {
		defer s.closeFiles(r)
		if err := s.reopen(r); err != nil {
			return false
		}
	}
	n, err := s.readCPU(r)
	if errors.Is(err, unix.ESRCH) {
		return false
	}
	r.strayed = r.cpuFrom == cpuFromCgroup && errors.Is(err, unix.ENODEV)
	s.tookCPU(r, n, err)
	if everything || s.ioEvery == 0 || r.loose || due(&r.ioAt, at, s.ioEvery) {
		s.lookIO(r)
	}
	if due(&r.memoryAt, at, memoryEvery) {
		s.lookMemory(r)
	}
	return true
}

// due reports whether a moment has come, and moves it on.
func due(next *int64, at odometer.Moment, every time.Duration) bool {
	late := at.Boot - *next
	if late < 0 {
		return false
	}
	*next += every.Microseconds() * (late/every.Microseconds() + 1)
	return true
}

func (s *VMs) tookCPU(r *run, n uint64, err error) {
	if r.cpuKnown = err == nil; r.cpuKnown {
		if _, anew := r.cpu.fold(n, uint64(cpuWobble)); anew {
			r.cpuName += "#"
			s.log.Warn("the processor time counter started anew", "instance", r.instance, "incarnation", r.cpuName)
		}
	}
	if err != nil || r.cpuProblem != nil {
		s.note(&r.cpuProblem, r.instance, "processor time", err)
	}
}

// reopen opens the files of a loose run.
func (s *VMs) reopen(r *run) error {
	if err := s.openFiles(r, s.buf); err != nil {
		return err
	}
	if r.cpuFrom != cpuFromCgroup {
		return nil
	}
	return r.open(fileCPU, r.cgroup.path)
}

func (s *VMs) lookIO(r *run) {
	r.ioKnown = false
	if r.files[fileIO] < 0 {
		return // why is known since it was opened
	}
	b, err := r.get(fileIO, s.buf)
	var read, wrote uint64
	if err == nil {
		if read, wrote, err = parseProcessIO(b); err != nil {
			err = fmt.Errorf("%s: %w", r.paths[fileIO], err)
		}
	}
	if r.ioKnown = err == nil; r.ioKnown {
		r.read.fold(read, 1<<63)
		r.wrote.fold(wrote, 1<<63)
	}
	if err != nil || r.ioProblem != nil {
		s.note(&r.ioProblem, r.instance, "disk I/O", err)
	}
}

func (s *VMs) lookMemory(r *run) {
	if r.files[fileStatus] < 0 {
		return // why is known since it was opened
	}
	b, err := r.get(fileStatus, s.buf)
	if err == nil {
		if r.memory, r.swapped, err = parseProcessStatus(b); err != nil {
			err = fmt.Errorf("%s: %w", r.paths[fileStatus], err)
		}
	}
	if err != nil {
		r.memory = odometer.Unknown
	}
	s.note(&r.memoryProblem, r.instance, "memory", err)
}

// finish reads what a run came to whose process has ended, as far as that
// can still be read: never less than what it last was.
func (s *VMs) finish(r *run) {
	if n, err := s.readCPU(r); err == nil {
		r.cpu.max = max(r.cpu.max, n)
	}
	if r.exit > 0 && r.cpuFrom != cpuFromStat {
		r.cpu.max = r.atLeast(r.exit)
	}
	s.lookIO(r)
	r.read.max, r.wrote.max = max(r.read.max, r.ended.read), max(r.wrote.max, r.ended.wrote)
	r.ioKnown = r.read.begun
	r.cpuKnown = r.cpu.begun
	for i := range r.nics {
		n := &r.nics[i]
		if n.host == nil {
			continue
		}
		if !n.host.gone && n.host.function == nil {
			if info, err := n.space.stats.link(n.def.Link); err == nil && info.index == n.host.index {
				n.host.rx, n.host.tx = max(n.host.rx, info.stats.rxBytes), max(n.host.tx, info.stats.txBytes)
			} else {
				n.untold = n.space.turn
			}
		}
		n.take(n.host)
	}
}

// atLeast returns what the counter of processor time has come to at least
// where the process itself has used own.
func (r *run) atLeast(own uint64) uint64 {
	return max(r.cpu.max, uint64(max(0, int64(own)+r.offset)))
}

// isGone reports whether an error says that a process is not there.
func isGone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, errAnother)
}
