package sampler

import (
	"encoding/binary"
	"net"
	"os"
	"testing"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// switchCommand gives Open vSwitch in the kernel a command of
// linux/openvswitch.h, whose messages have a datapath before their attributes.
func switchCommand(t *testing.T, family string, version, command byte, datapath int, attributes []byte) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_GENERIC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	ask := func(kind uint16, flags uint16, payload []byte) []byte {
		t.Helper()
		b := make([]byte, unix.NLMSG_HDRLEN, unix.NLMSG_HDRLEN+len(payload))
		binary.NativeEndian.PutUint32(b, uint32(len(b)+len(payload)))
		binary.NativeEndian.PutUint16(b[4:], kind)
		binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST|flags)
		if _, err := unix.Write(fd, append(b, payload...)); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 8<<10)
		n, err := unix.Read(fd, answer)
		if err != nil {
			t.Fatal(err)
		}
		got, content, _, ok := cutMessage(answer[:n])
		if !ok {
			t.Fatalf("%s: malformed answer", family)
		}
		if got == unix.NLMSG_ERROR {
			if code := int32(binary.NativeEndian.Uint32(content)); code != 0 {
				t.Fatalf("%s, command %d: %v", family, command, unix.Errno(-code))
			}
		}
		return content
	}
	name := attribute(unix.CTRL_ATTR_FAMILY_NAME, append([]byte(family), 0))
	content := ask(unix.GENL_ID_CTRL, 0, append([]byte{unix.CTRL_CMD_GETFAMILY, 1, 0, 0}, name...))
	id, ok := attributeOf(content[unix.GENL_HDRLEN:], unix.CTRL_ATTR_FAMILY_ID)
	if !ok {
		t.Fatalf("the kernel has no %s", family)
	}
	ask(binary.NativeEndian.Uint16(id), unix.NLM_F_ACK, append(binary.NativeEndian.AppendUint32([]byte{command, version, 0, 0}, uint32(datapath)), attributes...))
}

// TestInsideOpenVSwitch is TestVMOpenVSwitch's part in its machine: a tap that is
// a port of a switch counts as any other.
func TestInsideOpenVSwitch(t *testing.T) {
	if os.Getenv(insideGuest) == "" {
		t.Skip("TestVMOpenVSwitch runs it")
	}
	text := func(s string) []byte { return append([]byte(s), 0) }
	u32 := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	switchCommand(t, "ovs_datapath", 2, 1, 0, append(attribute(1, text("ovs0")), attribute(2, u32(0))...)) // OVS_DP_CMD_NEW, with a name and nobody to ask
	datapath, err := net.InterfaceByName("ovs0")
	if err != nil {
		t.Fatal(err)
	}
	g := startGuest(t, 0)
	g.do("tap tapovs")
	port := append(attribute(2, u32(1)), attribute(3, text("tapovs"))...) // of a network device, by name
	switchCommand(t, "ovs_vport", 1, 1, datapath.Index, append(port, attribute(5, u32(0))...))

	s := openVMs(t)
	s.Update([]odometer.VM{machineOf(g, "vm-1", func(v *odometer.VM) {
		v.NICs = []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: "tapovs"}}
	})})
	last := func() odometer.Reading {
		list := readings(t, s)
		return list[len(list)-1]
	}
	before := last()
	g.do("send 20 1000")
	g.do("receive 3 500")
	after := last()
	for q, want := range map[odometer.Quantity]uint64{odometer.NetworkEgress: 20_000, odometer.NetworkIngress: 1500} {
		if got := counter(after, q, "net0").Value - counter(before, q, "net0").Value; got != want {
			t.Errorf("%s: got %d, want exactly %d", q, got, want)
		}
	}
	own := s.spaces[s.ownSpace]
	for name, want := range map[string]string{"tapovs": "tun", "ovs0": "openvswitch"} {
		if l, err := own.stats.link(name); err != nil || l.kind != want {
			t.Errorf("%s is of kind %q, %v; want %s", name, l.kind, err, want)
		}
	}
}
