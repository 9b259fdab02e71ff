package inventory

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"golang.org/x/sys/unix"
)

// TestWatchLibvirtAndItsProcesses watches a real libvirt and the processes of
// the host at once: each machine is one, and each thing that happens to it is
// told once, with libvirt's reason and the process's moment.
func TestWatchLibvirtAndItsProcesses(t *testing.T) {
	if testing.Short() {
		t.Skip("libvirtd takes ten seconds to start")
	}
	d := startLibvirtd(t, "7", nil)
	l, p := d.source(), realProcesses(t)
	const id = "5a5a5a5a-0000-4000-8000-000000000077"
	var mu sync.Mutex
	var log []odometer.Change
	var last *odometer.VM
	w := NewWatch(WatchOptions{
		Sources: []Watched{{Source: l, Every: 2 * time.Second}, {Source: p, Every: time.Second}}, Agent: "host-1", Clock: realClock{},
		Changed: func(vms []odometer.VM, changes []odometer.Change) {
			mu.Lock()
			defer mu.Unlock()
			last = nil
			n := 0
			for i := range vms {
				if vms[i].Instance == id || strings.Contains(vms[i].Name, "joint") {
					last = &vms[i]
					n++
				}
			}
			if n > 1 {
				t.Errorf("the machine is %d machines: %+v", n, vms)
			}
			for _, c := range changes {
				if c.Instance == id {
					log = append(log, c)
				}
			}
		}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for st := w.Status(); !st[0].OK || !st[1].OK; st = w.Status() {
		time.Sleep(10 * time.Millisecond)
	}
	step := func(what string, do func() error, want ...string) {
		t.Helper()
		begin := realClock{}.Now()
		if err := do(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		var got []string
		for range 1200 {
			time.Sleep(50 * time.Millisecond)
			mu.Lock()
			got = nil
			for _, c := range log {
				got = append(got, fmt.Sprintf("%s %s", c.Kind, c.Detail))
				if age := c.At.Boot - begin.Boot; age < -2*tickMicros || age > 60*odometer.SecondMicros {
					t.Errorf("%s: %s is told %d µs after", what, c.Kind, age)
				}
			}
			mu.Unlock()
			if len(got) == len(want) {
				break
			}
		}
		time.Sleep(1500 * time.Millisecond) // whatever else is told
		mu.Lock()
		defer mu.Unlock()
		got = nil
		for _, c := range log {
			got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s", c.Kind, c.Detail)))
		}
		log = nil
		// On a busy host a reason may come later than it is waited for.
		fits := func(got, want string) bool {
			kind, detail, _ := strings.Cut(got, " ")
			wanted, details, _ := strings.Cut(want, " ")
			return kind == wanted && strings.Contains(details, detail)
		}
		if !slices.EqualFunc(got, want, fits) {
			t.Errorf("%s: got %q, want %q", what, got, want)
		}
		if last != nil {
			t.Logf("%s: %s %s pid %d run %s control %q", what, last.Source, last.State, last.PID, last.Run, last.Control)
		}
	}
	pid := func() int { mu.Lock(); defer mu.Unlock(); return last.PID }
	dom := d.define("joint", id, "", "")
	step("define", func() error { return nil }, "defined")
	step("start", func() error { return d.admin.DomainCreate(dom) }, "started booted")
	step("suspend", func() error { return d.admin.DomainSuspend(dom) }, "paused")
	step("resume", func() error { return d.admin.DomainResume(dom) }, "resumed")
	step("reset", func() error { return d.admin.DomainReset(dom, 0) }, "rebooted")
	step("kill", func() error { return unix.Kill(pid(), unix.SIGKILL) }, "crashed its hypervisor failed; killed by signal 9")
	step("start again", func() error { return d.admin.DomainCreate(dom) }, "started booted")
	step("destroy", func() error { return d.admin.DomainDestroy(dom) }, "stopped destroyed; its process exited")
	step("undefine", func() error { return d.admin.DomainUndefine(dom) }, "deleted")
}
