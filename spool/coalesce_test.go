package spool

import (
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/memfs"
)

// reseal puts the checksum of a header right again.
func reseal(header []byte) {
	le.PutUint32(header[60:], crc32.Checksum(header[:60], castagnoli))
}

// totals are the sums of what a spool yields, after a check that each epoch's
// sequences run on without a hole.
func totals(t *testing.T, rs []odometer.Record) map[odometer.InstanceID]odometer.Usage {
	t.Helper()
	sums, seen := map[odometer.InstanceID]odometer.Usage{}, map[odometer.InstanceID]uint64{}
	previous := uint64(0)
	for _, r := range rs {
		if r.First != previous+1 {
			t.Fatalf("position %d begins at %d, want %d", r.Position, r.First, previous+1)
		}
		previous = r.Position
		e := r.Event
		if err := e.Check(); err != nil {
			t.Fatalf("event %s: %v", e.ID(), err)
		}
		if e.FirstSequence != seen[e.Instance]+1 {
			t.Fatalf("event %s follows %d", e.ID(), seen[e.Instance])
		}
		seen[e.Instance] = e.Sequence
		u := sums[e.Instance]
		if !u.Add(e.Usage) {
			t.Fatal("overflow")
		}
		sums[e.Instance] = u
	}
	return sums
}

func TestMergingKeepsEverySum(t *testing.T) {
	o := tight()
	o.MaxBytes = 64 << 10
	fs := memfs.New()
	s := open(t, fs, o)
	const events, instances = 700, 5 // 5 h 50 min of each
	for n := uint64(1); n <= events; n++ {
		var rs []odometer.Record
		for i := range instances {
			rs = append(rs, newSource(i).record(n))
		}
		if err := s.Append(rs); err != nil {
			t.Fatalf("event %d: %v", n, err)
		}
	}
	for _, when := range []string{"open", "reopened", "after a power cut"} {
		rs := all(t, s, 0)
		sums := totals(t, rs)
		for i := range instances {
			src := newSource(i)
			if got, want := sums[src.instance], src.total(events); got != want {
				t.Errorf("%s: %s used %v, want %v", when, src.instance, got, want)
			}
		}
		st := s.Stats()
		if st.Bytes > o.MaxBytes || int64(len(rs)) != st.Unacked || len(rs) > 200 || st.Corrupt != 0 {
			t.Errorf("%s: %d records, %+v", when, len(rs), st)
		}
		if when == "open" && (st.Coalesced != events*instances-int64(len(rs)) || !st.Oldest.Equal(time.UnixMicro(epochStart).Add(st.Oldest.Sub(time.UnixMicro(epochStart))))) {
			t.Errorf("%d were merged, %d are left", st.Coalesced, len(rs))
		}
		if got := s.Checkpoints(); len(got) != instances {
			t.Errorf("%s: %d checkpoints, want %d", when, len(got), instances)
		}
		_ = s.Close()
		if when == "reopened" {
			fs = fs.PowerCut(nil)
		}
		s = open(t, fs, o)
	}
}

func TestMergesWithinHoursFirst(t *testing.T) {
	o := tight()
	o.MaxBytes = 64 << 10
	s := open(t, memfs.New(), o)
	src := newSource(1)
	n := uint64(0)
	for s.Stats().Coalesced == 0 || n < 250 {
		n++
		fill(t, s, src, n, n)
	}
	for _, r := range all(t, s, 0) {
		if e := r.Event; odometer.Hour(e.Span.Start) != odometer.Hour(e.Span.End-1) {
			t.Errorf("event %s spans an hour's edge while hours are left to merge", e.ID())
		}
	}
}

func TestWhatIsKeptGoesBeforeAnythingIsMerged(t *testing.T) {
	o := tight()
	o.RetainBytes = 1 << 30
	s := open(t, memfs.New(), o)
	src := newSource(1)
	fill(t, s, src, 1, 10)
	ack(t, s, receipt(s, 10))
	n := uint64(10)
	for first := s.Stats().First; s.Stats().First == first; {
		n++
		fill(t, s, src, n, n)
	}
	if st := s.Stats(); st.Full || st.Coalesced != 0 {
		t.Errorf("full: %v, %d records merged while receipted ones were kept, want no and none", st.Full, st.Coalesced)
	}
}

func TestReceiptsMeanTheSameAfterMerging(t *testing.T) {
	o := tight()
	s := open(t, memfs.New(), o)
	a, b := newSource(1), newSource(2)
	for n := uint64(1); n <= 6; n++ {
		if err := s.Append([]odometer.Record{a.record(n), b.record(n)}); err != nil {
			t.Fatal(err)
		}
	}
	sent := all(t, s, 0)[:5] // a/1 b/1 a/2 b/2 a/3
	if err := s.roll(); err != nil {
		t.Fatal(err)
	}
	if !s.coalesce() {
		t.Fatal("nothing was merged")
	}
	ack(t, s, receipt(s, sent[4].Position))
	seen := map[odometer.InstanceID]uint64{"vm-1": 3, "vm-2": 2}
	for _, r := range all(t, s, s.Stats().Acked) {
		if e := r.Event; e.FirstSequence > seen[e.Instance]+1 {
			t.Errorf("event %s follows %d: something unsent was taken for receipted", e.ID(), seen[e.Instance])
		} else {
			seen[e.Instance] = e.Sequence
		}
	}
	if seen["vm-1"] != 6 || seen["vm-2"] != 6 {
		t.Errorf("got %v, want 6 of each", seen)
	}
}

// A disk that is full, also for everybody else, stays usable for weeks.
func TestFullDisk(t *testing.T) {
	fs := memfs.New()
	fs.Limit = 48 << 10
	w := newWorld(t, fs, 3, Options{MaxBytes: 1 << 30, SegmentBytes: 4 << 10, Now: roomy().Now})
	if err := w.start(); err != nil {
		t.Fatal(err)
	}
	full := false
	for n := range 800 {
		if err := w.tick(n); err != nil {
			t.Fatalf("tick %d: %v", n, err)
		}
		full = full || w.spool.Stats().Full
	}
	st := w.spool.Stats()
	if !full || st.Coalesced == 0 || !st.Reserve {
		t.Errorf("the disk was never full, nothing merged or no reserve: %+v", st)
	}
	if err := w.deliver(5); err != nil {
		t.Errorf("deliver on a full disk: %v", err)
	}
	w.settle()
	w.again(fs.Restarted(), "after a restart")
	w.again(w.fs.PowerCut(nil), "after a power cut")
}

func TestFullOfWhatCannotBeMerged(t *testing.T) {
	o := tight()
	s := open(t, memfs.New(), o)
	var err error
	n := 0
	for ; n < 200 && err == nil; n++ {
		err = s.Append([]odometer.Record{newSource(n).record(1)}) // one event of each
	}
	if !errors.Is(err, odometer.ErrUnavailable) || !strings.Contains(err.Error(), "spool is full") {
		t.Fatalf("got %v, want that the spool is full", err)
	}
	if st := s.Stats(); !st.Full || st.Err == nil {
		t.Errorf("stats do not say so: %+v", st)
	}
	stored := n - 1
	if rs := all(t, s, 0); len(rs) != stored {
		t.Errorf("%d records, want the %d that were accepted", len(rs), stored)
	}
	// Receipts free it, whatever there is to be kept.
	ack(t, s, receipt(s, s.Stats().Last))
	if err := s.Append([]odometer.Record{newSource(999).record(1)}); err != nil {
		t.Errorf("after receipts: %v", err)
	}
	if st := s.Stats(); st.Err != nil {
		t.Errorf("the error stays: %v", st.Err)
	}
}

func TestMergingKeepsWhatIsLostLost(t *testing.T) {
	fs, _, _ := damaged(t)
	s := open(t, fs, roomy())
	if err := s.roll(); err != nil {
		t.Fatal(err)
	}
	for s.coalesce() {
	}
	if st := s.Stats(); st.Segments != 2 || st.Corrupt != 1 {
		t.Fatalf("%d segments, %d corrupt, want 2 and 1", st.Segments, st.Corrupt)
	}
	_ = s.Close()
	s = open(t, fs, roomy())
	fill(t, s, newSource(7), 1, 1)
	resumes := map[odometer.InstanceID]int{}
	for _, r := range all(t, s, 0) {
		if r.Resumes {
			resumes[r.Event.Instance]++
		}
	}
	if got, want := fmt.Sprint(resumes), "map[vm-0:1 vm-1:1 vm-2:1 vm-7:1]"; got != want {
		t.Errorf("resumes: got %s, want %s", got, want)
	}
}

func TestCheckpointsAloneAreMergedToTheNewest(t *testing.T) {
	s := open(t, memfs.New(), roomy())
	src := newSource(1)
	for n := uint64(0); n < 5; n++ {
		if err := s.Append([]odometer.Record{{Checkpoint: src.checkpoint(n)}}); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, s, src, 5, 6)
	if err := s.roll(); err != nil {
		t.Fatal(err)
	}
	if !s.coalesce() {
		t.Fatal("nothing was merged")
	}
	rs := all(t, s, 0)
	if got, want := ids(rs), "1-7:vm-1/5-6"; got != want || string(rs[0].Checkpoint) != string(src.checkpoint(6)) {
		t.Errorf("got %s with %s, want %s", got, rs[0].Checkpoint, want)
	}
}

// An event that came without a checkpoint takes over the one before it.
func TestAnEventWithoutCheckpointKeepsTheOneBefore(t *testing.T) {
	s := open(t, memfs.New(), roomy())
	src := newSource(1)
	event := src.record(2)
	event.Checkpoint = nil
	for _, r := range []odometer.Record{{Checkpoint: src.checkpoint(1)}, event} {
		if err := s.Append([]odometer.Record{r}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.roll(); err != nil {
		t.Fatal(err)
	}
	s.coalesce()
	rs := all(t, s, 0)
	if len(rs) != 1 || string(rs[0].Checkpoint) != string(src.checkpoint(1)) {
		t.Errorf("got %s with %s, want one record with %s", ids(rs), rs[0].Checkpoint, src.checkpoint(1))
	}
}

// Where two segments' worth cannot be merged into the reserve, the next ones
// are tried.
func TestMergingGoesOnBehindWhatCannotBeMerged(t *testing.T) {
	o := tight()
	o.MaxBytes = 64 << 10
	s := open(t, memfs.New(), o)
	for i := range 20 { // 20 KiB of single events
		fill(t, s, newSource(100+i), 1, 1)
	}
	src := newSource(1)
	fill(t, s, src, 1, 300)
	rs := all(t, s, 0)
	seen := uint64(0)
	for _, r := range rs {
		if r.Event.Instance == src.instance {
			if r.Event.FirstSequence != seen+1 {
				t.Fatalf("event %s follows %d", r.Event.ID(), seen)
			}
			seen = r.Event.Sequence
		}
	}
	if seen != 300 || len(rs) < 21 || s.Stats().Bytes > o.MaxBytes {
		t.Errorf("%d records, up to event %d: %+v", len(rs), seen, s.Stats())
	}
}
