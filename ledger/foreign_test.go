package ledger

import (
	"errors"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// from commits events that a host sent of which it is known why their word is not to
// be taken, as the next frame of a spool of its own.
func (d *desk) from(agent odometer.AgentID, reason string, events ...*odometer.Event) []string {
	d.t.Helper()
	fr := odometer.Frame{Agent: agent}
	for _, e := range events {
		r := odometer.Record{Event: e}
		if reason != "" {
			r.Refused = &odometer.Refusal{Reason: reason, Detail: "as is known of " + string(agent)}
		}
		fr.Records = append(fr.Records, r)
	}
	return d.commit(fr)
}

func (d *desk) strangers() []Stranger {
	d.t.Helper()
	list, err := d.Strangers(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	return list
}

const minute = 60 * sec

// TestWhatRunsElsewhereWaits has a second host tell of an instance, and then the first
// one end it.
func TestWhatRunsElsewhereWaits(t *testing.T) {
	d := newDesk(t)
	here, there := newMeter("vm-7", "host-1", base), newMeter("vm-7", "host-2", base+minute)
	d.want(d.from("host-1", "", here.next(minute, 600, 1), here.next(minute, 600, 1)), "recorded", "recorded")
	a, b, c := there.next(minute, 10, 1), there.next(minute, 20, 1), there.next(minute, 40, 1)
	d.want(d.from("host-2", reasonForeign, a, b), "quarantined foreign_host", "quarantined foreign_host")
	d.want(d.from("host-2", reasonForeign, a), "duplicate foreign_host")
	d.want(d.from("host-2", "", c), "quarantined foreign_host") // it would book a and b with it
	if got := d.total(odometer.CPU); got != 1200 {
		t.Errorf("got %d µs, want what the first host measured", got)
	}
	list := d.strangers()
	if len(list) != 1 || list[0] != (Stranger{odometer.AgentID("host-2").Partition(), list[0].No, "vm-7", "host-2", base + minute, base + 2*minute}) {
		t.Fatalf("got %+v, want the epoch that waits, from when on, and up to when the instance was measured", list)
	}
	d.reopen()
	d.proven()
	d.want(d.from("host-1", "", here.next(minute, 600, 1)), "recorded")
	if err := d.Admit(t.Context(), &list[0], "the server"); err != nil {
		t.Fatal(err)
	}
	if got := d.total(odometer.CPU); got != 1800+70 {
		t.Errorf("got %d µs, want both", got)
	}
	if got := d.strangers(); len(got) != 0 {
		t.Errorf("got %+v, want nothing that waits", got)
	}
	d.want(d.from("host-2", "", a, there.next(minute, 80, 1)), "duplicate", "recorded")
	if rows, err := d.Quarantine(t.Context(), 10); err != nil || len(rows) != 0 {
		t.Errorf("got %+v, %v, want nothing in quarantine", rows, err)
	}
	d.proven()
}

// TestAPersonTakesAHostsWord releases one of the events.
func TestAPersonTakesAHostsWord(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-2", base)
	a, b := m.next(minute, 10, 1), m.next(minute, 20, 1)
	d.want(d.from("host-2", reasonForeign, a, b), "quarantined foreign_host", "quarantined foreign_host")
	rows, err := d.Quarantine(t.Context(), 10)
	if err != nil || len(rows) != 2 {
		t.Fatalf("got %+v, %v", rows, err)
	}
	no := slices.MaxFunc(rows, func(a, b QuarantineRow) int { return int(a.No - b.No) }).No
	res, err := d.Release(t.Context(), rows[0].Partition, no, "ada")
	if err != nil || res.EventID != b.ID() || res.Outcome != odometer.Recorded {
		t.Errorf("got %+v, %v, want the second event booked", res, err)
	}
	if got := d.total(odometer.CPU); got != 30 {
		t.Errorf("got %d µs, want those before it too", got)
	}
	if _, err := d.Release(t.Context(), rows[0].Partition, no, "ada"); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("again: got %v, want a conflict", err)
	}
	d.proven()
}

// TestWhatCannotBeIsNotAdmitted: what nobody looked at has to be possible.
func TestWhatCannotBeIsNotAdmitted(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-2", base)
	good, bad := m.next(minute, 10, 1), m.next(minute, 1<<50, 1)
	d.want(d.from("host-2", reasonForeign, good, bad), "quarantined foreign_host", "quarantined foreign_host")
	s := d.strangers()[0]
	if err := d.Admit(t.Context(), &s, "the server"); err != nil {
		t.Fatal(err)
	}
	if got := d.total(odometer.CPU); got != 10 {
		t.Errorf("got %d µs, want what is possible", got)
	}
	list := d.strangers()
	if len(list) != 1 || list[0].Start != base+minute {
		t.Fatalf("got %+v, want what is not", list)
	}
	if err := d.Admit(t.Context(), &list[0], "the server"); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("got %v, want a conflict", err)
	}
	if _, err := d.Release(t.Context(), list[0].Partition, list[0].No, "ada"); err != nil {
		t.Errorf("a person: %v", err)
	}
	ahead := newMeter("vm-8", "host-2", d.now.Add(time.Hour).UnixMicro())
	d.want(d.from("host-2", reasonForeign, ahead.next(minute, 1, 1)), "quarantined foreign_host")
	if list = d.strangers(); len(list) != 1 || !errors.Is(d.Admit(t.Context(), &list[0], "the server"), odometer.ErrConflict) {
		t.Errorf("got %+v admitted, want what lies ahead to wait", list)
	}
	d.proven()
}

// TestWhatAnotherAgentMeasured: a host that was let in under another name brings what
// it had measured before.
func TestWhatAnotherAgentMeasured(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-7", "host-1", base)
	known, rest, last := m.next(minute, 600, 1), m.next(minute, 60, 1), m.next(minute, 6, 1)
	d.want(d.from("host-1", "", known), "recorded")
	d.want(d.from("host-9", reasonSender, known, rest), "duplicate sender", "quarantined sender")
	d.want(d.from("host-9", reasonSender, rest), "duplicate sender")
	other := newMeter("vm-8", "host-1", base)
	moved := other.next(minute, 600, 1)
	moved.Lifecycle = []odometer.Change{change(odometer.ChangeStarted, base, "")}
	d.want(d.from("host-9", reasonSender, moved), "quarantined sender")
	if got := d.life(odometer.LifecycleQuery{Instance: "vm-8", From: 1, Limit: 10}); len(got) != 0 {
		t.Errorf("got %q told, want nothing", got)
	}
	d.want(d.from("host-1", "", last), "recorded")
	if got := d.total(odometer.CPU); got != 666 {
		t.Errorf("got %d µs, want what is not there to be recovered", got)
	}
	d.proven()
	d.reopen()
	d.proven()
}
