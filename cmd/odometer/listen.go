package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/pflag"

	"example.org/odometer"
	"example.org/odometer/api"
)

// Addresses. They lie next to one another so that one rule of a firewall
// covers them, and apart from NATS' usual 4222, which may be taken.
const (
	defaultHTTP      = "127.0.0.1:8640"
	defaultAgentHTTP = "127.0.0.1:8641"
	defaultNATS      = "127.0.0.1:8642"
)

// listenFlags say how a process that listens protects what it says.
type listenFlags struct {
	TLSCert  string // PEM files; "" for no TLS
	TLSKey   string
	Insecure bool // listen beyond loopback without TLS
	// RequestRate is how many requests a second one token may make, 0 for any number.
	RequestRate int
	conns       api.ConnLimits
}

func (c *listenFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.TLSCert, "tls-cert", "", "certificate (PEM) to answer with; read again when it changes")
	flags.StringVar(&c.TLSKey, "tls-key", "", "its private key (PEM)")
	flags.BoolVar(&c.Insecure, "insecure", false, "listen on addresses beyond loopback without TLS: tokens and usage can then be read on the way")
	c.conns = api.StandardConnLimits
	flags.IntVar(&c.RequestRate, "request-rate", int(api.StandardLimits.Requests), "requests a second that one token may make, and ten times as many at once; 0 for any number")
	flags.IntVar(&c.conns.Open, "max-connections", c.conns.Open, "connections to the API that may be open at a time")
	flags.IntVar(&c.conns.OpenOfOne, "max-connections-per-address", c.conns.OpenOfOne, "of these, how many of one address")
}

// checkLimits says what is wrong with the limits.
func (c *listenFlags) checkLimits() error {
	var errs []error
	if c.RequestRate < 0 {
		errs = append(errs, fmt.Errorf("--request-rate %d: a number from 1, or 0 for no limit", c.RequestRate))
	}
	if c.conns.OpenOfOne < 1 || c.conns.Open < c.conns.OpenOfOne {
		errs = append(errs, fmt.Errorf("--max-connections %d, --max-connections-per-address %d: at least 1 of one address, and no more than in all", c.conns.Open, c.conns.OpenOfOne))
	}
	return errors.Join(errs...)
}

// pair returns what to serve TLS with, nil for none.
func (c *listenFlags) pair(logger *slog.Logger) (*tlsPair, error) {
	if c.TLSCert == "" && c.TLSKey == "" {
		return nil, nil
	}
	if c.TLSCert == "" || c.TLSKey == "" {
		return nil, misuse(errors.New("--tls-cert and --tls-key belong together; one of them is missing"))
	}
	p, err := openPair(c.TLSCert, c.TLSKey, logger)
	if err != nil {
		return nil, misuse(fmt.Errorf("--tls-cert, --tls-key: %w", err))
	}
	return p, nil
}

// check refuses an address that is none, and one beyond loopback that nothing
// protects.
func (c *listenFlags) check(flag, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("--%s %q is no address such as 127.0.0.1:8640", flag, addr)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("--%s %q: the port is not a number up to 65535", flag, addr)
	}
	if c.TLSCert == "" && !c.Insecure && !loopback(host) {
		return fmt.Errorf("--%s %s would be open to other machines without protection; give --tls-cert and --tls-key, or --insecure where the network itself is trusted", flag, addr)
	}
	return nil
}

// noSecretIn refuses an address with a user or a password in it: everybody on the
// machine sees the arguments of a process, and addresses are shown and logged.
func noSecretIn(flag, addresses, instead string) error {
	for a := range strings.SplitSeq(addresses, ",") {
		if u, err := url.Parse(strings.TrimSpace(a)); err == nil && u.User != nil {
			return fmt.Errorf("--%s: the address of %s has a secret in it; --%s names a file that holds it", flag, u.Host, instead)
		}
	}
	return nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// listen takes an address, and says what to do when another process has it.
func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, advise(fmt.Errorf("address %s is in use by another process", addr), "stop that, or choose another with --%s", flag)
	}
	if err != nil {
		return nil, advise(fmt.Errorf("listen on %s: %w", addr, err), "choose another address with --%s", flag)
	}
	return l, nil
}

// probe reports whether an address is free to listen on, and leaves it so.
func probe(flag, addr string) error {
	l, err := listen(flag, addr)
	if err != nil {
		return err
	}
	return l.Close()
}

// httpGrace is how long answers under way may take at the end.
const httpGrace = time.Second

// serveHTTP answers on l until ctx is done, and lets what is under way finish.
func serveHTTP(ctx context.Context, l net.Listener, h http.Handler, secure *tls.Config, limits api.ConnLimits, logger *slog.Logger) error {
	srv := limits.Configure(h, logger)
	if secure != nil {
		l = tls.NewListener(l, secure)
	}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), httpGrace)
	defer cancel()
	if srv.Shutdown(grace) != nil {
		srv.Close()
	}
	<-ended
	return nil
}

// httpURL is where a listener is reached.
func httpURL(l net.Listener, secure *tls.Config) string {
	scheme := "http://"
	if secure != nil {
		scheme = "https://"
	}
	return scheme + l.Addr().String()
}

// trustFlags say whom a process that connects trusts.
type trustFlags struct {
	TLSCA string // PEM file of authorities; "" for those of the system
}

func (c *trustFlags) register(flags *pflag.FlagSet) {
	flags.StringVar(&c.TLSCA, "tls-ca", "", "certificates (PEM) of the authorities to trust (default: the system's)")
}

func (c *trustFlags) config() (*tls.Config, error) {
	if c.TLSCA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(c.TLSCA)
	if err != nil {
		return nil, misuse(fmt.Errorf("--tls-ca: %w", err))
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, misuse(fmt.Errorf("--tls-ca: %s holds no certificate", c.TLSCA))
	}
	return &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil
}

// reachable returns the queue's address as the server tells it, with the host
// by which the server itself was reached where the queue only says that it
// listens everywhere.
func reachable(queue, server string) string {
	q, err1 := url.Parse(queue)
	s, err2 := url.Parse(server)
	if err1 != nil || err2 != nil {
		return queue
	}
	if ip := net.ParseIP(q.Hostname()); ip != nil && ip.IsUnspecified() {
		q.Host = net.JoinHostPort(s.Hostname(), q.Port())
	}
	return q.String()
}

// checkID is [odometer.ValidID] with the flag's name in front.
func checkID(flag, id string, required bool) error {
	if id == "" && !required {
		return nil
	}
	if err := odometer.ValidID("--"+flag, id); err != nil {
		return errors.New(whyNot(err))
	}
	return nil
}
