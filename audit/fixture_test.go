package audit_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/ledger"
)

const (
	sec  = odometer.SecondMicros
	hour = odometer.HourMicros
)

// base is the hour in which the stories begin: 2026-03-01 12:00 UTC.
var base = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro()

var (
	ada = odometer.Owner{User: "u-ada", Org: "o-acme"}
	bob = odometer.Owner{User: "u-bob"}
)

// The agents of the story and their partitions.
const (
	hostOne = odometer.AgentID("host-1")
	hostTwo = odometer.AgentID("host-2")
	relay   = odometer.AgentID("relay")
	billing = odometer.AgentID("http:billing")
)

// odo makes the events of one epoch.
type odo struct {
	instance odometer.InstanceID
	agent    odometer.AgentID
	owner    odometer.Owner
	epoch    odometer.Epoch
	start    int64
	at       int64
	seq      uint64
	total    odometer.Usage
}

func newOdo(instance odometer.InstanceID, agent odometer.AgentID, start int64) *odo {
	o := &odo{
		instance: instance, agent: agent, owner: ada, start: start, at: start,
		epoch: odometer.NewEpoch(instance, agent, "audit test", fmt.Sprint(start)),
	}
	for _, q := range []odometer.Quantity{odometer.CPU, odometer.Memory, odometer.NetworkEgress, odometer.MeasuredTime, odometer.EstimatedTime, odometer.GapTime} {
		o.total.Known = o.total.Known.With(q)
	}
	return o
}

// next is an event of the given length. CPU advances by cpu, the other
// quantities by amounts that leave remainders in every division.
func (o *odo) next(length, cpu int64) *odometer.Event {
	used := odometer.Usage{Known: o.total.Known}
	used.Vector[odometer.CPU], used.Vector[odometer.Memory] = cpu, 1021*length/sec+7
	used.Vector[odometer.NetworkEgress], used.Vector[odometer.MeasuredTime] = 104729, length
	return o.event(used, odometer.Measured)
}

// unseen is an event of a time that nobody measured.
func (o *odo) unseen(length int64) *odometer.Event {
	used := odometer.Usage{Known: o.total.Known}
	used.Vector[odometer.GapTime] = length
	return o.event(used, odometer.Gap)
}

func (o *odo) event(used odometer.Usage, quality odometer.Quality) *odometer.Event {
	length := used.Elapsed()
	e := &odometer.Event{
		Version: odometer.Version11, Instance: o.instance, Owner: o.owner, Agent: o.agent, Epoch: o.epoch, EpochStart: o.start,
		FirstSequence: o.seq + 1, Sequence: o.seq + 1, Span: odometer.Span{Start: o.at, End: o.at + length},
		Usage: used, Quality: quality, Readings: odometer.Readings{Start: o.total},
	}
	o.total.Add(used)
	e.Readings.End = o.total
	e.Derive(0, 0)
	o.seq++
	o.at += length
	return e
}

// teller drives a real ledger.
type teller struct {
	t   testing.TB
	dir string
	l   *ledger.Ledger
	now time.Time
	pos map[odometer.AgentID]uint64
}

func newTeller(t testing.TB, dir string) *teller {
	t.Helper()
	s := &teller{t: t, dir: dir, now: time.UnixMicro(base + hour), pos: map[odometer.AgentID]uint64{}}
	l, err := ledger.Open(context.Background(), ledger.Options{Path: filepath.Join(dir, "ledger.db"), Clock: func() time.Time { return s.now }})
	if err != nil {
		t.Fatal(err)
	}
	s.l = l
	return s
}

func (s *teller) close() {
	s.t.Helper()
	if err := s.l.Close(); err != nil {
		s.t.Fatal(err)
	}
}

const spoolID = odometer.SpoolID("0123456789abcdef0123456789abcdef")

// frame makes the next frame of an agent's spool.
func (s *teller) frame(agent odometer.AgentID, records ...odometer.Record) odometer.Frame {
	fr := odometer.Frame{Agent: agent, Spool: spoolID, First: s.pos[agent] + 1}
	for i := range records {
		s.pos[agent]++
		records[i].First, records[i].Position = s.pos[agent], s.pos[agent]
	}
	fr.Records, fr.Last = records, s.pos[agent]
	return fr
}

// send commits events as the agent's next frame and checks their outcomes.
func (s *teller) send(agent odometer.AgentID, want []string, events ...*odometer.Event) {
	s.t.Helper()
	var records []odometer.Record
	for _, e := range events {
		records = append(records, odometer.Record{Event: e})
	}
	s.commit(s.frame(agent, records...), want...)
}

func (s *teller) commit(fr odometer.Frame, want ...string) {
	s.t.Helper()
	results, _, err := s.l.Commit(context.Background(), []odometer.Frame{fr})
	if err != nil {
		s.t.Fatal(err)
	}
	var got []string
	for _, r := range results[0] {
		got = append(got, string(r.Outcome))
	}
	if want != nil && !slices.Equal(got, want) {
		s.t.Fatalf("outcomes: got %q, want %q (%+v)", got, want, results[0])
	}
}

func (s *teller) tick() {
	s.t.Helper()
	if err := s.l.Tick(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

func event10(instance odometer.InstanceID, start, end int64, cpu uint64) *odometer.Event {
	return &odometer.Event{
		Version: odometer.Version10, Instance: instance, Owner: bob, Timestamp: end, Period: odometer.Period{Start: start, End: end},
		Metrics: odometer.Metrics{CPUSeconds: cpu, MemoryGB: 1.5, StorageGB: 10, NetworkEgressMB: 0.25},
	}
}

func (s *teller) http(want []string, events ...*odometer.Event) {
	s.t.Helper()
	fr := odometer.Frame{Agent: billing, First: 1, Last: uint64(len(events))}
	for i, e := range events {
		fr.Records = append(fr.Records, odometer.Record{First: uint64(i + 1), Position: uint64(i + 1), Event: e})
	}
	s.commit(fr, want...)
}

// story tells everything that a ledger can live through.
func (s *teller) story() {
	s.t.Helper()
	recorded := func(n int) []string { return slices.Repeat([]string{"recorded"}, n) }

	// Two days of five-minute events, so that hours seal and digests fill.
	one := newOdo("vm-1", hostOne, base+17)
	for day := range 2 {
		for h := range 24 {
			s.now = time.UnixMicro(one.at + hour + 60*sec)
			var events []*odometer.Event
			for range 12 {
				events = append(events, one.next(300*sec, 1_234_567))
			}
			s.send(hostOne, recorded(12), events...)
			if day == 0 && h == 10 {
				one.owner = bob // in the middle of an hour
			}
		}
		s.tick()
	}
	s.now = s.now.Add(4 * time.Hour)
	two := newOdo("vm-2", hostTwo, one.at-hour)
	first := two.next(300*sec, 11)
	s.send(hostTwo, []string{"recorded", "duplicate"}, first, first)
	s.send(hostTwo, recorded(2), two.unseen(90*sec), two.next(3*hour, 1_000_003)) // over three hour edges

	// Coalesced over recorded; a changed event; parts that come too late.
	a, b := one.next(30*sec, 5), one.next(30*sec, 7)
	both := *a
	if err := both.Merge(b); err != nil {
		s.t.Fatal(err)
	}
	changed := *a
	changed.Usage.Vector[odometer.CPU]--
	changed.Readings.End.Vector[odometer.CPU]--
	s.send(hostOne, []string{"recorded", "recorded", "covered", "quarantined", "duplicate"}, a, &both, b, &changed, &changed)

	// A hole that fills, one that the agent gives up, one that time gives up.
	c, d := one.next(30*sec, 1), one.next(30*sec, 2)
	s.send(hostOne, []string{"held", "duplicate", "recorded"}, d, d, c)
	one.next(30*sec, 900_000)
	s.commit(s.frame(hostOne, odometer.Record{Event: one.next(30*sec, 3), Resumes: true}), "recorded")
	one.next(30*sec, 800_000)
	s.send(hostOne, []string{"held"}, one.next(30*sec, 4))
	s.now = s.now.Add(25 * time.Hour)
	s.tick()

	// Quarantine, and a person who releases.
	poison := two.next(30*sec, 1<<50)
	s.send(hostTwo, []string{"quarantined"}, poison)
	rows, err := s.l.Quarantine(context.Background(), 10)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, q := range rows {
		if q.Instance == "vm-2" {
			if _, err := s.l.Release(context.Background(), q.Partition, q.No, "operator@example.org"); err != nil {
				s.t.Fatal(err)
			}
		}
	}

	// An instance that ends, a checkpoint alone.
	end := newOdo("vm-3", hostTwo, two.at)
	last := end.next(400_000, 3) // it lived 0.4 s
	last.Final = true
	last.Lifecycle = []odometer.Change{
		{Kind: odometer.ChangeStarted, At: odometer.Moment{Boot: 1, Wall: last.Span.Start}},
		{Kind: odometer.ChangeDeviceAdded, At: odometer.Moment{Boot: 2, Wall: last.Span.Start + 1}, Device: "vdb", Detail: "20 GiB"},
		{Kind: odometer.ChangeCrashed, At: odometer.Moment{Boot: 400_001, Wall: last.Span.End}, Detail: "killed by signal 9"},
	}
	s.send(hostTwo, []string{"recorded", "quarantined"}, last, end.next(sec, 1))
	again := *last
	again.Lifecycle = append(slices.Clone(last.Lifecycle[:1]), odometer.Change{Kind: odometer.ChangeCrashed, At: odometer.Moment{Wall: last.Span.End}, Detail: "otherwise"})
	s.send(hostTwo, []string{"duplicate"}, &again)
	s.commit(s.frame(hostOne, odometer.Record{Checkpoint: json.RawMessage(`{"instance":"vm-9"}`)}), "checkpoint")

	// Version 1.0, and what cannot be opened.
	at := base / sec
	s.http([]string{"recorded", "recorded", "duplicate", "quarantined", "quarantined"},
		event10("vm-8", at, at+5000, 40), event10("vm-8", at+5000, at+5060, 1), event10("vm-8", at, at+5000, 40),
		event10("vm-8", at+4000, at+5030, 2), event10("vm-8", at, at+5000, 41))
	s.commit(odometer.Frame{Agent: hostTwo, Spool: spoolID, Packed: []byte("no frame at all"), Err: odometer.ErrInvalid}, "quarantined")

	// An agent that lost its disk goes on from what the ledger has, and a queue
	// brings what it had sent before.
	lost := newOdo("vm-10", hostTwo, two.at)
	s.commit(s.frame(hostTwo, odometer.Record{Event: lost.next(30*sec, 7), Checkpoint: json.RawMessage(`{"instance":"vm-10"}`)}), "recorded")
	if list, err := s.l.Checkpoints(context.Background(), hostTwo); err != nil || len(list) != 1 {
		s.t.Fatalf("checkpoints: got %s, %v, want one", list, err)
	}
	s.send(hostTwo, []string{"recorded"}, newOdo("vm-10", hostTwo, lost.at).unseen(60*sec))
	s.send(hostTwo, []string{"quarantined"}, lost.next(30*sec, 7))

	for range 6 {
		s.tick()
	}

	// One sender for several agents.
	h1, h2 := newOdo("vm-5", hostOne, one.at), newOdo("vm-6", hostTwo, one.at)
	s.send(relay, recorded(4), h1.next(30*sec, 1), h2.next(30*sec, 1), h1.next(30*sec, 1), h2.next(30*sec, 1))

	// The clock stepped, and an event that still waits at the end.
	wait := newOdo("vm-1", hostOne, one.at)
	s.send(hostOne, recorded(1), wait.next(30*sec, 1))
	wait.at += 7 * sec
	stepped := wait.next(30*sec, 1)
	stepped.Span.Step = 7 * sec
	s.send(hostOne, recorded(1), stepped)
	wait.next(30*sec, 1)
	s.send(hostOne, []string{"held"}, wait.next(30*sec, 1))

	// A person reverses an entry of a compacted day, and a recovery, which is
	// then given again.
	s.reverse(odometer.EntryID{Partition: hostOne.Partition(), Number: 5})
	entries, _, err := s.l.Entries(context.Background(), odometer.EntryQuery{Limit: 10_000})
	if err != nil {
		s.t.Fatal(err)
	}
	i := slices.IndexFunc(entries, func(e odometer.Entry) bool { return e.Kind == odometer.KindRecovered })
	s.reverse(s.reverse(entries[i].ID))

	// Hours that are sealed and wait to be compacted, some of it recovered, of
	// an epoch that its owner's index has and of one that it does not have yet.
	late := newOdo("vm-7", hostOne, one.at)
	s.now = time.UnixMicro(late.at + 3*hour)
	s.send(hostOne, recorded(1), late.next(30*sec, 1))
	late.next(hour, 500_000)
	s.commit(s.frame(hostOne, odometer.Record{Event: late.next(hour, 3), Resumes: true}), "recorded")
	s.send(hostTwo, recorded(1), newOdo("vm-7", hostTwo, one.at).next(2*hour, 1))

	// It is sold: within an hour in which something was recovered, and again in the
	// middle of an event that comes after.
	s.assign("vm-7", bob, one.at+hour/3)
	s.assign("vm-7", odometer.Owner{User: "u-eve"}, late.at+20*sec)
	s.send(hostOne, recorded(2), late.next(10*sec, 7), late.next(30*sec, 1_000_003))

	// The month is closed, first for one organisation; what is booked for it later, a
	// reversal and the last event of a machine, adjusts it.
	s.now = time.Date(2026, 4, 1, 1, 0, 0, 0, time.UTC)
	s.closeMonth("o-acme")
	s.reverse(odometer.EntryID{Partition: hostOne.Partition(), Number: 7})
	s.closeMonth("")
	s.send(hostOne, recorded(1), late.next(20*60*sec, 70_001))
}

// closeMonth closes March, for one organisation or, with "", for everybody.
func (s *teller) closeMonth(org odometer.OrgID) {
	s.t.Helper()
	c := odometer.MonthClose{Month: odometer.MonthOf(base), AcceptGaps: true, Actor: "operator@example.org", Cause: "it is over"}
	if org != "" {
		c.Org = &org
	}
	if _, err := s.l.CloseMonth(context.Background(), c); err != nil {
		s.t.Fatal(err)
	}
}

// assign says whose an instance is from a moment on.
func (s *teller) assign(instance odometer.InstanceID, owner odometer.Owner, from int64) {
	s.t.Helper()
	if _, err := s.l.Assign(context.Background(), odometer.Ownership{Instance: instance, Owner: owner, From: from}, "operator@example.org", "it was sold", false); err != nil {
		s.t.Fatal(err)
	}
}

// reverse reverses an entry and returns the correction.
func (s *teller) reverse(id odometer.EntryID) odometer.EntryID {
	s.t.Helper()
	e, err := s.l.Reverse(context.Background(), id, "operator@example.org", "the machine was ours")
	if err != nil {
		s.t.Fatal(err)
	}
	return e.ID
}

// told returns a data directory with the story's ledger, which is closed. The
// story is told once; every caller gets a copy.
func told(t testing.TB) string {
	t.Helper()
	fixture.once.Do(func() {
		s := newTeller(t, fixture.dir)
		s.story()
		s.close()
		fixture.whole = true
	})
	if !fixture.whole {
		t.Fatal("the story could not be told")
	}
	dir := t.TempDir()
	copyFile(t, filepath.Join(dir, "ledger.db"), filepath.Join(fixture.dir, "ledger.db"))
	if err := os.WriteFile(filepath.Join(dir, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

var fixture struct {
	once  sync.Once
	dir   string
	whole bool
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "odometer-audit-test-*")
	if err != nil {
		panic(err)
	}
	fixture.dir = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

func copyFile(t testing.TB, to, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// open opens the database of a data directory to change it.
func open(t testing.TB, dir string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "ledger.db")+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func run(t testing.TB, dir string) *audit.Report {
	t.Helper()
	r, err := audit.Run(context.Background(), audit.Options{DataDir: dir})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// show lists what an audit found, for a message.
func show(r *audit.Report) string {
	var b strings.Builder
	fmt.Fprintf(&b, "ok %t, %d findings, topic %s", r.OK, r.FindingsTotal, r.Topic.State)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "\n\t%s: %s", f.Code, f.Detail)
	}
	return b.String()
}
