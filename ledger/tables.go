package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strconv"

	"example.org/odometer"
)

// prepare returns a statement of the transaction at work, preparing it once:
// to parse one takes longer than to run it.
func (f *fold) prepare(query string) (*sql.Stmt, error) {
	stmt := f.stmts[query]
	if stmt == nil {
		var err error
		if stmt, err = f.tx.PrepareContext(f.ctx, query); err != nil {
			return nil, err
		}
		f.stmts[query] = stmt
	}
	return stmt, nil
}

// exec runs a statement in the transaction at work.
func (f *fold) exec(query string, args ...any) (sql.Result, error) {
	stmt, err := f.prepare(query)
	if err != nil {
		return nil, err
	}
	return stmt.ExecContext(f.ctx, args...)
}

// query returns the rows of a query in the transaction at work.
func (f *fold) query(query string, args ...any) (*sql.Rows, error) {
	stmt, err := f.prepare(query)
	if err != nil {
		return nil, err
	}
	return stmt.QueryContext(f.ctx, args...)
}

// each calls scan for every row of a query in the transaction at work.
func (f *fold) each(query string, scan func(*sql.Rows) error, args ...any) error {
	rows, err := f.query(query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// queryRow reads the first row of a query in the transaction at work;
// [sql.ErrNoRows] where there is none.
func (f *fold) queryRow(query string, args []any, into ...any) error {
	stmt, err := f.prepare(query)
	if err != nil {
		return err
	}
	return stmt.QueryRowContext(f.ctx, args...).Scan(into...)
}

// loadMirrors reads the tables that the fold keeps in memory as a whole.
func (f *fold) loadMirrors() error {
	// One partition after the other, so that each is a look at the end of an
	// index, however long the history is.
	for p := range odometer.Partitions {
		h := new(head)
		err := f.tx.QueryRowContext(f.ctx, `SELECT position, hash, first_entry + entries - 1 FROM journal WHERE partition = ? ORDER BY position DESC LIMIT 1`, p).
			Scan(&h.position, &h.hash, &h.entry)
		if errors.Is(err, sql.ErrNoRows) {
			continue // what else there is of a partition has its record in the journal
		}
		if err == nil {
			err = f.tx.QueryRowContext(f.ctx, `SELECT (SELECT coalesce(max(epoch_no), 0) FROM epochs WHERE partition = ?), (SELECT coalesce(max(no), 0) FROM quarantine WHERE partition = ?)`, p, p).
				Scan(&h.epochNo, &h.quarNo)
		}
		if err != nil {
			return fmt.Errorf("read the heads of the journal: %w", err)
		}
		f.heads[p] = h
	}
	err := f.each(`SELECT partition, epoch_no FROM owners_known`, func(rows *sql.Rows) error {
		var p int
		var no int64
		err := rows.Scan(&p, &no)
		f.known[p] = no
		return err
	})
	if err != nil {
		return fmt.Errorf("read which owners are known: %w", err)
	}
	if f.from, err = openFrom(f.ctx, f.tx); err != nil {
		return err
	}
	err = f.each(`SELECT partition, agent, spool, position, home FROM spools`, func(rows *sql.Rows) error {
		var k spoolKey
		var position, home uint64
		err := rows.Scan(&k.partition, &k.agent, &k.spool, &position, &home)
		f.spools[k], f.homes[k] = position, home
		return err
	})
	if err != nil {
		return fmt.Errorf("read the receipts: %w", err)
	}
	err = f.each(`SELECT partition, outcome, n FROM counts`, func(rows *sql.Rows) error {
		var k countKey
		var n int64
		err := rows.Scan(&k.partition, &k.outcome, &n)
		f.counts[k] = n
		return err
	})
	if err != nil {
		return fmt.Errorf("read the counts: %w", err)
	}
	err = f.each(`SELECT partition, epoch, count(*) FROM held GROUP BY partition, epoch`, func(rows *sql.Rows) error {
		var k epochKey
		var n int
		err := rows.Scan(&k.partition, &k.epoch, &n)
		f.held[k] = n
		return err
	})
	if err != nil {
		return fmt.Errorf("read the held events: %w", err)
	}
	if err := f.loadForeign(); err != nil {
		return err
	}
	if err := f.tx.QueryRowContext(f.ctx, `SELECT EXISTS (SELECT 1 FROM ownership)`).Scan(&f.someOwned); err != nil {
		return fmt.Errorf("read whether instances have owners: %w", err)
	}
	if err := f.loadClosed(); err != nil {
		return err
	}
	return f.loadHandovers()
}

// openFrom returns a time before which no hour is open.
func openFrom(ctx context.Context, db queryer) (int64, error) {
	var text string
	err := db.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'open_from'`).Scan(&text)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	from := int64(0)
	if err == nil {
		from, err = strconv.ParseInt(text, 10, 64)
	}
	if err != nil {
		return 0, fmt.Errorf("since when hours are open: %w", err)
	}
	return from, nil
}

// flush writes what changed in the mirrors and the cache.
func (f *fold) flush() error {
	if err := f.storeEpochs(); err != nil {
		return err
	}
	if f.newFrom {
		if _, err := f.exec(`INSERT INTO meta (key, value) VALUES ('open_from', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value`, strconv.FormatInt(f.from, 10)); err != nil {
			return fmt.Errorf("store since when hours are open: %w", err)
		}
		f.newFrom = false
	}
	for k := range f.dirtyCounts {
		if _, err := f.exec(`INSERT INTO counts (partition, outcome, n) VALUES (?, ?, ?)
			ON CONFLICT (partition, outcome) DO UPDATE SET n = excluded.n`, k.partition, k.outcome, f.counts[k]); err != nil {
			return fmt.Errorf("store counts: %w", err)
		}
	}
	for k, at := range f.dirtySpools {
		if _, err := f.exec(`INSERT INTO spools (partition, agent, spool, position, updated_us, home) VALUES (?, ?, ?, ?, ?, ?)
			ON CONFLICT (partition, agent, spool) DO UPDATE SET position = excluded.position, updated_us = excluded.updated_us, home = excluded.home`,
			k.partition, string(k.agent), string(k.spool), f.spools[k], at, f.homes[k]); err != nil {
			return fmt.Errorf("store receipts: %w", err)
		}
	}
	return nil
}

// storeEpochs writes the epochs that changed.
func (f *fold) storeEpochs() error {
	var rows []int64
	for _, e := range f.dirtyEpochs {
		if e.fresh {
			_, err := f.exec(`INSERT INTO epochs (partition, epoch_no, epoch, instance, agent, counted_by, started_us) VALUES (?, ?, ?, ?, ?, ?, ?)`,
				e.partition, e.no, string(e.epoch), string(e.instance), string(e.agent), e.countedBy, e.started)
			if err != nil {
				return fmt.Errorf("store epoch %s: %w", e.epoch, err)
			}
		}
		id := stateID(e.partition, e.no)
		if r := f.rows[id]; !r.dirty {
			r.dirty = true
			rows = append(rows, id)
		}
	}
	for _, id := range rows {
		if err := f.storeState(id); err != nil {
			return err
		}
	}
	return nil
}

// storeState writes a row of the table state: its epochs as they stand in the
// cache, the others as they stood.
func (f *fold) storeState(id int64) error {
	partition, first := firstOf(id)
	fail := func(err error) error {
		return fmt.Errorf("store the state of epochs %d-%d…: %w", partition, first, err)
	}
	r, last := f.rows[id], f.head(partition).epochNo
	r.dirty = false
	epochs := r.epochs // those that there are, and where they are not cached as they stood
	stood := false
	for i, e := range epochs {
		if no := first + int64(i); e != nil || no == 0 || no > last || stood {
			continue
		}
		var row []byte
		if err := f.queryRow(`SELECT body FROM state WHERE id = ?`, []any{id}, &row); err != nil {
			return fail(err)
		}
		was, err := cutSiblings(row)
		if err != nil {
			return fail(err)
		}
		for i := range epochs {
			if epochs[i] == nil {
				epochs[i] = was[i]
			}
		}
		stood = true
	}
	f.buf = epochs.append(f.buf[:0])
	_, err := f.exec(`INSERT INTO state (id, open_hour, body) VALUES (?, ?, ?)
		ON CONFLICT (id) DO UPDATE SET open_hour = excluded.open_hour, body = excluded.body`, id, epochs.earliestOpen(), f.buf)
	if err != nil {
		return fail(err)
	}
	return nil
}

func (f *fold) insertRecord(r *record) error {
	res, err := f.exec(`INSERT INTO journal (partition, position, kind, at_us, sender, spool, first, last, min_us, max_us, first_entry, entries, body, result, hash, checksum)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
		r.partition, r.position, r.kind, r.at, r.sender, r.spool, r.first, r.last, r.minUS, r.maxUS, r.firstEntry, r.entries, r.body, r.result, r.hash, r.checksum())
	if err != nil {
		return fmt.Errorf("append to the journal: %w", err)
	}
	r.id, err = res.LastInsertId()
	return err
}

func (f *fold) insertHour(e *epoch, b *bucket, cause string) error {
	_, err := f.exec(`INSERT INTO hours (hour, partition, epoch_no, usr, org, sums, recovered_us, cause) VALUES (?, ?, ?, ?, ?, ?, ?, ?)`,
		b.hour, e.partition, e.no, string(b.owner.User), string(b.owner.Org), b.sums.AppendBinary(nil), b.recovered, cause)
	if err != nil {
		return fmt.Errorf("seal an hour of epoch %s: %w", e.epoch, err)
	}
	return nil
}

// insertDigests stores the chunk that is finished and begins the next.
func (f *fold) insertDigests(e *epoch) error {
	_, err := f.exec(`INSERT INTO digests (partition, epoch_no, chunk, data) VALUES (?, ?, ?, ?)`, e.partition, e.no, chunkOf(e.sequence), e.digests)
	if err != nil {
		return fmt.Errorf("store digests of epoch %s: %w", e.epoch, err)
	}
	e.digests = nil
	return nil
}

// advance moves a spool's receipt to position.
func (f *fold) advance(k spoolKey, position uint64, at int64) {
	f.spools[k] = max(f.spools[k], position)
	f.dirtySpools[k] = at
}

// comeHome notes how far a spool's frames have come in the partition of its
// agent, for which the receipt follows.
func (f *fold) comeHome(r *record) {
	k := spoolKey{r.partition, odometer.AgentID(r.sender), odometer.SpoolID(r.spool)}
	if r.kind == kindFrame && r.spool != "" && k.agent.Partition() == k.partition {
		f.homes[k] = max(f.homes[k], r.last)
	}
}

// baseline remembers where the checkpoint of an instance lies that came
// without an event. One that is sent again is not the newest any more.
func (f *fold) baseline(w *work, index int, r *odometer.Record) error {
	// Whether it is sent again is told by the records of its own partition, so
	// that it does not depend on the order in which partitions are folded. A part
	// of a frame for several is written down without positions: nothing tells.
	if k := (spoolKey{w.rec.partition, odometer.AgentID(w.rec.sender), odometer.SpoolID(w.rec.spool)}); w.frame.Spool != "" && r.Position <= f.homes[k] {
		return nil
	}
	instance, ok := checkpointInstance(r.Checkpoint)
	if !ok {
		return nil
	}
	_, err := f.exec(`INSERT INTO checkpoints (partition, agent, instance, position, idx) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (partition, agent, instance) DO UPDATE SET position = excluded.position, idx = excluded.idx`,
		w.rec.partition, w.rec.sender, instance, w.rec.position, index)
	if err != nil {
		return fmt.Errorf("store checkpoint: %w", err)
	}
	return nil
}
