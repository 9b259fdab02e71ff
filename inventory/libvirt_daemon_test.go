package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"golang.org/x/sys/unix"

	booted "example.org/odometer/internal/guest"
)

// libvirtdScript starts libvirtd in a mount namespace in which everything that
// it reads and keeps lies under the directory $1, users and groups included,
// whatever of libvirt is installed or runs on this machine. It starts the
// daemon for each line that it reads, and ends all that it or the daemon
// started when there are none any more, which is also when the test is killed.
const libvirtdScript = `
set -e
T=$1
echo "$2" >/proc/sys/kernel/hostname
mount --make-rprivate /
mount -t tmpfs tmpfs /run
for d in etc/libvirt run/libvirt var/lib/libvirt var/cache/libvirt var/log/libvirt; do
	mkdir -p "$T/$d" "/$d"
	mount --bind "$T/$d" "/$d"
done
cp /etc/passwd /etc/group "$T"
echo 'libvirt-qemu:x:64055:64055::/var/lib/libvirt:/usr/sbin/nologin' >>"$T/passwd"
printf 'libvirt-qemu:x:64055:\nkvm:x:64056:\n' >>"$T/group"
mount --bind "$T/passwd" /etc/passwd
mount --bind "$T/group" /etc/group
while read -r _; do
	libvirtd -f /etc/libvirt/libvirtd.conf -p "$T/libvirtd.pid" >>"$T/log" 2>&1 </dev/null &
	echo $!
done
for f in "$T"/run/libvirt/qemu/*.pid; do
	if [ -s "$f" ]; then kill -9 "$(cat "$f")" || true; fi
done
`

const qemuConf = `
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
dynamic_ownership = 0
remember_owner = 0
stdio_handler = "file"
`

// libvirtd is a daemon of the test's own, with its own network and host name.
type libvirtd struct {
	t     *testing.T
	dir   string
	pid   int
	admin *libvirt.Libvirt // over the socket that may change things

	in  io.WriteCloser
	out io.Reader
}

// startLibvirtd starts a daemon on a host of its own, whose name ends in one
// digit. like is one that was started before, nil for none: what it has found
// out about QEMU need not be found out again.
func startLibvirtd(t *testing.T, host string, like *libvirtd) *libvirtd {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "libvirtd in a namespace takes root")
	}
	for _, need := range [...]string{"libvirtd", "qemu-system-x86_64", "qemu-img", "qemu-nbd", "virsh", "mount"} {
		if _, err := exec.LookPath(need); err != nil {
			missing(t, err.Error())
		}
	}
	booted.HoldPIDs(t, false)
	d := &libvirtd{t: t, dir: t.TempDir()}
	for name, content := range map[string]string{
		"etc/libvirt/qemu.conf": qemuConf,
		"etc/libvirt/libvirtd.conf": fmt.Sprintf("auth_unix_ro = \"none\"\nauth_unix_rw = \"none\"\nunix_sock_group = \"root\"\nunix_sock_dir = %q\nhost_uuid = \"6c1f3a52-0d4e-4c0b-9a51-7f2d7f1c0d0%s\"\n",
			d.path("sock"), host),
		"log": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(d.path(name)), 0o755), os.WriteFile(d.path(name), []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(d.path("sock"), 0o755); err != nil {
		t.Fatal(err)
	}
	if like != nil {
		if err := os.CopyFS(d.path("var/cache/libvirt"), os.DirFS(like.path("var/cache/libvirt"))); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", libvirtdScript, "libvirtd", d.dir, "host-"+host)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWUTS}
	var said bytes.Buffer
	cmd.Stderr = &said
	var err error
	if d.in, err = cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if d.out, err = cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		missing(t, "a namespace cannot be made: "+err.Error())
	}
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(d.path("log"))
			t.Logf("libvirtd said:\n%s\n%s", said.String(), log)
		}
		d.in.Close()
		cmd.Wait()
	})
	d.start()
	return d
}

func (d *libvirtd) path(name string) string { return filepath.Join(d.dir, name) }

// start starts the daemon and waits until it answers. It takes some ten
// seconds for the first time, since it asks QEMU what it can do.
func (d *libvirtd) start() {
	d.t.Helper()
	io.WriteString(d.in, "start\n")
	b := make([]byte, 32)
	n, _ := d.out.Read(b)
	var err error
	if d.pid, err = strconv.Atoi(strings.TrimSpace(string(b[:n]))); err != nil {
		d.t.Fatal("libvirtd was not started")
	}
	for range 600 {
		if d.admin != nil {
			d.admin.Disconnect()
		}
		d.admin = libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(d.path("sock/libvirt-sock"))))
		if err = d.admin.Connect(); err == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	d.t.Fatal(err)
}

// signal sends a signal to a process of the test's own.
func (d *libvirtd) signal(pid int, s syscall.Signal) {
	d.t.Helper()
	if err := syscall.Kill(pid, s); err != nil {
		d.t.Fatal(err)
	}
}

// source is a Libvirt over the read-only socket.
func (d *libvirtd) source() *Libvirt {
	l := NewLibvirt(LibvirtOptions{
		Clock:  realClock{},
		Socket: d.path("sock/libvirt-sock-ro"), Run: d.path("run/libvirt/qemu"), Timeout: time.Second,
	})
	l.wait = time.Minute // a slow machine's filesystem hangs no less than another's
	d.t.Cleanup(func() { l.Close() })
	return l
}

// disk makes an image of 64 MiB.
func (d *libvirtd) disk(name string) string {
	d.t.Helper()
	path := d.path(name)
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", path, "64M").CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %s", err, out)
	}
	return path
}

// define makes a domain of 32 MiB without anything to boot.
func (d *libvirtd) define(name, uuid, metadata, devices string) libvirt.Domain {
	d.t.Helper()
	dom, err := d.admin.DomainDefineXML(tinyDomain(name, uuid, metadata, devices))
	if err != nil {
		d.t.Fatal(err)
	}
	return dom
}

func tinyDomain(name, uuid, metadata, devices string) string {
	return fmt.Sprintf(`<domain type='qemu'><name>%s</name><uuid>%s</uuid><metadata>%s</metadata>
<memory unit='MiB'>32</memory><vcpu current='1'>2</vcpu><features><acpi/></features>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><controller type='usb' model='qemu-xhci'/>%s</devices></domain>`,
		name, uuid, metadata, devices)
}

// begin starts a domain without letting it run, which costs no processor time.
func (d *libvirtd) begin(dom libvirt.Domain) libvirt.Domain {
	d.t.Helper()
	dom, err := d.admin.DomainCreateWithFlags(dom, uint32(libvirt.DomainStartPaused))
	if err != nil {
		d.t.Fatal(err)
	}
	return dom
}
