package inventory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/digitalocean/go-libvirt"
)

const (
	webUUID = "6c1f3a52-0d4e-4c0b-9a51-7f2d7f1c0a01"
	novaXML = `<nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"><nova:name>web</nova:name>
<nova:flavor name="m1.tiny"/><nova:owner><nova:user uuid="u1">ada</nova:user><nova:project uuid="p1">acme</nova:project></nova:owner></nova:instance>`
)

// TestLibvirt takes a real libvirtd and real QEMUs through all that becomes of
// a machine. The parts stand in this order: each goes on from the one before.
func TestLibvirt(t *testing.T) {
	if testing.Short() {
		t.Skip("libvirtd takes ten seconds to start")
	}
	before := runtime.NumGoroutine()
	d := startLibvirtd(t, "1", nil)
	l := d.source()
	w := &libvirtWatch{t: t, d: d, l: l}

	part := func(name string, f func()) {
		t.Helper()
		if t.Failed() {
			t.FailNow()
		}
		start := time.Now()
		f()
		t.Logf("%s: %s", time.Since(start).Round(time.Millisecond), name)
	}

	part("a host without domains has an empty list", func() {
		if vms := w.list(); len(vms) != 0 {
			t.Errorf("got %+v", vms)
		}
	})

	vda, cd := d.disk("vda.qcow2"), d.disk("cd.iso")
	var web libvirt.Domain
	want := odometer.VM{
		Instance: webUUID, Name: "web", Source: "libvirt", State: odometer.Stopped, VCPUs: 1, Memory: 32 << 20,
		Attributes: map[string]string{
			"openstack.name": "web", "openstack.flavor": "m1.tiny", "openstack.user": "ada", "openstack.user_id": "u1",
			"openstack.project": "acme", "openstack.project_id": "p1",
		},
		Disks: []odometer.Disk{
			{Name: "vda", Kind: odometer.DiskFile, Path: vda, Format: "qcow2", Provisioned: 64 << 20},
			{Name: "sda", Kind: odometer.DiskFile, Path: cd, Format: "raw", Provisioned: sizeOf(t, cd), ReadOnly: true},
		},
		NICs: []odometer.NIC{
			{Name: "net0", Kind: odometer.NICUser, MAC: "52:54:00:00:00:01"},
			{Name: "net1", Kind: odometer.NICTap, MAC: "52:54:00:00:00:02", Link: "tapweb"},
		},
	}
	part("a domain that is defined is stopped, and has its disks and owner", func() {
		web = d.define("web", webUUID, novaXML, fmt.Sprintf(`
<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='vda' bus='virtio'/></disk>
<disk type='file' device='cdrom'><driver name='qemu' type='raw'/><source file='%s'/><target dev='sda' bus='sata'/></disk>
<interface type='user'><mac address='52:54:00:00:00:01'/></interface>
<interface type='ethernet'><mac address='52:54:00:00:00:02'/><target dev='tapweb'/></interface>`, vda, cd))
		w.hears(webUUID, odometer.ChangeDefined, "")
		if got := w.vm(webUUID); !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})

	var run string
	part("one that starts has its process", func() {
		web = d.begin(web)
		w.hears(webUUID, odometer.ChangeStarted, "booted")
		got := w.vm(webUUID)
		pid := d.pidOf("web")
		if got.PID != pid || got.Began <= 0 || !strings.Contains(got.Run, fmt.Sprintf("/%d/", pid)) {
			t.Errorf("got process %d since %d, run %s; want process %d", got.PID, got.Began, got.Run, pid)
		}
		if age := hostNow().Boot - got.Began; age < 0 || age > 60*odometer.SecondMicros {
			t.Errorf("it began %d µs ago", age)
		}
		run = got.Run
		want := want
		want.State, want.PID, want.Run, want.Began = odometer.Paused, got.PID, got.Run, got.Began
		want.NICs = slices.Clone(want.NICs)
		if !reflect.DeepEqual(got, want) {
			t.Errorf("got  %+v\nwant %+v", got, want)
		}
	})

	part("it is resumed, suspended and rebooted in the same run", func() {
		w.ok(d.admin.DomainResume(web))
		w.hears(webUUID, odometer.ChangeResumed, "")
		if got := w.vm(webUUID); got.State != odometer.Running || got.Run != run {
			t.Errorf("got %s in run %s", got.State, got.Run)
		}
		w.ok(d.admin.DomainReset(web, 0))
		w.hears(webUUID, odometer.ChangeRebooted, "")
		w.ok(d.admin.DomainSuspend(web))
		w.hears(webUUID, odometer.ChangePaused, "")
		if got := w.vm(webUUID); got.State != odometer.Paused || got.Run != run {
			t.Errorf("got %s in run %s", got.State, got.Run)
		}
	})

	part("a disk is attached and detached", func() {
		stick := fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='sdb' bus='usb'/></disk>`,
			d.disk("stick.qcow2"))
		w.ok(d.admin.DomainAttachDevice(web, stick))
		w.hears(webUUID, "", "device usb-disk1 came")
		if got := w.vm(webUUID).Disks; len(got) != 3 || got[2].Name != "sdb" || got[2].Path != d.path("stick.qcow2") {
			t.Errorf("got %+v, want sdb too", got)
		}
		w.ok(d.admin.DomainDetachDevice(web, stick))
		w.hears(webUUID, "", "device usb-disk1 went")
		if got := w.vm(webUUID).Disks; !reflect.DeepEqual(got, want.Disks) {
			t.Errorf("got %+v, want %+v", got, want.Disks)
		}
	})

	part("a snapshot lays an image over another", func() {
		_, err := d.admin.DomainSnapshotCreateXML(web, fmt.Sprintf(
			`<domainsnapshot><disks><disk name='vda'><source file='%s'/></disk><disk name='sda' snapshot='no'/></disks></domainsnapshot>`, d.path("over.qcow2")),
			uint32(libvirt.DomainSnapshotCreateDiskOnly|libvirt.DomainSnapshotCreateNoMetadata))
		w.ok(err)
		w.ok(d.admin.DomainSetMetadata(web, 1, libvirt.OptString{"the front"}, nil, nil, libvirt.DomainAffectLive)) // a title
		w.hears(webUUID, "", "its metadata was changed")
		got := w.vm(webUUID)
		if disk := got.Disks[0]; disk.Path != d.path("over.qcow2") || !slices.Equal(disk.Backing, []string{vda}) {
			t.Errorf("got %+v, want it over %s", disk, vda)
		}
		if got.Attributes["libvirt.title"] != "the front" {
			t.Errorf("got %v", got.Attributes)
		}
	})

	part("a processor is plugged in", func() {
		w.ok(d.admin.DomainSetVcpusFlags(web, 2, uint32(libvirt.DomainVCPULive)))
		// Nothing tells: it is seen when the description gets old.
		l.known[web.UUID].described = time.Now().Add(-describedFor)
		if got := w.vm(webUUID).VCPUs; got != 2 {
			t.Errorf("got %d processors, want 2", got)
		}
	})

	part("it is destroyed", func() {
		w.ok(d.admin.DomainDestroy(web))
		w.hears(webUUID, odometer.ChangeStopped, "destroyed")
		if got := w.vm(webUUID); got.State != odometer.Stopped || got.Run != "" || got.PID != 0 || got.Began != 0 {
			t.Errorf("got %+v", got)
		}
	})

	part("a hypervisor that is killed has crashed, and the next run is another", func() {
		web = d.begin(web)
		w.hears(webUUID, odometer.ChangeStarted, "booted")
		got := w.vm(webUUID)
		if got.Run == run || got.Run == "" {
			t.Errorf("got run %q after %q", got.Run, run)
		}
		d.signal(got.PID, syscall.SIGKILL)
		w.hears(webUUID, odometer.ChangeCrashed, "its hypervisor failed")
		if got := w.vm(webUUID); got.State != odometer.Stopped || got.Run != "" {
			t.Errorf("got %+v", got)
		}
	})

	part("what happened while there was no connection is told by the state", func() {
		web = d.begin(web)
		w.hears(webUUID, odometer.ChangeStarted, "booted")
		w.vm(webUUID)
		l.ears.close()
		w.ok(d.admin.DomainDestroy(web))
		if got := w.vm(webUUID); got.State != odometer.Stopped {
			t.Errorf("got %+v", got)
		}
		w.hears(webUUID, odometer.ChangeStopped, "destroyed")
	})

	part("it is undefined", func() {
		w.ok(d.admin.DomainUndefine(web))
		w.hears(webUUID, odometer.ChangeDeleted, "")
		if vms := w.list(); len(vms) != 0 {
			t.Errorf("got %+v", vms)
		}
	})

	const brief = "6c1f3a52-0d4e-4c0b-9a51-7f2d7f1c0a02"
	part("a domain that is nowhere defined comes and goes", func() {
		dom, err := d.admin.DomainCreateXML(tinyDomain("brief", brief, "", ""), libvirt.DomainStartPaused)
		w.ok(err)
		w.hears(brief, odometer.ChangeStarted, "booted")
		if got := w.vm(brief); got.State != odometer.Paused || got.PID == 0 {
			t.Errorf("got %+v", got)
		}
		w.ok(d.admin.DomainDestroy(dom))
		w.hears(brief, odometer.ChangeStopped, "destroyed")
		if vms := w.list(); len(vms) != 0 {
			t.Errorf("got %+v", vms)
		}
	})

	part("volumes have the path and size that their pool knows", w.volumes)
	part("a domain moves to another host, and never runs on both", w.moves)
	w.hung()
	part("nothing is left behind", func() {
		w.ok(l.Close())
		if _, err := l.List(t.Context()); err == nil {
			t.Error("a source that is closed lists")
		}
		d.admin.Disconnect()
		for range 100 {
			if runtime.NumGoroutine() <= before+3 { // exec's, for its pipes
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		b := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
	})
}

// libvirtWatch is a source under test and the daemon behind it.
type libvirtWatch struct {
	t *testing.T
	d *libvirtd
	l *Libvirt
}

func (w *libvirtWatch) ok(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// list is a list in which everything is right.
func (w *libvirtWatch) list() []odometer.VM {
	w.t.Helper()
	vms, err := w.l.List(w.t.Context())
	w.ok(err)
	if p := w.l.Problems(); len(p) > 0 {
		w.t.Errorf("problems: %q", p)
	}
	return vms
}

func (w *libvirtWatch) vm(id odometer.InstanceID) odometer.VM {
	w.t.Helper()
	vms := w.list()
	for _, vm := range vms {
		if vm.Instance == id {
			return vm
		}
	}
	w.t.Fatalf("%s is not in %+v", id, vms)
	return odometer.VM{}
}

// hears waits for a change, passing over others.
func (w *libvirtWatch) hears(id odometer.InstanceID, kind odometer.ChangeKind, detail string) {
	w.t.Helper()
	var others []odometer.Change
	for late := time.After(10 * time.Second); ; {
		select {
		case c := <-w.l.Told():
			if c.Instance == id && c.Kind == kind && c.Detail == detail {
				if age := hostNow().Boot - c.At.Boot; age < 0 || age > 10*odometer.SecondMicros {
					w.t.Errorf("it happened %d µs ago", age)
				}
				return
			}
			others = append(others, c)
		case <-late:
			w.t.Fatalf("%s %q of %s was not told, but %+v", kind, detail, id, others)
		}
	}
}

// forget makes the next list ask for everything anew, as time would.
func (k *knownDomain) forget() { k.described, k.text, k.sizes = time.Time{}, "", nil }

func (d *libvirtd) pidOf(name string) int {
	d.t.Helper()
	b, err := os.ReadFile(d.path("run/libvirt/qemu/" + name + ".pid"))
	if err != nil {
		d.t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		d.t.Fatal(err)
	}
	return pid
}

func (w *libvirtWatch) volumes() {
	const id = "6c1f3a52-0d4e-4c0b-9a51-7f2d7f1c0a03"
	w.ok(os.Mkdir(w.d.path("pool"), 0o755))
	w.d.disk("pool/vol.qcow2")
	pool, err := w.d.admin.StoragePoolCreateXML(fmt.Sprintf(`<pool type='dir'><name>p</name><target><path>%s</path></target></pool>`, w.d.path("pool")), 0)
	w.ok(err)
	dom := w.d.define("vol", id, "", `<disk type='volume'><driver name='qemu' type='qcow2'/><source pool='p' volume='vol.qcow2'/><target dev='vda' bus='virtio'/></disk>`)
	want := odometer.Disk{Name: "vda", Kind: odometer.DiskFile, Path: w.d.path("pool/vol.qcow2"), Format: "qcow2", Provisioned: 64 << 20}
	if got := w.vm(id).Disks; len(got) != 1 || !reflect.DeepEqual(got[0], want) {
		w.t.Errorf("got %+v, want %+v", got, want)
	}
	w.ok(w.d.admin.StoragePoolDestroy(pool))
	w.l.known[dom.UUID].forget()
	vms, err := w.l.List(w.t.Context())
	w.ok(err)
	if got := vms[0].Disks; len(got) != 1 || got[0].Kind != odometer.DiskUnknown || got[0].Path != "p/vol.qcow2" || got[0].Provisioned != odometer.Unknown {
		w.t.Errorf("got %+v of a pool that is gone", got)
	}
	if p := strings.Join(w.l.Problems(), "\n"); !strings.Contains(p, "see what volume vol.qcow2 of pool p is") {
		w.t.Errorf("got problems %q", p)
	}
	w.ok(w.d.admin.DomainUndefine(dom))
}

// moves migrates a domain between two daemons, with lists all the while.
func (w *libvirtWatch) moves() {
	const id = "6c1f3a52-0d4e-4c0b-9a51-7f2d7f1c0a04"
	there := &libvirtWatch{t: w.t, d: startLibvirtd(w.t, "2", w.d)}
	there.l = there.d.source()
	there.list()
	dom := w.d.begin(w.d.define("mover", id, "", ""))
	w.ok(w.d.admin.DomainResume(dom))
	w.vm(id)

	cmd := exec.Command("virsh", "-c", "qemu+unix:///system?socket="+w.d.path("sock/libvirt-sock"),
		"migrate", "mover", "qemu+unix:///system?socket="+there.d.path("sock/libvirt-sock"),
		"--live", "--undefinesource", "--persistent", "--migrateuri", "unix://"+there.d.path("migrate.sock"))
	moved := make(chan error, 1)
	go func() {
		out, err := cmd.CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		moved <- err
	}()
	for done := false; !done; {
		select {
		case err := <-moved:
			w.ok(err)
			done = true
		default:
		}
		// It may begin to run there after this look and before the next, but not
		// run there and then here. A daemon lists nobody while it ends a QEMU.
		runs := false
		for _, side := range [...]*libvirtWatch{there, w} {
			vms, _ := side.l.List(w.t.Context())
			for _, vm := range vms {
				if vm.State == odometer.Running && runs {
					w.t.Error("it runs on both hosts")
				}
				runs = runs || vm.State == odometer.Running
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(time.Until(w.l.retry.at))
	w.hears(id, odometer.ChangeMoved, "to another host")
	there.hears(id, odometer.ChangeMoved, "from another host")
	if vms := w.list(); len(vms) != 0 {
		w.t.Errorf("got %+v, which has gone", vms)
	}
	if got := there.vm(id); got.State != odometer.Running || got.PID == 0 {
		w.t.Errorf("got %+v", got)
	}
	there.d.admin.Disconnect()
	there.l.Close()
}

// hung has eight domains of which one hangs, and then a daemon that does.
func (w *libvirtWatch) hung() {
	t, d, l := w.t, w.d, w.l
	// The size of a disk over the network is asked of QEMU, which is then
	// waited for.
	server := exec.Command("qemu-nbd", "--persistent", "--socket", d.path("nbd.sock"), "-f", "qcow2", d.disk("nbd.qcow2"))
	w.ok(server.Start())
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	for range 100 {
		if _, err := os.Stat(d.path("nbd.sock")); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	id := func(i int) odometer.InstanceID {
		return odometer.InstanceID(fmt.Sprintf("6c1f3a52-0d4e-4c0b-9a51-7f2d7f1c0b%02d", i))
	}
	const many, bad = 8, 3
	var doms [many]libvirt.Domain
	for i := range doms {
		devices := ""
		if i == bad {
			devices = fmt.Sprintf(`<disk type='network'><driver name='qemu' type='raw'/><source protocol='nbd'><host transport='unix' socket='%s'/></source><target dev='vda' bus='virtio'/></disk>`,
				d.path("nbd.sock"))
		}
		doms[i] = d.begin(d.define(fmt.Sprintf("many%d", i), string(id(i)), "", devices))
	}
	if got := w.vm(id(bad)).Disks; len(got) != 1 || got[0].Kind != odometer.DiskNetwork || got[0].Provisioned != 64<<20 ||
		got[0].Path != "nbd:"+d.path("nbd.sock") {
		t.Fatalf("got %+v, want a disk of 64 MiB over the network", got)
	}
	runs := map[odometer.InstanceID]string{}
	for _, vm := range w.list() {
		runs[vm.Instance] = vm.Run
	}

	// check takes a list that may not stall and has to have everybody.
	check := func(name string, most time.Duration, problem string) {
		t.Helper()
		start := time.Now()
		vms, err := l.List(t.Context())
		took := time.Since(start)
		t.Logf("%s: %s", took.Round(time.Microsecond), name)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if took > most {
			t.Errorf("%s: the list took %s", name, took)
		}
		if len(vms) != many {
			t.Errorf("%s: got %d machines, want %d", name, len(vms), many)
		}
		for _, vm := range vms {
			if vm.Run != runs[vm.Instance] || vm.PID == 0 || vm.Memory != 32<<20 || vm.State != odometer.Paused {
				t.Errorf("%s: got %+v", name, vm)
			}
		}
		got := strings.Join(l.Problems(), "\n")
		if problem == "" && got != "" || !strings.Contains(got, problem) {
			t.Errorf("%s: got problems %q, want %q", name, got, problem)
		}
	}
	check("all is well", time.Second, "")
	for i := range doms {
		l.known[doms[i].UUID].forget()
	}
	check("all are described anew", time.Second, "")

	d.signal(d.pidOf("many3"), syscall.SIGSTOP)
	check("a QEMU that hangs is not asked", 500*time.Millisecond, "")
	l.known[doms[bad].UUID].forget()
	check("a QEMU that hangs is asked", 2500*time.Millisecond, "describe domain many3: libvirt does not answer: not within 1s")
	if vm := l.known[doms[bad].UUID].vm; len(vm.Disks) != 1 || vm.Disks[0].Provisioned != 64<<20 {
		t.Errorf("what was known of it is gone: %+v", vm)
	}
	check("it is not asked again at once", time.Second, "describe domain many3")
	check("nor are the others", 500*time.Millisecond, "describe domain many3")
	fresh := d.source()
	start := time.Now()
	vms, err := fresh.List(t.Context())
	if took := time.Since(start); err != nil || len(vms) != many || took > 3500*time.Millisecond {
		t.Errorf("a new source: got %d machines after %s: %v", len(vms), took, err)
	}
	for _, vm := range vms {
		unknown := vm.Instance == id(bad)
		if (vm.Memory == odometer.Unknown) != unknown || vm.PID == 0 || vm.State != odometer.Paused || vm.Run != runs[vm.Instance] {
			t.Errorf("a new source: got %+v", vm)
		}
	}
	fresh.Close()
	d.signal(d.pidOf("many3"), syscall.SIGCONT)
	time.Sleep(time.Until(l.known[doms[bad].UUID].retry.at))
	check("it goes on", time.Second, "")

	// The daemon hangs, and meanwhile a domain dies that is nowhere defined:
	// that it crashed is heard although no call was answered.
	const brief = "6c1f3a52-0d4e-4c0b-9a51-7f2d7f1c0a05"
	_, err = d.admin.DomainCreateXML(tinyDomain("brief", brief, "", ""), libvirt.DomainStartPaused)
	w.ok(err)
	victim := w.vm(brief).PID
	d.signal(d.pid, syscall.SIGSTOP)
	d.signal(victim, syscall.SIGKILL)
	fails := func(name string, most time.Duration, reason string) {
		t.Helper()
		start := time.Now()
		vms, err := l.List(t.Context())
		took := time.Since(start)
		if err == nil || !strings.Contains(err.Error(), reason) || vms != nil || took > most {
			t.Errorf("%s: got %d machines after %s, and %v; want %q", name, len(vms), took, err, reason)
		}
		t.Logf("%s: %s: %v", took.Round(time.Microsecond), name, err)
	}
	fails("a daemon that hangs", 2500*time.Millisecond, "list the domains of libvirt: libvirt does not answer: not within 1s")
	fails("it is left alone", 500*time.Millisecond, "to be tried again in")
	time.Sleep(time.Until(l.retry.at))
	fails("it hangs still", 2500*time.Millisecond, "open qemu:///system at")
	time.Sleep(time.Until(l.retry.at))
	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	start = time.Now()
	if _, err := l.List(impatient); err == nil || time.Since(start) > 500*time.Millisecond {
		t.Errorf("a caller who does not wait got %v after %s", err, time.Since(start))
	}
	cancel()
	closed, waits := d.source(), make(chan error)
	go func() {
		_, err := closed.List(t.Context())
		waits <- err
	}()
	time.Sleep(100 * time.Millisecond)
	start = time.Now()
	closed.Close()
	if err := <-waits; err == nil || time.Since(start) > 500*time.Millisecond {
		t.Errorf("a source that is closed meanwhile got %v after %s", err, time.Since(start))
	}
	time.Sleep(time.Until(l.retry.at))
	d.signal(d.pid, syscall.SIGCONT)
	w.hears(brief, odometer.ChangeCrashed, "its hypervisor failed")
	check("the daemon goes on", time.Second, "")

	// The daemon dies and another takes over its domains.
	d.signal(d.pid, syscall.SIGKILL)
	for range 100 { // the kernel closes its connections first
		conn, err := net.Dial("unix", l.opt.Socket)
		if err != nil {
			break
		}
		conn.Close()
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(50 * time.Millisecond) // until both connections know
	fails("the daemon is dead", 500*time.Millisecond, "connect to libvirt: dial unix")
	d.start()
	time.Sleep(time.Until(l.retry.at))
	check("another daemon", 2*time.Second, "")

	for _, dom := range doms {
		// The daemon may see that the hypervisor has ended before it has said that it ended it.
		err := d.admin.DomainDestroy(dom)
		if e, ok := errors.AsType[libvirt.Error](err); err != nil && (!ok || e.Code != uint32(libvirt.ErrOperationInvalid)) {
			t.Error(err)
		}
		w.ok(d.admin.DomainUndefine(dom))
	}
	for _, file := range [...]string{"libvirt-sock", "libvirt-sock-ro"} {
		os.Remove(filepath.Join(d.path("sock"), file))
	}
	none := NewLibvirt(LibvirtOptions{Clock: realClock{}, Root: t.TempDir()})
	if _, err := none.List(t.Context()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a host without libvirt: got %v", err)
	}
	none.Close()
}

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return st.Size()
}
