package sampler

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// statEvery is how often the files behind disks are looked at. A look costs a
// few microseconds a file, and never a sample's time.
const statEvery = 10 * time.Second

// statPatience is how long an update waits for the files of machines that are
// new, so that their first reading knows what they occupy.
const statPatience = 100 * time.Millisecond

// diskFile is the file or device behind a disk of a machine.
type diskFile struct {
	path     string // on the host, below Root
	occupied atomic.Int64
	problem  atomic.Pointer[error]
}

// images measures what the files behind disks occupy without ever standing
// still: each filesystem has a goroutine that makes the system calls which may
// hang. Which filesystem a path lies on is told by the path alone.
type images struct {
	stat  func(path string, st *unix.Stat_t) error
	byFS  map[string]*imageFS // by mount point
	wake  chan struct{}       // one has finished a round
	since int64               // boot time of the last round
}

// imageFS is a filesystem that has disks.
type imageFS struct {
	point string
	ask   chan struct{} // capacity 1; closed when it is not wanted any more
	due   atomic.Int32  // rounds that were asked for and are not finished
	gone  chan struct{} // closed when its goroutine has ended

	mu   sync.Mutex
	list []*diskFile
}

func (m *images) init(stat func(string, *unix.Stat_t) error) {
	m.stat, m.byFS, m.wake = stat, map[string]*imageFS{}, make(chan struct{}, 1)
}

// replace takes over which files there are, and where filesystems are mounted.
func (m *images) replace(files []*diskFile, points []string) {
	byFS := map[string][]*diskFile{}
	for _, f := range files {
		at := mountOf(f.path, points)
		byFS[at] = append(byFS[at], f)
	}
	for point, list := range byFS {
		fs := m.byFS[point]
		if fs == nil {
			fs = &imageFS{point: point, ask: make(chan struct{}, 1), gone: make(chan struct{})}
			m.byFS[point] = fs
			go fs.serve(m.stat, m.wake)
		}
		fs.mu.Lock()
		fs.list = list
		fs.mu.Unlock()
	}
	for point, fs := range m.byFS {
		if byFS[point] == nil {
			close(fs.ask)
			delete(m.byFS, point)
		}
	}
}

// mountOf returns the mount point under which a path lies.
func mountOf(path string, points []string) string {
	best := "/"
	for _, p := range points {
		if len(p) > len(best) && strings.HasPrefix(path, p) && (len(path) == len(p) || path[len(p)] == '/') {
			best = p
		}
	}
	return best
}

// refresh asks every filesystem for a round. It does not wait.
func (m *images) refresh() {
	for _, fs := range m.byFS {
		fs.due.Add(1)
		select {
		case fs.ask <- struct{}{}:
		default: // one is waiting already and will see all that there is now
			fs.due.Add(-1)
		}
	}
}

// wait waits until the filesystems have finished what they were asked for, at
// most statPatience.
func (m *images) wait(list []*imageFS) {
	timer := time.NewTimer(statPatience)
	defer timer.Stop()
	for slices.ContainsFunc(list, (*imageFS).busy) {
		select {
		case <-m.wake:
		case <-timer.C:
			return
		}
	}
}

func (fs *imageFS) busy() bool { return fs.due.Load() > 0 }

// hung names the filesystems that do not answer.
func (m *images) hung() []string {
	var list []string
	for _, fs := range m.byFS {
		if fs.busy() {
			list = append(list, fs.point)
		}
	}
	slices.Sort(list)
	return list
}

// close ends all goroutines but those that a filesystem holds up.
func (m *images) close() {
	timer := time.NewTimer(statPatience)
	defer timer.Stop()
	for _, fs := range m.byFS {
		close(fs.ask)
	}
	for _, fs := range m.byFS {
		select {
		case <-fs.gone:
		case <-timer.C:
			return
		}
	}
	m.byFS = nil
}

func (fs *imageFS) serve(stat func(string, *unix.Stat_t) error, wake chan<- struct{}) {
	defer close(fs.gone)
	for range fs.ask {
		fs.mu.Lock()
		list := fs.list
		fs.mu.Unlock()
		for _, f := range list {
			f.measure(stat)
		}
		fs.due.Add(-1)
		select {
		case wake <- struct{}{}:
		default: // somebody woke the waiter already and it will look at all
		}
	}
}

// errNoFile says that what a disk occupies is known to a layer that is not asked.
var errNoFile = errors.New("it is no file: what it occupies its own layer would have to tell")

// measure counts the blocks that a file has of its own: holes are none, and a
// backing file is another file.
func (f *diskFile) measure(stat func(string, *unix.Stat_t) error) {
	var st unix.Stat_t
	err := stat(f.path, &st)
	bytes := odometer.Unknown
	switch {
	case err != nil:
		err = &fs.PathError{Op: "stat", Path: f.path, Err: err}
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		err = fmt.Errorf("%s: %w", f.path, errNoFile)
	case st.Blocks < 0 || st.Blocks > 1<<53:
		err = fmt.Errorf("stat %s: %d blocks: that cannot be", f.path, st.Blocks)
	default:
		bytes = st.Blocks * 512 // whatever the filesystem's blocks are, see stat(2)
	}
	f.occupied.Store(bytes)
	if err == nil {
		f.problem.Store(nil)
		return
	}
	f.problem.Store(&err)
}

func statFile(path string, st *unix.Stat_t) error {
	for {
		if err := unix.Stat(path, st); err != unix.EINTR {
			return err
		}
	}
}

// diskFiles returns the files behind a machine's disks, each once. Those that
// are there already are kept. Read-only disks are left out: what is on them
// somebody else put there.
func (s *VMs) diskFiles(v *vm) []*diskFile {
	var list []*diskFile
	for _, d := range v.def.Disks {
		if d.ReadOnly || !filepath.IsAbs(d.Path) || d.Kind == odometer.DiskNetwork {
			continue
		}
		path := filepath.Join(s.root, d.Path)
		has := func(f *diskFile) bool { return f.path == path }
		if slices.ContainsFunc(list, has) {
			continue
		}
		if i := slices.IndexFunc(v.files, has); i >= 0 {
			list = append(list, v.files[i])
			continue
		}
		f := &diskFile{path: path}
		f.occupied.Store(odometer.Unknown)
		list = append(list, f)
	}
	return list
}

// occupied adds up what the machine's disks occupy, as far as that is known;
// Unknown where it is of none.
func (v *vm) occupied() int64 {
	return total(v.files, func(f *diskFile) int64 { return f.occupied.Load() })
}

// provisioned adds up what the machine sees of its disks.
func (v *vm) provisioned() int64 {
	return total(v.def.Disks, func(d odometer.Disk) int64 {
		if d.ReadOnly {
			return odometer.Unknown
		}
		return d.Provisioned
	})
}
