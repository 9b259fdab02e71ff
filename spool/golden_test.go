package spool

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"example.org/odometer"
)

// Golden spools are directories as each version of the format left them, kept
// for ever: testdata/golden-N/, and in golden-N.json what every later version
// must read there. `go test ./spool -run TestGoldenSpools -golden N` writes
// that of the present format.
var writeGolden = flag.Int("golden", 0, "write a golden spool under this number")

// goldenView is what an agent finds in a spool.
type goldenView struct {
	ID          odometer.SpoolID
	Acked       uint64
	Ledger      odometer.LedgerID
	Generation  uint64
	Last        uint64
	Retained    []string // every record there is
	Checkpoints []json.RawMessage
}

func view(t *testing.T, s *Spool) goldenView {
	t.Helper()
	st := s.Stats()
	if st.Corrupt != 0 || len(st.Damage) != 0 || st.TornBytes != 0 {
		t.Errorf("corrupt positions %d, damage %v, torn bytes %d: want none", st.Corrupt, st.Damage, st.TornBytes)
	}
	v := goldenView{ID: s.ID(), Acked: st.Acked, Ledger: st.Ledger, Generation: st.Generation, Last: st.Last, Checkpoints: s.Checkpoints()}
	for _, r := range all(t, s, 0) {
		line := fmt.Sprintf("%d-%d resumes=%t checkpoint=%s", r.First, r.Position, r.Resumes, r.Checkpoint)
		if e := r.Event; e != nil {
			line += fmt.Sprintf(" %s of %s at %s: %v %v, from %v to %v, final=%t", e.ID(), e.Owner, e.Agent, e.Span, e.Usage.Vector, e.Readings.Start.Vector, e.Readings.End.Vector, e.Final)
		}
		v.Retained = append(v.Retained, line)
	}
	return v
}

// makeGolden fills a spool until it has merged, was receipted in part, and has
// freed its oldest segments, so that checkpoints have a file of their own.
func makeGolden(t *testing.T, name string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "spool")
	now := time.UnixMicro(epochStart)
	s, err := Open(Options{Dir: dir, SegmentBytes: 4 << 10, MaxBytes: 72 << 10, RetainBytes: 4 << 10, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	a, b, quiet := newSource(1), newSource(2), newSource(3)
	a.seconds, b.seconds = 400, 500
	if err := s.Append([]odometer.Record{quiet.record(1), {Checkpoint: newSource(4).checkpoint(0)}}); err != nil {
		t.Fatal(err)
	}
	for n := uint64(1); n <= 90; n++ {
		last := a.record(n)
		last.Event.Final = n == 90
		if err := s.Append([]odometer.Record{last, b.record(n)}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(30 * time.Second)
		if n == 25 {
			ack(t, s, receipt(s, s.Stats().Last-4))
		}
	}
	ack(t, s, receipt(s, s.Stats().Last-30))
	if st := s.Stats(); st.Coalesced == 0 || st.First == 1 {
		t.Fatalf("coalesced %d records, the first position kept is %d: the story must do more", st.Coalesced, st.First)
	}
	text, err := json.MarshalIndent(view(t, s), "", " ")
	err = errors.Join(err, s.Close(), os.WriteFile(filepath.Join("testdata", name+".json"), append(text, '\n'), 0o644))
	if err == nil {
		err = errors.Join(os.Remove(filepath.Join(dir, "lock")), os.Remove(filepath.Join(dir, "reserve")), os.CopyFS(filepath.Join("testdata", name), os.DirFS(dir)))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestGoldenSpools opens a copy of the spool that each version of the format
// left behind, reads everything in it, and goes on with it.
func TestGoldenSpools(t *testing.T) {
	if *writeGolden > 0 {
		makeGolden(t, fmt.Sprintf("golden-%d", *writeGolden))
	}
	names, err := fs.Glob(os.DirFS("testdata"), "golden-*.json")
	if err != nil || len(names) == 0 {
		t.Fatalf("got golden spools %v, %v, want one of each version", names, err)
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			var want goldenView
			text, err := os.ReadFile(filepath.Join("testdata", name))
			if err == nil {
				err = json.Unmarshal(text, &want)
			}
			dir := filepath.Join(t.TempDir(), "spool")
			if err := errors.Join(err, os.CopyFS(dir, os.DirFS(filepath.Join("testdata", name[:len(name)-len(".json")])))); err != nil {
				t.Fatal(err)
			}
			open := func() *Spool {
				t.Helper()
				s, err := Open(Options{Dir: dir, Retain: 1 << 62, RetainBytes: 1 << 40})
				if err != nil {
					t.Fatal(err)
				}
				return s
			}
			s := open()
			if got := view(t, s); !sameView(t, got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
			// It is used as one of this version.
			src := newSource(9)
			rs := []odometer.Record{src.record(1)}
			if err := s.Append(rs); err != nil {
				t.Fatal(err)
			}
			if got := rs[0].Position; got != want.Last+1 {
				t.Errorf("the next position is %d, want %d", got, want.Last+1)
			}
			ack(t, s, receipt(s, want.Last+1))
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
			defer s.Close()
			if st := s.Stats(); st.Acked != want.Last+1 || st.Last != want.Last+1 {
				t.Errorf("after opening again: receipted %d of %d, want %d of %d", st.Acked, st.Last, want.Last+1, want.Last+1)
			}
			if got := len(all(t, s, 0)); got != len(want.Retained)+1 {
				t.Errorf("records after opening again: got %d, want %d", got, len(want.Retained)+1)
			}
			// A restored ledger is offered again what is kept.
			restored := receipt(s, want.Acked-10)
			restored.Generation = 2
			ack(t, s, restored)
			if got, want := s.Stats().Acked, want.Acked-10; got != want {
				t.Errorf("receipted for a restored ledger: got %d, want %d", got, want)
			}
		})
	}
}

// sameView compares what was found by its JSON, in which it is kept.
func sameView(t *testing.T, got, want goldenView) bool {
	t.Helper()
	plain := func(v goldenView) (m any) {
		b, err := json.Marshal(v)
		if err == nil {
			err = json.Unmarshal(b, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	return reflect.DeepEqual(plain(got), plain(want))
}
