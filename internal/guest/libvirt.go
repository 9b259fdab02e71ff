package guest

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// Libvirtd is a libvirt daemon of the test's own, beside one that the host may
// run: in a mount namespace where its configuration, state and sockets lie in
// a directory of the test.
type Libvirtd struct {
	// Socket is where it listens, for its RPC protocol.
	Socket string

	t    testing.TB
	undo *undo
	dir  string
	cmd  *exec.Cmd
	done chan struct{}
}

// NeedLibvirt is [Need] for a test that uses libvirt.
func NeedLibvirt(t testing.TB) {
	t.Helper()
	need(t, "qemu-system-x86_64", "qemu-img", "ip", "libvirtd", "virsh", "unshare")
}

// libvirtDirs are the directories of the host that the daemon has its own of,
// by their name in the test's directory.
var libvirtDirs = map[string]string{
	"etc": "/etc/libvirt", "lib": "/var/lib/libvirt", "log": "/var/log/libvirt", "run": "/run/libvirt",
}

// The daemon runs machines as root, without what would need other daemons:
// virtlogd, a security driver, polkit.
const (
	qemuConf = `user = "root"
group = "root"
security_driver = "none"
namespaces = []
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
`
	libvirtdConf = `auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_group = "root"
`
)

// StartLibvirtd runs a libvirt daemon until the test ends. The first start on
// a host takes 10 s, in which libvirt learns what QEMU can do.
func StartLibvirtd(t testing.TB) *Libvirtd {
	t.Helper()
	NeedLibvirt(t)
	HoldPIDs(t, false)
	l := &Libvirtd{t: t, undo: newUndo(t), done: make(chan struct{})}
	l.dir = l.undo.tempDir()
	l.Socket = filepath.Join(l.dir, "run", "libvirt-sock")

	// What it learnt of QEMU is kept for the next.
	parts, err := partsDir()
	if err != nil {
		t.Fatal(err)
	}
	learnt := filepath.Join(filepath.Dir(parts), "libvirt")
	script := fmt.Sprintf("set -e; mkdir -p %[1]s /var/cache/libvirt; mount --bind %[1]s /var/cache/libvirt; ", quote(learnt))
	for name, to := range libvirtDirs {
		if err := os.Mkdir(filepath.Join(l.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
		script += fmt.Sprintf("mkdir -p %[2]s; mount --bind %[1]s %[2]s; ", quote(filepath.Join(l.dir, name)), to)
	}
	for name, text := range map[string]string{"qemu.conf": qemuConf, "libvirtd.conf": libvirtdConf} {
		if err := os.WriteFile(filepath.Join(l.dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	said, err := os.Create(filepath.Join(l.dir, "libvirtd.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	l.cmd = exec.Command("unshare", "--mount", "sh", "-c",
		script+"exec libvirtd -f /etc/libvirt/libvirtd.conf -p "+quote(filepath.Join(l.dir, "libvirtd.pid")))
	l.cmd.Stdout, l.cmd.Stderr = said, said
	if err := l.cmd.Start(); err != nil {
		t.Fatalf("start libvirtd: %v", err)
	}
	l.undo.kill(strconv.Itoa(l.cmd.Process.Pid), l.dir)
	go func() {
		l.cmd.Wait()
		close(l.done)
	}()
	t.Cleanup(func() { l.Stop() })
	for end := time.Now().Add(bootPatience); ; time.Sleep(20 * time.Millisecond) {
		out, err := l.virsh("version").CombinedOutput()
		if err == nil {
			return l
		}
		select {
		case <-l.done:
		default:
			if time.Now().Before(end) {
				continue
			}
		}
		log, _ := os.ReadFile(said.Name())
		t.Fatalf("libvirtd does not answer: %v\n%s%s", err, out, log)
	}
}

// PID is the daemon's process.
func (l *Libvirtd) PID() int { return l.cmd.Process.Pid }

// Stop ends the daemon. Its machines go on until the test ends.
func (l *Libvirtd) Stop() {
	l.cmd.Process.Signal(syscall.SIGCONT) // an error means that it has ended
	l.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-l.done:
	case <-time.After(endPatience):
		l.t.Errorf("libvirtd is still there %v after SIGTERM", endPatience)
		l.cmd.Process.Kill()
		<-l.done
	}
}

func (l *Libvirtd) virsh(args ...string) *exec.Cmd {
	return exec.Command("virsh", append([]string{"-q", "-c", "qemu+unix:///system?socket=" + l.Socket}, args...)...)
}

// Virsh runs a command of virsh's and returns what it printed. It has to
// succeed.
func (l *Libvirtd) Virsh(args ...string) string {
	l.t.Helper()
	out, err := l.virsh(args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("virsh %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// Start defines a machine and starts it, as [Start] does without libvirt.
func (l *Libvirtd) Start(t testing.TB, o Options) *Guest {
	t.Helper()
	g := l.Launch(t, o)
	if !o.Paused {
		g.Ready()
	}
	return g
}

// Launch is [Libvirtd.Start] without the wait for the machine to boot.
func (l *Libvirtd) Launch(t testing.TB, o Options) *Guest {
	t.Helper()
	g := prepare(t, o)
	g.libvirt = l
	if o.Netns != "" {
		t.Fatal("libvirt starts no machine in a network namespace")
	}
	for _, n := range g.nics {
		switch n.Kind {
		case Tap:
			n.make()
			n.setUp()
		case Macvtap:
			t.Fatal("libvirt makes a macvtap itself, on an interface of its own choice")
		}
	}
	definition := g.path("domain.xml")
	if err := os.WriteFile(definition, []byte(g.xml()), 0o600); err != nil {
		t.Fatal(err)
	}
	control := g.listen()
	l.Virsh("define", definition)
	start := []string{"start", g.Name}
	if o.Paused {
		start = append(start, "--paused")
	}
	pidfile := filepath.Join(l.dir, "run", "qemu", g.Name+".pid")
	// Libvirt starts QEMU as a daemon, which outlives libvirt and the test.
	l.undo.add(`find /sys/fs/cgroup -depth -type d -path %s -exec rmdir {} \;`, quote("*-"+g.Name+".libvirt-qemu*"))
	l.undo.kill("$(cat "+quote(pidfile)+")", g.UUID)
	l.Virsh(start...)
	b, err := os.ReadFile(pidfile)
	if err == nil {
		g.pid, err = strconv.Atoi(strings.TrimSpace(string(b)))
	}
	if err == nil {
		err = g.watch()
	}
	if err != nil {
		t.Fatalf("find the QEMU of %s: %v", g.Name, err)
	}
	for _, n := range g.nics {
		if n.Kind == TapFD { // which libvirt has made
			n.setUp()
		}
	}
	g.accept(control)
	return g
}

// watch closes g.done when a process is gone that is not the test's child.
func (g *Guest) watch() error {
	fd, err := unix.PidfdOpen(g.pid, 0)
	if err != nil {
		return err
	}
	go func() {
		defer close(g.done)
		defer unix.Close(fd)
		for {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, -1)
			if n > 0 || err != nil && err != unix.EINTR {
				return
			}
		}
	}()
	return nil
}

var domain = template.Must(template.New("domain").Funcs(template.FuncMap{
	"text": func(s string) string {
		var b bytes.Buffer
		xml.EscapeText(&b, []byte(s))
		return b.String()
	},
}).Parse(`<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{{.Name}}</name>
  <uuid>{{.UUID}}</uuid>
  <memory unit='b'>{{.Memory}}</memory>
  <vcpu>{{.VCPUs}}</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{{text .Kernel}}</kernel>
    <initrd>{{text .Initramfs}}</initrd>
    <cmdline>{{text .CommandLine}}</cmdline>
  </os>
  <features><acpi/></features>
  <devices>
    <emulator>{{.Emulator}}</emulator>
{{- range .Disks}}
    <disk type='{{.Type}}' device='disk'>
      <driver name='qemu' type='{{.Format}}' cache='none'/>
      {{- if eq .Type "network"}}
      <source protocol='nbd'><host transport='unix' socket='{{text .Path}}'/></source>
      {{- else}}
      <source {{if eq .Type "block"}}dev{{else}}file{{end}}='{{text .Path}}'/>
      {{- end}}
      <target dev='{{.Target}}' bus='virtio'/>
{{- if .ReadOnly}}
      <readonly/>
{{- end}}
    </disk>
{{- end}}
{{- range .NICs}}
    <interface type='ethernet'>
      <mac address='{{.MAC}}'/>
      <target dev='{{text .Link}}' managed='{{if eq .Kind "fd"}}yes{{else}}no{{end}}'/>
      <model type='virtio'/>
    </interface>
{{- end}}
    <serial type='file'><source path='{{text .Console}}'/><target port='0'/></serial>
    <serial type='unix'><source mode='connect' path='{{text .Control}}'/><target port='1'/></serial>
    <memballoon model='virtio'/>
  </devices>
{{- if .Args}}
  <qemu:commandline>
{{- range .Args}}
    <qemu:arg value='{{text .}}'/>
{{- end}}
  </qemu:commandline>
{{- end}}
</domain>
`))

// xml is the definition of the guest as a domain of libvirt's.
func (g *Guest) xml() string {
	g.t.Helper()
	type disk struct {
		Disk
		Type, Format, Target string
	}
	emulator, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		g.t.Fatal(err)
	}
	d := struct {
		Name, UUID                     string
		Memory                         int64
		VCPUs                          int
		Kernel, Initramfs, CommandLine string
		Emulator, Console, Control     string
		Disks                          []disk
		NICs                           []*link
		Args                           []string
	}{
		Name: g.Name, UUID: g.UUID, Memory: g.opt.Memory, VCPUs: g.opt.VCPUs,
		Kernel: g.parts.kernel, Initramfs: g.path("initramfs"), CommandLine: commandLine,
		Emulator: emulator, Console: g.path("console.log"), Control: g.path("control"),
		NICs: g.nics, Args: g.opt.Args,
	}
	for i, o := range g.opt.Disks {
		kind := "file"
		format := o.format()
		if socket, ok := strings.CutPrefix(o.Path, "nbd:"); ok {
			kind, o.Path = "network", socket
		} else if o.driver() == "host_device" {
			kind = "block"
		}
		d.Disks = append(d.Disks, disk{o, kind, format, fmt.Sprintf("vd%c", 'a'+i)})
	}
	var b strings.Builder
	if err := domain.Execute(&b, d); err != nil {
		g.t.Fatal(err)
	}
	return b.String()
}
