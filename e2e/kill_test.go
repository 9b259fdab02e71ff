package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestKillAnything kills server and agent at random while readings pour in,
// at least 30 times, and then lets them finish: nothing is lost and nothing
// counts twice.
func TestKillAnything(t *testing.T) {
	kills := 30
	path, truth := load(t, "kill", 1, 40, 2500)
	s := newSite(t)
	server := s.serve("--interval", "1s", "--instance-id", "this-machine")
	replay := func() *process {
		return start(t, "replay", "--server", "http://"+s.http, "--token-file", filepath.Join(s.dir, "admin.token"),
			"--data-dir", filepath.Join(t.TempDir(), "replay"), path)
	}
	agentDir := filepath.Join(t.TempDir(), "agent")
	agent := func() *process {
		return start(t, "replay", "--server", "http://"+s.http, "--token-file", filepath.Join(s.dir, "admin.token"), "--data-dir", agentDir, path)
	}
	r := rand.New(rand.NewPCG(7, 7))
	feeding := agent()
	for n := 0; n < kills; {
		time.Sleep(time.Duration(100+r.IntN(500)) * time.Millisecond)
		if !feeding.running() { // it is through: the same file from an empty disk counts nothing twice
			feeding = replay()
		}
		if r.IntN(2) == 0 {
			server.kill()
			n++
			server = s.serve("--interval", "1s", "--instance-id", "this-machine")
		} else if feeding.running() {
			feeding.kill()
			n++
			feeding = agent()
		}
	}
	feeding.kill()
	feeding = agent()
	select {
	case <-feeding.done:
	case <-time.After(3 * time.Minute):
		t.Fatalf("the replay does not end\n%s", feeding.output())
	}
	if feeding.err != nil {
		t.Fatalf("replay: %v\n%s", feeding.err, feeding.output())
	}
	compare(t, s.usage("instance", byInstance), truth)
	server.stop()
	report := s.audit()
	t.Logf("%d kills; audit: %v events, %v epochs, %v quarantined", kills, report["events"], report["epochs"], report["quarantined"])
	if q, _ := report["quarantined"].(float64); q != 0 {
		t.Errorf("quarantined: got %v events, want none", q)
	}
	run(t, "rebuild", "--data-dir", s.dir)
}

// TestTheQueueForgets wipes the queue's store again and again while readings
// pour in. Only receipts free the spool, so nothing is lost.
func TestTheQueueForgets(t *testing.T) {
	path, truth := load(t, "forget", 2, 20, 2000)
	s := newSite(t)
	server := s.serve("--no-agent")
	feeding := start(t, "replay", "--server", "http://"+s.http, "--token-file", filepath.Join(s.dir, "admin.token"), "--data-dir", filepath.Join(t.TempDir(), "replay"), path)
	wipes := 0
	for ; wipes < 4; wipes++ {
		time.Sleep(400 * time.Millisecond)
		server.kill()
		if err := os.RemoveAll(filepath.Join(s.dir, "nats")); err != nil {
			t.Fatal(err)
		}
		server = s.serve("--no-agent")
	}
	select {
	case <-feeding.done:
	case <-time.After(3 * time.Minute):
		t.Fatalf("the replay does not end\n%s", feeding.output())
	}
	if feeding.err != nil {
		t.Fatalf("replay: %v\n%s", feeding.err, feeding.output())
	}
	compare(t, s.usage("instance", byInstance), truth)
	server.stop()
	s.audit()
}

// TestOutageAndRestart takes the server away while an agent goes on metering
// this machine, and restarts the agent meanwhile: everything arrives, in
// order, once.
func TestOutageAndRestart(t *testing.T) {
	s := newSite(t)
	server := s.serve("--no-agent")
	dir := filepath.Join(t.TempDir(), "agent")
	agent := func() *process {
		return start(t, "agent", "--id", "host-9", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"),
			"--data-dir", dir, "--interval", "1s", "--http", freeAddr(t))
	}
	a := agent()
	time.Sleep(3 * time.Second)
	server.kill()
	time.Sleep(2 * time.Second)
	a.kill()
	time.Sleep(time.Second)
	a = agent()
	time.Sleep(2 * time.Second)
	a.stop()
	a = agent()
	time.Sleep(2 * time.Second)
	server = s.serve("--no-agent")

	type event struct {
		Epoch    string `json:"epoch"`
		Sequence uint64 `json:"sequence"`
		First    uint64 `json:"first_sequence"`
		Kind     string `json:"kind"`
		Span     struct {
			Start int64 `json:"start_us"`
			End   int64 `json:"end_us"`
			Step  int64 `json:"step_us"`
		} `json:"span"`
	}
	var page struct {
		Events []event `json:"events"`
	}
	for begin := time.Now(); len(page.Events) < 9; time.Sleep(200 * time.Millisecond) {
		if time.Since(begin) > 90*time.Second {
			t.Fatalf("only %d events arrived\n%s", len(page.Events), a.output())
		}
		s.get("/api/v1/events?limit=1000", &page)
	}
	a.stop()
	for i := 1; i < len(page.Events); i++ {
		p, e := page.Events[i-1], page.Events[i]
		if e.First == 0 {
			e.First = e.Sequence
		}
		if e.Kind != "usage" || e.Epoch != p.Epoch || e.First != p.Sequence+1 || e.Span.Start != p.Span.End+e.Span.Step {
			t.Errorf("event %d: %+v does not follow %+v", i, e, p)
		}
	}
	server.stop()
	s.audit()
}
