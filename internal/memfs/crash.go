package memfs

import (
	"hash/maphash"
	"iter"
	"maps"
	"math/rand/v2"
	"slices"
)

// inode is a file apart from its names.
type inode struct {
	data []byte // what is visible
	disk []byte // what every power cut leaves, but for ops
	ops  []op   // what has changed since, in order
}

// op is a change of a file: data that was written at off, or a change of the
// size alone.
type op struct {
	off  int
	data []byte
	size int // of the file afterwards
	fate fate
}

// fate is what is known of a change.
type fate int

const (
	pending fate = iota // the next Sync makes it durable
	lost                // a Sync failed: nothing does any more, and it may be on the disk
	durable             // what was lost lies below it
)

// version is what a name has been since the directory was synced, nil for
// removed.
type version struct {
	inode *inode
	lost  bool // the directory's sync failed
}

// name makes a name stand for a file, or for none.
func (m *FS) name(p string, i *inode) {
	if i == nil {
		delete(m.names, p)
	} else {
		m.names[p] = i
	}
	m.since[p] = append(m.since[p], version{inode: i})
}

func (i *inode) write(b []byte) {
	off := len(i.data)
	i.data = append(i.data, b...)
	i.ops = append(i.ops, op{off: off, data: slices.Clone(b), size: len(i.data)})
}

func (i *inode) resize(size int) {
	i.data = resized(i.data, size)
	i.ops = append(i.ops, op{size: size})
}

func resized(b []byte, size int) []byte {
	if size <= len(b) {
		return b[:size:size] // so that growing again gives zeros
	}
	return append(slices.Clip(b), make([]byte, size-len(b))...)
}

// settle gives what is pending its fate.
func (i *inode) settle(f fate) {
	for n := range i.ops {
		if i.ops[n].fate == pending {
			i.ops[n].fate = f
		}
	}
	for len(i.ops) > 0 && i.ops[0].fate == durable {
		i.disk = i.ops[0].apply(slices.Clone(i.disk))
		i.ops = i.ops[1:]
	}
}

// apply makes the whole change.
func (o *op) apply(b []byte) []byte {
	b = resized(b, o.size)
	copy(b[o.off:], o.data)
	return b
}

// tear clears what lies before the first pending change in its page: a write
// of the page was begun and did not end well.
func (i *inode) tear() {
	for _, o := range i.ops {
		if o.fate == pending && o.data != nil {
			if o.off <= len(i.disk) {
				clear(i.disk[o.off/page*page : o.off])
			}
			return
		}
	}
}

// Crashes yields what a power cut at this moment may leave on the disk. What
// was synced is there. Of what was not:
//
//   - each written stretch is there or not, in pieces cut at the multiples of
//     sector, whatever is there of the others; where it is not, there is what was
//     there before, or zeros;
//   - the size is any that the file has had;
//   - each name is what it was at the sync, or anything that it has been since,
//     whatever becomes of the others.
//
// All of them are yielded where there are no more than most, with repetitions
// where the differences are in files that no name reaches; otherwise that many:
// nothing unsynced, everything unsynced, and ones that r picks. Total, where it
// is not nil, is how many there are, or a very large number.
func (m *FS) Crashes(sector, most int, r *rand.Rand, total *float64) iter.Seq[*FS] {
	m.mu.Lock()
	now := m.clone()
	m.mu.Unlock()
	d := now.doubts(sector)
	n := d.total()
	if total != nil {
		*total = n
	}
	return func(yield func(*FS) bool) {
		if n <= float64(most) {
			for pick := make([]int, len(d.options)); ; {
				if !yield(now.crash(d, pick)) || !d.step(pick) {
					return
				}
			}
		}
		for k := range most {
			if !yield(now.crash(d, d.pick(k, r))) {
				return
			}
		}
	}
}

// PowerCut is the file system after the power failed: what was synced is
// there; of what was not, r decides. With a nil r nothing of it is there.
func (m *FS) PowerCut(r *rand.Rand) *FS {
	sector, k := page, 0
	if r != nil {
		sector, k = []int{64, 512, page}[r.IntN(3)], 2
	}
	m.mu.Lock()
	now := m.clone()
	m.mu.Unlock()
	d := now.doubts(sector)
	return now.crash(d, d.pick(k, r))
}

// doubts are what a power cut decides: a list of choices, each with a number
// of options, 0 for the oldest.
type doubts struct {
	sector  int
	paths   []string // a choice of version each
	inodes  []*inode // a choice of size each, and one for each piece of its ops
	options []int
}

func (m *FS) doubts(sector int) *doubts {
	d := &doubts{sector: sector, paths: slices.Sorted(maps.Keys(m.since))}
	seen := map[*inode]bool{}
	see := func(i *inode) {
		if i != nil && !seen[i] && len(i.ops) > 0 {
			seen[i] = true
			d.inodes = append(d.inodes, i)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(m.durable)) {
		see(m.durable[p])
	}
	for _, p := range d.paths {
		d.options = append(d.options, 1+len(m.since[p]))
		for _, v := range m.since[p] {
			see(v.inode)
		}
	}
	for _, i := range d.inodes {
		d.options = append(d.options, 1+len(i.ops)-i.known())
		for _, o := range i.ops {
			if o.fate != durable {
				for range o.pieces(sector) {
					d.options = append(d.options, 2)
				}
			}
		}
	}
	return d
}

// known is how many ops the size must reflect.
func (i *inode) known() int {
	for n := len(i.ops); n > 0; n-- {
		if i.ops[n-1].fate == durable {
			return n
		}
	}
	return 0
}

// pieces yields the data of a write, cut at the multiples of sector.
func (o *op) pieces(sector int) iter.Seq2[int, []byte] {
	return func(yield func(int, []byte) bool) {
		for from := o.off; from < o.off+len(o.data); {
			to := min((from/sector+1)*sector, o.off+len(o.data))
			if !yield(from, o.data[from-o.off:to-o.off]) {
				return
			}
			from = to
		}
	}
}

func (d *doubts) total() float64 {
	n := 1.0
	for _, o := range d.options {
		n *= float64(o)
	}
	return n
}

// step goes on to the next pick, and reports whether there was one.
func (d *doubts) step(pick []int) bool {
	for i := range pick {
		if pick[i]++; pick[i] < d.options[i] {
			return true
		}
		pick[i] = 0
	}
	return false
}

// pick is the k-th of some picks: none, all, and what r says.
func (d *doubts) pick(k int, r *rand.Rand) []int {
	pick := make([]int, len(d.options))
	if k == 0 {
		return pick
	}
	of := 2 // of so many choices one is the less likely option
	if k > 1 {
		of = []int{2, 2, 8, 8}[r.IntN(4)]
	}
	turned := k > 1 && r.IntN(2) == 0
	for i, n := range d.options {
		switch {
		case k == 1:
			pick[i] = n - 1
		case n > 2 || of == 2:
			pick[i] = r.IntN(n)
		case (r.IntN(of) == 0) != turned:
			pick[i] = n - 1
		}
	}
	return pick
}

// crash is the file system after a power cut with that outcome.
func (m *FS) crash(d *doubts, pick []int) *FS {
	names := maps.Clone(m.durable)
	for i, p := range d.paths {
		if v := pick[i]; v > 0 {
			names[p] = m.since[p][v-1].inode
		}
	}
	pick = pick[len(d.paths):]
	left := map[*inode][]byte{}
	for _, i := range d.inodes {
		left[i], pick = i.crash(d.sector, pick)
	}
	n := New()
	n.Limit = m.Limit
	for p, i := range names {
		if i == nil {
			continue
		}
		b, ok := left[i]
		if !ok {
			b = i.disk
		}
		n.names[p] = &inode{data: slices.Clone(b), disk: slices.Clone(b)}
		n.durable[p] = n.names[p]
	}
	return n
}

// crash is the content of the file after a power cut. It returns what of pick
// it did not use.
func (i *inode) crash(sector int, pick []int) (b []byte, rest []int) {
	applied := i.known() + pick[0] // as far as the size goes
	pick = pick[1:]
	b = slices.Clone(i.disk)
	size := len(b)
	for n, o := range i.ops {
		if n < applied {
			size = o.size
			if size < len(b) {
				b = b[:size:size] // what is written there later lies on zeros
			}
		}
		if o.fate == durable {
			b = resized(b, max(len(b), o.off+len(o.data)))
			copy(b[o.off:], o.data)
			continue
		}
		for off, piece := range o.pieces(sector) {
			if pick[0] == 1 {
				b = resized(b, max(len(b), off+len(piece)))
				copy(b[off:], piece)
			}
			pick = pick[1:]
		}
	}
	return resized(b, size), pick
}

var seed = maphash.MakeSeed()

// Sum tells file systems of different content apart, within one process.
func (m *FS) Sum() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var h maphash.Hash
	h.SetSeed(seed)
	for _, p := range slices.Sorted(maps.Keys(m.names)) {
		maphash.WriteComparable(&h, p)
		maphash.WriteComparable(&h, len(m.names[p].data))
		h.Write(m.names[p].data)
	}
	return h.Sum64()
}
