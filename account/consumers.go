package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"

	"example.org/odometer"
)

// MaxConsumers bounds the consumers that are valid at a time: each has its place in
// the topic.
const MaxConsumers = 1000

// loadConsumers reads the keys that are not revoked.
func (a *Accounts) loadConsumers(ctx context.Context) error {
	list, err := a.Consumers(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		if c := &list[i]; c.Revoked.IsZero() {
			a.keys[c.Key] = odometer.Peer{Consumer: c.ID}
		}
	}
	return nil
}

// CreateConsumer lets who has a key read the topic: all of it, or the entries of
// one organisation. The consumer and the line of the audit log are durable when it
// returns.
//
// The error wraps [odometer.ErrInvalid] where name, organisation or key will not
// do, [odometer.ErrConflict] where the key is known, or was, or where
// [MaxConsumers] are valid, and [odometer.ErrUnavailable] where it cannot be
// written.
func (a *Accounts) CreateConsumer(ctx context.Context, by odometer.Actor, name string, org odometer.OrgID, key odometer.Key) (c odometer.Consumer, err error) {
	c = odometer.Consumer{
		ID: odometer.ConsumerID("con_" + newID(a.random)), Name: name, Org: org, Key: key,
		Created: a.clock().UTC().Truncate(time.Microsecond), CreatedBy: by.String(),
	}
	err = errors.Join(odometer.ValidTokenName(name), odometer.ValidKey(string(key)))
	if err == nil && !nkeys.IsValidPublicUserKey(string(key)) {
		err = fmt.Errorf("%s is no public key: its checksum is wrong: %w", key, odometer.ErrInvalid)
	}
	if org != "" {
		err = errors.Join(err, odometer.ValidID("org", string(org)))
	}
	took := false
	if err == nil {
		err = a.transact(ctx, func(tx *sql.Tx) error {
			if err := createConsumer(ctx, tx, by, &c); err != nil {
				return err
			}
			took = true // before the commit: it cannot be revoked until then
			a.setKey(c.Key, odometer.Peer{Consumer: c.ID})
			return nil
		})
	}
	if err != nil {
		if took { // it may be in the file, and then it is to be revoked
			a.dropKey(c.Key)
		}
		return odometer.Consumer{}, fmt.Errorf("create a consumer: %w", err)
	}
	return c, nil
}

func createConsumer(ctx context.Context, tx *sql.Tx, by odometer.Actor, c *odometer.Consumer) error {
	var known, valid int
	err := tx.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM account_consumers WHERE public_key = ?) + (SELECT count(*) FROM account_hosts WHERE public_key = ?),
		(SELECT count(*) FROM account_consumers WHERE revoked_us = 0)`, string(c.Key), string(c.Key)).Scan(&known, &valid)
	switch {
	case err != nil:
		return err
	case known > 0:
		return fmt.Errorf("the key is or was another's: %w", odometer.ErrConflict)
	case valid >= MaxConsumers:
		return fmt.Errorf("%d consumers are valid, and more there cannot be: %w", MaxConsumers, odometer.ErrConflict)
	}
	if _, err := tx.ExecContext(ctx, `INSERT INTO account_consumers (number, id, name, org, public_key, created_us, created_by, revoked_us)
		VALUES ((SELECT coalesce(max(number), 0) + 1 FROM account_consumers), ?, ?, ?, ?, ?, ?, 0)`,
		string(c.ID), c.Name, string(c.Org), string(c.Key), micros(c.Created), c.CreatedBy); err != nil {
		return err
	}
	what := "all entries"
	if c.Org != "" {
		what = "entries of " + string(c.Org)
	}
	return note(ctx, tx, micros(c.Created), by, odometer.ActionConsumerCreate, string(c.ID), fmt.Sprintf("%s: %s, key %s", c.Name, what, c.Key))
}

// RevokeConsumer revokes a consumer for good and returns it. When it returns nil
// its key is not known any more, nor after a crash; whoever is connected by it is
// for the caller to disconnect. Again it changes nothing. The error wraps
// [odometer.ErrNotFound] where there is no such consumer; after any other one it
// may be revoked or not, and is to be revoked again.
func (a *Accounts) RevokeConsumer(ctx context.Context, by odometer.Actor, id odometer.ConsumerID) (c odometer.Consumer, err error) {
	err = a.transact(ctx, func(tx *sql.Tx) error {
		c, err = scanConsumer(tx.QueryRowContext(ctx, `SELECT `+consumerColumns+` FROM account_consumers WHERE id = ?`, string(id)))
		if err != nil || !c.Revoked.IsZero() {
			return err
		}
		c.Revoked = a.clock().UTC().Truncate(time.Microsecond)
		if _, err := tx.ExecContext(ctx, `UPDATE account_consumers SET revoked_us = ? WHERE id = ?`, micros(c.Revoked), string(id)); err != nil {
			return err
		}
		return note(ctx, tx, micros(c.Revoked), by, odometer.ActionConsumerRevoke, string(id), c.Name)
	})
	if err != nil {
		return odometer.Consumer{}, fmt.Errorf("revoke consumer %s: %w", id, err)
	}
	a.dropKey(c.Key)
	return c, nil
}

// Consumers returns all consumers in the order in which they were created, those
// that are revoked too.
func (a *Accounts) Consumers(ctx context.Context) ([]odometer.Consumer, error) {
	rows, err := a.db.QueryContext(ctx, `SELECT `+consumerColumns+` FROM account_consumers ORDER BY number`)
	if err != nil {
		return nil, fmt.Errorf("list consumers: %w", unavailable(err))
	}
	defer rows.Close()
	list := []odometer.Consumer{}
	for rows.Next() {
		c, err := scanConsumer(rows)
		if err != nil {
			return nil, fmt.Errorf("list consumers: %w", err)
		}
		list = append(list, c)
	}
	return list, unavailable(rows.Err())
}

const consumerColumns = `id, name, org, public_key, created_us, created_by, revoked_us`

func scanConsumer(row scanner) (c odometer.Consumer, err error) {
	var created, revoked int64
	err = row.Scan(&c.ID, &c.Name, &c.Org, &c.Key, &created, &c.CreatedBy, &revoked)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	c.Created, c.Revoked = moment(created), moment(revoked)
	return c, err
}
