package e2e

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// oneTimeToken has the program make one and keeps it in a file of its own.
func oneTimeToken(t *testing.T, s *site, args ...string) (file, secret string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, append([]string{"host", "enroll-token", "--data-dir", s.dir}, args...)...).Output()
	secret = strings.TrimSpace(string(out))
	if err != nil || !strings.HasPrefix(secret, "odm_") {
		t.Fatalf("enroll-token: %v\n%s", err, out)
	}
	file = filepath.Join(t.TempDir(), "once.token")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	return file, secret
}

// TestAHostIsLetInAndPutOut enrols a host, kills it, puts it out, kills the server
// in the moment in which that is answered, and lets the host in again. What it
// measured meanwhile arrives then, and nothing before.
func TestAHostIsLetInAndPutOut(t *testing.T) {
	s := newSite(t)
	server := s.serve("--no-agent")
	dir, address := filepath.Join(t.TempDir(), "agent"), freeAddr(t)
	agent := func(args ...string) *process {
		return start(t, append([]string{"agent", "--server", "http://" + s.http, "--id", "host.7", "--data-dir", dir, "--http", address, "--interval", "1s"}, args...)...)
	}
	health := func() string {
		token, _ := os.ReadFile(filepath.Join(dir, "admin.token"))
		req, err := http.NewRequest(http.MethodGet, "http://"+address+"/api/v1/health/status", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		body, _ := io.ReadAll(resp.Body)
		return string(body)
	}
	file, secret := oneTimeToken(t, s, "--id", "host.7")
	measured := func() int64 { return s.usage("instance", byInstance)["host.7"]["measured_us"] }

	a := agent("--enroll", file)
	eventually(t, "usage of the host arrives", func() bool { return measured() > 0 })
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", a.cmd.Process.Pid)); err != nil || strings.Contains(string(line), secret[4:]) {
		t.Errorf("got the token in the arguments, or %v", err)
	}
	a.kill()
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	before := measured()
	b := agent()
	eventually(t, "it goes on without the token", func() bool { return measured() > before })

	run(t, "host", "revoke", "host.7", "--data-dir", s.dir)
	server.kill()
	server = s.serve("--no-agent")
	at := measured()
	eventually(t, "the host says why it is not let in", func() bool {
		h := health()
		return strings.Contains(h, "the key is refused") || strings.Contains(h, "the key of this host was revoked")
	})
	kept := regexp.MustCompile(`"records":([3-9]|\d\d)`)
	eventually(t, "its spool keeps what it measures", func() bool { return kept.MatchString(health()) })
	time.Sleep(time.Second)
	if now := measured(); now != at {
		t.Errorf("got %d us measured after it was put out, and %d before", now, at)
	}
	b.stop()
	if log := b.output(); !strings.Contains(log, "the queue lets this process in no more") {
		t.Errorf("got no word of it in the log:\n%s", log)
	}

	file, again := oneTimeToken(t, s, "--id", "host.7")
	c := agent("--enroll", file)
	eventually(t, "what it kept arrives", func() bool { return measured() > at+3e6 && strings.Contains(health(), `"records":0`) })
	c.stop()
	server.stop()
	s.audit()
	seed, err := os.ReadFile(filepath.Join(dir, "agent.key"))
	if err != nil {
		t.Fatal(err)
	}
	for _, canary := range []string{secret[4:], again[4:], strings.TrimSpace(string(seed))} {
		for _, p := range []*process{a, b, c, server} {
			if strings.Contains(p.output(), canary) {
				t.Errorf("%s printed a secret", p.cmd)
			}
		}
		db, err := os.ReadFile(filepath.Join(s.dir, "ledger.db"))
		if err != nil || strings.Contains(string(db), canary) {
			t.Errorf("got a secret in the ledger's file, or %v", err)
		}
	}
}
