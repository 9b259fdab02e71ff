package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"example.org/odometer/internal/guest"
)

// The tests in this file run real virtual machines beside the real program,
// which nobody told of them. What is in the ledger in the end is what they used.

// TestAGuestIsMeteredToItsEnd kills a virtual machine in mid-period, while it
// writes and sends. What it used is in the ledger, from its first moment to its
// last.
func TestAGuestIsMeteredToItsEnd(t *testing.T) {
	guest.Need(t)
	s := newSite(t)
	s.serve("--source", "vms", "--interval", "20s")
	g := guest.Start(t, guest.Options{
		Disks: []guest.Disk{{Path: guest.Image(t, "qcow2", 256<<20)}},
		NICs:  []guest.NIC{{Kind: guest.TapFD}},
	})
	g.Burn(2 * time.Second)
	g.Write(16 << 20)
	g.Background("dd if=/dev/zero of=/dev/vda bs=64k seek=256 count=2048")
	g.SendOn(g.Peer(0))
	g.Burn(time.Second)
	truth := stop(t, g)
	g.Kill()
	truth.cpu = g.Used()

	a := guest.NewAccuracy()
	used := s.used(g.UUID, truth)
	// It is in no cgroup of its own. Who counts a process then does not see what
	// its end takes.
	a.Between(t, "cpu_us, wait4(2)", truth.cpu.Microseconds(), used["cpu_us"], 10_000+(truth.cpu-truth.alive).Microseconds()+truth.cpu.Microseconds()/1000, 10_000)
	truth.compare(t, a, used)
	a.Near(t, "gap_us", 0, used["gap_us"], 0)
	a.Near(t, "estimated_us", 0, used["estimated_us"], 0)
	a.Log(t)
	if got := s.life(g.UUID); !slices.Equal(got, []string{"started", "crashed"}) {
		t.Errorf("what happened to it: got %q, want that it started and crashed", got)
	}
	s.audit()
}

// life is what happened to an instance.
func (s *site) life(instance string) (what []string) {
	s.t.Helper()
	var answer struct {
		Lifecycle []struct{ What string }
	}
	s.get("/api/v1/instances/"+instance+"/lifecycle", &answer)
	for _, h := range answer.Lifecycle {
		what = append(what, h.What)
	}
	return what
}

// TestAGuestThroughEverything has an agent killed under a machine, the machine's
// cgroup removed and made again, the machine rebooted from within and restarted
// from without, with another tap of the same name. The sum of all that is in the
// ledger is what both runs used.
func TestAGuestThroughEverything(t *testing.T) {
	guest.Need(t)
	s := newSite(t)
	s.serve("--no-agent")
	dir := filepath.Join(t.TempDir(), "agent")
	agent := func() *process {
		return start(t, "agent", "--id", "host-9", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"),
			"--data-dir", dir, "--source", "vms", "--interval", "2s", "--http", "")
	}
	cgroup := newCgroup(t)
	o := guest.Options{
		UUID:  "0d0e7e2e-0000-4000-8000-" + fmt.Sprintf("%012x", time.Now().UnixNano()&(1<<48-1)),
		Disks: []guest.Disk{{Path: guest.Image(t, "qcow2", 256<<20)}},
		NICs:  []guest.NIC{{Link: fmt.Sprintf("e2e%d", os.Getpid()%1000000)}}, Cgroups: []string{cgroup},
	}
	a := agent()
	first := guest.Start(t, o)
	measured := func() int64 { return s.usage("instance", byInstance)[first.UUID]["measured_us"] }
	eventually(t, "the guest is metered", func() bool { return measured() > 0 })

	first.SendOn(first.Peer(0))
	a.kill()
	first.Write(4 << 20)
	agent()
	before := measured()
	first.Run("killall cat")
	eventually(t, "the guest is metered on", func() bool { return measured() > before })

	move(t, first, filepath.Dir(cgroup))
	removeCgroup(t, cgroup)
	if err := os.Mkdir(cgroup, 0o755); err != nil {
		t.Fatal(err)
	}
	move(t, first, cgroup)
	first.Burn(time.Second)

	first.Reboot()
	first.Send(first.Peer(0), 1<<20)
	if err := first.QMP().SetBalloon(t.Context(), 96<<20); err != nil {
		t.Fatal(err)
	}
	if err := first.QMP().Execute(t.Context(), "block_resize", map[string]any{"device": "drive0", "size": 320 << 20}, nil); err != nil {
		t.Fatal(err)
	}
	first.Write(8 << 20)
	truth := stop(t, first)
	first.Kill()
	truth.cpu = first.Used()
	deleteLink(t, o.NICs[0].Link)

	second := guest.Start(t, o)
	second.Write(2 << 20)
	second.Send(second.Peer(0), 1<<20)
	last := stop(t, second)
	second.Kill()
	last.cpu = second.Used()
	truth.add(last)

	table := guest.NewAccuracy()
	used := s.used(first.UUID, truth)
	table.Near(t, "cpu_us, wait4(2)", truth.cpu.Microseconds(), used["cpu_us"], 10_000+truth.cpu.Microseconds()/1000)
	truth.compare(t, table, used)
	table.Near(t, "gap_us", 0, used["gap_us"], 0)
	table.Log(t)
	t.Logf("measured_us %d, estimated_us %d while no agent ran", used["measured_us"], used["estimated_us"])
	s.audit()
}

// TestAGuestHasTheProcessIDOfAnother ends a machine, gives its process id to
// another, and ends that between two ticks. Each is charged its own.
func TestAGuestHasTheProcessIDOfAnother(t *testing.T) {
	guest.Need(t)
	s := newSite(t)
	s.serve("--source", "vms", "--interval", "60s")
	table := guest.NewAccuracy()
	end := func(g *guest.Guest) {
		t.Helper()
		time.Sleep(3 * time.Second)
		truth := stop(t, g)
		g.Kill()
		truth.cpu = g.Used()
		used := s.used(g.UUID, truth)
		table.Between(t, "cpu_us, wait4(2)", truth.cpu.Microseconds(), used["cpu_us"], 10_000+(truth.cpu-truth.alive).Microseconds(), 10_000)
		truth.compare(t, table, used)
		table.Near(t, "gap_us", 0, used["gap_us"], 0)
	}
	first := guest.Start(t, guest.Options{Paused: true})
	end(first)
	second := guest.Start(t, guest.Options{Paused: true, PID: first.PID()})
	if second.PID() != first.PID() {
		t.Fatalf("process %d has not the id %d", second.PID(), first.PID())
	}
	end(second)
	table.Log(t)
	s.audit()
}

// facts are what the host knows that a guest used.
type facts struct {
	alive, cpu    time.Duration // before its end, and with it
	read, written int64
	sent, got     int64
	threads       int64
	stopped       time.Time // the last of them
}

// stop stops a guest, so that it does no more, and reads what it came to.
func stop(t *testing.T, g *guest.Guest) (f facts) {
	t.Helper()
	f.stopped = time.Now()
	g.Signal(syscall.SIGSTOP)
	for before := int64(-1); before != f.read+f.written; time.Sleep(50 * time.Millisecond) { // a system call ends first
		before = f.read + f.written
		b := proc(t, g.PID(), "io")
		_, rest, _ := bytes.Cut(b, []byte("\nread_bytes: "))
		if _, err := fmt.Sscanf(string(rest), "%d\nwrite_bytes: %d", &f.read, &f.written); err != nil {
			t.Fatalf("%v in %s", err, b)
		}
	}
	if g.NICs() > 0 {
		host := g.HostLink(0) // a tap's, which has the host's view
		f.sent, f.got = int64(host.Received), int64(host.Sent)
	}
	stat := proc(t, g.PID(), "stat")
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+2:])
	for _, field := range fields[11:13] { // utime and stime, in steps of 10 ms
		n, err := strconv.ParseInt(string(field), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		f.alive += time.Duration(n) * 10 * time.Millisecond
	}
	f.threads = 32
	return f
}

func proc(t *testing.T, pid int, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (f *facts) add(o facts) {
	f.cpu += o.cpu
	f.alive += o.alive
	f.read += o.read
	f.written += o.written
	f.sent += o.sent
	f.got += o.got
	f.threads += o.threads
	f.stopped = o.stopped
}

// compare demands what is exact: bytes. The last record of a thread has whole
// KiB of what it read and wrote.
func (f *facts) compare(t *testing.T, a *guest.Accuracy, used amounts) {
	t.Helper()
	a.Near(t, "network_egress_bytes, the tap's counter", f.sent, used["network_egress_bytes"], 0)
	a.Near(t, "network_ingress_bytes, the tap's counter", f.got, used["network_ingress_bytes"], 0)
	a.Between(t, "disk_write_bytes, /proc/PID/io", f.written, used["disk_write_bytes"], f.threads<<10, 0)
	a.Between(t, "disk_read_bytes, /proc/PID/io", f.read, used["disk_read_bytes"], f.threads<<10, 0)
}

// used is what the ledger has of a machine that has ended, when all of it came.
func (s *site) used(instance string, f facts) (used amounts) {
	s.t.Helper()
	eventually(s.t, "the end of the guest is in the ledger", func() bool {
		var page struct {
			Events []struct {
				Instance string `json:"instance_id"`
				Final    bool   `json:"final"`
				Span     struct {
					End int64 `json:"end_us"`
				} `json:"span"`
			} `json:"events"`
		}
		s.get("/api/v1/events?limit=1000&instance="+instance, &page)
		ended := false
		for _, e := range page.Events {
			ended = ended || e.Instance == instance && e.Final && e.Span.End >= f.stopped.UnixMicro()
		}
		used = s.usage("instance", byInstance)[instance]
		return ended
	})
	return used
}

// newCgroup makes a control group that counts processor time.
func newCgroup(t *testing.T) string {
	t.Helper()
	root := "/sys/fs/cgroup/cpuacct"
	if _, err := os.Stat(root); err != nil {
		root = "/sys/fs/cgroup"
	}
	dir := filepath.Join(root, fmt.Sprintf("odometer-e2e-%d", os.Getpid()))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeCgroup(t, dir) })
	return dir
}

func removeCgroup(t *testing.T, dir string) {
	t.Helper()
	eventually(t, "the cgroup is removed", func() bool {
		err := syscall.Rmdir(dir)
		return err == nil || errors.Is(err, fs.ErrNotExist)
	})
}

// move puts a guest into a control group.
func move(t *testing.T, g *guest.Guest, dir string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(g.PID())), 0); err != nil {
		t.Fatal(err)
	}
}

func deleteLink(t *testing.T, name string) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "delete", name).CombinedOutput(); err != nil {
		t.Fatalf("delete %s: %v\n%s", name, err, out)
	}
}
