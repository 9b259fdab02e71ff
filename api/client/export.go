package client

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Export is an answer of any length, which is read as it comes. Whoever has one
// closes it.
type Export struct {
	// Lines are the whole answer where reading them ends with [io.EOF], and a part
	// of it where it ends with another error.
	Lines io.ReadCloser
	// Cursor leads to the entries that are booked later, "" in other exports.
	Cursor string
}

// Forms of an export.
const (
	NDJSON = "ndjson"
	CSV    = "csv"
)

// ExportUsage returns all rows of usage, in a form.
func (c *Client) ExportUsage(ctx context.Context, q UsageQuery, form string) (*Export, error) {
	return c.export(ctx, "/api/v1/usage", q.values(), form)
}

// ExportEvents returns all entries that are booked, in a form. Limit 0 stands for no
// limit.
func (c *Client) ExportEvents(ctx context.Context, q EventQuery, form string) (*Export, error) {
	return c.export(ctx, "/api/v1/events", q.values(), form)
}

func (c *Client) export(ctx context.Context, path string, query url.Values, form string) (*Export, error) {
	query.Set("format", form)
	resp, err := c.stream(ctx, path, query, http.Header{})
	if err != nil {
		return nil, err
	}
	return &Export{Lines: resp.Body, Cursor: resp.Header.Get("Odometer-Cursor")}, nil
}

// stream makes a request whose answer has no time limit but that of ctx, and returns
// it where it is none of an error.
func (c *Client) stream(ctx context.Context, path string, query url.Values, header http.Header) (*http.Response, error) {
	caller := http.Client{}
	if c.HTTP != nil {
		caller = *c.HTTP
	}
	caller.Timeout = 0
	resp, err := c.ask(ctx, &caller, http.MethodGet, path, query, header, nil)
	if err != nil || resp.StatusCode == http.StatusOK {
		return resp, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxProblem))
	if err != nil {
		return nil, &UnreachableError{Server: c.Server, Err: fmt.Errorf("the answer broke off: %w", err)}
	}
	return nil, c.decode(resp.StatusCode, body, nil)
}

// maxProblem bounds what is read of a problem.
const maxProblem = 1 << 20
