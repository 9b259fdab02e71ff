package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// fakeCards answers for cards; see [functionStats].
type fakeCards struct {
	mu    sync.Mutex
	stats map[uint32]linkStats
	err   error
	asked int
}

func (f *fakeCards) set(number uint32, rx, tx uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats[number] = linkStats{rxBytes: rx, txBytes: tx}
}

func (f *fakeCards) ask(link string, each func(uint32, linkStats)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.asked++
	if link != "eth7" {
		return errors.New("asked for " + link)
	}
	for number, st := range maps.Clone(f.stats) {
		each(number, st)
	}
	return f.err
}

// TestVMFunctions has machines with virtual functions of a card, on a fixture
// of sysfs and of what the card says: no card that has any is needed.
func TestVMFunctions(t *testing.T) {
	needRoot(t)
	devices := t.TempDir()
	link := func(name, to string) {
		t.Helper()
		name = filepath.Join(devices, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.Symlink(to, name)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 3 {
		link(fmt.Sprintf("0000:3b:00.0/virtfn%d", i), fmt.Sprintf("../0000:3b:02.%d", i))
		link(fmt.Sprintf("0000:3b:02.%d/physfn", i), "../0000:3b:00.0")
	}
	link("0000:3b:00.0/net/eth7", "nowhere")
	link("0000:3b:02.7/physfn", "../0000:3b:00.0") // which does not know it
	link("0000:5e:00.0/virtfn0", "../0000:5e:00.1")
	link("0000:5e:00.1/physfn", "../0000:5e:00.0") // has no interface
	link("0000:5f:00.0/net/eth9", "nowhere")       // is passed on whole
	link("0000:60:00.1/physfn", "../0000:60:00.0") // which is gone

	cards := &fakeCards{stats: map[uint32]linkStats{0: {}, 1: {rxBytes: 1000, txBytes: 2000}}}
	s := openVMs(t)
	own := s.spaces[s.ownSpace]
	own.functions = functions{devices: devices, ask: cards.ask}
	direct := func(names ...string) func(*odometer.VM) {
		return func(v *odometer.VM) {
			for _, address := range names {
				v.NICs = append(v.NICs, odometer.NIC{Name: address[5:], Kind: odometer.NICDirect, Address: address})
			}
		}
	}
	g := startGuest(t, 0)
	all := []string{"0000:3b:02.0", "0000:3b:02.1", "0000:3b:02.2", "0000:3b:02.7", "0000:5e:00.1", "0000:5f:00.0", "0000:60:00.1"}
	s.Update([]odometer.VM{machineOf(g, "vm-1", direct(all...))})
	// ask has the card asked, and its answer taken in.
	ask := func() {
		t.Helper()
		before := func() int { cards.mu.Lock(); defer cards.mu.Unlock(); return cards.asked }()
		own.functions.cards["eth7"].again()
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			cards.mu.Lock()
			asked := cards.asked
			cards.mu.Unlock()
			c := own.functions.cards["eth7"]
			if asked > before {
				c.again() // the next question begins when this one's answer was taken in
				if asked > before+1 {
					return
				}
			}
			if time.Now().After(end) {
				t.Fatal("the card was not asked")
			}
		}
	}
	is := func(what string, r odometer.Reading, device string, in, out uint64, born bool) {
		t.Helper()
		rx, tx := counter(r, odometer.NetworkIngress, device), counter(r, odometer.NetworkEgress, device)
		if rx.Value != in || tx.Value != out || rx.Born != born || tx.Born != born || rx.Incarnation == "" {
			t.Errorf("%s: got %+v and %+v, want %d in, %d out, born %v", what, rx, tx, in, out, born)
		}
	}
	last := func() odometer.Reading {
		t.Helper()
		list := readings(t, s)
		return list[len(list)-1]
	}
	ask()
	r := last()
	is("as it was found, in its own view", r, "3b:02.1", 1000, 2000, false)
	for _, device := range []string{"3b:02.0", "3b:02.2", "3b:02.7", "5e:00.1", "5f:00.0"} {
		if c := counter(r, odometer.NetworkIngress, device); c.Incarnation != "" {
			t.Errorf("%s: got %+v, want nothing", device, c)
		}
	}
	said := problemsOf(s)
	for device, want := range map[string]error{"3b:02.0": errUncounted, "3b:02.2": errUncounted, "3b:02.7": errNoInterface, "5e:00.1": errNoInterface, "5f:00.0": errNoInterface} {
		if err := said[device]; !errors.Is(err, want) {
			t.Errorf("%s: got problem %v, want %v", device, err, want)
		}
	}
	if err := said["60:00.1"]; err == nil {
		t.Error("a function whose card is gone has no problem")
	}

	cards.set(0, 70, 50)
	cards.set(1, 1_500_000, 2_600_000)
	ask()
	r = last()
	is("it had counted 0 before", r, "3b:02.0", 70, 50, true)
	is("more", r, "3b:02.1", 1_500_000, 2_600_000, false)
	is("it is told once that it began at 0", last(), "3b:02.0", 70, 50, false)
	before := counter(r, odometer.NetworkIngress, "3b:02.1").Incarnation
	cards.set(1, 5, 2_600_001)
	ask()
	r = last()
	is("the function was set back", r, "3b:02.1", 5, 2_600_001, false)
	if now := counter(r, odometer.NetworkIngress, "3b:02.1").Incarnation; now == before {
		t.Error("the function was set back, and counts on under the same name")
	}
	cards.mu.Lock()
	cards.err = errors.New("the firmware is busy")
	cards.mu.Unlock()
	ask()
	if p := problemOf(s, "network"); !strings.Contains(p, "the functions of eth7: the firmware is busy") && !strings.Contains(p, "more") {
		t.Errorf("got problem %q", p)
	}

	s.Update([]odometer.VM{machineOf(g, "vm-1", direct("0000:3b:02.0"))})
	last()
	last()
	g.kill()
	eventuallyEnded(t, s)
	if n := len(own.functions.all) + len(own.functions.cards); n != 0 {
		t.Errorf("%d functions and cards are asked about when nobody has them", n)
	}
}

func problemsOf(s *VMs) map[string]error {
	all := map[string]error{}
	for _, n := range runOf(s).nics {
		all[n.def.Name] = n.problem
	}
	return all
}

// TestViewOf is whose view the counters of an interface are, by what drives it
// and what the inventory says.
func TestViewOf(t *testing.T) {
	for _, c := range []struct {
		what   string
		kind   odometer.NICKind
		driver string
		turned bool
		err    error
	}{
		{"a tap, on a bridge or in Open vSwitch", odometer.NICTap, "tun", true, nil},
		{"a tap of which the inventory knows nothing", odometer.NICUnknown, "tun", true, nil},
		{"a tap that the inventory takes for a macvtap", odometer.NICMacvtap, "tun", true, nil},
		{"an internal port of Open vSwitch that the machine has for a tap", odometer.NICTap, "openvswitch", true, nil},
		{"a macvtap", odometer.NICMacvtap, "macvtap", false, nil},
		{"an ipvtap", odometer.NICUnknown, "ipvtap", false, nil},
		{"a macvlan of a container that has a machine", odometer.NICTap, "macvlan", false, nil},
		{"hardware that the inventory takes for a macvtap", odometer.NICMacvtap, "", false, nil},
		{"an internal port of Open vSwitch of which the inventory knows nothing", odometer.NICUnknown, "openvswitch", false, errUnknownDriver},
		{"hardware", odometer.NICUnknown, "", false, errUnknownDriver},
		{"one end of a pair", odometer.NICUnknown, "veth", false, errUnknownDriver},
	} {
		if turned, err := viewOf(c.kind, c.driver); turned != c.turned || err != c.err {
			t.Errorf("%s: got turned %v, %v; want %v, %v", c.what, turned, err, c.turned, c.err)
		}
	}
}

func TestWalkFunctions(t *testing.T) {
	u32 := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	u64 := func(n uint64) []byte { return binary.NativeEndian.AppendUint64(nil, n) }
	info := func(number uint32, stats ...[]byte) []byte {
		var b []byte
		for _, st := range stats {
			b = append(b, st...)
		}
		return attribute(unix.IFLA_VF_INFO, append(attribute(unix.IFLA_VF_MAC, append(u32(number), make([]byte, 32)...)), attribute(unix.IFLA_VF_STATS|unix.NLA_F_NESTED, b)...))
	}
	rx, tx := attribute(unix.IFLA_VF_STATS_RX_BYTES, u64(11)), attribute(unix.IFLA_VF_STATS_TX_BYTES, u64(12))
	packets := attribute(unix.IFLA_VF_STATS_RX_PACKETS, u64(9))
	message := func(list ...[]byte) []byte {
		b := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, []byte("eth7\x00"))...)
		var all []byte
		for _, l := range list {
			all = append(all, l...)
		}
		return append(b, attribute(unix.IFLA_VFINFO_LIST|unix.NLA_F_NESTED, all)...)
	}
	for _, c := range []struct {
		name    string
		message []byte
		want    string
		err     error
	}{
		{"two functions", message(info(0, packets, rx, tx), info(7, rx, tx)), "0: 11 12, 7: 11 12, ", nil},
		{"one without counters", message(info(0), info(1, rx), info(2, rx, tx), attribute(9, nil)), "2: 11 12, ", nil},
		{"a counter of four bytes", message(info(0, attribute(unix.IFLA_VF_STATS_RX_BYTES, u32(1)), tx)), "", nil},
		{"no function", make([]byte, unix.SizeofIfInfomsg), "", errUncounted},
		{"cut short", make([]byte, 3), "", errNetlink},
	} {
		got := ""
		err := walkFunctions(c.message, func(number uint32, st linkStats) { got += fmt.Sprintf("%d: %d %d, ", number, st.rxBytes, st.txBytes) })
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: got %q, %v; want %q, %v", c.name, got, err, c.want, c.err)
		}
	}
	// This machine's kernel takes the question.
	needRoot(t)
	if err := askFunctions("lo", func(uint32, linkStats) { t.Error("lo has a virtual function") }); !errors.Is(err, errUncounted) {
		t.Errorf("lo: got %v", err)
	}
	if err := askFunctions("no-such-link", nil); !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there: got %v", err)
	}
}

func FuzzWalkFunctions(f *testing.F) {
	f.Add(append(make([]byte, 16), attribute(unix.IFLA_VFINFO_LIST, attribute(unix.IFLA_VF_INFO, attribute(unix.IFLA_VF_MAC, make([]byte, 36))))...))
	f.Fuzz(func(t *testing.T, b []byte) { _ = walkFunctions(b, func(uint32, linkStats) {}) })
}
