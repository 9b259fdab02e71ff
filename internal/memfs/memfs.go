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
// It is as unkind as POSIX allows. Of what was not synced a power cut leaves
// any part: see [FS.Crashes]. After a failed Sync of a file the data that was
// dirty counts as clean: no later Sync writes it, and whether it is on the disk
// stays open. The same holds for the names of a directory.
type FS struct {
	mu      sync.Mutex
	names   map[string]*inode // visible
	durable map[string]*inode
	since   map[string][]version // what each name has been since SyncDir
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
	// Before is called before each of these calls with the file system as it
	// is then, which is the callee's to keep.
	Before func(op string, now *FS)
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
	return &FS{names: map[string]*inode{}, durable: map[string]*inode{}, since: map[string][]version{}, locks: map[string]bool{}}
}

// call counts a call that changes something and says what becomes of it.
func (m *FS) call(op string) (Fault, error) {
	if m.Killed {
		return Fault{}, ErrKilled
	}
	if m.Before != nil {
		m.Before(op, m.clone())
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

// Change has do change the fields of a file system that is in use.
func (m *FS) Change(do func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	do()
}

// Used returns what the files take, in bytes.
func (m *FS) Used() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.used()
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
		if i := m.names[p]; i != nil {
			i.resize(0)
		} else {
			m.name(p, &inode{})
		}
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
		m.name(to, m.names[from])
		m.name(from, nil)
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
		m.name(p, nil)
	}
	return err
}

func (m *FS) SyncDir(dir string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f, err := m.call("sync directory")
	if m.Killed && !f.Effect {
		return err
	}
	for p, vs := range m.since {
		if path.Dir(p) != dir {
			continue
		}
		if n := len(vs) - 1; f.Effect && !vs[n].lost {
			m.durable[p] = vs[n].inode
			delete(m.since, p)
			continue
		}
		for i := range vs {
			vs[i].lost = true
		}
	}
	return err
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
			f.i.write(b[:max(room, 0)])
			return int(max(room, 0)), &fs.PathError{Op: "write", Path: f.name, Err: syscall.ENOSPC}
		}
	}
	n := len(b)
	if c.Partial {
		n /= 2
	}
	if c.Effect {
		f.i.write(b[:n])
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
		i.settle(durable)
	case !f.m.Killed:
		if c.Tear {
			i.tear()
		}
		i.settle(lost)
	}
	return err
}

func (f *file) Truncate(size int64) error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	c, err := f.m.call("truncate " + f.name)
	if c.Effect {
		f.i.resize(int(size))
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
		f.i.resize(int(size))
	}
	return err
}

// Restarted is the file system as the next process of the same boot finds it.
func (m *FS) Restarted() *FS {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.clone()
}

func (m *FS) clone() *FS {
	n := New()
	n.Limit = m.Limit
	copies := map[*inode]*inode{}
	clone := func(i *inode) *inode {
		if i == nil {
			return nil
		}
		if copies[i] == nil {
			c := inode{data: slices.Clone(i.data), disk: slices.Clone(i.disk), ops: slices.Clone(i.ops)}
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
	for p, vs := range m.since {
		for _, v := range vs {
			n.since[p] = append(n.since[p], version{clone(v.inode), v.lost})
		}
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
	i, at, mask := m.names[p], bit/8, byte(1)<<(bit%8)
	i.data[at] ^= mask
	if at < len(i.disk) {
		i.disk[at] ^= mask
	}
	for n, o := range i.ops {
		if at -= o.off; at >= 0 && at < len(o.data) {
			o.data = slices.Clone(o.data) // copies share it
			o.data[at] ^= mask
			i.ops[n] = o
		}
		at += o.off
	}
}

// Drop makes a file disappear, from the disk too.
func (m *FS) Drop(p string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.names, p)
	delete(m.durable, p)
	delete(m.since, p)
}

// Set makes a file's content what it is given, on the disk too.
func (m *FS) Set(p string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	i := &inode{data: slices.Clone(data), disk: slices.Clone(data)}
	m.names[p], m.durable[p] = i, i
	delete(m.since, p)
}
