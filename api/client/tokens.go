package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"example.org/odometer"
	"example.org/odometer/api"
)

// Me returns whose token the client has, and what it may do.
func (c *Client) Me(ctx context.Context) (api.Me, error) {
	var a api.Me
	err := c.get(ctx, "/api/v1/me", nil, &a)
	return a, err
}

// CreateToken creates a token and returns it with its secret, which is told this
// one time.
func (c *Client) CreateToken(ctx context.Context, ask api.TokenRequest) (api.CreatedToken, error) {
	var a api.CreatedToken
	body, err := json.Marshal(ask)
	if err == nil {
		err = c.call(ctx, http.MethodPost, "/api/v1/tokens", nil, odometer.ContentJSON, body, &a)
	}
	return a, err
}

// Tokens returns one page of tokens, in the order in which they were created.
// Limit 0 takes the server's default.
func (c *Client) Tokens(ctx context.Context, after string, limit int) (api.TokensAnswer, error) {
	var a api.TokensAnswer
	err := c.get(ctx, "/api/v1/tokens", page(after, limit), &a)
	return a, err
}

// TokenOf returns the token with an id, without its secret.
func (c *Client) TokenOf(ctx context.Context, id odometer.TokenID) (api.Token, error) {
	var a api.Token
	err := c.get(ctx, "/api/v1/tokens/"+url.PathEscape(string(id)), nil, &a)
	return a, err
}

// RevokeToken revokes a token for good. Again it changes nothing.
func (c *Client) RevokeToken(ctx context.Context, id odometer.TokenID) (api.Token, error) {
	var a api.Token
	err := c.call(ctx, http.MethodDelete, "/api/v1/tokens/"+url.PathEscape(string(id)), nil, "", nil, &a)
	return a, err
}

// AuditQuery selects lines of the audit log. Times are as [api.ParseTime] reads them,
// and are read by the server's clock; Limit 0 takes the server's default.
type AuditQuery struct {
	Actor, Action, Object string
	From, To              string
	After                 string
	Limit                 int
}

// AuditLog returns one page of who did what, newest first.
func (c *Client) AuditLog(ctx context.Context, q AuditQuery) (api.AuditLogAnswer, error) {
	most := ""
	if q.Limit != 0 {
		most = strconv.Itoa(q.Limit)
	}
	var a api.AuditLogAnswer
	err := c.get(ctx, "/api/v1/audit-log", values("actor", q.Actor, "action", q.Action, "object", q.Object,
		"from", q.From, "to", q.To, "after", q.After, "limit", most), &a)
	return a, err
}

func page(after string, limit int) url.Values {
	most := ""
	if limit != 0 {
		most = strconv.Itoa(limit)
	}
	return values("after", after, "limit", most)
}
