package main

import (
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
)

// reception is a server that lets hosts in, whose answers get lost when it is told
// so: after it has done what was asked.
type reception struct {
	*httptest.Server
	accounts *account.Accounts
	silent   atomic.Bool
	asked    atomic.Int32
}

func newReception(t *testing.T) *reception {
	t.Helper()
	a, err := account.OpenAccounts(t.Context(), account.AccountsOptions{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	r := &reception{accounts: a}
	h := api.NewServer(api.Deps{Hosts: &admission{Accounts: a}, QueueURL: func() string { return "nats://0.0.0.0:4222" }})
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		r.asked.Add(1)
		if !r.silent.Load() {
			h.ServeHTTP(w, q)
			return
		}
		h.ServeHTTP(httptest.NewRecorder(), q)
		panic(http.ErrAbortHandler)
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *reception) enrolment(t *testing.T, agent odometer.AgentID, replace bool) string {
	t.Helper()
	_, secret, err := r.accounts.CreateEnrolment(t.Context(), odometer.Actor{Caller: odometer.Caller{Name: "admin"}}, agent, replace, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// arrives opens the identity of a host, as at its start.
func (r *reception) arrives(t *testing.T, dir, secret string) *identity {
	t.Helper()
	i, err := openIdentity(&dataDir{path: dir}, "host", r.URL, secret, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func (i *identity) asks(t *testing.T) (string, error) {
	t.Helper()
	address, err := i.queue(t.Context(), newClient(i.server, "", nil))
	if err != nil && i.secret != "" && strings.Contains(err.Error(), i.secret[4:]) {
		t.Errorf("got the secret in %q", err)
	}
	return address, err
}

// TestAHostThatGotNoAnswerAsksAgain with the same key and gets what it would have,
// at once and after a crash.
func TestAHostThatGotNoAnswerAsksAgain(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		r, dir := newReception(t), t.TempDir()
		i := r.arrives(t, dir, r.enrolment(t, "host", false))
		r.silent.Store(true)
		if _, err := i.asks(t); !errors.Is(err, odometer.ErrUnavailable) {
			t.Fatalf("got %v, want no answer", err)
		}
		if p, ok := r.accounts.PeerOf(i.current().Public()); !ok || p.Agent != "host" {
			t.Fatal("got the host not let in: this tests nothing")
		}
		r.silent.Store(false)
		key := i.current().Public()
		if crashed {
			i = r.arrives(t, dir, i.secret)
		}
		address, err := i.asks(t)
		if err != nil || address != "nats://127.0.0.1:4222" || i.current().Public() != key {
			t.Errorf("crashed %v: got %s, %v, with another key: %v", crashed, address, err, i.current().Public() != key)
		}
		i = r.arrives(t, dir, "")
		if _, err := i.asks(t); err != nil {
			t.Errorf("without the token: got %v", err)
		}
		r.silent.Store(true)
		if again, err := i.asks(t); err != nil || again != address {
			t.Errorf("while the server is away: got %s, %v, want %s", again, err, address)
		}
	}
}

// TestAHostThatIsNotLetInKeepsItsKey, however often it asks.
func TestAHostThatIsNotLetInKeepsItsKey(t *testing.T) {
	r := newReception(t)
	i := r.arrives(t, t.TempDir(), account.NewSecret())
	key := i.current().Public()
	for range 3 {
		if _, err := i.asks(t); !errors.Is(err, odometer.ErrForbidden) {
			t.Errorf("got %v, want it refused", err)
		}
	}
	if i.current().Public() != key || r.asked.Load() != 3 {
		t.Errorf("got another key: %v, and %d questions, want 3", i.current().Public() != key, r.asked.Load())
	}
}

func TestAHostGoesToAnotherServerAndBack(t *testing.T) {
	one, other, dir := newReception(t), newReception(t), t.TempDir()
	i := one.arrives(t, dir, one.enrolment(t, "", false))
	if _, err := i.asks(t); err != nil {
		t.Fatal(err)
	}
	first := i.current().Public()
	i = other.arrives(t, dir, "")
	if _, err := i.asks(t); !errors.Is(err, odometer.ErrForbidden) || !strings.Contains(err.Error(), "not enrolled here") {
		t.Errorf("a server that does not know it: got %v", err)
	}
	i = other.arrives(t, dir, one.enrolment(t, "", false))
	if _, err := i.asks(t); !errors.Is(err, odometer.ErrForbidden) || !strings.Contains(err.Error(), "another server's") {
		t.Errorf("with the token of another server: got %v", err)
	}
	i = other.arrives(t, dir, other.enrolment(t, "", false))
	if _, err := i.asks(t); err != nil || i.current().Public() == first {
		t.Errorf("with a token of its own: got %v", err)
	}
	i = one.arrives(t, dir, one.enrolment(t, "host", true))
	if _, err := i.asks(t); err != nil {
		t.Errorf("back again: got %v", err)
	}
	if _, ok := one.accounts.PeerOf(first); ok {
		t.Error("got its first key let in still")
	}
}

// TestAServerThatLetsSomebodyElseIn answers with what was not asked.
func TestAServerThatLetsSomebodyElseIn(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Write([]byte(`{"agent_id":"other","public_key":"U","enrolled_at":"2026-01-01T00:00:00Z","queue_url":"nats://192.0.2.1:1"}`))
	}))
	defer s.Close()
	dir := t.TempDir()
	i, err := openIdentity(&dataDir{path: dir}, "host", s.URL, account.NewSecret(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if address, err := i.asks(t); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("got %s, %v, want it refused", address, err)
	}
	if _, err := os.Stat(filepath.Join(dir, enrolmentFile)); err == nil {
		t.Error("got the answer kept")
	}
}

func TestANobodyIsNoIdentity(t *testing.T) {
	i, err := openIdentity(&dataDir{path: t.TempDir()}, "host", "http://127.0.0.1:1", "", slog.New(slog.DiscardHandler))
	if i != nil || err != nil {
		t.Errorf("got %v, %v, want none", i, err)
	}
	if _, err := openIdentity(&dataDir{path: filepath.Join(t.TempDir(), "absent")}, "host", "http://127.0.0.1:1", account.NewSecret(), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("got no error where the key cannot be kept")
	}
}
