package odometer

import (
	"fmt"
	"regexp"
)

// ThresholdQuery asks for thresholds, in the order of their ids. What is zero or nil
// selects all.
type ThresholdQuery struct {
	After    ThresholdID // those that follow it
	Limit    int
	Holder   *Bound // whose they are
	Resource Resource
	Enabled  *bool
}

// ThresholdTest is what a threshold would have done in the past.
type ThresholdTest struct {
	From, To int64         // microseconds
	Changes  []Violation   // that it would have made, in order; without numbers
	Now      []SubjectTest // how it stands for each subject, those that have reached most first
}

// SubjectTest is how a threshold stands for a subject.
type SubjectTest struct {
	Instance InstanceID // "" for a sum
	Owner    Owner
	Value    float64  // in the threshold's unit
	Reached  []string // the levels that it has reached
}

// ViolationQuery asks for violations as they are now, the newest first. What is zero or
// nil selects all.
type ViolationQuery struct {
	Before    uint64 // those whose last change has a smaller number
	Limit     int
	Threshold ThresholdID
	Instance  InstanceID
	User      UserID
	Org       OrgID
	Level     string
	Standing  Standing
	Resource  Resource
	From, To  int64 // reached in [From, To), microseconds; To 0 for no end
	View      *View // where it is not nil, what it does not see is left out
}

// ChannelQuery asks for channels, in the order of their ids. What is zero or nil selects
// all.
type ChannelQuery struct {
	After  ChannelID // those that follow it
	Limit  int
	Holder *Bound // whose they are
	Kind   ChannelKind
}

// DeliveryQuery asks for the deliveries of a channel, the newest first.
type DeliveryQuery struct {
	Channel ChannelID
	Before  DeliveryID // those that were made before it; "" for the newest
	Limit   int
	State   DeliveryState // "" for all
}

// ValidThresholdID returns nil for what may be the id of a threshold.
func ValidThresholdID(s string) error {
	if !thresholdID.MatchString(s) {
		return fmt.Errorf("%.40q is no id of a threshold, such as thr_abcdefghijklmnop: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

var (
	channelID   = regexp.MustCompile(`^chn_[a-z2-7]{16}$`)
	deliveryID  = regexp.MustCompile(`^dlv_[a-z2-7]{26}$`)
	violationID = regexp.MustCompile(`^vio_[a-z2-7]{26}$`)
)

// ValidChannelID returns nil for what may be the id of a channel.
func ValidChannelID(s string) error {
	if !channelID.MatchString(s) {
		return fmt.Errorf("%.40q is no id of a channel, such as chn_abcdefghijklmnop: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// ValidDeliveryID returns nil for what may be the id of a delivery.
func ValidDeliveryID(s string) error {
	if !deliveryID.MatchString(s) {
		return fmt.Errorf("%.40q is no id of a delivery, such as dlv_abcdefghijklmnopqrstuvwxyz: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// ValidViolationID returns nil for what may be the id of a violation.
func ValidViolationID(s string) error {
	if !violationID.MatchString(s) {
		return fmt.Errorf("%.40q is no id of a violation, such as vio_abcdefghijklmnopqrstuvwxyz: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}
