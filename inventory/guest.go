package inventory

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"example.org/odometer"
)

// guest is what a hypervisor's command line tells of its machine. What it does
// not tell (sizes of files, names of interfaces that were passed as open files)
// is looked up by whoever knows the process.
type guest struct {
	source string // see odometer.VM
	uuid   string
	name   string
	label  string // stands for the name in the identity: a jail's id, the base name of a socket
	socket string // of QMP or the API, as the process sees its path
	// monitors are the sockets that may be asked, the first that is free.
	monitors []string
	id       string // an operator's own, as an attribute
	idName   string // of that attribute
	config   string // a file that has the rest, as the process sees its path
	vcpus    int64
	memory   int64
	balloon  int64 // bytes of memory that it has taken
	disks    []guestDisk
	nics     []guestNIC
	devices  []hostDevice

	daemonize bool // the process that was started goes on as its child
	probe     bool // a question to the hypervisor's binary, no machine
	likely    bool // told by its arguments only: the binary has a name of its own

	problems []string
}

// guestDisk is a disk before its file was looked at.
type guestDisk struct {
	odometer.Disk
	look    bool // Path is a file or block device, as the process sees it
	chained bool // Backing is what the hypervisor says, whatever the file says
	sized   bool // Provisioned is what the hypervisor says
	plug
}

// guestNIC is an interface before its tap was looked up.
type guestNIC struct {
	odometer.NIC
	fd   int  // of /dev/net/tun or /dev/tapN in the process; -1 none
	open bool // the process opened the tap itself: one of its open files
	plug
}

// plug is how QEMU calls a device that was named on its command line: the id of
// the device, without which it cannot be unplugged, and what it is joined to, of
// its -drive, -blockdev or -netdev.
type plug struct{ id, back string }

// hostDevice is a device of the host that was passed on: a PCI device by its
// address, or a directory of sysfs.
type hostDevice struct {
	name, address, sysfs string
	plug
}

func newGuest(source string) *guest {
	return &guest{source: source, vcpus: odometer.Unknown, memory: odometer.Unknown}
}

func (g *guest) problem(format string, args ...any) {
	g.problems = append(g.problems, fmt.Sprintf(format, args...))
}

// hypervisors, as [odometer.VM.Source] names them.
const (
	qemu            = "qemu"
	cloudHypervisor = "cloud-hypervisor"
	firecracker     = "firecracker"
)

// recognise reads the arguments of a process, or returns nil where it is no
// hypervisor. exe is the path of its binary, "" where that cannot be read.
// A wrapper that keeps running (sudo, timeout, strace) is none, although the
// whole command line of a machine stands in its own.
func recognise(args []string, exe string) *guest {
	if len(args) == 0 {
		return nil
	}
	kind, likely := kindOf(path.Base(args[0])), false
	if kind == "" {
		// The kernel says " (deleted)" of a binary that was replaced.
		kind = kindOf(path.Base(strings.TrimSuffix(exe, " (deleted)")))
	}
	if kind == "" {
		kind, likely = kindByArguments(args[1:]), true
	}
	var g *guest
	switch kind {
	case qemu:
		g = parseQEMU(args)
	case cloudHypervisor:
		g = parseCloudHypervisor(args)
	case firecracker:
		g = parseFirecracker(args)
	}
	if g == nil || g.probe {
		return nil
	}
	g.likely = likely
	return g
}

// kindOf tells a hypervisor by the name of its binary.
func kindOf(base string) string {
	switch {
	case strings.HasPrefix(base, "qemu-system-"), base == "qemu-kvm", base == "kvm", base == "qemu":
		return qemu
	case base == "cloud-hypervisor", strings.HasPrefix(base, "cloud-hypervisor-"):
		return cloudHypervisor
	case base == "firecracker", strings.HasPrefix(base, "firecracker-v"):
		return firecracker
	}
	return ""
}

// kindByArguments tells a hypervisor whose binary has another name by options
// that no other program has in such company.
func kindByArguments(args []string) string {
	if len(args) < 2 || !strings.HasPrefix(args[0], "-") {
		return ""
	}
	has := map[string]bool{}
	for _, a := range args {
		if base := path.Base(a); kindOf(base) != "" && !strings.HasPrefix(a, "-") && a != "kvm" && a != "qemu" {
			return "" // a wrapper, and this what it wraps; -accel kvm is none
		}
		name, _, _ := strings.Cut(a, "=")
		has[name] = true
	}
	any := func(names ...string) bool { return slices.ContainsFunc(names, func(n string) bool { return has[n] }) }
	switch {
	case any("-machine", "-M", "-accel", "-enable-kvm") && any("-m", "-smp") && any("-device", "-drive", "-blockdev", "-netdev", "-nic", "-uuid", "-qmp"):
		return qemu
	case any("--kernel", "--firmware") && has["--memory"] && any("--disk", "--cpus"):
		return cloudHypervisor
	case has["--api-sock"] || has["--start-time-us"] && has["--id"]:
		return firecracker
	}
	return ""
}

// splitArgs splits the content of /proc/PID/cmdline.
func splitArgs(s string) []string {
	s = strings.TrimRight(s, "\x00")
	if s == "" {
		return nil
	}
	return strings.Split(s, "\x00")
}
