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

// slackMost is how many bytes of lines a message has at most: Slack cuts off a text at
// 40,000 characters, and a headline is before them.
const slackMost = 35_000

// slackLine is one line of several.
func slackLine(v *odometer.Violation) string { return "\n• " + slackText.Replace(v.Text()) }

// slackFits returns how many of the first of some deliveries one message has room for, at
// least one.
func slackFits(list []delivery) (n int, err error) {
	size := 0
	for n = range list {
		told, err := violations(list[n].body)
		if err != nil {
			return 0, err
		}
		for i := range told {
			size += len(slackLine(&told[i]))
		}
		if size > slackMost && n > 0 {
			return n, nil
		}
	}
	return len(list), nil
}

func slackBody(j *job, list []odometer.Violation) []byte {
	var b strings.Builder
	if len(list) > 1 {
		b.WriteString(slackText.Replace(headline(j, list)))
		for i := range list {
			b.WriteString(slackLine(&list[i]))
		}
	} else {
		b.WriteString(slackText.Replace(strings.Join(lines(j, list), "\n")))
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
