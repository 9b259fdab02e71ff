package main

import (
	"fmt"

	"example.org/odometer"
)

// vm is an instance, wherever it runs. Its counters grow by whole units a
// microsecond, so that what it has used at any instant is known exactly.
type vm struct {
	w       *world
	id      odometer.InstanceID
	owner   odometer.Owner
	machine bool // the host itself: its counters begin with the host's boot
	host    *host
	life    int    // how often it was started, anywhere
	name    string // of this life
	born    int64
	state   odometer.State
	gauges  odometer.Gauges
	devices []*device
}

// device is one counter of one incarnation.
type device struct {
	quantity    odometer.Quantity
	name        string
	incarnation string
	born        int64
	value, rate uint64 // at since, and per microsecond from then on
	since       int64
	resets      int
}

func (d *device) at(now int64) uint64 { return d.value + d.rate*uint64(now-d.since) }

func (d *device) set(now int64, rate uint64) {
	d.value, d.since, d.rate = d.at(now), now, rate
}

// what makes each device count at most.
var kinds = []struct {
	quantity odometer.Quantity
	name     string
	most     uint64
}{
	{odometer.CPU, "", 2000}, {odometer.NetworkEgress, "eth0", 40}, {odometer.NetworkIngress, "eth0", 40},
	{odometer.DiskRead, "vda", 200}, {odometer.DiskWrite, "vda", 200},
}

// start begins another life on a host.
func (v *vm) start(h *host) {
	v.host, v.life, v.born = h, v.life+1, v.w.now
	v.name = fmt.Sprintf("life-%d", v.life)
	if v.machine {
		v.name = ""
	}
	v.devices = nil
	for _, k := range kinds {
		v.devices = append(v.devices, &device{
			quantity: k.quantity, name: k.name, incarnation: fmt.Sprintf("%s/%d/%s/%s/0", v.id, v.life, k.quantity, k.name), born: v.w.now, since: v.w.now,
		})
	}
	v.gauges = odometer.Gauges{
		Memory: v.w.r.Int64N(4 << 30), MemoryAllocated: 4 << 30, Storage: v.w.r.Int64N(20 << 30), StorageProvisioned: 20 << 30, VCPUs: 2,
		GPUs: v.w.r.Int64N(2),
	}
	v.state = odometer.Running
	v.load()
	v.w.note("%s starts on %s, life %d", v.id, h.id, v.life)
}

// stop ends its life.
func (v *vm) stop() {
	v.settle(0)
	v.w.note("%s stops on %s", v.id, v.host.id)
	v.host = nil
}

// settle makes all devices count at some part of what they can.
func (v *vm) settle(part float64) {
	for i, d := range v.devices {
		d.set(v.w.now, uint64(part*float64(kinds[i].most)))
	}
}

// load changes how much it works.
func (v *vm) load() {
	part := v.w.r.Float64()
	if v.state != odometer.Running || v.host == nil || v.host.suspended || v.w.r.IntN(5) == 0 {
		part = 0
	}
	v.settle(part)
}

// change makes it do something else than before.
func (v *vm) change() {
	if v.host == nil {
		return
	}
	switch v.w.r.IntN(6) {
	case 0:
		if !v.machine {
			v.state = [...]odometer.State{odometer.Running, odometer.Paused, odometer.Stopped}[v.w.r.IntN(3)]
		}
	case 1:
		v.gauges.Memory = v.w.r.Int64N(4 << 30)
	case 2:
		v.gauges.Storage = v.w.r.Int64N(20 << 30)
	case 3:
		if v.gauges.Storage = v.w.r.Int64N(20 << 30); v.w.r.IntN(3) == 0 {
			v.gauges.Storage = odometer.Unknown
		}
	}
	v.load()
}

// reset gives one device a new incarnation, whose counter begins at 0.
func (v *vm) reset() {
	d := v.devices[v.w.r.IntN(len(v.devices))]
	v.w.truth.ended(v, d)
	d.resets++
	d.incarnation = fmt.Sprintf("%s/%d/%s/%s/%d", v.id, v.life, d.quantity, d.name, d.resets)
	d.born, d.since, d.value = v.w.now, v.w.now, 0
}
