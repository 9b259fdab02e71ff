package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestOpenAPIIsValid judges both documents by the schema that the specification
// publishes, and then by what it does not ask for.
func TestOpenAPIIsValid(t *testing.T) {
	for _, d := range documents(t) {
		t.Run(d.name, func(t *testing.T) {
			for _, fault := range invalid(t, d.embedded) {
				t.Error(fault)
			}
			for _, fault := range lint(read(d.embedded)) {
				t.Error(fault)
			}
		})
	}
}

// lint returns what a document lacks beyond what the specification asks for.
func lint(doc schema) (faults []string) {
	fault := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	resolve := func(v any) schema {
		s := v.(schema)
		for {
			ref, ok := s["$ref"].(string)
			if !ok {
				return s
			}
			var at any = doc
			for part := range strings.SplitSeq(strings.TrimPrefix(ref, "#/"), "/") {
				at, _ = at.(schema)[part]
			}
			if at == nil {
				fault("%s refers to nothing", ref)
				return schema{}
			}
			s = at.(schema)
		}
	}
	ids := map[any]bool{}
	for path, item := range doc["paths"].(schema) {
		for method, o := range item.(schema) {
			op, where := o.(schema), strings.ToUpper(method)+" "+path
			for _, member := range []string{"operationId", "summary", "description", "tags", "security"} {
				if op[member] == nil {
					fault("%s has no %s", where, member)
				}
			}
			if ids[op["operationId"]] {
				fault("%s: the operation id %v is there twice", where, op["operationId"])
			}
			ids[op["operationId"]] = true
			params, _ := op["parameters"].([]any)
			for _, p := range params {
				param := resolve(p)
				for _, member := range []string{"description", "schema", "example"} {
					if param[member] == nil || param[member] == "" {
						fault("%s: parameter %v has no %s", where, param["name"], member)
					}
				}
			}
			responses := op["responses"].(schema)
			security, _ := op["security"].([]any)
			open := slices.ContainsFunc(security, func(v any) bool { return len(v.(schema)) == 0 })
			for status, must := range map[string]bool{"401": !open, "500": !open, "413": op["requestBody"] != nil, "415": op["requestBody"] != nil} {
				if must && responses[status] == nil {
					fault("%s has no %s", where, status)
				}
			}
			for status, r := range responses {
				response := resolve(r)
				if response["description"] == nil {
					fault("%s: %s has no description", where, status)
				}
				if content, _ := response["content"].(schema); status >= "400" && status != "503" && content["application/problem+json"] == nil {
					fault("%s: %s is no problem", where, status)
				}
			}
		}
	}
	text, _ := json.Marshal(doc)
	components := doc["components"].(schema)
	for kind, list := range components {
		for name, c := range list.(schema) {
			if kind != "securitySchemes" && !strings.Contains(string(text), `"#/components/`+kind+"/"+name+`"`) {
				fault("the component %s of %s is used nowhere", name, kind)
			}
			if s := c.(schema); kind == "schemas" && s["type"] == "object" && s["description"] == nil && !strings.HasPrefix(name, "Event") {
				fault("the schema %s has no description", name)
			}
		}
	}
	var refs func(v any)
	refs = func(v any) {
		switch v := v.(type) {
		case schema:
			if _, ok := v["$ref"].(string); ok {
				resolve(v)
			}
			for _, inner := range v {
				refs(inner)
			}
		case []any:
			for _, inner := range v {
				refs(inner)
			}
		}
	}
	refs(doc)
	return faults
}

// TestLintFinds spoils a document that is whole in one way after the other.
func TestLintFinds(t *testing.T) {
	at := func(doc schema, path ...string) schema {
		for _, p := range path {
			doc = doc[p].(schema)
		}
		return doc
	}
	usage := []string{"paths", "/api/v1/usage", "get"}
	for name, spoil := range map[string]func(schema){
		"an operation without an id":      func(d schema) { delete(at(d, usage...), "operationId") },
		"an operation without security":   func(d schema) { delete(at(d, usage...), "security") },
		"an id twice":                     func(d schema) { at(d, usage...)["operationId"] = "history" },
		"a parameter without description": func(d schema) { delete(at(d, "components", "parameters", "From"), "description") },
		"a status that is missing":        func(d schema) { delete(at(d, append(usage, "responses")...), "401") },
		"an answer without description":   func(d schema) { delete(at(d, append(usage, "responses", "200")...), "description") },
		"a failure that is no problem": func(d schema) {
			at(d, append(usage, "responses")...)["400"] = schema{"description": "no."}
		},
		"a schema that nobody uses":  func(d schema) { at(d, "components", "schemas")["More"] = schema{"type": "string"} },
		"a schema that there is not": func(d schema) { delete(at(d, "components", "schemas"), "Usage") },
		"a schema without description": func(d schema) {
			delete(at(d, "components", "schemas", "Usage"), "description")
		},
	} {
		doc := read(OpenAPI)
		spoil(doc)
		if lint(doc) == nil {
			t.Errorf("%s: got nothing wrong", name)
		}
	}
	for name, spoil := range map[string]func(schema){
		"a version that there is not":      func(d schema) { d["openapi"] = "3.1.x" },
		"a response without description":   func(d schema) { delete(at(d, append(usage, "responses", "200")...), "description") },
		"a parameter in no place":          func(d schema) { at(d, "components", "parameters", "From")["in"] = "body" },
		"a path without a slash before it": func(d schema) { d["paths"].(schema)["usage"] = schema{} },
		"a member that nobody knows":       func(d schema) { d["info"].(schema)["titel"] = "x" },
		"a security scheme without a type": func(d schema) { delete(at(d, "components", "securitySchemes", "token"), "type") },
		"an information that has no title": func(d schema) { delete(at(d, "info"), "title") },
		"a server without an address":      func(d schema) { d["servers"] = []any{schema{}} },
		"a schema of no type":              func(d schema) { at(d, "components", "schemas", "Usage")["type"] = "table" },
	} {
		doc := read(OpenAPI)
		spoil(doc)
		text, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		if invalid(t, text) == nil {
			t.Errorf("%s: got it taken as valid", name)
		}
	}
}
