package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"example.org/odometer/api"
)

// lookEvery is how soon another certificate in the files is seen. To look costs two
// system calls.
const lookEvery = time.Second

// tlsPair is a certificate and its private key, in files that may be replaced while
// the process runs. New connections are answered with what the files have; what
// cannot be used, or is no longer valid while the last one is, is named and leaves
// the last one in place. Open connections go on with the one that they began with.
//
// A nil tlsPair stands for no TLS. Its methods may be called at once.
type tlsPair struct {
	certFile, keyFile string
	logger            *slog.Logger
	now               func() time.Time
	current           atomic.Pointer[tls.Certificate] // never nil

	mu     sync.Mutex
	read   [2]fileState // of the files when they were read last
	err    error        // why what they have is not used, nil where it is
	loaded uint64       // pairs that were used
	failed uint64       // pairs that were not
}

// fileState tells one content of a file from another: what replaces a file has
// another inode, and what is written into it another time.
type fileState struct {
	device, inode uint64
	size, changed int64
}

func lookAt(path string) (s fileState, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return s, err
	}
	st := info.Sys().(*syscall.Stat_t)
	return fileState{uint64(st.Dev), st.Ino, st.Size, st.Mtim.Nano()}, nil
}

// openPair reads a pair for the first time.
func openPair(certFile, keyFile string, logger *slog.Logger) (*tlsPair, error) {
	p := &tlsPair{certFile: certFile, keyFile: keyFile, logger: logger, now: time.Now}
	p.read[0], _ = lookAt(certFile) // what is wrong is found in reading them
	p.read[1], _ = lookAt(keyFile)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(keyFile); err == nil && info.Mode().Perm()&0o007 != 0 {
		logger.Warn("the private key of the certificate may be read by every user of this machine", "key", keyFile, "mode", fmt.Sprintf("%04o", info.Mode().Perm()))
	}
	p.current.Store(&cert)
	p.loaded = 1
	return p, nil
}

// config returns what to serve TLS with, nil for none.
func (p *tlsPair) config() *tls.Config {
	if p == nil {
		return nil
	}
	return &tls.Config{
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return p.current.Load(), nil },
		MinVersion:     tls.VersionTLS12,
	}
}

// run looks at the files until ctx is done.
func (p *tlsPair) run(ctx context.Context) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			p.look()
		}
	}
}

// look reads the files again where they have changed. A certificate and its key are
// two files, of which one comes first: what does not fit together is tried again
// until it does.
func (p *tlsPair) look() {
	p.mu.Lock()
	defer p.mu.Unlock()
	var is [2]fileState
	var err error
	if is[0], err = lookAt(p.certFile); err == nil {
		is[1], err = lookAt(p.keyFile)
	}
	if err == nil && is == p.read && p.err == nil {
		return
	}
	p.read = is // before they are read: what changes meanwhile is seen next time
	var cert tls.Certificate
	if err == nil {
		cert, err = tls.LoadX509KeyPair(p.certFile, p.keyFile)
	}
	if err == nil {
		err = p.fits(&cert)
	}
	if err != nil {
		if p.err == nil || p.err.Error() != err.Error() {
			p.failed++
			p.logger.Error("the new certificate cannot be used: the last one stays", "cert", p.certFile, "key", p.keyFile,
				"err", err, "stays_until", p.current.Load().Leaf.NotAfter.UTC())
		}
		p.err = err
		return
	}
	p.err = nil
	p.loaded++
	p.current.Store(&cert)
	p.logger.Info("another certificate is used for new connections", "cert", p.certFile, "serial", cert.Leaf.SerialNumber, "not_after", cert.Leaf.NotAfter.UTC())
}

// fits refuses a certificate that is not valid now where the last one is.
func (p *tlsPair) fits(cert *tls.Certificate) error {
	now, last := p.now(), p.current.Load().Leaf
	if now.Before(last.NotBefore) || now.After(last.NotAfter) {
		return nil
	}
	switch next := cert.Leaf; {
	case now.Before(next.NotBefore):
		return fmt.Errorf("it is not valid before %s", next.NotBefore.UTC().Format(time.RFC3339))
	case now.After(next.NotAfter):
		return fmt.Errorf("it expired at %s", next.NotAfter.UTC().Format(time.RFC3339))
	}
	return nil
}

// facts are for health; nil for no TLS.
func (p *tlsPair) facts() *api.TLSFacts {
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	leaf := p.current.Load().Leaf
	return &api.TLSFacts{NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter, Err: reason(p.err)}
}

// stats are for the metrics.
func (p *tlsPair) stats() api.TLSStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return api.TLSStats{NotAfter: p.current.Load().Leaf.NotAfter, Loaded: p.loaded, Failed: p.failed, Stale: p.err != nil}
}
