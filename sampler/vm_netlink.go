package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

var errOverrun = errors.New("the kernel dropped messages, since too many came at once: of what ended then, the last sample stands")

// link asks for one interface by name.
func (s *statsSocket) link(name string) (linkInfo, error) {
	payload, err := s.linkMessage(name, 0)
	if err != nil {
		return linkInfo{}, err
	}
	l, ok := parseLinkMsg(payload)
	if !ok || !l.known {
		return linkInfo{}, errNetlink
	}
	return l, nil
}

// linkMessage asks for one interface by name, with what mask (IFLA_EXT_MASK)
// wants beside the rest, and returns the payload of the answer, which holds
// until the next call.
func (s *statsSocket) linkMessage(name string, mask uint32) ([]byte, error) {
	const at = unix.NLMSG_HDRLEN + unix.SizeofIfInfomsg
	if len(name) == 0 || len(name) >= unix.IFNAMSIZ {
		return nil, fmt.Errorf("ask for interface %q: %w", name, unix.ENODEV)
	}
	var request [at + 8 + 4 + unix.IFNAMSIZ]byte
	s.seq++
	binary.NativeEndian.PutUint32(request[0:], uint32(len(request)))
	binary.NativeEndian.PutUint16(request[4:], unix.RTM_GETLINK)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(request[8:], s.seq)
	binary.NativeEndian.PutUint16(request[at:], 8)
	binary.NativeEndian.PutUint16(request[at+2:], unix.IFLA_EXT_MASK)
	binary.NativeEndian.PutUint32(request[at+4:], mask)
	binary.NativeEndian.PutUint16(request[at+8:], uint16(4+len(name)+1))
	binary.NativeEndian.PutUint16(request[at+10:], unix.IFLA_IFNAME)
	copy(request[at+12:], name)
	if _, err := unix.Write(s.fd, request[:]); err != nil {
		return nil, fmt.Errorf("ask for interface %q: %w", name, err)
	}
	for {
		n, err := unix.Read(s.fd, s.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("ask for interface %q: %w", name, err)
		}
		b := s.buf[:n]
		kind, payload, _, ok := cutMessage(b)
		if !ok {
			return nil, errNetlink
		}
		if binary.NativeEndian.Uint32(b[8:]) != s.seq {
			continue // of a dump that was given up
		}
		if kind == unix.NLMSG_ERROR && len(payload) >= 4 {
			return nil, fmt.Errorf("ask for interface %q: %w", name, unix.Errno(-int32(binary.NativeEndian.Uint32(payload))))
		}
		return payload, nil
	}
}

// linkWatch hears of interfaces that come and go. It sees the network
// namespace in which it was opened.
type linkWatch struct {
	fd  int
	buf []byte
}

// watchBuffer is what the kernel may queue between two looks: some thousand
// messages of two KiB.
const watchBuffer = 4 << 20

func openWatch(buf []byte) (*linkWatch, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("listen for the ends of interfaces: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1 << (unix.RTNLGRP_LINK - 1)}); err != nil {
		_ = unix.Close(fd) // holds nothing
		return nil, fmt.Errorf("listen for the ends of interfaces: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) // a smaller one overflows sooner, and says so
	return &linkWatch{fd: fd, buf: buf}, nil
}

// drain calls gone with what every interface came to that was deleted since
// the last call, and reports whether any came or changed. It does not wait.
// errOverrun says that the kernel dropped messages.
func (w *linkWatch) drain(gone func(linkInfo)) (news bool, err error) {
	var overrun error
	for {
		n, err := unix.Read(w.fd, w.buf)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return news, overrun
		case unix.ENOBUFS:
			overrun = errOverrun
			continue
		default:
			return news, fmt.Errorf("listen for the ends of interfaces: %w", err)
		}
		for b := w.buf[:n]; ; {
			kind, payload, rest, ok := cutMessage(b)
			if !ok {
				break
			}
			switch kind {
			case unix.RTM_NEWLINK:
				news = true
			case unix.RTM_DELLINK:
				// A port that leaves its bridge is told in the same words.
				if l, ok := parseLinkMsg(payload); ok && l.known && l.family == unix.AF_UNSPEC {
					gone(l)
				}
			}
			b = rest
		}
	}
}

func (w *linkWatch) close() { _ = unix.Close(w.fd) } // holds nothing

// namespaceOf returns the inode of the network namespace at path, which names
// it for as long as it lives.
func namespaceOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Ino, nil
}

// withinNamespace runs f on a thread of the network namespace at path. What f
// opens stays of that namespace.
func withinNamespace(path string, f func() error) error {
	to, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(to)
	runtime.LockOSThread()
	const here = "/proc/thread-self/ns/net"
	back, err := unix.Open(here, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("open %s: %w", here, err)
	}
	defer unix.Close(back)
	if err := unix.Setns(to, unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return fmt.Errorf("enter %s: %w", path, err)
	}
	err = f()
	if backErr := unix.Setns(back, unix.CLONE_NEWNET); backErr != nil {
		// The thread stays locked, so that nothing else runs on it.
		return errors.Join(err, fmt.Errorf("leave %s: %w", path, backErr))
	}
	runtime.UnlockOSThread()
	return err
}
