package sampler

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"example.org/odometer"
)

// member is a member of a replay line that is known.
type member uint8

const (
	memberTime member = iota
	memberHost
	memberInstance
	memberEpoch
	memberState
	memberEvent
	memberFinal
	memberUser
	memberOrg
	memberCPU
	memberGPU
	memberTx
	memberRx
	memberDiskRead
	memberDiskWrite
	memberMemory
	memberMemoryAllocated
	memberStorage
	memberVCPUs
	members
)

var memberNames = [members]string{
	"time", "host", "instance", "epoch", "state", "event", "final", "user_id", "org_id",
	"cpu_us", "gpu_us", "net_tx_bytes", "net_rx_bytes", "disk_read_bytes", "disk_write_bytes",
	"memory_mib", "memory_allocated_mib", "storage_mib", "vcpus",
}

func memberOf(name []byte) (member, bool) {
	switch string(name) {
	case "time":
		return memberTime, true
	case "host":
		return memberHost, true
	case "instance":
		return memberInstance, true
	case "epoch":
		return memberEpoch, true
	case "state":
		return memberState, true
	case "event":
		return memberEvent, true
	case "final":
		return memberFinal, true
	case "user_id":
		return memberUser, true
	case "org_id":
		return memberOrg, true
	case "cpu_us":
		return memberCPU, true
	case "gpu_us":
		return memberGPU, true
	case "net_tx_bytes":
		return memberTx, true
	case "net_rx_bytes":
		return memberRx, true
	case "disk_read_bytes":
		return memberDiskRead, true
	case "disk_write_bytes":
		return memberDiskWrite, true
	case "memory_mib":
		return memberMemory, true
	case "memory_allocated_mib":
		return memberMemoryAllocated, true
	case "storage_mib":
		return memberStorage, true
	case "vcpus":
		return memberVCPUs, true
	}
	return 0, false
}

// Lifecycle marks.
const (
	eventNone = iota
	eventStarted
	eventStopped
)

// lineDecoder reads one line: a JSON object. It is written for this one kind
// of object because a file may hold months of readings; members that it does
// not know, and strings with escapes, go through encoding/json.
type lineDecoder struct {
	b []byte // what is still to be read

	present uint32 // bit m: member m is there and not null
	seen    uint32 // bit m: member m is there
	time    int64  // microseconds
	state   odometer.State
	event   int
	final   bool
	text    [memberOrg + 1][]byte // part of the line; of those that can be missing nil when they are
	number  [members]uint64
}

func (d *lineDecoder) has(m member) bool { return d.present>>m&1 != 0 }

var (
	errNotObject = errors.New("not a JSON object")
	errCutOff    = errors.New("the JSON object is cut off")
	errComma     = errors.New("a comma or the end of the JSON object is missing")
	errTrailing  = errors.New("something follows the JSON object")
)

// decode reads line into d, replacing what d held.
func (d *lineDecoder) decode(line []byte) error {
	d.b, d.present, d.seen = line, 0, 0
	d.state, d.event, d.final = "", eventNone, false
	d.text[memberUser], d.text[memberOrg] = nil, nil
	if d.next() != '{' {
		return errNotObject
	}
	d.b = d.b[1:]
	for first := true; ; first = false {
		switch c := d.next(); {
		case c == '}':
			d.b = d.b[1:]
			if d.next() != 0 || len(d.b) > 0 {
				return errTrailing
			}
			return nil
		case c == 0:
			return errCutOff
		case first:
		case c != ',':
			return errComma
		default:
			d.b = d.b[1:]
			if d.next() != '"' { // a comma before the end
				return errComma
			}
		}
		if err := d.member(); err != nil {
			return err
		}
	}
}

// next skips white space and returns the byte that follows, 0 at the end.
func (d *lineDecoder) next() byte {
	for i, c := range d.b {
		if c != ' ' && c != '\t' && c != '\r' && c != '\n' {
			d.b = d.b[i:]
			return c
		}
	}
	d.b = nil
	return 0
}

// member reads a name, a colon and a value.
func (d *lineDecoder) member() error {
	name, err := d.string()
	if err != nil {
		return err
	}
	if d.next() != ':' {
		return fmt.Errorf("no colon after %q", name)
	}
	d.b = d.b[1:]
	d.next()
	m, known := memberOf(name)
	if !known {
		return d.skip(name)
	}
	if d.seen>>m&1 != 0 {
		return fmt.Errorf("%q stands twice", name)
	}
	d.seen |= 1 << m
	if rest, ok := bytes.CutPrefix(d.b, []byte("null")); ok {
		d.b = rest
		return nil
	}
	d.present |= 1 << m
	switch {
	case m >= memberCPU:
		d.number[m], err = d.integer()
	case m == memberFinal:
		err = d.bool()
	default:
		err = d.word(m)
	}
	if err != nil {
		return fmt.Errorf("%q %w", name, err)
	}
	return nil
}

// word reads a string and, of those that are more than text, what it means.
func (d *lineDecoder) word(m member) (err error) {
	if d.next() != '"' {
		return errors.New("is not a string")
	}
	v, err := d.string()
	if err != nil {
		return err
	}
	d.text[m] = v
	switch m {
	case memberTime:
		d.time, err = parseTime(v)
	case memberState:
		switch string(v) {
		case "running":
			d.state = odometer.Running
		case "stopped":
			d.state = odometer.Stopped
		case "paused":
			d.state = odometer.Paused
		default:
			err = fmt.Errorf("is %q; it can be running, paused or stopped", v)
		}
	case memberEvent:
		switch string(v) {
		case "started":
			d.event = eventStarted
		case "stopped":
			d.event = eventStopped
		default:
			err = fmt.Errorf("is %q; it can be started or stopped", v)
		}
	}
	return err
}

func (d *lineDecoder) bool() error {
	if rest, ok := bytes.CutPrefix(d.b, []byte("true")); ok {
		d.final, d.b = true, rest
		return nil
	}
	if rest, ok := bytes.CutPrefix(d.b, []byte("false")); ok {
		d.final, d.b = false, rest
		return nil
	}
	return errors.New("is neither true nor false")
}

// string reads a string. The result is part of the line unless the string has
// escapes.
func (d *lineDecoder) string() ([]byte, error) {
	if len(d.b) == 0 || d.b[0] != '"' {
		return nil, errors.New("a string is missing")
	}
	for i := 1; i < len(d.b); i++ {
		switch c := d.b[i]; {
		case c == '"':
			v := d.b[1:i]
			d.b = d.b[i+1:]
			return v, nil
		case c < ' ':
			return nil, errors.New("has a control character in a string")
		case c == '\\':
			return d.escaped()
		}
	}
	return nil, errCutOff
}

// escaped reads a string that has escapes.
func (d *lineDecoder) escaped() ([]byte, error) {
	end := stringEnd(d.b)
	if end < 0 {
		return nil, errCutOff
	}
	var s string
	if err := json.Unmarshal(d.b[:end], &s); err != nil {
		return nil, fmt.Errorf("has a malformed string: %w", err)
	}
	d.b = d.b[end:]
	return []byte(s), nil
}

// stringEnd returns the length of the string that b begins with, quotes
// included, -1 where it does not end.
func stringEnd(b []byte) int {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return -1
}

// integer reads a non-negative integer, or a string that holds one.
func (d *lineDecoder) integer() (uint64, error) {
	if len(d.b) > 0 && d.b[0] == '"' {
		s, err := d.string()
		if err != nil {
			return 0, err
		}
		n, rest, ok := cutUint(s)
		if !ok || len(rest) > 0 {
			return 0, fmt.Errorf("is %.40q, not an integer that can be counted", s)
		}
		return n, nil
	}
	n, rest, err := cutInteger(d.b)
	if err != nil {
		return 0, err
	}
	d.b = rest
	return n, nil
}

func cutInteger(b []byte) (uint64, []byte, error) {
	n, rest, ok := cutUint(b)
	if ok && (len(rest) == 0 || strings.IndexByte(",} \t\r\n", rest[0]) >= 0) && (b[0] != '0' || len(b)-len(rest) == 1) {
		return n, rest, nil
	}
	value := b
	if i := bytes.IndexAny(b, ",} \t\r\n"); i >= 0 {
		value = b[:i]
	}
	var f float64
	switch {
	case len(value) > 0 && value[0] == '-':
		return 0, nil, fmt.Errorf("is %.40s; it cannot be negative", value)
	case len(bytes.Trim(value, "0123456789")) == 0 && len(value) > 0 && value[0] != '0':
		return 0, nil, fmt.Errorf("is %.40s, beyond 64 bits", value)
	case json.Unmarshal(value, &f) == nil:
		return 0, nil, fmt.Errorf("is %.40s, not a whole number in plain digits", value)
	}
	return 0, nil, fmt.Errorf("is %.40q, not a number", value)
}

// skip passes over the value of a member that is not known, which has to be
// JSON all the same.
func (d *lineDecoder) skip(name []byte) error {
	depth, i := 0, 0
scan:
	for i < len(d.b) {
		switch c := d.b[i]; c {
		case '"':
			n := stringEnd(d.b[i:])
			if n < 0 {
				return errCutOff
			}
			i += n
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				break scan
			}
			depth--
		case ',':
			if depth == 0 {
				break scan
			}
		}
		i++
	}
	if !json.Valid(d.b[:i]) {
		return fmt.Errorf("%q has a value that is not JSON", name)
	}
	d.b = d.b[i:]
	return nil
}

// parseTime reads an RFC 3339 time from 1970 on, in microseconds; finer
// digits are cut off.
func parseTime(b []byte) (int64, error) {
	t, ok := plainTime(b)
	if !ok {
		var err error
		if t, err = time.Parse(time.RFC3339Nano, string(b)); err != nil {
			return 0, fmt.Errorf("is %.40q, not a time such as 2026-01-31T23:59:59.5Z", b)
		}
	}
	if t.Before(time.Unix(0, 0)) {
		return 0, fmt.Errorf("is %.40q, before 1970", b)
	}
	return t.UnixMicro(), nil
}

// plainTime reads the common form "2026-01-31T23:59:59.5Z" without the
// generality of time.Parse.
func plainTime(b []byte) (time.Time, bool) {
	const form = "2026-01-31T23:59:59Z"
	if len(b) < len(form) || b[4] != '-' || b[7] != '-' || b[10] != 'T' || b[13] != ':' || b[16] != ':' || b[len(b)-1] != 'Z' {
		return time.Time{}, false
	}
	ok := true
	number := func(from, to int) int {
		n, rest, digits := cutUint(b[from:to])
		ok = ok && digits && len(rest) == 0
		return int(n)
	}
	year, month, day := number(0, 4), number(5, 7), number(8, 10)
	hour, minute, second := number(11, 13), number(14, 16), number(17, 19)
	nanos := 0
	if fraction := len(b) - len(form); fraction > 0 {
		if b[19] != '.' || fraction > 10 || fraction < 2 {
			return time.Time{}, false
		}
		nanos = number(20, len(b)-1)
		for range 10 - fraction {
			nanos *= 10
		}
	}
	ok = ok && month >= 1 && month <= 12 && day >= 1 && day <= 28 && hour < 24 && minute < 60 && second < 60
	if !ok || nanos > math.MaxInt32 {
		return time.Time{}, false // time.Parse knows the length of months and what to say
	}
	return time.Date(year, time.Month(month), day, hour, minute, second, nanos, time.UTC), true
}
