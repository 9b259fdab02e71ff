package inventory

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
	booted "example.org/odometer/internal/guest"
	"example.org/odometer/internal/qmp"
)

// follower watches the processes of this host and notes what is told of some
// of its machines.
type follower struct {
	t *testing.T
	p *Processes
	w *Watch

	mu      sync.Mutex
	vms     []odometer.VM
	changes []odometer.Change
}

func follow(t *testing.T) *follower {
	t.Helper()
	f := &follower{t: t, p: realProcesses(t)}
	f.p.ask.pace.ask, f.p.ask.pace.held = 500*time.Millisecond, 2*time.Second // for the tests' sake
	f.w = NewWatch(WatchOptions{
		Sources: []Watched{{Source: f.p, Every: time.Second}}, Agent: "host-1", Clock: realClock{},
		Changed: func(vms []odometer.VM, changes []odometer.Change) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.vms, f.changes = vms, append(f.changes, changes...)
		}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.w.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	for !f.w.Status()[0].OK { // what comes after that has started
		time.Sleep(time.Millisecond)
	}
	return f
}

// vm returns a machine as it was last told.
func (f *follower) vm(id string) *odometer.VM {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i, ok := find(f.vms, odometer.InstanceID(id)); ok {
		return &f.vms[i]
	}
	return nil
}

// until waits for a machine to be as is says.
func (f *follower) until(id, what string, is func(*odometer.VM) bool) {
	f.t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		if v := f.vm(id); v != nil && is(v) {
			return
		}
		if time.Now().After(end) {
			f.t.Fatalf("%s does not show: %+v; problems %q", what, f.vm(id), f.p.Problems())
		}
	}
}

// happens does something to a machine and waits until exactly these changes
// were told of it since the last time, each with its device and detail.
func (f *follower) happens(id string, do func(), want ...string) {
	f.t.Helper()
	do()
	var got []string
	for end := time.Now().Add(time.Minute); len(got) < len(want) && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		got = f.told(id)
	}
	if !slices.Equal(got, want) {
		f.t.Fatalf("got\n%s\nwant\n%s\nproblems %q", strings.Join(got, "\n"), strings.Join(want, "\n"), f.p.Problems())
	}
	f.forget(id)
}

// forget drops what was told of a machine.
func (f *follower) forget(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changes = slices.DeleteFunc(f.changes, func(c odometer.Change) bool { return string(c.Instance) == id })
}

func (f *follower) told(id string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var list []string
	for _, c := range f.changes {
		if string(c.Instance) == id {
			list = append(list, strings.Join(strings.Fields(fmt.Sprintf("%s %s %s", c.Kind, c.Device, c.Detail)), " "))
		}
	}
	return list
}

// problem waits until this problem of a machine and no other is named, or none
// is where text is "".
func (f *follower) problem(pid int, text string) { f.t.Helper(); f.problems(pid, text, true) }

// problemWith waits until this problem of a machine is named among others.
func (f *follower) problemWith(pid int, text string) { f.t.Helper(); f.problems(pid, text, false) }

func (f *follower) problems(pid int, text string, alone bool) {
	f.t.Helper()
	who := fmt.Sprintf("process %d ", pid)
	var mine []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		mine = nil
		for _, p := range f.w.Status()[0].Problems {
			if strings.HasPrefix(p, who) {
				mine = append(mine, p)
			}
		}
		named := slices.ContainsFunc(mine, func(p string) bool { return text != "" && strings.Contains(p, text) })
		if named == (text != "") && (!alone || len(mine) < 2 && named == (len(mine) == 1)) {
			return
		}
	}
	f.t.Fatalf("got problems %q of process %d, want %q", mine, pid, text)
}

// do has the test's own client of a guest run a command.
func do(t *testing.T, g *booted.Guest, command string, arguments any) func() {
	return func() {
		t.Helper()
		if err := g.QMP().Execute(t.Context(), command, arguments, nil); err != nil {
			t.Fatal(err)
		}
	}
}

// TestARealQEMUIsFollowed follows a machine that runs without libvirt through
// what another client of QEMU does to it.
func TestARealQEMUIsFollowed(t *testing.T) {
	if testing.Short() {
		t.Skip("the machine boots three times")
	}
	base := booted.Disk{Path: booted.Image(t, "qcow2", 64<<20)}
	root, plugged := booted.Image(t, "qcow2", 96<<20, base), booted.Image(t, "raw", 32<<20)
	f := follow(t)
	tap := fmt.Sprintf("odoc%d", syscall.Getpid()%100000)
	g := booted.Launch(t, booted.Options{
		VCPUs: 2, Slots: 2, Disks: []booted.Disk{{Path: root}}, NICs: []booted.NIC{{Link: tap}},
		Args: append(spare(t), "-m", "128M,slots=2,maxmem=512M", "-smp", "2,maxcpus=3", "-device", "ide-cd,id=cd0"),
	})
	f.happens(g.UUID, func() {}, "started")
	g.Ready()
	f.until(g.UUID, "what it was started with", func(v *odometer.VM) bool {
		return v.State == odometer.Running && v.VCPUs == 2 && v.Memory == 128<<20 && len(v.Disks) == 1 && len(v.NICs) == 1
	})
	before := *f.vm(g.UUID)
	if d := before.Disks[0]; d.Name != "disk0" || d.Path != root || d.Provisioned != 96<<20 || !slices.Equal(d.Backing, []string{base.Path}) {
		t.Errorf("got disk %+v", d)
	}
	if n := before.NICs[0]; n.Name != "nic0" || n.Link != tap || n.Kind != odometer.NICTap {
		t.Errorf("got interface %+v", n)
	}
	f.problem(g.PID(), "")

	f.happens(g.UUID, do(t, g, "stop", nil), "paused")
	f.happens(g.UUID, do(t, g, "cont", nil), "resumed")
	f.happens(g.UUID, do(t, g, "system_reset", nil), "rebooted reset by its host")
	g.Ready()
	f.happens(g.UUID, g.Reboot, "rebooted")
	f.happens(g.UUID, do(t, g, "block_resize", map[string]any{"device": "drive0", "size": 100 << 20}), "resized disk0 96 MiB to 100 MiB")

	var disk, nic string
	f.happens(g.UUID, func() { disk = g.PlugDisk(booted.Disk{Path: plugged}) }, "device_added disk10 file, 32 MiB")
	if d := f.vm(g.UUID).Disks; len(d) != 2 || d[1].Provisioned != 32<<20 || d[1].Format != "raw" {
		t.Errorf("got disks %+v", d)
	}
	second := tap + "b"
	f.happens(g.UUID, func() { nic = g.PlugNIC(booted.NIC{Link: second}) }, "device_added nic11 tap "+second)
	f.happens(g.UUID, func() { g.Unplug(disk) }, "device_removed disk10 file, 32 MiB")
	f.happens(g.UUID, func() { g.Unplug(nic) }, "device_removed nic11 tap "+second)

	snapshot := root + ".over"
	f.happens(g.UUID, do(t, g, "blockdev-snapshot-sync", map[string]any{"device": "drive0", "snapshot-file": snapshot}))
	f.until(g.UUID, "the snapshot", func(v *odometer.VM) bool {
		return v.Disks[0].Path == snapshot && slices.Equal(v.Disks[0].Backing, []string{root, base.Path}) && v.Disks[0].Provisioned == 100<<20
	})
	f.happens(g.UUID, func() {
		do(t, g, "object-add", map[string]any{"qom-type": "memory-backend-ram", "id": "more", "size": 128 << 20})()
		do(t, g, "device_add", map[string]any{"driver": "pc-dimm", "id": "dimm0", "memdev": "more"})()
	}, "resized 128 MiB to 256 MiB of memory")
	f.happens(g.UUID, do(t, g, "device_add", map[string]any{"driver": "qemu64-x86_64-cpu", "id": "cpu2", "socket-id": 0, "core-id": 2, "thread-id": 0}),
		"resized 2 to 3 vCPUs")
	if err := g.QMP().SetBalloon(t.Context(), 240<<20); err != nil {
		t.Fatal(err)
	}
	f.until(g.UUID, "the balloon", func(v *odometer.VM) bool { return v.Memory == 256<<20 && v.Ballooned == 16<<20 })
	f.forget(g.UUID) // on its way it has any size
	f.happens(g.UUID, do(t, g, "quit", nil), "stopped ended over its monitor; its process exited")
	<-g.Done()
}

// spare are monitors besides that which a guest has: other tests and programs
// that run meanwhile may hold one.
func spare(t *testing.T) []string {
	dir := t.TempDir()
	var args []string
	for i := range 3 {
		args = append(args, "-qmp", fmt.Sprintf("unix:%s/spare%d,server=on,wait=off", dir, i))
	}
	return args
}

// heldMonitor starts a machine that is paused, and asks it at a monitor. That is
// named as libvirt's is, so that nobody else on this host asks there.
func heldMonitor(t *testing.T) (g *booted.Guest, socket string, c *control) {
	booted.Need(t)
	socket = filepath.Join(t.TempDir(), "s")
	g = booted.Start(t, booted.Options{Paused: true, Args: []string{
		"-chardev", "socket,id=charmonitor,path=" + socket + ",server=on,wait=off", "-mon", "chardev=charmonitor,mode=control"}})
	all := newControls("/", realClock{}, make(chan odometer.Change, 100))
	t.Cleanup(all.close)
	all.pace.ask, all.pace.held = 500*time.Millisecond, 2*time.Second
	c = &control{
		asks: "its monitor", sockets: []string{socket}, view: view{cwd: "/", pid: g.PID()}, pid: g.PID(),
		ask: askMonitor(newGuest(qemu)), instance: "vm",
	}
	all.add(c)
	c.until(t, "asked first", func(s odometer.State, _ string) bool { return s == odometer.Paused })
	if !c.holds() {
		t.Error("the monitor is not held although nobody wants it")
	}
	return g, socket, c
}

// until waits until what is known is as it should be.
func (c *control) until(t *testing.T, what string, is func(state odometer.State, problem string) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, state, problem := c.said()
		if is(state, problem) {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: it is %s, with problem %q", what, state, problem)
		}
	}
}

// holds reports whether the monitor is held here.
func (c *control) holds() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.holding != ""
}

// TestAMonitorIsGivenUpToAClientElsewhere has a client come to the monitor that
// is in another network namespace, whose connections this one's table has not.
func TestAMonitorIsGivenUpToAClientElsewhere(t *testing.T) {
	_, socket, c := heldMonitor(t)
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	elsewhere(t, func() {
		other, err := qmp.Dial(limited, socket, nil)
		if err != nil {
			t.Errorf("it does not get the monitor: %v", err)
			return
		}
		other.Close()
	})
	if c.holds() {
		t.Error("two hold it")
	}
}

// TestAMonitorIsShared has other clients come to the monitor that is held here,
// and hold it themselves.
func TestAMonitorIsShared(t *testing.T) {
	g, socket, c := heldMonitor(t)
	until := func(what string, is func(state odometer.State, problem string) bool) {
		t.Helper()
		c.until(t, what, is)
	}
	limited, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	begin := time.Now()
	other, err := qmp.Dial(limited, socket, nil)
	if err != nil {
		t.Fatalf("another client does not get the monitor: %v", err)
	}
	defer other.Close()
	t.Logf("another client got the monitor after %v", time.Since(begin))
	if c.holds() {
		t.Error("two hold it")
	}
	// It is not followed while he holds it, and that is said after a while; it is
	// taken to run.
	if err := other.Execute(t.Context(), "cont", nil, nil); err != nil {
		t.Fatal(err)
	}
	until("another holds it", func(s odometer.State, p string) bool {
		return s == odometer.Running && strings.Contains(p, "another client holds it")
	})
	if err := other.Err(); err != nil {
		t.Errorf("the other client was thrown out: %v", err)
	}
	if !c.left() {
		t.Error("it is not said that it is left to another")
	}
	other.Close()
	until("he has left", func(s odometer.State, p string) bool { return s == odometer.Running && p == "" && !c.left() })
	// He may come again: now it is only visited.
	visited := 0
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if c.holds() {
			visited++
		}
	}
	if visited > 150 {
		t.Errorf("it is held in %d of 300 looks", visited)
	}
	if err := g.QMP().Execute(t.Context(), "stop", nil, nil); err != nil {
		t.Fatal(err)
	}
	until("visited", func(s odometer.State, _ string) bool { return s == odometer.Paused })
}

// TestAQEMUThatHangs has one of two machines hang, before it was asked and
// while it is.
func TestAQEMUThatHangs(t *testing.T) {
	healthy, hangs, late := booted.Launch(t, booted.Options{Paused: true, Args: spare(t)}), booted.Launch(t, booted.Options{Paused: true, Args: spare(t)}), booted.Launch(t, booted.Options{Paused: true, Args: spare(t)})
	late.Signal(syscall.SIGSTOP)
	p, err := OpenProcesses(ProcessesOptions{Agent: "host-1", Clock: realClock{}})
	if err != nil {
		t.Fatal(err)
	}
	if v := byPID(list(t, p), late.PID()); v == nil || !slices.ContainsFunc(p.Problems(), func(s string) bool {
		return strings.Contains(s, late.Monitor()+" has not answered yet")
	}) {
		t.Errorf("got %+v and %q, want that the list does not wait", v, p.Problems())
	}
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	f := follow(t)
	for _, g := range []*booted.Guest{healthy, hangs} {
		f.until(g.UUID, "that it is paused", func(v *odometer.VM) bool { return v.State == odometer.Paused })
	}
	f.problem(late.PID(), "does not answer")
	hangs.Signal(syscall.SIGSTOP)
	f.problem(hangs.PID(), "does not answer")
	f.problem(healthy.PID(), "")
	f.happens(healthy.UUID, do(t, healthy, "cont", nil), "found paused", "resumed")
	if v := f.vm(hangs.UUID); v.State != odometer.Paused {
		t.Errorf("got %s, want what it said before", v.State)
	}
	if v := f.vm(late.UUID); v.State != odometer.Running || v.VCPUs != 1 || v.Memory != 128<<20 {
		t.Errorf("got %+v, want what its command line says", v)
	}
	hangs.Signal(syscall.SIGCONT)
	late.Signal(syscall.SIGCONT)
	for _, g := range []*booted.Guest{hangs, late} {
		f.problem(g.PID(), "")
		f.until(g.UUID, "that it is paused", func(v *odometer.VM) bool { return v.State == odometer.Paused })
	}
	if got := f.told(late.UUID); !slices.Equal(got, []string{"found", "paused"}) {
		t.Errorf("got %q", got)
	}
}
