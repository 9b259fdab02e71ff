package ledger

import (
	"testing"

	"example.org/odometer"
)

// What an instance was allocated bounds what it can have used, where the
// allocation stood still.
func TestAllocationBounds(t *testing.T) {
	const s = odometer.SecondMicros
	for _, c := range []struct {
		name                       string
		cpu, vcpu, gpu, busy, time int64
		estimated, possible        bool
	}{
		{"two vCPUs, both busy all the time", 20 * s, 20 * s, 0, 0, 10 * s, false, true},
		{"far more than two vCPUs can do", 250 * s, 20 * s, 0, 0, 10 * s, false, false},
		{"the same, over time that was not watched", 250 * s, 20 * s, 0, 0, 10 * s, true, true},
		{"two vCPUs for half of the time look like one, and were busy for longer", 19 * s, 10 * s, 0, 0, 10 * s, false, true},
		{"stopped, then started just before a reading: the vCPUs are those of the readings before", 4 * s, 2 * s, 0, 0, 10 * s, false, true},
		{"stopped all the time but for the end", 2 * s, 0, 0, 0, 10 * s, false, true},
		{"a GPU attached for a part of the time", 0, 0, 3 * s, 5 * s, 10 * s, false, true},
		{"a GPU busier than there is time", 0, 0, 10 * s, 150 * s, 10 * s, false, false},
		{"more than any machine can do", 50_000 * s, 2 * s, 0, 0, 10 * s, false, false},
	} {
		u := odometer.Usage{Known: odometer.AllKnown}
		u.Vector[odometer.CPU], u.Vector[odometer.VCPU], u.Vector[odometer.GPU], u.Vector[odometer.GPUBusy] = c.cpu, c.vcpu, c.gpu, c.busy
		u.Vector[odometer.MeasuredTime] = c.time
		if c.estimated {
			u.Vector[odometer.MeasuredTime], u.Vector[odometer.EstimatedTime] = 0, c.time
		}
		if why := DefaultBounds.check(u); (why == "") != c.possible {
			t.Errorf("%s: got %q, want possible %v", c.name, why, c.possible)
		}
	}
}
