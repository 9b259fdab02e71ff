package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

var (
	admin    = odometer.Actor{Caller: odometer.Caller{Name: "admin", Scopes: []odometer.Scope{odometer.ScopeAdmin}}, Remote: "192.0.2.1"}
	loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
)

// log of changes in memory, as threshold has it in the ledger's file.
type log struct {
	mu   sync.Mutex
	list []odometer.Violation
	news chan struct{}
}

func newLog() *log { return &log{news: make(chan struct{})} }

func (l *log) News() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

func (l *log) ChangesAfter(_ context.Context, number uint64, limit int) ([]odometer.Violation, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	rest := l.list[min(number, uint64(len(l.list))):]
	return slices.Clone(rest[:min(limit, len(rest))]), nil
}

func (l *log) add(vs ...odometer.Violation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, v := range vs {
		v.Number = uint64(len(l.list)) + 1
		l.list = append(l.list, v)
	}
	close(l.news)
	l.news = make(chan struct{})
}

// violation is a change of one of an instance, number n.
func violation(instance string, n int, channels ...odometer.ChannelID) odometer.Violation {
	at := time.Date(2026, 11, 27, 10, 0, n, 0, time.UTC).UnixMicro()
	return odometer.Violation{
		ID: odometer.ViolationID(fmt.Sprintf("vio_%s%d", instance, n)), Change: 1, Threshold: "thr_abcdefghijklmnop", Version: 1, Name: "CPU of the web servers", Level: "warning",
		Standing: odometer.StandingOpen, Instance: odometer.InstanceID(instance), Owner: odometer.Owner{User: "ada", Org: "acme"},
		Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitPercent, Limit: 80, Before: 40.5, Value: 91.25,
		From: at - 30e6, To: at, Crossed: at, Detected: at + 100e3, Changed: at + 100e3, Event: fmt.Sprintf("evt-%d", n), Entry: fmt.Sprintf("0-%d", n),
		Action: odometer.ActionNotify, Channels: channels,
	}
}

// office is notifications whose clock stands still between steps.
type office struct {
	*Notifier
	t     *testing.T
	o     Options
	log   *log
	texts strings.Builder // of the server's log
	mu    sync.Mutex
	time  time.Time
}

func newOffice(t *testing.T, o Options) *office {
	t.Helper()
	w := &office{t: t, o: o, log: newLog(), time: time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)}
	if w.o.Path == "" {
		w.o.Path = filepath.Join(t.TempDir(), "ledger.db")
		l, err := ledger.Open(t.Context(), ledger.Options{Path: w.o.Path})
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
	w.o.synchronous = "OFF" // the tests are not about the disk
	w.o.Clock, w.o.Changes, w.o.Key = w.now, w.log, make([]byte, KeyBytes)
	w.o.Logger = slog.New(slog.NewTextHandler(&locked{w: &w.texts, mu: &w.mu}, nil))
	if w.o.Allow == nil {
		w.o.Allow = loopback
	}
	w.open()
	t.Cleanup(func() { w.Close() })
	return w
}

// locked is a writer that several write to.
type locked struct {
	w  io.Writer
	mu *sync.Mutex
}

func (l *locked) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

func (w *office) now() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.time
}

func (w *office) after(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.time = w.time.Add(d)
}

func (w *office) open() {
	w.t.Helper()
	n, err := Open(w.t.Context(), w.o)
	if err != nil {
		w.t.Fatal(err)
	}
	n.usagePause = 0 // the clock stands still
	w.Notifier = n
}

// restart opens the notifications again, as after a crash.
func (w *office) restart() {
	w.t.Helper()
	if err := w.Close(); err != nil {
		w.t.Fatal(err)
	}
	w.open()
}

// rest goes on until there is nothing to do at this moment.
func (w *office) rest() {
	w.t.Helper()
	for range 3000 {
		_, err := w.round(w.t.Context(), w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		w.flight.Wait()
		list, err := dues(w.t.Context(), w.db)
		if err != nil {
			w.t.Fatal(err)
		}
		news, err := w.look(w.t.Context(), true)
		if err != nil {
			w.t.Fatal(err)
		}
		if ready, _ := w.ready(list, w.Notifier.now()); !ready && len(w.results) == 0 && news.none() {
			return
		}
	}
	w.t.Fatal("it never comes to rest")
}

// goOn goes on for so long, with the clock set from one thing that is due to the next.
func (w *office) goOn(d time.Duration) {
	w.t.Helper()
	end := w.now().Add(d)
	for {
		w.rest()
		next, err := w.round(w.t.Context(), w.t.Context())
		if err != nil {
			w.t.Fatal(err)
		}
		w.flight.Wait()
		if next.IsZero() || !next.Before(end) {
			w.after(end.Sub(w.now()))
			w.rest()
			return
		}
		w.after(max(next.Sub(w.now()), time.Microsecond))
	}
}

func (w *office) create(c odometer.Channel) (odometer.Channel, string) {
	w.t.Helper()
	if c.Name == "" {
		c.Name = newID("name-", 8)
	}
	if c.Kind == odometer.ChannelWebhook && c.Events == nil {
		c.Events = []odometer.EventKind{odometer.EventViolation}
	}
	c.Enabled = true
	made, secret, err := w.Create(w.t.Context(), admin, c, Secrets{}, odometer.Once{})
	if err != nil {
		w.t.Fatal(err)
	}
	return made, secret
}

func (w *office) deliveries(id odometer.ChannelID, state odometer.DeliveryState) []odometer.Delivery {
	w.t.Helper()
	list, err := w.Deliveries(w.t.Context(), admin.Caller, odometer.DeliveryQuery{Channel: id, State: state})
	if err != nil {
		w.t.Fatal(err)
	}
	return list
}

// received is a request that a receiver got.
type received struct {
	header http.Header
	body   string
	path   string
}

// receiver is a real server that keeps what it is sent, and answers as it is told; what
// answers may read the body again, as others come meanwhile.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	got    []received
	answer func(w http.ResponseWriter, r *http.Request) // nil for 204
}

func newReceiver(t *testing.T, answer func(http.ResponseWriter, *http.Request)) *receiver {
	r := &receiver{answer: answer}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	body, _ := io.ReadAll(q.Body)
	r.mu.Lock()
	r.got = append(r.got, received{q.Header, string(body), q.URL.Path})
	answer := r.answer
	r.mu.Unlock()
	if answer == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	q.Body = io.NopCloser(bytes.NewReader(body))
	answer(w, q)
}

func (r *receiver) set(answer func(http.ResponseWriter, *http.Request)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) requests() []received {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// events are the ids of the CloudEvents that came, each once, in the order in which each
// came first; a repetition has the webhook-id of the first.
func (r *receiver) events(t *testing.T) (ids []string) {
	t.Helper()
	seen := map[string]string{}
	for _, g := range r.requests() {
		var e struct{ ID string }
		if err := json.Unmarshal([]byte(g.body), &e); err != nil || e.ID == "" {
			t.Errorf("got %q, %v, want a CloudEvent", g.body, err)
		}
		id := g.header.Get("webhook-id")
		if first, again := seen[e.ID]; again {
			if first != id {
				t.Errorf("event %s came under the ids %s and %s, want one", e.ID, first, id)
			}
			continue
		}
		seen[e.ID] = id
		ids = append(ids, e.ID)
	}
	return ids
}

// TestAWebhookIsSigned has the official library verify what a webhook is sent, with each
// secret while it is rotated, and the body is the CloudEvent that the queue publishes.
func TestAWebhookIsSigned(t *testing.T) {
	w := newOffice(t, Options{})
	w.time = time.Now() // the library compares with its own
	r := newReceiver(t, nil)
	c, first := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL + "/hook?a=b"})
	verified := func(when string, got received, secret string, want bool) {
		t.Helper()
		v, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Verify([]byte(got.body), got.header); (err == nil) != want {
			t.Errorf("%s: got %v, want verified %v", when, err, want)
		}
	}
	last := func() received {
		w.rest()
		all := r.requests()
		return all[len(all)-1]
	}
	v := violation("vm-1", 1)
	w.log.add(v)
	got := last()
	verified("the first", got, first, true)
	var e struct {
		SpecVersion, ID, Source, Type, Subject, DataContentType string
		Data                                                    json.RawMessage
	}
	if err := json.Unmarshal([]byte(got.body), &e); err != nil {
		t.Fatal(err)
	}
	if e.SpecVersion != "1.0" || e.ID != "vio_vm-11.1" || e.Source != "odometer/ledger" || e.Type != odometer.CloudEventViolation || e.Subject != "vm-1" {
		t.Errorf("got %s, want the CloudEvent of the change", got.body)
	}
	v.Number = 1
	if want := string(v.AppendJSON(nil)); string(e.Data) != want {
		t.Errorf("got the data %s, want %s", e.Data, want)
	}
	if got.path != "/hook" || got.header.Get("Content-Type") != odometer.ContentCloudEvent || !strings.HasPrefix(got.header.Get("webhook-id"), "dlv_") {
		t.Errorf("got %v at %s", got.header, got.path)
	}

	second, err := w.Rotate(t.Context(), admin, c.ID, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	w.log.add(violation("vm-1", 2))
	got = last()
	verified("rotated, by the old secret", got, first, true)
	verified("rotated, by the new secret", got, second, true)
	w.after(time.Hour)
	w.log.add(violation("vm-1", 3))
	got = last()
	if list := strings.Fields(got.header.Get("webhook-signature")); len(list) != 1 {
		t.Errorf("an hour later: got %d signatures, want the new secret's", len(list))
	}
	if _, err := w.Rotate(t.Context(), admin, c.ID, 0); err != nil {
		t.Fatal(err)
	}
	w.log.add(violation("vm-1", 4))
	verified("rotated at once, by the secret of before", last(), second, false)
	if c, err = w.Get(t.Context(), admin.Caller, c.ID); err != nil || c.Secrets != 1 {
		t.Errorf("got %+v, %v, want one secret", c, err)
	}
}

// TestTheOrderIsKept: messages of one subject come in order and each once, whatever fails
// meanwhile; those of others do not wait for them.
func TestTheOrderIsKept(t *testing.T) {
	w := newOffice(t, Options{})
	var stuck atomic.Bool
	stuck.Store(true)
	r := newReceiver(t, nil)
	r.set(func(rw http.ResponseWriter, q *http.Request) {
		if body, _ := io.ReadAll(q.Body); stuck.Load() && bytes.Contains(body, []byte(`"vm-1"`)) {
			rw.WriteHeader(http.StatusInternalServerError)
		}
	})
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	for i := 1; i <= 3; i++ {
		w.log.add(violation("vm-1", i), violation("vm-2", i))
		w.rest()
	}
	if got, want := r.events(t), []string{"vio_vm-11.1", "vio_vm-21.1", "vio_vm-22.1", "vio_vm-23.1"}; !sameIDs(got, want) {
		t.Errorf("while vm-1 fails: got %v, want its first and all of vm-2", got)
	}
	stuck.Store(false)
	w.goOn(time.Minute)
	var of1 []string
	for _, id := range r.events(t) {
		if strings.HasPrefix(id, "vio_vm-1") {
			of1 = append(of1, id)
		}
	}
	if want := []string{"vio_vm-11.1", "vio_vm-12.1", "vio_vm-13.1"}; !slices.Equal(of1, want) {
		t.Errorf("got %v of vm-1, want %v", of1, want)
	}
	if list := w.deliveries(c.ID, odometer.DeliveryDelivered); len(list) != 6 {
		t.Errorf("got %d delivered, want 6", len(list))
	}
}

// sameIDs compares without an order.
func sameIDs(got, want []string) bool {
	g, w := slices.Clone(got), slices.Clone(want)
	slices.Sort(g)
	slices.Sort(w)
	return slices.Equal(g, w)
}

// trust is the configuration of who trusts a test's server.
func trust(s *httptest.Server) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(s.Certificate())
	return &tls.Config{RootCAs: pool}
}
