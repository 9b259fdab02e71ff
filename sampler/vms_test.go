package sampler

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/meter"
	"golang.org/x/sys/unix"
)

// The tests in this file meter processes that stand for virtual machines, on
// the real kernel: cgroups, taps, exit records.

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		missingFor(t, "cgroups, taps and exit records take root")
	}
}

func openVMs(t testing.TB, change ...func(*VMsOptions)) *VMs {
	t.Helper()
	opt := VMsOptions{Agent: "host-1"}
	for _, f := range change {
		f(&opt)
	}
	s := OpenVMs(opt)
	t.Cleanup(func() { s.Close() })
	return s
}

// machineOf is how an inventory would list a guest.
func machineOf(g *guest, id string, change ...func(*odometer.VM)) odometer.VM {
	g.t.Helper()
	started, _ := startOf(g.t, g.pid())
	v := odometer.VM{
		Instance: odometer.InstanceID(id), Name: id, Source: "test", State: odometer.Running,
		PID: g.pid(), Run: fmt.Sprintf("%d@%d", g.pid(), started), Began: started * 10_000, VCPUs: 2, Memory: 1 << 30,
	}
	for _, f := range change {
		f(&v)
	}
	return v
}

func startOf(t testing.TB, pid int) (ticks, cpu int64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	st, err := parseProcessStat(b)
	if err != nil {
		t.Fatal(err)
	}
	return int64(st.started), int64(st.cpu)
}

// readings takes one sample of all machines, to be kept.
func readings(t testing.TB, s *VMs) []odometer.Reading {
	t.Helper()
	var list []odometer.Reading
	if err := s.Sample(func(r *odometer.Reading) {
		c := *r
		c.Counters = slices.Clone(r.Counters)
		list = append(list, c)
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

// only takes a sample that has to give one reading.
func only(t testing.TB, s *VMs) odometer.Reading {
	t.Helper()
	list := readings(t, s)
	if len(list) != 1 {
		t.Fatalf("got %d readings, want 1: %+v", len(list), list)
	}
	return list[0]
}

// runOf is the first machine's run.
func runOf(s *VMs) *run {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list[0].run
}

func cpuOf(r odometer.Reading) odometer.Counter { return counter(r, odometer.CPU, "") }

func problemOf(s *VMs, name string) string {
	for _, st := range s.Sources() {
		if st.Name == name {
			return st.Problem
		}
	}
	return "no source " + name
}

// TestVMProcessorTime compares what a guest used, threads and children that
// have died among it, with what is counted, for each source.
func TestVMProcessorTime(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name     string
		enter    string
		from     cpuSource
		children bool // count
		slack    time.Duration
	}{
		{"its own cgroup of v1", "cpuacct", cpuFromCgroup, true, 10 * time.Millisecond},
		{"its own cgroup of v2, which needs no controller", "unified", cpuFromCgroup, true, 10 * time.Millisecond},
		{"a cgroup that it shares with others: taskstats", "", cpuFromTasks, false, 10 * time.Millisecond},
		{"neither cgroup nor taskstats: ticks", "", cpuFromStat, false, 40 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGuest(t, 0)
			if c.enter != "" {
				g.enter(c.enter)
			}
			s := openVMs(t)
			if c.from == cpuFromStat {
				s.tasks.close()
				s.tasks = nil
			}
			s.Update([]odometer.VM{machineOf(g, "vm-1")})
			before, start := only(t, s), g.do("ready")
			if got := runOf(s).cpuFrom; got != c.from {
				t.Fatalf("processor time comes from source %d, want %d: %v", got, c.from, runOf(s).cgroupError)
			}
			g.do("threads 10 20ms")
			g.do("burn 300ms")
			children := g.do("children 3 30ms")
			truth := g.do("ready") - start
			if c.children {
				truth += children
			}
			after := only(t, s)
			if cpuOf(after).Incarnation != cpuOf(before).Incarnation || cpuOf(after).Born {
				t.Errorf("the counter is another one: %+v, before %+v", cpuOf(after), cpuOf(before))
			}
			got := cpuOf(after).Value - cpuOf(before).Value
			off := time.Duration(got) - time.Duration(truth)
			t.Logf("truth %v, measured %v, off by %v", time.Duration(truth), time.Duration(got), off)
			if limit := c.slack + time.Duration(truth)/1000; off.Abs() > limit {
				t.Errorf("measured %v of %v: off by %v, at most %v is allowed", time.Duration(got), time.Duration(truth), off, limit)
			}
		})
	}
}

// TestVMRunsBornAndFound tells the two apart: what a run used before anybody
// looked counts where it began since the instance was last read.
func TestVMRunsBornAndFound(t *testing.T) {
	needRoot(t)
	for _, c := range []struct {
		name     string
		previous func(g *guest) Previous
		late     bool // the source is opened after the guest began
		enter    bool
		old      bool // the cgroup was used by another before
		born     bool
	}{
		{name: "it began while the source was open", born: true},
		{name: "it began while the source was open, in a cgroup of its own", enter: true, born: true},
		{name: "it began in a cgroup that another run has used before", enter: true, old: true, born: true},
		{name: "it ran before anything was ever read", late: true},
		{name: "it began after the instance was last read", late: true, born: true,
			previous: func(g *guest) Previous { return previous(t, "vm-1", g, -1) }},
		{name: "it was there when the instance was last read", late: true,
			previous: func(g *guest) Previous { return previous(t, "vm-1", g, +1) }},
		{name: "it is new, and began after others were last read", late: true, born: true,
			previous: func(g *guest) Previous { return previous(t, "vm-2", g, -1) }},
		{name: "it is new, and ran while others were read", late: true,
			previous: func(g *guest) Previous { return previous(t, "vm-2", g, +1) }},
		{name: "the host booted since anything was read", late: true, born: true,
			previous: func(g *guest) Previous {
				return Previous{BootID: "another", Readings: map[odometer.InstanceID]int64{"vm-1": 1 << 60}}
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s *VMs
			if !c.late {
				s = openVMs(t)
				time.Sleep(20 * time.Millisecond) // a process's start is known to a tick
			}
			dir := ""
			if c.old {
				before := startGuest(t, 0)
				dir = before.enter(anyCgroup)
				before.cgroups = nil
				before.do("burn 200ms")
				before.kill()
			}
			g := startGuest(t, 0)
			switch {
			case c.old:
				g.join(dir)
			case c.enter:
				g.enter(anyCgroup)
			}
			g.do("burn 100ms")
			if c.late {
				s = openVMs(t, func(o *VMsOptions) {
					if c.previous != nil {
						o.Previous = c.previous(g)
					}
				})
			}
			s.Update([]odometer.VM{machineOf(g, "vm-1")})
			truth := g.do("ready")
			list := readings(t, s)
			if !c.born {
				if len(list) != 1 || cpuOf(list[0]).Born || !list[0].Unwatched {
					t.Errorf("got %+v, want one reading, a baseline and unwatched", list)
				}
				return
			}
			if c.previous != nil && list[0].State == odometer.Stopped && list[0].At.Boot == 1 {
				list = list[1:] // the host booted
			}
			if len(list) < 2 {
				t.Fatalf("got %d readings, want the one of its first moment and the present one: %+v", len(list), list)
			}
			ticks, _ := startOf(t, g.pid())
			if list[0].At.Boot != ticks*10_000 || list[0].State != odometer.Running || list[0].Gauges.VCPUs != 2 {
				t.Errorf("got %+v for its first moment, want one at %d µs", list[0], ticks*10_000)
			}
			y := newTally(t)
			y.observe(list...)
			if err := y.meter.Flush(y.record); err != nil {
				t.Fatal(err)
			}
			got := y.usage[odometer.CPU] * 1000
			if off := time.Duration(got) - time.Duration(truth); off.Abs() > 20*time.Millisecond {
				t.Errorf("measured %v since its start, truth %v", time.Duration(got), time.Duration(truth))
			}
		})
	}
}

// previous says that an instance was last read a tick before or after a guest
// began.
func previous(t *testing.T, id odometer.InstanceID, g *guest, ticks int64) Previous {
	boot, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	began, _ := startOf(t, g.pid())
	return Previous{BootID: boot, Readings: map[odometer.InstanceID]int64{id: (began + ticks) * 10_000, "other": 5}}
}

// TestVMEnds kills guests in the middle of an interval and compares what is
// told of their end with what they used.
func TestVMEnds(t *testing.T) {
	needRoot(t)
	const frames, size = 500, 1400
	for _, c := range []struct {
		name       string
		enter      string
		removed    bool // the cgroup goes before anything can be read of it
		namespace  uintptr
		persistent bool
		threads    bool
		defined    bool // the machine stays known to its hypervisor
	}{
		{name: "by the exit record of its process", threads: true},
		{name: "by the exit record of a process that never had but one thread more"},
		{name: "by its cgroup, which is left", enter: anyCgroup, threads: true},
		{name: "by its cgroup of v2", enter: "unified"},
		{name: "whose cgroup was removed before it was read", enter: anyCgroup, removed: true, threads: true},
		{name: "in a network namespace of its own", namespace: unix.CLONE_NEWNET},
		{name: "whose tap is left", persistent: true, namespace: unix.CLONE_NEWNET},
		{name: "but that is still defined", defined: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := startGuest(t, c.namespace)
			dir := ""
			if c.enter != "" {
				dir = g.enter(c.enter)
			}
			tap := fmt.Sprintf("odt%d", g.pid())
			if c.persistent {
				g.do("tap %s persistent", tap)
			} else {
				g.do("tap %s", tap)
			}
			image := filepath.Join(imageDir(t), "disk.img")
			g.do("write %s %d", image, 1<<20)
			g.do("threads 1 1ms") // which may have written
			s := openVMs(t)
			m := machineOf(g, "vm-1", func(v *odometer.VM) {
				v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: tap}}
			})
			s.Update([]odometer.VM{m})
			first, start := only(t, s), g.do("ready")
			if c.threads {
				g.do("threads 3 20ms")
			}
			g.do("burn 100ms")
			g.do("send %d %d", frames, size)
			g.do("receive %d %d", 10, size)
			g.do("write %s %d", image, 3<<20)
			truth := g.do("ready") - start
			_, wrote := processIO(t, g.pid())
			at := s.clock.Now().Boot
			if c.removed {
				// The end is taken in only when the cgroup is gone.
				s.mu.Lock()
				g.kill()
				if there(dir) {
					t.Fatalf("%s is still there", dir)
				}
				s.mu.Unlock()
			} else {
				kept := g.cgroups
				g.cgroups = nil
				g.kill()
				g.cgroups = kept
				t.Cleanup(func() { g.kill() })
			}
			ended := s.clock.Now().Boot
			var list []odometer.Reading
			if c.defined {
				m.PID, m.Run, m.Began, m.State = 0, "", 0, odometer.Stopped
				list = append(list, eventuallyEnded(t, s)...)
				s.Update([]odometer.VM{m})
			} else {
				list = append(list, eventuallyEnded(t, s)...)
				s.Update(nil)
			}
			list = append(list, readings(t, s)...)
			last := list[0]
			if len(list) > 1 && !c.defined {
				t.Errorf("got %d readings after the end, want one: %+v", len(list), list)
			}
			if last.State != odometer.Stopped || last.Final == c.defined {
				t.Errorf("got %+v, want the last reading, final %t", last, !c.defined)
			}
			if last.At.Boot < at || last.At.Boot > ended+50_000 {
				t.Errorf("it ended at %d, want between %d and %d", last.At.Boot, at, ended)
			}
			if cpuOf(last).Incarnation != cpuOf(first).Incarnation || cpuOf(last).Value < cpuOf(first).Value {
				t.Errorf("got %+v at the end, before %+v", cpuOf(last), cpuOf(first))
			}
			// Its own clock stops before the process does, so there may be a little more.
			got := cpuOf(last).Value - cpuOf(first).Value
			off := time.Duration(got) - time.Duration(truth)
			t.Logf("truth %v, measured %v, off by %v", time.Duration(truth), time.Duration(got), off)
			if off < -time.Millisecond || off > 20*time.Millisecond {
				t.Errorf("processor time: measured %v of %v, want all but 1 ms at most", time.Duration(got), time.Duration(truth))
			}
			for q, want := range map[odometer.Quantity]uint64{odometer.NetworkEgress: frames * size, odometer.NetworkIngress: 10 * size} {
				if got := counter(last, q, "net0").Value - counter(first, q, "net0").Value; got != want {
					t.Errorf("%s: got %d, want exactly %d", q, got, want)
				}
			}
			if got := counter(last, odometer.DiskWrite, "").Value; got != wrote || wrote < 4<<20 {
				t.Errorf("disk written: got %d, want exactly %d", got, wrote)
			}
			if c.defined {
				if r := only(t, s); r.State != odometer.Stopped || r.Final || len(r.Counters) > 0 || r.Gauges.Memory != 0 {
					t.Errorf("got %+v, want it stopped", r)
				}
				s.Update(nil)
				if r := only(t, s); !r.Final {
					t.Errorf("got %+v, want it final", r)
				}
			}
			if list := readings(t, s); len(list) > 0 {
				t.Errorf("got %+v, want nothing any more", list)
			}
		})
	}
}

// eventuallyEnded waits until the source knows of the end of its machine, and
// returns what it has told until then: nothing, since the end is held back.
func eventuallyEnded(t *testing.T, s *VMs) (list []odometer.Reading) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		s.mu.Lock()
		ended := s.list[0].end != nil
		s.mu.Unlock()
		if ended {
			return readings(t, s)
		}
	}
	t.Fatal("the end of the machine is not seen")
	return nil
}

// tally meters readings and adds up what the events say.
type tally struct {
	t     testing.TB
	meter *meter.Meter
	usage odometer.Vector
	final int
}

func newTally(t testing.TB) *tally {
	t.Helper()
	boot, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	return &tally{t: t, meter: meter.New(meter.Options{Agent: "host-1", Nonce: "n", BootID: boot})}
}

func (y *tally) observe(list ...odometer.Reading) {
	y.t.Helper()
	for i := range list {
		if err := y.meter.Observe(&list[i], y.record); err != nil {
			y.t.Errorf("reading %+v: %v", list[i], err)
		}
	}
}

func (y *tally) record(r odometer.Record) {
	if r.Event == nil {
		return
	}
	for q, n := range r.Event.Usage.Vector {
		y.usage[q] += n
	}
	if r.Event.Final {
		y.final++
	}
}

// TestVMBetweenTwoSamples has a machine begin and end without any sample while
// it ran. All that it used is metered, from its first moment to its last.
func TestVMBetweenTwoSamples(t *testing.T) {
	needRoot(t)
	s, y := openVMs(t), newTally(t)
	y.observe(readings(t, s)...)
	time.Sleep(20 * time.Millisecond) // a process's start is known to a tick
	g := startGuest(t, unix.CLONE_NEWNET)
	g.enter(anyCgroup)
	g.do("tap tap0")
	g.do("send 100 1000")
	s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
		v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0"}}
		v.GPUs = []odometer.GPUDevice{{Name: "hostdev0", Kind: odometer.GPUWhole}}
	})})
	began := runOf(s).began
	g.do("send 200 1000")
	truth := int64(g.do("burn 100ms"))
	g.kill()
	ended := eventuallyEnded(t, s)
	s.Update(nil)
	list := append(ended, readings(t, s)...)
	y.observe(list...)
	if y.final != 1 {
		t.Errorf("got %d final events, want 1: %+v", y.final, list)
	}
	u := y.usage
	if off := u[odometer.CPU]*1000 - truth; off < -20e6 || off > 20e6 {
		t.Errorf("processor time: got %d µs, truth %d µs", u[odometer.CPU], truth/1000)
	}
	if got := u[odometer.NetworkEgress]; got != 300_000 {
		t.Errorf("egress: got %d, want 300000", got)
	}
	span := list[len(list)-1].At.Boot - began
	if u[odometer.GPU] != span || u[odometer.VCPU] != 2*span || u.Elapsed() != span {
		t.Errorf("got %d µs of a GPU, %d of two vCPUs, %d elapsed; it ran for %d µs", u[odometer.GPU], u[odometer.VCPU], u.Elapsed(), span)
	}
}

// TestVMStorageAndMemory compares what a guest wrote, and touched, with what
// is counted.
func TestVMStorageAndMemory(t *testing.T) {
	needRoot(t)
	image := filepath.Join(imageDir(t), "disk.img")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 1<<30); err != nil {
		t.Fatal(err)
	}
	g := startGuest(t, 0)
	s := openVMs(t)
	s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
		v.Disks = []odometer.Disk{
			{Name: "vda", Kind: odometer.DiskFile, Path: image, Provisioned: 1 << 30},
			{Name: "vdb", Kind: odometer.DiskNetwork, Path: "rbd:pool/x", Provisioned: 2 << 30},
			{Name: "cd", Kind: odometer.DiskFile, Path: "/bin/sh", Provisioned: 7, ReadOnly: true},
		}
		v.GPUs = []odometer.GPUDevice{{Name: "hostdev0", Kind: odometer.GPUWhole, Address: "0000:65:00.0"}}
	})})
	before := only(t, s)
	if want := (odometer.Gauges{Memory: before.Gauges.Memory, MemoryAllocated: 1 << 30, Storage: 0, StorageProvisioned: 3 << 30, VCPUs: 2, GPUs: 1}); before.Gauges != want || want.Memory <= 0 {
		t.Errorf("got %+v, want %+v", before.Gauges, want)
	}
	for _, st := range s.Sources() {
		if want := map[string]string{
			"storage": "1 files and devices; 1 disks elsewhere, of which only the size is known, if that",
			"gpu":     "1 attached whole, 0 shares of one, 0 slices (MIG)",
		}[st.Name]; want != "" && st.Detail != want {
			t.Errorf("%s: got %q, want %q", st.Name, st.Detail, want)
		}
	}
	const bytes = 8 << 20
	g.do("write %s %d", image, bytes)
	// The file has its blocks now. While it gets them, what the filesystem
	// notes for itself is written on the guest's account too.
	before.Counters = only(t, s).Counters
	g.do("write %s %d", image, bytes)
	g.do("touch %d", 64<<20)
	runOf(s).memoryAt, s.images.since = 0, -1<<40
	readings(t, s)
	time.Sleep(50 * time.Millisecond)
	after := only(t, s)
	if got := counter(after, odometer.DiskWrite, "").Value - counter(before, odometer.DiskWrite, "").Value; got != bytes {
		t.Errorf("disk written: got %d, want exactly %d", got, bytes)
	}
	if got := after.Gauges.Storage; got < bytes || got > bytes+1<<16 {
		t.Errorf("storage: got %d, want %d and what the filesystem needs itself", got, bytes)
	}
	if got := after.Gauges.Memory - before.Gauges.Memory; got < 64<<20 || got > 80<<20 {
		t.Errorf("memory: got %d more, want 64 MiB", got)
	}
	if p := problemOf(s, "storage"); p != "" {
		t.Errorf("got problem %q", p)
	}
}

// TestVMThreadThatEndsCountsOnce reads the processor time of processes that are
// killed, again and again while the kernel frees their memory. It has what they
// used, and not what a thread used twice.
func TestVMThreadThatEndsCountsOnce(t *testing.T) {
	needRoot(t)
	twice := 0
	for range 5 {
		g := startGuest(t, 0)
		g.do("burn 300ms")
		g.do("touch %d", 256<<20)
		s := openVMs(t)
		s.Update([]odometer.VM{machineOf(g, "vm-1")})
		r := runOf(s)
		if r.cpuFrom != cpuFromTasks {
			t.Fatalf("processor time comes from %d, want taskstats", r.cpuFrom)
		}
		killed := make(chan struct{})
		go func() { g.kill(); close(killed) }()
		var most, plain uint64
		for ended := false; !ended; {
			select {
			case <-killed:
				ended = true
			default:
			}
			s.mu.Lock()
			if n, err := s.tasks.cpu(r.pid); err == nil {
				plain = max(plain, n)
			}
			if n, err := s.tasksCPU(r, 0); err == nil {
				most = max(most, n)
			}
			s.mu.Unlock()
		}
		state := g.cmd.ProcessState
		used := uint64(state.UserTime() + state.SystemTime())
		if plain > used+uint64(50*time.Millisecond) {
			twice++
		}
		if most > used+4*s.tickNanos {
			t.Errorf("the processor time of one that was killed was %v, it used %v", time.Duration(most), time.Duration(used))
		}
	}
	t.Logf("taskstats itself counted too much in %d of 5", twice)

	s := &VMs{tickNanos: 10_000_000}
	for _, c := range []struct{ said, whole, before, want uint64 }{
		{8_029_999_999, 8_000_000_000, 7_000_000_000, 8_029_999_999}, // of which whole ticks are less
		{16_000_000_000, 8_000_000_000, 7_000_000_000, 8_000_000_000},
		{16_000_000_000, 8_000_000_000, 8_009_000_000, 8_009_000_000},
	} {
		if got := s.onceOnly(c.said, c.whole, c.before); got != c.want {
			t.Errorf("taskstats says %d, /proc/PID/stat %d, and it was %d before: got %d, want %d", c.said, c.whole, c.before, got, c.want)
		}
	}
}

// TestABalloonHidesNothingThatIsResident has machines say that they have given
// memory back, as a machine does that would rather pay for less.
func TestABalloonHidesNothingThatIsResident(t *testing.T) {
	needRoot(t)
	g := startGuest(t, 0)
	s := openVMs(t)
	says := func(ballooned int64) odometer.Gauges {
		t.Helper()
		s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) { v.Memory, v.Ballooned = 1<<30, ballooned })})
		list := readings(t, s)
		return list[len(list)-1].Gauges
	}
	g.do("touch %d", 64<<20)
	if got := says(0); got.MemoryAllocated != 1<<30 || got.Memory < 64<<20 {
		t.Fatalf("without a balloon: got %+v, want an allocation of 1 GiB", got)
	}
	if got := says(256 << 20).MemoryAllocated; got != 768<<20 {
		t.Errorf("a balloon of 256 MiB: got an allocation of %d, want 768 MiB", got)
	}
	for _, lie := range []int64{1 << 30, 1 << 62} {
		if got := says(lie); got.MemoryAllocated != got.Memory || got.Memory < 64<<20 {
			t.Errorf("a balloon of %d: got %+v, want an allocation of what is resident", lie, got)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list[0].run.swapped = 32 << 20
	if got := s.gauges(s.list[0]); got.MemoryAllocated != got.Memory+32<<20 {
		t.Errorf("32 MiB are on the swap: got %+v, want them in the allocation", got)
	}
	s.list[0].run.memory = odometer.Unknown
	if got := s.gauges(s.list[0]); got.MemoryAllocated != 1<<30 || got.Memory != odometer.Unknown {
		t.Errorf("what is resident is not known: got %+v, want an allocation of 1 GiB", got)
	}
}

// imageDir makes a directory that does not lie in memory.
func imageDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "odometer-disk-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// processIO is what a process had the storage layer read and write.
func processIO(t *testing.T, pid int) (read, wrote uint64) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err == nil {
		read, wrote, err = parseProcessIO(b)
	}
	if err != nil {
		t.Fatal(err)
	}
	return read, wrote
}

// killingClock ends a guest when it is asked for the time.
type killingClock struct {
	SystemClock
	victim atomic.Pointer[guest]
}

func (c *killingClock) Now() odometer.Moment {
	if g := c.victim.Swap(nil); g != nil {
		g.kill()
	}
	return c.SystemClock.Now()
}

// TestVMEndsDuringASample kills a guest after a sample has looked for ends and
// before it reads the guest. What it used is told as if it had ended before.
func TestVMEndsDuringASample(t *testing.T) {
	needRoot(t)
	clock := &killingClock{}
	g := startGuest(t, 0)
	s := openVMs(t, func(o *VMsOptions) { o.Clock = clock })
	s.Update([]odometer.VM{machineOf(g, "vm-1")})
	first, start := only(t, s), g.do("ready")
	truth := g.do("burn 100ms") - start
	clock.victim.Store(g)
	list := readings(t, s)
	s.Update(nil)
	list = append(list, readings(t, s)...)
	if len(list) != 1 || !list[0].Final {
		t.Fatalf("got %+v, want the last reading", list)
	}
	if got := cpuOf(list[0]).Value - cpuOf(first).Value; got+1e6 < truth {
		t.Errorf("measured %v of %v", time.Duration(got), time.Duration(truth))
	}
}

// TestVMTapIsMadeAgain deletes a tap and makes another of the same name, twice:
// with a sample in between and without.
func TestVMTapIsMadeAgain(t *testing.T) {
	needRoot(t)
	g := startGuest(t, unix.CLONE_NEWNET)
	g.do("tap tap0")
	s := openVMs(t)
	s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
		v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tap0"}}
	})})
	sum, last := uint64(0), counter(only(t, s), odometer.NetworkEgress, "net0")
	see := func() {
		r := only(t, s)
		c := counter(r, odometer.NetworkEgress, "net0")
		switch {
		case c.Incarnation == "":
		case c.Incarnation == last.Incarnation && c.Value >= last.Value:
			sum += c.Value - last.Value
			last = c
		case c.Born:
			sum += c.Value
			last = c
		default:
			t.Errorf("got %+v after %+v: that would be lost", c, last)
		}
	}
	g.do("send 3 100")
	g.do("release")
	see()
	see()
	g.do("tap tap0")
	g.do("send 5 100")
	see()
	see()
	g.do("send 7 100")
	g.do("release")
	g.do("tap tap0")
	g.do("send 11 100")
	see()
	see()
	g.do("send 13 100")
	see()
	if want := uint64(3+5+7+11+13) * 100; sum != want {
		t.Errorf("got %d bytes in all, want %d; %s", sum, want, strings.Join([]string{last.Incarnation, problemOf(s, "network")}, " "))
	}
}

// TestVMTellsWhatHappened notes changes of machines that are known, new, gone and
// never seen.
func TestVMTellsWhatHappened(t *testing.T) {
	s := openVMs(t)
	stopped := func(ids ...odometer.InstanceID) (list []odometer.VM) {
		for _, id := range ids {
			list = append(list, odometer.VM{Instance: id, State: odometer.Stopped, VCPUs: 1, Memory: 1 << 20})
		}
		return list
	}
	note := func(id odometer.InstanceID, kinds ...odometer.ChangeKind) (list []odometer.Change) {
		for _, k := range kinds {
			list = append(list, odometer.Change{Instance: id, Kind: k})
		}
		return list
	}
	told := func() map[odometer.InstanceID][]odometer.ChangeKind {
		m := map[odometer.InstanceID][]odometer.ChangeKind{}
		for _, r := range readings(t, s) {
			for _, c := range r.Changes {
				m[r.Instance] = append(m[r.Instance], c.Kind)
			}
		}
		return m
	}
	want := func(when string, want map[odometer.InstanceID][]odometer.ChangeKind) {
		t.Helper()
		if got := told(); !maps.EqualFunc(got, want, slices.Equal) {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
	}
	s.Note(slices.Concat(note("vm-1", odometer.ChangeDefined), note("nobody", odometer.ChangeFound)))
	s.Update(stopped("vm-1"))
	want("a new machine", map[odometer.InstanceID][]odometer.ChangeKind{"vm-1": {odometer.ChangeDefined}})
	want("told once", nil)
	s.Note(slices.Concat(note("vm-1", odometer.ChangeResized, odometer.ChangeDeleted), note("vm-2", odometer.ChangeDefined)))
	s.Update(stopped("vm-2"))
	want("one is gone, one is new", map[odometer.InstanceID][]odometer.ChangeKind{
		"vm-1": {odometer.ChangeResized, odometer.ChangeDeleted}, "vm-2": {odometer.ChangeDefined}})
	s.Update(nil)
	want("nothing is left", nil)
	if len(s.noted) > 0 {
		t.Errorf("kept for nobody: %v", s.noted)
	}
}

// TestAnInterfaceIsFoundAgain has a dump come to interfaces in the order of the one
// before, in another, without one, and to one that took the number of one that ended.
func TestAnInterfaceIsFoundAgain(t *testing.T) {
	sp := &space{links: map[uint32]*hostLink{}}
	dump := func(list ...uint32) {
		t.Helper()
		sp.turn, sp.seen, sp.at = sp.turn+1, 0, 0
		for _, index := range list {
			sp.sawLink(index, linkStats{rxBytes: uint64(index) * sp.turn})
		}
		sp.settle()
		for _, index := range list {
			if l := sp.links[index]; l == nil || l.gone || l.rx != uint64(index)*sp.turn {
				t.Errorf("dump %d of %v: interface %d is %+v", sp.turn, list, index, l)
			}
		}
	}
	dump(1, 2, 3)
	dump(1, 2, 3)
	dump(3, 1, 2, 4)
	dump(1, 4)
	dump(1, 2, 3, 4)
	old := sp.links[3]
	sp.endLink(linkInfo{index: 3, known: true})
	dump(1, 2, 3, 4)
	if !old.gone || sp.links[3] == old {
		t.Error("the interface that took the number of another was taken for that")
	}
}
