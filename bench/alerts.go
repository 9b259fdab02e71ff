package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"example.org/odometer"
	"example.org/odometer/notify"
	"example.org/odometer/queue"
	"example.org/odometer/threshold"
)

// operator makes what figures about thresholds need.
var operator = odometer.Actor{Caller: odometer.Caller{Name: "bench", Scopes: []odometer.Scope{odometer.ScopeAdmin}}}

// alertLatency measures how long it takes from the moment in which an event that
// reaches a threshold is handed to the queue until its webhook has come: ten such events
// a second among a number of others, each of hosts of 100 machines. The aim is less than
// a second at the 99th percentile; nothing bare does the same, so that there is no limit.
func alertLatency(b *bench) error {
	for _, load := range []struct {
		name   string
		events int // a second
	}{{"alert_1k", 1000}, {"alert_10k", 10_000}} {
		took, sent, err := alertsUnder(b, load.events)
		if err != nil {
			return err
		}
		slices.Sort(took)
		for _, q := range []struct {
			name string
			part int
		}{{"_p50", 50}, {"_p99", 99}} {
			b.cost(load.name+q.name, took[(len(took)-1)*q.part/100].Seconds()*1000, "ms", 0)
		}
		b.note("%s: of %d webhooks, while %d events a second were sent", load.name, len(took), sent)
	}
	return nil
}

// hooked is what the webhook is sent to: when it was told of which machine.
type hooked struct {
	mu sync.Mutex
	at map[odometer.InstanceID]time.Time
}

func (h *hooked) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	now := time.Now()
	var event struct{ Subject odometer.InstanceID }
	if json.NewDecoder(r.Body).Decode(&event) != nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.at[event.Subject].IsZero() {
		h.at[event.Subject] = now
	}
}

// alertsUnder returns how long each webhook took, while events came so fast, and how
// fast they really did.
func alertsUnder(b *bench, rate int) (took []time.Duration, sent int, err error) {
	seconds, markers := 30, 10
	if b.quick {
		seconds = 3
	}
	dir := b.place("alerts")
	p, err := newPipeline(dir, ingestOptions{})
	if err != nil {
		return nil, 0, err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	h := &hooked{at: map[odometer.InstanceID]time.Time{}}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, 0, err
	}
	receiver := &http.Server{Handler: h}
	go receiver.Serve(listener) // until it is closed
	defer receiver.Close()
	end, err := alerting(ctx, dir+"/ledger.db", p, "http://"+listener.Addr().String())
	if err != nil {
		return nil, 0, err
	}

	began := map[odometer.InstanceID]time.Time{}
	f := newHosts(rate, false)
	var frames []packedFrame
	begin, tick := time.Now(), time.NewTicker(time.Second/time.Duration(markers))
	defer tick.Stop()
	for n := range seconds * markers {
		<-tick.C
		if n%markers == 0 {
			if frames, _, err = f.packed(1); err != nil {
				return nil, 0, err
			}
		}
		// A tenth of the hosts, and behind them the event that is to be told.
		part := frames[n%markers*len(frames)/markers : (n%markers+1)*len(frames)/markers]
		marker, id, err := markerFrame(n)
		if err != nil {
			return nil, 0, err
		}
		for _, frame := range part {
			if _, err := p.sender.Send(queue.IngestSubject(frame.agent), nil, frame.data); err != nil {
				return nil, 0, err
			}
		}
		began[id] = time.Now()
		if _, err := p.sender.Send(queue.IngestSubject(marker.agent), nil, marker.data); err != nil {
			return nil, 0, err
		}
	}
	sent = int(float64(seconds*rate) / time.Since(begin).Seconds())
	for wait := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		h.mu.Lock()
		n := len(h.at)
		h.mu.Unlock()
		if n == len(began) {
			break
		}
		if time.Since(wait) > time.Minute {
			return nil, 0, fmt.Errorf("%d of %d webhooks have come after a minute", n, len(began))
		}
	}
	for id, at := range began {
		took = append(took, h.at[id].Sub(at))
	}
	stop()
	return took, sent, errors.Join(end(), p.close())
}

// alerting runs thresholds and notifications beside a pipeline until ctx is done: one
// threshold, which tells one webhook.
func alerting(ctx context.Context, path string, p *pipeline, url string) (end func() error, err error) {
	t, err := threshold.Open(ctx, threshold.Options{Path: path, Ledger: p.ledger, Owns: p.ledger.Owns})
	if err != nil {
		return nil, err
	}
	n, err := notify.Open(ctx, notify.Options{
		Path: path, Key: make([]byte, notify.KeyBytes), Changes: t, Owns: p.ledger.Owns, Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	c, _, err := n.Create(ctx, operator, odometer.Channel{Name: "hook", Kind: odometer.ChannelWebhook, URL: url, Enabled: true, Events: []odometer.EventKind{odometer.EventUsage}}, notify.Secrets{}, odometer.Once{})
	if err == nil {
		_, err = t.Create(ctx, operator, odometer.Threshold{
			Name: "marked", Enabled: true, Scope: odometer.Scoped{Org: "marked"}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionPeriod, Unit: odometer.UnitSeconds,
			Levels: []odometer.ThresholdLevel{{Name: "reached", Value: 5}}, Action: odometer.ActionAlert, Channels: []odometer.ChannelID{c.ID},
		}, odometer.Once{})
	}
	if err != nil {
		return nil, errors.Join(err, n.Close(), t.Close())
	}
	var group errgroup.Group
	group.Go(func() error { return t.Run(ctx) })
	group.Go(func() error { return n.Run(ctx) })
	return func() error { return errors.Join(group.Wait(), n.Close(), t.Close()) }, nil
}

// markerFrame is the only event of a machine, which reaches the threshold.
func markerFrame(n int) (packedFrame, odometer.InstanceID, error) {
	const second = odometer.SecondMicros
	id := odometer.InstanceID(fmt.Sprintf("marked-%d", n))
	used := odometer.Usage{Known: odometer.AllKnown, Vector: odometer.Vector{odometer.CPU: 10 * second, odometer.VCPU: 30 * second, odometer.MeasuredTime: 30 * second}}
	e := &odometer.Event{
		Version: odometer.Version11, Instance: id, Agent: "marker", Owner: odometer.Owner{User: "marked", Org: "marked"},
		Epoch: odometer.NewEpoch(id, "marker", "bench", ""), EpochStart: hostsStart, FirstSequence: 1, Sequence: 1, Quality: odometer.Measured,
		Span: odometer.Span{Start: hostsStart, End: hostsStart + 30*second}, Usage: used,
		Readings: odometer.Readings{Start: odometer.Usage{Known: odometer.AllKnown}, End: used},
	}
	e.Derive(0, 0)
	at := uint64(n) + 1
	fr := odometer.Frame{Agent: "marker", Spool: "00000000000000000000000000000fff", First: at, Last: at, Records: []odometer.Record{{First: at, Position: at, Event: e}}}
	data, err := fr.Encode()
	return packedFrame{fr.Agent, data}, id, err
}
