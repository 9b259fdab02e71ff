package api

import (
	_ "embed"
	"net/http"

	"example.org/odometer"
)

// The documents are generated from the tables of routes and the Go types of what
// they take and answer, by the tests, which also say when they are not current:
//
//go:generate go test -count=1 -run ^TestOpenAPIIsCurrent$ . -update
var (
	// OpenAPI describes every route of `odometer serve`, in OpenAPI 3.1.
	//
	//go:embed openapi.json
	OpenAPI []byte

	// AgentOpenAPI describes those of `odometer agent`.
	//
	//go:embed openapi-agent.json
	AgentOpenAPI []byte
)

// documentRoutes shows what is the same on every server: anybody may read it, as a
// browser could not send a token.
func documentRoutes(document []byte) []route {
	return []route{{
		pattern: "GET /openapi.json", access: anybody,
		id: "openapi", tag: "operation", summary: "This document",
		description: "OpenAPI 3.1, the same on every server of a version. It is answered without a token.",
		replies:     []reply{answers(http.StatusOK, "The document.", shape("Document"))},
		handle: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", odometer.ContentJSON)
			w.Write(document) // the client is gone when this fails
			return nil
		},
	}}
}
