package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// park is a host with many machines: for each a process that sleeps, alone in a
// cgroup, and a tap in a network namespace that all of them live in. They are
// in the order of their names, which is the sampler's, and not in that in which
// they were made: on a real host these differ, and it costs.
type park struct {
	vms    []odometer.VM
	root   string                         // the cgroup that has theirs in it
	usage  map[odometer.InstanceID]string // of each, the file with its processor time
	sys    string                         // where the namespace's sysfs is mounted
	socket int                            // a socket of rtnetlink in the namespace
	end    chan struct{}
}

// errPark says that this host cannot have one: that takes root, cgroups and
// taps.
var errPark = errors.New("no thousand machines can be made here")

func (b *bench) newPark(n int) (*park, error) {
	p := &park{sys: b.place("sys"), socket: -1, usage: map[odometer.InstanceID]string{}, end: make(chan struct{})}
	if err := os.Mkdir(p.sys, 0o700); err != nil {
		return nil, err
	}
	done := make(chan error)
	// The thread enters another namespace and is never unlocked, so that it ends
	// with this goroutine; the machines would end with the thread.
	var fill func()
	fill = func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			go fill() // the first thread is what /proc/self shows of the process
			<-p.end
			runtime.UnlockOSThread()
			return
		}
		done <- p.fill(n)
		<-p.end
	}
	go fill()
	if err := <-done; err != nil {
		p.close()
		return nil, fmt.Errorf("%w: %w", errPark, err)
	}
	return p, nil
}

func (p *park) fill(n int) error {
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		return err
	}
	point, file, err := cgroups()
	if err != nil {
		return err
	}
	p.root = filepath.Join(point, fmt.Sprintf("odometer-bench-%d", os.Getpid()))
	if err := os.Mkdir(p.root, 0o755); err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("make a network namespace: %w", err)
	}
	// An interface that is raised would look for IPv6 neighbours by itself.
	err = os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for i := range n {
		if err := p.add(sleep, file, i); err != nil {
			return err
		}
	}
	slices.SortFunc(p.vms, func(a, b odometer.VM) int { return cmp.Compare(a.Instance, b.Instance) })
	if err := unix.Mount("sysfs", p.sys, "sysfs", unix.MS_RDONLY, ""); err != nil {
		return fmt.Errorf("mount the namespace's sysfs: %w", err)
	}
	if p.socket, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("open rtnetlink: %w", err)
	}
	return unix.Connect(p.socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
}

// cgroups finds a hierarchy of cgroups, and which file of one has its processor
// time.
func cgroups() (point, file string, err error) {
	text, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", "", err
	}
	for line := range strings.Lines(string(text)) {
		switch f := strings.Fields(line); {
		case len(f) < 4:
		case f[2] == "cgroup" && slices.Contains(strings.Split(f[3], ","), "cpuacct"):
			return f[1], "cpuacct.usage", nil
		case f[2] == "cgroup2":
			point, file = f[1], "cpu.stat"
		}
	}
	if point == "" {
		return "", "", errors.New("there is no hierarchy of cgroups")
	}
	return point, file, nil
}

func (p *park) add(sleep, file string, i int) error {
	pid, err := syscall.ForkExec(sleep, []string{"sleep", "3600"}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}})
	if err != nil {
		return err
	}
	tap := fmt.Sprint("vt", i)
	p.vms = append(p.vms, odometer.VM{
		Instance: odometer.InstanceID(fmt.Sprintf("%08x-3c55-4a0f-9d6e-%012x", uint32(i*2654435761), i)), State: odometer.Running,
		PID: pid, Run: strconv.Itoa(pid), VCPUs: 1, Memory: 1 << 30,
		NICs: []odometer.NIC{{Name: "net0", Kind: odometer.NICTap, Link: tap}},
	})
	dir := filepath.Join(p.root, fmt.Sprint("vm", i))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	p.usage[p.vms[i].Instance] = filepath.Join(dir, file)
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
		return err
	}
	return makeTap(tap)
}

// makeTap makes a tap that lives as long as its namespace, and raises it.
func makeTap(name string) error {
	tun, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	defer unix.Close(tun)
	inet, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(inet)
	kind, err1 := unix.NewIfreq(name)
	flags, err2 := unix.NewIfreq(name)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	kind.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	flags.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(tun, unix.TUNSETIFF, kind); err != nil {
		return fmt.Errorf("make tap %s: %w", name, err)
	}
	return errors.Join(unix.IoctlSetInt(tun, unix.TUNSETPERSIST, 1), unix.IoctlIfreq(inet, unix.SIOCSIFFLAGS, flags))
}

// close ends the machines. With the last of them their namespace and its taps
// go.
func (p *park) close() error {
	defer close(p.end)
	var errs []error
	if p.socket >= 0 {
		errs = append(errs, unix.Close(p.socket))
	}
	for _, vm := range p.vms {
		errs = append(errs, unix.Kill(vm.PID, unix.SIGKILL))
		_, err := unix.Wait4(vm.PID, nil, 0, nil)
		errs = append(errs, err)
	}
	if err := unix.Unmount(p.sys, 0); err != nil && !errors.Is(err, unix.EINVAL) { // it was not mounted
		errs = append(errs, err)
	}
	for _, file := range p.usage {
		errs = append(errs, removeCgroup(filepath.Dir(file)))
	}
	if p.root != "" {
		errs = append(errs, removeCgroup(p.root))
	}
	return errors.Join(errs...)
}

// removeCgroup removes one whose last process has ended, which the kernel
// notices in its own time.
func removeCgroup(dir string) (err error) {
	for range 200 {
		if err = unix.Rmdir(dir); err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("remove %s: %w", dir, err)
}
