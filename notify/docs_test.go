package notify

import (
	"os"
	"regexp"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// TestTheExampleInTheDocumentation is verified by the official library, and is what this
// program signs.
func TestTheExampleInTheDocumentation(t *testing.T) {
	b, err := os.ReadFile("../docs/notifications.md")
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)the secret\n`(whsec_[^`]+)`\nsigns the body\n`([^`]+)`\nunder the id `([^`]+)` and the timestamp `([0-9]+)` as\n`([^`]+)`").FindStringSubmatch(string(b))
	if m == nil {
		t.Fatal("docs/notifications.md has no example")
	}
	secret, body, id, timestamp, want := m[1], m[2], m[3], m[4], m[5]
	got, err := signatures([]string{secret}, id, timestamp, []byte(body))
	if err != nil || got != want {
		t.Errorf("got %s, %v, want %s as documented", got, err, want)
	}
	v, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	header := map[string][]string{"Webhook-Id": {id}, "Webhook-Timestamp": {timestamp}, "Webhook-Signature": {want}}
	if err := v.VerifyIgnoringTimestamp([]byte(body), header); err != nil {
		t.Errorf("the official library: %v", err)
	}
}
