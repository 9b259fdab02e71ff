package api

import (
	"bytes"
	"database/sql"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
)

// byHand is who creates tokens in tests.
var byHand = odometer.Actor{Caller: odometer.Caller{Name: "admin", Scopes: []odometer.Scope{odometer.ScopeAdmin}}, Remote: "192.0.2.1"}

// create creates a token and returns its id and secret.
func create(t *testing.T, a *account.Accounts, name string, expires time.Time, scopes ...odometer.Scope) (odometer.TokenID, string) {
	t.Helper()
	token, secret, err := a.CreateToken(t.Context(), byHand, odometer.Token{Name: name, Scopes: scopes, Expires: expires})
	if err != nil {
		t.Fatal(err)
	}
	return token.ID, secret
}

// principal is somebody who makes requests.
type principal struct {
	name   string
	header []string // of Authorization
	valid  bool
	scopes []odometer.Scope
}

func bearerOf(secret string) []string { return []string{"Bearer " + secret} }

// principals are all kinds of them. Those tokens that expire do so before later.
func principals(t *testing.T, a *account.Accounts, later time.Time) []principal {
	_, expired := create(t, a, "expired", later, odometer.ScopeAdmin)
	id, revoked := create(t, a, "revoked", time.Time{}, odometer.ScopeAdmin)
	if _, err := a.RevokeToken(t.Context(), byHand, id); err != nil {
		t.Fatal(err)
	}
	_, good := create(t, a, "whole", time.Time{}, odometer.ScopeAdmin)
	list := []principal{
		{name: "no token"},
		{name: "an empty header", header: []string{""}},
		{name: "an empty token", header: bearerOf("")},
		{name: "a token of another form", header: bearerOf("wrong")},
		{name: "a token that lost its end", header: bearerOf(good[:len(good)-1])},
		{name: "a token in capitals", header: bearerOf(strings.ToUpper(good))},
		{name: "a token and more", header: bearerOf(good + " ")},
		{name: "another scheme", header: []string{"Basic " + good}},
		{name: "the token alone", header: []string{good}},
		{name: "two tokens", header: append(bearerOf(good), bearerOf(good)...)},
		{name: "its id", header: bearerOf(string(id))},
		{name: "an unknown token", header: bearerOf(account.NewSecret())},
		{name: "an expired token", header: bearerOf(expired)},
		{name: "a revoked token", header: bearerOf(revoked)},
		{name: "the administrator's", header: bearerOf("secret"), valid: true, scopes: []odometer.Scope{odometer.ScopeAdmin}},
	}
	for set := 1; set < 1<<len(odometer.Scopes); set++ {
		var scopes []odometer.Scope
		for i, s := range odometer.Scopes {
			if set&(1<<i) != 0 {
				scopes = append(scopes, s)
			}
		}
		name := "the scopes " + odometer.JoinScopes(scopes, " ")
		if odometer.ValidScopes(odometer.Bound{}, scopes) != nil {
			continue // no service's
		}
		_, secret := create(t, a, name, later.Add(time.Second), scopes...)
		list = append(list, principal{name: name, header: bearerOf(secret), valid: true, scopes: scopes})
	}
	return list
}

// TestEveryRouteForEveryPrincipal makes each request of the table of routes as
// every kind of caller, of both servers, and holds the answer to the decision and
// to the OpenAPI document. Who may is answered as the administrator is.
func TestEveryRouteForEveryPrincipal(t *testing.T) {
	f := NewFixture(t)
	now := Now
	clock := func() time.Time { return now }
	accounts := NewAccounts(t, clock)
	f.Deps.Clock, f.Deps.Tokens, f.Deps.People, f.Deps.Audit = clock, accounts, accounts, accounts
	f.Deps.Auth = Authenticators{Tokens{HashToken("admin", "secret")}, accounts}
	later := now.Add(time.Hour)
	list := principals(t, accounts, later)
	now = later // to the microsecond

	needs := map[access]odometer.Scope{reader: odometer.ScopeRead, writer: odometer.ScopeWriteEvents, accountHolder: odometer.ScopeAccount, administrator: odometer.ScopeAdmin}
	requests := 0
	for name, rt := range handlers(t, f) {
		for pattern := range rt.table {
			method, path := target(pattern)
			methods := []string{method}
			if method == "GET" {
				methods = append(methods, "HEAD")
			}
			for _, method := range methods {
				as := func(p principal) *httptest.ResponseRecorder {
					requests++
					r := httptest.NewRequest(method, path, nil)
					r.Header["Authorization"] = p.header
					w := httptest.NewRecorder()
					rt.ServeHTTP(w, r)
					return w
				}
				admin := as(principal{header: bearerOf("secret")})
				for _, p := range list {
					w := as(p)
					want := admin.Code
					switch a := decisions[pattern]; {
					case a == undecided, a != anybody && !p.valid && !(a == brief && p.header == nil):
						want = http.StatusUnauthorized
					case p.valid && needs[a] != "" && !slices.Contains(p.scopes, needs[a]) && !slices.Contains(p.scopes, odometer.ScopeAdmin):
						want = http.StatusForbidden
					}
					if w.Code != want {
						t.Errorf("%s: %s %s with %s: got status %d, want %d", name, method, path, p.name, w.Code, want)
						continue
					}
					challenge := w.Header().Get("WWW-Authenticate")
					switch want {
					case http.StatusUnauthorized:
						if pr := problem(t, w); pr.Code != "unauthorized" || challenge != `Bearer realm="odometer"` {
							t.Errorf("%s with %s: got code %s, challenge %q", pattern, p.name, pr.Code, challenge)
						}
					case http.StatusForbidden:
						needs := string(needs[decisions[pattern]])
						if pr := problem(t, w); pr.Code != "insufficient_scope" || !strings.Contains(challenge, `scope="`+needs+`"`) || !strings.Contains(pr.Detail, "scope "+needs) {
							t.Errorf("%s with %s: got code %s, challenge %q, detail %q, want the scope %s named", pattern, p.name, pr.Code, challenge, pr.Detail, needs)
						}
					default:
						if challenge != "" {
							t.Errorf("%s with %s: got the challenge %q with status %d", pattern, p.name, challenge, w.Code)
						}
					}
				}
			}
		}
	}
	t.Logf("%d requests", requests)
}

// TestUndecidedRouteLetsNobodyThroughWhoeverAsks is about the zero value.
func TestUndecidedRouteLetsNobodyThroughWhoeverAsks(t *testing.T) {
	accounts := NewAccounts(t, func() time.Time { return Now })
	rt := newRouter("0.1", nil, nil, Authenticators{Tokens{HashToken("admin", "secret")}, accounts}, Stats{}, func(*router) []route {
		return []route{{pattern: "GET /new", handle: func(http.ResponseWriter, *http.Request) error { return nil }}}
	})
	for _, p := range principals(t, accounts, Now.Add(time.Hour)) {
		r := httptest.NewRequest("GET", "/new", nil)
		r.Header["Authorization"] = p.header
		w := httptest.NewRecorder()
		rt.ServeHTTP(w, r)
		if w.Code != http.StatusUnauthorized {
			t.Errorf("%s: got status %d, want 401", p.name, w.Code)
		}
	}
}

func TestHealthHasDetailsForReadersAlone(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	_, reads := create(t, f.Accounts, "reads", time.Time{}, odometer.ScopeRead)
	_, writes := create(t, f.Accounts, "writes", time.Time{}, odometer.ScopeWriteEvents)
	if _, err := f.Accounts.CreateUser(t.Context(), byHand, odometer.Once{}, odometer.User{ID: "u-ada", Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	_, users, err := f.Accounts.CreateToken(t.Context(), byHand, odometer.Token{Name: "a", Bound: odometer.Bound{User: "u-ada"}, Scopes: []odometer.Scope{odometer.ScopeRead}})
	if err != nil {
		t.Fatal(err)
	}
	for secret, want := range map[string]bool{reads: true, writes: false, users: false, "secret": true} {
		w := send(h, "GET", "/api/v1/health/status", "", "Authorization", "Bearer "+secret)
		if got := strings.Contains(w.Body.String(), `"facts":{"`); w.Code != 200 || got != want {
			t.Errorf("got %d %s, want details %v", w.Code, w.Body, want)
		}
	}
}

// TestARevokedTokenIsRefusedByTheNextRequest revokes a token while requests with
// it run: of those that begin after the answer none is let through.
func TestARevokedTokenIsRefusedByTheNextRequest(t *testing.T) {
	f := NewFixture(t)
	s := httptest.NewServer(serverOf(t, f.Deps))
	defer s.Close()
	ask := func(method, path, secret string) (int, error) {
		r, err := http.NewRequestWithContext(t.Context(), method, s.URL+path, nil)
		if err != nil {
			return 0, err
		}
		r.Header.Set("Authorization", "Bearer "+secret)
		resp, err := http.DefaultClient.Do(r)
		if err != nil {
			return 0, err
		}
		return resp.StatusCode, resp.Body.Close()
	}
	for round := range 5 {
		id, secret := create(t, f.Accounts, fmt.Sprint("round ", round), time.Time{}, odometer.ScopeRead)
		var revoked atomic.Bool
		var before, after atomic.Int64
		var running sync.WaitGroup
		for range 4 {
			running.Go(func() {
				for n := 0; n < 5; {
					was := revoked.Load()
					code, err := ask("GET", "/api/v1/me", secret)
					switch {
					case err != nil:
						t.Error(err)
						return
					case was && code != http.StatusUnauthorized:
						t.Errorf("a request after the revocation: got status %d, want 401", code)
						return
					case was:
						after.Add(1)
						n++
					case code == http.StatusOK:
						before.Add(1)
					}
				}
			})
		}
		for before.Load() < 8 && !t.Failed() {
			time.Sleep(time.Millisecond)
		}
		if code, err := ask("DELETE", "/api/v1/tokens/"+string(id), "secret"); err != nil || code != http.StatusOK {
			t.Errorf("revoke: got %d, %v", code, err)
		}
		revoked.Store(true)
		running.Wait()
		if after.Load() == 0 {
			t.Error("got no request after the revocation")
		}
	}
}

// TestNoAnswerRepeatsASecret puts the secret of a token wherever a request has
// room for it. It is in the answer that creates it, and in no other, and in no
// line of the log.
func TestNoAnswerRepeatsASecret(t *testing.T) {
	f := NewFixture(t)
	var log bytes.Buffer
	f.Deps.Logger = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	h := serverOf(t, f.Deps)
	w := send(h, "POST", "/api/v1/tokens", `{"name":"canary","scopes":["admin"]}`, "Authorization", "Bearer secret", "Content-Type", "application/json")
	var created CreatedToken
	if err := json.Unmarshal(w.Body.Bytes(), &created); err != nil || w.Code != 201 || w.Header().Get("Cache-Control") != "no-store" {
		t.Fatalf("got %d %s, %v, Cache-Control %q, want a token", w.Code, w.Body, err, w.Header().Get("Cache-Control"))
	}
	if got, want := w.Header().Get("Location"), "/api/v1/tokens/"+string(created.ID); got != want {
		t.Errorf("Location: got %q, want %q", got, want)
	}
	canary := created.Secret
	if w := do(h, "GET", "/api/v1/tokens/"+string(created.ID)); w.Code != 200 {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
	body := fmt.Sprintf(`{"name":%q,"scopes":[%[1]q],"expires_at":%[1]q}`, canary)
	cut := canary[:20]
	for _, r := range []struct{ method, target, body string }{
		{"GET", "/api/v1/me?" + canary + "=1", ""},
		{"GET", "/api/v1/usage?token=" + canary, ""},
		{"GET", "/api/v1/usage?from=" + canary + "&group_by=" + canary + "&top_by=" + canary + "&top=" + canary, ""},
		{"GET", "/api/v1/instances?state=" + canary + "&attribute=" + canary + "&limit=" + canary, ""},
		{"GET", "/api/v1/instances/" + canary, ""},
		{"GET", "/api/v1/instances/" + cut + "/lifecycle?from=" + canary, ""},
		{"GET", "/api/v1/events?after=" + canary, ""},
		{"GET", "/api/v1/tokens?after=" + canary + "&limit=" + canary, ""},
		{"GET", "/api/v1/tokens/" + canary, ""},
		{"DELETE", "/api/v1/tokens/" + canary, ""},
		{"GET", "/api/v1/tokens", ""},
		{"GET", "/api/v1/audit-log", ""},
		{"GET", "/api/v1/audit-log?after=" + canary, ""},
		{"GET", "/" + canary, ""},
		{"PUT", "/api/v1/me", canary},
		{"POST", "/api/v1/tokens", body},
		{"POST", "/api/v1/tokens", canary},
		{"POST", "/api/v1/tokens", fmt.Sprintf(`{%q:1}`, canary)},
		{"POST", "/api/v1/tokens", fmt.Sprintf(`{"name":1,"scopes":%q}`, canary)},
		{"POST", "/api/v1/tokens", fmt.Sprintf(`{"name":"x","scopes":["read",%q]}`, canary)},
		{"POST", "/api/v1/tokens", fmt.Sprintf(`{"name":"x","scopes":["read"],"expires_at":%q}`, canary)},
		{"POST", "/api/v1/entries/" + canary + "/reverse", fmt.Sprintf(`{%q:1}`, canary)},
		{"POST", "/api/v1/quarantine/" + canary + "/" + canary + "/release", ""},
		{"POST", "/api/v1/events", canary},
	} {
		for _, header := range [][]string{
			{"Authorization", "Bearer " + canary}, {"Authorization", "Bearer " + canary + "a"}, {"Authorization", canary}, {"Authorization", "Basic " + canary},
		} {
			for _, failing := range []error{nil, fmt.Errorf("cannot read %s: %w", canary, odometer.ErrUnavailable), fmt.Errorf("cannot read %s", canary)} {
				f.Fails = failing
				w := send(h, r.method, r.target, r.body, append([]string{"Content-Type", "application/json", "X-Request-Id", canary}, header...)...)
				if strings.Contains(w.Body.String(), cut) || strings.Contains(fmt.Sprint(w.Header()), cut) {
					t.Errorf("%s %s, %v: got %v %s, want it without the secret", r.method, r.target, header, w.Header(), w.Body)
				}
			}
		}
	}
	if strings.Contains(log.String(), cut) {
		for line := range strings.Lines(log.String()) {
			if strings.Contains(line, cut) {
				t.Fatalf("got the log's line %s", line)
			}
		}
	}
}

// TestTokensThatAreRefused names each thing that is wrong with a request.
func TestTokensThatAreRefused(t *testing.T) {
	h := serverOf(t, NewFixture(t).Deps)
	for _, c := range []struct {
		name, body string
		want       []string // fields
	}{
		{"nothing", `{}`, []string{"$.name", "$.scopes"}},
		{"an empty list and a name of spaces", `{"name":" x","scopes":[]}`, []string{"$.name", "$.scopes"}},
		{"a name that is too long", `{"name":"` + strings.Repeat("ä", 65) + `","scopes":["read"]}`, []string{"$.name"}},
		{"a name with a line end", `{"name":"a\nb","scopes":["read"]}`, []string{"$.name"}},
		{"a scope that there is not", `{"name":"a","scopes":["read","write"]}`, []string{"$.scopes"}},
		{"a scope in capitals", `{"name":"a","scopes":["Read"]}`, []string{"$.scopes"}},
		{"a scope twice", `{"name":"a","scopes":["read","read"]}`, []string{"$.scopes"}},
		{"an expiry that is now", `{"name":"a","scopes":["read"],"expires_at":"now"}`, []string{"$.expires_at"}},
		{"an expiry that is past", `{"name":"a","scopes":["read"],"expires_at":"-1d"}`, []string{"$.expires_at"}},
		{"an expiry beyond the calendar", `{"name":"a","scopes":["read"],"expires_at":"+9999999w"}`, []string{"$.expires_at"}},
		{"an empty expiry", `{"name":"a","scopes":["read"],"expires_at":""}`, []string{"$.expires_at"}},
		{"an expiry that is a number", `{"name":"a","scopes":["read"],"expires_at":5}`, []string{"$.expires_at"}},
		{"a member that nobody knows", `{"name":"a","scopes":["read"],"scope":"admin"}`, []string{"$"}},
		{"two objects", `{"name":"a","scopes":["read"]}{}`, []string{"$"}},
		{"half an object", `{"name":"a"`, []string{"$"}},
		{"no object", `[]`, []string{"$"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := do(h, "POST", "/api/v1/tokens?x=1")
			if p := problem(t, w); w.Code != 415 && w.Code != 400 {
				t.Errorf("a parameter: got %d %+v", w.Code, p)
			}
			w = send(h, "POST", "/api/v1/tokens", c.body, "Authorization", "Bearer secret", "Content-Type", "application/json")
			p := problem(t, w)
			var got []string
			for _, e := range p.Errors {
				got = append(got, e.Name)
			}
			if w.Code != 400 || fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %d, fields %v of %+v, want 400 and %v", w.Code, got, p, c.want)
			}
		})
	}
	for target, want := range map[string]string{
		"/api/v1/tokens?limit=0&after=tok_1": "after", "/api/v1/tokens?after=tok_aaaaaaaaaaaaaaaa": "after", "/api/v1/tokens?limit=1001": "limit", "/api/v1/tokens?x=1": "x",
		"/api/v1/tokens/tok_": "id", "/api/v1/tokens/x?y=1": "y", "/api/v1/audit-log?after=0": "after", "/api/v1/audit-log?after=-1": "after",
		"/api/v1/audit-log?after=01": "after", "/api/v1/audit-log?after=9223372036854775808": "after", "/api/v1/audit-log?limit=x": "limit", "/api/v1/audit-log?after=1&after=2": "after",
		"/api/v1/me?x": "x",
	} {
		w := do(h, "GET", target)
		p := problem(t, w)
		named := want == ""
		for _, e := range p.Errors {
			named = named || e.Name == want
		}
		if w.Code != 400 || !named {
			t.Errorf("%s: got %d %+v, want %s refused", target, w.Code, p, want)
		}
	}
	if w := send(h, "POST", "/api/v1/tokens", `{}`, "Authorization", "Bearer secret", "Content-Type", "text/plain"); w.Code != 415 {
		t.Errorf("text: got %d, want 415", w.Code)
	}
	if w := send(h, "POST", "/api/v1/tokens", `{"name":"`+strings.Repeat("a", MaxBodyBytes), "Authorization", "Bearer secret", "Content-Type", "application/json"); w.Code != 413 {
		t.Errorf("a body that is too large: got %d, want 413", w.Code)
	}
}

// TestAuditLogSaysWhoDidIt has a token's holder decide things of the ledger.
func TestAuditLogSaysWhoDidIt(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	id, secret := create(t, f.Accounts, "ops", time.Time{}, odometer.ScopeAdmin)
	first, changed := SampleEvent("vm-1", 1, odometer.Owner{}), SampleEvent("vm-1", 1, odometer.Owner{})
	changed.Usage.Vector[odometer.CPU]++
	changed.Readings.End.Vector[odometer.CPU]++
	for _, e := range []*odometer.Event{&first, &changed} {
		send(h, "POST", "/api/v1/events", string(Structured(e)), "Authorization", "Bearer secret", "Content-Type", odometer.ContentCloudEvent)
	}
	items, err := f.Quarantine(t.Context(), 1)
	if err != nil || len(items) != 1 {
		t.Fatalf("got %+v, %v, want one in quarantine", items, err)
	}
	entries, _, err := f.Entries(t.Context(), odometer.Everything, odometer.EntryQuery{Limit: 1})
	if err != nil || len(entries) != 1 {
		t.Fatalf("got %+v, %v, want an entry", entries, err)
	}
	released := fmt.Sprintf("%d-%d", items[0].Partition, items[0].No)
	by := []string{"Authorization", "Bearer " + secret, "Content-Type", "application/json"}
	if w := send(h, "POST", "/api/v1/quarantine/"+strings.Replace(released, "-", "/", 1)+"/release", "", by...); w.Code != 200 {
		t.Fatalf("release: got %d %s", w.Code, w.Body)
	}
	reverse := "/api/v1/entries/" + entries[0].ID.String() + "/reverse"
	if w := send(h, "POST", reverse, `{"cause":"a mistake"}`, by...); w.Code != 200 || !strings.Contains(w.Body.String(), "ops ("+string(id)+")") {
		t.Fatalf("reverse: got %d %s, want it in the name of ops", w.Code, w.Body)
	}
	if w := send(h, "POST", reverse, `{"cause":"again"}`, by...); w.Code != 409 { // nothing was done
		t.Fatalf("reverse again: got %d %s", w.Code, w.Body)
	}
	var answer AuditLogAnswer
	if err := json.Unmarshal(do(h, "GET", "/api/v1/audit-log").Body.Bytes(), &answer); err != nil || len(answer.Log) != 3 {
		t.Fatalf("got %+v, %v, want three lines", answer, err)
	}
	for i, want := range []AuditLine{
		{Action: odometer.ActionEntryReverse, Object: entries[0].ID.String(), Actor: "ops", Token: &id},
		{Action: odometer.ActionQuarantineRelease, Object: released, Actor: "ops", Token: &id},
		{Action: odometer.ActionTokenCreate, Object: string(id), Actor: "admin"},
	} {
		got := answer.Log[i]
		if got.Action != want.Action || got.Object != want.Object || got.Actor != want.Actor || (got.Token == nil) != (want.Token == nil) || got.Remote != "192.0.2.1" || !got.At.Equal(Now) {
			t.Errorf("line %d: got %+v, want %+v", i, got, want)
		}
	}
	if !strings.HasSuffix(answer.Log[0].Detail, ": a mistake") {
		t.Errorf("got the detail %q, want the cause in it", answer.Log[0].Detail)
	}
}

// TestALineThatTheAuditLogLacksIsInTheServersLog: what the ledger has done stays
// done.
func TestALineThatTheAuditLogLacksIsInTheServersLog(t *testing.T) {
	f := NewFixture(t)
	var log bytes.Buffer
	f.Deps.Logger = slog.New(slog.NewTextHandler(&log, nil))
	h := serverOf(t, f.Deps)
	e := SampleEvent("vm-1", 1, odometer.Owner{})
	send(h, "POST", "/api/v1/events", string(Structured(&e)), "Authorization", "Bearer secret", "Content-Type", odometer.ContentCloudEvent)
	entries, _, _ := f.Entries(t.Context(), odometer.Everything, odometer.EntryQuery{Limit: 1})
	f.Accounts.Close()
	w := send(h, "POST", "/api/v1/entries/"+entries[0].ID.String()+"/reverse", `{"cause":"a mistake"}`, "Authorization", "Bearer secret", "Content-Type", "application/json")
	if w.Code != 200 || !strings.Contains(log.String(), "the audit log lacks a line") || !strings.Contains(log.String(), "entry.reverse") || !strings.Contains(log.String(), "a mistake") {
		t.Errorf("got %d %s, log %s, want it done and the line logged", w.Code, w.Body, &log)
	}
}

// TestALockedDatabaseIsUnavailable has another process hold the file: changes of
// tokens are for later, and everything else goes on.
func TestALockedDatabaseIsUnavailable(t *testing.T) {
	f := NewFixture(t)
	path := filepath.Join(t.TempDir(), "ledger.db")
	accounts, err := account.OpenAccounts(t.Context(), account.AccountsOptions{Path: path, Wait: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	defer accounts.Close()
	f.Deps.Tokens, f.Deps.People, f.Deps.Audit, f.Deps.Auth = accounts, accounts, accounts, accounts
	h := serverOf(t, f.Deps)
	id, secret := create(t, accounts, "ops", time.Time{}, odometer.ScopeAdmin)
	other, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(method, target, body string) *httptest.ResponseRecorder {
		return send(h, method, target, body, "Authorization", "Bearer "+secret, "Content-Type", "application/json")
	}
	for _, w := range []*httptest.ResponseRecorder{
		ask("POST", "/api/v1/tokens", `{"name":"x","scopes":["read"]}`), ask("DELETE", "/api/v1/tokens/"+string(id), ""),
	} {
		if p := problem(t, w); w.Code != 503 || p.Code != "unavailable" || w.Header().Get("Retry-After") == "" {
			t.Errorf("locked: got %d %+v, want 503 with Retry-After", w.Code, p)
		}
	}
	e := SampleEvent("vm-1", 1, odometer.Owner{})
	for _, w := range []*httptest.ResponseRecorder{
		ask("GET", "/api/v1/me", ""), ask("GET", "/api/v1/tokens", ""), ask("GET", "/api/v1/audit-log", ""), ask("GET", "/api/v1/usage", ""),
		send(h, "POST", "/api/v1/events", string(Structured(&e)), "Authorization", "Bearer "+secret, "Content-Type", odometer.ContentCloudEvent),
	} {
		if w.Code != 200 {
			t.Errorf("locked: got %d %s, want it answered", w.Code, w.Body)
		}
	}
	tx.Rollback()
	if w := ask("DELETE", "/api/v1/tokens/"+string(id), ""); w.Code != 200 {
		t.Errorf("unlocked: got %d %s", w.Code, w.Body)
	}
	if w := ask("GET", "/api/v1/me", ""); w.Code != 401 {
		t.Errorf("revoked: got %d %s", w.Code, w.Body)
	}
}
