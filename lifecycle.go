package odometer

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Limits of the lifecycle log. What is beyond them is cut, and never costs the
// usage that it travels with.
const (
	// MaxLifecycleBytes is what the changes of one event take of its JSON, so
	// that they leave room for the rest. The oldest are left out first.
	MaxLifecycleBytes = 6 << 10
	maxChangeKind     = 64  // bytes
	maxChangeText     = 256 // bytes of a change's device, and of its detail
)

// Lifecycle returns the changes as an event carries them, so that it is valid
// whatever they are: cut to the limits, of too many the newest, without those
// that have no kind or a time that no clock shows.
func Lifecycle(changes []Change) []Change {
	var list []Change
	size := 0
	var buf [1024]byte
	for _, c := range slices.Backward(changes) {
		var p problems
		if p.change(&c); c.Kind == "" || len(p) > 0 {
			continue
		}
		c.Instance, c.Kind = "", ChangeKind(cut(string(c.Kind), maxChangeKind))
		c.Device, c.Detail = cut(c.Device, maxChangeText), cut(c.Detail, maxChangeText)
		if size += len(c.AppendJSON(buf[:0])) + 1; size > MaxLifecycleBytes {
			break
		}
		list = append(list, c)
	}
	slices.Reverse(list)
	return list
}

// cut shortens text to at most so many bytes of whole characters.
func cut(text string, most int) string {
	if text = strings.ToValidUTF8(text, "\uFFFD"); len(text) <= most {
		return text
	}
	for most > 0 && !utf8.RuneStart(text[most]) {
		most--
	}
	return text[:most]
}

// appendLifecycle appends the member of the event, behind a comma:
//
//	"lifecycle":[{"at_us":1763881200004211,"boot_us":52004211,"what":"device_added","device":"vdb","detail":"…"}]
//
// The instance is the event's.
func (e *Event) appendLifecycle(b []byte) []byte {
	if len(e.Lifecycle) == 0 {
		return b
	}
	b = append(b, `,"lifecycle":[`...)
	for i := range e.Lifecycle {
		if i > 0 {
			b = append(b, ',')
		}
		b = e.Lifecycle[i].AppendJSON(b)
	}
	return append(b, ']')
}

// AppendJSON appends the change as an object without its instance.
func (c *Change) AppendJSON(b []byte) []byte {
	b = append(b, `{"at_us":`...)
	b = appendInt(b, c.At.Wall)
	b = append(b, `,"boot_us":`...)
	b = appendInt(b, c.At.Boot)
	b = append(b, `,"what":`...)
	b = appendString(b, string(c.Kind))
	if c.Device != "" {
		b = append(b, `,"device":`...)
		b = appendString(b, c.Device)
	}
	if c.Detail != "" {
		b = append(b, `,"detail":`...)
		b = appendString(b, c.Detail)
	}
	return append(b, '}')
}

// MarshalJSON returns what AppendJSON appends.
func (c Change) MarshalJSON() ([]byte, error) { return c.AppendJSON(nil), nil }

// UnmarshalJSON reads what AppendJSON appends. Members that are not known are
// passed over.
func (c *Change) UnmarshalJSON(data []byte) error {
	d := eventDecoder{scanner: scanner{data: data}}
	got := d.change()
	d.end()
	if err := d.result(); err != nil {
		return fmt.Errorf("change: %w", err)
	}
	*c = got
	return nil
}

// lifecycle reads the member. Members of a change that are not known are passed
// over, and so is the kind of a later version taken as it is.
func (d *eventDecoder) lifecycle() {
	if d.peek() != '[' {
		d.wrong("an array")
		return
	}
	if !d.scanner.open('[') {
		return
	}
	for first := true; d.element(&first); {
		d.e.Lifecycle = append(d.e.Lifecycle, d.change())
	}
}

func (d *eventDecoder) change() (c Change) {
	if d.peek() != '{' {
		d.wrong("an object")
		return c
	}
	if !d.scanner.open('{') {
		return c
	}
	for first := true; ; {
		name, ok := d.member(&first)
		if !ok {
			return c
		}
		switch string(name) {
		case "at_us":
			c.At.Wall = d.int()
		case "boot_us":
			c.At.Boot = d.int()
		case "what":
			c.Kind = ChangeKind(d.words())
		case "device":
			c.Device = d.words()
		case "detail":
			c.Detail = d.words()
		default:
			d.value()
		}
	}
}

func (d *eventDecoder) words() string {
	t, _ := d.string()
	return string(t)
}

// lifecycle checks what an event says of its instance's life.
func (p *problems) lifecycle(e *Event) {
	for i := range e.Lifecycle {
		c := &e.Lifecycle[i]
		switch {
		case c.Kind == "":
			p.add("lifecycle: what is missing")
		case len(c.Kind) > maxChangeKind || len(c.Device) > maxChangeText || len(c.Detail) > maxChangeText:
			p.add("lifecycle: %s: a text is longer than %d bytes", clip(string(c.Kind)), maxChangeText)
		}
		p.change(c)
	}
}

func (p *problems) change(c *Change) {
	p.time("lifecycle.at_us", c.At.Wall, SecondMicros)
	p.time("lifecycle.boot_us", c.At.Boot, SecondMicros)
}
