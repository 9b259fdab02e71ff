package queue

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats-server/v2/server"
)

// serving starts a server that listens on a free port of the loopback.
func serving(t testing.TB, dir, addr string) *Server {
	t.Helper()
	s, err := StartServer(ServerOptions{StoreDir: dir, Addr: addr, Token: testToken})
	if err != nil {
		t.Fatalf("StartServer: %v", err)
	}
	t.Cleanup(s.Shutdown)
	return s
}

// connected connects over TCP, as an agent where one is named.
func connected(t testing.TB, s *Server, agent odometer.AgentID) *Conn {
	t.Helper()
	return connect(t, ConnectOptions{URL: s.URL(), Token: testToken, Agent: agent})
}

func connect(t testing.TB, o ConnectOptions) *Conn {
	t.Helper()
	c, err := Connect(o)
	if err != nil {
		t.Fatalf("Connect: %v", err)
	}
	t.Cleanup(c.Close)
	return c
}

const anyPort = "127.0.0.1:0"

func TestPortInUse(t *testing.T) {
	l, err := net.Listen("tcp", anyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	dir := filepath.Join(t.TempDir(), "nats")
	_, err = StartServer(ServerOptions{StoreDir: dir, Addr: l.Addr().String(), Token: testToken})
	if !errors.Is(err, odometer.ErrConflict) {
		t.Fatalf("StartServer on a port that is taken: got %v, want an error wrapping ErrConflict", err)
	}
	if msg := err.Error(); !strings.Contains(msg, l.Addr().String()) || strings.Contains(msg, "\n") {
		t.Errorf("message: got %q, want one line with the address", msg)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the store: got %v, want it not to be touched", err)
	}
}

func TestServerOptionsThatAreRefused(t *testing.T) {
	for _, c := range []struct {
		name string
		o    ServerOptions
	}{
		{"listening without a token", ServerOptions{Addr: anyPort}},
		{"an address without a port", ServerOptions{Addr: "127.0.0.1", Token: testToken}},
		{"a port that is none", ServerOptions{Addr: "127.0.0.1:nats", Token: testToken}},
		{"a port beyond 65535", ServerOptions{Addr: "127.0.0.1:70000", Token: testToken}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.o.StoreDir = t.TempDir()
			if _, err := StartServer(c.o); !errors.Is(err, odometer.ErrInvalid) {
				t.Errorf("StartServer: got %v, want an error wrapping ErrInvalid", err)
			}
		})
	}
	t.Run("a store that cannot be made", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := StartServer(ServerOptions{StoreDir: filepath.Join(file, "nats")}); err == nil {
			t.Error("StartServer: got no error")
		}
	})
}

func TestConnectRefused(t *testing.T) {
	s := serving(t, t.TempDir(), anyPort)
	for _, c := range []struct {
		name string
		o    ConnectOptions
		want error
	}{
		{"a wrong token", ConnectOptions{URL: s.URL(), Token: "wrong"}, odometer.ErrForbidden},
		{"no token", ConnectOptions{URL: s.URL()}, odometer.ErrForbidden},
		{"a wrong token of an agent", ConnectOptions{URL: s.URL(), Token: "wrong", Agent: testAgent}, odometer.ErrForbidden},
		{"an agent without a valid id", ConnectOptions{URL: s.URL(), Token: testToken, Agent: "a b"}, odometer.ErrInvalid},
		{"a URL of something else", ConnectOptions{URL: "http://127.0.0.1:1", Token: testToken}, odometer.ErrInvalid},
		{"no URL at all", ConnectOptions{Token: testToken}, odometer.ErrInvalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn, err := Connect(c.o)
			if !errors.Is(err, c.want) {
				t.Errorf("Connect: got %v, want an error wrapping %v", err, c.want)
			}
			if err == nil {
				conn.Close()
			} else if strings.Contains(err.Error(), "wrong") || strings.Contains(err.Error(), "\n") {
				t.Errorf("message: got %q, want one line without the token", err)
			}
		})
	}
}

func TestATokenThatIsRefusedLaterShowsInTheStatus(t *testing.T) {
	dir := t.TempDir()
	s := serving(t, dir, anyPort)
	addr := s.Addr()
	c := connected(t, s, testAgent)
	same(t, "connected", c.Status().Connected, true)
	s.Shutdown()
	s, err := StartServer(ServerOptions{StoreDir: dir, Addr: addr, Token: "another"})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the refusal shows", func() bool { return errors.Is(c.Status().Err, odometer.ErrForbidden) })
	s.Shutdown()
	serving(t, dir, addr)
	eventually(t, "it connects when the token is right again", func() bool { return c.Status().Connected })
}

func TestServerInProcessOnly(t *testing.T) {
	s, err := StartServer(ServerOptions{StoreDir: t.TempDir(), Token: testToken})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	same(t, "address", s.Addr(), "")
	same(t, "URL", s.URL(), "")
	c := connect(t, ConnectOptions{Server: s})
	if err := c.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	same(t, "where", c.Status().URL, "in-process")
	same(t, "health", s.Health(), nil)
	s.Shutdown()
	if err := s.Health(); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("health after the end: got %v, want an error wrapping ErrUnavailable", err)
	}
}

func TestTLS(t *testing.T) {
	certificate, pool := selfSigned(t)
	s, err := StartServer(ServerOptions{StoreDir: t.TempDir(), Addr: anyPort, Token: testToken, TLS: &tls.Config{Certificates: []tls.Certificate{certificate}}})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Shutdown()
	if !strings.HasPrefix(s.URL(), "tls://") {
		t.Errorf("URL: got %s, want tls://…", s.URL())
	}
	connect(t, ConnectOptions{Server: s})
	c := connect(t, ConnectOptions{URL: s.URL(), Token: testToken, TLS: &tls.Config{RootCAs: pool}})
	if err := c.Flush(t.Context()); err != nil {
		t.Errorf("Flush over TLS: %v", err)
	}
	c = connect(t, ConnectOptions{URL: s.URL(), Token: testToken})
	if st := c.Status(); st.Connected || st.Err == nil {
		t.Errorf("without trust in the certificate: got connected %v, %v", st.Connected, st.Err)
	}
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), crand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(crand.Reader, about, about, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(parsed)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

func TestConnectGoesOnTryingWhileTheServerIsAway(t *testing.T) {
	dir := t.TempDir()
	s := serving(t, dir, anyPort)
	addr, url := s.Addr(), s.URL()
	s.Shutdown()
	c := connect(t, ConnectOptions{URL: url, Token: testToken})
	st := c.Status()
	if st.Connected || st.Err == nil {
		t.Errorf("status: got connected %v, %v, want the reason", st.Connected, st.Err)
	}
	began := time.Now()
	if _, err := c.LastReceipt(t.Context(), testAgent, testSpool); !errors.Is(err, odometer.ErrUnavailable) || time.Since(began) > time.Second {
		t.Errorf("LastReceipt: got %v after %v, want ErrUnavailable at once", err, time.Since(began))
	}
	if err := c.SendReceipt(odometer.Receipt{Agent: testAgent}); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("SendReceipt: got %v, want an error wrapping ErrUnavailable", err)
	}
	serving(t, dir, addr)
	eventually(t, "it connects", func() bool { return c.Status().Connected })
	same(t, "error", c.Status().Err, nil)
}

// TestAServerThatAnswersNothingIsLeft has an agent's first server be one that
// takes connections and stores nothing, like a node that is cut off from its
// cluster.
func TestAServerThatAnswersNothingIsLeft(t *testing.T) {
	deaf, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	deaf.Start()
	t.Cleanup(func() { deaf.Shutdown(); deaf.WaitForShutdown() })
	if !deaf.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not start")
	}
	s := serving(t, t.TempDir(), anyPort)
	if err := connected(t, s, "").EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	c := connect(t, ConnectOptions{URL: "nats://" + deaf.Addr().String() + ",nats://" + s.Addr(), Token: testToken, Agent: testAgent})
	c.elsewhere = 100 * time.Millisecond
	spool := newSpool()
	spool.append(10)
	p := publishing(t, c, spool, fast)
	eventually(t, "the events are stored", func() bool { return p.Stats().Stored == 10 })
	if st := c.Status(); st.Reconnects != 1 {
		t.Errorf("reconnects: got %d, want 1", st.Reconnects)
	}
}

func TestStreamsAreKeptOverARestartAndTheirLimitsFollow(t *testing.T) {
	dir := t.TempDir()
	s := serving(t, dir, anyPort)
	c := connected(t, s, "")
	for range 2 { // the second changes nothing
		if err := c.EnsureStreams(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	wait, err := c.Send("odometer.ingest.a", nil, []byte("x"))
	if err == nil {
		err = wait(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	s = serving(t, dir, anyPort)
	c = connect(t, ConnectOptions{Server: s, Limits: Limits{IngestBytes: 1 << 20, UsageAge: time.Hour}})
	if err := c.EnsureStreams(t.Context()); err != nil {
		t.Fatal(err)
	}
	n, err := c.Backlog(t.Context())
	if err != nil || n != 1 {
		t.Errorf("backlog after the restart: got %d, %v, want 1", n, err)
	}
	ingest, err := c.js.Stream(t.Context(), IngestStream)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "limit of INGEST", ingest.CachedInfo().Config.MaxBytes, 1<<20)
	usage, err := c.js.Stream(t.Context(), UsageStream)
	if err != nil {
		t.Fatal(err)
	}
	same(t, "age of USAGE", usage.CachedInfo().Config.MaxAge, time.Hour)
	same(t, "compression of USAGE", usage.CachedInfo().Config.Compression.String(), "S2")

	// What does not fit is refused, and not dropped.
	for err = nil; err == nil; {
		if wait, err = c.Send("odometer.ingest.a", nil, make([]byte, 100<<10)); err == nil {
			err = wait(t.Context())
		}
	}
	if !errors.Is(err, odometer.ErrUnavailable) || !strings.Contains(err.Error(), "maximum bytes") {
		t.Errorf("a full stream: got %v, want a refusal", err)
	}
	after, err := c.Backlog(t.Context())
	if err != nil || after < 9 {
		t.Errorf("backlog of a full stream: got %d, %v, want all that was accepted", after, err)
	}
}

// eventually waits for what other goroutines and processes bring about.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func short(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}
