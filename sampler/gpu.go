package sampler

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
)

// How GPU details are fetched for /get. They never touch a sample.
const (
	gpuFresh    = 5 * time.Second // a newer answer is not asked for again
	gpuPatience = time.Second     // how long a caller waits for an answer
	gpuTimeout  = 5 * time.Second // for one run of nvidia-smi, which takes up to 2 s without its daemon
)

// gpuDevice is a GPU on the PCI bus.
type gpuDevice struct {
	address string // "0000:01:00.0"
	path    string
	id      string // "10de:2330", vendor and device
	driver  string // bound to it, "" for none
}

// gpuDetail is what a driver tells of a GPU; nil is unknown.
type gpuDetail struct {
	model, uuid             *string
	busyPercent             *float64
	memoryTotal, memoryUsed *uint64 // bytes
	celsius, watts          *float64
}

// gpuSet is the GPUs of a machine and the last that their drivers told.
type gpuSet struct {
	// Guarded by Machine.sampling.
	list  []gpuDevice
	known bool // the bus could be read
	had   bool // there was a GPU once: then none is 0 and not unknown

	mu      sync.Mutex
	details map[string]gpuDetail
	fetched int64         // boot time in microseconds
	running chan struct{} // closed when the query that runs has ended
	cancel  context.CancelFunc
	problem error
}

func (g *gpuSet) gauge() int64 {
	if !g.known || len(g.list) == 0 && !g.had {
		return odometer.Unknown
	}
	return int64(len(g.list))
}

// scanGPUs finds the GPUs that count, see the package's rule.
func (m *Machine) scanGPUs(at odometer.Moment) {
	g := &m.gpus
	dir := m.path("sys/bus/pci/devices")
	list, err := names(dir)
	g.known = err == nil
	g.list = nil
	for _, address := range list {
		if d, ok := gpuAt(filepath.Join(dir, address)); ok {
			g.list = append(g.list, d)
		}
	}
	g.had = g.had || len(g.list) > 0
	if m.host {
		var ours []string // not those that a driver for passing on has
		for _, d := range g.list {
			if d.driver == "nvidia" {
				ours = append(ours, d.address)
			}
		}
		m.busy.replace(ours, m.bootID, at)
	}
	s := m.sources["gpu"]
	s.ok, s.problem, s.detail = len(g.list) > 0, nil, "none"
	if s.ok {
		s.detail = fmt.Sprintf("%d attached", len(g.list))
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // no PCI bus, no GPU
		s.problem = err
	}
}

const (
	vendorNVIDIA = "0x10de"
	vendorAMD    = "0x1002"
)

// gpuAt reports whether the PCI device at path is a GPU that counts.
func gpuAt(path string) (gpuDevice, bool) {
	class := word(filepath.Join(path, "class"))
	if len(class) != len("0x030200") || there(filepath.Join(path, "physfn")) {
		return gpuDevice{}, false
	}
	class = class[:len("0x0302")]
	switch class {
	case "0x0300", "0x0302", "0x0380", "0x1200":
	default:
		return gpuDevice{}, false
	}
	vendor := word(filepath.Join(path, "vendor"))
	if class != "0x0302" && vendor != vendorNVIDIA && vendor != vendorAMD {
		return gpuDevice{}, false
	}
	d := gpuDevice{
		address: filepath.Base(path), path: path,
		id: strings.TrimPrefix(vendor, "0x") + ":" + strings.TrimPrefix(word(filepath.Join(path, "device")), "0x"),
	}
	if to, err := os.Readlink(filepath.Join(path, "driver")); err == nil {
		d.driver = filepath.Base(to)
	}
	if class == "0x0300" {
		switch d.driver {
		case "nvidia", "nouveau", "amdgpu", "vfio-pci":
		default:
			return gpuDevice{}, false
		}
	}
	return d, true
}

// describe returns the details of each GPU in list by address, as fresh as
// gpuPatience allows.
func (g *gpuSet) describe(list []gpuDevice, boot int64, smi smiFunc) map[string]gpuDetail {
	if len(list) == 0 {
		return nil
	}
	g.mu.Lock()
	if g.running == nil && (g.details == nil || boot-g.fetched >= gpuFresh.Microseconds()) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		g.running, g.cancel = done, cancel
		go func() {
			details, err := queryGPUs(ctx, list, smi)
			cancel()
			g.mu.Lock()
			g.details, g.problem, g.fetched, g.running = details, err, boot, nil
			g.mu.Unlock()
			close(done)
		}()
	}
	running := g.running
	g.mu.Unlock()
	if running != nil {
		waitFor(running, gpuPatience)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.details
}

// trouble says why details are missing, nil for none.
func (g *gpuSet) trouble() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.problem
}

func (g *gpuSet) close() {
	g.mu.Lock()
	running, cancel := g.running, g.cancel
	g.mu.Unlock()
	if running != nil {
		cancel()
		waitFor(running, gpuPatience)
	}
}

func waitFor(done <-chan struct{}, patience time.Duration) {
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// queryGPUs asks the drivers. A GPU that fails is missing from the result, and
// the error says why; the others are there.
func queryGPUs(ctx context.Context, list []gpuDevice, smi smiFunc) (map[string]gpuDetail, error) {
	details := make(map[string]gpuDetail, len(list))
	var nvidia []gpuDevice
	for _, d := range list {
		switch d.driver {
		case "nvidia":
			nvidia = append(nvidia, d)
		case "amdgpu":
			details[d.address] = amdDetail(d.path)
		}
	}
	if len(nvidia) == 0 {
		return details, nil
	}
	out, err := smi(ctx) // what it printed before it failed is as good
	for address, d := range parseSMI(out) {
		details[address] = d
	}
	if errors.Is(err, exec.ErrNotFound) || ctx.Err() != nil {
		return details, err
	}
	// One lost GPU can keep nvidia-smi from answering for any.
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, d := range nvidia {
		if _, ok := details[d.address]; ok {
			continue
		}
		wg.Go(func() {
			out, err := smi(ctx, "-i", d.address)
			found, ok := parseSMI(out)[d.address]
			mu.Lock()
			defer mu.Unlock()
			switch {
			case ok:
				details[d.address] = found
			case err != nil:
				errs = append(errs, fmt.Errorf("GPU %s: %w", d.address, err))
			default:
				errs = append(errs, fmt.Errorf("GPU %s: nvidia-smi does not list it", d.address))
			}
		})
	}
	wg.Wait()
	return details, errors.Join(errs...)
}

// smiFunc runs nvidia-smi's query with more arguments and returns what it
// printed, also when it fails.
type smiFunc func(ctx context.Context, args ...string) ([]byte, error)

// smiColumns is the query whose answer parseSMI reads.
const smiColumns = "pci.bus_id,uuid,name,utilization.gpu,memory.used,memory.total,temperature.gpu,power.draw"

func runSMI(ctx context.Context, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, gpuTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "nvidia-smi", append([]string{"--query-gpu=" + smiColumns, "--format=csv,noheader,nounits"}, args...)...)
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		if said, _ := cutLine(bytes.TrimSpace(out)); len(said) > 0 {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return out, fmt.Errorf("ask nvidia-smi: %w", err)
	}
	return out, nil
}

// parseSMI reads lines of [smiColumns] separated by commas, by PCI address.
// Lines that are something else are passed over; a value that is not a number,
// such as [N/A], is unknown.
func parseSMI(b []byte) map[string]gpuDetail {
	all := map[string]gpuDetail{}
	for line := range strings.SplitSeq(string(b), "\n") {
		f := strings.Split(line, ",")
		if len(f) != strings.Count(smiColumns, ",")+1 {
			continue
		}
		for i := range f {
			f[i] = strings.TrimSpace(f[i])
		}
		address, ok := pciAddress(f[0])
		if !ok {
			continue
		}
		const mib = 1 << 20
		all[address] = gpuDetail{
			uuid: text(f[1]), model: text(f[2]),
			busyPercent: decimal(f[3]), memoryUsed: whole(f[4], mib), memoryTotal: whole(f[5], mib),
			celsius: decimal(f[6]), watts: decimal(f[7]),
		}
	}
	return all
}

// pciAddress turns nvidia-smi's "00000000:3B:00.0" into sysfs's "0000:3b:00.0".
func pciAddress(s string) (string, bool) {
	domain, rest, ok := strings.Cut(strings.ToLower(s), ":")
	n, err := strconv.ParseUint(domain, 16, 32)
	if !ok || err != nil || len(rest) != len("3b:00.0") {
		return "", false
	}
	return fmt.Sprintf("%04x:%s", n, rest), true
}

func text(s string) *string {
	if s == "" || s[0] == '[' || s == "N/A" {
		return nil
	}
	return &s
}

func decimal(s string) *float64 {
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || !odometer.Finite(v) || v < 0 {
		return nil
	}
	return &v
}

// whole reads a whole number and multiplies it by unit.
func whole(s string, unit uint64) *uint64 {
	v, err := strconv.ParseUint(s, 10, 64)
	if err != nil || v > math.MaxInt64/unit {
		return nil
	}
	v *= unit
	return &v
}

// amdDetail reads what the amdgpu driver shows of the device at path; see the
// kernel's Documentation/gpu/amdgpu. hwmon counts in thousandths of a degree
// and millionths of a watt.
func amdDetail(path string) gpuDetail {
	at := func(name string) string { return word(filepath.Join(path, name)) }
	d := gpuDetail{
		model: text(at("product_name")), uuid: text(at("unique_id")),
		busyPercent: decimal(at("gpu_busy_percent")),
		memoryTotal: whole(at("mem_info_vram_total"), 1), memoryUsed: whole(at("mem_info_vram_used"), 1),
	}
	sensors, err := names(filepath.Join(path, "hwmon"))
	if err != nil || len(sensors) == 0 {
		return d
	}
	hwmon := filepath.Join("hwmon", sensors[0])
	if d.celsius = decimal(at(filepath.Join(hwmon, "temp1_input"))); d.celsius != nil {
		*d.celsius /= 1e3
	}
	for _, name := range [...]string{"power1_average", "power1_input"} {
		if d.watts = decimal(at(filepath.Join(hwmon, name))); d.watts != nil {
			*d.watts /= 1e6
			break
		}
	}
	return d
}
