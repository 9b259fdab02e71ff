package main

import (
	"encoding/json"
	"errors"
	"math/bits"
	"slices"

	"example.org/odometer"
)

// shadow stands between an agent and its spool and works out a second time,
// from the readings alone and by what package meter promises, what every event
// must say. It is a spool to the agent, and passes on what it is given.
//
// It also knows which stretch of which counter each event is made of: see truth.
type shadow struct {
	p         *process
	instances map[odometer.InstanceID]*track
}

// track is one instance as one process sees it: its epochs in order, of which
// the last is open.
type track struct {
	epochs    []*fold
	unwatched bool // restored, and not read since
}

// wide is an unsigned number of 128 bits.
type wide struct{ hi, lo uint64 }

func (a wide) plus(b wide) wide {
	lo, carry := bits.Add64(a.lo, b.lo, 0)
	hi, _ := bits.Add64(a.hi, b.hi, carry)
	return wide{hi, lo}
}

func product(a, b uint64) wide {
	hi, lo := bits.Mul64(a, b)
	return wide{hi, lo}
}

// div returns a/b, of which the hi part must be below b.
func (a wide) div(b uint64) int64 {
	q, _ := bits.Div64(a.hi, a.lo, b)
	return int64(q)
}

// stretch is a part of one counter's life, in its own units.
type stretch struct {
	quantity    odometer.Quantity
	device      string
	incarnation string
	from, to    uint64
}

// point is an odometer at a reading.
type point struct {
	at      odometer.Moment
	boot    string
	label   int64
	raw     [odometer.Quantities]wide // since the first of the epochs that go on from one another
	base    [odometer.Quantities]wide // where this epoch began
	vector  odometer.Vector           // of this epoch
	done    []stretch                 // of this epoch, of incarnations that were replaced
	devices []stretch                 // of this epoch, so far
	gauges  odometer.Gauges
	state   odometer.State
	fresh   bool // a device that is seen for the first time has counted from 0
}

// fold is one epoch.
type fold struct {
	name     string
	epoch    odometer.Epoch // "" until a record told it
	sequence uint64         // of the last event that was offered
	agent    odometer.AgentID
	instance odometer.InstanceID
	ended    bool
	points   []point // since then; the last is the present
}

func (f *fold) last() *point { return &f.points[len(f.points)-1] }

// unit is what one unit of a quantity has of the finer one that is folded in.
func unit(q odometer.Quantity) uint64 {
	switch q {
	case odometer.CPU, odometer.GPU, odometer.GPUBusy:
		return 1000
	case odometer.Memory, odometer.MemoryAllocated, odometer.Storage, odometer.StorageProvisioned:
		return 1 << 20 * uint64(second)
	}
	return 1
}

func newShadow(p *process) *shadow {
	return &shadow{p: p, instances: map[odometer.InstanceID]*track{}}
}

// newest returns the checkpoint of each instance that the meter goes on from.
func newest(states []json.RawMessage) (list []head) {
	for _, c := range states {
		h := headOf(c)
		i := slices.IndexFunc(list, func(o head) bool { return o.Instance == h.Instance })
		switch {
		case i < 0:
			list = append(list, h)
		case list[i].Serial <= h.Serial:
			list[i] = h
		}
	}
	return list
}

// restore goes on from the checkpoints of the agent's own spool.
func (s *shadow) restore(states []json.RawMessage) {
	for _, h := range newest(states) {
		f := s.p.w.truth.recall(s.p.h, h)
		if f == nil {
			s.p.w.wrong("%s: a checkpoint of %s (epoch %s, sequence %d) was never made", s.p.h.id, h.Instance, h.Epoch, h.Sequence)
			continue
		}
		s.instances[h.Instance] = &track{epochs: []*fold{f}, unwatched: !h.Ended}
	}
}

// adopt goes on from the checkpoints that the server kept, in new epochs.
func (s *shadow) adopt(states []json.RawMessage) {
	s.restore(states)
	for _, h := range newest(states) {
		s.p.w.truth.adopted[h.Epoch] = true
	}
	for _, t := range s.instances {
		f := t.epochs[0]
		if f.ended {
			continue
		}
		p := f.last()
		n := &fold{name: f.name, agent: f.agent, instance: f.instance}
		next := *p
		next.base, next.vector, next.done = p.raw, odometer.Vector{}, nil
		next.devices = slices.Clone(p.devices)
		for i := range next.devices {
			next.devices[i].from = next.devices[i].to
		}
		n.points = []point{next}
		t.epochs = []*fold{n}
	}
}

// read folds a reading in.
func (s *shadow) read(r *odometer.Reading) {
	boot := s.p.h.boot()
	s.p.w.truth.saw(s.p, r)
	t := s.instances[r.Instance]
	if t == nil {
		t = &track{}
		s.instances[r.Instance] = t
	}
	unwatched := r.Unwatched || t.unwatched
	t.unwatched = false
	if len(t.epochs) == 0 {
		t.begin(r, boot)
		return
	}
	f := t.epochs[len(t.epochs)-1]
	last := f.last()
	rebooted := last.boot != boot
	if !rebooted && r.At.Boot <= last.at.Boot {
		if r.At.Boot == last.at.Boot && r.Final && r.Epoch == f.name {
			f.ended = true
		}
		return // refused: not later than the last
	}
	switch {
	case f.ended && r.Final && r.Epoch == f.name:
		return
	case f.ended || r.Started || r.Epoch != f.name:
		f.ended = true
		t.begin(r, boot)
	default:
		f.fold(r, boot, unwatched || rebooted, rebooted)
	}
}

func (t *track) begin(r *odometer.Reading, boot string) {
	f := &fold{name: r.Epoch, agent: r.Agent, instance: r.Instance, ended: r.Final}
	p := point{at: r.At, fresh: r.Started, boot: boot, label: r.At.Wall, gauges: odometer.NoGauges, state: r.State}
	if !r.Started {
		p.gauges = r.Gauges
		for _, c := range r.Counters {
			p.devices = append(p.devices, stretch{c.Quantity, c.Device, c.Incarnation, c.Value, c.Value})
		}
	}
	f.points = []point{p}
	t.epochs = append(t.epochs, f)
}

// fold adds one reading to the epoch.
func (f *fold) fold(r *odometer.Reading, boot string, unwatched, rebooted bool) {
	last := f.last()
	n := *last
	n.devices = slices.Clone(last.devices)
	n.done = last.done[:len(last.done):len(last.done)]
	continued, born, had := 0, 0, len(last.devices) > 0
	var add [odometer.Quantities]uint64
	for _, c := range r.Counters {
		i := slices.IndexFunc(n.devices, func(d stretch) bool { return d.quantity == c.Quantity && d.device == c.Device })
		next := stretch{c.Quantity, c.Device, c.Incarnation, c.Value, c.Value}
		fromZero := func() {
			next.from = 0
			add[c.Quantity] += c.Value
			born++
		}
		switch {
		case i < 0:
			if c.Born || last.fresh {
				fromZero()
			}
			n.devices = append(n.devices, next)
			continue
		case n.devices[i].incarnation == c.Incarnation && c.Value >= n.devices[i].to:
			add[c.Quantity] += c.Value - n.devices[i].to
			next.from = n.devices[i].from
			continued++
		default:
			if c.Born {
				fromZero()
			}
			n.done = append(n.done, n.devices[i])
		}
		n.devices[i] = next
	}
	elapsed, down := r.At.Boot-last.at.Boot, int64(0)
	if rebooted {
		elapsed = max(r.At.Wall-last.label, r.At.Boot, 1)
		if born > 0 && continued == 0 && r.At.Boot > 0 {
			down, elapsed = elapsed-r.At.Boot, r.At.Boot
		}
	}
	time := odometer.MeasuredTime
	gap := unwatched && continued == 0 && born == 0 && len(r.Counters) > 0 && had
	switch {
	case gap:
		time, add = odometer.GapTime, [odometer.Quantities]uint64{}
		for i := range n.devices {
			n.devices[i].from = n.devices[i].to
		}
		// What had been counted of these devices ends where it stood.
		n.done = append(last.done[:len(last.done):len(last.done)], last.devices...)
	case unwatched:
		time = odometer.EstimatedTime
	}
	if down > 0 {
		g := *last
		g.raw[odometer.GapTime] = g.raw[odometer.GapTime].plus(wide{lo: uint64(down)})
		n.raw[odometer.GapTime] = g.raw[odometer.GapTime]
		g.label += down
		g.at, g.boot = odometer.Moment{Wall: g.label}, boot
		g.measure()
		f.points = append(f.points, g)
	}
	if !gap {
		g := last.gauges
		running, paused, stopped := last.state == odometer.Running, last.state == odometer.Paused, last.state == odometer.Stopped
		for _, k := range []struct {
			q  odometer.Quantity
			n  int64
			on bool
		}{
			{odometer.Memory, g.Memory, running || paused}, {odometer.MemoryAllocated, g.MemoryAllocated, running || paused},
			{odometer.Storage, g.Storage, running || paused || stopped}, {odometer.StorageProvisioned, g.StorageProvisioned, running || paused || stopped},
			{odometer.VCPU, g.VCPUs, running || paused}, {odometer.GPU, g.GPUs, running},
		} {
			if k.on && k.n > 0 {
				amount := product(uint64(k.n), uint64(elapsed))
				if k.q == odometer.GPU { // counted in nanoseconds here, as where a counter tells it
					amount = product(uint64(k.n)*1000, uint64(elapsed))
				}
				n.raw[k.q] = n.raw[k.q].plus(amount)
			}
		}
	}
	for q, a := range add {
		n.raw[q] = n.raw[q].plus(wide{lo: a})
	}
	n.raw[time] = n.raw[time].plus(wide{lo: uint64(elapsed)})
	n.label += down + elapsed
	n.at, n.boot, n.gauges, n.state = r.At, boot, r.Gauges, r.State
	if step := r.At.Wall - n.label; step > second || step < -second {
		n.label = r.At.Wall
	}
	n.fresh = false
	f.ended = r.Final
	n.measure()
	f.points = append(f.points, n)
}

// measure works out the odometer of the epoch.
func (p *point) measure() {
	for q := range p.vector {
		u := unit(odometer.Quantity(q))
		p.vector[q] = p.raw[q].div(u) - p.base[q].div(u)
	}
}

// Checkpoints implements the agent's spool.
func (s *shadow) Checkpoints() []json.RawMessage { return s.p.spool.Checkpoints() }

// Append implements the agent's spool: it checks what the agent says, and
// hands it on.
func (s *shadow) Append(rs []odometer.Record) error {
	for i := range rs {
		s.check(&rs[i])
	}
	err := s.p.spool.Append(rs)
	if err == nil {
		for i := range rs {
			s.p.w.truth.accepted(s.p.h, &rs[i])
			s.forget(&rs[i])
		}
	} else if errors.Is(err, odometer.ErrInvalid) {
		s.p.w.wrong("%s: the spool calls a record wrong: %v", s.p.h.id, err)
	}
	return err
}

// check compares one record with what the readings say.
func (s *shadow) check(r *odometer.Record) {
	w := s.p.w
	h := headOf(r.Checkpoint)
	t := s.instances[h.Instance]
	if t == nil {
		w.wrong("%s: a record of %s, which was never read", s.p.h.id, h.Instance)
		return
	}
	// The epochs of an instance come in order; the first record of each names it.
	var f *fold
	for _, c := range t.epochs {
		if c.epoch == "" {
			c.epoch = h.Epoch
		}
		if c.epoch == h.Epoch {
			f = c
			break
		}
	}
	if f == nil {
		w.wrong("%s: a record of %s in an epoch %s that no reading began", s.p.h.id, h.Instance, h.Epoch)
		return
	}
	e := r.Event
	if e == nil {
		i := slices.IndexFunc(f.points, func(p point) bool { return p.at == odometer.Moment{Boot: h.Boot, Wall: h.Wall} })
		if i < 0 {
			w.wrong("%s: a checkpoint of %s at a moment %d when there was no reading", s.p.h.id, h.Instance, h.Wall)
			return
		}
		w.truth.offered(s.p.h, f, &f.points[i], h)
		return
	}
	if e.Sequence <= f.sequence { // offered before, and not accepted then
		return
	}
	w.note("%s offers %s up to %d µs, cpu %d", s.p.h.id, e.ID(), e.Readings.End.Elapsed(), e.Readings.End.Vector[0])
	w.events++
	if e.FirstSequence > f.sequence+1 {
		w.wrong("%s: %s does not go on from sequence %d", s.p.h.id, e.ID(), f.sequence)
	}
	i := slices.IndexFunc(f.points, func(p point) bool { return p.vector.Elapsed() == e.Readings.End.Elapsed() })
	if i < 0 {
		w.wrong("%s: %s ends where there was no reading: %d µs after the epoch began", s.p.h.id, e.ID(), e.Readings.End.Elapsed())
		return
	}
	got, want := e.Readings.End.Vector, f.points[i].vector
	// Whether time was watched is the meter's and the agent's to say.
	for _, v := range []*odometer.Vector{&got, &want} {
		v[odometer.MeasuredTime] += v[odometer.EstimatedTime]
		v[odometer.EstimatedTime] = 0
	}
	if got != want {
		w.wrong("%s: %s ends at %v, the readings say %v", s.p.h.id, e.ID(), got, want)
	}
	f.sequence = e.Sequence
	w.truth.offered(s.p.h, f, &f.points[i], h)
}

// forget drops the points before the end of an event that is stored: nothing
// older is offered again.
func (s *shadow) forget(r *odometer.Record) {
	if r.Event == nil {
		return
	}
	h := headOf(r.Checkpoint)
	for _, f := range s.instances[h.Instance].epochs {
		if f.epoch != h.Epoch {
			continue
		}
		i := slices.IndexFunc(f.points, func(p point) bool { return p.vector.Elapsed() == r.Event.Readings.End.Elapsed() })
		f.points = slices.Delete(f.points, 0, max(i, 0))
	}
}
