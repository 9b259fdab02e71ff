package account

import (
	"bytes"
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"

	"example.org/odometer"
)

const (
	// refreshKeys is how often the issuer's keys are fetched: issuers publish one
	// before they sign with it.
	refreshKeys = 10 * time.Minute
	// hastenKeys is how soon they are fetched again where a token names one that is not
	// known: anybody can send such a token.
	hastenKeys = 30 * time.Second
	// retryKeys is how soon it is tried again to fetch them, and twice as long each
	// further time.
	retryKeys = 5 * time.Second
	// fetchWithin bounds one attempt.
	fetchWithin = 10 * time.Second
	// maxStale is for how long keys are used while the issuer is away: one that it
	// withdraws meanwhile is not known to be withdrawn.
	maxStale = 24 * time.Hour
	// maxAnswer bounds what is read of an answer of the issuer's.
	maxAnswer = 1 << 20
	// maxKeys is how many keys are kept.
	maxKeys = 64
	// Moduli of RSA keys, in bits: no weaker ones, and none that take long to verify.
	leastRSA, mostRSA = 2048, 8192
)

// usable reports whether there are keys that are not too old. The caller holds mu.
func (i *Issuer) usable(now time.Time) bool {
	return !i.fetched.IsZero() && now.Sub(i.fetched) <= maxStale
}

// issuerKeys verifies signatures by the keys that are known.
type issuerKeys struct{ *Issuer }

// VerifySignature implements [oidc.KeySet].
func (i issuerKeys) VerifySignature(_ context.Context, token string) ([]byte, error) {
	jws, err := jose.ParseSigned(token, signedBy)
	if err != nil {
		return nil, err
	}
	if len(jws.Signatures) != 1 {
		return nil, errors.New("it has not one signature")
	}
	h := &jws.Signatures[0].Header
	if typ, ok := h.ExtraHeaders[jose.HeaderType]; ok {
		text, _ := typ.(string)
		if t := strings.TrimPrefix(strings.ToLower(text), "application/"); t != "jwt" && t != "at+jwt" {
			return nil, fmt.Errorf("it is of type %.40q", text)
		}
	}
	i.mu.RLock()
	keys := i.keys
	i.mu.RUnlock()
	found := false
	for n := range keys {
		k := &keys[n]
		if h.KeyID != "" && k.KeyID != h.KeyID || algorithmOf(k) != jose.SignatureAlgorithm(h.Algorithm) {
			continue
		}
		found = true
		if payload, err := jws.Verify(k.Key); err == nil {
			return payload, nil
		}
	}
	if !found {
		select {
		case i.wanted <- struct{}{}:
		default:
		}
		return nil, errors.New("its key is not one of the issuer's, as far as that is known")
	}
	return nil, errors.New("its signature is wrong")
}

// algorithmOf returns by which of signedBy a key signs, "" for none: each kind of key
// by one.
func algorithmOf(k *jose.JSONWebKey) (a jose.SignatureAlgorithm) {
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		if n := key.N.BitLen(); n >= leastRSA && n <= mostRSA {
			a = jose.RS256
		}
	case *ecdsa.PublicKey:
		if key.Curve == elliptic.P256() {
			a = jose.ES256
		}
	case ed25519.PublicKey:
		a = jose.EdDSA
	}
	if k.Algorithm != "" && k.Algorithm != string(a) || k.Use != "" && k.Use != "sig" {
		return ""
	}
	return a
}

// Run fetches the issuer's keys again and again until ctx is done.
func (i *Issuer) Run(ctx context.Context) error {
	refresh, hasten, retry := cmp.Or(i.o.refresh, refreshKeys), cmp.Or(i.o.hasten, hastenKeys), cmp.Or(i.o.retry, retryKeys)
	next := time.NewTimer(0)
	defer next.Stop()
	var last time.Time
	wait, failing := retry, false
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-i.wanted:
			if !failing { // which is tried again soon as it is
				next.Reset(max(0, hasten-time.Since(last)))
			}
			continue
		case <-next.C:
		}
		last = time.Now()
		err := i.fetch(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			if !failing {
				i.o.Logger.Warn("the issuer's keys cannot be fetched; trying again, with those of before", "issuer", i.o.URL, "err", clipped(err))
			}
			next.Reset(wait)
			wait, failing = min(2*wait, refresh), true
		default:
			if failing {
				i.o.Logger.Info("the issuer's keys are fetched again", "issuer", i.o.URL)
			}
			next.Reset(refresh)
			wait, failing = retry, false
		}
	}
}

// clipped is an error of the issuer's, which may say as much as it likes.
func clipped(err error) string {
	s := odometer.HideSecrets(err.Error())
	return strings.ToValidUTF8(s[:min(len(s), 300)], "")
}

// fetch reads the issuer's keys. What was verified by a key that it no longer has is
// forgotten.
func (i *Issuer) fetch(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, fetchWithin)
	defer cancel()
	provider, err := oidc.NewProvider(oidc.ClientContext(ctx, i.client), i.o.URL)
	if err != nil {
		return err
	}
	var says struct {
		Keys string `json:"jwks_uri"`
	}
	if err := provider.Claims(&says); err != nil {
		return err
	}
	at, err := url.Parse(says.Keys)
	if err != nil || at.Host == "" || !odometer.Confidential(at) {
		return fmt.Errorf("its keys are to be at %.80q, which is no address of https", says.Keys)
	}
	body, err := i.get(ctx, at.String())
	if err != nil {
		return fmt.Errorf("read its keys: %w", err)
	}
	keys, err := readKeys(body)
	if err != nil {
		return fmt.Errorf("read its keys: %w", err)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fetched = i.o.Clock()
	if !sameKeys(i.keys, keys) {
		i.keys = keys
		clear(i.verified)
	}
	return nil
}

func (i *Issuer) get(ctx context.Context, address string) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	answer, err := i.client.Do(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", answer.Status)
	}
	return io.ReadAll(answer.Body)
}

// readKeys returns the keys of a set (RFC 7517) by which tokens may be signed. What is
// none of these is left out, and without any the set is no good.
func readKeys(body []byte) (keys []jose.JSONWebKey, err error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return nil, err
	}
	for _, raw := range set.Keys[:min(len(set.Keys), maxKeys)] {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) == nil && k.Valid() && k.IsPublic() && algorithmOf(&k) != "" {
			keys = append(keys, k)
		}
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("there is none by which %v is signed", signedBy)
	}
	return keys, nil
}

// sameKeys reports whether two sets have the same keys in the same order.
func sameKeys(a, b []jose.JSONWebKey) bool {
	return slices.EqualFunc(a, b, func(x, y jose.JSONWebKey) bool {
		p, err1 := x.MarshalJSON()
		q, err2 := y.MarshalJSON()
		return err1 == nil && err2 == nil && bytes.Equal(p, q)
	})
}

// issuerClient asks an issuer, that may hang, lie and answer without end. It follows
// nobody elsewhere.
func issuerClient(trust *tls.Config) *http.Client {
	return &http.Client{
		Transport: bounded{&http.Transport{
			Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, TLSHandshakeTimeout: fetchWithin / 2, ResponseHeaderTimeout: fetchWithin / 2,
			MaxResponseHeaderBytes: 64 << 10, DisableKeepAlives: true, // two requests in ten minutes
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// bounded fails where an answer is longer than maxAnswer.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(r)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
	}
	return answer, err
}
