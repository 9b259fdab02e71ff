package inventory

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// lines asks the kernel how many clients wait in line at the sockets that
// somebody listens at: wherever the clients are, and not in any table of theirs.
// It sees the listeners of the network namespace in which it was opened. See
// sock_diag(7), linux/unix_diag.h and linux/sock_diag.h.
type lines struct {
	fd      int
	request [unix.NLMSG_HDRLEN + unixDiagRequest]byte
	buf     []byte
}

const (
	unixDiagRequest = 24 // bytes of struct unix_diag_req
	unixDiagMessage = 16 // of struct unix_diag_msg

	unixDiagShowName  = 0x01
	unixDiagShowQueue = 0x10
	unixDiagName      = 0 // attributes
	unixDiagQueue     = 4
	tcpListen         = 10 // the state, of all protocols
)

func openLines() (*lines, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	l := &lines{fd: fd, buf: make([]byte, 64<<10)}
	// A dump is made while it is asked for and never waits; the limit is for
	// a kernel that forgets its end.
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) // only the kernel may answer
	}
	if err != nil {
		l.close()
		return nil, err
	}
	h := l.request[:]
	binary.NativeEndian.PutUint32(h[0:], uint32(len(h)))
	binary.NativeEndian.PutUint16(h[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(h[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	h = h[unix.NLMSG_HDRLEN:]
	h[0] = unix.AF_UNIX
	binary.NativeEndian.PutUint32(h[4:], 1<<tcpListen)
	binary.NativeEndian.PutUint32(h[12:], unixDiagShowName|unixDiagShowQueue)
	return l, nil
}

func (l *lines) close() { _ = unix.Close(l.fd) } // holds nothing

// each calls take for every socket that somebody listens at, with the name that
// it is bound to and how many clients wait.
func (l *lines) each(take func(name []byte, waiting int)) error {
	if _, err := unix.Write(l.fd, l.request[:]); err != nil {
		return os.NewSyscallError("write", err)
	}
	for {
		n, err := unix.Read(l.fd, l.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return os.NewSyscallError("read", err)
		}
		if done, err := walkLines(l.buf[:n], take); err != nil || done {
			return err
		}
	}
}

// walkLines goes through the netlink messages in b. done tells the end of the
// dump.
func walkLines(b []byte, take func(name []byte, waiting int)) (done bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			break
		}
		kind, payload := binary.NativeEndian.Uint16(b[4:]), b[unix.NLMSG_HDRLEN:size]
		b = b[min((size+3)&^3, len(b)):]
		switch kind {
		case unix.NLMSG_DONE:
			return true, nil
		case unix.NLMSG_ERROR:
			if len(payload) < 4 {
				return false, errDiag
			}
			return false, unix.Errno(-int32(binary.NativeEndian.Uint32(payload)))
		case unix.SOCK_DIAG_BY_FAMILY:
			if name, waiting := parseLine(payload); len(name) > 0 {
				take(name, waiting)
			}
		}
	}
	if len(b) > 0 {
		return false, errDiag
	}
	return false, nil
}

var errDiag = errors.New("malformed answer about unix sockets")

// parseLine reads one socket of a dump; name is empty where it has none.
func parseLine(b []byte) (name []byte, waiting int) {
	if len(b) < unixDiagMessage {
		return nil, 0
	}
	for b = b[unixDiagMessage:]; len(b) >= 4; {
		size, kind := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < 4 || size > len(b) {
			return nil, 0
		}
		switch value := b[4:size]; {
		case kind == unixDiagName:
			name = bytes.TrimRight(value, "\x00")
		case kind == unixDiagQueue && len(value) >= 4:
			waiting = int(binary.NativeEndian.Uint32(value))
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return name, waiting
}
