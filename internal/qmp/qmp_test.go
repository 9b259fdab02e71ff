package qmp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

const (
	greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}` + "\r\n"
	accepted = `{"return": {}, "id": 1}` + "\r\n"
)

// socket listens where a monitor would and does with each connection what
// serve does. A nil serve accepts none.
func socket(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "qmp-")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for serve != nil {
			c, err := l.Accept()
			if err != nil {
				return
			}
			serve(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done; os.RemoveAll(dir) })
	return path
}

// after reads one command and then sends text.
func after(c net.Conn, text string) {
	b := make([]byte, 4096)
	if _, err := c.Read(b); err == nil {
		io.WriteString(c, text)
	}
}

// hold keeps the connection until the client closes it.
func hold(c net.Conn) { io.Copy(io.Discard, c) }

func TestDialSaysWhatIsWrong(t *testing.T) {
	long := `{"QMP": "` + strings.Repeat("x", longest) + `"}`
	for _, c := range []struct {
		name  string
		serve func(net.Conn)
		want  string
	}{
		{"nobody accepts", nil, ErrNoGreeting.Error()},
		{"it accepts and says nothing", hold, ErrNoGreeting.Error()},
		{"it closes at once", func(net.Conn) {}, "EOF"},
		{"garbage", func(c net.Conn) { io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n"); hold(c) }, "invalid character"},
		{"JSON of something else", func(c net.Conn) { io.WriteString(c, `{"hello": "world"}`); hold(c) }, "neither a greeting nor"},
		{"an answer before the greeting", func(c net.Conn) { io.WriteString(c, `{"return": {}}`); hold(c) }, "no QEMU monitor"},
		{"a greeting without end", func(c net.Conn) { io.WriteString(c, long) }, ErrTooLong.Error()},
		{"capabilities are refused", func(c net.Conn) {
			io.WriteString(c, greeting)
			after(c, `{"id": 1, "error": {"class": "CommandNotFound", "desc": "no"}}`)
			hold(c)
		}, "QEMU says CommandNotFound: no"},
		{"it hangs after the greeting", func(c net.Conn) { io.WriteString(c, greeting); hold(c) }, ErrNoAnswer.Error()},
		{"it closes after the greeting", func(c net.Conn) { io.WriteString(c, greeting); after(c, "") }, "QEMU closed the connection"},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			if c.want == ErrTooLong.Error() {
				ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
			}
			defer cancel()
			client, err := Dial(ctx, socket(t, c.serve), nil)
			if err == nil {
				client.Close()
				t.Fatal("it connected")
			}
			if !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "connect to the QEMU monitor /") {
				t.Errorf("got %q, want %q in it", err, c.want)
			}
		})
	}
	t.Run("no socket", func(t *testing.T) {
		if _, err := Dial(t.Context(), "/nonexistent/socket", nil); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("nobody listens any more", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "s")
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		l.Close()
		if _, err := Dial(t.Context(), path, nil); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("the caller gives up", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(20*time.Millisecond, cancel)
		begin := time.Now()
		if _, err := Dial(ctx, socket(t, hold), nil); err == nil || time.Since(begin) > time.Second {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
	})
}

// pair is a client whose other end the test plays.
func pair(t *testing.T, event func(Event), serve func(net.Conn)) *Client {
	t.Helper()
	c, err := Dial(t.Context(), socket(t, func(c net.Conn) {
		io.WriteString(c, greeting)
		after(c, accepted)
		serve(c)
	}), event)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestAnswersAreMatched(t *testing.T) {
	var events []string
	c := pair(t, func(e Event) { events = append(events, e.Name) }, func(c net.Conn) {
		after(c, "") // the first is not answered in time
		after(c, `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 2}}
			{"id": 2, "return": {"running": true, "status": "late"}}
			{"return": {"running": true, "status": "for nobody"}}
			{"id": 99, "return": {"running": true, "status": "for another"}}
			{"event": "RESUME", "timestamp": {"seconds": 1, "microseconds": 2}}
			{"id": 3,
			 "return": {"running": false,
			            "status": "paused"}}`)
		after(c, `{"id": 4, "error": {"class": "DeviceNotActive", "desc": "No balloon device has been activated"}}`)
		after(c, `{"id": 5, "return": {}}`)
		after(c, `{"id": 6, "return": [1]}`)
		hold(c)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Status(ctx); !errors.Is(err, ErrNoAnswer) {
		t.Errorf("got %v, want %v", err, ErrNoAnswer)
	}
	if s, err := c.Status(t.Context()); err != nil || s != (Status{false, "paused"}) {
		t.Errorf("got %v, %v", s, err)
	}
	if got := strings.Join(events, " "); got != "STOP RESUME" {
		t.Errorf("got events %q", got)
	}
	_, err := c.Balloon(t.Context())
	if e, ok := errors.AsType[*Error](err); !ok || e.Class != "DeviceNotActive" {
		t.Errorf("got %v", err)
	}
	if n, err := c.Balloon(t.Context()); err == nil {
		t.Errorf("an answer without a size is a balloon of %d", n)
	}
	if _, err := c.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "query-status: QEMU's answer") {
		t.Errorf("got %v", err)
	}
	if err := c.Err(); err != nil {
		t.Errorf("the connection ended: %v", err)
	}
}

func TestAConnectionThatEnds(t *testing.T) {
	for _, c := range []struct {
		name, sends, want string
	}{
		{"QEMU ends", "", "QEMU closed the connection"},
		{"garbage in between", "\x00\x01\x02", "invalid character"},
		{"half a message", `{"id": 2, "ret`, "unexpected EOF"},
		{"a huge answer", `{"id": 2, "return": {"status": "` + strings.Repeat("x", longest) + `"}}`, ErrTooLong.Error()},
		{"two kinds in one", `{"id": 2, "return": {}, "event": "STOP"}`, "neither a greeting nor"},
		{"deep nesting", strings.Repeat("[", 100_000), "exceeded max depth"},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := pair(t, nil, func(conn net.Conn) { after(conn, c.sends) })
			if _, err := client.Status(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			<-client.Done()
			if _, err := client.CPUs(t.Context()); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("the next call: got %v, want %q", err, c.want)
			}
			if err := client.Err(); err == nil {
				t.Error("Err is nil after the end")
			}
		})
	}
	t.Run("closed at this end", func(t *testing.T) {
		client := pair(t, nil, hold)
		client.Close()
		if _, err := client.Status(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("QEMU hangs and its buffer is full", func(t *testing.T) {
		gone := make(chan struct{})
		client := pair(t, nil, func(net.Conn) { <-gone })
		defer close(gone)
		var err error
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			err = client.Execute(ctx, "query-status", map[string]string{"padding": strings.Repeat("x", 4096)}, nil)
			cancel()
			if !errors.Is(err, ErrNoAnswer) {
				t.Fatal(err)
			}
			if client.Err() != nil {
				return
			}
		}
		t.Error("it went on writing")
	})
}

// TestPatience is on fake time, over a pipe that nobody answers at.
func TestPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		c := &Client{conn: here, event: func(Event) {}, done: make(chan struct{}), waiting: map[uint64]chan message{}}
		go c.read(newReader(here))
		begin := time.Now()
		if _, err := c.Status(t.Context()); !errors.Is(err, ErrNoAnswer) || time.Since(begin) != Patience {
			t.Errorf("got %v after %v", err, time.Since(begin))
		}
		c.Close()
		there.Close()
	})
}

func TestEvents(t *testing.T) {
	const stamp = `"timestamp": {"seconds": 1764252000, "microseconds": 250000}`
	at := time.Unix(1764252000, 250_000_000)
	for _, c := range []struct {
		name, text string
		want       Event
	}{
		{"a guest powers off", `{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, ` + stamp + `}`,
			Event{Name: "SHUTDOWN", At: at, Guest: true, Reason: "guest-shutdown", Actual: -1}},
		{"a guest reboots", `{"event": "RESET", "data": {"guest": true, "reason": "guest-reset"}, ` + stamp + `}`,
			Event{Name: "RESET", At: at, Guest: true, Reason: "guest-reset", Actual: -1}},
		{"the balloon moves", `{"event": "BALLOON_CHANGE", "data": {"actual": 67108864}, ` + stamp + `}`,
			Event{Name: "BALLOON_CHANGE", At: at, Actual: 67108864}},
		{"a device with a name goes", `{"event": "DEVICE_DELETED", "data": {"device": "nic0", "path": "/machine/peripheral/nic0"}, ` + stamp + `}`,
			Event{Name: "DEVICE_DELETED", At: at, Device: "nic0", Path: "/machine/peripheral/nic0", Actual: -1}},
		{"QEMU's clock failed", `{"event": "STOP", "timestamp": {"seconds": -1, "microseconds": -1}}`,
			Event{Name: "STOP", Actual: -1}},
		{"an event with other data under the same names", `{"event": "JOB", "data": {"device": {"id": 7}}, ` + stamp + `}`,
			Event{Name: "JOB", At: at, Actual: -1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := decode([]byte(c.text))
			if err != nil {
				t.Fatal(err)
			}
			got := m.event()
			if (got.Data != nil) != strings.Contains(c.text, `"data"`) {
				t.Errorf("got data %q", got.Data)
			}
			got.Data = nil
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// FuzzDecode reads a stream as the client does: it ends in an error, and
// never in a message that is nothing.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(greeting + accepted))
	f.Add([]byte(`{"event": "BALLOON_CHANGE", "data": {"actual": -1}, "timestamp": {"seconds": -1, "microseconds": -1}}`))
	f.Add([]byte(`{"id": 18446744073709551615, "error": {"class": "GenericError", "desc": ""}}`))
	f.Add([]byte("{\n \"id\": null,\n \"return\": null\n}"))
	f.Add([]byte(`{"event": "X", "data": [], "timestamp": 3}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := newReader(bytes.NewReader(b))
		for range len(b) + 1 {
			m, err := r.next()
			if err != nil {
				return
			}
			if m.Greeting == nil && m.Return == nil && m.Error == nil && m.Event == "" {
				t.Fatalf("a message of no kind from %q", b)
			}
			_ = m.event()
		}
		t.Fatalf("more messages than bytes in %q", b)
	})
}

func TestNetworkIsRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       []NIC
	}{
		{"none", "", nil},
		{"a tap that QEMU opened, one that it was passed, with several queues", `nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01
 \ net0: index=0,type=tap,ifname=tap7,script=no,downscript=no
nic1: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:02
 \ net1: index=0,type=tap,fd=27
nic1: index=1,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:02
 \ net1: index=1,type=tap,fd=28
`, []NIC{{"nic0", "52:54:00:00:00:01", "net0", "tap", "tap7", -1}, {"nic1", "52:54:00:00:00:02", "net1", "tap", "", 27}}},
		{"one without anything behind it, and what is behind none", "e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:01\r\nnet0: index=0,type=user,net=10.0.2.0,restrict=off\r\n",
			[]NIC{{"e1000.0", "52:54:00:00:00:01", "", "", "", -1}}},
		{"a hub", `hub 0
 \ hub0port1: #net1: index=0,type=user,net=10.0.2.0,restrict=off
e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:01
 \ hub0port0: index=0,type=hubport,
`, []NIC{{"e1000.0", "52:54:00:00:00:01", "hub0port0", "hubport", "", -1}}},
		{"a bridge helper", `n: index=0,type=nic,model=e1000,macaddr=52:54:00:00:00:01
 \ b: index=0,type=tap,helper=/usr/lib/qemu/qemu-bridge-helper,br=br0
`, []NIC{{"n", "52:54:00:00:00:01", "b", "tap", "", -1}}},
		{"garbage", "\\ : =,\n \\ \nx: type=nic\n \\ y: type=tap,fd=99999999999\n", []NIC{{Name: "x", Netdev: "y", Type: "tap", FD: -1}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := parseNetwork(c.text); !slices.Equal(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}

// FuzzNetwork reads any text of the monitor for people.
func FuzzNetwork(f *testing.F) {
	f.Add("nic0: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01\n \\ net0: index=0,type=tap,ifname=tap7,script=no\n")
	f.Add("hub 0\n \\ hub0port1: #net1: index=0,type=user\n")
	f.Fuzz(func(t *testing.T, text string) {
		names := map[string]bool{}
		for _, n := range parseNetwork(text) {
			if names[n.Name] || n.Type == "" && n.Netdev != "" || n.Type != "tap" && (n.Link != "" || n.FD != -1) {
				t.Errorf("got %+v from %q", n, text)
			}
			names[n.Name] = true
		}
	})
}

// TestAnswersWithoutWhatWasAskedFor are refused, or say that it is unknown.
func TestAnswersWithoutWhatWasAskedFor(t *testing.T) {
	c := pair(t, nil, func(c net.Conn) {
		after(c, `{"id": 2, "return": {"plugged-memory": 1}}`)
		after(c, `{"id": 3, "return": {"base-memory": 9223372036854775807, "plugged-memory": 1}}`)
		after(c, `{"id": 4, "return": [{"device": "d", "inserted": {"image": {"virtual-size": -7}}}]}`)
		after(c, `{"id": 5, "return": [{"name": "type", "type": "string"}]}`)
		after(c, `{"id": 6, "error": {"class": "CommandNotFound", "desc": "no"}}`)
		hold(c)
	})
	for range 2 {
		if base, plugged, err := c.Memory(t.Context()); err == nil {
			t.Errorf("got %d and %d bytes", base, plugged)
		}
	}
	if d, err := c.Drives(t.Context()); err != nil || len(d) != 1 || d[0].VirtualSize != -1 || !d[0].Medium {
		t.Errorf("got %+v, %v", d, err)
	}
	if d, err := c.Devices(t.Context()); err != nil || d == nil || len(d) != 0 {
		t.Errorf("got %v, %v", d, err)
	}
	if n, err := c.NICs(t.Context()); err == nil {
		t.Errorf("got %v", n)
	}
}
