package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"example.org/odometer/internal/port"
	"example.org/odometer/queue"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// What the embedded queue forgets.
const (
	wiped      = "store of the embedded queue wiped"
	rolledBack = "store of the embedded queue rolled back to an old copy"
)

var amnesias = []string{wiped, rolledBack}

const secret = "cluster"

// embedded is one server with its own queue, as the program runs it by
// default, and agents that reach it over the network.
type embedded struct {
	o       options
	rand    *rand.Rand
	store   string
	addr    string
	queue   *queue.Server
	site    *site
	hosts   []*host
	witness *witness
}

// forget wipes the store of an embedded queue again and again, at random
// moments under load, or puts back a copy of it that was made at some time
// before, and checks everything afterwards.
func forget(ctx context.Context, o options) (*figures, error) {
	e := &embedded{o: o, rand: rand.New(rand.NewPCG(o.Seed, 2)), store: filepath.Join(o.Dir, "nats"), witness: newWitness()}
	f := newFigures()
	if err := os.MkdirAll(filepath.Join(o.Dir, "site"), 0o700); err != nil {
		return f, err
	}
	var err error
	if e.addr, err = port.Free(); err != nil {
		return f, err
	}
	if err := e.serve(); err != nil {
		return f, err
	}
	defer func() { e.queue.Shutdown() }()
	e.site = newSite(filepath.Join(o.Dir, "site"), queue.ConnectOptions{URL: "nats://" + e.addr, Token: secret, Name: "server"}, e.witness, o.Log)
	if err := e.site.open(); err != nil {
		return f, err
	}
	err = e.suffer(ctx, f)
	if err == nil {
		err = settle(ctx, e.site, e.hosts, e.witness, f, o.Progress, func(do func(context.Context, jetstream.JetStream) error) error {
			nc, err := nats.Connect("nats://"+e.addr, nats.Token(secret))
			if err != nil {
				return err
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				return err
			}
			return do(ctx, js)
		})
	}
	for _, h := range e.hosts {
		err = errors.Join(err, h.close())
	}
	if err = errors.Join(err, e.site.close()); err == nil {
		err = auditDir(ctx, filepath.Join(o.Dir, "site"), "nats://"+e.addr, secret, f)
	}
	return f, err
}

func (e *embedded) serve() (err error) {
	e.queue, err = queue.StartServer(queue.ServerOptions{StoreDir: e.store, Addr: e.addr, Token: secret, Logger: e.o.Log})
	return err
}

func (e *embedded) suffer(ctx context.Context, f *figures) error {
	loading, stop := context.WithCancel(ctx)
	defer stop()
	var load errgroup.Group
	for n := range e.o.Hosts {
		h, err := newHost(e.o.Dir, n, e.o.Instances, []string{e.addr}, 0, e.o.Seed, e.witness, publishing, e.o.Log)
		if err != nil {
			return err
		}
		e.hosts = append(e.hosts, h)
		h.connect.Token = secret
		if err := h.start(); err != nil {
			return err
		}
		load.Go(func() error { return h.load(loading, e.o.Tick) })
	}
	err := recovered(ctx, e.hosts)
	for i := 0; i < e.o.Rounds && err == nil; i++ {
		e.o.Progress(fmt.Sprintf("%d of %d", i+1, e.o.Rounds))
		err = e.round(ctx, f)
	}
	stop()
	return errors.Join(err, load.Wait())
}

// recoverOneOf rounds is followed until everything is receipted; after the
// others the queue only has to take something again.
const recoverOneOf = 6

// working returns when the queue has taken a frame.
func (e *embedded) working(ctx context.Context) error {
	before, _ := e.witness.acknowledged()
	for deadline := time.Now().Add(recoverWithin); ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if now, _ := e.witness.acknowledged(); now > before {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the queue takes nothing for %v", recoverWithin)
		}
	}
	return ctx.Err()
}

// round has the queue forget once.
func (e *embedded) round(ctx context.Context, f *figures) error {
	what, old := wiped, e.store+".old"
	if e.rand.IntN(2) == 0 {
		what = rolledBack
		if err := errors.Join(os.RemoveAll(old), copyTree(old, e.store)); err != nil {
			return err
		}
	}
	time.Sleep(time.Duration(e.rand.IntN(150)) * time.Millisecond)
	before := events(e.hosts)
	// The ledger is busy or down, so that the queue has something to forget.
	down := e.rand.IntN(2) == 0
	var err error
	if down {
		err = e.site.close()
	} else {
		e.site.hold()
	}
	time.Sleep(time.Duration(e.rand.IntN(150)) * time.Millisecond)
	e.queue.Shutdown()
	err = errors.Join(err, os.RemoveAll(e.store))
	if what == rolledBack {
		err = errors.Join(err, os.Rename(old, e.store))
	}
	err = errors.Join(err, e.serve())
	if down {
		err = errors.Join(err, e.site.open())
	} else {
		e.site.release()
	}
	if err != nil {
		return err
	}
	since := time.Now()
	// Most come before the agents have got over the last one.
	if e.rand.IntN(recoverOneOf) > 0 {
		err = e.working(ctx)
	} else {
		err = recovered(ctx, e.hosts)
	}
	if err == nil && events(e.hosts) == before {
		err = errors.New("nothing was measured meanwhile, the load is too low to prove anything")
	}
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	f.reached(what, time.Since(since))
	return nil
}
