package main

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// site is the server: receiver, ingest, ledger, receipts and feed, joined as
// the program joins them.
type site struct {
	dir     string
	connect queue.ConnectOptions
	log     *slog.Logger
	witness *witness

	mu     sync.Mutex
	ledger *ledger.Ledger
	conn   *queue.Conn
	feed   *queue.Feed
	stop   context.CancelFunc
	ended  sync.WaitGroup
	failed error // of a stage that ended by itself

	gate sync.RWMutex // held for writing while nothing is received

	rewinds uint64 // of feeds before this one
}

func newSite(dir string, connect queue.ConnectOptions, w *witness, log *slog.Logger) *site {
	connect.Logger = log.With("server", "")
	return &site{dir: dir, connect: connect, log: connect.Logger, witness: w}
}

// open starts the server.
func (s *site) open() error {
	ctx, stop := context.WithCancel(context.Background())
	led, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(s.dir, "ledger.db"), Logger: s.log})
	if err != nil {
		stop()
		return err
	}
	conn, err := queue.Connect(s.connect)
	if err != nil {
		stop()
		return errors.Join(err, led.Close())
	}
	if err := conn.EnsureStreams(ctx); err != nil {
		s.log.Warn("the queue's streams cannot be looked after yet", "err", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ledger, s.conn, s.stop = led, conn, stop
	s.feed = queue.NewFeed(conn, ledger.Feed{Ledger: led, Name: feedName})
	in := ingest.New(ingest.Options{Ledger: led, Receipts: conn, Logger: s.log})
	s.stage(ctx, s.feed.Run)
	s.stage(ctx, func(ctx context.Context) error {
		return conn.ServeReceipts(ctx, func(_ context.Context, a odometer.AgentID, id odometer.SpoolID) (odometer.Receipt, error) {
			return led.Receipt(a, id), nil
		})
	})
	s.stage(ctx, func(ctx context.Context) error { return in.Run(ctx, deliveries{queue.NewReceiver(conn), s}) })
	s.stage(ctx, func(ctx context.Context) error {
		for ctx.Err() == nil {
			if err := led.Tick(ctx); err != nil && ctx.Err() == nil {
				return err
			}
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Second):
			}
		}
		return nil
	})
	return nil
}

func (s *site) stage(ctx context.Context, run func(context.Context) error) {
	s.ended.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.failed = errors.Join(s.failed, err)
		}
	})
}

// close stops the server and returns why a stage ended before that.
func (s *site) close() error {
	s.mu.Lock()
	if s.ledger == nil {
		s.mu.Unlock()
		return nil
	}
	s.stop()
	s.mu.Unlock()
	s.ended.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rewinds += s.feed.Stats().Rewinds
	s.conn.Close()
	err := errors.Join(s.failed, s.ledger.Close())
	s.ledger = nil
	return err
}

// hold keeps the server from receiving, as a ledger does that cannot commit,
// until release.
func (s *site) hold()    { s.gate.Lock() }
func (s *site) release() { s.gate.Unlock() }

// deliveries gives ingest what the queue delivers.
type deliveries struct {
	from *queue.Receiver
	site *site
}

func (d deliveries) Receive(ctx context.Context) ([]ingest.Delivery, error) {
	got, err := d.from.Receive(ctx, 1000, 2*time.Millisecond)
	if err != nil {
		return nil, err
	}
	d.site.gate.RLock()
	defer d.site.gate.RUnlock()
	list := make([]ingest.Delivery, len(got))
	for i, g := range got {
		d.site.witness.delivered(g.Data, g.Sequence, g.Stored)
		list[i] = ingest.Delivery{Agent: g.Agent, Data: g.Data, Err: g.Err, Respond: g.Respond, Ack: g.Ack}
	}
	return list, nil
}

// feedName names the cursor of the topic in the ledger.
const feedName = "usage"
