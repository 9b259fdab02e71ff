package api

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
)

func TestHealthFromFacts(t *testing.T) {
	ago := func(d time.Duration) time.Time { return Now.Add(-d) }
	for _, c := range []struct {
		name  string
		part  string
		facts Facts
		want  HealthStatus
		says  string // "" for no details
	}{
		{"a sample a moment ago", "sampler", Facts{Sampler: &SamplerFacts{LastSample: ago(time.Second), Interval: time.Second}}, OK, ""},
		{"no sample yet, just started", "sampler", Facts{Sampler: &SamplerFacts{Started: ago(3 * time.Second), Interval: time.Second}}, OK, ""},
		{"no sample yet, started long ago", "sampler", Facts{Sampler: &SamplerFacts{Started: ago(time.Hour), Interval: time.Second}}, Failed, "no sample since the start 1h0m0s ago"},
		{"three samples and the grace: the last moment", "sampler", Facts{Sampler: &SamplerFacts{LastSample: ago(8 * time.Second), Interval: time.Second}}, OK, ""},
		{"three samples and the grace are over", "sampler", Facts{Sampler: &SamplerFacts{LastSample: ago(9 * time.Second), Interval: time.Second}}, Degraded, "9s old"},
		{"ten samples and a minute are over", "sampler", Facts{Sampler: &SamplerFacts{LastSample: ago(71 * time.Second), Interval: time.Second}}, Failed, "1m11s old"},
		{"a counter cannot be read", "sampler", Facts{Sampler: &SamplerFacts{LastSample: Now, Interval: time.Second, Err: "gpu 0: gone"}}, Degraded, "gpu 0: gone"},

		{"machines that are all known", "inventory", Facts{Inventory: &InventoryFacts{Machines: 2}}, OK, ""},
		{"a machine that does not answer", "inventory", Facts{Inventory: &InventoryFacts{Machines: 2, Problems: []string{"describe domain web: libvirt does not answer"}}}, OK, "domain web"},
		{"many machines that do not answer", "inventory", Facts{Inventory: &InventoryFacts{Problems: []string{"1", "2", "3", "4", "5", "6", "7"}}}, OK, "1; 2; 3; 4; 5; and 2 more"},
		{"a source that cannot be listed", "inventory", Facts{Inventory: &InventoryFacts{Failed: []string{"libvirt: it has not answered for 6s"}}}, Degraded, "libvirt: it has not"},

		{"an empty spool", "spool", Facts{Spool: &SpoolFacts{Limit: 1000}}, OK, ""},
		{"a young backlog", "spool", Facts{Spool: &SpoolFacts{Records: 9, Oldest: ago(5 * time.Minute)}}, OK, ""},
		{"an old backlog", "spool", Facts{Spool: &SpoolFacts{Records: 9, Oldest: ago(6 * time.Minute)}}, Degraded, "9 records wait for a receipt, the oldest for 6m0s"},
		{"a spool that is four fifths full", "spool", Facts{Spool: &SpoolFacts{Bytes: 800, Limit: 1000}}, Degraded, "800 of 1000 bytes"},
		{"a spool just below", "spool", Facts{Spool: &SpoolFacts{Bytes: 799, Limit: 1000}}, OK, ""},
		{"a spool that is nearly full", "spool", Facts{Spool: &SpoolFacts{Bytes: 950, Limit: 1000}}, Failed, "joined to make room"},
		{"a spool without a limit is never full", "spool", Facts{Spool: &SpoolFacts{Bytes: 1 << 60}}, OK, ""},
		{"a disk that is full, while joining helps", "spool", Facts{Spool: &SpoolFacts{Full: true}}, Degraded, "periods are being joined"},
		{"a disk that is full and takes nothing", "spool", Facts{Spool: &SpoolFacts{Full: true, Waiting: 7, Err: "no space left on device"}}, Failed, "no space left on device; 7 records wait in memory"},
		{"a store of the queue that is full", "queue", Facts{Queue: &QueueFacts{Connected: true, Store: "no space left on device"}}, Failed, "no space left on device"},
		{"a disk that fails", "spool", Facts{Spool: &SpoolFacts{Err: "sync segment 3: input/output error"}}, Failed, "segment 3"},

		{"nothing outstanding", "publisher", Facts{Publish: &PublishFacts{Breaker: "closed"}}, OK, ""},
		{"an open breaker", "publisher", Facts{Publish: &PublishFacts{Breaker: "open", Err: "no responders"}}, Degraded, "no responders; the circuit breaker is open"},
		{"a breaker that probes", "publisher", Facts{Publish: &PublishFacts{Breaker: "half-open"}}, Degraded, "half-open"},
		{"receipts that stall", "publisher", Facts{Publish: &PublishFacts{Breaker: "closed", Outstanding: 3, Since: ago(3 * time.Minute)}}, Degraded, "no receipt for 3m0s for 3 frames"},
		{"receipts that are under way", "publisher", Facts{Publish: &PublishFacts{Breaker: "closed", Outstanding: 3, Since: ago(time.Minute)}}, OK, ""},

		{"a queue that is connected", "queue", Facts{Queue: &QueueFacts{Connected: true, Pending: 10_000}}, OK, ""},
		{"a queue that is far behind", "queue", Facts{Queue: &QueueFacts{Connected: true, Pending: 10_001}}, Degraded, "10001 messages"},
		{"a queue that does not say", "queue", Facts{Queue: &QueueFacts{Connected: true, Pending: -1}}, OK, ""},
		{"a queue that is gone", "queue", Facts{Queue: &QueueFacts{Err: "connection refused"}}, Failed, "connection refused; not connected"},

		{"a ledger that commits", "ledger", Facts{Ledger: &LedgerFacts{Writable: true, LastCommit: ago(time.Hour)}}, OK, ""},
		{"a ledger that never committed", "ledger", Facts{Ledger: &LedgerFacts{Writable: true}}, OK, ""},
		{"a ledger whose last commit failed", "ledger", Facts{Ledger: &LedgerFacts{Writable: true, Err: "database is locked"}}, Degraded, "database is locked"},
		{"a ledger that cannot be written", "ledger", Facts{Ledger: &LedgerFacts{Err: "disk full"}}, Failed, "disk full; the ledger cannot be written"},

		{"a feed that has caught up", "feed", Facts{Feed: &FeedFacts{Oldest: ago(time.Hour)}}, OK, ""},
		{"a feed that lags for long", "feed", Facts{Feed: &FeedFacts{Behind: 7, Oldest: ago(6 * time.Minute)}}, Degraded, "7 entries"},
		{"a feed that lags a moment", "feed", Facts{Feed: &FeedFacts{Behind: 7000, Oldest: ago(time.Minute)}}, OK, ""},
		{"a feed that cannot publish", "feed", Facts{Feed: &FeedFacts{Err: "stream is full"}}, Degraded, "stream is full"},

		{"a clock that is kept right", "clock", Facts{Clock: &ClockFacts{Set: true, Synchronised: true}}, OK, ""},
		{"a clock that nobody is known to keep", "clock", Facts{Clock: &ClockFacts{Set: true}}, OK, "nothing is known"},
		{"a clock that was never set", "clock", Facts{Clock: &ClockFacts{}}, Failed, "never set"},
		{"a clock that is ahead", "clock", Facts{Clock: &ClockFacts{Set: true, Synchronised: true, Ahead: 6 * time.Minute}}, Degraded, "6m0s"},
		{"a certificate that lasts", "tls", Facts{TLS: certificate(90*24*time.Hour, 15*24*time.Hour, "")}, OK, ""},
		{"a certificate that is to be renewed", "tls", Facts{TLS: certificate(90*24*time.Hour, 13*24*time.Hour, "")}, Degraded, "expires at 2026-01-15T15:04:05Z, in 312h0m0s"},
		{"a certificate of a day", "tls", Facts{TLS: certificate(24*time.Hour, 5*time.Hour, "")}, OK, ""},
		{"a certificate of a day, at its end", "tls", Facts{TLS: certificate(24*time.Hour, 3*time.Hour, "")}, Degraded, "in 3h0m0s"},
		{"a certificate that has expired", "tls", Facts{TLS: certificate(24*time.Hour, 0, "")}, Failed, "expired at 2026-01-02T15:04:05Z"},
		{"a certificate of tomorrow", "tls", Facts{TLS: certificate(24*time.Hour, 25*time.Hour, "")}, Failed, "not valid before"},
		{"a new certificate that cannot be used", "tls", Facts{TLS: certificate(90*24*time.Hour, 60*24*time.Hour, "no PEM data")}, Degraded, "not used: no PEM data"},
		{"a directory of instances", "instances", Facts{Instances: &InstanceFacts{Instances: 7}}, OK, ""},
		{"a directory that cannot be written", "instances", Facts{Instances: &InstanceFacts{Err: "no space left on device"}}, Degraded, "no space"},
		{"a directory that is damaged", "instances", Facts{Instances: &InstanceFacts{Absent: "damaged; move it away"}}, Failed, "move it away"},
		{"a machine that is moved", "instances", Facts{Instances: &InstanceFacts{Conflicts: conflicts(1, ago(30*time.Second))}}, OK, ""},
		{"a machine on two hosts", "instances", Facts{Instances: &InstanceFacts{Conflicts: conflicts(1, ago(2*time.Minute))}}, Degraded, "vm-0 runs on h1, h2 and h3 at once since 2026-01-02T15:02:05Z"},
		{"many machines on two hosts", "instances", Facts{Instances: &InstanceFacts{Conflicts: conflicts(5, ago(2*time.Minute))}}, Degraded, "and 2 more"},
		{"an agent that names others", "instances", Facts{Instances: &InstanceFacts{Disagreements: disagreements(1)}}, OK, "h0 named another owner than is recorded in 1 event, at last of vm-0 at 2026-01-02T15:04:05Z"},
		{"agents that name others", "instances", Facts{Instances: &InstanceFacts{Disagreements: disagreements(5)}}, OK, "h4 named another owner than is recorded in 5 events, at last of vm-0 at 2026-01-02T15:04:05Z: who is recorded was charged; h3 "},
		{"many agents that name others", "instances", Facts{Instances: &InstanceFacts{Disagreements: disagreements(5)}}, OK, "and 2 more agents"},
		{"an owner map that cannot be read", "instances", Facts{Instances: &InstanceFacts{OwnerMap: "line 7: user: is empty"}}, Degraded, "the owner map: line 7"},
		{"an account service", "account_service", Facts{Directory: &DirectoryFacts{Instances: 7, Answered: 7, Oldest: ago(time.Minute), MaxAge: time.Minute}}, OK, ""},
		{"an account service that nobody asked", "account_service", Facts{Directory: &DirectoryFacts{MaxAge: time.Minute}}, OK, ""},
		{"an account service that is away", "account_service", Facts{Directory: &DirectoryFacts{Err: "connection refused", LeftAlone: true, MaxAge: time.Minute}}, Degraded, "connection refused; it is left alone"},
		{"an account service that is late", "account_service", Facts{Directory: &DirectoryFacts{Oldest: ago(2 * time.Minute), MaxAge: time.Minute}}, Degraded, "its oldest answer is 2m0s old, and is to be 1m0s at most"},
		{"thresholds that are checked", "thresholds", Facts{Thresholds: &ThresholdFacts{Enabled: 3, Behind: time.Minute}}, OK, ""},
		{"thresholds that are late", "thresholds", Facts{Thresholds: &ThresholdFacts{Behind: 61 * time.Second}}, Degraded, "what was booked 1m1s ago is not checked yet"},
		{"thresholds that missed what was pruned", "thresholds", Facts{Thresholds: &ThresholdFacts{Skipped: 7}}, OK, "7 records were pruned before they were checked"},
		{"thresholds that were ahead of the ledger", "thresholds", Facts{Thresholds: &ThresholdFacts{Resumed: 1}}, OK, "more was checked than the ledger has"},
		{"thresholds that cannot be checked", "thresholds", Facts{Thresholds: &ThresholdFacts{Err: "database is locked"}}, Degraded, "database is locked"},
		{"a file of thresholds that is wrong", "thresholds", Facts{Thresholds: &ThresholdFacts{File: "levels[1].value: 1 is not above 2"}}, Degraded, "the file of thresholds: levels[1]"},
		{"violations that cannot be published", "thresholds", Facts{Thresholds: &ThresholdFacts{Stream: "the stream is full"}}, Degraded, "not published: the stream is full"},
		{"thresholds of a newer version", "thresholds", Facts{Thresholds: &ThresholdFacts{Absent: "written by a newer version"}}, Failed, "newer version"},
		{"notifications that go out", "notifications", Facts{Notifications: &NotificationFacts{Waiting: 9, Oldest: ago(time.Hour)}}, OK, ""},
		{"a receiver that does not answer", "notifications", Facts{Notifications: &NotificationFacts{Open: 1}}, OK, "1 receiver is left alone for now"},
		{"what was given up", "notifications", Facts{Notifications: &NotificationFacts{Dead: 2, Disabled: 1}}, OK, "2 deliveries were given up: odometer channel deliveries lists them; 1 channel was disabled"},
		{"a webhook that missed what was pruned", "notifications", Facts{Notifications: &NotificationFacts{Missed: 1}}, OK, "1 webhook was not told all of the ledger"},
		{"notifications that cannot be kept", "notifications", Facts{Notifications: &NotificationFacts{Err: "disk full"}}, Degraded, "disk full"},
		{"notifications whose key is lost", "notifications", Facts{Notifications: &NotificationFacts{Absent: "another key"}}, Failed, "another key"},
		{"a clock that is behind", "clock", Facts{Clock: &ClockFacts{Set: true, Synchronised: true, Ahead: -6 * time.Minute}}, Degraded, "-6m0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parts := Judge(c.facts, Now)
			got, ok := parts[c.part]
			if !ok || len(parts) != 1 {
				t.Fatalf("got parts %v, want only %s", parts, c.part)
			}
			details := ""
			if got.Details != nil {
				details = *got.Details
			}
			if got.Status != c.want || (details == "") != (c.says == "") || !strings.Contains(details, c.says) {
				t.Errorf("got %s %q, want %s %q", got.Status, details, c.want, c.says)
			}
		})
	}
}

// certificate is valid for so long and has so much of it left.
func certificate(length, left time.Duration, err string) *TLSFacts {
	return &TLSFacts{NotBefore: Now.Add(left - length), NotAfter: Now.Add(left), Err: err}
}

func TestHealthAnswersByTheGravestComponent(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Facts)
		agent  bool
		status int
		want   HealthStatus
		ready  bool
	}{
		{"all is well", func(*Facts) {}, false, 200, OK, true},
		{"degraded is told as 503", func(f *Facts) { f.Publish.Breaker = "open" }, false, 503, Degraded, true},
		{"the gravest decides", func(f *Facts) { f.Publish.Breaker = "open"; f.Ledger.Writable = false }, false, 503, Failed, false},
		{"a server without its queue is not ready", func(f *Facts) { f.Queue.Connected = false }, false, 503, Failed, false},
		{"a server that cannot sample still serves", func(f *Facts) { f.Sampler.LastSample = Now.Add(-time.Hour) }, false, 503, Failed, true},
		{"an agent goes on without its server", func(f *Facts) { f.Queue.Connected = false }, true, 503, Degraded, true},
		{"an agent that cannot keep is not ready", func(f *Facts) { f.Spool.Err = "read-only file system" }, true, 503, Failed, false},
		{"an agent that cannot sample is not ready", func(f *Facts) { f.Sampler.LastSample = Now.Add(-time.Hour) }, true, 503, Failed, false},
		{"a server without an agent is whole", func(f *Facts) { f.Sampler, f.Spool, f.Publish = nil, nil, nil }, false, 200, OK, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := NewFixture(t)
			c.change(&f.Health.Facts)
			if c.agent {
				f.Health.Facts.Ledger, f.Health.Facts.Feed = nil, nil
			}
			h := handlers(t, f)["server"]
			if c.agent {
				h = handlers(t, f)["agent"]
			}
			w := do(h, "GET", "/api/v1/health/status")
			var got Health
			if err := json.Unmarshal(w.Body.Bytes(), &got); err != nil {
				t.Fatal(err)
			}
			if w.Code != c.status || got.Status != c.want || (w.Header().Get("Retry-After") != "") != (c.status == 503) {
				t.Errorf("got %d %s, want %d %s", w.Code, got.Status, c.status, c.want)
			}
			ready := send(h, "GET", "/readyz?verbose", "")
			if (ready.Code == 200) != c.ready || (ready.Code != 200) != strings.HasSuffix(ready.Body.String(), "not ready\n") {
				t.Errorf("readyz: got %d %q, want ready to be %v", ready.Code, ready.Body, c.ready)
			}
			for name, part := range got.Components {
				if !strings.Contains(ready.Body.String(), name+" "+string(part.Status)+"\n") {
					t.Errorf("readyz?verbose: got %q, want %s %s in it", ready.Body, name, part.Status)
				}
			}
			for _, path := range []string{"/health", "/livez"} {
				if w := send(h, "GET", path, ""); w.Code != 200 {
					t.Errorf("%s: got %d, want 200: the process lives", path, w.Code)
				}
			}
		})
	}
}

func TestHealthWithoutATokenHasNoDetails(t *testing.T) {
	f := NewFixture(t)
	f.Health.Facts.Ledger.Writable, f.Health.Facts.Ledger.Err = false, "open /srv/secret-place/ledger.db: read-only"
	h := serverOf(t, f.Deps)
	w := send(h, "GET", "/api/v1/health/status", "")
	if w.Code != 503 || strings.Contains(w.Body.String(), "secret-place") || strings.Contains(w.Body.String(), "facts") || !strings.Contains(w.Body.String(), `"error"`) {
		t.Errorf("got %d %s, want the statuses alone", w.Code, w.Body)
	}
	if w := do(h, "GET", "/api/v1/health/status"); !strings.Contains(w.Body.String(), "secret-place") {
		t.Errorf("with a token: got %s, want the details", w.Body)
	}
	if w := send(h, "GET", "/api/v1/health/status", "", "Authorization", "Bearer wrong"); w.Code != 401 {
		t.Errorf("with a wrong token: got %d, want 401", w.Code)
	}
}

func TestUptimeCountsFromTheStart(t *testing.T) {
	f := NewFixture(t)
	now := Now
	f.Deps.Clock = func() time.Time { return now }
	h := serverOf(t, f.Deps)
	now = now.Add(90 * time.Second)
	var got Health
	json.Unmarshal(do(h, "GET", "/api/v1/health/status").Body.Bytes(), &got)
	if got.UptimeSeconds != 90 || got.Version != "0.1" {
		t.Errorf("got %d s of version %q, want 90 of 0.1", got.UptimeSeconds, got.Version)
	}
}

// disagreements are of n agents, of which the last has the most.
func disagreements(n int) (list []OwnerDisagreement) {
	for i := range n {
		list = append(list, OwnerDisagreement{odometer.AgentID(fmt.Sprint("h", i)), uint64(i + 1), "vm-0", Now})
	}
	return list
}

func conflicts(n int, since time.Time) (list []InstanceConflict) {
	for i := range n {
		list = append(list, InstanceConflict{odometer.InstanceID(fmt.Sprint("vm-", i)), []odometer.AgentID{"h1", "h2", "h3"}, since})
	}
	return list
}
