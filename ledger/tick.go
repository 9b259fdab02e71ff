package ledger

import (
	"context"
	"database/sql"
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
	err := l.decideHeld(ctx)
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

// decideHeld takes, for each epoch with held events, the decision that is due,
// one epoch in a transaction.
func (l *Ledger) decideHeld(ctx context.Context) error {
	var due []dueDecision
	err := l.transact(ctx, func(f *fold, now int64) (err error) {
		if len(f.held) > 0 {
			due, err = f.due(now, `ORDER BY partition, epoch, first, sequence`)
		}
		return err
	})
	for i := 0; err == nil && i < len(due); i++ {
		k := due[i].key
		err = l.transact(ctx, func(f *fold, now int64) error {
			// Commits since may have changed what is due.
			due, err := f.due(now, `WHERE partition = ? AND epoch = ? ORDER BY first, sequence`, k.partition, string(k.epoch))
			if err != nil || len(due) == 0 {
				return err
			}
			return f.decideDue(due[0], now)
		})
	}
	return err
}

// dueDecision is a decision whose time has come.
type dueDecision struct {
	key  epochKey
	what string
}

// due returns the first decision that is due of each epoch, of the held events
// that a condition selects.
func (f *fold) due(now int64, condition string, args ...any) (list []dueDecision, err error) {
	held, err := f.heldEvents(condition, args...)
	if err != nil {
		return nil, err
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
		if what != "" && !decided[h.key] {
			decided[h.key] = true
			list = append(list, dueDecision{h.key, what})
		}
	}
	return list, nil
}

func (f *fold) decideDue(d dueDecision, now int64) error {
	body, err := json.Marshal(decision{Decision: d.what, Epoch: d.key.epoch})
	if err != nil {
		return err
	}
	rec := &record{partition: d.key.partition, kind: kindDecision, at: now, sender: "clock", body: body}
	f.start(rec)
	_, err = f.decide(rec)
	return err
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
	after int64 // the last row of the table state that was looked at
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
	if err == nil && n < sealAtOnce/epochsPerRow {
		f.openAfter(s.until)
		s.done = true
	}
	return err
}

// seal returns how many rows of the table state it found something to seal in.
func (s *sealing) seal(f *fold) (n int, err error) {
	var silent []epochKey
	var numbers []int64
	err = f.each(`SELECT id, body FROM state WHERE id > ? AND open_hour <> 0 AND open_hour <= ? ORDER BY id LIMIT ?`, func(rows *sql.Rows) error {
		var body []byte
		if err := rows.Scan(&s.after, &body); err != nil {
			return err
		}
		n++
		epochs, err := cutSiblings(body)
		partition, first := firstOf(s.after)
		for i, e := range epochs {
			if e != nil && !e.open.empty() && e.open.hour <= s.until {
				silent, numbers = append(silent, epochKey{partition: partition}), append(numbers, first+int64(i))
			}
		}
		return err
	}, s.after, s.until, sealAtOnce/epochsPerRow)
	if err != nil {
		return 0, fmt.Errorf("find silent epochs: %w", err)
	}
	for i, k := range silent {
		if err := f.queryRow(`SELECT epoch FROM epochs WHERE partition = ? AND epoch_no = ?`, []any{k.partition, numbers[i]}, &k.epoch); err != nil {
			return 0, fmt.Errorf("epoch %d-%d: %w", k.partition, numbers[i], err)
		}
		e, err := f.epoch(k)
		if err != nil {
			return 0, err
		}
		if err := f.insertHour(e, &e.open, "sealed"); err != nil {
			return 0, err
		}
		if e.owned && e.no > f.known[e.partition] {
			if err := f.insertOwner(e, e.owner); err != nil {
				return 0, err
			}
		}
		e.open = bucket{}
		f.touch(e)
	}
	return n, nil
}

// Questions about the past need not look for open hours in every epoch's state:
// meta has, as open_from, a time before which none is open. The upkeep moves it
// on when it has sealed what was silent, and whatever opens an earlier hour
// takes it back in the same transaction. An hour up to 1970 keeps it at -1 for
// good.

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
