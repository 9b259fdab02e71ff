package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// half writes the first half of a file's lines beside it.
func half(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.SplitAfter(string(b), "\n")
	part := path + ".half"
	if err := os.WriteFile(part, []byte(strings.Join(lines[:len(lines)/2], "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return part
}

// TestRestoredFromAnOldBackup loses a server for good, hours of usage after
// its last backup, and restores that: what the agents still hold comes again,
// the sums are the truth, and a billing system that has counted what the
// ledger forgot ends with the same sums.
func TestRestoredFromAnOldBackup(t *testing.T) {
	path, truth := load(t, "restore", 5, 8, 240) // two hours
	for _, c := range []struct {
		name string
		lose func(t *testing.T, dir string) []string // returns what restore is told
	}{
		{"the whole data directory is lost", func(t *testing.T, dir string) []string {
			token, err := os.ReadFile(filepath.Join(dir, "admin.token"))
			if err != nil {
				t.Fatal(err)
			}
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, "admin.token"), token, 0o600); err != nil { // kept elsewhere
				t.Fatal(err)
			}
			return nil
		}},
		{"the queue with its topic survives the ledger", func(t *testing.T, dir string) []string {
			f, err := os.OpenFile(filepath.Join(dir, "ledger.db"), os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt(make([]byte, 64<<10), 0); err != nil {
				t.Fatal(err)
			}
			return []string{"--force"}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			server := s.serve("--no-agent")
			agent := filepath.Join(t.TempDir(), "agent")
			replay := func(file string) {
				t.Helper()
				run(t, "replay", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"), "--data-dir", agent, file)
			}
			replay(half(t, path))
			backup := filepath.Join(t.TempDir(), "backup")
			if out := run(t, "backup", backup, "--data-dir", s.dir); !strings.Contains(out, "is backed up in "+backup) {
				t.Errorf("backup: got %q", out)
			}
			replay(path) // hours that the backup knows nothing of
			b := newBiller()
			if err := b.consume(t, s, 0); err != nil {
				t.Fatal(err)
			}
			counted := len(b.counted)
			server.kill()

			args := append([]string{"restore", backup, "--data-dir", s.dir}, c.lose(t, s.dir)...)
			if out := run(t, args...); !strings.Contains(out, "next: odometer serve --data-dir "+s.dir) {
				t.Errorf("restore: got %q", out)
			}
			server = s.serve("--no-agent")
			var manifest struct{ Entries int }
			if text, err := os.ReadFile(filepath.Join(backup, "manifest.json")); err != nil || json.Unmarshal(text, &manifest) != nil || manifest.Entries == 0 || manifest.Entries >= counted {
				t.Fatalf("the backup has %d entries, %v; billing had counted %d", manifest.Entries, err, counted)
			}
			replay(path)
			compare(t, s.usage("instance", byInstance), truth)
			if err := b.consume(t, s, 0); err != nil {
				t.Fatal(err)
			}
			b.agrees(t, s)
			if b.voided == 0 {
				t.Error("billing voided nothing of what the ledger had forgotten")
			}
			server.stop()
			report := s.audit()
			t.Logf("backed up %d of %d entries, %d voided; audit: %v events", manifest.Entries, counted, b.voided, report["events"])
			run(t, "rebuild", "--data-dir", s.dir)
		})
	}
}

// TestARunningAgentHearsOfTheRestore keeps an agent running, and idle, while
// its server is lost and restored: it offers again what the backup lacks
// without having been told.
func TestARunningAgentHearsOfTheRestore(t *testing.T) {
	s := newSite(t)
	server := s.serve("--no-agent")
	agent := start(t, "agent", "--id", "host-9", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"),
		"--data-dir", filepath.Join(t.TempDir(), "agent"), "--interval", "1s", "--http", freeAddr(t))
	events := func(n int) {
		t.Helper()
		var page struct {
			Events []json.RawMessage `json:"events"`
		}
		eventually(t, fmt.Sprintf("%d events", n), func() bool {
			s.get("/api/v1/events?limit=1000", &page)
			return len(page.Events) >= n
		})
	}
	events(2)
	backup := filepath.Join(t.TempDir(), "backup")
	run(t, "backup", backup, "--data-dir", s.dir)
	events(8)
	server.kill()
	run(t, "restore", backup, "--data-dir", s.dir, "--force")
	server = s.serve("--no-agent")
	events(12)
	agent.stop()
	server.stop()
	report := s.audit()
	if report["recovered"] != 0.0 || report["gap_seconds"] != 0.0 {
		t.Errorf("recovered %v entries, gaps of %v s: want none, the agent had everything", report["recovered"], report["gap_seconds"])
	}
}
