package api_test

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/apicheck"
	"example.org/odometer/api/client"
)

// withoutMethod are the operations that the client leaves out, and why.
var withoutMethod = map[string]string{
	"health": "for load balancers", "live": "for supervisors", "ready": "for supervisors",
	"openapi": "for other programs' makers", "docs": "for people with a browser",
}

// TestClientSpeaksToServer calls every method of the client on a real server, which
// answers every operation of the OpenAPI document by that, but those that the client
// leaves out on purpose.
func TestClientSpeaksToServer(t *testing.T) {
	f := api.NewFixture(t)
	checker, err := apicheck.New(api.OpenAPI)
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewServer(checker.Handler(api.NewServer(f.Deps), func(err error) { t.Error(err) }))
	defer s.Close()
	defer func() {
		for _, id := range checker.Operations() {
			why, left := withoutMethod[id]
			if reached := checker.Seen(id, 200)+checker.Seen(id, 201)+checker.Seen(id, 204) > 0; reached == left {
				t.Errorf("the operation %s: reached by the client: %v, left out: %q", id, reached, why)
			}
		}
	}()
	c := &client.Client{Server: s.URL + "/", Token: "secret"}
	ctx := t.Context()

	ada := odometer.Owner{User: "ada", Org: "acme"}
	first, second := api.SampleEvent("vm-1", 1, ada), api.SampleEvent("vm-1", 2, ada)
	submitted, err := c.Submit(ctx, odometer.ContentCloudBatch, fmt.Appendf(nil, "[%s,%s]", api.Structured(&first), api.Structured(&second)))
	if err != nil || submitted.Accepted != 2 || submitted.Results[1].EventID != second.ID() {
		t.Errorf("submit: got %+v, %v, want 2 accepted", submitted, err)
	}
	first.Usage.Vector[odometer.CPU]++
	first.Readings.End.Vector[odometer.CPU]++
	submitted, err = c.Submit(ctx, odometer.ContentCloudEvent, api.Structured(&first))
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != "events_refused" || submitted.Refused != 1 || submitted.Results[0].Reason != "conflict" {
		t.Errorf("submit a conflict: got %+v, %v, want it refused", submitted, err)
	}

	f.Hear(api.SampleEvent("vm-1", 3, ada), api.Now.Add(-time.Second))
	usage, err := c.Usage(ctx, client.UsageQuery{From: "-24h", GroupBy: []string{"instance", "user"}, Top: 5, TopBy: "cpu_us"})
	if err != nil || len(usage.Rows) != 1 || len(usage.Open) != 1 {
		t.Fatalf("usage: got %+v, %v, want a row and an open one", usage, err)
	}
	if r := usage.Rows[0]; r.Instance != "vm-1" || r.User != "ada" || r.Totals[odometer.CPU] != odometer.SumOf(24_120_000) || r.Known.Has(odometer.GPU) {
		t.Errorf("usage: got %+v, want 24.12 s of vm-1 for ada and the GPU unknown", r)
	}
	if r := usage.Open[0]; r.Totals[odometer.CPU] != odometer.SumOf(12_060_000) || *r.Age != 1 {
		t.Errorf("usage: got open %+v, want 12.06 s, one second old", r)
	}
	current, err := c.Current(ctx, "vm-1", "")
	if err != nil || len(current.Open) != 1 || current.Open[0].Period.Sequence != 3 || current.Day.Totals[odometer.CPU] != odometer.SumOf(24_120_000) {
		t.Errorf("current: got %+v, %v, want the third period open and the day's sum", current, err)
	}
	history, err := c.History(ctx, "vm-1", client.HistoryQuery{From: "-24h", To: "now", Interval: "hour"})
	if err != nil || len(history.Rows) != 1 || history.Rows[0].Start != odometer.Hour(api.Now.UnixMicro())-odometer.HourMicros {
		t.Errorf("history: got %+v, %v, want the hour from 14:00", history, err)
	}
	if _, err := c.History(ctx, "vm-9", client.HistoryQuery{}); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("history of nobody: got %v, want ErrNotFound", err)
	}

	speaksOfUsage(t, c)

	page, err := c.Events(ctx, client.EventQuery{Limit: 1})
	if err != nil || len(page.Events) != 1 || page.Next == nil {
		t.Fatalf("events: got %+v, %v, want one and more to come", page, err)
	}
	page, err = c.Events(ctx, client.EventQuery{After: *page.Next, Instance: "vm-1", From: "-24h", To: "now"})
	if err != nil || len(page.Events) != 1 || page.Next != nil || page.Cursor == "" {
		t.Fatalf("events: got %+v, %v, want the last one", page, err)
	}
	if entry, err := odometer.DecodeEntry(page.Events[0]); err != nil || entry.Event.Sequence != 2 {
		t.Errorf("events: got %+v, %v, want the second", entry, err)
	}
	if _, err := c.Events(ctx, client.EventQuery{Limit: 5000}); !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), "limit") {
		t.Errorf("events: got %v, want the limit refused by name", err)
	}

	streams(t, c)

	items, err := c.Quarantine(ctx, 10)
	if err != nil || len(items) != 1 {
		t.Fatalf("quarantine: got %+v, %v, want one", items, err)
	}
	if r, err := c.Release(ctx, items[0].Partition, items[0].No); err != nil || r.Outcome != odometer.Recorded || r.Detail != "released by admin" {
		t.Errorf("release: got %+v, %v, want it recorded by admin", r, err)
	}
	if _, err := c.Release(ctx, items[0].Partition, items[0].No); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("release again: got %v, want ErrConflict", err)
	}
	booked := odometer.EntryID{Partition: odometer.AgentID("host-1").Partition(), Number: 1}
	if raw, err := c.Reverse(ctx, booked, "why"); err != nil {
		t.Errorf("reverse: got %v", err)
	} else if e, err := odometer.DecodeEntry(raw); err != nil || e.Kind != odometer.KindCorrection || !strings.HasSuffix(e.Cause, "why, says admin") {
		t.Errorf("reverse: got %+v, %v, want the correction by admin", e, err)
	}
	if _, err := c.Reverse(ctx, booked, "why"); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("reverse again: got %v, want ErrConflict", err)
	}
	if url, err := c.Queue(ctx); err != nil || url != "nats://127.0.0.1:4222" {
		t.Errorf("queue: got %q, %v", url, err)
	}
	if status, err := c.Status(ctx); err != nil || status.Ledger.Entries != 4 || status.Health.Status != api.OK || len(status.Agents) != 1 {
		t.Errorf("status: got %+v, %v, want 4 entries, health and an agent", status, err)
	}
	if m, err := c.Machine(ctx); err != nil || *m.Instance != "web-01" || *m.Load.Load1 != 0.31 {
		t.Errorf("machine: got %+v, %v, want web-01", m, err)
	}
	if m, err := c.Metrics(ctx); err != nil || !strings.Contains(string(m), "odometer_build_info") {
		t.Errorf("metrics: got %d bytes, %v", len(m), err)
	}
	speaksOfInstances(t, f, c)
	speaksOfTokens(t, c)
	speaksOfHosts(t, c)
	speaksOfConsumers(t, c)
	if h, err := c.Health(ctx); err != nil || h.Status != api.OK {
		t.Errorf("health: got %+v, %v, want all well", h, err)
	}
	f.Health.Facts.Ledger.Writable = false
	if h, err := c.Health(ctx); err != nil || h.Status != api.Failed || h.Components["ledger"].Details == nil {
		t.Errorf("health: got %+v, %v, want the ledger in error and no error of the call", h, err)
	}
	f.Fails = odometer.ErrUnavailable
	if _, err := c.Submit(ctx, odometer.ContentCloudEvent, api.Structured(&second)); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("submit to a ledger that is away: got %v, want ErrUnavailable", err)
	}
	f.Fails = nil
	closesMonths(t, f, c)
	keepsPeople(t, c)
}

// streams calls what a client has of exports and of the stream.
func streams(t *testing.T, c *client.Client) {
	ctx := t.Context()
	all := func(what string, x *client.Export, err error, lines int) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		defer x.Lines.Close()
		text, err := io.ReadAll(x.Lines)
		if n := strings.Count(string(text), "\n"); err != nil || n != lines {
			t.Errorf("%s: got %q, %v, want %d lines", what, text, err, lines)
		}
	}
	x, err := c.ExportUsage(ctx, client.UsageQuery{From: "-24h", GroupBy: []string{"instance"}}, client.CSV)
	all("usage", x, err, 3) // with the titles, and what is open
	x, err = c.ExportEvents(ctx, client.EventQuery{Instance: "vm-1"}, client.NDJSON)
	all("events", x, err, 2)
	if x.Cursor != "m2" {
		t.Errorf("events: got the cursor %q, want that after both", x.Cursor)
	}
	if _, err := c.ExportEvents(ctx, client.EventQuery{After: "x"}, client.CSV); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("events after a cursor that there is not: got %v, want ErrInvalid", err)
	}
	s, err := c.Stream(ctx, client.EventQuery{After: "m0", User: "ada"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var got []uint64
	for {
		raw, err := s.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if raw == nil {
			continue
		}
		e, err := odometer.DecodeEntry(raw)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, e.Event.Sequence)
	}
	if !slices.Equal(got, []uint64{1, 2}) || s.Last != "m2" {
		t.Errorf("stream: got the events %v up to %s, want both", got, s.Last)
	}
}

// speaksOfUsage calls what a client has of the usage of users and organisations, in a
// time zone, and of those who used most.
func speaksOfUsage(t *testing.T, c *client.Client) {
	ctx := t.Context()
	day := time.Date(2026, 1, 1, 18, 30, 0, 0, time.UTC)
	usage, err := c.Usage(ctx, client.UsageQuery{
		From: "2026-01-02", To: "2026-01-03", GroupBy: []string{"user", "org"}, Interval: "day", Timezone: "Asia/Kolkata", Sort: []string{"-cpu_us", "user"},
	})
	if err != nil || len(usage.Rows) != 1 || usage.Rows[0].Start != day.UnixMicro() || !usage.From.Equal(day) || usage.To.Sub(day) != 24*time.Hour || usage.Timezone != "Asia/Kolkata" || usage.Interval != api.IntervalDay {
		t.Errorf("a day in Kolkata: got %+v, %v", usage, err)
	}
	top, err := c.Top(ctx, client.TopQuery{By: "memory", Of: "org", N: 2, From: "-24h", To: "now", Instance: "vm-1", User: "ada", Org: "acme", Timezone: "UTC"})
	if err != nil || len(top.Rows) != 1 || top.Rows[0].Org != "acme" || top.Quantity != "memory_mib_s" {
		t.Errorf("top: got %+v, %v, want acme", top, err)
	}
	user, err := c.UserCurrent(ctx, "ada", "Europe/Berlin")
	if err != nil || user.User != "ada" || len(user.Open) != 1 || user.Day.Totals[odometer.CPU] != odometer.SumOf(24_120_000) || user.Timezone != "Europe/Berlin" {
		t.Errorf("current of a user: got %+v, %v", user, err)
	}
	org, err := c.OrganisationCurrent(ctx, "acme", "")
	if err != nil || org.Org != "acme" || len(org.Open) != 1 || org.Day.Totals[odometer.CPU] != odometer.SumOf(24_120_000) || org.Timezone != "UTC" {
		t.Errorf("current of an organisation: got %+v, %v", org, err)
	}
	q := client.HistoryQuery{From: "2025-12-01", To: "now", Interval: "month", Timezone: "Asia/Kathmandu", Sort: []string{"-start"}}
	ofUser, err := c.UserHistory(ctx, "ada", q)
	if err != nil || ofUser.User != "ada" || len(ofUser.Rows) != 1 || ofUser.Rows[0].Start != time.Date(2025, 12, 31, 18, 15, 0, 0, time.UTC).UnixMicro() {
		t.Errorf("history of a user: got %+v, %v, want January in Kathmandu", ofUser, err)
	}
	ofOrg, err := c.OrganisationHistory(ctx, "acme", client.HistoryQuery{Interval: "day"})
	if err != nil || ofOrg.Org != "acme" || len(ofOrg.Rows) != 1 || len(ofOrg.Open) != 1 {
		t.Errorf("history of an organisation: got %+v, %v", ofOrg, err)
	}
	if _, err := c.UserHistory(ctx, "nobody", client.HistoryQuery{}); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("history of nobody: got %v, want ErrNotFound", err)
	}
}

// speaksOfInstances calls what a client has of instances.
func speaksOfInstances(t *testing.T, f *api.Fixture, c *client.Client) {
	ctx := t.Context()
	f.Describe("vm-1", "host-1", odometer.Running, "web", "rack=r1")
	list, err := c.Instances(ctx, client.InstanceQuery{
		Agent: "host-1", State: "running", Name: "web", Attribute: "rack:r1", User: "ada", Org: "acme", Sort: []string{"state", "-instance_id"}, Limit: 1,
	})
	if err != nil || len(list.Instances) != 1 || list.Instances[0].Description.Instance != "vm-1" || list.Next != nil {
		t.Errorf("instances: got %+v, %v, want vm-1", list, err)
	}
	if one, err := c.Instance(ctx, "vm-1"); err != nil || one.Name != "web" || one.Agent != "host-1" {
		t.Errorf("instance: got %+v, %v, want it by its name", one, err)
	}
	if _, err := c.Instance(ctx, "vm-9"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("an instance that there is not: got %v, want ErrNotFound", err)
	}
	metrics, err := c.CurrentMetrics(ctx, client.MetricsQuery{
		Instance: "vm-1", User: "ada", Org: "acme", Host: "host-1", State: "running", Sort: []string{"-cpu_cores"}, Limit: 1,
	})
	if err != nil || len(metrics.Metrics) != 1 || metrics.Metrics[0].Instance != "vm-1" || metrics.Metrics[0].Name != "web" {
		t.Errorf("metrics: got %+v, %v, want those of vm-1", metrics, err)
	}
	if m, err := c.InstanceMetrics(ctx, "vm-1"); err != nil || m.Instance != "vm-1" || m.Name != "web" {
		t.Errorf("metrics of one: got %+v, %v", m, err)
	}
	if _, err := c.InstanceMetrics(ctx, "vm-9"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("metrics of what there is not: got %v, want ErrNotFound", err)
	}
	if told, err := c.Lifecycle(ctx, "vm-1", "-24h", "now", 5); err != nil || told.Instance != "vm-1" || told.More {
		t.Errorf("lifecycle: got %+v, %v, want that of vm-1", told, err)
	}
}

// ofItsOwn are the methods whose result is a part of the answer, or none that a Go
// type declares.
var ofItsOwn = map[string]reflect.Type{
	"Quarantine": reflect.TypeFor[[]api.QuarantineItem](), "Queue": reflect.TypeFor[string](),
	"Metrics": reflect.TypeFor[[]byte](), "StatementText": reflect.TypeFor[[]byte](), "Reverse": reflect.TypeFor[json.RawMessage](),
	"ExportUsage": reflect.TypeFor[*client.Export](), "ExportEvents": reflect.TypeFor[*client.Export](), "Stream": reflect.TypeFor[*client.Stream](),
}

// TestClientHasTheTypesOfTheDocument looks at what each method of the client
// returns: the type that the route declares, of which the document is made.
func TestClientHasTheTypesOfTheDocument(t *testing.T) {
	declared := api.AnswerTypes(t)
	for i := range reflect.TypeFor[*client.Client]().NumMethod() {
		m := reflect.TypeFor[*client.Client]().Method(i)
		if m.Type.NumOut() != 2 {
			t.Errorf("%s returns %d values, want an answer and an error", m.Name, m.Type.NumOut())
			continue
		}
		if got := m.Type.Out(0); got != ofItsOwn[m.Name] && !declared[got] {
			t.Errorf("%s returns %v, which no route declares as its answer", m.Name, got)
		}
	}
}

// speaksOfTokens calls what a client has of tokens.
func speaksOfTokens(t *testing.T, c *client.Client) {
	ctx := t.Context()
	created, err := c.CreateToken(ctx, api.TokenRequest{Name: "reads", Scopes: []odometer.Scope{odometer.ScopeRead}, ExpiresAt: new("+1d")})
	if err != nil || created.State != "valid" || created.ExpiresAt == nil || !created.ExpiresAt.Equal(api.Now.Add(24*time.Hour)) {
		t.Fatalf("create: got %+v, %v", created, err)
	}
	if _, err := c.CreateToken(ctx, api.TokenRequest{}); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("create without anything: got %v, want ErrInvalid", err)
	}
	other := &client.Client{Server: c.Server, Token: created.Secret}
	if me, err := other.Me(ctx); err != nil || me.Name != "reads" || me.ID == nil || *me.ID != created.ID {
		t.Errorf("me: got %+v, %v", me, err)
	}
	if me, err := c.Me(ctx); err != nil || me.Name != "admin" || me.ID != nil || me.ExpiresAt != nil {
		t.Errorf("the administrator: got %+v, %v", me, err)
	}
	_, err = other.Queue(ctx)
	if p, ok := errors.AsType[*api.Problem](err); !ok || p.Code != "insufficient_scope" || !errors.Is(err, odometer.ErrForbidden) {
		t.Errorf("queue: got %v, want ErrForbidden", err)
	}
	if list, err := c.Tokens(ctx, "", 0); err != nil || len(list.Tokens) != 1 || list.Next != nil || list.Tokens[0].ID != created.ID {
		t.Errorf("list: got %+v, %v", list, err)
	}
	if list, err := c.Tokens(ctx, string(created.ID), 5); !errors.Is(err, odometer.ErrInvalid) {
		t.Errorf("list after what is no cursor: got %+v, %v, want it refused", list, err)
	}
	if got, err := c.TokenOf(ctx, created.ID); err != nil || got.LastUsed == nil {
		t.Errorf("show: got %+v, %v", got, err)
	}
	if _, err := c.TokenOf(ctx, "tok_aaaaaaaaaaaaaaaa"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("show what there is not: got %v, want ErrNotFound", err)
	}
	if got, err := c.RevokeToken(ctx, created.ID); err != nil || got.State != "revoked" {
		t.Errorf("revoke: got %+v, %v", got, err)
	}
	if _, err := other.Me(ctx); err == nil || !strings.Contains(err.Error(), "or no longer") {
		t.Errorf("me, revoked: got %v", err)
	}
	q := client.AuditQuery{Limit: 1, Actor: "admin", Action: "token", Object: string(created.ID), From: "-1h", To: "+1h"}
	log, err := c.AuditLog(ctx, q)
	if err != nil || len(log.Log) != 1 || log.Log[0].Action != odometer.ActionTokenRevoke || log.Next == nil {
		t.Fatalf("log: got %+v, %v", log, err)
	}
	q.After = *log.Next
	if log, err = c.AuditLog(ctx, q); err != nil || len(log.Log) != 1 || log.Log[0].Action != odometer.ActionTokenCreate {
		t.Errorf("log, what was done before to the token: got %+v, %v", log, err)
	}
}

// newKey is a key pair of a host or a consumer.
func newKey(t *testing.T) (nkeys.KeyPair, odometer.Key) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	return pair, odometer.Key(public)
}

// speaksOfHosts calls what a client has of hosts.
func speaksOfHosts(t *testing.T, c *client.Client) {
	ctx := t.Context()
	created, err := c.CreateEnrolment(ctx, api.EnrolmentRequest{Agent: new(odometer.AgentID("host-7")), ExpiresAt: new("+2h")})
	if err != nil || created.State != "valid" || !created.ExpiresAt.Equal(api.Now.Add(2*time.Hour)) {
		t.Fatalf("create an enrolment: got %+v, %v", created, err)
	}
	spare, err := c.CreateEnrolment(ctx, api.EnrolmentRequest{})
	if err != nil || spare.Agent != nil {
		t.Fatalf("create an enrolment for any host: got %+v, %v", spare, err)
	}
	if e, err := c.RevokeEnrolment(ctx, spare.ID); err != nil || e.State != "revoked" {
		t.Errorf("revoke an enrolment: got %+v, %v", e, err)
	}
	pair, key := newKey(t)
	proof, err := pair.Sign(odometer.EnrolStatement("host-7", key))
	if err != nil {
		t.Fatal(err)
	}
	ask := api.EnrolRequest{Agent: "host-7", Key: key, Proof: base64.StdEncoding.EncodeToString(proof), Token: &created.Secret}
	host := &client.Client{Server: c.Server} // which has no token for the API
	if in, err := host.Enrol(ctx, ask); err != nil || in.Agent != "host-7" || in.Key != key || in.QueueURL != "nats://127.0.0.1:4222" {
		t.Errorf("enrol: got %+v, %v", in, err)
	}
	if list, err := c.Enrolments(ctx, 1); err != nil || len(list.Enrolments) != 1 || list.Enrolments[0].ID != spare.ID {
		t.Errorf("enrolments: got %+v, %v, want the newest", list, err)
	}
	if list, err := c.Hosts(ctx, "", 1); err != nil || len(list.Hosts) != 1 || list.Hosts[0].Agent != "host-7" || list.Next != nil {
		t.Errorf("hosts: got %+v, %v, want host-7", list, err)
	}
	if h, err := c.Host(ctx, "host-7"); err != nil || h.State != "enrolled" || h.Enrolment != created.ID {
		t.Errorf("host: got %+v, %v", h, err)
	}
	if _, err := c.Host(ctx, "host-8"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("a host that there is not: got %v, want ErrNotFound", err)
	}
	if h, err := c.RevokeHost(ctx, "host-7"); err != nil || h.State != "revoked" {
		t.Errorf("revoke a host: got %+v, %v", h, err)
	}
	if _, err := host.Enrol(ctx, ask); !errors.Is(err, odometer.ErrForbidden) {
		t.Errorf("enrol, revoked: got %v, want ErrForbidden", err)
	}
}

// speaksOfConsumers calls what a client has of consumers of the topic.
func speaksOfConsumers(t *testing.T, c *client.Client) {
	ctx := t.Context()
	_, key := newKey(t)
	made, err := c.CreateConsumer(ctx, api.ConsumerRequest{Name: "billing", Org: new(odometer.OrgID("acme")), Key: key})
	if err != nil || made.State != "valid" || made.Key != key {
		t.Fatalf("create a consumer: got %+v, %v", made, err)
	}
	if _, err := c.CreateConsumer(ctx, api.ConsumerRequest{Name: "again", Key: key}); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("create a consumer by the same key: got %v, want ErrConflict", err)
	}
	if list, err := c.Consumers(ctx); err != nil || len(list.Consumers) != 1 || list.Consumers[0].ID != made.ID {
		t.Errorf("consumers: got %+v, %v", list, err)
	}
	if got, err := c.RevokeConsumer(ctx, made.ID); err != nil || got.State != "revoked" {
		t.Errorf("revoke a consumer: got %+v, %v", got, err)
	}
}

// TestOutputOfSubmitIsTheSameInBothAnswers holds the problem of refused events
// to the shape of the answer to accepted ones.
func TestOutputOfSubmitIsTheSameInBothAnswers(t *testing.T) {
	answer := api.Submitted{Results: []api.SubmitResult{}, Refused: 1}
	a, _ := json.Marshal(answer)
	p, _ := json.Marshal(api.Problem{Submitted: &answer})
	var fromAnswer, fromProblem map[string]any
	json.Unmarshal(a, &fromAnswer)
	json.Unmarshal(p, &fromProblem)
	for name, value := range fromAnswer {
		if fmt.Sprint(fromProblem[name]) != fmt.Sprint(value) {
			t.Errorf("%s: got %v in the problem, want %v", name, fromProblem[name], value)
		}
	}
}

// closesMonths calls every method about months and statements.
func closesMonths(t *testing.T, f *api.Fixture, c *client.Client) {
	ctx := t.Context()
	e := api.InDecember(api.SampleEvent("vm-1", 1, odometer.Owner{User: "ada", Org: "acme"}))
	if _, err := f.Submit(ctx, []odometer.Record{{Event: &e}}); err != nil {
		t.Fatal(err)
	}
	december := odometer.MonthOf(e.Span.Start)
	dry, err := c.CloseMonth(ctx, december, api.MonthCloseRequest{AcceptGaps: true, DryRun: true})
	if err != nil || !dry.DryRun || len(dry.Statements) != 1 || dry.Statements[0].Cause != "the month is over" {
		t.Errorf("close a month, dry: got %+v, %v", dry, err)
	}
	closed, err := c.CloseMonth(ctx, december, api.MonthCloseRequest{AcceptGaps: true, Cause: "a happy new year"})
	if err != nil || closed.DryRun || len(closed.Statements) != 1 {
		t.Fatalf("close a month: got %+v, %v", closed, err)
	}
	if _, err := c.CloseMonth(ctx, december, api.MonthCloseRequest{}); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("close it again: got %v, want a conflict", err)
	}
	id := closed.Statements[0].ID
	list, err := c.Statements(ctx, "2025-12", "acme", "", 10)
	if err != nil || len(list.Statements) != 1 || list.Statements[0] != closed.Statements[0] && list.Statements[0].ID != id {
		t.Errorf("statements: got %+v, %v, want %+v", list, err, closed.Statements)
	}
	s, err := c.Statement(ctx, id)
	if err != nil || s.ID != id || len(s.Usage) != 1 || s.Usage[0].Month != "2025-12" || s.Usage[0].Usage.Totals[odometer.CPU] != odometer.SumOf(12_060_000) || s.Usage[0].Usage.User != "ada" {
		t.Errorf("statement: got %+v, %v", s, err)
	}
	text, err := c.StatementText(ctx, id)
	if err != nil || odometer.StatementHash(text) != s.SHA256 {
		t.Errorf("its text: got %s, %v, want what has the hash %s", text, err, s.SHA256)
	}
	if _, err := c.StatementText(ctx, "2025-12-aaaaaaaaaaaaaaaa"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("the text of one that there is not: got %v", err)
	}
	months, err := c.Months(ctx, "", 10)
	if err != nil || len(months.Months) != 1 || !months.Months[0].Everybody || months.Months[0].Month != "2025-12" {
		t.Errorf("months: got %+v, %v", months, err)
	}
}

// keepsPeople calls every method about organisations, users, members and owners.
func keepsPeople(t *testing.T, c *client.Client) {
	ctx := t.Context()
	change, err := c.Assign(ctx, "vm-1", api.OwnershipRequest{User: "u-bob", From: "-1h", Cause: "sold"})
	if err != nil || change.User != "u-bob" || change.Until != nil {
		t.Errorf("assign: got %+v, %v", change, err)
	}
	if owns, err := c.Ownership(ctx, "vm-1"); err != nil || len(owns.Ownership) != 1 || owns.Ownership[0].User != "u-bob" {
		t.Errorf("ownership: got %+v, %v", owns, err)
	}
	const odd = "ä:b%c?d#e" // an id that has to be escaped

	u, err := c.CreateUser(ctx, api.UserRequest{ID: odd, UserChange: api.UserChange{Name: "Ada", Email: "ada@example.org"}})
	if err != nil || u.ID != odd || u.Version != 1 {
		t.Fatalf("create a user: got %+v, %v", u, err)
	}
	if u, err = c.UpdateUser(ctx, odd, u.Version, api.UserChange{Name: "Ada King"}); err != nil || u.Version != 2 || u.Email != "" {
		t.Errorf("update: got %+v, %v", u, err)
	}
	if _, err := c.UpdateUser(ctx, odd, 1, api.UserChange{Name: "x"}); !errors.Is(err, odometer.ErrStale) || !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("a stale update: got %v, want ErrStale", err)
	}
	if got, err := c.User(ctx, odd); err != nil || got != u {
		t.Errorf("got %+v, %v, want %+v", got, err, u)
	}
	o, err := c.CreateOrganisation(ctx, api.OrganisationRequest{ID: odd, Name: "Acme", Owner: odd})
	if err != nil || o.Version != 1 {
		t.Fatalf("create an organisation: got %+v, %v", o, err)
	}
	if o, err = c.UpdateOrganisation(ctx, odd, odometer.AnyVersion, api.OrganisationChange{Name: "Acme Ltd"}); err != nil || o.Name != "Acme Ltd" {
		t.Errorf("update: got %+v, %v", o, err)
	}
	if _, err := c.CreateUser(ctx, api.UserRequest{ID: "u-bob", UserChange: api.UserChange{Name: "Bob"}}); err != nil {
		t.Error(err)
	}
	m, err := c.AddMember(ctx, odd, api.MemberRequest{User: "u-bob", MemberChange: api.MemberChange{Role: odometer.RoleMember}})
	if err != nil || m.Role != odometer.RoleMember {
		t.Errorf("add: got %+v, %v", m, err)
	}
	if m, err = c.SetMember(ctx, odd, "u-bob", m.Version, odometer.RoleAdmin); err != nil || m.Role != odometer.RoleAdmin {
		t.Errorf("set: got %+v, %v", m, err)
	}
	if got, err := c.Member(ctx, odd, "u-bob"); err != nil || got != m {
		t.Errorf("got %+v, %v, want %+v", got, err, m)
	}
	if g, err := c.AddGrant(ctx, odd, api.GrantRequest{User: "u-bob", Since: "-2h", GrantChange: api.GrantChange{Level: odometer.LevelOperator}}); err != nil || g.Instance != odd || g.Level != odometer.LevelOperator {
		t.Errorf("add a grant: got %+v, %v", g, err)
	}
	r, err := c.CreateInstance(ctx, api.InstanceRequest{ID: odd, InstanceChange: api.InstanceChange{Name: "odd one", Labels: map[string]string{"tier": "web"}}})
	if err != nil || r.Instance != odd || r.Version != 1 {
		t.Errorf("create an instance: got %+v, %v", r, err)
	}
	if r, err = c.UpdateInstance(ctx, odd, r.Version, api.InstanceChange{Labels: map[string]string{"tier": "db"}}); err != nil || r.Version != 2 || r.Name != "" || r.Labels["tier"] != "db" {
		t.Errorf("update an instance: got %+v, %v", r, err)
	}
	if list, err := c.Instances(ctx, client.InstanceQuery{Label: "tier:db"}); err != nil || len(list.Instances) != 1 || list.Instances[0].Record.Version != 2 {
		t.Errorf("instances with a label: got %+v, %v, want one", list, err)
	}
	if _, err := c.DeleteInstance(ctx, odd, 1); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("delete an instance of before: got %v, want ErrStale", err)
	}
	if r, err := c.DeleteInstance(ctx, odd, 2); err != nil || r.DeletedAt == nil || r.Labels != nil {
		t.Errorf("delete an instance: got %+v, %v", r, err)
	}
	g, err := c.SetGrant(ctx, odd, "u-bob", 1, api.GrantChange{Level: odometer.LevelReadOnly, ExpiresAt: new("+1d")})
	if err != nil || g.Level != odometer.LevelReadOnly || g.ExpiresAt == nil {
		t.Errorf("set a grant: got %+v, %v", g, err)
	}
	if got, err := c.Grant(ctx, odd, "u-bob"); err != nil || got.Version != g.Version {
		t.Errorf("got %+v, %v, want %+v", got, err, g)
	}
	if list, err := c.Grants(ctx, odd, "", 1); err != nil || len(list.Grants) != 1 || list.Next != nil {
		t.Errorf("grants: got %+v, %v, want one", list, err)
	}
	if _, err := c.EndGrant(ctx, odd, "u-bob", 1); !errors.Is(err, odometer.ErrStale) {
		t.Errorf("end a grant of before: got %v, want ErrStale", err)
	}
	if _, err := c.EndGrant(ctx, odd, "u-bob", g.Version); err != nil {
		t.Errorf("end a grant: got %v", err)
	}
	who, err := c.AddIdentity(ctx, odd, api.IdentityRequest{Issuer: "https://login.example.org", Subject: "s-1"})
	if err != nil || who.User != odd || who.Subject != "s-1" {
		t.Errorf("add an identity: got %+v, %v", who, err)
	}
	if list, err := c.Identities(ctx, odd); err != nil || len(list.Identities) != 1 || list.Identities[0] != who {
		t.Errorf("identities: got %+v, %v, want %+v", list, err, who)
	}
	if got, err := c.RemoveIdentity(ctx, odd, who.ID); err != nil || got != who {
		t.Errorf("remove an identity: got %+v, %v", got, err)
	}
	members, err := c.Members(ctx, odd, "", 1)
	if err != nil || len(members.Members) != 1 || members.Next == nil {
		t.Fatalf("members: got %+v, %v, want one and that there is more", members, err)
	}
	if rest, err := c.Members(ctx, odd, *members.Next, 0); err != nil || len(rest.Members) != 1 || rest.Members[0].User == members.Members[0].User || rest.Next != nil {
		t.Errorf("members, the rest: got %+v, %v", rest, err)
	}
	if _, err := c.RemoveMember(ctx, odd, odd, odometer.AnyVersion); !errors.Is(err, odometer.ErrConflict) {
		t.Errorf("remove the last owner: got %v", err)
	}
	if _, err := c.RemoveMember(ctx, odd, "u-bob", m.Version); err != nil {
		t.Errorf("remove: got %v", err)
	}
	if _, err := c.Member(ctx, odd, "u-bob"); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("after that: got %v", err)
	}
	if list, err := c.Organisations(ctx, "", 0); err != nil || len(list.Organisations) != 1 {
		t.Errorf("organisations: got %+v, %v", list, err)
	}
	if list, err := c.Users(ctx, "", 0); err != nil || len(list.Users) != 2 || list.Users[1].ID != odd {
		t.Errorf("users: got %+v, %v", list, err)
	}
	if o, err := c.DeleteOrganisation(ctx, odd, o.Version); err != nil || o.DeletedAt == nil {
		t.Errorf("delete: got %+v, %v", o, err)
	}
	if u, err := c.DeleteUser(ctx, odd, 2); err != nil || u.DeletedAt == nil || u.Name != "" {
		t.Errorf("delete: got %+v, %v", u, err)
	}
	if got, err := c.Organisation(ctx, odd); err != nil || got.DeletedAt == nil {
		t.Errorf("got %+v, %v, want it deleted", got, err)
	}
}
