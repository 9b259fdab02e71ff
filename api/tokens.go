package api

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"example.org/odometer"
)

// TokenAdmin creates, lists and revokes tokens. CreateToken returns the secret,
// once. What will not do wraps [odometer.ErrInvalid], a token that there is not
// [odometer.ErrNotFound]; where nothing can be written it is
// [odometer.ErrUnavailable].
type TokenAdmin interface {
	CreateToken(ctx context.Context, by odometer.Actor, name string, scopes []odometer.Scope, expires time.Time) (t odometer.Token, secret string, err error)
	// Tokens lists them in the order in which they were created, from the one
	// after the one named.
	Tokens(ctx context.Context, after odometer.TokenID, limit int) ([]odometer.Token, error)
	Token(ctx context.Context, id odometer.TokenID) (odometer.Token, error)
	// RevokeToken ends a token's validity before it returns; again it changes
	// nothing.
	RevokeToken(ctx context.Context, by odometer.Actor, id odometer.TokenID) (odometer.Token, error)
}

// TokenRequest is the body of POST /api/v1/tokens.
type TokenRequest struct {
	// Name is one line of printable text, for people.
	Name   string           `json:"name" schema:"minLength=1,maxLength=64"`
	Scopes []odometer.Scope `json:"scopes"`
	// ExpiresAt is RFC 3339, or relative to now such as +90d, by the server's
	// clock; null for never.
	ExpiresAt *string `json:"expires_at,omitempty" schema:"nullable"`
}

// Token is a token as an answer has it.
type Token struct {
	ID        odometer.TokenID `json:"id"`
	Name      string           `json:"name"`
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
	Scopes    []odometer.Scope  `json:"scopes"`
	ExpiresAt *time.Time        `json:"expires_at"` // null for never
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
		ID: t.ID, Name: t.Name, Scopes: t.Scopes, State: state, CreatedAt: t.Created, CreatedBy: t.CreatedBy,
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
			pattern: "GET /api/v1/tokens", access: administrator, handle: s.getTokens,
			id: "tokens", tag: "access", summary: "The tokens, in the order in which they were created",
			description: "Those that expired or were revoked too. The administrator's own, which lies in a file, is none of them.",
			params: []*parameter{
				{name: "after", most: odometer.MaxIDBytes, valid: odometer.ValidTokenID, pattern: tokenIDPattern, example: exampleToken, description: "cursor of an earlier answer"},
				limitParam,
			},
			replies: []reply{answers(http.StatusOK, "One page.", TokensAnswer{}, nextPage)}, fails: missing,
		},
		{
			pattern: "POST /api/v1/tokens", access: administrator, handle: s.postToken,
			id: "createToken", tag: "access", summary: "Create a token",
			description: "The answer is the only one that ever has the secret: the server keeps a hash of it.",
			takes:       takes(TokenRequest{}),
			replies: []reply{answers(http.StatusCreated, "The token, with its secret.", CreatedToken{},
				header{"Location", "where the token is, without its secret"})},
			fails: conflict,
		},
		{
			pattern: "GET /api/v1/tokens/{id}", access: administrator, handle: s.getToken,
			id: "token", tag: "access", summary: "One token",
			description: "What is known of it; its secret is not.",
			params:      []*parameter{tokenPath},
			replies:     []reply{answers(http.StatusOK, "The token, without its secret.", Token{})}, fails: missing,
		},
		{
			pattern: "DELETE /api/v1/tokens/{id}", access: administrator, handle: s.deleteToken,
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
	var expires time.Time
	if err := readJSON(r, &ask); err != nil {
		errs = append(errs, err)
	} else {
		wrong := func(field string, err error) {
			if err != nil {
				errs = append(errs, FieldError{"body", "$." + field, reason(err)})
			}
		}
		wrong("name", odometer.ValidTokenName(ask.Name))
		wrong("scopes", odometer.ValidScopes(ask.Scopes))
		if ask.ExpiresAt != nil {
			var err error
			if expires, err = ParseTime(*ask.ExpiresAt, now); err == nil && !expires.After(now) {
				err = fmt.Errorf("%s is past", formatMicros(expires.UnixMicro()))
			}
			wrong("expires_at", err)
		}
	}
	if err := join(errs...); err != nil {
		return err
	}
	t, secret, err := s.Tokens.CreateToken(r.Context(), actor(r), ask.Name, ask.Scopes, expires)
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
	list, err := s.Tokens.Tokens(r.Context(), odometer.TokenID(after), limit+1) // one more says whether there are more
	if err != nil {
		return err
	}
	answer := TokensAnswer{Tokens: []Token{}}
	if len(list) > limit {
		list = list[:limit]
		answer.Next = new(string(list[limit-1].ID))
		w.Header().Add("Link", fmt.Sprintf("<%s>; rel=\"next\"", pageAfter(r.URL, *answer.Next)))
	}
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
	t, err := s.Tokens.Token(r.Context(), odometer.TokenID(p.text("id")))
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
	me := Me{Name: c.Name, Scopes: c.Scopes, ExpiresAt: ever(c.Expires)}
	if c.ID != "" {
		me.ID = &c.ID
	}
	return writeJSON(w, http.StatusOK, me)
}
