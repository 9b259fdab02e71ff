package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// TestAGrantOverHTTP: a user is shown a machine that is another's, in every answer
// about it, from a moment on, and no longer once it has another owner.
func TestAGrantOverHTTP(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	secrets := map[odometer.UserID]string{}
	for _, user := range []odometer.UserID{"u-ada", "u-bob", "u-eve"} {
		if _, err := f.Accounts.CreateUser(t.Context(), byHand, odometer.Once{}, odometer.User{ID: user, Name: "somebody"}); err != nil {
			t.Fatal(err)
		}
		_, secret, err := f.Accounts.CreateToken(t.Context(), byHand, odometer.Token{Name: "a token", Bound: odometer.Bound{User: user}, Scopes: []odometer.Scope{odometer.ScopeRead, odometer.ScopeAccount}})
		if err != nil {
			t.Fatal(err)
		}
		secrets[user] = secret
	}
	_, err := f.Accounts.CreateOrganisation(t.Context(), byHand, odometer.Once{}, odometer.Organisation{ID: "acme", Name: "Acme"}, "u-ada")
	if err == nil {
		_, err = f.Accounts.AddMember(t.Context(), byHand, odometer.Once{}, odometer.Membership{Org: "acme", User: "u-bob", Role: odometer.RoleMember})
	}
	if err != nil {
		t.Fatal(err)
	}
	ada := odometer.Owner{User: "u-ada"}
	first, second := SampleEvent("vm-1", 1, ada), SampleEvent("vm-1", 2, ada)
	f.book(first)
	f.Hear(second, Now.Add(-time.Second))
	f.Describe("vm-1", "host-1", odometer.Running, "web")
	for _, o := range []odometer.Ownership{
		{Instance: "vm-1", Owner: odometer.Owner{User: "u-eve"}, From: Now.Add(-90 * time.Minute).UnixMicro()},
		{Instance: "vm-1", Owner: ada, From: odometer.Hour(first.Span.Start)},
	} {
		if _, err := f.Assign(t.Context(), o, "admin", "sold", false); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(user odometer.UserID, method, target, body string, want int, headers ...string) string {
		t.Helper()
		headers = append(headers, "Authorization", "Bearer "+secrets[user])
		if body != "" {
			headers = append(headers, "Content-Type", odometer.ContentJSON)
		}
		w := send(h, method, target, body, headers...)
		if w.Code != want {
			t.Errorf("%s: %s %s: got %d %s, want %d", user, method, target, w.Code, w.Body, want)
		}
		return fmt.Sprint(w.Header(), w.Body)
	}
	const grants = "/api/v1/instances/vm-1/grants"
	sees := func(user odometer.UserID, want bool) {
		t.Helper()
		code := map[bool]int{true: 200, false: 404}[want]
		ask(user, "GET", "/api/v1/instances/vm-1", "", code)
		ask(user, "GET", "/api/v1/usage/instances/vm-1/current", "", code)
		for target, told := range map[string]string{
			"/api/v1/instances": "vm-1", "/api/v1/usage?group_by=instance&from=-3h": `"instance":"vm-1"`, "/api/v1/events": first.ID(),
			"/api/v1/instances/vm-1/ownership": `"u-ada"`,
		} {
			if got := ask(user, "GET", target, "", 200); strings.Contains(got, told) != want {
				t.Errorf("%s: %s: got %s, want %q in it: %v", user, target, got, told, want)
			}
		}
	}
	sees("u-bob", false)
	ask("u-eve", "POST", grants, `{"user_id":"u-bob","level":"readonly"}`, 404)
	ask("u-ada", "POST", grants, `{"user_id":"u-eve","level":"readonly"}`, 400)
	ask("u-ada", "POST", grants, `{"user_id":"u-bob","level":"king","since":"+1h","expires_at":"-1h"}`, 400)
	got := ask("u-ada", "POST", grants, `{"user_id":"u-bob","level":"readonly","since":"-2h","expires_at":"+1d"}`, 201)
	for _, part := range []string{`Etag:["1"]`, "Location:[" + grants + "/u-bob]", `"of_user_id":"u-ada"`, `"of_org_id":null`, `"since":"2026-01-02T13:00:00Z"`, `"expires_at":"2026-01-03T15:04:05Z"`, `"given_by":"u-ada"`} {
		if !strings.Contains(got, part) {
			t.Errorf("got %s, want %s in it", got, part)
		}
	}
	sees("u-bob", true)
	if got := ask("u-bob", "GET", "/api/v1/instances/vm-1/ownership", "", 200); strings.Contains(got, "u-eve") {
		t.Errorf("got %s, which names the owner of before", got)
	}
	ask("u-bob", "POST", grants, `{"user_id":"u-bob","level":"readonly"}`, 403)
	ask("u-ada", "PUT", grants+"/u-bob", `{"level":"manager"}`, 428)
	ask("u-ada", "PUT", grants+"/u-bob", `{"level":"manager"}`, 412, "If-Match", `"9"`)
	ask("u-ada", "PUT", grants+"/u-bob", `{"level":"manager"}`, 200, "If-Match", `"1"`)
	ask("u-bob", "GET", grants+"/u-bob", "", 200)
	ask("u-eve", "GET", grants+"/u-bob", "", 404)
	secrets["admin"] = "secret"
	ask("admin", "POST", "/api/v1/instances/vm-1/ownership", `{"user_id":"u-eve","cause":"sold"}`, 200)
	sees("u-bob", false)
	ask("u-bob", "GET", grants+"/u-bob", "", 404)
	if log := ask("admin", "GET", "/api/v1/audit-log", "", 200); !strings.Contains(log, `"action":"grant.end","object":"vm-1/u-bob","detail":"was manager: it has another owner"`) {
		t.Errorf("got the log %s", log)
	}
}
