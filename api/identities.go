package api

import (
	"context"
	"net/http"
	"time"

	"example.org/odometer"
)

// IdentityAdmin keeps who users are to issuers of tokens, with errors as
// [PeopleAdmin] has them.
type IdentityAdmin interface {
	AddIdentity(ctx context.Context, by odometer.Actor, i odometer.Identity) (odometer.Identity, error)
	Identities(ctx context.Context, by odometer.Caller, user odometer.UserID) ([]odometer.Identity, error)
	RemoveIdentity(ctx context.Context, by odometer.Actor, user odometer.UserID, id odometer.TokenID) (odometer.Identity, error)
}

// Identity is who a user is to an issuer of tokens.
type Identity struct {
	ID        odometer.TokenID `json:"id"` // what the audit log names as his token
	User      odometer.UserID  `json:"user_id"`
	Issuer    string           `json:"issuer"`
	Subject   string           `json:"subject"`
	CreatedAt time.Time        `json:"created_at"`
	CreatedBy string           `json:"created_by"`
}

// IdentityRequest is the body of POST /api/v1/users/{id}/identities.
type IdentityRequest struct {
	// Issuer is the address by which the issuer calls itself, as iss of its tokens.
	Issuer string `json:"issuer" schema:"minLength=1,maxLength=1024"`
	// Subject is what it calls the user, as sub of its tokens.
	Subject string `json:"subject" schema:"minLength=1,maxLength=255"`
}

// IdentitiesAnswer is the body of GET /api/v1/users/{id}/identities.
type IdentitiesAnswer struct {
	Identities []Identity `json:"identities"` // by issuer and subject
}

func identityOf(i *odometer.Identity) Identity {
	return Identity{i.ID, i.User, i.Issuer, i.Subject, i.Created, i.CreatedBy}
}

var identityPath = &parameter{
	name: "identity", in: inPath, component: "IdentityId", most: odometer.MaxIDBytes, valid: odometer.ValidTokenID, pattern: tokenIDPattern,
	example: exampleIdentity, description: "the id of an identity",
}

// exampleIdentity is the id of the identity that the server of the examples has.
const exampleIdentity = "tok_7y6tea2qjt2g3gcw"

func (s *server) identityRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/users/{id}/identities", access: reader, handle: s.getIdentities,
			id: "identities", tag: "people", summary: "Who a user is to issuers of tokens",
			description: "The administrator sees everybody's, a user his own.",
			params:      []*parameter{userPath},
			replies:     []reply{answers(http.StatusOK, "All that there are.", IdentitiesAnswer{})}, fails: missing,
		},
		{
			pattern: "POST /api/v1/users/{id}/identities", access: administrator, handle: s.postIdentity,
			id: "addIdentity", tag: "people", summary: "Say which user somebody is to whom an issuer gives tokens",
			description: "From then on a token of the issuer's that names the subject stands for the user, where the server is told to accept the issuer's tokens.",
			params:      []*parameter{userPath},
			takes:       takes(IdentityRequest{}),
			replies:     []reply{answers(http.StatusCreated, "The identity.", Identity{})}, fails: conflict,
		},
		{
			pattern: "DELETE /api/v1/users/{id}/identities/{identity}", access: administrator, handle: s.deleteIdentity,
			id: "removeIdentity", tag: "people", summary: "End that a user is somebody to an issuer, at once",
			description: "A token of the issuer's that names the subject does not stand for the user any more.",
			params:      []*parameter{userPath, identityPath},
			replies:     []reply{answers(http.StatusOK, "The identity that there was.", Identity{})}, fails: missing,
		},
	}
}

func (s *server) getIdentities(w http.ResponseWriter, r *http.Request) error {
	if s.Identities == nil {
		return absent("accounts")
	}
	list, err := s.Identities.Identities(r.Context(), caller(r), odometer.UserID(queryOf(r).text("id")))
	if err != nil {
		return err
	}
	answer := IdentitiesAnswer{Identities: []Identity{}}
	for i := range list {
		answer.Identities = append(answer.Identities, identityOf(&list[i]))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) postIdentity(w http.ResponseWriter, r *http.Request) error {
	if s.Identities == nil {
		return absent("accounts")
	}
	var ask IdentityRequest
	if _, err := asked(r, &ask, func(wrong *checks) {
		wrong.body("issuer", odometer.ValidIssuer(ask.Issuer))
		wrong.body("subject", odometer.ValidSubject(ask.Subject))
	}); err != nil {
		return err
	}
	v, err := s.Identities.AddIdentity(r.Context(), actor(r), odometer.Identity{User: odometer.UserID(queryOf(r).text("id")), Issuer: ask.Issuer, Subject: ask.Subject})
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, identityOf(&v))
}

func (s *server) deleteIdentity(w http.ResponseWriter, r *http.Request) error {
	if s.Identities == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	v, err := s.Identities.RemoveIdentity(r.Context(), actor(r), odometer.UserID(p.text("id")), odometer.TokenID(p.text("identity")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, identityOf(&v))
}
