package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"example.org/odometer"
)

const memberColumns = `org, usr, role, version, created_us, updated_us`

func scanMember(row scanner) (m odometer.Membership, err error) {
	var created, updated int64
	err = row.Scan(&m.Org, &m.User, &m.Role, &m.Version, &created, &updated)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	m.Created, m.Updated = moment(created), moment(updated)
	return m, err
}

// seenMember returns a membership where by sees it: everybody sees his own, others
// need a right.
func seenMember(ctx context.Context, db queryer, by *odometer.Caller, org odometer.OrgID, user odometer.UserID) (m odometer.Membership, err error) {
	if _, err := may(ctx, db, by, org, odometer.SeeOrganisation); err != nil {
		return m, err
	}
	if by.User == "" || by.User != user {
		if _, err := may(ctx, db, by, org, odometer.SeeMembers); errors.Is(err, odometer.ErrForbidden) {
			return m, odometer.ErrNotFound
		} else if err != nil {
			return m, err
		}
	}
	return scanMember(db.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM account_memberships WHERE org = ? AND usr = ?`, string(org), string(user)))
}

// needs returns the right that it takes to make somebody what he then is of what
// he was; "" for nothing.
func needs(was, is odometer.Role) odometer.Right {
	if was == odometer.RoleOwner || is == odometer.RoleOwner {
		return odometer.ManageOwners
	}
	return odometer.ManageMembers
}

// anotherOwner refuses to take the last owner from an organisation.
func anotherOwner(ctx context.Context, tx queryer, m odometer.Membership) error {
	if m.Role != odometer.RoleOwner {
		return nil
	}
	var owners int
	err := tx.QueryRowContext(ctx, `SELECT count(*) FROM account_memberships WHERE org = ? AND role = ?`, string(m.Org), string(odometer.RoleOwner)).Scan(&owners)
	if err == nil && owners < 2 {
		err = fmt.Errorf("user %s is the last owner of organisation %s, which needs another one first: %w", m.User, m.Org, odometer.ErrConflict)
	}
	return err
}

// addMember stores a membership, of which m says whose it is and the role.
func addMember(ctx context.Context, tx *sql.Tx, now int64, by *odometer.Actor, m odometer.Membership) (odometer.Membership, error) {
	u, err := userOf(ctx, tx, m.User)
	if err == nil && !by.May(odometer.ScopeAdmin) {
		err = sharesWith(ctx, tx, by.User, m.User)
	}
	if errors.Is(err, odometer.ErrNotFound) || err == nil && !u.Deleted.IsZero() {
		err = fmt.Errorf("there is no user %s who could be added: %w", m.User, odometer.ErrInvalid)
	}
	if err != nil {
		return m, err
	}
	_, err = scanMember(tx.QueryRowContext(ctx, `SELECT `+memberColumns+` FROM account_memberships WHERE org = ? AND usr = ?`, string(m.Org), string(m.User)))
	if !errors.Is(err, odometer.ErrNotFound) {
		return m, cmpErr(err, fmt.Errorf("user %s is a member already: %w", m.User, odometer.ErrConflict))
	}
	m.Version, m.Created, m.Updated = 1, moment(now), moment(now)
	_, err = tx.ExecContext(ctx, `INSERT INTO account_memberships (`+memberColumns+`) VALUES (?, ?, ?, 1, ?, ?)`, string(m.Org), string(m.User), string(m.Role), now, now)
	if err == nil {
		err = note(ctx, tx, now, *by, odometer.ActionMemberAdd, string(m.Org)+"/"+string(m.User), "role: "+string(m.Role))
	}
	return m, err
}

// sharesWith returns nil where by is a member beside a user in an organisation of
// which he sees the members. Others are to him as if there were none.
func sharesWith(ctx context.Context, tx *sql.Tx, by, user odometer.UserID) error {
	beside, err := memberships(ctx, tx, `usr = ?1 AND org IN (SELECT org FROM account_memberships WHERE usr = ?2)`, string(by), string(user))
	if err != nil {
		return err
	}
	for _, m := range beside {
		if m.Role.Gives(odometer.SeeMembers) {
			return nil
		}
	}
	return odometer.ErrNotFound
}

// AddMember makes a user a member of an organisation. Who is an owner adds whom he
// sees in any of his organisations, an admin all but owners; anybody else is added
// by the administrator.
func (a *Accounts) AddMember(ctx context.Context, by odometer.Actor, once odometer.Once, m odometer.Membership) (made odometer.Membership, err error) {
	err = cmpErr(odometer.ValidRole(m.Role), maker(&by))
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			o, err := may(ctx, tx, &by.Caller, m.Org, needs("", m.Role))
			if err == nil {
				err = standing(o.Deleted.IsZero(), odometer.AnyVersion, 0)
			}
			if err != nil {
				return err
			}
			t.users = []odometer.UserID{m.User}
			now := a.now()
			made, err = repeatable(ctx, tx, now, &by, once, "organization:"+string(m.Org), func() (odometer.Membership, error) { return addMember(ctx, tx, now, &by, m) })
			return err
		})
	}
	if err != nil {
		return odometer.Membership{}, fmt.Errorf("add a member to organisation %s: %w", m.Org, err)
	}
	return made, nil
}

// Member returns what a user is in an organisation.
func (a *Accounts) Member(ctx context.Context, by odometer.Caller, org odometer.OrgID, user odometer.UserID) (odometer.Membership, error) {
	m, err := seenMember(ctx, a.db, &by, org, user)
	if err != nil {
		return odometer.Membership{}, fmt.Errorf("member %s of organisation %s: %w", user, org, unavailable(err))
	}
	return m, nil
}

// Members returns at most limit members of an organisation that by sees, in the
// order of their ids, after the one named.
func (a *Accounts) Members(ctx context.Context, by odometer.Caller, org odometer.OrgID, after odometer.UserID, limit int) ([]odometer.Membership, error) {
	fail := func(err error) ([]odometer.Membership, error) {
		return nil, fmt.Errorf("members of organisation %s: %w", org, unavailable(err))
	}
	if _, err := may(ctx, a.db, &by, org, odometer.SeeOrganisation); err != nil {
		return fail(err)
	}
	cond, args := `org = ? AND usr > ?`, []any{string(org), string(after)}
	if _, err := may(ctx, a.db, &by, org, odometer.SeeMembers); errors.Is(err, odometer.ErrForbidden) {
		cond, args = cond+` AND usr = ?`, append(args, string(by.User))
	} else if err != nil {
		return fail(err)
	}
	list, err := memberships(ctx, a.db, cond+` AND usr IN (SELECT usr FROM account_memberships WHERE `+cond+` ORDER BY usr LIMIT ?)`, append(append(args, args...), limit)...)
	if err != nil {
		return fail(err)
	}
	return list, nil
}

// SetMember gives a member another role, where the membership is of the version
// named. The last owner stays one.
func (a *Accounts) SetMember(ctx context.Context, by odometer.Actor, org odometer.OrgID, user odometer.UserID, version int64, role odometer.Role) (m odometer.Membership, err error) {
	err = cmpErr(odometer.ValidRole(role), maker(&by))
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			if m, err = seenMember(ctx, tx, &by.Caller, org, user); err != nil {
				return err
			}
			if _, err = may(ctx, tx, &by.Caller, org, needs(m.Role, role)); err != nil {
				return err
			}
			if err = checkVersion(version, m.Version); err != nil {
				return err
			}
			if role != odometer.RoleOwner {
				if err = anotherOwner(ctx, tx, m); err != nil {
					return err
				}
			}
			t.users = []odometer.UserID{user}
			now, was := a.now(), m.Role
			m.Role, m.Version, m.Updated = role, m.Version+1, moment(now)
			if _, err = tx.ExecContext(ctx, `UPDATE account_memberships SET role = ?, version = ?, updated_us = ? WHERE org = ? AND usr = ?`,
				string(role), m.Version, now, string(org), string(user)); err != nil {
				return err
			}
			return note(ctx, tx, now, by, odometer.ActionMemberUpdate, string(org)+"/"+string(user), fmt.Sprintf("role: %s, was %s", role, was))
		})
	}
	if err != nil {
		return odometer.Membership{}, fmt.Errorf("change member %s of organisation %s: %w", user, org, err)
	}
	return m, nil
}

// RemoveMember ends a membership, where it is of the version named; everybody may
// end his own. The last owner stays.
func (a *Accounts) RemoveMember(ctx context.Context, by odometer.Actor, org odometer.OrgID, user odometer.UserID, version int64) (m odometer.Membership, err error) {
	err = maker(&by)
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			if m, err = seenMember(ctx, tx, &by.Caller, org, user); err != nil {
				return err
			}
			if by.User != user {
				if _, err = may(ctx, tx, &by.Caller, org, needs(m.Role, "")); err != nil {
					return err
				}
			}
			if err = checkVersion(version, m.Version); err != nil {
				return err
			}
			if err = anotherOwner(ctx, tx, m); err != nil {
				return err
			}
			t.users = []odometer.UserID{user}
			if _, err = tx.ExecContext(ctx, `DELETE FROM account_memberships WHERE org = ? AND usr = ?`, string(org), string(user)); err != nil {
				return err
			}
			return note(ctx, tx, a.now(), by, odometer.ActionMemberRemove, string(org)+"/"+string(user), "was "+string(m.Role))
		})
	}
	if err != nil {
		return odometer.Membership{}, fmt.Errorf("remove member %s of organisation %s: %w", user, org, err)
	}
	return m, nil
}
