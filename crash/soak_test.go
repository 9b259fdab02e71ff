package main

import (
	"strings"
	"testing"
	"time"
)

// TestSoak kills for a few seconds. `make soak` does it for as long as asked.
func TestSoak(t *testing.T) {
	s, err := soak(t.Context(), soakOptions{For: 6 * time.Second, Seed: 3, Feeders: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(s)
	kills := 0
	for _, n := range s.kills {
		kills += n
	}
	if kills < 2 || s.report.Recorded < 1000 {
		t.Errorf("got %d kills and %d events, want some of both", kills, s.report.Recorded)
	}
}

// TestARoleThatFailsIsNotStartedAgain: what ends by itself is a fault, and not
// one to be hidden by starting it again.
func TestARoleThatFailsIsNotStartedAgain(t *testing.T) {
	starts := 0
	r := &role{name: "broken", done: make(chan struct{}), start: func() (*process, error) {
		starts++
		return launch(binary, "serve", "--no-such-flag")
	}}
	r.run()
	if err := r.failed(); starts != 1 || err == nil || !strings.Contains(err.Error(), "no-such-flag") {
		t.Errorf("got %d starts and %v, want one and what was wrong", starts, err)
	}
}
