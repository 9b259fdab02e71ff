package notify

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"

	"example.org/odometer"
)

// Slack's incoming webhooks, and what is compatible with them (Mattermost, Rocket.Chat,
// Discord under /slack), take a JSON object with a text. Three characters are escaped in
// it, so that nothing of a name becomes a link or calls somebody.

var slackText = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;")

// slackMost is how many characters of a text Slack shows; it cuts off at 40,000.
const slackMost = 35_000

func slackBody(j *job, list []odometer.Violation) []byte {
	var b strings.Builder
	all := lines(j, list)
	for i, line := range all {
		line = slackText.Replace(line)
		switch {
		case i > 0 && len(list) > 1:
			line = "\n• " + line
		case i > 0:
			line = "\n" + line
		}
		if b.Len()+len(line) > slackMost {
			b.WriteString("\n… and more: see the violations of the server")
			break
		}
		b.WriteString(line)
	}
	text, err := json.Marshal(map[string]string{"text": b.String()})
	if err != nil {
		panic(err) // a string
	}
	return text
}

func (n *Notifier) sendSlack(ctx context.Context, j *job, list []odometer.Violation, r *result) error {
	return n.post(ctx, j.url, http.Header{"Content-Type": {odometer.ContentJSON}}, slackBody(j, list), r)
}
