package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"example.org/odometer"
)

var (
	pciAddress = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	mdevUUID   = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)
)

// place adds a device of the host to the machine. What it is its class in sysfs
// says, of a mediated device that of the device whose part it is:
//
//	              PCI device       virtual function   mediated device
//	GPU           GPUWhole         GPUVGPU, GPUMIG    GPUVGPU, GPUMIG
//	network       NICDirect        NICDirect          none
//	disk          its size is not known here          none
//	other         none             none               none
//
// A GPU is a display controller (VGA, 3D, other) or a processing accelerator. A
// part of one is GPUMIG where its type stands on a slice of the device. A device
// of which the host does not say what it is is left out, and an error.
func (d hostDevice) place(sys string, vm *odometer.VM) error {
	pci := func(address string) string { return filepath.Join(sys, "bus/pci/devices", address) }
	address := strings.ToLower(first(d.address, path.Base(path.Clean(d.sysfs))))
	unknown := func(err error) error { return fmt.Errorf("device %s: what it is is not known: %w", d.name, err) }
	var dir string // of the PCI device that says what it is
	mediated := mdevUUID.MatchString(address)
	switch {
	case mediated:
		// It lies in its parent's directory, see the kernel's vfio-mediated-device.rst.
		to, err := os.Readlink(filepath.Join(sys, "bus/mdev/devices", address))
		if err != nil {
			return unknown(err)
		}
		dir = pci(path.Base(path.Dir(to)))
		if !pciAddress.MatchString(path.Base(dir)) {
			return nil // a part of a channel or a crypto adapter
		}
	case pciAddress.MatchString(address):
		dir = pci(address)
	default:
		return fmt.Errorf("device %s: %q is no PCI address", d.name, first(d.address, d.sysfs))
	}
	class, err := word(filepath.Join(dir, "class"))
	if err != nil {
		return unknown(err)
	}
	switch {
	case isGPU(class):
		gpu := odometer.GPUDevice{Name: d.name, Kind: odometer.GPUWhole, Address: address}
		if mediated {
			gpu.Kind, err = partOf(word(filepath.Join(sys, "bus/mdev/devices", address, "mdev_type/name")))
		} else if _, physical := os.Lstat(filepath.Join(dir, "physfn")); physical == nil {
			gpu.Kind, err = partOf(vgpuType(dir))
		}
		vm.GPUs = append(vm.GPUs, gpu)
		if err != nil {
			return fmt.Errorf("device %s: which part of a GPU it is is not known: %w", d.name, err)
		}
	case mediated:
	case strings.HasPrefix(class, "0x02"):
		vm.NICs = append(vm.NICs, odometer.NIC{Name: d.name, Kind: odometer.NICDirect, Address: address})
	case strings.HasPrefix(class, "0x01"): // NVMe and other controllers, with what is behind them
		vm.Disks = append(vm.Disks, odometer.Disk{Name: d.name, Kind: odometer.DiskUnknown, Path: "pci:" + address, Provisioned: odometer.Unknown})
		return fmt.Errorf("disk %s: the size of a disk that was passed through is not known on this host", d.name)
	}
	return nil
}

// isGPU tells display controllers (VGA, 3D, other) and processing accelerators
// by the class in sysfs, "0x030200".
func isGPU(class string) bool {
	for _, c := range []string{"0x0300", "0x0302", "0x0380", "0x1200"} {
		if strings.HasPrefix(class, c) {
			return true
		}
	}
	return false
}

// migSlice is what only types of NVIDIA's vGPU that stand on a slice of the
// device (MIG) have in their names: the slice's size, "A100-3-20C".
var migSlice = regexp.MustCompile(`-\d+-\d+[A-Z]`)

// partOf says which kind of part of a GPU a type is. Types of other makers have
// no name, or no slices.
func partOf(name string, err error) (odometer.GPUKind, error) {
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return odometer.GPUVGPU, err
	case migSlice.MatchString(name):
		return odometer.GPUMIG, nil
	}
	return odometer.GPUVGPU, nil
}

// vgpuType names the type of a virtual function of NVIDIA's that has no
// mediated device: since vGPU 17 it is a number in nvidia/current_vgpu_type, and
// which types there are, "1054 : NVIDIA A100-3-20C" a line, the functions say
// that can have one.
func vgpuType(dir string) (string, error) {
	number, err := word(filepath.Join(dir, "nvidia/current_vgpu_type"))
	if err != nil {
		return "", err
	}
	lists, err := filepath.Glob(filepath.Join(dir, "physfn/virtfn*/nvidia/creatable_vgpu_types"))
	if err != nil {
		return "", err
	}
	for _, list := range append([]string{filepath.Join(dir, "nvidia/creatable_vgpu_types")}, lists...) {
		b, err := os.ReadFile(list)
		if err != nil {
			continue // a function that is somebody else's
		}
		for line := range strings.Lines(string(b)) {
			if id, name, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(id) == number {
				return strings.TrimSpace(name), nil
			}
		}
	}
	return "", fs.ErrNotExist
}

// macvtapLink returns the name of the interface behind /dev/tapN, "" where
// sysfs does not tell it: /sys/class/macvtap/tapN lies in its interface's
// directory, …/net/NAME/macvtap/tapN.
func macvtapLink(sys, device string) string {
	base := path.Base(device)
	to, err := os.Readlink(filepath.Join(sys, "class/macvtap", base))
	if err != nil {
		return ""
	}
	before, _, ok := strings.Cut(to, "/macvtap/"+base)
	if !ok || path.Base(path.Dir(before)) != "net" {
		return ""
	}
	return path.Base(before)
}
