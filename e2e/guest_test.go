package e2e

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"example.org/odometer/internal/guest"
)

// TestAGuestIsMeteredToItsEnd starts a real virtual machine beside a server
// that nobody told of it, and kills it in mid-period under way. What it used is
// in the ledger, from its first moment to its last.
func TestAGuestIsMeteredToItsEnd(t *testing.T) {
	guest.Need(t)
	s := newSite(t)
	s.serve("--source", "vms", "--interval", "20s")
	g := guest.Start(t, guest.Options{
		Disks: []guest.Disk{{Path: guest.Image(t, "qcow2", 256<<20)}},
		NICs:  []guest.NIC{{Kind: guest.TapFD}},
	})
	g.Burn(2 * time.Second)
	g.Write(16 << 20)
	g.Send(g.Peer(0), 4<<20)
	link, disk := g.Link("eth0"), g.Disk("vda")
	time.Sleep(2 * time.Second) // what a disk is told has no last record: it is read each second
	cpu := processTime(t, g.PID())
	g.Kill()

	var used amounts
	eventually(t, "all that the guest sent is in the ledger", func() bool {
		used = s.usage("instance", byInstance)[g.UUID]
		return used["network_egress_bytes"] >= int64(link.Sent)
	})
	for _, c := range []struct {
		what              string
		got, truth, above int64 // how far it may lie above the truth
	}{
		{"network_egress_bytes", used["network_egress_bytes"], int64(link.Sent), 1500},
		{"network_ingress_bytes", used["network_ingress_bytes"], int64(link.Received), 1500},
		{"disk_write_bytes", used["disk_write_bytes"], int64(disk.Written), int64(disk.Written) / 50}, // with the image's own metadata
		{"cpu_us", used["cpu_us"] + 10_000, cpu.Microseconds(), 500_000},                              // which goes on until it is killed
		{"gap_us", used["gap_us"], 0, 0},
	} {
		t.Logf("%-22s truth %12d  value %12d  error %+d", c.what, c.truth, c.got, c.got-c.truth)
		if c.got < c.truth || c.got > c.truth+c.above {
			t.Errorf("%s: got %d, want %d to %d", c.what, c.got, c.truth, c.truth+c.above)
		}
	}
	if got := s.life(g.UUID); !slices.Equal(got, []string{"started", "crashed"}) {
		t.Errorf("what happened to it: got %q, want that it started and crashed", got)
	}
	s.audit()
}

// life is what happened to an instance.
func (s *site) life(instance string) (what []string) {
	s.t.Helper()
	var answer struct {
		Lifecycle []struct{ What string }
	}
	s.get("/api/v1/instances/"+instance+"/lifecycle", &answer)
	for _, h := range answer.Lifecycle {
		what = append(what, h.What)
	}
	return what
}

// processTime is the processor time that a process has used, in steps of 10 ms:
// fields 14 and 15 of its stat.
func processTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := bytes.Fields(b[bytes.LastIndexByte(b, ')')+2:])
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(string(f), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
