package inventory

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

const (
	// youngFor is how long a process is looked at in every scan: what is
	// forked becomes a hypervisor only when it executes one, with the same
	// number and start time.
	youngFor = 10 * odometer.SecondMicros
	// turns is in how many scans the command line of every other process is
	// read once, for those that execute a hypervisor later than that.
	turns = 64
	// lookEvery is how often the disks and interfaces of a machine are looked
	// at anew: a file may have grown, a device been moved.
	lookEvery = 30 * odometer.SecondMicros
	// maxCmdline is the longest command line that is read; the kernel allows
	// a quarter of the stack's limit, 2 MiB as a rule.
	maxCmdline = 4 << 20
)

// ProcessesOptions says where to look and as whom.
type ProcessesOptions struct {
	// Root is the directory under which proc and sys are found; "" is "/".
	Root  string
	Agent odometer.AgentID // names the machines that have no UUID
	Clock Clock
}

// Processes lists the machines whose hypervisors run as processes of this
// host: QEMU, Cloud Hypervisor and Firecracker, whoever started them.
//
// List is called by one goroutine at a time; Problems, Told and Close may be
// called from others meanwhile.
type Processes struct {
	opt  ProcessesOptions
	root string
	sys  string
	boot string
	ends *ends // nil where the ends of processes have to be read
	told chan odometer.Change
	gate chan struct{} // see maxWaiting
	wait time.Duration // see patience
	ask  *controls     // nil where nobody is asked

	// listing is held through a whole List and guards all that follows.
	listing  sync.Mutex
	proc     int // /proc, open; -1 after Close
	buf      []byte
	name     []byte
	seed     maphash.Seed
	dirents  []byte
	round    uint32
	seen     map[int]seen
	machines map[int]*machine
	dead     map[int]bool // machines that have ended since they were listed
	list     []odometer.VM
	problems []string // of the machines
	trouble  []string // of the last scan
}

// seen is a process that was looked at.
type seen struct {
	inode uint64 // of its directory: another process of that number has another
	round uint32 // the last scan that found it
	young int64  // until when its command line is read in each scan
	line  uint64 // digest of that
	// hidden says that it may not be read.
	hidden bool
}

// OpenProcesses fails where there is no /proc to list.
func OpenProcesses(opt ProcessesOptions) (*Processes, error) {
	p := &Processes{
		opt: opt, root: filepath.Join("/", opt.Root),
		told: make(chan odometer.Change, 256), gate: make(chan struct{}, maxWaiting), wait: patience,
		dirents: make([]byte, 64<<10), buf: make([]byte, 16<<10),
		seed: maphash.MakeSeed(), seen: map[int]seen{}, machines: map[int]*machine{}, dead: map[int]bool{},
	}
	p.sys = filepath.Join(p.root, "sys")
	var err error
	if p.boot, err = word(filepath.Join(p.root, "proc/sys/kernel/random/boot_id")); err != nil {
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	p.proc, err = unix.Open(filepath.Join(p.root, "proc"), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", filepath.Join(p.root, "proc"), err)
	}
	if p.root == "/" {
		// Without it the end of a process is found by reading its stat.
		p.ends, _ = watchEnds(p.ended)
		p.ask = newControls(p.root, opt.Clock, p.told)
	}
	return p, nil
}

// Name is "processes".
func (p *Processes) Name() string { return "processes" }

// SeesEnds is true.
func (p *Processes) SeesEnds() bool { return true }

// Close ends what the source holds open. A goroutine that waits for a
// filesystem ends when that answers.
func (p *Processes) Close() error {
	if p.ends != nil {
		p.ends.close()
	}
	p.listing.Lock()
	defer p.listing.Unlock()
	for _, m := range p.machines {
		p.forget(m)
	}
	if p.ask != nil {
		p.ask.close()
	}
	if p.proc >= 0 {
		_ = unix.Close(p.proc) // only ever read
		p.proc = -1
	}
	return nil
}

// Told tells the end of each machine's process when it comes, and how it
// ended where the kernel says so. It needs pidfds, Linux 5.3. Of a machine whose
// hypervisor can be asked it tells as well when that is paused, goes on or
// reboots.
func (p *Processes) Told() <-chan odometer.Change { return p.told }

// Problems names what is not known of the machines in the last list, and why.
func (p *Processes) Problems() []string {
	p.listing.Lock()
	defer p.listing.Unlock()
	hidden := 0
	for _, s := range p.seen {
		if s.hidden {
			hidden++
		}
	}
	list := slices.Concat(p.problems, p.trouble)
	if hidden > 0 {
		list = append(list, fmt.Sprintf("%d processes may not be read: machines among them are not found", hidden))
	}
	return list
}

// Asked returns how many of the machines in the last list have a hypervisor
// that is asked what has become of them, how many of those answer, and how many
// are left to another client that holds their monitor.
func (p *Processes) Asked() (asked, answer, held int) {
	p.listing.Lock()
	defer p.listing.Unlock()
	for _, v := range p.list {
		m := p.machines[v.PID]
		if m == nil || m.control == nil {
			continue
		}
		asked++
		switch now, _, problem := m.control.said(); {
		case m.control.left():
			held++
		case now != nil && problem == "":
			answer++
		}
	}
	return asked, answer, held
}

// List looks for processes that have come and gone. It reads the command line
// of a process once, and again while it is young; when nothing has changed it
// allocates nothing.
//
// What cannot be read of a machine is unknown and in [Processes.Problems]. A
// machine whose process ends meanwhile is not in the list.
func (p *Processes) List(ctx context.Context) ([]odometer.VM, error) {
	p.listing.Lock()
	defer p.listing.Unlock()
	if p.proc < 0 {
		return nil, errors.New("list processes: the source is closed")
	}
	now := p.opt.Clock.Now().Boot
	deadline := time.Now().Add(p.wait)
	changed, err := p.scan(ctx, now)
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	for _, m := range p.machines {
		if (m.next <= now || m.control != nil && m.control.fresh.Load()) && p.lookAgain(m, now, deadline) {
			changed = true
		}
	}
	if changed {
		p.compose()
	}
	return p.list, nil
}

// scan goes through /proc and reports whether machines came or went.
func (p *Processes) scan(ctx context.Context, now int64) (changed bool, err error) {
	if _, err := unix.Seek(p.proc, 0, 0); err != nil {
		return false, err
	}
	p.round++
	p.trouble = p.trouble[:0]
	for {
		if err := ctx.Err(); err != nil {
			return changed, err
		}
		n, err := unix.ReadDirent(p.proc, p.dirents)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return changed, err
		}
		if n == 0 {
			break
		}
		for b := p.dirents[:n]; ; {
			d, rest, ok := cutDirent(b)
			if !ok {
				break
			}
			b = rest
			pid := pidOf(d.name)
			if pid == 0 {
				continue
			}
			old, known := p.seen[pid]
			m := p.machines[pid]
			if known && old.inode == d.inode && p.settled(pid, d.name, old, m, now) {
				old.round = p.round
				p.seen[pid] = old
				continue
			}
			changed = p.examine(pid, d.inode, now) || changed
		}
	}
	for pid, s := range p.seen {
		if s.round != p.round {
			delete(p.seen, pid)
			if m := p.machines[pid]; m != nil {
				p.lost(m)
				changed = true
			}
		}
	}
	return changed, nil
}

// settled reports whether a process that was seen before needs no look.
func (p *Processes) settled(pid int, name []byte, s seen, m *machine, now int64) bool {
	if m == nil {
		if now >= s.young && (uint32(pid)+p.round)%turns != 0 || s.hidden {
			return true
		}
		line, err := p.cmdline(name)
		return err == nil && maphash.Bytes(p.seed, line) == s.line
	}
	if p.dead[pid] {
		return false
	}
	if m.statFD < 0 {
		return true // its pidfd tells the end
	}
	n, err := unix.Pread(m.statFD, p.buf, 0)
	if err != nil {
		return false
	}
	st, err := parseProcStat(p.buf[:n])
	return err == nil && !st.gone() && st.start == m.stat.start
}

// cmdline reads the command line of a process without allocating.
func (p *Processes) cmdline(name []byte) ([]byte, error) {
	p.name = append(append(p.name[:0], name...), "/cmdline\x00"...)
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(p.proc), uintptr(unsafe.Pointer(&p.name[0])), unix.O_RDONLY|unix.O_CLOEXEC, 0, 0, 0)
	if errno != 0 {
		return nil, errno
	}
	b, err := readAll(int(fd), &p.buf, maxCmdline)
	_ = unix.Close(int(fd)) // only ever read
	return b, err
}

// examine finds out what a process is and reports whether that changes the
// list. One that is gone meanwhile leaves no trace. One that cannot be read now
// stays what it was, and the next scan tries again.
func (p *Processes) examine(pid int, inode uint64, now int64) (changed bool) {
	m := p.machines[pid]
	s := seen{inode: inode, round: p.round}
	dir, err := openProcess(p.proc, strconv.Itoa(pid))
	var line []byte
	var st procStat
	if err == nil {
		defer dir.close()
		st, line, err = p.read(dir)
	}
	switch {
	case err == nil:
	case ended(err):
		return false // the sweep after the scan forgets it
	case errors.Is(err, fs.ErrPermission):
		s.hidden = true
		p.seen[pid] = s
		return false
	default:
		p.trouble = append(p.trouble, fmt.Sprintf("process %d: what it is is not known: %v", pid, err))
		p.seen[pid] = seen{round: p.round}
		return false
	}
	s.young, s.line = int64(st.start)*tickMicros+youngFor, maphash.Bytes(p.seed, line)
	p.seen[pid] = s
	if m != nil && m.stat.start == st.start && (m.cmdline == string(line) && !p.dead[pid] || m.ending(line)) {
		return false
	}
	if m != nil {
		p.lost(m)
		changed = true
	}
	if len(line) == 0 {
		return changed
	}
	cmdline := string(line)
	exe, _ := dir.link("exe") // of another user's process only root may read it
	g := recognise(splitArgs(cmdline), exe)
	if g == nil {
		return changed
	}
	fresh := &machine{
		pid: pid, stat: st, cmdline: cmdline, guest: g, command: g, state: odometer.Running, run: RunName(p.boot, pid, st.start),
		pidfd: -1, statFD: -1, config: &lookout[configFile]{}, disks: newLookouts(g),
	}
	if err := p.watch(fresh, dir); err != nil {
		p.release(fresh)
		if !ended(err) {
			p.trouble = append(p.trouble, fmt.Sprintf("process %d is a machine that cannot be watched: %v", pid, err))
		}
		p.seen[pid] = seen{round: p.round}
		return changed
	}
	p.machines[pid] = fresh
	p.askOf(fresh, dir)
	return true
}

// read reads what tells a process: its stat and its command line, which is
// empty where it has ended or is the kernel's.
func (p *Processes) read(dir process) (st procStat, line []byte, err error) {
	b, err := dir.read("stat", &p.buf, maxInfo)
	if err != nil {
		return st, nil, err
	}
	if st, err = parseProcStat(b); err != nil || st.gone() {
		return st, nil, err
	}
	line, err = dir.read("cmdline", &p.buf, maxCmdline)
	return st, line, err
}

// watch makes sure that the end of the process will be noticed. An error that
// says so is its end.
func (p *Processes) watch(m *machine, dir process) error {
	if p.ends != nil {
		fd, err := p.ends.add(m.pid)
		if err != nil {
			return err
		}
		m.pidfd = fd
		// The number may have passed to another process before this: then what
		// is open of the first one fails.
		b, err := dir.read("stat", &p.buf, maxInfo)
		if err != nil {
			return err
		}
		if st, err := parseProcStat(b); err != nil || st.gone() {
			return errors.Join(err, unix.ESRCH)
		}
		return nil
	}
	fd, err := unix.Openat(dir.dir, "stat", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	m.statFD = fd
	return err
}

// lost drops a machine whose process is not what it was. Where it has ended
// that is told first: the scan may come before who waits for it.
func (p *Processes) lost(m *machine) {
	if m.pidfd >= 0 && readable(m.pidfd) {
		p.tell(m, p.opt.Clock.Now())
	}
	p.forget(m)
}

// ending reports whether a machine's process, which has this command line, has given up
// its memory and not ended yet. It frees that first, which takes a while where there is
// much, and only then is it known how it ended.
func (m *machine) ending(line []byte) bool {
	return len(line) == 0 && m.pidfd >= 0 && !readable(m.pidfd)
}

// forget drops a machine.
func (p *Processes) forget(m *machine) {
	p.release(m)
	delete(p.machines, m.pid)
}

// release closes what a machine holds.
func (p *Processes) release(m *machine) {
	if m.pidfd >= 0 {
		p.ends.remove(m.pidfd)
	}
	if m.statFD >= 0 {
		_ = unix.Close(m.statFD) // only ever read
	}
	m.pidfd, m.statFD = -1, -1
	if m.control != nil {
		p.ask.remove(m.control)
	}
	delete(p.dead, m.pid)
}

// ended is called when the process of a machine has ended.
func (p *Processes) ended(pidfd int) {
	at := p.opt.Clock.Now()
	p.listing.Lock()
	defer p.listing.Unlock()
	for _, m := range p.machines {
		// The number of a file may belong to another one by now.
		if m.pidfd == pidfd && readable(pidfd) {
			p.dead[m.pid] = true
			p.tell(m, at)
			return
		}
	}
}

// tell tells the end of a machine that was listed, once.
func (p *Processes) tell(m *machine, at odometer.Moment) {
	i := slices.IndexFunc(p.list, func(v odometer.VM) bool { return v.Run == m.run })
	if i < 0 || m.told {
		return // it is a fork of one that is listed, or ended before it was
	}
	m.told = true
	c := odometer.Change{Instance: p.list[i].Instance, At: at}
	c.Kind, c.Detail = howEnded(p.exit(m))
	if m.control != nil {
		m.control.ended(&c)
	}
	select {
	case p.told <- c:
	default: // nobody listens: the next list tells
	}
}

// exit returns the wait status of a process that has ended, or that it is not
// known: the kernel tells it of those that were waited for since Linux 6.15,
// and of those that were not in stat.
func (p *Processes) exit(m *machine) (status int, known bool) {
	for range 2 {
		if status, known = exitOf(m.pidfd); known {
			return status, true
		}
		dir, err := openProcess(p.proc, strconv.Itoa(m.pid))
		if err != nil {
			continue // it was waited for just now
		}
		b, err := dir.read("stat", &p.buf, maxInfo)
		dir.close()
		if err != nil {
			continue
		}
		if st, err := parseProcStat(b); err == nil && st.start == m.stat.start && st.gone() {
			return st.exit, true
		}
	}
	return 0, false
}

// lookAgain looks at a machine whose time has come and reports whether
// anything is different.
func (p *Processes) lookAgain(m *machine, now int64, deadline time.Time) bool {
	dir, err := openProcess(p.proc, strconv.Itoa(m.pid))
	if err != nil {
		return false // the next scan finds out why
	}
	defer dir.close()
	st, line, err := p.read(dir)
	if err == nil && st.start == m.stat.start && m.ending(line) {
		return false
	}
	if err != nil || st.start != m.stat.start || m.cmdline != string(line) {
		p.seen[m.pid] = seen{round: p.round} // another process, or it executes another binary
		return false
	}
	fresh := m.next == 0
	before, problems := m.vm, slices.Clone(m.problems)
	p.look(m, dir, deadline)
	switch {
	case now < int64(st.start)*tickMicros+youngFor || !m.looked:
		m.next = now + 1
	case fresh:
		// Those that are found at once are not all looked at at once again.
		m.next = now + 1 + lookEvery*int64(m.pid%32)/32
	default:
		m.next = now + lookEvery
	}
	return fresh || !equalVM(&before, &m.vm) || !slices.Equal(problems, m.problems)
}

// compose makes the list from the machines.
func (p *Processes) compose() {
	list := make([]odometer.VM, 0, len(p.machines))
	p.problems = nil
	double := p.doubles()
	for _, m := range p.machines {
		if m.next == 0 || double[m.pid] {
			continue
		}
		list = append(list, m.vm)
	}
	problems := distinct(p.opt.Agent, list)
	for i := range list {
		m := p.machines[list[i].PID]
		for _, s := range m.problems {
			p.problems = append(p.problems, whose(&list[i])+": "+s)
		}
		if m.control != nil {
			m.control.called(list[i].Instance)
		}
	}
	p.problems = append(p.problems, problems...)
	slices.Sort(p.problems)
	p.list = list
}

// startingUp is within what time a process that turns itself into a daemon has
// made the one that goes on.
const startingUp = odometer.SecondMicros

// doubles finds the processes that have a machine's command line and are not
// its hypervisor: what it forked and has not executed anything yet, the process
// that waits for its daemon to be ready, and what started it and has its command
// line in its own.
func (p *Processes) doubles() map[int]bool {
	double := map[int]bool{}
	lines := make(map[string][]*machine, len(p.machines))
	for _, m := range p.machines {
		lines[m.cmdline] = append(lines[m.cmdline], m)
	}
	for _, same := range lines {
		for _, m := range same {
			for _, other := range same {
				if m == other {
					continue
				}
				fork := m.stat.parent == other.pid && m.stat.session == other.stat.session
				later := int64(other.stat.start-m.stat.start) * tickMicros
				waits := m.guest.daemonize && m.stat.session != other.stat.session &&
					(later > 0 || later == 0 && other.pid > m.pid) && later <= startingUp
				if fork || waits {
					double[m.pid] = true
				}
			}
		}
	}
	for _, m := range p.machines {
		if !m.guest.likely {
			continue
		}
		for _, other := range p.machines {
			_, args, _ := strings.Cut(other.cmdline, "\x00")
			if m != other && len(other.cmdline) < len(m.cmdline) && strings.HasSuffix(m.cmdline, args) {
				double[m.pid] = true
			}
		}
	}
	return double
}
