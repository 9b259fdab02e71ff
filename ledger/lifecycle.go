package ledger

import (
	"context"
	"database/sql"
	"fmt"
	"math"
	"slices"
	"strconv"

	"example.org/odometer"
)

// The lifecycle log is what the events of the journal tell of their instances'
// lives. A change is told once however often its event comes, and whatever
// becomes of the usage: the log decides nothing about that. Of two that differ
// in nothing but their detail or their time since boot, the first one stands.

// happened enters what an event tells.
func (f *fold) happened(w *work, ev *odometer.Event) error {
	for i := range ev.Lifecycle {
		c := &ev.Lifecycle[i]
		_, err := f.exec(`INSERT INTO lifecycle (partition, instance, at_us, what, device, agent, boot_us, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`, w.rec.partition, string(ev.Instance), c.At.Wall, string(c.Kind), c.Device, string(ev.Agent), c.At.Boot, c.Detail)
		if err != nil {
			return fmt.Errorf("store what happened to %s: %w", ev.Instance, err)
		}
	}
	return nil
}

// Lifecycle returns what happened to an instance, in order of time: see
// [odometer.LifecycleQuery].
func (l *Ledger) Lifecycle(ctx context.Context, q odometer.LifecycleQuery) ([]odometer.Happening, error) {
	if q.To == 0 {
		q.To = math.MaxInt64
	}
	seen, args := ``, []any{string(q.Instance), q.From, q.To, max(0, q.Limit-1)}
	if q.View != nil && !q.View.All() {
		hours, err := l.hoursSeen(ctx, q.Instance, q.View)
		if err != nil {
			return nil, fmt.Errorf("what happened to %s: %w", q.Instance, err)
		}
		if hours == "" {
			return nil, nil
		}
		seen, args = ` AND at_us / 3600000000 IN (SELECT value FROM json_each(?5))`, append(args, hours)
	}
	rows, err := l.read.QueryContext(ctx, `SELECT instance, at_us, what, device, agent, boot_us, detail FROM lifecycle
		WHERE instance = ?1 AND at_us < ?3`+seen+` AND at_us >= coalesce(
			(SELECT at_us FROM lifecycle WHERE instance = ?1 AND at_us >= ?2 AND at_us < ?3`+seen+` ORDER BY at_us DESC LIMIT 1 OFFSET ?4), ?2)
		ORDER BY at_us DESC, boot_us DESC, what DESC, device DESC, agent DESC`, args...)
	if err != nil {
		return nil, fmt.Errorf("what happened to %s: %w", q.Instance, err)
	}
	defer rows.Close()
	var list []odometer.Happening
	for rows.Next() {
		var h odometer.Happening
		if err := rows.Scan(&h.Instance, &h.At.Wall, &h.Kind, &h.Device, &h.Agent, &h.At.Boot, &h.Detail); err != nil {
			return nil, fmt.Errorf("what happened to %s: %w", q.Instance, err)
		}
		list = append(list, h)
	}
	slices.Reverse(list)
	return list, rows.Err()
}

// hoursSeen returns, as a JSON array, the hours since 1970 in which an instance
// was charged to owners whose use of it v sees and to no other; "" for none. Who was charged
// and has had all of it taken back was not. What happened in
// an hour that was divided is told to nobody who does not see both: the log does
// not say whose it was.
func (l *Ledger) hoursSeen(ctx context.Context, instance odometer.InstanceID, v *odometer.View) (string, error) {
	rows, err := l.Usage(ctx, odometer.UsageQuery{
		To: math.MaxInt64 / 2, Instance: instance, GroupBy: []odometer.GroupBy{odometer.ByHour, odometer.ByUser, odometer.ByOrg},
	})
	if err != nil {
		return "", err
	}
	var hours []string
	for i := 0; i < len(rows); {
		start, seen, charged := rows[i].Start, true, false
		for ; i < len(rows) && rows[i].Start == start; i++ {
			if rows[i].Totals != (odometer.UsageRow{}).Totals {
				seen = seen && v.SeesUse(instance, odometer.Owner{User: rows[i].User, Org: rows[i].Org}, start)
				charged = true
			}
		}
		if seen && charged {
			hours = append(hours, strconv.FormatInt(start/odometer.HourMicros, 10))
		}
	}
	return jsonArray(hours), nil
}

// addLifecycle makes the table lifecycle, empty: events of version 1 told
// nothing of it.
func addLifecycle(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE lifecycle (
  partition INTEGER NOT NULL,
  instance  TEXT    NOT NULL,
  at_us     INTEGER NOT NULL,
  what      TEXT    NOT NULL,
  device    TEXT    NOT NULL,
  agent     TEXT    NOT NULL,
  boot_us   INTEGER NOT NULL,
  detail    TEXT    NOT NULL,
  PRIMARY KEY (partition, instance, at_us, what, device, agent)
);
CREATE INDEX lifecycle_instance ON lifecycle (instance, at_us)`)
	return "", err
}
