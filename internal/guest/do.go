package guest

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Run has the guest's shell carry out a command, on one line, and returns what
// it printed. It has to succeed within two minutes.
func (g *Guest) Run(command string) string {
	g.t.Helper()
	return g.must(command, runPatience)
}

func (g *Guest) must(command string, patience time.Duration) string {
	g.t.Helper()
	out, status := g.RunFor(command, patience)
	if status != 0 {
		g.t.Fatalf("in guest %s: %s: exit status %d\n%s", g.Name, command, status, out)
	}
	return out
}

// RunFor is [Guest.Run] for a command that may take longer, or fail.
func (g *Guest) RunFor(command string, patience time.Duration) (output string, status int) {
	g.t.Helper()
	out, status, err := g.console.run(command, time.Now().Add(patience))
	if err != nil {
		g.t.Fatalf("in guest %s: %s: %v\n%s", g.Name, command, err, out)
	}
	return out, status
}

// Background has the guest begin a command and go on with others meanwhile.
func (g *Guest) Background(command string) {
	g.t.Helper()
	g.Run("{ " + command + "; } >/dev/null 2>&1 &")
}

const burn = "timeout %d sh -c 'while :; do :; done'"

// Burn keeps one processor busy for so many seconds of the guest's clock.
func (g *Guest) Burn(d time.Duration) {
	g.t.Helper()
	g.must(fmt.Sprintf(burn+"; true", seconds(d)), d*10+runPatience)
}

// BurnOn is [Guest.Burn] in the background.
func (g *Guest) BurnOn(d time.Duration) {
	g.t.Helper()
	g.Background(fmt.Sprintf(burn, seconds(d)))
}

func seconds(d time.Duration) int { return int((d + time.Second - 1) / time.Second) }

// chunk divides what is written, read and sent, which all have to be whole
// multiples of it.
const chunk = 64 << 10

func (g *Guest) chunks(n int64) int64 {
	g.t.Helper()
	if n <= 0 || n%chunk != 0 {
		g.t.Fatalf("%d bytes are not a multiple of 64 KiB", n)
	}
	return n / chunk
}

// Write writes n bytes to the start of vda and has them on the disk.
func (g *Guest) Write(n int64) {
	g.t.Helper()
	g.WriteAt("vda", 0, n)
}

// WriteAt writes n bytes to a disk, from an offset on.
func (g *Guest) WriteAt(disk string, offset, n int64) {
	g.t.Helper()
	seek := int64(0)
	if offset != 0 {
		seek = g.chunks(offset)
	}
	g.Run(fmt.Sprintf("dd if=/dev/zero of=/dev/%s bs=%d seek=%d count=%d conv=fsync,notrunc", disk, chunk, seek, g.chunks(n)))
}

// Read reads n bytes from the start of vda, past the guest's page cache. The
// guest may read ahead of them.
func (g *Guest) Read(n int64) {
	g.t.Helper()
	g.Run(fmt.Sprintf("echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda of=/dev/null bs=%d count=%d", chunk, g.chunks(n)))
}

// Send sends n bytes to the peer and returns when that has them.
func (g *Guest) Send(p *Peer, n int64) {
	g.t.Helper()
	before := p.Received()
	g.Run(p.connect("echo take; dd if=/dev/zero bs=%d count=%d 2>/dev/null", chunk, g.chunks(n)))
	for end := time.Now().Add(endPatience); p.Received()-before < n && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if got := p.Received() - before; got != n {
		g.t.Fatalf("guest %s sent %d bytes, %d came", g.Name, n, got)
	}
}

// SendOn sends to the peer in the background, as fast as it goes, until the
// guest ends.
func (g *Guest) SendOn(p *Peer) {
	g.t.Helper()
	g.Background(p.connect("echo take; cat /dev/zero"))
}

// Receive has the peer send n bytes.
func (g *Guest) Receive(p *Peer, n int64) {
	g.t.Helper()
	out := g.Run(p.connect("echo give %d; wc -c >/tmp/received", n) + " && cat /tmp/received")
	if got, _ := strconv.ParseInt(strings.TrimSpace(out), 10, 64); got != n {
		g.t.Fatalf("guest %s received %q bytes of %d", g.Name, out, n)
	}
}

// Touch occupies n bytes of memory, in place of what was touched before; 0
// gives it back to the guest's kernel.
func (g *Guest) Touch(n int64) {
	g.t.Helper()
	if n == 0 {
		g.Run("rm -f /mem/touched")
		return
	}
	g.Run(fmt.Sprintf("dd if=/dev/zero of=/mem/touched bs=%d count=%d", chunk, g.chunks(n)))
}

// Reboot has the guest reset its machine and waits until it is up again. QEMU
// goes on.
func (g *Guest) Reboot() {
	g.t.Helper()
	g.Background("sleep 0.1; reboot -f") // after the answer
	g.Ready()
}

// PowerOff has the guest end, and waits until QEMU has.
func (g *Guest) PowerOff() {
	g.t.Helper()
	g.Background("sleep 0.1; poweroff -f")
	if !g.gone(bootPatience) {
		g.t.Fatalf("guest %s does not power off", g.Name)
	}
}

// DiskCounters are what /proc/diskstats says, in bytes.
type DiskCounters struct{ Read, Written uint64 }

// Disk reads the guest's own counters of a disk: "vda".
func (g *Guest) Disk(name string) DiskCounters {
	g.t.Helper()
	for line := range strings.Lines(g.Run("cat /proc/diskstats")) {
		if f := strings.Fields(line); len(f) >= 10 && f[2] == name {
			return DiskCounters{g.number(f[5]) * 512, g.number(f[9]) * 512}
		}
	}
	g.t.Fatalf("guest %s has no disk %s", g.Name, name)
	return DiskCounters{}
}

// LinkCounters are what /proc/net/dev says, in bytes.
type LinkCounters struct{ Received, Sent uint64 }

// Link reads the guest's own counters of an interface: "eth0".
func (g *Guest) Link(name string) LinkCounters {
	g.t.Helper()
	for line := range strings.Lines(g.Run("cat /proc/net/dev")) {
		if f := strings.Fields(strings.Replace(line, ":", " ", 1)); len(f) >= 10 && f[0] == name {
			return LinkCounters{g.number(f[1]), g.number(f[9])}
		}
	}
	g.t.Fatalf("guest %s has no interface %s", g.Name, name)
	return LinkCounters{}
}

// MemoryGauges are what /proc/meminfo says, in bytes.
type MemoryGauges struct{ Total, Available uint64 }

// Memory reads the guest's own view of its memory.
func (g *Guest) Memory() MemoryGauges {
	g.t.Helper()
	var m MemoryGauges
	for line := range strings.Lines(g.Run("cat /proc/meminfo")) {
		f := strings.Fields(line)
		switch f[0] {
		case "MemTotal:":
			m.Total = g.number(f[1]) << 10
		case "MemAvailable:":
			m.Available = g.number(f[1]) << 10
		}
	}
	return m
}

// CPU reads how long the guest believes its processors were busy. Under TCG
// that is more than the host's truth whenever the host has other work.
func (g *Guest) CPU() time.Duration {
	g.t.Helper()
	line, _, _ := strings.Cut(g.Run("cat /proc/stat"), "\n")
	f := strings.Fields(line)
	var ticks uint64
	for _, i := range []int{1, 2, 3, 6, 7} { // user, nice, system, irq, softirq
		ticks += g.number(f[i])
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// BootID is the guest kernel's name for its boot.
func (g *Guest) BootID() string {
	g.t.Helper()
	return strings.TrimSpace(g.Run("cat /proc/sys/kernel/random/boot_id"))
}

func (g *Guest) number(s string) uint64 {
	g.t.Helper()
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		g.t.Fatalf("guest %s: %v", g.Name, err)
	}
	return n
}
