package ledger

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// TestInstancesAreFound asks which instances there are, whatever has become of
// their hours: open, silent and sealed, pruned by days, moved, handed over.
func TestInstancesAreFound(t *testing.T) {
	d := newDesk(t)
	start := usageBase
	find := func(when string, q InstanceQuery, want ...string) {
		t.Helper()
		if q.Limit == 0 {
			q.Limit = 100
		}
		list, err := d.Instances(t.Context(), q)
		if err != nil {
			t.Fatalf("%s: %v", when, err)
		}
		got := []string{}
		for _, r := range list {
			got = append(got, fmt.Sprintf("%s@%s %s %d+%d", r.Instance, r.Agent, r.Owner.User, (r.Since-start)/sec, (r.Until-r.Since)/sec))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: got %q, want %q", when, got, want)
		}
	}
	find("an empty ledger", InstanceQuery{})
	d.now = time.UnixMicro(start + odometer.HourMicros)
	one, two := newMeter("vm-1", "host-1", start), newMeter("vm-2", "host-1", start+30*sec)
	two.owner = odometer.Owner{User: "u-bob", Org: "acme"}
	d.send(one.next(30*sec, 1, 0))
	d.send(two.next(60*sec, 1, 0))
	find("all", InstanceQuery{}, "vm-1@host-1 u-ada 0+30", "vm-2@host-1 u-bob 30+60")
	find("after one", InstanceQuery{After: "vm-1"}, "vm-2@host-1 u-bob 30+60")
	find("the first", InstanceQuery{Limit: 1}, "vm-1@host-1 u-ada 0+30")
	find("one", InstanceQuery{Instance: "vm-2"}, "vm-2@host-1 u-bob 30+60")
	find("one that is not there", InstanceQuery{Instance: "vm-3"})

	moved := newMeter("vm-1", "host-2", start+40*sec)
	moved.owner = odometer.Owner{User: "u-cy"}
	d.send(moved.next(10*sec, 1, 0))
	find("moved to another host and owner", InstanceQuery{Instance: "vm-1"}, "vm-1@host-2 u-cy 0+50")

	d.now = d.now.Add(5 * time.Hour)
	d.tick()
	find("sealed", InstanceQuery{}, "vm-1@host-2 u-cy 0+50", "vm-2@host-1 u-bob 30+60")
	find("of a user", InstanceQuery{User: "u-bob"}, "vm-2@host-1 u-bob 30+60")
	find("of an organisation", InstanceQuery{Org: "acme"}, "vm-2@host-1 u-bob 30+60")
	find("of a user before", InstanceQuery{User: "u-ada"}, "vm-1@host-2 u-cy 0+50")
	find("of nobody", InstanceQuery{User: "u-eve"})
	d.now = d.now.Add(40 * 24 * time.Hour)
	d.tick()
	find("compacted", InstanceQuery{}, "vm-1@host-2 u-cy 0+50", "vm-2@host-1 u-bob 30+60")

	two.owner = odometer.Owner{User: "u-ada"}
	d.send(two.next(30*sec, 1, 0)) // the same hour, long ago
	d.tick()
	find("two owners in the last hour", InstanceQuery{Instance: "vm-2"}, "vm-2@host-1  30+90")
}
