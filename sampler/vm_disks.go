package sampler

import (
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

// statEvery is how often the files and devices behind disks are looked at. A
// look costs a few microseconds each, and never a sample's time.
const statEvery = 10 * time.Second

// statPatience is how long an update waits for the files of machines that are
// new, so that their first reading knows what they occupy.
const statPatience = 100 * time.Millisecond

// diskFile is a file or device that disks of machines lie on.
type diskFile struct {
	path     string // on the host, below Root
	block    bool   // the inventory says that it is a block device
	local    bool   // it lies on a filesystem that only this host has; guarded by VMs.mu
	occupied atomic.Int64
	id       atomic.Pointer[fileID] // nil before the first look; another one where it is another file
	problem  atomic.Pointer[error]
}

// fileID is what two paths of one file have in common; of a block device its
// number, without an inode.
type fileID struct{ device, inode uint64 }

func (id fileID) isDevice() bool { return id.inode == 0 }

// diskPart is a file of a machine's disks.
type diskPart struct {
	*diskFile
	below  bool    // an image that a disk is laid over
	counts bool    // see [VMs.share]
	as     *fileID // the file that this holds for
}

// images measures what lies behind disks without ever standing still: each
// filesystem has a goroutine that makes the system calls which may hang, and so
// has each block device, whose layers may. Which filesystem a path lies on is
// told by the path alone.
type images struct {
	stat   statFunc
	layers blockLayers
	byFS   map[string]*imageFS // by mount point, or path of a block device
	wake   chan struct{}       // one has finished a round
	since  int64               // boot time of the last round
	news   atomic.Bool         // a file was seen for the first time, or is another one

	// version counts the changes of what files occupy or count as: what a machine's
	// come to is added up when there was one. It is 1 at first, so that 0 is none.
	version atomic.Uint64

	// shared are the images that several machines were laid over, the one that was
	// found last at the end: when the others have gone it is still nobody's own,
	// and so after a restart.
	shared []SharedImage
}

// SharedImage is an image that several machines were laid over at a time. A file
// that takes its place under its path is another.
type SharedImage struct {
	Path  string `json:"path"` // on the host
	Inode uint64 `json:"inode"`
}

// maxShared is more images than a host has.
const maxShared = 10_000

type statFunc func(path string, st *unix.Stat_t) error

// imageFS is a filesystem that has disks, or a block device that is one.
type imageFS struct {
	point string
	ask   chan struct{} // capacity 1; closed when it is not wanted any more
	due   atomic.Int32  // rounds that were asked for and are not finished
	gone  chan struct{} // closed when its goroutine has ended

	mu   sync.Mutex
	list []*diskFile
}

func (m *images) init(stat statFunc, layers blockLayers) {
	m.stat, m.layers = stat, layers
	m.byFS, m.wake = map[string]*imageFS{}, make(chan struct{}, 1)
	m.version.Store(1)
}

// replace takes over which files there are, and where filesystems are mounted.
func (m *images) replace(files []*diskFile, points []mountPoint) {
	byFS := map[string][]*diskFile{}
	for _, f := range files {
		at := f.path
		if !f.block {
			p := mountOf(f.path, points)
			at, f.local = p.path, p.local
		}
		byFS[at] = append(byFS[at], f)
	}
	for point, list := range byFS {
		fs := m.byFS[point]
		if fs == nil {
			fs = &imageFS{point: point, ask: make(chan struct{}, 1), gone: make(chan struct{})}
			m.byFS[point] = fs
			go fs.serve(m)
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

// mountPoint is where a filesystem is mounted.
type mountPoint struct {
	path  string
	local bool
}

// localFilesystems are those that no two hosts have at once, as they have a
// cluster's or a server's.
var localFilesystems = map[string]bool{
	"ext2": true, "ext3": true, "ext4": true, "xfs": true, "btrfs": true, "zfs": true, "bcachefs": true, "f2fs": true, "jfs": true,
	"overlay": true, "tmpfs": true,
}

func (s *VMs) mountPoints() []mountPoint {
	var list []mountPoint
	for _, m := range parseMounts([]byte(word(filepath.Join(s.root, "proc/self/mountinfo")))) {
		list = append(list, mountPoint{filepath.Join(s.root, m.point), localFilesystems[m.fstype]})
	}
	return list
}

// mountOf returns the mount point under which a path lies. Of several mounts at
// one point the last is seen.
func mountOf(path string, points []mountPoint) mountPoint {
	best := mountPoint{path: "/"}
	for _, p := range points {
		if len(p.path) >= len(best.path) && strings.HasPrefix(path, p.path) && (p.path == "/" || len(path) == len(p.path) || path[len(p.path)] == '/') {
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
	if m.layers.zvols != nil {
		m.layers.zvols.close()
	}
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

func (fs *imageFS) serve(m *images) {
	defer close(fs.gone)
	for range fs.ask {
		fs.mu.Lock()
		list := fs.list
		fs.mu.Unlock()
		for _, f := range list {
			m.measure(f)
		}
		fs.due.Add(-1)
		select {
		case m.wake <- struct{}{}:
		default: // somebody woke the waiter already and it will look at all
		}
	}
}

// measure counts the blocks that a file has of its own: holes are none, and an
// image that it is laid over is another file. What a block device occupies its
// layers tell.
func (m *images) measure(f *diskFile) {
	var st unix.Stat_t
	err := m.stat(f.path, &st)
	if err != nil {
		err = &fs.PathError{Op: "stat", Path: f.path, Err: err}
	}
	bytes := odometer.Unknown
	id := fileID{st.Dev, st.Ino}
	switch kind := st.Mode & unix.S_IFMT; {
	case err != nil:
	case kind == unix.S_IFREG:
		bytes, err = blocksOf(&st, f.path)
	case kind == unix.S_IFBLK:
		id = fileID{device: st.Rdev}
		bytes, err = m.layers.occupied(st.Rdev)
		if err != nil {
			err = fmt.Errorf("%s: %w", f.path, err)
		}
	default:
		err = fmt.Errorf("%s is neither a file nor a block device", f.path)
	}
	another := false
	if err == nil {
		// Before the bytes, which count only for the file that they are of.
		if was := f.id.Load(); was == nil || *was != id {
			another = true
			f.id.Store(&id)
			m.news.Store(true)
		}
		f.problem.Store(nil)
	} else {
		f.problem.Store(&err)
	}
	if f.occupied.Swap(bytes) != bytes || another {
		m.version.Add(1)
	}
}

// blocksOf returns the bytes that a file occupies.
func blocksOf(st *unix.Stat_t, path string) (int64, error) {
	if st.Blocks < 0 || st.Blocks > 1<<53 {
		return odometer.Unknown, fmt.Errorf("stat %s: %d blocks: that cannot be", path, st.Blocks)
	}
	return st.Blocks * 512, nil // whatever the filesystem's blocks are, see stat(2)
}

func statFile(path string, st *unix.Stat_t) error {
	for {
		if err := unix.Stat(path, st); err != unix.EINTR {
			return err
		}
	}
}

// diskParts returns the files behind a machine's disks and those that they are
// laid over, each path once. What is there already is kept. Read-only disks are
// left out: what is on them somebody else put there. So are images that have no
// path on the host but the one through a process: who else is laid over them
// cannot be told.
func (s *VMs) diskParts(v *vm) []diskPart {
	var list []diskPart
	add := func(path string, block, below bool) {
		if !filepath.IsAbs(path) || below && strings.HasPrefix(path, "/proc/") {
			return
		}
		path = filepath.Join(s.root, path)
		has := func(p diskPart) bool { return p.path == path && p.block == block }
		if slices.ContainsFunc(list, has) {
			return
		}
		if i := slices.IndexFunc(v.parts, has); i >= 0 {
			list = append(list, diskPart{diskFile: v.parts[i].diskFile, below: below})
			return
		}
		f := &diskFile{path: path, block: block}
		f.occupied.Store(odometer.Unknown)
		list = append(list, diskPart{diskFile: f, below: below})
	}
	disks := slices.DeleteFunc(slices.Clone(v.def.Disks), func(d odometer.Disk) bool { return d.ReadOnly || !hasFile(d) })
	for _, d := range disks {
		add(d.Path, d.Kind == odometer.DiskBlock, false)
	}
	for _, d := range disks {
		for _, path := range d.Backing {
			add(path, d.Kind == odometer.DiskBlock, true)
		}
	}
	return list
}

// hasFile reports whether a disk lies in a file or on a device of this host. Of
// one that the inventory has not looked at the path may be that of another file.
func hasFile(d odometer.Disk) bool {
	return (d.Kind == odometer.DiskFile || d.Kind == odometer.DiskBlock) && filepath.IsAbs(d.Path)
}

// share decides which files count to which machine. A disk's own counts to the
// machine that has the disk. An image that disks are laid over counts to their
// machine where no other one is laid over it or has it for a disk; what several
// are laid over counts to none of them, also when one remains. Nor does an image
// count where machines of other hosts may be laid over it: on a block device,
// which may be a cluster's, and on a filesystem that is not this host's alone. A
// file counts to a machine once, whatever it is called. Of one that was not looked
// at yet nothing counts.
func (s *VMs) share() {
	s.images.news.Store(false)
	type use struct {
		by      *vm
		several bool // machines have it
		below   *vm  // the last that is laid over it
		shared  bool // by several that are
	}
	uses := map[fileID]use{}
	for _, v := range s.list {
		for i := range v.parts {
			p := &v.parts[i]
			p.counts, p.as = false, p.id.Load()
			if p.as == nil {
				continue
			}
			u, used := uses[*p.as]
			p.counts = !used || u.by != v
			if !used {
				u.by = v
			}
			u.several = u.several || u.by != v
			u.by = v // the machines are gone through one after the other
			if p.below {
				u.shared = u.shared || u.below != nil && u.below != v
				u.below = v
			}
			uses[*p.as] = u
		}
	}
	known := map[SharedImage]bool{}
	for _, x := range s.images.shared {
		known[x] = true
	}
	for _, v := range s.list {
		for i := range v.parts {
			p := &v.parts[i]
			if !p.below || p.as == nil {
				continue
			}
			x := SharedImage{p.path, p.as.inode}
			if uses[*p.as].shared && !known[x] {
				s.images.shared = slices.DeleteFunc(s.images.shared, func(old SharedImage) bool { return old.Path == x.Path })
				s.images.shared = append(s.images.shared, x)
				known[x] = true
			}
			p.counts = p.counts && p.local && !p.as.isDevice() && !uses[*p.as].several && !known[x]
		}
	}
	s.images.version.Add(1)
	if more := len(s.images.shared) - maxShared; more > 0 {
		s.images.shared = slices.Delete(s.images.shared, 0, more)
	}
}

// Shared returns the images that several machines were laid over, those of
// [VMsOptions] among them, the one that was found last at the end.
func (s *VMs) Shared() []SharedImage {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.images.shared)
}

// setParts takes over which files the machine's disks are.
func (v *vm) setParts(parts []diskPart) { v.parts, v.sized = parts, 0 }

// occupied adds up what the machine's disks occupy, as far as that is known;
// Unknown where it is of none.
func (v *vm) occupied() int64 {
	return total(v.parts, func(p diskPart) int64 {
		n := p.diskFile.occupied.Load()
		if !p.counts || p.id.Load() != p.as {
			return odometer.Unknown
		}
		return n
	})
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
