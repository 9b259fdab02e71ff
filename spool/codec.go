package spool

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"example.org/odometer"
)

// The layout is documented in doc.go.
const (
	magic       = "odospool"
	version     = 2 // 1 had every event as JSON
	headerSize  = 64
	batchSize   = 32 // of a batch's header
	frameSize   = 8  // length and checksum before a body
	bodySize    = 32 // the fixed part of a record's body
	minRecord   = frameSize + bodySize
	maxBatch    = 1 << 30
	cursorBody  = 24 // the fixed part of a cursor entry's body
	batchTarget = 256 << 10
)

var batchMagic = [4]byte{0xfe, 'O', 'B', 0xff}

type kind uint16

const (
	kindSegment     kind = 1
	kindCheckpoints kind = 2
	kindCursor      kind = 3
	kindReoffer     kind = 4
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var le = binary.LittleEndian

// header begins every file.
type header struct {
	version           uint16 // as it was read; what is written is the present one
	kind              kind
	gen               uint32
	first, last, next uint64
	spool             odometer.SpoolID
}

func (h header) append(b []byte) []byte {
	at := len(b)
	b = append(b, magic...)
	b = le.AppendUint16(b, version)
	b = le.AppendUint16(b, uint16(h.kind))
	b = le.AppendUint32(b, h.gen)
	b = le.AppendUint64(b, h.first)
	b = le.AppendUint64(b, h.last)
	b = le.AppendUint64(b, h.next)
	var id [16]byte
	_, _ = hex.Decode(id[:], []byte(h.spool)) // made by newID or parseHeader
	b = append(b, id[:]...)
	b = append(b, 0, 0, 0, 0)
	return le.AppendUint32(b, crc32.Checksum(b[at:], castagnoli))
}

// errVersion says that a file was written by a later version of this program.
var errVersion = errors.New("written by a newer version")

func parseHeader(b []byte, want kind) (header, error) {
	switch {
	case len(b) < headerSize:
		return header{}, fmt.Errorf("header is cut off after %d bytes", len(b))
	case string(b[:8]) != magic:
		return header{}, errors.New("not a file of a spool")
	case crc32.Checksum(b[:60], castagnoli) != le.Uint32(b[60:]):
		return header{}, errors.New("header fails its checksum")
	case le.Uint16(b[8:]) > version:
		return header{}, fmt.Errorf("format %d, this program knows %d: %w", le.Uint16(b[8:]), version, errVersion)
	case kind(le.Uint16(b[10:])) != want:
		return header{}, fmt.Errorf("kind %d where %d is expected", le.Uint16(b[10:]), want)
	}
	return header{
		version: le.Uint16(b[8:]), kind: want, gen: le.Uint32(b[12:]),
		first: le.Uint64(b[16:]), last: le.Uint64(b[24:]), next: le.Uint64(b[32:]),
		spool: odometer.SpoolID(hex.EncodeToString(b[40:56])),
	}, nil
}

// readHeader reads the header of an open file.
func readHeader(r io.ReaderAt, want kind) (header, error) {
	var b [headerSize]byte
	n, err := r.ReadAt(b[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return header{}, err
	}
	return parseHeader(b[:n], want)
}

const (
	flagResumes byte = 1 << iota
	flagFinal
	// flagAfterLoss says that positions before the record were lost, and
	// named, before the segment was rewritten.
	flagAfterLoss
)

// entry is a record as it lies in a file. What is a slice belongs to the
// buffer that it was read into.
type entry struct {
	first, position uint64
	time            int64 // of Append, microseconds
	flags           byte
	instance, agent []byte
	epoch           []byte
	event           []byte // see odometer.Event.AppendBinary, empty for a checkpoint alone
	checkpoint      []byte // JSON, may be empty
	off             int64  // where it was read from
}

func (e *entry) size() int {
	return minRecord + len(e.instance) + len(e.agent) + len(e.epoch) + len(e.event) + len(e.checkpoint)
}

func (e *entry) append(b []byte) []byte {
	at := len(b)
	b = le.AppendUint32(b, uint32(e.size()-frameSize))
	b = append(b, 0, 0, 0, 0)
	b = le.AppendUint64(b, e.first)
	b = le.AppendUint64(b, e.position)
	b = le.AppendUint64(b, uint64(e.time))
	b = append(b, e.flags, byte(len(e.instance)), byte(len(e.agent)), byte(len(e.epoch)))
	b = le.AppendUint32(b, uint32(len(e.event)))
	b = append(b, e.instance...)
	b = append(b, e.agent...)
	b = append(b, e.epoch...)
	b = append(b, e.event...)
	b = append(b, e.checkpoint...)
	sealFrame(b[at:])
	return b
}

// sealFrame fills in the checksum of a framed body.
func sealFrame(b []byte) {
	sum := crc32.Checksum(b[:4], castagnoli)
	le.PutUint32(b[4:], crc32.Update(sum, castagnoli, b[frameSize:]))
}

// cutFrame returns the body of the frame at the front of b and the frame's
// length; the length is 0 where there is no whole frame, and ok says whether
// the checksum holds.
func cutFrame(b []byte, least int) (body []byte, n int, ok bool) {
	if len(b) < frameSize {
		return nil, 0, false
	}
	length := int64(le.Uint32(b))
	if length < int64(least) || length > int64(len(b)-frameSize) {
		return nil, 0, false
	}
	n = frameSize + int(length)
	sum := crc32.Update(crc32.Checksum(b[:4], castagnoli), castagnoli, b[frameSize:n])
	return b[frameSize:n], n, sum == le.Uint32(b[4:])
}

func parseBody(b []byte) (entry, bool) {
	e := entry{
		first: le.Uint64(b), position: le.Uint64(b[8:]), time: int64(le.Uint64(b[16:])), flags: b[24],
	}
	instance, agent, epoch, event := int(b[25]), int(b[26]), int(b[27]), le.Uint32(b[28:])
	b = b[bodySize:]
	if int64(instance+agent+epoch)+int64(event) > int64(len(b)) {
		return entry{}, false
	}
	e.instance, b = b[:instance:instance], b[instance:]
	e.agent, b = b[:agent:agent], b[agent:]
	e.epoch, b = b[:epoch:epoch], b[epoch:]
	e.event, e.checkpoint = b[:event:event], b[event:]
	return e, true
}

// key names what a checkpoint is the state of: one epoch of one instance at one
// agent.
func (e *entry) key() string { return string(e.appendKey(nil)) }

func (e *entry) appendKey(b []byte) []byte {
	b = append(append(b, e.instance...), 0)
	b = append(append(b, e.agent...), 0)
	return append(b, e.epoch...)
}

// record decodes the entry. An event that cannot be decoded stays as Raw with
// Err set, for the ledger to quarantine by itself.
func (e *entry) record() odometer.Record {
	r := odometer.Record{First: e.first, Position: e.position, Resumes: e.flags&flagResumes != 0}
	if len(e.checkpoint) > 0 {
		r.Checkpoint = bytes.Clone(e.checkpoint)
	}
	if len(e.event) > 0 {
		r.Raw = bytes.Clone(e.event)
		if r.Event, r.Err = odometer.DecodeBinary(r.Raw); r.Err != nil {
			r.Event = nil
		}
	}
	return r
}

// entryOf makes the entry of a record; it appends the event to text. The
// position is the caller's to set.
func entryOf(r *odometer.Record, now int64, text *[]byte) (entry, error) {
	e := entry{time: now, checkpoint: r.Checkpoint}
	if r.Resumes {
		e.flags |= flagResumes
	}
	switch {
	case r.Event != nil:
		e.instance, e.agent, e.epoch = []byte(r.Event.Instance), []byte(r.Event.Agent), []byte(r.Event.Epoch)
		if r.Event.Final {
			e.flags |= flagFinal
		}
		at := len(*text)
		*text = r.Event.AppendBinary(*text)
		e.event = (*text)[at:len(*text):len(*text)]
		if len(e.event) > odometer.MaxEventBytes {
			return entry{}, fmt.Errorf("event %s is %d bytes, at most %d are allowed: %w",
				r.Event.ID(), len(e.event), odometer.MaxEventBytes, odometer.ErrInvalid)
		}
	case len(r.Checkpoint) == 0:
		return entry{}, fmt.Errorf("neither an event nor a checkpoint: %w", odometer.ErrInvalid)
	}
	if r.Event == nil {
		// The head of a checkpoint is the one part of it that is not opaque.
		var head struct {
			Instance odometer.InstanceID `json:"instance"`
			Agent    odometer.AgentID    `json:"agent"`
			Epoch    odometer.Epoch      `json:"epoch"`
			Ended    bool                `json:"ended"`
		}
		if err := json.Unmarshal(r.Checkpoint, &head); err != nil {
			return entry{}, fmt.Errorf("checkpoint is no JSON object: %v: %w", err, odometer.ErrInvalid)
		}
		if head.Instance == "" {
			return entry{}, fmt.Errorf("checkpoint names no instance: %w", odometer.ErrInvalid)
		}
		e.instance, e.agent, e.epoch = []byte(head.Instance), []byte(head.Agent), []byte(head.Epoch)
		if head.Ended {
			e.flags |= flagFinal
		}
	}
	if n := max(len(e.instance), len(e.agent), len(e.epoch)); n > odometer.MaxIDBytes {
		return entry{}, fmt.Errorf("an id of instance %.32q is %d bytes long, at most %d are allowed: %w", e.instance, n, odometer.MaxIDBytes, odometer.ErrInvalid)
	}
	if e.size() > maxRecord {
		return entry{}, fmt.Errorf("record of %s is %d bytes, at most %d fit into a frame: %w", e.instance, e.size(), maxRecord, odometer.ErrInvalid)
	}
	return e, nil
}

// maxRecord leaves room in a frame for its header and a record's punctuation.
const maxRecord = odometer.MaxFrameUnpacked - 4<<10

// beginBatch appends an empty batch header to b; endBatch fills it in when the
// records have been appended.
func beginBatch(b []byte) []byte { return append(b, make([]byte, batchSize)...) }

func endBatch(b []byte, count int, first, last uint64) {
	copy(b, batchMagic[:])
	le.PutUint32(b[4:], uint32(count))
	le.PutUint32(b[8:], uint32(len(b)-batchSize))
	le.PutUint64(b[12:], first)
	le.PutUint64(b[20:], last)
	le.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
}

// batches appends records in batches that are about as long as a page: where a
// sector cannot be read, what follows it in its batch is lost with it.
type batches struct {
	b           []byte
	start, n    int // of the open batch, which has n records
	first, last uint64
}

func (w *batches) add(e *entry) {
	if w.n == 0 {
		w.start, w.first = len(w.b), e.first
		w.b = beginBatch(w.b)
	}
	w.b = e.append(w.b)
	w.n, w.last = w.n+1, e.position
	if len(w.b)-w.start >= page {
		w.end()
	}
}

// end closes the open batch and returns all of them.
func (w *batches) end() []byte {
	if w.n > 0 {
		endBatch(w.b[w.start:], w.n, w.first, w.last)
		w.n = 0
	}
	return w.b
}

type batchHeader struct {
	count       int
	length      int64
	first, last uint64
}

func parseBatch(b []byte) (batchHeader, bool) {
	if len(b) < batchSize || [4]byte(b[:4]) != batchMagic || crc32.Checksum(b[:28], castagnoli) != le.Uint32(b[28:]) {
		return batchHeader{}, false
	}
	h := batchHeader{count: int(le.Uint32(b[4:])), length: int64(le.Uint32(b[8:])), first: le.Uint64(b[12:]), last: le.Uint64(b[20:])}
	return h, h.length <= maxBatch && h.first <= h.last
}

// appendCursor appends the entry of a cursor file.
func (c cursor) append(b []byte) []byte {
	at := len(b)
	b = le.AppendUint32(b, uint32(cursorBody+len(c.ledger)))
	b = append(b, 0, 0, 0, 0)
	b = le.AppendUint64(b, uint64(c.time))
	b = le.AppendUint64(b, c.position)
	b = le.AppendUint64(b, c.generation)
	b = append(b, c.ledger...)
	sealFrame(b[at:])
	return b
}

func parseCursor(body []byte) cursor {
	return cursor{
		time: int64(le.Uint64(body)), position: le.Uint64(body[8:]), generation: le.Uint64(body[16:]),
		ledger: odometer.LedgerID(body[cursorBody:]),
	}
}
