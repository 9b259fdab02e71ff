package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

func noEnv(string) (string, bool) { return "", false }

func TestAdminTokenIsMadeOnceAndForItsOwnerAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), tokenFile)
	first, err := adminToken(path)
	if err != nil {
		t.Fatal(err)
	}
	again, err := adminToken(path)
	if err != nil || again != first {
		t.Errorf("the second time: got %q, %v, want %q", again, err, first)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode: got %v, %v, want 0600", info.Mode(), err)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
}

func TestTokenFilesThatAreRefused(t *testing.T) {
	tests := []struct {
		name, text string
		mode       fs.FileMode
		want       string
	}{
		{"readable by the group", account.NewSecret(), 0o640, "may be read by other users (mode 0640); chmod 600"},
		{"empty", "\n", 0o600, "does not hold one token"},
		{"two tokens", "a\nb\n", 0o600, "does not hold one token"},
		{"a token that lost its end", account.NewSecret()[:20], 0o600, "not complete"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "token")
			if err := os.WriteFile(path, []byte(tt.text), tt.mode); err != nil {
				t.Fatal(err)
			}
			if _, err := readToken(path); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestDataDirIsHeldByOneProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "data")
	first, err := lockDataDir(path, "serve")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("locking what is not there touched it: %v", err)
	}
	if err := first.create("serve"); err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("data directory %s is in use by `odometer serve` (process %d, since ", path, os.Getpid())
	if _, err := lockDataDir(path, "agent"); err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("a second one: got %v, want %s…", err, want)
	}
	if err := first.release(); err != nil {
		t.Fatal(err)
	}
	second, err := lockDataDir(path, "agent")
	if err != nil {
		t.Fatalf("after the first has gone: %v", err)
	}
	if err := second.release(); err != nil {
		t.Error(err)
	}
}

func TestWriteFileLeavesNothingBehindWhenItFails(t *testing.T) {
	dir := t.TempDir()
	target := filepath.Join(dir, "target")
	if err := os.MkdirAll(filepath.Join(target, "in the way"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := writeFile(target, []byte("x")); err == nil {
		t.Fatal("replacing a directory: got no error")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if err := writeFile(filepath.Join(dir, "missing", "file"), nil); err == nil {
		t.Error("in a directory that is not there: got no error")
	}
}

// The local server's token opens the local server's door only.
func TestLocalTokenGoesToTheLocalServerOnly(t *testing.T) {
	d := &dataDir{path: t.TempDir()}
	token, err := adminToken(d.file(tokenFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := d.writeServerInfo(serverInfo{HTTP: "http://127.0.0.1:9999"}); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(other, []byte("other\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name                  string
		flags                 serverFlags
		wantServer, wantToken string
		wantErr               string
	}{
		{name: "nothing given: both are found", wantServer: "http://127.0.0.1:9999", wantToken: token},
		{name: "the local server is named", flags: serverFlags{Server: "http://127.0.0.1:9999/"}, wantServer: "http://127.0.0.1:9999", wantToken: token},
		{name: "another server is named", flags: serverFlags{Server: "http://elsewhere:8640"}, wantServer: "http://elsewhere:8640"},
		{name: "another port of this machine", flags: serverFlags{Server: "http://127.0.0.1:1"}, wantServer: "http://127.0.0.1:1"},
		{name: "a token is given", flags: serverFlags{Token: "mine"}, wantServer: "http://127.0.0.1:9999", wantToken: "mine"},
		{name: "a token file is given", flags: serverFlags{TokenFile: other, Server: "http://elsewhere"}, wantServer: "http://elsewhere", wantToken: "other"},
		{name: "a token in the address", flags: serverFlags{Server: "http://odm_x:y@elsewhere:8640"}, wantErr: "--server: the address of elsewhere:8640 has a secret in it; --token-file"},
		{name: "a token in one of the addresses", flags: serverFlags{Server: "nats://a,nats://odm_x@b"}, wantErr: "the address of b has a secret"},
		{name: "both are given", flags: serverFlags{Token: "mine", TokenFile: other}, wantErr: "one of them is enough"},
		{name: "a token with a slip", flags: serverFlags{Token: token[:20]}, wantErr: "not complete"},
		{name: "a token file that is not there", flags: serverFlags{TokenFile: other + "x"}, wantErr: "no such file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.flags.DataDir = d.path
			server, token, err := tt.flags.resolve()
			if tt.wantErr != "" {
				if err == nil || !strings.Contains(err.Error(), tt.wantErr) {
					t.Errorf("got %v, want %q", err, tt.wantErr)
				}
				return
			}
			if err != nil || server != tt.wantServer || token != tt.wantToken {
				t.Errorf("got %q, %q, %v, want %q, %q", server, token, err, tt.wantServer, tt.wantToken)
			}
		})
	}
	if removed := d.removeServerInfo(); removed != nil || d.removeServerInfo() != nil {
		t.Errorf("removing server.json twice: %v", removed)
	}
	found := serverFlags{DataDir: d.path}
	if server, _, _ := found.resolve(); server != defaultServer {
		t.Errorf("no server runs: got %q, want %q", server, defaultServer)
	}
}

func TestExitCodes(t *testing.T) {
	tests := []struct {
		name string
		err  error
		want int
	}{
		{"done", nil, 0},
		{"something failed", errors.New("x"), exitFailed},
		{"something failed, with advice", advise(errors.New("x"), "do y"), exitFailed},
		{"wrongly used", misuse(errors.New("x")), exitUsage},
		{"wrongly used, wrapped", fmt.Errorf("a: %w", misuse(errors.New("x"))), exitUsage},
		{"said already", silent(exitFailed), exitFailed},
		{"no server", &client.UnreachableError{Server: "s", Err: errors.New("x")}, exitUnreachable},
		{"no token", &api.Problem{Status: http.StatusUnauthorized}, exitForbidden},
		{"another problem", &api.Problem{Status: http.StatusConflict}, exitFailed},
		{"interrupted", context.Canceled, exitInterrupted},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := exitCode(tt.err); got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestListenFlagsProtectWhatLeavesTheMachine(t *testing.T) {
	tests := []struct {
		name, addr string
		flags      listenFlags
		want       string // of the error, "" for none
	}{
		{name: "loopback", addr: "127.0.0.1:8640"},
		{name: "loopback by name and IPv6", addr: "[::1]:0"},
		{name: "localhost", addr: "localhost:1"},
		{name: "everywhere", addr: ":8640", want: "without protection"},
		{name: "a name that could be anything", addr: "host.example:1", want: "without protection"},
		{name: "everywhere, knowingly", addr: "0.0.0.0:8640", flags: listenFlags{Insecure: true}},
		{name: "everywhere with TLS", addr: "0.0.0.0:8640", flags: listenFlags{TLSCert: "c", TLSKey: "k"}},
		{name: "no port", addr: "127.0.0.1", want: "is no address"},
		{name: "a port by name", addr: "127.0.0.1:http", want: "not a number"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.flags.check("http", tt.addr)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestReachableQueue(t *testing.T) {
	tests := []struct{ name, queue, server, want string }{
		{"an address of its own", "nats://10.0.0.1:8642", "http://metering:8640", "nats://10.0.0.1:8642"},
		{"everywhere: where the server was reached", "nats://0.0.0.0:8642", "http://metering:8640", "nats://metering:8642"},
		{"everywhere, IPv6", "tls://[::]:8642", "https://[2001:db8::1]:8640", "tls://[2001:db8::1]:8642"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := reachable(tt.queue, tt.server); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestPhaseEndsTheProcessWhenAStageFails(t *testing.T) {
	tests := []struct {
		name  string
		stage func(context.Context) error
		want  string
	}{
		{"a stage fails", func(context.Context) error { return errors.New("disk gone") }, "spool: disk gone"},
		{"a stage returns unasked", func(context.Context) error { return nil }, "spool: ended by itself"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, fail := context.WithCancelCause(t.Context())
			p := newPhase(ctx, "the agent", fail)
			p.run("spool", tt.stage)
			<-ctx.Done()
			if got := context.Cause(ctx); got == nil || got.Error() != tt.want {
				t.Errorf("got %v, want %s", got, tt.want)
			}
			if err := p.end(time.Second); err == nil {
				t.Error("end: got no error, want the stage's")
			}
		})
	}
}

func TestPhaseStopsWhatIsAskedToAndNamesWhatDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, fail := context.WithCancelCause(t.Context())
		good := newPhase(ctx, "good", fail)
		good.run("waits", func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() })
		fail(errors.New("the end"))
		if err := good.end(time.Second); err != nil {
			t.Errorf("a stage that obeys: got %v", err)
		}
		stuck := newPhase(ctx, "the ledger", fail)
		release := make(chan struct{})
		stuck.run("stuck", func(context.Context) error { <-release; return nil })
		begin := time.Now()
		err := stuck.end(3 * time.Second)
		if err == nil || !strings.HasPrefix(err.Error(), "the ledger did not stop within 3s") || time.Since(begin) != 3*time.Second {
			t.Errorf("a stage that hangs: got %v after %s", err, time.Since(begin))
		}
		close(release)
	})
}

func TestTablesForPeopleAndForPrograms(t *testing.T) {
	columns := []column{{"NAME", "name", false}, {"CPU", "cpu_us", true}}
	rows := [][]cell{{plain("a\tb\n\x1b[31m"), {"1.00 s", "1000000"}}, {plain(""), plain("")}}
	var person, program strings.Builder
	if err := errors.Join(printTable(&person, true, columns, rows), printTable(&program, false, columns, rows)); err != nil {
		t.Fatal(err)
	}
	if want := "name\tcpu_us\na b \x1b[31m\t1000000\n-\t-\n"; program.String() != want {
		t.Errorf("for a program: got %q, want %q", program.String(), want)
	}
	if want := "NAME          CPU\na?b??[31m  1.00 s\n-               -\n"; person.String() != want {
		t.Errorf("for a person: got %q, want %q", person.String(), want)
	}
}

func TestHumanAmounts(t *testing.T) {
	tests := []struct {
		got, want string
	}{
		{humanTime(4_820_000), "4.82 s"},
		{humanTime(3_600 * 1e6), "60.0 min"},
		{humanTime(86_400 * 1e6), "24.0 h"},
		{humanTime(-3_600 * 1e6), "-60.0 min"},
		{humanBytes(0), "0 B"},
		{humanBytes(-2048), "-2.0 KiB"},
		{humanBytes(419430), "0.4 MiB"},
		{humanBytes(2048), "2.0 KiB"},
		{humanBytes(3.2 * (1 << 30)), "3.2 GiB"},
		{humanBytes(2 << 40), "2.0 TiB"},
		{humanIntegral(1024 * 3600), "1.000"},
		{count(1, "entry", "entries"), "1 entry"},
		{count(0, "entry", "entries"), "0 entries"},
		{tilde("/home/ada/x", func(string) (string, bool) { return "/home/ada", true }), "~/x"},
		{tilde("/srv/x", func(string) (string, bool) { return "/home/ada", true }), "/srv/x"},
	}
	for _, tt := range tests {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

func TestQuarantineIDs(t *testing.T) {
	if p, n, err := parseQuarantineID("17-3"); p != 17 || n != 3 || err != nil {
		t.Errorf("got %d, %d, %v, want 17, 3", p, n, err)
	}
	for _, bad := range []string{"", "17", "17-", "-3", "64-1", "1-0", "a-b", "1-2-3"} {
		if _, _, err := parseQuarantineID(bad); err == nil {
			t.Errorf("%q: got no error", bad)
		}
	}
}

func TestProgressForPeopleAndForLogs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var person, log strings.Builder
		bar, lines := newProgress(streams{err: &person, errTTY: true}), newProgress(streams{err: &log})
		for i := range int64(101) {
			bar.set(i, 100, "records")
			lines.set(i, 100, "records")
			time.Sleep(250 * time.Millisecond)
		}
		bar.end()
		if want := "\r[############            ]  50% records · 13s left"; !strings.Contains(person.String(), want) {
			t.Errorf("for a person: got %q, want %q in it", person.String(), want)
		}
		if !strings.HasSuffix(person.String(), " \r") {
			t.Errorf("the bar is not taken away at the end: %q", person.String())
		}
		if want := " 40% records · 15s left\n 80% records · 5s left\n"; log.String() != want {
			t.Errorf("for a log: got %q, want %q", log.String(), want)
		}
	})
}

func TestDefaultDataDir(t *testing.T) {
	if os.Getuid() == 0 {
		if got := defaultDataDir(noEnv, "agent"); got != "/var/lib/odometer/agent" {
			t.Errorf("root: got %s", got)
		}
		return
	}
	env := map[string]string{"HOME": "/home/ada"}
	lookup := func(name string) (string, bool) { v, ok := env[name]; return v, ok }
	if got := defaultDataDir(lookup, ""); got != "/home/ada/.local/share/odometer" {
		t.Errorf("got %s", got)
	}
	env["XDG_DATA_HOME"] = "/data"
	if got := defaultDataDir(lookup, "replay"); got != "/data/odometer/replay" {
		t.Errorf("got %s", got)
	}
}

func TestDoctorNamesWhatDoesNotWork(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if f, usable := checkDataDir(file); f[0].Status != checkFail || usable != "" {
		t.Errorf("a file: got %+v, usable %q", f, usable)
	}
	if f, usable := checkDataDir(filepath.Join(dir, "a", "b")); f[0].Status != checkNote || usable != dir {
		t.Errorf("not there yet: got %+v, usable %q, want %q", f, usable, dir)
	}
	if f := checkSync(filepath.Join(dir, "missing")); f.Status != checkFail || f.Next == "" {
		t.Errorf("a directory that cannot be written: got %+v", f)
	}
	if f := checkSync(dir); f.Status == checkFail || !strings.HasPrefix(f.Detail, "median ") {
		t.Errorf("a good directory: got %+v", f)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "doctor*")); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	if err := os.WriteFile(filepath.Join(dir, tokenFile), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, _ := checkDataDir(dir)
	if last := f[len(f)-1]; last.Check != "token" || last.Status != checkFail {
		t.Errorf("a token that others may read: got %+v", last)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if f := checkPort("port http", l.Addr().String(), false, true); f.Status != checkFail {
		t.Errorf("a port in use: got %+v", f)
	}
	if f := checkPort("port http", l.Addr().String(), true, true); f.Status != checkOK {
		t.Errorf("the running server's own port: got %+v", f)
	}
	if f := checkPort("port queue", "nats://elsewhere:4222", false, false); f.Status != checkNote {
		t.Errorf("an external queue: got %+v", f)
	}
	broken := httptest.NewServer(http.NotFoundHandler())
	defer broken.Close()
	c := doctorConfig{serverFlags: serverFlags{Server: broken.URL, DataDir: dir, Token: "t"}}
	if f := checkServer(t.Context(), c, false); f.Status != checkFail {
		t.Errorf("something else answers: got %+v", f)
	}
	c.Server = "http://127.0.0.1:1"
	if f := checkServer(t.Context(), c, false); f.Status != checkFail {
		t.Errorf("a server was named and does not answer: got %+v", f)
	}
}

func TestConsoleTellsWhatWasRecorded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		open := testEvent(2)
		var stored, commits atomic.Uint64
		var booked atomic.Int64
		w := watched{
			open: func() []*odometer.Event { return []*odometer.Event{open} }, stored: stored.Load,
			commits: commits.Load, entries: booked.Load, backlog: func() int64 { return int64(stored.Load() - commits.Load()) },
		}
		var out strings.Builder
		c := newConsole(streams{out: &out, outTTY: true}, nil)
		c.hint = "odometer usage list"
		c.header("web-01", "unassigned", "~/x", "http://127.0.0.1:8640", "")
		ctx, stop := context.WithCancel(t.Context())
		go c.run(ctx, w)
		time.Sleep(2100 * time.Millisecond)
		synctest.Wait()
		if !strings.Contains(out.String(), "00:02  cpu 1.50 s · mem 512.0 MiB · disk unknown · out 2.0 KiB · gpu none    (open)") {
			t.Errorf("within two seconds: got %q", out.String())
		}
		c.period(testEvent(1))
		stored.Store(7)
		time.Sleep(time.Second)
		synctest.Wait()
		if strings.Contains(out.String(), "recorded") {
			t.Errorf("told before the receipt: %q", out.String())
		}
		commits.Store(7)
		booked.Store(1)
		time.Sleep(time.Second)
		synctest.Wait()
		if !strings.Contains(out.String(), "period 1 recorded: cpu 1.50 s · mem 512.0 MiB · disk unknown · out 2.0 KiB · gpu none · 1 entry · backlog 0\ntry    odometer usage list ") {
			t.Errorf("after the receipt: got %q", out.String())
		}
		c.period(testEvent(2))
		stop()
		synctest.Wait()
		stored.Store(8)
		commits.Store(8)
		booked.Store(2)
		c.stopped(w, stopPoint{position: 8, committed: 8, entries: 2})
		if !strings.Contains(out.String(), "period 2 recorded") || !strings.HasSuffix(out.String(), "stopped at position 8, committed 8 · backlog 0 · 2 entries · topic 0 behind · everything is recorded\n") {
			t.Errorf("at the end: got %q", out.String())
		}
	})
}

// testEvent is a period of two seconds.
func testEvent(sequence uint64) *odometer.Event {
	e := &odometer.Event{Instance: "web-01", Agent: "web-01", Epoch: odometer.NewEpoch("web-01", "web-01", "n", "m"), Sequence: sequence, FirstSequence: sequence}
	for q, n := range map[odometer.Quantity]int64{odometer.CPU: 1_500_000, odometer.Memory: 1024, odometer.NetworkEgress: 2048, odometer.MeasuredTime: 2_000_000} {
		e.Usage.Vector[q] = n
		e.Usage.Known = e.Usage.Known.With(q)
	}
	return e
}
