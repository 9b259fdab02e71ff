package audit_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sys/unix"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

const secret = "correct-horse"

// served is a data directory with a queue that runs on it.
type served struct {
	t   testing.TB
	dir string
	srv *queue.Server
	url string
}

func serve(t testing.TB, dir string) *served {
	t.Helper()
	return serveTLS(t, dir, nil)
}

func serveTLS(t testing.TB, dir string, conf *tls.Config) *served {
	t.Helper()
	srv, err := queue.StartServer(queue.ServerOptions{StoreDir: filepath.Join(dir, "nats"), Addr: "127.0.0.1:0", Token: secret, TLS: conf})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(srv.Shutdown)
	return &served{t: t, dir: dir, srv: srv, url: srv.URL()}
}

// feed publishes everything that the ledger has booked.
func (s *served) feed() {
	s.t.Helper()
	l, err := ledger.Open(context.Background(), ledger.Options{Path: filepath.Join(s.dir, "ledger.db")})
	if err != nil {
		s.t.Fatal(err)
	}
	defer l.Close()
	c, err := queue.Connect(queue.ConnectOptions{Server: s.srv})
	if err != nil {
		s.t.Fatal(err)
	}
	defer c.Close()
	if err := c.EnsureStreams(context.Background()); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- queue.NewFeed(c, ledger.Feed{Ledger: l, Name: "usage"}).Run(ctx) }()
	for ctx.Err() == nil {
		lag, err := l.FeedLag(ctx, "usage")
		if err != nil {
			s.t.Fatal(err)
		}
		if _, _, seq, _ := l.FeedStream(ctx, "usage"); lag == 0 && seq > 0 {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
	if ctx.Err() != nil {
		s.t.Fatal("the feed did not finish")
	}
	cancel()
	if err := <-done; err != nil {
		s.t.Fatal(err)
	}
}

// stream returns the topic's stream, to meddle with.
func (s *served) stream() (*nats.Conn, jetstream.JetStream, jetstream.Stream) {
	s.t.Helper()
	nc, err := nats.Connect(s.url, nats.Token(secret))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		s.t.Fatal(err)
	}
	stream, err := js.Stream(context.Background(), "USAGE")
	if err != nil {
		s.t.Fatal(err)
	}
	return nc, js, stream
}

// announce writes what a running server leaves for its clients and takes the
// lock.
func (s *served) announce(where string) {
	s.t.Helper()
	for name, content := range map[string]string{"server.json": where, "admin.token": secret + "\n"} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	f, err := os.Create(filepath.Join(s.dir, "lock"))
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { f.Close() })
}

func wantEqual(t testing.TB, r *audit.Report) {
	t.Helper()
	if !r.OK || r.Corrections == 0 || r.Topic.State != "equal" || r.Topic.Messages != r.Entries || r.Topic.Entries != r.Entries || r.Topic.Published != r.Entries {
		t.Errorf("audit: got %s (%+v), want an equal topic of %d entries, corrections among them", show(r), r.Topic, r.Entries)
	}
}

func TestTopicOfStoppedServer(t *testing.T) {
	dir := told(t)
	s := serve(t, dir)
	s.feed()
	s.srv.Shutdown()
	before := tree(t, dir)
	wantEqual(t, run(t, dir))
	if after := tree(t, dir); after != before {
		t.Errorf("the data directory after an audit: got\n%s\nwant it unchanged\n%s", after, before)
	}
}

// tree lists the files of a directory with their sizes and times.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil && info.Mode().IsRegular() {
			fmt.Fprintln(&b, strings.TrimPrefix(path, dir), info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTopicOfRunningServer(t *testing.T) {
	dir := told(t)
	s := serve(t, dir)
	s.feed()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/api/v1/queue" || r.Header.Get("Authorization") != "Bearer "+secret {
			http.Error(w, "no", http.StatusUnauthorized)
			return
		}
		fmt.Fprintf(w, `{"url":%q}`, s.url)
	}))
	defer web.Close()
	s.announce(fmt.Sprintf(`{"http":%q,"nats":%q}`, web.URL, s.url))
	audited := func(o audit.Options) *audit.Report {
		t.Helper()
		o.DataDir = dir
		r, err := audit.Run(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	wantEqual(t, audited(audit.Options{}))
	wantEqual(t, audited(audit.Options{Server: s.url, Token: secret}))
	wantEqual(t, audited(audit.Options{Server: web.URL}))

	unavailable := func(name string, o audit.Options) {
		t.Helper()
		r := audited(o)
		if !r.OK || !strings.HasPrefix(r.Topic.State, "unavailable: ") || len(r.Warnings) != 1 {
			t.Errorf("%s: got %s, warnings %q, want ok, and a warning that the topic is unavailable", name, show(r), r.Warnings)
		}
	}
	unavailable("a token that is refused", audit.Options{Server: s.url, Token: "wrong"})
	unavailable("a token that the API refuses", audit.Options{Server: web.URL, Token: "wrong"})
	unavailable("a server that is not there", audit.Options{Server: "http://127.0.0.1:1"})
	for _, where := range []string{"no JSON", "{}"} {
		if err := os.WriteFile(filepath.Join(dir, "server.json"), []byte(where), 0o600); err != nil {
			t.Fatal(err)
		}
		unavailable("a server.json that says "+where, audit.Options{})
	}
	if err := os.Remove(filepath.Join(dir, "server.json")); err != nil {
		t.Fatal(err)
	}
	unavailable("no server.json", audit.Options{})
}

func TestTopicOverTLS(t *testing.T) {
	dir := told(t)
	var url string
	web := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, `{"url":%q}`, url)
	}))
	defer web.Close()
	s := serveTLS(t, dir, &tls.Config{Certificates: web.TLS.Certificates})
	s.feed()
	url = "tls://" + s.srv.Addr()
	trust := web.Client().Transport.(*http.Transport).TLSClientConfig
	r, err := audit.Run(t.Context(), audit.Options{DataDir: dir, Server: web.URL, Token: secret, TLS: trust})
	if err != nil {
		t.Fatal(err)
	}
	wantEqual(t, r)
	r, err = audit.Run(t.Context(), audit.Options{DataDir: dir, Server: url, Token: secret})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(r.Topic.State, "unavailable: ") || !strings.Contains(r.Topic.State, "certificate") {
		t.Errorf("topic of a server that is not trusted: got %q, want unavailable for its certificate", r.Topic.State)
	}
}

// forgeries are faults of the topic. Each is given the number of a message in
// the middle, and its content.
var forgeries = []struct {
	name  string
	want  string
	forge func(t testing.TB, s *served, m *jetstream.RawStreamMsg)
}{
	{"a message is missing", "topic_missing", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		drop(t, s, m.Sequence)
	}},
	{"a message says something else", "topic_differs", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		drop(t, s, m.Sequence)
		say(t, s, m.Subject, change(t, m.Data, func(e *odometer.Entry) { e.BookedAt++ }))
	}},
	{"a message charges more than the ledger", "topic_sum", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		drop(t, s, m.Sequence)
		say(t, s, m.Subject, change(t, m.Data, func(e *odometer.Entry) { e.Event.Usage.Vector[cpu]++ }))
	}},
	{"a message is there twice", "topic_repeated", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		say(t, s, m.Subject, m.Data)
	}},
	{"a message travels under another owner's subject", "topic_differs", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		drop(t, s, m.Sequence)
		say(t, s, "odometer.usage._.u-mallory.vm-1", m.Data)
	}},
	{"a message is no entry", "topic_differs", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		say(t, s, m.Subject, []byte("{}"))
	}},
	{"the topic has entries that the ledger never booked", "topic_differs", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		say(t, s, m.Subject, change(t, m.Data, func(e *odometer.Entry) { e.ID.Number += 1_000_000 }))
	}},
	{"the end of the topic was cut off by a person", "topic_missing", func(t testing.TB, s *served, m *jetstream.RawStreamMsg) {
		_, _, stream := s.stream()
		for seq := m.Sequence; seq <= stream.CachedInfo().State.LastSeq; seq++ {
			drop(t, s, seq)
		}
	}},
}

func change(t testing.TB, data []byte, do func(*odometer.Entry)) []byte {
	t.Helper()
	e, err := odometer.DecodeEntry(data)
	if err != nil {
		t.Fatal(err)
	}
	do(e)
	return e.AppendJSON(nil)
}

func drop(t testing.TB, s *served, seq uint64) {
	t.Helper()
	_, _, stream := s.stream()
	if err := stream.DeleteMsg(context.Background(), seq); err != nil {
		t.Fatal(err)
	}
}

func say(t testing.TB, s *served, subject string, data []byte) {
	t.Helper()
	_, js, _ := s.stream()
	if _, err := js.Publish(context.Background(), subject, data); err != nil {
		t.Fatal(err)
	}
}

func TestTopicForged(t *testing.T) {
	for _, c := range forgeries {
		t.Run(c.name, func(t *testing.T) {
			dir := told(t)
			s := serve(t, dir)
			s.feed()
			_, _, stream := s.stream()
			m, err := stream.GetMsg(t.Context(), 300)
			if err != nil {
				t.Fatal(err)
			}
			c.forge(t, s, m)
			t.Attr("where", "topic USAGE")
			t.Attr("finding", c.want)
			s.srv.Shutdown()
			r := run(t, dir)
			if r.OK || r.FindingCounts[c.want] == 0 || r.Topic.State != "different" {
				t.Errorf("audit: got %s, want a finding %s", show(r), c.want)
			}
		})
	}
}

// A topic that was lost will be fed again: no fault of the ledger.
func TestTopicLost(t *testing.T) {
	for _, c := range []struct {
		name string
		lose func(t testing.TB, s *served)
	}{
		{"its directory is gone", func(t testing.TB, s *served) {
			s.srv.Shutdown()
			if err := os.RemoveAll(filepath.Join(s.dir, "nats", natsd.JetStreamStoreDir)); err != nil {
				t.Fatal(err)
			}
		}},
		{"it was made anew and is empty", func(t testing.TB, s *served) {
			_, js, stream := s.stream()
			cfg := stream.CachedInfo().Config
			if err := js.DeleteStream(context.Background(), "USAGE"); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(context.Background(), cfg); err != nil {
				t.Fatal(err)
			}
			s.srv.Shutdown()
		}},
		{"it was made anew and is half full", func(t testing.TB, s *served) {
			_, js, stream := s.stream()
			cfg := stream.CachedInfo().Config
			var first []*jetstream.RawStreamMsg
			for seq := uint64(1); seq <= 5; seq++ {
				m, err := stream.GetMsg(context.Background(), seq)
				if err != nil {
					t.Fatal(err)
				}
				first = append(first, m)
			}
			if err := js.DeleteStream(context.Background(), "USAGE"); err != nil {
				t.Fatal(err)
			}
			if _, err := js.CreateStream(context.Background(), cfg); err != nil {
				t.Fatal(err)
			}
			for _, m := range first {
				say(t, s, m.Subject, m.Data)
			}
			s.srv.Shutdown()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := told(t)
			s := serve(t, dir)
			s.feed()
			c.lose(t, s)
			r := run(t, dir)
			if !r.OK || len(r.Warnings) == 0 {
				t.Errorf("audit: got %s, warnings %q, want ok and a warning", show(r), r.Warnings)
			}
		})
	}
}

// What has gone from the topic by age is not missed.
func TestTopicAged(t *testing.T) {
	dir := told(t)
	s := serve(t, dir)
	s.feed()
	_, _, stream := s.stream()
	if err := stream.Purge(t.Context(), jetstream.WithPurgeSequence(200)); err != nil {
		t.Fatal(err)
	}
	s.srv.Shutdown()
	r := run(t, dir)
	if !r.OK || r.Topic.State != "equal" || r.Topic.Messages == 0 || r.Topic.Messages >= r.Entries {
		t.Errorf("audit: got %s (%+v), want an equal topic of fewer than %d messages", show(r), r.Topic, r.Entries)
	}
}
