package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

// do makes one request with the admin's token and returns the answer.
func do(h http.Handler, method, target string, headers ...string) *httptest.ResponseRecorder {
	return send(h, method, target, "", append([]string{"Authorization", "Bearer secret"}, headers...)...)
}

func send(h http.Handler, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// problem reads an answer that must be a whole problem.
func problem(t *testing.T, w *httptest.ResponseRecorder) Problem {
	t.Helper()
	var p Problem
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("got %d %s, want a problem: %v", w.Code, w.Body, err)
	}
	if got := w.Header().Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("got content type %q, want application/problem+json", got)
	}
	if p.Status != w.Code || p.Type != problemType+p.Code || p.Title == "" || p.Detail == "" || p.RequestID != w.Header().Get("X-Request-Id") || p.RequestID == "" {
		t.Errorf("got %+v with status %d and request id %q, want a whole problem", p, w.Code, w.Header().Get("X-Request-Id"))
	}
	return p
}

// decisions says who may use each route of the two servers. A route is added
// here with a decision, or the test fails.
var decisions = map[string]access{
	"GET /health":               anybody,
	"GET /livez":                anybody,
	"GET /readyz":               anybody,
	"GET /api/v1/health/status": brief,
	"GET /metrics":              reader,
	"GET /openapi.json":         anybody,
	"GET /docs":                 anybody,
	"GET /get":                  reader,
	"GET /api/v1/status":        reader,
	"GET /api/v1/queue":         administrator,
	"GET /api/v1/usage":         reader,
	"GET /api/v1/usage/instances/{id}/current":         reader,
	"GET /api/v1/usage/instances/{id}/history":         reader,
	"GET /api/v1/usage/users/{id}/current":             reader,
	"GET /api/v1/usage/users/{id}/history":             reader,
	"GET /api/v1/usage/organizations/{id}/current":     reader,
	"GET /api/v1/usage/organizations/{id}/history":     reader,
	"GET /api/v1/usage/top":                            reader,
	"GET /api/v1/metrics":                              reader,
	"GET /api/v1/metrics/instances/{id}":               reader,
	"GET /api/v1/instances":                            reader,
	"POST /api/v1/instances":                           administrator,
	"PUT /api/v1/instances/{id}":                       accountHolder,
	"DELETE /api/v1/instances/{id}":                    administrator,
	"GET /api/v1/instances/{id}":                       reader,
	"GET /api/v1/instances/{id}/lifecycle":             reader,
	"GET /api/v1/instances/{id}/ownership":             reader,
	"POST /api/v1/instances/{id}/ownership":            administrator,
	"GET /api/v1/instances/{id}/grants":                reader,
	"POST /api/v1/instances/{id}/grants":               accountHolder,
	"GET /api/v1/instances/{id}/grants/{user}":         reader,
	"PUT /api/v1/instances/{id}/grants/{user}":         accountHolder,
	"DELETE /api/v1/instances/{id}/grants/{user}":      accountHolder,
	"GET /api/v1/months":                               reader,
	"POST /api/v1/months/{month}/close":                administrator,
	"GET /api/v1/statements":                           reader,
	"GET /api/v1/statements/{id}":                      reader,
	"GET /api/v1/events":                               reader,
	"GET /api/v1/usage/stream":                         reader,
	"POST /api/v1/events":                              writer,
	"GET /api/v1/quarantine":                           administrator,
	"POST /api/v1/entries/{id}/reverse":                administrator,
	"POST /api/v1/quarantine/{partition}/{no}/release": administrator,
	"GET /api/v1/me":                                   holder,
	"GET /api/v1/tokens":                               accountHolder,
	"POST /api/v1/tokens":                              accountHolder,
	"GET /api/v1/tokens/{id}":                          accountHolder,
	"DELETE /api/v1/tokens/{id}":                       accountHolder,
	"GET /api/v1/organizations":                        reader,
	"POST /api/v1/organizations":                       administrator,
	"GET /api/v1/organizations/{id}":                   reader,
	"PUT /api/v1/organizations/{id}":                   accountHolder,
	"DELETE /api/v1/organizations/{id}":                accountHolder,
	"GET /api/v1/organizations/{id}/members":           reader,
	"POST /api/v1/organizations/{id}/members":          accountHolder,
	"GET /api/v1/organizations/{id}/members/{user}":    reader,
	"PUT /api/v1/organizations/{id}/members/{user}":    accountHolder,
	"DELETE /api/v1/organizations/{id}/members/{user}": accountHolder,
	"GET /api/v1/users":                                reader,
	"POST /api/v1/users":                               administrator,
	"GET /api/v1/users/{id}":                           reader,
	"PUT /api/v1/users/{id}":                           accountHolder,
	"DELETE /api/v1/users/{id}":                        administrator,
	"GET /api/v1/users/{id}/identities":                reader,
	"POST /api/v1/users/{id}/identities":               administrator,
	"DELETE /api/v1/users/{id}/identities/{identity}":  administrator,
	"GET /api/v1/enrolments":                           administrator,
	"POST /api/v1/enrolments":                          administrator,
	"DELETE /api/v1/enrolments/{id}":                   administrator,
	"POST /api/v1/hosts/enrol":                         anybody, // its body says who it is
	"GET /api/v1/hosts":                                administrator,
	"GET /api/v1/hosts/{id}":                           administrator,
	"DELETE /api/v1/hosts/{id}":                        administrator,
	"GET /api/v1/consumers":                            administrator,
	"POST /api/v1/consumers":                           administrator,
	"DELETE /api/v1/consumers/{id}":                    administrator,
	"GET /api/v1/audit-log":                            administrator,
}

// handlers returns both servers on one fixture.
func handlers(t *testing.T, f *Fixture) map[string]checked {
	return map[string]checked{
		"server": serverOf(t, f.Deps),
		"agent":  agentOf(t, f.Deps),
	}
}

// target fills in a pattern's wildcards.
func target(pattern string) (method, path string) {
	method, path, _ = strings.Cut(pattern, " ")
	id := "vm-1"
	if strings.Contains(path, "/tokens/") {
		id = "tok_aaaaaaaaaaaaaaaa"
	}
	if strings.Contains(path, "/consumers/") {
		id = "con_aaaaaaaaaaaaaaaa"
	}
	if strings.Contains(path, "/enrolments/") {
		id = "enr_aaaaaaaaaaaaaaaa"
	}
	if strings.Contains(path, "/statements/") {
		id = "2025-12-aaaaaaaaaaaaaaaa"
	}
	return method, strings.NewReplacer("{month}", "2025-12", "{identity}", exampleIdentity, "{id}", id, "{user}", "u-1", "{partition}", "3", "{no}", "1").Replace(path)
}

func TestEveryRouteHasItsAuthDecision(t *testing.T) {
	f := NewFixture(t)
	seen := map[string]bool{}
	for name, rt := range handlers(t, f) {
		for pattern, row := range rt.table {
			seen[pattern] = true
			want, decided := decisions[pattern]
			if !decided || want != row.access || row.access == undecided {
				t.Errorf("%s: %s has access %d, want the decision %d (decided: %v)", name, pattern, row.access, want, decided)
			}
			method, path := target(pattern)
			for _, c := range []struct{ says, header string }{
				{"no token", ""}, {"a wrong token", "Bearer wrong"}, {"an empty token", "Bearer "},
				{"another scheme", "Basic secret"}, {"a token and more", "Bearer secret "}, {"the token alone", "secret"},
			} {
				headers := []string{}
				if c.header != "" {
					headers = []string{"Authorization", c.header}
				}
				w := send(rt, method, path, "", headers...)
				refused := w.Code == http.StatusUnauthorized
				if open := row.access == anybody || row.access == brief && c.header == ""; refused == open {
					t.Errorf("%s: %s with %s: got status %d, want refused to be %v", name, pattern, c.says, w.Code, !open)
				}
				if refused {
					if p := problem(t, w); p.Code != "unauthorized" || w.Header().Get("WWW-Authenticate") == "" {
						t.Errorf("%s: %s: got code %q and WWW-Authenticate %q, want unauthorized and a challenge", name, pattern, p.Code, w.Header().Get("WWW-Authenticate"))
					}
				}
			}
			if w := send(rt, method, path, "", "Authorization", "bearer secret"); w.Code == http.StatusUnauthorized {
				t.Errorf("%s: %s with the right token: got 401, want through", name, pattern)
			}
		}
	}
	for pattern := range decisions {
		if !seen[pattern] {
			t.Errorf("%s is decided and no route", pattern)
		}
	}
}

func TestUndecidedRouteLetsNobodyThrough(t *testing.T) {
	rt := newRouter("0.1", nil, nil, Tokens{HashToken("admin", "secret")}, Stats{}, func(*router) []route {
		return []route{{pattern: "GET /new", handle: func(w http.ResponseWriter, _ *http.Request) error { return nil }}}
	})
	if w := do(rt, "GET", "/new"); w.Code != http.StatusUnauthorized {
		t.Errorf("got status %d, want 401", w.Code)
	}
}

func TestWithoutAuthenticatorEverythingIsRefused(t *testing.T) {
	f := NewFixture(t)
	f.Deps.Auth = nil
	if w := do(serverOf(t, f.Deps), "GET", "/api/v1/usage"); w.Code != http.StatusUnauthorized {
		t.Errorf("got status %d, want 401", w.Code)
	}
}

func TestEmptyTokenMatchesNothing(t *testing.T) {
	tokens := Tokens{HashToken("admin", ""), {}}
	for _, token := range []string{"", "x"} {
		if caller, ok := tokens.Authenticate(t.Context(), token); ok {
			t.Errorf("token %q: got holder %v, want none", token, caller)
		}
	}
}

func TestUnknownRoutesAndMethods(t *testing.T) {
	h := serverOf(t, NewFixture(t).Deps)
	for _, c := range []struct {
		name, method, path string
		status             int
		code, allow        string
	}{
		{"no such path", "GET", "/api/v2/usage", 404, "no_such_route", ""},
		{"the root", "GET", "/", 404, "no_such_route", ""},
		{"a method the path has not", "DELETE", "/api/v1/events", 405, "method_not_allowed", "GET, HEAD, POST"},
		{"a post to what is only read", "POST", "/api/v1/usage", 405, "method_not_allowed", "GET, HEAD"},
		{"a path that is not clean", "GET", "//api/v1/usage", 404, "no_such_route", ""},
		{"a path that climbs", "GET", "/api/v1/../v1/usage", 404, "no_such_route", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := do(h, c.method, c.path)
			if p := problem(t, w); w.Code != c.status || p.Code != c.code || w.Header().Get("Allow") != c.allow {
				t.Errorf("got %d %s, Allow %q, want %d %s, Allow %q", w.Code, p.Code, w.Header().Get("Allow"), c.status, c.code, c.allow)
			}
			if w := send(h, c.method, c.path, ""); w.Code != http.StatusUnauthorized {
				t.Errorf("without a token: got %d, want 401: what is there is nobody's business", w.Code)
			}
		})
	}
}

func TestErrorsMapToStatuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		err    error
		status int
		code   string
	}{
		{"invalid", odometer.ErrInvalid, 400, "invalid_request"},
		{"not found", odometer.ErrNotFound, 404, "not_found"},
		{"conflict", odometer.ErrConflict, 409, "conflict"},
		{"forbidden", odometer.ErrForbidden, 403, "forbidden"},
		{"unavailable", odometer.ErrUnavailable, 503, "unavailable"},
		{"deadline", context.DeadlineExceeded, 503, "timeout"},
		{"the client went away", context.Canceled, 499, "canceled"},
		{"no kind", io.ErrUnexpectedEOF, 500, "internal"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewFixture(t)
			f.Fails = fmt.Errorf("read page 7 of /data/ledger.db: %w", c.err)
			w := do(NewServer(f.Deps), "GET", "/api/v1/usage") // which has not all of these in its document
			p := problem(t, w)
			if w.Code != c.status || p.Code != c.code || p.Instance != "/api/v1/usage" {
				t.Errorf("got %d %s at %s, want %d %s at /api/v1/usage", w.Code, p.Code, p.Instance, c.status, c.code)
			}
			if got, want := w.Header().Get("Retry-After") != "", c.status == 503; got != want {
				t.Errorf("Retry-After: got %v, want %v", got, want)
			}
			if shown := strings.Contains(w.Body.String(), "page 7"); shown != (c.status != 500) {
				t.Errorf("cause shown: got %v, want %v", shown, c.status != 500)
			}
			if c.status != 500 && !errors.Is(&p, c.err) {
				t.Errorf("a client's problem: got no %v", c.err)
			}
		})
	}
}

func TestPanicBecomesAProblem(t *testing.T) {
	var log bytes.Buffer
	rt := newRouter("0.1", slog.New(slog.NewTextHandler(&log, nil)), nil, nil, Stats{}, func(*router) []route {
		return []route{
			{pattern: "GET /before", access: anybody, handle: func(http.ResponseWriter, *http.Request) error { panic("the floor") }},
			{pattern: "GET /after", access: anybody, handle: func(w http.ResponseWriter, _ *http.Request) error {
				w.Write([]byte("half an answ"))
				panic("the floor")
			}},
		}
	})
	w := send(rt, "GET", "/before", "")
	if p := problem(t, w); w.Code != 500 || p.Code != "internal" || strings.Contains(w.Body.String(), "floor") {
		t.Errorf("got %d %s, want 500 without the cause", w.Code, w.Body)
	}
	if !strings.Contains(log.String(), "the floor") || !strings.Contains(log.String(), w.Header().Get("X-Request-Id")) {
		t.Errorf("got log %q, want the cause under the request id", &log)
	}
	defer func() {
		if v := recover(); v != http.ErrAbortHandler {
			t.Errorf("after half an answer: got panic %v, want the connection aborted", v)
		}
	}()
	send(rt, "GET", "/after", "")
}

func TestSlowAnswerTimesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rt := newRouter("0.1", nil, nil, nil, Stats{}, func(*router) []route {
			return []route{{pattern: "GET /slow", access: anybody, handle: func(_ http.ResponseWriter, r *http.Request) error {
				<-r.Context().Done()
				return fmt.Errorf("read usage: %w", r.Context().Err())
			}}}
		})
		begin := time.Now()
		w := send(rt, "GET", "/slow", "")
		if p := problem(t, w); p.Code != "timeout" || time.Since(begin) != RequestTimeout {
			t.Errorf("got %s after %s, want timeout after %s", p.Code, time.Since(begin), RequestTimeout)
		}
	})
}

func TestHeadersOfEveryAnswer(t *testing.T) {
	h := serverOf(t, NewFixture(t).Deps)
	for _, path := range []string{"/health", "/api/v1/events", "/nowhere", "/metrics"} {
		w := do(h, "GET", path)
		for name, want := range map[string]string{"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"} {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%s: %s: got %q, want %q", path, name, got, want)
			}
		}
	}
	for _, c := range []struct {
		name, sent string
		kept       bool
	}{
		{"the client's id is kept", "abc-1.2_Z", true},
		{"an id with other characters is replaced", "a b", false},
		{"an id that forges a log line is replaced", "a\nlevel=ERROR", false},
		{"an id that is too long is replaced", strings.Repeat("a", 65), false},
		{"no id is given one", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := do(h, "GET", "/health", "X-Request-Id", c.sent).Header().Get("X-Request-Id")
			if (got == c.sent) != c.kept || got == "" {
				t.Errorf("got id %q for %q, want kept to be %v", got, c.sent, c.kept)
			}
		})
	}
}

func TestHeadHasNoBody(t *testing.T) {
	s := httptest.NewServer(serverOf(t, NewFixture(t).Deps))
	defer s.Close()
	resp, err := http.Head(s.URL + "/health")
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != 200 || len(body) != 0 {
		t.Errorf("got %d with %d bytes, want 200 with none", resp.StatusCode, len(body))
	}
}

func TestAccessLogIsForDebugging(t *testing.T) {
	f := NewFixture(t)
	var log bytes.Buffer
	f.Deps.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	do(serverOf(t, f.Deps), "GET", "/api/v1/usage?from=-1h", "X-Request-Id", "r-1")
	for _, want := range []string{"level=DEBUG", "request_id=r-1", `route="GET /api/v1/usage"`, "status=200"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("got log %q, want %q in it", &log, want)
		}
	}
	if strings.Contains(log.String(), "secret") {
		t.Errorf("got log %q with the token in it", &log)
	}
}

func TestAbsentPartsAreNotFound(t *testing.T) {
	h := serverOf(t, Deps{Auth: Tokens{HashToken("admin", "secret")}})
	for pattern, a := range decisions {
		if a <= holder || pattern == "GET /metrics" {
			continue
		}
		method, path := target(pattern)
		if w := do(h, method, path); w.Code != 404 || problem(t, w).Code != "not_found" {
			t.Errorf("%s: got %d, want 404 not_found", pattern, w.Code)
		}
	}
	if w := do(h, "GET", "/readyz"); w.Code != 503 {
		t.Errorf("readyz without facts: got %d, want 503", w.Code)
	}
}

func TestConfigureSetsEveryLimit(t *testing.T) {
	s := StandardConnLimits.Configure(http.NotFoundHandler(), nil)
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout <= RequestTimeout || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Errorf("got %+v, want every limit set and the write limit above %s", s, RequestTimeout)
	}
}
