package audit

import (
	"encoding/binary"
	"fmt"
	"os"
)

// spillBuckets is into how many parts a spill divides what it is given, so
// that each part can be looked at in memory by itself: a gigabyte becomes 64
// parts of 16 MiB.
const spillBuckets = 64

// spill keeps records in memory up to a limit and beyond it in temporary
// files, divided by the first byte of each record's key. What belongs together
// lies in one bucket, in the order in which it was added. The files are
// unlinked as soon as they are open: a killed audit leaves nothing behind.
type spill struct {
	dir   string // for the files; "" is the system's
	limit int    // bytes kept in memory
	used  int
	mem   [spillBuckets][]byte
	files [spillBuckets]*os.File
}

// add appends a record to the bucket of hash.
func (s *spill) add(hash byte, record []byte) error {
	b := int(hash) % spillBuckets
	s.mem[b] = binary.AppendUvarint(s.mem[b], uint64(len(record)))
	s.mem[b] = append(s.mem[b], record...)
	s.used += len(record) + 2
	if s.used <= s.limit {
		return nil
	}
	for i := range s.mem {
		if err := s.flush(i); err != nil {
			return err
		}
	}
	s.used = 0
	return nil
}

func (s *spill) flush(b int) error {
	if len(s.mem[b]) == 0 {
		return nil
	}
	if s.files[b] == nil {
		f, err := os.CreateTemp(s.dir, "odometer-audit-*")
		if err != nil {
			return fmt.Errorf("make room for the audit: %w", err)
		}
		s.files[b] = f
		if err := os.Remove(f.Name()); err != nil {
			return fmt.Errorf("make room for the audit: %w", err)
		}
	}
	if _, err := s.files[b].Write(s.mem[b]); err != nil {
		return fmt.Errorf("make room for the audit: %w", err)
	}
	s.mem[b] = s.mem[b][:0]
	return nil
}

// bucket calls do with each record of bucket b, in the order of adding. The
// record is do's only until it returns.
func (s *spill) bucket(b int, do func(record []byte) error) error {
	data := s.mem[b]
	if f := s.files[b]; f != nil {
		size, err := f.Seek(0, 2)
		if err != nil {
			return fmt.Errorf("read back what the audit put aside: %w", err)
		}
		data = make([]byte, size, int(size)+len(s.mem[b]))
		if _, err := f.ReadAt(data, 0); err != nil {
			return fmt.Errorf("read back what the audit put aside: %w", err)
		}
		data = append(data, s.mem[b]...)
	}
	for len(data) > 0 {
		n, w := binary.Uvarint(data)
		if w <= 0 || n > uint64(len(data)-w) {
			return fmt.Errorf("read back what the audit put aside: a record is cut off")
		}
		if err := do(data[w : w+int(n)]); err != nil {
			return err
		}
		data = data[w+int(n):]
	}
	return nil
}

// close frees the files. The spill is empty afterwards.
func (s *spill) close() {
	for i, f := range s.files {
		if f != nil {
			f.Close()
		}
		s.files[i], s.mem[i] = nil, nil
	}
	s.used = 0
}
