package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/meter"
	"example.org/odometer/sampler"
	"example.org/odometer/spool"
)

// tickPeriod is the agent's default.
const tickPeriod = 30 * time.Second

// tickTime measures how long a tick of the agent takes with 1000 machines: to
// sample them, to meter the readings, and, where their periods close, which is
// every thirtieth time and at once for all that were found together, to store
// and sync a thousand events. The limit is the bare system calls of the sample.
func tickTime(b *bench) error {
	n, periods := 1000, 4
	if b.quick {
		n, periods = 50, 1
	}
	p, err := b.newPark(n)
	if err != nil {
		return b.without("tick_1000", err)
	}
	return errors.Join(b.ticks(p, periods), p.close())
}

func (b *bench) ticks(p *park, periods int) error {
	boot, err := sampler.BootID()
	if err != nil {
		return err
	}
	sp, err := spool.Open(spool.Options{Dir: b.place("spool")})
	if err != nil {
		return err
	}
	defer sp.Close()
	bare, err := p.openBare(ioTurns)
	if err != nil {
		return err
	}
	defer bare.close()
	clock := &tickClock{ticks: periods*int(tickPeriod/agent.Tick) + 1, bare: bare}
	vms := sampler.OpenVMs(sampler.VMsOptions{Agent: "bench", Clock: &clock.aheadClock, Period: tickPeriod})
	defer vms.Close()
	vms.Update(p.vms)
	closed := 0
	a, err := agent.New(agent.Options{
		Source: vms, Spool: sp, Interval: tickPeriod, Clock: clock,
		Meter:    meter.New(meter.Options{Agent: "bench", Nonce: string(sp.ID()), Interval: (tickPeriod - agent.Tick/2).Microseconds(), BootID: boot}),
		OnPeriod: func(*odometer.Event) { closed++ },
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	clock.stop = stop
	clock.began = time.Now()
	if err := a.Run(ctx); err != nil {
		return err
	}
	if want := periods * len(p.vms); closed < want {
		return fmt.Errorf("%d periods were stored, want %d", closed, want)
	}
	clock.took = clock.took[1:] // the first begins an epoch for each machine
	slices.Sort(clock.took)
	slices.Sort(clock.limit)
	for _, q := range []struct {
		name string
		part int
	}{{"tick_1000_p50", 50}, {"tick_1000_p99", 99}} {
		at := (len(clock.took) - 1) * q.part / 100
		b.cost(q.name, clock.took[at].Seconds()*1000, "ms", clock.limit[at].Seconds()*1000)
	}
	return nil
}

// tickClock is the agent's. It does not wait between ticks: it reads with bare
// system calls what a sample would, and is a tick ahead then.
type tickClock struct {
	aheadClock
	ticks int // until it stops
	stop  func()
	bare  *bareReader

	began       time.Time // of the present tick
	took, limit []time.Duration
}

func (c *tickClock) Now() time.Time { return time.UnixMicro(c.aheadClock.Now().Wall) }

// Sleep implements [agent.Clock].
func (c *tickClock) Sleep(ctx context.Context, d time.Duration) error {
	now := time.Now()
	c.took = append(c.took, now.Sub(c.began))
	if err := c.bare.read(len(c.took)); err != nil {
		return err
	}
	c.limit = append(c.limit, time.Since(now))
	if len(c.took) == c.ticks {
		c.stop()
	}
	c.ahead += d.Microseconds()
	c.began = time.Now()
	return ctx.Err()
}
