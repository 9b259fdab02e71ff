package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// line is a receiver and receipt channel in memory that behaves like the
// queue: what is not acknowledged comes again when it is opened anew.
type line struct {
	mu       sync.Mutex
	waiting  []Delivery
	more     chan struct{}
	acked    int
	receipts []odometer.Receipt
	fail     int // receives that fail first
}

func newLine() *line { return &line{more: make(chan struct{}, 1)} }

func (l *line) put(d Delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	d.Ack = func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.acked++
		return nil
	}
	l.waiting = append(l.waiting, d)
	select {
	case l.more <- struct{}{}:
	default:
	}
}

func (l *line) Receive(ctx context.Context) ([]Delivery, error) {
	for {
		l.mu.Lock()
		if l.fail > 0 {
			l.fail--
			l.mu.Unlock()
			return nil, errors.New("the queue is away")
		}
		if got := l.waiting; len(got) > 0 {
			l.waiting = nil
			l.mu.Unlock()
			return got, nil
		}
		l.mu.Unlock()
		select {
		case <-l.more:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *line) SendReceipt(r odometer.Receipt) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.receipts = append(l.receipts, r)
	return nil
}

func (l *line) last() odometer.Receipt {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.receipts) == 0 {
		return odometer.Receipt{}
	}
	return l.receipts[len(l.receipts)-1]
}

const spool = odometer.SpoolID("0123456789abcdef0123456789abcdef")

// event is the n-th event of an epoch, one second of which half was used.
func event(instance odometer.InstanceID, agent odometer.AgentID, n int64) *odometer.Event {
	const sec = odometer.SecondMicros
	start := time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	known := odometer.Known(0).With(odometer.CPU).With(odometer.MeasuredTime).With(odometer.EstimatedTime).With(odometer.GapTime)
	at := func(n int64) odometer.Usage {
		u := odometer.Usage{Known: known}
		u.Vector[odometer.CPU], u.Vector[odometer.MeasuredTime] = n*sec/2, n*sec
		return u
	}
	e := &odometer.Event{
		Version: odometer.Version11, Instance: instance, Agent: agent, Owner: odometer.Owner{User: "u-ada"},
		Epoch: odometer.NewEpoch(instance, agent, "test", ""), EpochStart: start, FirstSequence: uint64(n), Sequence: uint64(n),
		Span: odometer.Span{Start: start + (n-1)*sec, End: start + n*sec}, Usage: at(n).Sub(at(n - 1)),
		Readings: odometer.Readings{Start: at(n - 1), End: at(n)}, Quality: odometer.Measured,
	}
	e.Derive(0, 0)
	return e
}

func frame(t *testing.T, agent odometer.AgentID, first, last uint64) []byte {
	t.Helper()
	f := odometer.Frame{Agent: agent, Spool: spool, First: first, Last: last}
	for p := first; p <= last; p++ {
		f.Records = append(f.Records, odometer.Record{First: p, Position: p, Event: event("vm-7", agent, int64(p)), Checkpoint: json.RawMessage(fmt.Sprintf(`{"instance":"vm-7","n":%d}`, p))})
	}
	b, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// works starts an Ingest on a real ledger and stops both with the test.
func works(t *testing.T, l *line, wrap func(Ledger) Ledger) (*Ingest, *ledger.Ledger) {
	t.Helper()
	led, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	var to Ledger = led
	if wrap != nil {
		to = wrap(led)
	}
	in := New(Options{Ledger: to, Receipts: l})
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- in.Run(ctx, l) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
		led.Close()
	})
	return in, led
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) {
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("%s did not happen within 10 s", what)
		}
	}
}

func count(t *testing.T, l *ledger.Ledger, outcome string) int64 {
	t.Helper()
	s, err := l.Stats(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s.Counts[outcome]
}

// witness sees to it that a line has acknowledged and receipted nothing that
// was not committed before. Each delivery is one frame of one spool.
type witness struct {
	Ledger
	t      *testing.T
	line   *line
	frames int    // committed
	last   uint64 // position
}

func (w *witness) Commit(ctx context.Context, frames []odometer.Frame) ([][]odometer.Result, []odometer.Receipt, error) {
	w.line.mu.Lock()
	if w.line.acked > w.frames {
		w.t.Errorf("before a commit: %d deliveries are acknowledged, %d are committed", w.line.acked, w.frames)
	}
	for _, r := range w.line.receipts {
		if r.Position > w.last {
			w.t.Errorf("before a commit: the receipt of position %d was sent, %d is committed", r.Position, w.last)
		}
	}
	w.line.mu.Unlock()
	results, receipts, err := w.Ledger.Commit(ctx, frames)
	if err == nil {
		w.frames += len(frames)
		for i := range frames {
			w.last = max(w.last, frames[i].Last)
		}
	}
	return results, receipts, err
}

func TestDeliveriesAreCommittedThenReceiptedThenAcknowledged(t *testing.T) {
	l := newLine()
	l.fail = 2
	_, led := works(t, l, func(to Ledger) Ledger { return &witness{Ledger: to, t: t, line: l} })
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 1, 100)})
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 101, 150)})
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 101, 150)})
	eventually(t, "the receipt of position 150", func() bool { return l.last().Position == 150 })
	eventually(t, "acknowledging", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.acked == 3 })
	if got := count(t, led, "recorded"); got != 150 {
		t.Errorf("recorded: got %d, want 150", got)
	}
	if got := count(t, led, "duplicate"); got != 50 {
		t.Errorf("duplicates: got %d, want 50", got)
	}
}

func TestAFrameAheadIsAskedForAgain(t *testing.T) {
	l := newLine()
	in, _ := works(t, l, nil)
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 1, 10)})
	eventually(t, "the first receipt", func() bool { return l.last().Position == 10 })
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 21, 30)})
	eventually(t, "a receipt that says ahead", func() bool { return l.last().Ahead })
	if r := l.last(); r.Position != 10 {
		t.Errorf("position of the receipt: got %d, want 10", r.Position)
	}
	if got := in.Stats().Ahead; got != 1 {
		t.Errorf("frames ahead: got %d, want 1", got)
	}
}

func TestWhatIsNoFrameGoesToQuarantine(t *testing.T) {
	for _, c := range []struct {
		name string
		d    Delivery
		want string
	}{
		{"garbage", Delivery{Agent: "host-1", Data: []byte("garbage")}, ""},
		{"a frame of somebody else", Delivery{Agent: "host-1", Data: frame(t, "host-2", 1, 3)}, `comes from "host-2"`},
		{"a message over the limit", Delivery{Agent: "host-1", Data: []byte("begins like this"), Err: errors.New("300000 bytes, at most 262144 are allowed")}, "262144"},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLine()
			_, led := works(t, l, nil)
			l.put(c.d)
			eventually(t, "quarantine", func() bool { return count(t, led, "quarantined") == 1 })
			rows, err := led.Quarantine(t.Context(), 10)
			if err != nil || len(rows) != 1 || rows[0].Reason != "frame" || rows[0].Sender != "host-1" || !strings.Contains(rows[0].Detail, c.want) {
				t.Errorf("got %+v, %v, want one row of reason frame with %q", rows, err, c.want)
			}
			eventually(t, "acknowledging", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.acked == 1 })
		})
	}
}

// TestAHostSendsItsOwnEventsAlone: what a host sends in the name of another agent is
// put aside, and touches nothing of that agent's nor holds up what is its own; who
// replays what others measured is no host.
func TestAHostSendsItsOwnEventsAlone(t *testing.T) {
	forged := func(sender odometer.AgentID) []byte {
		f := odometer.Frame{Agent: sender, Spool: spool, First: 1, Last: 2, Records: []odometer.Record{
			{First: 1, Position: 1, Event: event("vm-7", sender, 1)}, {First: 2, Position: 2, Event: event("vm-7", "victim", 1)},
		}}
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	led, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	l := newLine()
	in := New(Options{Ledger: led, Receipts: l, IsHost: func(a odometer.AgentID) bool { return a == "host-1" }})
	put := func(sender odometer.AgentID, data []byte) {
		t.Helper()
		if err := in.Settle(t.Context(), []Delivery{{Agent: sender, Data: data, Ack: func() error { return nil }}}); err != nil {
			t.Fatal(err)
		}
	}
	put("host-1", forged("host-1"))
	rows, err := led.Quarantine(t.Context(), 10)
	if err != nil || len(rows) != 1 || rows[0].Sender != "host-1" || !strings.Contains(rows[0].Detail, `says that "victim" measured it, and was sent by the host "host-1"`) {
		t.Fatalf("got %+v, %v, want the event in quarantine with the reason", rows, err)
	}
	if got := count(t, led, "recorded"); got != 1 {
		t.Errorf("recorded: got %d, want what is its own", got)
	}
	if got := l.last().Position; got != 2 {
		t.Errorf("receipt: got position %d, want the whole frame, which would come again for ever", got)
	}
	put("host-1", forged("host-1"))
	if rows, err := led.Quarantine(t.Context(), 10); err != nil || len(rows) != 1 {
		t.Errorf("got %+v, %v, want what comes again to be known", rows, err)
	}
	put("host-1", frame(t, "host-1", 1, 3))
	if got := count(t, led, "recorded"); got != 3 {
		t.Errorf("recorded: got %d, want what is its own", got)
	}
	put("replay-1", forged("replay-1"))
	if got := count(t, led, "recorded"); got != 5 {
		t.Errorf("recorded: got %d, want what is replayed too", got)
	}
}

// TestWhatRunsElsewhereHoldsNothingUp: what a host sends of an instance that runs with
// another waits, and the rest of the frame is booked.
func TestWhatRunsElsewhereHoldsNothingUp(t *testing.T) {
	led, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	l := newLine()
	in := New(Options{
		Ledger: led, Receipts: l, IsHost: func(a odometer.AgentID) bool { return a == "host-1" },
		Elsewhere: func(instance odometer.InstanceID, agent odometer.AgentID) odometer.AgentID {
			if instance == "vm-7" && agent != "host-2" {
				return "host-2"
			}
			return ""
		},
	})
	for _, sender := range []odometer.AgentID{"host-1", "replay-1"} {
		f := odometer.Frame{Agent: sender, Spool: spool, First: 1, Last: 3, Records: []odometer.Record{
			{First: 1, Position: 1, Event: event("vm-7", sender, 1)}, {First: 2, Position: 2, Event: event("vm-8", sender, 1)},
			{First: 3, Position: 3, Checkpoint: json.RawMessage(`{"instance":"vm-7"}`)},
		}}
		b, err := f.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if err := in.Settle(t.Context(), []Delivery{{Agent: sender, Data: b, Ack: func() error { return nil }}}); err != nil {
			t.Fatal(err)
		}
		if got := l.last().Position; got != 3 {
			t.Errorf("%s: got a receipt of position %d, want all of it", sender, got)
		}
	}
	if got := count(t, led, "recorded"); got != 1+2 {
		t.Errorf("recorded: got %d, want what runs here, and all of who is no host", got)
	}
	rows, err := led.Quarantine(t.Context(), 10)
	if err != nil || len(rows) != 1 || rows[0].Reason != "foreign_host" || rows[0].Instance != "vm-7" || rows[0].Sender != "host-1" || !strings.Contains(rows[0].Detail, `runs with "host-2"`) {
		t.Errorf("got %+v, %v, want what runs elsewhere in quarantine", rows, err)
	}
}

// sick is a ledger whose first commits fail.
type sick struct {
	Ledger
	mu    sync.Mutex
	fails int
	err   error
}

func (s *sick) Commit(ctx context.Context, frames []odometer.Frame) ([][]odometer.Result, []odometer.Receipt, error) {
	s.mu.Lock()
	failing := s.fails > 0
	s.fails--
	s.mu.Unlock()
	if failing {
		return nil, nil, s.err
	}
	return s.Ledger.Commit(ctx, frames)
}

func TestALedgerThatCannotCommitLosesNothing(t *testing.T) {
	l := newLine()
	_, led := works(t, l, func(to Ledger) Ledger {
		return &witness{t: t, line: l, Ledger: &sick{Ledger: to, fails: 3, err: errors.New("database or disk is full")}}
	})
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 1, 10)})
	eventually(t, "the receipt", func() bool { return l.last().Position == 10 })
	if got := count(t, led, "recorded"); got != 10 {
		t.Errorf("recorded: got %d, want 10", got)
	}
}

func TestSubmissionsAreRefusedWhileTheLedgerCannotCommit(t *testing.T) {
	in, led := works(t, newLine(), func(to Ledger) Ledger {
		return &sick{Ledger: to, fails: 1, err: errors.New("database or disk is full")}
	})
	records := []odometer.Record{{Event: event("vm-7", "host-1", 1)}}
	if _, err := in.Submit(t.Context(), records); !errors.Is(err, odometer.ErrUnavailable) || !strings.Contains(err.Error(), "disk is full") {
		t.Errorf("got %v, want %v and the cause", err, odometer.ErrUnavailable)
	}
	results, err := in.Submit(t.Context(), records)
	if err != nil || len(results) != 1 || results[0].Outcome != odometer.Recorded {
		t.Errorf("again: got %v, %v, want recorded", results, err)
	}
	if got := count(t, led, "received"); got != 1 {
		t.Errorf("received: got %d, want 1", got)
	}
}

func TestAFencedLedgerEndsTheRun(t *testing.T) {
	led, err := ledger.Open(t.Context(), ledger.Options{Path: filepath.Join(t.TempDir(), "ledger.db")})
	if err != nil {
		t.Fatal(err)
	}
	defer led.Close()
	l := newLine()
	in := New(Options{Ledger: &sick{Ledger: led, fails: 1, err: fmt.Errorf("commit: %w", ledger.ErrFenced)}, Receipts: l})
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 1, 1)})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := in.Run(ctx, l); !errors.Is(err, ledger.ErrFenced) {
		t.Errorf("run: got %v, want %v", err, ledger.ErrFenced)
	}
	if _, err := in.Submit(t.Context(), []odometer.Record{{Event: event("vm-7", "host-1", 1)}}); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("submit after the end: got %v, want %v", err, odometer.ErrUnavailable)
	}
	if l.acked != 0 {
		t.Error("what was not committed was acknowledged")
	}
}

func TestSubmitAnswersInOrder(t *testing.T) {
	in, _ := works(t, newLine(), nil)
	var records []odometer.Record
	want := []odometer.Outcome{}
	for n := int64(1); n <= 700; n++ {
		e := event("vm-7", odometer.AgentID(fmt.Sprintf("host-%d", n%5)), n/5+1)
		records = append(records, odometer.Record{Event: e})
		want = append(want, odometer.Recorded)
		if n%100 == 0 {
			records = append(records, odometer.Record{Event: e}, odometer.Record{Raw: json.RawMessage(fmt.Sprintf(`{"n":%d}`, n)), Err: odometer.ErrInvalid})
			want = append(want, odometer.Duplicate, odometer.Quarantined)
		}
	}
	results, err := in.Submit(t.Context(), records)
	if err != nil || len(results) != len(want) {
		t.Fatalf("got %d results, %v, want %d", len(results), err, len(want))
	}
	for i := range want {
		if results[i].Outcome != want[i] && !(want[i] == odometer.Recorded && results[i].Outcome == odometer.Held) {
			t.Errorf("result %d: got %s %s, want %s", i, results[i].Outcome, results[i].Detail, want[i])
		}
	}
}

func TestALostDiskGetsItsCheckpointsInOrder(t *testing.T) {
	l := newLine()
	works(t, l, nil)
	l.put(Delivery{Agent: "host-1", Data: frame(t, "host-1", 1, 10)})
	answers := make(chan string, 1)
	l.put(Delivery{Agent: "host-1", Respond: func(b []byte) error { answers <- string(b); return nil }})
	select {
	case got := <-answers:
		if want := `[{"instance":"vm-7","n":10}]`; got != want {
			t.Errorf("checkpoints: got %s, want %s", got, want)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("no answer within 10 s")
	}
}

func TestSender(t *testing.T) {
	for source, want := range map[string]string{
		"":                          "http:",
		"meter-1":                   "http:meter-1",
		"//odometer/host":           "http:..odometer.host~",
		strings.Repeat("x", 500):    "http:" + strings.Repeat("x", 80) + "~",
		"with space and \n newline": "http:with.space.and...newline~",
	} {
		got := sender(source)
		if err := odometer.ValidID("agent", string(got)); err != nil || !strings.HasPrefix(string(got), want) {
			t.Errorf("sender of %.40q: got %s, %v, want %s…", source, got, err, want)
		}
	}
	if sender("a/b") == sender("a.b") || sender("a/b") == sender("a\\b") {
		t.Error("two sources share a sender")
	}
}
