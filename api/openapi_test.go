package api

import (
	"bytes"
	"encoding/json"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// openAPI is what the tests look at of the document.
type openAPI struct {
	OpenAPI    string
	Paths      map[string]map[string]operation
	Components struct {
		Responses  map[string]response
		Parameters map[string]paramObject
		Schemas    map[string]any
	}
}

type operation struct {
	OperationID string
	Parameters  []paramObject
	RequestBody *struct{ Content map[string]any }
	Responses   map[string]response
	Security    []map[string][]string
}

type response struct {
	Ref     string `json:"$ref"`
	Content map[string]struct{ Schema any }
}

type paramObject struct {
	Ref      string `json:"$ref"`
	Name, In string
}

var readOpenAPI = sync.OnceValue(func() openAPI {
	var doc openAPI
	if err := json.Unmarshal(OpenAPI, &doc); err != nil {
		panic(err)
	}
	return doc
})

func TestOpenAPIAndRoutesAreTheSame(t *testing.T) {
	doc := readOpenAPI()
	if !strings.HasPrefix(doc.OpenAPI, "3.1.") {
		t.Errorf("got version %q, want 3.1", doc.OpenAPI)
	}
	table := NewServer(NewFixture(t).Deps).(*router).table
	seen, ids := map[string]bool{}, map[string]bool{}
	for path, ops := range doc.Paths {
		for method, op := range ops {
			pattern := strings.ToUpper(method) + " " + path
			seen[pattern] = true
			row, ok := table[pattern]
			if !ok {
				t.Errorf("%s is described and no route", pattern)
				continue
			}
			if op.OperationID == "" || ids[op.OperationID] {
				t.Errorf("%s: operation id %q is empty or there twice", pattern, op.OperationID)
			}
			ids[op.OperationID] = true
			if got := accessOf(op.Security); got != row.access {
				t.Errorf("%s: described with access %d, want %d", pattern, got, row.access)
			}
			if _, told := op.Responses["403"]; told != (row.access.scope() != "" || pattern == "POST /api/v1/hosts/enrol") {
				t.Errorf("%s: described with a 403: %v, want %v", pattern, told, !told)
			}
			if _, told := op.Responses["401"]; told != (row.access != anybody) {
				t.Errorf("%s: described with a 401: %v, want %v", pattern, told, row.access != anybody)
			}
			for _, p := range op.Parameters {
				if p.Ref != "" {
					p = doc.Components.Parameters[strings.TrimPrefix(p.Ref, "#/components/parameters/")]
				}
				if p.Name == "" || p.In == "path" != strings.Contains(path, "{"+p.Name+"}") {
					t.Errorf("%s: paramObject %+v is not what the path says", pattern, p)
				}
			}
		}
	}
	for pattern := range table {
		if !seen[pattern] {
			t.Errorf("%s is a route and not described", pattern)
		}
	}
}

// accessOf returns the access that the requirements of an operation say.
func accessOf(security []map[string][]string) access {
	text, _ := json.Marshal(security)
	return map[string]access{
		`[{}]`: anybody, `[{},{"token":["read"]}]`: brief, `[{"token":[]}]`: holder,
		`[{"token":["read"]}]`: reader, `[{"token":["events:write"]}]`: writer, `[{"token":["admin"]}]`: administrator,
	}[string(text)]
}

// TestOpenAPIParametersAreThoseThatAreRead asks every GET route for a paramObject
// nobody knows: the refusal lists those that it reads.
func TestOpenAPIParametersAreThoseThatAreRead(t *testing.T) {
	h := NewServer(NewFixture(t).Deps)
	doc := readOpenAPI()
	for path, ops := range doc.Paths {
		op, ok := ops["get"]
		if !ok || decisions["GET "+path] < holder || path == "/metrics" || path == "/openapi.json" {
			continue
		}
		_, target := target("GET " + path)
		w := do(h, "GET", target+"?nobody=1")
		p := problem(t, w)
		if w.Code != 400 || len(p.Errors) != 1 || p.Errors[0].Name != "nobody" {
			t.Errorf("%s: got %d %+v, want the unknown paramObject refused", path, w.Code, p)
			continue
		}
		for _, param := range op.Parameters {
			if param.Ref != "" {
				param = doc.Components.Parameters[strings.TrimPrefix(param.Ref, "#/components/parameters/")]
			}
			if param.In == "query" && !strings.Contains(p.Errors[0].Detail, param.Name) {
				t.Errorf("%s: described with %s, which is not among %q", path, param.Name, p.Errors[0].Detail)
			}
		}
	}
}

func TestOpenAPIHasEveryProblem(t *testing.T) {
	schema := readOpenAPI().Components.Schemas["Problem"].(map[string]any)["properties"].(map[string]any)
	codes := schema["code"].(map[string]any)["enum"].([]any)
	described := map[any]bool{}
	for _, code := range codes {
		described[code] = true
	}
	for _, k := range kinds {
		if !described[k.code] {
			t.Errorf("code %s is not described", k.code)
		}
	}
	if len(codes) != len(kinds) {
		t.Errorf("got %d codes described, want %d", len(codes), len(kinds))
	}
}

var compiler = sync.OnceValue(func() *jsonschema.Compiler {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(OpenAPI))
	if err != nil {
		panic(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.AssertFormat()
	if err := c.AddResource("openapi.json", doc); err != nil {
		panic(err)
	}
	return c
})

// conforms checks that an answer is one that the document describes for the
// route: its status, its content type, and its body by the schema.
func conforms(t *testing.T, pattern string, w *httptest.ResponseRecorder) {
	t.Helper()
	method, path, _ := strings.Cut(pattern, " ")
	op, ok := readOpenAPI().Paths[path][strings.ToLower(method)]
	if !ok {
		return // no route: the answer is a problem, which problem checks
	}
	pointer := "/paths/" + escape(path) + "/" + strings.ToLower(method) + "/responses/" + strconv.Itoa(w.Code)
	resp, ok := op.Responses[strconv.Itoa(w.Code)]
	if !ok {
		t.Errorf("%s: status %d is not described", pattern, w.Code)
		return
	}
	if resp.Ref != "" {
		pointer = strings.TrimPrefix(resp.Ref, "#")
		resp = readOpenAPI().Components.Responses[strings.TrimPrefix(resp.Ref, "#/components/responses/")]
	}
	media, _, _ := strings.Cut(w.Header().Get("Content-Type"), ";")
	if _, ok := resp.Content[media]; !ok {
		t.Errorf("%s: status %d with content type %s is not described", pattern, w.Code, media)
		return
	}
	if media == "text/plain" {
		return
	}
	schema, err := compiler().Compile("openapi.json#" + pointer + "/content/" + escape(media) + "/schema")
	if err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	body, err := jsonschema.UnmarshalJSON(w.Body)
	if err != nil {
		t.Fatalf("%s: %v", pattern, err)
	}
	if err := schema.Validate(body); err != nil {
		t.Errorf("%s: status %d: the answer is not as described: %v", pattern, w.Code, err)
	}
}

// escape makes a member's name part of a JSON pointer in a URL.
func escape(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace(name)
}
