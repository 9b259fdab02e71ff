package main

import (
	"encoding/json"
	"fmt"
	"time"

	"example.org/odometer"
)

// perFrame instances lie on each of many hosts, and their events of one
// period fill one frame.
const perFrame = 100

// hosts makes the events of many hosts, period after period, as their agents
// send them.
type hosts struct {
	instances []odometer.Usage // the odometer of each
	epochs    []odometer.Epoch
	ids       []odometer.InstanceID
	tick      int64
	// checkpoints says that each event carries the meter's state, as a real
	// agent's does.
	checkpoints bool
}

// hostsStart is when hosts begin.
var hostsStart = time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC).UnixMicro()

func newHosts(instances int, checkpoints bool) *hosts {
	f := &hosts{checkpoints: checkpoints, instances: make([]odometer.Usage, instances), epochs: make([]odometer.Epoch, instances), ids: make([]odometer.InstanceID, instances)}
	for i := range f.ids {
		f.ids[i] = odometer.InstanceID(fmt.Sprintf("%08x-3c55-4a0f-9d6e-%012x", uint32(i*2654435761), i))
		f.epochs[i] = odometer.NewEpoch(f.ids[i], f.host(i/perFrame), "bench", "")
		f.instances[i].Known = odometer.AllKnown
	}
	return f
}

func (f *hosts) count() int { return len(f.ids) / perFrame }

func (f *hosts) host(n int) odometer.AgentID { return odometer.AgentID(fmt.Sprintf("host-%05d", n)) }

// frame returns what a host sends for the present period.
func (f *hosts) frame(host int) odometer.Frame {
	fr := odometer.Frame{
		Agent: f.host(host), Spool: odometer.SpoolID(fmt.Sprintf("%032x", host)),
		First: uint64(f.tick)*perFrame + 1, Last: uint64(f.tick+1) * perFrame,
	}
	for n := range perFrame {
		at := fr.First + uint64(n)
		r := odometer.Record{First: at, Position: at, Event: f.event(host*perFrame + n)}
		if f.checkpoints {
			r.Checkpoint = checkpoint(r.Event)
		}
		fr.Records = append(fr.Records, r)
	}
	return fr
}

// event returns what an instance used in the present period.
func (f *hosts) event(i int) *odometer.Event {
	const second = odometer.SecondMicros
	v := (int64(i)*7919 + f.tick*104729) * 2654435761 & 0xfffff
	used := odometer.Usage{Known: odometer.AllKnown, Vector: odometer.Vector{
		v * 20, 0, 0, 60 * second, 30 * 900, 30 * 2048, 30 * 20480, 30 * 40960, v * 3, v * 7, v, v * 2, 30 * second,
	}}
	e := &odometer.Event{
		Version: odometer.Version11, Instance: f.ids[i], Agent: f.host(i / perFrame),
		Owner: odometer.Owner{User: odometer.UserID(fmt.Sprintf("u-%05d", i/100)), Org: odometer.OrgID(fmt.Sprintf("o-%04d", i/1000))},
		Epoch: f.epochs[i], EpochStart: hostsStart, FirstSequence: uint64(f.tick + 1), Sequence: uint64(f.tick + 1), Quality: odometer.Measured,
		Span: odometer.Span{Start: hostsStart + f.tick*30*second, End: hostsStart + (f.tick+1)*30*second}, Usage: used,
		Readings: odometer.Readings{Start: f.instances[i]},
	}
	f.instances[i].Add(used)
	e.Readings.End = f.instances[i]
	e.Derive(0, 0)
	return e
}

// checkpoint is as long as the meter's for an instance with three devices.
func checkpoint(e *odometer.Event) json.RawMessage {
	totals, _ := json.Marshal(e.Readings.End.Vector)
	return fmt.Appendf(nil, `{"version":1,"instance":%q,"agent":%q,"name":"","epoch":%q,"serial":%d,"ended":false,"start_us":%d,"sequence":%d,"label_us":%d,"boot_us":%d,"wall_us":%d,"boot_id":"5b0c8f0e-9d56-4f0b-8f5e-1f2f3a4b5c6d","step_us":0,"fresh":false,"user":%q,"org":%q,"state":"running","gauges":[943718400,2147483648,21474836480,42949672960,2,0],"known":32767,"totals":%s,"remainders":[%d,0,0,0,0,0,0,0,0,0,0,0,0,0,0],"cpu_part_us":%d,"gpu_part_us":0,"devices":[{"q":"cpu_us","d":"","i":"5b0c8f0e:%d","v":%d,"s":%d},{"q":"network_egress_bytes","d":"tap%d","i":"5b0c8f0e:%d","v":%d,"s":%d},{"q":"disk_read_bytes","d":"vda","i":"5b0c8f0e:%d","v":%d,"s":%d}]}`,
		e.Instance, e.Agent, e.Epoch, e.Sequence, e.EpochStart, e.Sequence, e.Span.End, e.Span.End-hostsStart, e.Span.End, e.Owner.User, e.Owner.Org, totals,
		e.Span.End%1000, e.Readings.End.Vector[odometer.CPU]%odometer.SecondMicros,
		e.Sequence+7, e.Readings.End.Vector[odometer.CPU]*1000, e.Span.End, e.Sequence%90, e.Sequence+3, e.Readings.End.Vector[odometer.NetworkEgress], e.Span.End,
		e.Sequence+5, e.Readings.End.Vector[odometer.DiskRead], e.Span.End)
}

// packed returns the frames of all hosts for some periods, ready to be sent,
// and what the bare store would keep of them: a state for each event.
func (f *hosts) packed(ticks int) (frames []packedFrame, states []state, err error) {
	for range ticks {
		for h := range f.count() {
			fr := f.frame(h)
			data, err := fr.Encode()
			if err != nil {
				return nil, nil, err
			}
			frames = append(frames, packedFrame{fr.Agent, data})
			for i := range fr.Records {
				e := fr.Records[i].Event
				states = append(states, state{string(e.Instance), e.Usage.AppendBinary(e.Readings.End.AppendBinary(nil))})
			}
		}
		f.tick++
	}
	return frames, states, nil
}

type packedFrame struct {
	agent odometer.AgentID
	data  []byte
}

// state is the least that a store must keep of an instance: its vector and the
// sums of its open hour.
type state struct {
	instance string
	data     []byte
}
