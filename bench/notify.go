package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
	"example.org/odometer/notify"
)

// changes is a log of changes of violations in memory.
type changes struct {
	mu   sync.Mutex
	list []odometer.Violation
	news chan struct{}
}

func (c *changes) News() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.news
}

func (c *changes) ChangesAfter(_ context.Context, number uint64, limit int) ([]odometer.Violation, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rest := c.list[min(number, uint64(len(c.list))):]
	return slices.Clone(rest[:min(limit, len(rest))]), nil
}

// add adds a change of some instance, for channels.
func (c *changes) add(to []odometer.ChannelID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.list) + 1
	now := time.Now().UnixMicro()
	c.list = append(c.list, odometer.Violation{
		ID: odometer.ViolationID(fmt.Sprintf("vio_%026d", n)), Change: 1, Number: uint64(n), Threshold: "thr_abcdefghijklmnop", Name: "CPU", Level: "warning", Standing: odometer.StandingOpen,
		Instance: odometer.InstanceID(fmt.Sprintf("vm-%d", n%1000)), Owner: odometer.Owner{User: "u-ada", Org: "o-acme"}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent,
		Limit: 80, Value: 91, Crossed: now, Detected: now, Changed: now, Action: odometer.ActionNotify, Channels: to,
	})
	close(c.news)
	c.news = make(chan struct{})
}

// receivers are servers that answer 204, on this machine.
type receivers struct {
	urls    []string
	got     atomic.Int64
	arrived func(body []byte) // nil for none
	closers []func() error
}

func (r *receivers) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, err := io.ReadAll(q.Body)
	if err == nil && r.arrived != nil {
		r.arrived(body)
	}
	r.got.Add(1)
	w.WriteHeader(http.StatusNoContent)
}

func newReceivers(n int) (*receivers, error) {
	r := &receivers{}
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		s := &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
		go s.Serve(l)
		r.urls, r.closers = append(r.urls, "http://"+l.Addr().String()), append(r.closers, s.Close)
	}
	return r, nil
}

func (r *receivers) close() error {
	var errs []error
	for _, c := range r.closers {
		errs = append(errs, c())
	}
	return errors.Join(errs...)
}

// notifications measures two things of package notify, with real receivers on this
// machine: how long it takes from a change on record to the webhook on the wire, at a
// hundred changes a second, beside what one synced write takes; and deliveries a second to
// a hundred receivers of which one never answers, beside the same requests made by as many
// senders without an outbox.
func notifications(b *bench) (err error) {
	count, seconds, each := 100, 10, 100
	if b.quick {
		count, seconds, each = 10, 1, 10
	}
	receivers, err := newReceivers(count - 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, receivers.close()) }()
	hang, err := net.Listen("tcp", "127.0.0.1:0") // its connections wait for ever
	if err != nil {
		return err
	}
	defer hang.Close()

	path := b.place("notify")
	l, err := ledger.Open(context.Background(), ledger.Options{Path: path})
	if err != nil {
		return err
	}
	defer l.Close()
	log := &changes{news: make(chan struct{})}
	n, err := notify.Open(context.Background(), notify.Options{
		Path: path, Key: make([]byte, notify.KeyBytes), Changes: log, Owns: l.Owns, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		return err
	}
	defer n.Close()
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var ids []odometer.ChannelID
	for i, url := range append(receivers.urls, "http://"+hang.Addr().String()) {
		c, _, err := n.Create(ctx, odometer.Actor{Caller: odometer.Caller{Name: "bench", Scopes: []odometer.Scope{odometer.ScopeAdmin}}},
			odometer.Channel{Name: fmt.Sprint("c", i), Kind: odometer.ChannelWebhook, URL: url, Enabled: true, Events: []odometer.EventKind{odometer.EventUsage}}, notify.Secrets{}, odometer.Once{})
		if err != nil {
			return err
		}
		ids = append(ids, c.ID)
	}
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()

	if err := b.noticeDelay(log, receivers, ids[:1], seconds*100); err != nil {
		return err
	}
	if err := b.noticeRate(log, receivers, ids, each); err != nil {
		return err
	}
	stop()
	return <-ended
}

// noticeDelay measures from change to wire.
func (b *bench) noticeDelay(log *changes, r *receivers, to []odometer.ChannelID, count int) error {
	var mu sync.Mutex
	var took []time.Duration
	r.arrived = func(body []byte) {
		now := time.Now()
		_, text, _ := strings.Cut(string(body), `"time":"`)
		text, _, _ = strings.Cut(text, `"`)
		made, err := time.Parse(time.RFC3339Nano, text)
		mu.Lock()
		defer mu.Unlock()
		if err == nil {
			took = append(took, now.Sub(made))
		}
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range count {
		<-tick.C
		log.add(to)
	}
	if err := r.wait(int64(count)); err != nil {
		return err
	}
	r.arrived = nil
	slices.Sort(took)
	if len(took) != count {
		return fmt.Errorf("%d of %d webhooks have a time", len(took), count)
	}
	bare, err := syncs(b, 1, make([]byte, 4<<10), count)
	if err != nil {
		return err
	}
	slices.Sort(bare)
	for _, q := range []struct {
		name string
		part int
	}{{"notify_delay_p50", 50}, {"notify_delay_p99", 99}} {
		at := (count - 1) * q.part / 100
		b.cost(q.name, took[at].Seconds()*1000, "ms", bare[at].Seconds()*1000)
	}
	return nil
}

// wait waits for so many requests altogether.
func (r *receivers) wait(count int64) error {
	for begin := time.Now(); r.got.Load() < count; time.Sleep(time.Millisecond) {
		if time.Since(begin) > 2*time.Minute {
			return fmt.Errorf("%d of %d webhooks came in two minutes", r.got.Load(), count)
		}
	}
	return nil
}

// noticeRate measures deliveries a second.
func (b *bench) noticeRate(log *changes, r *receivers, ids []odometer.ChannelID, each int) error {
	live := len(r.urls)
	r.got.Store(0)
	begin := time.Now()
	for range each {
		log.add(ids)
	}
	if err := r.wait(int64(live * each)); err != nil {
		return err
	}
	rate := float64(live*each) / time.Since(begin).Seconds()

	r.got.Store(0)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8}}
	defer client.CloseIdleConnections()
	body := strings.Repeat("x", 1<<10)
	var all sync.WaitGroup
	errs := make([]error, live)
	begin = time.Now()
	for i, url := range r.urls {
		all.Go(func() {
			for range each {
				res, err := client.Post(url, odometer.ContentCloudEvent, strings.NewReader(body))
				if err != nil {
					errs[i] = err
					return
				}
				res.Body.Close()
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	b.rate("notify_rate", rate, "deliveries/s", float64(live*each)/time.Since(begin).Seconds())
	return nil
}
