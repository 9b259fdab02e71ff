package api_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/api"
	"example.org/odometer/api/client"
)

// TestClientSpeaksToServer calls every method of the client on a real server.
func TestClientSpeaksToServer(t *testing.T) {
	f := api.NewFixture(t)
	s := httptest.NewServer(api.ServerOf(t, f.Deps))
	defer s.Close()
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
	current, err := c.Current(ctx, "vm-1")
	if err != nil || len(current.Open) != 1 || current.Open[0].Period.Sequence != 3 || current.Day.Totals[odometer.CPU] != odometer.SumOf(24_120_000) {
		t.Errorf("current: got %+v, %v, want the third period open and the day's sum", current, err)
	}
	history, err := c.History(ctx, "vm-1", "-24h", "now", "hour")
	if err != nil || len(history.Rows) != 1 || history.Rows[0].Start != odometer.Hour(api.Now.UnixMicro())-odometer.HourMicros {
		t.Errorf("history: got %+v, %v, want the hour from 14:00", history, err)
	}
	if _, err := c.History(ctx, "vm-9", "", "", ""); !errors.Is(err, odometer.ErrNotFound) {
		t.Errorf("history of nobody: got %v, want ErrNotFound", err)
	}

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
	speaksOfTokens(t, c)
	f.Health.Facts.Ledger.Writable = false
	if h, err := c.Health(ctx); err != nil || h.Status != api.Failed || h.Components["ledger"].Details == nil {
		t.Errorf("health: got %+v, %v, want the ledger in error and no error of the call", h, err)
	}
	f.Fails = odometer.ErrUnavailable
	if _, err := c.Submit(ctx, odometer.ContentCloudEvent, api.Structured(&second)); !errors.Is(err, odometer.ErrUnavailable) {
		t.Errorf("submit to a ledger that is away: got %v, want ErrUnavailable", err)
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
	if list, err := c.Tokens(ctx, string(created.ID), 5); err != nil || len(list.Tokens) != 0 {
		t.Errorf("list after the last: got %+v, %v", list, err)
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
	log, err := c.AuditLog(ctx, "", 1)
	if err != nil || len(log.Log) != 1 || log.Log[0].Action != odometer.ActionTokenRevoke || log.Next == nil {
		t.Fatalf("log: got %+v, %v", log, err)
	}
	if log, err = c.AuditLog(ctx, *log.Next, 0); err != nil || len(log.Log) != 3 || log.Log[0].Action != odometer.ActionTokenCreate {
		t.Errorf("log, the rest: got %+v, %v", log, err)
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
