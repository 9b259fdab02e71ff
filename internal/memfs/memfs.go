// Package memfs is a file system in memory that a test or a simulation can hurt
// in every way in which a disk hurts: [FS] implements the file layer of package
// spool, keeps apart what is visible and what is durable, and fails, fills up,
// rots, stops and loses power when told to. It is deterministic: the same calls
// give the same state, and what chance decides comes from the caller's source.
package memfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"
)

// FS is a file system in memory that keeps apart what is visible and what
// is durable, as a disk behind a page cache does. It can fail any call, before
// or after its effect, stop at any call as if the process had been killed,
// fill up, and cut the power.
//
// It is as unkind as POSIX allows. After a failed Sync of a file the data that
// was dirty counts as clean: no later Sync writes it. The same holds for the
// names of a directory.
type FS struct {
	mu      sync.Mutex
	names   map[string]*inode // visible
	durable map[string]*inode
	dirty   map[string]bool // names that SyncDir would make durable
	locks   map[string]bool

	// Limit is the size of the disk in bytes; 0 for no limit.
	Limit int64
	// Calls counts what changed something, or tried to; Log says what each was.
	Calls int
	Log   []string
	// Fault says what becomes of the n-th call.
	Fault func(n int, op string) Fault
	// Killed: every call fails, as if the process were gone.
	Killed bool
	// Unreadable says which reads fail.
	Unreadable func(file string, off int64, n int) error
}

// File is an open file: what [example.org/odometer/spool.File] asks for. Both
// are aliases, so that neither package imports the other.
type File = interface {
	io.ReaderAt
	io.Writer
	io.Closer
	Size() (int64, error)
	Sync() error
	Truncate(size int64) error
	Allocate(size int64) error
}

type inode struct {
	data  []byte
	disk  []byte // what a power cut leaves, apart from what is dirty
	dirty int    // data from here on is not yet written
}

// Fault is what becomes of one call. The zero value is success.
type Fault struct {
	Err     error
	Effect  bool // the effect happens all the same
	Partial bool // a half of it, for a write
	Kill    bool // every later call fails too
	Tear    bool // a failed Sync leaves zeros in the page where the dirty data begins
}

const page = 4096

// ErrKilled is the error of every call after the process was killed.
var ErrKilled = errors.New("the process was killed")

// New returns an empty file system.
func New() *FS {
	return &FS{names: map[string]*inode{}, durable: map[string]*inode{}, dirty: map[string]bool{}, locks: map[string]bool{}}
}

// call counts a call that changes something and says what becomes of it.
func (m *FS) call(op string) (Fault, error) {
	if m.Killed {
		return Fault{}, ErrKilled
	}
	m.Calls++
	m.Log = append(m.Log, op)
	if m.Fault == nil {
		return Fault{Effect: true}, nil
	}
	f := m.Fault(m.Calls, op)
	if f.Err == nil && !f.Kill {
		return Fault{Effect: true}, nil
	}
	if f.Kill {
		m.Killed = true
		f.Err = ErrKilled
	}
	return f, f.Err
}

func (m *FS) used() (n int64) {
	seen := map[*inode]bool{}
	for _, i := range m.names {
		if !seen[i] {
			seen[i] = true
			n += int64(len(i.data))
		}
	}
	return n
}

func (m *FS) MkdirAll(string) error { return nil }

type lock struct {
	m    *FS
	path string
}

func (l lock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.path)
	return nil
}

func (m *FS) Lock(p string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[p] {
		return nil, &fs.PathError{Op: "lock", Path: p, Err: syscall.EWOULDBLOCK}
	}
	m.locks[p] = true
	return lock{m, p}, nil
}

func (m *FS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Killed {
		return nil, ErrKilled
	}
	var names []string
	for p := range m.names {
		if path.Dir(p) == dir {
			names = append(names, path.Base(p))
		}
	}
	slices.Sort(names)
	return names, nil
}

func (m *FS) Create(p string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.call("create " + path.Base(p))
	if f.Effect {
		m.names[p] = &inode{}
		m.dirty[p] = true
	}
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: p, Err: err}
	}
	return m.handle(p)
}

func (m *FS) Append(p string) (File, error) { return m.Open(p) }

func (m *FS) Open(p string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Killed {
		return nil, ErrKilled
	}
	return m.handle(p)
}

func (m *FS) handle(p string) (File, error) {
	i, ok := m.names[p]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return &file{m: m, i: i, name: path.Base(p)}, nil
}

func (m *FS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.call("rename " + path.Base(from) + " to " + path.Base(to))
	if f.Effect {
		m.names[to] = m.names[from]
		delete(m.names, from)
		m.dirty[from], m.dirty[to] = true, true
	}
	return err
}

func (m *FS) Remove(p string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.names[p]; !ok && !m.Killed {
		return &fs.PathError{Op: "remove", Path: p, Err: fs.ErrNotExist}
	}
	f, err := m.call("remove " + path.Base(p))
	if f.Effect {
		delete(m.names, p)
		m.dirty[p] = true
	}
	return err
}

func (m *FS) SyncDir(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.call("sync directory")
	if f.Effect {
		for p := range m.dirty {
			m.persist(p)
		}
	}
	if !m.Killed || f.Effect {
		clear(m.dirty)
	}
	return err
}

// persist makes one name on the disk what it is in memory.
func (m *FS) persist(p string) {
	if i, ok := m.names[p]; ok {
		m.durable[p] = i
	} else {
		delete(m.durable, p)
	}
}

type file struct {
	m    *FS
	i    *inode
	name string
}

func (f *file) ReadAt(b []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.Killed {
		return 0, ErrKilled
	}
	if f.m.Unreadable != nil {
		if err := f.m.Unreadable(f.name, off, len(b)); err != nil {
			return 0, err
		}
	}
	if off >= int64(len(f.i.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.i.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(b []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("write " + f.name)
	if f.m.Limit > 0 && c.Effect {
		if room := f.m.Limit - f.m.used(); room < int64(len(b)) {
			f.i.data = append(f.i.data, b[:max(room, 0)]...)
			return int(max(room, 0)), &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
	}
	n := len(b)
	if c.Partial {
		n /= 2
	}
	if c.Effect {
		f.i.data = append(f.i.data, b[:n]...)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (f *file) Close() error { return nil }

func (f *file) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.Killed {
		return 0, ErrKilled
	}
	return int64(len(f.i.data)), nil
}

func (f *file) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("sync " + f.name)
	switch i := f.i; {
	case c.Effect:
		i.flush()
	case !f.m.Killed:
		if c.Tear && i.dirty <= len(i.disk) {
			clear(i.disk[i.dirty/page*page : i.dirty])
		}
		i.dirty = len(i.data) // clean now, and never written
	}
	return err
}

// flush writes what is dirty. Clean data that was never written reads as
// zeros.
func (i *inode) flush() {
	for len(i.disk) < i.dirty {
		i.disk = append(i.disk, 0)
	}
	i.disk = append(slices.Clone(i.disk[:i.dirty]), i.data[i.dirty:]...)
	i.dirty = len(i.data)
}

func (f *file) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("truncate " + f.name)
	if c.Effect {
		f.i.data = f.i.data[:size]
		f.i.dirty = min(f.i.dirty, int(size))
	}
	return err
}

func (f *file) Allocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("allocate " + f.name)
	if c.Effect {
		if f.m.Limit > 0 && f.m.used()-int64(len(f.i.data))+size > f.m.Limit {
			return &fs.PathError{Op: "allocate", Path: f.name, Err: syscall.ENOSPC}
		}
		f.i.data = make([]byte, size)
	}
	return err
}

// Restarted is the file system as the next process of the same boot finds it.
func (m *FS) Restarted() *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := New()
	n.Limit = m.Limit
	copies := map[*inode]*inode{}
	clone := func(i *inode) *inode {
		if copies[i] == nil {
			c := *i
			c.data, c.disk = slices.Clone(i.data), slices.Clone(i.disk)
			copies[i] = &c
		}
		return copies[i]
	}
	for p, i := range m.names {
		n.names[p] = clone(i)
	}
	for p, i := range m.durable {
		n.durable[p] = clone(i)
	}
	n.dirty = maps.Clone(m.dirty)
	return n
}

// PowerCut is the file system after the power failed: what was synced is
// there; of what was not, r decides. With a nil r nothing of it is there.
func (m *FS) PowerCut(r *rand.Rand) *FS {
	c := m.Restarted()
	for _, p := range slices.Sorted(maps.Keys(c.dirty)) {
		if r != nil && r.IntN(2) == 0 {
			c.persist(p)
		}
	}
	n := New()
	n.Limit = m.Limit
	for p, i := range c.durable {
		disk := slices.Clone(i.disk)
		if r != nil && len(i.data) > i.dirty && len(disk) <= i.dirty {
			// Some of the new bytes, the rest of them cut off or zero.
			i.flush()
			tail := i.disk[len(disk):]
			keep := r.IntN(len(tail) + 1)
			switch r.IntN(3) {
			case 0:
				clear(tail[keep:])
			case 1:
				clear(tail[:keep])
			case 2:
				tail = tail[:keep]
			}
			disk = append(disk, tail...)
		}
		n.names[p] = &inode{data: disk, disk: slices.Clone(disk), dirty: len(disk)}
		n.durable[p] = n.names[p]
	}
	return n
}

// Names returns the paths of all files, in order.
func (m *FS) Names() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Sorted(maps.Keys(m.names))
}

// Data returns what a reader of the file sees, not a copy: a test may change it
// in place. It is nil where there is no such file.
func (m *FS) Data(p string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, ok := m.names[p]; ok {
		return i.data
	}
	return nil
}

// Rot flips one bit of a file, in what is read and on the disk.
func (m *FS) Rot(p string, bit int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := m.names[p]
	i.data[bit/8] ^= 1 << (bit % 8)
	if at := bit / 8; at < min(i.dirty, len(i.disk)) {
		i.disk[at] ^= 1 << (bit % 8)
	}
}

// Drop makes a file disappear, from the disk too.
func (m *FS) Drop(p string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.names, p)
	delete(m.durable, p)
}

// Set makes a file's content what it is given, on the disk too.
func (m *FS) Set(p string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := &inode{data: slices.Clone(data), disk: slices.Clone(data), dirty: len(data)}
	m.names[p], m.durable[p] = i, i
}
