package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// calls runs the script without a fault and returns what it calls.
func calls(t *testing.T, o Options) []string {
	t.Helper()
	w := newWorld(t, newMemFS(), 3, o)
	if err := w.script(); err != nil {
		t.Fatal(err)
	}
	log := slices.Clone(w.fs.log)
	w.settle()
	for _, op := range []string{"create ", "write ", "sync cursor", "rename ", "remove ", "sync directory", "allocate reserve", "rename checkpoints", ".seg.tmp to "} {
		found := false
		for _, l := range log {
			found = found || strings.Contains(l, op)
		}
		if !found && o.MaxBytes < 1<<30 {
			t.Fatalf("the script never does %q: the test would prove nothing of it", op)
		}
	}
	return log
}

// stride leaves calls out under -short.
func stride() int {
	if testing.Short() {
		return 11
	}
	return 1
}

// Every call that changes the disk fails once, in both ways: not persisted and
// persisted, and a write also in half. The process goes on, and afterwards is
// killed, or loses power.
func TestEveryCallFailsOnce(t *testing.T) {
	log := calls(t, tight())
	kinds := []struct {
		name  string
		fault fault
	}{
		{"failed, not persisted", fault{err: errIO}},
		{"failed, but persisted", fault{err: errIO, effect: true}},
		{"failed, half persisted", fault{err: errIO, effect: true, partial: true}},
		{"no space, not persisted", fault{err: syscall.ENOSPC}},
		{"no space, half persisted", fault{err: syscall.ENOSPC, effect: true, partial: true}},
	}
	for n := 1; n <= len(log); n += stride() {
		for _, k := range kinds {
			name := fmt.Sprintf("call %d (%s) %s", n, log[n-1], k.name)
			w := newWorld(t, newMemFS(), 3, tight())
			w.name = name
			w.fs.fault = func(i int, _ string) fault {
				if i == n {
					return k.fault
				}
				return fault{}
			}
			if err := w.script(); err != nil {
				// Opening may fail; then it says so, and works the next time.
				if w.fs.fault = nil; !errors.Is(err, k.fault.err) {
					t.Fatalf("%s: %v", name, err)
				}
			}
			w.fs.fault = nil
			checkAfter(t, w, name, n)
		}
	}
}

// checkAfter lets the world go on in three ways: the next process of the same
// boot, a power cut that leaves nothing unsynced, and ones that leave some of
// it. Each must have everything that was accepted.
func checkAfter(t *testing.T, w *world, name string, seed int) {
	t.Helper()
	w.fork().again(w.fs.restarted(), name+", then a restart")
	w.fork().again(w.fs.powerCut(nil), name+", then a power cut")
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	for range 2 {
		w.fork().again(w.fs.powerCut(r), name+", then a power cut that leaves a part")
	}
}

// Every fsync from some call on fails; then the disk works again.
func TestSyncKeepsFailing(t *testing.T) {
	log := calls(t, roomy())
	for n := 1; n <= len(log); n += 3 {
		for _, effect := range []bool{false, true} {
			name := fmt.Sprintf("every sync from call %d to %d fails, persisted %v", n, n+9, effect)
			w := newWorld(t, newMemFS(), 3, roomy())
			w.name = name
			w.fs.fault = func(i int, op string) fault {
				if i >= n && i < n+10 && strings.HasPrefix(op, "sync") {
					return fault{err: errIO, effect: effect}
				}
				return fault{}
			}
			_ = w.script()
			w.fs.fault = nil
			checkAfter(t, w, name, n)
		}
	}
}

// The process is killed at every call, before and after its effect.
func TestKillAtEveryCall(t *testing.T) {
	for _, o := range []struct {
		name string
		opts func() Options
	}{{"tight", tight}, {"roomy", roomy}} {
		log := calls(t, o.opts())
		for n := 1; n <= len(log); n += stride() {
			for _, f := range []fault{{kill: true}, {kill: true, effect: true}, {kill: true, effect: true, partial: true}} {
				name := fmt.Sprintf("%s: killed at call %d (%s), effect %v, partial %v", o.name, n, log[n-1], f.effect, f.partial)
				w := newWorld(t, newMemFS(), 3, o.opts())
				w.name = name
				w.fs.fault = func(i int, _ string) fault {
					if i == n {
						return f
					}
					return fault{}
				}
				if err := w.script(); !errors.Is(err, errKilled) {
					t.Fatalf("%s: got %v, want %v", name, err, errKilled)
				}
				w.fs.killed = false // for the copies
				checkAfter(t, w, name, n)
			}
		}
	}
}
