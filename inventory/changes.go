package inventory

import (
	"fmt"
	"slices"
	"strings"

	"example.org/odometer"
)

// difference derives what happened between two lists of a host, both in order
// of identity. at is when the later one was made, last when the one before, and
// since when the first look at the host was; fresh says of a source that nothing
// was known of its machines before.
//
// A run that began is told at its beginning, where that is known, and an end at
// the latest moment that it can have been.
func difference(before, after []odometer.VM, at odometer.Moment, last, since int64, fresh func(source string) bool) []odometer.Change {
	d := differ{at: at, last: last}
	runs := map[string]odometer.InstanceID{} // of those that went
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case j == len(after) || i < len(before) && before[i].Instance < after[j].Instance:
			if before[i].Run != "" {
				runs[before[i].Run] = before[i].Instance
			}
			i++
		case i == len(before) || before[i].Instance > after[j].Instance:
			j++
		default:
			i, j = i+1, j+1
		}
	}
	renamed := map[odometer.InstanceID]odometer.InstanceID{} // both ways
	for i := range after {
		if old, ok := runs[after[i].Run]; ok {
			renamed[old], renamed[after[i].Instance] = after[i].Instance, old
		}
	}
	for i, j := 0, 0; i < len(before) || j < len(after); {
		switch {
		case j == len(after) || i < len(before) && before[i].Instance < after[j].Instance:
			d.went(&before[i], renamed[before[i].Instance])
			i++
		case i == len(before) || before[i].Instance > after[j].Instance:
			d.came(&after[j], renamed[after[j].Instance], since, fresh(after[j].Source))
			j++
		default:
			d.stayed(&before[i], &after[j], renamed[after[j].Instance])
			i, j = i+1, j+1
		}
	}
	return d.changes
}

type differ struct {
	at      odometer.Moment
	last    int64
	changes []odometer.Change
}

func (d *differ) add(v *odometer.VM, kind odometer.ChangeKind, at odometer.Moment, device, detail string) {
	d.changes = append(d.changes, odometer.Change{Instance: v.Instance, Kind: kind, At: at, Device: device, Detail: detail})
}

// began is when the machine's run began.
func (d *differ) began(v *odometer.VM) odometer.Moment {
	if v.Began <= 0 || v.Began > d.at.Boot {
		return d.at
	}
	return odometer.Moment{Boot: v.Began, Wall: d.at.Wall - (d.at.Boot - v.Began)}
}

func (d *differ) came(v *odometer.VM, was odometer.InstanceID, since int64, fresh bool) {
	switch {
	case was != "":
		d.add(v, odometer.ChangeFound, d.at, "", "known as "+string(was)+" before")
	case v.State == odometer.Stopped:
		d.add(v, odometer.ChangeDefined, d.at, "", "")
	case v.Began != 0 && v.Began <= since-tickMicros || v.Began == 0 && fresh:
		d.add(v, odometer.ChangeFound, d.at, "", map[bool]string{true: "paused"}[v.State == odometer.Paused])
	default:
		d.start(v)
	}
}

func (d *differ) start(v *odometer.VM) {
	d.add(v, odometer.ChangeStarted, d.began(v), "", "")
	if v.State == odometer.Paused {
		d.add(v, odometer.ChangePaused, d.at, "", "")
	}
}

func (d *differ) went(v *odometer.VM, is odometer.InstanceID) {
	switch {
	case is != "":
		d.add(v, odometer.ChangeDeleted, d.at, "", "goes on as "+string(is))
	case v.State == odometer.Stopped:
		d.add(v, odometer.ChangeDeleted, d.at, "", "")
	default:
		d.add(v, odometer.ChangeStopped, d.at, "", "")
	}
}

func (d *differ) stayed(a, b *odometer.VM, was odometer.InstanceID) {
	ran, runs := a.State != odometer.Stopped, b.State != odometer.Stopped
	// A run is named otherwise once its process is found.
	another := a.Run != "" && b.Run != "" && a.Run != b.Run && (a.PID == 0) == (b.PID == 0)
	switch {
	case ran && runs && another:
		end := d.at
		if began := d.began(b); began.Boot > d.last {
			end = began // by then the one before had ended
		}
		d.add(b, odometer.ChangeStopped, end, "", "")
		if was != "" {
			d.add(b, odometer.ChangeFound, d.at, "", "known as "+string(was)+" before")
		} else {
			d.start(b)
		}
	case !ran && runs:
		d.start(b)
	case ran && !runs:
		d.add(b, odometer.ChangeStopped, d.at, "", "")
	case a.State == odometer.Running && b.State == odometer.Paused:
		d.add(b, odometer.ChangePaused, d.at, "", "")
	case a.State == odometer.Paused && b.State == odometer.Running:
		d.add(b, odometer.ChangeResumed, d.at, "", "")
	}
	if a.Source != b.Source {
		return // which names its devices its own way
	}
	var sizes []string // one change: two of a kind at one moment would be the same
	if a.VCPUs != b.VCPUs && a.VCPUs != odometer.Unknown && b.VCPUs != odometer.Unknown {
		sizes = append(sizes, fmt.Sprintf("%d to %d vCPUs", a.VCPUs, b.VCPUs))
	}
	if a.Memory != b.Memory && a.Memory != odometer.Unknown && b.Memory != odometer.Unknown {
		sizes = append(sizes, fmt.Sprintf("%s to %s of memory", bytesText(a.Memory), bytesText(b.Memory)))
	}
	if len(sizes) > 0 {
		d.add(b, odometer.ChangeResized, d.at, "", strings.Join(sizes, ", "))
	}
	d.disks(b, a.Disks, b.Disks)
	devices(d, b, a.NICs, b.NICs, func(n odometer.NIC) string { return n.Name }, sameNIC, describeNIC)
	devices(d, b, a.GPUs, b.GPUs, func(g odometer.GPUDevice) string { return g.Name },
		func(x, y odometer.GPUDevice) bool { return x == y },
		func(g odometer.GPUDevice) string { return string(g.Kind) + " " + g.Address })
}

func (d *differ) disks(v *odometer.VM, before, after []odometer.Disk) {
	devices(d, v, before, after, func(x odometer.Disk) string { return x.Name }, sameDisk,
		describeDisk)
	for _, y := range after {
		i := slices.IndexFunc(before, func(x odometer.Disk) bool { return x.Name == y.Name })
		if i >= 0 && sameDisk(before[i], y) && before[i].Provisioned != y.Provisioned &&
			before[i].Provisioned != odometer.Unknown && y.Provisioned != odometer.Unknown {
			d.add(v, odometer.ChangeResized, d.at, y.Name, fmt.Sprintf("%s to %s", bytesText(before[i].Provisioned), bytesText(y.Provisioned)))
		}
	}
}

// devices tells which went, then which came; one that is replaced under its
// name did both.
func devices[T any](d *differ, v *odometer.VM, before, after []T, name func(T) string, same func(a, b T) bool, describe func(T) string) {
	missing := func(x T, from []T) bool {
		return !slices.ContainsFunc(from, func(y T) bool { return name(x) == name(y) && same(x, y) })
	}
	for _, x := range before {
		if missing(x, after) {
			d.add(v, odometer.ChangeDeviceRemoved, d.at, name(x), describe(x))
		}
	}
	for _, x := range after {
		if missing(x, before) {
			d.add(v, odometer.ChangeDeviceAdded, d.at, name(x), describe(x))
		}
	}
}

// sameDisk reports whether two disks of one name may be one. What a snapshot
// puts on top of a disk is another path of the same disk.
func sameDisk(a, b odometer.Disk) bool {
	if a.Kind == odometer.DiskUnknown || b.Kind == odometer.DiskUnknown || a.Path == "" || b.Path == "" {
		return true // it was not known yet what it is
	}
	return a.Path == b.Path || slices.Contains(a.Backing, b.Path) || slices.Contains(b.Backing, a.Path)
}

// sameNIC reports whether two interfaces of one name may be one: what is not
// known of one of them tells them not apart.
func sameNIC(a, b odometer.NIC) bool {
	agree := func(x, y string) bool { return x == y || x == "" || y == "" }
	return agree(a.Link, b.Link) && agree(a.MAC, b.MAC) && agree(a.Address, b.Address)
}

// describeDisk leaves out where on the host it lies, which is nobody's business
// who reads the log.
func describeDisk(x odometer.Disk) string {
	if x.Provisioned == odometer.Unknown {
		return string(x.Kind)
	}
	return string(x.Kind) + ", " + bytesText(x.Provisioned)
}

func describeNIC(n odometer.NIC) string {
	return strings.TrimSpace(string(n.Kind) + " " + first(n.Link, n.Address))
}

// bytesText writes a size for a person, exactly.
func bytesText(n int64) string {
	unit := 0
	for n != 0 && n%1024 == 0 && unit < 4 {
		n, unit = n/1024, unit+1
	}
	return fmt.Sprintf("%d %s", n, [...]string{"bytes", "KiB", "MiB", "GiB", "TiB"}[unit])
}
