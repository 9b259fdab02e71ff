package api

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

// guest is an Authenticator of one token whose caller may change.
type guest struct {
	mu     sync.Mutex
	caller odometer.Caller
	gone   bool
}

func (g *guest) Authenticate(_ context.Context, token string) (odometer.Caller, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.caller, !g.gone && token == "secret"
}

func (g *guest) become(change func(*guest)) {
	g.mu.Lock()
	defer g.mu.Unlock()
	change(g)
}

// told is one event of a stream, or a comment.
type told struct{ kind, id, data, comment string }

// listen reads a stream's events until it ends.
func listen(lines *bufio.Reader) <-chan told {
	events := make(chan told, 1000)
	go func() {
		defer close(events)
		for {
			var e told
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					return
				}
				if line = strings.TrimRight(line, "\r\n"); line == "" {
					break
				}
				name, value, _ := strings.Cut(line, ": ")
				switch name {
				case "event":
					e.kind = value
				case "id":
					e.id = value
				case "data":
					e.data = value
				case "":
					e.comment = value
				}
			}
			if e != (told{}) {
				events <- e
			}
		}
	}()
	return events
}

// stage is a server in a bubble of time, with one guest.
type stage struct {
	*InMemory
	guest   *guest
	pipes   pipes
	serving atomic.Int64 // requests that are being answered
	close   func()
}

func newStage() *stage { return newStageWithin(StandardConnLimits.AnswerWithin) }

// newStageWithin has answers be taken within a time.
func newStageWithin(answer time.Duration) *stage {
	s := &stage{InMemory: NewInMemory(), pipes: make(pipes), guest: &guest{caller: odometer.Caller{ID: "tok_a", Scopes: []odometer.Scope{odometer.ScopeRead}}}}
	limits := StandardConnLimits
	limits.AnswerWithin = answer
	h := NewServer(Deps{Auth: s.guest, Usage: s, Entries: s, Stream: s})
	srv := limits.Configure(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.serving.Add(1)
		defer s.serving.Add(-1)
		h.ServeHTTP(w, r)
	}), nil)
	go srv.Serve(s.pipes)
	s.close = func() { srv.Close() }
	return s
}

func (s *stage) follow(t *testing.T, target string, headers ...string) (<-chan told, func()) {
	t.Helper()
	c := s.pipes.dial(t, target, headers...)
	lines := bufio.NewReader(c)
	for { // the header; what follows is in chunks, whose sizes are no fields
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasPrefix(line, "HTTP/1.1 ") && !strings.HasPrefix(line, "HTTP/1.1 200") {
			t.Fatalf("got %q", line)
		}
		if line == "\r\n" {
			break
		}
	}
	return listen(bufio.NewReader(httputil.NewChunkedReader(lines))), func() { c.Close() }
}

func (s *stage) bookOne(instance odometer.InstanceID, n uint64, owner odometer.Owner) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.book(SampleEvent(instance, n, owner))
}

var ada, eve = odometer.Owner{User: "ada", Org: "acme"}, odometer.Owner{User: "eve"}

// TestAStreamTellsEachEntryOnce follows while entries are booked, is cut, and goes on
// by the last id.
func TestAStreamTellsEachEntryOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		defer s.close()
		s.bookOne("vm-1", 1, ada)
		events, cut := s.follow(t, "/api/v1/usage/stream?instance=vm-1")
		var had []uint64
		last := ""
		hear := func() {
			synctest.Wait()
			for {
				select {
				case e, ok := <-events:
					if !ok {
						return
					}
					if e.id != "" {
						last = e.id
					}
					if e.kind == "entry" {
						entry, err := odometer.DecodeEntry([]byte(e.data))
						if err != nil {
							t.Fatal(err)
						}
						had = append(had, entry.Event.Sequence)
					}
				default:
					return
				}
			}
		}
		for n := uint64(2); n <= 6; n++ {
			s.bookOne("vm-1", n, ada)
			s.bookOne("vm-2", n, ada) // which was not asked for
			if n == 4 {
				time.Sleep(streamPause + time.Millisecond)
				hear()
			}
		}
		time.Sleep(streamPause + time.Millisecond)
		hear()
		cut()
		s.bookOne("vm-1", 7, ada)
		events, cut = s.follow(t, "/api/v1/usage/stream?instance=vm-1", "Last-Event-ID", last)
		s.bookOne("vm-1", 8, ada)
		time.Sleep(time.Second)
		hear()
		if want := []uint64{2, 3, 4, 5, 6, 7, 8}; !slices.Equal(had, want) {
			t.Errorf("got the events %v, want %v", had, want)
		}
		cut()
		// Who hears nothing hears that it is there, and up to where he has everything.
		events, cut = s.follow(t, "/api/v1/usage/stream?user=nobody", "Last-Event-ID", "m0")
		defer cut()
		begin := time.Now()
		if e := <-events; e.comment == "" || e.id == "" || e.id == "m0" || time.Since(begin) > heartbeat {
			t.Errorf("got %+v after %s, want a comment with where it stands within %s", e, time.Since(begin), heartbeat)
		}
		for range 3 {
			<-events
		}
		if took := time.Since(begin); took != 4*heartbeat {
			t.Errorf("four heartbeats took %s", took)
		}
		for range events { // until it ends
		}
		if total := time.Since(begin); total < StreamLife || total > StreamLife+heartbeat {
			t.Errorf("the stream ended after %s, want %s", total, StreamLife)
		}
	})
}

// TestAStreamEndsWithItsToken takes from the caller what he has, in several ways: the
// next entry is not told, and neither is anything after a heartbeat.
func TestAStreamEndsWithItsToken(t *testing.T) {
	bound := odometer.Caller{ID: "tok_b", Bound: odometer.Bound{User: "ada"}, Scopes: []odometer.Scope{odometer.ScopeRead},
		Memberships: []odometer.Membership{{Org: "acme", User: "ada", Role: odometer.RoleBilling}}}
	for _, c := range []struct {
		name   string
		change func(*guest)
		code   string
	}{
		{"revoked or expired", func(g *guest) { g.gone = true }, "unauthorized"},
		{"without the scope", func(g *guest) { g.caller.Scopes = []odometer.Scope{odometer.ScopeAccount} }, "insufficient_scope"},
		{"with another role", func(g *guest) {
			g.caller.Memberships = []odometer.Membership{{Org: "acme", User: "ada", Role: odometer.RoleMember}}
		}, "forbidden"},
		{"without the membership", func(g *guest) { g.caller.Memberships = nil }, "forbidden"},
		{"seeing more", func(g *guest) {
			g.caller.Memberships = append(slices.Clone(g.caller.Memberships), odometer.Membership{Org: "zeta", User: "ada", Role: odometer.RoleOwner})
		}, "forbidden"},
		{"with a grant", func(g *guest) { g.caller.Grants = []odometer.Grant{{Instance: "vm-9", User: "ada", Since: Now}} }, "forbidden"},
		{"nothing that matters", func(g *guest) { g.caller.Name = "other" }, ""},
	} {
		for _, booked := range []bool{true, false} {
			synctest.Test(t, func(t *testing.T) {
				s := newStage()
				defer s.close()
				s.guest.caller = bound
				events, cut := s.follow(t, "/api/v1/usage/stream")
				defer cut()
				s.bookOne("vm-1", 1, eve) // whom he does not see
				s.bookOne("vm-2", 1, odometer.Owner{User: "bob", Org: "acme"})
				if e := <-events; e.kind != "entry" || !strings.Contains(e.data, `"vm-2"`) {
					t.Fatalf("%s: got %+v, want the entry of his organisation", c.name, e)
				}
				s.guest.become(c.change)
				if booked {
					s.bookOne("vm-2", 2, odometer.Owner{User: "bob", Org: "acme"})
				}
				e := <-events
				if c.code == "" {
					if e.kind == "end" {
						t.Errorf("%s: got %+v, want the stream to go on", c.name, e)
					}
					return
				}
				var p Problem
				if err := json.Unmarshal([]byte(e.data), &p); e.kind != "end" || err != nil || p.Code != c.code {
					t.Errorf("%s, booked: %v: got %+v, want the end, for %s", c.name, booked, e, c.code)
				}
				if e, more := <-events; more {
					t.Errorf("%s: got %+v after the end", c.name, e)
				}
			})
		}
	}
}

// TestAStreamThatIsNotReadIsCutOff has a client read the beginning, and much booked.
func TestAStreamThatIsNotReadIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		defer s.close()
		c := s.pipes.dial(t, "/api/v1/usage/stream?after=m0")
		if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		for n := range uint64(50) {
			s.bookOne("vm-1", n+1, ada)
		}
		begin := time.Now()
		time.Sleep(2 * StandardConnLimits.AnswerWithin)
		var b [1 << 20]byte
		n := 0
		for {
			got, err := c.Read(b[n:])
			if n += got; err != nil {
				break
			}
		}
		if strings.HasSuffix(string(b[:n]), "\r\n0\r\n\r\n") {
			t.Errorf("after %s: got the whole answer", time.Since(begin))
		}
	})
}

// TestAStreamOutlivesAnyAnswer follows for a hundred times as long as an answer may
// take: it is told everything while it reads, and cut off once it does not.
func TestAStreamOutlivesAnyAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const within = 3 * time.Second
		s := newStageWithin(within)
		defer s.close()
		events, cut := s.follow(t, "/api/v1/usage/stream")
		defer cut()
		begin := time.Now()
		for n := uint64(1); time.Since(begin) < 100*within; n++ {
			time.Sleep(7 * within)
			s.bookOne("vm-1", n, ada)
			e, more := <-events
			for more && e.kind == "" { // it only says that it is there
				e, more = <-events
			}
			if e.kind != "entry" {
				t.Fatalf("after %s: got %+v, want the entry", time.Since(begin), e)
			}
		}

		idle := s.pipes.dial(t, "/api/v1/usage/stream")
		defer idle.Close()
		if _, err := bufio.NewReader(idle).ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if got := s.serving.Load(); got != 2 {
			t.Fatalf("got %d streams open, want 2", got)
		}
		time.Sleep(3 * within)
		synctest.Wait()
		if got := s.serving.Load(); got != 1 {
			t.Errorf("%s after one was read for the last time: got %d streams open, want the other one", 3*within, got)
		}
	})
}

func TestStreamsOfATokenAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStage()
		defer s.close()
		var cuts []func()
		for range StreamsPerToken {
			_, cut := s.follow(t, "/api/v1/usage/stream")
			cuts = append(cuts, cut)
		}
		c := s.pipes.dial(t, "/api/v1/usage/stream")
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 429") {
			t.Errorf("one more: got %q, %v, want 429", line, err)
		}
		c.Close()
		s.guest.become(func(g *guest) { g.caller.ID = "tok_other" })
		_, cut := s.follow(t, "/api/v1/usage/stream")
		cut()
		s.guest.become(func(g *guest) { g.caller.ID = "tok_a" })
		cuts[0]()
		synctest.Wait()
		_, cut = s.follow(t, "/api/v1/usage/stream")
		cut()
		for _, cut := range cuts[1:] {
			cut()
		}
	})
}

// TestAStreamThatCannotBegin is answered as anything else that is wrong.
func TestAStreamThatCannotBegin(t *testing.T) {
	f := NewFixture(t)
	h := serverOf(t, f.Deps)
	for _, headers := range [][]string{{"Last-Event-ID", "x"}, {"Last-Event-ID", "m99"}} {
		if w := do(h, "GET", "/api/v1/usage/stream", headers...); w.Code != http.StatusBadRequest {
			t.Errorf("%v: got %d %s, want 400", headers, w.Code, w.Body)
		}
	}
	f.Fails = fmt.Errorf("the ledger is closed: %w", odometer.ErrUnavailable)
	if w := do(h, "GET", "/api/v1/usage/stream"); w.Code != http.StatusServiceUnavailable {
		t.Errorf("without a ledger: got %d %s, want 503", w.Code, w.Body)
	}
}

// TestAStreamEndsWithTheRealToken revokes a token that follows.
func TestAStreamEndsWithTheRealToken(t *testing.T) {
	f := NewFixture(t)
	f.Deps.StreamLife = time.Minute
	s := httptest.NewServer(serverOf(t, f.Deps))
	defer s.Close()
	id, secret := create(t, f.Accounts, "follows", time.Time{}, odometer.ScopeRead)
	r, _ := http.NewRequestWithContext(t.Context(), "GET", s.URL+"/api/v1/usage/stream", nil)
	r.Header.Set("Authorization", "Bearer "+secret)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	events := listen(bufio.NewReader(resp.Body))
	e := SampleEvent("vm-1", 1, ada)
	f.Submit(t.Context(), []odometer.Record{{Event: &e}})
	if got := <-events; got.kind != "entry" {
		t.Fatalf("got %+v, want the entry", got)
	}
	if _, err := f.Accounts.RevokeToken(t.Context(), byHand, id); err != nil {
		t.Fatal(err)
	}
	e = SampleEvent("vm-1", 2, ada)
	f.Submit(t.Context(), []odometer.Record{{Event: &e}})
	if got := <-events; got.kind != "end" || !strings.Contains(got.data, "unauthorized") {
		t.Errorf("after it is revoked: got %+v, want the end", got)
	}
}
