package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"example.org/odometer"
	"example.org/odometer/api"
)

// remoteFlags say to which server events go.
type remoteFlags struct {
	serverFlags
	NATSTokenFile string // of an external queue, where its token is not the server's
	OwnDir        string // what this process keeps
}

func (c *remoteFlags) register(flags *pflag.FlagSet, env func(string) (string, bool), below, what string) {
	flags.StringVar(&c.OwnDir, "data-dir", defaultDataDir(env, below), what)
	c.serverFlags.register(flags, env)
	flags.Lookup("server").Usage = "http(s):// address of the server, or nats:// of its queue (default: the one running here, else " + defaultServer + ")"
	c.serverFlags.DataDir = defaultDataDir(env, "")
	flags.StringVar(&c.NATSTokenFile, "nats-token-file", "", "file that holds the token of an external queue (default: the server's token)")
}

// complete finds server and token and says what is wrong.
func (c *remoteFlags) complete() (to remote, err error) {
	dir, err1 := absolute(c.OwnDir)
	c.OwnDir = dir
	server, token, err2 := c.resolve()
	to = remote{server: server, token: token}
	if err2 == nil {
		u, err := url.Parse(server)
		if err != nil || u.Host == "" || !slices.Contains([]string{"http", "https", "nats", "tls"}, u.Scheme) {
			err2 = fmt.Errorf("--server %q is no address such as http://127.0.0.1:8640 or nats://127.0.0.1:8642", server)
		}
	}
	var err3, err4 error
	to.tls, err3 = c.trustFlags.config()
	if c.NATSTokenFile != "" {
		to.queueToken, err4 = readToken(c.NATSTokenFile)
	}
	return to, misuse(errors.Join(err1, err2, err3, err4))
}

// agentConfig is what `odometer agent` is told.
type agentConfig struct {
	ID       string // who measures; one per host
	HTTP     string // host:port of its own API, "" for none
	LogLevel string
	// Enroll is a file that holds a one-time token, "-" for standard input.
	Enroll string
	remoteFlags
	listenFlags
	meterFlags
}

// enrolVariable holds a one-time token itself. It is no flag, since everybody on a
// machine can see the flags of a process.
const enrolVariable = "ODOMETER_ENROLL_TOKEN"

func newAgent(s streams) *cobra.Command {
	var c agentConfig
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Meter this machine for a server elsewhere",
		Long: `Meter this machine for a server elsewhere. What is measured waits on the disk
until the server's ledger has it, however long the server is away.

A host is let in by a one-time token, which "odometer host enroll-token" makes on the
server: it is used at the first start, when the host makes a key of its own, and
needed no more. --enroll names the file that holds it, - standard input; the variable
` + enrolVariable + ` holds it itself. Without it, and without a key, the server's
administrator's token lets the agent in.

Its own API answers /get, /health, /livez, /readyz, /api/v1/health/status and
/metrics all the time, with the same token, or with the one in admin.token of its
data directory where the host has a key.`,
		Example: `  odometer agent --server https://metering.example:8640 --enroll /run/enrol.token
  odometer agent --server http://metering.example:8640 --token-file /etc/odometer/token`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return runAgent(cmd.Context(), s, c) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.ID, "id", "", "name of this agent, one per host (default: the host's name)")
	flags.StringVar(&c.Enroll, "enroll", "", "file that holds a one-time token, by which this host is let in; - for standard input")
	c.remoteFlags.register(flags, s.env, "agent", "directory for what has no receipt yet, and for the key of this host")
	flags.StringVar(&c.HTTP, "http", defaultAgentHTTP, "address of its own API; empty for none")
	c.meterFlags.register(flags)
	c.listenFlags.register(flags)
	flags.StringVar(&c.LogLevel, "log-level", defaultLogLevel, "debug, info, warn or error")
	return cmd
}

func (c *agentConfig) complete() (to remote, err error) {
	to, err = c.remoteFlags.complete()
	errs := []error{err}
	if c.ID == "" {
		c.ID, err = hostName()
		errs = append(errs, err)
	}
	if c.InstanceID == "" {
		c.InstanceID = c.ID
	}
	errs = append(errs, checkID("id", c.ID, true), c.meterFlags.check())
	if c.HTTP != "" {
		errs = append(errs, c.listenFlags.check("http", c.HTTP), c.checkLimits())
	}
	if c.Enroll != "" && (c.Token != "" || c.TokenFile != "") {
		errs = append(errs, errors.New("--enroll gives this host a key of its own; it needs no other token"))
	}
	if c.Enroll != "" && !strings.HasPrefix(to.server, "http") {
		errs = append(errs, errors.New("--enroll needs the http(s):// address of the server in --server"))
	}
	return to, misuse(errors.Join(errs...))
}

// identity returns who this host is, nil where it comes with a token. A one-time
// token that is gone is not needed any more where the host has a key.
func (c *agentConfig) identity(s streams, dir *dataDir, server string, logger *slog.Logger) (*identity, error) {
	if c.Token != "" || c.TokenFile != "" {
		return nil, nil
	}
	secret, err := c.enrolSecret(s)
	if err != nil {
		if _, absent := os.Stat(dir.file(hostKeyFile)); absent != nil {
			return nil, misuse(err)
		}
		logger.Info("there is no one-time token: this host comes with the key that it has", "why", err)
	}
	return openIdentity(dir, odometer.AgentID(c.ID), server, secret, logger)
}

// enrolSecret returns the one-time token that was given, "" for none.
func (c *agentConfig) enrolSecret(s streams) (string, error) {
	switch {
	case c.Enroll == "-":
		if s.in == nil {
			return "", errors.New("--enroll -: there is no standard input")
		}
		line, err := secretLine(s)
		if err != nil {
			return "", fmt.Errorf("--enroll -: %w", err)
		}
		return oneSecret("standard input", line)
	case c.Enroll != "":
		return readToken(c.Enroll)
	}
	if secret, ok := s.env(enrolVariable); ok && secret != "" {
		return oneSecret(enrolVariable, secret)
	}
	return "", nil
}

// secretLine reads a line from standard input. A terminal does not show it.
func secretLine(s streams) (string, error) {
	if f, ok := s.in.(*os.File); ok && term.IsTerminal(int(f.Fd())) {
		fmt.Fprint(s.err, "one-time token (not shown): ")
		line, err := term.ReadPassword(int(f.Fd()))
		fmt.Fprintln(s.err)
		return string(line), err
	}
	line, err := bufio.NewReader(io.LimitReader(s.in, 1<<10)).ReadString('\n')
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return line, err
}

// runAgent runs the half of the flow that lies on a host:
//
//	sampler ─▶ meter ─▶ spool ─▶ publisher ═▶ the server
//	                      └─▶ api
func runAgent(ctx context.Context, s streams, c agentConfig) (err error) {
	confine()
	to, err := c.complete()
	if err != nil {
		return err
	}
	logger, err := newLogger(s, c.LogLevel)
	if err != nil {
		return misuse(err)
	}
	pair, err := c.listenFlags.pair(logger)
	if err != nil {
		return err
	}
	dir, err := lockDataDir(c.OwnDir, "agent")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.release()) }()
	var listener *api.Listener
	if c.HTTP != "" {
		l, err := listen("http", c.HTTP)
		if err != nil {
			return err
		}
		listener = c.conns.Listener(l)
		defer listener.Close()
	}
	if err := dir.create("agent"); err != nil {
		return err
	}

	who, err := c.identity(s, dir, to.server, logger)
	if err == nil && who != nil {
		to.token, err = adminToken(dir.file(tokenFile)) // of its own API alone
	}
	if err != nil {
		return err
	}
	var up *uplink // set before the agent runs
	cons := newConsole(s, logger)
	id := odometer.AgentID(c.ID)
	h, err := openHost(dir, id, c.meterFlags, logger, func(ctx context.Context) ([]json.RawMessage, error) { return up.recall(ctx) }, cons.period)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.close()) }()
	up = newUplink(to, id, h.spool, logger)
	up.identity, up.connected = who, h.speak

	run, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	sending := newPhase(run, "the publisher", fail)
	intake := newPhase(run, "the agent", fail)
	sending.run("publisher", up.run)
	h.run(intake)
	if listener != nil {
		p := &parts{host: h, publish: up.stats, conn: up.current, unconnected: up.why, interval: sampleEvery(c.Interval), tls: pair, listener: listener}
		handler := api.NewAgentServer(api.AgentDeps{
			Version: Version, Logger: logger, Auth: api.Tokens{api.HashToken("admin", to.token)}, Health: newLately(p), Machine: p, Stats: p.stats(),
			Limits: api.Limits{Requests: float64(c.RequestRate), Guesses: api.StandardLimits.Guesses},
		})
		intake.run("api", func(ctx context.Context) error {
			return serveHTTP(ctx, listener, handler, pair.config(), c.conns, logger)
		})
		if pair != nil {
			sending.run("certificate", pair.run)
		}
	}
	where := "off"
	if listener != nil {
		where = httpURL(listener, pair.config())
	}
	cons.header(c.InstanceID, ownerText(c.owner()), tilde(dir.path, s.env), where, to.server)
	intake.run("console", func(ctx context.Context) error { return cons.run(ctx, h.watch()) })

	<-run.Done()
	deadline := time.Now().Add(stopWithin)
	left := func() time.Duration { return max(0, time.Until(deadline)) }
	errs := []error{intake.end(left())}
	until(min(drainWithin, left()), func() bool {
		conn := up.current()
		return conn == nil || !conn.Status().Connected || h.spool.Stats().Unacked == 0
	})
	errs = append(errs, sending.end(left()))
	st := h.spool.Stats()
	cons.stopped(h.watch(), stopPoint{position: st.Last, committed: st.Acked, backlog: st.Unacked, entries: -1})
	if ctx.Err() == nil {
		return context.Cause(run)
	}
	return errors.Join(errs...)
}

// ownerText names an owner for people.
func ownerText(o odometer.Owner) string {
	o = o.OrUnassigned()
	if o.Org == "" {
		return string(o.User)
	}
	return strings.Join([]string{string(o.User), string(o.Org)}, " of ")
}
