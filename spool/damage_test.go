package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
	"example.org/odometer/internal/memfs"
)

// The last batch is cut off at every byte: what was accepted before is there,
// nothing of the batch is, and its positions are not given again.
func TestTornTailAtEveryByte(t *testing.T) {
	base := memfs.New()
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
			fs := base.Restarted()
			data := fs.Data(name)[:full]
			if zeros { // the size was durable and the bytes were not
				clear(data[cut:])
			} else {
				data = data[:cut]
			}
			fs.Set(name, data)
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
			s = open(t, fs.PowerCut(nil), roomy())
			rs := all(t, s, 0)
			if len(rs) != 5 || rs[3].First != 4 || rs[3].Position < 6 && st.TornBytes > 0 || s.Stats().Corrupt != 0 || len(s.Stats().Damage) != 0 {
				t.Fatalf("cut at %d, zeros %v: after reopening %s, %+v", cut, zeros, ids(rs), s.Stats())
			}
			_ = s.Close()
		}
	}
}

// Every bit of every file is flipped, one at a time: of a spool as it was
// appended to, and of one whose segments were merged. What is yielded is always
// what was there, in order; what is missing was named; positions are not given
// twice.
func TestEveryBitFlip(t *testing.T) {
	appended := func(t *testing.T) *memfs.FS {
		fs := memfs.New()
		o := roomy()
		o.RetainBytes = -1
		s := open(t, fs, o)
		a, b := newSource(1), newSource(2)
		for n := uint64(1); n <= 4; n++ {
			rs := []odometer.Record{a.record(n)}
			if n < 3 {
				rs = append(rs, b.record(n))
			}
			if err := s.Append(rs); err != nil {
				t.Fatal(err)
			}
			if n == 2 {
				ack(t, s, receipt(s, 2))
			}
		}
		if err := s.saveCheckpoints(); err != nil {
			t.Fatal(err)
		}
		_ = s.Close()
		return fs
	}
	merged := func(t *testing.T) *memfs.FS {
		w := newWorld(t, memfs.New(), 3, tight())
		w.must(w.script())
		if st := w.spool.Stats(); st.Coalesced == 0 || st.Acked == 0 {
			t.Fatalf("nothing was merged or receipted: %+v", st)
		}
		_ = w.spool.Close()
		return w.fs
	}
	for _, c := range []struct {
		name  string
		make  func(*testing.T) *memfs.FS
		every int // of so many bits one is flipped, but in the long form
	}{{"appended", appended, 1}, {"merged", merged, 97}} {
		t.Run(c.name, func(t *testing.T) {
			every := c.every
			switch {
			case *long:
				every = 1
			case testing.Short() || raceEnabled:
				every = c.every * 41
			}
			everyBit(t, c.make(t), every)
		})
	}
}

// text is all that a record says.
func text(r *odometer.Record) string {
	return string(r.Event.AppendJSON(nil)) + string(r.Checkpoint)
}

func everyBit(t *testing.T, base *memfs.FS, every int) {
	o := roomy()
	o.RetainBytes = -1
	whole := open(t, base.Restarted(), o)
	want := map[uint64]string{}
	for _, r := range all(t, whole, whole.Stats().First-1) {
		want[r.Position] = text(&r)
	}
	first, last, acked := whole.Stats().First, whole.last, whole.Stats().Acked
	_ = whole.Close()
	flips, harmless, bits := map[string]int{}, 0, 0
	for _, name := range base.Names() {
		kind := strings.TrimLeft(filepath.Base(name), "0123456789-")
		step := every
		if kind == reserveName && !*long {
			step *= 61 // nobody reads what is in it
		}
		bits += len(base.Data(name)) * 8
		for bit := 0; bit < len(base.Data(name))*8; bit += step {
			fs := base.Restarted()
			fs.Rot(name, bit)
			flips[kind]++
			fail := func(format string, args ...any) {
				t.Helper()
				t.Fatalf("bit %d of %s: %s", bit, filepath.Base(name), fmt.Sprintf(format, args...))
			}
			s, err := Open(Options{Dir: testDir, FS: fs, Now: o.Now, SegmentBytes: o.SegmentBytes})
			if err != nil {
				fail("%v", err)
			}
			found, previous := 0, first-1
			for r, err := range s.After(previous) {
				if err != nil {
					fail("%v", err)
				}
				if r.First != previous+1 || r.Event == nil || want[r.Position] != text(&r) {
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
			if st.Acked > acked {
				fail("receipts reach %d, want at most %d", st.Acked, acked)
			}
			if err := s.Append([]odometer.Record{newSource(9).record(1)}); err != nil {
				fail("append: %v", err)
			}
			if got := s.last; s.ID() == idOn(base) && got <= last {
				fail("position %d is given a second time", got)
			}
			_ = s.Close()
		}
	}
	total := 0
	for _, n := range flips {
		total += n
	}
	t.Logf("%d of %d bits flipped (%v): %d harmless, %d named, 0 wrong", total, bits, flips, harmless, total-harmless)
	if harmless == 0 || harmless == total || flips[segmentSuffix] == 0 || flips[cursorName] == 0 || flips[checkpointsName] == 0 || flips[reserveName] == 0 {
		t.Error("the test does not see everything")
	}
}

// idOn reads the id of the spool on fs from its segment.
func idOn(m *memfs.FS) odometer.SpoolID {
	for _, name := range m.Names() {
		if strings.HasSuffix(name, segmentSuffix) {
			if h, err := parseHeader(m.Data(name), kindSegment); err == nil {
				return h.spool
			}
		}
	}
	return ""
}

// damaged is a spool of three instances in several segments, where one record
// in the middle is corrupt.
func damaged(t *testing.T) (fs *memfs.FS, segment string, offset int64) {
	t.Helper()
	fs = memfs.New()
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
	data := fs.Data(s.path(g.name))
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
	fs := memfs.New()
	s := open(t, fs, roomy())
	a, b := newSource(1), newSource(2)
	fill(t, s, a, 1, 1)
	fill(t, s, b, 1, 3)
	fs.Data(s.path(s.active().name))[s.active().marks[0].off+200] ^= 1 // a's only record
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
	fs := memfs.New()
	s := open(t, fs, roomy())
	a := newSource(1)
	fill(t, s, a, 1, 9)
	g := s.index.segs[1]
	fs.Data(s.path(g.name))[headerSize+500] ^= 2
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
	fs.Data(s.path(g.name))[g.size-1] ^= 2
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
	fs := memfs.New()
	s := open(t, fs, roomy())
	fill(t, s, newSource(1), 1, 12)
	g := s.index.segs[1]
	fs.Drop(s.path(g.name))
	_ = s.Close()
	s = open(t, fs, roomy())
	st := s.Stats()
	if want := g.top - g.first + 1; st.Corrupt != want || len(st.Damage) != 1 || st.Damage[0].First != g.first || st.Damage[0].Last != g.top {
		t.Errorf("%d corrupt, %v, want positions %d to %d", st.Corrupt, st.Damage, g.first, g.top)
	}
}

func TestSegmentOfAnotherSpoolIsRefused(t *testing.T) {
	fs, other := memfs.New(), memfs.New()
	s, o := open(t, fs, roomy()), open(t, other, roomy())
	fill(t, s, newSource(1), 1, 1)
	fill(t, o, newSource(1), 1, 9)
	g := o.active()
	fs.Set(s.path(g.name), other.Data(s.path(g.name)))
	_, _ = s.Close(), o.Close()
	if _, err := Open(Options{Dir: testDir, FS: fs}); !errors.Is(err, odometer.ErrConflict) || !strings.Contains(err.Error(), g.name) {
		t.Errorf("got %v, want a conflict that names %s", err, g.name)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	for _, name := range []string{segmentName(1, 0), cursorName} {
		fs := memfs.New()
		s := open(t, fs, roomy())
		fill(t, s, newSource(1), 1, 1)
		ack(t, s, receipt(s, 1))
		_ = s.Close()
		data := fs.Data(s.path(name))
		data[8]++
		reseal(data)
		if _, err := Open(Options{Dir: testDir, FS: fs}); err == nil || !strings.Contains(err.Error(), "newer version") {
			t.Errorf("%s: got %v, want an error about a newer version", name, err)
		}
	}
}

// A sector in the middle cannot be read any more.
func TestUnreadableSector(t *testing.T) {
	fs := memfs.New()
	o := roomy()
	o.SegmentBytes = 32 << 10
	s := open(t, fs, o)
	fill(t, s, newSource(1), 1, 20)
	first := s.active().name
	_ = s.Close()
	for _, when := range []string{"at open", "while open"} {
		fs, name := fs.Restarted(), first
		bad := func(file string, off int64, n int) error {
			if file == name && off < 3*page && off+int64(n) > 2*page {
				return errIO
			}
			return nil
		}
		if when == "at open" {
			fs.Unreadable = bad
		}
		s := open(t, fs, o)
		if when == "while open" {
			name = s.active().name
			fs.Unreadable = bad
		}
		rs := all(t, s, 0)
		st := s.Stats()
		if len(rs)+int(st.Corrupt) != 20 || st.Corrupt < 2 || st.Corrupt > 6 || rs[19-st.Corrupt].Position != 20 {
			t.Errorf("%s: %d records, %d positions corrupt: %s", when, len(rs), st.Corrupt, ids(rs))
		}
		if len(st.Damage) == 0 || !strings.Contains(st.Damage[0].Reason, errIO.Error()) {
			t.Errorf("%s: damage %v, want what the disk said", when, st.Damage)
		}
	}
}

// An unreadable stretch that is longer than a reader looks ahead.
func TestLongUnreadableStretch(t *testing.T) {
	fs := memfs.New()
	o := roomy()
	o.SegmentBytes = 1 << 20
	s := open(t, fs, o)
	src := newSource(1)
	var offsets []int64
	for n := uint64(1); n <= 400; n++ {
		offsets = append(offsets, s.active().size)
		fill(t, s, src, n, n)
	}
	data := fs.Data(s.path(s.active().name))
	_ = s.Close()
	for i := offsets[10]; i < offsets[300]; i++ {
		data[i] = batchMagic[i%2] // full of what nearly is a header
	}
	s = open(t, fs, o)
	rs := all(t, s, 0)
	if st := s.Stats(); len(rs) != 110 || st.Corrupt != 290 || rs[10].First != 11 || rs[10].Position != 301 || !rs[10].Resumes {
		t.Errorf("%d records, %d corrupt, %v", len(rs), st.Corrupt, st.Damage)
	}
}

func TestNoFileSaysTheSpoolsID(t *testing.T) {
	fs := memfs.New()
	s := open(t, fs, roomy())
	fill(t, s, newSource(1), 1, 3)
	data := fs.Data(s.path(s.active().name))
	_ = s.Close()
	clear(data[:headerSize])
	again := open(t, fs, roomy())
	if again.ID() == s.ID() || len(again.ID()) != 32 {
		t.Errorf("id %q, it was %q and is nowhere any more", again.ID(), s.ID())
	}
	if got, want := ids(all(t, again, 0)), "1:vm-1/1 2:vm-1/2 3:vm-1/3"; got != want || len(again.Stats().Damage) != 1 {
		t.Errorf("got %s, want %s; damage %v", got, want, again.Stats().Damage)
	}
	if err := again.Append([]odometer.Record{newSource(1).record(4)}); err != nil {
		t.Fatal(err)
	}
}
