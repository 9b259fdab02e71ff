package api

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"example.org/odometer"
)

// The content types of CloudEvents 1.0 over HTTP.
const (
	ContentStructured = "application/cloudevents+json"
	ContentBatch      = "application/cloudevents-batch+json"
)

// EntryCloudEvent is the CloudEvents type of a ledger entry.
const EntryCloudEvent = "org.odometer.entry.v1"

// The attributes that every CloudEvent must have.
var required = [...]string{"specversion", "id", "source", "type"}

// envelope is what this package needs of a CloudEvent: who sent it, and the
// event inside.
type envelope struct {
	source string
	data   json.RawMessage
}

// readEnvelopes reads the CloudEvents of a request in the mode that its
// content type names: structured, batch, or binary. What is no well-formed
// CloudEvent is refused with the request as a whole, since there is no telling
// what it was; whether the data is a valid usage event is not looked at.
func readEnvelopes(r *http.Request) ([]envelope, error) {
	if e := r.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return nil, fmt.Errorf("content encoding %q is not supported, send the body as it is: %w", clip(e), errMediaType)
	}
	header := r.Header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(header)
	if err != nil {
		return nil, fmt.Errorf("content type %q: %v; send %s, %s, or application/json with ce- headers: %w", clip(header), err, ContentStructured, ContentBatch, errMediaType)
	}
	if c := params["charset"]; c != "" && !strings.EqualFold(c, "utf-8") {
		return nil, fmt.Errorf("charset %q is not supported, only utf-8: %w", clip(c), errMediaType)
	}
	binary := media == "application/json" || strings.HasSuffix(media, "+json") && !strings.HasPrefix(media, "application/cloudevents")
	if !binary && media != ContentStructured && media != ContentBatch {
		return nil, fmt.Errorf("content type %s is not supported; send %s, %s, or application/json with ce- headers: %w", media, ContentStructured, ContentBatch, errMediaType)
	}
	if r.ContentLength > MaxBodyBytes {
		return nil, fmt.Errorf("the body has %d bytes, at most %d are taken: %w", r.ContentLength, MaxBodyBytes, errTooLarge)
	}
	body, err := io.ReadAll(r.Body) // limited by the router
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return nil, err
		}
		return nil, FieldError{"body", "$", "could not be read to its end: " + err.Error()}
	}
	switch {
	case binary:
		return binaryEnvelope(r.Header, body)
	case media == ContentStructured:
		e, faults := structuredEnvelope("$", body)
		return []envelope{e}, join(faults...)
	default:
		return batchEnvelopes(body)
	}
}

func binaryEnvelope(h http.Header, body []byte) ([]envelope, error) {
	var errs []error
	values := make(map[string]string)
	for _, name := range required {
		header := "ce-" + name
		got := h.Values(header)
		if len(got) == 0 {
			errs = append(errs, FieldError{"header", header, "is missing"})
			continue
		}
		if len(got) > 1 {
			errs = append(errs, FieldError{"header", header, fmt.Sprintf("is given %d times", len(got))})
			continue
		}
		value, err := url.PathUnescape(got[0]) // the binding's percent encoding
		if err != nil {
			errs = append(errs, FieldError{"header", header, err.Error()})
			continue
		}
		if fault := attributeFault(name, value); fault != "" {
			errs = append(errs, FieldError{"header", header, fault})
		}
		values[name] = value
	}
	if !json.Valid(body) {
		errs = append(errs, FieldError{"body", "$", "is not JSON"})
	}
	return []envelope{{source: values["source"], data: body}}, join(errs...)
}

func batchEnvelopes(body []byte) ([]envelope, error) {
	var elements []json.RawMessage
	if err := json.Unmarshal(body, &elements); err != nil || elements == nil {
		return nil, FieldError{"body", "$", "is not a JSON array of CloudEvents"}
	}
	if len(elements) > MaxBatch {
		return nil, fmt.Errorf("the batch has %d events, at most %d are taken: %w", len(elements), MaxBatch, errTooLarge)
	}
	var errs []error
	all := make([]envelope, len(elements))
	for i, element := range elements {
		e, faults := structuredEnvelope(fmt.Sprintf("$[%d]", i), element)
		all[i], errs = e, append(errs, faults...)
	}
	return all, join(errs...)
}

// structuredEnvelope reads one CloudEvent in its JSON form. Place says where it
// stands in the body.
func structuredEnvelope(place string, body []byte) (envelope, []error) {
	var errs []error
	fault := func(name, format string, args ...any) {
		if name != "" {
			name = "." + name
		}
		errs = append(errs, FieldError{"body", place + name, fmt.Sprintf(format, args...)})
	}
	members, err := membersOf(body)
	if err != nil {
		fault("", "is no CloudEvent: %v", err)
		return envelope{}, errs
	}
	text := func(name string) (string, bool) {
		raw, ok := members[name]
		if !ok {
			return "", false
		}
		var s *string
		if err := json.Unmarshal(raw, &s); err != nil || s == nil {
			fault(name, "is not a string")
			return "", false
		}
		return *s, true
	}
	var e envelope
	for _, name := range required {
		value, ok := text(name)
		switch {
		case ok:
			if wrong := attributeFault(name, value); wrong != "" {
				fault(name, "%s", wrong)
			}
		case members[name] == nil:
			fault(name, "is missing")
		}
		if name == "source" {
			e.source = value
		}
	}
	if kind, ok := text("datacontenttype"); ok {
		media, _, err := mime.ParseMediaType(kind)
		if err != nil || media != "application/json" && !strings.HasSuffix(media, "+json") {
			fault("datacontenttype", "%q is not application/json", clip(kind))
		}
	}
	data, plain := members["data"]
	encoded, base64ed := text("data_base64")
	switch {
	case plain && members["data_base64"] != nil:
		fault("data", "is there together with data_base64")
	case plain:
		e.data = data
	case base64ed:
		e.data, err = base64.StdEncoding.DecodeString(encoded)
		if err != nil || !json.Valid(e.data) {
			fault("data_base64", "is not JSON in base64")
		}
	case members["data_base64"] == nil:
		fault("data", "is missing")
	}
	return e, errs
}

// attributeFault says what is wrong with the value of a required attribute.
func attributeFault(name, value string) string {
	switch {
	case value == "":
		return "is empty"
	case name == "specversion" && value != "1.0":
		return fmt.Sprintf("is %q, only \"1.0\" is understood", clip(value))
	case len(value) > 1024:
		return "is longer than 1024 bytes"
	}
	if name == "source" {
		if _, err := url.Parse(value); err != nil {
			return "is no URI reference"
		}
	}
	return ""
}

// membersOf returns the members of a JSON object, whose names must differ.
func membersOf(body []byte) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("it is not a JSON object")
	}
	members := make(map[string]json.RawMessage)
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // a member's name is a string, or Token had failed
		if _, again := members[name]; again {
			return nil, fmt.Errorf("%q is there twice", clip(name))
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, err
		}
		members[name] = value
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("something follows it")
	}
	return members, nil
}

// wantsCloudEvents reports whether an Accept header asks for a batch of
// CloudEvents. They are never sent unless asked for by name.
func wantsCloudEvents(accept []string) bool {
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			if media, params, err := mime.ParseMediaType(part); err == nil && media == ContentBatch && params["q"] != "0" {
				return true
			}
		}
	}
	return false
}

// writeCloudEvents answers with entries as a CloudEvents batch. Source and id
// together name an entry of one ledger for ever.
func writeCloudEvents(w http.ResponseWriter, entries []odometer.Entry) error {
	type cloudEvent struct {
		SpecVersion string          `json:"specversion"`
		ID          string          `json:"id"`
		Source      string          `json:"source"`
		Type        string          `json:"type"`
		Subject     string          `json:"subject"`
		Time        time.Time       `json:"time"`
		ContentType string          `json:"datacontenttype"`
		Data        json.RawMessage `json:"data"`
	}
	batch := make([]cloudEvent, len(entries))
	for i := range entries {
		e := &entries[i]
		batch[i] = cloudEvent{
			SpecVersion: "1.0", ID: e.ID.String(), Source: fmt.Sprintf("/odometer/partitions/%d", e.ID.Partition),
			Type: EntryCloudEvent, Subject: string(e.Event.Instance), Time: instant(e.Event.Span.End),
			ContentType: "application/json", Data: e.AppendJSON(nil),
		}
	}
	return write(w, http.StatusOK, ContentBatch, batch)
}
