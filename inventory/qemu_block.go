package inventory

import (
	"fmt"
	"net/url"
	"path"
	"strconv"
	"strings"

	"example.org/odometer"
)

// formats are the drivers of block nodes that say how an image is laid out.
var formats = set("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels", "luks", "dmg", "bochs", "cloop")

// attach finds the disks: what the devices refer to, by -drive or -blockdev,
// and the drives that QEMU attaches by itself. Optical and floppy drives and
// flash are none.
func (q *qemuLine) attach() {
	drives := map[string]options{}
	for _, d := range q.drives {
		if id := d.get("id"); id != "" {
			drives[id] = d
		}
	}
	used := map[string]bool{}
	for _, d := range q.devices {
		driver, id, back := d.get("driver"), d.get("id"), d.get("drive")
		if strings.HasPrefix(driver, "vfio-pci") {
			q.passThrough(d)
			continue
		}
		if strings.HasPrefix(driver, "vhost-user-blk") || strings.HasPrefix(driver, "vhost-vdpa-device") {
			q.problem("disk %s: what lies behind %s is not known", id, driver)
			q.guest.disks = append(q.guest.disks, guestDisk{Disk: odometer.Disk{Name: first(id, driver), Kind: odometer.DiskUnknown, Provisioned: odometer.Unknown}, plug: plug{id: id}})
			continue
		}
		switch {
		case back == "" || used[back]: // a second way to the same disk
			continue
		case strings.HasSuffix(driver, "-cd"), driver == "floppy", strings.Contains(driver, "pflash"):
			used[back] = true
			continue
		}
		used[back] = true
		name, p := first(id, back), plug{id, back}
		if drive, ok := drives[back]; ok {
			q.addDrive(name, drive, p)
		} else if node, ok := q.nodes[back]; ok {
			q.addDisk(name, node, p)
		} else {
			q.problem("disk %s: there is no drive %s", name, back)
			q.guest.disks = append(q.guest.disks, guestDisk{Disk: odometer.Disk{Name: name, Kind: odometer.DiskUnknown, Provisioned: odometer.Unknown}, plug: p})
		}
	}
	next := map[string]int{}
	for _, d := range q.drives {
		bus := first(d.get("if"), "ide")
		unit := next[bus]
		if n, err := strconv.Atoi(first(d.get("index"), d.get("unit"))); err == nil && n >= 0 {
			unit = n
		}
		next[bus] = unit + 1
		if bus == "none" || bus == "pflash" || bus == "floppy" || used[d.get("id")] && d.get("id") != "" {
			continue
		}
		// As QEMU names them itself, two to an IDE bus.
		name := fmt.Sprintf("%s%d", bus, unit)
		switch bus {
		case "ide":
			name = fmt.Sprintf("ide%d-hd%d", unit/2, unit%2)
		case "scsi":
			name = fmt.Sprintf("scsi0-hd%d", unit)
		}
		name = first(d.get("id"), name)
		q.addDrive(name, d, plug{back: name})
	}
}

// maxNodes is how many block nodes one disk may consist of.
const maxNodes = 1000

func (q *qemuLine) addDrive(name string, d options, p plug) {
	if d.get("media") == "cdrom" {
		return
	}
	node := options{{"driver", first(d.get("format"), d.get("driver"))}, {"read-only", first(d.get("readonly"), d.get("read-only"))}}
	file, told := d.lookup("file")
	for _, m := range d {
		switch m.key {
		case "format", "driver", "readonly", "read-only", "file", "id", "if", "index", "unit", "bus", "media":
		default:
			node = append(node, m)
			told = told || m.key == "filename" || strings.HasPrefix(m.key, "file.")
		}
	}
	if !told {
		return // a drive without a medium
	}
	if file != "" {
		// -blockdev would name a node here, -drive names a file.
		node = append(node, option{"file.name", file})
	}
	q.addDisk(name, node, p)
}

func (q *qemuLine) addDisk(name string, node options, p plug) {
	d := guestDisk{Disk: odometer.Disk{Name: name, Provisioned: odometer.Unknown}, plug: p}
	q.steps = 0
	q.follow(&d, node, 0)
	d.ReadOnly = node.on("read-only")
	if d.Kind == "" {
		d.Kind = odometer.DiskUnknown
		q.problem("disk %s: what lies behind it is not understood", name)
	}
	if d.Kind == odometer.DiskNetwork && d.Provisioned == odometer.Unknown {
		q.problem("disk %s: the size of %s is not known on this host", name, d.Path)
	}
	q.guest.disks = append(q.guest.disks, d)
}

// follow goes from a block node down to where its data lies.
func (q *qemuLine) follow(d *guestDisk, node options, depth int) {
	// Of nodes that refer to each other twice there are many ways down.
	if q.steps++; depth > maxDepth || q.steps > maxNodes {
		d.Kind, d.Path, d.look = "", "", false
		return
	}
	driver := node.get("driver")
	if d.Format == "" && formats[driver] {
		d.Format = driver
	}
	if n, ok := parseSize(node.get("size"), 1); ok && driver == "raw" && d.Format == "raw" {
		d.Provisioned = n
	}
	if backing, told := q.child(node, "backing"); told {
		d.chained = true
		if backing != nil {
			below := guestDisk{}
			q.follow(&below, backing, depth+1)
			if below.Path != "" {
				d.Backing = append([]string{below.Path}, below.Backing...)
			}
		}
	}
	if name := node.get("file.name"); name != "" {
		q.named(d, name, depth)
		return
	}
	if child, ok := q.child(node, "file"); ok && child != nil {
		q.follow(d, child, depth+1)
		return
	}
	switch driver {
	case "file", "host_device":
		d.Path, d.look, d.Kind = node.get("filename"), true, odometer.DiskUnknown
	case "", "null-co", "null-aio", "vvfat", "nvme", "quorum", "blkverify":
		if driver == "" && node.get("filename") != "" {
			q.named(d, node.get("filename"), depth)
		}
	default:
		if place := remote(driver, node); place != "" {
			d.Kind, d.Path = odometer.DiskNetwork, place
		}
	}
}

// child returns the node that a member names or contains; nil and true where
// it says that there is none.
func (q *qemuLine) child(node options, key string) (options, bool) {
	if name, ok := node.lookup(key); ok {
		if name == "" {
			return nil, true
		}
		return q.nodes[name], true
	}
	inner := node.under(key)
	return inner, len(inner) > 0
}

// named takes the name of an image as -drive file= has it: a path, or a
// protocol and what it addresses.
func (q *qemuLine) named(d *guestDisk, name string, depth int) {
	if text, ok := strings.CutPrefix(name, "json:"); ok {
		node, err := parseJSONOptions(text)
		if err != nil {
			q.problem("disk %s: %v", d.Name, err)
			return
		}
		q.follow(d, node, depth+1)
		return
	}
	place, local := location(name)
	if d.Path, d.look, d.Kind = place, local, odometer.DiskUnknown; !local {
		d.Kind = odometer.DiskNetwork
	}
}

// location says whether the name of an image is a path, and returns it, or
// otherwise the name without what may be secret: users, keys, options.
func location(name string) (place string, local bool) {
	colon := strings.IndexByte(name, ':')
	if colon < 0 || strings.Contains(name[:colon], "/") {
		return name, true
	}
	protocol, rest := name[:colon], name[colon+1:]
	switch protocol {
	case "file":
		return rest, true
	case "host_device":
		return rest, true
	case "rbd":
		image, _, _ := strings.Cut(rest, ":")
		return "rbd:" + image, false
	case "nbd":
		if !strings.HasPrefix(rest, "//") {
			return name, false
		}
	}
	u, err := url.Parse(name)
	if err != nil || u.Host == "" && u.Path == "" {
		return protocol + ":", false
	}
	u.User, u.RawQuery, u.Fragment = nil, "", ""
	return u.String(), false
}

// remote names what a node of a network protocol addresses, "" where the
// driver is none that is known.
func remote(driver string, o options) string {
	host := first(o.get("server.host"), o.get("server.path"), o.get("server.0.host"), o.get("server.0.path"), o.get("host"), o.get("path"))
	if port := first(o.get("server.port"), o.get("server.0.port"), o.get("port")); port != "" {
		host += ":" + port
	}
	switch driver {
	case "rbd":
		return "rbd:" + path.Join(o.get("pool"), o.get("namespace"), o.get("image"))
	case "nbd":
		return "nbd:" + strings.TrimSuffix(host+"/"+o.get("export"), "/")
	case "iscsi":
		return "iscsi:" + path.Join(o.get("portal"), o.get("target"), first(o.get("lun"), "0"))
	case "gluster":
		return "gluster:" + path.Join(host, o.get("volume"), o.get("path"))
	case "nfs", "ssh":
		return driver + ":" + path.Join(host, o.get("path"))
	case "http", "https", "ftp", "ftps":
		place, _ := location(o.get("url"))
		return place
	case "virtio-blk-vhost-user", "virtio-blk-vhost-vdpa", "virtio-blk-vfio-pci", "nvme-io_uring", "io_uring":
		return driver + ":" + o.get("path")
	}
	return ""
}

// passThrough notes a device of the host: by address, with the domain 0 where
// none is told, or by its directory.
func (q *qemuLine) passThrough(d options) {
	dev := hostDevice{name: d.get("id"), address: d.get("host"), sysfs: d.get("sysfsdev"), plug: plug{id: d.get("id")}}
	if strings.Count(dev.address, ":") == 1 {
		dev.address = "0000:" + dev.address
	}
	dev.name = first(dev.name, dev.address, path.Base(dev.sysfs))
	if dev.address == "" && dev.sysfs == "" {
		q.problem("device %s: the command line does not tell which device of the host it is", dev.name)
		return
	}
	q.guest.devices = append(q.guest.devices, dev)
}
