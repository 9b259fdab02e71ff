package account

import (
	"errors"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// reads says whether a consumer may read, after a restart too.
func (w *office) reads(name string, m *machine, id odometer.ConsumerID, want bool) {
	w.t.Helper()
	for _, when := range []string{"", ", after a restart"} {
		if p, ok := w.PeerOf(m.key); ok != want || ok && p != (odometer.Peer{Consumer: id}) {
			w.t.Errorf("%s%s: got %+v, %v, want it known: %v", name, when, p, ok, want)
		}
		w.restart()
	}
}

func TestTheLifeOfAConsumer(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	m, other := newMachine(t), newMachine(t)
	c, err := w.CreateConsumer(t.Context(), admin, "billing", "acme", m.key)
	if err != nil || odometer.ValidConsumerID(string(c.ID)) != nil || c.Org != "acme" || c.Key != m.key || !c.Created.Equal(w.now()) || c.CreatedBy != "admin" {
		t.Fatalf("got %+v, %v", c, err)
	}
	all, err := w.CreateConsumer(t.Context(), admin, "all", "", other.key)
	if err != nil {
		t.Fatal(err)
	}
	w.reads("created", m, c.ID, true)
	if list, err := w.Consumers(t.Context()); err != nil || !slices.Equal(list, []odometer.Consumer{c, all}) {
		t.Errorf("list: got %+v, %v", list, err)
	}
	w.after(time.Minute)
	got, err := w.RevokeConsumer(t.Context(), admin, c.ID)
	if err != nil || !got.Revoked.Equal(w.now()) {
		t.Errorf("revoke: got %+v, %v", got, err)
	}
	w.after(time.Minute)
	if again, err := w.RevokeConsumer(t.Context(), admin, c.ID); err != nil || again != got {
		t.Errorf("revoke again: got %+v, %v, want %+v", again, err, got)
	}
	w.reads("revoked", m, c.ID, false)
	w.reads("the other", other, all.ID, true)
	if _, err := w.RevokeConsumer(t.Context(), admin, "con_aaaaaaaaaaaaaaaa"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("revoke what there is not: got %v", err)
	}
	want := []string{"admin consumer.create " + string(c.ID), "admin consumer.create " + string(all.ID), "admin consumer.revoke " + string(c.ID)}
	if got := w.actions(); !slices.Equal(got, want) {
		t.Errorf("audit log: got %q, want %q", got, want)
	}
}

func TestConsumersThatCannotBe(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	m, host := newMachine(t), newMachine(t)
	_, secret := w.enrolment("host", false)
	w.enrols(host, "host", secret)
	gone := newMachine(t)
	c, err := w.CreateConsumer(t.Context(), admin, "gone", "", gone.key)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.RevokeConsumer(t.Context(), admin, c.ID); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, called string
		org          odometer.OrgID
		key          odometer.Key
		want         error
	}{
		{"no name", "", "", m.key, odometer.ErrInvalid},
		{"an organisation that is none", "a", "a b", m.key, odometer.ErrInvalid},
		{"no key", "a", "", "", odometer.ErrInvalid},
		{"an account's key", "a", "", "A" + m.key[1:], odometer.ErrInvalid},
		{"a slip in the key", "a", "", m.key[:55] + "7" + m.key[56:], odometer.ErrInvalid},
		{"a host's key", "a", "", host.key, odometer.ErrConflict},
		{"a key that was revoked", "a", "", gone.key, odometer.ErrConflict},
	} {
		if c.name == "a slip in the key" && c.key == m.key {
			continue
		}
		if got, err := w.CreateConsumer(t.Context(), admin, c.called, c.org, c.key); !errors.Is(err, c.want) || got.ID != "" {
			t.Errorf("%s: got %+v, %v, want %v", c.name, got, err, c.want)
		}
	}
	if _, err := w.CreateConsumer(t.Context(), admin, "a", "", m.key); err != nil {
		t.Fatal(err)
	}
	_, secret = w.enrolment("another", false)
	if _, _, err := w.Enrol(t.Context(), m.asks("another", secret)); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("a host with a consumer's key: got %v, want ErrConflict", err)
	}
}

// TestEveryCommitOfConsumersFails: a consumer whose creation failed reads nothing,
// and is created with another key; one whose revocation failed is revoked when that
// is tried again.
func TestEveryCommitOfConsumersFails(t *testing.T) {
	for name, fails := range map[string]interface{ Store(bool) }{"failed, not persisted": &theDisk.before, "failed, but persisted": &theDisk.after} {
		t.Run(name, func(t *testing.T) {
			w := newOffice(t, AccountsOptions{Driver: "account-failing"})
			m, second := newMachine(t), newMachine(t)
			fails.Store(true)
			if _, err := w.CreateConsumer(t.Context(), admin, "a", "", m.key); !errors.Is(err, errDisk) {
				t.Errorf("create: got %v, want it failed", err)
			}
			fails.Store(false)
			if _, ok := w.PeerOf(m.key); ok {
				t.Error("got the key known of one that failed")
			}
			c, err := w.CreateConsumer(t.Context(), admin, "a", "", second.key)
			if err != nil {
				t.Fatal(err)
			}
			fails.Store(true)
			if _, err := w.RevokeConsumer(t.Context(), admin, c.ID); !errors.Is(err, errDisk) {
				t.Errorf("revoke: got %v, want it failed", err)
			}
			fails.Store(false)
			if _, err := w.RevokeConsumer(t.Context(), admin, c.ID); err != nil {
				t.Errorf("revoke again: got %v", err)
			}
			w.reads("revoked", second, c.ID, false)
		})
	}
}
