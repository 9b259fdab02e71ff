package account

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

// world is a directory whose clock stands still between steps.
type world struct {
	*Directory
	t    *testing.T
	path string
	now  time.Time
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, path: filepath.Join(t.TempDir(), "directory.db"), now: time.Date(2026, 1, 2, 15, 0, 0, 0, time.UTC)}
	w.open()
	t.Cleanup(func() { w.Close() })
	return w
}

func (w *world) open() {
	w.t.Helper()
	d, err := Open(w.t.Context(), Options{Path: w.path, Clock: func() time.Time { return w.now }})
	if err != nil {
		w.t.Fatal(err)
	}
	w.Directory = d
}

// restart opens the directory again, as after a crash.
func (w *world) restart() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

func vm(instance odometer.InstanceID, state odometer.State, attributes ...string) odometer.Description {
	v := odometer.VM{Instance: instance, Name: "name-of-" + string(instance), Source: "qemu", State: state, VCPUs: 2, Memory: 1 << 30}
	for i := 0; i < len(attributes); i += 2 {
		if v.Attributes == nil {
			v.Attributes = map[string]string{}
		}
		v.Attributes[attributes[i]] = attributes[i+1]
	}
	return odometer.Describe(&v)
}

// hear tells what an agent has at this moment.
func (w *world) hear(agent odometer.AgentID, vms ...odometer.Description) {
	w.Describe(agent, w.now, vms, nil)
}

// after lets time pass in which the agents go on telling what they have.
func (w *world) after(d time.Duration, has map[odometer.AgentID][]odometer.Description) {
	for end := w.now.Add(d); w.now.Before(end); {
		w.now = w.now.Add(10 * time.Second)
		for agent, vms := range has {
			w.hear(agent, vms...)
		}
		w.sweep(w.now)
	}
}

// find returns the instances of a query as "id@agent status".
func (w *world) find(q Query) []string {
	w.t.Helper()
	list, err := w.Instances(w.t.Context(), q)
	if err != nil {
		w.t.Fatal(err)
	}
	found := []string{}
	for _, i := range list {
		found = append(found, fmt.Sprintf("%s@%s %s", i.Instance, i.Agent, i.Status()))
	}
	return found
}

func (w *world) finds(q Query, want ...string) {
	w.t.Helper()
	if got := w.find(q); !slices.Equal(got, want) {
		w.t.Errorf("%+v: got %q, want %q", q, got, want)
	}
}

func TestWhatAgentsTellIsFound(t *testing.T) {
	w := newWorld(t)
	w.hear("h1", vm("a", odometer.Running, "rack", "r1", "team", "x"), vm("b", odometer.Stopped, "rack", "r2"))
	w.hear("h2", vm("c", odometer.Paused, "rack", "r1"))
	w.finds(Query{}, "a@h1 running", "b@h1 stopped", "c@h2 paused")
	w.finds(Query{Agent: "h1"}, "a@h1 running", "b@h1 stopped")
	w.finds(Query{Status: "paused"}, "c@h2 paused")
	w.finds(Query{Name: "name-of-b"}, "b@h1 stopped")
	w.finds(Query{Attribute: "rack", Value: "r1"}, "a@h1 running", "c@h2 paused")
	w.finds(Query{Attribute: "rack", Value: "r1", Agent: "h2"}, "c@h2 paused")
	w.finds(Query{Attribute: "x", Value: "team"})
	w.finds(Query{Instance: "b"}, "b@h1 stopped")
	w.finds(Query{Instance: "z"})
	w.finds(Query{Limit: 2}, "a@h1 running", "b@h1 stopped")
	w.finds(Query{Limit: 2, After: "b"}, "c@h2 paused")

	list, err := w.Instances(t.Context(), Query{Instance: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if a := list[0]; !a.First.Equal(w.now) || !a.Described.Equal(w.now) || *a.VCPUs != 2 || a.Attributes["team"] != "x" || a.Conflict != nil || len(a.Others) != 0 {
		t.Errorf("got %+v, want what was told", a)
	}
	w.hear("h1", vm("a", odometer.Running, "rack", "r9")) // changed: the other attribute is gone
	w.finds(Query{Attribute: "team", Value: "x"})
	w.finds(Query{Attribute: "rack", Value: "r9"}, "a@h1 running")
}

func TestMoreThanOneBatchIsFound(t *testing.T) {
	w := newWorld(t)
	var vms []odometer.Description
	for i := range 2*batch + 1 {
		vms = append(vms, vm(odometer.InstanceID(fmt.Sprintf("i%05d", i)), odometer.Running, "odd", fmt.Sprint(i%2)))
	}
	w.hear("h", vms...)
	if got := w.find(Query{}); len(got) != 2*batch+1 || !slices.IsSorted(got) {
		t.Errorf("got %d instances, sorted %v, want all in order", len(got), slices.IsSorted(got))
	}
	if got := w.find(Query{Status: "running", Limit: batch + 7}); len(got) != batch+7 {
		t.Errorf("got %d, want %d", len(got), batch+7)
	}
	if got := w.find(Query{Attribute: "odd", Value: "1"}); len(got) != batch {
		t.Errorf("got %d odd ones, want %d", len(got), batch)
	}
}

// What becomes of instances, step by step.
func TestTheLifeOfAnInstance(t *testing.T) {
	has := func(vms ...odometer.Description) map[odometer.AgentID][]odometer.Description {
		return map[odometer.AgentID][]odometer.Description{"h": vms}
	}
	a, b := vm("a", odometer.Running), vm("b", odometer.Running)
	for _, c := range []struct {
		name  string
		steps func(w *world)
		want  []string
	}{
		{"its agent says that it is gone", func(w *world) {
			w.hear("h", a, b)
			w.Describe("h", w.now, nil, []odometer.InstanceID{"a"})
		}, []string{"a@h gone", "b@h running"}},
		{"its agent is heard and leaves it out", func(w *world) {
			w.hear("h", a, b)
			w.after(5*time.Minute, has(b))
		}, []string{"a@h gone", "b@h running"}},
		{"its agent leaves it out for a short time", func(w *world) {
			w.hear("h", a, b)
			w.after(2*time.Minute, has(b))
		}, []string{"a@h running", "b@h running"}},
		{"its agent is silent", func(w *world) {
			w.hear("h", a, b)
			w.after(time.Hour, nil)
		}, []string{"a@h unobserved", "b@h unobserved"}},
		{"its agent was silent and has come back without it a minute ago", func(w *world) {
			w.hear("h", a, b)
			w.after(time.Hour, nil)
			w.after(time.Minute, has(b))
		}, []string{"a@h running", "b@h running"}},
		{"its agent was silent and has come back without it long ago", func(w *world) {
			w.hear("h", a, b)
			w.after(time.Hour, nil)
			w.after(5*time.Minute, has(b))
		}, []string{"a@h gone", "b@h running"}},
		{"it comes back", func(w *world) {
			w.hear("h", a)
			w.Describe("h", w.now, nil, []odometer.InstanceID{"a"})
			w.write(t.Context())
			w.after(time.Minute, has(a))
		}, []string{"a@h running"}},
		{"the server starts again and hears nobody", func(w *world) {
			w.hear("h", a)
			w.write(t.Context())
			w.restart()
		}, []string{"a@h unobserved"}},
		{"the server starts again and it has gone meanwhile", func(w *world) {
			w.hear("h", a, b)
			w.write(t.Context())
			w.restart()
			w.after(5*time.Minute, has(b))
			w.write(t.Context())
			w.restart()
			w.hear("h")
		}, []string{"a@h gone", "b@h running"}},
		{"it moves", func(w *world) {
			w.hear("h", a)
			w.Describe("h", w.now, nil, []odometer.InstanceID{"a"})
			w.hear("h2", a)
		}, []string{"a@h2 running"}},
		{"it moves from a host that is dead", func(w *world) {
			w.hear("h", a)
			w.after(5*time.Minute, nil)
			w.hear("h2", a)
		}, []string{"a@h2 running"}},
		{"nobody has described it for longer than anything is kept", func(w *world) {
			w.hear("h", a)
			w.write(t.Context())
			w.now = w.now.Add(Kept + time.Hour)
			w.expire(t.Context())
		}, []string{}},
		{"it is there for longer than anything is kept", func(w *world) {
			w.hear("h", a)
			w.write(t.Context())
			w.now = w.now.Add(Kept + time.Hour)
			w.hear("h", a)
			w.write(t.Context())
			w.expire(t.Context())
		}, []string{"a@h running"}},
		{"more have gone than are remembered", func(w *world) {
			w.maxGone = 2
			w.hear("h", a, b, vm("c", odometer.Running), vm("d", odometer.Running))
			w.hear("h2", vm("e", odometer.Running))
			w.Describe("h2", w.now, nil, []odometer.InstanceID{"e"})
			for _, id := range []odometer.InstanceID{"c", "a", "b"} {
				w.now = w.now.Add(time.Second)
				w.Describe("h", w.now, nil, []odometer.InstanceID{id})
			}
			w.write(t.Context())
			w.expire(t.Context())
		}, []string{"a@h gone", "b@h gone", "d@h running", "e@h2 gone"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.steps(w)
			w.finds(Query{}, c.want...)
			if n := len(w.Conflicts()); n != 0 {
				t.Errorf("got %d conflicts, want none", n)
			}
		})
	}
}

func TestOneInstanceOnTwoHostsIsAConflict(t *testing.T) {
	w := newWorld(t)
	a := vm("a", odometer.Running)
	w.hear("h2", a)
	w.after(20*time.Second, map[odometer.AgentID][]odometer.Description{"h2": {a}})
	since := w.now
	w.hear("h1", a, vm("b", odometer.Running))
	conflicts := w.Conflicts()
	if len(conflicts) != 1 || conflicts[0].Instance != "a" || !slices.Equal(conflicts[0].Agents, []odometer.AgentID{"h2", "h1"}) || !conflicts[0].Since.Equal(since) {
		t.Fatalf("got %+v, want one of a at h2 and h1", conflicts)
	}
	w.finds(Query{}, "a@h2 running", "b@h1 running")
	w.finds(Query{Agent: "h1"}, "a@h2 running", "b@h1 running") // it is there too
	list, err := w.Instances(t.Context(), Query{Instance: "a"})
	if err != nil || list[0].Conflict == nil || len(list[0].Others) != 1 || list[0].Others[0].Agent != "h1" {
		t.Errorf("got %+v, %v, want the other one named", list, err)
	}
	for _, c := range []struct {
		name string
		step func()
	}{
		{"one of them is stopped", func() { w.hear("h2", vm("a", odometer.Stopped)) }},
		{"one of them is gone", func() { w.Describe("h2", w.now, nil, []odometer.InstanceID{"a"}) }},
	} {
		c.step()
		if n := len(w.Conflicts()); n != 0 {
			t.Errorf("%s: got %d conflicts, want none", c.name, n)
		}
		w.finds(Query{Instance: "a"}, "a@h1 running")
		w.hear("h2", a)
		if n := len(w.Conflicts()); n != 1 {
			t.Errorf("after %s: got %d conflicts, want the one that is there again", c.name, n)
		}
	}
	w.after(2*Silence, map[odometer.AgentID][]odometer.Description{"h1": {a}})
	if n := len(w.Conflicts()); n != 0 {
		t.Errorf("one of them is silent: got %d conflicts, want none", n)
	}
}

func TestWhatIsNotValidIsLeftOut(t *testing.T) {
	w := newWorld(t)
	bad := vm("bad", "flying")
	w.hear("h", vm("a", odometer.Running), bad)
	w.finds(Query{}, "a@h running")
	if got := w.Stats(); got.Ignored != 1 || got.Instances != 1 {
		t.Errorf("got %+v, want one instance and one ignored", got)
	}
	var many []odometer.Description
	for i := range MaxInstances + 5 {
		many = append(many, vm(odometer.InstanceID(fmt.Sprint("m", i)), odometer.Running))
	}
	w.hear("h", many...)
	if got := w.Stats(); got.Instances != MaxInstances || got.Ignored != 7 {
		t.Errorf("a host with too many: got %d instances and %d ignored, want %d and 7", got.Instances, got.Ignored, MaxInstances)
	}
}

// Run writes what it is told within a second, and the last of it at its end.
func TestRunWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "directory.db")
	synctest.Test(t, func(t *testing.T) {
		d, err := Open(t.Context(), Options{Path: path})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- d.Run(ctx) }()
		d.Describe("h", time.Now(), []odometer.Description{vm("a", odometer.Running)}, nil)
		time.Sleep(writeEvery + time.Millisecond)
		synctest.Wait()
		if got := d.Stats(); got.Pending != 0 {
			t.Errorf("after a second: got %d changes waiting, want none", got.Pending)
		}
		d.Describe("h", time.Now(), []odometer.Description{vm("b", odometer.Running)}, []odometer.InstanceID{"a"})
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, path: path, now: time.Now()}
	w.open()
	defer w.Close()
	w.hear("h")
	w.finds(Query{}, "a@h gone", "b@h running")
}

// A file that takes nothing is named, delays nobody, and is written when it
// takes something again.
func TestAFileThatCannotBeWritten(t *testing.T) {
	w := newWorld(t)
	w.hear("h", vm("a", odometer.Running))
	w.write(t.Context())
	refuse := func(on bool) {
		t.Helper()
		query := `DROP TRIGGER refuse`
		if on {
			query = `CREATE TRIGGER refuse BEFORE INSERT ON claims BEGIN SELECT RAISE(ABORT, 'no room'); END`
		}
		if _, err := w.db.Exec(query); err != nil {
			t.Fatal(err)
		}
	}
	refuse(true)
	w.hear("h", vm("a", odometer.Paused), vm("b", odometer.Running))
	w.finds(Query{}, "a@h running") // as it was written last
	if got := w.Stats(); !strings.Contains(got.Err, "no room") || got.Pending != 2 {
		t.Errorf("got %+v, want why, and two changes waiting", got)
	}
	w.Describe("h", w.now, nil, []odometer.InstanceID{"b"}) // meanwhile
	refuse(false)
	w.write(t.Context()) // as Run does each second
	w.finds(Query{}, "a@h paused", "b@h gone")
	if got := w.Stats(); got.Err != "" || got.Pending != 0 {
		t.Errorf("got %+v, want everything written", got)
	}
}

func TestFilesThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, path string)
		want   error
	}{
		{"another kind of file", func(t *testing.T, path string) { put(t, path, 0, strings.Repeat("no database ", 1000)) }, ErrDamaged},
		{"pages that are overwritten", func(t *testing.T, path string) { put(t, path, 4096, strings.Repeat("x", 8192)) }, ErrDamaged},
		{"tables of something else", func(t *testing.T, path string) { change(t, path, `DROP TABLE meta`) }, ErrDamaged},
		{"no version", func(t *testing.T, path string) { change(t, path, `UPDATE meta SET value = 'x'`) }, ErrDamaged},
		{"a newer version", func(t *testing.T, path string) { change(t, path, `UPDATE meta SET value = '99'`) }, ErrNewer},
		{"a directory in its place", func(t *testing.T, path string) {
			os.Remove(path)
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.hear("h", vm("a", odometer.Running))
			w.write(t.Context())
			w.Close()
			c.damage(t, w.path)
			d, err := Open(t.Context(), Options{Path: w.path})
			if err == nil {
				d.Close()
			}
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), w.path) {
				t.Errorf("got %v, want an error wrapping %v that names the file", err, c.want)
			}
		})
	}
}

func put(t *testing.T, path string, at int64, text string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(text), at); err != nil {
		t.Fatal(err)
	}
}

func change(t *testing.T, path, query string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.Exec(query); err != nil {
		t.Fatal(err)
	}
}

// Several goroutines tell, ask and write at once; the race detector looks on.
func TestUsedAtOnce(t *testing.T) {
	d, err := Open(t.Context(), Options{Path: filepath.Join(t.TempDir(), "directory.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 4)
	go func() { done <- d.Run(ctx) }()
	for n := range 2 {
		go func() {
			agent := odometer.AgentID(fmt.Sprint("h", n))
			for i := range 200 {
				d.Describe(agent, time.Now(), []odometer.Description{vm("a", odometer.Running, "n", fmt.Sprint(i))}, nil)
			}
			done <- nil
		}()
	}
	go func() {
		var err error
		for range 20 {
			_, e := d.Instances(ctx, Query{})
			d.Conflicts()
			d.Stats()
			err = errors.Join(err, e)
		}
		done <- err
	}()
	for range 3 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if n := len(d.Conflicts()); n != 1 {
		t.Errorf("got %d conflicts, want 1", n)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
