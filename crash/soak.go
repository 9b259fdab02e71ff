package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"example.org/odometer/audit"
	"example.org/odometer/internal/port"
	"github.com/nats-io/nats-server/v2/server"
)

// soakOptions say how long programs are killed.
type soakOptions struct {
	For      time.Duration
	Seed     uint64
	Feeders  int // replays that run beside one another
	Out      io.Writer
	Progress io.Writer
}

// soaked are the figures of a soak.
type soaked struct {
	kills  map[string]int // by what was killed
	files  int
	report *audit.Report
}

// role is a program that runs, is killed, and is started again.
type role struct {
	name  string
	start func() (*process, error)
	// ended is asked what comes next when the program has ended by itself:
	// nil for starting it again. Nil where that must not happen.
	ended func() error

	mu   sync.Mutex
	now  *process
	stop bool
	err  error
	done chan struct{}
}

// run keeps the program running until finish, or until it ends in a way in
// which it must not.
func (r *role) run() {
	defer close(r.done)
	for {
		r.mu.Lock()
		if r.stop {
			r.mu.Unlock()
			return
		}
		p, err := r.start()
		r.now = p
		r.mu.Unlock()
		if err == nil {
			<-p.done
			switch err = p.wait(); {
			case errors.Is(err, errEnded): // killed
				err = nil
			case r.finishing():
			case err == nil && r.ended != nil:
				err = r.ended()
			case err == nil:
				err = fmt.Errorf("%s ended by itself: %s", r.name, p.output())
			}
		}
		if err != nil {
			if !errors.Is(err, errNoMore) {
				r.err = err
			}
			return
		}
	}
}

// errNoMore says that a role has nothing more to do.
var errNoMore = errors.New("no more")

func (r *role) finishing() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stop
}

// kill kills the program, if it runs, and reports whether it did.
func (r *role) kill() bool {
	r.mu.Lock()
	p := r.now
	r.mu.Unlock()
	if p == nil || !p.running() {
		return false
	}
	p.kill()
	return true
}

// finish asks the program to end, once it has been told not to start again.
func (r *role) finish() error {
	r.mu.Lock()
	r.stop = true
	p := r.now
	r.mu.Unlock()
	var err error
	if p != nil && p.running() {
		err = p.stop()
	}
	<-r.done
	return errors.Join(err, r.err)
}

// failed returns why the role has given up, nil while it has not.
func (r *role) failed() error {
	select {
	case <-r.done:
		return r.err
	default:
		return nil
	}
}

// soak runs an external queue, a server, an agent and some replays, kills them
// at random, and audits in the end.
func soak(ctx context.Context, o soakOptions) (*soaked, error) {
	// On a disk: what is killed must find its files as a disk has them.
	dir, err := os.MkdirTemp("", "odometer-soak-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary, err := build(dir)
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	natsAddr, err := port.Free()
	if err != nil {
		return nil, err
	}
	s, err := newSite(filepath.Join(dir, "server"))
	if err != nil {
		return nil, err
	}
	queueToken := filepath.Join(dir, "queue.token")
	r := rand.New(rand.NewPCG(o.Seed, 1))
	if err := os.WriteFile(queueToken, fmt.Appendf(nil, "%016x%016x\n", r.Uint64(), r.Uint64()), 0o600); err != nil {
		return nil, err
	}
	s.nats, s.extra = "nats://"+natsAddr, []string{"--nats-token-file", queueToken}
	toServer := []string{"--server", "http://" + s.http, "--token-file", s.tokenFile(), "--nats-token-file", queueToken}

	roles := []*role{
		{name: "queue", start: func() (*process, error) {
			return launch(self, "nats", "-store", filepath.Join(dir, "nats"), "-addr", natsAddr, "-token-file", queueToken)
		}},
		{name: "server", start: func() (*process, error) { return launch(binary, s.args()...) }},
		{name: "agent", start: func() (*process, error) {
			return launch(binary, append([]string{"agent", "--id", "soak-host", "--interval", "1s", "--http", "", "--log-level", "error",
				"--data-dir", filepath.Join(dir, "agent")}, toServer...)...)
		}},
	}
	var mu sync.Mutex // guards what the feeders share
	used, files, over := truth{}, 0, false
	for i := range o.Feeders {
		file := ""
		next := func() error {
			mu.Lock()
			defer mu.Unlock()
			if over {
				return errNoMore
			}
			files++
			l := load{
				name: fmt.Sprintf("soak-%d", files), host: fmt.Sprintf("soak-host-%d", i), seed: o.Seed<<32 + uint64(files),
				instances: 20, ticks: 200, begin: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), step: 30 * time.Second, restarts: 50,
			}
			file = filepath.Join(dir, l.name+".ndjson")
			t, err := l.write(file)
			used = merge(used, t)
			return err
		}
		if err := next(); err != nil {
			return nil, err
		}
		roles = append(roles, &role{name: "replay", ended: next, start: func() (*process, error) {
			return launch(binary, append(append([]string{"replay", "--log-level", "error", "--data-dir", filepath.Join(dir, fmt.Sprint("replay-", i))}, toServer...), file)...)
		}})
	}
	for _, r := range roles {
		r.done = make(chan struct{})
	}
	defer func() { // whatever happens, nothing is left running
		for _, r := range roles {
			r.mu.Lock()
			r.stop = true
			r.mu.Unlock()
			r.kill()
			<-r.done
		}
	}()
	for i, r := range roles {
		go r.run()
		if r.name == "server" { // it makes the token that the others need
			for r.failed() == nil {
				if _, err := os.Stat(s.tokenFile()); err == nil {
					break
				}
				time.Sleep(glance)
			}
		}
		if err := r.failed(); err != nil {
			for _, later := range roles[i+1:] {
				close(later.done)
			}
			return nil, err
		}
	}

	result := &soaked{kills: map[string]int{}}
	begin := time.Now()
	for time.Since(begin) < o.For && ctx.Err() == nil {
		select {
		case <-time.After(time.Duration(200+r.IntN(2000)) * time.Millisecond):
		case <-ctx.Done():
		}
		victim := roles[r.IntN(4)] // each kind as often as the others
		if victim.name == "replay" {
			victim = roles[3+r.IntN(o.Feeders)]
		}
		if victim.kill() {
			result.kills[victim.name]++
		}
		for _, r := range roles {
			if err := r.failed(); err != nil {
				return nil, fmt.Errorf("%s after %v: %w", r.name, time.Since(begin).Round(time.Second), err)
			}
		}
		if o.Progress != nil {
			mu.Lock()
			fmt.Fprintf(o.Progress, "\r%v: %v kills, %d files of readings ", time.Since(begin).Round(time.Second), result.kills, files)
			mu.Unlock()
		}
	}
	if o.Progress != nil {
		fmt.Fprintln(o.Progress)
	}

	// The replays end with their files, the agent sends what it has, and then
	// the server ends.
	mu.Lock()
	over, result.files = true, files
	mu.Unlock()
	for _, r := range roles[3:] {
		select {
		case <-r.done:
		case <-time.After(2 * patience):
			return nil, fmt.Errorf("a replay does not end: %s", r.now.output())
		}
		if r.err != nil {
			return nil, r.err
		}
	}
	if err := roles[2].finish(); err != nil {
		return nil, err
	}
	if err := s.ready(roles[1].now); err != nil {
		return nil, err
	}
	usage, err := s.usage()
	if err != nil {
		return nil, err
	}
	if why := used.differs(usage); why != "" {
		return nil, errors.New("the usage is wrong: " + why)
	}
	if err := roles[1].finish(); err != nil {
		return nil, err
	}
	result.report, err = audited(ctx, s.dir)
	return result, err
}

// serveNATS is the external queue: a NATS server that knows nothing of
// odometer.
func serveNATS(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("nats", flag.ExitOnError)
	store := flags.String("store", "", "directory of JetStream")
	addr := flags.String("addr", "127.0.0.1:4222", "host:port to listen on")
	tokenFile := flags.String("token-file", "", "file with the token of the clients")
	flags.Parse(args)
	token, err := os.ReadFile(*tokenFile)
	if err != nil {
		return err
	}
	host, port, err := net.SplitHostPort(*addr)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		return err
	}
	s, err := server.NewServer(&server.Options{
		Host: host, Port: n, Authorization: strings.TrimSpace(string(token)), JetStream: true, StoreDir: *store, NoSigs: true, NoLog: true,
	})
	if err != nil {
		return err
	}
	s.Start()
	if !s.ReadyForConnections(time.Minute) {
		return errors.New("the NATS server is not ready after a minute")
	}
	<-ctx.Done()
	s.Shutdown()
	s.WaitForShutdown()
	return nil
}

func (s *soaked) String() string {
	total := 0
	var by []string
	for _, name := range []string{"queue", "server", "agent", "replay"} {
		by = append(by, fmt.Sprintf("%s %d", name, s.kills[name]))
		total += s.kills[name]
	}
	return fmt.Sprintf("%d kills (%s), %d files of readings; audit clean: %d events received, %d recorded, %d duplicates, %d entries, %d quarantined, 0 lost, 0 counted twice; usage is the truth",
		total, strings.Join(by, ", "), s.files, s.report.Received, s.report.Recorded, s.report.Duplicates, s.report.Entries, s.report.Quarantined)
}
