package sampler

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

const treeBoot = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"

// later lets the tree's time pass.
func (tr *tree) later(d time.Duration) { tr.boot.Add(d.Microseconds()) }

func (tr *tree) cpu(busy string) { tr.write("proc/stat", "cpu  "+busy+" 0 0 1000000\n") }

func TestProcessorTime(t *testing.T) {
	const tick = 10_000_000
	for _, c := range []struct {
		name        string
		first       string
		change      func(*tree)
		want        uint64
		incarnation string
	}{
		{
			"it counts on", "1000", func(tr *tree) { tr.cpu("1234") }, 1234 * tick, treeBoot,
		},
		{
			"the sum wobbles: it is held, not lowered", "1000", func(tr *tree) { tr.cpu("950") }, 1000 * tick, treeBoot,
		},
		{
			"the sum steps back for good: a new incarnation of the same boot", "1000", func(tr *tree) { tr.cpu("10") }, 10 * tick, treeBoot + "#1",
		},
		{
			"the machine is on another boot: a new incarnation, and nothing is born that we did not see begin", "1000",
			func(tr *tree) { tr.cpu("500"); tr.write("proc/sys/kernel/random/boot_id", "another\n") },
			500 * tick, "another",
		},
		{
			"the products of ticks wrap at 64 bits, after 584 years of processor time", "1844674407370",
			func(tr *tree) { tr.cpu("1844674407371") }, 1844674407371*10_000_000 - math.MaxUint64 - 1, treeBoot + "#1",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTree(t, "vm")
			tr.cpu(c.first)
			m := tr.open()
			sample(t, m)
			c.change(tr)
			got := counter(sample(t, m), odometer.CPU, "")
			want := odometer.Counter{Quantity: odometer.CPU, Incarnation: c.incarnation, Value: c.want}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
		})
	}
}

// TestDevices lets disks and interfaces come and go between two samples.
func TestDevices(t *testing.T) {
	const (
		ethLine = "  eth0: 147885169  147885 1 2 0 0 0 0   568381     568 3 4 0 0 0 0\n"
		eth1    = "  eth1:   900   1 0 0 0 0 0 0  800  1 0 0 0 0 0 0\n"
		vdb     = " 254      16 vdb 1 0 100 0 1 0 200 0 0 0 0\n"
	)
	plugNIC := func(tr *tree, name, ifindex, line string) {
		tr.write("sys/class/net/"+name+"/ifindex", ifindex)
		tr.write("sys/class/net/"+name+"/type", "1")
		tr.link("sys/class/net/"+name+"/device", "../../../0000:00:09.0")
		tr.edit("proc/net/dev", ethLine, ethLine+line)
	}
	plugDisk := func(tr *tree, seq string) {
		tr.write("sys/block/vdb/diskseq", seq)
		tr.write("sys/block/vdb/size", "2048")
		tr.link("sys/block/vdb/device", "../../../virtio9")
		tr.write("proc/diskstats", vdb)
	}
	for _, c := range []struct {
		name   string
		first  func(*tree)
		change func(*tree)
		q      odometer.Quantity
		device string
		want   odometer.Counter // its Quantity and Device are the above
	}{
		{
			name:   "an interface is plugged in: what it counted is usage",
			change: func(tr *tree) { plugNIC(tr, "eth1", "7", eth1) },
			q:      odometer.NetworkEgress, device: "eth1",
			want: odometer.Counter{Incarnation: treeBoot + "/7", Value: 800, Born: true},
		},
		{
			name:   "an interface comes back from another namespace: it is no newer than those we saw",
			change: func(tr *tree) { plugNIC(tr, "eth1", "2", eth1) },
			q:      odometer.NetworkEgress, device: "eth1",
			want: odometer.Counter{Incarnation: treeBoot + "/2", Value: 800},
		},
		{
			name:   "an interface disappears: it is not in the reading, and nothing else goes with it",
			change: func(tr *tree) { tr.edit("proc/net/dev", ethLine, ""); tr.remove("sys/class/net/eth0") },
			q:      odometer.NetworkEgress, device: "eth0",
		},
		{
			name: "an interface is replaced under its name: another incarnation, born",
			change: func(tr *tree) {
				tr.edit("proc/net/dev", ethLine, strings.Replace(eth1, "eth1", "eth0", 1))
				tr.write("sys/class/net/eth0/ifindex", "9")
			},
			q: odometer.NetworkEgress, device: "eth0",
			want: odometer.Counter{Incarnation: treeBoot + "/9", Value: 800, Born: true},
		},
		{
			name:   "an interface's counters wobble: held",
			change: func(tr *tree) { tr.edit("proc/net/dev", "568381", "568380") },
			q:      odometer.NetworkEgress, device: "eth0",
			want: odometer.Counter{Incarnation: treeBoot + "/3", Value: 568381},
		},
		{
			name:   "a driver resets an interface's counters: another incarnation, whose start nobody saw",
			change: func(tr *tree) { tr.edit("proc/net/dev", "147885169", "5") },
			q:      odometer.NetworkIngress, device: "eth0",
			want: odometer.Counter{Incarnation: treeBoot + "/3#1", Value: 5},
		},
		{
			name:  "an interface is enslaved to one with a device: noticed by the regular scan",
			first: func(tr *tree) { plugNIC(tr, "eth1", "4", eth1) },
			change: func(tr *tree) {
				tr.link("sys/class/net/eth1/master", "../eth0")
				tr.later(rescanEvery)
			},
			q: odometer.NetworkEgress, device: "eth1",
		},
		{
			name:   "a disk is plugged in: what it counted is usage",
			change: func(tr *tree) { plugDisk(tr, "10") },
			q:      odometer.DiskWrite, device: "vdb",
			want: odometer.Counter{Incarnation: treeBoot + "/10", Value: 200 * 512, Born: true},
		},
		{
			name:  "a disk is swapped for another under its name: born, since it counts less",
			first: func(tr *tree) { plugDisk(tr, "10"); tr.edit("proc/diskstats", " 100 ", " 9000 ") },
			change: func(tr *tree) {
				tr.write("sys/block/vdb/diskseq", "11")
				tr.write("proc/diskstats", vdb)
			},
			q: odometer.DiskWrite, device: "vdb",
			want: odometer.Counter{Incarnation: treeBoot + "/11", Value: 200 * 512, Born: true},
		},
		{
			name:  "a disk was swapped for one that counts more: a reading may have had its counts, so it is a baseline",
			first: func(tr *tree) { plugDisk(tr, "10") },
			change: func(tr *tree) {
				tr.write("sys/block/vdb/diskseq", "11")
				tr.edit("proc/diskstats", " 200 ", " 300 ")
				tr.later(rescanEvery)
			},
			q: odometer.DiskWrite, device: "vdb",
			want: odometer.Counter{Incarnation: treeBoot + "/11", Value: 300 * 512},
		},
		{
			name:   "a disk of a kernel without diskseq: nothing says that it is new",
			change: func(tr *tree) { plugDisk(tr, "") },
			q:      odometer.DiskWrite, device: "vdb",
			want: odometer.Counter{Incarnation: treeBoot, Value: 200 * 512},
		},
		{
			name:   "a loop device comes: it does not count",
			change: func(tr *tree) { tr.write("sys/block/vdb/size", "1"); tr.write("proc/diskstats", vdb) },
			q:      odometer.DiskWrite, device: "vdb",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTree(t, "vm")
			if c.first != nil {
				c.first(tr)
			}
			m := tr.open()
			sample(t, m)
			c.change(tr)
			r := sample(t, m)
			if c.want != (odometer.Counter{}) {
				c.want.Quantity, c.want.Device = c.q, c.device
			}
			if got := counter(r, c.q, c.device); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if counter(r, odometer.CPU, "") == (odometer.Counter{}) {
				t.Error("processor time is missing")
			}
			if got := counter(sample(t, m), c.q, c.device); got.Born {
				t.Errorf("the reading after says that %s is born again", c.device)
			}
		})
	}
}

// TestReboot: an agent that comes back after a reboot says that everything
// counts from that boot.
func TestReboot(t *testing.T) {
	for _, c := range []struct {
		name     string
		previous string
		born     bool
	}{
		{"nobody remembers an earlier reading", "", false},
		{"the earlier reading was in this boot", treeBoot, false},
		{"the earlier reading was in another boot", "another", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := newTree(t, "vm").open(func(o *MachineOptions) { o.PreviousBoot = c.previous })
			first, second := sample(t, m), sample(t, m)
			for _, n := range first.Counters {
				if n.Born != c.born {
					t.Errorf("first reading, %s: got born %t, want %t", n.Quantity, n.Born, c.born)
				}
			}
			for _, n := range second.Counters {
				if n.Born {
					t.Errorf("second reading: %s is born", n.Quantity)
				}
			}
			if !first.Unwatched || second.Unwatched {
				t.Errorf("got unwatched %t, %t, want true, false", first.Unwatched, second.Unwatched)
			}
		})
	}
}

// napper is a clock whose machine was suspended.
type napper struct {
	*tree
	slept int64
}

func (n *napper) suspended() int64 { return n.slept }

func TestTimeSuspendedIsUnwatched(t *testing.T) {
	tr := newTree(t, "vm")
	clock := &napper{tree: tr, slept: 5}
	m := tr.open(func(o *MachineOptions) { o.Clock = clock })
	sample(t, m)
	for _, c := range []struct {
		more int64
		want bool
	}{{0, false}, {3600 * odometer.SecondMicros, true}, {20, false}} {
		clock.slept += c.more
		if got := sample(t, m).Unwatched; got != c.want {
			t.Errorf("suspended for %d µs: got unwatched %t, want %t", c.more, got, c.want)
		}
	}
}

// TestOneFailureLeavesTheOthers breaks one file at a time.
func TestOneFailureLeavesTheOthers(t *testing.T) {
	has := func(r odometer.Reading) map[string]bool {
		known := map[string]bool{
			"memory": r.Gauges.Memory != odometer.Unknown, "storage": r.Gauges.Storage != odometer.Unknown,
			"vcpus": r.Gauges.VCPUs != odometer.Unknown,
		}
		for name, q := range map[string]odometer.Quantity{"cpu": odometer.CPU, "disks": odometer.DiskRead, "network": odometer.NetworkEgress} {
			for _, c := range r.Counters {
				known[name] = known[name] || c.Quantity == q
			}
		}
		return known
	}
	for _, c := range []struct {
		name string
		lost string
		fail func(*tree)
	}{
		{"/proc/stat has no cpu line", "cpu", func(tr *tree) { tr.write("proc/stat", "intr 5\n") }},
		{"/proc/meminfo is empty", "memory", func(tr *tree) { tr.write("proc/meminfo", "") }},
		{"/proc/meminfo says that there is no memory", "memory", func(tr *tree) { tr.write("proc/meminfo", "MemTotal: 0 kB\nMemAvailable: 0 kB\n") }},
		{"/sys/block cannot be listed", "disks", func(tr *tree) { tr.remove("sys/block"); tr.write("sys/block", "") }},
		{"/sys/class/net cannot be listed", "network", func(tr *tree) { tr.remove("sys/class/net") }},
		{"no filesystem is mounted", "storage", func(tr *tree) { tr.write("proc/self/mountinfo", "garbage\n - \n1 2 3 4 5 6 -") }},
		{"the list of CPUs is none, and /proc/stat lists none either", "vcpus", func(tr *tree) {
			tr.write("sys/devices/system/cpu/online", "3-1\n")
			tr.cpu("1000000")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			tr := newTree(t, "vm")
			var log bytes.Buffer
			m := tr.open(func(o *MachineOptions) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			for name, ok := range has(sample(t, m)) {
				if !ok {
					t.Fatalf("%s is unknown before anything failed", name)
				}
			}
			c.fail(tr)
			tr.later(rescanEvery)
			for name, ok := range has(sample(t, m)) {
				if ok != (name != c.lost) {
					t.Errorf("%s: got known %t, want %t", name, ok, name != c.lost)
				}
			}
			for _, s := range m.Sources() {
				if s.Name == c.lost && (s.OK || s.Problem == "") {
					t.Errorf("got source %+v, want it not ok with its problem", s)
				}
			}
			sample(t, m)
			if n := strings.Count(log.String(), "source="+c.lost); n != 1 {
				t.Errorf("got %d lines about it in the log, want 1:\n%s", n, log.String())
			}
		})
	}
}

func TestAMachineOfWhichNothingCanBeReadIsAnError(t *testing.T) {
	if _, err := OpenMachine(MachineOptions{Root: t.TempDir()}); err == nil || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("open: got %v, want an error that says which files do not exist", err)
	}
	tr := newTree(t, "container")
	m := tr.open()
	for _, name := range []string{"proc/stat", "proc/meminfo", "proc/net/dev"} {
		tr.write(name, "")
	}
	if err := m.Sample(func(*odometer.Reading) { t.Error("a reading was emitted") }); err == nil {
		t.Error("sample: got no error, want one")
	}
	tr.cpu("5")
	if got := counter(sample(t, m), odometer.CPU, "").Value; got != 10*1e7 {
		t.Errorf("after it came back: got %d, want the %d it had, since 5 is a wobble", got, uint64(10*1e7))
	}
}

func TestAMachineWithoutABootIDIsAnotherEachTime(t *testing.T) {
	tr := newTree(t, "vm")
	tr.remove("proc/sys/kernel/random/boot_id")
	one := counter(sample(t, tr.open()), odometer.CPU, "")
	m := tr.open()
	two := counter(sample(t, m), odometer.CPU, "")
	if !strings.HasPrefix(one.Incarnation, "process-") || one.Incarnation == two.Incarnation {
		t.Errorf("got incarnations %q and %q, want two that differ", one.Incarnation, two.Incarnation)
	}
	if s := m.Sources()[0]; s.Name != "boot" || s.OK || s.Problem == "" {
		t.Errorf("got %+v, want boot not ok and why", s)
	}
}

func TestAGPUThatWasTakenAwayIsZeroAndNotUnknown(t *testing.T) {
	tr := newTree(t, "bond")
	m := tr.open()
	if got := sample(t, m).Gauges.GPUs; got != 2 {
		t.Fatalf("got %d GPUs, want 2", got)
	}
	tr.remove("sys/bus/pci/devices/0000:c1:00.0")
	tr.remove("sys/bus/pci/devices/0000:c5:00.0")
	tr.later(rescanEvery)
	if got := sample(t, m).Gauges.GPUs; got != 0 {
		t.Errorf("got %d GPUs, want 0", got)
	}
}

// TestAFilesystemThatHangs costs one sample a tenth of a second and every
// other nothing, keeps its last value, and comes back.
func TestAFilesystemThatHangs(t *testing.T) {
	tr := newTree(t, "vm")
	synctest.Test(t, func(t *testing.T) {
		m, err := openMachine(MachineOptions{Root: tr.root, Clock: tr}, tr.statfs, 100, tr.runSMI)
		if err != nil {
			t.Fatal(err)
		}
		const root, efi = 621440 * 4096, 3000 * 2048
		release := make(chan struct{})
		check := func(name string, wait time.Duration, want int64) {
			t.Helper()
			start := time.Now()
			got := sample(t, m).Gauges.Storage
			if took := time.Since(start); got != want || took != wait {
				t.Errorf("%s: got %d bytes after %s, want %d after %s", name, got, took, want, wait)
			}
		}
		check("both answer", 0, root+efi)

		tr.stall("/boot/efi", release)
		tr.fill("/", 2000000-1000)
		check("one begins to hang", statfsPatience, root+1000*4096+efi)
		check("it still hangs", 0, root+1000*4096+efi)
		if s := storageStatus(m); !s.OK || !strings.Contains(s.Problem, "/boot/efi does not answer") {
			t.Errorf("got %+v, want ok with the one that hangs", s)
		}

		tr.fill("/boot/efi", 0)
		tr.stall("/boot/efi", nil)
		close(release)
		synctest.Wait()
		check("it answers", 0, root+1000*4096+63000*2048)
		if s := storageStatus(m); s.Problem != "" {
			t.Errorf("got %+v, want no problem", s)
		}

		// A machine is closed although a filesystem hangs.
		release = make(chan struct{})
		tr.stall("/", release)
		check("another hangs", statfsPatience, root+1000*4096+63000*2048)
		start := time.Now()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != statfsPatience {
			t.Errorf("close took %s, want %s", took, statfsPatience)
		}
		close(release) // and the bubble ends only when its goroutine has
	})
}

func storageStatus(m *Machine) SourceStatus {
	for _, s := range m.Sources() {
		if s.Name == "storage" {
			return s
		}
	}
	return SourceStatus{}
}

func TestFilesystemsThatCannotBeAskedAreNamedAndTheOthersCount(t *testing.T) {
	tr := newTree(t, "vm")
	delete(tr.space, "/boot/efi") // EACCES
	m := tr.open()
	if got, want := sample(t, m).Gauges.Storage, int64(621440*4096); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
	if s := storageStatus(m); !s.OK || !strings.Contains(s.Problem, "permission denied") {
		t.Errorf("got %+v, want ok and why one is missing", s)
	}
	// Unmounted, it is no problem any more.
	b, err := os.ReadFile(filepath.Join(tr.root, "proc/self/mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(b)) {
		if !strings.Contains(line, "/boot/efi") {
			kept = append(kept, line)
		}
	}
	tr.write("proc/self/mountinfo", strings.Join(kept, ""))
	tr.later(rescanEvery)
	sample(t, m)
	if s := storageStatus(m); s.Problem != "" {
		t.Errorf("got %+v, want no problem", s)
	}
}

// TestAHungGPUDriver keeps /get waiting for a second at most, and a sample not
// at all.
func TestAHungGPUDriver(t *testing.T) {
	tr := newTree(t, "bare-metal")
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		hung := func(ctx context.Context, _ ...string) ([]byte, error) {
			if calls++; calls > 1 {
				return tr.runSMI(ctx)
			}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		m, err := openMachine(MachineOptions{Root: tr.root, Clock: tr}, tr.statfs, 100, hung)
		if err != nil {
			t.Fatal(err)
		}
		get := func(wait time.Duration) SystemMetrics {
			t.Helper()
			start := time.Now()
			s, err := m.Metrics()
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took != wait {
				t.Errorf("got metrics after %s, want %s", took, wait)
			}
			return s
		}
		if s := get(gpuPatience); len(s.GPUs) != 2 || s.GPUs[0].UtilizationBps != nil {
			t.Errorf("got %+v, want two GPUs of which nothing is known", s.GPUs)
		}
		start := time.Now()
		if got := sample(t, m).Gauges.GPUs; got != 2 || time.Since(start) != 0 {
			t.Errorf("got %d GPUs after %s, want 2 at once", got, time.Since(start))
		}
		m.gpus.cancel() // the driver gives up
		synctest.Wait()
		tr.later(gpuFresh)
		if s := get(0); s.GPUs[0].UtilizationBps == nil || *s.GPUs[0].UtilizationBps != 3700 {
			t.Errorf("got %+v, want what the driver tells by now", s.GPUs[0])
		}
		get(0)
		if calls > 3 { // all, then the lost one by itself
			t.Errorf("got %d calls of nvidia-smi, want no more while the answer is fresh", calls)
		}
		m.Close()
	})
}

func TestUsagePercent(t *testing.T) {
	tr := newTree(t, "vm")
	tr.write("proc/stat", "cpu  1000 0 0 9000 0 0 0 0 0 0\n")
	m := tr.open()
	pct := func() float64 {
		t.Helper()
		s, err := m.Metrics()
		if err != nil {
			t.Fatal(err)
		}
		return s.CPU.UsagePct
	}
	if got := pct(); got != 10 {
		t.Errorf("before any time has passed: got %v, want the 10 %% since boot", got)
	}
	for _, c := range []struct {
		name string
		stat string
		want float64
	}{
		{"a quarter of the time, with steal as time", "1100 0 0 9200 50 0 0 50 0 0", 25},
		{"all of it", "1300 0 0 9200 50 0 0 50 0 0", 100},
		{"the counter stepped back: since boot", "100 0 0 300 0 0 0 0 0 0", 25},
	} {
		tr.later(2 * time.Second)
		tr.write("proc/stat", "cpu  "+c.stat+"\n")
		if got := pct(); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
	// Two calls at once see the same stretch of time, and not one of a
	// millisecond.
	if got := pct(); got != 25 {
		t.Errorf("called again at once: got %v, want 25", got)
	}
}

func TestMetricsOfABrokenMachineIsAnError(t *testing.T) {
	for _, name := range []string{"proc/stat", "proc/loadavg"} {
		t.Run(name, func(t *testing.T) {
			tr := newTree(t, "vm")
			m := tr.open()
			tr.write(name, "no\n")
			if s, err := m.Metrics(); err == nil {
				t.Errorf("got %+v, want an error", s)
			}
		})
	}
}

func TestAClosedMachine(t *testing.T) {
	m := newTree(t, "vm").open()
	for range 2 {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := m.Sample(func(*odometer.Reading) { t.Error("a reading was emitted") }); err != errClosed {
		t.Errorf("sample: got %v, want %v", err, errClosed)
	}
	if _, err := m.Metrics(); err != errClosed {
		t.Errorf("metrics: got %v, want %v", err, errClosed)
	}
}

// TestSampleMetricsAndSourcesAtOnce is for the race detector.
func TestSampleMetricsAndSourcesAtOnce(t *testing.T) {
	m := newTree(t, "bare-metal").open()
	var wg sync.WaitGroup
	for _, f := range []func(){
		func() { sample(t, m) },
		func() {
			if _, err := m.Metrics(); err != nil {
				t.Error(err)
			}
		},
		func() { m.Sources() },
	} {
		wg.Go(func() {
			for range 50 {
				f()
			}
		})
	}
	wg.Wait()
}
