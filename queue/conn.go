package queue

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"example.org/odometer"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// dialTimeout is how long one attempt to connect may take.
	dialTimeout = 5 * time.Second
	// Waits between attempts to connect again: full jitter over a range that
	// doubles, so that a thousand agents do not come back in one instant.
	reconnectFirst = 100 * time.Millisecond
	reconnectMost  = 10 * time.Second
	// pingEvery finds out about a server that vanished without a word.
	pingEvery = 20 * time.Second
	// elsewhereAfter is when a server that is connected and answers nothing is
	// left for another one, once to twice as long at random: a node that is
	// cut off from its cluster keeps its clients, and a cluster without a
	// leader elects one within ten seconds.
	elsewhereAfter = 20 * time.Second
	// ackWithin is when the client forgets about a message whose
	// acknowledgement never came; senders give up earlier.
	ackWithin = 30 * time.Second
	// maxPending bounds the messages of one connection that await their
	// acknowledgement; senders keep below it by their windows.
	maxPending = 8192
)

// ConnectOptions say which queue to use and as whom.
type ConnectOptions struct {
	// Either Server, an embedded one in this process, or URL, one or more
	// nats:// or tls:// addresses separated by commas.
	Server *Server
	URL    string
	Token  string // not needed with Server or a Key
	// Agent, where set, connects as that agent, which an embedded server
	// then holds to the agent's own subjects.
	Agent  odometer.AgentID
	Key    *Key   // by which it is known who connects, in place of a Token; nil for none
	Name   string // for those who look at the server's connections
	TLS    *tls.Config
	Logger *slog.Logger
	// Replicas is how many servers of a cluster keep a copy of each stream. 0
	// leaves a stream that exists as it is and creates others with one copy.
	Replicas int
	Limits   Limits // of the streams; zero fields for the defaults
}

// Conn is a connection to the queue. It connects again for ever when it is
// lost, and to another server where it knows several and the one that it has
// answers nothing; what is sent meanwhile fails at once and is for the sender
// to repeat. Its methods may be called at once.
type Conn struct {
	nc        *nats.Conn
	js        jetstream.JetStream
	agent     odometer.AgentID
	proof     string // what the server asks for: "token" or "key"
	replicas  int
	limits    Limits
	log       *slog.Logger
	elsewhere time.Duration // elsewhereAfter

	mu        sync.Mutex
	status    ConnStatus
	listeners []*listener
	unheard   time.Time // since when the server answers nothing, zero where it does
	patience  time.Duration
}

type listener struct{ connected func() }

// ConnStatus says how a connection is.
type ConnStatus struct {
	Connected  bool
	Since      time.Time // when it became so
	URL        string    // of the server, without secrets; "in-process" for an embedded one
	Reconnects uint64
	Err        error // why it was lost or could not be made; nil when connected
}

// Connect connects to the queue. When the server cannot be reached it returns
// a connection that goes on trying, and says so through the logger; a token
// that is refused is an error wrapping [odometer.ErrForbidden], and a URL that
// is none one wrapping [odometer.ErrInvalid].
func Connect(o ConnectOptions) (*Conn, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Conn{agent: o.Agent, proof: "token", replicas: o.Replicas, limits: o.Limits.orDefaults(), log: o.Logger, elsewhere: elsewhereAfter}
	if o.Key != nil {
		c.proof = "key"
	}
	c.status.Since = time.Now()
	opts, err := c.options(o)
	if err != nil {
		return nil, err
	}
	where := o.URL
	c.status.URL = plainURL(o.URL)
	if o.Server != nil {
		where, c.status.URL = nats.DefaultURL, "in-process"
	}
	nc, err := nats.Connect(where, opts...)
	switch {
	case isAuth(err):
		return nil, fmt.Errorf("queue: %s refused the %s: %w", c.status.URL, c.proof, odometer.ErrForbidden)
	case err != nil:
		if o.Server != nil {
			return nil, fmt.Errorf("queue: connect in process: %w", err)
		}
		c.lost(err)
		c.log.Warn("the queue cannot be reached: trying on, events wait in the spool", "url", c.status.URL, "err", err)
		if nc, err = nats.Connect(where, append(opts, nats.RetryOnFailedConnect(true))...); err != nil {
			return nil, fmt.Errorf("queue: connect to %s: %w", c.status.URL, err)
		}
	default:
		c.connected(false)
	}
	c.nc = nc
	c.js, err = jetstream.New(nc, jetstream.WithPublishAsyncMaxPending(maxPending), jetstream.WithPublishAsyncTimeout(ackWithin), jetstream.WithDefaultTimeout(dialTimeout))
	if err != nil {
		nc.Close()
		return nil, fmt.Errorf("queue: %w", err)
	}
	return c, nil
}

func (c *Conn) options(o ConnectOptions) ([]nats.Option, error) {
	name := o.Name
	if name == "" {
		name = "odometer"
	}
	opts := []nats.Option{
		nats.Name(name), nats.Timeout(dialTimeout), nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(2),
		nats.MaxReconnects(-1), nats.IgnoreAuthErrorAbort(), nats.ReconnectBufSize(-1), nats.DontRandomize(),
		nats.CustomReconnectDelay(func(attempts int) time.Duration {
			return backoff(attempts, reconnectFirst, reconnectMost, rand.Float64)
		}),
		nats.ConnectHandler(func(*nats.Conn) { c.connected(false) }),
		nats.ReconnectHandler(func(*nats.Conn) { c.connected(true) }),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) { c.lost(err) }),
		nats.ReconnectErrHandler(func(_ *nats.Conn, err error) { c.lost(err) }),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			if isAuth(err) {
				c.lost(err)
				return
			}
			c.log.Warn("queue connection", "err", err)
		}),
	}
	token := o.Token
	switch {
	case o.Server != nil:
		opts = append(opts, nats.InProcessServer(o.Server))
		token = o.Server.token
	case o.URL == "":
		return nil, fmt.Errorf("queue: neither a server nor a URL to connect to: %w", odometer.ErrInvalid)
	}
	for u := range strings.SplitSeq(o.URL, ",") {
		if p, err := url.Parse(strings.TrimSpace(u)); o.URL != "" && (err != nil || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, p.Scheme) || p.Host == "") {
			return nil, fmt.Errorf("queue: %q is not a URL such as nats://host:4222: %w", plainURL(u), odometer.ErrInvalid)
		}
	}
	switch {
	case o.Key != nil:
		opts = append(opts, nats.Nkey(string(o.Key.public), o.Key.Sign))
	case token != "":
		opts = append(opts, nats.Token(token))
	}
	if o.TLS != nil {
		opts = append(opts, nats.Secure(o.TLS))
	}
	if o.Agent != "" {
		if err := odometer.ValidID("agent", string(o.Agent)); err != nil {
			return nil, fmt.Errorf("queue: %w", err)
		}
		tok := Token(string(o.Agent))
		opts = append(opts, nats.CustomInboxPrefix(inboxPrefix+tok))
		if o.Key == nil {
			opts = append(opts, nats.UserInfo(tok, ""))
		}
	}
	return opts, nil
}

// Agent returns as whom the connection was made, "" for nobody in particular.
func (c *Conn) Agent() odometer.AgentID { return c.agent }

// Status says how the connection is.
func (c *Conn) Status() ConnStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// Flush returns when everything sent so far has reached the server.
func (c *Conn) Flush(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if err := c.nc.FlushWithContext(ctx); err != nil {
		return fmt.Errorf("queue: flush: %w", sendError(err))
	}
	return nil
}

// Close ends the connection at once. What was sent and not flushed may be lost.
func (c *Conn) Close() { c.nc.Close() }

func (c *Conn) connected(again bool) {
	c.mu.Lock()
	c.status.Connected, c.status.Since, c.status.Err = true, time.Now(), nil
	if again {
		c.status.Reconnects++
	}
	listeners := slices.Clone(c.listeners)
	c.mu.Unlock()
	if again {
		c.log.Info("the queue is reachable again", "url", c.Status().URL)
	}
	for _, l := range listeners {
		l.connected()
	}
}

func (c *Conn) lost(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status.Connected {
		c.status.Connected, c.status.Since = false, time.Now()
		if err != nil {
			c.log.Warn("the queue is lost: connecting again", "url", c.status.URL, "err", err)
		}
	}
	if isAuth(err) {
		err = fmt.Errorf("the %s is refused: %w", c.proof, odometer.ErrForbidden)
		if !errors.Is(c.status.Err, odometer.ErrForbidden) { // once
			c.log.Error("the queue lets this process in no more: trying on", "url", c.status.URL, "err", err)
		}
	}
	if err == nil {
		err = fmt.Errorf("the connection was closed: %w", odometer.ErrUnavailable)
	}
	c.status.Err = err
}

// heard notes that the server answered, or that it did not in time. One that
// has not for long is left for the next one that is known.
func (c *Conn) heard(answered bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case answered || !c.status.Connected:
		c.unheard = time.Time{}
	case c.unheard.IsZero():
		c.unheard, c.patience = now, c.elsewhere+time.Duration(rand.Int64N(int64(c.elsewhere)))
	case now.Sub(c.unheard) > c.patience:
		c.unheard = time.Time{}
		if len(c.nc.Servers()) > 1 {
			c.log.Warn("the queue's server is connected and answers nothing: another one is tried", "server", c.nc.ConnectedUrlRedacted(), "for", c.patience)
			go c.nc.ForceReconnect() // waits for callbacks that may wait for c.mu
		}
	}
}

// onConnected calls f after each time the connection was made, until cancel
// is called. f must not block.
func (c *Conn) onConnected(f func()) (cancel func()) {
	l := &listener{f}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners, l)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.listeners = slices.DeleteFunc(c.listeners, func(x *listener) bool { return x == l })
	}
}

// backoff returns the wait before the attempt that follows n failures: a
// uniformly random part of first doubled n-1 times, of most at the most.
func backoff(n int, first, most time.Duration, random func() float64) time.Duration {
	limit := most
	if n = max(n, 1); n < 32 {
		limit = min(most, first<<(n-1))
	}
	return time.Duration(random() * float64(limit))
}

func isAuth(err error) bool {
	return errors.Is(err, nats.ErrAuthorization) || errors.Is(err, nats.ErrAuthExpired) || errors.Is(err, nats.ErrAuthRevoked)
}

// plainURL is a list of URLs without passwords, to be shown.
func plainURL(list string) string {
	urls := strings.Split(list, ",")
	for i, u := range urls {
		if p, err := url.Parse(strings.TrimSpace(u)); err == nil {
			p.User = nil
			urls[i] = p.String()
		}
	}
	return strings.Join(urls, ",")
}
