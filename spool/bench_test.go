package spool

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"example.org/odometer"
	"example.org/odometer/meter"
)

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", n), func(b *testing.B) {
			s, err := Open(Options{Dir: b.TempDir()})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			rs := make([]odometer.Record, n)
			for i := range rs {
				rs[i] = newSource(i).record(1)
			}
			for b.Loop() {
				if err := s.Append(rs); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// recoverySize is how much BenchmarkOpen recovers: -recover 1073741824 is the
// GiB that the aim of 2 s is for.
var recoverySize = flag.Int64("recover", 64<<20, "bytes of the spool that BenchmarkOpen opens")

// BenchmarkOpen opens a spool as a killed agent leaves it: what a meter wrote
// of twenty instances, nothing receipted. Beside it the bare limit: the same
// files read once.
func BenchmarkOpen(b *testing.B) {
	o := Options{Dir: b.TempDir()}
	size := grow(b, o, *recoverySize)
	b.Run("spool", func(b *testing.B) {
		b.SetBytes(size)
		for b.Loop() {
			s, err := Open(o)
			if err != nil {
				b.Fatal(err)
			}
			_ = s.Close()
		}
	})
	b.Run("read", func(b *testing.B) {
		b.SetBytes(size)
		buf := make([]byte, 1<<20)
		for b.Loop() {
			names, err := filepath.Glob(filepath.Join(o.Dir, "*"+segmentSuffix))
			if err != nil {
				b.Fatal(err)
			}
			for _, name := range names {
				f, err := os.Open(name)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, buf); err != nil {
					b.Fatal(err)
				}
				_ = f.Close()
			}
		}
	})
}

// grow fills a spool with what a meter of twenty instances writes, and returns
// how many bytes its segments take.
func grow(b *testing.B, o Options, size int64) int64 {
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	m := meter.New(meter.Options{Agent: "host-12", Nonce: "nonce", Interval: 30 * odometer.SecondMicros})
	var rs []odometer.Record
	for second := int64(0); s.Stats().Bytes < size; second += 30 {
		for i := range 20 {
			r := odometer.Reading{
				Instance: odometer.InstanceID(fmt.Sprintf("6f1c2c0e-5f0f-4d7e-9a52-0000000000%02d", i)), Agent: "host-12", State: odometer.Running,
				Owner: odometer.Owner{User: "u-ada", Org: "o-acme"},
				At:    odometer.Moment{Boot: 1e9 + second*1e6, Wall: epochStart + second*1e6},
			}
			r.Gauges = odometer.NoGauges
			r.Gauges.Memory, r.Gauges.MemoryAllocated, r.Gauges.Storage, r.Gauges.VCPUs = 3<<30, 8<<30, 20<<30, 4
			for q, rate := range map[odometer.Quantity]int64{odometer.CPU: 4e8, odometer.NetworkEgress: 12345, odometer.NetworkIngress: 54321} {
				r.Counters = append(r.Counters, odometer.Counter{Quantity: q, Device: "d0", Incarnation: "8:1234567", Value: uint64((second + 1) * rate * int64(i+1))})
			}
			if err := m.Observe(&r, func(r odometer.Record) { rs = append(rs, r) }); err != nil {
				b.Fatal(err)
			}
		}
		if len(rs) >= 2000 {
			if err := s.Append(rs); err != nil {
				b.Fatal(err)
			}
			rs = rs[:0]
		}
	}
	return s.Stats().Bytes
}

func BenchmarkAfter(b *testing.B) {
	s, err := Open(Options{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	rs := make([]odometer.Record, 1000)
	for i := range rs {
		rs[i] = newSource(i).record(1)
	}
	for range 10 {
		if err := s.Append(rs); err != nil {
			b.Fatal(err)
		}
	}
	n := 0
	for b.Loop() {
		for _, err := range s.After(0) {
			if err != nil {
				b.Fatal(err)
			}
			n++
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
