package api

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestMetricsPassTheLint(t *testing.T) {
	for name, rt := range handlers(t, NewFixture(t)) {
		do(rt, "GET", "/health")
		problems, err := testutil.GatherAndLint(rt.metrics.registry)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		for _, p := range problems {
			t.Errorf("%s: %s: %s", name, p.Metric, p.Text)
		}
	}
}

func TestMetricsShowEveryFigure(t *testing.T) {
	h := serverOf(t, NewFixture(t).Deps)
	do(h, "GET", "/api/v1/usage/instances/vm-1/current")
	do(h, "GET", "/elsewhere/1")
	w := do(h, "GET", "/metrics")
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Fatalf("got %d %s, want 200 text/plain", w.Code, w.Header().Get("Content-Type"))
	}
	lines := map[string]bool{}
	for line := range strings.Lines(w.Body.String()) {
		lines[strings.TrimSpace(line)] = true
	}
	for _, want := range []string{
		"odometer_sampler_samples_total 1", "odometer_sampler_errors_total 2", "odometer_sampler_instances 3",
		"odometer_sampler_last_sample_timestamp_seconds 1.767366245e+09",
		"odometer_spool_records 4", "odometer_spool_bytes 5", "odometer_spool_limit_bytes 6",
		"odometer_spool_oldest_record_timestamp_seconds 1.767366245e+09",
		"odometer_spool_appended_total 7", "odometer_spool_coalesced_total 8",
		"odometer_publisher_events_emitted_total 9", "odometer_publisher_events_acknowledged_total 10",
		"odometer_publisher_events_receipted_total 11", "odometer_publisher_duplicate_frames_total 12",
		"odometer_publisher_attempts_total 13", "odometer_publisher_retries_total 14",
		"odometer_publisher_failures_total 15", "odometer_publisher_resends_total 16",
		`odometer_breaker_state{state="closed"} 0`, `odometer_breaker_state{state="half-open"} 1`, `odometer_breaker_state{state="open"} 0`,
		"odometer_breaker_opened_total 17",
		"odometer_ingest_frames_total 18", "odometer_ingest_events_received_total 19",
		`odometer_ingest_events_total{outcome="recorded"} 20`, `odometer_ingest_events_total{outcome="held"} 0`,
		`odometer_ingest_quarantined_total{reason="conflict"} 21`, "odometer_ingest_refused_total 22", "odometer_ingest_pending_messages 23",
		"odometer_ledger_entries 24", "odometer_ledger_instances 25", "odometer_ledger_epochs 26",
		"odometer_ledger_held_events 27", "odometer_ledger_quarantined_events 28",
		"odometer_ledger_commits_total 29", "odometer_ledger_commit_seconds_total 1.5",
		"odometer_ledger_last_commit_timestamp_seconds 1.767366245e+09", "odometer_ledger_writable 1",
		"odometer_owner_disagreements_total 33",
		"odometer_feed_entries_published_total 30", "odometer_feed_lag_entries 31", "odometer_feed_errors_total 32",
		"odometer_tls_certificate_expiry_timestamp_seconds 1.767366245e+09", "odometer_tls_certificates_loaded_total 33",
		"odometer_tls_certificate_failures_total 34", "odometer_tls_certificate_stale 1",
		"odometer_thresholds_enabled 37", "odometer_threshold_entries_checked_total 38", "odometer_threshold_skipped_records_total 47", "odometer_threshold_lag_seconds 1.5", `odometer_violations_total{condition="budget"} 39`,
		"odometer_violation_changes_total 40", "odometer_violation_changes_published_total 41",
		`odometer_notification_deliveries_total{kind="webhook",result="delivered"} 42`, `odometer_notification_deliveries_total{kind="webhook",result="failed"} 43`,
		"odometer_notification_waiting_deliveries 44", "odometer_notification_dead_deliveries 45", "odometer_notification_open_breakers 46",
		"odometer_http_connections 35", "odometer_http_connections_refused_total 36",
		`odometer_http_requests_total{route="GET /api/v1/usage/instances/{id}/current",status="404"} 1`,
		`odometer_http_requests_total{route="unmatched",status="404"} 1`,
	} {
		if !lines[want] {
			t.Errorf("got no line %q", want)
		}
	}
	if !strings.Contains(w.Body.String(), `odometer_build_info{goversion="go1.`) {
		t.Error("got no odometer_build_info")
	}
}

func TestMetricsOfAStageThatIsAbsentAreLeftOut(t *testing.T) {
	f := NewFixture(t)
	f.Deps.Stats = Stats{Ingest: func() IngestStats { return IngestStats{Pending: -1} }}
	body := do(serverOf(t, f.Deps), "GET", "/metrics").Body.String()
	for _, prefix := range []string{"odometer_spool", "odometer_publisher", "odometer_breaker", "odometer_ledger", "odometer_feed", "odometer_sampler", "odometer_ingest_pending"} {
		if strings.Contains(body, "\n"+prefix) {
			t.Errorf("got metrics %s… of a stage that is absent", prefix)
		}
	}
	if !strings.Contains(body, "\nodometer_ingest_frames_total 0") {
		t.Error("got no metrics of ingest, which is there")
	}
}
