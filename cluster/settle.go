package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"example.org/odometer"
	"example.org/odometer/audit"
	"example.org/odometer/ledger"
	"example.org/odometer/queue"
)

// settle waits until everything is receipted, and compares the ledger with the
// truth and the topic with the ledger. ask lets it read the topic.
func settle(ctx context.Context, at *site, hosts []*host, w *witness, f *figures, progress func(string), ask func(func(context.Context, jetstream.JetStream) error) error) error {
	progress("settling")
	if err := recovered(ctx, hosts); err != nil {
		return err
	}
	f.Frames, f.Forgotten = w.acknowledged()
	for _, h := range hosts {
		st := h.stats()
		last, _ := h.positions()
		f.Again += int64(st.Emitted) - int64(last)
		f.Resends += int64(st.Resends)
		f.BreakerOpens += int64(st.BreakerOpens)
	}
	if err := compare(ctx, at.ledger, hosts, f); err != nil {
		return err
	}
	entries, _, err := at.ledger.FeedAfter(ctx, "comparison", 1<<40)
	if err != nil {
		return err
	}
	f.Entries += int64(len(entries))
	err = complete(ctx, entries, f, progress, ask)
	f.Rewinds += int64(at.rewinds + at.feed.Stats().Rewinds)
	return err
}

// compare holds the ledger to the truth: every event recorded, nothing else,
// every quantity of every instance to the unit.
func compare(ctx context.Context, l *ledger.Ledger, hosts []*host, f *figures) error {
	st, err := l.Stats(ctx)
	if err != nil {
		return err
	}
	var events int64
	truth := map[odometer.InstanceID]*instance{}
	for _, h := range hosts {
		for _, v := range h.instances {
			events += v.events
			truth[v.id] = v
		}
	}
	n := st.Counts
	f.Events += events
	f.Duplicates += n["duplicate"]
	var errs []error
	if n["recorded"] < events {
		f.Lost += events - n["recorded"]
		errs = append(errs, fmt.Errorf("lost: %d of %d events are recorded", n["recorded"], events))
	}
	if n["recorded"] > events || st.Entries != events {
		f.Doubled += st.Entries - events
		errs = append(errs, fmt.Errorf("%d events were measured, %d are recorded in %d entries", events, n["recorded"], st.Entries))
	}
	if n["covered"]+n["quarantined"]+n["held"] != 0 {
		errs = append(errs, fmt.Errorf("the ledger counts %v of events that are whole and in order", n))
	}
	if n["received"] != n["recorded"]+n["covered"]+n["duplicate"]+n["quarantined"]+n["held"] {
		errs = append(errs, fmt.Errorf("received is not the sum of the outcomes: %v", n))
	}
	rows, err := l.Usage(ctx, odometer.UsageQuery{From: 0, To: 1 << 60, GroupBy: []odometer.GroupBy{odometer.ByInstance}})
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, r := range rows {
		v := truth[r.Instance]
		if v == nil {
			errs = append(errs, fmt.Errorf("the ledger has usage of %s, which there is not", r.Instance))
			continue
		}
		delete(truth, r.Instance)
		for q, want := range v.truth.Vector {
			if got := r.Totals[q]; got != odometer.SumOf(want) {
				errs = append(errs, fmt.Errorf("%s of %s: the ledger has %v, it used %d", odometer.Quantity(q), v.id, got, want))
			}
		}
	}
	for id, v := range truth {
		if v.events > 0 {
			errs = append(errs, fmt.Errorf("the ledger has nothing of %s", id))
		}
	}
	return errors.Join(errs...)
}

// completeWithin is how long a topic that lacks entries may go without
// another one: the feed looks every ten seconds whether it was lost.
const completeWithin = 2 * time.Minute

// readWithin is how long reading the whole topic once may take.
const readWithin = 10 * time.Minute

// complete waits until the topic has every entry, as the ledger has it, and
// nothing else.
func complete(ctx context.Context, entries []odometer.Entry, f *figures, progress func(string), ask func(func(context.Context, jetstream.JetStream) error) error) error {
	want := make(map[string]*odometer.Entry, len(entries))
	for i := range entries {
		want[entries[i].ID.String()] = &entries[i]
	}
	progress("comparing the topic")
	least, deadline := len(want), time.Now().Add(completeWithin)
	for {
		missing, foreign, repeated := len(want), error(nil), 0
		err := ask(func(ctx context.Context, js jetstream.JetStream) (err error) {
			missing, repeated, foreign, err = topic(ctx, js, want)
			return err
		})
		switch {
		case foreign != nil:
			return foreign
		case err == nil && missing == 0:
			f.Repeated += int64(repeated)
			return nil
		case missing < least:
			progress(fmt.Sprintf("%d of %d entries are missing in it yet", missing, len(want)))
			least, deadline = missing, time.Now().Add(completeWithin)
		case time.Now().After(deadline):
			return fmt.Errorf("the topic lacks %d of %d entries, and no more come: %w", missing, len(want), errors.Join(err, errors.New("it is not whole")))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}

// topic reads the whole topic: how many entries are missing in it, how many
// messages are repeated, and what does not belong there.
func topic(ctx context.Context, js jetstream.JetStream, want map[string]*odometer.Entry) (missing, repeated int, foreign, err error) {
	have := make(map[string]bool, len(want))
	err = read(ctx, js, func(m jetstream.Msg) error {
		id := m.Headers().Get(jetstream.MsgIDHeader)
		e := want[id]
		switch {
		case e == nil:
			foreign = fmt.Errorf("the topic has entry %q, which the ledger has not", id)
		case !bytes.Equal(m.Data(), e.AppendJSON(nil)) || m.Subject() != queue.UsageSubject(e.Event.Owner, e.Event.Instance):
			foreign = fmt.Errorf("entry %s says something else in the topic than in the ledger: %s %s", id, m.Subject(), m.Data())
		case have[id]:
			repeated++
		default:
			have[id] = true
		}
		return foreign
	})
	return len(want) - len(have), repeated, foreign, err
}

// read calls take with every message that the topic has at that moment.
func read(ctx context.Context, js jetstream.JetStream, take func(jetstream.Msg) error) error {
	s, err := js.Stream(ctx, queue.UsageStream)
	if err != nil {
		return err
	}
	last := s.CachedInfo().State.LastSeq
	if s.CachedInfo().State.Msgs == 0 {
		return nil
	}
	c, err := s.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return err
	}
	messages, err := c.Messages(jetstream.PullMaxMessages(2000))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for {
		m, err := messages.Next(jetstream.NextMaxWait(10 * time.Second))
		if err != nil {
			return err
		}
		if err := take(m); err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil || meta.NumPending == 0 || meta.Sequence.Stream >= last {
			return err
		}
	}
}

// audit has the independent checker look at the ledger and the topic.
func (t *trial) audit(ctx context.Context, f *figures) error {
	t.o.Progress("auditing")
	return auditDir(ctx, filepath.Join(t.o.Dir, "site"), "nats://"+t.nodes.all[0].client, "", f)
}

func auditDir(ctx context.Context, dir, server, token string, f *figures) error {
	r, err := audit.Run(ctx, audit.Options{DataDir: dir, Server: server, Token: token})
	if err != nil {
		return err
	}
	f.Audited += r.Events
	if !r.OK || r.Topic.State != "equal" {
		return fmt.Errorf("audit: %d findings, topic %s: %v, warnings %v", r.FindingsTotal, r.Topic.State, r.Findings, r.Warnings)
	}
	return nil
}
