// Package outward makes connections to addresses that strangers named, and none
// that lead inside.
//
// A URL is looked at when somebody registers it, which tells him at once what will not
// do. What counts is the look at each connection: the dialer hands the address that it
// is about to connect to, after the name was resolved, to [Guard], so that a name whose
// address changes, or that has several, leads nowhere else. Whatever does not belong
// to the public internet is refused: what IANA's registries of special purpose have for
// IPv4, and all of IPv6 outside its global unicast, with the special purposes in that.
// An operator may allow ranges.
package outward

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"

	"code.dny.dev/ssrf"
)

// ErrInside says that an address does not belong to the public internet and is not
// allowed.
var ErrInside = errors.New("the address is not on the public internet")

const (
	// MaxURL is how many bytes a URL may have, as browsers' bars take them.
	MaxURL = 2048
	// maxHost and maxLabel are what DNS has room for.
	maxHost  = 253
	maxLabel = 63
	// dialWithin is for a connection, of which there may be several to try.
	dialWithin = 5 * time.Second
	// idle is how long a connection is kept that nobody uses.
	idle = 30 * time.Second
	// maxHeader bounds the header of an answer, in bytes.
	maxHeader = 64 << 10
)

// Guard decides which addresses may be connected to. It is not changed after
// [NewGuard], and its methods may be called at once.
type Guard struct {
	allow []netip.Prefix
	rest  *ssrf.Guardian
}

// NewGuard returns a guard that allows, beside the public internet, the ranges named.
func NewGuard(allow ...netip.Prefix) *Guard {
	return &Guard{allow: allow, rest: ssrf.New(ssrf.WithAnyPort())}
}

// embedded are the ranges of IPv6 that lead to an address of IPv4, and the byte at
// which that stands.
var embedded = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("::/96"), 12},          // compatible with IPv4 (RFC 4291)
	{netip.MustParsePrefix("64:ff9b::/96"), 12},   // NAT64 (RFC 6052)
	{netip.MustParsePrefix("2002::/16"), 2},       // 6to4 (RFC 3056)
	{netip.MustParsePrefix("64:ff9b:1::/48"), 12}, // local NAT64 (RFC 8215), where it is of /96
}

// Addr returns nil for an address that may be connected to, and otherwise an error that
// wraps [ErrInside]. An address of IPv4 written as one of IPv6 is that of IPv4, and where
// a range is allowed that leads to addresses of IPv4, these have to be allowed, too.
func (g *Guard) Addr(a netip.Addr) error {
	if a.Zone() != "" {
		return fmt.Errorf("%s has a zone: %w", a, ErrInside)
	}
	a = a.Unmap()
	if !g.allows(a) {
		if g.rest.SafeAddr(a) != nil {
			return fmt.Errorf("%s: %w", a, ErrInside)
		}
		return nil
	}
	for _, e := range embedded {
		if e.prefix.Contains(a) && e.prefix.Bits() > 0 && !a.IsLoopback() && !a.IsUnspecified() {
			b := a.As16()
			return g.Addr(netip.AddrFrom4([4]byte(b[e.at : e.at+4])))
		}
	}
	return nil
}

func (g *Guard) allows(a netip.Addr) bool {
	for _, p := range g.allow {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// Control is for [net.Dialer].Control: it sees the address of each connection before
// that is made.
func (g *Guard) Control(network, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" {
		return fmt.Errorf("%s over %s: %w", address, network, ErrInside)
	}
	return g.Addr(ap.Addr())
}

// URL returns what is wrong with a URL of http or https that somebody registers. Whether
// the addresses of a name may be connected to is seen when that happens.
func (g *Guard) URL(text string) error {
	if len(text) > MaxURL {
		return fmt.Errorf("it has %d bytes, at most %d are allowed", len(text), MaxURL)
	}
	for i := range len(text) {
		if c := text[i]; c <= ' ' || c >= 0x7f || c == '\\' {
			return fmt.Errorf("it has the byte %#02x, which a URL has percent-encoded, and a host in its ASCII form (xn--…)", c)
		}
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return errors.New("it is no URL")
	case u.Scheme != "https" && u.Scheme != "http":
		return errors.New("it does not begin with https:// or http://")
	case u.Opaque != "" || u.Host == "":
		return errors.New("it has no host")
	case u.User != nil:
		return errors.New("it has a name or a password before the host")
	case u.Fragment != "" || strings.Contains(text, "#"):
		return errors.New("it has a fragment (#), which is not sent to a server")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("it has no port %s", port)
		}
	} else if strings.HasSuffix(u.Host, ":") {
		return errors.New("it has a colon and no port")
	}
	return g.host(u.Hostname(), strings.HasPrefix(u.Host, "["))
}

// host returns what is wrong with a host, which is in brackets where that is an address
// of IPv6.
func (g *Guard) host(host string, brackets bool) error {
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Is6() != brackets {
			return errors.New("its host has brackets, and is no address of IPv6")
		}
		return g.Addr(a)
	}
	if brackets {
		return errors.New("its host is no address of IPv6")
	}
	host = strings.ToLower(host)
	if len(host) > maxHost {
		return fmt.Errorf("its host has %d characters, at most %d are allowed", len(host), maxHost)
	}
	labels := strings.Split(host, ".")
	for _, l := range labels {
		switch {
		case l == "":
			return errors.New("its host has two dots side by side, or one at an end")
		case len(l) > maxLabel || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" || l[0] == '-' || l[len(l)-1] == '-':
			return fmt.Errorf("%.80q in its host is no name", l)
		}
	}
	// Some resolvers read 2130706433, 0x7f000001, 0177.1 and the like as addresses.
	last := labels[len(labels)-1]
	if _, err := strconv.ParseUint(last, 0, 64); err == nil || strings.Trim(last, "0123456789") == "" || strings.HasPrefix(last, "0x") {
		return errors.New("its host ends in a number, and is no address as it is usually written")
	}
	if (last == "localhost" || last == "localdomain") && len(g.allow) == 0 {
		return fmt.Errorf("%s: %w", host, ErrInside)
	}
	return nil
}

// Options say how a client connects.
type Options struct {
	Guard    *Guard
	Within   time.Duration // for a request with its answer
	TLS      *tls.Config   // whom it trusts; nil for what the system does
	Resolver *net.Resolver // nil for the system's
}

// Client returns a client that connects only to where the guard lets it: it follows no
// redirect and knows no proxy. Close its idle connections at the end.
func Client(o Options) *http.Client {
	d := &net.Dialer{Timeout: dialWithin, Control: o.Guard.Control, Resolver: o.Resolver}
	return &http.Client{
		Timeout:       o.Within,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
				return d.DialContext(ctx, network, address)
			},
			TLSClientConfig:        o.TLS,
			ForceAttemptHTTP2:      true,
			TLSHandshakeTimeout:    dialWithin,
			MaxResponseHeaderBytes: maxHeader,
			MaxIdleConnsPerHost:    8,
			MaxIdleConns:           256,
			IdleConnTimeout:        idle,
			DisableCompression:     true, // an answer is read as it comes, so far and no further
		},
	}
}
