package trace

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Op is what a call does, whatever its name.
type Op string

const (
	Open     Op = "open" // creates a file (Created), empties it (Emptied), or neither
	Write    Op = "write"
	Sync     Op = "sync" // of a file, or of a directory (IsDir)
	Truncate Op = "truncate"
	Allocate Op = "allocate"
	Mkdir    Op = "mkdir"
	Rename   Op = "rename"
	Unlink   Op = "unlink" // of a file or an empty directory
	Link     Op = "link"
	// Range is sync_file_range, which promises nothing about a power cut.
	Range Op = "range"
	// Other changes files in a way that is counted and not understood.
	Other Op = "other"
)

// Call is a system call that changes something below the directory.
type Call struct {
	N    int    // from 1, over all threads
	Name string // of the system call
	Op   Op
	Path string // relative to the directory, "." for itself
	To   string // the new name, of rename and link

	Result int64         // what it returned
	Err    syscall.Errno // 0 where it did not fail

	// With Options.Data:
	File    uint64 // inode of the file or directory; of open, once it returned
	IsDir   bool
	Created bool   // by this open
	Emptied bool   // by this open
	Offset  int64  // of a write
	Size    int64  // of truncate and allocate: the new size; for allocate at least
	Data    []byte // of a write, as much as was written
	Durable bool   // the file is open for synchronous writing
}

func (c *Call) String() string {
	s := fmt.Sprintf("%d %s %s", c.N, c.Name, c.Path)
	if c.To != "" {
		s += " to " + c.To
	}
	return s
}

// form is how the arguments of a system call are laid out.
type form struct {
	name string
	op   Op
	dir  int // argument with the directory's descriptor, -1 where the path needs none
	path int // argument with a path, -1 for a descriptor in argument 0
	flag int // argument with open's flags, -1 for none
}

// everywhere are the calls that every architecture has.
var everywhere = map[uint64]form{
	unix.SYS_WRITE:           {"write", Write, -1, -1, -1},
	unix.SYS_PWRITE64:        {"pwrite64", Write, -1, -1, -1},
	unix.SYS_WRITEV:          {"writev", Write, -1, -1, -1},
	unix.SYS_PWRITEV:         {"pwritev", Write, -1, -1, -1},
	unix.SYS_PWRITEV2:        {"pwritev2", Write, -1, -1, -1},
	unix.SYS_FSYNC:           {"fsync", Sync, -1, -1, -1},
	unix.SYS_FDATASYNC:       {"fdatasync", Sync, -1, -1, -1},
	unix.SYS_SYNC_FILE_RANGE: {"sync_file_range", Range, -1, -1, -1},
	unix.SYS_FTRUNCATE:       {"ftruncate", Truncate, -1, -1, -1},
	unix.SYS_TRUNCATE:        {"truncate", Truncate, -1, 0, -1},
	unix.SYS_FALLOCATE:       {"fallocate", Allocate, -1, -1, -1},
	unix.SYS_OPENAT:          {"openat", Open, 0, 1, 2},
	unix.SYS_MKDIRAT:         {"mkdirat", Mkdir, 0, 1, -1},
	unix.SYS_UNLINKAT:        {"unlinkat", Unlink, 0, 1, -1},
	unix.SYS_RENAMEAT2:       {"renameat2", Rename, 0, 1, -1},
	unix.SYS_LINKAT:          {"linkat", Link, 0, 1, -1},
	unix.SYS_SYMLINKAT:       {"symlinkat", Other, 1, 2, -1},
	unix.SYS_COPY_FILE_RANGE: {"copy_file_range", Other, -1, 2, -1},
}

// forms are the calls of this architecture.
var forms = func() map[uint64]form {
	for nr, f := range here {
		everywhere[nr] = f
	}
	return everywhere
}()

// describe reads what the thread, stopped before a call, is about to do. It
// returns nil when that does not concern the directory. Entering, it also
// reads what is only needed of a call that takes effect next.
func (p *Process) describe(tid int, entering bool) (*Call, error) {
	stop, err := syscallInfo(tid)
	if err != nil {
		return nil, err
	}
	f, ok := forms[stop.data[0]]
	if !ok {
		return nil, nil
	}
	args := stop.data[1:]
	c := &Call{Name: f.name, Op: f.op}
	fd := args[0]
	if f.name == "copy_file_range" {
		fd, f.path = args[2], -1
	}
	if f.path < 0 {
		link, err := os.Readlink(p.proc("fd", fd))
		if err != nil {
			return nil, nil // a bad descriptor: the call fails
		}
		if !strings.HasPrefix(link, "/") {
			if p.options.Sent != nil && !entering && f.op == Write && strings.HasPrefix(link, "socket:") {
				return nil, p.sent(tid, f, args)
			}
			return nil, nil
		}
		if c.Path, ok = p.below(link); !ok {
			return nil, nil
		}
	} else {
		path, inside, err := p.path(tid, f, args, f.dir, f.path)
		if err != nil {
			return nil, err
		}
		if f.op == Rename || f.op == Link {
			to, alsoInside, err := p.path(tid, f, args, f.dir+2*min(1, f.dir+1), f.path+1+min(1, f.dir+1))
			if err != nil {
				return nil, err
			}
			c.To = to
			if inside != alsoInside {
				c.Op = Other // it crosses the directory's edge
			}
			inside = inside || alsoInside
		}
		if c.Path = path; !inside {
			return nil, nil
		}
	}
	if !entering || !p.options.Data {
		return c, nil
	}
	return c, p.detail(tid, c, f, args)
}

// path reads the path of a call, relative to the directory.
func (p *Process) path(tid int, f form, args []uint64, dirArg, pathArg int) (string, bool, error) {
	path, err := readString(tid, args[pathArg])
	if err != nil {
		return "", false, err
	}
	if !filepath.IsAbs(path) {
		base := fmt.Sprintf("/proc/%d/cwd", p.PID)
		if f.dir >= 0 && int32(args[dirArg]) != unix.AT_FDCWD {
			base = p.proc("fd", args[dirArg])
		}
		dir, err := os.Readlink(base)
		if err != nil {
			return "", false, nil
		}
		path = filepath.Join(dir, path)
	}
	// The names above may be links; what is named itself is not followed.
	path = filepath.Clean(path)
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		path = filepath.Join(dir, filepath.Base(path))
	}
	rel, ok := p.below(path)
	return rel, ok, nil
}

func (p *Process) proc(what string, fd uint64) string {
	return fmt.Sprintf("/proc/%d/%s/%d", p.PID, what, int32(fd))
}

// detail reads what a call writes, and where.
func (p *Process) detail(tid int, c *Call, f form, args []uint64) (err error) {
	var st unix.Stat_t
	if f.path < 0 {
		if err := unix.Stat(p.proc("fd", args[0]), &st); err != nil {
			return fmt.Errorf("%s %s: %w", c.Name, c.Path, err)
		}
	} else if err := unix.Lstat(filepath.Join(p.dir, c.Path), &st); err != nil {
		st = unix.Stat_t{}
	}
	c.File, c.IsDir = st.Ino, st.Mode&unix.S_IFMT == unix.S_IFDIR
	switch c.Op {
	case Open:
		flags := uint64(unix.O_CREAT | unix.O_TRUNC)
		if f.flag >= 0 {
			flags = args[f.flag]
		}
		c.Created = st.Ino == 0 && flags&unix.O_CREAT != 0
		c.Emptied = st.Ino != 0 && flags&unix.O_TRUNC != 0
	case Truncate:
		c.Size = int64(args[1])
	case Allocate:
		// A mode that keeps the size, or that takes blocks away, is not
		// understood; nothing here uses one.
		c.Size = int64(args[2] + args[3])
		if args[1] != 0 {
			c.Op = Other
		}
	case Write:
		pos, flags, err := p.fdinfo(args[0])
		if err != nil {
			return err
		}
		c.Durable = flags&unix.O_DSYNC != 0
		switch {
		case flags&unix.O_APPEND != 0:
			c.Offset = st.Size
		case strings.HasPrefix(c.Name, "p"):
			c.Offset = int64(args[3])
		default:
			c.Offset = pos
		}
		c.Data, err = written(tid, f, args)
		return err
	}
	return nil
}

// complete adds what is known once a call has returned.
func (p *Process) complete(c *Call) {
	if !p.options.Data || c.Err != 0 {
		return
	}
	switch {
	case c.Op == Write:
		c.Data = c.Data[:min(int64(len(c.Data)), c.Result)]
	case c.Op == Open && c.Created:
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(p.dir, c.Path), &st) == nil {
			c.File = st.Ino
		}
	}
}

// fdinfo reads the position and the flags of a descriptor.
func (p *Process) fdinfo(fd uint64) (pos int64, flags uint64, err error) {
	text, err := os.ReadFile(p.proc("fdinfo", fd))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); name {
		case "pos":
			pos, err = strconv.ParseInt(value, 10, 64)
		case "flags":
			flags, err = strconv.ParseUint(value, 8, 64)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return pos, flags, nil
}

// sent hands over what is about to go to a socket.
func (p *Process) sent(tid int, f form, args []uint64) error {
	data, err := written(tid, f, args)
	if err != nil {
		return err
	}
	done := p.entered
	if p.busy != 0 {
		done--
	}
	p.options.Sent(done, data)
	return nil
}

// maxVector is IOV_MAX.
const maxVector = 1024

// written reads the data of a write.
func written(tid int, f form, args []uint64) ([]byte, error) {
	if f.name == "write" || f.name == "pwrite64" {
		return readMemory(tid, args[1], int(args[2]))
	}
	vector, err := readMemory(tid, args[1], 16*min(int(args[2]), maxVector))
	if err != nil {
		return nil, err
	}
	var data []byte
	for ; len(vector) >= 16; vector = vector[16:] {
		b, err := readMemory(tid, binary.NativeEndian.Uint64(vector), int(binary.NativeEndian.Uint64(vector[8:])))
		if err != nil {
			return nil, err
		}
		data = append(data, b...)
	}
	return data, nil
}

func readMemory(tid int, at uint64, n int) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	b := make([]byte, n)
	local := []unix.Iovec{{Base: &b[0]}}
	local[0].SetLen(n)
	got, err := unix.ProcessVMReadv(tid, local, []unix.RemoteIovec{{Base: uintptr(at), Len: n}}, 0)
	if err != nil {
		return nil, fmt.Errorf("read the program's memory: %w", err)
	}
	return b[:got], nil
}

// readString reads a string that ends with a zero byte. It may lie at the end
// of what can be read, so that it is read page by page.
func readString(tid int, at uint64) (string, error) {
	const page = 4096
	var s []byte
	for len(s) < unix.PathMax {
		b, err := readMemory(tid, at, page-int(at%page))
		if err != nil {
			return "", err
		}
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return string(append(s, b[:i]...)), nil
		}
		s, at = append(s, b...), at+uint64(len(b))
	}
	return string(s), nil
}
