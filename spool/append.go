package spool

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"example.org/odometer"
)

// Append stores the records in order, each at the next position, as one batch:
// when it returns nil all of them are durable and readable, and First and
// Position of each are set. On an error none is readable and rs is unchanged.
//
// An error that wraps [odometer.ErrInvalid] is the fault of a record, which it
// names, and comes again however often the batch is tried. Every other one is
// the disk's; the batch, or a merged form of it, may be tried again at any
// time. A full spool is an error that wraps [odometer.ErrUnavailable].
func (s *Spool) Append(rs []odometer.Record) error {
	if len(rs) == 0 {
		return nil
	}
	now := s.now().UnixMicro()
	entries := make([]entry, len(rs))
	text := make([]byte, 0, usualEvent*len(rs))
	for i := range rs {
		var err error
		if entries[i], err = entryOf(&rs[i], now, &text); err != nil {
			return fmt.Errorf("append to spool: record %d of %d: %w", i+1, len(rs), err)
		}
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed {
		return ErrClosed
	}
	full, err := s.put(entries)
	if err != nil {
		err = fmt.Errorf("append to spool: %w", err)
	}
	s.mu.Lock()
	s.stats.Err, s.stats.Full = err, full
	s.mu.Unlock()
	if err != nil {
		return err
	}
	for i := range rs {
		rs[i].First, rs[i].Position = entries[i].first, entries[i].position
	}
	return nil
}

// put gives the entries their positions and writes them as one batch. It
// reports whether the limit or the disk was reached. The caller holds writing.
func (s *Spool) put(entries []entry) (full bool, err error) {
	b := beginBatch(s.buf[:0])
	since := map[string]bool{}
	first := s.last + 1
	for i := range entries {
		e := &entries[i]
		e.position = s.next + uint64(i)
		e.first = e.position
		if i == 0 {
			e.first = first
		}
		if epoch := string(e.epoch); s.index.since != nil && len(e.event) > 0 && !s.index.since[epoch] && !since[epoch] {
			since[epoch] = true
			e.flags |= flagResumes
		}
		b = e.append(b)
	}
	last := entries[len(entries)-1].position
	if len(b)-batchSize > maxBatch {
		return false, fmt.Errorf("%d records are %d bytes, at most %d are allowed at once: %w", len(entries), len(b), maxBatch, odometer.ErrInvalid)
	}
	endBatch(b, len(entries), first, last)
	if cap(b) <= maxBuffer {
		s.buf = b // keep a buffer of the usual size
	}

	if full, err = s.limit(int64(len(b))); err != nil {
		return full, err
	}
	for {
		if err = s.write(b); err == nil {
			break
		}
		if !noSpace(err) {
			return full, err
		}
		full = true
		if !s.makeRoom() {
			return full, fmt.Errorf("spool is full, nothing is left to merge: %w: %w", err, odometer.ErrUnavailable)
		}
	}

	s.mu.Lock()
	g := s.active()
	g.add(mark{entries[0].position, g.size, g.count}, len(entries), last)
	g.size += int64(len(b))
	g.disk, g.ackedAt = g.size, 0
	s.last, s.next, s.index.top = last, last+1, last
	for epoch := range since {
		s.index.since[epoch] = true
	}
	if s.stats.Unacked == 0 {
		s.stats.Oldest = time.UnixMicro(entries[0].time)
	}
	s.stats.Unacked += int64(len(entries))
	s.stats.Appended += int64(len(entries))
	s.notify()
	s.mu.Unlock()
	for i := range entries {
		s.checks.see(&entries[i])
	}
	if full {
		s.makeReserve(true)
	}
	return full, nil
}

// active returns the segment that is appended to.
func (s *Spool) active() *segment { return s.index.segs[len(s.index.segs)-1] }

// write writes a batch at the end of the last segment and syncs it; where that
// fails the segment is as it was, or is not appended to any more.
func (s *Spool) write(b []byte) error {
	if s.file == nil || s.active().size >= s.segBytes {
		if err := s.inReserve(s.roll); err != nil {
			return err
		}
		s.expire()
		s.secure()
	}
	g := s.active()
	n, err := s.file.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	if err != nil {
		// No sync failed, so the file may be used on, once the part that was
		// written is gone. The next sync makes that durable too.
		if cut := s.file.Truncate(g.size); cut != nil {
			s.abandon(g)
		}
		return fmt.Errorf("write segment %s: %w", g.name, err)
	}
	start := time.Now()
	err = s.file.Sync()
	took := time.Since(start)
	s.mu.Lock()
	s.stats.SyncLast, s.stats.SyncMax = took, max(s.stats.SyncMax, took)
	s.mu.Unlock()
	if err != nil {
		s.abandon(g)
		return fmt.Errorf("sync segment %s, which is not used any more: %w", g.name, err)
	}
	return nil
}

// abandon ends the use of a segment whose sync failed. The batch that failed
// is cut off where possible, so that a process started anew does not find in
// the page cache what the disk never got; it is not read here in any case,
// since the next segment begins at its positions.
func (s *Spool) abandon(g *segment) {
	_ = s.file.Truncate(g.size)
	_ = s.file.Close()
	s.file, s.doubtful = nil, g.name
}

// roll begins a new segment.
func (s *Spool) roll() error {
	g := &segment{header: header{kind: kindSegment, first: s.last + 1, next: s.next, spool: s.id}}
	segs := slices.Clone(s.index.segs)
	replaced := ""
	if n := len(segs); n > 0 && segs[n-1].first == g.first { // it has no records
		g.gen = s.later()
		replaced = segs[n-1].name
		segs = segs[:n-1]
	}
	g.name = segmentName(g.first, g.gen)
	path := s.path(g.name)
	f, err := s.fs.Create(path)
	if err != nil {
		return fmt.Errorf("create segment %s: %w", g.name, err)
	}
	if err := s.begin(f, g.header); err != nil {
		_ = f.Close()
		_ = s.fs.Remove(path)
		return fmt.Errorf("begin segment %s: %w", g.name, err)
	}
	g.size, g.disk, g.top = headerSize, headerSize, g.first-1
	if s.file != nil {
		_ = s.file.Close() // synced
	}
	s.file = f
	s.mu.Lock()
	s.index.segs = append(segs, g)
	s.mu.Unlock()
	if replaced != "" {
		_ = s.fs.Remove(s.path(replaced)) // where it stays, the generation tells
	}
	return nil
}

// later returns a generation after every one that was tried: what came of an
// attempt that failed may come back after a power cut.
func (s *Spool) later() uint32 {
	s.generation++
	return s.generation
}

// begin writes a header and makes the file and its name durable.
func (s *Spool) begin(f File, h header) error {
	if _, err := f.Write(h.append(nil)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return s.fs.SyncDir(s.dir)
}

// secure copies what can be read of the segment whose sync failed, if there is
// one.
func (s *Spool) secure() {
	i := slices.IndexFunc(s.index.segs, func(g *segment) bool { return g.name == s.doubtful })
	if s.doubtful = ""; i < 0 {
		return
	}
	if _, err := s.rewrite(i, i+1, asIs, nil); err != nil {
		// What it holds was synced before; it is only less safe.
		s.log.Error("a segment whose fsync failed could not be copied", "err", err)
	}
}

// limit makes room for n bytes where MaxBytes wants that, with some to spare
// so that not every Append has to. It is full where freeing what is retained,
// as is done all the time, is not enough.
func (s *Spool) limit(n int64) (full bool, err error) {
	if s.bytes()+n <= s.maxBytes {
		return false, nil
	}
	for s.bytes()+n > s.maxBytes-s.maxBytes/16 {
		if s.freeOldest() {
			continue
		}
		full = true
		if s.makeRoom() {
			continue
		}
		if s.bytes()+n > s.maxBytes {
			return full, fmt.Errorf("spool is full with %d of %d bytes, nothing is left to merge: %w", s.bytes(), s.maxBytes, odometer.ErrUnavailable)
		}
		break
	}
	return full, nil
}

// makeRoom frees some space: retained segments first, then by merging, within
// hours as long as that helps. It reports whether it did.
func (s *Spool) makeRoom() bool {
	if s.freeOldest() || s.coalesce() {
		return true
	}
	if s.active().count == 0 {
		return false
	}
	// What is left is in the segment that is appended to.
	if err := s.inReserve(s.roll); err != nil {
		s.log.Error("no room can be made", "err", err)
		return false
	}
	return s.freeOldest() || s.coalesce()
}

// inReserve does something that takes space, giving up the reserve for it when
// the disk is full.
func (s *Spool) inReserve(do func() error) error {
	err := do()
	if err == nil || !noSpace(err) || !s.reserved {
		return err
	}
	s.setReserved(false)
	if gone := s.fs.Remove(s.path(reserveName)); gone != nil && !errors.Is(gone, fs.ErrNotExist) {
		return errors.Join(err, gone)
	}
	return do()
}

const (
	reserveName  = "reserve"
	reserveEvery = time.Minute
	usualEvent   = 1200    // bytes of an event's JSON
	maxBuffer    = 2 << 20 // that is kept from one Append to the next
)

// makeReserve allocates the reserve unless it is there. Without it the spool
// works until the disk is full. Where there was no space for it, it is tried
// again only when some was freed, or after a while.
func (s *Spool) makeReserve(freed bool) {
	now := s.now()
	if s.reserved || !freed && now.Sub(s.reserveTried).Abs() < reserveEvery {
		return
	}
	s.reserveTried = now
	path, want := s.path(reserveName), s.reserveBytes()
	if f, err := s.fs.Open(path); err == nil {
		size, err := f.Size()
		_ = f.Close()
		if err == nil && size == want {
			s.setReserved(true)
			return
		}
	}
	f, err := s.fs.Create(path)
	if err == nil {
		err = errors.Join(f.Allocate(want), f.Close())
		if err != nil {
			_ = s.fs.Remove(path)
		}
	}
	if err != nil {
		if !s.unreserved {
			s.log.Warn("no space for the reserve; merging needs some when the disk is full", "bytes", want, "err", err)
		}
		s.unreserved = true
		return
	}
	s.unreserved = false
	s.setReserved(true)
}

func (s *Spool) reserveBytes() int64 { return 2 * s.segBytes }

func (s *Spool) setReserved(is bool) {
	s.reserved = is
	s.mu.Lock()
	s.stats.Reserve = is
	s.mu.Unlock()
}
