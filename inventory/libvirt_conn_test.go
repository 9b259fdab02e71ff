package inventory

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"example.org/odometer"
	"github.com/digitalocean/go-libvirt"
)

// TestServersThatAreNoLibvirt connects to servers of every other kind: each is
// an error in good time, and leaves nothing behind.
func TestServersThatAreNoLibvirt(t *testing.T) {
	packet := func(size uint32, rest ...byte) []byte {
		return append(binary.BigEndian.AppendUint32(nil, size), rest...)
	}
	// What a libvirt answers to the first call, but for what is said.
	reply := func(serial uint32, status uint32, payload ...byte) []byte {
		b := packet(uint32(28 + len(payload)))
		for _, n := range [...]uint32{0x20008086, 1, 66, 1, serial, status} {
			b = binary.BigEndian.AppendUint32(b, n)
		}
		return append(b, payload...)
	}
	for name, c := range map[string]struct {
		answer []byte
		hangs  bool // and keeps the connection
		reason string
	}{
		"says nothing and hangs":               {hangs: true, reason: "libvirt does not answer: not within 200ms"},
		"closes at once":                       {reason: "libvirt does not answer: "},
		"speaks HTTP":                          {answer: []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), hangs: true, reason: "a packet of 1213486160 bytes: that is no libvirt"},
		"a packet of no bytes":                 {answer: packet(0), hangs: true, reason: "a packet of 0 bytes: that is no libvirt"},
		"a packet shorter than its header":     {answer: packet(27), hangs: true, reason: "a packet of 27 bytes"},
		"a packet longer than any":             {answer: packet(32<<20 + 5), hangs: true, reason: "a packet of 33554437 bytes"},
		"a packet that does not end":           {answer: packet(1<<20, make([]byte, 4000)...), hangs: true, reason: "not within 200ms"},
		"half a packet and closes":             {answer: packet(100, make([]byte, 50)...), reason: "libvirt does not answer: "},
		"an answer to another call":            {answer: reply(99, 0, 0, 0, 0, 0), hangs: true, reason: "not within 200ms"},
		"an answer that is cut short":          {answer: reply(1, 0), hangs: true, reason: "libvirt does not answer: "},
		"an error that is cut short":           {answer: reply(1, 1, 0, 0, 0, 1), hangs: true, reason: "libvirt does not answer: "},
		"nothing but zeros after a good start": {answer: append(reply(1, 0, 0, 0, 0, 0), make([]byte, 500)...), hangs: true, reason: "a packet of 0 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			before := runtime.NumGoroutine()
			socket := filepath.Join(t.TempDir(), "sock")
			server, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			served := make(chan struct{})
			go func() {
				defer close(served)
				conn, err := server.Accept()
				if err != nil {
					return
				}
				defer conn.Close()
				b := make([]byte, 28)
				io.ReadFull(conn, b)
				conn.Write(c.answer)
				if c.hangs {
					io.Copy(io.Discard, conn) // until the other side has had enough
				}
			}()
			l := NewLibvirt(LibvirtOptions{Clock: realClock{}, Socket: socket, Timeout: 200 * time.Millisecond})
			start := time.Now()
			vms, err := l.List(t.Context())
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("it took %s", took)
			}
			if vms != nil || err == nil || !strings.Contains(err.Error(), "open qemu:///system at "+socket) || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("got %v, %v; want %q", vms, err, c.reason)
			}
			if _, again := l.List(t.Context()); again == nil || !errors.Is(again, err) || !strings.Contains(again.Error(), "to be tried again in") {
				t.Errorf("asked again at once: got %v", again)
			}
			l.Close()
			<-served
			server.Close()
			for range 100 {
				if runtime.NumGoroutine() <= before {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			b := make([]byte, 1<<20)
			t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, b[:runtime.Stack(b, true)])
		})
	}
}

// A socket file that nobody listens on any more is passed over.
func TestASocketThatWasLeft(t *testing.T) {
	root := t.TempDir()
	l := NewLibvirt(LibvirtOptions{Clock: realClock{}, Root: root, Timeout: time.Second})
	defer l.Close()
	if l.Name() != "libvirt" || l.host.run != filepath.Join(root, "run/libvirt/qemu") {
		t.Errorf("got %s, %s", l.Name(), l.host.run)
	}
	tree := t.TempDir()
	for _, name := range [...]string{"old", "older"} {
		s, err := net.Listen("unix", filepath.Join(tree, name))
		if err != nil {
			t.Fatal(err)
		}
		s.(*net.UnixListener).SetUnlinkOnClose(false)
		s.Close()
	}
	l.opt.Socket = filepath.Join(tree, "old")
	_, err := l.List(t.Context())
	if err == nil || !strings.Contains(err.Error(), "connect to libvirt: dial unix") || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("got %v", err)
	}
}

// Packets arrive in pieces of any size.
func TestFraming(t *testing.T) {
	var stream []byte
	for size := range uint32(40) {
		stream = append(binary.BigEndian.AppendUint32(stream, leastPacket+size), make([]byte, leastPacket+size-4)...)
	}
	for name, wrap := range map[string]func(io.Reader) io.Reader{
		"whole": func(r io.Reader) io.Reader { return r }, "by halves": iotest.HalfReader, "byte by byte": iotest.OneByteReader,
	} {
		f := &framed{Conn: stub{wrap(strings.NewReader(string(stream)))}, gone: make(chan struct{})}
		got, err := io.ReadAll(f)
		if err != nil || string(got) != string(stream) {
			t.Errorf("%s: got %d bytes of %d: %v", name, len(got), len(stream), err)
		}
	}
}

// stub is a connection that only reads.
type stub struct{ r io.Reader }

func (s stub) Read(b []byte) (int, error)       { return s.r.Read(b) }
func (s stub) Write(b []byte) (int, error)      { return len(b), nil }
func (s stub) Close() error                     { return nil }
func (s stub) LocalAddr() net.Addr              { return nil }
func (s stub) RemoteAddr() net.Addr             { return nil }
func (s stub) SetDeadline(time.Time) error      { return nil }
func (s stub) SetReadDeadline(time.Time) error  { return nil }
func (s stub) SetWriteDeadline(time.Time) error { return nil }

func FuzzFraming(f *testing.F) {
	f.Add(binary.BigEndian.AppendUint32(nil, 28), 3)
	f.Add([]byte("HTTP/1.1 200 OK"), 1)
	f.Fuzz(func(t *testing.T, stream []byte, piece int) {
		c := &framed{Conn: stub{strings.NewReader(string(stream))}, gone: make(chan struct{})}
		b := make([]byte, 1+uint(piece)%64)
		for {
			n, err := c.Read(b)
			if n < 0 || n > len(b) || c.left < 0 || c.left > mostPacket || c.have > 4 {
				t.Fatalf("read %d, %+v", n, c)
			}
			if err != nil {
				break
			}
		}
		<-c.gone
	})
}

// TestEvents says what each event means that is not simply a row of a table.
func TestEvents(t *testing.T) {
	dom := libvirt.Domain{Name: "web", ID: 3, UUID: libvirt.UUID{0x1f, 0x7c}}
	off := dom
	off.ID = -1
	life := func(dom libvirt.Domain, event libvirt.DomainEventType, detail int32) any {
		return &libvirt.DomainEventCallbackLifecycleMsg{Msg: libvirt.DomainEventLifecycleMsg{Dom: dom, Event: int32(event), Detail: detail}}
	}
	for name, c := range map[string]struct {
		event any
		want  saying
	}{
		"destroyed is stopped":             {life(off, libvirt.DomainEventStopped, 1), saying{odometer.ChangeStopped, "destroyed"}},
		"crashed is crashed":               {life(off, libvirt.DomainEventStopped, 2), saying{odometer.ChangeCrashed, "crashed"}},
		"migrated is moved":                {life(off, libvirt.DomainEventStopped, 3), saying{odometer.ChangeMoved, "to another host"}},
		"saved is stopped":                 {life(off, libvirt.DomainEventStopped, 4), saying{odometer.ChangeStopped, "saved"}},
		"undefined while it is off":        {life(off, libvirt.DomainEventUndefined, 0), saying{odometer.ChangeDeleted, ""}},
		"undefined while it runs":          {life(dom, libvirt.DomainEventUndefined, 0), saying{"", "its definition was removed while it runs"}},
		"renamed is nothing to log":        {life(off, libvirt.DomainEventUndefined, 1), saying{"", "it was renamed"}},
		"arriving is not started yet":      {life(dom, libvirt.DomainEventStarted, 1), saying{"", "it is on its way here"}},
		"a panic does not end the run":     {life(dom, libvirt.DomainEventCrashed, 0), saying{"", "its kernel panicked"}},
		"a detail of a newer libvirt":      {life(dom, libvirt.DomainEventStopped, 99), saying{}},
		"an event of a newer libvirt":      {life(dom, 99, 0), saying{}},
		"a balloon that moved":             {&libvirt.DomainEventCallbackBalloonChangeMsg{Msg: libvirt.DomainEventBalloonChangeMsg{Dom: dom, Actual: 1024}}, saying{"", "its balloon leaves it 1024 KiB"}},
		"another medium in a drive":        {&libvirt.DomainEventCallbackDiskChangeMsg{Msg: libvirt.DomainEventDiskChangeMsg{Dom: dom}}, saying{"", "a disk has another source"}},
		"a reboot inside":                  {&libvirt.DomainEventCallbackRebootMsg{Msg: libvirt.DomainEventRebootMsg{Dom: dom}}, saying{odometer.ChangeRebooted, ""}},
		"suspended by itself is paused":    {life(dom, libvirt.DomainEventPmsuspended, 0), saying{odometer.ChangePaused, "it suspended itself to memory"}},
		"woken up is resumed":              {life(dom, libvirt.DomainEventStarted, 4), saying{odometer.ChangeResumed, "woken up"}},
		"shutting down is not stopped yet": {life(dom, libvirt.DomainEventShutdown, 1), saying{"", "it shuts itself down"}},
	} {
		got, what, ok := meaning(c.event)
		if !ok || what != c.want || got.UUID != dom.UUID {
			t.Errorf("%s: got %+v of %+v, want %+v", name, what, got, c.want)
		}
	}
	if _, _, ok := meaning(&libvirt.DomainEventCallbackRtcChangeMsg{}); ok {
		t.Error("an event that was not asked for has a meaning")
	}
	for reason, how := range shutoff {
		if how.kind == "" || how.detail == "" {
			t.Errorf("reason %d: got %+v", reason, how)
		}
	}
}

// A domain that comes from another host is in the list from when it runs here,
// and one that goes there until it has gone.
func TestFollowAMigration(t *testing.T) {
	type step struct {
		state  libvirt.DomainState
		reason libvirt.DomainPausedReason
		id     int32
		listed bool
		want   odometer.State
		moved  bool // that it came is told
	}
	for name, steps := range map[string][]step{
		"one that arrives": {
			{libvirt.DomainPaused, libvirt.DomainPausedStartingUp, 4, false, odometer.Paused, false},
			{libvirt.DomainPaused, libvirt.DomainPausedMigration, 4, false, odometer.Paused, false},
			{libvirt.DomainRunning, 0, 4, true, odometer.Running, true},
			{libvirt.DomainPaused, libvirt.DomainPausedMigration, 4, true, odometer.Paused, false}, // and goes on
		},
		"one that arrives paused": {
			{libvirt.DomainPaused, libvirt.DomainPausedMigration, 4, false, odometer.Paused, false},
			{libvirt.DomainPaused, libvirt.DomainPausedUser, 4, true, odometer.Paused, true},
		},
		"one that does not arrive after all": {
			{libvirt.DomainPaused, libvirt.DomainPausedMigration, 4, false, odometer.Paused, false},
			{libvirt.DomainShutoff, 0, -1, true, odometer.Stopped, false},
		},
		"one that leaves": {
			{libvirt.DomainRunning, 0, 4, true, odometer.Running, false},
			{libvirt.DomainPaused, libvirt.DomainPausedMigration, 4, true, odometer.Paused, false},
			{libvirt.DomainShutoff, libvirt.DomainPausedReason(libvirt.DomainShutoffMigrated), -1, true, odometer.Stopped, false},
		},
		"one that is started paused": {
			{libvirt.DomainShutoff, 0, -1, true, odometer.Stopped, false},
			{libvirt.DomainPaused, libvirt.DomainPausedStartingUp, 5, false, odometer.Paused, false},
			{libvirt.DomainPaused, libvirt.DomainPausedUser, 5, true, odometer.Paused, false},
			{libvirt.DomainPmsuspended, 0, 5, true, odometer.Paused, false},
			{libvirt.DomainCrashed, 0, 5, true, odometer.Paused, false},
			{libvirt.DomainShutdown, 0, 5, true, odometer.Running, false},
			{libvirt.DomainBlocked, 0, 5, true, odometer.Running, false},
			{libvirt.DomainNostate, 0, 5, true, odometer.Running, false},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := NewLibvirt(LibvirtOptions{Clock: realClock{}, Root: t.TempDir()})
			k := &knownDomain{id: -1}
			for i, s := range steps {
				l.follow(k, libvirt.Domain{Name: "web", ID: s.id}, s.state, int32(s.reason))
				if k.state != s.want || k.arriving == s.listed {
					t.Errorf("step %d: got %s, arriving %t; want %s, listed %t", i, k.state, k.arriving, s.want, s.listed)
				}
				var got []odometer.Change
				for len(l.Told()) > 0 {
					got = append(got, <-l.Told())
				}
				if s.moved != (len(got) == 1 && got[0].Kind == odometer.ChangeMoved) || !s.moved && len(got) > 0 {
					t.Errorf("step %d: told %+v", i, got)
				}
			}
		})
	}
}
