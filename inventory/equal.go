package inventory

import (
	"maps"
	"slices"

	"example.org/odometer"
)

// equalVM reports whether two descriptions of a machine say the same.
func equalVM(a, b *odometer.VM) bool {
	return a.Instance == b.Instance && a.Name == b.Name && a.Source == b.Source && a.Owner == b.Owner &&
		a.State == b.State && a.Run == b.Run && a.PID == b.PID && a.Began == b.Began && a.Control == b.Control &&
		a.VCPUs == b.VCPUs && a.Memory == b.Memory && a.Ballooned == b.Ballooned && maps.Equal(a.Attributes, b.Attributes) &&
		slices.EqualFunc(a.Disks, b.Disks, odometer.Disk.Equal) && slices.Equal(a.NICs, b.NICs) && slices.Equal(a.GPUs, b.GPUs)
}
