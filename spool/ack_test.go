package spool

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/memfs"
)

func TestReceipts(t *testing.T) {
	type r = odometer.Receipt
	for name, c := range map[string]struct {
		receipts []r
		want     uint64
	}{
		"positions only grow":                                   {[]r{{Position: 3}, {Position: 2}}, 3},
		"a receipt for another spool is ignored":                {[]r{{Position: 3}, {Position: 5, Spool: "other"}}, 3},
		"a later generation goes back":                          {[]r{{Position: 6}, {Position: 2, Generation: 2}}, 2},
		"a later generation goes on":                            {[]r{{Position: 2}, {Position: 6, Generation: 2}}, 6},
		"an earlier generation is stale, even further on":       {[]r{{Position: 2, Generation: 2}, {Position: 6}}, 2},
		"another ledger begins at nothing":                      {[]r{{Position: 6}, {Position: 0, Ledger: "new"}}, 0},
		"a receipt that says Ahead counts as far as it reaches": {[]r{{Position: 4, Ahead: true}}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			fs := memfs.New()
			s := open(t, fs, roomy())
			fill(t, s, newSource(1), 1, 8)
			for _, x := range c.receipts {
				if x.Spool == "" {
					x.Spool = s.ID()
				}
				if x.Ledger == "" {
					x.Ledger = "ledger"
				}
				if x.Generation == 0 {
					x.Generation = 1
				}
				ack(t, s, x)
			}
			for _, when := range []string{"open", "reopened"} {
				st := s.Stats()
				if st.Acked != c.want || st.Unacked != int64(8-c.want) {
					t.Errorf("%s: receipts reach %d and leave %d, want %d and %d", when, st.Acked, st.Unacked, c.want, 8-c.want)
				}
				if got := st.Oldest; got.IsZero() {
					t.Errorf("%s: nothing is the oldest", when)
				}
				_ = s.Close()
				s = open(t, fs.PowerCut(nil), roomy())
			}
		})
	}
}

func TestReceiptThatCannotBe(t *testing.T) {
	s := open(t, memfs.New(), roomy())
	for _, r := range []odometer.Receipt{
		{Spool: s.ID(), Ledger: "", Position: 1},
		{Spool: s.ID(), Ledger: "ledger", Position: 1<<62 + 1},
		{Spool: s.ID(), Ledger: odometer.LedgerID(strings.Repeat("l", 129)), Position: 1},
	} {
		if err := s.Ack(r); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%+v: got %v, want ErrInvalid", r, err)
		}
	}
}

func TestReceiptedSegmentsAreKeptAndFreed(t *testing.T) {
	at := time.UnixMicro(epochStart)
	fs := memfs.New()
	o := Options{SegmentBytes: 4 << 10, MaxBytes: 1 << 20, Retain: 7 * 24 * time.Hour, RetainBytes: 1 << 20, Now: func() time.Time { return at }}
	s := open(t, fs, o)
	silent, src := newSource(0), newSource(1)
	fill(t, s, silent, 1, 1)
	fill(t, s, src, 1, 30)
	ack(t, s, receipt(s, 20))
	segments := s.Stats().Segments
	at = at.Add(6 * 24 * time.Hour)
	ack(t, s, receipt(s, 31))
	if got := s.Stats(); got.First != 1 || got.Segments != segments {
		t.Fatalf("freed after 6 days: %+v", got)
	}
	_ = s.Close()
	s = open(t, fs, o) // when each was receipted is known still
	at = at.Add(25 * time.Hour)
	fill(t, s, src, 31, 31)
	ack(t, s, receipt(s, 32))
	st := s.Stats()
	if st.First == 1 || st.First > 21 {
		t.Errorf("first position is %d after 7 days, want what was receipted 6 days ago to be kept and nothing before", st.First)
	}
	if got := string(s.Checkpoints()[0]); got != string(silent.checkpoint(1)) {
		t.Errorf("the oldest checkpoint is %s", got)
	}
	_ = s.Close()
	s = open(t, fs.PowerCut(nil), o)
	if got := s.Checkpoints(); len(got) != 2 || string(got[0]) != string(silent.checkpoint(1)) {
		t.Errorf("its record is freed and its checkpoint is not there: %s", got)
	}

	// By size, too.
	fill(t, s, src, 32, 150)
	s.retainBytes = 16 << 10
	ack(t, s, receipt(s, s.Stats().Last))
	if st := s.Stats(); st.Bytes > 16<<10+8<<10 || st.Segments < 2 {
		t.Errorf("%d bytes in %d segments are kept, want about %d", st.Bytes, st.Segments, s.retainBytes)
	}
}

func TestNothingUnreceiptedIsFreed(t *testing.T) {
	o := roomy()
	o.Retain, o.RetainBytes = -1, -1
	s := open(t, memfs.New(), o)
	fill(t, s, newSource(1), 1, 40)
	for pos := uint64(1); pos <= 40; pos++ {
		ack(t, s, receipt(s, pos))
		if st := s.Stats(); st.First > pos+1 {
			t.Fatalf("receipts reach %d and the spool begins at %d", pos, st.First)
		}
		if rs := all(t, s, pos); len(rs) != int(40-pos) {
			t.Fatalf("%d records after %d, want %d", len(rs), pos, 40-pos)
		}
	}
	if st := s.Stats(); st.Segments > 2 || st.Unacked != 0 || !st.Oldest.IsZero() {
		t.Errorf("at the end: %+v", st)
	}
}

func TestRestoredLedgerIsOfferedWhatIsKept(t *testing.T) {
	o := roomy()
	fs := memfs.New()
	s := open(t, fs, o)
	a, b := newSource(1), newSource(2)
	for n := uint64(1); n <= 20; n++ {
		if err := s.Append([]odometer.Record{a.record(n), b.record(n)}); err != nil {
			t.Fatal(err)
		}
	}
	ack(t, s, receipt(s, 40))
	back := receipt(s, 10)
	back.Generation = 2
	ack(t, s, back)
	rs := all(t, s, s.Stats().Acked)
	if len(rs) != 30 || rs[0].First != 11 || rs[0].Resumes {
		t.Errorf("the ledger is offered %s", ids(rs))
	}

	// Further back than what is kept.
	ack(t, s, odometer.Receipt{Spool: s.ID(), Ledger: "ledger", Generation: 2, Position: 40})
	if err := s.free(3); err != nil {
		t.Fatal(err)
	}
	first := s.Stats().First
	back.Generation, back.Position = 3, 1
	ack(t, s, back)
	for _, when := range []string{"open", "reopened"} {
		rs = all(t, s, s.Stats().Acked)
		if rs[0].First != 2 || rs[0].Position != first || !rs[0].Resumes || !rs[1].Resumes || rs[2].Resumes {
			t.Errorf("%s: the ledger is offered %s", when, ids(rs[:3]))
		}
		if rs := all(t, s, first); !rs[0].Resumes || rs[1].Resumes {
			t.Errorf("%s: the second frame is %s", when, ids(rs[:2]))
		}
		_ = s.Close()
		s = open(t, fs.PowerCut(nil), o)
	}
}

// The directory was restored from a copy: positions are given a second time.
func TestRestoredSpoolOffersAgainUnderNewPositions(t *testing.T) {
	fs := memfs.New()
	s := open(t, fs, roomy())
	a := newSource(1)
	fill(t, s, a, 1, 4)
	ack(t, s, receipt(s, 4))
	copied := fs.Restarted()
	fill(t, s, a, 5, 9) // the ledger gets these
	_ = s.Close()

	s = open(t, copied, roomy())
	b := newSource(2)
	fill(t, s, b, 1, 3) // at 5 to 7, and the ledger has 5 to 9
	ack(t, s, receipt(s, 9))
	for range 2 {
		if got, want := ids(all(t, s, s.Stats().Acked)), "10:vm-2/1 11:vm-2/2 12:vm-2/3"; got != want || s.Stats().Acked != 9 {
			t.Errorf("after the receipt for 9: got %s, want %s", got, want)
		}
		_ = s.Close()
		s = open(t, copied.PowerCut(nil), roomy())
	}
}

// What must be sent again is still known after a restart, where it could not be
// stored at once and something else was meanwhile.
func TestRestoredSpoolGoesOnOfferingAfterARestart(t *testing.T) {
	for _, damaged := range []bool{false, true} {
		fs := memfs.New()
		s := open(t, fs, roomy())
		fill(t, s, newSource(1), 1, 4)
		ack(t, s, receipt(s, 4))
		copied := fs.Restarted()
		fill(t, s, newSource(1), 5, 9)
		_ = s.Close()

		s = open(t, copied, roomy())
		fill(t, s, newSource(2), 1, 3) // at 5 to 7, and the ledger has 5 to 9
		copied.Fault = func(_ int, op string) memfs.Fault {
			if strings.HasPrefix(op, "write") && strings.Contains(op, ".seg") {
				return memfs.Fault{Err: syscall.EIO}
			}
			return memfs.Fault{}
		}
		if err := s.Ack(receipt(s, 9)); err == nil {
			t.Fatal("a receipt was taken although nothing could be stored")
		}
		copied.Fault = nil
		fill(t, s, newSource(3), 1, 1)
		_ = s.Close()
		copied = copied.PowerCut(nil)
		name := s.path(reofferName)
		if len(copied.Data(name)) == 0 {
			t.Fatalf("there is no %s: %v", reofferName, copied.Log)
		}
		if damaged {
			copied.Data(name)[20] ^= 1
		}
		s = open(t, copied, roomy())
		ack(t, s, receipt(s, 9))
		got := ids(all(t, s, s.Stats().Acked))
		for _, want := range []string{"vm-2/1", "vm-2/2", "vm-2/3", "vm-3/1"} {
			if !strings.Contains(got, ":"+want) {
				t.Errorf("damaged %v: %s is not sent again; got %s", damaged, want, got)
			}
		}
		_ = s.Close()
		s = open(t, copied.PowerCut(nil), roomy())
		if s.reoffer != (reoffer{}) {
			t.Errorf("after it was done %+v is still to be sent again", s.reoffer)
		}
	}
}

func TestCursorIsWrittenAnewWhenLong(t *testing.T) {
	fs := memfs.New()
	s := open(t, fs, roomy())
	src := newSource(1)
	for n := uint64(1); n <= 2*maxCursor+10; n++ {
		if n < 50 {
			fill(t, s, src, n, n)
			ack(t, s, receipt(s, n))
			continue
		}
		r := receipt(s, 49-n%2)
		r.Generation = n
		ack(t, s, r)
	}
	if got := len(fs.Data(s.path(cursorName))); got > maxCursor*64 {
		t.Errorf("the cursor is %d bytes long", got)
	}
	want := s.Stats()
	_ = s.Close()
	s = open(t, fs.PowerCut(nil), roomy())
	if got := s.Stats(); got.Acked != want.Acked || got.Generation != want.Generation {
		t.Errorf("got %d of generation %d, want %d of %d", got.Acked, got.Generation, want.Acked, want.Generation)
	}
}

func TestCheckpointsOfEndedEpochsAreForgottenInTheEnd(t *testing.T) {
	s := open(t, memfs.New(), roomy())
	living := newSource(0)
	fill(t, s, living, 1, 1)
	var rs []odometer.Record
	for i := 1; i <= 3*maxEnded; i++ {
		r := newSource(i).record(1)
		r.Event.Final = true
		rs = append(rs, r)
	}
	if err := s.Append(rs); err != nil {
		t.Fatal(err)
	}
	got := s.Checkpoints()
	if len(got) < maxEnded || len(got) > 2*maxEnded+1 {
		t.Errorf("%d checkpoints are kept, want between %d and %d", len(got), maxEnded, 2*maxEnded)
	}
	if string(got[0]) != string(living.checkpoint(1)) || string(got[len(got)-1]) != string(newSource(3*maxEnded).checkpoint(1)) {
		t.Error("the living epoch's or the newest ended one's is forgotten")
	}
	size := int64(0)
	for _, p := range s.checks.of {
		size += int64(p.size())
	}
	if s.checks.bytes != size {
		t.Errorf("they take %d bytes, %d are counted", size, s.checks.bytes)
	}
}

// A power cut between two removals may bring back the older segment and not the
// newer one. What is gone is receipted: it is no damage before a restored ledger
// asks for it.
func TestAFreedHoleIsNoDamageUntilTheLedgerAsks(t *testing.T) {
	fs := memfs.New()
	s := open(t, fs, roomy())
	fill(t, s, newSource(1), 1, 14)
	gone := s.index.segs[1]
	hole := fmt.Sprintf("positions %d to %d are lost", gone.first, gone.top)
	ack(t, s, receipt(s, 12))
	_ = s.Close()
	fs.Drop(s.path(gone.name))
	s = open(t, fs, roomy())
	if st := s.Stats(); st.Corrupt != 0 || len(st.Damage) != 0 {
		t.Errorf("%d corrupt, %v", st.Corrupt, st.Damage)
	}
	if rs := all(t, s, 12); len(rs) != 2 || rs[0].Resumes {
		t.Errorf("after the receipt: %s", ids(rs))
	}
	back := receipt(s, gone.first-1)
	back.Generation = 2
	ack(t, s, back)
	st := s.Stats()
	if st.Corrupt != gone.top-gone.first+1 || len(st.Damage) != 1 || !strings.Contains(st.Damage[0].String(), hole) {
		t.Errorf("when the ledger asks: %d corrupt, %v, want %s", st.Corrupt, st.Damage, hole)
	}
	if rs := all(t, s, back.Position); len(rs) == 0 || rs[0].First != gone.first || !rs[0].Resumes {
		t.Errorf("when the ledger asks: %s", ids(rs))
	}
}
