package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"example.org/odometer/internal/port"
	"example.org/odometer/queue"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	nodesInCluster = 3
	// formWithin is how long three servers may take to elect a leader and to
	// place a stream. Some never do, and are begun anew.
	formWithin  = 30 * time.Second
	formMost    = 10
	startWithin = 30 * time.Second
)

// nodes are three NATS servers that form a cluster, each with a store of its
// own. The routes between them go through links, one a pair, and they tell
// nobody any other address.
type nodes struct {
	dir    string
	binary string // a nats-server program to run as processes; "" runs the servers in this one
	all    [nodesInCluster]*node
	routes []*route

	unformed int // clusters that did not form and were begun anew
}

// route is the link between two nodes; the first dials the second.
type route struct {
	first, second int
	*link
}

// node is one NATS server.
type node struct {
	name, store, config string
	client, routing     string // addresses

	inside  *server.Server
	process *exec.Cmd
}

// form starts a cluster, again and again with fresh stores until it can
// place a stream on all three nodes.
func form(ctx context.Context, dir, binary string) (*nodes, error) {
	unformed := 0
	for attempt := 1; ; attempt++ {
		c, err := newNodes(filepath.Join(dir, fmt.Sprint("cluster-", attempt)), binary)
		if err == nil {
			for i := range c.all {
				err = errors.Join(err, c.start(i))
			}
			if err == nil {
				err = c.ready(ctx)
			}
			if err == nil {
				c.unformed = unformed
				return c, nil
			}
			c.close()
		}
		unformed++
		if attempt == formMost || ctx.Err() != nil {
			return nil, fmt.Errorf("no cluster formed in %d attempts: %w", attempt, err)
		}
	}
}

func newNodes(dir, binary string) (*nodes, error) {
	c := &nodes{dir: dir, binary: binary}
	nowhere, err := port.Free() // what nodes tell each other, which refuses connections
	if err != nil {
		return nil, err
	}
	for i := range c.all {
		n := &node{name: fmt.Sprint("n", i+1), store: filepath.Join(dir, fmt.Sprint("n", i+1)), config: filepath.Join(dir, fmt.Sprint("n", i+1, ".conf"))}
		var err1, err2 error
		n.client, err1 = port.Free()
		n.routing, err2 = port.Free()
		if err := errors.Join(err1, err2, os.MkdirAll(n.store, 0o700)); err != nil {
			return nil, err
		}
		c.all[i] = n
	}
	for i := range c.all { // around the ring, since each must dial somebody
		j := (i + 1) % nodesInCluster
		k, err := newLink(c.all[j].routing)
		if err != nil {
			return nil, err
		}
		c.routes = append(c.routes, &route{i, j, k})
	}
	for i := range c.all {
		if err := c.configure(i, nowhere); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// configure writes a node's file, which a server in this process and one of
// its own read alike. sync_interval: always, as package queue wants of every
// node; no address but those of the links is told to anyone.
func (c *nodes) configure(i int, nowhere string) error {
	n := c.all[i]
	var routes []string
	for _, r := range c.routes {
		if r.first == i {
			routes = append(routes, fmt.Sprintf("%q", "nats://"+r.addr()))
		}
	}
	return os.WriteFile(n.config, fmt.Appendf(nil, `
server_name: %q
listen: %q
log_file: %q
logtime: true
jetstream { store_dir: %q, max_memory_store: 16MB, max_file_store: 64GB, sync_interval: always }
cluster {
  name: odometer
  listen: %q
  advertise: %q
  no_advertise: true
  pool_size: -1
  ping_interval: "2s"
  routes: [%s]
}
`, n.name, n.client, n.store+".log", n.store, n.routing, nowhere, strings.Join(routes, ", ")), 0o600)
}

// start starts a node that is down and returns when it takes connections.
func (c *nodes) start(i int) error {
	n := c.all[i]
	if c.binary != "" {
		n.process = exec.Command(c.binary, "-c", n.config)
		n.process.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := n.process.Start(); err != nil {
			return err
		}
	} else {
		opts, err := server.ProcessConfigFile(n.config)
		if err != nil {
			return err
		}
		opts.NoSigs, opts.DisableJetStreamBanner = true, true
		if n.inside, err = server.NewServer(opts); err != nil {
			return err
		}
		n.inside.ConfigureLogger()
		n.inside.Start()
	}
	for deadline := time.Now().Add(startWithin); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if n.inside != nil && n.inside.ReadyForConnections(time.Second) {
			return nil
		}
		if x, err := net.DialTimeout("tcp", n.client, time.Second); err == nil {
			x.Close()
			return nil
		}
	}
	return fmt.Errorf("node %s takes no connections after %v", n.name, startWithin)
}

func (n *node) up() bool { return n.inside != nil || n.process != nil }

// stop ends a node as its operator would: it hands its leaderships over first.
func (c *nodes) stop(i int) error {
	n := c.all[i]
	switch {
	case n.inside != nil:
		n.inside.Shutdown()
		n.inside.WaitForShutdown()
	case n.process != nil:
		if err := n.process.Process.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		n.process.Wait()
	}
	n.inside, n.process = nil, nil
	return nil
}

// kill ends a node without a word to anybody. A process gets kill -9. A server
// in this process is cut off first, and its store becomes what it was at that
// moment, as far as a copy made while it writes can tell.
func (c *nodes) kill(i int) error {
	n := c.all[i]
	if n.process != nil {
		err := n.process.Process.Kill()
		n.process.Wait()
		n.process = nil
		return err
	}
	c.isolate(i)
	image := n.store + ".image"
	err := copyTree(image, n.store)
	err = errors.Join(err, c.stop(i))
	for _, r := range c.routesOf(i) {
		r.dropAll() // with what it said while nobody heard it
	}
	c.rejoin(i)
	if err == nil {
		err = errors.Join(os.RemoveAll(n.store), os.Rename(image, n.store))
	}
	return err
}

// isolate cuts a node off from the others, and rejoin brings it back.
func (c *nodes) isolate(i int) {
	for _, r := range c.routesOf(i) {
		r.blackhole()
	}
}

func (c *nodes) rejoin(i int) {
	for _, r := range c.routesOf(i) {
		r.mend()
	}
}

func (c *nodes) routesOf(i int) (list []*route) {
	for _, r := range c.routes {
		if r.first == i || r.second == i {
			list = append(list, r)
		}
	}
	return list
}

// wipe takes the disk of a node that is down.
func (c *nodes) wipe(i int) error {
	return errors.Join(os.RemoveAll(c.all[i].store), os.MkdirAll(c.all[i].store, 0o700))
}

// snapshot copies a node's store, and restore puts the copy in its place.
func (c *nodes) snapshot(i int) (string, error) {
	image := c.all[i].store + ".old"
	return image, errors.Join(os.RemoveAll(image), copyTree(image, c.all[i].store))
}

func (c *nodes) restore(i int, image string) error {
	return errors.Join(os.RemoveAll(c.all[i].store), os.Rename(image, c.all[i].store))
}

// copyTree copies a directory that may be written to meanwhile: what vanishes
// is left out.
func copyTree(to, from string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		if d.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		in, err := os.Open(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
		defer in.Close()
		out, err := os.Create(target)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

// ready returns when the cluster has a leader that places streams on all
// nodes.
func (c *nodes) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, formWithin)
	defer cancel()
	const probe = "PROBE"
	for {
		err := c.admin(ctx, func(ctx context.Context, js jetstream.JetStream, nc *nats.Conn) error {
			s, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: probe, Subjects: []string{"probe"}, Replicas: nodesInCluster})
			if err != nil {
				return err
			}
			if _, err := js.Publish(ctx, "probe", nil); err != nil {
				return err
			}
			info, err := s.Info(ctx)
			if err != nil {
				return err
			}
			for _, r := range info.Cluster.Replicas {
				if !r.Current {
					return fmt.Errorf("replica %s lags", r.Name)
				}
			}
			return js.DeleteStream(ctx, probe)
		})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster did not form within %v: %w", formWithin, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// answerWithin is how long one node may take to answer its operator. A node
// without a leader does not answer at all.
const answerWithin = 3 * time.Second

// admin lets do speak to the cluster as its operator, past the links; where
// one node does not answer, the next is asked.
func (c *nodes) admin(ctx context.Context, do func(context.Context, jetstream.JetStream, *nats.Conn) error) error {
	return c.ask(ctx, answerWithin, do)
}

func (c *nodes) ask(ctx context.Context, within time.Duration, do func(context.Context, jetstream.JetStream, *nats.Conn) error) error {
	var errs []error
	for _, n := range c.all {
		if !n.up() {
			continue
		}
		err := func() error {
			ctx, cancel := context.WithTimeout(ctx, within)
			defer cancel()
			nc, err := nats.Connect("nats://"+n.client, nats.Timeout(2*time.Second), nats.NoReconnect())
			if err != nil {
				return err
			}
			defer nc.Close()
			js, err := jetstream.New(nc)
			if err != nil {
				return err
			}
			return do(ctx, js, nc)
		}()
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("node %s: %w", n.name, err))
	}
	return errors.Join(errs...)
}

// leader returns which node leads a stream.
func (c *nodes) leader(ctx context.Context, stream string) (leader int, err error) {
	err = c.admin(ctx, func(ctx context.Context, js jetstream.JetStream, _ *nats.Conn) error {
		s, err := js.Stream(ctx, stream)
		if err != nil {
			return err
		}
		info := s.CachedInfo()
		for i, n := range c.all {
			if info.Cluster != nil && info.Cluster.Leader == n.name {
				leader = i
				return nil
			}
		}
		return fmt.Errorf("stream %s has no leader", stream)
	})
	return leader, err
}

// settled returns when the stream INGEST has a leader again.
func (c *nodes) settled(ctx context.Context) (leader int, err error) {
	for {
		if leader, err = c.leader(ctx, queue.IngestStream); err == nil {
			return leader, nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%w: %w", ctx.Err(), err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *nodes) close() {
	for i := range c.all {
		if c.all[i] != nil && c.all[i].up() {
			_ = c.stop(i)
		}
	}
	for _, r := range c.routes {
		r.close()
	}
}
