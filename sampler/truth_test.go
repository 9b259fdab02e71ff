package sampler

import (
	"crypto/rand"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// The tests in this file meter the machine that they run on while they use a
// known amount of it. Whatever else runs there adds to what is measured, so
// the bounds are tight below and loose above, and each test takes the best of
// a few attempts.

const attempts = 6

// missing skips a test that this machine cannot run, which under CI=true is a
// failure: there everything is provided.
func missing(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("cannot run here, and under CI=true it has to: %s", why)
	}
	t.Skip(why)
}

func realMachine(t testing.TB) *Machine {
	t.Helper()
	m, err := OpenMachine(MachineOptions{Instance: "this", Agent: "this"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// best repeats a measurement until got lies between low and high, attempts
// times at most, and logs each.
func best(t *testing.T, what string, low, high float64, measure func() (truth, got int64)) {
	t.Helper()
	for i := range attempts {
		truth, got := measure()
		share := float64(got) / float64(truth)
		t.Logf("%s: truth %d, measured %d, error %+.2f %%", what, truth, got, (share-1)*100)
		if share >= low && share <= high {
			return
		}
		if i == attempts-1 {
			t.Errorf("%s: measured %d, truth %d: want %.2f to %.2f of it", what, got, truth, low, high)
		}
	}
}

func processNanos() int64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		panic(err)
	}
	return ts.Nano()
}

// steal reads what other machines on the same host took, in nanoseconds: a
// process's own clock runs on meanwhile, the busy time does not.
func steal(t *testing.T) int64 {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		t.Fatal(err)
	}
	var f [8]uint64
	line, _ := cutLine(b[len("cpu "):])
	cutUints(line, f[:])
	return int64(f[7] * uint64(time.Second) / ticksPerSecond())
}

func TestTruthProcessorTime(t *testing.T) {
	m := realMachine(t)
	best(t, "processor time in ns", 0.93, math.Inf(1), func() (truth, got int64) {
		stolen, first, truth := steal(t), sample(t, m), -processNanos()
		var wg sync.WaitGroup
		end := time.Now().Add(700 * time.Millisecond)
		for range min(2, runtime.NumCPU()) {
			wg.Go(func() {
				for time.Now().Before(end) {
				}
			})
		}
		wg.Wait()
		truth += processNanos()
		time.Sleep(20 * time.Millisecond) // the last ticks are booked
		last := sample(t, m)
		got = int64(counter(last, odometer.CPU, "").Value - counter(first, odometer.CPU, "").Value)
		// Above there is no truth but what the processors can do at all.
		if most := (last.At.Boot-first.At.Boot)*1000*last.Gauges.VCPUs + 50_000_000; got > most {
			t.Errorf("measured %d ns on %d processors within %d µs", got, last.Gauges.VCPUs, last.At.Boot-first.At.Boot)
		}
		return truth, got + min(steal(t)-stolen, truth-min(got, truth))
	})
}

// idlePages reads how much memory lies on the processors' own lists of freed
// pages: the kernel counts it as neither free nor available, so that memory
// taken from there does not show.
func idlePages(t *testing.T) (bytes int64) {
	b, err := os.ReadFile("/proc/zoneinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "count:"); ok {
			pages, err := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			bytes += pages * int64(os.Getpagesize())
		}
	}
	return bytes
}

func TestTruthMemory(t *testing.T) {
	m := realMachine(t)
	const bytes = 256 << 20
	if m.memory.available < 4*bytes {
		missing(t, "less than 1 GiB of memory is available")
	}
	best(t, "memory touched, in bytes", 0.85, 1.35, func() (truth, got int64) {
		before, idle := sample(t, m).Gauges.Memory, idlePages(t)
		b, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		got, idle = sample(t, m).Gauges.Memory-before, idlePages(t)-idle
		if err := unix.Munmap(b); err != nil {
			t.Fatal(err)
		}
		t.Logf("measured %d, of which %d on the processors' own lists", got, idle)
		return bytes, got - idle
	})
}

// diskDir returns a directory on a filesystem that counts.
func diskDir(t *testing.T, m *Machine) string {
	t.Helper()
	for _, parent := range []string{"", ".", "/var/tmp"} {
		dir, err := os.MkdirTemp(parent, "odometer-truth-")
		if err != nil {
			continue
		}
		t.Cleanup(func() { os.RemoveAll(dir) })
		var st, root unix.Stat_t
		if unix.Stat(dir, &st) != nil {
			continue
		}
		for _, fs := range m.storage.list {
			if unix.Stat(fs.points[0], &root) == nil && root.Dev == st.Dev {
				return dir
			}
		}
	}
	missing(t, "no directory that can be written lies on a disk of this machine")
	return ""
}

// TestTruthDisk writes random bytes, which nothing can compress, and has them
// on the disk before it looks.
func TestTruthDisk(t *testing.T) {
	m := realMachine(t)
	if len(m.disks.list) == 0 {
		missing(t, "this machine has no disk")
	}
	path := filepath.Join(diskDir(t, m), "written")
	const bytes = 64 << 20
	chunk := make([]byte, 1<<20)
	if _, err := rand.Read(chunk); err != nil {
		t.Fatal(err)
	}
	written := func(r odometer.Reading) (sum int64) {
		for _, c := range r.Counters {
			if c.Quantity == odometer.DiskWrite {
				sum += int64(c.Value)
			}
		}
		return sum
	}
	unix.Sync() // what others have written is not written with ours
	var occupied int64
	best(t, "bytes written to disks", 0.99, 1.6, func() (truth, got int64) {
		before := sample(t, m)
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for range bytes / len(chunk) {
			if _, err := f.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		after := sample(t, m)
		occupied = after.Gauges.Storage - before.Gauges.Storage
		if err := errors.Join(os.Remove(path), f.Close()); err != nil {
			t.Fatal(err)
		}
		unix.Sync()
		return bytes, written(after) - written(before)
	})
	t.Logf("bytes occupied by them: truth %d, measured %d, error %+.2f %%", bytes, occupied, (float64(occupied)/bytes-1)*100)
}

// TestTruthStorage is apart from the bytes written, since neither waits for
// the other to be undisturbed.
func TestTruthStorage(t *testing.T) {
	m := realMachine(t)
	dir := diskDir(t, m)
	const bytes = 64 << 20
	best(t, "bytes occupied", 0.9, 1.5, func() (truth, got int64) {
		before := sample(t, m).Gauges.Storage
		f, err := os.CreateTemp(dir, "occupied")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if err := unix.Fallocate(int(f.Fd()), 0, 0, bytes); err != nil {
			missing(t, "the filesystem cannot reserve space: "+err.Error())
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		got = sample(t, m).Gauges.Storage - before
		if err := os.Remove(f.Name()); err != nil {
			t.Fatal(err)
		}
		return bytes, got
	})
}

// TestRealMachine is what holds on any machine, whatever it has.
func TestRealMachine(t *testing.T) {
	m := realMachine(t)
	id, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	before := SystemClock{}.Now()
	r := sample(t, m)
	after := SystemClock{}.Now()
	if r.At.Boot < before.Boot || r.At.Boot > after.Boot {
		t.Errorf("got a reading at %d, want it between %d and %d", r.At.Boot, before.Boot, after.Boot)
	}
	if c := counter(r, odometer.CPU, ""); c.Incarnation != id || c.Value == 0 {
		t.Errorf("got %+v, want processor time since boot %s", c, id)
	}
	if got, most := r.Gauges.VCPUs, int64(runtime.NumCPU()); got < most {
		t.Errorf("got %d CPUs online, want at least the %d that this process may use", got, most)
	}
	if g := r.Gauges; g.Memory <= 0 || g.Memory >= g.MemoryAllocated {
		t.Errorf("got %d bytes of memory used of %d", g.Memory, g.MemoryAllocated)
	}
	for range 5 {
		next := sample(t, m)
		if next.At.Boot <= r.At.Boot {
			t.Errorf("got a reading at %d after one at %d", next.At.Boot, r.At.Boot)
		}
		for _, c := range r.Counters {
			if n := counter(next, c.Quantity, c.Device); n.Incarnation == c.Incarnation && n.Value < c.Value {
				t.Errorf("%s of %q: got %d after %d", c.Quantity, c.Device, n.Value, c.Value)
			}
		}
		r = next
	}
	s, err := m.Metrics()
	if err != nil {
		t.Fatal(err)
	}
	if s.CPU.UsagePct < 0 || s.CPU.UsagePct > 100 || s.CPU.ProcessCount < 1 || s.Memory.Total == 0 || s.Timestamp < 1_700_000_000 {
		t.Errorf("got %+v", s)
	}
	for _, s := range m.Sources() {
		t.Logf("%+v", s)
	}
}

// TestRtnetlinkAgreesWithProc reads the same interfaces both ways.
func TestRtnetlinkAgreesWithProc(t *testing.T) {
	m := realMachine(t)
	if m.stats == nil {
		missing(t, "the kernel has no RTM_GETSTATS")
	}
	if len(m.links.list) == 0 {
		missing(t, "this machine has no network interface")
	}
	for i := range attempts {
		one := m.linkMetrics()
		stats := m.stats
		m.stats = nil
		proc := m.linkMetrics()
		m.stats = stats
		two := m.linkMetrics()
		ok := len(one) == len(proc) && len(two) == len(proc)
		for j := 0; ok && j < len(proc); j++ {
			// Traffic goes on in between.
			ok = proc[j].Name == one[j].Name &&
				one[j].BytesReceived <= proc[j].BytesReceived && proc[j].BytesReceived <= two[j].BytesReceived &&
				one[j].BytesSent <= proc[j].BytesSent && proc[j].BytesSent <= two[j].BytesSent &&
				one[j].DropsIn <= proc[j].DropsIn && proc[j].DropsIn <= two[j].DropsIn
		}
		if ok {
			return
		}
		if i == attempts-1 {
			t.Errorf("rtnetlink %+v, /proc/net/dev %+v, rtnetlink %+v", one, proc, two)
		}
	}
}

// TestWithoutRtnetlink: a kernel that refuses costs nothing but time.
func TestWithoutRtnetlink(t *testing.T) {
	m := realMachine(t)
	if m.stats == nil || len(m.links.list) == 0 {
		missing(t, "this machine has no network interface or no RTM_GETSTATS")
	}
	m.stats.close() // and every dump fails with EBADF
	name := m.links.list[0].name
	c := counter(sample(t, m), odometer.NetworkIngress, name)
	if c.Incarnation == "" || m.stats != nil {
		t.Errorf("got %+v, want %s's counter from /proc/net/dev", c, name)
	}
}

// TestASteadySampleDoesNotAllocate, neither here nor on a larger machine.
func TestASteadySampleDoesNotAllocate(t *testing.T) {
	machines := map[string]*Machine{"this machine": realMachine(t)}
	for _, name := range []string{"bare-metal", "old-kernel"} {
		tr := newTree(t, name)
		m, err := openMachine(MachineOptions{Root: tr.root}, statfsOf, 100, tr.runSMI)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { m.Close() })
		machines[name] = m
	}
	none := func(*odometer.Reading) {}
	for name, m := range machines {
		for range 3 {
			sample(t, m)
		}
		// AllocsPerRun rounds down, so that what the runtime does by itself
		// now and then is not ours.
		if got := testing.AllocsPerRun(200, func() {
			if err := m.Sample(none); err != nil {
				t.Error(err)
			}
		}); got != 0 {
			t.Errorf("%s: got %v allocations a sample, want 0", name, got)
		}
	}
}

func BenchmarkSample(b *testing.B) {
	m := realMachine(b)
	none := func(*odometer.Reading) {}
	b.ReportAllocs()
	cpu := -processNanos()
	for b.Loop() {
		if err := m.Sample(none); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(cpu+processNanos())/float64(b.N), "cpu-ns/op")
}

func BenchmarkMetrics(b *testing.B) {
	m := realMachine(b)
	for b.Loop() {
		if _, err := m.Metrics(); err != nil {
			b.Fatal(err)
		}
	}
}
