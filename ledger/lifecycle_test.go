package ledger

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// life is what happened to an instance, by the ledger.
func (d *desk) life(q odometer.LifecycleQuery) (list []string) {
	d.t.Helper()
	if q.Limit == 0 {
		q.Limit = 1000
	}
	happenings, err := d.Lifecycle(d.t.Context(), q)
	if err != nil {
		d.t.Fatal(err)
	}
	for _, h := range happenings {
		list = append(list, fmt.Sprintf("%s %s at %d+%d: %s %s %s", h.Agent, h.Instance, h.At.Wall, h.At.Boot, h.Kind, h.Device, h.Detail))
	}
	return list
}

func change(kind odometer.ChangeKind, wall int64, detail string) odometer.Change {
	return odometer.Change{Kind: kind, At: odometer.Moment{Boot: wall - base, Wall: wall}, Detail: detail}
}

// TestLifecycleIsTheFoldOfTheJournal tells lives by events of every fate.
func TestLifecycleIsTheFoldOfTheJournal(t *testing.T) {
	d := newDesk(t)
	m := newMeter("vm-1", "host-1", base)
	begin := m.next(sec, 5, 5)
	begin.Lifecycle = []odometer.Change{change(odometer.ChangeStarted, base, ""), change(odometer.ChangeDeviceAdded, base+5, "20 GiB")}
	begin.Lifecycle[1].Device = "vdb"
	begin.Lifecycle = append(begin.Lifecycle, begin.Lifecycle[1])
	begin.Lifecycle[2].Device = "vdc"
	d.want(d.send(begin), "recorded")
	again := *begin
	again.Lifecycle = []odometer.Change{change(odometer.ChangeStarted, base, "told otherwise")}
	d.want(d.send(&again), "duplicate")
	m.next(sec, 7, 7) // never arrives
	held := m.next(sec, 5, 5)
	held.Lifecycle = []odometer.Change{change(odometer.ChangePaused, base+2*sec, "")}
	d.want(d.send(held), "held hole")
	poison := newMeter("vm-1", "host-1", base+60*sec).next(sec, 1<<55, 0)
	poison.Lifecycle = []odometer.Change{change(odometer.ChangeResized, base+3*sec, "2 to 4 vCPUs")}
	d.want(d.send(poison), "quarantined impossible")
	// Of a host in another partition, sent by a relay, and after a hole that is not waited for.
	there := newMeter("vm-1", "host-2", base+120*sec)
	moved := there.next(sec, 1, 1)
	moved.Lifecycle = []odometer.Change{change(odometer.ChangeMoved, base+4*sec, "from host-1")}
	d.want(d.send(moved, newMeter("vm-2", "host-1", base).next(sec, 1, 1)), "recorded", "recorded")
	there.next(sec, 3, 3)
	resumed := there.next(sec, 1, 1)
	resumed.Lifecycle = []odometer.Change{change(odometer.ChangeStopped, base+5*sec, "")}
	d.pos++
	d.want(d.commit(odometer.Frame{Agent: "host-1", Spool: goldenSpool, First: d.pos, Last: d.pos,
		Records: []odometer.Record{{First: d.pos, Position: d.pos, Event: resumed, Resumes: true}}}), "recorded")

	want := []string{
		fmt.Sprintf("host-1 vm-1 at %d+0: started  ", base),
		fmt.Sprintf("host-1 vm-1 at %d+5: device_added vdb 20 GiB", base+5),
		fmt.Sprintf("host-1 vm-1 at %d+5: device_added vdc 20 GiB", base+5),
		fmt.Sprintf("host-1 vm-1 at %d+2000000: paused  ", base+2*sec),
		fmt.Sprintf("host-1 vm-1 at %d+3000000: resized  2 to 4 vCPUs", base+3*sec),
		fmt.Sprintf("host-2 vm-1 at %d+4000000: moved  from host-1", base+4*sec),
		fmt.Sprintf("host-2 vm-1 at %d+5000000: stopped  ", base+5*sec),
	}
	for name, q := range map[string]struct {
		query odometer.LifecycleQuery
		want  []string
	}{
		"all":          {odometer.LifecycleQuery{}, want},
		"the newest":   {odometer.LifecycleQuery{Limit: 2}, want[5:]},
		"of a moment":  {odometer.LifecycleQuery{Limit: 5}, want[1:]},
		"from, to":     {odometer.LifecycleQuery{From: base + 5, To: base + 3*sec}, want[1:4]},
		"another time": {odometer.LifecycleQuery{To: base}, nil},
	} {
		q.query.Instance = "vm-1"
		if got := d.life(q.query); !slices.Equal(got, q.want) {
			t.Errorf("%s: got %q\nwant %q", name, got, q.want)
		}
	}
	if got := d.life(odometer.LifecycleQuery{Instance: "vm-2"}); got != nil {
		t.Errorf("nothing happened to vm-2: got %q", got)
	}
	for _, e := range d.entries() {
		if e.Kind == odometer.KindRecovered && len(e.Event.Lifecycle) > 0 {
			t.Errorf("%s, a recovery, tells %v", e.ID, e.Event.Lifecycle)
		}
	}
	d.proven()

	d.now = d.now.Add(26 * time.Hour)
	d.tick() // the hole is given up
	d.send(m.next(sec, 1, 1))
	d.publishAll()
	d.now = d.now.Add(48 * time.Hour)
	if r := d.prune(d.now, nil); r.Records == 0 {
		t.Error("nothing was pruned")
	}
	if got := d.life(odometer.LifecycleQuery{Instance: "vm-1"}); !slices.Equal(got, want) {
		t.Errorf("after pruning: got %q\nwant %q", got, want)
	}
	d.proven()
}

// TestRebuildNoticesAnotherLife changes the log behind the journal's back.
func TestRebuildNoticesAnotherLife(t *testing.T) {
	d := newDesk(t)
	e := newMeter("vm-1", "host-1", base).next(sec, 1, 1)
	e.Lifecycle = []odometer.Change{change(odometer.ChangeStarted, base, "")}
	d.want(d.send(e), "recorded")
	if _, err := d.write.Exec(`UPDATE lifecycle SET detail = 'by magic'`); err != nil {
		t.Fatal(err)
	}
	if r, err := Rebuild(t.Context(), d.path, nil); err != nil || r.Total != 1 {
		t.Errorf("got %+v, %v, want one difference", r, err)
	}
}

// TestALifeThatCannotBeRead asks a ledger that is closed.
func TestALifeThatCannotBeRead(t *testing.T) {
	d := newDesk(t)
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Lifecycle(t.Context(), odometer.LifecycleQuery{Instance: "vm-1", Limit: 1}); err == nil || errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("got %v, want that it is closed", err)
	}
}
