package odometer

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// maxSeconds is the last second of the year 9999, beyond which a time has no
// form in RFC 3339.
const maxSeconds = 253402300799

// problems collects what is wrong, for all of it to be told at once.
type problems []error

func (p *problems) add(format string, args ...any) {
	*p = append(*p, fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), ErrInvalid))
}

func (p *problems) err(err error) {
	if err != nil {
		*p = append(*p, err)
	}
}

// supported reports whether version is 1.x.
func supported(version string) bool {
	if version == Version11 || version == Version10 {
		return true
	}
	minor, ok := strings.CutPrefix(version, "1.")
	if !ok || len(minor) > 4 {
		return false
	}
	_, ok = parseDigits(minor)
	return ok
}

func errVersion(version string) error {
	return fmt.Errorf("version: %q where 1.x is due: %w", clip(version), ErrVersion)
}

func checkEvent(e *Event) error {
	if !supported(e.Version) {
		return errVersion(e.Version)
	}
	var p problems
	p.labels(e, false)
	if e.Integral() {
		p.integral(e)
		p.lifecycle(e)
		p.amounts(inUsage, &e.Usage, false)
		p.readings(e)
	} else if len(p) == 0 {
		_, _, err := UsageOf10(e)
		p.err(err)
	}
	return errors.Join(p...)
}

func checkEntry(entry *Entry) error {
	e := &entry.Event
	if !supported(e.Version) {
		return errVersion(e.Version)
	}
	var p problems
	p.labels(e, true)
	switch entry.Kind {
	case KindUsage, KindRecovered, KindCorrection:
	default:
		p.add("kind: %q is none of usage, recovered, correction", clip(string(entry.Kind)))
	}
	p.time("booked_at", entry.BookedAt, SecondMicros)
	p.lifecycle(e)
	if e.Integral() {
		p.integral(e)
	} else {
		p.span(e)
	}
	p.amounts(inUsage, &e.Usage, true)
	p.amounts(inReadingsStart, &e.Readings.Start, false)
	p.amounts(inReadingsEnd, &e.Readings.End, false)
	return errors.Join(p...)
}

// labels checks who, when and the fields of version 1.0.
func (p *problems) labels(e *Event, entry bool) {
	p.err(ValidID("instance_id", string(e.Instance)))
	if e.Owner.User != "" {
		p.err(ValidID("user_id", string(e.Owner.User)))
	}
	if e.Owner.Org != "" {
		p.err(ValidID("org_id", string(e.Owner.Org)))
	}
	p.time("timestamp", e.Timestamp, 1)
	p.time("period.start", e.Period.Start, 1)
	p.time("period.end", e.Period.End, 1)
	switch {
	case e.Period.End < e.Period.Start:
		p.add("period: the end, %d, lies before the start, %d", e.Period.End, e.Period.Start)
	case e.Period.End == e.Period.Start && !e.Integral() && !entry:
		p.add("period: the end, %d, does not lie after the start", e.Period.End)
	}
	m := &e.Metrics
	for i, f := range [...]float64{m.CPUPercentAvg, m.MemoryGB, m.MemoryPercent, m.StorageGB, m.NetworkEgressMB, m.NetworkIngressMB} {
		switch {
		case !Finite(f):
			p.add("metrics.%s: %v is not finite", metricNames[i+1], f)
		case f < 0 && !entry:
			p.add("metrics.%s: %v is negative", metricNames[i+1], f)
		}
	}
	if !e.Quality.Valid() && (e.Integral() || entry) {
		p.add("quality: %q is none of measured, estimated, gap", clip(string(e.Quality)))
	}
}

// time checks a time in units of 1/perSecond.
func (p *problems) time(name string, t, perSecond int64) {
	switch {
	case t < 0:
		p.add("%s: %d is negative", name, t)
	case t/perSecond > maxSeconds:
		p.add("%s: %d lies beyond the year 9999", name, t)
	}
}

// integral checks what version 1.1 added, the amounts apart.
func (p *problems) integral(e *Event) {
	p.err(ValidID("agent_id", string(e.Agent)))
	p.err(e.Epoch.Valid())
	p.time("epoch_start_us", e.EpochStart, SecondMicros)
	switch {
	case e.Sequence == 0:
		p.add("sequence: 0, counting is from 1")
	case e.FirstSequence == 0:
		p.add("first_sequence: 0, counting is from 1")
	case e.FirstSequence > e.Sequence:
		p.add("first_sequence: %d lies behind sequence %d", e.FirstSequence, e.Sequence)
	}
	p.span(e)
}

func (p *problems) span(e *Event) {
	p.time("span.start_us", e.Span.Start, SecondMicros)
	p.time("span.end_us", e.Span.End, SecondMicros)
	if e.Span.End <= e.Span.Start {
		p.add("span: the end, %d, does not lie after the start, %d", e.Span.End, e.Span.Start)
	}
}

// amounts checks that nothing is negative and that what is unknown is 0.
func (p *problems) amounts(in string, u *Usage, signed bool) {
	if u.Known > AllKnown {
		p.add("%s: quantities are known that do not exist", in)
	}
	for q, n := range u.Vector {
		switch {
		case n == 0:
		case !u.Known.Has(Quantity(q)):
			p.add("%s.%s: unknown and yet %d", in, Quantity(q), n)
		case n < 0 && !signed:
			p.add("%s.%s: %d is negative", in, Quantity(q), n)
		}
	}
}

// readings checks that the event is the difference of its readings, and as
// long as its span.
func (p *problems) readings(e *Event) {
	before := len(*p)
	start, end, u := &e.Readings.Start, &e.Readings.End, &e.Usage
	p.amounts(inReadingsStart, start, false)
	p.amounts(inReadingsEnd, end, false)
	if missing := (u.Known | start.Known) &^ end.Known; missing != 0 {
		p.add("readings.end: %s is missing", Quantity(bits.TrailingZeros32(uint32(missing))))
	}
	if len(*p) > before {
		return // the differences would say the same again
	}
	for q, n := range u.Vector {
		if from, to := start.Vector[q], end.Vector[q]; to-from != n {
			p.add("usage.%s: %d where the readings differ by %d", Quantity(q), n, to-from)
		}
	}
	elapsed := SumOf(u.Vector[MeasuredTime])
	elapsed.Add(u.Vector[EstimatedTime])
	elapsed.Add(u.Vector[GapTime])
	if length := e.Span.End - e.Span.Start; length > 0 && elapsed != SumOf(length) {
		p.add("usage: measured_us, estimated_us and gap_us sum to %s where the span is %d long", elapsed, length)
	}
}
