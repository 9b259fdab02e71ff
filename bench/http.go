package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
	"example.org/odometer/ledger"
)

// tenants is how many users ask at once, each with a token and a connection of his
// own.
const tenants = 100

// seenUsage answers the API's questions about usage, each as its caller sees it.
type seenUsage struct{ ledger *ledger.Ledger }

func (l seenUsage) Usage(ctx context.Context, seen odometer.View, q odometer.UsageQuery) ([]odometer.UsageRow, error) {
	q.View = &seen
	return l.ledger.Usage(ctx, q)
}

// httpUsage has users ask for their machines' usage by day, over a history, through
// HTTP with everything that a request passes; the limit is the ledger asked the same
// directly. The time is in a zone whose midnights cut hours, and in UTC.
func httpUsage(b *bench) error {
	path, err := b.historyPath()
	if err != nil {
		return err
	}
	ctx, f := context.Background(), b.history()
	led, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: func() time.Time { return time.UnixMicro(f.now()) }})
	if err != nil {
		return err
	}
	defer led.Close()
	accounts, users, secrets, err := b.tenantsOf(ctx, f)
	if err != nil {
		return err
	}
	defer accounts.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := api.StandardConnLimits.Configure(api.NewServer(api.Deps{Auth: accounts, Usage: seenUsage{led}, People: accounts}), nil)
	go server.Serve(listener) // ends with Close
	defer server.Close()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: tenants}}

	for _, zone := range []string{"", "Asia/Kolkata"} {
		q := odometer.UsageQuery{From: historyStart, To: historyStart + int64(f.days)*odometer.DayMicros, GroupBy: groups(odometer.ByDay)}
		name := "http_usage"
		if zone != "" {
			name += "_zone"
			if q.Zone, err = odometer.LoadZone(zone); err != nil {
				return err
			}
		}
		target := fmt.Sprintf("http://%s/api/v1/usage?from=%s&to=%s&interval=day&timezone=%s", listener.Addr(),
			time.UnixMicro(q.From).UTC().Format(time.RFC3339), time.UnixMicro(q.To).UTC().Format(time.RFC3339), zone)
		bare, err := b.together(func(i int) error {
			seen := (&odometer.Caller{Bound: odometer.Bound{User: users[i]}}).View()
			rows, err := seenUsage{led}.Usage(ctx, seen, q)
			if err == nil && len(rows) < f.days {
				err = fmt.Errorf("%d rows, want %d", len(rows), f.days)
			}
			return err
		})
		if err != nil {
			return err
		}
		through, err := b.together(func(i int) error {
			r, err := http.NewRequest(http.MethodGet, target, nil)
			if err != nil {
				return err
			}
			r.Header.Set("Authorization", "Bearer "+secrets[i])
			answer, err := client.Do(r)
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			body, err := io.ReadAll(answer.Body)
			if err == nil && (answer.StatusCode != http.StatusOK || len(body) < 100*f.days) {
				err = fmt.Errorf("answered %d with %d bytes", answer.StatusCode, len(body))
			}
			return err
		})
		if err != nil {
			return err
		}
		b.rate(name+"_rate", through.rate, "1/s", bare.rate)
		b.cost(name+"_p99", through.p99.Seconds()*1000, "ms", bare.p99.Seconds()*1000)
	}
	return b.overhead(accounts, secrets)
}

// tenantsOf makes accounts with the users of a fleet, as many as ask, and a token of
// each.
func (b *bench) tenantsOf(ctx context.Context, f fleet) (accounts *account.Accounts, users []odometer.UserID, secrets []string, err error) {
	if accounts, err = account.OpenAccounts(ctx, account.AccountsOptions{Path: b.place("accounts.db")}); err != nil {
		return nil, nil, nil, err
	}
	by := odometer.Actor{Caller: odometer.Caller{Name: "bench", Scopes: []odometer.Scope{odometer.ScopeAdmin}}}
	for i := range tenants {
		if i < f.users() {
			u := odometer.User{ID: f.user(i), Name: string(f.user(i))}
			if _, err := accounts.CreateUser(ctx, by, odometer.Once{}, u); err != nil {
				return nil, nil, nil, errors.Join(err, accounts.Close())
			}
		}
		user := f.user(i % f.users())
		_, secret, err := accounts.CreateToken(ctx, by, odometer.Token{Name: "bench", Bound: odometer.Bound{User: user}, Scopes: []odometer.Scope{odometer.ScopeRead}})
		if err != nil {
			return nil, nil, nil, errors.Join(err, accounts.Close())
		}
		users, secrets = append(users, user), append(secrets, secret)
	}
	return accounts, users, secrets, nil
}

// pace is how fast many go together.
type pace struct {
	rate float64 // a second
	p99  time.Duration
}

// together has all tenants do something, again and again and all at once.
func (b *bench) together(do func(i int) error) (pace, error) {
	for i := range tenants { // connections, statements, caches
		if err := do(i); err != nil {
			return pace{}, err
		}
	}
	each := 2 * b.repeats()
	took := make([][]time.Duration, tenants)
	errs := make([]error, tenants)
	var wait sync.WaitGroup
	begin := time.Now()
	for i := range tenants {
		wait.Go(func() {
			for range each {
				asked := time.Now()
				if errs[i] = do(i); errs[i] != nil {
					return
				}
				took[i] = append(took[i], time.Since(asked))
			}
		})
	}
	wait.Wait()
	passed := time.Since(begin)
	all := slices.Concat(took...)
	slices.Sort(all)
	if err := errors.Join(errs...); err != nil {
		return pace{}, err
	}
	return pace{float64(len(all)) / passed.Seconds(), all[len(all)*99/100]}, nil
}

// overhead is what routing, authorisation and everything else that is the same for
// every request take, without a network: of a request about whose token it is. The
// limit is a mux of the standard library that answers the same bytes.
func (b *bench) overhead(accounts *account.Accounts, secrets []string) error {
	const requests = 2000
	ours := api.NewServer(api.Deps{Auth: accounts, Tokens: accounts})
	request := httptest.NewRequest(http.MethodGet, "/api/v1/me", nil)
	request.Header.Set("Authorization", "Bearer "+secrets[0])
	first := httptest.NewRecorder()
	if ours.ServeHTTP(first, request); first.Code != http.StatusOK {
		return fmt.Errorf("answered %d %s", first.Code, first.Body)
	}
	bare := http.NewServeMux()
	bare.HandleFunc("GET /api/v1/me", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write(first.Body.Bytes())
	})
	measure := func(h http.Handler) (time.Duration, error) {
		took, err := median(b.repeats(), func() error {
			for range requests {
				w := httptest.NewRecorder()
				if h.ServeHTTP(w, request); w.Code != http.StatusOK {
					return fmt.Errorf("answered %d %s", w.Code, w.Body)
				}
			}
			return nil
		})
		return took / requests, err
	}
	took, err := measure(ours)
	if err != nil {
		return err
	}
	limit, err := measure(bare)
	if err != nil {
		return err
	}
	b.cost("http_overhead", float64(took.Nanoseconds())/1000, "us", float64(limit.Nanoseconds())/1000)
	return nil
}
