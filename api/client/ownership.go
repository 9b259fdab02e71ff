package client

import (
	"context"
	"net/http"
	"net/url"

	"example.org/odometer"
	"example.org/odometer/api"
)

func ownershipPath(id odometer.InstanceID) string {
	return "/api/v1/instances/" + url.PathEscape(string(id)) + "/ownership"
}

// Ownership returns who owned an instance when, as far as the token sees it.
func (c *Client) Ownership(ctx context.Context, id odometer.InstanceID) (a api.OwnershipAnswer, err error) {
	err = c.call(ctx, http.MethodGet, ownershipPath(id), nil, "", nil, &a)
	return a, err
}

// Assign says whose an instance is.
func (c *Client) Assign(ctx context.Context, id odometer.InstanceID, ask api.OwnershipRequest) (api.OwnershipChange, error) {
	return create[api.OwnershipChange](ctx, c, ownershipPath(id), ask)
}
