package sampler

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
	qemu "example.org/odometer/internal/guest"
	"example.org/odometer/internal/qmp"
	"example.org/odometer/inventory"
	"golang.org/x/sys/unix"
)

// The tests in this file meter real virtual machines, found as an agent finds
// them, and compare what is measured with what is known. `make accuracy` prints
// what they find.

var all = flag.Bool("all", false, "every kind of network interface and of disk, too")

// realVM is a real virtual machine under a source.
type realVM struct {
	*qemu.Guest
	t      *testing.T
	source *VMs
	found  *inventory.Processes
	last   odometer.Reading
	tally  *tally
}

// needVM is for a test that boots a machine: it runs beside others that do, after
// the tests that measure this one.
func needVM(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("a virtual machine takes seconds to boot")
	}
	qemu.Need(t)
	t.Parallel()
}

// startVM boots a machine under a source that was opened before.
func startVM(t *testing.T, o qemu.Options) *realVM {
	t.Helper()
	v := &realVM{t: t, source: openVMs(t), tally: newTally(t)}
	var err error
	if v.found, err = inventory.OpenProcesses(inventory.ProcessesOptions{Agent: "host-1", Clock: SystemClock{}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { v.found.Close() })
	v.Guest = qemu.Start(t, o)
	return v
}

// list is the machine as the inventory has it.
func (v *realVM) list() []odometer.VM {
	v.t.Helper()
	vms, err := v.found.List(v.t.Context())
	if err != nil {
		v.t.Fatal(err)
	}
	for _, m := range vms {
		if string(m.Instance) == v.UUID {
			return []odometer.VM{m}
		}
	}
	v.t.Fatalf("guest %s is not found", v.Name)
	return nil
}

// sample reads everything anew, also what is looked at now and then only.
func (v *realVM) sample() odometer.Reading {
	v.t.Helper()
	v.source.Update(v.list())
	v.source.mu.Lock()
	for _, m := range v.source.list {
		if m.run != nil {
			m.run.memoryAt = 0
		}
	}
	v.source.images.refresh()
	waited := []*imageFS{}
	for _, fs := range v.source.images.byFS {
		waited = append(waited, fs)
	}
	v.source.mu.Unlock()
	v.source.images.wait(waited)
	for _, r := range readings(v.t, v.source) {
		v.tally.observe(r)
		v.last = r
	}
	return v.last
}

func (v *realVM) counted(r odometer.Reading, q odometer.Quantity, device string) int64 {
	v.t.Helper()
	for _, c := range r.Counters {
		if c.Quantity == q && c.Device == device {
			return int64(c.Value)
		}
	}
	v.t.Fatalf("%s of %q is not measured: %v", q, device, v.source.Sources())
	return 0
}

// grown is how much a counter has grown between two readings.
func (v *realVM) grown(q odometer.Quantity, device string, from, to odometer.Reading) int64 {
	v.t.Helper()
	return v.counted(to, q, device) - v.counted(from, q, device)
}

// touched is the memory of a process that is its own, page by page.
func touched(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		var n int64
		if _, err := fmt.Sscanf(line, "Anonymous: %d kB", &n); err == nil {
			return n << 10
		}
	}
	t.Fatalf("no Anonymous in %s", b)
	return 0
}

func balloon(t *testing.T, c *qmp.Client, to int64) {
	t.Helper()
	if err := c.SetBalloon(t.Context(), to); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		now, err := c.Balloon(t.Context())
		if err == nil && now == to {
			return
		}
		if err != nil || time.Now().After(end) {
			t.Fatalf("the balloon leaves %d bytes, want %d: %v", now, to, err)
		}
	}
}

// TestVMGuest compares what is measured of a real machine, from its first
// moment to its last, with what it says that it did, and with what the kernel
// tells its parent that it used.
func TestVMGuest(t *testing.T) {
	needVM(t)
	const disk, mib = 32 << 20, 1 << 20
	raw := filepath.Join(imageDir(t), "vda.raw")
	if err := writeDirect(raw, disk); err != nil {
		t.Fatal(err)
	}
	o := qemu.Options{
		Cgroups: []string{newCgroup(t, anyCgroup)},
		Disks:   []qemu.Disk{{Path: raw}, {Path: qemu.Image(t, "qcow2", 256*mib)}},
		NICs:    []qemu.NIC{{Kind: qemu.TapFD}},
	}
	kinds := []string{"tap as an open file"}
	if *all {
		kinds = append(kinds, "tap", "macvtap", "tap in a bridge")
		name := func(kind string) string { return fmt.Sprintf("%s%d", kind, os.Getpid()%100000) }
		o.NICs = append(o.NICs, qemu.NIC{}, qemu.NIC{Link: name("mvs"), Kind: qemu.Macvtap}, qemu.NIC{Link: name("brs"), Bridge: name("brg")})
	}
	v := startVM(t, o)
	a := qemu.NewAccuracy()
	t.Cleanup(func() { a.Log(t) })
	before := v.sample()

	write, read := v.Disk("vda").Written, v.Disk("vda").Read
	v.Write(16 * mib)
	v.Read(8 * mib)
	after := v.sample()
	// The file's inode has another time of its last change then, which is a page.
	a.Between(t, "raw disk: bytes written, the guest's sectors", int64(v.Disk("vda").Written-write), v.grown(odometer.DiskWrite, "", before, after), 0, 16<<10)
	a.Near(t, "raw disk: bytes read, the guest's sectors", int64(v.Disk("vda").Read-read), v.grown(odometer.DiskRead, "", before, after), 0)
	before = after

	write = v.Disk("vdb").Written
	v.WriteAt("vdb", 0, 16*mib)
	after = v.sample()
	a.Between(t, "qcow2 disk: bytes written and the image's own tables", int64(v.Disk("vdb").Written-write), v.grown(odometer.DiskWrite, "", before, after), 0, mib)
	a.Between(t, "qcow2 disk: bytes occupied more and the tables", 16*mib, after.Gauges.Storage-before.Gauges.Storage, 0, mib)
	v.WriteAt("vdb", 0, 16*mib)
	again := v.sample()
	a.Near(t, "qcow2 disk: bytes occupied more, written again", 0, again.Gauges.Storage-after.Gauges.Storage, 0)
	a.Near(t, "bytes provisioned, both disks", disk+256*mib, again.Gauges.StorageProvisioned, 0)
	if err := v.QMP().Execute(t.Context(), "block_resize", map[string]any{"device": "drive0", "size": disk + 8*mib}, nil); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); v.sample().Gauges.StorageProvisioned != disk+264*mib && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	a.Near(t, "bytes provisioned, a disk grown by 8 MiB", disk+264*mib, v.last.Gauges.StorageProvisioned, 0)

	for i, kind := range kinds {
		eth, net, peer := fmt.Sprintf("eth%d", i), v.list()[0].NICs[i].Name, v.Peer(i)
		before, inside := v.sample(), v.Link(eth)
		v.Send(peer, 4*mib)
		v.Receive(peer, 2*mib)
		now, after := v.Link(eth), v.sample()
		a.Near(t, kind+": bytes sent, the guest's counter", int64(now.Sent-inside.Sent), v.grown(odometer.NetworkEgress, net, before, after), 0)
		a.Near(t, kind+": bytes received, the guest's counter", int64(now.Received-inside.Received), v.grown(odometer.NetworkIngress, net, before, after), 0)
	}

	// The balloon first takes what the guest has touched while it booted, so that
	// what it touches afterwards is new to the host.
	q := v.QMP()
	balloon(t, q, 72*mib)
	balloon(t, q, 128*mib)
	before = v.sample()
	v.Touch(40 * mib)
	after = v.sample()
	a.Near(t, "bytes of memory, page by page", touched(t, v.PID()), after.Gauges.Memory, mib)
	a.Near(t, "bytes of memory more, touched", 40*mib, after.Gauges.Memory-before.Gauges.Memory, 8*mib)
	v.Touch(0)
	balloon(t, q, 88*mib)
	again = v.sample()
	a.Near(t, "bytes of memory, page by page, the balloon has 40 MiB", touched(t, v.PID()), again.Gauges.Memory, mib)
	a.Near(t, "bytes of memory less, the balloon has 40 MiB", 40*mib, after.Gauges.Memory-again.Gauges.Memory, 8*mib)

	// It is killed while it writes and sends. Stopped, it does no more, and is
	// still killed between two samples.
	v.Background("dd if=/dev/zero of=/dev/vda bs=64k count=480")
	v.SendOn(v.Peer(0))
	v.Burn(time.Second)
	v.sample()
	time.Sleep(100 * time.Millisecond)
	v.Signal(syscall.SIGSTOP)
	r, w := settledIO(t, v.PID())
	host := v.HostLink(0)
	v.Kill()
	v.source.Update(nil)
	last := readings(t, v.source)
	v.tally.observe(last...)
	if len(last) != 1 || !last[0].Final {
		t.Fatalf("got %+v, want the last reading", last)
	}
	net := before.Counters[len(before.Counters)-2*len(kinds)].Device
	// The record of a thread leaves out what is less than a KiB.
	const threads = 16
	a.Between(t, "killed: bytes written, /proc/PID/io", int64(w), v.counted(last[0], odometer.DiskWrite, ""), threads<<10, 0)
	a.Between(t, "killed: bytes read, /proc/PID/io", int64(r), v.counted(last[0], odometer.DiskRead, ""), threads<<10, 0)
	a.Near(t, "killed: bytes sent, the tap's counter", int64(host.Received), v.counted(last[0], odometer.NetworkEgress, net), 0)
	used := v.Used().Microseconds()
	a.Near(t, "µs of CPU from start to end, wait4(2)", used, v.tally.usage[odometer.CPU], 10_000+used/1000)
	a.Near(t, "final events", 1, int64(v.tally.final), 0)
	a.Near(t, "µs in gaps", 0, v.tally.usage[odometer.GapTime], 0)
}

// settledIO reads what a process that is stopped had the storage layer read and
// write, when it does so no more: a system call ends first.
func settledIO(t *testing.T, pid int) (read, wrote uint64) {
	t.Helper()
	for {
		read, wrote = processIO(t, pid)
		time.Sleep(50 * time.Millisecond)
		if r, w := processIO(t, pid); r == read && w == wrote {
			return read, wrote
		}
	}
}

// TestVMGuestElsewhere runs a machine from a block device, in a network namespace
// of its own.
func TestVMGuestElsewhere(t *testing.T) {
	if !*all {
		t.Skip("only with -all")
	}
	needVM(t)
	const mib = 1 << 20
	image := filepath.Join(imageDir(t), "disk.raw")
	if err := writeDirect(image, 32*mib); err != nil {
		t.Fatal(err)
	}
	device := qemu.LoopDevice(t, image)
	netns := fmt.Sprintf("odometer-sampler-%d", os.Getpid())
	qemu.Netns(t, netns)
	v := startVM(t, qemu.Options{Netns: netns, Disks: []qemu.Disk{{Path: device}}, NICs: []qemu.NIC{{Link: "tap0"}}})
	a := qemu.NewAccuracy()
	before, write := v.sample(), v.Disk("vda").Written
	v.Write(16 * mib)
	after := v.sample()
	a.Near(t, "block device: bytes written, the guest's sectors", int64(v.Disk("vda").Written-write), v.grown(odometer.DiskWrite, "", before, after), 0)
	a.Near(t, "block device: bytes provisioned", 32*mib, after.Gauges.StorageProvisioned, 0)
	net, peer, inside := v.list()[0].NICs[0].Name, v.Peer(0), v.Link("eth0")
	v.Send(peer, 4*mib)
	v.Receive(peer, 2*mib)
	now, there := v.Link("eth0"), v.sample()
	a.Near(t, "tap in another namespace: bytes sent, the guest's counter", int64(now.Sent-inside.Sent), v.grown(odometer.NetworkEgress, net, after, there), 0)
	a.Near(t, "tap in another namespace: bytes received, the guest's counter", int64(now.Received-inside.Received), v.grown(odometer.NetworkIngress, net, after, there), 0)
	var st unix.Stat_t
	if err := unix.Stat(image, &st); err != nil {
		t.Fatal(err)
	}
	if got := after.Gauges.Storage; got != odometer.Unknown { // which is right where no layer tells it
		a.Near(t, "block device: bytes occupied, blocks of the file behind it", st.Blocks*512, got, 0)
	}
	a.Log(t)
}

// TestVMGPUTime has a device attached for a known time.
func TestVMGPUTime(t *testing.T) {
	needRoot(t)
	g := startGuest(t, 0)
	s, y := openVMs(t), newTally(t)
	with := machineOf(g, "vm-1", func(v *odometer.VM) {
		v.GPUs = []odometer.GPUDevice{{Name: "hostdev0", Kind: odometer.GPUWhole, Address: "0000:65:00.0"}}
	})
	without := machineOf(g, "vm-1")
	update := func(v odometer.VM) (from, to int64) {
		from = s.clock.Now().Boot
		s.Update([]odometer.VM{v})
		return from, s.clock.Now().Boot
	}
	update(without)
	y.observe(readings(t, s)...)
	a1, a2 := update(with)
	time.Sleep(300 * time.Millisecond)
	y.observe(readings(t, s)...)
	b1, b2 := update(without)
	time.Sleep(50 * time.Millisecond)
	g.kill()
	y.observe(eventuallyEnded(t, s)...)
	s.Update(nil)
	y.observe(readings(t, s)...)
	a := qemu.NewAccuracy()
	a.Between(t, "µs of a GPU, attached", b1-a1, y.usage[odometer.GPU], a2-a1, b2-b1)
	a.Log(t)
}

// TestVMOnCgroupV2 runs the tests of what is metered from outside on a host
// that has cgroup v2 and nothing of v1: a guest, with a kernel of Debian's.
func TestVMOnCgroupV2(t *testing.T) {
	needVM(t)
	g := qemu.Start(t, qemu.Options{
		// Its clock goes by instructions: what other work takes from it meanwhile
		// it would charge to whatever runs.
		Args:   []string{"-icount", "shift=2"},
		Memory: 256 << 20, Modules: []string{"tun", "veth", "macvtap"},
		Disks: []qemu.Disk{{Path: qemu.Image(t, "raw", 64<<20)}},
		Files: map[string]string{"/sampler.test": qemu.TestBinary(t, "example.org/odometer/sampler")},
	})
	g.Run("mkdir -p /var/tmp && mke2fs /dev/vda >/dev/null && mount -t ext4 /dev/vda /var/tmp")
	g.Run("echo '+cpu +io +memory' >/sys/fs/cgroup/cgroup.subtree_control")
	out, status := g.RunFor("/sampler.test -test.v -test.short -test.run '^TestVM("+strings.Join([]string{
		"ProcessorTime", "RunsBornAndFound", "Ends", "CgroupIsMadeAgain", "BetweenTwoSamples", "TapIsMadeAgain", "Direction",
	}, "|")+")$/(own_cgroup|in_a_cgroup|its_cgroup|whose_cgroup|a_tap|a_macvtap)'", 5*time.Minute)
	for line := range strings.Lines(out) {
		if strings.Contains(line, "--- ") || strings.Contains(line, "truth ") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
	if status != 0 || strings.Count(out, "\n    --- PASS: TestVMEnds/") < 3 || !strings.Contains(out, "--- PASS: TestVMProcessorTime/its_own_cgroup_of_v2") {
		t.Errorf("exit status %d\n%s", status, out)
	}
}
