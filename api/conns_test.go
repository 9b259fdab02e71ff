package api

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
)

// shortLimits are over soon.
var shortLimits = ConnLimits{
	HeaderWithin: 300 * time.Millisecond, RequestWithin: 600 * time.Millisecond, AnswerWithin: 900 * time.Millisecond, IdleFor: 300 * time.Millisecond,
	HeaderBytes: 8 << 10, HeaderFields: 20, Open: 30, OpenOfOne: 10,
}

// listening serves h within limits, and returns where, and its listener.
func listening(t *testing.T, h http.Handler, limits ConnLimits) (string, *Listener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener := limits.Listener(l)
	srv := limits.Configure(h, slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(listener) }()
	t.Cleanup(func() {
		srv.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the server ended with %v", err)
		}
		until(t, "every connection is given back", func() bool { return listener.Stats().Open == 0 && len(listener.of) == 0 })
	})
	return l.Addr().String(), listener
}

// until waits for what is bound to happen.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// raw opens a connection from one of the addresses of the loopback.
func raw(t *testing.T, addr, from string) net.Conn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 10 * time.Second}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second)) // never reached
	return c
}

// answered reads an answer and returns its status and what is wrong by its problem.
func answered(t *testing.T, c net.Conn) (int, string) {
	t.Helper()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body)
}

// cut waits until a connection is closed by the other end.
func cut(c net.Conn) error {
	_, err := io.Copy(io.Discard, c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	return nil // reset or ended
}

const good = "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

// TestWhoIsSlowIsCutOff in each way, and holds up nobody.
func TestWhoIsSlowIsCutOff(t *testing.T) {
	f := NewFixture(t)
	addr, _ := listening(t, NewServer(f.Deps), shortLimits)
	head := "POST /api/v1/events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer secret\r\nContent-Type: application/cloudevents+json\r\n"
	var slow sync.WaitGroup
	for name, c := range map[string]struct {
		first, then string // then byte by byte
	}{
		"nothing":                         {"", ""},
		"a header, byte by byte":          {"GET /livez HTTP/1.1\r\nX-Slow: ", strings.Repeat("a", 4000)},
		"a body, byte by byte":            {head + "Content-Length: 4000\r\n\r\n", strings.Repeat(" ", 4000)},
		"a body in pieces, byte by byte":  {head + "Transfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\n \r\n", 700)},
		"a body that does not come":       {head + "Content-Length: 4000\r\n\r\n", ""},
		"a body that it has to ask for":   {head + "Content-Length: 4000\r\nExpect: 100-continue\r\n\r\n", ""},
		"requests, and nothing after one": {good, ""},
	} {
		conn := raw(t, addr, "127.0.0.1")
		slow.Go(func() {
			io.WriteString(conn, c.first)
			begin := time.Now()
			for i := range len(c.then) {
				if _, err := io.WriteString(conn, c.then[i:i+1]); err != nil {
					break
				}
				time.Sleep(5 * time.Millisecond)
			}
			if err := cut(conn); err != nil {
				t.Errorf("%s: not cut off in %s: %v", name, time.Since(begin), err)
			}
		})
	}
	// Meanwhile others are served.
	done := make(chan struct{})
	go func() { slow.Wait(); close(done) }()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for n := uint64(1); ; n++ {
		e := SampleEvent("vm-2", n, odometer.Owner{})
		r, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+addr+"/api/v1/events", bytes.NewReader(Structured(&e)))
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Authorization", "Bearer secret")
		r.Header.Set("Content-Type", odometer.ContentCloudEvent)
		resp, err := client.Do(r)
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("event %d: got %v, %v", n, resp, err)
		}
		resp.Body.Close()
		select {
		case <-done:
			if n < 5 {
				t.Errorf("got %d events taken meanwhile", n)
			}
			f.mu.Lock()
			received := f.counts["received"]
			f.mu.Unlock()
			if received != int64(n) {
				t.Errorf("got %d events, want %d: none of those that were cut off", received, n)
			}
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// TestWhoDoesNotReadIsCutOff: the handler gets its connection back.
func TestWhoDoesNotReadIsCutOff(t *testing.T) {
	ended := make(chan error, 1)
	addr, listener := listening(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		block := make([]byte, 64<<10)
		for {
			if _, err := w.Write(block); err != nil {
				ended <- err
				return
			}
		}
	}), shortLimits)
	c := raw(t, addr, "127.0.0.1")
	io.WriteString(c, good)
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("the handler writes for ever")
	}
	until(t, "the connection is given back", func() bool { return listener.Stats().Open == 0 })
}

// TestHeadersThatAreTooManyOrTooLarge get an answer, and reach no route.
func TestHeadersThatAreTooManyOrTooLarge(t *testing.T) {
	var reached atomic.Int64
	f := NewFixture(t)
	h := NewServer(f.Deps)
	addr, _ := listening(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { reached.Add(1); h.ServeHTTP(w, r) }), shortLimits)
	field := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "X-%d: a\r\n", i)
		}
		return b.String()
	}
	for name, c := range map[string]struct {
		fields string
		status int
		says   string
	}{
		"as many as there may be":   {field(20), 200, "ok"},
		"one more":                  {field(21), 431, `"code":"headers_too_large"`},
		"one field again and again": {strings.Repeat("X-A: a\r\n", 21), 431, "21 header fields"},
		"a long one":                {"X-Long: " + strings.Repeat("a", 20<<10) + "\r\n", 431, ""},
		"long ones":                 {strings.Repeat("X-Long: "+strings.Repeat("a", 4<<10)+"\r\n", 5), 431, ""},
		"no name":                   {": x\r\n", 400, ""},
		"a folded one":              {"X-A: a\r\n b\r\n", 200, "ok"},
		"a name with a space":       {"X A: a\r\n", 400, ""},
		"a null":                    {"X-A: a\x00b\r\n", 400, ""},
		"two lengths":               {"Content-Length: 1\r\nContent-Length: 2\r\n", 400, ""},
	} {
		before := reached.Load()
		conn := raw(t, addr, "127.0.0.1")
		io.WriteString(conn, "GET /livez HTTP/1.1\r\nHost: x\r\n"+c.fields+"\r\n")
		status, body := answered(t, conn)
		if status != c.status || !strings.Contains(body, c.says) {
			t.Errorf("%s: got %d %s, want %d %s", name, status, body, c.status, c.says)
		}
		if got := reached.Load() - before; got != 0 != (c.status == 200) {
			t.Errorf("%s: reached the routes %d times", name, got)
		}
		if c.status != 200 {
			if err := cut(conn); err != nil {
				t.Errorf("%s: the connection stays open", name)
			}
		}
		conn.Close()
	}
}

// TestConnectionsAreBounded of one address and in all; those that are open go on, and
// one that is closed makes room.
func TestConnectionsAreBounded(t *testing.T) {
	limits := shortLimits
	limits.HeaderWithin, limits.IdleFor, limits.RequestWithin, limits.AnswerWithin = time.Minute, time.Minute, time.Minute, time.Minute
	addr, listener := listening(t, NewServer(NewFixture(t).Deps), limits)
	open := map[string][]net.Conn{}
	enter := func(from string, want bool) {
		t.Helper()
		before := listener.Stats()
		c := raw(t, addr, from)
		if want {
			until(t, "a connection is let in", func() bool { return listener.Stats().Open == before.Open+1 })
			open[from] = append(open[from], c)
			return
		}
		if err := cut(c); err != nil || listener.Stats().Refused != before.Refused+1 {
			t.Fatalf("%s: got it not refused: %v, %+v", from, err, listener.Stats())
		}
	}
	leave := func(from string) {
		n := listener.Stats().Open
		open[from][0].Close()
		open[from] = open[from][1:]
		until(t, "a connection is given back", func() bool { return listener.Stats().Open == n-1 })
	}
	for range 10 {
		enter("127.0.0.1", true)
	}
	for range 5 {
		enter("127.0.0.1", false)
	}
	enter("127.0.0.2", true) // others are let in
	leave("127.0.0.1")
	enter("127.0.0.1", true)
	enter("127.0.0.1", false)
	for range 9 {
		enter("127.0.0.2", true)
	}
	for range 10 {
		enter("127.0.0.3", true)
	}
	enter("127.0.0.4", false) // in all
	for from, list := range open {
		for _, c := range list {
			io.WriteString(c, good)
			if status, body := answered(t, c); status != 200 || body != "ok" {
				t.Errorf("%s: got %d %s on a connection that was open", from, status, body)
			}
		}
	}
	leave("127.0.0.3")
	enter("127.0.0.4", true)
	if st := listener.Stats(); st.Open != 30 || st.Refused != 7 {
		t.Errorf("got %+v, want 30 open and 7 refused", st)
	}
}

func TestWhomAnAddressIsCountedAs(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1:80": "192.0.2.1", "[::ffff:192.0.2.1]:80": "192.0.2.1", "[2001:db8:1:2:3:4:5:6]:80": "2001:db8:1:2::", "[fe80::1%eth0]:1": "fe80::", "[::1]:80": "::",
		"": "invalid IP", "192.0.2.1": "invalid IP", "x:80": "invalid IP", "@": "invalid IP",
	} {
		if got := network(text); got.String() != want || got != (netip.Addr{}) == (want == "invalid IP") {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}
