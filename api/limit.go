package api

import (
	"container/list"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"example.org/odometer"
)

// Limits say how many requests a second are taken in the long run. What was not used
// is saved up for limitWindow. 0 is no limit.
type Limits struct {
	Requests   float64 // of one token's
	Events     float64 // POST /api/v1/events of one token's, apart from the others
	Guesses    float64 // with a token that is not known, from one address
	Enrolments float64 // POST /api/v1/hosts/enrol from one address
}

// StandardLimits are those of servers that are told nothing else.
var StandardLimits = Limits{
	// A page of a thousand instances each, for ever; a dashboard asks a tenth of it.
	Requests: 50,
	// With a thousand events each it is more than the ledger takes, and one event each
	// about what it commits.
	Events: 1000,
	// A person who mistypes, a service whose token was revoked: enough to be told why.
	Guesses: 1,
	// Each host asks once when its agent starts, and when the queue is lost: some
	// racks behind one address. It costs a signature.
	Enrolments: 20,
}

const (
	// limitWindow is for how long what was not used is saved up.
	limitWindow = 10 * time.Second
	// maxBuckets bounds the holders and addresses that are remembered of each kind:
	// more than there may be tokens. Beyond them the one that asked longest ago is
	// forgotten, whose bucket is full again as a rule.
	maxBuckets = 16 << 10
)

// budget says from what a request is taken. The zero value is the usual one: nothing
// of routes that want no token, and of the others that of the token.
type budget int

const (
	usualBudget  budget = iota
	noBudget            // for those who watch
	eventsBudget        // that of the token for events
	enrolBudget         // that of the address for enrolments
)

// limiter keeps the buckets of one server.
type limiter struct {
	requests, events    *buckets[holderID]
	guesses, enrolments *buckets[netip.Addr]
}

// holderID is whose a bucket is: a token's, which has an id, or a holder's who comes
// with another proof.
type holderID struct {
	token odometer.TokenID
	bound odometer.Bound
	name  string
}

func newLimiter(l Limits) *limiter {
	return &limiter{
		requests: newBuckets[holderID]("requests", l.Requests), events: newBuckets[holderID]("events", l.Events),
		guesses: newBuckets[netip.Addr]("guesses", l.Guesses), enrolments: newBuckets[netip.Addr]("enrolments", l.Enrolments),
	}
}

// take takes a request from its budget and says in the answer's header what is left.
// It returns an error that wraps errTooMany where that is nothing.
func (l *limiter) take(w http.ResponseWriter, r *http.Request, row *route, by *odometer.Caller, now time.Time) error {
	if row.budget == enrolBudget {
		return charge(l.enrolments, w, network(r.RemoteAddr), now)
	}
	if row.budget == noBudget || row.access == anybody || row.access == brief {
		return nil
	}
	of := l.requests
	if row.budget == eventsBudget {
		of = l.events
	}
	return charge(of, w, holderID{by.ID, by.Bound, by.Name}, now)
}

// guess takes a token that is not known from the budget of who has sent it. Tokens
// that are known are not asked for it: whoever guesses at the same address locks out
// nobody.
func (l *limiter) guess(r *http.Request, now time.Time) error {
	if _, wait := l.guesses.take(network(r.RemoteAddr), now); wait > 0 {
		return &limitError{wait}
	}
	return nil
}

// limitError says after what time there may be another request.
type limitError struct{ wait time.Duration }

func (e *limitError) Error() string {
	return fmt.Sprintf("this was refused, and nothing was done: ask again in %d s", e.seconds())
}

func (e *limitError) Unwrap() error { return errTooMany }

func (e *limitError) seconds() int { return int(math.Ceil(e.wait.Seconds())) }

// buckets has a token bucket for each key, full at first, and remembers maxBuckets of
// them. Its methods may be called at once.
type buckets[K comparable] struct {
	name   string
	policy string // for the header RateLimit-Policy
	rate   rate.Limit
	burst  int
	most   int

	mu    sync.Mutex
	of    map[K]*list.Element // of bucket[K]
	order list.List           // the one that asked last first
}

type bucket[K comparable] struct {
	key     K
	limiter *rate.Limiter
}

// newBuckets returns nil for no limit.
func newBuckets[K comparable](name string, perSecond float64) *buckets[K] {
	if perSecond <= 0 {
		return nil
	}
	b := &buckets[K]{
		name: strconv.Quote(name), rate: rate.Limit(perSecond), burst: max(1, int(perSecond*limitWindow.Seconds())), most: maxBuckets,
		of: map[K]*list.Element{},
	}
	b.policy = fmt.Sprintf("%s;q=%d;w=%d", b.name, b.burst, int(limitWindow.Seconds()))
	return b
}

// take takes one from a key's bucket and returns how many are left. Where there was
// none it takes nothing and returns how long one takes.
func (b *buckets[K]) take(key K, now time.Time) (left float64, wait time.Duration) {
	if b == nil {
		return math.Inf(1), 0
	}
	b.mu.Lock()
	at, known := b.of[key]
	if known {
		b.order.MoveToFront(at)
	} else {
		if len(b.of) >= b.most {
			last := b.order.Back()
			delete(b.of, b.order.Remove(last).(*bucket[K]).key)
		}
		at = b.order.PushFront(&bucket[K]{key, rate.NewLimiter(b.rate, b.burst)})
		b.of[key] = at
	}
	limiter := at.Value.(*bucket[K]).limiter
	b.mu.Unlock()
	if !limiter.AllowN(now, 1) {
		left = limiter.TokensAt(now)
		return left, max(time.Millisecond, time.Duration((1-left)/float64(b.rate)*float64(time.Second)))
	}
	return limiter.TokensAt(now), 0
}

// charge takes one from a key's bucket and tells it in the header, as
// draft-ietf-httpapi-ratelimit-headers-11 has it.
func charge[K comparable](b *buckets[K], w http.ResponseWriter, key K, now time.Time) error {
	if b == nil {
		return nil
	}
	left, wait := b.take(key, now)
	full := math.Ceil((float64(b.burst) - left) / float64(b.rate)) // seconds until it is
	h := w.Header()
	h.Set("RateLimit-Policy", b.policy)
	h.Set("RateLimit", b.name+";r="+strconv.Itoa(max(0, int(left)))+";t="+strconv.Itoa(int(full)))
	if wait > 0 {
		return &limitError{wait}
	}
	return nil
}
