package guest

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestLibvirt runs the same guest under libvirt, whose counters already have
// the guest's direction.
func TestLibvirt(t *testing.T) {
	needAll(t)
	t.Parallel()
	NeedLibvirt(t)
	begin := time.Now()
	l := StartLibvirtd(t)
	t.Logf("libvirtd answers after %v", time.Since(begin).Round(time.Millisecond))
	begin = time.Now()
	g := l.Launch(t, Options{Disks: []Disk{{Path: Image(t, "qcow2", 1<<30)}}, NICs: []NIC{{}, {Kind: TapFD}}, Args: []string{"-fw_cfg", "name=opt/odometer,string=passed-on"}})
	paused := l.Start(t, Options{Paused: true, Disks: []Disk{{Path: Image(t, "raw", 1<<20), ReadOnly: true}}})
	g.Ready()
	t.Logf("the guest is up after %v", time.Since(begin).Round(time.Millisecond))

	if state := l.Virsh("domstate", paused.Name); state != "paused" {
		t.Errorf("the paused guest is %s", state)
	}
	cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", g.PID()))
	if err != nil || !strings.Contains(string(cmdline), g.UUID) || !strings.Contains(string(cmdline), "passed-on") {
		t.Errorf("process %d is %q, %v", g.PID(), cmdline, err)
	}
	g.Write(8 << 20)
	g.Send(g.Peer(0), 1<<20)
	sent := g.Link("eth0").Sent
	stats := map[string]int64{}
	for line := range strings.Lines(l.Virsh("domstats", g.Name)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && (strings.HasPrefix(name, "net.0.tx.") || strings.HasPrefix(name, "block.0.wr.")) {
			stats[name] = integer(t, value)
		}
	}
	accuracy := NewAccuracy()
	accuracy.Near(t, "bytes written: libvirt's block.0.wr.bytes", 8<<20, stats["block.0.wr.bytes"], 0)
	accuracy.Near(t, "bytes sent: libvirt's net.0.tx.bytes", int64(sent), stats["net.0.tx.bytes"], frame)
	accuracy.Log(t)

	g.Send(g.Peer(1), 1<<20) // through the tap that libvirt made
	pid := g.PID()
	g.Reboot()
	if g.PID() != pid || g.gone(0) {
		t.Error("the reboot ended the process")
	}
	g.Kill()
	paused.Signal(syscall.SIGSTOP) // a stopped process can be killed, too
}

// TestNothingIsLeft kills a test's process while it has everything that there
// is to leave behind.
func TestNothingIsLeft(t *testing.T) {
	NeedLibvirt(t)
	name := fmt.Sprintf("left%d", os.Getpid())
	if os.Getenv("LEAVE") != "" {
		leave(t, os.Getenv("LEAVE"))
	}
	tmp := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	self, err := os.StartProcess("/proc/self/exe", []string{"guest.test", "-test.run=^TestNothingIsLeft$", "-test.v"}, &os.ProcAttr{
		Env: append(os.Environ(), "LEAVE="+name, "TMPDIR="+tmp), Files: []*os.File{nil, w, w},
	})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var said []byte
	for b := make([]byte, 4096); !strings.Contains(string(said), "everything is there\n"); {
		n, err := r.Read(b)
		if said = append(said, b[:n]...); err != nil {
			self.Wait()
			t.Fatalf("it ended: %v\n%s", err, said)
		}
	}
	there := traces(t, name, tmp)
	if len(there) < 8 {
		t.Errorf("there is too little to leave behind: %q", there)
	}
	if err := self.Kill(); err != nil {
		t.Fatal(err)
	}
	self.Wait()
	for end := time.Now().Add(endPatience); len(there) > 0 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		there = traces(t, name, tmp)
	}
	if len(there) > 0 {
		t.Errorf("left behind: %q", there)
	}
}

// leave makes everything and waits to be killed.
func leave(t *testing.T, name string) {
	Netns(t, name)
	Start(t, Options{Name: name + "-q", Paused: true, Netns: name, NICs: []NIC{{Link: name + "t"}}})
	Start(t, Options{Name: name + "-b", Paused: true, NICs: []NIC{{Link: name + "m", Kind: Macvtap}, {Link: name + "b", Bridge: name + "br"}}})
	StartLibvirtd(t).Start(t, Options{Name: name + "-l", Paused: true, NICs: []NIC{{Link: name + "l"}}})
	fmt.Println("everything is there")
	select {}
}

// traces lists the processes, namespaces, interfaces and control groups that
// have name in theirs, and the files in tmp.
func traces(t *testing.T, name, tmp string) []string {
	t.Helper()
	var found []string
	names := func(dir, name string) {
		list, err := os.ReadDir(dir)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		for _, e := range list {
			if strings.Contains(e.Name(), name) {
				found = append(found, dir+"/"+e.Name())
			}
		}
	}
	names(tmp, "")
	names("/run/netns", name)
	names("/sys/class/net", name)
	for _, controller := range []string{"cpu", "memory", "unified", "."} {
		names("/sys/fs/cgroup/"+controller+"/machine", name)
	}
	processes, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range processes {
		cmdline, _ := os.ReadFile("/proc/" + p.Name() + "/cmdline")
		if strings.Contains(string(cmdline), "guest="+name) || strings.Contains(string(cmdline), tmp) {
			found = append(found, "process "+p.Name())
		}
	}
	slices.Sort(found)
	return found
}
