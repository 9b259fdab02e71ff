package ledger

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// disagreeing tells the disagreements in one line.
func (d *desk) disagreeing() string {
	var all []string
	for _, one := range d.Disagreements() {
		all = append(all, fmt.Sprintf("%s %d %s %s/%s", one.Agent, one.Events, one.Instance, one.Named.User, one.Recorded.User))
	}
	return strings.Join(all, ", ")
}

// TestDisagreements has agents name owners, in events of ten seconds from a while
// after the start on.
func TestDisagreements(t *testing.T) {
	const ten = 10 * sec
	nobody := odometer.Owner{User: odometer.Unassigned}
	later := func(m *meter) { // so late that it has heard of what is decided now
		m.at += 60 * sec
		m.start = m.at
	}
	for _, c := range []struct {
		name string
		tell func(d *desk, m *meter)
		want string
	}{
		{"nothing is recorded", func(d *desk, m *meter) { d.send(m.next(ten, 60, 1)) }, ""},
		{"the agent names who is recorded", func(d *desk, m *meter) {
			d.assign(m.instance, ada, base, 0)
			later(m)
			d.send(m.next(ten, 60, 1))
		}, ""},
		{"it has not heard yet", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base, 0)
			d.now = d.now.Add(10 * time.Second)
			d.send(m.next(ten, 60, 1))
		}, ""},
		{"it should have heard", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base, 0)
			later(m)
			d.now = d.now.Add(time.Minute)
			d.send(m.next(ten, 60, 1), m.next(ten, 60, 1))
		}, "host-1 2 vm-7 u-ada/u-bob"},
		{"it was away, and brings what it had metered before", func(d *desk, m *meter) {
			e := m.next(ten, 60, 1)
			d.assign(m.instance, bob, base, 0)
			d.now = d.now.Add(time.Hour)
			d.send(e)
		}, ""},
		{"it is sold on, long after", func(d *desk, m *meter) {
			d.assign(m.instance, ada, base, 0)
			d.assign(m.instance, bob, m.at+60*sec+5*sec, 0)
			later(m)
			d.now = d.now.Add(time.Minute)
			d.send(m.next(ten, 60, 1))
		}, "host-1 1 vm-7 u-ada/u-bob"},
		{"it names nobody", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base, 0)
			m.owner = odometer.Owner{}
			later(m)
			d.now = d.now.Add(time.Minute)
			d.send(m.next(ten, 60, 1))
		}, ""},
		{"it names somebody, and it is nobody's", func(d *desk, m *meter) {
			d.assign(m.instance, nobody, base, 0)
			later(m)
			d.now = d.now.Add(time.Minute)
			d.send(m.next(ten, 60, 1))
		}, "host-1 1 vm-7 u-ada/unassigned"},
		{"it comes twice", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base, 0)
			later(m)
			d.now = d.now.Add(time.Minute)
			e := m.next(ten, 60, 1)
			d.send(e)
			d.send(e)
		}, "host-1 1 vm-7 u-ada/u-bob"},
		{"the ledger was opened since", func(d *desk, m *meter) {
			d.assign(m.instance, bob, base, 0)
			d.now = d.now.Add(time.Hour)
			d.reopen()
			later(m)
			d.send(m.next(ten, 60, 1))
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := newDesk(t)
			m := newMeter("vm-7", "host-1", base+odometer.HourMicros) // the desk's clock
			m.at += heardWithin
			m.start = m.at
			d.now = d.now.Add(time.Minute)
			c.tell(d, m)
			if got := d.disagreeing(); got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
			d.proven()
		})
	}
}
