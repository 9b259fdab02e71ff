package spool

import (
	"fmt"
	"testing"

	"example.org/odometer"
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

func BenchmarkOpen(b *testing.B) {
	o := Options{Dir: b.TempDir()}
	s, err := Open(o)
	if err != nil {
		b.Fatal(err)
	}
	rs := make([]odometer.Record, 1000)
	for i := range rs {
		rs[i] = newSource(i).record(1)
	}
	for range 100 {
		if err := s.Append(rs); err != nil {
			b.Fatal(err)
		}
	}
	size := s.Stats().Bytes
	_ = s.Close()
	b.SetBytes(size)
	for b.Loop() {
		if s, err = Open(o); err != nil {
			b.Fatal(err)
		}
		_ = s.Close()
	}
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
