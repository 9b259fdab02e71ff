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

// Organisations, users and memberships have a version. Whoever changes one names
// the version that he saw, or [odometer.AnyVersion]; where it was changed since, the
// error wraps [odometer.ErrStale].

func organisationPath(id odometer.OrgID) string {
	return "/api/v1/organizations/" + url.PathEscape(string(id))
}

func memberPath(org odometer.OrgID, user odometer.UserID) string {
	return organisationPath(org) + "/members/" + url.PathEscape(string(user))
}

func userPath(id odometer.UserID) string { return "/api/v1/users/" + url.PathEscape(string(id)) }

// create posts what is to be created.
func create[T any](ctx context.Context, c *Client, path string, ask any) (a T, err error) {
	body, err := json.Marshal(ask)
	if err == nil {
		err = c.call(ctx, http.MethodPost, path, nil, odometer.ContentJSON, body, &a)
	}
	return a, err
}

// change puts or deletes what is of a version; ask is nil to delete it.
func change[T any](ctx context.Context, c *Client, path string, version int64, ask any) (a T, err error) {
	method, header := http.MethodDelete, http.Header{"If-Match": {`"` + strconv.FormatInt(version, 10) + `"`}}
	if version == odometer.AnyVersion {
		header.Set("If-Match", "*")
	}
	var body []byte
	if ask != nil {
		method = http.MethodPut
		header.Set("Content-Type", odometer.ContentJSON)
		if body, err = json.Marshal(ask); err != nil {
			return a, err
		}
	}
	status, got, err := c.send(ctx, method, path, nil, header, body)
	if err == nil {
		err = c.decode(status, got, &a)
	}
	return a, err
}

// CreateOrganisation creates an organisation.
func (c *Client) CreateOrganisation(ctx context.Context, ask api.OrganisationRequest) (api.Organisation, error) {
	return create[api.Organisation](ctx, c, "/api/v1/organizations", ask)
}

// Organisations returns one page of organisations, in the order of their ids. Limit
// 0 takes the server's default.
func (c *Client) Organisations(ctx context.Context, after string, limit int) (a api.OrganisationsAnswer, err error) {
	return a, c.get(ctx, "/api/v1/organizations", page(after, limit), &a)
}

// Organisation returns one organisation.
func (c *Client) Organisation(ctx context.Context, id odometer.OrgID) (a api.Organisation, err error) {
	return a, c.get(ctx, organisationPath(id), nil, &a)
}

// UpdateOrganisation changes an organisation.
func (c *Client) UpdateOrganisation(ctx context.Context, id odometer.OrgID, version int64, ask api.OrganisationChange) (api.Organisation, error) {
	return change[api.Organisation](ctx, c, organisationPath(id), version, ask)
}

// DeleteOrganisation deletes an organisation and returns what is left of it.
func (c *Client) DeleteOrganisation(ctx context.Context, id odometer.OrgID, version int64) (api.Organisation, error) {
	return change[api.Organisation](ctx, c, organisationPath(id), version, nil)
}

// AddMember makes a user a member of an organisation.
func (c *Client) AddMember(ctx context.Context, org odometer.OrgID, ask api.MemberRequest) (api.Member, error) {
	return create[api.Member](ctx, c, organisationPath(org)+"/members", ask)
}

// Members returns one page of an organisation's members, in the order of their
// ids. Limit 0 takes the server's default.
func (c *Client) Members(ctx context.Context, org odometer.OrgID, after string, limit int) (a api.MembersAnswer, err error) {
	return a, c.get(ctx, organisationPath(org)+"/members", page(after, limit), &a)
}

// Member returns what a user is in an organisation.
func (c *Client) Member(ctx context.Context, org odometer.OrgID, user odometer.UserID) (a api.Member, err error) {
	return a, c.get(ctx, memberPath(org, user), nil, &a)
}

// SetMember gives a member another role.
func (c *Client) SetMember(ctx context.Context, org odometer.OrgID, user odometer.UserID, version int64, role odometer.Role) (api.Member, error) {
	return change[api.Member](ctx, c, memberPath(org, user), version, api.MemberChange{Role: role})
}

// RemoveMember ends a membership and returns it.
func (c *Client) RemoveMember(ctx context.Context, org odometer.OrgID, user odometer.UserID, version int64) (api.Member, error) {
	return change[api.Member](ctx, c, memberPath(org, user), version, nil)
}

// CreateUser creates a user.
func (c *Client) CreateUser(ctx context.Context, ask api.UserRequest) (api.User, error) {
	return create[api.User](ctx, c, "/api/v1/users", ask)
}

// Users returns one page of users, in the order of their ids. Limit 0 takes the
// server's default.
func (c *Client) Users(ctx context.Context, after string, limit int) (a api.UsersAnswer, err error) {
	return a, c.get(ctx, "/api/v1/users", page(after, limit), &a)
}

// User returns one user.
func (c *Client) User(ctx context.Context, id odometer.UserID) (a api.User, err error) {
	return a, c.get(ctx, userPath(id), nil, &a)
}

// UpdateUser changes a user.
func (c *Client) UpdateUser(ctx context.Context, id odometer.UserID, version int64, ask api.UserChange) (api.User, error) {
	return change[api.User](ctx, c, userPath(id), version, ask)
}

// DeleteUser deletes a user and returns what is left of him.
func (c *Client) DeleteUser(ctx context.Context, id odometer.UserID, version int64) (api.User, error) {
	return change[api.User](ctx, c, userPath(id), version, nil)
}
