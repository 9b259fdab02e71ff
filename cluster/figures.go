package main

import (
	"fmt"
	"io"
	"time"
)

// figures are what one or more trials came to.
type figures struct {
	Reached  map[string]int // by kind of fault
	Slowest  map[string]time.Duration
	Unformed int // clusters that did not form and were begun anew

	Frames    int // that the queue acknowledged
	Forgotten int // of these, never delivered
	Events    int64
	Again     int64 // events sent again
	Lost      int64
	Doubled   int64

	Duplicates   int64 // that the ledger refused to count
	Resends      int64
	BreakerOpens int64
	Entries      int64
	Repeated     int64 // messages of the topic beyond one an entry
	Rewinds      int64
	Audited      int64
}

func newFigures() *figures {
	return &figures{Reached: map[string]int{}, Slowest: map[string]time.Duration{}}
}

// reached notes that a fault happened and how long it took after its end until
// all that had been measured by then was receipted.
func (f *figures) reached(what string, recovery time.Duration) {
	f.Reached[what]++
	f.Slowest[what] = max(f.Slowest[what], recovery)
}

// add adds another trial's.
func (f *figures) add(g *figures) {
	for k, n := range g.Reached {
		f.Reached[k] += n
		f.Slowest[k] = max(f.Slowest[k], g.Slowest[k])
	}
	f.Unformed += g.Unformed
	f.Frames += g.Frames
	f.Forgotten += g.Forgotten
	f.Events += g.Events
	f.Again += g.Again
	f.Lost += g.Lost
	f.Doubled += g.Doubled
	f.Duplicates += g.Duplicates
	f.Resends += g.Resends
	f.BreakerOpens += g.BreakerOpens
	f.Entries += g.Entries
	f.Repeated += g.Repeated
	f.Rewinds += g.Rewinds
	f.Audited += g.Audited
}

func (f *figures) rounds() (n int) {
	for _, k := range f.Reached {
		n += k
	}
	return n
}

// print writes the figures with their denominators.
func (f *figures) print(w io.Writer, names []string) {
	fmt.Fprintf(w, "%7s %10s  fault\n", "times", "slowest")
	for _, name := range names {
		fmt.Fprintf(w, "%7d %10s  %s\n", f.Reached[name], f.Slowest[name].Round(10*time.Millisecond), name)
	}
	fmt.Fprintf(w, "%7d faults in all; %d clusters did not form and were begun anew\n", f.rounds(), f.Unformed)
	fmt.Fprintf(w, "queue: %d frames acknowledged, %d of them forgotten\n", f.Frames, f.Forgotten)
	fmt.Fprintf(w, "agents: %d events sent again, sending went back %d times, breakers opened %d times\n", f.Again, f.Resends, f.BreakerOpens)
	fmt.Fprintf(w, "ledger: lost %d, duplicated %d of %d events; %d duplicates not counted; audit clean over %d\n", f.Lost, f.Doubled, f.Events, f.Duplicates, f.Audited)
	fmt.Fprintf(w, "topic: %d entries, each as booked; fed again %d times, %d messages repeated\n", f.Entries, f.Rewinds, f.Repeated)
}
