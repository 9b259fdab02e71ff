package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"example.org/odometer"
	"example.org/odometer/api"
)

// Thresholds and channels have a version, as people have.

func thresholdPath(id odometer.ThresholdID) string {
	return "/api/v1/thresholds/" + url.PathEscape(string(id))
}

func channelPath(id odometer.ChannelID) string {
	return "/api/v1/channels/" + url.PathEscape(string(id))
}

func webhookPath(id odometer.ChannelID) string {
	return "/api/v1/webhooks/" + url.PathEscape(string(id))
}

// remove deletes what is of a version and leaves nothing.
func (c *Client) remove(ctx context.Context, path string, version uint64) (nothing struct{}, err error) {
	header := http.Header{"If-Match": {`"` + strconv.FormatUint(version, 10) + `"`}}
	if version == uint64(odometer.AnyVersion) {
		header.Set("If-Match", "*")
	}
	status, body, err := c.send(ctx, http.MethodDelete, path, nil, header, nil)
	if err == nil && status != http.StatusNoContent {
		err = c.decode(status, body, &nothing)
	}
	return nothing, err
}

// CreateThreshold creates a threshold.
func (c *Client) CreateThreshold(ctx context.Context, ask api.ThresholdRequest) (api.Threshold, error) {
	return create[api.Threshold](ctx, c, "/api/v1/thresholds", ask)
}

// AlertQuery selects thresholds or channels: by holder as the API writes it, by what is
// watched, and by kind. Limit 0 takes the server's default.
type AlertQuery struct {
	Holder   string
	Resource string // of thresholds
	Enabled  string // of thresholds: true or false
	Kind     string // of channels
	After    string
	Limit    int
}

// Thresholds returns one page of thresholds, in the order of their ids.
func (c *Client) Thresholds(ctx context.Context, q AlertQuery) (a api.ThresholdsAnswer, err error) {
	return a, c.get(ctx, "/api/v1/thresholds", values("holder", q.Holder, "resource", q.Resource, "enabled", q.Enabled, "after", q.After, "limit", positive(q.Limit)), &a)
}

// Threshold returns one threshold.
func (c *Client) Threshold(ctx context.Context, id odometer.ThresholdID) (a api.Threshold, err error) {
	return a, c.get(ctx, thresholdPath(id), nil, &a)
}

// UpdateThreshold changes a threshold to what is asked for.
func (c *Client) UpdateThreshold(ctx context.Context, id odometer.ThresholdID, version uint64, ask api.ThresholdChange) (api.Threshold, error) {
	return change[api.Threshold](ctx, c, thresholdPath(id), int64(version), ask)
}

// DeleteThreshold deletes a threshold.
func (c *Client) DeleteThreshold(ctx context.Context, id odometer.ThresholdID, version uint64) (struct{}, error) {
	return c.remove(ctx, thresholdPath(id), version)
}

// TestThreshold returns what a threshold would have done. Times are as [api.ParseTime]
// reads them, by the server's clock.
func (c *Client) TestThreshold(ctx context.Context, ask api.ThresholdRequest, from, to string) (api.ThresholdTest, error) {
	return create[api.ThresholdTest](ctx, c, "/api/v1/thresholds/test"+span(from, to), ask)
}

// TestThresholdOf is TestThreshold of one that there is.
func (c *Client) TestThresholdOf(ctx context.Context, id odometer.ThresholdID, from, to string) (a api.ThresholdTest, err error) {
	err = c.call(ctx, http.MethodPost, thresholdPath(id)+"/test", values("from", from, "to", to), "", nil, &a)
	return a, err
}

// span is a time as a query.
func span(from, to string) string {
	if v := values("from", from, "to", to); len(v) > 0 {
		return "?" + v.Encode()
	}
	return ""
}

// ViolationQuery selects violations. Times are as [api.ParseTime] reads them, and are
// read by the server's clock; Limit 0 takes the server's default.
type ViolationQuery struct {
	Threshold, Instance, User, Org string
	Level, Standing, Resource      string
	From, To                       string
	After                          string
	Limit                          int
}

func (q *ViolationQuery) values() url.Values {
	return values("threshold", q.Threshold, "instance", q.Instance, "user", q.User, "org", q.Org, "level", q.Level, "standing", q.Standing,
		"resource", q.Resource, "from", q.From, "to", q.To, "after", q.After, "limit", positive(q.Limit))
}

// Violations returns one page of violations, the newest first.
func (c *Client) Violations(ctx context.Context, q ViolationQuery) (a api.ViolationsAnswer, err error) {
	return a, c.get(ctx, "/api/v1/violations", q.values(), &a)
}

// ThresholdViolations returns one page of the violations of a threshold that the token
// sees, the newest first. The query names no other.
func (c *Client) ThresholdViolations(ctx context.Context, id odometer.ThresholdID, q ViolationQuery) (a api.ViolationsAnswer, err error) {
	return a, c.get(ctx, thresholdPath(id)+"/violations", q.values(), &a)
}

// Violation returns all changes of a violation.
func (c *Client) Violation(ctx context.Context, id odometer.ViolationID) (a api.ViolationChanges, err error) {
	return a, c.get(ctx, "/api/v1/violations/"+url.PathEscape(string(id)), nil, &a)
}

// CreateChannel creates a channel and returns it with the secret by which a webhook
// signs, which is told this one time.
func (c *Client) CreateChannel(ctx context.Context, ask api.ChannelRequest) (api.CreatedChannel, error) {
	return create[api.CreatedChannel](ctx, c, "/api/v1/channels", ask)
}

// Channels returns one page of channels, in the order of their ids.
func (c *Client) Channels(ctx context.Context, q AlertQuery) (a api.ChannelsAnswer, err error) {
	return a, c.get(ctx, "/api/v1/channels", values("holder", q.Holder, "kind", q.Kind, "after", q.After, "limit", positive(q.Limit)), &a)
}

// Channel returns one channel, without a secret.
func (c *Client) Channel(ctx context.Context, id odometer.ChannelID) (a api.Channel, err error) {
	return a, c.get(ctx, channelPath(id), nil, &a)
}

// UpdateChannel changes a channel to what is asked for.
func (c *Client) UpdateChannel(ctx context.Context, id odometer.ChannelID, version uint64, ask api.ChannelChange) (api.Channel, error) {
	return change[api.Channel](ctx, c, channelPath(id), int64(version), ask)
}

// DeleteChannel deletes a channel.
func (c *Client) DeleteChannel(ctx context.Context, id odometer.ChannelID, version uint64) (struct{}, error) {
	return c.remove(ctx, channelPath(id), version)
}

// TestChannel has a message sent to a channel and returns how that went.
func (c *Client) TestChannel(ctx context.Context, id odometer.ChannelID) (a api.Attempt, err error) {
	err = c.call(ctx, http.MethodPost, channelPath(id)+"/test", nil, "", nil, &a)
	return a, err
}

// Deliveries returns one page of what was sent to a channel, or of that in one state,
// the newest first. Limit 0 takes the server's default.
func (c *Client) Deliveries(ctx context.Context, id odometer.ChannelID, state, after string, limit int) (a api.DeliveriesAnswer, err error) {
	return a, c.get(ctx, channelPath(id)+"/deliveries", values("state", state, "after", after, "limit", positive(limit)), &a)
}

// Attempts returns each attempt of a delivery, the first first.
func (c *Client) Attempts(ctx context.Context, id odometer.ChannelID, delivery odometer.DeliveryID) (a api.AttemptsAnswer, err error) {
	return a, c.get(ctx, channelPath(id)+"/deliveries/"+url.PathEscape(string(delivery)), nil, &a)
}

// Retry has a delivery that was given up sent again, or all of them where it is "".
func (c *Client) Retry(ctx context.Context, id odometer.ChannelID, delivery odometer.DeliveryID) (api.RetryAnswer, error) {
	return create[api.RetryAnswer](ctx, c, channelPath(id)+"/retry", api.RetryRequest{Delivery: delivery})
}

// RotateSecret gives a webhook another secret, and returns it this one time.
func (c *Client) RotateSecret(ctx context.Context, id odometer.ChannelID, ask api.SecretRotation) (api.ChannelSecret, error) {
	return create[api.ChannelSecret](ctx, c, channelPath(id)+"/secret", ask)
}

// CreateWebhook registers a webhook and returns it with its secret, which is told this
// one time.
func (c *Client) CreateWebhook(ctx context.Context, ask api.WebhookRequest) (api.CreatedWebhook, error) {
	return create[api.CreatedWebhook](ctx, c, "/api/v1/webhooks", ask)
}

// Webhooks returns one page of webhooks, in the order of their ids.
func (c *Client) Webhooks(ctx context.Context, q AlertQuery) (a api.WebhooksAnswer, err error) {
	return a, c.get(ctx, "/api/v1/webhooks", values("holder", q.Holder, "after", q.After, "limit", positive(q.Limit)), &a)
}

// Webhook returns one webhook, without its secret.
func (c *Client) Webhook(ctx context.Context, id odometer.ChannelID) (a api.Webhook, err error) {
	return a, c.get(ctx, webhookPath(id), nil, &a)
}

// UpdateWebhook changes a webhook to what is asked for.
func (c *Client) UpdateWebhook(ctx context.Context, id odometer.ChannelID, version uint64, ask api.WebhookChange) (api.Webhook, error) {
	return change[api.Webhook](ctx, c, webhookPath(id), int64(version), ask)
}

// DeleteWebhook deletes a webhook.
func (c *Client) DeleteWebhook(ctx context.Context, id odometer.ChannelID, version uint64) (struct{}, error) {
	return c.remove(ctx, webhookPath(id), version)
}
