package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	natsd "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// How long to wait for a server that does not answer.
const (
	connectWait = 5 * time.Second
	messageWait = 15 * time.Second
)

func unavailable(format string, args ...any) error {
	return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), errUnavailable)
}

// messages calls do with every message that the topic retains, in order: from
// the server that runs, or from a copy of its store when none does. The error
// wraps errUnavailable where neither can be had.
func (a *audit) messages(ctx context.Context, do func(message) error) (streamState, error) {
	if a.o.Server != "" {
		return a.readServer(ctx, a.o.Server, do)
	}
	if a.running {
		server, err := runningServer(a.o.DataDir)
		if err != nil {
			return streamState{}, err
		}
		return a.readServer(ctx, server, do)
	}
	state, err := a.readStore(ctx, do)
	state.still = true
	return state, err
}

// runningServer returns where the server of a data directory listens.
func runningServer(dir string) (string, error) {
	data, err := os.ReadFile(filepath.Join(dir, "server.json"))
	if err != nil {
		return "", unavailable("a server runs on this data directory and does not say where: %v", err)
	}
	var where struct {
		HTTP string `json:"http"`
		NATS string `json:"nats"`
	}
	if err := json.Unmarshal(data, &where); err != nil {
		return "", unavailable("server.json: %v", err)
	}
	switch {
	case where.NATS == "" && where.HTTP == "":
		return "", unavailable("server.json names no address")
	case where.NATS == "":
		return withScheme("http", where.HTTP), nil
	}
	return withScheme("nats", where.NATS), nil
}

func withScheme(scheme, address string) string {
	if strings.Contains(address, "://") {
		return address
	}
	return scheme + "://" + address
}

// readServer reads the topic from a server's queue.
func (a *audit) readServer(ctx context.Context, server string, do func(message) error) (streamState, error) {
	secret := a.o.Token
	if secret == "" {
		data, err := os.ReadFile(filepath.Join(a.o.DataDir, "admin.token"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return streamState{}, unavailable("%v", err)
		}
		secret = strings.TrimSpace(string(data))
	}
	if strings.HasPrefix(server, "http://") || strings.HasPrefix(server, "https://") {
		var err error
		if server, err = a.askQueue(ctx, server, secret); err != nil {
			return streamState{}, unavailable("ask %s for its queue: %v", server, err)
		}
	}
	options := []nats.Option{nats.Name("odometer audit"), nats.Timeout(connectWait), nats.NoReconnect()}
	if secret != "" {
		options = append(options, nats.Token(secret))
	}
	if a.o.TLS != nil {
		options = append(options, nats.Secure(a.o.TLS))
	}
	nc, err := nats.Connect(server, options...)
	if err != nil {
		return streamState{}, unavailable("connect to the queue: %v", err)
	}
	defer nc.Close()
	return readStream(ctx, nc, do)
}

// askQueue asks a server for its queue's address.
func (a *audit) askQueue(ctx context.Context, server, secret string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(server, "/")+"/api/v1/queue", nil)
	if err != nil {
		return server, err
	}
	if secret != "" {
		req.Header.Set("Authorization", "Bearer "+secret)
	}
	transport := &http.Transport{TLSClientConfig: a.o.TLS, DisableKeepAlives: true, Proxy: http.ProxyFromEnvironment}
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return server, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 64<<10))
	if err != nil {
		return server, err
	}
	if res.StatusCode != http.StatusOK {
		return server, fmt.Errorf("it answers %s", res.Status)
	}
	var answer struct {
		URL string `json:"url"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.URL == "" {
		return server, errors.New("it names no queue")
	}
	return answer.URL, nil
}

// readStore reads the topic of a server that does not run, from a copy of its
// store: opening a store writes to it, and an audit changes nothing.
func (a *audit) readStore(ctx context.Context, do func(message) error) (streamState, error) {
	const account = "$G"
	from := filepath.Join(a.o.DataDir, "nats", natsd.JetStreamStoreDir, account, "streams", topicStream)
	if _, err := os.Stat(from); err != nil {
		return streamState{}, unavailable("no server runs and its store has no stream %s", topicStream)
	}
	dir, err := os.MkdirTemp(a.o.TempDir, "odometer-audit-*")
	if err != nil {
		return streamState{}, unavailable("copy the topic: %v", err)
	}
	defer os.RemoveAll(dir)
	to := filepath.Join(dir, natsd.JetStreamStoreDir, account, "streams", topicStream)
	if err := copyStream(ctx, to, from); err != nil {
		return streamState{}, unavailable("copy the topic: %v", err)
	}
	srv, err := natsd.NewServer(&natsd.Options{
		ServerName: "odometer-audit", DontListen: true, NoSigs: true, NoLog: true,
		JetStream: true, StoreDir: dir, JetStreamMaxMemory: 64 << 20, JetStreamMaxStore: 1 << 50,
	})
	if err != nil {
		return streamState{}, unavailable("open the topic: %v", err)
	}
	srv.Start()
	defer func() {
		srv.Shutdown()
		srv.WaitForShutdown()
	}()
	if !srv.ReadyForConnections(messageWait) {
		return streamState{}, unavailable("open the topic: the store does not open")
	}
	nc, err := nats.Connect("", nats.InProcessServer(srv))
	if err != nil {
		return streamState{}, unavailable("open the topic: %v", err)
	}
	defer nc.Close()
	return readStream(ctx, nc, do)
}

// copyStream copies a stream's directory without its consumers.
func copyStream(ctx context.Context, to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		switch {
		case d.IsDir() && rel == "obs":
			return fs.SkipDir
		case d.IsDir():
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		case !d.Type().IsRegular():
			return nil
		}
		in, err := os.Open(path)
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.OpenFile(filepath.Join(to, rel), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, in); err != nil {
			out.Close()
			return err
		}
		return out.Close()
	})
}

// readStream calls do with the messages that the stream has now.
func readStream(ctx context.Context, nc *nats.Conn, do func(message) error) (streamState, error) {
	js, err := jetstream.New(nc)
	if err != nil {
		return streamState{}, unavailable("%v", err)
	}
	asking, cancel := context.WithTimeout(ctx, connectWait)
	defer cancel()
	stream, err := js.Stream(asking, topicStream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return streamState{}, unavailable("the queue has no stream %s", topicStream)
	}
	if err != nil {
		return streamState{}, unavailable("%v", err)
	}
	info := stream.CachedInfo()
	state := streamState{id: streamID(info), first: info.State.FirstSeq, last: info.State.LastSeq}
	if info.State.Msgs == 0 {
		return state, nil
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return state, unavailable("%v", err)
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessages(1000))
	if err != nil {
		return state, unavailable("%v", err)
	}
	defer messages.Stop()
	for {
		waiting, cancel := context.WithTimeout(ctx, messageWait)
		m, err := messages.Next(jetstream.NextContext(waiting))
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				return state, ctx.Err()
			}
			return state, unavailable("the queue stopped answering: %v", err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return state, unavailable("%v", err)
		}
		if meta.Sequence.Stream <= state.last {
			if err := do(message{m.Subject(), m.Data()}); err != nil {
				return state, err
			}
		}
		if meta.Sequence.Stream >= state.last || meta.NumPending == 0 {
			return state, nil
		}
	}
}

// streamID tells a stream from one that bears its name after it was lost: by
// when it was made, as the feed notes it.
func streamID(info *jetstream.StreamInfo) string {
	return info.Created.UTC().Format(time.RFC3339Nano)
}
