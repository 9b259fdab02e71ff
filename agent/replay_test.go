package agent

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
	"example.org/odometer/meter"
	"example.org/odometer/spool"
)

func idsOf(s *memSpool) (ids []string) {
	for _, e := range s.events() {
		ids = append(ids, fmt.Sprintf("%s %x", e.ID(), e.Content()))
	}
	slices.Sort(ids)
	return ids
}

func TestReplayGivesTheSameIDsAgain(t *testing.T) {
	var want []string
	for range 2 {
		s := &memSpool{}
		var last Progress
		p, err := Replay(t.Context(), ReplayOptions{Meter: replayMeter(), Spool: s, Past: meter.ErrPast, OnProgress: func(p Progress) { last = p }},
			&script{instances: 3, seconds: 3000})
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = idsOf(s)
		}
		if got := idsOf(s); !slices.Equal(got, want) || len(got) != 300 {
			t.Errorf("got %d ids, want the %d of before", len(got), len(want))
		}
		if p != last || p.Read != 9000 || p.Skipped != 0 || p.Refused != 0 || p.Records != int64(len(s.records)) || p.Line != 9000 || p.Offset != 900_000 {
			t.Errorf("progress %+v, last told %+v", p, last)
		}
		for i := range 3 {
			u := sum(t, s, odometer.InstanceID(fmt.Sprintf("vm-%d", i)))
			if got, want := u.Vector[odometer.CPU], int64(2999*5e5); got != want {
				t.Errorf("vm-%d used %d µs, want %d", i, got, want)
			}
		}
		if s.appends > 3 {
			t.Errorf("%d appends for %d records", s.appends, len(s.records))
		}
	}
}

// Killed at every Append and run again, with the same ids in the end.
func TestReplayGoesOnWhereItWasKilled(t *testing.T) {
	sources := func() []Readings {
		return []Readings{&script{instances: 2, seconds: 20_000}, &script{instances: 5, seconds: 500}}
	}
	whole := &memSpool{}
	if _, err := Replay(t.Context(), ReplayOptions{Meter: replayMeter(), Spool: whole, Past: meter.ErrPast}, sources()...); err != nil {
		t.Fatal(err)
	}
	for kill := 1; kill <= whole.appends; kill++ {
		ctx, stop := context.WithCancel(t.Context())
		s := &memSpool{}
		s.fail = func(n int, _ []odometer.Record) error {
			if n >= kill {
				stop()
				return errDisk
			}
			return nil
		}
		if _, err := Replay(ctx, ReplayOptions{Meter: replayMeter(), Spool: s, Past: meter.ErrPast}, sources()...); !errors.Is(err, errDisk) {
			t.Fatalf("got %v, want %v", err, errDisk)
		}
		s.fail = nil
		p, err := Replay(t.Context(), ReplayOptions{Meter: replayMeter(), Spool: s, Past: meter.ErrPast}, sources()...)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := idsOf(s), idsOf(whole); !slices.Equal(got, want) {
			t.Errorf("killed at append %d: %d events, want %d", kill, len(got), len(want))
		}
		if kill > 1 && p.Skipped == 0 {
			t.Errorf("killed at append %d: nothing was skipped", kill)
		}
	}
}

func TestReplayStopsWithItsContextAndClosesNothing(t *testing.T) {
	s := &memSpool{}
	ctx, stop := context.WithCancel(t.Context())
	_, err := Replay(ctx, ReplayOptions{Meter: replayMeter(), Spool: s, OnProgress: func(p Progress) { stop() }}, &script{instances: 1, seconds: 10_000})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want %v", err, context.Canceled)
	}
	for _, e := range s.events() {
		if e.Span.End-e.Span.Start != 30*odometer.SecondMicros {
			t.Errorf("event %s is cut off before its time", e.ID())
		}
	}
	if len(s.events()) == 0 {
		t.Error("what was metered is not stored")
	}
}

func TestReplayReportsBadReadingsByLine(t *testing.T) {
	s := &memSpool{}
	var lines []string
	p, err := Replay(t.Context(), ReplayOptions{
		Meter: replayMeter(), Spool: s, Past: meter.ErrPast,
		OnRefused: func(source, line int, err error) {
			if !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("line %d: %v", line, err)
			}
			lines = append(lines, fmt.Sprintf("%d:%d", source, line))
		},
	}, &script{instances: 1, seconds: 5}, &script{instances: 2, seconds: 100, bad: map[int]bool{31: true, 78: true}})
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(lines, " "); got != "1:31 1:78" || p.Refused != 2 {
		t.Errorf("refused %s and %d, want 1:31 1:78", got, p.Refused)
	}
	if got, want := sum(t, s, "vm-0").Vector[odometer.CPU], int64(99*5e5); got != want {
		t.Errorf("used %d µs, want %d", got, want)
	}
}

func TestReplayKeepsWhatWasReadBeforeAnError(t *testing.T) {
	s := &memSpool{}
	if _, err := Replay(t.Context(), ReplayOptions{Meter: replayMeter(), Spool: s}, &script{instances: 1, seconds: 100, end: errDisk}); !errors.Is(err, errDisk) {
		t.Errorf("got %v, want the source's error", err)
	}
	if got := len(s.events()); got != 3 {
		t.Errorf("%d events are stored, want 3", got)
	}
}

func TestReplayRetriesTheSpool(t *testing.T) {
	for name, c := range map[string]struct {
		err   error
		fails int
		ok    bool
	}{
		"a full spool is waited for": {fmt.Errorf("spool is full: %w", odometer.ErrUnavailable), 1000, true},
		"a broken disk recovers":     {errDisk, retries, true},
		"a broken disk stays broken": {errDisk, 1 << 30, false},
		"a record is refused":        {fmt.Errorf("no: %w", odometer.ErrInvalid), 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &memSpool{}
				s.fail = func(n int, _ []odometer.Record) error {
					if n <= c.fails {
						return c.err
					}
					return nil
				}
				start := time.Now()
				_, err := Replay(t.Context(), ReplayOptions{Meter: replayMeter(), Spool: s}, &script{instances: 1, seconds: 61})
				if (err == nil) != c.ok {
					t.Errorf("got %v", err)
				}
				if c.ok && len(s.events()) != 2 {
					t.Errorf("%d events, want 2", len(s.events()))
				}
				if got, least := time.Since(start), time.Duration(min(c.fails, retries)-1)*retryFirst; got < least {
					t.Errorf("took %v, want at least %v", got, least)
				}
			})
		})
	}
}

func TestReplayIntoTheRealSpool(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "spool")
	o := spool.Options{Dir: dir, MaxBytes: 4 << 20, RetainBytes: -1}
	s, err := spool.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	// A publisher and a ledger that take everything, but lag.
	ctx, stop := context.WithCancel(t.Context())
	got := &memSpool{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		at := uint64(0)
		for s.Wait(ctx, at) == nil {
			for r, err := range s.After(at) {
				if err != nil {
					t.Error(err)
					return
				}
				at = r.Position
				got.records = append(got.records, r)
				if at%500 == 0 {
					break
				}
			}
			if err := s.Ack(odometer.Receipt{Spool: s.ID(), Ledger: "ledger", Generation: 1, Position: at}); err != nil {
				t.Error(err)
			}
		}
	}()
	source := &script{instances: 10, seconds: 20_000}
	p, err := Replay(t.Context(), ReplayOptions{Meter: replayMeter(), Spool: s, Past: meter.ErrPast}, source)
	if err != nil {
		t.Fatal(err)
	}
	for s.Stats().Unacked > 0 {
		time.Sleep(time.Millisecond)
	}
	stop()
	<-done
	if st := s.Stats(); st.Coalesced != 0 || uint64(p.Records) != st.Last {
		t.Errorf("%d records were stored, %+v", p.Records, st)
	}
	for i := range 10 {
		if got, want := sum(t, got, odometer.InstanceID(fmt.Sprintf("vm-%d", i))).Vector[odometer.CPU], int64(19_999*5e5); got != want {
			t.Errorf("vm-%d used %d µs, want %d", i, got, want)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}

	// Everything was receipted and freed; the state is still there.
	if s, err = spool.Open(o); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	p, err = Replay(t.Context(), ReplayOptions{Meter: replayMeter(), Spool: s, Past: meter.ErrPast}, &script{instances: 10, seconds: 20_000})
	// The last reading of each is looked at again and changes nothing.
	if err != nil || p.Skipped != p.Read-10 || p.Records != 0 || p.Refused != 0 {
		t.Errorf("replayed again: %+v, %v", p, err)
	}
}
