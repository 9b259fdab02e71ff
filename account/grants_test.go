package account

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// owned says whose a machine is.
func owned(instance odometer.InstanceID, user odometer.UserID, org odometer.OrgID) odometer.Ownership {
	return odometer.Ownership{Instance: instance, Owner: odometer.Owner{User: user, Org: org}, Until: odometer.Forever}
}

// give gives a grant that does not expire.
func (w *office) give(by odometer.Actor, owns odometer.Ownership, user odometer.UserID, level odometer.Level) odometer.Grant {
	w.t.Helper()
	g, err := w.AddGrant(w.t.Context(), by, odometer.Once{}, owns, odometer.Grant{Instance: owns.Instance, User: user, Level: level})
	if err != nil {
		w.t.Fatal(err)
	}
	return g
}

// grants are those that the holder of a secret has now, as "instance level".
func (w *office) grants(secret string) string {
	w.t.Helper()
	var list []string
	for _, g := range w.as(secret).Grants {
		list = append(list, string(g.Instance)+" "+string(g.Level))
	}
	return strings.Join(list, ", ")
}

// estate is an office with an organisation whose member owns vm-1, and the tokens of
// its people.
type estate struct {
	*office
	owner, admin, member, billing, guest, other, plain odometer.Actor
	guests, others                                     string // tokens
	owns                                               odometer.Ownership
}

func newEstate(t *testing.T, o AccountsOptions) *estate {
	w := &estate{office: newOffice(t, o), owns: owned("vm-1", "u-member", "acme")}
	w.org("acme")
	w.org("bolt")
	w.owner, _ = w.office.member("u-owner", "acme", odometer.RoleOwner)
	w.admin, _ = w.office.member("u-admin", "acme", odometer.RoleAdmin)
	w.member, _ = w.office.member("u-member", "acme", odometer.RoleMember)
	w.billing, _ = w.office.member("u-billing", "acme", odometer.RoleBilling)
	w.guest, w.guests = w.office.member("u-guest", "acme", odometer.RoleMember)
	w.other, w.others = w.office.member("u-other", "bolt", odometer.RoleOwner)
	w.plain, _ = w.office.member("u-plain", "", "")
	return w
}

// TestTheLifeOfAGrant: what it shows is held with the next request, changes and ends
// with it, and is there after a restart.
func TestTheLifeOfAGrant(t *testing.T) {
	ctx := t.Context()
	w := newEstate(t, AccountsOptions{})
	w.after(20 * time.Minute)
	g := w.give(w.owner, w.owns, "u-guest", odometer.LevelReadOnly)
	if want := time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC); !g.Since.Equal(want) || g.Of != w.owns.Owner || g.By != "u-owner" || g.Version != 1 || !g.Expires.IsZero() {
		t.Errorf("got %+v, want it since %s in the name of its owner", g, want)
	}
	held := func(want string) {
		t.Helper()
		for range 2 {
			if got := w.grants(w.guests); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
			w.restart()
		}
	}
	held("vm-1 readonly")
	w.give(admin, owned("vm-0", "", ""), "u-guest", odometer.LevelManager)
	held("vm-0 manager, vm-1 readonly")
	_, err := w.AddGrant(ctx, w.owner, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-guest", Level: odometer.LevelOperator})
	if !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("a second one: got %v", err)
	}
	if _, err := w.SetGrant(ctx, w.owner, w.owns, "u-guest", 7, odometer.LevelOperator, time.Time{}); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("of another version: got %v", err)
	}
	end := w.now().Add(time.Hour)
	set, err := w.SetGrant(ctx, w.admin, w.owns, "u-guest", 1, odometer.LevelOperator, end)
	if err != nil || set.Level != odometer.LevelOperator || set.Version != 2 || set.By != "u-admin" || !set.Created.Equal(g.Created) || !set.Since.Equal(g.Since) {
		t.Errorf("set: got %+v, %v", set, err)
	}
	held("vm-0 manager, vm-1 operator")
	w.after(time.Hour - time.Microsecond)
	held("vm-0 manager, vm-1 operator")
	w.after(time.Microsecond)
	for range 2 { // it is out of memory then
		if got := w.grants(w.guests); got != "vm-0 manager" {
			t.Errorf("at its end: got %q", got)
		}
	}
	held("vm-0 manager")
	if _, err := w.Grant(ctx, w.owner.Caller, w.owns, "u-guest"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("one that expired: got %v", err)
	}
	if g = w.give(w.owner, w.owns, "u-guest", odometer.LevelReadOnly); g.Version != 3 {
		t.Errorf("given again: got version %d, want one that no other had", g.Version)
	}
	if g, err = w.SetGrant(ctx, w.member, w.owns, "u-guest", 3, odometer.LevelManager, time.Time{}); err != nil || g.By != "u-member" {
		t.Errorf("by the user whose it is: got %+v, %v", g, err)
	}
	if _, err := w.EndGrant(ctx, w.guest, w.owns, "u-guest", 4); err != nil {
		t.Errorf("his own: got %v", err)
	}
	held("vm-0 manager")
	want := []string{
		"t grant.add vm-1/u-guest", "admin grant.add vm-0/u-guest", "t grant.update vm-1/u-guest", "t grant.add vm-1/u-guest",
		"t grant.update vm-1/u-guest", "t grant.end vm-1/u-guest",
	}
	got := slices.DeleteFunc(w.actions(), func(s string) bool { return !strings.Contains(s, " grant.") })
	if !slices.Equal(got, want) {
		t.Errorf("got the log %q, want %q", got, want)
	}
	var rows int
	if err := w.db.QueryRow(`SELECT count(*) FROM account_grants`).Scan(&rows); err != nil || rows != 5 {
		t.Errorf("got %d rows, %v, want each that there was", rows, err)
	}
}

// TestWhoMayGrant: the owner as it is recorded, who gives grants for his organisation,
// who holds a higher level, the operator; of nobody else is it told that there is a
// machine.
func TestWhoMayGrant(t *testing.T) {
	ctx := t.Context()
	const none, yes, no = "not found", "done", "forbidden"
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
	for _, level := range append([]odometer.Level{""}, odometer.Levels...) {
		w := newEstate(t, AccountsOptions{})
		// Who holds a grant may see whom he is to give one.
		holder := w.other
		if _, err := w.AddMember(ctx, admin, odometer.Once{}, odometer.Membership{Org: "bolt", User: "u-guest", Role: odometer.RoleMember}); err != nil {
			t.Fatal(err)
		}
		if level != "" {
			w.give(admin, w.owns, "u-other", level)
		}
		for _, c := range []struct {
			name string
			by   odometer.Actor
			may  func(odometer.Level) string
		}{
			{"the operator", admin, func(odometer.Level) string { return yes }},
			{"an owner of the organisation", w.owner, func(odometer.Level) string { return yes }},
			{"an admin of it", w.admin, func(odometer.Level) string { return yes }},
			{"who does its billing", w.billing, func(odometer.Level) string { return no }},
			{"another member", w.guest, func(odometer.Level) string { return none }},
			{"a stranger", w.plain, func(odometer.Level) string { return none }},
			{"the operator's service", odometer.Actor{Caller: odometer.Caller{ID: "tok_2", Scopes: []odometer.Scope{odometer.ScopeRead}}}, func(odometer.Level) string { return no }},
			{"who holds " + string(level), holder, func(l odometer.Level) string {
				switch {
				case level == "":
					return none
				case level == odometer.LevelOwner && l != odometer.LevelOwner, level == odometer.LevelManager && (l == odometer.LevelOperator || l == odometer.LevelReadOnly):
					return yes
				}
				return no
			}},
		} {
			for _, l := range odometer.Levels {
				_, err := w.AddGrant(ctx, c.by, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-guest", Level: l})
				if got := says(err); got != c.may(l) {
					t.Errorf("%s, level %s: got %s, want %s", c.name, l, got, c.may(l))
				}
				if err == nil { // what he gave he ends
					if _, err := w.EndGrant(ctx, c.by, w.owns, "u-guest", odometer.AnyVersion); err != nil {
						t.Errorf("%s, level %s: end: got %v", c.name, l, err)
					}
				}
			}
		}
	}
}

// TestWhatAGrantMayNotGive: more than who gives it has, to whom he does not see, for
// longer, of earlier.
func TestWhatAGrantMayNotGive(t *testing.T) {
	ctx := t.Context()
	w := newEstate(t, AccountsOptions{})
	if _, err := w.AddMember(ctx, admin, odometer.Once{}, odometer.Membership{Org: "bolt", User: "u-guest", Role: odometer.RoleMember}); err != nil {
		t.Fatal(err)
	}
	until := w.now().Add(24 * time.Hour)
	held, err := w.AddGrant(ctx, w.owner, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-admin", Level: odometer.LevelReadOnly})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.AddGrant(ctx, admin, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-other", Level: odometer.LevelManager, Since: w.now().Add(-48 * time.Hour), Expires: until}); err != nil {
		t.Fatal(err)
	}
	by := w.as(w.others)
	for _, c := range []struct {
		name string
		g    odometer.Grant
		want error
	}{
		{"of earlier", odometer.Grant{User: "u-guest", Level: odometer.LevelReadOnly, Since: w.now().Add(-49 * time.Hour), Expires: until}, odometer.ErrForbidden},
		{"for ever", odometer.Grant{User: "u-guest", Level: odometer.LevelReadOnly}, odometer.ErrForbidden},
		{"for longer", odometer.Grant{User: "u-guest", Level: odometer.LevelReadOnly, Expires: until.Add(time.Second)}, odometer.ErrForbidden},
		{"his own level", odometer.Grant{User: "u-guest", Level: odometer.LevelManager, Expires: until}, odometer.ErrForbidden},
		{"to whom he does not see", odometer.Grant{User: "u-plain", Level: odometer.LevelReadOnly, Expires: until}, odometer.ErrInvalid},
		{"to whom there is not", odometer.Grant{User: "u-none", Level: odometer.LevelReadOnly, Expires: until}, odometer.ErrInvalid},
		{"that is past", odometer.Grant{User: "u-guest", Level: odometer.LevelReadOnly, Expires: w.now()}, odometer.ErrInvalid},
		{"of what is to come", odometer.Grant{User: "u-guest", Level: odometer.LevelReadOnly, Since: w.now().Add(time.Second), Expires: until}, odometer.ErrInvalid},
		{"of no level", odometer.Grant{User: "u-guest", Level: "king", Expires: until}, odometer.ErrInvalid},
		{"to nobody", odometer.Grant{User: odometer.Unassigned, Level: odometer.LevelReadOnly, Expires: until}, odometer.ErrInvalid},
	} {
		c.g.Instance = "vm-1"
		if _, err := w.AddGrant(ctx, by, odometer.Once{}, w.owns, c.g); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	_, there := w.AddGrant(ctx, by, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-plain", Level: odometer.LevelReadOnly, Expires: until})
	_, none := w.AddGrant(ctx, by, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-none", Level: odometer.LevelReadOnly, Expires: until})
	if there == nil || none == nil || strings.ReplaceAll(there.Error(), "u-plain", "u-none") != none.Error() {
		t.Errorf("who has an account is told: got %v and %v", there, none)
	}
	g, err := w.AddGrant(ctx, by, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-guest", Level: odometer.LevelOperator, Since: w.now().Add(-30 * time.Hour), Expires: until})
	if err != nil || g.Of != (odometer.Owner{}) || g.By != "u-other" {
		t.Errorf("within what he has: got %+v, %v", g, err)
	}
	for name, c := range map[string]func() error{
		"another's, higher": func() error {
			_, err := w.SetGrant(ctx, by, w.owns, "u-guest", 0, odometer.LevelOwner, until)
			return err
		},
		"his own, higher": func() error {
			_, err := w.SetGrant(ctx, by, w.owns, "u-other", 0, odometer.LevelOwner, until)
			return err
		},
		"his own, longer": func() error {
			_, err := w.SetGrant(ctx, by, w.owns, "u-other", 0, odometer.LevelManager, time.Time{})
			return err
		},
		"the operator's, by owner": func() error { _, err := w.EndGrant(ctx, w.owner, w.owns, "u-other", 0); return err },
	} {
		if err := c(); !errors.Is(err, odometer.ErrForbidden) {
			t.Errorf("%s: got %v, want ErrForbidden", name, err)
		}
	}
	// One who reads changes nothing, and sees his own alone.
	if _, err := w.EndGrant(ctx, w.as(w.guests), w.owns, "u-admin", 0); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("end another's: got %v, want ErrNotFound", err)
	}
	list, err := w.Grants(ctx, w.guest.Caller, w.owns, "", 10)
	if err != nil || len(list) != 1 || list[0].User != "u-guest" {
		t.Errorf("what an operator sees: got %+v, %v", list, err)
	}
	if list, err = w.Grants(ctx, by.Caller, w.owns, "u-admin", 1); err != nil || len(list) != 1 || list[0].User != "u-guest" {
		t.Errorf("what a manager sees, one page: got %+v, %v", list, err)
	}
	if list, err = w.Grants(ctx, w.billing.Caller, w.owns, "", 10); err != nil || len(list) != 3 || list[0] != held {
		t.Errorf("what billing sees: got %+v, %v", list, err)
	}
	if list, err = w.Grants(ctx, w.plain.Caller, w.owns, "", 10); err != nil || len(list) != 0 {
		t.Errorf("what a stranger sees: got %+v, %v", list, err)
	}
}

// TestGrantsEndWithWhatTheyStandOn: when the machine changes hands, and when one of
// those that it is about is deleted.
func TestGrantsEndWithWhatTheyStandOn(t *testing.T) {
	ctx := t.Context()
	w := newEstate(t, AccountsOptions{})
	give := func() {
		t.Helper()
		w.give(w.owner, w.owns, "u-guest", odometer.LevelOwner)
		w.give(admin, w.owns, "u-other", odometer.LevelReadOnly)
	}
	transfer := func(o odometer.Ownership) {
		t.Helper()
		if err := w.Transferred(ctx, admin, o); err != nil {
			t.Fatal(err)
		}
	}
	give()
	now := w.now().UnixMicro()
	before, same := owned("vm-1", "u-plain", ""), w.owns
	before.Until = now
	transfer(before)
	transfer(same)
	transfer(owned("vm-2", "u-plain", ""))
	if got := w.grants(w.guests); got != "vm-1 owner" {
		t.Errorf("what changes nothing now: got %q", got)
	}
	later := owned("vm-1", "u-plain", "")
	later.From = w.now().Add(time.Hour).UnixMicro()
	transfer(later)
	transfer(later)
	w.after(time.Hour - time.Microsecond)
	if got := w.grants(w.guests); got != "vm-1 owner" {
		t.Errorf("before it changes hands: got %q", got)
	}
	w.after(time.Microsecond)
	if got := w.grants(w.guests) + w.grants(w.others); got != "vm-1 readonly" {
		t.Errorf("when it does: got %q, want the operator's alone", got)
	}
	transfer(w.owns)
	w.give(w.owner, w.owns, "u-guest", odometer.LevelReadOnly)
	transfer(owned("vm-1", "u-other", "acme"))
	if got := w.grants(w.guests); got != "" {
		t.Errorf("to another of the same organisation: got %q", got)
	}

	// One whose end could not be written shows nothing of the next owner, changes
	// nothing, and makes room.
	w.give(w.owner, w.owns, "u-guest", odometer.LevelOwner)
	next := owned("vm-1", "u-plain", "")
	guest := w.as(w.guests)
	if v := guest.View(); v.SeesUse("vm-1", next.Owner, w.now().UnixMicro()) {
		t.Error("it shows what the next owner uses")
	}
	if _, err := w.AddGrant(ctx, w.as(w.guests), odometer.Once{}, next, odometer.Grant{Instance: "vm-1", User: "u-admin", Level: odometer.LevelReadOnly}); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("by whom the former owner gave it: got %v", err)
	}
	if list, err := w.Grants(ctx, w.plain.Caller, next, "", 10); err != nil || len(list) != 1 || list[0].User != "u-other" {
		t.Errorf("what the next owner sees: got %+v, %v", list, err)
	}
	if g := w.give(admin, next, "u-guest", odometer.LevelReadOnly); g.Of != (odometer.Owner{}) {
		t.Errorf("got %+v", g)
	}
	if _, err := w.EndGrant(ctx, admin, next, "u-guest", 0); err != nil {
		t.Error(err)
	}

	// A transfer that is known ends what is given before it.
	soon := w.owns
	soon.Until = w.now().Add(time.Minute).UnixMicro()
	if g := w.give(w.owner, soon, "u-guest", odometer.LevelOwner); g.Expires.UnixMicro() != soon.Until {
		t.Errorf("got it until %s, want until it changes hands", g.Expires)
	}

	// Who is deleted holds nothing, and what was given in his name is over.
	w.give(w.owner, owned("vm-3", "u-owner", "acme"), "u-guest", odometer.LevelReadOnly)
	w.give(admin, owned("vm-4", "u-plain", ""), "u-plain", odometer.LevelReadOnly)
	if _, err := w.DeleteUser(ctx, admin, "u-member", 0); err != nil {
		t.Fatal(err)
	}
	if got := w.grants(w.guests); got != "vm-3 readonly" {
		t.Errorf("when the owner is deleted: got %q", got)
	}
	if _, err := w.DeleteOrganisation(ctx, admin, "acme", 0); err != nil {
		t.Fatal(err)
	}
	if got := w.grants(w.guests); got != "" {
		t.Errorf("when the organisation is: got %q", got)
	}
	if _, err := w.DeleteOrganisation(ctx, admin, "bolt", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DeleteUser(ctx, admin, "u-other", 0); err != nil {
		t.Fatal(err)
	}
	var standing int
	if err := w.db.QueryRow(`SELECT count(*) FROM account_grants WHERE ended_us = 0`).Scan(&standing); err != nil || standing != 1 {
		t.Errorf("got %d that stand, %v, want the one of who is there", standing, err)
	}
}

// TestAGrantIsGivenOnce under a key, and no user holds more than there may be.
func TestAGrantIsGivenOnce(t *testing.T) {
	ctx := t.Context()
	w := newEstate(t, AccountsOptions{})
	once := odometer.Once{Key: "k", Request: [32]byte{1}}
	ask := odometer.Grant{Instance: "vm-1", User: "u-guest", Level: odometer.LevelReadOnly}
	first, err := w.AddGrant(ctx, w.owner, once, w.owns, ask)
	again, errAgain := w.AddGrant(ctx, w.owner, once, w.owns, ask)
	if err != nil || errAgain != nil || first != again {
		t.Errorf("got %+v, %v and %+v, %v", first, err, again, errAgain)
	}
	if _, err := w.AddGrant(ctx, w.owner, odometer.Once{Key: "k"}, w.owns, ask); !errors.Is(err, odometer.ErrReused) {
		t.Errorf("another request under it: got %v", err)
	}
	if _, err := w.db.Exec(`WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)
		INSERT INTO account_grants SELECT i, 'vm-' || i, 'u-guest', 'readonly', '', '', 0, 0, '', 1, 0, 0, 0 FROM n`, MaxUserGrants); err != nil {
		t.Fatal(err)
	}
	w.restart()
	if n := len(w.as(w.guests).Grants); n != MaxUserGrants {
		t.Errorf("got %d grants, want %d", n, MaxUserGrants)
	}
	ask.Instance = "vm-more"
	if _, err := w.AddGrant(ctx, admin, odometer.Once{}, owned("vm-more", "", ""), ask); !errors.Is(err, odometer.ErrConflict) || !strings.Contains(err.Error(), fmt.Sprint(MaxUserGrants)) {
		t.Errorf("one more: got %v", err)
	}
	if n := testing.AllocsPerRun(100, func() { w.Authenticate(ctx, w.guests) }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}

// TestEveryCommitOfGrantsFails has each change fail, without and with having been
// stored: what is held is always as it is stored.
func TestEveryCommitOfGrantsFails(t *testing.T) {
	for _, c := range theFailures {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			w := newEstate(t, AccountsOptions{Driver: "account-failing"})
			try := func(what string, change func() error, stored, not string) {
				t.Helper()
				c.fails.Store(true)
				err := change()
				c.fails.Store(false)
				if want := map[bool]string{true: stored, false: not}[c.stored]; !errors.Is(err, errDisk) || w.grants(w.guests) != want {
					t.Errorf("%s: got %v and %q, want it failed and %q", what, err, w.grants(w.guests), want)
				}
			}
			try("add", func() error {
				_, err := w.AddGrant(ctx, w.owner, odometer.Once{}, w.owns, odometer.Grant{Instance: "vm-1", User: "u-guest", Level: odometer.LevelOwner})
				return err
			}, "vm-1 owner", "")
			if !c.stored {
				w.give(w.owner, w.owns, "u-guest", odometer.LevelOwner)
			}
			try("set", func() error {
				_, err := w.SetGrant(ctx, w.owner, w.owns, "u-guest", 0, odometer.LevelReadOnly, time.Time{})
				return err
			}, "vm-1 readonly", "vm-1 owner")
			w.give(admin, owned("vm-2", "", ""), "u-guest", odometer.LevelReadOnly)
			try("end", func() error { _, err := w.EndGrant(ctx, admin, owned("vm-2", "", ""), "u-guest", 0); return err },
				"vm-1 readonly", "vm-1 owner, vm-2 readonly")
			try("transfer", func() error { return w.Transferred(ctx, admin, owned("vm-1", "u-plain", "")) }, "", "vm-1 owner, vm-2 readonly")
		})
	}
}
