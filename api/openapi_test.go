package api

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
)

// openAPI is what the tests look at of the document.
type openAPI struct {
	OpenAPI    string
	Paths      map[string]map[string]operation
	Components struct {
		Parameters map[string]paramObject
		Schemas    map[string]any
	}
}

type operation struct {
	OperationID string
	Parameters  []paramObject
	Responses   map[string]any
	Security    []map[string][]string
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
	table := serverOf(t, NewFixture(t).Deps).table
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
		`[{"token":["read"]}]`: reader, `[{"token":["events:write"]}]`: writer, `[{"token":["account"]}]`: accountHolder, `[{"token":["admin"]}]`: administrator,
	}[string(text)]
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
