package sampler

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"example.org/odometer"
)

const (
	// busyEvery is how often drivers are asked how busy their GPUs were. They
	// keep what they saw for some fifteen seconds, of which nothing is lost.
	busyEvery = 3 * time.Second
	// busyOpenEvery is how often a driver is looked for that was not there.
	busyOpenEvery = time.Minute
	// busyStep is the longest time that one observation of a driver stands
	// for; they make one to six a second. Of a longer time nothing is known,
	// and it counts as not busy.
	busyStep = 2 * time.Second
)

// gpuObservation is how busy a GPU was, from the observation before until at.
type gpuObservation struct {
	at      uint64 // microseconds, of the driver's clock
	percent uint32
}

// gpuDriver is the library of a driver.
type gpuDriver interface {
	// observed returns the observations of the GPU at a PCI address after a
	// moment, oldest first.
	observed(address string, after uint64) ([]gpuObservation, error)
	close()
}

// errNotBuilt says that this program was built without the library's interface.
var errNotBuilt = errors.New("how busy they are is not in this build, see the build tag nvml")

// busyGPUs adds up for how long GPUs were busy, from when they are first seen. A
// goroutine asks, since a driver may hang; samples take what it has come to.
type busyGPUs struct {
	open func() (gpuDriver, error)
	stop chan struct{} // nil before there is a GPU; closed when it is over

	mu      sync.Mutex
	list    []*busyGPU
	problem error // why there is no driver
}

// busyGPU is a GPU whose driver is this machine's.
type busyGPU struct {
	address string
	name    string // its incarnation

	// Written by the goroutine.
	last    uint64 // of the driver's clock; 0 before the first observation
	busy    atomic.Uint64
	known   atomic.Bool
	problem atomic.Pointer[error]

	// What samples told: never more in a time than that has room for, however
	// late an observation comes.
	told   uint64
	toldAt int64 // boot time in microseconds, 0 before the first
}

// replace takes over which GPUs there are.
func (b *busyGPUs) replace(addresses []string, bootID string, at odometer.Moment) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.list
	b.list = nil
	for _, address := range addresses {
		g := &busyGPU{address: address, name: fmt.Sprintf("%s/%s@%d", bootID, address, at.Boot)}
		for _, o := range old {
			if o.address == address {
				g = o
			}
		}
		b.list = append(b.list, g)
	}
	if len(b.list) > 0 && b.stop == nil {
		b.stop = make(chan struct{})
		go b.serve(b.stop)
	}
}

// emit appends what the GPUs have come to.
func (b *busyGPUs) emit(to []odometer.Counter, at odometer.Moment) []odometer.Counter {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, g := range b.list {
		if !g.known.Load() {
			continue
		}
		if g.toldAt > 0 {
			room := uint64(max(0, at.Boot-g.toldAt)) * uint64(time.Microsecond)
			g.told = min(g.busy.Load(), g.told+room)
		}
		g.toldAt = at.Boot
		to = append(to, odometer.Counter{Quantity: odometer.GPUBusy, Device: g.address, Incarnation: g.name, Value: g.told})
	}
	return to
}

// trouble says why it is not known of some how busy they are, nil for none.
func (b *busyGPUs) trouble() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.problem != nil && len(b.list) > 0 {
		return b.problem
	}
	var list []error
	for _, g := range b.list {
		if err := g.problem.Load(); err != nil {
			list = append(list, *err)
		}
	}
	return errors.Join(list...)
}

// close ends the asking. A driver that hangs is left to itself.
func (b *busyGPUs) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stop != nil {
		close(b.stop)
		b.stop, b.list = nil, nil
	}
}

func (b *busyGPUs) serve(stop <-chan struct{}) {
	var driver gpuDriver
	tick := time.NewTicker(busyEvery)
	defer tick.Stop()
	var opened time.Time
	for {
		if driver == nil && (opened.IsZero() || time.Since(opened) >= busyOpenEvery) {
			d, err := b.open()
			opened = time.Now()
			b.mu.Lock()
			b.problem = err
			b.mu.Unlock()
			if errors.Is(err, errNotBuilt) {
				return
			}
			if err == nil {
				driver = d
				defer d.close()
			}
		}
		if driver != nil {
			b.mu.Lock()
			list := b.list
			b.mu.Unlock()
			for _, g := range list {
				g.ask(driver)
			}
		}
		select {
		case <-stop:
			return
		case <-tick.C:
		}
	}
}

// ask adds what the driver observed since the last time. What it observed before
// the first belongs to a time that nobody asked about.
func (g *busyGPU) ask(driver gpuDriver) {
	list, err := driver.observed(g.address, g.last)
	if err != nil {
		err = fmt.Errorf("how busy GPU %s is: %w", g.address, err)
		g.problem.Store(&err)
		return
	}
	g.problem.Store(nil)
	for _, o := range list {
		if o.at <= g.last || o.percent > 100 {
			continue
		}
		if passed := o.at - g.last; g.known.Load() && passed <= uint64(busyStep.Microseconds()) {
			g.busy.Add(passed * uint64(o.percent) * uint64(time.Microsecond) / 100)
		}
		g.last = o.at
	}
	if g.last > 0 {
		g.known.Store(true)
	}
}
