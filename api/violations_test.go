package api

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"example.org/odometer"
)

// alerting is a server whose threshold was reached so often.
func alerting(t *testing.T, times int) *Fixture {
	t.Helper()
	f := NewFixture(t)
	d, err := f.Alerts.Create(t.Context(), byHand, odometer.Threshold{
		Name: "=busy", Scope: odometer.Scoped{Instance: "vm-1"}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent,
		Levels: []odometer.ThresholdLevel{{Name: "warning", Value: 80}}, Action: odometer.ActionLog,
	}, odometer.Once{})
	if err != nil {
		t.Fatal(err)
	}
	for range times {
		f.Alerts.Violate(d.ID, 0, odometer.Owner{User: "ada", Org: "acme"})
	}
	return f
}

// TestAViolationIsAnsweredAsItIsPublished holds the API's form to that of CloudEvents,
// whatever a violation has and has not.
func TestAViolationIsAnsweredAsItIsPublished(t *testing.T) {
	for name, v := range map[string]odometer.Violation{
		"nothing at all": {},
		"all of it": {
			ID: "vio_a", Change: 2, Number: 7, Threshold: "thr_a", Version: 3, Name: "n", Level: "l", Standing: odometer.StandingRecovered, Instance: "vm-1",
			Owner: odometer.Owner{User: "ada", Org: "acme"}, Sum: true, Resource: odometer.ResourceGPU, Condition: odometer.ConditionBudget, Unit: odometer.UnitHours, Limit: 1.5, Before: 1, Value: 2,
			From: 1, To: 2_000_000, Crossed: 3, Detected: 4, Changed: 5, Reaches: 6, Event: "e", Entry: "3-1", Late: true, Action: odometer.ActionAlert, Channels: []odometer.ChannelID{"chn_a", "chn_b"},
		},
	} {
		got, err := json.Marshal(violationOf(&v))
		if err != nil {
			t.Fatal(err)
		}
		if want := string(v.AppendJSON(nil)); string(got) != want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
		}
	}
}

// TestViolationsAreExported, however many: each is what the answer has.
func TestViolationsAreExported(t *testing.T) {
	const times = 2*MaxPage + 5
	f := alerting(t, times)
	h := serverOf(t, f.Deps)
	var answer struct{ Violations []json.RawMessage }
	if w := do(h, "GET", "/api/v1/violations?limit=3"); json.Unmarshal(w.Body.Bytes(), &answer) != nil || len(answer.Violations) != 3 {
		t.Fatalf("got %d %s, want three", w.Code, w.Body)
	}
	for query, want := range map[string]int{"": times, "&limit=3": 3, "&limit=1000": 1000, "&level=none": 0} {
		lines := strings.Count(do(h, "GET", "/api/v1/violations?format=ndjson"+query).Body.String(), "\n")
		cells, err := csv.NewReader(strings.NewReader(do(h, "GET", "/api/v1/violations?format=csv"+query).Body.String())).ReadAll()
		if lines != want || err != nil || len(cells) != 1+want {
			t.Errorf("%s: got %d lines and %d of CSV, %v, want %d", query, lines, len(cells), err, want)
		}
	}
	got := strings.Split(do(h, "GET", "/api/v1/violations?limit=3", "Accept", "application/x-ndjson").Body.String(), "\n")
	for i, want := range answer.Violations {
		if got[i] != string(want) {
			t.Errorf("line %d: got\n%s\nwant\n%s", i, got[i], want)
		}
	}
	w := do(h, "GET", "/api/v1/violations?format=csv&limit=1&fields=value,threshold_name,late,channels,from,reaches_at")
	if want := "threshold_name,value,from,reaches_at,late,channels\r\n'=busy,81,2026-01-02T15:02:35Z,,false,\r\n"; w.Body.String() != want {
		t.Errorf("some fields: got %q, want %q", w.Body, want)
	}
	f.Alerts.Fails = fmt.Errorf("the disk is away: %w", odometer.ErrUnavailable)
	if w := do(h, "GET", "/api/v1/violations?format=csv"); w.Code != 503 {
		t.Errorf("from a file that cannot be read: got %d %s, want a problem", w.Code, w.Body)
	}
}

// TestWhatCannotBeItsFieldIsNamed: a value of another type, or beyond its range, is refused
// by the name of its field, and nothing of this program's own types is told.
func TestWhatCannotBeItsFieldIsNamed(t *testing.T) {
	h := serverOf(t, alerting(t, 0).Deps)
	for body, want := range map[string]string{
		`{"levels":[{"value":1e999}]}`: `"name":"$.levels.value","detail":"number 1e999 is not a number within its range"`,
		`{"limit":"much"}`:             `"name":"$.limit","detail":"string is not a number within its range"`,
		`{"levels":3}`:                 `"name":"$.levels","detail":"number is not a list"`,
		`{"name":[]}`:                  `"name":"$.name","detail":"array is not text"`,
		`{"scope":{"sum":"yes"}}`:      `"name":"$.scope.sum","detail":"string is not true or false"`,
		`{"scope":"all"}`:              `"name":"$.scope","detail":"string is not an object"`,
		`[]`:                           `"name":"$","detail":"array is not an object"`,
	} {
		w := send(h, "POST", "/api/v1/thresholds", body, "Authorization", "Bearer secret", "Content-Type", "application/json")
		if got := w.Body.String(); w.Code != 400 || !strings.Contains(got, want) || strings.Contains(got, "Go ") {
			t.Errorf("%s: got %d %s, want %s", body, w.Code, got, want)
		}
	}
	const path = "/api/v1/channels/" + exampleChannel + "/secret"
	if w := send(h, "POST", path, `{"keep_s":1e30}`, "Authorization", "Bearer secret", "Content-Type", "application/json"); !strings.Contains(w.Body.String(), "number 1e30 is not a whole number within its range") {
		t.Errorf("got %s", w.Body)
	}
}
