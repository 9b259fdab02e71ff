package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"example.org/odometer"
)

// A ledger begins as generation 1. One that is restored from a backup has
// forgotten what was committed since, and receipts, entries and positions that
// it gave out meanwhile are in the world; so it goes on as another generation.
// Receipts name it, by which agents know to offer again what they still hold.
// Entries are numbered anew from it, so that no number is ever given to two
// entries: the number of an entry of a later generation is
// generation · [odometer.GenerationEntries] + its ordinal, and ordinals go on
// where the backup stood. What was published with a later ordinal in an
// earlier generation is void.
//
// The generation is the time of the restore in minutes since the Unix epoch,
// so that it is another one also where one backup is restored twice. A record
// of the journal in every partition says where it begins, and the table
// generations is the fold of these.

// Restored tells the ledger at path that it was brought back from a backup, now:
// the next Open begins another generation. It may be called again.
func Restored(ctx context.Context, path string, now time.Time) error {
	return restored(ctx, path, now, 0)
}

// restored is Restored of a ledger beside which another had come to the
// generation seen.
func restored(ctx context.Context, path string, now time.Time, seen uint64) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	db, err := connect(path, "rw", 1)
	if err != nil {
		return err
	}
	defer db.Close()
	gen, err := generationOf(ctx, db)
	if err != nil {
		return err
	}
	gen = max(gen+1, seen+1, uint64(now.Unix()/60))
	_, err = db.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ('restored', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, strconv.FormatUint(gen, 10))
	if err != nil {
		return err
	}
	return db.Close()
}

func generationOf(ctx context.Context, db queryer) (gen uint64, err error) {
	var text string
	if err := db.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'generation'`).Scan(&text); err != nil {
		return 0, err
	}
	if gen, err = strconv.ParseUint(text, 10, 64); err != nil {
		return 0, fmt.Errorf("generation: %w", err)
	}
	return gen, nil
}

// nextGeneration begins another generation where the ledger was restored.
func (l *Ledger) nextGeneration(ctx context.Context) error {
	text, err := l.meta(ctx, "restored")
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	if err != nil {
		return err
	}
	gen, err := strconv.ParseUint(text, 10, 64)
	if err != nil || gen >= 1<<63/odometer.GenerationEntries {
		return fmt.Errorf("generation %q after the restore: %w", text, odometer.ErrInvalid)
	}
	body, err := json.Marshal(decision{Decision: decideRestored, Generation: gen})
	if err != nil {
		return err
	}
	err = l.transact(ctx, func(f *fold, now int64) error {
		for p := range odometer.Partitions {
			rec := &record{partition: p, kind: kindDecision, at: now, sender: "restore", body: body}
			f.start(rec)
			if _, err := f.decide(rec); err != nil {
				return err
			}
		}
		if _, err := f.exec(`UPDATE meta SET value = ? WHERE key = 'generation'`, text); err != nil {
			return err
		}
		_, err := f.exec(`DELETE FROM meta WHERE key = 'restored'`)
		return err
	})
	if err != nil {
		return fmt.Errorf("begin generation %d after the restore: %w", gen, err)
	}
	l.logger.Warn("the ledger was restored from a backup: agents are asked for what they still hold", "generation", gen, "before", l.gen)
	l.gen = gen
	return nil
}

// beginGeneration folds the decision that a generation begins with the next
// entry of its partition.
func (f *fold) beginGeneration(w *work, gen uint64) error {
	h := f.head(w.rec.partition)
	if gen <= (odometer.EntryID{Number: h.entry}).Generation() || gen >= 1<<63/odometer.GenerationEntries {
		return fmt.Errorf("generation %d cannot follow entry %d: %w", gen, h.entry, odometer.ErrInvalid)
	}
	_, err := f.exec(`INSERT INTO generations (partition, generation, position, entry) VALUES (?, ?, ?, ?)`, w.rec.partition, gen, w.rec.position, h.entry)
	if err != nil {
		return fmt.Errorf("begin generation %d: %w", gen, err)
	}
	h.entry = gen*odometer.GenerationEntries + h.entry%odometer.GenerationEntries
	w.rec.firstEntry = h.entry + 1
	return f.finish(w)
}

// Generation says where a generation of the ledger begins in each partition.
type Generation struct {
	Generation uint64    `json:"generation"`
	Began      time.Time `json:"began"`
	// After is the ordinal of the last entry before it in each partition: what
	// was published beyond it in earlier generations is void.
	After map[int]uint64 `json:"after"`
}

// Generations returns the generations after the first, the newest last.
func (l *Ledger) Generations(ctx context.Context) ([]Generation, error) {
	rows, err := l.read.QueryContext(ctx, `SELECT g.generation, g.partition, g.entry, coalesce(j.at_us, 0) FROM generations g
		LEFT JOIN journal j ON j.partition = g.partition AND j.position = g.position ORDER BY g.generation, g.partition`)
	if err != nil {
		return nil, fmt.Errorf("list the generations: %w", err)
	}
	defer rows.Close()
	list := []Generation{}
	for rows.Next() {
		var gen, entry uint64
		var partition int
		var at int64
		if err := rows.Scan(&gen, &partition, &entry, &at); err != nil {
			return nil, fmt.Errorf("list the generations: %w", err)
		}
		if n := len(list); n == 0 || list[n-1].Generation != gen {
			list = append(list, Generation{Generation: gen, Began: time.UnixMicro(at).UTC(), After: map[int]uint64{}})
		}
		list[len(list)-1].After[partition] = (odometer.EntryID{Number: entry}).Ordinal()
	}
	return list, rows.Err()
}
