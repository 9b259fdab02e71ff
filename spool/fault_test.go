package spool

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/odometer"
	"example.org/odometer/internal/memfs"
)

// calls runs the script without a fault and returns what it calls.
func calls(t *testing.T, o Options) []string {
	t.Helper()
	w := newWorld(t, memfs.New(), 3, o)
	if err := w.script(); err != nil {
		t.Fatal(err)
	}
	log := slices.Clone(w.fs.Log)
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

// stride leaves calls out under -short and under the race detector, which
// finds nothing in what one goroutine does.
func stride() int {
	if testing.Short() || raceEnabled {
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
		fault memfs.Fault
	}{
		{"failed, not persisted", memfs.Fault{Err: errIO}},
		{"failed, but persisted", memfs.Fault{Err: errIO, Effect: true}},
		{"failed, half persisted", memfs.Fault{Err: errIO, Effect: true, Partial: true}},
		{"no space, not persisted", memfs.Fault{Err: syscall.ENOSPC}},
		{"no space, half persisted", memfs.Fault{Err: syscall.ENOSPC, Effect: true, Partial: true}},
	}
	for n := 1; n <= len(log); n += stride() {
		for _, k := range kinds {
			name := fmt.Sprintf("call %d (%s) %s", n, log[n-1], k.name)
			w := newWorld(t, memfs.New(), 3, tight())
			w.name = name
			w.fs.Fault = func(i int, _ string) memfs.Fault {
				if i == n {
					return k.fault
				}
				return memfs.Fault{}
			}
			if err := w.script(); err != nil {
				// Opening may fail; then it says so, and works the next time.
				if w.fs.Fault = nil; !errors.Is(err, k.fault.Err) {
					t.Fatalf("%s: %v", name, err)
				}
			}
			w.fs.Fault = nil
			checkAfter(t, w, name, n)
		}
	}
}

// checkAfter lets the world go on in three ways: the next process of the same
// boot, a power cut that leaves nothing unsynced, and ones that leave some of
// it. Each must have everything that was accepted.
func checkAfter(t *testing.T, w *world, name string, seed int) {
	t.Helper()
	w.fork().again(w.fs.Restarted(), name+", then a restart")
	w.fork().again(w.fs.PowerCut(nil), name+", then a power cut")
	r := rand.New(rand.NewPCG(uint64(seed), 1))
	for range 2 {
		w.fork().again(w.fs.PowerCut(r), name+", then a power cut that leaves a part")
	}
}

// Every fsync from some call on fails; then the disk works again.
func TestSyncKeepsFailing(t *testing.T) {
	log := calls(t, roomy())
	for n := 1; n <= len(log); n += 3 {
		for _, effect := range []bool{false, true} {
			name := fmt.Sprintf("every sync from call %d to %d fails, persisted %v", n, n+9, effect)
			w := newWorld(t, memfs.New(), 3, roomy())
			w.name = name
			w.fs.Fault = func(i int, op string) memfs.Fault {
				if i >= n && i < n+10 && strings.HasPrefix(op, "sync") {
					return memfs.Fault{Err: errIO, Effect: effect}
				}
				return memfs.Fault{}
			}
			_ = w.script()
			w.fs.Fault = nil
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
			for _, f := range []memfs.Fault{{Kill: true}, {Kill: true, Effect: true}, {Kill: true, Effect: true, Partial: true}} {
				name := fmt.Sprintf("%s: killed at call %d (%s), effect %v, partial %v", o.name, n, log[n-1], f.Effect, f.Partial)
				w := newWorld(t, memfs.New(), 3, o.opts())
				w.name = name
				w.fs.Fault = func(i int, _ string) memfs.Fault {
					if i == n {
						return f
					}
					return memfs.Fault{}
				}
				if err := w.script(); !errors.Is(err, memfs.ErrKilled) {
					t.Fatalf("%s: got %v, want %v", name, err, memfs.ErrKilled)
				}
				w.fs.Killed = false // for the copies
				checkAfter(t, w, name, n)
			}
		}
	}
}

// once makes the first call with that prefix fail.
func once(prefix string, f memfs.Fault) func(int, string) memfs.Fault {
	done := false
	return func(_ int, op string) memfs.Fault {
		if done || !strings.HasPrefix(op, prefix) {
			return memfs.Fault{}
		}
		done = true
		return f
	}
}

// The page that could not be written may have held accepted records: after a
// failed fsync their segment is copied, and the file is not written to again.
func TestAfterAFailedSyncTheSegmentIsCopied(t *testing.T) {
	for _, f := range []memfs.Fault{{Err: errIO, Tear: true}, {Err: errIO, Effect: true}} {
		fs := memfs.New()
		s := open(t, fs, roomy())
		src := newSource(1)
		fill(t, s, src, 1, 2)
		name := s.active().name
		fs.Fault = once("sync "+name, f)
		err := s.Append([]odometer.Record{src.record(3)})
		if !errors.Is(err, errIO) || !strings.Contains(err.Error(), "sync segment "+name) {
			t.Fatalf("got %v, want the disk's error and the segment", err)
		}
		if got, want := ids(all(t, s, 0)), "1:vm-1/1 2:vm-1/2"; got != want {
			t.Errorf("after the failure: got %s, want %s", got, want)
		}
		if got := s.Stats().Err; !errors.Is(got, errIO) {
			t.Errorf("stats say %v", got)
		}
		fs.Log = nil
		fill(t, s, src, 3, 4)
		for _, op := range fs.Log {
			if op == "write "+name || op == "sync "+name {
				t.Errorf("%s, after its fsync failed", op)
			}
		}
		_ = s.Close()
		s = open(t, fs.PowerCut(nil), roomy())
		if got, want := ids(all(t, s, 0)), "1:vm-1/1 2:vm-1/2 3:vm-1/3 4:vm-1/4"; got != want || s.Stats().Corrupt != 0 {
			t.Errorf("after a power cut: got %s, want %s; %v", got, want, s.Stats().Damage)
		}
	}
}

func TestAfterAFailedSyncTheCursorIsWrittenAnew(t *testing.T) {
	fs := memfs.New()
	s := open(t, fs, roomy())
	fill(t, s, newSource(1), 1, 4)
	ack(t, s, receipt(s, 1))
	fs.Fault = once("sync "+cursorName, memfs.Fault{Err: errIO})
	if err := s.Ack(receipt(s, 2)); !errors.Is(err, errIO) || s.Stats().Acked != 1 {
		t.Fatalf("got %v and receipts to %d, want the disk's error and 1", err, s.Stats().Acked)
	}
	ack(t, s, receipt(s, 3))
	_ = s.Close()
	s = open(t, fs.PowerCut(nil), roomy())
	if got := s.Stats().Acked; got != 3 {
		t.Errorf("receipts reach %d after a power cut, want 3", got)
	}
}

// A segment that was not synced by a killed process is made durable before
// anybody reads it, or copied.
func TestSyncFailsAtOpen(t *testing.T) {
	for _, effect := range []bool{false, true} {
		fs := memfs.New()
		s := open(t, fs, roomy())
		fill(t, s, newSource(1), 1, 3)
		_ = s.Close()
		fs.Fault = once("sync "+s.active().name, memfs.Fault{Err: errIO, Effect: effect})
		s = open(t, fs, roomy())
		if got, want := ids(all(t, s, 0)), "1:vm-1/1 2:vm-1/2 3:vm-1/3"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		fill(t, s, newSource(1), 4, 4)
		_ = s.Close()
		s = open(t, fs.PowerCut(nil), roomy())
		if got, want := ids(all(t, s, 0)), "1:vm-1/1 2:vm-1/2 3:vm-1/3 4:vm-1/4"; got != want {
			t.Errorf("after a power cut: got %s, want %s", got, want)
		}
	}
}

// An agent that was killed in an append on a full disk starts all the same: the
// reserve has space for what opening has to write.
func TestOpenOnAFullDisk(t *testing.T) {
	for _, torn := range []bool{false, true} {
		for _, reserve := range []bool{true, false} {
			fs := memfs.New()
			s := open(t, fs, roomy())
			fill(t, s, newSource(1), 1, 9)
			path := s.path(s.active().name)
			_ = s.Close()
			if torn {
				fs.Set(path, append(fs.Data(path), "half of a batch"...))
			}
			if !reserve {
				fs.Drop(s.path(reserveName))
			}
			for _, name := range fs.Names() {
				fs.Limit += int64(len(fs.Data(name)))
			}
			o := roomy()
			o.Dir, o.FS = testDir, fs
			s, err := Open(o)
			if torn && !reserve {
				if !noSpace(err) {
					t.Errorf("with a torn tail and no reserve: got %v, want that there is no space", err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("torn %v, reserve %v: %v", torn, reserve, err)
			}
			if got := len(all(t, s, 0)); got != 9 {
				t.Errorf("torn %v, reserve %v: %d records, want 9", torn, reserve, got)
			}
			if err := s.Append([]odometer.Record{newSource(1).record(10)}); (err == nil) != reserve {
				t.Errorf("torn %v, reserve %v: append: %v", torn, reserve, err)
			}
			_ = s.Close()
			fs.Limit = 0
			s = open(t, fs, roomy())
			fill(t, s, newSource(1), 11, 11)
			if got := all(t, s, 0); got[0].Event.FirstSequence != 1 || got[len(got)-1].Event.Sequence != 11 || s.Stats().Corrupt != 0 {
				t.Errorf("torn %v, reserve %v: when there is space %s", torn, reserve, ids(got))
			}
		}
	}
}
