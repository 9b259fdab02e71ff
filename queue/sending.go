package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"example.org/odometer"
	"github.com/klauspost/compress/s2"
)

// frame is one frame that was sent and is not receipted.
type frame struct {
	from, last uint64 // positions: it covers those after from, up to last
	records    uint64
	sent       time.Time
	round      int
	stored     bool
	dropped    bool // sending went back before it: what comes of it is of no interest
	cancel     func()
}

type ack struct {
	frame *frame
	err   error
}

type answer struct {
	receipt odometer.Receipt
	err     error
}

// sending is the state of a running publisher: it decides, and has the world
// do it. It reads no clock but now, waits for nothing and starts no goroutine,
// so that a simulation can drive it step by step. One goroutine owns it.
type sending struct {
	*Publisher
	now     func() time.Time
	world   World
	breaker breaker

	// What was sent. The frames of out join: each covers what follows the one
	// before it, the first what follows last.Position, the last reaches to
	// cursor.
	cursor uint64
	out    []*frame
	flying int    // of out, not stored
	failed uint64 // where the last frame that failed ends
	round  int    // of sending: failures so far

	// What was receipted.
	last     odometer.Receipt
	progress time.Time // the last receipt that said more, or sending again
	stalls   int       // times of sending again without progress
	unmoved  time.Time // when the oldest of what is sent again was sent first
	rewound  bool      // sending went back to last.Position since the last progress

	// What is to be sent.
	hungry   bool // there may be more in the spool right now
	waiting  bool // a worker waits for more
	linger   time.Time
	retryAt  time.Time // the spool could not be read
	perFrame int
	format   int // of frames, as the server said last; format 1 until it has

	// Asking the server for the last receipt.
	asking    bool
	askedAt   odometer.Receipt // the last receipt when the question was put
	lastAsked time.Time
	heard     time.Time // the last receipt
	started   bool      // the first answer has come, or will not
}

// publishStats makes the state visible.
func (r *sending) publishStats() {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := &r.stats
	s.Position, s.Receipted, s.Ledger, s.Generation = r.cursor, r.last.Position, r.last.Ledger, r.last.Generation
	s.InFlight, s.Unreceipted, s.Oldest = r.flying, len(r.out), time.Time{}
	s.Stored = r.last.Position
	for i, f := range r.out {
		if i == 0 {
			s.Oldest = f.sent
			if r.stalls > 0 {
				s.Oldest = r.unmoved
			}
		}
		if !f.stored {
			break
		}
		s.Stored = f.last
	}
	s.Breaker, s.BreakerOpens, s.NextAttempt = r.breaker.state, r.breaker.opened, r.breaker.next
}

func (r *sending) count(f func(*PublisherStats)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.stats)
}

// deadline returns when there is something to do if nothing happens before,
// zero for never.
func (r *sending) deadline() time.Time {
	at := r.askAt()
	if r.hungry && r.started && r.room() {
		next := r.breaker.next
		for _, t := range []time.Time{r.retryAt, r.linger} {
			if t.After(next) {
				next = t
			}
		}
		if at.IsZero() || next.Before(at) {
			at = next
		}
	}
	return at
}

// since returns since when receipts are awaited, zero for not at all.
func (r *sending) since() time.Time {
	switch {
	case len(r.out) == 0 || !r.out[0].stored || r.breaker.failing():
		return time.Time{}
	case r.out[0].sent.Before(r.progress):
		return r.progress
	}
	return r.out[0].sent
}

// stalled reports whether the oldest frame is to be taken for lost.
func (r *sending) stalled(now time.Time) bool {
	since := r.since()
	return !since.IsZero() && !now.Before(since.Add(r.o.StallAfter<<min(r.stalls, stallGrowth)))
}

// askAt returns when the server is asked for the last receipt: early, because
// it may only be the receipt that was lost, and then when receipts have
// stalled; and now and then while there is nothing to send, because a ledger
// that was restored wants again what this spool still has.
func (r *sending) askAt() time.Time {
	since := r.since()
	switch {
	case r.asking:
		return time.Time{}
	case r.started && len(r.out) == 0 && !r.breaker.failing():
		if r.heard.After(r.lastAsked) {
			return r.heard.Add(askIdle)
		}
		return r.lastAsked.Add(askIdle)
	case since.IsZero():
		return time.Time{}
	case !r.lastAsked.After(since):
		return since.Add(r.o.StallAfter / 5)
	}
	return since.Add(r.o.StallAfter << min(r.stalls, stallGrowth))
}

// room reports whether another frame may be sent as far as the windows go.
// After a failure frames go one by one until one is stored. Where sending
// everything again has not helped, one frame is sent until the ledger takes it:
// a ledger that takes nothing for days would have the queue filled up with what
// the queue has.
func (r *sending) room() bool {
	window, unreceipted := r.o.Window, r.o.Unreceipted
	if r.breaker.failing() {
		window = 1
	}
	if r.stalls > 1 {
		unreceipted = 1
	}
	return r.flying < window && len(r.out) < unreceipted
}

// send sends a frame, if one may be sent now, and reports whether it did.
func (r *sending) send() bool {
	now := r.now()
	if !r.started || !r.hungry || !r.room() || now.Before(r.linger) || now.Before(r.retryAt) || !r.breaker.allow(now) {
		return false
	}
	r.linger = time.Time{}
	f, data, err := r.cut()
	switch {
	case err != nil:
		r.retryAt = now.Add(spoolRetry)
		r.log.Error("the spool cannot be read: trying on", "after", r.cursor, "err", err)
		r.count(func(s *PublisherStats) { s.Err = err })
		return false
	case f == nil:
		r.hungry = false
		r.await()
		return false
	}
	r.launch(f, data)
	return true
}

// await has the world report when there is more in the spool.
func (r *sending) await() {
	if r.waiting {
		return
	}
	r.waiting = true
	r.world.Await(r.cursor)
}

func (r *sending) noticed(err error) error {
	r.waiting = false
	if err != nil {
		return fmt.Errorf("publish: wait for the spool: %w", err)
	}
	if !r.hungry {
		r.hungry = true
		if r.o.Linger > 0 {
			r.linger = r.now().Add(r.o.Linger)
		}
	}
	return nil
}

// cut reads the next frame from the spool and packs it. No frame means that
// there is nothing to send.
func (r *sending) cut() (*frame, []byte, error) {
	records, err := r.read(r.perFrame)
	if err != nil || len(records) == 0 {
		return nil, nil, err
	}
	full := len(records) == r.perFrame
	for n := len(records); ; n = (n + 1) / 2 {
		fr := odometer.Frame{
			Agent: r.o.Agent, Spool: r.spool.ID(),
			First: records[0].First, Last: records[n-1].Position, Records: records[:n],
		}
		data, err := fr.EncodeAs(r.format)
		switch {
		case err == nil:
			r.fit(n, len(records), data)
			// A frame that was not full was all there is, for now.
			r.hungry = full || n < len(records)
			if !r.hungry {
				defer r.await()
			}
			f := &frame{from: r.cursor, last: fr.Last, records: uint64(n)}
			r.cursor = fr.Last
			return f, data, nil
		case !errors.Is(err, odometer.ErrInvalid):
			return nil, nil, fmt.Errorf("pack positions %d to %d: %w", fr.First, fr.Last, err)
		case n == 1 && records[0].Event != nil && records[0].Checkpoint != nil:
			// The event is what must arrive; without its checkpoint an agent
			// that loses its disk has a gap to declare.
			r.log.Error("a checkpoint is too large to be sent: its event goes without", "position", fr.Last, "bytes", len(records[0].Checkpoint))
			records[0].Checkpoint = nil
			n = 2
		case n == 1:
			return nil, nil, fmt.Errorf("position %d cannot be sent at all: %w", fr.Last, err)
		}
	}
}

// read returns up to n records after the cursor.
func (r *sending) read(n int) ([]odometer.Record, error) {
	var records []odometer.Record
	for rec, err := range r.spool.After(r.cursor) {
		if err != nil {
			if len(records) > 0 {
				break // what was readable goes first
			}
			return nil, err
		}
		records = append(records, rec)
		if len(records) == n {
			break
		}
	}
	return records, nil
}

// fit adapts how many records are read for a frame to what fits into one, so
// that packing rarely has to be repeated.
func (r *sending) fit(n, read int, data []byte) {
	size, err := s2.DecodedLen(data)
	if err != nil || size == 0 {
		return
	}
	most := min(n*frameTarget/size, n*packedTarget/len(data))
	if n == read && n < r.perFrame {
		most = max(most, r.perFrame) // too few to judge by
	}
	r.perFrame = max(1, min(r.o.FrameEvents, most))
}

// launch makes one attempt to send a frame.
func (r *sending) launch(f *frame, data []byte) {
	f.sent, f.round = r.now(), r.round
	r.out = append(r.out, f)
	r.flying++
	retry := r.breaker.failing()
	r.count(func(s *PublisherStats) {
		s.Frames++
		s.Bytes += uint64(len(data))
		s.Emitted += f.records
		if retry {
			s.Retries++
		}
	})
	header := map[string][]string{
		headerFormat:       {frameHeader[r.format].format},
		"Content-Type":     {frameHeader[r.format].media},
		"Content-Encoding": {"s2"},
	}
	f.cancel = r.world.Send(r.subject, header, data, r.o.AttemptTimeout, func(err error) {
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("the queue did not answer within %v: %w", r.o.AttemptTimeout, odometer.ErrUnavailable)
		}
		r.settle(ack{f, err})
	})
}

// settle takes what came of an attempt.
func (r *sending) settle(a ack) {
	a.frame.cancel()
	if a.frame.dropped || a.frame.stored {
		return
	}
	if a.err == nil {
		r.stored(a.frame)
		return
	}
	before := r.breaker.state
	r.breaker.failed(r.now())
	r.count(func(s *PublisherStats) {
		s.Failures++
		s.Err = a.err
	})
	if r.breaker.state == BreakerOpen && before == BreakerClosed {
		r.log.Warn("the queue takes nothing: the circuit breaker opens, events wait in the spool", "failures", r.breaker.failures, "next", r.breaker.next, "err", a.err)
	}
	r.failed = a.frame.last
	r.round++
	// Whatever was sent after it is sent again behind it.
	r.back(a.frame.from)
}

// stored notes that the queue has a frame.
func (r *sending) stored(f *frame) {
	f.stored = true
	r.flying--
	if f.round == r.round { // and not one that was under way when another failed
		if r.breaker.state != BreakerClosed {
			r.log.Info("the queue takes frames again: the circuit breaker closes")
		}
		r.breaker.succeeded()
	}
	r.count(func(s *PublisherStats) {
		s.Acknowledged += f.records
		s.LastAck, s.Err = r.now(), nil
	})
}

// back drops the frames that reach beyond a position, to go on sending after it.
func (r *sending) back(position uint64) {
	keep := len(r.out)
	for keep > 0 && r.out[keep-1].last > position {
		keep--
		f := r.out[keep]
		f.dropped = true
		if !f.stored {
			r.flying--
			f.cancel()
		}
	}
	r.out = r.out[:keep]
	r.cursor, r.hungry, r.linger = position, true, time.Time{}
}

// resend goes back to what was receipted last.
func (r *sending) resend(why string) {
	if r.cursor <= r.last.Position {
		return
	}
	r.log.Warn("sending again what the ledger has not receipted", "why", why, "after", r.last.Position, "sent", r.cursor)
	r.count(func(s *PublisherStats) { s.Resends++ })
	if r.breaker.state == BreakerHalfOpen && r.flying > 0 {
		// The probe is given up; the next attempt is another.
		r.breaker.state = BreakerOpen
	}
	r.back(r.last.Position)
	r.rewound, r.progress = true, r.now()
}

// receipt takes what the ledger says. A receipt may be overtaken by another:
// one that came by itself where the server changed to another node of the
// queue in between. So what says less than is known is not believed, unless it
// answers a question that was put when that much was known already: then the
// ledger has lost it.
func (r *sending) receipt(x odometer.Receipt, asked bool) {
	if x.Spool != r.spool.ID() || x.Agent != r.o.Agent {
		return // of a spool that this agent had before
	}
	r.format = min(max(x.Frames, odometer.FrameFormatJSON), odometer.FrameFormatBinary)
	same := x.Ledger == r.last.Ledger && x.Generation == r.last.Generation
	first := r.last.Ledger == ""
	switch {
	case !same && !first && x.Ledger == r.last.Ledger && x.Generation < r.last.Generation:
		return // sent before the ledger was restored
	case same && x.Position < r.last.Position && !asked:
		r.ask()
		return
	case same && x.Position < r.last.Position && (r.askedAt.Ledger != x.Ledger || r.askedAt.Generation != x.Generation || x.Position >= r.askedAt.Position):
		return
	}
	if err := r.spool.Ack(x); err != nil {
		r.log.Error("the spool does not take a receipt: it frees nothing for now", "position", x.Position, "err", err)
		r.count(func(s *PublisherStats) { s.Err = err })
		return
	}
	r.count(func(s *PublisherStats) {
		s.LastReceipt = r.now()
		if x.Position > r.last.Position {
			s.Committed += x.Position - r.last.Position
		}
	})
	before := r.last
	r.last, r.heard = x, r.now()
	r.last.Ahead = false
	if x.Position > before.Position || !same {
		r.progress, r.stalls, r.rewound = r.now(), 0, false
	}
	// What is receipted was stored, even if the queue did not say so.
	n := 0
	for n < len(r.out) && r.out[n].last <= x.Position {
		if f := r.out[n]; !f.stored {
			r.stored(f)
			f.cancel()
		}
		n++
	}
	r.out = append(r.out[:0], r.out[n:]...)
	if r.breaker.failing() && r.flying == 0 && x.Position >= r.failed {
		r.breaker.succeeded() // the frame that seemed to have failed is with the ledger
	}
	if x.Position > r.cursor {
		// More than was sent by this process: go on after it.
		r.back(x.Position)
	}
	switch {
	case x.Position < before.Position:
		r.resend("the ledger has gone back")
	case x.Ahead && !r.rewound:
		r.resend("the ledger misses something before")
	}
}

// ask has the world ask for the last receipt.
func (r *sending) ask() {
	if r.asking {
		return
	}
	r.asking, r.askedAt = true, r.last
	r.world.Ask(r.o.Agent, r.spool.ID(), askWithin, func(x odometer.Receipt, err error) { r.answered(answer{x, err}) })
}

// answered takes the answer to the question for the last receipt, with which
// sending starts and a stall is judged.
func (r *sending) answered(a answer) {
	r.asking = false
	r.lastAsked = r.now()
	if a.err == nil {
		r.receipt(a.receipt, true)
	}
	if !r.started {
		r.started = true
		return
	}
	if r.stalled(r.now()) {
		if r.stalls++; r.stalls == 1 {
			r.unmoved = r.out[0].sent
		}
		why := "no receipt came"
		if a.err != nil {
			why += ", and nobody says what the last one was"
		}
		r.resend(why)
	}
}

// listen asks, when receipts have been awaited for long.
func (r *sending) listen() {
	if at := r.askAt(); !at.IsZero() && !r.now().Before(at) {
		r.ask()
	}
}
