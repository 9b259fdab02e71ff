package main

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/threshold"
)

const (
	// runningEvery is how often it is asked which machines run: one that comes or goes
	// is noticed that much later, which for silence is early enough. Of an agent whose
	// interval is less than twice as long it is asked twice in that, since its machines
	// would seem to be silent.
	runningEvery = 10 * time.Second
	// awaitFor is for how long after a start it is too early to tell whether a machine is
	// silent that was not heard since: agents find the server again, and the circuit
	// breaker of one may be open for half a minute.
	awaitFor = time.Minute
)

// runningMachines are those that are known to run, for thresholds of silence.
type runningMachines struct {
	fleet    *fleet
	interval time.Duration // of agents that do not say theirs
	started  time.Time

	mu    sync.Mutex // guards what follows
	at    time.Time  // when all were listed
	known []threshold.Machine
	short map[odometer.AgentID]*shortInterval
}

// shortInterval are the machines of an agent that is asked for more often.
type shortInterval struct {
	interval time.Duration
	at       time.Time // when they were listed
	known    []threshold.Machine
}

// list returns the machines that run, or did when their agent fell silent.
func (r *runningMachines) list(ctx context.Context) ([]threshold.Machine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.fleet.now()
	if r.at.IsZero() || now.Sub(r.at) >= runningEvery {
		known, short := []threshold.Machine{}, map[odometer.AgentID]*shortInterval{}
		err := r.each(ctx, "", now, func(agent odometer.AgentID, interval time.Duration, m threshold.Machine) {
			if interval >= 2*runningEvery {
				known = append(known, m)
				return
			}
			if short[agent] == nil {
				short[agent] = &shortInterval{interval: interval, at: now}
			}
			short[agent].known = append(short[agent].known, m)
		})
		if err != nil {
			return nil, err
		}
		r.at, r.known, r.short = now, known, short
	}
	list := slices.Clip(r.known)
	for agent, s := range r.short {
		if now.Sub(s.at) >= s.interval/2 {
			s.at, s.known = now, nil
			err := r.each(ctx, agent, now, func(_ odometer.AgentID, _ time.Duration, m threshold.Machine) { s.known = append(s.known, m) })
			if err != nil {
				return nil, err
			}
		}
		list = append(list, s.known...)
	}
	return list, nil
}

// each calls do with each machine that runs, at one agent or, for "", at all.
func (r *runningMachines) each(ctx context.Context, agent odometer.AgentID, now time.Time, do func(odometer.AgentID, time.Duration, threshold.Machine)) error {
	for _, state := range []odometer.State{odometer.Running, api.StateUnobserved} {
		q := api.InstanceQuery{State: string(state), Agent: agent, Limit: api.MaxPage}
		for {
			page, err := r.fleet.Instances(ctx, odometer.Everything, q)
			if err != nil {
				return err
			}
			for i := range page {
				k := &page[i]
				if state != odometer.Running && k.LastState != odometer.Running || agent != "" && k.Agent != agent {
					continue // an agent is found by what runs elsewhere, too, if it says that it has it
				}
				interval := r.fleet.directory.Interval(k.Agent)
				if interval == 0 {
					interval = r.interval
				}
				if m, ok := r.machine(k, interval, now); ok {
					do(k.Agent, interval, m)
				}
			}
			if len(page) < q.Limit {
				break
			}
			q.After = page[len(page)-1].Description.Instance
		}
	}
	return nil
}

// machine returns an instance as thresholds are told of it, if it was ever heard.
func (r *runningMachines) machine(k *api.KnownInstance, interval time.Duration, now time.Time) (m threshold.Machine, ok bool) {
	m = threshold.Machine{Instance: k.Description.Instance, Owner: ownerOf(&k.Instance), Interval: interval.Microseconds()}
	switch {
	case k.Age != nil: // in whole seconds, of which it is in the middle as well as anywhere
		m.Last = now.Add(-time.Duration(*k.Age)*time.Second - time.Second/2).UnixMicro()
	case k.DescribedAt != nil: // nothing of its usage ever came
		m.Last = k.DescribedAt.UnixMicro()
	default:
		return m, false
	}
	if m.Last < r.started.UnixMicro() && now.Sub(r.started) < awaitFor {
		m.Interval = 0
	}
	return m, true
}

// ended reports whether its agent said last that an instance runs no more.
func (r *runningMachines) ended(ctx context.Context, id odometer.InstanceID) (bool, error) {
	k, _, err := r.fleet.Instance(ctx, odometer.Everything, id)
	if errors.Is(err, odometer.ErrNotFound) {
		return false, nil
	}
	state := k.State
	if state == api.StateUnobserved && k.LastState != "" { // its agent is silent since
		state = k.LastState
	}
	return state == odometer.Stopped || state == api.StateGone, err
}
