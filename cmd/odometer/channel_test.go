package main

import (
	"testing"

	"example.org/odometer/api"
)

// TestTheStateOfAChannel says why the server disabled it, and what one that goes on was
// not told.
func TestTheStateOfAChannel(t *testing.T) {
	why := "the journal was pruned"
	for want, c := range map[string]api.Channel{
		"enabled":                          {Enabled: true},
		"enabled: the journal was pruned":  {Enabled: true, Problem: &why},
		"disabled":                         {},
		"disabled: the journal was pruned": {Problem: &why},
	} {
		if got := channelCells(&c)[6]; got != plain(want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
