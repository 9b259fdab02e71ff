package ledger

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

// viewOf returns what a user sees who does the billing of organisations, or what
// a service of the one that is named sees where there is no user.
func viewOf(user odometer.UserID, orgs ...odometer.OrgID) *odometer.View {
	c := odometer.Caller{Bound: odometer.Bound{User: user}}
	if user == "" {
		c.Bound.Org = orgs[0]
	}
	for _, org := range orgs {
		c.Memberships = append(c.Memberships, odometer.Membership{Org: org, User: user, Role: odometer.RoleBilling})
	}
	v := c.View()
	return &v
}

// grantedTo returns what a user sees who owns nothing, and was given a grant on vm-1.
func grantedTo(of odometer.Owner, since int64) *odometer.View {
	c := odometer.Caller{Bound: odometer.Bound{User: "u-guest"}, Grants: []odometer.Grant{{Instance: "vm-1", Of: of, Since: time.UnixMicro(since)}}}
	v := c.View()
	return &v
}

// TestAViewIsAConditionOfEveryQuestion has a machine change hands in the middle of
// an hour: whoever asks is answered what is his, page by page, and of what is not
// as of what there is not.
func TestAViewIsAConditionOfEveryQuestion(t *testing.T) {
	d := newDesk(t)
	d.now = time.UnixMicro(base + 10*odometer.HourMicros)
	m := newMeter("vm-1", "host-1", base)
	m.owner = odometer.Owner{User: "u-ada", Org: "o-acme"}
	told := func(length int64, what odometer.ChangeKind) {
		e := m.next(length, 1, 1)
		e.Lifecycle = []odometer.Change{change(what, e.Span.Start, "")}
		d.want(d.send(e), "recorded")
	}
	told(odometer.HourMicros, odometer.ChangeStarted)
	told(odometer.HourMicros/2, odometer.ChangePaused)
	m.owner = odometer.Owner{User: "u-bob", Org: "o-other"}
	told(odometer.HourMicros/2, odometer.ChangeResumed)
	told(odometer.HourMicros, odometer.ChangeResized)
	other := newMeter("vm-2", "host-2", base)
	other.owner = odometer.Owner{}
	d.want(d.send(other.next(30*sec, 1, 1)), "recorded")

	for _, c := range []struct {
		name      string
		view      *odometer.View
		entries   int
		minutes   float64 // that were measured
		instances string  // those that it may have been charged for
		life      []odometer.ChangeKind
	}{
		{"the program", nil, 5, 180.5, "[vm-1 vm-2]", []odometer.ChangeKind{odometer.ChangeStarted, odometer.ChangePaused, odometer.ChangeResumed, odometer.ChangeResized}},
		{"the operator", &odometer.Everything, 5, 180.5, "[vm-1 vm-2]", []odometer.ChangeKind{odometer.ChangeStarted, odometer.ChangePaused, odometer.ChangeResumed, odometer.ChangeResized}},
		{"who had it first", viewOf("u-ada"), 2, 90, "[vm-1]", []odometer.ChangeKind{odometer.ChangeStarted}},
		{"who has it now", viewOf("u-bob"), 2, 90, "[vm-1]", []odometer.ChangeKind{odometer.ChangeResized}},
		{"the organisation of the first", viewOf("", "o-acme"), 2, 90, "[vm-1]", []odometer.ChangeKind{odometer.ChangeStarted}},
		{"who sees both", viewOf("u-ada", "o-other"), 4, 180, "[vm-1]", []odometer.ChangeKind{odometer.ChangeStarted, odometer.ChangePaused, odometer.ChangeResumed, odometer.ChangeResized}},
		{"a stranger", viewOf("u-eve", "o-none"), 0, 0, "[]", nil},
		{"nobody", new(odometer.View), 0, 0, "[]", nil},
		{"whom the first gave a grant", grantedTo(odometer.Owner{User: "u-ada", Org: "o-acme"}, base), 2, 90, "[vm-1]", []odometer.ChangeKind{odometer.ChangeStarted}},
		{"whom he gave one later", grantedTo(odometer.Owner{User: "u-ada", Org: "o-acme"}, base+odometer.HourMicros), 1, 30, "[vm-1]", nil},
		{"whom the operator gave one", grantedTo(odometer.Owner{}, base+odometer.HourMicros), 3, 120, "[vm-1]", []odometer.ChangeKind{odometer.ChangePaused, odometer.ChangeResumed, odometer.ChangeResized}},
		{"whom somebody else gave one", grantedTo(odometer.Owner{User: "u-eve"}, base), 0, 0, "[vm-1]", nil},
	} {
		for _, when := range []string{"open", "entered and sealed"} {
			if when != "open" {
				d.now = d.now.Add(3 * time.Hour)
				d.tick()
				list, err := d.Instances(t.Context(), InstanceQuery{Limit: 10, View: c.view})
				ids := []odometer.InstanceID{}
				for _, i := range list {
					ids = append(ids, i.Instance)
				}
				if err != nil || fmt.Sprint(ids) != c.instances {
					t.Errorf("%s: instances: got %v, %v, want %s", c.name, ids, err, c.instances)
				}
			}
			n := 0
			for after := ""; ; n++ { // one by one
				page, next, err := d.Entries(t.Context(), odometer.EntryQuery{After: after, Limit: 1, View: c.view})
				if err != nil {
					t.Fatal(err)
				}
				if len(page) == 0 {
					break
				}
				after = next
			}
			if n != c.entries {
				t.Errorf("%s, %s: got %d entries, want %d", c.name, when, n, c.entries)
			}
			rows, err := d.Usage(t.Context(), odometer.UsageQuery{From: base, To: base + 10*odometer.HourMicros, View: c.view})
			var measured odometer.Sum
			for i := range rows {
				measured.AddSum(rows[i].Totals[odometer.MeasuredTime])
			}
			if got := measured.Float64() / 60e6; err != nil || got != c.minutes {
				t.Errorf("%s, %s: got %v minutes measured, %v, want %v", c.name, when, got, err, c.minutes)
			}
			for limit := 1; limit <= 4; limit++ {
				list, err := d.Lifecycle(t.Context(), odometer.LifecycleQuery{Instance: "vm-1", Limit: limit, View: c.view})
				var life []odometer.ChangeKind
				for _, h := range list {
					life = append(life, h.Kind)
				}
				if want := c.life[max(0, len(c.life)-limit):]; err != nil || !slices.Equal(life, want) {
					t.Errorf("%s, %s: the newest %d of its life: got %v, %v, want %v", c.name, when, limit, life, err, want)
				}
			}
		}
	}

	// It turns out that it was the other's all along: what happened is his to see, and
	// the first has what was taken back and nothing else.
	bob := odometer.Owner{User: "u-bob", Org: "o-other"}
	d.assign("vm-1", bob, base-1, 0)
	for user, want := range map[odometer.UserID]int{"u-ada": 0, "u-bob": 4} {
		list, err := d.Lifecycle(t.Context(), odometer.LifecycleQuery{Instance: "vm-1", Limit: 10, View: viewOf(user)})
		if err != nil || len(list) != want {
			t.Errorf("%s, after it was assigned: got %v, %v, want %d changes", user, list, err, want)
		}
		entries, _, err := d.Entries(t.Context(), odometer.EntryQuery{Limit: 100, View: viewOf(user)})
		if err != nil {
			t.Fatal(err)
		}
		sum := int64(0)
		for _, e := range entries {
			if e.Event.Owner.User != user {
				t.Errorf("%s sees the entry %s of %v", user, e.ID, e.Event.Owner)
			}
			sum += e.Event.Usage.Vector[odometer.CPU]
		}
		if sum != int64(want) { // each of the four events used one
			t.Errorf("%s, after it was assigned: got entries of %d µs in sum, want %d", user, sum, want)
		}
	}
}
