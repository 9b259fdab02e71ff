package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"

	"example.org/odometer"
)

// access says who may use a route. The zero value lets nobody through, so that
// a route whose author forgot to decide is closed.
type access int

const (
	undecided     access = iota // nobody
	anybody                     // no token is asked for or looked at
	brief                       // anybody, but details only with the scope read; a wrong token is refused
	holder                      // who has a valid token, whatever its scopes
	reader                      // the scope read
	writer                      // the scope events:write
	accountHolder               // the scope account, which the administrator has too
	administrator               // the scope admin
)

// scope returns the scope that a needs, "" for none.
func (a access) scope() odometer.Scope {
	switch a {
	case reader:
		return odometer.ScopeRead
	case writer:
		return odometer.ScopeWriteEvents
	case accountHolder:
		return odometer.ScopeAccount
	case administrator:
		return odometer.ScopeAdmin
	}
	return ""
}

// Authenticator tells who holds a bearer token. It takes the same time for every
// wrong token of one form.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (caller odometer.Caller, ok bool)
}

// Authenticators ask each in turn, whoever knows the token.
type Authenticators []Authenticator

// Authenticate implements [Authenticator].
func (as Authenticators) Authenticate(ctx context.Context, token string) (caller odometer.Caller, ok bool) {
	for _, a := range as {
		if c, yes := a.Authenticate(ctx, token); yes {
			caller, ok = c, true
		}
	}
	return caller, ok
}

// TokenHash is one token that is given from outside, kept as its SHA-256, and the
// name of its holder, who may do everything.
type TokenHash struct {
	name string
	sum  [sha256.Size]byte
}

// HashToken returns the TokenHash of token. An empty token gives one that
// matches nothing.
func HashToken(name, token string) TokenHash {
	if token == "" {
		return TokenHash{}
	}
	return TokenHash{name: name, sum: sha256.Sum256([]byte(token))}
}

// Tokens authenticates against a fixed list. The zero value knows nobody.
type Tokens []TokenHash

// Authenticate compares with every token of the list, whichever matches, so
// that the time it takes tells nothing.
func (t Tokens) Authenticate(_ context.Context, token string) (caller odometer.Caller, ok bool) {
	sum := sha256.Sum256([]byte(token))
	for _, have := range t {
		if subtle.ConstantTimeCompare(sum[:], have.sum[:]) == 1 && have.name != "" {
			caller, ok = odometer.Caller{Name: have.name, Scopes: []odometer.Scope{odometer.ScopeAdmin}}, true
		}
	}
	return caller, ok
}

type callerKey struct{}

// caller returns who holds the request's token; the zero value, which may do
// nothing, for nobody.
func caller(r *http.Request) odometer.Caller {
	c, _ := r.Context().Value(callerKey{}).(odometer.Caller)
	return c
}

// seen returns whose usage, entries and instances the request's caller sees:
// nobody's for nobody.
func seen(r *http.Request) odometer.View {
	c := caller(r)
	return c.View()
}

// whole refuses who does not see everything to a route that is about the whole
// server or machine.
func whole(h handler) handler {
	return func(w http.ResponseWriter, r *http.Request) error {
		if !seen(r).All() {
			return fmt.Errorf("this is about the whole server, and the token is bound to a user or an organisation: %w", odometer.ErrForbidden)
		}
		return h(w, r)
	}
}

// actor returns who changes something by this request.
func actor(r *http.Request) odometer.Actor {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		host = r.RemoteAddr
	}
	return odometer.Actor{Caller: caller(r), Remote: host}
}

// scopeError says that a token is valid and has not the scope that is needed.
type scopeError struct {
	needs  odometer.Scope
	caller odometer.Caller
}

func (e *scopeError) Error() string {
	return fmt.Sprintf("the scope %s is needed; the token %s has %s", e.needs, e.caller.String(), odometer.JoinScopes(e.caller.Scopes, ", "))
}

func (e *scopeError) Unwrap() error { return errScope }

// challenge returns the header WWW-Authenticate for err as RFC 6750 has it, ""
// for none.
func challenge(err error) string {
	const realm = `Bearer realm="odometer"`
	if e, ok := errors.AsType[*scopeError](err); ok {
		return fmt.Sprintf(`%s, error="insufficient_scope", scope=%q`, realm, e.needs)
	}
	if errors.Is(err, errUnauthorized) {
		return realm
	}
	return ""
}

// authorise decides whether r may pass a route with access a, and returns r
// with the caller in its context, where he is known.
func authorise(auth Authenticator, a access, r *http.Request) (*http.Request, error) {
	if a == anybody {
		return r, nil
	}
	header := r.Header.Values("Authorization")
	if len(header) == 0 && a == brief {
		return r, nil
	}
	if auth == nil || a == undecided || len(header) != 1 {
		return r, errUnauthorized
	}
	scheme, token, _ := strings.Cut(header[0], " ")
	if !strings.EqualFold(scheme, "Bearer") || token == "" {
		return r, errUnauthorized
	}
	c, ok := auth.Authenticate(r.Context(), token)
	if !ok {
		return r, errUnauthorized
	}
	r = r.WithContext(context.WithValue(r.Context(), callerKey{}, c))
	if needs := a.scope(); needs != "" && !c.May(needs) {
		return r, &scopeError{needs, c}
	}
	return r, nil
}
