package inventory

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// sockets tells who is connected to the control sockets of the machines
// without connecting: the kernel's table of unix sockets has those that a server
// has accepted, and those that wait in line, each under its name.
//
// A table is of one network namespace, and a connection is in that of its
// client: here that of this process. Clients elsewhere are seen while they wait,
// in the lines.
type sockets struct {
	path string // of the table

	mu    sync.Mutex
	lines *lines              // nil before they are opened, and after they failed
	names map[string]*callers // those that are asked for
	at    time.Time           // when the table was read
	err   error               // why it was not
	buf   []byte
}

// callers are the clients of a socket, or of several that have the same name: of
// processes with different roots, or working directories.
type callers struct {
	served  []uint64 // inodes of the connections that were accepted
	waiting int      // in line
	users   int      // who asks for the name
	added   time.Time
}

func newSockets(root string) *sockets {
	return &sockets{path: filepath.Join(root, "proc/thread-self/net/unix"), names: map[string]*callers{}, buf: make([]byte, 64<<10)}
}

// add begins to count the clients of a socket by the name that it is bound to.
func (s *sockets) add(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.names[name] == nil {
		s.names[name] = &callers{added: time.Now()}
	}
	s.names[name].users++
}

// close ends what is held open.
func (s *sockets) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lines != nil {
		s.lines.close()
		s.lines = nil
	}
}

func (s *sockets) remove(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.names[name]; c != nil {
		if c.users--; c.users == 0 {
			delete(s.names, name)
		}
	}
}

// of returns who is connected to a name, as a table says that is at most so
// old. Whether those of a name that several sockets have are its own, whoever
// asks has to find out.
func (s *sockets) of(name string, age time.Duration) (served []uint64, waiting int, shared bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.names[name]
	if time.Since(s.at) >= age || c != nil && c.added.After(s.at) {
		s.at = time.Now()
		s.err = s.read()
	}
	if s.err != nil || c == nil {
		return nil, 0, false, s.err
	}
	return append(served, c.served...), c.waiting, c.users > 1, nil
}

// sees reports whether everybody is seen who waits for a socket of a process:
// the kernel tells how long its line is, and only of listeners here.
func (s *sockets) sees(pid int) bool {
	s.mu.Lock()
	readable := s.lines != nil
	s.mu.Unlock()
	here, err := os.Readlink("/proc/thread-self/ns/net")
	there, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	return readable && err == nil && err2 == nil && here == there
}

// countLines counts who waits, wherever he is. A kernel that tells nobody's line
// leaves those of the table.
func (s *sockets) countLines() {
	err := error(nil)
	if s.lines == nil {
		if s.lines, err = openLines(); err != nil {
			return
		}
	}
	err = s.lines.each(func(name []byte, waiting int) {
		if c := s.names[string(name)]; c != nil {
			c.waiting = max(c.waiting, waiting)
		}
	})
	if err != nil {
		s.lines.close()
		s.lines = nil
	}
}

// read reads the table and the lines. It costs a microsecond a socket of the host.
func (s *sockets) read() error {
	if err := s.readTable(); err != nil {
		return err
	}
	s.countLines()
	return nil
}

func (s *sockets) readTable() error {
	fd, err := unix.Open(s.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open the table of unix sockets: %w", err)
	}
	defer unix.Close(fd)
	for _, c := range s.names {
		c.served, c.waiting = c.served[:0], 0
	}
	have := 0
	for {
		n, err := unix.Read(fd, s.buf[have:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read the table of unix sockets: %w", err)
		}
		have += n
		b := s.buf[:have]
		for {
			line, rest, ok := bytes.Cut(b, []byte("\n"))
			if !ok {
				break
			}
			s.count(line)
			b = rest
		}
		if n == 0 || len(b) == len(s.buf) { // the end, or a line without one
			return nil
		}
		have = copy(s.buf, b)
	}
}

// count counts the connection of one line.
func (s *sockets) count(line []byte) {
	state, inode, name := parseSocket(line)
	c := s.names[string(name)]
	switch {
	case c == nil:
	case state == socketConnected:
		c.served = append(c.served, inode)
	case state == socketConnecting:
		c.waiting++
	}
}

// States of a socket that has a client, see enum socket_state in linux/net.h:
// one that was connected to and is not accepted has no process yet.
const (
	socketConnecting = 2
	socketConnected  = 3
)

// parseSocket reads a line of /proc/net/unix, see proc_net(5):
//
//	Num RefCount Protocol Flags Type St Inode Path
//
// and returns a state of 0 where it is no connection or has no name. The path is
// what the socket was bound to, as its process wrote it.
func parseSocket(line []byte) (state int, inode uint64, name []byte) {
	var field [7][]byte
	for i := range field {
		line = bytes.TrimLeft(line, " ")
		end := bytes.IndexByte(line, ' ')
		if end < 0 {
			return 0, 0, nil // no name
		}
		field[i], line = line[:end], line[end:]
	}
	if len(line) < 2 {
		return 0, 0, nil
	}
	switch string(field[5]) {
	case "02":
		state = socketConnecting
	case "03":
		state = socketConnected
	default:
		return 0, 0, nil
	}
	for _, digit := range field[6] {
		if digit < '0' || digit > '9' {
			return 0, 0, nil
		}
		inode = inode*10 + uint64(digit-'0')
	}
	return state, inode, line[1:]
}
