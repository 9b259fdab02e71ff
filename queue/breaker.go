package queue

import "time"

// Defaults of sending; see DESIGN section 6.
const (
	DefaultRetryFirst       = 100 * time.Millisecond
	DefaultRetryMost        = 10 * time.Second
	DefaultAttemptTimeout   = 5 * time.Second
	DefaultBreakerThreshold = 5
	DefaultBreakerDelay     = 30 * time.Second
)

// BreakerState is the state of a circuit breaker.
type BreakerState string

const (
	BreakerClosed   BreakerState = "closed"    // attempts are made
	BreakerOpen     BreakerState = "open"      // none is made until the delay is over
	BreakerHalfOpen BreakerState = "half-open" // one probe is under way or due
)

// breaker decides when the next attempt may be made. Failures are counted in
// a row: each is followed by a longer wait, and threshold of them open the
// breaker for delay; then one attempt is the probe that closes it or opens it
// for another delay. It is not for concurrent use; its caller makes one
// attempt at a time for as long as failing is true.
type breaker struct {
	threshold   int
	delay       time.Duration
	first, most time.Duration // of the waits between attempts
	random      func() float64

	state    BreakerState
	failures int       // in a row
	next     time.Time // no attempt before
	opened   uint64
}

// failing says that the last attempt failed.
func (b *breaker) failing() bool { return b.failures > 0 }

// allow reports whether an attempt may be made now; an open breaker whose
// delay is over becomes half-open.
func (b *breaker) allow(now time.Time) bool {
	if now.Before(b.next) {
		return false
	}
	if b.state == BreakerOpen {
		b.state = BreakerHalfOpen
	}
	return true
}

func (b *breaker) succeeded() {
	b.state, b.failures, b.next = BreakerClosed, 0, time.Time{}
}

func (b *breaker) failed(now time.Time) {
	b.failures++
	if b.state == BreakerHalfOpen || b.failures >= b.threshold {
		if b.state != BreakerOpen {
			b.opened++
		}
		b.state, b.next = BreakerOpen, now.Add(b.delay)
		return
	}
	b.next = now.Add(backoff(b.failures, b.first, b.most, b.random))
}
