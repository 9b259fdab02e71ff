package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"example.org/odometer"
	"github.com/klauspost/compress/s2"
	"github.com/nats-io/nats.go"
)

const (
	// partBytes is the size of one message of an answer.
	partBytes = 256 << 10
	// maxAnswerBytes bounds an answer: the checkpoints of ten thousand
	// instances.
	maxAnswerBytes = 64 << 20
	// answerWithin is how long an answer may take before the request is
	// repeated: it waits behind every older frame.
	answerWithin = 30 * time.Second
)

// RequestCheckpoints asks the server for the checkpoints of an agent's live
// epochs, for an agent that has lost its own state. The request takes its
// place behind everything the agent has sent before, so that the answer
// includes all of it, and is repeated until it is answered or ctx is done. The
// connection must have been made as that agent.
func (c *Conn) RequestCheckpoints(ctx context.Context, agent odometer.AgentID) ([]json.RawMessage, error) {
	if c.agent != agent {
		return nil, fmt.Errorf("queue: checkpoints of %s: the connection is not that agent's: %w", agent, odometer.ErrForbidden)
	}
	for failures := 0; ; {
		data, err := c.requestOnce(ctx, agent)
		if err == nil {
			var checkpoints []json.RawMessage
			if err := json.Unmarshal(data, &checkpoints); err != nil {
				return nil, fmt.Errorf("queue: checkpoints of %s: %w: %w", agent, odometer.ErrInvalid, err)
			}
			return checkpoints, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("queue: checkpoints of %s: %w", agent, errors.Join(ctx.Err(), err))
		}
		failures++
		c.log.Warn("no checkpoints yet: asking again", "agent", agent, "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(backoff(failures, DefaultRetryFirst, DefaultRetryMost, rand.Float64)):
		}
	}
}

// requestOnce makes one request and gathers the parts of its answer.
func (c *Conn) requestOnce(ctx context.Context, agent odometer.AgentID) ([]byte, error) {
	parts := make(chan *nats.Msg, maxAnswerBytes/partBytes)
	inbox := c.nc.NewRespInbox()
	sub, err := c.nc.ChanSubscribe(inbox, parts)
	if err != nil {
		return nil, sendError(err)
	}
	defer sub.Unsubscribe()
	wait, err := c.Send(IngestSubject(agent), nats.Header{headerFormat: {formatCheckpoint}, headerReply: {inbox}}, nil)
	if err != nil {
		return nil, err
	}
	stored, cancel := context.WithTimeout(ctx, DefaultAttemptTimeout)
	defer cancel()
	if err := wait(stored); err != nil {
		return nil, sendError(err)
	}
	ctx, cancel = context.WithTimeout(ctx, answerWithin)
	defer cancel()
	var packed []byte
	for next := 1; ; next++ {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer within %v: %w", answerWithin, odometer.ErrUnavailable)
		case m := <-parts:
			if why := m.Header.Get(headerError); why != "" {
				return nil, fmt.Errorf("the server says: %s: %w", clip(why), odometer.ErrUnavailable)
			}
			packed = append(packed, m.Data...)
			n, err := strconv.Atoi(m.Header.Get(headerParts))
			if m.Header.Get(headerPart) != strconv.Itoa(next) || err != nil || len(packed) > maxAnswerBytes {
				return nil, fmt.Errorf("part %d of the answer is %q of %q: %w", next, clip(m.Header.Get(headerPart)), clip(m.Header.Get(headerParts)), odometer.ErrInvalid)
			}
			if next < n {
				continue
			}
			if size, err := s2.DecodedLen(packed); err != nil || size > maxAnswerBytes {
				return nil, fmt.Errorf("the answer does not unpack: %w", odometer.ErrInvalid)
			}
			data, err := s2.Decode(nil, packed)
			if err != nil {
				return nil, fmt.Errorf("the answer does not unpack: %w: %w", odometer.ErrInvalid, err)
			}
			return data, nil
		}
	}
}

// respond sends an answer to the inbox that a request named, in parts.
func (c *Conn) respond(agent odometer.AgentID, reply string, data []byte) error {
	if !inboxOf(agent, reply) {
		return fmt.Errorf("queue: %s wants its answer sent to %q, which is not its own: %w", agent, clip(reply), odometer.ErrForbidden)
	}
	if len(data) > maxAnswerBytes {
		answer := &nats.Msg{Subject: reply, Header: nats.Header{headerError: {"the checkpoints are too large to be sent"}}}
		return errors.Join(fmt.Errorf("queue: checkpoints of %s: %d bytes are too many: %w", agent, len(data), odometer.ErrInvalid), c.nc.PublishMsg(answer))
	}
	packed := s2.Encode(nil, data)
	parts := max(1, (len(packed)+partBytes-1)/partBytes)
	for i := range parts {
		part := packed[i*partBytes : min(len(packed), (i+1)*partBytes)]
		err := c.nc.PublishMsg(&nats.Msg{Subject: reply, Data: part, Header: nats.Header{
			headerPart: {strconv.Itoa(i + 1)}, headerParts: {strconv.Itoa(parts)},
		}})
		if err != nil {
			return fmt.Errorf("queue: answer %s: %w", agent, sendError(err))
		}
	}
	return nil
}
