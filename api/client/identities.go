package client

import (
	"context"
	"net/http"

	"example.org/odometer"
	"example.org/odometer/api"
)

func identitiesPath(user odometer.UserID) string { return userPath(user) + "/identities" }

// AddIdentity says which user somebody is to whom an issuer gives tokens.
func (c *Client) AddIdentity(ctx context.Context, user odometer.UserID, ask api.IdentityRequest) (api.Identity, error) {
	return create[api.Identity](ctx, c, identitiesPath(user), ask)
}

// Identities returns who a user is to issuers of tokens.
func (c *Client) Identities(ctx context.Context, user odometer.UserID) (a api.IdentitiesAnswer, err error) {
	return a, c.get(ctx, identitiesPath(user), nil, &a)
}

// RemoveIdentity ends that a user is somebody to an issuer, and returns the identity.
func (c *Client) RemoveIdentity(ctx context.Context, user odometer.UserID, id odometer.TokenID) (a api.Identity, err error) {
	return a, c.call(ctx, http.MethodDelete, identitiesPath(user)+"/"+string(id), nil, "", nil, &a)
}
