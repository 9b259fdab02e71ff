package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"example.org/odometer"
	"example.org/odometer/api"
)

// Months returns one page of the months that are closed.
func (c *Client) Months(ctx context.Context, after string, limit int) (a api.MonthsAnswer, err error) {
	err = c.get(ctx, "/api/v1/months", values("after", after, "limit", strconv.Itoa(limit)), &a)
	return a, err
}

// CloseMonth closes a month, or says in a dry run what would be.
func (c *Client) CloseMonth(ctx context.Context, m odometer.Month, ask api.MonthCloseRequest) (api.MonthCloseAnswer, error) {
	return create[api.MonthCloseAnswer](ctx, c, "/api/v1/months/"+m.String()+"/close", ask)
}

// Statements returns one page of the statements, of a month and an organisation where
// they are not empty.
func (c *Client) Statements(ctx context.Context, month, org, after string, limit int) (a api.StatementsAnswer, err error) {
	err = c.get(ctx, "/api/v1/statements", values("month", month, "org", org, "after", after, "limit", strconv.Itoa(limit)), &a)
	return a, err
}

// Statement returns one statement.
func (c *Client) Statement(ctx context.Context, id string) (a api.StatementAnswer, err error) {
	err = c.get(ctx, "/api/v1/statements/"+url.PathEscape(id), nil, &a)
	return a, err
}

// StatementText returns the text of a statement, over which its hash goes.
func (c *Client) StatementText(ctx context.Context, id string) ([]byte, error) {
	status, body, err := c.send(ctx, http.MethodGet, "/api/v1/statements/"+url.PathEscape(id), nil, http.Header{"Accept": {"text/plain"}}, nil)
	if err == nil && status != http.StatusOK {
		err = c.decode(status, body, nil)
	}
	return body, err
}
