// Package port finds addresses for servers that are started again and again, as
// tests do, and keep their address meanwhile.
package port

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// kept is how many addresses are held at a time: each is an open file.
const kept = 256

var (
	mu   sync.Mutex
	held [kept]*os.File
	next int
)

// Free returns an address of this machine, 127.0.0.1 and a port, that is free and
// is given to nobody who asks for any, be it for a server or for a connection. A
// server that asks for this one gets it, where it sets SO_REUSEADDR as Go's do;
// until then connections to it are refused. So it stays until this process ends or
// has asked for 256 more.
func Free() (string, error) {
	f, addr, err := hold()
	if err != nil {
		return "", fmt.Errorf("find a free address: %w", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if old := held[next]; old != nil {
		old.Close()
	}
	held[next], next = f, (next+1)%kept
	return addr, nil
}

// hold binds a socket that does not listen. The kernel lets another have its
// address that names it, where both set SO_REUSEADDR.
func hold() (*os.File, string, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, "", err
	}
	f := os.NewFile(uintptr(fd), "held address")
	loopback := netip.MustParseAddr("127.0.0.1")
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: loopback.As4()})
	}
	var at unix.Sockaddr
	if err == nil {
		at, err = unix.Getsockname(fd)
	}
	if err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	return f, netip.AddrPortFrom(loopback, uint16(at.(*unix.SockaddrInet4).Port)).String(), nil
}
