package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// told is a message that a receiver was sent.
type told struct {
	delivery string // the id under which it came
	change   string // of the CloudEvent
	from     string // which of two receivers was told
}

// receiver is what webhooks are sent to.
type receiver struct {
	*httptest.Server
	mu     sync.Mutex
	secret string
	got    []told
	wrong  []string // what the official library does not verify
}

func newReceiver(t *testing.T) *receiver {
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		if err != nil {
			return // it was killed while it sent
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		var event struct{ ID string }
		hook, err := standardwebhooks.NewWebhook(r.secret)
		if err == nil {
			err = hook.Verify(body, q.Header)
		}
		if err != nil || json.Unmarshal(body, &event) != nil {
			r.wrong = append(r.wrong, fmt.Sprintf("%v: %s", err, body))
		}
		r.got = append(r.got, told{delivery: q.Header.Get("webhook-id"), change: event.ID, from: q.URL.Path})
	}))
	t.Cleanup(r.Close)
	return r
}

// all returns what was told so far.
func (r *receiver) all() []told {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// client runs a command about the site.
func (s *site) client(args ...string) string {
	s.t.Helper()
	return run(s.t, append(args, "--data-dir", s.dir)...)
}

// hook makes a channel that tells the receiver, and returns its id.
func (s *site) hook(r *receiver) string {
	s.t.Helper()
	var made struct{ ID, Secret string }
	if err := json.Unmarshal([]byte(s.client("channel", "create", "hook", "--kind", "webhook", "--url", r.URL+"/hook", "--json")), &made); err != nil {
		s.t.Fatal(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.secret = made.Secret
	return made.ID
}

// watch has the receiver be told of two thresholds: of each event, and of a day's sum.
func (s *site) watch(r *receiver) {
	s.t.Helper()
	hook := s.hook(r)
	s.client("threshold", "create", "busy", "--all", "--resource", "cpu", "--unit", "seconds", "--levels", "high=10", "--notify", hook)
	s.client("threshold", "create", "day", "--org", "acme", "--sum", "--resource", "cpu", "--unit", "seconds", "--every", "day", "--limit", "100", "--levels", "50,100", "--notify", hook)
}

// use is what instance vm uses in the minute n: much in every other one.
func use(vm, n int) string {
	end := time.Date(2026, 1, 1, 10, n, 0, 0, time.UTC).Unix()
	seconds := 2
	if n%2 == 1 {
		seconds = 12
	}
	return fmt.Sprintf(`{"specversion":"1.0","id":"e-%[1]d-%[2]d","source":"elsewhere","type":"resource_usage","data":{"event_type":"resource_usage","version":"1.0","timestamp":%[3]d,"instance_id":"vm-%[1]d","user_id":"ada","org_id":"acme","metrics":{"cpu_seconds":%[4]d,"cpu_percent_avg":1,"memory_gb":1,"memory_percent":1,"storage_gb":1,"network_egress_mb":1,"network_ingress_mb":1,"gpu_seconds":0},"period":{"start":%[5]d,"end":%[3]d}}}`,
		vm, n, end, seconds, end-60)
}

// post sends an event until the server has it, or says why it cannot.
func (s *site) post(event string) error {
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, "http://"+s.http+"/api/v1/events", strings.NewReader(event))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/cloudevents+json")
	req.Header.Set("Authorization", "Bearer "+s.token())
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", resp.Status, body)
	}
	return nil
}

// change is a change of a violation as the API has it.
type change struct {
	ID        string `json:"violation_id"`
	Change    int    `json:"change"`
	Standing  string `json:"standing"`
	Threshold string `json:"threshold_name"`
	Level     string `json:"level"`
	Instance  string `json:"instance_id"`
	Crossed   string `json:"crossed_at"`
}

func (c change) id() string { return fmt.Sprintf("%s.%d", c.ID, c.Change) }

// recorded returns every change of every violation, those of one in order.
func (s *site) recorded() (all []change) {
	s.t.Helper()
	for path := "/api/v1/violations?limit=1000"; path != ""; {
		var page struct {
			Violations []change
			Next       *string
		}
		s.get(path, &page)
		for _, v := range page.Violations {
			var one struct{ Changes []change }
			s.get("/api/v1/violations/"+v.ID, &one)
			all = append(all, one.Changes...)
		}
		path = ""
		if page.Next != nil {
			path = "/api/v1/violations?limit=1000&after=" + *page.Next
		}
	}
	return all
}

// judge holds what was recorded to what was used, and what was told to what was
// recorded: one record for each level and time that it was reached; each change told,
// under one id, and those of one violation in order.
func judge(t *testing.T, vms, minutes int, recorded []change, got []told) {
	t.Helper()
	records, changes := map[string]int{}, map[string]bool{}
	for _, c := range recorded {
		changes[c.id()] = true
		if c.Change == 1 {
			records[c.Threshold+" "+c.Level+" "+c.Instance+" "+c.Crossed]++
		}
	}
	for vm := range vms {
		for n := 1; n < minutes; n += 2 {
			key := fmt.Sprintf("busy high vm-%d %s", vm, time.Date(2026, 1, 1, 10, n, 0, 0, time.UTC).Format(time.RFC3339))
			if records[key] != 1 {
				t.Errorf("%s: got %d records, want one", key, records[key])
			}
			delete(records, key)
		}
	}
	days := map[string]int{}
	for key, n := range records {
		level := strings.Join(strings.Fields(key)[:2], " ")
		if days[level] += n; !strings.HasPrefix(key, "day ") {
			t.Errorf("%s was recorded, and never reached", key)
		}
	}
	if days["day 50%"] != 1 || days["day 100%"] != 1 || len(days) != 2 {
		t.Errorf("of the day's sum: got %v, want 50%% and 100%% once each", days)
	}
	under, last := map[string]string{}, map[string]int{}
	for _, m := range got {
		if !changes[m.change] {
			t.Errorf("%s was told, and is not recorded", m.change)
		}
		if id, again := under[m.change]; again && id != m.delivery {
			t.Errorf("%s was told under %s and %s, want one id", m.change, id, m.delivery)
		} else if !again {
			violation, number, _ := strings.Cut(m.change, ".")
			if fmt.Sprint(last[violation]+1) != number {
				t.Errorf("%s was told after change %d", m.change, last[violation])
			}
			last[violation]++
		}
		under[m.change] = m.delivery
	}
	for id := range changes {
		if under[id] == "" {
			t.Errorf("%s was never told", id)
		}
	}
}

// caughtUp waits until every recorded change was told, and nothing is left to record.
func (s *site) caughtUp(r *receiver, enough func([]change) bool) (recorded []change) {
	s.t.Helper()
	eventually(s.t, "everything that was recorded was told", func() bool {
		recorded = s.recorded()
		seen := map[string]bool{}
		for _, m := range r.all() {
			seen[m.change] = true
		}
		return enough(recorded) && !slices.ContainsFunc(recorded, func(c change) bool { return !seen[c.id()] })
	})
	return recorded
}

// reached says whether what is recorded has all times that the instances used much, and
// that they did no longer; and that the day is over.
func reached(vms, minutes int) func([]change) bool {
	return func(list []change) bool {
		n := map[string]int{}
		for _, c := range list {
			n[c.Threshold+" "+c.Standing]++
		}
		return n["busy open"] >= vms*(minutes/2) && n["busy recovered"] >= vms*(minutes/2) && n["day open"] >= 2 && n["day recovered"] >= 2
	}
}

// TestViolationsAreToldThroughKills kills the server at random while thresholds fire.
func TestViolationsAreToldThroughKills(t *testing.T) {
	const vms, minutes = 3, 41
	s, r := newSite(t), newReceiver(t)
	serve := func() *process {
		return s.serve("--no-agent", "--notify-allow", "127.0.0.0/8", "--request-rate", "0", "--event-rate", "0")
	}
	server := serve()
	s.watch(r)
	random := rand.New(rand.NewPCG(7, 8))
	kills := 0
	for n := range minutes {
		for vm := range vms {
			for posted := false; !posted; {
				if random.IntN(6) == 0 {
					time.AfterFunc(time.Duration(random.IntN(60))*time.Millisecond, func() { server.cmd.Process.Kill() })
				}
				posted = s.post(use(vm, n)) == nil
				if !server.running() {
					kills++
					server = serve()
				}
			}
		}
	}
	time.Sleep(100 * time.Millisecond) // the last of those who kill
	if !server.running() {
		server = serve()
	}
	recorded := s.caughtUp(r, reached(vms, minutes))
	judge(t, vms, minutes, recorded, r.all())
	for _, w := range r.wrong {
		t.Errorf("a message that does not verify: %s", w)
	}
	if kills < 5 {
		t.Errorf("got %d kills, want some", kills)
	}
	server.stop()
	s.audit()
	t.Logf("%d kills, %d changes, told %d times", kills, len(recorded), len(r.all()))
}

// TestTwoServersNeverBothNotify has a second server take over the ledger of a first one
// that goes on running: from then on the first decides and tells nothing.
func TestTwoServersNeverBothNotify(t *testing.T) {
	const vms, minutes = 2, 21
	first, r := newSite(t), newReceiver(t)
	p1 := first.serve("--no-agent", "--notify-allow", "127.0.0.0/8", "--request-rate", "0", "--event-rate", "0")
	first.watch(r)
	post := func(s *site, from, to int) {
		for n := from; n < to; n++ {
			for vm := range vms {
				if err := s.post(use(vm, n)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	post(first, 0, 11)
	first.caughtUp(r, reached(vms, 11))

	// The second has the same ledger under another name, so that no lock is in its way.
	second := newSite(t)
	if err := os.MkdirAll(second.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(first.dir, "ledger.db"), filepath.Join(second.dir, "ledger.db")); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile(filepath.Join(first.dir, "notify.key"))
	if err == nil {
		err = os.WriteFile(filepath.Join(second.dir, "notify.key"), key, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	p2 := second.serve("--no-agent", "--notify-allow", "127.0.0.0/8", "--request-rate", "0", "--event-rate", "0")
	for n := 11; n < minutes; n++ {
		for vm := range vms {
			if err := first.post(use(vm, n)); err == nil {
				t.Errorf("the first server takes events after the second has the ledger")
			}
			if err := second.post(use(vm, n)); err != nil {
				t.Fatal(err)
			}
		}
	}
	recorded := second.caughtUp(r, reached(vms, minutes))
	time.Sleep(2 * time.Second) // for what is told twice
	got := r.all()
	judge(t, vms, minutes, recorded, got)
	if len(got) != len(recorded) {
		t.Errorf("%d changes were told %d times, want each once", len(recorded), len(got))
	}
	p1.kill() // it may have ended by itself, which is an error of its own
	p2.stop()
}
