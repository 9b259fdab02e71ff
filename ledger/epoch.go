package ledger

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"example.org/odometer"
)

// epochKey names an epoch within the ledger.
type epochKey struct {
	partition int
	epoch     odometer.Epoch
}

// epoch is the open state of one epoch: its watermark and the hour it is in.
type epoch struct {
	epochKey
	no        int64
	instance  odometer.InstanceID
	agent     odometer.AgentID
	countedBy string
	started   int64

	// The watermark: everything up to here is booked.
	sequence uint64
	end      int64
	vector   odometer.Usage
	closed   bool
	position int64

	open    bucket
	owner   odometer.Owner // who was last noted to have usage of it, where owned
	owned   bool
	owners  history // of its instance, where ownersKnown
	digests []byte  // of the unfinished chunk

	held        int // events of this epoch that are held
	ownersKnown bool

	dirty bool
	fresh bool // not in the tables yet
}

// How an epoch's usage is counted.
const (
	byVector = "vector" // by the difference of odometer readings
	byTime   = "time"   // by the time covered: version 1.0
)

// bucket sums what one owner used in one hour.
type bucket struct {
	hour      int64
	owner     odometer.Owner
	sums      odometer.Usage
	recovered int64 // of the measured and estimated time, what was recovered
}

func (b *bucket) empty() bool { return b.sums == (odometer.Usage{}) && b.recovered == 0 }

const (
	epochColumns = `e.partition, e.epoch_no, e.epoch, e.instance, e.agent, e.counted_by, e.started_us, s.body`
	epochTables  = `epochs e JOIN state s ON ` + epochState
	epochState   = `s.id = (e.partition << 37) + (e.epoch_no >> 3)` // see stateID
)

func (e *epoch) scan(row interface{ Scan(...any) error }) error {
	var body []byte
	err := row.Scan(&e.partition, &e.no, &e.epoch, &e.instance, &e.agent, &e.countedBy, &e.started, &body)
	if err != nil {
		return err
	}
	if err := e.cutFrom(body); err != nil {
		return fmt.Errorf("state of epoch %s: %w", e.epoch, err)
	}
	e.digests = bytes.Clone(e.digests) // not the neighbours' with it
	e.owner, e.owned = e.open.owner, e.open.owner.User != ""
	return nil
}

// loadEpoch reads an epoch from the tables; nil when there is none.
func (f *fold) loadEpoch(key epochKey) (*epoch, error) {
	e := new(epoch)
	rows, err := f.query(`SELECT `+epochColumns+` FROM `+epochTables+` WHERE e.partition = ? AND e.epoch = ?`, key.partition, string(key.epoch))
	if err != nil {
		return nil, fmt.Errorf("epoch %s: %w", key.epoch, err)
	}
	defer rows.Close()
	if !rows.Next() {
		e = nil
	} else if err := e.scan(rows); err != nil {
		return nil, fmt.Errorf("epoch %s: %w", key.epoch, err)
	}
	return e, rows.Err()
}

// digestsPerChunk is how many sequence numbers share a chunk of digests: a
// chunk of 32 keeps an open state below 400 bytes and writes one finished row
// for 32 events.
const digestsPerChunk = 32

func chunkOf(sequence uint64) int64 { return int64((sequence - 1) / digestsPerChunk) }

// appendDigest adds an event to a chunk: how many sequence numbers it covers,
// its own place in the chunk, and the first 8 bytes of its digest. They tell
// an event that comes again from one that changed; they secure nothing.
func appendDigest(chunk []byte, first, sequence uint64, d odometer.Digest) []byte {
	chunk = binary.AppendUvarint(chunk, (sequence-1)%digestsPerChunk)
	chunk = binary.AppendUvarint(chunk, sequence-first)
	return append(chunk, d[:8]...)
}

// findDigest looks an event up in a chunk. Found means that an event with
// this identity was booked; same that its content was the same.
func findDigest(chunk []byte, first, sequence uint64, d odometer.Digest) (found, same bool, err error) {
	for len(chunk) > 0 {
		place, n := binary.Uvarint(chunk)
		if n <= 0 {
			return false, false, fmt.Errorf("chunk of digests: %w", odometer.ErrInvalid)
		}
		chunk = chunk[n:]
		length, n := binary.Uvarint(chunk)
		if n <= 0 || len(chunk) < n+8 {
			return false, false, fmt.Errorf("chunk of digests: %w", odometer.ErrInvalid)
		}
		if place == (sequence-1)%digestsPerChunk && length == sequence-first {
			return true, [8]byte(chunk[n:n+8]) == [8]byte(d[:8]), nil
		}
		chunk = chunk[n+8:]
	}
	return false, false, nil
}
