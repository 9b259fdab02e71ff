package queue

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shared is a buffer that several goroutines write to.
type shared struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// TestWhoIsNotLetInFillsNoLog guesses tokens and sends what is no NATS, again and again.
func TestWhoIsNotLetInFillsNoLog(t *testing.T) {
	var log shared
	var refused atomic.Int64
	s, err := StartServer(ServerOptions{
		StoreDir: t.TempDir(), Addr: anyPort, Token: testToken, Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Refused: func(remote string) {
			if a, err := netip.ParseAddrPort(remote); err != nil || !a.Addr().IsLoopback() {
				t.Errorf("got somebody from %q refused: %v", remote, err)
			}
			refused.Add(1)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Shutdown)
	good := connected(t, s, testAgent)
	for n := range 300 {
		c, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		send := "CONNECT {\"auth_token\":\"guess\",\"verbose\":false}\r\nPING\r\n"
		if n%2 == 1 {
			send = "GET / HTTP/1.1\r\n\r\n"
		}
		io.WriteString(c, send)
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%q: the connection stays open", send)
		}
		c.Close()
	}
	if n := strings.Count(log.String(), "\n"); n == 0 || n > logBurst+60 {
		t.Errorf("got %d lines, want some and at most %d:\n%s", n, logBurst, log.String())
	}
	if n := refused.Load(); n != 150 {
		t.Errorf("got told of %d who guessed, want 150", n)
	}
	if strings.Contains(log.String(), "guess") {
		t.Error("got a token in the log")
	}
	if err := good.Flush(t.Context()); err != nil {
		t.Errorf("who is connected: got %v", err)
	}
}

// TestWhoSaysNothingIsCutOff, before he has shown who he is.
func TestWhoSaysNothingIsCutOff(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	open := map[string]net.Conn{}
	for _, first := range []string{"", "CON", "CONNECT {"} {
		c, err := net.Dial("tcp", s.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(c, first)
		open[first] = c
	}
	for first, c := range open {
		if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%q: the connection stays open", first)
		}
	}
}

func TestLinesThatComeTooOften(t *testing.T) {
	var o often
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	count := func(n int) (through, left int) {
		for range n {
			if out, ok := o.one(now); ok {
				through++
				left += out
			}
		}
		return through, left
	}
	for _, c := range []struct {
		after         time.Duration
		lines         int
		through, left int
	}{
		{0, 1000, logBurst, 0}, {logEvery / 2, 10, 0, 0}, {logEvery / 2, 10, 1, 960}, {10 * logEvery, 20, 10, 9}, {time.Hour, 1000, logBurst, 10},
	} {
		now = now.Add(c.after)
		if through, left := count(c.lines); through != c.through || left != c.left {
			t.Errorf("after %s: got %d of %d lines through, %d told left out, want %d, %d", c.after, through, c.lines, left, c.through, c.left)
		}
	}
}
