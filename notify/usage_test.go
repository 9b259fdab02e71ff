package notify

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// book has a ledger record n more events of an instance.
type book struct {
	*ledger.Ledger
	t    *testing.T
	ends map[odometer.InstanceID]int64
}

func newBook(t *testing.T, path string) *book {
	t.Helper()
	l, err := ledger.Open(t.Context(), ledger.Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &book{l, t, map[odometer.InstanceID]int64{}}
}

func (b *book) record(instance odometer.InstanceID, org odometer.OrgID, n int) {
	b.t.Helper()
	fr := odometer.Frame{Agent: "billing", First: 1, Last: uint64(n)}
	for i := range n {
		start := max(b.ends[instance], time.Now().Unix()-86400)
		b.ends[instance] = start + 30
		fr.Records = append(fr.Records, odometer.Record{First: uint64(i + 1), Position: uint64(i + 1), Event: &odometer.Event{
			Version: odometer.Version10, Instance: instance, Owner: odometer.Owner{User: "ada", Org: org}, Timestamp: start + 30, Period: odometer.Period{Start: start, End: start + 30},
			Metrics: odometer.Metrics{CPUSeconds: 3, MemoryGB: 1, StorageGB: 10, NetworkEgressMB: 0.25},
		}})
	}
	results, _, err := b.Commit(b.t.Context(), []odometer.Frame{fr})
	if err != nil || len(results[0]) != n || results[0][0].Outcome != odometer.Recorded {
		b.t.Fatalf("got %+v, %v, want %d recorded", results, err, n)
	}
}

// told are the entries of an instance that came to a receiver, each once, in order.
func told(t *testing.T, r *receiver, instance string) (ids []string) {
	t.Helper()
	for _, g := range r.requests() {
		var e struct {
			ID, Type, Subject string
			Data              struct {
				EntryID string `json:"entry_id"`
			}
		}
		if err := json.Unmarshal([]byte(g.body), &e); err != nil || e.Type != odometer.CloudEventType {
			t.Errorf("got %s, %v, want an entry as a CloudEvent", g.body, err)
		}
		if e.Subject == instance && !slices.Contains(ids, e.ID) {
			ids = append(ids, e.ID)
		}
	}
	return ids
}

// TestWebhooksOfUsage: a webhook is told each entry from its creation on that its holder
// may see, in order; one whose receiver is dead costs a bounded number of rows and is told
// everything from where it was, after a restart too.
func TestWebhooksOfUsage(t *testing.T) {
	w := newOffice(t, Options{})
	b := newBook(t, w.o.Path)
	w.o.Entries, w.o.Owns = b.Ledger, b.Owns
	w.restart()
	b.record("vm-1", "acme", 3) // before there is a webhook
	all, dead := newReceiver(t, nil), newReceiver(t, status(http.StatusInternalServerError))
	usage := []odometer.EventKind{odometer.EventUsage}
	w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: all.URL, Events: usage})
	acme, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: dead.URL, Events: usage, Holder: odometer.Bound{Org: "acme"}})
	const each = 50
	for range 6 {
		b.record("vm-1", "acme", each)
		b.record("vm-2", "zeta", each)
		w.rest()
		if waiting := len(w.deliveries(acme.ID, odometer.DeliveryWaiting)); waiting > usageWaiting {
			t.Fatalf("got %d deliveries that wait for a dead receiver, want %d at most", waiting, usageWaiting)
		}
		w.goOn(6 * time.Hour)
	}
	if got := len(told(t, all, "vm-1")) + len(told(t, all, "vm-2")); got != 12*each {
		t.Errorf("the operator's webhook was told %d entries, want %d", got, 12*each)
	}
	if got := w.deliveries(acme.ID, odometer.DeliveryDead); len(got) != 0 {
		t.Errorf("got %d given up within three days, want none", len(got))
	}
	w.restart()
	before := len(dead.requests())
	dead.set(nil)
	w.goOn(2 * retryMost)
	got, want := told(t, dead, "vm-1"), told(t, all, "vm-1")
	if !slices.Equal(got, want) || len(want) != 6*each {
		t.Errorf("after a day and a half: got %d entries, want %d in the same order", len(got), len(want))
	}
	if n := len(dead.requests()) - before; n != 6*each {
		t.Errorf("got %d requests, want one each", n)
	}
	if got := told(t, dead, "vm-2"); len(got) != 0 {
		t.Errorf("got %d entries of another organisation", len(got))
	}
	if got := fmt.Sprint(w.Stats().Attempts[Count{odometer.ChannelWebhook, true}]); got != "300" {
		t.Errorf("got %s attempts that went well since the restart, want 300", got)
	}
}

// TestAPlaceThatIsUnknown: a webhook whose cursor the ledger does not know goes on from
// now, and is no reason for others to wait.
func TestAPlaceThatIsUnknown(t *testing.T) {
	w := newOffice(t, Options{})
	b := newBook(t, w.o.Path)
	w.o.Entries, w.o.Owns = b.Ledger, b.Owns
	w.restart()
	r, other := newReceiver(t, nil), newReceiver(t, nil)
	usage := []odometer.EventKind{odometer.EventUsage}
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL, Events: usage})
	w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: other.URL, Events: usage})
	if _, err := w.db.Exec(`UPDATE notify_channels SET after = 'nowhere' WHERE id = ?`, string(c.ID)); err != nil {
		t.Fatal(err)
	}
	b.record("vm-1", "acme", 2)
	w.rest()
	b.record("vm-1", "acme", 3)
	w.rest()
	if got, all := told(t, r, "vm-1"), told(t, other, "vm-1"); len(got) != 3 || len(all) != 5 {
		t.Errorf("got %d entries of 3, and %d of 5 at the other", len(got), len(all))
	}
	if strings.Count(w.texts.String(), "a webhook's place in the ledger is unknown") != 1 {
		t.Errorf("got the log %q, want it said once", w.texts.String())
	}
	w.missed(c, "its place in the ledger was unknown: of what was booked before 2026-11-27T12:00:00Z it may not have been told all")
}

// missed wants a webhook of several, and no other, to say what of the ledger it was not
// told, until it is changed.
func (w *office) missed(c odometer.Channel, problem string) {
	w.t.Helper()
	list, err := w.List(w.t.Context(), admin.Caller, odometer.ChannelQuery{})
	if err != nil || len(list) < 2 {
		w.t.Fatalf("got %d channels, %v", len(list), err)
	}
	for _, is := range list {
		if is.ID != c.ID && is.Problem != "" {
			w.t.Errorf("%s has the problem %q, want none", is.ID, is.Problem)
		}
		if is.ID == c.ID {
			if is.Problem != problem || !is.Enabled || is.Version <= c.Version {
				w.t.Errorf("got %+v, want it enabled, of another version, with the problem %q", is, problem)
			}
			c = is
		}
	}
	count := func() Stats {
		w.t.Helper()
		if err := w.count(w.t.Context()); err != nil {
			w.t.Fatal(err)
		}
		return w.Stats()
	}
	if got := count(); got.Missed != 1 || got.Disabled != 0 {
		w.t.Errorf("got %+v, want one that missed something", got)
	}
	is, err := w.Update(w.t.Context(), admin, c, c.Version, nil)
	if err != nil || is.Problem != "" {
		w.t.Errorf("changed: got the problem %q, %v, want none", is.Problem, err)
	}
	if got := count(); got.Missed != 0 {
		w.t.Errorf("changed: got %+v, want none that missed something", got)
	}
}

// prune removes the whole journal but for what is kept of each partition, once a feed has
// published it.
func (b *book) prune() int64 {
	b.t.Helper()
	for {
		entries, at, err := b.FeedAfter(b.t.Context(), "usage", 100)
		if err == nil && len(entries) > 0 {
			err = b.FeedAdvance(b.t.Context(), "usage", at, "stream-1", 1, 1)
		}
		if err != nil {
			b.t.Fatal(err)
		}
		if len(entries) == 0 {
			break
		}
	}
	r, err := b.Prune(b.t.Context(), ledger.PruneOptions{Before: time.Now().AddDate(0, 0, 2), Key: ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))})
	if err != nil {
		b.t.Fatal(err)
	}
	return r.Records
}

// TestPrunedBeforeAWebhookWasTold: a webhook that was disabled until records were pruned
// is told what is left, in order, and says that this is not all; one that was told before
// says nothing, and neither does the other again. What the ledger has in memory it is told
// nevertheless.
func TestPrunedBeforeAWebhookWasTold(t *testing.T) {
	for name, restarted := range map[string]bool{"from memory": false, "after a restart": true} {
		t.Run(name, func(t *testing.T) { prunedBeforeTold(t, restarted) })
	}
}

func prunedBeforeTold(t *testing.T, restarted bool) {
	w := newOffice(t, Options{})
	b := newBook(t, w.o.Path)
	w.o.Entries, w.o.Owns = b.Ledger, b.Owns
	w.restart()
	r, other := newReceiver(t, nil), newReceiver(t, nil)
	usage := []odometer.EventKind{odometer.EventUsage}
	c, _ := w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL, Events: usage})
	w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: other.URL, Events: usage})
	set := func(enabled bool) {
		t.Helper()
		var err error
		c.Enabled = enabled
		if c, err = w.Update(t.Context(), admin, c, c.Version, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.record("vm-1", "acme", 2)
	w.rest()
	set(false)
	for range 3 {
		b.record("vm-1", "acme", 2)
	}
	w.rest()
	if n := b.prune(); n == 0 {
		t.Fatal("nothing was pruned")
	}
	if restarted {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := ledger.Open(t.Context(), ledger.Options{Path: w.o.Path})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { again.Close() })
		b.Ledger = again
		w.o.Entries, w.o.Owns = again, again.Owns
		w.restart()
	}
	set(true)
	w.rest()
	b.record("vm-1", "acme", 1)
	w.rest()
	w.after(2 * usageKept)
	w.rest()
	got, all := told(t, r, "vm-1"), told(t, other, "vm-1")
	if !restarted {
		if len(all) != 9 || !slices.Equal(got, all) || strings.Contains(w.texts.String(), "pruned") {
			t.Errorf("got %v of %v, want all, and nothing said", got, all)
		}
		return
	}
	if len(all) != 9 || !slices.Equal(got, append(slices.Clone(all[:2]), all[6:]...)) {
		t.Errorf("got %v of %v, want the first two and the last three", got, all)
	}
	if strings.Count(w.texts.String(), "pruned before a webhook was told of them") != 1 || !strings.Contains(w.texts.String(), "records=2") {
		t.Errorf("got the log %q, want 2 records in it, once", w.texts.String())
	}
	w.missed(c, "the ledger's journal was pruned before it was told all of it, as was found at 2026-11-27T12:00:00Z")
}

// TestANumberThatIsNone stops nobody from being told.
func TestANumberThatIsNone(t *testing.T) {
	w := newOffice(t, Options{})
	r := newReceiver(t, nil)
	w.create(odometer.Channel{Kind: odometer.ChannelWebhook, URL: r.URL})
	v := violation("vm-1", 1)
	v.Before, v.Value, v.Limit = math.NaN(), math.Inf(1), math.Inf(-1)
	w.log.add(v)
	w.rest()
	if got := r.events(t); len(got) != 1 {
		t.Errorf("got %v, want the change", got)
	}
}
