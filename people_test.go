package odometer

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestRolesAreAsDocumented holds the rights of each role to the table of
// docs/access.md.
func TestRolesAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	told := map[Right]map[Role]bool{}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		right := Right(strings.TrimSpace(cells[0]))
		if !slices.Contains(Rights, right) || len(cells) != 1+len(Roles) {
			continue
		}
		told[right] = map[Role]bool{}
		for i, r := range Roles {
			told[right][r] = strings.TrimSpace(cells[i+1]) == "yes"
		}
	}
	for _, right := range Rights {
		for _, r := range Roles {
			if documented, ok := told[right]; !ok || documented[r] != r.Gives(right) {
				t.Errorf("%s: %s: got %v, documented %v (there: %v)", r, right, r.Gives(right), documented[r], ok)
			}
		}
		if Role("").Gives(right) || Role("Owner").Gives(right) || Role("root").Gives(right) {
			t.Errorf("%s: what is no role gives it", right)
		}
	}
}

func TestWhatAViewSees(t *testing.T) {
	member := func(roles ...Role) (list []Membership) {
		for i, r := range roles {
			list = append(list, Membership{Org: OrgID([]string{"acme", "other"}[i]), User: "ada", Role: r})
		}
		return list
	}
	read := []Scope{ScopeRead}
	ada, bob := Owner{User: "ada", Org: "acme"}, Owner{User: "bob", Org: "acme"}
	adaElsewhere, nobody, alone := Owner{User: "ada", Org: "other"}, Owner{User: Unassigned, Org: "acme"}, Owner{User: Unassigned}
	all := []Owner{ada, bob, adaElsewhere, nobody, alone, {}}
	for _, c := range []struct {
		name   string
		caller Caller
		sees   []Owner
	}{
		{"nobody", Caller{}, nil},
		{"the operator", Caller{Scopes: []Scope{ScopeAdmin}}, all},
		{"a service of the operator's that reads", Caller{Scopes: read}, all},
		{"one that only sends events", Caller{Scopes: []Scope{ScopeWriteEvents}}, nil},
		{"a user alone", Caller{Bound: Bound{User: "ada"}, Scopes: read}, []Owner{ada, adaElsewhere}},
		{"a member", Caller{Bound: Bound{User: "ada"}, Scopes: read, Memberships: member(RoleMember)}, []Owner{ada, adaElsewhere}},
		{"who does the billing", Caller{Bound: Bound{User: "eve"}, Scopes: read, Memberships: member(RoleBilling)}, []Owner{ada, bob, nobody}},
		{"an admin", Caller{Bound: Bound{User: "eve"}, Scopes: read, Memberships: member(RoleAdmin)}, []Owner{ada, bob, nobody}},
		{"an owner here and a member there", Caller{Bound: Bound{User: "eve"}, Memberships: member(RoleOwner, RoleMember)}, []Owner{ada, bob, nobody}},
		{"a member of unknown role", Caller{Bound: Bound{User: "eve"}, Memberships: member("king")}, nil},
		{"an organisation's service", Caller{Bound: Bound{Org: "other"}, Scopes: read}, []Owner{adaElsewhere}},
		{"a user whose token says that he is the operator", Caller{Bound: Bound{User: "eve"}, Scopes: []Scope{ScopeAdmin}}, nil},
		{"an organisation's service whose token says so", Caller{Bound: Bound{Org: "none"}, Scopes: []Scope{ScopeAdmin, ScopeRead}}, nil},
	} {
		v := c.caller.View()
		for _, o := range all {
			if got, want := v.Sees(o), slices.Contains(c.sees, o); got != want {
				t.Errorf("%s: %+v: got %v, want %v", c.name, o, got, want)
			}
		}
		if c.caller.Bound != (Bound{}) && (v.All() || c.caller.May(ScopeAdmin) || c.caller.May(ScopeWriteEvents)) {
			t.Errorf("%s: got everything of what is bound", c.name)
		}
	}
}

func TestScopesGoWithTheHolder(t *testing.T) {
	for _, c := range []struct {
		name string
		Bound
		may []Scope
	}{
		{"a service", Bound{}, []Scope{ScopeAdmin, ScopeRead, ScopeWriteEvents}},
		{"a user", Bound{User: "ada"}, []Scope{ScopeRead, ScopeAccount}},
		{"a service of an organisation", Bound{Org: "acme"}, []Scope{ScopeRead}},
		{"both", Bound{User: "ada", Org: "acme"}, nil},
	} {
		for _, s := range append([]Scope{"", "root"}, Scopes...) {
			if err := ValidScopes(c.Bound, []Scope{s}); (err == nil) != slices.Contains(c.may, s) || err != nil && !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %q: got %v, want valid %v", c.name, s, err, slices.Contains(c.may, s))
			}
		}
	}
}

func TestWhatIsNoPerson(t *testing.T) {
	for id, want := range map[UserID]bool{"u-ada": true, "ada@example.org": true, "...": true, Unassigned: false, "": false, ".": false, "..": false, "a b": false, "a/b": false, UserID(strings.Repeat("x", 129)): false} {
		if err := ValidUserID(id); (err == nil) != want || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("user id %q: got %v, want valid %v", id, err, want)
		}
		if err := ValidOrgID(OrgID(id)); id != Unassigned && (err == nil) != want {
			t.Errorf("organisation id %q: got %v, want valid %v", id, err, want)
		}
	}
	for s, want := range map[string]bool{"Ada Lovelace": true, "名前": true, "": false, " x": false, "a\nb": false, "a\xff": false, "odm_abcdefgh": false, strings.Repeat("ä", MaxName): true, strings.Repeat("ä", MaxName+1): false} {
		if err := ValidName(s); (err == nil) != want {
			t.Errorf("name %q: got %v, want valid %v", s, err, want)
		}
	}
	for s, want := range map[string]bool{"": true, "ada@example.org": true, "ada": false, "a@b@c": false, "a b@c": false, "a@b\n": false, "@": false, "odm_abcdefgh@x": false, "a@" + strings.Repeat("x", 254): false} {
		if err := ValidEmail(s); (err == nil) != want {
			t.Errorf("e-mail address %q: got %v, want valid %v", s, err, want)
		}
	}
	for r, want := range map[Role]bool{RoleOwner: true, RoleMember: true, "": false, "Owner": false, "king": false} {
		if err := ValidRole(r); (err == nil) != want {
			t.Errorf("role %q: got %v, want valid %v", r, err, want)
		}
	}
}
