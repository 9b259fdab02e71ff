package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
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
	for name, fs := range map[string]FS{"memory": newMemFS(), "real": OS{}} {
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
	s := open(t, newMemFS(), roomy())
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
	s := open(t, newMemFS(), roomy())
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
		s := open(t, newMemFS(), roomy())
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
		s := open(t, newMemFS(), o)
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

// The last batch is cut off at every byte: what was accepted before is there,
// nothing of the batch is, and its positions are not given again.
func TestTornTailAtEveryByte(t *testing.T) {
	base := newMemFS()
	s := open(t, base, roomy())
	a, b := newSource(1), newSource(2)
	fill(t, s, a, 1, 3)
	whole := s.active().size
	if err := s.Append([]odometer.Record{a.record(4), b.record(1)}); err != nil {
		t.Fatal(err)
	}
	name, full := filepath.Join(testDir, s.active().name), s.active().size
	for cut := whole; cut < full; cut++ {
		for _, zeros := range []bool{false, true} {
			fs := base.restarted()
			data := fs.names[name].data[:full]
			if zeros { // the size was durable and the bytes were not
				clear(data[cut:])
			} else {
				data = data[:cut]
			}
			fs.set(name, data)
			s := open(t, fs, roomy())
			if got, want := ids(all(t, s, 0)), "1:vm-1/1 2:vm-1/2 3:vm-1/3"; got != want {
				t.Fatalf("cut at %d, zeros %v: got %s, want %s", cut, zeros, got, want)
			}
			st := s.Stats()
			if torn := cut > whole || zeros; torn != (st.TornBytes > 0) || st.Corrupt != 0 {
				t.Fatalf("cut at %d, zeros %v: %d bytes torn, %d positions corrupt", cut, zeros, st.TornBytes, st.Corrupt)
			}
			// The positions 4 and 5 may have been read by somebody.
			fill(t, s, a, 4, 5)
			_ = s.Close()
			s = open(t, fs.powerCut(nil), roomy())
			rs := all(t, s, 0)
			if len(rs) != 5 || rs[3].First != 4 || rs[3].Position < 6 && st.TornBytes > 0 || s.Stats().Corrupt != 0 || len(s.Stats().Damage) != 0 {
				t.Fatalf("cut at %d, zeros %v: after reopening %s, %+v", cut, zeros, ids(rs), s.Stats())
			}
			_ = s.Close()
		}
	}
}

// Every bit of every file is flipped, one at a time. What is yielded is always
// what was appended, in order; what is missing was named; positions are not
// given twice.
func TestEveryBitFlip(t *testing.T) {
	base := newMemFS()
	o := roomy()
	o.RetainBytes = -1
	s := open(t, base, o)
	a, b := newSource(1), newSource(2)
	want := map[uint64]string{}
	for n := uint64(1); n <= 4; n++ {
		rs := []odometer.Record{a.record(n)}
		if n < 3 {
			rs = append(rs, b.record(n))
		}
		if err := s.Append(rs); err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			want[r.Position] = r.Event.ID()
		}
		if n == 2 {
			ack(t, s, receipt(s, 2))
		}
	}
	if err := s.saveCheckpoints(); err != nil {
		t.Fatal(err)
	}
	_ = s.Close()
	last := s.last
	flips, harmless := 0, 0
	for name := range base.names {
		if strings.HasSuffix(name, reserveName) {
			continue
		}
		bits := len(base.names[name].data) * 8
		step := 1
		if testing.Short() {
			step = 41
		}
		for bit := 0; bit < bits; bit += step {
			fs := base.restarted()
			fs.names[name].data[bit/8] ^= 1 << (bit % 8)
			flips++
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("bit %d of %s: %s", bit, filepath.Base(name), fmt.Sprintf(format, args...))
			}
			s, err := Open(Options{Dir: testDir, FS: fs, Now: o.Now, SegmentBytes: o.SegmentBytes})
			if err != nil {
				fail("%v", err)
			}
			found, previous := 0, uint64(0)
			for r, err := range s.After(0) {
				if err != nil {
					fail("%v", err)
				}
				if r.First != previous+1 || r.Event == nil || want[r.Position] != r.Event.ID() {
					fail("at %d to %d is %s, want %s", r.First, r.Position, ids([]odometer.Record{r}), want[r.Position])
				}
				previous = r.Position
				found++
			}
			st := s.Stats()
			switch named := len(st.Damage) > 0 || st.TornBytes > 0; {
			case found < len(want) && !named:
				fail("%d of %d records, and nobody says why", found, len(want))
			case found == len(want):
				harmless++
			}
			if st.Acked != 2 && st.Acked != 0 {
				fail("receipts reach %d", st.Acked)
			}
			if err := s.Append([]odometer.Record{b.record(3)}); err != nil {
				fail("append: %v", err)
			}
			if got := s.last; s.ID() == idOn(base) && got <= last {
				fail("position %d is given a second time", got)
			}
			_ = s.Close()
		}
	}
	t.Logf("%d flips: %d harmless, %d named", flips, harmless, flips-harmless)
	if harmless == 0 || harmless == flips {
		t.Error("the test does not see both kinds")
	}
}

// idOn reads the id of the spool on fs from its segment.
func idOn(m *memFS) odometer.SpoolID {
	for name, i := range m.names {
		if strings.HasSuffix(name, segmentSuffix) {
			if h, err := parseHeader(i.data, kindSegment); err == nil {
				return h.spool
			}
		}
	}
	return ""
}

// damaged is a spool of three instances in several segments, where one record
// in the middle is corrupt.
func damaged(t *testing.T) (fs *memFS, segment string, offset int64) {
	t.Helper()
	fs = newMemFS()
	s := open(t, fs, roomy())
	for n := uint64(1); n <= 6; n++ {
		var rs []odometer.Record
		for i := range 3 {
			rs = append(rs, newSource(i).record(n))
		}
		if err := s.Append(rs); err != nil {
			t.Fatal(err)
		}
	}
	_ = s.Close()
	g := s.index.segs[len(s.index.segs)/2]
	data := fs.names[s.path(g.name)].data
	_, n, _ := cutFrame(data[headerSize+batchSize:], bodySize)
	data[headerSize+batchSize+n+100] ^= 0x40 // in its second record
	return fs, g.name, int64(headerSize + batchSize + n)
}

func TestCorruptMiddleIsNamedSkippedAndCounted(t *testing.T) {
	fs, segment, offset := damaged(t)
	var log bytes.Buffer
	o := roomy()
	o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	s := open(t, fs, o)
	rs := all(t, s, 0)
	if len(rs) != 17 {
		t.Fatalf("%d records, want 17: %s", len(rs), ids(rs))
	}
	i := slices.IndexFunc(rs, func(r odometer.Record) bool { return r.First != r.Position })
	if i < 0 || rs[i].First+1 != rs[i].Position {
		t.Fatalf("no record takes the lost position in: %s", ids(rs))
	}
	lost := rs[i].First
	for j, r := range rs {
		// The first of each of the three epochs after it, and no other.
		if want := j >= i && j < i+3; r.Resumes != want {
			t.Errorf("position %d resumes: %v, want %v", r.Position, r.Resumes, want)
		}
	}
	st := s.Stats()
	if st.Corrupt != 1 || len(st.Damage) != 1 || st.Damage[0] != (Damage{segment, offset, lost, lost, "record fails its checksum"}) {
		t.Errorf("%d corrupt, damage %v, want position %d in %s at %d", st.Corrupt, st.Damage, lost, segment, offset)
	}
	want := fmt.Sprintf("segment %s at byte %d: record fails its checksum; positions %d to %d are lost", segment, offset, lost, lost)
	if !strings.Contains(log.String(), want) {
		t.Errorf("the log does not say %q:\n%s", want, &log)
	}
	if st.Unacked != 17 {
		t.Errorf("%d unacknowledged, want 17", st.Unacked)
	}

	// Read from the middle, the marks are the same.
	if got := all(t, s, rs[i].Position); !got[0].Resumes || !got[1].Resumes || got[2].Resumes {
		t.Errorf("from %d on: %s", rs[i].Position, ids(got))
	}
}

func TestAnEpochThatComesBackAfterTheDamageResumes(t *testing.T) {
	fs := newMemFS()
	s := open(t, fs, roomy())
	a, b := newSource(1), newSource(2)
	fill(t, s, a, 1, 1)
	fill(t, s, b, 1, 3)
	fs.names[s.path(s.active().name)].data[s.active().marks[0].off+200] ^= 1 // a's only record
	_ = s.Close()
	s = open(t, fs, roomy())
	fill(t, s, a, 2, 3)
	for range 2 {
		if got, want := ids(all(t, s, 0)), "1-2:vm-2/1! 3:vm-2/2 4:vm-2/3 5:vm-1/2! 6:vm-1/3"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
		_ = s.Close()
		s = open(t, fs, roomy())
	}
}

func TestDamageThatAppearsWhileOpenIsFoundByTheReader(t *testing.T) {
	fs := newMemFS()
	s := open(t, fs, roomy())
	a := newSource(1)
	fill(t, s, a, 1, 9)
	g := s.index.segs[1]
	fs.names[s.path(g.name)].data[headerSize+500] ^= 2
	var got []odometer.Record
	for r, err := range s.After(0) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, r)
	}
	lost := g.first
	if len(got) != 8 || !got[lost-1].Resumes || got[lost-1].First != lost {
		t.Errorf("position %d was damaged: %s", lost, ids(got))
	}
	if st := s.Stats(); st.Corrupt != 1 || len(st.Damage) != 1 || st.Damage[0].First != lost {
		t.Errorf("%d corrupt, %v", st.Corrupt, st.Damage)
	}
	// The last record rots too: nothing is left to wait for.
	g = s.active()
	fs.names[s.path(g.name)].data[g.size-1] ^= 2
	if rs := all(t, s, 8); len(rs) != 0 {
		t.Errorf("after 8: %s", ids(rs))
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := s.Wait(ctx, 8); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait: got %v, want %v", err, context.Canceled)
	}
	fill(t, s, a, 10, 10)
	if got, want := ids(all(t, s, 8)), "9-10:vm-1/10!"; got != want {
		t.Errorf("after 8: got %s, want %s", got, want)
	}
}

func TestSegmentThatIsGone(t *testing.T) {
	fs := newMemFS()
	s := open(t, fs, roomy())
	fill(t, s, newSource(1), 1, 12)
	g := s.index.segs[1]
	delete(fs.names, s.path(g.name))
	_ = s.Close()
	s = open(t, fs, roomy())
	st := s.Stats()
	if want := g.top - g.first + 1; st.Corrupt != want || len(st.Damage) != 1 || st.Damage[0].First != g.first || st.Damage[0].Last != g.top {
		t.Errorf("%d corrupt, %v, want positions %d to %d", st.Corrupt, st.Damage, g.first, g.top)
	}
}

func TestSegmentOfAnotherSpoolIsRefused(t *testing.T) {
	fs, other := newMemFS(), newMemFS()
	s, o := open(t, fs, roomy()), open(t, other, roomy())
	fill(t, s, newSource(1), 1, 1)
	fill(t, o, newSource(1), 1, 9)
	g := o.active()
	fs.names[s.path(g.name)] = other.names[s.path(g.name)]
	_, _ = s.Close(), o.Close()
	if _, err := Open(Options{Dir: testDir, FS: fs}); !errors.Is(err, odometer.ErrConflict) || !strings.Contains(err.Error(), g.name) {
		t.Errorf("got %v, want a conflict that names %s", err, g.name)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	for _, name := range []string{segmentName(1, 0), cursorName} {
		fs := newMemFS()
		s := open(t, fs, roomy())
		fill(t, s, newSource(1), 1, 1)
		ack(t, s, receipt(s, 1))
		_ = s.Close()
		data := fs.names[s.path(name)].data
		data[8]++
		reseal(data)
		if _, err := Open(Options{Dir: testDir, FS: fs}); err == nil || !strings.Contains(err.Error(), "newer version") {
			t.Errorf("%s: got %v, want an error about a newer version", name, err)
		}
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

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			s, err := Open(Options{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			rs := make([]odometer.Record, n)
			for i := range rs {
				rs[i] = newSource(i).record(1)
			}
			for b.Loop() {
				if err := s.Append(rs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

func BenchmarkAfter(b *testing.B) {
	s, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	rs := make([]odometer.Record, 1000)
	for i := range rs {
		rs[i] = newSource(i).record(1)
	}
	for range 10 {
		if err := s.Append(rs); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	for b.Loop() {
		for _, err := range s.After(0) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
