package inventory

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"example.org/odometer"
)

// TestDevices has each device passed to a machine as each hypervisor's
// description would have it: what it is does not depend on that.
func TestDevices(t *testing.T) {
	root := t.TempDir()
	sys := filepath.Join(root, "sys")
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	link := func(name, to string) {
		t.Helper()
		file := filepath.Join(sys, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, file); err != nil {
			t.Fatal(err)
		}
	}
	pci := func(address, class string, virtual ...string) {
		write("bus/pci/devices/"+address+"/class", class+"\n")
		for i, v := range virtual {
			link(fmt.Sprintf("bus/pci/devices/%s/virtfn%d", address, i), "../"+v)
			link("bus/pci/devices/"+v+"/physfn", "../"+address)
		}
	}
	mdev := func(uuid, parent, kind string) {
		link("bus/mdev/devices/"+uuid, "../../../devices/pci0000:00/"+parent+"/"+uuid)
		if kind != "" {
			write("devices/pci0000:00/"+parent+"/"+uuid+"/mdev_type/name", kind+"\n")
		}
	}
	const uuid = "00000000-0000-4000-8000-0000000000a"
	pci("0000:01:00.0", "0x030000")
	pci("0000:01:00.1", "0x040300")
	pci("0000:02:00.0", "0x120000")
	pci("0000:41:00.0", "0x030200", "0000:41:00.4", "0000:41:00.5", "0000:41:00.6", "0000:41:00.7")
	for _, f := range "4567" {
		pci("0000:41:00."+string(f), "0x030200")
	}
	write("bus/pci/devices/0000:41:00.5/nvidia/current_vgpu_type", "1054\n")
	write("bus/pci/devices/0000:41:00.5/nvidia/creatable_vgpu_types", "ID    : vGPU Name\n")
	write("bus/pci/devices/0000:41:00.6/nvidia/current_vgpu_type", "696\n")
	write("bus/pci/devices/0000:41:00.7/nvidia/current_vgpu_type", "0\n")
	write("bus/pci/devices/0000:41:00.7/nvidia/creatable_vgpu_types", "ID    : vGPU Name\n696   : NVIDIA A100-20C\n1054  : NVIDIA A100-3-20C\n")
	pci("0000:3b:00.0", "0x020000", "0000:3b:02.6")
	pci("0000:3b:02.6", "0x020000")
	pci("0000:0d:00.0", "0x010802")
	mdev(uuid+"1", "0000:41:00.4", "GRID A100-3-20C")
	mdev(uuid+"2", "0000:41:00.4", "NVIDIA A100-20C")
	mdev(uuid+"3", "0000:01:00.0", "GVTg_V5_4")
	mdev(uuid+"4", "0000:01:00.0", "")
	mdev(uuid+"5", "css0/0.0.0313", "")
	mdev(uuid+"6", "0000:3b:00.0", "")
	mdev(uuid+"7", "0000:77:00.0", "GRID T4-1Q")
	write("devices/pci0000:00/0000:01:00.0/"+uuid+"8/mdev_type", "no directory")
	mdev(uuid+"8", "0000:01:00.0", "")

	gpu := func(kind odometer.GPUKind) func(name, address string) odometer.VM {
		return func(name, address string) odometer.VM {
			return odometer.VM{GPUs: []odometer.GPUDevice{{Name: name, Kind: kind, Address: address}}}
		}
	}
	nothing := func(name, address string) odometer.VM { return odometer.VM{} }
	for _, c := range []struct {
		what, address string
		want          func(name, address string) odometer.VM
		problem       string
	}{
		{"a whole GPU", "0000:01:00.0", gpu(odometer.GPUWhole), ""},
		{"its sound", "0000:01:00.1", nothing, ""},
		{"an accelerator", "0000:02:00.0", gpu(odometer.GPUWhole), ""},
		{"a virtual function of a GPU of a maker that names no types", "0000:41:00.4", gpu(odometer.GPUVGPU), ""},
		{"a virtual function with a slice, whose name another function has", "0000:41:00.5", gpu(odometer.GPUMIG), ""},
		{"a virtual function with a share of the time", "0000:41:00.6", gpu(odometer.GPUVGPU), ""},
		{"a virtual function without a type", "0000:41:00.7", gpu(odometer.GPUVGPU), ""},
		{"a mediated device on a slice", uuid + "1", gpu(odometer.GPUMIG), ""},
		{"a mediated device with a share of the time", uuid + "2", gpu(odometer.GPUVGPU), ""},
		{"a mediated device of another maker", uuid + "3", gpu(odometer.GPUVGPU), ""},
		{"a mediated device whose type has no name", uuid + "4", gpu(odometer.GPUVGPU), ""},
		{"a mediated device of a channel", uuid + "5", nothing, ""},
		{"a mediated device of an interface", uuid + "6", nothing, ""},
		{"a mediated device of what has gone", uuid + "7", nothing, "device hostdev0: what it is is not known: "},
		{"a mediated device whose type cannot be read", uuid + "8", gpu(odometer.GPUVGPU), "device hostdev0: which part of a GPU it is is not known: "},
		{"a mediated device that has gone", uuid + "9", nothing, "device hostdev0: what it is is not known: "},
		{"an interface", "0000:3b:00.0", func(name, address string) odometer.VM {
			return odometer.VM{NICs: []odometer.NIC{{Name: name, Kind: odometer.NICDirect, Address: address}}}
		}, ""},
		{"a virtual function of an interface", "0000:3b:02.6", func(name, address string) odometer.VM {
			return odometer.VM{NICs: []odometer.NIC{{Name: name, Kind: odometer.NICDirect, Address: address}}}
		}, ""},
		{"an NVMe disk", "0000:0d:00.0", func(name, address string) odometer.VM {
			return odometer.VM{Disks: []odometer.Disk{{Name: name, Kind: odometer.DiskUnknown, Path: "pci:" + address, Provisioned: unknown}}}
		}, "disk hostdev0: the size of a disk that was passed through is not known on this host"},
		{"a device that has gone", "0000:0c:00.0", nothing, "device hostdev0: what it is is not known: "},
		{"something else", "platform-7", nothing, "is no PCI address"},
	} {
		ways := map[string]func(*odometer.VM) error{}
		mediated := mdevUUID.MatchString(c.address)
		text := func(argument string) {
			ways["QEMU -device "+argument] = func(vm *odometer.VM) error {
				g := parseQEMU([]string{"qemu-system-x86_64", "-device", argument})
				return g.devices[0].place(sys, vm)
			}
		}
		if !mediated {
			text("vfio-pci,id=hostdev0,host=" + strings.TrimPrefix(c.address, "0000:"))
			text("vfio-pci,id=hostdev0,host=" + strings.ToUpper(c.address))
			ways["Cloud Hypervisor"] = hostDevice{name: "hostdev0", sysfs: "/sys/bus/pci/devices/" + c.address + "/"}.placer(sys)
		} else {
			text("vfio-pci,id=hostdev0,sysfsdev=/sys/bus/mdev/devices/" + c.address)
		}
		if c.address != "platform-7" {
			ways["libvirt"] = func(vm *odometer.VM) error {
				source := "uuid='" + strings.ToUpper(c.address) + "'"
				kind := "mdev"
				if !mediated {
					var domain, bus, slot, function int
					fmt.Sscanf(c.address, "%x:%x:%x.%x", &domain, &bus, &slot, &function)
					source, kind = fmt.Sprintf("domain='%#x' bus='%#x' slot='%#x' function='%#x'", domain, bus, slot, function), "pci"
				}
				d, err := parseDomain([]byte("<domain><name>d</name><devices><hostdev mode='subsystem' type='" + kind + "'><source><address " + source + "/></source></hostdev></devices></domain>"))
				if err != nil {
					t.Fatal(err)
				}
				err = (&libvirtHost{root: root}).settle(&d)
				vm.Disks, vm.NICs, vm.GPUs = d.vm.Disks, d.vm.NICs, d.vm.GPUs
				return err
			}
		}
		for way, place := range ways {
			t.Run(c.what+"/"+way, func(t *testing.T) {
				var got odometer.VM
				err := place(&got)
				if want := c.want("hostdev0", c.address); !reflect.DeepEqual(got, want) {
					t.Errorf("got %+v, want %+v", got, want)
				}
				if c.problem == "" && err != nil || c.problem != "" && (err == nil || !strings.Contains(err.Error(), c.problem)) {
					t.Errorf("got problem %v, want %q", err, c.problem)
				}
			})
		}
	}
}

func (d hostDevice) placer(sys string) func(*odometer.VM) error {
	return func(vm *odometer.VM) error { return d.place(sys, vm) }
}
