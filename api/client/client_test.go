package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"

	"example.org/odometer"
	"example.org/odometer/api"
)

func TestErrorsSayWhatToDo(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "http://" + free.Addr().String()
	free.Close()
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/api/v1/status":
			w.Write([]byte("<html>"))
		case "/api/v1/queue":
			w.Header().Set("Content-Length", "100")
			w.Write([]byte("{"))
		default:
			http.NotFound(w, r)
		}
	}))
	defer other.Close()
	ours := httptest.NewServer(api.NewServer(api.Deps{Auth: api.Tokens{api.HashToken("admin", "secret")}}))
	defer ours.Close()

	for _, c := range []struct {
		name string
		call func(ctx context.Context) error
		kind error
		says []string
	}{
		{"nobody listens", func(ctx context.Context) error {
			_, err := (&Client{Server: nobody}).Status(ctx)
			return err
		}, odometer.ErrUnavailable, []string{nobody, "connection refused", "odometer serve", "--server", "ODOMETER_SERVER"}},
		{"an address without a scheme", func(ctx context.Context) error {
			_, err := (&Client{Server: "127.0.0.1:8640"}).Status(ctx)
			return err
		}, odometer.ErrInvalid, []string{"127.0.0.1:8640", "http://"}},
		{"an address of the queue", func(ctx context.Context) error {
			_, err := (&Client{Server: "nats://127.0.0.1:4222"}).Status(ctx)
			return err
		}, odometer.ErrInvalid, []string{"nats://"}},
		{"no token", func(ctx context.Context) error {
			_, err := (&Client{Server: ours.URL}).Status(ctx)
			return err
		}, nil, []string{"wants a token", "--token-file", "ODOMETER_TOKEN", "admin.token"}},
		{"another server's token", func(ctx context.Context) error {
			_, err := (&Client{Server: ours.URL, Token: "old"}).Status(ctx)
			return err
		}, nil, []string{"does not know this token", "admin.token"}},
		{"a server that has no ledger", func(ctx context.Context) error {
			_, err := (&Client{Server: ours.URL, Token: "secret"}).Status(ctx)
			return err
		}, odometer.ErrNotFound, []string{"no ledger"}},
		{"another program that answers with a page", func(ctx context.Context) error {
			_, err := (&Client{Server: other.URL}).Status(ctx)
			return err
		}, nil, []string{"not the API's JSON", "--server"}},
		{"another program that answers with an error", func(ctx context.Context) error {
			_, err := (&Client{Server: other.URL}).Machine(ctx)
			return err
		}, nil, []string{"404 Not Found", "no problem of the API"}},
		{"another program's metrics", func(ctx context.Context) error {
			_, err := (&Client{Server: other.URL}).Metrics(ctx)
			return err
		}, nil, []string{"404"}},
		{"another program's health", func(ctx context.Context) error {
			_, err := (&Client{Server: other.URL}).Health(ctx)
			return err
		}, nil, []string{"404"}},
		{"an answer that breaks off", func(ctx context.Context) error {
			_, err := (&Client{Server: other.URL}).Queue(ctx)
			return err
		}, odometer.ErrUnavailable, []string{"broke off"}},
		{"health of nobody", func(ctx context.Context) error {
			_, err := (&Client{Server: nobody}).Health(ctx)
			return err
		}, odometer.ErrUnavailable, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := c.call(t.Context())
			if err == nil || c.kind != nil && !errors.Is(err, c.kind) {
				t.Fatalf("got %v, want an error of kind %v", err, c.kind)
			}
			for _, want := range c.says {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("got %q, want %q in it", err, want)
				}
			}
		})
	}
}

// silent never answers.
type silent struct{}

func (silent) RoundTrip(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func TestCallEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{Server: "http://odometer.test", HTTP: &http.Client{Transport: silent{}, Timeout: Timeout}}
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("interrupted")
		cancel(stop)
		if _, err := c.Status(ctx); !errors.Is(err, stop) {
			t.Errorf("got %v, want the reason for which it was ended", err)
		}
		_, err := c.Status(t.Context())
		if _, ok := errors.AsType[*UnreachableError](err); !ok {
			t.Errorf("a server that is silent: got %v, want UnreachableError after %s", err, Timeout)
		}
	})
}
