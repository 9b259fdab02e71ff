package queue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats-server/v2/server"
)

const (
	// readyWithin is how long the embedded server may take to open its
	// streams: recovery reads every block of what was not shut down cleanly.
	readyWithin = 60 * time.Second
	// serverMemory is the most that JetStream may put into streams that live
	// in memory: there are none.
	serverMemory = 1 << 20
	// serverStore lets every stream reserve its limit: the limits of the
	// streams decide, and the disk.
	serverStore = 1 << 50
	// serverPayload is the largest message that is taken in at all. Between
	// MaxFramePacked and this a message is received and named in quarantine.
	serverPayload = 1 << 20
	// serverPending is how much may wait for one slow client before it is
	// cut off: a full pull of the receiver and some.
	serverPending = 48 << 20
	// A stream that could not write, as on a full disk, takes nothing more
	// for good. Its store is then closed and opened, at first soon and, while
	// that does not help, more and more rarely: opening reads what is stored.
	reviveFirst = 2 * time.Second
	reviveMost  = time.Minute
)

// ServerOptions are what an embedded server is made of.
type ServerOptions struct {
	StoreDir string // where the streams lie; created when missing
	// Addr is the host:port to listen on; port 0 takes a free one, and ""
	// serves this process only.
	Addr string
	// Token is what every client must present that has no key. It may be empty
	// only where Addr is.
	Token string
	Peers Peers // who has a key; nil for nobody
	// Refused is told from where each came who was not let in: an address with a port.
	// It must not wait. Nil for nobody.
	Refused func(remote string)
	TLS     *tls.Config  // nil for none
	Logger  *slog.Logger // nil for none
}

// Server is an embedded NATS server with JetStream. Every message of a stream
// is synced to disk before it is acknowledged, except where the stream says
// otherwise. Its methods may be called at once.
type Server struct {
	nats     *server.Server
	storeDir string
	token    string
	door     *door // nil where everybody in the process may do everything
	log      *serverLog
	quit     chan struct{}
	ended    sync.WaitGroup
	once     sync.Once
}

// StartServer starts a server and returns when it takes connections and its
// streams are open. When the address is taken the error wraps
// [odometer.ErrConflict].
func StartServer(o ServerOptions) (*Server, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	opts := &server.Options{
		ServerName:             "odometer",
		DontListen:             o.Addr == "",
		NoSigs:                 true,
		MaxPayload:             serverPayload,
		MaxPending:             serverPending,
		WriteDeadline:          10 * time.Second,
		PingInterval:           20 * time.Second, // how soon a host that vanished is noticed
		MaxPingsOut:            3,
		MaxClosedClients:       64,
		JetStream:              true,
		JetStreamMaxMemory:     serverMemory,
		JetStreamMaxStore:      serverStore,
		StoreDir:               o.StoreDir,
		SyncAlways:             true,
		DisableJetStreamBanner: true,
		TLSConfig:              o.TLS,
	}
	if o.TLS != nil {
		opts.TLS, opts.TLSTimeout = true, 5
	}
	if o.Addr != "" {
		if o.Token == "" {
			return nil, fmt.Errorf("queue: listening on %s needs a token: %w", o.Addr, odometer.ErrInvalid)
		}
		host, port, err := net.SplitHostPort(o.Addr)
		if err != nil {
			return nil, fmt.Errorf("queue: address %q is not host:port: %w", o.Addr, odometer.ErrInvalid)
		}
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("queue: address %q: the port is not a number up to 65535: %w", o.Addr, odometer.ErrInvalid)
		}
		opts.Host, opts.Port = host, int(n)
		if n == 0 {
			opts.Port = server.RANDOM_PORT
		}
		// Seen here first, before anything on the disk is touched.
		l, err := net.Listen("tcp", o.Addr)
		if err != nil {
			return nil, listenError(o.Addr, err)
		}
		l.Close()
	}
	if err := os.MkdirAll(o.StoreDir, 0o700); err != nil {
		return nil, fmt.Errorf("queue: create the store: %w", err)
	}
	s := &Server{storeDir: o.StoreDir, token: o.Token, log: &serverLog{logger: o.Logger, failed: make(chan struct{})}, quit: make(chan struct{})}
	if o.Token != "" || o.Peers != nil {
		s.door = &door{token: o.Token, peers: o.Peers, refused: o.Refused, open: map[odometer.Key][]uint64{}}
		opts.CustomClientAuthentication, opts.AlwaysEnableNonce = s.door, true
	}
	ns, err := server.NewServer(opts)
	if err != nil {
		return nil, fmt.Errorf("queue: start the server: %w", err)
	}
	s.nats = ns
	ns.SetLoggerV2(s.log, false, false, false)
	ns.Start()
	err = s.ready(o.Addr)
	if err == nil && s.door != nil {
		err = s.door.prepare(ns)
	}
	if err != nil {
		ns.Shutdown()
		ns.WaitForShutdown()
		return nil, err
	}
	s.ended.Go(s.revive)
	return s, nil
}

func listenError(addr string, err error) error {
	if errors.Is(err, syscall.EADDRINUSE) {
		return fmt.Errorf("queue: address %s is in use by another process; choose another with --nats: %w", addr, odometer.ErrConflict)
	}
	return fmt.Errorf("queue: listen on %s: %w", addr, err)
}

func (s *Server) ready(addr string) error {
	for deadline := time.Now().Add(readyWithin); time.Now().Before(deadline); {
		select {
		case <-s.log.failed:
			why := s.log.why()
			if strings.Contains(why, "address already in use") {
				return listenError(addr, syscall.EADDRINUSE)
			}
			return fmt.Errorf("queue: start the server: %s", why)
		default:
		}
		if s.nats.ReadyForConnections(50*time.Millisecond) && s.nats.JetStreamEnabled() {
			return nil
		}
	}
	return fmt.Errorf("queue: the server was not ready within %v: %w", readyWithin, odometer.ErrUnavailable)
}

// revive opens the store again after it failed. What is refused meanwhile
// waits in the spools.
func (s *Server) revive() {
	wait, failed := reviveFirst, time.Time{}
	for {
		select {
		case <-s.quit:
			return
		case <-time.After(wait):
		}
		if s.Health() == nil {
			if time.Since(failed) > reviveMost {
				wait = reviveFirst
			}
			continue
		}
		wait, failed = min(2*wait, reviveMost), time.Now()
		s.log.logger.Warn("the queue's store failed and is opened again", "why", s.log.store())
		if err := s.reopen(); err != nil {
			s.log.logger.Error("the queue's store does not open: events wait in the spools", "err", err)
		}
	}
}

func (s *Server) reopen() error {
	if err := s.nats.ShutdownJetStream(); err != nil {
		return err
	}
	s.log.storeFailed("")
	return s.nats.EnableJetStream(&server.JetStreamConfig{
		StoreDir: s.storeDir, MaxMemory: serverMemory, MaxStore: serverStore, SyncAlways: true, CompressOK: true, Strict: true,
	})
}

// Health returns nil while the server stores messages.
func (s *Server) Health() error {
	if !s.nats.Running() {
		return fmt.Errorf("queue: the server is stopped: %w", odometer.ErrUnavailable)
	}
	if why := s.log.store(); why != "" {
		return fmt.Errorf("queue: the store failed and is about to be opened again: %s: %w", why, odometer.ErrUnavailable)
	}
	if !s.nats.JetStreamEnabled() {
		return fmt.Errorf("queue: the store is closed and about to be opened again: %w", odometer.ErrUnavailable)
	}
	return nil
}

// Addr returns the address that the server listens on, "" for none.
func (s *Server) Addr() string {
	if a := s.nats.Addr(); a != nil {
		return a.String()
	}
	return ""
}

// URL returns where clients of other processes connect, "" for nowhere.
func (s *Server) URL() string {
	if s.Addr() == "" {
		return ""
	}
	return s.nats.ClientURL()
}

// InProcessConn returns a new connection that does not leave the process.
func (s *Server) InProcessConn() (net.Conn, error) { return s.nats.InProcessConn() }

// Expel ends the connections of who has a key, at once. Where the [Peers] no
// longer know the key when it is called, none is left and none follows.
func (s *Server) Expel(key odometer.Key) {
	if s.door != nil {
		s.door.expel(key)
	}
}

// Shutdown disconnects the clients, closes the streams and returns when
// nothing of the server is left. It may be repeated.
func (s *Server) Shutdown() {
	s.once.Do(func() {
		close(s.quit)
		s.ended.Wait()
	})
	s.nats.Shutdown()
	s.nats.WaitForShutdown()
}

// serverLog hands what the server says to slog, and keeps what made it give
// up and what made its store fail, which it tells in no other way. The server's notices are about its own start and are not for everyone.
type serverLog struct {
	logger *slog.Logger
	often  often
	failed chan struct{} // closed when why is set
	mu     sync.Mutex
	fatal  string
	broken string // why the store takes nothing more
}

func (l *serverLog) say(level slog.Level, format string, v []any) {
	if !l.logger.Enabled(context.Background(), level) {
		return
	}
	left, ok := l.often.one(time.Now())
	if !ok {
		return
	}
	text := "nats: " + fmt.Sprintf(format, v...)
	if left > 0 {
		l.logger.Log(context.Background(), level, text, "left_out", left)
		return
	}
	l.logger.Log(context.Background(), level, text)
}

// often lets logBurst lines through at once and logEvery another one: whoever is not let in
// again and again makes a line each time, and is to fill no disk.
type often struct {
	mu   sync.Mutex
	free int       // lines that may come at once
	at   time.Time // when free was computed last
	left int       // out, since the last line
}

const (
	logBurst = 50
	logEvery = time.Second
)

// one asks for a line, and is told how many were left out before it.
func (o *often) one(now time.Time) (left int, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.at.IsZero() {
		o.free, o.at = logBurst, now
	}
	if n := int(now.Sub(o.at) / logEvery); n > 0 {
		o.free, o.at = min(logBurst, o.free+n), o.at.Add(time.Duration(n)*logEvery)
	}
	if o.free == 0 {
		o.left++
		return 0, false
	}
	o.free--
	left, o.left = o.left, 0
	return left, true
}

func (l *serverLog) Noticef(format string, v ...any) { l.say(slog.LevelDebug, format, v) }
func (l *serverLog) Warnf(format string, v ...any)   { l.say(slog.LevelWarn, format, v) }
func (l *serverLog) Debugf(format string, v ...any)  {}
func (l *serverLog) Tracef(format string, v ...any)  {}

func (l *serverLog) Errorf(format string, v ...any) {
	l.say(slog.LevelError, format, v)
	if m := fmt.Sprintf(format, v...); strings.Contains(m, "failed to store a msg") || strings.Contains(m, "rite error") || strings.Contains(m, "resources, will be DISABLED") {
		l.storeFailed(m)
	}
}

func (l *serverLog) storeFailed(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.broken = why
}

func (l *serverLog) store() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.broken
}

func (l *serverLog) Fatalf(format string, v ...any) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fatal == "" {
		l.fatal = fmt.Sprintf(format, v...)
		close(l.failed)
	}
}

func (l *serverLog) why() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fatal
}
