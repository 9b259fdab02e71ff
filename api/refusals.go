package api

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
)

const (
	// refusalsEvery is how often what was refused is written into the audit log, and
	// how much of it is lost in a crash.
	refusalsEvery = time.Minute
	// Lines that each such time may add, of each kind, beside one for all the others:
	// whoever is refused again and again does not fill the log.
	mostAddresses = 20
	mostChanges   = 100
	// refusalsLast bounds how long the last time takes, while the process ends.
	refusalsLast = time.Second
)

// Refusals counts changes that were refused to who asked for them, and tokens that
// were not known, and writes what they come to into the audit log, once a minute and
// at the end. Its methods may be called at once; those of a nil one do nothing.
type Refusals struct {
	audit  AuditLogger
	clock  func() time.Time
	logger *slog.Logger

	mu      sync.Mutex
	since   time.Time // the first of what follows
	logins  map[login]int
	changes map[refusal]int
	others  int // changes beyond mostChanges
}

// login is where somebody was refused who is not known, and from where he came.
type login struct {
	from  netip.Addr
	queue bool // and not the API
}

// with says what he came with.
func (l login) with() string {
	if l.queue {
		return "at the queue, a token or a key that is not known"
	}
	return "a token that is not known"
}

func (l login) compare(m login) int {
	return cmp.Or(l.from.Compare(m.from), cmp.Compare(l.with(), m.with()))
}

// refusal is one kind of refused change.
type refusal struct {
	holder holderID
	remote string
	object string // the path, without a secret
	route  string
	code   string // of the problem
}

// NewRefusals returns Refusals that write into audit. Clock and logger may be nil.
func NewRefusals(audit AuditLogger, clock func() time.Time, logger *slog.Logger) *Refusals {
	if clock == nil {
		clock = time.Now
	}
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	return &Refusals{audit: audit, clock: clock, logger: logger, logins: map[login]int{}, changes: map[refusal]int{}}
}

// Run writes until ctx is done.
func (s *Refusals) Run(ctx context.Context) error {
	tick := time.NewTicker(refusalsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.write(ctx)
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), refusalsLast)
			defer cancel()
			s.write(ctx)
			return nil
		}
	}
}

// login counts a token that is not known.
func (s *Refusals) login(r *http.Request) { s.count(login{from: network(r.RemoteAddr)}) }

// QueueLogin counts a connection to the queue, from an address with a port, that was
// refused since its token or key is not known.
func (s *Refusals) QueueLogin(remote string) { s.count(login{network(remote), true}) }

func (s *Refusals) count(l login) {
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	if _, known := s.logins[l]; !known && len(s.logins) >= maxBuckets {
		l.from = netip.Addr{}
	}
	s.logins[l]++
}

// change counts a request that was refused, where it would have changed something.
func (s *Refusals) change(r *http.Request, by odometer.Caller, route string, err error) {
	if s == nil || r.Method == http.MethodGet || r.Method == http.MethodHead {
		return
	}
	k := kindOf(err)
	if k.status != http.StatusForbidden && k.status != http.StatusNotFound || k.err == errNoRoute {
		return
	}
	is := refusal{holderID{by.ID, by.Bound, by.Name}, actor(r).Remote, odometer.HideSecrets(clipPath(r.URL.EscapedPath())), route, k.code}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begin()
	if _, known := s.changes[is]; !known && len(s.changes) >= mostChanges {
		s.others++
		return
	}
	s.changes[is]++
}

// clipPath shortens a path for the log.
func clipPath(path string) string {
	const most = 200
	if len(path) > most {
		return path[:most] + "…"
	}
	return path
}

func (s *Refusals) begin() {
	if s.since.IsZero() {
		s.since = s.clock()
	}
}

// write writes what was counted since the last time.
func (s *Refusals) write(ctx context.Context) {
	s.mu.Lock()
	since, logins, changes, others := s.since, s.logins, s.changes, s.others
	s.since, s.logins, s.changes, s.others = time.Time{}, map[login]int{}, map[refusal]int{}, 0
	s.mu.Unlock()
	times := func(n int) string {
		if n == 1 {
			return "once"
		}
		return fmt.Sprintf("%d times since %s", n, since.UTC().Format(time.RFC3339))
	}
	for _, is := range inOrder(changes, func(a, b refusal) int {
		return cmp.Or(cmp.Compare(a.object, b.object), cmp.Compare(a.route, b.route), cmp.Compare(a.holder.token, b.holder.token), cmp.Compare(a.remote, b.remote))
	}) {
		by := odometer.Actor{Caller: odometer.Caller{ID: is.holder.token, Name: is.holder.name, Bound: is.holder.bound}, Remote: is.remote}
		s.note(ctx, by, odometer.ActionChangeRefused, is.object, fmt.Sprintf("%s: %s, %s", is.route, is.code, times(changes[is])))
	}
	if others > 0 {
		s.note(ctx, odometer.Actor{}, odometer.ActionChangeRefused, "others", times(others))
	}
	refused := inOrder(logins, login.compare)
	for _, l := range refused[:min(len(refused), mostAddresses)] {
		from := addressText(l.from)
		s.note(ctx, odometer.Actor{Remote: from}, odometer.ActionLoginRefused, from, l.with()+", "+times(logins[l]))
	}
	if len(refused) > mostAddresses {
		rest, n := refused[mostAddresses:], 0
		for _, l := range rest {
			n += logins[l]
		}
		s.note(ctx, odometer.Actor{}, odometer.ActionLoginRefused, "others", fmt.Sprintf("tokens and keys that are not known, from %d more addresses, %s", len(rest), times(n)))
	}
}

// inOrder returns the keys of counts, what was counted most often first.
func inOrder[K comparable](counts map[K]int, compare func(a, b K) int) []K {
	keys := make([]K, 0, len(counts))
	for k := range counts {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b K) int { return cmp.Or(cmp.Compare(counts[b], counts[a]), compare(a, b)) })
	return keys
}

// addressText writes whom an address was counted as.
func addressText(a netip.Addr) string {
	switch {
	case !a.IsValid():
		return "unknown"
	case a.Is6():
		return netip.PrefixFrom(a, 64).String()
	}
	return a.String()
}

func (s *Refusals) note(ctx context.Context, by odometer.Actor, action odometer.Action, object, detail string) {
	if err := s.audit.Note(ctx, by, action, object, detail); err != nil {
		s.logger.Error("the audit log lacks a line", "err", err, "actor", by.Caller.String(), "remote", by.Remote, "action", action, "object", object, "detail", detail)
	}
}
