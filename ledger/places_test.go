package ledger

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"pgregory.net/rapid"
)

// findEntries asks for entries in several ways, page by page, and finds those that
// are to be found among all; as it does where it may not list their records.
func findEntries(rt *rapid.T, d *desk) {
	all := d.entries()
	for range 4 {
		u := drawQuery(rt)
		q := odometer.EntryQuery{Instance: u.Instance, User: u.User, Org: u.Org, From: u.From, To: u.To, View: u.View}
		if q.To == 1<<60 && rapid.Bool().Draw(rt, "no end") {
			q.From, q.To = 0, 0
		}
		var want, got []odometer.EntryID
		for i := range all {
			if q.Wants(&all[i]) {
				want = append(want, all[i].ID)
			}
		}
		for page := q; ; {
			page.Limit = rapid.IntRange(1, 5).Draw(rt, "limit")
			list, next, err := d.Entries(d.t.Context(), page)
			if err != nil {
				rt.Fatal(err)
			}
			for _, e := range list {
				got = append(got, e.ID)
			}
			if page.After = next; len(list) < page.Limit {
				break
			}
		}
		if !slices.Equal(got, want) {
			rt.Fatalf("%+v: got entries %v, want %v", q, got, want)
		}
		found := map[bool]int{}
		for _, listed := range []bool{true, false} {
			p, err := placesOf(d.t.Context(), d.read, &q, 0, math.MaxInt64)
			if err != nil {
				rt.Fatal(err)
			}
			p.listed = p.listed && listed
			for r, err := range p.records(d.t.Context(), d.read, &q, spot{}, math.MaxInt64) {
				if err != nil {
					rt.Fatal(err)
				}
				booked, err := r.booked()
				if err != nil {
					rt.Fatal(err)
				}
				for i := range booked {
					if q.Wants(&booked[i]) {
						found[listed]++
					}
				}
			}
			if found[listed] != len(want) {
				rt.Fatalf("%+v, listed: %v: got records with %d entries, want %d", q, listed, found[listed], len(want))
			}
		}
	}
}

// TestEntriesAreFoundBeforeTheirHourIsPacked asks for the entries of one user while the
// hour that they are in is open, and when it has passed to another within that hour.
func TestEntriesAreFoundBeforeTheirHourIsPacked(t *testing.T) {
	d := newDesk(t)
	check := func(when string, want map[odometer.UserID]int) {
		t.Helper()
		for user, n := range want {
			list, _, err := d.Entries(t.Context(), odometer.EntryQuery{User: user, Limit: 10})
			if err != nil || len(list) != n {
				t.Errorf("%s: got %d entries of %s, %v, want %d", when, len(list), user, err, n)
			}
		}
	}
	d.now = time.UnixMicro(base + odometer.HourMicros)
	m := newMeter("vm-1", "host-1", base)
	d.send(m.next(30*sec, 1, 0))
	check("the hour is open", map[odometer.UserID]int{"u-ada": 1, "u-bob": 0})
	m.owner = odometer.Owner{User: "u-bob"}
	d.send(m.next(30*sec, 2, 0))
	check("taken over within it", map[odometer.UserID]int{"u-ada": 1, "u-bob": 1})
}

// TestFewEntriesAreFoundAmongMany has forty hosts send for days, and asks for what a
// user has of it, who had one machine for an hour: of all records those of that hour
// are looked at, and none for who has nothing.
func TestFewEntriesAreFoundAmongMany(t *testing.T) {
	d := newDesk(t)
	var meters []*meter
	for i := range 40 {
		meters = append(meters, newMeter(odometer.InstanceID(fmt.Sprintf("vm-%d", i)), odometer.AgentID(fmt.Sprintf("host-%d", i)), base))
	}
	const hours = 50
	for hour := range hours {
		d.now = time.UnixMicro(base + int64(hour+1)*odometer.HourMicros)
		var frames []odometer.Frame
		for _, m := range meters {
			m.owner = odometer.Owner{User: "u-ada", Org: "o-acme"}
			if m.instance == "vm-7" && hour == 20 {
				m.owner = odometer.Owner{User: "u-bob", Org: "o-small"}
			}
			for range 2 {
				frames = append(frames, odometer.Frame{Agent: m.agent, Records: []odometer.Record{{Event: m.next(odometer.HourMicros/2, 1, 1)}}})
			}
		}
		if _, _, err := d.Commit(t.Context(), frames); err != nil {
			t.Fatal(err)
		}
		if hour%10 == 9 {
			d.tick()
		}
	}
	for _, c := range []struct {
		name          string
		q             odometer.EntryQuery
		entries, most int // of the records that are looked at
	}{
		{"who had it for an hour", odometer.EntryQuery{User: "u-bob"}, 2, 6},
		{"his organisation", odometer.EntryQuery{Org: "o-small"}, 2, 6},
		{"what he sees", odometer.EntryQuery{View: viewOf("u-bob")}, 2, 6},
		{"what somebody sees who has nothing", odometer.EntryQuery{View: viewOf("u-eve", "o-none")}, 0, 0},
		{"an instance that there is not", odometer.EntryQuery{Instance: "vm-none"}, 0, 0},
		{"an instance in one hour", odometer.EntryQuery{Instance: "vm-3", From: base + 30*odometer.HourMicros, To: base + 31*odometer.HourMicros}, 2, 8},
		{"an instance that is another's", odometer.EntryQuery{Instance: "vm-3", View: viewOf("u-bob")}, 0, 0},
	} {
		p, err := placesOf(t.Context(), d.read, &c.q, 0, math.MaxInt64)
		if err != nil || !p.listed || len(p.ids) > c.most {
			t.Errorf("%s: got %d of %d records (listed: %v), %v, want at most %d", c.name, len(p.ids), 2*hours*len(meters), p.listed, err, c.most)
		}
		c.q.Limit = 100
		if list, _, err := d.Entries(t.Context(), c.q); err != nil || len(list) != c.entries {
			t.Errorf("%s: got %d entries, %v, want %d", c.name, len(list), err, c.entries)
		}
	}
	rows, err := d.read.QueryContext(t.Context(), `EXPLAIN QUERY PLAN `+recordsOfTime, 1, base, base+1, base+2, 0, 9, 9)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan []string
	for rows.Next() {
		var id, parent, unused int
		var detail string
		if err := rows.Scan(&id, &parent, &unused, &detail); err != nil {
			t.Fatal(err)
		}
		plan = append(plan, detail)
	}
	for _, index := range []string{"journal_short", "journal_long"} {
		if !strings.Contains(strings.Join(plan, "\n"), "USING COVERING INDEX "+index+" (partition=? AND max_us>") {
			t.Errorf("got the plan %q, want the search to be in %s alone", plan, index)
		}
	}
}
