package odometer

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
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

// TestWhatAGrantShows: of its instance alone, from its moment on, and what is charged
// to the owner in whose name it was given; what a user owns he sees without.
func TestWhatAGrantShows(t *testing.T) {
	ada, bob := Owner{User: "ada", Org: "acme"}, Owner{User: "bob"}
	since := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)
	c := Caller{Bound: Bound{User: "eve"}, Scopes: []Scope{ScopeRead}, Grants: []Grant{
		{Instance: "vm-1", Of: ada, Since: since}, {Instance: "vm-2", Since: since}, {Instance: "vm-4", Of: Owner{User: "ada"}, Since: since},
	}}
	v, at := c.View(), since.UnixMicro()
	for _, x := range []struct {
		instance InstanceID
		owner    Owner
		at       int64
		want     bool
	}{
		{"vm-1", ada, at, true}, {"vm-1", ada, at - 1, false}, {"vm-1", bob, at, false}, {"vm-1", Owner{User: Unassigned}, at, false}, {"vm-1", Owner{User: "ada"}, at, false},
		{"vm-2", ada, at, true}, {"vm-2", bob, at, true}, {"vm-2", Owner{User: Unassigned}, at, true}, {"vm-2", bob, at - 1, false},
		{"vm-3", ada, at, false}, {"vm-0", ada, at, false}, {"vm-9", ada, at, false}, {"vm-4", ada, at, false},
		{"vm-9", Owner{User: "eve"}, 0, true}, {"vm-1", Owner{User: "eve"}, 0, true},
	} {
		if got := v.SeesUse(x.instance, x.owner, x.at); got != x.want {
			t.Errorf("%s of %v at %d: got %v, want %v", x.instance, x.owner, x.at-at, got, x.want)
		}
	}
	if v.Sees(ada) || v.All() {
		t.Error("a grant on an instance shows all of its owner")
	}
	for i, service := range []Caller{{Bound: Bound{Org: "acme"}, Grants: c.Grants}, {Scopes: []Scope{ScopeWriteEvents}, Grants: c.Grants}} {
		if w := service.View(); w.SeesUse("vm-2", bob, at) || len(w.Granted()) > 0 {
			t.Errorf("service %d holds grants, which are a user's", i)
		}
	}
}

// TestLevelsAreAsDocumented holds what each level gives of the others to the table of
// docs/access.md.
func TestLevelsAreAsDocumented(t *testing.T) {
	text, err := os.ReadFile("docs/access.md")
	if err != nil {
		t.Fatal(err)
	}
	told := 0
	for _, l := range append([]Level{"", "root", "Owner"}, Levels...) {
		for _, other := range Levels {
			row := "| gives, changes and ends grants of level " + string(other) + " |"
			_, rest, there := strings.Cut(string(text), row)
			line, _, _ := strings.Cut(rest, "\n")
			cells := strings.Split(line, "|")
			if !there || len(cells) != len(Levels)+1 {
				t.Fatalf("docs/access.md has no row %q of %d levels", row, len(Levels))
			}
			want := false
			if i := slices.Index(Levels, l); i >= 0 {
				want = strings.TrimSpace(cells[i]) == "yes"
				told++
			}
			if got := l.Gives(other); got != want {
				t.Errorf("%q gives %q: got %v, want %v", l, other, got, want)
			}
		}
		if (ValidLevel(l) == nil) != slices.Contains(Levels, l) || l.Gives("root") {
			t.Errorf("%q: got valid %v, gives what is no level %v", l, ValidLevel(l), l.Gives("root"))
		}
	}
	if told != len(Levels)*len(Levels) {
		t.Errorf("got %d cells", told)
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

// TestWhoMayManageWhat: whose thresholds and channels somebody sees and changes.
func TestWhoMayManageWhat(t *testing.T) {
	member := func(r Role) []Membership { return []Membership{{Org: "acme", User: "ada", Role: r}} }
	both := []Scope{ScopeRead, ScopeAccount}
	operators, acme, zeta, ada, bob := Bound{}, Bound{Org: "acme"}, Bound{Org: "zeta"}, Bound{User: "ada"}, Bound{User: "bob"}
	nobodys := Bound{User: "ada", Org: "acme"} // no holder is both
	all := []Bound{operators, acme, zeta, ada, bob, nobodys}
	for _, c := range []struct {
		name          string
		caller        Caller
		manages, sees []Bound
	}{
		{"nobody", Caller{}, nil, nil},
		{"the administrator", Caller{Scopes: []Scope{ScopeAdmin}}, all, all},
		{"a service of the operator's that reads", Caller{Scopes: []Scope{ScopeRead}}, nil, all},
		{"one that only sends events", Caller{Scopes: []Scope{ScopeWriteEvents}}, nil, nil},
		{"a service of the operator's that says that it has an account", Caller{Scopes: []Scope{ScopeAccount}}, nil, nil},
		{"a service of an organisation's", Caller{Bound: acme, Scopes: []Scope{ScopeRead}}, nil, []Bound{acme}},
		{"one whose token says that it is the administrator", Caller{Bound: acme, Scopes: []Scope{ScopeAdmin, ScopeAccount, ScopeRead}}, nil, []Bound{acme}},
		{"a user alone", Caller{Bound: ada, Scopes: both}, []Bound{ada}, []Bound{ada}},
		{"a user who only reads", Caller{Bound: ada, Scopes: []Scope{ScopeRead}, Memberships: member(RoleOwner)}, nil, []Bound{acme, ada}},
		{"an owner", Caller{Bound: ada, Scopes: both, Memberships: member(RoleOwner)}, []Bound{acme, ada}, []Bound{acme, ada}},
		{"an admin", Caller{Bound: ada, Scopes: both, Memberships: member(RoleAdmin)}, []Bound{acme, ada}, []Bound{acme, ada}},
		{"who does the billing", Caller{Bound: ada, Scopes: both, Memberships: member(RoleBilling)}, []Bound{ada}, []Bound{acme, ada}},
		{"a member", Caller{Bound: ada, Scopes: both, Memberships: member(RoleMember)}, []Bound{ada}, []Bound{ada}},
		{"a member of unknown role", Caller{Bound: ada, Scopes: both, Memberships: member("king")}, []Bound{ada}, []Bound{ada}},
		{"who holds a grant", Caller{Bound: ada, Scopes: both, Grants: []Grant{{Instance: "vm-1", Level: LevelOwner}}}, []Bound{ada}, []Bound{ada}},
	} {
		for _, h := range all {
			if got, want := c.caller.MayManage(h), slices.Contains(c.manages, h); got != want {
				t.Errorf("%s: to manage what is of %+v: got %v, want %v", c.name, h, got, want)
			}
			if got, want := c.caller.MaySee(h), slices.Contains(c.sees, h); got != want {
				t.Errorf("%s: to see what is of %+v: got %v, want %v", c.name, h, got, want)
			}
		}
	}
}
