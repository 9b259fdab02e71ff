package ledger

import (
	"context"
	"encoding/json"
	"fmt"

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
	err := l.transact(ctx, func(f *fold, now int64) error {
		if err := f.decideHeld(now); err != nil {
			return err
		}
		return f.sealSilent(now)
	})
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

// sealSilent seals open hours that ended a while ago. How an hour's usage is
// divided between its open part and its pieces is no fact about usage: it is
// not in the journal.
func (f *fold) sealSilent(now int64) error {
	until := odometer.Hour(now - odometer.HourMicros - sealAfter)
	rows, err := f.tx.QueryContext(f.ctx, `SELECT e.partition, e.epoch FROM `+epochTables+` WHERE s.open_hour > 0 AND s.open_hour <= ?`, until)
	if err != nil {
		return fmt.Errorf("find silent epochs: %w", err)
	}
	var keys []epochKey
	for rows.Next() {
		var k epochKey
		if err := rows.Scan(&k.partition, &k.epoch); err != nil {
			rows.Close()
			return err
		}
		keys = append(keys, k)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	for _, k := range keys {
		e, err := f.epoch(k)
		if err != nil {
			return err
		}
		if !e.open.empty() {
			if err := f.insertHour(e, &e.open, "sealed"); err != nil {
				return err
			}
		}
		if e.owned && e.no > f.known[e.partition] {
			if err := f.insertOwner(e, e.owner); err != nil {
				return err
			}
		}
		e.open = bucket{}
		f.touch(e)
	}
	f.openAfter(until)
	return nil
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
	if hour < f.from {
		f.from, f.newFrom = hour, true
	}
}

// openAfter notes that the tables have no open hour up to until.
func (f *fold) openAfter(until int64) {
	from := until + 1
	for _, e := range f.dirtyEpochs {
		if !e.open.empty() {
			from = min(from, e.open.hour)
		}
	}
	if f.from >= 0 && f.from < from {
		f.from, f.newFrom = from, true
	}
}
