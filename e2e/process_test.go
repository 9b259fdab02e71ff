package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/odometer/api"
	"example.org/odometer/api/apicheck"
	"example.org/odometer/internal/port"
)

// binary is the real program, built once for all tests.
var binary string

func TestMain(m *testing.M) {
	os.Setenv("ODOMETER_SOURCE", "machine") // not the guests of other tests
	apicheck.Default(api.OpenAPI)           // what the tests themselves ask
	os.Exit(func() int {
		if binary = os.Getenv(builtBinary); binary != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "odometer-e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "odometer")
		build := exec.Command("go", "build", "-o", binary, "example.org/odometer/cmd/odometer")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build the program: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// process is one run of the program.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan struct{}
	err  error

	mu  sync.Mutex
	log bytes.Buffer
}

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Write(b)
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.String()
}

// start runs the program in the background; it ends with the test, which when
// it failed tells what the program printed.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	return startCommand(t, exec.Command(binary, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			t.Logf("%s printed:\n%s", p.cmd, p.output())
		}
	})
	return p
}

// kill ends the process as a power cut would, and waits for it.
func (p *process) kill() {
	p.cmd.Process.Signal(syscall.SIGKILL) // an error means that it has ended
	<-p.done
}

// stop asks the process to end and fails the test when it takes over 10 s.
func (p *process) stop() {
	p.t.Helper()
	p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.done:
		if p.err != nil {
			p.t.Errorf("%s: %v\n%s", p.cmd, p.err, p.output())
		}
	case <-time.After(10 * time.Second):
		p.t.Fatalf("%s did not end within 10 s of SIGINT\n%s", p.cmd, p.output())
	}
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// site is a server's data directory and addresses.
type site struct {
	t          *testing.T
	dir        string
	http, nats string
}

func newSite(t *testing.T) *site {
	return &site{t: t, dir: filepath.Join(t.TempDir(), "server"), http: freeAddr(t), nats: freeAddr(t)}
}

func freeAddr(t *testing.T) string {
	t.Helper()
	addr, err := port.Free()
	if err != nil {
		t.Fatal(err)
	}
	return addr
}

// serve starts the server and waits until it is ready.
func (s *site) serve(args ...string) *process {
	s.t.Helper()
	p := start(s.t, s.serveArgs(args)...)
	s.ready(p)
	return p
}

func (s *site) serveArgs(args []string) []string {
	return append([]string{"serve", "--data-dir", s.dir, "--http", s.http, "--nats", s.nats}, args...)
}

func (s *site) ready(p *process) {
	s.t.Helper()
	for begin := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get("http://" + s.http + "/readyz")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if !p.running() || time.Since(begin) > time.Minute {
			s.t.Fatalf("the server is not ready: %v\n%s", err, p.output())
		}
	}
}

func (s *site) token() string {
	s.t.Helper()
	b, err := os.ReadFile(filepath.Join(s.dir, "admin.token"))
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// get decodes the answer to an authenticated request.
func (s *site) get(path string, into any) {
	s.t.Helper()
	s.answer(path, into, http.StatusOK)
}

// answer is get where the answer may have one of several status codes.
func (s *site) answer(path string, into any, codes ...int) {
	s.t.Helper()
	req, err := http.NewRequest(http.MethodGet, "http://"+s.http+path, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || !slices.Contains(codes, resp.StatusCode) {
		s.t.Fatalf("GET %s: %s %v\n%s", path, resp.Status, err, body)
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		s.t.Fatalf("GET %s: %v\n%s", path, err, body)
	}
}

// amounts are quantities by name.
type amounts map[string]int64

// usage returns what is recorded of all time, by the names it is grouped by,
// with measured_us, estimated_us, recovered_us and gap_us.
func (s *site) usage(groups string, key func(row map[string]any) string) map[string]amounts {
	s.t.Helper()
	var answer struct {
		Rows []map[string]any `json:"rows"`
	}
	s.get("/api/v1/usage?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z&group_by="+url.QueryEscape(groups), &answer)
	rows := map[string]amounts{}
	for _, row := range answer.Rows {
		a := amounts{}
		for name, v := range row {
			switch v := v.(type) {
			case json.Number:
				a[name], _ = v.Int64()
			case map[string]any: // time_us
				for kind, n := range v {
					if n, ok := n.(json.Number); ok {
						a[kind+"_us"], _ = n.Int64()
					}
				}
			case string:
				json.Unmarshal([]byte(v), new(int64))
				var n int64
				if _, err := fmt.Sscan(v, &n); err == nil && fmt.Sprint(n) == v {
					a[name] = n
				}
			}
		}
		rows[key(row)] = a
	}
	return rows
}

func byInstance(row map[string]any) string { return fmt.Sprint(row["instance"]) }

// audit runs `odometer audit` and fails the test unless every invariant holds.
func (s *site) audit() map[string]any {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, binary, "audit", "--data-dir", s.dir, "--json").Output()
	var report map[string]any
	if e := json.Unmarshal(out, &report); e != nil || err != nil || report["ok"] != true {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			out = append(out, exit.Stderr...)
		}
		s.t.Fatalf("audit: %v %v\n%s", err, e, out)
	}
	return report
}

// run runs the program to its end and returns what it printed.
func run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), binary, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("odometer %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// eventually waits until something is so, for as long as a busy machine may
// take.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); time.Sleep(100 * time.Millisecond) {
		if time.Since(begin) > 2*time.Minute {
			t.Fatalf("waited two minutes in vain: %s", what)
		}
	}
}
