package account

import (
	"context"
	"crypto/sha256"
	"database/sql"
	_ "embed"
	"errors"
	"fmt"

	"example.org/odometer"
)

//go:embed identities.sql
var identitiesSchema string

// maxIdentities bounds those of one user.
const maxIdentities = 20

// identity is what an issuer calls somebody.
type identity struct{ issuer, subject string }

// id names an identity in public: see [odometer.Identity].
func (i identity) id() odometer.TokenID {
	sum := sha256.Sum256([]byte(i.issuer + "\x00" + i.subject)) // neither has a 0
	return odometer.TokenID("tok_" + secretText.EncodeToString(sum[:10]))
}

// loadIdentities reads who users are to issuers.
func (a *Accounts) loadIdentities(ctx context.Context) error {
	list, err := identities(ctx, a.db, `1`)
	if err != nil {
		return err
	}
	known := map[identity]odometer.UserID{}
	for _, i := range list {
		known[identity{i.Issuer, i.Subject}] = i.User
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.people.identities = known
	return nil
}

// identities returns those of a condition, by issuer and subject.
func identities(ctx context.Context, db lister, cond string, args ...any) ([]odometer.Identity, error) {
	rows, err := db.QueryContext(ctx, `SELECT issuer, subject, usr, created_us, created_by FROM account_identities WHERE `+cond+` ORDER BY issuer, subject`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []odometer.Identity{}
	for rows.Next() {
		var i odometer.Identity
		var created int64
		if err := rows.Scan(&i.Issuer, &i.Subject, &i.User, &created, &i.CreatedBy); err != nil {
			return nil, err
		}
		i.ID, i.Created = identity{i.Issuer, i.Subject}.id(), moment(created)
		list = append(list, i)
	}
	return list, rows.Err()
}

// AddIdentity says which user somebody is whom an issuer calls by a subject. Only the
// administrator does. When it returns, who comes with a token of the issuer's that
// names the subject is that user. One that is somebody's already is an
// [odometer.ErrConflict].
func (a *Accounts) AddIdentity(ctx context.Context, by odometer.Actor, i odometer.Identity) (odometer.Identity, error) {
	err := cmpErr(errors.Join(odometer.ValidUserID(i.User), odometer.ValidIssuer(i.Issuer), odometer.ValidSubject(i.Subject)), operator(&by.Caller))
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			u, err := userOf(ctx, tx, i.User)
			if err == nil && !u.Deleted.IsZero() {
				err = odometer.ErrNotFound
			}
			if err != nil {
				return err
			}
			var of string
			err = tx.QueryRowContext(ctx, `SELECT usr FROM account_identities WHERE issuer = ? AND subject = ?`, i.Issuer, i.Subject).Scan(&of)
			if !errors.Is(err, sql.ErrNoRows) {
				return cmpErr(err, fmt.Errorf("it is user %s: %w", of, odometer.ErrConflict))
			}
			var n int
			if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM account_identities WHERE usr = ?`, string(i.User)).Scan(&n); err != nil {
				return err
			}
			if n >= maxIdentities {
				return fmt.Errorf("user %s has %d identities, and more there cannot be: %w", i.User, n, odometer.ErrConflict)
			}
			now := a.now()
			i.ID, i.Created, i.CreatedBy, t.identities = identity{i.Issuer, i.Subject}.id(), moment(now), by.String(), true
			if _, err := tx.ExecContext(ctx, `INSERT INTO account_identities (issuer, subject, usr, created_us, created_by) VALUES (?, ?, ?, ?, ?)`,
				i.Issuer, i.Subject, string(i.User), now, i.CreatedBy); err != nil {
				return err
			}
			return note(ctx, tx, now, by, odometer.ActionIdentityAdd, string(i.User), string(i.ID)+" of "+i.Issuer)
		})
	}
	if err != nil {
		return odometer.Identity{}, fmt.Errorf("add an identity of user %s: %w", i.User, err)
	}
	return i, nil
}

// Identities returns who a user is to issuers, to himself and the administrator.
func (a *Accounts) Identities(ctx context.Context, by odometer.Caller, user odometer.UserID) ([]odometer.Identity, error) {
	_, err := seenUser(ctx, a.db, &by, user)
	var list []odometer.Identity
	if err == nil {
		list, err = identities(ctx, a.db, `usr = ?`, string(user))
	}
	if err != nil {
		return nil, fmt.Errorf("identities of user %s: %w", user, unavailable(err))
	}
	return list, nil
}

// RemoveIdentity ends that a user is somebody to an issuer: when it returns, a token
// of the issuer's does not stand for him any more. Only the administrator does.
func (a *Accounts) RemoveIdentity(ctx context.Context, by odometer.Actor, user odometer.UserID, id odometer.TokenID) (gone odometer.Identity, err error) {
	err = operator(&by.Caller)
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			list, err := identities(ctx, tx, `usr = ?`, string(user))
			if err != nil {
				return err
			}
			for _, i := range list {
				if i.ID != id {
					continue
				}
				gone, t.identities = i, true
				if _, err := tx.ExecContext(ctx, `DELETE FROM account_identities WHERE issuer = ? AND subject = ?`, i.Issuer, i.Subject); err != nil {
					return err
				}
				return note(ctx, tx, a.now(), by, odometer.ActionIdentityRemove, string(user), string(id)+" of "+i.Issuer)
			}
			return odometer.ErrNotFound
		})
	}
	if err != nil {
		return odometer.Identity{}, fmt.Errorf("remove identity %s of user %s: %w", id, user, err)
	}
	return gone, nil
}
