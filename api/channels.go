package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"example.org/odometer"
)

// ChannelAdmin keeps channels and what was sent to them, and decides what a caller sees
// and may change of them, with errors as [PeopleAdmin] has them. A problem with a
// channel is an [odometer.ErrInvalid] that names the member; see inBody.
type ChannelAdmin interface {
	// CreateChannel returns the secret by which a webhook signs, this one time: the one
	// that is given, or a new one.
	CreateChannel(ctx context.Context, by odometer.Actor, once odometer.Once, c odometer.Channel, given ChannelSecrets) (odometer.Channel, string, error)
	Channel(ctx context.Context, by odometer.Caller, id odometer.ChannelID) (odometer.Channel, error)
	Channels(ctx context.Context, by odometer.Caller, q odometer.ChannelQuery) ([]odometer.Channel, error)
	// UpdateChannel gives an Alertmanager's channel another token too, where one is
	// given, or none where that is "".
	UpdateChannel(ctx context.Context, by odometer.Actor, c odometer.Channel, version uint64, bearer *string) (odometer.Channel, error)
	DeleteChannel(ctx context.Context, by odometer.Actor, id odometer.ChannelID, version uint64) error
	// RotateSecret gives a webhook another secret; the one before signs beside it for
	// a time.
	RotateSecret(ctx context.Context, by odometer.Actor, id odometer.ChannelID, keep time.Duration) (secret string, err error)
	// TestChannel sends a message at once and returns how that went.
	TestChannel(ctx context.Context, by odometer.Actor, id odometer.ChannelID) (odometer.Attempt, error)
	Deliveries(ctx context.Context, by odometer.Caller, q odometer.DeliveryQuery) ([]odometer.Delivery, error)
	Attempts(ctx context.Context, by odometer.Caller, channel odometer.ChannelID, id odometer.DeliveryID) ([]odometer.Attempt, error)
	// RetryDeliveries has one that was given up sent again, or all of them where id
	// is "", and returns how many.
	RetryDeliveries(ctx context.Context, by odometer.Actor, channel odometer.ChannelID, id odometer.DeliveryID) (int, error)
}

// ChannelSecrets are what a request has with a channel and no answer tells.
type ChannelSecrets struct {
	Sign   string // by which a webhook signs, "" for a new one
	Bearer string // what an Alertmanager asks for, "" for nothing
}

// Channel is a channel as an answer has it, without a secret. Its version is its ETag.
type Channel struct {
	ID        odometer.ChannelID   `json:"id" schema:"pattern=^chn_[a-z2-7]{16}$"`
	Name      string               `json:"name"`
	Kind      odometer.ChannelKind `json:"kind"`
	User      *odometer.UserID     `json:"user_id"` // whose it is; null with org_id for the operator's
	Org       *odometer.OrgID      `json:"org_id"`
	Enabled   bool                 `json:"enabled"`
	Problem   *string              `json:"problem"`     // why the server disabled it or, while it is enabled, what of the ledger it was not told; null for neither
	URL       *string              `json:"url"`         // of webhook, slack and alertmanager
	To        []string             `json:"to"`          // addresses of email
	Events    []odometer.EventKind `json:"event_types"` // what a webhook is told
	Secrets   int                  `json:"secrets"`     // of a webhook: how many sign now
	Version   uint64               `json:"version" schema:"minimum=1"`
	CreatedAt time.Time            `json:"created_at"`
	CreatedBy string               `json:"created_by"`
	UpdatedAt time.Time            `json:"updated_at"`
}

// ChannelRequest is the body of POST /api/v1/channels.
type ChannelRequest struct {
	Kind odometer.ChannelKind `json:"kind"`
	User *odometer.UserID     `json:"user_id,omitempty" schema:"nullable"` // whose it is; absent with org_id for the caller's own
	Org  *odometer.OrgID      `json:"org_id,omitempty" schema:"nullable"`
	// Secret of a webhook, as Standard Webhooks writes it; absent for a new one.
	Secret string `json:"secret,omitempty"`
	ChannelChange
}

// ChannelChange is the body of PUT /api/v1/channels/{id}: all of what can be changed.
type ChannelChange struct {
	// Name is one line of printable text, for people, that no other channel of its
	// holder has.
	Name    string   `json:"name" schema:"minLength=1,maxLength=128"`
	Enabled *bool    `json:"enabled,omitempty" schema:"nullable"` // absent for true
	URL     string   `json:"url,omitempty"`                       // of webhook, slack and alertmanager; it may have a secret in it
	To      []string `json:"to,omitempty"`                        // addresses of email
	// Events are what a webhook is told; absent for threshold_violation.
	Events []odometer.EventKind `json:"event_types,omitempty"`
	// Bearer is the token that an Alertmanager asks for, empty for none. Of a change it is
	// absent where it stays, which it may only for the same server.
	Bearer *string `json:"bearer,omitempty" schema:"nullable"`
}

// CreatedChannel is the answer to POST /api/v1/channels: the one time that the secret is
// told.
type CreatedChannel struct {
	Channel
	Secret *string `json:"secret"` // by which a webhook signs, null for other channels
}

// ChannelsAnswer is the body of GET /api/v1/channels.
type ChannelsAnswer struct {
	Channels []Channel `json:"channels"` // in the order of their ids
	Next     *string   `json:"next"`     // cursor of the page that follows, null when there is none
}

// ChannelSecret is the answer to POST /api/v1/channels/{id}/secret.
type ChannelSecret struct {
	Channel odometer.ChannelID `json:"channel_id"`
	Secret  string             `json:"secret"` // by which the webhook signs from now on
	Until   time.Time          `json:"until"`  // to when the one before signs beside it
}

// SecretRotation is the body of POST /api/v1/channels/{id}/secret.
type SecretRotation struct {
	// KeepSeconds is for how long the secret of before signs beside the new one; absent
	// for a day.
	KeepSeconds *int64 `json:"keep_s,omitempty" schema:"minimum=0,maximum=2592000,nullable"`
}

// Attempt is one try to deliver.
type Attempt struct {
	At        time.Time `json:"at"`
	LatencyMS float64   `json:"latency_ms"`
	Status    *int      `json:"status"` // of HTTP or SMTP, null for no answer
	Answer    string    `json:"answer"` // the start of it
	Error     *string   `json:"error"`  // why it failed, null where it did not
}

// Delivery is one message to a channel.
type Delivery struct {
	ID        odometer.DeliveryID    `json:"id"`         // under which the receiver sees it, at every attempt
	EventType *odometer.EventKind    `json:"event_type"` // null for a test
	Subject   string                 `json:"subject"`    // messages of the same one are sent in order
	Event     string                 `json:"event_id"`   // of the CloudEvent, or of the first in a digest
	Events    int                    `json:"events"`     // how many it tells
	State     odometer.DeliveryState `json:"state"`
	Attempts  int                    `json:"attempts"`
	CreatedAt time.Time              `json:"created_at"`
	NextAt    *time.Time             `json:"next_at"` // of the next attempt, null where there is none
	DoneAt    *time.Time             `json:"done_at"` // delivered or given up, null before
	Last      *Attempt               `json:"last"`    // the last attempt, null before the first
}

// DeliveriesAnswer is the body of GET /api/v1/channels/{id}/deliveries.
type DeliveriesAnswer struct {
	Deliveries []Delivery `json:"deliveries"` // the newest first
	Next       *string    `json:"next"`       // cursor of the page that follows, null when there is none
}

// AttemptsAnswer is the body of GET /api/v1/channels/{id}/deliveries/{delivery}.
type AttemptsAnswer struct {
	Attempts []Attempt `json:"attempts"` // the first first
}

// RetryRequest is the body of POST /api/v1/channels/{id}/retry.
type RetryRequest struct {
	// Delivery is what was given up and is sent again; absent for all that were.
	Delivery odometer.DeliveryID `json:"delivery_id,omitempty"`
}

// RetryAnswer is the answer to POST /api/v1/channels/{id}/retry.
type RetryAnswer struct {
	Retried int `json:"retried"` // deliveries that wait for their turn again
}

func channelOf(c *odometer.Channel) Channel {
	return Channel{
		ID: c.ID, Name: c.Name, Kind: c.Kind, User: named(c.Holder.User), Org: named(c.Holder.Org), Enabled: c.Enabled, Problem: named(c.Problem),
		URL: named(c.URL), To: append([]string{}, c.To...), Events: append([]odometer.EventKind{}, c.Events...), Secrets: c.Secrets,
		Version: c.Version, CreatedAt: c.Created, CreatedBy: c.CreatedBy, UpdatedAt: c.Changed,
	}
}

func attemptOf(a *odometer.Attempt) Attempt {
	out := Attempt{At: a.At, LatencyMS: float64(a.Latency.Microseconds()) / 1000, Answer: a.Answer, Error: named(a.Err)}
	if a.Status != 0 {
		out.Status = &a.Status
	}
	return out
}

func deliveryOf(d *odometer.Delivery) Delivery {
	out := Delivery{
		ID: d.ID, EventType: named(d.Kind), Subject: d.Subject, Event: d.Event, Events: d.Events, State: d.State, Attempts: d.Attempts,
		CreatedAt: d.Created, NextAt: ever(d.Next), DoneAt: ever(d.Done),
	}
	if !d.Last.At.IsZero() {
		out.Last = new(attemptOf(&d.Last))
	}
	return out
}

var (
	channelPath = &parameter{
		name: "id", in: inPath, component: "ChannelId", most: odometer.MaxIDBytes, valid: odometer.ValidChannelID, pattern: "^chn_[a-z2-7]{16}$",
		example: exampleChannel, description: "the id of a channel, which is no secret",
	}
	deliveryPath = &parameter{
		name: "delivery", in: inPath, component: "DeliveryId", most: odometer.MaxIDBytes, valid: odometer.ValidDeliveryID, pattern: "^dlv_[a-z2-7]{26}$",
		example: exampleDelivery, description: "the id of a delivery",
	}
	holderParam = &parameter{
		name: "holder", most: odometer.MaxIDBytes + 5, valid: func(s string) error { _, err := holderNamed(s); return err }, example: "operator",
		description: "only those of this one's: operator, user:ID or org:ID",
	}
)

// Of the examples.
const (
	exampleChannel  = "chn_2222222222222223"
	exampleDelivery = "dlv_22222222222222222222222227"
)

// asWordsOf returns constants as the words of a parameter.
func asWordsOf[T ~string](list ...T) (words []string) {
	for _, w := range list {
		words = append(words, string(w))
	}
	return words
}

const (
	// keepSecret is how long the secret of before signs beside a new one, where nobody
	// says: a working day to tell who checks the signature, whatever the time zone.
	keepSecret     = 24 * time.Hour
	mostKeepSecret = 30 * 24 * time.Hour
)

func (s *server) channelRoutes() []route {
	return slices.Concat([]route{
		{
			pattern: "GET /api/v1/channels", access: reader, handle: s.getChannels,
			id: "channels", tag: "alerts", summary: "The channels that the caller sees",
			description: "Webhooks are among them. No secret is in any answer but the one that created it.",
			params: []*parameter{
				{name: "kind", kind: asWord, words: asWordsOf(odometer.ChannelKinds...), example: "webhook", description: "only those of this kind"},
				holderParam, afterCursor, limitParam,
			},
			replies: []reply{answers(http.StatusOK, "One page.", ChannelsAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/channels", access: accountHolder, handle: s.postChannel,
			id: "createChannel", tag: "alerts", summary: "Create a channel",
			description: "Of the caller's own, unless the body names a user or an organisation for whom he may. An address inside is refused, when it is registered and at each connection, unless the operator allows it. The secret of a webhook is told in this answer only.",
			params:      []*parameter{onceHeader},
			takes:       takes(ChannelRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The channel.", CreatedChannel{}, versioned, location)}, fails: creates,
		},
		{
			pattern: "GET /api/v1/channels/{id}", access: reader, handle: s.getChannel,
			id: "channel", tag: "alerts", summary: "One channel",
			description: "Without a secret.",
			params:      []*parameter{channelPath},
			replies:     []reply{answers(http.StatusOK, "The channel.", Channel{}, versioned)}, fails: missing,
		},
		{
			pattern: "PUT /api/v1/channels/{id}", access: accountHolder, handle: s.putChannel,
			id: "updateChannel", tag: "alerts", summary: "Change a channel",
			description: "All that can be changed is in the body; kind and holder are for good. To enable one that the server disabled has it forget why.",
			params:      []*parameter{channelPath, ifMatchHeader},
			takes:       takes(ChannelChange{}),
			replies:     []reply{answers(http.StatusOK, "The channel as it is then.", Channel{}, versioned)}, fails: changes,
		},
		{
			pattern: "DELETE /api/v1/channels/{id}", access: accountHolder, handle: s.deleteChannel,
			id: "deleteChannel", tag: "alerts", summary: "Delete a channel",
			description: "What waits for it is not sent any more. One that thresholds name is refused.",
			params:      []*parameter{channelPath, ifMatchHeader},
			replies:     []reply{{http.StatusNoContent, "It is gone.", nil, nil}}, fails: changes,
		},
		{
			pattern: "POST /api/v1/channels/{id}/test", access: accountHolder, handle: s.testChannel,
			id: "testChannel", tag: "alerts", summary: "Send a message to a channel, now",
			description: "The answer comes when that has ended, and says how: a receiver that refuses it is no error of this request.",
			params:      []*parameter{channelPath},
			replies:     []reply{answers(http.StatusOK, "How it went.", Attempt{})}, fails: conflict,
		},
		{
			pattern: "GET /api/v1/channels/{id}/deliveries", access: reader, handle: s.getDeliveries,
			id: "deliveries", tag: "alerts", summary: "What was sent to a channel, or waits, the newest first",
			description: "Those that are done go after a while; those that were given up stay longest.",
			params: []*parameter{
				channelPath,
				{name: "state", component: "DeliveryStateFilter", kind: asWord, words: asWordsOf(odometer.DeliveryWaiting, odometer.DeliveryDelivered, odometer.DeliveryDead), example: "dead", description: "only those of this state"},
				afterCursor, limitParam,
			},
			replies: []reply{answers(http.StatusOK, "One page.", DeliveriesAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "GET /api/v1/channels/{id}/deliveries/{delivery}", access: reader, handle: s.getAttempts,
			id: "attempts", tag: "alerts", summary: "Each attempt of a delivery",
			description: "With status, time and the start of the answer.",
			params:      []*parameter{channelPath, deliveryPath},
			replies:     []reply{answers(http.StatusOK, "The attempts, the first first.", AttemptsAnswer{})}, fails: missing,
		},
		{
			pattern: "POST /api/v1/channels/{id}/retry", access: accountHolder, handle: s.postRetry,
			id: "retry", tag: "alerts", summary: "Send again what was given up",
			description: "Under the ids that it had. What is not given up is not found.",
			params:      []*parameter{channelPath},
			takes:       takes(RetryRequest{}),
			replies:     []reply{answers(http.StatusOK, "How many wait again.", RetryAnswer{})}, fails: conflict,
		},
		{
			pattern: "POST /api/v1/channels/{id}/secret", access: accountHolder, handle: s.postSecret,
			id: "rotateSecret", tag: "alerts", summary: "Give a webhook another secret",
			description: "The answer is the only one that has it. The one before signs beside it for a while, a day unless the body says otherwise.",
			params:      []*parameter{channelPath},
			takes:       takes(SecretRotation{}),
			replies:     []reply{answers(http.StatusOK, "The new secret.", ChannelSecret{})}, fails: conflict,
		},
	}, s.webhookRoutes())
}

// holderOf returns whose something is to be that is created: the caller's own where
// the request names nobody.
func holderOf(r *http.Request, user *odometer.UserID, org *odometer.OrgID, wrong *checks) (h odometer.Bound) {
	if user == nil && org == nil {
		return odometer.Bound{User: caller(r).User}
	}
	if user != nil {
		h.User = *user
		wrong.body("user_id", odometer.ValidUserID(h.User))
	}
	if org != nil {
		h.Org = *org
		wrong.body("org_id", odometer.ValidOrgID(h.Org))
	}
	if user != nil && org != nil {
		*wrong = append(*wrong, FieldError{"body", "$.org_id", "is given beside user_id; it is one's or the other's"})
	}
	return h
}

// heldBy returns the holder that a request asks for, nil for all.
func heldBy(p *query) *odometer.Bound {
	text := p.text(holderParam.name)
	if text == "" {
		return nil
	}
	h, _ := holderNamed(text) // which the parameter's valid has done
	return &h
}

// holderNamed reads whose something is.
func holderNamed(s string) (h odometer.Bound, err error) {
	kind, id, _ := strings.Cut(s, ":")
	switch {
	case s == "operator":
		return h, nil
	case kind == "user":
		h.User = odometer.UserID(id)
		return h, odometer.ValidUserID(h.User)
	case kind == "org":
		h.Org = odometer.OrgID(id)
		return h, odometer.ValidOrgID(h.Org)
	}
	return h, fmt.Errorf("%q is none of operator, user:ID and org:ID: %w", clip(s), odometer.ErrInvalid)
}

// versionOf returns the version that a change names, in the form of what counts from 1
// on without a sign.
func versionOf(r *http.Request) (uint64, error) {
	version, err := ifMatch(r)
	return uint64(version), err // -1 is none of anything
}

func (c *ChannelChange) channel() odometer.Channel {
	return odometer.Channel{Name: c.Name, Enabled: c.Enabled == nil || *c.Enabled, URL: c.URL, To: c.To, Events: c.Events}
}

func (s *server) getChannels(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	p := queryOf(r)
	q := odometer.ChannelQuery{After: odometer.ChannelID(p.text("after")), Limit: p.limit() + 1, Holder: heldBy(p), Kind: odometer.ChannelKind(p.text("kind"))}
	list, err := s.Channels.Channels(r.Context(), caller(r), q)
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(c odometer.Channel) odometer.ChannelID { return c.ID })
	answer := ChannelsAnswer{Channels: []Channel{}, Next: next}
	for i := range list {
		answer.Channels = append(answer.Channels, channelOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postChannel(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	var ask ChannelRequest
	var c odometer.Channel
	once, err := asked(r, &ask, func(wrong *checks) {
		c = ask.channel()
		c.Kind, c.Holder = ask.Kind, holderOf(r, ask.User, ask.Org, wrong)
		if c.Kind == odometer.ChannelWebhook && c.Events == nil {
			c.Events = []odometer.EventKind{odometer.EventViolation}
		}
	})
	if err != nil {
		return err
	}
	given := ChannelSecrets{Sign: ask.Secret}
	if ask.Bearer != nil {
		given.Bearer = *ask.Bearer
	}
	c, secret, err := s.Channels.CreateChannel(r.Context(), actor(r), once, c, given)
	if err != nil {
		return inBody(err)
	}
	w.Header().Set("Location", "/api/v1/channels/"+url.PathEscape(string(c.ID)))
	return writeVersion(w, http.StatusCreated, int64(c.Version), CreatedChannel{channelOf(&c), named(secret)})
}

// channel returns the channel in the path.
func (s *server) channel(r *http.Request) (odometer.Channel, error) {
	if s.Channels == nil {
		return odometer.Channel{}, absent("notifications")
	}
	return s.Channels.Channel(r.Context(), caller(r), odometer.ChannelID(queryOf(r).text("id")))
}

func (s *server) getChannel(w http.ResponseWriter, r *http.Request) error {
	c, err := s.channel(r)
	if err != nil {
		return err
	}
	return writeVersion(w, http.StatusOK, int64(c.Version), channelOf(&c))
}

func (s *server) putChannel(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	var ask ChannelChange
	if _, err := asked(r, &ask, func(*checks) {}); err != nil {
		return err
	}
	version, err := versionOf(r)
	if err != nil {
		return err
	}
	c := ask.channel()
	c.ID = odometer.ChannelID(queryOf(r).text("id"))
	if c, err = s.Channels.UpdateChannel(r.Context(), actor(r), c, version, ask.Bearer); err != nil {
		return inBody(err)
	}
	return writeVersion(w, http.StatusOK, int64(c.Version), channelOf(&c))
}

func (s *server) deleteChannel(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	version, err := versionOf(r)
	if err != nil {
		return err
	}
	if err := s.Channels.DeleteChannel(r.Context(), actor(r), odometer.ChannelID(queryOf(r).text("id")), version); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) testChannel(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	a, err := s.Channels.TestChannel(r.Context(), actor(r), odometer.ChannelID(queryOf(r).text("id")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, attemptOf(&a))
}

func (s *server) getDeliveries(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	p := queryOf(r)
	list, err := s.Channels.Deliveries(r.Context(), caller(r), odometer.DeliveryQuery{
		Channel: odometer.ChannelID(p.text("id")), Before: odometer.DeliveryID(p.text("after")), Limit: p.limit() + 1, State: odometer.DeliveryState(p.text("state")),
	})
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(d odometer.Delivery) odometer.DeliveryID { return d.ID })
	answer := DeliveriesAnswer{Deliveries: []Delivery{}, Next: next}
	for i := range list {
		answer.Deliveries = append(answer.Deliveries, deliveryOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) getAttempts(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	p := queryOf(r)
	list, err := s.Channels.Attempts(r.Context(), caller(r), odometer.ChannelID(p.text("id")), odometer.DeliveryID(p.text("delivery")))
	if err != nil {
		return err
	}
	answer := AttemptsAnswer{Attempts: []Attempt{}}
	for i := range list {
		answer.Attempts = append(answer.Attempts, attemptOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postRetry(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	var ask RetryRequest
	if _, err := asked(r, &ask, func(wrong *checks) {
		if ask.Delivery != "" {
			wrong.body("delivery_id", odometer.ValidDeliveryID(string(ask.Delivery)))
		}
	}); err != nil {
		return err
	}
	n, err := s.Channels.RetryDeliveries(r.Context(), actor(r), odometer.ChannelID(queryOf(r).text("id")), ask.Delivery)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, RetryAnswer{n})
}

func (s *server) postSecret(w http.ResponseWriter, r *http.Request) error {
	if s.Channels == nil {
		return absent("notifications")
	}
	var ask SecretRotation
	keep := keepSecret
	if _, err := asked(r, &ask, func(wrong *checks) {
		if ask.KeepSeconds == nil {
			return
		}
		if n := *ask.KeepSeconds; n < 0 || n > int64(mostKeepSecret.Seconds()) {
			*wrong = append(*wrong, FieldError{"body", "$.keep_s", "is not from 0 to 2592000, thirty days"})
		}
		keep = time.Duration(*ask.KeepSeconds) * time.Second
	}); err != nil {
		return err
	}
	p := queryOf(r)
	id := odometer.ChannelID(p.text("id"))
	secret, err := s.Channels.RotateSecret(r.Context(), actor(r), id, keep)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, ChannelSecret{id, secret, p.now.Add(keep).UTC()})
}

// inBody has what is invalid of an object be wrong with the body that describes it: each
// problem names the member that it is about.
func inBody(err error) error {
	if !errors.Is(err, odometer.ErrInvalid) {
		return err
	}
	problems := []error{err}
	if several, ok := errors.AsType[interface {
		error
		Unwrap() []error
	}](err); ok && !slices.Contains(several.Unwrap(), odometer.ErrInvalid) {
		problems = slices.Clone(several.Unwrap())
	}
	for i, p := range problems {
		if name, why, ok := strings.Cut(reason(p), ": "); ok && member.MatchString(name) {
			problems[i] = FieldError{"body", "$." + name, why}
		}
	}
	return join(problems...)
}

// member is how a member of a body is named, such as levels[1].value.
var member = regexp.MustCompile(`^[a-z_]+(\[[0-9]+\])?(\.[a-z_]+)*$`)
