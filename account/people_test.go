package account

import (
	"bytes"
	"compress/gzip"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
)

// member creates a user who is a member of an organisation in a role, "" for none,
// and returns him as who asks with a token of his, and its secret.
func (w *office) member(user odometer.UserID, org odometer.OrgID, role odometer.Role) (odometer.Actor, string) {
	w.t.Helper()
	if _, err := w.CreateUser(w.t.Context(), admin, odometer.Once{}, odometer.User{ID: user, Name: "Name of " + string(user), Email: string(user) + "@example.org"}); err != nil {
		w.t.Fatal(err)
	}
	if role != "" {
		if _, err := w.AddMember(w.t.Context(), admin, odometer.Once{}, odometer.Membership{Org: org, User: user, Role: role}); err != nil {
			w.t.Fatal(err)
		}
	}
	_, secret := w.createFor(odometer.Bound{User: user}, odometer.ScopeRead, odometer.ScopeAccount)
	return w.as(secret), secret
}

func (w *office) createFor(whose odometer.Bound, scopes ...odometer.Scope) (odometer.Token, string) {
	w.t.Helper()
	t, secret, err := w.CreateToken(w.t.Context(), admin, odometer.Token{Name: "t", Bound: whose, Scopes: scopes})
	if err != nil {
		w.t.Fatal(err)
	}
	return t, secret
}

// as is who asks with a secret.
func (w *office) as(secret string) odometer.Actor {
	w.t.Helper()
	c, ok := w.Authenticate(w.t.Context(), secret)
	if !ok {
		w.t.Fatal("got the token refused")
	}
	return odometer.Actor{Caller: c, Remote: "::1"}
}

func (w *office) org(id odometer.OrgID) odometer.Organisation {
	w.t.Helper()
	o, err := w.CreateOrganisation(w.t.Context(), admin, odometer.Once{}, odometer.Organisation{ID: id, Name: "Name of " + string(id)}, "")
	if err != nil {
		w.t.Fatal(err)
	}
	return o
}

// tables are the version and the tables of accounts in the file, as SQL.
func (w *office) tables() (text string) {
	w.t.Helper()
	if err := w.db.QueryRow(`SELECT (SELECT value FROM account_meta WHERE key = 'schema_version') || ': ' || group_concat(sql, ';')
		FROM (SELECT sql FROM sqlite_master WHERE name LIKE 'account%' ORDER BY name)`).Scan(&text); err != nil {
		w.t.Fatal(err)
	}
	return text
}

// TestGoldenAccounts opens tables as version 1 wrote them.
func TestGoldenAccounts(t *testing.T) {
	random := rand.NewChaCha8([32]byte{1}) // as they were drawn
	ids, secrets := [3]odometer.TokenID{}, [3]string{}
	for i := range ids {
		ids[i], secrets[i] = odometer.TokenID("tok_"+newID(random)), newSecret(random)
	}
	w := newOffice(t, AccountsOptions{})
	w.Close()
	b, err := os.ReadFile("testdata/accounts-v1.db.gz")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.o.Path, inflate(t, b), 0o600); err != nil {
		t.Fatal(err)
	}
	w.after(24 * time.Hour)
	w.open()
	for i, want := range []bool{true, false, false} { // valid, expired, revoked
		if _, ok := w.Authenticate(t.Context(), secrets[i]); ok != want {
			t.Errorf("token %d: got accepted %v, want %v", i, ok, want)
		}
		got, err := w.Token(t.Context(), admin.Caller, ids[i])
		if err != nil || got.Bound != (odometer.Bound{}) || got.Revoked.IsZero() != (i != 2) {
			t.Errorf("token %d: got %+v, %v", i, got, err)
		}
	}
	log, err := w.AuditLog(t.Context(), 0, 10)
	if err != nil || len(log) != 5 || log[0].Detail != "a mistake" || log[0].User != "" {
		t.Errorf("got the log %+v, %v, want the five lines of before", log, err)
	}
	w.org("acme")
	_, secret := w.member("u-ada", "acme", odometer.RoleOwner)
	w.holds("a user's of a migrated file", secret, true)
	if got, want := w.tables(), newOffice(t, AccountsOptions{}).tables(); got != want {
		t.Errorf("got the tables of a migrated file\n%s\nand of a new one\n%s", got, want)
	}
}

// TestTheLifeOfAUser creates, changes and deletes one: what is deleted loses access
// with the next call, and what was seen in another version is not changed.
func TestTheLifeOfAUser(t *testing.T) {
	ctx := t.Context()
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	w.member("u-bob", "acme", odometer.RoleOwner)
	ada, secret := w.member("u-ada", "acme", odometer.RoleAdmin)
	if ada.User != "u-ada" || len(ada.Memberships) != 1 || ada.RoleIn("acme") != odometer.RoleAdmin || ada.May(odometer.ScopeAdmin) {
		t.Errorf("got %+v, want her with her membership", ada)
	}
	_, other := w.createFor(odometer.Bound{User: "u-ada"}, odometer.ScopeRead)
	u, err := w.UpdateUser(ctx, ada, "u-ada", 1, "Ada King", "")
	if err != nil || u.Version != 2 || u.Name != "Ada King" || u.Email != "" {
		t.Errorf("update: got %+v, %v", u, err)
	}
	for name, version := range map[string]int64{"the version before": 1, "one that is not yet": 3} {
		if _, err := w.UpdateUser(ctx, ada, "u-ada", version, "x", ""); !errors.Is(err, odometer.ErrStale) || !errors.Is(err, odometer.ErrConflict) {
			t.Errorf("update of %s: got %v, want ErrStale", name, err)
		}
		if _, err := w.DeleteUser(ctx, admin, "u-ada", version); !errors.Is(err, odometer.ErrStale) {
			t.Errorf("delete of %s: got %v, want ErrStale", name, err)
		}
	}
	if _, err := w.DeleteUser(ctx, ada, "u-ada", 2); !errors.Is(err, odometer.ErrForbidden) {
		t.Errorf("she deletes herself: got %v, want ErrForbidden", err)
	}
	w.restart()
	if got, err := w.User(ctx, ada.Caller, "u-ada"); err != nil || got != u {
		t.Errorf("got %+v, %v, want %+v", got, err, u)
	}
	w.after(time.Minute)
	gone, err := w.DeleteUser(ctx, admin, "u-ada", 2)
	if err != nil || gone.Name != "" || gone.Email != "" || gone.Version != 3 || !gone.Deleted.Equal(w.now()) {
		t.Errorf("delete: got %+v, %v", gone, err)
	}
	w.holds("a token of who was deleted", secret, false)
	w.holds("her other token", other, false)
	if got, err := w.User(ctx, admin.Caller, "u-ada"); err != nil || got != gone {
		t.Errorf("the administrator sees %+v, %v, want %+v", got, err, gone)
	}
	if _, err := w.User(ctx, odometer.Caller{Bound: odometer.Bound{User: "u-bob"}}, "u-ada"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("bob sees her: %v", err)
	}
	if list, err := w.Users(ctx, admin.Caller, "", 10); err != nil || len(list) != 1 || list[0].ID != "u-bob" {
		t.Errorf("list: got %+v, %v, want bob alone", list, err)
	}
	if list, err := w.Members(ctx, admin.Caller, "acme", "", 10); err != nil || len(list) != 1 {
		t.Errorf("members: got %+v, %v, want bob alone", list, err)
	}
	for name, err := range map[string]error{
		"created again": func() error {
			_, err := w.CreateUser(ctx, admin, odometer.Once{}, odometer.User{ID: "u-ada", Name: "Eve"})
			return err
		}(),
		"changed":       func() error { _, err := w.UpdateUser(ctx, admin, "u-ada", 3, "Eve", ""); return err }(),
		"deleted again": func() error { _, err := w.DeleteUser(ctx, admin, "u-ada", 3); return err }(),
	} {
		if !errors.Is(err, odometer.ErrConflict) {
			t.Errorf("who was deleted is %s: got %v, want ErrConflict", name, err)
		}
	}
	for name, err := range map[string]error{
		"a token": func() error {
			_, _, err := w.CreateToken(ctx, admin, odometer.Token{Name: "t", Bound: odometer.Bound{User: "u-ada"}, Scopes: []odometer.Scope{odometer.ScopeRead}})
			return err
		}(),
		"a membership": func() error {
			_, err := w.AddMember(ctx, admin, odometer.Once{}, odometer.Membership{Org: "acme", User: "u-ada", Role: odometer.RoleMember})
			return err
		}(),
	} {
		if !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("who was deleted gets %s: got %v, want ErrInvalid", name, err)
		}
	}
	if got := w.actions(); !slices.Contains(got, "t user.update u-ada") || !slices.Contains(got, "admin user.delete u-ada") || !slices.Contains(got, "admin member.add acme/u-ada") {
		t.Errorf("audit log: got %q", got)
	}
	log, _ := w.AuditLog(ctx, 0, 100)
	for _, r := range log {
		if strings.Contains(fmt.Sprint(r), "Name of") || strings.Contains(fmt.Sprint(r), "@") || (r.Action == odometer.ActionUserUpdate) != (r.User == "u-ada") {
			t.Errorf("got the line %+v, want it without names, and with the user who did it", r)
		}
	}
}

// TestTheLifeOfAnOrganisation creates, changes and deletes one, with what is bound
// to it.
func TestTheLifeOfAnOrganisation(t *testing.T) {
	ctx := t.Context()
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	w.org("other")
	bob, _ := w.member("u-bob", "other", odometer.RoleOwner)
	_, adas := w.member("u-ada", "acme", odometer.RoleOwner)
	_, service := w.createFor(odometer.Bound{Org: "acme"}, odometer.ScopeRead)
	if c := w.as(service); c.Org != "acme" || !c.View().Sees(odometer.Owner{User: "x", Org: "acme"}) || c.View().Sees(odometer.Owner{User: "x", Org: "other"}) {
		t.Errorf("got %+v, want the service of acme", c)
	}
	if _, err := w.CreateOrganisation(ctx, admin, odometer.Once{}, odometer.Organisation{ID: "third", Name: "Third"}, "u-nobody"); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("an owner whom there is not: got %v, want ErrInvalid", err)
	}
	if _, err := w.Organisation(ctx, admin.Caller, "third"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("got %v, want nothing of what failed", err)
	}
	made, err := w.CreateOrganisation(ctx, admin, odometer.Once{}, odometer.Organisation{ID: "third", Name: "Third"}, "u-ada")
	if err != nil || made.Version != 1 {
		t.Fatalf("got %+v, %v", made, err)
	}
	ada := w.as(adas)
	if list, err := w.Organisations(ctx, ada.Caller, "", 10); err != nil || len(list) != 2 || list[0].ID != "acme" || list[1].ID != "third" {
		t.Errorf("hers: got %+v, %v", list, err)
	}
	if list, err := w.Organisations(ctx, w.as(service).Caller, "", 10); err != nil || len(list) != 1 {
		t.Errorf("its service's: got %+v, %v", list, err)
	}
	if list, err := w.Organisations(ctx, admin.Caller, "acme", 1); err != nil || len(list) != 1 || list[0].ID != "other" {
		t.Errorf("a page: got %+v, %v", list, err)
	}
	if o, err := w.UpdateOrganisation(ctx, ada, "acme", 1, "Acme & Co"); err != nil || o.Version != 2 {
		t.Errorf("update: got %+v, %v", o, err)
	}
	if _, err := w.UpdateOrganisation(ctx, ada, "acme", 1, "x"); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("a stale update: got %v", err)
	}
	if _, err := w.DeleteOrganisation(ctx, ada, "acme", 1); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("a stale delete: got %v", err)
	}
	if _, err := w.DeleteOrganisation(ctx, bob, "acme", 2); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("a stranger deletes it: got %v", err)
	}
	gone, err := w.DeleteOrganisation(ctx, ada, "acme", 2)
	if err != nil || gone.Name != "" || gone.Deleted.IsZero() {
		t.Errorf("delete: got %+v, %v", gone, err)
	}
	if c := w.as(adas); c.RoleIn("acme") != "" || c.RoleIn("third") != odometer.RoleOwner {
		t.Errorf("got %+v, want her without acme", c)
	}
	w.holds("a token of what was deleted", service, false)
	if c := w.as(adas); c.RoleIn("acme") != "" || c.RoleIn("third") != odometer.RoleOwner {
		t.Errorf("after a restart: got %+v, want her without acme", c)
	}
	if _, err := w.Organisation(ctx, w.as(adas).Caller, "acme"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("she sees it: %v", err)
	}
	if o, err := w.Organisation(ctx, admin.Caller, "acme"); err != nil || o != gone {
		t.Errorf("the administrator sees %+v, %v", o, err)
	}
	if _, err := w.CreateOrganisation(ctx, admin, odometer.Once{}, odometer.Organisation{ID: "acme", Name: "x"}, ""); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("created again: got %v", err)
	}
	if _, err := w.AddMember(ctx, admin, odometer.Once{}, odometer.Membership{Org: "acme", User: "u-bob", Role: odometer.RoleMember}); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("a member of what was deleted: got %v", err)
	}
}

// TestEveryCommitOfPeopleFails has each change fail, without and with having been
// stored: who is let in, and as what, is always as it is stored.
func TestEveryCommitOfPeopleFails(t *testing.T) {
	for _, c := range theFailures {
		t.Run(c.name, func(t *testing.T) {
			ctx := t.Context()
			w := newOffice(t, AccountsOptions{Driver: "account-failing"})
			w.org("acme")
			w.org("other")
			w.member("u-bob", "acme", odometer.RoleOwner)
			_, secret := w.member("u-ada", "acme", odometer.RoleAdmin)
			_, service := w.createFor(odometer.Bound{Org: "other"}, odometer.ScopeRead)
			lines := len(w.actions())
			try := func(what string, change func() error, role odometer.Role) {
				t.Helper()
				c.fails.Store(true)
				err := change()
				c.fails.Store(false)
				if !errors.Is(err, errDisk) {
					t.Errorf("%s: got %v, want it failed", what, err)
				}
				if by := w.as(secret); by.RoleIn("acme") != role {
					t.Errorf("%s: she is held as %q, want %q", what, by.RoleIn("acme"), role)
				}
			}
			pick := func(stored, not odometer.Role) odometer.Role {
				if c.stored {
					return stored
				}
				return not
			}
			try("set", func() error { _, err := w.SetMember(ctx, admin, "acme", "u-ada", 1, odometer.RoleMember); return err }, pick(odometer.RoleMember, odometer.RoleAdmin))
			try("remove", func() error { _, err := w.RemoveMember(ctx, admin, "acme", "u-ada", 0); return err }, pick("", odometer.RoleAdmin))
			try("delete an organisation", func() error { _, err := w.DeleteOrganisation(ctx, admin, "other", 1); return err }, pick("", odometer.RoleAdmin))
			if _, ok := w.Authenticate(ctx, service); ok == c.stored {
				t.Errorf("the organisation's service: got accepted %v, want %v", ok, !c.stored)
			}
			c.fails.Store(true)
			_, err := w.DeleteUser(ctx, admin, "u-ada", 1)
			c.fails.Store(false)
			if _, ok := w.Authenticate(ctx, secret); !errors.Is(err, errDisk) || ok == c.stored {
				t.Errorf("delete a user: got %v, accepted %v, want it as it is stored", err, ok)
			}
			w.holds("her token", secret, !c.stored)
			want := 0
			if c.stored {
				want = 3 + 1 + 2 // set, remove; the organisation and its token; her and hers
			}
			if got := len(w.actions()) - lines; got != want {
				t.Errorf("got %d lines, want %d", got, want)
			}
		})
	}
}

// TestWhatCannotBeReadLetsNobodyIn has the file go away in the middle of a change,
// and come back.
func TestWhatCannotBeReadLetsNobodyIn(t *testing.T) {
	ctx := t.Context()
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	w.member("u-bob", "acme", odometer.RoleOwner)
	_, secret := w.member("u-ada", "acme", odometer.RoleAdmin)
	_, service := w.createFor(odometer.Bound{Org: "acme"}, odometer.ScopeRead)
	_, other := w.create("operator's", time.Time{}, odometer.ScopeRead)
	err := w.change(ctx, func(_ *sql.Tx, touched *touched) error {
		touched.users, touched.orgs = []odometer.UserID{"u-ada"}, []odometer.OrgID{"acme"}
		return errors.Join(errDisk, w.db.Close())
	})
	if !errors.Is(err, errDisk) {
		t.Errorf("got %v, want the change failed", err)
	}
	refused := func(when string) {
		t.Helper()
		for name, secret := range map[string]string{"her": secret, "the service of acme": service} {
			if _, ok := w.Authenticate(ctx, secret); ok {
				t.Errorf("%s: got %s let in while it is not known what is stored", when, name)
			}
		}
		w.as(other)
	}
	refused("gone")
	if err := w.lookAgain(ctx); err == nil {
		t.Error("got people read from a closed file")
	}
	refused("still gone")
	back, err := OpenAccounts(ctx, w.o)
	if err != nil {
		t.Fatal(err)
	}
	w.db = back.db
	for range 2 { // the second time nothing is to be done
		if err := w.lookAgain(ctx); err != nil {
			t.Fatal(err)
		}
	}
	w.as(service)
	if c := w.as(secret); c.RoleIn("acme") != odometer.RoleAdmin {
		t.Errorf("got %+v, want her as she is stored", c)
	}
}

// TestAChangeIsMadeOnce repeats changes with a key.
func TestAChangeIsMadeOnce(t *testing.T) {
	ctx := t.Context()
	w := newOffice(t, AccountsOptions{})
	w.org("acme")
	bob, _ := w.member("u-bob", "acme", odometer.RoleOwner)
	once := odometer.Once{Key: "k", Request: [32]byte{1}}
	create := func(by odometer.Actor, o odometer.Once, name string) (odometer.User, error) {
		return w.CreateUser(ctx, by, o, odometer.User{ID: "u-ada", Name: name})
	}
	first, err := create(admin, once, "Ada")
	if err != nil {
		t.Fatal(err)
	}
	w.after(time.Hour)
	if _, err := w.UpdateUser(ctx, admin, "u-ada", 1, "Ada King", ""); err != nil {
		t.Fatal(err)
	}
	lines := len(w.actions())
	w.restart()
	if again, err := create(admin, once, "Ada"); err != nil || again != first {
		t.Errorf("again: got %+v, %v, want %+v", again, err, first)
	}
	other := once
	other.Request[0] = 2
	if _, err := create(admin, other, "Eve"); !errors.Is(err, odometer.ErrReused) {
		t.Errorf("another request: got %v, want ErrReused", err)
	}
	if _, err := create(admin, odometer.Once{}, "Ada"); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("without a key: got %v, want ErrConflict", err)
	}
	add := odometer.Membership{Org: "acme", User: "u-ada", Role: odometer.RoleMember}
	if _, err := w.AddMember(ctx, bob, once, add); !errors.Is(err, odometer.ErrInvalid) { // another account's key
		t.Errorf("a user with the same key: got %v, want it made by itself", err)
	}
	if len(w.actions()) != lines {
		t.Errorf("got more lines: %q", w.actions()[lines:])
	}
	w.after(24*time.Hour - time.Hour - time.Microsecond)
	if _, err := create(admin, once, "Ada"); err != nil {
		t.Errorf("a microsecond before a day: got %v", err)
	}
	w.after(time.Microsecond)
	if _, err := create(admin, once, "Ada"); !errors.Is(err, odometer.ErrConflict) || errors.Is(err, odometer.ErrReused) {
		t.Errorf("after a day: got %v, want that she is there", err)
	}
}

// TestNamesGoWithWhoHadThem looks for those of who was deleted in every file.
func TestNamesGoWithWhoHadThem(t *testing.T) {
	ctx := t.Context()
	w := newOffice(t, AccountsOptions{})
	if _, err := w.CreateOrganisation(ctx, admin, odometer.Once{Key: "o"}, odometer.Organisation{ID: "acme", Name: "Canary Ltd"}, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.CreateUser(ctx, admin, odometer.Once{Key: "u"}, odometer.User{ID: "u-ada", Name: "Canary King", Email: "canary@example.org"}); err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := w.UpdateUser(ctx, admin, "u-ada", 0, fmt.Sprintf("Canary %d", i), "canary@example.org"); err != nil {
			t.Fatal(err)
		}
	}
	find := func() (n int) {
		w.restart() // the log's pages go to the file
		files, err := filepath.Glob(w.o.Path + "*")
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			n += bytes.Count(bytes.ToLower(b), []byte("canary"))
		}
		return n
	}
	if find() == 0 {
		t.Error("got no name while they are there: this looked in the wrong place")
	}
	if _, err := w.DeleteUser(ctx, admin, "u-ada", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := w.DeleteOrganisation(ctx, admin, "acme", 0); err != nil {
		t.Fatal(err)
	}
	if n := find(); n != 0 {
		t.Errorf("got a name in %d places after who had it was deleted", n)
	}
}

// TestWhoIsDeletedIsNotAccepted deletes users while they authenticate.
func TestWhoIsDeletedIsNotAccepted(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	for round := range 5 {
		id := odometer.UserID(fmt.Sprint("u-", round))
		_, secret := w.member(id, "", "")
		var deleted atomic.Bool
		var others sync.WaitGroup
		for range 4 {
			others.Go(func() {
				for n := 0; n < 100; {
					was := deleted.Load()
					if _, ok := w.Authenticate(t.Context(), secret); was && ok {
						t.Error("got it accepted after its user was deleted")
						return
					}
					if was {
						n++
					}
				}
			})
		}
		if _, err := w.DeleteUser(t.Context(), admin, id, 1); err != nil {
			t.Error(err)
		}
		deleted.Store(true)
		others.Wait()
	}
}

func inflate(t *testing.T, b []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return all
}
