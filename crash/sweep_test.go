package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/odometer/crash/trace"
)

var (
	binary string // the real program, built once for all tests
	bg     = context.Background()
	atEnd  []func()
)

// TestMain is also the external queue of a soak.
func TestMain(m *testing.M) {
	os.Setenv("ODOMETER_SOURCE", "machine") // as main does
	if len(os.Args) > 1 && os.Args[1] == "nats" {
		if err := serveNATS(bg, os.Args[2:]); err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(func() int {
		dir, err := workDir()
		if err == nil {
			defer os.RemoveAll(dir)
			binary, err = build(dir)
		}
		if err != nil {
			os.Stderr.WriteString(err.Error() + "\n")
			return 1
		}
		defer func() {
			for _, f := range atEnd {
				f()
			}
		}()
		return m.Run()
	}())
}

// memory is a directory in memory, where there is any.
func memory(t *testing.T) string {
	t.Helper()
	dir, err := workDir()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func planned(t *testing.T, r *run) *plan {
	t.Helper()
	p, err := newPlan(t.Context(), r, binary, memory(t), nil)
	if err != nil {
		t.Fatalf("canonical run of the %s: %v", r.name, err)
	}
	return p
}

// TestKillAtACall kills each program at a few of its calls. `make sweep` does
// it at all of them.
func TestKillAtACall(t *testing.T) {
	all, err := allRuns()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		t.Run(r.name, func(t *testing.T) {
			p := planned(t, r)
			s := p.sweep(t.Context(), sample(p.points(), 4, 1), sweepOptions{Parallel: 2})
			for _, f := range s.failed {
				t.Error(f)
			}
			if s.tried != 4 || s.missed == s.tried {
				t.Errorf("got %d kills, %d of them not reached, want 4", s.tried, s.missed)
			}
		})
	}
}

// TestASweepCatchesWhatIsLost takes from the killed server what it had
// committed since its log was last checkpointed: the sweep must say so.
func TestASweepCatchesWhatIsLost(t *testing.T) {
	// Where the machine is busy, a run may commit all at once: then what is lost was
	// not receipted, and comes again.
	for range 3 {
		if catchesWhatIsLost(t) {
			return
		}
	}
	t.Error("a ledger without its last commits: want a failure after the restart")
}

func catchesWhatIsLost(t *testing.T) bool {
	p := planned(t, serverRun)
	// The last commits before the server was told to end, but for the very last,
	// which are not reached by a run of a few calls less.
	var commits, before []int
	for i, c := range p.calls {
		switch {
		case c.Op == trace.Sync && c.Path == "ledger.db-wal":
			commits = append(commits, i+1)
		case c.Op == trace.Unlink && c.Path == "server.json":
			before = commits[len(commits)-6 : len(commits)-1]
		}
	}
	lose := func(dir string) error {
		for _, name := range []string{"ledger.db-wal", "ledger.db-shm"} {
			if err := os.Remove(filepath.Join(dir, "data", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		return nil
	}
	// No run makes the same calls, and a log that was just emptied loses nothing.
	for _, call := range slices.Backward(before) {
		killed, err := p.kill(t.Context(), point{call, true}, lose)
		t.Logf("killed at %v: %v", killed, err)
		if err != nil && strings.HasPrefix(err.Error(), "going on: ") {
			return true
		}
	}
	return false
}

// TestARunWithoutItsMilestonesIsRefused asks for something that does not
// happen.
func TestARunWithoutItsMilestonesIsRefused(t *testing.T) {
	r := *replayRun
	r.milestones = append(r.milestones[:len(r.milestones):len(r.milestones)], milestone{
		name: "the moon is reached", calls: func(*trace.Call) bool { return false },
	})
	_, err := newPlan(t.Context(), &r, binary, memory(t), nil)
	if err == nil || !strings.Contains(err.Error(), "the moon is reached") {
		t.Errorf("got %v, want a refusal that names what did not happen", err)
	}
}

func TestSampleSpreadsOverAll(t *testing.T) {
	all := make([]int, 100)
	for i := range all {
		all[i] = i
	}
	for seed := range uint64(5) {
		some := sample(all, 7, seed)
		seen := map[int]bool{}
		for _, n := range some {
			seen[n*7/100] = true
		}
		if len(some) != 7 || len(seen) < 6 {
			t.Errorf("seed %d: %v is not spread", seed, some)
		}
	}
	if got := sample(all, 200, 3); len(got) != 100 {
		t.Errorf("more than there are: got %d, want all 100", len(got))
	}
}
