package inventory

import (
	"fmt"
	"sync"
	"unsafe"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// ends waits for processes to end, through their pidfds: it costs nothing while
// they run, and no other process can have their number meanwhile.
type ends struct {
	epoll, wake int
	ended       func(pidfd int)
	done        chan struct{}

	mu   sync.Mutex
	open map[int]bool // the pidfds that are waited for
}

// watchEnds calls ended once for each pidfd that was added, when its process
// has ended. It needs Linux 5.3.
func watchEnds(ended func(pidfd int)) (*ends, error) {
	self, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("open a pidfd: %w", err)
	}
	_ = unix.Close(self)
	e := &ends{ended: ended, done: make(chan struct{}), open: map[int]bool{}}
	if e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("wait for processes: %w", err)
	}
	e.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, e.wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(e.wake)})
	}
	if err != nil {
		_ = unix.Close(e.epoll)
		return nil, fmt.Errorf("wait for processes: %w", err)
	}
	go e.run()
	return e, nil
}

func (e *ends) run() {
	defer close(e.done)
	events := make([]unix.EpollEvent, 64)
	for {
		n, err := unix.EpollWait(e.epoll, events, -1)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		for _, ev := range events[:n] {
			fd := int(ev.Fd)
			if fd == e.wake {
				return
			}
			e.mu.Lock()
			waited := e.open[fd]
			if waited {
				// It stays readable for ever.
				_ = unix.EpollCtl(e.epoll, unix.EPOLL_CTL_DEL, fd, nil)
			}
			e.mu.Unlock()
			if waited {
				e.ended(fd)
			}
		}
	}
}

// add waits for the process that has this number now.
func (e *ends) add(pid int) (pidfd int, err error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return -1, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	e.open[fd] = true
	return fd, nil
}

func (e *ends) remove(pidfd int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.open, pidfd)
	_ = unix.Close(pidfd) // which also takes it out of the epoll
}

// close ends the waiting. Nobody is called any more when it returns.
func (e *ends) close() {
	one := [8]byte{1}
	_, _ = unix.Write(e.wake, one[:])
	<-e.done
	_ = unix.Close(e.wake)
	_ = unix.Close(e.epoll)
}

// readable reports whether the process of a pidfd has ended.
func readable(pidfd int) bool {
	list := [1]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	n, err := unix.Poll(list[:], 0)
	return err == nil && n == 1
}

// pidfdInfo is the first version of struct pidfd_info, see linux/pidfd.h.
type pidfdInfo struct {
	mask, cgroup uint64
	pid, tgid    uint32
	parent       uint32
	credentials  [8]uint32
	exit         int32
}

const (
	pidfdInfoExit = 1 << 3                                                // PIDFD_INFO_EXIT
	pidfdGetInfo  = 3<<30 | unsafe.Sizeof(pidfdInfo{})<<16 | 0xff<<8 | 11 // PIDFD_GET_INFO
)

// exitOf returns the wait status of a process that has ended and was waited
// for, where the kernel tells it: since Linux 6.15.
func exitOf(pidfd int) (status int, known bool) {
	info := pidfdInfo{mask: pidfdInfoExit}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(pidfd), pidfdGetInfo, uintptr(unsafe.Pointer(&info)))
	return int(info.exit), errno == 0 && info.mask&pidfdInfoExit != 0
}

// howEnded says what a wait status means for the machine. Its hypervisor exits
// with 0 when the machine was shut down, and when it was asked to end by a
// signal; those it does not handle end it as well, and were still asked for.
func howEnded(status int, known bool) (odometer.ChangeKind, string) {
	signal, code := status&0x7f, status>>8&0xff
	switch {
	case !known:
		return odometer.ChangeStopped, "its process ended; the kernel does not tell how"
	case signal == int(unix.SIGTERM) || signal == int(unix.SIGINT) || signal == int(unix.SIGHUP):
		return odometer.ChangeStopped, fmt.Sprintf("ended by signal %d", signal)
	case signal != 0:
		return odometer.ChangeCrashed, fmt.Sprintf("killed by signal %d", signal)
	case code != 0:
		return odometer.ChangeCrashed, fmt.Sprintf("its process exited with status %d", code)
	}
	return odometer.ChangeStopped, "its process exited"
}
