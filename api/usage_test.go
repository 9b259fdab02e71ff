package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// usageOfThree is a server with what three machines used, of which the second has
// most and the third nothing that is known of GPUs.
func usageOfThree(t *testing.T) checked {
	f := NewFixture(t)
	for i, m := range []struct {
		vm    odometer.InstanceID
		owner odometer.Owner
	}{{"vm-1", odometer.Owner{User: "ada", Org: "acme"}}, {"vm-2", odometer.Owner{User: "bob"}}, {"vm-3", odometer.Owner{User: "ada", Org: "zeta"}}} {
		for n := range uint64([...]int{1, 3, 1}[i]) {
			e := SampleEvent(m.vm, n+1, m.owner)
			if i == 0 {
				e.Usage.Known = odometer.AllKnown
				e.Usage.Vector[odometer.GPU] = 5
			}
			f.book(e)
		}
	}
	return serverOf(t, f.Deps)
}

// columnOf returns what the rows of an answer have of each member.
func columnOf(t *testing.T, body []byte, list string, names ...string) (rows []string) {
	t.Helper()
	var answer map[string]json.RawMessage
	var elements []map[string]any
	err := json.Unmarshal(body, &answer)
	if err == nil {
		err = json.Unmarshal(answer[list], &elements)
	}
	if err != nil {
		t.Fatalf("got %s: %v", body, err)
	}
	for _, e := range elements {
		var words []string
		for _, name := range names {
			words = append(words, fmt.Sprint(e[name]))
		}
		rows = append(rows, strings.Join(words, " "))
	}
	return rows
}

func TestRowsAreSorted(t *testing.T) {
	h := usageOfThree(t)
	for _, c := range []struct {
		says, sort, column string
		want               []string
	}{
		{"as they come", "", "instance", []string{"vm-2", "vm-1", "vm-3"}}, // without an organisation first
		{"upwards", "instance", "instance", []string{"vm-1", "vm-2", "vm-3"}},
		{"downwards", "-instance", "instance", []string{"vm-3", "vm-2", "vm-1"}},
		{"by an amount, and the rest as they come", "-cpu_us", "instance", []string{"vm-2", "vm-1", "vm-3"}},
		{"by an amount, then by another way", "-cpu_us,-instance", "instance", []string{"vm-2", "vm-3", "vm-1"}},
		{"by what is measured", "measured_s,org", "instance", []string{"vm-1", "vm-3", "vm-2"}},
		{"what is not known comes last", "gpu_us,instance", "instance", []string{"vm-1", "vm-2", "vm-3"}},
		{"downwards too", "-gpu_us,instance", "instance", []string{"vm-1", "vm-2", "vm-3"}},
		{"so does no organisation", "-org", "instance", []string{"vm-3", "vm-1", "vm-2"}},
	} {
		w := do(h, "GET", "/api/v1/usage?group_by=instance,org&sort="+c.sort)
		if got := columnOf(t, w.Body.Bytes(), "rows", c.column); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.says, got, c.want)
		}
	}
}

func TestOnlyTheFieldsThatAreAskedFor(t *testing.T) {
	h := usageOfThree(t)
	w := do(h, "GET", "/api/v1/usage?group_by=instance&fields=cpu_us,instance&sort=instance")
	var got struct {
		Rows     []map[string]any
		Timezone string
	}
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	want := []map[string]any{{"instance": "vm-1", "cpu_us": 12_060_000.0}, {"instance": "vm-2", "cpu_us": 36_180_000.0}, {"instance": "vm-3", "cpu_us": 12_060_000.0}}
	if !reflect.DeepEqual(got.Rows, want) || got.Timezone != "UTC" {
		t.Errorf("got %s, want %v and the answer around them whole", w.Body, want)
	}
	if w := do(h, "GET", "/api/v1/usage?group_by=instance&fields=org,start,apportioned"); w.Code != 200 || !strings.Contains(w.Body.String(), `"rows":[{},{},{}]`) {
		t.Errorf("what the rows do not have: got %d %s", w.Code, w.Body)
	}
}

func TestPickKeepsWhatItIsGiven(t *testing.T) {
	const object = `{"a":1,"b":{"a":[1,2, 3]},"c":"<&>","d":9007199254740993,"a":2}`
	for want, fields := range map[string][]string{
		`{}`: {"x"}, `{"b":{"a":[1,2, 3]}}`: {"b"}, `{"c":"<&>","d":9007199254740993}`: {"d", "c"}, `{"a":1,"a":2}`: {"a"},
	} {
		if got, err := pick([]byte(object), fields); err != nil || string(got) != want {
			t.Errorf("%q: got %s, %v, want %s", fields, got, err, want)
		}
	}
	for _, bad := range []string{``, `[]`, `1`, `{"a"`, `{"a":`} {
		if got, err := pick([]byte(bad), []string{"a"}); err == nil {
			t.Errorf("%s: got %s, want an error", bad, got)
		}
	}
}

func TestBadQuestionsAboutUsageNameTheParameter(t *testing.T) {
	h := usageOfThree(t)
	for _, c := range []struct{ says, query, name string }{
		{"a zone that there is not", "usage?timezone=Mars/Olympus", "timezone"},
		{"the server's own zone", "usage?timezone=Local", "timezone"},
		{"a file", "usage?timezone=../../../etc/passwd", "timezone"},
		{"an empty time", "usage?from=now&to=now", "to"},
		{"a time that ends before it begins", "usage?from=2026-02-01&to=2026-01-01", "to"},
		{"ten thousand years", "usage?from=1970-01-01&to=9999-12-31", "to"},
		{"a year beyond them", "usage?from=0001-01-01", "from"},
		{"two intervals", "usage?group_by=hour&interval=day", "interval"},
		{"an interval and all of the time", "usage?group_by=day&interval=total", "interval"},
		{"an interval that there is not", "usage?interval=week", "interval"},
		{"both ways", "usage?sort=cpu_us,-cpu_us", "sort"},
		{"a field to sort by that there is not", "usage?sort=colour", "sort"},
		{"a field that there is not", "usage?fields=cpu_us,colour", "fields"},
		{"fields of something else", "usage/instances/vm-1/history?fields=instance", "fields"},
		{"a history of all of the time", "usage/users/ada/history?interval=total", "interval"},
		{"the most of nothing", "usage/top?by=colour", "by"},
		{"too many", "usage/top?n=1001", "n"},
		{"the most of what there is not", "usage/top?of=host", "of"},
	} {
		w := do(h, "GET", "/api/v1/"+c.query)
		if p := problem(t, w); w.Code != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0].Name != c.name {
			t.Errorf("%s: got %d %+v, want %s refused", c.says, w.Code, p.Errors, c.name)
		}
	}
	for _, query := range []string{"usage?group_by=day&interval=day", "usage?interval=total", "usage?timezone=UTC&from=2026-01-01&to=2026-01-02"} {
		if w := do(h, "GET", "/api/v1/"+query); w.Code != http.StatusOK {
			t.Errorf("%s: got %d %s", query, w.Code, w.Body)
		}
	}
}

// TestTooLongAnAnswerIsRefused says what to ask for instead.
func TestTooLongAnAnswerIsRefused(t *testing.T) {
	f := NewFixture(t)
	f.InMemory.Fails = fmt.Errorf("usage: %w", odometer.ErrTooManyRows)
	w := do(serverOf(t, f.Deps), "GET", "/api/v1/usage?group_by=instance,hour")
	if p := problem(t, w); w.Code != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0].Name != "from" || !strings.Contains(p.Errors[0].Detail, "less time") {
		t.Errorf("got %d %+v, want from refused", w.Code, p)
	}
}

// TestADayOfAPlaceIsWhatItsClockShows asks for days by name around a change of
// clocks: the one in which they go forward has 23 hours.
func TestADayOfAPlaceIsWhatItsClockShows(t *testing.T) {
	f := NewFixture(t)
	e := SampleEvent("vm-1", 1, odometer.Owner{User: "ada"})
	length := int64(72 * time.Hour / time.Microsecond)
	e.Span.Start = time.Date(2026, 3, 27, 23, 0, 0, 0, time.UTC).UnixMicro() // Saturday in Berlin
	e.Span.End = e.Span.Start + length
	e.Usage.Vector[odometer.CPU], e.Usage.Vector[odometer.MeasuredTime] = length, length
	f.book(e)
	h := serverOf(t, f.Deps)
	w := do(h, "GET", "/api/v1/usage?from=2026-03-28&to=2026-03-31&interval=day&timezone=Europe/Berlin")
	want := []string{"2026-03-28T00:00:00+01:00 86400", "2026-03-29T00:00:00+01:00 82800", "2026-03-30T00:00:00+02:00 86400"}
	if got := columnOf(t, w.Body.Bytes(), "rows", "start", "measured_s"); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
