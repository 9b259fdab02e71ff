package account

import (
	"bytes"
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"modernc.org/sqlite"

	"example.org/odometer"
)

// admin is who creates tokens in tests.
var admin = odometer.Actor{Caller: odometer.Caller{Name: "admin", Scopes: []odometer.Scope{odometer.ScopeAdmin}}, Remote: "192.0.2.1"}

// office is accounts whose clock stands still between steps.
type office struct {
	*Accounts
	t    *testing.T
	o    AccountsOptions
	mu   sync.Mutex
	time time.Time
}

func newOffice(t *testing.T, o AccountsOptions) *office {
	w := &office{t: t, o: o, time: time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)}
	w.o.Path = filepath.Join(t.TempDir(), "ledger.db")
	w.o.Clock = w.now
	w.open()
	t.Cleanup(func() { w.Close() })
	return w
}

func (w *office) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *office) after(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *office) open() {
	w.t.Helper()
	a, err := OpenAccounts(w.t.Context(), w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	w.Accounts = a
}

// restart opens the accounts again, as after a crash.
func (w *office) restart() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func (w *office) create(name string, expires time.Time, scopes ...odometer.Scope) (odometer.Token, string) {
	w.t.Helper()
	t, secret, err := w.CreateToken(w.t.Context(), admin, odometer.Token{Name: name, Scopes: scopes, Expires: expires})
	if err != nil {
		w.t.Fatal(err)
	}
	return t, secret
}

// holds says whether a secret is accepted, after a restart too.
func (w *office) holds(name, secret string, want bool) {
	w.t.Helper()
	for _, when := range []string{"", ", after a restart"} {
		if c, ok := w.Authenticate(w.t.Context(), secret); ok != want || ok && c.Name == "" {
			w.t.Errorf("%s%s: got %v, %v, want accepted %v", name, when, c, ok, want)
		}
		w.restart()
	}
}

// actions are the lines of the audit log, oldest first, as "actor action object".
func (w *office) actions() (list []string) {
	w.t.Helper()
	log, err := w.AuditLog(w.t.Context(), 0, 1000)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range slices.Backward(log) {
		list = append(list, fmt.Sprintf("%s %s %s", r.Actor, r.Action, r.Object))
	}
	return list
}

func TestTheLifeOfAToken(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	token, secret := w.create("billing", w.now().Add(time.Hour), odometer.ScopeRead, odometer.ScopeWriteEvents)
	if odometer.ValidTokenID(string(token.ID)) != nil || token.CreatedBy != "admin" || !token.Created.Equal(w.now()) {
		t.Errorf("got %+v", token)
	}
	c, ok := w.Authenticate(t.Context(), secret)
	if !ok || c.ID != token.ID || c.Name != "billing" || !c.May(odometer.ScopeRead) || !c.May(odometer.ScopeWriteEvents) || c.May(odometer.ScopeAdmin) || c.May("") || !c.Expires.Equal(token.Expires) {
		t.Errorf("got %+v, %v, want the token's holder with its scopes", c, ok)
	}
	w.holds("valid", secret, true)
	w.after(time.Hour - time.Microsecond)
	w.holds("at its last microsecond", secret, true)
	w.after(time.Microsecond)
	w.holds("expired", secret, false)

	other, secret2 := w.create("ops", time.Time{}, odometer.ScopeAdmin)
	by, _ := w.Authenticate(t.Context(), secret2)
	w.after(time.Minute)
	got, err := w.RevokeToken(t.Context(), odometer.Actor{Caller: by, Remote: "::1"}, other.ID)
	if err != nil || !got.Revoked.Equal(w.now()) || got.LastUsed.IsZero() {
		t.Errorf("revoke: got %+v, %v", got, err)
	}
	w.holds("revoked", secret2, false)
	w.after(time.Minute)
	again, err := w.RevokeToken(t.Context(), admin, other.ID)
	if err != nil || !again.Revoked.Equal(got.Revoked) || !again.LastUsed.Equal(got.LastUsed) {
		t.Errorf("revoke again: got %+v, %v, want it revoked and used when it was", again, err)
	}
	if _, err := w.RevokeToken(t.Context(), admin, "tok_aaaaaaaaaaaaaaaa"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("revoke what there is not: got %v", err)
	}
	if _, err := w.Token(t.Context(), admin.Caller, "tok_aaaaaaaaaaaaaaaa"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("show what there is not: got %v", err)
	}
	if got, err := w.Token(t.Context(), admin.Caller, token.ID); err != nil || got.Name != "billing" || !got.Expires.Equal(token.Expires) || !slices.Equal(got.Scopes, token.Scopes) {
		t.Errorf("show: got %+v, %v", got, err)
	}
	want := []string{"admin token.create " + string(token.ID), "admin token.create " + string(other.ID), "ops token.revoke " + string(other.ID)}
	if got := w.actions(); !slices.Equal(got, want) {
		t.Errorf("audit log: got %q, want %q", got, want)
	}
	log, _ := w.AuditLog(t.Context(), 0, 1)
	if r := log[0]; r.Token != other.ID || r.Remote != "::1" || !r.At.Equal(got.Revoked) {
		t.Errorf("got %+v, want who, when and from where", r)
	}
}

func TestTokensAndLogArePaged(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	var ids []odometer.TokenID
	for i := range 7 {
		token, _ := w.create(fmt.Sprint("t", i), time.Time{}, odometer.ScopeRead)
		ids = append(ids, token.ID)
	}
	var got []odometer.TokenID
	for after := odometer.TokenID(""); ; after = got[len(got)-1] {
		page, err := w.Tokens(t.Context(), admin.Caller, after, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range page {
			got = append(got, token.ID)
		}
		if len(page) < 3 {
			break
		}
	}
	if !slices.Equal(got, ids) {
		t.Errorf("got %v, want %v", got, ids)
	}
	if _, err := w.Tokens(t.Context(), admin.Caller, "tok_aaaaaaaaaaaaaaaa", 1); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("a cursor of nobody: got %v", err)
	}
	var numbers []int64
	for before := int64(0); ; before = numbers[len(numbers)-1] {
		page, err := w.AuditLog(t.Context(), before, 3)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range page {
			numbers = append(numbers, r.Number)
		}
		if len(page) < 3 {
			break
		}
	}
	if want := []int64{7, 6, 5, 4, 3, 2, 1}; !slices.Equal(numbers, want) {
		t.Errorf("got %v, want %v", numbers, want)
	}
}

func TestTokensThatCannotBe(t *testing.T) {
	w := newOffice(t, AccountsOptions{maxTokens: 2})
	read := []odometer.Scope{odometer.ScopeRead}
	for _, c := range []struct {
		name, token string
		scopes      []odometer.Scope
		expires     time.Time
	}{
		{"no name", "", read, time.Time{}},
		{"a name in bytes that are no text", "a\xff", read, time.Time{}},
		{"a name with a line end", "a\nb", read, time.Time{}},
		{"a name that is a secret", "odm_abcdefgh", read, time.Time{}},
		{"no scope", "a", nil, time.Time{}},
		{"a scope that there is not", "a", []odometer.Scope{"root"}, time.Time{}},
		{"a scope twice", "a", []odometer.Scope{"read", "read"}, time.Time{}},
		{"it expires now", "a", read, w.now()},
	} {
		if _, secret, err := w.CreateToken(t.Context(), admin, odometer.Token{Name: c.token, Scopes: c.scopes, Expires: c.expires}); !errors.Is(err, odometer.ErrInvalid) || secret != "" {
			t.Errorf("%s: got %v, want ErrInvalid", c.name, err)
		}
	}
	if got := w.actions(); len(got) != 0 {
		t.Errorf("audit log: got %q of what was refused", got)
	}
	short, _ := w.create("short", w.now().Add(time.Second), odometer.ScopeRead)
	w.create("long", time.Time{}, odometer.ScopeRead)
	if _, _, err := w.CreateToken(t.Context(), admin, odometer.Token{Name: "third", Scopes: read}); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("one too many: got %v, want ErrConflict", err)
	}
	w.after(time.Second)
	w.create("in the place of what expired", time.Time{}, odometer.ScopeRead)
	if list, err := w.Tokens(t.Context(), admin.Caller, "", 10); err != nil || len(list) != 3 || list[0].ID != short.ID {
		t.Errorf("got %+v, %v, want three and none of what was refused", list, err)
	}
}

// TestTheSecretIsNowhere looks for it in every file that there is.
func TestTheSecretIsNowhere(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	token, secret := w.create("canary", time.Time{}, odometer.ScopeRead)
	if err := w.Note(t.Context(), admin, odometer.ActionEntryReverse, secret, "because of "+secret+strings.Repeat("ä", maxAuditText)); err != nil {
		t.Fatal(err)
	}
	log, err := w.AuditLog(t.Context(), 0, 1)
	if err != nil || !strings.HasPrefix(log[0].Detail, "because of odm_…") || len(log[0].Detail) > maxAuditText {
		t.Errorf("got %+v, %v, want the detail without the secret", log, err)
	}
	for _, closed := range []bool{false, true} {
		if closed {
			w.Close()
		}
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
			found = found || bytes.Contains(b, []byte(token.ID))
			if bytes.Contains(b, []byte(secret[4:])) {
				t.Errorf("%s has the secret in it", filepath.Base(file))
			}
		}
		if !found {
			t.Error("got the id in no file: this looked in the wrong place")
		}
	}
}

// TestARevokedTokenIsNotAccepted revokes while others authenticate: no call that
// begins afterwards is let through.
func TestARevokedTokenIsNotAccepted(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	for round := range 5 {
		token, secret := w.create(fmt.Sprint(round), time.Time{}, odometer.ScopeRead)
		var revoked atomic.Bool
		var others sync.WaitGroup
		for range 4 {
			others.Go(func() {
				for n := 0; n < 100; {
					was := revoked.Load()
					if _, ok := w.Authenticate(t.Context(), secret); was && ok {
						t.Error("got it accepted after it was revoked")
						return
					}
					if was {
						n++
					}
				}
			})
		}
		if _, err := w.RevokeToken(t.Context(), admin, token.ID); err != nil {
			t.Error(err)
		}
		revoked.Store(true)
		others.Wait()
	}
}

// TestAuthenticateDoesNotAllocate, whoever asks.
func TestAuthenticateDoesNotAllocate(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	_, secret := w.create("a", time.Time{}, odometer.ScopeRead)
	w.org("acme")
	_, users := w.member("u-ada", "acme", odometer.RoleOwner)
	_, services := w.createFor(odometer.Bound{Org: "acme"}, odometer.ScopeRead)
	ctx := t.Context()
	for name, s := range map[string]string{"valid": secret, "a user's": users, "an organisation's": services, "unknown": NewSecret(), "malformed": secret[:20], "another system's": "secret"} {
		if n := testing.AllocsPerRun(100, func() { w.Authenticate(ctx, s) }); n != 0 {
			t.Errorf("%s: got %v allocations, want none", name, n)
		}
	}
}

// TestHalfOfADigestIsNotEnough: tokens are found by half of their digest, and the
// rest is compared.
func TestHalfOfADigestIsNotEnough(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	_, secret := w.create("a", time.Time{}, odometer.ScopeRead)
	sum := digestOf(secret)
	w.valid[short(sum[:])].digest[len(sum)-1] ^= 1
	if c, ok := w.Authenticate(t.Context(), secret); ok {
		t.Errorf("got %v, want a digest that ends otherwise refused", c)
	}
}

// BenchmarkAuthenticate finds one token among all that there can be.
func BenchmarkAuthenticate(b *testing.B) {
	a := &Accounts{clock: time.Now, maxTokens: MaxTokens, valid: map[short]*held{}}
	var secret string
	for range MaxTokens {
		secret = NewSecret()
		h := hold(&odometer.Token{Name: "a", Scopes: []odometer.Scope{odometer.ScopeRead}})
		h.digest = digestOf(secret)
		a.take(h, 0)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := a.Authenticate(b.Context(), secret); !ok {
			b.Fatal("got it refused")
		}
	}
}

// TestLastUseIsWrittenOnceAMinute uses a token each second.
func TestLastUseIsWrittenOnceAMinute(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ledger.db")
	synctest.Test(t, func(t *testing.T) {
		a, err := OpenAccounts(t.Context(), AccountsOptions{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		token, secret, err := a.CreateToken(t.Context(), admin, odometer.Token{Name: "often", Scopes: []odometer.Scope{odometer.ScopeRead}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- a.Run(ctx) }()
		written := func() (us int64) {
			if err := a.db.QueryRow(`SELECT used_us FROM account_tokens WHERE id = ?`, string(token.ID)).Scan(&us); err != nil {
				t.Fatal(err)
			}
			return us
		}
		times := map[int64]bool{}
		for range 300 {
			time.Sleep(time.Second)
			if _, ok := a.Authenticate(t.Context(), secret); !ok {
				t.Fatal("got it refused")
			}
			synctest.Wait()
			times[written()] = true
			if got, err := a.Token(t.Context(), admin.Caller, token.ID); err != nil || time.Since(got.LastUsed) > 0 {
				t.Fatalf("got %+v, %v, want it used now", got, err)
			}
		}
		if len(times) < 5 || len(times) > 6 {
			t.Errorf("got it written %d times in five minutes, want 5 or 6", len(times))
		}
		stop()
		if err := <-done; err != nil || written() != time.Now().UnixMicro() {
			t.Errorf("got %v and %d after the end, want the last use written", err, written())
		}
	})
}

// TestALockedDatabase has another process write for longer than is waited.
func TestALockedDatabase(t *testing.T) {
	w := newOffice(t, AccountsOptions{Wait: 20 * time.Millisecond})
	token, secret := w.create("a", time.Time{}, odometer.ScopeAdmin)
	other, err := sql.Open("sqlite", "file:"+w.o.Path+"?_txlock=immediate")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	tx, err := other.Begin()
	if err != nil {
		t.Fatal(err)
	}
	w.refusesChanges(token, secret)
	tx.Rollback()
	if _, err := w.RevokeToken(t.Context(), admin, token.ID); err != nil {
		t.Errorf("unlocked: got %v", err)
	}
	w.holds("revoked", secret, false)
}

// TestAFullDisk gives the database no page more than it has.
func TestAFullDisk(t *testing.T) {
	w := newOffice(t, AccountsOptions{})
	w.db.SetMaxOpenConns(1) // the limit is a connection's
	token, secret := w.create("a", time.Time{}, odometer.ScopeAdmin)
	var pages int
	if err := w.db.QueryRow(`PRAGMA page_count`).Scan(&pages); err != nil {
		t.Fatal(err)
	}
	if _, err := w.db.Exec(fmt.Sprintf(`PRAGMA max_page_count = %d`, pages)); err != nil {
		t.Fatal(err)
	}
	var err error
	n := 0
	for ; err == nil && n < 1000; n++ { // until the pages that it has are full
		err = w.Note(t.Context(), admin, odometer.ActionEntryReverse, "1-1", strings.Repeat("x", 900))
	}
	if !errors.Is(err, odometer.ErrUnavailable) {
		t.Fatalf("after %d lines: got %v, want ErrUnavailable", n, err)
	}
	before := w.actions()
	for err = nil; err == nil; {
		_, _, err = w.CreateToken(t.Context(), admin, odometer.Token{Name: strings.Repeat("y", 60), Scopes: []odometer.Scope{odometer.ScopeRead}})
	}
	if !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("create: got %v, want ErrUnavailable", err)
	}
	if _, ok := w.Authenticate(t.Context(), secret); !ok {
		t.Error("got the token refused while the disk is full")
	}
	list, err := w.Tokens(t.Context(), admin.Caller, "", 1000)
	if err != nil || len(w.actions())-len(before) != len(list)-1 {
		t.Errorf("got %d tokens, %v, and %d lines more, want a line for each", len(list), err, len(w.actions())-len(before))
	}
	if _, err := w.db.Exec(`PRAGMA max_page_count = 100000`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.RevokeToken(t.Context(), admin, token.ID); err != nil {
		t.Errorf("with space again: got %v", err)
	}
	w.holds("revoked", secret, false)
}

// refusesChanges checks what holds while nothing can be written.
func (w *office) refusesChanges(token odometer.Token, secret string) {
	w.t.Helper()
	ctx := w.t.Context()
	if _, s, err := w.CreateToken(ctx, admin, odometer.Token{Name: "b", Scopes: []odometer.Scope{odometer.ScopeRead}}); !errors.Is(err, odometer.ErrUnavailable) || s != "" {
		w.t.Errorf("create: got %v, want ErrUnavailable and no secret", err)
	}
	if _, err := w.RevokeToken(ctx, admin, token.ID); !errors.Is(err, odometer.ErrUnavailable) {
		w.t.Errorf("revoke: got %v, want ErrUnavailable", err)
	}
	if err := w.Note(ctx, admin, odometer.ActionEntryReverse, "1-1", "x"); !errors.Is(err, odometer.ErrUnavailable) {
		w.t.Errorf("note: got %v, want ErrUnavailable", err)
	}
	if err := w.saveUsed(ctx); err != nil && !errors.Is(err, odometer.ErrUnavailable) {
		w.t.Errorf("last use: got %v, want ErrUnavailable", err)
	}
	if _, ok := w.Authenticate(ctx, secret); !ok {
		w.t.Error("got the token refused")
	}
	if list, err := w.Tokens(ctx, admin.Caller, "", 10); err != nil || len(list) != 1 || len(w.actions()) != 1 {
		w.t.Errorf("got %+v, %v, want what was there", list, err)
	}
}

// failing is a driver whose commits fail when they are told to: before they are
// stored, or after.
type failing struct {
	sqlite.Driver
	before, after atomic.Bool
}

var theDisk = &failing{}

// theFailures are the ways in which a commit fails, by what is told to.
var theFailures = []struct {
	name   string
	fails  *atomic.Bool
	stored bool // it is there nevertheless
}{
	{"failed, not persisted", &theDisk.before, false},
	{"failed, but persisted", &theDisk.after, true},
}

func init() { sql.Register("account-failing", theDisk) }

func (d *failing) Open(name string) (driver.Conn, error) {
	c, err := d.Driver.Open(name)
	if err != nil {
		return nil, err
	}
	return &failingConn{c.(conn), d}, nil
}

type conn interface {
	driver.Conn
	driver.ConnBeginTx
	driver.ConnPrepareContext
	driver.ExecerContext
	driver.QueryerContext
}

type failingConn struct {
	conn
	d *failing
}

func (c *failingConn) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	tx, err := c.conn.BeginTx(ctx, o)
	return &failingTx{tx, c.d}, err
}

type failingTx struct {
	driver.Tx
	d *failing
}

var errDisk = errors.New("the disk does not answer")

func (tx *failingTx) Commit() error {
	if tx.d.before.Load() {
		return errors.Join(errDisk, tx.Rollback())
	}
	err := tx.Tx.Commit()
	if tx.d.after.Load() {
		return errors.Join(errDisk, err)
	}
	return err
}

// TestEveryCommitFails has each change fail, without and with having been stored.
// A token whose creation failed is held by nobody; one whose revocation failed is
// revoked when that is tried again; no change is without its line.
func TestEveryCommitFails(t *testing.T) {
	for _, c := range []struct {
		name   string
		fails  *atomic.Bool
		stored int // rows that are there nevertheless
	}{
		{"failed, not persisted", &theDisk.before, 0},
		{"failed, but persisted", &theDisk.after, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newOffice(t, AccountsOptions{Driver: "account-failing"})
			token, secret := w.create("a", time.Time{}, odometer.ScopeAdmin)
			counts := func() (tokens, lines int) {
				list, err := w.Tokens(t.Context(), admin.Caller, "", 10)
				if err != nil {
					t.Fatal(err)
				}
				return len(list), len(w.actions())
			}
			c.fails.Store(true)
			_, none, err := w.CreateToken(t.Context(), admin, odometer.Token{Name: "b", Scopes: []odometer.Scope{odometer.ScopeRead}})
			if !errors.Is(err, errDisk) || none != "" || len(w.valid) != 1 {
				t.Errorf("create: got %v, %d valid, want it failed and held by nobody", err, len(w.valid))
			}
			if tokens, lines := counts(); tokens != 1+c.stored || lines != tokens {
				t.Errorf("create: got %d tokens and %d lines, want %d of each", tokens, lines, 1+c.stored)
			}
			if _, err := w.RevokeToken(t.Context(), admin, token.ID); !errors.Is(err, errDisk) {
				t.Errorf("revoke: got %v, want it failed", err)
			}
			w.Authenticate(t.Context(), secret)
			if err := w.saveUsed(t.Context()); len(w.valid) > 0 && !errors.Is(err, errDisk) {
				t.Errorf("last use: got %v, want it failed", err)
			}
			c.fails.Store(false)
			again, err := w.RevokeToken(t.Context(), admin, token.ID)
			if err != nil || again.Revoked.IsZero() {
				t.Errorf("revoke again: got %+v, %v", again, err)
			}
			w.holds("revoked", secret, false)
			if _, lines := counts(); lines != 2+c.stored {
				t.Errorf("got %d lines, want %d: one for each that is stored", lines, 2+c.stored)
			}
		})
	}
}

func TestAccountsThatCannotBeOpened(t *testing.T) {
	for name, c := range map[string]struct {
		spoil, want string
	}{
		"a newer version":    {`UPDATE account_meta SET value = '99' WHERE key = 'schema_version'`, fmt.Sprint("tables of version 99, this program knows ", AccountsVersion)},
		"no version":         {`DELETE FROM account_meta`, "their version"},
		"a version in words": {`UPDATE account_meta SET value = 'II'`, `their version is "II"`},
		"a damaged hash":     {`UPDATE account_tokens SET hash = 'zz'`, "damaged"},
		"half of a hash":     {`UPDATE account_tokens SET hash = 'ab'`, "damaged"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newOffice(t, AccountsOptions{})
			w.create("a", time.Time{}, odometer.ScopeRead)
			if _, err := w.db.Exec(c.spoil); err != nil {
				t.Fatal(err)
			}
			w.Close()
			was, err := os.ReadFile(w.o.Path)
			if err != nil {
				t.Fatal(err)
			}
			_, err = OpenAccounts(t.Context(), w.o)
			if err == nil || !strings.Contains(err.Error(), c.want) || errors.Is(err, ErrNewerAccounts) != strings.Contains(c.want, "99") {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if is, err := os.ReadFile(w.o.Path); err != nil || !bytes.Equal(is, was) {
				t.Errorf("the file was changed: %v", err)
			}
		})
	}
	if _, err := OpenAccounts(t.Context(), AccountsOptions{Path: filepath.Join(t.TempDir(), "nowhere", "ledger.db")}); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("no directory: got %v, want ErrUnavailable", err)
	}
}
