package odometer

import (
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The binding to CloudEvents 1.0 (https://github.com/cloudevents/spec). An
// event and an entry travel alike: the JSON is the data, and the attributes
// say what a router needs. Source and id together name it for ever.
const (
	CloudEventType    = "org.odometer.usage.v1"
	CloudEventSource  = "//odometer/" // and the agent, percent-encoded
	CloudEventVersion = "1.0"

	ContentJSON       = "application/json"
	ContentCloudEvent = "application/cloudevents+json"       // structured mode
	ContentCloudBatch = "application/cloudevents-batch+json" // batch mode
)

// CloudEvent is a CloudEvent whose data is JSON.
type CloudEvent struct {
	ID      string    // of the event, or of the entry
	Source  string    // who measured, a URI reference
	Type    string    // CloudEventType
	Subject string    // the instance
	Time    time.Time // the end of the period; zero for none
	Data    json.RawMessage
}

// CloudEvent returns e as a CloudEvent.
func (e *Event) CloudEvent() CloudEvent {
	return e.cloudEvent(e.ID(), e.AppendJSON(nil))
}

// CloudEvent returns e as a CloudEvent.
func (e *Entry) CloudEvent() CloudEvent {
	return e.Event.cloudEvent(e.ID.String(), e.AppendJSON(nil))
}

func (e *Event) cloudEvent(id string, data []byte) CloudEvent {
	c := CloudEvent{ID: id, Source: e.Source, Type: CloudEventType, Subject: string(e.Instance), Data: data}
	if e.Agent != "" || c.Source == "" {
		c.Source = CloudEventSource + url.PathEscape(string(e.Agent))
	}
	seconds := e.Period.End
	if e.Span.End != 0 {
		seconds = e.Span.End / SecondMicros
	}
	c.Time = time.Unix(seconds, 0).UTC()
	return c
}

// AppendJSON appends the structured form, as one line without a newline.
func (c *CloudEvent) AppendJSON(b []byte) []byte {
	b = append(b, `{"specversion":"`+CloudEventVersion+`","id":`...)
	b = appendString(b, c.ID)
	b = append(b, `,"source":`...)
	b = appendString(b, c.Source)
	b = append(b, `,"type":`...)
	b = appendString(b, c.Type)
	if c.Subject != "" {
		b = append(b, `,"subject":`...)
		b = appendString(b, c.Subject)
	}
	if !c.Time.IsZero() {
		b = append(b, `,"time":"`...)
		b = c.Time.AppendFormat(b, time.RFC3339Nano)
		b = append(b, '"')
	}
	b = append(b, `,"datacontenttype":"`+ContentJSON+`","data":`...)
	b = appendLine(b, c.Data)
	return append(b, '}')
}

// MarshalJSON returns what AppendJSON appends.
func (c *CloudEvent) MarshalJSON() ([]byte, error) { return c.AppendJSON(nil), nil }

// AppendCloudBatch appends the batch form: a JSON array of structured ones.
func AppendCloudBatch(b []byte, events []CloudEvent) []byte {
	b = append(b, '[')
	for i := range events {
		if i > 0 {
			b = append(b, ',')
		}
		b = events[i].AppendJSON(b)
	}
	return append(b, ']')
}

// HTTPHeader returns the header of the binary mode over HTTP, where Data is
// the body. It can be used as an http.Header.
func (c *CloudEvent) HTTPHeader() map[string][]string {
	h := make(map[string][]string)
	c.attributes(func(name, value string) {
		h[textproto.CanonicalMIMEHeaderKey("ce-"+name)] = []string{percentEncode(value)}
	})
	h["Content-Type"] = []string{ContentJSON}
	return h
}

// NATSHeader returns the header of the binary mode over NATS, where Data is
// the payload. It can be used as a nats.Header. Over NATS datacontenttype is
// an attribute like any other.
func (c *CloudEvent) NATSHeader() map[string][]string {
	h := make(map[string][]string)
	c.attributes(func(name, value string) { h["ce-"+name] = []string{percentEncode(value)} })
	h["ce-datacontenttype"] = []string{ContentJSON}
	return h
}

func (c *CloudEvent) attributes(yield func(name, value string)) {
	yield("specversion", CloudEventVersion)
	yield("id", c.ID)
	yield("source", c.Source)
	yield("type", c.Type)
	if c.Subject != "" {
		yield("subject", c.Subject)
	}
	if !c.Time.IsZero() {
		yield("time", c.Time.Format(time.RFC3339Nano))
	}
}

// percentEncode writes a header's value as section 3.1.3.2 of the HTTP binding
// says: space, quote, percent and what is not printable ASCII as the %XX of
// its bytes.
func percentEncode(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || c == '"' || c == '%' {
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

// percentDecode reads a header's value: quoted or not, then percent-decoded.
func percentDecode(s string) (string, error) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		var b strings.Builder
		for i := 1; i < len(s)-1; i++ {
			if s[i] == '\\' && i < len(s)-2 {
				i++
			}
			b.WriteByte(s[i])
		}
		s = b.String()
	}
	s, err := url.PathUnescape(s)
	if err != nil {
		return "", errors.New("is not percent-encoded as CloudEvents want it")
	}
	if !utf8.ValidString(s) {
		return "", errors.New("is not valid UTF-8")
	}
	return s, nil
}

// CloudItem is one CloudEvent that was received. Err says why it is refused,
// wrapping [ErrInvalid]; Event is then nil, and of the CloudEvent there is
// what could be read.
type CloudItem struct {
	CloudEvent
	Event *Event // its Source is the CloudEvent's
	Err   error
}

// ReadCloudHTTP reads the CloudEvents of an HTTP request (whose header is an
// http.Header) in the mode that the content type names: structured, batch or
// binary. Each item of a batch stands for itself; the error, wrapping
// [ErrInvalid], says that there are no items to be told apart.
func ReadCloudHTTP(header map[string][]string, body []byte) ([]CloudItem, error) {
	h := textproto.MIMEHeader(header)
	content := h.Get("Content-Type")
	media, params, err := mime.ParseMediaType(content)
	if err != nil {
		return nil, fmt.Errorf("content type %q: %w: %w", clip(content), err, ErrInvalid)
	}
	if c := params["charset"]; c != "" && !strings.EqualFold(c, "utf-8") {
		return nil, fmt.Errorf("content type %q: only utf-8 is understood: %w", clip(content), ErrInvalid)
	}
	switch {
	case media == ContentCloudEvent:
		return []CloudItem{structuredItem(body)}, nil
	case media == ContentCloudBatch:
		return batchItems(body)
	case isJSON(media) && h.Get("ce-specversion") != "":
		return []CloudItem{binaryItem(h.Values, body)}, nil
	}
	return nil, fmt.Errorf("content type %q: send %s, %s, or %s with ce- headers: %w",
		clip(content), ContentCloudEvent, ContentCloudBatch, ContentJSON, ErrInvalid)
}

// ReadCloudNATS reads a CloudEvent from a NATS message in binary or, where the
// Content-Type says so, structured mode. The header is a nats.Header. An entry
// of the USAGE topic has its JSON in Data; Event and Err of an item are about
// data that is an event.
func ReadCloudNATS(header map[string][]string, data []byte) CloudItem {
	values := func(name string) []string { return header[name] }
	for name, v := range header {
		if media, _, err := mime.ParseMediaType(strings.Join(v, ",")); strings.EqualFold(name, "Content-Type") && err == nil && media == ContentCloudEvent {
			return structuredItem(data)
		}
	}
	if c := header["ce-datacontenttype"]; len(c) > 0 {
		if media, _, err := mime.ParseMediaType(c[0]); err != nil || !isJSON(media) {
			return CloudItem{Err: fmt.Errorf("ce-datacontenttype: %q where %s is due: %w", clip(c[0]), ContentJSON, ErrInvalid)}
		}
	}
	return binaryItem(values, data)
}

func isJSON(media string) bool {
	return media == ContentJSON || strings.HasSuffix(media, "+json") && !strings.HasPrefix(media, "application/cloudevents")
}

// binaryItem reads the binary mode. Values returns the headers of a name.
func binaryItem(values func(name string) []string, data []byte) CloudItem {
	var p problems
	got := make(map[string]string)
	for _, name := range attributeNames {
		header := "ce-" + name
		v := values(header)
		if len(v) == 0 {
			continue
		}
		if len(v) > 1 {
			p.add("%s: given %d times", header, len(v))
			continue
		}
		value, err := percentDecode(v[0])
		if err != nil {
			p.add("%s: %v", header, err)
			continue
		}
		got[name] = value
	}
	return item(got, "ce-", data, p)
}

// attributeNames are the attributes that are read; the first four must be
// there. Others are extensions, which nothing here needs.
var attributeNames = []string{"specversion", "id", "source", "type", "subject", "time"}

// structuredNames are the members of the structured form that are read.
var structuredNames = slices.Concat(attributeNames, []string{"datacontenttype", "data", "data_base64"})

const (
	requiredAttributes = 4
	maxAttributeBytes  = 1024
)

// item makes an item of attributes and data, p being what is wrong already.
func item(got map[string]string, prefix string, data []byte, p problems) CloudItem {
	for i, name := range attributeNames {
		value, ok := got[name]
		switch {
		case !ok && i < requiredAttributes && !p.mention(prefix+name):
			p.add("%s%s is missing", prefix, name)
		case !ok:
		case value == "" && i < requiredAttributes:
			p.add("%s%s is empty", prefix, name)
		case len(value) > maxAttributeBytes:
			p.add("%s%s: %d bytes long, at most %d are allowed", prefix, name, len(value), maxAttributeBytes)
			got[name] = ""
		case name == "specversion" && value != CloudEventVersion:
			p.add("%s%s: %q where %q is due", prefix, name, clip(value), CloudEventVersion)
		}
	}
	if _, err := url.Parse(got["source"]); err != nil {
		p.add("%ssource: %q is no URI reference", prefix, clip(got["source"]))
	}
	it := CloudItem{CloudEvent: CloudEvent{ID: got["id"], Source: got["source"], Type: got["type"], Subject: got["subject"], Data: data}}
	if text, ok := got["time"]; ok {
		t, err := time.Parse(time.RFC3339Nano, text)
		if err != nil {
			p.add("%stime: %q is no time of RFC 3339", prefix, clip(text))
		}
		it.Time = t
	}
	if len(data) == 0 && !p.mention("data") {
		p.add("data is missing")
	}
	if len(p) > 0 {
		it.Err = fmt.Errorf("cloudevent: %w", errors.Join(p...))
		return it
	}
	it.Event, it.Err = DecodeEvent(data)
	if it.Event != nil {
		it.Event.Source = it.Source
	}
	return it
}

// mention reports whether a problem with the named thing is noted already.
func (p problems) mention(name string) bool {
	for _, err := range p {
		if strings.HasPrefix(err.Error(), name) {
			return true
		}
	}
	return false
}

// structuredItem reads the structured form.
func structuredItem(body []byte) CloudItem {
	s := scanner{data: body}
	if !utf8.Valid(body) {
		s.fail("not valid UTF-8")
	} else if !s.open('{') {
		s.unexpected("an object")
	}
	got := make(map[string]string)
	var seen names
	var data json.RawMessage
	for first := true; s.err == nil; {
		name, ok := s.member(&first)
		if !ok {
			break
		}
		if !seen.add(name) {
			s.note("stands twice")
			s.value()
			continue
		}
		switch key := string(name); key {
		case "specversion", "id", "source", "type", "subject", "time", "datacontenttype":
			if s.peek() == 'n' && (key == "subject" || key == "time" || key == "datacontenttype") {
				s.value()
			} else if t, ok := s.string(); ok {
				got[key] = string(t)
			}
		case "data", "data_base64":
			if data != nil {
				s.note("the data stands there already")
				s.value()
			} else if key == "data_base64" {
				data = s.base64()
			} else if s.peek() == 'n' {
				s.value()
			} else {
				data = s.eventBytes()
			}
		default:
			for _, n := range structuredNames {
				if strings.EqualFold(n, key) {
					s.note("is spelt %q", n)
				}
			}
			s.value()
		}
	}
	s.name = nil
	s.end()
	if media, _, err := mime.ParseMediaType(got["datacontenttype"]); got["datacontenttype"] != "" && (err != nil || !isJSON(media)) {
		s.note("datacontenttype: %q where %s is due", clip(got["datacontenttype"]), ContentJSON)
	}
	p := problems(s.problems)
	if s.err != nil {
		it := item(got, "", data, problems{s.err})
		it.Err = fmt.Errorf("cloudevent: %w", s.result()) // what is missing may lie behind the mistake
		return it
	}
	return item(got, "", data, p)
}

// batchItems takes a batch apart by its brackets, so that each item is judged
// by itself.
func batchItems(body []byte) ([]CloudItem, error) {
	s := scanner{data: body}
	if !s.open('[') {
		s.unexpected("an array")
		return nil, fmt.Errorf("batch: %w", s.result())
	}
	items := []CloudItem{}
	if s.peek() == ']' {
		s.pos++
		if s.end(); s.err == nil {
			return items, nil
		}
	}
	for s.err == nil {
		s.name = fmt.Appendf(nil, "item %d", len(items))
		raw := s.eventBytes()
		if s.err != nil {
			break
		}
		items = append(items, structuredItem(raw))
		s.name = nil
		switch s.peek() {
		case ',':
			s.pos++
			continue
		case ']':
			s.pos++
			s.end()
			if s.err == nil {
				return items, nil
			}
		default:
			s.unexpected("a comma or a closing bracket")
		}
	}
	return nil, fmt.Errorf("batch: %w", s.result())
}
