package notify

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"example.org/odometer"
)

const (
	// stormMost changes for one channel within stormTime are told one by one; where
	// there are more, they are told together, once in stormTime: nobody reads more
	// messages than one in half a second, and ten seconds late he reads the first.
	stormMost = 20
	stormTime = 10 * time.Second
	// digestMost bounds the changes that one message tells: some 100 KiB of text, and a
	// fifth of what an Alertmanager takes in a second.
	digestMost = 500
)

// job is a delivery that was claimed, with all that the attempt needs.
type job struct {
	delivery
	channel odometer.Channel
	url     string
	sign    []string // secrets of a webhook, the newest first
	bearer  string
	broken  error // why it cannot be tried
}

// due is what may be claimed of a channel.
type due struct {
	id   odometer.ChannelID
	next int64
}

// dues returns for each channel that is enabled when its next delivery is due.
func dues(ctx context.Context, db querier) (list []due, err error) {
	rows, err := db.QueryContext(ctx, `SELECT d.channel, min(d.next_us) FROM notify_deliveries d JOIN notify_channels c ON c.id = d.channel
		WHERE d.state = 'waiting' AND d.head = 1 AND c.enabled = 1 GROUP BY d.channel ORDER BY 2`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d due
		if err := rows.Scan(&d.id, &d.next); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, rows.Err()
}

// claims takes the deliveries that are due and for which there is place, and says when
// to look again, zero for after the next news or result.
func (n *Notifier) claims(ctx context.Context, tx *sql.Tx, now int64, list []due) (jobs []*job, again time.Time, err error) {
	at := moment(now)
	sooner := func(t time.Time) { again = earlier(again, t) }
	flight, holders := n.inFlight()
	for _, d := range list {
		if d.next > now {
			sooner(moment(d.next))
			continue
		}
		c, err := channel(ctx, tx, now, d.id)
		if err != nil {
			return nil, again, err
		}
		n.mu.Lock()
		e := n.endpointOf(&c)
		most, later := e.may(at)
		last := e.last
		n.mu.Unlock()
		sooner(later)
		most = min(most, maxFlight-flight)
		if c.Holder != (odometer.Bound{}) { // the operator knows what he does
			most = min(most, holderAtOnce-holders[c.Holder])
		}
		if most <= 0 {
			continue
		}
		taken, later, err := n.claim(ctx, tx, now, &c, last, most)
		if err != nil {
			return nil, again, err
		}
		sooner(later)
		flight, holders[c.Holder] = flight+len(taken), holders[c.Holder]+len(taken)
		jobs = append(jobs, taken...)
	}
	return jobs, again, nil
}

// inFlight counts the attempts that are under way, and those of each holder.
func (n *Notifier) inFlight() (all int, holders map[odometer.Bound]int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	holders = map[odometer.Bound]int{}
	for _, e := range n.endpoints {
		all += len(e.flying)
		holders[e.holder] += len(e.flying)
	}
	return all, holders
}

const deliveryColumns = `number, id, kind, lane, subject, event, events, urgent, attempts, since_us, body`

func scanDeliveries(rows *sql.Rows, err error) (list []delivery, _ error) {
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var d delivery
		if err := rows.Scan(&d.number, &d.id, &d.kind, &d.lane, &d.subject, &d.event, &d.events, &d.urgent, &d.attempts, &d.since, &d.body); err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, rows.Err()
}

// claim takes at most so many deliveries of a channel: it begins an attempt of each,
// and the next one is due only when this one's time is over. Until then no other server
// makes one, nor this one after a crash.
func (n *Notifier) claim(ctx context.Context, tx *sql.Tx, now int64, c *odometer.Channel, last grouped, most int) (jobs []*job, again time.Time, err error) {
	heads, err := scanDeliveries(tx.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM notify_deliveries
		WHERE channel = ? AND state = 'waiting' AND head = 1 AND next_us <= ? ORDER BY next_us, number LIMIT ?`, string(c.ID), now, most))
	if err != nil {
		return nil, again, err
	}
	for _, d := range heads {
		if n.flying(c.ID, d.id) { // its result is late and comes first
			continue
		}
		if groups(c.Kind) && !d.urgent && d.attempts == 0 {
			held, err := n.digest(ctx, tx, now, c, last, &d)
			if err != nil {
				return nil, again, err
			}
			if !held.IsZero() {
				if _, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET next_us = ? WHERE id = ?`, held.UnixMicro(), string(d.id)); err != nil {
					return nil, again, err
				}
				again = held
				continue
			}
		}
		d.attempts++
		if _, err := tx.ExecContext(ctx, `UPDATE notify_deliveries SET attempts = ?, next_us = ? WHERE id = ?`, d.attempts, now+claimFor.Microseconds(), string(d.id)); err != nil {
			return nil, again, err
		}
		j, err := n.job(ctx, tx, now, c, d)
		if err != nil {
			return nil, again, err
		}
		jobs = append(jobs, j)
	}
	return jobs, again, nil
}

// job adds what the attempt needs beside the delivery.
func (n *Notifier) job(ctx context.Context, tx *sql.Tx, now int64, c *odometer.Channel, d delivery) (*job, error) {
	j := &job{delivery: d, channel: *c, url: c.URL}
	for purpose, take := range map[string]func([]string){
		purposeSign:   func(list []string) { j.sign = list },
		purposeURL:    func(list []string) { j.url = list[0] },
		purposeBearer: func(list []string) { j.bearer = list[0] },
	} {
		list, err := n.seal.secrets(ctx, tx, c.ID, purpose, now)
		switch {
		case errors.Is(err, errSealed):
			j.broken = err
		case err != nil:
			return nil, err
		case len(list) > 0:
			take(list)
		}
	}
	return j, nil
}

// digest makes one message of those of a lane that nobody tried to tell yet, where there
// are many: the first becomes it, under its own id, and the others are in it. In a storm
// it waits until as long after the message before as a storm's measure is.
func (n *Notifier) digest(ctx context.Context, tx *sql.Tx, now int64, c *odometer.Channel, last grouped, head *delivery) (held time.Time, err error) {
	var recent, waiting int
	if err := tx.QueryRowContext(ctx, `SELECT
		(SELECT coalesce(sum(events), 0) FROM notify_deliveries WHERE channel = ? AND created_us > ? AND urgent = 0 AND kind <> ''),
		(SELECT count(*) FROM notify_deliveries WHERE channel = ? AND lane = ? AND state = 'waiting')`,
		string(c.ID), now-stormTime.Microseconds(), string(c.ID), head.lane).Scan(&recent, &waiting); err != nil {
		return held, err
	}
	if c.Kind != odometer.ChannelAlertmanager { // which takes a list, and groups by itself
		at, next := moment(now), last.at.Add(stormTime)
		storm := recent > stormMost || last.events > 1 && at.Before(next.Add(stormTime))
		switch {
		case storm && at.Before(next):
			return next, nil
		case !storm && waiting <= stormMost:
			return held, nil
		}
	}
	list, err := scanDeliveries(tx.QueryContext(ctx, `SELECT `+deliveryColumns+` FROM notify_deliveries
		WHERE channel = ? AND lane = ? AND state = 'waiting' AND attempts = 0 ORDER BY number LIMIT ?`, string(c.ID), head.lane, digestMost))
	if err == nil && c.Kind == odometer.ChannelSlack {
		var fit int
		fit, err = slackFits(list)
		list = list[:fit]
	}
	if err != nil || len(list) < 2 {
		return held, err
	}
	bodies, events := []string{}, 0
	for i := range list {
		bodies, events = append(bodies, list[i].body), events+list[i].events
		if list[i].id == head.id {
			continue
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM notify_deliveries WHERE id = ?`, string(list[i].id)); err != nil {
			return held, err
		}
	}
	head.body, head.events, head.subject = strings.Join(bodies, "\n"), events, fmt.Sprintf("%d changes", events)
	_, err = tx.ExecContext(ctx, `UPDATE notify_deliveries SET body = ?, events = ?, subject = ? WHERE id = ?`, head.body, head.events, head.subject, string(head.id))
	return held, err
}
