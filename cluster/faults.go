package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"example.org/odometer/queue"
)

// fault is one kind of thing that goes wrong with a queue. Its strike does it,
// while the load goes on, and mends what can be mended: afterwards every node
// runs and every link passes. What the queue then still lacks is its own
// affair and the program's.
type fault struct {
	name string
	// forgets says that the queue loses messages that it has acknowledged:
	// the server is kept from taking them before.
	forgets bool
	own     bool // it happens to the server itself
	quick   bool // it is part of the quick form
	strike  func(context.Context, *trial) error
}

// faults are all kinds, in the order in which they are reported.
var faults = []fault{
	{name: "leader of a stream moved", quick: true, strike: leaderMoved},
	{name: "leader of INGEST stopped and started", strike: leaderStopped},
	{name: "leader of INGEST killed", forgets: true, quick: true, strike: leaderKilled},
	{name: "node killed", strike: nodeKilled},
	{name: "node lost with its disk, back empty", forgets: true, quick: true, strike: nodeWiped},
	{name: "minority rolled back to an old copy", forgets: true, strike: minorityRolledBack},
	{name: "every store rolled back to an old copy", forgets: true, quick: true, strike: allRolledBack},
	{name: "every store wiped", forgets: true, quick: true, strike: allWiped},
	{name: "whole cluster stopped and started", strike: clusterStopped},
	{name: "whole cluster killed", forgets: true, strike: clusterKilled},
	{name: "INGEST purged", forgets: true, strike: ingestPurged},
	{name: "INGEST deleted", forgets: true, quick: true, strike: ingestDeleted},
	{name: "USAGE deleted", quick: true, strike: usageDeleted},
	{name: "USAGE purged", strike: usagePurged},
	{name: "consumer of INGEST deleted", quick: true, strike: consumerDeleted},
	{name: "leader of INGEST cut off from the majority", forgets: true, quick: true, strike: leaderIsolated},
	{name: "node cut off from the majority", strike: nodeIsolated},
	{name: "agent's node cut off for good", strike: nodeIsolatedForGood},
	{name: "route passes one way only", strike: oneWay},
	{name: "no two nodes reach each other", strike: noMajority},
	{name: "routes slow", strike: routesSlow},
	{name: "route cut in the middle of a message", strike: routeCut},
	{name: "agent cut off", strike: agentIsolated},
	{name: "agent's connection cut in the middle of a frame", quick: true, strike: agentCut},
	{name: "agent restarted", strike: agentRestarted},
	{name: "server cut off", own: true, strike: siteIsolated},
	{name: "server restarted", own: true, strike: siteRestarted},
}

func (t *trial) pause(ctx context.Context, from, to time.Duration) {
	d := from + time.Duration(t.rand.Int64N(int64(to-from)+1))
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

func (t *trial) anyNode() int { return t.rand.IntN(nodesInCluster) }

// request asks the cluster's API for something that it answers with success or
// an error.
func (t *trial) request(ctx context.Context, subject string) error {
	return t.nodes.admin(ctx, func(ctx context.Context, _ jetstream.JetStream, nc *nats.Conn) error {
		m, err := nc.RequestWithContext(ctx, subject, nil)
		if err != nil {
			return err
		}
		var answer struct {
			Success bool                `json:"success"`
			Error   *jetstream.APIError `json:"error"`
		}
		if err := json.Unmarshal(m.Data, &answer); err != nil {
			return err
		}
		if answer.Error != nil {
			return answer.Error
		}
		if !answer.Success {
			return fmt.Errorf("%s: %s", subject, m.Data)
		}
		return nil
	})
}

func leaderMoved(ctx context.Context, t *trial) error {
	what := []string{"STREAM.LEADER.STEPDOWN." + queue.IngestStream, "STREAM.LEADER.STEPDOWN." + queue.UsageStream, "CONSUMER.LEADER.STEPDOWN." + queue.IngestStream + ".ledger"}
	for _, i := range t.rand.Perm(len(what)) {
		if err := t.insist(ctx, func() error { return t.request(ctx, "$JS.API."+what[i]) }); err != nil {
			return err
		}
	}
	return nil
}

// insist repeats what the cluster may refuse while it is busy with itself.
func (t *trial) insist(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, recoverWithin)
	defer cancel()
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func leaderStopped(ctx context.Context, t *trial) error {
	i, err := t.nodes.settled(ctx)
	if err != nil {
		return err
	}
	return t.bounce(ctx, i, t.nodes.stop, nil)
}

func leaderKilled(ctx context.Context, t *trial) error {
	i, err := t.nodes.settled(ctx)
	if err != nil {
		return err
	}
	return t.bounce(ctx, i, t.nodes.kill, nil)
}

func nodeKilled(ctx context.Context, t *trial) error {
	return t.bounce(ctx, t.anyNode(), t.nodes.kill, nil)
}

func nodeWiped(ctx context.Context, t *trial) error {
	return t.bounce(ctx, t.anyNode(), t.nodes.kill, t.nodes.wipe)
}

func minorityRolledBack(ctx context.Context, t *trial) error {
	i := t.anyNode()
	old, err := t.nodes.snapshot(i)
	if err != nil {
		return err
	}
	t.pause(ctx, time.Second, 2*time.Second)
	return t.bounce(ctx, i, t.nodes.kill, func(i int) error { return t.nodes.restore(i, old) })
}

// bounce takes a node down, does something to it, and brings it back after a
// while.
func (t *trial) bounce(ctx context.Context, i int, down func(int) error, meanwhile func(int) error) error {
	if err := down(i); err != nil {
		return err
	}
	t.pause(ctx, 0, t.o.Apart)
	if meanwhile != nil {
		if err := meanwhile(i); err != nil {
			return err
		}
	}
	return t.nodes.start(i)
}

// everyNode takes all nodes down, does something, and brings them back in any
// order.
func (t *trial) everyNode(ctx context.Context, down func(int) error, meanwhile func(int) error) error {
	for _, i := range t.rand.Perm(nodesInCluster) {
		if err := down(i); err != nil {
			return err
		}
	}
	t.pause(ctx, 0, t.o.Apart/4)
	var errs []error
	for _, i := range t.rand.Perm(nodesInCluster) {
		if meanwhile != nil {
			errs = append(errs, meanwhile(i))
		}
		errs = append(errs, t.nodes.start(i))
	}
	return errors.Join(errs...)
}

func clusterStopped(ctx context.Context, t *trial) error {
	return t.everyNode(ctx, t.nodes.stop, nil)
}

func clusterKilled(ctx context.Context, t *trial) error {
	return t.everyNode(ctx, t.nodes.kill, nil)
}

func allWiped(ctx context.Context, t *trial) error {
	return t.everyNode(ctx, t.nodes.kill, t.nodes.wipe)
}

// allRolledBack is what a power cut of everything does to a queue that has not
// synced: each store becomes what it was some time ago, and each another time.
func allRolledBack(ctx context.Context, t *trial) error {
	var old [nodesInCluster]string
	for _, i := range t.rand.Perm(nodesInCluster) {
		var err error
		if old[i], err = t.nodes.snapshot(i); err != nil {
			return err
		}
	}
	t.pause(ctx, time.Second, 2*time.Second)
	return t.everyNode(ctx, t.nodes.kill, func(i int) error { return t.nodes.restore(i, old[i]) })
}

// purge empties a stream and reports whether it held anything.
func (t *trial) purge(ctx context.Context, stream string) error {
	return t.nodes.admin(ctx, func(ctx context.Context, js jetstream.JetStream, _ *nats.Conn) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		return s.Purge(ctx)
	})
}

func (t *trial) remove(ctx context.Context, stream string) error {
	return t.nodes.admin(ctx, func(ctx context.Context, js jetstream.JetStream, _ *nats.Conn) error {
		return js.DeleteStream(ctx, stream)
	})
}

func ingestPurged(ctx context.Context, t *trial) error {
	return t.insist(ctx, func() error { return t.purge(ctx, queue.IngestStream) })
}

func ingestDeleted(ctx context.Context, t *trial) error {
	return t.insist(ctx, func() error { return t.remove(ctx, queue.IngestStream) })
}

func usageDeleted(ctx context.Context, t *trial) error {
	return t.insist(ctx, func() error { return t.remove(ctx, queue.UsageStream) })
}

func usagePurged(ctx context.Context, t *trial) error {
	return t.insist(ctx, func() error { return t.purge(ctx, queue.UsageStream) })
}

func consumerDeleted(ctx context.Context, t *trial) error {
	return t.insist(ctx, func() error {
		return t.nodes.admin(ctx, func(ctx context.Context, js jetstream.JetStream, _ *nats.Conn) error {
			s, err := js.Stream(ctx, queue.IngestStream)
			if err != nil {
				return err
			}
			return s.DeleteConsumer(ctx, "ledger")
		})
	})
}

func leaderIsolated(ctx context.Context, t *trial) error {
	i, err := t.nodes.settled(ctx)
	if err != nil {
		return err
	}
	return t.apart(ctx, i)
}

func nodeIsolated(ctx context.Context, t *trial) error { return t.apart(ctx, t.anyNode()) }

// apart cuts a node off from the others for long enough that they elect
// another leader.
func (t *trial) apart(ctx context.Context, i int) error {
	t.nodes.isolate(i)
	defer t.nodes.rejoin(i)
	t.pause(ctx, t.o.Apart/2, t.o.Apart)
	return ctx.Err()
}

// nodeIsolatedForGood does not bring the node back before the agents that were
// connected to it have gone on over another. The streams may be led by it.
func nodeIsolatedForGood(ctx context.Context, t *trial) error {
	i := t.anyNode()
	t.nodes.isolate(i)
	defer t.nodes.rejoin(i)
	return recovered(ctx, t.hosts)
}

func oneWay(ctx context.Context, t *trial) error {
	r := t.nodes.routes[t.rand.IntN(len(t.nodes.routes))]
	r.pass(direction(t.rand.IntN(2)), false)
	defer r.mend()
	t.pause(ctx, t.o.Apart/2, t.o.Apart)
	return ctx.Err()
}

func noMajority(ctx context.Context, t *trial) error {
	for i := range nodesInCluster {
		t.nodes.isolate(i)
	}
	t.pause(ctx, t.o.Apart/2, t.o.Apart)
	for i := range nodesInCluster {
		t.nodes.rejoin(i)
	}
	return ctx.Err()
}

func routesSlow(ctx context.Context, t *trial) error {
	for _, r := range t.nodes.routes {
		r.slow(time.Duration(5+t.rand.IntN(60)) * time.Millisecond)
		defer r.mend()
	}
	t.pause(ctx, t.o.Apart/4, t.o.Apart/2)
	return ctx.Err()
}

func routeCut(ctx context.Context, t *trial) error {
	r := t.nodes.routes[t.rand.IntN(len(t.nodes.routes))]
	defer r.mend()
	for range 3 {
		r.cutAfter(t.rand.Int64N(20_000))
		t.pause(ctx, 0, t.o.Apart/4)
	}
	return ctx.Err()
}

func (t *trial) anyHost() *host { return t.hosts[t.rand.IntN(len(t.hosts))] }

func agentIsolated(ctx context.Context, t *trial) error {
	h := t.anyHost()
	defer h.mend()
	for _, k := range h.links {
		if t.rand.IntN(2) == 0 {
			k.blackhole()
		} else {
			k.pass(direction(t.rand.IntN(2)), false)
		}
	}
	t.pause(ctx, t.o.Apart/4, t.o.Apart/2)
	return ctx.Err()
}

func agentCut(ctx context.Context, t *trial) error {
	h := t.anyHost()
	defer h.mend()
	for range 3 {
		for _, k := range h.links {
			k.cutAfter(t.rand.Int64N(5_000))
		}
		t.pause(ctx, 0, t.o.Apart/4)
	}
	return ctx.Err()
}

func agentRestarted(ctx context.Context, t *trial) error {
	h := t.anyHost()
	if err := h.stop(); err != nil {
		return err
	}
	t.pause(ctx, 0, t.o.Apart/4)
	return h.start()
}

func siteIsolated(ctx context.Context, t *trial) error {
	for _, k := range t.siteLinks {
		k.blackhole()
		defer k.mend()
	}
	t.pause(ctx, t.o.Apart/4, t.o.Apart/2)
	return ctx.Err()
}

func siteRestarted(ctx context.Context, t *trial) error {
	if err := t.site.close(); err != nil {
		return err
	}
	t.pause(ctx, 0, t.o.Apart/4)
	return t.site.open()
}
