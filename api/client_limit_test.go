package api_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// TestClientAsksAgainWhenItIsToldTo, with the same body, and not beyond what anybody
// would wait for.
func TestClientAsksAgainWhenItIsToldTo(t *testing.T) {
	serve := func(perSecond float64) *client.Client {
		f := api.NewFixture(t)
		f.Deps.Clock, f.Deps.Limits.Requests = time.Now, perSecond
		s := httptest.NewServer(api.NewServer(f.Deps))
		t.Cleanup(s.Close)
		return &client.Client{Server: s.URL, Token: "secret"}
	}
	c := serve(1)
	for n := range 10 {
		if _, err := c.Me(t.Context()); err != nil {
			t.Fatalf("call %d: %v", n, err)
		}
	}
	begin := time.Now()
	made, err := c.CreateToken(t.Context(), api.TokenRequest{Name: "late", Scopes: []odometer.Scope{odometer.ScopeRead}})
	if err != nil || made.Name != "late" || time.Since(begin) < 900*time.Millisecond {
		t.Errorf("got %+v, %v after %s, want it made after a second", made, err, time.Since(begin))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Me(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("who does not wait: got %v", err)
	}

	c = serve(0.01)
	if _, err := c.Me(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err = c.Me(t.Context())
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Status != 429 || p.Code != "rate_limited" || !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("a hundred seconds: got %v, want to be told", err)
	}
}
