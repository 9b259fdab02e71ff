package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"

	"example.org/odometer"
)

// FeedPosition says how far entries were read for a feed: for each partition
// that had any, the journal record and the entry.
type FeedPosition map[int]struct {
	Record int64
	Entry  uint64
}

// FeedAfter returns entries that the named feed has not published yet, each
// partition in its own order and whole journal records at a time, until there
// are at least limit; and the position to advance to once they are published.
// No entries mean that the feed is up to date.
func (l *Ledger) FeedAfter(ctx context.Context, name string, limit int) ([]odometer.Entry, FeedPosition, error) {
	fail := func(err error) ([]odometer.Entry, FeedPosition, error) {
		return nil, nil, fmt.Errorf("feed %s: %w", name, err)
	}
	tx, err := l.read.BeginTx(ctx, nil)
	if err != nil {
		return fail(err)
	}
	defer tx.Rollback()
	rows, err := tx.QueryContext(ctx, `SELECT p.partition, max(coalesce(f.position, 0), coalesce(h.position, 0)) AS start FROM `+journalEnds+` p
		LEFT JOIN feed f ON f.partition = p.partition AND f.name = ? LEFT JOIN heads h ON h.partition = p.partition WHERE p.position > start ORDER BY 1`, name)
	if err != nil {
		return fail(err)
	}
	type start struct {
		partition int
		position  int64
	}
	var starts []start
	for rows.Next() {
		var s start
		if err := rows.Scan(&s.partition, &s.position); err != nil {
			rows.Close()
			return fail(err)
		}
		starts = append(starts, s)
	}
	if err := rows.Err(); err != nil {
		return fail(err)
	}
	var entries []odometer.Entry
	at := FeedPosition{}
	for _, s := range starts {
		for r, err := range records(ctx, tx, `WHERE partition = ? AND position > ? ORDER BY position`, s.partition, s.position) {
			if err != nil {
				return fail(err)
			}
			booked, err := r.booked()
			if err != nil {
				return fail(err)
			}
			entries = append(entries, booked...)
			p := at[s.partition]
			p.Record, p.Entry = r.position, r.firstEntry+r.entries-1
			at[s.partition] = p
			if len(entries) >= limit {
				return entries, at, markAdjustments(ctx, tx, entries)
			}
		}
	}
	if len(entries) == 0 && len(at) > 0 { // records that booked nothing
		return nil, nil, l.FeedAdvance(ctx, name, at, "", 0, 0)
	}
	return entries, at, markAdjustments(ctx, tx, entries)
}

// FeedAdvance notes that everything up to a position is published, in messages
// of a stream up to last, and that messages after back may hold entries that lie
// beyond the position. An empty stream leaves those as they are.
func (l *Ledger) FeedAdvance(ctx context.Context, name string, at FeedPosition, stream string, back, last uint64) error {
	return l.feed(ctx, name, func(tx *sql.Tx) error {
		for p := range maps.Keys(at) {
			_, err := tx.ExecContext(ctx, `INSERT INTO feed (name, partition, position, entry) VALUES (?, ?, ?, ?)
				ON CONFLICT (name, partition) DO UPDATE SET position = excluded.position, entry = excluded.entry`, name, p, at[p].Record, at[p].Entry)
			if err != nil {
				return err
			}
		}
		if stream == "" {
			return nil
		}
		_, err := tx.ExecContext(ctx, `INSERT INTO feed_stream (name, stream, seq, back) VALUES (?, ?, ?, ?)
			ON CONFLICT (name) DO UPDATE SET stream = excluded.stream, seq = excluded.seq, back = excluded.back`, name, stream, last, back)
		return err
	})
}

// FeedRewind starts the named feed from the first entry that was not pruned: its
// stream was lost.
func (l *Ledger) FeedRewind(ctx context.Context, name string) error {
	return l.feed(ctx, name, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM feed WHERE name = ?`, name); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM feed_stream WHERE name = ?`, name)
		return err
	})
}

// feed changes the tables of the feeds, which are no part of the fold.
func (l *Ledger) feed(ctx context.Context, name string, change func(*sql.Tx) error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("feed %s: %w", name, err)
	}
	defer tx.Rollback()
	if err := l.owns(ctx, tx); err != nil {
		return fmt.Errorf("feed %s: %w", name, err)
	}
	if err := change(tx); err != nil {
		return fmt.Errorf("feed %s: %w", name, err)
	}
	if err := tx.Commit(); err != nil {
		return fmt.Errorf("feed %s: %w", name, err)
	}
	return nil
}

// FeedStream returns what [Ledger.FeedAdvance] was last told for the named feed,
// "" when it never was.
func (l *Ledger) FeedStream(ctx context.Context, name string) (stream string, back, last uint64, err error) {
	err = l.read.QueryRowContext(ctx, `SELECT stream, back, seq FROM feed_stream WHERE name = ?`, name).Scan(&stream, &back, &last)
	if errors.Is(err, sql.ErrNoRows) {
		return "", 0, 0, nil
	}
	return stream, back, last, err
}

// FeedLag returns how many entries the named feed has not published yet.
func (l *Ledger) FeedLag(ctx context.Context, name string) (lag int64, err error) {
	err = l.read.QueryRowContext(ctx, `SELECT coalesce(sum(p.entry % ?1 - max(coalesce(f.entry, 0) % ?1, coalesce(CAST(h.body AS TEXT) ->> '$.entry', 0) % ?1)), 0)
		FROM `+journalEnds+` p
		LEFT JOIN feed f ON f.partition = p.partition AND f.name = ?2 LEFT JOIN heads h ON h.partition = p.partition`, odometer.GenerationEntries, name).Scan(&lag)
	return lag, err
}

// News returns a channel that is closed at the next commit that books
// something. Take it before reading, so that nothing falls between.
func (l *Ledger) News() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

// Feed is the ledger as one reader of its entries sees it, with the cursor of
// that name: what the queue publishes from.
type Feed struct {
	*Ledger
	Name string
}

// Pending returns entries that lie beyond the cursor, about limit of them, and
// how to move the cursor behind them once they are published.
func (f Feed) Pending(ctx context.Context, limit int) ([]odometer.Entry, func(ctx context.Context, stream string, back, last uint64) error, error) {
	entries, at, err := f.FeedAfter(ctx, f.Name, limit)
	return entries, func(ctx context.Context, stream string, back, last uint64) error {
		return f.FeedAdvance(ctx, f.Name, at, stream, back, last)
	}, err
}

// Position is [Ledger.FeedStream] of this feed.
func (f Feed) Position(ctx context.Context) (stream string, back, last uint64, err error) {
	return f.FeedStream(ctx, f.Name)
}

// Rewind is [Ledger.FeedRewind] of this feed.
func (f Feed) Rewind(ctx context.Context) error { return f.FeedRewind(ctx, f.Name) }

// Lag is [Ledger.FeedLag] of this feed.
func (f Feed) Lag(ctx context.Context) (int64, error) { return f.FeedLag(ctx, f.Name) }
