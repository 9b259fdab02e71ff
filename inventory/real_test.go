package inventory

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"example.org/odometer"
	booted "example.org/odometer/internal/guest"
	"golang.org/x/sys/unix"
)

// A test starts its own binary again under the name and with the arguments of
// a hypervisor, and tells it here what to be.
const playVariable = "INVENTORY_TEST_PLAY"

func TestMain(m *testing.M) {
	if tap := os.Getenv(playVariable); tap != "" {
		play(tap)
	}
	os.Exit(m.Run())
}

// jailed before the name of a directory says to make that the root.
const jailed = "jail:"

// serves before the name of a directory says to answer at --api-socket, or
// --api-sock, with what lies there.
const serves = "serves:"

// leaves says to end the first thread at the end of the input, and no other: from then
// on the process has neither a command line nor a state but that of a dead one, and
// lives.
const leaves = "leaves"

func init() {
	if os.Getenv(playVariable) == leaves {
		runtime.LockOSThread() // play is in the first thread
	}
}

// play opens a tap, "-" for none, says that it is there and waits for the end
// of its input.
func play(tap string) {
	if dir, ok := strings.CutPrefix(tap, serves); ok {
		i := slices.IndexFunc(os.Args, func(a string) bool { return strings.HasPrefix(a, "--api-sock") })
		l, err := net.Listen("unix", os.Args[i+1])
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		go http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, err := os.ReadFile(filepath.Join(dir, r.URL.Path, "answer"))
			if err != nil {
				w.WriteHeader(http.StatusInternalServerError)
			}
			w.Write(b)
		}))
	} else if dir, ok := strings.CutPrefix(tap, jailed); ok {
		err := unix.Chroot(dir)
		if err == nil {
			err = unix.Chdir("/images")
		}
		if err != nil {
			fmt.Println("enter the jail:", err)
			os.Exit(1)
		}
	} else if tap != "-" && tap != leaves {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		var request struct {
			name  [unix.IFNAMSIZ]byte
			flags uint16
			_     [22]byte
		}
		copy(request.name[:], tap)
		request.flags = unix.IFF_TAP | unix.IFF_NO_PI
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TUNSETIFF, uintptr(unsafe.Pointer(&request))); errno != 0 {
			fmt.Println("make the tap:", errno)
			os.Exit(1)
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if tap == leaves {
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0) // this thread alone
	}
	os.Exit(0)
}

// realClock is the host's.
type realClock struct{}

func (realClock) Now() odometer.Moment {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err)
	}
	return odometer.Moment{Boot: ts.Nano() / 1000, Wall: time.Now().UnixMicro()}
}

// actor is a process that looks like a hypervisor.
type actor struct {
	*exec.Cmd
	in io.Closer
}

// act starts one and waits until it is ready.
func act(t *testing.T, tap string, args ...string) *actor {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := &exec.Cmd{Path: self, Args: args, Env: append(os.Environ(), playVariable+"="+tap)}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	a := &actor{cmd, in}
	t.Cleanup(func() { a.Process.Kill(); a.Wait() })
	s, err := bufio.NewReader(out).ReadString('\n')
	if s != "ready\n" {
		t.Fatalf("the process says %q, %v", s, err)
	}
	return a
}

func realProcesses(t *testing.T) *Processes {
	t.Helper()
	p, err := OpenProcesses(ProcessesOptions{Agent: "host-1", Clock: realClock{}})
	if err != nil {
		t.Fatal(err)
	}
	p.wait = time.Minute // this machine may be busy
	t.Cleanup(func() { p.Close() })
	return p
}

func hostNow() odometer.Moment { return realClock{}.Now() }

// byPID finds the machine of a process.
func byPID(vms []odometer.VM, pid int) *odometer.VM {
	i := slices.IndexFunc(vms, func(v odometer.VM) bool { return v.PID == pid })
	if i < 0 {
		return nil
	}
	return &vms[i]
}

// missing skips a test that this machine cannot run, which under
// CI=true is a failure: there everything is provided.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run here, and under CI=true it has to: %s", why)
	}
	t.Skip(why)
}

func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "only root may make a tap and look into other processes")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		missing(t, "the kernel has no taps: "+err.Error())
	}
}

// TestARealProcess finds a real process that looks like a machine, with the
// tap that it opened itself and its disk, and is told of its end.
func TestARealProcess(t *testing.T) {
	needsRoot(t)
	p := realProcesses(t)
	list(t, p)
	image := filepath.Join(t.TempDir(), "disk.qcow2")
	if err := os.WriteFile(image, qcow2(123456789, "", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	tap := fmt.Sprintf("odoinv%d", os.Getpid()%100000)
	began := realClock{}.Now()
	a := act(t, tap, "/usr/bin/qemu-system-x86_64", "-name", "real,debug-threads=on", "-uuid", "11111111-2222-4333-8444-0000000000AA",
		"-m", "256", "-smp", "2", "-drive", "file="+image+",if=virtio", "-nic", "tap,mac=52:54:00:00:00:01")

	v := byPID(list(t, p), a.Process.Pid)
	if v == nil {
		t.Fatalf("process %d is not found", a.Process.Pid)
	}
	if v.Instance != "11111111-2222-4333-8444-0000000000aa" || v.Memory != 256<<20 || v.VCPUs != 2 || v.Source != "qemu" {
		t.Errorf("got %+v, want what its command line says", v)
	}
	if d := v.Began - began.Boot; d < -2*tickMicros || d > 5*odometer.SecondMicros {
		t.Errorf("it began %d µs after it was started", d)
	}
	if len(v.NICs) != 1 || v.NICs[0].Link != tap {
		t.Errorf("got interfaces %+v, want %s: %q", v.NICs, tap, p.Problems())
	}
	if len(v.Disks) != 1 || v.Disks[0].Provisioned != 123456789 || v.Disks[0].Path != image || v.Disks[0].Kind != odometer.DiskFile {
		t.Errorf("got disks %+v, want %s: %q", v.Disks, image, p.Problems())
	}
	boot, err := word("/proc/sys/kernel/random/boot_id")
	if err != nil || !strings.HasPrefix(v.Run, boot+"/"+fmt.Sprint(a.Process.Pid)+"/") {
		t.Errorf("got run %q, %v", v.Run, err)
	}

	killed := realClock{}.Now()
	if err := a.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	a.Wait()
	c := awaitTold(t, p, v.Instance)
	if d := c.At.Boot - killed.Boot; d < 0 || d > odometer.SecondMicros {
		t.Errorf("the end is told %d µs after it", d)
	}
	if want := "killed by signal 9"; kernelTellsExit(t) && (c.Kind != odometer.ChangeCrashed || c.Detail != want) {
		t.Errorf("got %s: %s, want crashed: %s", c.Kind, c.Detail, want)
	}
	if v := byPID(list(t, p), a.Process.Pid); v != nil {
		t.Errorf("it has ended and is listed: %+v", v)
	}
}

// awaitTold waits for what is told of one machine, but for hints that there may
// be something: others may run on the host.
func awaitTold(t *testing.T, s Teller, id odometer.InstanceID) odometer.Change {
	t.Helper()
	late := time.After(10 * time.Second)
	for {
		select {
		case c := <-s.Told():
			if c.Instance == id && c.Kind != "" {
				return c
			}
		case <-late:
			t.Fatalf("nothing is told of %s", id)
		}
	}
}

// kernelTellsExit finds out whether the kernel tells how a process ended that
// is not one's own child.
func kernelTellsExit(t *testing.T) bool {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "read x; exit 3")
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Logf("this kernel has no pidfds: %v", err)
		return false
	}
	defer unix.Close(fd)
	in.Close()
	cmd.Wait()
	status, known := exitOf(fd)
	if known && status != 3<<8 {
		t.Errorf("got wait status %#x, want 0x300", status)
	}
	return known
}

// TestEndsAreTold lets real processes end in every way.
func TestEndsAreTold(t *testing.T) {
	exact := kernelTellsExit(t)
	for _, c := range []struct {
		name   string
		end    func(*actor)
		wait   bool // its parent asks for its end before anybody else
		kind   odometer.ChangeKind
		detail string
	}{
		{"it exits", func(a *actor) { a.in.Close() }, true, odometer.ChangeStopped, "its process exited"},
		{"it is asked to end", func(a *actor) { a.Process.Signal(unix.SIGTERM) }, true, odometer.ChangeStopped, "ended by signal 15"},
		{"it is killed", func(a *actor) { a.Process.Kill() }, true, odometer.ChangeCrashed, "killed by signal 9"},
		{"it fails itself", func(a *actor) { a.Process.Signal(unix.SIGSEGV) }, true, odometer.ChangeCrashed, "its process exited with status 2"},
		{"it is killed, and its parent does not ask", func(a *actor) { a.Process.Kill() }, false, odometer.ChangeCrashed, "killed by signal 9"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := realProcesses(t)
			a := act(t, "-", "kvm", "-name", "end", "-m", "1")
			v := byPID(list(t, p), a.Process.Pid)
			if v == nil {
				t.Fatal("it is not found")
			}
			c.end(a)
			if c.wait {
				a.Wait()
			}
			got := awaitTold(t, p, v.Instance)
			if exact && (got.Kind != c.kind || got.Detail != c.detail) {
				t.Errorf("got %+v, want %s: %s", got, c.kind, c.detail)
			}
			if v := byPID(list(t, p), a.Process.Pid); v != nil {
				t.Errorf("it has ended and is listed: %+v", v)
			}
		})
	}
}

// TestTheScanSeesTheEndFirst tells an end although the scan comes before who
// waits for it.
func TestTheScanSeesTheEndFirst(t *testing.T) {
	exact := kernelTellsExit(t)
	p := realProcesses(t)
	a := act(t, "-", "kvm", "-name", "first", "-m", "1")
	v := byPID(list(t, p), a.Process.Pid)
	if v == nil {
		t.Fatal("it is not found")
	}
	p.listing.Lock()
	a.Process.Kill()
	a.Wait()
	_, err := p.scan(t.Context(), realClock{}.Now().Boot)
	p.listing.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	if c := awaitTold(t, p, v.Instance); exact && c.Kind != odometer.ChangeCrashed {
		t.Errorf("got %+v, want that it crashed", c)
	}
	time.Sleep(50 * time.Millisecond)
	select {
	case c := <-p.Told():
		if c.Instance == v.Instance {
			t.Errorf("its end is told again: %+v", c)
		}
	default:
	}
}

// TestAProcessThatIsEndingIsThere looks at a process whose memory is gone while it has
// not ended, as it is for as long as the memory of a large machine takes to be freed:
// it is listed until it has ended, and how it ended is told.
func TestAProcessThatIsEndingIsThere(t *testing.T) {
	exact := kernelTellsExit(t)
	p := realProcesses(t)
	if p.ends == nil {
		t.Skip("this kernel has no pidfds")
	}
	a := act(t, leaves, "kvm", "-name", "ending", "-m", "1")
	v := byPID(list(t, p), a.Process.Pid)
	if v == nil {
		t.Fatal("it is not found")
	}
	a.in.Close()
	for line := []byte("?"); len(line) > 0; time.Sleep(time.Millisecond) {
		var err error
		if line, err = os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", a.Process.Pid)); err != nil {
			t.Fatal(err)
		}
	}
	for range 5 { // it is young, so that each looks again
		if byPID(list(t, p), a.Process.Pid) == nil {
			t.Fatal("it has not ended and is not listed")
		}
	}
	a.Process.Kill()
	a.Wait()
	if c := awaitTold(t, p, v.Instance); exact && c.Kind != odometer.ChangeCrashed {
		t.Errorf("got %+v, want that it crashed", c)
	}
	if byPID(list(t, p), a.Process.Pid) != nil {
		t.Error("it has ended and is listed")
	}
}

// TestRealPIDReuse gives the number of a machine's process to another one, as
// the kernel lets root do.
func TestRealPIDReuse(t *testing.T) {
	const next = "/proc/sys/kernel/ns_last_pid"
	booted.HoldPIDs(t, true)
	if err := os.WriteFile(next, []byte(readString(t, next)), 0); err != nil {
		t.Skipf("this user may not choose process numbers: %v", err)
	}
	p := realProcesses(t)
	first := act(t, "-", "kvm", "-name", "first", "-m", "1")
	pid := first.Process.Pid
	v := byPID(list(t, p), pid)
	if v == nil || v.Name != "first" {
		t.Fatalf("got %+v, want the first", v)
	}
	run := v.Run
	first.Process.Kill()
	first.Wait()
	time.Sleep(20 * time.Millisecond) // the kernel tells when a process began in hundredths
	var second *actor
	for attempt := 0; second == nil || second.Process.Pid != pid; attempt++ {
		if attempt == 50 {
			t.Skip("other processes are started all the time: the number could not be had again")
		}
		if second != nil {
			second.Process.Kill()
			second.Wait()
		}
		// Threads take numbers too, and the fork is one of several.
		if err := os.WriteFile(next, fmt.Append(nil, pid-1), 0); err != nil {
			t.Fatal(err)
		}
		second = act(t, "-", "kvm", "-name", "second", "-m", "1")
	}
	v = byPID(list(t, p), pid)
	if v == nil || v.Name != "second" || v.Run == run {
		t.Errorf("got %+v, want the second in another run than %s", v, run)
	}
	awaitTold(t, p, "host-1:first")
}

func readString(t testing.TB, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Skipf("the kernel has no %s: %v", name, err)
	}
	return string(b)
}

// TestAMachineInAJailOfItsOwn looks at the files of a process whose root is
// another directory, in which links lead to other places.
func TestAMachineInAJailOfItsOwn(t *testing.T) {
	needsRoot(t)
	jail := t.TempDir()
	for name, content := range map[string][]byte{
		"images/disk.qcow2": qcow2(1000, "/images/base.qcow2", "qcow2"), "images/base.qcow2": qcow2(900, "", ""),
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(jail, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(jail, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/images/disk.qcow2", filepath.Join(jail, "link")); err != nil {
		t.Fatal(err)
	}
	a := act(t, jailed+jail, "qemu", "-name", "jailed", "-drive", "file=/link", "-qmp", "unix:q.sock,server")
	p := realProcesses(t)
	v := byPID(list(t, p), a.Process.Pid)
	if v == nil {
		t.Fatal("it is not found")
	}
	// The host finds another file, or none, where an absolute link leads.
	want := odometer.Disk{Name: "ide0-hd0", Kind: odometer.DiskFile, Path: fmt.Sprintf("/proc/%d/root/link", a.Process.Pid),
		Format: "qcow2", Provisioned: 1000, Backing: []string{jail + "/images/base.qcow2"}}
	if len(v.Disks) != 1 || !v.Disks[0].Equal(want) {
		t.Errorf("got %+v, want %+v: %q", v.Disks, want, p.Problems())
	}
	if want := jail + "/images/q.sock"; v.Control != want {
		t.Errorf("got socket %q, want %q", v.Control, want)
	}
}

// TestARealQEMU finds a real QEMU, without a processor in it.
func TestARealQEMU(t *testing.T) {
	needsRoot(t)
	binary, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		missing(t, "there is no qemu-system-x86_64")
	}
	dir := t.TempDir()
	image := filepath.Join(dir, "disk.qcow2")
	if err := os.WriteFile(image, qcow2(10<<20, "", ""), 0o600); err != nil {
		t.Fatal(err)
	}
	tap := fmt.Sprintf("odoq%d", os.Getpid()%100000)
	p := realProcesses(t)
	list(t, p)
	pidfile := filepath.Join(dir, "pid")
	// As a daemon, which two processes are for a while.
	cmd := exec.Command(binary, "-machine", "none", "-S", "-display", "none", "-nodefaults", "-name", "guest=none,debug-threads=on",
		"-uuid", "22222222-2222-4333-8444-0000000000bb", "-daemonize", "-pidfile", pidfile,
		"-qmp", "unix:"+filepath.Join(dir, "q.sock")+",server=on,wait=off",
		"-blockdev", `{"driver":"file","filename":"`+image+`","node-name":"f"}`, "-netdev", "tap,id=n0,ifname="+tap+",script=no,downscript=no")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("start QEMU: %v: %s", err, b)
	}
	var pid int
	if _, err := fmt.Sscan(readString(t, pidfile), &pid); err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer process.Kill()
	v := byPID(list(t, p), pid)
	if v == nil || v.Instance != "22222222-2222-4333-8444-0000000000bb" || v.Control != filepath.Join(dir, "q.sock") {
		t.Fatalf("got %+v, want the machine", v)
	}
	if err := process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if c := awaitTold(t, p, v.Instance); kernelTellsExit(t) && c.Kind != odometer.ChangeStopped {
		t.Errorf("got %+v, want that it stopped", c)
	}
}
