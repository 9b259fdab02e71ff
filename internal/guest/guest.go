// Package guest runs real virtual machines for tests: QEMU without KVM, with
// Debian's cloud kernel and a few commands of busybox, that burns processor
// time, writes to its disk, sends to its peer and touches memory as it is told
// to, and says what its own counters read. A machine is up in about 5 s and
// occupies about 200 MB.
//
//	g := guest.Start(t, guest.Options{
//		Disks: []guest.Disk{{Path: guest.Image(t, "qcow2", 1<<30)}},
//		NICs:  []guest.NIC{{Link: "tap7"}},
//	})
//	g.Write(64 << 20)
//	g.Send(g.Peer(0), 20<<20)
//	g.Kill()
//
// [StartLibvirtd] runs a libvirtd of its own, and [Libvirtd.Start] the same
// machine under it.
//
// What scripts/prepare installs has to be there, and the test has to be root
// for taps and namespaces: [Need] skips it otherwise, and fails it under
// CI=true. Everything that is started or made here is gone when the test ends,
// also when its process is killed.
//
// Methods that take long or can fail belong to the test's own goroutine: they
// end the test where something goes wrong.
package guest

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer/internal/qmp"
	"golang.org/x/sys/unix"
)

const (
	bootPatience = 2 * time.Minute // boots in 5 s, unless others have the processors
	runPatience  = 2 * time.Minute // for a command in the guest that does nothing long
	endPatience  = 20 * time.Second
)

// Options say what a guest is made of. The zero value is a machine of one
// processor and 128 MiB, without disk and network.
type Options struct {
	Name   string // in lower case letters, digits and "-"; "" for one that nobody else has
	UUID   string // "" for a random one
	VCPUs  int
	Memory int64 // bytes, whole MiB; a test binary in Files needs twice its size more
	Disks  []Disk
	NICs   []NIC
	// Netns is the network namespace in which QEMU runs and where its NICs are
	// made, "" for the test's own. See [Netns].
	Netns string
	// Cgroups are directories of control groups, which exist, that QEMU is put
	// into before it runs. Libvirt has its own.
	Cgroups []string
	// Slots is how many devices can be plugged in later, see [Guest.PlugDisk].
	Slots int
	// Files are executables of the host by their path in the guest.
	Files map[string]string
	// Modules are kernel modules, beside those of its devices.
	Modules []string
	// PID is the process id that QEMU gets, which nobody may have; 0 for any.
	// Other processes may take it meanwhile, again and again: then the test skips.
	PID int
	// Paused starts the machine without letting its processors run, until
	// QMP says "cont"; [Guest.Ready] then waits for it.
	Paused bool
	// Args go to QEMU as they are; libvirt passes them on.
	Args []string
}

// Disk is a virtio-blk disk of a guest: vda, vdb and so on in their order.
type Disk struct {
	Path     string // image or block device; under libvirt also "nbd:" and the socket of a server
	Format   string // "" for what the name ends in, raw for anything else
	ReadOnly bool
}

func (d Disk) format() string {
	if d.Format == "" && filepath.Ext(d.Path) == ".qcow2" {
		return "qcow2"
	}
	if d.Format == "" {
		return "raw"
	}
	return d.Format
}

// driver is what QEMU opens the disk's path with.
func (d Disk) driver() string {
	if st, err := os.Stat(d.Path); err == nil && st.Mode()&os.ModeDevice != 0 {
		return "host_device"
	}
	return "file"
}

// Guest is a running machine.
type Guest struct {
	Name string
	UUID string

	t       testing.TB
	opt     Options
	parts   parts
	undo    *undo
	dir     string
	console *console
	nics    []*link
	slots   int // taken of Options.Slots
	pid     int
	done    chan struct{} // closed when the process is gone
	used    time.Duration // set before that, but under libvirt
	libvirt *Libvirtd     // nil for a QEMU of the test's own
	qmp     *qmp.Client
}

// Need skips the test where a guest cannot run, which under CI=true is a
// failure: there everything is provided.
func Need(t testing.TB) {
	t.Helper()
	need(t, "qemu-system-x86_64", "qemu-img", "ip")
}

func need(t testing.TB, commands ...string) parts {
	t.Helper()
	var why []error
	if os.Geteuid() != 0 {
		why = append(why, errors.New("not root"))
	}
	for _, c := range commands {
		if _, err := exec.LookPath(c); err != nil {
			why = append(why, err)
		}
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		why = append(why, err)
	}
	dir, err := partsDir()
	var p parts
	if err == nil {
		p, err = findParts(dir)
	}
	if why = append(why, err); errors.Join(why...) == nil {
		return p
	}
	said := fmt.Sprintf("no guest can run here; scripts/prepare installs what is missing:\n%v", errors.Join(why...))
	if os.Getenv("CI") == "true" {
		t.Fatalf("under CI=true this is a failure: %s", said)
	}
	t.Skip(said)
	return p
}

// Start boots a machine and returns when it takes commands, or is launched
// where Options say Paused. It ends with the test.
func Start(t testing.TB, o Options) *Guest {
	t.Helper()
	g := Launch(t, o)
	if !o.Paused {
		g.Ready()
	}
	return g
}

// Launch is [Start] without the wait: several machines boot at once.
// [Guest.Ready] has to come before any command.
func Launch(t testing.TB, o Options) *Guest {
	t.Helper()
	g := prepare(t, o)
	for _, n := range g.nics {
		n.make()
		n.setUp()
	}
	l := g.listen()
	argv := append([]string{"qemu-system-x86_64"}, g.args()...)
	if o.Netns != "" {
		argv = append([]string{"ip", "netns", "exec", o.Netns}, argv...)
	}
	for _, c := range o.Cgroups {
		argv = append([]string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, c}, argv...)
	}
	said, err := os.Create(filepath.Join(g.dir, "qemu.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	command := func(argv ...string) *exec.Cmd {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = said, said
		for _, n := range g.nics {
			if n.queue != nil {
				cmd.ExtraFiles = append(cmd.ExtraFiles, n.queue)
			}
		}
		return cmd
	}
	var cmd *exec.Cmd
	if o.PID != 0 {
		cmd = startAs(t, o.PID, func() *exec.Cmd {
			return command(append([]string{"sh", "-c", `read -r _ && exec "$@"`, "sh"}, argv...)...)
		})
	} else {
		cmd = command(argv...)
		if err := cmd.Start(); err != nil {
			t.Fatalf("start QEMU: %v", err)
		}
	}
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	g.pid = cmd.Process.Pid
	g.undo.kill(strconv.Itoa(g.pid), g.UUID)
	go func() {
		cmd.Wait()
		g.used = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		close(g.done)
	}()
	g.accept(l)
	g.connect()
	return g
}

// startAs starts a command under a process id. The command, made anew for each
// attempt, waits for a line of its standard input.
func startAs(t testing.TB, pid int, command func() *exec.Cmd) *exec.Cmd {
	t.Helper()
	const last = "/proc/sys/kernel/ns_last_pid"
	HoldPIDs(t, true)
	for range 200 {
		cmd := command()
		in, err := cmd.StdinPipe()
		if err == nil {
			err = os.WriteFile(last, []byte(strconv.Itoa(pid-1)), 0)
		}
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			t.Fatalf("start process %d: %v", pid, err)
		}
		if cmd.Process.Pid == pid {
			if _, err := io.WriteString(in, "go\n"); err != nil {
				t.Fatal(err)
			}
			return cmd
		}
		in.Close() // which ends it
		cmd.Wait()
	}
	t.Skipf("process id %d is taken by others each time", pid)
	return nil
}

// connect takes the test's own connection to QEMU, which opens its sockets
// after the control line and answers when it is whole.
func (g *Guest) connect() {
	g.t.Helper()
	for end := time.Now().Add(bootPatience); ; time.Sleep(time.Millisecond) {
		c, err := qmp.Dial(g.t.Context(), g.path("qmp"), nil)
		if err == nil {
			g.qmp = c
			g.t.Cleanup(func() { c.Close() })
			return
		}
		if early := errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED); !early || time.Now().After(end) || g.gone(0) {
			g.t.Fatalf("QEMU did not start: %v\n%s", err, g.logs())
		}
	}
}

// prepare makes what a machine needs before it starts, but for its NICs.
func prepare(t testing.TB, o Options) *Guest {
	t.Helper()
	p := need(t, "qemu-system-x86_64", "qemu-img", "ip")
	if o.Name == "" {
		o.Name = "guest-" + strings.ToLower(rand.Text()[:8])
	}
	if o.UUID == "" {
		o.UUID = randomUUID()
	}
	if o.VCPUs == 0 {
		o.VCPUs = 1
	}
	if o.Memory == 0 {
		o.Memory = 128 << 20
	}
	g := &Guest{Name: o.Name, UUID: o.UUID, t: t, opt: o, parts: p, done: make(chan struct{})}
	g.undo = newUndo(t)
	g.dir = g.undo.tempDir()
	image, err := initramfs(p, o)
	if err == nil {
		err = os.WriteFile(g.path("initramfs"), image, 0o600)
	}
	if err != nil {
		t.Fatalf("build the initramfs: %v", err)
	}
	for _, n := range o.NICs {
		g.nics = append(g.nics, newLink(t, g.undo, o.Netns, n))
	}
	t.Cleanup(func() {
		g.Kill()
		if t.Failed() {
			t.Log(g.logs())
		}
	})
	return g
}

func (g *Guest) path(name string) string { return filepath.Join(g.dir, name) }

func randomUUID() string {
	var b [16]byte
	rand.Read(b[:])
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // version 4, RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// listen waits for QEMU to connect the machine's control line.
func (g *Guest) listen() *net.UnixListener {
	g.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: g.path("control"), Net: "unix"})
	if err != nil {
		g.t.Fatal(err)
	}
	return l
}

func (g *Guest) accept(l *net.UnixListener) {
	g.t.Helper()
	defer l.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-g.done:
			l.SetDeadline(time.Unix(1, 0))
		case <-stop:
		}
	}()
	l.SetDeadline(time.Now().Add(bootPatience))
	conn, err := l.AcceptUnix()
	if err != nil {
		g.t.Fatalf("QEMU did not start: %v\n%s", err, g.logs())
	}
	g.t.Cleanup(func() { conn.Close() })
	g.console = newConsole(conn)
}

// Ready waits until the machine takes commands, and gives it its addresses.
func (g *Guest) Ready() {
	g.t.Helper()
	if err := g.console.ready(time.Now().Add(bootPatience)); err != nil {
		g.t.Fatalf("guest %s did not boot: %v\n%s", g.Name, err, g.logs())
	}
	for i, n := range g.nics {
		if !n.unplugged {
			g.configure(i)
		}
	}
}

// configure gives the guest its address on a NIC.
func (g *Guest) configure(nic int) {
	g.t.Helper()
	g.Run(fmt.Sprintf("ifconfig eth%d %s netmask 255.255.255.252 up", nic, g.nics[nic].guest))
}

// logs returns what QEMU and the machine's kernel said.
func (g *Guest) logs() string {
	var b strings.Builder
	for _, name := range []string{"qemu.log", "console.log"} {
		said, _ := os.ReadFile(g.path(name)) // not there when it came to nothing
		fmt.Fprintf(&b, "%s of guest %s:\n%s\n", name, g.Name, said)
	}
	return b.String()
}

// PID is the process of QEMU.
func (g *Guest) PID() int { return g.pid }

// Monitor is the path of a QMP socket that nobody is connected to: for what is
// tested. Under libvirt there is none.
func (g *Guest) Monitor() string {
	if g.libvirt != nil {
		return ""
	}
	return g.path("monitor")
}

// QMP is the test's own connection to QEMU. Under libvirt there is none.
func (g *Guest) QMP() *qmp.Client {
	g.t.Helper()
	if g.libvirt != nil {
		g.t.Fatal("libvirt holds the monitor of this guest")
	}
	return g.qmp
}

// Kill ends the machine as kill -9 does and waits until its process is gone.
// It may have ended before.
func (g *Guest) Kill() {
	g.t.Helper()
	if g.pid == 0 || g.gone(0) {
		return
	}
	g.Signal(syscall.SIGKILL)
	if !g.gone(endPatience) {
		g.t.Errorf("QEMU is still there %v after SIGKILL", endPatience)
	}
}

// Signal sends a signal to QEMU: SIGSTOP makes it hang.
func (g *Guest) Signal(s syscall.Signal) {
	g.t.Helper()
	if err := unix.Kill(g.pid, s); err != nil {
		g.t.Errorf("send %v to QEMU: %v", s, err)
	}
}

// gone waits at most so long for the end of the process.
func (g *Guest) gone(within time.Duration) bool {
	select {
	case <-g.done:
		return true
	default:
	}
	select {
	case <-g.done:
		return true
	case <-time.After(within):
		return false
	}
}

// Used is the processor time that QEMU has used from its start to its end, for
// which it waits: as the kernel tells who started it, to the microsecond, dead
// threads and helpers that QEMU waited for among it. Libvirt's QEMU has another
// parent.
func (g *Guest) Used() time.Duration {
	g.t.Helper()
	if g.libvirt != nil || !g.gone(endPatience) {
		g.t.Fatalf("what guest %s has used is not known", g.Name)
	}
	return g.used
}

// Done is closed when the machine's process is gone.
func (g *Guest) Done() <-chan struct{} { return g.done }

// Image makes a disk image of so many bytes that ends with the test: "raw",
// which occupies nothing, or "qcow2", on a copy-on-write layer over backing
// where that is given.
func Image(t testing.TB, format string, size int64, backing ...Disk) string {
	t.Helper()
	Need(t)
	path := filepath.Join(newUndo(t).tempDir(), "disk."+format)
	args := []string{"create", "-q", "-f", format}
	for _, b := range backing {
		args = append(args, "-b", b.Path, "-F", b.format())
	}
	output(t, "qemu-img", append(args, path, fmt.Sprint(size))...)
	return path
}

// TestBinary builds the tests of a package as a program that runs in a guest:
// one of [Options].Files, for what has to be tested as root of a machine of its
// own.
func TestBinary(t testing.TB, pkg string) string {
	t.Helper()
	path := filepath.Join(newUndo(t).tempDir(), filepath.Base(pkg)+".test")
	cmd := exec.Command("go", "test", "-c", "-ldflags=-s -w", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the tests of %s: %v\n%s", pkg, err, out)
	}
	return path
}

// output runs a command of the host and returns what it printed; its failure
// ends the test.
func output(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}
