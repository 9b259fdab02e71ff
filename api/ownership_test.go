package api

import (
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// TestForeignOwnershipIsNotTold sells a machine from one user to another: each is
// told of his own time, a third of none, in the words for what there is not.
func TestForeignOwnershipIsNotTold(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	for i, user := range []odometer.UserID{"u-ada", "u-bob"} {
		o := odometer.Ownership{Instance: "vm-1", Owner: odometer.Owner{User: user}, From: Now.Add(time.Duration(i-2) * time.Hour).UnixMicro()}
		if _, err := f.Assign(t.Context(), o, "admin", "sold", false); err != nil {
			t.Fatal(err)
		}
	}
	answers := map[odometer.UserID]string{}
	for _, user := range []odometer.UserID{"u-ada", "u-bob", "u-eve"} {
		if _, err := f.Accounts.CreateUser(t.Context(), byHand, odometer.Once{}, odometer.User{ID: user, Name: "somebody"}); err != nil {
			t.Fatal(err)
		}
		_, secret, err := f.Accounts.CreateToken(t.Context(), byHand, odometer.Token{Name: "a token", Bound: odometer.Bound{User: user}, Scopes: []odometer.Scope{odometer.ScopeRead}})
		if err != nil {
			t.Fatal(err)
		}
		w := send(h, "GET", "/api/v1/instances/vm-1/ownership", "", "Authorization", "Bearer "+secret)
		answers[user] = w.Body.String()
		absent := send(h, "GET", "/api/v1/instances/vm-none/ownership", "", "Authorization", "Bearer "+secret)
		if got, want := answers[user], strings.ReplaceAll(absent.Body.String(), "vm-none", "vm-1"); user == "u-eve" && got != want {
			t.Errorf("%s is answered %s, want what is answered of a machine that there is not, %s", user, got, want)
		}
		if w := send(h, "POST", "/api/v1/instances/vm-1/ownership", `{"user_id":"u-eve","cause":"mine"}`, "Authorization", "Bearer "+secret, "Content-Type", "application/json"); w.Code != 403 {
			t.Errorf("%s may say whose a machine is: got %d", user, w.Code)
		}
	}
	for user, answer := range answers {
		for _, other := range []odometer.UserID{"u-ada", "u-bob"} {
			if got, want := strings.Contains(answer, string(other)), user == other; got != want {
				t.Errorf("%s is answered %s, which names %s: %t", user, answer, other, got)
			}
		}
	}
}
