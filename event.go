package odometer

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Names and limits of the event format; version 1.1 is version 1.0 with
// fields added, so that a reader of 1.0 reads it unchanged.
const (
	EventType     = "resource_usage"
	Version10     = "1.0"
	Version11     = "1.1"
	MaxEventBytes = 16 << 10 // of JSON
)

// Event is the usage of one instance over one span of time. Its identity is
// (Instance, Epoch, FirstSequence, Sequence); its content is Span, Usage and
// Readings, and nothing else: see [Event.ID] and [Event.Content].
type Event struct {
	// What it is about.
	Version  string // "1.0", "1.1" or a later 1.x
	Instance InstanceID
	Owner    Owner   // as the agent knew it; the ledger's own record decides
	Agent    AgentID // who measured; "" in version 1.0
	Source   string  // the CloudEvents source, where there was one; not part of the JSON

	// Identity; all zero in version 1.0.
	Epoch         Epoch
	EpochStart    int64  // microseconds of the wall clock
	FirstSequence uint64 // equal to Sequence unless coalesced
	Sequence      uint64 // 1, 2, 3 … within the epoch

	// Content.
	Span     Span
	Usage    Usage
	Readings Readings // zero in version 1.0

	Quality Quality
	Final   bool // the epoch ends with this event

	// Lifecycle is what happened to the instance, as far as this event tells
	// it, in order of time; not part of the content. Each [Change] is of the
	// event's instance and leaves its own empty.
	Lifecycle []Change

	// The plan's fields, derived from the integers (see package meter), or in
	// version 1.0 all there is.
	Timestamp int64 // Unix seconds, the end of the period
	Metrics   Metrics
	Period    Period

	// Extra holds the members that this version does not know, in the order
	// they came, so that they survive.
	Extra []Member
}

// Readings are the odometer's values at both ends of an event's span:
// Usage = End − Start for every quantity.
type Readings struct {
	Start, End Usage
}

// Metrics are the fields of version 1.0. GB and MB are 2^30 and 2^20 bytes.
// A quantity that is unknown reads 0 here, because readers of 1.0 know
// nothing else; Event.Usage says which are known.
type Metrics struct {
	CPUSeconds       uint64  `json:"cpu_seconds"`
	CPUPercentAvg    float64 `json:"cpu_percent_avg"` // of all vCPUs, 0 to 100
	MemoryGB         float64 `json:"memory_gb"`       // time-weighted mean used
	MemoryPercent    float64 `json:"memory_percent"`  // of what is allocated
	StorageGB        float64 `json:"storage_gb"`      // time-weighted mean occupied
	NetworkEgressMB  float64 `json:"network_egress_mb"`
	NetworkIngressMB float64 `json:"network_ingress_mb"`
	GPUSeconds       uint64  `json:"gpu_seconds"`
}

// Period labels an event in whole Unix seconds, half-open. Start and End may
// be equal for less than a second of life.
type Period struct {
	Start int64 `json:"start"`
	End   int64 `json:"end"`
}

// Member is a member of a JSON object, kept verbatim.
type Member struct {
	// In is the object that it was in: "" for the event itself, "metrics",
	// "period", "span", "usage", "readings", "readings.start" or
	// "readings.end".
	In    string
	Name  string
	Value json.RawMessage
}

// Integral reports whether e carries integers and readings (version 1.1 and
// later) and not only the derived fields of version 1.0.
func (e *Event) Integral() bool { return e.Epoch != "" }

// ID returns "instance/epoch/sequence", or "instance/epoch/first-last" for a
// coalesced event; in version 1.0 "instance/start-end" of the period.
func (e *Event) ID() string {
	var buf [256]byte
	return string(e.appendID(buf[:0]))
}

func (e *Event) appendID(b []byte) []byte {
	b = append(b, e.Instance...)
	b = append(b, '/')
	if !e.Integral() {
		b = strconv.AppendInt(b, e.Period.Start, 10)
		b = append(b, '-')
		return strconv.AppendInt(b, e.Period.End, 10)
	}
	b = append(b, e.Epoch...)
	b = append(b, '/')
	if e.FirstSequence != e.Sequence {
		b = strconv.AppendUint(b, e.FirstSequence, 10)
		b = append(b, '-')
	}
	return strconv.AppendUint(b, e.Sequence, 10)
}

// Digest identifies the content of an event.
type Digest [16]byte

// Content returns the digest of what an event says, apart from who owned the
// instance and how it was labelled: for 1.1 of span, usage and readings, for
// 1.0 of period and metrics. Two events with one ID and different Content are
// a conflict.
func (e *Event) Content() Digest {
	var buf [1024]byte
	b := buf[:0]
	if e.Integral() {
		b = binary.AppendVarint(b, e.Span.Start)
		b = binary.AppendVarint(b, e.Span.End)
		b = binary.AppendVarint(b, e.Span.Step)
		b = e.Usage.AppendBinary(b)
		b = e.Readings.Start.AppendBinary(b)
		b = e.Readings.End.AppendBinary(b)
	} else {
		b = binary.AppendVarint(b, e.Period.Start)
		b = binary.AppendVarint(b, e.Period.End)
		m := &e.Metrics
		b = binary.AppendUvarint(b, m.CPUSeconds)
		b = binary.AppendUvarint(b, m.GPUSeconds)
		for _, f := range [...]float64{m.CPUPercentAvg, m.MemoryGB, m.MemoryPercent, m.StorageGB, m.NetworkEgressMB, m.NetworkIngressMB} {
			b = binary.BigEndian.AppendUint64(b, math.Float64bits(f))
		}
	}
	sum := sha256.Sum256(b)
	return Digest(sum[:16])
}

// Derive fills the fields of version 1.0 from the integers: Timestamp, Period
// and Metrics. Whole seconds are differences of floors of running totals, so
// that they never drift; carry is what earlier epochs of the instance left
// over below a second, in microseconds, for CPU and for GPU.
func (e *Event) Derive(cpuCarry, gpuCarry int64) {
	e.Timestamp = e.Span.End / SecondMicros
	e.Period = Period{Start: e.Span.Start / SecondMicros, End: e.Span.End / SecondMicros}
	u := &e.Usage
	elapsed := float64(u.Elapsed())
	const gib, mib = 1 << 30, 1 << 20
	m := Metrics{
		CPUSeconds:       wholeSeconds(e, CPU, cpuCarry),
		GPUSeconds:       wholeSeconds(e, GPU, gpuCarry),
		NetworkEgressMB:  round6(float64(u.Vector[NetworkEgress]) / mib),
		NetworkIngressMB: round6(float64(u.Vector[NetworkIngress]) / mib),
	}
	if elapsed > 0 {
		m.MemoryGB = round6(float64(u.Vector[Memory]) * SecondMicros / elapsed / (gib / mib))
		m.StorageGB = round6(float64(u.Vector[Storage]) * SecondMicros / elapsed / (gib / mib))
	}
	if v := u.Vector[VCPU]; v > 0 {
		m.CPUPercentAvg = min(100, round6(float64(u.Vector[CPU])/float64(v)*100))
	}
	if a := u.Vector[MemoryAllocated]; a > 0 {
		m.MemoryPercent = round6(float64(u.Vector[Memory]) / float64(a) * 100)
	}
	e.Metrics = m
}

func wholeSeconds(e *Event, q Quantity, carry int64) uint64 {
	return uint64((e.Readings.End.Vector[q]+carry)/SecondMicros - (e.Readings.Start.Vector[q]+carry)/SecondMicros)
}

func round6(f float64) float64 { return math.Round(f*1e6) / 1e6 }

// Check returns nil when the event is consistent in itself, and otherwise one
// error wrapping [ErrInvalid] for each thing that is wrong with it, joined.
// It needs no knowledge of other events.
func (e *Event) Check() error { return checkEvent(e) }

// EntryID names one entry of the ledger, for ever. In the ledger's first
// generation numbers are dense from 1 within a partition. In a later one (after
// it was restored from a backup) the number is
// generation · GenerationEntries + ordinal, where ordinals go on densely from
// where the backup stood.
type EntryID struct {
	Partition int
	Number    uint64
}

// GenerationEntries is how many entries a partition can have: a million a day
// for 270 years. Generations are less than 2^63 / GenerationEntries.
const GenerationEntries = 100_000_000_000

// Generation returns the generation of the ledger in which the entry was booked.
func (id EntryID) Generation() uint64 { return max(1, id.Number/GenerationEntries) }

// Ordinal returns which of its partition's entries it is, from 1 on.
func (id EntryID) Ordinal() uint64 { return id.Number % GenerationEntries }

func (id EntryID) String() string { return fmt.Sprintf("%d-%d", id.Partition, id.Number) }

// Kind says why an entry was booked.
type Kind string

const (
	KindUsage      Kind = "usage"      // an event as it was received
	KindRecovered  Kind = "recovered"  // the difference over events that never arrived
	KindCorrection Kind = "correction" // a change to what was booked before; may be negative
)

// Entry is one booking in the ledger: an amount of usage, when it was used,
// by an instance, charged to an owner. Event holds its instance, epoch, span,
// usage and the owner that was charged; in a correction the usage is signed.
type Entry struct {
	ID            EntryID
	Kind          Kind
	SourceEventID string // the event that led to it
	BookedAt      int64  // microseconds of the server's wall clock
	Cause         string // of a correction or recovery, for a person to read
	// Adjusts are the months of its use that were closed for its owner before it was
	// booked. The ledger finds them when it gives an entry out; they are not part of
	// what was booked.
	Adjusts []Month
	Event   Event
}
