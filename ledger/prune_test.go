package ledger

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

var pruneKey = ed25519.NewKeyFromSeed([]byte("0123456789abcdef0123456789abcdef"))

func (d *desk) prune(before time.Time, point func(string) error) *PruneReport {
	d.t.Helper()
	r, err := d.Prune(d.t.Context(), PruneOptions{Before: before, Key: pruneKey, point: point})
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

func (d *desk) records() (n int) {
	d.t.Helper()
	if err := d.write.QueryRow(`SELECT count(*) FROM journal`).Scan(&n); err != nil {
		d.t.Fatal(err)
	}
	return n
}

// publishAll moves the feed to the end.
func (d *desk) publishAll() {
	d.t.Helper()
	for {
		entries, at, err := d.FeedAfter(d.t.Context(), "usage", 100)
		if err != nil {
			d.t.Fatal(err)
		}
		if len(entries) == 0 {
			return
		}
		if err := d.FeedAdvance(d.t.Context(), "usage", at, "stream-1", 1, 1); err != nil {
			d.t.Fatal(err)
		}
	}
}

// wholeHours is an account without what a pruned journal no longer tells: the
// entries one by one, and hours that were cut.
func (d *desk) wholeHours() account {
	d.t.Helper()
	a := account{Usage: map[string][]string{}}
	s, err := d.Stats(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	a.Ledger, a.Generation, a.Counts, a.Entries, a.Instances, a.Epochs = s.Ledger, s.Generation, s.Counts, s.Entries, s.Instances, s.Epochs
	quarantine, err := d.Quarantine(d.t.Context(), 100)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, q := range quarantine {
		a.Quarantine = append(a.Quarantine, fmt.Sprint(q))
	}
	for _, agent := range goldenAgents {
		list, err := d.Checkpoints(d.t.Context(), agent)
		if err != nil {
			d.t.Fatal(err)
		}
		a.Receipts = append(a.Receipts, fmt.Sprint(d.Receipt(agent, goldenSpool)))
		a.Checkpoints = append(a.Checkpoints, fmt.Sprintf("%s", list))
	}
	if a.FeedLag, err = d.FeedLag(d.t.Context(), "usage"); err != nil {
		d.t.Fatal(err)
	}
	for _, by := range []odometer.GroupBy{odometer.ByInstance, odometer.ByUser, odometer.ByOrg, odometer.ByHour, odometer.ByDay, odometer.ByMonth} {
		for _, r := range d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{by}}) {
			a.Usage[string(by)] = append(a.Usage[string(by)], fmt.Sprint(r))
		}
	}
	from, to := odometer.Hour(base-30*odometer.HourMicros), odometer.Hour(base-2*odometer.HourMicros)
	for _, r := range d.usage(odometer.UsageQuery{From: from, To: to, GroupBy: []odometer.GroupBy{odometer.ByInstance, odometer.ByHour}}) {
		a.Usage["whole hours"] = append(a.Usage["whole hours"], fmt.Sprint(r))
	}
	return a
}

// TestPruning removes the journal of the golden story day by day: nothing that
// is asked by whole hours changes, the tables are still a fold of what is
// left, and what the ledger refers to is there.
func TestPruning(t *testing.T) {
	d := newDesk(t)
	tellGolden(d)
	d.publishAll()
	want, all := d.wholeHours(), d.records()
	first := time.UnixMicro(base - 50*odometer.HourMicros)
	if r := d.prune(first, nil); r.Records != 0 || exists(basePath(d.path)) {
		t.Errorf("before the first day: removed %d records, base there %t, want nothing done", r.Records, exists(basePath(d.path)))
	}
	removed := int64(0)
	for day := 1; day <= 8; day++ {
		r := d.prune(first.AddDate(0, 0, day), nil)
		removed += r.Records
		compareAccounts(t, d.wholeHours(), want)
		d.proven()
		if t.Failed() {
			t.Fatalf("after day %d", day)
		}
	}
	if removed == 0 || int(removed) != all-d.records() {
		t.Errorf("removed %d records of %d, %d are left", removed, all, d.records())
	}
	t.Logf("removed %d of %d records", removed, all)
	if from, err := d.JournalFrom(t.Context()); err != nil || from.IsZero() {
		t.Errorf("the journal begins %v, %v, want a day", from, err)
	}
	d.reopen()
	compareAccounts(t, d.wholeHours(), want)

	// A part of an hour that is gone is refused, and not answered wrong.
	_, err := d.Usage(t.Context(), odometer.UsageQuery{From: base - 40*odometer.HourMicros - 777, To: base})
	if !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), "whole hours") {
		t.Errorf("a cut hour: got %v, want it refused", err)
	}
	// What waits is booked, what is in quarantine is released, what is old is known.
	d.pos = d.Receipt("host-1", goldenSpool).Position
	var at []int64
	list, err := d.Quarantine(t.Context(), 100)
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range list {
		if q.Reason == "impossible" {
			at = append(at, q.No)
			if res, err := d.Release(t.Context(), q.Partition, q.No, "ada"); err != nil || res.Outcome != odometer.Recorded {
				t.Errorf("release of %d-%d: got %+v, %v, want recorded", q.Partition, q.No, res, err)
			}
		}
	}
	if len(at) == 0 {
		t.Error("nothing impossible in quarantine")
	}
	long := newMeter("vm-long", "host-1", base-50*odometer.HourMicros)
	e := long.next(odometer.HourMicros/2+13, 1_000_003, 1<<33)
	d.want(d.send(e), "duplicate")
	d.now = d.now.AddDate(0, 0, 3)
	d.tick()
	d.tick()
	if s, _ := d.Stats(t.Context()); s.Counts["held"] != 0 {
		t.Errorf("held after three days: got %v, want none", s.Counts)
	}
	d.proven()
	// And once more, over what was released.
	d.publishAll()
	d.prune(d.now, nil)
	d.proven()
	d.send(newMeter("vm-late", "host-1", base).next(30*sec, 1, 1))
	d.publishAll()
	d.prune(d.now.AddDate(0, 0, 3), nil)
	d.proven()
	// The stream is lost: what is left is published again, and no more.
	if err := d.FeedRewind(t.Context(), "usage"); err != nil {
		t.Fatal(err)
	}
	lag, err := d.FeedLag(t.Context(), "usage")
	if err != nil {
		t.Fatal(err)
	}
	var n int64
	for {
		entries, pos, err := d.FeedAfter(t.Context(), "usage", 100)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
		n += int64(len(entries))
		if err := d.FeedAdvance(t.Context(), "usage", pos, "stream-2", uint64(n), uint64(n)); err != nil {
			t.Fatal(err)
		}
	}
	if n != lag || n != int64(len(d.entries())) || n == 0 {
		t.Errorf("published again: got %d, the lag was %d, the journal has %d", n, lag, len(d.entries()))
	}
}

// One agent's spool may carry the events of others, which lie in their
// partitions, and these are pruned by themselves: what is taken for a checkpoint
// that is sent again must not depend on which goes first.
func TestAPrunedSpoolOfSeveralPartitionsFollows(t *testing.T) {
	d := newDesk(t)
	relay, host := odometer.AgentID("relay"), odometer.AgentID("host-1")
	if relay.Partition() <= host.Partition() {
		t.Fatalf("%s lies in partition %d and %s in %d: the second must be pruned first", relay, relay.Partition(), host, host.Partition())
	}
	m := newMeter("vm-a", host, base)
	checkpoint := func(instance string) odometer.Record {
		return odometer.Record{Checkpoint: []byte(fmt.Sprintf(`{"instance":%q}`, instance))}
	}
	event := func() odometer.Record { return odometer.Record{Event: m.next(30*sec, 1, 1)} }
	for _, r := range []odometer.Record{checkpoint("vm-b"), event(), event(), checkpoint("vm-c"), event()} {
		d.pos++
		r.First, r.Position = d.pos, d.pos
		d.commit(odometer.Frame{Agent: relay, Spool: "0123456789abcdef0123456789abcdef", First: d.pos, Last: d.pos, Records: []odometer.Record{r}})
	}
	d.publishAll()
	d.now = d.now.Add(48 * time.Hour)
	d.prune(d.now, nil)
	var heads int
	if err := d.read.QueryRow(`SELECT count(*) FROM heads`).Scan(&heads); err != nil || heads != 2 {
		t.Fatalf("%d partitions were pruned, %v, want 2", heads, err)
	}
	// The first frame comes again.
	r := checkpoint("vm-b")
	r.First, r.Position = 1, 1
	d.commit(odometer.Frame{Agent: relay, Spool: "0123456789abcdef0123456789abcdef", First: 1, Last: 1, Records: []odometer.Record{r}})
	d.proven()
}

func TestNothingUnpublishedIsPruned(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	for range 5 {
		d.send(m.next(30*sec, 1, 1))
	}
	later := d.now.AddDate(0, 0, 5)
	if r := d.prune(later, nil); r.Records != 0 {
		t.Errorf("nothing was published: removed %d records, want none", r.Records)
	}
	_, at, err := d.FeedAfter(t.Context(), "usage", 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := d.FeedAdvance(t.Context(), "usage", at, "s", 2, 2); err != nil {
		t.Fatal(err)
	}
	if r := d.prune(later, nil); r.Records != 2 {
		t.Errorf("two were published: removed %d records, want 2", r.Records)
	}
	if lag, err := d.FeedLag(t.Context(), "usage"); err != nil || lag != 3 {
		t.Errorf("lag: got %d, %v, want 3", lag, err)
	}
	d.proven()
}

// TestPruningRefusesWhatDoesNotFollow takes away what a record was decided
// from, and damages another: neither is removed, nor anything after it.
func TestPruningRefusesWhatDoesNotFollow(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-a", "host-1", base)
	send := func() {
		d.send(m.next(30*sec, 1, 1))
		d.publishAll()
	}
	send()
	send()
	d.now = d.now.AddDate(0, 0, 1)
	send()
	send()
	send()
	if r := d.prune(d.now, nil); r.Records != 2 {
		t.Fatalf("removed %d records, want 2", r.Records)
	}
	refuses := func(what string, want error) {
		t.Helper()
		_, err := d.Prune(t.Context(), PruneOptions{Before: d.now.AddDate(0, 0, 5), Key: pruneKey})
		if !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", what, err, want)
		}
		if n := d.records(); n != 3 {
			t.Errorf("%s: records left: got %d, want 3", what, n)
		}
	}
	forgotten, err := connect(basePath(d.path), "rw", 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := forgotten.Exec(`DELETE FROM epochs`); err != nil {
		t.Fatal(err)
	}
	if err := forgotten.Close(); err != nil {
		t.Fatal(err)
	}
	refuses("the base has forgotten the epoch", odometer.ErrConflict)
	if _, err := d.write.Exec(`UPDATE journal SET at_us = at_us + 1 WHERE position = 3`); err != nil {
		t.Fatal(err)
	}
	refuses("a record is damaged", ErrDamaged)
}

// TestPruningIsInterrupted fails and kills pruning at every point; the next
// one completes it, and at no time is anything missing.
func TestPruningIsInterrupted(t *testing.T) {
	if n := dying(); n > 0 {
		l, err := Open(t.Context(), Options{Path: os.Getenv("PRUNE"), Clock: func() time.Time { return goldenNow }})
		if err != nil {
			t.Fatal(err)
		}
		_, err = l.Prune(t.Context(), PruneOptions{Before: goldenNow, Key: pruneKey, point: dieAt(n)})
		if err := errors.Join(err, l.Close()); err != nil {
			t.Fatal(err)
		}
		return
	}
	notShort(t)
	d := newDesk(t)
	tellGolden(d)
	d.now = goldenNow
	d.publishAll()
	want := d.wholeHours()
	saved := filepath.Join(t.TempDir(), "saved")
	if _, err := Backup(t.Context(), d.path, saved); err != nil {
		t.Fatal(err)
	}
	again := func() *desk {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(saved, backupLedger))
		if err != nil {
			t.Fatal(err)
		}
		d := &desk{t: t, path: filepath.Join(t.TempDir(), "ledger.db"), now: goldenNow}
		if err := os.WriteFile(d.path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return d
	}
	check := func(d *desk, how string) {
		t.Helper()
		d.reopen()
		defer d.Close()
		compareAccounts(t, d.wholeHours(), want)
		d.proven()
		d.prune(goldenNow, nil)
		compareAccounts(t, d.wholeHours(), want)
		d.proven()
		if t.Failed() {
			t.Fatalf("after %s", how)
		}
	}
	points, step := 0, 1
	for n := 1; ; n += step {
		if n == 9 {
			step = 5 // the same points again, of other partitions and days
		}
		d := again()
		d.reopen()
		point, where := failAt(n, errInterrupted)
		_, err := d.Prune(t.Context(), PruneOptions{Before: goldenNow, Key: pruneKey, point: point})
		if where() == "" {
			d.Close()
			break
		}
		if !errors.Is(err, errInterrupted) {
			t.Fatalf("%s: got %v, want %v", where(), err, errInterrupted)
		}
		check(d, where())
		points++
		if n < 5 { // a process of its own takes its time
			d = again()
			if !killed(t, "TestPruningIsInterrupted", n, "PRUNE="+d.path) {
				t.Fatalf("%s: not killed", where())
			}
			check(d, "being killed at "+where())
		}
	}
	t.Logf("%d points", points)
}

// TestAPrunedLedgerIsBackedUpWithItsBase restores a backup of a pruned ledger.
func TestAPrunedLedgerIsBackedUpWithItsBase(t *testing.T) {
	d := newDesk(t)
	tellGolden(d)
	d.publishAll()
	d.prune(d.now.AddDate(0, 0, 3), nil)
	want := d.wholeHours()
	copied := filepath.Join(t.TempDir(), "backup")
	m, err := Backup(t.Context(), d.path, copied)
	if err != nil || len(m.Files) != 2 {
		t.Fatalf("got %+v, %v, want two files", m, err)
	}
	d.restore(copied)
	got := d.wholeHours()
	for i, r := range want.Receipts { // another generation, the rest as before
		if r == got.Receipts[i] {
			t.Errorf("receipt %s: want it to name another generation", r)
		}
	}
	want.Generation, want.Receipts = got.Generation, got.Receipts
	compareAccounts(t, got, want)
	d.proven()
	if aside, _ := filepath.Glob(filepath.Join(filepath.Dir(d.path), "replaced-*", "*-base.db")); len(aside) != 1 {
		t.Errorf("the base that was replaced: got %v, want one", aside)
	}
	d.publishAll()
	d.prune(d.now.AddDate(0, 0, 9), nil)
	d.proven()
}
