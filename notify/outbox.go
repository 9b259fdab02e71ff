package notify

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
)

const (
	// followAtOnce is how many changes one transaction takes up, some milliseconds.
	followAtOnce = 500
	// usageWaiting is how many entries of usage wait in the outbox for one webhook: the
	// ledger is their outbox, and this what one round of attempts and the next need.
	usageWaiting = 100
	// usagePause is how long it is between two looks at the ledger, so that those for many
	// webhooks cost little while much is booked.
	usagePause = 100 * time.Millisecond
	// usageKept is how often it is written up to where a webhook's holder saw nothing that
	// is his: what is read again after a crash costs less than a write for each commit.
	usageKept = time.Minute
)

// delivery is a row of the outbox.
type delivery struct {
	number   int64
	id       odometer.DeliveryID
	kind     odometer.EventKind
	lane     string
	subject  string
	event    string
	events   int
	urgent   bool
	attempts int
	since    int64
	body     string
}

// storedViolation is a violation as a body has it: its fields, whatever form it is published in.
type storedViolation odometer.Violation

// bodyOf writes a violation. A number that is none, which JSON does not have, is 0: nobody
// is told nothing for it.
func bodyOf(v *odometer.Violation) (string, error) {
	s := storedViolation(*v)
	for _, f := range []*float64{&s.Limit, &s.Before, &s.Value} {
		if !odometer.Finite(*f) {
			*f = 0
		}
	}
	text, err := json.Marshal(&s)
	return string(text), err
}

// violations reads the body of a delivery of violations: one or, of a digest, several.
func violations(body string) (list []odometer.Violation, err error) {
	for line := range strings.Lines(body) {
		var v storedViolation
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			return nil, fmt.Errorf("read what is to be told: %w", err)
		}
		list = append(list, odometer.Violation(v))
	}
	return list, nil
}

// subjectOf names what a violation is of, within which the order is kept.
func subjectOf(v *odometer.Violation) string {
	switch {
	case v.Instance != "":
		return string(v.Instance)
	case v.Owner.User != "":
		return "user " + string(v.Owner.User)
	}
	return "org " + string(v.Owner.Org)
}

// groups reports whether a channel may tell several changes in one message.
func groups(k odometer.ChannelKind) bool {
	return k == odometer.ChannelSlack || k == odometer.ChannelEmail || k == odometer.ChannelAlertmanager
}

// laneOf is what a change waits in line with: others of its subject, or, where a digest
// may be made of them, all of the channel that are not urgent.
func laneOf(k odometer.ChannelKind, v *odometer.Violation) string {
	if groups(k) && v.Action != odometer.ActionAlert {
		return "together"
	}
	return string(odometer.EventViolation) + " " + subjectOf(v)
}

// deliveryID is the id of what a webhook is told of an event, for ever: in a ledger that
// was restored from a backup, too, so that a receiver knows what it has. What others are
// told may go into a digest, and has an id of its own each time.
func deliveryID(channel odometer.ChannelID, kind odometer.EventKind, what string) odometer.DeliveryID {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s", channel, kind, what))
	return odometer.DeliveryID(idOf("dlv_", sum[:], 26))
}

// put adds a delivery at the end of the outbox, under a new id where it has none. It is
// told at once where nothing of its lane waits. What is there under its id is not told
// again.
func put(ctx context.Context, tx *sql.Tx, now int64, channel odometer.ChannelID, d *delivery) error {
	if d.id == "" {
		d.id = odometer.DeliveryID(newID("dlv_", 26))
	}
	_, err := tx.ExecContext(ctx, `INSERT INTO notify_deliveries (number, id, channel, kind, lane, subject, event, events, urgent, state, head, attempts, next_us, since_us, created_us, done_us, reason, body)
		VALUES ((SELECT coalesce(max(number), 0) + 1 FROM notify_deliveries), ?, ?, ?, ?, ?, ?, ?, ?, 'waiting',
			(SELECT count(*) FROM (SELECT 1 FROM notify_deliveries WHERE channel = ? AND lane = ? AND state = 'waiting' LIMIT 1) w) = 0, 0, ?, ?, ?, 0, '', ?) ON CONFLICT (id) DO NOTHING`,
		string(d.id), string(channel), string(d.kind), d.lane, d.subject, d.event, d.events, flag(d.urgent), string(channel), d.lane, now, now, now, d.body)
	return err
}

// news is what is to be taken up: changes after a number, and entries after cursors.
type news struct {
	from    uint64
	changes []odometer.Violation
	views   map[odometer.Bound]odometer.View // of holders of webhooks that are told violations
	usage   []usageNews
}

func (w *news) none() bool { return len(w.changes) == 0 && len(w.usage) == 0 }

// more reports whether there may be more at once.
func (w *news) more() bool { return len(w.changes) == followAtOnce || len(w.usage) > 0 }

// usageNews are entries for one webhook.
type usageNews struct {
	channel odometer.ChannelID
	after   string
	list    []odometer.Followed
	next    string
	missed  string // what of the ledger it can no longer be told, "" for nothing
}

// look reads what is new, before the transaction that takes it up: entries of usage only
// where that is asked for.
func (n *Notifier) look(ctx context.Context, usage bool) (w news, err error) {
	if n.o.Changes != nil {
		var text string
		if err := n.db.QueryRowContext(ctx, `SELECT value FROM notify_meta WHERE key = 'changes'`).Scan(&text); err != nil {
			return w, err
		}
		if w.from, err = strconv.ParseUint(text, 10, 64); err != nil {
			return w, fmt.Errorf("cursor of changes: %w", err)
		}
		if w.changes, err = n.o.Changes.ChangesAfter(ctx, w.from, followAtOnce); err != nil {
			return w, err
		}
	}
	if len(w.changes) > 0 {
		hooks, err := subscribed(ctx, n.db, n.now(), odometer.EventViolation)
		if err != nil {
			return w, err
		}
		w.views = map[odometer.Bound]odometer.View{}
		for i := range hooks {
			h := hooks[i].Holder
			if _, known := w.views[h]; known {
				continue
			}
			if w.views[h], err = n.view(ctx, h); err != nil {
				return w, err
			}
		}
	}
	if usage && n.o.Entries != nil {
		err = n.lookForUsage(ctx, &w)
	}
	return w, err
}

// position is up to where the ledger was looked at for a webhook: nothing after what is
// stored is to be told.
type position struct {
	stored, at string
	since      time.Time // when what is stored was read first
}

// subscribed returns the webhooks that are told events of a kind.
func subscribed(ctx context.Context, db querier, now int64, kind odometer.EventKind) ([]odometer.Channel, error) {
	return channels(ctx, db, now, `WHERE kind = 'webhook' AND enabled = 1 AND ' ' || events || ' ' LIKE ? ORDER BY id`, "% "+string(kind)+" %")
}

func (n *Notifier) view(ctx context.Context, holder odometer.Bound) (odometer.View, error) {
	if n.o.View != nil {
		return n.o.View(ctx, holder)
	}
	c := odometer.Caller{Bound: holder, Scopes: []odometer.Scope{odometer.ScopeRead}}
	return c.View(), nil
}

// lookForUsage reads what webhooks of usage have not been told, as much as may wait.
func (n *Notifier) lookForUsage(ctx context.Context, w *news) error {
	hooks, err := subscribed(ctx, n.db, n.now(), odometer.EventUsage)
	if err != nil {
		return err
	}
	for i := range hooks {
		c := &hooks[i]
		var after string
		var waiting int
		if err := n.db.QueryRowContext(ctx, `SELECT after, (SELECT count(*) FROM notify_deliveries WHERE channel = notify_channels.id AND state = 'waiting' AND kind = 'usage')
			FROM notify_channels WHERE id = ?`, string(c.ID)).Scan(&after, &waiting); err != nil {
			return err
		}
		if waiting >= usageWaiting {
			continue
		}
		view, err := n.view(ctx, c.Holder)
		if err != nil {
			return err
		}
		seen := n.seenTo[c.ID]
		if seen.stored != after {
			seen = position{stored: after, at: after, since: n.clock()}
		}
		missed := ""
		list, next, err := n.o.Entries.Follow(ctx, odometer.EntryQuery{After: seen.at, View: &view})
		if over := usageWaiting - waiting; err == nil && len(list) > over {
			list = list[:over]
			next = list[over-1].Cursor
		}
		switch {
		case errors.Is(err, odometer.ErrInvalid): // it stands for nothing in this ledger
			n.logger.Error("a webhook's place in the ledger is unknown; it goes on with what is booked from now on", "channel", c.ID, "err", err)
			missed = "its place in the ledger was unknown: of what was booked before " + n.said() + " it may not have been told all"
			list = nil
			next, err = n.o.Entries.End(ctx)
		case err == nil:
			var removed int64
			if removed, err = n.o.Entries.Removed(ctx, seen.at, next); removed > 0 {
				n.logger.Error("records of the journal were pruned before a webhook was told of them; it goes on with what is left", "channel", c.ID, "records", removed)
				missed = "the ledger's journal was pruned before it was told all of it, as was found at " + n.said()
			}
		}
		if err != nil {
			return fmt.Errorf("webhook %s: %w", c.ID, err)
		}
		if len(list) == 0 && missed == "" && n.clock().Sub(seen.since) < usageKept {
			seen.at = next
			n.seenTo[c.ID] = seen
			continue
		}
		if next != after || missed != "" {
			w.usage = append(w.usage, usageNews{c.ID, after, list, next, missed})
		}
	}
	return nil
}

// said is the time as it is told to people.
func (n *Notifier) said() string { return n.clock().UTC().Format(time.RFC3339) }

// take puts what is new into the outbox and moves the cursors, unless somebody moved
// them meanwhile.
func (n *Notifier) take(ctx context.Context, tx *sql.Tx, now int64, w *news) error {
	if len(w.changes) > 0 {
		if err := n.takeChanges(ctx, tx, now, w); err != nil {
			return err
		}
	}
	for i := range w.usage {
		u := &w.usage[i]
		moved, err := tx.ExecContext(ctx, `UPDATE notify_channels SET after = ? WHERE id = ? AND after = ? AND enabled = 1`, u.next, string(u.channel), u.after)
		if err != nil {
			return err
		}
		if rows, err := moved.RowsAffected(); err != nil || rows == 0 {
			if err != nil {
				return err
			}
			continue
		}
		if u.missed != "" {
			if _, err := tx.ExecContext(ctx, `UPDATE notify_channels SET problem = ?, version = version + 1, changed_us = ? WHERE id = ?`, u.missed, now, string(u.channel)); err != nil {
				return err
			}
		}
		for j := range u.list {
			e, err := odometer.DecodeEntry(u.list[j].Entry)
			if err != nil {
				return fmt.Errorf("an entry of the ledger: %w", err)
			}
			event := e.CloudEvent()
			err = put(ctx, tx, now, u.channel, &delivery{
				id: deliveryID(u.channel, odometer.EventUsage, event.ID), kind: odometer.EventUsage, lane: string(odometer.EventUsage) + " " + event.Subject, subject: event.Subject, event: event.ID, events: 1,
				body: string(event.AppendJSON(nil)),
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *Notifier) takeChanges(ctx context.Context, tx *sql.Tx, now int64, w *news) error {
	at, err := metaNumber(ctx, tx, "changes")
	if err != nil || at != w.from {
		return err
	}
	hooks, err := subscribed(ctx, tx, now, odometer.EventViolation)
	if err != nil {
		return err
	}
	known := map[odometer.ChannelID]*odometer.Channel{}
	for i := range w.changes {
		v := &w.changes[i]
		var told []odometer.ChannelID
		tell := func(c *odometer.Channel) error {
			if slices.Contains(told, c.ID) {
				return nil
			}
			told = append(told, c.ID)
			return n.takeChange(ctx, tx, now, c, v)
		}
		for _, id := range v.Channels {
			c := known[id]
			if c == nil {
				list, err := channels(ctx, tx, now, `WHERE id = ?`, string(id))
				if err != nil {
					return err
				}
				c = &odometer.Channel{ID: id} // one that is gone is told nothing
				if len(list) > 0 {
					c = &list[0]
				}
				known[id] = c
			}
			if !c.Enabled {
				continue
			}
			if err := tell(c); err != nil {
				return err
			}
		}
		for j := range hooks {
			if c := &hooks[j]; w.sees(c.Holder, v) {
				if err := tell(c); err != nil {
					return err
				}
			}
		}
	}
	last := w.changes[len(w.changes)-1].Number
	_, err = tx.ExecContext(ctx, `UPDATE notify_meta SET value = ? WHERE key = 'changes'`, strconv.FormatUint(last, 10))
	return err
}

// sees reports whether a holder sees a violation.
func (w *news) sees(holder odometer.Bound, v *odometer.Violation) bool {
	view, ok := w.views[holder] // one that was made since is told from the next round on
	return ok && v.SeenBy(view)
}

func (n *Notifier) takeChange(ctx context.Context, tx *sql.Tx, now int64, c *odometer.Channel, v *odometer.Violation) error {
	body, err := bodyOf(v)
	if err != nil {
		return err
	}
	if c.Kind == odometer.ChannelAlertmanager {
		do, args := `DELETE FROM notify_open WHERE channel = ? AND violation = ?`, []any{string(c.ID), string(v.ID)}
		if v.Standing == odometer.StandingOpen {
			n.alerts = true
			do, args = `INSERT INTO notify_open (channel, violation, body) VALUES (?, ?, ?) ON CONFLICT (channel, violation) DO UPDATE SET body = excluded.body`, append(args, body)
		}
		if _, err := tx.ExecContext(ctx, do, args...); err != nil {
			return err
		}
	}
	d := &delivery{
		kind: odometer.EventViolation, lane: laneOf(c.Kind, v), subject: subjectOf(v), event: v.ChangeID(), events: 1,
		urgent: v.Action == odometer.ActionAlert, body: body,
	}
	if c.Kind == odometer.ChannelWebhook { // of a change that came to something else, a receiver has not heard
		d.id = deliveryID(c.ID, d.kind, fmt.Sprintf("%s %s %v", d.event, v.Standing, v.Limit))
	}
	return put(ctx, tx, now, c.ID, d)
}
