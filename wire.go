package odometer

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"
)

var (
	recordNames = []string{"first", "position", "event", "event_base64", "checkpoint", "resumes"}
	headerNames = []string{"format", "agent", "spool", "first", "last"}
)

// DecodeRecord reads one line of a spool or a frame, as [Record.AppendJSON]
// writes it. An event that is invalid does not make the record invalid: Raw
// then has its bytes and Err the reason. Members that are not known are
// passed over. Raw and Checkpoint are parts of data, which must not change.
func DecodeRecord(data []byte) (Record, error) {
	r, err := decodeRecord(data)
	if err != nil {
		return Record{}, fmt.Errorf("record: %w", err)
	}
	return r, nil
}

func decodeRecord(data []byte) (r Record, err error) {
	s := scanner{data: data}
	if !s.open('{') {
		s.unexpected("an object")
		return r, s.result()
	}
	var seen uint
	for first := true; ; {
		name, ok := s.member(&first)
		if !ok {
			break
		}
		if bit := slices.Index(recordNames, string(name)); bit < 0 {
			s.value()
			continue
		} else if seen>>bit&1 != 0 {
			s.fail("stands twice")
			break
		} else {
			seen |= 1 << bit
		}
		switch string(name) {
		case "first":
			r.First = s.uint()
		case "position":
			r.Position = s.uint()
		case "event":
			if r.Raw != nil {
				s.fail("an event stands there already")
			}
			r.Raw = s.eventBytes()
		case "event_base64":
			if r.Raw != nil {
				s.fail("an event stands there already")
			}
			r.Raw = s.base64()
		case "checkpoint":
			r.Checkpoint = s.raw()
			if !utf8.Valid(r.Checkpoint) {
				s.fail("not valid UTF-8")
			}
		case "resumes":
			if c := s.peek(); c != 't' && c != 'f' {
				s.wrong("true or false")
			} else {
				r.Resumes = c == 't'
				s.value()
			}
		}
	}
	s.name = nil
	s.end()
	if r.First == 0 {
		r.First = r.Position
	}
	switch {
	case s.err != nil:
	case r.Position == 0:
		s.note("position is missing, or 0 where counting is from 1")
	case r.First > r.Position:
		s.note("first, %d, lies behind position, %d", r.First, r.Position)
	case r.Raw == nil && r.Checkpoint == nil:
		s.note("neither event nor checkpoint")
	}
	if err := s.result(); err != nil {
		return r, err
	}
	if r.Raw != nil {
		r.Event, r.Err = DecodeEvent(r.Raw)
	}
	return r, nil
}

// eventBytes passes over an event, which need not be valid, and returns it.
func (s *scanner) eventBytes() json.RawMessage {
	if c := s.peek(); c != '{' && c != '[' {
		return s.raw()
	}
	start := s.pos
	if !s.bracketed() {
		s.fail("the event does not end")
		return nil
	}
	return s.data[start:s.pos:s.pos]
}

func (s *scanner) base64() json.RawMessage {
	text, ok := s.string()
	if !ok {
		return nil
	}
	raw := make([]byte, 0, base64.StdEncoding.DecodedLen(len(text)))
	raw, err := base64.StdEncoding.AppendDecode(raw, text)
	if err != nil {
		s.note("not base64")
		return nil
	}
	return raw
}

// Frames come in two formats. Format 2 is what is sent and stored; format 1,
// lines of JSON, is for servers and journals from before it.
const (
	FrameFormatJSON   = 1
	FrameFormatBinary = 2
)

// Encode returns the frame as it travels, in format 2, compressed as one
// block of S2 (https://github.com/klauspost/compress/tree/master/s2):
//
//	02          the format, where format 1 has '{'
//	agent       its length in a byte, then its bytes
//	spool       1 and 16 bytes, or 0 for none
//	first, last, number of records
//	records     flags: 1 event, 2 checkpoint, 4 resumes, 8 more than one position;
//	            [position − first], [length and bytes of the event, see
//	            Event.AppendBinary], [length and bytes of the checkpoint]
//	checksum    CRC-32C of all before it, 4 bytes, little-endian
//
// Integers are varints. A frame without a spool (of events that came another
// way) has no positions of its own: its records are numbered from 1, whatever
// they say.
//
// It fails, wrapping [ErrInvalid], when the records do not follow one another
// from First to Last or one is empty, and with [ErrFrameSize] when the frame
// is larger than the limits.
func (f *Frame) Encode() ([]byte, error) { return f.EncodeAs(FrameFormatBinary) }

// EncodeAs is Encode in one of the formats. Format 1 is lines of JSON: the
// first is
//
//	{"format":1,"agent":"host-12","spool":"…","first":1,"last":100}
//
// and each other line is a record (see [Record.AppendJSON]), whose checkpoint
// must be JSON.
func (f *Frame) EncodeAs(format int) ([]byte, error) {
	text := frameBuffers.Get().(*[]byte)
	defer frameBuffers.Put(text)
	appendAll := f.appendBinary
	if format == FrameFormatJSON {
		appendAll = f.appendText
	}
	b, err := appendAll((*text)[:0])
	*text = b[:0]
	if err != nil {
		return nil, fmt.Errorf("encode frame: %w", err)
	}
	packed := frameBuffers.Get().(*[]byte)
	defer frameBuffers.Put(packed)
	*packed = s2.Encode((*packed)[:cap(*packed)], b)
	if len(*packed) > MaxFramePacked {
		return nil, fmt.Errorf("encode frame: %d bytes packed, at most %d are allowed: %w", len(*packed), MaxFramePacked, ErrFrameSize)
	}
	return bytes.Clone(*packed), nil
}

// ErrFrameSize is what the refusal of a frame beyond [MaxFramePacked] or
// [MaxFrameUnpacked] wraps; it wraps [ErrInvalid] itself. Fewer records in a
// frame help.
var ErrFrameSize = fmt.Errorf("frame too large: %w", ErrInvalid)

var frameBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 128<<10); return &b }}

func (f *Frame) appendText(b []byte) ([]byte, error) {
	first, last, err := f.positions()
	if err != nil {
		return b, err
	}
	b = append(b, `{"format":1,"agent":`...)
	b = appendString(b, string(f.Agent))
	if f.Spool != "" {
		b = append(b, `,"spool":`...)
		b = appendString(b, string(f.Spool))
	}
	b = append(b, `,"first":`...)
	b = appendUint(b, first)
	b = append(b, `,"last":`...)
	b = appendUint(b, last)
	b = append(b, '}', '\n')
	return f.appendRecords(b, first, last, func(b []byte, r *Record, from, to uint64) ([]byte, error) {
		if r.Checkpoint != nil && !wellFormed(r.Checkpoint) {
			return b, fmt.Errorf("its checkpoint is not JSON: %w", ErrInvalid)
		}
		return append(r.append(b, from, to), '\n'), nil
	})
}

// positions checks what the frame says of itself and returns the positions it
// covers.
func (f *Frame) positions() (first, last uint64, err error) {
	if err := f.check(); err != nil {
		return 0, 0, err
	}
	if f.Spool == "" {
		return 1, uint64(len(f.Records)), nil
	}
	return f.First, f.Last, nil
}

// appendRecords appends each record with the positions it covers, and checks
// them on the way.
func (f *Frame) appendRecords(b []byte, first, last uint64, each func(b []byte, r *Record, from, to uint64) ([]byte, error)) (_ []byte, err error) {
	next := first
	for i := range f.Records {
		r := &f.Records[i]
		from, to := next, next
		if f.Spool != "" {
			from, to = r.First, r.Position
		}
		if r.Event == nil && r.Raw == nil && r.Checkpoint == nil {
			return b, fmt.Errorf("record %d: neither event nor checkpoint: %w", to, ErrInvalid)
		}
		if from != next || to < from {
			return b, fmt.Errorf("record %d to %d where %d is due: %w", from, to, next, ErrInvalid)
		}
		next = to + 1
		if b, err = each(b, r, from, to); err != nil {
			return b, fmt.Errorf("record %d: %w", to, err)
		}
		if len(b) > MaxFrameUnpacked {
			return b, fmt.Errorf("more than %d bytes before compression: %w", MaxFrameUnpacked, ErrFrameSize)
		}
	}
	if next != last+1 {
		return b, fmt.Errorf("the records end at %d and the frame at %d: %w", next-1, last, ErrInvalid)
	}
	return b, nil
}

// wellFormed reports whether data is one JSON value in UTF-8.
func wellFormed(data []byte) bool {
	s := scanner{data: data}
	s.value()
	s.end()
	return s.result() == nil && utf8.Valid(data)
}

// check checks what a frame says of itself.
func (f *Frame) check() error {
	if err := ValidID("agent", string(f.Agent)); err != nil {
		return err
	}
	if f.Spool != "" {
		if len(f.Spool) != 32 || strings.Trim(string(f.Spool), "0123456789abcdef") != "" {
			return fmt.Errorf("spool %q is not 32 lower-case hex digits: %w", clip(string(f.Spool)), ErrInvalid)
		}
		if f.First == 0 || f.Last < f.First {
			return fmt.Errorf("positions %d to %d: %w", f.First, f.Last, ErrInvalid)
		}
	}
	if len(f.Records) == 0 {
		return fmt.Errorf("no records: %w", ErrInvalid)
	}
	return nil
}

// DecodeFrame reads what [Frame.Encode] wrote and keeps it in Packed. Sizes
// are checked before anything is decompressed. The frame is refused, with an
// error wrapping [ErrInvalid], when it is not whole: too large, damaged, of
// another format, records out of order. A single event that is invalid spoils
// its own record only: see [Record.Err]. The frame keeps data, which must not
// change.
func DecodeFrame(data []byte) (*Frame, error) {
	f, err := decodeFrame(data)
	if err != nil {
		return nil, fmt.Errorf("decode frame: %w", err)
	}
	return f, nil
}

func decodeFrame(data []byte) (*Frame, error) {
	if len(data) > MaxFramePacked {
		return nil, fmt.Errorf("%d bytes packed, at most %d are allowed: %w", len(data), MaxFramePacked, ErrFrameSize)
	}
	size, err := s2.DecodedLen(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	if size > MaxFrameUnpacked {
		return nil, fmt.Errorf("%d bytes unpacked, at most %d are allowed: %w", size, MaxFrameUnpacked, ErrFrameSize)
	}
	text, err := s2.Decode(make([]byte, size), data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, ErrInvalid)
	}
	if len(text) > 0 && text[0] == FrameFormatBinary {
		f, err := decodeBinaryFrame(text)
		if err != nil {
			return nil, err
		}
		f.Packed = data
		return f, nil
	}
	if len(text) == 0 || text[len(text)-1] != '\n' {
		return nil, fmt.Errorf("the last line is cut off: %w", ErrInvalid)
	}
	header, text, _ := bytes.Cut(text, []byte{'\n'})
	f, err := decodeFrameHeader(header)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	f.Packed = data
	f.Records = make([]Record, 0, bytes.Count(text, []byte{'\n'}))
	next := f.First
	for len(text) > 0 {
		var line []byte
		line, text, _ = bytes.Cut(text, []byte{'\n'})
		r, err := decodeRecord(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", len(f.Records)+2, err)
		}
		if r.First != next {
			return nil, fmt.Errorf("line %d: position %d where %d is due: %w", len(f.Records)+2, r.First, next, ErrInvalid)
		}
		next = r.Position + 1
		f.Records = append(f.Records, r)
	}
	if next != f.Last+1 {
		return nil, fmt.Errorf("the records end at %d and the frame at %d: %w", next-1, f.Last, ErrInvalid)
	}
	if err := f.check(); err != nil {
		return nil, err
	}
	return f, nil
}

func decodeFrameHeader(line []byte) (*Frame, error) {
	f := new(Frame)
	s := scanner{data: line}
	if !utf8.Valid(line) {
		return nil, fmt.Errorf("not valid UTF-8: %w", ErrInvalid)
	}
	if !s.open('{') {
		s.unexpected("an object")
		return nil, s.result()
	}
	var seen uint
	var format uint64
	for first := true; ; {
		name, ok := s.member(&first)
		if !ok {
			break
		}
		if bit := slices.Index(headerNames, string(name)); bit < 0 {
			s.value()
			continue
		} else if seen>>bit&1 != 0 {
			s.fail("stands twice")
			break
		} else {
			seen |= 1 << bit
		}
		switch string(name) {
		case "format":
			format = s.uint()
		case "agent":
			f.Agent = AgentID(s.idText())
		case "spool":
			f.Spool = SpoolID(s.idText())
		case "first":
			f.First = s.uint()
		case "last":
			f.Last = s.uint()
		}
	}
	s.name = nil
	s.end()
	if s.err == nil && format != FrameFormatJSON {
		return nil, fmt.Errorf("format %d where %d is due: %w", format, FrameFormatJSON, ErrVersion)
	}
	return f, s.result()
}
