package spool

import (
	"runtime"
	"sync"
)

const (
	// parallelFrom is the size from which a spool is verified on all cores:
	// below it that gains nothing.
	parallelFrom = 16 << 20
	// maxAhead is the longest segment that is read ahead, and so bounds the
	// memory that this takes: one more of them than there are cores. Longer
	// ones come of Appends that are as long, and are read as they are walked
	// through.
	maxAhead = 16 << 20
)

// chunks are what a segment consists of, in order: a [scanner], or what one
// found before.
type chunks interface {
	next() (chunk, bool, error)
}

// block is a segment that was read ahead: every checksum in it is verified, and
// what it means beside the other segments is not decided yet.
type block struct {
	scanner scanner
	found   []chunk
	err     error
}

func (b *block) next() (chunk, bool, error) {
	if len(b.found) == 0 {
		return chunk{}, false, b.err
	}
	c := b.found[0]
	b.found = b.found[1:]
	return c, true, nil
}

// ahead verifies segments on all cores, some way ahead of who takes them in
// order.
type ahead struct {
	ready []chan *block // of each segment; nil comes where it is not read ahead
	free  chan *block
	quit  chan struct{}
	ended sync.WaitGroup
}

// readAhead begins to verify segments. The caller takes each of them in order,
// and must call stop.
func (s *Spool) readAhead(segs []*segment) *ahead {
	cores := runtime.GOMAXPROCS(0)
	a := &ahead{ready: make([]chan *block, len(segs)), free: make(chan *block, cores+1), quit: make(chan struct{})}
	next := make(chan int, len(segs))
	for i := range segs {
		a.ready[i] = make(chan *block, 1)
		next <- i
	}
	close(next)
	for range cap(a.free) {
		a.free <- new(block)
	}
	for range cores {
		a.ended.Go(func() {
			for {
				// The block first: whoever has one takes the next segment, so
				// that the one which is waited for is never without.
				select {
				case b := <-a.free:
					i, ok := <-next
					if !ok {
						return
					}
					if g := segs[i]; g.size > maxAhead {
						a.free <- b
						a.ready[i] <- nil
					} else {
						b.err = s.verify(g, b)
						a.ready[i] <- b
					}
				case <-a.quit:
					return
				}
			}
		})
	}
	return a
}

// verify reads a segment whole and finds its chunks.
func (s *Spool) verify(g *segment, b *block) error {
	f, err := s.fs.Open(s.path(g.name))
	if err != nil {
		return err
	}
	defer f.Close()
	b.found = b.found[:0]
	b.scanner.reset(f, headerSize, g.size)
	b.scanner.whole = true
	for {
		c, more, err := b.scanner.next()
		if err != nil || !more {
			return err
		}
		b.found = append(b.found, c)
	}
}

func (a *ahead) take(i int) *block { return <-a.ready[i] }

// done gives back what take returned.
func (a *ahead) done(b *block) {
	if b != nil {
		a.free <- b
	}
}

// stop ends the reading and returns when it has ended.
func (a *ahead) stop() {
	close(a.quit)
	a.ended.Wait()
}
