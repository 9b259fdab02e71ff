package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
	"example.org/odometer/threshold"
)

// pipeline is a server without its API: queue, ingest and ledger.
type pipeline struct {
	server    *queue.Server
	conn      *queue.Conn
	sender    *queue.Conn // of the agents
	ledger    *ledger.Ledger
	stop      context.CancelFunc
	ingest    chan error
	beside    errgroup.Group // what else a server does
	feed      *queue.Feed    // nil without the topic
	published uint64         // on the topic, when look was called

	thresholds *threshold.Thresholds // nil without any

	receipted atomic.Int64 // spool positions, of all spools
	at        map[odometer.SpoolID]uint64
}

func newPipeline(dir string, o ingestOptions) (*pipeline, error) {
	p := &pipeline{ingest: make(chan error, 1), at: map[odometer.SpoolID]uint64{}}
	if o.ledger == "" {
		o.ledger = filepath.Join(dir, "ledger.db")
	}
	so := queue.ServerOptions{StoreDir: filepath.Join(dir, "nats")}
	var client *tls.Config
	if o.everything {
		var err error
		if so.TLS, client, err = selfSigned(); err != nil {
			return nil, err
		}
		so.Addr, so.Token = "127.0.0.1:0", "bench"
	}
	var err error
	if p.server, err = queue.StartServer(so); err != nil {
		return nil, err
	}
	if p.conn, err = queue.Connect(queue.ConnectOptions{Server: p.server, Name: "bench"}); err != nil {
		return nil, err
	}
	p.sender = p.conn
	if o.everything {
		if p.sender, err = queue.Connect(queue.ConnectOptions{URL: "tls://" + p.server.Addr(), Token: so.Token, TLS: client, Name: "agents"}); err != nil {
			return nil, err
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	p.stop = stop
	if err := p.conn.EnsureStreams(ctx); err != nil {
		return nil, err
	}
	if p.ledger, err = ledger.Open(ctx, ledger.Options{Path: o.ledger}); err != nil {
		return nil, err
	}
	in := ingest.New(ingest.Options{Ledger: p.ledger, Receipts: p})
	go func() { p.ingest <- in.Run(ctx, deliveries{queue.NewReceiver(p.conn)}) }()
	if o.everything {
		p.feed = queue.NewFeed(p.conn, ledger.Feed{Ledger: p.ledger, Name: "usage"})
		p.beside.Go(func() error { return p.feed.Run(ctx) })
		p.beside.Go(func() error { return p.query(ctx) })
	}
	if o.thresholds != nil {
		return p, p.watch(ctx, o.ledger, o.thresholds)
	}
	return p, nil
}

// query asks ten questions a second, as a dashboard and some users do.
func (p *pipeline) query(ctx context.Context) error {
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case <-every.C:
		}
		q := odometer.UsageQuery{From: hostsStart, To: hostsStart + odometer.DayMicros, GroupBy: []odometer.GroupBy{odometer.ByHour}}
		if n%2 == 0 {
			q.User = odometer.UserID(fmt.Sprintf("u-%05d", n%10))
		} else {
			q.Org = odometer.OrgID(fmt.Sprintf("o-%04d", n%10))
		}
		if _, err := p.ledger.Usage(ctx, q); err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// selfSigned returns the TLS settings of a server on loopback, and of its
// clients.
func selfSigned() (server, client *tls.Config, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	about := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, about, about, key.Public(), key)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, nil, err
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13},
		&tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}, nil
}

// SendReceipt counts what is committed and sends the receipt on.
func (p *pipeline) SendReceipt(r odometer.Receipt) error {
	p.receipted.Add(int64(r.Position - p.at[r.Spool]))
	p.at[r.Spool] = r.Position
	return p.conn.SendReceipt(r)
}

// take publishes frames, 64 in flight, and waits until all of their events
// are committed.
func (p *pipeline) take(frames []packedFrame, events int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	before, begin := p.receipted.Load(), time.Now()
	var window []func(context.Context) error
	for _, f := range frames {
		if len(window) == 64 {
			if err := window[0](ctx); err != nil {
				return 0, err
			}
			window = window[1:]
		}
		wait, err := p.sender.Send(queue.IngestSubject(f.agent), nil, f.data)
		if err != nil {
			return 0, err
		}
		window = append(window, wait)
	}
	for p.receipted.Load()-before < int64(events) {
		select {
		case err := <-p.ingest:
			return 0, errors.Join(errors.New("ingest ended early"), err)
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(time.Millisecond):
		}
	}
	return time.Since(begin), nil
}

// look notes how much the topic has.
func (p *pipeline) look() {
	if p.feed != nil {
		p.published = p.feed.Stats().Published
	}
}

func (p *pipeline) close() error {
	p.stop()
	err := errors.Join(<-p.ingest, p.beside.Wait())
	if p.thresholds != nil {
		err = errors.Join(err, p.thresholds.Close())
	}
	err = errors.Join(err, p.ledger.Close())
	if p.sender != p.conn {
		p.sender.Close()
	}
	p.conn.Close()
	p.server.Shutdown()
	return err
}

// deliveries gives ingest what the queue receives.
type deliveries struct{ *queue.Receiver }

func (d deliveries) Receive(ctx context.Context) ([]ingest.Delivery, error) {
	got, err := d.Receiver.Receive(ctx, 100, time.Millisecond)
	list := make([]ingest.Delivery, len(got))
	for i, g := range got {
		list[i] = ingest.Delivery{Agent: g.Agent, Data: g.Data, Err: g.Err, Respond: g.Respond, Ack: g.Ack}
	}
	return list, err
}
