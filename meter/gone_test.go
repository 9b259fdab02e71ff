package meter

import (
	"slices"
	"testing"

	"example.org/odometer"
)

func TestGone(t *testing.T) {
	for _, c := range []struct {
		name     string
		readings []odometer.Reading
		boot     string // that runs when it is found to be gone
		at       odometer.Moment
		want     []string
	}{
		{"the time since its last reading is a gap", []odometer.Reading{read(0, cpu(0)), read(40, cpu(1))}, "b", read(100).At,
			[]string{"checkpoint", "1 0-40 measured cpu_us=1000000", "2 40-100 gap final deleted"}},
		{"what is open is closed before", []odometer.Reading{read(0, cpu(0)), read(5, cpu(1))}, "b", read(100).At,
			[]string{"checkpoint", "1 0-5 measured cpu_us=1000000", "2 5-100 gap final deleted"}},
		{"after a reboot by the wall clock", []odometer.Reading{read(0, cpu(0)), read(40, cpu(1))}, "another", odometer.Moment{Boot: 7 * second, Wall: noon + 100*second},
			[]string{"checkpoint", "1 0-40 measured cpu_us=1000000", "2 40-100 gap final deleted"}},
		{"no time has passed", []odometer.Reading{read(0, cpu(0)), read(40, cpu(1))}, "b", read(40).At,
			[]string{"checkpoint", "1 0-40 measured cpu_us=1000000", "checkpoint"}},
		{"beyond the end of time", []odometer.Reading{read(0, cpu(0)), read(40, cpu(1))}, "b", odometer.Moment{Boot: maxMicros, Wall: noon},
			[]string{"checkpoint", "1 0-40 measured cpu_us=1000000", "checkpoint"}},
		{"it has ended", []odometer.Reading{read(0, cpu(0)), read(5, cpu(1), final)}, "b", read(100).At,
			[]string{"checkpoint", "1 0-5 measured cpu_us=1000000 final"}},
		{"nobody knows it", nil, "b", read(100).At, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			opts := live
			opts.BootID = "b"
			p := &tape{t: t, ends: map[odometer.Epoch]*odometer.Event{}}
			keep := func(r odometer.Record) { p.records = append(p.records, r) }
			m := New(opts)
			for i := range c.readings {
				if err := m.Observe(&c.readings[i], keep); err != nil {
					t.Fatal(err)
				}
			}
			opts.BootID = c.boot
			m.opts = opts
			m.Gone("vm-1", c.at, keep)
			m.Gone("vm-1", read(200).At, keep) // it is gone already
			if got := p.lines(); !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
			for _, r := range p.records {
				if r.Event != nil {
					p.verify(r.Event)
				}
			}
			again := New(opts)
			for _, r := range p.records {
				if err := again.Restore(r.Checkpoint); err != nil {
					t.Errorf("its checkpoint: %v", err)
				}
			}
		})
	}
}
