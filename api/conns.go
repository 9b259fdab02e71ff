package api

import (
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// ConnLimits bound what connections may take, whoever opens them and before anybody
// is asked for a token. Every field must be set.
type ConnLimits struct {
	HeaderWithin  time.Duration // for the header of a request to arrive
	RequestWithin time.Duration // for the whole request to arrive
	AnswerWithin  time.Duration // for its answer to be made and taken, from the header on
	IdleFor       time.Duration // between two requests
	HeaderBytes   int
	HeaderFields  int
	Open          int // connections at a time
	OpenOfOne     int // of one address; of an IPv6 network of 64 bits
}

// StandardConnLimits are those of servers that are told nothing else.
var StandardConnLimits = ConnLimits{
	// A header is one packet or two; a link on which these take longer carries no
	// usage either.
	HeaderWithin: 10 * time.Second,
	// As long as an answer may take, so that who sends slowly is answered.
	RequestWithin: RequestTimeout,
	AnswerWithin:  2 * RequestTimeout,
	// Longer than the minute in which scrapers of metrics come again.
	IdleFor:      2 * time.Minute,
	HeaderBytes:  32 << 10,
	HeaderFields: 100, // browsers send twenty, chains of proxies add ten
	// A connection takes some 10 KiB: all of them some 40 MiB, and as many
	// descriptors.
	Open:      4096,
	OpenOfOne: 512, // a proxy in front of all clients has fewer
}

// Configure returns an http.Server for h within limits. Its listener is to be that of
// [ConnLimits.Listener].
func (c ConnLimits) Configure(h http.Handler, logger *slog.Logger) *http.Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &http.Server{
		Handler:           c.fewFields(h),
		ReadHeaderTimeout: c.HeaderWithin,
		ReadTimeout:       c.RequestWithin,
		WriteTimeout:      c.AnswerWithin,
		IdleTimeout:       c.IdleFor,
		MaxHeaderBytes:    c.HeaderBytes,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// fewFields refuses requests with too many header fields, which each cost more than
// their bytes.
func (c ConnLimits) fewFields(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := 0
		for _, values := range r.Header {
			n += len(values)
		}
		if n <= c.HeaderFields {
			h.ServeHTTP(w, r)
			return
		}
		id := requestID(r)
		plainHeaders(w.Header(), id)
		w.Header().Set("Connection", "close")
		writeProblem(w, problemOf(fmt.Errorf("the request has %d header fields, at most %d are taken: %w", n, c.HeaderFields, errHeaders), r.URL.EscapedPath(), id))
	})
}

// Listener returns l with as many connections open at a time as the limits allow: what
// comes beyond them is closed at once, and those that are open go on.
func (c ConnLimits) Listener(l net.Listener) *Listener {
	return &Listener{Listener: l, limits: c, of: map[netip.Addr]int{}}
}

// Listener bounds the connections of another one. Its methods may be called at once.
type Listener struct {
	net.Listener
	limits  ConnLimits
	refused atomic.Uint64

	mu   sync.Mutex
	open int
	of   map[netip.Addr]int // open ones, of each address that has any
}

// ConnStats are how many connections are open, and how many were refused.
type ConnStats struct {
	Open    int64
	Refused uint64
}

// Stats returns a snapshot.
func (l *Listener) Stats() ConnStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return ConnStats{int64(l.open), l.refused.Load()}
}

// Accept implements [net.Listener].
func (l *Listener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from := network(c.RemoteAddr().String())
		if l.enter(from) {
			return &conn{Conn: c, leave: sync.OnceFunc(func() { l.leave(from) })}, nil
		}
		l.refused.Add(1)
		c.Close()
	}
}

func (l *Listener) enter(from netip.Addr) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.limits.Open || l.of[from] >= l.limits.OpenOfOne {
		return false
	}
	l.open++
	l.of[from]++
	return true
}

func (l *Listener) leave(from netip.Addr) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.of[from]--; l.of[from] == 0 {
		delete(l.of, from)
	}
}

// conn is a connection that is counted.
type conn struct {
	net.Conn
	leave func()
}

// Close implements [net.Conn].
func (c *conn) Close() error {
	defer c.leave()
	return c.Conn.Close()
}

// CloseWrite lets net/http end an answer before the request has been read to its end.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// network returns whom an address host:port is counted as: a host by IPv4, and by IPv6
// the network of 64 bits, which one customer has as a rule. What is no address is the
// zero one.
func network(hostport string) netip.Addr {
	at, err := netip.ParseAddrPort(hostport)
	if err != nil {
		return netip.Addr{}
	}
	a := at.Addr().Unmap().WithZone("")
	if a.Is6() {
		p, _ := a.Prefix(64) // of an IPv6 address there is one
		a = p.Addr()
	}
	return a
}
