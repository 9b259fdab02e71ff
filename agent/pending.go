package agent

import (
	"encoding/json"
	"errors"
	"slices"

	"example.org/odometer"
)

// appendRecords stores the records by one Append. Where there is no space for
// all of them, the older half is offered by itself, and so on. Where the spool
// refuses one of them for what it is, each is offered by itself, and what is
// refused then goes to refuse. Rest is what was not stored because of err.
func appendRecords(s Spool, rs []odometer.Record, refuse func(error)) (stored, rest []odometer.Record, err error) {
	if err = s.Append(rs); err == nil {
		return rs, nil, nil
	}
	if half := len(rs) / 2; errors.Is(err, odometer.ErrUnavailable) && half > 0 {
		if stored, rest, err = appendRecords(s, rs[:half], refuse); err != nil {
			return stored, rs[half-len(rest):], err
		}
		more, rest, err := appendRecords(s, rs[half:], refuse)
		return slices.Concat(stored, more), rest, err
	}
	if !errors.Is(err, odometer.ErrInvalid) {
		return nil, rs, err
	}
	for i := range rs {
		switch err := s.Append(rs[i : i+1]); {
		case err == nil:
			stored = append(stored, rs[i])
		case errors.Is(err, odometer.ErrInvalid):
			refuse(err)
		default:
			return stored, rs[i:], err
		}
	}
	return stored, nil, nil
}

// head is the part of a checkpoint that is not opaque.
type head struct {
	Instance odometer.InstanceID `json:"instance"`
	Agent    odometer.AgentID    `json:"agent"`
	Epoch    odometer.Epoch      `json:"epoch"`
	Ended    bool                `json:"ended"`
}

func headOf(checkpoint json.RawMessage) (h head) {
	_ = json.Unmarshal(checkpoint, &h) // the meter has read it, or has written it
	return h
}

// compact merges adjacent events of each epoch, within one UTC hour unless
// beyond is set, and drops checkpoints that a later one replaces. The sum of
// the events is the same; a merged one stands where its last part stood.
func compact(rs []odometer.Record, beyond bool) []odometer.Record {
	out := make([]odometer.Record, 0, len(rs))
	last := map[odometer.Epoch]int{}  // the epoch's last event in out
	state := map[odometer.Epoch]int{} // a record that is the epoch's newest checkpoint alone
	gone := map[int]bool{}
	for _, r := range rs {
		if r.Event == nil {
			epoch := headOf(r.Checkpoint).Epoch
			if i, ok := state[epoch]; ok {
				gone[i] = true
			}
			state[epoch] = len(out)
			out = append(out, r)
			continue
		}
		epoch := r.Event.Epoch
		if i, ok := last[epoch]; ok {
			if e := merge(out[i].Event, r.Event, beyond); e != nil {
				r.Event = e
				r.Resumes = r.Resumes || out[i].Resumes
				if len(r.Checkpoint) == 0 {
					r.Checkpoint = out[i].Checkpoint
				}
				gone[i] = true
			}
		}
		if i, ok := state[epoch]; ok && len(r.Checkpoint) > 0 {
			gone[i] = true
			delete(state, epoch)
		}
		last[epoch] = len(out)
		out = append(out, r)
	}
	n := 0
	for i := range out {
		if !gone[i] {
			out[n] = out[i]
			n++
		}
	}
	clear(out[n:])
	return out[:n]
}

// merge returns the event that covers both, nil where that must not be.
func merge(a, b *odometer.Event, beyond bool) *odometer.Event {
	if !beyond && odometer.Hour(a.Span.Start) != odometer.Hour(b.Span.End-1) {
		return nil
	}
	both := *a
	if both.Merge(b) != nil {
		return nil
	}
	return &both
}
