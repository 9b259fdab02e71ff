package api

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"sync"

	"example.org/odometer"
)

// The documents are generated from the tables of routes and the Go types of what
// they take and answer, by the tests, which also say when they are not current:
//
//go:generate go test -count=1 -run ^Test(OpenAPI|Docs)(Is|Are)Current$ . -update
var (
	// OpenAPI describes every route of `odometer serve`, in OpenAPI 3.1.
	//
	//go:embed openapi.json
	OpenAPI []byte

	// AgentOpenAPI describes those of `odometer agent`.
	//
	//go:embed openapi-agent.json
	AgentOpenAPI []byte

	// The same for people to read.
	//
	//go:embed docs/server.html
	serverPage string
	//go:embed docs/agent.html
	agentPage string
)

// documentRoutes shows what is the same on every server: anybody may read it, as a
// browser could not send a token.
func documentRoutes(document []byte, page string) []route {
	policy := sync.OnceValue(func() string {
		_, style, _ := strings.Cut(page, "<style>")
		style, _, _ = strings.Cut(style, "</style>")
		return "default-src 'none'; style-src '" + hashOf(style) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	})
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
	}, {
		pattern: "GET /docs", access: anybody,
		id: "docs", tag: "operation", summary: "This document, for people",
		description: "One page of HTML without scripts, which loads nothing. It is answered without a token.",
		replies:     []reply{{http.StatusOK, "The page.", nil, []content{{"text/html", nil}}}},
		handle: func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.Header().Set("Content-Security-Policy", policy())
			io.WriteString(w, page) // the client is gone when this fails
			return nil
		},
	}}
}

// hashOf returns the source by which a Content-Security-Policy allows a style.
func hashOf(style string) string {
	sum := sha256.Sum256([]byte(style))
	return "sha256-" + base64.StdEncoding.EncodeToString(sum[:])
}
