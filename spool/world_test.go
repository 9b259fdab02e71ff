package spool

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/internal/memfs"
)

const testDir = "/var/spool/odometer"

// epochStart is 2026-01-01T00:00:00Z.
const epochStart = 1767225600 * odometer.SecondMicros

// source makes the events of one instance: event n of it is the same whenever
// it is made.
type source struct {
	instance odometer.InstanceID
	epoch    odometer.Epoch
	seconds  int64 // length of a period
}

func newSource(i int) source {
	instance := odometer.InstanceID(fmt.Sprintf("vm-%d", i))
	return source{instance, odometer.NewEpoch(instance, "h1", "test", ""), 30}
}

// total is the odometer after n events.
func (s source) total(n uint64) odometer.Usage {
	var v odometer.Vector
	v[odometer.CPU] = int64(n*n) * 1001
	v[odometer.Memory] = int64(n) * 512 * s.seconds
	v[odometer.NetworkEgress] = int64(n*n*n) * 7
	v[odometer.MeasuredTime] = int64(n) * s.seconds * odometer.SecondMicros
	var k odometer.Known
	for _, q := range []odometer.Quantity{odometer.CPU, odometer.Memory, odometer.NetworkEgress, odometer.MeasuredTime, odometer.EstimatedTime, odometer.GapTime} {
		k = k.With(q)
	}
	return odometer.Usage{Vector: v, Known: k}
}

func (s source) event(n uint64) *odometer.Event {
	start, end := s.total(n-1), s.total(n)
	e := &odometer.Event{
		Version: odometer.Version11, Instance: s.instance, Agent: "h1", Owner: odometer.Owner{User: "u"},
		Epoch: s.epoch, EpochStart: epochStart, FirstSequence: n, Sequence: n,
		Span:     odometer.Span{Start: epochStart + start.Vector.Elapsed(), End: epochStart + end.Vector.Elapsed()},
		Usage:    end.Sub(start),
		Readings: odometer.Readings{Start: start, End: end},
		Quality:  odometer.Measured,
	}
	e.Derive(0, 0)
	return e
}

// deviceBytes make a record a kilobyte, as real ones are.
const deviceBytes = 780

type testState struct {
	Version  int                 `json:"version"`
	Instance odometer.InstanceID `json:"instance"`
	Agent    odometer.AgentID    `json:"agent"`
	Name     string              `json:"name"`
	Epoch    odometer.Epoch      `json:"epoch"`
	Serial   uint64              `json:"serial"`
	Ended    bool                `json:"ended"`
	Sequence uint64              `json:"sequence"`
	Devices  string              `json:"devices"` // as long as devices make it
}

func (s source) checkpoint(n uint64) json.RawMessage {
	b, err := json.Marshal(testState{Version: 1, Instance: s.instance, Agent: "h1", Epoch: s.epoch, Serial: n, Sequence: n, Devices: strings.Repeat("-", deviceBytes)})
	if err != nil {
		panic(err)
	}
	return b
}

func (s source) record(n uint64) odometer.Record {
	return odometer.Record{Event: s.event(n), Checkpoint: s.checkpoint(n)}
}

// world is an agent and a ledger around a spool, reduced to what the spool
// promises them: the agent goes on from the checkpoints and offers again what
// was not taken; the ledger takes records in order of position, counts what
// lies beyond an epoch's watermark, and sends receipts.
type world struct {
	t       testing.TB
	name    string
	fs      *memfs.FS
	layer   func(*memfs.FS) FS // what the spool sees of fs, nil for itself
	opts    Options
	spool   *Spool
	at      time.Time // its clock, which goes on by a second whenever it is read
	sources []source

	// The agent: what it has told the spool, and what the spool has accepted.
	offered, accepted map[odometer.Epoch]uint64
	refused           int

	// The ledger, which outlives everything.
	id        odometer.SpoolID
	committed uint64
	marks     map[odometer.Epoch]uint64
	sums      map[odometer.Epoch]odometer.Usage
	recovered int
	given     map[uint64]span // what could be read at each position
	receipted uint64          // what Ack has accepted
	// generation is of the ledger, acked the one that Ack has accepted.
	generation, acked uint64
}

// span is a range of one epoch's sequences.
type span struct {
	epoch       odometer.Epoch
	first, last uint64
}

func newWorld(t testing.TB, fs *memfs.FS, instances int, o Options) *world {
	w := &world{
		t: t, fs: fs, opts: o, at: time.UnixMicro(epochStart), generation: 1,
		offered: map[odometer.Epoch]uint64{}, accepted: map[odometer.Epoch]uint64{},
		marks: map[odometer.Epoch]uint64{}, sums: map[odometer.Epoch]odometer.Usage{}, given: map[uint64]span{},
	}
	for i := range instances {
		w.sources = append(w.sources, newSource(i))
	}
	return w
}

func (w *world) fatalf(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("%s: %s", w.name, fmt.Sprintf(format, args...))
}

// start opens the spool and goes on from its checkpoints.
func (w *world) start() error {
	o := w.opts
	o.Dir, o.FS = testDir, w.fs
	o.Now = func() time.Time { w.at = w.at.Add(time.Second); return w.at }
	if w.layer != nil {
		o.FS = w.layer(w.fs)
	}
	s, err := Open(o)
	if err != nil {
		return err
	}
	w.spool = s
	if w.id == "" {
		w.id = s.ID()
	}
	clear(w.offered)
	for _, data := range s.Checkpoints() {
		var c testState
		if err := json.Unmarshal(data, &c); err != nil {
			w.fatalf("checkpoint %s: %v", data, err)
		}
		w.offered[c.Epoch] = max(w.offered[c.Epoch], c.Sequence)
	}
	for epoch, n := range w.accepted {
		if got := w.offered[epoch]; got < n {
			w.fatalf("the newest checkpoint of %s is %d, but event %d was accepted", epoch, got, n)
		}
	}
	return nil
}

// tick appends the next event of some instances.
func (w *world) tick(n int) error {
	var rs []odometer.Record
	for i, s := range w.sources {
		if (n+i)%len(w.sources) == 0 && len(w.sources) > 1 {
			continue // not all of them in every tick
		}
		if i == len(w.sources)-1 && w.offered[s.epoch] >= 2 {
			continue // and one falls silent: its state outlives its records
		}
		// What was refused is offered again: as one event where that is how
		// it was merged in memory.
		rs = append(rs, s.record(w.offered[s.epoch]+1))
	}
	if err := w.spool.Append(rs); err != nil {
		w.refused++
		return err
	}
	for _, r := range rs {
		w.offered[r.Event.Epoch]++
		w.accepted[r.Event.Epoch] = w.offered[r.Event.Epoch]
		w.see(&r)
	}
	return nil
}

// deliver gives the ledger up to n records after its receipt and takes in the
// receipt.
func (w *world) deliver(n int) error {
	if w.spool.Stats().Generation < w.generation && w.committed > 0 {
		if err := w.receipt(); err != nil {
			return err
		}
	}
	from := w.spool.Stats().Acked
	previous := from
	for r, err := range w.spool.After(from) {
		if err != nil {
			return err
		}
		if r.First != previous+1 {
			w.fatalf("record at %d begins at %d, want %d", r.Position, r.First, previous+1)
		}
		previous = r.Position
		w.take(r)
		if n--; n == 0 {
			break
		}
	}
	if w.spool.ID() != w.id {
		w.fatalf("the spool is %s, it was %s", w.spool.ID(), w.id)
	}
	return w.receipt()
}

// receipt tells the spool how far the ledger is.
func (w *world) receipt() error {
	if err := w.spool.Ack(odometer.Receipt{Agent: "h1", Spool: w.id, Position: w.committed, Ledger: "ledger", Generation: w.generation}); err != nil {
		return err
	}
	if w.acked != w.generation {
		w.acked, w.receipted = w.generation, 0
	}
	w.receipted = max(w.receipted, w.committed)
	return nil
}

// see notes what can be read at a position: nothing else ever can, but the
// same with what lay before it merged into it.
func (w *world) see(r *odometer.Record) {
	now := span{r.Event.Epoch, r.Event.FirstSequence, r.Event.Sequence}
	if old, ok := w.given[r.Position]; ok && (old.epoch != now.epoch || now.first > old.first || now.last != old.last) {
		w.fatalf("position %d was %v and is now %v", r.Position, old, now)
	}
	w.given[r.Position] = now
}

// restored is the ledger as it was in the backup, under its next generation.
func (w *world) restored(backup *world) {
	w.committed, w.marks, w.sums = backup.committed, cloneMap(backup.marks), cloneMap(backup.sums)
	w.generation++
}

// take is the ledger.
func (w *world) take(r odometer.Record) {
	if r.Err != nil {
		w.fatalf("record %d: %v", r.Position, r.Err)
	}
	if r.First > w.committed+1 {
		w.fatalf("record %d to %d arrived, the ledger has %d", r.First, r.Position, w.committed)
	}
	w.committed = max(w.committed, r.Position)
	e := r.Event
	if e == nil {
		return
	}
	w.see(&r)
	mark := w.marks[e.Epoch]
	if e.FirstSequence > mark+1 {
		if !r.Resumes {
			w.fatalf("event %s follows %d and does not resume", e.ID(), mark)
		}
		w.recovered++
	}
	i := slices.IndexFunc(w.sources, func(s source) bool { return s.epoch == e.Epoch })
	if want := w.sources[i].total(e.FirstSequence - 1); e.Readings.Start != want {
		w.fatalf("event %s starts at %v, want %v", e.ID(), e.Readings.Start, want)
	}
	if want := w.sources[i].total(e.Sequence); e.Readings.End != want {
		w.fatalf("event %s ends at %v, want %v", e.ID(), e.Readings.End, want)
	}
	if got, want := e.Usage, e.Readings.End.Sub(e.Readings.Start); got != want {
		w.fatalf("event %s has usage %v, want %v", e.ID(), got, want)
	}
	if e.Sequence <= mark {
		return
	}
	// What lies beyond the watermark is booked, by difference.
	w.sums[e.Epoch] = e.Readings.End
	w.marks[e.Epoch] = e.Sequence
}

// settle delivers everything and compares the ledger with what was accepted.
func (w *world) settle() {
	w.t.Helper()
	if err := w.deliver(-1); err != nil {
		w.fatalf("deliver the rest: %v", err)
	}
	for _, s := range w.sources {
		if got, want := w.marks[s.epoch], w.accepted[s.epoch]; got < want {
			w.fatalf("the ledger has %d events of %s, %d were accepted", got, s.instance, want)
		}
		if n := w.marks[s.epoch]; n > 0 && w.sums[s.epoch] != s.total(n) {
			w.fatalf("sum of %s is %v, want %v", s.instance, w.sums[s.epoch], s.total(n))
		}
	}
	if got := w.spool.Stats().Unacked; got != 0 {
		w.fatalf("%d records are unacknowledged after all were delivered", got)
	}
}

// script is a life of a spool: appends with deliveries, then an outage, then a
// restart and a drain. It goes on after errors, as an agent does.
func (w *world) script() error {
	if err := w.start(); err != nil {
		return err
	}
	for n := range 14 {
		_ = w.tick(n)
		if n%4 == 3 {
			_ = w.deliver(5)
		}
		if w.fs.Killed {
			return memfs.ErrKilled
		}
	}
	if err := w.spool.Close(); err != nil {
		return err
	}
	if err := w.start(); err != nil {
		return err
	}
	for n := range 30 {
		_ = w.tick(n)
		if w.fs.Killed {
			return memfs.ErrKilled
		}
	}
	_ = w.deliver(7)
	_ = w.tick(0)
	if w.fs.Killed {
		return memfs.ErrKilled
	}
	return nil
}

// again goes on with the same ledger on another file system.
func (w *world) again(fs *memfs.FS, name string) {
	w.t.Helper()
	if w.spool != nil {
		_ = w.spool.Close()
	}
	w.fs, w.name = fs, name
	if err := w.start(); err != nil {
		w.fatalf("open: %v", err)
	}
	if st := w.spool.Stats(); st.Acked < w.receipted && st.Generation <= w.acked {
		w.fatalf("receipts reach %d after the restart, %d was acknowledged", st.Acked, w.receipted)
	}
	for n := range 6 {
		if err := w.tick(n); err != nil {
			w.fatalf("append: %v", err)
		}
	}
	w.settle()
}

// fork is a world that goes on by itself from here.
func (w *world) fork() *world {
	c := *w
	c.offered, c.accepted = cloneMap(w.offered), cloneMap(w.accepted)
	c.marks, c.sums, c.given = cloneMap(w.marks), cloneMap(w.sums), cloneMap(w.given)
	c.spool = nil
	return &c
}

func cloneMap[K comparable, V any](m map[K]V) map[K]V {
	c := make(map[K]V, len(m))
	for k, v := range m {
		c[k] = v
	}
	return c
}

// tight are limits under which a short script begins many segments, frees,
// keeps and merges.
func tight() Options {
	at := time.UnixMicro(epochStart)
	return Options{
		MaxBytes: 32 << 10, SegmentBytes: 4 << 10, Retain: time.Hour, RetainBytes: 8 << 10,
		Now: func() time.Time { at = at.Add(time.Second); return at },
	}
}

// roomy are limits that are never reached.
func roomy() Options {
	o := tight()
	o.MaxBytes, o.RetainBytes = 1<<30, 1<<30
	return o
}

var errIO = errors.New("input/output error")
