package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"example.org/odometer"
)

// level says how far a rewrite may go.
type level int

const (
	asIs       level = iota // copy what is readable
	withinHour              // merge events of one epoch within one UTC hour
	beyondHour              // merge any adjacent events of one epoch
	anyGain                 // the same, even where it frees little
	levels
)

// barren says that the segments from one through another were looked at and
// gave nothing.
type barren struct {
	through uint64 // first position of the last of them
	limited bool   // more of them would not have fitted
}

const (
	// maxGroup bounds how long one Append may have to wait for a merge.
	maxGroup = 64 << 20
	// worthwhile is the part of the bytes read that must come free, so that
	// merging costs no more than a few writes of each byte.
	worthwhile = 8
)

// coalesce merges the oldest sealed segments that can be merged into one, and
// reports whether that freed space. The whole group is replaced at once: see
// rewrite.
func (s *Spool) coalesce() bool {
	for l := withinHour; l < levels; l++ {
		for i := range len(s.index.segs) - 1 {
			ok, err := s.coalesceFrom(i, l)
			if err != nil {
				if !s.unmerged { // a full disk may last
					s.log.Error("merging failed", "segment", s.index.segs[i].name, "err", err)
				}
				s.unmerged = true
				return false
			}
			if ok {
				s.unmerged = false
				return true
			}
		}
	}
	return false
}

func (s *Spool) coalesceFrom(i int, l level) (bool, error) {
	segs := s.index.segs
	g, newest := segs[i], segs[len(segs)-2]
	if g.top <= s.cursor.position { // receipted: it is freed, not merged
		return false, nil
	}
	if b := g.barren[l]; b.through != 0 && (b.limited || b.through == newest.first) {
		return false, nil
	}
	m := newMerger(l, g.first)
	in, j, limited := int64(0), i, false
	for ; j < len(segs)-1; j++ {
		if j > i && in+segs[j].disk > maxGroup {
			limited = true
			break
		}
		if err := s.collect(m, j); err != nil {
			return false, err
		}
		if j > i && int64(m.size) > s.reserveBytes() {
			// Without this one, then; it would not fit into the reserve.
			limited, m = true, newMerger(l, g.first)
			for k := i; k < j; k++ {
				if err := s.collect(m, k); err != nil {
					return false, err
				}
			}
			break
		}
		in += segs[j].disk
	}
	gain := in - int64(m.size) - headerSize
	if least := in / worthwhile; gain <= 0 || l < anyGain && gain < least {
		s.mu.Lock()
		g.barren[l] = barren{through: segs[j-1].first, limited: limited}
		s.mu.Unlock()
		return false, nil
	}
	freed, err := s.rewrite(i, j, l, m)
	return freed > 0, err
}

// collect adds the readable records of a segment to a merger.
func (s *Spool) collect(m *merger, i int) error {
	g, limit := s.index.segs[i], ^uint64(0)
	if i+1 < len(s.index.segs) {
		limit = s.index.segs[i+1].first
	}
	f, err := s.fs.Open(s.path(g.name))
	if err != nil {
		return err
	}
	defer f.Close()
	sc := newScanner(f, headerSize, g.size)
	for {
		c, more, err := sc.next()
		if err != nil {
			return fmt.Errorf("read segment %s: %w", g.name, err)
		}
		if !more {
			return nil
		}
		for _, fl := range c.flaws {
			if !g.flaws[fl.off] {
				s.log.Error("corrupt spool: found while rewriting", "segment", g.name, "offset", fl.off, "reason", fl.reason)
			}
		}
		for i := range c.entries {
			if e := &c.entries[i]; e.position < limit && e.position >= g.first && e.position > m.at {
				m.add(e, s.index.resumes[e.position])
			}
		}
	}
}

// errMayComeBack says of a file that its name may be on the disk: it was removed,
// and a power cut may bring it back.
var errMayComeBack = errors.New("its name may come back after a power cut")

// rewrite replaces the segments i to j-1 by one: written beside them, synced,
// renamed, the directory synced, and only then are they removed. Before that
// last step both may be there after a crash, and the new one's generation
// tells. It needs a reserve where the disk is full. It returns the bytes freed.
// Where the last segment is among them, the new one is appended to from then on.
func (s *Spool) rewrite(i, j int, l level, m *merger) (freed int64, err error) {
	group := s.index.segs[i:j]
	if m == nil {
		m = newMerger(l, group[0].first)
		for k := i; k < j; k++ {
			if err := s.collect(m, k); err != nil {
				return 0, err
			}
		}
	}
	g := &segment{header: header{kind: kindSegment, gen: s.later(), first: group[0].first, spool: s.id}, flaws: map[int64]bool{}}
	active := j == len(s.index.segs)
	if active {
		g.next = s.next
	} else {
		g.header.last = s.index.segs[j].first - 1
	}
	for _, old := range group {
		if g.ackedAt = old.ackedAt; old.top > s.cursor.position {
			g.ackedAt = 0
		}
	}
	g.name, g.top = segmentName(g.first, g.gen), g.first-1
	b := m.encode(g)
	g.size, g.disk = int64(len(b)), int64(len(b))

	var doubt error
	err = s.inReserve(func() error {
		f, err := s.replace(g.name, b)
		if err != nil {
			if gone := s.fs.Remove(s.path(g.name)); !errors.Is(gone, fs.ErrNotExist) {
				doubt = errMayComeBack // only the directory's sync failed
			}
			return err
		}
		if active {
			s.file = f
			return nil
		}
		return f.Close()
	})
	if err != nil {
		return 0, fmt.Errorf("rewrite segment %s: %w", g.name, errors.Join(err, doubt))
	}
	for _, old := range group {
		freed += old.disk
	}
	freed -= g.disk
	s.mu.Lock()
	s.index.segs = slices.Replace(slices.Clone(s.index.segs), i, j, g)
	s.stats.Coalesced += int64(m.in - g.count)
	s.mu.Unlock()
	if l != asIs {
		s.log.Info("merged events into longer periods", "segments", len(group), "records", m.in, "into", g.count, "bytes_freed", freed)
	}
	for _, old := range group {
		if err := s.fs.Remove(s.path(old.name)); err != nil {
			s.log.Warn("a segment that was rewritten stays", "segment", old.name, "err", err)
		}
	}
	// A name that comes back is superseded by the generation.
	if err := s.fs.SyncDir(s.dir); err != nil {
		s.log.Warn("sync directory", "err", err)
	}
	s.makeReserve(true)
	s.measure()
	return freed, nil
}

// merger folds records into fewer. A record that was merged from several lies
// where the last of them lay, so that a receipt for any position still covers
// exactly the records that end at or before it.
type merger struct {
	level  level
	at     uint64 // position of the last record added
	outs   []out
	epochs map[string]int // the last event of each epoch, an index of outs
	states map[string]int // the record with the newest checkpoint of each key
	holes  []uint64       // positions of which each is the last of some that are lost
	size   int            // bytes, about
	in     int
}

type out struct {
	entry
	decoded *odometer.Event // once something was merged into it or tried
	merged  bool
	gone    bool
}

func newMerger(l level, first uint64) *merger {
	return &merger{level: l, at: first - 1, epochs: map[string]int{}, states: map[string]int{}}
}

// add takes a record in. It keeps nothing of e's buffers.
func (m *merger) add(e *entry, resumes bool) {
	if e.first > m.at+1 || e.flags&flagAfterLoss != 0 {
		m.holes = append(m.holes, e.first-1)
	}
	m.at = e.position
	m.in++
	o := out{entry: e.clone()}
	o.flags &^= flagAfterLoss
	if resumes {
		o.flags |= flagResumes
	}
	if m.level == asIs {
		m.push(o)
		return
	}
	epoch := string(e.epoch)
	if i, ok := m.epochs[epoch]; ok && len(e.event) > 0 && m.merge(&m.outs[i], &o) {
		m.drop(i)
	}
	key := o.key()
	if i, ok := m.states[key]; ok {
		// Only the newest checkpoint counts; it moves to where it may still
		// be needed.
		older := &m.outs[i]
		switch {
		case len(o.checkpoint) > 0:
		case older.gone || len(older.event) == 0:
			o.checkpoint = older.checkpoint
		}
		if len(o.checkpoint) > 0 && !older.gone {
			m.size -= len(older.checkpoint)
			older.checkpoint = nil
			if len(older.event) == 0 && older.decoded == nil {
				m.size -= older.size()
				older.gone = true
			}
		}
	}
	at := m.push(o)
	if len(o.event) > 0 {
		m.epochs[epoch] = at
	}
	if len(o.checkpoint) > 0 {
		m.states[key] = at
	}
}

func (m *merger) push(o out) int {
	m.size += o.size()
	m.outs = append(m.outs, o)
	return len(m.outs) - 1
}

func (m *merger) drop(i int) {
	m.size -= m.outs[i].size()
	m.outs[i].gone = true
}

// merge makes next the event that covers both, and reports whether that can
// be: whether they are adjacent, and within one hour where that is asked for.
func (m *merger) merge(previous, next *out) bool {
	for _, o := range []*out{previous, next} {
		if o.decoded == nil {
			e, err := odometer.DecodeBinary(o.event)
			if err != nil {
				return false // it goes as it is, for the ledger to refuse
			}
			o.decoded = e
		}
	}
	a, b := previous.decoded, next.decoded
	if m.level == withinHour && odometer.Hour(a.Span.Start) != odometer.Hour(b.Span.End-1) {
		return false
	}
	both := *a
	if err := both.Merge(b); err != nil {
		return false
	}
	next.decoded, next.merged = &both, true
	next.time = previous.time
	next.flags |= previous.flags & flagResumes
	return true
}

// encode writes the segment and fills in what g says of it.
func (m *merger) encode(g *segment) []byte {
	w := batches{b: g.header.append(make([]byte, 0, m.size+m.size/64+4096))}
	previous, h := g.first-1, 0
	for i := range m.outs {
		o := &m.outs[i]
		if o.gone {
			continue
		}
		if o.merged {
			o.event = o.decoded.AppendBinary(nil)
		}
		o.first = previous + 1
		for ; h < len(m.holes) && m.holes[h] < o.position; h++ {
			o.flags |= flagAfterLoss
		}
		previous = o.position
		if w.n == 0 {
			g.add(mark{o.position, int64(len(w.b)), g.count}, 0, g.top)
		}
		g.count++
		g.top = o.position
		w.add(&o.entry)
	}
	return w.end()
}
