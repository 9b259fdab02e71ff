package account

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"example.org/odometer"
)

const (
	// MaxTokenLife is how long a token of an issuer's may live altogether: it cannot be
	// revoked, only who it stands for deleted.
	MaxTokenLife = 24 * time.Hour
	// clockSkew is how far the clocks of the issuer and of this machine may be apart.
	clockSkew = time.Minute
	// maxJWT is more than any token that a header of a request takes, in bytes.
	maxJWT = 16 << 10
	// maxVerified is how many tokens are remembered that were verified: 4 MiB.
	maxVerified = 10_000
)

// signedBy are the algorithms that are accepted. That of a token must be that of the
// key, so that nobody signs with what is public.
var signedBy = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.EdDSA}

// IssuerOptions say whose tokens are accepted beside those of accounts.
type IssuerOptions struct {
	URL       string // of the issuer, as its tokens have it
	Audience  string // whom the tokens must be meant for
	UserClaim string // that has the id of a user; "" for none, where identities alone decide
	OrgClaim  string // that has the id of an organisation, of whom is no user; "" for none
	TLS       *tls.Config
	Clock     func() time.Time // time.Now when nil
	Logger    *slog.Logger     // discarded when nil

	refresh, hasten, retry time.Duration // tests
}

// Issuer accepts the tokens that an OpenID issuer signs (JWT, RFC 7519), by its keys,
// which are fetched in the background: no request waits for the issuer, and with it
// away those that it signed are accepted for as long as [maxStale].
//
// A token stands for the user whose identity it names (see [odometer.Identity]), or
// else the one whom its user claim names, or else the organisation that its
// organisation claim names. What these may is kept here, not in the token: who is
// deleted is refused with the next request.
type Issuer struct {
	o        IssuerOptions
	accounts *Accounts
	name     string // of its callers
	client   *http.Client
	verifier *oidc.IDTokenVerifier
	wanted   chan struct{} // has a value while a key is not known

	mu       sync.RWMutex // guards what follows; never held over a request to the issuer
	keys     []jose.JSONWebKey
	fetched  time.Time // when keys were, zero for never
	verified map[[sha256.Size]byte]*verified
}

// verified is what a token says that was verified.
type verified struct {
	identity      identity
	id            odometer.TokenID
	user          odometer.UserID // whom its claim names
	org           odometer.OrgID
	userMay       []odometer.Scope
	orgMay        []odometer.Scope
	begins, until time.Time // with the skew of clocks
	expires       time.Time
}

// NewIssuer returns an Issuer, which knows no keys yet.
func NewIssuer(a *Accounts, o IssuerOptions) (*Issuer, error) {
	if err := odometer.ValidIssuer(o.URL); err != nil {
		return nil, err
	}
	if o.Audience == "" {
		return nil, fmt.Errorf("no audience is named: a token that was meant for anybody else would be accepted: %w", odometer.ErrInvalid)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	u, err := url.Parse(o.URL)
	if err != nil {
		return nil, err
	}
	i := &Issuer{
		o: o, accounts: a, name: "OpenID " + u.Host, client: issuerClient(o.TLS), wanted: make(chan struct{}, 1), verified: map[[sha256.Size]byte]*verified{},
	}
	algorithms := make([]string, len(signedBy))
	for n, alg := range signedBy {
		algorithms[n] = string(alg)
	}
	i.verifier = oidc.NewVerifier(o.URL, issuerKeys{i}, &oidc.Config{ClientID: o.Audience, SupportedSigningAlgs: algorithms, SkipExpiryCheck: true}) // that is verify's
	return i, nil
}

// Authenticate returns who comes with a token of the issuer's. It looks at memory
// alone and waits for nothing.
func (i *Issuer) Authenticate(ctx context.Context, token string) (odometer.Caller, bool) {
	if !strings.HasPrefix(token, "eyJ") || len(token) > maxJWT || strings.Count(token, ".") != 2 {
		return odometer.Caller{}, false
	}
	now := i.o.Clock()
	sum := sha256.Sum256([]byte(token))
	i.mu.RLock()
	v, keys, usable := i.verified[sum], i.keys, i.usable(now)
	i.mu.RUnlock()
	if !usable {
		return odometer.Caller{}, false
	}
	if v == nil {
		var err error
		if v, err = i.verify(ctx, token, now); err != nil {
			i.o.Logger.Debug("a token of the issuer's is refused", "issuer", i.o.URL, "err", odometer.HideSecrets(err.Error()))
			return odometer.Caller{}, false
		}
		i.remember(sum, v, keys, now)
	}
	if now.Before(v.begins) || !now.Before(v.until) {
		return odometer.Caller{}, false
	}
	return i.callerOf(v, now)
}

// callerOf returns for whom a token stands now.
func (i *Issuer) callerOf(v *verified, now time.Time) (odometer.Caller, bool) {
	c := odometer.Caller{ID: v.id, Name: i.name, Expires: v.expires}
	a := i.accounts
	a.mu.RLock()
	user, linked := a.people.identities[v.identity]
	if !linked {
		user = v.user
	}
	members, there := a.people.users[user]
	granted, org := a.people.grants[user], a.people.orgs[v.org]
	a.mu.RUnlock()
	switch {
	case user != "":
		c.User, c.Scopes, c.Memberships = user, v.userMay, members
		c.Grants = a.grantsNow(user, granted, now.UnixMicro())
		return c, there
	case v.org != "":
		c.Org, c.Scopes = v.org, v.orgMay
		return c, org
	}
	return odometer.Caller{}, false
}

// remember keeps what was verified by keys, while these are the issuer's.
func (i *Issuer) remember(sum [sha256.Size]byte, v *verified, keys []jose.JSONWebKey, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(keys) == 0 || len(i.keys) == 0 || &keys[0] != &i.keys[0] {
		return
	}
	if len(i.verified) >= maxVerified {
		for k, old := range i.verified {
			if !now.Before(old.until) {
				delete(i.verified, k)
			}
		}
	}
	if len(i.verified) >= maxVerified {
		clear(i.verified) // each costs a signature once more
	}
	i.verified[sum] = v
}

// verify returns what a token says, where the issuer signed it for us.
func (i *Issuer) verify(ctx context.Context, token string, now time.Time) (*verified, error) {
	t, err := i.verifier.Verify(ctx, token)
	if err != nil {
		return nil, err
	}
	var claims map[string]json.RawMessage
	if err := t.Claims(&claims); err != nil {
		return nil, err
	}
	if err := odometer.ValidSubject(t.Subject); err != nil {
		return nil, err
	}
	begins := t.IssuedAt
	if raw, ok := claims["nbf"]; ok {
		var seconds float64
		if err := json.Unmarshal(raw, &seconds); err != nil || seconds < 0 || seconds > 1<<40 {
			return nil, errors.New("nbf is no time")
		}
		if nbf := time.Unix(int64(seconds), 0); nbf.After(begins) {
			begins = nbf
		}
	}
	switch life := t.Expiry.Sub(t.IssuedAt); {
	case t.Expiry.Unix() <= 0 || t.IssuedAt.Unix() <= 0:
		return nil, errors.New("it does not say when it was issued and when it expires")
	case life <= 0 || life > MaxTokenLife:
		return nil, fmt.Errorf("it lives for %s, and may for %s at most, since it cannot be revoked", life, MaxTokenLife)
	}
	id := identity{t.Issuer, t.Subject}
	v := &verified{
		identity: id, id: id.id(), begins: begins.Add(-clockSkew), until: t.Expiry.Add(clockSkew), expires: t.Expiry.UTC(),
		userMay: []odometer.Scope{odometer.ScopeRead, odometer.ScopeAccount}, orgMay: []odometer.Scope{odometer.ScopeRead},
	}
	if now.Before(v.begins) || !now.Before(v.until) {
		return nil, fmt.Errorf("it is valid from %s to %s", begins.UTC().Format(time.RFC3339), v.expires.Format(time.RFC3339))
	}
	if named, ok := textClaim(claims, i.o.UserClaim); ok {
		if v.user = odometer.UserID(named); odometer.ValidUserID(v.user) != nil {
			return nil, fmt.Errorf("claim %s is no id of a user", i.o.UserClaim)
		}
	}
	if named, ok := textClaim(claims, i.o.OrgClaim); ok {
		if v.org = odometer.OrgID(named); odometer.ValidOrgID(v.org) != nil {
			return nil, fmt.Errorf("claim %s is no id of an organisation", i.o.OrgClaim)
		}
	}
	v.narrow(claims)
	return v, nil
}

// textClaim returns a claim that is a text, and whether there is anything of that name.
func textClaim(claims map[string]json.RawMessage, name string) (text string, there bool) {
	raw, there := claims[name]
	if name == "" || !there {
		return "", false
	}
	if json.Unmarshal(raw, &text) != nil {
		text = "" // which is no id
	}
	return text, true
}

// scopePrefix begins the scopes of an issuer's tokens that are about us.
const scopePrefix = "odometer:"

// narrow leaves the scopes that a token names, where it names any of ours: as scope
// (RFC 8693) or scp has them.
func (v *verified) narrow(claims map[string]json.RawMessage) {
	var words []string
	for _, name := range []string{"scope", "scp"} {
		var text string
		var list []string
		if json.Unmarshal(claims[name], &text) == nil {
			list = strings.Fields(text)
		} else if json.Unmarshal(claims[name], &list) != nil {
			continue
		}
		for _, w := range list {
			if ours, ok := strings.CutPrefix(w, scopePrefix); ok {
				words = append(words, ours)
			}
		}
	}
	if words == nil {
		return
	}
	left := func(s odometer.Scope) bool { return !slices.Contains(words, string(s)) }
	v.userMay, v.orgMay = slices.DeleteFunc(v.userMay, left), slices.DeleteFunc(v.orgMay, left)
}
