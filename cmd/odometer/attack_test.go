package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"example.org/odometer/account"
	"example.org/odometer/api/client"
	"example.org/odometer/internal/port"
)

// fromAddress makes requests from one of the addresses of the loopback.
func fromAddress(ip string) *http.Client {
	d := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}, Timeout: 5 * time.Second}
	return &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DialContext: d.DialContext}}
}

// TestMeteringGoesOnUnderAttack has everything done at once to a real server that
// somebody could do who has no token, or a weak one: it goes on measuring and
// booking, and answers who comes from elsewhere.
func TestMeteringGoesOnUnderAttack(t *testing.T) {
	web, err1 := port.Free()
	queued, err2 := port.Free()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	data := filepath.Join(t.TempDir(), "data")
	mask := syscall.Umask(0)
	defer syscall.Umask(mask) // which a server changes
	ctx, stop := context.WithCancel(t.Context())
	var out bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, []string{
			"serve", "--data-dir", data, "--http", web, "--nats", queued, "--interval", "1s", "--instance-id", "h1", "--source", "machine",
			"--max-connections-per-address", "20", "--request-rate", "20",
		}, streams{out: &out, err: &out, env: noEnv})
	}()
	var attackers sync.WaitGroup
	attacked, calm := context.WithCancel(t.Context())
	defer func() {
		calm()
		attackers.Wait()
		stop()
		if code := <-ended; code != 0 {
			t.Errorf("the server ended with %d:\n%s", code, &out)
		}
		if n := strings.Count(out.String(), "\n"); n > 200 {
			t.Errorf("the server's log has %d lines:\n%s", n, &out)
		}
		var report strings.Builder
		if code := run(context.Background(), []string{"audit", "--data-dir", data}, streams{out: &report, err: &report, env: noEnv}); code != 0 {
			t.Errorf("audit: %d %s", code, &report)
		}
	}()
	if !until(patience, func() bool { info, err := readServerInfo(data); return err == nil && info.HTTP != "" }) {
		t.Fatal("the server does not start")
	}
	token, err := readToken(filepath.Join(data, tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	good := &client.Client{Server: "http://" + web, Token: token, HTTP: fromAddress("127.0.0.2")}
	defer good.HTTP.CloseIdleConnections()
	entries := func() int64 {
		t.Helper()
		st, err := good.Status(t.Context())
		if err != nil {
			t.Fatalf("who comes from elsewhere: %v", err)
		}
		return st.Ledger.Entries
	}
	if !until(patience, func() bool { return entries() > 0 }) {
		t.Fatal("nothing is booked before the attack")
	}

	counts := map[string]*atomic.Int64{}
	attack := func(name string, pause time.Duration, do func() error) {
		count := new(atomic.Int64)
		counts[name] = count
		attackers.Go(func() {
			for {
				if do() == nil {
					count.Add(1)
				}
				select {
				case <-attacked.Done():
					return
				case <-time.After(pause):
				}
			}
		})
	}
	// More connections than one address may have, of which each sends a byte now and then.
	var slow []net.Conn
	for range 40 {
		c, err := net.Dial("tcp", web)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "GET /livez HTTP/1.1\r\nX: ")
		slow = append(slow, c)
	}
	attack("a byte now and then", 200*time.Millisecond, func() error {
		for _, c := range slow {
			io.WriteString(c, "a")
		}
		return nil
	})
	guesser, flooder := fromAddress("127.0.0.3"), fromAddress("127.0.0.4")
	defer guesser.CloseIdleConnections()
	defer flooder.CloseIdleConnections()
	ask := func(c *http.Client, want int, method, path, secret string, body []byte, headers ...string) error {
		r, err := http.NewRequest(method, "http://"+web+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		r.Header.Set("Authorization", "Bearer "+secret)
		for i := 0; i+1 < len(headers); i += 2 {
			r.Header.Add(headers[i], headers[i+1])
		}
		resp, err := c.Do(r)
		if err != nil {
			return err
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != want {
			return fmt.Errorf("got %d, want %d", resp.StatusCode, want)
		}
		return nil
	}
	attack("guesses", 5*time.Millisecond, func() error { return ask(guesser, 429, "GET", "/api/v1/me", account.NewSecret(), nil) })
	attack("many fields", 50*time.Millisecond, func() error {
		return ask(flooder, 431, "GET", "/api/v1/me", token, nil, strings.Split(strings.Repeat("X,a,", 200), ",")...)
	})
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	z.Write(bytes.Repeat([]byte(" "), 8<<20))
	z.Close()
	attack("a bomb", 50*time.Millisecond, func() error {
		return ask(flooder, 415, "POST", "/api/v1/events", token, bomb.Bytes(), "Content-Type", "application/json", "Content-Encoding", "gzip")
	})
	large := make([]byte, 2<<20)
	attack("a large body", 100*time.Millisecond, func() error {
		return ask(flooder, 413, "POST", "/api/v1/events", token, large, "Content-Type", "application/cloudevents+json")
	})
	attack("all that a token may ask", 5*time.Millisecond, func() error { return ask(flooder, 429, "GET", "/nowhere", token, nil) })
	attack("rubbish for the queue", 20*time.Millisecond, func() error {
		c, err := net.Dial("tcp", queued)
		if err != nil {
			return err
		}
		defer c.Close()
		rubbish := make([]byte, 512)
		rand.Read(rubbish)
		_, err = c.Write(rubbish)
		return err
	})

	reached := func() bool {
		for _, n := range counts {
			if n.Load() < 3 {
				return false
			}
		}
		return true
	}
	if !until(patience, reached) {
		for name, n := range counts {
			t.Errorf("%s: got it answered as it should be %d times", name, n.Load())
		}
	}
	probe := fromAddress("127.0.0.5")
	defer probe.CloseIdleConnections()
	metrics := func() string {
		r, _ := http.NewRequest("GET", "http://"+web+"/metrics", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		resp, err := probe.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, _ := io.ReadAll(resp.Body)
		return string(text)
	}
	booked := func() (n int) {
		for line := range strings.Lines(metrics()) {
			fmt.Sscanf(line, "odometer_ledger_entries %d", &n)
		}
		return n
	}
	before := booked()
	if !until(patience, func() bool { return booked() >= before+3 }) {
		t.Errorf("got %d entries, %d before: nothing is booked under attack", booked(), before)
	}
	if m := metrics(); !strings.Contains(m, "odometer_http_connections_refused_total 2") && !strings.Contains(m, "odometer_http_connections_refused_total 3") {
		t.Error("got no connection refused of those that were too many")
	}
}
