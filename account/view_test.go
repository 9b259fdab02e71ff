package account

import (
	"testing"

	"example.org/odometer"
)

// TestWhatAHolderSees, whoever asks: as his own token shows it, and nothing once he is
// deleted.
func TestWhatAHolderSees(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	o := w.org("acme")
	ada, _ := w.member("u-ada", "acme", odometer.RoleBilling)
	w.org("zeta")
	own, ofAcme, ofZeta := odometer.Owner{User: "u-ada"}, odometer.Owner{User: "u-bob", Org: "acme"}, odometer.Owner{User: "u-bob", Org: "zeta"}
	sees := func(when string, h odometer.Bound, want ...odometer.Owner) {
		t.Helper()
		v, err := w.ViewOf(t.Context(), h)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		for _, x := range []odometer.Owner{own, ofAcme, ofZeta} {
			expected := false
			for _, y := range want {
				expected = expected || x == y
			}
			if v.Sees(x) != expected {
				t.Errorf("%s: %+v sees %+v: got %v, want %v", when, h, x, !expected, expected)
			}
		}
	}
	user, org := odometer.Bound{User: "u-ada"}, odometer.Bound{Org: "acme"}
	sees("the operator", odometer.Bound{}, own, ofAcme, ofZeta)
	sees("a user with a role", user, own, ofAcme)
	sees("an organisation", org, ofAcme)
	sees("an organisation that was never created", odometer.Bound{Org: "none"})
	sees("a user who was never created", odometer.Bound{User: "u-bob"}, ofAcme, ofZeta)
	if _, err := w.RemoveMember(t.Context(), admin, "acme", "u-ada", ada.Memberships[0].Version); err != nil {
		t.Fatal(err)
	}
	sees("a user whose role has ended", user, own)
	if _, err := w.DeleteUser(t.Context(), admin, "u-ada", odometer.AnyVersion); err != nil {
		t.Fatal(err)
	}
	sees("a user who was deleted", user)
	if _, err := w.DeleteOrganisation(t.Context(), admin, "acme", o.Version); err != nil {
		t.Fatal(err)
	}
	sees("an organisation that was deleted", org)
	w.db.Close()
	if v, err := w.ViewOf(t.Context(), org); err == nil || v.Sees(ofAcme) {
		t.Errorf("from a file that cannot be read: got %v, %v, want an error and nothing seen", v, err)
	}
}
