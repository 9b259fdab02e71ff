package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"example.org/odometer/internal/port"
)

// program returns the path of the real program, built when it is first asked
// for.
func (b *bench) program() (string, error) {
	if b.built != "" {
		return b.built, nil
	}
	path := b.place("odometer")
	build := exec.Command("go", "build", "-o", path, "example.org/odometer/cmd/odometer")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return "", fmt.Errorf("build the program: %w", err)
	}
	b.built = path
	return path, nil
}

// process is `odometer serve` in a process of its own.
type process struct {
	cmd        *exec.Cmd
	dir        string
	http, nats string
}

func startServer(program, dir string) (*process, error) {
	address, err := port.Free()
	if err != nil {
		return nil, err
	}
	nats, err := port.Free()
	if err != nil {
		return nil, err
	}
	p := &process{dir: dir, http: address, nats: nats}
	p.cmd = exec.Command(program, "serve", "--data-dir", dir, "--http", address, "--nats", nats, "--log-level", "error")
	p.cmd.Stderr = os.Stderr
	return p, p.cmd.Start()
}

// serving starts a server and returns it when it is ready.
func serving(program, dir string) (*process, error) {
	p, err := startServer(program, dir)
	if err != nil {
		return nil, err
	}
	if err := p.untilReady(); err != nil {
		p.kill()
		return nil, err
	}
	return p, nil
}

// kill ends it at once: how it ends is not measured here.
func (p *process) kill() {
	_ = p.cmd.Process.Signal(syscall.SIGKILL)
	_ = p.cmd.Wait()
}

// untilReady returns when the server says that it is ready.
func (p *process) untilReady() error {
	for begin := time.Now(); time.Since(begin) < time.Minute; time.Sleep(time.Millisecond) {
		answer, err := http.Get("http://" + p.http + "/readyz")
		if err != nil {
			continue
		}
		answer.Body.Close()
		if answer.StatusCode == http.StatusOK {
			return nil
		}
	}
	return errors.New("the server was not ready within a minute")
}

// token returns the administrator's.
func (p *process) token() (string, error) {
	text, err := os.ReadFile(filepath.Join(p.dir, "admin.token"))
	return strings.TrimSpace(string(text)), err
}

// peak returns the most memory that was resident, in bytes.
func (p *process) peak() (int64, error) { return p.resident("VmHWM") }

// resident returns a figure of /proc/PID/status, in bytes.
func (p *process) resident(name string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if kib, ok := strings.CutPrefix(line, name+":"); ok {
			n, err := strconv.ParseInt(strings.Fields(kib)[0], 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %s in /proc/PID/status", name)
}
