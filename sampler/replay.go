package sampler

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"

	"example.org/odometer"
)

// MaxReplayLine is the longest line of a replay file that is accepted, in
// bytes.
const MaxReplayLine = 1 << 20

// Replay reads readings from a file of JSON lines. A line is a reading:
//
//	{"time":"2026-01-01T00:00:30.5Z","host":"h1","instance":"vm-1","epoch":"e1","state":"running",
//	 "cpu_us":1,"gpu_us":1,"net_tx_bytes":1,"net_rx_bytes":1,"disk_read_bytes":1,"disk_write_bytes":1,
//	 "memory_mib":1,"memory_allocated_mib":1,"storage_mib":1,"vcpus":1,
//	 "user_id":"u","org_id":"o","final":false}
//
// or a lifecycle mark, {"event":"started", "time":…, "host":…, "instance":…,
// "epoch":…}, with the event started or stopped.
//
//   - time, host, instance and epoch are required; everything else may be
//     absent or null, which means unknown and not 0. Without a state the
//     instance runs. An empty user or organisation is none.
//   - cpu_us, gpu_us and the bytes are cumulative counters of the epoch. The
//     GPU is a counter here, so the gauge of GPUs stays unknown.
//   - memory, storage and vcpus are gauges, in force until the epoch's next
//     reading.
//   - After a started mark the epoch's counters count from 0 at its time: the
//     first value of each is born. The mark carries no counters and no gauges,
//     whatever its line says.
//   - A stopped mark changes the state and nothing else: it is a reading in
//     state stopped with no counters and with the gauges and the owner that
//     the epoch had last.
//   - Members nobody knows are ignored, blank lines too.
//
// A number is a non-negative decimal integer, or a string that holds one, as
// integers above 2^53 are written. time is RFC 3339 and is cut to the
// microsecond; it stands for both clocks of the reading's [odometer.Moment].
// Everything else is an error that names file and line and wraps
// [odometer.ErrInvalid]; a member that stands twice is one of them.
//
// Readings come in the order of the file, and the same file gives the same
// readings always. A Replay is used by one goroutine at a time and keeps, per
// epoch that is not final, what the marks need.
type Replay struct {
	name   string
	in     *bufio.Reader
	long   []byte // a line longer than in's buffer
	line   int
	offset int64
	err    error
	dec    lineDecoder

	epochs map[string]*replayEpoch
	last   *replayEpoch // of the previous line, which is often of the same epoch
	key    []byte
}

// replayEpoch is what a Replay remembers of one epoch of one instance.
type replayEpoch struct {
	key      string
	host     odometer.AgentID
	instance odometer.InstanceID
	epoch    string

	owner  odometer.Owner  // of the last reading or mark that named one
	gauges odometer.Gauges // of the last reading

	unborn [odometer.Quantities]bool // counters that have not been seen since the started mark
}

// NewReplay reads from r; name is what errors call it, the file's name.
func NewReplay(r io.Reader, name string) *Replay {
	return &Replay{name: name, in: bufio.NewReaderSize(r, 256<<10), epochs: map[string]*replayEpoch{}}
}

// Offset returns how many bytes have been read up to the end of the last line
// that Next gave, for a progress bar.
func (p *Replay) Offset() int64 { return p.offset }

// Line returns the number of the last line that Next gave, from 1.
func (p *Replay) Line() int { return p.line }

// Next puts the next reading into r, whose Counters it reuses, and returns
// io.EOF after the last. After an error every call returns the same error.
func (p *Replay) Next(r *odometer.Reading) error {
	if p.err != nil {
		return p.err
	}
	for {
		line, err := p.readLine()
		if err != nil {
			p.err = err
			return err
		}
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := p.reading(line, r); err != nil {
			p.err = fmt.Errorf("%s:%d: %w: %w", p.name, p.line, err, odometer.ErrInvalid)
			return p.err
		}
		return nil
	}
}

// readLine returns the next line with or without its end. The bytes are valid
// until the next call.
func (p *Replay) readLine() ([]byte, error) {
	p.long = p.long[:0]
	for {
		b, err := p.in.ReadSlice('\n')
		p.offset += int64(len(b))
		if err == nil || err == io.EOF && len(b)+len(p.long) > 0 {
			p.line++
			if len(p.long) == 0 && len(b) <= MaxReplayLine {
				return b, nil
			}
			p.long = append(p.long, b...)
			b = p.long
		} else if errors.Is(err, bufio.ErrBufferFull) {
			p.long = append(p.long, b...)
			if len(p.long) <= MaxReplayLine {
				continue
			}
			p.line++
			b = p.long
		} else if err == io.EOF {
			return nil, io.EOF
		} else {
			return nil, fmt.Errorf("%s:%d: read: %w", p.name, p.line+1, err)
		}
		if len(b) > MaxReplayLine {
			return nil, fmt.Errorf("%s:%d: the line is longer than %d bytes: %w", p.name, p.line, MaxReplayLine, odometer.ErrInvalid)
		}
		return b, nil
	}
}

// reading turns one line into r.
func (p *Replay) reading(line []byte, r *odometer.Reading) error {
	d := &p.dec
	if err := d.decode(line); err != nil {
		return err
	}
	e, err := p.epochOf(d)
	if err != nil {
		return err
	}
	counters := r.Counters[:0]
	*r = odometer.Reading{
		Instance: e.instance, Agent: e.host, Epoch: e.epoch,
		At:       odometer.Moment{Boot: d.time, Wall: d.time},
		Counters: counters, Gauges: odometer.NoGauges,
	}
	if len(d.text[memberUser])+len(d.text[memberOrg]) > 0 {
		if err := e.named(d); err != nil {
			return err
		}
		r.Owner = e.owner
	}
	switch d.event {
	case eventStarted:
		r.State, r.Started, r.Owner = odometer.Running, true, e.owner
		return e.start(d)
	case eventStopped:
		r.State, r.Owner, r.Gauges = odometer.Stopped, e.owner, e.gauges
		return d.checkNumbers()
	}
	if r.State = d.state; r.State == "" {
		r.State = odometer.Running
	}
	if err := e.count(d, r); err != nil {
		return err
	}
	if r.Final = d.final; r.Final {
		delete(p.epochs, e.key)
		p.last = nil
	}
	return nil
}

// epochOf finds or makes the epoch that the line is about.
func (p *Replay) epochOf(d *lineDecoder) (*replayEpoch, error) {
	for _, m := range [...]member{memberTime, memberHost, memberInstance, memberEpoch} {
		if !d.has(m) {
			return nil, fmt.Errorf("%q is missing", memberNames[m])
		}
	}
	host, instance, epoch := d.text[memberHost], d.text[memberInstance], d.text[memberEpoch]
	if e := p.last; e != nil && string(e.instance) == string(instance) && e.epoch == string(epoch) && string(e.host) == string(host) {
		return e, nil
	}
	// A slash is in no id, so that the three cannot be mistaken.
	p.key = append(append(append(append(append(p.key[:0], host...), '/'), instance...), '/'), epoch...)
	e := p.epochs[string(p.key)]
	if e == nil {
		for _, m := range [...]member{memberHost, memberInstance, memberEpoch} {
			if err := odometer.ValidID(memberNames[m], string(d.text[m])); err != nil {
				return nil, err
			}
		}
		e = &replayEpoch{
			key:  string(p.key),
			host: odometer.AgentID(host), instance: odometer.InstanceID(instance), epoch: string(epoch),
			gauges: odometer.NoGauges,
		}
		p.epochs[e.key] = e
	}
	p.last = e
	return e, nil
}

// named keeps the owner that the line names. An organisation without a user
// is the unassigned user's there.
func (e *replayEpoch) named(d *lineDecoder) error {
	user, org := d.text[memberUser], d.text[memberOrg]
	if string(e.owner.User) == string(user) && string(e.owner.Org) == string(org) {
		return nil
	}
	for _, m := range [...]member{memberUser, memberOrg} {
		if len(d.text[m]) > 0 {
			if err := odometer.ValidID(memberNames[m], string(d.text[m])); err != nil {
				return err
			}
		}
	}
	e.owner = odometer.Owner{User: odometer.UserID(user), Org: odometer.OrgID(org)}.OrUnassigned()
	return nil
}

// start notes that the counters are 0 now.
func (e *replayEpoch) start(d *lineDecoder) error {
	for q := range e.unborn {
		e.unborn[q] = true
	}
	e.gauges = odometer.NoGauges
	return d.checkNumbers()
}

// replayCounters says what becomes of which counter.
var replayCounters = [...]struct {
	member   member
	quantity odometer.Quantity
	unit     uint64 // what 1 is in the reading's unit
}{
	{memberCPU, odometer.CPU, 1000},
	{memberGPU, odometer.GPU, 1000},
	{memberTx, odometer.NetworkEgress, 1},
	{memberRx, odometer.NetworkIngress, 1},
	{memberDiskRead, odometer.DiskRead, 1},
	{memberDiskWrite, odometer.DiskWrite, 1},
}

// count fills in the counters and gauges of a reading.
func (e *replayEpoch) count(d *lineDecoder, r *odometer.Reading) error {
	for _, c := range &replayCounters {
		if !d.has(c.member) {
			continue
		}
		value, ok := d.scaled(c.member, c.unit)
		if !ok {
			return d.overflow(c.member)
		}
		r.Counters = append(r.Counters, odometer.Counter{
			Quantity: c.quantity, Value: value, Born: e.unborn[c.quantity],
		})
		e.unborn[c.quantity] = false
	}
	const mib = 1 << 20
	for _, g := range [...]struct {
		member member
		unit   uint64
		to     *int64
	}{
		{memberMemory, mib, &r.Gauges.Memory},
		{memberMemoryAllocated, mib, &r.Gauges.MemoryAllocated},
		{memberStorage, mib, &r.Gauges.Storage},
		{memberVCPUs, 1, &r.Gauges.VCPUs},
	} {
		if !d.has(g.member) {
			continue
		}
		value, ok := d.scaled(g.member, g.unit)
		if !ok {
			return d.overflow(g.member)
		}
		*g.to = int64(value)
	}
	e.gauges = r.Gauges
	return nil
}

// scaled returns a number × unit, not ok beyond what the ledger can hold:
// 63 bits of the quantity's own unit, which of processor time is the
// microsecond that the file has.
func (d *lineDecoder) scaled(m member, unit uint64) (uint64, bool) {
	hi, lo := bits.Mul64(d.number[m], unit)
	return lo, hi == 0 && (unit == 1000 || lo <= math.MaxInt64)
}

func (d *lineDecoder) overflow(m member) error {
	return fmt.Errorf("%q is %d, more than can be counted", memberNames[m], d.number[m])
}

// checkNumbers refuses in a mark what would be refused in a reading.
func (d *lineDecoder) checkNumbers() error {
	var e replayEpoch
	var r odometer.Reading
	return e.count(d, &r)
}
