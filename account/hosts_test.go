package account

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"example.org/odometer"
)

// machine is a host as it asks to be let in.
type machine struct {
	t    *testing.T
	pair nkeys.KeyPair
	key  odometer.Key
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return &machine{t, pair, odometer.Key(public)}
}

func (m *machine) asks(agent odometer.AgentID, secret string) odometer.EnrolRequest {
	m.t.Helper()
	proof, err := m.pair.Sign(odometer.EnrolStatement(agent, m.key))
	if err != nil {
		m.t.Fatal(err)
	}
	return odometer.EnrolRequest{Agent: agent, Key: m.key, Proof: proof, Secret: secret, Remote: "192.0.2.7"}
}

func (w *office) agentOf(key odometer.Key) (odometer.AgentID, bool) {
	p, ok := w.PeerOf(key)
	return p.Agent, ok
}

func (w *office) enrolment(agent odometer.AgentID, replace bool) (odometer.Enrolment, string) {
	w.t.Helper()
	e, secret, err := w.CreateEnrolment(w.t.Context(), admin, agent, replace, time.Time{})
	if err != nil {
		w.t.Fatal(err)
	}
	return e, secret
}

func (w *office) enrols(m *machine, agent odometer.AgentID, secret string) odometer.Host {
	w.t.Helper()
	h, _, err := w.Enrol(w.t.Context(), m.asks(agent, secret))
	if err != nil {
		w.t.Fatalf("enrol %s: %v", agent, err)
	}
	return h
}

// lets says whether a host is let in, after a restart too.
func (w *office) lets(name string, m *machine, agent odometer.AgentID, want bool) {
	w.t.Helper()
	for _, when := range []string{"", ", after a restart"} {
		if got, ok := w.agentOf(m.key); ok != want || ok && got != agent {
			w.t.Errorf("%s%s: got %q, %v, want %s let in: %v", name, when, got, ok, agent, want)
		}
		_, _, err := w.Enrol(w.t.Context(), m.asks(agent, ""))
		if (err == nil) != want || err != nil && !errors.Is(err, odometer.ErrForbidden) {
			w.t.Errorf("%s%s: asks again: got %v, want it let in: %v", name, when, err, want)
		}
		w.restart()
	}
}

func TestTheLifeOfAHost(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	e, secret := w.enrolment("host.7", false)
	if odometer.ValidEnrolmentID(string(e.ID)) != nil || !e.Expires.Equal(w.now().Add(DefaultEnrolment)) || e.CreatedBy != "admin" {
		t.Errorf("got %+v", e)
	}
	m := newMachine(t)
	w.lets("not enrolled", m, "host.7", false)
	w.after(time.Minute)
	h := w.enrols(m, "host.7", secret)
	if h.Agent != "host.7" || h.Key != m.key || h.Enrolment != e.ID || h.Remote != "192.0.2.7" || !h.Enrolled.Equal(w.now()) || !h.Revoked.IsZero() {
		t.Errorf("got %+v", h)
	}
	// The answer was lost: it asks again, later, with the token and without it.
	w.after(2 * DefaultEnrolment)
	for _, s := range []string{secret, "", NewSecret()} {
		if again := w.enrols(m, "host.7", s); again != h {
			t.Errorf("asked again: got %+v, want %+v", again, h)
		}
	}
	w.lets("enrolled", m, "host.7", true)
	if list, err := w.Enrolments(t.Context(), 10); err != nil || len(list) != 1 || list[0].UsedBy != "host.7" || !list[0].Used.Equal(h.Enrolled) {
		t.Errorf("enrolments: got %+v, %v", list, err)
	}

	if _, err := w.RevokeHost(t.Context(), admin, "host.8"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("revoke what there is not: got %v", err)
	}
	got, err := w.RevokeHost(t.Context(), admin, "host.7")
	if err != nil || !got.Revoked.Equal(w.now()) {
		t.Errorf("revoke: got %+v, %v", got, err)
	}
	w.lets("revoked", m, "host.7", false)
	if !w.PutOut("host.7") || w.PutOut("host.8") {
		t.Error("got what was revoked not put out, or what never came")
	}
	if !w.IsHost("host.7") || w.IsHost("host.8") {
		t.Error("got what was revoked no host, or what never came one")
	}
	w.after(time.Minute)
	if again, err := w.RevokeHost(t.Context(), admin, "host.7"); err != nil || !again.Revoked.Equal(got.Revoked) {
		t.Errorf("revoke again: got %+v, %v, want it revoked when it was", again, err)
	}
	// Not even a token lets a key in again that was revoked; another key it does.
	_, secret = w.enrolment("host.7", false)
	if _, _, err := w.Enrol(t.Context(), m.asks("host.7", secret)); !errors.Is(err, errHostRevoked) {
		t.Errorf("a revoked key with a token: got %v", err)
	}
	m2 := newMachine(t)
	w.enrols(m2, "host.7", secret)
	w.lets("its second key", m2, "host.7", true)
	if w.PutOut("host.7") {
		t.Error("got a host put out that has another key")
	}
	w.lets("its first key", m, "host.7", false)
	if h, err := w.Host(t.Context(), "host.7"); err != nil || h.Key != m2.key {
		t.Errorf("show: got %+v, %v, want the newest", h, err)
	}
	var did []string
	for _, a := range w.actions() {
		did = append(did, a[:strings.LastIndex(a, " ")])
	}
	if want := []string{"admin enrolment.create", "host host.7 host.enrol", "admin host.revoke", "admin enrolment.create", "host host.7 host.enrol"}; !slices.Equal(did, want) {
		t.Errorf("audit log: got %q, want %q", did, want)
	}
}

// TestWhoIsNotLetIn has a token that will not do refused in the same words,
// whatever is wrong with it.
func TestWhoIsNotLetIn(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	_, used := w.enrolment("", false)
	there := newMachine(t)
	w.enrols(there, "there", used)
	_, expired := w.enrolment("", false)
	w.after(DefaultEnrolment)
	e, revoked := w.enrolment("", false)
	if _, err := w.RevokeEnrolment(t.Context(), admin, e.ID); err != nil {
		t.Fatal(err)
	}
	_, good := w.enrolment("", false)
	_, bound := w.enrolment("host-7", false)
	m := newMachine(t)
	spoil := func(agent odometer.AgentID, change func(*odometer.EnrolRequest)) odometer.EnrolRequest {
		ask := m.asks(agent, good)
		change(&ask)
		return ask
	}
	for _, c := range []struct {
		name string
		ask  odometer.EnrolRequest
		want error
	}{
		{"used", m.asks("new", used), errEnrolmentToken},
		{"revoked", m.asks("new", revoked), errEnrolmentToken},
		{"at the moment at which it expires", m.asks("new", expired), errEnrolmentToken},
		{"of another server", m.asks("new", NewSecret()), errEnrolmentToken},
		{"with a slip", m.asks("new", good[:len(good)-1]), errEnrolmentToken},
		{"no secret of ours", m.asks("new", "secret"), errEnrolmentToken},
		{"no token", m.asks("new", ""), errHostUnknown},
		{"for another host", m.asks("new", bound), odometer.ErrForbidden},
		{"in the name of one that is there", m.asks("there", good), odometer.ErrConflict},
		{"a host under another name", there.asks("new", good), odometer.ErrForbidden},
		{"the proof of another name", spoil("new", func(a *odometer.EnrolRequest) { a.Proof = m.asks("other", good).Proof }), errHostProof},
		{"the proof of another key", spoil("new", func(a *odometer.EnrolRequest) { a.Key = there.key }), errHostProof},
		{"no proof", spoil("new", func(a *odometer.EnrolRequest) { a.Proof = nil }), errHostProof},
		{"no name", m.asks("", good), odometer.ErrInvalid},
		{"a name with a space", m.asks("a b", good), odometer.ErrInvalid},
		{"a name with a line end", m.asks("a\nb", good), odometer.ErrInvalid},
		{"a name that is too long", m.asks(odometer.AgentID(strings.Repeat("x", 129)), good), odometer.ErrInvalid},
		{"no key", spoil("new", func(a *odometer.EnrolRequest) { a.Key = "" }), odometer.ErrInvalid},
		{"a key with a wrong checksum", spoil("new", func(a *odometer.EnrolRequest) { a.Key = "U" + odometer.Key(strings.Repeat("A", 55)) }), odometer.ErrInvalid},
		{"an account's key", spoil("new", func(a *odometer.EnrolRequest) { a.Key = "A" + a.Key[1:] }), odometer.ErrInvalid},
	} {
		_, _, err := w.Enrol(t.Context(), c.ask)
		if !errors.Is(err, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
		if c.ask.Secret != "" && err != nil && strings.Contains(err.Error(), c.ask.Secret) {
			t.Errorf("%s: the error has the secret in it", c.name)
		}
	}
	if _, ok := w.agentOf(m.key); ok {
		t.Error("got it let in by one of these")
	}
	w.enrols(m, "new", good) // which is as good as it was
}

func TestEnrolmentsThatCannotBe(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	_, secret := w.enrolment("there", false)
	w.enrols(newMachine(t), "there", secret)
	for _, c := range []struct {
		name    string
		agent   odometer.AgentID
		replace bool
		expires time.Time
		want    error
	}{
		{"a name that is none", "a b", false, time.Time{}, odometer.ErrInvalid},
		{"nobody is replaced", "", true, time.Time{}, odometer.ErrInvalid},
		{"it expires now", "", false, w.now(), odometer.ErrInvalid},
		{"it expires in a year", "", false, w.now().AddDate(1, 0, 0), odometer.ErrInvalid},
		{"of a host that is there", "there", false, time.Time{}, odometer.ErrConflict},
	} {
		if _, secret, err := w.CreateEnrolment(t.Context(), admin, c.agent, c.replace, c.expires); !errors.Is(err, c.want) || secret != "" {
			t.Errorf("%s: got %v, want %v", c.name, err, c.want)
		}
	}
	if _, err := w.RevokeEnrolment(t.Context(), admin, "enr_aaaaaaaaaaaaaaaa"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("revoke what there is not: got %v", err)
	}
	if got := w.actions(); len(got) != 2 {
		t.Errorf("audit log: got %q of what was refused", got)
	}
}

func TestAHostIsReplaced(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	_, first := w.enrolment("host", false)
	old, next := newMachine(t), newMachine(t)
	w.enrols(old, "host", first)
	_, secret := w.enrolment("host", true)
	w.lets("before the token is used", old, "host", true)
	h, replaced, err := w.Enrol(t.Context(), next.asks("host", secret))
	if err != nil || !slices.Equal(replaced, []odometer.Key{old.key}) || h.Key != next.key {
		t.Errorf("got %+v, replacing %v, %v", h, replaced, err)
	}
	w.lets("the one that was replaced", old, "host", false)
	w.lets("the one in its place", next, "host", true)
	if list, err := w.Hosts(t.Context(), "", 10); err != nil || len(list) != 1 || list[0].Key != next.key {
		t.Errorf("list: got %+v, %v", list, err)
	}
}

func TestTwoHostsRaceForOneToken(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	for round := range 5 {
		_, secret := w.enrolment("", false)
		var in, out atomic.Int32
		var hosts sync.WaitGroup
		for n := range 8 {
			m := newMachine(t)
			ask := m.asks(odometer.AgentID(fmt.Sprint("host-", round, "-", n%2)), secret) // two names
			hosts.Go(func() {
				switch _, _, err := w.Enrol(t.Context(), ask); {
				case err == nil:
					in.Add(1)
				case errors.Is(err, errEnrolmentToken):
					out.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		hosts.Wait()
		if in.Load() != 1 || out.Load() != 7 {
			t.Errorf("got %d let in and %d refused, want one let in", in.Load(), out.Load())
		}
	}
	if list, err := w.Hosts(t.Context(), "", 100); err != nil || len(list) != 5 || len(w.keys) != 5 {
		t.Errorf("got %d hosts, %v, and %d keys, want five of each", len(list), err, len(w.keys))
	}
}

func TestHostsArePaged(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	var want, got []odometer.AgentID
	for n := range 7 {
		id := odometer.AgentID(fmt.Sprint("h", n))
		_, secret := w.enrolment(id, false)
		w.enrols(newMachine(t), id, secret)
		want = append(want, id)
	}
	for after := odometer.AgentID(""); ; after = got[len(got)-1] {
		page, err := w.Hosts(t.Context(), after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, h := range page {
			got = append(got, h.Agent)
		}
		if len(page) < 3 {
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	w.maxHosts = 7
	_, secret := w.enrolment("one-more", false)
	if _, _, err := w.Enrol(t.Context(), newMachine(t).asks("one-more", secret)); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("one too many: got %v, want ErrConflict", err)
	}
}

// TestARevokedHostIsNotLetIn revokes while the host asks again and again.
func TestARevokedHostIsNotLetIn(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	for round := range 5 {
		id := odometer.AgentID(fmt.Sprint(round))
		_, secret := w.enrolment(id, false)
		m := newMachine(t)
		w.enrols(m, id, secret)
		ask := m.asks(id, secret)
		var revoked atomic.Bool
		var others sync.WaitGroup
		for range 4 {
			others.Go(func() {
				for n := 0; n < 50; {
					was := revoked.Load()
					_, _, err := w.Enrol(context.WithoutCancel(t.Context()), ask)
					_, ok := w.agentOf(m.key)
					if was && (err == nil || ok) {
						t.Errorf("got it let in after it was revoked: %v, %v", err, ok)
						return
					}
					if was {
						n++
					}
				}
			})
		}
		if _, err := w.RevokeHost(t.Context(), admin, id); err != nil {
			t.Error(err)
		}
		revoked.Store(true)
		others.Wait()
	}
}

// TestEveryCommitOfHostsFails has each change fail, without and with having been
// stored. Whoever asks again gets what was asked for, once.
func TestEveryCommitOfHostsFails(t *testing.T) {
	for _, c := range theFailures {
		t.Run(c.name, func(t *testing.T) {
			w := newOffice(t, AccountsOptions{Driver: "account-failing"})
			failing := func(what string, do func() error) {
				t.Helper()
				c.fails.Store(true)
				if err := do(); !errors.Is(err, errDisk) {
					t.Errorf("%s: got %v, want it failed", what, err)
				}
				c.fails.Store(false)
				if err := do(); err != nil {
					t.Errorf("%s again: got %v", what, err)
				}
			}
			old, next := newMachine(t), newMachine(t)
			var secret string
			create := func(replace bool) func() error {
				return func() (err error) {
					_, secret, err = w.CreateEnrolment(t.Context(), admin, "host", replace, time.Time{})
					return err
				}
			}
			enrol := func(m *machine) func() error {
				return func() error {
					_, _, err := w.Enrol(t.Context(), m.asks("host", secret))
					if _, ok := w.agentOf(m.key); ok != (err == nil) {
						t.Errorf("got %v, and the key known: %v", err, ok)
					}
					return err
				}
			}
			failing("create", create(false))
			failing("enrol", enrol(old))
			w.lets("enrolled", old, "host", true)
			failing("create", create(true))
			failing("replace", enrol(next))
			w.lets("replaced", old, "host", false)
			w.lets("in its place", next, "host", true)
			failing("revoke", func() error { _, err := w.RevokeHost(t.Context(), admin, "host"); return err })
			w.lets("revoked", next, "host", false)
			list, err := w.Hosts(t.Context(), "", 10)
			enrolled := 0
			for _, a := range w.actions() {
				if strings.Contains(a, string(odometer.ActionHostEnrol)) {
					enrolled++
				}
			}
			if err != nil || len(list) != 1 || enrolled != 2 {
				t.Errorf("got %+v, %v, and %d lines of enrolments, want two", list, err, enrolled)
			}
		})
	}
}

// TestHostsOfALockedDatabase: nobody who is in is put out, and who is not waits.
func TestHostsOfALockedDatabase(t *testing.T) {
	w := newOffice(t, AccountsOptions{Wait: 20 * time.Millisecond})
	_, secret := w.enrolment("", false)
	in, out := newMachine(t), newMachine(t)
	w.enrols(in, "in", secret)
	_, secret = w.enrolment("", false)
	tx, err := w.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.Enrol(t.Context(), in.asks("in", "")); err != nil {
		t.Errorf("who is in: got %v", err)
	}
	if _, _, err := w.Enrol(t.Context(), out.asks("out", secret)); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("who is not: got %v, want ErrUnavailable", err)
	}
	if _, err := w.RevokeHost(t.Context(), admin, "in"); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("revoke: got %v, want ErrUnavailable", err)
	}
	tx.Rollback()
	w.enrols(out, "out", secret)
	w.lets("in", in, "in", true)
}

// TestTheSecretOfAnEnrolmentIsNowhere looks for it in every file that there is.
func TestTheSecretOfAnEnrolmentIsNowhere(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	e, secret := w.enrolment("host", false)
	m := newMachine(t)
	w.enrols(m, "host", secret)
	seed, err := m.pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
	files, err := filepath.Glob(w.o.Path + "*")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	found := false
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		found = found || bytes.Contains(b, []byte(e.ID)) && bytes.Contains(b, []byte(m.key))
		if bytes.Contains(b, []byte(secret[4:])) || bytes.Contains(b, seed[2:]) {
			t.Errorf("%s has a secret in it", filepath.Base(file))
		}
	}
	if !found {
		t.Error("got the ids in no file: this looked in the wrong place")
	}
}

// TestAccountsOfVersion2, which know no hosts, are brought to this version with what
// they hold. Those of version 1 are in TestGoldenAccounts.
func TestAccountsOfVersion2(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	token, secret := w.create("a", time.Time{}, odometer.ScopeRead)
	w.org("acme")
	_, ada := w.member("u-ada", "acme", odometer.RoleOwner)
	fresh := w.tables()
	for _, s := range []string{`DROP TABLE account_hosts`, `DROP TABLE account_enrolments`, `DROP TABLE account_consumers`, `DROP TABLE account_grants`, `DROP TABLE account_identities`, `DROP TABLE account_instances`, `DROP TABLE account_instance_labels`, `UPDATE account_meta SET value = '2' WHERE key = 'schema_version'`} {
		if _, err := w.db.Exec(s); err != nil {
			t.Fatal(err)
		}
	}
	w.restart()
	if got := w.tables(); got != fresh {
		t.Errorf("got the tables of a migrated file\n%s\nand of a new one\n%s", got, fresh)
	}
	w.holds("a token of before", secret, true)
	w.holds("a user's of before", ada, true)
	if got, err := w.Token(t.Context(), admin.Caller, token.ID); err != nil || got.Name != "a" {
		t.Errorf("got %+v, %v", got, err)
	}
	_, secret = w.enrolment("host", false)
	m := newMachine(t)
	w.enrols(m, "host", secret)
	w.lets("a host", m, "host", true)
}

// TestPeerOfDoesNotAllocate, whoever asks.
func TestPeerOfDoesNotAllocate(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	_, secret := w.enrolment("host", false)
	m := newMachine(t)
	w.enrols(m, "host", secret)
	if n := testing.AllocsPerRun(100, func() { w.PeerOf(m.key); w.PeerOf("U") }); n != 0 {
		t.Errorf("got %v allocations, want none", n)
	}
}
