package guest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPlug plugs devices into a running guest and out of it, and runs it from
// a block device of the host and in control groups.
func TestPlug(t *testing.T) {
	needAll(t)
	t.Parallel()
	Need(t)
	var groups []string
	for _, controller := range []string{"cpuacct", "memory", "unified", "."} {
		root := filepath.Join("/sys/fs/cgroup", controller)
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue // not mounted here
		}
		group := filepath.Join(root, fmt.Sprintf("guest%d", os.Getpid()))
		if err := os.Mkdir(group, 0o755); err != nil {
			t.Fatal(err)
		}
		newUndo(t).add("rmdir %s", quote(group))
		groups = append(groups, group)
	}
	g := Start(t, Options{
		Slots: 2, Cgroups: groups, NICs: []NIC{{}},
		Disks: []Disk{{Path: LoopDevice(t, Image(t, "raw", 64<<20))}},
	})
	for _, group := range groups {
		b, err := os.ReadFile(filepath.Join(group, "cgroup.procs"))
		if err != nil || strings.TrimSpace(string(b)) != fmt.Sprint(g.PID()) {
			t.Errorf("%s has processes %q, want %d: %v", group, b, g.PID(), err)
		}
	}
	g.Write(4 << 20)
	disk := g.PlugDisk(Disk{Path: Image(t, "qcow2", 64<<20)})
	g.WriteAt("vdb", 1<<20, 2<<20)
	if a, b := g.Disk("vda").Written, g.Disk("vdb").Written; a != 4<<20 || b != 2<<20 {
		t.Errorf("the guest wrote %d and %d bytes", a, b)
	}
	nic := g.PlugNIC(NIC{})
	g.Send(g.Peer(1), 1<<20)
	if inside, outside := g.Link("eth1").Sent, g.HostLink(1).Received; inside != outside || inside < 1<<20 {
		t.Errorf("the guest sent %d bytes, the host has %d", inside, outside)
	}
	g.Unplug(nic)
	g.Reboot() // keeps what is plugged in
	g.Unplug(disk)
	if got := strings.Fields(g.Run("ls /sys/class/block")); len(got) != 1 || got[0] != "vda" {
		t.Errorf("the guest has disks %q", got)
	}
}
