package api

import (
	"fmt"
	"net/http"
	"net/url"
	"time"

	"example.org/odometer"
)

// A webhook is a channel of that kind, in fewer words: whatever channels can do, as to
// be tested or to have another secret, it can under its id.

// Webhook is a webhook as an answer has it, without its secret. Its version is its ETag.
type Webhook struct {
	ID        odometer.ChannelID   `json:"id" schema:"pattern=^chn_[a-z2-7]{16}$"`
	Name      string               `json:"name"`
	URL       string               `json:"url"`
	Events    []odometer.EventKind `json:"event_types"` // what it is told
	User      *odometer.UserID     `json:"user_id"`     // whose it is; null with org_id for the operator's
	Org       *odometer.OrgID      `json:"org_id"`
	Enabled   bool                 `json:"enabled"`
	Problem   *string              `json:"problem"` // why the server disabled it or, while it is enabled, what of the ledger it was not told; null for neither
	Version   uint64               `json:"version" schema:"minimum=1"`
	CreatedAt time.Time            `json:"registered_at"`
	UpdatedAt time.Time            `json:"updated_at"`
}

// WebhookRequest is the body of POST /api/v1/webhooks.
type WebhookRequest struct {
	User *odometer.UserID `json:"user_id,omitempty" schema:"nullable"` // whose it is; absent with org_id for the caller's own
	Org  *odometer.OrgID  `json:"org_id,omitempty" schema:"nullable"`
	// Secret as Standard Webhooks writes it; absent for a new one.
	Secret string `json:"secret,omitempty"`
	WebhookChange
}

// WebhookChange is the body of PUT /api/v1/webhooks/{id}: all of what can be changed.
type WebhookChange struct {
	URL     string               `json:"url" schema:"minLength=1"`
	Events  []odometer.EventKind `json:"event_types"`                           // what it is told
	Name    string               `json:"name,omitempty" schema:"maxLength=128"` // for people; absent for the host and the path of the address
	Enabled *bool                `json:"enabled,omitempty" schema:"nullable"`   // absent for true
}

// CreatedWebhook is the answer to POST /api/v1/webhooks: the one time that the secret is
// told.
type CreatedWebhook struct {
	Webhook
	Secret string `json:"secret"` // by which it signs
}

// WebhooksAnswer is the body of GET /api/v1/webhooks.
type WebhooksAnswer struct {
	Webhooks []Webhook `json:"webhooks"` // in the order of their ids
	Next     *string   `json:"next"`     // cursor of the page that follows, null when there is none
}

func webhookOf(c *odometer.Channel) Webhook {
	return Webhook{
		ID: c.ID, Name: c.Name, URL: c.URL, Events: append([]odometer.EventKind{}, c.Events...), User: named(c.Holder.User), Org: named(c.Holder.Org),
		Enabled: c.Enabled, Problem: named(c.Problem), Version: c.Version, CreatedAt: c.Created, UpdatedAt: c.Changed,
	}
}

var webhookPath = &parameter{
	name: "id", in: inPath, component: "WebhookId", most: odometer.MaxIDBytes, valid: odometer.ValidChannelID, pattern: "^chn_[a-z2-7]{16}$",
	example: exampleChannel, description: "the id of a webhook, which is no secret",
}

func (s *server) webhookRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/webhooks", access: reader, handle: s.getWebhooks,
			id: "webhooks", tag: "alerts", summary: "The webhooks that the caller sees",
			description: "They are the channels of this kind. No secret is in any answer but the one that created it.",
			params:      []*parameter{holderParam, afterCursor, limitParam},
			replies:     []reply{answers(http.StatusOK, "One page.", WebhooksAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/webhooks", access: accountHolder, handle: s.postWebhook,
			id: "createWebhook", tag: "alerts", summary: "Register a webhook",
			description: "`usage` tells each entry of the ledger that its holder sees, `threshold_violation` each change of a violation by a machine, or a sum, whose usage its holder sees. The body is the CloudEvent, signed by Standard Webhooks with the secret that this answer, and no other, has.",
			params:      []*parameter{onceHeader},
			takes:       takes(WebhookRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The webhook.", CreatedWebhook{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "GET /api/v1/webhooks/{id}", access: reader, handle: s.getWebhook,
			id: "webhook", tag: "alerts", summary: "One webhook",
			description: "Without its secret.",
			params:      []*parameter{webhookPath},
			replies:     []reply{answers(http.StatusOK, "The webhook.", Webhook{}, versioned)}, fails: missing,
		},
		{
			pattern: "PUT /api/v1/webhooks/{id}", access: accountHolder, handle: s.putWebhook,
			id: "updateWebhook", tag: "alerts", summary: "Change a webhook",
			description: "All that can be changed is in the body. To enable one that the server disabled has it forget why.",
			params:      []*parameter{webhookPath, ifMatchHeader},
			takes:       takes(WebhookChange{}),
			replies:     []reply{answers(http.StatusOK, "The webhook as it is then.", Webhook{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/webhooks/{id}", access: accountHolder, handle: s.deleteWebhook,
			id: "deleteWebhook", tag: "alerts", summary: "Delete a webhook",
			description: "What waits for it is not sent any more. One that thresholds name is refused.",
			params:      []*parameter{webhookPath, ifMatchHeader},
			replies:     []reply{{http.StatusNoContent, "It is gone.", nil, nil}}, fails: changes,
		},
	}
}

// channel is the webhook as a channel, which has a name.
func (c *WebhookChange) channel() odometer.Channel {
	name := c.Name
	if u, err := url.Parse(c.URL); name == "" && err == nil { // whose parts that may be secret are left out
		name = clip(u.Host + u.EscapedPath())
	}
	return odometer.Channel{Kind: odometer.ChannelWebhook, Name: name, Enabled: c.Enabled == nil || *c.Enabled, URL: c.URL, Events: c.Events}
}

func (s *server) getWebhooks(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	p := queryOf(r)
	q := odometer.ChannelQuery{After: odometer.ChannelID(p.text("after")), Limit: p.limit() + 1, Holder: heldBy(p), Kind: odometer.ChannelWebhook}
	list, err := s.Channels.Channels(r.Context(), caller(r), q)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(c odometer.Channel) odometer.ChannelID { return c.ID })
	answer := WebhooksAnswer{Webhooks: []Webhook{}, Next: next}
	for i := range list {
		answer.Webhooks = append(answer.Webhooks, webhookOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postWebhook(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	var ask WebhookRequest
	var c odometer.Channel
	once, err := asked(r, &ask, func(wrong *checks) {
		c = ask.channel()
		c.Holder = holderOf(r, ask.User, ask.Org, wrong)
	})
	if err != nil {
		return err
	}
	c, secret, err := s.Channels.CreateChannel(r.Context(), actor(r), once, c, ChannelSecrets{Sign: ask.Secret})
	if err != nil {
		return inBody(err)
	}
	w.Header().Set("Location", "/api/v1/webhooks/"+url.PathEscape(string(c.ID)))
	return writeVersion(w, http.StatusCreated, int64(c.Version), CreatedWebhook{webhookOf(&c), secret})
}

// webhook returns the channel in the path, where it is a webhook.
func (s *server) webhook(r *http.Request) (odometer.Channel, error) {
	c, err := s.channel(r)
	if err == nil && c.Kind != odometer.ChannelWebhook {
		return c, fmt.Errorf("channel %s is no webhook: %w", c.ID, odometer.ErrNotFound)
	}
	return c, err
}

func (s *server) getWebhook(w http.ResponseWriter, r *http.Request) error {
	c, err := s.webhook(r)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, int64(c.Version), webhookOf(&c))
}

func (s *server) putWebhook(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	var ask WebhookChange
	if _, err := asked(r, &ask, func(*checks) {}); err != nil {
		return err
	}
	version, err := versionOf(r)
	if err != nil {
		return err
	}
	had, err := s.webhook(r)
	if err != nil {
		return err
	}
	c := ask.channel()
	c.ID = had.ID
	if ask.Name == "" {
		c.Name = had.Name
	}
	if c, err = s.Channels.UpdateChannel(r.Context(), actor(r), c, version, nil); err != nil {
		return inBody(err)
	}
	return writeVersion(w, http.StatusOK, int64(c.Version), webhookOf(&c))
}

func (s *server) deleteWebhook(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	version, err := versionOf(r)
	if err != nil {
		return err
	}
	c, err := s.webhook(r)
	if err != nil {
		return err
	}
	if err := s.Channels.DeleteChannel(r.Context(), actor(r), c.ID, version); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
