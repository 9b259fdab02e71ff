package ledger

import (
	"encoding/binary"
	"fmt"

	"example.org/odometer"
)

// id is the epoch's key in the table state.
func (e *epoch) id() int64 { return stateID(e.partition, e.no) }

func stateID(partition int, no int64) int64 { return int64(partition)<<40 + no }

const stateClosed = 1

// appendState appends what changes of an epoch with every event, as the table
// state has it, open_hour apart:
//
//	flags       1: the epoch has ended
//	watermark   sequence, end of its span (zigzag), position in the journal, vector
//	open hour   sums, recovered time (zigzag), user, org
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
	b = e.open.sums.AppendBinary(b)
	b = binary.AppendVarint(b, e.open.recovered)
	for _, s := range [...]string{string(e.open.owner.User), string(e.open.owner.Org)} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	return append(b, e.digests...)
}

// cutState reads what appendState wrote.
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
	if e.open.sums, b, err = odometer.CutUsage(b); err != nil {
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
	e.digests = append([]byte{}, b...)
	return nil
}
