package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// TestACursorIsOfOneQuestionAndOneCaller has cursors of a list given in every other
// place: to another list, with another filter, by somebody else, changed, and to
// another server. All are refused by name; where they are from they lead on.
func TestACursorIsOfOneQuestionAndOneCaller(t *testing.T) {
	f := NewFixture(t)
	for i := range 5 {
		f.Describe(odometer.InstanceID(fmt.Sprint("vm-", i)), "host-1", odometer.Running, "web")
	}
	_, reads := create(t, f.Accounts, "reads", time.Time{}, odometer.ScopeRead)
	_, another := create(t, f.Accounts, "another", time.Time{}, odometer.ScopeRead)
	for _, id := range []odometer.UserID{"u-ada", "u-bob"} {
		if _, err := f.Accounts.CreateUser(t.Context(), byHand, odometer.Once{}, odometer.User{ID: id, Name: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	token := func(whose odometer.Bound, name string) string {
		_, secret, err := f.Accounts.CreateToken(t.Context(), byHand, odometer.Token{Name: name, Bound: whose, Scopes: []odometer.Scope{odometer.ScopeRead}})
		if err != nil {
			t.Fatal(err)
		}
		return secret
	}
	ada, adaToo, bob := token(odometer.Bound{User: "u-ada"}, "a"), token(odometer.Bound{User: "u-ada"}, "b"), token(odometer.Bound{User: "u-bob"}, "c")
	// Both see the machines.
	for i := range 5 {
		f.Hear(SampleEvent(odometer.InstanceID(fmt.Sprint("vm-", i)), 1, odometer.Owner{User: "u-ada"}), Now)
	}
	h := serverOf(t, f.Deps)
	ask := func(h http.Handler, secret, target string) (status int, next string, p Problem) {
		w := send(h, "GET", target, "", "Authorization", "Bearer "+secret)
		if w.Code != http.StatusOK {
			return w.Code, "", problem(t, w)
		}
		var page struct{ Next *string }
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		if page.Next != nil {
			next = *page.Next
		}
		return w.Code, next, p
	}
	cursorOf := func(secret, target string) string {
		_, next, p := ask(h, secret, target)
		if next == "" {
			t.Fatalf("%s: got no cursor, %+v", target, p)
		}
		return next
	}
	const list = "/api/v1/instances?name=web&limit=2"
	other := f.Deps
	other.CursorKey = CursorKey("of another server")
	mine, hers := cursorOf(reads, list), cursorOf(ada, list)
	raw, _ := base64.RawURLEncoding.DecodeString(mine)
	changed := bytes.Clone(raw)
	changed[len(changed)-1]++
	for _, c := range []struct {
		says          string
		h             http.Handler
		secret        string
		target, after string
		taken         bool
	}{
		{"where it is from", h, reads, list, mine, true},
		{"with more at once", h, reads, "/api/v1/instances?limit=3&name=web", mine, true},
		{"with fewer fields", h, reads, list + "&fields=name", mine, true},
		{"by another token of the same user", h, adaToo, list, hers, true},
		{"on the same server after a restart", serverOf(t, f.Deps), reads, list, mine, true},
		{"by another service", h, another, list, mine, false},
		{"by another user", h, bob, list, hers, false},
		{"by the administrator", h, "secret", list, mine, false},
		{"without the filter", h, reads, "/api/v1/instances?limit=2", mine, false},
		{"with another filter", h, reads, list + "&state=running", mine, false},
		{"with another value of it", h, reads, "/api/v1/instances?name=web2&limit=2", mine, false},
		{"to another list", h, reads, "/api/v1/metrics?limit=2", mine, false},
		{"to another server", serverOf(t, other), reads, list, mine, false},
		{"at another position", h, reads, list, base64.RawURLEncoding.EncodeToString(changed), false},
		{"cut off", h, reads, list, mine[:len(mine)-2], false},
		{"without a position", h, reads, list, base64.RawURLEncoding.EncodeToString(raw[:cursorSum]), false},
		{"without a hash", h, reads, list, "vm-1", false},
		{"with padding", h, reads, list, mine + "=", false},
		{"too long", h, reads, list, mine + strings.Repeat("A", maxCursor), false},
	} {
		status, _, p := ask(c.h, c.secret, c.target+"&after="+url.QueryEscape(c.after))
		switch {
		case c.taken && status != http.StatusOK:
			t.Errorf("%s: got %d %+v, want it to go on", c.says, status, p)
		case !c.taken && (status != http.StatusBadRequest || len(p.Errors) != 1 || p.Errors[0].Name != "after"):
			t.Errorf("%s: got %d %+v, want after refused", c.says, status, p.Errors)
		}
	}
	if status, _, p := ask(h, reads, list+"&sort=name&after="+mine); status != http.StatusBadRequest || p.Errors[0].Name != "after" && p.Errors[0].Name != "sort" {
		t.Errorf("sorted: got %d %+v, want it refused", status, p)
	}
}

// TestInstancesAreSorted sorts all of them, of which one page has the first.
func TestInstancesAreSorted(t *testing.T) {
	f := NewFixture(t)
	for i, state := range []odometer.State{odometer.Running, odometer.Stopped, odometer.Running, odometer.Paused} {
		id := odometer.InstanceID(fmt.Sprint("vm-", i))
		f.Describe(id, odometer.AgentID(fmt.Sprint("host-", i%2)), state, "web")
		if i == 3 {
			continue // nothing is open of it
		}
		e := SampleEvent(id, 1, odometer.Owner{User: "ada"})
		e.Usage.Vector[odometer.CPU] = int64(10_000_000 * (i + 1))
		e.Agent = odometer.AgentID(fmt.Sprint("host-", i%2))
		f.Hear(e, Now)
	}
	h := serverOf(t, f.Deps)
	for _, c := range []struct{ target, list, want string }{
		{"instances?sort=state,-instance_id", "instances", "[vm-3 vm-2 vm-0 vm-1]"},
		{"instances?sort=-agent_id&limit=2", "instances", "[vm-1 vm-3]"},
		{"instances?sort=user_id,-instance_id", "instances", "[vm-2 vm-1 vm-0 vm-3]"},
		{"metrics?sort=-cpu_percent", "metrics", "[vm-2 vm-1 vm-0 vm-3]"},
		{"metrics?sort=cpu_percent&host=host-0", "metrics", "[vm-0 vm-2]"},
		{"metrics?instance=vm-1&state=stopped", "metrics", "[vm-1]"},
		{"metrics?instance=vm-1&state=running", "metrics", "[]"},
		{"metrics?instance=vm-9", "metrics", "[]"},
	} {
		w := do(h, "GET", "/api/v1/"+c.target)
		if got := fmt.Sprint(columnOf(t, w.Body.Bytes(), c.list, "instance_id")); got != c.want || w.Header().Get("Link") != "" {
			t.Errorf("%s: got %s %q, want %s and no other page", c.target, got, w.Header(), c.want)
		}
	}
}

// TestMetricsAreMeansOverTheNewestPeriod has known numbers.
func TestMetricsAreMeansOverTheNewestPeriod(t *testing.T) {
	f := NewFixture(t)
	f.Describe("vm-1", "host-1", odometer.Running, "web")
	ada := odometer.Owner{User: "ada", Org: "acme"}
	older := SampleEvent("vm-1", 9, ada) // by another host, and later
	older.Agent, older.Epoch = "host-2", odometer.NewEpoch("vm-1", "host-2", "sample", "1")
	older.Usage.Vector[odometer.CPU] = 1
	f.Hear(older, Now)
	e := SampleEvent("vm-1", 2, ada)
	e.Usage.Vector[odometer.CPU] = 12_072_000
	e.Usage.Vector[odometer.MeasuredTime], e.Usage.Vector[odometer.EstimatedTime] = 20_000_000, 4_000_000 // and 6 s nobody watched
	e.Usage.Vector[odometer.GapTime] = 6_000_000
	f.Hear(e, Now.Add(-2*time.Second))
	w := do(serverOf(t, f.Deps), "GET", "/api/v1/metrics/instances/vm-1")
	var got map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
		t.Fatalf("%s: %v", w.Body, err)
	}
	for name, want := range map[string]any{
		"instance_id": "vm-1", "name": "web", "agent_id": "host-1", "state": "running", "user_id": "ada", "org_id": "acme",
		"start": "2026-01-02T14:00:30Z", "end": "2026-01-02T14:01:00Z",
		"cpu_cores": 0.503, "vcpus": 2.5, "cpu_percent": 20.12,
		"memory_bytes": 46_080.0 / 24 * (1 << 20), "memory_allocated_bytes": 122_880.0 / 24 * (1 << 20), "memory_percent": 37.5,
		"storage_bytes": 614_400.0 / 24 * (1 << 20), "storage_provisioned_bytes": 1_228_800.0 / 24 * (1 << 20),
		"network_egress_bytes_per_s": 54_613.0, "network_ingress_bytes_per_s": 21_845.0,
		"disk_read_bytes_per_s": 171.0, "disk_write_bytes_per_s": 341.0, "gpus": nil, "gpu_percent": nil,
	} {
		if got[name] != want {
			t.Errorf("%s: got %v, want %v", name, got[name], want)
		}
	}
	if open, _ := got["open"].([]any); len(open) != 2 {
		t.Errorf("got %v open, want both periods", got["open"])
	}
}
