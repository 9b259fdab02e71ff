package meter

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"example.org/odometer"
)

func TestEpochIDs(t *testing.T) {
	run := func(opts Options, readings ...odometer.Reading) (epochs []odometer.Epoch) {
		p := newTape(t, opts)
		p.observe(readings...)
		for _, r := range p.records {
			if r.Event != nil && !slices.Contains(epochs, r.Event.Epoch) {
				epochs = append(epochs, r.Event.Epoch)
			}
		}
		return epochs
	}
	readings := []odometer.Reading{read(0, cpu(1), named("e1")), read(30, cpu(2), named("e1"), final)}

	first := run(live, readings...)
	if again := run(live, readings...); !slices.Equal(first, again) || len(first) != 1 {
		t.Errorf("got epochs %v and %v from the same readings, want one and the same", first, again)
	}
	other := live
	other.Nonce = "another spool"
	if got := run(other, readings...); got[0] == first[0] {
		t.Errorf("got epoch %s for two spools, want two", got[0])
	}
	later := []odometer.Reading{read(1, cpu(1), named("e1")), read(31, cpu(2), named("e1"), final)}
	if got := run(live, later...); got[0] == first[0] {
		t.Errorf("got epoch %s for two moments, want two", got[0])
	}

	want := odometer.NewEpoch("vm-1", "h1", "replay", "e1")
	for _, opts := range []Options{replay, {Named: true, Agent: "somebody", Nonce: "else", Interval: second}} {
		if got := run(opts, later...); len(got) != 1 || got[0] != want {
			t.Errorf("named: got %v, want %s whoever replays it and when", got, want)
		}
	}
}

func TestNamedEpochs(t *testing.T) {
	on := func(agent odometer.AgentID, epoch string) touch {
		return func(r *odometer.Reading) { r.Agent, r.Epoch = agent, epoch }
	}
	periods := Options{Named: true, Interval: 30 * second}
	runScenarios(t, []scenario{{
		name: "an instance that moves is an odometer on each host, even while both tell of it",
		opts: replay,
		readings: []odometer.Reading{read(0, on("h1", "e1"), cpu(0)), read(10, on("h1", "e1"), cpu(1)), read(11, on("h2", "e2"), started),
			read(12, on("h1", "e1"), cpu(2), final), read(13, on("h2", "e2"), cpu(1))},
		want: []string{"checkpoint", "1 0-10 measured cpu_us=1000000", "checkpoint", "2 10-12 measured cpu_us=1000000 final",
			"1 11-13 measured cpu_us=1000000"},
	}, {
		name: "a late line of the epoch before still counts",
		opts: replay,
		readings: []odometer.Reading{read(0, on("h1", "e1"), cpu(0)), read(10, on("h1", "e1"), cpu(1)), read(11, on("h1", "e2"), started),
			read(10.5, on("h1", "e1"), cpu(3), final), read(12, on("h1", "e2"), cpu(1))},
		want: []string{"checkpoint", "1 0-10 measured cpu_us=1000000", "checkpoint", "2 10-10.5 measured cpu_us=2000000 final",
			"1 11-12 measured cpu_us=1000000"},
	}, {
		name: "files may come in any order",
		opts: replay,
		readings: []odometer.Reading{read(100, on("h1", "e2"), started), read(110, on("h1", "e2"), cpu(1)),
			read(0, on("h1", "e1"), started), read(10, on("h1", "e1"), cpu(1), final), read(120, on("h1", "e2"), cpu(2))},
		want: []string{"checkpoint", "1 100-110 measured cpu_us=1000000", "checkpoint", "1 0-10 measured cpu_us=1000000 final",
			"2 110-120 measured cpu_us=1000000"},
	}, {
		name:     "another epoch closes the open period of the one before at its last reading",
		opts:     periods,
		readings: []odometer.Reading{read(0, on("h1", "e1"), cpu(0)), read(10, on("h1", "e1"), cpu(1)), read(11, on("h1", "e2"), cpu(5))},
		want:     []string{"checkpoint", "1 0-10 measured cpu_us=1000000 final", "checkpoint"},
	}, {
		name:     "times are those of the wall clock",
		opts:     replay,
		readings: []odometer.Reading{read(0, on("h1", "e1"), cpu(0), boot(77)), read(10, on("h1", "e1"), cpu(1), boot(5))},
		want:     []string{"checkpoint", "1 0-10 measured cpu_us=1000000"},
	}})

	t.Run("an epoch that has started or ended cannot start, or go on after its end", func(t *testing.T) {
		p := newTape(t, replay)
		p.observe(read(0, on("h1", "e1"), cpu(0)), read(10, on("h1", "e1"), cpu(1)))
		for _, r := range []odometer.Reading{read(11, on("h1", "e1"), started)} {
			if err := p.m.Observe(&r, p.emit); !errors.Is(err, odometer.ErrInvalid) || errors.Is(err, ErrPast) {
				t.Errorf("got %v for a second start, want ErrInvalid", err)
			}
		}
		p.observe(read(20, on("h1", "e1"), cpu(2), final), read(21, on("h1", "e1"), final))
		for _, r := range []odometer.Reading{read(22, on("h1", "e1"), started), read(22, on("h1", "e1"), cpu(3))} {
			if err := p.m.Observe(&r, p.emit); !errors.Is(err, odometer.ErrInvalid) || errors.Is(err, ErrPast) {
				t.Errorf("got %v after the end, want ErrInvalid", err)
			}
		}
		if r := read(20, on("h1", "e1"), cpu(2), final); !errors.Is(p.m.Observe(&r, p.emit), ErrPast) {
			t.Error("got no ErrPast for the final reading repeated")
		}
	})
}

func TestWholeSecondsDoNotDriftAcrossEpochsAndHosts(t *testing.T) {
	p := newTape(t, replay)
	used, whole, gpu := int64(0), uint64(0), uint64(0)
	for i := range 40 {
		// 0.9 CPU-seconds and 0.35 GPU-seconds an epoch, on two hosts by turns.
		host := odometer.AgentID(fmt.Sprintf("h%d", i%2))
		at := func(r *odometer.Reading) { r.Agent, r.Epoch = host, fmt.Sprint("e", i) }
		p.observe(read(float64(10*i), at, started),
			read(float64(10*i+1), at, cpu(0.9), counts(odometer.GPU, "0", 0.35e9), final))
		used += 900_000
	}
	for _, r := range p.records {
		if r.Event != nil {
			whole += r.Event.Metrics.CPUSeconds
			gpu += r.Event.Metrics.GPUSeconds
		}
	}
	if whole != uint64(used/second) || gpu != 14 {
		t.Errorf("got %d CPU and %d GPU seconds, want %d and 14", whole, gpu, used/second)
	}
}

func TestOpenShowsTheEventsThatFlushEmits(t *testing.T) {
	p := newTape(t, live)
	p.observe(
		read(0, instanceOf("b"), cpu(0)), read(0, instanceOf("a"), cpu(0)), read(0, instanceOf("c"), cpu(0)),
		read(30, instanceOf("a"), cpu(1)), read(35, instanceOf("a"), cpu(3)), read(20, instanceOf("b"), cpu(3)))
	var open []string
	for e := range p.m.Open {
		open = append(open, string(e.Instance)+" "+line(e))
	}
	want := []string{"a 2 30-35 measured cpu_us=2000000", "b 1 0-20 measured cpu_us=3000000"}
	if !slices.Equal(open, want) {
		t.Errorf("got %q open, want %q: c has no time yet", open, want)
	}
	for range p.m.Open {
		break // may stop early
	}

	before := len(p.records)
	if err := p.m.Flush(p.emit); err != nil {
		t.Fatal(err)
	}
	var flushed []string
	for _, r := range p.records[before:] {
		flushed = append(flushed, string(r.Event.Instance)+" "+line(r.Event))
	}
	if !slices.Equal(flushed, want) {
		t.Errorf("got %q flushed, want %q", flushed, want)
	}
	for e := range p.m.Open {
		t.Errorf("got %s open after a flush, want nothing", e.ID())
	}
	p.observe(read(36, instanceOf("a"), cpu(4), final))
	if got, want := line(p.records[len(p.records)-1].Event), "3 35-36 measured cpu_us=1000000 final"; got != want {
		t.Errorf("got %q after the flush, want %q: the epoch goes on", got, want)
	}
}

func TestEndedEpochsAreForgottenBeyondTheLimit(t *testing.T) {
	t.Run("live", func(t *testing.T) {
		opts := live
		opts.MaxEnded = 3
		p := newTape(t, opts)
		p.observe(read(0, instanceOf("stays"), cpu(0)))
		for i := range 10 {
			vm := instanceOf(odometer.InstanceID(fmt.Sprint("vm-", i)))
			p.observe(read(float64(i), vm, cpu(0)), read(float64(i)+0.5, vm, cpu(1), final))
		}
		if len(p.m.instances) != 4 || len(p.m.parts) != 4 || len(p.m.ended) != 3 {
			t.Errorf("got %d instances, %d parts, %d ended, want the open one and the last 3", len(p.m.instances), len(p.m.parts), len(p.m.ended))
		}
		p.observe(read(31, instanceOf("stays"), cpu(2)))
	})
	t.Run("named: superseded epochs too", func(t *testing.T) {
		opts := replay
		opts.MaxEnded = 3
		p := newTape(t, opts)
		for i := range 10 {
			e := named(fmt.Sprint("e", i))
			p.observe(read(float64(i), e, cpu(0)), read(float64(i)+0.5, e, cpu(1)))
		}
		if len(p.m.instances) != 4 || len(p.m.parts) != 1 {
			t.Errorf("got %d epochs and %d parts, want the latest and 3 before it, and 1", len(p.m.instances), len(p.m.parts))
		}
		p.observe(read(20, named("e9"), cpu(2), final), read(20.5, named("e8"), cpu(2), final))
	})
	t.Run("an instance that lives again is not forgotten", func(t *testing.T) {
		opts := live
		opts.MaxEnded = 1
		p := newTape(t, opts)
		p.observe(read(0, cpu(0)), read(1, cpu(1), final), read(2, cpu(1)),
			read(3, instanceOf("b"), cpu(0)), read(4, instanceOf("b"), cpu(0), final), read(32, cpu(9)))
		if got, want := p.lines()[len(p.records)-1], "1 2-32 measured cpu_us=8000000"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

func TestObserveAllocatesNothingWhileNothingIsEmitted(t *testing.T) {
	p := newTape(t, Options{Agent: "h1", Interval: odometer.HourMicros})
	r := vm(0)
	p.observe(r)
	emit := func(odometer.Record) { t.Error("got a record, want none") }
	allocs := testing.AllocsPerRun(1000, func() {
		advance(&r)
		if err := p.m.Observe(&r, emit); err != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("got %v allocations a reading, want 0", allocs)
	}
}

// vm is a reading of a machine with 4 vCPUs, 2 disks and 2 NICs.
func vm(after float64) odometer.Reading {
	r := read(after, owner("ada"), gauged(odometer.Gauges{Memory: 1000 * mib, MemoryAllocated: 4096 * mib, Storage: 20 << 30,
		StorageProvisioned: 40 << 30, VCPUs: 4, GPUs: odometer.Unknown}))
	for _, d := range []string{"vcpu0", "vcpu1", "vcpu2", "vcpu3"} {
		counts(odometer.CPU, d, 0)(&r)
	}
	for _, d := range []string{"0", "1"} {
		counts(odometer.DiskRead, "vd"+d, 0)(&r)
		counts(odometer.DiskWrite, "vd"+d, 0)(&r)
		counts(odometer.NetworkEgress, "eth"+d, 0)(&r)
		counts(odometer.NetworkIngress, "eth"+d, 0)(&r)
	}
	return r
}

// advance lets a second pass.
func advance(r *odometer.Reading) {
	r.At.Boot += second
	r.At.Wall += second
	for i := range r.Counters {
		r.Counters[i].Value += 123_456_789
	}
}

func BenchmarkObserve(b *testing.B) {
	for _, c := range []struct {
		name     string
		interval int64
	}{{"folded", 1 << 60}, {"every 30th emitted", 30 * second}, {"each emitted", 0}} {
		b.Run(c.name, func(b *testing.B) {
			m := New(Options{Agent: "h1", Interval: c.interval})
			r := vm(0)
			emit := func(odometer.Record) {}
			b.ReportAllocs()
			for b.Loop() {
				if err := m.Observe(&r, emit); err != nil {
					b.Fatal(err)
				}
				advance(&r)
			}
		})
	}
}
