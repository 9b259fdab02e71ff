package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"strings"

	"example.org/odometer"
)

// fold turns journal records into tables: the same code books a frame that
// has just arrived and one that is replayed by Rebuild. Its result depends on
// the tables and the record alone; whom it is charged to, which may have been
// decided in another partition, a record that is replayed says itself.
//
// A fold works within one transaction at a time, between begin and either
// committed or forget. It is used by one goroutine.
type fold struct {
	bounds Bounds

	// Mirrors of the tables, complete.
	heads  map[int]*head
	spools map[spoolKey]uint64
	homes  map[spoolKey]uint64 // of each spool, how far the records of its agent's partition have come
	counts map[countKey]int64
	held   map[epochKey]int // epochs with held events
	waits  map[epochKey]int // epochs with events in quarantine that are foreign: see foreign.go
	known  map[int]int64    // by partition: up to which epoch the owners are entered
	// Epochs that were offered to agents, and the same by who would go on there.
	handed    map[epochKey][]handover
	awaited   map[successor]epochKey
	from      int64                      // no open hour is before this; see openFrom
	someOwned bool                       // it is recorded of some instance who owned it
	closedTo  [odometer.Partitions]int64 // no month that ends later was closed in a partition; 0 for none
	opened    int64                      // the earliest hour opened since the upkeep began to seal
	booked    uint64                     // entries booked since opening, to see news

	// Who named another owner than is recorded: see disagreement.go.
	disagreed disagreements
	decided   map[odometer.InstanceID]int64 // when it was last decided whose it is, since opening
	since     int64                         // opening

	// Cache of the tables epochs and state: what is not here is read from there.
	epochs map[epochKey]*epoch
	rows   map[int64]*stateRow // the same, by their row of the table state

	// The transaction at work.
	ctx         context.Context
	tx          *sql.Tx
	stmts       map[string]*sql.Stmt
	dirtyEpochs []*epoch
	dirtyCounts map[countKey]bool
	dirtySpools map[spoolKey]int64 // time of the change
	newFrom     bool
	bookedIn    []stretch // hours
	given       charges   // whom a record is charged to that is folded again; nil for one that is new
	paying      []payer   // for the booking at work
	buf         []byte    // of the row being written
	disagreeing []Disagreement
	stale       bool
	db          *sql.DB
}

// head is the end of one partition's journal.
type head struct {
	position int64
	hash     []byte
	entry    uint64 // last entry number
	epochNo  int64
	quarNo   int64
}

type spoolKey struct {
	partition int
	agent     odometer.AgentID
	spool     odometer.SpoolID
}

// countReceived is the count of all events, whatever became of them.
const countReceived = "received"

type countKey struct {
	partition int
	outcome   string
}

func newFold(ctx context.Context, db *sql.DB, b Bounds) (*fold, error) {
	f := &fold{bounds: b, db: db, stale: true, decided: map[odometer.InstanceID]int64{}}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, err
	}
	defer tx.Rollback()
	if err := f.begin(ctx, tx); err != nil {
		return nil, err
	}
	f.committed()
	return f, nil
}

// begin starts work in tx, reading the mirrors again if they were forgotten.
func (f *fold) begin(ctx context.Context, tx *sql.Tx) error {
	f.ctx, f.tx = ctx, tx
	f.stmts = map[string]*sql.Stmt{}
	f.dirtyEpochs = f.dirtyEpochs[:0]
	f.disagreeing = f.disagreeing[:0]
	f.bookedIn = nil
	f.dirtyCounts = map[countKey]bool{}
	f.dirtySpools = map[spoolKey]int64{}
	if !f.stale {
		return nil
	}
	f.heads = map[int]*head{}
	f.spools, f.homes = map[spoolKey]uint64{}, map[spoolKey]uint64{}
	f.counts = map[countKey]int64{}
	f.held, f.waits = map[epochKey]int{}, map[epochKey]int{}
	f.known = map[int]int64{}
	f.handed, f.awaited = map[epochKey][]handover{}, map[successor]epochKey{}
	f.from, f.newFrom = 0, false
	f.epochs, f.rows = map[epochKey]*epoch{}, map[int64]*stateRow{}
	if err := f.loadMirrors(); err != nil {
		return err
	}
	f.stale = false
	return nil
}

// forget drops everything cached: the transaction did not go through.
func (f *fold) forget() { f.stale, f.tx = true, nil }

// committed ends the work: the transaction went through. Ended epochs leave
// the cache; their watermarks stay in the table.
func (f *fold) committed() {
	for _, e := range f.dirtyEpochs {
		e.dirty, e.fresh = false, false
		if e.closed {
			f.uncache(e)
		}
	}
	f.disagreed.add(f.disagreeing)
	f.tx = nil
}

func (f *fold) head(partition int) *head {
	h := f.heads[partition]
	if h == nil {
		h = &head{}
		f.heads[partition] = h
	}
	return h
}

// epoch returns the open state of an epoch, nil when there is none.
func (f *fold) epoch(key epochKey) (*epoch, error) {
	if e := f.epochs[key]; e != nil {
		return e, nil
	}
	e, err := f.loadEpoch(key)
	if e != nil {
		e.held = f.held[key]
		f.cache(e)
	}
	return e, err
}

// stateRow is what is cached of a row of the table state.
type stateRow struct {
	epochs siblings // nil where one is not cached
	dirty  bool     // to be written
}

func (f *fold) cache(e *epoch) {
	f.epochs[e.epochKey] = e
	id := stateID(e.partition, e.no)
	if f.rows[id] == nil {
		f.rows[id] = new(stateRow)
	}
	f.rows[id].epochs[e.no%epochsPerRow] = e
}

func (f *fold) uncache(e *epoch) {
	delete(f.epochs, e.epochKey)
	id := stateID(e.partition, e.no)
	r := f.rows[id]
	r.epochs[e.no%epochsPerRow] = nil
	if r.epochs == (siblings{}) {
		delete(f.rows, id)
	}
}

// newEpoch opens an epoch at ev.
func (f *fold) newEpoch(key epochKey, ev *odometer.Event, countedBy string) *epoch {
	h := f.head(key.partition)
	h.epochNo++
	key.epoch = odometer.Epoch(strings.Clone(string(key.epoch))) // they outlive the frame they came in
	e := &epoch{
		epochKey: key, no: h.epochNo, fresh: true, countedBy: countedBy, started: ev.EpochStart, end: ev.EpochStart,
		instance: odometer.InstanceID(strings.Clone(string(ev.Instance))), agent: odometer.AgentID(strings.Clone(string(ev.Agent))),
	}
	f.cache(e)
	f.touch(e)
	return e
}

func (f *fold) touch(e *epoch) {
	if !e.dirty {
		e.dirty = true
		f.dirtyEpochs = append(f.dirtyEpochs, e)
	}
}

func (f *fold) count(partition int, outcome string, n int64) {
	k := countKey{partition, outcome}
	f.counts[k] += n
	f.dirtyCounts[k] = true
}

// work is the record being folded and what has come of it so far.
type work struct {
	rec     *record
	frame   *odometer.Frame // nil for a decision
	res     result
	results []odometer.Result

	next      run  // what book says of the event it booked
	releasing bool // events of earlier records are being released
	disagreed bool // it is noted that the event at work names another owner than is recorded
}

// frame folds one frame into the tables. rec has everything but its result
// and entries, which frame fills.
func (f *fold) frame(rec *record, fr *odometer.Frame) ([]odometer.Result, error) {
	w := &work{rec: rec, frame: fr, results: make([]odometer.Result, 0, len(fr.Records))}
	if rec.kind == kindBroken {
		if err := f.broken(w, fr.Err); err != nil {
			return nil, err
		}
		return w.results, f.finish(w)
	}
	for i := range fr.Records {
		if err := f.record(w, i, &fr.Records[i]); err != nil {
			return nil, err
		}
	}
	return w.results, f.finish(w)
}

// start prepares the next record of a partition's journal.
func (f *fold) start(rec *record) {
	h := f.head(rec.partition)
	rec.position = h.position + 1
	rec.firstEntry = h.entry + 1
}

// finish completes the record: its result, its place in the chain.
func (f *fold) finish(w *work) error {
	h := f.head(w.rec.partition)
	w.rec.entries = h.entry + 1 - w.rec.firstEntry
	f.booked += w.rec.entries
	if w.rec.entries > 0 {
		f.bookIn(stretch{odometer.Hour(w.rec.minUS), ceilHour(w.rec.maxUS)})
	}
	if w.res.Runs == nil {
		w.res.Runs = []run{}
	}
	var err error
	if w.rec.result, err = json.Marshal(&w.res); err != nil {
		return err
	}
	f.comeHome(w.rec)
	w.rec.hash = w.rec.chain(h.hash)
	h.position, h.hash = w.rec.position, w.rec.hash
	return f.insertRecord(w.rec)
}

// bookIn notes that something is booked in some hours: most records are of the same.
func (f *fold) bookIn(s stretch) {
	if n := len(f.bookedIn); n == 0 || s.from < f.bookedIn[n-1].from || s.to > f.bookedIn[n-1].to {
		f.bookedIn = append(f.bookedIn, s)
	}
}

func (f *fold) broken(w *work, why error) error {
	v := refuse(reasonFrame, "%s", errorText(why))
	return f.settle(w, 0, &odometer.Record{Raw: w.rec.body}, v)
}

func errorText(err error) string {
	if err == nil {
		return "the frame could not be opened"
	}
	return err.Error()
}

// record folds one record of the frame.
func (f *fold) record(w *work, index int, r *odometer.Record) error {
	w.disagreed = false
	if r.Event == nil && r.Err == nil {
		w.res.add(run{N: 1, Outcome: outcomeCheckpoint})
		w.results = append(w.results, odometer.Result{Outcome: outcomeCheckpoint})
		f.count(w.rec.partition, outcomeCheckpoint, 1)
		return f.baseline(w, index, r)
	}
	if r.Err != nil {
		reason := reasonInvalid
		if errors.Is(r.Err, odometer.ErrVersion) {
			reason = reasonVersion
		}
		return f.settle(w, index, r, refuse(reason, "%s", r.Err))
	}
	if r.Refused != nil && r.Refused.Reason == reasonSender {
		return f.imposed(w, index, r)
	}
	if err := f.happened(w, r.Event); err != nil {
		return err
	}
	if !r.Event.Integral() {
		return f.covered(w, index, r)
	}
	return f.integral(w, index, r)
}

// integral folds an event that carries readings.
func (f *fold) integral(w *work, index int, r *odometer.Record) error {
	ev := r.Event
	key := epochKey{w.rec.partition, ev.Epoch}
	e, err := f.epoch(key)
	if err != nil {
		return err
	}
	if e == nil {
		e = f.newEpoch(key, ev, byVector)
		if err := f.goOn(e); err != nil {
			return err
		}
	} else if e.instance != ev.Instance {
		return f.settle(w, index, r, refuse(reasonConflict, "epoch %s belongs to instance %q", ev.Epoch, e.instance))
	}
	digest := ev.Content()
	if ev.Sequence <= e.sequence {
		v, err := f.recordedBefore(e, ev, digest)
		if err != nil {
			return err
		}
		return f.settle(w, index, r, v)
	}
	if v, yes := f.foreign(e, r); yes {
		return f.settle(w, index, r, v)
	}
	if v, yes := f.superseded(e, ev); yes {
		return f.settle(w, index, r, v)
	}
	if e.held > 0 {
		if v, ok, err := f.heldBefore(e, ev.FirstSequence, ev.Sequence, digest); err != nil {
			return err
		} else if ok {
			return f.settle(w, index, r, v)
		}
	}
	if reason := clockReason(ev, w.rec.at); reason != "" {
		return f.hold(w, index, r, e, digest, reason)
	}
	if ev.FirstSequence > e.sequence+1 && !r.Resumes {
		explained, err := f.inQuarantine(e, e.sequence+1, ev.FirstSequence-1)
		if err != nil {
			return err
		}
		if !explained {
			return f.hold(w, index, r, e, digest, reasonHole)
		}
	}
	v := judge(e, ev, f.bounds, false)
	if v.outcome != odometer.Recorded {
		return f.settle(w, index, r, v)
	}
	if err := f.book(w, e, ev, v.bookings, digest, &place{w.rec.position, index}); err != nil {
		return err
	}
	w.res.add(w.next)
	f.answer(w, odometer.Result{EventID: ev.ID(), Outcome: odometer.Recorded})
	if e.held > 0 {
		return f.releaseHeld(w, e, false)
	}
	return nil
}

// recordedBefore judges an event at or before the watermark.
func (f *fold) recordedBefore(e *epoch, ev *odometer.Event, digest odometer.Digest) (verdict, error) {
	chunk := e.digests
	if c := chunkOf(ev.Sequence); c != chunkOf(e.sequence) {
		err := f.queryRow(`SELECT data FROM digests WHERE partition = ? AND epoch_no = ? AND chunk = ?`, []any{e.partition, e.no, c}, &chunk)
		if errors.Is(err, sql.ErrNoRows) {
			chunk = nil
		} else if err != nil {
			return verdict{}, fmt.Errorf("digests of epoch %s: %w", e.epoch, err)
		}
	}
	found, same, err := findDigest(chunk, ev.FirstSequence, ev.Sequence, digest)
	switch {
	case err != nil:
		return verdict{}, err
	case found && same:
		return verdict{outcome: odometer.Duplicate}, nil
	case found:
		return refuse(reasonConflict, "event %s was recorded with other content", ev.ID()), nil
	}
	for q, n := range ev.Readings.End.Vector {
		if n > e.vector.Vector[q] {
			return refuse(reasonConflict, "%s = %d lies beyond the watermark of sequence %d, which is later", odometer.Quantity(q), n, e.sequence), nil
		}
	}
	return verdict{outcome: odometer.Covered}, nil
}

// place is where an event lies in the journal: the position of a record in
// its partition and the index of the event in the record's frame.
type place struct {
	position int64
	index    int
}

// book moves the watermark of e to the end of ev, which lies at at, and books
// what v says. An event that is booked as it is, in the record that brought
// it, is left to follow from the frame; every other booking is written out.
// w.next is the run that says so.
func (f *fold) book(w *work, e *epoch, ev *odometer.Event, bookings []booking, digest odometer.Digest, at *place) error {
	plain := at.position == w.rec.position && len(bookings) == 1 && bookings[0].plain && !w.releasing
	w.next = run{N: 1, Outcome: string(odometer.Recorded)}
	for i := range bookings {
		if err := f.charge(w, e, ev, &bookings[i], plain, ev); err != nil {
			return err
		}
	}
	if e.sequence > 0 && chunkOf(ev.Sequence) != chunkOf(e.sequence) {
		if err := f.insertDigests(e); err != nil {
			return err
		}
	}
	e.digests = appendDigest(e.digests, ev.FirstSequence, ev.Sequence, digest)
	e.sequence, e.end, e.vector, e.closed = ev.Sequence, ev.Span.End, ev.Readings.End, ev.Final
	e.position = at.position
	f.touch(e)
	return nil
}

// charge books one amount to whoever owned the instance meanwhile. With plain it
// is left to follow from the frame where nobody else did. Source is the event that
// was received.
func (f *fold) charge(w *work, e *epoch, ev *odometer.Event, k *booking, plain bool, source *odometer.Event) error {
	payers, err := f.payers(e, k.span, ev.Owner, f.head(w.rec.partition).entry+1)
	if err != nil {
		return err
	}
	whole := len(payers) == 1
	at, reading := k.span.Start, k.readings.Start
	for _, p := range payers {
		piece, from := k, at
		if !whole {
			piece = k.piece(at, p.until, reading)
			at, reading = p.until, piece.readings.End
		}
		entry := f.entry(w, e, ev, piece)
		if p.owner != entry.Event.Owner {
			f.disagrees(w, ev, from, p.owner)
		}
		if !whole || p.owner != entry.Event.Owner {
			c := charge{Entry: entry.ID.Number, N: 1, User: p.owner.User, Org: p.owner.Org}
			if piece.more {
				c.Until = p.until
			}
			w.res.Owners.add(c)
			entry.Event.Owner = p.owner
		}
		if plain && whole {
			w.next.Entry = entry.ID.Number
		} else {
			if source != ev {
				entry.SourceEventID = source.ID()
			}
			w.res.Bookings = append(w.res.Bookings, entry.AppendJSON(nil))
		}
		if err := f.apportion(e, &entry); err != nil {
			return err
		}
	}
	return nil
}

// entry makes the next entry of the partition.
func (f *fold) entry(w *work, e *epoch, ev *odometer.Event, k *booking) odometer.Entry {
	h := f.head(w.rec.partition)
	h.entry++
	entry := plainEntry(ev, odometer.EntryID{Partition: w.rec.partition, Number: h.entry}, w.rec.at)
	entry.Kind, entry.Cause = k.kind, k.cause
	if !k.plain {
		entry.Event.Span, entry.Event.Usage, entry.Event.Readings = k.span, k.usage, k.readings
		entry.Event.Final, entry.Event.Lifecycle = false, nil
		if k.kind == odometer.KindRecovered {
			entry.Event.FirstSequence, entry.Event.Sequence = e.sequence+1, ev.FirstSequence-1
		} else {
			entry.Event.Final = ev.Final && !k.more
			if !k.own {
				entry.Event.FirstSequence = e.sequence + 1
			}
		}
		entry.Event.Derive(0, 0)
	}
	w.rec.covers(entry.Event.Span)
	return entry
}

// apportion adds an entry to the hours it falls in.
func (f *fold) apportion(e *epoch, entry *odometer.Entry) error {
	for b := range cutAtHours(&entry.Event, entry.Kind == odometer.KindRecovered) {
		if err := f.addToHour(e, b); err != nil {
			return err
		}
	}
	return f.adjust(entry, entry.Kind == odometer.KindRecovered)
}

// cutAtHours yields the shares of the hours that an event falls in, in order.
// Recovered says that its time counts as recovered.
func cutAtHours(ev *odometer.Event, recovered bool) iter.Seq[bucket] {
	return func(yield func(bucket) bool) {
		for hour := odometer.Hour(ev.Span.Start); hour < ev.Span.End; hour += odometer.HourMicros {
			b := bucket{hour: hour, owner: ev.Owner, sums: ev.Usage}
			if hour > ev.Span.Start || hour+odometer.HourMicros < ev.Span.End {
				b.sums = ev.Usage.Between(ev.Span, hour, hour+odometer.HourMicros)
			}
			if recovered {
				b.recovered = b.sums.Vector[odometer.MeasuredTime] + b.sums.Vector[odometer.EstimatedTime]
			}
			if !yield(b) {
				return
			}
		}
	}
}

// addToHour adds b to the epoch's open hour, or beside it: a later hour seals
// the open one, an earlier hour and another owner are pieces of their own.
func (f *fold) addToHour(e *epoch, b bucket) error {
	if err := f.own(e, b.owner); err != nil {
		return err
	}
	f.opens(b.hour)
	o := &e.open
	if o.empty() {
		*o = b
		return nil
	}
	switch {
	case b.hour == o.hour && b.owner == o.owner:
		if !o.sums.Add(b.sums) {
			return fmt.Errorf("hour %d of epoch %s overflows: %w", b.hour, e.epoch, odometer.ErrInvalid)
		}
		o.recovered += b.recovered
		return nil
	case b.hour < o.hour:
		return f.insertHour(e, &b, "late")
	}
	cause := "sealed"
	if b.hour == o.hour {
		cause = "owner"
	}
	if err := f.insertHour(e, o, cause); err != nil {
		return err
	}
	*o = b
	return nil
}

// settle notes an outcome that books nothing.
func (f *fold) settle(w *work, index int, r *odometer.Record, v verdict) error {
	res := odometer.Result{Outcome: v.outcome, Reason: v.reason, Detail: v.detail}
	if r.Event != nil {
		res.EventID = r.Event.ID()
	}
	if v.outcome == odometer.Quarantined {
		again, err := f.quarantine(w, index, r, v)
		if err != nil {
			return err
		}
		if again {
			res.Outcome = odometer.Duplicate
			if v.reason != reasonForeign && v.reason != reasonSender { // which do not follow from the event
				res.Reason, res.Detail = "", ""
			}
		}
	}
	w.res.add(run{N: 1, Outcome: string(res.Outcome), Reason: res.Reason, Detail: res.Detail})
	f.answer(w, res)
	return nil
}

// answer counts an event that was received and what became of it.
func (f *fold) answer(w *work, r odometer.Result) {
	w.results = append(w.results, r)
	f.count(w.rec.partition, countReceived, 1)
	f.count(w.rec.partition, string(r.Outcome), 1)
}
