package odometer

import (
	"bytes"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// golden returns a file of testdata on one line, its members in their order.
func golden(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	var line bytes.Buffer
	if err := json.Compact(&line, text); err != nil {
		t.Fatal(err)
	}
	return line.Bytes()
}

// goldens returns the names of the golden files that begin with prefix.
func goldens(t testing.TB, prefix string) []string {
	t.Helper()
	names, err := fs.Glob(os.DirFS("testdata"), prefix+"*.json")
	if err != nil || len(names) < 3 {
		t.Fatalf("got golden files %v, %v, want three or more", names, err)
	}
	return names
}

func goldenEvent(t testing.TB, name string) *Event {
	t.Helper()
	e, err := DecodeEvent(golden(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestGoldenEventsSurviveDecodingAndEncoding(t *testing.T) {
	for _, name := range goldens(t, "event") {
		want := golden(t, name)
		e, err := DecodeEvent(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := e.AppendJSON(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: got  %s\nwant %s", name, got, want)
		}
		if err := e.Check(); err != nil {
			t.Errorf("%s: Check: %v", name, err)
		}
	}
}

func TestGoldenEntriesSurviveDecodingAndEncoding(t *testing.T) {
	for _, name := range goldens(t, "entry") {
		want := golden(t, name)
		e, err := DecodeEntry(want)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := e.AppendJSON(nil); !bytes.Equal(got, want) {
			t.Errorf("%s: got  %s\nwant %s", name, got, want)
		}
	}
}

func TestAGoldenEventMeansWhatItSays(t *testing.T) {
	e := goldenEvent(t, "event-1.7-final.json")
	if got, want := e.Owner, (Owner{User: Unassigned}); got != want {
		t.Errorf("owner: got %v, want %v", got, want)
	}
	if got, want := e.Usage.Vector[NetworkEgress], int64(1<<60); got != want {
		t.Errorf("an integer in a string: got %d, want %d", got, want)
	}
	if !e.Usage.Known.Has(GPU) || e.Usage.Known.Has(Quantity(31)) || !e.Final || e.Version != "1.7" || e.Span.Step != 970000000 {
		t.Errorf("got %+v", e)
	}
	var extra []string
	for _, m := range e.Extra {
		extra = append(extra, m.In+"|"+m.Name+"="+string(m.Value))
	}
	want := []string{
		"metrics|power_kwh=0.25", "period|zone=\"UTC\"", "span|source=\"boot clock\"", "usage|power_uj=\"9007199254740993\"",
		"readings.end|power_uj=[1,2.5]", "readings|unit=null", "|labels={\"rack\":\"ü-7\",\"slots\":[1,{\"a\":null}]}", "|x=1e-07",
	}
	if !reflect.DeepEqual(extra, want) {
		t.Errorf("unknown members: got  %q\nwant %q", extra, want)
	}

	old := goldenEvent(t, "event-1.0.json")
	if old.Integral() || old.Quality != Measured || old.ID() != "vm-9/1763881200-1763881230" || old.Agent != "" {
		t.Errorf("version 1.0: got %+v", old)
	}
	if goldenEvent(t, "event-1.1-next.json").Usage.Known.Has(GPU) {
		t.Error("GPU time is absent in the golden event: got known, want unknown")
	}
}

// What the meter would write from the integers is what stands in the file.
func TestGoldenMetricsFollowFromTheIntegers(t *testing.T) {
	for _, name := range []string{"event-1.1.json", "event-1.1-next.json", "event-1.7-final.json"} {
		e := goldenEvent(t, name)
		want := *e
		e.Metrics, e.Period, e.Timestamp = Metrics{}, Period{}, 0
		e.Derive(0, 0)
		if e.Metrics != want.Metrics || e.Period != want.Period || e.Timestamp != want.Timestamp {
			t.Errorf("%s: got  %+v %+v %d\nwant %+v %+v %d", name, e.Metrics, e.Period, e.Timestamp, want.Metrics, want.Period, want.Timestamp)
		}
	}
}

func TestAnEntryOfVersion10CarriesItsIntegers(t *testing.T) {
	e := goldenEvent(t, "event-1.0.json")
	u, span, err := UsageOf10(e)
	if err != nil {
		t.Fatal(err)
	}
	e.Usage, e.Span = u, span
	entry := Entry{ID: EntryID{0, 7}, Kind: KindUsage, SourceEventID: e.ID(), BookedAt: 1763881231000000, Event: *e}
	if got, want := string(entry.AppendJSON(nil)), string(golden(t, "entry-1.0.json")); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestAnEntryLeavesOutMembersThatClashWithItsOwn(t *testing.T) {
	text := strings.Replace(string(golden(t, "event-1.0.json")), `"period"`,
		`"id":7,"entry_id":"x","Kind":1,"colour":"red","agent_id":null,"quality":"good","final":9,"period"`, 1)
	e, err := DecodeEvent([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := len(e.Extra), 7; got != want {
		t.Fatalf("got %d unknown members, want %d: %+v", got, want, e.Extra)
	}
	if again, err := DecodeEvent(e.AppendJSON(nil)); err != nil || !reflect.DeepEqual(e, again) {
		t.Errorf("decoded again: got %+v, %v, want %+v", again, err, e)
	}
	e.Usage, e.Span, err = UsageOf10(e)
	if err != nil {
		t.Fatal(err)
	}
	entry := Entry{ID: EntryID{1, 2}, Kind: KindUsage, SourceEventID: e.ID(), Event: *e}
	line := entry.AppendJSON(nil)
	back, err := DecodeEntry(line)
	if err != nil {
		t.Fatalf("%v\n%s", err, line)
	}
	if len(back.Event.Extra) != 1 || back.Event.Extra[0].Name != "colour" {
		t.Errorf("got %+v, want colour alone", back.Event.Extra)
	}
}

// compile returns the two published schemas.
func compile(t testing.TB) (event, entry *jsonschema.Schema) {
	t.Helper()
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	for name, text := range map[string][]byte{"event-1.1.json": EventSchema(), "entry-1.1.json": EntrySchema()} {
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := doc.(map[string]any)["$schema"], "https://json-schema.org/draft/2020-12/schema"; got != want {
			t.Errorf("%s: $schema: got %v, want %v", name, got, want)
		}
		if err := c.AddResource("https://example.org/odometer/schema/"+name, doc); err != nil {
			t.Fatal(err)
		}
	}
	return c.MustCompile("https://example.org/odometer/schema/event-1.1.json"), c.MustCompile("https://example.org/odometer/schema/entry-1.1.json")
}

func validate(s *jsonschema.Schema, text []byte) error {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

func TestGoldenFilesFollowThePublishedSchemas(t *testing.T) {
	event, entry := compile(t)
	for _, name := range goldens(t, "event") {
		if err := validate(event, golden(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range goldens(t, "entry") {
		if err := validate(entry, golden(t, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		var members map[string]any
		if err := json.Unmarshal(golden(t, name), &members); err != nil {
			t.Fatal(err)
		}
		delete(members, "entry_id")
		text, err := json.Marshal(members)
		if err != nil {
			t.Fatal(err)
		}
		if validate(entry, text) == nil {
			t.Errorf("%s without entry_id: got valid, want refused", name)
		}
	}
	if err := validate(event, typical().AppendJSON(nil)); err != nil {
		t.Error(err)
	}
}

func TestTheSchemaNamesEveryMember(t *testing.T) {
	var s struct {
		Properties map[string]any
		Then       struct{ Properties map[string]any }
		Defs       map[string]struct{ Properties map[string]any } `json:"$defs"`
	}
	if err := json.Unmarshal(EventSchema(), &s); err != nil {
		t.Fatal(err)
	}
	for _, n := range eventNames[:mEntryID] {
		if s.Properties[n] == nil && s.Then.Properties[n] == nil {
			t.Errorf("%s is not in the schema", n)
		}
	}
	for object, names := range map[string][]string{"metrics": metricNames, "period": periodNames, "span": spanNames, "usage": quantityNames[:]} {
		for _, n := range names {
			if s.Defs[object].Properties[n] == nil {
				t.Errorf("%s.%s is not in the schema", object, n)
			}
		}
	}
	var entry struct{ Properties map[string]any }
	if err := json.Unmarshal(EntrySchema(), &entry); err != nil {
		t.Fatal(err)
	}
	for _, n := range eventNames {
		if entry.Properties[n] == nil {
			t.Errorf("%s is not in the schema of entries", n)
		}
	}
}
