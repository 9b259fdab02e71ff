package e2e

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestSilenceIsTold stops an agent whose machine runs: that is told after five of the
// agent's own intervals, which are a second, and not of the server's, which are 30; and that
// it goes on is told as well. A server that was away takes nobody for silent.
func TestSilenceIsTold(t *testing.T) {
	s, r := newSite(t), newReceiver(t)
	serve := func() *process { return s.serve("--no-agent", "--notify-allow", "127.0.0.0/8") }
	server := serve()
	agent := start(t, "agent", "--id", "host-9", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"),
		"--data-dir", t.TempDir(), "--http", freeAddr(t), "--interval", "1s", "--instance-id", "vm-9")
	eventually(t, "the machine is known to run", func() bool {
		return strings.Contains(s.client("instance", "list", "--state", "running"), "vm-9\t")
	})
	log, _, _ := strings.Cut(s.client("channel", "create", "log", "--kind", "log", "--json"), ",")
	log = log[strings.Index(log, "chn_"):strings.LastIndex(log, `"`)]
	s.client("threshold", "create", "quiet", "--all", "--condition", "silence", "--levels", "5", "--notify", s.hook(r)+","+log)
	told := func(standings ...string) {
		t.Helper()
		var recorded []change
		s.caughtUp(r, func(list []change) bool { recorded = list; return len(list) >= len(standings) })
		var got []string
		for _, c := range recorded {
			if c.Threshold != "quiet" || c.Instance != "vm-9" {
				t.Errorf("got %+v", c)
			}
			got = append(got, c.Standing)
		}
		if !slices.Equal(got, standings) {
			t.Fatalf("got %q, want %q", got, standings)
		}
	}
	time.Sleep(7 * time.Second)
	told()

	stopped := time.Now()
	agent.cmd.Process.Signal(syscall.SIGSTOP)
	told("open")
	if after := time.Since(stopped); after > 60*time.Second {
		t.Errorf("told after %v, want some five seconds", after)
	}
	agent.cmd.Process.Signal(syscall.SIGCONT)
	told("open", "recovered")
	eventually(t, "the log has it", func() bool { // of thresholds, and of the channel
		said := server.output()
		return strings.Contains(said, `level=INFO msg="quiet: vm-9 has reached warning: silent for `) && strings.Contains(said, `level=WARN msg="quiet: vm-9 has reached warning: silent for `) &&
			strings.Contains(said, `level=WARN msg="Recovered: quiet: vm-9 is at warning no longer: silent for `)
	})

	server.kill()
	time.Sleep(6 * time.Second)
	serve()
	time.Sleep(4 * time.Second)
	told("open", "recovered")
	if len(r.wrong) > 0 {
		t.Errorf("messages that do not verify: %q", r.wrong)
	}
}
