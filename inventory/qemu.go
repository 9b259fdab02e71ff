package inventory

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"example.org/odometer"
)

// The options of QEMU are documented in qemu(1); those that take no value, so
// that the argument after them is an option again, are:
var qemuSwitches = set("S", "s", "h", "help", "version", "nographic", "daemonize", "enable-kvm", "no-kvm",
	"no-user-config", "nodefaults", "nodefconfig", "snapshot", "no-reboot", "no-shutdown", "no-acpi", "no-hpet",
	"usb", "full-screen", "no-fd-bootchk", "win2k-hack", "only-migratable", "preconfig", "no-quit", "portrait",
	"singlestep", "mem-prealloc", "sdl", "curses", "no-frame", "alt-grab", "ctrl-grab", "no-kvm-irqchip",
	"no-kvm-pit", "no-kvm-pit-reinjection", "tdf", "semihosting", "old-param", "enable-fips", "async-teardown",
	"xen-attach", "xen-create", "localtime", "std-vga", "enable-sync-profile")

// Those whose value may be anything, also something that looks like an option:
// a kernel's command line is the tenant's to write.
var qemuTexts = set("append", "kernel", "initrd", "dtb", "bios", "name", "uuid", "fw_cfg", "m", "smp", "device", "drive",
	"blockdev", "netdev", "nic", "net", "object", "chardev", "mon", "qmp", "qmp-pretty", "monitor", "smbios", "hda", "hdb",
	"hdc", "hdd", "readconfig", "machine", "M", "id", "incoming", "cpu", "global", "set", "D", "d", "L", "pidfile",
	"cdrom", "fda", "fdb", "loadvm", "runas", "user", "chroot", "serial", "parallel", "display", "vnc", "spice", "k")

func set(names ...string) map[string]bool {
	m := make(map[string]bool, len(names))
	for _, n := range names {
		m[n] = true
	}
	return m
}

// qemuLine is QEMU's command line, taken apart.
type qemuLine struct {
	*guest
	machine  string
	name     options
	mem, smp options
	drives   []options // -drive, -hda and the like, in order
	nodes    map[string]options
	netdevs  []options
	nics     []options // -nic
	nets     []options // -net, of before 2018
	chardevs map[string]options
	mons     []options
	backends map[string]options // -object memory-backend-*
	devices  []options
	steps    int // taken from node to node for the disk at hand
}

// parseQEMU reads QEMU's command line. What it does not understand it leaves
// out; where that would leave out something that is metered, it says so.
func parseQEMU(args []string) *guest {
	q := &qemuLine{guest: newGuest(qemu), nodes: map[string]options{}, chardevs: map[string]options{}, backends: map[string]options{}}
	said := set()
	for i := 1; i < len(args); i++ {
		name, ok := strings.CutPrefix(args[i], "-")
		name = strings.TrimPrefix(name, "-")
		if !ok {
			q.drives = append(q.drives, options{{"file", args[i]}, {"index", "0"}})
			continue
		}
		said[name] = true
		if qemuSwitches[name] || i+1 == len(args) || !qemuTexts[name] && strings.HasPrefix(args[i+1], "-") {
			continue
		}
		i++
		if err := q.take(name, args[i]); err != nil {
			q.problem("-%s is not understood: %v", name, err)
		}
	}
	q.daemonize = said["daemonize"]
	// libvirt asks what a binary can do by running it without a machine.
	q.probe = said["version"] || said["help"] || said["h"] || isHelp(q.machine) ||
		q.machine == "none" && q.uuid == "" && !said["name"]
	for _, d := range q.devices {
		q.probe = q.probe || isHelp(d.get("driver"))
	}
	q.identify()
	q.size(path.Base(args[0]))
	q.control()
	q.attach()
	q.network()
	return q.guest
}

func isHelp(s string) bool { return s == "help" || s == "?" }

// take files one option away.
func (q *qemuLine) take(name, value string) error {
	parse := func(implied string) (options, error) { return parseOptions(value, implied) }
	add := func(to *[]options, implied string) error {
		o, err := parse(implied)
		if err == nil {
			*to = append(*to, o)
		}
		return err
	}
	keyed := func(to map[string]options, implied, key string) error {
		o, err := parse(implied)
		if err == nil {
			to[o.get(key)] = o
		}
		return err
	}
	var err error
	switch name {
	case "uuid":
		if q.uuid = uuidOf(value); q.uuid == "" {
			q.problem("-uuid %q is no UUID that tells machines apart", value)
		}
	case "smbios":
		// QEMU takes the machine's UUID from here as well.
		if o, _ := parse(""); o.get("type") == "1" && o.get("uuid") != "" {
			q.uuid = uuidOf(o.get("uuid"))
		}
	case "id":
		q.id, q.idName = value, "proxmox_vmid"
	case "name":
		q.name, err = parse("guest")
	case "machine", "M":
		var o options
		o, err = parse("type")
		q.machine = o.get("type")
	case "m":
		var o options
		o, err = parse("size")
		q.mem = append(q.mem, o...)
	case "smp":
		var o options
		o, err = parse("cpus")
		q.smp = append(q.smp, o...)
	case "drive":
		err = add(&q.drives, "")
	case "hda", "hdb", "hdc", "hdd":
		q.drives = append(q.drives, options{{"file", value}, {"index", strconv.Itoa(int(name[2] - 'a'))}})
	case "blockdev":
		err = keyed(q.nodes, "driver", "node-name")
	case "device":
		err = add(&q.devices, "driver")
	case "netdev":
		err = add(&q.netdevs, "type")
	case "nic":
		err = add(&q.nics, "type")
	case "net":
		err = add(&q.nets, "type")
	case "chardev":
		err = keyed(q.chardevs, "backend", "id")
	case "mon":
		err = add(&q.mons, "chardev")
	case "qmp", "qmp-pretty":
		if p, ok := strings.CutPrefix(value, "unix:"); ok {
			var o options
			if o, err = parseOptions(p, "path"); err == nil {
				q.socket = first(q.socket, o.get("path"))
				q.monitor(o)
			}
		}
	case "object":
		err = keyed(q.backends, "qom-type", "id")
	case "readconfig":
		q.problem("-readconfig %s: what stands in that file is not read", value)
	}
	return err
}

func (q *qemuLine) identify() {
	q.guest.name = q.name.get("guest")
}

// size says what the machine was given. -m is in MiB unless it says otherwise;
// what may be plugged in later (maxmem) is not given yet, a DIMM that is there
// from the start is.
func (q *qemuLine) size(binary string) {
	// What QEMU takes where nothing is told depends on machine and processor.
	common := q.machine == "" && (strings.HasSuffix(binary, "x86_64") || strings.HasSuffix(binary, "i386") || strings.HasSuffix(binary, "kvm"))
	for _, m := range []string{"pc", "q35", "microvm", "virt"} {
		common = common || q.machine == m || strings.HasPrefix(q.machine, m+"-")
	}
	switch size, told := q.mem.lookup("size"); {
	case told:
		n, ok := parseSize(size, 1<<20)
		if !ok {
			q.problem("memory: -m size=%q is no size", size)
			break
		}
		q.memory = n
	case common:
		q.memory = 128 << 20
	default:
		q.problem("memory: no -m, and what machine %q has then is not known", q.machine)
	}
	switch n, ok := smpCPUs(q.smp); {
	case !ok:
		q.problem("vCPUs: -smp is not understood")
	case len(q.smp) > 0 || common:
		q.vcpus = n
	default:
		q.problem("vCPUs: no -smp, and what machine %q has then is not known", q.machine)
	}
	for _, d := range q.devices {
		driver := d.get("driver")
		switch {
		case driver == "pc-dimm" || driver == "virtio-mem-pci" || driver == "virtio-mem":
			backend := q.backends[d.get("memdev")]
			size := backend.get("size")
			if strings.HasPrefix(driver, "virtio-mem") {
				size = d.get("requested-size") // what the guest may have of it now
				if size == "" {
					size = "0"
				}
			}
			n, ok := parseSize(size, 1)
			if !ok || q.memory == odometer.Unknown || q.memory+n < q.memory {
				q.problem("memory: the size of %s is not understood", d.get("id"))
				q.memory = odometer.Unknown
				continue
			}
			q.memory += n
		case strings.HasSuffix(driver, "-x86_64-cpu") || strings.HasSuffix(driver, "-i386-cpu"):
			if q.vcpus != odometer.Unknown {
				q.vcpus++
			}
		}
	}
}

// smpCPUs returns how many processors -smp gives: cpus, or else maxcpus, or
// else the product of the levels that are named.
func smpCPUs(o options) (int64, bool) {
	product := int64(1)
	for _, level := range []string{"drawers", "books", "sockets", "dies", "clusters", "modules", "cores", "threads"} {
		if v, told := o.lookup(level); told {
			n, ok := parseCount(v)
			if !ok {
				return 0, false
			}
			if product *= max(n, 1); product > 1<<20 {
				return 0, false
			}
		}
	}
	for _, key := range []string{"cpus", "maxcpus"} {
		if v, told := o.lookup(key); told && v != "" {
			if n, ok := parseCount(v); !ok || n > 0 {
				return n, ok
			}
		}
	}
	return product, true
}

// control finds the QMP sockets that wait for others to connect.
func (q *qemuLine) control() {
	for _, m := range q.mons {
		c := q.chardevs[m.get("chardev")]
		if m.get("mode") == "control" && c.get("backend") == "socket" && c.on("server") {
			q.socket = first(q.socket, c.get("path"))
			q.monitor(c)
		}
	}
}

// libvirtMonitor is the id of the monitor by which libvirt rules a machine.
const libvirtMonitor = "charmonitor"

// monitor notes a socket that may be asked. Not libvirt's, which connects again
// after a restart; nor one at which QEMU waits for whoever started it, since the
// machine would begin with the first who connects.
func (q *qemuLine) monitor(o options) {
	if wait, told := o.lookup("wait"); !o.on("server") || !told || wait != "off" || o.get("id") == libvirtMonitor || o.get("path") == "" {
		return
	}
	q.monitors = append(q.monitors, o.get("path"))
}

// network joins each device to what is behind it.
func (q *qemuLine) network() {
	backends := map[string]options{}
	for _, n := range q.netdevs {
		backends[n.get("id")] = n
	}
	for _, d := range q.devices {
		id := d.get("netdev")
		if id == "" {
			continue
		}
		n, ok := backends[id]
		if !ok {
			q.problem("interface %s: there is no -netdev %s", d.get("id"), id)
			continue
		}
		q.addNIC(first(d.get("id"), id), d.get("mac"), n, plug{d.get("id"), id})
	}
	for i, n := range q.nics {
		if n.get("type") != "none" {
			q.addNIC(first(n.get("id"), fmt.Sprintf("nic%d", i)), n.get("mac"), n, plug{})
		}
	}
	var mac []string
	for _, n := range q.nets {
		if n.get("type") == "nic" {
			mac = append(mac, n.get("macaddr"))
		}
	}
	i := 0
	for _, n := range q.nets {
		if t := n.get("type"); t == "nic" || t == "none" || t == "dump" {
			continue
		}
		var address string
		if i < len(mac) {
			address = mac[i]
		}
		q.addNIC(first(n.get("name"), fmt.Sprintf("net%d", i)), address, n, plug{})
		i++
	}
}

func (q *qemuLine) addNIC(name, mac string, backend options, p plug) {
	n := guestNIC{NIC: odometer.NIC{Name: name, MAC: strings.ToLower(mac)}, fd: -1, plug: p}
	switch backend.get("type") {
	case "tap", "bridge":
		n.Kind = odometer.NICTap
		fds := first(backend.get("fd"), backend.get("fds"), backend.get("fds.0.str"))
		fd, _, _ := strings.Cut(fds, ":")
		if number, err := strconv.ParseUint(fd, 10, 31); err == nil {
			n.fd = int(number)
			break
		}
		n.Link = backend.get("ifname")
		// The kernel numbers a name with a %, and without one takes tap%d.
		if n.Link == "" || strings.Contains(n.Link, "%") {
			n.Link, n.open = "", true
		}
	case "vhost-user":
		n.Kind = odometer.NICVhost
	case "vhost-vdpa":
		n.Kind = odometer.NICDirect
	case "user":
		n.Kind = odometer.NICUser
	default:
		n.Kind = odometer.NICUnknown
		q.problem("interface %s: traffic over -netdev %s is not measured", name, backend.get("type"))
	}
	q.guest.nics = append(q.guest.nics, n)
}

// first returns the first of the values that is not empty.
func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}
