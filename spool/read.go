package spool

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"

	"example.org/odometer"
)

// After yields the records beyond a position in order, as far as they have
// been accepted. It reads them from the disk and may go on for as long as the
// caller likes, beside Append, Ack and merging. The ranges First to Position
// of what it yields join without a hole, from pos+1 on: where something is
// gone, or was merged meanwhile, the next record's range takes it in.
//
// What is corrupt is named and counted, see [Stats], and skipped; the first
// record of each epoch after it is marked Resumes. An event that does not
// decode is yielded as Raw with Err. The error of the sequence, which ends it,
// is the disk's or [ErrClosed].
func (s *Spool) After(pos uint64) iter.Seq2[odometer.Record, error] {
	return func(yield func(odometer.Record, error) bool) {
		err := s.walk(pos, false, func(e *entry) bool { return yield(e.record(), nil) })
		if err != nil {
			yield(odometer.Record{}, err)
		}
	}
}

// walk visits the entries beyond a position, with First and Resumes as After
// promises them, until visit returns false. Owned says that the caller holds
// writing.
func (s *Spool) walk(pos uint64, owned bool, visit func(*entry) bool) error {
	from, surprises := pos, 0
	for {
		p, err := s.pick(from)
		if err != nil || p.name == "" {
			return err
		}
		more, surprise, err := s.walkSegment(p, &pos, visit)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			surprise = true // it was rewritten or freed since
		case err != nil:
			return fmt.Errorf("read segment %s: %w", p.name, err)
		case !more:
			return nil
		}
		if !surprise {
			from, surprises = max(pos, p.top), 0
			continue
		}
		from = pos
		// Something is unreadable that was readable: the index is made anew.
		if surprises++; surprises > 3 {
			return fmt.Errorf("read segment %s: %w", p.name, errors.Join(err, errors.New("what is readable changes from one reading to the next")))
		}
		if err == nil {
			if err := s.learn(owned); err != nil {
				return err
			}
		}
	}
}

// picked is a segment as it was when it was picked; Append may have gone on in
// it since.
type picked struct {
	name    string
	first   uint64
	top     uint64
	off     int64
	size    int64
	limit   uint64 // positions from here on are not the segment's
	flaws   map[int64]bool
	resumes map[uint64]bool
}

// pick returns the first segment with a record beyond pos.
func (s *Spool) pick(pos uint64) (picked, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return picked{}, ErrClosed
	}
	for i, g := range s.index.segs {
		if g.top > pos {
			p := picked{g.name, g.first, g.top, g.seek(pos).off, g.size, ^uint64(0), g.flaws, s.index.resumes}
			if i+1 < len(s.index.segs) {
				p.limit = s.index.segs[i+1].first
			}
			return p, nil
		}
	}
	return picked{}, nil
}

// walkSegment visits the entries of one segment beyond pos and moves pos. It
// returns early with a surprise where it finds bytes unreadable that are not
// known to be.
func (s *Spool) walkSegment(p picked, pos *uint64, visit func(*entry) bool) (more, surprise bool, err error) {
	f, err := s.fs.Open(s.path(p.name))
	if err != nil {
		return false, false, err
	}
	defer f.Close()
	sc := newScanner(f, p.off, p.size)
	for {
		c, found, err := sc.next()
		if err != nil {
			return false, false, err
		}
		if !found {
			return true, sc.size < p.size, nil
		}
		for _, fl := range c.flaws {
			if !p.flaws[fl.off] {
				return true, true, nil
			}
		}
		for i := range c.entries {
			e := &c.entries[i]
			if e.position >= p.limit {
				return true, false, nil
			}
			if e.position <= *pos || e.position < p.first {
				continue
			}
			e.first = *pos + 1
			if p.resumes[e.position] {
				e.flags |= flagResumes
			}
			*pos = e.position
			if !visit(e) {
				return false, false, nil
			}
		}
	}
}

// learn scans again after a reader found something unreadable.
func (s *Spool) learn(owned bool) error {
	if !owned {
		s.writing.Lock()
		defer s.writing.Unlock()
		if s.closed {
			return ErrClosed
		}
	}
	return s.rescan()
}
