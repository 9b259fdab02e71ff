package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"strings"
)

// access says who may use a route. The zero value lets nobody through, so that
// a route whose author forgot to decide is closed.
type access int

const (
	undecided access = iota // nobody
	anybody                 // no token is asked for or looked at
	bearer                  // a valid token
	brief                   // anybody, but details only with a valid token; a wrong token is refused
)

// Authenticator tells who a bearer token belongs to. The name that it returns
// is recorded with what the caller decides. It takes the same time for every
// wrong token of one length.
type Authenticator interface {
	Authenticate(ctx context.Context, token string) (name string, ok bool)
}

// TokenHash is one token, kept as its SHA-256, and the name of its holder.
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
func (t Tokens) Authenticate(_ context.Context, token string) (string, bool) {
	sum := sha256.Sum256([]byte(token))
	name, ok := "", false
	for _, have := range t {
		if subtle.ConstantTimeCompare(sum[:], have.sum[:]) == 1 && have.name != "" {
			name, ok = have.name, true
		}
	}
	return name, ok
}

type callerKey struct{}

// caller returns the name of who holds the request's token, "" for nobody.
func caller(r *http.Request) string {
	name, _ := r.Context().Value(callerKey{}).(string)
	return name
}

// authorise decides whether r may pass a route with access a, and returns r
// with the caller's name in its context.
func authorise(auth Authenticator, a access, r *http.Request) (*http.Request, error) {
	if a == anybody {
		return r, nil
	}
	header := r.Header.Get("Authorization")
	if header == "" && a == brief {
		return r, nil
	}
	scheme, token, _ := strings.Cut(header, " ")
	if auth == nil || a == undecided || !strings.EqualFold(scheme, "Bearer") || token == "" {
		return r, errUnauthorized
	}
	name, ok := auth.Authenticate(r.Context(), token)
	if !ok {
		return r, errUnauthorized
	}
	return r.WithContext(context.WithValue(r.Context(), callerKey{}, name)), nil
}
