package audit

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
	"os"
	"path/filepath"
	"time"

	"example.org/odometer"
)

// Where the journal was pruned, the audit starts from the base of the ledger,
// ledger-base.db: its tables are what followed from the records that are gone,
// and for each partition a head, signed with the ledger's key, says where they
// ended and what the tables hashed to. The audit checks signature and hash, and
// takes what is signed for true.

// head is what is signed of a partition.
type head struct {
	Ledger    string           `json:"ledger_id"`
	Partition int64            `json:"partition"`
	Position  int64            `json:"position"`
	Hash      string           `json:"hash"`
	At        int64            `json:"at_us"`
	Entry     uint64           `json:"entry"`
	Counts    map[string]int64 `json:"counts"`
	State     string           `json:"state"`
	MaxUS     int64            `json:"max_us"`

	key  ed25519.PublicKey
	hash []byte
}

// headContext precedes what is signed.
const headContext = "odometer journal head 1\n"

// Pruned says from where the audit started.
type Pruned struct {
	Records int64  `json:"records"` // that are gone
	Before  string `json:"before"`  // the first day (UTC) of which the journal is whole
	Key     string `json:"key"`     // fingerprint of the key that signed the heads, the newest where there are several
}

// openBase opens the base of the ledger in the data directory and checks its
// heads. Without a head in the ledger itself nothing has been pruned, and what
// there is of a base may be half made. It must be called after the snapshot of
// the ledger was taken: what the base has by then, that has at least.
func (a *audit) openBase(ctx context.Context, still bool) error {
	var n int
	if err := a.snap.conn.QueryRowContext(ctx, `SELECT count(*) FROM heads`).Scan(&n); err != nil || n == 0 {
		return err
	}
	path := filepath.Join(a.o.DataDir, "ledger-base.db")
	if _, err := os.Stat(path); err != nil {
		return fmt.Errorf("its journal was pruned, and what followed from the records that are gone is missing: %w", err)
	}
	base, err := openSnapshotAt(ctx, path, still, a.o.busy)
	if err != nil {
		return err
	}
	a.base = base
	if base.id != a.snap.id {
		return fmt.Errorf("%s is of another ledger, %s: %w", path, base.id, ErrNotLedger)
	}
	return a.checkHeads(ctx)
}

func (a *audit) checkHeads(ctx context.Context) error {
	a.heads = map[int64]*head{}
	var last int64
	err := a.base.each(ctx, func(rows *sql.Rows) error {
		var partition, position int64
		var body, key, signature []byte
		if err := rows.Scan(&partition, &position, &body, &key, &signature); err != nil {
			return err
		}
		h := new(head)
		switch err := json.Unmarshal(body, h); {
		case len(key) != ed25519.PublicKeySize || !ed25519.Verify(key, append([]byte(headContext), body...), signature):
			a.report.find("head", "the head of partition %d is not signed by its key", partition)
		case err != nil || h.Partition != partition || h.Position != position || h.Ledger != a.snap.id:
			a.report.find("head", "the head of partition %d says that it is of partition %d, ledger %s, record %d", partition, h.Partition, h.Ledger, h.Position)
		}
		h.Partition, h.Position, h.key = partition, position, key
		var err error
		if h.hash, err = hex.DecodeString(h.Hash); err != nil {
			a.report.find("head", "the head of partition %d has the hash %q", partition, h.Hash)
		}
		a.heads[partition] = h
		a.report.Pruned.Records += h.Position
		a.report.Records += h.Position
		a.report.Entries += int64((odometer.EntryID{Number: h.Entry}).Ordinal())
		if h.At >= last {
			sum := sha256.Sum256(key)
			last, a.report.Pruned.Key = h.At, hex.EncodeToString(sum[:8])
		}
		return nil
	}, `SELECT partition, position, body, key, signature FROM heads`)
	if err != nil {
		return fmt.Errorf("read the heads: %w", err)
	}
	if len(a.heads) == 0 {
		return nil
	}
	a.report.Pruned.Before = time.UnixMicro(dayOf(last) + odometer.DayMicros).UTC().Format(time.DateOnly)
	for p, h := range a.heads {
		state, err := a.stateHash(ctx, p)
		if err != nil {
			return err
		}
		if state != h.State {
			a.report.find("head", "partition %d: what is kept of the records that are gone is not what was signed", p)
		}
	}
	return nil
}

// signedTables are the tables of the base that a head signs, with the columns
// in the order in which they are hashed and sorted.
var signedTables = [][2]string{
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

// stateHash works out what a head signs of the base: SHA-256 over each table's
// name with a line feed and its rows; a value is a letter for its type (i, t, b)
// and 8 bytes big-endian, the integer itself or the length of what follows.
func (a *audit) stateHash(ctx context.Context, p int64) (string, error) {
	h := sha256.New()
	for _, t := range signedTables {
		if err := a.hashTable(ctx, h, t[0], `SELECT `+t[1]+` FROM `+t[0]+` WHERE partition = ? ORDER BY `+t[1], p); err != nil {
			return "", err
		}
	}
	err := a.hashTable(ctx, h, "state", `SELECT id, open_hour, body FROM state WHERE id >= ? AND id < ? ORDER BY id`, p<<37, (p+1)<<37)
	return hex.EncodeToString(h.Sum(nil)), err
}

func (a *audit) hashTable(ctx context.Context, h hash.Hash, table, query string, args ...any) error {
	h.Write([]byte(table + "\n"))
	return a.base.each(ctx, func(rows *sql.Rows) error {
		columns, err := rows.Columns()
		if err != nil {
			return err
		}
		values := make([]any, len(columns))
		for i := range values {
			values[i] = new(any)
		}
		if err := rows.Scan(values...); err != nil {
			return err
		}
		var b []byte
		for _, v := range values {
			switch v := (*v.(*any)).(type) {
			case int64:
				b = binary.BigEndian.AppendUint64(append(b, 'i'), uint64(v))
			case string:
				b = append(binary.BigEndian.AppendUint64(append(b, 't'), uint64(len(v))), v...)
			case []byte:
				b = append(binary.BigEndian.AppendUint64(append(b, 'b'), uint64(len(v))), v...)
			default:
				b = append(b, '?')
			}
		}
		h.Write(b)
		return nil
	}, query, args...)
}

// start brings a partition's replay to where its journal begins: what the
// base says is what the records that are gone came to.
func (p *replay) start(ctx context.Context) error {
	h := p.a.heads[p.partition]
	if h == nil {
		return nil
	}
	base := p.a.newReplay(p.partition)
	base.from = p.a.base
	for outcome, n := range h.Counts {
		p.counts[outcome] = n
	}
	numbers, err := p.startEpochs(ctx, base)
	if err != nil {
		return err
	}
	for _, part := range []func(context.Context, map[int64]int64) error{p.startHours, p.startAside, p.startCoverage, p.startReversals, p.startOwnership, p.startMonths, p.startHandovers, p.startLifecycle, p.startRest} {
		if err := part(ctx, numbers); err != nil {
			return fmt.Errorf("read the base: %w", err)
		}
	}
	return nil
}

// startEpochs takes over watermarks, open hours and digests, and returns the
// ledger's epoch numbers by the base's.
func (p *replay) startEpochs(ctx context.Context, base *replay) (numbers map[int64]int64, err error) {
	numbers = map[int64]int64{}
	instances := map[int64]*odometer.Event{}
	base.open = func(r *epochRow, id odometer.Epoch, hour int64, owner odometer.Owner, open *odometer.Usage, recovered int64) error {
		return p.startHour(r.instance, p.epoch(id).no(), hour, owner, open, recovered)
	}
	base.digest = func(no int64, first, sequence uint64, digest []byte) error {
		ev := *instances[no]
		ev.FirstSequence, ev.Sequence = first, sequence
		n := note{identity: hash16([]byte(ev.ID())), what: noteBooked}
		copy(n.content[:], digest)
		return p.once.put(n)
	}
	base.seen = func(id odometer.Epoch, r *epochRow) {
		instances[r.no] = &odometer.Event{Instance: r.instance, Epoch: id}
		p.baseInstances[r.no] = r.instance
	}
	if err := base.loadEpochs(ctx); err != nil {
		return nil, fmt.Errorf("read the base: %w", err)
	}
	for id, b := range base.epochs {
		r := b.row
		w := p.epoch(id)
		numbers[r.no] = w.no()
		w.opened = r.identity
		if r.sequence == 0 {
			continue
		}
		w.instance, w.agent, w.byTime = r.instance, r.agent, r.countedBy == "time"
		w.sequence, w.end, w.vector, w.closed, w.position = r.sequence, r.end, r.vector, r.closed, r.position
		w.total, w.memory = r.vector, r.memory
		p.a.instances[r.instance] = struct{}{}
	}
	return numbers, nil
}

// startHour takes over what was used of an epoch in an hour.
func (p *replay) startHour(instance odometer.InstanceID, no, hour int64, owner odometer.Owner, sums *odometer.Usage, recovered int64) error {
	if err := p.attributeHour(instance, hour, owner, *sums, recovered); err != nil {
		return err
	}
	if m := odometer.MonthOf(hour); len(p.a.closes[p.partition]) > 0 {
		if _, yes := p.a.closedFor(p.partition, m, owner.Org); yes {
			if err := p.a.states(m, m, instance, owner, true, *sums, recovered); err != nil {
				return err
			}
		}
	}
	return p.a.hours.put(hourKey(p.partition, no, hour, owner), true, sums, recovered)
}

// startHours takes over what was used.
func (p *replay) startHours(ctx context.Context, numbers map[int64]int64) error {
	err := p.a.base.each(ctx, func(rows *sql.Rows) error {
		var hour, no, recovered int64
		var owner odometer.Owner
		var blob []byte
		if err := rows.Scan(&hour, &no, &owner.User, &owner.Org, &blob, &recovered); err != nil {
			return err
		}
		sums, err := cutUsage(blob)
		if err != nil {
			return err
		}
		return p.startHour(p.baseInstances[no], numbers[no], hour, owner, &sums, recovered)
	}, `SELECT hour, epoch_no, usr, org, sums, recovered_us FROM hours WHERE partition = ?`, p.partition)
	if err != nil {
		return err
	}
	return p.a.base.each(ctx, func(rows *sql.Rows) error {
		var day, no int64
		var owner odometer.Owner
		var blob []byte
		if err := rows.Scan(&day, &no, &owner.User, &owner.Org, &blob); err != nil {
			return err
		}
		err := eachPart(blob, 24, func(h int64, sums *odometer.Usage, recovered int64) error {
			return p.startHour(p.baseInstances[no], numbers[no], day+h*odometer.HourMicros, owner, sums, recovered)
		})
		if errors.Is(err, odometer.ErrInvalid) {
			p.a.report.find("table", "days of the base, partition %d, epoch number %d, %s: %v", p.partition, no, clock(day), err)
			return nil
		}
		return err
	}, `SELECT day, epoch_no, usr, org, hours FROM days WHERE partition = ?`, p.partition)
}

// startAside takes over what was held and what was in quarantine.
func (p *replay) startAside(ctx context.Context, _ map[int64]int64) error {
	known := func(id string, digest []byte) error {
		n := note{identity: hash16([]byte(id)), what: noteKept}
		copy(n.content[:8], digest)
		return p.once.put(n)
	}
	err := p.a.base.each(ctx, func(rows *sql.Rows) error {
		var at place
		var h heldEvent
		var first, sequence int64
		var digest []byte
		var instance odometer.InstanceID
		var counted string
		if err := rows.Scan(&h.epoch, &first, &sequence, &at.position, &at.index, &h.since, &h.reason, &h.end, &digest, &instance, &counted); err != nil {
			return err
		}
		h.first, h.sequence = uint64(first), uint64(sequence)
		copy(h.digest[:], digest)
		p.held[at] = h
		ev := odometer.Event{Instance: instance, Epoch: h.epoch, FirstSequence: h.first, Sequence: h.sequence}
		if counted == "time" {
			ev = odometer.Event{Instance: instance, Period: odometer.Period{Start: first, End: sequence}}
		}
		return known(ev.ID(), digest)
	}, `SELECT h.epoch, h.first, h.sequence, h.position, h.idx, h.since_us, h.reason, h.end_us, h.digest, e.instance, e.counted_by
		FROM held h JOIN epochs e ON e.partition = h.partition AND e.epoch = h.epoch WHERE h.partition = ?`, p.partition)
	if err != nil {
		return err
	}
	return p.a.base.each(ctx, func(rows *sql.Rows) error {
		var at place
		k := kept{}
		var digest []byte
		var first, sequence int64
		if err := rows.Scan(&at.position, &at.index, &k.reason, &k.detail, &k.id, &k.instance, &k.epoch, &first, &sequence, &digest, &k.at, &k.released); err != nil {
			return err
		}
		k.first, k.sequence = uint64(first), uint64(sequence)
		copy(k.digest[:], digest)
		p.quarantined[at] = &k
		if k.reason == "conflict" {
			p.a.report.Conflicts++
		}
		if k.id != "" {
			return known(k.id, digest)
		}
		// What is no event is known by its bytes, which the base keeps.
		r := new(row)
		err := r.scan(p.a.base.conn.QueryRowContext(ctx, `SELECT `+rowColumns+` FROM journal WHERE partition = ? AND position = ?`, p.partition, at.position))
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		if err != nil {
			return err
		}
		raw := r.body
		if r.kind == "frame" {
			f, err := odometer.DecodeFrame(r.body)
			if err != nil || at.index >= len(f.Records) {
				return err
			}
			raw = f.Records[at.index].Raw
		}
		return p.once.put(note{identity: hash16([]byte("raw"), raw), what: noteKept})
	}, `SELECT position, idx, reason, detail, event_id, instance, epoch, first, sequence, digest, at_us, released_us FROM quarantine WHERE partition = ?`, p.partition)
}

// startCoverage takes over the periods of version 1.0.
func (p *replay) startCoverage(ctx context.Context, _ map[int64]int64) error {
	return p.a.base.each(ctx, func(rows *sql.Rows) error {
		var instance odometer.InstanceID
		var source string
		var span odometer.Span
		var digest []byte
		if err := rows.Scan(&instance, &source, &span.Start, &span.End, &digest); err != nil {
			return err
		}
		ev := odometer.Event{Instance: instance, Period: odometer.Period{Start: span.Start / odometer.SecondMicros, End: span.End / odometer.SecondMicros}}
		n := note{identity: hash16([]byte(ev.ID())), what: noteBooked}
		copy(n.content[:8], digest)
		from := hash16([]byte(source))
		copy(n.source[:], from[:])
		if err := p.once.put(n); err != nil {
			return err
		}
		return p.covers(instance, source, span, digest, true)
	}, `SELECT instance, source, start_us, end_us, digest FROM coverage WHERE partition = ?`, p.partition)
}

// startRest takes over how far each spool had come, the places of checkpoints
// and the generations.
func (p *replay) startRest(ctx context.Context, _ map[int64]int64) error {
	err := p.a.base.each(ctx, func(rows *sql.Rows) error {
		var k spoolKey
		var home int64
		err := rows.Scan(&k.agent, &k.spool, &home)
		p.taken[k] = uint64(home)
		return err
	}, `SELECT agent, spool, home FROM spools WHERE partition = ?`, p.partition)
	if err != nil {
		return err
	}
	err = p.a.base.each(ctx, func(rows *sql.Rows) error {
		var key [2]string
		var at place
		err := rows.Scan(&key[0], &key[1], &at.position, &at.index)
		p.checkpoints[key] = at
		return err
	}, `SELECT agent, instance, position, idx FROM checkpoints WHERE partition = ?`, p.partition)
	if err != nil {
		return err
	}
	return p.a.base.each(ctx, func(rows *sql.Rows) error {
		var b begin
		if err := rows.Scan(&b.generation, &b.position, &b.entry); err != nil {
			return err
		}
		p.a.begun++
		p.a.expectBegin(p.partition, b)
		return nil
	}, `SELECT generation, position, entry FROM generations WHERE partition = ?`, p.partition)
}

// startReceipts returns how far the records that are gone had each spool, and
// how far those of the partition of its agent.
func (a *audit) startReceipts(ctx context.Context) (ends, homes map[spoolKey]uint64, err error) {
	ends, homes = map[spoolKey]uint64{}, map[spoolKey]uint64{}
	if a.base == nil {
		return ends, homes, nil
	}
	err = a.base.each(ctx, func(rows *sql.Rows) error {
		var k spoolKey
		var position, home int64
		err := rows.Scan(&k.agent, &k.spool, &position, &home)
		ends[k], homes[k] = uint64(position), uint64(home)
		return err
	}, `SELECT agent, spool, position, home FROM spools`)
	return ends, homes, err
}

// gone reports whether a record lies in the pruned part of its journal; what is
// there of it is kept because something refers to it.
func (a *audit) gone(partition, position int64) bool {
	h := a.heads[partition]
	return h != nil && position <= h.Position
}

// goneEntry returns the last entry of a partition that was booked by a record
// that is gone.
func (a *audit) goneEntry(partition int) uint64 {
	if h := a.heads[int64(partition)]; h != nil {
		return h.Entry
	}
	return 0
}
