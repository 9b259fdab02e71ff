package odometer

import (
	"encoding/binary"
	"fmt"
	"math/bits"
)

// Quantity names one thing that is measured. The numbers are part of the
// ledger's file format: append, never reorder.
type Quantity uint8

const (
	CPU                Quantity = iota // processor time used, microseconds
	GPU                                // time GPUs were attached, device-microseconds
	GPUBusy                            // time GPUs were busy, device-microseconds
	VCPU                               // time vCPUs were allocated, vCPU-microseconds
	Memory                             // memory used, MiB-seconds
	MemoryAllocated                    // memory allocated, MiB-seconds
	Storage                            // space occupied on disks, MiB-seconds
	StorageProvisioned                 // space provisioned on disks, MiB-seconds
	NetworkEgress                      // bytes sent, as the instance sees it
	NetworkIngress                     // bytes received, as the instance sees it
	DiskRead                           // bytes read from disks
	DiskWrite                          // bytes written to disks
	MeasuredTime                       // time watched, microseconds
	EstimatedTime                      // time whose counters are exact and whose gauges were held, microseconds
	GapTime                            // time nobody measured, microseconds

	// Quantities is how many there are.
	Quantities = 15
)

var quantityNames = [Quantities]string{
	"cpu_us", "gpu_us", "gpu_busy_us", "vcpu_us",
	"memory_mib_s", "memory_allocated_mib_s", "storage_mib_s", "storage_provisioned_mib_s",
	"network_egress_bytes", "network_ingress_bytes", "disk_read_bytes", "disk_write_bytes",
	"measured_us", "estimated_us", "gap_us",
}

// String returns the quantity's name on the wire, such as "cpu_us".
func (q Quantity) String() string { return quantityNames[q] }

// QuantityOf returns the quantity with the given wire name.
func QuantityOf(name string) (Quantity, bool) {
	for q, n := range quantityNames {
		if n == name {
			return Quantity(q), true
		}
	}
	return 0, false
}

// Vector holds one integer for each [Quantity], in that quantity's unit.
type Vector [Quantities]int64

// Elapsed returns the time a vector covers, in microseconds: measured,
// estimated and gap together.
func (v *Vector) Elapsed() int64 { return v[MeasuredTime] + v[EstimatedTime] + v[GapTime] }

// Known is a set of quantities; bit q stands for [Quantity] q.
type Known uint32

// AllKnown contains every quantity.
const AllKnown Known = 1<<Quantities - 1

// Has reports whether q is in the set.
func (k Known) Has(q Quantity) bool { return k>>q&1 != 0 }

// With returns the set with q added.
func (k Known) With(q Quantity) Known { return k | 1<<q }

// Usage is a vector together with the set of quantities that are known.
// What is not known has the value 0 in the vector and is left out of every
// encoding: unknown is not zero.
type Usage struct {
	Vector
	Known Known
}

// Add adds v to u and reports whether every sum fits. On false u is unchanged.
func (u *Usage) Add(v Usage) bool {
	sum := u.Vector
	for q := range sum {
		s := sum[q] + v.Vector[q]
		if (s > sum[q]) != (v.Vector[q] > 0) && v.Vector[q] != 0 {
			return false
		}
		sum[q] = s
	}
	u.Vector = sum
	u.Known |= v.Known
	return true
}

// Sub returns u - v for every quantity. Quantities known in u are known in
// the result.
func (u Usage) Sub(v Usage) Usage {
	for q := range u.Vector {
		u.Vector[q] -= v.Vector[q]
	}
	return u
}

// AppendBinary appends u's binary form to b: the known set, then each vector
// element, all as varints. It is the form the ledger stores.
func (u Usage) AppendBinary(b []byte) []byte {
	b = binary.AppendUvarint(b, uint64(u.Known))
	for _, n := range u.Vector {
		b = binary.AppendVarint(b, n)
	}
	return b
}

// CutUsage decodes a [Usage] that AppendBinary wrote from the front of b and
// returns it with the bytes that follow.
func CutUsage(b []byte) (Usage, []byte, error) {
	var u Usage
	k, n := binary.Uvarint(b)
	if n <= 0 || k > uint64(AllKnown) {
		return Usage{}, nil, fmt.Errorf("usage: bad set of known quantities: %w", ErrInvalid)
	}
	u.Known, b = Known(k), b[n:]
	for q := range u.Vector {
		v, n := binary.Varint(b)
		if n <= 0 {
			return Usage{}, nil, fmt.Errorf("usage: %s is cut off: %w", Quantity(q), ErrInvalid)
		}
		u.Vector[q], b = v, b[n:]
	}
	return u, b, nil
}

// Share returns floor(total × elapsed / span), the part of total that lies in
// the first elapsed of span units of time, computed in 128 bits. A negative
// total is shared like its positive, with the sign put back. It needs
// 0 ≤ elapsed ≤ span and span > 0. Consecutive differences of Share therefore
// sum to total exactly, wherever and in whichever order time is cut.
func Share(total, elapsed, span int64) int64 {
	size := uint64(total)
	if total < 0 {
		size = -size // of the least integer too
	}
	hi, lo := bits.Mul64(size, uint64(elapsed))
	q, _ := bits.Div64(hi, lo, uint64(span))
	if total < 0 {
		return -int64(q)
	}
	return int64(q)
}

// Between returns the part of u, which was used over span, that falls between
// the times from and to (microseconds of the wall clock). Times outside the
// span count as its edges. Parts over adjoining times sum to u to the unit.
func (u Usage) Between(span Span, from, to int64) Usage {
	from, to = min(max(from, span.Start), span.End), min(max(to, span.Start), span.End)
	length := span.End - span.Start
	if length <= 0 || from >= to {
		return Usage{Known: u.Known}
	}
	for q, total := range u.Vector {
		u.Vector[q] = Share(total, to-span.Start, length) - Share(total, from-span.Start, length)
	}
	return u
}

// Span is a half-open stretch of time [Start, End) in microseconds since the
// Unix epoch. Its length is true elapsed time (boot clock); its position is a
// label on the wall clock.
type Span struct {
	Start, End int64
	// Step is how far the wall clock was stepped between the end of the
	// previous event of the epoch and Start, in microseconds: 0 unless the
	// clock was set. Start = previous End + Step.
	Step int64
}

// HourMicros and DayMicros are the lengths of the ledger's buckets.
const (
	SecondMicros = 1_000_000
	HourMicros   = 3600 * SecondMicros
	DayMicros    = 24 * HourMicros
)

// Hour returns the start of the UTC hour that contains the time us.
func Hour(us int64) int64 {
	h := us - us%HourMicros
	if us < 0 && h != us {
		h -= HourMicros
	}
	return h
}
