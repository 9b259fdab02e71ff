package main

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer/api"
)

// slowFacts takes a while to find out how often it was asked.
type slowFacts struct{ asked atomic.Int64 }

func (s *slowFacts) Facts(ctx context.Context) api.Facts {
	n := s.asked.Add(1)
	time.Sleep(time.Second)
	if ctx.Err() != nil {
		return api.Facts{}
	}
	return api.Facts{Ledger: &api.LedgerFacts{Err: string(rune('0' + n))}}
}

// TestWhoeverAsksForHealthIsAnsweredAtOnce, and a thousand who ask cost what one does.
func TestWhoeverAsksForHealthIsAnsweredAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := &slowFacts{}
		l := newLately(source)
		ask := func(ctx context.Context, want string) {
			t.Helper()
			if f := l.Facts(ctx); f.Ledger == nil || f.Ledger.Err != want {
				t.Errorf("got %+v, want what was gathered the time %s", f.Ledger, want)
			}
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel() // the first goes away before he is answered
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() { ask(gone, "1") })
		}
		all.Wait()
		ask(t.Context(), "1")
		time.Sleep(factsFor - time.Millisecond)
		ask(t.Context(), "1")
		time.Sleep(time.Millisecond)
		ask(t.Context(), "2")
		if n := source.asked.Load(); n != 2 {
			t.Errorf("got them gathered %d times, want twice", n)
		}
	})
}
