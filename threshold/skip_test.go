package threshold

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// logBook keeps what is logged.
type logBook struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logBook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(b)
}

// count returns how many lines have a text in them.
func (l *logBook) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.Buffer.String(), text)
}

// logged has what follows be logged into a book.
func (w *watchtower) logged() *logBook {
	book := &logBook{}
	w.options.Logger = slog.New(slog.NewTextHandler(book, nil))
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
	return book
}

// prune removes what was booked before today, all of which is published.
func (w *watchtower) prune() int64 {
	w.t.Helper()
	for {
		entries, at, err := w.ledger.FeedAfter(w.t.Context(), "usage", 100)
		if err == nil && len(entries) > 0 {
			err = w.ledger.FeedAdvance(w.t.Context(), "usage", at, "stream-1", 1, 1)
		}
		if err != nil {
			w.t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
	}
	r, err := w.ledger.Prune(w.t.Context(), ledger.PruneOptions{Before: w.clock(), Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))})
	if err != nil {
		w.t.Fatal(err)
	}
	return r.Records
}

// TestPruningUnderABudget: what was taken in can be pruned, under a budget of the running
// month too, and what is booked then counts on top of it, over a restart.
func TestPruningUnderABudget(t *testing.T) {
	w := newWatchtower(t)
	book := w.logged()
	w.run()
	w.create(monthly(odometer.Scoped{User: "u-ada", Sum: true}))
	for range 4 { // two days
		w.use("vm-1", ada, 12*time.Hour, hours(1))
	}
	w.settled()
	if n := w.prune(); n == 0 {
		t.Fatal("nothing was pruned")
	}
	w.use("vm-1", ada, time.Hour, hours(1))
	w.is("u-ada 50% open 5")
	w.restart()
	w.use("vm-1", ada, time.Hour, hours(3))
	w.is("u-ada 50% open 5", "u-ada 80% open 8")
	if got := w.Stats(); got.Skipped != 0 || book.count("pruned") != 0 {
		t.Errorf("got %d skipped, want none", got.Skipped)
	}
}

// TestPrunedBeforeItWasChecked: records that were pruned while nobody checked thresholds
// are counted and said once, budgets of the running month are whole nevertheless, and
// what is left is checked.
func TestPrunedBeforeItWasChecked(t *testing.T) {
	w := newWatchtower(t)
	book := w.logged()
	w.run()
	w.create(monthly(odometer.Scoped{User: "u-ada", Sum: true}))
	w.create(monthly(odometer.Scoped{All: true})) // each by itself
	w.create(twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod}))
	w.use("vm-1", ada, 12*time.Hour, hours(4))
	w.is()
	w.stop()
	full := map[odometer.Quantity]int64{odometer.CPU: odometer.HourMicros, odometer.VCPU: odometer.HourMicros}
	for range 3 {
		w.use("vm-1", ada, 12*time.Hour, full) // reaches 100 % of the time that it had
	}
	w.use("vm-1", ada, 12*time.Hour, hours(1))
	removed := w.prune()
	if removed < 3 {
		t.Fatalf("%d records were pruned", removed)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	w.open()
	w.run()
	w.settled()
	var sum odometer.Sum
	rows, err := w.ledger.Usage(t.Context(), odometer.UsageQuery{From: 0, To: 1 << 60, User: "u-ada"})
	if err != nil || len(rows) != 1 {
		t.Fatal(rows, err)
	}
	sum = rows[0].Totals[odometer.CPU]
	if got, want := w.told(), "u-ada 50% open 8\nu-ada 80% open 8\nvm-1 50% open 8\nvm-1 80% open 8"; sortedLines(got) != sortedLines(want) || sum.String() != fmt.Sprint(8*odometer.HourMicros) {
		t.Errorf("of %s: got\n%s\nwant\n%s", sum, got, want)
	}
	if got := w.Stats().Skipped; got == 0 || got > uint64(removed) {
		t.Errorf("got %d skipped of the %d that were pruned", got, removed)
	}
	w.use("vm-1", ada, time.Hour, hours(1)) // adds to what was summed, once
	w.use("vm-1", ada, 30*time.Second, cpu(96))
	w.restart()
	w.use("vm-1", ada, time.Hour, hours(1))
	got := w.told()
	for _, want := range []string{"vm-1 warning open 96", "vm-1 critical open 96", "u-ada 100% open 10", "vm-1 100% open 10"} {
		if strings.Count(got, want) != 1 {
			t.Errorf("got\n%s\nwant %s in it", got, want)
		}
	}
	if n := book.count("were pruned before thresholds were checked on them"); n != 1 {
		t.Errorf("it was said %d times, want once:\n%s", n, book.String())
	}
}

// TestABudgetThatBeginsInAPrunedHour: a budget that is made when its month's first hour,
// which the zone's midnight cuts, was pruned has its part of that hour.
func TestABudgetThatBeginsInAPrunedHour(t *testing.T) {
	w := newWatchtower(t)
	w.now = time.Date(2026, 2, 28, 18, 0, 0, 0, time.UTC) // March begins at 18:30 in India
	w.use("vm-1", ada, time.Hour, hours(2))               // to 19:00
	for range 4 {
		w.use("vm-1", ada, 12*time.Hour, hours(1))
	}
	if n := w.prune(); n == 0 {
		t.Fatal("nothing was pruned")
	}
	india, err := time.LoadLocation("Asia/Kolkata")
	if err != nil {
		t.Fatal(err)
	}
	w.run()
	d := monthly(odometer.Scoped{User: "u-ada", Sum: true})
	d.Zone = india
	w.create(d)
	w.use("vm-1", ada, time.Hour, hours(3))
	w.is("u-ada 50% open 5", "u-ada 80% open 8")
}

// TestMoreWasCheckedThanThereIs: thresholds that have taken in more than the ledger has
// go on from its end, say so once and sum budgets anew; what is told is what the ledger
// has.
func TestMoreWasCheckedThanThereIs(t *testing.T) {
	w := newWatchtower(t)
	book := w.logged()
	w.run()
	w.create(monthly(odometer.Scoped{User: "u-ada", Sum: true}))
	w.create(twoLevels(odometer.Threshold{Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod}))
	w.use("vm-1", ada, time.Hour, hours(6))
	w.is("u-ada 50% open 6")
	w.stop()
	if _, err := w.db.Exec(`UPDATE threshold_meta SET value = CAST(value AS INTEGER) + 5 WHERE key = 'cursor'`); err != nil {
		t.Fatal(err)
	}
	if _, err := w.db.Exec(`UPDATE threshold_thresholds SET record = record + 5`); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.await("it goes on", func() bool { return w.Stats().Resumed == 1 })
	w.use("vm-1", ada, 30*time.Second, cpu(96))
	w.use("vm-1", ada, time.Hour, hours(2))
	w.is("u-ada 50% open 6", "vm-1 warning open 96", "vm-1 critical open 96", "u-ada 80% open 8.008", "vm-1 warning recovered 2", "vm-1 critical recovered 2")
	w.restart()
	w.settled()
	if n := book.count("going on from its end"); n != 1 || w.Stats().Resumed != 0 {
		t.Errorf("it was said %d times, want once:\n%s", n, book.String())
	}
}

func sortedLines(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
