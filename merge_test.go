package odometer

import (
	"encoding/json"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestMergingTwoEventsGivesTheGoldenOne(t *testing.T) {
	e := goldenEvent(t, "event-1.1.json")
	if err := e.Merge(goldenEvent(t, "event-1.1-next.json")); err != nil {
		t.Fatal(err)
	}
	if got, want := string(e.AppendJSON(nil)), string(golden(t, "event-1.1-coalesced.json")); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if err := e.Check(); err != nil {
		t.Error(err)
	}
}

func TestMergeTakesTheQualityBothShareOrEstimated(t *testing.T) {
	for _, c := range []struct{ first, next, want Quality }{
		{Measured, Measured, Measured}, {Estimated, Estimated, Estimated}, {Gap, Gap, Gap},
		{Measured, Gap, Estimated}, {Gap, Measured, Estimated}, {Estimated, Gap, Estimated}, {Measured, Estimated, Estimated},
	} {
		e, next := goldenEvent(t, "event-1.1.json"), goldenEvent(t, "event-1.1-next.json")
		e.Quality, next.Quality = c.first, c.next
		if err := e.Merge(next); err != nil || e.Quality != c.want {
			t.Errorf("%s and %s: got %s, %v, want %s", c.first, c.next, e.Quality, err, c.want)
		}
	}
}

func TestMergeKeepsUnknownMembersThatBothSayAlike(t *testing.T) {
	member := func(in, name, value string) Member { return Member{in, name, json.RawMessage(value)} }
	e, next := goldenEvent(t, "event-1.1.json"), goldenEvent(t, "event-1.1-next.json")
	e.Extra = []Member{member("", "rack", "7"), member("usage", "power", "1"), member("", "x", "1")}
	next.Extra = []Member{member("", "power", "1"), member("usage", "power", "2"), member("", "rack", "7"), member("metrics", "x", "1")}
	if err := e.Merge(next); err != nil {
		t.Fatal(err)
	}
	if got, want := e.Extra, []Member{member("", "rack", "7")}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestMergeRefusesWhatDoesNotFollow(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(e, next *Event)
		want   string
	}{
		{"version 1.0", func(e, next *Event) { next.Epoch = "" }, "version 1.0 has no readings"},
		{"another version", func(e, next *Event) { next.Version = "1.2" }, "versions 1.1 and 1.2"},
		{"another instance", func(e, next *Event) { next.Instance = "vm-8" }, "different epochs"},
		{"another epoch", func(e, next *Event) { next.Epoch = spoolID }, "different epochs"},
		{"another owner", func(e, next *Event) { next.Owner.User = "u-bob" }, "different owners"},
		{"the first was final", func(e, next *Event) { e.Final = true }, "the epoch ended with the first"},
		{"a hole in the sequence", func(e, next *Event) { next.FirstSequence, next.Sequence = 44, 44 }, "the sequence goes from 42 to 44"},
		{"the same event again", func(e, next *Event) { *next = *e }, "the sequence goes from 42 to 42"},
		{"the clock was set", func(e, next *Event) { next.Span.Step = -3 }, "the clock was set by -3 µs"},
		{"a hole in time", func(e, next *Event) { next.Span.Start++ }, "one span ends at"},
		{"a hole in the readings", func(e, next *Event) { next.Readings.Start.Vector[DiskRead]++ }, "the readings between them differ"},
		{"usage beyond 64 bits", func(e, next *Event) { next.Usage.Vector[DiskRead], e.Usage.Vector[DiskRead] = math.MaxInt64, 1 }, "does not fit in 64 bits"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e, next := goldenEvent(t, "event-1.1.json"), goldenEvent(t, "event-1.1-next.json")
			c.change(e, next)
			before := *e
			err := e.Merge(next)
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
			if !reflect.DeepEqual(*e, before) {
				t.Errorf("got %+v, want unchanged", *e)
			}
		})
	}
}

// However a run of events is coalesced, what comes out passes Check, covers
// the same, and its whole seconds do not drift.
func TestMergingInAnyOrderGivesTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		carry := rapid.Int64Range(0, SecondMicros-1).Draw(t, "carry")
		n := rapid.IntRange(2, 8).Draw(t, "events")
		first := *typical()
		events := make([]*Event, n)
		at, reading := first.Span.Start, first.Readings.Start
		for i := range events {
			e := first
			e.Sequence, e.FirstSequence = uint64(i+1), uint64(i+1)
			length := rapid.Int64Range(1, 90*SecondMicros).Draw(t, "length")
			e.Span = Span{Start: at, End: at + length}
			e.Usage = Usage{Known: first.Usage.Known}
			e.Usage.Vector[CPU] = rapid.Int64Range(0, 4*length).Draw(t, "cpu")
			e.Usage.Vector[Memory] = rapid.Int64Range(0, 1<<20).Draw(t, "memory")
			e.Usage.Vector[MeasuredTime] = length
			e.Readings.Start = reading
			e.Readings.End = reading
			if !e.Readings.End.Add(e.Usage) {
				t.Fatal("overflow")
			}
			e.Derive(carry, 0)
			at, reading = e.Span.End, e.Readings.End
			if err := e.Check(); err != nil {
				t.Fatal(err)
			}
			events[i] = &e
		}
		whole := (reading.Vector[CPU]+carry)/SecondMicros - (first.Readings.Start.Vector[CPU]+carry)/SecondMicros
		for len(events) > 1 {
			i := rapid.IntRange(0, len(events)-2).Draw(t, "which")
			if err := events[i].Merge(events[i+1]); err != nil {
				t.Fatal(err)
			}
			events = append(events[:i+1], events[i+2:]...)
		}
		all := events[0]
		if err := all.Check(); err != nil {
			t.Fatal(err)
		}
		if got, want := all.Usage.Vector, reading.Sub(first.Readings.Start).Vector; got != want {
			t.Fatalf("usage: got %v, want %v", got, want)
		}
		if got := int64(all.Metrics.CPUSeconds); got != whole {
			t.Fatalf("whole seconds: got %d, want %d", got, whole)
		}
		if all.FirstSequence != 1 || all.Sequence != uint64(n) {
			t.Fatalf("got %s, want 1-%d", all.ID(), n)
		}
	})
}

func TestUsageOf10RoundsTheIntegralHalfToEven(t *testing.T) {
	for _, c := range []struct {
		name    string
		gb      float64
		seconds int64
		want    int64
	}{
		{"a whole number of MiB-seconds", 1.5, 30, 46080},
		{"half a MiB-second rounds to the even 0", 1.0 / 2048, 1, 0},
		{"one and a half rounds to the even 2", 3.0 / 2048, 1, 2},
		{"two and a half rounds to the even 2", 5.0 / 2048, 1, 2},
		{"just above a half rounds up", math.Nextafter(1.0/2048, 1), 1, 1},
		{"just below a half rounds down", math.Nextafter(3.0/2048, 0), 1, 1},
		{"it is the period's integral that is rounded, not the mean", 1.0 / 2048, 3, 2},
		{"a tenth, as floats have it, over a day", 0.1, 86400, 8847360},
		{"nothing", 0, 30, 0},
		{"the smallest float", math.SmallestNonzeroFloat64, 1 << 31, 0},
	} {
		e := Event{Version: Version10, Instance: "vm", Period: Period{1000, 1000 + c.seconds}, Metrics: Metrics{MemoryGB: c.gb}}
		u, span, err := UsageOf10(&e)
		if err != nil || u.Vector[Memory] != c.want {
			t.Errorf("%s: got %d, %v, want %d", c.name, u.Vector[Memory], err, c.want)
		}
		if got, want := span, (Span{Start: 1000 * SecondMicros, End: (1000 + c.seconds) * SecondMicros}); got != want {
			t.Errorf("%s: span: got %v, want %v", c.name, got, want)
		}
		if got, want := u.Elapsed(), c.seconds*SecondMicros; got != want {
			t.Errorf("%s: measured: got %d, want %d", c.name, got, want)
		}
	}
	if u, _, err := UsageOf10(goldenEvent(t, "event-1.0.json")); err != nil || u.Known.Has(VCPU) || u.Known.Has(GapTime) || !u.Known.Has(GPU) {
		t.Errorf("known: got %b, %v", u.Known, err)
	}
}

func TestUsageOf10RefusesWhatHasNoInteger(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(e *Event)
		want   string
	}{
		{"a period without length", func(e *Event) { e.Period.End = e.Period.Start }, "no time to use anything in"},
		{"a period before 1970", func(e *Event) { e.Period.Start = -1 }, "no time to use anything in"},
		{"a period beyond the year 9999", func(e *Event) { e.Period.End = maxSeconds + 1 }, "no time to use anything in"},
		{"CPU seconds beyond 64 bits of microseconds", func(e *Event) { e.Metrics.CPUSeconds = math.MaxInt64/SecondMicros + 1 }, "cpu_seconds: too large"},
		{"memory beyond 64 bits", func(e *Event) { e.Metrics.MemoryGB = 1e18 }, "memory_gb: too large"},
		{"storage far beyond 64 bits", func(e *Event) { e.Metrics.StorageGB = 1e300 }, "storage_gb: too large"},
		{"a negative amount", func(e *Event) { e.Metrics.NetworkEgressMB = -1 }, "network_egress_mb: -1 is no amount"},
		{"an amount that is not a number", func(e *Event) { e.Metrics.NetworkIngressMB = math.NaN() }, "network_ingress_mb: NaN is no amount"},
		{"an infinite amount", func(e *Event) { e.Metrics.NetworkIngressMB = math.Inf(1) }, "network_ingress_mb: too large"},
	} {
		e := goldenEvent(t, "event-1.0.json")
		c.change(e)
		if _, _, err := UsageOf10(e); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
		if e.Check() == nil {
			t.Errorf("%s: Check: got nil, want an error", c.name)
		}
	}
}
