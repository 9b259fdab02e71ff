package directory

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"example.org/odometer"
)

// maxAnswer bounds what is read of one answer: many times what one takes.
const maxAnswer = 16 << 10

// HTTP is an account service that answers GET {base}/instances/{id} with 200 and an
// [HTTPAnswer], or 404 where nobody is known to own the instance. Redirects are not
// followed: a token would go with them.
type HTTP struct {
	base   string
	token  string
	client *http.Client
}

// HTTPAnswer is the body of an answer, in JSON. Other members are ignored.
type HTTPAnswer struct {
	Instance     odometer.InstanceID `json:"instance"`     // the one that was asked for; may be left out
	Owner        odometer.UserID     `json:"owner"`        // user, or "unassigned" for nobody, on the service's word
	Organisation odometer.OrgID      `json:"organisation"` // may be left out for none
	Since        time.Time           `json:"since"`        // RFC 3339
}

// NewHTTP returns the service at a URL. Token, where it is not "", is sent as a bearer
// token; trust says which authorities to trust, nil for the system's. A URL that is none, or
// has a password in it, is an error wrapping [odometer.ErrInvalid].
func NewHTTP(base, token string, trust *tls.Config) (*HTTP, error) {
	u, err := url.Parse(base)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("%q is no http(s):// address of an account service: %w", base, odometer.ErrInvalid)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("the address of an account service at %s has no user, query or fragment: %w", u.Host, odometer.ErrInvalid)
	}
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, TLSClientConfig: trust, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: atOnce, IdleConnTimeout: 2 * DefaultMaxAge, MaxResponseHeaderBytes: maxAnswer,
	}
	return &HTTP{
		base: strings.TrimSuffix(u.String(), "/"), token: token,
		client: &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }},
	}, nil
}

// Owner implements [Source].
func (h *HTTP) Owner(ctx context.Context, instance odometer.InstanceID) (own odometer.Ownership, err error) {
	fail := func(err error) (odometer.Ownership, error) {
		return odometer.Ownership{}, fmt.Errorf("ask %s for %s: %w", h.base, instance, err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, h.base+"/instances/"+url.PathEscape(string(instance)), nil)
	if err != nil {
		return fail(err)
	}
	r.Header.Set("Accept", "application/json")
	if h.token != "" {
		r.Header.Set("Authorization", "Bearer "+h.token)
	}
	resp, err := h.client.Do(r)
	if err != nil {
		if u, ok := errors.AsType[*url.Error](err); ok {
			err = u.Err // it has the address once more
		}
		return fail(fmt.Errorf("%w: %w", odometer.ErrUnavailable, err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fail(fmt.Errorf("%w: %w", odometer.ErrUnavailable, err))
	case resp.StatusCode == http.StatusNotFound:
		return fail(odometer.ErrNotFound)
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return fail(fmt.Errorf("it leads elsewhere (%s), which is not followed: %w", resp.Status, odometer.ErrUnavailable))
	case resp.StatusCode != http.StatusOK:
		return fail(fmt.Errorf("it answers %s: %w", resp.Status, odometer.ErrUnavailable))
	case len(body) > maxAnswer:
		return fail(fmt.Errorf("its answer has more than %d bytes: %w", maxAnswer, odometer.ErrInvalid))
	}
	if own, err = readAnswer(body, instance); err != nil {
		return fail(err)
	}
	return own, nil
}

// readAnswer returns whose an instance is by the body of an answer.
func readAnswer(body []byte, instance odometer.InstanceID) (odometer.Ownership, error) {
	fail := func(format string, args ...any) (odometer.Ownership, error) {
		return odometer.Ownership{}, fmt.Errorf("its answer "+format+": %w", append(args, odometer.ErrInvalid)...)
	}
	var a HTTPAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		return fail("cannot be read: %w", err)
	}
	switch {
	case a.Instance != "" && a.Instance != instance:
		return fail("is of %q", a.Instance)
	case a.Owner == "":
		return fail("names no owner")
	case a.Since.IsZero():
		return fail("does not say since when")
	}
	own := odometer.Ownership{
		Instance: instance, Owner: odometer.Owner{User: a.Owner, Org: a.Organisation}, From: a.Since.UnixMicro(), Until: odometer.Forever,
	}
	return own, nil
}
