package main

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"example.org/odometer/crash/trace"
)

// recorded is one recording for all tests.
var recorded = sync.OnceValues(func() (*recording, error) {
	dir, err := workDir()
	if err != nil {
		return nil, err
	}
	atEnd = append(atEnd, func() { os.RemoveAll(dir) })
	return record(bg, serverRun, binary, filepath.Join(dir, "recording"))
})

func theRecording(t *testing.T) *recording {
	t.Helper()
	rec, err := recorded()
	if err != nil {
		t.Fatal(err)
	}
	return rec
}

// TestPowerCuts cuts the power a few times. `make power` does it after every
// call and with every fate.
func TestPowerCuts(t *testing.T) {
	rec := theRecording(t)
	r, err := rec.cut(t.Context(), memory(t), powerOptions{Sample: 16, Whole: 8, Seed: 1, Parallel: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range r.failed {
		t.Error(f)
	}
	if r.tested < 8 || r.whole == 0 {
		t.Errorf("got %d states tested and %d with the whole program, want some", r.tested, r.whole)
	}
}

// TestPowerCutsDuringMigration does the same while an older ledger is brought
// to this version.
func TestPowerCutsDuringMigration(t *testing.T) {
	all, err := allRuns()
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all[len(runs):] {
		rec, err := record(t.Context(), r, binary, memory(t))
		if err != nil {
			t.Fatal(err)
		}
		c, err := rec.cut(t.Context(), memory(t), powerOptions{Sample: 12, Whole: 6, Seed: 1, Parallel: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range c.failed {
			t.Errorf("%s: %s", r.name, f)
		}
		if c.tested < 6 || c.whole == 0 {
			t.Errorf("%s: got %d states tested and %d with the whole program, want some", r.name, c.tested, c.whole)
		}
	}
}

// planted are faults that the power cuts must catch: the same recording as a
// program with that fault would have made.
var planted = []struct {
	name  string
	fault func(rec *recording)
	want  string
}{
	{"the ledger's log is not synced (synchronous=OFF)", func(rec *recording) {
		keep := rec.calls[:0:0]
		moved := make([]int, len(rec.calls)+1) // where each call went
		for i, c := range rec.calls {
			if c.Op != trace.Sync || !strings.HasPrefix(c.Path, "ledger.db") {
				keep = append(keep, c)
			}
			moved[i+1] = len(keep)
		}
		rec.calls = keep
		for i := range rec.receipts {
			rec.receipts[i].after = moved[rec.receipts[i].after]
		}
		for i := range rec.answers {
			rec.answers[i] = moved[rec.answers[i]]
		}
	}, ""},
	{"a receipt is given out one commit early", func(rec *recording) {
		for i := range rec.receipts[1:] {
			rec.receipts[i].receipt = rec.receipts[i+1].receipt
		}
	}, "had been given out"},
	{"a request is answered one commit early", func(rec *recording) {
		rec.receipts = nil
		rec.answers = append([]int{0}, rec.answers[:len(rec.answers)-1]...)
	}, "had been answered"},
}

// TestPowerCutsCatchPlantedFaults looks, for each planted fault, at the disk
// right after each promise, with nothing on it that was not synced.
func TestPowerCutsCatchPlantedFaults(t *testing.T) {
	for _, p := range planted {
		t.Run(p.name, func(t *testing.T) {
			rec := *theRecording(t)
			rec.receipts, rec.answers = slices.Clone(rec.receipts), slices.Clone(rec.answers)
			check := func(rec *recording) (err error) {
				promises := slices.Clone(rec.answers)
				for _, r := range rec.receipts {
					promises = append(promises, r.after)
				}
				here := func(calls int, f fate) bool { return slices.Contains(promises, calls) && f.name == fates[0].name }
				_, _, n, fail := rec.outages(powerOptions{only: here}, func(cut *outage) bool {
					data := filepath.Join(memory(t), "data")
					if err = cut.state.write(data); err == nil {
						err = rec.look(t.Context(), data, cut)
					}
					return err == nil
				})
				if fail != nil || n == 0 {
					t.Fatalf("got %d states, %v, want some", n, fail)
				}
				return err
			}
			if err := check(&rec); err != nil {
				t.Fatalf("without the fault: %v", err)
			}
			p.fault(&rec)
			if err := check(&rec); err == nil || !strings.Contains(err.Error(), p.want) {
				t.Errorf("got %v, want the fault to be caught: %q", err, p.want)
			} else {
				t.Log(err)
			}
		})
	}
}

// TestDisk holds the model of a disk to what it says of itself.
func TestDisk(t *testing.T) {
	const a, b = 11, 12 // inodes
	open := &trace.Call{Op: trace.Open, Path: "a", File: a, Created: true}
	write := func(s string, at int64) *trace.Call {
		return &trace.Call{Op: trace.Write, Path: "a", File: a, Data: []byte(s), Offset: at}
	}
	syncFile := &trace.Call{Op: trace.Sync, Path: "a", File: a}
	syncDir := &trace.Call{Op: trace.Sync, Path: ".", File: 1, IsDir: true}
	rename := &trace.Call{Op: trace.Rename, Path: "a", To: "b"}
	unlink := &trace.Call{Op: trace.Unlink, Path: "a"}
	for _, c := range []struct {
		name  string
		calls []*trace.Call
		fate  string
		want  state
	}{
		{"nothing is synced", []*trace.Call{open, write("x", 0)}, "nothing unsynced", state{}},
		{"all of it reached the disk", []*trace.Call{open, write("x", 0)}, "everything", state{"a": []byte("x")}},
		{"fsync of a file does not keep its name", []*trace.Call{open, write("x", 0), syncFile}, "nothing unsynced", state{}},
		{"a name does not keep the content", []*trace.Call{open, write("x", 0), syncDir}, "nothing unsynced", state{"a": []byte{}}},
		{"both", []*trace.Call{open, write("x", 0), syncFile, syncDir}, "nothing unsynced", state{"a": []byte("x")}},
		{"a write after the fsync", []*trace.Call{open, write("x", 0), syncFile, syncDir, write("y", 1)}, "nothing unsynced", state{"a": []byte("x")}},
		{"a hole is zero", []*trace.Call{open, write("y", 2), syncFile, syncDir}, "nothing unsynced", state{"a": []byte("\x00\x00y")}},
		{"a rename that is not synced", []*trace.Call{open, write("x", 0), syncFile, syncDir, rename}, "nothing unsynced", state{"a": []byte("x")}},
		{"a rename that is", []*trace.Call{open, write("x", 0), syncFile, rename, syncDir}, "nothing unsynced", state{"b": []byte("x")}},
		{"a rename before its content", []*trace.Call{open, write("x", 0), rename}, "names, not contents", state{"b": []byte{}}},
		{"a removal that is not synced", []*trace.Call{open, write("x", 0), syncFile, syncDir, unlink}, "nothing unsynced", state{"a": []byte("x")}},
		{"a removal that is", []*trace.Call{open, write("x", 0), syncFile, syncDir, unlink, syncDir}, "nothing unsynced", state{}},
		{"a truncation that is not synced", []*trace.Call{open, write("xyz", 0), syncFile, syncDir, {Op: trace.Truncate, Path: "a", File: a, Size: 1}}, "nothing unsynced", state{"a": []byte("xyz")}},
		{"a call that failed", []*trace.Call{open, {Op: trace.Open, Path: "c", File: b, Created: true, Err: 28}}, "everything", state{"a": []byte{}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDisk(nil, nil)
			for _, call := range c.calls {
				if err := d.apply(call); err != nil {
					t.Fatal(err)
				}
			}
			i := slices.IndexFunc(fates, func(f fate) bool { return f.name == c.fate })
			got := d.after(fates[i], rand.New(rand.NewPCG(1, 1)))
			if why := got.differs(c.want); why != "" {
				t.Errorf("got %q, want %q: %s", got, c.want, why)
			}
		})
	}
	if err := newDisk(nil, nil).apply(&trace.Call{Op: trace.Other, Path: "a"}); err == nil {
		t.Error("a call that is not understood: got no error")
	}
}

// TestTornWritesStayWithinTheWrite tears a write at random: each sector is
// the old one or the new one, and nothing outside of the write changes.
func TestTornWritesStayWithinTheWrite(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	torn, whole := 0, 0
	for range 2000 {
		before := make([]byte, 20_000)
		at, n := r.Int64N(10_000), 1+r.Int64N(9_000)
		data := make([]byte, n)
		for i := range data {
			data[i] = 1
		}
		got := slices.Clone(before)
		for _, part := range mostTorn(r, change{op: trace.Write, at: at, data: data}, 0) {
			got = part.apply(got)
		}
		ones := 0
		for i, b := range got {
			if b == 0 {
				continue
			}
			if ones++; int64(i) < at || int64(i) >= at+n {
				t.Fatalf("byte %d changed, which was not written (%d bytes at %d)", i, n, at)
			}
		}
		for from := at / 512 * 512; from < at+n; from += 512 {
			s := got[max(from, at):min(from+512, at+n)]
			if slices.Contains(s, 0) && slices.Contains(s, 1) {
				t.Fatalf("the sector at %d is torn in itself", from)
			}
		}
		switch int64(ones) {
		case 0:
		case n:
			whole++
		default:
			torn++
		}
	}
	if torn < 100 || whole < 100 {
		t.Errorf("got %d torn and %d whole writes of 2000, want many of both", torn, whole)
	}
}
