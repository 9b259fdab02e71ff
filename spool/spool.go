package spool

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.org/odometer"
)

// Defaults of [Options].
const (
	// DefaultMaxBytes holds a month of a host with twenty instances at a
	// period of 30 s, before anything is merged.
	DefaultMaxBytes = 4 << 30
	// DefaultSegmentBytes is the unit of freeing and merging: large enough that
	// beginning a segment costs nothing beside its appends, small enough that
	// two of them can be kept in reserve.
	DefaultSegmentBytes = 4 << 20
	// DefaultRetain covers a week's holiday between a backup of the ledger and
	// its restore.
	DefaultRetain = 7 * 24 * time.Hour
	// DefaultRetainBytes bounds what is kept for a restore that seldom comes.
	DefaultRetainBytes = 256 << 20

	minSegmentBytes = 4 << 10
)

// Options say where a spool lies and how large it may become. The zero value
// of every field but Dir stands for its default.
type Options struct {
	Dir string
	FS  FS // the real one by default
	// MaxBytes bounds the segments together; what is retained counts. Beside
	// them lie the reserve (two segments), the cursor and the checkpoints.
	MaxBytes int64
	// SegmentBytes is the size beyond which the next segment is begun: at
	// most an eighth of MaxBytes.
	SegmentBytes int64
	// Retain and RetainBytes bound what is kept after its receipt, in case the
	// ledger is restored from a backup. Negative: nothing is.
	Retain      time.Duration
	RetainBytes int64
	Logger      *slog.Logger
	Now         func() time.Time
	Random      io.Reader // what the id of a new spool is drawn from; crypto/rand by default

	parallel int64 // parallelFrom, but in tests
}

// ErrClosed is the error of every use after Close.
var ErrClosed = errors.New("spool is closed")

// Spool is an open spool. Its methods may be called at once from several
// goroutines; readers do not wait for writers.
type Spool struct {
	fs          FS
	dir         string
	id          odometer.SpoolID
	maxBytes    int64
	segBytes    int64
	retain      time.Duration
	retainBytes int64
	parallel    int64 // bytes from which the spool is verified on all cores
	log         *slog.Logger
	now         func() time.Time
	random      io.Reader
	lock        io.Closer

	// What changes the directory: guarded by writing, held during I/O.
	writing      sync.Mutex
	file         File   // the last segment, for appending; nil when it may not be used
	doubtful     string // the segment whose fsync failed, until it is copied
	generation   uint32 // the highest of a segment that is or was to be
	cursorFile   File   // nil when it must be written anew
	cursorLen    int    // entries in it
	reserved     bool
	unreserved   bool // there was no space for it, and that was said
	unmerged     bool // merging failed, and that was said
	reserveTried time.Time
	buf          []byte
	checks       checkpoints
	reoffer      reoffer
	acks         []cursor // while opening: the cursor's log
	outside      []Damage // in other files than segments

	// The index. It is changed under writing and mu together and never while
	// doing I/O; so either suffices to read it.
	mu      sync.Mutex
	index   index
	last    uint64 // last position that is taken
	next    uint64 // the next one that may be given
	cursor  cursor
	changed chan struct{} // closed and renewed at every change
	closed  bool
	stats   Stats
}

// cursor is how far receipts reach.
type cursor struct {
	time       int64 // microseconds
	position   uint64
	ledger     odometer.LedgerID
	generation uint64
}

// Stats are the spool's figures at one moment.
type Stats struct {
	First, Last uint64 // positions that lie in segments; First > Last where none does
	Acked       uint64 // what the receipts reach
	Ledger      odometer.LedgerID
	Generation  uint64
	Unacked     int64     // records
	Oldest      time.Time // when the oldest of them was appended; zero where there is none
	Bytes       int64     // of all segments
	Unfreed     int64     // of the segments that are not receipted in full
	MaxBytes    int64
	Segments    int

	Appended  int64    // records, since open
	Coalesced int64    // records that were merged into others, since open
	Corrupt   uint64   // positions that were lost to corruption
	Damage    []Damage // the first hundred
	TornBytes int64    // cut off the end at open

	SyncLast, SyncMax time.Duration // of Append's fsync, since open
	Reserve           bool          // the reserve is in place
	Full              bool          // the last Append found the disk full, or the limit with nothing retained to free
	Err               error         // of the last Append that failed; nil after one that did not
}

// maxDamage is how many places Stats names; the count goes on.
const maxDamage = 100

// Open opens the spool in a directory, or makes one. It reads every segment,
// verifies it, and says what it had to leave out through the logger and Stats.
// A directory that is in use is an error wrapping [ErrLocked].
func Open(o Options) (*Spool, error) {
	s := &Spool{
		fs: o.FS, dir: o.Dir, maxBytes: o.MaxBytes, segBytes: o.SegmentBytes,
		retain: o.Retain, retainBytes: o.RetainBytes, log: o.Logger, now: o.Now, random: o.Random,
		parallel: o.parallel, changed: make(chan struct{}),
	}
	if s.fs == nil {
		s.fs = OS{}
	}
	if s.maxBytes <= 0 {
		s.maxBytes = DefaultMaxBytes
	}
	if s.segBytes <= 0 {
		s.segBytes = DefaultSegmentBytes
	}
	s.segBytes = max(min(s.segBytes, s.maxBytes/8), minSegmentBytes)
	if s.retain == 0 {
		s.retain = DefaultRetain
	}
	if s.retainBytes == 0 {
		s.retainBytes = DefaultRetainBytes
	}
	if s.parallel == 0 {
		s.parallel = parallelFrom
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.random == nil {
		s.random = rand.Reader
	}
	if err := s.open(); err != nil {
		if s.file != nil {
			_ = s.file.Close()
		}
		if s.cursorFile != nil {
			_ = s.cursorFile.Close()
		}
		if s.lock != nil {
			_ = s.lock.Close()
		}
		return nil, fmt.Errorf("open spool %s: %w", s.dir, err)
	}
	return s, nil
}

func (s *Spool) open() error {
	if err := s.fs.MkdirAll(s.dir); err != nil {
		return err
	}
	lock, err := s.fs.Lock(s.path("lock"))
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return fmt.Errorf("lock %s: %w", s.path("lock"), ErrLocked)
	}
	if err != nil {
		return err
	}
	s.lock = lock
	// What is seen from here on is durable: the directory itself and the
	// names in it.
	if err := errors.Join(s.fs.SyncDir(filepath.Dir(s.dir)), s.fs.SyncDir(s.dir)); err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	segs, err := s.list()
	if err != nil {
		return err
	}
	if err := s.loadCursor(); err != nil {
		return fmt.Errorf("read cursor: %w", err)
	}
	if err := s.loadCheckpoints(); err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	if s.id == "" {
		s.id = newID(s.random)
		if len(segs) > 0 || s.cursor.position > 0 {
			s.log.Error("no file of the spool says its id any more; it goes on under a new one, and everything that is still here is sent again", "dir", s.dir)
		}
		s.cursor = cursor{}
	}
	x, err := s.scan(segs, true, s.checks.see)
	if err != nil {
		return err
	}
	s.index = *x
	s.report(x)
	s.stats.Corrupt = x.lost
	s.restoreAckedAt()
	if err := s.loadReoffer(); err != nil {
		return fmt.Errorf("read %s: %w", reofferName, err)
	}
	s.makeReserve(true)
	if err := s.openLast(); err != nil {
		return err
	}
	s.makeReserve(true) // where openLast took it
	s.measure()
	return nil
}

// list reads the directory: it removes what was being written and what was
// rewritten, and returns the segments that stand, in order of position.
func (s *Spool) list() ([]*segment, error) {
	names, err := s.fs.List(s.dir)
	if err != nil {
		return nil, err
	}
	var segs []*segment
	var stale []string
	for _, name := range names {
		if strings.HasSuffix(name, tempSuffix) {
			stale = append(stale, name)
			continue
		}
		first, gen, ok := parseSegmentName(name)
		if !ok {
			continue
		}
		g := &segment{name: name, header: header{kind: kindSegment, gen: gen, first: max(first, 1)}}
		if err := s.readSegmentHeader(g); err != nil {
			return nil, fmt.Errorf("segment %s: %w", name, err)
		}
		segs = append(segs, g)
	}
	kept, superseded := standing(segs)
	for _, g := range superseded {
		stale = append(stale, g.name)
	}
	for _, g := range segs {
		s.generation = max(s.generation, g.gen)
	}
	for _, name := range stale {
		if err := s.fs.Remove(s.path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.Warn("a file that is no longer needed stays", "file", name, "err", err)
		}
	}
	if len(stale) > 0 {
		if err := s.fs.SyncDir(s.dir); err != nil {
			return nil, fmt.Errorf("sync directory: %w", err)
		}
	}
	return kept, nil
}

// standing returns those segments that count, in order of position, and the
// others, whose names a crash or a power cut has left or has brought back:
//
//   - One in which nothing is bounds no other: its beginning may have failed, and
//     the segment before it may have been used on. It counts where no other does,
//     since it tells the next position.
//   - Of those that cover the same positions the later generation counts, which
//     was made from the others, or after the attempt at the others had failed.
func standing(segs []*segment) (kept, superseded []*segment) {
	slices.SortFunc(segs, func(a, b *segment) int {
		return cmp.Or(cmp.Compare(b.gen, a.gen), cmp.Compare(b.first, a.first))
	})
	var void *segment
	for _, g := range segs {
		if g.void() {
			if void == nil || g.first > void.first {
				g, void = void, g
			}
		} else if !slices.ContainsFunc(kept, g.overlaps) {
			kept = append(kept, g)
			g = nil
		}
		if g != nil {
			superseded = append(superseded, g)
		}
	}
	slices.SortFunc(kept, func(a, b *segment) int { return cmp.Compare(a.first, b.first) })
	switch {
	case void == nil:
	case len(kept) == 0:
		kept = append(kept, void)
	default:
		superseded = append(superseded, void)
	}
	return kept, superseded
}

func (s *Spool) readSegmentHeader(g *segment) error {
	f, err := s.fs.Open(s.path(g.name))
	if err != nil {
		return err
	}
	defer f.Close()
	if g.disk, err = f.Size(); err != nil {
		return err
	}
	g.size = g.disk
	h, err := readHeader(f, kindSegment)
	switch {
	case errors.Is(err, errVersion):
		return err
	case err != nil:
		g.bad = err
		return nil
	case h.first != g.first || h.gen != g.gen:
		g.bad = fmt.Errorf("header names position %d and generation %d", h.first, h.gen)
		return nil
	}
	g.header = h
	return s.belongs(h.spool)
}

// belongs takes the first id that a file tells as the spool's own and refuses
// every other one.
func (s *Spool) belongs(id odometer.SpoolID) error {
	if s.id == "" {
		s.id = id
	}
	if s.id != id {
		return fmt.Errorf("belongs to spool %s, the directory is spool %s: move it away: %w", id, s.id, odometer.ErrConflict)
	}
	return nil
}

// openLast makes the last segment ready for appending, or begins a new one.
//
// What a process before this one had written may be read and yet never get to
// the disk, whatever a sync says now: because its own sync had failed. The
// segment is therefore copied. Where there is no space for a copy a sync has to
// do.
func (s *Spool) openLast() error {
	x := &s.index
	n := len(x.segs)
	if n > 0 && x.torn == nil && x.segs[n-1].sound() && x.segs[n-1].header.last == 0 && s.next == s.last+1 {
		_, err := s.rewrite(n-1, n, asIs, nil)
		if err == nil {
			return nil
		}
		g := x.segs[n-1]
		s.log.Warn("the last segment could not be copied", "segment", g.name, "err", err)
		if noSpace(err) && !errors.Is(err, errMayComeBack) && g.version == version {
			f, err := s.fs.Append(s.path(g.name))
			if err != nil {
				return err
			}
			if err = f.Sync(); err == nil {
				s.file = f
				return nil
			}
			_ = f.Close()
			s.log.Warn("fsync failed; the segment is not appended to any more", "segment", g.name, "err", err)
		}
	}
	if n > 0 && x.segs[n-1].sound() {
		s.doubtful = x.segs[n-1].name // else what is unreadable is left where it is
	}
	if x.torn != nil {
		s.stats.TornBytes = x.torn.end - x.torn.off
		s.log.Warn("torn tail: an append that never returned is left out",
			"segment", x.segs[len(x.segs)-1].name, "offset", x.torn.off, "bytes", s.stats.TornBytes, "reason", x.torn.reason, "next_position", s.next)
	}
	if err := s.inReserve(s.roll); err != nil {
		return err
	}
	s.secure()
	return nil
}

// report logs what a scan could not read.
func (s *Spool) report(x *index) {
	for _, d := range x.damage {
		s.log.Error("corrupt spool: "+d.String(), "segment", d.Segment, "offset", d.Offset, "first", d.First, "last", d.Last)
	}
}

// rescan builds the index anew after something was found unreadable, or after
// the ledger asked for what has been freed. The caller holds writing.
func (s *Spool) rescan() error {
	segs := make([]*segment, len(s.index.segs))
	for i, g := range s.index.segs { // readers have the old ones
		c := *g
		segs[i] = &c
	}
	x, err := s.scan(segs, false, func(*entry) {})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.index = *x
	s.stats.Corrupt = max(s.stats.Corrupt, x.lost)
	s.mu.Unlock()
	s.report(x)
	s.measure()
	return nil
}

// ID returns the id of the spool, which never changes.
func (s *Spool) ID() odometer.SpoolID { return s.id }

// Wait returns nil as soon as there is a record beyond the position after, and
// an error when the context or the spool ends before.
func (s *Spool) Wait(ctx context.Context, after uint64) error {
	return s.wait(ctx, func() bool { return s.index.top > after })
}

// WaitRoom returns nil as soon as what is not receipted takes no more than
// half of MaxBytes. Who can wait with its readings, such as a replay, spares the
// spool the merging.
func (s *Spool) WaitRoom(ctx context.Context) error {
	return s.wait(ctx, func() bool { return s.unfreed() <= s.maxBytes/2 })
}

// wait waits until the condition, evaluated under mu, holds.
func (s *Spool) wait(ctx context.Context, holds func() bool) error {
	for {
		s.mu.Lock()
		changed, closed, ok := s.changed, s.closed, holds()
		s.mu.Unlock()
		switch {
		case closed:
			return ErrClosed
		case ok:
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// notify wakes everybody who waits. The caller holds mu.
func (s *Spool) notify() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// Stats returns the spool's figures. It does no I/O.
func (s *Spool) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stats
	st.First, st.Last = s.last+1, s.last
	if n := len(s.index.segs); n > 0 {
		st.First, st.Segments = s.index.segs[0].first, n
	}
	st.Acked, st.Ledger, st.Generation = s.cursor.position, s.cursor.ledger, s.cursor.generation
	st.Bytes, st.Unfreed, st.MaxBytes = s.bytes(), s.unfreed(), s.maxBytes
	st.Damage = slices.Concat(s.outside, s.index.damage)
	st.Damage = st.Damage[:min(len(st.Damage), maxDamage)]
	return st
}

// bytes returns what the segments take, and unfreed what those of them take
// that have unreceipted records. The caller holds mu or writing.
func (s *Spool) bytes() int64 { return sizes(s.index.segs) }

func sizes(segs []*segment) (n int64) {
	for _, g := range segs {
		n += g.disk
	}
	return n
}

func (s *Spool) unfreed() (n int64) {
	for _, g := range s.index.segs {
		if g.top > s.cursor.position {
			n += g.disk
		}
	}
	return n
}

// measure counts the unreceipted records. The caller holds writing.
func (s *Spool) measure() {
	var unacked int64
	var oldest time.Time
	for _, g := range s.index.segs {
		if g.top <= s.cursor.position {
			continue
		}
		n := int64(g.count)
		if oldest.IsZero() {
			skip, since, err := s.countUpTo(g, s.cursor.position)
			if err != nil {
				s.log.Error("unreceipted records cannot be counted", "segment", g.name, "err", err)
			}
			n -= int64(skip)
			oldest = time.UnixMicro(since)
		}
		unacked += n
	}
	s.mu.Lock()
	s.stats.Unacked, s.stats.Oldest = unacked, oldest
	s.mu.Unlock()
}

// countUpTo counts the records of g up to a position and tells when the one
// after it was appended.
func (s *Spool) countUpTo(g *segment, pos uint64) (n int, since int64, err error) {
	f, err := s.fs.Open(s.path(g.name))
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	m := g.seek(pos)
	n = m.ordinal
	sc := newScanner(f, m.off, g.size)
	at := g.first - 1
	for {
		c, more, err := sc.next()
		if err != nil || !more {
			return n, s.now().UnixMicro(), err
		}
		for i := range c.entries {
			switch e := &c.entries[i]; {
			case e.position <= at:
			case e.position > pos:
				return n, e.time, nil
			default:
				at = e.position
				n++
			}
		}
	}
}

// Close ends the spool: everything accepted is durable already. Readers and
// waiters get [ErrClosed]; another process may open the directory.
func (s *Spool) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.notify()
	s.mu.Unlock()
	var errs []error
	for _, f := range []File{s.file, s.cursorFile} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(append(errs, s.lock.Close())...)
}

func newID(from io.Reader) odometer.SpoolID {
	var b [16]byte
	if _, err := io.ReadFull(from, b[:]); err != nil {
		panic(err) // crypto/rand never fails
	}
	return odometer.SpoolID(hex.EncodeToString(b[:]))
}
