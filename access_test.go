package odometer

import (
	"errors"
	"strings"
	"testing"
)

func TestWhatACallerMay(t *testing.T) {
	for _, c := range []struct {
		name string
		has  []Scope
		may  map[Scope]bool
	}{
		{"nobody has any scope", nil, map[Scope]bool{}},
		{"the administrator has all", []Scope{ScopeAdmin}, map[Scope]bool{ScopeAdmin: true, ScopeRead: true, ScopeWriteEvents: true, ScopeAccount: true}},
		{"a reader reads", []Scope{ScopeRead}, map[Scope]bool{ScopeRead: true}},
		{"a sender sends", []Scope{ScopeWriteEvents}, map[Scope]bool{ScopeWriteEvents: true}},
		{"an empty scope is none", []Scope{""}, map[Scope]bool{}},
	} {
		caller := Caller{Scopes: c.has}
		for _, s := range append([]Scope{"", "Read", "root"}, Scopes...) {
			if got := caller.May(s); got != c.may[s] {
				t.Errorf("%s: %q: got %v, want %v", c.name, s, got, c.may[s])
			}
		}
	}
	admin, other := Caller{Name: "admin"}, Caller{Name: "admin", ID: "tok_abcdefghijklmnop"}
	if admin.String() != "admin" || other.String() != "admin (tok_abcdefghijklmnop)" {
		t.Errorf("got %q and %q, want a token's holder told from the administrator", admin.String(), other.String())
	}
}

func TestTokenIDs(t *testing.T) {
	if err := ValidTokenID("tok_abcdefghijklm234"); err != nil {
		t.Error(err)
	}
	for _, s := range []string{"", "tok_", "tok_abcdefghijklmno", "tok_abcdefghijklmnopq", "tok_abcdefghijklmno1", "TOK_ABCDEFGHIJKLMNOP", "tok_abcdefghijklmnop\n", "odm_" + strings.Repeat("a", 58), strings.Repeat("x", 1<<20)} {
		err := ValidTokenID(s)
		if !errors.Is(err, ErrInvalid) || strings.Contains(err.Error(), "odm_a") || len(err.Error()) > 200 {
			t.Errorf("%.80q: got %v, want it refused, in short and without a secret", s, err)
		}
	}
}

func TestSecretsAreHidden(t *testing.T) {
	secret := "odm_" + strings.Repeat("ab23", 14) + "ab"
	seed := "SU" + strings.Repeat("ABCDEFG2", 7)
	for s, want := range map[string]string{
		"":                                       "",
		"nothing to hide in odm_x":               "nothing to hide in odm_x",
		secret:                                   "odm_…",
		"Bearer " + secret + ", " + secret:       "Bearer odm_…, odm_…",
		"cut off: " + secret[:20] + "...":        "cut off: odm_…...",
		"/api/" + strings.ToUpper(secret) + "/x": "/api/odm_…/x",
		"seed " + seed + " of " + seed[1:]:       "seed S… of " + seed[1:],
		"key U" + seed[1:56]:                     "key U" + seed[1:56],
	} {
		if got := HideSecrets(s); got != want || HideSecrets(got) != got {
			t.Errorf("%q: got %q, want %q", s, got, want)
		}
	}
}
