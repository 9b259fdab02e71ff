package odometer

import (
	"bytes"
	"encoding/json"
	"errors"
	"path"
	"reflect"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/klauspost/compress/s2"
)

// plainEvent is what encoding/json makes of an event.
type plainEvent struct {
	EventType  string  `json:"event_type"`
	Version    string  `json:"version"`
	Timestamp  any     `json:"timestamp"`
	InstanceID string  `json:"instance_id"`
	UserID     string  `json:"user_id"`
	OrgID      *string `json:"org_id"`
	Metrics    struct {
		CPUPercentAvg    float64 `json:"cpu_percent_avg"`
		MemoryGB         float64 `json:"memory_gb"`
		MemoryPercent    float64 `json:"memory_percent"`
		StorageGB        float64 `json:"storage_gb"`
		NetworkEgressMB  float64 `json:"network_egress_mb"`
		NetworkIngressMB float64 `json:"network_ingress_mb"`
	} `json:"metrics"`
	Usage json.RawMessage `json:"usage"`
}

// What DecodeEvent takes, encoding/json reads alike, the schema's promise
// aside; and encoding it gives the same event again.
func FuzzDecodeEvent(f *testing.F) {
	for _, name := range goldens(f, "event") {
		f.Add(golden(f, name))
	}
	for _, h := range hostile {
		f.Add([]byte(hostileText(f, h.file, h.old, h.new)))
	}
	schema, _ := compile(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		kept := bytes.Clone(data)
		e, err := DecodeEvent(data)
		if !bytes.Equal(kept, data) {
			t.Fatal("the text was changed")
		}
		if err != nil {
			if e != nil || !errors.Is(err, ErrInvalid) || !utf8.ValidString(err.Error()) && utf8.Valid(data) {
				t.Fatalf("got %v, %q, want nil and an error wrapping ErrInvalid", e, err)
			}
			return
		}
		var p plainEvent
		if err := json.Unmarshal(data, &p); err != nil {
			t.Fatalf("encoding/json refuses what was taken: %v", err)
		}
		m := e.Metrics
		org := ""
		if p.OrgID != nil {
			org = *p.OrgID
		}
		if p.Version != e.Version || InstanceID(p.InstanceID) != e.Instance || (Owner{UserID(p.UserID), OrgID(org)}) != e.Owner ||
			p.Metrics.CPUPercentAvg != m.CPUPercentAvg || p.Metrics.MemoryGB != m.MemoryGB || p.Metrics.MemoryPercent != m.MemoryPercent ||
			p.Metrics.StorageGB != m.StorageGB || p.Metrics.NetworkEgressMB != m.NetworkEgressMB || p.Metrics.NetworkIngressMB != m.NetworkIngressMB {
			t.Fatalf("encoding/json reads %+v\nwant %+v", p, e)
		}
		if e.Integral() {
			var u Usage
			if err := u.UnmarshalJSON(p.Usage); err != nil || u != e.Usage {
				t.Fatalf("usage alone: got %+v, %v, want %+v", u, err, e.Usage)
			}
		}
		if err := validate(schema, data); err != nil {
			t.Fatalf("the schema refuses what was taken: %v", err)
		}
		for i := range data {
			data[i] = 0xff // the event must not share its memory
		}
		again := e.AppendJSON(nil)
		if bytes.ContainsAny(again, "\r\n") || !json.Valid(again) {
			t.Fatalf("got %q, want one line of JSON", again)
		}
		if len(again) > MaxEventBytes {
			return // escapes may need more room than what was escaped in another way
		}
		back, err := DecodeEvent(again)
		if err != nil {
			t.Fatalf("refused when encoded: %v\n%s", err, again)
		}
		if third := back.AppendJSON(nil); !bytes.Equal(third, again) || back.Content() != e.Content() || back.ID() != e.ID() {
			t.Fatalf("got  %s\nwant %s", third, again)
		}
		if err := e.Check(); err != nil {
			t.Fatalf("Check: %v", err)
		}
	})
}

func FuzzDecodeEntry(f *testing.F) {
	for _, name := range goldens(f, "entry") {
		f.Add(golden(f, name))
	}
	_, schema := compile(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := DecodeEntry(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, want an error wrapping ErrInvalid", err)
			}
			return
		}
		if err := validate(schema, data); err != nil {
			t.Fatalf("the schema refuses what was taken: %v", err)
		}
		again := e.AppendJSON(nil)
		if len(again) > maxEntryBytes {
			return
		}
		back, err := DecodeEntry(again)
		if err != nil {
			t.Fatalf("refused when encoded: %v\n%s", err, again)
		}
		if third := back.AppendJSON(nil); !bytes.Equal(third, again) {
			t.Fatalf("got  %s\nwant %s", third, again)
		}
	})
}

func FuzzDecodeRecord(f *testing.F) {
	event := golden(f, "event-1.1.json")
	e, err := DecodeEvent(event)
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []Record{
		{First: 1, Position: 2, Event: e, Checkpoint: []byte(`{"a":[1]}`), Resumes: true},
		{First: 3, Position: 3, Checkpoint: []byte("1")},
		{First: 4, Position: 4, Raw: []byte(`{"a":"}"}`)},
		{First: 5, Position: 5, Raw: []byte(`oops`)},
	} {
		f.Add(r.AppendJSON(nil))
	}
	f.Add([]byte(`{"position":1,"event":7,"x":{}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := DecodeRecord(data)
		if err != nil {
			if !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, want an error wrapping ErrInvalid", err)
			}
			return
		}
		if (r.Raw != nil) != (r.Event != nil || r.Err != nil) || r.Event != nil && r.Err != nil {
			t.Fatalf("got raw %q, event %v and error %v", r.Raw, r.Event, r.Err)
		}
		line := r.AppendJSON(nil)
		if bytes.ContainsAny(line, "\r\n") {
			t.Fatalf("got a line break in %q", line)
		}
		back, err := DecodeRecord(line)
		if err != nil {
			t.Fatalf("refused when encoded: %v\n%s", err, line)
		}
		if back.First != r.First || back.Position != r.Position || back.Resumes != r.Resumes || (back.Checkpoint == nil) != (r.Checkpoint == nil) {
			t.Fatalf("got %+v\nwant %+v", back, r)
		}
		if r.Event == nil && !bytes.Equal(back.Raw, r.Raw) {
			t.Fatalf("raw: got %q, want %q", back.Raw, r.Raw)
		}
		if third := back.AppendJSON(nil); !bytes.Equal(third, line) {
			t.Fatalf("got  %s\nwant %s", third, line)
		}
	})
}

func FuzzDecodeFrame(f *testing.F) {
	for _, n := range []int{1, 3} {
		packed, err := typicalFrame(n).Encode()
		if err != nil {
			f.Fatal(err)
		}
		text, err := s2.Decode(nil, packed)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed, false)
		f.Add(text, true)
	}
	f.Add([]byte(`{"format":1,"agent":"a","first":1,"last":2}`+"\n"+`{"first":1,"position":2,"event":{]}}`+"\n"), true)
	// With pack, the bytes are the frame's text, so that the fuzzer gets
	// behind the compression.
	f.Fuzz(func(t *testing.T, data []byte, pack bool) {
		if pack {
			data = s2.Encode(nil, data)
		}
		got, err := DecodeFrame(data)
		if err != nil {
			if got != nil || !errors.Is(err, ErrInvalid) {
				t.Fatalf("got %v, %v, want nil and an error wrapping ErrInvalid", got, err)
			}
			return
		}
		if !bytes.Equal(got.Packed, data) || len(got.Records) == 0 {
			t.Fatalf("got %+v", got)
		}
		packed, err := got.Encode()
		if err != nil {
			if !errors.Is(err, ErrFrameSize) { // numbers in strings, escapes: it may have grown
				t.Fatalf("refused when encoded: %v", err)
			}
			return
		}
		back, err := DecodeFrame(packed)
		if err != nil {
			t.Fatalf("refused when encoded: %v", err)
		}
		if back.Agent != got.Agent || back.Spool != got.Spool || back.First != got.First || back.Last != got.Last || len(back.Records) != len(got.Records) {
			t.Fatalf("got %+v\nwant %+v", back, got)
		}
		for i := range back.Records {
			if a, b := back.Records[i], got.Records[i]; (a.Err == nil) != (b.Err == nil) && len(a.Raw) <= MaxEventBytes {
				t.Fatalf("record %d: got %v, want %v", i, a.Err, b.Err)
			}
		}
	})
}

func FuzzCloudEvent(f *testing.F) {
	var batch []CloudEvent
	for _, c := range cloudEvents(f) {
		f.Add(c.ID, c.Source, c.Subject, []byte(c.Data), c.AppendJSON(nil))
		batch = append(batch, c)
	}
	f.Add("€ %\"\\", "//odometer/x", "\x7f\t", []byte("{}"), AppendCloudBatch(nil, batch))
	f.Add("1", "s", "", []byte("[]"), []byte(`[] {}`))
	f.Add("1", "s", "", []byte("[]"), []byte(`[{},3,{"specversion":"1.0","data_base64":"e30="}]`))
	f.Fuzz(func(t *testing.T, id, source, subject string, data, body []byte) {
		for _, content := range []string{ContentCloudEvent, ContentCloudBatch} {
			items, err := ReadCloudHTTP(map[string][]string{"Content-Type": {content}}, body)
			if err != nil && (items != nil || !errors.Is(err, ErrInvalid)) {
				t.Fatalf("got %v, %v, want nil and an error wrapping ErrInvalid", items, err)
			}
			for _, it := range items {
				if (it.Err == nil) == (it.Event == nil) || it.Err != nil && !errors.Is(it.Err, ErrInvalid) {
					t.Fatalf("got event %v and error %v", it.Event, it.Err)
				}
			}
		}
		c := CloudEvent{ID: id, Source: source, Type: CloudEventType, Subject: subject, Data: data}
		if !utf8.ValidString(id) || !utf8.ValidString(source) || !utf8.ValidString(subject) {
			return
		}
		items, err := ReadCloudHTTP(c.HTTPHeader(), data)
		if err != nil || len(items) != 1 {
			t.Fatalf("got %v, %v, want one item", items, err)
		}
		nats := ReadCloudNATS(c.NATSHeader(), data)
		if !reflect.DeepEqual(items[0].CloudEvent, nats.CloudEvent) || !reflect.DeepEqual(items[0].Event, nats.Event) {
			t.Fatalf("over HTTP %+v\nover NATS %+v", items[0], nats)
		}
		if items[0].Err == nil && !reflect.DeepEqual(nats.CloudEvent, c) {
			t.Fatalf("got %+v, want %+v", nats.CloudEvent, c)
		}
		// In structured mode it says the same, as far as it is JSON at all.
		if it := structuredItem(c.AppendJSON(nil)); (it.Err == nil) != (nats.Err == nil) && json.Valid(data) {
			t.Fatalf("structured: got %v, want %v", it.Err, nats.Err)
		}
	})
}

// FuzzParseMonth reads months: what is taken is written like that and no other way,
// and the months lie one after the other.
func FuzzParseMonth(f *testing.F) {
	for _, s := range []string{"2026-11", "1970-01", "9999-12", "2026-1", "2026-13", "-001-01", "2026-11 ", "٢٠٢٦-11", "1969-12", "10000-01"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		m, err := ParseMonth(text)
		if err != nil {
			if m != 0 || !errors.Is(err, ErrInvalid) || !utf8.ValidString(err.Error()) || len(err.Error()) > 400 {
				t.Errorf("got %v, %q, want none and a short error wrapping ErrInvalid", m, err)
			}
			return
		}
		if m.String() != text || MonthOf(m.Start()) != m || MonthOf(m.End()-1) != m || MonthOf(m.End()) != m.Next() {
			t.Errorf("got %s of [%d, %d), followed by %s, want %s", m, m.Start(), m.End(), m.Next(), text)
		}
	})
}

// FuzzLoadZone reads names of time zones: one that is taken has that name, and its
// days follow one another without a hole.
func FuzzLoadZone(f *testing.F) {
	for _, s := range []string{"UTC", "Europe/Berlin", "Pacific/Apia", "Local", "localtime", "posixrules", "posix/UTC", "right/UTC", "Europe//Berlin", "./UTC", "../UTC", "/etc/passwd", "UTC\x00", "Europe"} {
		f.Add(s, int64(1767225600_000000))
	}
	f.Fuzz(func(t *testing.T, name string, at int64) {
		zone, err := LoadZone(name)
		if err != nil {
			if zone != nil || !errors.Is(err, ErrInvalid) || !utf8.ValidString(err.Error()) || len(err.Error()) > 400 {
				t.Errorf("got %v, %q, want none and a short error wrapping ErrInvalid", zone, err)
			}
			return
		}
		if zone.String() != name || strings.EqualFold(name, "local") || name == "localtime" || path.Clean(name) != name {
			t.Errorf("got the zone %s for %q", zone, name)
		}
		if at < 0 || at/SecondMicros > maxSeconds {
			return
		}
		c := Calendar{By: ByDay, Zone: zone}
		start := c.Start(at)
		if next := c.Next(start); start > at || next <= at || c.Start(next) != next || c.Start(next-1) != start {
			t.Errorf("%s: the day of %d is [%d, %d), and before its end that of %d", name, at, start, next, c.Start(next-1))
		}
	})
}

// FuzzValidID holds the grammar of identifiers against what may not be in one.
func FuzzValidID(f *testing.F) {
	for _, s := range []string{"vm-1", "", "a b", "ü", "a/b", "a\x00", "a\u202eb", "a\xc3", strings.Repeat("x", MaxIDBytes+1)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := s != "" && len(s) <= MaxIDBytes && utf8.ValidString(s)
		for _, r := range s {
			want = want && unicode.IsGraphic(r) && !unicode.IsSpace(r) && !strings.ContainsRune("/\"\\<>", r)
		}
		err := ValidID("vm", s)
		if (err == nil) != want {
			t.Errorf("%q: got %v, want it taken: %v", s, err, want)
		}
		if err != nil && (!errors.Is(err, ErrInvalid) || !strings.HasPrefix(err.Error(), "vm ") || !utf8.ValidString(err.Error())) {
			t.Errorf("%q: got %q, want an error that names what it is of", s, err)
		}
	})
}
