package spool

import (
	"bytes"
	"errors"
	"fmt"
	"io"
)

// flaw is a stretch of a file that cannot be understood.
type flaw struct {
	off, end int64
	reason   string
}

// chunk is what a scanner finds next: a batch, or unreadable bytes.
type chunk struct {
	off, end int64
	batch    batchHeader // zero where off begins no batch
	entries  []entry     // the readable ones, valid until the next chunk
	flaws    []flaw
}

// whole reports whether every byte of the batch is good.
func (c *chunk) whole() bool { return len(c.flaws) == 0 }

// scanner walks through the batches of a segment from off to size. It stops at
// nothing: where a batch is unreadable it looks for the next one.
type scanner struct {
	r       patient
	off     int64
	size    int64
	at      int64 // where buf lies in the file
	buf     []byte
	entries []entry
	whole   bool // reads all at once, and every chunk stays valid until reset
}

func newScanner(r io.ReaderAt, off, size int64) *scanner {
	s := new(scanner)
	s.reset(r, off, size)
	return s
}

// reset makes the scanner walk through another file, with the memory that it
// has.
func (s *scanner) reset(r io.ReaderAt, off, size int64) {
	*s = scanner{r: patient{ReaderAt: r}, off: off, size: size, buf: s.buf[:0], entries: s.entries[:0]}
}

// read returns up to n bytes at off, fewer only at the end of what there is.
// The bytes are the scanner's, until it reads again. It reads ahead.
func (s *scanner) read(off int64, n int64) ([]byte, error) {
	n = min(n, s.size-off)
	if n <= 0 {
		return nil, nil
	}
	if off < s.at || off+n > s.at+int64(len(s.buf)) {
		ahead := min(max(n, batchTarget), s.size-off)
		if s.whole {
			ahead = s.size - off
		}
		if int64(cap(s.buf)) < ahead {
			s.buf = make([]byte, ahead, ahead+ahead/4)
		}
		got, err := s.r.ReadAt(s.buf[:ahead], off)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		s.at, s.buf = off, s.buf[:got]
	}
	from := off - s.at
	return s.buf[from:min(from+n, int64(len(s.buf)))], nil
}

// reason explains bytes that fail: what reading them said, if it said
// anything.
func (s *scanner) reason(what string) string {
	if s.r.err != nil {
		what = fmt.Sprintf("%s: %v", what, s.r.err)
		s.r.err = nil
	}
	return what
}

// next returns the next chunk, or false at the end.
func (s *scanner) next() (chunk, bool, error) {
	if s.off >= s.size {
		return chunk{}, false, nil
	}
	c := chunk{off: s.off}
	b, err := s.read(s.off, batchSize)
	if err != nil {
		return chunk{}, false, err
	}
	h, ok := parseBatch(b)
	if end := s.off + batchSize + h.length; ok && end <= s.size {
		if b, err = s.read(s.off, batchSize+h.length); err != nil {
			return chunk{}, false, err
		}
		if int64(len(b)) >= batchSize+h.length {
			c.end, c.batch = end, h
			s.parse(&c, b[batchSize:batchSize+h.length])
			s.off = end
			return c, true, nil
		}
		s.size = s.off + int64(len(b)) // the file is shorter than it was
	}
	what := "no batch begins here"
	if ok {
		what, c.batch = "batch is cut off", h
	}
	what = s.reason(what)
	if c.end, err = s.find(s.off + 1); err != nil {
		return chunk{}, false, err
	}
	c.flaws = []flaw{{c.off, c.end, what}}
	s.off = c.end
	return c, true, nil
}

// parse takes the records out of a batch.
func (s *scanner) parse(c *chunk, b []byte) {
	at := c.off + batchSize
	if !s.whole {
		s.entries = s.entries[:0]
	}
	begin := len(s.entries)
	previous := uint64(0)
	bad := func(n int, what string) {
		c.flaws = append(c.flaws, flaw{at, at + int64(n), s.reason(what)})
		b, at = b[n:], at+int64(n)
	}
	for seen := 0; len(b) > 0; seen++ {
		body, n, ok := cutFrame(b, bodySize)
		if !ok {
			// The length may be what is wrong: it is believed only when
			// something good follows.
			if _, _, follows := cutFrame(b[n:], bodySize); n == 0 || n < len(b) && !follows {
				n = len(b)
			}
			bad(n, "record fails its checksum")
			continue
		}
		e, ok := parseBody(body)
		if !ok || e.position <= previous || e.first > e.position || e.position > c.batch.last || seen >= c.batch.count {
			bad(n, "record contradicts its batch")
			continue
		}
		e.off = at
		previous = e.position
		s.entries = append(s.entries, e)
		b, at = b[n:], at+int64(n)
	}
	c.entries = s.entries[begin:]
	if len(c.flaws) == 0 && len(c.entries) != c.batch.count {
		bad(0, fmt.Sprintf("batch has %d of its %d records", len(c.entries), c.batch.count))
	}
}

// find returns where the next batch header begins at or after off, or the size.
func (s *scanner) find(off int64) (int64, error) {
	const window = 64 << 10
	for off < s.size {
		b, err := s.read(off, window)
		if err != nil {
			return 0, err
		}
		if len(b) == 0 {
			return s.size, nil
		}
		for at := 0; ; at++ {
			i := bytes.Index(b[at:], batchMagic[:1])
			if i < 0 {
				break
			}
			at += i
			if len(b)-at < batchSize {
				if off+int64(len(b)) >= s.size || at == 0 {
					break // too near the end for a header
				}
				b = b[:at] // look again from here with more behind it
				break
			}
			if _, ok := parseBatch(b[at:]); ok {
				return off + int64(at), nil
			}
		}
		off += int64(len(b))
	}
	return s.size, nil
}
