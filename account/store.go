package account

import (
	"context"
	"database/sql"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strconv"
	"time"

	"example.org/odometer"
	"modernc.org/sqlite"
	sqlitecode "modernc.org/sqlite/lib"
)

//go:embed schema.sql
var schema string

// SchemaVersion is the version of the tables that this program writes.
const SchemaVersion = 3

// migrations[n] leads from version n to n+1, in one transaction: the tables are
// small, and what is lost is told again.
var migrations = map[int]func(context.Context, *sql.Tx) error{1: addSince, 2: addInterval}

// addSince adds since when an attribute has its value, which is as far as is known since
// its instance is there.
func addSince(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `ALTER TABLE attributes ADD COLUMN since_us BIGINT NOT NULL DEFAULT 0;
UPDATE attributes SET since_us = coalesce((SELECT c.first_us FROM claims c WHERE c.instance = attributes.instance AND c.agent = attributes.agent), 0)`)
	return err
}

// addInterval adds the intervals of agents, which nobody has said yet.
func addInterval(ctx context.Context, tx *sql.Tx) error {
	_, err := tx.ExecContext(ctx, `ALTER TABLE agents ADD COLUMN interval_us BIGINT NOT NULL DEFAULT 0`)
	return err
}

// Why a directory cannot be used.
var (
	// ErrNewer says that a newer version of this program wrote it; it is left
	// untouched.
	ErrNewer = errors.New("the directory of instances was written by a newer version of odometer")
	// ErrDamaged says that the file is no directory, or no longer.
	ErrDamaged = errors.New("the directory of instances is damaged")
)

// Open opens the directory at o.Path, creating it when it is not there and
// bringing an older one to this version. An error that wraps [ErrDamaged] or
// [ErrNewer] is about the file, which is left as it is: with it moved away the
// agents tell everything again.
func Open(ctx context.Context, o Options) (*Directory, error) {
	d := &Directory{
		clock: o.Clock, logger: o.Logger, maxGone: MaxGone, agents: map[odometer.AgentID]*agentState{},
		claims: map[odometer.InstanceID][]*claim{}, several: map[odometer.InstanceID]bool{}, changed: map[key]*row{},
	}
	if d.clock == nil {
		d.clock = time.Now
	}
	if d.logger == nil {
		d.logger = slog.New(slog.DiscardHandler)
	}
	if err := d.open(ctx, o.Path); err != nil {
		if d.db != nil {
			d.db.Close()
		}
		return nil, fmt.Errorf("open the directory of instances %s: %w", o.Path, damage(err))
	}
	return d, nil
}

func (d *Directory) open(ctx context.Context, path string) (err error) {
	if err := atLeastAnOldFile(path); err != nil {
		return err
	}
	// What the last second told may be lost with the power: NORMAL syncs before
	// a checkpoint, which keeps the file whole.
	d.db, err = sql.Open("sqlite", "file:"+path+"?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(NORMAL)"+
		"&_pragma=cache_size(-16000)&_pragma=wal_autocheckpoint(4096)")
	if err != nil {
		return err
	}
	var says string
	if err := d.db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&says); err != nil {
		return err
	}
	if says != "ok" {
		return fmt.Errorf("%s: %w", says, ErrDamaged)
	}
	if err := d.migrate(ctx); err != nil {
		return err
	}
	return d.load(ctx)
}

// atLeastAnOldFile makes the file where there is none, for its user alone.
func atLeastAnOldFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// damage names an error of SQLite that says that the file is none of its own.
func damage(err error) error {
	if e, ok := errors.AsType[*sqlite.Error](err); ok && slices.Contains([]int{sqlitecode.SQLITE_CORRUPT, sqlitecode.SQLITE_NOTADB}, e.Code()&0xff) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// migrate brings the tables to this version, creating those of a new file.
func (d *Directory) migrate(ctx context.Context) error {
	return d.transact(ctx, func(tx *sql.Tx) error {
		var tables int
		if err := tx.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_master`).Scan(&tables); err != nil {
			return err
		}
		if tables == 0 {
			if _, err := tx.ExecContext(ctx, schema); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, `INSERT INTO meta (key, value) VALUES ('schema_version', ?)`, strconv.Itoa(SchemaVersion))
			return err
		}
		var text string
		if err := tx.QueryRowContext(ctx, `SELECT value FROM meta WHERE key = 'schema_version'`).Scan(&text); err != nil {
			return fmt.Errorf("%w: no version: %w", ErrDamaged, err)
		}
		version, err := strconv.Atoi(text)
		if err != nil || version < 1 {
			return fmt.Errorf("%w: version %q", ErrDamaged, text)
		}
		if version > SchemaVersion {
			return fmt.Errorf("tables of version %d, this program knows %d: %w", version, SchemaVersion, ErrNewer)
		}
		for ; version < SchemaVersion; version++ {
			if err := migrations[version](ctx, tx); err != nil {
				return fmt.Errorf("migrate from version %d: %w", version, err)
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE meta SET value = ? WHERE key = 'schema_version'`, strconv.Itoa(SchemaVersion))
		return err
	})
}

func (d *Directory) transact(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := d.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if err := do(tx); err != nil {
		return err
	}
	return tx.Commit()
}

// load reads what is compared with what agents tell. It was described when the
// agent was last heard, and what ran has run since it was there first, as far as is
// known.
func (d *Directory) load(ctx context.Context) error {
	d.opened = d.clock()
	rows, err := d.db.QueryContext(ctx, `SELECT c.instance, c.agent, c.body, c.state, c.first_us, c.described_us, coalesce(a.heard_us, 0) FROM claims c LEFT JOIN agents a ON a.agent = c.agent WHERE c.gone_us = 0`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var k key
		var body sql.RawBytes
		var state odometer.State
		var first, described, heard int64
		if err := rows.Scan(&k.instance, &k.agent, &body, &state, &first, &described, &heard); err != nil {
			return err
		}
		c := d.add(k.instance, &claim{agent: k.agent, sum: maphash.Bytes(seed, body), described: time.UnixMicro(max(described, heard))})
		if state == odometer.Running {
			c.running = time.UnixMicro(first)
		}
		a := d.agent(k.agent)
		a.has[k.instance], a.known = true, true
	}
	if err := rows.Err(); err != nil {
		return err
	}
	return d.loadIntervals(ctx)
}

func (d *Directory) loadIntervals(ctx context.Context) error {
	rows, err := d.db.QueryContext(ctx, `SELECT agent, interval_us FROM agents WHERE interval_us > 0`)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var id odometer.AgentID
		var interval int64
		if err := rows.Scan(&id, &interval); err != nil {
			return err
		}
		a := d.agent(id)
		a.interval = time.Duration(interval) * time.Microsecond
		a.intervalSaved = a.interval
	}
	return rows.Err()
}

// Close closes the file. What Run has not written is lost.
func (d *Directory) Close() error { return d.db.Close() }

// writeMost is how many changes are written in one transaction: what a query waits
// for, and what is lost together.
const writeMost = 1000

// write writes what changed. What cannot be written is kept for the next time.
func (d *Directory) write(ctx context.Context) {
	d.writing.Lock()
	defer d.writing.Unlock()
	for d.writeSome(ctx) {
	}
}

// writeSome writes some changes and reports whether there are more and it may
// go on.
func (d *Directory) writeSome(ctx context.Context) (more bool) {
	d.mu.Lock()
	some := make(map[key]*row, min(len(d.changed), writeMost))
	for k, r := range d.changed {
		if len(some) == writeMost {
			more = true
			break
		}
		some[k] = r
		delete(d.changed, k)
	}
	heard := map[odometer.AgentID]agentRow{}
	for id, a := range d.agents {
		if !a.heard.IsZero() && (a.heard.Sub(a.saved) >= time.Minute || a.interval != a.intervalSaved) {
			heard[id] = agentRow{a.heard, a.interval}
		}
	}
	d.mu.Unlock()
	if len(some)+len(heard) == 0 {
		return false
	}
	err := d.transact(ctx, func(tx *sql.Tx) error { return writeRows(ctx, tx, some, heard) })
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil {
		if d.failed == nil {
			d.logger.Error("the directory of instances cannot be written; trying again", "err", err)
		}
		d.failed = err
		for k, r := range some {
			d.changed[k] = newer(r, d.changed[k])
		}
		return false
	}
	d.failed = nil
	for id, r := range heard {
		d.agents[id].saved, d.agents[id].intervalSaved = r.heard, r.interval
	}
	for k := range some {
		if c := d.claim(k); c != nil && !c.gone.IsZero() && d.changed[k] == nil {
			d.forget(k)
		}
	}
	return more
}

// newer returns what both rows say, the second having come later; it may be nil.
func newer(r, later *row) *row {
	if later == nil {
		return r
	}
	if later.body == nil { // it only says that the instance has gone
		later.body, later.desc = r.body, r.desc
	}
	return later
}

// agentRow is what is written of an agent.
type agentRow struct {
	heard    time.Time
	interval time.Duration
}

// writeRows writes changes, when agents were heard and what their intervals are.
func writeRows(ctx context.Context, tx *sql.Tx, rows map[key]*row, heard map[odometer.AgentID]agentRow) error {
	prepared := map[string]*sql.Stmt{} // to parse a statement takes longer than to run it
	exec := func(query string, args ...any) (err error) {
		if prepared[query] == nil {
			if prepared[query], err = tx.PrepareContext(ctx, query); err != nil {
				return err
			}
		}
		_, err = prepared[query].ExecContext(ctx, args...)
		return err
	}
	for k := range rows {
		if err := writeRow(exec, string(k.instance), string(k.agent), rows[k]); err != nil {
			return fmt.Errorf("instance %s: %w", k.instance, err)
		}
	}
	for id, r := range heard {
		if err := exec(`INSERT INTO agents (agent, heard_us, interval_us) VALUES (?, ?, ?) ON CONFLICT (agent) DO UPDATE SET heard_us = excluded.heard_us, interval_us = excluded.interval_us`,
			string(id), r.heard.UnixMicro(), r.interval.Microseconds()); err != nil {
			return fmt.Errorf("agent %s: %w", id, err)
		}
	}
	return nil
}

func writeRow(exec func(string, ...any) error, instance, agent string, r *row) error {
	described, gone := r.described.UnixMicro(), int64(0)
	if !r.goneNow.IsZero() {
		gone = r.goneNow.UnixMicro()
	}
	if r.body == nil {
		return exec(`UPDATE claims SET gone_us = ?, described_us = ? WHERE instance = ? AND agent = ?`, gone, described, instance, agent)
	}
	err := exec(`INSERT INTO claims (instance, agent, name, state, body, first_us, described_us, gone_us) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (instance, agent) DO UPDATE SET name = excluded.name, state = excluded.state, body = excluded.body, described_us = excluded.described_us, gone_us = excluded.gone_us`,
		instance, agent, r.desc.Name, string(r.desc.State), string(r.body), described, described, gone)
	names := []byte("[]")
	if err == nil && len(r.desc.Attributes) > 0 {
		names, err = json.Marshal(slices.Collect(maps.Keys(r.desc.Attributes)))
	}
	if err == nil {
		err = exec(`DELETE FROM attributes WHERE instance = ? AND agent = ? AND name NOT IN (SELECT value FROM json_each(?))`, instance, agent, string(names))
	}
	for name, value := range r.desc.Attributes {
		if err == nil {
			err = exec(`INSERT INTO attributes (instance, agent, name, value, since_us) VALUES (?, ?, ?, ?, ?)
				ON CONFLICT (instance, agent, name) DO UPDATE SET since_us = CASE WHEN value = excluded.value THEN since_us ELSE excluded.since_us END, value = excluded.value`,
				instance, agent, name, value, described)
		}
	}
	return err
}

// expire forgets what nobody has described for as long as Kept, and what is gone
// beyond MaxGone.
func (d *Directory) expire(ctx context.Context) {
	d.writing.Lock()
	defer d.writing.Unlock()
	before := d.clock().Add(-Kept)
	d.mu.Lock()
	for instance, claims := range d.claims {
		for _, c := range slices.Clone(claims) {
			if c.gone.IsZero() && c.described.Before(before) {
				d.dropped(instance, c.agent)
				d.forget(key{instance, c.agent})
			}
		}
	}
	d.mu.Unlock()
	err := d.transact(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM claims WHERE CASE WHEN gone_us <> 0 THEN gone_us ELSE described_us END < ?1
			AND NOT (gone_us = 0 AND EXISTS (SELECT 1 FROM agents a WHERE a.agent = claims.agent AND a.heard_us >= ?1))`, before.UnixMicro())
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM claims WHERE (instance, agent) IN (SELECT instance, agent FROM (
			SELECT instance, agent, row_number() OVER (PARTITION BY agent ORDER BY gone_us DESC) AS n FROM claims WHERE gone_us <> 0) WHERE n > ?)`, d.maxGone)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM attributes WHERE NOT EXISTS (SELECT 1 FROM claims c WHERE c.instance = attributes.instance AND c.agent = attributes.agent)`)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM agents WHERE heard_us < ?`, before.UnixMicro())
		return err
	})
	if err != nil {
		d.logger.Warn("what is long gone cannot be taken out of the directory of instances", "err", err)
	}
}
