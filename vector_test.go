package odometer

import (
	"errors"
	"math"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestQuantitiesHaveTheirNames(t *testing.T) {
	seen := make(map[string]bool)
	for q := range Quantity(Quantities) {
		name := q.String()
		if got, ok := QuantityOf(name); got != q || !ok || seen[name] || name == "" {
			t.Errorf("%s: got %v, %v, want %d", name, got, ok, q)
		}
		seen[name] = true
	}
	if _, ok := QuantityOf("CPU_US"); ok {
		t.Error("a name in another case: got known, want unknown")
	}
}

func TestKnownIsASet(t *testing.T) {
	var k Known
	for q := range Quantity(Quantities) {
		if k.Has(q) {
			t.Errorf("%s: got known before it was added", q)
		}
		k = k.With(q)
		if !k.Has(q) || k.With(q) != k {
			t.Errorf("%s: got unknown after it was added", q)
		}
	}
	if k != AllKnown {
		t.Errorf("got %b, want %b", k, AllKnown)
	}
}

func TestUsageAddRefusesOverflowAndStaysAsItWas(t *testing.T) {
	for _, c := range []struct {
		a, b int64
		fits bool
	}{
		{1, 2, true}, {0, 0, true}, {-5, 5, true}, {math.MaxInt64, 0, true}, {math.MaxInt64 - 1, 1, true},
		{math.MaxInt64, 1, false}, {1, math.MaxInt64, false}, {math.MinInt64, 0, true}, {math.MinInt64, -1, false},
		{math.MinInt64, math.MaxInt64, true}, {math.MinInt64, math.MinInt64, false}, {math.MaxInt64, math.MaxInt64, false},
	} {
		var u, v Usage
		u.Vector[GapTime], v.Vector[GapTime] = c.a, c.b
		u.Vector[CPU], v.Vector[CPU] = 1, 1
		u.Known, v.Known = Known(0).With(CPU), Known(0).With(GapTime)
		before := u
		if got := u.Add(v); got != c.fits {
			t.Errorf("%d + %d: got %v, want %v", c.a, c.b, got, c.fits)
		}
		if !c.fits && u != before {
			t.Errorf("%d + %d: got %v, want unchanged", c.a, c.b, u)
		}
		if c.fits && (u.Vector[GapTime] != c.a+c.b || u.Vector[CPU] != 2 || u.Known != before.Known|v.Known) {
			t.Errorf("%d + %d: got %+v", c.a, c.b, u)
		}
	}
}

func genUsage(lo, hi int64) *rapid.Generator[Usage] {
	return rapid.Custom(func(t *rapid.T) (u Usage) {
		u.Known = Known(rapid.Uint32Range(0, uint32(AllKnown)).Draw(t, "known"))
		for q := range u.Vector {
			if u.Known.Has(Quantity(q)) {
				u.Vector[q] = rapid.Int64Range(lo, hi).Draw(t, Quantity(q).String())
			}
		}
		return u
	})
}

func TestUsageSurvivesItsBinaryForm(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := genUsage(math.MinInt64, math.MaxInt64).Draw(t, "usage")
		tail := rapid.SliceOf(rapid.Byte()).Draw(t, "tail")
		b := append(u.AppendBinary(nil), tail...)
		got, rest, err := CutUsage(b)
		if err != nil || got != u || string(rest) != string(tail) {
			t.Fatalf("got %+v, %q, %v, want %+v, %q", got, rest, err, u, tail)
		}
		whole := len(b) - len(tail)
		cut := rapid.IntRange(0, whole-1).Draw(t, "cut")
		if _, _, err := CutUsage(b[:cut]); !errors.Is(err, ErrInvalid) {
			t.Fatalf("cut off at %d of %d: got %v, want %v", cut, whole, err, ErrInvalid)
		}
		text := u.AppendJSON(nil)
		var back Usage
		if err := back.UnmarshalJSON(text); err != nil || back != u {
			t.Fatalf("as JSON: got %+v, %v, want %+v from %s", back, err, u, text)
		}
	})
	if _, _, err := CutUsage([]byte{0xff, 0xff, 0xff, 0xff, 0x0f}); !errors.Is(err, ErrInvalid) {
		t.Errorf("quantities that do not exist: got %v, want %v", err, ErrInvalid)
	}
	var u Usage
	for _, text := range []string{`{"cpu_us":1.5}`, `{"cpu_us":1`, `[]`, `{"CPU_us":1}`, `{} 1`, `{"cpu_us":1,"cpu_us":1}`} {
		if err := u.UnmarshalJSON([]byte(text)); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: got %v, want %v", text, err, ErrInvalid)
		}
	}
}

func TestShareIsTheFloorIn128Bits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.Int64Range(-math.MaxInt64, math.MaxInt64).Draw(t, "total")
		span := rapid.Int64Range(1, math.MaxInt64).Draw(t, "span")
		elapsed := rapid.Int64Range(0, span).Draw(t, "elapsed")
		want := new(big.Int).Mul(big.NewInt(total), big.NewInt(elapsed))
		want.Quo(want, big.NewInt(span)) // toward zero, as for the positive
		if got := Share(total, elapsed, span); want.Cmp(big.NewInt(got)) != 0 {
			t.Fatalf("got %d, want %d", got, want)
		}
	})
}

func TestShareAtItsExtremes(t *testing.T) {
	for _, c := range []struct{ total, elapsed, span, want int64 }{
		{math.MaxInt64, math.MaxInt64, math.MaxInt64, math.MaxInt64},
		{math.MaxInt64, math.MaxInt64 - 1, math.MaxInt64, math.MaxInt64 - 1},
		{math.MaxInt64, 1, 2, math.MaxInt64 / 2},
		{math.MaxInt64, 0, 1, 0},
		{-math.MaxInt64, 1, 3, -(math.MaxInt64 / 3)},
		{math.MinInt64, 1, 1, math.MinInt64},
		{math.MinInt64, 1, 2, math.MinInt64 / 2},
		{-5, 1, 2, -2}, {5, 1, 2, 2}, {0, 7, 9, 0},
	} {
		if got := Share(c.total, c.elapsed, c.span); got != c.want {
			t.Errorf("Share(%d, %d, %d): got %d, want %d", c.total, c.elapsed, c.span, got, c.want)
		}
	}
}

// cases of apportioning that are easy to get wrong: the parts that hours get.
func TestUsageIsApportionedOverHourEdges(t *testing.T) {
	at := func(text string) int64 {
		when, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			t.Fatal(err)
		}
		return when.UnixMicro()
	}
	for _, c := range []struct {
		name       string
		start, end string
		cpu        int64
		hours      []int64
	}{
		{"half on each side of an edge", "2025-03-01T11:59:45Z", "2025-03-01T12:00:15Z", 11, []int64{5, 6}},
		{"up to the edge belongs to the hour before it", "2025-03-01T11:59:30Z", "2025-03-01T12:00:00Z", 11, []int64{11}},
		{"from the edge on belongs to the hour behind it", "2025-03-01T12:00:00Z", "2025-03-01T12:00:30Z", 11, []int64{11}},
		{"one microsecond beyond the edge gets the floor, 0", "2025-03-01T11:59:30Z", "2025-03-01T12:00:00.000001Z", 11, []int64{10, 1}},
		{"over three hours, one of them whole", "2025-03-01T11:30:00Z", "2025-03-01T13:30:00Z", 7, []int64{1, 4, 2}},
		{"a machine that lived 0.4 s over an edge", "2025-03-01T11:59:59.9Z", "2025-03-01T12:00:00.3Z", 400000, []int64{100000, 300000}},
		{"over the end of a leap day", "2024-02-29T23:45:00Z", "2024-03-01T00:15:00Z", 3, []int64{1, 2}},
		{"over the end of February in a year without one", "2025-02-28T23:45:00Z", "2025-03-01T00:15:00Z", 3, []int64{1, 2}},
		{"over the leap day that 2000 had", "2000-02-28T23:30:00Z", "2000-02-29T00:30:00Z", 2, []int64{1, 1}},
		{"over midnight on the leap day that 2100 does not have", "2100-02-28T23:30:00Z", "2100-03-01T00:30:00Z", 2, []int64{1, 1}},
		{"over the turn of a year", "2025-12-31T23:59:00Z", "2026-01-01T00:01:00Z", 1, []int64{0, 1}},
		{"over the leap second at the end of 2016, which Unix time does not count", "2016-12-31T23:59:59Z", "2017-01-01T00:00:01Z", 10, []int64{5, 5}},
		{"a correction is shared like what it corrects", "2025-03-01T11:59:45Z", "2025-03-01T12:00:15Z", -11, []int64{-5, -6}},
		{"as much as 64 bits hold", "2025-03-01T11:59:45Z", "2025-03-01T12:00:15Z", math.MaxInt64, []int64{math.MaxInt64 / 2, math.MaxInt64/2 + 1}},
	} {
		span := Span{Start: at(c.start), End: at(c.end)}
		u := Usage{Known: Known(0).With(CPU)}
		u.Vector[CPU] = c.cpu
		var got []int64
		for hour := Hour(span.Start); hour < span.End; hour += HourMicros {
			if _, m, s := time.UnixMicro(hour).UTC().Clock(); m != 0 || s != 0 {
				t.Errorf("%s: %d is not the start of an hour", c.name, hour)
			}
			part := u.Between(span, hour, hour+HourMicros)
			if part.Known != u.Known {
				t.Errorf("%s: known: got %b, want %b", c.name, part.Known, u.Known)
			}
			got = append(got, part.Vector[CPU])
		}
		if len(got) != len(c.hours) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.hours)
			continue
		}
		for i := range got {
			if got[i] != c.hours[i] {
				t.Errorf("%s: got %v, want %v", c.name, got, c.hours)
				break
			}
		}
	}
}

func TestPartsSumToTheWholeInWhicheverOrderTimeIsCut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		u := genUsage(-math.MaxInt64, math.MaxInt64).Draw(t, "usage")
		start := rapid.Int64Range(0, 1<<53).Draw(t, "start")
		span := Span{Start: start, End: start + rapid.Int64Range(1, 100*DayMicros).Draw(t, "length")}
		edges := rapid.SliceOfN(rapid.Int64Range(span.Start-HourMicros, span.End+HourMicros), 0, 8).Draw(t, "edges")
		// Cut one at a time: each cut replaces a part by two, both taken from
		// the whole. The order of the edges is arbitrary.
		type part struct{ from, to int64 }
		parts := []part{{span.Start, span.End}}
		for _, edge := range edges {
			for i, p := range parts {
				if p.from < edge && edge < p.to {
					parts = append(parts[:i], append([]part{{p.from, edge}, {edge, p.to}}, parts[i+1:]...)...)
					break
				}
			}
		}
		var sum Usage
		for _, p := range parts {
			piece := u.Between(span, p.from, p.to)
			for q, n := range piece.Vector {
				if n != 0 && (n > 0) != (u.Vector[q] > 0) {
					t.Fatalf("%s: part %d of %d has another sign", Quantity(q), n, u.Vector[q])
				}
			}
			if !sum.Add(piece) {
				t.Fatal("overflow")
			}
		}
		if sum != u {
			t.Fatalf("got %v, want %v", sum, u)
		}
		// Any two parts are what their union is, alone.
		a := rapid.Int64Range(span.Start, span.End).Draw(t, "a")
		b := rapid.Int64Range(a, span.End).Draw(t, "b")
		left, right := u.Between(span, span.Start, a), u.Between(span, a, b)
		if !left.Add(right) || left != u.Between(span, span.Start, b) {
			t.Fatalf("parts up to %d and %d do not join", a, b)
		}
	})
}

func TestBetweenOutsideTheSpanIsNothing(t *testing.T) {
	u := Usage{Known: AllKnown}
	u.Vector[CPU] = 10
	span := Span{Start: 100, End: 200}
	for _, c := range []struct{ from, to, want int64 }{
		{0, 100, 0}, {200, 300, 0}, {150, 150, 0}, {180, 120, 0}, {0, 1000, 10}, {math.MinInt64, math.MaxInt64, 10}, {100, 150, 5}, {150, 1000, 5},
	} {
		if got := u.Between(span, c.from, c.to); got.Vector[CPU] != c.want || got.Known != AllKnown {
			t.Errorf("from %d to %d: got %d, want %d", c.from, c.to, got.Vector[CPU], c.want)
		}
	}
	if got := u.Between(Span{Start: 5, End: 5}, 0, 10); got.Vector[CPU] != 0 {
		t.Errorf("a span without length: got %d, want 0", got.Vector[CPU])
	}
}

func TestHourIsTheStartOfTheHour(t *testing.T) {
	for us, want := range map[int64]int64{
		0: 0, 1: 0, HourMicros - 1: 0, HourMicros: HourMicros, -1: -HourMicros, -HourMicros: -HourMicros, -HourMicros - 1: -2 * HourMicros,
	} {
		if got := Hour(us); got != want {
			t.Errorf("Hour(%d): got %d, want %d", us, got, want)
		}
	}
}
