package api

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
)

// unpack returns what a compressed answer was made of.
func unpack(t *testing.T, b []byte) string {
	t.Helper()
	zip, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestAnswersAreCompressed asks with and without gzip: long answers to GET are
// compressed for who takes it, and are the same otherwise.
func TestAnswersAreCompressed(t *testing.T) {
	f, _ := prepared(t)
	h := serverOf(t, f.Deps)
	for _, c := range []struct {
		path, accept string
		packed       bool
	}{
		{"/api/v1/events", "gzip", true}, {"/api/v1/events", "br;q=1, gzip;q=0.5", true}, {"/api/v1/events", "*", true}, {"/api/v1/events", "GZIP", true},
		{"/api/v1/events", "", false}, {"/api/v1/events", "identity", false}, {"/api/v1/events", "gzip;q=0", false}, {"/api/v1/events", "gzip;q=0.000, *", false},
		{"/api/v1/events", "*;q=0", false}, {"/api/v1/events", ";;,", false},
		{"/api/v1/events?format=ndjson", "gzip", true}, {"/openapi.json", "gzip", true}, {"/docs", "gzip", true}, {"/api/v1/usage?group_by=instance&format=ndjson", "gzip", false},
		{"/api/v1/queue", "gzip", false}, {"/nowhere", "gzip", false}, {"/api/v1/usage/stream?after=m0", "gzip", false},
	} {
		plain, w := do(h, "GET", c.path, "X-Request-Id", "r"), do(h, "GET", c.path, "X-Request-Id", "r", "Accept-Encoding", c.accept)
		body := w.Body.String()
		if got := w.Header().Get("Content-Encoding") == "gzip"; got != c.packed {
			t.Errorf("%s with %q: got it compressed: %v, want %v (%d bytes)", c.path, c.accept, got, c.packed, len(plain.Body.String()))
			continue
		} else if got {
			body = unpack(t, w.Body.Bytes())
		}
		if body != plain.Body.String() || w.Code != plain.Code {
			t.Errorf("%s with %q: got %d %q, want %d %q", c.path, c.accept, w.Code, body, plain.Code, plain.Body)
		}
		for _, vary := range []string{plain.Header().Get("Vary"), w.Header().Get("Vary")} {
			if vary != "Accept-Encoding" {
				t.Errorf("%s: got Vary %q, want Accept-Encoding first", c.path, vary)
			}
		}
	}
	if w := do(h, "GET", "/metrics", "Accept-Encoding", "gzip"); !strings.Contains(unpack(t, w.Body.Bytes()), "odometer_build_info") {
		t.Errorf("metrics: got what is none, or compressed twice")
	}
	if w := do(h, "HEAD", "/openapi.json", "Accept-Encoding", "gzip"); w.Header().Get("Content-Encoding") != "" || w.Header().Get("Vary") == "" {
		t.Errorf("HEAD: got the headers %v", w.Header())
	}
}

// TestSecretsAreNotCompressed has every answer that tells a secret be of a POST, and
// none of these compressed, however long.
func TestSecretsAreNotCompressed(t *testing.T) {
	f, _ := prepared(t)
	h := serverOf(t, f.Deps)
	for path, body := range map[string]string{
		"/api/v1/tokens":     `{"name":"` + strings.Repeat("x", 64) + `","scopes":["read"]}`,
		"/api/v1/enrolments": `{}`,
	} {
		w := send(h, "POST", path, body, "Authorization", "Bearer secret", "Content-Type", "application/json", "Accept-Encoding", "gzip")
		var made struct{ Token string }
		if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != http.StatusCreated || made.Token == "" || w.Header().Get("Content-Encoding") != "" || w.Header().Get("Vary") != "" {
			t.Errorf("%s: got %d %s, compressed as %q, want a secret as it is", path, w.Code, w.Body, w.Header().Get("Content-Encoding"))
		}
	}
	long := newRouter("0.1", nil, nil, nil, Stats{}, func(*router) []route {
		var rows []route
		for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
			rows = append(rows, route{pattern: method + " /long", access: anybody, lenient: true, handle: func(w http.ResponseWriter, _ *http.Request) error {
				io.WriteString(w, strings.Repeat("x", 2*worthPacking))
				return nil
			}})
		}
		return rows
	})
	for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
		if got := send(long, method, "/long", "", "Accept-Encoding", "gzip").Header().Get("Content-Encoding"); (got == "gzip") != (method == "GET") {
			t.Errorf("%s: got a long answer compressed as %q", method, got)
		}
	}
}
