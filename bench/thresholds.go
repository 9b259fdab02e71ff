package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"example.org/odometer"
	"example.org/odometer/threshold"
)

// manyThresholds returns thresholds of processors: a hundredth of everybody's, the others
// of one instance each.
func manyThresholds(n int) []odometer.Threshold {
	list := make([]odometer.Threshold, n)
	for i := range list {
		list[i] = odometer.Threshold{
			ID: odometer.ThresholdID(fmt.Sprintf("thr_%016d", i)), Version: 1, Name: fmt.Sprint("threshold ", i), Enabled: true, Resource: odometer.ResourceCPU,
			Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent, Levels: []odometer.ThresholdLevel{{Name: "warning", Value: 80}, {Name: "critical", Value: 95}}, Action: odometer.ActionLog,
			Scope: odometer.Scoped{Instance: odometer.InstanceID(fmt.Sprintf("vm-%d", i))},
		}
	}
	list[0].Scope = odometer.Scoped{All: true}
	return list
}

// thresholdChecks measures the check of one entry by itself, with a thousand and with a
// hundred thousand thresholds, of which two cover each instance, and what a threshold
// takes of memory.
func thresholdChecks(b *bench) error {
	for _, n := range []int{1000, 100_000} {
		rounds := 20
		if b.quick {
			n, rounds = n/100, 2
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		list := manyThresholds(n)
		c := threshold.NewChecker(list)
		runtime.GC()
		runtime.ReadMemStats(&after)
		entries := make([]odometer.Entry, 10_000)
		for i := range entries {
			e := &entries[i]
			e.Kind = odometer.KindUsage
			e.Event.Instance, e.Event.Owner = odometer.InstanceID(fmt.Sprintf("vm-%d", i*7919%n)), odometer.Owner{User: "u-ada", Org: "o-acme"}
			e.Event.Usage.Known = odometer.AllKnown
			e.Event.Usage.Vector[odometer.CPU], e.Event.Usage.Vector[odometer.VCPU] = int64(i%100), 100
		}
		reached := 0
		best := time.Duration(1 << 62)
		for range rounds {
			begin := time.Now()
			for i := range entries {
				c.Check(&entries[i], func(*odometer.Threshold, float64, uint32) { reached++ })
			}
			best = min(best, time.Since(begin))
		}
		if reached == 0 {
			return fmt.Errorf("%d thresholds: none was reached", n)
		}
		name := fmt.Sprintf("threshold_check_%d", n)
		b.cost(name, float64(best.Nanoseconds())/float64(len(entries))/1000, "µs", 0)
		b.cost(name+"_memory", float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "B/threshold", 0)
		runtime.KeepAlive(c)
	}
	return nil
}

// ingestThresholds measures ingest while thresholds are watched: a hundred of everybody's,
// organisations' and users' budgets, and some of every event. The limit is the same without.
func ingestThresholds(b *bench) error {
	instances, ticks := 100_000, 4
	if b.quick {
		instances, ticks = 2000, 2
	}
	f := newHosts(instances, false)
	known, _, err := f.packed(1)
	if err != nil {
		return err
	}
	frames, states, err := f.packed(ticks - 1)
	if err != nil {
		return err
	}
	var rates []float64
	for _, list := range [][]odometer.Threshold{nil, watchedWhileIngesting()} {
		p, err := newPipeline(b.place("pipeline"), ingestOptions{thresholds: list})
		if err != nil {
			return err
		}
		took, _, err := p.rate(known, frames, len(states))
		var taken uint64
		if p.thresholds != nil {
			taken = p.thresholds.Stats().Entries
		}
		if closeErr := p.close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
		rates = append(rates, float64(len(states))/took.Seconds())
		if list != nil {
			b.note("ingest_thresholds: %d thresholds, which had taken in %d entries when the ledger had %d", len(list), taken, len(states)+instances)
		}
	}
	b.rate("ingest_thresholds", rates[1], "events/s", rates[0])
	return nil
}

func watchedWhileIngesting() (list []odometer.Threshold) {
	list = append(list, manyThresholds(10)...)
	for i := range 100 {
		list = append(list, odometer.Threshold{
			Name: fmt.Sprint("month of ", i), Enabled: true, Scope: odometer.Scoped{User: odometer.UserID(fmt.Sprintf("u-%05d", i)), Sum: true}, Resource: odometer.ResourceCPU,
			Condition: odometer.ConditionBudget, Every: odometer.CycleMonth, Limit: 1e6, Levels: []odometer.ThresholdLevel{{Name: "80%", Percent: 80}}, Action: odometer.ActionLog,
		})
	}
	return list
}

// watch has the pipeline's ledger watched.
func (p *pipeline) watch(ctx context.Context, path string, list []odometer.Threshold) (err error) {
	if p.thresholds, err = threshold.Open(ctx, threshold.Options{Path: path, Ledger: p.ledger, Owns: p.ledger.Owns}); err != nil {
		return err
	}
	by := odometer.Actor{Caller: odometer.Caller{Name: "bench", Scopes: []odometer.Scope{odometer.ScopeAdmin}}}
	for _, d := range list {
		if _, err := p.thresholds.Create(ctx, by, d, odometer.Once{}); err != nil {
			return err
		}
	}
	p.beside.Go(func() error { return p.thresholds.Run(ctx) })
	return nil
}
