package spool

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"example.org/odometer/internal/memfs"
)

// A large spool is verified on all cores. What is found is what a walk through
// one segment after the other finds, whatever is damaged and wherever.
func TestReadingAheadFindsTheSame(t *testing.T) {
	base := memfs.New()
	o := roomy()
	s := open(t, base, o)
	for i := range 3 {
		fill(t, s, newSource(i), 1, 8)
	}
	ack(t, s, receipt(s, 5))
	segments := len(s.index.segs)
	_ = s.Close()
	if segments < 6 {
		t.Fatalf("%d segments, want several", segments)
	}
	var names []string
	for _, name := range base.Names() {
		if strings.HasSuffix(name, segmentSuffix) {
			names = append(names, name)
		}
	}
	named := 0
	for seed := range 400 / stride() {
		r := rand.New(rand.NewPCG(uint64(seed), 3))
		damaged := base.Restarted()
		for range r.IntN(4) {
			name := names[r.IntN(len(names))]
			data := damaged.Data(name)
			switch {
			case data == nil:
			case r.IntN(8) == 0:
				damaged.Drop(name)
			case r.IntN(4) == 0:
				damaged.Set(name, data[:r.IntN(len(data))])
			default:
				damaged.Rot(name, r.IntN(8*len(data)))
			}
		}
		var found [2]*Spool
		for i, parallel := range []int64{0, 1} {
			o.parallel = parallel
			found[i] = open(t, damaged.Restarted(), o)
		}
		named += len(found[0].Stats().Damage)
		for i, what := range []func(*Spool) any{
			func(s *Spool) any { return s.Stats().Damage },
			func(s *Spool) any { return [3]uint64{s.last, s.next, s.Stats().Corrupt} },
			func(s *Spool) any { return s.index.resumes },
			func(s *Spool) any { return s.index.since },
			func(s *Spool) any { return s.Checkpoints() },
			func(s *Spool) any { return ids(all(t, s, 0)) },
			func(s *Spool) any {
				var all []any
				for _, g := range s.index.segs {
					all = append(all, g.name, g.size, g.top, g.count, g.marks, g.flaws)
				}
				return all
			},
		} {
			if one, both := what(found[0]), what(found[1]); !reflect.DeepEqual(one, both) {
				t.Fatalf("seed %d, figure %d: one by one %v, read ahead %v", seed, i, one, both)
			}
		}
		for _, s := range found {
			_ = s.Close()
		}
	}
	if named == 0 {
		t.Error("nothing was damaged: the test proves nothing")
	}
}

// A segment that is too long to be read ahead is read as it is walked through,
// and one that cannot be opened is an error that names it.
func TestWhatIsNotReadAhead(t *testing.T) {
	fs := memfs.New()
	o := roomy()
	s := open(t, fs, o)
	fill(t, s, newSource(1), 1, 12)
	long := s.index.segs[1]
	padded := append(fs.Data(s.path(long.name)), make([]byte, maxAhead)...)
	_ = s.Close()
	fs.Set(filepath.Join(testDir, long.name), padded)
	o.parallel = 1
	s = open(t, fs, o)
	if got := len(all(t, s, 0)); got != 12 {
		t.Errorf("%d records, want 12", got)
	}
	name := s.index.segs[2].name
	_ = s.Close()

	o.Dir, o.FS = testDir, unopenable{fs, name, new(int)}
	if _, err := Open(o); !errors.Is(err, errIO) || !strings.Contains(err.Error(), "read segment "+name) {
		t.Errorf("got %v, want the disk's error and %s", err, name)
	}
}

// unopenable is a file system where one file cannot be opened a second time.
type unopenable struct {
	FS
	name string
	n    *int
}

func (u unopenable) Open(path string) (File, error) {
	if filepath.Base(path) == u.name {
		if *u.n++; *u.n > 1 {
			return nil, errIO
		}
	}
	return u.FS.Open(path)
}
