package odometer

import (
	"encoding/json"
	"strconv"
	"time"
)

// violationJSON is a change of a violation as it is published.
type violationJSON struct {
	EventType string      `json:"event_type"`
	Version   string      `json:"version"`
	ID        ViolationID `json:"violation_id"`
	Change    uint64      `json:"change"`
	Standing  Standing    `json:"standing"`

	Threshold        ThresholdID `json:"threshold_id"`
	ThresholdVersion uint64      `json:"threshold_version"`
	Name             string      `json:"threshold_name"`
	About            *string     `json:"threshold_description"`
	HolderUser       *UserID     `json:"holder_user_id"`
	HolderOrg        *OrgID      `json:"holder_org_id"`
	Shared           bool        `json:"shared"`
	Level            string      `json:"level"`

	Instance *InstanceID `json:"instance_id"`
	User     *UserID     `json:"user_id"`
	Org      *OrgID      `json:"org_id"`
	Sum      bool        `json:"sum"`

	Resource  *Resource `json:"resource"`
	Condition Condition `json:"condition"`
	Unit      Unit      `json:"unit"`
	Limit     float64   `json:"limit"`
	Before    float64   `json:"before"`
	Value     float64   `json:"value"`

	From     *time.Time  `json:"from"`
	To       *time.Time  `json:"to"`
	Crossed  *time.Time  `json:"crossed_at"`
	Detected *time.Time  `json:"detected_at"`
	Changed  *time.Time  `json:"changed_at"`
	Ended    *time.Time  `json:"ended_at"`
	EndedBy  *string     `json:"ended_by_event_id"`
	Reaches  *time.Time  `json:"reaches_at"`
	Event    *string     `json:"event_id"`
	Entry    *string     `json:"entry_id"`
	Late     bool        `json:"late"`
	Action   Notify      `json:"action"`
	Channels []ChannelID `json:"channels"`
}

// AppendJSON appends the change as JSON: times are RFC 3339 in UTC, and what there is
// not is null.
func (v *Violation) AppendJSON(b []byte) []byte {
	at := func(us int64) *time.Time {
		if us == 0 {
			return nil
		}
		return new(time.UnixMicro(us).UTC())
	}
	j := violationJSON{
		EventType: ViolationType, Version: "1.0", ID: v.ID, Change: v.Change, Standing: v.Standing,
		Threshold: v.Threshold, ThresholdVersion: v.Version, Name: v.Name, About: some(v.About), HolderUser: some(v.Holder.User), HolderOrg: some(v.Holder.Org), Shared: v.Shared, Level: v.Level,
		Instance: some(v.Instance), User: some(v.Owner.User), Org: some(v.Owner.Org), Sum: v.Sum,
		Resource: some(v.Resource), Condition: v.Condition, Unit: v.Unit, Limit: v.Limit, Before: v.Before, Value: v.Value,
		From: at(v.From), To: at(v.To), Crossed: at(v.Crossed), Detected: at(v.Detected), Changed: at(v.Changed), Ended: at(v.Ended), EndedBy: some(v.EndedBy), Reaches: at(v.Reaches),
		Event: some(v.Event), Entry: some(v.Entry), Late: v.Late, Action: v.Action, Channels: append([]ChannelID{}, v.Channels...),
	}
	text, err := json.Marshal(j)
	if err != nil {
		panic(err) // numbers are finite
	}
	return append(b, text...)
}

// ChangeID names the change for ever: the violation, a dot, and which of its changes it is.
func (v *Violation) ChangeID() string { return string(v.ID) + "." + strconv.FormatUint(v.Change, 10) }

// CloudEvent returns the change as a CloudEvent, of the time when it was made. A sum has no
// subject.
func (v *Violation) CloudEvent() CloudEvent {
	return CloudEvent{
		ID: v.ChangeID(), Source: CloudEventLedger, Type: CloudEventViolation, Subject: string(v.Instance), Time: time.UnixMicro(v.Changed).UTC(), Data: v.AppendJSON(nil),
	}
}

// some returns nil for "".
func some[T ~string](s T) *T {
	if s == "" {
		return nil
	}
	return &s
}
