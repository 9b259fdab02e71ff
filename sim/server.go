package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"time"

	"example.org/odometer"
	"example.org/odometer/ingest"
	"example.org/odometer/ledger"
)

// server is the machine with the ledger: the process that runs there, and the
// files that outlive it.
type server struct {
	w      *world
	store  *store
	ledger *ledger.Ledger
	ingest *ingest.Ingest
	offset int64     // of its clock
	turn   int       // of the ticks: those of an older process are void
	batch  *batch    // under way
	saved  string    // a copy of the ledger, "" for none
	knew   decisions // when it was made
	frames int       // the newest format of frames that it says it takes
}

// batch is one that ingest is settling, as a coroutine.
type batch struct {
	dead   bool // the process was killed
	cancel context.CancelFunc
	yield  func(time.Duration) bool
	next   func() (time.Duration, bool)
	stop   func()
	err    error
}

func (s *server) down() bool { return s.ledger == nil }

func (s *server) clock() time.Time { return time.UnixMicro(s.w.base + s.w.now + s.offset) }

// start starts the server's process.
func (s *server) start() {
	w := s.w
	if !s.down() {
		return
	}
	l, err := ledger.Open(context.Background(), ledger.Options{
		Path: s.store.path(), Clock: s.clock, Logger: w.log, Driver: driverName, Random: random{w},
	})
	if err != nil {
		w.note("the server does not start: %v", err)
		if s.store.dead {
			err = s.store.replace(s.store.image())
			w.after(second, s.start)
			if err != nil {
				w.wrong("%v", err)
			}
			return
		}
		if w.calm && !s.store.faulty() {
			w.wrong("the ledger does not open any more: %v", err)
			return
		}
		w.after(5*second, s.start)
		return
	}
	s.frames = odometer.FrameFormatBinary
	if s.turn == 0 && w.chance(olderServer, 1) {
		s.frames = 0 // it is updated when it is next started
	}
	w.note("the server starts, frames %d", s.frames)
	s.ledger = l
	s.ingest = ingest.New(ingest.Options{Ledger: s, Receipts: s, Logger: w.log, Sleep: s.sleep})
	s.batch = &batch{}
	w.broker.session++
	s.turn++
	turn := s.turn
	var tick func()
	tick = func() {
		if s.turn != turn {
			return
		}
		if !s.busy() {
			if err := s.ledger.Tick(context.Background()); err != nil {
				w.note("tick: %v", err)
			}
			if s.store.dead {
				s.die(s.store.image())
				return
			}
		}
		w.after(minute, tick)
	}
	w.after(minute, tick)
	w.after(0, s.work)
}

func (s *server) busy() bool { return s.batch.next != nil }

// work takes what the queue delivers, unless a batch is under way.
func (s *server) work() {
	w := s.w
	if s.down() || s.busy() {
		return
	}
	list := w.broker.take(1 + w.r.IntN(30))
	if len(list) == 0 {
		return
	}
	w.note("the server takes %d deliveries", len(list))
	b := &batch{}
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	s.batch = b
	b.next, b.stop = iter.Pull(func(yield func(time.Duration) bool) {
		b.yield = yield
		b.err = s.ingest.Settle(ctx, list)
	})
	s.resume(b)
}

// resume lets a batch go on until it waits or ends.
func (s *server) resume(b *batch) {
	w := s.w
	if s.batch != b || b.next == nil {
		return
	}
	d, ok := b.next()
	switch {
	case b.dead:
		s.die(s.store.image())
	case ok:
		w.after(d.Microseconds(), func() { s.resume(b) })
	default:
		b.next = nil
		if b.err != nil {
			w.wrong("ingest ends: %v", b.err)
		}
		w.after(w.between(100, 5000), s.work)
	}
}

func (s *server) sleep(ctx context.Context, d time.Duration) error {
	if !s.batch.yield(d) {
		return context.Canceled
	}
	return ctx.Err()
}

// Commit implements [ingest.Ledger]. Where the process dies of it, nobody
// hears of what it did.
func (s *server) Commit(ctx context.Context, frames []odometer.Frame) ([][]odometer.Result, []odometer.Receipt, error) {
	results, receipts, err := s.ledger.Commit(ctx, frames)
	if s.store.dead {
		s.batch.dead = true
		s.batch.cancel()
		return nil, nil, errKilled
	}
	s.w.note("commit of %d frames: %v", len(frames), err)
	for _, rs := range results {
		for _, r := range rs {
			s.w.note("%s %s %s %s", r.EventID, r.Outcome, r.Reason, r.Detail)
		}
	}
	return results, receipts, err
}

// Checkpoints implements [ingest.Ledger].
func (s *server) Checkpoints(ctx context.Context, agent odometer.AgentID) ([]json.RawMessage, error) {
	return s.ledger.Checkpoints(ctx, agent)
}

// die ends the process; what is on the disk then is image, nil for as it is.
func (s *server) die(image *image) {
	w := s.w
	if s.down() {
		return
	}
	if image == nil {
		image = s.store.look()
	}
	s.batch.dead = true
	if b := s.batch; b.next != nil {
		b.cancel()
		b.stop()
		b.next = nil
	}
	_ = s.ledger.Close()
	s.ledger = nil
	s.turn++
	if err := s.store.replace(image); err != nil {
		w.wrong("%v", err)
	}
	w.note("the server is dead")
	w.after(w.between(second/10, 30*second), s.start)
}

// restore brings back the copy of the ledger that was saved.
func (s *server) restore() {
	saved := s.saved
	s.saved = ""
	s.w.truth.reversed = s.knew
	b, err := os.ReadFile(saved)
	if err == nil {
		s.die(&image{db: b})
		err = ledger.Restored(context.Background(), s.store.path(), s.clock())
	}
	if err != nil {
		s.w.wrong("restore: %v", err)
	}
}

// save copies the ledger, between two commits.
func (s *server) save() {
	im := s.store.look()
	dir := filepath.Join(s.w.dir, "saved")
	tmp := &store{w: s.w, root: dir}
	if err := errors.Join(os.MkdirAll(dir, 0o700), tmp.replace(im)); err != nil {
		s.w.wrong("save: %v", err)
		return
	}
	// Opened and closed once, it is one file.
	l, err := ledger.Open(context.Background(), ledger.Options{Path: tmp.path(), Clock: s.clock, Random: random{s.w}})
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		s.w.wrong("save: %v", err)
		return
	}
	s.saved, s.knew = tmp.path(), s.w.truth.reversed.clone()
}

// entries sums up what the ledger has of each epoch, and checks its reversals.
func (s *server) entries() (map[odometer.Epoch]*booked, error) {
	list := map[odometer.Epoch]*booked{}
	var all []odometer.Entry
	for cursor := ""; ; {
		page, next, err := s.ledger.Entries(context.Background(), odometer.EntryQuery{After: cursor, Limit: 1000})
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		for i := range page {
			e := &page[i].Event
			if !e.Integral() {
				continue
			}
			b := list[e.Epoch]
			if b == nil {
				b = &booked{instance: e.Instance}
				list[e.Epoch] = b
			}
			b.sequence = max(b.sequence, e.Sequence)
			for q, n := range e.Usage.Vector {
				b.net[q] += n
				if page[i].Kind != odometer.KindCorrection {
					b.sum[q] += n
				}
			}
		}
		if len(page) == 0 || next == "" || next == cursor {
			s.w.truth.reversed.check(s.w, all)
			return list, nil
		}
		cursor = next
	}
}

var errKilled = fmt.Errorf("the process was killed")
