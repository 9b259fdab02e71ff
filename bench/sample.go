package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/shirou/gopsutil/v4/net"
	gopsutil "github.com/shirou/gopsutil/v4/process"
	"golang.org/x/sys/unix"

	"example.org/odometer"
	"example.org/odometer/sampler"
)

// How often a machine's disk I/O and memory are read, in samples that are a
// second apart: see [sampler.VMsOptions.Period] and the package's documentation.
const (
	ioTurns     = 5
	memoryTurns = 30
)

// sampleCost measures the processor time that a sample of 1000 machines takes,
// a second after another on the sampler's clock: processor time and network are
// read by each sample, disk I/O and memory of a part of the machines each time.
// The limit is to make the same system calls as often and to look at nothing.
// os.ReadFile and gopsutil read the same as often, too. Each takes its turn in
// every round, so that what else runs here weighs on all alike, and is measured
// when it has just read once, so that none finds in the caches what another
// brought there. What is printed is the least of the rounds: whatever disturbs
// one adds to it.
//
// sample_1000_all has the disk I/O of all machines read by every sample.
func sampleCost(b *bench) error {
	n, rounds := 1000, memoryTurns
	if b.quick {
		n, rounds = 50, ioTurns
	}
	p, err := b.newPark(n)
	if err != nil {
		return b.without("sample_1000", err)
	}
	err = errors.Join(
		sampleTurns(b, p, "sample_1000", 30*time.Second, ioTurns, rounds),
		sampleTurns(b, p, "sample_1000_all", 0, 1, rounds),
	)
	return errors.Join(err, p.close())
}

// without says why a figure is not measured here, where that is no failure.
func (b *bench) without(name string, err error) error {
	if !errors.Is(err, errPark) {
		return err
	}
	b.note("%s: %v", name, err)
	return nil
}

func sampleTurns(b *bench, p *park, name string, period time.Duration, turns, rounds int) error {
	clock := &aheadClock{}
	vms := sampler.OpenVMs(sampler.VMsOptions{Agent: "bench", Clock: clock, Period: period})
	defer vms.Close()
	vms.Update(p.vms)
	count := 0
	discard := func(*odometer.Reading) { count++ }
	if err := vms.Sample(discard); err != nil {
		return err
	}
	for _, st := range vms.Sources() {
		if st.Problem != "" {
			return fmt.Errorf("%s: %s", st.Name, st.Problem)
		}
	}
	bare, err := p.openBare(turns)
	if err != nil {
		return err
	}
	defer bare.close()
	ways := []func(round int) error{
		func(int) error {
			clock.ahead += odometer.SecondMicros
			return vms.Sample(discard)
		},
		bare.read,
		func(round int) error { return p.readFiles(round, turns) },
		func(round int) error { return p.readGopsutil(round, turns) },
	}
	spent := make([][]float64, len(ways)) // µs a machine
	for round := range rounds {
		for i, once := range ways {
			runtime.GC() // what the last way left behind is not this one's
			var begin time.Duration
			for second := range 2 {
				begin = processorTime()
				if err := once(2*round + second); err != nil {
					return err
				}
			}
			spent[i] = append(spent[i], (processorTime()-begin).Seconds()*1e6/float64(len(p.vms)))
		}
	}
	if want := (2*rounds + 1) * len(p.vms); count < want {
		return fmt.Errorf("%d readings, want %d", count, want)
	}
	var least, half [4]float64
	for i, list := range spent {
		slices.Sort(list)
		least[i], half[i] = list[0], list[len(list)/2]
	}
	b.cost(name, least[0], "µs/VM", least[1])
	b.rate(name+"_readfile", least[2]/least[0], "times", 0)
	b.rate(name+"_gopsutil", least[3]/least[0], "times", 0)
	b.note("%s: os.ReadFile takes %s µs/VM for the same, gopsutil %s; in the median of %d rounds the four take %s, %s, %s and %s", name,
		number(least[2]), number(least[3]), rounds, number(half[0]), number(half[1]), number(half[2]), number(half[3]))

	// What the queue and the garbage collector allocate meanwhile falls into few
	// of these samples.
	var allocated []uint64
	var before, after runtime.MemStats
	for range rounds {
		clock.ahead += odometer.SecondMicros
		runtime.ReadMemStats(&before)
		if err := vms.Sample(discard); err != nil {
			return err
		}
		runtime.ReadMemStats(&after)
		allocated = append(allocated, after.Mallocs-before.Mallocs)
	}
	slices.Sort(allocated)
	b.cost(name+"_allocations", float64(allocated[len(allocated)/2]), "/sample", 0)
	return nil
}

// aheadClock is the host's own clock, and so much ahead of it.
type aheadClock struct{ ahead int64 } // µs

func (c *aheadClock) Now() odometer.Moment {
	at := sampler.SystemClock{}.Now()
	return odometer.Moment{Boot: at.Boot + c.ahead, Wall: at.Wall + c.ahead}
}

// processorTime is that of this process, in user and system mode.
func processorTime() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(fmt.Sprintf("getrusage: %v", err)) // there is no way for it to fail
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// bareReader makes the system calls that a sample makes.
type bareReader struct {
	p                 *park
	turns             int
	usage, io, status []int
	request           [unix.NLMSG_HDRLEN + 12]byte // struct if_stats_msg is the latter
	buf               []byte
}

func (p *park) openBare(turns int) (*bareReader, error) {
	r := &bareReader{p: p, turns: turns, buf: make([]byte, 64<<10)}
	var errs []error
	open := func(list []int, path string) []int {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			errs = append(errs, fmt.Errorf("open %s: %w", path, err))
			return list
		}
		return append(list, fd)
	}
	for _, vm := range p.vms {
		r.usage = open(r.usage, p.usage[vm.Instance])
		r.io = open(r.io, fmt.Sprintf("/proc/%d/io", vm.PID))
		r.status = open(r.status, fmt.Sprintf("/proc/%d/status", vm.PID))
	}
	const stats64 = 1 // IFLA_STATS_LINK_64
	binary.NativeEndian.PutUint32(r.request[0:], uint32(len(r.request)))
	binary.NativeEndian.PutUint16(r.request[4:], unix.RTM_GETSTATS)
	binary.NativeEndian.PutUint16(r.request[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	binary.NativeEndian.PutUint32(r.request[unix.NLMSG_HDRLEN+8:], 1<<(stats64-1))
	return r, errors.Join(errs...)
}

func (r *bareReader) close() {
	for _, list := range [][]int{r.usage, r.io, r.status} {
		for _, fd := range list {
			_ = unix.Close(fd) // only ever read
		}
	}
}

func (r *bareReader) read(round int) error {
	for i := range r.usage {
		_, err := unix.Pread(r.usage[i], r.buf, 0)
		if err == nil && (round+i)%r.turns == 0 {
			_, err = unix.Pread(r.io[i], r.buf, 0)
		}
		if err == nil && (round+i)%memoryTurns == 0 {
			_, err = unix.Pread(r.status[i], r.buf, 0)
		}
		if err != nil {
			return err
		}
	}
	if _, err := unix.Write(r.p.socket, r.request[:]); err != nil {
		return err
	}
	for {
		n, err := unix.Read(r.p.socket, r.buf)
		if err != nil {
			return err
		}
		const end = unix.NLMSG_HDRLEN + 4 // what ends a dump may follow in the same piece
		if n >= end && binary.NativeEndian.Uint16(r.buf[n-end+4:]) == unix.NLMSG_DONE {
			return nil
		}
	}
}

// readFiles reads the same by name, as one would who wants it simple.
func (p *park) readFiles(round, turns int) error {
	for i, vm := range p.vms {
		link := filepath.Join(p.sys, "class/net", vm.NICs[0].Link, "statistics")
		paths := []string{p.usage[vm.Instance], filepath.Join(link, "rx_bytes"), filepath.Join(link, "tx_bytes")}
		if (round+i)%turns == 0 {
			paths = append(paths, fmt.Sprintf("/proc/%d/io", vm.PID))
		}
		if (round+i)%memoryTurns == 0 {
			paths = append(paths, fmt.Sprintf("/proc/%d/status", vm.PID))
		}
		for _, path := range paths {
			if _, err := os.ReadFile(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// readGopsutil has gopsutil read the same of each process.
func (p *park) readGopsutil(round, turns int) error {
	for i, vm := range p.vms {
		proc, err := gopsutil.NewProcess(int32(vm.PID))
		if err != nil {
			return err
		}
		if _, err = proc.Times(); err == nil && (round+i)%turns == 0 {
			_, err = proc.IOCounters()
		}
		if err == nil && (round+i)%memoryTurns == 0 {
			_, err = proc.MemoryInfo()
		}
		if err != nil {
			return err
		}
	}
	list, err := net.IOCountersByFile(true, fmt.Sprintf("/proc/%d/net/dev", p.vms[0].PID))
	if err == nil && len(list) < len(p.vms) {
		err = fmt.Errorf("gopsutil tells of %d interfaces", len(list))
	}
	return err
}
