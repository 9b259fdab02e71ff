package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

const (
	// askFirst and askMost bound the wait between two questions to a server
	// that does not answer.
	askFirst = 250 * time.Millisecond
	askMost  = 15 * time.Second
	// defaultAskAgain is how often an agent that has lost the queue asks the
	// server whether it is elsewhere now.
	defaultAskAgain = 30 * time.Second
)

// remote is a server as a process on another host knows it.
type remote struct {
	server string // http(s):// of a server, or nats:// or tls:// of its queue
	token  string
	// queueToken is an external queue's, "" where the queue is the server's own
	// and takes the server's.
	queueToken string
	tls        *tls.Config // whom to trust; nil for the system's authorities
}

// uplink sends a spool to a server, wherever that has its queue, and goes on
// for as long as it takes to reach it.
type uplink struct {
	remote
	agent    odometer.AgentID
	identity *identity // in place of a token; nil for none
	spool    *spool.Spool
	logger   *slog.Logger
	// connected is told of each connection; it must return when its context
	// is done. May be nil.
	connected func(context.Context, *queue.Conn) error
	askAgain  time.Duration // how often to ask for the queue while it is lost

	mu      sync.Mutex
	conn    *queue.Conn
	publish *queue.Publisher
	err     error         // why there is no connection
	changed chan struct{} // closed and replaced when conn changes
}

func newUplink(to remote, agent odometer.AgentID, s *spool.Spool, logger *slog.Logger) *uplink {
	return &uplink{
		remote: to, agent: agent, spool: s, logger: logger, askAgain: defaultAskAgain,
		err: errors.New("the server has not been asked yet where its queue is"), changed: make(chan struct{}),
	}
}

// direct reports whether the server's address is that of the queue itself.
func (u *uplink) direct() bool {
	return !strings.HasPrefix(u.server, "http://") && !strings.HasPrefix(u.server, "https://")
}

// address asks the server once where its queue is.
func (u *uplink) address(ctx context.Context) (string, error) {
	if u.direct() {
		return u.server, nil
	}
	if u.identity != nil {
		return u.identity.queue(ctx, newClient(u.server, "", u.tls))
	}
	address, err := newClient(u.server, u.token, u.tls).Queue(ctx)
	if err != nil {
		return "", err
	}
	return reachable(address, u.server), nil
}

// run sends until ctx is done.
func (u *uplink) run(ctx context.Context) error {
	wait := askFirst
	for ctx.Err() == nil {
		address, err := u.address(ctx)
		if err == nil {
			err = u.send(ctx, address)
		}
		if ctx.Err() != nil {
			break
		}
		if err == nil { // the queue has moved
			wait = askFirst
			continue
		}
		u.set(nil, nil, err)
		what := "the server cannot be reached: events wait in the spool"
		if errors.Is(err, odometer.ErrForbidden) {
			what = "the server does not let this host in: events wait in the spool"
		}
		u.logger.Warn(what, "server", u.server, "err", err, "again", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		wait = min(2*wait, askMost)
	}
	return nil
}

// send publishes to the queue at address until ctx is done or the queue is
// elsewhere.
func (u *uplink) send(ctx context.Context, address string) error {
	options := queue.ConnectOptions{URL: address, Agent: u.agent, Name: "odometer agent " + string(u.agent), TLS: u.queueTLS(address), Logger: u.logger}
	if u.identity != nil {
		options.Key = u.identity.current()
	} else {
		options.Token = cmp.Or(u.queueToken, u.token)
	}
	conn, err := queue.Connect(options)
	if err != nil {
		return err
	}
	defer conn.Close()
	publish := queue.NewPublisher(conn, u.spool, queue.PublisherOptions{Agent: u.agent, Last: lastReceipt(u.spool, u.agent), Logger: u.logger})
	u.set(conn, publish, nil)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return publish.Run(ctx) })
	if u.connected != nil {
		g.Go(func() error { return u.connected(ctx, conn) })
	}
	if !u.direct() {
		g.Go(func() error { return u.watch(ctx, conn, address, options.Key) })
	}
	if err := g.Wait(); !errors.Is(err, errMoved) {
		return err
	}
	u.logger.Info("the queue is elsewhere now: connecting there", "server", u.server)
	return nil
}

// queueTLS returns whom to trust with the queue, nil where it speaks plainly.
func (u *uplink) queueTLS(address string) *tls.Config {
	if strings.HasPrefix(address, "tls://") {
		if u.tls == nil {
			return &tls.Config{MinVersion: tls.VersionTLS12}
		}
		return u.tls
	}
	return nil
}

var errMoved = errors.New("the queue has moved")

// watch returns errMoved when the queue is lost and the server names another, or
// has let another key in, and otherwise why it does not let this host in any more.
func (u *uplink) watch(ctx context.Context, conn *queue.Conn, address string, key *queue.Key) error {
	tick := time.NewTicker(u.askAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if conn.Status().Connected {
			continue
		}
		now, err := u.address(ctx)
		switch {
		case err == nil && (now != address || u.identity != nil && u.identity.current() != key):
			return errMoved
		case u.identity != nil && errors.Is(err, odometer.ErrForbidden):
			return err // it says more than the queue does
		}
	}
}

func (u *uplink) set(conn *queue.Conn, publish *queue.Publisher, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.conn, u.err = conn, err
	if publish != nil {
		u.publish = publish
	}
	close(u.changed)
	u.changed = make(chan struct{})
}

// current returns the connection, nil while there is none.
func (u *uplink) current() *queue.Conn {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.conn
}

// why returns why there is no connection.
func (u *uplink) why() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// stats are the publisher's, as they were last while there is none.
func (u *uplink) stats() queue.PublisherStats {
	u.mu.Lock()
	publish := u.publish
	u.mu.Unlock()
	if publish == nil {
		return queue.PublisherStats{Breaker: queue.BreakerClosed}
	}
	return publish.Stats()
}

// wait returns a connection that is up, as soon as there is one.
func (u *uplink) wait(ctx context.Context) (*queue.Conn, error) {
	for {
		u.mu.Lock()
		conn, changed, why := u.conn, u.changed, u.err
		u.mu.Unlock()
		if conn != nil {
			return conn, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w: %w", ctx.Err(), why)
		case <-changed:
		}
	}
}

// recall asks the server for the checkpoints that it keeps of this agent, for
// as long as recallWithin allows.
func (u *uplink) recall(ctx context.Context) ([]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, recallWithin)
	defer cancel()
	conn, err := u.wait(ctx)
	if err != nil {
		return nil, err
	}
	return conn.RequestCheckpoints(ctx, u.agent)
}
