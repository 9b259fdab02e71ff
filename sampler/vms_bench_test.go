package sampler

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"

	"example.org/odometer"
	"github.com/shirou/gopsutil/v4/net"
	"github.com/shirou/gopsutil/v4/process"
	"golang.org/x/sys/unix"
)

// park is a host with many machines: for each a sleeping process in a cgroup
// of v1, and a tap in a network namespace that all of them live in.
type park struct {
	vms  []odometer.VM
	dirs []string
	pids []int
	sys  string // where the namespace's sysfs is mounted
	ns   string // the namespace
}

func newPark(b *testing.B, n int) *park {
	b.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		missingFor(b, err.Error())
	}
	p := &park{sys: b.TempDir()}
	root := newCgroup(b, anyCgroup)
	b.Cleanup(func() {
		_ = unix.Unmount(p.sys, unix.MNT_DETACH)
		for _, pid := range p.pids {
			_ = unix.Kill(pid, unix.SIGKILL)
			_, _ = unix.Wait4(pid, nil, 0, nil)
		}
		for _, dir := range p.dirs {
			removeCgroup(dir)
		}
	})
	if err := withinNamespace("/proc/thread-self/ns/net", func() error {
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNET), silence()); err != nil {
			return err
		}
		for i := range n {
			if err := p.add(root, sleep, i); err != nil {
				return err
			}
		}
		return unix.Mount("sysfs", p.sys, "sysfs", unix.MS_RDONLY, "")
	}); err != nil {
		b.Fatal(err)
	}
	p.ns = fmt.Sprintf("/proc/%d/ns/net", p.pids[0])
	return p
}

func (p *park) add(root, sleep string, i int) error {
	pid, err := syscall.ForkExec(sleep, []string{"sleep", "3600"}, &syscall.ProcAttr{})
	if err != nil {
		return err
	}
	p.pids = append(p.pids, pid)
	dir := filepath.Join(root, fmt.Sprint("vm", i))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	p.dirs = append(p.dirs, dir)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return err
	}
	tap := fmt.Sprint("vt", i)
	fd, err := openTap(tap, true) // it lives as long as the namespace
	if err != nil {
		return err
	}
	p.vms = append(p.vms, odometer.VM{
		Instance: odometer.InstanceID(fmt.Sprintf("vm-%04d", i)), State: odometer.Running,
		PID: pid, Run: strconv.Itoa(pid), VCPUs: 1, Memory: 1 << 30,
		NICs: []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: tap}},
	})
	return errors.Join(raise(tap), unix.Close(fd))
}

// BenchmarkSample1000 compares a full sample of 1000 machines (processor time,
// disk I/O, network; memory by turns) with the bare system calls for the same,
// with reading the same by name, and with gopsutil. Each takes
// its turn in every round, so that what else runs here weighs on all alike;
// figures are processor time, medians of the rounds.
//
//	go test ./sampler -run '^$' -bench Sample1000 -benchtime 50x
func BenchmarkSample1000(b *testing.B) {
	needRoot(b)
	const n = 1000
	p := newPark(b, n)
	s := openVMs(b)
	s.Update(p.vms)
	count := 0
	discard := func(*odometer.Reading) { count++ }
	if err := s.Sample(discard); err != nil || count < n {
		b.Fatalf("%d readings, %v: %+v", count, err, s.Sources())
	}
	for _, st := range s.Sources() {
		if st.Problem != "" {
			b.Errorf("%s: %s", st.Name, st.Problem)
		}
	}
	if got := runOf(s).cpuFrom; got != cpuFromCgroup {
		b.Fatalf("processor time comes from source %d", got)
	}
	var files []int
	open := func(path string) {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { unix.Close(fd) })
		files = append(files, fd)
	}
	for i, dir := range p.dirs {
		open(filepath.Join(dir, "cpuacct.usage"))
		open(fmt.Sprintf("/proc/%d/io", p.pids[i]))
	}
	var stats *statsSocket
	if err := withinNamespace(p.ns, func() (err error) { stats, err = openStats(); return err }); err != nil {
		b.Fatal(err)
	}
	defer stats.close()
	buf := make([]byte, netlinkBuffer)
	read := func(path string) {
		if _, err := os.ReadFile(path); err != nil {
			b.Fatal(err)
		}
	}
	ways := []struct {
		name string
		once func()
	}{
		{"sample", func() {
			if err := s.Sample(discard); err != nil {
				b.Fatal(err)
			}
		}},
		{"bare", func() {
			for _, fd := range files {
				if _, err := unix.Pread(fd, buf[:4096], 0); err != nil {
					b.Fatal(err)
				}
			}
			if err := bareDump(stats, buf); err != nil {
				b.Fatal(err)
			}
		}},
		{"ReadFile", func() {
			for i, dir := range p.dirs {
				read(filepath.Join(dir, "cpuacct.usage"))
				read(fmt.Sprintf("/proc/%d/io", p.pids[i]))
				link := filepath.Join(p.sys, "class/net", p.vms[i].NICs[0].Link, "statistics")
				read(filepath.Join(link, "rx_bytes"))
				read(filepath.Join(link, "tx_bytes"))
			}
		}},
		{"gopsutil", func() {
			for _, pid := range p.pids {
				proc, err := process.NewProcess(int32(pid))
				if err != nil {
					b.Fatal(err)
				}
				_, errCPU := proc.Times()
				_, errMemory := proc.MemoryInfo()
				_, errIO := proc.IOCounters()
				if err := errors.Join(errCPU, errMemory, errIO); err != nil {
					b.Fatal(err)
				}
			}
			if list, err := net.IOCountersByFile(true, fmt.Sprintf("/proc/%d/net/dev", p.pids[0])); err != nil || len(list) < n {
				b.Fatal(len(list), err)
			}
		}},
	}
	spent := make([][]int64, len(ways))
	allocated := uint64(0)
	var before, after runtime.MemStats
	for b.Loop() {
		for i, w := range ways {
			runtime.GC() // what the last way left behind is not this one's
			w.once()     // what it needs lies in the caches, for each way alike
			runtime.ReadMemStats(&before)
			begin := spentNanos()
			w.once()
			spent[i] = append(spent[i], spentNanos()-begin)
			if runtime.ReadMemStats(&after); i == 0 {
				allocated += after.Mallocs - before.Mallocs
			}
		}
	}
	perVM := func(i int) float64 { return float64(median(spent[i])) / 1000 / n }
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(perVM(0), "µs/VM")
	b.ReportMetric(perVM(1), "bare-µs/VM")
	b.ReportMetric(perVM(2), "ReadFile-µs/VM")
	b.ReportMetric(perVM(3), "gopsutil-µs/VM")
	b.ReportMetric(perVM(0)/perVM(1), "×bare")
	b.ReportMetric(perVM(2)/perVM(0), "×cheaper-than-ReadFile")
	b.ReportMetric(perVM(3)/perVM(0), "×cheaper-than-gopsutil")
	b.ReportMetric(float64(allocated)/float64(len(spent[0])), "allocs/sample")
}

// bareDump asks for the counters of all interfaces and reads the answer to its
// end, without looking into it.
func bareDump(s *statsSocket, buf []byte) error {
	if _, err := unix.Write(s.fd, s.request[:]); err != nil {
		return err
	}
	for {
		n, err := unix.Read(s.fd, buf)
		if err != nil {
			return err
		}
		const end = unix.NLMSG_HDRLEN + 4 // what ends a dump may follow in the same piece
		if kind, _, _, ok := cutMessage(buf[max(0, n-end):n]); ok && kind == unix.NLMSG_DONE {
			return nil
		}
	}
}

// spentNanos is the processor time of this process, in user and system mode.
func spentNanos() int64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

func median(list []int64) int64 {
	list = slices.Sorted(slices.Values(list))
	return list[len(list)/2]
}
