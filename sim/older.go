package main

import (
	"context"
	"fmt"

	"example.org/odometer"
	"example.org/odometer/ingest"
)

// older is a client that sends events of version 1.0, which have no epoch and
// no sequence: each is offered until somebody says that it was committed, and
// counts by the time that it covers.
type older struct {
	w     *world
	id    odometer.AgentID
	until int64 // seconds, the end of the last period
	wait  []*odometer.Event
	cpu   map[odometer.InstanceID]int64 // seconds that were told
	time  map[odometer.InstanceID]int64
}

func newOlder(w *world) *older {
	o := &older{w: w, id: "older-1", until: w.base / second, cpu: map[odometer.InstanceID]int64{}, time: map[odometer.InstanceID]int64{}}
	var tell func()
	tell = func() {
		if w.calm {
			return
		}
		w.hit(olderEvents)
		end := max(w.time().Unix(), o.until+1)
		for i := range 2 {
			id := odometer.InstanceID(fmt.Sprintf("old-%d", i+1))
			cpu := w.r.Int64N(end - o.until + 1)
			o.wait = append(o.wait, &odometer.Event{
				Version: odometer.Version10, Instance: id, Owner: odometer.Owner{User: "u-0", Org: "o-1"}, Timestamp: end,
				Period: odometer.Period{Start: o.until, End: end}, Metrics: odometer.Metrics{CPUSeconds: uint64(cpu), MemoryGB: 1},
			})
			o.cpu[id] += cpu
			o.time[id] += end - o.until
		}
		o.until = end
		w.after(0, w.server.work)
		w.after(w.between(3*second, 20*second), tell)
	}
	w.after(w.between(0, 10*second), tell)
	return o
}

// take delivers what waits, some of it twice.
func (o *older) take() (list []ingest.Delivery) {
	if o == nil {
		return nil
	}
	for _, e := range o.wait {
		n := 1 + o.w.r.IntN(2)
		for range n {
			f := odometer.Frame{Agent: o.id, Records: []odometer.Record{{Event: e}}}
			data, err := f.Encode()
			if err != nil {
				o.w.wrong("a frame of version 1.0 cannot be made: %v", err)
				return nil
			}
			list = append(list, ingest.Delivery{Agent: o.id, Data: data, Ack: func() error {
				if o.w.server.batch.dead {
					return odometer.ErrUnavailable
				}
				for i := range o.wait {
					if o.wait[i] == e {
						o.wait = append(o.wait[:i:i], o.wait[i+1:]...)
						break
					}
				}
				return nil
			}})
		}
	}
	return list
}

// told reports whether an instance is one of which this client tells.
func (o *older) told(id odometer.InstanceID) bool {
	if o == nil {
		return false
	}
	_, ok := o.cpu[id]
	return ok
}

// check compares what the ledger answers with what was told and not reversed.
func (o *older) check(list map[odometer.Epoch]*booked) {
	if o == nil {
		return
	}
	for _, id := range sorted(o.cpu) {
		rows, err := o.w.server.ledger.Usage(context.Background(), odometer.UsageQuery{To: 1 << 60, Instance: id})
		if err != nil || len(rows) != 1 {
			o.w.wrong("usage of %s: %d rows, %v", id, len(rows), err)
			continue
		}
		for q, want := range map[odometer.Quantity]int64{odometer.CPU: o.cpu[id] * second, odometer.MeasuredTime: o.time[id] * second} {
			for _, b := range list {
				if b.instance == id {
					want += b.net[q] - b.sum[q]
				}
			}
			if got := rows[0].Totals[q]; got != odometer.SumOf(want) {
				o.w.wrong("usage of %s: %v is %v, it was told as %d", id, q, got, want)
			}
		}
	}
}
