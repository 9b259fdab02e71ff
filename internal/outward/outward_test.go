package outward

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// inside are addresses that nobody's URL may lead to, by what they are.
var inside = map[string][]string{
	"this machine":        {"127.0.0.1", "127.1.2.3", "127.255.255.254", "::1"},
	"no address":          {"0.0.0.0", "0.1.2.3", "::"},
	"private":             {"10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.255.255"},
	"link-local":          {"169.254.0.1", "169.254.255.254", "fe80::1", "febf::1"},
	"metadata":            {"169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254", "192.0.0.192"},
	"carriers":            {"100.64.0.1", "100.127.255.254"},
	"multicast":           {"224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"},
	"benchmarks":          {"198.18.0.1", "198.19.255.254"},
	"documentation":       {"192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"},
	"reserved":            {"240.0.0.1", "255.255.255.255", "192.0.0.1", "192.88.99.1", "4000::1", "8000::1"},
	"unique local":        {"fc00::1", "fdff::1"},
	"site-local":          {"fec0::1"},
	"mapped":              {"::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"},
	"compatible":          {"::127.0.0.1", "::10.0.0.1"},
	"NAT64":               {"64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::a00:1"},
	"6to4":                {"2002:7f00:1::", "2002:a00:1::", "2002:a9fe:a9fe::"},
	"Teredo":              {"2001:0:7f00:1::1"},
	"discard":             {"100::1"},
	"segment routing":     {"5f00::1"},
	"benchmarks, of IPv6": {"2001:2::1"},
}

// forms writes an address as URLs do, as people are fooled with, and as resolvers read.
func forms(text string) (list []string) {
	a, err := netip.ParseAddr(text)
	if err != nil {
		return []string{text}
	}
	if a.Is6() && !a.Is4In6() {
		return []string{"[" + text + "]", "[" + a.StringExpanded() + "]", "[" + strings.ToUpper(text) + "]", "[" + text + "%25eth0]", "[" + text, text}
	}
	b := a.Unmap().As4()
	n := binary.BigEndian.Uint32(b[:])
	v4 := a.Unmap().String()
	return []string{
		v4, v4 + ".", fmt.Sprint(n), fmt.Sprintf("0x%x", n), fmt.Sprintf("0%o", n), fmt.Sprintf("0X%X", n),
		fmt.Sprintf("0x%x.0x%x.0x%x.0x%x", b[0], b[1], b[2], b[3]), fmt.Sprintf("0%o.0%o.0%o.0%o", b[0], b[1], b[2], b[3]),
		fmt.Sprintf("%d.%d", b[0], n&0xffffff), fmt.Sprintf("%d.%d.%d", b[0], b[1], n&0xffff), fmt.Sprintf("0%o.%d", b[0], n&0xffffff), fmt.Sprintf("%03d.%03d.%03d.%03d", b[0], b[1], b[2], b[3]),
		"[::ffff:" + v4 + "]", fmt.Sprintf("[::ffff:%x:%x]", n>>16, n&0xffff), "[::" + v4 + "]", "[64:ff9b::" + v4 + "]", "[0:0:0:0:0:ffff:" + v4 + "]",
		fmt.Sprintf("[2002:%x:%x::1]", n>>16, n&0xffff), "[" + v4 + "]", strings.NewReplacer("1", "①", "2", "②").Replace(v4), strings.ReplaceAll(v4, ".", "。"), strings.ReplaceAll(v4, ".", "%2e"),
	}
}

// hostile returns URLs that lead inside, or are none that may be registered.
func hostile() (list []string) {
	for _, addresses := range inside {
		for _, a := range addresses {
			for _, host := range forms(a) {
				for _, format := range []string{"http://%s/", "https://%s:8443/hook", "http://%s:80", "https://%s/?to=https://example.com"} {
					list = append(list, fmt.Sprintf(format, host))
				}
				list = append(list, "http://user@"+host+"/", "http://example.com@"+host+"/", "http://"+host+"#@example.com/", `http://`+host+`\@example.com/`)
			}
		}
	}
	return append(list,
		"", " ", "http://", "https:///path", "//example.com/", "example.com", "ftp://example.com/", "file:///etc/passwd", "gopher://127.0.0.1:6379/_", "dict://x/", "javascript:alert(1)",
		"http:example.com", "http://localhost/", "http://LOCALHOST:9090/", "https://metrics.localhost/", "http://localhost.localdomain/", "http://localhost./", "http://exa mple.com/", "http://example.com:0/", "http://example.com:65536/",
		"http://example.com:/", "http://example.com:http/", "http://example.com/\r\nHost: x", "http://example.com/\x00", "http://bücher.example/", "http://exаmple.com/", "http://.example.com/", "http://example..com/",
		"http://example.com./", "http://-a.example/", "http://a-.example/", "http://"+strings.Repeat("a", 64)+".example/", "http://"+strings.Repeat("a.", 130)+"example/", "http://example.com/"+strings.Repeat("a", MaxURL),
		"http://[::1", "http://::1/", "http://[::1]x/", "http://[fe80::1%25en0]/", "http://[v1.fe80::a]/", "http://1.2.3.4.5/", "http://0x/", "http://127.0.0.1.:80/", "http://example.com:80:80/", "unix:///run/x.sock", "http://%31%32%37.0.0.1/", "http://a.b.0x7f/",
	)
}

// TestHostileURLs: none of a thousand and more may be registered, and none is connected
// to by a client that is given it all the same.
func TestHostileURLs(t *testing.T) {
	g := NewGuard()
	list := hostile()
	if len(list) < 1000 {
		t.Fatalf("the corpus has %d URLs, want 1000 and more", len(list))
	}
	client := Client(Options{Guard: g, Within: time.Second, Resolver: resolver(t, func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("127.0.0.1")} })})
	defer client.CloseIdleConnections()
	for _, u := range list {
		if err := g.URL(u); err == nil {
			t.Errorf("%q may be registered", u)
		}
		res, err := client.Get(u)
		if err == nil {
			res.Body.Close()
		}
		// A system call that failed, or time that passed, would be a connection that was tried.
		if _, tried := errors.AsType[syscall.Errno](err); err == nil || tried || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%q was connected to: %v", u, err)
		}
	}
}

// TestURLsThatAreFine: what is refused is not everything.
func TestURLsThatAreFine(t *testing.T) {
	g := NewGuard()
	for _, u := range []string{
		"https://example.com", "https://hooks.slack.com/services/T000/B000/XXXX", "http://example.com:8080/a?b=c%20d", "https://xn--bcher-kva.example/", "https://a_b.example-1.com/", "https://8.8.8.8/", "https://[2606:4700::1111]:8443/x", "https://EXAMPLE.com/", "http://3com.com/", "http://dead.beef/",
	} {
		if err := g.URL(u); err != nil {
			t.Errorf("%q: %v", u, err)
		}
	}
}

// TestRangesThatAreAllowed: an operator's range is open and no other, and one that leads
// to addresses of IPv4 only to those that may be connected to.
func TestRangesThatAreAllowed(t *testing.T) {
	g := NewGuard(netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("64:ff9b::/96"), netip.MustParsePrefix("fd12::/16"))
	for text, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "127.0.0.1": false, "fd12::1": true, "fd13::1": false,
		"64:ff9b::8.8.8.8": true, "64:ff9b::10.1.0.1": true, "64:ff9b::127.0.0.1": false, "64:ff9b::169.254.169.254": false, "8.8.8.8": true,
	} {
		if err := g.Addr(netip.MustParseAddr(text)); (err == nil) != want {
			t.Errorf("%s: got %v, want allowed %v", text, err, want)
		} else if err != nil && !errors.Is(err, ErrInside) {
			t.Errorf("%s: got %v, want ErrInside", text, err)
		}
	}
}

// resolver asks a real DNS server on this machine, which answers with what is said at each
// question.
func resolver(t *testing.T, answer func() []netip.Addr) *net.Resolver {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := answered(buf[:n], answer()); b != nil {
				conn.WriteTo(b, from)
			}
		}
	}()
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", conn.LocalAddr().String())
	}}
}

// answered makes the answer of a question, RFC 1035: its header and the question, and the
// addresses of the kind that is asked for, each to be kept for 0 s.
func answered(question []byte, addresses []netip.Addr) []byte {
	const header, typeA, typeAAAA = 12, 1, 28
	end := header
	for end < len(question) && question[end] != 0 {
		end += int(question[end]) + 1
	}
	if end += 5; end > len(question) { // the root, the type and the class
		return nil
	}
	kind := binary.BigEndian.Uint16(question[end-4:])
	b := append([]byte(nil), question[:end]...)
	b[2], b[3] = 0x84, 0x80 // an answer, by who knows
	clear(b[6:header])
	for _, a := range addresses {
		if want := map[bool]uint16{true: typeA, false: typeAAAA}[a.Is4()]; want != kind {
			continue
		}
		b[7]++
		b = append(b, 0xc0, header, 0, byte(kind), 0, 1, 0, 0, 0, 0, 0, byte(a.BitLen()/8))
		b = append(b, a.AsSlice()...)
	}
	return b
}

// TestDNSRebinding: a name that led outside when it was looked at and leads inside when
// it is connected to, or whose addresses are of both kinds, is never connected to inside.
func TestDNSRebinding(t *testing.T) {
	var hits atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	here := netip.MustParseAddr("127.0.0.1")
	var asked atomic.Int64
	answers := map[string]func() []netip.Addr{
		"always inside": func() []netip.Addr { return []netip.Addr{here} },
		"outside first, and then inside": func() []netip.Addr {
			if asked.Add(1) == 1 {
				return []netip.Addr{netip.MustParseAddr("192.0.2.1")}
			}
			return []netip.Addr{here}
		},
		"both at once": func() []netip.Addr { return []netip.Addr{netip.MustParseAddr("192.0.2.1"), here} },
		"mapped": func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("::ffff:127.0.0.1"), netip.MustParseAddr("::1")}
		},
	}
	for name, answer := range answers {
		r := resolver(t, answer)
		g := NewGuard()
		url := "http://rebind.example:" + port + "/"
		if err := g.URL(url); err != nil {
			t.Errorf("%s: got %v, want a name that may be registered", name, err)
		}
		client := Client(Options{Guard: g, Within: 2 * time.Second, Resolver: r})
		for range 5 {
			res, err := client.Get(url)
			if err == nil {
				res.Body.Close()
			}
			if !errors.Is(err, ErrInside) {
				t.Errorf("%s: got %v, want ErrInside", name, err)
			}
		}
		client.CloseIdleConnections()
	}
	if hits.Load() != 0 {
		t.Errorf("the server inside was connected to %d times", hits.Load())
	}
	// The same name and server, where the operator allows it: what refused was the guard.
	client := Client(Options{Guard: NewGuard(netip.MustParsePrefix("127.0.0.0/8")), Within: 2 * time.Second, Resolver: resolver(t, answers["always inside"])})
	defer client.CloseIdleConnections()
	res, err := client.Get("http://rebind.example:" + port + "/")
	if err != nil || hits.Load() != 1 {
		t.Fatalf("allowed: got %v and %d hits, want one", err, hits.Load())
	}
	res.Body.Close()
}

// TestNoRedirectAndNoProxy: what a server answers, and what the environment says, leads
// nowhere else.
func TestNoRedirectAndNoProxy(t *testing.T) {
	var other atomic.Int64
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { other.Add(1) }))
	defer elsewhere.Close()
	t.Setenv("HTTP_PROXY", elsewhere.URL)
	t.Setenv("http_proxy", elsewhere.URL)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer server.Close()
	client := Client(Options{Guard: NewGuard(netip.MustParsePrefix("127.0.0.0/8")), Within: time.Second})
	defer client.CloseIdleConnections()
	res, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusTemporaryRedirect || other.Load() != 0 {
		t.Errorf("got %d, and %d requests elsewhere, want the redirect and none", res.StatusCode, other.Load())
	}
}
