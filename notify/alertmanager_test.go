package notify

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"gopkg.in/yaml.v3"

	"example.org/odometer"
)

// postableAlerts returns what reads a body of POST /api/v2/alerts that is as the schema has
// it which Alertmanager publishes, formats included. That one lets an alert have properties
// that it does not know, and ignores them; here they are a fault.
func postableAlerts(t *testing.T) func(body string) ([]alert, error) {
	t.Helper()
	text, err := os.ReadFile("testdata/alertmanager/openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var published map[string]any
	if err := yaml.Unmarshal(text, &published); err != nil {
		t.Fatal(err)
	}
	published["definitions"].(map[string]any)["postableAlert"].(map[string]any)["unevaluatedProperties"] = false
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("openapi.yaml", published); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("openapi.yaml#/definitions/postableAlerts")
	if err != nil {
		t.Fatal(err)
	}
	return func(body string) (list []alert, err error) {
		doc, err := jsonschema.UnmarshalJSON(strings.NewReader(body))
		if err != nil {
			return nil, err
		}
		if err := schema.Validate(doc); err != nil {
			return nil, err
		}
		err = json.Unmarshal([]byte(body), &list)
		return list, err
	}
}

// TestPostableAlerts: the schema finds what is wrong.
func TestPostableAlerts(t *testing.T) {
	read := postableAlerts(t)
	for _, c := range []struct{ name, body, want string }{
		{"an alert", `[{"labels":{"alertname":"a"},"annotations":{"b":"c"},"startsAt":"2026-11-27T10:00:01Z","endsAt":"2026-11-27T10:00:01.5Z","generatorURL":"http://a.test/"}]`, ""},
		{"no list", `{"labels":{"alertname":"a"}}`, "got object, want array"},
		{"no labels", `[{"annotations":{"b":"c"}}]`, "missing property 'labels'"},
		{"a label that is a number", `[{"labels":{"a":1}}]`, "got number, want string"},
		{"an annotation that is null", `[{"labels":{"a":"b"},"annotations":{"b":null}}]`, "got null, want string"},
		{"no moment", `[{"labels":{"a":"b"},"startsAt":"2026-11-27 10:00:01"}]`, "is not valid date-time"},
		{"no URI", `[{"labels":{"a":"b"},"generatorURL":"a b"}]`, "is not valid uri"},
		{"a property that there is not", `[{"labels":{"a":"b"},"starts":"2026-11-27T10:00:01Z"}]`, "starts"},
		{"no JSON", `[`, "EOF"},
	} {
		_, err := read(c.body)
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// TestAlertmanager: an alert fires, is told again while the violation is open, and is
// resolved when it is not; all under the same labels.
func TestAlertmanager(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, nil)
	read := postableAlerts(t)
	c, _, err := w.Create(t.Context(), admin, odometer.Channel{Name: "am", Kind: odometer.ChannelAlertmanager, URL: r.URL + "/prefix", Enabled: true}, Secrets{Bearer: "b3arer"}, odometer.Once{})
	if err != nil {
		t.Fatal(err)
	}
	begin := w.now()
	v := violation("vm-1", 1, c.ID)
	sum := violation("", 2, c.ID)
	sum.Sum, sum.Owner = true, odometer.Owner{Org: "acme"}
	w.log.add(v, sum)
	w.goOn(10*time.Minute + 7*time.Second) // at no moment at which one that fires would end
	v.Standing, v.Change, v.Changed = odometer.StandingRecovered, 2, w.now().UnixMicro()
	w.log.add(v)
	w.goOn(10 * time.Minute)
	var firing, resolved, total int
	var labels string
	last := begin
	for _, g := range r.requests() {
		if g.path != "/prefix/api/v2/alerts" || g.header.Get("Authorization") != "Bearer b3arer" || g.header.Get("Content-Type") != "application/json" {
			t.Errorf("got %s, %v", g.path, g.header)
		}
		list, err := read(g.body)
		if err != nil {
			t.Fatalf("got %s: %v", g.body, err)
		}
		for _, a := range list {
			total++
			if a.Labels["violation"] != string(v.ID) {
				continue
			}
			if key := fmt.Sprint(a.Labels); labels == "" {
				labels = key
			} else if key != labels {
				t.Errorf("got the labels %s and %s, want the same", key, labels)
			}
			ends, _ := time.Parse(time.RFC3339Nano, a.EndsAt)
			if ends.Equal(time.UnixMicro(v.Changed)) {
				resolved++
				continue
			}
			if resolved > 0 {
				t.Errorf("it fires again after it was resolved, until %v", ends)
			}
			if gap := ends.Sub(last); gap <= 0 {
				t.Errorf("it ended at %v, before it was told again", last)
			}
			last = ends
			firing++
		}
	}
	if firing < 10 || firing > 12 || resolved != 1 {
		t.Errorf("got it firing %d times in ten minutes and resolved %d times, want once a minute and once", firing, resolved)
	}
	if want := begin.Add(10 * time.Minute); last.Before(want) {
		t.Errorf("it would have ended at %v while it was open", last)
	}
	if total < 30 {
		t.Errorf("got %d alerts, want the sum's to go on", total)
	}
}
