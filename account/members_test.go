package account

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// TestWhatEachRoleMayChange has a member of each role, a stranger and the services
// try every change. Who does not see is told that there is nothing.
func TestWhatEachRoleMayChange(t *testing.T) {
	ctx := t.Context()
	const none, yes, no = "not found", "done", "forbidden"
	for _, c := range []struct {
		role                                                                       odometer.Role
		name, delete, addMember, addOwner, promote, demote, remove, removeOwner, r string
	}{
		{odometer.RoleOwner, yes, yes, yes, yes, yes, yes, yes, yes, yes},
		{odometer.RoleAdmin, yes, no, yes, no, no, no, yes, no, yes},
		{odometer.RoleBilling, no, no, no, no, none, none, none, none, none},
		{odometer.RoleMember, no, no, no, no, none, none, none, none, none},
		{"", none, none, none, none, none, none, none, none, none},
	} {
		w := newOffice(t, AccountsOptions{})
		w.org("acme")
		w.org("other")
		w.member("u-first", "acme", odometer.RoleOwner)
		w.member("u-second", "acme", odometer.RoleOwner)
		w.member("u-plain", "acme", odometer.RoleMember)
		w.member("u-other", "other", odometer.RoleMember)
		in := odometer.OrgID("acme")
		if c.role == "" {
			in = "other"
		}
		by, _ := w.member("u-by", in, c.role)
		if c.role != "" {
			if _, err := w.AddMember(ctx, admin, odometer.Once{}, odometer.Membership{Org: "other", User: "u-by", Role: odometer.RoleOwner}); err != nil {
				t.Fatal(err)
			}
		}
		says := func(err error) string {
			switch {
			case err == nil:
				return yes
			case errors.Is(err, odometer.ErrForbidden):
				return no
			case errors.Is(err, odometer.ErrNotFound):
				return none
			}
			return err.Error()
		}
		check := func(what, want string, err error) {
			t.Helper()
			if got := says(err); got != want {
				t.Errorf("%q: %s: got %s, want %s", c.role, what, got, want)
			}
		}
		_, err := w.UpdateOrganisation(ctx, by, "acme", odometer.AnyVersion, "x")
		check("name", c.name, err)
		_, err = w.AddMember(ctx, by, odometer.Once{}, odometer.Membership{Org: "acme", User: "u-other", Role: odometer.RoleMember})
		check("add a member", c.addMember, err)
		w.member("u-new", "other", odometer.RoleMember)
		_, err = w.AddMember(ctx, by, odometer.Once{}, odometer.Membership{Org: "acme", User: "u-new", Role: odometer.RoleOwner})
		check("add an owner", c.addOwner, err)
		_, err = w.SetMember(ctx, by, "acme", "u-plain", odometer.AnyVersion, odometer.RoleOwner)
		check("make an owner", c.promote, err)
		_, err = w.SetMember(ctx, by, "acme", "u-first", odometer.AnyVersion, odometer.RoleMember)
		check("make an owner something else", c.demote, err)
		_, err = w.Member(ctx, by.Caller, "acme", "u-second")
		check("see a member", c.r, err)
		_, err = w.RemoveMember(ctx, by, "acme", "u-second", odometer.AnyVersion)
		check("remove an owner", c.removeOwner, err)
		w.member("u-last", "acme", odometer.RoleBilling)
		_, err = w.RemoveMember(ctx, by, "acme", "u-last", odometer.AnyVersion)
		check("remove a member", c.remove, err)
		if c.role != odometer.RoleOwner && c.role != "" {
			_, err = w.DeleteOrganisation(ctx, by, "acme", odometer.AnyVersion)
			check("delete", c.delete, err)
			_, err = w.RemoveMember(ctx, by, "acme", "u-by", odometer.AnyVersion)
			check("leave", yes, err)
			_, err = w.UpdateOrganisation(ctx, by, "acme", odometer.AnyVersion, "x") // what by carries is of before
			check("name after leaving", none, err)
			continue
		}
		_, err = w.DeleteOrganisation(ctx, by, "acme", odometer.AnyVersion)
		check("delete", c.delete, err)
	}
	// Others: who may not change anything, however much he sees.
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	w.member("u-ada", "acme", odometer.RoleOwner)
	_, reads := w.createFor(odometer.Bound{User: "u-ada"}, odometer.ScopeRead)
	_, service := w.createFor(odometer.Bound{Org: "acme"}, odometer.ScopeRead)
	_, operators := w.create("reads", time.Time{}, odometer.ScopeRead)
	for name, secret := range map[string]string{"her token without the scope": reads, "the organisation's service": service, "the operator's": operators} {
		by := w.as(secret)
		for what, err := range map[string]error{
			"update": func() error { _, err := w.UpdateOrganisation(ctx, by, "acme", 0, "x"); return err }(),
			"delete": func() error { _, err := w.DeleteOrganisation(ctx, by, "acme", 0); return err }(),
			"add": func() error {
				_, err := w.AddMember(ctx, by, odometer.Once{}, odometer.Membership{Org: "acme", User: "u-ada", Role: odometer.RoleMember})
				return err
			}(),
			"set":    func() error { _, err := w.SetMember(ctx, by, "acme", "u-ada", 0, odometer.RoleAdmin); return err }(),
			"remove": func() error { _, err := w.RemoveMember(ctx, by, "acme", "u-ada", 0); return err }(),
			"user":   func() error { _, err := w.UpdateUser(ctx, by, "u-ada", 0, "x", ""); return err }(),
			"create": func() error {
				_, err := w.CreateUser(ctx, by, odometer.Once{}, odometer.User{ID: "u-x", Name: "x"})
				return err
			}(),
			"found": func() error {
				_, err := w.CreateOrganisation(ctx, by, odometer.Once{}, odometer.Organisation{ID: "x", Name: "x"}, "")
				return err
			}(),
			"token": func() error {
				_, _, err := w.CreateToken(ctx, by, odometer.Token{Name: "t", Bound: by.Bound, Scopes: []odometer.Scope{odometer.ScopeRead}})
				return err
			}(),
		} {
			if !errors.Is(err, odometer.ErrForbidden) {
				t.Errorf("%s: %s: got %v, want ErrForbidden", name, what, err)
			}
		}
	}
	if got, err := w.Members(ctx, w.as(service).Caller, "acme", "", 10); err != nil || len(got) != 0 {
		t.Errorf("members, for the service: got %v, %v, want none", got, err)
	}
	if got, err := w.Users(ctx, w.as(operators).Caller, "", 10); err != nil || len(got) != 0 {
		t.Errorf("users, for the operator's service: got %v, %v, want none", got, err)
	}
}

// TestTheLastOwnerStays, whoever wants him gone.
func TestTheLastOwnerStays(t *testing.T) {
	ctx := t.Context()
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	ada, _ := w.member("u-ada", "acme", odometer.RoleOwner)
	for name, by := range map[string]odometer.Actor{"the administrator": admin, "she herself": ada} {
		for what, err := range map[string]error{
			"made something else": func() error { _, err := w.SetMember(ctx, by, "acme", "u-ada", 1, odometer.RoleAdmin); return err }(),
			"removed":             func() error { _, err := w.RemoveMember(ctx, by, "acme", "u-ada", 1); return err }(),
			"deleted":             func() error { _, err := w.DeleteUser(ctx, admin, "u-ada", 1); return err }(),
		} {
			if !errors.Is(err, odometer.ErrConflict) || !strings.Contains(err.Error(), "u-ada is the last owner of organisation acme") {
				t.Errorf("%s: %s: got %v, want it refused", name, what, err)
			}
		}
	}
	if m, err := w.SetMember(ctx, ada, "acme", "u-ada", 1, odometer.RoleOwner); err != nil || m.Version != 2 {
		t.Errorf("an owner made an owner: got %+v, %v", m, err)
	}
	w.member("u-bob", "acme", odometer.RoleOwner)
	if _, err := w.SetMember(ctx, ada, "acme", "u-ada", 1, odometer.RoleMember); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("a stale version: got %v", err)
	}
	if _, err := w.RemoveMember(ctx, ada, "acme", "u-ada", 1); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("a stale version: got %v", err)
	}
	if _, err := w.SetMember(ctx, ada, "acme", "u-ada", 2, odometer.RoleMember); err != nil {
		t.Errorf("with another owner: got %v", err)
	}
}

// TestNobodyFindsOutWhoHasAnAccount: to an admin a user whom he does not see is as
// one whom there is not.
func TestNobodyFindsOutWhoHasAnAccount(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	w.org("other")
	by, _ := w.member("u-by", "acme", odometer.RoleOwner)
	w.member("u-there", "other", odometer.RoleOwner)
	add := func(user odometer.UserID) string {
		_, err := w.AddMember(t.Context(), by, odometer.Once{}, odometer.Membership{Org: "acme", User: user, Role: odometer.RoleMember})
		return strings.ReplaceAll(fmt.Sprint(err), string(user), "X")
	}
	if there, absent := add("u-there"), add("u-absent"); there != absent || !strings.Contains(there, "there is no user X") {
		t.Errorf("got %q of a user elsewhere and %q of none, want the same", there, absent)
	}
	if got := func() error { _, err := w.User(t.Context(), by.Caller, "u-there"); return err }(); !errors.Is(got, odometer.ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", got)
	}
}

// TestAUsersTokenOnlyNarrows creates tokens with a user's.
func TestAUsersTokenOnlyNarrows(t *testing.T) {
	ctx := t.Context()
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	w.member("u-bob", "acme", odometer.RoleOwner)
	w.member("u-ada", "acme", odometer.RoleOwner)
	until := w.now().Add(time.Hour)
	first, secret, err := w.CreateToken(ctx, admin, odometer.Token{Name: "t", Bound: odometer.Bound{User: "u-ada"}, Scopes: []odometer.Scope{odometer.ScopeAccount}, Expires: until})
	if err != nil {
		t.Fatal(err)
	}
	ada := w.as(secret)
	account, read := []odometer.Scope{odometer.ScopeAccount}, []odometer.Scope{odometer.ScopeRead}
	hers := odometer.Bound{User: "u-ada"}
	for _, c := range []struct {
		name string
		ask  odometer.Token
		want error
	}{
		{"as it is", odometer.Token{Bound: hers, Scopes: account, Expires: until}, nil},
		{"a scope that it has not", odometer.Token{Bound: hers, Scopes: read, Expires: until}, odometer.ErrForbidden},
		{"for longer", odometer.Token{Bound: hers, Scopes: account, Expires: until.Add(1000)}, odometer.ErrForbidden},
		{"for ever", odometer.Token{Bound: hers, Scopes: account}, odometer.ErrForbidden},
		{"somebody else's", odometer.Token{Bound: odometer.Bound{User: "u-bob"}, Scopes: account, Expires: until}, odometer.ErrForbidden},
		{"nobody's", odometer.Token{Bound: odometer.Bound{User: "u-none"}, Scopes: account, Expires: until}, odometer.ErrForbidden},
		{"of her organisation", odometer.Token{Bound: odometer.Bound{Org: "acme"}, Scopes: read, Expires: until}, odometer.ErrForbidden},
		{"of the operator", odometer.Token{Scopes: read, Expires: until}, odometer.ErrForbidden},
		{"with the scope admin", odometer.Token{Bound: hers, Scopes: []odometer.Scope{odometer.ScopeAdmin}, Expires: until}, odometer.ErrInvalid},
	} {
		c.ask.Name = "t"
		if _, s, err := w.CreateToken(ctx, ada, c.ask); !errors.Is(err, c.want) || (s == "") != (c.want != nil) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	for name, bound := range map[string]odometer.Bound{"an unknown user": {User: "u-none"}, "an unknown organisation": {Org: "none"}} {
		if _, _, err := w.CreateToken(ctx, admin, odometer.Token{Name: "t", Bound: bound, Scopes: read}); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
	// She sees and revokes her own, and no others.
	bobs, bob := w.createFor(odometer.Bound{User: "u-bob"}, odometer.ScopeAccount)
	if list, err := w.Tokens(ctx, ada.Caller, "", 10); err != nil || len(list) != 3 {
		t.Errorf("got %+v, %v, want her three", list, err)
	}
	if list, err := w.Tokens(ctx, ada.Caller, first.ID, 10); err != nil || len(list) != 1 {
		t.Errorf("got %+v, %v, want the one after", list, err)
	}
	if _, err := w.Tokens(ctx, ada.Caller, bobs.ID, 10); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("a cursor of bob's: got %v, want ErrInvalid", err)
	}
	if _, err := w.Token(ctx, ada.Caller, bobs.ID); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("bob's: got %v, want ErrNotFound", err)
	}
	if _, err := w.RevokeToken(ctx, ada, bobs.ID); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("she revokes bob's: got %v, want ErrNotFound", err)
	}
	w.as(bob)
	if _, err := w.RevokeToken(ctx, ada, first.ID); err != nil {
		t.Errorf("she revokes hers: got %v", err)
	}
	w.holds("hers", secret, false)
	for range MaxUserTokens - 2 {
		w.createFor(odometer.Bound{User: "u-bob"}, odometer.ScopeRead)
	}
	if _, _, err := w.CreateToken(ctx, w.as(bob), odometer.Token{Name: "t", Bound: odometer.Bound{User: "u-bob"}, Scopes: account}); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("one too many: got %v, want ErrConflict", err)
	}
}
