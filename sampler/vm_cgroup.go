package sampler

import (
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// hierarchy is where a cgroup hierarchy is mounted, and which of its
// directories: in a container not always its root.
type hierarchy struct {
	controller string // of v1; "" is v2
	file       string // which counts processor time
	parse      func([]byte) (uint64, error)
	root       string
	point      string
}

// cpuHierarchies finds the hierarchies whose cgroups count processor time, the
// one to be preferred first. Each has paths of its own for the same process.
func cpuHierarchies(mounts []mount) []hierarchy {
	var v1, v2 []hierarchy
	for _, m := range mounts {
		switch {
		case m.fstype == "cgroup" && hasWord(m.options, "cpuacct"):
			v1 = append(v1, hierarchy{"cpuacct", "cpuacct.usage", parseNumber, m.root, m.point})
		case m.fstype == "cgroup2":
			v2 = append(v2, hierarchy{"", "cpu.stat", parseCPUStat, m.root, m.point})
		}
	}
	return append(v1, v2...)
}

// dir returns the directory of the cgroup with the given path, as
// /proc/PID/cgroup has it, below the host's root.
func (h *hierarchy) dir(root, cgroup string) (string, bool) {
	rest, ok := strings.CutPrefix(cgroup, strings.TrimSuffix(h.root, "/"))
	if !ok || rest != "" && rest[0] != '/' || slices.Contains(strings.Split(rest, "/"), "..") {
		return "", false // of another cgroup namespace, or beyond what is mounted
	}
	return filepath.Join(root, h.point, rest), true
}

// libvirtCgroup cuts a path off below the cgroup that libvirt made for one
// machine: the scope of systemd-machined, or the directory of a libvirt that
// runs without. Below lie emulator, iothreadN and vcpuN, each a part of it.
func libvirtCgroup(cgroup string) (string, bool) {
	for at := 0; at < len(cgroup); {
		end := len(cgroup)
		if i := strings.IndexByte(cgroup[at+1:], '/'); i >= 0 {
			end = at + 1 + i
		}
		name := cgroup[at+1 : end]
		if strings.HasPrefix(name, "machine-qemu") && strings.HasSuffix(name, ".scope") ||
			strings.HasPrefix(name, "qemu-") && strings.HasSuffix(name, ".libvirt-qemu") {
			return cgroup[:end], true
		}
		at = end
	}
	return "", false
}

// cpuCgroup is the cgroup that counts a machine's processor time.
type cpuCgroup struct {
	path  string // of the file that does
	parse func([]byte) (uint64, error)
	name  string // of the cgroup in this boot: hierarchy and inode
}

var errSharedCgroup = errors.New("no cgroup is the machine's alone")

// findCgroup finds the cgroup that belongs to the machine of process pid
// alone. An error says why there is none.
func findCgroup(root string, hierarchies []hierarchy, pid int) (cpuCgroup, error) {
	list, err := os.ReadFile(filepath.Join(root, "proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return cpuCgroup{}, err
	}
	err = errSharedCgroup
	for _, h := range hierarchies {
		cgroup, ok := cgroupOf(list, h.controller)
		if !ok {
			continue
		}
		own, made := libvirtCgroup(cgroup)
		if made {
			cgroup = own
		}
		dir, ok := h.dir(root, cgroup)
		if !ok || !made && (path.Clean(cgroup) == "/" || !ownsCgroup(root, dir, pid)) {
			continue
		}
		var st unix.Stat_t
		if err = unix.Stat(dir, &st); err != nil {
			err = fmt.Errorf("stat %s: %w", dir, err)
			continue
		}
		return cpuCgroup{
			path: filepath.Join(dir, h.file), parse: h.parse,
			name: fmt.Sprintf("cgroup%s:%d", h.controller, st.Ino),
		}, nil
	}
	return cpuCgroup{}, err
}

// mostProcesses is how many processes a machine's cgroup may have beside the
// machine itself. More are not looked at one by one.
const mostProcesses = 64

// ownsCgroup reports whether all processes in a cgroup and below it are the
// machine's process and its descendants.
func ownsCgroup(root, dir string, pid int) bool {
	list, ok := cgroupProcesses(dir, nil)
	if !ok || !slices.Contains(list, pid) {
		return false
	}
	for _, p := range list {
		if !descends(root, p, pid) {
			return false
		}
	}
	return true
}

func cgroupProcesses(dir string, list []int) ([]int, bool) {
	b, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		// A threaded cgroup of v2 does not list processes; they are in its parent's list.
		return list, errors.Is(err, unix.EOPNOTSUPP)
	}
	for line := range strings.Lines(string(b)) {
		p, err := strconv.Atoi(strings.TrimSpace(line))
		if err != nil || p <= 0 || len(list) > mostProcesses { // 0 is a process of another PID namespace
			return nil, false
		}
		list = append(list, p)
	}
	entries, err := os.ReadDir(dir)
	ok := err == nil
	for _, e := range entries {
		if ok && e.IsDir() {
			list, ok = cgroupProcesses(filepath.Join(dir, e.Name()), list)
		}
	}
	return list, ok
}

// descends reports whether a process is another one or was started by it,
// over any number of generations.
func descends(root string, p, from int) bool {
	for range mostProcesses {
		if p == from {
			return true
		}
		b, err := os.ReadFile(filepath.Join(root, "proc", strconv.Itoa(p), "stat"))
		if errors.Is(err, os.ErrNotExist) {
			return true // it has ended meanwhile, and with it the question
		}
		st, err2 := parseProcessStat(b)
		if err != nil || err2 != nil || st.parent <= 1 {
			return false
		}
		p = int(st.parent)
	}
	return false
}
