package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// statsSocket asks the kernel for the counters of all network interfaces with
// one RTM_GETSTATS dump, which costs about a quarter of /proc/net/dev and names
// interfaces by index, so that one that was replaced cannot pass for another.
// It sees the network namespace in which it was opened.
type statsSocket struct {
	fd      int
	request [unix.NLMSG_HDRLEN + ifStatsMsgBytes]byte
	seq     uint32
	buf     []byte
}

// netlinkBuffer holds the largest part of a dump that the kernel sends at
// once, 32 KiB since Linux 4.x, twice over.
const netlinkBuffer = 64 << 10

func openStats() (*statsSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	s := &statsSocket{fd: fd, buf: make([]byte, netlinkBuffer)}
	// A dump is made while it is asked for and never waits; the limit is for
	// a kernel that forgets its end.
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) // only the kernel may answer
	}
	if err != nil {
		s.close()
		return nil, fmt.Errorf("open rtnetlink: %w", err)
	}
	h := s.request[:]
	binary.NativeEndian.PutUint32(h[0:], uint32(len(h)))
	binary.NativeEndian.PutUint16(h[4:], unix.RTM_GETSTATS)
	binary.NativeEndian.PutUint16(h[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(h[unix.NLMSG_HDRLEN+8:], 1<<(iflaStatsLink64-1)) // filter_mask
	return s, nil
}

func (s *statsSocket) close() {
	if s.fd >= 0 {
		_ = unix.Close(s.fd) // holds nothing
		s.fd = -1
	}
}

var (
	errInterrupted = errors.New("the interfaces changed during the dump")
	errNetlink     = errors.New("malformed rtnetlink answer")
)

// dump calls each for every interface; in between it may have called restart,
// after which everything seen so far is void: interfaces came or went.
func (s *statsSocket) dump(restart func(), each func(ifindex uint32, st linkStats)) error {
	for range 4 {
		restart()
		err := s.once(each)
		if err != errInterrupted {
			return err
		}
	}
	return errInterrupted
}

func (s *statsSocket) once(each func(uint32, linkStats)) error {
	s.seq++
	binary.NativeEndian.PutUint32(s.request[8:], s.seq)
	if _, err := unix.Write(s.fd, s.request[:]); err != nil {
		return fmt.Errorf("ask rtnetlink for counters: %w", err)
	}
	interrupted := false
	for {
		n, err := unix.Read(s.fd, s.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("read counters from rtnetlink: %w", err)
		}
		done, intr, err := walkStats(s.buf[:n], s.seq, each)
		interrupted = interrupted || intr
		if err != nil {
			return err
		}
		if done && interrupted {
			return errInterrupted
		}
		if done {
			return nil
		}
	}
}

// walkStats goes through the netlink messages in b and calls each for every
// interface whose counters are there. Messages that answer another request
// are passed over. done tells the end of the dump.
func walkStats(b []byte, seq uint32, each func(uint32, linkStats)) (done, interrupted bool, err error) {
	for len(b) >= unix.NLMSG_HDRLEN {
		size := int(binary.NativeEndian.Uint32(b))
		if size < unix.NLMSG_HDRLEN || size > len(b) {
			return false, false, errNetlink
		}
		kind, flags := binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint16(b[6:])
		mine, payload := binary.NativeEndian.Uint32(b[8:]) == seq, b[unix.NLMSG_HDRLEN:size]
		b = b[min((size+3)&^3, len(b)):]
		if !mine {
			continue
		}
		interrupted = interrupted || flags&unix.NLM_F_DUMP_INTR != 0
		switch kind {
		case unix.NLMSG_DONE:
			if len(payload) >= 4 {
				if code := int32(binary.NativeEndian.Uint32(payload)); code < 0 {
					return false, false, fmt.Errorf("rtnetlink broke off the counters: %w", unix.Errno(-code))
				}
			}
			return true, interrupted, nil
		case unix.NLMSG_ERROR:
			if len(payload) < 4 {
				return false, false, errNetlink
			}
			errno := -int32(binary.NativeEndian.Uint32(payload))
			return false, false, fmt.Errorf("rtnetlink refuses to tell counters: %w", unix.Errno(errno))
		case unix.RTM_NEWSTATS:
			if ifindex, st, ok := parseStatsMsg(payload); ok {
				each(ifindex, st)
			}
		}
	}
	if len(b) > 0 {
		return false, false, errNetlink
	}
	return false, interrupted, nil
}
