package main

import (
	"context"
	"crypto/sha256"
	"sync"
	"time"

	"example.org/odometer/queue"
)

// witness stands between the parties and the queue and remembers which frames
// the queue said it had stored and which it delivered, so that what it forgot
// is known by number.
type witness struct {
	mu     sync.Mutex
	frames map[[16]byte]*seen
}

// seen is what became of one frame, which may have been sent more than once.
type seen struct {
	stored    int // acknowledgements
	delivered map[message]struct{}
}

// message is one message of a stream: a number is given again after a loss.
type message struct {
	sequence uint64
	at       time.Time
}

func newWitness() *witness { return &witness{frames: map[[16]byte]*seen{}} }

func (w *witness) frame(data []byte) *seen {
	sum := sha256.Sum256(data)
	key := [16]byte(sum[:16])
	if w.frames[key] == nil {
		w.frames[key] = &seen{delivered: map[message]struct{}{}}
	}
	return w.frames[key]
}

func (w *witness) stored(data []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frame(data).stored++
}

func (w *witness) delivered(data []byte, sequence uint64, at time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.frame(data).delivered[message{sequence, at}] = struct{}{}
}

// acknowledged returns how many frames the queue said it had stored, and how
// many of them it never delivered.
func (w *witness) acknowledged() (stored, forgotten int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range w.frames {
		stored += s.stored
		forgotten += max(0, s.stored-len(s.delivered))
	}
	return stored, forgotten
}

// of is the queue as a publisher sees it, watched.
func (w *witness) of(c queue.Wire) queue.Wire { return watched{c, w} }

type watched struct {
	queue.Wire
	witness *witness
}

func (s watched) Send(subject string, header map[string][]string, data []byte) (func(context.Context) error, error) {
	wait, err := s.Wire.Send(subject, header, data)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) error {
		err := wait(ctx)
		if err == nil {
			s.witness.stored(data)
		}
		return err
	}, nil
}
