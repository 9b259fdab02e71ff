package odometer

import "testing"

// typical returns an event as a busy virtual machine has it.
func typical() *Event {
	e := &Event{
		Version: Version11, Instance: "6f1c2c1e-3c55-4a0f-9d6e-2f6f5d1f0a11", Owner: Owner{User: "u-ada", Org: "o-acme"}, Agent: "host-12",
		EpochStart: 1763880000000000, FirstSequence: 42, Sequence: 42,
		Span:    Span{Start: 1763881200004211, End: 1763881230004187},
		Quality: Measured,
	}
	e.Epoch = NewEpoch(e.Instance, e.Agent, "nonce", "1")
	known := Known(0)
	for q, n := range map[Quantity]int64{
		CPU: 12060000, VCPU: 4 * 29999976, Memory: 46080, MemoryAllocated: 122880, Storage: 614400,
		NetworkEgress: 1310720, NetworkIngress: 524288, MeasuredTime: 29999976,
	} {
		known = known.With(q)
		e.Usage.Vector[q] = n
		e.Readings.Start.Vector[q] = n * 41
		e.Readings.End.Vector[q] = n * 42
	}
	e.Usage.Known, e.Readings.Start.Known, e.Readings.End.Known = known, known, known
	e.Derive(0, 0)
	return e
}

// typicalFrame returns a frame of n such events, each with a checkpoint.
func typicalFrame(n int) *Frame {
	f := &Frame{Agent: "host-12", Spool: "0123456789abcdef0123456789abcdef", First: 1, Last: uint64(n)}
	for i := range n {
		e := typical()
		e.Sequence += uint64(i)
		e.FirstSequence = e.Sequence
		f.Records = append(f.Records, Record{First: uint64(i + 1), Position: uint64(i + 1), Event: e, Checkpoint: []byte(`{"raw":[1,2,3]}`)})
	}
	return f
}

func BenchmarkEventAppendJSON(b *testing.B) {
	e := typical()
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = e.AppendJSON(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}

func BenchmarkDecodeEvent(b *testing.B) {
	data := typical().AppendJSON(nil)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeEvent(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkFrameEncode(b *testing.B) {
	f := typicalFrame(100)
	b.ReportAllocs()
	for b.Loop() {
		packed, err := f.Encode()
		if err != nil {
			b.Fatal(err)
		}
		b.SetBytes(int64(len(packed)))
	}
}

func BenchmarkDecodeFrame(b *testing.B) {
	packed, err := typicalFrame(100).Encode()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeFrame(packed); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkContent(b *testing.B) {
	e := typical()
	for b.Loop() {
		e.Content()
	}
}
