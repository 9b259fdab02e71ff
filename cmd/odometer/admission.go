package main

import (
	"context"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/queue"
)

// admission is the accounts as [api.HostAdmin]: who is put out loses its connection
// to the embedded queue, too.
type admission struct {
	*account.Accounts
	nats *queue.Server // nil where the queue is external
}

func (a admission) Enrol(ctx context.Context, ask odometer.EnrolRequest) (odometer.Host, error) {
	h, replaced, err := a.Accounts.Enrol(ctx, ask)
	for _, key := range replaced {
		a.expel(key)
	}
	return h, err
}

func (a admission) RevokeHost(ctx context.Context, by odometer.Actor, agent odometer.AgentID) (odometer.Host, error) {
	h, err := a.Accounts.RevokeHost(ctx, by, agent)
	if err == nil {
		a.expel(h.Key)
	}
	return h, err
}

func (a admission) expel(key odometer.Key) {
	if a.nats != nil {
		a.nats.Expel(key)
	}
}
