package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Wire is what a [Publisher] needs of the queue: [Conn] is one.
type Wire interface {
	// Send hands one message over and does not wait for it to be stored.
	// Messages are stored in the order in which they are handed over, or not
	// at all. The wait that it returns is called once; it returns nil when
	// the message is stored, and otherwise why that is not known. After an
	// error, now or then, the message may have been stored nevertheless.
	Send(subject string, header map[string][]string, data []byte) (wait func(context.Context) error, err error)
	// Receipts calls take with each receipt for an agent, in the order in
	// which the ledger committed, until stop is called.
	Receipts(agent odometer.AgentID, take func(odometer.Receipt)) (stop func(), err error)
	// LastReceipt asks the server how far a spool is committed.
	LastReceipt(ctx context.Context, agent odometer.AgentID, spool odometer.SpoolID) (odometer.Receipt, error)
}

// Headers of messages in INGEST.
const (
	headerFormat = "Odometer-Format"
	headerReply  = "Odometer-Reply" // where the answer to a request goes
	headerError  = "Odometer-Error" // what went wrong, in an answer
	headerPart   = "Odometer-Part"  // 1, 2, 3 … of an answer in parts
	headerParts  = "Odometer-Parts" // how many there are

	formatCheckpoint = "checkpoint-request"
)

// frameHeader is what a message's header says of a frame in each format.
var frameHeader = [...]struct{ format, media string }{
	odometer.FrameFormatJSON:   {"frame-1", "application/x-ndjson"},
	odometer.FrameFormatBinary: {"frame-2", "application/octet-stream"},
}

// isFrame reports whether a message with this format is a frame. One that
// says nothing is taken for one: its content tells.
func isFrame(format string) bool {
	return slices.ContainsFunc(frameHeader[:], func(h struct{ format, media string }) bool { return h.format == format })
}

// Send implements [Wire].
func (c *Conn) Send(subject string, header map[string][]string, data []byte) (func(context.Context) error, error) {
	future, err := c.js.PublishMsgAsync(&nats.Msg{Subject: subject, Header: header, Data: data}, jetstream.WithRetryAttempts(0))
	if err != nil {
		return nil, sendError(err)
	}
	return func(ctx context.Context) error {
		select {
		case <-future.Ok():
			c.heard(true)
			return nil
		case err := <-future.Err():
			var api *jetstream.APIError
			c.heard(errors.As(err, &api) && api.Code != http.StatusServiceUnavailable)
			return sendError(err)
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				c.heard(false)
			}
			return ctx.Err()
		}
	}, nil
}

// sendError says what a failure to store a message means to a person.
func sendError(err error) error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return fmt.Errorf("the queue has no stream for it yet: %w", odometer.ErrUnavailable)
	case errors.Is(err, nats.ErrReconnectBufExceeded), errors.Is(err, nats.ErrDisconnected), errors.Is(err, nats.ErrConnectionClosed),
		errors.Is(err, nats.ErrConnectionReconnecting), errors.Is(err, nats.ErrNoServers):
		return fmt.Errorf("the queue cannot be reached: %w", odometer.ErrUnavailable)
	case errors.Is(err, jetstream.ErrAsyncPublishTimeout), errors.Is(err, nats.ErrTimeout), errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the queue did not answer in time: %w", odometer.ErrUnavailable)
	case errors.As(err, &api):
		return fmt.Errorf("the queue refused it: %s: %w", api.Description, odometer.ErrUnavailable)
	}
	return err
}

// Receipts implements [Wire].
func (c *Conn) Receipts(agent odometer.AgentID, take func(odometer.Receipt)) (func(), error) {
	sub, err := c.nc.Subscribe(receiptPrefix+Token(string(agent)), func(m *nats.Msg) {
		r, err := decodeReceipt(m.Data, agent)
		if err != nil {
			c.log.Warn("a receipt that cannot be read is ignored", "err", err)
			return
		}
		take(r)
	})
	if err != nil {
		return nil, unavailable("subscribe to receipts", err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}

// LastReceipt implements [Wire].
func (c *Conn) LastReceipt(ctx context.Context, agent odometer.AgentID, spool odometer.SpoolID) (odometer.Receipt, error) {
	m, err := c.nc.RequestWithContext(ctx, receiptRequestPrefix+Token(string(agent)), []byte(spool))
	if err != nil {
		return odometer.Receipt{}, fmt.Errorf("queue: ask for the last receipt: %w", requestError(err))
	}
	if why := m.Header.Get(headerError); why != "" {
		return odometer.Receipt{}, fmt.Errorf("queue: ask for the last receipt: the server says: %s: %w", why, odometer.ErrUnavailable)
	}
	return decodeReceipt(m.Data, agent)
}

func requestError(err error) error {
	if errors.Is(err, nats.ErrNoResponders) {
		return fmt.Errorf("nobody answers: %w", odometer.ErrUnavailable)
	}
	return sendError(err)
}

func decodeReceipt(data []byte, agent odometer.AgentID) (odometer.Receipt, error) {
	var r odometer.Receipt
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("receipt: %w: %w", odometer.ErrInvalid, err)
	}
	if r.Agent != agent || r.Spool == "" || r.Ledger == "" {
		return r, fmt.Errorf("receipt for agent %q, spool %q of ledger %q: %w", r.Agent, r.Spool, r.Ledger, odometer.ErrInvalid)
	}
	return r, nil
}

// SendReceipt tells an agent what the ledger has committed. It does not wait:
// a receipt that is lost does no harm, since the next says more and an agent
// that hears nothing asks.
func (c *Conn) SendReceipt(r odometer.Receipt) error {
	r.Frames = odometer.FrameFormatBinary
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("queue: receipt for %s: %w", r.Agent, err)
	}
	if err := c.nc.Publish(receiptPrefix+Token(string(r.Agent)), data); err != nil {
		return fmt.Errorf("queue: receipt for %s: %w", r.Agent, sendError(err))
	}
	return nil
}

// maxSpoolID bounds what is taken for the id of a spool in a request.
const maxSpoolID = 64

// ServeReceipts answers agents that ask for their last receipt, until ctx is
// done, and then returns nil. Of several servers one answers. last is called
// for one request at a time and returns a receipt for position 0 where the
// ledger knows nothing of the spool.
func (c *Conn) ServeReceipts(ctx context.Context, last func(context.Context, odometer.AgentID, odometer.SpoolID) (odometer.Receipt, error)) error {
	requests := make(chan *nats.Msg, 1024)
	sub, err := c.nc.ChanQueueSubscribe(receiptRequestPrefix+"*", "receipts", requests)
	if err != nil {
		return unavailable("serve receipts", err)
	}
	defer sub.Unsubscribe()
	for {
		var m *nats.Msg
		select {
		case <-ctx.Done():
			return nil
		case m = <-requests:
		}
		answer := &nats.Msg{Subject: m.Reply}
		r, err := c.answerReceipt(ctx, m, last)
		if err == nil {
			r.Frames = odometer.FrameFormatBinary
			answer.Data, err = json.Marshal(r)
		}
		if err != nil {
			c.log.Warn("a request for a receipt is refused", "subject", clip(m.Subject), "err", err)
			answer.Header = nats.Header{headerError: {oneLine(err)}}
		}
		if m.Reply == "" {
			continue
		}
		if err := c.nc.PublishMsg(answer); err != nil {
			c.log.Warn("a receipt that was asked for cannot be sent", "agent", r.Agent, "err", sendError(err))
		}
	}
}

func (c *Conn) answerReceipt(ctx context.Context, m *nats.Msg, last func(context.Context, odometer.AgentID, odometer.SpoolID) (odometer.Receipt, error)) (odometer.Receipt, error) {
	agent, err := agentOf(m.Subject, receiptRequestPrefix)
	if err != nil {
		return odometer.Receipt{}, err
	}
	if len(m.Data) == 0 || len(m.Data) > maxSpoolID {
		return odometer.Receipt{}, fmt.Errorf("the id of a spool is 1 to %d bytes long, not %d: %w", maxSpoolID, len(m.Data), odometer.ErrInvalid)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return last(ctx, agent, odometer.SpoolID(m.Data))
}

// oneLine is an error as a header's value.
func oneLine(err error) string {
	b := []byte(clip(err.Error()))
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	return string(b)
}

// clip shortens what came from outside for a log line.
func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}
