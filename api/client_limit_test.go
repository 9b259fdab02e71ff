package api_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// refilled makes requests, and has a second pass on a server's clock whenever one is
// refused for too many.
type refilled struct {
	now     atomic.Int64 // since api.Now
	refused atomic.Int64
}

func (f *refilled) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := http.DefaultTransport.RoundTrip(r)
	if err == nil && resp.StatusCode == http.StatusTooManyRequests {
		f.refused.Add(1)
		f.now.Add(int64(time.Second))
	}
	return resp, err
}

// TestClientAsksAgainWhenItIsToldTo, with the same body, and not beyond what anybody
// would wait for.
func TestClientAsksAgainWhenItIsToldTo(t *testing.T) {
	serve := func(perSecond float64) (*client.Client, *refilled) {
		f, clock := api.NewFixture(t), &refilled{}
		f.Deps.Clock = func() time.Time { return api.Now.Add(time.Duration(clock.now.Load())) }
		f.Deps.Limits.Requests = perSecond
		s := httptest.NewServer(api.NewServer(f.Deps))
		t.Cleanup(s.Close)
		return &client.Client{Server: s.URL, Token: "secret", HTTP: &http.Client{Transport: clock}}, clock
	}
	c, clock := serve(1)
	for n := range 10 {
		if _, err := c.Me(t.Context()); err != nil || clock.refused.Load() != 0 {
			t.Fatalf("call %d: %v", n, err)
		}
	}
	made, err := c.CreateToken(t.Context(), api.TokenRequest{Name: "late", Scopes: []odometer.Scope{odometer.ScopeRead}})
	if err != nil || made.Name != "late" || clock.refused.Load() != 1 {
		t.Errorf("got %+v, %v, refused %d times, want it made when asked again", made, err, clock.refused.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Me(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who does not wait: got %v", err)
	}

	c, _ = serve(0.01)
	if _, err := c.Me(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = c.Me(t.Context())
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Status != 429 || p.Code != "rate_limited" || !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("a hundred seconds: got %v, want to be told", err)
	}
}
