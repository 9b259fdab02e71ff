package notify

import (
	"context"
	"database/sql"
	"time"

	"example.org/odometer"
)

// Count says of which attempts there were how many.
type Count struct {
	Kind      odometer.ChannelKind
	Delivered bool // false for one that failed
}

// Stats are figures about notifications.
type Stats struct {
	Attempts map[Count]int64 // since the process began
	Waiting  int             // deliveries that are not done, as of the last look, a few seconds ago
	Dead     int             // that were given up
	Oldest   time.Time       // when the oldest that waits was made, zero for none
	Open     int             // breakers that are open: receivers that do not answer
	Disabled int             // channels that the server disabled
	Missed   int             // webhooks of usage that were not told all that was booked, until they are changed
	Err      string          // why deliveries wait: the last transaction failed; "" when it went through
}

// Stats returns figures about notifications, without a look at the disk.
func (n *Notifier) Stats() Stats {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.figures
	s.Attempts, s.Err = map[Count]int64{}, n.failing
	for c, times := range n.counts {
		s.Attempts[c] = times
	}
	for _, e := range n.endpoints {
		if e.open() {
			s.Open++
		}
	}
	return s
}

const (
	// countEvery is how often what waits is counted, and trimEvery how often what is
	// done is taken out.
	countEvery = 5 * time.Second
	trimEvery  = time.Minute
	// keepDone is for how long what was delivered, or given up, can be looked at, and
	// keepMost how many of either a channel has at most: the newest. A channel that is
	// told a hundred entries a second would otherwise have a row for each.
	keepDone = 30 * 24 * time.Hour
	keepMost = 10_000
	// trimAtOnce bounds what one transaction takes out, some milliseconds.
	trimAtOnce = 2000
)

// keepUp counts, and takes out what need not be kept, now and then.
func (n *Notifier) keepUp(ctx context.Context, now int64) error {
	at := moment(now)
	if !at.Before(n.counted) {
		if err := n.count(ctx); err != nil {
			return unavailable(err)
		}
		n.counted = at.Add(countEvery)
	}
	if at.Before(n.trimmed) {
		return nil
	}
	list, err := channels(ctx, n.db, now, `ORDER BY id`)
	if err != nil {
		return unavailable(err)
	}
	for i := range list {
		for _, state := range []odometer.DeliveryState{odometer.DeliveryDelivered, odometer.DeliveryDead} {
			if err := n.trim(ctx, now, list[i].ID, state); err != nil {
				return err
			}
		}
	}
	n.trimmed = at.Add(trimEvery)
	return nil
}

func (n *Notifier) count(ctx context.Context) error {
	var s Stats
	var oldest int64
	err := n.db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM notify_deliveries WHERE state = 'waiting'), (SELECT count(*) FROM notify_deliveries WHERE state = 'dead' AND kind <> ''),
		(SELECT coalesce(min(created_us), 0) FROM notify_deliveries WHERE state = 'waiting'), (SELECT count(*) FROM notify_channels WHERE problem <> '' AND enabled = 0),
		(SELECT count(*) FROM notify_channels WHERE problem <> '' AND enabled = 1)`).Scan(&s.Waiting, &s.Dead, &oldest, &s.Disabled, &s.Missed)
	if err != nil {
		return err
	}
	s.Oldest = moment(oldest)
	n.mu.Lock()
	n.figures = s
	n.mu.Unlock()
	return nil
}

// trim takes out what a channel need not keep of what came to an end: what is old, and
// what is more than it has at most.
func (n *Notifier) trim(ctx context.Context, now int64, channel odometer.ChannelID, state odometer.DeliveryState) error {
	for {
		rows, err := n.db.QueryContext(ctx, `SELECT id FROM (SELECT id, number, done_us FROM notify_deliveries WHERE channel = ? AND state = ? ORDER BY number LIMIT ?) d
			WHERE done_us <= ? OR number <= coalesce((SELECT number FROM notify_deliveries WHERE channel = ? AND state = ? ORDER BY number DESC LIMIT 1 OFFSET ?), -1)`,
			string(channel), string(state), trimAtOnce, now-keepDone.Microseconds(), string(channel), string(state), n.keepMost)
		if err != nil {
			return unavailable(err)
		}
		ids, err := texts(rows)
		if err != nil || len(ids) == 0 {
			return unavailable(err)
		}
		err = n.transact(ctx, func(tx *sql.Tx) error {
			for _, id := range ids {
				if _, err := tx.ExecContext(ctx, `DELETE FROM notify_attempts WHERE delivery = ?`, id); err != nil {
					return err
				}
				if _, err := tx.ExecContext(ctx, `DELETE FROM notify_deliveries WHERE id = ? AND state = ?`, id, string(state)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(ids) < trimAtOnce {
			return err
		}
	}
}

// texts reads a column.
func texts(rows *sql.Rows) (list []string, err error) {
	defer rows.Close()
	for rows.Next() {
		var s string
		if err := rows.Scan(&s); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, rows.Err()
}
