package main

import (
	"context"
	"errors"
	"maps"
	"math"
	"strings"

	"example.org/odometer"
)

// decisions is what is known of the entries that a person reversed.
type decisions struct {
	by     map[odometer.EntryID]odometer.EntryID // as the ledger answered
	unsure map[odometer.EntryID]bool             // those of which no answer came
}

func newDecisions() decisions {
	return decisions{map[odometer.EntryID]odometer.EntryID{}, map[odometer.EntryID]bool{}}
}

// clone is what was known at the moment of a backup.
func (d decisions) clone() decisions { return decisions{maps.Clone(d.by), maps.Clone(d.unsure)} }

// reverse has a person reverse any of the entries, also one that takes another
// back, and reports whether it was reversed.
func (s *server) reverse() bool {
	w, known := s.w, &s.w.truth.reversed
	if s.down() || s.busy() {
		return false
	}
	list, _, err := s.ledger.Entries(context.Background(), odometer.EntryQuery{Limit: math.MaxInt})
	if err != nil || len(list) == 0 {
		return false
	}
	id := list[w.r.IntN(len(list))].ID
	c, err := s.ledger.Reverse(context.Background(), id, "operator", "a whim")
	w.note("reverse entry %s: %v", id, err)
	by, before := known.by[id]
	switch {
	case s.store.dead:
		known.unsure[id] = true
		s.die(s.store.image())
	case err == nil && before:
		w.wrong("entry %s was reversed by %s, and is by %s", id, by, c.ID)
	case err == nil:
		known.by[id] = c.ID
		return true
	case !errors.Is(err, odometer.ErrConflict):
		known.unsure[id] = true
	case !before && !known.unsure[id]:
		w.wrong("entry %s is not reversed: %v", id, err)
	}
	return false
}

// check compares the corrections that the ledger has with what was decided:
// each takes back exactly what an entry says, and none that was answered is
// lost.
func (d decisions) check(w *world, list []odometer.Entry) {
	entries := map[odometer.EntryID]*odometer.Entry{}
	for i := range list {
		c := &list[i]
		entries[c.ID] = c
		if c.Kind != odometer.KindCorrection {
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(c.Cause, "reverses "), ":")
		id, err := odometer.ParseEntryID(name)
		old := entries[id]
		if err != nil || old == nil || d.by[id] != c.ID && !d.unsure[id] {
			w.wrong("entry %s, cause %q: nobody decided that", c.ID, c.Cause)
			continue
		}
		if (odometer.Usage{Known: old.Event.Usage.Known}).Sub(old.Event.Usage) != c.Event.Usage || c.Event.Owner != old.Event.Owner || c.Event.Span != old.Event.Span {
			w.wrong("entry %s takes %v back from %s for entry %s", c.ID, c.Event.Usage.Vector, c.Event.Owner.User, id)
		}
	}
	lost := 0
	for _, by := range d.by {
		if entries[by] == nil {
			lost++
		}
	}
	if lost > 0 {
		w.wrong("%d reversals are lost that the ledger had answered", lost)
	}
}
