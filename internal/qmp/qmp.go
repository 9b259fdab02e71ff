// Package qmp talks to a running QEMU over its monitor socket, in the QEMU
// Machine Protocol (docs/interop/qmp-spec in QEMU's source): JSON objects, a
// greeting first, then answers to commands, with events between them.
//
// A monitor serves one client. The next one may connect, but QEMU looks at it
// only when the first has gone: it gets no greeting and [Dial] says [ErrNoGreeting].
// Who holds a connection therefore keeps everybody else out; libvirt does so
// with its own.
//
// QEMU answers in its main loop, which stands still while its storage does.
// Every call has a deadline. One that it misses costs that call only: the
// connection goes on, and the late answer is dropped.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

const (
	// Patience is how long a call waits whose context has no deadline. QEMU
	// answers within a millisecond, unless its main loop stands still.
	Patience = 5 * time.Second
	// longest bounds a message in bytes. A machine with hundreds of disks and
	// snapshots answers query-named-block-nodes with a few MiB.
	longest = 16 << 20
)

var (
	// ErrNoGreeting says that the socket accepts and tells nothing: another
	// client is connected, or QEMU is stopped or hangs.
	ErrNoGreeting = errors.New("no greeting: another client is connected, or QEMU hangs")
	// ErrNoAnswer says that QEMU did not answer in time.
	ErrNoAnswer = errors.New("no answer in time")
	// ErrTooLong says that a message was longer than a monitor's may be.
	ErrTooLong = errors.New("a message of more than 16 MiB")
	// ErrClosed says that the connection was closed at this end.
	ErrClosed = errors.New("the connection is closed")
)

// Client is a connection to a monitor. Its methods may be called from several
// goroutines; the calls go one after the other.
type Client struct {
	conn  net.Conn
	event func(Event)
	done  chan struct{} // closed when nothing more is read

	sending sync.Mutex // held while a command is written

	mu      sync.Mutex
	next    uint64
	waiting map[uint64]chan message
	err     error // why the connection ended; nil while it goes on
}

// Dial connects to the monitor at path and negotiates, see [New].
func Dial(ctx context.Context, path string, event func(Event)) (*Client, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	c, err := dial(ctx, path, event)
	if err != nil {
		return nil, fmt.Errorf("connect to the QEMU monitor %s: %w", path, err)
	}
	return c, nil
}

func dial(ctx context.Context, path string, event func(Event)) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if errors.Is(err, syscall.EAGAIN) { // others wait in line already
		return nil, ErrNoGreeting
	}
	if err != nil {
		return nil, err
	}
	return New(ctx, conn, event)
}

// New negotiates on a connection to a monitor, of which nothing was read yet.
// Events go to event one after the other, in QEMU's order, until the connection
// ends; it must not wait, since answers wait behind it. A nil event drops them.
// After an error the connection is closed.
//
// Where the context has no deadline, New gives up after [Patience]. Nothing is
// sent before the greeting has come.
func New(ctx context.Context, conn net.Conn, event func(Event)) (*Client, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	if event == nil {
		event = func(Event) {}
	}
	c := &Client{conn: conn, event: event, done: make(chan struct{}), waiting: map[uint64]chan message{}}
	deadline, _ := ctx.Deadline()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	conn.SetReadDeadline(deadline)
	r := newReader(conn)
	switch m, err := r.next(); {
	case errors.Is(err, os.ErrDeadlineExceeded):
		conn.Close()
		return nil, ErrNoGreeting
	case err != nil:
		conn.Close()
		return nil, err
	case len(m.Greeting) == 0:
		conn.Close()
		return nil, errors.New("what answers there is no QEMU monitor: its first message is no greeting")
	}
	stop()
	conn.SetReadDeadline(time.Time{})
	go c.read(r)
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, Patience)
}

// read takes messages until the connection ends.
func (c *Client) read(r *reader) {
	defer close(c.done)
	for {
		m, err := r.next()
		if err != nil {
			c.end(err)
			return
		}
		switch {
		case m.Event != "":
			c.event(m.event())
		case m.ID != nil:
			c.mu.Lock()
			answer := c.waiting[*m.ID]
			delete(c.waiting, *m.ID)
			c.mu.Unlock()
			if answer != nil { // else nobody waits any more
				answer <- m
			}
		}
	}
}

// end closes the connection because of err and fails all who wait.
func (c *Client) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
			err = errors.New("QEMU closed the connection")
		}
		c.err = err
	}
	c.conn.Close()
	for id, answer := range c.waiting {
		close(answer)
		delete(c.waiting, id)
	}
}

// Close ends the connection and waits until no event is delivered any more.
// It must not be called from an event.
func (c *Client) Close() error {
	c.end(ErrClosed)
	<-c.done
	return nil
}

// Done is closed when the connection has ended and all its events were
// delivered; [Client.Err] then says why.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err says why the connection ended, nil while it goes on.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Execute runs a command and decodes what it returns into result, unless that
// is nil. Arguments are anything that encodes to a JSON object, nil for none.
// QEMU's refusal is an [*Error]. After any other error the command may have
// been carried out.
//
// Where the context has no deadline, Execute gives up after [Patience].
func (c *Client) Execute(ctx context.Context, command string, arguments, result any) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	if err := c.execute(ctx, command, arguments, result); err != nil {
		return fmt.Errorf("%s: %w", command, err)
	}
	return nil
}

func (c *Client) execute(ctx context.Context, command string, arguments, result any) error {
	id, answer, err := c.expect()
	if err != nil {
		return err
	}
	defer func() {
		c.mu.Lock()
		delete(c.waiting, id)
		c.mu.Unlock()
	}()
	b, err := json.Marshal(struct {
		Execute   string `json:"execute"`
		Arguments any    `json:"arguments,omitempty"`
		ID        uint64 `json:"id"`
	}{command, arguments, id})
	if err != nil {
		return err
	}
	if err := c.send(ctx, append(b, '\n')); err != nil {
		return err
	}
	select {
	case m, ok := <-answer:
		switch {
		case !ok:
			return c.Err()
		case m.Error != nil:
			return m.Error
		case result == nil:
			return nil
		}
		if err := json.Unmarshal(m.Return, result); err != nil {
			return fmt.Errorf("QEMU's answer: %w", err)
		}
		return nil
	case <-ctx.Done():
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return ErrNoAnswer
		}
		return ctx.Err()
	}
}

// expect returns the id for a command and where its answer will come.
func (c *Client) expect() (uint64, chan message, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, nil, c.err
	}
	c.next++
	answer := make(chan message, 1)
	c.waiting[c.next] = answer
	return c.next, answer, nil
}

// send writes a command. A QEMU that hangs reads nothing; once the socket's
// buffer is full the rest of a command may be missing, and the connection is
// of no use.
func (c *Client) send(ctx context.Context, b []byte) error {
	c.sending.Lock()
	defer c.sending.Unlock()
	deadline, _ := ctx.Deadline()
	c.conn.SetWriteDeadline(deadline)
	if _, err := c.conn.Write(b); err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = ErrNoAnswer
		}
		c.end(err)
		return c.Err()
	}
	return nil
}

// reader cuts a stream into messages. They lie one on a line, unless the
// monitor was opened as pretty: then a message has many lines.
type reader struct {
	in   *json.Decoder
	left *io.LimitedReader
}

func newReader(r io.Reader) *reader {
	left := &io.LimitedReader{R: r, N: longest}
	return &reader{in: json.NewDecoder(left), left: left}
}

// next returns the next message. After an error there is none.
func (r *reader) next() (message, error) {
	r.left.N = longest
	var b json.RawMessage
	if err := r.in.Decode(&b); err != nil {
		if r.left.N <= 0 {
			err = ErrTooLong
		}
		return message{}, err
	}
	m, err := decode(b)
	if err != nil {
		return message{}, fmt.Errorf("not a message of the QEMU Machine Protocol: %w", err)
	}
	return m, nil
}
