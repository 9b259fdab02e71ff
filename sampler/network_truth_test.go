package sampler

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

const inNamespace = "ODOMETER_TEST_IN_NAMESPACE"

// TestTruthNetwork meters a machine that has one interface, an end of a veth
// pair as a container has it, whose other end lies in another namespace. Every
// byte on it is ours, so what is measured is exact.
//
// The test runs itself anew in a network namespace of its own, as root or
// with the rights of a user namespace.
func TestTruthNetwork(t *testing.T) {
	if os.Getenv(inNamespace) != "" {
		networkTruth(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestTruthNetwork$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	t.Logf("in the namespace:\n%s", out)
	switch exit := new(exec.ExitError); {
	case err == nil && strings.Contains(string(out), "--- SKIP"):
		missing(t, "a network cannot be made in a namespace")
	case err == nil:
	case errors.As(err, &exit):
		t.Error(err)
	default:
		missing(t, "a network namespace cannot be made: "+err.Error())
	}
}

func networkTruth(t *testing.T) {
	// /sys shows the interfaces of the namespace in which it was mounted.
	if err := errors.Join(
		unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
		unix.Mount("sysfs", "/sys", "sysfs", 0, ""),
		silence(),
	); err != nil {
		t.Skip(err)
	}
	// The far end lives on a thread of its own, in a namespace of its own.
	far := make(chan func())
	ready := make(chan int)
	go func() {
		runtime.LockOSThread() // and is never unlocked, so that the thread ends with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil || silence() != nil {
			ready <- -1
			return
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			ready <- -1
			return
		}
		ready <- fd
		for f := range far {
			f()
		}
	}()
	defer close(far)
	ns := <-ready
	if ns < 0 {
		t.Skip("no second namespace")
	}
	there := func(f func() error) error {
		done := make(chan error)
		far <- func() { done <- f() }
		return <-done
	}
	if err := addVeth("eth0", "far0", ns); err != nil {
		t.Skip(err)
	}
	var near, distant int
	if err := errors.Join(
		there(func() error { return raise("far0") }), raise("eth0"),
		func() (err error) { near, err = packetSocket("eth0"); return err }(),
		there(func() (err error) { distant, err = packetSocket("far0"); return err }),
	); err != nil {
		t.Fatal(err)
	}

	m := realMachine(t)
	if c := counter(sample(t, m), odometer.NetworkEgress, "eth0"); c.Incarnation == "" {
		t.Fatalf("eth0 is not metered: %+v", m.Sources())
	}
	// The kernel drops what is sent until it has found the link to be up,
	// which takes it a moment.
	for _, end := range []struct {
		socket int
		q      odometer.Quantity
	}{{near, odometer.NetworkEgress}, {distant, odometer.NetworkIngress}} {
		for deadline := time.Now().Add(10 * time.Second); counter(sample(t, m), end.q, "eth0").Value == 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%s of eth0 stays 0", end.q)
			}
			if _, err := unix.Write(end.socket, frame(64)); err != nil {
				t.Fatal(err)
			}
		}
	}
	before := sample(t, m)
	const out, outSize, in, inSize = 1000, 1514, 500, 999
	for range out {
		if _, err := unix.Write(near, frame(outSize)); err != nil {
			t.Fatal(err)
		}
	}
	for range in {
		if _, err := unix.Write(distant, frame(inSize)); err != nil {
			t.Fatal(err)
		}
	}
	after := sample(t, m)
	for _, c := range []struct {
		q     odometer.Quantity
		truth uint64
	}{{odometer.NetworkEgress, out * outSize}, {odometer.NetworkIngress, in * inSize}} {
		got := counter(after, c.q, "eth0").Value - counter(before, c.q, "eth0").Value
		t.Logf("%s: truth %d, measured %d, error %d bytes", c.q, c.truth, got, int64(got-c.truth))
		if got != c.truth {
			t.Errorf("%s: got %d, want exactly %d", c.q, got, c.truth)
		}
	}

	// A second interface appears, sends, and is gone again.
	if err := errors.Join(addVeth("eth1", "far1", ns), there(func() error { return raise("far1") }), raise("eth1")); err != nil {
		t.Fatal(err)
	}
	second, err := packetSocket("eth1")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.Write(second, frame(outSize)); err != nil {
		t.Fatal(err)
	}
	if c := counter(sample(t, m), odometer.NetworkEgress, "eth1"); c.Value != outSize || !c.Born {
		t.Errorf("a new interface: got %+v, want %d bytes, born", c, outSize)
	}
	if err := there(func() error { return removeLink("far1") }); err != nil {
		t.Fatal(err)
	}
	r := sample(t, m)
	if c := counter(r, odometer.NetworkEgress, "eth1"); c.Incarnation != "" {
		t.Errorf("an interface that is gone: got %+v", c)
	}
	if c := counter(r, odometer.NetworkEgress, "eth0"); c.Value != counter(after, odometer.NetworkEgress, "eth0").Value {
		t.Errorf("eth0: got %+v, want it undisturbed", c)
	}
}

// silence keeps IPv6 from sending by itself on the interfaces that are made
// from now on in the thread's namespace.
func silence() error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // there is no IPv6
	}
	return err
}

// frame is an Ethernet frame of the type reserved for experiments.
func frame(size int) []byte {
	b := make([]byte, size)
	for i := range 6 {
		b[i] = 0xff
	}
	b[6], b[12], b[13] = 2, 0x88, 0xb5
	return b
}

func packetSocket(name string) (int, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("packet socket: %w", err)
	}
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, fmt.Errorf("index of %s: %w", name, err)
	}
	return fd, unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0, Ifindex: int(ifr.Uint32())})
}

func raise(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	ifr.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("raise %s: %w", name, err)
	}
	return nil
}

// addVeth makes a pair of interfaces, the second in the namespace peerNS.
func addVeth(name, peer string, peerNS int) error {
	const vethInfoPeer = 1 // VETH_INFO_PEER
	far := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, append([]byte(peer), 0))...)
	far = append(far, attribute(unix.IFLA_NET_NS_FD, binary.NativeEndian.AppendUint32(nil, uint32(peerNS)))...)
	info := attribute(unix.IFLA_INFO_KIND, []byte("veth"))
	info = append(info, attribute(unix.IFLA_INFO_DATA, attribute(vethInfoPeer, far))...)
	b := append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...)
	return linkRequest(unix.RTM_NEWLINK, unix.NLM_F_CREATE|unix.NLM_F_EXCL, append(b, attribute(unix.IFLA_LINKINFO, info)...))
}

func removeLink(name string) error {
	return linkRequest(unix.RTM_DELLINK, 0, append(make([]byte, unix.SizeofIfInfomsg), attribute(unix.IFLA_IFNAME, append([]byte(name), 0))...))
}

func attribute(kind uint16, v []byte) []byte {
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(v)))
	b = append(binary.NativeEndian.AppendUint16(b, kind), v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func linkRequest(kind, flags uint16, payload []byte) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if _, err := unix.Write(fd, message(kind, flags|unix.NLM_F_REQUEST|unix.NLM_F_ACK, 1, payload)); err != nil {
		return err
	}
	answer := make([]byte, 4096)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 {
		return errNetlink
	}
	if errno := -int32(binary.NativeEndian.Uint32(answer[unix.NLMSG_HDRLEN:])); errno != 0 {
		return fmt.Errorf("rtnetlink: %w", unix.Errno(errno))
	}
	return nil
}
