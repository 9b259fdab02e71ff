package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"example.org/odometer/api"
	"example.org/odometer/api/client"
	"example.org/odometer/queue"
)

// authority signs certificates, which lie in two files of a directory.
type authority struct {
	t         *testing.T
	cert, key string // files
	ca        *x509.Certificate
	caKey     *ecdsa.PrivateKey
	serial    int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	dir := t.TempDir()
	a := &authority{t: t, cert: filepath.Join(dir, "cert.pem"), key: filepath.Join(dir, "key.pem")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-24 * time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if a.ca, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	a.caKey, a.serial = key, 1
	return a
}

// issue makes another certificate of 127.0.0.1, or of a name, and returns it and its
// key as the files have them.
func (a *authority) issue(name string, from, until time.Duration) (cert, key []byte) {
	a.t.Helper()
	pair, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.serial++
	template := &x509.Certificate{SerialNumber: big.NewInt(a.serial), NotBefore: time.Now().Add(from), NotAfter: time.Now().Add(until)}
	if ip := net.ParseIP(name); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{name}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.ca, pair.Public(), a.caKey)
	if err != nil {
		a.t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(pair)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
}

// put replaces a file as certbot and Kubernetes do: by another one.
func (a *authority) put(path string, content []byte) {
	a.t.Helper()
	if err := writeFile(path, content); err != nil {
		a.t.Fatal(err)
	}
}

func (a *authority) open(logger *slog.Logger) *tlsPair {
	a.t.Helper()
	p, err := openPair(a.cert, a.key, logger)
	if err != nil {
		a.t.Fatal(err)
	}
	return p
}

func (a *authority) trust() *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.ca)
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
}

// overTLS serves the API and a queue with a pair.
func overTLS(t *testing.T, p *tlsPair) (web string, q *queue.Server) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	limits := api.StandardConnLimits
	listener := limits.Listener(l)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	handler := api.NewServer(api.Deps{Auth: api.Tokens{api.HashToken("admin", "secret")}})
	go func() { ended <- serveHTTP(ctx, listener, handler, p.config(), limits, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the API ended with %v", err)
		}
	})
	q, err = queue.StartServer(queue.ServerOptions{StoreDir: filepath.Join(t.TempDir(), "nats"), Addr: "127.0.0.1:0", Token: "secret", TLS: p.config()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Shutdown)
	return httpURL(listener, p.config()), q
}

// TestACertificateIsReplacedWhileConnectionsAreOpen has a client of each kind that
// connected before, which goes on, and one that connects after it.
func TestACertificateIsReplacedWhileConnectionsAreOpen(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("127.0.0.1", -time.Hour, time.Hour)
	a.put(a.cert, cert)
	a.put(a.key, key)
	p := a.open(slog.New(slog.DiscardHandler))
	web, q := overTLS(t, p)

	ask := func(c *http.Client) (serial int64) {
		t.Helper()
		resp, err := c.Get(web + "/livez")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, resp.Body); err != nil { // or the connection is not used again
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK || resp.TLS.Version < tls.VersionTLS12 {
			t.Fatalf("got %s, %v, TLS %x", resp.Status, err, resp.TLS.Version)
		}
		return resp.TLS.PeerCertificates[0].SerialNumber.Int64()
	}
	newClient := func() *http.Client {
		transport := &http.Transport{TLSClientConfig: a.trust(), MaxConnsPerHost: 1}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	newConn := func() *nats.Conn {
		t.Helper()
		nc, err := nats.Connect(q.URL(), nats.Token("secret"), nats.Secure(a.trust()), nats.NoReconnect())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		return nc
	}
	serialOf := func(nc *nats.Conn) int64 {
		t.Helper()
		st, err := nc.TLSConnectionState()
		if err != nil {
			t.Fatal(err)
		}
		return st.PeerCertificates[0].SerialNumber.Int64()
	}
	agent, err := queue.Connect(queue.ConnectOptions{URL: q.URL(), Token: "secret", Agent: "h1", TLS: a.trust()})
	if err != nil {
		t.Fatal(err)
	}
	defer agent.Close()
	before, natsBefore := newClient(), newConn()
	if s, n := ask(before), serialOf(natsBefore); s != 2 || n != 2 {
		t.Fatalf("got the certificates %d and %d, want 2", s, n)
	}

	next, nextKey := a.issue("127.0.0.1", -time.Hour, time.Hour)
	a.put(a.cert, next)
	p.look() // between the two files
	if s, n := ask(newClient()), serialOf(newConn()); s != 2 || n != 2 || p.facts().Err == "" {
		t.Errorf("between the two files: got the certificates %d and %d, %+v, want the last pair, and it named", s, n, p.facts())
	}
	a.put(a.key, nextKey)
	p.look()
	if s, n := ask(newClient()), serialOf(newConn()); s != 3 || n != 3 || p.facts().Err != "" {
		t.Errorf("got the certificates %d and %d for new connections, %+v, want 3", s, n, p.facts())
	}
	if s := ask(before); s != 2 {
		t.Errorf("got the certificate %d for the connection that was open, want 2", s)
	}
	if err := errors.Join(natsBefore.Flush(), agent.Flush(t.Context())); err != nil || agent.Status().Reconnects != 0 {
		t.Errorf("the connections to the queue that were open: got %v, %d reconnects", err, agent.Status().Reconnects)
	}
	if st := p.stats(); st.Loaded != 2 || st.Failed != 1 || st.Stale {
		t.Errorf("got %+v, want 2 loaded, one failed", st)
	}
	old := a.trust()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	if c, err := tls.Dial("tcp", strings.TrimPrefix(web, "https://"), old); err == nil {
		c.Close()
		t.Error("got TLS 1.1 spoken")
	}
}

// TestACertificateThatCannotBeUsedLeavesTheLast, is named once, and makes way for one
// that can.
func TestACertificateThatCannotBeUsedLeavesTheLast(t *testing.T) {
	for _, c := range []struct {
		name string
		put  func(a *authority)
		says string
	}{
		{"no certificate", func(a *authority) { a.put(a.cert, []byte("certificate\n")) }, "PEM"},
		{"no key", func(a *authority) { a.put(a.key, nil) }, "PEM"},
		{"the certificate as key", func(a *authority) { cert, _ := a.issue("127.0.0.1", -time.Hour, time.Hour); a.put(a.key, cert) }, "PEM"},
		{"another one's key", func(a *authority) { _, key := a.issue("127.0.0.1", -time.Hour, time.Hour); a.put(a.key, key) }, "private key does not match"},
		{"a file that is gone", func(a *authority) { os.Remove(a.key) }, "no such file"},
		{"a certificate that has expired", func(a *authority) {
			cert, key := a.issue("127.0.0.1", -2*time.Hour, -time.Hour)
			a.put(a.cert, cert)
			a.put(a.key, key)
		}, "it expired at"},
		{"a certificate of tomorrow", func(a *authority) {
			cert, key := a.issue("127.0.0.1", 12*time.Hour, 20*time.Hour)
			a.put(a.cert, cert)
			a.put(a.key, key)
		}, "not valid before"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := newAuthority(t)
			cert, key := a.issue("127.0.0.1", -time.Hour, time.Hour)
			a.put(a.cert, cert)
			a.put(a.key, key)
			var log bytes.Buffer
			p := a.open(slog.New(slog.NewTextHandler(&log, nil)))
			p.look()
			if st := p.stats(); st.Loaded != 1 {
				t.Errorf("nothing has changed: got %+v", st)
			}
			c.put(a)
			for range 3 {
				p.look()
			}
			serving := p.current.Load().Leaf
			if serving.SerialNumber.Int64() != 2 {
				t.Errorf("got the certificate %d used, want the last", serving.SerialNumber)
			}
			health := api.Judge(api.Facts{TLS: p.facts()}, time.Now())["tls"]
			if st := p.stats(); st.Failed != 1 || !st.Stale || health.Status != api.Degraded || !strings.Contains(*health.Details, c.says) {
				t.Errorf("got %+v, health %+v, want it named once: %q", st, health, c.says)
			}
			if n := strings.Count(log.String(), "the last one stays"); n != 1 || !strings.Contains(log.String(), c.says) || strings.Contains(log.String(), "BEGIN") {
				t.Errorf("got the log %s, want one line with %q", &log, c.says)
			}
			cert, key = a.issue("127.0.0.1", -time.Hour, time.Hour)
			a.put(a.cert, cert)
			a.put(a.key, key)
			p.look()
			if got := p.current.Load().Leaf.SerialNumber.Int64(); got != a.serial || p.facts().Err != "" {
				t.Errorf("then a good one: got the certificate %d used, %+v, want %d", got, p.facts(), a.serial)
			}
		})
	}
}

// TestAnExpiredCertificateMakesWayForAnother, whatever that is: it is no worse.
func TestAnExpiredCertificateMakesWayForAnother(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("127.0.0.1", -time.Hour, time.Hour)
	a.put(a.cert, cert)
	a.put(a.key, key)
	p := a.open(slog.New(slog.DiscardHandler))
	p.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	cert, key = a.issue("127.0.0.1", -time.Hour, time.Hour+time.Minute)
	a.put(a.cert, cert)
	a.put(a.key, key)
	p.look()
	if got := p.current.Load().Leaf.SerialNumber.Int64(); got != 3 {
		t.Errorf("got the certificate %d, want 3", got)
	}
}

// TestAServerOfAnotherNameIsRefused, by the command line and by agents, and so is one
// whose authority is not trusted.
func TestAServerOfAnotherNameIsRefused(t *testing.T) {
	for _, c := range []struct {
		name    string // of the certificate
		trusted bool   // its authority
		says    string
	}{{"other.example", true, "doesn't contain any IP SANs"}, {"127.0.0.1", false, "unknown authority"}, {"127.0.0.1", true, ""}} {
		a := newAuthority(t)
		cert, key := a.issue(c.name, -time.Hour, time.Hour)
		a.put(a.cert, cert)
		a.put(a.key, key)
		web, q := overTLS(t, a.open(slog.New(slog.DiscardHandler)))
		flags := serverFlags{Server: web, Token: "secret"}
		if c.trusted {
			flags.TLSCA = filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(flags.TLSCA, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.ca.Raw}), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		server, err := flags.client()
		if err != nil {
			t.Fatal(err)
		}
		_, err = server.Me(t.Context())
		if _, ok := errors.AsType[*client.UnreachableError](err); ok != (c.says != "") || ok && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s, the command line: got %v, want %q", c.name, err, c.says)
		}
		to := remote{server: q.URL(), token: "secret"}
		if to.tls, err = flags.trustFlags.config(); err != nil {
			t.Fatal(err)
		}
		up := newUplink(to, "h1", testSpool(t), slog.New(slog.DiscardHandler))
		conn, err := queue.Connect(queue.ConnectOptions{URL: q.URL(), Token: "secret", Agent: "h1", TLS: up.queueTLS(q.URL())})
		if err != nil {
			t.Fatal(err)
		}
		if st := conn.Status(); st.Connected != (c.says == "") || !st.Connected && (st.Err == nil || !strings.Contains(st.Err.Error(), c.says)) {
			t.Errorf("%s, an agent: got %+v, want %q", c.name, st, c.says)
		}
		conn.Close()
	}
}

func TestAPairThatIsNone(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		flags listenFlags
		says  string
	}{
		"half of it":  {listenFlags{TLSCert: file}, "belong together"},
		"none":        {listenFlags{TLSCert: file, TLSKey: file}, "--tls-cert, --tls-key: "},
		"no file":     {listenFlags{TLSCert: file, TLSKey: filepath.Join(dir, "none")}, "no such file"},
		"a directory": {listenFlags{TLSCert: dir, TLSKey: file}, "is a directory"},
	} {
		_, err := c.flags.pair(slog.New(slog.DiscardHandler))
		if err == nil || exitCode(err) != exitUsage || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
	}
	var none *tlsPair
	if none.config() != nil || none.facts() != nil {
		t.Error("no TLS: got some")
	}
}

// TestACertificateOfTomorrowIsUsedTomorrow, though the files do not change any more.
func TestACertificateOfTomorrowIsUsedTomorrow(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("127.0.0.1", -time.Hour, 20*time.Hour)
	a.put(a.cert, cert)
	a.put(a.key, key)
	p := a.open(slog.New(slog.DiscardHandler))
	cert, key = a.issue("127.0.0.1", 12*time.Hour, 20*time.Hour)
	a.put(a.cert, cert)
	a.put(a.key, key)
	p.look()
	if got := p.current.Load().Leaf.SerialNumber.Int64(); got != 2 {
		t.Errorf("today: got the certificate %d, want 2", got)
	}
	p.now = func() time.Time { return time.Now().Add(13 * time.Hour) }
	p.look()
	if got := p.current.Load().Leaf.SerialNumber.Int64(); got != 3 || p.facts().Err != "" {
		t.Errorf("tomorrow: got the certificate %d, %+v, want 3", got, p.facts())
	}
}
