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

// CreateEnrolment creates a one-time token for a host and returns it with its
// secret, which is told this one time.
func (c *Client) CreateEnrolment(ctx context.Context, ask api.EnrolmentRequest) (api.CreatedEnrolment, error) {
	var a api.CreatedEnrolment
	body, err := json.Marshal(ask)
	if err == nil {
		err = c.call(ctx, http.MethodPost, "/api/v1/enrolments", nil, odometer.ContentJSON, body, &a)
	}
	return a, err
}

// Enrolments returns the one-time tokens, the newest first. Limit 0 takes the
// server's default.
func (c *Client) Enrolments(ctx context.Context, limit int) (api.EnrolmentsAnswer, error) {
	most := ""
	if limit != 0 {
		most = strconv.Itoa(limit)
	}
	var a api.EnrolmentsAnswer
	err := c.get(ctx, "/api/v1/enrolments", values("limit", most), &a)
	return a, err
}

// RevokeEnrolment ends the validity of a one-time token. Again it changes nothing.
func (c *Client) RevokeEnrolment(ctx context.Context, id odometer.EnrolmentID) (api.Enrolment, error) {
	var a api.Enrolment
	err := c.call(ctx, http.MethodDelete, "/api/v1/enrolments/"+url.PathEscape(string(id)), nil, "", nil, &a)
	return a, err
}

// Enrol lets a host in, or confirms that it is, and tells where the queue is. It
// needs no token of the client's, and may be made again.
func (c *Client) Enrol(ctx context.Context, ask api.EnrolRequest) (api.Enrolled, error) {
	var a api.Enrolled
	body, err := json.Marshal(ask)
	if err == nil {
		err = c.call(ctx, http.MethodPost, "/api/v1/hosts/enrol", nil, odometer.ContentJSON, body, &a)
	}
	return a, err
}

// Hosts returns one page of hosts, in order of their agents. Limit 0 takes the
// server's default.
func (c *Client) Hosts(ctx context.Context, after string, limit int) (api.HostsAnswer, error) {
	var a api.HostsAnswer
	err := c.get(ctx, "/api/v1/hosts", page(after, limit), &a)
	return a, err
}

// Host returns the host that is enrolled as an agent, or was last.
func (c *Client) Host(ctx context.Context, agent odometer.AgentID) (api.Host, error) {
	var a api.Host
	err := c.get(ctx, "/api/v1/hosts/"+url.PathEscape(string(agent)), nil, &a)
	return a, err
}

// RevokeHost puts a host out, for good and at once. Again it changes nothing.
func (c *Client) RevokeHost(ctx context.Context, agent odometer.AgentID) (api.Host, error) {
	var a api.Host
	err := c.call(ctx, http.MethodDelete, "/api/v1/hosts/"+url.PathEscape(string(agent)), nil, "", nil, &a)
	return a, err
}

// CreateConsumer lets who has a key read the topic.
func (c *Client) CreateConsumer(ctx context.Context, ask api.ConsumerRequest) (api.Consumer, error) {
	var a api.Consumer
	body, err := json.Marshal(ask)
	if err == nil {
		err = c.call(ctx, http.MethodPost, "/api/v1/consumers", nil, odometer.ContentJSON, body, &a)
	}
	return a, err
}

// Consumers returns the consumers of the topic, in the order in which they were
// created.
func (c *Client) Consumers(ctx context.Context) (api.ConsumersAnswer, error) {
	var a api.ConsumersAnswer
	err := c.get(ctx, "/api/v1/consumers", nil, &a)
	return a, err
}

// RevokeConsumer revokes a consumer, for good and at once. Again it changes nothing.
func (c *Client) RevokeConsumer(ctx context.Context, id odometer.ConsumerID) (api.Consumer, error) {
	var a api.Consumer
	err := c.call(ctx, http.MethodDelete, "/api/v1/consumers/"+url.PathEscape(string(id)), nil, "", nil, &a)
	return a, err
}
