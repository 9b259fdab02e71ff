package meter

import (
	"fmt"
	"unicode/utf8"

	"example.org/odometer"
)

// Limits of a reading. What is beyond is refused as a whole, because it can
// only be a mistake and must not move a total that never falls.
const (
	// MaxDevices is the most counters that an instance may have, present and
	// absent ones together; of the absent ones those unseen for longest are
	// forgotten first. It keeps a checkpoint well below the limit of a frame.
	MaxDevices = 1024
	// MaxNameBytes is the longest name of a device, incarnation or epoch.
	MaxNameBytes = 128
	// MaxGaugeBytes is 16 PiB: it could be held for 17 years before a total
	// left 64 bits.
	MaxGaugeBytes = 1 << 54
	// MaxGaugeCount is the most vCPUs or GPUs of an instance.
	MaxGaugeCount = 1 << 16

	// maxMicros is the end of the year 9999, the last that RFC 3339 can write.
	maxMicros = 253402300799_999_999
)

// counters are the quantities that a [odometer.Counter] may have.
const counters = odometer.Known(1<<odometer.CPU | 1<<odometer.GPU | 1<<odometer.GPUBusy |
	1<<odometer.NetworkEgress | 1<<odometer.NetworkIngress | 1<<odometer.DiskRead | 1<<odometer.DiskWrite)

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, odometer.ErrInvalid)...)
}

// checkReading checks what needs no knowledge of the instance.
func checkReading(r *odometer.Reading, at odometer.Moment) error {
	switch {
	case at.Wall < 0 || at.Wall > maxMicros:
		return invalid("the wall clock says %d µs, which is outside the years 1970 to 9999", at.Wall)
	case at.Boot < 0 || at.Boot > maxMicros:
		return invalid("the boot clock says %d µs", at.Boot)
	case r.Started && (r.Final || len(r.Counters) > 0):
		return invalid("a started mark carries no counters and is not final")
	case r.Started:
		return nil
	case r.State != "" && !r.State.Valid():
		return invalid("state %q is not running, paused or stopped", r.State)
	case len(r.Counters) > MaxDevices:
		return invalid("%d counters, at most %d are allowed", len(r.Counters), MaxDevices)
	}
	if err := checkGauges(amounts(r.Gauges)); err != nil {
		return err
	}
	for i := range r.Counters {
		if q := r.Counters[i].Quantity; q >= odometer.Quantities || !counters.Has(q) {
			return invalid("counter %q has quantity %d, which is not a counter's", r.Counters[i].Device, q)
		}
	}
	if r.Gauges.GPUs >= 0 {
		for i := range r.Counters {
			if r.Counters[i].Quantity == odometer.GPU {
				return invalid("GPU time comes from a counter and from a gauge, which would count it twice")
			}
		}
	}
	return nil
}

func checkGauges(g [gauges]int64) error {
	for i, n := range g {
		limit := int64(MaxGaugeCount)
		if table[i].unit > 1 {
			limit = MaxGaugeBytes
		}
		if n < odometer.Unknown || n > limit {
			return invalid("the gauge for %s is %d, outside 0 to %d", table[i].quantity, n, limit)
		}
	}
	return nil
}

// checkNames checks what is looked at only when it changes.
func checkNames(r *odometer.Reading) error {
	if err := checkOwner(r.Owner); err != nil {
		return err
	}
	return checkName("epoch", r.Epoch)
}

func checkOwner(o odometer.Owner) error {
	if o.User != "" {
		if err := odometer.ValidID("user_id", string(o.User)); err != nil {
			return err
		}
	}
	if o.Org != "" {
		return odometer.ValidID("org_id", string(o.Org))
	}
	return nil
}

func checkName(kind, s string) error {
	switch {
	case len(s) > MaxNameBytes:
		return invalid("the name of the %s is %d bytes long, at most %d are allowed", kind, len(s), MaxNameBytes)
	case !utf8.ValidString(s):
		return invalid("the name of the %s, %q, is not valid UTF-8", kind, s)
	}
	return nil
}
