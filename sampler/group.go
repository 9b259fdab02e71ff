package sampler

import (
	"fmt"
	"strings"

	"example.org/odometer"
)

// deviceWobble is how far a device's byte counter may step back without having
// started anew: drivers sum them over queues that go on counting.
const deviceWobble = 1 << 20

// device is a disk or a network interface that counts. In is what the machine
// read or received, out what it wrote or sent, in bytes.
type device struct {
	name string
	// incarnation is the boot and seq, and "#n" behind it from the nth time
	// on that the counters started anew in the same incarnation.
	incarnation string
	base        string
	generation  int
	seq         uint64 // diskseq or ifindex: grows with every device the kernel makes; 0 unknown

	// This sample.
	seen    bool
	in, out uint64

	// The previous reading.
	told            bool // it had this device
	rawIn, rawOut   uint64
	lastIn, lastOut ratchet // what it said

	// Of a device that no reading has had yet.
	fresh bool
	young bool // its seq was above all that were there before
	// What the previous reading counted under the same name for another
	// device. Where this one's counters are not below, they may be what that
	// reading counted.
	heir            bool
	heirIn, heirOut uint64
}

// group is all the devices of one kind: those that count, and the names of the
// others, so that a new one is noticed by being neither.
type group struct {
	list    []device
	byName  map[string]int // index in list, -1 where it does not count
	bySeq   map[uint32]int // the same for interfaces
	maxSeq  uint64         // the greatest that was ever there
	news    bool           // this sample saw a device that no scan did
	problem error          // why the last scan found none
	second  bool           // names that even a scan does not know do not count
}

// begin starts one look at all counters.
func (g *group) begin() {
	g.news = false
	for i := range g.list {
		g.list[i].seen = false
	}
}

func (g *group) sawName(name []byte, in, out uint64) {
	i, known := g.byName[string(name)]
	switch {
	case !known && g.second:
		g.byName[string(name)] = -1
	case !known:
		g.news = true
	case i >= 0:
		g.saw(&g.list[i], in, out)
	}
}

func (g *group) sawSeq(seq uint32, in, out uint64) {
	i, known := g.bySeq[seq]
	switch {
	case !known && g.second:
		g.bySeq[seq] = -1
	case !known:
		g.news = true
	case i >= 0:
		g.saw(&g.list[i], in, out)
	}
}

func (g *group) saw(d *device, in, out uint64) {
	d.seen, d.in, d.out = true, in, out
	if d.told && (in+deviceWobble < d.lastIn.max || out+deviceWobble < d.lastOut.max) {
		g.news = true // perhaps another under the same name
	}
}

// changed reports whether this look calls for a scan: something came, went or
// counts from a new start.
func (g *group) changed() bool {
	if !g.news {
		for i := range g.list {
			g.news = g.news || g.list[i].told && !g.list[i].seen
		}
	}
	g.second = g.news // the look after the scan is final
	return g.news
}

// settle ends the looks of one sample.
func (g *group) settle() { g.second = false }

func (g *group) any() bool {
	for i := range g.list {
		if g.list[i].seen {
			return true
		}
	}
	return false
}

// found is a device as a scan found it.
type found struct {
	name   string
	seq    uint64
	counts bool
}

// replace takes over what a scan found. Devices that are still the same keep
// what is known of them.
func (g *group) replace(bootID string, all []found) {
	old, oldByName := g.list, g.byName
	maxSeq := g.maxSeq
	g.list, g.byName, g.bySeq = nil, make(map[string]int, len(all)), make(map[uint32]int, len(all))
	for _, f := range all {
		g.maxSeq = max(g.maxSeq, f.seq)
		if !f.counts {
			g.byName[f.name], g.bySeq[uint32(f.seq)] = -1, -1
			continue
		}
		base := bootID
		if f.seq > 0 {
			base = fmt.Sprintf("%s/%d", bootID, f.seq)
		}
		d := device{name: f.name, incarnation: base, base: base, seq: f.seq, fresh: true, young: f.seq > maxSeq}
		if i, ok := oldByName[f.name]; ok && i >= 0 {
			switch o := old[i]; {
			case o.base == base:
				d = o
			case o.told:
				d.heir, d.heirIn, d.heirOut = true, o.rawIn, o.rawOut
			}
		}
		g.byName[f.name], g.bySeq[uint32(f.seq)] = len(g.list), len(g.list)
		g.list = append(g.list, d)
	}
	// Names that scans do not find but counters have, such as partitions.
	for name, i := range oldByName {
		if _, ok := g.byName[name]; !ok && i < 0 {
			g.byName[name] = -1
		}
	}
}

// emit appends the counters of every device that was seen.
//
// A device is born when it came into being since the previous reading: the
// kernel made it after all others, and no earlier reading can have had its
// counts under its predecessor's name. Everything else that appears (an
// interface moved in from another namespace, one that left a bond, the first
// sample's) is merely new to us, and its count so far is not usage.
func (g *group) emit(to []odometer.Counter, in, out odometer.Quantity, sampled bool) []odometer.Counter {
	for i := range g.list {
		d := &g.list[i]
		if !d.seen {
			d.told = false
			continue
		}
		born := d.fresh && sampled && d.young && (!d.heir || d.in < d.heirIn || d.out < d.heirOut)
		d.fresh, d.told, d.rawIn, d.rawOut = false, true, d.in, d.out
		inValue, inAnew := d.lastIn.fold(d.in, deviceWobble)
		outValue, outAnew := d.lastOut.fold(d.out, deviceWobble)
		if inAnew || outAnew {
			d.generation++
			d.incarnation = fmt.Sprintf("%s#%d", d.base, d.generation)
		}
		to = append(to,
			odometer.Counter{Quantity: in, Device: d.name, Incarnation: d.incarnation, Value: inValue, Born: born},
			odometer.Counter{Quantity: out, Device: d.name, Incarnation: d.incarnation, Value: outValue, Born: born})
	}
	return to
}

// names lists the devices that count.
func (g *group) names() string {
	list := make([]string, len(g.list))
	for i := range g.list {
		list[i] = g.list[i].name
	}
	return strings.Join(list, ", ")
}
