package spool

import (
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	segmentSuffix = ".seg"
	tempSuffix    = ".tmp"
	markSpacing   = 16 << 10
	// unknownBatch is more records than any batch has: so many positions are
	// left out where a batch's header cannot be read.
	unknownBatch = maxBatch / minRecord
)

// segment is one file of records. Its header fields never change; the others
// belong to the index and are guarded by [Spool.mu].
type segment struct {
	header
	name    string
	bad     error          // why the header is unreadable, nil when it is not
	size    int64          // bytes that hold accepted records
	disk    int64          // bytes that the file takes
	top     uint64         // position of the last readable record; first-1 when there is none
	count   int            // readable records
	marks   []mark         // where some batches begin, in order
	flaws   map[int64]bool // offsets of unreadable stretches that are known
	ackedAt int64          // when receipts passed top, microseconds; 0 before
	barren  [levels]barren // see coalesce.go
}

// sound reports whether it has records, all of them readable, and no more than
// can be copied at once.
func (g *segment) sound() bool {
	return g.count > 0 && g.bad == nil && len(g.flaws) == 0 && g.size <= maxGroup
}

// void reports whether nothing was ever written to it.
func (g *segment) void() bool { return g.header.last == 0 && g.size <= headerSize }

// overlaps reports whether one of the two covers the other's first position.
// How far one reaches that was not rewritten is not known.
func (g *segment) overlaps(o *segment) bool {
	return g.first == o.first || g.first < o.first && o.first <= g.header.last || o.first < g.first && g.first <= o.header.last
}

// mark says that the batch at off begins with the record of this position,
// which has ordinal records before it in the segment.
type mark struct {
	position uint64
	off      int64
	ordinal  int
}

// seek returns the last mark from which reading finds everything after pos.
func (g *segment) seek(pos uint64) mark {
	best := mark{off: headerSize}
	for _, m := range g.marks {
		if m.position > pos {
			break
		}
		best = m
	}
	return best
}

func (g *segment) add(m mark, entries int, top uint64) {
	if n := len(g.marks); n == 0 || m.off-g.marks[n-1].off >= markSpacing {
		g.marks = append(g.marks, m)
	}
	g.count += entries
	g.top = top
}

func segmentName(first uint64, gen uint32) string {
	return fmt.Sprintf("%020d-%d%s", first, gen, segmentSuffix)
}

func parseSegmentName(name string) (first uint64, gen uint32, ok bool) {
	stem, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok {
		return 0, 0, false
	}
	a, b, ok := strings.Cut(stem, "-")
	first, err := strconv.ParseUint(a, 10, 64)
	g, err2 := strconv.ParseUint(b, 10, 32)
	if !ok || err != nil || err2 != nil || segmentName(first, uint32(g)) != name {
		return 0, 0, false
	}
	return first, uint32(g), true
}

// Damage is one stretch of the spool that could not be read.
type Damage struct {
	Segment string // file name; "" for positions that lie in no file
	Offset  int64
	// First and Last are the positions that were lost, both 0 when none was.
	First, Last uint64
	Reason      string
}

func (d Damage) String() string {
	var b strings.Builder
	if d.Segment != "" {
		fmt.Fprintf(&b, "segment %s at byte %d: ", d.Segment, d.Offset)
	}
	b.WriteString(d.Reason)
	if d.Last > 0 {
		fmt.Fprintf(&b, "; positions %d to %d are lost", d.First, d.Last)
	}
	return b.String()
}

// index is what a scan of the segments finds.
type index struct {
	segs []*segment // in order of position; the last one is appended to
	top  uint64     // position of the last readable record

	// After a stretch of positions that are gone: the records that are the
	// first of their epoch since, and the epochs that there have been since
	// (nil where nothing is gone).
	resumes map[uint64]bool
	since   map[string]bool

	damage []Damage
	lost   uint64 // positions
	acked  uint64 // receipts reach this far
	freed  uint64 // the last position of what is gone between receipted segments
	torn   *flaw  // tail of the last segment
	burnt  uint64 // with torn: no position below may be given any more
}

// gap notes that the positions first to last are gone. Where they are receipted
// and nothing unreadable is in their place they were freed: a power cut may bring
// back the name of an older segment and not theirs.
func (x *index) gap(first, last uint64, where []Damage) {
	if last <= x.acked && len(where) == 0 {
		x.freed = last
		return
	}
	x.since = map[string]bool{}
	x.lost += last - first + 1
	if len(where) == 0 {
		where = []Damage{{Reason: "nothing is here"}}
	}
	for _, d := range where {
		d.First, d.Last = first, last
		x.damage = append(x.damage, d)
	}
}

// see notes a record in order of position.
func (x *index) see(e *entry) {
	if x.since != nil && len(e.event) > 0 && !x.since[string(e.epoch)] {
		x.since[string(e.epoch)] = true
		x.resumes[e.position] = true
	}
}

// scan reads every segment and builds the index anew. While opening, the last
// segment is read to its end and may have a torn tail, and last and next are
// found; later, sizes and positions are known. See is called for every readable
// record in order.
func (s *Spool) scan(segs []*segment, opening bool, see func(*entry)) (*index, error) {
	x := &index{segs: segs, resumes: map[uint64]bool{}, acked: s.cursor.position}
	if len(segs) == 0 {
		s.last, s.next = s.cursor.position, s.cursor.position+1
		x.top = s.last
		return x, nil
	}
	at := segs[0].first - 1
	if s.cursor.position < at {
		x.gap(s.cursor.position+1, at, []Damage{{Reason: "freed or missing, and the ledger asks for it"}})
	}
	x.top = at
	from := func(int) *block { return nil }
	if total := sizes(segs); total >= s.parallel {
		a := s.readAhead(segs[:len(segs)-1]) // the last one's end is still to be found
		defer a.stop()
		var last *block
		from = func(i int) *block {
			a.done(last)
			if last = nil; i < len(segs)-1 {
				last = a.take(i)
			}
			return last
		}
	}
	for i, g := range segs {
		limit, final := ^uint64(0), i == len(segs)-1
		if !final {
			limit = segs[i+1].first
		}
		if g.first > at+1 {
			x.gap(at+1, g.first-1, nil)
		}
		at = max(at, g.first-1)
		var err error
		if at, err = s.scanSegment(x, g, from(i), at, limit, final && opening, see); err != nil {
			return nil, fmt.Errorf("read segment %s: %w", g.name, err)
		}
		if final && opening {
			s.last = at
			s.next = max(at+1, g.next, s.cursor.position+1)
			if g.bad != nil {
				s.next = max(s.next, g.first+unknownBatch) // how far its header allowed is unknown
			}
			if x.torn != nil {
				s.next = max(s.next, x.burnt)
			}
		}
	}
	return x, nil
}

// scanSegment reads one segment, or takes what was read ahead of it. At is the last position before it; it returns
// the last position in it. Positions from limit on are not the segment's.
func (s *Spool) scanSegment(x *index, g *segment, read *block, at, limit uint64, tail bool, see func(*entry)) (uint64, error) {
	var f File
	if read == nil {
		var err error
		if f, err = s.fs.Open(s.path(g.name)); err != nil {
			return 0, err
		}
		defer f.Close()
	}
	if tail {
		var err error
		if g.size, err = f.Size(); err != nil {
			return 0, err
		}
		g.disk = g.size
	}
	g.top, g.count, g.marks, g.flaws = g.first-1, 0, nil, map[int64]bool{}
	var pending []Damage // unreadable stretches whose positions are not known yet
	if g.bad != nil && g.size > headerSize {
		x.damage = append(x.damage, Damage{Segment: g.name, Reason: g.bad.Error()})
	}
	settle := func() { // nothing is missing around them
		x.damage = append(x.damage, pending...)
		pending = nil
	}
	sc := chunks(read)
	if read == nil {
		sc = newScanner(f, headerSize, g.size)
	}
	beyond := false
	for !beyond {
		c, more, err := sc.next()
		if err != nil {
			return 0, err
		}
		if !more {
			break
		}
		if tail && !c.whole() {
			later, err := newScanner(f, c.end, g.size).find(c.end)
			if err != nil {
				return 0, err
			}
			if later >= g.size {
				x.torn = &flaw{c.off, g.size, c.flaws[0].reason}
				if x.burnt = c.batch.last + 1; c.batch.last == 0 {
					x.burnt = at + unknownBatch + 1
				}
				g.size = c.off
				break
			}
		}
		flaws := c.flaws
		flawed := func(before int64) {
			for len(flaws) > 0 && flaws[0].off < before {
				g.flaws[flaws[0].off] = true
				pending = append(pending, Damage{Segment: g.name, Offset: flaws[0].off, Reason: flaws[0].reason})
				flaws = flaws[1:]
			}
		}
		ordinal, first := g.count, uint64(0)
		n := 0
		for i := range c.entries {
			e := &c.entries[i]
			flawed(e.off)
			if e.position >= limit {
				beyond = true // what an Append that failed left behind
				break
			}
			if e.position <= at {
				pending = append(pending, Damage{Segment: g.name, Offset: e.off, Reason: fmt.Sprintf("position %d is here again", e.position)})
				continue
			}
			if e.flags&flagAfterLoss != 0 {
				x.since = map[string]bool{}
			}
			if e.first > at+1 {
				x.gap(at+1, e.first-1, pending)
				pending = nil
			}
			settle()
			if n == 0 {
				first = e.position
			}
			n++
			at = e.position
			x.see(e)
			see(e)
		}
		flawed(c.end)
		if n > 0 {
			g.add(mark{first, c.off, ordinal}, n, at)
			x.top = at
		}
	}
	end := limit - 1
	if limit == ^uint64(0) {
		end = max(at, s.last)
	}
	if end > at && !(limit == ^uint64(0) && x.torn != nil) {
		x.gap(at+1, end, pending)
		at = end
	}
	// Unreadable bytes behind the last accepted record of a sealed segment
	// are what is left of a torn tail or of an Append that failed.
	return at, nil
}

func (s *Spool) path(name string) string { return filepath.Join(s.dir, name) }
