package notify

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"example.org/odometer"
)

// Prometheus Alertmanager takes lists of alerts at POST /api/v2/alerts
// (https://github.com/prometheus/alertmanager/blob/main/api/v2/openapi.yaml). An alert is
// known by its labels. It fires until its end, which is a few minutes from now and is put
// off by telling it again, as Prometheus does: where this server is gone, it ends.

const (
	// tellEvery is how often an Alertmanager is told again what is open, and alertLife
	// how long it takes that for true: as Prometheus has it, four times as long.
	tellEvery = time.Minute
	alertLife = 4 * tellEvery
	// alertsMost bounds the alerts of one request, some 300 KiB.
	alertsMost = digestMost
)

// alert is a postableAlert of the API.
type alert struct {
	Labels       map[string]string `json:"labels"`
	Annotations  map[string]string `json:"annotations"`
	StartsAt     string            `json:"startsAt"`
	EndsAt       string            `json:"endsAt"`
	GeneratorURL string            `json:"generatorURL,omitempty"`
}

// alertOf returns a violation as an alert that fires, or has ended.
func alertOf(v *odometer.Violation, now time.Time) alert {
	a := alert{
		Labels: map[string]string{
			"alertname": "OdometerThreshold", "severity": v.Level, "threshold": v.Name, "threshold_id": string(v.Threshold),
			"violation": string(v.ID), "resource": string(v.Resource), "condition": string(v.Condition),
			"instance": string(v.Instance), "user": string(v.Owner.User), "org": string(v.Owner.Org),
		},
		Annotations: map[string]string{"summary": v.Text(), "value": v.Unit.Amount(v.Value), "limit": v.Unit.Amount(v.Limit)},
		StartsAt:    time.UnixMicro(v.Crossed).UTC().Format(time.RFC3339Nano),
		EndsAt:      now.Add(alertLife).UTC().Format(time.RFC3339Nano),
	}
	if v.About != "" {
		a.Annotations["description"] = v.About
	}
	for name, value := range a.Labels {
		if value == "" { // a label without a value is none
			delete(a.Labels, name)
		}
	}
	if v.Standing != odometer.StandingOpen {
		a.EndsAt = time.UnixMicro(max(v.Changed, v.Crossed)).UTC().Format(time.RFC3339Nano)
	}
	return a
}

// alertsURL is where an Alertmanager takes alerts: its URL is that of the server, with or
// without a path before.
func alertsURL(base string) (string, error) {
	u, err := url.Parse(base)
	if err != nil {
		return "", fmt.Errorf("its URL is none")
	}
	if !strings.HasSuffix(u.Path, "/api/v2/alerts") {
		u = u.JoinPath("api/v2/alerts")
	}
	return u.String(), nil
}

func (n *Notifier) sendAlerts(ctx context.Context, j *job, list []odometer.Violation, r *result) error {
	alerts := make([]alert, len(list))
	for i := range list {
		alerts[i] = alertOf(&list[i], r.attempt.At)
	}
	if j.kind == "" {
		alerts = []alert{{
			Labels:      map[string]string{"alertname": "OdometerTest", "severity": "none", "channel": string(j.channel.ID)},
			Annotations: map[string]string{"summary": headline(j, nil)},
			StartsAt:    r.attempt.At.Format(time.RFC3339Nano), EndsAt: r.attempt.At.Add(time.Second).Format(time.RFC3339Nano),
		}}
	}
	return n.postAlerts(ctx, j, alerts, r)
}

func (n *Notifier) postAlerts(ctx context.Context, j *job, alerts []alert, r *result) error {
	to, err := alertsURL(j.url)
	if err != nil {
		return err
	}
	body, err := json.Marshal(alerts)
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {odometer.ContentJSON}}
	if j.bearer != "" {
		header.Set("Authorization", "Bearer "+j.bearer)
	}
	return n.post(ctx, to, header, body, r)
}

// retell tells each Alertmanager again what is open, where that is due, and returns when
// it is due next. Nothing of it is on record: what is lost is told in a minute. While it
// goes on no delivery to the channel does, so that what has ended is told last.
func (n *Notifier) retell(ctx, flights context.Context, now int64) time.Time {
	at := moment(now)
	if !n.alerts {
		return time.Time{}
	}
	if at.Before(n.retold) {
		return n.retold
	}
	n.retold = at.Add(tellEvery)
	list, err := channels(ctx, n.db, now, `WHERE kind = 'alertmanager' AND enabled = 1 AND EXISTS (SELECT 1 FROM notify_open o WHERE o.channel = notify_channels.id)`)
	if err != nil {
		n.logger.Warn("Alertmanagers are not told again what is open", "err", err)
		return n.retold
	}
	n.alerts = len(list) > 0
	for i := range list {
		c := &list[i]
		n.mu.Lock()
		e := n.endpointOf(c)
		busy := len(e.flying) > 0
		if most, _ := e.may(at); most <= 0 || busy { // it will be told in a minute
			n.mu.Unlock()
			continue
		}
		e.telling = true
		n.mu.Unlock()
		n.flight.Go(func() {
			defer n.poke()
			defer func() {
				n.mu.Lock()
				defer n.mu.Unlock()
				e.telling = false
			}()
			if err := n.retellOne(flights, c, at); err != nil && flights.Err() == nil {
				n.logger.Warn("an Alertmanager was not told again what is open", "channel", c.ID, "err", reason(err))
			}
		})
	}
	return n.retold
}

func (n *Notifier) retellOne(ctx context.Context, c *odometer.Channel, at time.Time) error {
	after := ""
	for {
		rows, err := n.db.QueryContext(ctx, `SELECT body FROM notify_open WHERE channel = ? AND violation > ? ORDER BY violation LIMIT ?`, string(c.ID), after, alertsMost)
		if err != nil {
			return err
		}
		bodies, err := texts(rows)
		if err != nil || len(bodies) == 0 {
			return err
		}
		list, err := violations(strings.Join(bodies, "\n"))
		if err != nil {
			return err
		}
		alerts := make([]alert, len(list))
		for i := range list {
			alerts[i], after = alertOf(&list[i], at), string(list[i].ID)
		}
		j := &job{channel: *c, url: c.URL}
		bearer, err := n.seal.secrets(ctx, n.db, c.ID, purposeBearer, n.now())
		if err != nil {
			return err
		}
		if len(bearer) > 0 {
			j.bearer = bearer[0]
		}
		within, cancel := context.WithTimeout(ctx, attemptWithin)
		var r result
		err = n.postAlerts(within, j, alerts, &r)
		cancel()
		if err != nil {
			return err
		}
	}
}
