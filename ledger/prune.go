package ledger

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// A journal that is kept for a limited time is pruned by whole days. What
// follows from the records that go is kept in the base, a ledger of its own in
// the file ledger-base.db beside the ledger: its tables are the fold of every
// record up to its head. Pruning folds a day's records of one partition into
// the base, with the same code that booked them, and refuses to go on where
// they no longer give what was decided then; signs the base's new head in the
// same transaction; and only then removes the records. A crash in between
// leaves records that the base has already: they are removed the next time.
//
// So rebuild starts from the base and the audit does, after checking its
// signature. What the ledger still refers to stays in the journal: the records
// of events that are held or in quarantine, the newest checkpoint of every
// instance that was not ended, beginnings of generations, and the last record
// of every partition. Nothing is pruned that a feed has not published.
//
// Usage by whole hours is answered as before. An hour of which entries may be
// gone can no longer be cut: asking for a part of it is refused.

// Head is what is signed of a pruned journal, one for each partition: where it
// ends and what follows from it.
type Head struct {
	Ledger    odometer.LedgerID `json:"ledger_id"`
	Partition int               `json:"partition"`
	Position  int64             `json:"position"` // the last record; positions are dense from 1
	Hash      string            `json:"hash"`     // of that record in the chain, hexadecimal
	At        int64             `json:"at_us"`    // when it was committed
	Entry     uint64            `json:"entry"`    // the last entry's number
	Counts    map[string]int64  `json:"counts"`   // of events, by outcome
	MinUS     int64             `json:"min_us"`   // span of the entries; 0, 0 for none
	MaxUS     int64             `json:"max_us"`
	// State is the SHA-256 of the base's rows of the partition: see stateHash.
	State  string    `json:"state"`
	Signed time.Time `json:"signed"`
}

// basePath is where the base of the ledger at path lies.
func basePath(path string) string { return strings.TrimSuffix(path, ".db") + "-base.db" }

// baseOf returns where the base of the ledger at path lies, "" where nothing
// has been pruned: what there is then may be half made, and nothing needs it.
func baseOf(ctx context.Context, path string, db queryer) (string, error) {
	if !exists(basePath(path)) { // nor is there one of a ledger that is too old to be pruned
		return "", nil
	}
	var n int
	if err := db.QueryRowContext(ctx, `SELECT count(*) FROM heads`).Scan(&n); err != nil || n == 0 {
		return "", err
	}
	return basePath(path), nil
}

// PruneOptions say what goes.
type PruneOptions struct {
	Before time.Time          // records committed on a day (UTC) that ended before this
	Key    ed25519.PrivateKey // signs the heads

	point func(string) error // tests
}

// PruneReport says what Prune did.
type PruneReport struct {
	Records    int64 `json:"records"`    // removed
	Partitions int   `json:"partitions"` // of which any were
}

// Prune removes the records of the journal that were committed on days before
// o.Before and that nothing needs any more. It may run beside commits and
// queries: it holds them up for one small transaction at a time. What an error,
// the end of ctx or a crash leaves undone, the next call does.
func (l *Ledger) Prune(ctx context.Context, o PruneOptions) (*PruneReport, error) {
	if o.point == nil {
		o.point = func(string) error { return nil }
	}
	report := new(PruneReport)
	if err := l.prune(ctx, &o, report); err != nil {
		return report, fmt.Errorf("prune the journal: %w", err)
	}
	return report, nil
}

func (l *Ledger) prune(ctx context.Context, o *PruneOptions, report *PruneReport) (err error) {
	before := o.Before.UnixMicro()
	before -= before % odometer.DayMicros
	var oldest *int64
	err = l.read.QueryRowContext(ctx, `SELECT min(at_us) FROM (SELECT (SELECT at_us FROM journal j WHERE j.partition = h.partition AND j.position > h.position ORDER BY position LIMIT 1) AS at_us
		FROM (SELECT e.partition, coalesce(h.position, 0) AS position FROM `+journalEnds+` e LEFT JOIN heads h ON h.partition = e.partition) h)`).Scan(&oldest)
	if err != nil {
		return err
	}
	if (oldest == nil || *oldest >= before) && !exists(basePath(l.path)) {
		return nil
	}
	base, err := l.openBase(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	for p := range odometer.Partitions {
		n, err := l.prunePartition(ctx, base, p, before, o)
		report.Records += n
		if n > 0 {
			report.Partitions++
		}
		if err != nil {
			return fmt.Errorf("partition %d: %w", p, err)
		}
	}
	return nil
}

// openBase opens the ledger's base, making it at the first time.
func (l *Ledger) openBase(ctx context.Context) (*Ledger, error) {
	base, err := Open(ctx, Options{Path: basePath(l.path), Clock: l.clock, Logger: l.logger, Bounds: l.fold.bounds, Random: l.random})
	if err != nil {
		return nil, err
	}
	if base.id != l.id {
		var n int
		err := base.write.QueryRowContext(ctx, `SELECT count(*) FROM journal`).Scan(&n)
		if err == nil && n > 0 {
			err = fmt.Errorf("%s is of another ledger, %s: %w", basePath(l.path), base.id, odometer.ErrConflict)
		}
		if err == nil {
			_, err = base.write.ExecContext(ctx, `UPDATE meta SET value = ? WHERE key = 'ledger_id'`, string(l.id))
		}
		if err != nil {
			base.Close()
			return nil, err
		}
		base.id = l.id
	}
	return base, nil
}

func (l *Ledger) prunePartition(ctx context.Context, base *Ledger, p int, before int64, o *PruneOptions) (removed int64, err error) {
	for {
		at := base.fold.head(p).position
		upTo, err := l.prunable(ctx, p, at, before)
		if err != nil {
			return removed, err
		}
		if upTo > at {
			if err := base.absorb(ctx, l.read, p, at, upTo, o.Key); err != nil {
				return removed, err
			}
			if err := o.point("absorbed"); err != nil {
				return removed, err
			}
		}
		n, err := l.forgetUpTo(ctx, base, p, o)
		removed += n
		if err != nil || upTo <= at {
			return removed, err
		}
	}
}

// prunable returns up to where the journal of a partition may go next: to the
// end of one day at most.
func (l *Ledger) prunable(ctx context.Context, p int, after, before int64) (upTo int64, err error) {
	var first *int64
	if err := l.read.QueryRowContext(ctx, `SELECT min(at_us) FROM (SELECT at_us FROM journal WHERE partition = ? AND position > ? ORDER BY position LIMIT 1)`, p, after).Scan(&first); err != nil {
		return 0, err
	}
	if first == nil || *first >= before {
		return after, nil
	}
	day := min(before, *first-*first%odometer.DayMicros+odometer.DayMicros)
	// The feeds: each that there is, up to its cursor; and none at all when
	// nothing was ever published.
	err = l.read.QueryRowContext(ctx, `SELECT min(
		coalesce((SELECT position FROM journal WHERE partition = ?1 AND position > ?2 AND at_us >= ?3 ORDER BY position LIMIT 1), 1 << 62) - 1,
		(SELECT max(position) FROM journal WHERE partition = ?1) - 1,
		coalesce((SELECT min(coalesce((SELECT position FROM feed f WHERE f.name = n.name AND f.partition = ?1), 0)) FROM (SELECT DISTINCT name FROM feed) n), 0))`,
		p, after, day).Scan(&upTo)
	return max(upTo, after), err
}

// absorb folds the records of a partition from after on up to upTo into the
// base, drops their bodies from it and signs its new head, in one transaction
// of the base, to which nobody else writes.
func (l *Ledger) absorb(ctx context.Context, from queryer, p int, after, upTo int64, key ed25519.PrivateKey) error {
	return l.transact(ctx, func(f *fold, now int64) error {
		last, err := headOf(ctx, f.tx, p)
		if err != nil {
			return err
		}
		head := Head{Ledger: l.id, Partition: p, Counts: map[string]int64{}, MinUS: last.MinUS, MaxUS: last.MaxUS, Signed: time.UnixMicro(now).UTC()}
		report := new(Report)
		for r, err := range records(ctx, from, `WHERE partition = ? AND position > ? AND position <= ? ORDER BY position`, p, after, upTo) {
			if err != nil {
				return err
			}
			if err := f.again(r, report); err != nil {
				return err
			}
			if report.Total > 0 {
				return fmt.Errorf("nothing more is removed, because it does not follow from the journal what was decided: %s: %w", report.Differences[0], odometer.ErrConflict)
			}
			if r.entries > 0 {
				if head.MinUS == 0 || r.minUS < head.MinUS {
					head.MinUS = r.minUS
				}
				head.MaxUS = max(head.MaxUS, r.maxUS)
			}
			head.At = r.at
		}
		h := f.head(p)
		if h.position != upTo {
			return fmt.Errorf("its journal ends with record %d before %d: %w", h.position, upTo, odometer.ErrConflict)
		}
		if err := f.writeOut(); err != nil {
			return err
		}
		if err := f.compactAll(p, head.At); err != nil {
			return fmt.Errorf("compact: %w", err)
		}
		_, err = f.exec(`DELETE FROM journal WHERE partition = ?1 AND position < ?2 AND position NOT IN (SELECT position FROM held WHERE partition = ?1)
			AND position NOT IN (SELECT position FROM quarantine WHERE partition = ?1 AND released_us = 0)`, p, upTo)
		if err != nil {
			return err
		}
		head.Position, head.Hash, head.Entry = h.position, hex.EncodeToString(h.hash), h.entry
		for k, n := range f.counts {
			if k.partition == p {
				head.Counts[k.outcome] = n
			}
		}
		if head.State, err = stateHash(ctx, f.tx, p); err != nil {
			return err
		}
		return f.signHead(&head, key)
	})
}

// compactAll compacts the past hours of one partition alone: the others' rows
// are signed.
func (f *fold) compactAll(p int, now int64) error {
	until := odometer.Hour(now - compactAfter)
	for {
		var oldest *int64
		if err := f.tx.QueryRowContext(f.ctx, `SELECT min(hour) FROM hours WHERE partition = ? AND hour < ?`, p, until).Scan(&oldest); err != nil || oldest == nil {
			return err
		}
		day := dayOf(*oldest)
		c := &compaction{fold: f, day: day, until: min(day+odometer.DayMicros, until), owners: map[odometer.Owner]*amounts{}}
		for more := true; more; {
			var err error
			if more, err = c.slice(p); err != nil {
				return err
			}
		}
		if err := c.storeOwners(); err != nil {
			return err
		}
	}
}

// writeOut writes what changed, so that the tables have it within the
// transaction.
func (f *fold) writeOut() error {
	if err := f.flush(); err != nil {
		return err
	}
	for _, e := range f.dirtyEpochs {
		e.dirty, e.fresh = false, false
	}
	f.dirtyEpochs = f.dirtyEpochs[:0]
	return nil
}

// headOf returns the last head of a partition, zero where nothing was pruned.
func headOf(ctx context.Context, db queryer, partition int) (h Head, err error) {
	var body []byte
	err = db.QueryRowContext(ctx, `SELECT body FROM heads WHERE partition = ?`, partition).Scan(&body)
	if errors.Is(err, sql.ErrNoRows) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(body, &h)
	}
	if err != nil {
		return h, fmt.Errorf("head of partition %d: %w", partition, err)
	}
	return h, nil
}

// headContext precedes what is signed, so that the key's signature under it
// means this and nothing else.
const headContext = "odometer journal head 1\n"

func (f *fold) signHead(head *Head, key ed25519.PrivateKey) error {
	body, err := json.Marshal(head)
	if err != nil {
		return err
	}
	_, err = f.exec(`INSERT INTO heads (partition, position, body, key, signature) VALUES (?, ?, ?, ?, ?)
		ON CONFLICT (partition) DO UPDATE SET position = excluded.position, body = excluded.body, key = excluded.key, signature = excluded.signature`,
		head.Partition, head.Position, body, []byte(key.Public().(ed25519.PublicKey)), ed25519.Sign(key, append([]byte(headContext), body...)))
	return err
}

// stateTables are what a head signs of the base: every row of the partition,
// by the columns named, in their order. Receipts are not in it: a frame that
// lies in several partitions moves that of its sender's. Neither are the tables
// that are summed from these.
var stateTables = []struct{ name, columns string }{
	{"journal", "position, kind, at_us, sender, spool, first, last, min_us, max_us, first_entry, entries, body, result, hash"},
	{"epochs", "epoch_no, epoch, instance, agent, counted_by, started_us"},
	{"digests", "epoch_no, chunk, data"},
	{"hours", "hour, epoch_no, usr, org, sums, recovered_us, cause"},
	{"days", "day, epoch_no, usr, org, hours"},
	{"checkpoints", "agent, instance, position, idx"},
	{"held", "epoch, first, sequence, position, idx, since_us, reason, end_us, digest"},
	{"quarantine", "no, position, idx, reason, detail, event_id, instance, epoch, first, sequence, digest, at_us, released_us"},
	{"coverage", "instance, source, start_us, end_us, digest"},
	{"counts", "outcome, n"},
	{"generations", "generation, position, entry"},
	{"reversals", "entry, by_entry, recovered"},
	{"ownership", "instance, from_us, until_us, usr, org"},
	{"moved", "entry"},
	{"closes", "month, everybody, org, position, entry, at_us"},
	{"statements", "month, org, id, at_us, actor, cause, hash, lines, missing, body"},
	{"adjustments", "entry, month, booked, instance, usr, org, sums, recovered_us"},
	{"handovers", "epoch, instance, agent, until_us, sequence, successor"},
	{"lifecycle", "instance, at_us, what, device, agent, boot_us, detail"},
}

// stateHash returns the SHA-256, in hexadecimal, of the tables of a partition:
// for each table its name and a line feed, then its rows in the order of the
// columns named; of each value its type (i integer, t text, b blob) and, for an
// integer, 8 bytes big-endian, for the others the length in the same form and
// the bytes. The open states follow as the table "state" with all its columns.
func stateHash(ctx context.Context, db queryer, p int) (string, error) {
	h := sha256.New()
	for _, t := range stateTables {
		if err := hashRows(ctx, db, h, t.name, `SELECT `+t.columns+` FROM `+t.name+` WHERE partition = ? ORDER BY `+t.columns, p); err != nil {
			return "", err
		}
	}
	if err := hashRows(ctx, db, h, "state", `SELECT id, open_hour, body FROM state WHERE id >= ? AND id < ? ORDER BY id`, stateID(p, 0), stateID(p+1, 0)); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func hashRows(ctx context.Context, db queryer, h hash.Hash, table, query string, args ...any) error {
	rows, err := db.QueryContext(ctx, query, args...)
	if err != nil {
		return fmt.Errorf("hash table %s: %w", table, err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return err
	}
	values := make([]any, len(columns))
	into := make([]any, len(columns))
	for i := range values {
		into[i] = &values[i]
	}
	h.Write([]byte(table + "\n"))
	var b []byte
	for rows.Next() {
		if err := rows.Scan(into...); err != nil {
			return fmt.Errorf("hash table %s: %w", table, err)
		}
		b = b[:0]
		for _, v := range values {
			switch v := v.(type) {
			case int64:
				b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
			case string:
				b = append(binary.BigEndian.AppendUint64(append(b, 't'), uint64(len(v))), v...)
			case []byte:
				b = append(binary.BigEndian.AppendUint64(append(b, 'b'), uint64(len(v))), v...)
			default:
				return fmt.Errorf("hash table %s: a value of type %T: %w", table, v, odometer.ErrInvalid)
			}
		}
		h.Write(b)
	}
	return rows.Err()
}

// forgetBatch is how many records are removed in one transaction.
const forgetBatch = 500

// forgetUpTo notes the base's head of a partition and removes the records up
// to it, but for those that something still refers to.
func (l *Ledger) forgetUpTo(ctx context.Context, base *Ledger, p int, o *PruneOptions) (removed int64, err error) {
	var position int64
	var body, key, signature []byte
	err = base.write.QueryRowContext(ctx, `SELECT position, body, key, signature FROM heads WHERE partition = ?`, p).Scan(&position, &body, &key, &signature)
	if errors.Is(err, sql.ErrNoRows) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	var pins []int64
	err = l.transact(ctx, func(f *fold, _ int64) error {
		// Before anything goes: queries know from here on what cannot be cut.
		_, err := f.exec(`INSERT INTO heads (partition, position, body, key, signature) VALUES (?, ?, ?, ?, ?)
			ON CONFLICT (partition) DO UPDATE SET position = excluded.position, body = excluded.body, key = excluded.key, signature = excluded.signature`,
			p, position, body, key, signature)
		if err == nil {
			pins, err = f.pinned(p, position)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := o.point("noted"); err != nil {
		return 0, err
	}
	for from := int64(0); from < position; {
		var n, to int64
		err := l.transact(ctx, func(f *fold, _ int64) error {
			err := f.tx.QueryRowContext(ctx, `SELECT coalesce(max(position), ?) FROM (SELECT position FROM journal WHERE partition = ? AND position > ? AND position <= ? ORDER BY position LIMIT ?)`,
				position, p, from, position, forgetBatch).Scan(&to)
			if err != nil {
				return err
			}
			keep, err := json.Marshal(within(pins, from, to))
			if err != nil {
				return err
			}
			res, err := f.exec(`DELETE FROM journal WHERE partition = ? AND position > ? AND position <= ? AND position NOT IN (SELECT value FROM json_each(?))`, p, from, to, string(keep))
			if err != nil {
				return err
			}
			n, err = res.RowsAffected()
			return err
		})
		if err != nil {
			return removed, err
		}
		removed, from = removed+n, to
		if err := o.point("removed"); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// within returns the numbers in (from, to]; list is sorted.
func within(list []int64, from, to int64) []int64 {
	a, _ := slices.BinarySearch(list, from+1)
	b, _ := slices.BinarySearch(list, to+1)
	return append([]int64{}, list[a:b]...)
}

// pinned returns the positions up to upTo of a partition that something still
// refers to, sorted.
func (f *fold) pinned(p int, upTo int64) ([]int64, error) {
	var pins []int64
	err := f.each(`SELECT position FROM held WHERE partition = ?1 UNION SELECT position FROM quarantine WHERE partition = ?1 AND released_us = 0
		UNION SELECT position FROM checkpoints WHERE partition = ?1 UNION SELECT position FROM generations WHERE partition = ?1
		UNION SELECT max(position) FROM journal WHERE partition = ?1`, func(rows *sql.Rows) error {
		var at int64
		err := rows.Scan(&at)
		pins = append(pins, at)
		return err
	}, p)
	if err != nil {
		return nil, err
	}
	err = f.each(`SELECT `+epochColumns+` FROM `+epochTables+` WHERE e.partition = ?`, func(rows *sql.Rows) error {
		e := new(epoch)
		err := e.scan(rows)
		if !e.closed && e.countedBy == byVector {
			pins = append(pins, e.position)
		}
		return err
	}, p)
	pins = slices.DeleteFunc(pins, func(at int64) bool { return at > upTo })
	slices.Sort(pins)
	return slices.Compact(pins), err
}

// pruned says what the records that are gone leave out of reach.
type pruned struct {
	minUS int64 // the earliest use that they booked, 0 for none
	maxUS int64 // an hour that begins before this cannot be cut
	at    int64 // when the last of them was committed
}

// prunedOf reads the heads of a ledger's journal.
func prunedOf(ctx context.Context, db queryer) (u pruned, err error) {
	rows, err := db.QueryContext(ctx, `SELECT body FROM heads`)
	if err != nil {
		return u, fmt.Errorf("heads of the journal: %w", err)
	}
	defer rows.Close()
	for rows.Next() {
		var body []byte
		var h Head
		err := rows.Scan(&body)
		if err == nil {
			err = json.Unmarshal(body, &h)
		}
		if err != nil {
			return u, fmt.Errorf("heads of the journal: %w", err)
		}
		if h.MinUS > 0 && (u.minUS == 0 || h.MinUS < u.minUS) {
			u.minUS = h.MinUS
		}
		u.maxUS, u.at = max(u.maxUS, h.MaxUS), max(u.at, h.At)
	}
	return u, rows.Err()
}

// JournalFrom returns the day from which on the journal is complete, zero
// where nothing was pruned.
func (l *Ledger) JournalFrom(ctx context.Context) (time.Time, error) {
	u, err := prunedOf(ctx, l.read)
	if err != nil || u.at == 0 {
		return time.Time{}, err
	}
	return time.UnixMicro(u.at - u.at%odometer.DayMicros + odometer.DayMicros).UTC(), nil
}
