package e2e

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

// TestLostDisk takes an agent's disk away while it is down. The server's
// checkpoint brings it back: a new epoch begins where the last one stood, and
// no time between is lost.
func TestLostDisk(t *testing.T) {
	s := newSite(t)
	server := s.serve("--no-agent")
	dir := filepath.Join(t.TempDir(), "agent")
	agent := func() *process {
		return start(t, "agent", "--id", "host-9", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"),
			"--data-dir", dir, "--interval", "1s", "--http", freeAddr(t))
	}
	type event struct {
		Epoch string `json:"epoch"`
		Span  struct {
			Start int64 `json:"start_us"`
			End   int64 `json:"end_us"`
		} `json:"span"`
		Quality string `json:"quality"`
	}
	var page struct {
		Events []event `json:"events"`
	}
	arrive := func(n int) {
		t.Helper()
		for begin := time.Now(); len(page.Events) < n; time.Sleep(200 * time.Millisecond) {
			if time.Since(begin) > 90*time.Second {
				t.Fatalf("only %d events arrived, want %d", len(page.Events), n)
			}
			s.get("/api/v1/events?limit=1000", &page)
		}
	}
	a := agent()
	arrive(3)
	a.stop() // the period that is open is closed and sent, or kept for the next start
	s.get("/api/v1/events?limit=1000", &page)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	before := len(page.Events)
	a = agent()
	arrive(before + 3)
	a.stop()
	epochs := map[string]bool{}
	for i, e := range page.Events {
		epochs[e.Epoch] = true
		if i == 0 {
			continue
		}
		p := page.Events[i-1]
		if e.Span.Start != p.Span.End {
			t.Errorf("event %d begins at %d, the one before ended at %d", i, e.Span.Start, p.Span.End)
		}
		if e.Epoch != p.Epoch && e.Quality != "estimated" {
			t.Errorf("the time without a disk: got quality %s, want estimated", e.Quality)
		}
	}
	if len(epochs) != 2 {
		t.Errorf("epochs: got %d, want 2", len(epochs))
	}
	server.stop()
	s.audit()
}
