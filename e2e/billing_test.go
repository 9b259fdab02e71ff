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
	last   map[string]uint64  // by partition
	totals map[string]amounts // by owner
}

func (b *biller) clone() *biller {
	c := &biller{last: map[string]uint64{}, totals: map[string]amounts{}}
	for k, v := range b.last {
		c.last[k] = v
	}
	for k, v := range b.totals {
		c.totals[k] = amounts{}
		for q, n := range v {
			c.totals[k][q] = n
		}
	}
	return c
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
	if n <= b.last[partition] {
		return nil
	}
	if n != b.last[partition]+1 {
		return fmt.Errorf("entry %s after %d: something is missing", e.EntryID, b.last[partition])
	}
	owner := "/" + e.User
	if e.Org != nil {
		owner = *e.Org + owner
	}
	if b.totals[owner] == nil {
		b.totals[owner] = amounts{}
	}
	for q, raw := range e.Usage {
		v, err := strconv.ParseInt(strings.Trim(string(raw), `"`), 10, 64)
		if err != nil {
			return err
		}
		b.totals[owner][q] += v
	}
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
// topic, to the unit, with a consumer that is killed and started again.
func TestBillingConsumer(t *testing.T) {
	path, _ := load(t, "bill", 3, 10, 120)
	s := newSite(t)
	server := s.serve("--no-agent")
	run(t, "replay", "--server", "nats://"+s.nats, "--token-file", filepath.Join(s.dir, "admin.token"), "--data-dir", filepath.Join(t.TempDir(), "replay"), path)
	b := &biller{last: map[string]uint64{}, totals: map[string]amounts{}}
	for _, killAfter := range []int{100, 333, 0} {
		err := b.consume(t, s, killAfter)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatal(err)
		}
	}
	owner := func(row map[string]any) string {
		if row["org"] == nil {
			return "/" + fmt.Sprint(row["user"])
		}
		return fmt.Sprint(row["org"]) + "/" + fmt.Sprint(row["user"])
	}
	ledger := s.usage("user,org", owner)
	check := func() {
		t.Helper()
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
	check()
	server.stop()
	s.audit()
}
