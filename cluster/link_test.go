package main

import (
	"io"
	"net"
	"testing"
	"time"
)

// newEcho says back whatever it is told.
func newEcho(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// talk says something and demands that it is answered, or is not.
func talk(t *testing.T, c net.Conn, what string, answered bool) {
	t.Helper()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatal(err)
	}
	hear(t, c, what, answered)
}

func hear(t *testing.T, c net.Conn, what string, answered bool) {
	t.Helper()
	wait := 100 * time.Millisecond
	if answered {
		wait = 10 * time.Second
	}
	c.SetReadDeadline(time.Now().Add(wait))
	b := make([]byte, len(what))
	n, err := io.ReadFull(c, b)
	if answered && (err != nil || string(b) != what) || !answered && n > 0 {
		t.Fatalf("%q: got %q and %v, answered should be %t", what, b[:n], err, answered)
	}
}
