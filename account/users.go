package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"example.org/odometer"
)

const userColumns = `id, name, email, version, created_us, updated_us, deleted_us`

func scanUser(row scanner) (u odometer.User, err error) {
	var created, updated, deleted int64
	err = row.Scan(&u.ID, &u.Name, &u.Email, &u.Version, &created, &updated, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	u.Created, u.Updated, u.Deleted = moment(created), moment(updated), moment(deleted)
	return u, err
}

func userOf(ctx context.Context, db queryer, id odometer.UserID) (odometer.User, error) {
	return scanUser(db.QueryRowContext(ctx, `SELECT `+userColumns+` FROM account_users WHERE id = ?`, string(id)))
}

// seenUser returns the user with an id where by sees him: the administrator sees
// all, a user himself.
func seenUser(ctx context.Context, db queryer, by *odometer.Caller, id odometer.UserID) (odometer.User, error) {
	if !by.May(odometer.ScopeAdmin) && (by.User == "" || by.User != id) {
		return odometer.User{}, odometer.ErrNotFound
	}
	return userOf(ctx, db, id)
}

// CreateUser creates a user, of whom u says id, name and e-mail address. Only the
// administrator does. An id that was ever one's is an [odometer.ErrConflict]: what
// was used under it stays his.
func (a *Accounts) CreateUser(ctx context.Context, by odometer.Actor, once odometer.Once, u odometer.User) (made odometer.User, err error) {
	err = errors.Join(odometer.ValidUserID(u.ID), odometer.ValidName(u.Name), odometer.ValidEmail(u.Email))
	if err == nil {
		err = operator(&by.Caller)
	}
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			now := a.now()
			t.users = []odometer.UserID{u.ID}
			made, err = repeatable(ctx, tx, now, &by, once, "user:"+string(u.ID), func() (odometer.User, error) {
				if _, err := userOf(ctx, tx, u.ID); !errors.Is(err, odometer.ErrNotFound) {
					return u, cmpErr(err, fmt.Errorf("there is one with this id, or was: %w", odometer.ErrConflict))
				}
				u.Version, u.Created, u.Updated = 1, moment(now), moment(now)
				_, err := tx.ExecContext(ctx, `INSERT INTO account_users (`+userColumns+`) VALUES (?, ?, ?, 1, ?, ?, 0)`, string(u.ID), u.Name, u.Email, now, now)
				if err == nil {
					err = note(ctx, tx, now, by, odometer.ActionUserCreate, string(u.ID), "")
				}
				return u, err
			})
			return err
		})
	}
	if err != nil {
		return odometer.User{}, fmt.Errorf("create user %s: %w", u.ID, err)
	}
	return made, nil
}

// User returns the user with an id. The administrator is shown one that is
// deleted, too.
func (a *Accounts) User(ctx context.Context, by odometer.Caller, id odometer.UserID) (odometer.User, error) {
	u, err := seenUser(ctx, a.db, &by, id)
	if err != nil {
		return odometer.User{}, fmt.Errorf("user %s: %w", id, unavailable(err))
	}
	return u, nil
}

// Users returns at most limit users that by sees and that are not deleted, in the
// order of their ids, after the one named.
func (a *Accounts) Users(ctx context.Context, by odometer.Caller, after odometer.UserID, limit int) ([]odometer.User, error) {
	cond, args := `0`, []any{}
	switch {
	case by.May(odometer.ScopeAdmin):
		cond = `1`
	case by.User != "":
		cond, args = `id = ?`, []any{string(by.User)}
	}
	rows, err := a.db.QueryContext(ctx, `SELECT `+userColumns+` FROM account_users WHERE deleted_us = 0 AND `+cond+` AND id > ? ORDER BY id LIMIT ?`,
		append(args, string(after), limit)...)
	if err != nil {
		return nil, fmt.Errorf("list users: %w", unavailable(err))
	}
	defer rows.Close()
	list := []odometer.User{}
	for rows.Next() {
		u, err := scanUser(rows)
		if err != nil {
			return nil, fmt.Errorf("list users: %w", err)
		}
		list = append(list, u)
	}
	return list, unavailable(rows.Err())
}

// UpdateUser gives a user another name and e-mail address, where he is of the
// version named: the administrator does, and he himself.
func (a *Accounts) UpdateUser(ctx context.Context, by odometer.Actor, id odometer.UserID, version int64, name, email string) (u odometer.User, err error) {
	err = cmpErr(errors.Join(odometer.ValidName(name), odometer.ValidEmail(email)), maker(&by))
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, _ *touched) error {
			if u, err = seenUser(ctx, tx, &by.Caller, id); err != nil {
				return err
			}
			if err = standing(u.Deleted.IsZero(), version, u.Version); err != nil {
				return err
			}
			now := a.now()
			u.Name, u.Email, u.Version, u.Updated = name, email, u.Version+1, moment(now)
			if _, err := tx.ExecContext(ctx, `UPDATE account_users SET name = ?, email = ?, version = ?, updated_us = ? WHERE id = ?`, name, email, u.Version, now, string(id)); err != nil {
				return err
			}
			return note(ctx, tx, now, by, odometer.ActionUserUpdate, string(id), "name, e-mail")
		})
	}
	if err != nil {
		return odometer.User{}, fmt.Errorf("update user %s: %w", id, err)
	}
	return u, nil
}

// DeleteUser deletes a user, where he is of the version named: when it returns, no
// token of his is accepted and he is nobody's member any more. His id stays,
// without a name, and so does what he used. Only the administrator does. The last
// owner of an organisation is not deleted.
func (a *Accounts) DeleteUser(ctx context.Context, by odometer.Actor, id odometer.UserID, version int64) (u odometer.User, err error) {
	var revoked []odometer.TokenID
	err = operator(&by.Caller)
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			if u, err = userOf(ctx, tx, id); err != nil {
				return err
			}
			if err = standing(u.Deleted.IsZero(), version, u.Version); err != nil {
				return err
			}
			of, err := memberships(ctx, tx, `usr = ?`, string(id))
			if err != nil {
				return err
			}
			for _, m := range of {
				if err := anotherOwner(ctx, tx, m); err != nil {
					return err
				}
			}
			t.users = []odometer.UserID{id}
			now := a.now()
			u.Name, u.Email, u.Version, u.Updated, u.Deleted = "", "", u.Version+1, moment(now), moment(now)
			for _, s := range []struct {
				query string
				args  []any
			}{
				{`UPDATE account_users SET name = '', email = '', version = ?, updated_us = ?, deleted_us = ? WHERE id = ?`, []any{u.Version, now, now, string(id)}},
				{`DELETE FROM account_memberships WHERE usr = ?`, []any{string(id)}},
				{`DELETE FROM account_repeats WHERE object = ?1 OR holder = ?1`, []any{"user:" + string(id)}},
			} {
				if _, err := tx.ExecContext(ctx, s.query, s.args...); err != nil {
					return err
				}
			}
			given, err := grantsOf(ctx, tx, `usr = ?1 OR of_usr = ?1`, string(id))
			if err == nil {
				err = endGrants(ctx, tx, now, by, t, given, "the user is deleted")
			}
			if err != nil {
				return err
			}
			if err := note(ctx, tx, now, by, odometer.ActionUserDelete, string(id), fmt.Sprintf("member of: %d", len(of))); err != nil {
				return err
			}
			revoked, err = revokeAll(ctx, tx, now, by, `usr = ?`, string(id))
			return err
		})
	}
	if err != nil {
		return odometer.User{}, fmt.Errorf("delete user %s: %w", id, err)
	}
	a.drop(revoked...)
	return u, nil
}
