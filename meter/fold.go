package meter

import (
	"math"
	"math/bits"
	"slices"
	"strings"

	"example.org/odometer"
)

const (
	// mibSecond is one MiB-second in byte-microseconds.
	mibSecond = 1 << 20 * odometer.SecondMicros
	// nanos is one microsecond in nanoseconds.
	nanos = 1000

	gauges = 6
)

// table says which gauge adds to which quantity and in which states: the table
// of the package documentation. The unit is what one unit of the quantity has
// of gauge × microseconds.
var table = [gauges]struct {
	quantity                 odometer.Quantity
	unit                     uint64
	running, paused, stopped bool
}{
	{odometer.Memory, mibSecond, true, true, false},
	{odometer.MemoryAllocated, mibSecond, true, true, false},
	{odometer.Storage, mibSecond, true, true, true},
	{odometer.StorageProvisioned, mibSecond, true, true, true},
	{odometer.VCPU, 1, true, true, false},
	{odometer.GPU, 1, true, false, false},
}

// amounts returns the gauges in the order of the table.
func amounts(g odometer.Gauges) [gauges]int64 {
	return [gauges]int64{g.Memory, g.MemoryAllocated, g.Storage, g.StorageProvisioned, g.VCPUs, g.GPUs}
}

// times are the quantities that are always known.
const times = odometer.Known(1<<odometer.MeasuredTime | 1<<odometer.EstimatedTime | 1<<odometer.GapTime)

func timeOf(q odometer.Quality) odometer.Quantity {
	switch q {
	case odometer.Estimated:
		return odometer.EstimatedTime
	case odometer.Gap:
		return odometer.GapTime
	}
	return odometer.MeasuredTime
}

// instance is the odometer of one instance at one agent, in its present epoch.
type instance struct {
	pair
	parts  *parts
	source string // the epoch's name at the source
	epoch  odometer.Epoch
	start  int64  // of the epoch, a label
	serial uint64 // of its last record among those of the instance
	// adopted is the serial of the checkpoint that the epoch goes on from, 0
	// where none was adopted since the meter was made.
	adopted uint64
	// sequence is that of the last event.
	sequence uint64
	ended    bool

	// The odometer and what the last reading left in force.
	total     odometer.Usage // Known: whatever was known in this epoch
	remainder [odometer.Quantities]uint64
	last      odometer.Moment
	label     int64 // the last reading on the wall clock of this period
	bootID    string
	owner     odometer.Owner
	state     odometer.State
	gauges    [gauges]int64
	devices   []device
	// fresh says that a device seen for the first time counts from 0.
	fresh bool

	// The open period.
	from      odometer.Usage // the odometer where it began
	since     int64          // its start, a label
	step      int64          // how far the clock was set before it
	known     odometer.Known
	unwatched bool
	changes   []odometer.Change // what happened, for the event to tell; never written to

	turn uint64 // counts readings, to tell present devices from absent ones
}

// device is one counter, as it was last read.
type device struct {
	quantity    odometer.Quantity
	name        string
	incarnation string
	value       uint64
	seen        int64  // label of the reading that last had it
	turn        uint64 // of that reading
}

// open reports whether time has passed since the last event.
func (in *instance) open() bool { return in.label > in.since }

// quality is that of the open period; a gap is never left open.
func (in *instance) quality() odometer.Quality {
	if in.unwatched {
		return odometer.Estimated
	}
	return odometer.Measured
}

// shown returns the set of quantities whose gauges are known.
func (in *instance) shown() odometer.Known {
	var k odometer.Known
	for i, n := range in.gauges {
		if n >= 0 {
			k = k.With(table[i].quantity)
		}
	}
	return k
}

// event returns the open period as an event.
func (in *instance) event(q odometer.Quality) *odometer.Event {
	e := &odometer.Event{
		Version: odometer.Version11, Instance: in.instance, Owner: in.owner.OrUnassigned(), Agent: in.agent,
		Epoch: in.epoch, EpochStart: in.start, FirstSequence: in.sequence + 1, Sequence: in.sequence + 1,
		Span:     odometer.Span{Start: in.since, End: in.label, Step: in.step},
		Usage:    in.total.Sub(in.from),
		Readings: odometer.Readings{Start: in.from, End: in.total},
		Quality:  q, Lifecycle: in.changes,
	}
	e.Usage.Known = in.known | times
	e.Derive(below(in.parts.cpu, in.from.Vector[odometer.CPU]), below(in.parts.gpu, in.from.Vector[odometer.GPU]))
	return e
}

// below returns what must be added to total so that it is as far beyond a whole
// second as what was emitted: the parts of a second of the other epochs.
func below(emitted, total int64) int64 {
	return (emitted + odometer.SecondMicros - total%odometer.SecondMicros) % odometer.SecondMicros
}

// change is what a reading adds.
type change struct {
	add       odometer.Vector
	known     odometer.Known
	remainder [odometer.Quantities]uint64
	// How many counters went on from their last value, and how many were born.
	continued, born int
}

// forget drops what the counters added: they are a baseline.
func (c *change) forget(in *instance) {
	c.add, c.known, c.remainder = odometer.Vector{}, 0, in.remainder
}

// count returns what the reading's counters add. It changes nothing.
func (in *instance) count(r *odometer.Reading) (change, error) {
	c := change{remainder: in.remainder}
	in.turn++
	at := 0
	for i := range r.Counters {
		n := &r.Counters[i]
		at = in.find(n, at)
		var used uint64
		switch d := in.device(at); {
		case d == nil:
			if err := checkNew(r, i); err != nil {
				return change{}, err
			}
			if !n.Born && !in.fresh {
				continue
			}
			used = n.Value
			c.born++
		case d.turn == in.turn:
			return change{}, invalid("counter %s of device %q is there twice", n.Quantity, n.Device)
		default:
			d.turn = in.turn
			at++
			switch {
			case n.Incarnation == d.incarnation && n.Value >= d.value:
				used = n.Value - d.value
				c.continued++
			case n.Incarnation != d.incarnation && checkName("incarnation", n.Incarnation) != nil:
				return change{}, checkName("incarnation", n.Incarnation)
			case n.Born:
				used = n.Value
				c.born++
			default:
				continue
			}
		}
		if err := c.use(n.Quantity, used); err != nil {
			return change{}, err
		}
	}
	return c, nil
}

// use adds used, nanoseconds or bytes, to what q has.
func (c *change) use(q odometer.Quantity, used uint64) error {
	c.known = c.known.With(q)
	switch q {
	case odometer.CPU, odometer.GPU, odometer.GPUBusy:
		used, c.remainder[q] = used/nanos+(used%nanos+c.remainder[q])/nanos, (used%nanos+c.remainder[q])%nanos
	}
	return c.plus(q, 0, used)
}

// plus adds the 128 bits hi, lo to what q has.
func (c *change) plus(q odometer.Quantity, hi, lo uint64) error {
	sum, carry := bits.Add64(lo, uint64(c.add[q]), 0)
	if hi != 0 || carry != 0 || sum > math.MaxInt64 {
		return invalid("%s grows by more than 64 bits hold", q)
	}
	c.add[q] = int64(sum)
	return nil
}

// integrate adds what the gauges in force amount to over the time elapsed.
func (in *instance) integrate(c *change, elapsed int64) error {
	for i, n := range in.gauges {
		if n < 0 {
			continue
		}
		row := &table[i]
		c.known = c.known.With(row.quantity)
		if on := in.state == odometer.Running && row.running || in.state == odometer.Paused && row.paused ||
			in.state == odometer.Stopped && row.stopped; !on {
			continue
		}
		hi, lo := bits.Mul64(uint64(n), uint64(elapsed))
		if row.unit > 1 {
			var carry uint64
			lo, carry = bits.Add64(lo, c.remainder[row.quantity], 0)
			if hi += carry; hi >= row.unit {
				return invalid("%s grows by more than 64 bits hold", row.quantity)
			}
			lo, c.remainder[row.quantity] = bits.Div64(hi, lo, row.unit)
			hi = 0
		}
		if err := c.plus(row.quantity, hi, lo); err != nil {
			return err
		}
	}
	return nil
}

// keep remembers the raw values of a reading that count has accepted, at in's
// present label.
func (in *instance) keep(r *odometer.Reading, c *change) {
	in.remainder = c.remainder
	at := 0
	for i := range r.Counters {
		n := &r.Counters[i]
		at = in.find(n, at)
		d := in.device(at)
		if d == nil {
			in.devices = append(in.devices, device{quantity: n.Quantity, name: strings.Clone(n.Device)})
			d = in.device(len(in.devices) - 1)
		} else {
			at++
		}
		if d.incarnation != n.Incarnation {
			d.incarnation = strings.Clone(n.Incarnation)
		}
		d.value, d.seen, d.turn = n.Value, in.label, in.turn
	}
	in.prune()
}

// prune forgets the devices that were absent for longest where there are too
// many.
func (in *instance) prune() {
	for len(in.devices) > MaxDevices {
		oldest := -1
		for i := range in.devices {
			if d := &in.devices[i]; d.turn != in.turn && (oldest < 0 || d.seen < in.devices[oldest].seen) {
				oldest = i
			}
		}
		if oldest < 0 {
			return
		}
		in.devices = slices.Delete(in.devices, oldest, oldest+1)
	}
}

// find returns the index of n's device, or -1. It lies at or after the index
// from wherever a source keeps its order, so that is looked at first.
func (in *instance) find(n *odometer.Counter, from int) int {
	from = max(from, 0)
	for i := from; i < len(in.devices); i++ {
		if d := &in.devices[i]; d.quantity == n.Quantity && d.name == n.Device {
			return i
		}
	}
	for i := 0; i < min(from, len(in.devices)); i++ {
		if d := &in.devices[i]; d.quantity == n.Quantity && d.name == n.Device {
			return i
		}
	}
	return -1
}

func (in *instance) device(i int) *device {
	if i < 0 || i >= len(in.devices) {
		return nil
	}
	return &in.devices[i]
}

// checkNew checks a counter whose device was not there before.
func checkNew(r *odometer.Reading, i int) error {
	n := &r.Counters[i]
	for j := range i {
		if r.Counters[j].Quantity == n.Quantity && r.Counters[j].Device == n.Device {
			return invalid("counter %s of device %q is there twice", n.Quantity, n.Device)
		}
	}
	if err := checkName("device", n.Device); err != nil {
		return err
	}
	return checkName("incarnation", n.Incarnation)
}
