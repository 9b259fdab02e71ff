package notify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
)

var (
	ada   = user("ada", odometer.Membership{Org: "acme", User: "ada", Role: odometer.RoleOwner})
	bob   = user("bob", odometer.Membership{Org: "acme", User: "bob", Role: odometer.RoleBilling})
	carol = user("carol")
)

func user(id odometer.UserID, m ...odometer.Membership) odometer.Actor {
	return odometer.Actor{Caller: odometer.Caller{ID: "tok_abcdefghijklmnop", Name: string(id), Bound: odometer.Bound{User: id},
		Scopes: []odometer.Scope{odometer.ScopeRead, odometer.ScopeAccount}, Memberships: m}}
}

// TestChannels: who makes, sees, changes and deletes which, by versions, and what is
// written in the audit log of it.
func TestChannels(t *testing.T) {
	var lines []string
	w := newOffice(t, Options{Note: func(_ context.Context, _ *sql.Tx, by odometer.Actor, a odometer.Action, object, detail string) error {
		lines = append(lines, by.Name+" "+string(a)+" "+detail)
		return nil
	}, SMTP: SMTP{Addr: "192.0.2.1:25"}})
	ctx := t.Context()
	of := func(h odometer.Bound, name string) odometer.Channel {
		return odometer.Channel{Name: name, Kind: odometer.ChannelSlack, Holder: h, Enabled: true, URL: "https://hooks.slack.com/services/T0/B0/verysecret"}
	}
	acme, adas, carols := odometer.Bound{Org: "acme"}, odometer.Bound{User: "ada"}, odometer.Bound{User: "carol"}
	create := func(by odometer.Actor, c odometer.Channel) (odometer.Channel, error) {
		made, _, err := w.Create(ctx, by, c, Secrets{}, odometer.Once{})
		return made, err
	}
	ofAcme, err := create(ada, of(acme, "ops"))
	if err != nil {
		t.Fatal(err)
	}
	if ofAcme.Version != 1 || ofAcme.URL != "https://hooks.slack.com/…" || ofAcme.CreatedBy != "ada (tok_abcdefghijklmnop)" || odometer.ValidChannelID(string(ofAcme.ID)) != nil {
		t.Errorf("got %+v", ofAcme)
	}
	if _, err := create(ada, of(adas, "ops")); err != nil {
		t.Errorf("the same name of another holder: %v", err)
	}
	if _, err := create(carol, of(carols, "ops")); err != nil {
		t.Error(err)
	}
	if _, err := create(admin, of(odometer.Bound{}, "ops")); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		name string
		by   odometer.Actor
		of   odometer.Bound
		want error
	}{
		{"a name twice", ada, acme, odometer.ErrConflict},
		{"who only sees the organisation's", bob, acme, odometer.ErrForbidden},
		{"a stranger", carol, acme, odometer.ErrNotFound},
		{"another user's", carol, adas, odometer.ErrNotFound},
		{"the operator's", ada, odometer.Bound{}, odometer.ErrNotFound},
	} {
		if _, err := create(c.by, of(c.of, "ops")); !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}

	for name, c := range map[string]struct {
		by   odometer.Actor
		want int
	}{"admin": {admin, 4}, "ada": {ada, 2}, "bob": {bob, 1}, "carol": {carol, 1}} {
		list, err := w.List(ctx, c.by.Caller, odometer.ChannelQuery{})
		if err != nil || len(list) != c.want {
			t.Errorf("%s: got %+v, %v, want %d", name, list, err, c.want)
		}
		if _, err := w.Get(ctx, c.by.Caller, ofAcme.ID); (err == nil) != (name != "carol") || err != nil && !errors.Is(err, odometer.ErrNotFound) {
			t.Errorf("%s: got %v of the organisation's", name, err)
		}
		if _, err := w.Deliveries(ctx, c.by.Caller, odometer.DeliveryQuery{Channel: ofAcme.ID}); (err == nil) != (name != "carol") {
			t.Errorf("%s: got %v of its deliveries", name, err)
		}
	}
	if list, err := w.List(ctx, admin.Caller, odometer.ChannelQuery{Holder: &acme, Kind: odometer.ChannelSlack, Limit: 5}); err != nil || len(list) != 1 || list[0].ID != ofAcme.ID {
		t.Errorf("of acme: got %+v, %v", list, err)
	}
	all, err := w.List(ctx, admin.Caller, odometer.ChannelQuery{Limit: 3})
	if err != nil || len(all) != 3 {
		t.Fatalf("got %+v, %v, want 3", all, err)
	}
	if rest, err := w.List(ctx, admin.Caller, odometer.ChannelQuery{After: all[2].ID, Limit: 3}); err != nil || len(rest) != 1 {
		t.Errorf("after the third: got %+v, %v, want 1", rest, err)
	}

	change := ofAcme
	change.Name = "night shift"
	for _, c := range []struct {
		name    string
		by      odometer.Actor
		version uint64
		want    error
	}{{"a stranger", carol, 1, odometer.ErrNotFound}, {"who only sees it", bob, 1, odometer.ErrForbidden}, {"another version", ada, 7, odometer.ErrStale}, {"the owner", ada, 1, nil}} {
		if is, err := w.Update(ctx, c.by, change, c.version, nil); !errors.Is(err, c.want) || err == nil && (is.Version != 2 || is.Name != "night shift") {
			t.Errorf("%s: got %+v, %v, want %v", c.name, is, err, c.want)
		}
	}
	secrets, err := w.seal.secrets(ctx, w.db, ofAcme.ID, purposeURL, w.Notifier.now())
	if err != nil || !slices.Equal(secrets, []string{"https://hooks.slack.com/services/T0/B0/verysecret"}) {
		t.Errorf("got the URL %v, %v, want it kept where it is given as it is shown", secrets, err)
	}
	for _, c := range []struct {
		name string
		by   odometer.Actor
		want error
	}{{"a stranger", carol, odometer.ErrNotFound}, {"who only sees it", bob, odometer.ErrForbidden}} {
		if err := w.Delete(ctx, c.by, ofAcme.ID, AnyVersion); !errors.Is(err, c.want) {
			t.Errorf("%s deletes: got %v, want %v", c.name, err, c.want)
		}
		if _, err := w.Test(ctx, c.by, ofAcme.ID); !errors.Is(err, c.want) {
			t.Errorf("%s tests: got %v, want %v", c.name, err, c.want)
		}
		if _, err := w.Retry(ctx, c.by, ofAcme.ID, ""); !errors.Is(err, c.want) {
			t.Errorf("%s sends again: got %v, want %v", c.name, err, c.want)
		}
		if _, err := w.Rotate(ctx, c.by, ofAcme.ID, 0); !errors.Is(err, c.want) {
			t.Errorf("%s rotates: got %v, want %v", c.name, err, c.want)
		}
	}
	if err := w.Delete(ctx, ada, ofAcme.ID, 2); err != nil {
		t.Error(err)
	}
	if err := w.Delete(ctx, ada, ofAcme.ID, AnyVersion); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("again: got %v, want ErrNotFound", err)
	}
	want := []string{
		"ada channel.create ops: slack https://hooks.slack.com/…", "ada channel.create ops: slack https://hooks.slack.com/…", "carol channel.create ops: slack https://hooks.slack.com/…",
		"admin channel.create ops: slack https://hooks.slack.com/…", "ada channel.update night shift: slack https://hooks.slack.com/…", "ada channel.delete night shift: slack https://hooks.slack.com/…",
	}
	if !slices.Equal(lines, want) {
		t.Errorf("got the lines %q, want %q", lines, want)
	}
}

// TestChannelsThatWillNotDo: everything that is wrong is named at once, by its field.
func TestChannelsThatWillNotDo(t *testing.T) {
	w := newOffice(t, Options{})
	hook := []odometer.EventKind{odometer.EventViolation}
	for _, c := range []struct {
		name    string
		channel odometer.Channel
		secrets Secrets
		want    []string // fields
	}{
		{"nothing", odometer.Channel{}, Secrets{}, []string{"name:", "kind:"}},
		{"a webhook without anything", odometer.Channel{Name: "a", Kind: "webhook"}, Secrets{}, []string{"url:", "event_types:"}},
		{"a webhook with everything", odometer.Channel{Name: "a\n", Kind: "webhook", URL: "http://[fe80::1%25eth0]/", To: []string{"a@b"}, Events: []odometer.EventKind{"x", "x"}}, Secrets{Sign: "whsec_", Bearer: "x"},
			[]string{"name:", "url:", "to:", "event_types:", "secret:", "bearer:"}},
		{"inside", odometer.Channel{Name: "a", Kind: "webhook", URL: "https://169.254.169.254/latest", Events: hook}, Secrets{}, []string{"url: 169.254.169.254: the address is not on the public internet"}},
		{"slack with a secret", odometer.Channel{Name: "a", Kind: "slack", URL: "https://example.com/x"}, Secrets{Sign: newSignSecret()}, []string{"secret:"}},
		{"the log of a tenant's", odometer.Channel{Name: "a", Kind: "log", Holder: odometer.Bound{Org: "acme"}}, Secrets{}, []string{"kind:"}},
		{"both a user's and an organisation's", odometer.Channel{Name: "a", Kind: "slack", URL: "https://example.com/", Holder: odometer.Bound{User: "ada", Org: "acme"}}, Secrets{}, []string{"user_id:"}},
		{"e-mail without a server", odometer.Channel{Name: "a", Kind: "email", To: []string{"ada@example.com"}}, Secrets{}, []string{"kind: this server has no server for e-mail"}},
		{"e-mail to nobody", odometer.Channel{Name: "a", Kind: "email"}, Secrets{}, []string{"to:", "kind:"}},
		{"e-mail to whatever", odometer.Channel{Name: "a", Kind: "email", To: []string{"a@b", "a@b", "a@b\r\nBcc: c@d", "<a@b>", `"a b"@c`, "a@b c", "ä@b", "a@-b", "a..b@c", "@b", "a@"}}, Secrets{}, []string{
			"to: there are 11", "to: a@b is named twice", `to: "a@b\r\nBcc: c@d"`, `to: "<a@b>"`, `to: "\"a b\"@c"`, `to: "a@b c"`, `to: "ä@b"`, `to: "a@-b"`, `to: "a..b@c"`, `to: "@b"`, `to: "a@"`}},
		{"a short secret", odometer.Channel{Name: "a", Kind: "webhook", URL: "https://example.com/", Events: hook}, Secrets{Sign: "whsec_c2hvcnQ="}, []string{"secret:"}},
	} {
		_, _, err := w.Create(t.Context(), admin, c.channel, c.secrets, odometer.Once{})
		if !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", c.name, err)
			continue
		}
		for _, field := range c.want {
			if !strings.Contains(err.Error(), field) {
				t.Errorf("%s: got %q, want %q in it", c.name, err, field)
			}
		}
		if c.secrets.Sign != "" && strings.Contains(err.Error(), strings.TrimPrefix(c.secrets.Sign, "whsec_")) && len(c.secrets.Sign) > 6 {
			t.Errorf("%s: got %q, with the secret in it", c.name, err)
		}
	}
}

// TestATenantHasSoManyChannels and no more; the operator may.
func TestATenantHasSoManyChannels(t *testing.T) {
	w := newOffice(t, Options{})
	for _, c := range []struct {
		holder odometer.Bound
		want   error
	}{{odometer.Bound{Org: "acme"}, odometer.ErrConflict}, {odometer.Bound{}, nil}} {
		var err error
		for i := range MaxChannels + 1 {
			if err != nil {
				t.Fatalf("after %d: %v", i, err)
			}
			_, _, err = w.Create(t.Context(), admin, odometer.Channel{Name: fmt.Sprint("c", i), Kind: "alertmanager", Holder: c.holder, URL: "https://example.com/"}, Secrets{}, odometer.Once{})
		}
		if !errors.Is(err, c.want) {
			t.Errorf("%+v: got %v, want %v", c.holder, err, c.want)
		}
	}
}

// TestAskedTwice: the same request with the same key makes one channel and has the same
// answer, another request is refused.
func TestAskedTwice(t *testing.T) {
	w := newOffice(t, Options{})
	c := odometer.Channel{Name: "a", Kind: "webhook", URL: "https://example.com/", Events: []odometer.EventKind{odometer.EventUsage}}
	once := odometer.Once{Key: "k", Request: sha256.Sum256([]byte("a"))}
	first, secret, err := w.Create(t.Context(), admin, c, Secrets{}, once)
	if err != nil {
		t.Fatal(err)
	}
	again, same, err := w.Create(t.Context(), admin, c, Secrets{}, once)
	if err != nil || again.ID != first.ID || same != secret {
		t.Errorf("got %+v, %v, want the first", again, err)
	}
	once.Request = sha256.Sum256([]byte("b"))
	if _, _, err := w.Create(t.Context(), admin, c, Secrets{}, once); !errors.Is(err, odometer.ErrReused) {
		t.Errorf("got %v, want ErrReused", err)
	}
	w.after(keepRepeats)
	c.Name = "b"
	if b, _, err := w.Create(t.Context(), admin, c, Secrets{}, once); err != nil || b.ID == first.ID {
		t.Errorf("a day later: got %+v, %v, want another one", b, err)
	}
}

// TestSecretsAreNowhere: neither in the file nor in the log, in lists, answers and errors,
// and beside another key they are not read, and said to be lost.
func TestSecretsAreNowhere(t *testing.T) {
	var lines []string
	w := newOffice(t, Options{Note: func(_ context.Context, _ *sql.Tx, by odometer.Actor, a odometer.Action, object, detail string) error {
		lines = append(lines, object+detail)
		return nil
	}})
	r := newReceiver(t, nil)
	hook, secret := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	slack, _ := w.create(odometer.Channel{Kind: odometer.ChannelSlack, URL: r.URL + "/services/verysecret"})
	am, _, err := w.Create(t.Context(), admin, odometer.Channel{Name: "am", Kind: odometer.ChannelAlertmanager, URL: r.URL, Enabled: true}, Secrets{Bearer: "verysecretbearer"}, odometer.Once{})
	if err != nil {
		t.Fatal(err)
	}
	w.log.add(violation("vm-1", 1, slack.ID, am.ID))
	w.rest()
	r.Server.CloseClientConnections()
	r.Server.Close()
	w.log.add(violation("vm-1", 2, slack.ID, am.ID))
	w.rest()
	if got := r.requests(); len(got) != 3 {
		t.Fatalf("got %d requests, want 3", len(got))
	}
	text := fmt.Sprint(lines, w.texts.String())
	for _, id := range []odometer.ChannelID{hook.ID, slack.ID, am.ID} {
		c, err := w.Get(t.Context(), admin.Caller, id)
		text += fmt.Sprintf("%+v %v %+v", c, err, w.deliveries(id, ""))
		if list := w.deliveries(id, odometer.DeliveryWaiting); len(list) != 1 || list[0].Last.Err == "" {
			t.Errorf("got %+v, want one that failed", list)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file, err := os.ReadFile(w.o.Path)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{secret, strings.TrimPrefix(secret, signPrefix), "verysecret"} {
		if strings.Contains(text, s) {
			t.Errorf("%s… is told: %s", s[:8], text)
		}
		if bytes.Contains(file, []byte(s)) {
			t.Errorf("%s… is in the file", s[:8])
		}
	}

	w.o.Key = bytes.Repeat([]byte{1}, KeyBytes)
	w.open()
	w.goOn(retryFirst)
	if list := w.deliveries(hook.ID, odometer.DeliveryWaiting); len(list) != 1 || list[0].Last.Err != errSealed.Error() {
		t.Errorf("beside another key: got %+v, want it said", list)
	}
	if _, err := w.Rotate(t.Context(), admin, hook.ID, 0); err != nil {
		t.Errorf("another secret beside another key: %v", err)
	}
	if _, err := Open(t.Context(), Options{Path: w.o.Path, Key: []byte("short")}); err == nil {
		t.Error("a short key: got no error")
	}
}

// TestATest sends at once, says how that went, and is a delivery that is not repeated.
func TestATest(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, nil)
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	if a, err := w.Test(t.Context(), admin, c.ID); err != nil || a.Err != "" || a.Status != 204 {
		t.Errorf("got %+v, %v, want it delivered", a, err)
	}
	r.set(status(500))
	if a, err := w.Test(t.Context(), admin, c.ID); err != nil || a.Err != "it answered 500" || a.Status != 500 {
		t.Errorf("got %+v, %v, want it to have failed", a, err)
	}
	w.goOn(GiveUpAfter)
	if got := r.requests(); len(got) != 2 || !strings.Contains(got[0].body, `"type":"org.odometer.test.v1"`) {
		t.Errorf("got %+v, want two tests", got)
	}
	list := w.deliveries(c.ID, "")
	if len(list) != 2 || list[0].State != odometer.DeliveryDead || list[1].State != odometer.DeliveryDelivered || list[0].Kind != "" || list[0].Last.Status != 500 {
		t.Errorf("got %+v, want both on record", list)
	}
	if dead := w.Stats().Dead; dead != 0 {
		t.Errorf("got %d that were given up, want a test to be none of them", dead)
	}
	if _, err := w.Retry(t.Context(), admin, c.ID, ""); err != nil {
		t.Fatal(err)
	}
	w.rest()
	if got := len(r.requests()); got != 2 {
		t.Errorf("got %d requests after a retry, want no test to be repeated", got)
	}
}
