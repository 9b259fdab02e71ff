package inventory

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

// stage is a source that lists what it is told to.
type stage struct {
	name string
	told chan odometer.Change

	mu    sync.Mutex
	vms   []odometer.VM
	err   error
	hangs chan struct{} // a list waits until it is closed
	asked int
}

func (s *stage) Name() string                 { return s.name }
func (s *stage) Told() <-chan odometer.Change { return s.told }
func (s *stage) Close() error                 { return nil }

func (s *stage) SeesEnds() bool { return s.name == "processes" }

func (s *stage) List(context.Context) ([]odometer.VM, error) {
	s.mu.Lock()
	s.asked++
	hangs := s.hangs
	s.mu.Unlock()
	if hangs != nil {
		<-hangs
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.vms), s.err
}

func (s *stage) set(vms ...odometer.VM) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.vms = vms
}

func (s *stage) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *stage) hang() (release func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := make(chan struct{})
	s.hangs = wait
	return func() {
		s.mu.Lock()
		s.hangs = nil
		s.mu.Unlock()
		close(wait)
	}
}

// theatre watches two sources, one that is as libvirt and one as processes,
// on fake time: second 1000 of the boot is its beginning.
type theatre struct {
	t         *testing.T
	begin     time.Time
	libvirt   *stage
	processes *stage
	watch     *Watch
	begins    func()

	mu      sync.Mutex
	changes []odometer.Change
	vms     []odometer.VM
	calls   int
}

func (th *theatre) Now() odometer.Moment {
	d := time.Since(th.begin).Microseconds()
	return odometer.Moment{Boot: moment(1000).Boot + d, Wall: moment(1000).Wall + d}
}

func perform(t *testing.T, act func(*theatre)) {
	synctest.Test(t, func(t *testing.T) {
		th := &theatre{t: t, begin: time.Now(),
			libvirt:   &stage{name: "libvirt", told: make(chan odometer.Change, 9)},
			processes: &stage{name: "processes", told: make(chan odometer.Change, 9)}}
		th.watch = NewWatch(WatchOptions{
			Sources: []Watched{{Source: th.libvirt, Every: 10 * time.Second, Timeout: 4 * time.Second}, {Source: th.processes, Every: time.Second}},
			Agent:   "host-1", Clock: th, Changed: th.changed,
		})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		th.begins = sync.OnceFunc(func() { go func() { done <- th.watch.Run(ctx) }() })
		act(th)
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: got %v", err)
		}
	})
}

func (th *theatre) changed(vms []odometer.VM, changes []odometer.Change) {
	th.mu.Lock()
	defer th.mu.Unlock()
	th.vms, th.changes = vms, append(th.changes, changes...)
	th.calls++
}

// pass lets time pass; with the first of it the watch begins.
func (th *theatre) pass(d time.Duration) {
	th.begins()
	time.Sleep(d)
	synctest.Wait()
}

// want compares what was told since the last look.
func (th *theatre) want(what, changes string) {
	th.t.Helper()
	th.mu.Lock()
	defer th.mu.Unlock()
	if got := changesText(th.changes); got != changes {
		th.t.Errorf("%s: got\n%s\nwant\n%s", what, got, changes)
	}
	th.changes = nil
}

func (th *theatre) is(want string) {
	th.t.Helper()
	var got []string
	for _, v := range th.watch.List() {
		got = append(got, fmt.Sprintf("%s %s", v.Instance, v.State))
	}
	if s := strings.Join(got, ", "); s != want {
		th.t.Errorf("got machines %s, want %s", s, want)
	}
}

func asDomain(v odometer.VM) odometer.VM { v.Source = "libvirt"; return v }

func TestWatchTellsWhatHappens(t *testing.T) {
	perform(t, func(th *theatre) {
		th.libvirt.set(asDomain(running("a", 7, 500)), with(asDomain(running("off", 0, 0)), stopped))
		th.processes.set(running("a", 7, 500), running("p", 8, 600))
		th.pass(time.Millisecond)
		th.want("the first look", "a found at 1000\noff defined at 1000\np found at 1000")
		th.is("a running, off stopped, p running")
		th.pass(30 * time.Second)
		th.want("nothing happens", "")
		if th.calls != 1 {
			t.Errorf("nothing happened and it was told %d times", th.calls-1)
		}
		th.processes.set(running("a", 7, 500), running("q", 9, 1030))
		th.pass(2 * time.Second)
		th.want("one comes and one goes", "q started at 1030\np stopped at 1031")
		th.is("a running, off stopped, q running")
		// A list that is later than another decides.
		asked := th.libvirt.asked
		th.libvirt.set(asDomain(running("a", 7, 500)), asDomain(running("off", 11, 1031)))
		th.processes.set(running("a", 7, 500), running("q", 9, 1030), running("off", 11, 1031))
		th.pass(10 * time.Second) // and nobody tells more of it
		th.want("what was defined starts", "off started at 1031")
		if th.libvirt.asked == asked {
			t.Error("libvirt was not asked when processes came")
		}
	})
}

func TestWatchGoesOnWithoutASourceThatHangs(t *testing.T) {
	perform(t, func(th *theatre) {
		release := th.libvirt.hang()
		th.processes.set(running("a", 7, 500))
		th.pass(4 * time.Second)
		th.want("while libvirt may be slow", "")
		th.pass(2 * time.Second)
		th.want("when it is late", "a found at 1005")
		th.processes.set()
		th.pass(2 * time.Second)
		th.want("while it hangs", "a stopped at 1007")
		st := th.watch.Status()
		if st[0].OK || !strings.Contains(st[0].Problem, "not answered for 5s") || st[0].Age != -1 || !st[1].OK || st[1].Age > time.Second || st[1].VMs != 0 {
			t.Errorf("got status %+v", st)
		}
		if th.libvirt.asked != 1 {
			t.Errorf("what hangs was asked %d times", th.libvirt.asked)
		}
		th.libvirt.set(with(asDomain(running("b", 0, 0)), stopped))
		release()
		th.pass(time.Second)
		th.want("when it answers", "b defined at 1008")
		if st := th.watch.Status(); !st[0].OK || st[0].VMs != 1 {
			t.Errorf("got status %+v", st)
		}
	})
}

func TestWatchKeepsWhatASourceSaid(t *testing.T) {
	perform(t, func(th *theatre) {
		th.libvirt.set(asDomain(running("a", 7, 500)))
		th.pass(time.Second)
		th.libvirt.fail(errors.New("no libvirt"))
		th.libvirt.set()
		th.pass(30 * time.Second)
		th.want("while it fails", "a found at 1000")
		th.is("a running")
		if st := th.watch.Status()[0]; st.OK || st.Problem != "no libvirt" || st.VMs != 1 || st.Age < 25*time.Second {
			t.Errorf("got status %+v", st)
		}
		th.libvirt.fail(nil)
		th.pass(16 * time.Second)
		th.want("when it answers", "a stopped at 1040")
	})
}

func TestWatchTakesKindAndMomentFromWhoHears(t *testing.T) {
	at := func(s, ms int64) odometer.Moment {
		m := moment(s)
		return odometer.Moment{Boot: m.Boot + ms*1000, Wall: m.Wall + ms*1000}
	}
	end := odometer.Change{Instance: "a", Kind: odometer.ChangeCrashed, Detail: "killed by signal 9"}
	for _, c := range []struct {
		name string
		act  func(th *theatre)
		want string
	}{
		{"a process is killed", func(th *theatre) {
			th.libvirt.set()
			th.pass(11 * time.Second)
			th.changes = nil
			th.processes.set()
			end.At = th.Now()
			th.processes.told <- end
			th.pass(400 * time.Millisecond)
		}, "a crashed at 1012 killed by signal 9"},
		{"a domain is destroyed: libvirt knows why, the process when", func(th *theatre) {
			th.processes.set()
			end.At = th.Now()
			th.processes.told <- end
			th.pass(20 * time.Millisecond)
			th.libvirt.set(with(asDomain(running("a", 0, 0)), stopped))
			th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeStopped, Detail: "destroyed", At: th.Now()}
			th.pass(400 * time.Millisecond)
		}, "a stopped at 1001 destroyed; killed by signal 9"},
		{"libvirt hears of it first", func(th *theatre) {
			th.libvirt.set(with(asDomain(running("a", 0, 0)), stopped))
			th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeMoved, Detail: "to another host", At: th.Now()}
			th.pass(100 * time.Millisecond)
			th.processes.set()
			end.At = th.Now()
			th.processes.told <- end
			th.pass(15 * time.Second)
		}, "a moved at 1001 to another host; killed by signal 9"},
		{"libvirt hangs when the process ends", func(th *theatre) {
			release := th.libvirt.hang()
			th.processes.set()
			end.At = th.Now()
			th.processes.told <- end
			th.pass(10 * time.Second)
			release()
		}, "a crashed at 1001 killed by signal 9"},
		{"what the list showed is told late", func(th *theatre) {
			th.libvirt.set()
			th.processes.set()
			th.pass(12 * time.Second)
			end.At = at(1001, 500)
			th.libvirt.told <- end
			th.pass(12 * time.Second)
		}, "a stopped at 1002"},
		{"a reboot shows in no list", func(th *theatre) {
			th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeRebooted, At: th.Now()}
			th.pass(time.Second)
		}, "a rebooted at 1001"},
		{"firmware resets several times in a reboot", func(th *theatre) {
			for range 3 {
				th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeRebooted, At: th.Now()}
				th.pass(50 * time.Millisecond)
			}
		}, "a rebooted at 1001"},
		{"a machine reboots all the time", func(th *theatre) {
			for range 18 {
				th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeRebooted, At: th.Now()}
				th.pass(10 * time.Second)
			}
		}, "a rebooted at 1001\na rebooted at 1051 the last of 5 since the one before\na rebooted at 1111 the last of 6 since the one before\n" +
			"a rebooted at 1171 the last of 6 since the one before"},
		{"a machine reboots some times and ends", func(th *theatre) {
			for range 3 {
				th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeRebooted, At: th.Now()}
				th.pass(10 * time.Second)
			}
			th.libvirt.set(with(asDomain(running("a", 0, 0)), stopped))
			th.processes.set()
			end.At = th.Now()
			th.processes.told <- end
			th.pass(20 * time.Second)
		}, "a rebooted at 1001\na rebooted at 1021 the last of 2 since the one before\na crashed at 1031 killed by signal 9"},
		{"a machine reboots twice", func(th *theatre) {
			for range 2 {
				th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeRebooted, At: th.Now()}
				th.pass(30 * time.Second)
			}
			th.pass(2 * time.Minute)
		}, "a rebooted at 1001\na rebooted at 1031"},
		{"libvirt takes long to find out why", func(th *theatre) {
			th.processes.set()
			end.At = th.Now()
			th.processes.told <- end
			th.pass(time.Second)
			th.libvirt.fail(errors.New("libvirt does not answer"))
			th.pass(2 * time.Second)
			th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeCrashed, Detail: "its hypervisor failed", At: th.Now()}
			th.pass(time.Second)
		}, "a crashed at 1001 its hypervisor failed; killed by signal 9"},
		{"what was told of the start is not told of something later", func(th *theatre) {
			th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeResumed, At: th.Now()}
			th.pass(time.Second)
			th.libvirt.set(with(asDomain(running("a", 7, 500)), paused))
			th.pass(12 * time.Second)
			th.libvirt.set(asDomain(running("a", 7, 500)))
			th.pass(12 * time.Second)
		}, "a paused at 1011\na resumed at 1021"},
		{"a machine lives between two lists", func(th *theatre) {
			th.libvirt.told <- odometer.Change{Instance: "s", Kind: odometer.ChangeStarted, At: th.Now()}
			th.libvirt.told <- odometer.Change{Instance: "s", Kind: odometer.ChangeStopped, At: at(1001, 500)}
			th.pass(20 * time.Second)
		}, "s started at 1001\ns stopped at 1001"},
		{"a pause and a resume", func(th *theatre) {
			th.libvirt.set(with(asDomain(running("a", 7, 500)), paused))
			th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangePaused, Detail: "by an I/O error", At: th.Now()}
			th.pass(2 * time.Second)
			th.libvirt.set(asDomain(running("a", 7, 500)))
			th.libvirt.told <- odometer.Change{Instance: "a", Kind: odometer.ChangeResumed, At: th.Now()}
			th.pass(2 * time.Second)
		}, "a paused at 1001 by an I/O error\na resumed at 1003"},
		{"only a reason to look", func(th *theatre) {
			th.libvirt.set(with(asDomain(running("a", 7, 500)), func(v *odometer.VM) { v.VCPUs = 8 }))
			th.libvirt.told <- odometer.Change{Instance: "a", At: th.Now()}
			th.pass(100 * time.Millisecond)
		}, "a resized at 1001 2 to 8 vCPUs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			perform(t, func(th *theatre) {
				th.libvirt.set(asDomain(running("a", 7, 500)))
				th.processes.set(running("a", 7, 500))
				th.pass(time.Millisecond)
				th.pass(time.Second)
				th.changes = nil
				c.act(th)
				synctest.Wait()
				th.want(c.name, c.want)
			})
		})
	}
}

func TestWatchFlagsOneUUIDTwice(t *testing.T) {
	perform(t, func(th *theatre) {
		th.libvirt.set(asDomain(running("a", 7, 500)))
		th.processes.set(running("a", 7, 500), with(running("a", 9, 700), func(v *odometer.VM) { v.Name = "copy" }))
		th.pass(time.Second)
		th.is("a running, host-1:copy running")
		want := []string{"two machines claim the identity a: process 7 keeps it, process 9 (copy) is metered as host-1:copy"}
		if got := th.watch.Problems(); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		th.processes.set(running("a", 7, 500))
		th.pass(time.Second)
		if got := th.watch.Problems(); len(got) != 0 {
			t.Errorf("it has ended: got %q", got)
		}
	})
}

// TestWatchARealProcess watches this host while a machine starts and is killed.
func TestWatchARealProcess(t *testing.T) {
	p := realProcesses(t)
	changes := make(chan odometer.Change, 100)
	name := fmt.Sprintf("watched-%d", os.Getpid())
	w := NewWatch(WatchOptions{Sources: []Watched{{Source: p, Every: 100 * time.Millisecond}}, Agent: "host-1", Clock: realClock{},
		Changed: func(_ []odometer.VM, list []odometer.Change) {
			for _, c := range list {
				if string(c.Instance) == "host-1:"+name {
					changes <- c
				}
			}
		}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- w.Run(ctx) }()
	defer func() { cancel(); <-done }()
	for len(w.Status()) == 0 || !w.Status()[0].OK {
		time.Sleep(time.Millisecond)
	}
	next := func() odometer.Change {
		select {
		case c := <-changes:
			return c
		case <-time.After(20 * time.Second):
			t.Fatal("nothing is told")
			return odometer.Change{}
		}
	}
	before := realClock{}.Now().Boot - 2*tickMicros
	a := act(t, "-", "kvm", "-name", name, "-m", "64", "-drive", "file="+filepath.Join(t.TempDir(), "none"))
	after := realClock{}.Now().Boot
	if c := next(); c.Kind != odometer.ChangeStarted || c.At.Boot < before || c.At.Boot > after {
		t.Errorf("got %+v, want that it started between %d and %d", c, before, after)
	}
	before = realClock{}.Now().Boot
	a.Process.Kill()
	a.Wait()
	c := next()
	if late := c.At.Boot - before; late < 0 || late > 500_000 {
		t.Errorf("its end is told %d µs after it", late)
	}
	if kernelTellsExit(t) && c.Kind != odometer.ChangeCrashed {
		t.Errorf("got %+v, want that it crashed", c)
	}
}
