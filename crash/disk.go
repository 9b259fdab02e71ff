package main

import (
	"fmt"
	"hash/maphash"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"example.org/odometer/crash/trace"
)

// disk is a directory as a file system keeps it: what is synced, and what is
// only in memory so far. It is fed the calls of a recording, in order, and
// tells what may be found after a power cut.
//
// What a power cut may leave is as bad as POSIX allows and disks do:
//
//   - The content of a file is durable up to its last fsync; of each later
//     write, truncation and allocation anything may have reached the disk:
//     nothing, all, single sectors of 512 bytes, single pages of 4096, or the
//     new size without the bytes (which are then zero), independently of each
//     other. Bytes outside of what was written do not change.
//   - A name (created, renamed, removed) is durable after an fsync of the
//     directory that it is in, and not by that of the file. Of each later
//     change of names, in whatever order, any may have reached the disk; a
//     rename has or has not, but never half.
//   - Names and contents do not wait for each other.
type disk struct {
	root  *node
	nodes map[uint64]*node // by inode, as the recorded file system numbers them
	calls int
}

// node is a file or a directory.
type node struct {
	dir bool
	// Of a file: what is durable, and the changes since.
	content []byte
	writes  []change
	// Of a directory: the names that are durable, the changes since, and the
	// names as the program sees them.
	names   map[string]*node
	renames []renaming
	now     map[string]*node
}

// change is a change of a file's content that is not durable yet.
type change struct {
	call int
	op   trace.Op // Write, Truncate, Allocate
	at   int64
	data []byte
	size int64
}

// renaming is a change of names that is not durable yet.
type renaming struct {
	call  int
	names map[string]*node // nil for removed
	other *node            // the other directory of a rename between two, which takes part in it
	moved map[string]*node // what it changes there
}

func newDir() *node {
	return &node{dir: true, names: map[string]*node{}, now: map[string]*node{}}
}

// newDisk returns a disk with what is there, durably: nothing, as a rule. Files
// are known by their inodes.
func newDisk(there state, inodes map[string]uint64) *disk {
	d := &disk{root: newDir(), nodes: map[uint64]*node{}}
	for _, name := range slices.Sorted(maps.Keys(there)) { // a directory before what is in it
		n := newDir()
		if there[name] != nil {
			n = &node{content: slices.Clone(there[name])}
		}
		d.nodes[inodes[name]] = n
		in, base := d.find(path.Dir(name)), path.Base(name)
		in.names[base], in.now[base] = n, n
	}
	return d
}

// find returns what has a name now.
func (d *disk) find(name string) *node {
	n := d.root
	if name == "." {
		return n
	}
	for part := range strings.SplitSeq(name, "/") {
		if n == nil || !n.dir {
			return nil
		}
		n = n.now[part]
	}
	return n
}

// apply takes in the next call. It returns an error for one whose effect it
// does not know.
func (d *disk) apply(c *trace.Call) error {
	d.calls++
	if c.Err != 0 {
		return nil
	}
	unknown := func() error { return fmt.Errorf("call %v is not understood: %s of inode %d", c, c.Op, c.File) }
	switch c.Op {
	case trace.Mkdir:
		if c.Path == "." {
			return nil // its own name lies elsewhere, and is taken for durable
		}
		d.name(c.Path, newDir())
	case trace.Open:
		if c.Created {
			n := &node{}
			d.nodes[c.File] = n
			d.name(c.Path, n)
		} else if c.Emptied {
			n := d.find(c.Path)
			if n == nil {
				return unknown()
			}
			n.writes = append(n.writes, change{call: d.calls, op: trace.Truncate})
		}
	case trace.Rename:
		n := d.find(c.Path)
		from, to := d.find(path.Dir(c.Path)), d.find(path.Dir(c.To))
		if n == nil || to == nil {
			return unknown()
		}
		r := renaming{call: d.calls, names: map[string]*node{path.Base(c.To): n}}
		if from == to {
			r.names[path.Base(c.Path)] = nil
		} else {
			r.other, r.moved = from, map[string]*node{path.Base(c.Path): nil}
		}
		to.rename(r)
	case trace.Unlink:
		if d.find(c.Path) == nil {
			return unknown()
		}
		d.name(c.Path, nil)
	case trace.Link:
		n := d.find(c.Path)
		if n == nil {
			return unknown()
		}
		d.name(c.To, n)
	case trace.Write, trace.Truncate, trace.Allocate:
		n := d.nodes[c.File]
		if n == nil {
			return unknown()
		}
		n.writes = append(n.writes, change{call: d.calls, op: c.Op, at: c.Offset, data: c.Data, size: c.Size})
		if c.Durable {
			n.sync()
		}
	case trace.Sync:
		n := d.nodes[c.File]
		if c.IsDir {
			n = d.find(c.Path)
		}
		if n == nil {
			return unknown()
		}
		n.sync()
	case trace.Range:
		// It promises nothing.
	default:
		return unknown()
	}
	return nil
}

// name gives a path to a node, or to none.
func (d *disk) name(p string, n *node) {
	d.find(path.Dir(p)).rename(renaming{call: d.calls, names: map[string]*node{path.Base(p): n}})
}

func (n *node) rename(r renaming) {
	n.renames = append(n.renames, r)
	set(n.now, r.names)
	if r.other != nil {
		set(r.other.now, r.moved)
	}
}

func set(names, changed map[string]*node) {
	for name, n := range changed {
		if n == nil {
			delete(names, name)
		} else {
			names[name] = n
		}
	}
}

// sync makes everything durable that is not.
func (n *node) sync() {
	for _, c := range n.writes {
		n.content = c.apply(n.content)
	}
	n.writes = nil
	for _, r := range n.renames {
		set(n.names, r.names)
		if r.other != nil {
			set(r.other.names, r.moved)
		}
	}
	n.renames = nil
}

// apply returns content, which it may change, after the whole change.
func (c *change) apply(content []byte) []byte {
	switch c.op {
	case trace.Truncate:
		return resize(content, c.size)
	case trace.Allocate:
		return resize(content, max(c.size, int64(len(content))))
	}
	content = resize(content, max(int64(len(content)), c.at+int64(len(c.data))))
	copy(content[c.at:], c.data)
	return content
}

func resize(content []byte, size int64) []byte {
	if size <= int64(len(content)) {
		return content[:size]
	}
	return append(content, make([]byte, size-int64(len(content)))...)
}

// fate decides what of the changes that are not durable reached the disk.
type fate struct {
	name string
	// write returns what of a change did: nil for nothing. It may return
	// more than one change in place of it.
	write func(r *rand.Rand, c change, last int) []change
	// renamed says whether a change of names did.
	renamed func(r *rand.Rand, call, last int) bool
}

func all(_ *rand.Rand, c change, _ int) []change { return []change{c} }
func none(*rand.Rand, change, int) []change      { return nil }

// fates are what may happen to a disk in a power cut. Each is one state; those
// that draw at random can be another each time.
var fates = []fate{
	{"nothing unsynced", none, func(*rand.Rand, int, int) bool { return false }},
	{"everything", all, func(*rand.Rand, int, int) bool { return true }},
	{"names, not contents", none, func(*rand.Rand, int, int) bool { return true }},
	{"contents, not names", all, func(*rand.Rand, int, int) bool { return false }},
	{"a part, in order, and a torn end", inOrder, func(_ *rand.Rand, call, last int) bool { return call <= last }},
	{"any part, in any order", anyPart, func(r *rand.Rand, _, _ int) bool { return r.IntN(2) == 0 }},
	{"most, torn", mostTorn, func(r *rand.Rand, _, _ int) bool { return r.IntN(8) > 0 }},
}

// inOrder is a disk that writes in the order of the calls up to one of them,
// of which a part is written.
func inOrder(r *rand.Rand, c change, last int) []change {
	switch {
	case c.call < last:
		return []change{c}
	case c.call > last:
		return nil
	case c.op != trace.Write || len(c.data) == 0:
		return nil
	}
	const sector = 512
	n := r.Int64N(int64(len(c.data))/sector+1) * sector
	if over := (c.at + n) % sector; n > 0 && over > 0 {
		n = max(0, n-over)
	}
	c.data = c.data[:n]
	return []change{c}
}

// anyPart is a disk that writes whatever it likes.
func anyPart(r *rand.Rand, c change, _ int) []change {
	switch r.IntN(4) {
	case 0:
		return nil
	case 1:
		return torn(r, c)
	default:
		return []change{c}
	}
}

// mostTorn writes nearly everything, and little of that whole.
func mostTorn(r *rand.Rand, c change, _ int) []change {
	switch r.IntN(8) {
	case 0:
		return nil
	case 1, 2, 3:
		return torn(r, c)
	default:
		return []change{c}
	}
}

// torn returns some of the sectors, or pages, of a write, and perhaps the size
// that the file has with all of them.
func torn(r *rand.Rand, c change) []change {
	if c.op != trace.Write {
		return []change{c}
	}
	unit := []int64{512, 4096}[r.IntN(2)]
	var parts []change
	if r.IntN(2) == 0 {
		parts = append(parts, change{call: c.call, op: trace.Allocate, size: c.at + int64(len(c.data))})
	}
	for from := int64(0); from < int64(len(c.data)); {
		to := min(int64(len(c.data)), (c.at+from)/unit*unit+unit-c.at)
		if r.IntN(2) == 0 {
			parts = append(parts, change{call: c.call, op: trace.Write, at: c.at + from, data: c.data[from:to]})
		}
		from = to
	}
	return parts
}

// state is a directory as it may be found: the files with their contents, and
// nil for directories.
type state map[string][]byte

// after returns what may be found when the power fails now.
func (d *disk) after(f fate, r *rand.Rand) state {
	// The last call of which anything is written, where that matters.
	last := d.calls
	if open := d.open(); len(open) > 0 {
		last = open[r.IntN(len(open))]
	}
	// Names first: which change took place is decided once for each, also of
	// those that concern two directories.
	names := map[*node]map[string]*node{}
	seen := func(n *node) map[string]*node {
		if names[n] == nil {
			names[n] = maps.Clone(n.names)
		}
		return names[n]
	}
	dirs := d.dirs()
	var pending []struct {
		in *node
		renaming
	}
	for _, n := range dirs {
		for _, c := range n.renames {
			pending = append(pending, struct {
				in *node
				renaming
			}{n, c})
		}
	}
	slices.SortFunc(pending, func(a, b struct {
		in *node
		renaming
	}) int {
		return a.call - b.call
	})
	for _, c := range pending {
		if f.renamed(r, c.call, last) {
			set(seen(c.in), c.names)
			if c.other != nil {
				set(seen(c.other), c.moved)
			}
		}
	}
	s := state{}
	var walk func(at string, n *node)
	walk = func(at string, n *node) {
		if !n.dir {
			content := slices.Clone(n.content)
			for _, c := range n.writes {
				for _, part := range f.write(r, c, last) {
					content = part.apply(content)
				}
			}
			s[at] = append([]byte{}, content...)
			return
		}
		if at != "" {
			s[at] = nil
		}
		now := seen(n)
		for _, name := range slices.Sorted(maps.Keys(now)) {
			walk(path.Join(at, name), now[name])
		}
	}
	walk("", d.root)
	return s
}

// dirs returns every directory that is still named, now or durably.
func (d *disk) dirs() []*node {
	seen := map[*node]bool{}
	var list []*node
	var walk func(n *node)
	walk = func(n *node) {
		if !n.dir || seen[n] {
			return
		}
		seen[n] = true
		list = append(list, n)
		for _, m := range []map[string]*node{n.names, n.now} {
			for _, name := range slices.Sorted(maps.Keys(m)) {
				walk(m[name])
			}
		}
		for _, c := range n.renames {
			for _, name := range slices.Sorted(maps.Keys(c.names)) {
				if next := c.names[name]; next != nil {
					walk(next)
				}
			}
		}
	}
	walk(d.root)
	return list
}

// open returns the calls whose effects are not durable, in order.
func (d *disk) open() []int {
	var calls []int
	seen := map[*node]bool{}
	for _, dir := range d.dirs() {
		for _, c := range dir.renames {
			calls = append(calls, c.call)
		}
		for _, m := range []map[string]*node{dir.names, dir.now} {
			for _, n := range m {
				if !n.dir && !seen[n] {
					seen[n] = true
					for _, c := range n.writes {
						calls = append(calls, c.call)
					}
				}
			}
		}
	}
	slices.Sort(calls)
	return slices.Compact(calls)
}

// shm is what SQLite maps into memory, and rebuilds.
const shm = "-shm"

// unmap puts into the files that are mapped into memory what a power cut may
// leave there: anything.
func (s state) unmap(r *rand.Rand) {
	for name, b := range s {
		if !strings.HasSuffix(name, shm) {
			continue
		}
		switch r.IntN(3) {
		case 0:
			delete(s, name)
		case 1:
			clear(b)
		default:
			for i := range b {
				b[i] = byte(r.Uint32())
			}
		}
	}
}

var seed = maphash.MakeSeed()

// sum tells states apart.
func (s state) sum() uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, name := range slices.Sorted(maps.Keys(s)) {
		if strings.HasSuffix(name, shm) {
			continue
		}
		fmt.Fprintf(&h, "%s %v %d\n", name, s[name] == nil, len(s[name]))
		h.Write(s[name])
	}
	return h.Sum64()
}

// write builds the directory.
func (s state) write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(s)) { // a directory before what is in it
		var err error
		if at := filepath.Join(dir, name); s[name] == nil {
			err = os.MkdirAll(at, 0o700)
		} else {
			err = os.WriteFile(at, s[name], 0o600)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// read returns the state that a directory is in.
func read(dir string) (state, error) {
	s := state{}
	err := filepath.WalkDir(dir, func(at string, e fs.DirEntry, err error) error {
		if err != nil || at == dir {
			return err
		}
		name, err := filepath.Rel(dir, at)
		if err != nil {
			return err
		}
		if e.IsDir() {
			s[name] = nil
			return nil
		}
		b, err := os.ReadFile(at)
		s[name] = append([]byte{}, b...)
		return err
	})
	return s, err
}

// differs returns how another state differs, "" where it does not, in all but
// what is mapped into memory.
func (s state) differs(other state) string {
	for _, name := range slices.Sorted(maps.Keys(merged(s, other))) {
		a, here := s[name]
		b, there := other[name]
		switch {
		case strings.HasSuffix(name, shm):
		case here != there:
			return fmt.Sprintf("%s is there: %v and %v", name, here, there)
		case (a == nil) != (b == nil):
			return name + " is a directory in one and a file in the other"
		case string(a) != string(b):
			return fmt.Sprintf("%s has %d and %d bytes, and not the same", name, len(a), len(b))
		}
	}
	return ""
}

func merged(a, b state) state {
	m := maps.Clone(a)
	maps.Copy(m, b)
	return m
}
