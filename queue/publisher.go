package queue

import (
	"cmp"
	"context"
	"fmt"
	"iter"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"example.org/odometer"
)

// Spool is where a [Publisher] reads from; package spool documents its
// promises. Ack is told each receipt, stale ones too.
type Spool interface {
	ID() odometer.SpoolID
	After(position uint64) iter.Seq2[odometer.Record, error]
	Wait(ctx context.Context, after uint64) error
	Ack(odometer.Receipt) error
}

// Defaults of [PublisherOptions].
const (
	// DefaultWindow frames in flight keep the server's disk busy while the
	// acknowledgements travel.
	DefaultWindow = 16
	// DefaultUnreceipted frames may be stored and not receipted: enough for
	// the ledger to commit large batches, and bounded so that what is sent
	// again after a loss is bounded too.
	DefaultUnreceipted = 256
	// DefaultFrameEvents in a frame make the cost of a frame disappear.
	DefaultFrameEvents = 500
	// DefaultLinger lets the events of one tick gather into one frame.
	DefaultLinger = 20 * time.Millisecond
	// DefaultStallAfter is when a frame that is stored and not receipted is
	// taken for lost.
	DefaultStallAfter = 10 * time.Second
	// stallGrowth limits how often the same frames are sent again while the
	// ledger takes nothing: the wait doubles up to 32 times StallAfter.
	stallGrowth = 5
	// askWithin is how long the server may take to say its last receipt.
	askWithin = 2 * time.Second
	// askIdle is how often a publisher that has nothing to send asks for the
	// last receipt: rarely, since it only matters after a restore of the ledger.
	askIdle = 5 * time.Minute
	// frameTarget and packedTarget are the sizes to which a frame is cut: the
	// limits less what the next records may have more than those before.
	frameTarget  = odometer.MaxFrameUnpacked - 128<<10
	packedTarget = odometer.MaxFramePacked - 32<<10
	// spoolRetry is the wait after the spool could not be read.
	spoolRetry = time.Second
)

// PublisherOptions are the settings of a [Publisher]; zero fields take the
// defaults above and in the retry and breaker section.
type PublisherOptions struct {
	Agent odometer.AgentID
	// Last is the last receipt that the spool has recorded: sending starts
	// after its Position.
	Last odometer.Receipt

	Window      int           // frames in flight
	Unreceipted int           // frames sent and not receipted
	FrameEvents int           // records in a frame
	Linger      time.Duration // that a frame waits to be filled; negative for not at all
	StallAfter  time.Duration

	RetryFirst, RetryMost time.Duration
	AttemptTimeout        time.Duration
	BreakerThreshold      int
	BreakerDelay          time.Duration
	Random                func() float64 // in [0, 1); rand.Float64 if nil
	Logger                *slog.Logger
}

// Publisher sends what lies in an agent's spool to the queue and frees it by
// the ledger's receipts. Stats may be called at once with Run.
type Publisher struct {
	wire    Wire
	spool   Spool
	o       PublisherOptions
	log     *slog.Logger
	subject string

	mu    sync.Mutex
	stats PublisherStats
}

// PublisherStats are what a publisher did since it was made. Records are
// counted once for each time they pass, positions once.
type PublisherStats struct {
	Position     uint64 // of the spool, up to which was sent
	Stored       uint64 // … up to which the queue has acknowledged
	Receipted    uint64 // … up to which the ledger has committed
	Ledger       odometer.LedgerID
	Generation   uint64
	Emitted      uint64    // records handed to the queue
	Acknowledged uint64    // records that the queue acknowledged
	Committed    uint64    // positions that were receipted
	Frames       uint64    // attempts to send a frame
	Bytes        uint64    // packed, of these
	Retries      uint64    // attempts after a failed one, until one succeeds
	Failures     uint64    // attempts that failed
	Resends      uint64    // times that sending went back to the last receipt
	InFlight     int       // frames not acknowledged
	Unreceipted  int       // frames not receipted, those in flight included
	Oldest       time.Time // when the oldest of them was sent first, zero for none
	Breaker      BreakerState
	BreakerOpens uint64
	NextAttempt  time.Time // when failing, zero otherwise
	LastAck      time.Time
	LastReceipt  time.Time
	Err          error // of the last attempt or reading; nil after a success
}

// NewPublisher returns a publisher that begins to work when Run is called.
func NewPublisher(w Wire, s Spool, o PublisherOptions) *Publisher {
	o.Window = cmp.Or(max(0, o.Window), DefaultWindow)
	o.Unreceipted = cmp.Or(max(0, o.Unreceipted), DefaultUnreceipted)
	o.FrameEvents = cmp.Or(max(0, o.FrameEvents), DefaultFrameEvents)
	o.Linger = cmp.Or(o.Linger, DefaultLinger)
	o.StallAfter = cmp.Or(max(0, o.StallAfter), DefaultStallAfter)
	o.RetryFirst = cmp.Or(max(0, o.RetryFirst), DefaultRetryFirst)
	o.RetryMost = cmp.Or(max(0, o.RetryMost), DefaultRetryMost)
	o.AttemptTimeout = cmp.Or(max(0, o.AttemptTimeout), DefaultAttemptTimeout)
	o.BreakerThreshold = cmp.Or(max(0, o.BreakerThreshold), DefaultBreakerThreshold)
	o.BreakerDelay = cmp.Or(max(0, o.BreakerDelay), DefaultBreakerDelay)
	if o.Random == nil {
		o.Random = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Publisher{wire: w, spool: s, o: o, log: o.Logger, subject: IngestSubject(o.Agent)}
	p.stats = PublisherStats{
		Position: o.Last.Position, Stored: o.Last.Position, Receipted: o.Last.Position,
		Ledger: o.Last.Ledger, Generation: o.Last.Generation, Breaker: BreakerClosed,
	}
	return p
}

// Stats returns what was done so far and how things stand.
func (p *Publisher) Stats() PublisherStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stats
}

// Run sends until ctx is done, and then returns nil with no goroutine left
// behind. What was not receipted by then stays in the spool. An error says
// that the connection or the spool is closed for good. It must be called once.
func (p *Publisher) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	w := &wired{wire: p.wire, spool: p.spool, ctx: ctx, done: make(chan func())}
	defer w.workers.Wait()
	defer cancel()
	receipts, more := make(chan odometer.Receipt, 64), make(chan error)
	w.more = more
	stop, err := p.wire.Receipts(p.o.Agent, func(x odometer.Receipt) {
		select {
		case receipts <- x:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	defer stop()
	s := p.Steps(time.Now, w)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		timer.Stop()
		if at := s.Step(); !at.IsZero() {
			timer.Reset(time.Until(at)) // at once where there is more to send: after a look at what has come
		}
		select {
		case <-ctx.Done():
			return nil
		case tell := <-w.done:
			tell()
		case x := <-receipts:
			s.Receipt(x)
		case err := <-more:
			if ctx.Err() != nil {
				return nil
			}
			if err := s.More(err); err != nil {
				return err
			}
		case <-timer.C:
			s.Due()
		}
	}
}

// wired is the [World] of a publisher that runs: each thing that takes its
// time has a goroutine, which hands what came of it to the loop of Run.
type wired struct {
	wire    Wire
	spool   Spool
	ctx     context.Context
	workers sync.WaitGroup
	done    chan func()
	more    chan<- error
}

func (w *wired) tell(f func()) {
	select {
	case w.done <- f:
	case <-w.ctx.Done():
	}
}

// Send implements [World].
func (w *wired) Send(subject string, header map[string][]string, data []byte, within time.Duration, sent func(error)) func() {
	ctx, cancel := context.WithTimeout(w.ctx, within)
	wait, err := w.wire.Send(subject, header, data)
	w.workers.Go(func() {
		if err == nil {
			err = wait(ctx)
		}
		w.tell(func() { sent(err) })
	})
	return cancel
}

// Ask implements [World].
func (w *wired) Ask(agent odometer.AgentID, spool odometer.SpoolID, within time.Duration, answered func(odometer.Receipt, error)) {
	w.workers.Go(func() {
		ctx, cancel := context.WithTimeout(w.ctx, within)
		defer cancel()
		x, err := w.wire.LastReceipt(ctx, agent, spool)
		w.tell(func() { answered(x, err) })
	})
}

// Await implements [World].
func (w *wired) Await(after uint64) {
	w.workers.Go(func() {
		err := w.spool.Wait(w.ctx, after)
		select {
		case w.more <- err:
		case <-w.ctx.Done():
		}
	})
}
