package notify

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
)

// TestAWebhookIsToldWhatItsHolderSees: violations of his own thresholds, and of those that
// are shared where he sees the usage; the operator's is told all.
func TestAWebhookIsToldWhatItsHolderSees(t *testing.T) {
	w := newOffice(t, Options{Allow: loopback})
	hooks := map[string]*receiver{}
	for name, h := range map[string]odometer.Bound{"operator": {}, "ada": {User: "ada"}, "acme": {Org: "acme"}, "carol": {User: "carol"}} {
		hooks[name] = newReceiver(t, nil)
		w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: hooks[name].URL, Holder: h})
	}
	told := func(instance string, holder odometer.Bound, shared bool) odometer.Violation {
		v := violation(instance, 1)
		v.Holder, v.Shared = holder, shared
		return v
	}
	w.log.add(told("operators", odometer.Bound{}, false), told("shared", odometer.Bound{}, true),
		told("adas", odometer.Bound{User: "ada"}, false), told("acmes", odometer.Bound{Org: "acme"}, false), told("carols", odometer.Bound{User: "carol"}, false))
	w.goOn(0)
	for name, want := range map[string][]string{
		"operator": {"vio_acmes1.1", "vio_adas1.1", "vio_carols1.1", "vio_operators1.1", "vio_shared1.1"},
		"ada":      {"vio_adas1.1", "vio_shared1.1"},
		"acme":     {"vio_acmes1.1", "vio_shared1.1"},
		"carol":    {"vio_carols1.1"},
	} {
		if got := hooks[name].events(t); !sameIDs(got, want) {
			t.Errorf("%s is told %v, want %v", name, got, want)
		}
	}
}

// TestAChannelThatIsNamedStays: one that a threshold names is not taken away, and one that
// cannot be looked for is not either.
func TestAChannelThatIsNamedStays(t *testing.T) {
	name, fails := "busy", error(nil)
	w := newOffice(t, Options{Namer: func(_ context.Context, _ *sql.Tx, h odometer.Bound, _ odometer.ChannelID) (string, error) {
		if h != (odometer.Bound{User: "ada"}) {
			return "", nil
		}
		return name, fails
	}})
	log := func(h odometer.Bound) odometer.Channel {
		return odometer.Channel{Name: "here", Kind: odometer.ChannelSlack, URL: "https://hooks.slack.com/services/T0/B0/x", Holder: h}
	}
	c, _ := w.create(log(odometer.Bound{User: "ada"}))
	other, _ := w.create(log(odometer.Bound{}))
	if err := w.Delete(t.Context(), ada, c.ID, 0); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("one that is named: got %v, want ErrConflict", err)
	}
	if err := w.Delete(t.Context(), carol, c.ID, 0); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("another's: got %v, want ErrNotFound", err)
	}
	name, fails = "", errors.New("the disk is gone")
	if err := w.Delete(t.Context(), ada, c.ID, 0); !errors.Is(err, fails) {
		t.Errorf("where nothing is known: got %v, want %v", err, fails)
	}
	if _, err := w.Get(t.Context(), ada.Caller, c.ID); err != nil {
		t.Errorf("got %v, want it there", err)
	}

	held := func(h odometer.Bound, list ...odometer.ChannelID) error {
		return w.transact(t.Context(), func(tx *sql.Tx) error { return w.HeldIn(t.Context(), tx, h, list) })
	}
	if err := held(odometer.Bound{User: "ada"}, c.ID); err != nil {
		t.Errorf("his own: got %v", err)
	}
	err := held(odometer.Bound{User: "ada"}, c.ID, other.ID, "chn_aaaaaaaaaaaaaaaa")
	want := "channels[1]: its holder has no channel " + string(other.ID) + "\nchannels[2]: its holder has no channel chn_aaaaaaaaaaaaaaaa"
	if !errors.Is(err, odometer.ErrInvalid) || err.Error() != want {
		t.Errorf("another's and none: got %v, want %s", err, want)
	}
	fails = nil
	if err := w.Delete(t.Context(), ada, c.ID, 0); err != nil {
		t.Error(err)
	}
	if list, err := w.List(t.Context(), admin.Caller, odometer.ChannelQuery{Limit: 10}); err != nil || !slices.ContainsFunc(list, func(c odometer.Channel) bool { return c.ID == other.ID }) || len(list) != 1 {
		t.Errorf("got %+v, %v, want the other", list, err)
	}
}

// TestATokenIsNotCarriedToAnotherServer: that of an Alertmanager is replaced, taken away,
// and kept for the server that it is for.
func TestATokenIsNotCarriedToAnotherServer(t *testing.T) {
	w := newOffice(t, Options{Allow: loopback})
	first, second := newReceiver(t, nil), newReceiver(t, nil)
	c, _, err := w.Create(t.Context(), admin, odometer.Channel{Name: "am", Kind: odometer.ChannelAlertmanager, URL: first.URL, Enabled: true}, Secrets{Bearer: "before"}, odometer.Once{})
	if err != nil {
		t.Fatal(err)
	}
	asks := func(r *receiver, want string) {
		t.Helper()
		if a, err := w.Test(t.Context(), admin, c.ID); err != nil || a.Err != "" {
			t.Fatalf("got %+v, %v, want it delivered", a, err)
		}
		all := r.requests()
		if got := all[len(all)-1].header.Get("Authorization"); got != want {
			t.Errorf("got the header %q, want %q", got, want)
		}
	}
	set := func(url string, bearer *string) error {
		d := c
		d.URL = url
		is, err := w.Update(t.Context(), admin, d, 0, bearer)
		if err == nil {
			c = is
		}
		return err
	}
	asks(first, "Bearer before")
	if err := set(second.URL, nil); !errors.Is(err, odometer.ErrInvalid) || strings.Contains(err.Error(), "Bearer") {
		t.Errorf("another server without a token: got %v, want ErrInvalid", err)
	}
	asks(first, "Bearer before")
	if err := set(first.URL+"/prefix", nil); err != nil {
		t.Errorf("the same server: got %v", err)
	}
	asks(first, "Bearer before")
	if err := set(second.URL, new("after")); err != nil {
		t.Fatal(err)
	}
	asks(second, "Bearer after")
	if err := set(second.URL, new("a b")); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("what is no token: got %v, want ErrInvalid", err)
	}
	if err := set(first.URL, new("")); err != nil {
		t.Fatal(err)
	}
	asks(first, "")
	if err := set(second.URL, nil); err != nil {
		t.Errorf("without a token: got %v", err)
	}
	hook, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: first.URL})
	if _, err := w.Update(t.Context(), admin, hook, 0, new("x")); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("of a webhook: got %v, want ErrInvalid", err)
	}
}
