package odometer

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func at(us int64) Moment { return Moment{Boot: us, Wall: us} }

func TestLifecycleTravelsWithItsEvent(t *testing.T) {
	e := goldenEvent(t, "event-1.1.json")
	content := e.Content()
	e.Lifecycle = []Change{
		{Kind: ChangeStarted, At: Moment{Boot: 5, Wall: 1763881200004211}},
		{Kind: ChangeDeviceAdded, At: at(7), Device: "vdb", Detail: "a \"quoted\" disk\n"},
		{Kind: "of_a_later_version", At: at(8)},
	}
	if e.Content() != content {
		t.Error("what happened is part of the content")
	}
	for form, back := range map[string]func() (*Event, error){
		"JSON":   func() (*Event, error) { return DecodeEvent(e.AppendJSON(nil)) },
		"binary": func() (*Event, error) { return DecodeBinary(e.AppendBinary(nil)) },
		"entry": func() (*Event, error) {
			entry := Entry{ID: EntryID{1, 1}, Kind: KindUsage, SourceEventID: e.ID(), BookedAt: 1, Event: *e}
			got, err := DecodeEntry(entry.AppendJSON(nil))
			if err != nil {
				return nil, err
			}
			return &got.Event, nil
		},
		"frame": func() (*Event, error) {
			f := Frame{Agent: e.Agent, Spool: "0123456789abcdef0123456789abcdef", First: 1, Last: 1, Records: []Record{{First: 1, Position: 1, Event: e}}}
			packed, err := f.Encode()
			if err != nil {
				return nil, err
			}
			got, err := DecodeFrame(packed)
			if err != nil {
				return nil, err
			}
			return got.Records[0].Event, got.Records[0].Err
		},
	} {
		got, err := back()
		if err != nil {
			t.Fatalf("%s: %v", form, err)
		}
		if !reflect.DeepEqual(got, e) {
			t.Errorf("%s: got  %+v\nwant %+v", form, got, e)
		}
	}
}

func TestLifecycleOfVersion10IsKeptAsItCame(t *testing.T) {
	text := strings.Replace(string(golden(t, "event-1.0.json")), `"version"`, `"lifecycle":[1,2],"version"`, 1)
	e, err := DecodeEvent([]byte(text))
	if err != nil || len(e.Lifecycle) > 0 || !strings.Contains(string(e.AppendJSON(nil)), `"lifecycle":[1,2]`) {
		t.Errorf("got %+v, %v", e, err)
	}
}

func TestLifecycleThatIsWrongIsNamed(t *testing.T) {
	for member, want := range map[string]string{
		`5`:                                       "a number where an array is due",
		`[5]`:                                     "a number where an object is due",
		`[{"at_us":1}]`:                           "what is missing",
		`[{"at_us":"x","what":"found"}]`:          "at_us",
		`[{"at_us":-1,"what":"found"}]`:           "lifecycle.at_us: -1 is negative",
		`[{"at_us":1,"what":7}]`:                  "what: a number where a string is due",
		`[{"at_us":1,"what":"found","at_us":2}]`:  "stands twice",
		`[{"at_us":1,"what":"found"},]`:           "",
		`[{"at_us":1,"what":"found"} {"what":1}]`: "a comma or a closing bracket",
		`[{"at_us":1,"what":"` + strings.Repeat("x", 65) + `"}]`:                   "longer than",
		`[{"at_us":1,"what":"found","device":"` + strings.Repeat("x", 257) + `"}]`: "longer than",
	} {
		text := strings.Replace(string(golden(t, "event-1.1.json")), `"version"`, `"lifecycle":`+member+`,"version"`, 1)
		if _, err := DecodeEvent([]byte(text)); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", member, err, want)
		}
	}
}

func TestLifecycleIsCutSoThatItsEventIsValid(t *testing.T) {
	long := strings.Repeat("ü", 200)
	got := Lifecycle([]Change{
		{Instance: "vm-1", Kind: ChangeFound, At: at(1), Device: long, Detail: "\xff"},
		{Kind: "", At: at(1)},
		{Kind: ChangeFound, At: at(-1)},
		{Kind: ChangeKind(long), At: at(2)},
	})
	want := []Change{
		{Kind: ChangeFound, At: at(1), Device: long[:256], Detail: "\uFFFD"},
		{Kind: ChangeKind(long[:64]), At: at(2)},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v\nwant %+v", got, want)
	}
	var many []Change
	for i := range 1000 {
		many = append(many, Change{Kind: ChangeResized, At: at(int64(i)), Detail: fmt.Sprint(i, strings.Repeat("\x01", 300))})
	}
	e := goldenEvent(t, "event-1.1.json")
	e.Lifecycle = Lifecycle(many)
	if n := len(e.AppendJSON(nil)); n > MaxEventBytes || len(e.Lifecycle) < 3 || e.Lifecycle[len(e.Lifecycle)-1].At.Wall != 999 {
		t.Errorf("%d bytes with %d changes up to %+v", n, len(e.Lifecycle), e.Lifecycle[len(e.Lifecycle)-1])
	}
	if err := e.Check(); err != nil {
		t.Error(err)
	}
	if Lifecycle(nil) != nil {
		t.Error("nothing becomes something")
	}
}

func TestMergeTellsWhatHappenedInBoth(t *testing.T) {
	e, next := goldenEvent(t, "event-1.1.json"), goldenEvent(t, "event-1.1-next.json")
	e.Lifecycle = []Change{{Kind: ChangeStarted, At: at(1)}}
	next.Lifecycle = []Change{{Kind: ChangeStopped, At: at(2)}}
	was := e.Lifecycle
	if err := e.Merge(next); err != nil {
		t.Fatal(err)
	}
	if want := []Change{{Kind: ChangeStarted, At: at(1)}, {Kind: ChangeStopped, At: at(2)}}; !reflect.DeepEqual(e.Lifecycle, want) || len(was) != 1 {
		t.Errorf("got %+v, want %+v", e.Lifecycle, want)
	}
}

func TestChangeInJSON(t *testing.T) {
	want := Change{Kind: ChangeResized, At: Moment{Boot: 3, Wall: 4}, Detail: "2 to 4 vCPUs"}
	text, err := json.Marshal(want)
	if err != nil || string(text) != `{"at_us":4,"boot_us":3,"what":"resized","detail":"2 to 4 vCPUs"}` {
		t.Fatalf("got %s, %v", text, err)
	}
	var got Change
	if err := json.Unmarshal(text, &got); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := json.Unmarshal([]byte(`[]`), &got); !errors.Is(err, ErrInvalid) {
		t.Errorf("an array: got %v", err)
	}
}
