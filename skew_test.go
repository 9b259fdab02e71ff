package odometer

import (
	"bytes"
	"errors"
	"flag"
	"os"
	"reflect"
	"testing"
)

// Golden frames are what each format of frames looks like on the wire, kept
// for ever: a server reads the frames of older agents. With -golden the frame
// of the present format is written to the file named.
var writeGolden = flag.String("golden", "", "write a golden frame to this file of testdata")

// goldenFrame has a record of every kind.
func goldenFrame(t testing.TB) *Frame {
	return &Frame{Agent: "host-12", Spool: "0123456789abcdef0123456789abcdef", First: 41, Last: 48, Records: []Record{
		{First: 41, Position: 41, Event: goldenEvent(t, "event-1.1.json"), Checkpoint: []byte(`{"version":1,"instance":"vm-9","n":1}`)},
		{First: 42, Position: 42, Checkpoint: []byte(`{"version":1,"instance":"vm-ü"}`)},
		{First: 43, Position: 45, Event: goldenEvent(t, "event-1.1-coalesced.json"), Resumes: true},
		{First: 46, Position: 46, Raw: []byte(`{"event_type":"resource_usage", broken`)},
		{First: 47, Position: 47, Event: goldenEvent(t, "event-1.7-final.json"), Checkpoint: []byte(`{"version":1,"instance":"vm-9","n":2}`)},
		{First: 48, Position: 48, Event: goldenEvent(t, "event-1.0.json")},
	}}
}

func TestFramesOfOlderAgentsAreRead(t *testing.T) {
	if *writeGolden != "" {
		b, err := goldenFrame(t).Encode()
		if err == nil {
			err = os.WriteFile("testdata/"+*writeGolden, b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"frame-1.s2"} {
		t.Run(name, func(t *testing.T) {
			packed, err := os.ReadFile("testdata/" + name)
			if err != nil {
				t.Fatal(err)
			}
			f, err := DecodeFrame(packed)
			if err != nil {
				t.Fatal(err)
			}
			want := goldenFrame(t)
			if f.Agent != want.Agent || f.Spool != want.Spool || f.First != want.First || f.Last != want.Last || len(f.Records) != len(want.Records) {
				t.Fatalf("got %s %s %d to %d with %d records, want %s %s %d to %d with %d",
					f.Agent, f.Spool, f.First, f.Last, len(f.Records), want.Agent, want.Spool, want.First, want.Last, len(want.Records))
			}
			for i := range f.Records {
				g, w := &f.Records[i], &want.Records[i]
				if g.First != w.First || g.Position != w.Position || g.Resumes != w.Resumes || !bytes.Equal(g.Checkpoint, w.Checkpoint) || !reflect.DeepEqual(g.Event, w.Event) {
					t.Errorf("record %d: got  %+v\nwant %+v", i, g, w)
				}
				if w.Event == nil && w.Raw != nil && (!bytes.Equal(g.Raw, w.Raw) || !errors.Is(g.Err, ErrInvalid)) {
					t.Errorf("record %d, no valid event: got %q, %v, want %q", i, g.Raw, g.Err, w.Raw)
				}
			}
		})
	}
}
