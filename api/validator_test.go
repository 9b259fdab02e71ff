package api

import (
	"bytes"
	"errors"
	"testing"

	"github.com/pb33f/libopenapi/datamodel"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

// invalid returns why a text is no OpenAPI document by the schema that the
// specification publishes, in which each schema is one by JSON Schema's own.
func invalid(t *testing.T, text []byte) (faults []string) {
	t.Helper()
	const base = "https://spec.openapis.org/oas/3.1/schema"
	published, err := jsonschema.UnmarshalJSON(bytes.NewReader([]byte(datamodel.OpenAPI31SchemaData)))
	if err != nil {
		t.Fatal(err)
	}
	// It leaves open what a schema is, for there are dialects; ours is JSON Schema's.
	published.(schema)["$defs"].(schema)["schema"] = schema{"$dynamicAnchor": "meta", "$ref": "https://json-schema.org/draft/2020-12/schema"}
	c := jsonschema.NewCompiler()
	if err := c.AddResource(base, published); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(base)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return []string{err.Error()}
	}
	if err := s.Validate(doc); err != nil {
		var wrong *jsonschema.ValidationError
		if !errors.As(err, &wrong) {
			t.Fatal(err)
		}
		for _, cause := range wrong.BasicOutput().Errors {
			faults = append(faults, cause.InstanceLocation+": "+cause.Error.String())
		}
	}
	return faults
}
