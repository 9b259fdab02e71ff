package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// biller is a billing system that knows only docs/billing.md. What it has is
// stored with its place in one step, so that it may be killed at any message.
type biller struct {
	last    map[string]uint64  // number, by partition
	totals  map[string]amounts // by owner
	counted []counted          // what the totals are made of
	voided  int
}

// counted is an entry in the totals.
type counted struct {
	partition string
	ordinal   uint64
	owner     string
	usage     amounts
}

func newBiller() *biller { return &biller{last: map[string]uint64{}, totals: map[string]amounts{}} }

func (b *biller) clone() *biller {
	c := newBiller()
	for k, v := range b.last {
		c.last[k] = v
	}
	for k, v := range b.totals {
		c.totals[k] = amounts{}
		for q, n := range v {
			c.totals[k][q] = n
		}
	}
	c.counted, c.voided = append(c.counted, b.counted...), b.voided
	return c
}

func (b *biller) add(e counted, sign int64) {
	if b.totals[e.owner] == nil {
		b.totals[e.owner] = amounts{}
	}
	for q, n := range e.usage {
		b.totals[e.owner][q] += sign * n
	}
}

func (b *biller) take(data []byte) error {
	var e struct {
		EntryID string                     `json:"entry_id"`
		User    string                     `json:"user_id"`
		Org     *string                    `json:"org_id"`
		Usage   map[string]json.RawMessage `json:"usage"`
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return err
	}
	partition, number, ok := strings.Cut(e.EntryID, "-")
	n, err := strconv.ParseUint(number, 10, 64)
	if !ok || err != nil {
		return fmt.Errorf("entry id %q: %w", e.EntryID, err)
	}
	const size = 100_000_000_000
	last := b.last[partition]
	switch {
	case n <= last:
		return nil
	case n/size > last/size: // another generation: what was counted from here on is void
		kept := b.counted[:0]
		for _, c := range b.counted {
			if c.partition == partition && c.ordinal >= n%size {
				b.add(c, -1)
				b.voided++
			} else {
				kept = append(kept, c)
			}
		}
		b.counted = kept
		last = min(last%size, n%size-1)
	}
	if n%size != last%size+1 {
		return fmt.Errorf("entry %s after %d: something is missing", e.EntryID, last)
	}
	c := counted{partition, n % size, "/" + e.User, amounts{}}
	if e.Org != nil {
		c.owner = *e.Org + c.owner
	}
	for q, raw := range e.Usage {
		if c.usage[q], err = strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 64); err != nil {
			return err
		}
	}
	b.add(c, 1)
	b.counted = append(b.counted, c)
	b.last[partition] = n
	return nil
}

var errKilled = errors.New("killed")

// consume takes messages with a durable consumer until none come for a while
// or it is killed after some, losing what it did since its last store.
func (b *biller) consume(t *testing.T, s *site, killAfter int) error {
	nc, err := nats.Connect("nats://"+s.nats, nats.Token(s.token()))
	if err != nil {
		return err
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return err
	}
	cons, err := js.CreateOrUpdateConsumer(t.Context(), "USAGE", jetstream.ConsumerConfig{
		Durable: "billing", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "odometer.usage.>", AckWait: time.Second, MaxAckPending: 1,
	})
	if err != nil {
		return err
	}
	for n := 0; ; {
		batch, err := cons.Fetch(100, jetstream.FetchMaxWait(3*time.Second))
		if err != nil {
			return err
		}
		got := 0
		for m := range batch.Messages() {
			if n++; n == killAfter {
				return errKilled // before the message is acknowledged
			}
			stored := b.clone()
			if err := stored.take(m.Data()); err != nil {
				return err
			}
			*b = *stored
			if err := m.Ack(); err != nil {
				return err
			}
			got++
		}
		if got == 0 {
			return batch.Error()
		}
	}
}

// TestBillingConsumer rebuilds the ledger's totals per owner from the USAGE
// topic, to the unit, with a consumer that is killed and started again, while
// entries are reversed.
func TestBillingConsumer(t *testing.T) {
	path, _ := load(t, "bill", 3, 10, 120)
	s := newSite(t)
	server := s.serve("--no-agent")
	run(t, "replay", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"), "--data-dir", filepath.Join(t.TempDir(), "replay"), path)
	b := newBiller()
	for i, killAfter := range []int{100, 333, 0} {
		var page struct {
			Events []struct {
				Entry string `json:"entry_id"`
			} `json:"events"`
		}
		s.get(fmt.Sprint("/api/v1/events?limit=", 50*i+10), &page)
		for _, e := range page.Events[50*i:] {
			run(t, "event", "reverse", e.Entry, "--cause", "a test", "--data-dir", s.dir)
		}
		err := b.consume(t, s, killAfter)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	b.agrees(t, s)
	server.stop()
	if n := s.audit()["corrections"]; fmt.Sprint(n) != "30" {
		t.Errorf("corrections: got %v, want 30", n)
	}
}

// agrees compares the totals with the ledger's, owner by owner.
func (b *biller) agrees(t *testing.T, s *site) {
	t.Helper()
	ledger := s.usage("user,org", func(row map[string]any) string {
		if row["org"] == nil {
			return "/" + fmt.Sprint(row["user"])
		}
		return fmt.Sprint(row["org"]) + "/" + fmt.Sprint(row["user"])
	})
	if len(ledger) == 0 || len(ledger) != len(b.totals) {
		t.Errorf("owners: the ledger has %d, billing has %d", len(ledger), len(b.totals))
	}
	for who, want := range ledger {
		for _, q := range []string{"cpu_us", "memory_mib_s", "storage_mib_s", "network_egress_bytes", "network_ingress_bytes"} {
			if got := b.totals[who][q]; got != want[q] || want[q] == 0 {
				t.Errorf("%s of %s: billing has %d, the ledger has %d", q, who, got, want[q])
			}
		}
	}
}
