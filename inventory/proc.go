package inventory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// tickMicros is the unit of start times in /proc/PID/stat: USER_HZ is 100 on
// every architecture that Go has Linux for.
const tickMicros = 10_000

// process is the directory /proc/PID, kept open: once the process is gone
// reads from it fail, whoever has its number then.
type process struct{ dir int }

// openProcess opens the directory of a process under proc, itself open.
func openProcess(proc int, name string) (process, error) {
	fd, err := unix.Openat(proc, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return process{}, &fs.PathError{Op: "open", Path: "/proc/" + name, Err: err}
	}
	return process{fd}, nil
}

func (p process) close() { _ = unix.Close(p.dir) } // holds nothing

// read reads a file of the process into *buf, which it enlarges where needed,
// up to most bytes.
func (p process) read(name string, buf *[]byte, most int) ([]byte, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer unix.Close(fd)
	b, err := readAll(fd, buf, most)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return b, nil
}

// readAll reads an open file from where it stands into *buf, which it enlarges
// where needed, up to most bytes.
func readAll(fd int, buf *[]byte, most int) ([]byte, error) {
	n := 0
	for {
		if n == len(*buf) {
			if n >= most {
				return nil, fmt.Errorf("it has more than %d bytes", most)
			}
			*buf = append(*buf, make([]byte, max(len(*buf), 4096))...)
		}
		m, err := unix.Read(fd, (*buf)[n:])
		switch {
		case err == unix.EINTR:
		case err != nil:
			return nil, err
		case m == 0:
			return (*buf)[:n], nil
		default:
			n += m
		}
	}
}

// link returns where a symbolic link of the process points.
func (p process) link(name string) (string, error) {
	var b [4096]byte
	n, err := unix.Readlinkat(p.dir, name, b[:])
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(b[:n]), nil
}

// names lists a directory of the process.
func (p process) names(name string) ([]string, error) {
	fd, err := unix.Openat(p.dir, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	list, err := f.Readdirnames(-1)
	return list, errors.Join(err, f.Close())
}

// procStat is what is used of /proc/PID/stat, see proc_pid_stat(5).
type procStat struct {
	state   byte
	parent  int
	session int
	start   uint64 // ticks since boot
	exit    int    // wait status; of a process that has ended, where it may be read
}

var errProcStat = errors.New("malformed /proc/PID/stat")

// parseProcStat reads /proc/PID/stat. The name of the program, its second
// field, may have spaces and parentheses, so that fields are counted from the
// last one that closes.
func parseProcStat(b []byte) (procStat, error) {
	i := bytes.LastIndexByte(b, ')')
	if i < 0 || i+3 > len(b) || b[i+1] != ' ' {
		return procStat{}, errProcStat
	}
	s := procStat{state: b[i+2]}
	rest, complete := b[i+3:], false
	for field := 4; ; field++ {
		rest = bytes.TrimLeft(rest, " ")
		end := bytes.IndexAny(rest, " \n")
		if end < 0 {
			end = len(rest)
		}
		if end == 0 {
			break
		}
		var err error
		switch field {
		case 4:
			s.parent, err = strconv.Atoi(string(rest[:end]))
		case 6:
			s.session, err = strconv.Atoi(string(rest[:end]))
		case 22:
			s.start, err = strconv.ParseUint(string(rest[:end]), 10, 64)
		case 52:
			s.exit, err = strconv.Atoi(string(rest[:end]))
		}
		if err != nil {
			return procStat{}, fmt.Errorf("%w: %w", errProcStat, err)
		}
		if field == 52 {
			return s, nil
		}
		complete = complete || field == 22
		rest = rest[end:]
	}
	if !complete {
		return procStat{}, errProcStat
	}
	return s, nil
}

// gone reports whether a process that had this state has ended: a zombie only
// waits for its parent to ask.
func (s procStat) gone() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

// tunName finds the name of the interface in /proc/PID/fdinfo/N of a
// descriptor of /dev/net/tun: the line "iff:\tNAME". "" where there is none.
func tunName(b []byte) string {
	for line := range bytes.Lines(b) {
		if name, ok := bytes.CutPrefix(line, []byte("iff:")); ok {
			return string(bytes.TrimSpace(name))
		}
	}
	return ""
}

// dirent is one entry of a directory.
type dirent struct {
	inode uint64
	name  []byte
}

// cutDirent reads one struct linux_dirent64, see getdents64(2), from the front
// of b. ok is false at the end and where b is none.
func cutDirent(b []byte) (d dirent, rest []byte, ok bool) {
	const header = 19 // ino 8, off 8, reclen 2, type 1
	if len(b) < header {
		return dirent{}, nil, false
	}
	size := int(binary.NativeEndian.Uint16(b[16:]))
	if size < header || size > len(b) {
		return dirent{}, nil, false
	}
	name := b[header:size]
	if end := bytes.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	return dirent{binary.NativeEndian.Uint64(b), name}, b[size:], true
}

// pidOf reads a process id, 0 where the name is none.
func pidOf(name []byte) int {
	if len(name) == 0 || len(name) > 10 || name[0] == '0' {
		return 0
	}
	n := 0
	for _, c := range name {
		if c < '0' || c > '9' {
			return 0
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// ended reports whether an error says that the process has gone meanwhile.
func ended(err error) bool {
	return errors.Is(err, unix.ESRCH) || errors.Is(err, fs.ErrNotExist)
}

// head reads the first bytes of f, at most n.
func head(f io.ReaderAt, n int) ([]byte, error) {
	b := make([]byte, n)
	m, err := f.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	return b[:m], err
}

// word returns the content of a small file without surrounding space.
func word(path string) (string, error) {
	b, err := os.ReadFile(path)
	return strings.TrimSpace(string(b)), err
}

// mount is what is used of a line of /proc/PID/mountinfo, see
// proc_pid_mountinfo(5): which directory of which filesystem is where.
type mount struct{ device, root, point string }

func parseMounts(s string) []mount {
	var list []mount
	for line := range strings.Lines(s) {
		if f := strings.Fields(line); len(f) > 6 {
			list = append(list, mount{f[2], unescape(f[3]), unescape(f[4])})
		}
	}
	return list
}

// unescape undoes the octal escapes of mountinfo: \040 for a space.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// jail returns where on the host the root directory of a process lies that has
// its own table of mounts, as a jailer's has: the directory of a filesystem that
// the host has mounted too. "/" where that is its own root, or cannot be told;
// whoever uses it compares what lies there.
func jail(process, host string) string {
	for _, m := range parseMounts(process) {
		if m.point != "/" {
			continue
		}
		found, longest := "/", 0
		for _, h := range parseMounts(host) {
			rest, ok := strings.CutPrefix(m.root, strings.TrimSuffix(h.root, "/"))
			if ok && h.device == m.device && len(h.root) > longest && (rest == "" || rest[0] == '/') {
				found, longest = path.Join("/", h.point, rest), len(h.root)
			}
		}
		return found
	}
	return "/"
}
