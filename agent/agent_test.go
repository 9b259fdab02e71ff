package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
	"example.org/odometer/meter"
	"example.org/odometer/spool"
)

var errDisk = errors.New("input/output error")

// run runs an agent for a while and returns it with what Run returned.
func run(t *testing.T, o Options, d time.Duration) (*Agent, error) {
	t.Helper()
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), d)
	defer stop()
	return a, a.Run(ctx)
}

func TestTicksEverySecondAndAtHourEdges(t *testing.T) {
	for name, c := range map[string]struct {
		interval time.Duration
		want     func(time.Time) bool
	}{
		"on whole seconds": {30 * time.Second, func(at time.Time) bool { return at.Nanosecond() == 0 }},
		"oftener where the interval is shorter, and at the hour": {700 * time.Millisecond, func(at time.Time) bool {
			return at.Equal(at.Truncate(700*time.Millisecond)) || at.Equal(at.Truncate(time.Hour))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				time.Sleep(time.Hour - 10*time.Second - 300*time.Millisecond) // the bubble begins at midnight
				f, s := newFleet("vm-1"), &memSpool{}
				if _, err := run(t, Options{Source: f, Meter: newMeter(c.interval), Spool: s, Interval: c.interval}, 20*time.Second); err != nil {
					t.Fatal(err)
				}
				if least := int(20*time.Second/min(time.Second, c.interval)) - 1; len(f.samples) < least {
					t.Errorf("%d samples in 20 s, want %d", len(f.samples), least)
				}
				hour := false
				for _, at := range f.samples[1:] {
					if !c.want(at) {
						t.Errorf("sampled at %v", at)
					}
					hour = hour || at.Equal(at.Truncate(time.Hour))
				}
				if !hour {
					t.Error("not sampled at the hour's edge")
				}
				for _, e := range s.events() {
					if odometer.Hour(e.Span.Start) != odometer.Hour(e.Span.End-1) {
						t.Errorf("event %s spans the hour's edge", e.ID())
					}
				}
			})
		})
	}
}

func TestOneAppendATick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2", "vm-3"), &memSpool{}
		var periods []string
		a, err := run(t, Options{
			Source: f, Meter: newMeter(30 * time.Second), Spool: s, Interval: 30 * time.Second,
			OnPeriod: func(e *odometer.Event) { periods = append(periods, e.ID()) },
		}, 95*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		// The beginning, three periods, and the rest at the end.
		if s.appends != 5 || len(s.events()) != 12 {
			t.Errorf("%d appends of %d events, want 5 of 12", s.appends, len(s.events()))
		}
		if len(periods) != 12 || periods[0] != s.events()[0].ID() {
			t.Errorf("told of the periods %v", periods)
		}
		for _, name := range f.names {
			u := sum(t, s, name)
			if got, want := u.Vector[odometer.CPU], f.cpu(f.samples[len(f.samples)-1]); got != want {
				t.Errorf("%s used %d µs, want %d", name, got, want)
			}
			if u.Vector[odometer.EstimatedTime] != 0 || u.Vector[odometer.GapTime] != 0 {
				t.Errorf("%s was not watched throughout: %v", name, u)
			}
		}
		l := a.Live()
		if l.Periods != 12 || l.Readings != int64(3*len(f.samples)) || l.Pending != 0 || l.Last.ID() != s.events()[11].ID() {
			t.Errorf("at the end: %+v", l)
		}
	})
}

func TestLiveShowsTheOpenPeriods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2"), &memSpool{}
		a, err := New(Options{Source: f, Meter: newMeter(30 * time.Second), Spool: s})
		if err != nil {
			t.Fatal(err)
		}
		if l := a.Live(); len(l.Open) != 0 || !l.Sampled.IsZero() || l.Last != nil || !a.Sampled().IsZero() {
			t.Errorf("before the start: %+v", l)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(2 * time.Second)
		synctest.Wait()
		l := a.Live()
		if len(l.Open) != 2 || l.Open[0].Instance != "vm-1" || l.Open[0].Sequence != 1 || l.Open[0].Usage.Vector[odometer.CPU] != 1e6 {
			t.Errorf("after 2 s: %+v", l.Open)
		}
		if time.Since(l.Sampled) > time.Second || !a.Sampled().Equal(l.Sampled) {
			t.Errorf("last sampled at %v and %v, it is %v", l.Sampled, a.Sampled(), time.Now())
		}
		l.Open[0].Sequence = 99 // the caller's
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if l = a.Live(); l.Open[0].Sequence != 2 || l.Last == nil || l.Last.Sequence != 1 {
			t.Errorf("after 32 s: %+v", l)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A kill between any two ticks, and a stop: the next agent goes on in the same
// epoch, what passed meanwhile is estimated, and the sum is the truth.
func TestRestartGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2"), &memSpool{}
		for life := range 6 {
			m := newMeter(30 * time.Second)
			o := Options{Source: f, Meter: m, Spool: s}
			if life%2 == 0 { // killed: what was not stored is gone
				o.Spool = &memSpool{records: s.records, fail: func(int, []odometer.Record) error {
					if f.samples[len(f.samples)-1].Sub(f.made).Seconds() > float64(100*life+70) {
						return errDisk
					}
					return nil
				}}
			}
			a, _ := run(t, o, 90*time.Second)
			s.records = o.Spool.(*memSpool).records
			if want := min(life, 1) * 2; a.Live().Restored != want {
				t.Errorf("life %d restored %d epochs, want %d", life, a.Live().Restored, want)
			}
			time.Sleep(10 * time.Second)
		}
		for _, name := range f.names {
			u := sum(t, s, name)
			if got, want := u.Vector[odometer.CPU], f.cpu(f.samples[len(f.samples)-1]); got != want {
				t.Errorf("%s used %d µs, want %d", name, got, want)
			}
			if e := u.Vector[odometer.EstimatedTime]; e < 5*10e6 || e > 5*45e6 {
				t.Errorf("%s: %d µs are estimated, want those of the five pauses", name, e)
			}
			epochs := map[odometer.Epoch]bool{}
			for _, e := range s.events() {
				if e.Instance == name {
					epochs[e.Epoch] = true
				}
			}
			if len(epochs) != 1 {
				t.Errorf("%s has %d epochs, want 1", name, len(epochs))
			}
		}
	})
}

// What is gone when an agent starts ends its epoch with a gap, by its own state or
// by what the server kept of it; what is read again is not gone, whoever says so.
func TestWhatIsGoneEnds(t *testing.T) {
	for name, lost := range map[string]bool{"the spool has its state": false, "its disk was lost": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { whatIsGoneEnds(t, lost) })
		})
	}
}

func whatIsGoneEnds(t *testing.T, lost bool) {
	f, s := newFleet("vm-1", "vm-2", "vm-3"), &memSpool{}
	run(t, Options{Source: f, Meter: newMeter(30 * time.Second), Spool: s}, time.Minute)
	time.Sleep(time.Hour)
	f.names = f.names[1:2] // vm-3 is here, and cannot be read
	o := Options{Source: f, Meter: &jealous{Meter: newMeter(30 * time.Second), t: t}, Spool: s}
	now := s
	if lost {
		now = &memSpool{}
		o.Spool = now
		o.Recall = func(context.Context) ([]json.RawMessage, error) { return s.Checkpoints(), nil }
	}
	a, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	time.AfterFunc(10*time.Second, func() {
		now := time.Now()
		a.Here(odometer.Moment{Boot: now.Sub(f.made).Microseconds() + 1e9, Wall: now.UnixMicro()}, []odometer.InstanceID{"vm-3"})
	})
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
	final := map[odometer.InstanceID]*odometer.Event{}
	for _, e := range now.events() {
		if e.Final {
			final[e.Instance] = e
		}
	}
	e := final["vm-1"]
	if len(final) != 1 || e == nil {
		t.Fatalf("ended: got %v, want vm-1", final)
	}
	if e.Quality != odometer.Gap || e.Usage.Vector[odometer.GapTime] < 3600e6 || len(e.Lifecycle) != 1 || e.Lifecycle[0].Kind != odometer.ChangeDeleted {
		t.Errorf("got %+v, want a gap of an hour that tells that it is gone", e)
	}
	used := sum(t, s, "vm-2").Vector[odometer.CPU]
	if lost {
		used += sum(t, now, "vm-2").Vector[odometer.CPU]
	}
	if want := f.cpu(f.samples[len(f.samples)-1]); used != want {
		t.Errorf("vm-2 used %d µs, want %d", used, want)
	}
}

func TestAFailingSpoolCostsResolutionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2"), &memSpool{}
		var down atomic.Bool
		s.fail = func(int, []odometer.Record) error {
			if down.Load() {
				return errDisk
			}
			return nil
		}
		a, err := New(Options{Source: f, Meter: newMeter(time.Second), Spool: s, MaxPending: 6})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		time.Sleep(10 * time.Second)
		synctest.Wait()
		before := len(s.events())
		down.Store(true)
		time.Sleep(90 * time.Minute)
		synctest.Wait()
		// Two hours of each of two epochs, and one record that came since.
		if l := a.Live(); !errors.Is(l.SpoolErr, errDisk) || l.Pending != 4 {
			t.Errorf("while it is down: %d pending, %v", l.Pending, l.SpoolErr)
		}
		time.Sleep(4 * time.Hour)
		synctest.Wait()
		if l := a.Live(); l.Pending > 8 {
			t.Errorf("after hours: %d pending, want no more than the limit and a tick", l.Pending)
		}
		down.Store(false)
		time.Sleep(retryMost + 10*time.Second)
		synctest.Wait()
		if l := a.Live(); l.SpoolErr != nil || l.Pending != 0 {
			t.Errorf("when it is back: %+v", l)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, name := range f.names {
			if got, want := sum(t, s, name).Vector[odometer.CPU], f.cpu(f.samples[len(f.samples)-1]); got != want {
				t.Errorf("%s used %d µs, want %d", name, got, want)
			}
		}
		if got := len(s.events()) - before; got > 300 {
			t.Errorf("%d events for hours that were merged", got)
		}
	})
}

// A spool with space for a few records only takes the oldest ones, and the
// others when there is more.
func TestAFullSpoolTakesWhatFits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2", "vm-3"), &memSpool{}
		var room atomic.Int64
		room.Store(3)
		s.fail = func(_ int, rs []odometer.Record) error {
			if n := int64(len(rs)); room.Add(-n) < 0 {
				room.Add(n)
				return fmt.Errorf("full: %w", odometer.ErrUnavailable)
			}
			return nil
		}
		a, err := New(Options{Source: f, Meter: newMeter(30 * time.Second), Spool: s})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		for _, more := range []int64{0, 2, 0, 1, 4, 100} {
			time.Sleep(65 * time.Minute)
			synctest.Wait()
			room.Add(more)
		}
		time.Sleep(2 * retryMost)
		synctest.Wait()
		if l := a.Live(); l.Pending != 0 || l.SpoolErr != nil {
			t.Errorf("with room enough %d records wait, %v", l.Pending, l.SpoolErr)
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
		for _, name := range f.names {
			if got, want := sum(t, s, name).Vector[odometer.CPU], f.cpu(f.samples[len(f.samples)-1]); got != want {
				t.Errorf("%s used %d µs, want %d", name, got, want)
			}
		}
	})
}

func TestARecordThatIsRefusedLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2", "vm-3"), &memSpool{}
		s.fail = func(_ int, rs []odometer.Record) error {
			for i, r := range rs {
				if r.Event != nil && r.Event.Instance == "vm-2" {
					return fmt.Errorf("record %d: %w", i+1, odometer.ErrInvalid)
				}
			}
			return nil
		}
		a, err := run(t, Options{Source: f, Meter: newMeter(30 * time.Second), Spool: s}, 32*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if l := a.Live(); l.Refused != 2 || !errors.Is(l.RefusedErr, odometer.ErrInvalid) || l.Pending != 0 || l.SpoolErr != nil {
			t.Errorf("got %+v", l)
		}
		if got := len(s.events()); got != 4 {
			t.Errorf("%d events, want the 4 of the others", got)
		}
	})
}

func TestABadReadingLeavesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2"), &memSpool{}
		f.mangle = func(r *odometer.Reading) {
			if r.Instance == "vm-1" && len(f.samples) == 5 {
				r.At.Wall = -1
			}
		}
		f.err = errDisk // and the source says that it could not read everything
		a, err := run(t, Options{Source: f, Meter: newMeter(30 * time.Second), Spool: s}, 40*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		l := a.Live()
		if l.Refused != 1 || l.RefusedErr == nil || !strings.Contains(l.RefusedErr.Error(), "vm-1") {
			t.Errorf("refused %d: %v", l.Refused, l.RefusedErr)
		}
		if !errors.Is(l.SampleErr, errDisk) || l.Sampled.IsZero() {
			t.Errorf("sample: %v at %v", l.SampleErr, l.Sampled)
		}
		for _, name := range f.names {
			if got, want := sum(t, s, name).Vector[odometer.CPU], f.cpu(f.samples[len(f.samples)-1]); got != want {
				t.Errorf("%s used %d µs, want %d", name, got, want)
			}
		}
	})
}

func TestWhatCannotBeStoredAtTheEndIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1"), &memSpool{}
		s.fail = func(int, []odometer.Record) error { return errDisk }
		if _, err := run(t, Options{Source: f, Meter: newMeter(time.Minute), Spool: s}, 10*time.Second); !errors.Is(err, errDisk) {
			t.Errorf("got %v, want the disk's error", err)
		}
		// One failure is not the end of it.
		s = &memSpool{}
		s.fail = func(n int, _ []odometer.Record) error {
			if n == 2 {
				return errDisk
			}
			return nil
		}
		if _, err := run(t, Options{Source: f, Meter: newMeter(time.Minute), Spool: s}, 10*time.Second); err != nil || len(s.events()) != 1 {
			t.Errorf("got %v and %d events, want none and 1", err, len(s.events()))
		}
	})
}

func TestALostSpoolIsRecalledFromTheServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, lost, s := newFleet("vm-1"), &memSpool{}, &memSpool{}
		if _, err := run(t, Options{Source: f, Meter: newMeter(30 * time.Second), Spool: lost}, 45*time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		m := newMeter(30 * time.Second)
		a, err := run(t, Options{
			Source: f, Meter: m, Spool: s,
			Recall: func(context.Context) ([]json.RawMessage, error) { return lost.Checkpoints(), nil },
		}, 45*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if l := a.Live(); l.Restored != 1 || l.Refused != 0 {
			t.Errorf("got %+v", l)
		}
		u := sum(t, lost, "vm-1")
		if !u.Add(sum(t, s, "vm-1")) {
			t.Fatal("overflow")
		}
		if got, want := u.Vector[odometer.CPU], f.cpu(f.samples[len(f.samples)-1]); got != want {
			t.Errorf("used %d µs, want %d", got, want)
		}
		first := s.events()[0]
		if first.Quality != odometer.Estimated || first.Epoch == lost.events()[0].Epoch || first.Span.Start != lost.events()[1].Span.End {
			t.Errorf("the first event after the loss is %s, %s", first.ID(), first.Quality)
		}

		// The server cannot be asked, or has what no meter wrote.
		for name, recall := range map[string]func(context.Context) ([]json.RawMessage, error){
			"unreachable": func(context.Context) ([]json.RawMessage, error) { return nil, errDisk },
			"nonsense":    func(context.Context) ([]json.RawMessage, error) { return []json.RawMessage{[]byte(`{}`)}, nil },
		} {
			s := &memSpool{}
			a, err := run(t, Options{Source: f, Meter: newMeter(time.Second), Spool: s, Recall: recall}, 5*time.Second)
			if err != nil || len(s.events()) == 0 || a.Live().RefusedErr == nil {
				t.Errorf("%s: %v, %d events, %v", name, err, len(s.events()), a.Live().RefusedErr)
			}
		}
	})
}

func TestClockThatIsSetBackDoesNotStopTheTicks(t *testing.T) {
	c := &stepClock{at: time.Unix(1767225600, 5e8)}
	f, s := newFleet("vm-1"), &memSpool{}
	a, err := New(Options{Source: f, Meter: newMeter(time.Minute), Spool: s, Clock: c})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	c.step = func(n int) time.Duration {
		switch n {
		case 3:
			return -48 * time.Hour
		case 6:
			return 48 * time.Hour
		case 10:
			stop()
		}
		return 0
	}
	_ = a.Run(ctx)
	if got := len(f.samples); got < 8 {
		t.Errorf("%d samples in 10 s", got)
	}
}

// stepClock is a clock that sleeps at once and is set now and then.
type stepClock struct {
	at   time.Time
	n    int
	step func(n int) time.Duration
}

func (c *stepClock) Now() time.Time { return c.at }

func (c *stepClock) Sleep(ctx context.Context, d time.Duration) error {
	c.n++
	c.at = c.at.Add(d + c.step(c.n))
	return ctx.Err()
}

// The real spool below a real meter, killed and opened again.
func TestOnTheRealSpool(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "spool")
		f := newFleet("vm-1", "vm-2")
		for range 3 {
			s, err := spool.Open(spool.Options{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := run(t, Options{Source: f, Meter: newMeter(30 * time.Second), Spool: s}, 100*time.Second); err != nil {
				t.Fatal(err)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second)
		}
		s, err := spool.Open(spool.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		m := &memSpool{}
		for r, err := range s.After(0) {
			if err != nil {
				t.Fatal(err)
			}
			m.records = append(m.records, r)
		}
		for _, name := range f.names {
			if got, want := sum(t, m, name).Vector[odometer.CPU], f.cpu(f.samples[len(f.samples)-1]); got != want {
				t.Errorf("%s used %d µs, want %d", name, got, want)
			}
		}
	})
}

// jealous is a meter that takes its time, and minds when two use it at once.
type jealous struct {
	*meter.Meter
	t    *testing.T
	busy atomic.Bool
}

func (j *jealous) alone(do func()) {
	if j.busy.Swap(true) {
		j.t.Error("two use the meter at once")
	}
	time.Sleep(time.Millisecond)
	do()
	j.busy.Store(false)
}

func (j *jealous) Observe(r *odometer.Reading, emit func(odometer.Record)) (err error) {
	j.alone(func() { err = j.Meter.Observe(r, emit) })
	return err
}

func (j *jealous) Flush(emit func(odometer.Record)) (err error) {
	j.alone(func() { err = j.Meter.Flush(emit) })
	return err
}

func (j *jealous) Restore(state json.RawMessage) (err error) {
	j.alone(func() { err = j.Meter.Restore(state) })
	return err
}

func (j *jealous) Gone(id odometer.InstanceID, at odometer.Moment, emit func(odometer.Record)) {
	j.alone(func() { j.Meter.Gone(id, at, emit) })
}

func (j *jealous) Open(yield func(*odometer.Event) bool) { j.alone(func() { j.Meter.Open(yield) }) }

// Whoever asks how the agent is, from its first moment to its last, does not
// meet the meter at work.
func TestLiveWaitsForTheMeter(t *testing.T) {
	f, s := newFleet("vm-1", "vm-2", "vm-3", "vm-4", "vm-5"), &memSpool{}
	for _, name := range f.names {
		one := newFleet(name)
		m := newMeter(time.Second)
		if err := one.Sample(func(r *odometer.Reading) {
			if err := m.Observe(r, func(rec odometer.Record) { s.records = append(s.records, rec) }); err != nil {
				t.Error(err)
			}
		}); err != nil {
			t.Fatal(err)
		}
	}
	a, err := New(Options{Source: f, Meter: &jealous{Meter: newMeter(time.Second), t: t}, Spool: s})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var asking sync.WaitGroup
	asking.Go(func() {
		for ctx.Err() == nil {
			a.Live()
		}
	})
	if err := a.Run(ctx); err != nil {
		t.Error(err)
	}
	asking.Wait()
	if got := a.Live().Restored; got != len(f.names) {
		t.Errorf("restored: got %d epochs, want %d", got, len(f.names))
	}
}

func TestNewWantsItsParts(t *testing.T) {
	if _, err := New(Options{}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
}

func TestCompact(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, s := newFleet("vm-1", "vm-2"), &memSpool{}
		if _, err := run(t, Options{Source: f, Meter: newMeter(30 * time.Second), Spool: s}, 3*time.Hour); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			beyond bool
			events int
		}{
			"within hours":    {false, 6},
			"beyond the hour": {true, 2},
		} {
			rs := compact(slices.Clone(s.records), c.beyond)
			m := &memSpool{records: rs}
			if got := len(m.events()); got != c.events || len(rs) != got {
				t.Errorf("%s: %d records of %d events, want %d", name, len(rs), got, c.events)
			}
			for _, instance := range f.names {
				if got, want := sum(t, m, instance), sum(t, s, instance); got != want {
					t.Errorf("%s: %s used %v, want %v", name, instance, got, want)
				}
			}
			if got, want := fmt.Sprintf("%s", m.Checkpoints()), fmt.Sprintf("%s", s.Checkpoints()); got != want {
				t.Errorf("%s: checkpoints %s, want %s", name, got, want)
			}
		}
		// What comes without a checkpoint leaves that of the part before it.
		rs := slices.Clone(s.records)
		rs[len(rs)-1].Checkpoint = nil
		want := fmt.Sprintf("%s", (&memSpool{records: rs}).Checkpoints())
		if got := fmt.Sprintf("%s", (&memSpool{records: compact(rs, true)}).Checkpoints()); got != want {
			t.Errorf("the last event without a checkpoint: got %s, want %s", got, want)
		}
	})
}
