package main

import (
	"context"
	"time"

	"example.org/odometer/api"
)

// factsFor is for how long the facts about a process are told again. They are asked of
// the ledger and of the queue, and by anybody, since probes have no token.
const factsFor = 500 * time.Millisecond

// lately tells the facts of another source, gathered once for all who ask in a moment.
// Its methods may be called at once.
type lately struct {
	source api.HealthSource
	turn   chan struct{} // has a value while they are gathered: who asks meanwhile waits for them

	at    time.Time
	facts api.Facts
}

func newLately(source api.HealthSource) *lately {
	return &lately{source: source, turn: make(chan struct{}, 1)}
}

// Facts implements [api.HealthSource].
func (l *lately) Facts(ctx context.Context) api.Facts {
	l.turn <- struct{}{}
	defer func() { <-l.turn }()
	if now := time.Now(); l.at.IsZero() || now.Sub(l.at) >= factsFor {
		l.facts, l.at = l.source.Facts(context.WithoutCancel(ctx)), time.Now() // whoever waits for them
	}
	return l.facts
}
