// Package client speaks to the HTTP API of a server or an agent. It is what the
// command line uses; other programs may copy it as an example.
//
// An error of the server is returned as an [*api.Problem], which wraps the kind
// of failure ([odometer.ErrNotFound] and so on), so that errors.Is tells the
// same on both ends. A server that cannot be reached is an
// [*UnreachableError]. Nothing is repeated but what the server refused, and did not
// do, because it was asked too often: every call but Submit, Release, Reverse,
// CreateToken and the changes of people may be made again at will, and
// Submit too, since the ledger knows an event that it has. What was released,
// reversed or changed before is refused; a token is created each time.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
)

// Timeout is how long one call may take: longer than the server gives itself,
// so that the server's own answer is seen.
const Timeout = api.RequestTimeout + 15*time.Second

// maxAnswer bounds what is read of one answer: the most rows that there are in one
// are well below.
const maxAnswer = 1 << 30

// Client calls one server. It may be used by several goroutines at once.
type Client struct {
	Server string // http://host:port or https://…
	Token  string // "" for none: only the health routes answer then
	// HTTP makes the requests; nil for one with [Timeout].
	HTTP *http.Client
}

// UnreachableError says that no answer came from the server.
type UnreachableError struct {
	Server string
	Err    error
}

func (e *UnreachableError) Error() string {
	return fmt.Sprintf("no answer from %s: %v. Is a server running there? `odometer serve` starts one; --server or ODOMETER_SERVER names another", e.Server, e.Err)
}

// Unwrap makes it an [odometer.ErrUnavailable].
func (e *UnreachableError) Unwrap() []error { return []error{odometer.ErrUnavailable, e.Err} }

// EventQuery selects entries. Limit 0 takes the server's default.
type EventQuery struct {
	Instance string
	User     string
	Org      string
	From, To string
	After    string
	Limit    int
	Fields   []string // nil for all
}

// Events returns one page of entries. Next of the answer leads to the page
// that follows; Cursor to what is booked later.
func (c *Client) Events(ctx context.Context, q EventQuery) (api.EventsAnswer, error) {
	var a api.EventsAnswer
	err := c.get(ctx, "/api/v1/events", q.values(), &a)
	return a, err
}

func (q *EventQuery) values() url.Values {
	return values("instance", q.Instance, "user", q.User, "org", q.Org, "from", q.From, "to", q.To, "after", q.After, "limit", positive(q.Limit),
		"fields", strings.Join(q.Fields, ","))
}

// InstanceQuery selects instances. Limit 0 takes the server's default.
type InstanceQuery struct {
	Agent, State, Name, User, Org string
	Attribute                     string   // key:value
	Label                         string   // key:value
	Sort                          []string // nil for the order of their ids, in which alone After goes on
	After                         string
	Limit                         int
}

// Instances returns one page of instances.
func (c *Client) Instances(ctx context.Context, q InstanceQuery) (api.InstancesAnswer, error) {
	var a api.InstancesAnswer
	err := c.get(ctx, "/api/v1/instances", values("agent", q.Agent, "state", q.State, "name", q.Name, "attribute", q.Attribute, "label", q.Label,
		"user", q.User, "org", q.Org, "sort", strings.Join(q.Sort, ","), "after", q.After, "limit", positive(q.Limit)), &a)
	return a, err
}

// Instance returns what is known of one instance.
func (c *Client) Instance(ctx context.Context, id odometer.InstanceID) (api.InstanceAnswer, error) {
	var a api.InstanceAnswer
	err := c.get(ctx, "/api/v1/instances/"+url.PathEscape(string(id)), nil, &a)
	return a, err
}

// Lifecycle returns what happened to an instance, in order of time: of more than
// limit changes the newest. A limit of 0 takes the server's default.
func (c *Client) Lifecycle(ctx context.Context, id odometer.InstanceID, from, to string, limit int) (api.LifecycleAnswer, error) {
	most := ""
	if limit != 0 {
		most = strconv.Itoa(limit)
	}
	var a api.LifecycleAnswer
	err := c.get(ctx, "/api/v1/instances/"+url.PathEscape(string(id))+"/lifecycle", values("from", from, "to", to, "limit", most), &a)
	return a, err
}

// Submit posts a body of CloudEvents of the given content type and returns
// what became of each event, after the ledger has committed them. When every
// event was refused the error is a problem with the same answer in it.
func (c *Client) Submit(ctx context.Context, contentType string, body []byte) (api.Submitted, error) {
	var a api.Submitted
	err := c.call(ctx, http.MethodPost, "/api/v1/events", nil, contentType, body, &a)
	if p, ok := errors.AsType[*api.Problem](err); ok && p.Submitted != nil {
		a = *p.Submitted
	}
	return a, err
}

// Quarantine returns what was put aside, newest first.
func (c *Client) Quarantine(ctx context.Context, limit int) ([]api.QuarantineItem, error) {
	var a api.QuarantineAnswer
	err := c.get(ctx, "/api/v1/quarantine", values("limit", strconv.Itoa(limit)), &a)
	return a.Items, err
}

// Release books an item of the quarantine after all.
func (c *Client) Release(ctx context.Context, partition int, no int64) (odometer.Result, error) {
	var a odometer.Result
	err := c.call(ctx, http.MethodPost, fmt.Sprintf("/api/v1/quarantine/%d/%d/release", partition, no), nil, "", nil, &a)
	return a, err
}

// Reverse books the negation of an entry and returns the correction as JSON.
func (c *Client) Reverse(ctx context.Context, id odometer.EntryID, cause string) (json.RawMessage, error) {
	body, err := json.Marshal(api.ReverseRequest{Cause: cause})
	if err != nil {
		return nil, err
	}
	var entry json.RawMessage
	err = c.call(ctx, http.MethodPost, "/api/v1/entries/"+id.String()+"/reverse", nil, odometer.ContentJSON, body, &entry)
	return entry, err
}

// Queue returns where agents reach the queue.
func (c *Client) Queue(ctx context.Context) (string, error) {
	var a api.QueueAnswer
	err := c.get(ctx, "/api/v1/queue", nil, &a)
	return a.URL, err
}

// Status returns what `odometer status` shows.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	var a api.Status
	err := c.get(ctx, "/api/v1/status", nil, &a)
	return a, err
}

// Machine returns the metrics of the server's or agent's own machine.
func (c *Client) Machine(ctx context.Context) (api.Machine, error) {
	var a api.Machine
	err := c.get(ctx, "/get", nil, &a)
	return a, err
}

// Health returns the health of every component. That some are not well is no
// error.
func (c *Client) Health(ctx context.Context) (api.Health, error) {
	var a api.Health
	status, body, err := c.do(ctx, http.MethodGet, "/api/v1/health/status", nil, "", nil)
	if err != nil {
		return a, err
	}
	if status == http.StatusServiceUnavailable && json.Unmarshal(body, &a) == nil && a.Components != nil {
		return a, nil
	}
	return a, c.decode(status, body, &a)
}

// Metrics returns the metrics in Prometheus' text form.
func (c *Client) Metrics(ctx context.Context) ([]byte, error) {
	status, body, err := c.do(ctx, http.MethodGet, "/metrics", nil, "", nil)
	if err == nil && status != http.StatusOK {
		err = c.decode(status, body, nil)
	}
	return body, err
}

func (c *Client) get(ctx context.Context, path string, query url.Values, answer any) error {
	return c.call(ctx, http.MethodGet, path, query, "", nil, answer)
}

func (c *Client) call(ctx context.Context, method, path string, query url.Values, contentType string, body []byte, answer any) error {
	status, got, err := c.do(ctx, method, path, query, contentType, body)
	if err != nil {
		return err
	}
	return c.decode(status, got, answer)
}

// decode reads the body of an answer: into answer where it went well, into a
// problem otherwise.
func (c *Client) decode(status int, body []byte, answer any) error {
	if status >= 200 && status < 300 {
		if err := json.Unmarshal(body, answer); err != nil {
			return fmt.Errorf("%s answered %d with what is not the API's JSON: %w. Does --server name an odometer server?", c.Server, status, err)
		}
		return nil
	}
	var p api.Problem
	if err := json.Unmarshal(body, &p); err != nil || p.Code == "" {
		return fmt.Errorf("%s answered %d %s and no problem of the API. Does --server name an odometer server?", c.Server, status, http.StatusText(status))
	}
	if p.Status == http.StatusUnauthorized {
		if c.Token == "" {
			p.Detail = c.Server + " wants a token: --token-file or ODOMETER_TOKEN gives it; the server keeps one in admin.token of its data directory"
		} else {
			p.Detail = c.Server + " does not know this token, or no longer: it was revoked, has expired, or is another server's. The administrator's is in admin.token of the server's data directory"
		}
	}
	return &p
}

// do makes one request and returns the status and the whole body.
func (c *Client) do(ctx context.Context, method, path string, query url.Values, contentType string, body []byte) (int, []byte, error) {
	header := http.Header{}
	if contentType != "" {
		header.Set("Content-Type", contentType)
	}
	return c.send(ctx, method, path, query, header, body)
}

// send is do with other headers.
func (c *Client) send(ctx context.Context, method, path string, query url.Values, header http.Header, body []byte) (int, []byte, error) {
	caller := c.HTTP
	if caller == nil {
		caller = defaultHTTP
	}
	resp, err := c.ask(ctx, caller, method, path, query, header, body)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return 0, nil, &UnreachableError{Server: c.Server, Err: fmt.Errorf("the answer broke off: %w", err)}
	}
	if len(got) > maxAnswer {
		return 0, nil, fmt.Errorf("the answer of %s is larger than %d bytes: ask for a shorter time", c.Server, maxAnswer)
	}
	return resp.StatusCode, got, nil
}

// ask makes one request and returns the answer, whose body is to be read.
func (c *Client) ask(ctx context.Context, caller *http.Client, method, path string, query url.Values, header http.Header, body []byte) (*http.Response, error) {
	base, err := url.Parse(c.Server)
	if err != nil || base.Scheme != "http" && base.Scheme != "https" || base.Host == "" {
		return nil, fmt.Errorf("server %q is no address such as http://127.0.0.1:8640: %w", c.Server, odometer.ErrInvalid)
	}
	address := strings.TrimSuffix(base.Scheme+"://"+base.Host+base.EscapedPath(), "/") + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	r, err := http.NewRequestWithContext(ctx, method, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("request %s: %w", address, err)
	}
	r.Header = header
	if c.Token != "" {
		r.Header.Set("Authorization", "Bearer "+c.Token)
	}
	resp, err := patiently(caller, r)
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // the address is said already
		}
		return nil, &UnreachableError{Server: c.Server, Err: err}
	}
	return resp, nil
}

const (
	// maxTries bounds how often a request is made that is refused for too many.
	maxTries = 5
	// maxPatience bounds each wait, whatever the server says.
	maxPatience = 10 * time.Second
)

// patiently makes a request, and again when the server says that it may be where it
// was refused for too many.
func patiently(caller *http.Client, r *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		resp, err := caller.Do(r)
		if err != nil || resp.StatusCode != http.StatusTooManyRequests || try == maxTries {
			return resp, err
		}
		seconds, err := strconv.Atoi(resp.Header.Get("Retry-After"))
		wait := time.Duration(seconds) * time.Second
		if err != nil || wait < 0 || wait > maxPatience {
			return resp, nil
		}
		resp.Body.Close()
		select {
		case <-r.Context().Done():
			return nil, context.Cause(r.Context())
		case <-time.After(wait):
		}
		if r.Body, err = r.GetBody(); err != nil { // of bytes, which has no error
			return nil, err
		}
	}
}

var defaultHTTP = &http.Client{Timeout: Timeout}

// values returns the parameters that are not empty.
func values(pairs ...string) url.Values {
	v := make(url.Values)
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			v.Set(pairs[i], pairs[i+1])
		}
	}
	return v
}
