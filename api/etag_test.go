package api

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

// TestAnAnswerThatStaysIsNotSentAgain asks for usage with the ETag of the answer: it
// is told that nothing changed while that is so, and has another one after anything
// that the answer follows from has changed.
func TestAnAnswerThatStaysIsNotSentAgain(t *testing.T) {
	f, _ := prepared(t)
	now := Now
	f.Deps.Clock = func() time.Time { return now }
	h := serverOf(t, f.Deps)
	const past = "from=2026-01-02T13:00:00Z&to=2026-01-02T14:01:00Z" // nothing is open in it
	paths := []string{
		"/api/v1/usage?" + past, "/api/v1/usage?group_by=instance&" + past, "/api/v1/usage/instances/vm-1/history?" + past,
		"/api/v1/usage?format=csv&" + past, "/api/v1/usage?format=ndjson&group_by=instance&" + past,
		"/api/v1/usage?group_by=instance&timezone=Asia/Kolkata&" + past, "/api/v1/usage?group_by=instance&timezone=Asia/Kolkata&interval=day&" + past,
		"/api/v1/usage?format=csv&group_by=instance&timezone=Asia/Kolkata&" + past, "/api/v1/usage?group_by=instance&sort=-cpu_us&" + past,
		"/api/v1/usage?group_by=instance&fields=cpu_us&" + past, "/api/v1/usage?format=csv&group_by=instance&fields=cpu_us&" + past, "/api/v1/usage/users/ada/history?" + past,
		"/api/v1/usage?group_by=instance&from=2026-01-02&to=2026-01-02T15:00:00Z",
	}
	get := func(path string, headers ...string) (tag string, code int) {
		t.Helper()
		if len(headers) == 0 || headers[0] != "Authorization" {
			headers = append([]string{"Authorization", "Bearer secret"}, headers...)
		}
		w := send(h, "GET", path, "", headers...)
		tag = w.Header().Get("ETag")
		switch {
		case w.Code == http.StatusNotModified && (w.Body.Len() > 0 || w.Header().Get("Content-Type") != ""):
			t.Errorf("%s: not modified, with %q of type %q", path, w.Body, w.Header().Get("Content-Type"))
		case tag != "" && (w.Header().Get("Cache-Control") != "private, no-cache" || !strings.Contains(strings.Join(w.Header().Values("Vary"), ","), "Authorization")):
			t.Errorf("%s: got the headers %v, want them to keep it private", path, w.Header())
		case tag == "" && w.Header().Get("Cache-Control") != "no-store":
			t.Errorf("%s: got Cache-Control %q without an ETag", path, w.Header().Get("Cache-Control"))
		}
		return tag, w.Code
	}
	seen := map[string]string{}
	tags := map[string]string{}
	for _, path := range paths {
		tag, code := get(path)
		if code != 200 || tag == "" || seen[tag] != "" {
			t.Fatalf("%s: got %d with the ETag %s, which is that of %q", path, code, tag, seen[tag])
		}
		seen[tag], tags[path] = path, tag
		for _, match := range []string{tag, "W/" + tag, `"x", ` + tag, "*", strings.TrimSuffix(tag, `"`) + `-gzip"`} {
			if again, code := get(path, "If-None-Match", match); code != http.StatusNotModified || again == "" {
				t.Errorf("%s with %s: got %d with the ETag %s, want 304", path, match, code, again)
			}
		}
		for _, match := range []string{`"x"`, strings.Trim(tag, `"`), ""} {
			if _, code := get(path, "If-None-Match", match); code != 200 {
				t.Errorf("%s with %s: got %d, want the answer", path, match, code)
			}
		}
	}
	packed := do(h, "GET", paths[1], "Accept-Encoding", "gzip").Header().Get("ETag")
	for _, c := range []struct {
		name    string
		change  func()
		headers []string
		all     bool // of the answers change, and not only that up to 15:00, in which there is something open
	}{
		{"nothing", func() {}, nil, false},
		{"a second later, what is open is older", func() { now = now.Add(time.Second) }, nil, false},
		{"another token that sees as much", func() {}, []string{"Authorization", "Bearer other"}, false},
		{"an event that comes late", func() {
			e := SampleEvent("vm-2", 1, odometer.Owner{User: "ada", Org: "acme"})
			f.Submit(t.Context(), []odometer.Record{{Event: &e}})
		}, nil, true},
		{"a reversal", func() {
			if _, err := f.Reverse(t.Context(), odometer.EntryID{Partition: odometer.AgentID("host-1").Partition(), Number: 1}, "admin", "why"); err != nil {
				t.Fatal(err)
			}
		}, nil, true},
	} {
		c.change()
		for i, path := range paths {
			open := i == len(paths)-1 && strings.Contains(c.name, "later")
			tag, code := get(path, append(c.headers, "If-None-Match", tags[path])...)
			if changed := c.all || open; changed != (code == 200) || changed != (tag != tags[path]) {
				t.Errorf("%s: %s: got %d with the ETag %s after %s, want it changed: %v", c.name, path, code, tag, tags[path], changed)
			}
			tags[path] = tag
		}
	}
	if packed != "" && packed == tags[paths[1]] {
		t.Errorf("what is compressed has the ETag %s of what is not", packed)
	}
	// Others see something else, and have other ETags.
	ada := viewOf(t, f, "u-ada")
	if tag, _ := get(paths[0], "Authorization", "Bearer "+ada); tag == "" || tag == tags[paths[0]] {
		t.Errorf("of somebody who sees less: got the ETag %s", tag)
	}
	hers, _ := get(paths[0], "Authorization", "Bearer "+ada)
	if his, _ := get(paths[0], "Authorization", "Bearer "+viewOf(t, f, "u-bob")); his == "" || his == hers {
		t.Errorf("of two who see less, each something else: got the ETag %s for both", his)
	}
	// Where something is booked while it is read, an answer has none.
	f.Deps.Revisions = &restless{}
	h = serverOf(t, f.Deps)
	for _, path := range paths[:5] {
		if tag, code := get(path); code != 200 || tag != "" {
			t.Errorf("%s, while something is booked: got %d with the ETag %s, want none", path, code, tag)
		}
	}
	f.Deps.Revisions = nil
	h = serverOf(t, f.Deps)
	if tag, code := get(paths[0], "If-None-Match", "*"); code != 200 || tag != "" {
		t.Errorf("without revisions: got %d with the ETag %s", code, tag)
	}
}

// viewOf returns the secret of a token of a user.
func viewOf(t *testing.T, f *Fixture, user odometer.UserID) string {
	t.Helper()
	_, secret, err := f.Accounts.CreateToken(t.Context(), byHand, odometer.Token{Name: "view", Bound: odometer.Bound{User: user}, Scopes: []odometer.Scope{odometer.ScopeRead}})
	if err != nil {
		t.Fatal(err)
	}
	return secret
}

// restless is a ledger in which something is booked all the time.
type restless struct{ n int }

func (r *restless) Revision(int64, int64) string {
	r.n++
	return strings.Repeat("x", r.n)
}
