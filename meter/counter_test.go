package meter

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"example.org/odometer"
)

func TestCounters(t *testing.T) {
	nic := func(device, incarnation string, value uint64) touch {
		return counter(odometer.Counter{Quantity: odometer.NetworkEgress, Device: device, Incarnation: incarnation, Value: value})
	}
	born := func(device, incarnation string, value uint64) touch {
		return counter(odometer.Counter{Quantity: odometer.NetworkEgress, Device: device, Incarnation: incarnation, Value: value, Born: true})
	}
	ns := func(value uint64) touch { return counts(odometer.CPU, "", value) }
	runScenarios(t, []scenario{{
		name:     "the first reading is a baseline: what was counted before the epoch is not usage",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(500)), read(30, cpu(510))},
		want:     []string{"checkpoint", "1 0-30 measured cpu_us=10000000"},
	}, {
		name: "what was born before the epoch is a baseline as well, to the nanosecond",
		opts: live,
		readings: []odometer.Reading{read(0, counter(odometer.Counter{Quantity: odometer.CPU, Incarnation: "a", Value: 900, Born: true})),
			read(30, ns(1800))},
		want: []string{"checkpoint", "1 0-30 measured cpu_us=0"},
	}, {
		name:     "after a started mark the first reading counts from 0",
		opts:     live,
		readings: []odometer.Reading{read(0, started), read(30, cpu(7), nic("eth0", "a", 40))},
		want:     []string{"checkpoint", "1 0-30 measured cpu_us=7000000 network_egress_bytes=40"},
	}, {
		name: "after a started mark a live device that shows up later is a baseline unless it was born",
		opts: live,
		readings: []odometer.Reading{
			read(0, started), read(30, cpu(7)),
			read(60, cpu(7), nic("eth0", "a", 40), born("eth1", "a", 5)),
			read(90, cpu(7), nic("eth0", "a", 42), nic("eth1", "a", 6)),
		},
		want: []string{"checkpoint", "1 0-30 measured cpu_us=7000000",
			"2 30-60 measured cpu_us=0 network_egress_bytes=5", "3 60-90 measured cpu_us=0 network_egress_bytes=3"},
	}, {
		name: "in a named epoch with a started mark a counter first shown later has counted from 0 as well",
		opts: replay,
		readings: []odometer.Reading{
			read(0, started, named("e1")), read(30, named("e1"), cpu(7)),
			read(60, named("e1"), cpu(7), nic("eth0", "a", 40)),
		},
		want: []string{"checkpoint", "1 0-30 measured cpu_us=7000000", "2 30-60 measured cpu_us=0 network_egress_bytes=40"},
	}, {
		name:     "counter went backwards: the VM was restarted, and its new value is a baseline",
		opts:     live,
		readings: []odometer.Reading{read(0, cpu(100)), read(10, cpu(104)), read(20, cpu(1)), read(30, cpu(3))},
		want:     []string{"checkpoint", "1 0-30 measured cpu_us=6000000"},
	}, {
		name: "counter went backwards and was born since: its whole value is usage",
		opts: live,
		readings: []odometer.Reading{read(0, nic("eth0", "a", 100)), read(10, nic("eth0", "a", 110)),
			read(20, born("eth0", "a", 7)), read(30, nic("eth0", "a", 9))},
		want: []string{"checkpoint", "1 0-30 measured network_egress_bytes=19"},
	}, {
		name: "another incarnation is a baseline even at a higher value",
		opts: live,
		readings: []odometer.Reading{read(0, nic("eth0", "a", 100)), read(10, nic("eth0", "b", 5000)),
			read(30, nic("eth0", "b", 5001))},
		want: []string{"checkpoint", "1 0-30 measured network_egress_bytes=1"},
	}, {
		name: "another incarnation that was born counts as a whole",
		opts: live,
		readings: []odometer.Reading{read(0, nic("eth0", "a", 100)), read(10, born("eth0", "b", 5000)),
			read(30, nic("eth0", "b", 5001))},
		want: []string{"checkpoint", "1 0-30 measured network_egress_bytes=5001"},
	}, {
		name: "a NIC disappears: what it added stays, and the others go on",
		opts: live,
		readings: []odometer.Reading{read(0, nic("eth0", "a", 100), nic("eth1", "a", 0)),
			read(10, nic("eth0", "a", 150), nic("eth1", "a", 1)), read(20, nic("eth1", "a", 2)), read(30, nic("eth1", "a", 4))},
		want: []string{"checkpoint", "1 0-30 measured network_egress_bytes=54"},
	}, {
		name: "a NIC comes back as the same incarnation and goes on from its last value",
		opts: live,
		readings: []odometer.Reading{read(0, nic("eth0", "a", 100), nic("eth1", "a", 0)), read(10, nic("eth1", "a", 0)),
			read(30, nic("eth1", "a", 0), nic("eth0", "a", 130))},
		want: []string{"checkpoint", "1 0-30 measured network_egress_bytes=30"},
	}, {
		name: "nanoseconds below a microsecond are carried from event to event",
		opts: Options{Agent: "h1"},
		readings: []odometer.Reading{read(0, ns(0)), read(1, ns(900)), read(2, ns(1800)), read(3, ns(2700)),
			read(4, ns(3000))},
		want: []string{"checkpoint", "1 0-1 measured cpu_us=0", "2 1-2 measured cpu_us=1", "3 2-3 measured cpu_us=1",
			"4 3-4 measured cpu_us=1"},
	}, {
		name: "the devices of an instance share one remainder",
		opts: Options{Agent: "h1"},
		readings: []odometer.Reading{
			read(0, counts(odometer.CPU, "v0", 0), counts(odometer.CPU, "v1", 0)),
			read(1, counts(odometer.CPU, "v0", 600), counts(odometer.CPU, "v1", 600)),
		},
		want: []string{"checkpoint", "1 0-1 measured cpu_us=1"},
	}, {
		name: "a counter that is not read is unknown in the event, not zero",
		opts: Options{Agent: "h1"},
		readings: []odometer.Reading{read(0, cpu(1), nic("eth0", "a", 1)), read(1, cpu(2)),
			read(2, cpu(2), nic("eth0", "a", 1))},
		want: []string{"checkpoint", "1 0-1 measured cpu_us=1000000", "2 1-2 measured cpu_us=0 network_egress_bytes=0"},
	}, {
		name: "counters of one device in several quantities are several counters",
		opts: Options{Agent: "h1"},
		readings: []odometer.Reading{
			read(0, counts(odometer.DiskRead, "vda", 5), counts(odometer.DiskWrite, "vda", 6)),
			read(1, counts(odometer.DiskWrite, "vda", 8), counts(odometer.DiskRead, "vda", 6)),
		},
		want: []string{"checkpoint", "1 0-1 measured disk_read_bytes=1 disk_write_bytes=2"},
	}, {
		name: "GPU time may come from a counter of nanoseconds",
		opts: Options{Agent: "h1"},
		readings: []odometer.Reading{read(0, counts(odometer.GPU, "0", 0), counts(odometer.GPUBusy, "0", 0)),
			read(1, counts(odometer.GPU, "0", 1e9), counts(odometer.GPUBusy, "0", 5e8))},
		want: []string{"checkpoint", "1 0-1 measured gpu_us=1000000 gpu_busy_us=500000"},
	}})
}

func TestRefusedReadingChangesNothing(t *testing.T) {
	long := strings.Repeat("x", MaxNameBytes+1)
	many := read(20)
	for i := range MaxDevices + 1 {
		many.Counters = append(many.Counters, odometer.Counter{Device: strings.Repeat("d", i%100), Value: uint64(i)})
	}
	cases := []struct {
		name    string
		reading odometer.Reading
		says    string
	}{
		{"at the moment of the last one", read(10, cpu(99)), "not later"},
		{"before the last one", read(9, cpu(99)), "not later"},
		{"with a state nobody knows", read(20, cpu(99), state("asleep")), `"asleep"`},
		{"with one counter twice, known from before", read(20, cpu(99), cpu(99)), "twice"},
		{"with one new counter twice", read(20, counts(odometer.DiskRead, "vda", 1), counts(odometer.DiskRead, "vda", 1)), "twice"},
		{"with a counter of a gauge's quantity", read(20, counts(odometer.Memory, "", 1)), "not a counter"},
		{"with a counter of no quantity", read(20, counts(99, "", 1)), "not a counter"},
		{"with a gauge below unknown", read(20, memory(-1)), "memory_mib_s"},
		{"with more memory than there can be", read(20, memory(1<<40)), "memory_mib_s"},
		{"with more vCPUs than there can be", read(20, gauged(odometer.Gauges{VCPUs: 1 << 17})), "vcpu_us"},
		{"with GPU time from a counter and a gauge", read(20, gauged(odometer.Gauges{GPUs: 1}), counts(odometer.GPU, "", 1)), "twice"},
		{"with a counter that jumps by more than 63 bits", read(20, counts(odometer.NetworkEgress, "eth0", 1<<63+200)), "network_egress_bytes"},
		{"with counters that jump by more than 63 bits together",
			read(20, counts(odometer.NetworkEgress, "eth0", 1<<62), counter(odometer.Counter{Quantity: odometer.NetworkEgress,
				Device: "eth1", Value: 1<<63 - 1, Born: true})), "network_egress_bytes"},
		{"with a total that would pass 63 bits", read(20, counter(odometer.Counter{Quantity: odometer.NetworkEgress, Device: "eth0",
			Incarnation: "b", Value: 1<<63 - 50, Born: true})), "64 bits"},
		{"with an owner that is no id", read(20, cpu(99), owner("a b")), "user_id"},
		{"with an organisation that is no id", read(20, func(r *odometer.Reading) { r.Owner.Org = "a b" }), "org_id"},
		{"with a device whose name is too long", read(20, counts(odometer.DiskRead, long, 1)), "device"},
		{"with a new incarnation that is too long", read(20, counter(odometer.Counter{Quantity: odometer.NetworkEgress, Device: "eth0",
			Incarnation: long})), "incarnation"},
		{"with a device whose name is no text", read(20, counts(odometer.DiskRead, "\xff", 1)), "UTF-8"},
		{"with too many counters", many, "at most 1024"},
		{"with a wall clock before 1970", read(20, set(-3e9)), "wall clock"},
		{"with a boot clock below 0", read(20, boot(-1)), "boot clock"},
		{"with a boot clock beyond the calendar", read(20, boot(252e9)), "9999"},
		{"a started mark that is final", read(20, started, final), "started mark"},
		{"a started mark with counters", read(20, started, cpu(1)), "started mark"},
		{"of an epoch whose name is too long", read(20, named(long)), "epoch"},
	}
	first := []odometer.Reading{read(0, cpu(1), memory(1), counts(odometer.NetworkEgress, "eth0", 0)),
		read(10, cpu(2), memory(1), counts(odometer.NetworkEgress, "eth0", 100))}
	rest := []odometer.Reading{read(29, cpu(5), memory(1), counts(odometer.NetworkEgress, "eth0", 130)),
		read(30, cpu(6), memory(1), counts(odometer.NetworkEgress, "eth0", 140))}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			p := newTape(t, live)
			p.observe(first...)
			err := p.m.Observe(&c.reading, p.emit)
			if !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got error %v, want one that is ErrInvalid and says %q", err, c.says)
			}
			if got, want := errors.Is(err, ErrPast), c.says == "not later"; got != want {
				t.Errorf("got ErrPast %v, want %v", got, want)
			}
			p.observe(rest...)
			const want = "1 0-30 measured cpu_us=5000000 memory_mib_s=30 network_egress_bytes=140"
			if got := p.lines(); len(got) != 2 || got[1] != want {
				t.Errorf("got %q afterwards, want %q", got, want)
			}
		})
	}
	t.Run("of an instance that is not known yet", func(t *testing.T) {
		for _, r := range []odometer.Reading{
			read(0, instanceOf("a b")), read(0, instanceOf("")), read(0, func(r *odometer.Reading) { r.Agent = "" }),
			read(0, cpu(1), cpu(1)), read(0, owner("a b")), read(0, named(long)),
		} {
			p := newTape(t, Options{})
			if err := p.m.Observe(&r, p.emit); !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("%+v: got error %v, want ErrInvalid", r, err)
			}
			if len(p.records) != 0 || len(p.m.instances) != 0 || len(p.m.parts) != 0 {
				t.Errorf("%+v: got %d records and %d instances, want none", r, len(p.records), len(p.m.instances))
			}
		}
	})
}

func TestAbsentDevicesAreForgottenBeyondTheLimitOldestFirst(t *testing.T) {
	for name, by := range map[string]float64{"the clock runs on": 0, "the clock was set back meanwhile": -1000} {
		t.Run(name, func(t *testing.T) {
			p := newTape(t, live)
			p.observe(read(0, counts(odometer.DiskRead, "oldest", 10), counts(odometer.DiskRead, "old", 10)),
				read(1, counts(odometer.DiskRead, "old", 10)), read(2, set(by)))
			r := read(3, set(by))
			for i := range MaxDevices - 1 {
				counts(odometer.DiskRead, fmt.Sprint("disk", i), 0)(&r)
			}
			p.observe(r)
			if got := len(p.m.instances[p.m.key(pair{"vm-1", "h1"}, "")].devices); got != MaxDevices {
				t.Fatalf("got %d devices remembered, want %d", got, MaxDevices)
			}
			p.observe(read(40, set(by), counts(odometer.DiskRead, "oldest", 15), counts(odometer.DiskRead, "old", 17),
				counts(odometer.DiskRead, "disk0", 1), counts(odometer.DiskRead, "disk1022", 1)))
			// The oldest was forgotten and is a baseline; the others go on.
			e := p.records[len(p.records)-1].Event
			if got, want := e.Usage.Vector[odometer.DiskRead], int64(9); got != want {
				t.Errorf("got %d bytes, want %d", got, want)
			}
		})
	}
}
