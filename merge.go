package odometer

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
)

// Merge makes e the coalescence of itself and next, the event that follows it
// in the same epoch: the identity from e's first to next's last sequence, the
// usage of both over the span of both. Whole seconds are summed and the other
// metrics computed anew from the integers. The changes of both are told, as far
// as there is room. The quality is the one they share
// and otherwise estimated. Of Extra remains what both say alike.
//
// It fails, and leaves e as it was, with an error wrapping [ErrInvalid] when
// next does not follow: another instance, owner, epoch or version, a hole in
// sequence, time or readings, a stepped clock between them, or e was final.
func (e *Event) Merge(next *Event) error {
	refuse := func(format string, args ...any) error {
		return fmt.Errorf("merge %s with %s: %s: %w", e.ID(), next.ID(), fmt.Sprintf(format, args...), ErrInvalid)
	}
	switch {
	case !e.Integral() || !next.Integral():
		return refuse("version 1.0 has no readings")
	case e.Version != next.Version:
		return refuse("versions %s and %s", e.Version, next.Version)
	case e.Instance != next.Instance || e.Epoch != next.Epoch || e.Agent != next.Agent || e.EpochStart != next.EpochStart:
		return refuse("they are of different epochs")
	case e.Owner != next.Owner:
		return refuse("they have different owners")
	case e.Final:
		return refuse("the epoch ended with the first")
	case next.FirstSequence != e.Sequence+1:
		return refuse("the sequence goes from %d to %d", e.Sequence, next.FirstSequence)
	case next.Span.Step != 0:
		return refuse("the clock was set by %d µs between them", next.Span.Step)
	case next.Span.Start != e.Span.End:
		return refuse("one span ends at %d and the other starts at %d", e.Span.End, next.Span.Start)
	case next.Readings.Start.Vector != e.Readings.End.Vector:
		return refuse("the readings between them differ")
	}
	sum := e.Usage
	if !sum.Add(next.Usage) {
		return refuse("the usage does not fit in 64 bits")
	}
	cpu, gpu := e.Metrics.CPUSeconds+next.Metrics.CPUSeconds, e.Metrics.GPUSeconds+next.Metrics.GPUSeconds
	e.Sequence = next.Sequence
	e.Span.End = next.Span.End
	e.Usage = sum
	e.Readings.End = next.Readings.End
	e.Final = next.Final
	if e.Quality != next.Quality {
		e.Quality = Estimated
	}
	e.Extra = common(e.Extra, next.Extra)
	if len(next.Lifecycle) > 0 {
		e.Lifecycle = Lifecycle(slices.Concat(e.Lifecycle, next.Lifecycle))
	}
	e.Derive(0, 0)
	e.Metrics.CPUSeconds, e.Metrics.GPUSeconds = cpu, gpu
	return nil
}

// common returns those of a that b has with the same value.
func common(a, b []Member) []Member {
	var both []Member
	for _, m := range a {
		for _, n := range b {
			if m.In == n.In && m.Name == n.Name && string(m.Value) == string(n.Value) {
				both = append(both, m)
				break
			}
		}
	}
	return both
}

// UsageOf10 returns the integers of an event of version 1.0 and the span they
// lie in. The one rule: each amount is the integral over the period, taken
// exactly and rounded half to even: whole seconds of CPU and GPU × 10^6,
// mean GB × 2^10 × the period's seconds as MiB-seconds, MB × 2^20 as bytes.
// The whole period counts as measured. What the event cannot say (vCPUs,
// what was allocated, disk traffic) is unknown.
//
// It fails, wrapping [ErrInvalid], when the period is not a positive time, a
// metric is negative or not finite, or an amount does not fit in 64 bits.
func UsageOf10(e *Event) (Usage, Span, error) {
	if e.Period.Start < 0 || e.Period.End > maxSeconds || e.Period.End <= e.Period.Start {
		return Usage{}, Span{}, fmt.Errorf("period: %d to %d is no time to use anything in: %w", e.Period.Start, e.Period.End, ErrInvalid)
	}
	seconds := e.Period.End - e.Period.Start
	span := Span{Start: e.Period.Start * SecondMicros, End: e.Period.End * SecondMicros}
	var u Usage
	var p problems
	set := func(q Quantity, metric string, n int64, ok bool) {
		if !ok {
			p.add("metrics.%s: too large", metric)
			return
		}
		u.Vector[q], u.Known = n, u.Known.With(q)
	}
	whole := func(q Quantity, metric string, n uint64) {
		const most = (1<<63 - 1) / SecondMicros
		set(q, metric, int64(min(n, most))*SecondMicros, n <= most)
	}
	scaled := func(q Quantity, metric string, f float64, factor int64) {
		if !(f >= 0) {
			p.add("metrics.%s: %v is no amount", metric, f)
			return
		}
		if f > 1<<63 {
			set(q, metric, 0, false)
			return
		}
		n, ok := scaleHalfEven(f, factor)
		set(q, metric, n, ok)
	}
	m := &e.Metrics
	whole(CPU, "cpu_seconds", m.CPUSeconds)
	whole(GPU, "gpu_seconds", m.GPUSeconds)
	scaled(Memory, "memory_gb", m.MemoryGB, 1<<10*seconds)
	scaled(Storage, "storage_gb", m.StorageGB, 1<<10*seconds)
	scaled(NetworkEgress, "network_egress_mb", m.NetworkEgressMB, 1<<20)
	scaled(NetworkIngress, "network_ingress_mb", m.NetworkIngressMB, 1<<20)
	set(MeasuredTime, "", seconds*SecondMicros, true)
	if len(p) > 0 {
		return Usage{}, Span{}, errors.Join(p...)
	}
	return u, span, nil
}

// scaleHalfEven returns f × factor, computed exactly and rounded half to even,
// and whether it fits. Neither may be negative.
func scaleHalfEven(f float64, factor int64) (int64, bool) {
	exact := new(big.Rat).SetFloat64(f)
	exact.Mul(exact, new(big.Rat).SetInt64(factor))
	n, rest := new(big.Int).QuoRem(exact.Num(), exact.Denom(), new(big.Int))
	switch rest.Lsh(rest, 1).Cmp(exact.Denom()) {
	case 1:
		n.Add(n, big.NewInt(1))
	case 0:
		n.Add(n, big.NewInt(int64(n.Bit(0))))
	}
	return n.Int64(), n.IsInt64()
}
