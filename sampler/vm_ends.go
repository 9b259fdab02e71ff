package sampler

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// endWatch waits for the ends of the processes of machines, and has each read
// once more at that very moment: its cgroup is about to be removed.
type endWatch struct {
	epoll int
	wake  int // eventfd that ends the wait
	gone  chan struct{}
}

// watchEnds begins to wait; nil where this kernel cannot.
func watchEnds(s *VMs) *endWatch {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		s.log.Warn("the ends of machines are seen by the next sample only", "err", err)
		return nil
	}
	w := &endWatch{epoll: epoll, gone: make(chan struct{})}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC); err == nil {
		err = w.add(w.wake)
	}
	if err != nil {
		s.log.Warn("the ends of machines are seen by the next sample only", "err", err)
		_ = unix.Close(epoll) // holds nothing
		return nil
	}
	go w.serve(s)
	return w
}

// add watches a descriptor of a process, which becomes readable when that
// ends. Closing the descriptor ends the watch.
func (w *endWatch) add(fd int) error {
	if err := unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		return fmt.Errorf("wait for the end of its process: %w", err)
	}
	return nil
}

func (w *endWatch) serve(s *VMs) {
	defer close(w.gone)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(w.epoll, events, -1)
		if err != nil && err != unix.EINTR {
			s.log.Error("the ends of machines are not seen any more", "err", err)
			return
		}
		if n > 0 && !s.ended(events[:n]) {
			return
		}
	}
}

func (w *endWatch) close() {
	one := [8]byte{1, 1, 1, 1, 1, 1, 1, 1} // any number but 0 wakes
	_, _ = unix.Write(w.wake, one[:])
	<-w.gone
	_ = unix.Close(w.wake)
	_ = unix.Close(w.epoll)
}

// ended takes in that processes have ended. It reports false when the source
// is closed.
func (s *VMs) ended(events []unix.EpollEvent) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	at := s.clock.Now()
	s.drain()
	for _, e := range events {
		if v := s.byPidfd[int(e.Fd)]; v != nil {
			s.finishRun(v, at)
		}
	}
	return true
}

// exited reports whether a run's process has ended and not been taken in.
func (r *run) exited() bool {
	if r.pidfd < 0 {
		return false
	}
	poll := [1]unix.PollFd{{Fd: int32(r.pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(poll[:], 0)
	return err == nil && n > 0
}

// endedThreads is what the threads of a process that have ended came to in
// disk I/O: at the end of the process, all of it but the part of a KiB that the
// record of each leaves out. Threads that had ended before the process was opened
// are told by nobody, and in it as far as that is certain.
type endedThreads struct {
	read, wrote uint64
	records     int
}

func (t *endedThreads) add(e taskExit) {
	t.read, t.wrote, t.records = t.read+e.read, t.wrote+e.wrote, t.records+1
}

// lookEndedIO finds out what the threads did that have ended before: what the
// process did and none of the threads that it has.
func (s *VMs) lookEndedIO(r *run) {
	if s.exits == nil || r.loose || !r.ioKnown {
		return
	}
	const attempts = 3 // threads end meanwhile
	for range attempts {
		s.drain()
		before := r.ended
		s.lookIO(r)
		read, wrote, err := s.liveIO(r.pid)
		if s.drain(); err != nil || !r.ioKnown {
			return
		}
		if r.ended.records == before.records {
			r.ended.read += r.read.max - min(r.read.max, before.read+read)
			r.ended.wrote += r.wrote.max - min(r.wrote.max, before.wrote+wrote)
			return
		}
	}
}

// liveIO adds up what the threads of a process have had the storage layer read
// and write that have not ended.
func (s *VMs) liveIO(pid int) (read, wrote uint64, err error) {
	dir := filepath.Join(s.root, "proc", strconv.Itoa(pid), "task")
	list, err := names(dir)
	if err != nil {
		return 0, 0, err
	}
	for _, tid := range list {
		b, err := os.ReadFile(filepath.Join(dir, tid, "io"))
		if isGone(err) {
			continue // its record comes
		}
		r, w, err2 := parseProcessIO(b)
		if err = errors.Join(err, err2); err != nil {
			return 0, 0, err
		}
		read, wrote = read+r, wrote+w
	}
	return read, wrote, nil
}
