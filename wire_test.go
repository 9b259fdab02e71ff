package odometer

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
)

const spoolID = "0123456789abcdef0123456789abcdef"

func TestRecordsSurviveDecodingAndEncoding(t *testing.T) {
	event := golden(t, "event-1.1.json")
	e, err := DecodeEvent(event)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		r    Record
		line string
	}{
		{"an event with its checkpoint", Record{First: 42, Position: 42, Event: e, Checkpoint: []byte(`{"a":1}`)},
			`{"position":42,"event":` + string(event) + `,"checkpoint":{"a":1}}`},
		{"coalesced, and nothing before it is left", Record{First: 41, Position: 42, Event: e, Resumes: true},
			`{"first":41,"position":42,"event":` + string(event) + `,"resumes":true}`},
		{"a checkpoint alone", Record{First: 1, Position: 1, Checkpoint: []byte(`[1,"}"]`)}, `{"position":1,"checkpoint":[1,"}"]}`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := string(c.r.AppendJSON(nil)); got != c.line {
				t.Errorf("got  %s\nwant %s", got, c.line)
			}
			got, err := DecodeRecord([]byte(c.line))
			if err != nil {
				t.Fatal(err)
			}
			if c.r.Event != nil && string(got.Raw) != string(event) {
				t.Errorf("raw: got %s, want %s", got.Raw, event)
			}
			got.Raw = nil
			if !reflect.DeepEqual(got, c.r) {
				t.Errorf("got  %+v\nwant %+v", got, c.r)
			}
		})
	}
}

func TestABadEventSpoilsItsRecordOnly(t *testing.T) {
	for _, c := range []struct{ name, raw, want string }{
		{"an event that is not allowed", `{"event_type":"resource_usage","version":"2.0"}`, "version not supported"},
		{"an event that is no JSON", `{"event_type": oops, ]["}"}`, "'o' where a value is due"},
		{"an event that is not UTF-8", "{\"a\":\"\xff\"}", "not valid UTF-8"},
		{"an event that is too long", `{"a":"` + strings.Repeat("x", MaxEventBytes) + `"}`, "at most 16384 are allowed"},
		{"an event that nests too deep", strings.Repeat(`{"a":`, 5000) + strings.Repeat("}", 5000), "bytes long"},
		{"no object at all", `hello`, "where an object is due"},
		{"brackets that never close", `{"a":[`, "the text ends"},
		{"something behind the event", `{} {}`, "trailing data"},
		{"line breaks", "{\n\"a\":1\r\n}", "is missing"},
		{"nothing", ``, "the text ends where an object is due"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := DecodeEvent([]byte(c.raw))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %s", err, c.want)
			}
			good := typical()
			f := &Frame{Agent: "host-12", Spool: spoolID, First: 7, Last: 9, Records: []Record{
				{First: 7, Position: 7, Event: good},
				{First: 8, Position: 8, Raw: []byte(c.raw), Err: err, Checkpoint: []byte("1")},
				{First: 9, Position: 9, Event: good},
			}}
			packed, err := f.Encode()
			if err != nil {
				t.Fatal(err)
			}
			got, err := DecodeFrame(packed)
			if err != nil {
				t.Fatal(err)
			}
			bad := got.Records[1]
			if string(bad.Raw) != c.raw {
				t.Errorf("raw: got %q, want %q", bad.Raw, c.raw)
			}
			if bad.Event != nil || !errors.Is(bad.Err, ErrInvalid) || !strings.Contains(bad.Err.Error(), c.want) {
				t.Errorf("got %v, %v, want no event and %s", bad.Event, bad.Err, c.want)
			}
			for _, i := range []int{0, 2} {
				if r := got.Records[i]; r.Err != nil || !reflect.DeepEqual(r.Event, good) {
					t.Errorf("record %d: got %+v, %v, want %+v", i, r.Event, r.Err, good)
				}
			}
		})
	}
}

func TestRecordsAreRefusedWithTheReason(t *testing.T) {
	event := string(golden(t, "event-1.1.json"))
	for _, c := range []struct{ name, line, want string }{
		{"not an object", `[]`, "'[' where an object is due"},
		{"no position", `{"event":` + event + `}`, "position is missing"},
		{"position 0", `{"position":0,"event":` + event + `}`, "position is missing, or 0"},
		{"first behind position", `{"first":3,"position":2,"event":` + event + `}`, "first, 3, lies behind position, 2"},
		{"a position that is negative", `{"position":-1,"event":` + event + `}`, "position: -1 is negative"},
		{"a position that stands twice", `{"position":1,"position":1,"event":` + event + `}`, "position: stands twice"},
		{"neither event nor checkpoint", `{"position":1}`, "neither event nor checkpoint"},
		{"an event that does not end", `{"position":1,"event":{"a":"`, "the event does not end"},
		{"two events", `{"position":1,"event":{},"event_base64":""}`, "an event stands there already"},
		{"two events, the other way round", `{"position":1,"event_base64":"e30=","event":{}}`, "an event stands there already"},
		{"an event that is not base64", `{"position":1,"event_base64":"!"}`, "event_base64: not base64"},
		{"an event in base64 that is a number", `{"position":1,"event_base64":7}`, "event_base64: a number where a string is due"},
		{"a checkpoint that is no JSON", `{"position":1,"checkpoint":{a}}`, "checkpoint: 'a' where the name of a member is due"},
		{"a checkpoint that is not UTF-8", "{\"position\":1,\"checkpoint\":\"\xff\"}", "checkpoint: not valid UTF-8"},
		{"resumes is no boolean", `{"position":1,"checkpoint":1,"resumes":1}`, "resumes: a number where true or false is due"},
		{"something behind it", `{"position":1,"checkpoint":1} 2`, "trailing data"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := DecodeRecord([]byte(c.line))
			if !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	r, err := DecodeRecord([]byte(`{"position":1,"checkpoint":null,"since":[1,{"position":2}]}`))
	if err != nil || r.Position != 1 || string(r.Checkpoint) != "null" {
		t.Errorf("a member of a later version: got %+v, %v, want it passed over", r, err)
	}
}

func TestFramesSurviveDecodingAndEncoding(t *testing.T) {
	want := typicalFrame(100)
	want.Records[3].First, want.Records[3].Resumes = 4, true
	want.Records[99].Position, want.Last = 250, 250
	for format := FrameFormatJSON; format <= FrameFormatBinary; format++ {
		t.Run(fmt.Sprint("format ", format), func(t *testing.T) { survives(t, want, format) })
	}
}

func survives(t *testing.T, want *Frame, format int) {
	packed, err := want.EncodeAs(format)
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeFrame(packed)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Packed, packed) {
		t.Error("Packed is not what was decoded")
	}
	got.Packed = nil
	for i := range got.Records {
		if got.Records[i].Raw == nil {
			t.Errorf("record %d has no Raw", i)
		}
		got.Records[i].Raw = nil
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
	again, err := got.EncodeAs(format)
	if err != nil || !bytes.Equal(again, packed) {
		t.Errorf("encoded again: got %d bytes, %v, want the same %d", len(again), err, len(packed))
	}
}

func TestAFrameWithoutASpoolIsNumberedFromOne(t *testing.T) {
	f := &Frame{Agent: "billing-test", Records: []Record{{Event: typical()}, {First: 9, Position: 9, Event: typical()}}}
	packed, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeFrame(packed)
	if err != nil {
		t.Fatal(err)
	}
	if got.Spool != "" || got.First != 1 || got.Last != 2 || got.Records[1].Position != 2 {
		t.Errorf("got %q %d to %d, want no spool and 1 to 2", got.Spool, got.First, got.Last)
	}
}

func TestFramesAreNotEncodedWhenTheyAreWrong(t *testing.T) {
	large := typical()
	noise := make([]byte, 300<<10)
	rand.NewChaCha8([32]byte{1}).Read(noise)
	for _, c := range []struct {
		name   string
		change func(f *Frame)
		want   string
	}{
		{"no agent", func(f *Frame) { f.Agent = "" }, "agent is empty"},
		{"a spool that is no id", func(f *Frame) { f.Spool = "x" }, "is not 32 lower-case hex digits"},
		{"no records", func(f *Frame) { f.Records = nil }, "no records"},
		{"positions from 0", func(f *Frame) { f.First = 0 }, "positions 0 to 3"},
		{"positions backwards", func(f *Frame) { f.Last = 0 }, "positions 1 to 0"},
		{"a record missing", func(f *Frame) { f.Records = append(f.Records[:1], f.Records[2]) }, "record 3 to 3 where 2 is due"},
		{"records end early", func(f *Frame) { f.Last = 4 }, "the records end at 3 and the frame at 4"},
		{"a record backwards", func(f *Frame) { f.Records[1].First, f.Records[1].Position = 2, 1 }, "record 2 to 1 where 2 is due"},
		{"an empty record", func(f *Frame) { f.Records[1] = Record{First: 2, Position: 2} }, "record 2: neither event nor checkpoint"},
		{"a checkpoint that is no JSON", func(f *Frame) { f.Records[1].Checkpoint = []byte("{") }, "record 2: its checkpoint is not JSON"},
		{"a checkpoint that is not UTF-8", func(f *Frame) { f.Records[1].Checkpoint = []byte("\"\xff\"") }, "record 2: its checkpoint is not JSON"},
		{"more than a frame may hold unpacked", func(f *Frame) {
			f.Records[1].Checkpoint = []byte(`"` + strings.Repeat("x", MaxFrameUnpacked) + `"`)
		}, "more than 1048576 bytes before compression"},
		{"more than a frame may hold packed", func(f *Frame) { f.Records[1] = Record{First: 2, Position: 2, Raw: noise, Event: nil} }, "bytes packed, at most 262144"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := typicalFrame(3)
			f.Records[0].Event = large
			c.change(f)
			for format := FrameFormatJSON; format <= FrameFormatBinary; format++ {
				packed, err := f.EncodeAs(format)
				if format == FrameFormatBinary && strings.Contains(c.want, "not JSON") {
					if err != nil { // opaque there
						t.Errorf("format 2: %v", err)
					}
					continue
				}
				if packed != nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
					t.Errorf("format %d: got %v, want %s", format, err, c.want)
				}
				if got := errors.Is(err, ErrFrameSize); got != strings.HasPrefix(c.name, "more than") {
					t.Errorf("format %d: ErrFrameSize: got %v", format, got)
				}
			}
		})
	}
}

func TestFramesAreRefusedWithTheReason(t *testing.T) {
	const header = `{"format":1,"agent":"host-12","spool":"` + spoolID + `","first":1,"last":1}` + "\n"
	const record = `{"position":1,"checkpoint":1}` + "\n"
	bomb := s2.Encode(nil, make([]byte, MaxFrameUnpacked+1))
	good := s2.Encode(nil, []byte(header+record))
	damaged := bytes.Clone(good)
	damaged[len(damaged)-3] ^= 0xff
	for _, c := range []struct {
		name   string
		packed []byte
		want   string
	}{
		{"nothing", nil, "corrupt"},
		{"too large packed", make([]byte, MaxFramePacked+1), "bytes packed, at most"},
		{"too large unpacked", bomb, "1048577 bytes unpacked, at most 1048576"},
		{"a size that is a lie", append([]byte{0xff, 0xff, 0x3f}, good...), "corrupt"},
		{"cut off", good[:len(good)-4], "corrupt"},
		{"a header that is no JSON", s2.Encode(nil, []byte("hello\n")), "header: 'h' where an object is due"},
		{"a header that is not UTF-8", s2.Encode(nil, []byte("\xff\n")), "header: not valid UTF-8"},
		{"a last line without its end", s2.Encode(nil, []byte(header+record+"{")), "the last line is cut off"},
		{"an empty line", s2.Encode(nil, []byte(header+record+"\n")), "line 3: the text ends where an object is due"},
		{"another format", s2.Encode(nil, []byte(strings.Replace(header, `"format":1`, `"format":2`, 1)+record)), "format 2 where 1 is due"},
		{"a header member twice", s2.Encode(nil, []byte(strings.Replace(header, `"first"`, `"last":1,"first"`, 1)+record)), "last: stands twice"},
		{"an agent that is no id", s2.Encode(nil, []byte(strings.Replace(header, `host-12`, `host 12`, 1)+record)), `agent "host 12" has the character ' '`},
		{"a spool that is no id", s2.Encode(nil, []byte(strings.Replace(header, spoolID, `0`, 1)+record)), `spool "0" is not 32`},
		{"no records", s2.Encode(nil, []byte(strings.Replace(header, `"last":1`, `"last":0`, 1))), "positions 1 to 0"},
		{"fewer records than it says", s2.Encode(nil, []byte(strings.Replace(header, `"last":1`, `"last":2`, 1)+record)), "the records end at 1 and the frame at 2"},
		{"records out of order", s2.Encode(nil, []byte(header+record+record)), "line 3: position 1 where 2 is due"},
		{"a bad record", s2.Encode(nil, []byte(header+"{}\n")), "line 2: position is missing"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, err := DecodeFrame(c.packed)
			if f != nil || !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, %v, want %s", f, err, c.want)
			}
		})
	}
	if _, err := DecodeFrame(good); err != nil {
		t.Errorf("the good one: %v", err)
	}
	if _, err := DecodeFrame(s2.Encode(nil, []byte(strings.Replace(header, `"first"`, `"sent":{"a":1},"first"`, 1)+record))); err != nil {
		t.Errorf("a member of a later version: %v", err)
	}
}

// No single bit of a frame can be turned without the frame being refused or
// saying exactly the same; nothing panics.
func TestATurnedBitIsSeen(t *testing.T) {
	good := typicalFrame(3)
	for format := FrameFormatJSON; format <= FrameFormatBinary; format++ {
		packed, err := good.EncodeAs(format)
		if err != nil {
			t.Fatal(err)
		}
		want, err := DecodeFrame(packed)
		if err != nil {
			t.Fatal(err)
		}
		want.Packed = nil
		for i := range packed {
			for bit := range 8 {
				turned := bytes.Clone(packed)
				turned[i] ^= 1 << bit
				f, err := DecodeFrame(turned)
				if (f == nil) == (err == nil) {
					t.Fatalf("format %d, byte %d bit %d: got %v, %v", format, i, bit, f, err)
				}
				if f == nil || format == FrameFormatJSON { // which has no checksum: only that it does not panic
					continue
				}
				if f.Packed = nil; !reflect.DeepEqual(f, want) {
					t.Fatalf("byte %d bit %d: another frame was read", i, bit)
				}
			}
		}
	}
}

func TestExtraMembersNeverBreakALine(t *testing.T) {
	text := hostileText(t, "", `"timestamp"`, "\"x\":{\n\t\"a\" : [1,\r\n2]},\"timestamp\"")
	e, err := DecodeEvent([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	r := Record{First: 1, Position: 1, Event: e, Checkpoint: []byte("{\n\"b\":2}")}
	line := r.AppendJSON(nil)
	if bytes.ContainsAny(line, "\r\n") {
		t.Fatalf("got a line break in %q", line)
	}
	got, err := DecodeRecord(line)
	if err != nil || got.Event == nil || string(got.Event.Extra[0].Value) != "{ \t\"a\" : [1,  2]}" {
		t.Errorf("got %+v, %v", got.Event, err)
	}
}

func ExampleRecord_AppendJSON() {
	r := Record{First: 41, Position: 42, Raw: []byte("\x00"), Checkpoint: []byte(`{"boot":7}`)}
	fmt.Println(string(r.AppendJSON(nil)), base64.StdEncoding.EncodeToString([]byte("\x00")))
	// Output: {"first":41,"position":42,"event_base64":"AA==","checkpoint":{"boot":7}} AA==
}
