package meter

import (
	"encoding/json"
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"example.org/odometer"
)

// newest returns the last checkpoint that was recorded.
func (p *tape) newest() json.RawMessage { return p.records[len(p.records)-1].Checkpoint }

func TestRestoreGoesOnInTheSameEpoch(t *testing.T) {
	p := newTape(t, live)
	p.observe(read(0, cpu(10), memory(1), owner("ada")), read(30, cpu(12), memory(1)), read(40, cpu(13), memory(1)))

	// The ten seconds since the last event were not recorded; they are found
	// again in the difference.
	q := newTape(t, live)
	if err := q.m.Restore(p.newest()); err != nil {
		t.Fatal(err)
	}
	q.ends = p.ends
	q.observe(read(3600, cpu(100), memory(2), unwatched))
	if got, want := q.lines(), []string{"2 30-3600 estimated ada cpu_us=88000000 memory_mib_s=3570"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := q.records[0].Event.Epoch, p.records[1].Event.Epoch; got != want {
		t.Errorf("got epoch %s after the restart, want %s", got, want)
	}
}

func TestRestoreTakesTheNewestInAnyOrder(t *testing.T) {
	p := newTape(t, live)
	p.observe(read(0, cpu(10)), read(30, cpu(12)), read(60, cpu(13)), read(61, cpu(14), final), read(70, cpu(20)), read(100, cpu(22.5)))
	want := string(p.newest())
	for _, order := range [][]int{{0, 1, 2, 3, 4, 5}, {5, 4, 3, 2, 1, 0}, {5, 5, 0, 3}} {
		m := New(live)
		for _, i := range order {
			if err := m.Restore(p.records[i].Checkpoint); err != nil {
				t.Fatal(err)
			}
		}
		in := m.instances[m.key(pair{"vm-1", "h1"}, "")]
		if got := string(in.appendCheckpoint(nil)); got != want {
			t.Errorf("restored in order %v: got\n%s\nwant\n%s", order, got, want)
		}
	}
}

func TestRestoredReplaySkipsWhatItHas(t *testing.T) {
	readings := []odometer.Reading{
		read(0, named("e1"), started), read(10, named("e1"), cpu(1)), read(20, named("e1"), cpu(2), final),
		read(30, named("e2"), started), read(40, named("e2"), cpu(1)), read(50, named("e2"), cpu(3)),
	}
	p := newTape(t, replay)
	p.observe(readings...)
	m := New(replay)
	for _, r := range p.records {
		if err := m.Restore(r.Checkpoint); err != nil {
			t.Fatal(err)
		}
	}
	for i := range readings {
		err := m.Observe(&readings[i], func(r odometer.Record) { t.Errorf("got record %s, want none", r.Checkpoint) })
		if i == len(readings)-1 { // a line may share the last one's moment; it adds nothing
			if err != nil {
				t.Errorf("the last reading again: got error %v, want none", err)
			}
			continue
		}
		if !errors.Is(err, ErrPast) {
			t.Errorf("reading %d: got error %v, want ErrPast", i, err)
		}
	}
}

func TestAdoptGoesOnFromTheRawReadingsInANewEpoch(t *testing.T) {
	p := newTape(t, live)
	p.observe(read(0, cpu(10), memory(1), owner("ada")), read(30, cpu(12.7), memory(1)))

	lost := live
	lost.Nonce = "fedcba9876543210fedcba9876543210"
	q := newTape(t, lost)
	for range 2 { // the same checkpoint again changes nothing
		if err := q.m.Adopt(p.newest(), q.emit); err != nil {
			t.Fatal(err)
		}
	}
	q.observe(read(3600, cpu(100), memory(2), unwatched))
	want := []string{"checkpoint", "1 30-3600 estimated ada cpu_us=87300000 memory_mib_s=3570"}
	if got := q.lines(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	before, after := p.records[1].Event, q.records[1].Event
	if after.Epoch == before.Epoch || after.EpochStart != before.Span.End {
		t.Errorf("got epoch %s from %d, want a new one from %d", after.Epoch, after.EpochStart, before.Span.End)
	}
	if got := before.Metrics.CPUSeconds + after.Metrics.CPUSeconds; got != 90 {
		t.Errorf("got %d whole CPU-seconds of both epochs, want 90", got)
	}

	t.Run("a crash right after it goes on in that epoch", func(t *testing.T) {
		r := newTape(t, lost)
		if err := r.m.Restore(q.records[0].Checkpoint); err != nil {
			t.Fatal(err)
		}
		r.observe(read(3600, cpu(100), memory(2), unwatched))
		if got := r.records[0].Event; got.ID() != after.ID() || got.Content() != after.Content() {
			t.Errorf("got %s, want %s", got.ID(), after.ID())
		}
	})
	t.Run("a clock that was set before it is of no concern to the new epoch", func(t *testing.T) {
		p := newTape(t, live)
		p.observe(read(0, cpu(0)), read(10, cpu(1), set(100)))
		r := newTape(t, lost)
		if err := r.m.Adopt(p.newest(), r.emit); err != nil {
			t.Fatal(err)
		}
		r.observe(read(50, cpu(3), set(100), unwatched))
		if got, want := r.lines(), []string{"checkpoint", "1 110-150 estimated cpu_us=2000000"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("of several checkpoints the newest is adopted, in any order", func(t *testing.T) {
		for _, order := range [][]int{{0, 1}, {1, 0}} {
			r := newTape(t, lost)
			for _, i := range order {
				if err := r.m.Adopt(p.records[i].Checkpoint, r.emit); err != nil {
					t.Fatal(err)
				}
			}
			r.records = nil
			r.observe(read(3600, cpu(100), memory(2), unwatched))
			if got := r.records[0].Event; got.ID() != after.ID() || got.Content() != after.Content() || got.Metrics != after.Metrics {
				t.Errorf("order %v: got %+v, want %+v", order, got, after)
			}
		}
	})
	t.Run("an epoch that had ended stays so and carries its part of a second", func(t *testing.T) {
		p := newTape(t, live)
		p.observe(read(0, started), read(1, cpu(0.9), final))
		r := newTape(t, lost)
		if err := r.m.Adopt(p.newest(), r.emit); err != nil {
			t.Fatal(err)
		}
		if len(r.records) != 0 {
			t.Errorf("got %q, want nothing", r.lines())
		}
		r.observe(read(5, started), read(6, cpu(0.9), final))
		if got := r.records[1].Event.Metrics.CPUSeconds; got != 1 {
			t.Errorf("got %d whole CPU-seconds, want the one that 1.8 have", got)
		}
	})
	t.Run("named epochs go on as they are", func(t *testing.T) {
		p := newTape(t, replay)
		p.observe(read(0, cpu(0), named("e1")), read(10, cpu(1), named("e1")))
		r := newTape(t, replay)
		r.ends = p.ends
		if err := r.m.Adopt(p.newest(), r.emit); err != nil {
			t.Fatal(err)
		}
		r.observe(read(20, cpu(3), named("e1")))
		if got, want := r.lines(), []string{"2 10-20 measured cpu_us=2000000"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	})
	t.Run("what is no checkpoint is refused", func(t *testing.T) {
		if err := New(lost).Adopt(json.RawMessage(`{}`), nil); !errors.Is(err, odometer.ErrInvalid) {
			t.Errorf("got error %v, want ErrInvalid", err)
		}
	})
}

func TestCheckpointSurvivesACarrierThatEscapesHTML(t *testing.T) {
	p := newTape(t, live)
	p.observe(read(0, counts(odometer.DiskRead, `<a&b>"\ü `+"\u2028\n", math.MaxUint64), named("é<1>"), func(r *odometer.Reading) {
		r.Changes = []odometer.Change{{Kind: "<kind>", At: r.At, Device: "a&b", Detail: "known as R&D \u2028 before"}}
	}))
	carried, err := json.MarshalIndent(map[string]json.RawMessage{"checkpoint": p.newest()}, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	var back map[string]json.RawMessage
	if err := json.Unmarshal(carried, &back); err != nil {
		t.Fatal(err)
	}
	m := New(live)
	if err := m.Restore(back["checkpoint"]); err != nil {
		t.Fatal(err)
	}
	if got, want := m.instances[m.key(pair{"vm-1", "h1"}, "é<1>")].appendCheckpoint(nil), p.newest(); string(got) != string(want) {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestRestoreRefuses(t *testing.T) {
	p := newTape(t, live)
	p.observe(read(0, cpu(10), memory(1), owner("ada")), read(30, cpu(12), memory(1)))
	good := string(p.newest())
	cases := []struct{ name, old, new, says string }{
		{"what is not JSON", good, `{"version":1`, "unexpected EOF"},
		{"nothing", good, ``, "EOF"},
		{"an empty object", good, `{}`, "version 0"},
		{"a newer version", `"version":1`, `"version":2`, "written by a newer one"},
		{"a newer version with more members", `"version":1`, `"version":2,"more":1`, "written by a newer one"},
		{"something that follows", `}]}`, `}]} {}`, "follows"},
		{"a member nobody knows", `"version":1`, `"version":1,"more":1`, "more"},
		{"a member that is missing", `,"serial":2`, ``, "serial 0"},
		{"a member that is there twice", `"step_us":0`, `"step_us":0,"step_us":0`, "not what a meter writes"},
		{"a member in other letters", `"step_us"`, `"Step_us"`, "not what a meter writes"},
		{"too few totals", `30000000,0,0],"remainders"`, `30000000,0],"remainders"`, "not what a meter writes"},
		{"too many gauges", `"gauges":[`, `"gauges":[-1,`, "not what a meter writes"},
		{"a number that is none", `"serial":2`, `"serial":"2"`, "serial"},
		{"an instance that is no id", `"instance":"vm-1"`, `"instance":"a b"`, "instance"},
		{"another agent's", `"agent":"h1"`, `"agent":"h2"`, `agent "h2"`},
		{"an epoch that is none", `"epoch":"`, `"epoch":"x`, "epoch"},
		{"a serial below its sequence", `"sequence":1`, `"sequence":3`, "sequence 3"},
		{"totals without an event", `"sequence":1`, `"sequence":0`, "no event"},
		{"a time before 1970", `"start_us":1`, `"start_us":-1`, "start_us"},
		{"a time after 9999", `"label_us":1`, `"label_us":9991`, "label_us"},
		{"a part above a second", `"cpu_part_us":0`, `"cpu_part_us":1000000`, "cpu_part_us"},
		{"a state nobody knows", `"state":"running"`, `"state":"asleep"`, "asleep"},
		{"a negative total", `"totals":[2000000`, `"totals":[-2000000`, "below 0"},
		{"a total that is not known", `"totals":[2000000,0`, `"totals":[2000000,1`, "not known"},
		{"a set that is none", `"known":`, `"known":9`, "no such set"},
		{"a remainder above its unit", `"remainders":[0`, `"remainders":[1000`, "remainder of cpu_us"},
		{"a gauge below unknown", `"gauges":[1048576`, `"gauges":[-5`, "gauge"},
		{"a device of no counter", `"q":"cpu_us"`, `"q":"memory_mib_s"`, "memory_mib_s"},
		{"a device of no quantity", `"q":"cpu_us"`, `"q":"sun"`, "sun"},
		{"a device twice", `"devices":[`, `"devices":[{"q":"cpu_us","d":"","i":"","v":1,"s":1},`, "twice"},
		{"a device whose name is too long", `"d":""`, `"d":"` + strings.Repeat("x", 200) + `"`, "200 bytes"},
		{"an owner that is no id", `"user":"ada"`, `"user":"a b"`, "user_id"},
		{"too many devices", `"devices":[`, `"devices":[` + strings.Repeat(`{},`, MaxDevices), "at most 1024"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the checkpoint has no %s: %s", c.old, good)
			}
			m := New(live)
			err := m.Restore(json.RawMessage(strings.Replace(good, c.old, c.new, 1)))
			if !errors.Is(err, odometer.ErrInvalid) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got error %v, want one that is ErrInvalid and says %q", err, c.says)
			}
			if len(m.instances)+len(m.parts) != 0 {
				t.Errorf("got %d instances after a refusal, want none", len(m.instances))
			}
		})
	}
}

func FuzzRestore(f *testing.F) {
	for _, opts := range []Options{live, replay} {
		for _, s := range [][]odometer.Reading{
			{read(0, cpu(10), memory(1), owner("ada")), read(30, cpu(12), memory(1)), read(31, cpu(13), final)},
			{read(0, started), read(1, counter(vm(0).Counters[0]), state(odometer.Paused))},
			{read(0, gauged(vm(0).Gauges), counts(odometer.NetworkEgress, "<eth0>", math.MaxUint64)), read(40, set(100))},
		} {
			m := New(opts)
			for i := range s {
				if err := m.Observe(&s[i], func(r odometer.Record) { f.Add([]byte(r.Checkpoint), opts.Named) }); err != nil {
					f.Fatal(err)
				}
			}
		}
	}
	f.Add([]byte(`{"version":1}`), false)
	f.Fuzz(func(t *testing.T, data []byte, isNamed bool) {
		opts := Options{Named: isNamed, Interval: 30 * second}
		p := newTape(t, opts)
		if err := p.m.Restore(data); err != nil {
			if !errors.Is(err, odometer.ErrInvalid) {
				t.Fatalf("got error %v, want ErrInvalid", err)
			}
			return
		}
		for _, in := range p.m.instances {
			again := New(opts)
			if err := again.Restore(in.appendCheckpoint(nil)); err != nil {
				t.Fatalf("got error %v for what was written again, want none", err)
			}
			if in.sequence > 0 { // what came before is not on the tape
				p.ends[in.epoch] = &odometer.Event{Sequence: in.sequence, Span: odometer.Span{End: in.label - in.step},
					Readings: odometer.Readings{End: in.total}}
			}
			r := odometer.Reading{Instance: in.instance, Agent: in.agent, Epoch: in.source, Unwatched: true, Final: true, Gauges: odometer.NoGauges,
				At: odometer.Moment{Boot: in.last.Boot + second, Wall: in.last.Wall + second}}
			if err := p.m.Observe(&r, p.emit); err != nil && !errors.Is(err, odometer.ErrInvalid) {
				t.Fatalf("got error %v, want none or ErrInvalid", err)
			}
		}
	})
}
