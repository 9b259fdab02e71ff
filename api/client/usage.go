package client

import (
	"context"
	"net/url"
	"strconv"
	"strings"

	"example.org/odometer"
	"example.org/odometer/api"
)

// UsageQuery selects usage. Times are as [api.ParseTime] reads them, and are
// read by the server's clock, days in the time zone; empty fields take the server's
// defaults.
type UsageQuery struct {
	From, To string
	Instance string
	User     string
	Org      string
	GroupBy  []string
	Interval string // hour, day, month or total
	Timezone string // of the IANA's, "" for UTC
	Sort     []string
	Top      int    // 0 for all
	TopBy    string // "" for cpu_us
	By       string // use or booking, "" for use
	AsOf     string // "" for now
}

func (q *UsageQuery) values() url.Values {
	return values("from", q.From, "to", q.To, "instance", q.Instance, "user", q.User, "org", q.Org, "group_by", strings.Join(q.GroupBy, ","),
		"interval", q.Interval, "timezone", q.Timezone, "sort", strings.Join(q.Sort, ","), "top", positive(q.Top), "top_by", q.TopBy,
		"by", q.By, "as_of", q.AsOf)
}

// positive writes a number, nothing for 0.
func positive(n int) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(n)
}

// Usage returns what is recorded and what is still open.
func (c *Client) Usage(ctx context.Context, q UsageQuery) (api.UsageAnswer, error) {
	var a api.UsageAnswer
	err := c.get(ctx, "/api/v1/usage", q.values(), &a)
	return a, err
}

// TopQuery selects those who used most. Empty fields take the server's defaults.
type TopQuery struct {
	By, Of              string
	N                   int
	From, To            string
	Instance, User, Org string
	Timezone            string
}

// Top returns those who used most, in that order.
func (c *Client) Top(ctx context.Context, q TopQuery) (api.TopAnswer, error) {
	var a api.TopAnswer
	err := c.get(ctx, "/api/v1/usage/top", values("by", q.By, "of", q.Of, "n", positive(q.N), "from", q.From, "to", q.To,
		"instance", q.Instance, "user", q.User, "org", q.Org, "timezone", q.Timezone), &a)
	return a, err
}

// Current returns the open periods of an instance and what is recorded of
// this hour and day; the day is the time zone's, "" for UTC.
func (c *Client) Current(ctx context.Context, instance odometer.InstanceID, timezone string) (api.CurrentAnswer, error) {
	var a api.CurrentAnswer
	err := c.get(ctx, "/api/v1/usage/instances/"+url.PathEscape(string(instance))+"/current", values("timezone", timezone), &a)
	return a, err
}

// UserCurrent is Current of a user.
func (c *Client) UserCurrent(ctx context.Context, user odometer.UserID, timezone string) (api.UserCurrentAnswer, error) {
	var a api.UserCurrentAnswer
	err := c.get(ctx, "/api/v1/usage/users/"+url.PathEscape(string(user))+"/current", values("timezone", timezone), &a)
	return a, err
}

// OrganisationCurrent is Current of an organisation.
func (c *Client) OrganisationCurrent(ctx context.Context, org odometer.OrgID, timezone string) (api.OrganisationCurrentAnswer, error) {
	var a api.OrganisationCurrentAnswer
	err := c.get(ctx, "/api/v1/usage/organizations/"+url.PathEscape(string(org))+"/current", values("timezone", timezone), &a)
	return a, err
}

// HistoryQuery selects usage by intervals. Empty fields take the server's defaults.
type HistoryQuery struct {
	From, To string
	Interval string // hour, day or month
	Timezone string
	Sort     []string
}

func (q *HistoryQuery) values() url.Values {
	return values("from", q.From, "to", q.To, "interval", q.Interval, "timezone", q.Timezone, "sort", strings.Join(q.Sort, ","))
}

// History returns an instance's usage by hour, day or month.
func (c *Client) History(ctx context.Context, instance odometer.InstanceID, q HistoryQuery) (api.HistoryAnswer, error) {
	var a api.HistoryAnswer
	err := c.get(ctx, "/api/v1/usage/instances/"+url.PathEscape(string(instance))+"/history", q.values(), &a)
	return a, err
}

// UserHistory is History of a user.
func (c *Client) UserHistory(ctx context.Context, user odometer.UserID, q HistoryQuery) (api.UserHistoryAnswer, error) {
	var a api.UserHistoryAnswer
	err := c.get(ctx, "/api/v1/usage/users/"+url.PathEscape(string(user))+"/history", q.values(), &a)
	return a, err
}

// OrganisationHistory is History of an organisation.
func (c *Client) OrganisationHistory(ctx context.Context, org odometer.OrgID, q HistoryQuery) (api.OrganisationHistoryAnswer, error) {
	var a api.OrganisationHistoryAnswer
	err := c.get(ctx, "/api/v1/usage/organizations/"+url.PathEscape(string(org))+"/history", q.values(), &a)
	return a, err
}

// MetricsQuery selects instances. Limit 0 takes the server's default.
type MetricsQuery struct {
	Instance, User, Org, Host, State string
	Sort                             []string // nil for the order of their ids, in which alone After goes on
	After                            string
	Limit                            int
}

// CurrentMetrics returns one page of what instances use now.
func (c *Client) CurrentMetrics(ctx context.Context, q MetricsQuery) (api.MetricsAnswer, error) {
	var a api.MetricsAnswer
	err := c.get(ctx, "/api/v1/metrics", values("instance", q.Instance, "user", q.User, "org", q.Org, "host", q.Host, "state", q.State,
		"sort", strings.Join(q.Sort, ","), "after", q.After, "limit", positive(q.Limit)), &a)
	return a, err
}

// InstanceMetrics returns what an instance uses now.
func (c *Client) InstanceMetrics(ctx context.Context, id odometer.InstanceID) (api.InstanceMetricsAnswer, error) {
	var a api.InstanceMetricsAnswer
	err := c.get(ctx, "/api/v1/metrics/instances/"+url.PathEscape(string(id)), nil, &a)
	return a, err
}
