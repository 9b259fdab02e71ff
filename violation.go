package odometer

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"strings"
)

// ViolationID names a violation: "vio_" and 26 characters. It follows from what was
// violated: threshold, level, subject and, for a budget, its period, or else the event
// that did it; so that whatever is read again finds the same violation.
type ViolationID string

// NewViolationID returns the id of a violation: the same for the same level of the same
// threshold, subject and period, or event.
func NewViolationID(t ThresholdID, level, subject, period string) ViolationID {
	h := sha256.New()
	for _, s := range []string{"odometer violation", string(t), level, subject, period} {
		fmt.Fprintf(h, "%d:%s,", len(s), s)
	}
	return ViolationID("vio_" + strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil))[:26]))
}

// ViolationType is the event_type of a violation that is told.
const ViolationType = "threshold_violation"

// CloudEventViolation is its type as a CloudEvent.
const CloudEventViolation = "org.odometer.violation.v1"

// CloudEventLedger is the source of what is not measured but follows from the ledger.
const CloudEventLedger = "odometer/ledger"

// Standing is what has become of a violation.
type Standing string

const (
	StandingOpen      Standing = "open"
	StandingRecovered Standing = "recovered" // the value fell back, or the budget's period ended
	StandingRetracted Standing = "retracted" // a correction undid it
)

// Violation is one level of a threshold that was reached, by one subject. It is
// recorded once; what becomes of it are its changes.
type Violation struct {
	ID        ViolationID
	Change    uint64 // from 1 on: which of its changes this is
	Number    uint64 // of the change among all of the ledger's, dense from 1: its place in the log
	Threshold ThresholdID
	Version   uint64 // of the threshold, when it was reached
	Name      string // of the threshold
	About     string // its description
	Holder    Bound  // whose the threshold is
	Shared    bool   // whether the threshold's violations are seen by whoever sees the usage
	Level     string
	Standing  Standing

	// Subject: an instance and its owner then, or with Sum a user or an organisation.
	Instance InstanceID // "" for a sum
	Owner    Owner
	Sum      bool

	Resource  Resource
	Condition Condition
	Unit      Unit
	Limit     float64 // the level's value
	Before    float64 // the value before that of this change, 0 where there was none lately
	Value     float64 // the value with which it was reached, or which changed it

	From, To int64  // of a budget's period, or of the event; microseconds
	Crossed  int64  // when it was reached, by the time of use; microseconds
	Detected int64  // when that was found; microseconds
	Changed  int64  // when this change was made; microseconds
	Ended    int64  // of what recovered: when the value fell back, by the time of use; microseconds, 0 otherwise
	EndedBy  string // id of the event that did that, "" where none did
	Reaches  int64  // of a forecast: when the limit is reached; microseconds, 0 otherwise
	Event    string // id of the event that did it, "" for silence
	Entry    string // id of the ledger's entry, "" for silence
	Late     bool   // found by an event that came after later ones

	Action   Notify
	Channels []ChannelID
}

// SeenBy reports whether a view sees the violation: that of whose threshold it is, and
// where that is shared, whichever sees what was used.
func (v *Violation) SeenBy(view View) bool {
	return view.Sees(Owner(v.Holder)) || v.Shared && view.SeesUse(v.Instance, v.Owner, v.Crossed)
}
