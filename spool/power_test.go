package spool

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"syscall"
	"testing"

	"example.org/odometer/internal/memfs"
)

// long asks for the long form of what is sampled by default: make powercuts.
var long = flag.Bool("long", false, "explore as much as is of use, for some minutes")

// moment is the disk between two calls of a recorded run, and what the agent
// and the ledger know then.
type moment struct {
	op    string // the call that follows
	disk  *memfs.FS
	world *world
}

// record lets a world live and keeps the moment before each of its calls, and
// the last one.
func record(w *world, live func(w *world)) []moment {
	var moments []moment
	w.fs.Before = func(op string, now *memfs.FS) {
		moments = append(moments, moment{op, now, w.fork()})
	}
	live(w)
	w.fs.Before = nil
	return append(moments, moment{"the end", w.fs.Restarted(), w.fork()})
}

// lives are the runs that are recorded. Between them they reach everything that
// a spool does to its directory.
var lives = []struct {
	name  string
	opts  func() Options
	limit int64 // of the disk
	fault func(n int, op string) memfs.Fault
	live  func(w *world)
	// does is what the calls must show, and stats what the spool must say at
	// the end, for the run to prove anything.
	does  []string
	shows func(s Stats) bool
}{
	{
		name: "segments roll, merge, are freed and leave their checkpoints", opts: tight,
		live: func(w *world) { w.must(w.script()) },
		does: []string{
			"create 0", "write 0", "sync 0", "write cursor", "sync cursor", "rename cursor.tmp", "rename checkpoints.tmp",
			"sync checkpoints.tmp", ".seg.tmp to ", "remove 0", "sync directory", "allocate reserve",
		},
		shows: func(s Stats) bool { return s.Coalesced > 0 && s.First > 1 && s.Corrupt == 0 },
	},
	{
		name: "the ledger is restored from a backup, twice", opts: roomy,
		live: func(w *world) {
			w.must(w.start())
			for n := range 6 {
				w.must(w.tick(n))
			}
			w.must(w.deliver(5))
			backup := w.fork()
			for n := range 8 {
				w.must(w.tick(n))
				w.must(w.deliver(2))
			}
			w.restored(backup)
			w.must(w.deliver(4))
			w.must(w.tick(1))
			w.restored(backup)
			w.must(w.deliver(-1))
			w.must(w.tick(2))
			w.must(w.deliver(1))
		},
		does:  []string{"write cursor"},
		shows: func(s Stats) bool { return s.Generation == 3 && s.Corrupt == 0 },
	},
	{
		name: "killed again and again, and started without a power cut", opts: tight,
		live: func(w *world) {
			for life := range 6 {
				w.must(w.start())
				for n := range 3 + life%3 {
					w.must(w.tick(n))
				}
				w.must(w.deliver(3))
				if life%2 == 0 { // in the middle of an append
					n := w.fs.Calls
					w.fs.Fault = func(i int, op string) memfs.Fault {
						if i > n && strings.HasPrefix(op, "sync 0") {
							return memfs.Fault{Kill: true}
						}
						return memfs.Fault{}
					}
					_ = w.tick(life)
				}
				w.fs.Fault, w.fs.Killed = nil, false
				w.must(w.spool.lock.Close())
			}
			w.must(w.start())
			w.must(w.deliver(-1))
		},
		does:  []string{"sync 0", "remove 0"},
		shows: func(s Stats) bool { return s.Corrupt == 0 },
	},
	{
		name: "every few syncs fail: not persisted", opts: tight,
		fault: everyFew(11, "sync", memfs.Fault{Err: errIO}),
		live:  survive,
		does:  []string{"truncate 0", ".seg.tmp to "},
		shows: func(s Stats) bool { return s.Segments > 1 },
	},
	{
		name: "every few syncs fail: persisted", opts: tight,
		fault: everyFew(7, "sync", memfs.Fault{Err: errIO, Effect: true}),
		live:  survive,
		does:  []string{"truncate 0", ".seg.tmp to "},
		shows: func(s Stats) bool { return s.Segments > 1 },
	},
	{
		name: "every few writes fail, some by half", opts: roomy,
		fault: everyFew(4, "write", memfs.Fault{Err: errIO, Effect: true, Partial: true}),
		live:  survive,
		does:  []string{"truncate 0"},
		shows: func(s Stats) bool { return s.Segments > 1 },
	},
	{
		name: "the disk is full, and is not any more", opts: func() Options { o := tight(); o.MaxBytes = 1 << 20; return o }, limit: 40 << 10,
		live: func(w *world) {
			w.must(w.start())
			for n := range 40 {
				_ = w.tick(n)
			}
			w.must(w.deliver(9))
			for n := range 12 {
				_ = w.tick(n)
			}
			w.fs.Limit = 1 << 20
			w.must(w.tick(1))
			w.must(w.deliver(-1))
		},
		does:  []string{"remove reserve", "truncate 0", ".seg.tmp to "},
		shows: func(s Stats) bool { return s.Coalesced > 0 && s.Corrupt == 0 },
	},
}

// someLife is a life by chance: everything that happens to an agent, in an
// order that the seed decides.
func someLife(seed uint64) func(w *world) {
	return func(w *world) {
		r := rand.New(rand.NewPCG(seed, 11))
		starting := func() {
			for w.start() != nil {
			}
		}
		starting()
		for n := range 40 {
			switch k := r.IntN(24); {
			case k < 12:
				_ = w.tick(n)
			case k < 17:
				_ = w.deliver(1 + r.IntN(8))
			case k < 18:
				_ = w.spool.Close()
				starting()
			case k < 20: // killed at some call
				left := r.IntN(12)
				w.fs.Fault = func(int, string) memfs.Fault {
					left--
					return memfs.Fault{Kill: left < 0, Effect: left%2 == 0, Partial: left%4 == 0}
				}
				_, _ = w.tick(n), w.deliver(2)
				w.fs.Fault, w.fs.Killed = nil, false
				_ = w.spool.lock.Close()
				starting()
			case k < 22: // some calls fail
				f := memfs.Fault{Err: []error{errIO, syscall.ENOSPC}[r.IntN(2)], Effect: r.IntN(2) == 0, Partial: r.IntN(2) == 0}
				few := 1 + r.IntN(4)
				w.fs.Fault = everyFew(few, []string{"sync", "write", "create", "rename", "remove", "truncate"}[r.IntN(6)], f)
				_, _, _ = w.tick(n), w.deliver(3), w.tick(n+1)
				w.fs.Fault = nil
			case k < 23: // the disk is full for a while
				w.fs.Limit = int64(20<<10 + r.IntN(20<<10))
				for n := range 5 {
					_ = w.tick(n)
				}
				w.fs.Limit = 0
			default:
				w.restored(w.fork()) // a backup that is up to date
				_ = w.deliver(1)
			}
		}
	}
}

// survive goes on after every error, as an agent does, and restarts once.
func survive(w *world) {
	for w.start() != nil {
	}
	for n := range 16 {
		_ = w.tick(n)
		if n%5 == 4 {
			_ = w.deliver(6)
		}
	}
	_ = w.spool.Close()
	for w.start() != nil {
	}
	for n := range 8 {
		_ = w.tick(n)
	}
	_ = w.deliver(4)
}

func everyFew(few int, prefix string, f memfs.Fault) func(int, string) memfs.Fault {
	n := 0
	return func(_ int, op string) memfs.Fault {
		if strings.HasPrefix(op, prefix) {
			if n++; n%few == 0 {
				return f
			}
		}
		return memfs.Fault{}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.fatalf("%v", err)
	}
}

// recover is the next process after a power cut: it opens what is left, has
// everything that was accepted and receipted, meters on and delivers all.
func (w *world) recover() {
	w.t.Helper()
	if err := w.start(); err != nil {
		w.fatalf("open: %v", err)
	}
	defer w.spool.Close()
	st := w.spool.Stats()
	if st.Acked < w.receipted && st.Generation <= w.acked || st.Generation < w.acked {
		w.fatalf("receipts reach %d of generation %d, %d of %d was acknowledged", st.Acked, st.Generation, w.receipted, w.acked)
	}
	if st.Corrupt > 0 || len(st.Damage) > 0 {
		w.fatalf("%d positions are said to be lost: %v", st.Corrupt, st.Damage)
	}
	for n := range 2 {
		if err := w.tick(n); err != nil {
			w.fatalf("append: %v", err)
		}
	}
	w.settle()
}

// power counts what was examined.
type power struct {
	points, states, again int     // calls, distinct states after them, and after the calls of a recovery
	possible              float64 // states, repeated ones among them
	torn                  int     // of the distinct ones
}

// examine cuts the power at every moment of a recorded run, in every way or in
// the given number of ways, and lets the spool recover. At every so many of the
// states the power is cut again during the recovery.
func (p *power) examine(name string, moments []moment, most, every, most2 int) {
	type seen struct {
		disk uint64
		know string
	}
	done := map[seen]bool{}
	r := rand.New(rand.NewPCG(uint64(len(moments)), 7))
	for i, m := range moments {
		know := fmt.Sprint(m.world.accepted, m.world.acked, m.world.receipted, m.world.generation, m.world.committed)
		p.points++
		for _, sector := range []int{512, 4096} {
			total, k := 0.0, 0
			for disk := range m.disk.Crashes(sector, most, r, &total) {
				k++
				key := seen{disk.Sum(), know}
				if done[key] {
					continue
				}
				done[key] = true
				p.states++
				w := m.world.fork()
				w.fs = disk
				w.name = fmt.Sprintf("%s: power cut before call %d (%s), sector %d, state %d", name, i+1, m.op, sector, k)
				if p.states%every != 0 {
					w.recover()
				} else {
					p.twice(w, most2, r)
				}
				if w.spool.Stats().TornBytes > 0 {
					p.torn++
				}
			}
			p.possible += total
		}
	}
}

// twice recovers, and cuts the power again before every call of the recovery.
func (p *power) twice(w *world, most int, r *rand.Rand) {
	name := w.name
	for i, m := range record(w, (*world).recover) {
		for disk := range m.disk.Crashes(512, most, r, nil) {
			p.again++
			again := m.world.fork()
			again.fs = disk
			again.name = fmt.Sprintf("%s, then another before call %d (%s) of the recovery", name, i+1, m.op)
			again.recover()
		}
	}
}

// The power fails before every call of recorded runs. What is left on the disk
// then is every part of what was not synced, or a sample of the parts where
// there are too many. Whatever is left, everything that was accepted and not
// freed by a receipt is there and is the same, no receipt is forgotten, no
// position is given to two records, and nothing else is read.
func TestPowerCuts(t *testing.T) {
	most, every, most2, seeds := 12, 97, 2, 12
	switch {
	case *long:
		most, every, most2, seeds = 1<<10, 53, 8, 200
	case testing.Short() || raceEnabled:
		most, every, seeds = 6, 41, 2
	}
	var all power
	for _, l := range lives {
		t.Run(l.name, func(t *testing.T) {
			w := newWorld(t, memfs.New(), 3, l.opts())
			w.name, w.fs.Limit, w.fs.Fault = l.name, l.limit, l.fault
			moments := record(w, l.live)
			for _, op := range l.does {
				if !slices.ContainsFunc(w.fs.Log, func(l string) bool { return strings.Contains(l, op) }) {
					t.Errorf("it never does %q: the test would prove nothing of it", op)
				}
			}
			if st := w.spool.Stats(); !l.shows(st) {
				t.Errorf("at the end the spool has %+v", st)
			}
			for i := range moments { // the disk that is left works
				moments[i].disk.Limit = 0
			}
			var p power
			p.examine(l.name, moments, most, every, most2)
			t.Logf("%d points, %d distinct states (of %.3g at most), %d of them with a torn tail, and %d after a second cut", p.points, p.states, p.possible, p.torn, p.again)
			if p.torn == 0 || p.again == 0 || p.states < p.points/2 {
				t.Error("the test proves nothing: too little was left to chance")
			}
			all.points, all.states, all.again, all.possible = all.points+p.points, all.states+p.states, all.again+p.again, all.possible+p.possible
		})
	}
	for seed := range uint64(seeds) {
		name := fmt.Sprintf("seed %d", seed)
		o := tight()
		if seed%2 == 1 {
			o = roomy()
		}
		w := newWorld(t, memfs.New(), 3, o)
		w.name = name
		moments := record(w, someLife(seed))
		for i := range moments {
			moments[i].disk.Limit = 0
		}
		all.examine(name, moments, min(most, 64)/4+1, every, min(most2, 2))
	}
	t.Logf("power cuts: %d points, %d states and %d after a second cut, 0 wrong", all.points, all.states, all.again)
}

// lying is a file system that says of some syncs that they were done, and does
// not do them.
type lying struct {
	*memfs.FS
	about string // prefix of a file's name, "" for the directory
}

func (l lying) SyncDir(dir string) error {
	if l.about == "" {
		return nil
	}
	return l.FS.SyncDir(dir)
}

func (l lying) Create(path string) (File, error) { return l.file(path)(l.FS.Create(path)) }
func (l lying) Append(path string) (File, error) { return l.file(path)(l.FS.Append(path)) }

func (l lying) file(path string) func(File, error) (File, error) {
	return func(f File, err error) (File, error) {
		if name := strings.TrimPrefix(path, testDir+"/"); err == nil && l.about != "" && strings.HasPrefix(name, l.about) {
			return unsynced{f}, nil
		}
		return f, err
	}
}

type unsynced struct{ File }

func (unsynced) Sync() error { return nil }

// violation is what a world says that may fail.
type violation string

type catching struct{ testing.TB }

func (catching) Fatalf(format string, args ...any) { panic(violation(fmt.Sprintf(format, args...))) }

// A spool that leaves out any of its syncs is caught: the test before this one
// can fail.
func TestPowerCutsCatchAMissingSync(t *testing.T) {
	for what, about := range map[string]string{
		"of the directory": "", "of segments": "0", "of the cursor": cursorName, "of the checkpoints": checkpointsName,
	} {
		caught := func() (v violation) {
			defer func() {
				if r := recover(); r != nil {
					v = r.(violation)
				}
			}()
			w := newWorld(catching{t}, memfs.New(), 3, tight())
			w.layer = func(m *memfs.FS) FS { return lying{m, about} }
			moments := record(w, func(w *world) { w.must(w.script()) })
			for i := range moments {
				moments[i].world.layer = nil
			}
			new(power).examine("without syncs "+what, moments, 6, 1<<30, 0)
			return ""
		}()
		if caught == "" {
			t.Errorf("a spool without syncs %s is not caught", what)
		}
		t.Logf("without syncs %s: %s", what, caught)
	}
}
