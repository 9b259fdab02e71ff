package audit

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// once proves that every event of a partition is booked at most once, and that
// what was called a duplicate is one. It collects one fixed-size note of each
// event received (45 bytes), on disk beyond a limit, and sorts them bucket by
// bucket; the notes of one identity then lie side by side.
type once struct {
	notes spill
	buf   []byte
}

// What a note says of an event.
const (
	noteBooked    = 'b' // its usage is in the totals
	noteKept      = 'k' // held or in quarantine: received, not booked
	noteDuplicate = 'd' // said to have been received before
	noteSettled   = 's' // held, and then said to have been received otherwise
)

// note is one event received: who it is, what it says, what became of it.
type note struct {
	identity [16]byte // hash of partition, instance, epoch, sequence
	content  [8]byte
	source   [8]byte // who sent it, in version 1.0; zero otherwise
	position uint64  // in the journal
	index    uint32  // in its frame
	what     byte
}

const noteSize = 16 + 8 + 8 + 8 + 4 + 1

func newOnce(o *Options) *once { return &once{notes: spill{dir: o.TempDir, limit: o.maxBytes}} }

func (o *once) put(n note) error {
	b := append(o.buf[:0], n.identity[:]...)
	b = append(b, n.content[:]...)
	b = append(b, n.source[:]...)
	b = binary.BigEndian.AppendUint64(b, n.position)
	b = binary.BigEndian.AppendUint32(b, n.index)
	b = append(b, n.what)
	o.buf = b
	return o.notes.add(n.identity[0], b)
}

// settle returns the number of distinct events that are booked. It calls twice
// for every booking of an identity after its first, and unfounded for every
// duplicate of which no event with the same content was received earlier.
func (o *once) settle(twice, unfounded func(note)) (booked int64, err error) {
	defer o.notes.close()
	var all []byte
	for i := range spillBuckets {
		all = all[:0]
		err := o.notes.bucket(i, func(rec []byte) error {
			all = append(all, rec...)
			return nil
		})
		if err != nil {
			return booked, err
		}
		notes := make([][]byte, 0, len(all)/noteSize)
		for rec := range slices.Chunk(all, noteSize) {
			notes = append(notes, rec)
		}
		// By identity, then in the order of the journal.
		order := func(rec []byte) []byte { return rec[32:] }
		slices.SortFunc(notes, func(a, b []byte) int {
			if c := bytes.Compare(a[:16], b[:16]); c != 0 {
				return c
			}
			return bytes.Compare(order(a), order(b))
		})
		for len(notes) > 0 {
			n := 1
			for n < len(notes) && bytes.Equal(notes[n][:16], notes[0][:16]) {
				n++
			}
			booked += settleOne(notes[:n], twice, unfounded)
			notes = notes[n:]
		}
	}
	return booked, nil
}

// settleOne judges the notes of one identity. In version 1.0 each source has
// its own bookings; what is in quarantine is there for all.
func settleOne(notes [][]byte, twice, unfounded func(note)) (booked int64) {
	var sources map[[8]byte]bool
	for i, rec := range notes {
		n := decodeNote(rec)
		switch n.what {
		case noteBooked:
			if sources[n.source] {
				twice(n)
				continue
			}
			if sources == nil {
				sources = map[[8]byte]bool{}
			}
			sources[n.source] = true
			booked++
		case noteDuplicate, noteSettled:
			found := 0
			for _, earlier := range notes[:i] {
				e := decodeNote(earlier)
				same := e.content == n.content && (e.source == n.source || e.source == [8]byte{})
				if same && (e.what == noteBooked || e.what == noteKept) {
					found++
				}
			}
			if n.what == noteSettled {
				found-- // its own being held
			}
			if found < 1 {
				unfounded(n)
			}
		}
	}
	return booked
}

func decodeNote(b []byte) (n note) {
	copy(n.identity[:], b)
	copy(n.content[:], b[16:])
	copy(n.source[:], b[24:])
	n.position = binary.BigEndian.Uint64(b[32:])
	n.index = binary.BigEndian.Uint32(b[40:])
	n.what = b[44]
	return n
}

// hash16 hashes texts, each with its length, to 16 bytes.
func hash16(parts ...[]byte) [16]byte {
	h := sha256.New()
	for _, p := range parts {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		h.Write(n[:])
		h.Write(p)
	}
	return [16]byte(h.Sum(nil)[:16])
}
