package ledger

import (
	"fmt"

	"example.org/odometer"
)

// Bounds say what is physically possible, so that one wrong reading cannot
// move a watermark beyond every true one after it. They are far above any
// real machine where an event does not say what its instance was allocated.
type Bounds struct {
	VCPUs        float64 // per instance, where the allocation is unknown
	MemoryMiB    float64 // per instance, where the allocation is unknown
	StorageMiB   float64 // per instance
	NetworkBytes float64 // per second and direction
	DiskBytes    float64 // per second and direction
	GPUs         float64 // devices per instance
	// Slack is the fraction by which a reading may exceed what its time
	// allows, because counters and clock are not read at the same instant.
	Slack float64
	// SlackMicros is the same as an absolute time, in microseconds.
	SlackMicros float64
}

// DefaultBounds: 4096 vCPUs and 64 TiB of memory are beyond the largest
// virtual machine sold, 400 Gbit/s is beyond a host's network card,
// 100 GB/s beyond its disks. Clocks and counters are read within
// milliseconds of each other; a second is ample.
var DefaultBounds = Bounds{
	VCPUs: 4096, MemoryMiB: 64 << 20, StorageMiB: 4 << 30,
	NetworkBytes: 50e9, DiskBytes: 100e9, GPUs: 256,
	Slack: 0.02, SlackMicros: odometer.SecondMicros,
}

// allocationSlack is how many times its allocation an instance may seem to have
// used: an allocation that changed may look like a smaller one that stood still,
// and an event that is wrongly put aside is worse than a bound that is wide.
const allocationSlack = 8

// check returns what is impossible about using u in its own elapsed time, or
// "" when nothing is.
func (b Bounds) check(u odometer.Usage) string {
	elapsed := u.Elapsed()
	for q, n := range u.Vector {
		if n < 0 {
			return fmt.Sprintf("%s falls by %d", odometer.Quantity(q), -n)
		}
	}
	if elapsed <= 0 {
		return "no time has passed"
	}
	limits := b.limits(u, float64(elapsed)*(1+b.Slack)+b.SlackMicros)
	for q, n := range u.Vector {
		if limit := limits[q]; float64(n) > limit {
			return fmt.Sprintf("%s is %d in %.3f s, at most %.0f is possible",
				odometer.Quantity(q), n, float64(elapsed)/odometer.SecondMicros, limit)
		}
	}
	return ""
}

// limits returns the most of each quantity that may be used in the time us.
// An allocation that was measured throughout and stood still replaces the
// general bound, several times over. One that changed does not: a machine that
// was started between two readings has used what the reading before it did not
// allow for.
func (b Bounds) limits(u odometer.Usage, us float64) [odometer.Quantities]float64 {
	seconds := us / odometer.SecondMicros
	allocated := func(of odometer.Quantity, general float64) float64 {
		if !u.Known.Has(of) || u.Vector[of] == 0 || u.Vector[odometer.EstimatedTime] > 0 {
			return general
		}
		if (of == odometer.VCPU || of == odometer.GPU) && u.Vector[of]%u.Elapsed() != 0 {
			return general
		}
		share := us / float64(u.Elapsed()) // what slack adds to the time, it adds to the allocation
		return min(general, allocationSlack*float64(u.Vector[of])*share)
	}
	var l [odometer.Quantities]float64
	l[odometer.CPU] = allocated(odometer.VCPU, b.VCPUs*us)
	l[odometer.VCPU] = b.VCPUs * us
	l[odometer.GPU] = b.GPUs * us
	l[odometer.GPUBusy] = allocated(odometer.GPU, b.GPUs*us)
	l[odometer.Memory] = allocated(odometer.MemoryAllocated, b.MemoryMiB*seconds)
	l[odometer.MemoryAllocated] = b.MemoryMiB * seconds
	l[odometer.Storage] = b.StorageMiB * seconds
	l[odometer.StorageProvisioned] = b.StorageMiB * seconds
	l[odometer.NetworkEgress] = b.NetworkBytes * seconds
	l[odometer.NetworkIngress] = b.NetworkBytes * seconds
	l[odometer.DiskRead] = b.DiskBytes * seconds
	l[odometer.DiskWrite] = b.DiskBytes * seconds
	l[odometer.MeasuredTime], l[odometer.EstimatedTime], l[odometer.GapTime] = us, us, us
	return l
}
