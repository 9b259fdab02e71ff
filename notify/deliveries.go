package notify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"time"

	"example.org/odometer"
)

// Deliveries returns the deliveries of a channel that q asks for, the newest first. A
// channel that by may not see is absent.
func (n *Notifier) Deliveries(ctx context.Context, by odometer.Caller, q odometer.DeliveryQuery) ([]odometer.Delivery, error) {
	_, err := n.seen(ctx, &by, q.Channel)
	if err != nil {
		return nil, fmt.Errorf("deliveries of channel %s: %w", q.Channel, err)
	}
	list, err := n.deliveries(ctx, &q)
	if err != nil {
		return nil, fmt.Errorf("deliveries of channel %s: %w", q.Channel, unavailable(err))
	}
	return list, nil
}

func (n *Notifier) deliveries(ctx context.Context, q *odometer.DeliveryQuery) ([]odometer.Delivery, error) {
	cond, args := `d.channel = ?`, []any{string(q.Channel)}
	if q.State != "" {
		cond, args = cond+` AND d.state = ?`, append(args, string(q.State))
	}
	if q.Before != "" {
		cond, args = cond+` AND d.number < (SELECT number FROM notify_deliveries WHERE id = ?)`, append(args, string(q.Before))
	}
	limit := q.Limit
	if limit == 0 {
		limit = math.MaxInt32
	}
	rows, err := n.db.QueryContext(ctx, `SELECT d.id, d.channel, d.kind, d.subject, d.event, d.events, d.state, d.attempts, d.next_us, d.created_us, d.done_us, d.reason,
		coalesce(a.at_us, 0), coalesce(a.latency_us, 0), coalesce(a.status, 0), coalesce(a.answer, ''), coalesce(a.err, '')
		FROM notify_deliveries d LEFT JOIN notify_attempts a ON a.delivery = d.id AND a.number = (SELECT max(number) FROM notify_attempts WHERE delivery = d.id)
		WHERE `+cond+` ORDER BY d.number DESC LIMIT ?`, append(args, limit)...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []odometer.Delivery{}
	for rows.Next() {
		var d odometer.Delivery
		var next, created, ended, at, latency int64
		var reason string
		if err := rows.Scan(&d.ID, &d.Channel, &d.Kind, &d.Subject, &d.Event, &d.Events, &d.State, &d.Attempts, &next, &created, &ended, &reason,
			&at, &latency, &d.Last.Status, &d.Last.Answer, &d.Last.Err); err != nil {
			return nil, err
		}
		d.Next, d.Created, d.Done = moment(next), moment(created), moment(ended)
		d.Last.At, d.Last.Latency = moment(at), time.Duration(latency)*time.Microsecond
		if at == 0 { // given up with those before it
			d.Last.Err = reason
		}
		list = append(list, d)
	}
	return list, rows.Err()
}

// Attempts returns the attempts to deliver a message, the first first. What by may not
// see is absent.
func (n *Notifier) Attempts(ctx context.Context, by odometer.Caller, id odometer.DeliveryID) ([]odometer.Attempt, error) {
	list, err := n.attempts(ctx, &by, id)
	if err != nil {
		return nil, fmt.Errorf("attempts of delivery %s: %w", id, unavailable(err))
	}
	return list, nil
}

func (n *Notifier) attempts(ctx context.Context, by *odometer.Caller, id odometer.DeliveryID) ([]odometer.Attempt, error) {
	var channel odometer.ChannelID
	err := n.db.QueryRowContext(ctx, `SELECT channel FROM notify_deliveries WHERE id = ?`, string(id)).Scan(&channel)
	if errors.Is(err, sql.ErrNoRows) {
		err = odometer.ErrNotFound
	}
	if err == nil {
		_, err = n.seen(ctx, by, channel)
	}
	if err != nil {
		return nil, err
	}
	rows, err := n.db.QueryContext(ctx, `SELECT at_us, latency_us, status, answer, err FROM notify_attempts WHERE delivery = ? ORDER BY number`, string(id))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []odometer.Attempt{}
	for rows.Next() {
		var a odometer.Attempt
		var at, latency int64
		if err := rows.Scan(&at, &latency, &a.Status, &a.Answer, &a.Err); err != nil {
			return nil, err
		}
		a.At, a.Latency = moment(at), time.Duration(latency)*time.Microsecond
		list = append(list, a)
	}
	return list, rows.Err()
}

// Retry has a delivery that was given up sent again, or all of a channel where id is "",
// behind what waits, and returns how many. Their three days begin anew; their ids stay,
// so that a receiver that has one drops it. A delivery that is not dead is an
// [odometer.ErrConflict].
func (n *Notifier) Retry(ctx context.Context, by odometer.Actor, channel odometer.ChannelID, id odometer.DeliveryID) (sent int, err error) {
	for { // some at a time: others wait for each transaction
		some, err := n.retry(ctx, &by, channel, id)
		sent += some
		if err != nil {
			return sent, fmt.Errorf("send again to channel %s: %w", channel, err)
		}
		if some < followAtOnce || id != "" {
			break
		}
	}
	n.forget(channel)
	n.poke()
	return sent, nil
}

func (n *Notifier) retry(ctx context.Context, by *odometer.Actor, channel odometer.ChannelID, id odometer.DeliveryID) (sent int, err error) {
	now := n.now()
	err = n.transact(ctx, func(tx *sql.Tx) error {
		c, err := managed(ctx, tx, now, &by.Caller, channel)
		if err != nil {
			return err
		}
		list, err := dead(ctx, tx, &c, id)
		if err != nil {
			return err
		}
		for i := range list {
			d := &list[i]
			if _, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET number = (SELECT max(number) + 1 FROM notify_deliveries), state = 'waiting', next_us = ?, since_us = ?, done_us = 0, reason = ''
				WHERE id = ?`, now, now, string(d.id)); err != nil {
				return err
			}
			if err := advance(ctx, tx, c.ID, d.lane); err != nil {
				return err
			}
		}
		if sent = len(list); sent == 0 {
			return nil
		}
		what := fmt.Sprintf("%d deliveries", sent)
		if id != "" {
			what = string(id)
		}
		return n.note(ctx, tx, *by, odometer.ActionChannelRetry, string(c.ID), what)
	})
	if err != nil {
		return 0, err
	}
	return sent, nil
}

// dead returns what was given up of a channel: one delivery, or the first in their order.
func dead(ctx context.Context, tx *sql.Tx, c *odometer.Channel, id odometer.DeliveryID) ([]delivery, error) {
	if id == "" {
		return scanDeliveries(tx.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM notify_deliveries WHERE channel = ? AND state = 'dead' AND kind <> '' ORDER BY number LIMIT ?`, string(c.ID), followAtOnce))
	}
	var state odometer.DeliveryState
	err := tx.QueryRowContext(ctx, `SELECT state FROM notify_deliveries WHERE channel = ? AND id = ? AND kind <> ''`, string(c.ID), string(id)).Scan(&state)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, fmt.Errorf("delivery %s: %w", id, odometer.ErrNotFound)
	case err == nil && state != odometer.DeliveryDead:
		err = fmt.Errorf("delivery %s is %s, and only what was given up is sent again: %w", id, state, odometer.ErrConflict)
	}
	if err != nil {
		return nil, err
	}
	return scanDeliveries(tx.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM notify_deliveries WHERE id = ?`, string(id)))
}

// Test sends a message that says that it is a test, at once, and returns how that went.
// It is a delivery of its own, which is not repeated.
func (n *Notifier) Test(ctx context.Context, by odometer.Actor, id odometer.ChannelID) (odometer.Attempt, error) {
	a, err := n.test(ctx, by, id)
	if err != nil {
		return odometer.Attempt{}, fmt.Errorf("test channel %s: %w", id, err)
	}
	return a, nil
}

func (n *Notifier) test(ctx context.Context, by odometer.Actor, id odometer.ChannelID) (a odometer.Attempt, err error) {
	var j *job
	err = n.transact(ctx, func(tx *sql.Tx) error {
		now := n.now()
		c, err := managed(ctx, tx, now, &by.Caller, id)
		if err != nil {
			return err
		}
		d := delivery{subject: "test", events: 1, urgent: true, attempts: 1, event: newID("tst_", 16)}
		d.lane = "test " + d.event
		if err := put(ctx, tx, now, id, &d); err != nil {
			return err
		}
		// Nobody claims what is not due, and it is dead if this process is before it ends.
		if _, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET state = 'dead', head = 0, attempts = 1, next_us = 0, done_us = ?, reason = 'it was not sent to its end' WHERE id = ?`, now, string(d.id)); err != nil {
			return err
		}
		if j, err = n.job(ctx, tx, now, &c, d); err != nil {
			return err
		}
		return n.note(ctx, tx, by, odometer.ActionChannelTest, string(id), string(d.id))
	})
	if err != nil {
		return a, err
	}
	r := n.attempt(ctx, j)
	err = n.transact(context.WithoutCancel(ctx), func(tx *sql.Tx) error {
		if r.ok() {
			if _, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET state = 'delivered', reason = '' WHERE id = ?`, string(j.id)); err != nil {
				return err
			}
		}
		return addAttempt(ctx, tx, j.id, 1, &r.attempt)
	})
	return r.attempt, err
}
