package queue

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
)

const (
	// maxLiveBytes is the largest part of a live message, well below what NATS
	// takes by default.
	maxLiveBytes = 512 << 10
	// maxLiveParts bounds the parts of one message: more than a host with 20,000
	// machines needs.
	maxLiveParts = 256
	// livePartHeader says which part of how many a message is, from 1: "2/3".
	// Without it the message is whole.
	livePartHeader = "Odometer-Part"
	// maxLive bounds the memory of the cache, over all agents, but for the message
	// that is about to take the place of another.
	maxLive = 64 << 20
	// liveKept is for how long a message is remembered: its periods have
	// long closed, and are in the ledger.
	liveKept = 2 * time.Hour
)

// PublishLive says what is still open at an agent, in as many parts as it takes.
// It does not wait and is not stored; what is lost is replaced by the next. A
// part over 512 KiB is an error wrapping [odometer.ErrInvalid], and so are more
// than 256.
func (c *Conn) PublishLive(agent odometer.AgentID, parts ...[]byte) error {
	if len(parts) > maxLiveParts {
		return fmt.Errorf("queue: live message of %s: %d parts, at most %d are sent: %w", agent, len(parts), maxLiveParts, odometer.ErrInvalid)
	}
	for i, data := range parts {
		if len(data) > maxLiveBytes {
			return fmt.Errorf("queue: live message of %s: %d bytes, at most %d are sent: %w", agent, len(data), maxLiveBytes, odometer.ErrInvalid)
		}
		m := &nats.Msg{Subject: livePrefix + Token(string(agent)), Data: data}
		if len(parts) > 1 { // whole, it is what servers of before know
			m.Header = nats.Header{livePartHeader: {fmt.Sprintf("%d/%d", i+1, len(parts))}}
		}
		if err := c.nc.PublishMsg(m); err != nil {
			return fmt.Errorf("queue: live message of %s: %w", agent, sendError(err))
		}
	}
	return nil
}

// livePart returns which part of how many a message is, from 0.
func livePart(m *nats.Msg) (part, parts int, err error) {
	text := m.Header.Get(livePartHeader)
	if text == "" {
		return 0, 1, nil
	}
	if _, err := fmt.Sscanf(text, "%d/%d", &part, &parts); err != nil || part < 1 || part > parts || parts > maxLiveParts {
		return 0, 0, fmt.Errorf("part %q: %w", clip(text), odometer.ErrInvalid)
	}
	return part - 1, parts, nil
}

// Live remembers the last live message of each agent. Its methods may be
// called at once.
type Live struct {
	c     *Conn
	heard func(LiveMessage)

	mu    sync.Mutex
	said  map[odometer.AgentID]told
	bytes int
}

// told is what an agent said last, and what has come of what it is saying.
type told struct {
	whole, coming []LiveMessage
	parts         int // that coming will have
}

// LiveMessage is what an agent said last, or a part of it.
type LiveMessage struct {
	Agent    odometer.AgentID
	Data     []byte // not to be changed
	Received time.Time
}

// NewLive returns an empty cache, which fills while Run runs. Heard, where it is
// not nil, is given each message by Run as it comes, and must not block.
func NewLive(c *Conn, heard func(LiveMessage)) *Live {
	return &Live{c: c, heard: heard, said: map[odometer.AgentID]told{}}
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
			part, parts, partErr := livePart(m)
			if err != nil || partErr != nil || len(m.Data) > maxLiveBytes {
				l.c.log.Debug("a live message is ignored", "subject", clip(m.Subject), "bytes", len(m.Data))
				continue
			}
			got := LiveMessage{agent, m.Data, time.Now()}
			l.keep(got, part, parts)
			if l.heard != nil {
				l.heard(got)
			}
		case now := <-sweep.C:
			l.forget(now.Add(-liveKept))
		}
	}
}

// keep takes a part in. A message takes the place of the one before as a whole:
// what is said of a machine may stand in another part than before, and would be
// there twice, or not at all. Parts come in order; a message of which one is
// missing is left out.
func (l *Live) keep(m LiveMessage, part, parts int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.said[m.Agent]
	if part == 0 || part != len(t.coming) || parts != t.parts {
		l.bytes -= size(t.coming)
		t.coming, t.parts = nil, parts
	}
	switch {
	case part != len(t.coming): // one before it is missing
	case l.bytes-size(t.whole)+len(m.Data) > maxLive: // without what it is to replace
		l.c.log.Debug("a live message is ignored: too many are remembered", "agent", m.Agent)
		l.bytes -= size(t.coming)
		t.coming = nil
	default:
		l.bytes += len(m.Data)
		t.coming = append(t.coming, m)
	}
	if len(t.coming) == parts {
		l.bytes -= size(t.whole)
		t.whole, t.coming = t.coming, nil
	}
	if t.whole == nil && t.coming == nil {
		delete(l.said, m.Agent)
		return
	}
	l.said[m.Agent] = t
}

func size(parts []LiveMessage) (bytes int) {
	for _, m := range parts {
		bytes += len(m.Data)
	}
	return bytes
}

func (l *Live) forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for agent, t := range l.said {
		fresh := func(m LiveMessage) bool { return !m.Received.Before(before) }
		if !slices.ContainsFunc(t.whole, fresh) && !slices.ContainsFunc(t.coming, fresh) {
			l.bytes -= size(t.whole) + size(t.coming)
			delete(l.said, agent)
		}
	}
}

// Last returns what an agent said last, by parts; none where it said nothing
// lately.
func (l *Live) Last(agent odometer.AgentID) []LiveMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.said[agent].whole)
}

// All returns what each agent said last, the parts of one agent one after the
// other, and otherwise in no order.
func (l *Live) All() []LiveMessage {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]LiveMessage, 0, len(l.said))
	for _, t := range l.said {
		all = append(all, t.whole...)
	}
	return all
}
