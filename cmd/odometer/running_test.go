package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
	"example.org/odometer/queue"
)

// TestWhoRunsAndWhenMoreIsDue: of each machine that runs the interval of its own agent, or
// the server's where that said none; and when it was heard, of short intervals to the
// second.
func TestWhoRunsAndWhenMoreIsDue(t *testing.T) {
	k := newFleet(t)
	r := &runningMachines{fleet: k.fleet, interval: 30 * time.Second, started: k.now.Add(-time.Hour)}
	check := func(step string, want ...string) {
		t.Helper()
		list, err := r.list(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, m := range list {
			heard := "now" // as well as that can be told: what is heard has the time of day
			if time.Duration(k.now.UnixMicro()-m.Last)*time.Microsecond > runningEvery/2 {
				heard = "before"
			}
			got = append(got, fmt.Sprintf("%s of %q every %v, heard %s", m.Instance, m.Owner.User, time.Duration(m.Interval)*time.Microsecond, heard))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%s: got\n%s\nwant\n%s", step, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	until := func(agent odometer.AgentID, instance odometer.InstanceID) {
		t.Helper()
		k.tell(agent, []*odometer.Event{k.period(instance, agent, "ada", 0)}, vmOn(instance))
	}
	check("nobody runs")
	k.every = time.Second
	until("h1", "vm-1")
	k.every = 0
	until("h2", "vm-2")
	k.every = 500 * time.Millisecond // no interval that there is
	until("h3", "vm-3")
	k.every = 20 * time.Second
	until("h4", "vm-4")
	k.every = time.Minute
	k.tell("h5", nil, vmOn("vm-5")) // nothing of its usage comes
	stopped := vmOn("vm-6")
	stopped.State = odometer.Stopped
	k.tell("h6", nil, stopped)
	check("it is not asked again for a while")
	k.now = k.now.Add(runningEvery)
	check("it is", `vm-1 of "ada" every 1s, heard before`, `vm-2 of "ada" every 30s, heard before`, `vm-3 of "ada" every 30s, heard before`, `vm-4 of "ada" every 20s, heard before`, `vm-5 of "" every 1m0s, heard before`)

	k.every = time.Second
	k.tell("h1", nil, vmOn("vm-2")) // which runs with h2, too
	k.now = k.now.Add(runningEvery - time.Second)
	k.every = time.Second
	until("h1", "vm-1")
	k.every = 20 * time.Second
	until("h4", "vm-4")
	check("a short interval does not wait", `vm-1 of "ada" every 1s, heard now`, `vm-2 of "ada" every 30s, heard before`, `vm-3 of "ada" every 30s, heard before`, `vm-4 of "ada" every 20s, heard before`, `vm-5 of "" every 1m0s, heard before`)

	k.now = k.now.Add(runningEvery)
	r.started = k.now.Add(-time.Second)
	check("it is too early to tell of who was not heard since the start", `vm-1 of "ada" every 0s, heard before`, `vm-2 of "ada" every 0s, heard before`, `vm-3 of "ada" every 0s, heard before`, `vm-4 of "ada" every 0s, heard before`, `vm-5 of "" every 0s, heard before`)
	k.every = time.Second
	until("h1", "vm-1")
	k.now = k.now.Add(time.Second)
	check("one was heard", `vm-1 of "ada" every 1s, heard now`, `vm-2 of "ada" every 0s, heard before`, `vm-3 of "ada" every 0s, heard before`, `vm-4 of "ada" every 0s, heard before`, `vm-5 of "" every 0s, heard before`)
	k.now = k.now.Add(awaitFor)
	check("they had the time, and of vm-2 another host spoke last", `vm-1 of "ada" every 1s, heard before`, `vm-2 of "" every 1s, heard before`, `vm-3 of "ada" every 30s, heard before`, `vm-4 of "ada" every 20s, heard before`, `vm-5 of "" every 1m0s, heard before`)
	for id, want := range map[odometer.InstanceID]bool{"vm-6": true, "vm-1": false, "vm-none": false} { // of vm-1 nothing is heard any more
		if got, err := r.ended(t.Context(), id); got != want || err != nil {
			t.Errorf("%s has ended: got %v, %v, want %v", id, got, err, want)
		}
	}
	if _, err := (&runningMachines{fleet: &fleet{absent: odometer.ErrUnavailable, now: k.fleet.now}}).ended(t.Context(), "vm-6"); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("without a directory: got %v, want that it is unavailable", err)
	}
	if _, err := (&runningMachines{fleet: &fleet{absent: odometer.ErrUnavailable, now: k.fleet.now}}).list(t.Context()); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("without a directory: got %v, want that it is unavailable", err)
	}
}

// TestAnAgentTellsItsInterval: from its first word on.
func TestAnAgentTellsItsInterval(t *testing.T) {
	k := newFleet(t)
	conn, err := queue.Connect(queue.ConnectOptions{Server: k.server, Agent: "h9", Name: "agent"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	flags := meterFlags{Interval: 7 * time.Second, InstanceID: "vm-9", Source: sourceMachine, SpoolBytes: minSpoolBytes}
	h, err := openHost(&dataDir{path: t.TempDir()}, "h9", flags, slog.New(slog.DiscardHandler), nil, func(*odometer.Event) {})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	g.Go(func() error { return h.agent.Run(ctx) })
	g.Go(func() error { return h.tellLive(ctx, conn) })
	defer func() {
		cancel()
		if err := errors.Join(g.Wait(), h.close()); err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(patience); k.directory.Interval("h9") != 7*time.Second; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("got %v, want 7s", k.directory.Interval("h9"))
		}
	}
}
