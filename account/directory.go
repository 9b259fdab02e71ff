package account

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"hash/maphash"
	"log/slog"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
)

const (
	// Silence is when what an agent told is no longer shown as being so: agents
	// tell something each second.
	Silence = time.Minute
	// goneAfter is when an instance counts as gone that its agent has left out:
	// each is described once a minute at least, and one message may be lost.
	goneAfter = 3 * time.Minute
	// breakAfter is a silence after which goneAfter begins anew: what was told
	// meanwhile is not known.
	breakAfter = 30 * time.Second
	// Kept is for how long an instance is remembered that nobody describes.
	Kept = 90 * 24 * time.Hour
	// MaxInstances bounds what one agent may have described at a time: several
	// times the largest host, and no way to fill the disk.
	MaxInstances = 20_000
	// MaxGone bounds how many instances of one agent are remembered that are
	// gone, the newest.
	MaxGone = 5 * MaxInstances
)

// Options says where a directory lies.
type Options struct {
	Path   string           // of its file; created when it is not there
	Clock  func() time.Time // time.Now when nil
	Logger *slog.Logger     // discarded when nil
}

// Directory knows the instances. Its methods may be called at once.
type Directory struct {
	clock   func() time.Time
	logger  *slog.Logger
	db      *sql.DB
	maxGone int
	opened  time.Time

	mu      sync.Mutex // guards what follows; never held over a look at the disk
	agents  map[odometer.AgentID]*agentState
	claims  map[odometer.InstanceID][]*claim
	several map[odometer.InstanceID]bool // those that more than one agent claims
	changed map[key]*row                 // not written yet
	ignored uint64                       // descriptions that were refused
	failed  error                        // of the last attempt to write, nil when it went through

	writing sync.Mutex // held while changes are on their way to the disk
}

// key names what one agent says of one instance.
type key struct {
	instance odometer.InstanceID
	agent    odometer.AgentID
}

// agentState is what is known of an agent.
type agentState struct {
	heard time.Time                    // by this process's clock; zero while it was not heard since the start
	since time.Time                    // when it was heard first after it was not
	saved time.Time                    // as heard is in the file
	has   map[odometer.InstanceID]bool // those whose claims are not gone
	moves uint64                       // how often an instance came or went
	known bool                         // the file had instances of it when it was opened

	interval      time.Duration // of its periods, 0 where it did not say
	intervalSaved time.Duration // as it is in the file
}

// claim is an agent's word that it has an instance.
type claim struct {
	agent     odometer.AgentID
	sum       uint64 // of the description, to see a change
	described time.Time
	running   time.Time // since when it says that it runs, zero while it does not
	gone      time.Time // zero while it is there
}

// row is a claim as it is written.
type row struct {
	desc               odometer.Description
	body               []byte
	described, goneNow time.Time
}

var seed = maphash.MakeSeed()

// Describe takes in what an agent told at a moment: that it is there, instances
// as they are now, and which are gone. What is not valid is left out and counted.
func (d *Directory) Describe(agent odometer.AgentID, at time.Time, told []odometer.Description, gone []odometer.InstanceID) {
	type valid struct {
		*odometer.Description
		body []byte
	}
	var list []valid
	refused := 0
	for i := range told {
		err := told[i].Valid()
		var body []byte
		if err == nil {
			body, err = json.Marshal(&told[i])
		}
		if err != nil {
			d.logger.Debug("a description is ignored", "agent", agent, "err", err)
			refused++
			continue
		}
		list = append(list, valid{&told[i], body})
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ignored += uint64(refused)
	a := d.agent(agent)
	if at.Sub(a.heard) > breakAfter {
		a.since = at
	}
	a.heard = at
	for _, v := range list {
		c := d.claim(key{v.Instance, agent})
		if c == nil {
			if len(a.has) >= MaxInstances {
				d.ignored++
				continue
			}
			c = d.add(v.Instance, &claim{agent: agent, gone: at})
		}
		if !c.gone.IsZero() {
			a.has[v.Instance] = true
			a.moves++
		}
		switch {
		case v.State != odometer.Running:
			c.running = time.Time{}
		case c.running.IsZero() || !c.gone.IsZero():
			c.running = at
		}
		sum := maphash.Bytes(seed, v.body)
		if sum != c.sum || !c.gone.IsZero() {
			d.changed[key{v.Instance, agent}] = &row{desc: *v.Description, body: v.body, described: at}
		}
		c.sum, c.described, c.gone = sum, at, time.Time{}
	}
	for _, instance := range gone {
		if c := d.claim(key{instance, agent}); c != nil && c.gone.IsZero() {
			d.leave(instance, c, at)
		}
	}
}

// SetInterval notes what an agent says of how long its periods are.
func (d *Directory) SetInterval(agent odometer.AgentID, interval time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.agent(agent).interval = interval
}

// Interval returns how long the periods of an agent are, 0 where it never said.
func (d *Directory) Interval(agent odometer.AgentID) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if a := d.agents[agent]; a != nil {
		return a.interval
	}
	return 0
}

// agent returns what is known of an agent.
func (d *Directory) agent(id odometer.AgentID) *agentState {
	a := d.agents[id]
	if a == nil {
		a = &agentState{has: map[odometer.InstanceID]bool{}}
		d.agents[id] = a
	}
	return a
}

func (d *Directory) claim(k key) *claim {
	for _, c := range d.claims[k.instance] {
		if c.agent == k.agent {
			return c
		}
	}
	return nil
}

func (d *Directory) add(instance odometer.InstanceID, c *claim) *claim {
	d.claims[instance] = append(d.claims[instance], c)
	if len(d.claims[instance]) > 1 {
		d.several[instance] = true
	}
	return c
}

// leave notes that an instance is gone from an agent. It is forgotten here once
// that is written.
func (d *Directory) leave(instance odometer.InstanceID, c *claim, at time.Time) {
	c.gone, c.running = at, time.Time{}
	d.dropped(instance, c.agent)
	k := key{instance, c.agent}
	r := d.changed[k]
	if r == nil {
		r = &row{described: c.described}
		d.changed[k] = r
	}
	r.goneNow = at
}

// dropped notes that an agent has an instance no longer.
func (d *Directory) dropped(instance odometer.InstanceID, agent odometer.AgentID) {
	a := d.agents[agent]
	delete(a.has, instance)
	a.moves++
}

// forget takes a claim out of memory.
func (d *Directory) forget(k key) {
	rest := slices.DeleteFunc(d.claims[k.instance], func(c *claim) bool { return c.agent == k.agent })
	switch len(rest) {
	case 0:
		delete(d.claims, k.instance)
		delete(d.several, k.instance)
	case 1:
		d.claims[k.instance] = rest
		delete(d.several, k.instance)
	default:
		d.claims[k.instance] = rest
	}
}

// sweep finds the instances that their agents describe no longer, although
// these were heard all the time.
func (d *Directory) sweep(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for instance, claims := range d.claims {
		for _, c := range claims {
			a := d.agents[c.agent]
			if c.gone.IsZero() && now.Sub(a.heard) <= breakAfter && now.Sub(a.since) > goneAfter && now.Sub(c.described) > goneAfter {
				d.leave(instance, c, c.described)
			}
		}
	}
}

// silent reports whether nothing is known of an agent now.
func (d *Directory) silent(agent odometer.AgentID, now time.Time) bool {
	a := d.agents[agent]
	return a == nil || now.Sub(a.heard) > Silence
}

// Conflict is one instance that several agents say runs with them, at once.
type Conflict struct {
	Instance odometer.InstanceID
	Agents   []odometer.AgentID // the one that said so first comes first
	Since    time.Time          // when the second of them said so
}

// Conflicts returns the conflicts that there are now, in order of instance. A
// machine that is moved may be in one for a moment.
func (d *Directory) Conflicts() []Conflict {
	now := d.clock()
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []Conflict
	for instance := range d.several {
		if c := d.conflict(instance, now); c != nil {
			list = append(list, *c)
		}
	}
	slices.SortFunc(list, func(a, b Conflict) int { return cmp.Compare(a.Instance, b.Instance) })
	return list
}

func (d *Directory) conflict(instance odometer.InstanceID, now time.Time) *Conflict {
	var running []*claim
	for _, c := range d.claims[instance] {
		if !c.running.IsZero() && !d.silent(c.agent, now) {
			running = append(running, c)
		}
	}
	if len(running) < 2 {
		return nil
	}
	slices.SortFunc(running, func(a, b *claim) int { return cmp.Or(a.running.Compare(b.running), cmp.Compare(a.agent, b.agent)) })
	conflict := &Conflict{Instance: instance, Since: running[1].running}
	for _, c := range running {
		conflict.Agents = append(conflict.Agents, c.agent)
	}
	return conflict
}

// Agents returns how many instances each agent has that describes any.
func (d *Directory) Agents() map[odometer.AgentID]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := map[odometer.AgentID]int{}
	for id, a := range d.agents {
		if len(a.has) > 0 {
			n[id] = len(a.has)
		}
	}
	return n
}

// Stats are figures about a directory.
type Stats struct {
	Instances int    // that are there or unobserved
	Pending   int    // changes that are not written yet
	Ignored   uint64 // descriptions that were refused
	Err       string // why the last attempt to write failed, "" when it went through
}

// Stats returns them as of now.
func (d *Directory) Stats() Stats {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := Stats{Instances: len(d.claims), Pending: len(d.changed), Ignored: d.ignored}
	if d.failed != nil {
		s.Err = d.failed.Error()
	}
	return s
}

const (
	writeEvery  = time.Second
	sweepEvery  = 10 * time.Second
	forgetEvery = time.Hour
)

// Run writes what changes until ctx is done, and once more then. That nothing
// can be written is told by [Directory.Stats] and ends nothing.
func (d *Directory) Run(ctx context.Context) error {
	write, sweep, forget := time.NewTicker(writeEvery), time.NewTicker(sweepEvery), time.NewTicker(forgetEvery)
	defer write.Stop()
	defer sweep.Stop()
	defer forget.Stop()
	for {
		select {
		case <-ctx.Done():
			d.write(context.WithoutCancel(ctx))
			return nil
		case <-write.C:
			d.write(ctx)
		case <-sweep.C:
			d.sweep(d.clock())
		case <-forget.C:
			d.expire(ctx)
		}
	}
}
