package meter

import (
	"errors"
	"testing"

	"example.org/odometer"
)

// TestLinesThatShareAMoment follows a file whose marks stand at the instants
// of readings, as a hypervisor's log has them.
func TestLinesThatShareAMoment(t *testing.T) {
	const second = odometer.SecondMicros
	t0 := int64(1_790_000_000) * second
	m := New(Options{Named: true})
	var usage odometer.Usage
	events := 0
	see := func(at int64, state odometer.State, started bool, cpuSeconds uint64, memoryMiB int64) error {
		r := &odometer.Reading{
			Instance: "vm-1", Agent: "h1", Epoch: "e1", State: state, Started: started, Gauges: odometer.NoGauges,
			At: odometer.Moment{Boot: t0 + at*second, Wall: t0 + at*second},
		}
		if !started {
			r.Counters = []odometer.Counter{{Quantity: odometer.CPU, Value: cpuSeconds * 1e9}}
			r.Gauges.Memory = memoryMiB << 20
		}
		return m.Observe(r, func(rec odometer.Record) {
			if rec.Event != nil {
				usage.Add(rec.Event.Usage)
				events++
			}
		})
	}
	for i, step := range []struct {
		at     int64
		state  odometer.State
		start  bool
		cpu    uint64
		memory int64
	}{
		{0, odometer.Running, true, 0, 0},
		{0, odometer.Running, false, 0, 100}, // the first reading at the instant of the mark
		{30, odometer.Running, false, 12, 200},
		{30, odometer.Running, false, 12, 200}, // the same line again
		{60, odometer.Running, false, 20, 200},
		{60, odometer.Stopped, false, 20, 200}, // stopped at the instant of a reading
		{90, odometer.Stopped, false, 20, 200},
	} {
		if err := see(step.at, step.state, step.start, step.cpu, step.memory); err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
	}
	if got, want := usage.Vector[odometer.CPU], int64(20*second); got != want {
		t.Errorf("cpu: got %d µs, want %d", got, want)
	}
	if got, want := usage.Vector[odometer.Memory], int64(30*100+30*200); got != want {
		t.Errorf("memory: got %d MiB·s, want %d: from the first reading until it stopped", got, want)
	}
	if got, want := usage.Elapsed(), int64(90*second); got != want || events != 3 {
		t.Errorf("got %d µs in %d events, want %d in 3", got, events, want)
	}
	if err := see(60, odometer.Running, false, 20, 200); !errors.Is(err, ErrPast) {
		t.Errorf("a line from the past: got %v, want %v", err, ErrPast)
	}
	if err := see(90, odometer.Running, true, 0, 0); err == nil {
		t.Error("a second mark at the moment of the last line was taken")
	}
}
