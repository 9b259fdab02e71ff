package api

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// exampleBodies are the bodies of the examples, by operation and content type.
func exampleBodies() map[string]map[string]any {
	first, second := SampleEvent("vm-2", 1, odometer.Owner{User: "ada", Org: "acme"}), SampleEvent("vm-2", 2, odometer.Owner{User: "ada", Org: "acme"})
	host, billing := exampleKey(1), exampleKey(3)
	return map[string]map[string]any{
		"submit": {
			odometer.ContentCloudEvent: json.RawMessage(Structured(&first)),
			odometer.ContentCloudBatch: []json.RawMessage{Structured(&first), Structured(&second)},
			odometer.ContentJSON:       json.RawMessage(first.AppendJSON(nil)),
		},
		"reverse":            {odometer.ContentJSON: schema{"cause": "the disk was measured twice"}},
		"assign":             {odometer.ContentJSON: schema{"user_id": "u-bob", "org_id": "bolt", "from": "2026-01-01T00:00:00Z", "cause": "sold, contract 17"}},
		"closeMonth":         {odometer.ContentJSON: schema{"org_id": "bolt", "accept_gaps": true, "cause": "the month is over"}},
		"createOrganization": {odometer.ContentJSON: schema{"id": "bolt", "name": "Bolt Ltd", "owner_id": "u-ada"}},
		"updateOrganization": {odometer.ContentJSON: schema{"name": "Acme International"}},
		"createUser":         {odometer.ContentJSON: schema{"id": "u-cleo", "name": "Cleo", "email": "cleo@example.org"}},
		"updateUser":         {odometer.ContentJSON: schema{"name": "Ada King", "email": "ada@example.org"}},
		"addMember":          {odometer.ContentJSON: schema{"user_id": "u-bob", "role": "billing"}},
		"setMember":          {odometer.ContentJSON: schema{"role": "admin"}},
		"addIdentity":        {odometer.ContentJSON: schema{"issuer": "https://login.example.org", "subject": "s-17"}},
		"createInstance":     {odometer.ContentJSON: schema{"instance_id": "vm-7", "name": "new shop", "labels": schema{"tier": "web"}}},
		"updateInstance":     {odometer.ContentJSON: schema{"name": "shop front", "labels": schema{"tier": "web", "rack": "r1"}}},
		"addGrant":           {odometer.ContentJSON: schema{"user_id": "u-ada", "level": "operator", "since": "-30d", "expires_at": "+90d"}},
		"setGrant":           {odometer.ContentJSON: schema{"level": "manager"}},
		"createToken":        {odometer.ContentJSON: schema{"name": "billing", "scopes": []any{"read"}, "expires_at": "+90d"}},
		"createEnrolment":    {odometer.ContentJSON: schema{"agent_id": "host-4", "expires_at": "+2h"}},
		"enrolHost": {odometer.ContentJSON: schema{
			"agent_id": "host-1", "public_key": host.public, "proof": host.proof("host-1"), "token": "odm_" + strings.Repeat("a", 58),
		}},
		"createConsumer": {odometer.ContentJSON: schema{"name": "billing", "org_id": "acme", "public_key": billing.public}},
	}
}

// answerExamples are the examples of answers that are not the same each time, or are
// as long as the document.
var answerExamples = map[string]string{
	"metrics": "# HELP odometer_build_info Version of this program.\n# TYPE odometer_build_info gauge\nodometer_build_info{goversion=\"go1.26\",version=\"0.1\"} 1\n",
	"openapi": "",
	"docs":    "",
}

// prepared returns a fixture in which there is something to answer to every
// example, and a token that may send events and nothing else.
func prepared(t *testing.T) (f *Fixture, weak string) {
	t.Helper()
	f = NewFixture(t)
	ada := odometer.Owner{User: "ada", Org: "acme"}
	var records []odometer.Record
	for n := range uint64(3) {
		e := SampleEvent("vm-1", n+1, ada)
		e.Lifecycle = []odometer.Change{{Kind: odometer.ChangeStarted, At: odometer.Moment{Boot: 1_000_000, Wall: e.Span.Start}}}
		records = append(records, odometer.Record{Event: &e})
	}
	changed := SampleEvent("vm-1", 1, ada)
	changed.Usage.Vector[odometer.CPU]++
	changed.Readings.End.Vector[odometer.CPU]++
	if _, err := f.Submit(t.Context(), append(records, odometer.Record{Event: &changed, Raw: changed.AppendJSON(nil)})); err != nil {
		t.Fatal(err)
	}
	closeDecember(t, f, ada)
	f.Hear(SampleEvent("vm-1", 4, ada), Now.Add(-2*time.Second))
	f.Describe("vm-1", "host-1", odometer.Running, "web", "rack=r1")
	owns := odometer.Ownership{Instance: "vm-1", Owner: ada, From: Now.Add(-30 * 24 * time.Hour).UnixMicro()}
	if _, err := f.Assign(t.Context(), owns, "admin", "its first owner", false); err != nil {
		t.Fatal(err)
	}
	for _, u := range []odometer.User{{ID: "u-owner", Name: "Olga"}, {ID: "u-ada", Name: "Ada", Email: "ada@example.org"}, {ID: "u-bob", Name: "Bob"}} {
		if _, err := f.Accounts.CreateUser(t.Context(), byHand, odometer.Once{}, u); err != nil {
			t.Fatal(err)
		}
	}
	_, err := f.Accounts.CreateOrganisation(t.Context(), byHand, odometer.Once{}, odometer.Organisation{ID: "acme", Name: "Acme"}, "u-owner")
	if err == nil {
		_, err = f.Accounts.AddMember(t.Context(), byHand, odometer.Once{}, odometer.Membership{Org: "acme", User: "u-ada", Role: odometer.RoleMember})
	}
	if err != nil {
		t.Fatal(err)
	}
	given := odometer.Grant{Instance: "vm-1", User: "u-bob", Level: odometer.LevelReadOnly}
	if _, err = f.Accounts.AddGrant(t.Context(), byHand, odometer.Once{}, odometer.Ownership{Instance: "vm-1", Owner: ada}, given); err != nil {
		t.Fatal(err)
	}
	kept := odometer.Registered{Instance: "vm-1", Name: "shop front", Labels: map[string]string{"tier": "web"}}
	if _, err = f.Accounts.Register(t.Context(), byHand, odometer.Once{}, kept); err != nil {
		t.Fatal(err)
	}
	who := odometer.Identity{User: "u-ada", Issuer: "https://login.example.org", Subject: "248289761001"}
	if _, err = f.Accounts.AddIdentity(t.Context(), byHand, who); err != nil {
		t.Fatal(err)
	}
	create(t, f.Accounts, "dashboard", time.Time{}, odometer.ScopeRead)
	_, weak = create(t, f.Accounts, "collector", Now.Add(24*time.Hour), odometer.ScopeWriteEvents)
	create(t, f.Accounts, "export", time.Time{}, odometer.ScopeRead)
	letIn(t, f, "")
	return f, weak
}

// closeDecember has something used in December by an owner and by bolt, and closes it
// for the owner's organisation.
func closeDecember(t *testing.T, f *Fixture, owner odometer.Owner) {
	t.Helper()
	his, bolts := InDecember(SampleEvent("vm-1", 1, owner)), InDecember(SampleEvent("vm-3", 1, odometer.Owner{User: "u-bob", Org: "bolt"}))
	if _, err := f.Submit(t.Context(), []odometer.Record{{Event: &his}, {Event: &bolts}}); err != nil {
		t.Fatal(err)
	}
	c := odometer.MonthClose{Month: odometer.MonthOf(his.Span.Start), Org: &owner.Org, AcceptGaps: true, Actor: "admin", Cause: "the month is over"}
	if _, err := f.CloseMonth(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// exampleRequest is a request that a document has as an example, and where in the
// document its answer stands.
type exampleRequest struct {
	operation      string
	method, target string
	header         http.Header
	body           string
	status         string
	media          string // of the answer
	content        schema // of the answer, by media
	where          string
}

// exampleRequests are those of a document: of every operation one for each content
// type that it takes, and for each that it answers with.
func exampleRequests(doc schema) (list []exampleRequest) {
	for _, path := range slices.Sorted(maps.Keys(doc["paths"].(schema))) {
		item := doc["paths"].(schema)[path].(schema)
		for _, method := range slices.Sorted(maps.Keys(item)) {
			op := item[method].(schema)
			x := exampleRequest{operation: op["operationId"].(string), method: strings.ToUpper(method), header: http.Header{}}
			x.target, x.where = path, x.method+" "+path
			query := url.Values{}
			params, _ := op["parameters"].([]any)
			for _, p := range params {
				p := p.(schema)
				if ref, ok := p["$ref"].(string); ok {
					p = doc["components"].(schema)["parameters"].(schema)[strings.TrimPrefix(ref, "#/components/parameters/")].(schema)
				}
				text := fmt.Sprint(p["example"])
				if several, ok := p["example"].([]any); ok {
					text = strings.Trim(strings.Join(strings.Fields(fmt.Sprint(several)), ","), "[]")
				}
				switch name := p["name"].(string); p["in"] {
				case "path":
					x.target = strings.ReplaceAll(x.target, "{"+name+"}", url.PathEscape(text))
				case "query":
					// The header Accept says the form, and no example is a cursor of this question.
					if name != formatParam.name && p["schema"].(schema)["pattern"] != cursorPattern {
						query.Set(name, text)
					}
				case "header":
					if x.operation != "submit" { // whose form they depend on
						x.header.Set(name, text)
					}
				}
			}
			responses := op["responses"].(schema)
			x.status = slices.Min(slices.Collect(maps.Keys(responses)))
			x.content, _ = responses[x.status].(schema)["content"].(schema)
			bodies := schema{"": nil}
			if body, ok := op["requestBody"].(schema); ok {
				bodies = body["content"].(schema)
			}
			for _, takes := range slices.Sorted(maps.Keys(bodies)) {
				for _, media := range slices.Sorted(maps.Keys(orNothing(x.content))) {
					y := x
					y.media, y.header = media, maps.Clone(x.header)
					ask := maps.Clone(query)
					if media == odometer.ContentCloudBatch { // which is told whole
						ask.Del("fields")
					}
					if len(ask) > 0 {
						y.target += "?" + ask.Encode()
					}
					y.header.Set("Accept", media)
					y.header.Set("X-Request-Id", "example")
					if takes != "" {
						body, _ := json.Marshal(bodies[takes].(schema)["example"])
						y.body = string(body)
						y.header.Set("Content-Type", takes)
						if takes == odometer.ContentJSON && x.operation == "submit" { // the mode whose attributes are headers
							for _, p := range params {
								p := p.(schema)
								y.header.Set(p["name"].(string), p["example"].(string))
							}
						}
					}
					list = append(list, y)
				}
			}
		}
	}
	return list
}

// orNothing returns the forms of an answer, one without a name for none.
func orNothing(content schema) schema {
	if len(content) == 0 {
		return schema{"": nil}
	}
	return content
}

// ask makes the request with the administrator's token.
func (x exampleRequest) ask(h http.Handler) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, x.request())
	return w
}

func (x exampleRequest) request() *http.Request {
	r := httptest.NewRequest(x.method, x.target, strings.NewReader(x.body))
	maps.Copy(r.Header, x.header)
	r.Header.Set("Authorization", "Bearer secret")
	return r
}

var secretText = regexp.MustCompile(`odm_[a-z2-7]{58}`)

// shown returns an answer as an example: without a secret that would look real.
func shown(media, body string) any {
	body = secretText.ReplaceAllString(body, "odm_"+strings.Repeat("a", 58))
	var v any
	d := json.NewDecoder(strings.NewReader(body))
	d.UseNumber()
	if !strings.Contains(media, "json") || media == string(asNDJSON) || d.Decode(&v) != nil {
		return body
	}
	return v
}

// exemplify adds the bodies of requests, and answers as a server gives them, to a
// document that is being made.
func exemplify(t *testing.T, name string, doc schema) schema {
	doc = plainly(doc)
	for _, item := range doc["paths"].(schema) {
		for _, op := range item.(schema) {
			if body, ok := op.(schema)["requestBody"].(schema); ok {
				for media, c := range body["content"].(schema) {
					if example := exampleBodies()[op.(schema)["operationId"].(string)][media]; example != nil {
						c.(schema)["example"] = example
					}
				}
			}
		}
	}
	for _, x := range exampleRequests(doc) {
		if x.media == "" {
			continue
		}
		if text, ok := answerExamples[x.operation]; ok {
			if text != "" && x.media == "text/plain" {
				x.content[x.media].(schema)["example"] = text
			}
			continue
		}
		f, _ := prepared(t)
		w := x.ask(unchecked(f)[name])
		if fmt.Sprint(w.Code) != x.status {
			t.Errorf("the example of %s is answered with %d %s, want %s: change an example, or what prepared prepares", x.where, w.Code, w.Body, x.status)
		}
		x.content[x.media].(schema)["example"] = shown(x.media, w.Body.String())
	}
	responses, _ := doc["components"].(schema)["responses"].(schema)
	for kind, example := range problemExamples(t, name) {
		if response, ok := responses[kind].(schema); ok {
			response["content"].(schema)["application/problem+json"].(schema)["example"] = example
		}
	}
	return doc
}

// plainly returns a document as encoding/json reads it.
func plainly(doc schema) schema {
	text, err := json.Marshal(doc)
	if err != nil {
		panic(err)
	}
	return read(text)
}

// unchecked returns both servers without holding them to the documents, which are
// being made.
func unchecked(f *Fixture) map[string]http.Handler {
	d := f.Deps
	return map[string]http.Handler{
		"server": NewServer(d),
		"agent":  NewAgentServer(AgentDeps{Version: d.Version, Clock: d.Clock, Auth: d.Auth, Health: d.Health, Machine: d.Machine, Stats: d.Stats, Limits: d.Limits}),
	}
}

// problemExamples has a server fail in each way and returns what it says.
func problemExamples(t *testing.T, name string) schema {
	examples := schema{}
	fail := func(kind string, status int, prepare func(f *Fixture, weak string), method, target, body string, headers ...string) {
		f, weak := prepared(t)
		if prepare != nil {
			prepare(f, weak)
		}
		for i := range headers {
			headers[i] = strings.ReplaceAll(headers[i], "$weak", weak)
		}
		h := unchecked(f)[name]
		if status == 429 { // the one before
			send(h, method, target, body, headers...)
		}
		w := send(h, method, target, body, append(headers, "X-Request-Id", "example")...)
		if w.Code != status {
			t.Fatalf("example of %s: got %d %s, want %d", kind, w.Code, w.Body, status)
		}
		examples[kind] = shown("json", w.Body.String())
	}
	const who, admin = "Authorization", "Bearer secret"
	fail("Invalid", 400, nil, "GET", "/get?colour=red", "", who, admin)
	fail("Unauthorized", 401, nil, "GET", "/get", "")
	fail("Forbidden", 403, nil, "GET", "/get", "", who, "Bearer $weak")
	fail("TooMany", 429, func(f *Fixture, _ string) { f.Deps.Limits.Guesses = 0.1 }, "GET", "/get", "", who, "Bearer wrong")
	fail("Failed", 500, func(f *Fixture, _ string) { f.Machine.Err = io.ErrUnexpectedEOF }, "GET", "/get", "", who, admin)
	fail("Unavailable", 503, func(f *Fixture, _ string) {
		f.Machine.Err = fmt.Errorf("there is no sample yet: %w", odometer.ErrUnavailable)
	}, "GET", "/get", "", who, admin)
	if name != "server" {
		fail("NotFound", 404, nil, "GET", "/api/v1/usage", "", who, admin)
		return examples
	}
	fail("NotFound", 404, nil, "GET", "/api/v1/instances/vm-9", "", who, admin)
	entry := fmt.Sprintf("/api/v1/entries/%d-1/reverse", odometer.AgentID("host-1").Partition())
	content := []string{who, admin, "Content-Type", odometer.ContentJSON}
	fail("Conflict", 409, func(f *Fixture, _ string) {
		send(NewServer(f.Deps), "POST", entry, `{"cause":"a mistake"}`, content...)
	}, "POST", entry, `{"cause":"again"}`, content...)
	fail("TooLarge", 413, nil, "POST", "/api/v1/events", strings.Repeat(" ", MaxBodyBytes+1), who, admin, "Content-Type", odometer.ContentCloudEvent)
	fail("MediaType", 415, nil, "POST", "/api/v1/tokens", "name=x", who, admin, "Content-Type", "application/x-www-form-urlencoded")
	changed := SampleEvent("vm-1", 2, odometer.Owner{User: "ada", Org: "acme"})
	changed.Usage.Vector[odometer.CPU]++
	changed.Readings.End.Vector[odometer.CPU]++
	fail("Refused", 422, nil, "POST", "/api/v1/events", string(Structured(&changed)), who, admin, "Content-Type", odometer.ContentCloudEvent)
	return examples
}

// TestExamplesAreAnswered makes every request that the documents have as an
// example, to a server in which there is something to answer: the answer is the one
// that the document shows, and both are what it describes.
func TestExamplesAreAnswered(t *testing.T) {
	for _, d := range documents(t) {
		for _, x := range exampleRequests(read(d.embedded)) {
			t.Run(strings.TrimSpace(d.name+" "+x.where+" "+x.header.Get("Content-Type")+" "+x.media), func(t *testing.T) {
				f, _ := prepared(t)
				both := handlers(t, f)
				w := x.ask(both[d.name])
				if fmt.Sprint(w.Code) != x.status {
					t.Fatalf("got %d %s, want %s", w.Code, w.Body, x.status)
				}
				if media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";"); media != x.media {
					t.Errorf("got an answer of type %q, want %q", media, x.media)
				}
				if _, varies := answerExamples[x.operation]; x.media != "" && !varies {
					got, _ := json.Marshal(shown(x.media, w.Body.String()))
					want, _ := json.Marshal(x.content[x.media].(schema)["example"])
					if string(got) != string(want) && x.header.Get("Content-Type") == "" {
						t.Errorf("got %s, want %s", got, want)
					}
					empty(t, x, shown(x.media, w.Body.String()))
				}
			})
		}
	}
}

// empty complains about an example that shows nothing: a list without elements.
func empty(t *testing.T, x exampleRequest, v any) {
	members, _ := v.(map[string]any)
	for name, m := range members {
		if list, ok := m.([]any); ok && len(list) == 0 && slices.Contains([]string{"rows", "events", "metrics", "items", "instances", "tokens", "enrolments", "hosts", "consumers", "log", "lifecycle", "results", "organizations", "members", "users", "ownership", "moved", "grants", "identities"}, name) {
			t.Errorf("%s: the example has no %s", x.where, name)
		}
	}
}

// TestEveryBodyHasAnExample looks at what a request may have.
func TestEveryBodyHasAnExample(t *testing.T) {
	for path, item := range read(OpenAPI)["paths"].(schema) {
		for method, op := range item.(schema) {
			body, ok := op.(schema)["requestBody"].(schema)
			if !ok {
				continue
			}
			for media, c := range body["content"].(schema) {
				if c.(schema)["example"] == nil {
					t.Errorf("%s %s: %s has no example in exampleBodies", method, path, media)
				}
			}
		}
	}
}
