package ledger

import (
	"context"
	"encoding/json"
	"fmt"
	"math"

	"example.org/odometer"
)

// sealAfter is how long after the end of an hour the open hour of an epoch
// that says nothing more is sealed.
const sealAfter = odometer.HourMicros

// Tick does what only time brings about: it gives up holes that were waited
// for long enough, takes in held events whose time has come, seals the hours
// of epochs that fell silent, enters the owners of new epochs, and compacts past
// hours. Call it every minute or so; calling it more often or not at all loses
// nothing. Commits wait for one of its transactions at a time.
func (l *Ledger) Tick(ctx context.Context) error {
	err := l.transact(ctx, func(f *fold, now int64) error { return f.decideHeld(now) })
	if err == nil {
		err = l.sealSilent(ctx)
	}
	if err == nil {
		err = l.enterOwners(ctx)
	}
	if err == nil {
		err = l.compact(ctx, l.clock().UnixMicro())
	}
	if err != nil {
		return fmt.Errorf("ledger upkeep: %w", err)
	}
	return nil
}

// decideHeld takes, for each epoch with held events, the decision that is due.
func (f *fold) decideHeld(now int64) error {
	if len(f.held) == 0 {
		return nil
	}
	held, err := f.heldEvents(`ORDER BY partition, epoch, first, sequence`)
	if err != nil {
		return err
	}
	decided := map[epochKey]bool{}
	for _, h := range held {
		what := ""
		switch {
		case h.reason == reasonHole && now >= h.since+maxHold:
			what = decideGiveUp
		case h.reason == reasonAhead && h.end <= now+maxAhead:
			what = decideClock
		case h.reason == reasonUnset && now >= h.since+maxHold:
			what = decideUnset
		}
		if what == "" || decided[h.key] {
			continue
		}
		decided[h.key] = true
		body, err := json.Marshal(decision{Decision: what, Epoch: h.key.epoch})
		if err != nil {
			return err
		}
		rec := &record{partition: h.key.partition, kind: kindDecision, at: now, sender: "clock", body: body}
		f.start(rec)
		if _, err := f.decide(rec); err != nil {
			return err
		}
	}
	return nil
}

// sealAtOnce epochs are sealed in one transaction, for which commits wait.
const sealAtOnce = 1000

// sealSilent seals open hours that ended a while ago. How an hour's usage is
// divided between its open part and its pieces is no fact about usage: it is
// not in the journal.
func (l *Ledger) sealSilent(ctx context.Context) error {
	for s := (sealing{}); !s.done; {
		if err := l.transact(ctx, s.step); err != nil {
			return err
		}
	}
	return nil
}

// sealing goes over the open hours of all epochs, in transactions between which
// commits may open more.
type sealing struct {
	until int64 // the last hour to be sealed
	after int64 // id of the last epoch that was looked at
	begun bool
	done  bool
}

// step seals the open hours of some epochs.
func (s *sealing) step(f *fold, now int64) error {
	if !s.begun {
		*s = sealing{until: odometer.Hour(now - odometer.HourMicros - sealAfter), after: -1, begun: true}
		f.opened = math.MaxInt64
	}
	if s.until < f.from {
		s.done = true
		return nil
	}
	n, err := s.seal(f)
	if err == nil && n < sealAtOnce {
		f.openAfter(s.until)
		s.done = true
	}
	return err
}

func (s *sealing) seal(f *fold) (n int, err error) {
	rows, err := f.query(`SELECT s.id, e.partition, e.epoch FROM state s CROSS JOIN epochs e ON e.partition = s.id >> 40 AND e.epoch_no = s.id & 1099511627775
		WHERE s.id > ? AND s.open_hour > 0 AND s.open_hour <= ? ORDER BY s.id LIMIT ?`, s.after, s.until, sealAtOnce)
	if err != nil {
		return 0, fmt.Errorf("find silent epochs: %w", err)
	}
	defer rows.Close()
	var keys []epochKey
	for rows.Next() {
		var k epochKey
		if err := rows.Scan(&s.after, &k.partition, &k.epoch); err != nil {
			return 0, err
		}
		keys = append(keys, k)
	}
	if err := rows.Err(); err != nil {
		return 0, err
	}
	for _, k := range keys {
		e, err := f.epoch(k)
		if err != nil {
			return 0, err
		}
		if !e.open.empty() {
			if err := f.insertHour(e, &e.open, "sealed"); err != nil {
				return 0, err
			}
		}
		if e.owned && e.no > f.known[e.partition] {
			if err := f.insertOwner(e, e.owner); err != nil {
				return 0, err
			}
		}
		e.open = bucket{}
		f.touch(e)
	}
	return len(keys), nil
}

// Questions about the past need not look for open hours in every epoch's state:
// meta has, as open_from, a time before which none is open. The upkeep moves it
// on when it has sealed what was silent, and whatever opens an earlier hour
// takes it back in the same transaction. An hour that was opened at 0, which
// the state cannot tell from none, keeps it at -1 for good.

// opens notes that an hour is opened.
func (f *fold) opens(hour int64) {
	if hour <= 0 {
		hour = -1
	}
	f.opened = min(f.opened, hour)
	if hour < f.from {
		f.from, f.newFrom = hour, true
	}
}

// openAfter notes that the tables have no open hour up to until but for what
// was opened since the sealing began.
func (f *fold) openAfter(until int64) {
	if from := min(until+1, f.opened); f.from >= 0 && f.from < from {
		f.from, f.newFrom = from, true
	}
}
