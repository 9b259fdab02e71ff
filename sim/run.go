package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/internal/memfs"
	"example.org/odometer/ledger"
	"example.org/odometer/spool"
)

// drainWithin is how long after the last fault everything that was accepted is
// in the ledger and receipted, in simulated time: the longest that a publisher
// waits for a receipt before it sends again (32 times ten seconds), an open
// breaker, a delivery that comes again and a batch that is tried again.
const drainWithin = 10 * minute

// result is what came of one seed.
type result struct {
	seed     uint64
	broken   []string
	trace    uint64
	reached  [faults]int
	readings int64
	events   int64
	drained  int64
	length   int64
}

// simulate runs one seed. dir is where the ledger may lie meanwhile.
func simulate(seed uint64, dir string, out io.Writer) (r result) {
	dir, err := os.MkdirTemp(dir, "odometer-sim-")
	if err != nil {
		return result{seed: seed, broken: []string{err.Error()}}
	}
	defer os.RemoveAll(dir)
	w := newWorld(seed, dir, out)
	defer w.close()
	defer func() {
		if why := recover(); why != nil { // the seed is what tells how to get there again
			r = result{seed: seed, broken: []string{fmt.Sprintf("panic: %v\n%s", why, debug.Stack())}}
		}
	}()
	w.set()
	w.run(w.busy, nil)
	w.settle()
	return result{
		seed: seed, broken: w.broken, trace: w.trace.Sum64(), reached: w.reached,
		readings: w.readings, events: w.events, drained: w.waited, length: w.now,
	}
}

// close lets go of what the run held.
func (w *world) close() {
	for _, h := range w.hosts {
		if h.p != nil && h.p.stop != nil {
			h.p.dead = true
			h.p.cancel()
			h.p.stop()
		}
	}
	if s := w.server; s != nil {
		if s.batch != nil && s.batch.next != nil {
			s.batch.dead = true
			s.batch.cancel()
			s.batch.stop()
		}
		if s.ledger != nil {
			_ = s.ledger.Close()
		}
		stores.Delete(s.store.path())
	}
}

// set makes the world and what is to happen in it.
func (w *world) set() {
	r := w.r
	share := [...]float64{0.2, 0.4, 0.7, 1}[r.IntN(4)]
	for f := range w.on {
		w.on[f] = r.Float64() < share
	}
	if w.on[serverRestored] {
		// What a spool has lost that the ledger had cannot be had again.
		w.on[agentDiskLost], w.on[bitRot], w.on[agentDiskFull] = false, false, false
	}
	// Some runs cross the edge of an hour.
	w.base = 1763881200*second + r.Int64N(24)*odometer.HourMicros - r.Int64N(10*minute)
	w.busy = w.between(20*second, 3*minute)
	w.interval = time.Duration(w.between(2, 30)) * time.Second
	w.truth = newTruth(w)
	w.broker = &broker{w: w}
	w.server = &server{w: w, store: &store{w: w, root: filepath.Join(w.dir, "ledger")}}
	if err := w.server.store.replace(nil); err != nil {
		w.wrong("%v", err)
		return
	}
	for i := range 1 + r.IntN(3) {
		h := &host{w: w, id: odometer.AgentID(fmt.Sprintf("host-%d", i+1)), fs: memfs.New(), boots: 1, drift: w.between(-100, 100)}
		h.bootAt = -w.between(second, 24*60*minute)
		h.spool = spool.Options{MaxBytes: 1 << 30, SegmentBytes: 4 << 10 << r.IntN(5)}
		if !w.on[serverRestored] {
			h.spool.RetainBytes = [...]int64{-1, 16 << 10, 1 << 20}[r.IntN(3)]
			h.spool.MaxBytes = [...]int64{128 << 10, 1 << 20, 1 << 30}[r.IntN(3)]
		}
		w.hosts = append(w.hosts, h)
		if r.IntN(2) == 0 {
			w.bear(h, true)
		}
		for range 1 + r.IntN(3) {
			w.bear(h, false)
		}
		w.after(w.between(0, 5*second), h.start)
	}
	w.after(w.between(0, 5*second), w.server.start)
	// A client that was told that its events are in the ledger keeps none.
	if w.on[olderEvents] && !w.on[serverRestored] {
		w.old = newOlder(w)
	}
	w.plan()
}

// bear makes a new instance on a host.
func (w *world) bear(h *host, machine bool) {
	v := &vm{w: w, id: odometer.InstanceID(fmt.Sprintf("vm-%d", len(w.vms)+1)), machine: machine}
	v.owner = odometer.Owner{User: odometer.UserID(fmt.Sprintf("u-%d", w.r.IntN(3))), Org: "o-1"}
	w.vms = append(w.vms, v)
	v.start(h)
	var change func()
	change = func() {
		if !w.calm {
			v.change()
			w.after(w.between(second/2, 10*second), change)
		}
	}
	w.after(w.between(second/2, 10*second), change)
}

func (w *world) host() *host { return w.hosts[w.r.IntN(len(w.hosts))] }

// running returns an instance that runs somewhere, nil for none.
func (w *world) running() *vm {
	v := w.vms[w.r.IntN(len(w.vms))]
	if v.host == nil || v.machine || v.host.suspended {
		return nil
	}
	return v
}

// for a while makes something so, and then not so any more.
func (w *world) while(low, high int64, set func(bool)) {
	set(true)
	w.after(w.between(low, high), func() { set(false) })
}

// plan says what strikes when.
func (w *world) plan() {
	b, s, r := w.broker, w.server, w.r
	often, rare := w.busy/4, w.busy

	w.chaos(partition, often, func() bool {
		h := w.host()
		w.while(second, 60*second, func(on bool) { h.cut = on })
		return true
	})
	w.chaos(brokenFrame, rare, func() bool {
		if b.down || b.full {
			return false
		}
		data := make([]byte, 1+r.IntN(200))
		_, _ = random{w}.Read(data)
		b.store(&message{subject: "odometer.ingest." + string(w.host().id), data: data})
		return true
	})
	w.chaos(queueDown, rare, func() bool {
		w.while(second, 60*second, func(on bool) {
			b.down = on
			b.session++
			if !on {
				s.work()
			}
		})
		return true
	})
	w.chaos(queueFull, rare, func() bool {
		w.while(second, 60*second, func(on bool) { b.full = on })
		return true
	})
	w.chaos(queueForgets, rare/20, func() bool {
		if len(b.stored) == 0 {
			return false
		}
		b.stored = b.stored[:r.IntN(len(b.stored))]
		b.session++
		return true
	})
	w.chaos(queueRolledBack, rare/8, func() bool {
		if b.older == nil {
			if len(b.stored) > 0 {
				b.keep()
			}
			return false
		}
		b.stored, b.older = b.older, nil
		b.session++
		w.after(0, s.work)
		return true
	})
	w.chaos(queueWiped, rare, func() bool {
		b.stored = nil
		b.session++
		return true
	})

	w.chaos(agentKilled, often, func() bool {
		p := w.host().p
		if p != nil {
			p.die(false)
		}
		return p != nil
	})
	w.chaos(powerCut, rare, func() bool {
		p := w.host().p
		if p != nil {
			p.die(true)
		}
		return p != nil
	})
	w.chaos(agentStopped, often, func() bool {
		h := w.host()
		if h.p == nil || h.suspended || h.p.agent == nil {
			return false
		}
		p := h.p
		if p.end(); !p.dead {
			p.close()
			w.after(w.between(second/10, 10*second), h.start)
		}
		return true
	})
	w.chaos(agentDiskFull, often, func() bool {
		h := w.host()
		room := w.between(0, 8<<10)
		w.while(5*second, 60*second, func(on bool) {
			h.fs.Limit = 0
			if on {
				h.fs.Limit = max(1, h.fs.Used()+room)
			}
		})
		return true
	})
	w.chaos(agentDiskLost, rare, func() bool {
		h := w.host()
		if h.p == nil {
			return false
		}
		h.p.die(false)
		h.fs = memfs.New()
		w.truth.diskLost(h)
		return true
	})
	w.chaos(bitRot, rare, func() bool {
		h := w.host()
		if h.p == nil {
			return false
		}
		h.p.die(r.IntN(4) == 0)
		var files []string
		for _, name := range h.fs.Names() {
			if len(h.fs.Data(name)) > 0 {
				files = append(files, name)
			}
		}
		if len(files) == 0 {
			return false
		}
		name := files[r.IntN(len(files))]
		bit := r.IntN(8 * len(h.fs.Data(name)))
		h.fs.Rot(name, bit)
		// What was not sent yet may be unreadable now, or what the agent would
		// have gone on from.
		w.truth.diskLost(h)
		w.truth.forgotten(h)
		w.note("%s: bit %d of %s", h.id, bit, name)
		return true
	})

	w.chaos(serverKilled, often, func() bool {
		if s.down() {
			return false
		}
		s.die(nil)
		return true
	})
	w.chaos(serverKilledInCommit, often, func() bool {
		s.store.kill = 1 + r.IntN(5)
		return false // counted when it happens
	})
	w.chaos(serverDiskFull, rare, func() bool {
		w.while(second, 60*second, func(on bool) { s.store.full = on })
		return true
	})
	w.chaos(commitUnknown, often, func() bool {
		s.store.unknown = true
		return false
	})
	w.chaos(serverRestored, rare/3, func() bool {
		switch {
		case s.down() || s.busy():
			return false
		case s.saved == "":
			s.save()
			return false
		}
		s.restore()
		return true
	})

	w.chaos(entryReversed, often, s.reverse)

	w.chaos(agentClockSet, rare, func() bool {
		h := w.host()
		h.offset = w.between(-2*60*minute, 2*60*minute)
		if r.IntN(3) == 0 {
			h.offset = w.between(-5*second, 5*second)
		}
		return true
	})
	w.chaos(serverClockSet, rare, func() bool {
		s.offset = w.between(-10*minute, 10*minute)
		return true
	})
	w.chaos(hostSuspended, rare, func() bool {
		h := w.host()
		if h.off || h.suspended {
			return false
		}
		h.suspend(w.between(5*second, 20*minute))
		return true
	})
	w.chaos(vmRestarted, often, func() bool {
		v := w.running()
		if v == nil {
			return false
		}
		h := v.host
		w.truth.endedAll(v)
		v.stop()
		w.after(w.between(0, 20*second), func() { v.again(h) })
		return true
	})
	w.chaos(counterReset, often, func() bool {
		v := w.running()
		if v != nil {
			v.reset()
		}
		return v != nil
	})
	w.chaos(vmMigrated, often, func() bool {
		v, to := w.running(), w.host()
		if v == nil || v.host == to || to.off || to.suspended {
			return false
		}
		w.truth.endedAll(v)
		v.stop()
		w.after(w.between(0, 2*second), func() { v.again(to) })
		return true
	})
	w.chaos(vmBorn, rare, func() bool {
		h := w.host()
		if h.off || h.suspended || len(w.vms) > 12 {
			return false
		}
		w.bear(h, false)
		return true
	})
	w.chaos(vmEnded, rare, func() bool {
		v := w.running()
		if v != nil {
			w.truth.endedAll(v)
			v.stop()
		}
		return v != nil
	})
}

// again starts an instance that was stopped, where its host is up.
func (v *vm) again(h *host) {
	switch {
	case v.host != nil:
	case h.off || h.suspended:
		v.w.after(second, func() { v.again(h) })
	default:
		v.start(h)
	}
}

// suspend sends a host to sleep.
func (h *host) suspend(d int64) {
	w := h.w
	h.suspended, h.cut = true, true
	for _, v := range w.vms {
		if v.host == h {
			v.settle(0)
		}
	}
	w.after(d, h.wake)
}

func (h *host) wake() {
	if !h.suspended {
		return
	}
	h.suspended, h.cut = false, false
	for _, v := range h.w.vms {
		if v.host == h {
			v.load()
		}
	}
}

// settle ends the faults, lets everything come to rest and compares it with
// the truth.
func (w *world) settle() {
	if len(w.broken) > 0 {
		return
	}
	w.calm = true
	w.note("no more faults")
	b, s := w.broker, w.server
	b.down, b.full, s.store.full, s.store.unknown, s.store.kill = false, false, false, false, 0
	b.session++
	for _, h := range w.hosts {
		h.wake()
		h.cut = false
		h.fs.Limit = 0
		if h.p != nil {
			h.p.calls = 0
		}
	}
	w.after(0, s.work)
	began := w.now
	up := func() bool {
		for _, h := range w.hosts {
			if h.off || h.p == nil || h.p.source == nil || h.p.source.first {
				return false
			}
		}
		return !s.down()
	}
	if w.run(began+drainWithin, up); !up() {
		w.wrong("not everything runs %d s after the last fault", drainWithin/second)
		return
	}
	w.run(w.now+3*second, nil)
	for _, h := range w.hosts {
		if h.p != nil {
			h.p.end()
		}
	}
	drained := func() bool {
		for _, h := range w.hosts {
			if h.p == nil || h.p.spool.Stats().Unacked > 0 {
				return false
			}
			// A ledger that was restored is to be heard of by everybody.
			if st := h.p.spool.Stats(); !s.down() && st.Acked > 0 && st.Generation != s.ledger.Receipt(h.id, h.p.spool.ID()).Generation {
				return false
			}
		}
		return len(b.stored) == 0 && (w.old == nil || len(w.old.wait) == 0) && !s.down() && !s.busy()
	}
	if !drained() {
		w.run(began+drainWithin, drained)
	}
	w.waited = w.now - began
	if len(w.broken) > 0 {
		return
	}
	if !drained() {
		for _, h := range w.hosts {
			if h.p != nil {
				st := h.p.spool.Stats()
				w.note("%s: %d records unreceipted, receipts reach %d of %d", h.id, st.Unacked, st.Acked, st.Last)
			}
		}
		w.wrong("not everything is in the ledger %d s after the last fault", drainWithin/second)
		return
	}
	w.check()
}

// check compares the ledger with the truth, and has it audited.
func (w *world) check() {
	s, ctx := w.server, context.Background()
	fail := func(what string, err error) bool {
		if err != nil {
			w.wrong("%s: %v", what, err)
		}
		return err != nil
	}
	st, err := s.ledger.Stats(ctx)
	if fail("stats", err) {
		return
	}
	// Events of clocks that run ahead wait for their time.
	for n := 0; st.Counts["held"] > 0 && n < 4*60; n++ {
		w.run(w.now+minute, nil)
		if st, err = s.ledger.Stats(ctx); fail("stats", err) {
			return
		}
	}
	sum := int64(0)
	for _, o := range odometer.Outcomes {
		sum += st.Counts[string(o)]
	}
	if st.Counts["received"] != sum || st.Counts["held"] != 0 {
		w.wrong("received %d, and %v", st.Counts["received"], st.Counts)
	}
	quarantine, err := s.ledger.Quarantine(ctx, 1000)
	if fail("quarantine", err) {
		return
	}
	for _, q := range quarantine {
		// What was rotten at the end of a spool looks as if it had never been
		// accepted, and is told again with other content. Its usage is in
		// quarantine until a later event of the epoch lets the ledger recover
		// it, or a person does.
		if w.reached[bitRot] > 0 && (q.Reason == "conflict" || q.Reason == "chain" || q.Reason == "backwards") {
			w.truth.doubtful[odometer.InstanceID(q.Instance)] = true
			continue
		}
		// What the queue had forgotten of an epoch that the agent goes on from in
		// another one comes too late.
		if parts := strings.Split(q.EventID, "/"); q.Reason == "superseded" && len(parts) == 3 && w.truth.adopted[odometer.Epoch(parts[1])] {
			continue
		}
		if q.Reason != "frame" {
			w.wrong("%s is in quarantine: %s: %s", q.EventID, q.Reason, q.Detail)
		}
	}
	list, err := s.entries()
	if fail("entries", err) {
		return
	}
	w.truth.check(list)
	w.totals(list)
	w.old.check(list)
	w.note("%v", st.Counts)
	if fail("close", s.ledger.Close()) {
		return
	}
	s.ledger = nil
	report, err := audit.Run(ctx, audit.Options{DataDir: filepath.Dir(s.store.path()), TempDir: w.dir})
	if fail("audit", err) {
		return
	}
	for _, f := range report.Findings {
		w.wrong("audit: %s: %s", f.Code, f.Detail)
	}
	if w.seed%8 == 0 {
		again, err := ledger.Rebuild(ctx, s.store.path(), nil)
		if !fail("rebuild", err) && len(again.Differences) > 0 {
			w.wrong("rebuild: %s", again.Differences[0])
		}
	}
}

// totals compares the answers to queries with the entries.
func (w *world) totals(list map[odometer.Epoch]*booked) {
	rows, err := w.server.ledger.Usage(context.Background(), odometer.UsageQuery{To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance}})
	if err != nil {
		w.wrong("usage: %v", err)
		return
	}
	for _, v := range w.vms {
		var want [odometer.Quantities]odometer.Sum
		has := false
		for _, b := range list {
			if b.instance == v.id {
				has = true
				for q, n := range b.net {
					want[q].Add(n)
				}
			}
		}
		i := slices.IndexFunc(rows, func(r odometer.UsageRow) bool { return r.Instance == v.id })
		if i < 0 {
			if has {
				w.wrong("usage of %s: no answer", v.id)
			}
			continue
		}
		if rows[i].Totals != want {
			w.wrong("usage of %s is %v, its entries add up to %v", v.id, rows[i].Totals, want)
		}
	}
}
