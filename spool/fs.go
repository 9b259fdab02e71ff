package spool

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// FS is the file layer: every durable step of the spool goes through it, so
// that a test can make each of them fail, or cut the power between any two.
// Errors are those of package os: a missing file is [fs.ErrNotExist], a full
// disk is [syscall.ENOSPC] or [syscall.EDQUOT].
type FS interface {
	// MkdirAll makes a directory, and those above it, for this user alone.
	MkdirAll(dir string) error
	// Lock takes an exclusive lock until it is closed or the process ends.
	// It does not wait: taken already is [syscall.EWOULDBLOCK].
	Lock(path string) (io.Closer, error)
	// List returns the names of the files in a directory, in any order.
	List(dir string) ([]string, error)
	// Create makes an empty file for appending; a file of that name is emptied.
	Create(path string) (File, error)
	// Append opens a file for appending and reading.
	Append(path string) (File, error)
	// Open opens a file for reading.
	Open(path string) (File, error)
	// Rename moves a file, replacing what had the name. Durable after SyncDir.
	Rename(from, to string) error
	// Remove removes a file; open handles stay readable. Durable after SyncDir.
	Remove(path string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(dir string) error
}

// File is an open file. Write appends. An alias, so that a file layer need not
// import this package.
type File = interface {
	io.ReaderAt
	io.Writer
	io.Closer
	Size() (int64, error)
	// Sync makes the content and the size durable.
	Sync() error
	// Truncate cuts the file to size bytes.
	Truncate(size int64) error
	// Allocate makes the file size bytes long with all of its blocks taken.
	Allocate(size int64) error
}

// ErrLocked says that another process, or another Spool of this one, has the
// directory open.
var ErrLocked = errors.New("in use by another process")

// OS is the real file system.
type OS struct{}

func (OS) MkdirAll(dir string) error { return os.MkdirAll(dir, 0o700) }

func (OS) Lock(path string) (io.Closer, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, &fs.PathError{Op: "lock", Path: path, Err: err}
	}
	return f, nil
}

func (OS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if e.Type().IsRegular() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

func (OS) Create(path string) (File, error) {
	return openOS(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR|os.O_APPEND)
}
func (OS) Append(path string) (File, error) { return openOS(path, os.O_RDWR|os.O_APPEND) }
func (OS) Open(path string) (File, error)   { return openOS(path, os.O_RDONLY) }
func (OS) Rename(from, to string) error     { return os.Rename(from, to) }
func (OS) Remove(path string) error         { return os.Remove(path) }

func (OS) SyncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

type osFile struct{ *os.File }

func openOS(path string, flag int) (File, error) {
	f, err := os.OpenFile(path, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// Sync is fdatasync: content and size, not the times.
func (f osFile) Sync() error {
	if err := retryEINTR(func() error { return unix.Fdatasync(int(f.Fd())) }); err != nil {
		return &fs.PathError{Op: "fdatasync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f osFile) Allocate(size int64) error {
	err := retryEINTR(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
	if err == nil {
		return nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.ENOSYS) {
		return &fs.PathError{Op: "fallocate", Path: f.Name(), Err: err}
	}
	// A file system without fallocate: written zeros take their blocks too.
	zeros := make([]byte, 1<<20)
	for at := int64(0); at < size; at += int64(len(zeros)) {
		if _, err := f.Write(zeros[:min(int64(len(zeros)), size-at)]); err != nil {
			return err
		}
	}
	return nil
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// noSpace reports whether err says that the disk or the quota is full.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// patient reads around what cannot be read: after an error it tries once more
// page by page and gives zeros for the pages that still fail, which no
// checksum accepts. Err is the last such failure.
type patient struct {
	io.ReaderAt
	err error
}

const page = 4096

func (p *patient) ReadAt(b []byte, off int64) (int, error) {
	n, err := p.ReaderAt.ReadAt(b, off)
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	for at := 0; at < len(b); {
		end := min(len(b), at+page-int((off+int64(at))%page))
		n, err := p.ReaderAt.ReadAt(b[at:end], off+int64(at))
		switch {
		case errors.Is(err, io.EOF):
			return at + n, io.EOF
		case err != nil:
			clear(b[at:end])
			p.err = err
		}
		at = end
	}
	return len(b), nil
}
