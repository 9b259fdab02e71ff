package api

import (
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"example.org/odometer"
)

// Stats are where GET /metrics takes its figures from. Each function returns a
// snapshot, may be called at any time from several goroutines, and must be
// quick. What is nil is left out.
type Stats struct {
	Sampler func() SamplerStats
	Spool   func() SpoolStats
	Publish func() PublishStats
	Ingest  func() IngestStats
	Ledger  func() LedgerStats
	Feed    func() FeedStats
	TLS     func() TLSStats
	Conns   func() ConnStats

	Thresholds    func() ThresholdStats
	Notifications func() NotificationStats
}

// ThresholdStats are about checking thresholds, and what was found.
type ThresholdStats struct {
	Enabled   int
	Checked   uint64            // entries, since the process began
	Skipped   uint64            // records that were pruned before that
	Reached   map[string]uint64 // violations by condition, since the process began
	Changes   uint64            // of violations
	Behind    time.Duration     // how long what is booked waits to be checked
	Published uint64            // changes, to the stream
}

// NotificationStats are about telling channels.
type NotificationStats struct {
	Attempts []AttemptCount
	Waiting  int // deliveries
	Dead     int // deliveries that were given up
	Open     int // receivers that are left alone for now
}

// AttemptCount says of which attempts there were how many, since the process began.
type AttemptCount struct {
	Kind   odometer.ChannelKind
	Result string // delivered or failed
	Times  uint64
}

// SamplerStats are about reading the counters of this machine.
type SamplerStats struct {
	Samples    uint64
	Errors     uint64
	LastSample time.Time // zero before the first
	Instances  int
}

// SpoolStats are about the records on this disk.
type SpoolStats struct {
	Records   int64     // not receipted
	Bytes     int64     // on disk
	Limit     int64     // 0 for none
	Oldest    time.Time // of the records not receipted; zero when empty
	Appended  uint64    // records accepted
	Coalesced uint64    // records joined into others to make room
}

// PublishStats are about sending frames to the queue. Events are counted once
// for each time they pass.
type PublishStats struct {
	Emitted      uint64 // events handed to the queue
	Acknowledged uint64 // events the queue has stored
	Receipted    uint64 // events the ledger has committed
	Duplicates   uint64 // frames the queue knew already
	Attempts     uint64 // to send a frame
	Retries      uint64 // attempts after the first
	Failures     uint64 // frames given up for now
	Resends      uint64 // times sending went back to what was receipted
	Breaker      string // "closed", "half-open" or "open"
	BreakerOpens uint64
}

// IngestStats are about what was received. Received = the sum of Outcomes.
type IngestStats struct {
	Frames      uint64
	Received    uint64
	Outcomes    map[odometer.Outcome]uint64
	Quarantined map[string]uint64 // by reason
	Refused     uint64            // requests or messages that were refused as a whole
	Pending     int64             // messages that wait, -1 where that is not known
}

// LedgerStats are about the ledger.
type LedgerStats struct {
	Entries       int64
	Instances     int64
	Epochs        int64
	Held          int64
	Quarantine    int64
	Disagreements uint64 // events that named another owner than is recorded, since the start
	Commits       uint64
	CommitSeconds float64   // spent in commits
	LastCommit    time.Time // zero before the first
	Writable      bool
}

// FeedStats are about the topic of entries.
type FeedStats struct {
	Published uint64
	Behind    int64
	Errors    uint64
}

// TLSStats are about the certificate that connections are answered with.
type TLSStats struct {
	NotAfter time.Time
	Loaded   uint64 // certificates that were used, the first one too
	Failed   uint64 // certificates that lay in the files and could not be used
	Stale    bool   // the files have one that cannot be used
}

// BreakerStates are the states of a circuit breaker, as in [PublishStats].
var BreakerStates = [...]string{"closed", "half-open", "open"}

// metrics holds the registry of one server.
type metrics struct {
	registry *prometheus.Registry
	handler  http.Handler
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newMetrics(version string, stats Stats) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "odometer_http_requests_total", Help: "Requests answered, by route and status.",
		}, []string{"route", "status"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "odometer_http_request_duration_seconds", Help: "Time to answer a request, by route.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2.5, 10},
		}, []string{"route"}),
	}
	build := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "odometer_build_info", Help: "Always 1; the labels say what is running.",
	}, []string{"version", "goversion"})
	build.WithLabelValues(version, runtime.Version()).Set(1)
	m.registry.MustRegister(m.requests, m.duration, build, snapshots{stats},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Registry: m.registry})
	return m
}

func (m *metrics) observe(route string, status int, took time.Duration) {
	m.requests.WithLabelValues(route, strconv.Itoa(status)).Inc()
	m.duration.WithLabelValues(route).Observe(took.Seconds())
}

func (m *metrics) get(w http.ResponseWriter, r *http.Request) error {
	m.handler.ServeHTTP(w, r)
	return nil
}

// desc describes one metric of a snapshot.
func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("odometer_"+name, help, labels, nil)
}

// What the snapshots are shown as. No label names a tenant or an instance:
// their number has no bound.
var (
	samplerSamples = desc("sampler_samples_total", "Samples taken of this machine.")
	samplerErrors  = desc("sampler_errors_total", "Reads of a counter that failed.")
	samplerLast    = desc("sampler_last_sample_timestamp_seconds", "When the last sample was taken.")
	samplerWatched = desc("sampler_instances", "Instances that are being metered here.")

	spoolRecords   = desc("spool_records", "Records in the spool that are not receipted.")
	spoolBytes     = desc("spool_bytes", "Bytes that the spool takes on disk.")
	spoolLimit     = desc("spool_limit_bytes", "Bytes that the spool may take on disk.")
	spoolOldest    = desc("spool_oldest_record_timestamp_seconds", "When the oldest record that is not receipted was accepted, 0 when there is none.")
	spoolAppended  = desc("spool_appended_total", "Records that the spool accepted.")
	spoolCoalesced = desc("spool_coalesced_total", "Records that were joined into longer periods to make room.")

	publishEmitted    = desc("publisher_events_emitted_total", "Events handed to the queue, each time.")
	publishAcked      = desc("publisher_events_acknowledged_total", "Events that the queue has stored.")
	publishReceipted  = desc("publisher_events_receipted_total", "Events that the ledger has committed.")
	publishDuplicates = desc("publisher_duplicate_frames_total", "Frames that the queue had stored before.")
	publishAttempts   = desc("publisher_attempts_total", "Attempts to send a frame.")
	publishRetries    = desc("publisher_retries_total", "Attempts to send a frame after its first.")
	publishFailures   = desc("publisher_failures_total", "Frames given up after every attempt, to be sent again later.")
	publishResends    = desc("publisher_resends_total", "Times that sending went back to the last receipt.")
	breakerState      = desc("breaker_state", "1 for the state that the publisher's circuit breaker is in.", "state")
	breakerOpens      = desc("breaker_opened_total", "Times that the circuit breaker opened.")

	ingestFrames      = desc("ingest_frames_total", "Frames received.")
	ingestReceived    = desc("ingest_events_received_total", "Events received; the sum of odometer_ingest_events_total.")
	ingestEvents      = desc("ingest_events_total", "Events received, by what became of them.", "outcome")
	ingestQuarantined = desc("ingest_quarantined_total", "Events put in quarantine, by reason.", "reason")
	ingestRefused     = desc("ingest_refused_total", "Messages and requests refused as a whole.")
	ingestPending     = desc("ingest_pending_messages", "Messages in the queue that wait for the ledger.")

	ledgerEntries    = desc("ledger_entries", "Entries in the ledger.")
	ledgerInstances  = desc("ledger_instances", "Instances in the ledger.")
	ledgerEpochs     = desc("ledger_epochs", "Epochs in the ledger.")
	ledgerHeld       = desc("ledger_held_events", "Events that wait for an earlier one or for their time.")
	ledgerQuarantine = desc("ledger_quarantined_events", "Events in quarantine.")
	ownerDisagree    = desc("owner_disagreements_total", "Events that named another owner than is recorded, who was charged.")
	ledgerCommits    = desc("ledger_commits_total", "Transactions committed.")
	ledgerSeconds    = desc("ledger_commit_seconds_total", "Time spent in transactions.")
	ledgerLast       = desc("ledger_last_commit_timestamp_seconds", "When the last transaction was committed.")
	ledgerWritable   = desc("ledger_writable", "1 while the ledger can be written.")

	feedPublished = desc("feed_entries_published_total", "Entries published on the topic.")
	feedBehind    = desc("feed_lag_entries", "Entries booked and not yet published.")
	feedErrors    = desc("feed_errors_total", "Entries whose publishing failed, each time.")

	thresholdsEnabled = desc("thresholds_enabled", "Thresholds that are checked.")
	thresholdsChecked = desc("threshold_entries_checked_total", "Entries of the ledger that thresholds were held to.")
	thresholdsSkipped = desc("threshold_skipped_records_total", "Records of the ledger that were pruned before thresholds were held to them.")
	thresholdsLag     = desc("threshold_lag_seconds", "How long what is booked waits to be checked.")
	violationsReached = desc("violations_total", "Levels of thresholds that were reached, by condition.", "condition")
	violationChanges  = desc("violation_changes_total", "Changes of violations: reached, recovered, retracted.")
	violationsTold    = desc("violation_changes_published_total", "Changes of violations that were published to their stream.")
	deliveriesMade    = desc("notification_deliveries_total", "Attempts to tell a channel, by its kind and what came of it.", "kind", "result")
	deliveriesWaiting = desc("notification_waiting_deliveries", "Deliveries that wait for their turn or their next attempt.")
	deliveriesDead    = desc("notification_dead_deliveries", "Deliveries that were given up.")
	receiversOpen     = desc("notification_open_breakers", "Receivers that are left alone for now, since they do not answer.")

	httpConns   = desc("http_connections", "Connections to the API that are open.")
	httpRefused = desc("http_connections_refused_total", "Connections to the API that were refused because too many were open.")

	tlsNotAfter = desc("tls_certificate_expiry_timestamp_seconds", "When the certificate expires that connections are answered with.")
	tlsLoaded   = desc("tls_certificates_loaded_total", "Certificates that were used, the first one too.")
	tlsFailed   = desc("tls_certificate_failures_total", "Certificates that could not be used.")
	tlsStale    = desc("tls_certificate_stale", "1 while the files have a certificate that cannot be used.")
)

// snapshots collects the figures of the stages when they are asked for.
type snapshots struct{ stats Stats }

// Describe sends nothing: which metrics there are depends on which stages run.
func (s snapshots) Describe(chan<- *prometheus.Desc) {}

// Collect takes one snapshot of every stage.
func (s snapshots) Collect(ch chan<- prometheus.Metric) {
	send := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		send(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, n int64, labels ...string) {
		send(d, prometheus.GaugeValue, float64(n), labels...)
	}
	moment := func(d *prometheus.Desc, t time.Time) {
		v := 0.0
		if !t.IsZero() {
			v = float64(t.UnixMicro()) / odometer.SecondMicros
		}
		send(d, prometheus.GaugeValue, v)
	}
	if s.stats.Sampler != nil {
		v := s.stats.Sampler()
		count(samplerSamples, v.Samples)
		count(samplerErrors, v.Errors)
		moment(samplerLast, v.LastSample)
		gauge(samplerWatched, int64(v.Instances))
	}
	if s.stats.Spool != nil {
		v := s.stats.Spool()
		gauge(spoolRecords, v.Records)
		gauge(spoolBytes, v.Bytes)
		gauge(spoolLimit, v.Limit)
		moment(spoolOldest, v.Oldest)
		count(spoolAppended, v.Appended)
		count(spoolCoalesced, v.Coalesced)
	}
	if s.stats.Publish != nil {
		v := s.stats.Publish()
		count(publishEmitted, v.Emitted)
		count(publishAcked, v.Acknowledged)
		count(publishReceipted, v.Receipted)
		count(publishDuplicates, v.Duplicates)
		count(publishAttempts, v.Attempts)
		count(publishRetries, v.Retries)
		count(publishFailures, v.Failures)
		count(publishResends, v.Resends)
		count(breakerOpens, v.BreakerOpens)
		for _, state := range BreakerStates {
			gauge(breakerState, one(v.Breaker == state), state)
		}
	}
	if s.stats.Ingest != nil {
		v := s.stats.Ingest()
		count(ingestFrames, v.Frames)
		count(ingestReceived, v.Received)
		for _, o := range odometer.Outcomes {
			count(ingestEvents, v.Outcomes[o], string(o))
		}
		for reason, n := range v.Quarantined {
			count(ingestQuarantined, n, reason)
		}
		count(ingestRefused, v.Refused)
		if v.Pending >= 0 {
			gauge(ingestPending, v.Pending)
		}
	}
	if s.stats.Ledger != nil {
		v := s.stats.Ledger()
		gauge(ledgerEntries, v.Entries)
		gauge(ledgerInstances, v.Instances)
		gauge(ledgerEpochs, v.Epochs)
		gauge(ledgerHeld, v.Held)
		gauge(ledgerQuarantine, v.Quarantine)
		count(ownerDisagree, v.Disagreements)
		count(ledgerCommits, v.Commits)
		send(ledgerSeconds, prometheus.CounterValue, v.CommitSeconds)
		moment(ledgerLast, v.LastCommit)
		gauge(ledgerWritable, one(v.Writable))
	}
	if s.stats.Feed != nil {
		v := s.stats.Feed()
		count(feedPublished, v.Published)
		gauge(feedBehind, v.Behind)
		count(feedErrors, v.Errors)
	}
	if s.stats.Thresholds != nil {
		v := s.stats.Thresholds()
		gauge(thresholdsEnabled, int64(v.Enabled))
		count(thresholdsChecked, v.Checked)
		count(thresholdsSkipped, v.Skipped)
		send(thresholdsLag, prometheus.GaugeValue, v.Behind.Seconds())
		for condition, n := range v.Reached {
			count(violationsReached, n, condition)
		}
		count(violationChanges, v.Changes)
		count(violationsTold, v.Published)
	}
	if s.stats.Notifications != nil {
		v := s.stats.Notifications()
		for _, a := range v.Attempts {
			count(deliveriesMade, a.Times, string(a.Kind), a.Result)
		}
		gauge(deliveriesWaiting, int64(v.Waiting))
		gauge(deliveriesDead, int64(v.Dead))
		gauge(receiversOpen, int64(v.Open))
	}
	if s.stats.Conns != nil {
		v := s.stats.Conns()
		gauge(httpConns, v.Open)
		count(httpRefused, v.Refused)
	}
	if s.stats.TLS != nil {
		v := s.stats.TLS()
		moment(tlsNotAfter, v.NotAfter)
		count(tlsLoaded, v.Loaded)
		count(tlsFailed, v.Failed)
		gauge(tlsStale, one(v.Stale))
	}
}

func one(b bool) int64 {
	if b {
		return 1
	}
	return 0
}
