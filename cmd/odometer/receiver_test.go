package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// receiver runs what webhooks are sent to, until the script ends: receiver VARIABLE FILE
// SECRETFILE. The variable gets its address. Each message is a line in the file: whether
// the official library verifies it by the secret, its id, and of a violation its level,
// its standing and its subject.
func receiver(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: receiver variable file secretfile")
	}
	file, secretFile := ts.MkAbs(args[1]), ts.MkAbs(args[2])
	ts.Check(os.WriteFile(file, nil, 0o600))
	var mu sync.Mutex
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		verified := "unverified"
		if secret, err := os.ReadFile(secretFile); err == nil {
			if hook, err := standardwebhooks.NewWebhook(strings.TrimSpace(string(secret))); err == nil && hook.Verify(body, r.Header) == nil {
				verified = "verified"
			}
		}
		var event struct {
			Type    string
			Subject string
			Data    struct{ Level, Standing string }
		}
		json.Unmarshal(body, &event) // what it is not is seen in the line
		mu.Lock()
		defer mu.Unlock()
		f, err := os.OpenFile(file, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = fmt.Fprintln(f, verified, r.Header.Get("webhook-id"), event.Type, event.Data.Level, event.Data.Standing, event.Subject)
			f.Close()
		}
		if err != nil {
			w.WriteHeader(http.StatusInternalServerError)
		}
	}))
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.URL)
}
