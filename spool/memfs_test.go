package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"
)

// memFS is a file system in memory that keeps apart what is visible and what
// is durable, as a disk behind a page cache does. It can fail any call, before
// or after its effect, stop at any call as if the process had been killed,
// fill up, and cut the power.
//
// It is as unkind as POSIX allows. After a failed Sync of a file the data that
// was dirty counts as clean: no later Sync writes it. The same holds for the
// names of a directory.
type memFS struct {
	mu      sync.Mutex
	names   map[string]*inode // visible
	durable map[string]*inode
	dirty   map[string]bool // names that SyncDir would make durable
	locks   map[string]bool
	limit   int64 // bytes, 0 for no limit

	calls  int      // of what changes something
	log    []string // what each of them was
	fault  func(n int, op string) fault
	killed bool
	// unreadable says which reads fail.
	unreadable func(file string, off int64, n int) error
}

type inode struct {
	data  []byte
	disk  []byte // what a power cut leaves, apart from what is dirty
	dirty int    // data from here on is not yet written
}

// fault is what becomes of one call.
type fault struct {
	err     error
	effect  bool // the effect happens, or a half of it for a write
	partial bool
	kill    bool // every later call fails too
	tear    bool // a failed Sync leaves zeros in the page where the dirty data begins
}

var errKilled = errors.New("the process was killed")

func newMemFS() *memFS {
	return &memFS{names: map[string]*inode{}, durable: map[string]*inode{}, dirty: map[string]bool{}, locks: map[string]bool{}}
}

// call counts a call that changes something and says what becomes of it.
func (m *memFS) call(op string) (fault, error) {
	if m.killed {
		return fault{}, errKilled
	}
	m.calls++
	m.log = append(m.log, op)
	if m.fault == nil {
		return fault{effect: true}, nil
	}
	f := m.fault(m.calls, op)
	if f.err == nil && !f.kill {
		return fault{effect: true}, nil
	}
	if f.kill {
		m.killed = true
		f.err = errKilled
	}
	return f, f.err
}

func (m *memFS) used() (n int64) {
	seen := map[*inode]bool{}
	for _, i := range m.names {
		if !seen[i] {
			seen[i] = true
			n += int64(len(i.data))
		}
	}
	return n
}

func (m *memFS) MkdirAll(string) error { return nil }

type memLock struct {
	m    *memFS
	path string
}

func (l memLock) Close() error {
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.path)
	return nil
}

func (m *memFS) Lock(p string) (io.Closer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locks[p] {
		return nil, fmt.Errorf("lock %s: %w", p, ErrLocked)
	}
	m.locks[p] = true
	return memLock{m, p}, nil
}

func (m *memFS) List(dir string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.killed {
		return nil, errKilled
	}
	var names []string
	for p := range m.names {
		if path.Dir(p) == dir {
			names = append(names, path.Base(p))
		}
	}
	return names, nil
}

func (m *memFS) Create(p string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.call("create " + path.Base(p))
	if f.effect {
		m.names[p] = &inode{}
		m.dirty[p] = true
	}
	if err != nil {
		return nil, &fs.PathError{Op: "create", Path: p, Err: err}
	}
	return m.handle(p)
}

func (m *memFS) Append(p string) (File, error) { return m.Open(p) }

func (m *memFS) Open(p string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.killed {
		return nil, errKilled
	}
	return m.handle(p)
}

func (m *memFS) handle(p string) (File, error) {
	i, ok := m.names[p]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return &memFile{m: m, i: i, name: path.Base(p)}, nil
}

func (m *memFS) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.call("rename " + path.Base(from) + " to " + path.Base(to))
	if f.effect {
		m.names[to] = m.names[from]
		delete(m.names, from)
		m.dirty[from], m.dirty[to] = true, true
	}
	return err
}

func (m *memFS) Remove(p string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.names[p]; !ok && !m.killed {
		return &fs.PathError{Op: "remove", Path: p, Err: fs.ErrNotExist}
	}
	f, err := m.call("remove " + path.Base(p))
	if f.effect {
		delete(m.names, p)
		m.dirty[p] = true
	}
	return err
}

func (m *memFS) SyncDir(string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.call("sync directory")
	if f.effect {
		for p := range m.dirty {
			m.persist(p)
		}
	}
	if !m.killed || f.effect {
		clear(m.dirty)
	}
	return err
}

// persist makes one name on the disk what it is in memory.
func (m *memFS) persist(p string) {
	if i, ok := m.names[p]; ok {
		m.durable[p] = i
	} else {
		delete(m.durable, p)
	}
}

type memFile struct {
	m    *memFS
	i    *inode
	name string
}

func (f *memFile) ReadAt(b []byte, off int64) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.killed {
		return 0, errKilled
	}
	if f.m.unreadable != nil {
		if err := f.m.unreadable(f.name, off, len(b)); err != nil {
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

func (f *memFile) Write(b []byte) (int, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("write " + f.name)
	if f.m.limit > 0 && c.effect {
		if room := f.m.limit - f.m.used(); room < int64(len(b)) {
			f.i.data = append(f.i.data, b[:max(room, 0)]...)
			return int(max(room, 0)), &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
	}
	n := len(b)
	if c.partial {
		n /= 2
	}
	if c.effect {
		f.i.data = append(f.i.data, b[:n]...)
	}
	if err != nil {
		return 0, err
	}
	return len(b), nil
}

func (f *memFile) Close() error { return nil }

func (f *memFile) Size() (int64, error) {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.m.killed {
		return 0, errKilled
	}
	return int64(len(f.i.data)), nil
}

func (f *memFile) Sync() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("sync " + f.name)
	switch i := f.i; {
	case c.effect:
		i.flush()
	case !f.m.killed:
		if c.tear && i.dirty <= len(i.disk) {
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

func (f *memFile) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("truncate " + f.name)
	if c.effect {
		f.i.data = f.i.data[:size]
		f.i.dirty = min(f.i.dirty, int(size))
	}
	return err
}

func (f *memFile) Allocate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("allocate " + f.name)
	if c.effect {
		if f.m.limit > 0 && f.m.used()-int64(len(f.i.data))+size > f.m.limit {
			return &fs.PathError{Op: "allocate", Path: f.name, Err: syscall.ENOSPC}
		}
		f.i.data = make([]byte, size)
	}
	return err
}

// restarted is the file system as the next process of the same boot finds it.
func (m *memFS) restarted() *memFS {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := newMemFS()
	n.limit = m.limit
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

// powerCut is the file system after the power failed: what was synced is
// there; of what was not, r decides. With a nil r nothing of it is there.
func (m *memFS) powerCut(r *rand.Rand) *memFS {
	c := m.restarted()
	for _, p := range slices.Sorted(maps.Keys(c.dirty)) {
		if r != nil && r.IntN(2) == 0 {
			c.persist(p)
		}
	}
	n := newMemFS()
	n.limit = m.limit
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

// set makes a file's content what it is given, on the disk too.
func (m *memFS) set(p string, data []byte) {
	i := &inode{data: slices.Clone(data), disk: slices.Clone(data), dirty: len(data)}
	m.names[p], m.durable[p] = i, i
}
