package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"example.org/odometer"
)

// body returns a CloudEvent whose data is text, with members replaced.
func body(data string, change map[string]string) string {
	members := map[string]json.RawMessage{
		"specversion": json.RawMessage(`"1.0"`), "id": json.RawMessage(`"1"`), "source": json.RawMessage(`"/h"`), "type": json.RawMessage(`"org.odometer.usage.v1"`),
	}
	if data != "" {
		members["data"] = json.RawMessage(data)
	}
	for name, value := range change {
		if value == "" {
			delete(members, name)
		} else {
			members[name] = json.RawMessage(value)
		}
	}
	b, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// post hands in a body as the admin.
func post(h http.Handler, contentType, body string, headers ...string) *httptest.ResponseRecorder {
	return send(h, "POST", "/api/v1/events", body, append([]string{"Authorization", "Bearer secret", "Content-Type", contentType}, headers...)...)
}

func TestThreeModesAreOneEvent(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	e := SampleEvent("vm-1", 1, odometer.Owner{User: "ada"})
	data := string(e.AppendJSON(nil))
	for i, c := range []struct {
		name, contentType, body string
		headers                 []string
	}{
		{"structured", "application/cloudevents+json", body(data, nil), nil},
		{"structured, in capitals and with a charset", "Application/CloudEvents+JSON; charset=UTF-8", body(data, nil), nil},
		{"structured, as base64", odometer.ContentCloudEvent, body("", map[string]string{"data_base64": `"` + base64.StdEncoding.EncodeToString([]byte(data)) + `"`}), nil},
		{"structured, with the data's type and an extension", odometer.ContentCloudEvent, body(data, map[string]string{"datacontenttype": `"application/json"`, "partitionkey": `"x"`}), nil},
		{"batch", odometer.ContentCloudBatch, "[" + body(data, nil) + "]", nil},
		{"binary", "application/json", data, []string{"ce-specversion", "1.0", "ce-id", "1", "ce-source", "/h%20x", "ce-type", odometer.CloudEventType}},
		{"binary, of a type of JSON", "application/vnd.x+json", " " + data + "\n", []string{"CE-SpecVersion", "1.0", "CE-ID", "1", "CE-Source", "/h", "CE-Type", odometer.CloudEventType}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := post(h, c.contentType, c.body, c.headers...)
			var got Submitted
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil || w.Code != 200 || len(got.Results) != 1 {
				t.Fatalf("got %d %s, want one result", w.Code, w.Body)
			}
			want := "duplicate"
			if i == 0 {
				want = "accepted"
			}
			if r := got.Results[0]; r.Status != want || r.EventID != e.ID() {
				t.Errorf("got %+v, want %s %s", r, e.ID(), want)
			}
		})
	}
	if len(f.entries) != 1 {
		t.Errorf("got %d entries, want 1", len(f.entries))
	}
}

func TestSourceOfTheEnvelopeReachesTheLedger(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	v10 := `{"event_type":"resource_usage","version":"1.0","timestamp":1763881230,"instance_id":"vm-7","user_id":"u","org_id":null,` +
		`"metrics":{"cpu_seconds":12,"cpu_percent_avg":40.2,"memory_gb":1.5,"memory_percent":37.5,"storage_gb":20.0,"network_egress_mb":1.25,"network_ingress_mb":0.5,"gpu_seconds":0},` +
		`"period":{"start":1763881200,"end":1763881230}}`
	if w := post(h, "application/json", v10, "ce-specversion", "1.0", "ce-id", "1", "ce-source", "/host%2012", "ce-type", odometer.CloudEventType); w.Code != 200 {
		t.Fatalf("got %d %s, want 200", w.Code, w.Body)
	}
	if got := f.entries[0].Event.Source; got != "/host 12" {
		t.Errorf("got source %q, want the decoded %q", got, "/host 12")
	}
}

func TestRequestsThatAreRefusedAsAWhole(t *testing.T) {
	e := SampleEvent("vm-1", 1, odometer.Owner{})
	data := string(e.AppendJSON(nil))
	good := body(data, nil)
	binary := []string{"ce-specversion", "1.0", "ce-id", "1", "ce-source", "/h", "ce-type", odometer.CloudEventType}
	long := `{"event_type":"` + strings.Repeat("x", odometer.MaxEventBytes) + `"}`
	for _, c := range []struct {
		name, contentType, body string
		headers                 []string
		status                  int
		names                   string // of the faults
	}{
		{"no content type", "", good, nil, 415, ""},
		{"a content type that is none", "a/b/c", good, nil, 415, ""},
		{"another content type", "text/plain", good, nil, 415, ""},
		{"another format of CloudEvents", "application/cloudevents+avro", good, nil, 415, ""},
		{"another charset", odometer.ContentCloudEvent + "; charset=latin1", good, nil, 415, ""},
		{"compressed", odometer.ContentCloudEvent, good, []string{"Content-Encoding", "gzip"}, 415, ""},
		{"nothing", odometer.ContentCloudEvent, "", nil, 400, "$"},
		{"no JSON", odometer.ContentCloudEvent, "{", nil, 400, "$"},
		{"no object", odometer.ContentCloudEvent, "[]", nil, 400, "$"},
		{"something behind it", odometer.ContentCloudEvent, good + "{}", nil, 400, "$"},
		{"a member that is there twice", odometer.ContentCloudEvent, strings.Replace(good, `"id":"1"`, `"id":"1","id":"2"`, 1), nil, 400, "$.id"},
		{"no attributes", odometer.ContentCloudEvent, "{}", nil, 400, "$.specversion $.id $.source $.type $.data"},
		{"attributes that are no strings", odometer.ContentCloudEvent, body(data, map[string]string{"id": "7", "source": "null", "type": "{}"}), nil, 400, "$.id $.source $.type"},
		{"empty attributes", odometer.ContentCloudEvent, body(data, map[string]string{"id": `""`, "type": `""`}), nil, 400, "$.id $.type"},
		{"another version of CloudEvents", odometer.ContentCloudEvent, body(data, map[string]string{"specversion": `"0.3"`}), nil, 400, "$.specversion"},
		{"a source that is no URI reference", odometer.ContentCloudEvent, body(data, map[string]string{"source": `"%zz"`}), nil, 400, "$.source"},
		{"an id that is too long", odometer.ContentCloudEvent, body(data, map[string]string{"id": `"` + strings.Repeat("x", 1025) + `"`}), nil, 400, "$.id"},
		{"data of another type", odometer.ContentCloudEvent, body(data, map[string]string{"datacontenttype": `"text/xml"`}), nil, 400, "$.datacontenttype"},
		{"data twice", odometer.ContentCloudEvent, body(data, map[string]string{"data_base64": `"e30="`}), nil, 400, "$.data_base64"},
		{"base64 that is none", odometer.ContentCloudEvent, body("", map[string]string{"data_base64": `"?"`}), nil, 400, "$.data_base64"},
		{"base64 of no JSON", odometer.ContentCloudEvent, body("", map[string]string{"data_base64": `"eA=="`}), nil, 400, "$"},
		{"base64 that is no string", odometer.ContentCloudEvent, body("", map[string]string{"data_base64": `1`}), nil, 400, "$.data_base64"},
		{"a batch that is no array", odometer.ContentCloudBatch, good, nil, 400, "$"},
		{"a batch of null", odometer.ContentCloudBatch, "null", nil, 400, "$"},
		{"one bad CloudEvent spoils the batch, since nobody knows what it was", odometer.ContentCloudBatch, "[" + good + `,{"specversion":"1.0"},3]`, nil, 400, "$[1].id $[1].source $[1].type $[1].data $[2]"},
		{"a batch of too many", odometer.ContentCloudBatch, "[" + strings.Repeat("0,", MaxBatch) + "0]", nil, 413, ""},
		{"binary without headers", "application/json", data, nil, 400, "ce-specversion ce-id ce-source ce-type"},
		{"binary with a header twice", "application/json", data, append([]string{"ce-id", "2"}, binary...), 400, "ce-id"},
		{"binary with a header that is badly encoded", "application/json", data, []string{"ce-specversion", "1.0", "ce-id", "%z", "ce-source", "/h", "ce-type", odometer.CloudEventType}, 400, "ce-id"},
		{"binary without JSON", "application/json", "{", binary, 400, "$"},
		{"an event that is too large", "application/json", long, binary, 413, ""},
		{"an event that is too large in a batch", odometer.ContentCloudBatch, "[" + good + "," + body(long, nil) + "]", nil, 413, ""},
		{"a body that is too large", odometer.ContentCloudBatch, "[" + strings.Repeat(" ", MaxBodyBytes) + "]", nil, 413, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewFixture(t)
			w := post(serverOf(t, f.Deps), c.contentType, c.body, c.headers...)
			p := problem(t, w)
			var names []string
			for _, e := range p.Errors {
				names = append(names, e.Name)
			}
			if w.Code != c.status || strings.Join(names, " ") != c.names {
				t.Errorf("got %d with faults of %q, want %d of %q: %s", w.Code, names, c.status, c.names, w.Body)
			}
			if len(f.counts) != 0 {
				t.Errorf("got counts %v, want nothing received", f.counts)
			}
		})
	}
}

// endless is a body of unknown length that never ends and counts what is read.
type endless struct{ read int }

func (e *endless) Read(b []byte) (int, error) {
	e.read += len(b)
	return copy(b, bytes.Repeat([]byte{' '}, len(b))), nil
}

func TestBodyIsNotReadBeyondItsLimit(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	for _, declared := range []int64{-1, MaxBodyBytes + 1} {
		e := &endless{}
		r := httptest.NewRequest("POST", "/api/v1/events", e)
		r.ContentLength = declared
		r.Header.Set("Authorization", "Bearer secret")
		r.Header.Set("Content-Type", odometer.ContentCloudBatch)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		most := 2 * MaxBodyBytes
		if declared > 0 {
			most = 0
		}
		if w.Code != 413 || e.read > most {
			t.Errorf("declared %d: got %d after reading %d bytes, want 413 after at most %d", declared, w.Code, e.read, most)
		}
		problem(t, w)
	}
}

// torn is a body that breaks off.
type torn struct{}

func (torn) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

func TestBodyThatBreaksOff(t *testing.T) {
	f := NewFixture(t)
	r := httptest.NewRequest("POST", "/api/v1/events", torn{})
	r.Header.Set("Authorization", "Bearer secret")
	r.Header.Set("Content-Type", odometer.ContentCloudBatch)
	w := httptest.NewRecorder()
	serverOf(t, f.Deps).ServeHTTP(w, r)
	if p := problem(t, w); w.Code != 400 || len(p.Errors) != 1 || len(f.counts) != 0 {
		t.Errorf("got %d %+v, want 400 and nothing received", w.Code, p)
	}
}

func TestEventThatCannotBeReadGoesToQuarantine(t *testing.T) {
	f := NewFixture(t)
	w := post(serverOf(t, f.Deps), odometer.ContentCloudEvent, body(`{"event_type":"resource_usage","version":"2.0"}`, nil))
	p := problem(t, w)
	if w.Code != 422 || p.Code != "events_refused" || p.Submitted == nil || p.Refused != 1 || len(p.Results) != 1 || p.Results[0].Detail == "" {
		t.Fatalf("got %d %s, want 422 with the event's fate", w.Code, w.Body)
	}
	items, _ := f.Quarantine(t.Context(), 10)
	if len(items) != 1 || string(items[0].Event) != `{"event_type":"resource_usage","version":"2.0"}` {
		t.Errorf("got %+v in quarantine, want the event as it came", items)
	}
}

func TestEmptyBatchIsNoEvents(t *testing.T) {
	f := NewFixture(t)
	f.Fails = odometer.ErrUnavailable // and the ledger is not troubled
	w := post(serverOf(t, f.Deps), odometer.ContentCloudBatch, " [ ] ")
	if got := strings.TrimSpace(w.Body.String()); w.Code != 200 || got != `{"results":[],"accepted":0,"duplicate":0,"refused":0}` {
		t.Errorf("got %d %s, want 200 and no results", w.Code, got)
	}
}

func TestElementsOfABatchAreCountedBeforeTheyAreRead(t *testing.T) {
	for text, want := range map[string]int{
		`[]`: 1, `[1]`: 1, `[1,2,3]`: 3, `[[1,2],{"a":1,"b":2}]`: 2, `[",",",\",["]`: 2, `[{"a,":"[,"},0]`: 2, `["\\",1]`: 2, `"`: 1, `\`: 1, ``: 1,
	} {
		if got := elements([]byte(text)); got != want {
			t.Errorf("%s: got %d, want %d", text, got, want)
		}
	}
}

func TestEveryOutcomeHasItsAnswer(t *testing.T) {
	for _, outcome := range odometer.Outcomes {
		if statusOf[outcome] == "" {
			t.Errorf("outcome %s has no answer", outcome)
		}
	}
}

// answering is a Submitter that gives an answer it must not give.
type answering []odometer.Result

func (a answering) Submit(_ context.Context, _ []odometer.Record) ([]odometer.Result, error) {
	return a, nil
}

func TestAnswerThatMakesNoSenseIsAFailure(t *testing.T) {
	e := SampleEvent("vm-1", 1, odometer.Owner{})
	for name, results := range map[string]answering{
		"too few results":    {},
		"an unknown outcome": {{EventID: "x", Outcome: "lost"}},
	} {
		t.Run(name, func(t *testing.T) {
			f := NewFixture(t)
			f.Deps.Submit = results
			if w := post(serverOf(t, f.Deps), odometer.ContentCloudEvent, string(Structured(&e))); w.Code != 500 {
				t.Errorf("got %d %s, want 500: never say that something was taken unless it was", w.Code, w.Body)
			}
		})
	}
}

func TestAnswerIsGivenOnlyAfterTheCommit(t *testing.T) {
	e := SampleEvent("vm-1", 1, odometer.Owner{})
	f := NewFixture(t)
	f.Fails = fmt.Errorf("commit: disk full: %w", odometer.ErrUnavailable)
	h := serverOf(t, f.Deps)
	w := post(h, odometer.ContentCloudEvent, string(Structured(&e)))
	if p := problem(t, w); w.Code != 503 || w.Header().Get("Retry-After") == "" || p.Submitted != nil {
		t.Errorf("got %d %s, want 503 with Retry-After and no result", w.Code, w.Body)
	}
	f.Fails = nil
	if w := post(h, odometer.ContentCloudEvent, string(Structured(&e))); w.Code != 200 || !strings.Contains(w.Body.String(), `"accepted":1`) {
		t.Errorf("again: got %d %s, want it accepted", w.Code, w.Body)
	}
}

func TestPagesOfEventsMeetWithoutGapOrOverlap(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	for n := range uint64(7) {
		e := SampleEvent("vm-1", n+1, odometer.Owner{})
		other := SampleEvent("vm-2", n+1, odometer.Owner{})
		post(h, odometer.ContentCloudBatch, fmt.Sprintf("[%s,%s]", Structured(&e), Structured(&other)))
	}
	var seen []uint64
	target := "/api/v1/events?instance=vm-1&limit=3"
	for pages := 0; target != ""; pages++ {
		if pages > 5 {
			t.Fatal("the pages do not end")
		}
		w := do(h, "GET", target)
		var page EventsAnswer
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || w.Code != 200 {
			t.Fatalf("got %d %s", w.Code, w.Body)
		}
		for _, raw := range page.Events {
			entry, err := odometer.DecodeEntry(raw)
			if err != nil {
				t.Fatal(err)
			}
			seen = append(seen, entry.Event.Sequence)
		}
		link := w.Header().Get("Link")
		if (link == "") != (page.Next == nil) || page.Cursor == "" {
			t.Errorf("got link %q, next %v, cursor %q, want link and next together and always a cursor", link, page.Next, page.Cursor)
		}
		target, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		if target != "" && (!strings.Contains(target, "instance=vm-1") || !strings.Contains(target, "limit=3")) {
			t.Errorf("got link %q, want the same question in it", link)
		}
	}
	if got, want := fmt.Sprint(seen), "[1 2 3 4 5 6 7]"; got != want {
		t.Errorf("got sequences %s, want %s", got, want)
	}
}

func TestEventsInATimeAndCursorsThatAreNone(t *testing.T) {
	h := serverOf(t, NewFixture(t).Deps)
	for _, c := range []struct{ name, query, fault string }{
		{"an end without a beginning is fine", "to=now", ""},
		{"a beginning without an end is fine", "from=-1h", ""},
		{"a time that runs backwards", "from=now&to=-1h", "to"},
		{"a limit of nothing", "limit=0", "limit"},
		{"a limit that is none", "limit=ten", "limit"},
		{"a limit above the most", "limit=1001", "limit"},
		{"a cursor that is endless", "after=" + strings.Repeat("x", maxCursor+1), "after"},
		{"an instance that is none", "instance=a%20b", "instance"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := do(h, "GET", "/api/v1/events?"+c.query)
			if c.fault == "" {
				if w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"events":[],"next":null,"cursor":""}` {
					t.Errorf("got %d %s, want an empty page", w.Code, w.Body)
				}
				return
			}
			if p := problem(t, w); w.Code != 400 || len(p.Errors) != 1 || p.Errors[0].Name != c.fault {
				t.Errorf("got %d %+v, want %s refused", w.Code, p, c.fault)
			}
		})
	}
	if w := do(h, "GET", "/api/v1/events?after=other"); w.Code != 400 {
		t.Errorf("a cursor of another ledger: got %d, want 400", w.Code)
	}
}

func TestCloudEventsAreSentOnlyWhenAskedForByName(t *testing.T) {
	for accept, want := range map[string]bool{
		"":                                   false,
		"*/*":                                false,
		"application/*":                      false,
		"application/json":                   false,
		"application/cloudevents-batch+json": true,
		"text/html, Application/CloudEvents-Batch+JSON;q=0.9": true,
		"application/cloudevents-batch+json;q=0":              false,
	} {
		if got := wantsCloudEvents([]string{accept}); got != want {
			t.Errorf("Accept %q: got %v, want %v", accept, got, want)
		}
	}
}

func FuzzReadRecords(f *testing.F) {
	e := SampleEvent("vm-1", 1, odometer.Owner{})
	good := string(Structured(&e))
	for _, contentType := range []string{odometer.ContentCloudEvent, odometer.ContentCloudBatch, "application/json", "text/plain"} {
		for _, text := range []string{good, "[" + good + "]", "", "{}", "[{}]", `{"data":1,"data":2}`, `[null]`, string(e.AppendJSON(nil)), body("", map[string]string{"data_base64": `"e30="`}), body(`{"event_type":"resource_usage"}`, nil)} {
			f.Add(contentType, text)
		}
	}
	f.Fuzz(func(t *testing.T, contentType, text string) {
		r := httptest.NewRequest("POST", "/", strings.NewReader(text))
		r.Header.Set("Content-Type", contentType)
		for name, value := range map[string]string{"specversion": "1.0", "id": "1", "source": "/h", "type": odometer.CloudEventType} {
			r.Header.Set("ce-"+name, value)
		}
		records, err := readRecords(r)
		if err != nil {
			if k := kindOf(err); k.status < 400 || k.status > 499 {
				t.Errorf("got %v with status %d, want one of 4xx", err, k.status)
			}
			return
		}
		for _, rec := range records {
			_, err := odometer.DecodeEvent(rec.Raw)
			if !json.Valid(rec.Raw) || (rec.Event == nil) != (rec.Err != nil) || (rec.Err == nil) != (err == nil) {
				t.Errorf("got event %v, error %v of %q, want what reading it again gives: %v", rec.Event, rec.Err, rec.Raw, err)
			}
		}
	})
}

func TestProblemOfOneOrMoreFaults(t *testing.T) {
	one := problemOf(join(nil, FieldError{"query", "a", "is wrong"}), "/x", "r")
	two := problemOf(join(FieldError{"query", "a", "is wrong"}, join(nil, FieldError{"body", "b", "is missing"})), "/x", "r")
	if one.Detail != "query a: is wrong" || len(one.Errors) != 1 || two.Detail != "2 things are wrong with the request" || len(two.Errors) != 2 || two.Status != 400 {
		t.Errorf("got %+v and %+v, want one named and two counted", one, two)
	}
	if got, want := two.Error(), "2 things are wrong with the request:\n  query a: is wrong\n  body b: is missing"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := join(nil, nil); err != nil {
		t.Errorf("got %v, want nil", err)
	}
	if err := join(FieldError{}, io.EOF); !errors.Is(err, io.EOF) || !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("got %v, want every fault in the chain", err)
	}
}
