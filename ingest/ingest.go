// Package ingest takes what the queue delivers into the ledger.
//
// It opens each delivery, sees to it that an agent speaks only for itself,
// and commits many frames in one transaction: while one commit is being made
// durable the next batch gathers, so that the cost of a disk flush is shared
// by everything that arrived meanwhile. Events that come over HTTP join the
// same batches ([Ingest.Submit]).
//
// A delivery is acknowledged, and its receipt sent, only after the ledger's
// commit has returned. A crash before that leaves the delivery with the
// queue, which delivers it again; a crash after it repeats an acknowledgement
// or a receipt, which changes nothing. Nothing is dropped: what cannot be
// opened goes into quarantine as it came. While the ledger cannot commit, the
// same batch is offered again until it can.
package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"example.org/odometer"
	"golang.org/x/sync/errgroup"
)

// Ledger is where deliveries go; package ledger documents its promises.
type Ledger interface {
	Commit(ctx context.Context, frames []odometer.Frame) ([][]odometer.Result, []odometer.Receipt, error)
	Checkpoints(ctx context.Context, agent odometer.AgentID) ([]json.RawMessage, error)
}

// Receiver is where deliveries come from, in the order of each agent's
// sending. Receive blocks until there is at least one.
type Receiver interface {
	Receive(ctx context.Context) ([]Delivery, error)
}

// Receipts tells agents how far they are committed. A receipt that is lost
// does no harm: the next one says more.
type Receipts interface {
	SendReceipt(odometer.Receipt) error
}

// Delivery is one message of the queue.
type Delivery struct {
	// Agent is who sent it, as the queue knows.
	Agent odometer.AgentID
	// Data is a packed frame; empty in a request for checkpoints.
	Data []byte
	// Err says why Data cannot be a frame, where the receiver saw that
	// already: it was over the limit and Data is its beginning.
	Err error
	// Respond answers a request for the agent's checkpoints; nil in a frame.
	Respond func([]byte) error
	// Ack tells the queue that the delivery is dealt with.
	Ack func() error
}

// Batch limits. A commit of 20,000 events takes about as long as gathering
// the next 20,000; more only adds delay.
const (
	maxBatchEvents = 20_000
	maxBatchFrames = 1_000
	retryFirst     = 100 * time.Millisecond
	retryMost      = 5 * time.Second
	frameBytes     = 200 << 10 // of a frame made from events that came over HTTP
)

// Options of an [Ingest]; Logger and Sleep may be nil.
type Options struct {
	Ledger   Ledger
	Receipts Receipts
	Logger   *slog.Logger
	// IsHost reports whether an agent is or was enrolled as a host: an event that it
	// sends and that another agent measured goes to quarantine. It waits for nothing; nil
	// for nobody. Who comes with the administrator's token may replay what others
	// measured.
	IsHost func(odometer.AgentID) bool
	// Elsewhere returns another agent with which an instance is known to run, "" for
	// none: what a host sends of it goes to quarantine until it has moved. It waits for
	// nothing; nil where it is not known.
	Elsewhere func(odometer.InstanceID, odometer.AgentID) odometer.AgentID
	// Sleep waits between two tries; by the real clock where it is nil.
	Sleep func(context.Context, time.Duration) error
}

// Ingest joins the queue to the ledger. Submit and Stats may be called at
// once with Run and with each other.
type Ingest struct {
	ledger   Ledger
	receipts Receipts
	logger   *slog.Logger
	isHost   func(odometer.AgentID) bool
	runs     func(odometer.InstanceID, odometer.AgentID) odometer.AgentID // elsewhere
	sleep    func(context.Context, time.Duration) error
	items    chan item
	ended    chan struct{} // closed when Run has ended
	stats    counters
}

// item is a delivery or a submission, opened and on its way to a commit.
type item struct {
	delivery *Delivery
	frames   []odometer.Frame
	answer   chan<- answer // of a submission
}

type answer struct {
	results []odometer.Result
	err     error
}

func (it *item) events() (n int) {
	for i := range it.frames {
		n += len(it.frames[i].Records)
	}
	return n
}

// New returns an Ingest that begins to work when Run is called.
func New(o Options) *Ingest {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.IsHost == nil {
		o.IsHost = func(odometer.AgentID) bool { return false }
	}
	if o.Elsewhere == nil {
		o.Elsewhere = func(odometer.InstanceID, odometer.AgentID) odometer.AgentID { return "" }
	}
	return &Ingest{ledger: o.Ledger, receipts: o.Receipts, logger: o.Logger, isHost: o.IsHost, runs: o.Elsewhere, sleep: o.Sleep, items: make(chan item, maxBatchFrames), ended: make(chan struct{})}
}

// Run moves deliveries into the ledger until ctx is done, and then returns
// nil after the commit that is under way; it returns an error when the ledger
// can never again be written by this process. It must be called once.
func (in *Ingest) Run(ctx context.Context, from Receiver) error {
	defer close(in.ended)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return in.receive(ctx, from) })
	g.Go(func() error { return in.commit(ctx) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// receive opens deliveries and queues them for the next commit.
func (in *Ingest) receive(ctx context.Context, from Receiver) error {
	wait := retryFirst
	for {
		deliveries, err := from.Receive(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			in.stats.receiveErrors.Add(1)
			in.logger.Warn("cannot receive from the queue; trying again", "error", err, "in", wait)
			if err := in.sleep(ctx, wait); err != nil {
				return err
			}
			wait = min(2*wait, retryMost)
			continue
		}
		wait = retryFirst
		for i := range deliveries {
			select {
			case in.items <- in.open(&deliveries[i]):
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}

// open decodes a delivery. A frame that says it comes from somebody else than
// the queue knows is broken.
func (in *Ingest) open(d *Delivery) item {
	it := item{delivery: d}
	if d.Respond != nil {
		return it
	}
	err := d.Err
	if err == nil {
		var f *odometer.Frame
		f, err = odometer.DecodeFrame(d.Data)
		if err == nil && f.Agent != d.Agent {
			err = fmt.Errorf("the frame says it comes from %q, it was sent by %q: %w", f.Agent, d.Agent, odometer.ErrInvalid)
		}
		if err == nil {
			if in.isHost(d.Agent) {
				in.refuseOthers(f)
			}
			it.frames = []odometer.Frame{*f}
			return it
		}
	}
	it.frames = []odometer.Frame{{Agent: d.Agent, Packed: d.Data, Err: err}}
	return it
}

// refuseOthers marks the events of a host's frame whose word is not to be taken: those
// that another agent measured, and those of instances that run with another one. The
// rest of the frame is not held up.
func (in *Ingest) refuseOthers(f *odometer.Frame) {
	for i := range f.Records {
		r := &f.Records[i]
		if r.Event == nil || r.Event.Agent == "" {
			continue
		}
		if e := r.Event; e.Agent != f.Agent {
			r.Refused = &odometer.Refusal{Reason: odometer.RefusedSender, Detail: fmt.Sprintf("it says that %q measured it, and was sent by the host %q", e.Agent, f.Agent)}
		} else if other := in.runs(e.Instance, f.Agent); other != "" {
			r.Refused = &odometer.Refusal{Reason: odometer.RefusedForeign, Detail: fmt.Sprintf("%s runs with %q, as far as is known, and was sent by the host %q", e.Instance, other, f.Agent)}
		}
	}
}

// commit gathers what has arrived and commits it, again and again.
func (in *Ingest) commit(ctx context.Context) error {
	for {
		batch, err := in.gather(ctx)
		if err != nil {
			return err
		}
		if err := in.settle(ctx, batch); err != nil {
			return err
		}
	}
}

// gather blocks for the first item and takes what else is there.
func (in *Ingest) gather(ctx context.Context) ([]item, error) {
	var batch []item
	select {
	case it := <-in.items:
		batch = append(batch, it)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	for events := batch[0].events(); events < maxBatchEvents && len(batch) < maxBatchFrames; {
		select {
		case it := <-in.items:
			batch = append(batch, it)
			events += it.events()
		default:
			return batch, nil
		}
	}
	return batch, nil
}

// Settle takes deliveries into the ledger as one batch, in place of Run: it
// returns nil when they are committed, receipted and acknowledged, and
// otherwise as Run does. It is not for use at once with Run.
func (in *Ingest) Settle(ctx context.Context, deliveries []Delivery) error {
	batch := make([]item, len(deliveries))
	for i := range deliveries {
		batch[i] = in.open(&deliveries[i])
	}
	return in.settle(ctx, batch)
}

// settle commits a batch and tells everybody. Submissions are refused when
// the first try fails: their callers wait and can send again. Deliveries are
// offered until they are in.
func (in *Ingest) settle(ctx context.Context, batch []item) error {
	for wait := retryFirst; ; wait = min(2*wait, retryMost) {
		var frames []odometer.Frame
		for i := range batch {
			frames = append(frames, batch[i].frames...)
		}
		begin := time.Now()
		results, receipts, err := in.try(ctx, frames)
		if err == nil {
			in.stats.committed(frames, results, time.Since(begin))
			in.tell(ctx, batch, results, receipts)
			return nil
		}
		in.stats.commitErrors.Add(1)
		batch = refuse(batch, err)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if permanent(err) {
			return err
		}
		in.logger.Error("the ledger cannot commit; nothing is lost, trying again", "error", err, "in", wait)
		if len(batch) == 0 {
			return nil
		}
		if err := in.sleep(ctx, wait); err != nil {
			return err
		}
	}
}

// try commits frames, if there are any. A commit that has begun is not
// cancelled.
func (in *Ingest) try(ctx context.Context, frames []odometer.Frame) ([][]odometer.Result, []odometer.Receipt, error) {
	if len(frames) == 0 {
		return nil, nil, nil
	}
	return in.ledger.Commit(context.WithoutCancel(ctx), frames)
}

// permanent reports whether a failed commit can never succeed: the ledger
// marks such errors with a method Permanent.
func permanent(err error) bool {
	var p interface{ Permanent() bool }
	return errors.As(err, &p) && p.Permanent()
}

// refuse answers the submissions of a batch that did not commit and returns
// the deliveries.
func refuse(batch []item, why error) []item {
	var rest []item
	for _, it := range batch {
		if it.answer == nil {
			rest = append(rest, it)
			continue
		}
		it.answer <- answer{err: fmt.Errorf("nothing was stored: %w", errors.Join(odometer.ErrUnavailable, why))}
	}
	return rest
}

// tell acknowledges what was committed, sends receipts and answers
// submissions. Failures are logged: what they lose is repeated.
func (in *Ingest) tell(ctx context.Context, batch []item, results [][]odometer.Result, receipts []odometer.Receipt) {
	var last []odometer.Receipt // of each spool, in the order of their first frames
	of := map[odometer.SpoolID]int{}
	for _, it := range batch {
		n := len(it.frames)
		if it.answer != nil {
			var all []odometer.Result
			for _, r := range results[:n] {
				all = append(all, r...)
			}
			it.answer <- answer{results: all}
		}
		for _, r := range receipts[:n] {
			if r.Spool == "" {
				continue
			}
			i, ok := of[r.Spool]
			if !ok {
				i = len(last)
				of[r.Spool], last = i, append(last, r)
			}
			last[i] = r
		}
		results, receipts = results[n:], receipts[n:]
		if it.delivery == nil {
			continue
		}
		if it.delivery.Respond != nil {
			in.respond(ctx, it.delivery)
		}
		if err := it.delivery.Ack(); err != nil {
			in.logger.Warn("cannot acknowledge a delivery; it will come again", "agent", it.delivery.Agent, "error", err)
		}
	}
	for _, r := range last {
		if err := in.receipts.SendReceipt(r); err != nil {
			in.logger.Warn("cannot send a receipt; the next one will do", "agent", r.Agent, "error", err)
		}
	}
}

// respond answers an agent that lost its disk with its checkpoints. Every
// frame that it sent before has been committed by now.
func (in *Ingest) respond(ctx context.Context, d *Delivery) {
	list, err := in.ledger.Checkpoints(ctx, d.Agent)
	if err == nil {
		var data []byte
		if data, err = json.Marshal(list); err == nil {
			err = d.Respond(data)
		}
	}
	if err != nil {
		in.logger.Warn("cannot answer a request for checkpoints; the agent will ask again", "agent", d.Agent, "error", err)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Stats are figures since the start.
type Stats struct {
	Frames        int64         `json:"frames"`
	Events        int64         `json:"events"`
	Commits       int64         `json:"commits"`
	CommitErrors  int64         `json:"commit_errors"`
	ReceiveErrors int64         `json:"receive_errors"`
	Ahead         int64         `json:"ahead"` // frames not taken because something before them was missing
	Waiting       int           `json:"waiting"`
	LastCommit    time.Time     `json:"last_commit"`
	CommitTime    time.Duration `json:"commit_time_ns"` // of the last commit
}

type counters struct {
	frames, events, commits, commitErrors, receiveErrors, ahead, lastCommit, commitTime atomic.Int64
}

func (c *counters) committed(frames []odometer.Frame, results [][]odometer.Result, took time.Duration) {
	if len(frames) == 0 {
		return
	}
	for i := range results {
		c.events.Add(int64(len(results[i])))
		if results[i] == nil && frames[i].Spool != "" && frames[i].Err == nil && len(frames[i].Records) > 0 {
			c.ahead.Add(1)
		}
	}
	c.frames.Add(int64(len(frames)))
	c.commits.Add(1)
	c.commitTime.Store(int64(took))
	c.lastCommit.Store(time.Now().UnixNano())
}

// Stats returns the figures so far.
func (in *Ingest) Stats() Stats {
	c := &in.stats
	s := Stats{
		Frames: c.frames.Load(), Events: c.events.Load(), Commits: c.commits.Load(), CommitErrors: c.commitErrors.Load(),
		ReceiveErrors: c.receiveErrors.Load(), Ahead: c.ahead.Load(), Waiting: len(in.items), CommitTime: time.Duration(c.commitTime.Load()),
	}
	if t := c.lastCommit.Load(); t != 0 {
		s.LastCommit = time.Unix(0, t)
	}
	return s
}
