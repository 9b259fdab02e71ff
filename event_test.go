package odometer

import (
	"encoding/json"
	"errors"
	"math"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestAnEventsIDNamesItsSequence(t *testing.T) {
	e := Event{Instance: "vm-7", Epoch: spoolID, FirstSequence: 42, Sequence: 42}
	if got, want := e.ID(), "vm-7/"+spoolID+"/42"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	e.FirstSequence = 7
	if got, want := e.ID(), "vm-7/"+spoolID+"/7-42"; got != want {
		t.Errorf("coalesced: got %s, want %s", got, want)
	}
	e = Event{Instance: InstanceID(strings.Repeat("x", 300)), Period: Period{-5, 7}}
	if got, want := e.ID(), strings.Repeat("x", 300)+"/-5-7"; got != want {
		t.Errorf("version 1.0: got %s, want %s", got, want)
	}
}

func TestContentIsWhatAnEventSaysAndNotHowItIsLabelled(t *testing.T) {
	for name, same := range map[string]func(e *Event){
		"owner":     func(e *Event) { e.Owner.User = "u-bob" },
		"timestamp": func(e *Event) { e.Timestamp++ },
		"period":    func(e *Event) { e.Period.End++ },
		"quality":   func(e *Event) { e.Quality = Estimated },
		"metrics":   func(e *Event) { e.Metrics.MemoryGB++ },
		"version":   func(e *Event) { e.Version = "1.2" },
	} {
		e := typical()
		want := e.Content()
		if same(e); e.Content() != want {
			t.Errorf("%s: got another content, want the same", name)
		}
	}
	for name, other := range map[string]func(e *Event){
		"start of the span": func(e *Event) { e.Span.Start++ },
		"end of the span":   func(e *Event) { e.Span.End++ },
		"step":              func(e *Event) { e.Span.Step++ },
		"usage":             func(e *Event) { e.Usage.Vector[GapTime]++ },
		"what is known":     func(e *Event) { e.Usage.Known = e.Usage.Known.With(GPU) },
		"first reading":     func(e *Event) { e.Readings.Start.Vector[CPU]++ },
		"last reading":      func(e *Event) { e.Readings.End.Vector[CPU]++ },
	} {
		e := typical()
		want := e.Content()
		if other(e); e.Content() == want {
			t.Errorf("%s: got the same content, want another", name)
		}
	}
	for name, other := range map[string]func(e *Event){
		"period": func(e *Event) { e.Period.Start-- }, "cpu_seconds": func(e *Event) { e.Metrics.CPUSeconds++ },
		"gpu_seconds": func(e *Event) { e.Metrics.GPUSeconds++ }, "memory_gb": func(e *Event) { e.Metrics.MemoryGB += 1e-9 },
		"network_ingress_mb": func(e *Event) { e.Metrics.NetworkIngressMB = 0 },
	} {
		e := goldenEvent(t, "event-1.0.json")
		want := e.Content()
		if other(e); e.Content() == want {
			t.Errorf("1.0, %s: got the same content, want another", name)
		}
	}
}

func TestWholeSecondsNeverDrift(t *testing.T) {
	// 0.9 CPU seconds a period; an earlier epoch left 0.35 over.
	const carry = 350000
	var sum uint64
	var total int64
	for i := range 1000 {
		var e Event
		e.Span = Span{Start: int64(i) * SecondMicros, End: int64(i+1) * SecondMicros}
		e.Usage.Vector[CPU] = 900000
		e.Readings.Start.Vector[CPU] = total
		total += 900000
		e.Readings.End.Vector[CPU] = total
		e.Derive(carry, 0)
		sum += e.Metrics.CPUSeconds
	}
	if got, want := sum, uint64((total+carry)/SecondMicros); got != want {
		t.Errorf("got %d, want %d", got, want)
	}
}

func TestDerivedMetricsAreFinite(t *testing.T) {
	var e Event
	e.Derive(0, 0)
	if e.Metrics != (Metrics{}) {
		t.Errorf("nothing known: got %+v, want zeroes", e.Metrics)
	}
	e.Usage.Vector[CPU], e.Usage.Vector[VCPU] = 300, 100
	e.Derive(0, 0)
	if got := e.Metrics.CPUPercentAvg; got != 100 {
		t.Errorf("more than all of the CPU: got %v, want 100", got)
	}
}

func TestCheckFindsWhatOnlyAStructCanHold(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(e *Event)
		want   string
	}{
		{"usage of an unknown quantity", func(e *Event) { e.Usage.Vector[GPU] = 1 }, "usage.gpu_us: unknown and yet 1"},
		{"a quantity that does not exist", func(e *Event) { e.Usage.Known |= 1 << 20 }, "quantities are known that do not exist"},
		{"a metric that is not a number", func(e *Event) { e.Metrics.MemoryGB = math.NaN() }, "metrics.memory_gb: NaN is not finite"},
		{"an infinite metric", func(e *Event) { e.Metrics.CPUPercentAvg = math.Inf(1) }, "metrics.cpu_percent_avg: +Inf is not finite"},
		{"times that overflow when they are summed", func(e *Event) {
			for _, u := range []*Usage{&e.Usage, &e.Readings.End} {
				u.Known = AllKnown
				u.Vector[MeasuredTime], u.Vector[GapTime] = math.MaxInt64, math.MaxInt64
			}
			e.Readings.Start.Vector[MeasuredTime] = 0
		}, "sum to 18446744073709551614 where the span is"},
		{"no agent", func(e *Event) { e.Agent = "" }, "agent_id is empty"},
		{"no version", func(e *Event) { e.Version = "" }, `version: "" where 1.x is due`},
		{"a reading known only at the start", func(e *Event) { e.Readings.Start.Known = AllKnown }, "readings.end: gpu_us is missing"},
	} {
		e := typical()
		c.change(e)
		if err := e.Check(); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
	e := typical()
	e.Owner = Owner{}
	if err := e.Check(); err != nil {
		t.Errorf("nobody was named as owner: got %v, want accepted", err)
	}
	if got, err := DecodeEvent(e.AppendJSON(nil)); err != nil || got.Owner.User != Unassigned {
		t.Errorf("nobody was named as owner: got %v, %v, want %s", got, err, Unassigned)
	}
	e.Metrics.MemoryGB = math.NaN()
	if _, err := DecodeEvent(e.AppendJSON(nil)); err == nil || !strings.Contains(err.Error(), "metrics.memory_gb: null where a number is due") {
		t.Errorf("NaN, encoded: got %v, want refused", err)
	}
}

func TestFloatsAreReadBackAsTheyWereWritten(t *testing.T) {
	check := func(t interface{ Fatalf(string, ...any) }, f float64) {
		text := appendFloat(nil, f)
		s := scanner{data: text}
		n, ok := s.number()
		if !ok || s.pos != len(text) {
			t.Fatalf("%v is written %s, which is no number", f, text)
		}
		if got, ok := n.float(); !ok || got != f {
			t.Fatalf("%v is written %s and read %v", f, text, got)
		}
		if want, err := strconv.ParseFloat(string(text), 64); err != nil || want != f {
			t.Fatalf("%v is written %s, which is %v", f, text, want)
		}
		if !json.Valid(text) {
			t.Fatalf("%v is written %s, which is not JSON", f, text)
		}
	}
	for _, f := range []float64{0, 1, 0.1, 1e-6, 1e-7, 37.5, 0.3, 1e15, 1 << 53, 1<<53 + 2, 1e21, 1e22, math.MaxFloat64, math.SmallestNonzeroFloat64, 1099511.627775, 1099511.627776, -2.5, -0.000001} {
		check(t, f)
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.Float64().Draw(t, "any"))
		check(t, round6(rapid.Float64Range(0, 1e7).Draw(t, "a metric")))
	})
}

func TestStringsAreReadBackAsTheyWereWritten(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.String().Draw(t, "text")
		line := appendString(nil, text)
		var want string
		if err := json.Unmarshal(line, &want); err != nil || want != text {
			t.Fatalf("%q is written %s, which encoding/json reads as %q, %v", text, line, want, err)
		}
		s := scanner{data: line}
		if got, ok := s.text(); !ok || string(got) != text || s.pos != len(line) {
			t.Fatalf("%q is written %s and read %q, %v", text, line, got, s.err)
		}
		theirs, err := json.Marshal(text)
		if err != nil {
			t.Fatal(err)
		}
		s = scanner{data: theirs}
		if got, ok := s.text(); !ok || string(got) != text {
			t.Fatalf("encoding/json writes %s, read %q, %v", theirs, got, s.err)
		}
	})
	for text, want := range map[string]string{"\x00\x1f\"\\\n\r\t\u2028\u2029/<>&\x7f": `"\u0000\u001f\"\\\n\r\t\u2028\u2029/<>&` + "\x7f\"", "a\xffb": "\"a\ufffdb\""} {
		if got := string(appendString(nil, text)); got != want || !utf8.ValidString(got) {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
}

func TestMarshalersSayWhatTheirAppendersAppend(t *testing.T) {
	e := goldenEvent(t, "event-1.7-final.json")
	entry, err := DecodeEntry(golden(t, "entry-1.1-correction.json"))
	if err != nil {
		t.Fatal(err)
	}
	c := e.CloudEvent()
	for _, row := range []struct {
		value any
		want  []byte
	}{
		{e, e.AppendJSON(nil)}, {entry, entry.AppendJSON(nil)}, {e.Usage, e.Usage.AppendJSON(nil)}, {&c, c.AppendJSON(nil)},
	} {
		if got, err := json.Marshal(row.value); err != nil || string(got) != string(row.want) {
			t.Errorf("%T: got  %s, %v\nwant %s", row.value, got, err, row.want)
		}
	}
	var back Event
	if err := json.Unmarshal(golden(t, "event-1.7-final.json"), &back); err != nil || string(back.AppendJSON(nil)) != string(e.AppendJSON(nil)) {
		t.Errorf("unmarshalled: got %+v, %v, want %+v", back, err, e)
	}
	if err := json.Unmarshal([]byte(`{"version":"2.0"}`), &back); !errors.Is(err, ErrVersion) {
		t.Errorf("another major version: got %v, want %v", err, ErrVersion)
	}
}

func TestSequencesBeyond53BitsAreStrings(t *testing.T) {
	e := typical()
	e.FirstSequence, e.Sequence = MaxExact, 1<<64-1
	text := string(e.AppendJSON(nil))
	if want := `"sequence":"18446744073709551615","first_sequence":9007199254740991,`; !strings.Contains(text, want) {
		t.Errorf("got  %s\nwant %s", text, want)
	}
	if got, err := DecodeEvent([]byte(text)); err != nil || got.Sequence != e.Sequence || got.FirstSequence != e.FirstSequence {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestUnknownQuantitiesStandInAnObjectThatIsEmptyOtherwise(t *testing.T) {
	e := typical()
	e.Extra = []Member{{In: inUsage, Name: "power_uj", Value: []byte("1")}}
	e.Usage.Known = 0
	if text, want := string(e.AppendJSON(nil)), `"usage":{"power_uj":1},`; !strings.Contains(text, want) {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestManyUnknownMembersAreKeptAndTheirRepetitionFound(t *testing.T) {
	var many strings.Builder
	for i := range 500 {
		many.WriteString(`"x` + strconv.Itoa(i) + `":{},`)
	}
	text := hostileText(t, "", `"timestamp"`, many.String()+`"timestamp"`)
	if e, err := DecodeEvent([]byte(text)); err != nil || len(e.Extra) != 500 || e.Extra[499].Name != "x499" {
		t.Errorf("got %v, want 500 unknown members", err)
	}
	text = hostileText(t, "", `"timestamp"`, many.String()+`"x400":1,"timestamp"`)
	if _, err := DecodeEvent([]byte(text)); err == nil || !strings.Contains(err.Error(), "x400: stands twice") {
		t.Errorf("got %v, want x400: stands twice", err)
	}
}

func TestEscapesOfEveryKindAreRead(t *testing.T) {
	s := scanner{data: []byte(`"\"\\\/\b\f\n\r\t\u00fc\uD83D\uDE00x"`)}
	if got, ok := s.text(); !ok || string(got) != "\"\\/\b\f\n\r\tü😀x" {
		t.Errorf("got %q, %v", got, s.err)
	}
	for _, text := range []string{`"\`, `"\u`, `"\u12`, `"\u12g4"`, `"\ud83d"`, `"\ud83d\u0041"`, `"\ude00"`, `"\ud83dx"`, `"\x"`, "\"\\n\x01\"", `"\n`} {
		s := scanner{data: []byte(text)}
		if got, ok := s.text(); ok || !errors.Is(s.result(), ErrInvalid) {
			t.Errorf("%s: got %q, %v, want refused", text, got, s.result())
		}
	}
}
