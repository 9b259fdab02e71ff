package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// functionsEvery is how often a card is asked for the counters of its virtual
// functions. Some drivers ask the card's firmware for each of them, which takes
// a while, and so no sample does.
const functionsEvery = 10 * time.Second

// functions are virtual functions of network cards (SR-IOV) that are passed on
// to machines: they have no interface on the host, but the interface of the
// physical function may count for them. Each card has a goroutine that asks.
//
// The counters are the function's own view, and with that the machine's. A
// driver that counts nothing is told by the kernel as one that counted 0, so
// that a function has no counters before one of them is greater.
type functions struct {
	devices string // where sysfs has the PCI devices
	ask     functionStats
	cards   map[string]*card     // by interface of the physical function
	all     map[string]*function // by PCI address
}

// functionStats asks for the counters of all functions of an interface.
type functionStats func(link string, each func(number uint32, st linkStats)) error

// card is an interface whose functions machines have.
type card struct {
	link string
	kick chan struct{} // capacity 1; closed when it is not asked any more

	mu      sync.Mutex
	list    []*function
	problem error // of the last question
}

// function is a virtual function that a machine has.
type function struct {
	address string
	number  uint32
	card    *card
	host    hostLink
	users   int // interfaces of machines that read it

	// Written by the card's goroutine.
	rx, tx  atomic.Uint64
	told    atomic.Bool // they are counters
	fromNil atomic.Bool // and began at 0 since this process looks
	looked  bool

	seen bool // that it was told was seen by a sample
}

// errUncounted says that nobody counts for a function, or nothing passed it.
var errUncounted = errors.New("its card's driver has counted nothing for it")

// findFunction makes n read a virtual function. It is looked for in this
// process's namespace, where the physical function's interface is.
func (s *VMs) findFunction(r *run, n *nic) error {
	sp, err := s.space(selfNamespace)
	if err != nil {
		return err
	}
	f, err := sp.functions.find(n.def.Address)
	if err != nil {
		return err
	}
	if !f.told.Load() {
		return errUncounted
	}
	// A function is set back when a machine gets it, at a moment that is not
	// told: each run counts for itself.
	n.base = fmt.Sprintf("%s/%s/vf%d/%s", s.bootID, f.card.link, f.number, r.name)
	n.space, n.host, n.turn, n.anew, n.name = sp, &f.host, false, 0, n.base
	f.host.rx, f.host.tx = f.rx.Load(), f.tx.Load()
	n.in, n.out = ratchet{}, ratchet{}
	n.born = f.fromNil.Swap(false)
	if n.born {
		n.in, n.out = ratchet{begun: true}, ratchet{begun: true}
	}
	n.take(&f.host)
	f.users++
	sp.users++
	return nil
}

// find returns the function at a PCI address, which is asked about from now on.
func (fs *functions) find(address string) (*function, error) {
	if f := fs.all[address]; f != nil {
		return f, nil
	}
	link, number, err := functionOf(fs.devices, address)
	if err != nil {
		return nil, err
	}
	if fs.all == nil {
		fs.all, fs.cards = map[string]*function{}, map[string]*card{}
	}
	c := fs.cards[link]
	if c == nil {
		c = &card{link: link, kick: make(chan struct{}, 1)}
		fs.cards[link] = c
		go c.serve(fs.ask)
	}
	f := &function{address: address, number: number, card: c}
	f.host.function = f
	fs.all[address] = f
	c.mu.Lock()
	c.list = append(c.list, f)
	c.mu.Unlock()
	c.again()
	return f, nil
}

// functionOf returns of which interface's functions a PCI device is one, and
// which: sysfs links each function to its physical one and back, "virtfn3".
func functionOf(devices, address string) (link string, number uint32, err error) {
	physical := filepath.Join(devices, address, "physfn")
	if !there(physical) {
		return "", 0, errNoInterface // it was passed on whole
	}
	list, err := names(physical)
	if err != nil {
		return "", 0, err
	}
	found := false
	for _, name := range list {
		index, ok := strings.CutPrefix(name, "virtfn")
		n, err := strconv.ParseUint(index, 10, 16)
		if !ok || err != nil {
			continue
		}
		if to, err := filepath.EvalSymlinks(filepath.Join(physical, name)); err == nil && filepath.Base(to) == address {
			number, found = uint32(n), true
		}
	}
	links, err := names(filepath.Join(physical, "net"))
	if !found || len(links) == 0 || errors.Is(err, fs.ErrNotExist) {
		return "", 0, fmt.Errorf("%w: its physical function has none here", errNoInterface)
	}
	return links[0], number, err
}

// take has what the cards last said seen by the sample that follows, and reports
// whether there is news: that a function is counted for.
func (fs *functions) take() (news bool) {
	for _, f := range fs.all {
		f.host.rx, f.host.tx = f.rx.Load(), f.tx.Load()
		if !f.seen && f.told.Load() {
			f.seen, news = true, true
		}
	}
	return news
}

// leave forgets the functions that no machine has.
func (fs *functions) leave(wanted func(address string) bool) {
	for address, f := range fs.all {
		if f.users > 0 || wanted(address) {
			continue
		}
		delete(fs.all, address)
		c := f.card
		c.mu.Lock()
		for i := range c.list {
			if c.list[i] == f {
				c.list = append(c.list[:i:i], c.list[i+1:]...)
				break
			}
		}
		rest := len(c.list)
		c.mu.Unlock()
		if rest == 0 {
			close(c.kick)
			delete(fs.cards, c.link)
		}
	}
}

// problem says which cards did not answer the last time, nil for none.
func (fs *functions) problem() error {
	var list []error
	for _, c := range fs.cards {
		c.mu.Lock()
		if c.problem != nil {
			list = append(list, fmt.Errorf("the functions of %s: %w", c.link, c.problem))
		}
		c.mu.Unlock()
	}
	return errors.Join(list...)
}

func (fs *functions) close() {
	for _, c := range fs.cards {
		close(c.kick)
	}
	fs.cards, fs.all = nil, nil
}

// again asks the card soon.
func (c *card) again() {
	select {
	case c.kick <- struct{}{}:
	default: // it is going to be asked
	}
}

// serve asks until it is not wanted any more.
func (c *card) serve(ask functionStats) {
	tick := time.NewTicker(functionsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case _, wanted := <-c.kick:
			if !wanted {
				return
			}
		}
		all := map[uint32]linkStats{}
		err := ask(c.link, func(number uint32, st linkStats) { all[number] = st })
		c.mu.Lock()
		c.problem = err
		list := c.list
		c.mu.Unlock()
		for _, f := range list {
			if st, ok := all[f.number]; ok {
				f.see(st)
			}
		}
	}
}

// see takes in what a function's counters are.
func (f *function) see(st linkStats) {
	f.rx.Store(st.rxBytes)
	f.tx.Store(st.txBytes)
	if (st.rxBytes > 0 || st.txBytes > 0) && !f.told.Load() {
		f.fromNil.Store(f.looked)
		f.told.Store(true)
	}
	f.looked = true
}

// functionsBuffer holds the answer about a card with 256 functions.
const functionsBuffer = 256 << 10

// askFunctions asks rtnetlink.
func askFunctions(link string, each func(uint32, linkStats)) error {
	s, err := openStats()
	if err != nil {
		return err
	}
	defer s.close()
	s.buf = make([]byte, functionsBuffer)
	const withFunctions = 1 << 0 // RTEXT_FILTER_VF
	payload, err := s.linkMessage(link, withFunctions)
	if err != nil {
		return err
	}
	return walkFunctions(payload, each)
}

// walkFunctions goes through the virtual functions in the payload of an
// RTM_NEWLINK message, see linux/if_link.h: IFLA_VFINFO_LIST has an IFLA_VF_INFO
// for each, whose attributes begin with its number.
func walkFunctions(b []byte, each func(uint32, linkStats)) error {
	if len(b) < unix.SizeofIfInfomsg {
		return errNetlink
	}
	list, ok := attributeOf(b[unix.SizeofIfInfomsg:], unix.IFLA_VFINFO_LIST)
	if !ok {
		return errUncounted
	}
	for {
		kind, info, rest, ok := cutAttribute(list)
		if !ok {
			break
		}
		list = rest
		mac, hasNumber := attributeOf(info, unix.IFLA_VF_MAC)
		stats, hasStats := attributeOf(info, unix.IFLA_VF_STATS)
		rx, hasRx := attributeOf(stats, unix.IFLA_VF_STATS_RX_BYTES)
		tx, hasTx := attributeOf(stats, unix.IFLA_VF_STATS_TX_BYTES)
		if kind != unix.IFLA_VF_INFO || !hasNumber || !hasStats || !hasRx || !hasTx || len(mac) < 4 || len(rx) < 8 || len(tx) < 8 {
			continue
		}
		each(binary.NativeEndian.Uint32(mac), linkStats{rxBytes: binary.NativeEndian.Uint64(rx), txBytes: binary.NativeEndian.Uint64(tx)})
	}
	return nil
}

// attributeOf returns the value of the first netlink attribute of a type in b.
func attributeOf(b []byte, kind uint16) ([]byte, bool) {
	for {
		k, v, rest, ok := cutAttribute(b)
		if !ok {
			return nil, false
		}
		if k == kind {
			return v, true
		}
		b = rest
	}
}
