package ledger

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"example.org/odometer"
)

// An agent that lost its disk asks the ledger where its instances stand, and
// goes on from there in new epochs, each of which starts at the time that it was
// told. From when such an epoch appears, what comes later in the old one would be
// the same time once more: a queue may bring what it had forgotten. It is
// refused, and released only by a person. Later goes by the sequence: a clock
// that was set back makes labels of an earlier event end later.
//
// That an epoch was offered is a decision in the journal; an agent that never
// got the answer, or asked long ago, begins no epoch there, and then nothing
// follows from it. The table handovers is the fold of both.

// handover is an epoch that was offered as of an event, and who goes on from
// there.
type handover struct {
	until    int64
	sequence uint64
	to       odometer.Epoch // "" for nobody yet
}

// successor is how the epoch that goes on is recognised.
type successor struct {
	partition int
	instance  odometer.InstanceID
	agent     odometer.AgentID
	started   int64
}

// Checkpoints offers the newest checkpoint that the ledger has of each instance
// which an agent was still metering to that agent, which lost its disk, in the
// order of the instances' names. It goes on from them in new epochs. Asking again
// gives the same.
func (l *Ledger) Checkpoints(ctx context.Context, agent odometer.AgentID) ([]json.RawMessage, error) {
	list, offers, err := l.offers(ctx, agent)
	if err == nil && len(offers) > 0 {
		err = l.transact(ctx, func(f *fold, now int64) error {
			for _, d := range offers {
				if err := f.offer(agent, d, now); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err != nil {
		return nil, fmt.Errorf("checkpoints of %s: %w", agent, err)
	}
	return list, nil
}

// offers returns the checkpoints and, of those that came with an event, the
// decision to offer its epoch.
func (l *Ledger) offers(ctx context.Context, agent odometer.AgentID) (list []json.RawMessage, offers []decision, err error) {
	newest, err := l.newestCheckpoints(ctx, agent)
	if err != nil {
		return nil, nil, err
	}
	list = []json.RawMessage{}
	for _, instance := range slices.Sorted(maps.Keys(newest)) {
		places := newest[instance]
		rec, err := recordAt(ctx, l.read, agent.Partition(), places[0].position)
		if err != nil {
			return nil, nil, err
		}
		fr, err := odometer.DecodeFrame(rec.body)
		if err != nil {
			return nil, nil, fmt.Errorf("journal record %d-%d: %w", rec.partition, rec.position, err)
		}
		var found *odometer.Record
		for i := range fr.Records {
			for _, p := range places {
				if p.at(i, &fr.Records[i]) && !earlier(&fr.Records[i], found) {
					found = &fr.Records[i]
				}
			}
		}
		if found == nil || !json.Valid(found.Checkpoint) { // it is the agent's own; nobody else reads it
			continue
		}
		list = append(list, found.Checkpoint)
		if ev := found.Event; ev != nil {
			offers = append(offers, decision{Decision: decideOffered, Epoch: ev.Epoch, Sequence: ev.Sequence, Until: ev.Span.End})
		}
	}
	return list, offers, nil
}

// earlier reports whether r has an earlier event of the epoch that found has one
// of: a frame may bring an old one once more behind it.
func earlier(r, found *odometer.Record) bool {
	return found != nil && found.Event != nil && r.Event != nil && r.Event.Epoch == found.Event.Epoch && r.Event.Sequence < found.Event.Sequence
}

// offer takes the decision d, unless it was taken before.
func (f *fold) offer(agent odometer.AgentID, d decision, now int64) error {
	key := epochKey{agent.Partition(), d.Epoch}
	if slices.ContainsFunc(f.handed[key], func(h handover) bool { return h.until == d.Until }) {
		return nil
	}
	body, err := json.Marshal(d)
	if err != nil {
		return err
	}
	rec := &record{partition: key.partition, kind: kindDecision, at: now, sender: "agent", body: body}
	f.start(rec)
	_, err = f.decide(rec)
	return err
}

// offered folds the decision that e was offered as of an event; 0 stands for
// none of it.
func (f *fold) offered(e *epoch, sequence uint64, until int64) error {
	_, err := f.exec(`INSERT INTO handovers (partition, epoch, instance, agent, until_us, sequence, successor) VALUES (?, ?, ?, ?, ?, ?, '')`,
		e.partition, string(e.epoch), string(e.instance), string(e.agent), until, sequence)
	if err != nil {
		return fmt.Errorf("note that epoch %s was offered: %w", e.epoch, err)
	}
	f.mirrorHandover(e.epochKey, e.instance, e.agent, handover{until: until, sequence: sequence})
	return nil
}

func (f *fold) mirrorHandover(key epochKey, instance odometer.InstanceID, agent odometer.AgentID, h handover) {
	f.handed[key] = append(f.handed[key], h)
	f.awaited[successor{key.partition, instance, agent, h.until}] = key
}

// goOn notes that e, which has just appeared, goes on from an epoch that was
// offered, if it does. The first that appears is the one; another tells the same
// time, all of it: its agent lost its disk once more before any of it was here.
func (f *fold) goOn(e *epoch) error {
	key, ok := f.awaited[successor{e.partition, e.instance, e.agent, e.started}]
	if !ok || key == e.epochKey {
		return nil
	}
	list := f.handed[key]
	h := &list[slices.IndexFunc(list, func(h handover) bool { return h.until == e.started })]
	if h.to != "" {
		if err := f.offered(e, 0, e.started); err != nil {
			return err
		}
		key, list = e.epochKey, f.handed[e.epochKey]
		list[len(list)-1].to = h.to
	} else {
		h.to = e.epoch
	}
	_, err := f.exec(`UPDATE handovers SET successor = ? WHERE partition = ? AND epoch = ? AND until_us = ?`, string(h.to), key.partition, string(key.epoch), e.started)
	if err != nil {
		return fmt.Errorf("note that epoch %s goes on from %s: %w", e.epoch, key.epoch, err)
	}
	return nil
}

// superseded reports whether ev is of a time that another epoch tells, and what
// becomes of it then.
func (f *fold) superseded(e *epoch, ev *odometer.Event) (verdict, bool) {
	for _, h := range f.handed[e.epochKey] {
		if h.to != "" && ev.Sequence > h.sequence {
			return refuse(reasonSuperseded, "the agent lost its state and goes on from %d µs in epoch %s", h.until, h.to), true
		}
	}
	return verdict{}, false
}

// loadHandovers reads the table handovers into its mirror.
func (f *fold) loadHandovers() error {
	err := f.each(`SELECT partition, epoch, instance, agent, until_us, sequence, successor FROM handovers`, func(rows *sql.Rows) error {
		var key epochKey
		var instance odometer.InstanceID
		var agent odometer.AgentID
		var h handover
		err := rows.Scan(&key.partition, &key.epoch, &instance, &agent, &h.until, &h.sequence, &h.to)
		f.mirrorHandover(key, instance, agent, h)
		return err
	})
	if err != nil {
		return fmt.Errorf("read what was offered to agents: %w", err)
	}
	return nil
}

// addHandovers makes the table handovers, empty: version 1 had none.
func addHandovers(ctx context.Context, tx *sql.Tx, _ string) (string, error) {
	_, err := tx.ExecContext(ctx, `CREATE TABLE handovers (
  partition INTEGER NOT NULL,
  epoch     TEXT    NOT NULL,
  instance  TEXT    NOT NULL,
  agent     TEXT    NOT NULL,
  until_us  INTEGER NOT NULL,
  sequence  INTEGER NOT NULL,
  successor TEXT    NOT NULL,
  PRIMARY KEY (partition, epoch, until_us)
)`)
	return "", err
}
