package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// limited is a server with limits, on a clock that the test moves.
func limited(t *testing.T, l Limits) (f *Fixture, h checked, now *time.Time) {
	t.Helper()
	f, now = NewFixture(t), new(Now)
	f.Deps.Clock, f.Deps.Limits = func() time.Time { return *now }, l
	f.Deps.Refused = NewRefusals(f.Accounts, f.Deps.Clock, nil)
	return f, serverOf(t, f.Deps), now
}

// from sends a request from an address.
func from(h checked, address, method, target, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.RemoteAddr = address
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// TestATokenAsksSoOftenAndNoMore counts what is answered, whatever the answer is, for
// each token by itself.
func TestATokenAsksSoOftenAndNoMore(t *testing.T) {
	f, h, now := limited(t, Limits{Requests: 2, Events: 3})
	id, secret := create(t, f.Accounts, "reads", time.Time{}, odometer.ScopeRead)
	_, other := create(t, f.Accounts, "reads too", time.Time{}, odometer.ScopeRead)
	ask := func(secret, method, target string, want int) *httptest.ResponseRecorder {
		t.Helper()
		w := send(h, method, target, "", "Authorization", "Bearer "+secret)
		if w.Code != want {
			t.Errorf("%s %s: got %d %s, want %d", method, target, w.Code, w.Body, want)
		}
		return w
	}
	kinds := []struct {
		method, target string
		status         int
	}{{"GET", "/api/v1/usage", 200}, {"HEAD", "/api/v1/usage", 200}, {"GET", "/api/v1/usage?x=1", 400}, {"DELETE", "/api/v1/users/u-ada", 403}, {"GET", "/nowhere", 404}}
	for n := range 20 {
		k := kinds[n%len(kinds)]
		w := ask(secret, k.method, k.target, k.status)
		if got, want := w.Header().Get("RateLimit"), fmt.Sprintf(`"requests";r=%d;t=%d`, 19-n, n/2+1); got != want || w.Header().Get("RateLimit-Policy") != `"requests";q=20;w=10` {
			t.Errorf("request %d: got RateLimit %q of %q, want %q", n, got, w.Header().Get("RateLimit-Policy"), want)
		}
	}
	w := ask(secret, "GET", "/api/v1/usage", 429)
	if p := problem(t, w); p.Code != "rate_limited" || w.Header().Get("Retry-After") != "1" || w.Header().Get("RateLimit") != `"requests";r=0;t=10` {
		t.Errorf("got %+v, %v, want when to ask again", p, w.Header())
	}
	if w := ask(secret, "DELETE", "/api/v1/users/u-ada", 429); w.Header().Get("WWW-Authenticate") != "" {
		t.Errorf("got the challenge %q, want none", w.Header().Get("WWW-Authenticate"))
	}
	for _, path := range []string{"/livez", "/readyz", "/health", "/api/v1/health/status", "/metrics", "/openapi.json"} {
		for range 30 {
			if w := ask(secret, "GET", path, 200); w.Header().Get("RateLimit") != "" {
				t.Errorf("%s: got RateLimit %q", path, w.Header().Get("RateLimit"))
			}
		}
	}
	ask(other, "GET", "/api/v1/usage", 200)
	*now = now.Add(500 * time.Millisecond) // one more
	ask(secret, "GET", "/api/v1/usage", 200)
	ask(secret, "GET", "/api/v1/usage", 429)
	*now = now.Add(time.Hour) // no more than are saved up
	for range 20 {
		ask(secret, "GET", "/api/v1/usage", 200)
	}
	ask(secret, "GET", "/api/v1/usage", 429)
	if _, err := f.Accounts.RevokeToken(t.Context(), byHand, id); err != nil {
		t.Fatal(err)
	}
	ask(secret, "GET", "/api/v1/usage", 401)

	// Events come out of another budget, of the same token.
	e := SampleEvent("vm-1", 1, odometer.Owner{})
	for n := range 31 {
		w := send(h, "POST", "/api/v1/events", string(Structured(&e)), "Authorization", "Bearer secret", "Content-Type", odometer.ContentCloudEvent)
		if want := map[bool]int{true: 429, false: 200}[n == 30]; w.Code != want || !strings.HasPrefix(w.Header().Get("RateLimit"), `"events";`) {
			t.Errorf("event %d: got %d %v, want %d", n, w.Code, w.Header(), want)
		}
	}
	ask("secret", "GET", "/api/v1/usage", 200)
	if after := f.counts["received"]; after != 30 {
		t.Errorf("got %d events taken, want 30", after)
	}
}

// TestWithoutLimitsNothingIsSaid, as in all other tests.
func TestWithoutLimitsNothingIsSaid(t *testing.T) {
	h := serverOf(t, NewFixture(t).Deps)
	for range 100 {
		if w := do(h, "GET", "/api/v1/me"); w.Code != 200 || w.Header().Get("RateLimit") != "" {
			t.Fatalf("got %d, %v", w.Code, w.Header())
		}
	}
}

// TestWhoGuessesIsToldToWait, and nobody else at his address.
func TestWhoGuessesIsToldToWait(t *testing.T) {
	f, h, now := limited(t, Limits{Guesses: 1})
	guess := func(address string, want int) {
		t.Helper()
		w := from(h, address, "GET", "/api/v1/me", "", "Authorization", "Bearer odm_guess")
		if w.Code != want {
			t.Errorf("%s: got %d, want %d", address, w.Code, want)
		}
		if p := problem(t, w); want == 429 && (p.Code != "rate_limited" || w.Header().Get("Retry-After") != "1" || w.Header().Get("WWW-Authenticate") != "") {
			t.Errorf("got %+v, %v", p, w.Header())
		}
	}
	for n := range 12 {
		guess(fmt.Sprint("192.0.2.1:", 1000+n), map[bool]int{true: 429, false: 401}[n >= 10])
		guess(fmt.Sprintf("[2001:db8::%x]:443", n), map[bool]int{true: 429, false: 401}[n >= 10]) // of one network
	}
	guess("192.0.2.2:1000", 401)
	guess("[2001:db8:0:1::1]:443", 401)
	if w := from(h, "192.0.2.1:1000", "GET", "/api/v1/me", "", "Authorization", "Bearer secret"); w.Code != 200 {
		t.Errorf("a token that is known, from there: got %d", w.Code)
	}
	if w := from(h, "192.0.2.1:1000", "GET", "/api/v1/me", ""); w.Code != 401 {
		t.Errorf("no token, from there: got %d", w.Code)
	}
	*now = now.Add(time.Second)
	guess("192.0.2.1:1000", 401)
	guess("192.0.2.1:1000", 429)

	f.Deps.Refused.write(t.Context())
	list, err := f.Accounts.AuditLog(t.Context(), 0, 10)
	if err != nil || len(list) != 4 {
		t.Fatalf("got %+v, %v, want a line for each address", list, err)
	}
	if l := list[3]; l.Action != odometer.ActionLoginRefused || l.Object != "192.0.2.1" || l.Remote != "192.0.2.1" || l.Actor != "" || l.Detail != "a token that is not known, 14 times since 2026-01-02T15:04:05Z" {
		t.Errorf("got %+v, want 14 of 192.0.2.1", l)
	}
	if l := list[2]; l.Object != "2001:db8::/64" || !strings.HasSuffix(l.Detail, "12 times since 2026-01-02T15:04:05Z") {
		t.Errorf("got %+v, want 12 of the network", l)
	}
	if l := list[1]; l.Object != "192.0.2.2" || !strings.HasSuffix(l.Detail, ", once") {
		t.Errorf("got %+v, want one of 192.0.2.2", l)
	}
}

// TestHostsAreEnrolledSoOften, from one address.
func TestHostsAreEnrolledSoOften(t *testing.T) {
	_, h, now := limited(t, Limits{Enrolments: 0.5})
	ask := func(address string, want int) {
		t.Helper()
		if w := from(h, address, "POST", "/api/v1/hosts/enrol", `{}`, "Content-Type", "application/json"); w.Code != want {
			t.Errorf("%s: got %d %s, want %d", address, w.Code, w.Body, want)
		}
	}
	for range 5 {
		ask("192.0.2.1:1", 400)
	}
	ask("192.0.2.1:2", 429)
	ask("192.0.2.2:1", 400)
	*now = now.Add(2 * time.Second)
	ask("192.0.2.1:1", 400)
	ask("192.0.2.1:1", 429)
}

// TestBucketsAreBounded has a million addresses ask, one of which asks all the time.
func TestBucketsAreBounded(t *testing.T) {
	b := newBuckets[netip.Addr]("x", 1)
	b.most = 100
	always := netip.MustParseAddr("192.0.2.1")
	refused := 0
	for n := range 100_000 {
		b.take(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), Now)
		if _, wait := b.take(always, Now); wait > 0 {
			refused++
		}
	}
	if len(b.of) != 100 || b.order.Len() != 100 || refused != 100_000-10 {
		t.Errorf("got %d and %d buckets, %d refused, want 100 and all but 10", len(b.of), b.order.Len(), refused)
	}
}

func TestTakingFromABucketDoesNotAllocate(t *testing.T) {
	b := newBuckets[holderID]("x", 1e9)
	id := holderID{token: "tok_aaaaaaaaaaaaaaaa", name: "a"}
	if n := testing.AllocsPerRun(1000, func() { b.take(id, Now) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

// TestRefusedChangesAreInTheAuditLog sums up what was refused, by who asked for what.
func TestRefusedChangesAreInTheAuditLog(t *testing.T) {
	f, h, _ := limited(t, Limits{})
	id, secret := create(t, f.Accounts, "reads", time.Time{}, odometer.ScopeRead)
	if _, err := f.Accounts.CreateUser(t.Context(), byHand, odometer.Once{}, odometer.User{ID: "u-ada", Name: "Ada"}); err != nil {
		t.Fatal(err)
	}
	_, users, err := f.Accounts.CreateToken(t.Context(), byHand, odometer.Token{Name: "laptop", Bound: odometer.Bound{User: "u-ada"}, Scopes: []odometer.Scope{odometer.ScopeAccount}})
	if err != nil {
		t.Fatal(err)
	}
	before, err := f.Accounts.AuditLog(t.Context(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(secret, method, target, body string, want int) {
		t.Helper()
		w := from(h, "192.0.2.9:1", method, target, body, "Authorization", "Bearer "+secret, "Content-Type", "application/json", "If-Match", `"1"`)
		if w.Code != want {
			t.Errorf("%s %s: got %d %s, want %d", method, target, w.Code, w.Body, want)
		}
	}
	for range 3 {
		ask(secret, "DELETE", "/api/v1/users/u-ada", "", 403)
	}
	ask(users, "PUT", "/api/v1/organizations/acme", `{"name":"x"}`, 404)
	ask("secret", "DELETE", "/api/v1/hosts/h-9", "", 404)
	ask(secret, "GET", "/api/v1/hosts/h-9", "", 403) // changes nothing
	ask("secret", "PUT", "/nowhere", "", 404)        // is nothing
	ask("secret", "DELETE", "/api/v1/users/u-ada/", "", 404)
	ask("secret", "POST", "/api/v1/tokens", `{}`, 400) // means nothing
	ask("secret", "DELETE", "/api/v1/users/"+secret, "", 404)
	f.Deps.Refused.write(t.Context())
	f.Deps.Refused.write(t.Context()) // nothing more
	list, err := f.Accounts.AuditLog(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range list[:len(list)-int(before[0].Number)] {
		who := l.Actor
		if l.Token != "" {
			who += " " + strings.ReplaceAll(string(l.Token), string(id), "ID")
		}
		if !strings.HasSuffix(who, "ID") && l.User != "" {
			who = l.Actor + " of " + string(l.User)
		}
		got = append(got, fmt.Sprintf("%s|%s|%s|%s|%s", who, l.Remote, l.Action, l.Object, l.Detail))
	}
	want := []string{ // the newest first
		"admin|192.0.2.9|change.refused|/api/v1/users/odm_…|DELETE /api/v1/users/{id}: not_found, once",
		"laptop of u-ada|192.0.2.9|change.refused|/api/v1/organizations/acme|PUT /api/v1/organizations/{id}: not_found, once",
		"admin|192.0.2.9|change.refused|/api/v1/hosts/h-9|DELETE /api/v1/hosts/{id}: not_found, once",
		"reads ID|192.0.2.9|change.refused|/api/v1/users/u-ada|DELETE /api/v1/users/{id}: insufficient_scope, 3 times since 2026-01-02T15:04:05Z",
	}
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestTheAuditLogIsNotFloodedByWhatIsRefused has everybody guess and everything be
// refused: a minute adds a bounded number of lines, which tell all of it.
func TestTheAuditLogIsNotFloodedByWhatIsRefused(t *testing.T) {
	f, h, _ := limited(t, Limits{})
	for n := range 300 {
		from(h, fmt.Sprintf("10.0.%d.%d:1", n/256, n%256), "GET", "/api/v1/me", "", "Authorization", "Bearer x")
		from(h, "192.0.2.1:1", "DELETE", fmt.Sprint("/api/v1/hosts/h-", n), "", "Authorization", "Bearer secret")
	}
	f.Deps.Refused.write(t.Context())
	list, err := f.Accounts.AuditLog(t.Context(), 0, 1000)
	if err != nil || len(list) != mostAddresses+1+mostChanges+1 {
		t.Fatalf("got %d lines, %v, want %d", len(list), err, mostAddresses+1+mostChanges+1)
	}
	if l := list[0]; l.Object != "others" || !strings.Contains(l.Detail, "from 280 more addresses, 280 times") {
		t.Errorf("got %+v, want the other addresses summed up", l)
	}
	if l := list[mostAddresses+1]; l.Object != "others" || !strings.HasPrefix(l.Detail, "200 times") {
		t.Errorf("got %+v, want the other changes summed up", l)
	}
	r := NewRefusals(f.Accounts, nil, nil)
	for n := range maxBuckets + 500 {
		r.login(&http.Request{RemoteAddr: fmt.Sprintf("10.%d.%d.%d:1", n>>16, n>>8&255, n&255)})
	}
	if len(r.logins) > maxBuckets+1 {
		t.Errorf("got %d addresses remembered", len(r.logins))
	}
}

func TestWhoIsRefusedAtTheQueueIsInTheAuditLog(t *testing.T) {
	accounts := NewAccounts(t, func() time.Time { return Now })
	r := NewRefusals(accounts, func() time.Time { return Now }, nil)
	r.QueueLogin("192.0.2.7:4711")
	r.QueueLogin("192.0.2.7:4712")
	r.login(&http.Request{RemoteAddr: "192.0.2.7:80"})
	r.QueueLogin("pipe") // within the process
	r.write(t.Context())
	list, err := accounts.FindAudit(t.Context(), odometer.AuditQuery{Limit: 10, Action: odometer.ActionLoginRefused})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, l := range list {
		got = append(got, l.Object+": "+l.Detail)
	}
	want := []string{ // the newest first
		"192.0.2.7: a token that is not known, once",
		"unknown: at the queue, a token or a key that is not known, once",
		"192.0.2.7: at the queue, a token or a key that is not known, 2 times since 2026-01-02T15:04:05Z",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// TestTheAuditLogIsFiltered asks over HTTP for lines by all that they can be asked
// for by.
func TestTheAuditLogIsFiltered(t *testing.T) {
	f, _, now := limited(t, Limits{})
	accounts := NewAccounts(t, func() time.Time { return *now })
	f.Deps.Audit = accounts
	h := serverOf(t, f.Deps)
	for n, l := range []struct {
		by             odometer.Caller
		action, object string
	}{
		{odometer.Caller{Name: "admin"}, "token.create", "tok_aaaaaaaaaaaaaaaa"},
		{odometer.Caller{ID: "tok_aaaaaaaaaaaaaaaa", Name: "laptop", Bound: odometer.Bound{User: "u-ada"}}, "member.add", "acme/u-bob"},
		{odometer.Caller{ID: "tok_bbbbbbbbbbbbbbbb", Name: "laptop", Bound: odometer.Bound{User: "u-bob"}}, "member.remove", "acme/u-bob"},
		{odometer.Caller{Name: "admin"}, "organization.update", "acme"},
		{odometer.Caller{Name: "admin"}, "token.revoke", "tok_aaaaaaaaaaaaaaaa"},
	} {
		*now = Now.Add(time.Duration(n) * time.Minute)
		if err := accounts.Note(t.Context(), odometer.Actor{Caller: l.by, Remote: "192.0.2.1"}, odometer.Action(l.action), l.object, ""); err != nil {
			t.Fatal(err)
		}
	}
	for query, want := range map[string]string{
		"":                           "54321",
		"actor=admin":                "541",
		"actor=laptop":               "32",
		"actor=u-ada":                "2",
		"actor=tok_bbbbbbbbbbbbbbbb": "3",
		"actor=nobody":               "",
		"actor=%25":                  "",
		"action=member":              "32",
		"action=member.add":          "2",
		"action=mem":                 "",
		"action=token":               "51",
		"object=acme%2Fu-bob":        "32",
		"object=tok_aaaaaaaaaaaaaaaa&action=token.revoke":                "5",
		"from=2026-01-02T15:05:05Z":                                      "5432",
		"to=2026-01-02T15:05:05Z":                                        "1",
		"from=2026-01-02T15:05:05Z&to=2026-01-02T15:07:05Z&actor=laptop": "32",
		"actor=admin&limit=1":                                            "5",
	} {
		w := do(h, "GET", "/api/v1/audit-log?"+query)
		var answer AuditLogAnswer
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
			t.Errorf("%s: got %d %s", query, w.Code, w.Body)
			continue
		}
		got := linesOf(&answer)
		if got != want {
			t.Errorf("%s: got the lines %s, want %s", query, got, want)
		}
		if more := w.Header().Get("Link"); strings.Contains(query, "limit") != (more != "") || more != "" && !strings.Contains(more, "actor=admin") {
			t.Errorf("%s: got the link %q", query, more)
		}
	}
	for _, query := range []string{"actor=" + strings.Repeat("a", 129), "object=" + strings.Repeat("a", 257), "from=soon", "from=now&to=-1h", "who=admin"} {
		if w := do(h, "GET", "/api/v1/audit-log?"+query); w.Code != 400 {
			t.Errorf("%s: got %d, want 400", query, w.Code)
		}
	}
	const page = "/api/v1/audit-log?actor=admin&limit=1"
	lines := ""
	for after := ""; ; {
		var answer AuditLogAnswer
		w := do(h, "GET", page+after)
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil || w.Code != 200 {
			t.Fatalf("%s: got %d %s", page+after, w.Code, w.Body)
		}
		lines += linesOf(&answer)
		if answer.Next == nil {
			break
		}
		after = "&after=" + *answer.Next
	}
	if lines != "541" {
		t.Errorf("by pages: got the lines %s, want 541", lines)
	}
}

// linesOf are the minutes of the lines of a page, of a test in which they have one each.
func linesOf(a *AuditLogAnswer) (s string) {
	for _, l := range a.Log {
		s += fmt.Sprint(int(l.At.Sub(Now)/time.Minute) + 1)
	}
	return s
}

// TestACompressedBodyIsRefused on every route that takes one, before it is read.
func TestACompressedBodyIsRefused(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	routes := 0
	for pattern, row := range h.table {
		if row.takes == nil {
			continue
		}
		routes++
		method, path := target(pattern)
		for _, encoding := range []string{"gzip", "br", "identity, gzip", "x"} {
			w := from(h, "192.0.2.1:1", method, path, "{}", "Authorization", "Bearer secret", "Content-Type", row.takes[0].media, "Content-Encoding", encoding)
			if p := problem(t, w); w.Code != 415 || !strings.Contains(p.Detail, "content encoding") {
				t.Errorf("%s, %s: got %d %s", pattern, encoding, w.Code, w.Body)
			}
		}
	}
	if routes < 10 || f.counts["received"] != 0 {
		t.Errorf("looked at %d routes, %d events were taken", routes, f.counts["received"])
	}
}
