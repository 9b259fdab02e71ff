package audit

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"

	"example.org/odometer"
)

// checkTables compares the partition's tables with what its journal says.
func (p *replay) checkTables(ctx context.Context) error {
	for _, check := range []func(context.Context) error{
		p.checkCounts, p.checkHeld, p.checkQuarantine, p.checkCoverage, p.checkCheckpoints, p.checkReversals, p.checkOwnership, p.checkMonths, p.checkHandovers, p.checkLifecycle, p.checkFeed,
	} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	p.checkEpochs()
	return nil
}

// checkCounts proves that received = recorded + covered + duplicate +
// quarantined + held by the journal, and that the table says the same.
func (p *replay) checkCounts(ctx context.Context) error {
	rep := p.a.report
	var sum int64
	for _, o := range odometer.Outcomes {
		sum += p.counts[string(o)]
	}
	received := p.counts["received"]
	if received != sum {
		rep.find("counts", "partition %d: %d events were received, and their outcomes add up to %d", p.partition, received, sum)
	}
	rep.Received += received
	rep.Recorded += p.counts[string(odometer.Recorded)]
	rep.Covered += p.counts[string(odometer.Covered)]
	rep.Duplicates += p.counts[string(odometer.Duplicate)]
	rep.Quarantined += p.counts[string(odometer.Quarantined)]
	rep.Held += p.counts[string(odometer.Held)]
	table := map[string]int64{}
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var outcome string
		var n int64
		err := rows.Scan(&outcome, &n)
		table[outcome] = n
		return err
	}, `SELECT outcome, n FROM counts WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the counts: %w", err)
	}
	for outcome, n := range p.counts {
		if table[outcome] != n {
			rep.find("counts", "partition %d: %s is %d by the journal, the table says %d", p.partition, outcome, n, table[outcome])
		}
		delete(table, outcome)
	}
	for outcome, n := range table {
		if n != 0 {
			rep.find("counts", "partition %d: the table counts %d %s, the journal none", p.partition, n, outcome)
		}
	}
	return nil
}

// checkHeld compares the table held with the events that still wait.
func (p *replay) checkHeld(ctx context.Context) error {
	rep := p.a.report
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var at place
		var h heldEvent
		var first, sequence int64
		var digest []byte
		if err := rows.Scan(&h.epoch, &first, &sequence, &at.position, &at.index, &h.since, &h.reason, &h.end, &digest); err != nil {
			return err
		}
		h.first, h.sequence = uint64(first), uint64(sequence)
		copy(h.digest[:], digest)
		if want, ok := p.held[at]; !ok {
			rep.find("held_table", "partition %d: the table holds record %d of %d, which the journal does not hold", p.partition, at.index, at.position)
		} else if want != h || len(digest) != len(h.digest) {
			rep.find("held_table", "partition %d: the table describes the held record %d of %d otherwise than the journal", p.partition, at.index, at.position)
		}
		delete(p.held, at)
		return nil
	}, `SELECT epoch, first, sequence, position, idx, since_us, reason, end_us, digest FROM held WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the held events: %w", err)
	}
	for at, h := range p.held {
		rep.find("held_lost", "partition %d: record %d of %d, sequence %d of epoch %s, is held and the table does not have it", p.partition, at.index, at.position, h.sequence, h.epoch)
	}
	return nil
}

// checkQuarantine compares the table quarantine with what was put aside.
func (p *replay) checkQuarantine(ctx context.Context) error {
	rep := p.a.report
	var last int64
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var no int64
		var at place
		var k kept
		var digest []byte
		var first, sequence int64
		if err := rows.Scan(&no, &at.position, &at.index, &k.reason, &k.detail, &k.id, &k.instance, &k.epoch, &first, &sequence, &digest, &k.at, &k.released); err != nil {
			return err
		}
		k.first, k.sequence = uint64(first), uint64(sequence)
		if no != last+1 {
			rep.find("quarantine_table", "partition %d: number %d follows %d", p.partition, no, last)
		}
		last = no
		copy(k.digest[:], digest)
		want := p.quarantined[at]
		if want != nil && want.reason == "" {
			want.reason, want.detail = k.reason, k.detail
		}
		if want == nil {
			rep.find("quarantine_table", "partition %d: number %d is of record %d of %d, which the journal did not put aside", p.partition, no, at.index, at.position)
		} else if *want != k || len(digest) != len(k.digest) {
			rep.find("quarantine_table", "partition %d: number %d describes record %d of %d otherwise than the journal", p.partition, no, at.index, at.position)
		}
		delete(p.quarantined, at)
		return nil
	}, `SELECT no, position, idx, reason, detail, event_id, instance, epoch, first, sequence, digest, at_us, released_us FROM quarantine WHERE partition = ? ORDER BY no`, p.partition)
	if err != nil {
		return fmt.Errorf("read the quarantine: %w", err)
	}
	for at, k := range p.quarantined {
		rep.find("quarantine_lost", "partition %d: record %d of %d, event %q, was put aside for %q and the table does not have it", p.partition, at.index, at.position, k.id, k.reason)
	}
	return nil
}

// checkCoverage compares the covered periods of version 1.0 with those that
// are booked, and proves that none of a source overlap.
func (p *replay) checkCoverage(ctx context.Context) error {
	rep := p.a.report
	var lastInstance, lastSource string
	var end int64
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var instance, source string
		var span odometer.Span
		var digest []byte
		if err := rows.Scan(&instance, &source, &span.Start, &span.End, &digest); err != nil {
			return err
		}
		if instance == lastInstance && source == lastSource && span.Start < end {
			rep.find("overlap", "partition %d: two events of version 1.0 from %s cover %s at %d µs", p.partition, source, instance, span.Start)
		}
		if instance != lastInstance || source != lastSource {
			end = span.End
		}
		lastInstance, lastSource, end = instance, source, max(end, span.End)
		return p.covers(odometer.InstanceID(instance), source, span, digest, false)
	}, `SELECT instance, source, start_us, end_us, digest FROM coverage WHERE partition = ? ORDER BY instance, source, start_us`, p.partition)
	if err != nil {
		return fmt.Errorf("read the coverage: %w", err)
	}
	return p.coverage.settle(func(key string, a *amount) {
		instance, rest, _ := strings.Cut(key, "\t")
		source, _, _ := strings.Cut(rest, "\t")
		if a.sum[0] > 0 {
			rep.find("coverage", "partition %d: a period of %s from %s is booked and the table does not have it", p.partition, instance, source)
		} else {
			rep.find("coverage", "partition %d: the table covers a period of %s from %s that is not booked", p.partition, instance, source)
		}
	})
}

// checkCheckpoints compares the places of checkpoints that came without an
// event.
func (p *replay) checkCheckpoints(ctx context.Context) error {
	rep := p.a.report
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var key [2]string
		var at place
		if err := rows.Scan(&key[0], &key[1], &at.position, &at.index); err != nil {
			return err
		}
		if want, ok := p.checkpoints[key]; !ok || want != at {
			rep.find("checkpoints", "partition %d: the checkpoint of %s at %s is not record %d of %d", p.partition, key[1], key[0], at.index, at.position)
		}
		delete(p.checkpoints, key)
		return nil
	}, `SELECT agent, instance, position, idx FROM checkpoints WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the checkpoints: %w", err)
	}
	for key, at := range p.checkpoints {
		rep.find("checkpoints", "partition %d: the table lacks the checkpoint of %s at %s, record %d of %d", p.partition, key[1], key[0], at.index, at.position)
	}
	return nil
}

// checkFeed proves that no feed claims more than is booked, and that its two
// cursors agree.
func (p *replay) checkFeed(ctx context.Context) error {
	rep := p.a.report
	type cursor struct {
		name            string
		position, entry int64
	}
	var cursors []cursor
	err := p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var c cursor
		err := rows.Scan(&c.name, &c.position, &c.entry)
		cursors = append(cursors, c)
		return err
	}, `SELECT name, position, entry FROM feed WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read the feeds: %w", err)
	}
	for _, c := range cursors {
		var entry int64
		err := p.a.snap.conn.QueryRowContext(ctx, `SELECT first_entry + entries - 1 FROM journal WHERE partition = ? AND position = ?`, p.partition, c.position).Scan(&entry)
		if h := p.a.heads[p.partition]; h != nil && c.position == h.Position {
			entry, err = int64(h.Entry), nil
		}
		switch {
		case errors.Is(err, sql.ErrNoRows) && c.position == 0 && c.entry == 0:
		case errors.Is(err, sql.ErrNoRows):
			rep.find("feed_cursor", "feed %s has published record %d of partition %d, which there is not", c.name, c.position, p.partition)
		case err != nil:
			return fmt.Errorf("read the feeds: %w", err)
		case entry != c.entry:
			rep.find("feed_cursor", "feed %s stands at entry %d of partition %d, its record %d ends with entry %d", c.name, c.entry, p.partition, c.position, entry)
		}
	}
	return nil
}
