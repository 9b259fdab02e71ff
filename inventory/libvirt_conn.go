package inventory

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"

	"github.com/digitalocean/go-libvirt"
)

// libvirtConn is one connection to libvirtd. It is thrown away after the first
// call that is not answered in time: the daemon does not take a call back, and
// another connection does not wait for this one's.
type libvirtConn struct {
	rpc    *libvirt.Libvirt
	conn   *framed
	events sync.WaitGroup  // goroutines that hand on events, until the connection ends
	life   context.Context // ends with the connection
	ended  context.CancelFunc
}

// dialLibvirt connects and opens uri.
func dialLibvirt(ctx context.Context, socket, uri string) (*libvirtConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("connect to libvirt: %w", err)
	}
	c := &libvirtConn{conn: &framed{Conn: conn, gone: make(chan struct{})}}
	c.life, c.ended = context.WithCancel(context.Background())
	c.rpc = libvirt.NewWithDialer(dialed{c.conn})
	_, err = call(ctx, c, func() (struct{}, error) {
		return struct{}{}, c.rpc.ConnectToURI(libvirt.ConnectURI(uri))
	})
	if err != nil {
		c.close()
		return nil, fmt.Errorf("open %s at %s: %w", uri, socket, err)
	}
	return c, nil
}

// listen asks for events. heard is called for each, from goroutines of the
// connection's own, until [libvirtConn.close] returns. Events that cannot be
// had are named in missing; err is that there was no answer.
func (c *libvirtConn) listen(ctx context.Context, heard func(event any)) (missing, err error) {
	for _, kind := range eventKinds {
		ch, err := call(ctx, c, func() (<-chan any, error) { return c.rpc.SubscribeEvents(c.life, kind, nil) })
		switch {
		case errors.Is(err, errUnanswered):
			return nil, fmt.Errorf("ask libvirt for events: %w", err)
		case err != nil:
			missing = errors.Join(missing, fmt.Errorf("ask libvirt for events of kind %d: %w", kind, err))
		default:
			c.events.Go(func() {
				for event := range ch {
					heard(event)
				}
			})
		}
	}
	return missing, nil
}

// close ends the connection at once, and with it every call that waits.
func (c *libvirtConn) close() {
	// First the connection: a subscription that ends before it would ask the
	// daemon to stop, and wait for the answer.
	c.conn.Close()
	c.ended()
	c.events.Wait()
}

// gone reports whether the connection has ended, as it does when the daemon is
// started anew.
func (c *libvirtConn) gone() bool {
	select {
	case <-c.conn.gone:
		return true
	default:
		return false
	}
}

// errUnanswered is a call of which no answer came: nothing more can be said
// over the connection.
var errUnanswered = errors.New("libvirt does not answer")

// call makes one call and waits for its answer as long as the context allows.
// Where that is too short the connection is closed, which ends the call; the
// error is then errUnanswered, as it is where the daemon went away meanwhile.
func call[T any](ctx context.Context, c *libvirtConn, f func() (T, error)) (T, error) {
	type answer struct {
		value T
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		v, err := f()
		done <- answer{v, err}
	}()
	select {
	case a := <-done:
		if _, refused := errors.AsType[libvirt.Error](a.err); a.err != nil && !refused && !errors.Is(a.err, libvirt.ErrUnsupported) {
			a.err = fmt.Errorf("%w: %w", errUnanswered, c.why(a.err))
		}
		return a.value, a.err
	case <-ctx.Done():
		c.conn.Close()
		var none T
		return none, fmt.Errorf("%w: %w", errUnanswered, context.Cause(ctx))
	}
}

// why is the reason for a call's failure: where the connection ended that is
// it, and otherwise what the call says.
func (c *libvirtConn) why(err error) error {
	if c.gone() {
		return c.conn.failed
	}
	return err
}

// dialed is a connection that is there already.
type dialed struct{ conn net.Conn }

func (d dialed) Dial() (net.Conn, error) { return d.conn, nil }

// framed is a connection on which libvirt's protocol is spoken: packets, each
// with its length in front, itself included, in four bytes, big endian. A
// length that none can have ends it. The library believes any, and would end
// the program over what another server answers.
type framed struct {
	net.Conn
	gone chan struct{} // closed with the first error

	// Of the goroutine that reads.
	length [4]byte
	have   int // of length
	left   int // of the packet
	failed error
}

// The least is the length and a header of six words, the most
// VIR_NET_MESSAGE_MAX of libvirt's virnetprotocol.x.
const (
	leastPacket = 28
	mostPacket  = 32<<20 + 4
)

func (f *framed) Read(p []byte) (int, error) {
	if f.failed != nil {
		return 0, f.failed
	}
	n, err := f.Conn.Read(p)
	for b := p[:n]; len(b) > 0; {
		if f.left > 0 {
			k := min(f.left, len(b))
			f.left -= k
			b = b[k:]
			continue
		}
		k := copy(f.length[f.have:], b)
		f.have += k
		b = b[k:]
		if f.have < len(f.length) {
			continue
		}
		size := binary.BigEndian.Uint32(f.length[:])
		if size < leastPacket || size > mostPacket {
			f.Conn.Close()
			n, err = 0, fmt.Errorf("a packet of %d bytes: that is no libvirt", size)
			break
		}
		f.have, f.left = 0, int(size)-len(f.length)
	}
	if err != nil {
		f.failed = err
		close(f.gone)
	}
	return n, err
}
