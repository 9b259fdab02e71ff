package audit

import (
	"context"
	"database/sql"
	"fmt"
	"maps"
	"slices"

	"example.org/odometer"
)

// spoolKey is one agent's spool.
type spoolKey struct{ agent, spool string }

// positions checks that a record of the journal does not carry more than the
// positions of the sender's spool that it takes. (That a frame leaves none of
// its positions out is checked when it is read. A frame whose events belong to
// agents of several partitions lies in each of them in part; a part that is
// missing is missed there, by position and count.)
func (a *audit) positions(r *row) {
	if r.spool == "" || r.frame == nil {
		return
	}
	if n := uint64(len(r.frame.Records)); r.last < r.first || n > r.last-r.first+1 {
		a.report.find("journal_frame", "%s: %d records take positions %d to %d of a spool", r, n, r.first, r.last)
	}
}

// checkReceipts proves that receipts say what the journal holds: each spool's
// frames follow one another without a hole, and its receipt is the end of the
// last. A receipt beyond that has freed events that nobody has.
func (a *audit) checkReceipts(ctx context.Context) error {
	rep := a.report
	ends, homes, err := a.startReceipts(ctx)
	if err != nil {
		return fmt.Errorf("read the base: %w", err)
	}
	err = a.snap.each(ctx, func(rows *sql.Rows) error {
		var k spoolKey
		var partition, position, first, last int64
		if err := rows.Scan(&partition, &position, &k.agent, &k.spool, &first, &last); err != nil {
			return err
		}
		if a.gone(partition, position) {
			return nil
		}
		end := ends[k]
		if uint64(first) > end+1 {
			rep.findMany("spool_hole", first-int64(end)-1, "spool %s of %s: the frame that begins at %d follows position %d", k.spool, k.agent, first, end)
		}
		ends[k] = max(end, uint64(last))
		if int(partition) == odometer.AgentID(k.agent).Partition() {
			homes[k] = max(homes[k], uint64(last))
		}
		return nil
	}, `SELECT partition, position, sender, spool, first, last FROM journal WHERE kind = 'frame' AND spool <> '' ORDER BY id`)
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	err = a.snap.each(ctx, func(rows *sql.Rows) error {
		var partition, position, home int64
		var k spoolKey
		if err := rows.Scan(&partition, &k.agent, &k.spool, &position, &home); err != nil {
			return err
		}
		if uint64(home) != homes[k] {
			rep.find("receipt", "spool %s of %s: its own partition is said to have it to %d, the journal has it to %d", k.spool, k.agent, home, homes[k])
		}
		end := ends[k]
		switch {
		case uint64(position) > end:
			rep.findMany("receipt", position-int64(end), "spool %s of %s: the receipt is %d, the journal has it to %d", k.spool, k.agent, position, end)
		case uint64(position) < end:
			rep.find("receipt", "spool %s of %s: the receipt is %d, the journal has it to %d", k.spool, k.agent, position, end)
		}
		if int(partition) != odometer.AgentID(k.agent).Partition() {
			rep.find("partition", "the receipt of spool %s of %s lies in partition %d", k.spool, k.agent, partition)
		}
		delete(ends, k)
		return nil
	}, `SELECT partition, agent, spool, position, home FROM spools`)
	if err != nil {
		return fmt.Errorf("read the receipts: %w", err)
	}
	for _, k := range slices.SortedFunc(maps.Keys(ends), func(a, b spoolKey) int {
		return slices.Compare([]string{a.agent, a.spool}, []string{b.agent, b.spool})
	}) {
		rep.find("receipt", "spool %s of %s: there is no receipt, the journal has it to %d", k.spool, k.agent, ends[k])
	}
	return nil
}
