package meter

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"example.org/odometer"
)

const (
	// StepMicros is how far the wall clock may be from where the boot clock
	// expects it before it counts as set. A second is far beyond what slewing
	// adds between two readings and far below what anybody bills by.
	StepMicros = odometer.SecondMicros

	// DefaultMaxEnded is how many ended epochs are remembered: enough for
	// every instance that a busy host ends in a year, at a few hundred bytes
	// each.
	DefaultMaxEnded = 1 << 14
)

// ErrPast says that a reading is not later than the last one of its instance
// that was folded. It wraps [odometer.ErrInvalid]. A source that starts over
// after a crash skips such readings: they are in the odometer already.
var ErrPast = fmt.Errorf("not later than the last reading of the instance: %w", odometer.ErrInvalid)

// Options configure a [Meter].
type Options struct {
	// Agent is who measures where a reading does not say so itself.
	Agent odometer.AgentID
	// Nonce makes this agent's epochs different from those of any other state
	// directory: the id of its spool. Unused where epochs are Named.
	Nonce string
	// Interval is the length of a period in microseconds; 0 closes one at
	// every reading.
	Interval int64
	// Named epochs take their identity from the reading's Agent and Epoch
	// alone, so that the same readings give the same ids wherever they are
	// metered. Each is an odometer of its own, whatever the order in which
	// they come, and times are those of the wall clock.
	Named bool
	// BootID identifies the boot of the host that is running now, "" where
	// that is unknown. A checkpoint of another boot means a reboot; without
	// ids a boot clock that runs backwards over unwatched time does. At most
	// MaxNameBytes.
	BootID string
	// MaxEnded bounds how many ended (and, where Named, superseded) epochs are
	// remembered; the oldest are forgotten first. What is forgotten with
	// them is the part of a second that the instance's next epoch would have
	// carried on, and that a reading repeated from then is a repetition.
	// 0 stands for DefaultMaxEnded.
	MaxEnded int
}

// Meter folds readings into odometers and cuts events out of them. It is not
// safe for concurrent use.
type Meter struct {
	opts      Options
	instances map[key]*instance
	latest    map[pair]*instance // where Named: the epoch that superseded the others
	parts     map[odometer.InstanceID]*parts
	ended     []*instance // and superseded ones, oldest first; some are replaced in instances since
}

// key finds an odometer. The name of the epoch is part of it only where
// epochs are Named.
type key struct {
	pair
	epoch string
}

type pair struct {
	instance odometer.InstanceID
	agent    odometer.AgentID
}

// parts is what all epochs of an instance share.
type parts struct {
	// What has been emitted below a whole second, in microseconds.
	cpu, gpu int64
	serial   uint64 // records emitted
	users    int    // odometers that refer to this one
}

// New returns a meter that knows no instance.
func New(opts Options) *Meter {
	if opts.MaxEnded < 1 {
		opts.MaxEnded = DefaultMaxEnded
	}
	return &Meter{
		opts:      opts,
		instances: map[key]*instance{},
		latest:    map[pair]*instance{},
		parts:     map[odometer.InstanceID]*parts{},
	}
}

// Observe folds a reading in and calls emit for each record that follows from
// it, in order: an event with its checkpoint, or a checkpoint alone where an
// epoch began (its baseline must survive a crash) or ended with nothing left
// to say. Records carry no positions. Nothing of r is kept.
//
// An error wraps [odometer.ErrInvalid], and [ErrPast] where r is not later
// than the last reading; then nothing has changed and nothing was emitted.
// Where epochs are named, several lines may share a moment. A final reading at the moment of the last one ends the epoch there, and one
// without counters for an epoch that has ended changes nothing; both are no
// errors.
func (m *Meter) Observe(r *odometer.Reading, emit func(odometer.Record)) error {
	p := pair{r.Instance, r.Agent}
	if p.agent == "" {
		p.agent = m.opts.Agent
	}
	in := m.instances[m.key(p, r.Epoch)]
	if err := m.observe(r, p, in, emit); err != nil {
		return fmt.Errorf("reading of %q at %d µs: %w", r.Instance, r.At.Wall, err)
	}
	return nil
}

func (m *Meter) key(p pair, epoch string) key {
	if m.opts.Named {
		return key{p, epoch}
	}
	return key{pair: p}
}

func (m *Meter) observe(r *odometer.Reading, p pair, in *instance, emit func(odometer.Record)) error {
	at := r.At
	if m.opts.Named {
		at.Boot = at.Wall
	}
	if err := checkReading(r, at); err != nil {
		return err
	}
	if in == nil {
		return m.begin(r, at, p, nil, emit)
	}
	rebooted := m.rebooted(in, at, r.Unwatched)
	if !rebooted && at.Boot <= in.last.Boot {
		if at.Boot == in.last.Boot && r.Final && !in.ended && r.Epoch == in.source {
			m.end(in, emit)
			return nil
		}
		if at.Boot == in.last.Boot && m.opts.Named && !in.ended && !r.Started && !r.Final {
			return m.again(r, in, emit)
		}
		return ErrPast
	}
	switch {
	case in.ended && r.Final && len(r.Counters) == 0 && r.Epoch == in.source:
		return nil
	case m.opts.Named && in.ended:
		return invalid("epoch %q has ended already", r.Epoch)
	case m.opts.Named && r.Started:
		return invalid("epoch %q has started already", r.Epoch)
	case in.ended, r.Started, r.Epoch != in.source:
		return m.begin(r, at, p, in, emit)
	}
	return m.fold(r, at, in, rebooted, emit)
}

// rebooted reports whether the host booted between in's last reading and at.
func (m *Meter) rebooted(in *instance, at odometer.Moment, unwatched bool) bool {
	switch {
	case m.opts.Named:
		return false
	case in.bootID != "" && m.opts.BootID != "":
		return in.bootID != m.opts.BootID
	}
	return unwatched && at.Boot < in.last.Boot
}

// begin starts a new epoch at the reading, after old, if any, was closed at
// its last one.
func (m *Meter) begin(r *odometer.Reading, at odometer.Moment, p pair, old *instance, emit func(odometer.Record)) error {
	if old == nil {
		if err := errors.Join(odometer.ValidID("instance_id", string(p.instance)),
			odometer.ValidID("agent_id", string(p.agent))); err != nil {
			return err
		}
		old = m.latest[p]
	}
	if err := checkNames(r); err != nil {
		return err
	}
	in := &instance{
		pair: p, source: r.Epoch, owner: r.Owner, bootID: m.opts.BootID,
		start: at.Wall, since: at.Wall, label: at.Wall, last: at,
		state: cmp.Or(r.State, odometer.Running), gauges: amounts(odometer.NoGauges),
		fresh: r.Started, changes: odometer.Lifecycle(r.Changes),
	}
	in.epoch = m.epoch(in)
	in.total.Known, in.from.Known = times, times
	if !r.Started {
		c, err := in.count(r)
		if err != nil {
			return err
		}
		c.forget(in)
		in.keep(r, &c)
		in.gauges = amounts(r.Gauges)
	}
	if old != nil && !old.ended && (old.open() || !m.opts.Named) {
		m.end(old, emit)
	}
	in.ended = r.Final
	m.put(in)
	m.emit(in, nil, emit)
	return nil
}

// epoch names the epoch that in begins.
func (m *Meter) epoch(in *instance) odometer.Epoch {
	if m.opts.Named {
		return odometer.NewEpoch(in.instance, in.agent, "replay", in.source)
	}
	moment := strconv.FormatInt(in.start, 10) + "/" + strconv.FormatInt(in.last.Boot, 10)
	return odometer.NewEpoch(in.instance, in.agent, m.opts.Nonce, moment)
}

// fold adds a reading that goes on from the last one.
func (m *Meter) fold(r *odometer.Reading, at odometer.Moment, in *instance, rebooted bool, emit func(odometer.Record)) error {
	c, err := in.count(r)
	if err != nil {
		return err
	}
	if r.Owner != in.owner {
		if err := checkNames(r); err != nil {
			return err
		}
	}

	// How much time passed, and what is known of it.
	elapsed, down := at.Boot-in.last.Boot, int64(0)
	if rebooted {
		// Since the last reading at least the time since the boot has passed,
		// whatever a wall clock that is not yet set says.
		elapsed = max(at.Wall-in.label, at.Boot, 1)
		if c.born > 0 && c.continued == 0 && at.Boot > 0 {
			down, elapsed = elapsed-at.Boot, at.Boot
		}
	}
	unwatched := r.Unwatched || rebooted
	gap := unwatched && c.continued == 0 && c.born == 0 && len(r.Counters) > 0 && len(in.devices) > 0
	quality := odometer.Measured
	switch {
	case gap:
		quality = odometer.Gap
		c.forget(in)
	case unwatched:
		quality = odometer.Estimated
	}
	if !gap {
		if err := in.integrate(&c, elapsed); err != nil {
			return err
		}
	}
	c.add[timeOf(quality)] = elapsed
	total := in.total
	if !total.Add(odometer.Usage{Vector: c.add, Known: c.known}) ||
		!total.Add(odometer.Usage{Vector: odometer.Vector{odometer.GapTime: down}}) {
		return invalid("a total of epoch %s would exceed 64 bits", in.epoch)
	}
	if in.label+down+elapsed > maxMicros {
		return invalid("%d µs have passed since the last reading, which ends beyond the year 9999", elapsed)
	}

	// From here on nothing fails.
	if in.open() && (in.unwatched != unwatched || gap || down > 0) {
		m.close(in, in.quality(), emit)
	}
	if down > 0 {
		// The checkpoint of this event stands at the instant of the boot.
		in.total.Vector[odometer.GapTime] += down
		in.label += down
		in.last, in.bootID = odometer.Moment{Boot: 0, Wall: in.label}, m.opts.BootID
		m.close(in, odometer.Gap, emit)
	}
	first := in.label == in.start
	in.total.Add(odometer.Usage{Vector: c.add, Known: c.known})
	in.known |= c.known
	in.label += elapsed
	in.unwatched = unwatched
	in.bootID = m.opts.BootID
	in.last = at
	in.tell(r.Changes)
	in.keep(r, &c)
	// Whatever a named epoch's source shows later has counted from 0 as well;
	// a live one says what is born.
	in.fresh = in.fresh && m.opts.Named
	shown := in.shown()
	in.gauges = amounts(r.Gauges)
	in.state = cmp.Or(r.State, in.state)

	if first && in.owner == (odometer.Owner{}) {
		in.owner = r.Owner // nobody was named when the epoch began
	}
	owned := r.Owner != (odometer.Owner{}) && r.Owner != in.owner
	step := at.Wall - in.label
	stepped := step > StepMicros || step < -StepMicros
	if !(r.Final || gap || owned || stepped || shown != in.shown() || len(in.changes) > 0 ||
		in.label-in.since >= m.opts.Interval || odometer.Hour(in.label) != odometer.Hour(in.since)) {
		return nil
	}
	e := m.cut(in, quality)
	// The checkpoint is the state with which the next period starts.
	if owned {
		in.owner = r.Owner
	}
	if stepped {
		in.step, in.label, in.since = step, at.Wall, at.Wall
	}
	if r.Final {
		e.Final = true
		m.retire(in)
	}
	m.emit(in, e, emit)
	return nil
}

// again folds another line for the moment of the last reading: the first
// reading at the instant of a mark, or a mark at the instant of a reading. No
// time has passed, so nothing is emitted but a period that is open; what the
// line adds belongs to the next one. The same line again changes nothing, and
// what happened is told by the first line of a moment.
func (m *Meter) again(r *odometer.Reading, in *instance, emit func(odometer.Record)) error {
	c, err := in.count(r)
	if err != nil {
		return err
	}
	if err := checkNames(r); err != nil {
		return err
	}
	more := odometer.Usage{Vector: c.add}
	for q, n := range more.Vector {
		if n != 0 {
			more.Known = more.Known.With(odometer.Quantity(q))
		}
	}
	total := in.total
	if !total.Add(more) {
		return invalid("a total of epoch %s would exceed 64 bits", in.epoch)
	}
	if in.open() {
		m.close(in, in.quality(), emit)
	}
	in.total.Add(more)
	in.known |= more.Known
	in.keep(r, &c)
	in.gauges = amounts(r.Gauges)
	in.state = cmp.Or(r.State, in.state)
	in.owner = cmp.Or(r.Owner, in.owner)
	return nil
}

// tell has the next event tell what happened.
func (in *instance) tell(changes []odometer.Change) {
	if len(changes) > 0 {
		in.changes = odometer.Lifecycle(slices.Concat(in.changes, changes))
	}
}

// close cuts the open period off at the last reading.
func (m *Meter) close(in *instance, q odometer.Quality, emit func(odometer.Record)) {
	m.emit(in, m.cut(in, q), emit)
}

// end closes the epoch at its last reading. Where no period is open there is
// no event that could say so, and a checkpoint alone does.
func (m *Meter) end(in *instance, emit func(odometer.Record)) {
	var e *odometer.Event
	if in.open() {
		e = m.cut(in, in.quality())
		e.Final = true
	}
	m.retire(in)
	m.emit(in, e, emit)
}

// cut turns the open period into an event and starts the next one.
func (m *Meter) cut(in *instance, q odometer.Quality) *odometer.Event {
	e := in.event(q)
	p := in.parts
	p.cpu = (p.cpu + e.Usage.Vector[odometer.CPU]) % odometer.SecondMicros
	p.gpu = (p.gpu + e.Usage.Vector[odometer.GPU]) % odometer.SecondMicros
	in.sequence++
	in.from, in.since, in.known, in.step, in.changes = in.total, in.label, 0, 0, nil
	return e
}

func (m *Meter) emit(in *instance, e *odometer.Event, emit func(odometer.Record)) {
	in.parts.serial++
	in.serial = in.parts.serial
	emit(odometer.Record{Event: e, Checkpoint: in.appendCheckpoint(nil)})
}

// Flush closes every open period at its last reading, in the order of the
// instances' names. The epochs go on: a meter restored from what was emitted
// continues them.
func (m *Meter) Flush(emit func(odometer.Record)) error {
	for _, in := range m.sorted() {
		m.close(in, in.quality(), emit)
	}
	return nil
}

// Gone ends the epoch of an instance of this agent that was found to be gone, at
// which moment and with nobody knowing since when: the time since its last
// reading is a gap. Where the epoch has ended, or there is none, nothing happens.
func (m *Meter) Gone(id odometer.InstanceID, at odometer.Moment, emit func(odometer.Record)) {
	in := m.instances[m.key(pair{id, m.opts.Agent}, "")]
	if in == nil || in.ended {
		return
	}
	elapsed := at.Boot - in.last.Boot
	if m.rebooted(in, at, true) {
		elapsed = max(at.Wall-in.label, at.Boot)
	}
	total := in.total
	if elapsed <= 0 || in.label+elapsed > maxMicros || !total.Add(odometer.Usage{Vector: odometer.Vector{odometer.GapTime: elapsed}}) {
		m.end(in, emit)
		return
	}
	if in.open() {
		m.close(in, in.quality(), emit)
	}
	in.total, in.label, in.last, in.bootID = total, in.label+elapsed, at, m.opts.BootID
	in.tell([]odometer.Change{{Kind: odometer.ChangeDeleted, At: at, Detail: "it was gone when the agent started; nobody knows since when"}})
	e := m.cut(in, odometer.Gap)
	e.Final = true
	m.retire(in)
	m.emit(in, e, emit)
}

// Open yields the periods that are open, each as the event that it would be if
// it closed at its last reading, in the order of the instances' names.
func (m *Meter) Open(yield func(*odometer.Event) bool) {
	for _, in := range m.sorted() {
		if !yield(in.event(in.quality())) {
			return
		}
	}
}

// sorted returns the instances with an open period.
func (m *Meter) sorted() []*instance {
	var open []*instance
	for _, in := range m.instances {
		if in.open() {
			open = append(open, in)
		}
	}
	slices.SortFunc(open, func(a, b *instance) int {
		return cmp.Or(cmp.Compare(a.instance, b.instance), cmp.Compare(a.agent, b.agent), cmp.Compare(a.source, b.source))
	})
	return open
}

// put makes in the odometer that its key finds.
func (m *Meter) put(in *instance) {
	in.parts = m.parts[in.instance]
	if in.parts == nil {
		in.parts = &parts{}
		m.parts[in.instance] = in.parts
	}
	in.parts.users++
	k := m.key(in.pair, in.source)
	if old := m.instances[k]; old != nil {
		m.release(old)
	}
	m.instances[k] = in
	if m.opts.Named {
		// A serial of 0 is that of an epoch that begins now.
		old := m.latest[in.pair]
		superseded := in
		if old == nil || in.serial == 0 || in.serial > old.serial {
			m.latest[in.pair], superseded = in, old
		}
		if superseded != nil && !superseded.ended {
			m.queue(superseded)
		}
	}
	if in.ended {
		m.retire(in)
	}
}

// retire marks in as ended. Its devices are of no more use.
func (m *Meter) retire(in *instance) {
	in.ended, in.devices, in.gauges = true, nil, amounts(odometer.NoGauges)
	m.queue(in)
}

// queue lines in up to be forgotten.
func (m *Meter) queue(in *instance) {
	m.ended = append(m.ended, in)
	for len(m.ended) > m.opts.MaxEnded {
		oldest := m.ended[0]
		m.ended[0] = nil
		m.ended = m.ended[1:]
		if k := m.key(oldest.pair, oldest.source); m.instances[k] == oldest {
			delete(m.instances, k)
			if m.latest[oldest.pair] == oldest {
				delete(m.latest, oldest.pair)
			}
			m.release(oldest)
		}
	}
}

func (m *Meter) release(in *instance) {
	if in.parts.users--; in.parts.users == 0 {
		delete(m.parts, in.instance)
	}
}
