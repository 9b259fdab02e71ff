package guest

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"example.org/odometer/internal/qmp"
	"golang.org/x/sys/unix"
)

// processTime reads what a process has used, from /proc/PID/stat: utime and
// stime, in steps of 10 ms.
func processTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	f := strings.Fields(rest)
	return time.Duration(integer(t, f[11])+integer(t, f[12])) * 10 * time.Millisecond
}

// threadTime reads what a thread has used, from its schedstat: to the
// nanosecond.
func threadTime(t *testing.T, pid, tid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/schedstat", pid, tid))
	if err != nil {
		t.Fatal(err)
	}
	return time.Duration(integer(t, strings.Fields(string(b))[0]))
}

func writtenBy(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "\nwrite_bytes: ")
	n, _, _ := strings.Cut(rest, "\n")
	return integer(t, n)
}

func integer(t *testing.T, s string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func written(t *testing.T, g *Guest) qmp.BlockStats {
	t.Helper()
	list, err := g.QMP().BlockStats(t.Context())
	if err != nil || len(list) != 1 {
		t.Fatalf("block stats: %v, %v", list, err)
	}
	return list[0]
}

const frame = 1514 // bytes, without the checksum, which nobody counts

var all = flag.Bool("all", false, "every backend, devices that are plugged, and libvirt, too")

// needAll skips what only `make guests` runs: each guest takes its seconds.
func needAll(t *testing.T) {
	t.Helper()
	if !*all {
		t.Skip("only with -all")
	}
}

// TestTruth has a guest use what is known and compares what it says with what
// its host says.
func TestTruth(t *testing.T) {
	netns := fmt.Sprintf("guest%d", os.Getpid())
	Need(t)
	Netns(t, netns)
	image := Image(t, "qcow2", 1<<30)
	begin := time.Now()
	g := Start(t, Options{Netns: netns, Disks: []Disk{{Path: image}}, NICs: []NIC{{Link: "tap0"}}})
	t.Logf("up after %v", time.Since(begin).Round(time.Millisecond))
	accuracy := NewAccuracy()

	t.Run("disk", func(t *testing.T) {
		const bytes = 64 << 20
		disk, asked, wrote := g.Disk("vda"), written(t, g), writtenBy(t, g.PID())
		g.Write(bytes)
		accuracy.Near(t, "bytes written: the guest's diskstats", bytes, int64(g.Disk("vda").Written-disk.Written), 0)
		accuracy.Near(t, "bytes written: QMP wr_bytes", bytes, int64(written(t, g).WriteBytes-asked.WriteBytes), 0)
		// What the image's format adds.
		accuracy.Near(t, "bytes written: /proc/PID/io write_bytes", bytes, writtenBy(t, g.PID())-wrote, bytes/50)
		var st unix.Stat_t
		if err := unix.Stat(image, &st); err != nil {
			t.Fatal(err)
		}
		accuracy.Near(t, "bytes occupied: st_blocks of the qcow2 file", bytes, st.Blocks*512, bytes/50)
		nodes, err := g.QMP().BlockNodes(t.Context())
		if err != nil || len(nodes) == 0 {
			t.Fatalf("block nodes: %v, %v", nodes, err)
		}
		accuracy.Near(t, "bytes occupied: QMP actual-size", st.Blocks*512, nodes[0].ActualSize, 0)

		disk, asked = g.Disk("vda"), written(t, g)
		g.Read(bytes)
		accuracy.Near(t, "bytes read: QMP rd_bytes", int64(g.Disk("vda").Read-disk.Read), int64(written(t, g).ReadBytes-asked.ReadBytes), 0)
	})
	t.Run("network", func(t *testing.T) {
		const bytes = 20 << 20
		peer := g.Peer(0)
		guest, host := g.Link("eth0"), g.HostLink(0)
		g.Send(peer, bytes)
		sent, took := g.Link("eth0"), g.HostLink(0)
		accuracy.Near(t, "bytes sent: the guest's eth0 tx", bytes, int64(sent.Sent-guest.Sent), bytes/10)
		accuracy.Near(t, "bytes sent: the host's tap rx", int64(sent.Sent-guest.Sent), int64(took.Received-host.Received), frame)
		g.Receive(peer, bytes)
		got, gave := g.Link("eth0"), g.HostLink(0)
		accuracy.Near(t, "bytes received: the guest's eth0 rx", bytes, int64(got.Received-sent.Received), bytes/10)
		accuracy.Near(t, "bytes received: the host's tap tx", int64(got.Received-sent.Received), int64(gave.Sent-took.Sent), frame)
	})
	t.Run("processor", func(t *testing.T) {
		cpus, err := g.QMP().CPUs(t.Context())
		if err != nil || len(cpus) != 1 {
			t.Fatalf("CPUs: %v, %v", cpus, err)
		}
		const burnt = 5 * time.Second
		began, inside, process, thread := time.Now(), g.CPU(), processTime(t, g.PID()), threadTime(t, g.PID(), cpus[0].Thread)
		g.Burn(burnt)
		inside, process, thread = g.CPU()-inside, processTime(t, g.PID())-process, threadTime(t, g.PID(), cpus[0].Thread)-thread
		wall := time.Since(began)
		accuracy.Row("ns of CPU: the guest's /proc/stat", int64(thread), int64(inside))
		accuracy.Row("ns of CPU: /proc/PID/stat", int64(thread), int64(process))
		// The guest counts ticks, of which a busy host makes it lose some, and
		// not what the host took from it meanwhile.
		if inside < thread/2 || inside > wall+100*time.Millisecond {
			t.Errorf("in %v the guest says that it was busy for %v, its host %v", wall, inside, thread)
		}
		// The process has QEMU's other threads, too, and the host other work.
		if thread < burnt/10 || thread > wall || process < thread-20*time.Millisecond || process > 2*wall {
			t.Errorf("in %v the processor's thread used %v, the process %v", wall, thread, process)
		}
	})
	t.Run("memory", func(t *testing.T) {
		const bytes = 16 << 20
		before := g.Memory()
		g.Touch(bytes)
		accuracy.Near(t, "bytes touched: the guest's MemAvailable", bytes, int64(before.Available)-int64(g.Memory().Available), 4<<20)
		g.Touch(0)

		balloon, err := g.QMP().Balloon(t.Context())
		if err != nil || balloon != 128<<20 {
			t.Fatalf("balloon: %d, %v", balloon, err)
		}
		const less = 24 << 20
		if err := g.QMP().SetBalloon(t.Context(), balloon-less); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(endPatience); balloon != 128<<20-less && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			if balloon, err = g.QMP().Balloon(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		accuracy.Near(t, "bytes that the balloon took: QMP", less, 128<<20-balloon, 0)
		accuracy.Near(t, "bytes that the balloon took: the guest's MemTotal", less, int64(before.Total)-int64(g.Memory().Total), 0)
	})
	t.Run("a reboot inside keeps the process and QEMU's counters", func(t *testing.T) {
		pid, boot, asked := g.PID(), g.BootID(), written(t, g)
		events := make(chan qmp.Event, 100)
		c, err := qmp.Dial(t.Context(), g.Monitor(), func(e qmp.Event) { events <- e })
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		g.Reboot()
		if g.BootID() == boot {
			t.Error("the guest did not boot anew")
		}
		if g.PID() != pid || unix.Kill(pid, 0) != nil {
			t.Errorf("process %d did not go on", pid)
		}
		if now := written(t, g); now.WriteBytes != asked.WriteBytes || g.Disk("vda").Written != 0 {
			t.Errorf("QMP says %d bytes written, before %d; the guest %d", now.WriteBytes, asked.WriteBytes, g.Disk("vda").Written)
		}
		for e := range events {
			if e.Name == "RESET" && e.Guest && e.Reason == "guest-reset" {
				break
			}
		}
	})
	t.Run("kill -9", func(t *testing.T) {
		peer := g.Peer(0)
		g.SendOn(peer)
		for end := time.Now().Add(endPatience); peer.Received() == 0 && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
		g.Kill()
		if peer.Received() == 0 {
			t.Error("nothing was sent")
		}
		if err := unix.Kill(g.PID(), 0); err != unix.ESRCH {
			t.Errorf("process %d is still there: %v", g.PID(), err)
		}
	})
	accuracy.Log(t)
}

// TestBackends sends through every kind of interface: whose view the host's
// counters are depends on it.
func TestBackends(t *testing.T) {
	needAll(t)
	t.Parallel()
	Need(t)
	id := os.Getpid() % 100000
	name := func(kind string) string { return fmt.Sprintf("%s%d", kind, id) }
	g := Start(t, Options{VCPUs: 2, NICs: []NIC{
		{Link: name("tap")},
		{Link: name("fd"), Kind: TapFD},
		{Link: name("mvt"), Kind: Macvtap},
		{Link: name("brt"), Bridge: name("br")},
	}})
	if n := strings.Count(g.Run("grep processor /proc/cpuinfo"), "\n"); n != 2 {
		t.Errorf("the guest has %d processors, want 2", n)
	}
	accuracy := NewAccuracy()
	for i, what := range []string{"tap", "tap as an open file", "macvtap", "tap in a bridge"} {
		const bytes = 1 << 20
		eth, peer := fmt.Sprintf("eth%d", i), g.Peer(i)
		inside, outside := g.Link(eth), g.HostLink(i)
		g.Send(peer, bytes)
		g.Receive(peer, 2*bytes)
		now, host := g.Link(eth), g.HostLink(i)
		sent, received := host.Received-outside.Received, host.Sent-outside.Sent
		if what == "macvtap" {
			sent, received = received, sent
		}
		accuracy.Near(t, what+": sent", int64(now.Sent-inside.Sent), int64(sent), frame)
		accuracy.Near(t, what+": received", int64(now.Received-inside.Received), int64(received), frame)
	}
	accuracy.Log(t)
	g.PowerOff()
	g.Kill() // of what has ended is nothing
	for i, there := range []bool{true, false, true, true} {
		if _, err := net.InterfaceByName(g.NIC(i).Link); (err == nil) != there {
			t.Errorf("%s after the guest's end: %v", g.NIC(i).Link, err)
		}
	}
}

// TestInside is what [TestTestsRunInAGuest] runs in one.
func TestInside(t *testing.T) {
	needAll(t)
	if os.Getenv("INSIDE") == "" {
		t.Skip("only in a guest, where TestTestsRunInAGuest runs it")
	}
	b, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []string{"cpu", "io", "memory"} {
		if !strings.Contains(string(b), c) {
			t.Errorf("the guest's cgroup v2 has no controller %s", c)
		}
	}
	if os.Getpid() == 1 || os.Getuid() != 0 {
		t.Errorf("process %d, user %d", os.Getpid(), os.Getuid())
	}
}

func TestTestsRunInAGuest(t *testing.T) {
	needAll(t)
	t.Parallel()
	Need(t)
	binary := TestBinary(t, "example.org/odometer/internal/guest")
	g := Start(t, Options{Memory: 192 << 20, Files: map[string]string{"/tests/guest.test": binary}})
	b, err := os.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	if sum := fmt.Sprintf("%x", sha256.Sum256(b)); !strings.HasPrefix(g.Run("sha256sum /tests/guest.test"), sum) {
		t.Errorf("the program came over damaged")
	}
	out, status := g.RunFor("INSIDE=1 /tests/guest.test -test.v -test.run '^TestInside$'", time.Minute)
	if status != 0 || !strings.Contains(out, "--- PASS: TestInside") {
		t.Errorf("exit status %d\n%s", status, out)
	}
	if out, status := g.RunFor("echo one; echo two >&2; exit 3", time.Minute); out != "one\ntwo\n" || status != 3 {
		t.Errorf("got %q, %d", out, status)
	}
}
