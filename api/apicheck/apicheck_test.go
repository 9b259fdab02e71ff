package apicheck

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// doc describes a route for a thing, which is read and put.
const doc = `{
  "openapi": "3.1.0",
  "paths": {
    "/things/{id}": {
      "get": {
        "operationId": "thing",
        "parameters": [
          {"$ref": "#/components/parameters/Id"},
          {"name": "n", "in": "query", "schema": {"type": "integer", "maximum": 3}},
          {"name": "of", "in": "query", "explode": false, "schema": {"type": "array", "items": {"enum": ["a", "b"]}}},
          {"name": "X-Mode", "in": "header", "schema": {"enum": ["x"]}}
        ],
        "responses": {
          "200": {"headers": {"ETag": {}}, "content": {"application/json": {"schema": {"type": "object", "required": ["id"]}}, "text/plain": {}}},
          "204": {},
          "404": {"$ref": "#/components/responses/None"}
        }
      },
      "put": {
        "operationId": "put",
        "parameters": [{"$ref": "#/components/parameters/Id"}],
        "requestBody": {"content": {"application/json": {"schema": {"type": "string"}}}},
        "responses": {"204": {}}
      }
    }
  },
  "components": {
    "parameters": {"Id": {"name": "id", "in": "path", "schema": {"pattern": "^[a-z/]+$"}}},
    "responses": {"None": {"content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}}},
    "schemas": {"Problem": {"type": "object", "required": ["code"]}}
  }
}`

const problem = "application/problem+json"

func TestWhatIsNotInTheDocumentIsFound(t *testing.T) {
	c, err := New([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name            string
		method, target  string
		sent, sentType  string
		header          string // name and value of the request's
		status          int
		body, mediaType string
		more            string // name and value of the answer's header
		wrong           string // "" for nothing
	}{
		{name: "as it should be", target: "/things/a?n=3&of=a,b", header: "X-Mode: x", status: 200, body: `{"id":1}`, mediaType: "application/json; charset=utf-8", more: "Etag: 1"},
		{name: "a slash in a segment", target: "/things/a%2Fb", status: 200, body: `{"id":1}`, mediaType: "application/json"},
		{name: "text", target: "/things/a", status: 200, body: `x`, mediaType: "text/plain"},
		{name: "an empty parameter is none", target: "/things/a?n=", status: 200, body: `{"id":1}`, mediaType: "application/json"},
		{name: "the head of it", method: "HEAD", target: "/things/a", status: 200, mediaType: "application/json"},
		{name: "nothing", target: "/things/a", status: 204},
		{name: "a problem", target: "/things/A", status: 404, body: `{"code":"x"}`, mediaType: problem},
		{name: "no route", target: "/other", status: 404, body: `{"code":"no_such_route"}`, mediaType: problem},
		{name: "a route that the other server has not", target: "/things/a", status: 404, body: `{"code":"no_such_route"}`, mediaType: problem},
		{name: "no method", method: "POST", target: "/things/a", status: 405, body: `{"code":"method_not_allowed"}`, mediaType: problem},
		{name: "a client that went away", target: "/things/a", status: 499},
		{name: "a body", method: "PUT", target: "/things/a", sent: `"x"`, sentType: "application/json", status: 204},
		{name: "a body of a type of its own", method: "PUT", target: "/things/a", sent: `"x"`, sentType: "application/x+json", status: 204},
		{name: "a wrong request that is refused", target: "/things/a?x=1", status: 404, body: `{"code":"x"}`, mediaType: problem},

		{name: "another status", target: "/things/a", status: 500, body: `{"code":"x"}`, mediaType: problem, wrong: "status"},
		{name: "another type", target: "/things/a", status: 200, body: `<id>`, mediaType: "text/html", wrong: "text/html"},
		{name: "another body", target: "/things/a", status: 200, body: `{}`, mediaType: "application/json", wrong: "id"},
		{name: "no JSON", target: "/things/a", status: 200, body: `{`, mediaType: "application/json", wrong: "no JSON"},
		{name: "another header", target: "/things/a", status: 200, body: `{"id":1}`, mediaType: "application/json", more: "X-Secret: 1", wrong: "X-Secret"},
		{name: "a body where none is", target: "/things/a", status: 204, body: `{}`, wrong: "no content"},
		{name: "another problem", target: "/things/a", status: 404, body: `{}`, mediaType: problem, wrong: "code"},
		{name: "no route and no problem", target: "/other", status: 404, body: `{}`, mediaType: problem, wrong: "code"},
		{name: "no route that is answered", target: "/other", status: 200, body: `{}`, mediaType: "application/json", wrong: "no operation"},
		{name: "a number that is too large", target: "/things/a?n=4", status: 200, body: `{"id":1}`, mediaType: "application/json", wrong: "parameter n"},
		{name: "a number that is none", target: "/things/a?n=x", status: 200, body: `{"id":1}`, mediaType: "application/json", wrong: "parameter n"},
		{name: "a word that is none", target: "/things/a?of=a,c", status: 200, body: `{"id":1}`, mediaType: "application/json", wrong: "parameter of"},
		{name: "a header that is none", target: "/things/a", header: "X-Mode: y", status: 200, body: `{"id":1}`, mediaType: "application/json", wrong: "parameter X-Mode"},
		{name: "a segment that is none", target: "/things/A", status: 200, body: `{"id":1}`, mediaType: "application/json", wrong: "parameter id"},
		{name: "a parameter that there is not", target: "/things/a?x=1", status: 200, body: `{"id":1}`, mediaType: "application/json", wrong: "parameter x"},
		{name: "a body of another form", method: "PUT", target: "/things/a", sent: `1`, sentType: "application/json", status: 204, wrong: "string"},
		{name: "a body of another type", method: "PUT", target: "/things/a", sent: `x`, sentType: "text/plain", status: 204, wrong: "text/plain"},
		{name: "a body where none is asked for", target: "/things/a", sent: `x`, status: 204, wrong: "has a body"},
	} {
		t.Run(x.name, func(t *testing.T) {
			h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
				w.Header().Set("X-Request-Id", "1")
				if x.mediaType != "" {
					w.Header().Set("Content-Type", x.mediaType)
				}
				if name, value, ok := strings.Cut(x.more, ": "); ok {
					w.Header().Set(name, value)
				}
				w.WriteHeader(x.status)
				io.WriteString(w, x.body)
			})
			method := x.method
			if method == "" {
				method = "GET"
			}
			r := httptest.NewRequest(method, x.target, strings.NewReader(x.sent))
			if x.sentType != "" {
				r.Header.Set("Content-Type", x.sentType)
			}
			if name, value, ok := strings.Cut(x.header, ": "); ok {
				r.Header.Set(name, value)
			}
			var got error
			c.Handler(h, func(err error) { got = err }).ServeHTTP(httptest.NewRecorder(), r)
			if (got == nil) != (x.wrong == "") || got != nil && !strings.Contains(got.Error(), x.wrong) {
				t.Errorf("got %v, want %q", got, x.wrong)
			}
		})
	}
	if got := c.Operations(); !slices.Equal(got, []string{"put", "thing"}) {
		t.Errorf("got the operations %q", got)
	}
	if got := c.Seen("thing", 200); got < 5 {
		t.Errorf("got %d answers seen, want them counted", got)
	}
}

func TestTransportFailsWhatIsNotInTheDocument(t *testing.T) {
	c, err := New([]byte(doc))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent, _ := io.ReadAll(r.Body)
		if r.URL.RawQuery != "another" {
			w.Header().Set("X-Request-Id", "1")
		}
		if string(sent) == `"x"` {
			w.WriteHeader(http.StatusNoContent)
		} else if r.URL.RawQuery == "broken" {
			w.Header().Set("Content-Length", "9")
			io.WriteString(w, "{")
		}
	}))
	defer s.Close()
	client := &http.Client{Transport: &Transport{Next: http.DefaultTransport, Checker: func() *Checker { return c }}}
	for _, x := range []struct {
		name, method, target, sent string
		fails                      bool
	}{
		{"as it should be", "PUT", "/things/a", `"x"`, false},
		{"another answer", "PUT", "/things/a", `"y"`, true},
		{"another program's", "PUT", "/things/a?another", `"y"`, false},
		{"one that breaks off is its caller's business", "GET", "/things/a?broken", "", false},
	} {
		r, err := http.NewRequest(x.method, s.URL+x.target, strings.NewReader(x.sent))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(r)
		if (err != nil) != x.fails {
			t.Errorf("%s: got %v, want it to fail: %v", x.name, err, x.fails)
		}
		if err == nil {
			if _, err := io.ReadAll(resp.Body); (err != nil) != (x.method == "GET") {
				t.Errorf("%s: read the answer: %v", x.name, err)
			}
			resp.Body.Close()
		}
	}
}

func TestWhatIsNoDocument(t *testing.T) {
	if _, err := New([]byte("{")); err == nil {
		t.Error("got half a document taken")
	}
}
