package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"slices"
	"time"

	"example.org/odometer"
)

const (
	// describeEvery is how often an instance is described although nothing
	// about it changed: twice a minute, so that one message may be lost.
	describeEvery = 30 * time.Second
	// goneFor is for how long it is told that an instance has gone.
	goneFor = 90 * time.Second
	// partBytes is how much of open periods one part of a live message has, and
	// describeBytes how much of descriptions one message has: what is due and
	// does not fit goes with the next, a second later. With goneMost names of
	// what is gone, each at most odometer.MaxIDBytes long, and either of the two
	// a part stays below what the queue takes.
	partBytes     = 384 << 10
	describeBytes = 200 << 10
	goneMost      = 500
)

// teller decides which instances are described in the next live message.
type teller struct {
	list *[]odometer.VM // as it was looked at last
	own  odometer.VM    // this machine, where it is metered
	told map[odometer.InstanceID]*told
	gone map[odometer.InstanceID]time.Time // since when
}

// told is an instance as it is described.
type told struct {
	body json.RawMessage
	at   time.Time // when it was last; zero where it has changed since
}

func newTeller() *teller {
	return &teller{told: map[odometer.InstanceID]*told{}, gone: map[odometer.InstanceID]time.Time{}}
}

// look takes in what is on the host: the virtual machines, whose list is
// another one when something is different, and this machine, without an
// instance where it is not metered.
func (t *teller) look(list *[]odometer.VM, own odometer.VM, now time.Time) {
	same := own.Instance == t.own.Instance && own.VCPUs == t.own.VCPUs && own.Memory == t.own.Memory
	if list == t.list && same && len(t.told) > 0 {
		return
	}
	t.list, t.own = list, own
	here := map[odometer.InstanceID]bool{}
	take := func(v *odometer.VM) {
		here[v.Instance] = true
		delete(t.gone, v.Instance)
		body := describe(v)
		if have := t.told[v.Instance]; have == nil || !bytes.Equal(have.body, body) {
			t.told[v.Instance] = &told{body: body}
		}
	}
	if list != nil {
		for i := range *list {
			take(&(*list)[i])
		}
	}
	if own.Instance != "" {
		take(&own)
	}
	for instance := range t.told {
		if !here[instance] {
			delete(t.told, instance)
			t.gone[instance] = now
		}
	}
}

// describe returns an instance as JSON, small enough for a message.
func describe(v *odometer.VM) json.RawMessage {
	d := odometer.Describe(v)
	body, err := json.Marshal(&d)
	if err != nil || len(body) > describeBytes {
		d.Shorten()
		body, _ = json.Marshal(&d) // of texts and numbers: it always encodes
	}
	return body
}

// next returns what goes with a message: the instances that are due, those that
// changed first and then those that were told longest ago, and the ids of those
// that have gone.
func (t *teller) next(now time.Time) (machines []json.RawMessage, gone []odometer.InstanceID) {
	var due []*told
	for _, d := range t.told {
		if now.Sub(d.at) >= describeEvery || now.Before(d.at) {
			due = append(due, d)
		}
	}
	slices.SortFunc(due, func(a, b *told) int { return a.at.Compare(b.at) })
	room := describeBytes
	for _, d := range due {
		if room -= len(d.body); room < 0 {
			break
		}
		machines = append(machines, d.body)
		d.at = now
	}
	for instance, since := range t.gone {
		if now.Sub(since) > goneFor {
			delete(t.gone, instance)
			continue
		}
		gone = append(gone, instance)
	}
	slices.SortFunc(gone, func(a, b odometer.InstanceID) int { return cmp.Or(t.gone[b].Compare(t.gone[a]), cmp.Compare(a, b)) })
	return machines, gone[:min(len(gone), goneMost)]
}

// parts returns a live message as it travels: open periods and descriptions, in
// as many parts as it takes. A host may have a thousand of them each second, so
// that events are written where they stay and not looked through again.
func (m liveMessage) parts(open []*odometer.Event) ([][]byte, error) {
	var parts [][]byte
	machines, gone := m.Machines, m.Gone
	m.Machines, m.Gone, m.Open = nil, nil, nil
	const usual = 1 << 10 // bytes of one
	events := make([]byte, 0, min(partBytes, len(open)*usual)+usual)
	cut := func() error {
		head, err := json.Marshal(&m)
		head = bytes.TrimSuffix(head, []byte("null}")) // what is open comes last
		parts = append(parts, slices.Concat(head, []byte("["), events, []byte("]}")))
		events = events[:0]
		return err
	}
	for _, e := range open {
		before := len(events)
		if before > 0 {
			events = append(events, ',')
		}
		at := len(events)
		if events = e.AppendJSON(events); len(events) > partBytes && before > 0 {
			next := slices.Clone(events[at:])
			events = events[:before]
			if err := cut(); err != nil {
				return nil, err
			}
			events = append(events, next...)
		}
	}
	if len(events) > partBytes-describeBytes && len(machines) > 0 {
		if err := cut(); err != nil {
			return nil, err
		}
	}
	m.Machines, m.Gone = machines, gone
	return parts, cut()
}
