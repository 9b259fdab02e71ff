package odometer

import (
	"fmt"
	"regexp"
	"time"
)

// Key is the public half of a host's ed25519 key pair, as NATS writes one of a
// user: U and 55 letters and digits of base32. It is no secret.
type Key string

var key = regexp.MustCompile(`^U[A-Z2-7]{55}$`)

// ValidKey returns nil for what may be a public key. Whether it is one only its
// checksum tells.
func ValidKey(s string) error {
	if !key.MatchString(s) {
		return fmt.Errorf("%.60q is no public key, which is U and 55 letters and digits: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// Host is a host that was enrolled: an agent and the key by which it is known.
type Host struct {
	Agent     AgentID
	Key       Key
	Enrolment EnrolmentID // by which it was enrolled
	Remote    string      // address that it was enrolled from
	Enrolled  time.Time
	Revoked   time.Time // zero while it is not
}

// EnrolmentID names an enrolment in public; it is no secret.
type EnrolmentID string

var enrolmentID = regexp.MustCompile(`^enr_[a-z2-7]{16}$`)

// ValidEnrolmentID returns nil for what may be the id of an enrolment.
func ValidEnrolmentID(s string) error {
	if !enrolmentID.MatchString(s) {
		return fmt.Errorf("%.40q is no id of an enrolment, such as enr_abcdefghijklmnop: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// Enrolment is what is known of a one-time token that lets a host in, without its
// secret.
type Enrolment struct {
	ID        EnrolmentID
	Agent     AgentID // that it is for, "" for any that is not enrolled
	Replace   bool    // Agent may be enrolled, and is then revoked
	Created   time.Time
	CreatedBy string
	Expires   time.Time
	Used      time.Time // zero while it is not
	UsedBy    AgentID
	Revoked   time.Time // zero while it is not
}

// EnrolRequest is a host that wants to be let in, or that is and asks again.
type EnrolRequest struct {
	Agent  AgentID
	Key    Key
	Proof  []byte // signature of [EnrolStatement] by the key
	Secret string // of a one-time token, "" where the host is enrolled
	Remote string // address that the request comes from
}

// EnrolStatement is what a host signs to show that it has the key and wants to be
// this agent.
func EnrolStatement(agent AgentID, key Key) []byte {
	return []byte("odometer: host " + string(agent) + " has key " + string(key))
}

// What is done with hosts, in the audit log.
const (
	ActionEnrolmentCreate Action = "enrolment.create"
	ActionEnrolmentRevoke Action = "enrolment.revoke"
	ActionHostEnrol       Action = "host.enrol"
	ActionHostRevoke      Action = "host.revoke"
)
