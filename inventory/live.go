package inventory

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"example.org/odometer"
	"example.org/odometer/internal/qmp"
)

// live is what a hypervisor says over its control socket that its machine is
// made of now.
type live struct {
	// whole is the machine as a whole, of a hypervisor that tells all; nil of
	// QEMU, which does not tell everything that its command line has: the rest is
	// what has become of that.
	whole *guest

	vcpus, memory int64 // Unknown where it does not say
	balloon       int64 // see guest
	drives        []qmp.Drive
	devices       map[string]string // drivers of those with an id; nil where it does not say
	nics          []qmp.NIC
	hosts         []hostDevice // passed on, plugged in later
}

// over returns the machine that the command line has, as it is now.
func (l *live) over(command *guest) *guest {
	g := *command
	if l.whole != nil {
		g.vcpus, g.memory, g.balloon = l.whole.vcpus, l.whole.memory, l.whole.balloon
		g.disks, g.nics, g.devices, g.problems = l.whole.disks, l.whole.nics, l.whole.devices, l.whole.problems
		g.config = ""
		return &g
	}
	g.problems = nil
	solved := make([]string, 0, 8) // how problems begin that are none any more
	if l.vcpus != odometer.Unknown {
		g.vcpus = l.vcpus
		solved = append(solved, "vCPUs: ")
	}
	if l.memory != odometer.Unknown {
		g.memory, g.balloon = l.memory, l.balloon
		solved = append(solved, "memory: ")
	}
	g.disks = l.disksOver(command)
	g.nics = l.nicsOver(command, &g)
	g.devices = nil
	for _, d := range command.devices {
		if l.there(d.plug) {
			g.devices = append(g.devices, d)
		}
	}
	g.devices = append(g.devices, l.hosts...)
	for _, d := range g.disks {
		if d.sized {
			solved = append(solved, "disk "+d.Name+": the size of ")
		}
	}
	for _, p := range command.problems {
		if !slices.ContainsFunc(solved, func(s string) bool { return strings.HasPrefix(p, s) }) {
			g.problems = append(g.problems, p)
		}
	}
	return &g
}

// there reports whether a device of the command line was not unplugged. One
// without an id cannot be.
func (l *live) there(p plug) bool {
	_, ok := l.devices[p.id]
	return ok || p.id == "" || l.devices == nil
}

// deviceID is the id of the device that a drive's qdev names: that itself, or
// the object that it is a part of. anonymous says that it has none and was
// still named by somebody, on the command line or later: boards have devices of
// their own.
func deviceID(qdev string) (id string, anonymous bool) {
	if !strings.HasPrefix(qdev, "/") {
		return qdev, false
	}
	if rest, ok := strings.CutPrefix(qdev, "/machine/peripheral/"); ok {
		id, _, _ = strings.Cut(rest, "/")
		return id, false
	}
	return "", strings.HasPrefix(qdev, "/machine/peripheral-anon/")
}

// disksOver are the disks of the command line that are still there, with what
// is in them now, and then those that came.
func (l *live) disksOver(command *guest) []guestDisk {
	found := make([]*qmp.Drive, len(command.disks)) // of each
	var rest []*qmp.Drive
	for i := range l.drives {
		d := &l.drives[i]
		if d.QDev == "" || d.Removable {
			continue
		}
		id, anonymous := deviceID(d.QDev)
		at := slices.IndexFunc(command.disks, func(c guestDisk) bool {
			if c.id != "" || id != "" {
				return c.id == id
			}
			return c.back != "" && (c.back == d.Name || c.back == d.Node)
		})
		switch {
		case at >= 0:
			found[at] = d
		case id != "" || anonymous:
			rest = append(rest, d)
		}
	}
	// A device without an id is found by its image, of which a snapshot makes
	// another with another name. They come in the order of the command line.
	for i := range command.disks {
		if c := &command.disks[i]; c.id == "" && c.back != "" && found[i] == nil {
			at := slices.IndexFunc(rest, func(d *qmp.Drive) bool { id, _ := deviceID(d.QDev); return id == "" })
			if at >= 0 {
				found[i] = rest[at]
				rest = slices.Delete(rest, at, at+1)
			}
		}
	}
	var list []guestDisk
	for i, c := range command.disks {
		if !l.there(c.plug) {
			continue
		}
		if found[i] != nil {
			c.hold(found[i])
		}
		list = append(list, c)
	}
	for _, d := range rest {
		id, _ := deviceID(d.QDev)
		c := guestDisk{Disk: odometer.Disk{Name: first(id, d.Name, d.Node), Kind: odometer.DiskUnknown, Provisioned: odometer.Unknown}, plug: plug{id: id}}
		c.hold(d)
		list = append(list, c)
	}
	return list
}

// hold brings a disk to what is in its drive now.
func (c *guestDisk) hold(d *qmp.Drive) {
	if !d.Medium {
		return
	}
	if d.VirtualSize >= 0 {
		c.Provisioned, c.sized = d.VirtualSize, true
	}
	c.ReadOnly = d.ReadOnly
	now := imageNamed(d.File)
	switch {
	case now.Path == "" || now.Path == c.Path && now.look == c.look:
	case c.Path != "" && !now.look && !c.look && scheme(now.Path) == scheme(c.Path):
		// One address has several forms.
	default:
		c.Path, c.look, c.Kind, c.Format, c.Backing = now.Path, now.look, now.Kind, "", nil
		c.chained = !now.look
	}
	if c.Format == "" && formats[d.Format] {
		c.Format = d.Format
	}
	if c.chained {
		c.Backing = nil
		for _, b := range d.Backing {
			if place := imageNamed(b); place.Path != "" {
				c.Backing = append(c.Backing, place.Path)
			}
		}
	}
}

// imageNamed takes the name of an image apart, as QEMU writes it.
func imageNamed(name string) guestDisk {
	q := &qemuLine{guest: newGuest(qemu)}
	var d guestDisk
	q.named(&d, name, 0)
	if d.Kind == "" {
		d.Kind = odometer.DiskUnknown
	}
	return d
}

func scheme(address string) string {
	s, _, _ := strings.Cut(address, ":")
	return s
}

// nicsOver are the interfaces of the command line that are still there, and
// then those that came. One whose id another has now is another.
func (l *live) nicsOver(command, g *guest) []guestNIC {
	found := make([]*qmp.NIC, len(command.nics))
	onBoard := slices.ContainsFunc(command.nics, func(c guestNIC) bool { return c.id == "" && c.back == "" })
	var rest []*qmp.NIC
	for i := range l.nics {
		n := &l.nics[i]
		at := slices.IndexFunc(command.nics, func(c guestNIC) bool {
			if c.id != "" {
				return c.id == n.Name
			}
			return c.back != "" && c.back == n.Netdev
		})
		_, plugged := l.devices[n.Name]
		switch {
		case at >= 0:
			found[at] = n
		case plugged || !onBoard && n.Netdev != "":
			rest = append(rest, n)
		}
	}
	var list []guestNIC
	for i, c := range command.nics {
		n := found[i]
		switch {
		case !l.there(c.plug):
			continue
		case n == nil:
		case n.Netdev != "" && n.Netdev != c.back, n.Link != "" && c.Link != "" && n.Link != c.Link, n.FD >= 0 && n.FD != c.fd:
			c = g.nicNow(c.Name, n)
		default:
			c.MAC = first(c.MAC, n.MAC)
		}
		list = append(list, c)
	}
	for _, n := range rest {
		name := n.Name
		if _, plugged := l.devices[n.Name]; !plugged {
			name = n.Netdev
		}
		list = append(list, g.nicNow(name, n))
	}
	return list
}

// nicNow is an interface as QEMU tells it.
func (g *guest) nicNow(name string, n *qmp.NIC) guestNIC {
	q := &qemuLine{guest: newGuest(qemu)}
	back := options{{"type", n.Type}, {"ifname", n.Link}}
	if n.FD >= 0 {
		back = append(back, option{"fd", strconv.Itoa(n.FD)})
	}
	q.addNIC(name, n.MAC, back, plug{back: n.Netdev})
	g.problems = append(g.problems, q.guest.problems...)
	return q.guest.nics[0]
}

// plugged lists the devices that came after the start and that no drive and no
// interface shows, in order of their ids: those that are passed on by address.
func (l *live) plugged(command *guest) []string {
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(l.devices)) {
		known := slices.ContainsFunc(command.devices, func(d hostDevice) bool { return d.id == id })
		if strings.HasPrefix(l.devices[id], "vfio-pci") && !known {
			ids = append(ids, id)
		}
	}
	return ids
}
