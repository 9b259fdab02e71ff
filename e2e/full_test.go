package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// inner names, to the process that runs in its own namespaces, the test that
// it is for.
const inner = "ODOMETER_TEST_WITH_MOUNTS"

// builtBinary names the program to it.
const builtBinary = "ODOMETER_TEST_BINARY"

// mounting reports whether the test may mount file systems. The first process
// may not: it runs the test once more, in namespaces of its own, and reports
// what became of it.
func mounting(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inner) == t.Name() {
		return true
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=10m")
	cmd.Env = append(os.Environ(), inner+"="+t.Name(), builtBinary+"="+binary)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:   syscall.SIGKILL,
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.CombinedOutput()
	switch {
	case cmd.Process == nil && os.Getenv("CI") != "true":
		t.Skipf("no user and mount namespaces here, which a full disk of its own needs: %v", err)
	case err != nil:
		t.Fatalf("with mounts: %v\n%s", err, out)
	}
	t.Logf("%s", out)
	return false
}

// disk is a small file system.
type disk struct {
	t    *testing.T
	path string
}

func mount(t *testing.T, path, size string) disk {
	t.Helper()
	if err := os.MkdirAll(path, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "mode=0700,size="+size); err != nil {
		t.Fatalf("mount %s: %v", path, err)
	}
	t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return disk{t, path}
}

// fill takes every byte that is left and returns what gives them back.
func (d disk) fill() (empty func()) {
	d.t.Helper()
	name := filepath.Join(d.path, "somebody-else")
	f, err := os.Create(name)
	if err != nil {
		d.t.Fatal(err)
	}
	defer f.Close()
	for _, n := range []int{1 << 20, 4096, 1} {
		b := make([]byte, n)
		for err == nil {
			_, err = f.Write(b)
		}
		err = nil
	}
	return func() {
		if err := os.Remove(name); err != nil {
			d.t.Error(err)
		}
	}
}

// health asks the server how it is.
func (s *site) health() string {
	req, err := http.NewRequest(http.MethodGet, "http://"+s.http+"/api/v1/health/status", nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// tokensWhileFull creates tokens until there is no room for another, which is
// unavailable and nothing else, and returns how many were created. Who has one
// already is let in.
func (s *site) tokensWhileFull(t *testing.T, has string) (created int) {
	for {
		code, _ := s.request(t, http.MethodPost, "/api/v1/tokens", s.token(), `{"name":"x","scopes":["read"]}`)
		if code == http.StatusCreated && created < 1000 { // in pages that the file has
			created++
			continue
		}
		if code != http.StatusServiceUnavailable {
			t.Errorf("a token while the disk is full: got status %d after %d, want 503", code, created)
		}
		break
	}
	if code, _ := s.request(t, http.MethodGet, "/api/v1/me", has, ""); code != http.StatusOK {
		t.Errorf("who has a token: got status %d, want 200", code)
	}
	return created
}

// request makes one and returns the status of the answer, and the member token of
// its body.
func (s *site) request(t *testing.T, method, path, token, body string) (code int, secret string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+s.http+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct{ Token string }
	json.NewDecoder(resp.Body).Decode(&answer) // or a problem, which has none
	return resp.StatusCode, answer.Token
}

// TestTheServersDiskIsFull fills the real disk of the ledger, of the queue and
// of both, while readings of days pour in. Nothing is receipted that the ledger
// has not, the server says what is wrong, and when there is space again
// everything drains by itself, without a restart, and the sums are the truth.
func TestTheServersDiskIsFull(t *testing.T) {
	if !mounting(t) {
		return
	}
	for _, c := range []struct{ name, full, says string }{
		{"ledger", "", "ledger"},
		{"queue", "nats", "queue"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSite(t)
			whole := mount(t, s.dir, "64m")
			queue := mount(t, filepath.Join(s.dir, "nats"), "64m")
			full := whole
			if c.full != "" {
				full = queue
			}
			server := s.serve("--no-agent")
			_, token := s.request(t, http.MethodPost, "/api/v1/tokens", s.token(), `{"name":"before","scopes":["read"]}`)
			path, truth := load(t, "full-"+c.name, 3, 4, 5760) // two days
			dir := filepath.Join(t.TempDir(), "replay")
			empty := full.fill()
			feeding := start(t, "replay", "--server", "http://"+s.http, "--token-file", filepath.Join(s.dir, "admin.token"), "--data-dir", dir, path)
			said := ""
			for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
				said = s.health()
				if strings.Contains(said, "no space left") || strings.Contains(said, "full") {
					break
				}
				if !feeding.running() || time.Since(begin) > 90*time.Second {
					t.Fatalf("the full disk is seen nowhere: %s\n%s\n%s", said, feeding.output(), server.output())
				}
			}
			if resp, err := http.Get("http://" + s.http + "/readyz"); err == nil {
				resp.Body.Close()
				if resp.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("ready while the disk is full: %s", resp.Status)
				}
			}
			var before struct {
				Rows []any `json:"rows"`
			}
			s.get("/api/v1/usage?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z&group_by=instance", &before) // it still answers
			created := 1
			if c.full == "" {
				created += s.tokensWhileFull(t, token)
			}
			time.Sleep(3 * time.Second)
			if !feeding.running() {
				t.Errorf("the replay ended, as if all were receipted\n%s", feeding.output())
			}
			empty()
			select {
			case <-feeding.done:
			case <-time.After(4 * time.Minute):
				t.Fatalf("there is space and the replay does not end\n%s\n%s\n%s", s.health(), feeding.output(), server.output())
			}
			if feeding.err != nil {
				t.Fatalf("replay: %v\n%s", feeding.err, feeding.output())
			}
			compare(t, s.usage("instance", byInstance), truth)
			for begin := time.Now(); ; time.Sleep(200 * time.Millisecond) {
				resp, err := http.Get("http://" + s.http + "/readyz")
				if err == nil {
					resp.Body.Close()
					if resp.StatusCode == http.StatusOK {
						break
					}
				}
				if time.Since(begin) > time.Minute {
					t.Fatalf("not ready again: %s", s.health())
				}
			}
			if c.full == "" {
				var list struct{ Tokens []any }
				if s.get("/api/v1/tokens?limit=1000", &list); len(list.Tokens) != created {
					t.Errorf("got %d tokens, want the %d whose creation was answered", len(list.Tokens), created)
				}
				if code, _ := s.request(t, http.MethodPost, "/api/v1/tokens", s.token(), `{"name":"x","scopes":["read"]}`); code != http.StatusCreated {
					t.Errorf("a token when there is space again: got status %d, want 201", code)
				}
			}
			server.stop()
			s.audit()
			t.Logf("while it was full: %s", fmt.Sprintf("%.300s", said))
		})
	}
}
