package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// base is a quiet hour on which test stories begin: 2026-03-01 12:00 UTC.
var base = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMicro()

const sec = odometer.SecondMicros

// desk is a ledger with a clock that tests set.
type desk struct {
	*Ledger
	t    *testing.T
	path string
	now  time.Time
	pos  uint64 // last spool position used
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, path: filepath.Join(t.TempDir(), "ledger.db"), now: time.UnixMicro(base + odometer.HourMicros)}
	d.reopen()
	t.Cleanup(func() { d.Close() })
	return d
}

func (d *desk) reopen() {
	d.t.Helper()
	if d.Ledger != nil {
		if err := d.Close(); err != nil {
			d.t.Fatal(err)
		}
	}
	l, err := Open(d.t.Context(), Options{Path: d.path, Clock: func() time.Time { return d.now }})
	if err != nil {
		d.t.Fatal(err)
	}
	d.Ledger = l
}

// meter makes the events of one epoch: cpu and time advance together.
type meter struct {
	instance odometer.InstanceID
	agent    odometer.AgentID
	owner    odometer.Owner
	epoch    odometer.Epoch
	start    int64
	at       int64
	seq      uint64
	total    odometer.Usage
}

func newMeter(instance odometer.InstanceID, agent odometer.AgentID, start int64) *meter {
	return &meter{
		instance: instance, agent: agent, owner: odometer.Owner{User: "u-ada", Org: "o-acme"},
		epoch: odometer.NewEpoch(instance, agent, "test", fmt.Sprint(start)), start: start, at: start,
		total: odometer.Usage{Known: odometer.Known(0).With(odometer.CPU).With(odometer.NetworkEgress).With(odometer.MeasuredTime).With(odometer.EstimatedTime).With(odometer.GapTime)},
	}
}

// next is an event of the given length that used cpu and egress.
func (m *meter) next(length, cpu, egress int64) *odometer.Event {
	used := odometer.Usage{Known: m.total.Known}
	used.Vector[odometer.CPU], used.Vector[odometer.NetworkEgress], used.Vector[odometer.MeasuredTime] = cpu, egress, length
	e := &odometer.Event{
		Version: odometer.Version11, Instance: m.instance, Owner: m.owner, Agent: m.agent, Epoch: m.epoch, EpochStart: m.start,
		FirstSequence: m.seq + 1, Sequence: m.seq + 1, Span: odometer.Span{Start: m.at, End: m.at + length},
		Usage: used, Quality: odometer.Measured, Readings: odometer.Readings{Start: m.total},
	}
	m.total.Add(used)
	e.Readings.End = m.total
	e.Derive(0, 0)
	m.seq++
	m.at += length
	return e
}

// send commits events as the next frame of one spool and returns their outcomes.
func (d *desk) send(events ...*odometer.Event) []string {
	d.t.Helper()
	fr := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: d.pos + 1}
	for _, e := range events {
		d.pos++
		fr.Records = append(fr.Records, odometer.Record{First: d.pos, Position: d.pos, Event: e})
	}
	fr.Last = d.pos
	return d.commit(fr)
}

func (d *desk) commit(fr odometer.Frame) []string {
	d.t.Helper()
	results, _, err := d.Commit(d.t.Context(), []odometer.Frame{fr})
	if err != nil {
		d.t.Fatal(err)
	}
	var out []string
	for _, r := range results[0] {
		s := string(r.Outcome)
		if r.Reason != "" {
			s += " " + r.Reason
		}
		out = append(out, s)
	}
	return out
}

// want checks outcomes.
func (d *desk) want(got []string, want ...string) {
	d.t.Helper()
	if !slices.Equal(got, want) {
		d.t.Fatalf("outcomes: got %q, want %q", got, want)
	}
}

// total returns what is recorded of a quantity, over all time and everybody.
func (d *desk) total(q odometer.Quantity) int64 {
	d.t.Helper()
	rows := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60})
	if len(rows) == 0 {
		return 0
	}
	n, _ := rows[0].Totals[q].Int64()
	return n
}

func (d *desk) usage(q odometer.UsageQuery) []odometer.UsageRow {
	d.t.Helper()
	rows, err := d.Usage(d.t.Context(), q)
	if err != nil {
		d.t.Fatal(err)
	}
	return rows
}

func (d *desk) entries() []odometer.Entry {
	d.t.Helper()
	list, _, err := d.Entries(d.t.Context(), odometer.EntryQuery{Limit: 1 << 20})
	if err != nil {
		d.t.Fatal(err)
	}
	return list
}

// proven rebuilds the tables from the journal, and checks the count of counts.
func (d *desk) proven() {
	d.t.Helper()
	report, err := Rebuild(d.t.Context(), d.path, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	if report.Total != 0 {
		d.t.Errorf("the tables are no fold of the journal:\n%s", strings.Join(report.Differences, "\n"))
	}
	s, err := d.Stats(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	sum := int64(0)
	for _, o := range odometer.Outcomes {
		sum += s.Counts[string(o)]
	}
	if s.Counts["received"] != sum {
		d.t.Errorf("received %d, accounted for %d: %v", s.Counts["received"], sum, s.Counts)
	}
}

func TestWatermark(t *testing.T) {
	type story struct {
		name string
		tell func(d *desk, m *meter)
		cpu  int64 // recorded at the end
	}
	const second = 1_000_000
	for _, s := range []story{
		{"events in order are booked as they are", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, 3*second, 10), m.next(30*sec, 4*second, 20)), "recorded", "recorded")
		}, 7 * second},
		{"the same event again is a duplicate, for ever", func(d *desk, m *meter) {
			a := m.next(30*sec, second, 0)
			d.want(d.send(a, a), "recorded", "duplicate")
			d.now = d.now.Add(2 * time.Hour)
			for range 200 {
				d.send(m.next(30*sec, second, 0))
			}
			d.want(d.send(a), "duplicate")
		}, 201 * second},
		{"the same identity with other content is a conflict", func(d *desk, m *meter) {
			a := m.next(30*sec, second, 0)
			b := *a
			b.Usage.Vector[odometer.CPU]--
			b.Readings.End.Vector[odometer.CPU]--
			d.want(d.send(a, &b), "recorded", "quarantined conflict")
		}, second},
		{"another owner and timestamp are no other content", func(d *desk, m *meter) {
			a := m.next(30*sec, second, 0)
			b := *a
			b.Owner, b.Timestamp = odometer.Owner{User: "u-bob"}, 7
			d.want(d.send(a, &b), "recorded", "duplicate")
		}, second},
		{"an event that overtook another waits for it", func(d *desk, m *meter) {
			a, b, c := m.next(30*sec, second, 0), m.next(30*sec, second, 0), m.next(30*sec, second, 0)
			d.want(d.send(a), "recorded")
			d.want(d.send(c), "held hole")
			if got := d.total(odometer.CPU); got != second {
				d.t.Errorf("recorded before the hole is filled: got %d, want %d", got, second)
			}
			d.want(d.send(b), "recorded")
		}, 3 * second},
		{"a whole frame backwards ends in the same place", func(d *desk, m *meter) {
			a, b, c := m.next(30*sec, second, 0), m.next(30*sec, 2*second, 0), m.next(30*sec, 4*second, 0)
			d.want(d.send(c, b, a), "held hole", "held hole", "recorded")
		}, 7 * second},
		{"a held event that comes again is a duplicate, a changed one a conflict", func(d *desk, m *meter) {
			a, b := m.next(30*sec, second, 0), m.next(30*sec, second, 0)
			x := *b
			x.Usage.Vector[odometer.CPU]--
			x.Readings.End.Vector[odometer.CPU]--
			d.want(d.send(b, b, &x, a), "held hole", "duplicate", "quarantined conflict", "recorded")
		}, 2 * second},
		{"a hole that nothing fills is booked from the difference after a day", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			m.next(30*sec, 5*second, 0) // lost
			m.next(30*sec, 5*second, 0) // lost
			d.want(d.send(m.next(30*sec, second, 0)), "held hole")
			d.now = d.now.Add(23 * time.Hour)
			d.tick()
			if got := d.total(odometer.CPU); got != second {
				d.t.Errorf("given up too early: got %d, want %d", got, second)
			}
			d.now = d.now.Add(2 * time.Hour)
			d.tick()
			if got := d.entries()[1]; got.Kind != odometer.KindRecovered || got.Event.FirstSequence != 2 || got.Event.Sequence != 3 || got.Cause == "" {
				d.t.Errorf("second entry: got %s of %d-%d, want the recovery of 2-3", got.Kind, got.Event.FirstSequence, got.Event.Sequence)
			}
			if r := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60})[0].Recovered.String(); r != "60000000" {
				d.t.Errorf("recovered time: got %s µs, want 60000000", r)
			}
		}, 12 * second},
		{"an agent that says the rest is gone is not waited for", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			m.next(30*sec, 5*second, 0) // lost
			d.pos++
			e := m.next(30*sec, second, 0)
			d.want(d.commit(odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: d.pos, Last: d.pos,
				Records: []odometer.Record{{First: d.pos, Position: d.pos, Event: e, Resumes: true}}}), "recorded")
		}, 7 * second},
		{"a coalesced event over none of its parts", func(d *desk, m *meter) {
			a := m.next(30*sec, second, 0)
			merge(d.t, a, m.next(30*sec, second, 0), m.next(30*sec, second, 0))
			d.want(d.send(a), "recorded")
		}, 3 * second},
		{"a coalesced event over some of its parts books the rest", func(d *desk, m *meter) {
			a, b, c := m.next(30*sec, second, 0), m.next(30*sec, second, 0), m.next(30*sec, second, 0)
			all := *a
			merge(d.t, &all, b, c)
			d.want(d.send(a, b, &all), "recorded", "recorded", "recorded")
			if e := d.entries()[2]; e.Event.Usage.Vector[odometer.CPU] != second || e.Event.Span != (odometer.Span{Start: c.Span.Start, End: c.Span.End}) {
				d.t.Errorf("the rest: got %d over %v, want %d over %v", e.Event.Usage.Vector[odometer.CPU], e.Event.Span, second, c.Span)
			}
		}, 3 * second},
		{"a coalesced event over all of its parts adds nothing", func(d *desk, m *meter) {
			a, b := m.next(30*sec, second, 0), m.next(30*sec, second, 0)
			all := *a
			merge(d.t, &all, b)
			d.want(d.send(a, b, &all), "recorded", "recorded", "covered")
		}, 2 * second},
		{"parts that come after the coalesced event are covered", func(d *desk, m *meter) {
			a, b := m.next(30*sec, second, 0), m.next(30*sec, second, 0)
			all := *a
			merge(d.t, &all, b)
			d.want(d.send(&all, a, b, &all), "recorded", "covered", "covered", "duplicate")
		}, 2 * second},
		{"more than is physically possible goes to quarantine and what follows is right", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			poison := *m
			bad := poison.next(30*sec, 1<<60, 0)
			m.next(30*sec, 5*second, 0) // what the poisoned event should have said
			d.want(d.send(bad), "quarantined impossible")
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			if e := d.entries()[1]; e.Kind != odometer.KindRecovered || e.Event.Usage.Vector[odometer.CPU] != 5*second {
				d.t.Errorf("over the poisoned event: got %s of %d, want recovered %d", e.Kind, e.Event.Usage.Vector[odometer.CPU], 5*second)
			}
		}, 7 * second},
		{"the same poison again is a duplicate, not a second row", func(d *desk, m *meter) {
			bad := m.next(30*sec, 1<<60, 0)
			d.want(d.send(bad, bad), "quarantined impossible", "duplicate")
		}, 0},
		{"a reading that lowers the odometer goes to quarantine", func(d *desk, m *meter) {
			a := m.next(30*sec, 5*second, 0)
			d.want(d.send(a), "recorded")
			m.seq, m.at = m.seq+1, m.at+30*sec
			m.total.Vector[odometer.CPU] = second
			m.total.Vector[odometer.MeasuredTime] += 30 * sec
			d.want(d.send(m.next(30*sec, second, 0)), "held hole")
			d.now = d.now.Add(25 * time.Hour)
			d.tick()
			if s, _ := d.Stats(d.t.Context()); s.Counts["quarantined"] != 1 || s.Counts["held"] != 0 {
				d.t.Errorf("after the hole was given up: got %v, want one in quarantine", s.Counts)
			}
		}, 5 * second},
		{"readings that do not begin at the watermark break the chain", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			m.total.Vector[odometer.CPU] += 100
			d.want(d.send(m.next(30*sec, second, 0)), "quarantined chain")
		}, second},
		{"a span that does not begin where the last one ended breaks the chain", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			m.at -= 10 * sec
			d.want(d.send(m.next(30*sec, second, 0)), "quarantined chain")
		}, second},
		{"a span that says by how much the clock was stepped follows", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			m.at -= 10 * sec
			e := m.next(30*sec, second, 0)
			e.Span.Step = -10 * sec
			d.want(d.send(e), "recorded")
		}, 2 * second},
		{"nothing follows the final event of an epoch", func(d *desk, m *meter) {
			a := m.next(30*sec, second, 0)
			a.Final = true
			d.want(d.send(a, m.next(30*sec, second, 0), a), "recorded", "quarantined closed", "duplicate")
		}, second},
		{"an epoch belongs to one instance", func(d *desk, m *meter) {
			d.want(d.send(m.next(30*sec, second, 0)), "recorded")
			m.instance = "vm-other"
			d.want(d.send(m.next(30*sec, second, 0)), "quarantined conflict")
		}, second},
		{"an event from the future waits until its time has come", func(d *desk, m *meter) {
			d.now = time.UnixMicro(base)
			a := m.next(10*60*sec, second, 0)
			b := m.next(30*sec, second, 0)
			d.want(d.send(a, b), "held clock_ahead", "held clock_ahead")
			d.now = d.now.Add(5*time.Minute - time.Second)
			d.tick()
			if got := d.total(odometer.CPU); got != 0 {
				d.t.Errorf("booked too early: got %d", got)
			}
			d.now = d.now.Add(2 * time.Minute)
			d.tick()
		}, 2 * second},
		{"an event from a clock that was never set is held and then put aside", func(d *desk, m *meter) {
			m.at, m.start = 60*sec, 60*sec
			d.want(d.send(m.next(30*sec, second, 0)), "held clock_unset")
			d.now = d.now.Add(25 * time.Hour)
			d.tick()
			if s, _ := d.Stats(d.t.Context()); s.Counts["quarantined"] != 1 {
				d.t.Errorf("after a day: got %v, want one in quarantine", s.Counts)
			}
		}, 0},
	} {
		t.Run(s.name, func(t *testing.T) {
			d := newDesk(t)
			s.tell(d, newMeter("vm-7", "host-1", base))
			if got := d.total(odometer.CPU); got != s.cpu {
				t.Errorf("recorded cpu: got %d µs, want %d", got, s.cpu)
			}
			d.proven()
			d.reopen()
			if got := d.total(odometer.CPU); got != s.cpu {
				t.Errorf("recorded cpu after reopening: got %d µs, want %d", got, s.cpu)
			}
		})
	}
}

func (d *desk) tick() {
	d.t.Helper()
	if err := d.Tick(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

func merge(t *testing.T, into *odometer.Event, more ...*odometer.Event) {
	t.Helper()
	for _, m := range more {
		if err := into.Merge(m); err != nil {
			t.Fatal(err)
		}
	}
}

func TestRelease(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.send(m.next(30*sec, 1e6, 0))
	d.want(d.send(m.next(30*sec, 1<<50, 0)), "quarantined impossible")
	d.want(d.send(m.next(30*sec, 1e6, 0)), "quarantined impossible") // the difference over the hole is no more possible
	list, err := d.Quarantine(t.Context(), 10)
	if err != nil || len(list) != 2 || list[1].Reason != "impossible" || list[1].Sender != "host-1" {
		t.Fatalf("quarantine: got %+v, %v", list, err)
	}
	p := list[1].Partition
	if _, err := d.Release(t.Context(), p, 99, "eve"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("releasing what is not there: got %v, want %v", err, odometer.ErrNotFound)
	}
	if res, err := d.Release(t.Context(), p, list[1].No, "ada"); err != nil || res.Outcome != odometer.Recorded {
		t.Fatalf("release: got %+v, %v, want recorded", res, err)
	}
	if _, err := d.Release(t.Context(), p, list[1].No, "ada"); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("releasing twice: got %v, want %v", err, odometer.ErrConflict)
	}
	if got, want := d.total(odometer.CPU), int64(1e6+1<<50); got != want {
		t.Errorf("recorded after the release: got %d, want %d", got, want)
	}
	if res, err := d.Release(t.Context(), p, list[0].No, "ada"); err != nil || res.Outcome != odometer.Recorded {
		t.Fatalf("release of the next: got %+v, %v, want recorded", res, err)
	}
	if got, want := d.total(odometer.CPU), int64(2e6+1<<50); got != want {
		t.Errorf("recorded after both: got %d, want %d", got, want)
	}
	d.proven()
}

func TestFramesThatAreNoFrames(t *testing.T) {
	d := newDesk(t)
	good := newMeter("vm-7", "host-1", base).next(30*sec, 1e6, 0)
	_, bad := odometer.DecodeEvent([]byte(`{"event_type":"resource_usage","version":"2.0"}`))
	_, worse := odometer.DecodeEvent([]byte(`{"event_type":"resource_usage"`))
	fr := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: 1, Last: 3, Records: []odometer.Record{
		{First: 1, Position: 1, Raw: json.RawMessage(`{"event_type":"resource_usage","version":"2.0"}`), Err: bad},
		{First: 2, Position: 2, Event: good},
		{First: 3, Position: 3, Raw: json.RawMessage(`{"event_type":"resource_usage"`), Err: worse},
	}}
	d.want(d.commit(fr), "quarantined version", "recorded", "quarantined invalid")
	d.want(d.commit(odometer.Frame{Agent: "host-1", Packed: []byte("garbage"), Err: errors.New("no frame")}), "quarantined frame")
	list, err := d.Quarantine(t.Context(), 10)
	if err != nil || len(list) != 3 {
		t.Fatalf("quarantine: got %d rows, %v, want 3", len(list), err)
	}
	for _, q := range list {
		if _, err := d.Release(t.Context(), q.Partition, q.No, "ada"); !errors.Is(err, odometer.ErrConflict) {
			t.Errorf("releasing %s: got %v, want %v", q.Reason, err, odometer.ErrConflict)
		}
	}
	d.proven()
}

func TestReceipts(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	spool := odometer.SpoolID("0123456789abcdef0123456789abcdef")
	frame := func(first uint64, events ...*odometer.Event) odometer.Frame {
		fr := odometer.Frame{Agent: "host-1", Spool: spool, First: first, Last: first + uint64(len(events)) - 1}
		for i, e := range events {
			fr.Records = append(fr.Records, odometer.Record{First: first + uint64(i), Position: first + uint64(i), Event: e})
		}
		return fr
	}
	a, b, c := m.next(30*sec, 1, 0), m.next(30*sec, 1, 0), m.next(30*sec, 1, 0)
	results, receipts, err := d.Commit(t.Context(), []odometer.Frame{frame(1, a), frame(3, c)})
	if err != nil {
		t.Fatal(err)
	}
	if receipts[0].Position != 1 || receipts[0].Ahead {
		t.Errorf("receipt of the first frame: got %+v, want position 1", receipts[0])
	}
	if receipts[1].Position != 1 || !receipts[1].Ahead || results[1] != nil {
		t.Errorf("receipt of a frame ahead: got %+v with %v, want position 1 and ahead", receipts[1], results[1])
	}
	if _, receipts, err = d.Commit(t.Context(), []odometer.Frame{frame(2, b), frame(3, c), frame(1, a, b)}); err != nil {
		t.Fatal(err)
	}
	if receipts[2].Position != 3 {
		t.Errorf("receipt of old frames: got %+v, want position 3", receipts[2])
	}
	d.reopen()
	if r := d.Receipt("host-1", spool); r.Position != 3 || r.Ledger == "" || r.Generation != 1 {
		t.Errorf("receipt after reopening: got %+v, want position 3 of generation 1", r)
	}
	d.Close()
	if err := Restored(context.Background(), d.path, time.Now()); err != nil {
		t.Fatal(err)
	}
	d.Ledger = nil
	for range 2 { // and it stays
		d.reopen()
		if r := d.Receipt("host-1", spool); r.Generation <= 1 {
			t.Errorf("generation after a restore: got %d, want a later one than 1", r.Generation)
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	for _, c := range []struct {
		name    string
		prepare func(path string) error
		want    string
	}{
		{"a ledger of a newer version", func(path string) error {
			l, err := Open(t.Context(), Options{Path: path})
			if err != nil {
				return err
			}
			defer l.Close()
			_, err = l.write.Exec(`UPDATE meta SET value = '99' WHERE key = 'schema_version'`)
			return err
		}, "newer version"},
		{"a file that is no database", func(path string) error {
			return os.WriteFile(path, []byte(strings.Repeat("no database ", 1000)), 0o600)
		}, "not a database"},
		{"a database that is no ledger", func(path string) error {
			db, err := connect(path, "rwc", 1)
			if err != nil {
				return err
			}
			defer db.Close()
			_, err = db.Exec(`CREATE TABLE t (a)`)
			return err
		}, "not a ledger"},
		{"a directory that is not there", func(string) error { return nil }, "open ledger"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "ledger.db")
			if strings.HasPrefix(c.name, "a directory") {
				path = filepath.Join(path, "deeper", "ledger.db")
			}
			if err := c.prepare(path); err != nil {
				t.Fatal(err)
			}
			before, _ := os.ReadFile(path)
			_, err := Open(t.Context(), Options{Path: path})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error with %q", err, c.want)
			}
			if after, _ := os.ReadFile(path); string(before) != string(after) {
				t.Error("the file was changed")
			}
		})
	}
}

func TestASecondWriterFencesTheFirst(t *testing.T) {
	d := newDesk(t)
	other, err := Open(t.Context(), Options{Path: d.path})
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	m := newMeter("vm-7", "host-1", base)
	_, _, err = d.Commit(t.Context(), []odometer.Frame{{Agent: "host-1", Records: []odometer.Record{{Event: m.next(30*sec, 1, 0)}}}})
	if !errors.Is(err, ErrFenced) {
		t.Errorf("commit of the first writer: got %v, want %v", err, ErrFenced)
	}
	if err := d.FeedRewind(t.Context(), "usage"); !errors.Is(err, ErrFenced) {
		t.Errorf("feed of the first writer: got %v, want %v", err, ErrFenced)
	}
}

// A commit that fails leaves nothing behind, in the tables or in memory: the
// same frame is then recorded as if it came for the first time.
func TestACommitThatFailsLeavesNothing(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	d.want(d.send(m.next(30*sec, 1e6, 0)), "recorded")
	refuse := func(query string) {
		if _, err := d.write.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	// The record is appended last, after everything else has changed.
	refuse(`CREATE TRIGGER refuse BEFORE INSERT ON journal BEGIN SELECT RAISE(ABORT, 'no space left'); END`)
	d.pos++
	fr := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: d.pos, Last: d.pos,
		Records: []odometer.Record{{First: d.pos, Position: d.pos, Event: m.next(30*sec, 2e6, 0)}}}
	for range 2 {
		if _, _, err := d.Commit(t.Context(), []odometer.Frame{fr}); err == nil || !strings.Contains(err.Error(), "no space left") {
			t.Fatalf("commit: got %v, want what the store said", err)
		}
	}
	if s, err := d.Stats(t.Context()); err != nil || !strings.Contains(s.Err, "no space left") || s.Counts["received"] != 1 {
		t.Errorf("statistics after it failed: got %+v, %v, want the error and one event", s, err)
	}
	if r := d.Receipt("host-1", fr.Spool); r.Position != 1 {
		t.Errorf("receipt after it failed: got %d, want 1", r.Position)
	}
	refuse(`DROP TRIGGER refuse`)
	d.want(d.commit(fr), "recorded")
	if got := d.total(odometer.CPU); got != 3e6 {
		t.Errorf("recorded: got %d µs, want 3000000", got)
	}
	if s, err := d.Stats(t.Context()); err != nil || s.Err != "" {
		t.Errorf("statistics after it went through: got error %q, %v, want none", s.Err, err)
	}
	d.proven()
}

// What the durability of a commit rests on, as the connection has it.
func TestCommitsAreFlushed(t *testing.T) {
	d := newDesk(t)
	for pragma, want := range map[string]string{"synchronous": "2", "journal_mode": "wal"} { // 2 is FULL
		var got string
		if err := d.write.QueryRow(`PRAGMA ` + pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s: got %s, %v, want %s", pragma, got, err, want)
		}
	}
}
