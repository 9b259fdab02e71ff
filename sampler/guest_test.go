package sampler

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// asGuest makes the test program a guest: a process that stands for a virtual
// machine and uses what it is told to, see [guestMain].
const asGuest = "ODOMETER_TEST_GUEST"

func TestMain(m *testing.M) {
	if os.Getenv(asGuest) != "" {
		guestMain()
		return
	}
	os.Exit(m.Run())
}

// guest is such a process, seen from the test.
type guest struct {
	t       testing.TB
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	cgroups []string
}

var guests atomic.Int64

// startGuest starts a guest. It ends with the test.
func startGuest(t testing.TB, flags uintptr) *guest {
	t.Helper()
	g := &guest{t: t, cmd: exec.Command(os.Args[0])}
	g.cmd.Env = append(os.Environ(), asGuest+"=1", "GOMAXPROCS=2")
	g.cmd.Stderr = os.Stderr
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags, Pdeathsig: syscall.SIGKILL}
	var err error
	if g.in, err = g.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := g.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	g.out = bufio.NewReader(out)
	if err := g.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { g.kill() })
	g.do("ready")
	return g
}

func (g *guest) pid() int { return g.cmd.Process.Pid }

// do has the guest do something and returns its answer: by default the
// processor time that it has used since its start, in nanoseconds.
func (g *guest) do(format string, args ...any) uint64 {
	g.t.Helper()
	n, err := g.try(format, args...)
	if err != nil {
		g.t.Fatal(err)
	}
	return n
}

func (g *guest) try(format string, args ...any) (uint64, error) {
	line := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(g.in, line); err != nil {
		return 0, err
	}
	answer, err := g.out.ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("guest: %s: %w", line, err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(answer), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("guest: %s: %s", line, strings.TrimSpace(answer))
	}
	return n, nil
}

// kill ends the guest as kill -9 does, and waits for it.
func (g *guest) kill() {
	_ = g.cmd.Process.Kill()
	_ = g.cmd.Wait()
	for _, dir := range g.cgroups {
		removeCgroup(dir)
	}
	g.cgroups = nil
}

func removeCgroup(dir string) {
	for range 200 {
		if err := unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
			return
		}
		time.Sleep(5 * time.Millisecond) // until the last process has left it
	}
}

// anyCgroup is the hierarchy that is preferred of those there are.
const anyCgroup = "any"

// enter moves the guest into a new cgroup of a hierarchy, "cpuacct", "unified"
// or [anyCgroup], and returns its directory.
func (g *guest) enter(hierarchy string) string {
	g.t.Helper()
	dir := newCgroup(g.t, hierarchy)
	g.join(dir)
	g.cgroups = append(g.cgroups, dir)
	return dir
}

func (g *guest) join(dir string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(g.pid())), 0); err != nil {
		g.t.Fatal(err)
	}
}

func newCgroup(t testing.TB, hierarchy string) string {
	t.Helper()
	mounts := parseMounts([]byte(word("/proc/self/mountinfo")))
	if hierarchy == anyCgroup {
		hierarchy = "unified"
		if slices.ContainsFunc(mounts, func(m mount) bool { return m.fstype == "cgroup" && hasWord(m.options, "cpuacct") }) {
			hierarchy = "cpuacct"
		}
	}
	for _, m := range mounts {
		if hierarchy == "unified" && m.fstype == "cgroup2" || m.fstype == "cgroup" && hasWord(m.options, hierarchy) {
			dir := filepath.Join(m.point, fmt.Sprintf("odometer-test-%d-%d", os.Getpid(), guests.Add(1)))
			if err := os.Mkdir(dir, 0o755); err != nil {
				missingFor(t, err.Error())
			}
			t.Cleanup(func() { removeCgroup(dir) })
			return dir
		}
	}
	missingFor(t, "there is no hierarchy of cgroups "+hierarchy)
	return ""
}

// missingFor is [missing] for a benchmark too.
func missingFor(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run here, and under CI=true it has to: %s", why)
	}
	t.Skip(why)
}

// guestMain does what is asked on standard input, a line each, and answers a
// number or why it could not.
func guestMain() {
	var g guestState
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		n, err := g.do(strings.Fields(in.Text()))
		if err != nil {
			fmt.Println(err)
			continue
		}
		if n == 0 {
			n = processNanos()
		}
		fmt.Println(n)
	}
}

type guestState struct {
	tap    int
	name   string
	socket int
	held   [][]byte
}

func (g *guestState) do(f []string) (int64, error) {
	number := func(i int) int { n, _ := strconv.Atoi(f[i]); return n }
	duration := func(i int) time.Duration { d, _ := time.ParseDuration(f[i]); return d }
	switch f[0] {
	case "ready":
		return 0, nil
	case "burn": // in this process
		return 0, burnThread(duration(1))
	case "threads": // one after the other, each dies
		for range number(1) {
			done := make(chan error)
			go func() {
				runtime.LockOSThread() // and is never unlocked, so that the thread ends
				done <- burnThread(duration(2))
			}()
			if err := <-done; err != nil {
				return 0, err
			}
		}
		return 0, nil
	case "children": // answers what they used in all
		var sum time.Duration
		for range number(1) {
			c := exec.Command("/proc/self/exe")
			c.Env = []string{asGuest + "=1"}
			c.Stdin = strings.NewReader("burn " + f[2] + "\n")
			if err := c.Run(); err != nil {
				return 0, err
			}
			sum += c.ProcessState.SystemTime() + c.ProcessState.UserTime()
		}
		return sum.Nanoseconds(), nil
	case "tap": // makes one that lives as long as this process has it open
		return 1, g.open(f[1], len(f) > 2)
	case "macvtap": // on one end of a pair whose other end the host sends from
		return 1, g.openMacvtap(f[1])
	case "release":
		return 1, unix.Close(g.tap)
	case "flap": // has the tap told of again and again
		for i := range number(1) {
			if err := alias(g.name, i); err != nil {
				return 0, err
			}
		}
		return 1, nil
	case "send":
		b := frame(number(2))
		for range number(1) {
			if _, err := unix.Write(g.tap, b); err != nil {
				return 0, fmt.Errorf("write to the tap: %w", err)
			}
		}
		return 1, nil
	case "receive": // what the host sends
		b := frame(number(2))
		for range number(1) {
			if _, err := unix.Write(g.socket, b); err != nil {
				return 0, fmt.Errorf("write to the packet socket: %w", err)
			}
			if _, err := unix.Read(g.tap, make([]byte, 4096)); err != nil {
				return 0, fmt.Errorf("read from the tap: %w", err)
			}
		}
		return 1, nil
	case "write": // past the page cache
		return 1, writeDirect(f[1], number(2))
	case "touch":
		b, err := unix.Mmap(-1, 0, number(1), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return 0, err
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		g.held = append(g.held, b)
		return 1, nil
	}
	return 0, fmt.Errorf("%q is nothing to do", f)
}

func burnThread(d time.Duration) error {
	runtime.LockOSThread()
	var ts unix.Timespec
	for first := true; ; first = false {
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
			return err
		}
		if first {
			d += time.Duration(ts.Nano())
		}
		if ts.Nano() >= d.Nanoseconds() {
			return nil
		}
	}
}

// open makes a tap, raises it, and opens a packet socket on the host's side.
func (g *guestState) open(name string, persistent bool) error {
	if err := silence(); err != nil {
		return err
	}
	fd, err := openTap(name, persistent)
	if err != nil {
		return err
	}
	g.tap, g.name = fd, name
	if err := raise(name); err != nil {
		return err
	}
	g.socket, err = packetSocket(name)
	return err
}

// alias changes what an interface is called beside its name.
func alias(name string, i int) error {
	link, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(link.Index))
	return linkRequest(unix.RTM_SETLINK, 0, append(b, attribute(unix.IFLA_IFALIAS, fmt.Append(nil, "turn ", i))...))
}

// openMacvtap makes a macvtap, and a packet socket that reaches it.
func (g *guestState) openMacvtap(name string) error {
	here, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(here)
	if err := errors.Join(silence(), addVeth("lower0", "far0", here), raise("lower0"), raise("far0")); err != nil {
		return err
	}
	lower, err := net.InterfaceByName("lower0")
	if err != nil {
		return err
	}
	b := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	b = append(b, attribute(unix.IFLA_LINK, binary.NativeEndian.AppendUint32(nil, uint32(lower.Index)))...)
	b = append(b, attribute(unix.IFLA_LINKINFO, attribute(unix.IFLA_INFO_KIND, []byte("macvtap")))...)
	if err := errors.Join(linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, b), raise(name)); err != nil {
		return err
	}
	// Its device is in the sysfs of this namespace.
	dir, err := os.MkdirTemp("", "odometer-macvtap-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("sysfs", dir, "sysfs", 0, "")); err != nil {
		return err
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	tap, err := net.InterfaceByName(name)
	if err != nil {
		return err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(word(fmt.Sprintf("%s/class/net/%s/tap%d/dev", dir, name, tap.Index)), "%d:%d", &major, &minor); err != nil {
		return err
	}
	node := filepath.Join(os.TempDir(), fmt.Sprintf("odometer-macvtap-%d", os.Getpid()))
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	defer os.Remove(node)
	if g.tap, err = unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
		return err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(g.tap, unix.TUNSETIFF, ifr); err != nil {
		return err
	}
	g.socket, err = packetSocket("far0")
	return err
}

func openTap(name string, persistent bool) (int, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		return 0, fmt.Errorf("make tap %s: %w", name, err)
	}
	if persistent {
		if err := unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1); err != nil {
			return 0, fmt.Errorf("keep tap %s: %w", name, err)
		}
	}
	return fd, nil
}

func writeDirect(path string, n int) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_DIRECT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	const block = 1 << 20
	raw := make([]byte, 2*block)
	skip := block - int(uintptr(unsafe.Pointer(&raw[0]))%block)
	for b := raw[skip : skip+block]; n > 0; n -= block {
		if _, err := unix.Write(fd, b); err != nil {
			return err
		}
	}
	return nil
}
