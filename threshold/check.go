package threshold

import (
	"math"

	"example.org/odometer"
)

// mibOfGB is how many MiB, in which memory and storage are counted, a GB has.
const mibOfGB = 1024

// Value returns what a threshold of periods, of what is sustained or of a rate compares
// of an entry, in the threshold's unit, and false where that is not known: a quantity
// that nobody measured, an allocation of nothing, or no time.
func Value(t *odometer.Threshold, e *odometer.Entry) (float64, bool) {
	num, den, ok := parts(t, e)
	if !ok {
		return 0, false
	}
	v := num / den
	return v, odometer.Finite(v)
}

// Check returns which levels of a threshold an entry reaches by itself: bit i stands for
// level i. All that are passed are, not the highest alone. It depends on nothing but its
// arguments.
func Check(t *odometer.Threshold, e *odometer.Entry) (value float64, reached uint32, ok bool) {
	if value, ok = Value(t, e); !ok {
		return 0, 0, false
	}
	return value, reachedBy(t, value), true
}

func reachedBy(t *odometer.Threshold, value float64) (reached uint32) {
	for i := range t.Levels {
		if value >= t.Levels[i].Value {
			reached |= 1 << i
		}
	}
	return reached
}

// quantities are those of each resource: what is used and of how much, where something
// is allocated.
var quantities = map[odometer.Resource]struct {
	used, of  odometer.Quantity
	allocated bool
}{
	odometer.ResourceCPU:            {odometer.CPU, odometer.VCPU, true},
	odometer.ResourceMemory:         {odometer.Memory, odometer.MemoryAllocated, true},
	odometer.ResourceStorage:        {odometer.Storage, odometer.StorageProvisioned, true},
	odometer.ResourceNetworkEgress:  {used: odometer.NetworkEgress},
	odometer.ResourceNetworkIngress: {used: odometer.NetworkIngress},
	odometer.ResourceDiskRead:       {used: odometer.DiskRead},
	odometer.ResourceDiskWrite:      {used: odometer.DiskWrite},
	odometer.ResourceGPU:            {odometer.GPUBusy, odometer.GPU, true},
}

// parts returns a value as a quotient of positive numbers, so that values of several
// instances can be added up: those of percentages by numerator and denominator.
func parts(t *odometer.Threshold, e *odometer.Entry) (num, den float64, ok bool) {
	u := &e.Event.Usage
	if t.Condition == odometer.ConditionGap {
		gap := u.Vector[odometer.GapTime]
		return float64(gap) / odometer.SecondMicros, 1, u.Known.Has(odometer.GapTime) && gap >= 0
	}
	q := quantities[t.Resource]
	used := q.used
	if t.Resource == odometer.ResourceGPU && t.Unit != odometer.UnitPercent {
		used = odometer.GPU
	}
	n := u.Vector[used]
	if !u.Known.Has(used) || n < 0 {
		return 0, 0, false
	}
	observed := float64(u.Vector[odometer.MeasuredTime] + u.Vector[odometer.EstimatedTime]) // µs
	switch t.Unit {
	case odometer.UnitPercent:
		of := u.Vector[q.of]
		if !q.allocated || !u.Known.Has(q.of) || of <= 0 {
			return 0, 0, false
		}
		return 100 * float64(n), float64(of), true
	case odometer.UnitSeconds:
		return float64(n), odometer.SecondMicros, true
	case odometer.UnitMB:
		return float64(n), 1 << 20, true
	case odometer.UnitGB:
		if !q.allocated { // moved
			return float64(n), 1 << 30, true
		}
		return float64(n) * odometer.SecondMicros / mibOfGB, observed, observed > 0
	case odometer.UnitCores:
		return float64(n), observed, observed > 0
	case odometer.UnitMBPerSec:
		return float64(n) * odometer.SecondMicros / (1 << 20), observed, observed > 0
	case odometer.UnitMbitPerS:
		return float64(n) * 8 * odometer.SecondMicros / 1e6, observed, observed > 0
	}
	return 0, 0, false
}

// budgetUnit returns which quantity a budget sums up, and how many of its units one of
// the threshold's has.
func budgetUnit(t *odometer.Threshold) (q odometer.Quantity, scale int64) {
	q = quantities[t.Resource].used
	if t.Resource == odometer.ResourceGPU {
		q = odometer.GPU
	}
	switch t.Unit {
	case odometer.UnitSeconds:
		return q, odometer.SecondMicros
	case odometer.UnitHours:
		return q, odometer.HourMicros
	case odometer.UnitMB:
		return q, 1 << 20
	case odometer.UnitGB:
		return q, 1 << 30
	case odometer.UnitGBHours:
		return q, mibOfGB * 3600
	}
	return q, 1
}

// limits returns the values of a budget's levels in whole units of its quantity: the
// least sums that reach them.
func limits(t *odometer.Threshold) []odometer.Sum {
	_, scale := budgetUnit(t)
	list := make([]odometer.Sum, len(t.Levels))
	for i := range t.Levels {
		list[i] = atLeast(t.Levels[i].Value, scale)
	}
	return list
}

// atLeast returns the least sum that is value × scale or more. A value is at most 10⁹,
// see [odometer.Threshold.Valid], and a scale less than four times that.
func atLeast(value float64, scale int64) odometer.Sum {
	whole, part := math.Modf(value)
	return odometer.SumOf(int64(whole)*scale + int64(math.Ceil(part*float64(scale))))
}

// inUnits returns a sum in the threshold's unit.
func inUnits(t *odometer.Threshold, sum odometer.Sum) float64 {
	_, scale := budgetUnit(t)
	return sum.Float64() / float64(scale)
}
