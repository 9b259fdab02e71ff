package main

import (
	"context"
	"database/sql"
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

	"example.org/odometer"
	"example.org/odometer/agent"
	"example.org/odometer/crash/trace"
	"example.org/odometer/internal/port"
	"example.org/odometer/ledger"
	"example.org/odometer/meter"
	"example.org/odometer/sampler"
	"example.org/odometer/spool"
)

// run is a canonical run of one program.
type run struct {
	name string
	// prepare fills a directory with what each attempt begins with: "data"
	// will be the traced data directory, the rest lies near it. It returns
	// what will have been used in the end.
	prepare func(ctx context.Context, binary, dir string) (truth, error)
	// play plays the run from its beginning to its end. After a kill it is
	// called again and goes on from whatever there is. It returns nil when the
	// program has ended well and the usage is the truth.
	play func(ctx context.Context, a *attempt) error
	// server is the data directory of the ledger, relative to the attempt's.
	server     string
	milestones []milestone
}

// milestone is something that the run must go through to be worth killing.
type milestone struct {
	name  string
	calls func(*trace.Call) bool // one of its calls shows it
	query string                 // or the ledger does, between or at the end: a count above 0
}

// attempt is one time that a run is played.
type attempt struct {
	run    *run
	binary string
	dir    string
	truth  truth
	again  bool // it was killed before
	// start starts the program that is to be killed.
	start func(args ...string) (*process, error)
	// between is called when the run's program has ended and is about to be
	// started again. May be nil.
	between func() error

	site   *site
	server *process // beside an agent: not traced, and stays
	others []*process
}

func (a *attempt) data() string            { return filepath.Join(a.dir, "data") }
func (a *attempt) near(name string) string { return filepath.Join(a.dir, name) }

// close ends what still runs.
func (a *attempt) close() {
	for _, p := range a.others {
		p.kill()
	}
}

// launch starts another program beside the one that is traced.
func (a *attempt) launch(args ...string) (*process, error) {
	p, err := launch(a.binary, args...)
	if err == nil {
		a.others = append(a.others, p)
	}
	return p, err
}

// under starts the program that is traced.
func (a *attempt) under(args ...string) (*process, error) {
	p, err := a.start(args...)
	if err == nil {
		a.others = append(a.others, p)
	}
	return p, err
}

// beside runs another program to its end while the traced one runs.
func (a *attempt) beside(traced *process, args ...string) error {
	p, err := a.launch(args...)
	if err != nil {
		return err
	}
	defer p.kill()
	select {
	case <-p.done:
		return p.wait()
	case <-traced.done:
		return errEnded
	case <-time.After(patience):
		return fmt.Errorf("%s does not end: %s\nthe program: %s", p.name, p.output(), traced.output())
	}
}

// replaying are the arguments of a replay to the attempt's server.
func (a *attempt) replaying(dataDir string, files ...string) []string {
	args := []string{"replay", "--server", "http://" + a.site.http, "--token-file", a.site.tokenFile(), "--data-dir", dataDir}
	for _, f := range files {
		args = append(args, a.near(f))
	}
	return args
}

// settled compares the usage with the truth.
func (a *attempt) settled() error {
	usage, err := a.site.usage()
	if err != nil {
		return err
	}
	if why := a.truth.differs(usage); why != "" {
		return errors.New("the usage is wrong: " + why)
	}
	return nil
}

// runs are the canonical runs.
var runs = []*run{serverRun, agentRun, replayRun}

// The server takes two days of readings, events by hand that come late, of
// which one is reversed, one that goes into quarantine and is released, ends, and
// begins again, on which it seals what fell silent and compacts the first day; tells a
// webhook of what is reached of two thresholds; and closes the month, of which one event comes after that.
var serverRun = &run{
	name:   "server",
	server: "data",
	prepare: func(_ context.Context, _, dir string) (truth, error) {
		begin := time.Date(2026, 1, 1, 22, 0, 0, 0, time.UTC)
		first := load{name: "one", host: "host-1", seed: 1, instances: 6, ticks: 40, begin: begin, step: 2 * time.Minute, restarts: 40}
		second := load{name: "two", host: "host-2", seed: 2, instances: 6, ticks: 120, begin: begin, step: 2 * time.Minute, restarts: 50}
		t1, err1 := first.write(filepath.Join(dir, "one.ndjson"))
		t2, err2 := second.write(filepath.Join(dir, "two.ndjson"))
		byHand := truth{"by-hand": {"cpu_us": 1e15}, "late": {"cpu_us": 6e6}, "adjusting": {"cpu_us": 6e6}}
		return merge(t1, t2, byHand), errors.Join(err1, err2)
	},
	play: playServer,
	milestones: []milestone{
		{name: "the ledger is created", calls: func(c *trace.Call) bool { return c.Op == trace.Open && c.Path == "ledger.db" }},
		{name: "the write-ahead log is checkpointed", calls: func(c *trace.Call) bool { return c.Op == trace.Write && c.Path == "ledger.db" }},
		{name: "the write-ahead log is removed", calls: func(c *trace.Call) bool { return c.Op == trace.Unlink && c.Path == "ledger.db-wal" }},
		{name: "the queue stores messages", calls: func(c *trace.Call) bool {
			return c.Op == trace.Write && strings.Contains(c.Path, "INGEST/msgs/") && strings.HasSuffix(c.Path, ".blk")
		}},
		{name: "the topic stores entries", calls: func(c *trace.Call) bool {
			return c.Op == trace.Write && strings.Contains(c.Path, "USAGE/msgs/") && strings.HasSuffix(c.Path, ".blk")
		}},
		{name: "hours are sealed", query: `SELECT count(*) FROM hours WHERE cause = 'sealed'`},
		{name: "a day is compacted", query: `SELECT count(*) FROM days`},
		{name: "a piece comes late for a sealed hour", query: `SELECT count(*) FROM hours WHERE cause = 'late'`},
		{name: "an event is released from quarantine", query: `SELECT count(*) FROM quarantine WHERE released_us > 0`},
		{name: "an entry is reversed", query: `SELECT count(*) FROM reversals`},
		{name: "a threshold is made", query: `SELECT count(*) FROM threshold_thresholds`},
		{name: "what was reached is recorded", query: `SELECT count(*) FROM threshold_changes`},
		{name: "it was told", query: `SELECT count(*) FROM notify_deliveries WHERE state = 'delivered'`},
		{name: "violations are published", calls: func(c *trace.Call) bool {
			return c.Op == trace.Write && strings.Contains(c.Path, "VIOLATIONS/msgs/") && strings.HasSuffix(c.Path, ".blk")
		}},
		{name: "a month is closed", query: `SELECT count(*) FROM statements`},
	},
}

func playServer(ctx context.Context, a *attempt) (err error) {
	if a.site, err = newSite(a.data()); err != nil {
		return err
	}
	h, err := a.listen()
	if err != nil {
		return err
	}
	defer h.close()
	a.site.extra = append(a.site.extra, "--notify-allow", "127.0.0.0/8", "--request-rate", "0")
	p, err := a.under(a.site.args()...)
	if err != nil {
		return err
	}
	if err := a.site.ready(p); err != nil {
		return err
	}
	if err := watch(a.site, h); err != nil {
		return err
	}
	if err := a.beside(p, a.replaying(a.near("feed"), "one.ndjson")...); err != nil {
		return err
	}
	if err := byHand(a.site); err != nil {
		return err
	}
	if !a.again {
		if err := p.stop(); err != nil {
			return err
		}
		if a.between != nil {
			if err := a.between(); err != nil {
				return err
			}
		}
		if p, err = a.under(a.site.args()...); err != nil {
			return err
		}
		if err := a.site.ready(p); err != nil {
			return err
		}
	}
	if err := a.beside(p, a.replaying(a.near("feed"), "one.ndjson", "two.ndjson")...); err != nil {
		return err
	}
	if err := closeMonth(a.site); err != nil {
		return err
	}
	if err := a.settled(); err != nil {
		return err
	}
	if err := alerted(p, a.site, h); err != nil {
		return err
	}
	if a.again {
		if _, err := audited(ctx, a.data()); err != nil { // with the topic
			return err
		}
	}
	return p.stop()
}

// beginServer starts the server that an agent sends to, unless it runs.
func (a *attempt) beginServer() (err error) {
	if a.site == nil {
		if a.site, err = newSite(a.near("server")); err != nil {
			return err
		}
	}
	if a.server != nil {
		return nil
	}
	if a.server, err = a.launch(a.site.args()...); err != nil {
		return err
	}
	return a.site.ready(a.server)
}

// endServer audits beside the server, with the topic, and ends it.
func (a *attempt) endServer(ctx context.Context) error {
	if _, err := audited(ctx, a.site.dir); err != nil {
		return err
	}
	err := a.server.stop()
	a.server = nil
	return err
}

// madeServer makes a server's data directory, so that attempts need not.
func madeServer(binary, dir string) error {
	s, err := newSite(dir)
	if err != nil {
		return err
	}
	p, err := launch(binary, s.args()...)
	if err != nil {
		return err
	}
	defer p.kill()
	if err := s.ready(p); err != nil {
		return err
	}
	return p.stop()
}

// A replay stores what it meters, is run again with more to meter, and ends
// each time when everything is receipted.
var replayRun = &run{
	name:   "replay",
	server: "server",
	prepare: func(_ context.Context, binary, dir string) (truth, error) {
		begin := time.Date(2026, 1, 1, 22, 0, 0, 0, time.UTC)
		first := load{name: "one", host: "host-1", seed: 3, instances: 5, ticks: 100, begin: begin, step: time.Minute, restarts: 40}
		second := load{name: "two", host: "host-2", seed: 4, instances: 5, ticks: 100, begin: begin, step: time.Minute, restarts: 40}
		t1, err1 := first.write(filepath.Join(dir, "one.ndjson"))
		t2, err2 := second.write(filepath.Join(dir, "two.ndjson"))
		return merge(t1, t2), errors.Join(err1, err2, madeServer(binary, filepath.Join(dir, "server")))
	},
	play: func(ctx context.Context, a *attempt) error {
		if err := a.beginServer(); err != nil {
			return err
		}
		parts := [][]string{{"one.ndjson"}, {"one.ndjson", "two.ndjson"}}
		if a.again {
			parts = parts[1:]
		}
		for _, files := range parts {
			p, err := a.under(a.replaying(a.data(), files...)...)
			if err != nil {
				return err
			}
			if err := p.wait(); err != nil {
				return err
			}
		}
		if err := a.settled(); err != nil {
			return err
		}
		return a.endServer(ctx)
	},
	milestones: []milestone{
		{name: "the spool is created", calls: isSegment(trace.Open)},
		{name: "records are appended", calls: isSegment(trace.Write)},
		{name: "a receipt is kept", calls: func(c *trace.Call) bool { return c.Op == trace.Write && c.Path == "spool/cursor" }},
	},
}

func isSegment(op trace.Op) func(*trace.Call) bool {
	return func(c *trace.Call) bool { return c.Op == op && strings.HasSuffix(c.Path, ".seg") }
}

const (
	agentHost  = "host-9"
	agentSpool = 1 << 20 // the least that an agent takes
)

// The agent finds a spool that is full: some segments were receipted eight days
// ago, and what fills the rest has no receipt. It meters this machine while its
// server is away, ends, and begins again when the server is there.
var agentRun = &run{
	name:    "agent",
	server:  "server",
	prepare: prepareAgent,
	play: func(ctx context.Context, a *attempt) (err error) {
		if a.site == nil {
			if a.site, err = newSite(a.near("server")); err != nil {
				return err
			}
		}
		if !a.again {
			p, addr, err := a.agent()
			if err != nil {
				return err
			}
			if err := sampled(p, addr); err != nil {
				return err
			}
			if err := p.stop(); err != nil {
				return err
			}
		}
		if err := a.beginServer(); err != nil {
			return err
		}
		p, addr, err := a.agent()
		if err != nil {
			return err
		}
		if err := sampled(p, addr); err != nil {
			return err
		}
		var wrong error
		if err := p.until("the usage being the truth", func() bool { wrong = a.settled(); return wrong == nil }); err != nil {
			return errors.Join(err, wrong)
		}
		if err := p.stop(); err != nil {
			return err
		}
		if err := a.settled(); err != nil {
			return err
		}
		return a.endServer(ctx)
	},
	milestones: []milestone{
		{name: "a segment is begun", calls: isSegment(trace.Open)},
		{name: "segments are merged", calls: func(c *trace.Call) bool {
			return c.Op == trace.Rename && strings.HasSuffix(c.To, ".seg") && !strings.HasSuffix(c.To, "-0.seg")
		}},
		{name: "receipted segments are freed", calls: isSegment(trace.Unlink)},
		{name: "checkpoints are saved", calls: func(c *trace.Call) bool { return c.Op == trace.Rename && c.To == "spool/checkpoints" }},
		{name: "a receipt is kept", calls: func(c *trace.Call) bool { return c.Op == trace.Write && strings.HasPrefix(c.Path, "spool/cursor") }},
	},
}

// agent starts the agent with the small spool.
func (a *attempt) agent() (*process, string, error) {
	addr, err := port.Free()
	if err != nil {
		return nil, "", err
	}
	p, err := a.under("agent", "--id", agentHost, "--instance-id", "this-machine", "--server", "nats://"+a.site.nats, "--token-file", a.site.tokenFile(),
		"--data-dir", a.data(), "--interval", "1s", "--http", addr, "--spool-bytes", fmt.Sprint(agentSpool), "--log-level", "warn")
	return p, addr, err
}

// sampled waits until the agent says that it has measured something.
func sampled(p *process, addr string) error {
	return p.until("the first reading", func() bool {
		resp, err := http.Get("http://" + addr + "/readyz?verbose")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		return err == nil && strings.Contains(string(text), "sampler ok")
	})
}

// kept are records before they are stored: an [agent.Spool].
type kept struct{ records []odometer.Record }

func (k *kept) Append(rs []odometer.Record) error { k.records = append(k.records, rs...); return nil }
func (k *kept) Checkpoints() []json.RawMessage    { return nil }

// metered returns the records of a load.
func metered(ctx context.Context, l load, path string) ([]odometer.Record, error) {
	if _, err := l.write(path); err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var k kept
	_, err = agent.Replay(ctx, agent.ReplayOptions{Meter: meter.New(meter.Options{Named: true}), Spool: &k, Past: meter.ErrPast}, sampler.NewReplay(f, path))
	return k.records, err
}

// prepareAgent fills the agent's spool and tells the ledger of the part that
// was receipted long ago.
func prepareAgent(ctx context.Context, binary, dir string) (_ truth, err error) {
	server := filepath.Join(dir, "server")
	if err := madeServer(binary, server); err != nil {
		return nil, err
	}
	begin := time.Date(2026, 1, 1, 22, 0, 0, 0, time.UTC)
	old, err1 := metered(ctx, load{name: "old", host: agentHost, seed: 5, instances: 4, ticks: 5, begin: begin, step: time.Minute}, filepath.Join(dir, "old.ndjson"))
	// More than fits.
	full, err2 := metered(ctx, load{name: "new", host: agentHost, seed: 6, instances: 4, ticks: 3000, begin: begin, step: time.Minute}, filepath.Join(dir, "new.ndjson"))
	if err := errors.Join(err1, err2); err != nil {
		return nil, err
	}
	options := spool.Options{Dir: filepath.Join(dir, "data", "spool"), SegmentBytes: 8 << 10,
		Now: func() time.Time { return time.Now().Add(-8 * 24 * time.Hour) }}
	s, err := spool.Open(options)
	if err != nil {
		return nil, err
	}
	if err := s.Append(old); err != nil {
		return nil, err
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(server, "ledger.db")})
	if err != nil {
		return nil, err
	}
	frame := odometer.Frame{Agent: agentHost, Spool: s.ID(), First: 1, Last: s.Stats().Last, Records: old}
	packed, err := frame.Encode()
	if err != nil {
		return nil, err
	}
	sent, err := odometer.DecodeFrame(packed)
	if err != nil {
		return nil, err
	}
	_, receipts, err := l.Commit(ctx, []odometer.Frame{*sent})
	if err := errors.Join(err, l.Close()); err != nil {
		return nil, err
	}
	// One more record begins another segment, so that what is receipted can
	// be freed.
	if err := errors.Join(s.Append(full[:1]), s.Ack(receipts[0]), s.Close()); err != nil {
		return nil, err
	}
	options.Now, options.Retain, options.SegmentBytes = nil, 365*24*time.Hour, agentSpool/8
	if s, err = spool.Open(options); err != nil {
		return nil, err
	}
	sum := truth{}
	for i := range old {
		count(sum, &old[i])
	}
	count(sum, &full[0])
	// Full for an agent that may take less than this spool did, and the last
	// segment is too, also once it is copied: the agent has to begin another.
	const last = 100
	st := s.Stats()
	segments, sealed := st.Segments, st.Bytes
	for i, n := 1, 1; n < last; i += n {
		if i+last > len(full) {
			return nil, errors.New("the load does not fill the spool")
		}
		if st.Bytes >= agentSpool && st.Bytes-sealed >= options.SegmentBytes*3/4 {
			n = last
		}
		if err := s.Append(full[i : i+n]); err != nil {
			return nil, err
		}
		for k := range n {
			count(sum, &full[i+k])
		}
		before := st.Bytes
		if st = s.Stats(); st.Segments > segments {
			segments, sealed = st.Segments, before
		}
	}
	st = s.Stats()
	if st.Coalesced > 0 || st.First != 1 {
		return nil, fmt.Errorf("the spool was to be full and not yet merged or freed: %+v", st)
	}
	return sum, s.Close()
}

// count adds what a record says was used.
func count(sum truth, r *odometer.Record) {
	if r.Event == nil {
		return
	}
	for _, q := range []odometer.Quantity{odometer.CPU, odometer.NetworkEgress, odometer.NetworkIngress} {
		sum.add(string(r.Event.Instance), q.String(), r.Event.Usage.Vector[q])
	}
}

// reach notes the milestones that the ledger or the calls show.
func (r *run) reach(ctx context.Context, dir string, calls []*trace.Call, reached map[string]bool) error {
	// A copy is asked: who reads a ledger touches its files.
	copied, err := os.MkdirTemp(filepath.Dir(dir), "look-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(copied)
	for _, name := range []string{"ledger.db", "ledger.db-wal"} {
		b, err := os.ReadFile(filepath.Join(dir, r.server, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(copied, name), b, 0o600)
		}
		if err != nil {
			return err
		}
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(copied, "ledger.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	for _, m := range r.milestones {
		n := 0
		if m.calls != nil {
			for _, c := range calls {
				if m.calls(c) {
					n++
				}
			}
		} else if err := db.QueryRowContext(ctx, m.query).Scan(&n); err != nil {
			return fmt.Errorf("%s: %w", m.name, err)
		}
		if n > 0 {
			reached[m.name] = true
		}
	}
	return nil
}

// complete returns an error that names the milestones which were not reached.
func (r *run) complete(reached map[string]bool) error {
	var missed []string
	for _, m := range r.milestones {
		if !reached[m.name] {
			missed = append(missed, m.name)
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("it proves nothing about what did not happen in it: %q", missed)
	}
	return nil
}
