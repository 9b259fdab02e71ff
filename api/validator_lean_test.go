//go:build lean

package api

import (
	"net/http"
	"testing"
)

const lean = "built without the validator that is not ours"

func invalid(t *testing.T, _ []byte) []string {
	t.Skip(lean)
	return nil
}

func judgeOf(t *testing.T, _ []byte) func(*http.Request, *http.Response) []string {
	t.Skip(lean)
	return nil
}
