package account

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"example.org/odometer"
)

//go:embed registered.sql
var registeredSchema string

// MaxRegistered bounds the instances of which something is kept: ten times the largest
// fleet that one server is made for.
const MaxRegistered = 1_000_000

const registeredColumns = `instance, name, labels, of_usr, of_org, version, created_us, updated_us, deleted_us`

func scanRegistered(row scanner) (r odometer.Registered, err error) {
	var labels string
	var created, updated, deleted int64
	err = row.Scan(&r.Instance, &r.Name, &labels, &r.Of.User, &r.Of.Org, &r.Version, &created, &updated, &deleted)
	if errors.Is(err, sql.ErrNoRows) {
		return r, odometer.ErrNotFound
	}
	if err == nil {
		err = json.Unmarshal([]byte(labels), &r.Labels)
	}
	r.Created, r.Updated, r.Deleted = moment(created), moment(updated), moment(deleted)
	return r, err
}

func registeredOf(ctx context.Context, db queryer, id odometer.InstanceID) (odometer.Registered, error) {
	return scanRegistered(db.QueryRowContext(ctx, `SELECT `+registeredColumns+` FROM account_instances WHERE instance = ?`, string(id)))
}

func validRegistered(r *odometer.Registered) error {
	return errors.Join(odometer.ValidID("instance", string(r.Instance)), odometer.ValidRegisteredName(r.Name), odometer.ValidLabels(r.Labels))
}

// Register keeps an instance of which nobody has told yet, with a name and labels. Only
// the administrator does. One that is kept already is an [odometer.ErrConflict]; one
// that was deleted is kept again.
func (a *Accounts) Register(ctx context.Context, by odometer.Actor, once odometer.Once, r odometer.Registered) (made odometer.Registered, err error) {
	if err = cmpErr(validRegistered(&r), operator(&by.Caller)); err == nil {
		err = a.change(ctx, func(tx *sql.Tx, _ *touched) error {
			now := a.now()
			made, err = repeatable(ctx, tx, now, &by, once, "instance:"+string(r.Instance), func() (odometer.Registered, error) {
				is, err := registeredOf(ctx, tx, r.Instance)
				switch {
				case err == nil && is.Deleted.IsZero():
					return r, fmt.Errorf("it is kept already: %w", odometer.ErrConflict)
				case err != nil && !errors.Is(err, odometer.ErrNotFound):
					return r, err
				}
				r.Version, r.Of = is.Version+1, odometer.Owner{}
				return saveRegistered(ctx, tx, now, by, odometer.ActionInstanceCreate, r)
			})
			return err
		})
	}
	if err != nil {
		return odometer.Registered{}, fmt.Errorf("create instance %s: %w", r.Instance, err)
	}
	return made, nil
}

// SetRegistered gives an instance another name and other labels, where what is kept of
// it is of the version named. Where nothing is kept yet, [odometer.AnyVersion] makes the
// beginning. Owns says whose it is recorded to be: its owner does, who may give grants
// for the organisation whose it is, who holds a grant of level manager or owner, and the
// administrator.
func (a *Accounts) SetRegistered(ctx context.Context, by odometer.Actor, owns odometer.Ownership, version int64, r odometer.Registered) (set odometer.Registered, err error) {
	r.Instance = owns.Instance
	if err = cmpErr(validRegistered(&r), maker(&by)); err == nil {
		err = a.change(ctx, func(tx *sql.Tx, _ *touched) error {
			now := a.now()
			p, err := powerOver(ctx, tx, now, &by.Caller, &owns)
			if err == nil {
				err = p.names()
			}
			if err != nil {
				return err
			}
			is, err := registeredOf(ctx, tx, r.Instance)
			if err != nil && !errors.Is(err, odometer.ErrNotFound) {
				return err
			}
			seen := is.Version
			if !is.Deleted.IsZero() {
				seen = 0
			}
			if version != odometer.AnyVersion && seen == 0 {
				return fmt.Errorf("nothing is kept of it: %w", odometer.ErrStale)
			}
			if err := checkVersion(version, seen); err != nil {
				return err
			}
			r.Version, r.Created, r.Of = is.Version+1, is.Created, odometer.Owner{}
			if !p.operator {
				r.Of = owns.Owner
			}
			set, err = saveRegistered(ctx, tx, now, by, odometer.ActionInstanceUpdate, r)
			return err
		})
	}
	if err != nil {
		return odometer.Registered{}, fmt.Errorf("change instance %s: %w", owns.Instance, err)
	}
	return set, nil
}

// names refuses to change what is kept of an instance.
func (p *power) names() error {
	switch {
	case p.operator, p.owner, p.holds != nil && (p.holds.Level == odometer.LevelOwner || p.holds.Level == odometer.LevelManager):
		return nil
	case p.sees || p.holds != nil:
		return fmt.Errorf("its owner names it, who may give grants on it, and who holds one of level %s: %w", odometer.LevelManager, odometer.ErrForbidden)
	}
	return odometer.ErrNotFound
}

// DeleteRegistered erases the name and the labels of an instance, where what is kept of
// it is of the version named. Its usage and whose it is stay. Only the administrator
// does.
func (a *Accounts) DeleteRegistered(ctx context.Context, by odometer.Actor, id odometer.InstanceID, version int64) (gone odometer.Registered, err error) {
	if err = operator(&by.Caller); err == nil {
		err = a.change(ctx, func(tx *sql.Tx, _ *touched) error {
			now := a.now()
			is, err := registeredOf(ctx, tx, id)
			if err == nil && !is.Deleted.IsZero() {
				err = odometer.ErrNotFound
			}
			if err == nil {
				err = checkVersion(version, is.Version)
			}
			if err != nil {
				return err
			}
			is.Name, is.Labels, is.Version, is.Deleted = "", nil, is.Version+1, moment(now)
			gone, err = saveRegistered(ctx, tx, now, by, odometer.ActionInstanceDelete, is)
			return err
		})
	}
	if err != nil {
		return odometer.Registered{}, fmt.Errorf("delete instance %s: %w", id, err)
	}
	return gone, nil
}

// saveRegistered writes what is kept of an instance from now on, and the line of the
// audit log.
func saveRegistered(ctx context.Context, tx *sql.Tx, now int64, by odometer.Actor, action odometer.Action, r odometer.Registered) (odometer.Registered, error) {
	if len(r.Labels) == 0 {
		r.Labels = nil
	}
	if r.Created.IsZero() {
		r.Created = moment(now)
	}
	r.Updated = moment(now)
	labels, err := json.Marshal(r.Labels)
	if err != nil {
		return r, err
	}
	if r.Version == 1 {
		var n int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM account_instances`).Scan(&n); err != nil {
			return r, err
		}
		if n >= MaxRegistered {
			return r, fmt.Errorf("%d instances are kept, and more there cannot be: %w", n, odometer.ErrConflict)
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO account_instances (`+registeredColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (instance) DO UPDATE SET name = excluded.name, labels = excluded.labels, of_usr = excluded.of_usr, of_org = excluded.of_org, version = excluded.version, created_us = excluded.created_us,
			updated_us = excluded.updated_us, deleted_us = excluded.deleted_us`,
		string(r.Instance), r.Name, string(labels), string(r.Of.User), string(r.Of.Org), r.Version, micros(r.Created), now, micros(r.Deleted))
	if err == nil {
		_, err = tx.ExecContext(ctx, `DELETE FROM account_instance_labels WHERE instance = ?`, string(r.Instance))
	}
	for _, key := range slices.Sorted(maps.Keys(r.Labels)) {
		if err == nil {
			_, err = tx.ExecContext(ctx, `INSERT INTO account_instance_labels (label, instance) VALUES (?, ?)`, key+":"+r.Labels[key], string(r.Instance))
		}
	}
	if err == nil && action == odometer.ActionInstanceDelete { // what was answered has the name
		_, err = tx.ExecContext(ctx, `DELETE FROM account_repeats WHERE object = ?`, "instance:"+string(r.Instance))
	}
	if err == nil {
		err = note(ctx, tx, now, by, action, string(r.Instance), "")
	}
	return r, err
}

// Registered returns what is kept of those of some instances of which something is.
func (a *Accounts) Registered(ctx context.Context, ids []odometer.InstanceID) (map[odometer.InstanceID]odometer.Registered, error) {
	kept := make(map[odometer.InstanceID]odometer.Registered)
	for some := range slices.Chunk(ids, 500) {
		args := make([]any, len(some))
		for i, id := range some {
			args[i] = string(id)
		}
		list, err := a.findRegistered(ctx, `instance IN (?`+strings.Repeat(`, ?`, len(some)-1)+`)`, args...)
		if err != nil {
			return nil, err
		}
		for _, r := range list {
			kept[r.Instance] = r
		}
	}
	return kept, nil
}

// FindRegistered returns at most limit instances that are kept, in the order of their
// ids, after the one named: those with a name, and with a label, key:value, where these
// are not "".
func (a *Accounts) FindRegistered(ctx context.Context, after odometer.InstanceID, name, label string, limit int) ([]odometer.Registered, error) {
	return a.findRegistered(ctx, `instance > ? AND (? = '' OR name = ?) AND (? = '' OR instance IN (SELECT instance FROM account_instance_labels WHERE label = ?))
		ORDER BY instance LIMIT ?`, string(after), name, name, label, label, limit)
}

func (a *Accounts) findRegistered(ctx context.Context, cond string, args ...any) ([]odometer.Registered, error) {
	rows, err := a.db.QueryContext(ctx, `SELECT `+registeredColumns+` FROM account_instances WHERE deleted_us = 0 AND `+cond, args...)
	if err != nil {
		return nil, fmt.Errorf("list what is kept of instances: %w", unavailable(err))
	}
	defer rows.Close()
	var list []odometer.Registered
	for rows.Next() {
		r, err := scanRegistered(rows)
		if err != nil {
			return nil, fmt.Errorf("list what is kept of instances: %w", err)
		}
		list = append(list, r)
	}
	return list, unavailable(rows.Err())
}
