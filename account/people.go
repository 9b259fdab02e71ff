package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"

	"example.org/odometer"
)

// What a caller may see and change of organisations, users and members is decided
// here, inside the transaction that does it: what was taken from him meanwhile he
// no longer has. What he may not see is answered as what there is not.

// people are what is held of users and organisations that are not deleted.
type people struct {
	users map[odometer.UserID][]odometer.Membership // each list is replaced as a whole
	orgs  map[odometer.OrgID]bool
	// Grants are those of users that are not deleted.
	grants map[odometer.UserID]givenTo
}

// loadPeople reads all of them.
func (a *Accounts) loadPeople(ctx context.Context) error {
	p := people{users: map[odometer.UserID][]odometer.Membership{}, orgs: map[odometer.OrgID]bool{}, grants: map[odometer.UserID]givenTo{}}
	var id string
	each := func(query string, take func()) error {
		rows, err := a.db.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := rows.Scan(&id); err != nil {
				return err
			}
			take()
		}
		return rows.Err()
	}
	if err := each(`SELECT id FROM account_organisations WHERE deleted_us = 0`, func() { p.orgs[odometer.OrgID(id)] = true }); err != nil {
		return err
	}
	if err := each(`SELECT id FROM account_users WHERE deleted_us = 0`, func() { p.users[odometer.UserID(id)] = nil }); err != nil {
		return err
	}
	list, err := memberships(ctx, a.db, `1`)
	if err != nil {
		return err
	}
	for _, m := range list {
		if _, there := p.users[m.User]; there {
			p.users[m.User] = append(p.users[m.User], m)
		}
	}
	granted, err := grantsOf(ctx, a.db, `expires_us = 0 OR expires_us > ?`, a.now())
	if err != nil {
		return err
	}
	for len(granted) > 0 {
		user, n := granted[0].User, 1
		for n < len(granted) && granted[n].User == user {
			n++
		}
		if _, there := p.users[user]; there {
			p.grants[user] = holdGrants(granted[:n], a.now())
		}
		granted = granted[n:]
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.people, a.unsure = p, false
	return nil
}

// touched are the users and organisations of which something else may be held
// after a change.
type touched struct {
	users []odometer.UserID
	orgs  []odometer.OrgID
}

// change makes a change of people, one at a time. Whatever became of it, what is
// held is then as it is stored: what was taken away is gone when change returns,
// also where the disk answered nothing. Where that cannot be read, nobody is let
// in whom the change touched until it can.
func (a *Accounts) change(ctx context.Context, do func(*sql.Tx, *touched) error) error {
	select {
	case a.changing <- struct{}{}:
		defer func() { <-a.changing }()
	case <-ctx.Done():
		return ctx.Err()
	}
	var t touched
	err := a.transact(ctx, func(tx *sql.Tx) error { return do(tx, &t) })
	for _, user := range t.users {
		list, granted, there, lookErr := a.userNow(context.WithoutCancel(ctx), user)
		a.mu.Lock()
		if there {
			a.people.users[user], a.people.grants[user] = list, holdGrants(granted, a.now())
		} else {
			delete(a.people.users, user)
			delete(a.people.grants, user)
		}
		a.unsure = a.unsure || lookErr != nil
		a.mu.Unlock()
	}
	for _, org := range t.orgs {
		o, lookErr := orgOf(context.WithoutCancel(ctx), a.db, org)
		a.mu.Lock()
		if lookErr == nil && o.Deleted.IsZero() {
			a.people.orgs[org] = true
		} else {
			delete(a.people.orgs, org)
		}
		a.unsure = a.unsure || lookErr != nil && !errors.Is(lookErr, odometer.ErrNotFound)
		a.mu.Unlock()
	}
	return err
}

// userNow reads whether there is a user, where he is a member, and what he holds.
func (a *Accounts) userNow(ctx context.Context, id odometer.UserID) (list []odometer.Membership, granted []odometer.Grant, there bool, err error) {
	u, err := userOf(ctx, a.db, id)
	if errors.Is(err, odometer.ErrNotFound) || err == nil && !u.Deleted.IsZero() {
		return nil, nil, false, nil
	}
	if err == nil {
		list, err = memberships(ctx, a.db, `usr = ?`, string(id))
	}
	if err == nil {
		granted, err = grantsOf(ctx, a.db, `usr = ? AND (expires_us = 0 OR expires_us > ?)`, string(id), a.now())
	}
	return list, granted, err == nil, err
}

// lookAgain reads all people where something is not known.
func (a *Accounts) lookAgain(ctx context.Context) error {
	a.changing <- struct{}{}
	defer func() { <-a.changing }()
	a.mu.RLock()
	unsure := a.unsure
	a.mu.RUnlock()
	if !unsure {
		return nil
	}
	return a.loadPeople(ctx)
}

// now is the present in whole microseconds.
func (a *Accounts) now() int64 { return a.clock().UnixMicro() }

// maker returns an error where by may change nothing at all, whatever his roles.
func maker(by *odometer.Actor) error {
	if !by.May(odometer.ScopeAccount) {
		return fmt.Errorf("the scope %s is needed: %w", odometer.ScopeAccount, odometer.ErrForbidden)
	}
	return nil
}

// operator returns an error where by is not the administrator.
func operator(by *odometer.Caller) error {
	if !by.May(odometer.ScopeAdmin) {
		return fmt.Errorf("the scope %s is needed: %w", odometer.ScopeAdmin, odometer.ErrForbidden)
	}
	return nil
}

// checkVersion refuses to change what is no longer as it was seen.
func checkVersion(named, is int64) error {
	if named < 0 {
		return fmt.Errorf("what was named is no version, and it is at version %d: %w", is, odometer.ErrStale)
	}
	if named != odometer.AnyVersion && named != is {
		return fmt.Errorf("version %d was named, and it is at version %d: %w", named, is, odometer.ErrStale)
	}
	return nil
}

// may returns the organisation where by has a right in it. Who does not even see
// it is told that there is none.
func may(ctx context.Context, tx queryer, by *odometer.Caller, id odometer.OrgID, right odometer.Right) (o odometer.Organisation, err error) {
	o, err = orgOf(ctx, tx, id)
	if err != nil || by.May(odometer.ScopeAdmin) {
		return o, err
	}
	none := odometer.Organisation{}
	if !o.Deleted.IsZero() {
		return none, odometer.ErrNotFound
	}
	role, err := roleIn(ctx, tx, by, id)
	switch {
	case err != nil:
		return none, err
	case !role.Gives(odometer.SeeOrganisation):
		return none, odometer.ErrNotFound
	case !role.Gives(right):
		return none, fmt.Errorf("the role %s does not allow to %s: %w", role, right, odometer.ErrForbidden)
	}
	return o, nil
}

// roleIn returns what by is in an organisation now: a service that is bound to it
// sees what billing sees.
func roleIn(ctx context.Context, tx queryer, by *odometer.Caller, org odometer.OrgID) (role odometer.Role, err error) {
	switch {
	case by.User != "":
		err = tx.QueryRowContext(ctx, `SELECT role FROM account_memberships WHERE org = ? AND usr = ?`, string(org), string(by.User)).Scan(&role)
		if errors.Is(err, sql.ErrNoRows) {
			err = nil
		}
	case by.Org == org && org != "":
		role = odometer.RoleBilling
	}
	return role, err
}

const orgColumns = `id, name, version, created_us, updated_us, deleted_us`

func scanOrg(row scanner) (o odometer.Organisation, err error) {
	var created, updated, deleted int64
	err = row.Scan(&o.ID, &o.Name, &o.Version, &created, &updated, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	o.Created, o.Updated, o.Deleted = moment(created), moment(updated), moment(deleted)
	return o, err
}

func orgOf(ctx context.Context, db queryer, id odometer.OrgID) (odometer.Organisation, error) {
	return scanOrg(db.QueryRowContext(ctx, `SELECT `+orgColumns+` FROM account_organisations WHERE id = ?`, string(id)))
}

// CreateOrganisation creates an organisation, of which o says id and name, with a
// first owner unless that is "". Only the administrator does. An id that was ever
// one's is an [odometer.ErrConflict]: what was used under it stays its own.
func (a *Accounts) CreateOrganisation(ctx context.Context, by odometer.Actor, once odometer.Once, o odometer.Organisation, owner odometer.UserID) (made odometer.Organisation, err error) {
	err = errors.Join(odometer.ValidOrgID(o.ID), odometer.ValidName(o.Name))
	if err == nil {
		err = operator(&by.Caller)
	}
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			now := a.now()
			t.orgs = []odometer.OrgID{o.ID}
			made, err = repeatable(ctx, tx, now, &by, once, "organization:"+string(o.ID), func() (odometer.Organisation, error) {
				if _, err := orgOf(ctx, tx, o.ID); !errors.Is(err, odometer.ErrNotFound) {
					return o, cmpErr(err, fmt.Errorf("there is one with this id, or was: %w", odometer.ErrConflict))
				}
				o.Version, o.Created, o.Updated = 1, moment(now), moment(now)
				_, err := tx.ExecContext(ctx, `INSERT INTO account_organisations (`+orgColumns+`) VALUES (?, ?, 1, ?, ?, 0)`, string(o.ID), o.Name, now, now)
				if err == nil {
					err = note(ctx, tx, now, by, odometer.ActionOrgCreate, string(o.ID), "")
				}
				if err == nil && owner != "" {
					t.users = []odometer.UserID{owner}
					_, err = addMember(ctx, tx, now, &by, odometer.Membership{Org: o.ID, User: owner, Role: odometer.RoleOwner})
				}
				return o, err
			})
			return err
		})
	}
	if err != nil {
		return odometer.Organisation{}, fmt.Errorf("create organisation %s: %w", o.ID, err)
	}
	return made, nil
}

// cmpErr returns err where it is one, and otherwise the other.
func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// Organisation returns the organisation with an id. The administrator is shown one
// that is deleted, too.
func (a *Accounts) Organisation(ctx context.Context, by odometer.Caller, id odometer.OrgID) (odometer.Organisation, error) {
	o, err := may(ctx, a.db, &by, id, odometer.SeeOrganisation)
	if err != nil {
		return o, fmt.Errorf("organisation %s: %w", id, unavailable(err))
	}
	return o, nil
}

// Organisations returns at most limit organisations that by sees and that are not
// deleted, in the order of their ids, after the one named.
func (a *Accounts) Organisations(ctx context.Context, by odometer.Caller, after odometer.OrgID, limit int) ([]odometer.Organisation, error) {
	cond, args := `0`, []any{}
	switch {
	case by.May(odometer.ScopeAdmin):
		cond = `1`
	case by.User != "":
		cond, args = `id IN (SELECT org FROM account_memberships WHERE usr = ?)`, []any{string(by.User)}
	case by.Org != "":
		cond, args = `id = ?`, []any{string(by.Org)}
	}
	rows, err := a.db.QueryContext(ctx, `SELECT `+orgColumns+` FROM account_organisations WHERE deleted_us = 0 AND `+cond+` AND id > ? ORDER BY id LIMIT ?`,
		append(args, string(after), limit)...)
	if err != nil {
		return nil, fmt.Errorf("list organisations: %w", unavailable(err))
	}
	defer rows.Close()
	list := []odometer.Organisation{}
	for rows.Next() {
		o, err := scanOrg(rows)
		if err != nil {
			return nil, fmt.Errorf("list organisations: %w", err)
		}
		list = append(list, o)
	}
	return list, unavailable(rows.Err())
}

// UpdateOrganisation gives an organisation another name, where it is of the
// version named.
func (a *Accounts) UpdateOrganisation(ctx context.Context, by odometer.Actor, id odometer.OrgID, version int64, name string) (o odometer.Organisation, err error) {
	err = cmpErr(odometer.ValidName(name), maker(&by))
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, _ *touched) error {
			if o, err = may(ctx, tx, &by.Caller, id, odometer.ChangeOrganisation); err != nil {
				return err
			}
			if err = standing(o.Deleted.IsZero(), version, o.Version); err != nil {
				return err
			}
			now := a.now()
			o.Name, o.Version, o.Updated = name, o.Version+1, moment(now)
			if _, err := tx.ExecContext(ctx, `UPDATE account_organisations SET name = ?, version = ?, updated_us = ? WHERE id = ?`, name, o.Version, now, string(id)); err != nil {
				return err
			}
			return note(ctx, tx, now, by, odometer.ActionOrgUpdate, string(id), "name")
		})
	}
	if err != nil {
		return odometer.Organisation{}, fmt.Errorf("update organisation %s: %w", id, err)
	}
	return o, nil
}

// standing refuses to change what is deleted or no longer as it was seen.
func standing(there bool, named, is int64) error {
	if !there {
		return fmt.Errorf("it is deleted: %w", odometer.ErrConflict)
	}
	return checkVersion(named, is)
}

// DeleteOrganisation deletes an organisation, where it is of the version named:
// when it returns, nobody is its member and no token is bound to it any more. Its
// id stays, without a name, and so does what was used for it. Who deletes it is an
// owner or the administrator.
func (a *Accounts) DeleteOrganisation(ctx context.Context, by odometer.Actor, id odometer.OrgID, version int64) (o odometer.Organisation, err error) {
	var revoked []odometer.TokenID
	err = maker(&by)
	if err == nil {
		err = a.change(ctx, func(tx *sql.Tx, t *touched) error {
			if o, err = may(ctx, tx, &by.Caller, id, odometer.ManageOwners); err != nil {
				return err
			}
			if err = standing(o.Deleted.IsZero(), version, o.Version); err != nil {
				return err
			}
			members, err := memberships(ctx, tx, `org = ?`, string(id))
			if err != nil {
				return err
			}
			t.orgs = []odometer.OrgID{id}
			for _, m := range members {
				t.users = append(t.users, m.User)
			}
			now := a.now()
			o.Name, o.Version, o.Updated, o.Deleted = "", o.Version+1, moment(now), moment(now)
			for _, s := range []struct {
				query string
				args  []any
			}{
				{`UPDATE account_organisations SET name = '', version = ?, updated_us = ?, deleted_us = ? WHERE id = ?`, []any{o.Version, now, now, string(id)}},
				{`DELETE FROM account_memberships WHERE org = ?`, []any{string(id)}},
				{`DELETE FROM account_repeats WHERE object = ?`, []any{"organization:" + string(id)}},
			} {
				if _, err := tx.ExecContext(ctx, s.query, s.args...); err != nil {
					return err
				}
			}
			given, err := grantsOf(ctx, tx, `of_org = ?`, string(id))
			if err == nil {
				err = endGrants(ctx, tx, now, by, t, given, "the organisation whose it is is deleted")
			}
			if err != nil {
				return err
			}
			if err := note(ctx, tx, now, by, odometer.ActionOrgDelete, string(id), fmt.Sprintf("members: %d", len(members))); err != nil {
				return err
			}
			revoked, err = revokeAll(ctx, tx, now, by, `org = ?`, string(id))
			return err
		})
	}
	if err != nil {
		return odometer.Organisation{}, fmt.Errorf("delete organisation %s: %w", id, err)
	}
	a.drop(revoked...)
	return o, nil
}

// memberships returns those of a condition, by organisation and user.
func memberships(ctx context.Context, db lister, cond string, args ...any) ([]odometer.Membership, error) {
	rows, err := db.QueryContext(ctx, `SELECT `+memberColumns+` FROM account_memberships WHERE `+cond+` ORDER BY org, usr`, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []odometer.Membership{}
	for rows.Next() {
		m, err := scanMember(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return slices.Clip(list), rows.Err()
}

// lister is a database or a transaction.
type lister interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}
