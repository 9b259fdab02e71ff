package main

import (
	"net"
	"sync"
	"time"
)

// direction is one of the two ways of a link: there is from who dials to who
// listens.
type direction int

const (
	there direction = iota
	back
)

// link is a cable between two parties: a TCP proxy that can stop passing
// bytes without either side noticing, in both directions or one; be cut after
// a number of bytes, in the middle of a message; and be slow. A connection
// over a link that stands still hangs, as over a network that drops packets,
// and goes on when the link passes again.
type link struct {
	listener net.Listener
	to       string

	mu      sync.Mutex
	passes  [2]chan struct{}           // closed while bytes pass
	delay   time.Duration              // of every piece
	cut     int64                      // bytes until every connection is cut; negative for never
	conns   map[net.Conn]chan struct{} // closed when the connection is dropped
	closed  bool
	running sync.WaitGroup
}

// newLink listens on an address of its own for connections to another.
func newLink(to string) (*link, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	open := make(chan struct{})
	close(open)
	k := &link{listener: l, to: to, passes: [2]chan struct{}{open, open}, cut: -1, conns: map[net.Conn]chan struct{}{}}
	k.running.Go(k.accept)
	return k, nil
}

func (k *link) addr() string { return k.listener.Addr().String() }

func (k *link) accept() {
	for {
		from, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.running.Go(func() { k.serve(from) })
	}
}

// serve joins one connection. Nothing is dialled before bytes pass there.
func (k *link) serve(from net.Conn) {
	gone := k.keep(from)
	defer k.drop(from)
	if !k.wait(there, gone) {
		return
	}
	to, err := net.DialTimeout("tcp", k.to, 5*time.Second)
	if err != nil {
		return
	}
	k.keep(to)
	k.running.Go(func() {
		k.pump(from, to, back, gone)
		k.drop(to)
	})
	k.pump(to, from, there, gone)
}

// pump copies until either side ends. What was read while the link stood
// still is passed on when it passes again.
func (k *link) pump(to, from net.Conn, way direction, gone <-chan struct{}) {
	defer k.drop(to)
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if !k.wait(way, gone) {
				return
			}
			piece, end := k.piece(buf[:n])
			if _, err := to.Write(piece); err != nil {
				return
			}
			if end {
				k.dropAll()
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// piece delays, and returns as much of b as still passes before the cut.
func (k *link) piece(b []byte) (piece []byte, end bool) {
	k.mu.Lock()
	delay := k.delay
	if k.cut >= 0 {
		n := min(int64(len(b)), k.cut)
		if k.cut -= n; k.cut == 0 {
			b, end, k.cut = b[:n], true, -1
		}
	}
	k.mu.Unlock()
	time.Sleep(delay)
	return b, end
}

// wait returns when bytes pass in a direction, false when the connection is
// gone first.
func (k *link) wait(way direction, gone <-chan struct{}) bool {
	for {
		k.mu.Lock()
		passes := k.passes[way]
		k.mu.Unlock()
		select {
		case <-gone:
			return false
		case <-passes:
		}
		k.mu.Lock()
		same := k.passes[way] == passes
		k.mu.Unlock()
		if same {
			return true
		}
	}
}

// pass lets bytes pass in a direction, or no longer.
func (k *link) pass(way direction, yes bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	open := false
	select {
	case <-k.passes[way]:
		open = true
	default:
	}
	switch {
	case yes && !open:
		close(k.passes[way])
	case !yes && open:
		k.passes[way] = make(chan struct{})
	}
}

// blackhole stops both directions.
func (k *link) blackhole() {
	k.pass(there, false)
	k.pass(back, false)
}

// mend makes the link whole again.
func (k *link) mend() {
	k.pass(there, true)
	k.pass(back, true)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.delay, k.cut = 0, -1
}

// slow makes every piece take longer.
func (k *link) slow(d time.Duration) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.delay = d
}

// cutAfter cuts every connection once n more bytes have passed.
func (k *link) cutAfter(n int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cut = n
}

// keep notes a connection and returns what is closed when it is dropped.
func (k *link) keep(c net.Conn) <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	gone := make(chan struct{})
	k.conns[c] = gone
	if k.closed {
		k.dropLocked(c)
	}
	return gone
}

func (k *link) drop(c net.Conn) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dropLocked(c)
}

func (k *link) dropLocked(c net.Conn) {
	if gone, ok := k.conns[c]; ok {
		close(gone)
		delete(k.conns, c)
	}
	c.Close()
}

// dropAll cuts every connection; others may be made at once.
func (k *link) dropAll() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		k.dropLocked(c)
	}
}

// close ends the link and returns when nothing of it is left.
func (k *link) close() {
	k.mu.Lock()
	k.closed = true
	k.mu.Unlock()
	k.listener.Close()
	k.dropAll()
	k.running.Wait()
}
