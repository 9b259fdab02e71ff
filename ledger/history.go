package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"example.org/odometer"
)

// history is who owned an instance when, in order and without overlap.
type history []odometer.Ownership

// with returns h with o laid over it: what o covers is o's. Neighbours of the
// same owner become one.
func (h history) with(o odometer.Ownership) history {
	var out history
	add := func(o odometer.Ownership) {
		if n := len(out); n > 0 && out[n-1].Until == o.From && out[n-1].Owner == o.Owner {
			out[n-1].Until = o.Until
		} else if o.From < o.Until {
			out = append(out, o)
		}
	}
	placed := false
	for _, p := range h {
		if before := p; before.From < o.From {
			before.Until = min(p.Until, o.From)
			add(before)
		}
		if !placed && p.Until > o.From {
			add(o)
			placed = true
		}
		if after := p; after.Until > o.Until {
			after.From = max(p.From, o.Until)
			add(after)
		}
	}
	if !placed {
		add(o)
	}
	return out
}

// at is [odometer.OwnerAt] of h.
func (h history) at(us int64, claimed odometer.Owner) (owner odometer.Owner, until int64) {
	return odometer.OwnerAt(h, us, claimed)
}

// edges returns the moments within (from, until) at which the owner changes.
func (h history) edges(from, until int64) (list []int64) {
	for _, o := range h {
		for _, at := range [...]int64{o.From, o.Until} {
			if at > from && at < until {
				list = append(list, at)
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (h history) covers(us int64) bool {
	o, _ := h.at(us, odometer.Owner{})
	return o != odometer.Owner{}
}

// historyOf reads who owned an instance when.
func historyOf(ctx context.Context, db queryer, instance odometer.InstanceID) (history, error) {
	rows, err := db.QueryContext(ctx, `SELECT from_us, until_us, usr, org FROM ownership WHERE instance = ? ORDER BY from_us`, string(instance))
	if err != nil {
		return nil, fmt.Errorf("who owned %s: %w", instance, err)
	}
	defer rows.Close()
	var h history
	for rows.Next() {
		o := odometer.Ownership{Instance: instance}
		if err := rows.Scan(&o.From, &o.Until, &o.Owner.User, &o.Owner.Org); err != nil {
			return nil, fmt.Errorf("who owned %s: %w", instance, err)
		}
		h = append(h, o)
	}
	return h, rows.Err()
}

// Ownership returns who owned an instance when, as it is recorded, in order.
func (l *Ledger) Ownership(ctx context.Context, instance odometer.InstanceID) ([]odometer.Ownership, error) {
	return historyOf(ctx, l.read, instance)
}

// Owned returns who owned instances when, of those and of that time of which it is
// recorded: what overlaps [from, to), in order of time.
func (l *Ledger) Owned(ctx context.Context, instances []odometer.InstanceID, from, to int64) (map[odometer.InstanceID][]odometer.Ownership, error) {
	of := map[odometer.InstanceID][]odometer.Ownership{}
	if len(instances) == 0 {
		return of, nil
	}
	names, err := json.Marshal(instances)
	if err != nil {
		return nil, err
	}
	rows, err := l.read.QueryContext(ctx, `SELECT instance, from_us, until_us, usr, org FROM ownership
		WHERE instance`+ofList+` AND from_us < ? AND until_us > ? ORDER BY instance, from_us`, string(names), to, from)
	if err != nil {
		return nil, fmt.Errorf("who owned instances: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var o odometer.Ownership
		if err := rows.Scan(&o.Instance, &o.From, &o.Until, &o.Owner.User, &o.Owner.Org); err != nil {
			return nil, fmt.Errorf("who owned instances: %w", err)
		}
		of[o.Instance] = append(of[o.Instance], o)
	}
	return of, rows.Err()
}
