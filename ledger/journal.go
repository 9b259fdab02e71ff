package ledger

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"iter"

	"example.org/odometer"
)

// record is one row of the journal.
type record struct {
	id         int64
	partition  int
	position   int64
	kind       string
	at         int64
	sender     string
	spool      string
	first      uint64
	last       uint64
	minUS      int64
	maxUS      int64
	firstEntry uint64
	entries    uint64
	body       []byte
	result     []byte
	hash       []byte
}

// Kinds of record.
const (
	kindFrame    = "frame"    // body: the frame as it was received
	kindBroken   = "broken"   // body: what was received and could not be opened as a frame
	kindDecision = "decision" // body: a decision in JSON
)

// result says what became of each record of a frame, and lists the bookings
// that do not follow from the frame alone.
type result struct {
	// Runs cover the frame's records in order.
	Runs []run `json:"runs"`
	// Bookings are complete entries: differences, recoveries, corrections and
	// events that were released from being held.
	Bookings []json.RawMessage `json:"bookings,omitempty"`
	// Owners says who is charged where that is not whom the event names.
	Owners charges `json:"owners,omitempty"`
	// Released lists events of earlier records whose outcome changed.
	Released []release `json:"released,omitempty"`
}

// run is N consecutive records with the same outcome.
type run struct {
	N       int    `json:"n"`
	Outcome string `json:"outcome"`
	// Entry is the number of the first of N entries that book the N events as
	// they are: their whole usage, to the owner they name or that
	// result.Owners names. 0 where the bookings stand in result.Bookings.
	Entry  uint64 `json:"entry,omitempty"`
	Reason string `json:"reason,omitempty"`
	Detail string `json:"detail,omitempty"`
}

// release names an event by its place in the journal.
type release struct {
	Position int64            `json:"position"`
	Index    int              `json:"index"`
	Outcome  odometer.Outcome `json:"outcome"`
}

// covers widens the time that r's entries lie in.
func (r *record) covers(s odometer.Span) {
	if r.minUS == 0 || s.Start < r.minUS {
		r.minUS = s.Start
	}
	r.maxUS = max(r.maxUS, s.End)
}

// outcomeCheckpoint is the outcome of a record that carries no event.
const outcomeCheckpoint = "checkpoint"

// add appends one outcome, lengthening the last run where it continues it.
func (r *result) add(next run) {
	if n := len(r.Runs); n > 0 {
		last := &r.Runs[n-1]
		continues := last.Entry == 0 && next.Entry == 0 || last.Entry != 0 && next.Entry == last.Entry+uint64(last.N)
		if continues && last.Outcome == next.Outcome && last.Reason == next.Reason && last.Detail == next.Detail {
			last.N++
			return
		}
	}
	r.Runs = append(r.Runs, next)
}

// chain returns the hash of r: SHA-256 over the previous record's hash and
// everything that was decided when r was committed. Strings and blobs are
// preceded by their length; integers are 8 bytes, big-endian.
func (r *record) chain(prev []byte) []byte {
	h := sha256.New()
	var n [8]byte
	integer := func(v uint64) { binary.BigEndian.PutUint64(n[:], v); h.Write(n[:]) }
	text := func(b []byte) { integer(uint64(len(b))); h.Write(b) }
	if prev == nil {
		prev = make([]byte, sha256.Size)
	}
	h.Write(prev)
	integer(uint64(r.partition))
	integer(uint64(r.position))
	integer(uint64(r.at))
	text([]byte(r.kind))
	text([]byte(r.sender))
	text([]byte(r.spool))
	integer(r.first)
	integer(r.last)
	text(r.body)
	text(r.result)
	return h.Sum(nil)
}

// checksum returns the CRC-32C of r, which tells a record that was read as it
// was written from one of which a bit has changed on the disk; what a person
// changed the hash tells. It covers every column but id and itself, in their
// order: integers as 8 bytes, big-endian, strings and blobs after their length.
func (r *record) checksum() uint32 {
	var buf [512]byte
	b := buf[:0]
	integer := func(v uint64) { b = binary.BigEndian.AppendUint64(b, v) }
	text := func(s string) { integer(uint64(len(s))); b = append(b, s...) }
	integer(uint64(r.partition))
	integer(uint64(r.position))
	text(r.kind)
	integer(uint64(r.at))
	text(r.sender)
	text(r.spool)
	for _, v := range [...]uint64{r.first, r.last, uint64(r.minUS), uint64(r.maxUS), r.firstEntry, r.entries} {
		integer(v)
	}
	sum := crc32.Checksum(b, castagnoli)
	for _, blob := range [...][]byte{r.body, r.result, r.hash} {
		b = binary.BigEndian.AppendUint64(b[:0], uint64(len(blob)))
		sum = crc32.Update(crc32.Update(sum, castagnoli, b), castagnoli, blob)
	}
	return sum
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// ErrDamaged says that a record of the journal is not what was written. What
// it would say of usage is not told; a backup has it, and the audit names what
// else is damaged.
var ErrDamaged = errors.New("the record is damaged: it fails its checksum; run `odometer audit`, and restore a backup")

const recordColumns = `id, partition, position, kind, at_us, sender, spool, first, last, min_us, max_us, first_entry, entries, body, result, hash, checksum`

// scan reads a row and compares it with its checksum.
func (r *record) scan(rows interface{ Scan(...any) error }) error {
	var first, last, firstEntry, entries, sum int64
	err := rows.Scan(&r.id, &r.partition, &r.position, &r.kind, &r.at, &r.sender, &r.spool, &first, &last,
		&r.minUS, &r.maxUS, &firstEntry, &entries, &r.body, &r.result, &r.hash, &sum)
	if err != nil {
		return err
	}
	r.first, r.last, r.firstEntry, r.entries = uint64(first), uint64(last), uint64(firstEntry), uint64(entries)
	if sum != int64(r.checksum()) {
		return fmt.Errorf("journal record %d-%d: %w", r.partition, r.position, ErrDamaged)
	}
	return nil
}

// queryer is what a transaction and a database have in common.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// journalEnds has the last record of each partition, each found at the end of
// the partition, however long the journal is.
const journalEnds = `(WITH RECURSIVE n (partition) AS (SELECT min(partition) FROM journal UNION ALL
	SELECT (SELECT min(k.partition) FROM journal k WHERE k.partition > n.partition) FROM n WHERE n.partition IS NOT NULL)
	SELECT j.partition, j.position, j.first_entry + j.entries - 1 AS entry, j.hash FROM n CROSS JOIN journal j
	WHERE j.partition = n.partition AND j.position = (SELECT max(k.position) FROM journal k WHERE k.partition = n.partition))`

// records yields the rows of the journal that match where, in its order. A
// row that is damaged is yielded with an error that wraps [ErrDamaged], and
// those after it follow; every other error ends them.
func records(ctx context.Context, db queryer, where string, args ...any) iter.Seq2[*record, error] {
	return func(yield func(*record, error) bool) {
		rows, err := db.QueryContext(ctx, `SELECT `+recordColumns+` FROM journal `+where, args...)
		if err != nil {
			yield(nil, fmt.Errorf("read journal: %w", err))
			return
		}
		defer rows.Close()
		for rows.Next() {
			r := new(record)
			if err := r.scan(rows); err != nil {
				if !yield(r, fmt.Errorf("read journal: %w", err)) || !errors.Is(err, ErrDamaged) {
					return
				}
				continue
			}
			if !yield(r, nil) {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, fmt.Errorf("read journal: %w", err))
		}
	}
}

// recordAt returns one row of the journal.
func recordAt(ctx context.Context, db queryer, partition int, position int64) (*record, error) {
	r := new(record)
	err := r.scan(db.QueryRowContext(ctx, `SELECT `+recordColumns+` FROM journal WHERE partition = ? AND position = ?`, partition, position))
	if err != nil {
		return nil, fmt.Errorf("journal record %d-%d: %w", partition, position, err)
	}
	return r, nil
}

// event returns the event at an index of the frame in r.
func (r *record) event(index int) (*odometer.Record, error) {
	f, err := odometer.DecodeFrame(r.body)
	if err != nil {
		return nil, fmt.Errorf("journal record %d-%d: %w", r.partition, r.position, err)
	}
	if index < 0 || index >= len(f.Records) {
		return nil, fmt.Errorf("journal record %d-%d has %d events, not %d: %w", r.partition, r.position, len(f.Records), index+1, odometer.ErrNotFound)
	}
	return &f.Records[index], nil
}

// booked returns the entries that r booked, by entry number.
func (r *record) booked() ([]odometer.Entry, error) {
	if r.entries == 0 {
		return nil, nil
	}
	fail := func(err error) ([]odometer.Entry, error) {
		return nil, fmt.Errorf("journal record %d-%d: %w", r.partition, r.position, err)
	}
	var res result
	if err := json.Unmarshal(r.result, &res); err != nil {
		return fail(err)
	}
	entries := make([]odometer.Entry, r.entries)
	put := func(e odometer.Entry) error {
		i := e.ID.Number - r.firstEntry
		if e.ID.Number < r.firstEntry || i >= r.entries || entries[i].Kind != "" {
			return fmt.Errorf("entry %s is out of place: %w", e.ID, odometer.ErrInvalid)
		}
		entries[i] = e
		return nil
	}
	for _, b := range res.Bookings {
		e, err := odometer.DecodeEntry(b)
		if err != nil {
			return fail(err)
		}
		if err := put(*e); err != nil {
			return fail(err)
		}
	}
	if len(res.Bookings) < len(entries) {
		f, err := odometer.DecodeFrame(r.body)
		if err != nil {
			return fail(err)
		}
		i := 0
		for _, run := range res.Runs {
			for n := range run.N {
				if run.Entry != 0 {
					if i >= len(f.Records) || f.Records[i].Event == nil {
						return fail(fmt.Errorf("run without its event: %w", odometer.ErrInvalid))
					}
					e := plainEntry(f.Records[i].Event, odometer.EntryID{Partition: r.partition, Number: run.Entry + uint64(n)}, r.at)
					if c := res.Owners.of(e.ID.Number); c != nil {
						e.Event.Owner = c.owner()
					}
					if err := put(e); err != nil {
						return fail(err)
					}
				}
				i++
			}
		}
	}
	for i := range entries {
		if entries[i].Kind == "" {
			return fail(fmt.Errorf("entry %d is missing: %w", r.firstEntry+uint64(i), odometer.ErrInvalid))
		}
	}
	return entries, nil
}

// plainEntry books an event as it is.
func plainEntry(e *odometer.Event, id odometer.EntryID, at int64) odometer.Entry {
	entry := odometer.Entry{ID: id, Kind: odometer.KindUsage, SourceEventID: e.ID(), BookedAt: at, Event: *e}
	entry.Event.Owner = e.Owner.OrUnassigned()
	return entry
}
