package odometer

import "time"

// ChannelID names a channel: "chn_" and 16 characters. A webhook is a channel, too.
type ChannelID string

// ChannelKind is how a channel tells.
type ChannelKind string

const (
	ChannelWebhook      ChannelKind = "webhook"      // a CloudEvent, signed by Standard Webhooks
	ChannelSlack        ChannelKind = "slack"        // a message to a webhook that is compatible with Slack's
	ChannelEmail        ChannelKind = "email"        // over SMTP
	ChannelAlertmanager ChannelKind = "alertmanager" // Prometheus Alertmanager, API v2
	ChannelLog          ChannelKind = "log"          // the server's log
)

// EventKind is what a webhook is told.
type EventKind string

const (
	EventUsage     EventKind = "usage"               // each entry of the ledger
	EventViolation EventKind = "threshold_violation" // each change of a violation
)

// Channel is somewhere that is told. Secrets in it are never given out again.
type Channel struct {
	ID      ChannelID
	Version uint64
	Name    string // unique among those of its holder
	Kind    ChannelKind
	Holder  Bound // whose it is: it is told what its holder may see
	Enabled bool
	// Problem is why the server disabled it; of one that is enabled, what of the ledger it
	// was not told. "" for neither. It is gone when the channel is changed.
	Problem string

	URL     string      // of webhook, slack and alertmanager
	To      []string    // addresses of email
	Events  []EventKind // of a webhook
	Secrets int         // of a webhook: how many sign now, the newest first

	Created, Changed time.Time
	CreatedBy        string
}

// DeliveryID names one message to one channel: "dlv_" and 26 characters. It is the
// idempotency key under which the receiver sees it, at every attempt.
type DeliveryID string

// DeliveryState is what has become of a delivery.
type DeliveryState string

const (
	DeliveryWaiting   DeliveryState = "waiting" // for its turn or its next attempt
	DeliveryDelivered DeliveryState = "delivered"
	DeliveryDead      DeliveryState = "dead" // given up; may be sent again
)

// Delivery is one message to one channel.
type Delivery struct {
	ID       DeliveryID
	Channel  ChannelID
	Kind     EventKind // "" for a test
	Subject  string    // the order of messages is kept within it
	Event    string    // id of the CloudEvent, or of the first in a digest
	Events   int       // how many changes it tells: more than 1 in a digest
	State    DeliveryState
	Attempts int
	Next     time.Time // the next attempt, zero where there is none
	Created  time.Time
	Done     time.Time // delivered or given up, zero before
	Last     Attempt   // the last attempt, zero before the first
}

// Attempt is one try to deliver.
type Attempt struct {
	At      time.Time
	Latency time.Duration
	Status  int    // of HTTP or SMTP, 0 for none
	Answer  string // the start of it, at most 512 bytes
	Err     string // why it failed, "" where it did not
}
