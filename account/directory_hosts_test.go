package account

import (
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"example.org/odometer"
)

func TestWhatRunsElsewhere(t *testing.T) {
	w := newWorld(t)
	a := vm("a", odometer.Running)
	elsewhere := func(name string, agent odometer.AgentID, want odometer.AgentID) {
		t.Helper()
		if got := w.Elsewhere("a", agent); got != want {
			t.Errorf("%s: for %s it runs with %q, want %q", name, agent, got, want)
		}
	}
	elsewhere("nobody has it", "h1", "")
	w.hear("h1", a)
	elsewhere("its own agent", "h1", "")
	elsewhere("one that tells nothing of it", "h2", "h1")
	w.now = w.now.Add(10 * time.Second)
	w.hear("h2", a)
	elsewhere("one that says so later", "h2", "h1")
	elsewhere("the first", "h1", "")
	w.write(t.Context())
	w.restart()
	elsewhere("after a restart, nobody having spoken", "h2", "h1")
	elsewhere("after a restart, the first", "h1", "")
	w.hear("h2", a)
	elsewhere("after a restart, the other one having spoken", "h2", "h1")
	w.hear("h1", a)
	elsewhere("after a restart, both having spoken", "h2", "h1")
	w.hear("h1", vm("a", odometer.Paused))
	elsewhere("it is paused there", "h2", "")
	w.now = w.now.Add(time.Second)
	w.hear("h1", a)
	elsewhere("it runs there again: the other one is first now", "h2", "")
	elsewhere("it runs there again", "h1", "h2")
	w.Describe("h2", w.now, nil, []odometer.InstanceID{"a"})
	elsewhere("it has left", "h1", "")
	w.after(2*Silence, map[odometer.AgentID][]odometer.Description{"h2": {vm("b", odometer.Running)}})
	elsewhere("its agent is silent", "h2", "")
	w.write(t.Context())
	w.restart()
	elsewhere("after another restart", "h2", "h1")
	w.after(2*Silence, map[odometer.AgentID][]odometer.Description{"h2": {vm("b", odometer.Running)}})
	elsewhere("its agent has not spoken since", "h2", "")
}

func TestWhatAnAgentHas(t *testing.T) {
	w := newWorld(t)
	a, b := vm("a", odometer.Running), vm("b", odometer.Running)
	check := func(name string, agent odometer.AgentID, all bool, want ...odometer.InstanceID) (moves uint64) {
		t.Helper()
		got, moves, whole := w.Held(agent)
		slices.Sort(got)
		if !slices.Equal(got, want) || whole != all || moves != w.Moves(agent) {
			t.Errorf("%s: got %q, all %v, want %q, all %v", name, got, whole, want, all)
		}
		return moves
	}
	check("one that nobody heard", "h1", false)
	w.hear("h1", a, b)
	first := check("the first word", "h1", false, "a", "b")
	w.hear("h1", a, b)
	if again := check("the same once more", "h1", false, "a", "b"); again != first {
		t.Error("nothing came or went, and it is told")
	}
	w.after(40*time.Second, map[odometer.AgentID][]odometer.Description{"h1": {a, b}})
	check("a while later", "h1", true, "a", "b")
	w.hear("h2", b)
	check("what runs elsewhere", "h2", false)
	if got := w.Holders("b"); len(got) != 2 {
		t.Errorf("got %q, want both that say they have it", got)
	}
	w.Describe("h1", w.now, nil, []odometer.InstanceID{"b"})
	if again := check("one has left", "h1", true, "a"); again == first {
		t.Error("one has left, and it is not told")
	}
	check("it is here now", "h2", false, "b")
	w.write(t.Context())
	w.restart()
	check("after a restart", "h1", true, "a")
	if got := w.Holders("b"); !slices.Equal(got, []odometer.AgentID{"h2"}) {
		t.Errorf("got %q, want who has it", got)
	}
}

// TestSinceWhenAnAttributeHasItsValue follows one through changes, and through a file of
// version 1, which did not say it.
func TestSinceWhenAnAttributeHasItsValue(t *testing.T) {
	w := newWorld(t)
	began := w.now
	check := func(name, value string, since time.Time, first bool) {
		t.Helper()
		got, was, err := w.Since(t.Context(), "a", name, value)
		if err != nil || !got.Equal(since) || was != first {
			t.Errorf("%s = %s: got %v, %v, %v, want %v, %v", name, value, got, was, err, since, first)
		}
	}
	none := func(name, value string) {
		t.Helper()
		if _, _, err := w.Since(t.Context(), "a", name, value); !errors.Is(err, odometer.ErrNotFound) {
			t.Errorf("%s = %s: got %v, want none", name, value, err)
		}
	}
	none("project", "p")
	w.hear("h1", vm("a", odometer.Running, "project", "p", "rack", "r1"))
	w.write(t.Context())
	w.now = w.now.Add(time.Hour)
	w.hear("h1", vm("a", odometer.Running, "project", "p", "rack", "r2"))
	w.write(t.Context())
	check("project", "p", began, true)
	check("rack", "r2", began.Add(time.Hour), false)
	none("rack", "r1")
	w.hear("h1", vm("a", odometer.Running, "rack", "r2"))
	w.write(t.Context())
	none("project", "p")

	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+w.path)
	if err == nil {
		_, err = db.Exec(`ALTER TABLE attributes DROP COLUMN since_us; ALTER TABLE agents DROP COLUMN interval_us; UPDATE meta SET value = '1' WHERE key = 'schema_version'`)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	check("rack", "r2", began, true) // as far as is known
}

// TestAnAgentsInterval: what an agent says is kept over a restart.
func TestAnAgentsInterval(t *testing.T) {
	w := newWorld(t)
	check := func(agent odometer.AgentID, want time.Duration) {
		t.Helper()
		if got := w.Interval(agent); got != want {
			t.Errorf("%s: got %v, want %v", agent, got, want)
		}
	}
	check("h1", 0)
	w.hear("h1", vm("a", odometer.Running))
	check("h1", 0) // an agent of before
	w.SetInterval("h1", 5*time.Second)
	w.hear("h2", vm("b", odometer.Running))
	w.write(t.Context())
	w.now = w.now.Add(time.Second)
	w.hear("h1")
	w.SetInterval("h1", time.Second) // it was started anew, with another
	w.write(t.Context())
	w.restart()
	check("h1", time.Second)
	check("h2", 0)

	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	db, err := sql.Open("sqlite", "file:"+w.path)
	if err == nil {
		_, err = db.Exec(`ALTER TABLE agents DROP COLUMN interval_us; UPDATE meta SET value = '2' WHERE key = 'schema_version'`)
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	w.open()
	check("h1", 0) // nobody has said it yet
	w.hear("h1")
	w.SetInterval("h1", time.Second)
	check("h1", time.Second)
}
