package main

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"example.org/odometer"
	"example.org/odometer/account"
	"example.org/odometer/api"
	"example.org/odometer/directory"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// serveConfig is what `odometer serve` is told.
type serveConfig struct {
	DataDir string // everything it keeps; created with mode 0700
	HTTP    string // host:port of the API
	// NATS is the host:port of the embedded queue, or the nats:// or tls://
	// addresses of an external one, which then needs the token of that file.
	NATS          string
	NATSTokenFile string
	NATSOwnKey    bool   // in place of a token: a key in the data directory
	NATSReplicas  int    // copies of each stream on an external cluster; 0 leaves them as they are
	NoAgent       bool   // do not meter this machine
	KeepJournal   string // such as 13mo; "" for ever
	EventRate     int    // POST /api/v1/events a second of one token, 0 for any number
	LogLevel      string
	OwnerMap      string // file that maps hints of hypervisors to owners, "" for none
	directoryFlags
	listenFlags
	trustFlags
	meterFlags
	OIDC oidcFlags
}

func newServe(s streams) *cobra.Command {
	var c serveConfig
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run everything in one process, metering this machine",
		Long: `Run everything in one process: the queue, the ledger, the API, and an agent that
meters this very machine. Nothing else needs to be installed or configured.

On a terminal it shows what it measures; on a pipe it writes plain log lines.
Ctrl-C ends it within five seconds; nothing is lost.`,
		Example: `  odometer serve
  odometer serve --data-dir /srv/odometer --interval 10s --user-id u-ada`,
		Args: arguments(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), s, c) },
	}
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&c.DataDir, "data-dir", defaultDataDir(s.env, ""), "directory for everything that is kept")
	flags.StringVar(&c.HTTP, "http", defaultHTTP, "address of the API")
	flags.StringVar(&c.NATS, "nats", defaultNATS, "address of the embedded queue, or nats:// address of an external one")
	flags.StringVar(&c.NATSTokenFile, "nats-token-file", "", "file that holds the token of an external queue")
	flags.BoolVar(&c.NATSOwnKey, "nats-own-key", false, "show an external queue who this is by a key of its own, in place of a token: see odometer nats config")
	flags.IntVar(&c.NATSReplicas, "nats-replicas", 0, "copies of each stream on an external cluster: 3 survive the loss of a server (default: 1 where a stream is created)")
	flags.BoolVar(&c.NoAgent, "no-agent", false, "do not meter this machine")
	flags.StringVar(&c.KeepJournal, "keep-journal", "", "how long the ledger's journal is kept, such as 13mo, 400d or 2y (default: for ever); sums are kept always")
	flags.StringVar(&c.OwnerMap, "owner-map", "", "CSV file that maps what hypervisors say of whose a machine is (attribute,value,user,org) to its owner")
	flags.StringVar(&c.DirectoryURL, "directory-url", "", "address of an account service that decides whose machines are: it answers GET URL/instances/ID")
	flags.StringVar(&c.DirectoryTokenFile, "directory-token-file", "", "file that holds the bearer token of the account service")
	flags.DurationVar(&c.DirectoryMaxAge, "directory-max-age", directory.DefaultMaxAge, "how old an answer of the account service may be before it is asked again")
	c.meterFlags.register(flags)
	c.listenFlags.register(flags)
	flags.IntVar(&c.EventRate, "event-rate", int(api.StandardLimits.Events), "requests a second with events that one token may make, and ten times as many at once; 0 for any number")
	c.trustFlags.register(flags)
	c.OIDC.register(flags)
	flags.StringVar(&c.LogLevel, "log-level", defaultLogLevel, "debug, info, warn or error")
	return cmd
}

// external reports whether the queue is another process's.
func (c *serveConfig) external() bool { return strings.Contains(c.NATS, "://") }

// complete fills what depends on the machine and returns everything that is
// wrong.
func (c *serveConfig) complete() error {
	var errs []error
	add := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	dir, err := absolute(c.DataDir)
	add(err)
	c.DataDir = dir
	if c.InstanceID == "" && !c.NoAgent {
		c.InstanceID, err = hostName()
		add(err)
	}
	add(c.listenFlags.check("http", c.HTTP))
	add(noSecretIn("nats", c.NATS, "nats-token-file"))
	add(c.checkLimits())
	if c.EventRate < 0 {
		add(fmt.Errorf("--event-rate %d: a number from 1, or 0 for no limit", c.EventRate))
	}
	if !c.external() {
		add(c.listenFlags.check("nats", c.NATS))
		if c.NATSTokenFile != "" {
			add(errors.New("--nats-token-file is for an external queue; --nats names none"))
		}
		if c.NATSOwnKey {
			add(errors.New("--nats-own-key is for an external queue; --nats names none"))
		}
		if c.NATSReplicas != 0 {
			add(errors.New("--nats-replicas is for an external queue; --nats names none"))
		}
	}
	if c.NATSOwnKey && c.NATSTokenFile != "" {
		add(errors.New("--nats-own-key and --nats-token-file are both given; one of them is enough"))
	}
	if c.NATSReplicas < 0 || c.NATSReplicas > maxReplicas {
		add(fmt.Errorf("--nats-replicas %d: a stream has 1 to %d copies", c.NATSReplicas, maxReplicas))
	}
	add(c.meterFlags.check())
	add(c.directoryFlags.check())
	add(c.OIDC.check())
	_, err = parseKeep(c.KeepJournal)
	add(err)
	return misuse(errors.Join(errs...))
}

// maxReplicas is the most copies of a stream that JetStream keeps.
const maxReplicas = 5

const (
	// stopWithin is how long the end may take altogether.
	stopWithin = 4500 * time.Millisecond
	// drainWithin is how much of that what was just measured has to reach
	// the ledger. What does not waits in the spool.
	drainWithin = 2 * time.Second
	// recallWithin bounds how long a new spool waits for what the server
	// still knows of it, before it begins anew.
	recallWithin = 10 * time.Second
)

// server is `odometer serve` while it runs.
//
//	intake                        flow                                            service
//	sampler ─▶ meter ─▶ spool ─▶ publisher ═ INGEST ═▶ ingest ─▶ ledger ─▶ feed ═ USAGE ═▶
//	                      ▲                              │          │
//	                      └────────── receipts ──────────┘          └─▶ api ──▶ clients
//
// Its fields are set in this order, from open on, and closed in the reverse.
type server struct {
	config  serveConfig
	logger  *slog.Logger
	console *console
	tls     *tlsPair // nil for no TLS

	dir      *dataDir
	listener *api.Listener
	ledger   *ledger.Ledger
	accounts *account.Accounts
	issuer   *account.Issuer    // nil for none
	token    string             // the administrator's
	key      ed25519.PrivateKey // signs the heads of a pruned journal; nil where it is kept for ever
	nats     *queue.Server      // nil where the queue is external
	natsKey  *queue.Key         // by which an external one knows the server; nil for none
	conn     *queue.Conn        // the server's own
	ingest   *ingest.Ingest
	entries  *entries
	feed     *queue.Feed
	heard    *queue.Live
	fleet    *fleet
	hints    *attributor         // nil without an owner map
	service  *directory.Follower // nil without an account service

	admission *admission // of hosts and consumers
	refused   *api.Refusals

	agentConn *queue.Conn // as the agent; nil without one, like what follows
	host      *host
	publish   *queue.Publisher

	closers []func() error
}

// serve runs until ctx is done or a stage fails.
func serve(ctx context.Context, s streams, c serveConfig) (err error) {
	confine()
	if err := c.complete(); err != nil {
		return err
	}
	logger, err := newLogger(s, c.LogLevel)
	if err != nil {
		return misuse(err)
	}
	sv := &server{config: c, logger: logger, console: newConsole(s, logger)}
	defer func() { err = errors.Join(err, sv.close()) }()
	if err := sv.open(ctx); err != nil {
		return err
	}
	return sv.run(ctx, s)
}

// onClose notes what to do at the end, before what was noted before.
func (sv *server) onClose(f func() error) { sv.closers = append(sv.closers, f) }

func (sv *server) close() error {
	var errs []error
	for len(sv.closers) > 0 {
		last := len(sv.closers) - 1
		errs = append(errs, sv.closers[last]())
		sv.closers = sv.closers[:last]
	}
	return errors.Join(errs...)
}

// open takes everything that the stages need. What can refuse without anything
// having been touched comes first: another server, an address in use, a
// directory that cannot be written, a ledger of a newer version.
func (sv *server) open(ctx context.Context) (err error) {
	c := &sv.config
	if sv.tls, err = c.listenFlags.pair(sv.logger); err != nil {
		return err
	}
	if sv.dir, err = lockDataDir(c.DataDir, "serve"); err != nil {
		return err
	}
	sv.onClose(func() error { return sv.dir.release() })
	l, err := listen("http", c.HTTP)
	if err != nil {
		return err
	}
	sv.listener = c.conns.Listener(l)
	sv.onClose(func() error { sv.listener.Close(); return nil }) // closed by its server already, as a rule
	if !c.external() {
		if err := probe("nats", c.NATS); err != nil {
			return err
		}
	}
	if err := sv.dir.create("serve"); err != nil {
		return err
	}
	sv.ledger, err = ledger.Open(ctx, ledger.Options{Path: sv.dir.file(ledgerFile), Logger: sv.logger})
	if errors.Is(err, ledger.ErrNewer) {
		return advise(err, "run the version that wrote it, or a later one; nothing was changed")
	} else if err != nil {
		return err
	}
	sv.onClose(sv.ledger.Close)
	sv.accounts, err = account.OpenAccounts(ctx, account.AccountsOptions{Path: sv.dir.file(ledgerFile), Logger: sv.logger})
	if errors.Is(err, account.ErrNewerAccounts) {
		return advise(err, "run the version that wrote them, or a later one; nothing was changed")
	} else if err != nil {
		return err
	}
	sv.onClose(sv.accounts.Close)
	if c.OIDC.Issuer != "" {
		trust, err := c.trustFlags.config()
		if err != nil {
			return err
		}
		sv.issuer, err = account.NewIssuer(sv.accounts, account.IssuerOptions{
			URL: c.OIDC.Issuer, Audience: c.OIDC.Audience, UserClaim: c.OIDC.UserClaim, OrgClaim: c.OIDC.OrgClaim, TLS: trust, Logger: sv.logger,
		})
		if err != nil {
			return err
		}
	}
	if sv.token, err = adminToken(sv.dir.file(tokenFile)); err != nil {
		return err
	}
	if c.KeepJournal != "" {
		if sv.key, err = ledgerKey(sv.dir.file(keyFile)); err != nil {
			return err
		}
	}
	sv.refused = api.NewRefusals(sv.accounts, nil, sv.logger)
	if err := sv.openQueue(ctx); err != nil {
		return err
	}
	sv.admission = &admission{Accounts: sv.accounts, nats: sv.nats, conn: sv.conn, logger: sv.logger}
	sv.entries = &entries{Feed: ledger.Feed{Ledger: sv.ledger, Name: feedName}}
	sv.feed = queue.NewFeed(sv.conn, sv.entries)
	sv.fleet = &fleet{ledger: sv.ledger, kept: sv.accounts, now: time.Now, putOut: sv.accounts.PutOut, transferred: func(ctx context.Context, o odometer.Ownership) error {
		return sv.accounts.Transferred(ctx, odometer.Actor{Caller: odometer.Caller{Name: "account service"}}, o)
	}}
	sv.heard = queue.NewLive(sv.conn, sv.fleet.hear)
	sv.fleet.live = &liveView{heard: sv.heard, ledger: sv.ledger, now: time.Now}
	sv.fleet.directory, sv.fleet.absent = openDirectory(ctx, sv.dir.file(directoryFile), account.Options{Logger: sv.logger})
	if sv.fleet.absent != nil {
		sv.logger.Error("serving without the directory of instances", "err", sv.fleet.absent)
	} else {
		sv.onClose(sv.fleet.directory.Close)
		sv.fleet.owners = newOwnerTeller(sv.fleet.directory, sv.ledger, sv.conn, sv.logger)
	}
	if err := sv.openOwners(); err != nil {
		return err
	}
	sv.ingest = ingest.New(ingest.Options{
		Ledger: sv.ledger, Receipts: sv.conn, IsHost: sv.accounts.IsHost, Elsewhere: sv.fleet.elsewhere, Logger: sv.logger,
	})
	if c.NoAgent {
		return nil
	}
	return sv.openHost()
}

// openOwners opens what says whose machines are, apart from people.
func (sv *server) openOwners() (err error) {
	if sv.config.OwnerMap != "" {
		m, err := openOwnerMap(sv.config.OwnerMap)
		if err != nil {
			return err
		}
		if sv.fleet.directory != nil {
			sv.hints = newAttributor(sv.fleet, m, sv.logger)
			sv.fleet.described = sv.hints.hear
		}
	}
	sv.service, err = sv.openDirectoryService()
	return err
}

// openQueue starts the embedded queue or connects to the external one, and
// sees to its streams.
func (sv *server) openQueue(ctx context.Context) error {
	options := queue.ConnectOptions{URL: sv.config.NATS, Name: "odometer serve", Logger: sv.logger}
	trust, err := sv.config.trustFlags.config()
	if err != nil {
		return err
	}
	if sv.config.external() {
		options.TLS, options.Replicas = trust, sv.config.NATSReplicas
		if sv.config.NATSTokenFile != "" {
			if options.Token, err = readToken(sv.config.NATSTokenFile); err != nil {
				return err
			}
		}
		if sv.config.NATSOwnKey {
			if sv.natsKey, err = queueKey(sv.dir.file(queueKeyFile)); err != nil {
				return err
			}
			options.Key = sv.natsKey
		}
	} else {
		sv.nats, err = queue.StartServer(queue.ServerOptions{
			StoreDir: sv.dir.file(natsDir), Addr: sv.config.NATS, Token: sv.token, Peers: sv.accounts, Refused: sv.refused.QueueLogin, TLS: sv.tls.config(), Logger: sv.logger,
		})
		if err != nil {
			return err
		}
		sv.onClose(func() error { sv.nats.Shutdown(); return nil })
		options.URL, options.Server = "", sv.nats
	}
	sv.conn, err = queue.Connect(options)
	if errors.Is(err, odometer.ErrForbidden) && sv.natsKey != nil {
		return advise(err, "odometer nats config prints what its servers have to be told, of key %s", sv.natsKey.Public())
	} else if errors.Is(err, odometer.ErrForbidden) {
		return advise(err, "--nats-token-file names the file with the right one")
	} else if err != nil {
		return err
	}
	sv.onClose(func() error { sv.conn.Close(); return nil })
	if err := sv.conn.EnsureStreams(ctx); err != nil {
		if !sv.config.external() {
			return err
		}
		sv.logger.Warn("the queue's streams cannot be looked after yet", "err", err)
	}
	return nil
}

// openHost opens the agent that meters this machine, and its own connection.
func (sv *server) openHost() (err error) {
	c := &sv.config
	id := odometer.AgentID(c.InstanceID)
	options := queue.ConnectOptions{Server: sv.nats, Agent: id, Name: "odometer agent " + c.InstanceID, Logger: sv.logger}
	if sv.nats == nil {
		options.URL, options.Key = c.NATS, sv.natsKey
		if options.TLS, err = c.trustFlags.config(); err != nil {
			return err
		}
		if c.NATSTokenFile != "" {
			if options.Token, err = readToken(c.NATSTokenFile); err != nil {
				return err
			}
		}
	}
	if sv.agentConn, err = queue.Connect(options); err != nil {
		return err
	}
	sv.onClose(func() error { sv.agentConn.Close(); return nil })
	recall := func(ctx context.Context) ([]json.RawMessage, error) {
		ctx, cancel := context.WithTimeout(ctx, recallWithin)
		defer cancel()
		return sv.agentConn.RequestCheckpoints(ctx, id)
	}
	if sv.host, err = openHost(sv.dir, id, c.meterFlags, sv.logger, recall, sv.console.period); err != nil {
		return err
	}
	sv.onClose(sv.host.close)
	sv.publish = queue.NewPublisher(sv.agentConn, sv.host.spool, queue.PublisherOptions{
		Agent: id, Last: lastReceipt(sv.host.spool, id), Logger: sv.logger,
	})
	return nil
}

// run starts the stages, from the ledger's end of the flow to the counters',
// and stops them in flow order.
func (sv *server) run(parent context.Context, s streams) error {
	ctx, fail := context.WithCancelCause(parent)
	defer fail(nil)
	service := newPhase(ctx, "the topic", fail)
	flow := newPhase(ctx, "the ledger", fail)
	sending := newPhase(ctx, "the publisher", fail)
	intake := newPhase(ctx, "the agent", fail)

	p := sv.parts()
	if sv.tls != nil {
		service.run("certificate", sv.tls.run)
	}
	service.run("feed", sv.feed.Run)
	service.run("consumers", sv.admission.run)
	flow.run("live", sv.heard.Run)
	if sv.fleet.directory != nil {
		flow.run("directory", sv.fleet.directory.Run)
		flow.run("owners", sv.fleet.owners.run)
		flow.run("moves", func(ctx context.Context) error { return sv.fleet.admitMoved(ctx, sv.logger) })
	}
	if sv.hints != nil {
		flow.run("owner map", sv.hints.run)
	}
	if sv.service != nil {
		flow.run("account service", sv.service.Run)
	}
	flow.run("accounts", sv.accounts.Run)
	flow.run("refusals", sv.refused.Run)
	if sv.issuer != nil {
		flow.run("issuer", sv.issuer.Run)
	}
	flow.run("receipts", func(ctx context.Context) error { return sv.conn.ServeReceipts(ctx, sv.receipt) })
	flow.run("ingest", func(ctx context.Context) error { return sv.ingest.Run(ctx, deliveries{queue.NewReceiver(sv.conn)}) })
	flow.run("upkeep", func(ctx context.Context) error {
		return upkeep(ctx, sv.ledger, func(err error) { sv.logger.Error("the ledger's upkeep failed; trying again", "err", err) })
	})
	if sv.key != nil {
		keep, _ := parseKeep(sv.config.KeepJournal) // checked with the settings
		flow.run("retention", func(ctx context.Context) error { return retain(ctx, sv.ledger, keep, sv.key, sv.logger) })
	}
	if sv.host != nil {
		sending.run("publisher", sv.publish.Run)
		sv.host.run(intake)
		intake.run("live", func(ctx context.Context) error { return sv.host.speak(ctx, sv.agentConn) })
	}
	handler := api.NewServer(sv.deps(p))
	intake.run("api", func(ctx context.Context) error {
		return serveHTTP(ctx, sv.listener, handler, sv.tls.config(), sv.config.conns, sv.logger)
	})
	if err := sv.announce(s); err != nil {
		fail(err)
	}
	intake.run("console", func(ctx context.Context) error { return sv.console.run(ctx, sv.watch()) })

	<-ctx.Done()
	deadline := time.Now().Add(stopWithin)
	left := func() time.Duration { return max(0, time.Until(deadline)) }
	errs := []error{intake.end(left())}
	until(min(drainWithin, left()), func() bool { return sv.host == nil || sv.host.spool.Stats().Unacked == 0 })
	errs = append(errs, sending.end(left()), flow.end(left()))
	until(min(drainWithin, left()/2), func() bool {
		lag, err := sv.ledger.FeedLag(context.WithoutCancel(ctx), feedName)
		return err != nil || lag == 0 || !sv.conn.Status().Connected
	})
	errs = append(errs, service.end(left()))
	sv.console.stopped(sv.watch(), sv.stopPoint(context.WithoutCancel(ctx)))
	if parent.Err() == nil { // it was not asked to stop: the first failure is why
		return context.Cause(ctx)
	}
	return errors.Join(errs...)
}

// announce says where the server is: to clients of the same user, and to
// whoever looks on.
func (sv *server) announce(s streams) error {
	info := serverInfo{PID: os.Getpid(), Version: Version, HTTP: httpURL(sv.listener, sv.tls.config()), NATS: sv.queueURL(), StartedAt: time.Now().UTC()}
	if err := sv.dir.writeServerInfo(info); err != nil {
		return err
	}
	sv.onClose(sv.dir.removeServerInfo)
	instance := sv.config.InstanceID
	if sv.host == nil {
		instance = ""
	}
	sv.console.hint = "odometer usage list --from -1h"
	if sv.dir.path != defaultDataDir(s.env, "") {
		sv.console.hint += " --data-dir " + sv.dir.path
	}
	sv.console.header(instance, ownerText(sv.config.owner()), tilde(sv.dir.path, s.env), info.HTTP, info.NATS)
	return nil
}

// queueURL is where agents on other hosts reach the queue.
func (sv *server) queueURL() string {
	if sv.nats == nil {
		return sv.config.NATS
	}
	return sv.nats.URL()
}

func (sv *server) receipt(_ context.Context, agent odometer.AgentID, spool odometer.SpoolID) (odometer.Receipt, error) {
	return sv.ledger.Receipt(agent, spool), nil
}

func (sv *server) parts() *parts {
	p := &parts{
		dataDir: sv.dir.path, host: sv.host, conn: func() *queue.Conn { return sv.conn },
		ledger: sv.ledger, ingest: sv.ingest, entries: sv.entries, feed: sv.feed,
		live: sv.fleet.live, fleet: sv.fleet, tls: sv.tls, listener: sv.listener,
		interval: sampleEvery(sv.config.Interval),
	}
	if sv.nats != nil {
		p.store = sv.nats.Health
	}
	if sv.hints != nil {
		p.hints = sv.hints.owners
	}
	p.service, p.maxAge = sv.service, sv.config.DirectoryMaxAge
	if sv.host != nil {
		p.publish = func() queue.PublisherStats { return sv.publish.Stats() }
	}
	return p
}

func (sv *server) deps(p *parts) api.Deps {
	auth := api.Authenticators{api.Tokens{api.HashToken("admin", sv.token)}, sv.accounts}
	if sv.issuer != nil {
		auth = append(auth, sv.issuer)
	}
	d := api.Deps{
		Version: Version, Logger: sv.logger, Auth: auth,
		CursorKey: api.CursorKey(sv.token),
		Usage:     seenLedger{sv.ledger}, Entries: seenLedger{sv.ledger}, Exports: seenLedger{sv.ledger}, Revisions: sv.ledger, Stream: seenLedger{sv.ledger}, Submit: sv.ingest, Live: p.live,
		Instances: sv.fleet, Lifecycle: seenLedger{sv.ledger}, Ownership: ownership{sv.ledger, sv.fleet},
		Months: months{p}, Quarantine: quarantine{sv.ledger}, Reversals: sv.ledger,
		Tokens: sv.accounts, People: sv.accounts, Grants: sv.accounts, Identities: sv.accounts, Registered: sv.accounts, Audit: sv.accounts,
		Hosts: sv.admission, Consumers: sv.admission,
		Status: p, Health: newLately(p), Stats: p.stats(), QueueURL: sv.queueURL,
	}
	d.Refused, d.Limits = sv.refused, sv.config.limits()
	if sv.host != nil {
		d.Machine = p
	}
	return d
}

// limits are those of the API.
func (c *serveConfig) limits() api.Limits {
	l := api.StandardLimits
	l.Requests, l.Events = float64(c.RequestRate), float64(c.EventRate)
	return l
}

// watch is what the console looks at.
func (sv *server) watch() watched {
	w := sv.host.watch()
	w.entries = func() int64 {
		st, _ := sv.ledger.Stats(context.Background())
		return st.Entries
	}
	return w
}

func (sv *server) stopPoint(ctx context.Context) (p stopPoint) {
	if st, err := sv.ledger.Stats(ctx); err == nil {
		p.entries = st.Entries
	}
	if lag, err := sv.ledger.FeedLag(ctx, feedName); err == nil {
		p.behind = lag
	}
	if sv.host != nil {
		st := sv.host.spool.Stats()
		p.position, p.committed, p.backlog = st.Last, st.Acked, st.Unacked
	}
	return p
}
