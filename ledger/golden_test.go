package ledger

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// Golden ledgers are databases as each schema version left them, kept for
// ever: testdata/ledger-vN.db.gz, and beside it in ledger-vN.json what every
// later version must answer about it. Before the schema version is raised,
// `go test ./ledger -run TestGoldenLedgers -golden` writes those of the
// version that is left behind.
var writeGolden = flag.Bool("golden", false, "write the golden ledger of this schema version")

// goldenStory is a day in the life of a small cloud, and what a ledger must
// keep of it: events of every outcome and kind, epochs open and closed, hours
// open, sealed and compacted, a feed halfway.
type goldenStory struct {
	*desk
	spools map[odometer.AgentID]uint64
}

const goldenSpool = odometer.SpoolID("0123456789abcdef0123456789abcdef")

// goldenAgents lie in different partitions.
var goldenAgents = []odometer.AgentID{"host-1", "host-2", "host-3"}

func (g *goldenStory) from(agent odometer.AgentID, records ...odometer.Record) []string {
	g.t.Helper()
	fr := odometer.Frame{Agent: agent, Spool: goldenSpool, First: g.spools[agent] + 1}
	for _, r := range records {
		g.spools[agent]++
		r.First, r.Position = g.spools[agent], g.spools[agent]
		fr.Records = append(fr.Records, r)
	}
	fr.Last = g.spools[agent]
	return g.commit(fr)
}

func event(e *odometer.Event) odometer.Record { return odometer.Record{Event: e} }

func checkpointed(e *odometer.Event, instance string, n int) odometer.Record {
	return odometer.Record{Event: e, Checkpoint: fmt.Appendf(nil, `{"instance":%q,"n":%d}`, instance, n)}
}

// goldenID names the ledger, so that a golden ledger is the same each time.
const goldenID = "60180000000000000000000000000001"

func tellGolden(d *desk) {
	g := &goldenStory{d, map[odometer.AgentID]uint64{}}
	if _, err := d.write.Exec(`UPDATE meta SET value = ? WHERE key = 'ledger_id'`, goldenID); err != nil {
		d.t.Fatal(err)
	}
	d.reopen()
	start := base - 50*odometer.HourMicros
	d.now = time.UnixMicro(start + odometer.HourMicros)
	long := newMeter("vm-long", "host-1", start) // through every hour, with more events than a chunk of digests
	two := newMeter("vm-two", "host-2", start+7)
	d.want(g.from("host-1", checkpointed(nil, "vm-quiet", 1), checkpointed(nil, "vm-long", 1)), "checkpoint", "checkpoint")
	var again *odometer.Event
	for i := range int64(80) {
		e := long.next(odometer.HourMicros/2+13, 1_000_003+i, 1<<33)
		if i == 3 {
			again = e
		}
		d.now = time.UnixMicro(long.at + sec)
		d.want(g.from("host-1", checkpointed(e, "vm-long", int(i))), "recorded")
		if i%3 == 2 {
			if i == 32 {
				two.owner = odometer.Owner{User: "u-bob"} // a new owner within an hour
			}
			a, b := two.next(20*60*sec, 77, 5), two.next(70*60*sec+39, 1234567, 3)
			d.want(g.from("host-2", event(a), checkpointed(b, "vm-two", int(i))), "recorded", "recorded")
		}
		if i == 40 || i == 60 {
			d.tick()
		}
	}
	// Repeated, changed, coalesced over its parts.
	changed := *again
	changed.Usage.Vector[odometer.CPU]--
	changed.Readings.End.Vector[odometer.CPU]--
	d.want(g.from("host-1", event(again), event(&changed)), "duplicate", "quarantined conflict")
	parts := newMeter("vm-parts", "host-3", d.now.UnixMicro()-odometer.HourMicros)
	a, b, c := parts.next(30*sec, 5, 1), parts.next(30*sec, 6, 2), parts.next(30*sec, 7, 3)
	some, all := *a, *a
	merge(d.t, &some, b)
	merge(d.t, &all, b, c)
	d.want(g.from("host-3", event(a), event(&some), event(b), event(&all)), "recorded", "recorded", "covered", "recorded")
	// A hole that nothing fills, given up a day later; one that still waits.
	lost := newMeter("vm-lost", "host-3", d.now.UnixMicro()-odometer.HourMicros)
	d.want(g.from("host-3", event(lost.next(30*sec, 10, 0))), "recorded")
	lost.next(45*60*sec, 99, 9)
	d.want(g.from("host-3", event(lost.next(30*sec, 10, 0))), "held hole")
	// Not possible: put aside; one of them released by a person.
	poison := newMeter("vm-poison", "host-2", d.now.UnixMicro()-odometer.HourMicros)
	d.want(g.from("host-2", event(poison.next(30*sec, 5, 0)), event(poison.next(30*sec, 1<<50, 0))), "recorded", "quarantined impossible")
	other := newMeter("vm-other", "host-1", d.now.UnixMicro()-odometer.HourMicros)
	d.want(g.from("host-1", event(other.next(30*sec, 1<<51, 0))), "quarantined impossible")
	if _, err := d.Release(d.t.Context(), odometer.AgentID("host-2").Partition(), 1, "ada"); err != nil {
		d.t.Fatal(err)
	}
	// An epoch that ended, and what comes after its end.
	ended := newMeter("vm-ended", "host-2", d.now.UnixMicro()-odometer.HourMicros)
	last := ended.next(30*sec, 4, 4)
	last.Final = true
	d.want(g.from("host-2", checkpointed(last, "vm-ended", 1), event(ended.next(30*sec, 1, 1))), "recorded", "quarantined closed")
	// Version 1.0, by time; and what is no frame at all.
	old := func(from, to int64, cpu uint64) odometer.Record {
		return odometer.Record{Event: &odometer.Event{Version: odometer.Version10, Instance: "vm-old", Owner: odometer.Owner{User: "u-eve", Org: "o-acme"}, Timestamp: to,
			Period: odometer.Period{Start: from, End: to}, Metrics: odometer.Metrics{CPUSeconds: cpu, MemoryGB: 0.3, NetworkEgressMB: 1.25}}}
	}
	at := d.now.Unix() - 7200
	d.want(d.commit(odometer.Frame{Agent: "http:old", Records: []odometer.Record{old(at, at+30, 7), old(at+3600, at+7199, 3000), old(at, at+30, 7), old(at+10, at+40, 1)}}),
		"recorded", "recorded", "duplicate", "quarantined overlap")
	d.want(d.commit(odometer.Frame{Agent: "host-1", Spool: goldenSpool, Packed: []byte("no frame"), Err: odometer.ErrInvalid}), "quarantined frame")
	d.now = d.now.Add(25 * time.Hour)
	d.tick() // gives the hole up, seals the silent, compacts a day
	d.tick()
	// After the compaction: late for a compacted day, waiting, ahead.
	late := newMeter("vm-late", "host-1", start+odometer.HourMicros)
	d.want(g.from("host-1", event(late.next(90*60*sec, 11, 11))), "recorded")
	hole := newMeter("vm-hole", "host-1", d.now.UnixMicro()-odometer.HourMicros)
	hole.next(30*sec, 1, 1)
	d.want(g.from("host-1", checkpointed(hole.next(30*sec, 2, 2), "vm-hole", 2)), "held hole")
	ahead := newMeter("vm-ahead", "host-2", d.now.UnixMicro())
	d.want(g.from("host-2", event(ahead.next(odometer.HourMicros, 2, 2))), "held clock_ahead")
	d.want(g.from("host-1", event(long.next(odometer.HourMicros/2+13, 17, 1))), "recorded")
	// A feed that has published the first part.
	_, feed, err := d.FeedAfter(d.t.Context(), "usage", 100)
	if err != nil {
		d.t.Fatal(err)
	}
	if err := d.FeedAdvance(d.t.Context(), "usage", feed, "2026-03-01T00:00:00Z", 100, 100); err != nil {
		d.t.Fatal(err)
	}
}

// account is all that a ledger says when it is asked.
type account struct {
	Ledger      odometer.LedgerID
	Generation  uint64
	Counts      map[string]int64
	Entries     int64
	Instances   int64
	Epochs      int64
	Quarantine  []string
	Receipts    []string
	Checkpoints []string
	FeedLag     int64
	FeedStream  string
	FeedNext    string // the first entry that it would publish
	Booked      string // hash over every entry
	Usage       map[string][]string
}

func (d *desk) account() account {
	d.t.Helper()
	ctx := d.t.Context()
	check := func(err error) {
		d.t.Helper()
		if err != nil {
			d.t.Fatal(err)
		}
	}
	s, err := d.Stats(ctx)
	check(err)
	a := account{Ledger: s.Ledger, Generation: s.Generation, Counts: s.Counts, Entries: s.Entries, Instances: s.Instances, Epochs: s.Epochs, Usage: map[string][]string{}}
	quarantine, err := d.Quarantine(ctx, 100)
	check(err)
	for _, q := range quarantine {
		a.Quarantine = append(a.Quarantine, fmt.Sprintf("%d-%d %s %s: %s from %s at %d", q.Partition, q.No, q.EventID, q.Reason, q.Detail, q.Sender, q.At.UnixMicro()))
	}
	for _, agent := range goldenAgents {
		a.Receipts = append(a.Receipts, fmt.Sprintf("%s %d", agent, d.Receipt(agent, goldenSpool).Position))
		list, err := d.Checkpoints(ctx, agent)
		check(err)
		sum := 0
		for _, c := range list { // in no order
			sum += int(sha256.Sum256(c)[0])<<8 + len(c)
		}
		a.Checkpoints = append(a.Checkpoints, fmt.Sprintf("%s %d %d", agent, len(list), sum))
	}
	a.FeedLag, err = d.FeedLag(ctx, "usage")
	check(err)
	stream, back, last, err := d.FeedStream(ctx, "usage")
	check(err)
	if back != last {
		d.t.Errorf("the topic is read back from message %d, want %d", back, last)
	}
	a.FeedStream = fmt.Sprintf("%s %d", stream, last)
	next, _, err := d.FeedAfter(ctx, "usage", 1)
	check(err)
	if len(next) > 0 {
		a.FeedNext = next[0].ID.String()
	}
	h := sha256.New()
	for _, e := range d.entries() {
		ev := &e.Event
		fmt.Fprintln(h, e.ID, e.Kind, e.SourceEventID, e.BookedAt, e.Cause, ev.Instance, ev.Owner, ev.Epoch, ev.FirstSequence, ev.Sequence, ev.Span, ev.Usage.Known, ev.Usage.Vector, ev.Final)
	}
	a.Booked = hex.EncodeToString(h.Sum(nil))
	list := func(name string, q odometer.UsageQuery) {
		for _, r := range d.usage(q) {
			line := fmt.Sprintf("%d %s %s/%s", r.Start, r.Instance, r.Org, r.User)
			for q, n := range r.Totals {
				if r.Known.Has(odometer.Quantity(q)) {
					line += fmt.Sprintf(" %s=%s", odometer.Quantity(q), n)
				}
			}
			a.Usage[name] = append(a.Usage[name], line+" recovered="+r.Recovered.String())
		}
	}
	ever := odometer.UsageQuery{From: 1, To: 1 << 60}
	list("whole", ever)
	ever.GroupBy = []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg}
	list("instances and owners", ever)
	for _, by := range []odometer.GroupBy{odometer.ByHour, odometer.ByDay, odometer.ByMonth} {
		ever.GroupBy = []odometer.GroupBy{by, odometer.ByUser}
		list("user by "+string(by), ever)
	}
	list("cut", odometer.UsageQuery{From: base - 40*odometer.HourMicros - 777, To: base - 3*odometer.HourMicros + 12345, GroupBy: []odometer.GroupBy{odometer.ByInstance}})
	list("bob", odometer.UsageQuery{From: 1, To: 1 << 60, User: "u-bob"})
	list("acme", odometer.UsageQuery{From: 1, To: 1 << 60, Org: "o-acme"})
	list("one", odometer.UsageQuery{From: 1, To: 1 << 60, Instance: "vm-long", GroupBy: []odometer.GroupBy{odometer.ByDay}})
	return a
}

// unpackGolden lays a golden ledger into a directory of its own.
func unpackGolden(t testing.TB, version int) (path string) {
	t.Helper()
	packed, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("ledger-v%d.db.gz", version)))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "ledger.db")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func goldenAccount(t testing.TB, version int) (a account) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", fmt.Sprintf("ledger-v%d.json", version)))
	if err == nil {
		err = json.Unmarshal(b, &a)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func makeGolden(t *testing.T) {
	d := newDesk(t)
	tellGolden(d)
	d.proven()
	text, err := json.MarshalIndent(d.account(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.write.Exec(`UPDATE meta SET value = '' WHERE key = 'writer'`)
	if err == nil {
		_, err = d.write.Exec(`VACUUM`)
	}
	if err := errors.Join(err, d.Close()); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(d.path)
	if err != nil {
		t.Fatal(err)
	}
	var packed bytes.Buffer
	z, _ := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	_, err = z.Write(b)
	err = errors.Join(err, z.Close(),
		os.WriteFile(filepath.Join("testdata", fmt.Sprintf("ledger-v%d.db.gz", SchemaVersion)), packed.Bytes(), 0o644),
		os.WriteFile(filepath.Join("testdata", fmt.Sprintf("ledger-v%d.json", SchemaVersion)), append(text, '\n'), 0o644))
	if err != nil {
		t.Fatal(err)
	}
}

// TestGoldenLedgers opens a copy of the ledger that each schema version left
// behind and finds everything in it, and more can be booked.
func TestGoldenLedgers(t *testing.T) {
	if *writeGolden {
		makeGolden(t)
	}
	for version := 1; version <= SchemaVersion; version++ {
		t.Run(fmt.Sprintf("version %d", version), func(t *testing.T) {
			if version == SchemaVersion {
				if _, err := os.Stat(fmt.Sprintf("testdata/ledger-v%d.json", version)); errors.Is(err, fs.ErrNotExist) {
					return // written when the next version is begun
				}
			}
			want := goldenAccount(t, version)
			d := &desk{t: t, path: unpackGolden(t, version), now: time.UnixMicro(base + 1000*odometer.HourMicros)}
			d.reopen()
			t.Cleanup(func() { d.Close() })
			compareAccounts(t, d.account(), want)
			d.proven()
			spool := d.Receipt("host-1", goldenSpool)
			d.pos = spool.Position
			d.want(d.send(newMeter("vm-new", "host-1", base).next(30*sec, 1, 1)), "recorded")
			for range 5 {
				d.tick() // what waited for its time is booked, the rest is compacted
			}
			d.proven()
		})
	}
}

func compareAccounts(t *testing.T, got, want account) {
	t.Helper()
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		name := g.Type().Field(i).Name
		a, b := fmt.Sprint(g.Field(i)), fmt.Sprint(w.Field(i))
		if a != b {
			t.Errorf("%s: got\n%s\nwant\n%s", name, strings.ReplaceAll(a, "] ", "]\n"), strings.ReplaceAll(b, "] ", "]\n"))
		}
	}
}

// TestTheGoldenStory is that of the golden ledgers, told to this version: it
// has something of everything, so that the golden ledgers have it too.
func TestTheGoldenStory(t *testing.T) {
	d := newDesk(t)
	tellGolden(d)
	d.proven()
	for _, table := range []string{"journal", "epochs", "digests", "hours", "days", "owner_days", "spools", "checkpoints", "held", "quarantine", "coverage", "counts", "feed", "feed_stream"} {
		var n int
		if err := d.write.QueryRow(`SELECT count(*) FROM ` + table).Scan(&n); err != nil || n == 0 {
			t.Errorf("table %s: got %d rows, %v, want some", table, n, err)
		}
	}
	got, want := d.account(), goldenAccount(t, 1)
	compareAccounts(t, got, want)
}
