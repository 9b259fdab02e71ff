package main

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"

	"example.org/odometer"
	"example.org/odometer/crash/trace"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
	"example.org/odometer/spool"
)

// powerOptions say how many power cuts there are.
type powerOptions struct {
	Sample   int // states in all, evenly spread; 0 for every call and every fate
	From, To int // only after these calls; To 0 for the last
	Whole    int // of so many, one is also given to the whole program; 0 for none
	Seed     uint64
	Parallel int
	Keep     string // directory for states that are not recovered from; "" for none
	Out      io.Writer
	Progress io.Writer
	only     func(calls int, f fate) bool // of those that are drawn; nil for all
}

// recording is a server's run with everything that it did to its directory and
// everything that it promised.
type recording struct {
	plan     *plan
	before   state             // what the directory had before
	inodes   map[string]uint64 // of that
	calls    []*trace.Call
	receipts []promised
	answers  []int  // calls that had returned when an answer to posted events, or to a reversal, left
	feed     string // the agent's directory at the end; "" in a run without one
	loads    truth  // what must be there in the end; without what was posted by hand, which nobody sends again
}

// promised is a receipt that left the process after so many calls.
type promised struct {
	after   int
	receipt odometer.Receipt
}

// record plays a server's canonical run and records it. The recording is
// proved on the run itself: applied to an empty disk it must give the directory
// that the run left, to the byte.
func record(ctx context.Context, r *run, binary, dir string) (*recording, error) {
	p := &plan{run: r, binary: binary, dir: dir, template: filepath.Join(dir, "template")}
	if err := os.MkdirAll(p.template, 0o700); err != nil {
		return nil, err
	}
	var err error
	if p.truth, err = r.prepare(ctx, binary, p.template); err != nil {
		return nil, err
	}
	rec := &recording{plan: p, loads: merge(p.truth)}
	delete(rec.loads, "by-hand")
	delete(rec.loads, "late")
	delete(rec.loads, "adjusting")
	a, err := p.attempt("recorded")
	if err != nil {
		return nil, err
	}
	defer a.close()
	if err := rec.begin(a.data()); err != nil {
		return nil, err
	}
	a.start = func(args ...string) (*process, error) {
		before := len(rec.calls)
		return launchTraced(trace.Options{
			Dir: a.data(), Data: true,
			After: func(c *trace.Call) trace.Verdict {
				rec.calls = append(rec.calls, c)
				return trace.Go
			},
			Sent: func(calls int, data []byte) { rec.sent(before+calls, data) },
		}, binary, args...)
	}
	reached := map[string]bool{}
	a.between = func() error { return r.reach(ctx, a.dir, rec.calls, reached) }
	if err := r.play(ctx, a); err != nil {
		return nil, err
	}
	if err := rec.prove(a.data()); err != nil {
		return nil, err
	}
	if err := r.reach(ctx, a.dir, rec.calls, reached); err != nil {
		return nil, err
	}
	if err := r.complete(reached); err != nil {
		return nil, err
	}
	if _, err := os.Stat(a.near("feed")); err == nil {
		rec.feed = a.near("feed")
		if len(rec.receipts) == 0 || len(rec.answers) == 0 {
			return nil, fmt.Errorf("the run gave out %d receipts and %d answers", len(rec.receipts), len(rec.answers))
		}
	}
	return rec, nil
}

// begin notes what the directory has before the run.
func (rec *recording) begin(dir string) (err error) {
	rec.before, rec.inodes = state{}, map[string]uint64{}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if rec.before, err = read(dir); err != nil {
		return err
	}
	for name := range rec.before {
		var st syscall.Stat_t
		if err := syscall.Lstat(filepath.Join(dir, name), &st); err != nil {
			return err
		}
		rec.inodes[name] = st.Ino
	}
	return nil
}

// disk returns the disk as it was before the run.
func (rec *recording) disk() *disk { return newDisk(rec.before, rec.inodes) }

// sent looks for promises in what goes to a socket.
func (rec *recording) sent(calls int, data []byte) {
	if bytes.HasPrefix(data, []byte("HTTP/1.1 ")) && (bytes.Contains(data, []byte(`"accepted":`)) || bytes.Contains(data, []byte(`"kind":"correction"`))) {
		rec.answers = append(rec.answers, calls)
	}
	start := []byte(`{"agent_id":`)
	for {
		i := bytes.Index(data, start)
		if i < 0 {
			return
		}
		data = data[i:]
		var r odometer.Receipt
		if json.NewDecoder(bytes.NewReader(data)).Decode(&r) == nil && r.Spool != "" && r.Ledger != "" && r.Position > 0 {
			rec.receipts = append(rec.receipts, promised{calls, r})
		}
		data = data[len(start):]
	}
}

// prove compares the recording with what the run left.
func (rec *recording) prove(dir string) error {
	d := rec.disk()
	for _, c := range rec.calls {
		if err := d.apply(c); err != nil {
			return err
		}
	}
	got, err := read(dir)
	if err != nil {
		return err
	}
	if why := d.after(fates[1], rand.New(rand.NewPCG(0, 0))).differs(got); why != "" {
		return errors.New("the recording does not give the directory that the run left: " + why)
	}
	return nil
}

// outage is one power cut: the directory that is found after it, and what had
// been promised.
type outage struct {
	calls   int
	fate    fate
	state   state
	receipt *odometer.Receipt // the highest that was given out; nil for none
	answers int               // to what was sent by hand
	whole   bool              // let the whole program recover
}

func (o *outage) String() string {
	return fmt.Sprintf("power cut after call %d, %s", o.calls, o.fate.name)
}

// outages calls each with the states that the options ask for. Those that are
// the same as one before are counted and left out.
func (rec *recording) outages(o powerOptions, each func(*outage) bool) (exist, drawn, distinct int, err error) {
	first, end := min(o.From, len(rec.calls)), len(rec.calls)
	if o.To > 0 {
		end = min(o.To, end)
	}
	exist = (end + 1 - first) * len(fates)
	want := exist
	if o.Sample > 0 {
		want = min(o.Sample, exist)
	}
	// One of each of so many equal parts, so that calls and fates are spread.
	chosen := make([]bool, (len(rec.calls)+1)*len(fates))
	draw := rand.New(rand.NewPCG(o.Seed, 0))
	for k := range want {
		from, to := k*exist/want, (k+1)*exist/want
		chosen[first*len(fates)+from+draw.IntN(to-from)] = true
	}
	d, seen := rec.disk(), map[uint64]bool{}
	receipts, answers := 0, 0
	var last *odometer.Receipt
	for n := 0; ; n++ {
		for receipts < len(rec.receipts) && rec.receipts[receipts].after <= n {
			if r := &rec.receipts[receipts].receipt; last == nil || r.Position > last.Position {
				last = r
			}
			receipts++
		}
		for answers < len(rec.answers) && rec.answers[answers] <= n {
			answers++
		}
		for k, f := range fates {
			if !chosen[n*len(fates)+k] || o.only != nil && !o.only(n, f) {
				continue
			}
			drawn++
			r := rand.New(rand.NewPCG(o.Seed, uint64(n*len(fates)+k)))
			s := d.after(f, r)
			key := s.sum()
			if last != nil {
				key ^= last.Position * 0x9e3779b97f4a7c15
			}
			if seen[key^uint64(answers)] {
				continue
			}
			seen[key^uint64(answers)] = true
			distinct++
			s.unmap(r)
			cut := &outage{calls: n, fate: f, state: s, receipt: last, answers: answers, whole: o.Whole > 0 && distinct%o.Whole == 0}
			if !each(cut) {
				return exist, drawn, distinct, nil
			}
		}
		if n == end {
			return exist, drawn, distinct, nil
		}
		if err := d.apply(rec.calls[n]); err != nil {
			return exist, drawn, distinct, err
		}
	}
}

// power cuts the power as often as the options say and returns an error unless
// each cut was recovered from.
func power(ctx context.Context, o powerOptions) error {
	dir, err := workDir()
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary, err := build(dir)
	if err != nil {
		return err
	}
	all, err := allRuns()
	if err != nil {
		return err
	}
	var failed error
	sample := o.Sample
	for _, r := range all {
		if r.server != "data" {
			continue // what the agent keeps is not SQLite's or JetStream's
		}
		if o.Sample = sample; r != serverRun {
			o.Sample = (sample + 3) / 4 // it is simpler
		}
		failed = errors.Join(failed, powerOf(ctx, r, binary, filepath.Join(dir, r.name), o))
	}
	return failed
}

// powerOf cuts the power in one run.
func powerOf(ctx context.Context, run *run, binary, dir string, o powerOptions) error {
	begin := time.Now()
	rec, err := record(ctx, run, binary, filepath.Join(dir, "recording"))
	if err != nil {
		return fmt.Errorf("record the canonical run of the %s: %w", run.name, err)
	}
	synced := 0
	for _, c := range rec.calls {
		if c.Op == trace.Sync {
			synced++
		}
	}
	fmt.Fprintf(o.Out, "%s: recorded %d calls (%d fsyncs), %d receipts, %d answers; replayed they give the directory to the byte\n",
		run.name, len(rec.calls), synced, len(rec.receipts), len(rec.answers))
	r, err := rec.cut(ctx, filepath.Join(dir, "cuts"), o)
	r.report(o.Out, time.Since(begin)) // also of what was done before it was interrupted
	if err != nil {
		return err
	}
	if len(r.failed) > 0 {
		return fmt.Errorf("%d of %d power cuts were not recovered from", len(r.failed), r.tested)
	}
	return nil
}

// cuts is what became of the power cuts.
type cuts struct {
	exist, drawn, distinct int
	tested, whole          int
	byFate                 map[string]int
	failed                 []string
}

// cut tests the states that the options ask for.
func (rec *recording) cut(ctx context.Context, dir string, o powerOptions) (*cuts, error) {
	r := &cuts{byFate: map[string]int{}}
	work := make(chan *outage)
	var mu sync.Mutex
	var workers sync.WaitGroup
	for i := range max(1, o.Parallel) {
		workers.Go(func() {
			for cut := range work {
				at := filepath.Join(dir, fmt.Sprintf("%d-%d", i, cut.calls))
				err := rec.recover(ctx, at, cut)
				if ctx.Err() != nil {
					os.RemoveAll(at)
					continue // it was interrupted, which says nothing about it
				}
				if err != nil && o.Keep != "" {
					kept := filepath.Join(o.Keep, fmt.Sprintf("call-%d-%d", cut.calls, time.Now().UnixNano()))
					err = errors.Join(err, cut.state.write(kept), fmt.Errorf("the state is kept in %s", kept))
				}
				os.RemoveAll(at)
				mu.Lock()
				r.tested++
				r.byFate[cut.fate.name]++
				if cut.whole {
					r.whole++
				}
				if err != nil {
					r.failed = append(r.failed, fmt.Sprintf("%v: %v", cut, err))
				}
				if o.Progress != nil {
					fmt.Fprintf(o.Progress, "\r%d states, at call %d of %d, %d failed ", r.tested, cut.calls, len(rec.calls), len(r.failed))
				}
				mu.Unlock()
			}
		})
	}
	var err error
	r.exist, r.drawn, r.distinct, err = rec.outages(o, func(cut *outage) bool {
		select {
		case work <- cut:
			return true
		case <-ctx.Done():
			return false
		}
	})
	close(work)
	workers.Wait()
	if o.Progress != nil {
		fmt.Fprintln(o.Progress)
	}
	return r, errors.Join(err, ctx.Err())
}

func (r *cuts) report(w io.Writer, took time.Duration) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "what reached the disk of what was not synced\tstates\t\n")
	for _, f := range fates {
		fmt.Fprintf(t, "%s\t%d\t\n", f.name, r.byFate[f.name])
	}
	t.Flush()
	for _, f := range r.failed {
		fmt.Fprintf(w, "FAILED: %s\n", f)
	}
	fmt.Fprintf(w, "%d power cuts (calls × fates) exist, %d drawn, %d of them distinct states, %d tested (%d with the whole program too), %d failed, in %.0f s",
		r.exist, r.drawn, r.distinct, r.tested, r.whole, len(r.failed), took.Seconds())
	if len(r.failed) == 0 && r.tested > 0 {
		fmt.Fprintf(w, "; below %.2g %% at 95 %%", 300/float64(r.tested))
	}
	fmt.Fprintln(w)
}

// recover runs the real recovery on a state, holds it to what was promised,
// lets the agent send again, and compares the usage with the truth.
func (rec *recording) recover(ctx context.Context, dir string, cut *outage) error {
	data := filepath.Join(dir, "data")
	if err := cut.state.write(data); err != nil {
		return err
	}
	if cut.whole {
		if err := rec.recoverWhole(ctx, filepath.Join(dir, "whole"), cut); err != nil {
			return fmt.Errorf("the whole program: %w", err)
		}
	}
	if err := rec.look(ctx, data, cut); err != nil {
		return err
	}
	l, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(data, "ledger.db")})
	if err != nil {
		return err
	}
	defer l.Close()
	if rec.feed != "" {
		err = errors.Join(rec.agentAsOf(cut, filepath.Join(dir, "feed")), rec.resend(ctx, dir, l))
	} else {
		err = l.Tick(ctx) // as the server does when it starts
	}
	if err != nil {
		return err
	}
	usage, err := usageOf(ctx, l)
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		return err
	}
	if why := rec.loads.differs(usage); why != "" {
		return errors.New("in the end the usage is wrong: " + why)
	}
	_, err = audited(ctx, data)
	return err
}

// look opens the ledger that was found and holds it to what was promised.
func (rec *recording) look(ctx context.Context, data string, cut *outage) error {
	l, err := ledger.Open(ctx, ledger.Options{Path: filepath.Join(data, "ledger.db")})
	if err != nil {
		return err
	}
	defer l.Close()
	if want := cut.receipt; want != nil {
		got := l.Receipt(want.Agent, want.Spool)
		if got.Position < want.Position || got.Ledger != want.Ledger || got.Generation != want.Generation {
			return fmt.Errorf("the receipt %+v had been given out, the ledger now says %+v", *want, got)
		}
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(data, "ledger.db")+"?mode=ro")
	if err != nil {
		return err
	}
	defer db.Close()
	var posted int
	if err := db.QueryRowContext(ctx, `SELECT (SELECT count(*) FROM journal WHERE spool = '' AND kind = 'frame') + (SELECT count(*) FROM reversals)`).Scan(&posted); err != nil {
		return err
	}
	if posted < cut.answers {
		return fmt.Errorf("%d requests with events or reversals had been answered, the ledger has %d of them", cut.answers, posted)
	}
	usage, err := usageOf(ctx, l)
	if err != nil {
		return err
	}
	for id, a := range usage {
		for q, n := range a {
			if most := rec.plan.truth[id]; n > most[q] && rec.loads[id] != nil && most[q] > 0 {
				return fmt.Errorf("%s of %s is %d, more than was ever used (%d)", q, id, n, most[q])
			}
		}
	}
	_, err = audited(ctx, data)
	return err
}

// agentAsOf makes the agent's directory: everything that it will ever send,
// and the receipt that it had.
func (rec *recording) agentAsOf(cut *outage, dir string) error {
	if err := copyTree(rec.feed, dir); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, "spool", "cursor")); err != nil {
		return err
	}
	s, err := spool.Open(spool.Options{Dir: filepath.Join(dir, "spool")})
	if err != nil {
		return err
	}
	if cut.receipt != nil {
		err = s.Ack(*cut.receipt)
	}
	return errors.Join(err, s.Close())
}

// recoverWhole starts the real program on the state and plays the run to its
// end.
func (rec *recording) recoverWhole(ctx context.Context, dir string, cut *outage) error {
	if err := copyTree(rec.plan.template, dir); err != nil {
		return err
	}
	a := &attempt{run: rec.plan.run, binary: rec.plan.binary, dir: dir, truth: rec.plan.truth, again: true}
	defer a.close()
	a.start = func(args ...string) (*process, error) { return launch(a.binary, args...) }
	if err := errors.Join(os.RemoveAll(a.data()), cut.state.write(a.data())); err != nil {
		return err
	}
	if rec.feed != "" {
		if err := rec.agentAsOf(cut, a.near("feed")); err != nil {
			return err
		}
	}
	if err := rec.plan.run.play(ctx, a); err != nil {
		return err
	}
	_, err := audited(ctx, a.data())
	return err
}

// resend starts the queue on what is left of its store, and ingest and the
// agent's publisher with it, until the agent has a receipt for everything. What
// the queue still has comes before what is sent again.
func (rec *recording) resend(ctx context.Context, dir string, l *ledger.Ledger) (err error) {
	server, err := queue.StartServer(queue.ServerOptions{StoreDir: filepath.Join(dir, "data", "nats")})
	if err != nil {
		return err
	}
	defer server.Shutdown()
	conn, err := queue.Connect(queue.ConnectOptions{Server: server, Name: "crash"})
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.EnsureStreams(ctx); err != nil {
		return err
	}
	s, err := spool.Open(spool.Options{Dir: filepath.Join(dir, "feed", "spool")})
	for end := time.Now().Add(10 * time.Second); errors.Is(err, spool.ErrLocked) && time.Now().Before(end); time.Sleep(time.Millisecond) {
		// A program that is just being started beside this has its lock until it runs.
		s, err = spool.Open(spool.Options{Dir: filepath.Join(dir, "feed", "spool")})
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	id := rec.receipts[0].receipt.Agent
	st := s.Stats()
	publisher := queue.NewPublisher(conn, s, queue.PublisherOptions{
		Agent: id, Last: odometer.Receipt{Agent: id, Spool: s.ID(), Position: st.Acked, Ledger: st.Ledger, Generation: st.Generation},
	})
	in := ingest.New(ingest.Options{Ledger: l, Receipts: conn})
	ctx, stop := context.WithCancel(ctx)
	var stages sync.WaitGroup
	defer stages.Wait()
	defer stop()
	failed := make(chan error, 3)
	for _, run := range []func() error{
		func() error { return in.Run(ctx, deliveries{queue.NewReceiver(conn)}) },
		func() error { return publisher.Run(ctx) },
		func() error {
			return conn.ServeReceipts(ctx, func(_ context.Context, agent odometer.AgentID, spool odometer.SpoolID) (odometer.Receipt, error) {
				return l.Receipt(agent, spool), nil
			})
		},
	} {
		stages.Go(func() { failed <- run() })
	}
	for begin := time.Now(); s.Stats().Unacked > 0; time.Sleep(glance) {
		select {
		case err := <-failed:
			return fmt.Errorf("a stage ended: %w", err)
		default:
		}
		if time.Since(begin) > patience {
			return fmt.Errorf("%d records are not receipted after %v: %+v", s.Stats().Unacked, patience, publisher.Stats())
		}
	}
	return nil
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

// usageOf returns what a ledger has recorded of all time.
func usageOf(ctx context.Context, l *ledger.Ledger) (truth, error) {
	rows, err := l.Usage(ctx, odometer.UsageQuery{To: math.MaxInt64 / 2, GroupBy: []odometer.GroupBy{odometer.ByInstance}})
	if err != nil {
		return nil, err
	}
	sum := truth{}
	for _, row := range rows {
		for q, total := range row.Totals {
			var n int64
			if _, err := fmt.Sscan(total.String(), &n); err != nil {
				return nil, err
			}
			sum.add(string(row.Instance), odometer.Quantity(q).String(), n)
		}
	}
	return sum, nil
}
