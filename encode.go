package odometer

import (
	"bytes"
	"encoding/base64"
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendJSON appends the event in the form of DESIGN section 4 as one line
// without a newline, and returns the extended buffer. Known members come
// first in a fixed order, then Extra in its own. The owner is written as
// [Owner.OrUnassigned]. A float that is not finite is written as null, which
// [DecodeEvent] refuses; [Event.Check] finds it before.
func (e *Event) AppendJSON(b []byte) []byte {
	b = e.appendMembers(b, false)
	return append(b, '}')
}

// MarshalJSON returns what AppendJSON appends.
func (e *Event) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

// AppendJSON appends the entry as one line without a newline: the JSON of its
// event, where user_id, org_id and usage are what was charged, with the
// entry's own members behind. It names span and usage even for an event of
// version 1.0, and readings unless they are zero. Members of the event's
// Extra that bear the name of one of the entry's are left out.
func (e *Entry) AppendJSON(b []byte) []byte {
	b = e.Event.appendMembers(b, true)
	b = append(b, `,"entry_id":"`...)
	b = e.ID.append(b)
	b = append(b, `","source_event_id":`...)
	b = appendString(b, e.SourceEventID)
	b = append(b, `,"kind":`...)
	b = appendString(b, string(e.Kind))
	b = append(b, `,"used_at":`...)
	b = appendInt(b, e.Event.Span.End)
	b = append(b, `,"booked_at":`...)
	b = appendInt(b, e.BookedAt)
	if e.Cause != "" {
		b = append(b, `,"cause":`...)
		b = appendString(b, e.Cause)
	}
	if len(e.Adjusts) > 0 {
		separator := `,"adjusts":[`
		for _, m := range e.Adjusts {
			b = appendString(append(b, separator...), m.String())
			separator = `,`
		}
		b = append(b, ']')
	}
	return append(b, '}')
}

// MarshalJSON returns what AppendJSON appends.
func (e *Entry) MarshalJSON() ([]byte, error) { return e.AppendJSON(nil), nil }

func (id EntryID) append(b []byte) []byte {
	b = strconv.AppendInt(b, int64(id.Partition), 10)
	b = append(b, '-')
	return strconv.AppendUint(b, id.Number, 10)
}

// appendMembers appends the event's members without the closing brace. An
// entry also carries what version 1.0 leaves out of an event: id, agent,
// quality, span and usage.
func (e *Event) appendMembers(b []byte, entry bool) []byte {
	integral := e.Integral()
	b = append(b, `{"event_type":"`+EventType+`","version":`...)
	b = appendString(b, e.Version)
	if integral || entry {
		b = append(b, `,"id":`...)
		var buf [256]byte
		b = appendStringBytes(b, e.appendID(buf[:0]))
	}
	b = append(b, `,"timestamp":`...)
	b = appendInt(b, e.Timestamp)
	b = append(b, `,"instance_id":`...)
	b = appendString(b, string(e.Instance))
	owner := e.Owner.OrUnassigned()
	b = append(b, `,"user_id":`...)
	b = appendString(b, string(owner.User))
	if owner.Org == "" {
		b = append(b, `,"org_id":null`...)
	} else {
		b = append(b, `,"org_id":`...)
		b = appendString(b, string(owner.Org))
	}
	if integral || entry && e.Agent != "" {
		b = append(b, `,"agent_id":`...)
		b = appendString(b, string(e.Agent))
	}
	b = e.appendMetrics(b)
	b = append(b, `,"period":{"start":`...)
	b = appendInt(b, e.Period.Start)
	b = append(b, `,"end":`...)
	b = appendInt(b, e.Period.End)
	b = e.appendExtra(b, inPeriod, entry)
	b = append(b, '}')
	if integral {
		b = append(b, `,"epoch":`...)
		b = appendString(b, string(e.Epoch))
		b = append(b, `,"epoch_start_us":`...)
		b = appendInt(b, e.EpochStart)
		b = append(b, `,"sequence":`...)
		b = appendUint(b, e.Sequence)
		if e.FirstSequence != e.Sequence {
			b = append(b, `,"first_sequence":`...)
			b = appendUint(b, e.FirstSequence)
		}
	}
	if integral || entry {
		b = append(b, `,"quality":`...)
		b = appendString(b, string(e.Quality))
		if e.Final {
			b = append(b, `,"final":true`...)
		}
		b = e.appendLifecycle(b)
		b = append(b, `,"span":{"start_us":`...)
		b = appendInt(b, e.Span.Start)
		b = append(b, `,"end_us":`...)
		b = appendInt(b, e.Span.End)
		if e.Span.Step != 0 {
			b = append(b, `,"step_us":`...)
			b = appendInt(b, e.Span.Step)
		}
		b = e.appendExtra(b, inSpan, entry)
		b = append(b, `},"usage":`...)
		b = e.appendUsage(b, &e.Usage, inUsage, entry)
	}
	if integral && !entry || entry && e.Readings != (Readings{}) {
		b = append(b, `,"readings":{"start":`...)
		b = e.appendUsage(b, &e.Readings.Start, inReadingsStart, entry)
		b = append(b, `,"end":`...)
		b = e.appendUsage(b, &e.Readings.End, inReadingsEnd, entry)
		b = e.appendExtra(b, inReadings, entry)
		b = append(b, '}')
	}
	return e.appendExtra(b, inEvent, entry)
}

func (e *Event) appendMetrics(b []byte) []byte {
	m := &e.Metrics
	b = append(b, `,"metrics":{"cpu_seconds":`...)
	b = appendUint(b, m.CPUSeconds)
	b = append(b, `,"cpu_percent_avg":`...)
	b = appendFloat(b, m.CPUPercentAvg)
	b = append(b, `,"memory_gb":`...)
	b = appendFloat(b, m.MemoryGB)
	b = append(b, `,"memory_percent":`...)
	b = appendFloat(b, m.MemoryPercent)
	b = append(b, `,"storage_gb":`...)
	b = appendFloat(b, m.StorageGB)
	b = append(b, `,"network_egress_mb":`...)
	b = appendFloat(b, m.NetworkEgressMB)
	b = append(b, `,"network_ingress_mb":`...)
	b = appendFloat(b, m.NetworkIngressMB)
	b = append(b, `,"gpu_seconds":`...)
	b = appendUint(b, m.GPUSeconds)
	b = e.appendExtra(b, inMetrics, false)
	return append(b, '}')
}

// appendUsage appends u's known quantities and what Extra has for the same
// object.
func (e *Event) appendUsage(b []byte, u *Usage, in string, entry bool) []byte {
	start := len(b)
	b = u.AppendJSON(b)
	if len(e.Extra) == 0 {
		return b
	}
	b = b[:len(b)-1]
	empty := len(b) == start+1
	before := len(b)
	b = e.appendExtra(b, in, entry)
	if empty && len(b) > before { // no comma after the brace
		copy(b[before:], b[before+1:])
		b = b[:len(b)-1]
	}
	return append(b, '}')
}

// AppendJSON appends u as a JSON object of its known quantities by their wire
// names, values beyond ±[MaxExact] as strings of digits.
func (u *Usage) AppendJSON(b []byte) []byte {
	b = append(b, '{')
	first := true
	for q := range u.Vector {
		if !u.Known.Has(Quantity(q)) {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		b = append(b, '"')
		b = append(b, quantityNames[q]...)
		b = append(b, `":`...)
		b = appendInt(b, u.Vector[q])
	}
	return append(b, '}')
}

// MarshalJSON returns what AppendJSON appends.
func (u Usage) MarshalJSON() ([]byte, error) { return u.AppendJSON(nil), nil }

// appendExtra appends the members that Extra holds for one object, each
// behind a comma.
func (e *Event) appendExtra(b []byte, in string, entry bool) []byte {
	for i := range e.Extra {
		m := &e.Extra[i]
		if m.In != in || entry && in == inEvent && ownedByEntry(m.Name) {
			continue
		}
		b = append(b, ',')
		b = appendString(b, m.Name)
		b = append(b, ':')
		b = appendLine(b, m.Value)
	}
	return b
}

// appendLine appends JSON that came from elsewhere, on one line: outside of
// strings a line break is space, and inside of strings JSON has none.
func appendLine(b, raw []byte) []byte {
	at := len(b)
	b = append(b, raw...)
	for i := at; i < len(b); i++ {
		if b[i] == '\n' || b[i] == '\r' {
			b[i] = ' '
		}
	}
	return b
}

// AppendJSON appends the record as one line without a newline:
//
//	{"first":41,"position":42,"event":{…},"checkpoint":{…},"resumes":true}
//
// where first is left out when it equals position, and the others when they
// are absent. A record without an Event but with Raw keeps Raw's bytes: as
// they are where they are one JSON object, else as "event_base64".
func (r *Record) AppendJSON(b []byte) []byte { return r.append(b, r.First, r.Position) }

func (r *Record) append(b []byte, first, position uint64) []byte {
	b = append(b, '{')
	if first != position {
		b = append(b, `"first":`...)
		b = appendUint(b, first)
		b = append(b, ',')
	}
	b = append(b, `"position":`...)
	b = appendUint(b, position)
	switch {
	case r.Event != nil:
		b = append(b, `,"event":`...)
		b = r.Event.AppendJSON(b)
	case r.Raw == nil:
	case embeddable(r.Raw):
		b = append(b, `,"event":`...)
		b = append(b, r.Raw...)
	default:
		b = append(b, `,"event_base64":"`...)
		b = base64.StdEncoding.AppendEncode(b, r.Raw)
		b = append(b, '"')
	}
	if r.Checkpoint != nil {
		b = append(b, `,"checkpoint":`...)
		b = appendLine(b, r.Checkpoint)
	}
	if r.Resumes {
		b = append(b, `,"resumes":true`...)
	}
	return append(b, '}')
}

// embeddable reports whether raw can stand as an object in a line of JSON and
// be found there again, byte for byte.
func embeddable(raw []byte) bool {
	if len(raw) == 0 || raw[0] != '{' || bytes.ContainsAny(raw, "\n\r") {
		return false
	}
	s := scanner{data: raw}
	return s.bracketed() && s.pos == len(raw)
}

// appendInt appends n as a number, or as a string of digits beyond ±MaxExact.
func appendInt(b []byte, n int64) []byte {
	if n > MaxExact || n < -MaxExact {
		b = append(b, '"')
		b = strconv.AppendInt(b, n, 10)
		return append(b, '"')
	}
	return strconv.AppendInt(b, n, 10)
}

func appendUint(b []byte, n uint64) []byte {
	if n > MaxExact {
		b = append(b, '"')
		b = strconv.AppendUint(b, n, 10)
		return append(b, '"')
	}
	return strconv.AppendUint(b, n, 10)
}

// appendFloat appends f in as few digits as give f back when read. Six
// decimals, which is what [Event.Derive] writes, take a short way: where the
// nearest float to n/10^6 is f, n's digits are f's.
func appendFloat(b []byte, f float64) []byte {
	const short = 1 << 40 // n of 18 digits and more would not be the shortest form
	if n := math.Round(f * 1e6); f >= 0 && n < short && n/1e6 == f {
		u := uint64(n)
		b = strconv.AppendUint(b, u/1e6, 10)
		frac := u % 1e6
		if frac == 0 {
			return b
		}
		var d [7]byte
		d[0] = '.'
		for i := 6; i > 0; i-- {
			d[i] = byte('0' + frac%10)
			frac /= 10
		}
		end := len(d)
		for d[end-1] == '0' {
			end--
		}
		return append(b, d[:end]...)
	}
	if !Finite(f) {
		return append(b, "null"...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-6 || a >= 1e21) {
		return strconv.AppendFloat(b, f, 'e', -1, 64)
	}
	return strconv.AppendFloat(b, f, 'f', -1, 64)
}

// plain[c] says that byte c stands for itself in a JSON string.
var plain = func() (t [256]bool) {
	for c := range t {
		t[c] = c >= 0x20 && c < utf8.RuneSelf && c != '"' && c != '\\'
	}
	return t
}()

func appendString(b []byte, s string) []byte {
	for i := range len(s) {
		if !plain[s[i]] {
			return appendEscaped(b, s)
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

func appendStringBytes(b, s []byte) []byte {
	for _, c := range s {
		if !plain[c] {
			return appendEscaped(b, string(s))
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"')
}

// appendEscaped appends any text as a JSON string. What is not UTF-8 becomes
// U+FFFD; U+2028 and U+2029 are escaped so that the line also stands in a
// program.
func appendEscaped(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c < utf8.RuneSelf {
			i++
			switch {
			case plain[c]:
				b = append(b, c)
			case c == '"' || c == '\\':
				b = append(b, '\\', c)
			case c == '\n':
				b = append(b, '\\', 'n')
			case c == '\r':
				b = append(b, '\\', 'r')
			case c == '\t':
				b = append(b, '\\', 't')
			default:
				b = append(b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
			}
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == '\u2028' || r == '\u2029' {
			b = append(b, '\\', 'u', '2', '0', '2', hex[r&15])
		} else {
			b = utf8.AppendRune(b, r)
		}
		i += n
	}
	return append(b, '"')
}
