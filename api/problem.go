package api

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"example.org/odometer"
)

// Problem is the body of every answer that is an error: RFC 9457, with the
// members `code`, `request_id` and `errors` added.
type Problem struct {
	Type      string       `json:"type"` // what kind of error it is; its meaning never changes
	Title     string       `json:"title"`
	Status    int          `json:"status"`
	Detail    string       `json:"detail,omitempty"`   // for a person
	Instance  string       `json:"instance,omitempty"` // the path that was asked for
	Code      string       `json:"code"`               // the end of type
	RequestID string       `json:"request_id"`         // under which the server's log has it
	Errors    []FieldError `json:"errors,omitempty"`   // each thing that is wrong with the request
	// Submitted is there when events were refused: what became of each.
	*Submitted
}

// Error tells all that is wrong, where it is several things each on a line of its own.
func (p *Problem) Error() string {
	text := cmp.Or(p.Detail, p.Title)
	if len(p.Errors) > 1 {
		text += ":"
		for i := range p.Errors {
			text += "\n  " + p.Errors[i].Error()
		}
	}
	return text
}

// FieldError is one thing that is wrong with a request.
type FieldError struct {
	In     string `json:"in"`     // where it is: "query", "header", "path" or "body"
	Name   string `json:"name"`   // of the parameter or header, or the place in the body
	Detail string `json:"detail"` // what is wrong, for a person
}

func (e FieldError) Error() string { return e.In + " " + e.Name + ": " + e.Detail }

// Unwrap makes every FieldError an [odometer.ErrInvalid].
func (e FieldError) Unwrap() error { return odometer.ErrInvalid }

// Kinds of error that only HTTP knows.
var (
	errUnauthorized = errors.New("send the header Authorization: Bearer TOKEN; a server keeps a token in admin.token of its data directory")
	errScope        = fmt.Errorf("the token has not the scope: %w", odometer.ErrForbidden)
	errNoRoute      = errors.New("no such route")
	errMethod       = errors.New("method not allowed")
	errTooLarge     = errors.New("too large")
	errMediaType    = errors.New("unsupported media type")
	errRefused      = errors.New("events refused")
	errInternal     = errors.New("internal error")
	errTooMany      = fmt.Errorf("too many requests: %w", odometer.ErrUnavailable)
	errHeaders      = errors.New("too many header fields")
	errNoMatch      = errors.New("send the header If-Match with the ETag of what is to be changed, so that nobody else's change is lost")
)

// kind is one row of the table from an error to its answer.
type kind struct {
	err    error
	status int
	code   string
	title  string
}

// statusClosed is for the log and the metrics: nobody reads the answer.
const statusClosed = 499

// problemType is the prefix of every problem's type URI; the code follows.
const problemType = "urn:odometer:problem:"

// kinds maps errors to answers. The first row whose error is in the chain
// decides; what no row matches is errInternal, whose cause is logged and not
// shown.
var kinds = []kind{
	{errUnauthorized, http.StatusUnauthorized, "unauthorized", "A valid bearer token is needed"},
	{errScope, http.StatusForbidden, "insufficient_scope", "The token does not have the scope that this needs"},
	{errNoRoute, http.StatusNotFound, "no_such_route", "There is no such route"},
	{errMethod, http.StatusMethodNotAllowed, "method_not_allowed", "The route has no such method"},
	{errTooLarge, http.StatusRequestEntityTooLarge, "too_large", "The request is too large"},
	{errMediaType, http.StatusUnsupportedMediaType, "unsupported_media_type", "The content type is not supported"},
	{errHeaders, http.StatusRequestHeaderFieldsTooLarge, "headers_too_large", "The request has too many header fields"},
	{errTooMany, http.StatusTooManyRequests, "rate_limited", "There are too many requests"},
	{errRefused, http.StatusUnprocessableEntity, "events_refused", "No event was accepted"},
	{errNoMatch, http.StatusPreconditionRequired, "precondition_required", "The request does not say what it changes"},
	{odometer.ErrStale, http.StatusPreconditionFailed, "precondition_failed", "It was changed meanwhile"},
	{odometer.ErrReused, http.StatusUnprocessableEntity, "idempotency_key_reused", "The key was used for another request"},
	{odometer.ErrInvalid, http.StatusBadRequest, "invalid_request", "The request is invalid"},
	{odometer.ErrNotFound, http.StatusNotFound, "not_found", "There is no such thing"},
	{odometer.ErrConflict, http.StatusConflict, "conflict", "The request contradicts what is there"},
	{odometer.ErrForbidden, http.StatusForbidden, "forbidden", "The token does not allow this"},
	{odometer.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", "A part that is needed is not available"},
	{context.DeadlineExceeded, http.StatusServiceUnavailable, "timeout", "The answer took too long"},
	{context.Canceled, statusClosed, "canceled", "The client went away"},
	{errInternal, http.StatusInternalServerError, "internal", "The server failed"},
}

// kindOf returns the row of kinds that err belongs to.
func kindOf(err error) kind {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = errTooLarge
	}
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k
		}
	}
	return kinds[len(kinds)-1]
}

// problemOf describes err, which must not be nil, for the client. What looks like
// a token is taken out, wherever the client had put it.
func problemOf(err error, path, requestID string) Problem {
	p := describe(err, path, requestID)
	p.Detail, p.Instance = odometer.HideSecrets(p.Detail), odometer.HideSecrets(p.Instance)
	for i := range p.Errors {
		e := &p.Errors[i]
		e.Name, e.Detail = odometer.HideSecrets(e.Name), odometer.HideSecrets(e.Detail)
	}
	return p
}

func describe(err error, path, requestID string) Problem {
	k := kindOf(err)
	p := Problem{
		Type: problemType + k.code, Title: k.title, Status: k.status,
		Instance: path, Code: k.code, RequestID: requestID,
	}
	if k.err == errInternal {
		p.Detail = "the cause is in the server's log under this request id"
		return p
	}
	if tooLarge, ok := errors.AsType[*http.MaxBytesError](err); ok {
		p.Detail = fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit)
		return p
	}
	all, ok := errors.AsType[faults](err)
	if !ok {
		all = faults{err}
	}
	for _, e := range all {
		if fe, ok := errors.AsType[FieldError](e); ok {
			p.Errors = append(p.Errors, fe)
		}
	}
	if len(all) == 1 {
		p.Detail = all[0].Error()
		switch k.err {
		case errNoRoute, errMethod, errTooLarge, errMediaType, odometer.ErrInvalid:
			p.Detail = strings.TrimSuffix(p.Detail, ": "+k.err.Error()) // says nothing more
		}
	} else {
		p.Detail = fmt.Sprintf("%d things are wrong with the request", len(all))
	}
	if refused, ok := errors.AsType[*refusedError](err); ok {
		p.Submitted = &refused.answer
	}
	return p
}

// faults are all the things that are wrong with one request.
type faults []error

// join returns nil where every error is nil, and otherwise those that are not.
func join(errs ...error) error {
	var all faults
	for _, err := range errs {
		if more, ok := err.(faults); ok {
			all = append(all, more...)
		} else if err != nil {
			all = append(all, err)
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

func (f faults) Error() string   { return errors.Join(f...).Error() }
func (f faults) Unwrap() []error { return f }

// retryAfter is RetryAfter as a header's value.
var retryAfter = strconv.Itoa(int(RetryAfter.Seconds()))

// writeProblem answers with p.
func writeProblem(w http.ResponseWriter, p Problem) {
	h := w.Header()
	h.Set("Content-Type", "application/problem+json")
	if p.Status == http.StatusServiceUnavailable {
		h.Set("Retry-After", retryAfter)
	}
	w.WriteHeader(p.Status)
	body, err := encode(p)
	if err != nil {
		panic(err) // strings and integers always encode
	}
	w.Write(body) // the client is gone when this fails
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, status int, v any) error {
	return write(w, status, "application/json", v)
}

func write(w http.ResponseWriter, status int, contentType string, v any) error {
	body, err := encode(v)
	if err != nil {
		return fmt.Errorf("encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	w.Write(body) // the client is gone when this fails
	return nil
}

// encode returns v as one line of JSON, without the escapes that only HTML
// needs, so that what came as JSON leaves as it was.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// Unwrap returns the kind of failure that the problem's code stands for, so
// that a client tells them apart as the server does.
func (p *Problem) Unwrap() error {
	for _, k := range kinds {
		if k.code == p.Code {
			return k.err
		}
	}
	return nil
}
