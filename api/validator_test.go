//go:build !lean

package api

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
)

// The validator that is not ours is left out with the tag lean: a fuzzer and the race
// detector instrument all that is linked, and this takes minutes.

// invalid returns why a text is no OpenAPI document.
func invalid(t *testing.T, text []byte) (faults []string) {
	t.Helper()
	v, err := validatorOf(text)
	if err != nil {
		return []string{err.Error()}
	}
	_, wrong := v.ValidateDocument()
	for _, e := range wrong {
		faults = append(faults, fmt.Sprint(e.Message, ": ", e.Reason))
		for _, s := range e.SchemaValidationErrors {
			faults = append(faults, fmt.Sprint(s.FieldPath, ": ", s.Reason))
		}
	}
	return faults
}

// judgeOf returns what tells why a request or its answer is not as a document has it.
func judgeOf(t *testing.T, text []byte) func(*http.Request, *http.Response) []string {
	t.Helper()
	v, err := validatorOf(text)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *http.Request, answer *http.Response) (faults []string) {
		if ok, wrong := v.ValidateHttpRequestResponse(r, answer); !ok {
			for _, e := range wrong {
				faults = append(faults, fmt.Sprintf("%s: %s %+v", e.Message, e.Reason, e.SchemaValidationErrors))
			}
		}
		return faults
	}
}

func validatorOf(text []byte) (validator.Validator, error) {
	doc, err := libopenapi.NewDocument(text)
	if err != nil {
		return nil, err
	}
	v, errs := validator.NewValidator(doc)
	if errs != nil {
		return nil, fmt.Errorf("%v", errs)
	}
	return v, nil
}
