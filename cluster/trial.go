package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"example.org/odometer/queue"
)

const (
	// recoverWithin is when what was measured before the end of a fault has
	// to be receipted: a cluster elects within ten seconds, a publisher asks
	// again within a minute.
	recoverWithin = 3 * time.Minute
	// held is how long the server is kept from receiving before a fault that
	// makes the queue forget, so that it has something to forget.
	held = 400 * time.Millisecond
	// leastEvents must be recorded for each fault, or the trial proves nothing.
	leastEvents = 100
)

// options of a trial.
type options struct {
	Seed             uint64
	Rounds           int           // faults
	Hosts, Instances int           // of each host
	Tick             time.Duration // between two events of an instance
	Apart            time.Duration // how long a partition lasts, at most
	Binary           string        // a nats-server program, "" for servers in this process
	Dir              string
	Log              *slog.Logger
	Progress         func(string)
}

// publishing are the publisher's waits, shorter than in life so that a fault
// follows upon the other.
var publishing = queue.PublisherOptions{
	StallAfter: time.Second, AttemptTimeout: 2 * time.Second, RetryMost: time.Second, BreakerDelay: time.Second,
}

// trial is one cluster, one server and some agents under load, to which a
// seeded schedule of faults happens.
type trial struct {
	o         options
	kinds     []fault
	rand      *rand.Rand
	nodes     *nodes
	site      *site
	siteLinks []*link
	hosts     []*host
	witness   *witness
}

// run lets one schedule of faults of some kinds happen and checks everything
// afterwards.
func run(ctx context.Context, o options, kinds []fault) (*figures, error) {
	t := &trial{o: o, kinds: kinds, rand: rand.New(rand.NewPCG(o.Seed, 1)), witness: newWitness()}
	if err := os.MkdirAll(filepath.Join(o.Dir, "site"), 0o700); err != nil {
		return nil, err
	}
	var err error
	if t.nodes, err = form(ctx, o.Dir, o.Binary); err != nil {
		return nil, err
	}
	defer t.nodes.close()
	if err := t.open(); err != nil {
		return nil, errors.Join(err, t.close())
	}
	f, err := t.suffer(ctx)
	if err == nil {
		err = settle(ctx, t.site, t.hosts, t.witness, f, t.o.Progress, func(do func(context.Context, jetstream.JetStream) error) error {
			return t.nodes.ask(ctx, readWithin, func(ctx context.Context, js jetstream.JetStream, _ *nats.Conn) error { return do(ctx, js) })
		})
	}
	if e := t.close(); err == nil {
		err = e
	}
	if err == nil {
		err = t.audit(ctx, f)
	}
	f.Unformed = t.nodes.unformed
	return f, err
}

// open starts the server and the agents, each behind links of its own.
func (t *trial) open() error {
	var via []string
	for _, n := range t.nodes.all {
		via = append(via, n.client)
	}
	var urls []string
	for _, to := range via {
		k, err := newLink(to)
		if err != nil {
			return err
		}
		t.siteLinks = append(t.siteLinks, k)
		urls = append(urls, "nats://"+k.addr())
	}
	t.site = newSite(filepath.Join(t.o.Dir, "site"), queue.ConnectOptions{URL: strings.Join(urls, ","), Name: "server", Replicas: nodesInCluster}, t.witness, t.o.Log)
	if err := t.site.open(); err != nil {
		return err
	}
	for n := range t.o.Hosts {
		h, err := newHost(t.o.Dir, n, t.o.Instances, via, n, t.o.Seed, t.witness, publishing, t.o.Log)
		if err != nil {
			return err
		}
		t.hosts = append(t.hosts, h)
		if err := h.start(); err != nil {
			return err
		}
	}
	return nil
}

func (t *trial) close() error {
	var errs []error
	for _, h := range t.hosts {
		errs = append(errs, h.close())
	}
	if t.site != nil {
		errs = append(errs, t.site.close())
	}
	for _, k := range t.siteLinks {
		k.close()
	}
	t.hosts, t.siteLinks = nil, nil
	return errors.Join(errs...)
}

// schedule is a seeded order of faults, each kind in turn before any comes
// again.
func (t *trial) schedule() []fault {
	var list []fault
	for len(list) < t.o.Rounds {
		for _, i := range t.rand.Perm(len(t.kinds)) {
			list = append(list, t.kinds[i])
		}
	}
	return list[:t.o.Rounds]
}

// suffer lets the faults happen, one after the other, under load.
func (t *trial) suffer(ctx context.Context) (*figures, error) {
	f := newFigures()
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var load errgroup.Group
	for _, h := range t.hosts {
		load.Go(func() error { return h.load(loading, t.o.Tick) })
	}
	err := recovered(ctx, t.hosts) // the load is on
	for i, fault := range t.schedule() {
		if err != nil {
			break
		}
		t.o.Progress(fmt.Sprintf("%d of %d: %s", i+1, t.o.Rounds, fault.name))
		t.o.Log.Info("fault", "number", i+1, "what", fault.name)
		before := events(t.hosts)
		err = t.strike(ctx, fault)
		since := time.Now()
		if err == nil {
			err = recovered(ctx, t.hosts)
		}
		if err != nil {
			err = fmt.Errorf("fault %d, %s: %w", i+1, fault.name, err)
			break
		}
		f.reached(fault.name, time.Since(since))
		if n := events(t.hosts) - before; n < leastEvents {
			err = fmt.Errorf("fault %d, %s: only %d events were measured meanwhile, the load is too low to prove anything", i+1, fault.name, n)
		}
	}
	stop()
	return f, errors.Join(err, load.Wait())
}

// strike has a fault happen. Where the queue forgets, and now and then
// elsewhere, the server does not take what the queue has: it is busy, or down.
func (t *trial) strike(ctx context.Context, fault fault) error {
	how := t.rand.IntN(6)
	switch {
	case fault.own || how > 1 && !fault.forgets:
		return fault.strike(ctx, t)
	case how == 0 || how == 1 && !fault.forgets:
		t.site.hold()
		t.pause(ctx, held, held)
		release := time.AfterFunc(held, t.site.release)
		err := fault.strike(ctx, t)
		if release.Stop() {
			t.site.release()
		}
		return err
	}
	err := t.site.close()
	t.pause(ctx, held, 2*held)
	if err == nil {
		err = fault.strike(ctx, t)
	}
	return errors.Join(err, t.site.open())
}

// load has the host measure, tick by tick.
func (h *host) load(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := h.append(); err != nil {
			return fmt.Errorf("%s: %w", h.id, err)
		}
	}
}

// events returns how many were measured so far.
func events(hosts []*host) (n int64) {
	for _, h := range hosts {
		n += h.events()
	}
	return n
}

// recovered returns when everything that was measured before the call is
// receipted.
func recovered(ctx context.Context, hosts []*host) error {
	deadline := time.Now().Add(recoverWithin)
	for _, h := range hosts {
		last, acked := h.positions()
		for ; acked < last; _, acked = h.positions() {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s is stuck: of %d events %d are receipted after %v: %+v", h.id, last, acked, recoverWithin, h.stats())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}
