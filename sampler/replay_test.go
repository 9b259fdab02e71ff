package sampler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"example.org/odometer"
)

// replayed reads everything.
func replayed(in string) ([]odometer.Reading, error) {
	p := NewReplay(strings.NewReader(in), "a.ndjson")
	var all []odometer.Reading
	var r odometer.Reading
	for {
		if err := p.Next(&r); err == io.EOF {
			return all, nil
		} else if err != nil {
			return all, err
		}
		c := r
		c.Counters = slices.Clone(r.Counters)
		all = append(all, c)
	}
}

func TestReplay(t *testing.T) {
	const second = odometer.SecondMicros
	at := func(us int64) odometer.Moment {
		us += time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC).UnixMicro()
		return odometer.Moment{Boot: us, Wall: us}
	}
	gauges := func(f func(*odometer.Gauges)) odometer.Gauges {
		g := odometer.NoGauges
		f(&g)
		return g
	}
	base := odometer.Reading{Instance: "vm-1", Agent: "h1", Epoch: "e1", State: odometer.Running, Gauges: odometer.NoGauges}
	reading := func(f func(*odometer.Reading)) odometer.Reading {
		r := base
		f(&r)
		return r
	}
	const key = `"host":"h1","instance":"vm-1","epoch":"e1"`
	for _, c := range []struct {
		name string
		in   string
		want []odometer.Reading
	}{
		{
			name: "a reading with everything: microseconds become nanoseconds, MiB bytes",
			in: `{"time":"2026-01-02T03:04:05.000001Z",` + key + `,"state":"running","cpu_us":1,"gpu_us":2,"net_tx_bytes":3,"net_rx_bytes":4,
				"disk_read_bytes":5,"disk_write_bytes":6,"memory_mib":7,"memory_allocated_mib":8,"storage_mib":9,"vcpus":10,"user_id":"u","org_id":"o","final":true}`,
			want: []odometer.Reading{{
				Instance: "vm-1", Agent: "h1", Epoch: "e1", State: odometer.Running, At: at(1), Final: true,
				Owner: odometer.Owner{User: "u", Org: "o"},
				Counters: []odometer.Counter{
					{Quantity: odometer.CPU, Value: 1000}, {Quantity: odometer.GPU, Value: 2000},
					{Quantity: odometer.NetworkEgress, Value: 3}, {Quantity: odometer.NetworkIngress, Value: 4},
					{Quantity: odometer.DiskRead, Value: 5}, {Quantity: odometer.DiskWrite, Value: 6},
				},
				Gauges: odometer.Gauges{Memory: 7 << 20, MemoryAllocated: 8 << 20, Storage: 9 << 20, StorageProvisioned: -1, VCPUs: 10, GPUs: -1},
			}},
		},
		{
			name: "what is absent or null is unknown, what nobody knows is ignored, names are exact",
			in: `{"time":"2026-01-02T03:04:05Z",` + key + `,"cpu_us":null,"memory_mib":null,"state":null,"final":null,"user_id":null,
				"CPU_US":-5,"note":"a } \" {","nested":{"cpu_us":[1,{"x":-1e5}],"y":"]"},"note":[]}`,
			want: []odometer.Reading{reading(func(r *odometer.Reading) { r.At = at(0) })},
		},
		{
			name: "0 is known",
			in:   `{"time":"2026-01-02T03:04:05Z",` + key + `,"cpu_us":0,"memory_mib":0}`,
			want: []odometer.Reading{reading(func(r *odometer.Reading) {
				r.At, r.Counters = at(0), []odometer.Counter{{Quantity: odometer.CPU}}
				r.Gauges = gauges(func(g *odometer.Gauges) { g.Memory = 0 })
			})},
		},
		{
			name: "after a started mark each counter is born once, whenever it is first seen",
			in: `{"event":"started","time":"2026-01-02T03:04:05Z",` + key + `}
				{"time":"2026-01-02T03:04:06Z",` + key + `,"cpu_us":5}
				{"time":"2026-01-02T03:04:07Z",` + key + `,"cpu_us":6,"net_tx_bytes":9}`,
			want: []odometer.Reading{
				reading(func(r *odometer.Reading) { r.At, r.Started = at(0), true }),
				reading(func(r *odometer.Reading) {
					r.At, r.Counters = at(second), []odometer.Counter{{Quantity: odometer.CPU, Value: 5000, Born: true}}
				}),
				reading(func(r *odometer.Reading) {
					r.At, r.Counters = at(2*second), []odometer.Counter{
						{Quantity: odometer.CPU, Value: 6000}, {Quantity: odometer.NetworkEgress, Value: 9, Born: true},
					}
				}),
			},
		},
		{
			name: "a started mark has no counters and no gauges, whatever it says",
			in:   `{"event":"started","time":"2026-01-02T03:04:05Z",` + key + `,"cpu_us":5,"memory_mib":7,"final":true,"user_id":"u"}`,
			want: []odometer.Reading{reading(func(r *odometer.Reading) {
				r.At, r.Started, r.Owner = at(0), true, odometer.Owner{User: "u"}
			})},
		},
		{
			name: "a stopped mark changes the state alone: gauges and owner are those of the epoch's last reading",
			in: `{"time":"2026-01-02T03:04:05Z",` + key + `,"memory_mib":1,"storage_mib":2,"cpu_us":1,"user_id":"u"}
				{"time":"2026-01-02T03:04:05Z","host":"h1","instance":"vm-2","epoch":"e1","memory_mib":9,"user_id":"v"}
				{"event":"stopped","time":"2026-01-02T03:04:06Z",` + key + `}`,
			want: []odometer.Reading{
				reading(func(r *odometer.Reading) {
					r.At, r.Owner, r.Counters = at(0), odometer.Owner{User: "u"}, []odometer.Counter{{Quantity: odometer.CPU, Value: 1000}}
					r.Gauges = gauges(func(g *odometer.Gauges) { g.Memory, g.Storage = 1<<20, 2<<20 })
				}),
				reading(func(r *odometer.Reading) {
					r.Instance, r.At, r.Owner = "vm-2", at(0), odometer.Owner{User: "v"}
					r.Gauges = gauges(func(g *odometer.Gauges) { g.Memory = 9 << 20 })
				}),
				reading(func(r *odometer.Reading) {
					r.At, r.Owner, r.State = at(second), odometer.Owner{User: "u"}, odometer.Stopped
					r.Gauges = gauges(func(g *odometer.Gauges) { g.Memory, g.Storage = 1<<20, 2<<20 })
				}),
			},
		},
		{
			name: "another host and another epoch are epochs of their own",
			in: `{"event":"started","time":"2026-01-02T03:04:05Z",` + key + `}
				{"time":"2026-01-02T03:04:05Z","host":"h2","instance":"vm-1","epoch":"e1","cpu_us":1}
				{"time":"2026-01-02T03:04:05Z","host":"h1","instance":"vm-1","epoch":"e2","cpu_us":1,"state":"stopped"}`,
			want: []odometer.Reading{
				reading(func(r *odometer.Reading) { r.At, r.Started = at(0), true }),
				reading(func(r *odometer.Reading) {
					r.At, r.Agent, r.Counters = at(0), "h2", []odometer.Counter{{Quantity: odometer.CPU, Value: 1000}}
				}),
				reading(func(r *odometer.Reading) {
					r.At, r.Epoch, r.State, r.Counters = at(0), "e2", odometer.Stopped, []odometer.Counter{{Quantity: odometer.CPU, Value: 1000}}
				}),
			},
		},
		{
			name: "blank lines, spaces, carriage returns, escapes, and no end of line at the end",
			in: "\n  \r\n\t{ \"\\u0074ime\" : \"2026-01-02T04:04:05+01:00\" , \"host\":\"\\u00681\",\"instance\":\"vm-1\",\"epoch\":\"e1\",\"state\":\"paused\" } \r\n" +
				`{"time":"2026-01-02T03:04:05.1234567Z",` + key + `}`,
			want: []odometer.Reading{
				reading(func(r *odometer.Reading) { r.At, r.State = at(0), odometer.Paused }),
				reading(func(r *odometer.Reading) { r.At = at(123456) }),
			},
		},
		{
			name: "the largest numbers, in digits and as strings",
			in: `{"time":"2026-01-02T03:04:05Z",` + key + `,"cpu_us":18446744073709551,"net_tx_bytes":"9223372036854775807","memory_mib":8796093022207}
				{"time":"2026-01-02T03:04:05Z",` + key + `,"user_id":"u"}
				{"time":"2026-01-02T03:04:05Z",` + key + `,"org_id":"o","user_id":""}`,
			want: []odometer.Reading{
				reading(func(r *odometer.Reading) {
					r.At, r.Counters = at(0), []odometer.Counter{
						{Quantity: odometer.CPU, Value: 18446744073709551000}, {Quantity: odometer.NetworkEgress, Value: math.MaxInt64},
					}
					r.Gauges = gauges(func(g *odometer.Gauges) { g.Memory = 8796093022207 << 20 })
				}),
				reading(func(r *odometer.Reading) { r.At, r.Owner = at(0), odometer.Owner{User: "u"} }),
				reading(func(r *odometer.Reading) { r.At, r.Owner = at(0), odometer.Owner{User: odometer.Unassigned, Org: "o"} }),
			},
		},
		{name: "an empty file", in: ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			// One JSON value a line is the format; the tables break lines to be read.
			in := strings.ReplaceAll(c.in, ",\n\t\t\t\t\"", `,"`)
			got, err := replayed(in)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("got %d readings, want %d: %+v", len(got), len(c.want), got)
			}
			for i := range got {
				if len(got[i].Counters) == 0 {
					got[i].Counters = nil
				}
				if !reflect.DeepEqual(got[i], c.want[i]) {
					t.Errorf("reading %d: got\n%+v, want\n%+v", i+1, got[i], c.want[i])
				}
			}
		})
	}
}

func TestReplayRefuses(t *testing.T) {
	const good = `{"time":"2026-01-02T03:04:05Z","host":"h1","instance":"vm-1","epoch":"e1"`
	for _, c := range []struct {
		name, line, says string
	}{
		{"no JSON", `hello`, "not a JSON object"},
		{"an array", `[1]`, "not a JSON object"},
		{"a line that was cut off", `{"time":"2026-01-02T03:0`, "cut off"},
		{"a line that ends after a value", `{"a":1`, "cut off"},
		{"two objects", good + `} {}`, "follows"},
		{"no comma", `{"a":1 "b":2}`, "not JSON"},
		{"a comma before the end", good + `,}`, "comma"},
		{"no colon", `{"time" "x"}`, "colon"},
		{"a name that is no string", `{1:2}`, "string is missing"},
		{"a negative counter", good + `,"cpu_us":-1}`, `"cpu_us" is -1; it cannot be negative`},
		{"a fraction", good + `,"cpu_us":1.5}`, `"cpu_us" is 1.5, not a whole number`},
		{"an exponent", good + `,"memory_mib":1e3}`, `"memory_mib" is 1e3, not a whole number`},
		{"NaN", good + `,"cpu_us":NaN}`, `"cpu_us" is "NaN", not a number`},
		{"infinity", good + `,"cpu_us":-Infinity}`, `"cpu_us" is -Infinity; it cannot be negative`},
		{"a leading zero", good + `,"cpu_us":007}`, `not a number`},
		{"beyond 64 bits", good + `,"cpu_us":18446744073709551616}`, "beyond 64 bits"},
		{"beyond what nanoseconds hold", good + `,"cpu_us":18446744073709552}`, "more than can be counted"},
		{"bytes beyond 63 bits", good + `,"net_rx_bytes":9223372036854775808}`, "more than can be counted"},
		{"memory beyond 63 bits of bytes", good + `,"memory_mib":8796093022208}`, "more than can be counted"},
		{"a mark's number is checked as well", good + `,"event":"stopped","memory_mib":8796093022208}`, "more than can be counted"},
		{"text that is no number", good + `,"cpu_us":"12x"}`, `"12x", not an integer`},
		{"empty text for a number", good + `,"cpu_us":""}`, "not an integer"},
		{"a boolean for a number", good + `,"cpu_us":true}`, "not a number"},
		{"a number for a boolean", good + `,"final":1}`, "neither true nor false"},
		{"a number for a string", good + `,"user_id":5}`, `"user_id" is not a string`},
		{"no time", `{"host":"h1","instance":"vm-1","epoch":"e1"}`, `"time" is missing`},
		{"no host", `{"time":"2026-01-02T03:04:05Z","instance":"vm-1","epoch":"e1"}`, `"host" is missing`},
		{"no instance", `{"time":"2026-01-02T03:04:05Z","host":"h1","epoch":"e1"}`, `"instance" is missing`},
		{"no epoch", `{"time":"2026-01-02T03:04:05Z","host":"h1","instance":"vm-1"}`, `"epoch" is missing`},
		{"a time that is none", `{"time":"yesterday","host":"h1","instance":"vm-1","epoch":"e1"}`, "not a time"},
		{"a day that is none", `{"time":"2026-02-30T00:00:00Z","host":"h1","instance":"vm-1","epoch":"e1"}`, "not a time"},
		{"a time before 1970", `{"time":"1969-12-31T23:59:59Z","host":"h1","instance":"vm-1","epoch":"e1"}`, "before 1970"},
		{"an id with a slash", `{"time":"2026-01-02T03:04:05Z","host":"h/1","instance":"vm-1","epoch":"e1"}`, "host"},
		{"an id that is not UTF-8", "{\"time\":\"2026-01-02T03:04:05Z\",\"host\":\"h1\",\"instance\":\"\xff\",\"epoch\":\"e1\"}", "UTF-8"},
		{"an id that is too long", `{"time":"2026-01-02T03:04:05Z","host":"` + strings.Repeat("h", 129) + `","instance":"vm-1","epoch":"e1"}`, "129 bytes"},
		{"an organisation that is none", good + `,"org_id":"a b"}`, "org_id"},
		{"a state nobody knows", good + `,"state":"sleeping"}`, "running, paused or stopped"},
		{"an event nobody knows", good + `,"event":"moved"}`, "started or stopped"},
		{"the same name twice", good + `,"cpu_us":1,"cpu_us":1}`, `"cpu_us" stands twice`},
		{"the same name twice, once null", good + `,"host":null}`, `"host" stands twice`},
		{"a control character in a string", "{\"time\":\"2026-01-02T03:04:05Z\",\"host\":\"a\tb\"}", "control character"},
		{"an escape that is none", `{"host":"\q"}`, "malformed string"},
		{"a string that does not end after an escape", `{"host":"\n`, "cut off"},
		{"an unknown member that is not JSON", good + `,"x":nope}`, `"x" has a value that is not JSON`},
		{"an unknown string that does not end", good + `,"x":"a`, "cut off"},
		{"an unknown member without a value", good + `,"x":}`, "not JSON"},
		{"a line that is too long", good + `,"x":"` + strings.Repeat("x", MaxReplayLine) + `"}`, "longer than"},
	} {
		t.Run(c.name, func(t *testing.T) {
			in := good + "}\n\n" + c.line + "\n" + good + "}\n"
			got, err := replayed(in)
			if err == nil {
				t.Fatalf("got %+v, want an error", got)
			}
			if len(got) != 1 {
				t.Errorf("got %d readings before it, want 1", len(got))
			}
			if !errors.Is(err, odometer.ErrInvalid) || !strings.HasPrefix(err.Error(), "a.ndjson:3: ") || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %q, want an invalid a.ndjson:3 that says %q", err, c.says)
			}
		})
	}
}

func TestReplaySticksToItsError(t *testing.T) {
	p := NewReplay(strings.NewReader("x\n{}\n"), "f")
	var r odometer.Reading
	first := p.Next(&r)
	if second := p.Next(&r); first == nil || second != first {
		t.Errorf("got %v and then %v, want the same error", first, second)
	}
}

func TestReplayOfAFileThatCannotBeRead(t *testing.T) {
	broken := errors.New("input/output error")
	in := io.MultiReader(strings.NewReader(`{"time":"2026-01-02T03:04:05Z","host":"h1","instance":"vm-1","epoch":"e1"}`+"\n"), iotest.ErrReader(broken))
	p := NewReplay(in, "f")
	var r odometer.Reading
	if err := p.Next(&r); err != nil {
		t.Fatal(err)
	}
	if err := p.Next(&r); !errors.Is(err, broken) || errors.Is(err, odometer.ErrInvalid) || !strings.HasPrefix(err.Error(), "f:2: ") {
		t.Errorf("got %v, want %v at f:2 that is not the file's fault", err, broken)
	}
}

// TestReplayPosition is what a progress bar goes by.
func TestReplayPosition(t *testing.T) {
	const line = `{"time":"2026-01-02T03:04:05Z","host":"h1","instance":"vm-1","epoch":"e1"}`
	in := line + "\n\n" + line[:len(line)-1] + `,"x":"` + strings.Repeat("x", 400<<10) + "\"}\n" + line
	p := NewReplay(iotest.HalfReader(strings.NewReader(in)), "f")
	var r odometer.Reading
	var got [][2]int64
	for p.Next(&r) == nil {
		got = append(got, [2]int64{int64(p.Line()), p.Offset()})
	}
	n := int64(len(line))
	want := [][2]int64{{1, n + 1}, {3, int64(len(in)) - n}, {4, int64(len(in))}}
	if !slices.Equal(got, want) {
		t.Errorf("got line and offset %v, want %v", got, want)
	}
}

// TestReplayForgetsEpochsThatEnded: a file of months must not fill memory.
func TestReplayForgetsEpochsThatEnded(t *testing.T) {
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, `{"time":"2026-01-02T03:04:05Z","host":"h1","instance":"vm-%d","epoch":"e1","final":true}`+"\n", i)
	}
	p := NewReplay(strings.NewReader(b.String()), "f")
	var r odometer.Reading
	for p.Next(&r) == nil {
	}
	if len(p.epochs) != 0 {
		t.Errorf("got %d epochs remembered, want 0", len(p.epochs))
	}
}

// replayLine is a line as encoding/json sees it.
type replayLine struct {
	Time, Host, Instance, Epoch string
	CPU                         *json.Number `json:"cpu_us"`
	Memory                      *json.Number `json:"memory_mib"`
	Final                       bool
}

// FuzzReplay compares with encoding/json: what Next takes is a JSON object
// with the same values, and nothing makes it panic.
func FuzzReplay(f *testing.F) {
	f.Add([]byte(`{"time":"2026-01-02T03:04:05.5Z","host":"h1","instance":"vm-1","epoch":"e1","state":"running","cpu_us":1,"memory_mib":7,"final":false}`))
	f.Add([]byte(`{"event":"started","time":"2026-01-02T03:04:05+01:00","host":"h1","instance":"vm-1","epoch":"e1"}` + "\n" + `{"event":"stopped"}`))
	f.Add([]byte(`{"time":"2026-12-31T23:59:59Z","host":"h\u0031","instance":"vm-1","epoch":"e1","x":[{"y":"}]\""}],"cpu_us":"18446744073709551","user_id":null}`))
	f.Add([]byte(`{"time":"2024-02-29T00:00:00.123456789Z","host":"h","instance":"i","epoch":"e","cpu_us":0}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		p := NewReplay(bytes.NewReader(in), "f")
		var r odometer.Reading
		for {
			start := p.Offset()
			if err := p.Next(&r); err != nil {
				if err != io.EOF && !errors.Is(err, odometer.ErrInvalid) {
					t.Errorf("got %v, which is not the file's fault", err)
				}
				return
			}
			line := bytes.TrimSpace(in[start:p.Offset()])
			if i := bytes.LastIndexByte(line, '\n'); i >= 0 {
				line = line[i+1:] // blank lines were before it
			}
			var got map[string]json.RawMessage
			if err := json.Unmarshal(line, &got); err != nil {
				t.Fatalf("took %q, which is not a JSON object: %v", line, err)
			}
			var want replayLine
			text := func(name string) (s string) {
				if err := json.Unmarshal(got[name], &s); err != nil {
					t.Fatalf("took %q with %s %s", line, name, got[name])
				}
				return s
			}
			want.Time, want.Host, want.Instance, want.Epoch = text("time"), text("host"), text("instance"), text("epoch")
			at, err := time.Parse(time.RFC3339Nano, want.Time)
			if err != nil || at.UnixMicro() != r.At.Wall || r.At.Boot != r.At.Wall {
				t.Errorf("%q: got %+v, want %v", line, r.At, at)
			}
			if string(r.Agent) != want.Host || string(r.Instance) != want.Instance || r.Epoch != want.Epoch {
				t.Errorf("%q: got %+v", line, r)
			}
			for _, c := range r.Counters {
				if c.Quantity == odometer.CPU && strings.Trim(string(got["cpu_us"]), `"`) != fmt.Sprint(c.Value/1000) {
					t.Errorf("%q: got %d ns", line, c.Value)
				}
			}
			if r.Started && (len(r.Counters) > 0 || r.Gauges != odometer.NoGauges) {
				t.Errorf("%q: a started mark carries %+v", line, r)
			}
		}
	})
}

func BenchmarkReplay(b *testing.B) {
	var in bytes.Buffer
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 10000 {
		fmt.Fprintf(&in, `{"time":%q,"host":"host-%d","instance":"vm-%d","epoch":"e1","state":"running","cpu_us":%d,"net_tx_bytes":%d,"net_rx_bytes":%d,"memory_mib":2048,"storage_mib":20480,"final":false}`+"\n",
			at.Format(time.RFC3339Nano), i%10, i%100, i*1000, i*100, i*200)
		at = at.Add(300 * time.Millisecond)
	}
	b.SetBytes(int64(in.Len()))
	b.ReportAllocs()
	var r odometer.Reading
	for b.Loop() {
		p := NewReplay(bytes.NewReader(in.Bytes()), "bench")
		for p.Next(&r) == nil {
		}
	}
	b.ReportMetric(10000*float64(b.N)/b.Elapsed().Seconds(), "lines/s")
}
