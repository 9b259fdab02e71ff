package notify

import (
	"fmt"
	"math/rand/v2"
	"time"

	"example.org/odometer"
)

const (
	// GiveUpAfter is for how long a delivery is tried: a weekend.
	GiveUpAfter = 72 * time.Hour
	// retryFirst and retryMost bound how long it takes to the next attempt: after
	// the n-th failure any time up to retryFirst · 2^(n-1), no longer than retryMost
	// ("full jitter"). So there are some 150 attempts in three days, ten of them in
	// the first hour, and who comes back is found within the hour.
	retryFirst = 5 * time.Second
	retryMost  = time.Hour
	// retryAfterMost bounds how long a receiver may ask to be left alone.
	retryAfterMost = 24 * time.Hour

	// atOnce is how many attempts a channel has at once: enough for 100 deliveries a
	// second to who answers in 80 ms, and little to lose where one hangs.
	atOnce = 8
	// holderAtOnce is how many all channels of a holder have at once, so that nobody
	// takes the places of all others with many channels that hang.
	holderAtOnce = 32
	// maxFlight is how many there are at once altogether: each is a connection, and
	// some ten KiB.
	maxFlight = 1024

	// breakAfter is how many attempts in a row have to fail for the breaker to open:
	// as many as are at once may fail for the same passing reason.
	breakAfter = atOnce
	// breakFirst and breakMost bound how long an open breaker waits to let one attempt
	// through that is due, as retryFirst and retryMost do.
	breakFirst = 5 * time.Second
	breakMost  = 5 * time.Minute
)

// retryAfter returns how long to wait after the n-th failure, from 1 on: full jitter
// over an exponential, so that who comes back is not met by all at the same moment.
func retryAfter(n int) time.Duration { return jitter(n, retryFirst, retryMost) }

func jitter(n int, first, most time.Duration) time.Duration {
	d := most
	if n < 30 { // beyond is more than any most
		d = min(most, first<<(n-1))
	}
	return time.Duration(rand.Int64N(int64(d))) + 1
}

// endpoint is what is held of a channel in memory: what is under way, and how it fares.
// A restart forgets it; each delivery's own next attempt is stored.
type endpoint struct {
	flying  map[odometer.DeliveryID]bool
	holder  odometer.Bound
	failed  int       // attempts in a row
	opened  int       // times in a row that the breaker opened
	next    time.Time // when an open breaker lets one attempt through
	until   time.Time // before which the receiver asked to be left alone
	last    grouped   // message of those that digests are made of
	telling bool      // an Alertmanager is being told again what is open
}

// grouped is a message of those that digests are made of.
type grouped struct {
	at     time.Time
	events int
}

func (e *endpoint) open() bool { return e.opened > 0 }

// may returns how many attempts may begin now, and if none, when that is to be asked
// again, zero for after the end of one that goes on.
func (e *endpoint) may(now time.Time) (attempts int, again time.Time) {
	switch {
	case e.telling:
		return 0, time.Time{}
	case now.Before(e.until):
		return 0, e.until
	case !e.open():
		return atOnce - len(e.flying), time.Time{}
	case len(e.flying) > 0:
		return 0, time.Time{}
	case now.Before(e.next):
		return 0, e.next
	}
	return 1, time.Time{}
}

// ended notes how an attempt went; wait is for how long the receiver asked. It returns
// true where a breaker closed.
func (e *endpoint) ended(ok bool, wait time.Duration, now time.Time) (closed bool) {
	if wait > 0 {
		e.until = now.Add(wait)
	}
	if ok {
		closed = e.open()
		e.failed, e.opened, e.next = 0, 0, time.Time{}
		return closed
	}
	e.failed++
	if e.open() || e.failed >= breakAfter {
		e.opened++
		e.next = now.Add(jitter(e.opened, breakFirst, breakMost))
	}
	return false
}

// endpointOf returns what is held of a channel. The caller has n.mu.
func (n *Notifier) endpointOf(c *odometer.Channel) *endpoint {
	e := n.endpoints[c.ID]
	if e == nil {
		e = &endpoint{flying: map[odometer.DeliveryID]bool{}, holder: c.Holder}
		n.endpoints[c.ID] = e
	}
	return e
}

// flying reports whether an attempt of a delivery goes on, or has a result that is not on
// record.
func (n *Notifier) flying(channel odometer.ChannelID, id odometer.DeliveryID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	e := n.endpoints[channel]
	return e != nil && e.flying[id]
}

// forget has a channel that was changed tried at once.
func (n *Notifier) forget(id odometer.ChannelID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e := n.endpoints[id]; e != nil {
		e.failed, e.opened, e.next, e.until = 0, 0, time.Time{}, time.Time{}
	}
}

// overdue is why a delivery is given up.
func overdue(err string) string {
	return fmt.Sprintf("given up after %d hours: %s", int(GiveUpAfter.Hours()), err)
}
