package api

import (
	"context"
	"net/http"
	"time"

	"example.org/odometer"
)

// ConsumerAdmin creates, lists and revokes consumers of the topic. What will not do
// wraps [odometer.ErrInvalid], a key that is another's [odometer.ErrConflict], what
// there is not [odometer.ErrNotFound]; where nothing can be written it is
// [odometer.ErrUnavailable].
type ConsumerAdmin interface {
	CreateConsumer(ctx context.Context, by odometer.Actor, name string, org odometer.OrgID, key odometer.Key) (odometer.Consumer, error)
	// Consumers lists all, in the order in which they were created.
	Consumers(ctx context.Context) ([]odometer.Consumer, error)
	// RevokeConsumer ends a consumer's connection before it returns; again it
	// changes nothing.
	RevokeConsumer(ctx context.Context, by odometer.Actor, id odometer.ConsumerID) (odometer.Consumer, error)
}

// ConsumerRequest is the body of POST /api/v1/consumers.
type ConsumerRequest struct {
	// Name is one line of printable text, for people.
	Name string          `json:"name" schema:"minLength=1,maxLength=64"`
	Org  *odometer.OrgID `json:"org_id,omitempty" schema:"nullable"` // whose entries it reads; null for all
	// Key is the public half of the key that it connects by; the other half is sent to
	// nobody.
	Key odometer.Key `json:"public_key"`
}

// Consumer is a consumer of the topic as an answer has it.
type Consumer struct {
	ID        odometer.ConsumerID `json:"id"` // also the name of its durable consumer in the stream
	Name      string              `json:"name"`
	Org       *odometer.OrgID     `json:"org_id"` // whose entries it reads; null for all
	State     string              `json:"state" schema:"enum=valid|revoked"`
	Key       odometer.Key        `json:"public_key"`
	CreatedAt time.Time           `json:"created_at"`
	CreatedBy string              `json:"created_by"`
	RevokedAt *time.Time          `json:"revoked_at"` // null while it is not
}

// ConsumersAnswer is the body of GET /api/v1/consumers.
type ConsumersAnswer struct {
	Consumers []Consumer `json:"consumers"` // in the order in which they were created
}

func consumerOf(c *odometer.Consumer) Consumer {
	a := Consumer{ID: c.ID, Name: c.Name, State: "valid", Key: c.Key, CreatedAt: c.Created, CreatedBy: c.CreatedBy, RevokedAt: ever(c.Revoked)}
	if c.Org != "" {
		a.Org = &c.Org
	}
	if !c.Revoked.IsZero() {
		a.State = "revoked"
	}
	return a
}

var consumerPath = &parameter{
	name: "id", in: inPath, component: "ConsumerId", most: odometer.MaxIDBytes, valid: odometer.ValidConsumerID, pattern: "^con_[a-z2-7]{16}$",
	example: "con_gtoepphgicq34rsy", description: "the id of a consumer, which is no secret",
}

func (s *server) consumerRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/consumers", access: administrator, handle: s.getConsumers,
			id: "consumers", tag: "access", summary: "The consumers of the topic, in the order in which they were created",
			description: "Those that were revoked too.",
			replies:     []reply{answers(http.StatusOK, "All of them.", ConsumersAnswer{})}, fails: missing,
		},
		{
			pattern: "POST /api/v1/consumers", access: administrator, handle: s.postConsumer,
			id: "createConsumer", tag: "access", summary: "Let who has a key read the topic",
			description: "All of it, or the entries of one organisation. Its place in the stream is made for it, a durable consumer that is named by its id, and it may read and acknowledge there and do nothing else. Its answers go to inboxes below _INBOX. and its id.",
			takes:       takes(ConsumerRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The consumer.", Consumer{})}, fails: conflict,
		},
		{
			pattern: "DELETE /api/v1/consumers/{id}", access: administrator, handle: s.deleteConsumer,
			id: "revokeConsumer", tag: "access", summary: "Revoke a consumer, for good and at once",
			description: "Its connection is ended before the answer, no other is let in, and its place in the stream goes. Revoking it again changes nothing.",
			params:      []*parameter{consumerPath},
			replies:     []reply{answers(http.StatusOK, "The consumer, which is revoked.", Consumer{})}, fails: missing,
		},
	}
}

func (s *server) postConsumer(w http.ResponseWriter, r *http.Request) error {
	if s.Consumers == nil {
		return absent("accounts")
	}
	errs := []error{queryOf(r).done()}
	var ask ConsumerRequest
	var org odometer.OrgID
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else {
		wrong := func(field string, err error) {
			if err != nil {
				errs = append(errs, FieldError{"body", "$." + field, reason(err)})
			}
		}
		wrong("name", odometer.ValidTokenName(ask.Name))
		wrong("public_key", odometer.ValidKey(string(ask.Key)))
		if ask.Org != nil {
			org = *ask.Org
			wrong("org_id", odometer.ValidID("it", string(org)))
		}
	}
	if err := join(errs...); err != nil {
		return err
	}
	c, err := s.Consumers.CreateConsumer(r.Context(), actor(r), ask.Name, org, ask.Key)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, consumerOf(&c))
}

func (s *server) getConsumers(w http.ResponseWriter, r *http.Request) error {
	if s.Consumers == nil {
		return absent("accounts")
	}
	list, err := s.Consumers.Consumers(r.Context())
	if err != nil {
		return err
	}
	answer := ConsumersAnswer{Consumers: []Consumer{}}
	for i := range list {
		answer.Consumers = append(answer.Consumers, consumerOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) deleteConsumer(w http.ResponseWriter, r *http.Request) error {
	if s.Consumers == nil {
		return absent("accounts")
	}
	c, err := s.Consumers.RevokeConsumer(r.Context(), actor(r), odometer.ConsumerID(queryOf(r).text("id")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, consumerOf(&c))
}
