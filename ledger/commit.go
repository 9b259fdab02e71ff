package ledger

import (
	"context"
	"encoding/json"
	"fmt"

	"example.org/odometer"
)

// Commit takes frames into the ledger in one transaction. When it returns
// without an error, each event has exactly one outcome, durably, and the
// receipts say how far each spool is committed. When it returns an error,
// nothing was stored and the same frames may be given again.
//
// Frames of one spool are taken strictly in order. One that begins beyond what
// is committed is not taken: its results are nil and its receipt has Ahead
// set, by which the sender knows to send again from there. A frame without a
// spool has no place in any order and gets no receipt. A frame with Err set,
// which could not be opened, is put in quarantine as it was received.
//
// Results and receipts have one element for each frame; a result for each of
// its records.
func (l *Ledger) Commit(ctx context.Context, frames []odometer.Frame) ([][]odometer.Result, []odometer.Receipt, error) {
	results := make([][]odometer.Result, len(frames))
	receipts := make([]odometer.Receipt, len(frames))
	err := l.transact(ctx, func(f *fold, now int64) error {
		for i := range frames {
			fr := &frames[i]
			receipts[i] = odometer.Receipt{Agent: fr.Agent, Spool: fr.Spool, Ledger: l.id, Generation: l.gen}
			if fr.Spool == "" {
				res, err := f.take(fr, now)
				if err != nil {
					return err
				}
				results[i] = res
				continue
			}
			k := spoolKey{fr.Agent.Partition(), fr.Agent, fr.Spool}
			committed := f.spools[k]
			if fr.First > committed+1 && fr.Err == nil {
				receipts[i].Position, receipts[i].Ahead = committed, true
				continue
			}
			res, err := f.take(fr, now)
			if err != nil {
				return err
			}
			if fr.Err == nil {
				f.advance(k, fr.Last, now)
			}
			results[i] = res
			receipts[i].Position = f.spools[k]
		}
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("commit %d frames: %w", len(frames), err)
	}
	return results, receipts, nil
}

// Receipt returns how far a spool is committed.
func (l *Ledger) Receipt(agent odometer.AgentID, spool odometer.SpoolID) odometer.Receipt {
	l.mu.Lock()
	defer l.mu.Unlock()
	return odometer.Receipt{
		Agent: agent, Spool: spool, Ledger: l.id, Generation: l.gen,
		Position: l.fold.spools[spoolKey{agent.Partition(), agent, spool}],
	}
}

// take books one frame, split by the partitions of the agents that measured:
// usually one, the sender's own.
func (f *fold) take(fr *odometer.Frame, now int64) ([]odometer.Result, error) {
	record := func(partition int, kind string, body []byte) *record {
		r := &record{
			partition: partition, kind: kind, at: now, sender: string(fr.Agent), spool: string(fr.Spool),
			first: fr.First, last: fr.Last, body: body,
		}
		f.start(r)
		return r
	}
	home := fr.Agent.Partition()
	if fr.Err != nil {
		return f.frame(record(home, kindBroken, fr.Packed), fr)
	}
	parts, order := split(fr, home)
	if len(order) == 1 {
		if fr.Packed != nil {
			return f.frame(record(order[0], kindFrame, fr.Packed), fr)
		}
		part, err := repack(fr)
		if err != nil {
			return nil, err
		}
		return f.frame(record(order[0], kindFrame, part.Packed), part)
	}
	results := make([]odometer.Result, len(fr.Records))
	for _, p := range order {
		some := &odometer.Frame{Agent: fr.Agent}
		for _, i := range parts[p] {
			r := fr.Records[i]
			r.First, r.Position = 0, 0 // the record's own columns say which positions it covers
			some.Records = append(some.Records, r)
		}
		part, err := repack(some)
		if err != nil {
			return nil, err
		}
		res, err := f.frame(record(p, kindFrame, part.Packed), part)
		if err != nil {
			return nil, err
		}
		for n, i := range parts[p] {
			results[i] = res[n]
		}
	}
	return results, nil
}

// repack encodes a frame and reads it back, so that what is folded is what
// the journal holds and nothing else.
func repack(fr *odometer.Frame) (*odometer.Frame, error) {
	body, err := fr.Encode()
	if err != nil {
		return nil, err
	}
	part, err := odometer.DecodeFrame(body)
	if err != nil {
		return nil, err
	}
	for i := range fr.Records {
		part.Records[i].Refused = fr.Records[i].Refused
	}
	return part, nil
}

// split returns the indexes of the frame's records by partition, and the
// partitions in the order in which they first occur. What carries no readings
// belongs to the sender's.
func split(fr *odometer.Frame, home int) (map[int][]int, []int) {
	parts := map[int][]int{}
	var order []int
	for i := range fr.Records {
		p := home
		if ev := fr.Records[i].Event; ev != nil && ev.Integral() && ev.Agent != fr.Agent {
			p = ev.Agent.Partition()
		}
		if parts[p] == nil {
			order = append(order, p)
		}
		parts[p] = append(parts[p], i)
	}
	if order == nil {
		order = []int{home}
	}
	return parts, order
}

// checkpointInstance returns the instance that a checkpoint belongs to.
func checkpointInstance(c json.RawMessage) (string, bool) {
	var v struct {
		Instance string `json:"instance"`
	}
	return v.Instance, json.Unmarshal(c, &v) == nil && v.Instance != ""
}

// checkpointPlace says where a checkpoint lies: with the event of an epoch up
// to which it is booked, or at an index of a frame.
type checkpointPlace struct {
	epoch    odometer.Epoch
	sequence uint64
	place    // of index -1 for the event
}

// at reports whether the record with an index of its frame has it.
func (p *checkpointPlace) at(index int, r *odometer.Record) bool {
	if p.index >= 0 {
		return index == p.index
	}
	return r.Event != nil && r.Event.Epoch == p.epoch && r.Event.Sequence <= p.sequence
}

// newestCheckpoints returns for each instance that an agent was still metering
// the places in the journal's newest frame that has checkpoints of it: the last
// of them is the newest. That of an event which is held counts too: the event
// is booked in time, and an agent that went on from before it would tell its
// usage again.
func (l *Ledger) newestCheckpoints(ctx context.Context, agent odometer.AgentID) (map[odometer.InstanceID][]checkpointPlace, error) {
	newest := map[odometer.InstanceID][]checkpointPlace{}
	take := func(instance odometer.InstanceID, p checkpointPlace) {
		switch was := newest[instance]; {
		case len(was) == 0 || p.position > was[0].position:
			newest[instance] = []checkpointPlace{p}
		case p.position == was[0].position:
			newest[instance] = append(was, p)
		}
	}
	rows, err := l.read.QueryContext(ctx, `SELECT `+epochColumns+` FROM `+epochTables+` WHERE e.partition = ? AND e.agent = ? AND e.counted_by = ?`,
		agent.Partition(), string(agent), byVector)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var e epoch
		if err := e.scan(rows); err != nil {
			return nil, err
		}
		if !e.closed && e.sequence > 0 {
			take(e.instance, checkpointPlace{e.epoch, e.sequence, place{e.position, -1}})
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	rows, err = l.read.QueryContext(ctx, `SELECT instance, position, idx FROM checkpoints WHERE partition = ? AND agent = ?
		UNION ALL SELECT e.instance, h.position, h.idx FROM held h JOIN epochs e ON e.partition = h.partition AND e.epoch = h.epoch
		WHERE e.partition = ? AND e.agent = ? AND e.counted_by = ?`,
		agent.Partition(), string(agent), agent.Partition(), string(agent), byVector)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	for rows.Next() {
		var instance odometer.InstanceID
		var p checkpointPlace
		if err := rows.Scan(&instance, &p.position, &p.index); err != nil {
			return nil, err
		}
		take(instance, p)
	}
	return newest, rows.Err()
}
