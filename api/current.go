package api

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"net/http"
	"slices"
	"time"

	"example.org/odometer"
)

// CurrentMetrics is what an instance uses now: means over its newest period that is
// open, from start to end. What is null is not known; where nothing is open that is
// everything.
type CurrentMetrics struct {
	Instance odometer.InstanceID `json:"instance_id"`
	Name     string              `json:"name"`     // what people call it, or else its host
	Agent    odometer.AgentID    `json:"agent_id"` // the host
	State    string              `json:"state" schema:"as=InstanceState"`
	User     *odometer.UserID    `json:"user_id"`
	Org      *odometer.OrgID     `json:"org_id"`

	Start *time.Time `json:"start"`
	End   *time.Time `json:"end"`   // the last reading, by its agent's clock
	Age   *int64     `json:"age_s"` // of the last reading, in seconds, whatever the agent's clock shows

	CPUCores   *float64 `json:"cpu_cores"` // processors in use
	VCPUs      *float64 `json:"vcpus"`
	CPUPercent *float64 `json:"cpu_percent" schema:"minimum=0,maximum=100"` // of vcpus

	Memory          *int64   `json:"memory_bytes"`
	MemoryAllocated *int64   `json:"memory_allocated_bytes"`
	MemoryPercent   *float64 `json:"memory_percent"` // of what is allocated

	Storage            *int64 `json:"storage_bytes"` // occupied
	StorageProvisioned *int64 `json:"storage_provisioned_bytes"`

	Egress    *int64 `json:"network_egress_bytes_per_s"`
	Ingress   *int64 `json:"network_ingress_bytes_per_s"`
	DiskRead  *int64 `json:"disk_read_bytes_per_s"`
	DiskWrite *int64 `json:"disk_write_bytes_per_s"`

	GPUs       *float64 `json:"gpus"`        // devices
	GPUPercent *float64 `json:"gpu_percent"` // how busy they are
}

// MetricsAnswer is the body of GET /api/v1/metrics.
type MetricsAnswer struct {
	At      time.Time        `json:"at"`
	Metrics []CurrentMetrics `json:"metrics"` // in order of the instances' ids, unless sort says otherwise
	Next    *string          `json:"next"`    // cursor of the page that follows, null when there is none
}

// InstanceMetricsAnswer is the body of GET /api/v1/metrics/instances/{id}.
type InstanceMetricsAnswer struct {
	At time.Time `json:"at"`
	CurrentMetrics
	Open []Row `json:"open" schema:"items=OpenPeriod"` // all its open periods
}

func (s *server) currentRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/metrics", access: reader, handle: s.getCurrentMetrics,
			id: "currentMetrics", tag: "usage", summary: "What instances use now",
			description: "Of those that the caller sees: means over the newest open period of each, which begins every half minute or so, and again when something happens to the instance. " + sortedOnce,
			params: []*parameter{
				instanceParam, userParam, orgParam,
				{name: "host", most: odometer.MaxIDBytes, valid: identifier("host"), example: "host-1", description: "only those on this host"},
				{name: "state", component: "MetricsState", kind: asWord, words: InstanceStates, example: "running", description: "only those in this state"},
				afterCursor, limitParam, metricsSort, metricsFields,
			},
			replies: []reply{answers(http.StatusOK, "One page.", MetricsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "GET /api/v1/metrics/instances/{id}", access: reader, handle: s.getInstanceMetrics,
			id: "instanceMetrics", tag: "usage", summary: "What an instance uses now",
			description: "Means over its newest open period, and all that are open.",
			params:      []*parameter{instancePath},
			replies:     []reply{answers(http.StatusOK, "What it uses.", InstanceMetricsAnswer{})}, fails: missing,
		},
	}
}

func (s *server) getCurrentMetrics(w http.ResponseWriter, r *http.Request) error {
	if s.Instances == nil {
		return absent("directory of instances")
	}
	p := queryOf(r)
	q := InstanceQuery{
		After: odometer.InstanceID(p.text("after")),
		Agent: odometer.AgentID(p.text("host")),
		State: p.text("state"),
		User:  odometer.UserID(p.text("user")),
		Org:   odometer.OrgID(p.text("org")),
	}
	list, next, err := chosen(s, w, r, q, odometer.InstanceID(p.text("instance")), metricsOf, metricsKeys)
	if err != nil {
		return err
	}
	return writeList(w, r, MetricsAnswer{At: instant(p.now.UnixMicro()), Metrics: list, Next: next}, "metrics")
}

func (s *server) getInstanceMetrics(w http.ResponseWriter, r *http.Request) error {
	if s.Instances == nil {
		return absent("directory of instances")
	}
	p := queryOf(r)
	id := odometer.InstanceID(p.text("id"))
	known, _, err := s.Instances.Instance(r.Context(), seen(r), id)
	if err != nil {
		return fmt.Errorf("instance %s: %w", id, err)
	}
	return writeJSON(w, http.StatusOK, InstanceMetricsAnswer{
		At: instant(p.now.UnixMicro()), CurrentMetrics: metricsOf(&known, p.now), Open: openPeriods(known.Periods, p.now),
	})
}

// metricsOf returns what an instance uses now.
func metricsOf(k *KnownInstance, _ time.Time) CurrentMetrics {
	m := CurrentMetrics{
		Instance: k.Description.Instance, Name: k.Called(), Agent: k.Agent, State: string(k.State), User: k.User, Org: k.Org, Age: k.Age,
	}
	if len(k.Periods) == 0 {
		return m
	}
	// Of an instance that several hosts tell of, that where it is.
	newest := slices.MaxFunc(k.Periods, func(a, b OpenPeriod) int {
		here := func(o *OpenPeriod) int {
			if o.Event.Agent == k.Agent {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(here(&a), here(&b)), cmp.Compare(a.Event.Span.End, b.Event.Span.End), cmp.Compare(b.Event.Epoch, a.Event.Epoch))
	})
	u, span := &newest.Event.Usage, newest.Event.Span
	m.Start, m.End = new(instant(span.Start)), new(instant(span.End))
	watched := float64(u.Vector[odometer.MeasuredTime]+u.Vector[odometer.EstimatedTime]) / odometer.SecondMicros
	// A second, over the time that was watched; a share of another amount.
	rate := func(q odometer.Quantity, unit float64) *float64 {
		if !u.Known.Has(q) || watched <= 0 {
			return nil
		}
		return new(float64(u.Vector[q]) * unit / watched)
	}
	whole := func(q odometer.Quantity, unit float64) *int64 {
		if r := rate(q, unit); r != nil {
			return new(int64(math.Round(*r)))
		}
		return nil
	}
	decimal := func(q odometer.Quantity) *float64 {
		if r := rate(q, 1./odometer.SecondMicros); r != nil {
			return new(round3(*r))
		}
		return nil
	}
	percent := func(q, of odometer.Quantity) *float64 {
		if !u.Known.Has(q) || !u.Known.Has(of) || u.Vector[of] <= 0 {
			return nil
		}
		return new(round3(100 * float64(u.Vector[q]) / float64(u.Vector[of])))
	}
	m.CPUCores, m.VCPUs = decimal(odometer.CPU), decimal(odometer.VCPU)
	if m.CPUPercent = percent(odometer.CPU, odometer.VCPU); m.CPUPercent != nil {
		*m.CPUPercent = min(100, *m.CPUPercent) // counters and clock are not read at one instant
	}
	m.Memory, m.MemoryAllocated, m.MemoryPercent = whole(odometer.Memory, 1<<20), whole(odometer.MemoryAllocated, 1<<20), percent(odometer.Memory, odometer.MemoryAllocated)
	m.Storage, m.StorageProvisioned = whole(odometer.Storage, 1<<20), whole(odometer.StorageProvisioned, 1<<20)
	m.Egress, m.Ingress = whole(odometer.NetworkEgress, 1), whole(odometer.NetworkIngress, 1)
	m.DiskRead, m.DiskWrite = whole(odometer.DiskRead, 1), whole(odometer.DiskWrite, 1)
	m.GPUs, m.GPUPercent = decimal(odometer.GPU), percent(odometer.GPUBusy, odometer.GPU)
	return m
}

func round3(f float64) float64 { return math.Round(f*1000) / 1000 }

var metricsKeys = keysOf[CurrentMetrics]{
	"instance_id":    textKey(func(m *CurrentMetrics) *odometer.InstanceID { return &m.Instance }),
	"name":           textKey(func(m *CurrentMetrics) *string { return &m.Name }),
	"agent_id":       textKey(func(m *CurrentMetrics) *odometer.AgentID { return &m.Agent }),
	"state":          textKey(func(m *CurrentMetrics) *string { return &m.State }),
	"user_id":        textKey(func(m *CurrentMetrics) *odometer.UserID { return m.User }),
	"org_id":         textKey(func(m *CurrentMetrics) *odometer.OrgID { return m.Org }),
	"age_s":          numberKey(func(m *CurrentMetrics) *int64 { return m.Age }),
	"cpu_cores":      numberKey(func(m *CurrentMetrics) *float64 { return m.CPUCores }),
	"cpu_percent":    numberKey(func(m *CurrentMetrics) *float64 { return m.CPUPercent }),
	"memory_bytes":   numberKey(func(m *CurrentMetrics) *int64 { return m.Memory }),
	"memory_percent": numberKey(func(m *CurrentMetrics) *float64 { return m.MemoryPercent }),
	"storage_bytes":  numberKey(func(m *CurrentMetrics) *int64 { return m.Storage }),
	"gpus":           numberKey(func(m *CurrentMetrics) *float64 { return m.GPUs }),
	"gpu_percent":    numberKey(func(m *CurrentMetrics) *float64 { return m.GPUPercent }),

	"network_egress_bytes_per_s":  numberKey(func(m *CurrentMetrics) *int64 { return m.Egress }),
	"network_ingress_bytes_per_s": numberKey(func(m *CurrentMetrics) *int64 { return m.Ingress }),
	"disk_read_bytes_per_s":       numberKey(func(m *CurrentMetrics) *int64 { return m.DiskRead }),
	"disk_write_bytes_per_s":      numberKey(func(m *CurrentMetrics) *int64 { return m.DiskWrite }),
}

var (
	metricsSort   = sortParam("MetricsSort", "-cpu_cores,instance_id", MetricsKeys())
	metricsFields = fieldsParam("MetricsFields", "instance_id,cpu_percent,memory_bytes", fieldsOf[CurrentMetrics]())
)

// MetricsKeys are what GET /api/v1/metrics can be sorted by.
func MetricsKeys() []string { return slices.Sorted(maps.Keys(metricsKeys)) }
