package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

const (
	agent        = odometer.AgentID("bench-host")
	framesEvents = 100 // of the bare JetStream run: about what one host sends at once
)

// ingestRate measures how fast events get from an agent's spool to a durable
// commit of the ledger. The limit is the slower of the bare parts: JetStream
// storing the same frames, and SQLite storing the same open state.
func ingestRate(b *bench) error {
	events, instances := 200_000, 1_000
	if b.quick {
		events = 20_000
	}
	records := makeRecords(events, instances)
	js, err := bareJetStream(b.place("jetstream"), records)
	if err != nil {
		return fmt.Errorf("bare JetStream: %w", err)
	}
	sq, err := bareSQLite(b.place("bare.db"), records)
	if err != nil {
		return fmt.Errorf("bare SQLite: %w", err)
	}
	all, err := pipeline(b.place("pipeline"), records)
	if err != nil {
		return fmt.Errorf("pipeline: %w", err)
	}
	rate := func(d time.Duration) float64 { return float64(events) / d.Seconds() }
	b.rate("ingest", rate(all), "events/s", min(rate(js), rate(sq)))
	return nil
}

// makeRecords makes events as a host with many instances emits them: one of
// each instance in turn.
func makeRecords(events, instances int) []odometer.Record {
	const second = odometer.SecondMicros
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	totals := make([]odometer.Usage, instances)
	epochs := make([]odometer.Epoch, instances)
	records := make([]odometer.Record, 0, events)
	for n := range events {
		i, tick := n%instances, int64(n/instances)
		id := odometer.InstanceID(fmt.Sprintf("vm-%06d", i))
		if tick == 0 {
			epochs[i] = odometer.NewEpoch(id, agent, "bench", "")
			totals[i].Known = odometer.AllKnown
		}
		used := odometer.Usage{Known: odometer.AllKnown}
		v := int64(n*2654435761) & 0xfffff
		used.Vector = odometer.Vector{v * 20, 0, 0, 60 * second, 30 * 900, 30 * 2048, 30 * 20480, 30 * 40960, v * 3, v * 7, v, v * 2, 30 * second}
		e := &odometer.Event{
			Version: odometer.Version11, Instance: id, Agent: agent, Owner: odometer.Owner{User: odometer.UserID(fmt.Sprintf("u-%d", i%200)), Org: "o-acme"},
			Epoch: epochs[i], EpochStart: start, FirstSequence: uint64(tick + 1), Sequence: uint64(tick + 1), Quality: odometer.Measured,
			Span: odometer.Span{Start: start + tick*30*second, End: start + (tick+1)*30*second}, Usage: used, Readings: odometer.Readings{Start: totals[i]},
		}
		totals[i].Add(used)
		e.Readings.End = totals[i]
		e.Derive(0, 0)
		records = append(records, odometer.Record{Event: e})
	}
	return records
}

// pipeline measures from the first frame sent to the receipt of the last
// event: spool, frames, JetStream, ingest, ledger, receipt, with fsync at both
// ends. Filling the spool comes before and is not counted.
func pipeline(dir string, records []odometer.Record) (time.Duration, error) {
	sp, err := spool.Open(spool.Options{Dir: filepath.Join(dir, "spool")})
	if err != nil {
		return 0, err
	}
	defer sp.Close()
	for at := 0; at < len(records); at += 1000 {
		if err := sp.Append(records[at:min(at+1000, len(records))]); err != nil {
			return 0, err
		}
	}
	server, err := queue.StartServer(queue.ServerOptions{StoreDir: filepath.Join(dir, "nats")})
	if err != nil {
		return 0, err
	}
	defer server.Shutdown()
	conn, err := queue.Connect(queue.ConnectOptions{Server: server, Name: "bench"})
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	if err := conn.EnsureStreams(ctx); err != nil {
		return 0, err
	}
	led, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(dir, "ledger.db")})
	if err != nil {
		return 0, err
	}
	defer led.Close()
	in := ingest.New(ingest.Options{Ledger: led, Receipts: conn})
	publisher := queue.NewPublisher(conn, sp, queue.PublisherOptions{Agent: agent})
	done := make(chan error, 2)
	begin := time.Now()
	go func() { done <- in.Run(ctx, deliveries{queue.NewReceiver(conn)}) }()
	go func() { done <- publisher.Run(ctx) }()
	for sp.Stats().Acked < uint64(len(records)) {
		select {
		case err := <-done:
			return 0, errors.Join(errors.New("a stage ended early"), err)
		case <-time.After(time.Millisecond):
		}
		if time.Since(begin) > 5*time.Minute {
			return 0, errors.New("not finished after five minutes")
		}
	}
	took := time.Since(begin)
	stop()
	err = errors.Join(<-done, <-done)
	if s, e := led.Stats(context.Background()); e != nil || s.Counts["recorded"] != int64(len(records)) {
		err = errors.Join(err, e, fmt.Errorf("recorded %d of %d events", s.Counts["recorded"], len(records)))
	}
	return took, err
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
