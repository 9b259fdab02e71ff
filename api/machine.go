package api

import (
	"net/http"
)

// Machine is the body of GET /get: the metrics of the machine that this
// process runs on, under the names that the earlier system gave them. What
// cannot be read is null; a list of what the machine does not have is empty.
//
// Four values are scaled otherwise than they were: cpu.usage_pct is a
// percentage from 0 to 100 (it was hundredths of one), load.load1, load5 and
// load15 are plain decimals (they were hundredths), an interface's speed is
// null where it is unknown (it was 0), and disks and interfaces are those that
// count once (partitions, loop devices, bridges and their members are left
// out).
type Machine struct {
	Timestamp int64   `json:"timestamp"`   // Unix seconds of the sample
	Instance  *string `json:"instance_id"` // what this machine is metered as
	Account   *string `json:"account_id"`  // the user it belongs to, null where nobody was named
	CPU       CPU     `json:"cpu"`
	Memory    Memory  `json:"memory"`
	Disks     []Disk  `json:"disks"`
	Network   Network `json:"network"`
	GPUs      []GPU   `json:"gpus"`
	Load      Load    `json:"load"`
}

// CPU is the processors' part of [Machine].
type CPU struct {
	UsagePercent *float64 `json:"usage_pct"` // of all processors since the sample before, 0 to 100
	Processes    *int64   `json:"process_count"`
}

// Memory is the memory's part of [Machine], in bytes.
type Memory struct {
	Total     *int64 `json:"total"`
	Free      *int64 `json:"free"`
	Available *int64 `json:"available"`
	Used      *int64 `json:"used"` // total − available
	TotalSwap *int64 `json:"total_swap"`
	UsedSwap  *int64 `json:"used_swap"`
}

// Disk is one whole disk of [Machine]. Counts are since the machine started, a
// sector has 512 bytes, times are milliseconds.
type Disk struct {
	Name               string `json:"device_name"`
	ReadsCompleted     uint64 `json:"reads_completed"`
	ReadsMerged        uint64 `json:"reads_merged"`
	SectorsRead        uint64 `json:"sectors_read"`
	TimeReading        uint64 `json:"time_reading"`
	WritesCompleted    uint64 `json:"writes_completed"`
	WritesMerged       uint64 `json:"writes_merged"`
	SectorsWritten     uint64 `json:"sectors_written"`
	TimeWriting        uint64 `json:"time_writing"`
	IOInProgress       uint64 `json:"io_in_progress"`
	TimeDoingIO        uint64 `json:"time_doing_io"`
	WeightedTimeDoneIO uint64 `json:"weighted_time_doing_io"`
}

// Network is the network's part of [Machine].
type Network struct {
	Interfaces []Interface `json:"interfaces"`
}

// Interface is one network interface. Counts are since it was created.
type Interface struct {
	Name            string  `json:"name"`
	BytesSent       uint64  `json:"bytes_sent"`
	BytesReceived   uint64  `json:"bytes_received"`
	PacketsSent     uint64  `json:"packets_sent"`
	PacketsReceived uint64  `json:"packets_received"`
	ErrorsIn        uint64  `json:"errors_in"`
	ErrorsOut       uint64  `json:"errors_out"`
	DropsIn         uint64  `json:"drops_in"`
	DropsOut        uint64  `json:"drops_out"`
	Speed           *uint64 `json:"speed"` // bits per second
}

// GPU is one graphics processor.
type GPU struct {
	Index       int     `json:"index"`
	Model       string  `json:"model"`
	Utilization *uint32 `json:"utilization_bps"`    // hundredths of a percent, 0 to 10000
	MemoryUsage *uint32 `json:"memory_usage_bps"`   // hundredths of a percent, 0 to 10000
	Temperature *uint32 `json:"temperature_deci_c"` // tenths of a degree Celsius
	PowerDraw   *uint32 `json:"power_draw_deci_w"`  // tenths of a watt
}

// Load is the load average over 1, 5 and 15 minutes.
type Load struct {
	Load1  *float64 `json:"load1"`
	Load5  *float64 `json:"load5"`
	Load15 *float64 `json:"load15"`
}

// operationRoutes are of the process itself, and both servers have them.
func (s *server) operationRoutes() []route {
	return []route{
		{
			pattern: "GET /metrics", access: reader, budget: noBudget, handle: whole(s.router.metrics.get),
			id: "metrics", tag: "operation", summary: "Metrics for Prometheus",
			description: "In Prometheus' text format.",
			replies:     []reply{says(http.StatusOK, "The metrics.")},
		},
		{
			pattern: "GET /get", access: reader, handle: whole(s.getMachine),
			id: "machine", tag: "operation", summary: "Current metrics of the machine that this process runs on",
			description: "Under the names that the earlier system gave them.",
			replies:     []reply{answers(http.StatusOK, "The last sample.", Machine{})}, fails: missing,
		},
	}
}

func (s *server) getMachine(w http.ResponseWriter, r *http.Request) error {
	if s.Machine == nil {
		return absent("agent that meters its machine")
	}
	m, err := s.Machine.Machine(r.Context())
	if err != nil {
		return err
	}
	if m.Disks == nil {
		m.Disks = []Disk{}
	}
	if m.Network.Interfaces == nil {
		m.Network.Interfaces = []Interface{}
	}
	if m.GPUs == nil {
		m.GPUs = []GPU{}
	}
	return writeJSON(w, http.StatusOK, m)
}
