package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"example.org/odometer"
)

// libvirtHost is what the host's own files tell of its domains.
type libvirtHost struct {
	root string // under which proc and sys are found
	run  string // where libvirt keeps the process ids of its hypervisors
}

// hypervisor is the process of a running domain.
type hypervisor struct {
	pid   int
	start uint64 // in ticks since boot, see [startTime]
}

// find returns the process of a running domain. The file that libvirt keeps
// names it, and its command line must agree: the file of a domain that died
// with libvirtd may lie there for long, and the number be another's by now.
func (h *libvirtHost) find(name string, id odometer.InstanceID) (hypervisor, error) {
	b, err := os.ReadFile(filepath.Join(h.run, name+".pid"))
	if err != nil {
		return hypervisor{}, fmt.Errorf("find the process of domain %s: %w", name, err)
	}
	pid, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 31)
	if err != nil || pid == 0 {
		return hypervisor{}, fmt.Errorf("find the process of domain %s: no process id in %s.pid", name, filepath.Join(h.run, name))
	}
	p := hypervisor{pid: int(pid)}
	if p.start, err = h.started(p.pid); err != nil {
		return hypervisor{}, fmt.Errorf("find the process of domain %s: %w", name, err)
	}
	args, err := os.ReadFile(h.proc(p.pid, "cmdline"))
	if err != nil {
		return hypervisor{}, fmt.Errorf("find the process of domain %s: %w", name, err)
	}
	// The command line was that of the process which started then only if that
	// is still the one with the number.
	if again, err := h.started(p.pid); err != nil || again != p.start || !belongs(args, name, id) {
		return hypervisor{}, fmt.Errorf("find the process of domain %s: process %d is not its hypervisor", name, p.pid)
	}
	return p, nil
}

// alive reports whether p is still there.
func (h *libvirtHost) alive(p hypervisor) bool {
	start, err := h.started(p.pid)
	return err == nil && start == p.start
}

func (h *libvirtHost) proc(pid int, name string) string {
	return filepath.Join(h.root, "proc", strconv.Itoa(pid), name)
}

func (h *libvirtHost) started(pid int) (uint64, error) {
	b, err := os.ReadFile(h.proc(pid, "stat"))
	if err != nil {
		return 0, err
	}
	return startTime(b)
}

// bootID names this boot of the host, "" where it cannot be read.
func (h *libvirtHost) bootID() string {
	id, err := h.read("proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return id
}

// startTime reads from /proc/PID/stat when the process began, in ticks since
// boot.
func startTime(stat []byte) (uint64, error) {
	s, err := parseProcStat(stat)
	if err == nil && s.start > math.MaxInt64 {
		err = errProcStat
	}
	if err != nil {
		return 0, fmt.Errorf("read the start of a process: its stat is cut short or malformed: %w", err)
	}
	return s.start, nil
}

// belongs reports whether the arguments of a hypervisor are those of a domain.
func belongs(args []byte, name string, id odometer.InstanceID) bool {
	list := strings.Split(string(args), "\x00")
	for i, arg := range list {
		if strings.TrimLeft(arg, "-") == "uuid" && i+1 < len(list) {
			return strings.EqualFold(list[i+1], string(id))
		}
	}
	for _, arg := range list {
		guest, ok := strings.CutPrefix(arg, "guest=")
		guest, _, _ = strings.Cut(guest, ",")
		if ok && guest == name {
			return true
		}
	}
	return false
}

// settle adds to a domain what only the host knows: what the devices are that
// are passed to it, see [hostDevice.place], and what is behind an interface that
// somebody else made. What the host does not say is named in the error.
func (h *libvirtHost) settle(d *domain) error {
	var problems []error
	for i := range d.vm.NICs {
		n := &d.vm.NICs[i]
		if n.Kind == odometer.NICTap && n.Link != "" && h.there("sys/class/net", n.Link, "macvtap") {
			n.Kind = odometer.NICMacvtap
		}
	}
	for _, dev := range d.devices {
		if err := dev.place(filepath.Join(h.root, "sys"), &d.vm); err != nil {
			problems = append(problems, fmt.Errorf("domain %s: %w", d.vm.Name, err))
		}
	}
	return errors.Join(problems...)
}

func (h *libvirtHost) read(path ...string) (string, error) {
	return word(filepath.Join(h.root, filepath.Join(path...)))
}

func (h *libvirtHost) there(path ...string) bool {
	_, err := os.Lstat(filepath.Join(h.root, filepath.Join(path...)))
	return err == nil
}
