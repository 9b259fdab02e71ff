package inventory

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"example.org/odometer"
)

// server listens at a socket of its own and serves each connection.
func server(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for serve != nil {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { defer c.Close(); serve(c) })
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return path
}

// asker is a control of a hypervisor that this process plays.
func asker(t *testing.T, socket string, ask func(context.Context, *control) time.Duration) (*control, chan odometer.Change) {
	t.Helper()
	table := newSockets("/")
	told := make(chan odometer.Change, 100)
	c := &control{
		asks: "its socket", sockets: []string{socket}, view: view{cwd: "/", pid: os.Getpid()}, pid: os.Getpid(),
		pace: usualPace, clock: realClock{}, table: table, told: told, ask: ask, yield: make(chan struct{}, 1), instance: "vm",
	}
	c.pace.patience = 200 * time.Millisecond
	c.tried = make(chan struct{})
	table.add(socket)
	return c, told
}

const (
	qmpGreeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}` + "\n"
	qmpAccepted = `{"return": {}, "id": 1}` + "\n"
)

func TestWhatIsNoMonitor(t *testing.T) {
	command := newGuest(qemu)
	quiet := func(c net.Conn) { io.Copy(io.Discard, c) }
	for _, c := range []struct {
		name   string
		socket func(*testing.T) string
		want   string
	}{
		{"there is none", func(t *testing.T) string { return filepath.Join(t.TempDir(), "none") }, "no such file"},
		{"a file", func(t *testing.T) string {
			p := filepath.Join(t.TempDir(), "file")
			if err := os.WriteFile(p, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			return p
		}, "is no socket"},
		{"nobody listens any more", func(t *testing.T) string {
			p := filepath.Join(t.TempDir(), "s")
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p})
			if err != nil {
				t.Fatal(err)
			}
			l.SetUnlinkOnClose(false)
			l.Close()
			return p
		}, "connection refused"},
		{"nobody accepts", func(t *testing.T) string { return server(t, nil) }, "it does not answer"},
		{"it says nothing", func(t *testing.T) string { return server(t, quiet) }, "it does not answer"},
		{"it speaks otherwise", func(t *testing.T) string { return server(t, func(c net.Conn) { io.WriteString(c, "SSH-2.0\r\n") }) }, "invalid character"},
		{"it closes", func(t *testing.T) string { return server(t, func(net.Conn) {}) }, "EOF"},
		{"it hangs when it is asked", func(t *testing.T) string {
			return server(t, func(c net.Conn) { io.WriteString(c, qmpGreeting); quiet(c) })
		}, "it does not answer"},
		{"it answers nonsense", func(t *testing.T) string {
			return server(t, func(c net.Conn) {
				io.WriteString(c, qmpGreeting)
				c.Read(make([]byte, 1000))
				io.WriteString(c, qmpAccepted)
				c.Read(make([]byte, 1000))
				io.WriteString(c, `{"return": [], "id": 2}`)
				quiet(c)
			})
		}, "cannot unmarshal array"},
	} {
		t.Run(c.name, func(t *testing.T) {
			socket := c.socket(t)
			a, _ := asker(t, socket, nil)
			a.polite = time.Now().Add(time.Hour) // no longer than it takes
			ask := askMonitor(command)
			for again := time.Duration(0); a.problem == ""; time.Sleep(again) {
				if again = ask(t.Context(), a); again < retryFirst {
					t.Errorf("it is tried again after %v", again)
				}
				again = min(again, lineEvery)
			}
			_, state, problem := a.said()
			if !strings.Contains(problem, c.want) || !strings.HasPrefix(problem, "its socket: ") || state != "" {
				t.Errorf("got problem %q in state %q, want %q", problem, state, c.want)
			}
		})
	}
}

// TestASocketThatStartsUp is no problem while its process is young.
func TestASocketThatStartsUp(t *testing.T) {
	a, _ := asker(t, filepath.Join(t.TempDir(), "none"), nil)
	a.began = hostNow().Boot
	if again := askMonitor(newGuest(qemu))(t.Context(), a); again != startingFor || a.problem != "" {
		t.Errorf("it is tried again after %v, with problem %q", again, a.problem)
	}
}

// TestASocketOfAnotherProcess is not talked to: two machines were started with
// one path, and the second has it.
func TestASocketOfAnotherProcess(t *testing.T) {
	sent := make(chan []byte, 1)
	socket := server(t, func(c net.Conn) { b, _ := io.ReadAll(c); sent <- b })
	a, _ := asker(t, socket, nil)
	a.pid = 1
	conn, err := a.dial(t.Context(), socket)
	if err == nil {
		conn.Close()
	}
	if !errors.Is(err, errOther) {
		t.Errorf("got %v", err)
	}
	if b := <-sent; len(b) > 0 {
		t.Errorf("it was sent %q", b)
	}
}

// TestWhoIsConnectedIsSeen reads the kernel's table.
func TestWhoIsConnectedIsSeen(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "name with spaces")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	a, _ := asker(t, socket, nil)
	expect := func(what string, want error, served, waiting int) {
		t.Helper()
		got, line, _, err := a.table.of(socket, 0)
		if err != nil || len(got) != served || line != waiting {
			t.Errorf("%s: got %d served and %d in line, %v; want %d and %d", what, len(got), line, err, served, waiting)
		}
		if s, err := a.free(0); err != want || (s == socket) != (want == nil) {
			t.Errorf("%s: got %q, %v, want %v", what, s, err, want)
		}
	}
	expect("nobody", nil, 0, 0)
	first, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	expect("one in line", errLine, 0, 1)
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	expect("one is served", errHeld, 1, 0)
	// Another socket has that name, in another place: the connection is this
	// process's, and so of both as far as can be told, but not of that one's.
	a.table.add(socket)
	if _, err := a.free(0); err != errHeld {
		t.Errorf("got %v, want that it is this process's", err)
	}
	a.pid = os.Getppid()
	if s, err := a.free(0); err != nil || s != socket {
		t.Errorf("got %q, %v, want that it is another process's", s, err)
	}
	a.pid = os.Getpid()
	a.table.remove(socket)
	conn.Close()
	first.Close()
	expect("they have gone", nil, 0, 0)
	elsewhere(t, func() { first, err = net.Dial("unix", socket) })
	if err != nil {
		t.Fatal(err)
	}
	expect("one in line, of another network namespace", errLine, 0, 1)
	first.Close()
	if conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	a.table.remove(socket)
	if served, _, _, err := a.table.of(socket, 0); err != nil || served != nil {
		t.Errorf("got %v, %v of a name that nobody asks for", served, err)
	}
}

// elsewhere runs do in a network namespace of its own.
func elsewhere(t *testing.T, do func()) {
	t.Helper()
	done := make(chan error, 1)
	var run func()
	run = func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() { // whose namespace is the process's: another thread's is changed
			go run()
			<-t.Context().Done()
			runtime.UnlockOSThread()
			return
		}
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			do()
		}
		done <- err // and the thread ends with this
	}
	go run()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestWhoeverWaitsIsSeen or a monitor is not held: of a process in this network
// namespace, by a kernel that tells how long a line is.
func TestWhoeverWaitsIsSeen(t *testing.T) {
	s := newSockets("/")
	defer s.close()
	if s.sees(os.Getpid()) {
		t.Error("the lines were never read")
	}
	s.of("", 0)
	if !s.sees(os.Getpid()) {
		t.Error("it does not see the lines of this network namespace")
	}
	cmd := exec.Command("sleep", "60")
	var err error
	elsewhere(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	if s.sees(cmd.Process.Pid) {
		t.Error("it says that it sees the lines of another network namespace")
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cmd.Wait()
	s.lines.close() // as a kernel does that refuses
	s.of("", 0)
	if s.sees(os.Getpid()) {
		t.Error("the lines cannot be read, and are said to be seen")
	}
}

func TestSocketsOfAHostWithoutTheirTable(t *testing.T) {
	a, _ := asker(t, "/s", nil)
	a.table.path = filepath.Join(t.TempDir(), "unix")
	askMonitor(newGuest(qemu))(t.Context(), a)
	if !strings.Contains(a.problem, "the table of unix sockets") {
		t.Errorf("got %q", a.problem)
	}
}

func TestLinesOfTheTable(t *testing.T) {
	for line, want := range map[string]string{
		"0000000000000000: 00000003 00000000 00000000 0001 03 12345 /run/q.sock": "3 12345 /run/q.sock",
		"00000000ffc09002: 00000003 00000000 00000000 0001 02     0 q sock":      "2 0 q sock",
		"00000000ffc09002: 00000002 00000000 00010000 0001 01 12345 /run/q.sock": "0 0 ",
		"00000000ffc09002: 00000003 00000000 00000000 0001 03 12345":             "0 0 ",
		"00000000ffc09002: 00000003 00000000 00000000 0001 03 x /run/q.sock":     "0 0 ",
		"Num       RefCount Protocol Flags    Type St Inode Path":                "0 0 ",
		"": "0 0 ",
	} {
		state, inode, name := parseSocket([]byte(line))
		if got := fmt.Sprintf("%d %d %s", state, inode, name); got != want {
			t.Errorf("%q: got %q, want %q", line, got, want)
		}
	}
}

func FuzzSocketTable(f *testing.F) {
	f.Add([]byte("0000000000000000: 00000003 00000000 00000000 0001 03 12345 /run/q.sock"))
	f.Add([]byte("00000000ffc09002: 00000003 00000000 00000000 0001 02     0 q sock"))
	f.Fuzz(func(t *testing.T, line []byte) {
		state, _, name := parseSocket(line)
		if (state != 0) != (len(name) > 0) || !bytes.HasSuffix(line, name) {
			t.Errorf("got %d %q from %q", state, name, line)
		}
	})
}

func TestAnswersAboutLines(t *testing.T) {
	message := func(kind uint16, payload ...byte) []byte {
		b := make([]byte, unix.NLMSG_HDRLEN, 64)
		binary.NativeEndian.PutUint32(b, uint32(len(b)+len(payload)))
		binary.NativeEndian.PutUint16(b[4:], kind)
		return append(b, payload...)
	}
	socket := append(make([]byte, unixDiagMessage), 8, 0, unixDiagName, 0, '/', 's', 0, 0, 12, 0, unixDiagQueue, 0, 3, 0, 0, 0, 9, 0, 0, 0)
	nameless := append(make([]byte, unixDiagMessage), 12, 0, unixDiagQueue, 0, 3, 0, 0, 0, 9, 0, 0, 0)
	for _, c := range []struct {
		name string
		b    []byte
		want string
	}{
		{"a socket and the end", slices.Concat(message(unix.SOCK_DIAG_BY_FAMILY, socket...), message(unix.NLMSG_DONE, 0, 0, 0, 0)), "/s 3; true <nil>"},
		{"one without a name", message(unix.SOCK_DIAG_BY_FAMILY, nameless...), "false <nil>"},
		{"one that is cut", message(unix.SOCK_DIAG_BY_FAMILY, socket[:18]...), "false <nil>"},
		{"an attribute beyond the end", message(unix.SOCK_DIAG_BY_FAMILY, append(socket[:16:16], 200, 0, 0, 0)...), "false <nil>"},
		{"refused", message(unix.NLMSG_ERROR, 0xfe, 0xff, 0xff, 0xff), "false no such file or directory"},
		{"refused for no reason", message(unix.NLMSG_ERROR), "false " + errDiag.Error()},
		{"half a header", []byte{1, 2, 3}, "false " + errDiag.Error()},
		{"longer than it is", message(unix.NLMSG_DONE, 1)[:16], "false " + errDiag.Error()},
	} {
		got := ""
		done, err := walkLines(c.b, func(name []byte, waiting int) { got += fmt.Sprintf("%s %d; ", name, waiting) })
		if got += fmt.Sprint(done, " ", err); got != c.want {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func FuzzLines(f *testing.F) {
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, b []byte) {
		_, err := walkLines(b, func(name []byte, waiting int) {
			if len(name) == 0 || waiting < 0 {
				t.Errorf("got %q with %d", name, waiting)
			}
		})
		if err == nil && len(b) > 0 && len(b) < unix.NLMSG_HDRLEN {
			t.Errorf("%x is taken", b)
		}
	})
}

// TestALineOfTheTableThatIsTooLong is left out, and so are those after it.
func TestALineOfTheTableThatIsTooLong(t *testing.T) {
	s := newSockets("/")
	s.path = filepath.Join(t.TempDir(), "unix")
	s.add("/a")
	line := "0: 3 0 0 1 03 7 /a\n"
	if err := os.WriteFile(s.path, []byte(strings.Repeat(line, 5000)+strings.Repeat("x", 100<<10)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if served, _, _, err := s.of("/a", 0); err != nil || len(served) != 5000 {
		t.Errorf("got %d, %v, want 5000", len(served), err)
	}
}
