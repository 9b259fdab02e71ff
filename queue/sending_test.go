package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"example.org/odometer"
)

// scriptWire is a queue whose failures are decided by the test and whose
// ledger is a memoryLedger.
type scriptWire struct {
	t      *testing.T
	ledger *memoryLedger

	mu     sync.Mutex
	began  time.Time
	sent   []sentFrame
	fate   func(n int, f span) fate // of the n-th frame, from 0
	answer func() error             // to a request for the last receipt
	asked  []time.Duration
	silent bool // commits are not receipted
	take   func(odometer.Receipt)
	due    []odometer.Receipt
	order  sync.Mutex // held while a receipt is delivered
}

type sentFrame struct {
	span
	at     time.Duration
	format string
}

// fate says what becomes of a frame.
type fate struct {
	send  error         // handing it over fails
	after time.Duration // until the acknowledgement; negative for never
	err   error         // instead of the acknowledgement
	lost  bool          // never reaches the ledger
}

func newWire(t *testing.T) *scriptWire {
	return &scriptWire{t: t, ledger: newLedger(), began: time.Now()}
}

func (w *scriptWire) Send(subject string, header map[string][]string, data []byte) (func(context.Context) error, error) {
	if want := "odometer.ingest.host=2E1"; subject != want {
		w.t.Errorf("subject: got %s, want %s", subject, want)
	}
	if len(data) > odometer.MaxFramePacked {
		w.t.Errorf("frame: got %d bytes, want at most %d", len(data), odometer.MaxFramePacked)
	}
	f, err := odometer.DecodeFrame(data)
	if err != nil {
		w.t.Fatalf("decode the frame that was sent: %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n, s := len(w.sent), span{f.First, f.Last}
	w.sent = append(w.sent, sentFrame{s, time.Since(w.began), header[headerFormat][0]})
	var what fate
	if w.fate != nil {
		what = w.fate(n, s)
	}
	if what.send != nil {
		return nil, what.send
	}
	take, silent := w.take, w.silent
	if !what.lost {
		r := w.ledger.commit(f)
		if !silent {
			w.due = append(w.due, r)
			time.AfterFunc(50*time.Millisecond, func() {
				w.order.Lock()
				defer w.order.Unlock()
				w.mu.Lock()
				r := w.due[0]
				w.due = w.due[1:]
				w.mu.Unlock()
				take(r)
			})
		}
	}
	return func(ctx context.Context) error {
		if what.after < 0 {
			<-ctx.Done()
			return ctx.Err()
		}
		select {
		case <-time.After(what.after):
			return what.err
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

func (w *scriptWire) Receipts(agent odometer.AgentID, take func(odometer.Receipt)) (func(), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.take = take
	return func() {}, nil
}

func (w *scriptWire) LastReceipt(ctx context.Context, agent odometer.AgentID, spool odometer.SpoolID) (odometer.Receipt, error) {
	w.mu.Lock()
	w.asked = append(w.asked, time.Since(w.began))
	answer := w.answer
	w.mu.Unlock()
	if answer != nil {
		if err := answer(); err != nil {
			return odometer.Receipt{}, err
		}
	}
	return w.ledger.last(ctx, agent, spool)
}

func (w *scriptWire) frames() (spans []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.sent {
		spans = append(spans, f.String())
	}
	return spans
}

func (w *scriptWire) questions() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.asked)
}

func (w *scriptWire) times() (at []time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.sent {
		at = append(at, f.at)
	}
	return at
}

// publishing runs a publisher in the bubble until the test ends.
func publishing(t *testing.T, w Wire, s Spool, o PublisherOptions) *Publisher {
	t.Helper()
	o.Agent = testAgent
	p := NewPublisher(w, s, o)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: got %v, want nil", err)
		}
	})
	return p
}

func equal[T comparable](t *testing.T, what string, got, want []T) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func same[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

var errAway = errors.New("the server is away")

func TestBreakerOnFakeTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		var away atomic.Bool
		away.Store(true)
		w.fate = func(int, span) fate {
			if away.Load() {
				return fate{err: errAway, after: time.Millisecond, lost: true}
			}
			return fate{}
		}
		s.append(3)
		half := func() float64 { return 0.5 }
		p := publishing(t, w, s, PublisherOptions{Linger: -1, Random: half})

		// Five attempts; the waits between them are half of 100, 200, 400 and
		// 800 ms, and each attempt takes one.
		synctest.Wait()
		ms := time.Millisecond
		five := []time.Duration{0, 51 * ms, 152 * ms, 353 * ms, 754 * ms}
		time.Sleep(100 * ms)
		st := p.Stats()
		same(t, "breaker after two failures", st.Breaker, BreakerClosed)
		same(t, "failures", st.Failures, 2)
		same(t, "next attempt", st.NextAttempt.Sub(w.began), 152*ms)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		equal(t, "attempts until the breaker opened", w.times(), five)
		st = p.Stats()
		same(t, "breaker after five failures", st.Breaker, BreakerOpen)
		same(t, "times opened", st.BreakerOpens, 1)
		same(t, "failures", st.Failures, 5)
		same(t, "retries", st.Retries, 4)
		same(t, "probe due", st.NextAttempt.Sub(w.began), 755*ms+30*time.Second)
		if !errors.Is(st.Err, errAway) {
			t.Errorf("error in the stats: got %v, want %v", st.Err, errAway)
		}

		// Events that come meanwhile wait in the spool.
		s.append(4)
		time.Sleep(20600 * ms)
		synctest.Wait()
		equal(t, "attempts just before the delay is over", w.times(), five)

		// One probe fails, and opens the breaker for another 30 s.
		time.Sleep(20 * time.Second)
		synctest.Wait()
		probe := 755*ms + 30*time.Second
		equal(t, "attempts with the first probe", w.times(), append(five, probe))
		same(t, "breaker after the probe failed", p.Stats().Breaker, BreakerOpen)
		same(t, "times opened", p.Stats().BreakerOpens, 2)
		same(t, "what the spool may free", s.receipted(), 0)

		// The next succeeds, closes it, and everything follows at once.
		away.Store(false)
		time.Sleep(11 * time.Second)
		synctest.Wait()
		second := probe + ms + 30*time.Second
		equal(t, "attempts in all", w.times(), append(five, probe, second))
		st = p.Stats()
		same(t, "breaker after the probe succeeded", st.Breaker, BreakerClosed)
		same(t, "next attempt when closed", st.NextAttempt.IsZero(), true)
		same(t, "failures", st.Failures, 6)
		same(t, "receipted", st.Receipted, 7)
		same(t, "error in the stats", st.Err, nil)
		w.ledger.check(t, 7)
	})
}

func TestHalfOpenIsSeenWhileTheProbeIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		w.silent = true
		w.fate = func(int, span) fate {
			if time.Since(w.began) < 2*time.Second {
				return fate{send: errAway}
			}
			return fate{after: time.Second} // and no receipt comes before that
		}
		s.append(9)
		p := publishing(t, w, s, PublisherOptions{Linger: -1, BreakerThreshold: 2, BreakerDelay: 3 * time.Second, FrameEvents: 1})
		time.Sleep(3500 * time.Millisecond)
		synctest.Wait()
		st := p.Stats()
		same(t, "breaker", st.Breaker, BreakerHalfOpen)
		same(t, "frames in flight during the probe", st.InFlight, 1)
		time.Sleep(8 * time.Second)
		synctest.Wait()
		same(t, "breaker after it", p.Stats().Breaker, BreakerClosed)
		w.ledger.check(t, 9)
	})
}

func TestAnAttemptTakesFiveSecondsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		w.fate = func(n int, _ span) fate { return fate{after: -1, lost: true} }
		s.append(1)
		p := publishing(t, w, s, PublisherOptions{Linger: -1, Random: func() float64 { return 1 }})
		time.Sleep(5*time.Second - time.Millisecond)
		same(t, "failures before", p.Stats().Failures, 0)
		time.Sleep(2 * time.Millisecond)
		same(t, "failures after", p.Stats().Failures, 1)
		time.Sleep(6 * time.Second)
		equal(t, "attempts", w.times(), []time.Duration{0, 5100 * time.Millisecond, 10300 * time.Millisecond})
		if err := p.Stats().Err; !errors.Is(err, odometer.ErrUnavailable) {
			t.Errorf("error: got %v, want one wrapping ErrUnavailable", err)
		}
	})
}

func TestFullJitterDoublesUpToTheCap(t *testing.T) {
	for n, want := range map[int]time.Duration{
		0: 100 * time.Millisecond, 1: 100 * time.Millisecond, 2: 200 * time.Millisecond, 7: 6400 * time.Millisecond, 8: 10 * time.Second, 1000: 10 * time.Second,
	} {
		same(t, fmt.Sprintf("longest wait after %d failures", n), backoff(n, DefaultRetryFirst, DefaultRetryMost, func() float64 { return 1 }), want)
		same(t, fmt.Sprintf("shortest wait after %d failures", n), backoff(n, DefaultRetryFirst, DefaultRetryMost, func() float64 { return 0 }), 0)
	}
}

func TestAFailureInTheWindowGoesBackToItAndOneByOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		w.fate = func(n int, f span) fate {
			if n == 1 {
				return fate{err: errAway, lost: true, after: 10 * time.Millisecond}
			}
			return fate{after: 10 * time.Millisecond}
		}
		s.append(8)
		p := publishing(t, w, s, PublisherOptions{Linger: -1, FrameEvents: 2, Window: 3, Random: func() float64 { return 1 }})
		time.Sleep(3 * time.Second)
		synctest.Wait()
		got := w.frames()
		// 5-6 went before the failure of 3-4 was known, and 7-8 filled the
		// window after 1-2; both go again behind it.
		equal(t, "frames", got[:3], []string{"1-2", "3-4", "5-6"})
		i := slices.Index(got[2:], "3-4") + 2
		equal(t, "frames after the failure", got[i:i+3], []string{"3-4", "5-6", "7-8"})
		same(t, "retries", p.Stats().Retries, 1)
		same(t, "receipted", p.Stats().Receipted, 8)
		w.ledger.check(t, 8)
	})
}

func TestTheWindowAndTheUnreceiptedAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		w.silent = true
		w.answer = func() error { return errAway }
		slow := time.Second
		w.fate = func(int, span) fate { return fate{after: slow} }
		s.append(100)
		p := publishing(t, w, s, PublisherOptions{Linger: -1, FrameEvents: 1, Window: 4, Unreceipted: 10, StallAfter: time.Hour})
		time.Sleep(time.Millisecond)
		synctest.Wait()
		same(t, "in flight", p.Stats().InFlight, 4)
		time.Sleep(10 * time.Second)
		synctest.Wait()
		st := p.Stats()
		same(t, "in flight", st.InFlight, 0)
		same(t, "unreceipted", st.Unreceipted, 10)
		same(t, "sent", st.Position, 10)
		same(t, "stored", st.Stored, 10)
		same(t, "what the queue's acknowledgements freed", s.receipted(), 0)
		same(t, "when the oldest was sent", st.Oldest, w.began)
	})
}

func TestFramesThatAreStoredAndNotReceiptedAreSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		var forgets atomic.Bool
		forgets.Store(true)
		w.fate = func(int, span) fate { return fate{lost: forgets.Load()} }
		s.append(4)
		p := publishing(t, w, s, PublisherOptions{Linger: -1, FrameEvents: 2})
		time.Sleep(9900 * time.Millisecond)
		synctest.Wait()
		equal(t, "frames", w.frames(), []string{"1-2", "3-4"})
		equal(t, "questions", w.questions(), []time.Duration{0, 2 * time.Second})
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		equal(t, "frames after 10 s", w.frames(), []string{"1-2", "3-4", "1-2", "3-4"})
		same(t, "resends", p.Stats().Resends, 1)

		// Lost again: the next time is 20 s later, and then it is found.
		forgets.Store(false)
		time.Sleep(19700 * time.Millisecond)
		synctest.Wait()
		same(t, "resends before 20 s", p.Stats().Resends, 1)
		time.Sleep(500 * time.Millisecond)
		synctest.Wait()
		st := p.Stats()
		same(t, "resends", st.Resends, 2)
		same(t, "receipted", st.Receipted, 4)
		same(t, "committed", st.Committed, 4)
		same(t, "emitted", st.Emitted, 12)
		w.ledger.check(t, 4)
	})
}

func TestALostReceiptIsAskedForBeforeAnythingIsSentAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		w.silent = true
		s.append(4)
		p := publishing(t, w, s, PublisherOptions{Linger: -1})
		time.Sleep(2100 * time.Millisecond)
		synctest.Wait()
		equal(t, "frames", w.frames(), []string{"1-4"})
		same(t, "receipted", p.Stats().Receipted, 4)
		same(t, "freed", s.receipted(), 4)
		same(t, "resends", p.Stats().Resends, 0)
	})
}

func TestABusyLedgerIsNotSentTheSameAgainAndAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		w.fate = func(int, span) fate { return fate{lost: true} }
		s.append(2)
		p := publishing(t, w, s, PublisherOptions{Linger: -1})
		time.Sleep(time.Hour)
		synctest.Wait()
		// 10, 20, 40, 80, 160, 320, 320 … s
		if got := p.Stats().Resends; got < 14 || got > 17 {
			t.Errorf("resends within an hour: got %d, want about 15", got)
		}
	})
}

// Everything is sent again once; then it is one frame that asks whether the
// ledger takes something, however much waits and for however long.
func TestALedgerThatTakesNothingForDaysIsSentOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		var takesNothing atomic.Bool
		takesNothing.Store(true)
		w.fate = func(int, span) fate { return fate{lost: takesNothing.Load()} }
		s.append(100)
		p := publishing(t, w, s, PublisherOptions{Linger: -1, FrameEvents: 2})
		time.Sleep(72 * time.Hour)
		s.append(100)
		synctest.Wait()
		st := p.Stats()
		if again := st.Frames - 2*50; again < 700 || again > 820 {
			t.Errorf("frames beyond the first and the second time: got %d, want one in 320 s", again)
		}
		same(t, "unreceipted", st.Unreceipted, 1)
		same(t, "when the oldest was sent first", st.Oldest, w.began)
		takesNothing.Store(false)
		time.Sleep(6 * time.Minute)
		synctest.Wait()
		same(t, "receipted", p.Stats().Receipted, 200)
		same(t, "oldest", p.Stats().Oldest, time.Time{})
		w.ledger.check(t, 200)
	})
}

func TestAnAheadReceiptSendsTheMissingPartAgainOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		w.fate = func(n int, f span) fate { return fate{lost: n == 1} }
		s.append(12)
		p := publishing(t, w, s, PublisherOptions{Linger: -1, FrameEvents: 2})
		time.Sleep(5 * time.Second)
		synctest.Wait()
		equal(t, "frames", w.frames(), []string{"1-2", "3-4", "5-6", "7-8", "9-10", "11-12", "3-4", "5-6", "7-8", "9-10", "11-12"})
		same(t, "resends", p.Stats().Resends, 1)
		same(t, "receipted", p.Stats().Receipted, 12)
		same(t, "frames that came ahead", w.ledger.ahead, 4)
		w.ledger.check(t, 12)
	})
}

func TestReceiptsThatGoBack(t *testing.T) {
	receipt := func(position, generation uint64) odometer.Receipt {
		return odometer.Receipt{Agent: testAgent, Spool: testSpool, Position: position, Ledger: "ledger", Generation: generation}
	}
	for _, c := range []struct {
		name    string
		receipt func() odometer.Receipt
		want    []string
		at      uint64
		stale   bool // the ledger is not where the receipt says
	}{
		{"a ledger that was restored is offered again what lies beyond", func() odometer.Receipt { return receipt(2, 2) }, []string{"1-4", "3-4"}, 4, false},
		{"a ledger that lost its last commits is, too", func() odometer.Receipt { return receipt(2, 1) }, []string{"1-4", "3-4"}, 4, false},
		{"a ledger that has something missing is, too", func() odometer.Receipt {
			r := receipt(1, 1)
			r.Ahead = true
			return r
		}, []string{"1-4", "2-4"}, 4, false},
		{"another ledger is offered everything", func() odometer.Receipt {
			r := receipt(0, 1)
			r.Ledger = "another"
			return r
		}, []string{"1-4", "1-4"}, 4, false},
		{"a receipt from before the restore is ignored", func() odometer.Receipt { return receipt(1, 0) }, []string{"1-4"}, 4, false},
		{"a receipt for a spool of the past is ignored", func() odometer.Receipt {
			r := receipt(1, 1)
			r.Spool = "another"
			return r
		}, []string{"1-4"}, 4, false},
		{"a receipt that others have overtaken is ignored", func() odometer.Receipt { return receipt(2, 1) }, []string{"1-4"}, 4, true},
		{"so is one that says something was missing", func() odometer.Receipt {
			r := receipt(2, 1)
			r.Ahead = true
			return r
		}, []string{"1-4"}, 4, true},
		{"a receipt beyond what was sent moves on", func() odometer.Receipt { return receipt(9, 1) }, []string{"1-4"}, 9, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w, s := newWire(t), newSpool()
				s.append(4)
				p := publishing(t, w, s, PublisherOptions{Linger: -1})
				time.Sleep(time.Second)
				same(t, "receipted", p.Stats().Receipted, 4)
				r := c.receipt()
				w.ledger.mu.Lock()
				if !c.stale {
					w.ledger.positions[testSpool] = r.Position
				}
				if r.Generation > 0 {
					w.ledger.id, w.ledger.generation = r.Ledger, r.Generation
				}
				w.ledger.mu.Unlock()
				w.take(r)
				time.Sleep(time.Second)
				synctest.Wait()
				equal(t, "frames", w.frames(), c.want)
				same(t, "receipted", p.Stats().Receipted, c.at)
			})
		})
	}
}

// An agent sends the format of frames that every server takes until this one
// has said that it takes a newer one, and again when it no longer says so.
func TestTheServerSaysWhichFormatItTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		publishing(t, w, s, PublisherOptions{Linger: -1})
		send := func(frames int) {
			w.ledger.mu.Lock()
			w.ledger.frames = frames
			w.ledger.mu.Unlock()
			s.append(1)
			time.Sleep(time.Second)
			synctest.Wait()
		}
		for _, frames := range []int{0, odometer.FrameFormatBinary, odometer.FrameFormatBinary + 7, 0, 0} {
			send(frames) // its receipt decides about the next
		}
		var formats []string
		for _, f := range w.sent {
			formats = append(formats, f.format)
		}
		equal(t, "formats", formats, []string{"frame-1", "frame-1", "frame-2", "frame-2", "frame-1"})
		w.ledger.check(t, 5)
	})
}

func TestAnAgentThatStartsAnewAsksWhereToGoOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		s.append(10)
		w.ledger.positions[testSpool] = 8
		publishing(t, w, s, PublisherOptions{Linger: -1, Last: odometer.Receipt{Agent: testAgent, Spool: testSpool, Position: 5, Ledger: "ledger", Generation: 1}})
		time.Sleep(time.Second)
		synctest.Wait()
		equal(t, "frames", w.frames(), []string{"9-10"})
		same(t, "freed", s.receipted(), 10)
	})
}

func TestWithoutAnAnswerItGoesOnAfterItsOwnReceipt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		s.append(10)
		w.ledger.positions[testSpool] = 8
		w.answer = func() error { time.Sleep(askWithin); return errAway }
		publishing(t, w, s, PublisherOptions{Linger: -1, Last: odometer.Receipt{Agent: testAgent, Spool: testSpool, Position: 5, Ledger: "ledger", Generation: 1}})
		time.Sleep(4 * time.Second)
		synctest.Wait()
		equal(t, "frames", w.frames(), []string{"6-10"})
		equal(t, "times", w.times(), []time.Duration{askWithin})
		same(t, "freed", s.receipted(), 10)
	})
}

func TestLingerGathersEventsIntoOneFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		publishing(t, w, s, PublisherOptions{})
		time.Sleep(time.Second)
		for range 5 {
			s.append(1)
			time.Sleep(3 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		equal(t, "frames", w.frames(), []string{"1-5"})
		equal(t, "times", w.times(), []time.Duration{time.Second + DefaultLinger})
	})
}

func TestASpoolThatCannotBeReadIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		bad := errors.New("read segment 1: input/output error")
		s.append(3)
		s.fail = bad
		p := publishing(t, w, s, PublisherOptions{Linger: -1})
		time.Sleep(2500 * time.Millisecond)
		if err := p.Stats().Err; !errors.Is(err, bad) {
			t.Errorf("error: got %v, want %v", err, bad)
		}
		s.mu.Lock()
		s.fail = nil
		s.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		same(t, "receipted", p.Stats().Receipted, 3)
		same(t, "error", p.Stats().Err, nil)
	})
}

func TestFramesAreCutWhereTheyWouldBeTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		s.append(1000)
		for i := range s.records {
			s.records[i].Checkpoint = fmt.Appendf(nil, `{"n":%d,"pad":"%0*d"}`, i, 4000, i)
		}
		p := publishing(t, w, s, PublisherOptions{Linger: -1})
		time.Sleep(time.Second)
		synctest.Wait()
		same(t, "receipted", p.Stats().Receipted, 1000)
		if n := len(w.frames()); n < 5 || n > 9 {
			t.Errorf("frames: got %d, want about 6", n)
		}
		w.ledger.check(t, 1000)
	})
}

func TestAnEventIsSentWithoutACheckpointThatIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		s.append(3)
		s.records[1].Checkpoint = []byte(`{"pad":"` + strings.Repeat("0", odometer.MaxFrameUnpacked) + `"}`)
		p := publishing(t, w, s, PublisherOptions{Linger: -1})
		time.Sleep(time.Second)
		synctest.Wait()
		same(t, "receipted", p.Stats().Receipted, 3)
		w.ledger.check(t, 3)
	})
}

// An agent with nothing to send would never hear that the ledger was restored,
// and what its spool still has would be missing for ever.
func TestAnIdleAgentHearsOfARestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, s := newWire(t), newSpool()
		s.append(4)
		p := publishing(t, w, s, PublisherOptions{Linger: -1})
		time.Sleep(time.Second)
		same(t, "receipted", p.Stats().Receipted, 4)
		w.ledger.mu.Lock()
		w.ledger.positions[testSpool], w.ledger.generation = 2, 2
		w.ledger.mu.Unlock()
		time.Sleep(askIdle + time.Second)
		synctest.Wait()
		equal(t, "frames", w.frames(), []string{"1-4", "3-4"})
		same(t, "generation", p.Stats().Generation, 2)
	})
}
