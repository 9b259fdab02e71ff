package notify

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"example.org/odometer"
	"example.org/odometer/ledger"
	"example.org/odometer/threshold"
)

// plant is a ledger with thresholds and notifications that run, in one file.
type plant struct {
	t          *testing.T
	path       string
	ledger     *ledger.Ledger
	thresholds *threshold.Thresholds
	notifier   *Notifier
	stop       func()
}

// startPlant starts one so long from now that what was claimed or failed before is due.
func startPlant(t *testing.T, path string, later time.Duration) *plant {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	p := &plant{t: t, path: path}
	var err error
	if p.ledger, err = ledger.Open(ctx, ledger.Options{Path: path}); err != nil {
		t.Fatal(err)
	}
	if p.thresholds, err = threshold.Open(ctx, threshold.Options{Path: path, Ledger: p.ledger, Owns: p.ledger.Owns}); err != nil {
		t.Fatal(err)
	}
	p.notifier, err = Open(ctx, Options{
		Path: path, Key: make([]byte, KeyBytes), Changes: p.thresholds, Entries: p.ledger, Owns: p.ledger.Owns, Allow: loopback,
		Clock: func() time.Time { return time.Now().Add(later) },
	})
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 2)
	go func() { done <- p.thresholds.Run(ctx) }()
	go func() { done <- p.notifier.Run(ctx) }()
	p.stop = func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		for _, err := range []error{p.notifier.Close(), p.thresholds.Close(), p.ledger.Close()} {
			if err != nil {
				t.Error(err)
			}
		}
		p.stop = func() {}
	}
	t.Cleanup(func() { p.stop() })
	return p
}

// use books the nth 30 s of an instance, with 20 minutes of processor time. It may be
// repeated.
func (p *plant) use(instance odometer.InstanceID, began int64, n int) {
	p.t.Helper()
	at := began + int64(n)*30
	_, _, err := p.ledger.Commit(p.t.Context(), []odometer.Frame{{Agent: "billing", First: 1, Last: 1, Records: []odometer.Record{{First: 1, Position: 1, Event: &odometer.Event{
		Version: odometer.Version10, Instance: instance, Owner: odometer.Owner{User: "ada", Org: "acme"}, Timestamp: at + 30, Period: odometer.Period{Start: at, End: at + 30},
		Metrics: odometer.Metrics{CPUSeconds: 1200, MemoryGB: 1, StorageGB: 10, NetworkEgressMB: 0.25},
	}}}}})
	if err != nil {
		p.t.Fatal(err)
	}
}

func (p *plant) await(what string, is func() bool) {
	p.t.Helper()
	for range 3000 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	p.t.Fatalf("waited for long that %s: %+v, %+v", what, p.thresholds.Stats(), p.notifier.Stats())
}

// changes are the ids of the changes of violations, as events, in order.
func (p *plant) changes() (ids []string) {
	p.t.Helper()
	list, err := p.thresholds.ChangesAfter(p.t.Context(), 0, 10_000)
	if err != nil {
		p.t.Fatal(err)
	}
	for i := range list {
		ids = append(ids, list[i].ChangeID())
	}
	return ids
}

func (p *plant) channels() (list []odometer.Channel) {
	p.t.Helper()
	list, err := p.notifier.List(p.t.Context(), admin.Caller, odometer.ChannelQuery{})
	if err != nil {
		p.t.Fatal(err)
	}
	return list
}

// TestARestoredLedgerTellsUnderTheSameIDs: a backup that is made while thresholds and
// deliveries go on has thresholds, violations, channels, secrets and what waits. Restored
// elsewhere it goes on with them: what was told since is told again under the same
// webhook-ids, what waited is told, and nothing is lost.
func TestARestoredLedgerTellsUnderTheSameIDs(t *testing.T) {
	p := startPlant(t, filepath.Join(t.TempDir(), "ledger.db"), 0)
	ctx := t.Context()
	answers, dead := newReceiver(t, nil), newReceiver(t, status(http.StatusInternalServerError))
	var hooks []odometer.ChannelID
	secrets := map[odometer.ChannelID]string{}
	for _, r := range []*receiver{answers, dead} {
		c, secret, err := p.notifier.Create(ctx, admin, odometer.Channel{
			Name: "of " + r.URL, Kind: odometer.ChannelWebhook, URL: r.URL, Events: []odometer.EventKind{odometer.EventViolation}, Enabled: true,
		}, Secrets{}, odometer.Once{})
		if err != nil {
			t.Fatal(err)
		}
		hooks, secrets[c.ID] = append(hooks, c.ID), secret
	}
	entries := newReceiver(t, nil)
	if _, _, err := p.notifier.Create(ctx, admin, odometer.Channel{
		Name: "entries", Kind: odometer.ChannelWebhook, URL: entries.URL, Events: []odometer.EventKind{odometer.EventUsage}, Enabled: true,
	}, Secrets{}, odometer.Once{}); err != nil {
		t.Fatal(err)
	}
	made, err := p.thresholds.Create(ctx, admin, odometer.Threshold{
		Name: "hours", Enabled: true, Scope: odometer.Scoped{All: true}, Resource: odometer.ResourceCPU, Condition: odometer.ConditionBudget, Unit: odometer.UnitHours, Every: odometer.CycleMonth,
		Levels: []odometer.ThresholdLevel{{Name: "1", Value: 1}, {Name: "2", Value: 2}}, Action: odometer.ActionNotify, Channels: hooks,
	}, odometer.Once{})
	if err != nil {
		t.Fatal(err)
	}
	p.await("it is watched", func() bool { return p.thresholds.Stats().Thresholds == 1 })

	const instances, events = 8, 8 // 2 h 40 min each: both levels
	began := time.Now().Truncate(time.Hour).Unix()
	story := func(p *plant, from, to int) {
		for n := from; n < to; n++ {
			for i := range instances {
				p.use(odometer.InstanceID(fmt.Sprint("vm-", i)), began, n)
			}
		}
	}
	copied := filepath.Join(t.TempDir(), "copy")
	story(p, 0, 4)
	p.await("some is told", func() bool {
		return len(answers.requests()) > 0 && len(dead.requests()) > 0 && len(entries.requests()) > 0
	})
	backedUp := make(chan error, 1)
	go func() {
		_, err := ledger.Backup(ctx, p.path, copied)
		backedUp <- err
	}()
	story(p, 4, events)
	if err := <-backedUp; err != nil {
		t.Fatal(err)
	}
	p.await("all is told", func() bool {
		return len(p.changes()) == 2*instances && len(answers.events(t)) == 2*instances && len(told(t, entries, "vm-1")) == events
	})
	before, channels := p.changes(), p.channels()
	heard := len(answers.requests())
	p.stop()

	back := filepath.Join(t.TempDir(), "ledger.db")
	if _, err := ledger.Restore(ctx, copied, back, ledger.RestoreOptions{}); err != nil {
		t.Fatal(err)
	}
	dead.set(nil)
	p = startPlant(t, back, time.Minute)
	if got := p.channels(); len(got) != 3 || !slices.EqualFunc(got, channels, func(a, b odometer.Channel) bool {
		return a.ID == b.ID && a.Enabled && a.Secrets == 1 && a.Problem == ""
	}) {
		t.Errorf("got the channels %+v, want %+v", got, channels)
	}
	if got, err := p.thresholds.Get(ctx, admin.Caller, made.ID); err != nil || got.Name != "hours" || got.Version != made.Version {
		t.Errorf("got the threshold %+v, %v", got, err)
	}
	kept := p.changes()
	if len(kept) == 0 {
		t.Error("no violation is in the backup, want those that were told before it")
	}
	story(p, 0, events) // agents offer again what they have
	p.await("all is told again", func() bool {
		return len(p.changes()) == 2*instances && len(dead.events(t)) == 2*instances && p.waiting() == 0
	})
	got := p.changes()
	slices.Sort(before)
	slices.Sort(got)
	if !slices.Equal(got, before) {
		t.Errorf("got the changes %v, want %v", got, before)
	}
	open, err := p.thresholds.Violations(ctx, odometer.ViolationQuery{Standing: odometer.StandingOpen, Limit: 100})
	if err != nil || len(open) != 2*instances {
		t.Errorf("got %d open violations, %v, want %d", len(open), err, 2*instances)
	}
	answers.events(t) // each under one id, in both lives
	if again := len(answers.requests()) - heard; again < 2*instances-len(kept) || again > 2*instances {
		t.Errorf("got %d messages again, want what was told since the backup, of %d changes of which %d were in it", again, 2*instances, len(kept))
	}
	for i, r := range []*receiver{answers, dead} {
		hook, err := standardwebhooks.NewWebhook(secrets[hooks[i]])
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range r.requests() {
			if err := hook.Verify([]byte(g.body), g.header); err != nil {
				t.Fatalf("got %s, %v, want it signed by the secret of before", g.body, err)
			}
		}
	}
	ids := map[string]int{}
	for _, g := range entries.requests() {
		ids[g.header.Get("webhook-id")]++
	}
	if got := len(told(t, entries, "vm-1")); len(entries.events(t)) != len(ids) || got < events {
		t.Errorf("got %d entries under %d ids, of vm-1 %d, want each under its own", len(entries.events(t)), len(ids), got)
	}
}

// waiting counts the deliveries that are not done.
func (p *plant) waiting() (n int) {
	p.t.Helper()
	if err := p.notifier.db.QueryRow(`SELECT count(*) FROM notify_deliveries WHERE state = 'waiting'`).Scan(&n); err != nil {
		p.t.Fatal(err)
	}
	return n
}

// TestAChangeHasOneID: a change that is read again is in the outbox already, and one that
// came to something else, as a restored ledger may find, is another message.
func TestAChangeHasOneID(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, nil)
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	other := newReceiver(t, nil)
	w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: other.URL})
	v := violation("vm-1", 1)
	w.log.add(v)
	w.rest()
	w.log.add(v)
	w.rest()
	if got := len(r.requests()); got != 1 {
		t.Errorf("read again: got %d messages, want one", got)
	}
	v.Standing = odometer.StandingRetracted
	w.log.add(v)
	v.Limit++
	w.log.add(v)
	w.rest()
	ids := map[string]bool{}
	for _, g := range append(r.requests(), other.requests()...) {
		ids[g.header.Get("webhook-id")] = true
	}
	if len(r.requests()) != 3 || len(other.requests()) != 3 || len(ids) != 6 {
		t.Errorf("got %d and %d messages under %d ids, want each of 3 to each of 2 under its own", len(r.requests()), len(other.requests()), len(ids))
	}
	if got := w.deliveries(c.ID, odometer.DeliveryDelivered); len(got) != 3 || len(got[0].ID) != len("dlv_")+26 {
		t.Errorf("got %+v, want 3 with ids of 26 characters", got)
	}
}
