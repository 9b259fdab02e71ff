package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"example.org/odometer"
)

const (
	cursorName  = "cursor"
	reofferName = "reoffer"
	// maxCursor is how many entries the cursor's log may have before it is
	// written anew: 256 KiB.
	maxCursor = 4096
	// maxPosition leaves room for positions to go on after a receipt that
	// reaches beyond what the spool has.
	maxPosition = 1 << 62
	// reofferBytes is how much of what must be sent under new positions is
	// stored at once.
	reofferBytes = 64 << 20
)

// Ack takes in a receipt: when it returns nil, how far it reaches is durable.
// What is receipted is kept for Retain and RetainBytes and freed then.
//
// A receipt that reaches no further than an earlier one of the same ledger and
// generation, or comes from an earlier generation, or is for another spool, is
// stale and ignored. One of a later generation or of another ledger counts even
// when it goes back: the ledger was restored or replaced, and After its position
// lies what it wants again. Where that has been freed, the first record of each
// epoch that is left is marked Resumes.
//
// A receipt beyond the last position says that this spool was itself restored
// from a copy and has given positions a second time. Its unreceipted records
// are stored once more under positions beyond the receipt's and sent again.
//
// After an error nothing has changed; the same or a later receipt may be tried.
func (s *Spool) Ack(r odometer.Receipt) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed {
		return ErrClosed
	}
	c := s.cursor
	switch {
	case r.Spool != s.id:
		return nil
	case r.Ledger == c.ledger && (r.Generation < c.generation || r.Generation == c.generation && r.Position <= c.position):
		return s.keepCursor()
	case r.Position > maxPosition || r.Ledger == "" || len(r.Ledger) > odometer.MaxIDBytes:
		return fmt.Errorf("receipt for position %d of ledger %q: %w", r.Position, r.Ledger, odometer.ErrInvalid)
	}
	if err := s.ack(r); err != nil {
		return fmt.Errorf("acknowledge position %d: %w", r.Position, err)
	}
	return nil
}

func (s *Spool) ack(r odometer.Receipt) error {
	if r.Position >= s.next && s.reoffer.to == 0 {
		o := reoffer{from: s.cursor.position, to: s.index.top}
		if err := s.inReserve(func() error { return s.saveReoffer(o, r.Position+1) }); err != nil {
			return fmt.Errorf("note what is sent again: %w", err)
		}
		s.log.Error("the ledger has more of this spool than the spool: it was restored from a copy; what is unreceipted is sent again",
			"last", s.last, "receipt", r.Position)
		s.reoffer, s.next = o, r.Position+1
	}
	if err := s.offerAgain(); err != nil {
		return err
	}
	now := cursor{s.now().UnixMicro(), r.Position, r.Ledger, r.Generation}
	if err := s.inReserve(func() error { return s.saveCursor(now) }); err != nil {
		return err
	}
	before := s.cursor
	s.mu.Lock()
	s.cursor = now
	for _, g := range s.index.segs {
		switch {
		case g.top > now.position:
			g.ackedAt = 0
		case g.ackedAt == 0:
			g.ackedAt = now.time
		}
	}
	s.notify()
	s.mu.Unlock()
	if before.ledger != "" && (before.ledger != now.ledger || before.generation != now.generation) {
		s.log.Warn("the ledger was restored or replaced", "ledger", now.ledger, "generation", now.generation,
			"receipted_before", before.position, "receipted_now", now.position)
	}
	// The receipt stands; what follows is housekeeping, and is tried again
	// with the next one.
	s.measure()
	if now.position < max(s.index.segs[0].first-1, s.index.freed) { // it asks for what is gone
		if err := s.rescan(); err != nil {
			s.log.Error("the spool cannot be read", "err", err)
		}
	}
	s.makeReserve(s.expire())
	return nil
}

// reoffer is what still has to be stored under new positions: the records
// after from up to to. A file of the name reoffer, which is a header with both
// and the first new position, says so until it is done: what is stored beyond
// the receipt meanwhile would make it look like any other after a restart.
type reoffer struct{ from, to uint64 }

func (s *Spool) saveReoffer(o reoffer, next uint64) error {
	f, err := s.replace(reofferName, header{kind: kindReoffer, first: o.from, last: o.to, next: next, spool: s.id}.append(nil))
	if err == nil {
		err = f.Close()
	}
	return err
}

// loadReoffer reads what a process before this one had still to store. Where
// that cannot be read it is everything that is not receipted.
func (s *Spool) loadReoffer() error {
	b, err := s.readFile(reofferName)
	if err != nil || b == nil {
		return err
	}
	h, err := parseHeader(b, kindReoffer)
	if errors.Is(err, errVersion) {
		return err
	} else if err != nil {
		s.unreadable(Damage{Segment: reofferName, Reason: err.Error()})
		s.reoffer = reoffer{from: s.cursor.position, to: s.index.top}
		return nil
	}
	if err := s.belongs(h.spool); err != nil {
		return err
	}
	s.reoffer = reoffer{from: h.first, to: h.last}
	s.next = max(s.next, h.next)
	return nil
}

func (s *Spool) offerAgain() error {
	for s.reoffer.from < s.reoffer.to {
		var entries []entry
		size, last := 0, s.reoffer.from
		err := s.walk(s.reoffer.from, true, func(e *entry) bool {
			if e.position > s.reoffer.to || size > reofferBytes {
				return false
			}
			size += e.size()
			last = e.position
			entries = append(entries, e.clone())
			return true
		})
		if err != nil {
			return err
		}
		if len(entries) == 0 {
			break
		}
		if _, err := s.put(entries); err != nil {
			return err
		}
		s.reoffer.from = last
	}
	if s.reoffer.to == 0 {
		return nil
	}
	if err := s.fs.Remove(s.path(reofferName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	s.reoffer = reoffer{}
	return nil
}

func (e *entry) clone() entry {
	c := *e
	for _, b := range []*[]byte{&c.instance, &c.agent, &c.epoch, &c.event, &c.checkpoint} {
		*b = bytes.Clone(*b)
	}
	return c
}

// saveCursor appends to the cursor's log, or writes it anew where it must not
// be appended to any more.
func (s *Spool) saveCursor(c cursor) error {
	if s.cursorFile != nil && s.cursorLen < maxCursor {
		_, err := s.cursorFile.Write(c.append(nil))
		if err == nil {
			err = s.cursorFile.Sync()
		}
		if err == nil {
			s.cursorLen++
			return nil
		}
		_ = s.cursorFile.Close()
		s.cursorFile = nil // its content is in doubt; the next one is a new file
		return fmt.Errorf("write cursor: %w", err)
	}
	b := header{kind: kindCursor, spool: s.id}.append(nil)
	n := 1
	for _, g := range s.index.segs {
		if g.ackedAt != 0 && g.top <= c.position {
			b = cursor{g.ackedAt, g.top, c.ledger, c.generation}.append(b)
			n++
		}
	}
	f, err := s.replace(cursorName, c.append(b))
	if err != nil {
		return fmt.Errorf("write cursor: %w", err)
	}
	if s.cursorFile != nil {
		_ = s.cursorFile.Close()
	}
	s.cursorFile, s.cursorLen = f, n
	return nil
}

// keepCursor makes the cursor durable where it may not be: what was found at
// open, or remained of a write that failed, may be read and not be on the disk.
func (s *Spool) keepCursor() error {
	if s.cursorFile != nil || s.cursor.ledger == "" {
		return nil
	}
	return s.inReserve(func() error { return s.saveCursor(s.cursor) })
}

// replace writes a file and renames it over the one of that name, and returns
// it open for appending. After an error either of the two may stand.
func (s *Spool) replace(name string, content []byte) (File, error) {
	temp := s.path(name + tempSuffix)
	f, err := s.fs.Create(temp)
	if err != nil {
		return nil, err
	}
	err = func() error {
		if _, err := f.Write(content); err != nil {
			return err
		}
		if err := f.Sync(); err != nil { // before the rename: the name must never stand for half of it
			return err
		}
		if err := s.fs.Rename(temp, s.path(name)); err != nil {
			return err
		}
		return s.fs.SyncDir(s.dir)
	}()
	if err != nil {
		_ = f.Close()
		_ = s.fs.Remove(temp)
		return nil, err
	}
	return f, nil
}

// loadCursor reads the last good entry. A cursor that is gone or corrupt costs
// sending again what has been receipted, and nothing else.
func (s *Spool) loadCursor() error {
	b, err := s.readFile(cursorName)
	if err != nil || b == nil {
		return err
	}
	h, err := parseHeader(b, kindCursor)
	if errors.Is(err, errVersion) {
		return err
	} else if err != nil {
		s.unreadable(Damage{Segment: cursorName, Reason: err.Error()})
		return nil
	}
	if err := s.belongs(h.spool); err != nil {
		return err
	}
	for at := headerSize; at < len(b); {
		body, n, ok := cutFrame(b[at:], cursorBody)
		if !ok {
			s.log.Warn("the end of the cursor is unreadable; an earlier receipt counts", "offset", at, "bytes", len(b)-at)
			break
		}
		c := parseCursor(body)
		if c.position < s.cursor.position {
			s.acks = s.acks[:0] // rewound: what was receipted before is not any more
		}
		s.cursor = c
		s.acks = append(s.acks, c)
		at += n
	}
	// The first Ack writes it anew: whether the last process's fsync of it
	// failed is not known.
	return nil
}

// readFile returns the content of a file, nil where there is none.
func (s *Spool) readFile(name string) ([]byte, error) {
	f, err := s.fs.Open(s.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	b := make([]byte, size)
	n, err := (&patient{ReaderAt: f}).ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b[:n], nil
}

// restoreAckedAt finds when each segment was receipted.
func (s *Spool) restoreAckedAt() {
	for _, g := range s.index.segs {
		i := slices.IndexFunc(s.acks, func(c cursor) bool { return c.position >= g.top })
		if i >= 0 && g.top <= s.cursor.position {
			g.ackedAt = s.acks[i].time
		}
	}
	s.acks = nil
}

// freeable returns how many segments at the front are receipted.
func (s *Spool) freeable() int {
	n := 0
	for n < len(s.index.segs)-1 && s.index.segs[n].top <= s.cursor.position {
		n++
	}
	return n
}

// freeOldest frees the oldest receipted segment, whatever its age.
func (s *Spool) freeOldest() bool {
	if s.freeable() == 0 {
		return false
	}
	if err := s.free(1); err != nil {
		s.log.Error("a receipted segment cannot be freed", "err", err)
		return false
	}
	return true
}

// expire frees the receipted segments that have been kept for long enough, or
// for whom there is no room. It reports whether it freed any.
func (s *Spool) expire() bool {
	n, kept, freed := s.freeable(), int64(0), int64(0)
	for _, g := range s.index.segs[:n] {
		kept += g.disk
	}
	bound := max(s.retainBytes, 0)
	if kept > bound {
		bound -= bound / 8 // some to spare, so that this is not done for each segment
	}
	oldest := s.now().Add(-max(s.retain, 0)).UnixMicro()
	k := 0
	for _, g := range s.index.segs[:n] {
		if kept <= bound && s.retain >= 0 && g.ackedAt > oldest {
			break
		}
		kept, freed, k = kept-g.disk, freed+g.disk, k+1
	}
	// The checkpoints may have to be written for it: not oftener than that
	// many bytes are freed.
	if k == 0 || freed < s.checks.bytes {
		return false
	}
	if err := s.free(k); err != nil {
		s.log.Error("receipted segments cannot be freed", "err", err)
		return false
	}
	return true
}

// free removes the k oldest segments. The receipts that free them and
// checkpoints that lie nowhere else are saved before.
func (s *Spool) free(k int) error {
	if err := s.keepCursor(); err != nil {
		return err
	}
	gone := s.index.segs[:k]
	if s.checks.only(gone[k-1].top) {
		if err := s.inReserve(s.saveCheckpoints); err != nil {
			return err
		}
	}
	var err error
	done := 0
	for _, g := range gone {
		if err = s.fs.Remove(s.path(g.name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		err = nil
		done++
	}
	s.mu.Lock()
	s.index.segs = slices.Clone(s.index.segs[done:])
	s.mu.Unlock()
	// Where the names come back after a power cut they are freed again.
	return errors.Join(err, s.fs.SyncDir(s.dir))
}
