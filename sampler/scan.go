package sampler

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"example.org/odometer"
)

var (
	errNoDisk  = errors.New("no disk of this machine is in /sys/block")
	errNoLink  = errors.New("no interface has a device and no Ethernet interface leads out")
	errNoMount = errors.New("no filesystem on a block device of this machine is mounted here")
)

// scanDisks finds the disks that count, see the package's rule, and the space
// they provide.
func (m *Machine) scanDisks() {
	dir := m.path("sys/block")
	list, err := names(dir)
	m.disks.problem = err
	m.provisioned = odometer.Unknown
	if err != nil {
		m.disks.replace(m.bootID, nil)
		m.sources["disks"].detail = ""
		return
	}
	all := make([]found, 0, len(list))
	paths := map[string]bool{} // the disks of which a path is counted in provisioned
	var bytes int64
	sized := false
	for _, name := range list {
		at := filepath.Join(dir, name)
		seq, _ := number(filepath.Join(at, "diskseq")) // since Linux 5.15
		f := found{name: name, seq: seq, counts: wholeDisk(at, name)}
		all = append(all, f)
		if !f.counts {
			continue
		}
		if p := multipath(at); p != "" {
			if paths[p] {
				continue
			}
			paths[p] = true
		}
		if sectors, ok := number(filepath.Join(at, "size")); ok && sectors < 1<<53 {
			bytes, sized = bytes+int64(sectors*sectorBytes), true
		}
	}
	m.disks.replace(m.bootID, all)
	if sized {
		m.provisioned = bytes
	}
	m.sources["disks"].detail = m.disks.names()
	if m.disks.list == nil {
		m.disks.problem = errNoDisk
	}
}

// wholeDisk reports whether /sys/block/NAME at path counts.
func wholeDisk(path, name string) bool {
	kind := strings.TrimRight(name, "0123456789")
	return there(filepath.Join(path, "device")) && word(filepath.Join(path, "hidden")) != "1" &&
		kind != "sr" && kind != "fd"
}

// multipath names the disk that several block devices are paths to: the same
// world-wide id below the same device-mapper device. "" for a disk with one
// path.
func multipath(path string) string {
	id := word(filepath.Join(path, "device", "wwid"))
	if id == "" {
		return ""
	}
	holders, err := names(filepath.Join(path, "holders"))
	if err != nil {
		return ""
	}
	for _, h := range holders {
		if strings.HasPrefix(h, "dm-") {
			return h + " " + id
		}
	}
	return ""
}

// link is a network interface as a scan sees it.
type link struct {
	name    string
	path    string
	ifindex uint64
	device  bool   // hardware, real or virtual, is behind it
	master  string // what it is enslaved to, "" for nothing
}

// etherType is ARPHRD_ETHER, see /sys/class/net/X/type.
const etherType = "1"

// scanLinks finds the network interfaces that count, see the package's rule.
func (m *Machine) scanLinks() {
	dir := m.path("sys/class/net")
	list, err := names(dir)
	m.links.problem = err
	m.sources["network"].detail = ""
	if err != nil {
		m.links.replace(m.bootID, nil)
		return
	}
	links := make(map[string]*link, len(list))
	anyDevice := false
	for _, name := range list {
		l := &link{name: name, path: filepath.Join(dir, name)}
		var ok bool
		if l.ifindex, ok = number(filepath.Join(l.path, "ifindex")); !ok {
			continue // a file such as bonding_masters, or gone already
		}
		l.device = there(filepath.Join(l.path, "device"))
		if to, err := os.Readlink(filepath.Join(l.path, "master")); err == nil {
			l.master = filepath.Base(to)
		}
		links[name] = l
		anyDevice = anyDevice || l.device
	}
	rule := containerLink
	if anyDevice {
		rule = deviceLink
	}
	all := make([]found, 0, len(links))
	for _, name := range list {
		if l := links[name]; l != nil {
			all = append(all, found{name: name, seq: l.ifindex, counts: rule(l, links)})
		}
	}
	m.links.replace(m.bootID, all)
	switch m.sources["network"].detail = m.links.names(); {
	case m.links.list == nil:
		m.links.problem = errNoLink
	case !anyDevice:
		m.sources["network"].detail += ", virtual, since no interface has a device"
	}
}

// deviceLink is the rule where there is hardware.
func deviceLink(l *link, all map[string]*link) bool {
	if !l.device {
		return false
	}
	if over := all[l.master]; over != nil && over.device {
		return false
	}
	for _, below := range lowers(l) {
		if b := all[below]; b != nil && b.device && b.master != l.name {
			return false
		}
	}
	return true
}

// containerLinkNames begin the names of interfaces that lead nowhere or into
// containers, where /sys does not tell.
var containerLinkNames = []string{
	"dummy", "ifb", "nlmon", "gretap", "ip6gretap", "erspan", "ip6erspan", "vxlan", "geneve",
	"wg", "tun", "tap", "docker", "br-", "virbr", "cni", "flannel", "cali", "lxc",
}

// containerLink is the rule where no interface has a device.
func containerLink(l *link, all map[string]*link) bool {
	if word(filepath.Join(l.path, "type")) != etherType || len(lowers(l)) > 0 {
		return false
	}
	for _, sign := range [...]string{"bridge", "bonding", "tun_flags"} {
		if there(filepath.Join(l.path, sign)) {
			return false
		}
	}
	if over := all[l.master]; over != nil && there(filepath.Join(over.path, "bridge")) {
		return false
	}
	return !slices.ContainsFunc(containerLinkNames, func(prefix string) bool { return strings.HasPrefix(l.name, prefix) })
}

// lowers names the interfaces that l is stacked on.
func lowers(l *link) []string {
	var list []string
	entries, err := names(l.path)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if below, ok := strings.CutPrefix(e, "lower_"); ok {
			list = append(list, below)
		}
	}
	return list
}

// memoryDisks begin the names of block devices that are memory or a file that
// is counted where it lies; netDisks of those that are elsewhere.
var (
	memoryDisks = []string{"loop", "ram", "zram"}
	netDisks    = []string{"nbd"}
)

// pooled filesystems span several block devices and have none as their own.
var pooled = map[string]bool{"btrfs": true, "zfs": true, "bcachefs": true}

// notOccupied are filesystems on block devices that do not count: images that
// nobody writes to, FUSE, and those shared by a cluster.
var notOccupied = map[string]bool{
	"squashfs": true, "erofs": true, "iso9660": true, "udf": true, "cramfs": true, "romfs": true,
	"fuseblk": true, "ocfs2": true, "gfs2": true,
}

// scanMounts finds the filesystems that count, see the package's rule.
func (m *Machine) scanMounts() {
	b, err := m.mountinfo.all(&m.buf)
	if err != nil {
		m.note("storage", err)
		m.storage.replace(nil, m.statfs)
		return
	}
	m.storage.replace(m.countedMounts(parseMounts(b)), m.statfs)
	err = nil
	if len(m.storage.list) == 0 {
		err = errNoMount
	}
	m.note("storage", err)
}

// countedMounts returns the mount points of each filesystem that counts, by
// filesystem, in the order of the mount table.
func (m *Machine) countedMounts(mounts []mount) []*filesystem {
	top := make(map[string]int, len(mounts)) // of several mounts at one point the last is seen
	for i, mt := range mounts {
		top[mt.point] = i
	}
	var list []*filesystem
	byDevice := map[string]*filesystem{}
	for i, mt := range mounts {
		if top[mt.point] != i || !m.countsMount(mt) {
			continue
		}
		fs := byDevice[mt.device]
		if fs == nil {
			fs = &filesystem{device: mt.device}
			byDevice[mt.device] = fs
			list = append(list, fs)
		}
		fs.points = append(fs.points, m.path(mt.point))
	}
	return list
}

func (m *Machine) countsMount(mt mount) bool {
	if notOccupied[mt.fstype] || strings.HasPrefix(mt.fstype, "fuse.") {
		return false
	}
	major, _, _ := strings.Cut(mt.device, ":")
	if major == "0" {
		return pooled[mt.fstype] && !strings.Contains(mt.source, "@") // not a snapshot
	}
	name := mt.source
	if to, err := os.Readlink(m.path(fmt.Sprintf("sys/dev/block/%s", mt.device))); err == nil {
		name = to
	}
	name = filepath.Base(name)
	begins := func(prefix string) bool { return strings.HasPrefix(name, prefix) }
	return !slices.ContainsFunc(memoryDisks, begins) && !slices.ContainsFunc(netDisks, begins)
}
