package queue

import (
	"context"
	"fmt"
	"sync"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
)

const (
	// maxLiveBytes is the largest live message; what an agent with more open
	// periods says does not travel live.
	maxLiveBytes = 512 << 10
	// maxLive bounds the memory of the cache, over all agents.
	maxLive = 64 << 20
	// liveKept is for how long a message is remembered: its periods have
	// long closed, and are in the ledger.
	liveKept = 2 * time.Hour
)

// PublishLive says what is still open at an agent. It does not wait and is not
// stored; what is lost is replaced by the next. A message over 512 KiB is an
// error wrapping [odometer.ErrInvalid].
func (c *Conn) PublishLive(agent odometer.AgentID, data []byte) error {
	if len(data) > maxLiveBytes {
		return fmt.Errorf("queue: live message of %s: %d bytes, at most %d are sent: %w", agent, len(data), maxLiveBytes, odometer.ErrInvalid)
	}
	if err := c.nc.Publish(livePrefix+Token(string(agent)), data); err != nil {
		return fmt.Errorf("queue: live message of %s: %w", agent, sendError(err))
	}
	return nil
}

// Live remembers the last live message of each agent. Its methods may be
// called at once.
type Live struct {
	c *Conn

	mu    sync.Mutex
	last  map[odometer.AgentID]LiveMessage
	bytes int
}

// LiveMessage is what an agent said last.
type LiveMessage struct {
	Agent    odometer.AgentID
	Data     []byte // not to be changed
	Received time.Time
}

// NewLive returns an empty cache, which fills while Run runs.
func NewLive(c *Conn) *Live {
	return &Live{c: c, last: map[odometer.AgentID]LiveMessage{}}
}

// Run follows the live messages until ctx is done, and then returns nil.
func (l *Live) Run(ctx context.Context) error {
	messages := make(chan *nats.Msg, 4096)
	sub, err := l.c.nc.ChanSubscribe(livePrefix+"*", messages)
	if err != nil {
		return unavailable("follow live messages", err)
	}
	defer sub.Unsubscribe()
	sweep := time.NewTicker(liveKept / 8)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			agent, err := agentOf(m.Subject, livePrefix)
			if err != nil || len(m.Data) > maxLiveBytes {
				l.c.log.Debug("a live message is ignored", "subject", clip(m.Subject), "bytes", len(m.Data))
				continue
			}
			l.keep(LiveMessage{agent, m.Data, time.Now()})
		case now := <-sweep.C:
			l.forget(now.Add(-liveKept))
		}
	}
}

func (l *Live) keep(m LiveMessage) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := len(l.last[m.Agent].Data)
	if l.bytes-before+len(m.Data) > maxLive {
		l.c.log.Debug("a live message is ignored: too many are remembered", "agent", m.Agent)
		return
	}
	l.bytes += len(m.Data) - before
	l.last[m.Agent] = m
}

func (l *Live) forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for agent, m := range l.last {
		if m.Received.Before(before) {
			l.bytes -= len(m.Data)
			delete(l.last, agent)
		}
	}
}

// Last returns what an agent said last, and whether it said anything lately.
func (l *Live) Last(agent odometer.AgentID) (LiveMessage, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m, ok := l.last[agent]
	return m, ok
}

// All returns what each agent said last, in no order.
func (l *Live) All() []LiveMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]LiveMessage, 0, len(l.last))
	for _, m := range l.last {
		all = append(all, m)
	}
	return all
}
