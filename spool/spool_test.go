package spool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/memfs"
)

func open(t testing.TB, fs FS, o Options) *Spool {
	t.Helper()
	o.Dir, o.FS = testDir, fs
	s, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// fill appends events from..to of a source, each by itself.
func fill(t testing.TB, s *Spool, src source, from, to uint64) {
	t.Helper()
	for n := from; n <= to; n++ {
		if err := s.Append([]odometer.Record{src.record(n)}); err != nil {
			t.Fatal(err)
		}
	}
}

func all(t testing.TB, s *Spool, after uint64) []odometer.Record {
	t.Helper()
	var rs []odometer.Record
	for r, err := range s.After(after) {
		if err != nil {
			t.Fatal(err)
		}
		rs = append(rs, r)
	}
	return rs
}

func ids(rs []odometer.Record) string {
	var b strings.Builder
	for _, r := range rs {
		if r.First != r.Position {
			fmt.Fprintf(&b, " %d-%d:", r.First, r.Position)
		} else {
			fmt.Fprintf(&b, " %d:", r.Position)
		}
		switch e := r.Event; {
		case e == nil:
			b.WriteString("state")
		case e.FirstSequence != e.Sequence:
			fmt.Fprintf(&b, "%s/%d-%d", e.Instance, e.FirstSequence, e.Sequence)
		default:
			fmt.Fprintf(&b, "%s/%d", e.Instance, e.Sequence)
		}
		if r.Resumes {
			b.WriteString("!")
		}
	}
	return strings.TrimSpace(b.String())
}

func receipt(s *Spool, pos uint64) odometer.Receipt {
	return odometer.Receipt{Spool: s.ID(), Position: pos, Ledger: "ledger", Generation: 1}
}

func ack(t testing.TB, s *Spool, r odometer.Receipt) {
	t.Helper()
	if err := s.Ack(r); err != nil {
		t.Fatal(err)
	}
}

func TestAppendAckReopenOnTheRealDisk(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data", "spool")
	s, err := Open(Options{Dir: dir, SegmentBytes: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	a, b := newSource(1), newSource(2)
	for n := uint64(1); n <= 20; n++ {
		rs := []odometer.Record{a.record(n), b.record(n)}
		if err := s.Append(rs); err != nil {
			t.Fatal(err)
		}
		if got, want := rs[1].Position, 2*n; got != want || rs[0].First != want-1 {
			t.Fatalf("positions %d to %d, want %d to %d", rs[0].First, got, want-1, want)
		}
	}
	id := s.ID()
	ack(t, s, receipt(s, 15))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(Options{Dir: dir}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.ID() != id || len(id) != 32 {
		t.Errorf("the id is %q after reopening, it was %q", s.ID(), id)
	}
	st := s.Stats()
	if st.First != 1 || st.Last != 40 || st.Acked != 15 || st.Unacked != 25 || st.Segments < 2 || st.Corrupt != 0 || !st.Reserve {
		t.Errorf("after reopening: %+v", st)
	}
	rs := all(t, s, st.Acked)
	if len(rs) != 25 || rs[0].First != 16 || rs[24].Position != 40 {
		t.Fatalf("after 15: %s", ids(rs))
	}
	if got, want := rs[24].Event.Content(), b.event(20).Content(); got != want {
		t.Errorf("the last event has content %x, want %x", got, want)
	}
	if got, want := string(rs[24].Checkpoint), string(b.checkpoint(20)); got != want {
		t.Errorf("checkpoint %s, want %s", got, want)
	}
	if got := s.Checkpoints(); len(got) != 2 || string(got[1]) != string(b.checkpoint(20)) {
		t.Errorf("checkpoints %s", got)
	}
	info, err := os.Stat(filepath.Join(dir, "reserve"))
	if err != nil || info.Size() != s.reserveBytes() {
		t.Errorf("reserve: %v, %v", info, err)
	}
}

func TestSecondOpenerGetsAClearError(t *testing.T) {
	for name, fs := range map[string]FS{"memory": memfs.New(), "real": OS{}} {
		t.Run(name, func(t *testing.T) {
			o := Options{Dir: filepath.Join(t.TempDir(), "spool"), FS: fs}
			s, err := Open(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Open(o); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), "in use by another process") {
				t.Errorf("got %v, want %v", err, ErrLocked)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(o); err != nil {
				t.Fatalf("after Close: %v", err)
			}
			_ = s.Close()
		})
	}
}

func TestUnusableDirectory(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Dir: filepath.Join(file, "spool")}); err == nil || !strings.Contains(err.Error(), "open spool "+file) {
		t.Errorf("got %v, want an error that names the directory", err)
	}
}

func TestAppendRefusesWhatNoFrameCanCarry(t *testing.T) {
	s := open(t, memfs.New(), roomy())
	src := newSource(1)
	long := src.record(1)
	long.Event.Extra = []odometer.Member{{Name: "x", Value: []byte(`"` + strings.Repeat("y", odometer.MaxEventBytes) + `"`)}}
	big := src.record(1)
	big.Checkpoint = []byte(`{"instance":"` + strings.Repeat("z", odometer.MaxFrameUnpacked) + `"}`)
	for name, r := range map[string]odometer.Record{
		"an event over its limit":           long,
		"a checkpoint over the frame's":     big,
		"neither an event nor a checkpoint": {},
		"a checkpoint that is no object":    {Checkpoint: []byte(`7`)},
		"a checkpoint of nobody":            {Checkpoint: []byte(`{}`)},
		"an id that is too long":            {Checkpoint: []byte(`{"instance":"` + strings.Repeat("i", 129) + `"}`)},
	} {
		t.Run(name, func(t *testing.T) {
			err := s.Append([]odometer.Record{src.record(1), r})
			if !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), "record 2 of 2") {
				t.Errorf("got %v, want an error about record 2 that wraps ErrInvalid", err)
			}
			if got := all(t, s, 0); len(got) != 0 {
				t.Errorf("something of the batch is readable: %s", ids(got))
			}
		})
	}
	if err := s.Append(nil); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
}

func TestClosed(t *testing.T) {
	s := open(t, memfs.New(), roomy())
	waiting := make(chan error)
	go func() { waiting <- s.Wait(t.Context(), 0) }()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Errorf("the second Close: %v", err)
	}
	for name, err := range map[string]error{
		"Wait":   <-waiting,
		"Append": s.Append([]odometer.Record{newSource(1).record(1)}),
		"Ack":    s.Ack(receipt(s, 1)),
		"After": func() (err error) {
			for _, err = range s.After(0) {
			}
			return err
		}(),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: got %v, want %v", name, err, ErrClosed)
		}
	}
}

func TestWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, memfs.New(), roomy())
		fill(t, s, newSource(1), 1, 2)
		if err := s.Wait(t.Context(), 1); err != nil {
			t.Errorf("for what is there: %v", err)
		}
		done := false
		go func() {
			if err := s.Wait(t.Context(), 2); err != nil {
				t.Errorf("for what comes: %v", err)
			}
			done = true
		}()
		synctest.Wait()
		if done {
			t.Fatal("Wait returned before anything came")
		}
		fill(t, s, newSource(1), 3, 3)
		synctest.Wait()
		if !done {
			t.Fatal("Wait did not return when something came")
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		if err := s.Wait(ctx, 3); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
	})
}

func TestWaitRoomReturnsWhenReceiptsMadeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := tight()
		o.RetainBytes = -1
		s := open(t, memfs.New(), o)
		src := newSource(1)
		n := uint64(0)
		for s.Stats().Unfreed <= s.maxBytes/2 {
			n++
			fill(t, s, src, n, n)
		}
		done := false
		go func() {
			if err := s.WaitRoom(t.Context()); err != nil {
				t.Error(err)
			}
			done = true
		}()
		synctest.Wait()
		if done {
			t.Fatal("there is no room yet")
		}
		ack(t, s, receipt(s, n))
		synctest.Wait()
		if !done {
			t.Fatal("there is room now")
		}
	})
}

func TestAfterGoesOnWithWhatIsAppendedMeanwhile(t *testing.T) {
	s := open(t, memfs.New(), roomy())
	src := newSource(1)
	fill(t, s, src, 1, 2)
	n := uint64(0)
	for r, err := range s.After(0) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		if r.First != n || r.Event.Sequence != n {
			t.Fatalf("got %s, want event %d", ids([]odometer.Record{r}), n)
		}
		if n < 40 {
			fill(t, s, src, n+2, n+2)
		}
	}
	if n != 41 {
		t.Errorf("%d records, want 41", n)
	}
}

func TestConcurrentUse(t *testing.T) {
	o := tight()
	o.Now = nil
	o.MaxBytes = 64 << 10
	s, err := Open(Options{Dir: t.TempDir(), MaxBytes: o.MaxBytes, SegmentBytes: o.SegmentBytes, RetainBytes: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const events = 400
	var group sync.WaitGroup
	group.Go(func() { // the agent
		for n := uint64(1); n <= events; n++ {
			rs := []odometer.Record{newSource(1).record(n), newSource(2).record(n)}
			if err := s.Append(rs); err != nil {
				t.Error(err)
				return
			}
			_ = s.Stats()
		}
	})
	seen := map[odometer.InstanceID]uint64{}
	group.Go(func() { // the publisher; it lags, so that the spool fills up
		at := uint64(0)
		for seen["vm-1"] < events || seen["vm-2"] < events {
			if err := s.Wait(t.Context(), at); err != nil {
				t.Error(err)
				return
			}
			for r, err := range s.After(at) {
				if err != nil {
					t.Error(err)
					return
				}
				e := r.Event
				if r.First != at+1 || e.FirstSequence > seen[e.Instance]+1 {
					t.Errorf("%s follows %d at position %d", ids([]odometer.Record{r}), seen[e.Instance], at)
					return
				}
				at, seen[e.Instance] = r.Position, e.Sequence
			}
			if at%5 == 0 || seen["vm-1"] == events {
				if err := s.Ack(receipt(s, at)); err != nil {
					t.Error(err)
				}
			}
		}
	})
	group.Wait()
}
