package sampler

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kept is a file of /proc or /sys that stays open between samples, so that a
// sample costs one pread and no allocation.
type kept struct {
	path string
	fd   int // -1 when it could not be opened or failed
	err  error
}

func keep(path string) *kept {
	k := &kept{path: path, fd: -1}
	k.reopen()
	return k
}

// reopen opens the file where it is not open.
func (k *kept) reopen() {
	if k.fd >= 0 {
		return
	}
	fd, err := unix.Open(k.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		k.err = &fs.PathError{Op: "open", Path: k.path, Err: err}
		return
	}
	k.fd, k.err = fd, nil
}

func (k *kept) close() {
	if k.fd >= 0 {
		_ = unix.Close(k.fd) // only ever read
		k.fd = -1
	}
	k.err = fs.ErrClosed
}

// head reads the file's first bytes, at most len(buf), with one pread.
func (k *kept) head(buf []byte) ([]byte, error) {
	if k.fd < 0 {
		return nil, k.err
	}
	n, err := k.pread(buf, 0)
	return buf[:n], err
}

// all reads the whole file into *buf, which it enlarges where needed. The
// kernel hands out such files in pieces, so only a read of 0 bytes is the end.
func (k *kept) all(buf *[]byte) ([]byte, error) {
	if k.fd < 0 {
		return nil, k.err
	}
	n := 0
	for {
		if n == len(*buf) {
			*buf = append(*buf, make([]byte, max(len(*buf), 4096))...)
		}
		m, err := k.pread((*buf)[n:], int64(n))
		if err != nil {
			return nil, err
		}
		if m == 0 {
			return (*buf)[:n], nil
		}
		n += m
	}
}

func (k *kept) pread(b []byte, at int64) (int, error) {
	for {
		n, err := unix.Pread(k.fd, b, at)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			// The object behind an open file can go (ESRCH, ENODEV);
			// the path may name its successor at the next scan.
			k.close()
			k.err = &fs.PathError{Op: "read", Path: k.path, Err: err}
			return 0, k.err
		}
		return n, nil
	}
}

// word returns the content of a small file without surrounding space, "" when
// it cannot be read: most attributes in /sys are there for some devices only.
func word(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

// number returns the decimal number in a small file.
func number(path string) (uint64, bool) {
	s := word(path)
	n, rest, ok := cutUint([]byte(s))
	return n, ok && len(rest) == 0
}

// there reports whether path exists, following no link at its end.
func there(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// names returns the entries of a directory in order of name.
func names(dir string) ([]string, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	list, err := d.Readdirnames(-1)
	if err = errors.Join(err, d.Close()); err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	slices.Sort(list)
	return list, nil
}
