package sampler

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// space is a network namespace in which interfaces of machines lie: the
// counters of all its interfaces, by one dump a sample.
type space struct {
	id    uint64 // its inode
	own   bool   // this process lives there
	users int    // interfaces of machines that are read here

	stats *statsSocket
	watch *linkWatch
	mark  func()
	saw   func(uint32, linkStats)
	ended func(linkInfo)

	links  map[uint32]*hostLink
	order  []*hostLink // as the last dump came to them, which the next will do again
	at     int         // in order
	turn   uint64      // counts dumps
	seen   int         // by this dump
	newest uint32      // the greatest index that was ever there, once a dump was complete
	whole  bool        // a dump was complete
	news   bool        // an interface came that no machine's was looked for since

	problem error  // of the last dump
	missed  mishap // messages that were lost
	deaf    bool   // some were since the last complete dump

	functions functions // of cards, passed on to machines; only of this process's own
}

// hostLink is an interface as the kernel counts it: the host's view.
type hostLink struct {
	index  uint32
	young  bool // made since this process looks, so that its count began at 0 then
	taken  bool // it was a machine's
	gone   bool // deleted; rx and tx are what it came to
	rx, tx uint64
	turn   uint64    // of the dump that had it last
	left   time.Time // when a dump first had it no more, while its end is not told; zero before

	function *function // a virtual function stands for it, see [functions]; nil for an interface
}

// nic is an interface of a machine.
type nic struct {
	// What every sample touches comes first, so that it lies close together.
	host   *hostLink // nil while there is none
	turn   bool      // what the host receives, the machine sent
	born   bool      // they count from 0 since the last reading
	search bool      // it is looked for in the next sample
	leaves bool      // the machine has it no more; it is told once more
	// What the machine received and sent, held through small steps back.
	in, out ratchet
	name    string // the incarnation: base, and "#n" behind it from the nth time on that the counters started anew
	def     odometer.NIC

	untold  uint64 // the dump after which the machine ended while its interface was being deleted
	space   *space // nil while it is not known where
	base    string // boot and index
	anew    int
	problem error
}

var (
	errNoInterface   = errors.New("it has no interface on the host that counts its bytes")
	errUnknownDriver = errors.New("whose view its counters are is not known")
)

// openSpace opens the namespace at path, or this process's own.
func openSpace(id uint64, own bool, path string, buf []byte) (*space, error) {
	sp := &space{id: id, own: own, links: map[uint32]*hostLink{}}
	sp.mark = func() { sp.turn, sp.seen, sp.at = sp.turn+1, 0, 0 }
	sp.saw = sp.sawLink
	sp.ended = sp.endLink
	open := func() (err error) {
		if sp.stats, err = openStats(); err != nil {
			return err
		}
		if buf != nil {
			sp.stats.buf = buf
		}
		sp.watch, err = openWatch(sp.stats.buf)
		return err
	}
	var err error
	if own {
		err = open()
	} else {
		err = withinNamespace(path, open)
	}
	if err != nil {
		sp.close()
		return nil, err
	}
	sp.read()
	return sp, nil
}

func (sp *space) close() {
	sp.functions.close()
	if sp.stats != nil {
		sp.stats.close()
	}
	if sp.watch != nil {
		sp.watch.close()
	}
}

func (sp *space) sawLink(index uint32, st linkStats) {
	l := sp.next(index)
	if l.turn != sp.turn {
		l.turn, l.left = sp.turn, time.Time{}
		sp.seen++
	}
	l.rx, l.tx = st.rxBytes, st.txBytes
}

// next returns the interface of an index that a dump has come to. Where it is the
// one that the dump before had here, which is nearly always, it need not be looked
// for.
func (sp *space) next(index uint32) *hostLink {
	i := sp.at
	sp.at++
	if i < len(sp.order) {
		if l := sp.order[i]; l.index == index && !l.gone {
			return l
		}
	} else {
		sp.order = append(sp.order, nil)
	}
	l := sp.links[index]
	if l == nil {
		l = &hostLink{index: index, young: sp.whole && index > sp.newest}
		sp.links[index] = l
		sp.news = true
	}
	sp.order[i] = l
	return l
}

// read dumps all counters.
func (sp *space) read() {
	sp.news = sp.functions.take() || sp.news
	if sp.problem = sp.stats.dump(sp.mark, sp.saw); sp.problem != nil {
		return
	}
	sp.settle()
}

// settle takes in that a dump was complete.
func (sp *space) settle() {
	clear(sp.order[sp.at:])
	sp.order = sp.order[:sp.at]
	if sp.whole && sp.seen == len(sp.links) && !sp.news {
		return
	}
	for index, l := range sp.links {
		sp.newest = max(sp.newest, index)
		switch {
		case l.turn == sp.turn:
		case !sp.deaf && l.left.IsZero():
			l.left = time.Now()
		case sp.deaf || time.Since(l.left) >= deletePatience:
			l.gone = true // its end was not told; this is what it last came to
			delete(sp.links, index)
		}
	}
	sp.whole, sp.deaf = true, false
}

// deletePatience is how long the kernel may take to tell of the end of an
// interface that it does not list any more. It tells it, with what the interface
// came to, when nothing can use that any more: some ten milliseconds later.
const deletePatience = 2 * time.Second

// drain takes in what was told since the last look.
func (sp *space) drain() {
	news, err := sp.watch.drain(sp.ended)
	sp.news = sp.news || news
	if err != nil {
		sp.missed = mishap{err, time.Now()}
		sp.news, sp.deaf = true, true
	}
}

// endLink takes in what a deleted interface came to.
func (sp *space) endLink(info linkInfo) {
	l := sp.links[info.index]
	if l == nil {
		return
	}
	l.rx, l.tx = max(l.rx, info.stats.rxBytes), max(l.tx, info.stats.txBytes)
	l.gone = true
	delete(sp.links, info.index)
}

// find looks for a machine's interface and makes n read it. fresh says that
// the machine's run began since its last reading and was not read before: then
// what was counted before the run began is its baseline.
func (sp *space) find(n *nic, bootID string, fresh bool) error {
	info, err := sp.stats.link(n.def.Link)
	if err != nil {
		return err
	}
	turn, err := viewOf(n.def.Kind, info.kind)
	if err != nil {
		return err
	}
	l := sp.links[info.index]
	if l == nil {
		l = &hostLink{index: info.index, turn: sp.turn, rx: info.stats.rxBytes, tx: info.stats.txBytes, young: sp.whole && info.index > sp.newest}
		sp.links[info.index] = l
		sp.seen++
	}
	zero := l.young && !l.taken || fresh && info.fleeting
	l.taken = true
	n.space, n.host, n.turn, n.anew = sp, l, turn, 0
	n.base = fmt.Sprintf("%s/if%d", bootID, info.index)
	if !sp.own {
		n.base = fmt.Sprintf("%s/net%d/if%d", bootID, sp.id, info.index)
	}
	n.name = n.base
	n.in, n.out = ratchet{}, ratchet{}
	if zero {
		n.in, n.out = ratchet{begun: true}, ratchet{begun: true}
	} else {
		n.take(l)
	}
	n.born = zero
	sp.users++
	return nil
}

// viewOf reports whether the counters of a host's interface are turned: what
// it receives, the machine sent. Of a tap they are. Of a macvtap, which is the
// machine's end of the wire itself, they are not. What drives the interface
// decides, and what the inventory says where that is something else.
func viewOf(kind odometer.NICKind, driver string) (turned bool, err error) {
	switch {
	case driver == "tun":
		return true, nil
	case driver == "macvtap" || driver == "ipvtap" || driver == "macvlan":
		return false, nil
	case kind == odometer.NICTap:
		return true, nil
	case kind == odometer.NICMacvtap:
		return false, nil
	}
	return false, errUnknownDriver
}

// take folds the host's counters in, as the machine sees them.
func (n *nic) take(l *hostLink) {
	in, out := l.rx, l.tx
	if n.turn {
		in, out = out, in
	}
	_, inAnew := n.in.fold(in, deviceWobble)
	_, outAnew := n.out.fold(out, deviceWobble)
	if inAnew || outAnew {
		n.anew++
		n.name = fmt.Sprintf("%s#%d", n.base, n.anew)
	}
}

// told reports whether it is known what the interface came to of a machine
// that ended while it was being deleted.
func (n *nic) told() bool { return n.host.gone || n.host.turn > n.untold }

// drop makes n read nothing.
func (n *nic) drop() {
	if n.host != nil {
		n.space.users--
		if f := n.host.function; f != nil {
			f.users--
		}
	}
	n.space, n.host = nil, nil
}

// append adds the counters of an interface.
func (n *nic) append(to []odometer.Counter, born bool) []odometer.Counter {
	return append(to,
		odometer.Counter{Quantity: odometer.NetworkIngress, Device: n.def.Name, Incarnation: n.name, Value: n.in.max, Born: born},
		odometer.Counter{Quantity: odometer.NetworkEgress, Device: n.def.Name, Incarnation: n.name, Value: n.out.max, Born: born})
}

// findNIC looks for an interface where the machine's process lives and then
// where this one does.
func (s *VMs) findNIC(r *run, n *nic, fresh bool) {
	n.search = false
	err := errNoInterface
	if n.def.Kind == odometer.NICDirect && n.def.Address != "" {
		err = s.findFunction(r, n)
	} else if n.def.Link != "" && n.def.Kind != odometer.NICUser && n.def.Kind != odometer.NICVhost {
		for _, where := range [...]string{filepath.Join("/proc", strconv.Itoa(r.pid), "ns/net"), selfNamespace} {
			var sp *space
			if sp, err = s.space(where); err == nil {
				if err = sp.find(n, s.bootID, fresh); err == nil || !errors.Is(err, unix.ENODEV) {
					break
				}
			}
			if sp != nil && sp.own {
				break
			}
		}
	}
	s.note(&n.problem, r.instance, n.def.Name, err)
}

// selfNamespace is the network namespace of the process, whatever thread asks.
const selfNamespace = "/proc/self/ns/net"

// space returns the namespace at path, which it opens where no machine has an
// interface in it yet.
func (s *VMs) space(path string) (*space, error) {
	if !s.host {
		return nil, errNoInterface
	}
	id, err := namespaceOf(path)
	if err != nil {
		return nil, err
	}
	if sp := s.spaces[id]; sp != nil {
		return sp, nil
	}
	var buf []byte
	for _, other := range s.spaces {
		buf = other.stats.buf // one is enough, since they are read in turn
	}
	sp, err := openSpace(id, path == selfNamespace || id == s.ownSpace, path, buf)
	if err != nil {
		return nil, err
	}
	sp.functions = functions{devices: filepath.Join(s.root, "sys/bus/pci/devices"), ask: askFunctions}
	s.spaces[id] = sp
	s.order = append(s.order, sp)
	return sp, nil
}

// leaveSpaces closes the namespaces in which no machine has an interface any
// more: an open socket would keep one alive.
func (s *VMs) leaveSpaces() {
	keep := s.order[:0]
	for _, sp := range s.order {
		sp.functions.leave(s.hasFunction)
		if sp.own || sp.users > 0 {
			keep = append(keep, sp)
			continue
		}
		sp.close()
		delete(s.spaces, sp.id)
	}
	clear(s.order[len(keep):])
	s.order = keep
}

// hasFunction reports whether a machine that runs has the virtual function.
func (s *VMs) hasFunction(address string) bool {
	return slices.ContainsFunc(s.list, func(v *vm) bool {
		return v.run != nil && slices.ContainsFunc(v.run.nics, func(n nic) bool { return n.def.Address == address })
	})
}
