package queue

import (
	"context"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go/jetstream"
)

// benchEvents in a frame, as a host with many instances sends them.
const benchEvents = 100

// BenchmarkJetStream is what the queue does without this package: packed
// frames, 64 in flight, every one synced to disk.
func BenchmarkJetStream(b *testing.B) {
	c := connect(b, ConnectOptions{Server: serving(b, b.TempDir(), anyPort)})
	if err := c.EnsureStreams(b.Context()); err != nil {
		b.Fatal(err)
	}
	s := newSpool()
	s.append(benchEvents)
	frame := odometer.Frame{Agent: testAgent, Spool: testSpool, First: 1, Last: benchEvents, Records: s.records}
	data, err := frame.Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	var window []jetstream.PubAckFuture
	settle := func() {
		select {
		case <-window[0].Ok():
		case err := <-window[0].Err():
			b.Fatal(err)
		}
		window = window[1:]
	}
	for range b.N {
		if len(window) == 64 {
			settle()
		}
		f, err := c.js.PublishAsync("odometer.ingest.bench", data)
		if err != nil {
			b.Fatal(err)
		}
		window = append(window, f)
	}
	for len(window) > 0 {
		settle()
	}
	report(b, len(data))
}

// BenchmarkPublishReceive is the way from the spool to the ledger's receipt:
// pack, publish, sync, receive, unpack, receipt.
func BenchmarkPublishReceive(b *testing.B) {
	srv := serving(b, b.TempDir(), anyPort)
	spool := newSpool()
	spool.append(b.N * benchEvents)
	server, agent := connect(b, ConnectOptions{Server: srv}), connected(b, srv, testAgent)
	ledger := newLedger()
	in := ingest(b, server, ledger, nil)
	eventually(b, "the stream is there", func() bool { return in.r.Stats().Rebuilt > 0 })
	p := NewPublisher(agent, spool, PublisherOptions{Agent: testAgent, FrameEvents: benchEvents})
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	b.ResetTimer()
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	for p.Stats().Receipted < uint64(b.N*benchEvents) {
		time.Sleep(100 * time.Microsecond)
	}
	b.StopTimer()
	st := p.Stats()
	report(b, int(st.Bytes/st.Frames))
	if st.Resends > 0 || st.Failures > 0 {
		b.Errorf("resends %d, failures %d, want none", st.Resends, st.Failures)
	}
}

// BenchmarkReceive is receiving and acknowledging alone.
func BenchmarkReceive(b *testing.B) {
	c := connect(b, ConnectOptions{Server: serving(b, b.TempDir(), anyPort)})
	if err := c.EnsureStreams(b.Context()); err != nil {
		b.Fatal(err)
	}
	for range b.N {
		if _, err := c.js.PublishAsync("odometer.ingest.bench", make([]byte, 8000)); err != nil {
			b.Fatal(err)
		}
		if c.js.PublishAsyncPending() > 1000 {
			<-c.js.PublishAsyncComplete()
		}
	}
	<-c.js.PublishAsyncComplete()
	r := NewReceiver(c)
	defer r.Close()
	b.ResetTimer()
	for n := 0; n < b.N; {
		batch, err := r.Receive(b.Context(), 100, time.Millisecond)
		if err != nil {
			b.Fatal(err)
		}
		for _, d := range batch {
			if err := d.Ack(); err != nil {
				b.Fatal(err)
			}
		}
		n += len(batch)
	}
	report(b, 8000)
}

// BenchmarkFeed publishes entries, one a message.
func BenchmarkFeed(b *testing.B) {
	c := connect(b, ConnectOptions{Server: serving(b, b.TempDir(), anyPort)})
	s := newSource()
	s.book(1, b.N)
	b.ResetTimer()
	feeding(b, c, s)
	for !s.caughtUp() {
		time.Sleep(100 * time.Microsecond)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
}

func report(b *testing.B, size int) {
	frames := float64(b.N) / b.Elapsed().Seconds()
	b.ReportMetric(frames, "frames/s")
	b.ReportMetric(frames*benchEvents, "events/s")
	b.ReportMetric(float64(size), "B/frame")
}
