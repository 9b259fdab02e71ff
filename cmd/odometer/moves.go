package main

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"example.org/odometer"
)

const (
	// admitEvery is how often it is looked whether an instance has moved of which
	// events wait.
	admitEvery = time.Second
	// moveTakes is how long before its end on one host an instance may be there on the
	// next: what is there to receive it is metered too. What another host tells of a
	// longer time beside it waits for a person.
	moveTakes = 15 * time.Minute
)

// elsewhere returns another agent with which an instance is known to run.
func (f *fleet) elsewhere(instance odometer.InstanceID, agent odometer.AgentID) odometer.AgentID {
	if f.directory == nil {
		return ""
	}
	return f.directory.Elsewhere(instance, agent)
}

// admitMoved books the events that wait since their instance ran elsewhere, once it
// does so no more: it has left, or its host is silent. It returns when ctx is done.
func (f *fleet) admitMoved(ctx context.Context, logger *slog.Logger) error {
	tick := time.NewTicker(admitEvery)
	defer tick.Stop()
	stuck := map[odometer.InstanceID]bool{} // and told
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := f.admit(ctx, logger, stuck); err != nil && ctx.Err() == nil {
			logger.Error("events of instances that have moved cannot be booked: trying again", "err", err)
		}
	}
}

func (f *fleet) admit(ctx context.Context, logger *slog.Logger, stuck map[odometer.InstanceID]bool) error {
	list, err := f.ledger.Strangers(ctx)
	if err != nil {
		return err
	}
	for i := range list {
		s := &list[i]
		if f.elsewhere(s.Instance, s.Agent) != "" {
			continue
		}
		why := error(nil)
		if s.Start < s.Until-moveTakes.Microseconds() {
			why = errors.New("another host measured it for long after that")
		} else if why = f.ledger.Admit(ctx, s, "the server: it runs nowhere else any more"); why == nil {
			logger.Info("an instance has moved: its events are booked", "instance", s.Instance, "agent", s.Agent)
			delete(stuck, s.Instance)
			continue
		}
		if !errors.Is(why, odometer.ErrConflict) && s.Start >= s.Until-moveTakes.Microseconds() {
			return why
		}
		if !stuck[s.Instance] {
			stuck[s.Instance] = true
			logger.Warn("events of an instance that ran elsewhere stay in quarantine: odometer quarantine list shows them", "instance", s.Instance, "agent", s.Agent, "since", time.UnixMicro(s.Start).UTC(), "err", why)
		}
	}
	return nil
}
