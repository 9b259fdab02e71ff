package inventory

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// machine is a hypervisor's process and what is known of its machine.
type machine struct {
	pid     int
	stat    procStat
	cmdline string
	guest   *guest   // as it is now
	command *guest   // as its command line has it
	control *control // asks what has become of that, nil where nobody can be asked
	live    *live    // what was said of that, nil for nothing
	state   odometer.State
	run     string
	pidfd   int // -1 where stat tells the end
	statFD  int // -1 where pidfd tells it
	told    bool

	rootLink, root string // its root directory as /proc and as the host names it

	config *lookout[configFile]
	disks  []*lookout[image] // one for each disk of guest
	looked bool              // everything answered the last time
	next   int64             // when to look again, boot time in microseconds

	vm       odometer.VM // as it stands for itself, not made distinct
	problems []string
}

// configFile is what reading a configuration file gave.
type configFile struct {
	content []byte
	err     error
}

// lookout looks at something on a filesystem, which may hang, in a goroutine
// of its own. It ends when the filesystem does.
type lookout[T any] struct {
	answer chan T // of the look in progress, nil for none
	last   T
	known  bool // last is an answer
}

// begin starts a look unless one is in progress. gate bounds how many threads
// wait for filesystems at once.
func (l *lookout[T]) begin(gate chan struct{}, look func() T) {
	if l.answer != nil {
		return
	}
	answer := make(chan T, 1)
	l.answer = answer
	go func() {
		gate <- struct{}{}
		defer func() { <-gate }()
		answer <- look()
	}()
}

// wait takes the answer, at most until the deadline, and reports whether there
// is a fresh one.
func (l *lookout[T]) wait(deadline time.Time) bool {
	if l.answer == nil {
		return l.known
	}
	select {
	case l.last = <-l.answer:
		l.answer, l.known = nil, true
		return true
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case l.last = <-l.answer:
		l.answer, l.known = nil, true
		return true
	case <-timer.C:
		return false
	}
}

const (
	// patience is how long one list waits for filesystems in all. A file that
	// takes longer is told in a later list.
	patience = 250 * time.Millisecond
	// maxWaiting is how many threads may wait for filesystems at once.
	maxWaiting = 64
	// maxConfig is the largest configuration file that is read.
	maxConfig = 1 << 20
)

// look asks for everything about the machine that its command line does not
// tell, and composes it anew.
func (p *Processes) look(m *machine, dir process, deadline time.Time) {
	v := odometer.VM{
		Source: m.guest.source, Run: m.run, PID: m.pid,
		Began: int64(m.stat.start) * tickMicros,
	}
	m.problems = m.problems[:0]
	root, viewErr := p.view(m, dir)
	m.looked = true
	if m.control != nil {
		m.listen(deadline)
	}
	v.State = m.state
	if m.guest.config != "" && viewErr == nil && !m.config.known {
		p.readConfig(m, root, dir, deadline)
	}
	g := m.guest
	m.problems = append(m.problems, g.problems...)
	v.Name, v.VCPUs, v.Memory, v.Ballooned = first(g.name, g.label), g.vcpus, g.memory, g.balloon
	if g.id != "" {
		v.Attributes = map[string]string{g.idName: g.id}
	}
	switch {
	case g.uuid != "":
		v.Instance = odometer.InstanceID(g.uuid)
	case v.Name != "":
		v.Instance = Identity(p.opt.Agent, v.Name)
	default:
		v.Instance = Identity(p.opt.Agent, g.source+"-"+runSuffix(&v))
		m.problems = append(m.problems, "it has neither a UUID nor a name: its identity holds for this run only")
	}
	if v.VCPUs == odometer.Unknown {
		v.VCPUs = countVCPUs(dir)
	}
	if g.socket != "" && viewErr == nil {
		v.Control = path.Join(root.host, resolve(root, g.socket))
	}
	if viewErr != nil {
		m.problems = append(m.problems, "what its files are is not known: "+viewErr.Error())
	} else {
		p.lookAtDisks(m, root, dir, deadline)
	}
	for i, d := range g.disks {
		if l := m.disks[i]; d.look && l.known {
			im := l.last
			d.Kind, d.Path, d.Format = im.kind, im.path, im.format
			if d.Provisioned == odometer.Unknown {
				d.Provisioned = im.size
			}
			if !d.chained {
				d.Backing = im.backing
			}
			if im.problem != nil && !(d.sized && im.size == odometer.Unknown) {
				m.problems = append(m.problems, fmt.Sprintf("disk %s: %v", d.Name, im.problem))
			}
		}
		v.Disks = append(v.Disks, d.Disk)
	}
	p.lookAtNICs(m, dir, &v)
	for _, d := range g.devices {
		if err := d.place(p.sys, &v); err != nil {
			m.problems = append(m.problems, err.Error())
		}
	}
	m.vm = v
}

// view returns the process's view of the files.
func (p *Processes) view(m *machine, dir process) (view, error) {
	v := view{pid: m.pid, sys: p.sys, base: p.root}
	link, err := dir.link("root")
	if err != nil {
		return v, err
	}
	// A process that was just started may still go into its jail.
	if link != m.rootLink || p.opt.Clock.Now().Boot < int64(m.stat.start)*tickMicros+youngFor {
		m.rootLink, m.root = link, link
		if !path.IsAbs(link) { // in a copy of /proc
			m.root = path.Join("/proc", strconv.Itoa(m.pid), link)
		} else if link == "/" {
			if b, err := dir.read("mountinfo", &p.buf, maxMounts); err == nil {
				m.root = jail(string(b), p.mounts())
			}
		}
	}
	v.host = m.root
	if cwd, err := dir.link("cwd"); err == nil {
		if !path.IsAbs(cwd) {
			cwd = path.Join("/proc", strconv.Itoa(m.pid), cwd)
		}
		if link == "/" {
			v.cwd = cwd // as told from within a root of its own
		} else if inside, ok := strings.CutPrefix(cwd, strings.TrimSuffix(v.host, "/")); ok {
			v.cwd = path.Join("/", inside)
		}
	}
	return v, nil
}

// opened opens the root directory, for one look to close.
func (v view) opened(dir process) (view, error) {
	var err error
	v.root, err = unix.Openat(dir.dir, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	return v, err
}

// maxMounts is more than a host's table of mounts has.
const maxMounts = 16 << 20

// mounts returns the host's own table of mounts.
func (p *Processes) mounts() string {
	b, err := os.ReadFile(path.Join(p.root, "proc/self/mountinfo"))
	if err != nil {
		return ""
	}
	return string(b)
}

// resolve makes a path absolute as the process would.
func resolve(v view, name string) string {
	if path.IsAbs(name) {
		return name
	}
	return path.Join(v.cwd, name)
}

func (p *Processes) lookAtDisks(m *machine, root view, dir process, deadline time.Time) {
	for i, d := range m.guest.disks {
		if !d.look || m.disks[i].answer != nil {
			continue
		}
		v, err := root.opened(dir)
		if err != nil {
			m.problems = append(m.problems, fmt.Sprintf("disk %s: see the files as its process does: %v", d.Name, err))
			continue
		}
		m.disks[i].begin(p.gate, func() image {
			defer unix.Close(v.root)
			return v.inspect(d.Path, d.Format, !d.chained)
		})
	}
	for i, d := range m.guest.disks {
		if d.look && m.disks[i].answer != nil && !m.disks[i].wait(deadline) {
			m.looked = false
			m.problems = append(m.problems, fmt.Sprintf("disk %s: the filesystem of %s does not answer", d.Name, d.Path))
		}
	}
}

// readConfig reads Firecracker's configuration file once: it did so too.
func (p *Processes) readConfig(m *machine, root view, dir process, deadline time.Time) {
	v, err := root.opened(dir)
	if err != nil {
		m.problems = append(m.problems, fmt.Sprintf("see its configuration: %v", err))
		return
	}
	name := resolve(v, m.guest.config)
	m.config.begin(p.gate, func() configFile {
		defer unix.Close(v.root)
		return v.readFile(name)
	})
	if !m.config.wait(deadline) {
		m.looked = false
		m.problems = append(m.problems, fmt.Sprintf("the filesystem of %s does not answer", m.guest.config))
		return
	}
	err = m.config.last.err
	if err == nil {
		err = parseFirecrackerConfig(m.guest, m.config.last.content)
	}
	if err != nil {
		m.guest.problem("memory, disks and interfaces: %v", err)
	}
	m.config.last.content = nil
	m.disks = newLookouts(m.guest)
}

// listen takes in what the hypervisor has said of the machine, waiting at most
// until the deadline for the first time that it does.
func (m *machine) listen(deadline time.Time) {
	if !m.control.wait(deadline) {
		m.looked = false
		m.problems = append(m.problems, m.control.asks+" has not answered yet")
	}
	m.control.fresh.Store(false)
	now, state, problem := m.control.said()
	m.state = state
	if problem != "" {
		m.problems = append(m.problems, problem)
	}
	if now == nil || now == m.live {
		return
	}
	before, disks := m.guest, m.disks
	m.live, m.guest = now, now.over(m.command)
	m.disks = newLookouts(m.guest)
	for i, d := range m.guest.disks {
		for j, b := range before.disks {
			if d.look && b.look && d.Name == b.Name && d.Path == b.Path && d.chained == b.chained {
				m.disks[i] = disks[j] // what it saw
			}
		}
	}
}

func newLookouts(g *guest) []*lookout[image] {
	list := make([]*lookout[image], len(g.disks))
	for i := range list {
		list[i] = &lookout[image]{}
	}
	return list
}

// readFile reads a regular file of the process.
func (v view) readFile(name string) configFile {
	fd, err := v.open(name)
	if err != nil {
		return configFile{err: fmt.Errorf("open %s: %w", name, err)}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return configFile{err: errors.Join(err, fmt.Errorf("%s is no regular file", name))}
	}
	f, err := os.Open("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return configFile{err: fmt.Errorf("open %s: %w", name, errors.Unwrap(err))}
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxConfig+1))
	if err == nil && len(b) > maxConfig {
		err = fmt.Errorf("%s has more than %d bytes", name, maxConfig)
	}
	return configFile{b, err}
}

// lookAtNICs names the interfaces on the host of those that were passed as
// open files or that the process opened itself.
func (p *Processes) lookAtNICs(m *machine, dir process, v *odometer.VM) {
	nics := slices.Clone(m.guest.nics)
	unnamed := 0
	named := map[string]bool{}
	for i := range nics {
		n := &nics[i]
		if n.fd >= 0 {
			if err := p.linkByFD(dir, n); err != nil {
				m.problems = append(m.problems, fmt.Sprintf("interface %s: which interface of the host it is is not known: %v", n.Name, err))
			}
		}
		if n.open {
			unnamed++
		}
		named[n.Link] = true
	}
	api := m.guest.source != qemu && len(nics) == 0 && len(m.guest.problems) > 0
	if unnamed > 0 || api {
		taps, err := p.taps(dir)
		taps = slices.DeleteFunc(taps, func(name string) bool { return named[name] })
		switch {
		case api:
			// Made over the API: the taps that it holds are its interfaces.
			for _, tap := range taps {
				nics = append(nics, guestNIC{fd: -1, NIC: odometer.NIC{Name: tap, Kind: odometer.NICTap, Link: tap}})
			}
		case err == nil && len(taps) == unnamed:
			// Opened in the order in which they stand on the command line.
			for i := range nics {
				if nics[i].open {
					nics[i].Link, taps = taps[0], taps[1:]
				}
			}
		case err == nil:
			err = fmt.Errorf("the process holds %d taps for %d interfaces", len(taps), unnamed)
		}
		if err != nil {
			m.problems = append(m.problems, fmt.Sprintf("interfaces: which interfaces of the host they are is not known: %v", err))
		}
	}
	for _, n := range nics {
		v.NICs = append(v.NICs, n.NIC)
	}
}

// linkByFD names the interface behind a file that was passed to the process.
func (p *Processes) linkByFD(dir process, n *guestNIC) error {
	number := strconv.Itoa(n.fd)
	info, err := dir.read("fdinfo/"+number, &p.buf, maxInfo)
	if err != nil {
		return err
	}
	if n.Link = tunName(info); n.Link != "" {
		return nil
	}
	file, err := dir.link("fd/" + number)
	if err != nil {
		return err
	}
	if index, ok := strings.CutPrefix(file, "/dev/tap"); ok && index != "" {
		n.Kind = odometer.NICMacvtap
		if n.Link = macvtapLink(p.sys, file); n.Link != "" {
			return nil
		}
	}
	return fmt.Errorf("file %d of the process is %s", n.fd, file)
}

// maxInfo is more than a file of /proc/PID/fdinfo has.
const maxInfo = 64 << 10

// taps lists the interfaces behind the files of /dev/net/tun that the process
// holds, in the order of their descriptors; one of several queues once.
func (p *Processes) taps(dir process) ([]string, error) {
	names, err := dir.names("fd")
	if err != nil {
		return nil, err
	}
	fds := map[int]string{}
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			fds[n] = name
		}
	}
	var taps []string
	for _, n := range slices.Sorted(maps.Keys(fds)) {
		if file, err := dir.link("fd/" + fds[n]); err != nil || file != "/dev/net/tun" {
			continue
		}
		info, err := dir.read("fdinfo/"+fds[n], &p.buf, maxInfo)
		if err != nil {
			return nil, err
		}
		if tap := tunName(info); tap != "" && !slices.Contains(taps, tap) {
			taps = append(taps, tap)
		}
	}
	return taps, nil
}

// countVCPUs counts the threads that run virtual processors, by the names that
// the hypervisors give them; Unknown where there is none of such a name. QEMU
// names its threads only with debug-threads=on.
func countVCPUs(dir process) int64 {
	tasks, err := dir.names("task")
	if err != nil {
		return odometer.Unknown
	}
	var n int64
	var buf []byte
	for _, task := range tasks {
		b, err := dir.read("task/"+task+"/comm", &buf, 4096)
		if err != nil {
			continue
		}
		name := strings.TrimSpace(string(b))
		if rest, ok := strings.CutPrefix(name, "CPU "); ok && (strings.HasSuffix(rest, "/KVM") || strings.HasSuffix(rest, "/TCG")) ||
			strings.HasPrefix(name, "fc_vcpu ") || isNumbered(name, "vcpu") {
			n++
		}
	}
	if n == 0 {
		return odometer.Unknown
	}
	return n
}

func isNumbered(name, prefix string) bool {
	rest, ok := strings.CutPrefix(name, prefix)
	return ok && rest != "" && strings.Trim(rest, "0123456789") == ""
}
