package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
)

// A stream tells entries as they are booked, as server-sent events (the HTML standard,
// section 9.2). The id of each is the cursor after it: who connects again with the
// last that he had gets what came since, each once. What was seen when the stream
// began is seen to its end: where the token loses its validity, its scope or anybody
// whose usage it sees, or sees somebody more, the stream ends.

// Follower tells what is booked.
type Follower interface {
	// Follow returns entries that q asks for after q.After, in the order in which they
	// were booked, some of them, and the cursor up to which it looked: q.After where
	// nothing more is booked.
	Follow(ctx context.Context, seen odometer.View, q odometer.EntryQuery) (entries []odometer.Followed, next string, err error)
	// News returns a channel that is closed when something is booked. Whoever takes it
	// before he reads misses nothing.
	News() <-chan struct{}
	// End returns the cursor after everything that is booked.
	End(ctx context.Context) (cursor string, err error)
}

const (
	// StreamLife is how long a stream lasts, for who is connected for good to be
	// noticed when he is not there any more. The client goes on by the last id.
	StreamLife = time.Hour
	// StreamsPerToken is how many streams one token has at once.
	StreamsPerToken = 8
	// heartbeat is how often a silent stream says that it is there, which proxies
	// want within a minute.
	heartbeat = 15 * time.Second
	// streamPause is how long a stream waits between two looks at the ledger, so
	// that those of many clients cost little while much is booked.
	streamPause = 100 * time.Millisecond
	// streamRetry is when a client connects again.
	streamRetry = 2 * time.Second
)

const contentEvents = "text/event-stream"

func (s *server) streamRoutes() []route {
	return []route{{
		pattern: "GET /api/v1/usage/stream", access: reader, handle: s.getStream,
		id: "streamUsage", tag: "usage", summary: "Ledger entries as they are booked, as server-sent events",
		description: "An event `entry` for each, whose data is the entry and whose id is the cursor after it; the header Last-Event-ID goes on there. " +
			"Comments come while nothing is booked. Where the token is no longer valid, or sees something else than before, an event `end` comes " +
			"with the problem as its data, and nothing more. A stream ends after an hour, and where its client does not read.",
		params: []*parameter{
			instanceParam, userParam, orgParam,
			{name: "after", most: maxCursor, example: "m1", description: "cursor of an earlier answer: what was booked after it; without one, what is booked from now on"},
			{name: "Last-Event-ID", in: inHeader, example: "m1", description: "id of the last event that the client has; in place of `after`"},
		},
		replies: []reply{{http.StatusOK, "The stream.", nil, []content{{contentEvents, nil}}}}, fails: missing,
	}}
}

// streams counts those of each token.
type streams struct {
	mu   sync.Mutex
	open map[holderID]int
}

// enter notes one of a caller's, and returns what notes its end.
func (s *streams) enter(c odometer.Caller) (leave func(), err error) {
	who := holderID{c.ID, c.Bound, c.Name}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open[who] >= StreamsPerToken {
		return nil, fmt.Errorf("the token has %d streams already: %w", StreamsPerToken, &limitError{RetryAfter})
	}
	if s.open == nil {
		s.open = map[holderID]int{}
	}
	s.open[who]++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.open[who]--; s.open[who] == 0 {
			delete(s.open, who)
		}
	}, nil
}

func (s *server) getStream(w http.ResponseWriter, r *http.Request) error {
	if s.Stream == nil {
		return absent("ledger")
	}
	p := queryOf(r)
	q := odometer.EntryQuery{
		Instance: odometer.InstanceID(p.text("instance")), User: odometer.UserID(p.text("user")), Org: odometer.OrgID(p.text("org")),
		After: cmp.Or(r.Header.Get("Last-Event-ID"), p.text("after")),
	}
	if q.After == "" {
		var err error
		if q.After, err = s.Stream.End(r.Context()); err != nil {
			return err
		}
	}
	leave, err := s.streams.enter(caller(r))
	if err != nil {
		return err
	}
	defer leave()
	news := s.Stream.News()
	entries, next, err := s.Stream.Follow(r.Context(), seen(r), q) // what is wrong is answered as a problem
	if err != nil {
		return fmt.Errorf("follow the ledger: %w", err)
	}
	ctx, cancel := long(w, r, 0)
	defer cancel()
	st := &stream{s: s, r: r.WithContext(context.WithValue(ctx, callerKey{}, caller(r))), out: newLines(w, r, contentEvents)}
	// HTTP/2 ends an answer at its deadline though nothing waits to be written.
	st.beat = time.NewTicker(min(heartbeat, st.out.within/2))
	defer st.beat.Stop()
	st.out.buf = fmt.Appendf(st.out.buf, "retry: %d\n\n", streamRetry.Milliseconds())
	if r.Method == http.MethodHead {
		return st.out.flush()
	}
	life := time.NewTimer(cmp.Or(s.StreamLife, StreamLife))
	defer life.Stop()
	for err == nil {
		if err = st.tell(entries); err == nil && next == q.After {
			err = st.wait(news, life.C, next)
		}
		if err == nil {
			q.After, news = next, s.Stream.News()
			if entries, next, err = s.Stream.Follow(ctx, seen(st.r), q); err != nil {
				err = st.end(fmt.Errorf("follow the ledger: %w", err))
			}
		}
	}
	if errors.Is(err, errEnded) {
		st.out.extend() // for the last chunk
		return nil
	}
	return err
}

// stream is one that is being written.
type stream struct {
	s    *server
	r    *http.Request // whose caller is who began it
	out  *lines
	beat *time.Ticker
}

// errLost says that a caller sees something else than when the stream began.
var errLost = fmt.Errorf("what the token sees has changed: connect again: %w", odometer.ErrForbidden)

// errEnded says that a stream has come to its end.
var errEnded = errors.New("the stream has ended")

// still returns an error where the caller is no longer who he was.
func (st *stream) still() error {
	again, err := authorise(st.s.router.auth, reader, st.r)
	if err != nil {
		return err
	}
	if was, is := seen(st.r), seen(again); was.All() != is.All() || was.User() != is.User() || !slices.Equal(was.Orgs(), is.Orgs()) || !slices.Equal(was.Granted(), is.Granted()) {
		return errLost
	}
	return nil
}

// tell writes entries, and what waits to be written.
func (st *stream) tell(entries []odometer.Followed) error {
	for i := range entries {
		if err := st.still(); err != nil {
			return st.end(err)
		}
		b := append(append(st.out.buf, "id: "...), entries[i].Cursor...)
		b = append(append(b, "\nevent: entry\ndata: "...), entries[i].Entry...) // which has no line break
		st.out.buf = append(b, "\n\n"...)
		if len(st.out.buf) >= someOfIt {
			if err := st.out.flush(); err != nil {
				return err
			}
		}
	}
	return st.send()
}

// send has the client get what is written.
func (st *stream) send() error {
	if len(st.out.buf) == 0 {
		return nil
	}
	err := st.out.flush()
	if err == nil {
		err = st.out.control.Flush()
	}
	if err != nil {
		return errors.Join(errGone, err)
	}
	return nil
}

// wait returns when there may be something new. Meanwhile it says now and then that
// the stream is there, and up to where the client has everything.
func (st *stream) wait(news <-chan struct{}, life <-chan time.Time, at string) error {
	pause := time.NewTimer(streamPause)
	defer pause.Stop()
	var heard <-chan struct{} // news, after the pause
	for {
		select {
		case <-st.r.Context().Done():
			return errEnded
		case <-life:
			return errEnded
		case <-st.beat.C:
			if err := st.still(); err != nil {
				return st.end(err)
			}
			st.out.buf = fmt.Appendf(st.out.buf, ": still here\nid: %s\n\n", at)
			if err := st.send(); err != nil {
				return err
			}
		case <-pause.C:
			heard = news
		case <-heard:
			return nil
		}
	}
}

// end tells the client why nothing more comes.
func (st *stream) end(err error) error {
	if errors.Is(err, context.Canceled) { // he is gone
		return errEnded
	}
	p := problemOf(err, st.r.URL.EscapedPath(), st.out.w.Header().Get("X-Request-Id"))
	if p.Status >= http.StatusInternalServerError {
		st.s.router.logger.Error("stream failed", "request_id", p.RequestID, "error", odometer.HideSecrets(err.Error()))
	}
	text, wrong := encode(p)
	if wrong != nil {
		return wrong
	}
	st.out.buf = append(append(append(st.out.buf, "event: end\ndata: "...), text...), '\n')
	return cmp.Or(st.send(), errEnded)
}
