package inventory

import (
	"fmt"
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

// place adds a device of the host to the machine, as what its PCI class says
// that it is. A mediated device is what its parent is; a virtual function of a
// GPU is a part of one.
func (d hostDevice) place(sys string, vm *odometer.VM) error {
	address := strings.ToLower(d.address)
	dir := filepath.Join(sys, "bus/pci/devices", address)
	if address == "" {
		address = strings.ToLower(path.Base(path.Clean(d.sysfs)))
		if mdevUUID.MatchString(address) {
			return d.mediated(sys, address, vm)
		}
		dir = filepath.Join(sys, "bus/pci/devices", address)
	}
	if !pciAddress.MatchString(address) {
		return fmt.Errorf("device %s: %q is no PCI address", d.name, first(d.address, d.sysfs))
	}
	class, err := word(filepath.Join(dir, "class"))
	if err != nil {
		return fmt.Errorf("device %s: what it is is not known: %w", d.name, err)
	}
	_, err = os.Lstat(filepath.Join(dir, "physfn"))
	virtual := err == nil
	switch {
	case isGPU(class) && virtual:
		vm.GPUs = append(vm.GPUs, odometer.GPUDevice{Name: d.name, Kind: odometer.GPUVGPU, Address: address})
	case isGPU(class):
		vm.GPUs = append(vm.GPUs, odometer.GPUDevice{Name: d.name, Kind: odometer.GPUWhole, Address: address})
	case strings.HasPrefix(class, "0x02"):
		vm.NICs = append(vm.NICs, odometer.NIC{Name: d.name, Kind: odometer.NICDirect})
	case strings.HasPrefix(class, "0x01"):
		vm.Disks = append(vm.Disks, odometer.Disk{Name: d.name, Kind: odometer.DiskUnknown, Path: "pci:" + address, Provisioned: odometer.Unknown})
		return fmt.Errorf("disk %s: the size of a disk that was passed through is not known on this host", d.name)
	}
	return nil
}

func (d hostDevice) mediated(sys, uuid string, vm *odometer.VM) error {
	dir, err := filepath.EvalSymlinks(filepath.Join(sys, "bus/mdev/devices", uuid))
	if err != nil {
		return fmt.Errorf("device %s: what it is is not known: %w", d.name, err)
	}
	class, err := word(filepath.Join(filepath.Dir(dir), "class"))
	if err != nil {
		return fmt.Errorf("device %s: what it is a part of is not known: %w", d.name, err)
	}
	if isGPU(class) {
		vm.GPUs = append(vm.GPUs, odometer.GPUDevice{Name: d.name, Kind: odometer.GPUVGPU, Address: uuid})
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
