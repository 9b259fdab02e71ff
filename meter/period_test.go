package meter

import (
	"slices"
	"testing"

	"example.org/odometer"
)

func TestGauges(t *testing.T) {
	all := odometer.Gauges{Memory: 2 * mib, MemoryAllocated: 4 * mib, Storage: 8 * mib, StorageProvisioned: 16 * mib, VCPUs: 2, GPUs: 1}
	const storage = " storage_mib_s=80 storage_provisioned_mib_s=160"
	runScenarios(t, []scenario{{
		name:     "a gauge holds from its reading until the next one",
		opts:     live,
		readings: []odometer.Reading{read(0, memory(1)), read(10, memory(100)), read(30, memory(7))},
		want:     []string{"checkpoint", "1 0-30 measured memory_mib_s=2010"},
	}, {
		name:     "running: everything goes on",
		opts:     Options{},
		readings: []odometer.Reading{read(0, gauged(all)), read(10, gauged(all))},
		want: []string{"checkpoint",
			"1 0-10 measured gpu_us=10000000 vcpu_us=20000000 memory_mib_s=20 memory_allocated_mib_s=40" + storage},
	}, {
		name:     "paused: the GPU stands, memory and vCPUs stay allocated, counters are differences as ever",
		opts:     Options{},
		readings: []odometer.Reading{read(0, gauged(all), cpu(0), state(odometer.Paused)), read(10, gauged(all), cpu(1))},
		want: []string{"checkpoint",
			"1 0-10 measured cpu_us=1000000 gpu_us=0 vcpu_us=20000000 memory_mib_s=20 memory_allocated_mib_s=40" + storage},
	}, {
		name:     "stopped: only the disks stay occupied",
		opts:     Options{},
		readings: []odometer.Reading{read(0, gauged(all), state(odometer.Stopped)), read(10, gauged(all))},
		want:     []string{"checkpoint", "1 0-10 measured gpu_us=0 vcpu_us=0 memory_mib_s=0 memory_allocated_mib_s=0" + storage},
	}, {
		name: "no state told: it stays as it was, running at first",
		opts: Options{},
		readings: []odometer.Reading{read(0, memory(1), state("")), read(10, memory(1), state(odometer.Stopped)),
			read(20, memory(1), state("")), read(30, memory(1))},
		want: []string{"checkpoint", "1 0-10 measured memory_mib_s=10", "2 10-20 measured memory_mib_s=0", "3 20-30 measured memory_mib_s=0"},
	}, {
		name: "an unknown gauge adds nothing and is unknown in its event; the period closes where it becomes known or unknown",
		opts: live,
		readings: []odometer.Reading{read(0, memory(1)), read(10, memory(1)), read(12), read(14), read(16, memory(1)),
			read(30, memory(1)), read(46, memory(1))},
		want: []string{"checkpoint", "1 0-12 measured memory_mib_s=12", "2 12-16 measured", "3 16-46 measured memory_mib_s=30"},
	}, {
		name:     "a gauge that is known to be 0 is a known 0",
		opts:     live,
		readings: []odometer.Reading{read(0, memory(0)), read(30, memory(0))},
		want:     []string{"checkpoint", "1 0-30 measured memory_mib_s=0"},
	}, {
		name: "byte-microseconds below a MiB-second are carried from event to event",
		opts: Options{},
		readings: []odometer.Reading{read(0, memory(1)), read(0.4, memory(1)), read(0.8, memory(1)), read(1.2, memory(1)),
			read(2, memory(1))},
		want: []string{"checkpoint", "1 0-0.4 measured memory_mib_s=0", "2 0.4-0.8 measured memory_mib_s=0",
			"3 0.8-1.2 measured memory_mib_s=1", "4 1.2-2 measured memory_mib_s=1"},
	}, {
		name: "16 PiB held for a year is exact in 128 bits",
		opts: Options{},
		readings: []odometer.Reading{read(0, gauged(odometer.Gauges{Memory: odometer.Unknown, MemoryAllocated: odometer.Unknown,
			Storage: MaxGaugeBytes, StorageProvisioned: odometer.Unknown, VCPUs: MaxGaugeCount, GPUs: odometer.Unknown})), read(365 * 86400)},
		want: []string{"checkpoint", "1 0-3.1536e+07 measured vcpu_us=2066743296000000000 storage_mib_s=541784354586624000"},
	}})
}

func TestPeriods(t *testing.T) {
	runScenarios(t, []scenario{{
		name:     "a period closes at the first reading at or beyond the interval",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(29, cpu(1)), read(31, cpu(2)), read(60, cpu(3)), read(61, cpu(4))},
		want:     []string{"checkpoint", "1 0-31 measured cpu_us=2000000", "2 31-61 measured cpu_us=2000000"},
	}, {
		name:     "interval 0: every reading closes a period",
		opts:     Options{},
		readings: []odometer.Reading{read(0, cpu(0)), read(0.000001, cpu(0)), read(31, cpu(2))},
		want:     []string{"checkpoint", "1 0-1e-06 measured cpu_us=0", "2 1e-06-31 measured cpu_us=2000000"},
	}, {
		name: "a reading at the hour's edge closes the period there",
		opts: live,
		readings: []odometer.Reading{read(-10, cpu(0)), read(-1, cpu(1)), read(0, cpu(2)), read(20, cpu(3)),
			read(30, cpu(4))},
		want: []string{"checkpoint", "1 -10-0 measured cpu_us=2000000", "2 0-30 measured cpu_us=2000000"},
	}, {
		name:     "a reading beyond the hour's edge closes the period where it is",
		opts:     live,
		readings: []odometer.Reading{read(-10, cpu(0)), read(1, cpu(2)), read(31, cpu(3))},
		want:     []string{"checkpoint", "1 -10-1 measured cpu_us=2000000", "2 1-31 measured cpu_us=1000000"},
	}, {
		name:     "a final reading closes the period and the epoch",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(3, cpu(1), final)},
		want:     []string{"checkpoint", "1 0-3 measured cpu_us=1000000 final"},
	}, {
		name:     "a VM that lived 0.4 s",
		opts:     live,
		readings: []odometer.Reading{read(0.3, started), read(0.7, cpu(0.25), final)},
		want:     []string{"checkpoint", "1 0.3-0.7 measured cpu_us=250000 final"},
	}, {
		name:     "a VM that ends without any reading after its start",
		opts:     live,
		readings: []odometer.Reading{read(0, started), read(0, final)},
		want:     []string{"checkpoint", "checkpoint"},
	}, {
		name:     "a first reading that is final has nothing to say",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(5), final)},
		want:     []string{"checkpoint"},
	}, {
		name:     "a final mark at the last reading closes the open period there",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1)), read(5, final)},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000 final"},
	}, {
		name:     "a final mark at the last reading where no period is open is a checkpoint alone",
		opts:     replay,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1)), read(5, final)},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000", "checkpoint"},
	}, {
		name:     "a final mark later than the last reading: gauges hold until then",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0), memory(1)), read(5, cpu(1), memory(1)), read(8, final)},
		want:     []string{"checkpoint", "1 0-8 measured cpu_us=1000000 memory_mib_s=8 final"},
	}, {
		name:     "a final mark for an epoch that has ended changes nothing",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1), final), read(6, final)},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000 final"},
	}, {
		name:     "a live instance that appears after its end begins a new epoch",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1), final), read(9, cpu(50)), read(10, cpu(51), final)},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000 final", "checkpoint", "1 9-10 measured cpu_us=1000000 final"},
	}, {
		name:     "a started mark while a period is open closes it at its last reading",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1)), read(9, started), read(10, cpu(2), final)},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000 final", "checkpoint", "1 9-10 measured cpu_us=2000000 final"},
	}, {
		name: "another epoch of the source closes the last one at its last reading",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(0), named("a")), read(5, cpu(1), named("a")), read(9, cpu(7), named("b")),
			read(10, cpu(8), named("b"), final)},
		want: []string{"checkpoint", "1 0-5 measured cpu_us=1000000 final", "checkpoint", "1 9-10 measured cpu_us=1000000 final"},
	}, {
		name:     "another epoch where no period is open: the end is a checkpoint alone",
		opts:     Options{},
		readings: []odometer.Reading{read(0, cpu(0), named("a")), read(5, cpu(1), named("a")), read(9, cpu(7), named("b"))},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000", "checkpoint", "checkpoint"},
	}, {
		name: "an owner holds until the reading that names another",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(0), owner("ada")), read(5, cpu(1)), read(9, cpu(3), owner("bob")),
			read(39, cpu(4), owner("bob"))},
		want: []string{"checkpoint", "1 0-9 measured ada cpu_us=3000000", "2 9-39 measured bob cpu_us=1000000"},
	}, {
		name:     "the owner named right after a started mark owns the time since the mark",
		opts:     live,
		readings: []odometer.Reading{read(0, started), read(5, cpu(1), owner("ada")), read(30, cpu(2), owner("ada"))},
		want:     []string{"checkpoint", "1 0-30 measured ada cpu_us=2000000"},
	}, {
		name:     "an owner named later owns nothing before",
		opts:     live,
		readings: []odometer.Reading{read(0, started), read(5, cpu(1)), read(6, cpu(2), owner("ada")), read(36, cpu(3))},
		want:     []string{"checkpoint", "1 0-6 measured cpu_us=2000000", "2 6-36 measured ada cpu_us=1000000"},
	}, {
		name:     "what happened closes the period, which tells it",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1), tells("paused", "resumed")), read(35, cpu(2))},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000 paused resumed", "2 5-35 measured cpu_us=1000000"},
	}, {
		name:     "what happened where the epoch begins is told with the reading after",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0), tells("started")), read(1, cpu(1)), read(31, cpu(2))},
		want:     []string{"checkpoint", "1 0-1 measured cpu_us=1000000 started", "2 1-31 measured cpu_us=1000000"},
	}, {
		name:     "what happened is told once where a period is cut off before it too",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1)), read(9, cpu(2), unwatched, tells("found"))},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=1000000", "2 5-9 estimated cpu_us=1000000 found"},
	}, {
		name:     "the end is told with the last event",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(3, cpu(1), final, tells("crashed", "deleted"))},
		want:     []string{"checkpoint", "1 0-3 measured cpu_us=1000000 final crashed deleted"},
	}, {
		name:     "what happened is told by the first line of a moment",
		opts:     replay,
		readings: []odometer.Reading{read(0, cpu(0), tells("found")), read(0, cpu(1), tells("found")), read(5, cpu(2))},
		want:     []string{"checkpoint", "1 0-5 measured cpu_us=2000000 found"},
	}})
}

func TestTime(t *testing.T) {
	born := func(seconds float64) touch {
		return counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "b", Value: uint64(seconds * 1e9), Born: true})
	}
	replaced := counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "b", Value: 3e9})
	runScenarios(t, []scenario{{
		name: "the clock was set forward: the period keeps its labels, the next one starts at the new ones",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(0)), read(5, cpu(1)), read(10, cpu(2), set(100)), read(20, cpu(3), set(100)),
			read(40, cpu(4), set(100))},
		want: []string{"checkpoint", "1 0-10 measured cpu_us=2000000", "2 110-140 measured step=100 cpu_us=2000000"},
	}, {
		name:     "the clock was set back: spans keep their true length",
		opts:     live,
		readings: []odometer.Reading{read(100, cpu(0)), read(110, cpu(2), set(-100)), read(140, cpu(4), set(-100))},
		want:     []string{"checkpoint", "1 100-110 measured cpu_us=2000000", "2 10-40 measured step=-100 cpu_us=2000000"},
	}, {
		name:     "the clock was set twice in a row: every step is told",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(1, cpu(2), set(5)), read(2, cpu(3), set(60)), read(32, cpu(4), set(60))},
		want: []string{"checkpoint", "1 0-1 measured cpu_us=2000000", "2 6-7 measured step=5 cpu_us=1000000",
			"3 62-92 measured step=55 cpu_us=1000000"},
	}, {
		name:     "a clock that is slewed by a second or less is not set",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(15, cpu(1), set(1)), read(30, cpu(2), set(-1))},
		want:     []string{"checkpoint", "1 0-30 measured cpu_us=2000000"},
	}, {
		name:     "the clock was set at the final reading: nothing follows",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(0)), read(10, cpu(1), set(500), final)},
		want:     []string{"checkpoint", "1 0-10 measured cpu_us=1000000 final"},
	}, {
		name: "unwatched time is a period of its own: counters exact, gauges held",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(0), memory(1)), read(10, cpu(1), memory(2)),
			read(600, cpu(100), memory(3), unwatched), read(629, cpu(101), memory(3))},
		want: []string{"checkpoint", "1 0-10 measured cpu_us=1000000 memory_mib_s=10",
			"2 10-600 estimated cpu_us=99000000 memory_mib_s=1180"},
	}, {
		name: "short unwatched time is cut off from the watched time on both sides",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(0)), read(10, cpu(1)), read(12, cpu(2), unwatched), read(14, cpu(3), unwatched), read(15, cpu(4)),
			read(44, cpu(5))},
		want: []string{"checkpoint", "1 0-10 measured cpu_us=1000000", "2 10-14 estimated cpu_us=2000000", "3 14-44 measured cpu_us=2000000"},
	}, {
		name:     "all counters were replaced over unwatched time: a gap and a fresh baseline",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10), memory(1)), read(10, cpu(11), memory(1)), read(600, replaced, memory(1), unwatched), read(630, counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "b", Value: 5e9}), memory(1))},
		want: []string{"checkpoint", "1 0-10 measured cpu_us=1000000 memory_mib_s=10", "2 10-600 gap",
			"3 600-630 measured cpu_us=2000000 memory_mib_s=30"},
	}, {
		name:     "all counters fell over unwatched time: a gap as well",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(600, cpu(1), unwatched), read(630, cpu(3))},
		want:     []string{"checkpoint", "1 0-600 gap", "2 600-630 measured cpu_us=2000000"},
	}, {
		name:     "a short gap is closed at once, and unwatched time before it stays apart",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(5, cpu(11), unwatched), read(6, replaced, unwatched)},
		want:     []string{"checkpoint", "1 0-5 estimated cpu_us=1000000", "2 5-6 gap"},
	}, {
		name: "one counter of several went on over unwatched time: no gap",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(10), counts(odometer.DiskRead, "vda", 1)),
			read(600, replaced, counts(odometer.DiskRead, "vda", 3), unwatched)},
		want: []string{"checkpoint", "1 0-600 estimated disk_read_bytes=2"},
	}, {
		name:     "counters were born over unwatched time: no gap",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(600, born(7), unwatched)},
		want:     []string{"checkpoint", "1 0-600 estimated cpu_us=7000000"},
	}, {
		name:     "no counters to tell by: unwatched gauges are held",
		opts:     live,
		readings: []odometer.Reading{read(0, memory(1)), read(600, memory(1), unwatched)},
		want:     []string{"checkpoint", "1 0-600 estimated memory_mib_s=600"},
	}, {
		name:     "counters were replaced while watched: a baseline, and no gap",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10), memory(1)), read(1, replaced, memory(1)), read(30, memory(1), counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "b", Value: 5e9}))},
		want:     []string{"checkpoint", "1 0-30 measured cpu_us=2000000 memory_mib_s=30"},
	}, {
		name:     "a gap may be the last of an epoch",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(600, replaced, unwatched, final)},
		want:     []string{"checkpoint", "1 0-600 gap final"},
	}, {
		name: "reboot: counters without a birth make the whole time a gap by the wall clock",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(10)), read(5, cpu(11)), read(600, replaced, boot(40), unwatched),
			read(630, boot(70), counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "b", Value: 5e9}))},
		want: []string{"checkpoint", "1 0-5 measured cpu_us=1000000", "2 5-600 gap", "3 600-630 measured cpu_us=2000000"},
	}, {
		name: "reboot: counters born with it make a gap until the boot and usage since",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(10), memory(1)), read(5, cpu(11), memory(1)), read(600, born(7), boot(40), unwatched),
			read(601, boot(41))},
		want: []string{"checkpoint", "1 0-5 measured cpu_us=1000000 memory_mib_s=5", "2 5-560 gap",
			"3 560-600 estimated cpu_us=7000000 memory_mib_s=40"},
	}, {
		name: "reboot with a wall clock that is not set: at least the time since the boot has passed",
		opts: live,
		readings: []odometer.Reading{read(0, cpu(10)), read(5, cpu(11)), read(-3000, born(7), boot(40), unwatched),
			read(-2990, counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "b", Value: 8e9}), boot(50))},
		want: []string{"checkpoint", "1 0-5 measured cpu_us=1000000", "2 5-45 estimated cpu_us=7000000"},
	}, {
		name:     "reboot with a wall clock that is not set and nothing born: a gap as long as the time since the boot",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(-3000, replaced, boot(40), unwatched)},
		want:     []string{"checkpoint", "1 0-40 gap"},
	}, {
		name:     "reboot at boot time 0 with a wall clock set back: one microsecond at least",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(-30, replaced, boot(0), unwatched), read(0, boot(30), memory(1))},
		want:     []string{"checkpoint", "1 0-1e-06 gap", "2 -30-0 measured step=-30.000001"},
	}, {
		name:     "reboot at boot time 0 with counters born: all of the time is estimated",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(60, born(7), boot(0), unwatched)},
		want:     []string{"checkpoint", "1 0-60 estimated cpu_us=7000000"},
	}, {
		name:     "reboot: a counter kept outside the host goes on",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(10)), read(600, cpu(12), boot(40), unwatched)},
		want:     []string{"checkpoint", "1 0-600 estimated cpu_us=2000000"},
	}})
}

func TestStepOverAReboot(t *testing.T) {
	p := newTape(t, live)
	p.observe(read(0, cpu(10)), read(5, cpu(11)), read(-3000, unwatched, boot(40), counter(odometer.Counter{Incarnation: "b", Value: 7e9, Born: true})),
		read(-2970, boot(70), counter(odometer.Counter{Incarnation: "b", Value: 8e9})))
	want := []string{"checkpoint", "1 0-5 measured cpu_us=1000000", "2 5-45 estimated cpu_us=7000000", "3 -3000--2970 measured step=-3045 cpu_us=1000000"}
	if got := p.lines(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCrashBetweenTheGapOfARebootAndTheUsageSince(t *testing.T) {
	booted := read(600, boot(40), unwatched, counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "b", Value: 7e9, Born: true}))
	for _, ids := range [][2]string{{"", ""}, {"boot-1", "boot-2"}} {
		// goOn is a meter of the given boot that goes on from a record of p.
		goOn := func(p *tape, record int, id string) *tape {
			opts := live
			opts.BootID = id
			q := newTape(t, opts)
			if record >= 0 {
				if err := q.m.Restore(p.records[record].Checkpoint); err != nil {
					t.Fatal(err)
				}
				q.ends = p.ends
			}
			return q
		}
		p := goOn(nil, -1, ids[0])
		p.observe(read(0, cpu(10)))
		want := goOn(p, 0, ids[1])
		want.observe(booted)
		want.ends[want.records[0].Event.Epoch] = want.records[0].Event
		got := goOn(want, 0, ids[1])
		got.observe(booted)
		if got, want := got.lines(), want.lines()[1:]; !slices.Equal(got, want) || len(got) != 1 {
			t.Errorf("boots %q: got %q after the crash, want %q", ids, got, want)
		}
	}
}

func TestRebootIsSeenByTheBootsIDs(t *testing.T) {
	opts := live
	opts.BootID = "boot-1"
	p := newTape(t, opts)
	p.observe(read(0, cpu(10)))
	opts.BootID = "boot-2"
	q := newTape(t, opts)
	if err := q.m.Restore(p.records[0].Checkpoint); err != nil {
		t.Fatal(err)
	}
	// The new boot's clock is ahead of the old one's.
	q.observe(read(9000, counts(odometer.CPU, "", 1), boot(6000), unwatched))
	if got, want := q.lines(), []string{"1 0-9000 gap"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	// The same boot: a clock that runs backwards is an error, never a reboot.
	r := read(9001, boot(5999), unwatched)
	if err := q.m.Observe(&r, q.emit); err == nil {
		t.Error("got no error for a boot clock that ran backwards, want ErrPast")
	}
}
