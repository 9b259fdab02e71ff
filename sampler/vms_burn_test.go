package sampler

import (
	"bufio"
	"fmt"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"example.org/odometer"
	qemu "example.org/odometer/internal/guest"
)

// TestVMBurn meters a C program whose threads and children have died, from each
// source. What Go does itself, TestVMProcessorTime has it do.
func TestVMBurn(t *testing.T) {
	needRoot(t)
	cc, err := exec.LookPath("cc")
	if err != nil {
		missing(t, err.Error())
	}
	program := filepath.Join(t.TempDir(), "burn")
	if out, err := exec.Command(cc, "-O1", "-Wall", "-Werror", "-pthread", "-o", program, "testdata/burn.c").CombinedOutput(); err != nil {
		t.Fatalf("compile: %v\n%s", err, out)
	}
	a := qemu.NewAccuracy()
	for _, c := range []struct {
		name  string
		enter string
		from  cpuSource
		ticks int64 // by how many it may be off
	}{
		{"cgroup of v1", "cpuacct", cpuFromCgroup, 0},
		{"cgroup of v2", "unified", cpuFromCgroup, 0},
		{"taskstats", "", cpuFromTasks, 0},
		{"/proc/PID/stat", "", cpuFromStat, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &guest{t: t, cmd: exec.Command(program)}
			in, err := g.cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := g.cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := g.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(g.kill)
			if c.enter != "" {
				g.enter(c.enter)
			}
			s := openVMs(t)
			if c.from == cpuFromStat {
				s.tasks.close()
				s.tasks = nil
			}
			s.Update([]odometer.VM{machineOf(g, "vm-1")})
			before := only(t, s)
			if got := runOf(s).cpuFrom; got != c.from {
				t.Fatalf("processor time comes from source %d, want %d: %v", got, c.from, runOf(s).cgroupError)
			}
			if _, err := fmt.Fprintln(in); err != nil {
				t.Fatal(err)
			}
			line, err := bufio.NewReader(out).ReadString('\n')
			var truth, children int64
			if _, err2 := fmt.Sscan(line, &truth, &children); err != nil || err2 != nil {
				t.Fatalf("it says %q: %v", line, err)
			}
			if c.from == cpuFromCgroup {
				truth += children
			}
			got := int64(cpuOf(only(t, s)).Value - cpuOf(before).Value)
			a.Near(t, "ns of CPU, dead threads and children, by "+c.name, truth, got, (10+10*c.ticks)*int64(time.Millisecond)+truth/1000)
		})
	}
	a.Log(t)
}
