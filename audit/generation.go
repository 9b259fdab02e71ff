package audit

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"example.org/odometer"
)

// A ledger that was restored from a backup goes on as another generation: a
// decision in each partition's journal says so. Entries are numbered from
// generation · GenerationEntries plus the ordinal on from there, and what was
// published before with a later ordinal is void.

// begin is where a generation begins in a partition, and the last entry before.
type begin struct {
	generation uint64
	position   int64
	entry      uint64
}

// begins returns the generation that the record begins, 0 for none.
func (r *row) begins() uint64 {
	if r.kind != "decision" || r.sender != "restore" {
		return 0
	}
	var d struct {
		Decision   string `json:"decision"`
		Generation uint64 `json:"generation"`
	}
	if json.Unmarshal(r.body, &d) != nil || d.Decision != "restored" {
		return 0
	}
	return d.Generation
}

// nextEntry returns the number that the first entry of r must have after
// entry, and checks a generation that begins there.
func (a *audit) nextEntry(r *row, entry uint64) uint64 {
	gen := r.begins()
	if gen == 0 {
		return entry + 1
	}
	if gen <= (odometer.EntryID{Number: entry}).Generation() {
		a.report.find("generation", "%s begins generation %d after entry %d", r, gen, entry)
	}
	a.expectBegin(r.partition, begin{gen, r.position, entry})
	a.begun++
	return gen*odometer.GenerationEntries + (odometer.EntryID{Number: entry}).Ordinal() + 1
}

// expectBegin checks that the table of generations says what the journal does.
func (a *audit) expectBegin(partition int64, want begin) {
	if !slices.Contains(a.begins[partition], want) {
		a.report.find("generation", "journal record %d-%d begins generation %d; the table of generations does not say so", partition, want.position, want.generation)
	}
}

// loadGenerations reads where generations begin, which the journal must then
// confirm.
func (a *audit) loadGenerations(ctx context.Context) error {
	a.begins = map[int64][]begin{}
	err := a.snap.each(ctx, func(rows *sql.Rows) error {
		var p int64
		var b begin
		err := rows.Scan(&p, &b.generation, &b.position, &b.entry)
		a.begins[p] = append(a.begins[p], b)
		return err
	}, `SELECT partition, generation, position, entry FROM generations ORDER BY partition, generation`)
	if err != nil {
		return fmt.Errorf("read the generations: %w", err)
	}
	return nil
}

// checkGenerations finds generations that the journal does not begin.
func (a *audit) checkGenerations() {
	n := 0
	for _, p := range slices.Sorted(maps.Keys(a.begins)) {
		n += len(a.begins[p])
	}
	if n > a.begun {
		a.report.find("generation", "the table has %d beginnings of generations, the journal %d", n, a.begun)
	}
}

// void reports whether an entry was published by a generation that the ledger
// has forgotten from before that entry on.
func (a *audit) void(id odometer.EntryID) bool {
	for _, b := range a.begins[int64(id.Partition)] {
		if b.generation > id.Generation() && id.Ordinal() > (odometer.EntryID{Number: b.entry}).Ordinal() {
			return true
		}
	}
	return false
}
