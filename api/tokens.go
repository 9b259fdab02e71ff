package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"example.org/odometer"
)

// TokenAdmin creates, lists and revokes tokens that are the caller's, or all for the
// administrator. CreateToken is asked by name, whose it is, scopes and expiry, and
// returns the secret, once. What will not do wraps [odometer.ErrInvalid], a token that there is not
// [odometer.ErrNotFound]; where nothing can be written it is
// [odometer.ErrUnavailable].
type TokenAdmin interface {
	CreateToken(ctx context.Context, by odometer.Actor, ask odometer.Token) (t odometer.Token, secret string, err error)
	// Tokens lists them in the order in which they were created, from the one
	// after the one named.
	Tokens(ctx context.Context, by odometer.Caller, after odometer.TokenID, limit int) ([]odometer.Token, error)
	Token(ctx context.Context, by odometer.Caller, id odometer.TokenID) (odometer.Token, error)
	// RevokeToken ends a token's validity before it returns; again it changes
	// nothing.
	RevokeToken(ctx context.Context, by odometer.Actor, id odometer.TokenID) (odometer.Token, error)
}

// TokenRequest is the body of POST /api/v1/tokens.
type TokenRequest struct {
	// Name is one line of printable text, for people.
	Name   string           `json:"name" schema:"minLength=1,maxLength=64"`
	Scopes []odometer.Scope `json:"scopes"`
	// User is whose it shall be; a user's token creates those of the same user.
	User *odometer.UserID `json:"user_id,omitempty" schema:"nullable"`
	// Org is what the service is bound to that has it.
	Org *odometer.OrgID `json:"org_id,omitempty" schema:"nullable"`
	// ExpiresAt is RFC 3339, or relative to now such as +90d, by the server's
	// clock; null for never.
	ExpiresAt *string `json:"expires_at,omitempty" schema:"nullable"`
}

// Token is a token as an answer has it.
type Token struct {
	ID        odometer.TokenID `json:"id"`
	Name      string           `json:"name"`
	User      *odometer.UserID `json:"user_id"` // whose it is
	Org       *odometer.OrgID  `json:"org_id"`  // what its service is bound to
	Scopes    []odometer.Scope `json:"scopes"`
	State     string           `json:"state" schema:"enum=valid|expired|revoked"`
	CreatedAt time.Time        `json:"created_at"`
	CreatedBy string           `json:"created_by"`
	ExpiresAt *time.Time       `json:"expires_at"`   // null for never
	LastUsed  *time.Time       `json:"last_used_at"` // null for never; after a crash to the minute
	RevokedAt *time.Time       `json:"revoked_at"`   // null while it is not
}

// CreatedToken is the answer to POST /api/v1/tokens: the one time that the
// secret is told.
type CreatedToken struct {
	Token
	Secret string `json:"token" schema:"pattern=^odm_[a-z2-7]{58}$"` // the secret: send it as Authorization: Bearer
}

// TokensAnswer is the body of GET /api/v1/tokens.
type TokensAnswer struct {
	Tokens []Token `json:"tokens"` // in the order in which they were created
	Next   *string `json:"next"`   // cursor of the page that follows, null when there is none
}

// Me is the body of GET /api/v1/me: whose token the request has.
type Me struct {
	ID        *odometer.TokenID `json:"id"` // null for the administrator's, which lies in a file
	Name      string            `json:"name"`
	User      *odometer.UserID  `json:"user_id"` // whose token it is, null for a service's
	Org       *odometer.OrgID   `json:"org_id"`  // what the service is bound to
	Scopes    []odometer.Scope  `json:"scopes"`
	ExpiresAt *time.Time        `json:"expires_at"` // null for never
	// Memberships are the user's, in the order of the organisations' ids.
	Memberships []MeIn `json:"memberships"`
}

// MeIn says what the user is in an organisation.
type MeIn struct {
	Org  odometer.OrgID `json:"org_id"`
	Role odometer.Role  `json:"role"`
}

// named returns nil for the id of nobody.
func named[T ~string](id T) *T {
	if id == "" {
		return nil
	}
	return &id
}

// tokenOf writes a token as it is at a moment.
func tokenOf(t *odometer.Token, now time.Time) Token {
	state := "valid"
	switch {
	case !t.Revoked.IsZero():
		state = "revoked"
	case !t.Expires.IsZero() && !now.Before(t.Expires):
		state = "expired"
	}
	return Token{
		ID: t.ID, Name: t.Name, User: named(t.User), Org: named(t.Org), Scopes: t.Scopes, State: state, CreatedAt: t.Created, CreatedBy: t.CreatedBy,
		ExpiresAt: ever(t.Expires), LastUsed: ever(t.LastUsed), RevokedAt: ever(t.Revoked),
	}
}

// ever returns nil for the time of what never happened.
func ever(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func (s *server) tokenRoutes() []route {
	return []route{
		{
			pattern: "GET /api/v1/me", access: holder, handle: s.getMe,
			id: "me", tag: "access", summary: "Whose token the request has, and what it may do",
			description: "Any valid token will do, whatever its scopes.",
			replies:     []reply{answers(http.StatusOK, "The holder.", Me{})},
		},
		{
			pattern: "GET /api/v1/tokens", access: accountHolder, handle: s.getTokens,
			id: "tokens", tag: "access", summary: "The tokens, in the order in which they were created",
			description: "A user's are his own; the administrator sees all. Those that expired or were revoked too. The administrator's own, which lies in a file, is none of them.",
			params: []*parameter{
				afterCursor,
				limitParam,
			},
			replies: []reply{answers(http.StatusOK, "One page.", TokensAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/tokens", access: accountHolder, handle: s.postToken,
			id: "createToken", tag: "access", summary: "Create a token",
			description: "The answer is the only one that ever has the secret: the server keeps a hash of it.",
			takes:       takes(TokenRequest{}),
			replies: []reply{answers(http.StatusCreated, "The token, with its secret.", CreatedToken{},
				header{"Location", "where the token is, without its secret"})},
			fails: conflict,
		},
		{
			pattern: "GET /api/v1/tokens/{id}", access: accountHolder, handle: s.getToken,
			id: "token", tag: "access", summary: "One token",
			description: "What is known of it; its secret is not.",
			params:      []*parameter{tokenPath},
			replies:     []reply{answers(http.StatusOK, "The token, without its secret.", Token{})}, fails: missing,
		},
		{
			pattern: "DELETE /api/v1/tokens/{id}", access: accountHolder, handle: s.deleteToken,
			id: "revokeToken", tag: "access", summary: "Revoke a token, for good and at once",
			description: "No request that begins after the answer is let through with it. Revoking it again changes nothing.",
			params:      []*parameter{tokenPath},
			replies:     []reply{answers(http.StatusOK, "The token, which is revoked.", Token{})}, fails: missing,
		},
	}
}

func (s *server) postToken(w http.ResponseWriter, r *http.Request) error {
	if s.Tokens == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	now, errs := p.now, []error{p.done()}
	var ask TokenRequest
	var t odometer.Token
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else {
		wrong := func(field string, err error) {
			if err != nil {
				errs = append(errs, FieldError{"body", "$." + field, reason(err)})
			}
		}
		t = odometer.Token{Name: ask.Name, Scopes: ask.Scopes}
		if ask.User == nil && ask.Org == nil {
			t.User = caller(r).User
		}
		if ask.User != nil {
			t.User = *ask.User
			wrong("user_id", odometer.ValidUserID(t.User))
		}
		if ask.Org != nil {
			t.Org = *ask.Org
			wrong("org_id", odometer.ValidOrgID(t.Org))
		}
		wrong("name", odometer.ValidTokenName(ask.Name))
		wrong("scopes", odometer.ValidScopes(t.Bound, ask.Scopes))
		if ask.ExpiresAt != nil {
			var err error
			if t.Expires, err = ParseTime(*ask.ExpiresAt, now); err == nil && !t.Expires.After(now) {
				err = fmt.Errorf("%s is past", formatMicros(t.Expires.UnixMicro()))
			}
			wrong("expires_at", err)
		}
	}
	if err := join(errs...); err != nil {
		return err
	}
	t, secret, err := s.Tokens.CreateToken(r.Context(), actor(r), t)
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/api/v1/tokens/"+string(t.ID))
	return writeJSON(w, http.StatusCreated, CreatedToken{tokenOf(&t, now), secret})
}

func (s *server) getTokens(w http.ResponseWriter, r *http.Request) error {
	p := queryOf(r)
	now, after, limit := p.now, p.text("after"), p.limit()
	if s.Tokens == nil {
		return absent("accounts")
	}
	list, err := s.Tokens.Tokens(r.Context(), caller(r), odometer.TokenID(after), limit+1) // one more says whether there are more
	if err != nil {
		return err
	}
	list, next := paged(w, r, list, func(t odometer.Token) string { return string(t.ID) })
	answer := TokensAnswer{Tokens: []Token{}, Next: next}
	for i := range list {
		answer.Tokens = append(answer.Tokens, tokenOf(&list[i], now))
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *server) getToken(w http.ResponseWriter, r *http.Request) error {
	if s.Tokens == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	t, err := s.Tokens.Token(r.Context(), caller(r), odometer.TokenID(p.text("id")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, tokenOf(&t, p.now))
}

func (s *server) deleteToken(w http.ResponseWriter, r *http.Request) error {
	if s.Tokens == nil {
		return absent("accounts")
	}
	p := queryOf(r)
	t, err := s.Tokens.RevokeToken(r.Context(), actor(r), odometer.TokenID(p.text("id")))
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, tokenOf(&t, p.now))
}

func (s *server) getMe(w http.ResponseWriter, r *http.Request) error {
	c := caller(r)
	me := Me{ID: named(c.ID), Name: c.Name, User: named(c.User), Org: named(c.Org), Scopes: c.Scopes, ExpiresAt: ever(c.Expires), Memberships: []MeIn{}}
	for _, m := range c.Memberships {
		me.Memberships = append(me.Memberships, MeIn{m.Org, m.Role})
	}
	return writeJSON(w, http.StatusOK, me)
}
