package notify

import (
	"context"
	"database/sql"

	"example.org/odometer"
)

// record puts on record what an attempt came to, and what becomes of its delivery: it is
// delivered, waits for the next attempt, or is given up. It changes nothing where the
// claim is another's meanwhile, or the channel is gone.
func (n *Notifier) record(ctx context.Context, tx *sql.Tx, now int64, r *result) error {
	j := r.job
	var attempts int
	var since int64
	rows, err := tx.QueryContext(ctx, `SELECT attempts, since_us FROM notify_deliveries WHERE id = ? AND state = 'waiting'`, string(j.id))
	if err != nil {
		return err
	}
	there := rows.Next()
	if there {
		err = rows.Scan(&attempts, &since)
	}
	if err2 := rows.Close(); err == nil {
		err = err2
	}
	if err != nil || !there {
		return err
	}
	if err := addAttempt(ctx, tx, j.id, j.attempts, &r.attempt); err != nil {
		return err
	}
	if attempts != j.attempts {
		return nil
	}
	switch {
	case r.ok():
		if err := done(ctx, tx, now, &j.channel, &j.delivery, odometer.DeliveryDelivered, ""); err != nil {
			return err
		}
		if r.closed { // it is back: what waits need not wait longer
			return n.hurry(ctx, tx, now, j.channel.ID)
		}
		return nil
	case r.cancelled: // the server ends: it counts for nothing, and is made again at the next start
		_, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET next_us = ? WHERE id = ?`, now, string(j.id))
		return err
	case r.gone:
		if _, err := tx.ExecContext(ctx, `UPDATE notify_channels SET enabled = 0, problem = ?, version = version + 1, changed_us = ? WHERE id = ?`,
			"the receiver answered 410: it is gone", now, string(j.channel.ID)); err != nil {
			return err
		}
		n.logger.Warn("a channel was disabled: its receiver answered that it is gone", "channel", j.channel.ID)
	}
	end := since + GiveUpAfter.Microseconds()
	if now >= end {
		if err := done(ctx, tx, now, &j.channel, &j.delivery, odometer.DeliveryDead, overdue(r.attempt.Err)); err != nil {
			return err
		}
		return n.giveUp(ctx, tx, now, &j.channel, r.attempt.Err)
	}
	wait := retryAfter(j.attempts)
	if r.wait > 0 {
		wait = r.wait
	}
	_, err = tx.ExecContext(ctx, `UPDATE notify_deliveries SET next_us = ? WHERE id = ?`, min(now+wait.Microseconds(), end), string(j.id))
	return err
}

func addAttempt(ctx context.Context, tx *sql.Tx, id odometer.DeliveryID, number int, a *odometer.Attempt) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO notify_attempts (delivery, number, at_us, latency_us, status, answer, err) VALUES (?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (delivery, number) DO NOTHING`, string(id), number, a.At.UnixMicro(), a.Latency.Microseconds(), a.Status, a.Answer, a.Err)
	return err
}

// done ends a delivery, and has the next of its lane begin. What was delivered need not be
// kept; what is dead may be sent again.
func done(ctx context.Context, tx *sql.Tx, now int64, c *odometer.Channel, d *delivery, state odometer.DeliveryState, reason string) error {
	if _, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET state = ?, head = 0, next_us = 0, done_us = ?, reason = ?,
		body = CASE WHEN ? = 'delivered' THEN '' ELSE body END WHERE id = ?`, string(state), now, reason, string(state), string(d.id)); err != nil {
		return err
	}
	return advance(ctx, tx, c.ID, d.lane)
}

// advance makes the first of a lane that waits its head.
func advance(ctx context.Context, tx *sql.Tx, channel odometer.ChannelID, lane string) error {
	_, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET head = 1 WHERE number =
		(SELECT min(number) FROM notify_deliveries WHERE channel = ? AND lane = ? AND state = 'waiting')`, string(channel), lane)
	return err
}

// hurry has all that waits for its next attempt at a receiver that is back attempted now.
// What is claimed keeps its time.
func (n *Notifier) hurry(ctx context.Context, tx *sql.Tx, now int64, channel odometer.ChannelID) error {
	cond, args := ``, []any{now, string(channel), now}
	n.mu.Lock()
	if e := n.endpoints[channel]; e != nil {
		for id := range e.flying {
			cond, args = cond+` AND id <> ?`, append(args, string(id))
		}
	}
	n.mu.Unlock()
	_, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET next_us = ? WHERE channel = ? AND state = 'waiting' AND head = 1 AND next_us > ?`+cond, args...)
	return err
}

// giveUp gives up what waits for a receiver longer than it is tried: while a breaker is
// open one attempt speaks for all. What is too much for one transaction goes with the next
// attempt.
func (n *Notifier) giveUp(ctx context.Context, tx *sql.Tx, now int64, c *odometer.Channel, why string) error {
	list, err := scanDeliveries(tx.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM notify_deliveries WHERE channel = ? AND state = 'waiting' AND since_us <= ? ORDER BY number LIMIT ?`,
		string(c.ID), now-GiveUpAfter.Microseconds(), followAtOnce))
	if err != nil {
		return err
	}
	for i := range list {
		if n.flying(c.ID, list[i].id) {
			continue
		}
		if err := done(ctx, tx, now, c, &list[i], odometer.DeliveryDead, overdue(why)); err != nil {
			return err
		}
	}
	n.logger.Warn("notifications were given up; list them as dead and send them again when the receiver is back", "channel", c.ID, "deliveries", len(list)+1, "err", why)
	return nil
}
