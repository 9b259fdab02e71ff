package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// taskSocket talks to the kernel's taskstats over generic netlink, see
// Documentation/accounting/taskstats.rst. It answers in the initial network
// and PID namespaces only, and only to who has CAP_NET_ADMIN.
type taskSocket struct {
	fd      int
	request [unix.NLMSG_HDRLEN + unix.GENL_HDRLEN + 8]byte // for [taskSocket.cpu]
	buf     []byte
	sawFunc func(taskExit)
	saw     taskExit
}

// taskExit is what a taskstats message says of a process or a thread.
type taskExit struct {
	id    uint32 // of the process where group is set, of the thread otherwise
	group bool   // all threads of the process together, dead ones included
	cpu   uint64 // ns that ran, without what a hypervisor took: sum_exec_runtime

	// Of a thread only, and since Linux 5.19: whose it was, and how many bytes it
	// had the storage layer read and write. process is 0 where that is not told.
	process     uint32
	read, wrote uint64
}

// taskPatience is how long an answer may take. The kernel makes it while it
// is asked for, so that only a lost one comes to that.
const taskPatience = time.Second

// exitBuffer is what the kernel may queue of exit records between two looks,
// which come with each sample and with each machine that ends: some thousands.
const exitBuffer = 4 << 20

func openTasks() (*taskSocket, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		return nil, fmt.Errorf("open taskstats: %w", err)
	}
	t := &taskSocket{fd: fd, buf: make([]byte, 16<<10)}
	t.sawFunc = func(e taskExit) { t.saw = e }
	tv := unix.NsecToTimeval(taskPatience.Nanoseconds())
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}) // only the kernel may answer
	}
	var family uint16
	if err == nil {
		family, err = t.family()
	}
	if err != nil {
		t.close()
		return nil, fmt.Errorf("open taskstats: %w", err)
	}
	genericRequest(t.request[:], family, unix.TASKSTATS_CMD_GET, unix.TASKSTATS_CMD_ATTR_TGID, make([]byte, 4))
	return t, nil
}

func (t *taskSocket) close() {
	if t.fd >= 0 {
		_ = unix.Close(t.fd) // holds nothing
		t.fd = -1
	}
}

// genericRequest writes a request with one attribute into b and returns it.
func genericRequest(b []byte, family uint16, command, attribute byte, value []byte) []byte {
	const at = unix.NLMSG_HDRLEN + unix.GENL_HDRLEN
	size := at + 4 + (len(value)+3)&^3
	b = b[:size]
	clear(b)
	binary.NativeEndian.PutUint32(b, uint32(size))
	binary.NativeEndian.PutUint16(b[4:], family)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	b[unix.NLMSG_HDRLEN], b[unix.NLMSG_HDRLEN+1] = command, 1
	binary.NativeEndian.PutUint16(b[at:], uint16(4+len(value)))
	binary.NativeEndian.PutUint16(b[at+2:], uint16(attribute))
	copy(b[at+4:], value)
	return b
}

// family asks which number the kernel gave to taskstats.
func (t *taskSocket) family() (uint16, error) {
	name := append([]byte(unix.TASKSTATS_GENL_NAME), 0)
	b, err := t.ask(genericRequest(make([]byte, 128), unix.GENL_ID_CTRL, unix.CTRL_CMD_GETFAMILY, unix.CTRL_ATTR_FAMILY_NAME, name))
	if err != nil {
		return 0, err
	}
	for b = b[min(unix.GENL_HDRLEN, len(b)):]; ; {
		kind, v, rest, ok := cutAttribute(b)
		if !ok {
			return 0, errNetlink
		}
		if kind == unix.CTRL_ATTR_FAMILY_ID && len(v) >= 2 {
			return binary.NativeEndian.Uint16(v), nil
		}
		b = rest
	}
}

// ask sends a request and returns the payload of the answer.
func (t *taskSocket) ask(request []byte) ([]byte, error) {
	if _, err := unix.Write(t.fd, request); err != nil {
		return nil, err
	}
	for {
		n, err := unix.Read(t.fd, t.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		kind, payload, _, ok := cutMessage(t.buf[:n])
		switch {
		case !ok:
			return nil, errNetlink
		case kind == unix.NLMSG_ERROR && len(payload) >= 4:
			if code := int32(binary.NativeEndian.Uint32(payload)); code != 0 {
				return nil, unix.Errno(-code)
			}
		}
		return payload, nil
	}
}

var errNoTask = errors.New("taskstats answered about another process, or in a form that is not understood")

// cpu returns the processor time of all threads of a process so far, dead
// ones included, in nanoseconds.
func (t *taskSocket) cpu(pid int) (uint64, error) {
	binary.NativeEndian.PutUint32(t.request[len(t.request)-4:], uint32(pid))
	b, err := t.ask(t.request[:])
	if err != nil {
		return 0, err
	}
	t.saw = taskExit{}
	walkTask(b, t.sawFunc)
	if t.saw.id != uint32(pid) || !t.saw.group {
		return 0, errNoTask
	}
	return t.saw.cpu, nil
}

// tellsProcess reports whether this kernel says of a thread that ends which
// process it was of, and so what that had read and written.
func (t *taskSocket) tellsProcess() bool {
	pid := unix.Getpid()
	family := binary.NativeEndian.Uint16(t.request[4:])
	b, err := t.ask(genericRequest(make([]byte, len(t.request)), family, unix.TASKSTATS_CMD_GET, unix.TASKSTATS_CMD_ATTR_PID, binary.NativeEndian.AppendUint32(nil, uint32(pid))))
	if err != nil {
		return false
	}
	t.saw = taskExit{}
	walkTask(b, t.sawFunc)
	return t.saw.process == uint32(pid)
}

// taskExits hears of every process and thread of the host that ends, with the
// processor time it came to.
type taskExits struct {
	fd  int
	buf []byte
}

// openExits registers for the records of all CPUs, which possible lists in the
// format of /sys/devices/system/cpu/possible.
func openExits(possible string) (*taskExits, error) {
	fail := func(err error) (*taskExits, error) {
		return nil, fmt.Errorf("listen for the ends of processes: %w", err)
	}
	list, err := os.ReadFile(possible)
	if err != nil {
		return fail(err)
	}
	t, err := openTasks()
	if err != nil {
		return fail(err)
	}
	family := binary.NativeEndian.Uint16(t.request[4:])
	_ = unix.SetsockoptInt(t.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, exitBuffer) // a smaller one overflows sooner, and says so
	cpus := append([]byte(strings.TrimSpace(string(list))), 0)
	request := genericRequest(make([]byte, 256+len(cpus)), family, unix.TASKSTATS_CMD_GET, unix.TASKSTATS_CMD_ATTR_REGISTER_CPUMASK, cpus)
	binary.NativeEndian.PutUint16(request[6:], unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	if _, err := t.ask(request); err != nil {
		t.close()
		return fail(err)
	}
	if err := unix.SetNonblock(t.fd, true); err != nil {
		t.close()
		return fail(err)
	}
	return &taskExits{fd: t.fd, buf: t.buf}, nil
}

// drain calls each for everything that ended since the last call. It does not
// wait. errOverrun says that the kernel dropped records.
func (x *taskExits) drain(each func(taskExit)) error {
	var overrun error
	for {
		n, err := unix.Read(x.fd, x.buf)
		switch err {
		case nil:
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return overrun
		case unix.ENOBUFS:
			overrun = errOverrun
			continue
		default:
			return &fs.PathError{Op: "read", Path: "taskstats", Err: err}
		}
		for b := x.buf[:n]; ; {
			kind, payload, rest, ok := cutMessage(b)
			if !ok {
				break
			}
			if kind >= unix.NLMSG_MIN_TYPE {
				walkTask(payload, each)
			}
			b = rest
		}
	}
}

func (x *taskExits) close() { _ = unix.Close(x.fd) } // holds nothing
