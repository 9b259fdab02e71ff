package sampler

import (
	"math"
	"path/filepath"
	"strconv"

	"example.org/odometer"
)

// SystemMetrics is the answer to GET /get: a machine as it is now, for people
// and for programs that know the earlier service. Nothing is billed from it.
// The package documentation lists what changed in it.
type SystemMetrics struct {
	Timestamp  int64                `json:"timestamp"` // Unix seconds
	InstanceID *odometer.InstanceID `json:"instance_id"`
	AccountID  *odometer.UserID     `json:"account_id"`
	CPU        CPUMetrics           `json:"cpu"`
	Memory     MemoryMetrics        `json:"memory"`
	Disks      []DiskMetrics        `json:"disks"`
	Network    NetworkMetrics       `json:"network"`
	GPUs       []GPUMetrics         `json:"gpus"`
	Load       LoadMetrics          `json:"load"`
}

// CPUMetrics is about all processors together.
type CPUMetrics struct {
	// UsagePct is the share of the processors' time that was used since the
	// previous sample or call at least a second ago, or since boot where
	// there is none, 0 to 100.
	UsagePct     float64 `json:"usage_pct"`
	ProcessCount int     `json:"process_count"`
}

// MemoryMetrics are bytes.
type MemoryMetrics struct {
	Total     uint64 `json:"total"`
	Free      uint64 `json:"free"`
	Available uint64 `json:"available"`
	Used      uint64 `json:"used"` // Total − Available
	TotalSwap uint64 `json:"total_swap"`
	UsedSwap  uint64 `json:"used_swap"`
}

// DiskMetrics are the counters of one disk since boot: sectors of 512 bytes,
// times in milliseconds.
type DiskMetrics struct {
	DeviceName          string `json:"device_name"`
	ReadsCompleted      uint64 `json:"reads_completed"`
	ReadsMerged         uint64 `json:"reads_merged"`
	SectorsRead         uint64 `json:"sectors_read"`
	TimeReading         uint64 `json:"time_reading"`
	WritesCompleted     uint64 `json:"writes_completed"`
	WritesMerged        uint64 `json:"writes_merged"`
	SectorsWritten      uint64 `json:"sectors_written"`
	TimeWriting         uint64 `json:"time_writing"`
	IOInProgress        uint64 `json:"io_in_progress"` // a gauge
	TimeDoingIO         uint64 `json:"time_doing_io"`
	WeightedTimeDoingIO uint64 `json:"weighted_time_doing_io"`
}

// NetworkMetrics are the interfaces that count.
type NetworkMetrics struct {
	Interfaces []InterfaceMetrics `json:"interfaces"`
}

// InterfaceMetrics are the counters of one interface since it was made.
type InterfaceMetrics struct {
	Name            string  `json:"name"`
	BytesSent       uint64  `json:"bytes_sent"`
	BytesReceived   uint64  `json:"bytes_received"`
	PacketsSent     uint64  `json:"packets_sent"`
	PacketsReceived uint64  `json:"packets_received"`
	ErrorsIn        uint64  `json:"errors_in"`
	ErrorsOut       uint64  `json:"errors_out"`
	DropsIn         uint64  `json:"drops_in"`
	DropsOut        uint64  `json:"drops_out"`
	Speed           *uint64 `json:"speed"` // bits/s; null where the driver does not tell
}

// GPUMetrics is one GPU; null is unknown.
type GPUMetrics struct {
	Index            int     `json:"index"` // in order of the PCI address
	BusID            string  `json:"bus_id"`
	UUID             *string `json:"uuid"`
	Model            string  `json:"model"` // "vendor:device" in hex where the driver tells no name
	UtilizationBps   *uint32 `json:"utilization_bps"`
	MemoryUsageBps   *uint32 `json:"memory_usage_bps"`
	TemperatureDeciC *uint32 `json:"temperature_deci_c"`
	PowerDrawDeciW   *uint32 `json:"power_draw_deci_w"`
	MemoryTotal      *uint64 `json:"memory_total"`
	MemoryUsed       *uint64 `json:"memory_used"`
}

// LoadMetrics are the load averages.
type LoadMetrics struct {
	Load1  float64 `json:"load1"`
	Load5  float64 `json:"load5"`
	Load15 float64 `json:"load15"`
}

// Metrics reads the machine as it is now, apart from and without disturbing
// the readings. It may be called from several goroutines, waits for a sample
// that is under way, and waits up to a second for what a GPU's driver tells.
// The error is about what cannot be left out: processor time, memory, load.
func (m *Machine) Metrics() (SystemMetrics, error) {
	s, gpus, boot, err := m.metrics()
	if err != nil {
		return SystemMetrics{}, err
	}
	details := m.gpus.describe(gpus, boot, m.smi)
	s.GPUs = make([]GPUMetrics, len(gpus))
	for i, g := range gpus {
		s.GPUs[i] = gpuMetrics(i, g, details[g.address])
	}
	return s, nil
}

func (m *Machine) metrics() (s SystemMetrics, gpus []gpuDevice, boot int64, err error) {
	m.sampling.Lock()
	defer m.sampling.Unlock()
	if m.closed {
		return s, nil, 0, errClosed
	}
	at := m.clock.Now()
	s.Timestamp = at.Wall / odometer.SecondMicros
	if m.opt.Instance != "" {
		s.InstanceID = &m.opt.Instance
	}
	if m.opt.Owner.User != "" {
		s.AccountID = &m.opt.Owner.User
	}
	if s.CPU, err = m.cpuMetrics(at.Boot); err != nil {
		return s, nil, 0, err
	}
	b, err := m.meminfo.all(&m.buf)
	if err != nil {
		return s, nil, 0, err
	}
	mem := parseMemInfo(b)
	s.Memory = MemoryMetrics{
		Total: mem.total, Free: mem.free, Available: mem.available, Used: mem.total - min(mem.available, mem.total),
		TotalSwap: mem.swapTotal, UsedSwap: mem.swapTotal - min(mem.swapFree, mem.swapTotal),
	}
	if b, err = m.loadavg.head(m.head[:]); err == nil {
		s.Load, err = parseLoad(b)
	}
	if err != nil {
		return s, nil, 0, err
	}
	s.Disks = m.diskMetrics()
	s.Network.Interfaces = m.linkMetrics()
	return s, m.gpus.list, at.Boot, nil
}

func (m *Machine) cpuMetrics(boot int64) (c CPUMetrics, err error) {
	b, err := m.stat.head(m.head[:])
	if err != nil {
		return c, err
	}
	now, err := parseStat(b)
	if err != nil {
		return c, err
	}
	since := m.cpuWindow[1]
	if boot-since.boot < odometer.SecondMicros {
		since = m.cpuWindow[0]
	} else {
		m.cpuWindow = [2]cpuMark{since, {now, boot}}
	}
	c.UsagePct = usagePct(since.times, now)
	if list, err := names(m.path("proc")); err == nil {
		for _, name := range list {
			if _, rest, ok := cutUint([]byte(name)); ok && len(rest) == 0 {
				c.ProcessCount++
			}
		}
	}
	return c, nil
}

// usagePct is the share of the time between two moments that was busy, or of
// all the time since boot where they do not lie apart.
func usagePct(from, to cpuTimes) float64 {
	if to.total <= from.total || to.busy < from.busy {
		from = cpuTimes{}
	}
	if to.total == 0 {
		return 0
	}
	pct := float64(to.busy-from.busy) / float64(to.total-from.total) * 100
	return math.Round(min(pct, 100)*1e3) / 1e3
}

func (m *Machine) diskMetrics() []DiskMetrics {
	list := []DiskMetrics{}
	b, err := m.diskstats.all(&m.buf)
	if err != nil {
		return list
	}
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		name, d, ok := parseDiskLine(line)
		if i, counts := m.disks.byName[string(name)]; ok && counts && i >= 0 {
			list = append(list, DiskMetrics{
				string(name), d.reads, d.readsMerged, d.sectorsRead, d.readMillis,
				d.writes, d.writesMerged, d.sectorsWritten, d.writeMillis,
				d.inProgress, d.ioMillis, d.weightedMillis,
			})
		}
	}
	return list
}

func (m *Machine) linkMetrics() []InterfaceMetrics {
	list := []InterfaceMetrics{}
	add := func(i int, s linkStats) {
		name := m.links.list[i].name
		list = append(list, InterfaceMetrics{
			name, s.txBytes, s.rxBytes, s.txPackets, s.rxPackets, s.rxErrors, s.txErrors, s.rxDrops, s.txDrops,
			m.linkSpeed(name),
		})
	}
	if m.stats != nil {
		err := m.stats.dump(func() { list = list[:0] }, func(ifindex uint32, s linkStats) {
			if i, ok := m.links.bySeq[ifindex]; ok && i >= 0 {
				add(i, s)
			}
		})
		if err == nil {
			return list
		}
		list = list[:0]
	}
	b, err := m.netdev.all(&m.buf)
	if err != nil {
		return list
	}
	for len(b) > 0 {
		var line []byte
		line, b = cutLine(b)
		name, s, ok := parseNetDevLine(line)
		if i, counts := m.links.byName[string(name)]; ok && counts && i >= 0 {
			add(i, s)
		}
	}
	return list
}

// linkSpeed is in bits per second; /sys has Mbit/s, and -1 or an error where
// the driver does not know.
func (m *Machine) linkSpeed(name string) *uint64 {
	v, err := strconv.ParseUint(word(m.path(filepath.Join("sys/class/net", name, "speed"))), 10, 32)
	if err != nil || v == math.MaxUint32 { // SPEED_UNKNOWN printed without its sign
		return nil
	}
	v *= 1e6
	return &v
}

func gpuMetrics(index int, g gpuDevice, d gpuDetail) GPUMetrics {
	r := GPUMetrics{Index: index, BusID: g.address, Model: g.id, UUID: d.uuid, MemoryTotal: d.memoryTotal, MemoryUsed: d.memoryUsed}
	if d.model != nil {
		r.Model = *d.model
	}
	r.UtilizationBps = scaled(d.busyPercent, 100)
	r.TemperatureDeciC = scaled(d.celsius, 10)
	r.PowerDrawDeciW = scaled(d.watts, 10)
	if d.memoryTotal != nil && d.memoryUsed != nil && *d.memoryTotal > 0 {
		share := float64(*d.memoryUsed) / float64(*d.memoryTotal)
		r.MemoryUsageBps = scaled(&share, 1e4)
	}
	return r
}

func scaled(v *float64, by float64) *uint32 {
	if v == nil || *v*by > math.MaxUint32 {
		return nil
	}
	n := uint32(math.Round(*v * by))
	return &n
}
