package client

import (
	"context"
	"net/url"

	"example.org/odometer"
	"example.org/odometer/api"
)

// CreateInstance keeps an instance of which nobody has told yet.
func (c *Client) CreateInstance(ctx context.Context, ask api.InstanceRequest) (api.KeptInstance, error) {
	return create[api.KeptInstance](ctx, c, "/api/v1/instances", ask)
}

// UpdateInstance gives an instance another name and other labels. What is kept of it is
// of a version, as organisations are.
func (c *Client) UpdateInstance(ctx context.Context, id odometer.InstanceID, version int64, ask api.InstanceChange) (api.KeptInstance, error) {
	return change[api.KeptInstance](ctx, c, "/api/v1/instances/"+url.PathEscape(string(id)), version, ask)
}

// DeleteInstance erases the name and the labels of an instance, and returns what is
// left.
func (c *Client) DeleteInstance(ctx context.Context, id odometer.InstanceID, version int64) (api.KeptInstance, error) {
	return change[api.KeptInstance](ctx, c, "/api/v1/instances/"+url.PathEscape(string(id)), version, nil)
}
