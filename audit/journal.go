package audit

import (
	"bytes"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"runtime"
	"sync"

	"example.org/odometer"
)

// row is one record of the journal.
type row struct {
	id                  int64 // the order of commit over all partitions
	partition, position int64
	kind                string
	at                  int64
	sender, spool       string
	first, last         uint64
	minUS, maxUS        int64
	firstEntry, entries uint64
	body, result, hash  []byte
	checksum            int64
	frame               *odometer.Frame // nil unless kind is frame and the body can be read
	decided             outcomes
	booked              []booking    // by entry number
	reverses            *reversal    // the entry that a person decided to reverse; nil for other records
	offers              *offer       // the epoch that an agent was told the end of; nil for other records
	offered             uint64       // and the sequence there
	byPerson            bool         // a person decided to release what it books
	appoints            *appointment // whose an instance is, as a person decided; nil for other records
	moves               []move       // what it moves between owners
	closes              *closing     // the month that a person closed; nil for other records
	states              *statementOf // the statement that it has; nil for other records
	statement           []byte       // its text
	actor, cause        string       // of a person's decision
	marks               []mark       // of the frame's events; nil where they were not asked for
}

// mark tells an event from every other: a hash of its id, and what it says.
type mark struct {
	identity [16]byte
	content  odometer.Digest
}

func markOf(ev *odometer.Event) mark { return mark{hash16([]byte(ev.ID())), ev.Content()} }

// mark returns that of the frame's event ev, which has an index there.
func (r *row) mark(index int, ev *odometer.Event) mark {
	if index < len(r.marks) && r.eventAt(index) == ev {
		return r.marks[index]
	}
	return markOf(ev)
}

func (r *row) String() string { return fmt.Sprintf("journal record %d-%d", r.partition, r.position) }

// outcomes is what a record's result says.
type outcomes struct {
	Runs []struct {
		N       int    `json:"n"`
		Outcome string `json:"outcome"`
		Entry   uint64 `json:"entry"`
		Reason  string `json:"reason"`
		Detail  string `json:"detail"`
	} `json:"runs"`
	Bookings []json.RawMessage `json:"bookings"`
	Owners   []charged         `json:"owners"`
	Released []struct {
		Position int64  `json:"position"`
		Index    int    `json:"index"`
		Outcome  string `json:"outcome"`
	} `json:"released"`
}

// booking is an entry, and the index of the record that it books as it is.
type booking struct {
	entry *odometer.Entry
	index int // -1 where the booking stands by itself
}

const rowColumns = `id, partition, position, kind, at_us, sender, spool, first, last, min_us, max_us, first_entry, entries, body, result, hash, checksum`

// scan reads a row. The blobs are its own.
func (r *row) scan(rows interface{ Scan(...any) error }) error {
	var first, last, firstEntry, entries int64
	err := rows.Scan(&r.id, &r.partition, &r.position, &r.kind, &r.at, &r.sender, &r.spool, &first, &last,
		&r.minUS, &r.maxUS, &firstEntry, &entries, &r.body, &r.result, &r.hash, &r.checksum)
	r.first, r.last, r.firstEntry, r.entries = uint64(first), uint64(last), uint64(firstEntry), uint64(entries)
	return err
}

// link returns the hash that a record must have after one with hash prev:
// SHA-256 over prev (32 zero bytes for the first), partition, position, time,
// kind, sender, spool, first, last, body and result; integers as 8 bytes
// big-endian, everything else after its length in the same form.
func (r *row) link(prev []byte) []byte {
	var b []byte
	num := func(n uint64) { b = binary.BigEndian.AppendUint64(b, n) }
	str := func(s string) { num(uint64(len(s))); b = append(b, s...) }
	h := sha256.New()
	if prev == nil {
		prev = make([]byte, 32)
	}
	b = append(b, prev...)
	num(uint64(r.partition))
	num(uint64(r.position))
	num(uint64(r.at))
	str(r.kind)
	str(r.sender)
	str(r.spool)
	num(r.first)
	num(r.last)
	num(uint64(len(r.body)))
	h.Write(b)
	h.Write(r.body)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(len(r.result))))
	h.Write(r.result)
	return h.Sum(nil)
}

// sum returns the checksum that a record must have: CRC-32C over all columns
// but id and checksum, in the table's order and written as for the hash.
func (r *row) sum() int64 {
	var b []byte
	num := func(n uint64) { b = binary.BigEndian.AppendUint64(b, n) }
	str := func(s string) { num(uint64(len(s))); b = append(b, s...) }
	num(uint64(r.partition))
	num(uint64(r.position))
	str(r.kind)
	num(uint64(r.at))
	str(r.sender)
	str(r.spool)
	num(r.first)
	num(r.last)
	num(uint64(r.minUS))
	num(uint64(r.maxUS))
	num(r.firstEntry)
	num(r.entries)
	str(string(r.body))
	str(string(r.result))
	str(string(r.hash))
	return int64(crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
}

// records returns how many outcomes the record's runs must give.
func (r *row) records() int {
	switch {
	case r.kind == "broken":
		return 1
	case r.frame != nil:
		return len(r.frame.Records)
	}
	return 0
}

// read decodes body and result and collects the bookings. What cannot be read
// is a finding; the rest of the record is then left out of the audit.
func (r *row) read(rep *Report) bool {
	switch r.kind {
	case "frame":
		f, err := odometer.DecodeFrame(r.body)
		if err != nil {
			rep.find("journal_body", "%s: the frame cannot be read: %v", r, err)
			return false
		}
		r.frame = f
		// A frame that came without a spool, and the part of a frame that has
		// other parts in other partitions, are written down without positions.
		whole := f.Spool != ""
		if string(f.Agent) != r.sender || whole && (string(f.Spool) != r.spool || f.First != r.first || f.Last != r.last) {
			rep.find("journal_body", "%s: the frame is of %s, spool %q, %d to %d; the journal says %s, spool %q, %d to %d",
				r, f.Agent, f.Spool, f.First, f.Last, r.sender, r.spool, r.first, r.last)
		}
	case "decision":
		var err error
		if err = r.readDecision(); err != nil {
			rep.find("journal_body", "%s: the decision cannot be read: %v: %.80q", r, err, r.body)
			return false
		}
	case "broken":
	default:
		rep.find("journal_body", "%s is of the unknown kind %q", r, r.kind)
		return false
	}
	if err := json.Unmarshal(r.result, &r.decided); err != nil {
		rep.find("journal_result", "%s: what was decided cannot be read: %v", r, err)
		return false
	}
	return r.collect(rep)
}

// collect lists the entries that the record booked, by number, and checks that
// they are those it claims and that the runs cover its records.
func (r *row) collect(rep *Report) bool {
	covered := 0
	plain := uint64(0)
	for _, run := range r.decided.Runs {
		if run.N < 1 || run.N > r.records()-covered {
			covered += max(run.N, 0)
			break
		}
		covered += run.N
		if run.Entry != 0 {
			plain += uint64(run.N)
		}
	}
	if covered != r.records() {
		rep.find("journal_runs", "%s has %d records and outcomes for %d", r, r.records(), covered)
		return false
	}
	if n := plain + uint64(len(r.decided.Bookings)); n != r.entries {
		rep.find("journal_entries", "%s claims %d entries and books %d", r, r.entries, n)
		return false
	}
	r.booked = make([]booking, r.entries)
	ok := true
	put := func(number uint64, b booking) {
		i := number - r.firstEntry
		if number < r.firstEntry || i >= r.entries || r.booked[i].entry != nil {
			rep.find("journal_entries", "%s books entry %d-%d, which is not the next of its entries %d to %d", r, r.partition, number, r.firstEntry, r.firstEntry+r.entries-1)
			ok = false
			return
		}
		r.booked[i] = b
	}
	for i, raw := range r.decided.Bookings {
		e, err := odometer.DecodeEntry(raw)
		if err != nil {
			rep.find("journal_result", "%s: booking %d cannot be read: %v", r, i, err)
			return false
		}
		if int64(e.ID.Partition) != r.partition {
			rep.find("partition", "%s books entry %s", r, e.ID)
			return false
		}
		put(e.ID.Number, booking{e, -1})
	}
	index := 0
	entries := make([]odometer.Entry, plain)
	for _, run := range r.decided.Runs {
		for n := range run.N {
			if run.Entry != 0 {
				ev := r.eventAt(index)
				if ev == nil || run.Outcome != string(odometer.Recorded) {
					rep.find("journal_runs", "%s: record %d is booked as it is, and it is no recorded event", r, index)
					return false
				}
				id := odometer.EntryID{Partition: int(r.partition), Number: run.Entry + uint64(n)}
				e := &entries[0]
				entries = entries[1:]
				e.ID, e.Kind, e.SourceEventID, e.BookedAt, e.Event = id, odometer.KindUsage, ev.ID(), r.at, *ev
				e.Event.Owner = payer(ev)
				if c := r.charge(id.Number); c != nil {
					e.Event.Owner = c.owner()
				}
				put(id.Number, booking{e, index})
			}
			index++
		}
	}
	return ok
}

// payer returns who an event is charged to: the owner it names, "unassigned"
// where it names no user.
func payer(ev *odometer.Event) odometer.Owner {
	o := ev.Owner
	if o.User == "" {
		o.User = "unassigned"
	}
	return o
}

// eventAt returns the event of a record of the frame, nil where there is none.
func (r *row) eventAt(index int) *odometer.Event {
	if r.frame == nil || index < 0 || index >= len(r.frame.Records) {
		return nil
	}
	return r.frame.Records[index].Event
}

// checkSpan compares the times that queries find the record by with its
// entries.
func (r *row) checkSpan(rep *Report) {
	var from, to int64
	for i, b := range r.booked {
		span := b.entry.Event.Span
		if i == 0 || span.Start < from {
			from = span.Start
		}
		to = max(to, span.End)
	}
	if r.minUS != from || r.maxUS != to {
		rep.find("journal_span", "%s: its entries lie from %d to %d, the journal says %d to %d", r, from, to, r.minUS, r.maxUS)
	}
}

// readAhead is how many records lie between what reads the database and what
// replays them: enough to keep every processor busy, and bounded.
const readAhead = 32

// ahead is a record that is examined by itself, before its turn comes.
type ahead struct {
	r     *row
	prev  []byte  // hash of the record before it
	found *Report // findings about this record alone
	gone  bool    // it lies before the head of a pruned journal
	whole bool    // it can be replayed
	done  chan struct{}
}

// examine is the part of the work on a record that needs no other: most of it.
func (h *ahead) examine() {
	defer close(h.done)
	r := h.r
	if !bytes.Equal(r.hash, r.link(h.prev)) {
		h.found.find("journal_chain", "%s: its hash does not follow from what it says and the record before it", r)
	}
	if r.checksum != r.sum() {
		h.found.find("journal_checksum", "%s: its checksum is %d, what it says has %d: the ledger does not read it", r, r.checksum, r.sum())
	}
	if h.whole = r.read(h.found); h.whole {
		r.checkSpan(h.found)
		r.marks = make([]mark, r.records())
		for i := range r.marks {
			if ev := r.eventAt(i); ev != nil {
				r.marks[i] = markOf(ev)
			}
		}
	}
}

// readJournal calls do for every record of a partition, in order, after
// checking its place in the chain. Records are decoded on every processor and
// replayed on one.
func (a *audit) readJournal(ctx context.Context, partition int64, do func(*row) error) error {
	ctx, cancel := context.WithCancel(ctx)
	work, turn := make(chan *ahead), make(chan *ahead, readAhead)
	var readers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		readers.Go(func() {
			for h := range work {
				h.examine()
			}
		})
	}
	var read error
	readers.Go(func() {
		defer close(turn)
		defer close(work)
		var prev []byte
		if h := a.heads[partition]; h != nil {
			prev = h.hash
		}
		read = a.snap.each(ctx, func(rows *sql.Rows) error {
			h := &ahead{r: new(row), prev: prev, found: newReport(), done: make(chan struct{})}
			if err := h.r.scan(rows); err != nil {
				return err
			}
			if h.gone = a.gone(partition, h.r.position); h.gone {
				close(h.done)
			} else {
				prev = h.r.hash
			}
			select {
			case turn <- h:
			case <-ctx.Done():
				return ctx.Err()
			}
			if !h.gone {
				work <- h
			}
			return nil
		}, `SELECT `+rowColumns+` FROM journal WHERE partition = ? ORDER BY position`, partition)
	})
	err := a.follow(partition, turn, do)
	cancel()
	for range turn { // what was read and is not wanted any more
	}
	readers.Wait()
	if err == nil && read != nil {
		err = fmt.Errorf("read the journal of partition %d: %w", partition, read)
	}
	return err
}

// follow takes the records in their order.
func (a *audit) follow(partition int64, turn <-chan *ahead, do func(*row) error) error {
	rep := a.report
	var position, id int64
	var entry uint64
	if h := a.heads[partition]; h != nil {
		position, entry = h.Position, h.Entry
	}
	for h := range turn {
		<-h.done
		r := h.r
		if h.gone {
			a.tick()
			continue
		}
		if r.position != position+1 {
			rep.find("journal_position", "%s follows position %d", r, position)
		}
		if r.id <= id {
			rep.find("journal_position", "%s has the id %d after the id %d: it is read before its turn", r, r.id, id)
		}
		if r.firstEntry != a.nextEntry(r, entry) {
			rep.find("journal_entries", "%s begins with entry %d after entry %d", r, r.firstEntry, entry)
		}
		for _, f := range h.found.Findings {
			rep.find(f.Code, "%s", f.Detail)
		}
		position, id = r.position, max(id, r.id)
		entry = r.firstEntry + r.entries - 1
		rep.Records++
		rep.Entries += int64(r.entries)
		a.tick()
		if !h.whole {
			continue
		}
		if err := do(r); err != nil {
			return err
		}
	}
	return nil
}

// checkIDs proves that the order of commit over all partitions has no holes: a
// record with another id is read out of its turn. Records are removed only up to
// a head, so that from where every partition is whole on each id is there.
func (a *audit) checkIDs(ctx context.Context) error {
	from := int64(1)
	for p, h := range a.heads {
		var first sql.NullInt64
		if err := a.snap.conn.QueryRowContext(ctx, `SELECT min(id) FROM journal WHERE partition = ? AND position > ?`, p, h.Position).Scan(&first); err != nil {
			return fmt.Errorf("read the journal's ids: %w", err)
		}
		from = max(from, first.Int64)
	}
	var n int64
	var last sql.NullInt64
	if err := a.snap.conn.QueryRowContext(ctx, `SELECT count(*), max(id) FROM journal WHERE id >= ?`, from).Scan(&n, &last); err != nil {
		return fmt.Errorf("read the journal's ids: %w", err)
	}
	if n > 0 && last.Int64-from != n-1 {
		a.report.find("journal_position", "the journal has %d records from id %d on, and the last has the id %d", n, from, last.Int64)
	}
	if len(a.heads) == 0 && n != a.all {
		a.report.find("journal_position", "%d records have an id below 1", a.all-n)
	}
	return nil
}

// fetch reads one record of a partition again, for an event whose outcome
// changed later.
func (a *audit) fetch(ctx context.Context, partition, position int64) (*row, error) {
	r, from := new(row), a.snap
	if a.gone(partition, position) {
		from = a.base
	}
	if err := r.scan(from.conn.QueryRowContext(ctx, `SELECT `+rowColumns+` FROM journal WHERE partition = ? AND position = ?`, partition, position)); err != nil {
		return nil, err
	}
	f, err := odometer.DecodeFrame(r.body)
	if err != nil {
		return nil, err
	}
	r.frame = f
	return r, nil
}
