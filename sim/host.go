package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"syscall"
	"time"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/internal/memfs"
	"example.org/odometer/meter"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

// host is a machine with an agent: its clocks, its disk, and the process that
// runs there now.
type host struct {
	w         *world
	id        odometer.AgentID
	bootAt    int64
	boots     int
	offset    int64 // of its wall clock
	drift     int64 // of its wall clock, millionths
	suspended bool
	off       bool // without power
	cut       bool // from the network
	fs        *memfs.FS
	spool     spool.Options
	p         *process
	starts    int
	refused   int   // starts in a row that failed
	arrived   int64 // when the last frame that was sent gets to the queue
	told      int64 // when the last receipt gets to the agent
}

func (h *host) wall(at int64) int64 { return h.w.base + at + at*h.drift/1e6 + h.offset }

func (h *host) moment(at int64) odometer.Moment {
	return odometer.Moment{Boot: at - h.bootAt, Wall: h.wall(at)}
}

func (h *host) boot() string { return fmt.Sprintf("%s-boot-%d", h.id, h.boots) }

const spoolDir = "/spool"

// process is an agent's process from its start to its end.
type process struct {
	w      *world
	h      *host
	dead   bool
	spool  *spool.Spool
	agent  *agent.Agent
	steps  *queue.Steps
	shadow *shadow
	source *source

	cancel context.CancelFunc
	next   func() (time.Duration, bool)
	stop   func()
	yield  func(time.Duration) bool
	ended  bool // the agent's loop, not the publisher
	awaits bool
	after  uint64
	turn   int // of pump: an older alarm is void
	calls  int // until it is killed, 0 for never
	how    memfs.Fault
	power  bool // it goes by a power cut
}

// start starts the agent's process, as its supervisor does.
func (h *host) start() {
	w := h.w
	if h.off || h.p != nil {
		return
	}
	if h.suspended {
		w.after(second, h.start)
		return
	}
	h.starts++
	p := &process{w: w, h: h}
	h.p = p
	w.note("%s: process %d starts", h.id, h.starts)
	switch {
	case w.calm:
	case w.on[agentKilledInCall] && w.r.IntN(3) == 0:
		p.calls = 1 + w.r.IntN(1+w.r.IntN(300))
		p.how = memfs.Fault{Kill: true, Effect: w.r.IntN(2) == 0, Partial: w.r.IntN(2) == 0}
	case w.on[powerCut] && w.r.IntN(4) == 0:
		p.calls = 1 + w.r.IntN(1+w.r.IntN(300))
		p.how = memfs.Fault{Kill: true, Effect: w.r.IntN(2) == 0, Partial: w.r.IntN(2) == 0}
		p.power = true
	}
	h.fs.Fault = p.fault
	o := h.spool
	o.FS, o.Dir, o.Now, o.Random, o.Logger = h.fs, spoolDir, func() time.Time { return time.UnixMicro(h.wall(w.now)) }, random{w}, w.log
	var err error
	if p.spool, err = spool.Open(o); err != nil {
		w.note("%s: %v", h.id, err)
		if !p.killed() {
			h.refused++
			p.die(false)
			if h.refused > 50 {
				w.wrong("%s: the spool does not open any more: %v", h.id, err)
			}
		}
		return
	}
	h.refused = 0
	states := p.spool.Checkpoints()
	p.shadow = newShadow(p)
	p.source = &source{p: p, first: true, lives: map[odometer.InstanceID]string{}, devices: map[*device]string{}}
	p.source.recall(states)
	p.agent, err = agent.New(agent.Options{
		Source:   p.source,
		Meter:    meter.New(meter.Options{Agent: h.id, Nonce: string(p.spool.ID()), Interval: w.interval.Microseconds(), BootID: h.boot()}),
		Spool:    p.shadow,
		Interval: w.interval,
		Clock:    p,
		Logger:   w.log,
		Recall:   p.recall,
	})
	if err != nil {
		w.wrong("%s: %v", h.id, err)
		return
	}
	p.shadow.restore(states)
	st := p.spool.Stats()
	publish := queue.NewPublisher(nil, p.spool, queue.PublisherOptions{
		Agent: h.id, Random: w.r.Float64, Logger: w.log,
		Last:        odometer.Receipt{Agent: h.id, Spool: p.spool.ID(), Position: st.Acked, Ledger: st.Ledger, Generation: st.Generation},
		FrameEvents: 1 + w.r.IntN(40), Window: 1 + w.r.IntN(8), Unreceipted: 1 + w.r.IntN(32),
	})
	p.steps = publish.Steps(w.time, p)
	var ctx context.Context
	ctx, p.cancel = context.WithCancel(context.Background())
	p.next, p.stop = iter.Pull(func(yield func(time.Duration) bool) {
		p.yield = yield
		if err := p.agent.Run(ctx); err != nil {
			p.w.note("%s: %v", p.h.id, err)
		}
	})
	w.after(0, p.resume)
	w.after(0, p.pump)
}

// fault says what becomes of a call of the spool to its disk.
func (p *process) fault(n int, op string) memfs.Fault {
	w := p.w
	switch {
	case p.calls > 0:
		if p.calls--; p.calls == 0 {
			if p.power {
				w.hit(powerCut)
			} else {
				w.hit(agentKilledInCall)
			}
			w.note("%s: dies in: %s", p.h.id, op)
			return p.how
		}
	case strings.HasPrefix(op, "sync"):
		if w.chance(agentSyncFails, 0.01) {
			return memfs.Fault{Err: syscall.EIO, Effect: w.r.IntN(2) == 0, Tear: w.r.IntN(2) == 0}
		}
	case w.chance(agentCallFails, 0.01):
		return memfs.Fault{Err: syscall.EIO, Effect: w.r.IntN(2) == 0, Partial: w.r.IntN(2) == 0}
	}
	return memfs.Fault{}
}

// Now and Sleep make the process the agent's clock.
func (p *process) Now() time.Time { return time.UnixMicro(p.h.wall(p.w.now)) }

func (p *process) Sleep(ctx context.Context, d time.Duration) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if !p.yield(d) {
		return context.Canceled
	}
	return ctx.Err()
}

// resume lets the agent's loop go on until it sleeps.
func (p *process) resume() {
	if p.dead || p.ended {
		return
	}
	if p.h.suspended {
		p.w.after(second/2, p.resume)
		return
	}
	d, ok := p.next()
	if p.killed() {
		return
	}
	if !ok {
		p.ended = true
	} else {
		p.w.after(max(d.Microseconds(), 1), p.resume)
	}
	p.pump()
}

// killed buries the process if a call has killed it.
func (p *process) killed() bool {
	if !p.dead && p.h.fs.Killed {
		p.die(p.power)
	}
	return p.dead
}

// die ends the process at once. With power the whole host goes down.
func (p *process) die(power bool) {
	w, h := p.w, p.h
	p.dead = true
	old := h.fs
	if power {
		h.fs = old.PowerCut(w.r)
	} else {
		h.fs = old.Restarted()
	}
	h.fs.Fault = nil
	old.Killed = true
	h.p = nil
	w.truth.died(p)
	if p.cancel != nil {
		p.cancel()
		p.stop()
	}
	w.note("%s: the process is dead, power %v", h.id, power)
	if power {
		h.powerOff()
		return
	}
	w.after(w.between(second/10, 20*second), h.start)
}

// powerOff takes everything down that runs on the host, and boots it later.
func (h *host) powerOff() {
	w := h.w
	h.off = true
	var lost []*vm
	for _, v := range w.vms {
		if v.host == h {
			w.truth.endedAll(v)
			v.stop()
			lost = append(lost, v)
		}
	}
	w.after(w.between(3*second, 60*second), func() {
		h.off, h.suspended = false, false
		h.bootAt = w.now - w.between(second/10, second)
		h.boots++
		w.note("%s boots", h.id)
		for _, v := range lost {
			v.start(h)
			if v.machine {
				v.born = h.bootAt
			}
		}
		w.after(w.between(second, 5*second), h.start)
	})
}

// end stops the process as an operator does: periods are closed, the disk is
// let go.
func (p *process) end() {
	if p.dead {
		return
	}
	p.cancel()
	for !p.ended && !p.dead {
		p.resume()
	}
}

// close is what follows end where the publisher is not to go on.
func (p *process) close() {
	if p.dead {
		return
	}
	p.dead = true
	p.h.p = nil
	p.stop()
	if err := p.spool.Close(); err != nil {
		p.w.note("%s: close: %v", p.h.id, err)
	}
	p.h.fs = p.h.fs.Restarted()
	p.w.truth.stopped(p)
}

// pump lets the publisher do what it can do now.
func (p *process) pump() {
	if p.dead || p.steps == nil {
		return
	}
	p.turn++
	for n := 0; ; n++ {
		if p.awaits {
			gone, cancel := context.WithCancel(context.Background())
			cancel()
			if p.spool.Wait(gone, p.after) == nil {
				p.awaits = false
				if err := p.steps.More(nil); err != nil {
					p.w.wrong("%s: %v", p.h.id, err)
				}
			}
		}
		at := p.steps.Step()
		if p.killed() || at.IsZero() {
			return
		}
		if at.After(p.w.time()) {
			turn := p.turn
			p.w.after(at.Sub(p.w.time()).Microseconds()+1, func() {
				if p.turn == turn && !p.dead {
					p.steps.Due()
					p.pump()
				}
			})
			return
		}
		if n > 10000 {
			p.w.wrong("%s: the publisher is busy for ever", p.h.id)
			return
		}
		p.steps.Due()
	}
}

// recall asks the server for this agent's checkpoints, within the ten seconds
// that the program gives it.
func (p *process) recall(ctx context.Context) ([]json.RawMessage, error) {
	const within, again = 10 * second, 2 * second
	until := p.w.now + within
	var list []json.RawMessage
	answered := false
	for next := int64(0); p.w.now < until; {
		if p.w.now >= next {
			next = p.w.now + again
			p.w.broker.request(p, func(data []byte) {
				if !answered && json.Unmarshal(data, &list) == nil {
					answered = true
				}
			})
		}
		if err := p.Sleep(ctx, 100*time.Millisecond); err != nil {
			return nil, err
		}
		if answered {
			p.shadow.adopt(list)
			p.w.note("%s: %d checkpoints recalled", p.h.id, len(list))
			return list, nil
		}
	}
	p.w.truth.forgotten(p.h)
	return nil, context.DeadlineExceeded
}

// source reads the instances of a host for one process of its agent, as a
// sampler does: it knows what it has seen, and of earlier processes only the
// boot in which they read.
type source struct {
	p        *process
	first    bool
	last     int64
	lives    map[odometer.InstanceID]string
	order    []*vm
	began    odometer.InstanceID // of which the mark of its beginning was just told
	devices  map[*device]string
	previous map[odometer.InstanceID]string // the boot of the last reading
}

// recall takes from the spool's checkpoints in which boot each instance was
// read last.
func (s *source) recall(states []json.RawMessage) {
	s.previous = map[odometer.InstanceID]string{}
	serial := map[odometer.InstanceID]uint64{}
	for _, c := range states {
		h := headOf(c)
		if h.Serial >= serial[h.Instance] {
			serial[h.Instance], s.previous[h.Instance] = h.Serial, h.BootID
		}
	}
}

// Sample implements [agent.Source].
func (s *source) Sample(emit func(*odometer.Reading)) error {
	h, w := s.p.h, s.p.w
	tell := func(r *odometer.Reading) {
		w.readings++
		s.p.shadow.read(r)
		emit(r)
	}
	// A suspended host was not watched.
	slept := !s.first && w.now-s.last > 10*second
	for _, v := range s.order {
		if s.lives[v.id] != "" && v.host != h {
			// It has left or ended since.
			tell(&odometer.Reading{Instance: v.id, Agent: h.id, Owner: v.owner, At: h.moment(w.now), State: odometer.Stopped, Epoch: lifeName(s.lives[v.id]), Final: true, Gauges: odometer.NoGauges})
			s.lives[v.id] = ""
		}
	}
	for _, v := range w.vms {
		if v.host != h {
			continue
		}
		known, seen := s.lives[v.id]
		if life := "+" + v.name; known != life {
			s.lives[v.id] = life
			if !seen {
				s.order = append(s.order, v)
			}
			if !s.first && !v.machine {
				s.began = v.id
				tell(&odometer.Reading{Instance: v.id, Agent: h.id, Owner: v.owner, At: h.moment(v.born), State: v.state, Epoch: v.name, Started: true, Gauges: odometer.NoGauges})
			}
		}
		r := odometer.Reading{
			Instance: v.id, Agent: h.id, Owner: v.owner, At: h.moment(w.now), State: v.state, Epoch: v.name, Unwatched: s.first || slept, Gauges: v.gauges,
		}
		booted := s.first && v.machine && s.previous[v.id] != "" && s.previous[v.id] != h.boot()
		for _, d := range v.devices {
			was, had := s.devices[d]
			r.Counters = append(r.Counters, odometer.Counter{
				Quantity: d.quantity, Device: d.name, Incarnation: d.incarnation, Value: d.at(w.now),
				Born: booted || had && was != d.incarnation,
			})
			s.devices[d] = d.incarnation
		}
		tell(&r)
		s.began = ""
	}
	s.first, s.last = false, w.now
	return nil
}

func lifeName(s string) string { return strings.TrimPrefix(s, "+") }

// head is what the simulator reads of a checkpoint.
type head struct {
	Instance odometer.InstanceID `json:"instance"`
	Epoch    odometer.Epoch      `json:"epoch"`
	Name     string              `json:"name"`
	Serial   uint64              `json:"serial"`
	Ended    bool                `json:"ended"`
	Sequence uint64              `json:"sequence"`
	Wall     int64               `json:"wall_us"`
	Boot     int64               `json:"boot_us"`
	BootID   string              `json:"boot_id"`
}

func headOf(c json.RawMessage) (h head) {
	_ = json.Unmarshal(c, &h)
	return h
}
