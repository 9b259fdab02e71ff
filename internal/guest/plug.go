package guest

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// PlugDisk adds a disk in a free slot and waits until the guest has it. It
// returns the id of its device, "disk" with a number.
func (g *Guest) PlugDisk(d Disk) string {
	g.t.Helper()
	slot := g.slot()
	id, drive := fmt.Sprintf("disk1%d", slot), fmt.Sprintf("drive1%d", slot)
	before := len(g.devices("block"))
	g.execute("blockdev-add", map[string]any{
		"node-name": drive, "driver": d.format(), "read-only": d.ReadOnly,
		"file": map[string]any{"driver": d.driver(), "filename": d.Path},
	}, nil)
	g.execute("device_add", map[string]any{"driver": "virtio-blk-pci", "id": id, "drive": drive, "bus": fmt.Sprintf("slot%d", slot)}, nil)
	g.await("the disk is there", func() bool { return len(g.devices("block")) > before })
	return id
}

// PlugNIC adds a NIC in a free slot and waits until the guest has it and its
// address. It returns the id of its device, "nic" with a number; for the other
// methods its number is the next after the last.
func (g *Guest) PlugNIC(n NIC) string {
	g.t.Helper()
	if n.Kind != Tap {
		g.t.Fatalf("cannot plug in a NIC of kind %q", n.Kind)
	}
	slot := g.slot()
	l := newLink(g.t, g.undo, g.opt.Netns, n)
	l.make()
	l.setUp()
	net := fmt.Sprintf("net1%d", slot)
	l.id = fmt.Sprintf("nic1%d", slot)
	g.execute("netdev_add", map[string]any{"type": "tap", "id": net, "ifname": l.Link, "script": "no", "downscript": "no"}, nil)
	g.execute("device_add", map[string]any{"driver": "virtio-net-pci", "id": l.id, "netdev": net, "mac": l.MAC, "bus": fmt.Sprintf("slot%d", slot)}, nil)
	g.await("the NIC is there", func() bool { return len(g.devices("net")) > len(g.nics)+1 }) // and lo
	g.nics = append(g.nics, l)
	g.configure(len(g.nics) - 1)
	return l.id
}

// Unplug takes a device that was plugged in out of the guest and waits until
// QEMU has let go of it, which takes the guest 5 s. What is behind it stays on
// the host.
func (g *Guest) Unplug(id string) {
	g.t.Helper()
	g.execute("device_del", map[string]any{"id": id}, nil)
	g.await(id+" is gone", func() bool {
		var list []struct{ Name string }
		g.execute("qom-list", map[string]any{"path": "/machine/peripheral"}, &list)
		return !slices.ContainsFunc(list, func(d struct{ Name string }) bool { return d.Name == id })
	})
	if net, ok := strings.CutPrefix(id, "nic"); ok {
		for _, l := range g.nics {
			l.unplugged = l.unplugged || l.id == id
		}
		g.execute("netdev_del", map[string]any{"id": "net" + net}, nil)
		return
	}
	// What is left of the device holds the image for a moment.
	drive := map[string]any{"node-name": "drive" + strings.TrimPrefix(id, "disk")}
	g.await("the image of "+id+" is closed", func() bool {
		return g.QMP().Execute(g.t.Context(), "blockdev-del", drive, nil) == nil
	})
}

// slot takes the next of Options.Slots.
func (g *Guest) slot() int {
	g.t.Helper()
	if g.slots == g.opt.Slots {
		g.t.Fatal("the guest has no free slot")
	}
	g.slots++
	return g.slots - 1
}

// devices lists what the guest has of a class of sysfs's.
func (g *Guest) devices(class string) []string {
	g.t.Helper()
	return strings.Fields(g.Run("ls /sys/class/" + class))
}

func (g *Guest) execute(command string, arguments, result any) {
	g.t.Helper()
	if err := g.QMP().Execute(g.t.Context(), command, arguments, result); err != nil {
		g.t.Fatal(err)
	}
}

func (g *Guest) await(what string, done func() bool) {
	g.t.Helper()
	for end := time.Now().Add(endPatience); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Fatalf("in guest %s: after %v it is not so that %s", g.Name, endPatience, what)
		}
	}
}

// LoopDevice makes a block device of an image in raw format, until the test
// ends.
func LoopDevice(t testing.TB, image string) string {
	t.Helper()
	device := strings.TrimSpace(output(t, "losetup", "--find", "--show", image))
	newUndo(t).add("losetup --detach %s", quote(device))
	return device
}
