package api

import (
	_ "embed"
	"net/http"
)

// OpenAPI is the description of every route of `odometer serve`, OpenAPI 3.1
// in JSON, kept by hand. The tests hold the routes and their answers to it.
//
//go:embed openapi.json
var OpenAPI []byte

func getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	w.Write(OpenAPI)
	return nil
}
