package main

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer/api"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

// testQueue is a queue of its own, as a server has one.
func testQueue(t *testing.T) *queue.Server {
	t.Helper()
	s, err := queue.StartServer(queue.ServerOptions{StoreDir: filepath.Join(t.TempDir(), "nats"), Addr: "127.0.0.1:0", Token: "secret"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

func testSpool(t *testing.T) *spool.Spool {
	t.Helper()
	s, err := spool.Open(spool.Options{Dir: filepath.Join(t.TempDir(), "spool")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

func TestUplinkFollowsAQueueThatMoves(t *testing.T) {
	first, second := testQueue(t), testQueue(t)
	var where atomic.Pointer[string]
	where.Store(new(string)) // not known yet
	server := httptest.NewServer(api.NewServer(api.Deps{
		Auth: api.Tokens{api.HashToken("admin", "secret")}, QueueURL: func() string { return *where.Load() },
	}))
	defer server.Close()

	up := newUplink(remote{server: server.URL, token: "secret"}, "h1", testSpool(t), slog.New(slog.DiscardHandler))
	up.askAgain = 50 * time.Millisecond
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- up.run(ctx) }()

	at := func(url string) bool {
		return until(patience, func() bool {
			conn := up.current()
			return conn != nil && conn.Status().Connected && conn.Status().URL == url
		})
	}
	if !until(patience, func() bool { return strings.Contains(up.why().Error(), "this process has no queue") }) {
		t.Errorf("a server without a queue: got %v", up.why())
	}
	where.Store(new(first.URL()))
	if !at(first.URL()) {
		t.Fatalf("got no connection to %s: %v", first.URL(), up.why())
	}
	first.Shutdown()
	where.Store(new(second.URL()))
	if !at(second.URL()) {
		t.Fatalf("did not follow to %s: %v", second.URL(), up.why())
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("at the end: got %v", err)
	}
}

func TestUplinkSaysWhyThereIsNoConnection(t *testing.T) {
	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	up := newUplink(remote{server: closed.URL}, "h1", testSpool(t), slog.New(slog.DiscardHandler))
	ctx, stop := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer stop()
	go up.run(ctx)
	if _, err := up.recall(ctx); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "no answer from "+closed.URL) {
		t.Errorf("asking for checkpoints: got %v", err)
	}
	if st := up.stats(); st.Breaker != queue.BreakerClosed {
		t.Errorf("breaker before the first connection: got %s", st.Breaker)
	}

	refusing := httptest.NewServer(api.NewServer(api.Deps{Auth: api.Tokens{api.HashToken("admin", "secret")}}))
	defer refusing.Close()
	up = newUplink(remote{server: refusing.URL, token: "wrong"}, "h1", up.spool, up.logger)
	if err := up.answers(t.Context()); exitCode(err) != exitForbidden {
		t.Errorf("a wrong token: got %v, want an answer at once", err)
	}
}
