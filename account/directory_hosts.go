package account

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"example.org/odometer"
)

// describedWithin is for how long an agent has to have been heard until all that it
// has is known: each instance is described twice a minute.
const describedWithin = 35 * time.Second

// Holders returns the agents that say they have an instance, in no order.
func (d *Directory) Holders(instance odometer.InstanceID) (list []odometer.AgentID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.claims[instance] {
		if c.gone.IsZero() {
			list = append(list, c.agent)
		}
	}
	return list
}

// Moves returns how often an instance came to an agent or left it, since the start.
func (d *Directory) Moves(agent odometer.AgentID) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.agents[agent]; a != nil {
		return a.moves
	}
	return 0
}

// Held returns the instances that an agent has, in no order and without those that
// run elsewhere ([Directory.Elsewhere]), as of so many moves, and whether these are
// all: of an agent that nothing was known of before it takes a while.
func (d *Directory) Held(agent odometer.AgentID) (list []odometer.InstanceID, moves uint64, all bool) {
	now := d.clock()
	d.mu.Lock()
	defer d.mu.Unlock()
	a := d.agents[agent]
	if a == nil {
		return nil, 0, false
	}
	for instance := range a.has {
		if d.elsewhere(instance, agent, now) == "" {
			list = append(list, instance)
		}
	}
	return list, a.moves, a.known || !a.heard.IsZero() && now.Sub(a.since) >= describedWithin
}

// Elsewhere returns another agent with which an instance runs, and did so before it
// ran with this one, if it did: what this one tells of it is then not to be taken for
// true. It is "" where there is none, where that one is silent, or where it says that
// the instance has left, or stands still there. It looks at memory alone.
func (d *Directory) Elsewhere(instance odometer.InstanceID, agent odometer.AgentID) odometer.AgentID {
	now := d.clock()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.elsewhere(instance, agent, now)
}

func (d *Directory) elsewhere(instance odometer.InstanceID, agent odometer.AgentID, now time.Time) (other odometer.AgentID) {
	var since time.Time
	for _, c := range d.claims[instance] {
		if c.agent == agent {
			since = c.running
		}
	}
	for _, c := range d.claims[instance] {
		if c.agent == agent || c.running.IsZero() || d.absent(c.agent, now) {
			continue
		}
		if since.IsZero() || c.running.Before(since) {
			since, other = c.running, c.agent
		}
	}
	return other
}

// absent reports whether nothing is known of an agent now. One that the file knows is
// given time to speak after a start.
func (d *Directory) absent(agent odometer.AgentID, now time.Time) bool {
	a := d.agents[agent]
	return d.silent(agent, now) && !(a != nil && a.known && a.heard.IsZero() && now.Sub(d.opened) <= Silence)
}

// Since returns since when an instance has a value of an attribute, on the word of any
// agent, and whether it had it when it was first seen. It is an error wrapping
// [odometer.ErrNotFound] where nobody says that it has it, or it is not written yet.
func (d *Directory) Since(ctx context.Context, instance odometer.InstanceID, name, value string) (since time.Time, first bool, err error) {
	var at, seen sql.NullInt64
	err = d.db.QueryRowContext(ctx, `SELECT (SELECT min(since_us) FROM attributes WHERE instance = ?1 AND name = ?2 AND value = ?3),
		(SELECT min(first_us) FROM claims WHERE instance = ?1)`, string(instance), name, value).Scan(&at, &seen)
	if err == nil && !at.Valid {
		err = odometer.ErrNotFound
	}
	if err != nil {
		return since, false, fmt.Errorf("since when %s has %s: %w", instance, name, err)
	}
	return time.UnixMicro(at.Int64).UTC(), at.Int64 <= seen.Int64, nil
}

// All returns the instances that agents say they have, in no order.
func (d *Directory) All() (list []odometer.InstanceID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for instance, claims := range d.claims {
		for _, c := range claims {
			if c.gone.IsZero() {
				list = append(list, instance)
				break
			}
		}
	}
	return list
}
