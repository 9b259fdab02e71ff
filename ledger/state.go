package ledger

import (
	"encoding/binary"
	"fmt"
	"math"

	"example.org/odometer"
)

// epochsPerRow is how many epochs of consecutive numbers share a row of the
// table state. A row costs more than what is in it, and the events of a frame
// are mostly of neighbours: eight to a row, which still fits a page, take a
// third of the time off an event; more gain little.
const epochsPerRow = 8

// stateID is the key of the row of the table state that an epoch is in.
func stateID(partition int, no int64) int64 { return int64(partition)<<37 + no/epochsPerRow }

// firstOf returns of which partition and from which number on the epochs are
// that share a row.
func firstOf(id int64) (partition int, no int64) {
	return int(id >> 37), id & (1<<37 - 1) * epochsPerRow
}

// siblings are the epochs that share a row of the table state, by place; nil
// stands for one that there is not.
type siblings [epochsPerRow]*epoch

// append appends the row: for each epoch two bytes, big endian, with the length
// of its state, 0 for none, and the state.
func (s *siblings) append(row []byte) []byte {
	for _, e := range s {
		at := len(row)
		row = append(row, 0, 0)
		if e != nil {
			row = e.appendState(row)
			binary.BigEndian.PutUint16(row[at:], uint16(len(row)-at-2)) // a state has some hundred bytes
		}
	}
	return row
}

// cutSiblings reads a row of the table state, of which it keeps parts. The epochs
// have what appendState wrote, and not who they are.
func cutSiblings(row []byte) (s siblings, err error) {
	states, err := splitRow(row)
	for i, state := range states {
		if state == nil || err != nil {
			continue
		}
		s[i] = new(epoch)
		err = s[i].cutState(state)
	}
	return s, err
}

// cutFrom reads the state of e, whose number is known, from its row of the table
// state.
func (e *epoch) cutFrom(row []byte) error {
	states, err := splitRow(row)
	if err != nil {
		return err
	}
	return e.cutState(states[e.no%epochsPerRow])
}

// splitRow returns the states in a row of the table state, by place.
func splitRow(row []byte) (states [epochsPerRow][]byte, err error) {
	for i := range states {
		if len(row) < 2 || len(row)-2 < int(binary.BigEndian.Uint16(row)) {
			return states, fmt.Errorf("cut off: %w", odometer.ErrInvalid)
		}
		n := 2 + int(binary.BigEndian.Uint16(row))
		if n > 2 {
			states[i] = row[2:n:n]
		}
		row = row[n:]
	}
	if len(row) > 0 {
		return states, fmt.Errorf("%d bytes too long: %w", len(row), odometer.ErrInvalid)
	}
	return states, nil
}

// earliestOpen returns the earliest hour that is open in any of the epochs, -1
// for one before 1970 or at its beginning; 0 where none is.
func (s *siblings) earliestOpen() int64 {
	earliest := int64(math.MaxInt64)
	for _, e := range s {
		if e != nil && !e.open.empty() {
			earliest = min(earliest, e.open.hour)
		}
	}
	switch {
	case earliest == math.MaxInt64:
		return 0
	case earliest <= 0:
		return -1
	}
	return earliest
}

const stateClosed = 1

// appendState appends what changes of an epoch with every event:
//
//	flags       1: the epoch has ended
//	watermark   sequence, end of its span (zigzag), position in the journal, vector
//	open hour   its hour since 1970 (zigzag; 0 for none), sums, recovered time (zigzag), user, org
//	digests     the unfinished chunk, see appendDigest
//
// Integers are varints, vector and sums [odometer.Usage]'s binary form, user
// and org a length in a byte and the bytes.
func (e *epoch) appendState(b []byte) []byte {
	flags := byte(0)
	if e.closed {
		flags |= stateClosed
	}
	b = append(b, flags)
	b = binary.AppendUvarint(b, e.sequence)
	b = binary.AppendVarint(b, e.end)
	b = binary.AppendUvarint(b, uint64(e.position))
	b = e.vector.AppendBinary(b)
	b = binary.AppendVarint(b, e.open.hour/odometer.HourMicros)
	b = e.open.sums.AppendBinary(b)
	b = binary.AppendVarint(b, e.open.recovered)
	for _, s := range [...]string{string(e.open.owner.User), string(e.open.owner.Org)} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	return append(b, e.digests...)
}

// cutState reads what appendState wrote. It keeps a part of b.
func (e *epoch) cutState(b []byte) (err error) {
	bad := fmt.Errorf("cut off or malformed: %w", odometer.ErrInvalid)
	if len(b) == 0 || b[0] > stateClosed {
		return bad
	}
	e.closed, b = b[0]&stateClosed != 0, b[1:]
	var n [3]int
	var position uint64
	e.sequence, n[0] = binary.Uvarint(b)
	b = b[max(n[0], 0):]
	e.end, n[1] = binary.Varint(b)
	b = b[max(n[1], 0):]
	position, n[2] = binary.Uvarint(b)
	b = b[max(n[2], 0):]
	if min(n[0], n[1], n[2]) <= 0 {
		return bad
	}
	e.position = int64(position)
	if e.vector, b, err = odometer.CutUsage(b); err != nil {
		return err
	}
	hour, at := binary.Varint(b)
	if at <= 0 {
		return bad
	}
	e.open.hour = hour * odometer.HourMicros
	if e.open.sums, b, err = odometer.CutUsage(b[at:]); err != nil {
		return err
	}
	if e.open.recovered, n[0] = binary.Varint(b); n[0] <= 0 {
		return bad
	}
	b = b[n[0]:]
	var owner [2]string
	for i := range owner {
		if len(b) == 0 || int(b[0]) >= len(b) {
			return bad
		}
		owner[i], b = string(b[1:1+b[0]]), b[1+b[0]:]
	}
	e.open.owner = odometer.Owner{User: odometer.UserID(owner[0]), Org: odometer.OrgID(owner[1])}
	e.digests = b
	return nil
}
