package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"example.org/odometer"
)

// attributes are the members of a CloudEvent that an error may name; the first
// ones must be there.
var attributes = []string{"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "data", "data_base64"}

const required = 4

// readRecords reads the CloudEvents of a request in the mode that its content
// type names. An event that is not valid becomes a record with Raw and Err, for
// the quarantine. What is no CloudEvent, or has no JSON in it, is refused with
// the request as a whole: there is no telling what it was, and nothing that
// could be kept as an event.
func readRecords(r *http.Request) ([]odometer.Record, error) {
	batch, err := mediaOf(r)
	if err != nil {
		return nil, err
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
	if n := elements(body); batch && n > MaxBatch { // before any of them is read
		return nil, fmt.Errorf("the batch has %d events, at most %d are taken: %w", n, MaxBatch, errTooLarge)
	}
	items, err := odometer.ReadCloudHTTP(r.Header, body)
	if err != nil {
		return nil, FieldError{"body", "$", reason(err)}
	}
	var errs []error
	records := make([]odometer.Record, len(items))
	for i, item := range items {
		place := "$"
		if batch {
			place = fmt.Sprintf("$[%d]", i)
		}
		if len(item.Data) > odometer.MaxEventBytes {
			return nil, fmt.Errorf("the event at %s has %d bytes, at most %d are taken; nothing of the request was: %w",
				place, len(item.Data), odometer.MaxEventBytes, errTooLarge)
		}
		records[i] = odometer.Record{Event: item.Event, Raw: item.Data}
		if item.Err == nil {
			continue
		}
		// A record in quarantine is read again from its bytes when the ledger
		// is rebuilt and must then be found as bad: only what is wrong with
		// the event itself may put it there.
		_, wrong := odometer.DecodeEvent(item.Data)
		if wrong == nil || wrong.Error() != item.Err.Error() || !json.Valid(item.Data) {
			errs = append(errs, envelopeFaults(place, item.Err)...)
			continue
		}
		records[i].Err = wrong
	}
	return records, join(errs...)
}

// elements counts the commas between the elements of a JSON array, plus one.
// It neither checks the JSON nor tells an empty array from one with an element.
func elements(body []byte) int {
	n, depth, quoted := 1, 0, false
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
		case c == ']' || c == '}':
			depth--
		case c == ',' && depth == 1:
			n++
		}
	}
	return n
}

// mediaOf checks what the headers say of the body, and tells whether it is a
// batch.
func mediaOf(r *http.Request) (batch bool, err error) {
	content := r.Header.Get("Content-Type")
	media, params, err := mime.ParseMediaType(content)
	charset := params["charset"]
	binary := media == odometer.ContentJSON || strings.HasSuffix(media, "+json") && !strings.HasPrefix(media, "application/cloudevents")
	switch {
	case err == nil && charset != "" && !strings.EqualFold(charset, "utf-8"):
		return false, fmt.Errorf("charset %q is not supported, only utf-8: %w", clip(charset), errMediaType)
	case err == nil && binary && r.Header.Get("ce-specversion") == "":
		var errs []error
		for _, name := range attributes[:required] {
			if r.Header.Get("ce-"+name) == "" {
				errs = append(errs, FieldError{"header", "ce-" + name, "is missing: beside " + clip(media) +
					" the CloudEvent's attributes are headers; within the body they go as " + odometer.ContentCloudEvent})
			}
		}
		return false, join(errs...)
	case err != nil || !binary && media != odometer.ContentCloudEvent && media != odometer.ContentCloudBatch:
		return false, fmt.Errorf("content type %q is not supported; send %s, %s, or %s with ce- headers: %w",
			clip(content), odometer.ContentCloudEvent, odometer.ContentCloudBatch, odometer.ContentJSON, errMediaType)
	}
	return media == odometer.ContentCloudBatch, nil
}

// envelopeFaults returns each thing that is wrong with one CloudEvent.
func envelopeFaults(place string, err error) []error {
	all := []error{err}
	if joined, ok := errors.Unwrap(err).(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	faults := make([]error, len(all))
	for i, e := range all {
		name, wrong, _ := strings.Cut(reason(e), " ")
		name = strings.TrimSuffix(name, ":")
		switch {
		case strings.HasPrefix(name, "ce-"):
			faults[i] = FieldError{"header", name, wrong}
		case slices.Contains(attributes, name):
			faults[i] = FieldError{"body", place + "." + name, wrong}
		default:
			faults[i] = FieldError{"body", place, reason(e)}
		}
	}
	return faults
}

// wantsCloudEvents reports whether an Accept header asks for a batch of
// CloudEvents. They are never sent unless asked for by name.
func wantsCloudEvents(accept []string) bool {
	for _, line := range accept {
		for part := range strings.SplitSeq(line, ",") {
			if media, params, err := mime.ParseMediaType(part); err == nil && media == odometer.ContentCloudBatch && params["q"] != "0" {
				return true
			}
		}
	}
	return false
}

// writeCloudEvents answers with entries as a CloudEvents batch.
func writeCloudEvents(w http.ResponseWriter, entries []odometer.Entry) error {
	batch := make([]odometer.CloudEvent, len(entries))
	for i := range entries {
		batch[i] = entries[i].CloudEvent()
	}
	w.Header().Set("Content-Type", odometer.ContentCloudBatch)
	w.Write(append(odometer.AppendCloudBatch(nil, batch), '\n')) // the client is gone when this fails
	return nil
}
