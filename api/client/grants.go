package client

import (
	"context"
	"net/url"

	"example.org/odometer"
	"example.org/odometer/api"
)

func grantsPath(id odometer.InstanceID) string {
	return "/api/v1/instances/" + url.PathEscape(string(id)) + "/grants"
}

func grantPath(id odometer.InstanceID, user odometer.UserID) string {
	return grantsPath(id) + "/" + url.PathEscape(string(user))
}

// AddGrant lets a user see an instance.
func (c *Client) AddGrant(ctx context.Context, id odometer.InstanceID, ask api.GrantRequest) (api.Grant, error) {
	return create[api.Grant](ctx, c, grantsPath(id), ask)
}

// Grants returns one page of the grants on an instance, in the order of their users'
// ids. Limit 0 takes the server's default.
func (c *Client) Grants(ctx context.Context, id odometer.InstanceID, after string, limit int) (a api.GrantsAnswer, err error) {
	return a, c.get(ctx, grantsPath(id), page(after, limit), &a)
}

// Grant returns the grant that a user holds on an instance.
func (c *Client) Grant(ctx context.Context, id odometer.InstanceID, user odometer.UserID) (a api.Grant, err error) {
	return a, c.get(ctx, grantPath(id, user), nil, &a)
}

// SetGrant gives a grant another level and another end. It is of a version, as
// organisations are.
func (c *Client) SetGrant(ctx context.Context, id odometer.InstanceID, user odometer.UserID, version int64, ask api.GrantChange) (api.Grant, error) {
	return change[api.Grant](ctx, c, grantPath(id, user), version, ask)
}

// EndGrant ends a grant and returns it.
func (c *Client) EndGrant(ctx context.Context, id odometer.InstanceID, user odometer.UserID, version int64) (api.Grant, error) {
	return change[api.Grant](ctx, c, grantPath(id, user), version, nil)
}
