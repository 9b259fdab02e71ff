package account

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"example.org/odometer"
)

// idp is an OpenID issuer that listens, with keys of every kind.
type idp struct {
	t   *testing.T
	srv *httptest.Server
	mu  sync.Mutex
	// What it answers; replaced by tests.
	config, set func(http.ResponseWriter, *http.Request)
	keys        map[string]crypto.Signer // by key id; those that it publishes
	asked       atomic.Int64
}

// signers are made once: RSA keys take long.
var signers = sync.OnceValue(func() map[string]crypto.Signer {
	r, _ := rsa.GenerateKey(rand.Reader, 2048)
	e, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, d, _ := ed25519.GenerateKey(rand.Reader)
	f, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	large, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	return map[string]crypto.Signer{"rsa": r, "ec": e, "ed": d, "foreign": f, "p384": large}
})

func newIdP(t *testing.T) *idp {
	p := &idp{t: t, keys: map[string]crypto.Signer{}}
	for _, id := range []string{"rsa", "ec", "ed"} {
		p.keys[id] = signers()[id]
	}
	p.config = func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"issuer": p.srv.URL, "jwks_uri": p.srv.URL + "/keys"})
	}
	p.set = func(w http.ResponseWriter, _ *http.Request) { w.Write(p.jwks()) }
	pick := func(f *func(http.ResponseWriter, *http.Request)) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			p.mu.Lock()
			h := *f
			p.mu.Unlock()
			h(w, r)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", pick(&p.config))
	mux.HandleFunc("/keys", func(w http.ResponseWriter, r *http.Request) { p.asked.Add(1); pick(&p.set)(w, r) })
	p.srv = httptest.NewServer(mux)
	t.Cleanup(p.srv.Close)
	return p
}

// jwks is its set of keys.
func (p *idp) jwks() []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	var set jose.JSONWebKeySet
	for id, k := range p.keys {
		set.Keys = append(set.Keys, jose.JSONWebKey{Key: k.Public(), KeyID: id, Use: "sig"})
	}
	b, err := json.Marshal(set)
	if err != nil {
		p.t.Error(err)
	}
	return b
}

func (p *idp) answers(config, set func(http.ResponseWriter, *http.Request)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if config != nil {
		p.config = config
	}
	if set != nil {
		p.set = set
	}
}

// sign makes a token of claims by a key.
func (p *idp) sign(alg jose.SignatureAlgorithm, id string, key any, claims map[string]any, extra map[jose.HeaderKey]any) string {
	p.t.Helper()
	o := (&jose.SignerOptions{}).WithType("JWT")
	if id != "" {
		o = o.WithHeader("kid", id)
	}
	for k, v := range extra {
		o = o.WithHeader(k, v)
	}
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		p.t.Fatal(err)
	}
	body, _ := json.Marshal(claims)
	jws, err := s.Sign(body)
	if err != nil {
		p.t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		p.t.Fatal(err)
	}
	return text
}

// foyer is an estate whose accounts accept the tokens of an issuer.
type foyer struct {
	*estate
	*Issuer
	idp *idp
	log bytes.Buffer
}

func newFoyer(t *testing.T, o IssuerOptions) *foyer {
	f := &foyer{estate: newEstate(t, AccountsOptions{}), idp: newIdP(t)}
	o.URL, o.Audience, o.Clock = f.idp.srv.URL, "odometer", f.now
	o.Logger = slog.New(slog.NewTextHandler(&f.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	if f.Issuer, err = NewIssuer(f.Accounts, o); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *foyer) fetched() {
	f.t.Helper()
	if err := f.fetch(f.t.Context()); err != nil {
		f.t.Fatal(err)
	}
}

func (f *foyer) linked(subject string, user odometer.UserID) odometer.Identity {
	f.t.Helper()
	i, err := f.AddIdentity(f.t.Context(), admin, odometer.Identity{Issuer: f.idp.srv.URL, Subject: subject, User: user})
	if err != nil {
		f.t.Fatal(err)
	}
	return i
}

// claims are those of a good token, with some changed; nil leaves one out.
func (f *foyer) claims(changed map[string]any) map[string]any {
	now := f.now().Unix()
	c := map[string]any{"iss": f.idp.srv.URL, "aud": "odometer", "sub": "s-guest", "iat": now, "exp": now + 3600}
	maps.Copy(c, changed)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return c
}

func (f *foyer) token(changed map[string]any) string {
	return f.idp.sign(jose.ES256, "ec", signers()["ec"], f.claims(changed), nil)
}

// comes says who comes with a token: "" for nobody.
func (f *foyer) comes(token string) string {
	c, ok := f.Issuer.Authenticate(f.t.Context(), token)
	if !ok {
		return ""
	}
	return strings.Trim(string(c.User)+" "+string(c.Org), " ") + ": " + odometer.JoinScopes(c.Scopes, ",")
}

// TestATokenOfAnIssuer is that of the user whose identity it names, by keys of every
// kind; every other one is refused, and none is in the log.
func TestATokenOfAnIssuer(t *testing.T) {
	f := newFoyer(t, IssuerOptions{})
	good := f.token(nil)
	if got := f.comes(good); got != "" {
		t.Errorf("before its keys are known: got %q", got)
	}
	f.fetched()
	if got := f.comes(good); got != "" {
		t.Errorf("of whom nobody knows: got %q", got)
	}
	i := f.linked("s-guest", "u-guest")
	f.give(f.owner, f.owns, "u-guest", odometer.LevelReadOnly)
	const guest = "u-guest: read,account"
	for range 2 { // verified, and remembered
		if got := f.comes(good); got != guest {
			t.Errorf("got %q, want %q", got, guest)
		}
	}
	c, _ := f.Issuer.Authenticate(t.Context(), good)
	if c.ID != i.ID || odometer.ValidTokenID(string(c.ID)) != nil || c.Expires.Unix() != f.now().Unix()+3600 || c.RoleIn("acme") != odometer.RoleMember || len(c.Grants) != 1 || c.String() == "admin" || c.May(odometer.ScopeAdmin) {
		t.Errorf("got %+v", c)
	}
	hour := f.now().Unix()
	public, err := x509.MarshalPKIXPublicKey(signers()["rsa"].Public())
	if err != nil {
		t.Fatal(err)
	}
	shared := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})
	unsigned := func(header string) string {
		body, _ := json.Marshal(f.claims(nil))
		return base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(body) + "."
	}
	with := func(changed map[string]any) string { return f.token(changed) }
	header := func(k jose.HeaderKey, v any) string {
		return f.idp.sign(jose.ES256, "ec", signers()["ec"], f.claims(nil), map[jose.HeaderKey]any{k: v})
	}
	parts := strings.Split(good, ".")
	for _, x := range []struct{ name, token, want string }{
		{"signed by RSA", f.idp.sign(jose.RS256, "rsa", signers()["rsa"], f.claims(nil), nil), guest},
		{"signed by Ed25519", f.idp.sign(jose.EdDSA, "ed", signers()["ed"], f.claims(nil), nil), guest},
		{"that names no key", f.idp.sign(jose.ES256, "", signers()["ec"], f.claims(nil), nil), guest},
		{"for several", with(map[string]any{"aud": []string{"other", "odometer"}}), guest},
		{"an access token", header(jose.HeaderType, "at+jwt"), guest},
		{"with scopes of ours", with(map[string]any{"scope": "openid odometer:read odometer:admin"}), "u-guest: read"},
		{"with none of ours that there is", with(map[string]any{"scp": []string{"odometer:none"}}), "u-guest: "},
		{"with scopes of others", with(map[string]any{"scope": "openid profile"}), guest},
		{"a clock that is ahead", with(map[string]any{"iat": hour + 59, "nbf": hour + 59}), guest},
		{"a clock that is behind", with(map[string]any{"iat": hour - 3600, "exp": hour - 59}), guest},

		{"of tomorrow", with(map[string]any{"nbf": hour + 61}), ""},
		{"issued later", with(map[string]any{"iat": hour + 61}), ""},
		{"expired", with(map[string]any{"iat": hour - 3600, "exp": hour - 60}), ""},
		{"that never expires", with(map[string]any{"exp": nil}), ""},
		{"that does not say when it was issued", with(map[string]any{"iat": nil}), ""},
		{"that lives for too long", with(map[string]any{"exp": hour + 86401}), ""},
		{"that expires before it is issued", with(map[string]any{"iat": hour, "exp": hour}), ""},
		{"whose times are none", with(map[string]any{"nbf": "tomorrow"}), ""},
		{"for somebody else", with(map[string]any{"aud": "other"}), ""},
		{"for nobody", with(map[string]any{"aud": nil}), ""},
		{"of another issuer", with(map[string]any{"iss": "https://login.example.org"}), ""},
		{"of the issuer with a slash", with(map[string]any{"iss": f.idp.srv.URL + "/"}), ""},
		{"of nobody", with(map[string]any{"sub": nil}), ""},
		{"of whom is no user", with(map[string]any{"sub": "s-other"}), ""},
		{"signed by a foreign key", f.idp.sign(jose.ES256, "foreign", signers()["foreign"], f.claims(nil), nil), ""},
		{"signed by a foreign key by the id of ours", f.idp.sign(jose.ES256, "ec", signers()["foreign"], f.claims(nil), nil), ""},
		{"signed by a key that it brings", f.idp.sign(jose.ES256, "ec", signers()["foreign"], f.claims(nil), map[jose.HeaderKey]any{"jwk": jose.JSONWebKey{Key: signers()["foreign"].Public()}}), ""},
		{"signed by RSA with padding of another kind", f.idp.sign(jose.PS256, "rsa", signers()["rsa"], f.claims(nil), nil), ""},
		{"signed by what is public", f.idp.sign(jose.HS256, "rsa", shared, f.claims(nil), nil), ""},
		{"not signed", unsigned(`{"alg":"none"}`), ""},
		{"not signed, and typed", unsigned(`{"alg":"None","typ":"JWT","kid":"ec"}`), ""},
		{"of another type", header(jose.HeaderType, "logout+jwt"), ""},
		{"with a critical header", header("crit", []string{"exp"}), ""},
		{"with another one's claims", parts[0] + "." + strings.Split(with(map[string]any{"sub": "s-admin"}), ".")[1] + "." + parts[2], ""},
		{"cut short", good[:len(good)-4], ""},
		{"longer than any", good + strings.Repeat("A", maxJWT), ""},
		{"without end", strings.Repeat("eyJ", 100) + "..", ""},
	} {
		if got := f.comes(x.token); got != x.want {
			t.Errorf("a token %s: got %q, want %q", x.name, got, x.want)
		}
	}
	for _, secret := range []string{good[:40], parts[1], parts[2]} {
		if strings.Contains(f.log.String(), secret) {
			t.Error("the log has a part of a token in it")
		}
	}
	if f.log.Len() == 0 {
		t.Error("nothing tells why a token is refused")
	}
}

// TestAClaimNamesWhoComes where the operator says which: an identity goes before it,
// and what it names must be there.
func TestAClaimNamesWhoComes(t *testing.T) {
	f := newFoyer(t, IssuerOptions{UserClaim: "user", OrgClaim: "tenant"})
	f.fetched()
	f.linked("s-admin", "u-admin")
	const ada, acme = "u-guest: read,account", "acme: read"
	for _, x := range []struct {
		name   string
		claims map[string]any
		want   string
	}{
		{"a user", map[string]any{"user": "u-guest"}, ada},
		{"a user, by another issuer", map[string]any{"iss": "https://login.example.org", "user": "u-guest"}, ""},
		{"a user and an organisation", map[string]any{"user": "u-guest", "tenant": "bolt"}, ada},
		{"an organisation", map[string]any{"tenant": "acme"}, acme},
		{"an organisation, to change something", map[string]any{"tenant": "acme", "scope": "odometer:account"}, "acme: "},
		{"another user than the identity", map[string]any{"sub": "s-admin", "user": "u-guest"}, "u-admin: read,account"},
		{"a user that there is not, of an organisation", map[string]any{"user": "u-none", "tenant": "acme"}, ""},
		{"an organisation that there is not", map[string]any{"tenant": "none"}, ""},
		{"nobody", map[string]any{"user": "unassigned", "tenant": "acme"}, ""},
		{"several", map[string]any{"user": []string{"u-guest"}, "tenant": "acme"}, ""},
		{"a number", map[string]any{"tenant": 7}, ""},
		{"neither", nil, ""},
	} {
		for range 2 {
			if got := f.comes(f.token(x.claims)); got != x.want {
				t.Errorf("%s: got %q, want %q", x.name, got, x.want)
			}
		}
	}
}

// TestWhoComesByAnIssuerIsDeleted: with the next request he does not come in, whatever
// his token says, and neither does who is no longer linked.
func TestWhoComesByAnIssuerIsDeleted(t *testing.T) {
	ctx := t.Context()
	f := newFoyer(t, IssuerOptions{UserClaim: "user", OrgClaim: "tenant"})
	f.fetched()
	f.linked("s-guest", "u-guest")
	other := f.linked("s-other", "u-other")
	named := f.token(map[string]any{"sub": "s-none", "user": "u-guest"})
	guest, others, service := f.token(nil), f.token(map[string]any{"sub": "s-other"}), f.token(map[string]any{"sub": "s-none", "tenant": "acme"})
	comes := func(when string, want ...bool) {
		t.Helper()
		for n, token := range []string{guest, others, service, named} {
			if got := f.comes(token) != ""; got != want[n] {
				t.Errorf("%s: token %d: got accepted %v, want %v", when, n, got, want[n])
			}
		}
	}
	comes("at first", true, true, true, true)
	if _, err := f.AddIdentity(ctx, admin, odometer.Identity{Issuer: f.idp.srv.URL, Subject: "s-guest", User: "u-admin"}); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("who is somebody already: got %v", err)
	}
	for _, by := range []odometer.Actor{f.owner, f.guest} {
		if _, err := f.AddIdentity(ctx, by, odometer.Identity{Issuer: f.idp.srv.URL, Subject: "s-x", User: "u-guest"}); !errors.Is(err, odometer.ErrForbidden) {
			t.Errorf("by a user: got %v", err)
		}
		if _, err := f.RemoveIdentity(ctx, by, "u-guest", other.ID); !errors.Is(err, odometer.ErrForbidden) {
			t.Errorf("removed by a user: got %v", err)
		}
	}
	if list, err := f.Identities(ctx, f.guest.Caller, "u-guest"); err != nil || len(list) != 1 || list[0].Subject != "s-guest" {
		t.Errorf("his own: got %+v, %v", list, err)
	}
	if _, err := f.Identities(ctx, f.owner.Caller, "u-guest"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("another's: got %v", err)
	}
	if _, err := f.RemoveIdentity(ctx, admin, "u-guest", other.ID); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("of another user: got %v", err)
	}
	if _, err := f.RemoveIdentity(ctx, admin, "u-other", other.ID); err != nil {
		t.Error(err)
	}
	comes("one is unlinked", true, false, true, true)
	if _, err := f.DeleteUser(ctx, admin, "u-guest", 0); err != nil {
		t.Fatal(err)
	}
	comes("one is deleted", false, false, true, false)
	if _, err := f.DeleteOrganisation(ctx, admin, "acme", 0); err != nil {
		t.Fatal(err)
	}
	comes("the organisation is deleted", false, false, false, false)
	var left int
	if err := f.db.QueryRow(`SELECT count(*) FROM account_identities`).Scan(&left); err != nil || left != 0 {
		t.Errorf("got %d identities left, %v", left, err)
	}
}

// TestTheIssuersKeysChange: a new one is known once it is fetched, which a token hastens
// that names it, and with one that is withdrawn nothing is accepted any more.
func TestTheIssuersKeysChange(t *testing.T) {
	f := newFoyer(t, IssuerOptions{refresh: time.Hour, hasten: time.Millisecond, retry: time.Millisecond})
	f.linked("s-guest", "u-guest")
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- f.Run(ctx) }()
	eventually := func(what, token string, want bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); (f.comes(token) != "") != want; {
			if time.Now().After(end) {
				t.Fatalf("%s: got accepted %v for 30 s", what, !want)
			}
			time.Sleep(time.Millisecond)
		}
	}
	before := f.token(nil)
	eventually("the first", before, true)
	f.idp.mu.Lock()
	f.idp.keys = map[string]crypto.Signer{"new": signers()["foreign"]}
	f.idp.mu.Unlock()
	after := f.idp.sign(jose.ES256, "new", signers()["foreign"], f.claims(nil), nil)
	eventually("signed by the new one", after, true)
	eventually("signed by the one that is withdrawn", before, false)

	// The issuer is away, in every way: what it signed is accepted on, and its own tokens
	// are none of its business.
	broken := func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusBadGateway) }
	f.idp.answers(broken, broken)
	_, own := f.createFor(odometer.Bound{User: "u-guest"}, odometer.ScopeRead)
	for range 3 {
		f.comes(f.idp.sign(jose.ES256, "other", signers()["ec"], f.claims(nil), nil))
		if f.comes(after) == "" {
			t.Error("got a token refused while the issuer is away")
		}
		f.as(own)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("Run: got %v", err)
	}
	f.after(maxStale)
	late := f.idp.sign(jose.ES256, "new", signers()["foreign"], f.claims(nil), nil)
	if f.comes(late) == "" {
		t.Errorf("after %s without it: got it refused", maxStale)
	}
	f.after(time.Microsecond)
	if got := f.comes(late); got != "" {
		t.Errorf("when its keys are too old: got %q", got)
	}
}

// TestAnIssuerThatLies: it hangs, answers without end, points elsewhere, is somebody
// else, has no keys that are any good. The keys of before stand.
func TestAnIssuerThatLies(t *testing.T) {
	f := newFoyer(t, IssuerOptions{})
	f.linked("s-guest", "u-guest")
	f.fetched()
	good := f.token(nil)
	endless := func(w http.ResponseWriter, _ *http.Request) {
		for range 1 << 20 {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<10)); err != nil {
				return
			}
		}
	}
	says := func(text string) func(http.ResponseWriter, *http.Request) {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
	}
	keysAt := func(at string) func(http.ResponseWriter, *http.Request) {
		return says(fmt.Sprintf(`{"issuer":%q,"jwks_uri":%q}`, f.idp.srv.URL, at))
	}
	symmetric, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: []byte("secret"), KeyID: "ec"}}})
	private, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signers()["ec"], KeyID: "ec"}}})
	large, _ := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: signers()["p384"].Public(), KeyID: "ec"}, {Key: signers()["ec"].Public(), KeyID: "ec", Use: "enc"}}})
	asked := f.idp.asked.Load()
	for _, x := range []struct {
		name        string
		config, set func(http.ResponseWriter, *http.Request)
		want        string
	}{
		{"a configuration without end", endless, nil, "too large"},
		{"of another issuer", says(`{"issuer":"https://evil.example.org","jwks_uri":"https://evil.example.org"}`), nil, "did not match"},
		{"no configuration", says(`<html>`), nil, "decode"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/keys", http.StatusFound) }, nil, "302"},
		{"keys in clear", keysAt("http://192.0.2.1/keys"), nil, "no address of https"},
		{"keys of a file", keysAt("file:///etc/passwd"), nil, "no address of https"},
		{"keys without end", nil, endless, "too large"},
		{"no keys", nil, says(`{"keys":[]}`), "there is none"},
		{"broken keys", nil, says(`{"keys":[{"kty":"EC"},{"kty":"what"},7]}`), "there is none"},
		{"keys that are no JSON", nil, says(`keys`), "read its keys"},
		{"a secret that is shared", nil, says(string(symmetric)), "there is none"},
		{"its private key", nil, says(string(private)), "there is none"},
		{"keys of other kinds", nil, says(string(large)), "there is none"},
	} {
		f.idp.answers(keysAt(f.idp.srv.URL+"/keys"), func(w http.ResponseWriter, _ *http.Request) { w.Write(f.idp.jwks()) })
		f.idp.answers(x.config, x.set)
		if err := f.fetch(t.Context()); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: got %.200v, want %q in it", x.name, err, x.want)
		}
		if f.comes(good) == "" {
			t.Errorf("%s: got a token of before refused", x.name)
		}
	}
	if n := f.idp.asked.Load() - asked; n > 7 {
		t.Errorf("got %d requests for keys, want none that a configuration does not lead to", n)
	}
	release := make(chan struct{})
	f.idp.answers(func(http.ResponseWriter, *http.Request) { <-release }, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := f.fetch(ctx); !errors.Is(err, context.DeadlineExceeded) && (err == nil || !strings.Contains(err.Error(), "deadline")) {
		t.Errorf("one that hangs: got %v", err)
	}
	close(release)
	if f.comes(good) == "" {
		t.Error("one that hangs: got a token of before refused")
	}
}

// TestWhatIsRememberedOfTokensIsBounded, and a token is verified once.
func TestWhatIsRememberedOfTokensIsBounded(t *testing.T) {
	f := newFoyer(t, IssuerOptions{})
	f.fetched()
	f.linked("s-guest", "u-guest")
	good := f.token(nil)
	f.comes(good)
	for n := range maxVerified - 1 {
		until := f.now().Add(time.Hour)
		if n%2 == 0 {
			until = f.now()
		}
		f.verified[[32]byte{byte(n), byte(n >> 8), 1}] = &verified{until: until}
	}
	f.comes(f.token(map[string]any{"n": 1}))
	if n := len(f.verified); n > maxVerified/2+2 || n < maxVerified/2 {
		t.Errorf("got %d remembered, want those that have not expired", n)
	}
	if n := testing.AllocsPerRun(10, func() { f.Issuer.Authenticate(t.Context(), good) }); n > 1 {
		t.Errorf("got %v allocations of a token that is remembered, want its bytes alone", n)
	}
	for name, o := range map[string]IssuerOptions{
		"no audience": {URL: "https://login.example.org"}, "no address": {URL: "login", Audience: "a"}, "in clear": {URL: "http://login.example.org", Audience: "a"},
	} {
		if _, err := NewIssuer(f.Accounts, o); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("%s: got %v, want ErrInvalid", name, err)
		}
	}
}
