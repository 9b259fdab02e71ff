package sampler

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"example.org/odometer"
	"example.org/odometer/meter"
	"pgregory.net/rapid"
)

// story is a host on disk with machines that begin, work and end, while an
// agent that reads them is restarted now and then.
type story struct {
	t    *rapid.T
	root string
	boot int64 // microseconds
	vms  map[odometer.InstanceID]*actor
	pids int

	source  *VMs
	meter   *meter.Meter
	kept    []json.RawMessage // checkpoints, as a spool would have them
	read    map[odometer.InstanceID]int64
	usage   map[odometer.InstanceID]odometer.Vector
	started bool
	ended   bool // a run ended since the meter last told all that it has
}

// actor is one of its machines.
type actor struct {
	def          odometer.VM
	cgroup       string
	before       int64 // what the cgroup counted before the run, in ticks
	cpu, wrote   int64 // of the run, in ticks and bytes
	read         [2]int64
	truth        [2]int64 // of all runs, as far as anybody could have read it
	runs, groups int
	unread       bool // its cgroup counted what nobody read
}

const storyTick = 10_000 // microseconds

func (st *story) Now() odometer.Moment {
	st.boot += 10
	return odometer.Moment{Boot: st.boot, Wall: st.boot + 1_700_000_000*odometer.SecondMicros}
}

func (st *story) write(name, format string, args ...any) {
	path := filepath.Join(st.root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		st.t.Fatal(err)
	}
	if err := os.WriteFile(path, fmt.Appendf(nil, format, args...), 0o644); err != nil {
		st.t.Fatal(err)
	}
}

func (st *story) save(a *actor) {
	proc := fmt.Sprintf("proc/%d/", a.def.PID)
	st.write(proc+"stat", "%d (vm) S 1 1 1 0 -1 0 0 0 0 0 %d 0 0 0 20 0 1 0 %d 0 0 0\n", a.def.PID, a.cpu, a.def.Began/storyTick)
	st.write(proc+"io", "read_bytes: 0\nwrite_bytes: %d\n", a.wrote)
	st.write(proc+"status", "RssAnon: 1024 kB\n")
	st.write(proc+"cgroup", "0::/%s\n", a.cgroup)
	st.write("sys/fs/cgroup/"+a.cgroup+"/cgroup.procs", "%d\n", a.def.PID)
	st.write("sys/fs/cgroup/"+a.cgroup+"/cpu.stat", "usage_usec %d\n", (a.before+a.cpu)*storyTick)
}

// begin starts a run, in a new cgroup or in the last one.
func (st *story) begin(a *actor) {
	st.boot += storyTick - st.boot%storyTick
	st.pids++
	a.runs++
	if a.groups == 0 || a.unread || rapid.Bool().Draw(st.t, "new cgroup") {
		a.groups++
		a.cgroup, a.before = fmt.Sprintf("%s-%d", a.def.Instance, a.groups), 0
	} else {
		a.before += a.cpu
	}
	a.cpu, a.wrote, a.read = 0, 0, [2]int64{}
	a.def.PID, a.def.Began, a.def.State, a.def.Run = st.pids, st.boot, odometer.Running, fmt.Sprint("run-", a.runs)
	st.save(a)
	st.boot += 2 * storyTick
}

// end ends a run. What was not read of it is lost: this host has no netlink.
// A cgroup that counted such time is not used again, since it would be found there.
func (st *story) end(a *actor) {
	a.unread, st.ended = a.cpu != a.read[0], true
	if err := os.RemoveAll(filepath.Join(st.root, "proc", fmt.Sprint(a.def.PID))); err != nil {
		st.t.Fatal(err)
	}
	a.def.PID, a.def.Began, a.def.State, a.def.Run = 0, 0, odometer.Stopped, ""
}

func (st *story) work(a *actor) {
	a.cpu += rapid.Int64Range(0, 500).Draw(st.t, "ticks")
	a.wrote += rapid.Int64Range(0, 1<<20).Draw(st.t, "bytes")
	st.save(a)
}

func (st *story) list() (list []odometer.VM) {
	for _, id := range [...]odometer.InstanceID{"vm-1", "vm-2"} {
		list = append(list, st.vms[id].def)
	}
	return list
}

// restart kills the agent, if there is one, and starts another from what was
// kept. Where a run has ended, or ends before the next sample, what was read of
// it and not told is lost with the one who read it: then the agent is stopped
// in order.
func (st *story) restart() {
	p, killed := Previous{}, false
	if st.started {
		if killed = !st.ended && rapid.Bool().Draw(st.t, "killed"); !killed {
			if err := st.meter.Flush(st.keep); err != nil {
				st.t.Fatal(err)
			}
			st.ended = false
		}
		st.source.Close()
		p = Previous{BootID: "boot", Readings: st.read}
	}
	st.started = true
	st.source = OpenVMs(VMsOptions{Root: st.root, Agent: "host-1", Clock: st, Previous: p})
	st.meter = meter.New(meter.Options{Agent: "host-1", Nonce: "n", BootID: "boot", Interval: 5 * odometer.SecondMicros})
	for _, c := range st.kept {
		if err := st.meter.Restore(c); err != nil {
			st.t.Fatal(err)
		}
	}
	if killed {
		st.tick()
	}
}

// tick updates and samples as an agent does.
func (st *story) tick() {
	st.source.Update(st.list())
	st.sample()
	for _, a := range st.vms {
		if a.def.PID > 0 {
			a.truth[0] += a.cpu - a.read[0]
			a.truth[1] += a.wrote - a.read[1]
			a.read = [2]int64{a.cpu, a.wrote}
		}
	}
}

func (st *story) sample() {
	if err := st.source.Sample(func(r *odometer.Reading) {
		if err := st.meter.Observe(r, st.keep); err != nil {
			st.t.Fatalf("reading %+v: %v", r, err)
		}
	}); err != nil {
		st.t.Fatal(err)
	}
}

func (st *story) keep(r odometer.Record) {
	st.kept = append(st.kept, r.Checkpoint)
	var c struct {
		Instance odometer.InstanceID `json:"instance"`
		Boot     int64               `json:"boot_us"`
	}
	if err := json.Unmarshal(r.Checkpoint, &c); err != nil {
		st.t.Fatal(err)
	}
	st.read[c.Instance] = c.Boot
	if r.Event == nil {
		return
	}
	sum := st.usage[c.Instance]
	for q, n := range r.Event.Usage.Vector {
		sum[q] += n
	}
	st.usage[c.Instance] = sum
}

// TestVMsSumIsTheTruth lets machines begin, work, end and begin again, and the
// agent die at any moment, and demands that the events add up to what was
// there to be read: nothing twice, nothing left out.
func TestVMsSumIsTheTruth(t *testing.T) {
	dir := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		st := &story{
			t: rt, root: filepath.Join(dir, fmt.Sprint(n)), boot: 1000 * odometer.SecondMicros,
			vms: map[odometer.InstanceID]*actor{}, read: map[odometer.InstanceID]int64{}, usage: map[odometer.InstanceID]odometer.Vector{},
		}
		defer os.RemoveAll(st.root)
		st.write("proc/sys/kernel/random/boot_id", "boot\n")
		st.write("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
		for _, id := range [...]odometer.InstanceID{"vm-1", "vm-2"} {
			st.vms[id] = &actor{def: odometer.VM{Instance: id, State: odometer.Stopped, VCPUs: 1, Memory: 1 << 30}}
		}
		st.restart()
		st.tick()
		for range rapid.IntRange(1, 25).Draw(rt, "steps") {
			st.boot += rapid.Int64Range(1, 3*odometer.SecondMicros).Draw(rt, "passes")
			a := st.vms[rapid.SampledFrom([]odometer.InstanceID{"vm-1", "vm-2"}).Draw(rt, "machine")]
			switch step := rapid.SampledFrom([]string{"work", "work", "tick", "tick", "sample", "begin or end", "restart"}).Draw(rt, "step"); {
			case step == "tick":
				st.tick()
			case step == "sample":
				st.tick() // an update that says the same, and a sample
				st.sample()
			case step == "restart":
				st.restart()
			case a.def.PID == 0:
				st.begin(a)
				st.work(a)
			case step == "work":
				st.work(a)
			case step == "begin or end":
				st.end(a)
				if rapid.Bool().Draw(rt, "at once again") {
					st.begin(a)
				}
			}
		}
		st.boot += odometer.SecondMicros
		st.tick()
		st.boot += odometer.SecondMicros
		st.source.Update(nil)
		st.sample()
		st.source.Close()
		for id, a := range st.vms {
			u := st.usage[id]
			if u[odometer.CPU] != a.truth[0]*storyTick || u[odometer.DiskWrite] != a.truth[1] {
				rt.Errorf("%s: got %d µs and %d bytes, truth %d and %d", id, u[odometer.CPU], u[odometer.DiskWrite], a.truth[0]*storyTick, a.truth[1])
			}
		}
	})
}
