package odometer

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
)

const (
	recEvent = 1 << iota
	recCheckpoint
	recResumes
	recPositions
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendBinary appends the frame in format 2, see [Frame.Encode].
func (f *Frame) appendBinary(b []byte) ([]byte, error) {
	first, last, err := f.positions()
	if err != nil {
		return b, err
	}
	b = append(b, FrameFormatBinary, byte(len(f.Agent)))
	b = append(b, f.Agent...)
	if f.Spool == "" {
		b = append(b, 0)
	} else {
		var id [16]byte
		if _, err := hex.Decode(id[:], []byte(f.Spool)); err != nil {
			return b, fmt.Errorf("spool %q: %w: %w", f.Spool, err, ErrInvalid)
		}
		b = append(b, 1)
		b = append(b, id[:]...)
	}
	b = binary.AppendUvarint(b, first)
	b = binary.AppendUvarint(b, last)
	b = binary.AppendUvarint(b, uint64(len(f.Records)))
	var event []byte
	b, err = f.appendRecords(b, first, last, func(b []byte, r *Record, from, to uint64) ([]byte, error) {
		flags := byte(0)
		switch {
		case r.Event == nil || isBinary(r.Raw):
			event = append(event[:0], r.Raw...)
		default:
			event = r.Event.AppendBinary(event[:0])
		}
		if r.Event != nil || r.Raw != nil {
			flags |= recEvent
		}
		if r.Checkpoint != nil {
			flags |= recCheckpoint
		}
		if r.Resumes {
			flags |= recResumes
		}
		if from != to {
			flags |= recPositions
		}
		b = append(b, flags)
		if from != to {
			b = binary.AppendUvarint(b, to-from)
		}
		if flags&recEvent != 0 {
			b = binary.AppendUvarint(b, uint64(len(event)))
			b = append(b, event...)
		}
		if flags&recCheckpoint != 0 {
			b = binary.AppendUvarint(b, uint64(len(r.Checkpoint)))
			b = append(b, r.Checkpoint...)
		}
		return b, nil
	})
	if err != nil {
		return b, err
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli)), nil
}

// decodeBinaryFrame reads what appendBinary wrote. The strings of the frame's
// events are parts of one: whoever keeps one of them for long should clone it.
func decodeBinaryFrame(data []byte) (*Frame, error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("cut off after %d bytes: %w", len(data), ErrInvalid)
	}
	body, sum := data[:len(data)-4], data[len(data)-4:]
	if got, want := crc32.Checksum(body, castagnoli), binary.LittleEndian.Uint32(sum); got != want {
		return nil, fmt.Errorf("checksum %08x where %08x is due: %w", got, want, ErrInvalid)
	}
	d := newBinaryReader(body, 0)
	d.byte() // the format
	f := &Frame{Agent: AgentID(d.text())}
	switch d.byte() {
	case 0:
	case 1:
		f.Spool = SpoolID(hex.EncodeToString([]byte(d.take(16))))
	default:
		d.failed = true
	}
	f.First, f.Last = d.uint(), d.uint()
	n := d.uint()
	if n > uint64(len(d.rest)) { // a record has a byte at least
		d.failed = true
	}
	if d.failed {
		return nil, fmt.Errorf("header: cut off or malformed: %w", ErrInvalid)
	}
	d.epochs.Grow(32 * int(n))
	f.Records = make([]Record, n)
	events := make([]Event, n)
	next := f.First
	for i := range f.Records {
		r := &f.Records[i]
		if err := d.record(r, &events[i], next); err != nil {
			return nil, fmt.Errorf("record %d: %w", i+1, err)
		}
		next = r.Position + 1
	}
	switch {
	case len(d.rest) > 0:
		return nil, fmt.Errorf("%d bytes behind the last record: %w", len(d.rest), ErrInvalid)
	case next != f.Last+1:
		return nil, fmt.Errorf("the records end at %d and the frame at %d: %w", next-1, f.Last, ErrInvalid)
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

func (d *binaryReader) record(r *Record, e *Event, next uint64) error {
	flags := d.byte()
	r.First, r.Position, r.Resumes = next, next, flags&recResumes != 0
	if flags&recPositions != 0 {
		r.Position += d.uint()
	}
	if flags&recEvent != 0 {
		n := d.length()
		at := *d
		switch r.Raw = d.bytes(n); {
		case d.failed:
		case isBinary(r.Raw):
			if r.Err = at.wholeEvent(n, e); r.Err == nil {
				r.Event = e
			}
		default:
			r.Event, r.Err = DecodeEvent(r.Raw)
		}
	}
	if flags&recCheckpoint != 0 {
		r.Checkpoint = d.bytes(d.length())
	}
	switch {
	case d.failed || flags>>4 != 0 || r.Position < r.First:
		return fmt.Errorf("cut off or malformed: %w", ErrInvalid)
	case flags&(recEvent|recCheckpoint) == 0:
		return fmt.Errorf("neither event nor checkpoint: %w", ErrInvalid)
	}
	return nil
}

func (d *binaryReader) length() int { return int(min(d.uint(), MaxFrameUnpacked)) }
