package meter

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"example.org/odometer"
)

// world is one host as the property tests imagine it: instances that come and
// go with devices that do the same, and clocks.
type world struct {
	boot, wall int64
	vms        []*machine
}

type machine struct {
	id      odometer.InstanceID
	epoch   int
	alive   bool
	mark    bool // a started mark is due
	devices map[string]*odometer.Counter
	n       int // incarnations made
}

func newWorld() *world {
	w := &world{boot: uptime, wall: noon}
	for i := range 2 {
		w.vms = append(w.vms, &machine{id: odometer.InstanceID(fmt.Sprint("vm-", i)), devices: map[string]*odometer.Counter{}})
	}
	return w
}

var kinds = []odometer.Quantity{odometer.CPU, odometer.NetworkEgress, odometer.DiskWrite}

// turn lets something happen to a machine and returns what is read of it.
func (w *world) turn(t *rapid.T, m *machine) odometer.Reading {
	d := rapid.OneOf(rapid.Int64Range(1, 100), rapid.Int64Range(1, 40*second), rapid.Int64Range(1, 2*odometer.HourMicros)).Draw(t, "passes")
	w.boot += d
	w.wall += d
	r := odometer.Reading{Instance: m.id, Agent: "h1", At: odometer.Moment{Boot: w.boot, Wall: w.wall}, Gauges: odometer.NoGauges}
	if !m.alive {
		m.alive, m.mark = true, rapid.Bool().Draw(t, "marked")
		m.epoch++
		clear(m.devices)
		r.Epoch = fmt.Sprint("e", m.epoch)
		if m.mark {
			r.Started = true
			return r
		}
	}
	r.Epoch = fmt.Sprint("e", m.epoch)
	for _, q := range kinds {
		for _, name := range []string{"a", "b"} {
			key := q.String() + name
			c := m.devices[key]
			switch rapid.SampledFrom([]string{"goes on", "goes on", "goes on", "goes on", "absent", "replaced", "born", "falls", "removed"}).Draw(t, key) {
			case "goes on":
				if c == nil {
					continue
				}
				c.Value += w.used(t)
			case "absent":
				continue
			case "removed":
				delete(m.devices, key)
				continue
			case "replaced", "born":
				m.n++
				c = &odometer.Counter{Quantity: q, Device: name, Incarnation: fmt.Sprint("i", m.n), Value: w.used(t)}
				m.devices[key] = c
				born := *c
				born.Born = rapid.Bool().Draw(t, "born")
				r.Counters = append(r.Counters, born)
				continue
			case "falls":
				if c == nil {
					continue
				}
				c.Value /= 3
			}
			r.Counters = append(r.Counters, *c)
		}
	}
	gauge := rapid.OneOf(rapid.Just(odometer.Unknown), rapid.Int64Range(0, 1<<44))
	count := rapid.Int64Range(-1, 64)
	r.Gauges = odometer.Gauges{Memory: gauge.Draw(t, "memory"), MemoryAllocated: 4 << 30, Storage: gauge.Draw(t, "storage"),
		StorageProvisioned: odometer.Unknown, VCPUs: count.Draw(t, "vcpus"), GPUs: count.Draw(t, "gpus")}
	r.State = rapid.SampledFrom([]odometer.State{odometer.Running, odometer.Running, odometer.Paused, odometer.Stopped, ""}).Draw(t, "state")
	r.Owner.User = rapid.SampledFrom([]odometer.UserID{"", "ada", "bob"}).Draw(t, "owner")
	r.Unwatched = rapid.IntRange(0, 9).Draw(t, "unwatched") == 0
	for range rapid.IntRange(-6, 2).Draw(t, "changes") {
		r.Changes = append(r.Changes, odometer.Change{Kind: odometer.ChangeResized, At: r.At, Detail: rapid.String().Draw(t, "detail")})
	}
	if rapid.IntRange(0, 14).Draw(t, "final") == 0 {
		r.Final, m.alive = true, false
	}
	return r
}

func (w *world) used(t *rapid.T) uint64 {
	return rapid.OneOf(rapid.Uint64Range(0, 3), rapid.Uint64Range(0, 5_000_000_000)).Draw(t, "used")
}

// truth sums a machine's readings up by the rules for counters and gauges, in
// big integers of the finest units and without periods, remainders or
// checkpoints: for each epoch that took any time, its totals.
func truth(log []odometer.Reading, named bool) []odometer.Vector {
	type seen struct {
		incarnation string
		value       uint64
	}
	type epoch struct {
		name    string
		fine    [odometer.Quantities]big.Int
		last    odometer.Reading
		devices map[string]seen
		fresh   bool
	}
	var epochs []*epoch
	for _, r := range log {
		var e *epoch
		if len(epochs) > 0 {
			e = epochs[len(epochs)-1]
		}
		if e == nil || e.last.Final || r.Started || r.Epoch != e.name {
			e = &epoch{name: r.Epoch, devices: map[string]seen{}, fresh: r.Started, last: r}
			e.last.Unwatched = false
			if r.State == "" {
				e.last.State = odometer.Running
			}
			for _, c := range r.Counters {
				e.devices[c.Quantity.String()+c.Device] = seen{c.Incarnation, c.Value}
			}
			epochs = append(epochs, e)
			continue
		}
		elapsed := r.At.Boot - e.last.At.Boot
		went := 0
		hadDevices := len(e.devices) > 0
		var fine [odometer.Quantities]big.Int
		for _, c := range r.Counters {
			key := c.Quantity.String() + c.Device
			was, ok := e.devices[key]
			used := uint64(0)
			switch {
			case ok && was.incarnation == c.Incarnation && c.Value >= was.value:
				used = c.Value - was.value
				went++
			case c.Born, !ok && e.fresh:
				used = c.Value
				went++
			}
			fine[c.Quantity].Add(&fine[c.Quantity], new(big.Int).SetUint64(used))
			e.devices[key] = seen{c.Incarnation, c.Value}
		}
		hold := func(q odometer.Quantity, gauge int64, states ...odometer.State) {
			for _, s := range states {
				if s == e.last.State && gauge > 0 {
					fine[q].Add(&fine[q], new(big.Int).Mul(big.NewInt(gauge), big.NewInt(elapsed)))
				}
			}
		}
		g := e.last.Gauges
		hold(odometer.Memory, g.Memory, odometer.Running, odometer.Paused)
		hold(odometer.MemoryAllocated, g.MemoryAllocated, odometer.Running, odometer.Paused)
		hold(odometer.Storage, g.Storage, odometer.Running, odometer.Paused, odometer.Stopped)
		hold(odometer.VCPU, g.VCPUs, odometer.Running, odometer.Paused)
		hold(odometer.GPU, g.GPUs, odometer.Running)
		time := odometer.MeasuredTime
		if r.Unwatched {
			time = odometer.EstimatedTime
			if hadDevices && len(r.Counters) > 0 && went == 0 {
				time, fine = odometer.GapTime, [odometer.Quantities]big.Int{}
			}
		}
		fine[time].SetInt64(elapsed)
		for q := range fine {
			e.fine[q].Add(&e.fine[q], &fine[q])
		}
		state := e.last.State
		e.last = r
		if r.State == "" {
			e.last.State = state
		}
		e.fresh = e.fresh && named
	}
	var totals []odometer.Vector
	for _, e := range epochs {
		var v odometer.Vector
		for q := range v {
			unit := int64(1)
			switch odometer.Quantity(q) {
			case odometer.CPU:
				unit = 1000
			case odometer.Memory, odometer.MemoryAllocated, odometer.Storage:
				unit = 1 << 20 * 1_000_000
			}
			v[q] = new(big.Int).Div(&e.fine[q], big.NewInt(unit)).Int64()
		}
		if v.Elapsed() > 0 {
			totals = append(totals, v)
		}
	}
	return totals
}

// moment returns which reading a checkpoint stands at.
func moment(t interface{ Fatal(...any) }, data json.RawMessage) (odometer.InstanceID, odometer.Moment) {
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	return c.Instance, odometer.Moment{Boot: c.Boot, Wall: c.Wall}
}

// TestSumOfUsageIsTheTruth interleaves readings, crashes, epochs, devices and
// clock steps, and holds what was emitted to the truth at the last reading.
func TestSumOfUsageIsTheTruth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opts := live
		opts.Named = rapid.Bool().Draw(t, "named")
		opts.Interval = rapid.SampledFrom([]int64{0, 1, 30 * second, 3000 * second}).Draw(t, "interval")
		w := newWorld()
		m := New(opts)
		var spool []odometer.Record
		emit := func(r odometer.Record) { spool = append(spool, r) }
		logs := map[odometer.InstanceID][]odometer.Reading{}
		down := map[odometer.InstanceID]bool{}

		for range rapid.IntRange(1, 60).Draw(t, "turns") {
			switch rapid.SampledFrom([]string{"read", "read", "read", "read", "read", "read", "crash", "step", "flush"}).Draw(t, "what") {
			case "read":
				vm := rapid.SampledFrom(w.vms).Draw(t, "vm")
				r := w.turn(t, vm)
				r.Unwatched = r.Unwatched || down[vm.id]
				if err := m.Observe(&r, emit); err != nil {
					t.Fatalf("%+v: %v", r, err)
				}
				down[vm.id] = false
				logs[vm.id] = append(logs[vm.id], r)
			case "step":
				if !opts.Named {
					w.wall += rapid.Int64Range(-5*second, 3*odometer.HourMicros).Draw(t, "by")
				}
			case "flush":
				if err := m.Flush(emit); err != nil {
					t.Fatal(err)
				}
			case "crash":
				// The spool may lose what it had not yet accepted, and a
				// restarted agent knows what the spool still has.
				spool = spool[:max(0, len(spool)-rapid.IntRange(0, 3).Draw(t, "lost"))]
				last := map[odometer.InstanceID]odometer.Moment{}
				for _, r := range spool {
					id, at := moment(t, r.Checkpoint)
					last[id] = at
				}
				m = New(opts)
				for _, i := range rapid.Permutation(upTo(len(spool))).Draw(t, "restored") {
					if err := m.Restore(spool[i].Checkpoint); err != nil {
						t.Fatal(err)
					}
				}
				for _, vm := range w.vms {
					log := logs[vm.id]
					for len(log) > 0 && later(opts, log[len(log)-1].At, last[vm.id]) {
						log = log[:len(log)-1]
					}
					logs[vm.id] = log
					down[vm.id] = true
				}
			}
		}
		if err := m.Flush(emit); err != nil {
			t.Fatal(err)
		}

		p := &tape{t: t, ends: map[odometer.Epoch]*odometer.Event{}}
		sums := map[odometer.InstanceID]map[odometer.Epoch]*odometer.Vector{}
		order := map[odometer.InstanceID][]odometer.Epoch{}
		used, whole := map[odometer.InstanceID]*odometer.Vector{}, map[odometer.InstanceID][2]uint64{}
		for _, r := range spool {
			e := r.Event
			if e == nil {
				continue
			}
			p.verify(e)
			if sums[e.Instance] == nil {
				sums[e.Instance], used[e.Instance] = map[odometer.Epoch]*odometer.Vector{}, &odometer.Vector{}
			}
			if sums[e.Instance][e.Epoch] == nil {
				sums[e.Instance][e.Epoch] = &odometer.Vector{}
				order[e.Instance] = append(order[e.Instance], e.Epoch)
			}
			for q, n := range e.Usage.Vector {
				sums[e.Instance][e.Epoch][q] += n
				used[e.Instance][q] += n
			}
			s := whole[e.Instance]
			whole[e.Instance] = [2]uint64{s[0] + e.Metrics.CPUSeconds, s[1] + e.Metrics.GPUSeconds}
		}
		for _, vm := range w.vms {
			want := truth(logs[vm.id], opts.Named)
			if len(order[vm.id]) != len(want) {
				t.Fatalf("%s: got events of %d epochs, want %d", vm.id, len(order[vm.id]), len(want))
			}
			for i, epoch := range order[vm.id] {
				if got := *sums[vm.id][epoch]; got != want[i] {
					t.Fatalf("%s, epoch %d:\ngot  %v\nwant %v", vm.id, i, got, want[i])
				}
			}
			if u := used[vm.id]; u != nil {
				got, want := whole[vm.id], [2]uint64{uint64(u[odometer.CPU] / second), uint64(u[odometer.GPU] / second)}
				if got != want {
					t.Fatalf("%s: got %d whole CPU and GPU seconds, want %d", vm.id, got, want)
				}
			}
		}
	})
}

// later reports whether a reading lies beyond a checkpoint, by the clock that
// the meter goes by.
func later(opts Options, at, checkpoint odometer.Moment) bool {
	if opts.Named {
		return at.Wall > checkpoint.Wall
	}
	return at.Boot > checkpoint.Boot
}

func upTo(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = i
	}
	return s
}

// TestCrashAnywhereGivesTheSameEvents crashes after each record in turn and
// observes the same readings again from there.
func TestCrashAnywhereGivesTheSameEvents(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		opts := live
		opts.Named = rapid.Bool().Draw(t, "named")
		opts.Interval = rapid.SampledFrom([]int64{0, 30 * second}).Draw(t, "interval")
		w := newWorld()
		var readings []odometer.Reading
		for range rapid.IntRange(1, 25).Draw(t, "readings") {
			vm := rapid.SampledFrom(w.vms).Draw(t, "vm")
			if !opts.Named && rapid.IntRange(0, 5).Draw(t, "set") == 0 {
				w.wall += rapid.Int64Range(-5*second, odometer.HourMicros).Draw(t, "by")
			}
			if !opts.Named && rapid.IntRange(0, 9).Draw(t, "reboots") == 0 {
				// Everything is read anew, and unwatched until then.
				w.boot = rapid.Int64Range(0, uptime/2).Draw(t, "boot")
				for _, vm := range w.vms {
					r := w.turn(t, vm)
					r.Unwatched = true
					readings = append(readings, r)
				}
				continue
			}
			readings = append(readings, w.turn(t, vm))
		}
		var want []odometer.Record
		var from []int // the reading that led to each record
		m := New(opts)
		for i := range readings {
			err := m.Observe(&readings[i], func(r odometer.Record) {
				want = append(want, r)
				from = append(from, i)
			})
			if err != nil && !errors.Is(err, ErrPast) {
				t.Fatalf("%+v: %v", readings[i], err)
			}
		}
		for k := range want {
			m := New(opts)
			for _, r := range want[:k+1] {
				if err := m.Restore(r.Checkpoint); err != nil {
					t.Fatal(err)
				}
			}
			got := want[: k+1 : k+1]
			// Each instance goes on after the reading at which its newest
			// checkpoint stands.
			since := map[odometer.InstanceID]int{}
			for i, r := range want[:k+1] {
				id, at := moment(t, r.Checkpoint)
				since[id] = from[i]
				for j := from[i]; j >= 0; j-- {
					if readings[j].Instance == id && readings[j].At == at {
						since[id] = j + 1
						break
					}
				}
			}
			// The other instance's readings come first or last; here in order.
			for i := range readings {
				if i < since[readings[i].Instance] {
					continue
				}
				if err := m.Observe(&readings[i], func(r odometer.Record) { got = append(got, r) }); err != nil && !errors.Is(err, ErrPast) {
					t.Fatalf("after record %d, reading %d: %v", k, i, err)
				}
			}
			compare(t, k, got, want)
		}
	})
}

// compare holds two recordings to each other, instance by instance: what lies
// between the records of different instances is no matter.
func compare(t *rapid.T, k int, got, want []odometer.Record) {
	split := func(records []odometer.Record) map[odometer.InstanceID][]odometer.Record {
		m := map[odometer.InstanceID][]odometer.Record{}
		for _, r := range records {
			id, _ := moment(t, r.Checkpoint)
			m[id] = append(m[id], r)
		}
		return m
	}
	g, w := split(got), split(want)
	for id := range w {
		if len(g[id]) != len(w[id]) {
			t.Fatalf("crash after record %d: %s: got %d records, want %d", k, id, len(g[id]), len(w[id]))
		}
		for i, r := range w[id] {
			o := g[id][i]
			if (o.Event == nil) != (r.Event == nil) || string(o.Checkpoint) != string(r.Checkpoint) {
				t.Fatalf("crash after record %d: %s: got record\n%s\nwant\n%s", k, id, o.Checkpoint, r.Checkpoint)
			}
			if r.Event != nil && (o.Event.ID() != r.Event.ID() || o.Event.Content() != r.Event.Content() || o.Event.Metrics != r.Event.Metrics ||
				o.Event.Owner != r.Event.Owner || o.Event.Quality != r.Event.Quality || o.Event.Final != r.Event.Final || !slices.Equal(o.Event.Lifecycle, r.Event.Lifecycle)) {
				t.Fatalf("crash after record %d: %s: got %+v, want %+v", k, id, o.Event, r.Event)
			}
		}
	}
}
