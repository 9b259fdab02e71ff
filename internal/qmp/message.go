package qmp

import (
	"encoding/json"
	"fmt"
	"time"
)

// message is anything that QEMU sends: a greeting, an answer or an event.
// Which one it is, the field says that is there.
type message struct {
	Greeting json.RawMessage `json:"QMP"`

	Return json.RawMessage `json:"return"`
	Error  *Error          `json:"error"`
	ID     *uint64         `json:"id"`

	Event string     `json:"event"`
	Data  eventData  `json:"data"`
	Time  *timestamp `json:"timestamp"`
}

// timestamp is QEMU's: since the Unix epoch, or -1 where its clock failed.
type timestamp struct {
	Seconds      int64 `json:"seconds"`
	Microseconds int64 `json:"microseconds"`
}

// eventData is the union of what the events of [Event] carry, and the whole
// of it as it came.
type eventData struct {
	Guest  bool   `json:"guest"`
	Reason string `json:"reason"`
	Device string `json:"device"`
	Path   string `json:"path"`
	Actual *int64 `json:"actual"`
	raw    json.RawMessage
}

func (d *eventData) UnmarshalJSON(b []byte) error {
	type fields eventData
	var f fields
	// A field of another type belongs to an event that is not known here.
	_ = json.Unmarshal(b, &f)
	*d = eventData(f)
	d.raw = append(d.raw, b...)
	return nil
}

// decode reads one message.
func decode(b []byte) (message, error) {
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return message{}, err
	}
	kinds := 0
	for _, is := range [...]bool{len(m.Greeting) > 0, len(m.Return) > 0, m.Error != nil, m.Event != ""} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return message{}, fmt.Errorf("neither a greeting nor an answer nor an event: %.100q", b)
	}
	return m, nil
}

// event returns the event that m is.
func (m *message) event() Event {
	e := Event{
		Name: m.Event, Guest: m.Data.Guest, Reason: m.Data.Reason,
		Device: m.Data.Device, Path: m.Data.Path, Actual: -1, Data: m.Data.raw,
	}
	if m.Time != nil && m.Time.Seconds >= 0 {
		e.At = time.Unix(m.Time.Seconds, max(m.Time.Microseconds, 0)*1000)
	}
	if m.Data.Actual != nil {
		e.Actual = *m.Data.Actual
	}
	return e
}

// Event is something that happened in QEMU and that it tells of unasked.
type Event struct {
	// Name is QEMU's: SHUTDOWN, RESET, STOP, RESUME, POWERDOWN,
	// DEVICE_DELETED, BALLOON_CHANGE and many more.
	Name string
	At   time.Time // wall clock of the host, zero where unknown

	Guest  bool   // SHUTDOWN, RESET: the machine itself wanted it
	Reason string // SHUTDOWN, RESET: "guest-reset", "guest-shutdown", "host-qmp-quit", "host-signal", …
	Device string // DEVICE_DELETED: the id, "" for a device without one
	Path   string // DEVICE_DELETED: in QEMU's object tree
	Actual int64  // BALLOON_CHANGE: bytes that the machine has now; -1 for other events

	Data json.RawMessage // all that the event carries, nil for none
}

// Error is QEMU's refusal of a command.
type Error struct {
	Class string `json:"class"` // GenericError, CommandNotFound, DeviceNotActive, DeviceNotFound, KVMMissingCap
	Desc  string `json:"desc"`
}

func (e *Error) Error() string { return fmt.Sprintf("QEMU says %s: %s", e.Class, e.Desc) }
