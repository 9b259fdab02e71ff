package port

import (
	"net"
	"testing"
)

// TestFree has servers on an address, one after the other, while others ask for
// any address, for servers and for connections.
func TestFree(t *testing.T) {
	addr, err := Free()
	if err != nil {
		t.Fatal(err)
	}
	listen := func(addr string) net.Listener {
		t.Helper()
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Error("somebody answers where there is no server")
	}
	for range 2 {
		l := listen(addr)
		if other, err := net.Listen("tcp", addr); err == nil {
			other.Close()
			t.Error("two servers have the address")
		}
		l.Close()
	}
	elsewhere := listen("127.0.0.1:0")
	defer elsewhere.Close()
	for range 40_000 { // more than there are for those who ask for any
		l := listen("127.0.0.1:0")
		if l.Addr().String() == addr {
			t.Error("another server was given the address")
		}
		l.Close()
	}
	for range 200 {
		c, err := net.Dial("tcp", elsewhere.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if c.LocalAddr().String() == addr {
			t.Error("a connection was given the address")
		}
	}
}

// TestFreeLetsGo asks for more addresses than are held at a time.
func TestFreeLetsGo(t *testing.T) {
	first := held
	for range 2 * kept {
		if _, err := Free(); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range first {
		if f != nil && f.Close() == nil {
			t.Error("an address is held longer than it says")
		}
	}
}
