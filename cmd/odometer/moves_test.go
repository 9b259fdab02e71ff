package main

import (
	"log/slog"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ingest"
)

// TestAMoveIsKnownWhenTheOtherHostSaysSo has an instance move between hosts, and
// another be told of by a host that does not have it.
func TestAMoveIsKnownWhenTheOtherHostSaysSo(t *testing.T) {
	k := newFleet(t)
	logger, stuck := slog.New(slog.DiscardHandler), map[odometer.InstanceID]bool{}
	in := ingest.New(ingest.Options{Ledger: k.ledger, Receipts: noReceipts{}, IsHost: func(odometer.AgentID) bool { return true }, Elsewhere: k.elsewhere})
	positions := map[odometer.AgentID]uint64{}
	send := func(events ...*odometer.Event) {
		t.Helper()
		agent := events[0].Agent
		f := odometer.Frame{Agent: agent, Spool: odometer.SpoolID("0123456789abcdef0123456789abcde" + string(agent[1:])), First: positions[agent] + 1}
		for _, e := range events {
			positions[agent]++
			f.Records = append(f.Records, odometer.Record{First: positions[agent], Position: positions[agent], Event: e})
		}
		f.Last = positions[agent]
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Settle(t.Context(), []ingest.Delivery{{Agent: agent, Data: b, Ack: func() error { return nil }}}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, recorded, waiting int64) {
		t.Helper()
		if err := k.admit(t.Context(), logger, stuck); err != nil {
			t.Fatal(err)
		}
		st, err := k.ledger.Stats(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if st.Counts["recorded"] != recorded || st.Quarantine != waiting {
			t.Errorf("%s: got %d booked and %d that wait, want %d and %d", what, st.Counts["recorded"], st.Quarantine, recorded, waiting)
		}
	}
	k.tell("h1", nil, vmOn("vm-1"), vmOn("vm-2"))
	send(k.period("vm-1", "h1", "u-ada", 0), k.period("vm-2", "h1", "u-ada", 0))
	send(k.period("vm-1", "h2", "u-ada", 0))
	check("it runs with the first", 2, 1)
	send(k.period("vm-1", "h2", "u-ada", 1))
	check("still", 2, 2)
	k.directory.Describe("h1", k.now, nil, []odometer.InstanceID{"vm-1"})
	check("it has left", 4, 0)
	send(k.period("vm-1", "h2", "u-ada", 2))
	check("it is metered where it is now", 5, 0)

	// For an hour another host tells of one that runs here, which is then gone.
	k.now = k.now.Add(-time.Hour)
	forged := k.period("vm-2", "h2", "u-eve", 0)
	k.now = k.now.Add(time.Hour)
	send(forged)
	check("told by who does not have it", 5, 1)
	k.directory.Describe("h1", k.now, nil, []odometer.InstanceID{"vm-2"})
	check("the machine is gone", 5, 1)
	if !stuck["vm-2"] {
		t.Error("nobody is told that it waits")
	}

	// A host that is silent.
	k.tell("h1", nil, vmOn("vm-3"))
	send(k.period("vm-3", "h2", "u-ada", 0))
	check("it runs with the first", 5, 2)
	k.now = k.now.Add(2 * time.Minute)
	check("which is silent", 6, 1)
}

type noReceipts struct{}

func (noReceipts) SendReceipt(odometer.Receipt) error { return nil }
