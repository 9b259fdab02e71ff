package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// feedBatch entries are published between two movements of the cursor,
	// each of which is a transaction of the ledger.
	feedBatch = 2000
	// feedWindow messages are in flight.
	feedWindow = 512
	// feedCheck is how often an idle feed looks whether its stream is still
	// the one that it published to.
	feedCheck = 10 * time.Second
	// unreadMost times in a row a topic that answers may not be readable; then
	// it is taken for lost. With the waits between them that is a minute.
	unreadMost = 8
	// firstKey names in a stream's metadata the number of the first message
	// that a feed published to it since it emptied it.
	firstKey = "odometer-first"
	// readIdle is when the server forgets who read the stream back.
	readIdle = 30 * time.Second
	// lagEvery is how often entries are counted while the feed is behind.
	lagEvery = 2 * time.Second
)

// Attributes of an entry as a CloudEvent; id is the entry's and subject the
// instance's.
const (
	entrySource = "odometer/ledger"
	entryType   = "odometer.entry"
)

// Source is the ledger as a [Feed] sees it: entries in the order in which
// they were booked, and a cursor that lies in the ledger.
type Source interface {
	// Pending returns entries that lie beyond the cursor, each partition in
	// its own order, about limit of them; and how to move the cursor behind
	// them once they are published, in messages of a stream up to last, while
	// messages after back may hold entries that lie beyond it.
	Pending(ctx context.Context, limit int) (entries []odometer.Entry, advance func(ctx context.Context, stream string, back, last uint64) error, err error)
	// Position returns what advance was last told, "" for nothing yet.
	Position(ctx context.Context) (stream string, back, last uint64, err error)
	// Rewind moves the cursor to the beginning.
	Rewind(ctx context.Context) error
	// Lag returns how many entries lie beyond the cursor.
	Lag(ctx context.Context) (int64, error)
	// News returns a channel that is closed at the next commit that books
	// something.
	News() <-chan struct{}
}

// Feed publishes the ledger's entries to the stream USAGE: one a message, in
// ledger order, each once for as long as the stream lives.
//
// Every message names the message that it must follow, so that one that is lost
// takes all later ones with it, and what is in the stream is known by looking
// at its end. A feed that was interrupted between
// publishing and moving the cursor reads back what lies beyond the cursor's
// message and does not publish it again. A stream that is new, or that ends
// before the cursor's message, was lost: the feed rewinds to the first entry,
// and publishes what the stream does not hold. A stream that lacks messages
// before its end, other than by age, or that cannot be read, is emptied and fed
// from the first entry, so that entries never stand in it out of order.
type Feed struct {
	c      *Conn
	source Source
	log    *slog.Logger
	check  time.Duration // feedCheck
	looked time.Time     // at the lag; owned by Run
	unread int           // times in a row that the stream could not be read back; owned by Run
	passed bool          // a message was stored although one before it was refused; owned by Run

	mu    sync.Mutex
	stats FeedStats
}

// FeedStats are what a feed did since it was made.
type FeedStats struct {
	Published uint64 // entries
	Skipped   uint64 // entries that were found in the stream already
	Errors    uint64
	Rewinds   uint64
	Lag       int64     // entries not published, as of the last look; -1 before
	Last      time.Time // the last entry published, zero before
	Err       error     // nil while the feed is up to date or publishing
}

// NewFeed returns a feed that begins to work when Run is called.
func NewFeed(c *Conn, s Source) *Feed {
	return &Feed{c: c, source: s, log: c.log, check: feedCheck, stats: FeedStats{Lag: -1}}
}

// Stats may be called at once with Run.
func (f *Feed) Stats() FeedStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

func (f *Feed) count(change func(*FeedStats)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(&f.stats)
}

// Run publishes until ctx is done, over whatever fails meanwhile, and then
// returns nil. One feed may run on a ledger at a time.
func (f *Feed) Run(ctx context.Context) error {
	for failures := 0; ; {
		progress, err := f.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if progress {
			failures = 0
		}
		if err != nil {
			failures++
			if failures == 1 {
				f.log.Warn("entries are not published: trying on", "err", err)
			}
			f.count(func(s *FeedStats) { s.Errors++; s.Err = err })
			select {
			case <-ctx.Done():
			case <-time.After(backoff(failures, DefaultRetryFirst, DefaultRetryMost, rand.Float64)):
			}
		}
	}
}

// end is the end of the stream as the feed knows it.
type end struct {
	stream jetstream.Stream
	id     string
	seq    uint64                      // of the last message
	copies bool                        // several servers keep it
	from   uint64                      // message behind which hold was read
	begun  mark                        // the end as it was first seen
	looked time.Time                   // at the stream
	hold   [odometer.Partitions]uint64 // entries up to here are in the stream already; 0 once they are passed
}

// back returns the message behind which everything lies that is published
// and beyond the cursor: what a feed that is interrupted now must read back.
func (e *end) back() uint64 {
	if e.hold == ([odometer.Partitions]uint64{}) {
		return e.seq
	}
	return e.from
}

// mark is a message and when it was stored.
type mark struct {
	seq  uint64
	time time.Time
}

// errEmptied has the stream looked at again after it was emptied.
var errEmptied = fmt.Errorf("feed: the topic was emptied to be fed again: %w", odometer.ErrUnavailable)

// torn says what a stream lacks before its end, "" for nothing. Messages go
// by age, from the front, and in no other way.
func torn(info *jetstream.StreamInfo, begun mark) string {
	st, age := info.State, info.Config.MaxAge
	first, err := strconv.ParseUint(info.Config.Metadata[firstKey], 10, 64)
	if err != nil {
		first = 1
	}
	young := func(t time.Time) bool { return age == 0 || time.Since(t) < age }
	switch {
	case st.LastSeq == 0 || st.LastSeq+1 == first && st.Msgs == 0:
		return ""
	case st.Msgs != st.LastSeq+1-st.FirstSeq:
		return fmt.Sprintf("it has %d messages from %d to %d", st.Msgs, st.FirstSeq, st.LastSeq)
	case st.FirstSeq < first:
		return fmt.Sprintf("it begins with message %d, and was to be emptied up to %d", st.FirstSeq, first)
	case st.FirstSeq > first && (young(info.Created) || st.FirstSeq > begun.seq && begun.seq > 0 && young(begun.time)):
		return fmt.Sprintf("it begins with message %d, and %d was not old enough to go", st.FirstSeq, st.FirstSeq-1)
	}
	return ""
}

// follow publishes from the cursor on, until something fails or the stream
// has to be looked at again. It reports whether it published anything.
func (f *Feed) follow(ctx context.Context) (progress bool, err error) {
	at, err := f.open(ctx)
	if err != nil {
		return false, err
	}
	for {
		news := f.source.News()
		entries, advance, err := f.source.Pending(ctx, feedBatch)
		if err != nil {
			return progress, fmt.Errorf("feed: read the ledger: %w", err)
		}
		if err := f.look(ctx, len(entries)); err != nil {
			return progress, err
		}
		if len(entries) == 0 {
			select {
			case <-ctx.Done():
				return progress, ctx.Err()
			case <-news:
				continue
			case <-time.After(f.check):
				same, err := f.unchanged(ctx, at)
				if err != nil || !same {
					return progress, err
				}
				continue
			}
		}
		n, err := f.publish(ctx, at, entries)
		progress = progress || n > 0
		if err != nil {
			return progress, err
		}
		if err := advance(ctx, at.id, at.back(), at.seq); err != nil {
			return progress, fmt.Errorf("feed: move the cursor: %w", err)
		}
		if time.Since(at.looked) >= f.check {
			if same, err := f.unchanged(ctx, at); err != nil || !same {
				return progress, err
			}
		}
	}
}

// look notes how far behind the feed is, given how many entries it has to
// publish next. While it is behind it counts once in a while.
func (f *Feed) look(ctx context.Context, pending int) (err error) {
	lag := int64(pending)
	if pending >= feedBatch {
		if time.Since(f.looked) < lagEvery {
			return nil
		}
		if lag, err = f.source.Lag(ctx); err != nil {
			return fmt.Errorf("feed: read the ledger: %w", err)
		}
		f.looked = time.Now()
	}
	f.count(func(s *FeedStats) { s.Lag, s.Err = lag, nil })
	return nil
}

// open looks at the stream and at the cursor and brings them together.
func (f *Feed) open(ctx context.Context) (*end, error) {
	stream, err := f.c.ensure(ctx, f.c.usageConfig())
	if err != nil {
		return nil, err
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return nil, unavailable("look at stream "+UsageStream, err)
	}
	at := &end{stream: stream, id: streamID(info), seq: info.State.LastSeq, begun: mark{info.State.LastSeq, info.State.LastTime}, looked: time.Now(), copies: info.Config.Replicas > 1}
	why := torn(info, mark{})
	if why == "" && f.passed {
		why = "a message was refused and one behind it was stored: something else writes to it"
	}
	if why != "" {
		return nil, f.empty(ctx, at, info, why)
	}
	noted, back, last, err := f.source.Position(ctx)
	if err != nil {
		return nil, fmt.Errorf("feed: read the cursor: %w", err)
	}
	switch {
	case noted == at.id && last <= at.seq:
		at.from = back
	case noted != "":
		f.log.Warn("the topic was lost: it is fed again from the first entry", "stream", UsageStream, "was", noted, "message", last, "is", at.id, "last", at.seq)
		if err := f.source.Rewind(ctx); err != nil {
			return nil, fmt.Errorf("feed: rewind: %w", err)
		}
		f.count(func(s *FeedStats) { s.Rewinds++ })
	}
	if err := f.readBack(ctx, at, info.State.FirstSeq); err != nil {
		if f.unread++; f.unread >= unreadMost {
			return nil, f.empty(ctx, at, info, err.Error())
		}
		return nil, err
	}
	f.unread = 0
	return at, nil
}

// empty begins a topic anew in the same stream, so that its consumers keep
// their places and are given everything again. Interrupted after any step, it
// is begun again: the stream is then torn still.
func (f *Feed) empty(ctx context.Context, at *end, info *jetstream.StreamInfo, why string) error {
	f.log.Warn("the topic has lost messages: it is emptied and fed again from the first entry", "stream", UsageStream, "why", why)
	if err := f.source.Rewind(ctx); err != nil {
		return fmt.Errorf("feed: rewind: %w", err)
	}
	f.count(func(s *FeedStats) { s.Rewinds++ })
	config := info.Config
	config.Metadata = maps.Clone(config.Metadata)
	if config.Metadata == nil {
		config.Metadata = map[string]string{}
	}
	config.Metadata[firstKey] = strconv.FormatUint(info.State.LastSeq+1, 10)
	if _, err := f.c.js.UpdateStream(ctx, config); err != nil {
		return unavailable("note where "+UsageStream+" begins", err)
	}
	if err := at.stream.Purge(ctx, jetstream.WithPurgeSequence(info.State.LastSeq+1)); err != nil {
		return unavailable("empty "+UsageStream, err)
	}
	f.unread, f.passed = 0, false
	return errEmptied
}

// readBack notes which entries lie in the stream behind message at.from. Since
// each partition is published in order, the last entry of it says it all, also
// of those that have gone by age.
func (f *Feed) readBack(ctx context.Context, at *end, first uint64) error {
	from := max(at.from+1, first)
	if from > at.seq {
		return nil
	}
	// Not the client's ordered consumer: where the stream vanishes under it, it
	// tries on for ever and heeds no context.
	consumer, err := at.stream.CreateConsumer(ctx, jetstream.ConsumerConfig{
		DeliverPolicy: jetstream.DeliverByStartSequencePolicy, OptStartSeq: from, AckPolicy: jetstream.AckNonePolicy, HeadersOnly: true,
		MemoryStorage: true, Replicas: 1, InactiveThreshold: readIdle,
	})
	if err != nil {
		return unavailable("read "+UsageStream+" back", err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		return f.readToEnd(ctx, at, from-1)
	}
	for n := uint64(0); ; {
		last, more, err := f.readSome(ctx, at, consumer, &n)
		if err != nil {
			return unavailable("read "+UsageStream+" back", err)
		}
		if !more {
			return f.readToEnd(ctx, at, last)
		}
	}
}

// readSome notes what one pull brings, and returns the last message and whether
// there are more. n counts the deliveries, which have to be without a gap.
func (f *Feed) readSome(ctx context.Context, at *end, consumer jetstream.Consumer, n *uint64) (last uint64, more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	batch, err := consumer.Fetch(feedBatch, jetstream.FetchContext(ctx))
	if err != nil {
		return 0, false, err
	}
	for m := range batch.Messages() {
		meta, err := m.Metadata()
		if err != nil {
			return 0, false, err
		}
		if *n++; meta.Sequence.Consumer != *n {
			return 0, false, fmt.Errorf("delivery %d came in the place of %d", meta.Sequence.Consumer, *n)
		}
		if id, ok := parseEntryID(m.Headers().Get(jetstream.MsgIDHeader)); ok {
			at.hold[id.Partition] = max(at.hold[id.Partition], id.Number)
		}
		if last = meta.Sequence.Stream; meta.NumPending == 0 || last >= at.seq {
			return last, false, nil
		}
	}
	if last == 0 {
		return 0, false, errors.Join(errors.New("nothing comes"), batch.Error(), ctx.Err())
	}
	return last, true, nil
}

// readToEnd makes sure that the stream holds nothing behind message last. A
// server that has just started was seen to say so while messages were still
// to come, and what is overlooked here is published twice.
func (f *Feed) readToEnd(ctx context.Context, at *end, last uint64) error {
	if last >= at.seq {
		return nil
	}
	switch _, err := at.stream.GetMsg(ctx, at.seq); {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil // somebody deleted them
	case err != nil:
		return unavailable("read "+UsageStream+" back", err)
	}
	return fmt.Errorf("queue: read %s back: it ends at message %d and was read up to %d: %w", UsageStream, at.seq, last, odometer.ErrUnavailable)
}

// unchanged reports whether the stream is still as the feed left it.
func (f *Feed) unchanged(ctx context.Context, at *end) (bool, error) {
	stream, err := f.c.js.Stream(ctx, UsageStream)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return false, nil
	case err != nil:
		return false, unavailable("look at stream "+UsageStream, err)
	}
	info := stream.CachedInfo()
	at.looked = time.Now()
	return streamID(info) == at.id && info.State.LastSeq == at.seq && torn(info, at.begun) == "", nil
}

// publish publishes entries in order, skipping those that the stream has, and
// returns how many it published. After an error the stream has to be looked
// at again: how much of them it holds is seen there.
func (f *Feed) publish(ctx context.Context, at *end, entries []odometer.Entry) (n int, err error) {
	var window []jetstream.PubAckFuture
	settle := func() error {
		wait, cancel := context.WithTimeout(ctx, DefaultAttemptTimeout)
		defer cancel()
		future := window[0]
		window = window[1:]
		select {
		case a := <-future.Ok():
			if a.Sequence != at.seq+1 || a.Duplicate {
				return fmt.Errorf("feed: message %d was stored as %d: something else writes to %s: %w", at.seq+1, a.Sequence, UsageStream, odometer.ErrConflict)
			}
			at.seq++
			n++
			f.count(func(s *FeedStats) { s.Published++; s.Last = time.Now() })
			return nil
		case err := <-future.Err():
			return fmt.Errorf("feed: %w", sendError(err))
		case <-wait.Done():
			return fmt.Errorf("feed: %w", sendError(wait.Err()))
		}
	}
	// fail gives up. Where ids do not keep the order (see entryMessage) it looks
	// whether what follows was stored nevertheless.
	fail := func(err error) (int, error) {
		for _, future := range window {
			select {
			case <-future.Ok():
				f.passed = at.copies
			case <-future.Err():
			case <-time.After(DefaultAttemptTimeout):
			case <-ctx.Done():
			}
		}
		return n, err
	}
	skipped, previous := uint64(0), ""
	for i := range entries {
		e := &entries[i]
		if e.ID.Partition < 0 || e.ID.Partition >= odometer.Partitions {
			return n, fmt.Errorf("feed: entry %s has no such partition: %w", e.ID, odometer.ErrInvalid)
		}
		hold := &at.hold[e.ID.Partition]
		held := e.ID.Number <= *hold
		if e.ID.Number >= *hold {
			*hold = 0
		}
		if held {
			skipped++
			continue
		}
		if len(window) == feedWindow {
			if err := settle(); err != nil {
				return fail(err)
			}
		}
		future, err := f.c.js.PublishMsgAsync(entryMessage(e, at.seq+uint64(len(window)), previous), jetstream.WithRetryAttempts(0))
		if err != nil {
			return fail(fmt.Errorf("feed: %w", sendError(err)))
		}
		window = append(window, future)
		if !at.copies {
			previous = e.ID.String()
		}
	}
	for len(window) > 0 {
		if err := settle(); err != nil {
			return fail(err)
		}
	}
	f.count(func(s *FeedStats) { s.Skipped += skipped })
	return n, nil
}

// entryMessage is an entry as a CloudEvent in binary mode, to be stored right
// behind message last, which has the id previous unless that is "", or not at
// all. The id matters when something else writes to the stream: it may take the
// number of a message that was then refused, and the ones after it must not
// follow that. Where several servers keep the stream no id is given: a copy
// that has caught up does not know the last one, and stops for good at the
// first message that names it (2.15.2).
func entryMessage(e *odometer.Entry, last uint64, previous string) *nats.Msg {
	id := e.ID.String()
	m := &nats.Msg{
		Subject: UsageSubject(e.Event.Owner, e.Event.Instance),
		Data:    e.AppendJSON(nil),
		Header: nats.Header{
			"ce-specversion":                {"1.0"},
			"ce-id":                         {id},
			"ce-source":                     {entrySource},
			"ce-type":                       {entryType},
			"ce-subject":                    {headerValue(string(e.Event.Instance))},
			"ce-time":                       {time.UnixMicro(e.BookedAt).UTC().Format(time.RFC3339Nano)},
			"ce-datacontenttype":            {"application/json"},
			"Content-Type":                  {"application/json"},
			jetstream.MsgIDHeader:           {id},
			jetstream.ExpectedStreamHeader:  {UsageStream},
			jetstream.ExpectedLastSeqHeader: {strconv.FormatUint(last, 10)},
		},
	}
	if previous != "" {
		m.Header[jetstream.ExpectedLastMsgIDHeader] = []string{previous}
	}
	return m
}

// headerValue encodes an attribute as the CloudEvents bindings do: percent
// encoding of everything outside printable ASCII, and of space, quotes and
// the percent sign.
func headerValue(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// parseEntryID reads what [odometer.EntryID] writes.
func parseEntryID(s string) (odometer.EntryID, bool) {
	p, n, ok := strings.Cut(s, "-")
	partition, err := strconv.Atoi(p)
	number, err2 := strconv.ParseUint(n, 10, 64)
	id := odometer.EntryID{Partition: partition, Number: number}
	return id, ok && err == nil && err2 == nil && partition >= 0 && partition < odometer.Partitions && id.String() == s
}
