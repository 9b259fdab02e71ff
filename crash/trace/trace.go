// Package trace runs a program and stops it at each system call that changes
// something below one directory: to count those calls, to record them with
// their data, or to kill the program at exactly one of them.
//
// The calls of all threads are numbered in one order, and only one of them is
// under way at any time: the next is let in when the one before has returned.
// What is recorded is therefore the order in which the calls took effect, and
// [Verdict] Kill at call n leaves the directory as calls 1 to n-1 (before it)
// or 1 to n (after it) made it, never anything between.
//
// A seccomp filter picks out the calls (write, pwrite64, writev, pwritev,
// fsync, fdatasync, sync_file_range, rename, unlink, rmdir, link, symlink,
// mkdir, truncate, fallocate, copy_file_range, open with O_CREAT or O_TRUNC, in
// all their forms), so that everything else runs at full speed. Changes to
// memory that is mapped from a file are no system calls and are not seen.
//
// The filter is installed by the program that imports this package: Start runs
// it again under the name [shim], and package trace's init then becomes the
// program to be traced. It works on Linux 5.3 and later, without privileges.
package trace

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Verdict is what is to become of a program at a call.
type Verdict int

const (
	Go Verdict = iota
	Kill
)

// Options say what to trace. The functions are called by the tracer, one at a
// time, while the call's thread is stopped; they must not wait for the program.
type Options struct {
	Dir string // only calls that concern it or what lies below it count
	// Before is called with each call before it takes effect, After when it
	// has returned. May be nil.
	Before func(*Call) Verdict
	After  func(*Call) Verdict
	// Data makes calls carry what they write and where; without it they carry
	// their names and paths.
	Data bool
	// Sent is called with what is about to be written to a socket, with the
	// number of calls that have returned by then. May be nil.
	Sent   func(calls int, data []byte)
	Stdout io.Writer // of the program; nil for nowhere
	Stderr io.Writer
}

// Process is a program that is traced.
type Process struct {
	PID     int
	options Options
	dir     string
	done    chan struct{}
	count   atomic.Int64

	mu     sync.Mutex // guards ended and the process's being there to be signalled
	ended  bool
	status syscall.WaitStatus
	err    error

	// Of the tracer's thread.
	entered int   // calls
	busy    int   // the thread whose call is under way, 0 for none
	call    *Call // that call
	waiting []int // threads that are stopped before theirs
	killed  bool  // by a verdict
	outputs sync.WaitGroup
}

// shim is the name by which this program knows that it is to install the
// filter and become another one.
const shim = "odometer-traced"

func init() {
	if len(os.Args) < 2 || os.Args[0] != shim {
		return
	}
	err := installFilter()
	if err == nil {
		err = syscall.Exec(os.Args[1], os.Args[1:], os.Environ())
	}
	fmt.Fprintf(os.Stderr, "trace %s: %v\n", os.Args[1], err)
	os.Exit(127)
}

// Start runs a program under trace. It ends with the process that called
// Start, if not before.
func Start(o Options, program string, args ...string) (*Process, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(o.Dir))
	if err != nil {
		return nil, fmt.Errorf("trace: %w", err)
	}
	p := &Process{options: o, dir: filepath.Join(dir, filepath.Base(o.Dir)), done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // only the thread that began to trace may go on with it
		defer runtime.UnlockOSThread()
		if err := p.start(path, args); err != nil {
			started <- fmt.Errorf("trace %s: %w", program, err)
			return
		}
		started <- nil
		status, err := p.loop()
		p.outputs.Wait()
		p.mu.Lock()
		p.ended, p.status, p.err = true, status, err
		p.mu.Unlock()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// start forks the shim and waits until it is there.
func (p *Process) start(path string, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	files := []*os.File{null, null, null}
	var ours []*os.File
	for i, w := range []io.Writer{p.options.Stdout, p.options.Stderr} {
		if w == nil {
			continue
		}
		r, pw, err := os.Pipe()
		if err != nil {
			return err
		}
		files[1+i] = pw
		ours = append(ours, pw)
		p.outputs.Go(func() { io.Copy(w, r); r.Close() })
	}
	proc, err := os.StartProcess(self, append([]string{shim, path}, args...), &os.ProcAttr{
		Files: files, Sys: &syscall.SysProcAttr{Ptrace: true, Pdeathsig: syscall.SIGKILL},
	})
	for _, f := range ours {
		f.Close()
	}
	if err != nil {
		return err
	}
	p.PID = proc.Pid
	proc.Release() // it is waited for by the tracer
	var status syscall.WaitStatus
	if _, err := wait(p.PID, &status); err != nil {
		return err
	}
	if !status.Stopped() {
		return fmt.Errorf("the process did not stop at its start: %#x", status)
	}
	const follow = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(p.PID, follow); err != nil {
		return fmt.Errorf("set options: %w", err)
	}
	return unix.PtraceCont(p.PID, 0)
}

// launches are done by a thread of their own, which never ends.
var launches = sync.OnceValue(func() chan<- func() {
	c := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range c {
			f()
		}
	}()
	return c
})

// Launch starts a program that is not traced. Who traces must start every other
// program with it: a tracer waits for whatever was started from its thread, and
// Pdeathsig means the death of a thread.
func Launch(cmd *exec.Cmd) error {
	failed := make(chan error)
	launches() <- func() { failed <- cmd.Start() }
	return <-failed
}

// Done is closed when the program has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Calls returns how many calls have begun.
func (p *Process) Calls() int { return int(p.count.Load()) }

// Signal sends the program a signal, unless it has ended.
func (p *Process) Signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		syscall.Kill(p.PID, s) // an error means that it is about to be found ended
	}
}

// Kill ends the program at once and waits until it is gone.
func (p *Process) Kill() {
	p.Signal(syscall.SIGKILL)
	<-p.done
}

// Wait returns when the program has ended: its status, and an error when the
// trace failed, on which the program was killed.
func (p *Process) Wait() (syscall.WaitStatus, error) {
	<-p.done
	return p.status, p.err
}

// wait waits for one thread that this one traces, or for any when tid is -1.
func wait(tid int, status *syscall.WaitStatus) (int, error) {
	for {
		got, err := syscall.Wait4(tid, status, unix.WALL|unix.WNOTHREAD, nil)
		if !errors.Is(err, syscall.EINTR) {
			return got, err
		}
	}
}

// loop handles stops until the program has ended.
func (p *Process) loop() (syscall.WaitStatus, error) {
	var failed error
	for {
		var status syscall.WaitStatus
		tid, err := wait(-1, &status)
		if err != nil {
			return status, errors.Join(failed, fmt.Errorf("trace: wait: %w", err))
		}
		if status.Exited() || status.Signaled() {
			if tid == p.PID {
				return status, failed
			}
			p.gone(tid)
			continue
		}
		if err := p.stopped(tid, status); err != nil && !errors.Is(err, syscall.ESRCH) && failed == nil {
			// Errors of threads that were killed meanwhile are none (ESRCH).
			failed = fmt.Errorf("trace: %w", err)
			p.kill()
		}
	}
}

// gone forgets a thread that has ended.
func (p *Process) gone(tid int) {
	for i, w := range p.waiting {
		if w == tid {
			p.waiting = append(p.waiting[:i], p.waiting[i+1:]...)
			break
		}
	}
	if p.busy == tid {
		p.busy = 0
	}
}

func (p *Process) kill() {
	p.killed = true
	syscall.Kill(p.PID, syscall.SIGKILL)
}

// stopped handles one stop of one thread.
func (p *Process) stopped(tid int, status syscall.WaitStatus) error {
	switch sig := status.StopSignal(); {
	case p.killed:
		return unix.PtraceCont(tid, 0) // what is killed cannot be stopped, and what was stopped before goes on to its end
	case sig == syscall.SIGTRAP|0x80:
		return p.returned(tid)
	case sig == syscall.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
		return p.enters(tid)
	case sig == syscall.SIGTRAP && status.TrapCause() > 0:
		return unix.PtraceCont(tid, 0) // a new thread, or exec
	case sig == syscall.SIGSTOP || sig == syscall.SIGTRAP:
		return unix.PtraceCont(tid, 0) // how a new thread begins
	case tid == p.busy:
		return unix.PtraceSyscall(tid, int(sig))
	default:
		return unix.PtraceCont(tid, int(sig))
	}
}

// enters handles a thread that is stopped before a call.
func (p *Process) enters(tid int) error {
	c, err := p.describe(tid, false)
	if err != nil {
		return err
	}
	if c == nil {
		return unix.PtraceCont(tid, 0)
	}
	if p.busy != 0 {
		p.waiting = append(p.waiting, tid)
		return nil
	}
	return p.begin(tid)
}

// begin lets a call take effect.
func (p *Process) begin(tid int) error {
	c, err := p.describe(tid, true)
	if err != nil {
		return err
	}
	if c == nil { // its descriptor was closed meanwhile
		return unix.PtraceCont(tid, 0)
	}
	p.entered++
	p.count.Store(int64(p.entered))
	c.N = p.entered
	if p.options.Before != nil && p.options.Before(c) == Kill {
		p.kill()
		return nil
	}
	p.busy, p.call = tid, c
	return unix.PtraceSyscall(tid, 0)
}

// returned handles the return of the call under way and lets in the next.
func (p *Process) returned(tid int) error {
	if tid != p.busy {
		return unix.PtraceCont(tid, 0)
	}
	info, err := syscallInfo(tid)
	if err != nil {
		return err
	}
	c := p.call
	c.Result = int64(info.data[0])
	if c.Result < 0 && c.Result > -4096 {
		c.Err = syscall.Errno(-c.Result)
	}
	p.complete(c)
	if p.options.After != nil && p.options.After(c) == Kill {
		p.kill()
		return nil
	}
	p.busy, p.call = 0, nil
	if err := unix.PtraceCont(tid, 0); err != nil {
		return err
	}
	for p.busy == 0 && len(p.waiting) > 0 {
		next := p.waiting[0]
		p.waiting = p.waiting[1:]
		if err := p.begin(next); err != nil {
			return err
		}
		if p.killed {
			return nil
		}
	}
	return nil
}

// syscallStop is the kernel's struct ptrace_syscall_info.
type syscallStop struct {
	op    uint8
	_     [3]uint8
	arch  uint32
	ip    uint64
	sp    uint64
	data  [7]uint64 // number and arguments, or what the call returned
	extra uint64
}

func syscallInfo(tid int) (syscallStop, error) {
	var s syscallStop
	_, _, errno := syscall.RawSyscall6(unix.SYS_PTRACE, unix.PTRACE_GET_SYSCALL_INFO, uintptr(tid), unsafe.Sizeof(s), uintptr(unsafe.Pointer(&s)), 0, 0)
	if errno != 0 {
		return s, fmt.Errorf("look at a call: %w", errno)
	}
	return s, nil
}

// below returns a path relative to the directory, "." for itself, and whether
// it is part of it.
func (p *Process) below(path string) (string, bool) {
	path = strings.TrimSuffix(path, " (deleted)")
	if path == p.dir {
		return ".", true
	}
	return strings.CutPrefix(path, p.dir+"/")
}
