package odometer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"github.com/cloudevents/sdk-go/v2/binding/spec"
	"github.com/cloudevents/sdk-go/v2/event"
	"github.com/cloudevents/sdk-go/v2/types"
)

// fromHeader reads binary mode with the library's own table of attributes.
// Over HTTP the content type is a header by itself.
func fromHeader(t *testing.T, header map[string][]string, data []byte) event.Event {
	t.Helper()
	version := spec.WithPrefix("ce-").Version("1.0")
	context := version.NewContext()
	for name, values := range header {
		attribute := version.Attribute(name)
		if name == "Content-Type" {
			attribute = version.AttributeFromKind(spec.DataContentType)
		}
		if attribute == nil || len(values) != 1 {
			t.Fatalf("header %s: got %q, want one value of a known attribute", name, values)
		}
		if err := attribute.Set(context, values[0]); err != nil {
			t.Fatalf("header %s: %v", name, err)
		}
	}
	return event.Event{Context: context, DataEncoded: data}
}

// toHeader is the way back.
func toHeader(t *testing.T, e event.Event) http.Header {
	t.Helper()
	h := http.Header{}
	for _, attribute := range spec.WithPrefix("ce-").Version("1.0").Attributes() {
		value := attribute.Get(e.Context)
		if value == nil {
			continue
		}
		text, err := types.Format(value)
		if err != nil {
			t.Fatal(err)
		}
		if attribute.Kind() == spec.DataContentType {
			h.Set("Content-Type", text)
		} else {
			h.Set(attribute.PrefixedName(), text)
		}
	}
	return h
}

// conforms checks what the CloudEvents project's own library read.
func conforms(t *testing.T, got event.Event, want CloudEvent) {
	t.Helper()
	if err := got.Validate(); err != nil {
		t.Errorf("the library refuses it: %v", err)
	}
	if got.SpecVersion() != "1.0" || got.ID() != want.ID || got.Source() != want.Source || got.Type() != CloudEventType ||
		got.Subject() != want.Subject || !got.Time().Equal(want.Time) || got.DataContentType() != ContentJSON || !bytes.Equal(got.Data(), want.Data) {
		t.Errorf("the library reads\n%v\nwant\n%+v", got, want)
	}
}

// cloudEvents returns each golden event and entry as a CloudEvent.
func cloudEvents(t testing.TB) map[string]CloudEvent {
	all := make(map[string]CloudEvent)
	for _, name := range goldens(t, "event") {
		all[name] = goldenEvent(t, name).CloudEvent()
	}
	for _, name := range goldens(t, "entry") {
		e, err := DecodeEntry(golden(t, name))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = e.CloudEvent()
	}
	return all
}

func TestCloudEventsNameWhatTheyCarry(t *testing.T) {
	all := cloudEvents(t)
	for name, want := range map[string]string{
		"event-1.1.json": "vm-7/f9e61b06f1e646dd9803ea4774010dd8/42 //odometer/host-12 vm-7 2025-11-23T07:00:30Z",
		"event-1.0.json": "vm-9/1763881200-1763881230 //odometer/ vm-9 2025-11-23T07:00:30Z",
		"entry-1.1.json": "17-4211 //odometer/host-12 vm-7 2025-11-23T07:01:00Z",
	} {
		c := all[name]
		if got := strings.Join([]string{c.ID, c.Source, c.Subject, c.Time.Format("2006-01-02T15:04:05.999999999Z07:00")}, " "); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
	e := Event{Version: Version10, Instance: "vm", Source: "/elsewhere"}
	if got := e.CloudEvent().Source; got != "/elsewhere" {
		t.Errorf("an event from elsewhere: got source %q, want its own", got)
	}
	e = Event{Agent: "hôst%?#", Epoch: spoolID}
	if got, want := e.CloudEvent().Source, "//odometer/h%C3%B4st%25%3F%23"; got != want {
		t.Errorf("an agent with characters of its own in a URI: got %s, want %s", got, want)
	}
}

func TestTheLibraryOfCloudEventsReadsEveryModeAsMeant(t *testing.T) {
	var batch []CloudEvent
	for name, c := range cloudEvents(t) {
		var structured event.Event
		if err := json.Unmarshal(c.AppendJSON(nil), &structured); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		conforms(t, structured, c)

		conforms(t, fromHeader(t, c.HTTPHeader(), c.Data), c)
		conforms(t, fromHeader(t, c.NATSHeader(), c.Data), c)
		batch = append(batch, c)
	}
	var events []event.Event
	if err := json.Unmarshal(AppendCloudBatch(nil, batch), &events); err != nil || len(events) != len(batch) {
		t.Fatalf("got %d events, %v, want %d", len(events), err, len(batch))
	}
	for i := range events {
		conforms(t, events[i], batch[i])
	}
}

func TestWhatTheLibraryOfCloudEventsWritesIsReadInEveryMode(t *testing.T) {
	want := goldenEvent(t, "event-1.1.json")
	want.Source = "/elsewhere?a=b"
	e := event.New()
	e.SetID("any-id")
	e.SetSource(want.Source)
	e.SetType(CloudEventType)
	e.SetSubject("ü")
	e.SetExtension("traceparent", "00-1")
	e.SetTime(want.CloudEvent().Time)
	if err := e.SetData(ContentJSON, json.RawMessage(golden(t, "event-1.1.json"))); err != nil {
		t.Fatal(err)
	}
	encode := func(v any) []byte {
		text, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	for _, mode := range []struct {
		name   string
		header http.Header
		body   []byte
		items  int
	}{
		{"binary", toHeader(t, e), e.Data(), 1},
		{"structured", http.Header{"Content-Type": {ContentCloudEvent}}, encode(e), 1},
		{"batch", http.Header{"Content-Type": {ContentCloudBatch}}, encode([]event.Event{e, e}), 2},
	} {
		items, err := ReadCloudHTTP(mode.header, mode.body)
		if err != nil || len(items) != mode.items {
			t.Fatalf("%s: got %d items, %v", mode.name, len(items), err)
		}
		for _, it := range items {
			if it.Err != nil || !reflect.DeepEqual(it.Event, want) || it.ID != "any-id" || it.Subject != "ü" {
				t.Errorf("%s: got %+v\nwant %+v", mode.name, it, want)
			}
		}
	}
}

func TestCloudEventsSurviveHTTPAndNATS(t *testing.T) {
	e := typical()
	e.Instance = "vm-ü%41"
	e.Agent = "höst"
	c := e.CloudEvent()
	want := *e
	want.Source = c.Source
	h := c.HTTPHeader()
	if got, want := h["Ce-Subject"], []string{"vm-%C3%BC%2541"}; !reflect.DeepEqual(got, want) {
		t.Errorf("subject over HTTP: got %q, want %q", got, want)
	}
	if got := h["Ce-Datacontenttype"]; got != nil || h["Content-Type"][0] != ContentJSON {
		t.Errorf("over HTTP the content type is the header's own: got %q", h)
	}
	items, err := ReadCloudHTTP(h, c.Data)
	if err != nil {
		t.Fatal(err)
	}
	n := c.NATSHeader()
	if got := n["ce-datacontenttype"]; len(got) != 1 || got[0] != ContentJSON || n["Content-Type"] != nil {
		t.Errorf("over NATS the content type is an attribute: got %q", n)
	}
	items = append(items, ReadCloudNATS(n, c.Data), ReadCloudNATS(map[string][]string{"content-type": {ContentCloudEvent}}, c.AppendJSON(nil)))
	for i, it := range items {
		if it.Err != nil || !reflect.DeepEqual(it.Event, &want) || !reflect.DeepEqual(it.CloudEvent, c) {
			t.Errorf("%d: got %+v, %v\nwant %+v", i, it.CloudEvent, it.Err, c)
		}
	}
}

func TestDataInBase64IsTheSame(t *testing.T) {
	c := goldenEvent(t, "event-1.1.json").CloudEvent()
	text := strings.Replace(string(c.AppendJSON(nil)), `"data":`+string(c.Data), `"data_base64":"`+base64.StdEncoding.EncodeToString(c.Data)+`"`, 1)
	items, err := ReadCloudHTTP(http.Header{"Content-Type": {"Application/CloudEvents+JSON; charset=UTF-8"}}, []byte(text))
	if err != nil || len(items) != 1 || items[0].Err != nil || !bytes.Equal(items[0].Data, c.Data) {
		t.Fatalf("got %+v, %v", items, err)
	}
}

func TestQuotedHeadersAreRead(t *testing.T) {
	c := goldenEvent(t, "event-1.1.json").CloudEvent()
	h := http.Header(c.HTTPHeader())
	h.Set("Ce-Subject", `"Euro \"%E2%82%AC\""`)
	items, err := ReadCloudHTTP(h, c.Data)
	if err != nil || items[0].Err != nil || items[0].Subject != `Euro "€"` {
		t.Errorf("got %+v, %v", items, err)
	}
}

func TestABadItemSpoilsNoOtherOfItsBatch(t *testing.T) {
	good := goldenEvent(t, "event-1.1.json").CloudEvent()
	line := string(good.AppendJSON(nil))
	replaced := func(old, new string) string {
		if !strings.Contains(line, old) {
			t.Fatalf("%s is not in %s", old, line)
		}
		return strings.Replace(line, old, new, 1)
	}
	rows := []struct{ name, item, want string }{
		{"a good one", line, ""},
		{"a number", `3`, "'3' where an object is due"},
		{"an empty object", `{}`, "specversion is missing"},
		{"a mistake within its own brackets", `{"specversion":"1.0" oops}`, "'o' where a comma"},
		{"another version of CloudEvents", replaced(`"specversion":"1.0"`, `"specversion":"0.3"`), `specversion: "0.3" where "1.0" is due`},
		{"another type: the data says what it is", replaced(CloudEventType, "com.example.thing"), ""},
		{"no id", replaced(`"id":"vm-7/f9e61b06f1e646dd9803ea4774010dd8/42","source"`, `"source"`), "id is missing"},
		{"an empty id", replaced(`"id":"vm-7/f9e61b06f1e646dd9803ea4774010dd8/42","source"`, `"id":"","source"`), "id is empty"},
		{"a source that is no URI", replaced(`//odometer/host-12`, `%zz`), `source: "%zz" is no URI reference`},
		{"a source that is too long", replaced(`//odometer/host-12`, strings.Repeat("x", 1025)), "source: 1025 bytes long"},
		{"a time that is none", replaced(`2025-11-23T07:00:30Z`, `yesterday`), `time: "yesterday" is no time of RFC 3339`},
		{"an attribute of the wrong kind", replaced(`"subject":"vm-7"`, `"subject":7`), "subject: a number where a string is due"},
		{"an attribute that stands twice", replaced(`"subject"`, `"id":"x","subject"`), "id: stands twice"},
		{"an attribute in another case", replaced(`"subject"`, `"Subject"`), `Subject: is spelt "subject"`},
		{"data of another kind", replaced(`"application/json"`, `"text/xml"`), `datacontenttype: "text/xml" where application/json is due`},
		{"no data", replaced(`"data":{`, `"payload":{`), "data is missing"},
		{"null for data", `{"specversion":"1.0","id":"1","source":"s","type":"org.odometer.usage.v1","data":null}`, "data is missing"},
		{"both kinds of data", replaced(`"data":{`, `"data_base64":"e30=","data":{`), "the data stands there already"},
		{"data that is not base64", `{"specversion":"1.0","id":"1","source":"s","type":"org.odometer.usage.v1","data_base64":"!"}`, "data_base64: not base64"},
		{"data that is no usage event", `{"specversion":"1.0","id":"1","source":"s","type":"org.odometer.usage.v1","data":{"version":"2.0"}}`, "version not supported"},
		{"data that is no JSON", `{"specversion":"1.0","id":"1","source":"s","type":"org.odometer.usage.v1","data":{a}}`, "event: 'a' where the name of a member is due"},
		{"null for an optional attribute", replaced(`"subject":"vm-7"`, `"subject":null`), ""},
	}
	var body []string
	for _, r := range rows {
		body = append(body, r.item)
	}
	h := http.Header{"Content-Type": {ContentCloudBatch}}
	items, err := ReadCloudHTTP(h, []byte(" [ "+strings.Join(body, " ,\n")+" ] "))
	if err != nil || len(items) != len(rows) {
		t.Fatalf("got %d items, %v, want %d", len(items), err, len(rows))
	}
	for i, r := range rows {
		it := items[i]
		switch {
		case r.want == "" && (it.Err != nil || it.Event == nil):
			t.Errorf("%s: got %v, want accepted", r.name, it.Err)
		case r.want != "" && (!errors.Is(it.Err, ErrInvalid) || it.Event != nil || !strings.Contains(it.Err.Error(), r.want)):
			t.Errorf("%s: got %v, want %s", r.name, it.Err, r.want)
		}
	}
	if items, err := ReadCloudHTTP(h, []byte("[]")); err != nil || len(items) != 0 {
		t.Errorf("an empty batch: got %v, %v, want none", items, err)
	}
}

func TestRequestsWithoutTellableItemsAreRefused(t *testing.T) {
	for _, c := range []struct{ name, content, body, want string }{
		{"no content type", "", "{}", "content type"},
		{"another content type", "text/plain", "{}", "send application/cloudevents+json"},
		{"JSON without the headers of CloudEvents", ContentJSON, "{}", "with ce- headers"},
		{"another format of CloudEvents", "application/cloudevents+avro", "{}", "send application/cloudevents+json"},
		{"another charset", ContentCloudEvent + "; charset=latin1", "{}", "only utf-8 is understood"},
		{"a batch that is no array", ContentCloudBatch, "{}", "'{' where an array is due"},
		{"a batch that does not end", ContentCloudBatch, "[{},", "the text ends"},
		{"a batch whose item does not end", ContentCloudBatch, `[{},{"a":"]}`, "item 1: the event does not end"},
		{"a batch without commas", ContentCloudBatch, "[{}{}]", "where a comma or a closing bracket is due"},
		{"something behind a batch", ContentCloudBatch, "[{}] {}", "trailing data"},
		{"something behind an empty batch", ContentCloudBatch, "[] {}", "trailing data"},
	} {
		h := http.Header{}
		if c.content != "" {
			h.Set("Content-Type", c.content)
		}
		items, err := ReadCloudHTTP(h, []byte(c.body))
		if items != nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, %v, want %s", c.name, items, err, c.want)
		}
	}
}

func TestBinaryHeadersAreRefusedWithTheReason(t *testing.T) {
	good := goldenEvent(t, "event-1.1.json").CloudEvent()
	for _, c := range []struct {
		name   string
		change func(h http.Header)
		want   string
	}{
		{"no type", func(h http.Header) { h.Del("ce-type") }, "ce-type is missing"},
		{"two ids", func(h http.Header) { h.Add("ce-id", "x") }, "ce-id: given 2 times"},
		{"an id that is badly encoded", func(h http.Header) { h.Set("ce-id", "%zz") }, "ce-id: is not percent-encoded"},
		{"an id that is not UTF-8", func(h http.Header) { h.Set("ce-id", "%ff") }, "ce-id: is not valid UTF-8"},
		{"another version", func(h http.Header) { h.Set("ce-specversion", "2.0") }, `ce-specversion: "2.0"`},
		{"no source and a time that is none", func(h http.Header) { h.Del("ce-source"); h.Set("ce-time", "now") }, "ce-source is missing"},
	} {
		h := http.Header(good.HTTPHeader())
		c.change(h)
		items, err := ReadCloudHTTP(h, good.Data)
		if err != nil || len(items) != 1 || !errors.Is(items[0].Err, ErrInvalid) || !strings.Contains(items[0].Err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v, want %s", c.name, items, err, c.want)
		}
	}
	items, err := ReadCloudHTTP(good.HTTPHeader(), nil)
	if err != nil || !strings.Contains(items[0].Err.Error(), "data is missing") {
		t.Errorf("no body: got %+v, %v", items, err)
	}
	n := good.NATSHeader()
	n["ce-datacontenttype"] = []string{"text/xml"}
	if it := ReadCloudNATS(n, good.Data); !errors.Is(it.Err, ErrInvalid) || !strings.Contains(it.Err.Error(), "ce-datacontenttype") {
		t.Errorf("NATS: got %v, want refused for its content type", it.Err)
	}
}
