package inventory

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// maxStatic is the largest file that is read: some ten thousand machines.
const maxStatic = 16 << 20

// FileOptions says which file to read and as whom.
type FileOptions struct {
	Path  string
	Root  string           // under which proc, sys and the files that it names are found; "" is "/"
	Agent odometer.AgentID // names the machines that have no id
}

// File lists the machines that a file names, see the package's documentation
// for its format.
//
// List is called by one goroutine at a time; Problems and Close may be called
// from others meanwhile.
type File struct {
	opt  FileOptions
	root string
	boot string
	gate chan struct{} // see maxWaiting
	wait time.Duration // see patience

	// listing is held through a List and guards what follows.
	listing  sync.Mutex
	version  version
	broken   error // why the file that is there is not the one that is listed
	machines []*static
	disks    map[*static][]*lookout[image]
	bound    map[odometer.InstanceID]binding
	problems []string
}

// version tells whether a file was changed.
type version struct {
	dev, inode uint64
	size       int64
	modified   unix.Timespec
}

// binding is the process that a machine's number was first seen to be.
type binding struct {
	file  version // of the file with its number
	start uint64
}

// OpenFile reads the file. An error says everything that is wrong with it, with
// line and member.
func OpenFile(opt FileOptions) (*File, error) {
	f := &File{opt: opt, root: filepath.Join("/", opt.Root), gate: make(chan struct{}, maxWaiting), wait: patience, bound: map[odometer.InstanceID]binding{}}
	var err error
	if f.boot, err = word(filepath.Join(f.root, "proc/sys/kernel/random/boot_id")); err != nil {
		return nil, fmt.Errorf("read the boot id: %w", err)
	}
	if err := f.load(); err != nil {
		return nil, err
	}
	return f, nil
}

// Name is "file".
func (f *File) Name() string { return "file" }

// Close does nothing: nothing is kept open.
func (f *File) Close() error { return nil }

// Problems says what was wrong in the last list; among it why the file as it is
// now is not what is listed.
func (f *File) Problems() []string {
	f.listing.Lock()
	defer f.listing.Unlock()
	return slices.Clone(f.problems)
}

// List returns the machines of the file, which it reads again when that was
// changed. Where it is gone or broken, the machines are those that it had.
func (f *File) List(ctx context.Context) ([]odometer.VM, error) {
	f.listing.Lock()
	defer f.listing.Unlock()
	if err := f.load(); err != nil {
		f.broken = err
	}
	f.problems = nil
	if f.broken != nil {
		for line := range strings.Lines(f.broken.Error()) {
			f.problems = append(f.problems, "the file as it was before is listed: "+strings.TrimSpace(line))
		}
	}
	deadline := time.Now().Add(f.wait)
	list := make([]odometer.VM, 0, len(f.machines))
	for _, s := range f.machines {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("list %s: %w", f.opt.Path, err)
		}
		list = append(list, f.look(s, deadline))
	}
	slices.SortFunc(list, func(a, b odometer.VM) int { return strings.Compare(string(a.Instance), string(b.Instance)) })
	return list, nil
}

// load reads the file unless it is the one that was read last.
func (f *File) load() error {
	file, err := os.Open(f.opt.Path)
	if err != nil {
		f.version = version{}
		return fmt.Errorf("open the list of machines: %w", err)
	}
	defer file.Close()
	v, err := versionOf(int(file.Fd()))
	if err != nil {
		return fmt.Errorf("look at %s: %w", f.opt.Path, err)
	}
	if v == f.version {
		return nil
	}
	b, err := io.ReadAll(io.LimitReader(file, maxStatic+1))
	if err == nil && len(b) > maxStatic {
		err = fmt.Errorf("it has more than %d bytes", maxStatic)
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", f.opt.Path, err)
	}
	machines, err := parseStatic(b, f.opt.Path, f.opt.Agent)
	f.version = v
	if err != nil {
		return err
	}
	f.broken, f.machines = nil, machines
	f.disks = map[*static][]*lookout[image]{}
	for _, s := range machines {
		f.disks[s] = newLookouts(&s.guest)
	}
	return nil
}

func versionOf(fd int) (version, error) {
	var st unix.Stat_t
	err := unix.Fstat(fd, &st)
	return version{st.Dev, st.Ino, st.Size, st.Mtim}, err
}

func (f *File) problem(s *static, format string, args ...any) {
	f.problems = append(f.problems, fmt.Sprintf("%s: %s", s.instance, fmt.Sprintf(format, args...)))
}

// look finds the process of a machine and what its disks are.
func (f *File) look(s *static, deadline time.Time) odometer.VM {
	v := odometer.VM{
		Instance: s.instance, Name: s.name, Source: s.source, Attributes: s.attributes, Owner: s.owner, State: odometer.Running,
		Control: s.socket, VCPUs: s.vcpus, Memory: s.memory, NICs: slices.Clone(s.links), GPUs: slices.Clone(s.gpus),
	}
	if s.runs() {
		pid, start, err := f.process(s)
		switch {
		case err != nil:
			// Whether it runs is not known: it is not said that it ended.
			f.problem(s, "which process it is is not known: %v", err)
		case pid == 0:
			v.State = odometer.Stopped
		default:
			v.PID, v.Began, v.Run = pid, int64(start)*tickMicros, RunName(f.boot, pid, start)
		}
	}
	root, err := unix.Open(f.root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		f.problem(s, "its disks are not looked at: %v", err)
	} else {
		defer unix.Close(root)
	}
	for i, d := range s.disks {
		if l := f.disks[s][i]; d.look && err == nil {
			f.lookAt(s, &d, l, root, deadline)
		}
		v.Disks = append(v.Disks, d.Disk)
	}
	return v
}

// lookAt fills in what a disk's file says; what the file of machines says of it
// stands, and must agree.
func (f *File) lookAt(s *static, d *guestDisk, l *lookout[image], root int, deadline time.Time) {
	if l.answer == nil {
		fd, err := unix.FcntlInt(uintptr(root), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			f.problem(s, "disk %s: look at it: %v", d.Name, err)
			return
		}
		view := view{root: fd, host: "/", sys: filepath.Join(f.root, "sys"), base: f.root}
		name, format := d.Path, d.Format
		l.begin(f.gate, func() image {
			defer unix.Close(view.root)
			return view.inspect(name, format, true)
		})
	}
	if !l.wait(deadline) {
		f.problem(s, "disk %s: the filesystem of %s does not answer", d.Name, d.Path)
	}
	if !l.known {
		d.Kind = odometer.DiskKind(first(string(d.Kind), string(odometer.DiskUnknown)))
		return
	}
	im := l.last
	switch {
	case im.problem != nil && d.Provisioned == odometer.Unknown:
		f.problem(s, "disk %s: %v", d.Name, im.problem)
	case d.Provisioned != odometer.Unknown && im.size != odometer.Unknown && d.Provisioned != im.size:
		f.problem(s, "disk %s: it has %d bytes and not %d", d.Name, im.size, d.Provisioned)
	}
	if d.Kind != "" && im.kind != odometer.DiskUnknown && d.Kind != im.kind {
		f.problem(s, "disk %s: it is of kind %s and not %s", d.Name, im.kind, d.Kind)
	}
	if d.Kind == "" || im.kind != odometer.DiskUnknown {
		d.Kind = im.kind
	}
	if im.size != odometer.Unknown {
		d.Provisioned = im.size // which cannot be wrong
	}
	d.Format, d.Backing = im.format, im.backing
}

// process finds the process of a machine: 0 where it does not run.
func (f *File) process(s *static) (pid int, start uint64, err error) {
	var from version
	pid = s.pid
	switch {
	case s.cgroup != "":
		return f.oldest(s.cgroup, 0)
	case s.pidFile != "":
		if pid, from, err = f.readPID(s.pidFile); err != nil || pid == 0 {
			return 0, 0, err
		}
	}
	st, err := f.stat(pid)
	if err != nil || st.gone() {
		if err == nil || ended(err) {
			return 0, 0, nil
		}
		return 0, 0, err
	}
	// The number that the file told before another process began is not that
	// process's.
	if b, ok := f.bound[s.instance]; ok && b.file == from && b.start != st.start {
		return 0, 0, nil
	}
	f.bound[s.instance] = binding{from, st.start}
	return pid, st.start, nil
}

func (f *File) stat(pid int) (procStat, error) {
	b, err := os.ReadFile(filepath.Join(f.root, "proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return procStat{}, err
	}
	return parseProcStat(b)
}

// readPID reads a file with the number of a process; a file that is not there
// is a machine that does not run.
func (f *File) readPID(name string) (int, version, error) {
	file, err := os.Open(filepath.Join(f.root, name))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, version{}, nil
	}
	if err != nil {
		return 0, version{}, err
	}
	defer file.Close()
	b, err := head(file, 64)
	if err != nil {
		return 0, version{}, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	pid, err := strconv.ParseUint(strings.TrimSpace(line), 10, 31)
	if err != nil || pid == 0 {
		return 0, version{}, fmt.Errorf("%s has no process id", name)
	}
	v, err := versionOf(int(file.Fd()))
	return int(pid), v, err
}

// oldest finds the oldest process of a cgroup and those below it, which began
// first and whose end is the machine's.
func (f *File) oldest(cgroup string, depth int) (pid int, start uint64, err error) {
	dir := filepath.Join(f.root, cgroup)
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return 0, 0, nil
	}
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) { // of a threaded cgroup only its root has any
		return 0, 0, err
	}
	take := func(p int, began uint64) {
		if p != 0 && (pid == 0 || began < start || began == start && p < pid) {
			pid, start = p, began
		}
	}
	for line := range strings.Lines(string(b)) {
		p, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil {
			return 0, 0, fmt.Errorf("%s/cgroup.procs is malformed", cgroup)
		}
		if st, err := f.stat(p); err == nil && !st.gone() {
			take(p, st.start)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil || depth == maxDepth {
		return pid, start, nil
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		p, began, err := f.oldest(path.Join(cgroup, e.Name()), depth+1)
		if err != nil {
			return 0, 0, err
		}
		take(p, began)
	}
	return pid, start, nil
}
