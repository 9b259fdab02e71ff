package audit

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"example.org/odometer"
)

// replay follows one partition's journal from its beginning and keeps what the
// tables must say at its end.
type replay struct {
	a         *audit
	partition int64

	// What loadEpochs reads from and calls with what it finds.
	from   *snapshot
	seen   func(odometer.Epoch, *epochRow)
	open   func(r *epochRow, id odometer.Epoch, hour int64, owner odometer.Owner, sums *odometer.Usage, recovered int64) error
	digest digestFunc

	epochs      map[odometer.Epoch]*watermark
	once        *once
	counts      map[string]int64
	held        map[place]heldEvent
	quarantined map[place]*kept
	checkpoints map[[2]string]place // by agent and instance
	taken       map[spoolKey]uint64 // how far each spool has come
	coverage    *balance            // rows as keys
	lifecycle   map[happening]particulars
	handovers   map[offer]handover
	successors  map[identity]odometer.Epoch      // of an epoch that was offered: by what goes on from it
	reversals   map[uint64]reversed              // by the number of the entry that was reversed
	recovers    map[uint64]bool                  // corrections whose time counts as recovered
	movedTime   map[uint64]bool                  // of them, those that move it to another owner
	appointed   map[odometer.InstanceID][]tenure // as it was decided, in order
	closed      map[closing]closed               // months, as it was decided
	adjusted    *balance                         // what entries have of months that were closed before

	baseInstances map[int64]odometer.InstanceID // by the base's epoch numbers
}

// place is where an event lies: the position of its record in the partition's
// journal and its index there.
type place struct {
	position int64
	index    int
}

// watermark is how far one epoch is booked.
type watermark struct {
	row *epochRow // nil when the table has none

	instance odometer.InstanceID
	agent    odometer.AgentID
	byTime   bool
	seen     bool     // it has a booking
	opened   identity // by its first event, whatever became of that
	sequence uint64
	end      int64
	vector   odometer.Usage
	closed   bool
	limited  bool
	limit    uint64 // where it is limited, nothing later is booked
	position int64
	total    odometer.Usage // sum of the bookings' usage
	memory   uint64         // of digests, see remember
}

// identity is what an epoch is of, and never changes.
type identity struct {
	instance  odometer.InstanceID
	agent     odometer.AgentID
	countedBy string
	started   int64
}

// identityOf returns the identity of an epoch that begins with ev.
func identityOf(r *row, ev *odometer.Event) identity {
	if ev.Integral() {
		return identity{ev.Instance, ev.Agent, "vector", ev.EpochStart}
	}
	return identity{ev.Instance, odometer.AgentID(r.sender), "time", ev.Period.Start * 1_000_000}
}

// kept is what the table quarantine must say of an event.
type kept struct {
	reason   string // "" where the journal does not tell, nor the detail
	detail   string
	at       int64
	released int64
	id       string
	instance odometer.InstanceID
	epoch    odometer.Epoch
	first    uint64
	sequence uint64
	digest   odometer.Digest
}

// heldEvent is what the table held must say of an event.
type heldEvent struct {
	epoch           odometer.Epoch
	first, sequence uint64
	since, end      int64
	reason          string
	digest          odometer.Digest
}

func (a *audit) newReplay(partition int64) *replay {
	return &replay{
		a: a, partition: partition,
		from: a.snap, seen: func(odometer.Epoch, *epochRow) {},
		open: func(r *epochRow, _ odometer.Epoch, hour int64, owner odometer.Owner, sums *odometer.Usage, recovered int64) error {
			return a.hours.put(hourKey(partition, r.no, hour, owner), false, sums, recovered)
		},
		epochs: map[odometer.Epoch]*watermark{},
		once:   newOnce(&a.o), coverage: newBalance(&a.o),
		counts: map[string]int64{}, held: map[place]heldEvent{}, quarantined: map[place]*kept{}, checkpoints: map[[2]string]place{}, taken: map[spoolKey]uint64{},
		lifecycle: map[happening]particulars{},
		handovers: map[offer]handover{}, successors: map[identity]odometer.Epoch{},
		reversals: map[uint64]reversed{}, recovers: map[uint64]bool{}, movedTime: map[uint64]bool{}, appointed: map[odometer.InstanceID][]tenure{},
		closed: map[closing]closed{}, adjusted: newBalance(&a.o),
		baseInstances: map[int64]odometer.InstanceID{},
	}
}

// epoch returns the watermark of an epoch, making it at the first sight.
func (p *replay) epoch(id odometer.Epoch) *watermark {
	w := p.epochs[id]
	if w == nil {
		w = &watermark{}
		p.epochs[id] = w
	}
	return w
}

// epochOf returns the epoch in which an event is counted: its own, and for
// version 1.0 the one that stands for its source and instance.
func epochOf(r *row, ev *odometer.Event) odometer.Epoch {
	if ev.Integral() {
		return ev.Epoch
	}
	return odometer.NewEpoch(ev.Instance, odometer.AgentID(r.sender), "1.0", "")
}

// record replays one record: first what it booked, in order, then what it says
// of each event.
func (p *replay) record(ctx context.Context, r *row) error {
	sources, err := p.sources(ctx, r)
	if err != nil {
		return err
	}
	if r.offers != nil {
		p.offer(r)
	}
	if r.reverses != nil {
		if err := p.reverse(ctx, r); err != nil {
			return err
		}
	}
	if r.appoints != nil {
		p.appoint(r)
	}
	if r.closes != nil {
		p.close(r)
	}
	if r.states != nil {
		p.stateDecided(r)
	}
	if len(r.moves) > 0 {
		p.checkMoves(r)
	}
	for rest := r.booked; len(rest) > 0; {
		b := rest[0]
		n := r.parts(rest)
		src := sources[b.entry.SourceEventID]
		if b.index >= 0 {
			src = &source{ev: r.eventAt(b.index), at: place{r.position, b.index}, row: r}
		}
		end := n == len(rest) || rest[n].entry.SourceEventID != b.entry.SourceEventID
		if err := p.book(r, rest[:n], src, end); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := p.outcomes(r, sources); err != nil {
		return err
	}
	if k := (spoolKey{r.sender, r.spool}); r.kind == "frame" && r.spool != "" {
		p.taken[k] = max(p.taken[k], uint64(r.last))
	}
	return p.releases(ctx, r, sources)
}

// source is an event that a record's explicit bookings may name.
type source struct {
	ev     *odometer.Event
	at     place
	row    *row // in which it was received
	booked int  // bookings that name it
}

// sources returns the events that a record recorded other than as they are:
// its own, and those of earlier records that it released.
func (p *replay) sources(ctx context.Context, r *row) (map[string]*source, error) {
	var m map[string]*source
	add := func(ev *odometer.Event, at place, in *row) {
		if m == nil {
			m = map[string]*source{}
		}
		m[ev.ID()] = &source{ev: ev, at: at, row: in}
	}
	index := 0
	for _, run := range r.decided.Runs {
		for range run.N {
			if ev := r.eventAt(index); ev != nil && run.Outcome == string(odometer.Recorded) && run.Entry == 0 {
				add(ev, place{r.position, index}, r)
			}
			index++
		}
	}
	for _, rel := range r.decided.Released {
		if rel.Outcome != string(odometer.Recorded) {
			continue
		}
		in, ev, err := p.find(ctx, r, place{rel.Position, rel.Index})
		if err != nil {
			return nil, err
		}
		if ev != nil {
			add(ev, place{rel.Position, rel.Index}, in)
		}
	}
	return m, nil
}

// find returns an event of r or of an earlier record, nil where there is none.
func (p *replay) find(ctx context.Context, r *row, at place) (*row, *odometer.Event, error) {
	in := r
	if at.position != r.position {
		var err error
		if in, err = p.a.fetch(ctx, p.partition, at.position); err != nil {
			if ctx.Err() != nil {
				return nil, nil, ctx.Err()
			}
			return nil, nil, nil // a finding where it is missed
		}
	}
	return in, in.eventAt(at.index), nil
}

// outcomes counts what a record says of its events and checks it.
func (p *replay) outcomes(r *row, sources map[string]*source) error {
	index := 0
	for _, run := range r.decided.Runs {
		for range run.N {
			if err := p.outcome(r, index, run.Outcome, run.Reason, run.Detail, run.Entry != 0, sources); err != nil {
				return err
			}
			index++
		}
	}
	return nil
}

func (p *replay) outcome(r *row, index int, outcome, reason, detail string, plain bool, sources map[string]*source) error {
	rep := p.a.report
	ev := r.eventAt(index)
	at := place{r.position, index}
	event := func() string { return fmt.Sprintf("%s, record %d of the frame", r, index) }
	var raw []byte
	var rec *odometer.Record
	if r.kind == "broken" {
		raw = r.body
	} else {
		rec = &r.frame.Records[index]
		raw = rec.Raw
	}
	if rec != nil && rec.Event == nil && rec.Err == nil {
		p.counts["checkpoint"]++
		if outcome != "checkpoint" {
			rep.find("journal_runs", "%s carries no event and is called %s", event(), outcome)
		}
		p.checkpoint(r, index, rec)
		return nil
	}
	p.counts["received"]++
	p.counts[outcome]++
	p.place(r, index, ev)
	if ev != nil && reason != "sender" { // one that another agent sent begins and tells nothing
		p.happened(ev)
		if w := p.epoch(epochOf(r, ev)); w.opened == (identity{}) {
			w.opened = identityOf(r, ev)
			p.goOn(epochOf(r, ev), w)
		}
	}
	switch odometer.Outcome(outcome) {
	case odometer.Recorded:
		if ev == nil {
			rep.find("unbooked", "%s is no valid event and is called recorded", event())
			return nil
		}
		if !plain && sources[ev.ID()].booked == 0 {
			rep.find("unbooked", "%s, event %s, is called recorded and has no booking", event(), ev.ID())
		}
		return p.note(r, at, ev, raw, noteBooked)
	case odometer.Duplicate:
		return p.note(r, at, ev, raw, noteDuplicate)
	case odometer.Covered:
		p.covered(event(), ev)
		return nil
	case odometer.Held:
		if ev == nil {
			rep.find("journal_runs", "%s is no valid event and is held", event())
			return nil
		}
		p.held[at] = holding(r, ev, reason)
		return p.note(r, at, ev, raw, noteKept)
	case odometer.Quarantined:
		p.quarantined[at] = putAside(r, ev, raw, reason, detail)
		if reason == "conflict" {
			rep.Conflicts++
		}
		return p.note(r, at, ev, raw, noteKept)
	}
	rep.find("journal_runs", "%s has the unknown outcome %q", event(), outcome)
	return nil
}

func holding(r *row, ev *odometer.Event, reason string) heldEvent {
	h := heldEvent{
		epoch: epochOf(r, ev), first: ev.FirstSequence, sequence: ev.Sequence,
		since: r.at, end: ev.Span.End, reason: reason, digest: ev.Content(),
	}
	if !ev.Integral() {
		h.first, h.sequence, h.end = uint64(ev.Period.Start), uint64(ev.Period.End), ev.Period.End*1_000_000
	}
	return h
}

func putAside(r *row, ev *odometer.Event, raw []byte, reason, detail string) *kept {
	k := &kept{reason: reason, detail: detail, at: r.at}
	if ev != nil {
		k.id, k.instance, k.epoch, k.digest = ev.ID(), ev.Instance, ev.Epoch, ev.Content()
		k.first, k.sequence = ev.FirstSequence, ev.Sequence
	} else {
		sum := sha256.Sum256(raw)
		copy(k.digest[:], sum[:])
	}
	return k
}

// place checks that an event lies in the partition where it belongs: that of
// the agent that measured it, and without one of the sender.
func (p *replay) place(r *row, index int, ev *odometer.Event) {
	agent := odometer.AgentID(r.sender)
	if ev != nil && ev.Integral() {
		agent = ev.Agent
	}
	if want := agent.Partition(); int64(want) != p.partition {
		p.a.report.find("partition", "%s, record %d of the frame, belongs to partition %d", r, index, want)
	}
}

// note remembers an event for the proof that each is booked once.
func (p *replay) note(r *row, at place, ev *odometer.Event, raw []byte, what byte) error {
	n := note{position: uint64(r.position), index: uint32(at.index), what: what}
	if ev == nil {
		n.identity = hash16([]byte("raw"), raw)
		return p.once.put(n)
	}
	m := r.mark(at.index, ev)
	n.identity = m.identity
	copy(n.content[:], m.content[:])
	if !ev.Integral() && what != noteKept {
		// Version 1.0 names no agent: two sources may speak of one period.
		source := hash16([]byte(r.sender))
		copy(n.source[:], source[:])
	}
	return p.once.put(n)
}

// covered checks that an event that is called covered lies within what is
// booked.
func (p *replay) covered(event string, ev *odometer.Event) {
	rep := p.a.report
	if ev == nil || !ev.Integral() {
		rep.find("covered_unfounded", "%s is called covered and carries no readings", event)
		return
	}
	w := p.epochs[ev.Epoch]
	if w == nil || w.instance != ev.Instance || ev.Sequence > w.sequence {
		rep.find("covered_unfounded", "%s, event %s, is called covered and lies beyond the watermark", event, ev.ID())
		return
	}
	for q, n := range ev.Readings.End.Vector {
		if n > w.vector.Vector[q] {
			rep.find("covered_unfounded", "%s, event %s, is called covered, and its %s = %d lies beyond the watermark's %d", event, ev.ID(), odometer.Quantity(q), n, w.vector.Vector[q])
			return
		}
	}
}

// checkpoint remembers where the newest checkpoint of an instance lies that
// came without an event. A record that is repeated from its spool is not it.
func (p *replay) checkpoint(r *row, index int, rec *odometer.Record) {
	if r.frame.Spool != "" && rec.Position <= p.taken[spoolKey{r.sender, r.spool}] {
		return
	}
	var c struct {
		Instance string `json:"instance"`
	}
	if json.Unmarshal(rec.Checkpoint, &c) == nil && c.Instance != "" {
		p.checkpoints[[2]string{r.sender, c.Instance}] = place{r.position, index}
	}
}

// releases follows the events of earlier records whose outcome changed.
func (p *replay) releases(ctx context.Context, r *row, sources map[string]*source) error {
	rep := p.a.report
	for _, rel := range r.decided.Released {
		at := place{rel.Position, rel.Index}
		event := fmt.Sprintf("%s releases record %d of %d-%d, which", r, at.index, p.partition, at.position)
		_, wasHeld := p.held[at]
		aside := p.quarantined[at]
		switch {
		case wasHeld:
			delete(p.held, at)
			p.counts[string(odometer.Held)]--
		case aside != nil && aside.released == 0:
			aside.released = r.at
			p.counts[string(odometer.Quarantined)]--
		default:
			rep.find("released", "%s is neither held nor in quarantine", event)
			continue
		}
		p.counts[rel.Outcome]++
		in, ev, err := p.find(ctx, r, at)
		if err != nil {
			return err
		}
		if ev == nil {
			rep.find("released", "%s cannot be read", event)
			continue
		}
		what := byte(0)
		switch odometer.Outcome(rel.Outcome) {
		case odometer.Recorded:
			if s := sources[ev.ID()]; s == nil || s.booked == 0 {
				rep.find("unbooked", "%s is called recorded and has no booking", event)
			}
			what = noteBooked
		case odometer.Duplicate:
			what = noteSettled
		case odometer.Covered:
			p.covered(event, ev)
		case odometer.Quarantined:
			k := putAside(in, ev, nil, "", "")
			k.at = r.at
			p.quarantined[at] = k
		default:
			rep.find("released", "%s has the unknown outcome %q", event, rel.Outcome)
		}
		if what != 0 {
			n := place{r.position, at.index}
			if err := p.note(&row{position: r.position, sender: in.sender}, n, ev, nil, what); err != nil {
				return err
			}
		}
	}
	return nil
}

// remember adds an event to the memory of what was recorded, the sum over all
// of 64 bits of a hash: the order does not matter, and leaving out, adding or
// changing one changes the sum.
func (w *watermark) remember(first, sequence uint64, digest []byte) {
	// The digest is random as it is; this spreads where it belongs over it.
	h := binary.BigEndian.Uint64(digest)
	for _, n := range [...]uint64{first, sequence} {
		h = (h ^ n) * 0x9e3779b97f4a7c15
		h ^= h >> 32
	}
	w.memory += h
}
