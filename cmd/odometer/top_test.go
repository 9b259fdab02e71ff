package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/charmbracelet/x/ansi"

	"example.org/odometer"
	"example.org/odometer/api"
)

var topNow = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// machine is an instance on host-1 that has used so many seconds of a processor
// in so many seconds of its open period; 0 for none.
func machine(name string, used, elapsed float64) api.Instance {
	v := api.Instance{Description: odometer.Describe(&odometer.VM{Instance: odometer.InstanceID("id-of-" + name), Name: name, State: odometer.Running, VCPUs: 2}), Agent: "host-1", Age: new(int64(1))}
	if elapsed > 0 {
		row := api.Row{Period: &api.Period{Agent: "host-1", Epoch: "e", Sequence: 1}}
		row.Known = row.Known.With(odometer.CPU).With(odometer.Memory).With(odometer.MeasuredTime)
		row.Totals[odometer.CPU] = odometer.SumOf(int64(used * odometer.SecondMicros))
		row.Totals[odometer.Memory] = odometer.SumOf(int64(elapsed * 512))
		row.Totals[odometer.MeasuredTime] = odometer.SumOf(int64(elapsed * odometer.SecondMicros))
		v.Open = []api.Row{row}
	}
	return v
}

func topSaid(at time.Time, machines ...api.Instance) topAnswer {
	a := topAnswer{at: at, instances: api.InstancesAnswer{At: at, Instances: machines}}
	a.status.Version, a.status.UptimeSeconds = "0.1.0", 200
	a.status.Ledger = api.LedgerStatus{Entries: 1000, LastCommit: &at}
	a.status.Health = api.Health{Status: api.OK, Components: map[string]api.Component{
		"queue": {Status: api.OK, Facts: map[string]any{"pending_messages": float64(3)}}, "feed": {Status: api.OK, Facts: map[string]any{"behind_entries": float64(4)}},
	}}
	a.status.Agents = []api.AgentStatus{{ID: "host-1", LastSeen: &at, Open: 2, Instances: new(len(machines))}}
	return a
}

// names returns the first words of the lines of a frame between the head of the
// table of machines and the foot.
func names(frame []string) (list []string) {
	at := slices.IndexFunc(frame, func(l string) bool { return strings.HasPrefix(l, "NAME") })
	for _, l := range frame[at+1:] {
		if w := strings.Fields(l); len(w) > 1 && l[0] != '/' && !strings.Contains(l, " q quit ") {
			list = append(list, w[0])
		}
	}
	return list
}

func TestTopFrame(t *testing.T) {
	s := newTopState("http://127.0.0.1:8640", "cpu")
	quiet := machine("db", 0, 0)
	quiet.State, quiet.Age = api.StateUnobserved, new(int64(7200))
	quiet.Conflict = &api.InstanceConflict{Instance: "id-of-db", Agents: []odometer.AgentID{"host-1", "host-2"}}
	a := topSaid(topNow, quiet, machine("web", 15, 10))
	a.status.Conflicts = []api.InstanceConflict{*quiet.Conflict}
	seen := topNow.Add(-time.Hour)
	a.status.Agents = append(a.status.Agents, api.AgentStatus{ID: "host-2", LastSeen: &seen, Position: 77})
	a.status.Health.Components["ledger"] = api.Component{Status: api.Failed, Details: new("the disk is full, and a sentence about that goes on for longer than one line has room")}
	s.take(a)
	got := s.frame(80, 0, false)
	want := []string{
		"odometer 0.1.0 at http://127.0.0.1:8640, up 3m20s: ok                   15:04:05",
		"waiting: queue 3, topic 4, held 0, quarantine 0 · ledger 1000, 0 s ago",
		"ledger error: the disk is full, and a sentence about that goes on for longer",
		"than one line has room",
		"! id-of-db runs on host-1, host-2 at once",
		"HOSTS 2, 1 silent              SEEN     MACHINES         OPEN  COMMITTED",
		"host-2                   60 min ago            -            0         77",
		"host-1                      0 s ago            2            2          0",
		"NAME            HOST       STATE        CPUv       MEM     OUT/s      IN/s   AGE",
		"web             host-1     running      1.50 512.0 MiB         -         -    1s",
		"db              host-1     ! on 2          -         -         -         -    2h",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// A frame fits every screen, with styles and without.
func TestTopFrameFits(t *testing.T) {
	var many []api.Instance
	for i := range 100 {
		many = append(many, machine(fmt.Sprintf("機械-%03d-with-a-very-long-name-\x1b[31m", i), float64(i), 10))
	}
	a := topSaid(topNow, many...)
	for i := range 20 {
		a.status.Agents = append(a.status.Agents, api.AgentStatus{ID: odometer.AgentID(fmt.Sprint("host-", i))})
		a.status.Conflicts = append(a.status.Conflicts, api.InstanceConflict{Instance: "x", Agents: []odometer.AgentID{"a", "b"}})
	}
	s := newTopState("http://a-server-with-a-name.that.is.quite.long.example:8640", "mem")
	s.take(a)
	s.take(topAnswer{at: topNow, err: errors.New(strings.Repeat("no route ", 40))})
	for _, size := range [][2]int{{80, 24}, {40, 10}, {20, 5}, {1, 1}, {3, 2}, {120, 50}, {200, 400}} {
		for _, color := range []bool{false, true} {
			lines := s.frame(size[0], size[1], color)
			if len(lines) != size[1] {
				t.Errorf("%v: got %d lines, want %d", size, len(lines), size[1])
			}
			for _, l := range lines {
				if ansi.StringWidth(l) > size[0] || strings.Contains(ansi.Strip(l), "\x1b") || !color && strings.Contains(l, "\x1b") {
					t.Errorf("%v: got %q, want at most %d columns and nothing that steers the terminal", size, l, size[0])
				}
			}
		}
	}
	if lines := s.frame(80, 24, false); len(names(lines)) < 5 || !strings.Contains(strings.Join(lines, "\n"), "no answer since") {
		t.Errorf("got\n%s\nwant machines, and that there is no answer", strings.Join(lines, "\n"))
	}
	if wide := strings.Join(s.frame(200, 24, false), "\n"); !strings.Contains(wide, "id-of-") || !strings.Contains(wide, "WRITE/s") {
		t.Error("a wide screen shows no more than a narrow one")
	}
}

func TestTopRates(t *testing.T) {
	s := newTopState("s", "cpu")
	check := func(what string, a topAnswer, want float64, known bool) {
		t.Helper()
		s.take(a)
		got, ok := s.amount(&a.instances.Instances[0], odometer.CPU)
		if ok != known || got < want-0.001 || got > want+0.001 {
			t.Errorf("%s: got %.3f, %v, want %.3f, %v", what, got/odometer.SecondMicros, ok, want, known)
		}
	}
	check("the first look: since the period began", topSaid(topNow, machine("web", 15, 10)), 1.5*odometer.SecondMicros, true)
	check("since the last look", topSaid(topNow, machine("web", 15.5, 11)), 0.5*odometer.SecondMicros, true)
	check("no reading in between", topSaid(topNow, machine("web", 15.5, 11)), 0.5*odometer.SecondMicros, true)
	next := machine("web", 2, 1)
	next.Open[0].Period.Sequence = 2
	check("another period", topSaid(topNow, next), 2*odometer.SecondMicros, true)
	check("nothing is open", topSaid(topNow, machine("web", 0, 0)), 0, false)
	two := machine("web", 1, 1)
	two.Open = append(two.Open, machine("web", 3, 2).Open...)
	two.Open[1].Period.Agent = "host-2"
	check("two periods", topSaid(topNow, two), 2.5*odometer.SecondMicros, true)
	check("one of them is read again", topSaid(topNow, two), 2.5*odometer.SecondMicros, true)

	a := topSaid(topNow.Add(10 * time.Second))
	a.status.Ledger.Entries = 1500
	s.take(a)
	if s.booked != 50 {
		t.Errorf("entries a second: got %.1f, want 50", s.booked)
	}
}

func TestTopSortsAndFilters(t *testing.T) {
	a, b, c := machine("a", 1, 10), machine("b", 9, 10), machine("c", 0, 0)
	b.Agent, c.Agent = "host-0", "host-2"
	c.State, c.Age = odometer.Stopped, nil
	b.Attributes = map[string]string{"rack": "R12"}
	b.User, a.Org = new(odometer.UserID("ada")), new(odometer.OrgID("acme"))
	c.Name, c.Record = "0", &api.InstanceRecord{Name: "c", Labels: map[string]string{"tier": "web"}}
	a.Age = new(int64(9))
	s := newTopState("s", "cpu")
	s.take(topSaid(topNow, a, b, c))
	for _, step := range []struct {
		name string
		keys []string
		want string
	}{
		{"by processor time", nil, "b a c"},
		{"turned round", []string{"r"}, "c a b"},
		{"by memory, where they are alike by name", []string{"r", "s"}, "a b c"},
		{"by what they send, which nobody knows", []string{"s"}, "a b c"},
		{"by name", []string{"s", "s"}, "a b c"},
		{"by host", []string{"s"}, "b a c"},
		{"by state", []string{"s"}, "a b c"},
		{"by age, the oldest first", []string{"s"}, "a b c"},
		{"and from the beginning", []string{"s"}, "b a c"},
		{"an attribute", []string{"/", "r", "a", "c", "k", ":", "r", "1"}, "b"},
		{"and more", []string{"x"}, ""},
		{"corrected", []string{"backspace"}, "b"},
		{"kept, and q quits nothing while it is typed", []string{"enter"}, "b"},
		{"cleared", []string{"esc"}, "b a c"},
		{"several words", []string{"/", "h", "o", "s", "t", "-", "1", " ", "a", "c", "m", "e", "enter"}, "a"},
		{"begun anew", []string{"/", "ctrl+u", "A", "d", "A"}, "b"},
		{"given up", []string{"esc"}, "b a c"},
		{"a label", []string{"/", "t", "i", "e", "r", ":", "w"}, "c"},
		{"given up too", []string{"esc"}, "b a c"},
	} {
		for _, k := range step.keys {
			text := k
			if len(k) > 1 {
				text = ""
			}
			if action := s.key(k, text, 24); action != topNothing {
				t.Errorf("%s: key %q: got action %d, want none", step.name, k, action)
			}
		}
		if got := strings.Join(names(s.frame(80, 24, false)), " "); got != step.want {
			t.Errorf("%s: got %q, want %q", step.name, got, step.want)
		}
	}
	s.key("/", "/", 24)
	if s.key("q", "q", 24) != topNothing || s.filter != "q" {
		t.Errorf("q in the filter: got filter %q", s.filter)
	}
	s.paste("x\x1b\ny")
	if s.filter != "qxy" {
		t.Errorf("pasted: got %q, want what is printable", s.filter)
	}
	if s.key("ctrl+c", "", 24) != topQuit || s.key("ctrl+z", "", 24) != topSuspend {
		t.Error("ctrl+c and ctrl+z are not heard while the filter is typed")
	}
	s.key("esc", "", 24)
	if s.key("q", "q", 24) != topQuit {
		t.Error("q does not quit")
	}
	s.paste("ignored")
	if s.filter != "" {
		t.Errorf("pasted while nothing is typed: got filter %q", s.filter)
	}
}

func TestTopMoves(t *testing.T) {
	var many []api.Instance
	for i := range 50 {
		many = append(many, machine(fmt.Sprintf("vm-%02d", i), 0, 0))
	}
	s := newTopState("s", "name")
	s.take(topSaid(topNow, many...))
	first := func() string { return names(s.frame(80, 24, false))[0] }
	if got := first(); got != "vm-00" {
		t.Fatalf("got %s first", got)
	}
	room := s.room
	for _, step := range []struct{ key, want string }{
		{"down", "vm-01"}, {"up", "vm-00"}, {"up", "vm-00"}, {"pgdown", fmt.Sprintf("vm-%02d", room)}, {"pgup", "vm-00"},
		{"end", fmt.Sprintf("vm-%02d", 50-room)}, {"pgdown", fmt.Sprintf("vm-%02d", 50-room)}, {"home", "vm-00"},
	} {
		s.key(step.key, "", 24)
		if got := first(); got != step.want {
			t.Errorf("%s: got %s first, want %s", step.key, got, step.want)
		}
	}
	s.key("end", "", 24)
	s.take(topSaid(topNow, many[:3]...)) // most of them are gone
	if got := first(); got != "vm-00" {
		t.Errorf("fewer than fit: got %s first, want vm-00", got)
	}
}
