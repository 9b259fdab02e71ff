package spool

import (
	"errors"
	"path/filepath"
	"testing"

	"example.org/odometer"
	"example.org/odometer/internal/memfs"
)

// FuzzOpen opens a directory of two segments, a cursor and checkpoints with any
// content. Only a newer format and files of several spools are refused; every
// other directory opens, yields what it has in order, and works.
func FuzzOpen(f *testing.F) {
	o := roomy()
	o.RetainBytes = -1
	fs := memfs.New()
	s := open(f, fs, o)
	for n := uint64(1); n <= 6; n++ {
		if err := s.Append([]odometer.Record{newSource(1).record(n), newSource(2).record(n)}); err != nil {
			f.Fatal(err)
		}
	}
	for len(s.index.segs) > 2 {
		if err := s.free(1); err != nil {
			f.Fatal(err)
		}
	}
	ack(f, s, receipt(s, s.index.segs[0].first))
	if err := s.saveCheckpoints(); err != nil {
		f.Fatal(err)
	}
	content := func(name string) []byte { return fs.Data(s.path(name)) }
	names := []string{s.index.segs[0].name, s.index.segs[1].name, cursorName, checkpointsName}
	a, b, c, d := content(names[0]), content(names[1]), content(names[2]), content(names[3])
	f.Add(a, b, c, d)
	f.Add(a[:len(a)-9], b, c, d)
	f.Add(a, b[:len(b)-300], c, d)
	f.Add(a[:10], b[:headerSize], []byte{}, d[:100])
	f.Add(b, a, d, c)
	f.Add(append(a[:len(a):len(a)], b...), b, c, d)
	f.Add([]byte{}, []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		fs := memfs.New()
		for i, data := range [][]byte{a, b, c, d} {
			fs.Set(filepath.Join(testDir, names[i]), data)
		}
		o := roomy()
		o.Dir, o.FS = testDir, fs
		s, err := Open(o)
		if err != nil {
			if !errors.Is(err, errVersion) && !errors.Is(err, odometer.ErrConflict) {
				t.Fatal(err)
			}
			return
		}
		check := func(s *Spool, after uint64) (n int, last odometer.Record) {
			for r, err := range s.After(after) {
				if err != nil {
					t.Fatal(err)
				}
				if r.First != after+1 || r.Position < r.First {
					t.Fatalf("record %d to %d follows %d", r.First, r.Position, after)
				}
				after, last = r.Position, r
				n++
			}
			return n, last
		}
		acked := s.Stats().Acked
		before, _ := check(s, acked)
		src := newSource(3)
		if err := s.Append([]odometer.Record{src.record(1)}); err != nil {
			t.Fatal(err)
		}
		n, last := check(s, acked)
		if n != before+1 || last.Event == nil || last.Event.ID() != src.event(1).ID() {
			t.Fatalf("%d records after the append, %d before; the last is %+v", n, before, last)
		}
		for s.coalesce() {
		}
		ack(t, s, receipt(s, min(acked+1, last.Position-1)))
		_ = s.Close()
		if s, err = Open(o); err != nil {
			t.Fatal(err)
		}
		if _, last := check(s, s.Stats().Acked); last.Event == nil || last.Event.ID() != src.event(1).ID() {
			t.Fatalf("after reopening the last record is %+v", last)
		}
		_ = s.Close()
	})
}
