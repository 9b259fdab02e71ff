package meter

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
)

const (
	second = odometer.SecondMicros
	mib    = 1 << 20
	// noon is the start of an hour; the times of the tables count from it.
	noon = 489967 * odometer.HourMicros
	// uptime is what the boot clock says at noon.
	uptime = 5000 * second
)

// A touch changes a reading under construction.
type touch func(*odometer.Reading)

// read returns a reading of vm-1 at h1, the given time after noon.
func read(after float64, touches ...touch) odometer.Reading {
	us := int64(after * second)
	r := odometer.Reading{
		Instance: "vm-1", Agent: "h1", State: odometer.Running, Gauges: odometer.NoGauges,
		At: odometer.Moment{Boot: uptime + us, Wall: noon + us},
	}
	for _, t := range touches {
		t(&r)
	}
	return r
}

// counts adds a counter of incarnation "a".
func counts(q odometer.Quantity, device string, value uint64) touch {
	return counter(odometer.Counter{Quantity: q, Device: device, Incarnation: "a", Value: value})
}

func counter(c odometer.Counter) touch {
	return func(r *odometer.Reading) { r.Counters = append(r.Counters, c) }
}

// cpu adds the processor time of the only device, in seconds.
func cpu(seconds float64) touch { return counts(odometer.CPU, "", uint64(seconds*1e9)) }

func memory(mebibytes int64) touch {
	return func(r *odometer.Reading) { r.Gauges.Memory = mebibytes * mib }
}

func gauged(g odometer.Gauges) touch { return func(r *odometer.Reading) { r.Gauges = g } }

func state(s odometer.State) touch { return func(r *odometer.Reading) { r.State = s } }

func owner(user odometer.UserID) touch { return func(r *odometer.Reading) { r.Owner.User = user } }

func named(epoch string) touch { return func(r *odometer.Reading) { r.Epoch = epoch } }

func instanceOf(i odometer.InstanceID) touch { return func(r *odometer.Reading) { r.Instance = i } }

func started(r *odometer.Reading) { r.Started, r.State = true, "" }

func tells(what ...odometer.ChangeKind) touch {
	return func(r *odometer.Reading) {
		for _, k := range what {
			r.Changes = append(r.Changes, odometer.Change{Instance: r.Instance, Kind: k, At: r.At})
		}
	}
}

func final(r *odometer.Reading) { r.Final = true }

func unwatched(r *odometer.Reading) { r.Unwatched = true }

// set moves the wall clock by so many seconds.
func set(by float64) touch { return func(r *odometer.Reading) { r.At.Wall += int64(by * second) } }

// boot sets the boot clock, in seconds.
func boot(s float64) touch { return func(r *odometer.Reading) { r.At.Boot = int64(s * second) } }

// tape records what a meter emits and holds each event to the invariants.
type tape struct {
	t interface {
		Helper()
		Fatalf(string, ...any)
	}
	m       *Meter
	records []odometer.Record
	ends    map[odometer.Epoch]*odometer.Event
}

func newTape(t *testing.T, opts Options) *tape {
	return &tape{t: t, m: New(opts), ends: map[odometer.Epoch]*odometer.Event{}}
}

func (p *tape) emit(r odometer.Record) {
	p.records = append(p.records, r)
	if r.Event != nil {
		p.verify(r.Event)
	}
}

func (p *tape) observe(readings ...odometer.Reading) {
	p.t.Helper()
	for i := range readings {
		if err := p.m.Observe(&readings[i], p.emit); err != nil {
			p.t.Fatalf("reading %d: got error %v, want none", i, err)
		}
	}
}

// verify holds an event to what every event of an epoch must keep.
func (p *tape) verify(e *odometer.Event) {
	p.t.Helper()
	if err := e.Check(); err != nil {
		p.t.Fatalf("%s: got an event that is not consistent: %v", e.ID(), err)
	}
	if read, err := odometer.DecodeEvent(e.AppendJSON(nil)); err != nil || read.Content() != e.Content() {
		p.t.Fatalf("%s: got %v (%v) back from its JSON, want the same content", e.ID(), read, err)
	}
	u := &e.Usage
	for q := range odometer.Quantity(odometer.Quantities) {
		switch d := e.Readings.End.Vector[q] - e.Readings.Start.Vector[q]; {
		case u.Vector[q] != d:
			p.t.Fatalf("%s: %s: got usage %d, want the readings' difference %d", e.ID(), q, u.Vector[q], d)
		case d < 0:
			p.t.Fatalf("%s: %s: got usage %d, want none below 0", e.ID(), q, d)
		case d > 0 && !u.Known.Has(q):
			p.t.Fatalf("%s: %s: got usage %d of a quantity that is not known", e.ID(), q, d)
		case u.Known.Has(q) && !e.Readings.End.Known.Has(q):
			p.t.Fatalf("%s: %s: known in the usage and not in the reading", e.ID(), q)
		}
	}
	if length := e.Span.End - e.Span.Start; length <= 0 || u.Elapsed() != length {
		p.t.Fatalf("%s: got elapsed time %d, want the span's length %d, above 0", e.ID(), u.Elapsed(), length)
	}
	if u.Vector[timeOf(e.Quality)] != u.Elapsed() {
		p.t.Fatalf("%s: got time of several qualities in one event: %v", e.ID(), u.Vector)
	}
	if e.FirstSequence != e.Sequence || e.Version != odometer.Version11 || e.Agent == "" || e.Owner.User == "" {
		p.t.Fatalf("%s: got incomplete event %+v", e.ID(), e)
	}
	last := p.ends[e.Epoch]
	switch {
	case last == nil:
		if e.Sequence != 1 || e.Span.Start != e.EpochStart+e.Span.Step || e.Readings.Start.Vector != (odometer.Vector{}) {
			p.t.Fatalf("%s: got %+v as the first event, want sequence 1 from 0 at the epoch's start", e.ID(), e)
		}
	case last.Final:
		p.t.Fatalf("%s: got an event after the final one", e.ID())
	case e.Sequence != last.Sequence+1 || e.Span.Start != last.Span.End+e.Span.Step || e.Readings.Start != last.Readings.End:
		p.t.Fatalf("%s: got %+v, want it to go on from %+v", e.ID(), e, last)
	}
	p.ends[e.Epoch] = e
}

// lines says what was recorded, one line a record; times count from noon.
func (p *tape) lines() []string {
	var lines []string
	for _, r := range p.records {
		if r.Event == nil {
			lines = append(lines, "checkpoint")
			continue
		}
		lines = append(lines, line(r.Event))
	}
	return lines
}

func line(e *odometer.Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %g-%g %s", e.Sequence, float64(e.Span.Start-noon)/second, float64(e.Span.End-noon)/second, e.Quality)
	if e.Span.Step != 0 {
		fmt.Fprintf(&b, " step=%g", float64(e.Span.Step)/second)
	}
	if e.Owner.User != odometer.Unassigned {
		fmt.Fprintf(&b, " %s", e.Owner.User)
	}
	for q := range odometer.MeasuredTime {
		if e.Usage.Known.Has(q) {
			fmt.Fprintf(&b, " %s=%d", q, e.Usage.Vector[q])
		}
	}
	if e.Final {
		b.WriteString(" final")
	}
	for _, c := range e.Lifecycle {
		fmt.Fprintf(&b, " %s", c.Kind)
	}
	return b.String()
}

// live closes a period every 30 s, as an agent does by default.
var live = Options{Agent: "h1", Nonce: "0123456789abcdef0123456789abcdef", Interval: 30 * second}

// replay closes one at every reading, as a replay does.
var replay = Options{Named: true}

type scenario struct {
	name     string
	opts     Options
	readings []odometer.Reading
	want     []string
}

func runScenarios(t *testing.T, scenarios []scenario) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			p := newTape(t, s.opts)
			p.observe(s.readings...)
			if got := p.lines(); !slices.Equal(got, s.want) {
				t.Fatalf("got\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(s.want, "\n\t"))
			}
		})
	}
}
