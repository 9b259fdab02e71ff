package odometer

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"strings"
)

// The binary form of an event is how agents store and send what they measure:
// a quarter of the JSON's size and a tenth of its time to read. It holds what
// cannot be derived, and an event that it cannot hold to the last bit is
// stored as JSON; the first byte tells, since JSON begins with '{'.
//
//	01          the form
//	flags       1 final, 2 coalesced, 4 a step of the clock, 8 the three sets of
//	            known quantities differ; bits 4 and 5: quality
//	instance, agent, user, org    each its length in a byte, then its bytes
//	epoch       16 bytes
//	epoch_start, sequence, [sequence − first_sequence]
//	span        start − epoch_start, end − start, [step]
//	known       of usage, [of readings.start, of readings.end]
//	quantities  for each one known at the end: readings.start, then usage
//	cpu_seconds, gpu_seconds
//
// Integers are varints of encoding/binary, zigzag where they are written so.
// What is in brackets is there when its flag is set. The rest follows:
// readings.end = readings.start + usage, and timestamp, period and metrics
// are [Event.Derive]'s but for the two counts of whole seconds, which depend
// on earlier epochs.
const binaryForm = 1

const (
	binFinal = 1 << iota
	binCoalesced
	binStep
	binKnown

	binQuality = 4 // bits to shift
)

var binQualities = [4]Quality{Measured, Estimated, Gap, ""}

// AppendBinary appends e in its binary form, or as JSON where that form
// cannot hold it: an event of version 1.0 or of a later 1.x, with members
// that nobody knows, or with fields that do not follow from one another.
// [DecodeBinary] reads both.
func (e *Event) AppendBinary(b []byte) []byte {
	quality, ok := e.binarySafe()
	if !ok {
		return e.AppendJSON(b)
	}
	start := len(b)
	flags := byte(quality) << binQuality
	if e.Final {
		flags |= binFinal
	}
	if e.FirstSequence != e.Sequence {
		flags |= binCoalesced
	}
	if e.Span.Step != 0 {
		flags |= binStep
	}
	if e.Readings.Start.Known != e.Usage.Known || e.Readings.End.Known != e.Usage.Known {
		flags |= binKnown
	}
	b = append(b, binaryForm, flags)
	owner := e.Owner.OrUnassigned()
	for _, s := range [...]string{string(e.Instance), string(e.Agent), string(owner.User), string(owner.Org)} {
		b = append(b, byte(len(s)))
		b = append(b, s...)
	}
	var epoch [16]byte
	if _, err := hex.Decode(epoch[:], []byte(e.Epoch)); err != nil {
		return e.AppendJSON(b[:start])
	}
	b = append(b, epoch[:]...)
	b = binary.AppendVarint(b, e.EpochStart)
	b = binary.AppendUvarint(b, e.Sequence)
	if flags&binCoalesced != 0 {
		b = binary.AppendUvarint(b, e.Sequence-e.FirstSequence)
	}
	b = binary.AppendVarint(b, e.Span.Start-e.EpochStart)
	b = binary.AppendVarint(b, e.Span.End-e.Span.Start)
	if flags&binStep != 0 {
		b = binary.AppendVarint(b, e.Span.Step)
	}
	b = binary.AppendUvarint(b, uint64(e.Usage.Known))
	if flags&binKnown != 0 {
		b = binary.AppendUvarint(b, uint64(e.Readings.Start.Known))
		b = binary.AppendUvarint(b, uint64(e.Readings.End.Known))
	}
	for q := range e.Usage.Vector {
		if e.Readings.End.Known.Has(Quantity(q)) {
			b = binary.AppendVarint(b, e.Readings.Start.Vector[q])
			b = binary.AppendVarint(b, e.Usage.Vector[q])
		}
	}
	b = binary.AppendUvarint(b, e.Metrics.CPUSeconds)
	return binary.AppendUvarint(b, e.Metrics.GPUSeconds)
}

// binarySafe reports whether the binary form gives e back to the last bit,
// and the number of its quality.
func (e *Event) binarySafe() (quality int, ok bool) {
	for quality < 3 && binQualities[quality] != e.Quality {
		quality++
	}
	if quality == 3 || e.Version != Version11 || len(e.Epoch) != 32 || len(e.Extra) > 0 || len(e.Lifecycle) > 0 || e.FirstSequence > e.Sequence {
		return 0, false
	}
	for _, s := range [...]string{string(e.Instance), string(e.Agent), string(e.Owner.User), string(e.Owner.Org)} {
		if len(s) > MaxIDBytes {
			return 0, false
		}
	}
	for _, c := range []byte(e.Epoch) {
		if c-'0' > 9 && c-'a' > 'f'-'a' {
			return 0, false
		}
	}
	start, end, u := &e.Readings.Start, &e.Readings.End, &e.Usage
	if (start.Known|u.Known)&^end.Known != 0 || end.Known > AllKnown {
		return 0, false
	}
	for q, n := range u.Vector {
		if start.Vector[q]+n != end.Vector[q] || n|start.Vector[q] != 0 && !end.Known.Has(Quantity(q)) {
			return 0, false
		}
	}
	derived := Event{Span: e.Span, Usage: *u, Readings: e.Readings}
	derived.Derive(0, 0)
	derived.Metrics.CPUSeconds, derived.Metrics.GPUSeconds = e.Metrics.CPUSeconds, e.Metrics.GPUSeconds
	return quality, derived.Timestamp == e.Timestamp && derived.Period == e.Period && derived.Metrics == e.Metrics
}

// DecodeBinary reads what [Event.AppendBinary] wrote, in either form, as
// strictly as [DecodeEvent], and checks all that [Event.Check] does. The event
// shares no memory with data.
func DecodeBinary(data []byte) (*Event, error) {
	if !isBinary(data) {
		return DecodeEvent(data)
	}
	e := new(Event)
	d := newBinaryReader(data, 1)
	if err := d.wholeEvent(len(data), e); err != nil {
		return nil, err
	}
	return e, nil
}

func isBinary(data []byte) bool { return len(data) > 0 && data[0] == binaryForm }

// wholeEvent reads an event from the next n bytes.
func (d *binaryReader) wholeEvent(n int, e *Event) error {
	inner := binaryReader{rest: d.take(n), epochs: d.epochs}
	inner.event(e)
	if inner.failed || d.failed {
		return fmt.Errorf("event: the binary form is cut off or malformed: %w", ErrInvalid)
	}
	if err := checkEvent(e); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	return nil
}

func (d *binaryReader) event(e *Event) {
	form, flags := d.byte(), d.byte()
	e.Version, e.Quality, e.Final = Version11, binQualities[flags>>binQuality&3], flags&binFinal != 0
	e.Instance, e.Agent = InstanceID(d.text()), AgentID(d.text())
	e.Owner = Owner{User: UserID(d.text()), Org: OrgID(d.text())}
	e.Epoch = d.epoch()
	e.EpochStart = d.int()
	e.Sequence = d.uint()
	e.FirstSequence = e.Sequence
	if flags&binCoalesced != 0 {
		e.FirstSequence -= d.uint()
	}
	e.Span.Start = e.EpochStart + d.int()
	e.Span.End = e.Span.Start + d.int()
	if flags&binStep != 0 {
		e.Span.Step = d.int()
	}
	start, end, u := &e.Readings.Start, &e.Readings.End, &e.Usage
	u.Known = d.known()
	start.Known, end.Known = u.Known, u.Known
	if flags&binKnown != 0 {
		start.Known, end.Known = d.known(), d.known()
	}
	for q := range u.Vector {
		if end.Known.Has(Quantity(q)) {
			start.Vector[q], u.Vector[q] = d.int(), d.int()
			end.Vector[q] = start.Vector[q] + u.Vector[q]
		}
	}
	cpu, gpu := d.uint(), d.uint()
	if form != binaryForm || flags>>6 != 0 || len(d.rest) > 0 || e.FirstSequence > e.Sequence {
		d.failed = true
	}
	if !d.failed {
		e.Derive(0, 0)
		e.Metrics.CPUSeconds, e.Metrics.GPUSeconds = cpu, gpu
	}
}

// binaryReader cuts a binary form from the front of rest. After a failure
// everything reads as zero. The strings it gives out are parts of two large
// ones, so that an event costs no allocation of its own.
type binaryReader struct {
	data   []byte // all of it; rest is its end, as a string
	rest   string
	epochs *strings.Builder // in hex; grown once, so that its parts stay where they are
	failed bool
}

// newBinaryReader reads data, which must not change and holds at most n events.
func newBinaryReader(data []byte, n int) *binaryReader {
	d := &binaryReader{data: data, rest: string(data), epochs: new(strings.Builder)}
	d.epochs.Grow(32 * n)
	return d
}

// bytes is take as bytes, which must not change.
func (d *binaryReader) bytes(n int) []byte {
	at := len(d.data) - len(d.rest)
	n = len(d.take(n))
	return d.data[at : at+n : at+n]
}

func (d *binaryReader) epoch() Epoch {
	at := d.epochs.Len()
	var id [32]byte
	hex.Encode(id[:], []byte(d.take(16)))
	d.epochs.Write(id[:])
	return Epoch(d.epochs.String()[at:])
}

func (d *binaryReader) take(n int) string {
	if n > len(d.rest) {
		d.failed, d.rest, n = true, "", 0
	}
	s := d.rest[:n]
	d.rest = d.rest[n:]
	return s
}

func (d *binaryReader) byte() byte {
	if s := d.take(1); s != "" {
		return s[0]
	}
	return 0
}

// text reads a string behind its length in one byte.
func (d *binaryReader) text() string { return d.take(int(d.byte())) }

// uint reads a varint, which must be as short as it can be.
func (d *binaryReader) uint() uint64 {
	var v uint64
	for i := 0; i < len(d.rest) && i < binary.MaxVarintLen64; i++ {
		c := d.rest[i]
		if c >= 0x80 {
			v |= uint64(c&0x7f) << (7 * i)
			continue
		}
		if i == binary.MaxVarintLen64-1 && c > 1 || i > 0 && c == 0 {
			break
		}
		d.rest = d.rest[i+1:]
		return v | uint64(c)<<(7*i)
	}
	d.failed, d.rest = true, ""
	return 0
}

func (d *binaryReader) int() int64 {
	u := d.uint()
	return int64(u>>1) ^ -int64(u&1)
}

func (d *binaryReader) known() Known {
	k := d.uint()
	if k > uint64(AllKnown) {
		d.failed = true
		return 0
	}
	return Known(k)
}
