package sampler

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/meter"
	"golang.org/x/sys/unix"
)

// TestVMFilesRunOut meters more machines than may have their files open: the
// others are read as well, at a higher price, and their ends are seen.
func TestVMFilesRunOut(t *testing.T) {
	needRoot(t)
	s := openVMs(t, func(o *VMsOptions) { o.MaxFiles = 2 * filesPerRun })
	var list []odometer.VM
	var all []*guest
	for i := range 4 {
		g := startGuest(t, 0)
		g.enter(anyCgroup)
		all = append(all, g)
		list = append(list, machineOf(g, fmt.Sprint("vm-", i)))
	}
	s.Update(list)
	readings(t, s)
	before := readings(t, s)
	for _, g := range all {
		g.do("burn 50ms")
	}
	after := readings(t, s)
	if len(before) != 4 || len(after) != 4 {
		t.Fatalf("got %d and %d readings, want 4", len(before), len(after))
	}
	for i := range after {
		if used := time.Duration(cpuOf(after[i]).Value - cpuOf(before[i]).Value); used < 50*time.Millisecond || used > 80*time.Millisecond {
			t.Errorf("%s: measured %v, want 50 ms", after[i].Instance, used)
		}
	}
	if p := problemOf(s, "files"); !strings.Contains(p, "the files of 2 machines") {
		t.Errorf("got problem %q, want it to tell of 2 machines", p)
	}
	open := 0
	for _, v := range s.list {
		for _, f := range v.run.files {
			if f >= 0 {
				open++
			}
		}
		if v.run.pidfd >= 0 {
			open++
		}
	}
	if open != 2*filesPerRun {
		t.Errorf("%d files are open, want %d", open, 2*filesPerRun)
	}
	all[3].kill()
	readings(t, s)
	s.Update(list[:3])
	got := readings(t, s)
	if last := got[len(got)-1]; len(got) != 4 || last.Instance != "vm-3" || !last.Final || cpuOf(last).Value < cpuOf(after[3]).Value {
		t.Errorf("got %+v, want the last of vm-3 with it", got)
	}
}

// TestVMCgroupIsMadeAgain moves a guest from one cgroup to another whose name
// is the same, and then to one of another name without the first going away.
func TestVMCgroupIsMadeAgain(t *testing.T) {
	needRoot(t)
	g := startGuest(t, 0)
	dir := g.enter(anyCgroup)
	s, y := openVMs(t), newTally(t)
	s.Update([]odometer.VM{machineOf(g, "vm-1")})
	start := time.Duration(g.do("ready"))
	y.observe(readings(t, s)...)
	g.do("burn 200ms")
	first := runOf(s).cpuName

	g.join(filepath.Dir(dir))
	removeCgroup(dir)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	g.join(dir)
	g.do("burn 50ms")
	y.observe(readings(t, s)...)
	second := runOf(s).cpuName
	if first == second {
		t.Errorf("the counter is still %s", first)
	}
	g.do("burn 50ms")
	y.observe(readings(t, s)...)

	g.enter(anyCgroup)
	g.do("burn 150ms")
	y.observe(readings(t, s)...)
	runOf(s).compareAt = 0
	y.observe(readings(t, s)...)
	if runOf(s).cpuName == second {
		t.Errorf("the counter is still %s", second)
	}
	g.do("burn 50ms")
	g.kill()
	eventuallyEnded(t, s)
	s.Update(nil)
	y.observe(readings(t, s)...)
	used := time.Duration(y.usage[odometer.CPU]) * time.Microsecond
	want := g.cmd.ProcessState.UserTime() + g.cmd.ProcessState.SystemTime() - start
	t.Logf("truth %v, measured %v", want, used)
	if off := used - want; off.Abs() > 10*time.Millisecond+want/1000 {
		t.Errorf("measured %v of %v", used, want)
	}
}

// TestVMNumberIsUsedAgain lists a process that is not the machine's any more.
func TestVMNumberIsUsedAgain(t *testing.T) {
	needRoot(t)
	g := startGuest(t, 0)
	s := openVMs(t)
	m := machineOf(g, "vm-1")
	m.Began -= 5 * odometer.SecondMicros
	s.Update([]odometer.VM{m})
	if list := readings(t, s); len(list) > 0 {
		t.Errorf("got %+v of another process", list)
	}
	if p := problemOf(s, "machines"); !strings.Contains(p, errAnother.Error()) {
		t.Errorf("got problem %q", p)
	}
	s.Update([]odometer.VM{machineOf(g, "vm-1"), machineOf(g, "vm-2"), machineOf(g, "vm-1")})
	for _, r := range readings(t, s) {
		if r.Instance == "vm-2" && len(r.Counters) > 0 {
			t.Errorf("one process is billed twice: %+v", r)
		}
	}
	if p := problemOf(s, "machines"); !strings.Contains(p, "is that of vm-1") || !strings.Contains(p, "vm-1 is listed twice") {
		t.Errorf("got problem %q", p)
	}
}

// TestVMStates follows a machine through what its inventory says of it.
func TestVMStates(t *testing.T) {
	needRoot(t)
	s := openVMs(t)
	m := odometer.VM{Instance: "vm-1", State: odometer.Stopped, VCPUs: 2, Memory: 1 << 30, Disks: []odometer.Disk{{Kind: odometer.DiskNetwork, Path: "rbd:x", Provisioned: 5 << 30}}}
	s.Update([]odometer.VM{m})
	if r := only(t, s); r.State != odometer.Stopped || r.Gauges.StorageProvisioned != 5<<30 || r.Gauges.Memory != 0 || len(r.Counters) > 0 {
		t.Errorf("defined: got %+v", r)
	}
	time.Sleep(20 * time.Millisecond)
	g := startGuest(t, 0)
	run := machineOf(g, "vm-1")
	run.Disks = m.Disks
	s.Update([]odometer.VM{run})
	list := readings(t, s)
	if len(list) != 2 || list[0].At.Boot != run.Began || list[0].State != odometer.Running || list[0].Unwatched || list[1].Unwatched {
		t.Errorf("started: got %+v, want its first moment %d and now", list, run.Began)
	}
	run.State = odometer.Paused
	run.GPUs = []odometer.GPUDevice{{Name: "hostdev0"}, {Name: "mdev0", Kind: odometer.GPUVGPU}}
	s.Update([]odometer.VM{run})
	told := s.clock.Now().Boot
	time.Sleep(5 * time.Millisecond)
	list = readings(t, s)
	if len(list) != 2 || list[0].State != odometer.Paused || list[0].At.Boot > told || list[0].Gauges.GPUs != 2 || list[1].State != odometer.Paused {
		t.Errorf("paused: got %+v, want the moment at which that was told, before %d, and now", list, told)
	}
	g.kill()
	eventuallyEnded(t, s)
	// The inventory does not know yet: it is said to run.
	s.Update([]odometer.VM{run})
	if list := readings(t, s); len(list) > 0 {
		t.Errorf("got %+v before the end is decided", list)
	}
	s.list[0].end.at.Boot -= endPatience.Microseconds()
	if list := readings(t, s); len(list) != 2 || list[0].State != odometer.Stopped || list[1].State != odometer.Stopped || list[1].Final {
		t.Errorf("after a while: got %+v, want it stopped", list)
	}
	again := startGuest(t, 0)
	next := machineOf(again, "vm-1")
	s.Update([]odometer.VM{next})
	if list := readings(t, s); len(list) != 2 || list[1].State != odometer.Running || cpuOf(list[1]).Incarnation == "" {
		t.Errorf("started again: got %+v", list)
	}
	// Restarted between two updates: the last run is told before the next one.
	again.do("burn 30ms")
	truth := again.do("ready")
	again.kill()
	time.Sleep(20 * time.Millisecond)
	third := startGuest(t, 0)
	s.Update([]odometer.VM{machineOf(third, "vm-1")})
	list = readings(t, s)
	if len(list) != 3 || list[0].State != odometer.Stopped || list[1].State != odometer.Running || list[0].Final {
		t.Fatalf("restarted: got %+v, want the end, the start and now", list)
	}
	if got := cpuOf(list[0]).Value; got+1e6 < truth {
		t.Errorf("restarted: got %v at the end, truth %v", time.Duration(got), time.Duration(truth))
	}
}

// TestVMHungFilesystem has the files of one machine on a filesystem that does
// not answer: no sample waits, and the others' files are looked at.
func TestVMHungFilesystem(t *testing.T) {
	s := openVMs(t)
	release := make(chan struct{})
	var hang atomic.Bool
	seed := maphash.MakeSeed()
	s.images.init(func(path string, st *unix.Stat_t) error {
		if hang.Load() && strings.HasPrefix(path, "/proc/") { // stands for a mount of its own
			<-release
		}
		*st = unix.Stat_t{Mode: unix.S_IFREG, Blocks: 16, Ino: maphash.String(seed, path)}
		return nil
	}, blockLayers{})
	vm := func(id odometer.InstanceID, path string) odometer.VM {
		return odometer.VM{Instance: id, State: odometer.Stopped, Disks: []odometer.Disk{{Kind: odometer.DiskFile, Path: path, Provisioned: odometer.Unknown}}}
	}
	s.Update([]odometer.VM{vm("vm-1", "/proc/a.img"), vm("vm-2", "/b.img")})
	for _, r := range readings(t, s) {
		if r.Gauges.Storage != 8192 || r.Gauges.StorageProvisioned != odometer.Unknown {
			t.Errorf("got %+v, want 8192 bytes occupied", r)
		}
	}
	hang.Store(true)
	begin := time.Now()
	s.Update([]odometer.VM{vm("vm-1", "/proc/a.img"), vm("vm-2", "/b.img"), vm("vm-3", "/proc/c.img"), vm("vm-4", "/d.img")})
	if took := time.Since(begin); took > 10*statPatience {
		t.Errorf("an update took %v", took)
	}
	begin = time.Now()
	list := readings(t, s)
	if took := time.Since(begin); took > statPatience/2 {
		t.Errorf("a sample took %v", took)
	}
	want := []int64{8192, 8192, odometer.Unknown, 8192}
	for i, r := range list {
		if r.Gauges.Storage != want[i] {
			t.Errorf("%s: got %d occupied, want %d", r.Instance, r.Gauges.Storage, want[i])
		}
	}
	if p := problemOf(s, "storage"); !strings.Contains(p, "/proc does not answer") {
		t.Errorf("got problem %q", p)
	}
	close(release)
	for deadline := time.Now().Add(10 * time.Second); problemOf(s, "storage") != ""; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got problem %q for ever", problemOf(s, "storage"))
		}
	}
	if got := readings(t, s)[2].Gauges.Storage; got != 8192 {
		t.Errorf("got %d occupied when it answers again", got)
	}
}

// TestVMDirection sends a known number of bytes each way over each kind of
// interface: what the machine sends is its egress.
func TestVMDirection(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name  string
		open  string
		kind  odometer.NICKind
		flags uintptr
	}{
		{"a tap", "tap", odometer.NICTap, unix.CLONE_NEWNET},
		{"a tap in this namespace", "tap", odometer.NICTap, 0},
		{"a tap whose kind the inventory does not know", "tap", odometer.NICUnknown, unix.CLONE_NEWNET},
		{"a macvtap", "macvtap", odometer.NICMacvtap, unix.CLONE_NEWNET | unix.CLONE_NEWNS},
		{"a macvtap that the inventory takes for a tap", "macvtap", odometer.NICTap, unix.CLONE_NEWNET | unix.CLONE_NEWNS},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGuest(t, c.flags)
			tap := fmt.Sprintf("odt%d", g.pid())
			g.do("%s %s", c.open, tap)
			s := openVMs(t)
			s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
				v.NICs = []odometer.NIC{{Name: "net0", Kind: c.kind, Link: tap}, {Name: "net1", Kind: odometer.NICUser}}
			})})
			before := only(t, s)
			g.do("send 20 1000")
			g.do("receive 3 500")
			after := only(t, s)
			for q, want := range map[odometer.Quantity]uint64{odometer.NetworkEgress: 20_000, odometer.NetworkIngress: 1500} {
				if got := counter(after, q, "net0").Value - counter(before, q, "net0").Value; got != want {
					t.Errorf("%s: got %d, want exactly %d", q, got, want)
				}
			}
			if p := problemOf(s, "network"); !strings.Contains(p, "net1: "+errNoInterface.Error()) {
				t.Errorf("got problem %q, want it to tell of net1", p)
			}
		})
	}
}

// TestVMSampleDoesNotAllocate holds a sample of machines that nothing happens
// to to its promise.
func TestVMSampleDoesNotAllocate(t *testing.T) {
	needRoot(t)
	s := openVMs(t)
	var list []odometer.VM
	for i := range 2 {
		g := startGuest(t, unix.CLONE_NEWNET)
		g.do("tap tap0")
		if i == 0 {
			g.enter("unified")
		}
		list = append(list, machineOf(g, fmt.Sprint("vm-", i), func(v *odometer.VM) {
			v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0"}}
		}))
	}
	s.Update(append(list, odometer.VM{Instance: "vm-9", State: odometer.Stopped}))
	n := 0
	emit := func(*odometer.Reading) { n++ }
	for range 3 {
		if err := s.Sample(emit); err != nil {
			t.Fatal(err)
		}
	}
	if got := testing.AllocsPerRun(200, func() {
		for _, v := range s.list[:2] {
			v.run.memoryAt, v.run.compareAt = 0, 0
		}
		if err := s.Sample(emit); err != nil {
			t.Error(err)
		}
	}); got > 0 {
		t.Errorf("a sample allocates %v times", got)
	}
	for _, st := range s.Sources() {
		if st.Problem != "" {
			t.Errorf("%s: %s", st.Name, st.Problem)
		}
	}
}

// TestVMOverrun floods the listeners until the kernel drops messages: that is
// named, and what a deleted interface came to is what was last read.
func TestVMOverrun(t *testing.T) {
	needRoot(t)
	s := openVMs(t)
	small := 2304 // the kernel's least
	if err := unix.SetsockoptInt(s.exits.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, small); err != nil {
		t.Fatal(err)
	}
	for range 30 {
		if err := exec.Command("true").Run(); err != nil {
			t.Fatal(err)
		}
	}
	readings(t, s)
	if p := problemOf(s, "ends"); !strings.Contains(p, errOverrun.Error()) {
		t.Errorf("got problem %q, want %q", p, errOverrun)
	}
}

// TestVMLinkOverrun floods the listener of a namespace: the end of a tap is
// not told, and what it last came to stands.
func TestVMLinkOverrun(t *testing.T) {
	needRoot(t)
	g := startGuest(t, unix.CLONE_NEWNET)
	g.do("tap tap0")
	s := openVMs(t)
	s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
		v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0"}}
	})})
	g.do("send 5 100")
	before := only(t, s)
	sp := runOf(s).nics[0].space
	if err := unix.SetsockoptInt(sp.watch.fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 2304); err != nil {
		t.Fatal(err)
	}
	g.do("flap 20")
	g.do("send 5 100")
	g.do("release")
	after := only(t, s)
	if got, was := counter(after, odometer.NetworkEgress, "net0"), counter(before, odometer.NetworkEgress, "net0"); got.Incarnation != was.Incarnation || got.Value < was.Value {
		t.Errorf("got %+v after %+v", got, was)
	}
	if p := problemOf(s, "network"); !strings.Contains(p, errOverrun.Error()) {
		t.Errorf("got problem %q, want %q", p, errOverrun)
	}
	g.do("tap tap0")
	g.do("send 7 100")
	for range 2 {
		after = only(t, s)
	}
	if got := counter(after, odometer.NetworkEgress, "net0"); got.Value != 700 {
		t.Errorf("got %+v of the tap that was made again, want 700 bytes", got)
	}
}

// TestVMInterfaceIsBeingDeleted looks at a tap in the moment in which it is not
// listed any more and its end not told yet: what it came to is waited for.
func TestVMInterfaceIsBeingDeleted(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name  string
		look  func(*VMs) // in that moment
		final bool
		lost  uint64
	}{
		{"by a sample", func(s *VMs) { runOf(s).nics[0].space.read() }, false, 0},
		{"as the machine no longer has it", func(s *VMs) {
			runOf(s).nics[0].leaves = true
			runOf(s).nics[0].space.read()
			s.list[0].run.settle()
		}, false, 0},
		{"when the machine has ended", func(s *VMs) { s.finishRun(s.list[0], s.clock.Now()) }, true, 0},
		{"when the machine has ended, and the end of the tap is never told", func(s *VMs) {
			sp := runOf(s).nics[0].space
			s.finishRun(s.list[0], s.clock.Now())
			if _, err := sp.watch.drain(func(linkInfo) {}); err != nil {
				t.Error(err)
			}
		}, true, 20_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g := startGuest(t, 0)
			tap := fmt.Sprintf("odt%d", g.pid())
			g.do("tap %s", tap)
			s := openVMs(t)
			s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
				v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: tap}}
			})})
			before := counter(only(t, s), odometer.NetworkEgress, "net0")
			g.do("send 20 1000")
			if out, err := exec.Command("ip", "link", "delete", tap).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			c.look(s)
			if c.final {
				s.Update(nil)
			}
			var list []odometer.Reading
			for end := time.Now().Add(time.Minute); len(list) == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				list = readings(t, s)
			}
			if len(list) != 1 || list[0].Final != c.final {
				t.Fatalf("got %+v, want one reading, the last: %v", list, c.final)
			}
			after := counter(list[0], odometer.NetworkEgress, "net0")
			if got := after.Value - before.Value; got != 20_000-c.lost || after.Incarnation != before.Incarnation {
				t.Errorf("got %d bytes, %+v after %+v; want %d", got, after, before, 20_000-c.lost)
			}
			if list = readings(t, s); c.final && len(list) > 0 || len(s.spaces) != 1 || s.order[0].users > 0 {
				t.Errorf("got %+v after the last, and %d namespaces, in the first of which %d interfaces are read", list, len(s.spaces), s.order[0].users)
			}
		})
	}
}

// TestVMsAfterAReboot has the host boot between two readings of machines: the
// time in which it was down is a gap, and what did not run since is not billed
// as if it had.
func TestVMsAfterAReboot(t *testing.T) {
	tr := newVMTree(t, "jailer")
	tr.boot.Store(60 * odometer.SecondMicros)
	const boot = "11111111-2222-3333-4444-555555555555"
	usage := map[odometer.InstanceID]odometer.Vector{}
	var kept []json.RawMessage
	keep := func(r odometer.Record) {
		kept = append(kept, r.Checkpoint)
		if r.Event == nil {
			return
		}
		v := usage[r.Event.Instance]
		for q, n := range r.Event.Usage.Vector {
			v[q] += n
		}
		usage[r.Event.Instance] = v
	}
	m := meter.New(meter.Options{Agent: "host-1", Nonce: "n", BootID: "before"})
	now := tr.Now()
	for _, id := range []odometer.InstanceID{"vm-1", "vm-2"} {
		r := odometer.Reading{Instance: id, At: odometer.Moment{Boot: 1, Wall: now.Wall - odometer.HourMicros}, State: odometer.Running,
			Gauges:   odometer.Gauges{Memory: 1 << 20, MemoryAllocated: 1 << 20, VCPUs: 1, Storage: odometer.Unknown, StorageProvisioned: odometer.Unknown, GPUs: odometer.Unknown},
			Counters: []odometer.Counter{{Quantity: odometer.CPU, Incarnation: "before/x", Value: 5e9}}}
		if err := m.Observe(&r, keep); err != nil {
			t.Fatal(err)
		}
	}
	m = meter.New(meter.Options{Agent: "host-1", Nonce: "n", BootID: boot})
	for _, c := range kept {
		if err := m.Restore(c); err != nil {
			t.Fatal(err)
		}
	}
	s := openVMs(t, func(o *VMsOptions) {
		o.Root, o.Clock = tr.root, tr
		o.Previous = Previous{BootID: "before", Readings: map[odometer.InstanceID]int64{"vm-1": 1, "vm-2": 1}}
	})
	s.Update([]odometer.VM{
		{Instance: "vm-1", PID: 100, Run: "r", State: odometer.Running, VCPUs: 1, Memory: 1 << 20},
		{Instance: "vm-2", State: odometer.Stopped, VCPUs: 1, Memory: 1 << 20},
	})
	var at int64
	for _, r := range readings(t, s) {
		at = r.At.Boot
		if err := m.Observe(&r, keep); err != nil {
			t.Fatalf("%+v: %v", r, err)
		}
	}
	const began = 50 * odometer.SecondMicros
	if u := usage["vm-1"]; u[odometer.CPU] != 1_200_000 || u[odometer.VCPU] != at-began+1 || u[odometer.GapTime] < odometer.HourMicros-61*odometer.SecondMicros {
		t.Errorf("vm-1 runs since %d, it is %d: got %v", began, at, u)
	}
	if u := usage["vm-2"]; u[odometer.CPU] != 0 || u[odometer.VCPU] > 1 || u[odometer.MemoryAllocated] != 0 || u[odometer.GapTime] < odometer.HourMicros-61*odometer.SecondMicros {
		t.Errorf("vm-2 does not run: got %v", u)
	}
}

// TestVMOpensLittleAndCloses looks at what is left of a source.
func TestVMOpensLittleAndCloses(t *testing.T) {
	needRoot(t)
	before := openFiles(t)
	s := OpenVMs(VMsOptions{Agent: "host-1"})
	g := startGuest(t, unix.CLONE_NEWNET)
	g.do("tap tap0")
	s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
		v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0"}}
		v.Disks = []odometer.Disk{{Kind: odometer.DiskFile, Path: "/etc/passwd"}}
	})})
	readings(t, s) // of its first moment too, where that was after the source was opened
	if len(s.order) != 2 {
		t.Errorf("%d namespaces are open, want 2", len(s.order))
	}
	g.kill()
	eventuallyEnded(t, s)
	if len(s.order) != 1 {
		t.Errorf("%d namespaces are open when the machine has ended, want 1", len(s.order))
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Error(err)
	}
	s.Update([]odometer.VM{{Instance: "vm-2"}})
	if err := s.Sample(func(*odometer.Reading) { t.Error("a closed source gives a reading") }); err == nil {
		t.Error("a closed source gives no error")
	}
	if after := openFiles(t); after != before {
		t.Errorf("%d files are open, %d were before", after, before)
	}
}

func openFiles(t *testing.T) int {
	t.Helper()
	list, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
