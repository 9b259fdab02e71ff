package e2e

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer/internal/guest"
)

var all = flag.Bool("all", false, "every kind of network interface and of disk, and libvirt with many machines, too")

// TestAGuestOnEveryBackend sends, receives and writes through everything that a
// machine can be given. In the ledger are the guest's own frames and sectors.
func TestAGuestOnEveryBackend(t *testing.T) {
	if !*all {
		t.Skip("only with -all")
	}
	guest.Need(t)
	s := newSite(t)
	s.serve("--source", "vms", "--interval", "5s")
	name := func(kind string) string { return fmt.Sprintf("%s%d", kind, os.Getpid()%100000) }
	disk := guest.LoopDevice(t, guest.Image(t, "raw", 32<<20))
	g := guest.Start(t, guest.Options{
		VCPUs: 2, Disks: []guest.Disk{{Path: disk}},
		NICs: []guest.NIC{{}, {Kind: guest.TapFD}, {Link: name("mve"), Kind: guest.Macvtap}, {Link: name("bre"), Bridge: name("brf")}},
	})
	// What the bridge sends as soon as it is up passes the tap, and no guest
	// listens yet.
	unheard := g.HostLink(3).Sent - g.Link("eth3").Received
	wrote := uint64(0)
	for i := range 4 {
		// Not the same both ways, so that a direction that is turned shows.
		g.Send(g.Peer(i), int64(i+1)<<20)
		g.Receive(g.Peer(i), 256<<10)
		g.Write(int64(i+1) << 20)
		wrote += uint64(i+1) << 20
	}
	if got := g.Disk("vda").Written; got != wrote {
		t.Errorf("the guest wrote %d bytes, want %d", got, wrote)
	}
	var sent, received uint64
	for before := uint64(1); before != sent+received; time.Sleep(200 * time.Millisecond) { // the last acknowledgement
		before, sent, received = sent+received, 0, 0
		for i := range 4 {
			link := g.Link(fmt.Sprintf("eth%d", i))
			sent, received = sent+link.Sent, received+link.Received
		}
	}
	truth := stop(t, g)
	g.Kill()
	used := s.used(g.UUID, truth)
	a := guest.NewAccuracy()
	a.Near(t, "network_egress_bytes, four interfaces of the guest", int64(sent), used["network_egress_bytes"], 0)
	a.Near(t, fmt.Sprintf("network_ingress_bytes, four interfaces of the guest and %d that it did not hear", unheard), int64(received+unheard), used["network_ingress_bytes"], 0)
	a.Between(t, "disk_write_bytes, the guest's sectors on a block device", int64(wrote), used["disk_write_bytes"], truth.threads<<10, 0)
	a.Near(t, "gap_us", 0, used["gap_us"], 0)
	a.Log(t)
	s.audit()
}

// TestAGuestHangsAmongThirty stops one QEMU of libvirt's while thirty others
// run: no tick is late because of it, the readings of all go on, and the one
// that hangs is named.
func TestAGuestHangsAmongThirty(t *testing.T) {
	if !*all {
		t.Skip("only with -all")
	}
	guest.NeedLibvirt(t)
	const others = 30
	l := guest.StartLibvirtd(t)
	var guests []*guest.Guest
	image := guest.Image(t, "raw", 1<<20)
	socket := image + ".nbd"
	nbd := startCommand(t, exec.Command("qemu-nbd", "--persistent", "--format=raw", "--socket", socket, image))
	eventually(t, "the disk is served", func() bool { _, err := os.Stat(socket); return err == nil || !nbd.running() })
	for i := range others + 1 {
		disk := guest.Disk{Path: guest.Image(t, "qcow2", 1<<20)}
		if i == others/2 {
			disk.Path = "nbd:" + socket // the one kind whose size QEMU has to be asked for
		}
		guests = append(guests, l.Launch(t, guest.Options{Paused: true, Disks: []guest.Disk{disk}}))
	}
	hung := guests[others/2]
	hung.Signal(syscall.SIGSTOP)

	// Where libvirt's own sockets are.
	s := newSite(t)
	server := startCommand(t, exec.Command("nsenter", append([]string{"--mount", "-t", fmt.Sprint(l.PID()), binary}, s.serveArgs([]string{"--source", "vms", "--interval", "5s"})...)...))
	s.ready(server)
	times := func() (all []amounts) {
		rows := s.usage("instance", byInstance)
		for _, g := range guests {
			all = append(all, rows[g.UUID])
		}
		return all
	}
	least := func() int64 {
		n := int64(1 << 62)
		for _, a := range times() {
			n = min(n, a["measured_us"])
		}
		return n
	}
	eventually(t, "every machine is metered", func() bool { return least() > 0 })
	works := l.Start(t, guest.Options{Disks: []guest.Disk{{Path: guest.Image(t, "qcow2", 64<<20)}}, NICs: []guest.NIC{{Kind: guest.TapFD}}})
	works.Burn(time.Second)
	works.Write(4 << 20)
	works.Send(works.Peer(0), 2<<20)
	truth := stop(t, works)
	works.Kill()
	l.Virsh("undefine", works.Name) // or else it is only stopped
	begin, from := time.Now(), least()
	eventually(t, "every machine is metered on", func() bool { return least() >= from+20_000_000 })
	t.Logf("20 s of every machine were measured in %v", time.Since(begin).Round(time.Millisecond))
	for i, a := range times() {
		if a["gap_us"] != 0 {
			t.Errorf("%s: %d µs in gaps", guests[i].Name, a["gap_us"])
		}
	}
	// A tick that stalled would show as a period that is longer.
	var page struct {
		Events []struct {
			Instance string `json:"instance_id"`
			Span     struct {
				Start int64 `json:"start_us"`
				End   int64 `json:"end_us"`
			} `json:"span"`
		} `json:"events"`
	}
	s.get("/api/v1/events?limit=1000", &page)
	longest := int64(0)
	for _, e := range page.Events {
		if e.Instance != works.UUID { // whose end waits for who says what it was
			longest = max(longest, e.Span.End-e.Span.Start)
		}
	}
	t.Logf("%d periods of 5 s, the longest %.3f s", len(page.Events), float64(longest)/1e6)
	if longest > 7_500_000 {
		t.Errorf("a period took %d µs", longest)
	}
	var health struct {
		Components map[string]struct {
			Status  string `json:"status"`
			Details string `json:"details"`
		} `json:"components"`
	}
	inventory := func() string {
		s.answer("/api/v1/health/status", &health, http.StatusOK, http.StatusServiceUnavailable)
		if h := health.Components["sampler"]; h.Status != "ok" {
			t.Errorf("health says of the samples: %s, %s", h.Status, h.Details)
		}
		h := health.Components["inventory"]
		return h.Status + ": " + h.Details
	}
	// While libvirt ends a machine it answers nobody, for half a minute at times.
	said := ""
	eventually(t, "health says that the one does not answer, and nothing of the others", func() bool {
		said = inventory()
		return strings.HasPrefix(said, "ok: ") && strings.Contains(said, hung.Name+": libvirt does not answer") && !strings.Contains(said, guests[0].Name)
	})
	t.Log("inventory: ", said)

	a := guest.NewAccuracy()
	used := s.used(works.UUID, truth)
	// It is in libvirt's cgroup, which counts what its end took, too.
	a.Between(t, "cpu_us, /proc/PID/stat before its end", truth.alive.Microseconds(), used["cpu_us"], truth.alive.Microseconds()/1000, 500_000)
	truth.compare(t, a, used)
	a.Near(t, "gap_us", 0, used["gap_us"], 0)
	a.Log(t)

	// The daemon hangs, too.
	if err := syscall.Kill(l.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	eventually(t, "libvirt is named", func() bool { return strings.HasPrefix(inventory(), "degraded: libvirt: ") })
	from = least()
	eventually(t, "every machine is metered without libvirt", func() bool { return least() >= from+10_000_000 })
	if err := syscall.Kill(l.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	hung.Signal(syscall.SIGCONT)
	eventually(t, "all is well again", func() bool {
		return strings.HasPrefix(inventory(), "ok: ") && !strings.Contains(inventory(), "does not answer")
	})
	s.audit()
}
