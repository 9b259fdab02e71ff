package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/crash/trace"
	"example.org/odometer/internal/port"
)

const (
	// patience is how long anything may take before it is given up as hanging.
	// It is far beyond what a busy machine needs.
	patience = 2 * time.Minute
	// glance is between two looks at something that is waited for.
	glance = 5 * time.Millisecond
)

// errEnded says that the program ended before it did what was waited for.
var errEnded = errors.New("the program has ended")

// process is one run of a program.
type process struct {
	name   string
	traced *trace.Process // nil for one that is not
	cmd    *exec.Cmd      // nil for one that is
	done   chan struct{}
	state  syscall.WaitStatus
	err    error // of the tracer

	mu  sync.Mutex
	log bytes.Buffer
}

// maxLog is how much of a program's output is kept.
const maxLog = 64 << 10

func (p *process) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.log.Len() < maxLog {
		p.log.Write(b)
	}
	return len(b), nil
}

func (p *process) output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.TrimSpace(p.log.String())
}

// launch starts a program; it ends with this one, if not before.
func launch(program string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(program) + " " + args[0], cmd: exec.Command(program, args...), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p, p
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := trace.Launch(p.cmd); err != nil {
		return nil, err
	}
	go func() {
		defer close(p.done)
		err := p.cmd.Wait()
		if p.cmd.ProcessState != nil {
			p.state = p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		} else {
			p.err = err
		}
	}()
	return p, nil
}

// launchTraced is launch under trace.
func launchTraced(o trace.Options, program string, args ...string) (*process, error) {
	p := &process{name: filepath.Base(program) + " " + args[0], done: make(chan struct{})}
	o.Stdout, o.Stderr = p, p
	t, err := trace.Start(o, program, args...)
	if err != nil {
		return nil, err
	}
	p.traced = t
	go func() {
		defer close(p.done)
		p.state, p.err = t.Wait()
	}()
	return p, nil
}

func (p *process) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

func (p *process) signal(s syscall.Signal) {
	if p.traced != nil {
		p.traced.Signal(s)
	} else {
		p.cmd.Process.Signal(s) // an error means that it has ended
	}
}

// kill ends the process at once and waits until it is gone.
func (p *process) kill() {
	if p == nil {
		return
	}
	p.signal(syscall.SIGKILL)
	<-p.done
}

// wait returns when the process has ended, with an error unless it ended well.
func (p *process) wait() error {
	select {
	case <-p.done:
	case <-time.After(patience):
		p.kill()
		return fmt.Errorf("%s does not end: %s", p.name, p.output())
	}
	switch {
	case p.err != nil:
		return p.err
	case p.state.Signaled() && p.state.Signal() == syscall.SIGKILL:
		return errEnded
	case p.state.Signaled() || p.state.ExitStatus() != 0:
		return fmt.Errorf("%s ended with %s: %s", p.name, ending(p.state), p.output())
	}
	return nil
}

func ending(s syscall.WaitStatus) string {
	if s.Signaled() {
		return s.Signal().String()
	}
	return fmt.Sprintf("exit code %d", s.ExitStatus())
}

// stop asks the process to end and waits for it.
func (p *process) stop() error {
	p.signal(syscall.SIGINT)
	return p.wait()
}

// until waits for a condition, for as long as the process runs.
func (p *process) until(what string, holds func() bool) error {
	for begin := time.Now(); ; time.Sleep(glance) {
		if holds() {
			return nil
		}
		if !p.running() {
			if err := p.wait(); err != nil {
				return err
			}
			return fmt.Errorf("%s ended by itself before %s", p.name, what)
		}
		if time.Since(begin) > patience {
			return fmt.Errorf("%s: %s has not come after %v: %s", p.name, what, patience, p.output())
		}
	}
}

// site is a server's data directory and addresses.
type site struct {
	dir        string
	http, nats string // host:port; nats may be an external queue's URL
	extra      []string
}

// newSite returns a site on free addresses.
func newSite(dir string) (*site, error) {
	h, err := port.Free()
	if err != nil {
		return nil, err
	}
	n, err := port.Free()
	if err != nil {
		return nil, err
	}
	return &site{dir: dir, http: h, nats: n}, nil
}

func (s *site) args() []string {
	return append([]string{"serve", "--no-agent", "--log-level", "warn", "--data-dir", s.dir, "--http", s.http, "--nats", s.nats}, s.extra...)
}

func (s *site) tokenFile() string { return filepath.Join(s.dir, "admin.token") }

// ready waits until the server answers that it is.
func (s *site) ready(p *process) error { return ready(p, s.http) }

func ready(p *process, addr string) error {
	return p.until("being ready", func() bool {
		resp, err := http.Get("http://" + addr + "/readyz")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}

// do makes an authenticated request, with more headers, and decodes the answer, if into
// is not nil. It returns the status.
func (s *site) do(method, path, contentType string, body []byte, into any, headers ...string) (int, error) {
	token, err := os.ReadFile(s.tokenFile())
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(method, "http://"+s.http+path, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || into == nil || resp.StatusCode >= 300 {
		return resp.StatusCode, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(into); err != nil {
		return resp.StatusCode, fmt.Errorf("%s %s: %w in %q", method, path, err, text)
	}
	return resp.StatusCode, nil
}

// usage returns what the server has recorded of all time.
func (s *site) usage() (truth, error) {
	var answer struct {
		Rows []map[string]any `json:"rows"`
	}
	status, err := s.do(http.MethodGet, "/api/v1/usage?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z&group_by="+url.QueryEscape("instance"), "", nil, &answer)
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("the usage was refused with status %d", status)
	}
	if err != nil {
		return nil, err
	}
	sum := truth{}
	for _, row := range answer.Rows {
		id := fmt.Sprint(row["instance"])
		for name, v := range row {
			if _, ok := odometer.QuantityOf(name); !ok {
				continue
			}
			var n int64
			if _, err := fmt.Sscan(fmt.Sprint(v), &n); err == nil {
				sum.add(id, name, n)
			}
		}
	}
	return sum, nil
}

// post sends one event, as a CloudEvent in binary mode.
func (s *site) post(id string, data []byte) (status int, err error) {
	token, err := os.ReadFile(s.tokenFile())
	if err != nil {
		return 0, err
	}
	req, err := http.NewRequest(http.MethodPost, "http://"+s.http+"/api/v1/events", bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + strings.TrimSpace(string(token)), "Content-Type": odometer.ContentJSON,
		"ce-specversion": odometer.CloudEventVersion, "ce-type": odometer.CloudEventType, "ce-source": odometer.CloudEventSource + "by-hand", "ce-id": id,
	} {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, err
}

// audited returns the report of an audit that found nothing.
func audited(ctx context.Context, dir string) (*audit.Report, error) {
	r, err := audit.Run(ctx, audit.Options{DataDir: dir})
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if !r.OK {
		return nil, fmt.Errorf("audit: %d findings: %v", r.FindingsTotal, r.Findings)
	}
	return r, nil
}

// build builds the program that is to be ended.
func build(dir string) (string, error) {
	path := filepath.Join(dir, "odometer")
	if out, err := exec.Command("go", "build", "-o", path, "example.org/odometer/cmd/odometer").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program: %w\n%s", err, out)
	}
	return path, nil
}

// workDir makes a directory to work in: in memory where there is some, because
// killing a process is the same on every file system and fsync is free there.
func workDir() (string, error) {
	const shm = "/dev/shm"
	var st syscall.Statfs_t
	if syscall.Statfs(shm, &st) == nil && st.Bavail*uint64(st.Bsize) > 2<<30 {
		if dir, err := os.MkdirTemp(shm, "odometer-crash-"); err == nil {
			return dir, nil
		}
	}
	return os.MkdirTemp("", "odometer-crash-")
}

// copyTree copies a directory, with the modes of what lies in it.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.MkdirAll(target, info.Mode().Perm())
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, b, info.Mode().Perm())
	})
}
