package inventory

import (
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// line is a short command line of QEMU.
func line(name string, more ...string) []string {
	return append([]string{"/usr/bin/qemu-system-x86_64", "-name", name, "-m", "512"}, more...)
}

func emptyHost(t testing.TB) *hostTree {
	h := &hostTree{t: t, root: t.TempDir()}
	h.boot.Store(60_000 * odometer.SecondMicros)
	h.write("proc/sys/kernel/random/boot_id", "0f\n")
	return h
}

// sight is what a list shows of who runs.
func sight(vms []odometer.VM) string {
	var list []string
	for _, v := range vms {
		list = append(list, fmt.Sprintf("%s in %s", v.Instance, v.Run))
	}
	return strings.Join(list, ", ")
}

// TestProcessesComeAndGo lists a host before and after something happened.
func TestProcessesComeAndGo(t *testing.T) {
	for _, c := range []struct {
		name          string
		before        func(*hostTree)
		happens       func(*hostTree)
		first, second string
	}{
		{
			name:   "a machine starts",
			before: func(h *hostTree) {}, happens: func(h *hostTree) { h.process(7, 1, 100, line("a")...) },
			second: "host-1:a in 0f/7/100",
		},
		{
			name:   "a machine ends",
			before: func(h *hostTree) { h.process(7, 1, 100, line("a")...) }, happens: func(h *hostTree) { h.kill(7) },
			first: "host-1:a in 0f/7/100",
		},
		{
			name:    "the number of a machine's process passes to another machine, in a directory of its own",
			before:  func(h *hostTree) { h.process(7, 1, 100, line("a")...) },
			happens: func(h *hostTree) { h.process(8, 1, 200, line("b")...); h.kill(7); h.move(8, 7) },
			first:   "host-1:a in 0f/7/100", second: "host-1:b in 0f/7/200",
		},
		{
			name:    "… and even in one with the same inode",
			before:  func(h *hostTree) { h.process(7, 1, 100, line("a")...) },
			happens: func(h *hostTree) { h.process(7, 1, 200, line("b")...) },
			first:   "host-1:a in 0f/7/100", second: "host-1:b in 0f/7/200",
		},
		{
			name:    "the same command line is another run when the start time is another",
			before:  func(h *hostTree) { h.process(7, 1, 100, line("a")...) },
			happens: func(h *hostTree) { h.process(7, 1, 101, line("a")...) },
			first:   "host-1:a in 0f/7/100", second: "host-1:a in 0f/7/101",
		},
		{
			name:    "the number passes to what is no machine",
			before:  func(h *hostTree) { h.process(7, 1, 100, line("a")...) },
			happens: func(h *hostTree) { h.process(7, 1, 200, "sleep", "1") },
			first:   "host-1:a in 0f/7/100",
		},
		{
			name:    "a process is forked before it executes its hypervisor",
			before:  func(h *hostTree) { h.process(7, 1, 5_999_999, "/usr/sbin/libvirtd") },
			happens: func(h *hostTree) { h.process(7, 1, 5_999_999, line("a")...) },
			second:  "host-1:a in 0f/7/5999999",
		},
		{
			name:    "a machine's process has ended and its parent has not asked how",
			before:  func(h *hostTree) { h.process(7, 1, 100, line("a")...) },
			happens: func(h *hostTree) { h.write("proc/7/stat", statLine(7, 'Z', 1, 7, 100)) },
			first:   "host-1:a in 0f/7/100",
		},
		{
			name:    "it vanishes between the list of processes and the reading",
			before:  func(h *hostTree) { h.dir("proc/7") },
			happens: func(h *hostTree) { h.process(9, 1, 100, line("a")...); h.dir("proc/8") },
			second:  "host-1:a in 0f/9/100",
		},
		{
			name:    "garbage where a stat should be costs that process",
			before:  func(h *hostTree) { h.process(7, 1, 100, line("a")...); h.process(8, 1, 100, line("b")...) },
			happens: func(h *hostTree) { h.process(9, 1, 100, line("c")...); h.write("proc/9/stat", "9 (c S") },
			first:   "host-1:a in 0f/7/100, host-1:b in 0f/8/100", second: "host-1:a in 0f/7/100, host-1:b in 0f/8/100",
		},
		{
			name:   "a helper that a machine forks is not another one",
			before: func(h *hostTree) { h.process(7, 1, 100, line("a")...) },
			happens: func(h *hostTree) {
				h.process(8, 7, 300, line("a")...)
				h.write("proc/8/stat", statLine(8, 'S', 7, 7, 300))
			},
			first: "host-1:a in 0f/7/100", second: "host-1:a in 0f/7/100",
		},
		{
			name:   "the process that waits for its daemon is not another one",
			before: func(h *hostTree) {},
			happens: func(h *hostTree) {
				h.process(7, 1, 100, line("a", "-daemonize")...)
				h.process(9, 1, 100, line("a", "-daemonize")...)
			},
			second: "host-1:a in 0f/9/100",
		},
		{
			name:   "of two machines with one name the first keeps the identity",
			before: func(h *hostTree) { h.process(9, 1, 100, line("a")...) },
			happens: func(h *hostTree) {
				h.process(7, 1, 300, line("a", "-smp", "2")...)
			},
			first: "host-1:a in 0f/9/100", second: "host-1:a in 0f/9/100, host-1:a~7.300 in 0f/7/300",
		},
		{
			name: "… and of two with one UUID the second is known by its name",
			before: func(h *hostTree) {
				h.process(7, 1, 300, line("b", "-uuid", "{00000000-0000-0000-0000-00000000000A}")...)
			},
			happens: func(h *hostTree) {
				h.process(9, 1, 100, line("a", "-uuid", "0000000000000000000000000000000a")...)
			},
			first:  "00000000-0000-0000-0000-00000000000a in 0f/7/300",
			second: "00000000-0000-0000-0000-00000000000a in 0f/9/100, host-1:b in 0f/7/300",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := emptyHost(t)
			c.before(h)
			p := h.open()
			if got := sight(list(t, p)); got != c.first {
				t.Errorf("first list: got %s, want %s", got, c.first)
			}
			c.happens(h)
			for range 2 {
				if got := sight(list(t, p)); got != c.second {
					t.Errorf("second list: got %s, want %s", got, c.second)
				}
			}
			// Whoever looks for the first time sees the same.
			if got := sight(list(t, h.open())); got != c.second {
				t.Errorf("another look: got %s, want %s", got, c.second)
			}
		})
	}
}

func (h *hostTree) move(from, to int) {
	h.t.Helper()
	h.check(os.Rename(h.path(fmt.Sprintf("proc/%d", from)), h.path(fmt.Sprintf("proc/%d", to))))
}

func TestAnOldProcessThatExecutesAHypervisorIsFound(t *testing.T) {
	h := emptyHost(t)
	h.process(7, 1, 100, "/bin/sh", "-c", "read x; exec qemu-system-x86_64")
	p := h.open()
	list(t, p)
	h.process(7, 1, 100, line("a")...)
	for scans := 1; ; scans++ {
		if len(list(t, p)) == 1 {
			break
		}
		if scans == turns {
			t.Fatalf("not found in %d scans", turns)
		}
	}
	// And one that executes something else is a machine no longer.
	h.process(7, 1, 100, "/bin/true")
	h.pass(40)
	list(t, p)
	if vms := list(t, p); len(vms) != 0 {
		t.Errorf("got %s, want no machine", sight(vms))
	}
}

func TestADiskGrowsAndAnInterfaceIsNamedLater(t *testing.T) {
	h := emptyHost(t)
	h.image([]string{"qcow2", "a.qcow2", "1000000"})
	h.process(7, 1, 5_999_900, line("a", "-drive", "file=/a.qcow2", "-nic", "tap")...)
	p := h.open()
	before := list(t, p)
	if got := before[0].Disks[0].Provisioned; got != 1000000 {
		t.Errorf("got %d bytes, want 1000000", got)
	}
	if len(p.Problems()) != 1 || before[0].NICs[0].Link != "" {
		t.Errorf("got %q, %+v, want that the tap is not known yet", p.Problems(), before[0].NICs)
	}
	h.link("proc/7/fd/12", "/dev/net/tun")
	h.write("proc/7/fdinfo/12", "pos:\t0\niff:\ttap4\n")
	h.image([]string{"qcow2", "a.qcow2", "2000000"})
	h.pass(1)
	after := list(t, p)
	if got := after[0].Disks[0].Provisioned; got != 2000000 {
		t.Errorf("got %d bytes, want 2000000", got)
	}
	if got := after[0].NICs[0].Link; got != "tap4" || len(p.Problems()) != 0 {
		t.Errorf("got interface %q and %q, want tap4", got, p.Problems())
	}
	if got := before[0].Disks[0].Provisioned; got != 1000000 {
		t.Errorf("the list from before was changed: %d", got)
	}
	// Later it is looked at less often.
	h.pass(20)
	list(t, p)
	h.image([]string{"qcow2", "a.qcow2", "3000000"})
	h.pass(31)
	if got := list(t, p)[0].Disks[0].Provisioned; got != 3000000 {
		t.Errorf("got %d bytes, want 3000000", got)
	}
}

func TestAFilesystemThatHangsCostsItsDisk(t *testing.T) {
	h := emptyHost(t)
	h.image([]string{"raw", "a.img", "4096"})
	h.process(7, 1, 100, line("a", "-drive", "file=/a.img,format=raw", "-smp", "3")...)
	p := h.open()
	p.wait = patience
	for range maxWaiting { // as many threads as may wait for filesystems do
		p.gate <- struct{}{}
	}
	v := list(t, p)[0]
	if v.VCPUs != 3 || v.Disks[0].Provisioned != odometer.Unknown {
		t.Errorf("got %+v, want 3 vCPUs and a disk of unknown size", v)
	}
	want := []string{"process 7 (a): disk ide0-hd0: the filesystem of /a.img does not answer"}
	if got := p.Problems(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	for range maxWaiting {
		<-p.gate
	}
	p.wait = time.Minute
	h.pass(1)
	if got := list(t, p)[0].Disks[0].Provisioned; got != 4096 || len(p.Problems()) != 0 {
		t.Errorf("got %d bytes and %q, want 4096", got, p.Problems())
	}
}

func TestWhatCannotBeReadIsNamed(t *testing.T) {
	h := emptyHost(t)
	h.process(7, 1, 100, line("a", "-readconfig", "/etc/vm.cfg", "-drive", "file=/none.qcow2", "-drive", "file=/dir",
		"-drive", "file=/short.qcow2,format=qcow2", "-drive", "file=/old.vmdk", "-device", "virtio-blk-pci,drive=nowhere,id=x",
		"-blockdev", "{", "-device", "vfio-pci,host=01:00.0,id=gpu", "-device", "vfio-pci,host=../..,id=odd", "-netdev", "vde,id=v", "-device", "e1000,netdev=v")...)
	h.dir("dir")
	h.write("short.qcow2", "QFI\xfb\x00\x00\x00\x03")
	h.write("old.vmdk", "KDMV\x01\x00\x00\x00")
	h.process(8, 1, 100, line("b", "-m", "much", "-smp", "-3", "-uuid", "me")...)
	h.write("proc/9/stat", "")
	p := h.open()
	vms := list(t, p)
	want := []string{
		"process 7 (a): -blockdev is not understood: read JSON: unexpected EOF",
		"process 7 (a): -readconfig /etc/vm.cfg: what stands in that file is not read",
		"process 7 (a): device gpu: what it is is not known: open $ROOT/sys/bus/pci/devices/0000:01:00.0/class: no such file or directory",
		`process 7 (a): device odd: "../.." is no PCI address`,
		"process 7 (a): disk ide0-hd0: look at /none.qcow2: no such file or directory",
		"process 7 (a): disk ide0-hd1: /dir is neither a file nor a block device",
		"process 7 (a): disk ide1-hd0: read the header of /short.qcow2: malformed qcow2 header",
		"process 7 (a): disk ide1-hd1: read the header of /old.vmdk: the size of a vmdk image is not read",
		"process 7 (a): disk x: there is no drive nowhere",
		"process 7 (a): interface v: traffic over -netdev vde is not measured",
		`process 8 (b): -uuid "me" is no UUID that tells machines apart`,
		`process 8 (b): memory: -m size="much" is no size`,
		"process 8 (b): vCPUs: -smp is not understood",
		"process 9: what it is is not known: malformed /proc/PID/stat",
	}
	got := p.Problems()
	for i := range got {
		got[i] = strings.ReplaceAll(got[i], h.root, "$ROOT")
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for _, d := range vms[0].Disks {
		if d.Provisioned != odometer.Unknown {
			t.Errorf("disk %s has %d bytes, want unknown", d.Name, d.Provisioned)
		}
	}
	if len(vms[0].GPUs) != 0 || vms[1].Memory != odometer.Unknown || vms[1].VCPUs != odometer.Unknown {
		t.Errorf("got %+v, want nothing guessed", vms)
	}
}

func TestOpenProcessesRefuses(t *testing.T) {
	if _, err := OpenProcesses(ProcessesOptions{Root: t.TempDir()}); err == nil || !strings.Contains(err.Error(), "boot id") {
		t.Errorf("got %v, want that there is no boot id", err)
	}
	h := emptyHost(t)
	p := h.open()
	h.check(p.Close())
	if _, err := p.List(t.Context()); err == nil {
		t.Error("a closed source lists")
	}
}

// TestSecretsStayOut looks for keys and passwords in what is told.
func TestSecretsStayOut(t *testing.T) {
	g := recognise(line("a",
		"-drive", "file=rbd:p/i:id=admin:key=SECRET:mon_host=h", "-drive", "file=https://me:SECRET@host/i.img?token=SECRET",
		"-drive", "file=ssh://me:SECRET@host/i.img", "-drive", "file=nbd://user:SECRET@h/x",
		"-drive", `file=json:{"driver":"https",,"url":"https://u:SECRET@h/i?SECRET"}`), "")
	if s := fmt.Sprintf("%+v", g); strings.Contains(s, "SECRET") {
		t.Errorf("a secret is told: %s", s)
	}
	var got []string
	for _, d := range g.disks {
		got = append(got, d.Path)
	}
	want := []string{"rbd:p/i", "https://host/i.img", "ssh://host/i.img", "nbd://h/x", "https://h/i"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// BenchmarkScan lists a host of 1000 machines among 4000 other processes, with
// nothing changed since the list before. The tree lies in memory where there
// is such a filesystem.
func BenchmarkScan(b *testing.B) {
	h := crowd(b, 1000, 4000)
	p := h.open()
	if n := len(list(b, p)); n != 1000 {
		b.Fatalf("got %d machines", n)
	}
	b.ReportAllocs()
	for b.Loop() {
		list(b, p)
	}
}

// BenchmarkRealScan does the same with as many real processes, which are
// watched through their pidfds.
func BenchmarkRealScan(b *testing.B) {
	p, err := OpenProcesses(ProcessesOptions{Agent: "host-1", Clock: realClock{}})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	before := len(list(b, p))
	for range 1000 {
		cmd := &exec.Cmd{Path: "/bin/sleep", Args: []string{"kvm", "1000"}}
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		defer func() { cmd.Process.Kill(); cmd.Wait() }()
	}
	for len(list(b, p)) < before+1000 {
	}
	// As it is when they have run for a while.
	for pid, s := range p.seen {
		s.young = 0
		p.seen[pid] = s
	}
	for _, m := range p.machines {
		m.next = math.MaxInt64
	}
	b.ReportAllocs()
	for b.Loop() {
		list(b, p)
	}
}

// BenchmarkLook looks at one machine anew, its disk and its interface.
func BenchmarkLook(b *testing.B) {
	h := crowd(b, 1, 0)
	p := h.open()
	list(b, p)
	b.ReportAllocs()
	for b.Loop() {
		h.pass(40)
		list(b, p)
	}
}

// crowd makes a host with so many machines and other processes.
func crowd(t testing.TB, machines, others int) *hostTree {
	t.Helper()
	h := emptyHost(t)
	if dir, err := os.MkdirTemp("/dev/shm", "inventory-test-"); err == nil {
		t.Cleanup(func() { os.RemoveAll(dir) })
		h.root = dir
		h.write("proc/sys/kernel/random/boot_id", "0f\n")
	}
	for i := range machines {
		name := fmt.Sprintf("vm-%04d", i)
		h.image([]string{"qcow2", filepath.Join("images", name), "1000000"})
		h.process(10_000+i, 1, uint64(1000+i), line(name, "-uuid", fmt.Sprintf("00000000-0000-4000-8000-%012x", i+1),
			"-drive", "file=/images/"+name+",if=virtio", "-nic", "tap,ifname=tap"+name)...)
	}
	for i := range others {
		h.process(20_000+i, 1, uint64(1000+i), "sleep", "infinity")
	}
	return h
}

func TestAScanWithoutChangesAllocatesNothing(t *testing.T) {
	h := crowd(t, 20, 200)
	p := h.open()
	list(t, p)
	ctx := t.Context()
	if n := testing.AllocsPerRun(2*turns, func() { p.List(ctx) }); n > 0 {
		t.Errorf("a scan allocates %v times", n)
	}
}
