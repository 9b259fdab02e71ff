package qmp_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer/internal/guest"
	"example.org/odometer/internal/qmp"
)

// dial connects to a guest's free monitor; events go to the channel.
func dial(t *testing.T, g *guest.Guest) (*qmp.Client, <-chan qmp.Event) {
	t.Helper()
	events := make(chan qmp.Event, 100)
	c, err := qmp.Dial(t.Context(), g.Monitor(), func(e qmp.Event) { events <- e })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c, events
}

func expect(t *testing.T, events <-chan qmp.Event, name string) qmp.Event {
	t.Helper()
	for patience := time.After(qmp.Patience); ; {
		select {
		case e := <-events:
			if e.Name == name {
				if age := time.Since(e.At); age < 0 || age > time.Minute {
					t.Errorf("%s is %v old", name, age)
				}
				return e
			}
		case <-patience:
			t.Fatalf("no %s", name)
		}
	}
}

// TestQEMU asks a real QEMU whose processors do not run, so that nothing has
// to boot.
func TestQEMU(t *testing.T) {
	base := guest.Disk{Path: guest.Image(t, "raw", 64<<20)}
	over := guest.Disk{Path: guest.Image(t, "qcow2", 128<<20, base)}
	g := guest.Start(t, guest.Options{
		VCPUs: 2, Paused: true, Disks: []guest.Disk{over, {Path: guest.Image(t, "raw", 32<<20), ReadOnly: true}},
		NICs: []guest.NIC{{Link: fmt.Sprintf("odom%d", os.Getpid()%100000)}},
		Args: []string{"-device", "qemu-xhci", "-device", "usb-tablet,id=tablet", "-device", "ide-cd,id=cd0",
			"-netdev", "user,id=u0", "-device", "e1000,netdev=u0,mac=52:54:00:00:00:09"},
	})
	ctx := t.Context()
	c, events := dial(t, g)

	if s, err := c.Status(ctx); err != nil || s != (qmp.Status{State: "prelaunch"}) {
		t.Errorf("status: got %+v, %v", s, err)
	}
	cpus, err := c.CPUs(ctx)
	if err != nil || len(cpus) != 2 {
		t.Fatalf("CPUs: got %v, %v", cpus, err)
	}
	for i, cpu := range cpus {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", g.PID(), cpu.Thread)); err != nil || cpu.Index != i {
			t.Errorf("CPU %d: got %+v, %v", i, cpu, err)
		}
	}
	if n, err := c.Balloon(ctx); err != nil || n != 128<<20 {
		t.Errorf("balloon: got %d, %v", n, err)
	}
	stats, err := c.BlockStats(ctx)
	if err != nil || len(stats) != 3 || stats[0].Device != "drive0" || stats[0].WriteBytes != 0 || !strings.Contains(stats[1].QDev, "disk1") {
		t.Errorf("block stats: got %+v, %v", stats, err)
	}
	nodes, err := c.BlockNodes(ctx)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]qmp.BlockNode{}
	for _, n := range nodes {
		found[n.Driver+" "+n.File] = n
	}
	if n := found["qcow2 "+over.Path]; n.VirtualSize != 128<<20 || n.ActualSize <= 0 || n.BackingFile != base.Path || n.ReadOnly {
		t.Errorf("nodes: %+v", nodes)
	}
	if n := found["raw "+base.Path]; n.VirtualSize != 64<<20 || n.BackingFile != "" || !n.ReadOnly {
		t.Errorf("nodes: %+v", nodes)
	}

	if base, plugged, err := c.Memory(ctx); err != nil || base != 128<<20 || plugged != 0 {
		t.Errorf("memory: got %d and %d, %v", base, plugged, err)
	}
	drives, err := c.Drives(ctx)
	if err != nil || len(drives) != 3 {
		t.Fatalf("drives: got %+v, %v", drives, err)
	}
	want := qmp.Drive{Name: "drive0", QDev: "/machine/peripheral/disk0/virtio-backend", Medium: true, Node: drives[0].Node,
		File: over.Path, Format: "qcow2", VirtualSize: 128 << 20, Backing: []string{base.Path}}
	if !reflect.DeepEqual(drives[0], want) || !drives[1].ReadOnly || drives[1].Format != "raw" {
		t.Errorf("drives: got %+v", drives)
	}
	if d := drives[2]; d.QDev != "cd0" || !d.Removable || d.Medium || d.VirtualSize != -1 {
		t.Errorf("drive without a medium: got %+v", d)
	}
	devices, err := c.Devices(ctx)
	if err != nil || devices["disk0"] != "virtio-blk-pci" || devices["tablet"] != "usb-tablet" || devices["nic0"] != "virtio-net-pci" || devices["type"] != "" {
		t.Errorf("devices: got %v, %v", devices, err)
	}
	if s, err := c.Property(ctx, "/machine/peripheral/nic0", "netdev"); err != nil || s != "net0" {
		t.Errorf("property: got %q, %v", s, err)
	}
	nics, err := c.NICs(ctx)
	mac := "52:54:00:00:00:09"
	if err != nil || !slices.Equal(nics, []qmp.NIC{
		{Name: "nic0", MAC: g.NIC(0).MAC, Netdev: "net0", Type: "tap", Link: g.NIC(0).Link, FD: -1},
		{Name: "e1000.0", MAC: mac, Netdev: "u0", Type: "user", FD: -1},
	}) {
		t.Errorf("NICs: got %+v, %v", nics, err)
	}

	t.Run("one client at a time", func(t *testing.T) {
		for range 3 { // the third finds no place to wait in
			ctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
			defer cancel()
			if second, err := qmp.Dial(ctx, g.Monitor(), nil); !errors.Is(err, qmp.ErrNoGreeting) {
				t.Errorf("got %v, %v", second, err)
			}
		}
	})
	t.Run("a command that does not exist", func(t *testing.T) {
		err := c.Execute(ctx, "query-nothing", nil, nil)
		if e, ok := errors.AsType[*qmp.Error](err); !ok || e.Class != "CommandNotFound" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("QEMU hangs for a while", func(t *testing.T) {
		g.Signal(syscall.SIGSTOP)
		short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		if _, err := c.Status(short); !errors.Is(err, qmp.ErrNoAnswer) {
			t.Errorf("got %v", err)
		}
		g.Signal(syscall.SIGCONT)
		if _, err := c.Status(ctx); err != nil {
			t.Error(err)
		}
	})
	t.Run("events", func(t *testing.T) {
		do := func(command string, arguments any) {
			t.Helper()
			if err := c.Execute(ctx, command, arguments, nil); err != nil {
				t.Error(err)
			}
		}
		do("cont", nil)
		expect(t, events, "RESUME")
		if s, err := c.Status(ctx); err != nil || s != (qmp.Status{Running: true, State: "running"}) {
			t.Errorf("status: got %+v, %v", s, err)
		}
		do("system_powerdown", nil)
		expect(t, events, "POWERDOWN")
		do("stop", nil)
		expect(t, events, "STOP")
		do("system_reset", nil)
		if e := expect(t, events, "RESET"); e.Guest || e.Reason != "host-qmp-system-reset" {
			t.Errorf("got %+v", e)
		}
		do("device_del", map[string]string{"id": "tablet"})
		if e := expect(t, events, "DEVICE_DELETED"); e.Device != "tablet" || e.Path != "/machine/peripheral/tablet" {
			t.Errorf("got %+v", e)
		}
		do("quit", nil)
		if e := expect(t, events, "SHUTDOWN"); e.Guest || e.Reason != "host-qmp-quit" {
			t.Errorf("got %+v", e)
		}
		<-c.Done()
		if _, err := c.Status(ctx); err == nil || !strings.Contains(err.Error(), "QEMU closed the connection") {
			t.Errorf("got %v", err)
		}
	})
}
