package notify

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
)

// bare is a server that does with each connection what it likes.
func bare(t *testing.T, do func(net.Conn)) (url string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); do(c) })
		}
	})
	return "http://" + l.Addr().String()
}

// request reads a request, whole.
func request(c net.Conn) {
	if r, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
		io.Copy(io.Discard, r.Body)
	}
}

// TestReceiversFromHell: whatever a receiver does is on record as what it is, takes no
// longer than an attempt may, reads no more than it may, and leads nowhere else.
func TestReceiversFromHell(t *testing.T) {
	elsewhere := newReceiver(t, nil)
	secure := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(secure.Close)
	for _, c := range []struct {
		name string
		url  string
		want string // in the error; "" for delivered
		code int
	}{
		{"accepts and says nothing", bare(t, func(c net.Conn) { io.Copy(io.Discard, c) }), "it did not answer in time", 0},
		{"closes at once", bare(t, func(net.Conn) {}), "", -1},
		{"closes after the request", bare(t, request), "EOF", 0},
		{"answers what is no HTTP", bare(t, func(c net.Conn) { request(c); io.WriteString(c, "220 smtp ready\r\n") }), "malformed HTTP", 0},
		{"answers a byte at a time for ever", bare(t, func(c net.Conn) {
			request(c)
			for _, b := range []byte("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 1000)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}), "it did not answer in time", 0},
		{"a header without an end", bare(t, func(c net.Conn) {
			go request(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for {
				if _, err := io.WriteString(c, "X-Y: "+strings.Repeat("x", 1000)+"\r\n"); err != nil {
					return
				}
			}
		}), "", -1},
		{"500 and an endless answer", bare(t, func(c net.Conn) {
			request(c)
			io.WriteString(c, "HTTP/1.1 500 No\r\nContent-Type: text/plain\r\n\r\n")
			for {
				if _, err := io.WriteString(c, strings.Repeat("x", 1000)); err != nil {
					return
				}
			}
		}), "it answered 500", 500},
		{"200 and an answer that hangs", bare(t, func(c net.Conn) {
			request(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nsome")
			io.Copy(io.Discard, c)
		}), "", 200},
		{"404 and breaks off", bare(t, func(c net.Conn) {
			request(c)
			io.WriteString(c, "HTTP/1.1 404 No\r\nContent-Length: 100\r\n\r\nsome")
		}), "it answered 404 and broke off", 404},
		{"redirects inside", bare(t, func(c net.Conn) {
			request(c)
			fmt.Fprintf(c, "HTTP/1.1 307 Go\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n", elsewhere.URL)
		}), "it answered 307 and would lead elsewhere", 307},
		{"a certificate that nobody signed", secure.URL, "certificate", 0},
		{"TLS where there is none", "https" + strings.TrimPrefix(elsewhere.URL, "http"), "HTTP response to HTTPS client", 0},
		{"nobody listens", "http://127.0.0.1:1", "refused", 0},
		{"no such name", "http://nowhere.invalid", "its name leads to no address", -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newOffice(t, Options{within: 500 * time.Millisecond})
			ch, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: c.url})
			w.log.add(violation("vm-1", 1))
			begin := time.Now()
			w.rest()
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			list := w.deliveries(ch.ID, "")
			if len(list) != 1 || list[0].Attempts != 1 {
				t.Fatalf("got %+v, want one attempt", list)
			}
			last := list[0].Last
			if delivered := list[0].State == odometer.DeliveryDelivered; c.code >= 0 && (delivered != (c.want == "") || last.Status != c.code) || c.code < 0 && (delivered || last.Err == "") ||
				!strings.Contains(last.Err, c.want) || len(last.Answer) > answerKept {
				t.Errorf("got %s, %+v, want %q", list[0].State, last, c.want)
			}
		})
	}
	if got := len(elsewhere.requests()); got != 0 {
		t.Errorf("got %d requests where redirects lead, want none", got)
	}
}

// TestADeadReceiverDelaysNobodyElse: beside receivers that hang, fail and are slow, with
// much to be told, all that is for those that work comes in time, and at the end nothing
// goes on.
func TestADeadReceiverDelaysNobodyElse(t *testing.T) {
	before := runtime.NumGoroutine()
	w := newOffice(t, Options{within: time.Second})
	clock := func() int64 { return time.Now().UnixMicro() }
	w.o.Clock, w.Notifier.clock = time.Now, time.Now
	var hold sync.WaitGroup
	hold.Add(1)
	hang := newReceiver(t, func(http.ResponseWriter, *http.Request) { hold.Wait() })
	slow := newReceiver(t, func(http.ResponseWriter, *http.Request) { time.Sleep(300 * time.Millisecond) })
	fails := newReceiver(t, status(http.StatusInternalServerError))
	var mu sync.Mutex
	var late []time.Duration
	works := newReceiver(t, nil)
	made := map[string]int64{}
	works.set(func(_ http.ResponseWriter, q *http.Request) {
		var e struct{ ID string }
		if err := json.NewDecoder(q.Body).Decode(&e); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		late = append(late, time.Duration(clock()-made[e.ID])*time.Microsecond)
	})
	var bad []odometer.ChannelID
	for _, r := range []*receiver{hang, hang, slow, fails} {
		c, _ := w.create(odometer.Channel{Kind: odometer.ChannelSlack, URL: r.URL})
		bad = append(bad, c.ID)
		c, _ = w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL, Events: []odometer.EventKind{odometer.EventUsage}})
		bad = append(bad, c.ID)
	}
	var good []odometer.ChannelID
	for range 5 {
		c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: works.URL, Events: []odometer.EventKind{odometer.EventUsage}})
		good = append(good, c.ID)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- w.Run(ctx) }()
	const changes = 40
	for i := range changes {
		v := violation(fmt.Sprintf("vm-%d", i), i, append(slices.Clone(bad), good...)...)
		v.Action = odometer.ActionAlert
		mu.Lock()
		made[v.ChangeID()] = clock()
		mu.Unlock()
		w.log.add(v)
		time.Sleep(50 * time.Millisecond)
	}
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		mu.Lock()
		n := len(late)
		mu.Unlock()
		if n >= changes*len(good) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %d of %d deliveries to those that work", n, changes*len(good))
		}
	}
	slices.Sort(late)
	p99 := late[len(late)*99/100]
	t.Logf("p50 %v, p99 %v of %d deliveries beside receivers that hang", late[len(late)/2], p99, len(late))
	if p99 > 5*time.Second { // loose, since the machine may be busy
		t.Errorf("got a p99 of %v beside receivers that hang", p99)
	}
	cancel()
	hold.Done()
	if err := <-ended; err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Run: got %v", err)
	}
	w.client.CloseIdleConnections()
	for _, r := range []*receiver{hang, slow, fails, works} {
		r.CloseClientConnections()
		r.Close()
	}
	for deadline := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > before+3; time.Sleep(10 * time.Millisecond) { // the database's
		if time.Now().After(deadline) {
			buf := make([]byte, 1<<20)
			t.Fatalf("%d goroutines go on, %d did before: %s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
		}
	}
	// What failed waits, and comes when its receiver is back.
	for _, id := range bad[6:] {
		if got := len(w.deliveries(id, odometer.DeliveryWaiting)); got != changes {
			t.Errorf("got %d that wait for a receiver that fails, want %d", got, changes)
		}
	}
}

// TestANameThatLeadsInside is not told where.
func TestANameThatLeadsInside(t *testing.T) {
	w := newOffice(t, Options{Allow: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}})
	r := newReceiver(t, nil)
	_, port, err := net.SplitHostPort(r.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: "http://localhost:" + port})
	a, err := w.Test(t.Context(), admin, c.ID)
	if err != nil || a.Err != "it leads to an address that is not on the public internet" || len(r.requests()) != 0 {
		t.Errorf("got %+v, %v and %d requests, want it refused", a, err, len(r.requests()))
	}
}

// TestADatabaseThatIsLocked: nothing is lost, it is said, and it goes on when it is not.
func TestADatabaseThatIsLocked(t *testing.T) {
	w := newOffice(t, Options{Wait: time.Millisecond})
	r := newReceiver(t, nil)
	w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	other := &office{t: t, o: w.o}
	other.open()
	defer other.Close()
	tx, err := other.db.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	w.log.add(violation("vm-1", 1))
	if _, err := w.round(t.Context(), t.Context()); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	} else {
		w.failed(err)
	}
	if s := w.Stats(); s.Err == "" {
		t.Error("got no error in the figures")
	}
	tx.Rollback()
	w.rest()
	w.failed(nil)
	if got := r.events(t); len(got) != 1 || w.Stats().Err != "" {
		t.Errorf("got %v, %q, want it delivered", got, w.Stats().Err)
	}
}
