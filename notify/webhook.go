package notify

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"example.org/odometer"
)

// A webhook is a request as Standard Webhooks has it
// (https://github.com/standard-webhooks/standard-webhooks): the body is the CloudEvent in
// structured mode, and the headers are
//
//	webhook-id         the id of the delivery, at every attempt the same
//	webhook-timestamp  seconds since the Unix epoch, of the attempt
//	webhook-signature  v1,BASE64 of HMAC-SHA256 over id.timestamp.body, for each secret

const testType = "org.odometer.test.v1"

// webhookBody is what a webhook is sent: one event.
func webhookBody(j *job, list []odometer.Violation) ([]byte, error) {
	switch {
	case j.kind == odometer.EventUsage:
		return []byte(j.body), nil
	case j.kind == "":
		e := odometer.CloudEvent{
			ID: j.event, Source: odometer.CloudEventSource + "notify", Type: testType,
			Data: json.RawMessage(`{"event_type":"test","channel_id":` + strconv.Quote(string(j.channel.ID)) + `}`),
		}
		return e.AppendJSON(nil), nil
	case len(list) != 1:
		return nil, fmt.Errorf("%d events, and a webhook is sent one", len(list))
	}
	e := list[0].CloudEvent()
	return e.AppendJSON(nil), nil
}

// signatures signs with each secret, the newest first.
func signatures(secrets []string, id, timestamp string, body []byte) (string, error) {
	var list []string
	for _, s := range secrets {
		key, err := signKey(s)
		if err != nil {
			return "", errors.New("its secret is none")
		}
		h := hmac.New(sha256.New, key)
		h.Write([]byte(id + "." + timestamp + "."))
		h.Write(body)
		list = append(list, "v1,"+base64.StdEncoding.EncodeToString(h.Sum(nil)))
	}
	if len(list) == 0 {
		return "", errors.New("it has no secret to sign with: give it one (rotate)")
	}
	return strings.Join(list, " "), nil
}

func (n *Notifier) sendWebhook(ctx context.Context, j *job, list []odometer.Violation, r *result) error {
	body, err := webhookBody(j, list)
	if err != nil {
		return err
	}
	timestamp := strconv.FormatInt(r.attempt.At.Unix(), 10)
	signature, err := signatures(j.sign, string(j.id), timestamp, body)
	if err != nil {
		return err
	}
	return n.post(ctx, j.url, http.Header{
		"Content-Type":      {odometer.ContentCloudEvent},
		"Webhook-Id":        {string(j.id)},
		"Webhook-Timestamp": {timestamp},
		"Webhook-Signature": {signature},
	}, body, r)
}
