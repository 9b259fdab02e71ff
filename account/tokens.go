package account

import (
	"context"
	"crypto/subtle"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"example.org/odometer"
)

// short is the first half of a digest, by which tokens are found: how long that
// takes tells nothing of the other half, which is compared in constant time.
type short [16]byte

// held is a token that is not revoked. All but when it was used stays as it is.
type held struct {
	digest  digest
	caller  odometer.Caller
	expires int64        // microseconds, 0 for never
	used    atomic.Int64 // last, microseconds
	saved   int64        // as used is in the file; saveUsed's alone
}

func (h *held) valid(now int64) bool { return h.expires == 0 || now < h.expires }

// load reads the tokens that are not revoked.
func (a *Accounts) load(ctx context.Context) error {
	rows, err := a.db.QueryContext(ctx, `SELECT `+tokenColumns+`, hash FROM account_tokens WHERE revoked_us = 0`)
	if err != nil {
		return unavailable(err)
	}
	defer rows.Close()
	for rows.Next() {
		var hash string
		t, err := scanToken(rows, &hash)
		if err != nil {
			return err
		}
		h := hold(&t)
		sum, err := hex.DecodeString(hash)
		if err != nil || len(sum) != len(h.digest) {
			return fmt.Errorf("token %s: what is kept of its secret is damaged", t.ID)
		}
		h.digest = digest(sum)
		a.valid[short(h.digest[:])] = h
	}
	return unavailable(rows.Err())
}

func hold(t *odometer.Token) *held {
	h := &held{caller: odometer.Caller{ID: t.ID, Name: t.Name, Bound: t.Bound, Scopes: t.Scopes, Expires: t.Expires}, expires: micros(t.Expires), saved: micros(t.LastUsed)}
	h.used.Store(h.saved)
	return h
}

// Authenticate returns who holds the token with this secret. It looks at memory
// alone and waits for nothing: what is revoked, or expired by now, is unknown, and
// so is what belongs to a user or an organisation that is deleted.
func (a *Accounts) Authenticate(_ context.Context, secret string) (odometer.Caller, bool) {
	if !wellFormed(secret) {
		return odometer.Caller{}, false
	}
	sum := digestOf(secret)
	a.mu.RLock()
	h := a.valid[short(sum[:])]
	var members []odometer.Membership
	var granted givenTo
	there := true
	if h != nil && h.caller.User != "" {
		members, there = a.people.users[h.caller.User]
		granted = a.people.grants[h.caller.User]
	} else if h != nil && h.caller.Org != "" {
		there = a.people.orgs[h.caller.Org]
	}
	a.mu.RUnlock()
	if h == nil || !there || subtle.ConstantTimeCompare(sum[:], h.digest[:]) != 1 {
		return odometer.Caller{}, false
	}
	now := a.clock().UnixMicro()
	if !h.valid(now) {
		return odometer.Caller{}, false
	}
	if now-h.used.Load() >= time.Second.Microseconds() { // a line of memory that all processors share
		h.used.Store(now)
	}
	c := h.caller
	c.Memberships, c.Grants = members, a.grantsNow(c.User, granted, now)
	return c, true
}

// CreateToken creates a token as asked for, by name, whose it is, scopes and expiry,
// and returns it with its secret, which nobody is told again: only its hash is
// kept. Both the token and the line of the audit log are durable when it returns.
// The administrator creates tokens of all kinds; a user his own, which may do no
// more than the one that he asks with, and no longer.
//
// The error wraps [odometer.ErrInvalid] where what is asked for will not do,
// [odometer.ErrForbidden] where it is not for by to ask,
// [odometer.ErrConflict] where [MaxTokens] are valid or [MaxUserTokens] of one
// user, and [odometer.ErrUnavailable] where it cannot be written.
func (a *Accounts) CreateToken(ctx context.Context, by odometer.Actor, ask odometer.Token) (t odometer.Token, secret string, err error) {
	now := a.clock().UTC().Truncate(time.Microsecond)
	t = odometer.Token{Name: ask.Name, Bound: ask.Bound, Scopes: ask.Scopes, Created: now, CreatedBy: by.String(), Expires: ask.Expires.Truncate(time.Microsecond)}
	if err = errors.Join(odometer.ValidTokenName(t.Name), odometer.ValidScopes(t.Bound, t.Scopes)); err == nil && !t.Expires.IsZero() && !t.Expires.After(now) {
		err = fmt.Errorf("it would expire at %s, which is past: %w", t.Expires.UTC().Format(time.RFC3339), odometer.ErrInvalid)
	}
	if err == nil {
		err = mayCreate(&by, &t)
	}
	if err == nil {
		t.ID, secret = odometer.TokenID("tok_"+newID(a.random)), newSecret(a.random)
		err = a.create(ctx, by, &t, digestOf(secret))
	}
	if err != nil {
		return odometer.Token{}, "", fmt.Errorf("create a token: %w", err)
	}
	return t, secret, nil
}

// mayCreate refuses a token that would do more than its creator may.
func mayCreate(by *odometer.Actor, t *odometer.Token) error {
	if by.May(odometer.ScopeAdmin) {
		return nil
	}
	if by.User == "" || !by.May(odometer.ScopeAccount) || t.Bound != by.Bound {
		return fmt.Errorf("a user creates tokens of his own, and only the administrator others: %w", odometer.ErrForbidden)
	}
	for _, s := range t.Scopes {
		if !by.May(s) {
			return fmt.Errorf("the token has not the scope %s, and cannot give it: %w", s, odometer.ErrForbidden)
		}
	}
	if !by.Expires.IsZero() && (t.Expires.IsZero() || t.Expires.After(by.Expires)) {
		return fmt.Errorf("the token expires at %s, and cannot create one that lasts longer: %w", by.Expires.UTC().Format(time.RFC3339), odometer.ErrForbidden)
	}
	return nil
}

// mayHold refuses a token of whom there is not, or who has too many.
func mayHold(ctx context.Context, tx *sql.Tx, t *odometer.Token) error {
	switch {
	case t.User != "":
		u, err := userOf(ctx, tx, t.User)
		if errors.Is(err, odometer.ErrNotFound) || err == nil && !u.Deleted.IsZero() {
			return fmt.Errorf("there is no user %s: %w", t.User, odometer.ErrInvalid)
		}
		var n int
		if err == nil {
			err = tx.QueryRowContext(ctx, `SELECT count(*) FROM account_tokens WHERE usr = ? AND revoked_us = 0 AND (expires_us = 0 OR expires_us > ?)`, string(t.User), micros(t.Created)).Scan(&n)
		}
		if err == nil && n >= MaxUserTokens {
			err = fmt.Errorf("user %s has %d tokens that are valid, and more there cannot be: %w", t.User, n, odometer.ErrConflict)
		}
		return err
	case t.Org != "":
		o, err := orgOf(ctx, tx, t.Org)
		if errors.Is(err, odometer.ErrNotFound) || err == nil && !o.Deleted.IsZero() {
			return fmt.Errorf("there is no organisation %s: %w", t.Org, odometer.ErrInvalid)
		}
		return err
	}
	return nil
}

func (a *Accounts) create(ctx context.Context, by odometer.Actor, t *odometer.Token, hash digest) error {
	h := hold(t)
	h.digest = hash
	took := false
	err := a.transact(ctx, func(tx *sql.Tx) error {
		if err := mayHold(ctx, tx, t); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO account_tokens (number, id, hash, name, usr, org, scopes, created_us, created_by, expires_us, used_us, revoked_us)
			VALUES ((SELECT coalesce(max(number), 0) + 1 FROM account_tokens), ?, ?, ?, ?, ?, ?, ?, ?, ?, 0, 0)`,
			string(t.ID), hash.String(), t.Name, string(t.User), string(t.Org), odometer.JoinScopes(t.Scopes, " "), micros(t.Created), t.CreatedBy, h.expires)
		if err != nil {
			return err
		}
		detail := fmt.Sprintf("%s: %s", t.Name, odometer.JoinScopes(t.Scopes, " "))
		if t.User != "" {
			detail += ", of user " + string(t.User)
		}
		if t.Org != "" {
			detail += ", of organisation " + string(t.Org)
		}
		if h.expires != 0 {
			detail += ", until " + t.Expires.UTC().Format(time.RFC3339)
		}
		if err := note(ctx, tx, micros(t.Created), by, odometer.ActionTokenCreate, string(t.ID), detail); err != nil {
			return err
		}
		// Before the commit: nobody can revoke it until then, and nobody has it.
		if took = a.take(h, micros(t.Created)); !took {
			return fmt.Errorf("%d tokens are valid, and more there cannot be: %w", a.maxTokens, odometer.ErrConflict)
		}
		return nil
	})
	if err != nil && took { // it may be in the file; its secret goes nowhere
		a.drop(h.caller.ID)
	}
	return err
}

// take makes a token valid, unless there are too many of them.
func (a *Accounts) take(h *held, now int64) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.valid) >= a.maxTokens {
		for k, old := range a.valid {
			if !old.valid(now) {
				delete(a.valid, k)
			}
		}
	}
	if len(a.valid) >= a.maxTokens {
		return false
	}
	a.valid[short(h.digest[:])] = h
	return true
}

// drop ends the validity of tokens.
func (a *Accounts) drop(ids ...odometer.TokenID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for k, h := range a.valid {
		if slices.Contains(ids, h.caller.ID) {
			delete(a.valid, k)
		}
	}
}

// ofCaller is the condition of the tokens that are by's to see and to revoke.
func ofCaller(by *odometer.Caller) (cond string, args []any) {
	switch {
	case by.May(odometer.ScopeAdmin):
		return `1`, nil
	case by.User != "":
		return `usr = ?`, []any{string(by.User)}
	}
	return `0`, nil
}

// revokeAll revokes the tokens of a condition and returns which.
func revokeAll(ctx context.Context, tx *sql.Tx, now int64, by odometer.Actor, cond string, args ...any) (ids []odometer.TokenID, err error) {
	rows, err := tx.QueryContext(ctx, `SELECT `+tokenColumns+` FROM account_tokens WHERE revoked_us = 0 AND `+cond+` ORDER BY number`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var list []odometer.Token
	for rows.Next() {
		t, err := scanToken(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, t)
	}
	if err := errors.Join(rows.Err(), rows.Close()); err != nil {
		return nil, err
	}
	for i := range list {
		if _, err := tx.ExecContext(ctx, `UPDATE account_tokens SET revoked_us = ? WHERE id = ?`, now, string(list[i].ID)); err != nil {
			return nil, err
		}
		if err := note(ctx, tx, now, by, odometer.ActionTokenRevoke, string(list[i].ID), list[i].Name); err != nil {
			return nil, err
		}
		ids = append(ids, list[i].ID)
	}
	return ids, nil
}

// RevokeToken revokes a token for good and returns it. When it returns nil the
// token is not accepted by any later call of Authenticate, nor after a crash.
// Revoking it again changes nothing. The administrator revokes any, a user his
// own. The error wraps [odometer.ErrNotFound] where there is no such token; after any other one the token may be revoked or not, and
// it is to be revoked again.
func (a *Accounts) RevokeToken(ctx context.Context, by odometer.Actor, id odometer.TokenID) (t odometer.Token, err error) {
	err = a.transact(ctx, func(tx *sql.Tx) error {
		if t, err = tokenOf(ctx, tx, &by.Caller, id); err != nil || !t.Revoked.IsZero() {
			return err
		}
		t.Revoked, t.LastUsed = a.clock().UTC().Truncate(time.Microsecond), a.lastUsed(&t)
		if _, err := tx.ExecContext(ctx, `UPDATE account_tokens SET revoked_us = ?, used_us = ? WHERE id = ?`, micros(t.Revoked), micros(t.LastUsed), string(id)); err != nil {
			return err
		}
		return note(ctx, tx, micros(t.Revoked), by, odometer.ActionTokenRevoke, string(id), t.Name)
	})
	if err != nil {
		return odometer.Token{}, fmt.Errorf("revoke token %s: %w", id, err)
	}
	a.drop(id)
	return t, nil
}

// Token returns the token with an id that is by's to see, or an error that wraps
// [odometer.ErrNotFound].
func (a *Accounts) Token(ctx context.Context, by odometer.Caller, id odometer.TokenID) (odometer.Token, error) {
	t, err := tokenOf(ctx, a.db, &by, id)
	if err != nil {
		return t, fmt.Errorf("token %s: %w", id, unavailable(err))
	}
	t.LastUsed = a.lastUsed(&t)
	return t, nil
}

// Tokens returns at most limit tokens that are by's to see, revoked and expired ones
// too, in the order in which they were created: those after the one named, or from
// the first on. A token that there is not is an error wrapping
// [odometer.ErrInvalid].
func (a *Accounts) Tokens(ctx context.Context, by odometer.Caller, after odometer.TokenID, limit int) ([]odometer.Token, error) {
	number := int64(0)
	cond, args := ofCaller(&by)
	if after != "" {
		err := a.db.QueryRowContext(ctx, `SELECT number FROM account_tokens WHERE `+cond+` AND id = ?`, append(slices.Clone(args), string(after))...).Scan(&number)
		if errors.Is(err, sql.ErrNoRows) {
			err = fmt.Errorf("there is no token %s: %w", after, odometer.ErrInvalid)
		}
		if err != nil {
			return nil, fmt.Errorf("list tokens: %w", unavailable(err))
		}
	}
	rows, err := a.db.QueryContext(ctx, `SELECT `+tokenColumns+` FROM account_tokens WHERE `+cond+` AND number > ? ORDER BY number LIMIT ?`, append(args, number, limit)...)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", unavailable(err))
	}
	defer rows.Close()
	list := []odometer.Token{}
	for rows.Next() {
		t, err := scanToken(rows)
		if err != nil {
			return nil, fmt.Errorf("list tokens: %w", err)
		}
		list = append(list, t)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("list tokens: %w", unavailable(err))
	}
	a.newestUse(list)
	return list, nil
}

// lastUsed returns when a token was last used, written or not.
func (a *Accounts) lastUsed(t *odometer.Token) time.Time {
	list := []odometer.Token{*t}
	a.newestUse(list)
	return list[0].LastUsed
}

// newestUse fills in when tokens were used since it was written.
func (a *Accounts) newestUse(list []odometer.Token) {
	at := make(map[odometer.TokenID]int, len(list))
	for i := range list {
		at[list[i].ID] = i
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	for _, h := range a.valid {
		if i, ok := at[h.caller.ID]; ok {
			list[i].LastUsed = moment(max(micros(list[i].LastUsed), h.used.Load()))
		}
	}
}

// saveUsed writes when tokens were last used that were since the last time.
func (a *Accounts) saveUsed(ctx context.Context) error {
	used := map[*held]int64{}
	a.mu.RLock()
	for _, h := range a.valid {
		if at := h.used.Load(); at != h.saved {
			used[h] = at
		}
	}
	a.mu.RUnlock()
	if len(used) == 0 {
		return nil
	}
	err := a.transact(ctx, func(tx *sql.Tx) error {
		for h, at := range used {
			if _, err := tx.ExecContext(ctx, `UPDATE account_tokens SET used_us = ? WHERE id = ?`, at, string(h.caller.ID)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for h, at := range used {
		h.saved = at
	}
	return nil
}

const tokenColumns = `id, name, usr, org, scopes, created_us, created_by, expires_us, used_us, revoked_us`

// scanner is a row that can be read.
type scanner interface{ Scan(...any) error }

// scanToken reads a token, and what is asked for beside it.
func scanToken(row scanner, more ...any) (t odometer.Token, err error) {
	var scopes string
	var created, expires, used, revoked int64
	if err := row.Scan(append([]any{&t.ID, &t.Name, &t.User, &t.Org, &scopes, &created, &t.CreatedBy, &expires, &used, &revoked}, more...)...); err != nil {
		return t, err
	}
	for word := range strings.FieldsSeq(scopes) {
		t.Scopes = append(t.Scopes, odometer.Scope(word))
	}
	t.Created, t.Expires, t.LastUsed, t.Revoked = moment(created), moment(expires), moment(used), moment(revoked)
	return t, nil
}

// queryer is a database or a transaction.
type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func tokenOf(ctx context.Context, db queryer, by *odometer.Caller, id odometer.TokenID) (odometer.Token, error) {
	cond, args := ofCaller(by)
	t, err := scanToken(db.QueryRowContext(ctx, `SELECT `+tokenColumns+` FROM account_tokens WHERE `+cond+` AND id = ?`, append(args, string(id))...))
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	return t, err
}

// micros and moment keep the zero time as 0.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
