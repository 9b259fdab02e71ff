package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// headerNumber has a change's number in the log, in VIOLATIONS.
	headerNumber = "Odometer-Number"
	// aheadKey names in the metadata of VIOLATIONS by how much the number of a message
	// is ahead of that of its change; it is not there while both are the same.
	aheadKey = "odometer-ahead"
	// changesBatch changes are read and published at once.
	changesBatch = 256
)

// Changes is the log of what becomes of violations, which a [ViolationFeed] follows.
// Its numbers are dense and begin with 1, unless old ones are gone.
type Changes interface {
	// ChangesAfter returns the changes after a number, in order, at most limit.
	ChangesAfter(ctx context.Context, number uint64, limit int) ([]odometer.Violation, error)
	// News returns a channel that is closed at the next change.
	News() <-chan struct{}
}

// ViolationFeed publishes the changes of violations to the stream VIOLATIONS: one a
// message, in the order of their numbers, each once for as long as the stream lives.
//
// It keeps no cursor of its own. Each message names the one that it must follow, so
// that the stream's end says how far it is: a message's number is that of its change,
// or ahead of it by what the stream's metadata says, where old changes were gone before
// they were published, or the log is that of a restored ledger. Then, and where the
// stream was lost, changes are published again, under the ids that they had.
type ViolationFeed struct {
	c       *Conn
	changes Changes
	log     *slog.Logger
	check   time.Duration // how often an idle feed looks at its stream

	mu    sync.Mutex
	stats ViolationFeedStats
}

// ViolationFeedStats are what a feed did since it was made.
type ViolationFeedStats struct {
	Published uint64 // changes
	Errors    uint64
	Last      time.Time // the last change published, zero before
	Err       error     // nil while the feed is up to date or publishing
}

// NewViolationFeed returns a feed that begins to work when Run is called.
func NewViolationFeed(c *Conn, changes Changes) *ViolationFeed {
	return &ViolationFeed{c: c, changes: changes, log: c.log, check: feedCheck}
}

// Stats may be called at once with Run.
func (f *ViolationFeed) Stats() ViolationFeedStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *ViolationFeed) count(do func(*ViolationFeedStats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do(&f.stats)
}

// Run publishes until ctx is done and then returns nil. It tries on whatever fails.
func (f *ViolationFeed) Run(ctx context.Context) error {
	for failures := 0; ; {
		progress, err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if progress {
			failures = 0
		}
		if err == nil { // the stream is another one
			continue
		}
		if failures++; failures == 1 {
			f.log.Warn("violations are not published: trying on", "err", err)
		}
		f.count(func(s *ViolationFeedStats) { s.Errors++; s.Err = err })
		select {
		case <-ctx.Done():
		case <-time.After(backoff(failures, DefaultRetryFirst, DefaultRetryMost, rand.Float64)):
		}
	}
}

// place is the end of the stream as the feed knows it.
type place struct {
	id    string
	seq   uint64 // of the last message
	ahead uint64 // of the number of the last change that is in the stream, or gone; it wraps around
}

// number is that of the last change which is in the stream, or gone.
func (p *place) number() uint64 { return p.seq - p.ahead }

// follow publishes until something fails or the stream is another one. It reports
// whether it published anything.
func (f *ViolationFeed) follow(ctx context.Context) (progress bool, err error) {
	at, err := f.open(ctx)
	if err != nil {
		return false, err
	}
	for {
		news := f.changes.News()
		list, err := f.changes.ChangesAfter(ctx, at.number(), changesBatch)
		if err != nil {
			return progress, fmt.Errorf("violations: read their changes: %w", err)
		}
		if len(list) == 0 {
			f.count(func(s *ViolationFeedStats) { s.Err = nil })
			select {
			case <-ctx.Done():
				return progress, ctx.Err()
			case <-news:
				continue
			case <-time.After(f.check):
			}
			if same, err := f.unchanged(ctx, at); err != nil || !same {
				return progress, err
			}
			continue
		}
		if next := list[0].Number; next != at.number()+1 {
			f.log.Warn("changes of violations are gone that were not published", "from", at.number()+1, "to", next-1)
			if err := f.align(ctx, at, next); err != nil {
				return progress, err
			}
		}
		n, err := f.publish(ctx, at, list)
		progress = progress || n > 0
		if err != nil {
			return progress, err
		}
	}
}

// open looks at the stream and finds how far it is.
func (f *ViolationFeed) open(ctx context.Context) (*place, error) {
	stream, err := f.c.ensure(ctx, f.c.violationConfig())
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, unavailable("look at stream "+ViolationStream, err)
	}
	at := &place{id: streamID(info), seq: info.State.LastSeq}
	if text := info.Config.Metadata[aheadKey]; text != "" {
		ahead, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("violations: the metadata of stream %s says %s=%q, which is no number: %w", ViolationStream, aheadKey, clip(text), odometer.ErrInvalid)
		}
		at.ahead = uint64(ahead)
	}
	ours, err := f.ours(ctx, stream, at)
	if err != nil || ours {
		return at, err
	}
	f.log.Warn("the changes of violations are those of another ledger than the stream's: they are published again from the first", "stream", ViolationStream)
	first, err := f.changes.ChangesAfter(ctx, 0, 1)
	if err != nil {
		return nil, fmt.Errorf("violations: read their changes: %w", err)
	}
	next := uint64(1)
	if len(first) > 0 {
		next = first[0].Number
	}
	return at, f.align(ctx, at, next)
}

// ours reports whether the last message of the stream is a change that the log has, or
// may have had.
func (f *ViolationFeed) ours(ctx context.Context, stream jetstream.Stream, at *place) (bool, error) {
	if at.seq == 0 {
		return true, nil
	}
	last, err := stream.GetMsg(ctx, at.seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) { // it has gone by age
		return true, nil
	}
	if err != nil {
		return false, unavailable("read the end of "+ViolationStream, err)
	}
	number, err := strconv.ParseUint(last.Header.Get(headerNumber), 10, 64)
	if err != nil || number == 0 {
		return false, fmt.Errorf("violations: message %d of %s is no change of a violation: something else writes to it: %w", at.seq, ViolationStream, odometer.ErrConflict)
	}
	if at.number() < number { // it was found not to be, and what follows is not published yet
		return true, nil
	}
	have, err := f.changes.ChangesAfter(ctx, number-1, 1)
	if err != nil {
		return false, fmt.Errorf("violations: read their changes: %w", err)
	}
	switch {
	case len(have) == 0:
		return false, nil
	case have[0].Number > number: // it is too old to be told from another
		return true, nil
	}
	return have[0].ChangeID() == last.Header.Get(jetstream.MsgIDHeader), nil
}

// align notes that the message that follows is the change with a number.
func (f *ViolationFeed) align(ctx context.Context, at *place, next uint64) error {
	stream, err := f.c.js.Stream(ctx, ViolationStream)
	if err != nil {
		return unavailable("look at stream "+ViolationStream, err)
	}
	ahead := at.seq + 1 - next
	config := stream.CachedInfo().Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[aheadKey] = strconv.FormatInt(int64(ahead), 10)
	if _, err := f.c.js.UpdateStream(ctx, config); err != nil {
		return unavailable("note how far "+ViolationStream+" is", err)
	}
	at.ahead = ahead
	return nil
}

// unchanged reports whether the stream is still as the feed left it.
func (f *ViolationFeed) unchanged(ctx context.Context, at *place) (bool, error) {
	stream, err := f.c.js.Stream(ctx, ViolationStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, nil
	case err != nil:
		return false, unavailable("look at stream "+ViolationStream, err)
	}
	info := stream.CachedInfo()
	return streamID(info) == at.id && info.State.LastSeq == at.seq, nil
}

// publish publishes changes in order and returns how many. After an error the stream
// has to be looked at again: how many of them it holds is seen there.
func (f *ViolationFeed) publish(ctx context.Context, at *place, list []odometer.Violation) (n int, err error) {
	ctx, cancel := context.WithTimeout(ctx, DefaultAttemptTimeout)
	defer cancel()
	futures := make([]jetstream.PubAckFuture, 0, len(list))
	for i := range list {
		future, err := f.c.js.PublishMsgAsync(changeMessage(&list[i], at.seq+uint64(i)), jetstream.WithRetryAttempts(0))
		if err != nil {
			return n, fmt.Errorf("violations: %w", sendError(err))
		}
		futures = append(futures, future)
	}
	for _, future := range futures {
		select {
		case ack := <-future.Ok():
			if ack.Sequence != at.seq+1 || ack.Duplicate {
				return n, fmt.Errorf("violations: message %d was stored as %d: something else writes to %s: %w", at.seq+1, ack.Sequence, ViolationStream, odometer.ErrConflict)
			}
		case err := <-future.Err():
			return n, fmt.Errorf("violations: %w", sendError(err))
		case <-ctx.Done():
			return n, fmt.Errorf("violations: %w", sendError(ctx.Err()))
		}
		at.seq++
		n++
		f.count(func(s *ViolationFeedStats) { s.Published++; s.Last, s.Err = time.Now(), nil })
	}
	return n, nil
}

// changeMessage is a change as a CloudEvent in binary mode, to be stored right behind
// message last or not at all.
func changeMessage(v *odometer.Violation, last uint64) *nats.Msg {
	e := v.CloudEvent()
	h := nats.Header(e.NATSHeader())
	h.Set("Content-Type", odometer.ContentJSON)
	h.Set(headerNumber, strconv.FormatUint(v.Number, 10))
	h.Set(jetstream.MsgIDHeader, e.ID)
	h.Set(jetstream.ExpectedStreamHeader, ViolationStream)
	h.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(last, 10))
	return &nats.Msg{Subject: ViolationSubject(v), Data: e.Data, Header: h}
}
