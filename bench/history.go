package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"example.org/odometer"
	"example.org/odometer/ledger"
)

// fleet is a number of virtual machines with a past: 50 on a host, a user for
// each hundred, whose machines lie on as many hosts, an organisation for each
// ten users.
type fleet struct {
	instances int
	days      int // of history, before the day that is now
}

const (
	perHost = 50
	perUser = 100
	perOrg  = 10 // users
)

// historyStart is the first day of every history. A month of history ends
// with the month's last day but one.
var historyStart = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

// now is when the history ends: in the second half hour of the day after its
// last whole one.
func (f fleet) now() int64 {
	return historyStart + int64(f.days)*odometer.DayMicros + 13*odometer.HourMicros + 40*60*odometer.SecondMicros
}

func (f fleet) users() int { return (f.instances + perUser - 1) / perUser }

func (f fleet) instance(i int) odometer.InstanceID {
	return odometer.InstanceID(fmt.Sprintf("vm-%06d", i))
}
func (f fleet) user(u int) odometer.UserID { return odometer.UserID(fmt.Sprintf("u-%d", u)) }
func (f fleet) org(u int) odometer.OrgID   { return odometer.OrgID(fmt.Sprintf("o-%d", u/perOrg)) }
func (f fleet) host(i int) odometer.AgentID {
	return odometer.AgentID(fmt.Sprintf("host-%04d", i/perHost))
}

func (f fleet) owner(i int) odometer.Owner {
	u := i % f.users()
	return odometer.Owner{User: f.user(u), Org: f.org(u)}
}

// history is the sizes of the history that the figures are measured on.
func (b *bench) history() fleet {
	if b.quick {
		return fleet{instances: 500, days: 3}
	}
	return fleet{instances: 20_000, days: 30}
}

// historyPath returns the path of a ledger that holds b.history(): made once
// in a run, and not at all where -history names one that was made before.
// Whoever writes to it takes a copy.
func (b *bench) historyPath() (string, error) {
	if b.historyFile == "" {
		b.historyFile = b.place("history.db")
	}
	if _, err := os.Stat(b.historyFile); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return b.historyFile, err
	}
	begin := time.Now()
	unfinished := b.historyFile + ".unfinished"
	if err := b.history().write(unfinished); err != nil {
		return "", fmt.Errorf("make a history: %w", err)
	}
	if err := os.Rename(unfinished, b.historyFile); err != nil {
		return "", err
	}
	b.note("made a history of %d instances over %d days in %.0f s", b.history().instances, b.history().days, time.Since(begin).Seconds())
	return b.historyFile, nil
}

// write makes the ledger, by the way that every event takes: one event of each
// instance and day, as a host sends that was cut off for so long, the day's
// last hours one by one. The ledger's upkeep runs as the days pass.
func (f fleet) write(path string) (err error) {
	ctx := context.Background()
	clock := historyStart
	led, err := ledger.Open(ctx, ledger.Options{Path: path, Clock: func() time.Time { return time.UnixMicro(clock) }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, led.Close()) }()
	meters := make([]meterOf, f.instances)
	for i := range meters {
		meters[i].begin(f, i)
	}
	send := func(until int64) error {
		clock = until + 20*odometer.SecondMicros
		for at := 0; at < f.instances; at += 100 * perHost {
			var frames []odometer.Frame
			for host := at; host < min(at+100*perHost, f.instances); host += perHost {
				frame := odometer.Frame{Agent: f.host(host)}
				for i := host; i < min(host+perHost, f.instances); i++ {
					frame.Records = append(frame.Records, odometer.Record{Event: meters[i].next(until)})
				}
				frames = append(frames, frame)
			}
			results, _, err := led.Commit(ctx, frames)
			if err != nil {
				return err
			}
			for _, frame := range results {
				for _, r := range frame {
					if r.Outcome != odometer.Recorded {
						return fmt.Errorf("event %s: %s %s %s", r.EventID, r.Outcome, r.Reason, r.Detail)
					}
				}
			}
		}
		return nil
	}
	for day := range int64(f.days) {
		if err := send(historyStart + (day+1)*odometer.DayMicros); err != nil {
			return err
		}
		clock += odometer.HourMicros / 2
		if err := led.Tick(ctx); err != nil {
			return err
		}
	}
	hour := odometer.Hour(f.now())
	for _, until := range []int64{hour - odometer.HourMicros, hour - odometer.HourMicros/2, hour, f.now()} {
		if err := send(until); err != nil {
			return err
		}
		for range 3 {
			if err := led.Tick(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// meterOf makes the events of one instance.
type meterOf struct {
	event odometer.Event
	total odometer.Usage
	n     int64
}

func (m *meterOf) begin(f fleet, i int) {
	m.n = int64(i)
	m.total.Known = odometer.AllKnown
	m.event = odometer.Event{
		Version: odometer.Version11, Instance: f.instance(i), Agent: f.host(i), Owner: f.owner(i),
		Epoch: odometer.NewEpoch(f.instance(i), f.host(i), "bench", ""), EpochStart: historyStart, Quality: odometer.Measured,
		Span: odometer.Span{End: historyStart},
	}
}

// next returns the event from the end of the last one to the time until, with
// amounts that look random.
func (m *meterOf) next(until int64) *odometer.Event {
	e := m.event
	m.event.Sequence++
	e.FirstSequence, e.Sequence = m.event.Sequence, m.event.Sequence
	e.Span = odometer.Span{Start: m.event.Span.End, End: until}
	us := until - e.Span.Start
	seconds := us / odometer.SecondMicros
	m.n = (m.n*6364136223846793005 + 1442695040888963407) & (1<<62 - 1)
	v := m.n >> 30 & 0xffff // 0 … 65535
	e.Usage = odometer.Usage{Known: odometer.AllKnown}
	e.Usage.Vector = odometer.Vector{
		odometer.CPU: us / 65536 * v, odometer.VCPU: 2 * us,
		odometer.Memory: seconds * (512 + v/50), odometer.MemoryAllocated: seconds * 2048,
		odometer.Storage: seconds * (10_000 + v/10), odometer.StorageProvisioned: seconds * 40960,
		odometer.NetworkEgress: seconds * v, odometer.NetworkIngress: seconds*v*3 + v,
		odometer.DiskRead: seconds * (v / 7), odometer.DiskWrite: seconds * (v / 3),
		odometer.MeasuredTime: us,
	}
	e.Readings.Start = m.total
	m.total.Add(e.Usage)
	e.Readings.End = m.total
	e.Derive(0, 0)
	m.event.Span.End = until
	return &e
}
