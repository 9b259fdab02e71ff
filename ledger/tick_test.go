package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// Epochs that fell silent are sealed some at a time, all of them, and what was
// looked through once is not looked through again.
func TestSilentEpochsAreSealedSomeAtATime(t *testing.T) {
	d := newDesk(t)
	const epochs = 2*sealAtOnce + sealAtOnce/2
	var events []*odometer.Event
	for i := range epochs {
		m := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), odometer.AgentID(fmt.Sprintf("host-%d", i%3)), base)
		events = append(events, m.next(odometer.HourMicros/2, 7, 0))
	}
	d.send(events...)
	d.now = time.UnixMicro(base + odometer.DayMicros)
	d.tick()
	var open int
	if err := d.read.QueryRow(`SELECT count(*) FROM state WHERE open_hour > 0`).Scan(&open); err != nil {
		t.Fatal(err)
	}
	if open != 0 {
		t.Errorf("%d of %d epochs have an hour open a day later", open, epochs)
	}
	if got, want := d.total(odometer.CPU), int64(7*epochs); got != want {
		t.Errorf("cpu: got %d µs, want %d", got, want)
	}
	until := odometer.Hour(d.now.UnixMicro() - odometer.HourMicros - sealAfter)
	if d.fold.from <= until {
		t.Errorf("open hours are looked for from %d on, want after %d", d.fold.from, until)
	}
	d.reopen()
	d.proven()
}

// An hour that is opened while the upkeep seals others, behind where it is, is
// found by questions.
func TestHoursOpenedWhileOthersAreSealed(t *testing.T) {
	d := newDesk(t)
	var events []*odometer.Event
	first := newMeter("vm-first", "host-1", base)
	events = append(events, first.next(odometer.HourMicros/2, 7, 0))
	for i := range sealAtOnce + 1 {
		m := newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), "host-1", base)
		events = append(events, m.next(odometer.HourMicros/2, 7, 0))
	}
	d.send(events...)
	d.now = time.UnixMicro(base + odometer.DayMicros)
	s := new(sealing)
	step := func() {
		t.Helper()
		if err := d.transact(t.Context(), s.step); err != nil {
			t.Fatal(err)
		}
	}
	step()
	if s.done {
		t.Fatal("everything was sealed at once: the test would prove nothing")
	}
	d.send(first.next(odometer.HourMicros, 100, 0))
	for !s.done {
		step()
	}
	for range 2 {
		got := d.usage(odometer.UsageQuery{From: odometer.Hour(base), To: odometer.Hour(base) + 3*odometer.HourMicros, Instance: "vm-first"})
		if len(got) != 1 || got[0].Totals[odometer.CPU].String() != "107" {
			t.Errorf("got %+v, want 107 µs of cpu", got)
		}
		d.tick()
	}
	d.proven()
}

// What happens often never reads the journal from end to end.
func TestTheEndsOfTheJournalAreLookedUp(t *testing.T) {
	d := newDesk(t)
	rows, err := d.read.Query(`EXPLAIN QUERY PLAN SELECT * FROM ` + journalEnds)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	steps := 0
	for rows.Next() {
		var id, parent, unused int
		var step string
		if err := rows.Scan(&id, &parent, &unused, &step); err != nil {
			t.Fatal(err)
		}
		steps++
		if strings.HasPrefix(step, "SCAN j") || strings.HasPrefix(step, "SCAN k") {
			t.Errorf("%s", step)
		}
	}
	if steps < 5 {
		t.Errorf("the plan has %d steps", steps)
	}
}
