package inventory

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
	"example.org/odometer/internal/qmp"
)

// devices is what a machine has, a line each.
func devicesOf(g *guest) string {
	var list []string
	for _, d := range g.disks {
		s := fmt.Sprintf("disk %s %s %s %d", d.Name, d.Path, d.Format, d.Provisioned)
		if d.look {
			s += " looked at"
		}
		if d.Backing != nil {
			s += " over " + strings.Join(d.Backing, " ")
		}
		list = append(list, s)
	}
	for _, n := range g.nics {
		list = append(list, strings.TrimSpace(fmt.Sprintf("nic %s %s %s fd %d", n.Name, n.Kind, n.Link, n.fd)))
	}
	for _, d := range g.devices {
		list = append(list, fmt.Sprintf("device %s %s%s", d.name, d.address, d.sysfs))
	}
	return strings.Join(append(list, g.problems...), "\n")
}

func drive(name, qdev, node, file string, size int64, backing ...string) qmp.Drive {
	return qmp.Drive{Name: name, QDev: qdev, Medium: true, Node: node, File: file, Format: "qcow2", VirtualSize: size, Backing: backing}
}

// TestWhatBecameOfTheCommandLine compares a command line with what QEMU says
// later.
func TestWhatBecameOfTheCommandLine(t *testing.T) {
	anon := "/machine/peripheral-anon/device"
	for _, c := range []struct {
		name string
		args []string
		now  live
		want string
	}{
		{
			name: "it says nothing: all stands",
			args: []string{"-drive", "file=/a,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=x", "-netdev", "tap,id=n,ifname=t0", "-device", "e1000,netdev=n,id=y", "-device", "vfio-pci,host=01:00.0,id=z"},
			want: "disk x /a  -1 looked at\nnic y tap t0 fd -1\ndevice z 0000:01:00.0",
		},
		{
			name: "all were unplugged",
			args: []string{"-drive", "file=/a,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=x", "-netdev", "tap,id=n,ifname=t0", "-device", "e1000,netdev=n,id=y", "-device", "vfio-pci,host=01:00.0,id=z"},
			now:  live{devices: map[string]string{}},
		},
		{
			name: "others came in their place, under their ids",
			args: []string{"-drive", "file=/a,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=x", "-netdev", "tap,id=n,ifname=t0", "-device", "e1000,netdev=n,id=y"},
			now: live{devices: map[string]string{"x": "virtio-blk-pci", "y": "e1000"},
				drives: []qmp.Drive{drive("", "/machine/peripheral/x/virtio-backend", "e", "/e", 5)},
				nics:   []qmp.NIC{{Name: "y", MAC: "52:54:00:00:00:01", Netdev: "m", Type: "tap", FD: 9}}},
			want: "disk x /e qcow2 5 looked at\nnic y tap  fd 9",
		},
		{
			name: "a device without an id stays, whatever a snapshot makes of its image",
			args: []string{"-blockdev", "driver=qcow2,node-name=a,file.driver=file,file.filename=/a", "-device", "virtio-blk-pci,drive=a", "-drive", "file=/b,if=virtio"},
			now: live{devices: map[string]string{}, drives: []qmp.Drive{
				drive("virtio0", anon+"[1]/virtio-backend", "#block7", "/b", 6), drive("", anon+"[0]/virtio-backend", "over", "/o", 7, "/a")}},
			want: "disk a /o qcow2 7 looked at\ndisk virtio0 /b qcow2 6 looked at",
		},
		{
			name: "devices without an id come",
			args: []string{"-drive", "file=/b,if=virtio"},
			now: live{devices: map[string]string{}, drives: []qmp.Drive{
				drive("virtio0", anon+"[0]/virtio-backend", "#block7", "/b", 6), drive("", anon+"[1]/virtio-backend", "n", "/n", 7)},
				nics: []qmp.NIC{{Name: "virtio-net-pci.0", Netdev: "nn", Type: "user", FD: -1}}},
			want: "disk virtio0 /b qcow2 6 looked at\ndisk n /n qcow2 7 looked at\nnic nn user  fd -1",
		},
		{
			name: "what a board has of its own, and what has no disk in it, is none",
			args: []string{"-nic", "user"},
			now: live{devices: map[string]string{"cd": "ide-cd"}, drives: []qmp.Drive{
				drive("pflash0", "/machine/system.flash0", "f", "/f", 5), {QDev: "cd", Removable: true}, drive("loose", "", "l", "/l", 5)},
				nics: []qmp.NIC{{Name: "e1000e.0", Netdev: "#net1", Type: "user", FD: -1}}},
			want: "nic nic0 user  fd -1",
		},
		{
			name: "an address on the network may be written in several ways",
			args: []string{"-drive", "file=rbd:p/i:id=a,if=virtio", "-drive", "file=/x,if=virtio"},
			now: live{devices: map[string]string{}, drives: []qmp.Drive{
				drive("virtio0", anon+"[0]/virtio-backend", "a", `json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i2"}}`, 5),
				drive("virtio1", anon+"[1]/virtio-backend", "b", "nbd://host/x", 6)}},
			want: "disk virtio0 rbd:p/i qcow2 5\ndisk virtio1 nbd://host/x qcow2 6",
		},
		{
			name: "a chain that the command line told is as QEMU tells it now",
			args: []string{"-blockdev", `{"driver":"qcow2","node-name":"a","file":{"driver":"file","filename":"/a"},"backing":{"driver":"raw","file":{"driver":"file","filename":"/b"}}}`, "-device", "virtio-blk-pci,drive=a,id=x"},
			now:  live{devices: map[string]string{"x": ""}, drives: []qmp.Drive{drive("", "/machine/peripheral/x/virtio-backend", "a", "/a", 5, "/c", "/d")}},
			want: "disk x /a qcow2 5 looked at over /c /d",
		},
		{
			name: "a medium that cannot be named leaves what was known",
			args: []string{"-drive", "file=/a,if=none,id=d", "-device", "scsi-hd,drive=d,id=x"},
			now:  live{devices: map[string]string{"x": "scsi-hd"}, drives: []qmp.Drive{drive("d", "x", "a", "json:{", 5)}},
			want: "disk x /a qcow2 5 looked at",
		},
		{
			name: "what passes a device of the host on comes",
			args: []string{"-device", "vfio-pci,host=01:00.0,id=z"},
			now:  live{devices: map[string]string{"z": "vfio-pci", "w": "vfio-pci"}, hosts: []hostDevice{{name: "w", sysfs: "/sys/bus/pci/devices/0000:02:00.0"}}},
			want: "device z 0000:01:00.0\ndevice w /sys/bus/pci/devices/0000:02:00.0",
		},
		{
			name: "traffic that is not measured is named",
			now:  live{devices: map[string]string{"y": "e1000"}, nics: []qmp.NIC{{Name: "y", Netdev: "v", Type: "vde", FD: -1}}},
			want: "nic y unknown  fd -1\ninterface y: traffic over -netdev vde is not measured",
		},
		{
			name: "what it says is no problem any more",
			args: []string{"-m", "much", "-smp", "some", "-drive", "file=nbd://h/x,if=virtio"},
			now:  live{devices: map[string]string{}, vcpus: 3, memory: 77, drives: []qmp.Drive{drive("virtio0", anon+"[0]/virtio-backend", "b", "nbd://h/x", 6)}},
			want: "disk virtio0 nbd://h/x qcow2 6",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			command := recognise(append([]string{"qemu-system-x86_64"}, c.args...), "")
			if command == nil {
				t.Fatal("no machine")
			}
			before := devicesOf(command)
			if c.now.vcpus == 0 {
				c.now.vcpus, c.now.memory = odometer.Unknown, odometer.Unknown
			}
			got := c.now.over(command)
			if s := devicesOf(got); s != c.want {
				t.Errorf("got\n%s\nwant\n%s", s, c.want)
			}
			if s := devicesOf(command); s != before {
				t.Errorf("the command line was changed:\n%s\nwas\n%s", s, before)
			}
			if c.now.vcpus == 3 && (got.vcpus != 3 || got.memory != 77) {
				t.Errorf("got %d vCPUs and %d bytes", got.vcpus, got.memory)
			}
		})
	}
}

func TestWhichDeviceIsAskedFor(t *testing.T) {
	command := recognise([]string{"qemu-system-x86_64", "-device", "vfio-pci,host=01:00.0,id=z"}, "")
	now := live{devices: map[string]string{"z": "vfio-pci", "b": "vfio-pci-nohotplug", "a": "vfio-pci", "e": "e1000"}}
	if got := now.plugged(command); !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("got %q", got)
	}
}

// TestWhichMonitorsAreAsked leaves those alone that others need.
func TestWhichMonitorsAreAsked(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"one that may be asked", []string{"-qmp", "unix:/a,server=on,wait=off"}, []string{"/a"}},
		{"as it was written before", []string{"-qmp-pretty", "unix:/a,server,nowait"}, []string{"/a"}},
		{"with a comma in its name", []string{"-qmp", "unix:/a,,b,server=on,wait=off"}, []string{"/a,b"}},
		{"over a character device", []string{"-chardev", "socket,id=m,path=/m,server=on,wait=off", "-mon", "chardev=m,mode=control"}, []string{"/m"}},
		{"two", []string{"-qmp", "unix:/a,server=on,wait=off", "-qmp", "unix:/b,server=on,wait=off"}, []string{"/a", "/b"}},
		{"QEMU waits for whoever starts it", []string{"-qmp", "unix:/a,server=on"}, nil},
		{"QEMU is the client", []string{"-qmp", "unix:/a"}, nil},
		{"libvirt's", []string{"-chardev", "socket,id=charmonitor,path=/m,server=on,wait=off", "-mon", "chardev=charmonitor,id=monitor,mode=control"}, nil},
		{"one for people", []string{"-chardev", "socket,id=m,path=/m,server=on,wait=off", "-mon", "chardev=m,mode=readline", "-monitor", "unix:/x,server=on,wait=off"}, nil},
		{"over the network", []string{"-qmp", "tcp:localhost:4444,server=on,wait=off"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := recognise(append([]string{"qemu-system-x86_64"}, c.args...), "")
			if !slices.Equal(g.monitors, c.want) {
				t.Errorf("got %q, want %q", g.monitors, c.want)
			}
		})
	}
}

// FuzzDrives lays any two drives over a command line: none is counted twice, and
// nothing goes that has no id.
func FuzzDrives(f *testing.F) {
	command := recognise([]string{"qemu-system-x86_64", "-drive", "file=/a,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=x", "-drive", "file=/b,if=virtio"}, "")
	f.Add("d", "/machine/peripheral/x/virtio-backend", "/a", "virtio0", "/machine/peripheral-anon/device[0]/virtio-backend", "/over")
	f.Add("", "x", `json:{"driver":"qcow2","file":{"driver":"file","filename":"/a"}}`, "virtio0", "/machine/unattached/device[9]", "rbd:p/i")
	f.Fuzz(func(t *testing.T, name1, qdev1, file1, name2, qdev2, file2 string) {
		l := live{vcpus: odometer.Unknown, memory: odometer.Unknown, drives: []qmp.Drive{drive(name1, qdev1, "n1", file1, 1), drive(name2, qdev2, "n2", file2, 2)}}
		g := l.over(command)
		sizes := map[int64]int{}
		for _, d := range g.disks {
			sizes[d.Provisioned]++
		}
		if sizes[1] > 1 || sizes[2] > 1 || len(g.disks) < 2 || len(g.disks) > 4 || !slices.ContainsFunc(g.disks, func(d guestDisk) bool { return d.Name == "virtio0" }) {
			t.Errorf("got %s", devicesOf(g))
		}
	})
}
