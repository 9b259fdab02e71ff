package audit

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"example.org/odometer"
)

// Who owned an instance when is decided by persons, each decision a record in the
// partition of the instance's name, the later one over the earlier. Whom the ledger
// charged for what comes to this in the end: between two moments at which the owner
// changes nobody but the owner has anything of the instance. Entries of others that
// lie there must be taken back by corrections, which decisions made, each pair of
// them out of one account and into another. Where nothing is decided an entry is
// charged to whom its event names.
//
// Of hours that are gone only sums are known: of an hour in which the owner changes
// they prove nothing.

// tenure is a time in which an instance is somebody's.
type tenure struct {
	from, until int64
	owner       odometer.Owner
}

// appointment is a decision whose an instance is in some time.
type appointment struct {
	instance odometer.InstanceID
	tenure
}

// move is what a decision takes out of one account and puts into another.
type move struct {
	Epoch     odometer.Epoch  `json:"epoch"`
	Start     int64           `json:"start_us"`
	End       int64           `json:"end_us"`
	FromUser  odometer.UserID `json:"from_user"`
	FromOrg   odometer.OrgID  `json:"from_org"`
	ToUser    odometer.UserID `json:"to_user"`
	ToOrg     odometer.OrgID  `json:"to_org"`
	Usage     []byte          `json:"usage"`
	Recovered bool            `json:"recovered"`
}

// charged says whom entries are charged to.
type charged struct {
	Entry uint64          `json:"entry"`
	N     uint64          `json:"n"`
	Until int64           `json:"until_us"`
	User  odometer.UserID `json:"user"`
	Org   odometer.OrgID  `json:"org"`
}

// loadTenures reads the table ownership and checks that times do not overlap.
func (a *audit) loadTenures(ctx context.Context) error {
	a.tenures = map[odometer.InstanceID][]tenure{}
	err := eachTenure(ctx, a.snap, -1, func(partition int64, ap appointment) {
		list := a.tenures[ap.instance]
		if partition != int64(ap.instance.Partition()) {
			a.report.find("partition", "who owns %s stands in partition %d, which is not its own", ap.instance, partition)
		}
		if ap.from >= ap.until || len(list) > 0 && list[len(list)-1].until > ap.from {
			a.report.find("ownership", "the times in which %s is somebody's overlap, or end before they begin, at %d", ap.instance, ap.from)
			return
		}
		a.tenures[ap.instance] = append(list, ap.tenure)
	})
	if err != nil {
		return err
	}
	for _, h := range a.heads {
		a.goneUS = max(a.goneUS, h.MaxUS)
	}
	return nil
}

// eachTenure reads the table ownership, of one partition or all, in order of
// instance and time.
func eachTenure(ctx context.Context, from *snapshot, partition int64, each func(partition int64, ap appointment)) error {
	err := from.each(ctx, func(rows *sql.Rows) error {
		var p int64
		var ap appointment
		err := rows.Scan(&p, &ap.instance, &ap.from, &ap.until, &ap.owner.User, &ap.owner.Org)
		each(p, ap)
		return err
	}, `SELECT partition, instance, from_us, until_us, usr, org FROM ownership WHERE partition = ?1 OR ?1 < 0 ORDER BY instance, from_us`, partition)
	if err != nil {
		return fmt.Errorf("read who owned what: %w", err)
	}
	return nil
}

// appoint follows a decision whose an instance is.
func (p *replay) appoint(r *row) {
	ap := r.appoints
	if int64(ap.instance.Partition()) != p.partition {
		p.a.report.find("partition", "%s says whose %s is", r, ap.instance)
	}
	if r.actor == "" || r.cause == "" || ap.until <= ap.from || ap.from < 0 || ap.owner.User == "" {
		p.a.report.find("ownership", "%s says whose %s is and not when, or who decided it and why", r, ap.instance)
	}
	p.appointed[ap.instance] = append(p.appointed[ap.instance], ap.tenure)
}

// tenuresOf is what decisions come to, the latest deciding.
func tenuresOf(decided []tenure) (list []tenure) {
	var edges []int64
	for _, t := range decided {
		edges = append(edges, t.from, t.until)
	}
	slices.Sort(edges)
	edges = slices.Compact(edges)
	for i := 0; i+1 < len(edges); i++ {
		t := tenure{from: edges[i], until: edges[i+1]}
		for _, d := range slices.Backward(decided) {
			if d.from <= t.from && d.until >= t.until {
				t.owner = d.owner
				break
			}
		}
		switch n := len(list); {
		case t.owner == odometer.Owner{}:
		case n > 0 && list[n-1].until == t.from && list[n-1].owner == t.owner:
			list[n-1].until = t.until
		default:
			list = append(list, t)
		}
	}
	return list
}

// checkOwnership compares the tables with what was decided.
func (p *replay) checkOwnership(ctx context.Context) error {
	rep := p.a.report
	table := map[odometer.InstanceID][]tenure{}
	err := eachTenure(ctx, p.a.snap, p.partition, func(_ int64, ap appointment) {
		table[ap.instance] = append(table[ap.instance], ap.tenure)
	})
	if err != nil {
		return err
	}
	for instance, decided := range p.appointed {
		if !slices.Equal(tenuresOf(decided), table[instance]) {
			rep.find("ownership", "partition %d: the table says otherwise than the decisions whose %s is when", p.partition, instance)
		}
		delete(table, instance)
	}
	for instance := range table {
		rep.find("ownership", "partition %d: the table says whose %s is, which nobody decided", p.partition, instance)
	}
	err = p.a.snap.each(ctx, func(rows *sql.Rows) error {
		var entry int64
		err := rows.Scan(&entry)
		if !p.movedTime[uint64(entry)] {
			rep.find("ownership", "partition %d: the table says that entry %d moves recovered time, the journal does not", p.partition, entry)
		}
		delete(p.movedTime, uint64(entry))
		return err
	}, `SELECT entry FROM moved WHERE partition = ?`, p.partition)
	if err != nil {
		return fmt.Errorf("read what was moved: %w", err)
	}
	for entry := range p.movedTime {
		rep.find("ownership", "partition %d: entry %d moves recovered time and the table does not have it", p.partition, entry)
	}
	return nil
}

// startOwnership takes over what was decided and moved by records that are gone.
func (p *replay) startOwnership(ctx context.Context, _ map[int64]int64) error {
	err := eachTenure(ctx, p.a.base, p.partition, func(_ int64, ap appointment) {
		p.appointed[ap.instance] = append(p.appointed[ap.instance], ap.tenure)
	})
	if err != nil {
		return err
	}
	return p.a.base.each(ctx, func(rows *sql.Rows) error {
		var entry int64
		err := rows.Scan(&entry)
		p.movedTime[uint64(entry)], p.recovers[uint64(entry)] = true, true
		return err
	}, `SELECT entry FROM moved WHERE partition = ?`, p.partition)
}

// checkMoves compares the corrections that a decision booked, behind the one that
// reverses an entry, with what it moves.
func (p *replay) checkMoves(r *row) {
	rep := p.a.report
	first := 0
	if r.reverses != nil {
		first = 1
	}
	if r.actor == "" || r.cause == "" {
		rep.find("ownership", "%s moves usage and does not say who decided it and why", r)
	}
	if len(r.booked) != first+2*len(r.moves) {
		rep.find("ownership", "%s moves usage %d times and books %d entries", r, len(r.moves), len(r.booked))
		return
	}
	for i := range r.moves {
		m := &r.moves[i]
		usage, rest, err := odometer.CutUsage(m.Usage)
		if err != nil || len(rest) > 0 {
			rep.find("ownership", "%s: what it moves of epoch %s cannot be read", r, m.Epoch)
			continue
		}
		out, in := r.booked[first+2*i].entry, r.booked[first+2*i+1].entry
		from, to := odometer.Owner{User: m.FromUser, Org: m.FromOrg}, odometer.Owner{User: m.ToUser, Org: m.ToOrg}
		less := usage
		for q := range less.Vector {
			less.Vector[q] *= -1
		}
		p.half(r, m, out, from, &less, "moved to another owner")
		p.half(r, m, in, to, &usage, "moved from another owner")
		if m.Recovered {
			for _, e := range [...]*odometer.Entry{out, in} {
				p.movedTime[e.ID.Number], p.recovers[e.ID.Number] = true, true
			}
		}
	}
}

// half checks one correction of a move.
func (p *replay) half(r *row, m *move, e *odometer.Entry, owner odometer.Owner, usage *odometer.Usage, what string) {
	w := p.epoch(m.Epoch)
	const second = odometer.SecondMicros
	want := odometer.Entry{
		ID: e.ID, Kind: odometer.KindCorrection, BookedAt: r.at, Cause: what + ": " + r.cause,
		Event: odometer.Event{
			Version: "1.1", Instance: w.instance, Agent: w.agent, Owner: owner, Epoch: m.Epoch, EpochStart: w.opened.started,
			FirstSequence: w.sequence, Sequence: w.sequence, Span: odometer.Span{Start: m.Start, End: m.End}, Usage: *usage, Quality: odometer.Measured,
			Timestamp: m.End / second, Period: odometer.Period{Start: m.Start / second, End: m.End / second},
		},
	}
	want.SourceEventID = want.Event.ID()
	if !bytes.Equal(e.AppendJSON(nil), want.AppendJSON(nil)) || hourOf(m.Start) != hourOf(m.End-1) {
		p.a.report.find("ownership", "entry %s is not what %s moves of epoch %s", e.ID, r, m.Epoch)
	}
	// What is moved is put where an owner was named: who it is by now is proven with the sums.
	if !p.a.decidedAll(w.instance, odometer.Span{Start: m.Start, End: m.End}) {
		p.a.report.find("ownership", "entry %s moves usage of %s in a time for which nobody says whose it is", e.ID, w.instance)
	}
}

// decidedAll reports whether it is decided for all of a span whose an instance is.
func (a *audit) decidedAll(instance odometer.InstanceID, span odometer.Span) bool {
	at := span.Start
	for _, t := range a.tenures[instance] {
		if t.from <= at && at < t.until {
			at = min(t.until, span.End)
		}
	}
	return at == span.End
}

// parts returns how many of the entries, from the first on, have parts of one
// booking: each but the last is charged up to its end and no further.
func (r *row) parts(rest []booking) int {
	n := 1
	for ; n < len(rest); n++ {
		if c := r.charge(rest[n-1].entry.ID.Number); c == nil || c.Until == 0 {
			break
		}
	}
	return n
}

// join returns the booking of which entries have the parts, and checks that they
// share it by time.
func (p *replay) join(list []booking) *odometer.Entry {
	whole := *list[0].entry
	ev := &whole.Event
	for _, b := range list[1:] {
		part := &b.entry.Event
		if part.Span.Start != ev.Span.End || part.Span.Step != 0 || part.Readings.Start.Vector != ev.Readings.End.Vector || b.entry.Kind != whole.Kind ||
			b.entry.SourceEventID != whole.SourceEventID || part.FirstSequence != ev.FirstSequence || part.Sequence != ev.Sequence || ev.Final {
			p.a.report.find("entry", "entry %s is said to go on where entry %s ends, and does not", b.entry.ID, whole.ID)
		}
		ev.Span.End, ev.Final, ev.Readings.End = part.Span.End, part.Final, part.Readings.End
		ev.Usage.Known |= part.Usage.Known
		for q, n := range part.Usage.Vector {
			ev.Usage.Vector[q] += n
		}
	}
	for _, b := range list {
		if part := share(&ev.Usage, ev.Span, b.entry.Event.Span.Start, b.entry.Event.Span.End); part.Vector != b.entry.Event.Usage.Vector {
			p.a.report.find("entry", "entry %s has not the share by time of the event that it is a part of", b.entry.ID)
		}
	}
	return &whole
}

func named(o odometer.Owner) string {
	if o.Org != "" {
		return string(o.User) + " of " + string(o.Org)
	}
	return string(o.User)
}

// stretches calls do for each stretch within a span in which an instance has one
// owner and of which entries prove something.
func (a *audit) stretches(instance odometer.InstanceID, span odometer.Span, do func(t tenure, from, to int64) error) error {
	const hour = odometer.HourMicros
	for _, t := range a.tenures[instance] {
		from, until := t.from, t.until
		if h := hourOf(from); h != from && h < a.goneUS {
			from = h + hour
		}
		if h := hourOf(until); h != until && h < a.goneUS {
			until = h
		}
		if from, until = max(from, span.Start), min(until, span.End); from < until {
			if err := do(t, from, until); err != nil {
				return err
			}
		}
	}
	return nil
}

// attribute adds what an entry has of an instance that is another's then.
func (p *replay) attribute(e *odometer.Entry) error {
	ev := &e.Event
	return p.a.stretches(ev.Instance, ev.Span, func(t tenure, from, to int64) error {
		if t.owner == ev.Owner {
			return nil
		}
		part := share(&ev.Usage, ev.Span, from, to)
		return p.misplace(ev.Instance, t, ev.Owner, part, e.Kind == odometer.KindRecovered || p.recovers[e.ID.Number])
	})
}

func (p *replay) misplace(instance odometer.InstanceID, t tenure, owner odometer.Owner, part odometer.Usage, recovered bool) error {
	var us int64
	if recovered {
		us = part.Vector[odometer.MeasuredTime] + part.Vector[odometer.EstimatedTime]
	}
	part.Known = 0
	return p.a.places.put(placeKey(instance, t.from, owner), true, &part, us)
}

// attributeHour does so for the sums of an hour of which the entries are gone.
func (p *replay) attributeHour(instance odometer.InstanceID, hour int64, owner odometer.Owner, sums odometer.Usage, recovered int64) error {
	return p.a.stretches(instance, odometer.Span{Start: hour, End: hour + odometer.HourMicros}, func(t tenure, _, _ int64) error {
		if t.owner == owner {
			return nil
		}
		sums.Known = 0
		return p.a.places.put(placeKey(instance, t.from, owner), true, &sums, recovered)
	})
}

func placeKey(instance odometer.InstanceID, from int64, o odometer.Owner) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(from))
	b = append(append(b, instance...), '\t')
	return appendOwner(b, o)
}

// checkPlaces reports who has something of an instance that is another's.
func (a *audit) checkPlaces() error {
	return a.places.settle(func(key string, d *amount) {
		from := int64(binary.BigEndian.Uint64([]byte(key)))
		a.report.find("attribution", "from %s on, of what is another's (instance, user, organisation): %q: %s", clock(from), key[8:], d)
	})
}

// decidedOwner reads a decision whose an instance is.
func (r *row) decidedOwner() error {
	var d struct {
		Instance odometer.InstanceID `json:"instance"`
		From     int64               `json:"from_us"`
		Until    int64               `json:"until_us"`
		User     odometer.UserID     `json:"user"`
		Org      odometer.OrgID      `json:"org"`
	}
	d.Until = math.MinInt64
	err := json.Unmarshal(r.body, &d)
	r.appoints = &appointment{d.Instance, tenure{d.From, d.Until, odometer.Owner{User: d.User, Org: d.Org}}}
	return err
}

// charge returns what the record says of whom an entry is charged to, nil for
// nothing.
func (r *row) charge(entry uint64) *charged {
	list := r.decided.Owners
	i, _ := slices.BinarySearchFunc(list, entry, func(c charged, entry uint64) int {
		if c.Entry+c.N <= entry {
			return -1
		}
		return 1
	})
	if i < len(list) && list[i].Entry <= entry {
		return &list[i]
	}
	return nil
}

func (c *charged) owner() odometer.Owner { return odometer.Owner{User: c.User, Org: c.Org} }

// checkPayer checks that an entry is charged to whom its event names, unless it is
// decided whose the instance was.
func (p *replay) checkPayer(e *odometer.Entry, src *source) {
	if e.Event.Owner != payer(src.ev) && !p.a.decidedAll(e.Event.Instance, e.Event.Span) {
		p.a.report.find("entry", "entry %s is charged to %s; the event names %s, and nobody said whose %s was then",
			e.ID, named(e.Event.Owner), named(payer(src.ev)), e.Event.Instance)
	}
}
