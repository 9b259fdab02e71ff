package main

import (
	"cmp"
	"slices"

	"example.org/odometer"
)

// truth is what the simulator knows of everything that was measured: every
// state that an agent has told, with the stretches of the counters that it is
// made of, and how far each counter was read.
type truth struct {
	w      *world
	states map[stateKey][]*state
	// last is how far each incarnation of a counter was read, and by whom.
	last map[string]*sight
	// kept is the last sequence of each epoch that a spool has accepted, on a
	// disk that is still there.
	kept map[odometer.Epoch]*kept
	// amnesia is which instances some agent had to begin anew with, because it
	// had lost its disk and nobody remembered.
	amnesia map[odometer.InstanceID]bool
	gone    map[string]bool // incarnations that have ended
	// doubtful is which instances have events in quarantine for the rot of a
	// disk: what is missing of them lies there.
	doubtful map[odometer.InstanceID]bool
	reversed decisions
	// adopted are the epochs that an agent which had lost its disk went on from.
	adopted map[odometer.Epoch]bool
}

type stateKey struct {
	epoch    odometer.Epoch
	sequence uint64
}

type state struct {
	head head
	fold fold
	point
}

type sight struct {
	v        *vm
	quantity odometer.Quantity
	value    uint64
	by       *process
	lost     bool // by was killed before anybody read it again
	// whole says that the process that saw it begin lived on to say so.
	whole bool
	first *process
}

type kept struct {
	host     *host
	instance odometer.InstanceID
	sequence uint64
	vector   odometer.Vector
}

func newTruth(w *world) *truth {
	return &truth{
		w: w, states: map[stateKey][]*state{}, last: map[string]*sight{}, kept: map[odometer.Epoch]*kept{},
		amnesia: map[odometer.InstanceID]bool{}, gone: map[string]bool{}, doubtful: map[odometer.InstanceID]bool{},
		reversed: newDecisions(), adopted: map[odometer.Epoch]bool{},
	}
}

// saw notes how far counters were read.
func (t *truth) saw(p *process, r *odometer.Reading) {
	for i := range r.Counters {
		c := &r.Counters[i]
		s := t.last[c.Incarnation]
		if s == nil {
			s = &sight{quantity: c.Quantity, first: p, whole: c.Born || p.source.began == r.Instance}
			t.last[c.Incarnation] = s
			i := slices.IndexFunc(t.w.vms, func(v *vm) bool { return v.id == r.Instance })
			s.v = t.w.vms[i]
		}
		s.value, s.by, s.lost = c.Value, p, false
	}
}

// died notes that what a process read last may be lost.
func (t *truth) died(p *process) {
	for _, s := range t.last {
		if s.by == p {
			s.lost = true
		}
		if s.first == p {
			s.whole = false
		}
	}
}

// stopped notes the same of a process that ended and could not store its last
// records.
func (t *truth) stopped(p *process) {
	if p.agent.Live().Pending > 0 {
		t.died(p)
	}
}

// ended and endedAll note that incarnations count no more.
func (t *truth) ended(_ *vm, d *device) { t.gone[d.incarnation] = true }

func (t *truth) endedAll(v *vm) {
	for _, d := range v.devices {
		t.ended(v, d)
	}
}

// forgotten notes that an agent begins anew.
func (t *truth) forgotten(h *host) {
	for _, s := range t.last {
		if s.by.h == h {
			t.amnesia[s.v.id] = true
		}
	}
}

// offered keeps a state that an agent tells.
func (t *truth) offered(_ *host, f *fold, p *point, h head) {
	k := stateKey{h.Epoch, h.Sequence}
	t.states[k] = append(t.states[k], &state{head: h, fold: *f, point: *p})
}

// recall returns the fold as it was when a checkpoint was made.
func (t *truth) recall(_ *host, h head) *fold {
	for _, s := range t.states[stateKey{h.Epoch, h.Sequence}] {
		if s.head == h {
			f := s.fold
			f.ended = h.Ended
			f.points = []point{s.point}
			return &f
		}
	}
	return nil
}

// accepted notes what a spool has taken.
func (t *truth) accepted(h *host, r *odometer.Record) {
	if e := r.Event; e != nil {
		t.kept[e.Epoch] = &kept{h, e.Instance, e.Sequence, e.Readings.End.Vector}
	}
}

// diskLost forgets what was accepted on a disk that is gone.
func (t *truth) diskLost(h *host) {
	for e, k := range t.kept {
		if k.host == h {
			delete(t.kept, e)
		}
	}
	for _, s := range t.last {
		if s.by.h == h {
			s.lost, s.whole = true, false
		}
	}
}

// booked is what the ledger has of one epoch.
type booked struct {
	instance odometer.InstanceID
	sequence uint64
	sum      odometer.Vector // received
	net      odometer.Vector // less what was reversed
}

// check compares the ledger's entries with the truth: each epoch's sum is a
// state that an agent has told, and no earlier one than its spool had
// accepted; each counter's life is covered once and up to its last reading.
func (t *truth) check(ledger map[odometer.Epoch]*booked) {
	w := t.w
	for _, epoch := range sorted(t.kept) {
		k, b := t.kept[epoch], ledger[epoch]
		if (b == nil || b.sequence < k.sequence) && !t.doubtful[k.instance] {
			has := uint64(0)
			if b != nil {
				has = b.sequence
			}
			w.wrong("%s of %s: the spool accepted sequence %d, the ledger has %d", epoch, k.host.id, k.sequence, has)
		}
	}
	parts := map[string][]stretch{}
	for _, epoch := range sorted(ledger) {
		b := ledger[epoch]
		if w.old.told(b.instance) {
			continue
		}
		var found *state
		for _, s := range t.states[stateKey{epoch, b.sequence}] {
			got, want := b.sum, s.vector
			for _, v := range []*odometer.Vector{&got, &want} {
				v[odometer.MeasuredTime] += v[odometer.EstimatedTime]
				v[odometer.EstimatedTime] = 0
			}
			if got == want {
				found = s
			}
		}
		if found == nil {
			w.wrong("%s of %s: the ledger has %v up to sequence %d, which no reading says", epoch, b.instance, b.sum, b.sequence)
			for _, s := range t.states[stateKey{epoch, b.sequence}] {
				w.note("the readings say %v", s.vector)
			}
			continue
		}
		for _, s := range slices.Concat(found.done, found.devices) {
			parts[s.incarnation] = append(parts[s.incarnation], s)
		}
	}
	for _, incarnation := range sorted(t.last) {
		t.cover(incarnation, t.last[incarnation], parts[incarnation])
	}
}

// cover checks that the life of one counter is booked once, as far as anybody
// could know it.
func (t *truth) cover(incarnation string, s *sight, parts []stretch) {
	w := t.w
	slices.SortFunc(parts, func(a, b stretch) int { return cmp.Or(cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to)) })
	for i := 1; i < len(parts); i++ {
		switch a, b := parts[i-1], parts[i]; {
		case b.from < a.to:
			w.wrong("%s: %d to %d is counted twice", incarnation, b.from, min(a.to, b.to))
		case b.from > a.to && !t.excused(s.v):
			w.wrong("%s: %d to %d is not counted", incarnation, a.to, b.from)
		}
	}
	if len(parts) == 0 {
		return // read once, or by a process that did not live to say so
	}
	if s.whole && parts[0].from > 0 {
		w.wrong("%s: it was seen to begin, and is counted from %d on", incarnation, parts[0].from)
	}
	end := parts[len(parts)-1].to
	if end < s.value && !(s.lost && t.gone[incarnation]) && !t.doubtful[s.v.id] {
		w.wrong("%s: counted up to %d, it was read at %d", incarnation, end, s.value)
		w.note("it is counted in %v", parts)
	}
}

// excused reports whether some of an instance may be unknown: an agent that
// had lost its disk could ask nobody.
func (t *truth) excused(v *vm) bool { return t.amnesia[v.id] }

func sorted[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
