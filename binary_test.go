package odometer

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
)

// Every golden event comes back from the binary form, or from the JSON that
// stands in for it, as it was.
func TestGoldenEventsSurviveTheBinaryForm(t *testing.T) {
	binaries := 0
	for _, name := range goldens(t, "event") {
		want := goldenEvent(t, name)
		b := want.AppendBinary([]byte("before"))[len("before"):]
		got, err := DecodeBinary(b)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\ngot  %+v\nwant %+v", name, got, want)
		}
		if isBinary(b) {
			binaries++
			if json := want.AppendJSON(nil); len(b)*3 > len(json) {
				t.Errorf("%s: %d bytes where JSON has %d", name, len(b), len(json))
			}
		}
	}
	if binaries < 2 {
		t.Errorf("%d golden events have a binary form, want 2 or more", binaries)
	}
}

// What the binary form cannot hold to the last bit goes as JSON.
func TestWhatTheBinaryFormCannotHoldGoesAsJSON(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Event)
		binary bool
	}{
		{"a usual event", func(e *Event) {}, true},
		{"final, coalesced, after a step of the clock", func(e *Event) { e.Final, e.FirstSequence, e.Span.Step = true, 7, -3 }, true},
		{"whole seconds that earlier epochs carried", func(e *Event) { e.Metrics.CPUSeconds++ }, true},
		{"nobody owns it", func(e *Event) { e.Owner = Owner{} }, true},
		{"a quantity that was not known before", func(e *Event) {
			e.Usage.Known = e.Usage.Known.With(DiskRead)
			e.Readings.End.Known = e.Readings.End.Known.With(DiskRead)
		}, true},
		{"a later version", func(e *Event) { e.Version = "1.7" }, false},
		{"a member that nobody knows", func(e *Event) { e.Extra = []Member{{Name: "x", Value: []byte("1")}} }, false},
		{"a percentage of another's making", func(e *Event) { e.Metrics.CPUPercentAvg++ }, false},
		{"a label of another's making", func(e *Event) { e.Timestamp++ }, false},
		{"usage that is not the difference of its readings", func(e *Event) { e.Usage.Vector[CPU]++ }, false},
		{"a quality nobody knows", func(e *Event) { e.Quality = "guessed" }, false},
		{"an epoch that is none", func(e *Event) { e.Epoch = Epoch(strings.Repeat("G", 32)) }, false},
		{"an id that is too long", func(e *Event) { e.Instance = InstanceID(strings.Repeat("x", 129)) }, false},
		{"a sequence that ends before it begins", func(e *Event) { e.FirstSequence = e.Sequence + 1 }, false},
		{"version 1.0", func(e *Event) { *e = *goldenEvent(t, "event-1.0.json") }, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := typical()
			c.change(e)
			b := e.AppendBinary(nil)
			if isBinary(b) != c.binary {
				t.Fatalf("binary: got %v, want %v", isBinary(b), c.binary)
			}
			if !c.binary {
				if json := e.AppendJSON(nil); !bytes.Equal(b, json) {
					t.Errorf("got  %s\nwant %s", b, json)
				}
				return
			}
			got, err := DecodeBinary(b)
			if err != nil {
				t.Fatal(err)
			}
			if got, want := got.AppendJSON(nil), e.AppendJSON(nil); !bytes.Equal(got, want) {
				t.Errorf("got  %s\nwant %s", got, want)
			}
			if got.Content() != e.Content() {
				t.Error("the content is another")
			}
		})
	}
}

// A binary form that is cut off, lengthened or changed in any bit is refused,
// or is another valid event: it never panics, and what is taken is encoded to
// the same bytes.
func TestAChangedBinaryFormIsRefusedOrValid(t *testing.T) {
	good := typical().AppendBinary(nil)
	for n := range good {
		if _, err := DecodeBinary(good[:n]); !errors.Is(err, ErrInvalid) {
			t.Errorf("cut off after %d bytes: got %v", n, err)
		}
	}
	if _, err := DecodeBinary(append(bytes.Clone(good), 0)); !errors.Is(err, ErrInvalid) {
		t.Errorf("a byte too many: got %v", err)
	}
	for bit := range 8 * len(good) {
		b := bytes.Clone(good)
		b[bit/8] ^= 1 << (bit % 8)
		e, err := DecodeBinary(b)
		switch {
		case err != nil && !errors.Is(err, ErrInvalid):
			t.Fatalf("bit %d: got %v", bit, err)
		case err == nil && !bytes.Equal(e.AppendBinary(nil), b):
			t.Fatalf("bit %d: what was read is not what is written", bit)
		}
	}
}

func TestBinaryFramesAreRefusedWithTheReason(t *testing.T) {
	good, err := (&Frame{Agent: "a", Spool: spoolID, First: 1, Last: 2, Records: []Record{
		{First: 1, Position: 1, Checkpoint: []byte("1")}, {First: 2, Position: 2, Checkpoint: []byte("2")},
	}}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	text, err := s2.Decode(nil, good)
	if err != nil {
		t.Fatal(err)
	}
	text = text[:len(text)-4]
	const spoolFlag, numbers = 3, 20
	for _, c := range []struct {
		name   string
		change func(b []byte) []byte
		want   string
	}{
		{"cut off in the header", func(b []byte) []byte { return b[:7] }, "header: cut off or malformed"},
		{"a spool of another kind", func(b []byte) []byte { b[spoolFlag] = 2; return b }, "header: cut off or malformed"},
		{"more records than bytes", func(b []byte) []byte { b[numbers+2] = 99; return b }, "header: cut off or malformed"},
		{"fewer records than it says", func(b []byte) []byte { b[numbers+2] = 3; return b }, "record 3: cut off or malformed"},
		{"bytes behind the last record", func(b []byte) []byte { return append(b, 0) }, "1 bytes behind the last record"},
		{"records that end early", func(b []byte) []byte { b[numbers+1] = 3; return b }, "the records end at 2 and the frame at 3"},
		{"an empty record", func(b []byte) []byte { return append(b[:numbers+3], 0, 0) }, "record 1: neither event nor checkpoint"},
		{"a flag nobody knows", func(b []byte) []byte { b[numbers+3] |= 0x80; return b }, "record 1: cut off or malformed"},
		{"a number longer than it must be", func(b []byte) []byte { return append(b[:numbers], 0x81, 0, 2, 0) }, "header: cut off or malformed"},
		{"an agent that is no id", func(b []byte) []byte { b[2] = ' '; return b }, `agent " " has the character ' '`},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.change(bytes.Clone(text))
			b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
			f, err := DecodeFrame(s2.Encode(nil, b))
			if f != nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v, want %s", f, err, c.want)
			}
		})
	}
	wrong := binary.LittleEndian.AppendUint32(bytes.Clone(text), 7)
	if _, err := DecodeFrame(s2.Encode(nil, wrong)); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("a wrong checksum: got %v", err)
	}
}

func FuzzDecodeBinary(f *testing.F) {
	for _, name := range goldens(f, "event") {
		f.Add(goldenEvent(f, name).AppendBinary(nil))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := DecodeBinary(data)
		if err != nil {
			if e != nil || !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, %v, want nil and an error wrapping ErrInvalid", e, err)
			}
			return
		}
		if !isBinary(data) {
			return
		}
		again, err := DecodeEvent(e.AppendJSON(nil))
		if err != nil {
			t.Fatalf("refused as JSON: %v", err)
		}
		if a, b := again.AppendBinary(nil), e.AppendBinary(nil); !bytes.Equal(a, b) {
			t.Fatalf("got  %x\nwant %x", a, b)
		}
	})
}

func BenchmarkDecodeBinary(b *testing.B) {
	data := typical().AppendBinary(nil)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := DecodeBinary(data); err != nil {
			b.Fatal(err)
		}
	}
}
