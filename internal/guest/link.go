package guest

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// NIC is a virtio-net interface of a guest: eth0, eth1 and so on in their
// order. What is behind it on the host is made by the harness and goes with
// the guest.
type NIC struct {
	Link string // the interface on the host, at most 12 bytes; "" for a name that nobody else has
	Kind NICKind
	MAC  string // "" for a random one
	// Bridge puts the interface into a bridge, which the harness makes where
	// there is none of that name. The host's address is then the bridge's.
	Bridge string
}

// NICKind says what is behind a NIC.
type NICKind string

const (
	Tap     NICKind = ""        // QEMU opens it by its name; it is there before QEMU and after it
	TapFD   NICKind = "fd"      // QEMU gets it open, and it goes with QEMU: libvirt's way
	Macvtap NICKind = "macvtap" // on one end of a veth pair; the host has the other, Link with "-h" after it; without Netns
)

// link is a NIC and what is behind it.
type link struct {
	NIC
	t           testing.TB
	undo        *undo
	netns       string
	queue       *os.File // what QEMU gets open, nil where it opens the interface itself
	host, guest netip.Addr

	id        string // of its device where it was plugged in
	unplugged bool
}

// Netns makes a network namespace that ends with the test.
func Netns(t testing.TB, name string) {
	t.Helper()
	output(t, "ip", "netns", "add", name)
	newUndo(t).add("ip netns delete %s", quote(name))
	output(t, "ip", "-n", name, "link", "set", "lo", "up")
}

func newLink(t testing.TB, u *undo, netns string, n NIC) *link {
	if n.Link == "" {
		n.Link = "tap" + strings.ToLower(rand.Text()[:8])
	}
	if n.MAC == "" {
		var b [3]byte
		rand.Read(b[:])
		n.MAC = fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2])
	}
	return &link{NIC: n, t: t, undo: u, netns: netns}
}

// ip runs ip in the link's namespace and returns what it printed.
func (l *link) ip(args ...string) string {
	l.t.Helper()
	if l.netns != "" {
		args = append([]string{"-n", l.netns}, args...)
	}
	return output(l.t, "ip", args...)
}

// deleteAfter has an interface deleted in the end.
func (l *link) deleteAfter(name string) {
	l.t.Helper()
	in := ""
	if l.netns != "" {
		in = "-n " + quote(l.netns)
	}
	l.undo.add("ip %s link delete %s", in, quote(name))
}

// far is the interface that has the host's address.
func (l *link) far() string {
	switch {
	case l.Bridge != "":
		return l.Bridge
	case l.Kind == Macvtap:
		return l.Link + "-h"
	}
	return l.Link
}

// make makes the interface, for QEMU to open or open already.
func (l *link) make() {
	l.t.Helper()
	var open func() (*os.File, error)
	switch l.Kind {
	case Tap:
		l.ip("tuntap", "add", "dev", l.Link, "mode", "tap")
		l.deleteAfter(l.Link)
	case TapFD:
		open = func() (*os.File, error) { return openTap(l.Link) }
	case Macvtap:
		parent := l.Link + "-p"
		l.ip("link", "add", l.far(), "type", "veth", "peer", "name", parent)
		l.deleteAfter(l.far()) // and with it the others
		l.quiet(parent)
		l.ip("link", "set", parent, "up")
		l.ip("link", "add", "link", parent, "name", l.Link, "address", l.MAC, "type", "macvtap", "mode", "bridge")
		open = func() (*os.File, error) { return openMacvtap(l.Link, l.undo) }
	}
	if open == nil {
		return
	}
	l.within(func() {
		var err error
		if l.queue, err = open(); err != nil {
			l.t.Fatalf("open %s: %v", l.Link, err)
		}
	})
}

// setUp gives the host its address and brings the interface up.
func (l *link) setUp() {
	l.t.Helper()
	l.within(func() {
		made, err := net.InterfaceByName(l.Link)
		if err != nil {
			l.t.Fatalf("find %s: %v", l.Link, err)
		}
		l.host, l.guest = addresses(made.Index)
		if _, err := net.InterfaceByName(l.far()); err != nil {
			l.ip("link", "add", l.Bridge, "type", "bridge")
			l.deleteAfter(l.Bridge)
		}
	})
	if l.Bridge != "" {
		l.ip("link", "set", l.Link, "master", l.Bridge)
	}
	l.quiet(l.Link)
	l.quiet(l.far())
	l.ip("addr", "add", l.host.String()+"/30", "dev", l.far())
	l.ip("link", "set", l.far(), "up")
	l.ip("link", "set", l.Link, "up")
}

// quiet keeps the host from sending what nobody asked for.
func (l *link) quiet(name string) {
	l.t.Helper()
	l.within(func() {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // no IPv6 in the kernel
			l.t.Fatal(err)
		}
	})
}

// addresses picks a network of two by an interface's index, of which there is
// one in a namespace, out of those that RFC 2544 reserves for measuring.
func addresses(index int) (host, guest netip.Addr) {
	base := binary.BigEndian.Uint32([]byte{198, 18, 0, 0}) + uint32(index%(1<<15))*4
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], base+1)
	host = netip.AddrFrom4(b)
	return host, host.Next()
}

// openTap makes a tap that lasts as long as it is open, as QEMU wants it: with
// virtio's header on each packet.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	r, err := unix.NewIfreq(name)
	if err == nil {
		r.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, r)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), "/dev/net/tun"), nil
}

// openMacvtap opens the character device of a macvtap, whose number sysfs
// tells. Where nobody makes a node of it in /dev, it is made until the end.
func openMacvtap(name string, u *undo) (*os.File, error) {
	made, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	b, err := os.ReadFile(fmt.Sprintf("/sys/class/net/%s/macvtap/tap%d/dev", name, made.Index))
	if err != nil {
		return nil, err
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(string(b), "%d:%d", &major, &minor); err != nil {
		return nil, err
	}
	node := fmt.Sprintf("/dev/tap%d", made.Index)
	switch err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err {
	case nil:
		u.add("rm -f %s", quote(node))
	case unix.EEXIST:
	default:
		return nil, err
	}
	fd, err := unix.Open(node, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), node), nil
}

// within runs f on a thread in the link's network namespace. A socket that f
// opens stays in it. What ends the test in f leaves that thread to end with it.
func (l *link) within(f func()) {
	l.t.Helper()
	if l.netns == "" {
		f()
		return
	}
	runtime.LockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		l.t.Fatal(err)
	}
	defer here.Close()
	there, err := os.Open(filepath.Join("/run/netns", l.netns))
	if err != nil {
		l.t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		l.t.Fatal(err)
	}
	f()
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		l.t.Fatal(err)
	}
	runtime.UnlockOSThread()
}

// NICs is how many NICs the guest has had.
func (g *Guest) NICs() int { return len(g.nics) }

// NIC returns a NIC of the guest, with the names that were picked for it.
func (g *Guest) NIC(nic int) NIC { return g.nics[nic].NIC }

// HostLink reads the host's counters of what is behind a NIC, as the host
// names them: of a tap the host's Received is what the guest sent, of a macvtap
// it is what the guest received.
func (g *Guest) HostLink(nic int) LinkCounters {
	g.t.Helper()
	l := g.nics[nic]
	var list []struct {
		Stats struct {
			RX, TX struct{ Bytes uint64 }
		} `json:"stats64"`
	}
	if err := json.Unmarshal([]byte(l.ip("-json", "-statistics", "link", "show", "dev", l.Link)), &list); err != nil || len(list) != 1 {
		g.t.Fatalf("counters of %s: %v", l.Link, err)
	}
	return LinkCounters{Received: list[0].Stats.RX.Bytes, Sent: list[0].Stats.TX.Bytes}
}

// Peer takes what a guest sends and sends what a guest asks for.
type Peer struct {
	Addr     netip.AddrPort
	received atomic.Int64
}

// Received is how many bytes guests have sent to it.
func (p *Peer) Received() int64 { return p.received.Load() }

// Peer listens on the host's side of a NIC until the test ends.
func (g *Guest) Peer(nic int) *Peer {
	g.t.Helper()
	n := g.nics[nic]
	p := &Peer{}
	var l net.Listener
	var err error
	n.within(func() { l, err = net.Listen("tcp4", netip.AddrPortFrom(n.host, 0).String()) })
	if err != nil {
		g.t.Fatal(err)
	}
	p.Addr = netip.MustParseAddrPort(l.Addr().String())
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			// A guest that was killed never closes its end.
			stop := context.AfterFunc(ctx, func() { c.Close() })
			all.Go(func() {
				p.serve(c)
				stop()
				c.Close()
			})
		}
	})
	g.t.Cleanup(func() {
		l.Close()
		cancel()
		all.Wait()
	})
	return p
}

// connect is a command of the guest's shell that has the commands in script
// talk to the peer.
func (p *Peer) connect(script string, args ...any) string {
	return fmt.Sprintf("nc %s %d -e sh -c %s", p.Addr.Addr(), p.Addr.Port(), quote(fmt.Sprintf(script, args...)))
}

// serve takes a line first: "take", and counts what follows, or "give N".
func (p *Peer) serve(c net.Conn) {
	in := bufio.NewReader(c)
	line, err := in.ReadString('\n')
	if err != nil {
		return
	}
	if n, ok := strings.CutPrefix(strings.TrimSpace(line), "give "); ok {
		if n, err := strconv.ParseInt(n, 10, 64); err == nil {
			io.CopyN(c, zeros{}, n)
		}
		return
	}
	b := make([]byte, 64<<10)
	for {
		n, err := in.Read(b)
		p.received.Add(int64(n))
		if err != nil {
			return
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
