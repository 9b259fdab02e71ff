package odometer

import (
	"fmt"
	"regexp"
	"time"
)

// ConsumerID names a consumer of the ledger's topic; it is no secret, and also the
// name of its durable consumer there.
type ConsumerID string

var consumerID = regexp.MustCompile(`^con_[a-z2-7]{16}$`)

// ValidConsumerID returns nil for what may be the id of a consumer.
func ValidConsumerID(s string) error {
	if !consumerID.MatchString(s) {
		return fmt.Errorf("%.40q is no id of a consumer, such as con_abcdefghijklmnop: %w", HideSecrets(s), ErrInvalid)
	}
	return nil
}

// Consumer is who may read the ledger's topic, by a key of its own, and do nothing
// else: a billing system.
type Consumer struct {
	ID        ConsumerID
	Name      string
	Org       OrgID // whose entries it reads, "" for all
	Key       Key
	Created   time.Time
	CreatedBy string
	Revoked   time.Time // zero while it is not
}

// Peer is who has a key: a host's agent or a consumer, and one of both.
type Peer struct {
	Agent    AgentID
	Consumer ConsumerID
}

// What is done with consumers, in the audit log.
const (
	ActionConsumerCreate Action = "consumer.create"
	ActionConsumerRevoke Action = "consumer.revoke"
)
