package api

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

func TestParseTime(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"RFC 3339 in UTC", "2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"},
		{"RFC 3339 with an offset becomes UTC", "2026-01-02T03:04:05+02:00", "2026-01-02T01:04:05Z"},
		{"a fraction is cut to microseconds", "2026-01-02T03:04:05.123456789Z", "2026-01-02T03:04:05.123456Z"},
		{"a day begins at midnight UTC", "2026-01-02", "2026-01-02T00:00:00Z"},
		{"a leap day exists in a leap year", "2024-02-29", "2024-02-29T00:00:00Z"},
		{"now", "now", "2026-01-02T15:04:05Z"},
		{"hours ago", "-24h", "2026-01-01T15:04:05Z"},
		{"days ago", "-7d", "2025-12-26T15:04:05Z"},
		{"weeks ago", "-2w", "2025-12-19T15:04:05Z"},
		{"units combine from large to small", "-1w1d1h30m", "2025-12-25T13:34:05Z"},
		{"a time ahead", "+90m", "2026-01-02T16:34:05Z"},
		{"now may stand before", "now-1h", "2026-01-02T14:04:05Z"},
		{"a fraction of an hour", "-1.5h", "2026-01-02T13:34:05Z"},
		{"nothing ago is now", "-0s", "2026-01-02T15:04:05Z"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseTime(c.in, Now)
			if err != nil || got.Format(time.RFC3339Nano) != c.want {
				t.Errorf("ParseTime(%q): got %s, %v, want %s", c.in, got.Format(time.RFC3339Nano), err, c.want)
			}
		})
	}
	for _, c := range []struct{ name, in, says string }{
		{"nothing", "", "neither"},
		{"a word", "yesterday", "neither"},
		{"a sign is needed", "24h", "neither"},
		{"a unit is needed", "-24", "neither"},
		{"one sign only", "--1h", "neither"},
		{"the small unit first", "-1h1d", "neither"},
		{"a fraction of a day", "-1.5d", "neither"},
		{"a leap day in another year", "2026-02-29", "neither"},
		{"a plus that a URL made a space", "2026-01-02T03:04:05 02:00", "%2B"},
		{"before 1970", "1969-12-31T23:59:59Z", "1970"},
		{"before 1970 by distance", "-3000w", "1970"},
		{"more weeks than a duration holds", "-20000w", "neither"},
		{"weeks and days beyond a duration", "-7625w400000000d", "neither"},
		{"more hours than a duration holds", "-9999999999h", "neither"},
		{"a sum beyond a duration", "-15000w2562047h", "neither"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := ParseTime(c.in, Now)
			if !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("ParseTime(%q): got %s, %v, want an error that says %q", c.in, got, err, c.says)
			}
		})
	}
}

func FuzzParseTime(f *testing.F) {
	for _, s := range []string{"now", "-24h", "-7d", "+1w2d3h", "2026-01-02", "2026-01-02T03:04:05.123456789+14:00", "now--", "-", "+9223372036s", "9999-12-31T23:59:59-23:59"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := ParseTime(s, Now)
		if err != nil {
			if !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("ParseTime(%q): got %v, want ErrInvalid", s, err)
			}
			return
		}
		if got.Year() < 1970 || got.Year() > 9999 || got.Nanosecond()%1000 != 0 || got.Location() != time.UTC {
			t.Errorf("ParseTime(%q): got %v, want whole microseconds in UTC from 1970 to 9999", s, got)
		}
		again, err := ParseTime(got.Format(time.RFC3339Nano), Now)
		if err != nil || !again.Equal(got) {
			t.Errorf("ParseTime(%q): its result %v reads back as %v, %v", s, got, again, err)
		}
		if strings.HasPrefix(s, "-") && got.After(Now) || strings.HasPrefix(s, "+") && got.Before(Now) {
			t.Errorf("ParseTime(%q): got %v, on the wrong side of now", s, got)
		}
	})
}

// usageParams are what GET /api/v1/usage declares.
func usageParams() []*parameter { return new(server).usageRoutes()[0].params }

func TestQueryNamesEverythingThatIsWrong(t *testing.T) {
	r := httptest.NewRequest("GET", "/x?from=soon&to=-1h&to=-2h&top=0&instance=a%2Fb&group_by=hour,day,moon,hour&extra=1&Extra=2", nil)
	q := readQuery(usageParams(), r, Now, nil)
	q.span(time.Hour)
	err := q.done()
	var got []string
	for _, e := range err.(faults) {
		fe := e.(FieldError)
		got = append(got, fe.Name)
		if fe.In != "query" || fe.Detail == "" || !errors.Is(e, odometer.ErrInvalid) {
			t.Errorf("got %#v, want a detailed fault of the query", fe)
		}
	}
	slices.Sort(got)
	want := []string{"Extra", "extra", "from", "group_by", "group_by", "group_by", "instance", "to", "top"}
	if !slices.Equal(slices.Compact(got), slices.Compact(want)) {
		t.Errorf("got faults of %v, want of %v", got, want)
	}
}

func TestQueryDefaults(t *testing.T) {
	params := []*parameter{fromParam, toParam, limitParam}
	q := readQuery(params, httptest.NewRequest("GET", "/x", nil), Now, nil)
	from, to := q.span(time.Hour)
	if n := q.limit(); n != 100 || to != Now.UnixMicro() || to-from != odometer.HourMicros {
		t.Errorf("got limit %d, from %d, to %d, want 100 and the last hour", n, from, to)
	}
	if err := q.done(); err != nil {
		t.Errorf("got %v, want no fault", err)
	}
	q = readQuery(params, httptest.NewRequest("GET", "/x?to=1970-01-01T00:00:10Z", nil), Now, nil)
	if from, to := q.span(time.Hour); from != 0 || to != 10_000_000 {
		t.Errorf("got from %d to %d, want from 0: nothing lies before 1970", from, to)
	}
}

func TestQueryThatIsNotWellFormed(t *testing.T) {
	r := httptest.NewRequest("GET", "/x", nil)
	r.URL.RawQuery = "from=%zz"
	if err := readQuery(usageParams(), r, Now, nil).done(); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("got %v, want ErrInvalid", err)
	}
}

func TestAParameterThatIsReadMustBeDeclared(t *testing.T) {
	defer func() {
		if v := recover(); v == nil {
			t.Error("got no panic")
		}
	}()
	readQuery(usageParams(), httptest.NewRequest("GET", "/x", nil), Now, nil).text("limit")
}
