package ledger

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// Epochs that share a row of the table state leave each other's as it is:
// those that ended and are not cached any more, and after a start those that
// were not heard of since.
func TestEpochsThatShareARowKeepWhatTheyHave(t *testing.T) {
	d := newDesk(t)
	var meters []*meter
	var firsts []*odometer.Event
	for i := range 3*epochsPerRow - 2 {
		m := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), "host-1", base)
		meters = append(meters, m)
		firsts = append(firsts, m.next(30*sec, 1, 0))
	}
	d.send(firsts...)
	cpu := int64(len(meters))
	step := func(i int, final bool) {
		t.Helper()
		e := meters[i].next(30*sec, 10, 0)
		e.Final = final
		d.want(d.send(e), "recorded")
		cpu += 10
	}
	for _, i := range []int{0, 3, 6, 7, 12} {
		step(i, true) // the first of a row among them, the last, and one whose neighbours have not ended
	}
	for _, i := range []int{1, 8, 20} {
		step(i, false)
	}
	d.proven()
	d.reopen()
	for _, i := range []int{2, 13, 21} {
		step(i, false)
	}
	d.proven()
	d.want(d.send(firsts[0], firsts[3], firsts[7], firsts[12], firsts[19]), "duplicate", "duplicate", "duplicate", "duplicate", "duplicate")
	d.want(d.send(meters[7].next(30*sec, 1, 0)), "quarantined closed")
	if got := d.total(odometer.CPU); got != cpu {
		t.Errorf("cpu: got %d µs, want %d", got, cpu)
	}
	byInstance := d.usage(odometer.UsageQuery{From: 1, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance}})
	if len(byInstance) != len(meters) {
		t.Errorf("by instance: got %d rows, want %d", len(byInstance), len(meters))
	}
	d.proven()
}

// What has ended leaves the cache, and a row of which nothing is cached with it.
func TestEndedEpochsLeaveTheCache(t *testing.T) {
	d := newDesk(t)
	var events []*odometer.Event
	for i := range 2 * epochsPerRow {
		e := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), "host-1", base).next(30*sec, 1, 0)
		e.Final = true
		events = append(events, e)
	}
	events[4].Final = false
	d.send(events...)
	if len(d.fold.epochs) != 1 || len(d.fold.rows) != 1 {
		t.Errorf("cached: got %d epochs and %d rows, want 1 and 1", len(d.fold.epochs), len(d.fold.rows))
	}
	// The upkeep reads only what it has something to seal of.
	d.now = time.UnixMicro(base + odometer.DayMicros)
	d.tick()
	d.tick()
	if len(d.fold.epochs) != 1 || len(d.fold.rows) != 1 {
		t.Errorf("cached a day later: got %d epochs and %d rows, want 1 and 1", len(d.fold.epochs), len(d.fold.rows))
	}
	d.proven()
}

// A row that cannot be read is named, and not written over: nothing of its epochs
// is committed.
func TestARowThatCannotBeReadIsNotWrittenOver(t *testing.T) {
	for name, damage := range map[string]string{
		"it is cut off":       `substr(body, 1, length(body) - 1)`,
		"more follows":        `CAST(body || x'00' AS BLOB)`,
		"a state has no flag": `CAST(substr(body, 1, 4) || x'07' || substr(body, 6) AS BLOB)`,
	} {
		t.Run(name, func(t *testing.T) {
			d := newDesk(t)
			one, two := newMeter("vm-1", "host-1", base), newMeter("vm-2", "host-1", base)
			d.send(one.next(30*sec, 1, 0), two.next(30*sec, 1, 0))
			if _, err := d.write.Exec(`UPDATE state SET body = ` + damage); err != nil {
				t.Fatal(err)
			}
			d.reopen()
			e := two.next(30*sec, 1, 0)
			fr := odometer.Frame{Agent: "host-1", Spool: "0123456789abcdef0123456789abcdef", First: d.pos + 1, Last: d.pos + 1,
				Records: []odometer.Record{{First: d.pos + 1, Position: d.pos + 1, Event: e}}}
			_, _, err := d.Commit(t.Context(), []odometer.Frame{fr})
			if !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), "state of epoch") {
				t.Fatalf("commit beside a row that cannot be read: got %v, want an error that names the state", err)
			}
			if _, err := d.Usage(t.Context(), odometer.UsageQuery{From: 1, To: 1 << 60}); !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("usage: got %v, want an error", err)
			}
			if n := d.records(); n != 1 {
				t.Errorf("the journal has %d records, want 1", n)
			}
		})
	}
}
