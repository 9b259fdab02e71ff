package odometer

import (
	"errors"
	"fmt"
	"math/big"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestDaysAndMonthsOfAPlace has the places whose clocks do what is hard.
func TestDaysAndMonthsOfAPlace(t *testing.T) {
	for _, c := range []struct {
		says, zone     string
		by             GroupBy
		in, start, end string
	}{
		{"clocks go forward: 23 hours", "Europe/Berlin", ByDay, "2026-03-29T12:00:00+02:00", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"clocks go back: 25 hours", "Europe/Berlin", ByDay, "2026-10-25T02:30:00+02:00", "2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"},
		{"a month with a change", "Europe/Berlin", ByMonth, "2026-10-31T23:59:59+01:00", "2026-10-01T00:00:00+02:00", "2026-11-01T00:00:00+01:00"},
		{"half an hour beside UTC", "Asia/Kolkata", ByDay, "2026-04-01T00:00:00+05:30", "2026-03-31T18:30:00Z", "2026-04-01T18:30:00Z"},
		{"three quarters", "Asia/Kathmandu", ByMonth, "2026-04-30T23:59:59+05:45", "2026-03-31T18:15:00Z", "2026-04-30T18:15:00Z"},
		{"clocks go back by half an hour", "Australia/Lord_Howe", ByDay, "2026-04-05T12:00:00+10:30", "2026-04-05T00:00:00+11:00", "2026-04-06T00:00:00+10:30"},
		{"midnight is left out", "America/Santiago", ByDay, "2026-09-06T12:00:00-03:00", "2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"},
		{"midnight comes twice: before the first is the day before", "America/Havana", ByDay, "2026-10-31T23:59:59-04:00", "2026-10-31T00:00:00-04:00", "2026-11-01T00:00:00-04:00"},
		{"midnight comes twice: the first begins the day", "America/Havana", ByDay, "2026-11-01T00:30:00-05:00", "2026-11-01T04:00:00Z", "2026-11-02T05:00:00Z"},
		{"put back over midnight: the day before is over", "America/St_Johns", ByDay, "2006-10-29T02:45:00Z", "2006-10-29T02:30:00Z", "2006-10-30T03:30:00Z"},
		{"a day that is left out", "Pacific/Apia", ByDay, "2011-12-29T23:00:00-10:00", "2011-12-29T10:00:00Z", "2011-12-30T10:00:00Z"},
		{"the day after it", "Pacific/Apia", ByDay, "2011-12-30T10:00:00Z", "2011-12-30T10:00:00Z", "2011-12-31T10:00:00Z"},
		{"hours are UTC's", "Asia/Kolkata", ByHour, "2026-04-01T00:10:00+05:30", "2026-03-31T18:00:00Z", "2026-03-31T19:00:00Z"},
		{"UTC by name", "UTC", ByMonth, "2024-02-29T12:00:00Z", "2024-02-01T00:00:00Z", "2024-03-01T00:00:00Z"},
		{"UTC before 1970", "UTC", ByDay, "1969-12-31T12:00:00Z", "1969-12-31T00:00:00Z", "1970-01-01T00:00:00Z"},
	} {
		at := func(s string) int64 {
			m, err := time.Parse(time.RFC3339, s)
			if err != nil {
				t.Fatal(err)
			}
			return m.UnixMicro()
		}
		zone, err := LoadZone(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		cal := CalendarOf([]GroupBy{ByUser, c.by}, zone)
		start := cal.Start(at(c.in))
		end := cal.Next(start)
		if start != at(c.start) || end != at(c.end) {
			t.Errorf("%s: got %v to %v, want %s to %s", c.says, time.UnixMicro(start).UTC(), time.UnixMicro(end).UTC(), c.start, c.end)
		}
		if before, last := cal.Start(start-1), cal.Start(end-1); before >= start || cal.Next(before) != start || last != start {
			t.Errorf("%s: the one before begins at %v, and its last moment belongs to %v", c.says, time.UnixMicro(before).UTC(), time.UnixMicro(last).UTC())
		}
	}
	if c := CalendarOf([]GroupBy{ByUser}, nil); c.By != ByNothing {
		t.Errorf("without a time: got %q", c.By)
	}
}

// TestDaysTile looks at the clock of many places every quarter of an hour, over
// years of changes: a day begins where the clock first shows it or a later one, and
// the next where it ends.
func TestDaysTile(t *testing.T) {
	for _, name := range []string{
		"Europe/Berlin", "America/Sao_Paulo", "America/Havana", "America/Asuncion", "Asia/Beirut", "Asia/Amman", "Australia/Lord_Howe", "Pacific/Apia",
	} {
		zone, err := LoadZone(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, by := range []GroupBy{ByDay, ByMonth} {
			layout := map[GroupBy]string{ByDay: "2006-01-02", ByMonth: "2006-01"}[by]
			cal, most, start := Calendar{by, zone}, "", int64(0)
			first := time.Date(2011, 12, 1, 0, 0, 0, 0, time.UTC)
			for at := first; at.Year() < 2013; at = at.Add(15 * time.Minute) {
				if shown := at.In(zone).Format(layout); shown > most {
					if most != "" && cal.Next(start) != at.UnixMicro() {
						t.Fatalf("%s, %s: after %v begins %v, want %v", name, by, time.UnixMicro(start).In(zone), time.UnixMicro(cal.Next(start)).In(zone), at.In(zone))
					}
					most, start = shown, at.UnixMicro()
					if at.Equal(first) {
						start = cal.Start(start)
					}
				}
				if got := cal.Start(at.UnixMicro()); got != start {
					t.Fatalf("%s: the %s of %v begins at %v, want %v", name, by, at.In(zone), time.UnixMicro(got).In(zone), time.UnixMicro(start).In(zone))
				}
			}
		}
	}
}

func TestZonesThatThereAreNot(t *testing.T) {
	for _, name := range []string{"", "Local", "Mars/Olympus", "../../etc/passwd", "/etc/localtime", "localtime", "posixrules", "posix/Europe/Berlin", "right/Europe/Berlin", "Europe//Berlin", "Europe/./Berlin", "./UTC", "Europe", "\x00", "Europe/Berlin "} {
		if z, err := LoadZone(name); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %v, %v, want it refused", name, z, err)
		}
	}
}

// TestPartsOfARowAddUp cuts rows anywhere: the parts add up to the row, to the unit,
// and nothing that was used becomes negative.
func TestPartsOfARowAddUp(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var row UsageRow
		amount := rapid.OneOf(rapid.Int64Range(0, 9), rapid.Int64Range(0, 1<<62))
		for q := range row.Totals {
			for range rapid.IntRange(1, 4).Draw(rt, "of instances") { // beyond 64 bits
				row.Totals[q].Add(amount.Draw(rt, "amount"))
			}
		}
		times := row.Totals[MeasuredTime]
		times.AddSum(row.Totals[EstimatedTime])
		row.Recovered = times.Share(rapid.Int64Range(0, 100).Draw(rt, "recovered"), 100)
		negative := rapid.Bool().Draw(rt, "a correction")
		if negative {
			for q := range row.Totals {
				n := row.Totals[q]
				row.Totals[q] = Sum{}
				row.Totals[q].SubSum(n)
			}
			n := row.Recovered
			row.Recovered = Sum{}
			row.Recovered.SubSum(n)
		}
		const span = 3_600_000_000
		edges := []int64{0, rapid.Int64Range(0, span).Draw(rt, "edge"), span}
		if rapid.Bool().Draw(rt, "in quarters") {
			edges = []int64{0, span / 4, span / 2, 3 * span / 4, span}
		}
		var sum UsageRow
		for i, from := range edges[:len(edges)-1] {
			part := row.Between(from, edges[i+1], span)
			seen := part.Totals[MeasuredTime]
			seen.AddSum(part.Totals[EstimatedTime])
			seen.SubSum(part.Recovered)
			for q, n := range append(part.Totals[:], part.Recovered, seen) {
				if sign := n.Cmp(Sum{}); sign < 0 && !negative || sign > 0 && negative {
					rt.Fatalf("part %d of %+v: amount %d is %v", i, row, q, n)
				}
			}
			for q, n := range part.Totals {
				sum.Totals[q].AddSum(n)
			}
			sum.Recovered.AddSum(part.Recovered)
		}
		if sum.Totals != row.Totals || sum.Recovered != row.Recovered {
			rt.Fatalf("got %+v of %+v", sum, row)
		}
	})
}

// TestShareOfASum compares with big integers.
func TestShareOfASum(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := Sum{rapid.Int64().Draw(rt, "hi"), rapid.Uint64().Draw(rt, "lo")}
		span := rapid.Int64Range(1, 1<<62).Draw(rt, "span")
		elapsed := rapid.Int64Range(0, span).Draw(rt, "elapsed")
		n, _ := new(big.Int).SetString(s.String(), 10)
		want := n.Quo(n.Mul(n, big.NewInt(elapsed)), big.NewInt(span)).String()
		if got := fmt.Sprint(s.Share(elapsed, span)); got != want {
			rt.Fatalf("share %d of %d of %v: got %s, want %s", elapsed, span, s, got, want)
		}
	})
}
