package odometer

import "encoding/json"

// Limits of a frame on the wire. What is larger is refused before it is read.
const (
	MaxFramePacked   = 256 << 10
	MaxFrameUnpacked = 1 << 20
)

// Record is one line of an agent's spool: an event, the checkpoint of the
// instance that it belongs to, or both. Records lie at positions 1, 2, 3 … of
// the spool; a record that was coalesced from several takes all their
// positions.
type Record struct {
	First, Position uint64 // First = Position unless coalesced
	Event           *Event // nil for a checkpoint alone
	// Checkpoint is the meter's state of one instance right after the event,
	// opaque to everybody else, JSON or whatever the agent writes.
	Checkpoint json.RawMessage
	// Resumes says that the agent no longer has what lay between the last
	// record it delivered of this epoch and this one: nothing is to be
	// waited for.
	Resumes bool

	// Raw is the event exactly as it was received, JSON or binary; nil in a
	// record that was not decoded, and to be set to nil by whoever changes
	// Event, since what is binary is passed on without being encoded again.
	Raw json.RawMessage
	// Err says why Raw is no valid event, wrapping [ErrInvalid]; Event is
	// then nil. A bad event spoils its own record and never its frame.
	Err error
	// Refused says why whoever received the event does not take its word, although
	// it can be read; nil where that is not so. It does not travel.
	Refused *Refusal
}

// Refusal is why an event that can be read is put in quarantine.
type Refusal struct {
	Reason string // RefusedForeign or RefusedSender
	Detail string // for a person
}

// Why an event is refused by what is known of its sender.
const (
	// RefusedForeign is of an instance that is known to run with another agent: it
	// waits until it is known that it has moved.
	RefusedForeign = "foreign_host"
	// RefusedSender was measured by another agent than the host that sent it, by its
	// own word.
	RefusedSender = "sender"
)

// Frame is what travels: consecutive records of one spool.
type Frame struct {
	Agent   AgentID // the sender
	Spool   SpoolID
	First   uint64 // position at which the frame begins
	Last    uint64 // position at which it ends
	Records []Record
	// Packed is the frame as it was received; nil in a frame that was not.
	Packed []byte
	// Err says why Packed could not be opened as a frame; Records is then nil.
	Err error
}

// Receipt tells an agent what the ledger has committed. Everything up to
// Position of the spool is in the ledger (booked, held or in quarantine), for
// ever.
type Receipt struct {
	Agent      AgentID  `json:"agent_id"`
	Spool      SpoolID  `json:"spool"`
	Position   uint64   `json:"position"`
	Ledger     LedgerID `json:"ledger_id"`
	Generation uint64   `json:"generation"` // raised when the ledger was restored from a backup
	// Ahead says that a frame arrived that begins after Position+1: something
	// before it was lost on the way and must be sent again.
	Ahead bool `json:"ahead,omitempty"`
	// Frames is the newest format of frames that the server takes, 0 from a
	// server of before there were two: format 1.
	Frames int `json:"frame_format,omitempty"`
}
