package inventory

import (
	"context"
	"path"
	"sync"
	"time"

	"example.org/odometer"
)

// controls are the hypervisors of a host that are asked.
type controls struct {
	pace  pace
	table *sockets
	clock Clock
	told  chan<- odometer.Change
	end   context.CancelFunc // of all
	life  context.Context

	running sync.WaitGroup
	mu      sync.Mutex
	all     map[*control]bool
}

// newControls begins to mind the monitors that are held.
func newControls(root string, clock Clock, told chan<- odometer.Change) *controls {
	a := &controls{pace: usualPace, table: newSockets(root), clock: clock, told: told, all: map[*control]bool{}}
	a.life, a.end = context.WithCancel(context.Background())
	a.running.Go(func() {
		tick := time.NewTicker(lineEvery)
		defer tick.Stop()
		for {
			select {
			case <-a.life.Done():
				return
			case <-tick.C:
			}
			a.mu.Lock()
			for c := range a.all {
				c.mind()
			}
			a.mu.Unlock()
		}
	})
	return a
}

// close ends all that asks.
func (a *controls) close() {
	a.end()
	a.running.Wait()
	a.table.close()
}

// add begins to ask.
func (a *controls) add(c *control) {
	c.pace, c.table, c.clock, c.told = a.pace, a.table, a.clock, a.told
	a.mu.Lock()
	a.all[c] = true
	a.mu.Unlock()
	c.begin(a.life, &a.running)
}

func (a *controls) remove(c *control) {
	a.mu.Lock()
	delete(a.all, c)
	a.mu.Unlock()
	c.stop()
}

// askOf begins to ask the hypervisor of a machine, where it has a socket that
// may be asked.
func (p *Processes) askOf(m *machine, dir process) {
	g := m.command
	if p.ask == nil || len(g.monitors) == 0 {
		return
	}
	root, err := p.view(m, dir)
	if err != nil {
		return // which a look says
	}
	c := &control{sockets: g.monitors, view: root, pid: m.pid, began: int64(m.stat.start) * tickMicros}
	where := path.Join(root.host, resolve(root, g.monitors[0]))
	switch g.source {
	case qemu:
		c.asks, c.ask = "its monitor "+where, askMonitor(g)
	case cloudHypervisor:
		c.asks, c.ask = "its API "+where, askAPI(describeCloud(g))
	case firecracker:
		c.asks, c.ask = "its API "+where, askAPI(describeFirecracker)
	}
	m.control = c
	p.ask.add(c)
}
