package meter

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"example.org/odometer"
)

// checkpointVersion is raised when an older meter could not go on from what a
// newer one writes.
const checkpointVersion = 1

// checkpoint is the state of one instance between two periods, as JSON. The
// first seven members stay as they are, so that whoever keeps checkpoints can
// tell which one replaces which: of the same instance and agent (and epoch
// name, where there is one) the one with the highest serial.
//
//	{"version":1,"instance":"vm-1","agent":"h1","name":"","epoch":"9f2c…","serial":7,"ended":false,
//	 "start_us":…,"sequence":5,              the epoch, its last event
//	 "label_us":…,"boot_us":…,"wall_us":…,   the last reading, labelled and as it was told
//	 "boot_id":"…","step_us":0,"fresh":false,
//	 "user":"","org":"","state":"running",
//	 "gauges":[…],                            in the order of the table in package meter, -1 unknown
//	 "known":n,"totals":[…],"remainders":[…], in the order of odometer.Quantity
//	 "cpu_part_us":…,"gpu_part_us":…,         what all epochs have emitted below a whole second
//	 "devices":[{"q":"cpu_us","d":"","i":"…","v":1,"s":1}],
//	 "changes":[…]}                           what the next event tells; left out where there is nothing
type checkpoint struct {
	Version    int                         `json:"version"`
	Instance   odometer.InstanceID         `json:"instance"`
	Agent      odometer.AgentID            `json:"agent"`
	Name       string                      `json:"name"`
	Epoch      odometer.Epoch              `json:"epoch"`
	Serial     uint64                      `json:"serial"`
	Ended      bool                        `json:"ended"`
	Start      int64                       `json:"start_us"`
	Sequence   uint64                      `json:"sequence"`
	Label      int64                       `json:"label_us"`
	Boot       int64                       `json:"boot_us"`
	Wall       int64                       `json:"wall_us"`
	BootID     string                      `json:"boot_id"`
	Step       int64                       `json:"step_us"`
	Fresh      bool                        `json:"fresh"`
	User       odometer.UserID             `json:"user"`
	Org        odometer.OrgID              `json:"org"`
	State      odometer.State              `json:"state"`
	Gauges     [gauges]int64               `json:"gauges"`
	Known      odometer.Known              `json:"known"`
	Totals     odometer.Vector             `json:"totals"`
	Remainders [odometer.Quantities]uint64 `json:"remainders"`
	CPUPart    int64                       `json:"cpu_part_us"`
	GPUPart    int64                       `json:"gpu_part_us"`
	Devices    []struct {
		Quantity    string `json:"q"`
		Device      string `json:"d"`
		Incarnation string `json:"i"`
		Value       uint64 `json:"v"`
		Seen        int64  `json:"s"`
	} `json:"devices"`
	Changes []odometer.Change `json:"changes"`
}

// appendCheckpoint appends in's state as JSON. It is written by hand because a
// replay writes one for every reading. No period is open.
func (in *instance) appendCheckpoint(b []byte) []byte {
	if b == nil {
		b = make([]byte, 0, 640+96*len(in.devices))
	}
	b = append(b, `{"version":`...)
	b = strconv.AppendInt(b, checkpointVersion, 10)
	b = appendString(b, "instance", string(in.instance))
	b = appendString(b, "agent", string(in.agent))
	b = appendString(b, "name", in.source)
	b = appendString(b, "epoch", string(in.epoch))
	b = appendInt(b, "serial", int64(in.serial))
	b = appendBool(b, "ended", in.ended)
	b = appendInt(b, "start_us", in.start)
	b = appendInt(b, "sequence", int64(in.sequence))
	b = appendInt(b, "label_us", in.label)
	b = appendInt(b, "boot_us", in.last.Boot)
	b = appendInt(b, "wall_us", in.last.Wall)
	b = appendString(b, "boot_id", in.bootID)
	b = appendInt(b, "step_us", in.step)
	b = appendBool(b, "fresh", in.fresh)
	b = appendString(b, "user", string(in.owner.User))
	b = appendString(b, "org", string(in.owner.Org))
	b = appendString(b, "state", string(in.state))
	b = appendInts(b, "gauges", in.gauges[:])
	b = appendInt(b, "known", int64(in.total.Known))
	b = appendInts(b, "totals", in.total.Vector[:])
	b = appendInts(b, "remainders", in.remainder[:])
	b = appendInt(b, "cpu_part_us", in.parts.cpu)
	b = appendInt(b, "gpu_part_us", in.parts.gpu)
	b = append(appendName(b, "devices"), '[')
	for i := range in.devices {
		d := &in.devices[i]
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"q":"`...)
		b = append(append(b, d.quantity.String()...), '"')
		b = appendString(b, "d", d.name)
		b = appendString(b, "i", d.incarnation)
		b = strconv.AppendUint(appendName(b, "v"), d.value, 10)
		b = append(appendInt(b, "s", d.seen), '}')
	}
	b = append(b, ']')
	if len(in.changes) > 0 {
		list, _ := json.Marshal(in.changes) // which escapes what carriers escape; it always marshals
		b = append(appendName(b, "changes"), list...)
	}
	return append(b, '}')
}

func appendName(b []byte, name string) []byte {
	return append(append(append(b, `,"`...), name...), `":`...)
}

func appendInt(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(appendName(b, name), n, 10)
}

func appendInts[T int64 | uint64](b []byte, name string, ns []T) []byte {
	b = append(appendName(b, name), '[')
	for i, n := range ns {
		if i > 0 {
			b = append(b, ',')
		}
		if n < 0 {
			b = strconv.AppendInt(b, int64(n), 10)
		} else {
			b = strconv.AppendUint(b, uint64(n), 10)
		}
	}
	return append(b, ']')
}

func appendBool(b []byte, name string, v bool) []byte {
	return strconv.AppendBool(appendName(b, name), v)
}

func appendString(b []byte, name, s string) []byte {
	b = appendName(b, name)
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '<' || c == '>' || c == '&' {
			quoted, _ := json.Marshal(s) // a string always marshals
			return append(b, quoted...)
		}
	}
	return append(append(append(b, '"'), s...), '"')
}

// Restore takes a checkpoint of this agent's own spool: the instance goes on
// in the same epoch. Checkpoints may come in any order and repeatedly; of one
// odometer the newest stands. An error wraps [odometer.ErrInvalid], and then
// nothing has changed. The readings since the newest checkpoint, observed
// again, give the same events with the same ids as before. Restore comes before
// the first Observe.
func (m *Meter) Restore(data json.RawMessage) error {
	in, p, err := m.decode(data)
	if err != nil {
		return fmt.Errorf("restore a checkpoint of the meter: %w", err)
	}
	m.restore(in, p)
	return nil
}

// Adopt takes a checkpoint that the server kept, where this agent's own state
// is lost: the instance goes on from its raw readings in a new epoch, which
// starts at the checkpoint's moment, so that what was used since then is found
// in the difference. It emits the new epoch's own checkpoint. An epoch that had
// ended stays so, and only what its instance carries is taken over.
//
// Where the instance is known already from a newer checkpoint nothing happens,
// and where epochs are Named, so that a new one would have the same id, Adopt
// does what Restore does.
// An error wraps [odometer.ErrInvalid] and nothing has changed. Adopt comes
// before the first Observe; the readings after it are Unwatched.
func (m *Meter) Adopt(data json.RawMessage, emit func(odometer.Record)) error {
	in, p, err := m.decode(data)
	if err != nil {
		return fmt.Errorf("adopt a checkpoint of the meter: %w", err)
	}
	if m.restore(in, p); m.instances[m.key(in.pair, in.source)] != in || in.ended || m.opts.Named {
		return nil
	}
	in.start, in.sequence, in.step, in.adopted = in.label, 0, 0, in.serial
	in.total = odometer.Usage{Known: times}
	in.from = in.total
	in.epoch = m.epoch(in)
	m.emit(in, nil, emit)
	return nil
}

// restore puts in in its place unless a newer one is there.
func (m *Meter) restore(in *instance, p parts) {
	if shared := m.parts[in.instance]; shared == nil {
		m.parts[in.instance] = &p
	} else if shared.serial <= p.serial {
		shared.cpu, shared.gpu, shared.serial = p.cpu, p.gpu, p.serial
	}
	old := m.instances[m.key(in.pair, in.source)]
	if old == nil || cmp.Or(old.adopted, old.serial) < in.serial {
		m.put(in)
	}
}

// decode returns the instance that a checkpoint describes and what it says of
// all epochs of that instance.
func (m *Meter) decode(data []byte) (*instance, parts, error) {
	var c checkpoint
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&c); err != nil {
		var head struct {
			Version int `json:"version"`
		}
		if json.Unmarshal(data, &head) == nil && head.Version > checkpointVersion {
			return nil, parts{}, newer(head.Version)
		}
		return nil, parts{}, invalid("it is not what a meter writes: %v", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, parts{}, invalid("something follows it")
	}
	if err := m.check(&c); err != nil {
		return nil, parts{}, fmt.Errorf("of instance %q: %w", c.Instance, err)
	}
	in := &instance{
		pair: pair{c.Instance, c.Agent}, source: c.Name, epoch: c.Epoch, start: c.Start, serial: c.Serial,
		sequence: c.Sequence, ended: c.Ended,
		total: odometer.Usage{Vector: c.Totals, Known: c.Known}, remainder: c.Remainders,
		last: odometer.Moment{Boot: c.Boot, Wall: c.Wall}, label: c.Label, bootID: c.BootID,
		owner: odometer.Owner{User: c.User, Org: c.Org}, state: c.State, gauges: c.Gauges, fresh: c.Fresh,
		since: c.Label, step: c.Step, changes: c.Changes,
	}
	in.from = in.total
	for i := range c.Devices {
		d := &c.Devices[i]
		q, ok := odometer.QuantityOf(d.Quantity)
		if !ok || !counters.Has(q) {
			return nil, parts{}, invalid("of instance %q: %q is not the quantity of a counter", c.Instance, d.Quantity)
		}
		if in.find(&odometer.Counter{Quantity: q, Device: d.Device}, 0) >= 0 {
			return nil, parts{}, invalid("of instance %q: counter %s of device %q is there twice", c.Instance, q, d.Device)
		}
		if err := errors.Join(checkName("device", d.Device), checkName("incarnation", d.Incarnation)); err != nil {
			return nil, parts{}, fmt.Errorf("of instance %q: %w", c.Instance, err)
		}
		in.devices = append(in.devices, device{quantity: q, name: d.Device, incarnation: d.Incarnation, value: d.Value, seen: d.Seen})
	}
	p := parts{cpu: c.CPUPart, gpu: c.GPUPart, serial: c.Serial}
	if err := in.checkWritten(p, data); err != nil {
		return nil, parts{}, fmt.Errorf("of instance %q: %w", c.Instance, err)
	}
	return in, p, nil
}

// checkWritten compares data with what in would write itself, so that a
// member that is absent, there twice or in other letters is not taken for 0.
func (in *instance) checkWritten(p parts, data []byte) error {
	var got bytes.Buffer
	if err := json.Compact(&got, data); err != nil {
		return invalid("it is not JSON: %v", err)
	}
	in.parts = &p
	want := in.appendCheckpoint(nil)
	in.parts = nil
	if bytes.Equal(got.Bytes(), want) {
		return nil
	}
	n := 0
	for n < min(got.Len(), len(want)) && got.Bytes()[n] == want[n] {
		n++
	}
	return invalid("it is not what a meter writes: from byte %d it has %.40q, and %.40q was to be expected", n, got.Bytes()[n:], want[n:])
}

func newer(version int) error {
	return invalid("it has version %d, this program knows %d: it was written by a newer one", version, checkpointVersion)
}

// check says everything that is wrong with a checkpoint's numbers and names.
func (m *Meter) check(c *checkpoint) error {
	if c.Version != checkpointVersion {
		if c.Version > checkpointVersion {
			return newer(c.Version)
		}
		return invalid("version %d was never written", c.Version)
	}
	errs := []error{
		odometer.ValidID("instance", string(c.Instance)),
		odometer.ValidID("agent", string(c.Agent)),
		c.Epoch.Valid(),
		checkName("epoch", c.Name),
		checkName("boot", c.BootID),
		checkOwner(odometer.Owner{User: c.User, Org: c.Org}),
		checkGauges(c.Gauges),
	}
	wrong := func(is bool, format string, args ...any) {
		if is {
			errs = append(errs, invalid(format, args...))
		}
	}
	within := func(name string, n, low, high int64) {
		wrong(n < low || n > high, "%s is %d, outside %d to %d", name, n, low, high)
	}
	wrong(m.opts.Agent != "" && !m.opts.Named && c.Agent != m.opts.Agent, "it is of agent %q, this is %q", c.Agent, m.opts.Agent)
	wrong(!c.State.Valid(), "state %q is not running, paused or stopped", c.State)
	wrong(c.Serial == 0 || c.Serial > math.MaxInt64/2, "serial %d is out of range", c.Serial)
	wrong(c.Sequence > c.Serial, "sequence %d is beyond serial %d", c.Sequence, c.Serial)
	wrong(c.Sequence == 0 && (c.Label != c.Start || c.Step != 0 || c.Totals != odometer.Vector{}), "it has totals or time, and no event that told them")
	within("start_us", c.Start, 0, maxMicros)
	within("label_us", c.Label, 0, maxMicros)
	within("boot_us", c.Boot, 0, maxMicros)
	within("wall_us", c.Wall, 0, maxMicros)
	within("step_us", c.Step, -maxMicros, maxMicros)
	within("cpu_part_us", c.CPUPart, 0, odometer.SecondMicros-1)
	within("gpu_part_us", c.GPUPart, 0, odometer.SecondMicros-1)
	wrong(c.Known&times != times || c.Known > odometer.AllKnown, "known is %d, which is no such set", c.Known)
	for q, n := range c.Totals {
		name := odometer.Quantity(q)
		wrong(n < 0, "the total of %s is %d, below 0", name, n)
		wrong(n > 0 && !c.Known.Has(name), "the total of %s is %d, but it is not known", name, n)
		wrong(c.Remainders[q] >= unit(name), "the remainder of %s is %d, beyond its unit %d", name, c.Remainders[q], unit(name))
	}
	wrong(len(c.Devices) > MaxDevices, "it has %d devices, at most %d are possible", len(c.Devices), MaxDevices)
	return errors.Join(errs...)
}

// unit is what one unit of q has of the finer unit that is folded in.
func unit(q odometer.Quantity) uint64 {
	switch q {
	case odometer.CPU, odometer.GPU, odometer.GPUBusy:
		return nanos
	}
	for i := range table {
		if table[i].quantity == q {
			return table[i].unit
		}
	}
	return 1
}
