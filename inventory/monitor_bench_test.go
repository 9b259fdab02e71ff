package inventory

import (
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	booted "example.org/odometer/internal/guest"
	"example.org/odometer/internal/qmp"
	"golang.org/x/sys/unix"
)

// BenchmarkAsk asks a real QEMU, over a connection that is held
// and over one of its own each time, and reports the processor time of this
// process and of QEMU.
func BenchmarkAsk(b *testing.B) {
	g := booted.Start(b, booted.Options{Paused: true, Disks: []booted.Disk{{Path: booted.Image(b, "qcow2", 1<<30)}}, NICs: []booted.NIC{{Link: "odobench"}}})
	command := recognise(splitArgs(readString(b, fmt.Sprintf("/proc/%d/cmdline", g.PID()))), "")
	c := &control{
		sockets: []string{g.Monitor()}, view: view{cwd: "/", pid: g.PID()}, pid: g.PID(), pace: usualPace, clock: realClock{},
		table: newSockets("/"), told: make(chan odometer.Change, 1), tried: make(chan struct{}), yield: make(chan struct{}, 1),
	}
	c.table.add(g.Monitor())
	measure := func(name string, do func()) {
		b.Run(name, func(b *testing.B) {
			mine, its := used(b, "self"), used(b, fmt.Sprint(g.PID()))
			b.ReportAllocs()
			for b.Loop() {
				do()
			}
			b.ReportMetric(float64((used(b, "self")-mine).Microseconds())/float64(b.N), "cpu-µs/op")
			b.ReportMetric(float64((used(b, fmt.Sprint(g.PID()))-its).Microseconds())/float64(b.N), "qemu-cpu-µs/op")
		})
	}
	c.polite = time.Now().Add(time.Hour)
	ask := askMonitor(command)
	measure("visited", func() {
		c.table.at = time.Now() // as it was read for all machines together
		ask(b.Context(), c)
		if c.problem != "" {
			b.Fatal(c.problem)
		}
	})
	s := &session{c: c, again: make(chan struct{}, 1), first: true}
	conn, err := c.dial(b.Context(), g.Monitor())
	if err == nil {
		s.client, err = qmp.New(b.Context(), conn, s.event)
	}
	if err != nil {
		b.Fatal(err)
	}
	defer s.client.Close()
	again := func() {
		if err := s.ask(b.Context(), command); err != nil {
			b.Fatal(err)
		}
	}
	measure("held", again)
	measure("held, for everything", func() {
		s.changed.Store(true)
		again()
	})
}

// used is the processor time of a process, in steps of 10 ms.
func used(b *testing.B, pid string) time.Duration {
	b.Helper()
	_, rest, _ := strings.Cut(readString(b, "/proc/"+pid+"/stat"), ") ")
	var user, system int64
	f := strings.Fields(rest)
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		b.Fatal(err)
	}
	return time.Duration(user+system) * 10 * time.Millisecond
}

// BenchmarkSocketTable looks for 1000 monitors among 3000 sockets and more.
func BenchmarkSocketTable(b *testing.B) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil || limit.Max < 4000 {
		b.Skip("not so many files may be open")
	}
	table := newSockets("/")
	dir := b.TempDir()
	for i := range 1000 {
		path := filepath.Join(dir, fmt.Sprint(i))
		l, err := net.Listen("unix", path)
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		conn, err := net.Dial("unix", path)
		if err != nil {
			b.Fatal(err)
		}
		defer conn.Close()
		there, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer there.Close()
		table.add(path)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, _, err := table.of("", 0); err != nil {
			b.Fatal(err)
		}
	}
}
