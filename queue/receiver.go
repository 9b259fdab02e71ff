package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// ingestConsumer is the durable consumer of INGEST; one receiver uses it.
	ingestConsumer = "ledger"
	// ackWait is when a delivery that was not acknowledged is made again:
	// well beyond the longest commit.
	ackWait = 60 * time.Second
	// maxAckPending bounds the deliveries between queue and commit.
	maxAckPending = 8192
	// Read-ahead of the receiver: messages, and the bytes of one pull.
	pullMessages = 1024
	pullBytes    = 16 << 20
	// pullExpiry and heartbeat: a consumer that is gone is noticed after two
	// heartbeats without one.
	pullExpiry = 30 * time.Second
	heartbeat  = 2 * time.Second
	// clipBytes is what is kept of a message that is over the limit.
	clipBytes = 4 << 10
)

// Kind says what a [Delivery] is.
type Kind int

const (
	Frame             Kind = iota // Data is a packed frame
	CheckpointRequest             // the agent asks for its checkpoints: answer by Respond
	Unusable                      // Err says why; Data is the message or its beginning
)

// Delivery is one message of INGEST. It comes again, in this process or
// another, unless it is acknowledged.
type Delivery struct {
	Kind  Kind
	Agent odometer.AgentID // by the subject, on which only this agent may send; "" where that names none
	Data  []byte
	Err   error // of an Unusable one

	Subject     string
	Size        int       // of the message, in bytes
	Sequence    uint64    // in the stream
	Stored      time.Time // when the queue stored it
	Redelivered bool      // it was not acknowledged within a minute

	// Respond answers a CheckpointRequest with a JSON array; nil otherwise.
	Respond func([]byte) error
	// Ack tells the queue that the delivery is dealt with and deletes it. An
	// acknowledgement that is lost repeats the delivery.
	Ack func() error
}

// Receiver takes messages out of INGEST, in the order in which they were
// stored. There is one at a time on a queue, and it is not for concurrent use.
type Receiver struct {
	c    *Conn
	log  *slog.Logger
	wait time.Duration // ackWait
	iter jetstream.MessagesContext

	mu    sync.Mutex
	stats ReceiverStats
}

// ReceiverStats are what a receiver did since it was made.
type ReceiverStats struct {
	Messages    uint64
	Bytes       uint64
	Redelivered uint64
	Unusable    uint64
	Rebuilt     uint64 // times that the consumer had to be looked up or created again
	Err         error  // nil while it receives
}

// NewReceiver returns a receiver. The stream and the consumer are created by
// the first Receive, and again whenever they are gone.
func NewReceiver(c *Conn) *Receiver { return &Receiver{c: c, log: c.log, wait: ackWait} }

// Stats may be called at once with Receive.
func (r *Receiver) Stats() ReceiverStats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stats
}

// Receive waits for a message and returns it with what follows within linger,
// at most max. A stream that was wiped, a consumer that was deleted and a
// server that is away do not end it: it goes on trying until ctx is done, and
// returns ctx's error.
func (r *Receiver) Receive(ctx context.Context, max int, linger time.Duration) ([]Delivery, error) {
	first, err := r.first(ctx)
	if err != nil {
		return nil, err
	}
	batch := append(make([]Delivery, 0, min(max, pullMessages)), r.delivery(first))
	for until := time.Now().Add(linger); len(batch) < max; {
		wait := time.Until(until)
		if wait <= 0 {
			break
		}
		m, err := r.iter.Next(jetstream.NextMaxWait(wait))
		if err != nil {
			if !errors.Is(err, nats.ErrTimeout) {
				r.drop(err) // the next call sees to it
			}
			break
		}
		batch = append(batch, r.delivery(m))
	}
	return batch, nil
}

// first waits for the next message, over whatever breaks meanwhile.
func (r *Receiver) first(ctx context.Context) (jetstream.Msg, error) {
	for failures := 0; ; {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if r.iter == nil {
			if err := r.open(ctx); err != nil {
				failures++
				r.failed(err)
				r.c.heard(false)
				select {
				case <-ctx.Done():
				case <-time.After(backoff(failures, reconnectFirst, reconnectMost/2, rand.Float64)):
				}
				continue
			}
			failures = 0
			r.c.heard(true)
		}
		m, err := r.next(ctx)
		if err == nil {
			return m, nil
		}
		if ctx.Err() == nil {
			r.drop(err)
		}
	}
}

// next waits for a message until ctx is done, the iterator fails or the
// connection has been made anew.
func (r *Receiver) next(ctx context.Context) (jetstream.Msg, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer r.c.onConnected(func() { cancel(errReconnected) })()
	m, err := r.iter.Next(jetstream.NextContext(ctx))
	if err != nil && context.Cause(ctx) != nil {
		err = context.Cause(ctx)
	}
	return m, err
}

var errReconnected = errors.New("the connection was made anew")

// open looks up or creates the stream and begins to pull. The consumer is
// made anew, so that what an earlier one had delivered and nobody
// acknowledged comes again at once and in its place: it would otherwise come
// after ackWait, behind younger frames of the same agents.
func (r *Receiver) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	stream, err := r.c.ensure(ctx, r.c.ingestConfig())
	if err != nil {
		return err
	}
	if err := stream.DeleteConsumer(ctx, ingestConsumer); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return unavailable("delete consumer "+ingestConsumer, err)
	}
	consumer, err := stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable:       ingestConsumer,
		Description:   "Takes frames into the ledger; acknowledged after its commit",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       r.wait,
		MaxAckPending: maxAckPending,
		MaxDeliver:    -1,
	})
	if err != nil {
		return unavailable("create consumer "+ingestConsumer, err)
	}
	iter, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(pullMessages, pullBytes),
		jetstream.PullExpiry(pullExpiry), jetstream.PullHeartbeat(heartbeat), jetstream.PullThresholdMessages(pullMessages/2))
	if err != nil {
		return unavailable("pull from "+IngestStream, err)
	}
	r.iter = iter
	r.mu.Lock()
	r.stats.Rebuilt++
	r.stats.Err = nil
	r.mu.Unlock()
	return nil
}

// drop gives the iterator up, to open another. Deliveries that it held are
// made again.
func (r *Receiver) drop(err error) {
	r.Close()
	if !errors.Is(err, errReconnected) {
		r.failed(fmt.Errorf("queue: receive: %w: %w", odometer.ErrUnavailable, err))
	}
}

func (r *Receiver) failed(err error) {
	r.mu.Lock()
	before := r.stats.Err
	r.stats.Err = err
	r.mu.Unlock()
	if before == nil {
		r.log.Warn("nothing is received from the queue: trying on", "err", err)
	}
}

// Close stops pulling. What was delivered and not acknowledged is delivered
// again to the next receiver. Receive may be called again.
func (r *Receiver) Close() {
	if r.iter != nil {
		r.iter.Stop()
		r.iter = nil
	}
}

// delivery makes a message known by what it is.
func (r *Receiver) delivery(m jetstream.Msg) Delivery {
	d := Read(m.Subject(), m.Headers(), m.Data())
	d.Ack = func() error {
		if err := m.Ack(); err != nil {
			return fmt.Errorf("queue: acknowledge a delivery: %w", sendError(err))
		}
		return nil
	}
	if meta, err := m.Metadata(); err == nil {
		d.Sequence, d.Stored, d.Redelivered = meta.Sequence.Stream, meta.Timestamp, meta.NumDelivered > 1
	}
	if d.Kind == CheckpointRequest {
		reply, agent := m.Headers().Get(headerReply), d.Agent
		d.Respond = func(checkpoints []byte) error { return r.c.respond(agent, reply, checkpoints) }
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stats.Messages++
	r.stats.Bytes += uint64(d.Size)
	if d.Redelivered {
		r.stats.Redelivered++
	}
	if d.Err != nil {
		r.stats.Unusable++
	}
	return d
}

// Read makes a message of INGEST known by what it is. How it came, and how it
// is answered and acknowledged, is for the caller to add.
func Read(subject string, header map[string][]string, data []byte) Delivery {
	d := Delivery{Subject: subject, Data: data, Size: len(data)}
	d.Agent, d.Err = agentOf(subject, ingestPrefix)
	format := nats.Header(header).Get(headerFormat)
	switch {
	case d.Err != nil:
		d.Agent = ""
	case len(data) > odometer.MaxFramePacked:
		d.Err = fmt.Errorf("the message has %d bytes, at most %d are allowed: %w", len(data), odometer.MaxFramePacked, odometer.ErrInvalid)
	case format == formatCheckpoint:
		d.Kind = CheckpointRequest
	case !isFrame(format):
		d.Err = fmt.Errorf("format %q is not known here: %w", clip(format), odometer.ErrInvalid)
	}
	if d.Err != nil {
		d.Kind = Unusable
		d.Data = d.Data[:min(len(d.Data), clipBytes)]
	}
	return d
}

// inboxOf reports whether a subject is one to which this agent may have
// answers sent: one of its own inboxes.
func inboxOf(agent odometer.AgentID, subject string) bool {
	rest, ok := strings.CutPrefix(subject, inboxPrefix+Token(string(agent))+".")
	return ok && rest != "" && !strings.ContainsAny(rest, " \t\r\n*>") && len(subject) < 1024
}
