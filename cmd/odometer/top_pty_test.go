package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"example.org/odometer/internal/port"
	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// screen is a terminal with a program in it.
type screen struct {
	t      *testing.T
	ptmx   *os.File
	tty    *os.File // held open, so that its settings can be read when the program has ended
	before unix.Termios
	cmd    *exec.Cmd
	done   chan error

	mu       sync.Mutex // guards what follows
	emulator *vt.Emulator
	raw      bytes.Buffer // everything that was written to it
}

// newScreen runs a command in a terminal of 80 columns and 24 rows.
func newScreen(t *testing.T, env []string, args ...string) *screen {
	t.Helper()
	s := &screen{t: t, emulator: vt.NewEmulator(80, 24), done: make(chan error, 1)}
	var err error
	if s.ptmx, s.tty, err = pty.Open(); err != nil {
		t.Fatal(err)
	}
	answers := s.emulator.InputPipe().(io.Closer) // of the terminal, when it is asked
	t.Cleanup(func() { s.tty.Close(); s.ptmx.Close(); answers.Close() })
	s.resize(80, 24)
	s.before = s.settings()
	s.cmd = exec.Command("odometer", args...)
	s.cmd.Stdin, s.cmd.Stdout, s.cmd.Stderr = s.tty, s.tty, s.tty
	s.cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "NO_COLOR=") }), "TERM=xterm-256color")
	s.cmd.Env = append(s.cmd.Env, env...)
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.cmd.Process.Kill() })
	go func() { s.done <- s.cmd.Wait() }()
	go func() {
		buf := make([]byte, 32<<10)
		for {
			n, err := s.ptmx.Read(buf)
			if err != nil {
				return
			}
			s.mu.Lock()
			s.raw.Write(buf[:n])
			s.emulator.Write(buf[:n])
			s.mu.Unlock()
		}
	}()
	go io.Copy(s.ptmx, s.emulator)
	return s
}

func (s *screen) resize(columns, rows int) {
	s.t.Helper()
	if err := pty.Setsize(s.ptmx, &pty.Winsize{Rows: uint16(rows), Cols: uint16(columns)}); err != nil {
		s.t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.emulator.Resize(columns, rows)
}

func (s *screen) settings() unix.Termios {
	s.t.Helper()
	got, err := unix.IoctlGetTermios(int(s.tty.Fd()), unix.TCGETS)
	if err != nil {
		s.t.Fatal(err)
	}
	return *got
}

// text returns what is on the screen.
func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.emulator.String()
}

func (s *screen) lines() []string { return strings.Split(s.text(), "\n") }

func (s *screen) written() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.raw.String()
}

// shows waits until the screen matches.
func (s *screen) shows(what, pattern string) {
	s.t.Helper()
	want := regexp.MustCompile(pattern)
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if want.MatchString(s.text()) {
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("%s: want %q on the screen, got\n%s", what, pattern, s.text())
		}
	}
}

func (s *screen) types(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.ptmx, keys); err != nil {
		s.t.Fatal(err)
	}
}

// ends waits for the program's end: it went well, and the terminal is as before.
func (s *screen) ends(what string) {
	s.t.Helper()
	select {
	case err := <-s.done:
		if err != nil {
			s.t.Errorf("%s: got %v, want exit code 0\n%s", what, err, s.text())
		}
	case <-time.After(patience):
		s.t.Fatalf("%s: it has not ended after %s\n%s", what, patience, s.text())
	}
	if after := s.settings(); after != s.before {
		s.t.Errorf("%s: the terminal's settings are %+v, want %+v", what, after, s.before)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		w := s.written()
		if strings.LastIndex(w, "\x1b[?1049l") > strings.LastIndex(w, "\x1b[?1049h") && strings.LastIndex(w, "\x1b[?25h") > strings.LastIndex(w, "\x1b[?25l") {
			return
		}
		if time.Now().After(deadline) {
			s.t.Errorf("%s: the screen of before or the cursor is not shown again: …%q", what, w[max(0, len(w)-200):])
			return
		}
	}
}

// fleetServer runs a server with so many machines, from fleet-01 on.
func fleetServer(t *testing.T, machines int) (dataDir string, server *exec.Cmd) {
	t.Helper()
	dir := t.TempDir()
	var file strings.Builder
	file.WriteString("vms:\n")
	for i := 1; i <= machines; i++ {
		fmt.Fprintf(&file, "  - {name: fleet-%02d, vcpus: 2, memory: 1 GiB, attributes: {rack: r%d}}\n", i, i%3)
	}
	vms := filepath.Join(dir, "vms.yaml")
	if err := os.WriteFile(vms, []byte(file.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	http, err1 := port.Free()
	nats, err2 := port.Free()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	dataDir = filepath.Join(dir, "data")
	server = exec.Command("odometer", "serve", "--data-dir", dataDir, "--http", http, "--nats", nats, "--instance-id", "host-1", "--source", "machine,vms", "--vm-file", vms)
	var log bytes.Buffer
	server.Stdout, server.Stderr = &log, &log
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Signal(os.Interrupt)
		server.Wait()
		if t.Failed() {
			t.Logf("the server: %s", log.String())
		}
	})
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		out, err := exec.Command("odometer", "instance", "list", "--data-dir", dataDir, "--agent", "host-1").Output()
		if err == nil && strings.Count(string(out), "\tfleet-") == machines && regexp.MustCompile(`(?m)^host-1\t.*\t\d+$`).Match(out) {
			return dataDir, server
		}
		if time.Now().After(deadline) {
			t.Fatalf("the machines are not listed after %s: %v\n%s", patience, err, out)
		}
	}
}

// TestTopOnATerminal runs the real program in a real terminal of 80 columns and
// 24 rows and looks at what is on it.
func TestTopOnATerminal(t *testing.T) {
	dataDir, server := fleetServer(t, 30)
	s := newScreen(t, nil, "top", "--data-dir", dataDir)
	s.shows("the first frame", `(?s)^odometer 0\.1\.0 at http://127.*\nwaiting: queue \d+, topic \d+, held 0, quarantine 0 · ledger \d+.*\nHOSTS 1, 0 silent .*\nhost-1 .* ago .*\nNAME +HOST +STATE +CPUv +MEM +OUT/s +IN/s +AGE`)
	s.shows("this machine's processor time", `(?m)^\S+ +host-1 +running +[0-9.]+ +[0-9.]+ [KMG]iB`)
	s.shows("what may be typed", `q quit · / filter · s sort · r reverse`)
	if got := s.lines(); len(got) != 24 {
		t.Errorf("got %d lines on the screen, want 24", len(got))
	}
	if w := s.written(); !strings.Contains(w, "\x1b[?1049h") {
		t.Error("the screen of before is not kept")
	}

	s.types("/fleet rack:r1")
	s.shows("the filter while it is typed", `(?m)^/fleet rack:r1_`)
	s.types("\r")
	s.shows("what passes it", `(?m)^10 of \d+ machines with "fleet rack:r1"`)
	s.types("ssssr") // by name, from the end
	s.shows("sorted by name, turned round", `(?s)NAME\^.*fleet-28 .*fleet-25 .*fleet-22 `)
	s.types("\x1b") // esc: no filter
	s.shows("all of them", `(?m)^\d+ of \d+ machines ·`)
	s.types("/fleet\r\x1b[F")
	s.shows("the end of the list", `fleet-01 `)
	s.types("\x1b[H\x1b[B")
	s.shows("one from its beginning", `(?s)NAME\^[^\n]*\nfleet-29 `)

	s.resize(150, 40)
	s.shows("a larger screen", `(?s)WRITE/s +INSTANCE.*host-1:fleet-05`)
	if got := s.lines(); len(got) != 40 {
		t.Errorf("got %d lines on the larger screen, want 40", len(got))
	}
	s.resize(80, 24)
	s.shows("the small one again", `AGE *\n`)

	if err := server.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	s.types("r")
	s.shows("a server that hangs delays no key", `(?s)NAMEv[^\n]*\nfleet-0`)
	server.Process.Signal(syscall.SIGCONT)
	server.Process.Signal(os.Interrupt)
	s.shows("a server that has gone", `(?m)^no answer since \d\d:\d\d:\d\d: `)
	s.shows("what was there last", `fleet-0`)
	s.types("q")
	s.ends("q")
}

// However it is ended, the terminal is as it was.
func TestTopRestoresTheTerminal(t *testing.T) {
	dataDir, _ := fleetServer(t, 3)
	for _, c := range []struct {
		name string
		end  func(s *screen)
	}{
		{"q", func(s *screen) { s.types("q") }},
		{"ctrl+c", func(s *screen) { s.types("\x03") }},
		{"ctrl+c while the filter is typed", func(s *screen) { s.types("/abc"); s.shows("the filter", "/abc_"); s.types("\x03") }},
		{"SIGINT", func(s *screen) { s.cmd.Process.Signal(os.Interrupt) }},
		{"SIGTERM", func(s *screen) { s.cmd.Process.Signal(syscall.SIGTERM) }},
		{"SIGHUP", func(s *screen) { s.cmd.Process.Signal(syscall.SIGHUP) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newScreen(t, nil, "top", "--data-dir", dataDir)
			s.shows("a frame", `q quit`)
			if s.settings() == s.before {
				t.Error("keys are not read one by one")
			}
			c.end(s)
			s.ends(c.name)
		})
	}
}

// NO_COLOR leaves the colours out, and a dumb terminal gets one frame as text.
func TestTopWithoutColour(t *testing.T) {
	dataDir, server := fleetServer(t, 3)
	dumb := newScreen(t, []string{"TERM=dumb"}, "top", "--data-dir", dataDir, "--attribute", "rack:r1")
	if err := <-dumb.done; err != nil {
		t.Errorf("on a dumb terminal: got %v", err)
	}
	dumb.shows("one frame", `(?s)NAME.*\nfleet-01 `)
	if strings.Contains(dumb.written(), "\x1b") {
		t.Errorf("a dumb terminal is steered: %q", dumb.written())
	}

	out, err := exec.Command("odometer", "top", "--data-dir", dataDir, "--sort", "name", "--attribute", "rack:r2").Output()
	if err != nil || !regexp.MustCompile(`(?s)^odometer 0\.1\.0 at .*\nNAMEv .*\nfleet-02 +host-1 +running `).Match(out) || bytes.Contains(out, []byte("fleet-01")) || bytes.Contains(out, []byte("\x1b")) {
		t.Errorf("on a pipe: got %v\n%s", err, out)
	}
	for line := range strings.Lines(string(out)) {
		if n := len([]rune(strings.TrimSpace(line))); n > topWidth {
			t.Errorf("a line has %d columns, want %d at most: %s", n, topWidth, line)
		}
	}
	refused := exec.Command("odometer", "top", "--data-dir", dataDir, "--sort", "colour")
	if b, err := refused.CombinedOutput(); err == nil || !strings.Contains(string(b), "one of cpu, mem, out, in, name, host, state, age is possible") {
		t.Errorf("another key to sort by: got %v, %s", err, b)
	}
	// What is wrong is coloured.
	coloured, plain := newScreen(t, nil, "top", "--data-dir", dataDir), newScreen(t, []string{"NO_COLOR=1"}, "top", "--data-dir", dataDir)
	for _, s := range []*screen{coloured, plain} {
		s.shows("a frame", `q quit`)
	}
	server.Process.Signal(os.Interrupt)
	colours := regexp.MustCompile(`\x1b\[[0-9;]*\b[349][0-7](;[0-9]+)*m`)
	for _, s := range []*screen{coloured, plain} {
		s.shows("that there is no server", `no answer since`)
		s.types("q")
		s.ends("q")
		if found := colours.FindString(s.written()); (found != "") != (s == coloured) {
			t.Errorf("NO_COLOR %v: got the colour %q", s == plain, found)
		}
	}

	gone := newScreen(t, nil, "top", "--server", "http://127.0.0.1:1")
	if err := <-gone.done; err == nil || strings.Contains(gone.written(), "\x1b[?1049h") {
		t.Errorf("without a server: got %v and %q, want an error and no screen of its own", err, gone.written())
	}
}
