package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// pace says how often and how long.
type pace struct {
	// ask is how often a hypervisor is asked what its machine is made of and
	// whether it runs. Most of what is plugged in or resized no event tells.
	ask time.Duration
	// wholly is how often QEMU is asked for more than its devices and drives.
	wholly time.Duration
	// patience is how long it may take to answer. It does within milliseconds,
	// unless its main loop stands still.
	patience time.Duration
	// held is how long another client may hold the monitor before that is a
	// problem.
	held time.Duration
	// polite is how long a monitor that somebody else came to is only visited.
	polite time.Duration
}

var usualPace = pace{ask: 30 * time.Second, wholly: 5 * time.Minute, patience: 3 * time.Second, held: 30 * time.Second, polite: time.Hour}

const (
	// lineEvery is how often it is looked whether somebody waits for a monitor
	// that is held here, which is how long he may wait. A look costs a microsecond
	// of processor time for each unix socket of the host.
	lineEvery = time.Second
	// startingFor is how often a hypervisor that starts up is tried, which makes
	// its socket when it has read its command line.
	startingFor = 200 * time.Millisecond
)

// control asks one hypervisor over its control socket what has become of its
// machine since it was started, again and again, in a goroutine of its own: one
// that does not answer costs what it would have said, and what it said before
// stands.
type control struct {
	asks    string // what is asked, for people: "its monitor /run/web.sock"
	sockets []string
	view    view // of its process, without an open root
	pid     int
	began   int64 // of the process, boot time in microseconds
	pace    pace
	clock   Clock
	table   *sockets
	told    chan<- odometer.Change
	ask     func(context.Context, *control) (again time.Duration)

	tried chan struct{}      // closed when it was asked once, whatever came of it
	once  sync.Once          // does that
	fresh atomic.Bool        // something is different since it was looked at
	end   context.CancelFunc // ends the goroutine
	yield chan struct{}      // somebody waits for the monitor that is held

	// The goroutine's own.
	opening   chan struct{} // closed when the open in progress is over, nil for none
	retry     backoff
	heldSince time.Time // by another client
	polite    time.Time // until when it is only visited
	wholly    time.Time // when QEMU was asked for everything

	mu       sync.Mutex
	instance odometer.InstanceID // "" before it was listed
	state    odometer.State
	turns    int   // counts the changes of state that were told
	now      *live // what it said last, nil before that
	problem  string
	holding  string          // the socket that is held here, "" for none
	others   bool            // another client held it when it was last looked for
	closed   <-chan struct{} // when all that came over it was read
	because  saying          // why its machine is about to end
}

// begin starts to ask a machine, which ends with its stop, or with ctx.
func (c *control) begin(ctx context.Context, wg *sync.WaitGroup) {
	ctx, c.end = context.WithCancel(ctx)
	c.state = odometer.Running
	c.tried, c.yield = make(chan struct{}), make(chan struct{}, 1)
	for _, s := range c.sockets {
		c.table.add(s)
	}
	wg.Go(func() {
		defer func() {
			for _, s := range c.sockets {
				c.table.remove(s)
			}
		}()
		timer := time.NewTimer(0)
		defer timer.Stop()
		defer c.asked()
		for {
			select {
			case <-ctx.Done():
				return
			case <-timer.C:
			}
			again := c.ask(ctx, c)
			c.asked()
			timer.Reset(again)
		}
	})
}

// asked notes that it was asked once.
func (c *control) asked() { c.once.Do(func() { close(c.tried) }) }

// stop ends the asking, and does not wait for it.
func (c *control) stop() { c.end() }

// wait waits at most until the deadline for the first answer, and reports
// whether it was asked.
func (c *control) wait(deadline time.Time) bool {
	select {
	case <-c.tried:
		return true
	default:
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-c.tried:
		return true
	case <-timer.C:
		return false
	}
}

// said returns what is known.
func (c *control) said() (now *live, state odometer.State, problem string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.state, c.problem
}

// left reports whether the monitor is left to another client.
func (c *control) left() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.others
}

// answered takes in what the hypervisor said. turns was read before it was asked
// for the state, of which an event may have told something newer meanwhile.
func (c *control) answered(now *live, state odometer.State, turns int) {
	c.retry, c.heldSince = backoff{}, time.Time{}
	c.mu.Lock()
	c.others = false
	different := c.problem != ""
	if c.now == nil || !reflect.DeepEqual(c.now, now) {
		c.now, different = now, true
	}
	c.problem = ""
	if c.turns == turns && c.state != state {
		c.state = state
		different = true
	}
	c.mu.Unlock()
	if different {
		c.look()
	}
}

// look has the machine looked at.
func (c *control) look() {
	c.fresh.Store(true)
	c.tell("", "")
}

// tell tells a change, or with kind "" that there may be one.
func (c *control) tell(kind odometer.ChangeKind, detail string) {
	at := c.clock.Now()
	c.mu.Lock()
	id := c.instance
	c.mu.Unlock()
	if id == "" {
		return // the list in which it is first has it
	}
	select {
	case c.told <- odometer.Change{Instance: id, Kind: kind, At: at, Detail: detail}:
	default: // nobody listens: the next list shows it
	}
}

// turned notes an event by which the machine is in another state.
func (c *control) turned(state odometer.State, what saying) {
	c.mu.Lock()
	c.turns++
	different := c.state != state
	c.state = state
	c.mu.Unlock()
	if different {
		c.fresh.Store(true)
		c.tell(what.kind, what.detail)
	}
}

// failed notes why it was not answered and returns when to try again.
func (c *control) failed(err error) time.Duration {
	if c.young() && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)) {
		return startingFor
	}
	c.name(fmt.Sprintf("%s: %v: what changes while it runs is not seen", c.asks, err))
	c.retry.failed()
	return c.retry.wait
}

// young reports whether the process may still be starting up.
func (c *control) young() bool { return c.clock.Now().Boot < c.began+youngFor }

// name names a problem, "" that there is none.
func (c *control) name(problem string) {
	c.mu.Lock()
	different := c.problem != problem
	c.problem = problem
	c.mu.Unlock()
	if different {
		c.look()
	}
}

// called tells it under which identity the machine is listed.
func (c *control) called(id odometer.InstanceID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.instance = id
}

// ended completes how a machine ended whose process has, by what the hypervisor
// said just before.
func (c *control) ended(change *odometer.Change) {
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed != nil {
		select {
		case <-closed: // all that it said was read
		case <-time.After(lastWords):
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.because == (saying{}) || change.Kind == odometer.ChangeCrashed {
		return
	}
	change.Kind, change.Detail = c.because.kind, c.because.detail+"; "+change.Detail
}

// lastWords is more than it takes to read what a process wrote before it ended.
const lastWords = 100 * time.Millisecond

var (
	errHeld  = errors.New("another client holds it")
	errLine  = errors.New("it takes no connection")
	errOther = errors.New("its socket is another process's")
)

// free returns the first of the sockets that nobody is connected to, by a
// table that is at most so old. Where there is none, err is [errLine] if it
// takes no connection and [errHeld] otherwise.
func (c *control) free(age time.Duration) (socket string, err error) {
	for _, s := range c.sockets {
		served, waiting, shared, e := c.table.of(s, age)
		if e != nil {
			return "", e
		}
		if shared { // others are bound to that name too, in another directory or root
			served, waiting = c.own(served), 0
		}
		switch {
		case len(served) == 0 && waiting == 0:
			return s, nil
		case len(served) == 0:
			err = errLine // it hangs, or is about to take him
		case err == nil:
			err = errHeld
		}
	}
	return "", err
}

// own picks the connections that the process has open.
func (c *control) own(inodes []uint64) []uint64 {
	if len(inodes) == 0 {
		return nil
	}
	dir, err := openProcess(unix.AT_FDCWD, path.Join("/proc", strconv.Itoa(c.pid)))
	if err != nil {
		return nil
	}
	defer dir.close()
	files, err := dir.names("fd")
	if err != nil {
		return inodes // better to leave alone what is free than the reverse
	}
	open := map[string]bool{}
	for _, f := range files {
		if to, err := dir.link("fd/" + f); err == nil {
			open[to] = true
		}
	}
	return slices.DeleteFunc(inodes, func(n uint64) bool { return !open["socket:["+strconv.FormatUint(n, 10)+"]"] })
}

// dial connects to a socket of the process as that sees it, and makes sure that
// it is the process that listens there.
func (c *control) dial(ctx context.Context, socket string) (net.Conn, error) {
	fd, err := c.open(ctx, socket)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", "/proc/self/fd/"+strconv.Itoa(fd)) // its path may be too long for an address
	switch {
	case errors.Is(err, syscall.EAGAIN):
		return nil, errLine
	case err != nil:
		for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
			err = inner
		}
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	pid, err := listener(conn)
	if err == nil && pid != c.pid {
		err = errOther
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect to %s: %w", socket, err)
	}
	return conn, nil
}

// listener returns the process that listened at the other end.
func listener(conn net.Conn) (pid int, err error) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) { cred, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) })
	if err = errors.Join(err, failed); err != nil {
		return 0, err
	}
	return int(cred.Pid), nil
}

// open opens a socket of the process, in a goroutine of its own: a filesystem
// may hang.
func (c *control) open(ctx context.Context, socket string) (int, error) {
	if c.opening != nil {
		select {
		case <-c.opening:
			c.opening = nil
		default:
			return -1, fmt.Errorf("the filesystem of %s does not answer", socket)
		}
	}
	type opened struct {
		fd  int
		err error
	}
	answer, over := make(chan opened), make(chan struct{})
	c.opening = over
	go func() {
		defer close(over)
		fd, err := c.view.socket(socket)
		select {
		case answer <- opened{fd, err}:
		case <-ctx.Done():
			if err == nil {
				_ = unix.Close(fd)
			}
		}
	}()
	select {
	case o := <-answer:
		c.opening = nil
		return o.fd, o.err
	case <-ctx.Done():
		return -1, fmt.Errorf("the filesystem of %s does not answer", socket)
	}
}

// socket opens a socket in the view without connecting to it.
func (v view) socket(name string) (int, error) {
	dir, err := openProcess(unix.AT_FDCWD, path.Join("/proc", strconv.Itoa(v.pid)))
	if err != nil {
		return -1, err
	}
	defer dir.close()
	if v, err = v.opened(dir); err != nil {
		return -1, err
	}
	defer unix.Close(v.root)
	fd, err := v.open(resolve(v, name))
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", name, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFSOCK {
		_ = unix.Close(fd)
		return -1, errors.Join(err, fmt.Errorf("%s is no socket", name))
	}
	return fd, nil
}

// hold notes that a socket is held here, and until when what comes over it is
// read; "" that none is.
func (c *control) hold(socket string, closed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holding, c.closed = socket, closed
}

// mind looks whether somebody waits for the monitor that is held here.
func (c *control) mind() {
	c.mu.Lock()
	socket := c.holding
	c.mu.Unlock()
	if socket == "" {
		return
	}
	if _, waiting, _, err := c.table.of(socket, lineEvery/2); err == nil && waiting > 0 {
		select {
		case c.yield <- struct{}{}:
		default: // it was told
		}
	}
}
