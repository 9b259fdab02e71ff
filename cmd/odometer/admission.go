package main

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/queue"
)

const (
	// tendEvery is how often it is looked whether each consumer has its place: a
	// topic that was lost takes them with it.
	tendEvery = time.Minute
	// tendWithin bounds how long that holds up the answer to who creates one.
	tendWithin = 2 * time.Second
)

// admission is the accounts as [api.HostAdmin] and [api.ConsumerAdmin], joined to
// the queue: who is put out loses its connection to the embedded one, and each
// consumer has its place in the topic.
type admission struct {
	*account.Accounts
	nats   *queue.Server // nil where the queue is external
	conn   *queue.Conn   // nil in tests without one
	logger *slog.Logger

	mu sync.Mutex // held from a look at the consumers until their places are as that says
}

func (a *admission) Enrol(ctx context.Context, ask odometer.EnrolRequest) (odometer.Host, error) {
	h, replaced, err := a.Accounts.Enrol(ctx, ask)
	for _, key := range replaced {
		a.expel(key)
	}
	return h, err
}

func (a *admission) RevokeHost(ctx context.Context, by odometer.Actor, agent odometer.AgentID) (odometer.Host, error) {
	h, err := a.Accounts.RevokeHost(ctx, by, agent)
	if err == nil {
		a.expel(h.Key)
	}
	return h, err
}

func (a *admission) CreateConsumer(ctx context.Context, by odometer.Actor, name string, org odometer.OrgID, key odometer.Key) (odometer.Consumer, error) {
	c, err := a.Accounts.CreateConsumer(ctx, by, name, org, key)
	if err == nil {
		a.tend(ctx, tendWithin)
	}
	return c, err
}

func (a *admission) RevokeConsumer(ctx context.Context, by odometer.Actor, id odometer.ConsumerID) (odometer.Consumer, error) {
	c, err := a.Accounts.RevokeConsumer(ctx, by, id)
	if err == nil {
		a.expel(c.Key)
		a.tend(ctx, tendWithin)
	}
	return c, err
}

func (a *admission) expel(key odometer.Key) {
	if a.nats != nil {
		a.nats.Expel(key)
	}
}

// tend gives each consumer its place in the topic. What fails is tried again by run.
func (a *admission) tend(ctx context.Context, within time.Duration) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	a.mu.Lock()
	defer a.mu.Unlock()
	list, err := a.Consumers(ctx)
	if err == nil {
		valid := list[:0]
		for _, c := range list {
			if c.Revoked.IsZero() {
				valid = append(valid, c)
			}
		}
		err = a.conn.EnsureReaders(ctx, valid)
	}
	if err != nil {
		a.logger.Warn("the places of consumers in the topic cannot be looked after: trying again", "err", err)
	}
}

// run looks after the places of consumers until ctx is done.
func (a *admission) run(ctx context.Context) error {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	for {
		if a.conn.Status().Connected {
			a.tend(ctx, tendEvery/2)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
