package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// ingestRate measures how fast events get from the publication of their frame
// to a durable commit of the ledger, in one process, with fsync at both ends
// and frames of 100 events. The limit is the slower of the bare parts:
// JetStream storing the same frames, and SQLite storing the same open state.
func ingestRate(name string, instances, ticks int, checkpoints bool) func(*bench) error {
	return func(b *bench) error {
		if b.quick {
			return ingestOf(b, name, instances/50, 2, checkpoints)
		}
		return ingestOf(b, name, instances, ticks, checkpoints)
	}
}

func ingestOf(b *bench, name string, instances, ticks int, checkpoints bool) error {
	f := newHosts(instances)
	f.checkpoints = checkpoints
	frames, rows, err := f.packed(ticks)
	if err != nil {
		return err
	}
	js, err := bareJetStream(b.place("jetstream"), frames)
	if err != nil {
		return fmt.Errorf("bare JetStream: %w", err)
	}
	sq, err := bareSQLite(b.place("bare.db"), rows)
	if err != nil {
		return fmt.Errorf("bare SQLite: %w", err)
	}
	p, err := newPipeline(b.place("pipeline"), "")
	if err != nil {
		return err
	}
	defer p.close()
	cpu := cpuTime()
	took, err := p.take(frames, len(rows))
	if err != nil {
		return err
	}
	cpu = cpuTime() - cpu
	rate := func(d time.Duration) float64 { return float64(len(rows)) / d.Seconds() }
	b.rate(name, rate(took), "events/s", min(rate(js), rate(sq)))
	b.note("%s: bare JetStream %.0f events/s, bare SQLite %.0f rows/s; %.1f µs of processor time an event", name, rate(js), rate(sq), float64(cpu.Microseconds())/float64(len(rows)))
	return nil
}

// cpuTime returns the processor time that the process has used.
func cpuTime() time.Duration {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r) // cannot fail
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// pipeline is a server without its API: queue, ingest and ledger.
type pipeline struct {
	server *queue.Server
	conn   *queue.Conn
	ledger *ledger.Ledger
	stop   context.CancelFunc
	done   chan error

	receipted atomic.Int64 // spool positions, of all spools
	at        map[odometer.SpoolID]uint64
}

// newPipeline starts a pipeline in dir, on a new ledger or on one at path.
func newPipeline(dir, path string) (*pipeline, error) {
	p := &pipeline{done: make(chan error, 1), at: map[odometer.SpoolID]uint64{}}
	if path == "" {
		path = filepath.Join(dir, "ledger.db")
	}
	var err error
	if p.server, err = queue.StartServer(queue.ServerOptions{StoreDir: filepath.Join(dir, "nats")}); err != nil {
		return nil, err
	}
	if p.conn, err = queue.Connect(queue.ConnectOptions{Server: p.server, Name: "bench"}); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	if err := p.conn.EnsureStreams(ctx); err != nil {
		return nil, err
	}
	if p.ledger, err = ledger.Open(ctx, ledger.Options{Path: path}); err != nil {
		return nil, err
	}
	in := ingest.New(ingest.Options{Ledger: p.ledger, Receipts: p})
	go func() { p.done <- in.Run(ctx, deliveries{queue.NewReceiver(p.conn)}) }()
	return p, nil
}

// SendReceipt counts what is committed and sends the receipt on.
func (p *pipeline) SendReceipt(r odometer.Receipt) error {
	p.receipted.Add(int64(r.Position - p.at[r.Spool]))
	p.at[r.Spool] = r.Position
	return p.conn.SendReceipt(r)
}

// take publishes frames, 64 in flight, and waits until all of their events
// are committed.
func (p *pipeline) take(frames []packedFrame, events int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	before, begin := p.receipted.Load(), time.Now()
	var window []func(context.Context) error
	for _, f := range frames {
		if len(window) == 64 {
			if err := window[0](ctx); err != nil {
				return 0, err
			}
			window = window[1:]
		}
		wait, err := p.conn.Send(queue.IngestSubject(f.agent), nil, f.data)
		if err != nil {
			return 0, err
		}
		window = append(window, wait)
	}
	for p.receipted.Load()-before < int64(events) {
		select {
		case err := <-p.done:
			return 0, errors.Join(errors.New("ingest ended early"), err)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return time.Since(begin), nil
}

func (p *pipeline) close() error {
	p.stop()
	err := errors.Join(<-p.done, p.ledger.Close())
	p.conn.Close()
	p.server.Shutdown()
	return err
}

// deliveries gives ingest what the queue receives.
type deliveries struct{ *queue.Receiver }

func (d deliveries) Receive(ctx context.Context) ([]ingest.Delivery, error) {
	got, err := d.Receiver.Receive(ctx, 100, time.Millisecond)
	list := make([]ingest.Delivery, len(got))
	for i, g := range got {
		list[i] = ingest.Delivery{Agent: g.Agent, Data: g.Data, Err: g.Err, Respond: g.Respond, Ack: g.Ack}
	}
	return list, err
}
