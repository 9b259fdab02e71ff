// Package apicheck holds requests and their answers to an OpenAPI 3.1 document. It
// is for tests: those of the API put it around the handler, those of programs that
// speak to it around the transport.
//
// An answer must have a status, a content type, headers and a body that the
// document has for its operation. A request that was answered well must be one that
// the document describes, so that the document refuses nothing that the server
// takes. What is no operation must be answered with a problem.
package apicheck

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Checker knows one document. It may be used by many goroutines at once.
type Checker struct {
	document   document
	operations *http.ServeMux // only to match
	compiler   *jsonschema.Compiler

	mu      sync.Mutex // guards what follows, and the compiler
	schemas map[string]*jsonschema.Schema
	seen    map[string]int // exchanges by operation id and status
}

// document is what is looked at of an OpenAPI document.
type document struct {
	Paths      map[string]map[string]operation
	Components struct {
		Responses  map[string]response
		Parameters map[string]parameter
	}
}

type operation struct {
	OperationID string
	Parameters  []parameter
	RequestBody *struct{ Content map[string]any }
	Responses   map[string]response
}

type response struct {
	Ref     string `json:"$ref"`
	Headers map[string]any
	Content map[string]any
}

type parameter struct {
	Ref      string `json:"$ref"`
	Name, In string
	Explode  *bool
	Schema   map[string]any
	pointer  string // to the schema
}

// New returns a Checker of a document, which must be valid and has its references
// within it.
func New(text []byte) (*Checker, error) {
	c := &Checker{
		operations: http.NewServeMux(), compiler: jsonschema.NewCompiler(),
		schemas: make(map[string]*jsonschema.Schema), seen: make(map[string]int),
	}
	if err := json.Unmarshal(text, &c.document); err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	c.compiler.DefaultDraft(jsonschema.Draft2020)
	c.compiler.AssertFormat()
	if err := c.compiler.AddResource("openapi.json", doc); err != nil {
		return nil, fmt.Errorf("read the schemas of the OpenAPI document: %w", err)
	}
	for path, operations := range c.document.Paths {
		for method := range operations {
			c.operations.HandleFunc(strings.ToUpper(method)+" "+path, http.NotFound)
		}
	}
	return c, nil
}

// Exchange is one request with its answer.
type Exchange struct {
	Request *http.Request // its body is in Sent
	Sent    []byte
	Status  int
	Header  http.Header
	Body    []byte
}

// statusClosed is logged for a client that went away: nobody reads such an answer.
const statusClosed = 499

// Check returns everything of an exchange that is not as the document has it.
func (c *Checker) Check(x Exchange) error {
	if x.Status == statusClosed {
		return nil
	}
	var err error
	if x.Body, err = unpacked(x); err != nil {
		return err
	}
	_, pattern := c.operations.Handler(x.Request)
	method, path, _ := strings.Cut(pattern, " ")
	op, ok := c.document.Paths[path][strings.ToLower(method)]
	if code := problemCode(x.Body); !ok || code == "no_such_route" || code == "method_not_allowed" {
		return c.nowhere(x, ok)
	}
	c.mu.Lock()
	c.seen[op.OperationID+" "+strconv.Itoa(x.Status)]++
	c.mu.Unlock()
	at := "#/paths/" + escape(path) + "/" + strings.ToLower(method)
	errs := []error{c.answer(x, op, at)}
	if x.Status < 300 && x.Status != http.StatusMultiStatus { // of which a part was refused
		errs = append(errs, c.request(x, op, at, path))
	}
	if err = errors.Join(errs...); err != nil {
		return fmt.Errorf("%s %s, answered with %d: not as the OpenAPI document has it: %w", x.Request.Method, x.Request.URL.Path, x.Status, err)
	}
	return nil
}

// Operations returns the ids of all operations, in order.
func (c *Checker) Operations() []string {
	var ids []string
	for _, operations := range c.document.Paths {
		for _, op := range operations {
			ids = append(ids, op.OperationID)
		}
	}
	slices.Sort(ids)
	return ids
}

// Seen returns how many exchanges of an operation were answered with a status.
func (c *Checker) Seen(operationID string, status int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.seen[operationID+" "+strconv.Itoa(status)]
}

func problemCode(body []byte) string {
	var p struct{ Code string }
	if bytes.HasPrefix(body, []byte("{")) {
		json.Unmarshal(body, &p) // what is no problem has no code
	}
	return p.Code
}

// nowhere checks the answer to what is no operation. The path may be one of the
// document where another server has answered, which has not all of it.
func (c *Checker) nowhere(x Exchange, described bool) error {
	if x.Status != http.StatusUnauthorized && x.Status != http.StatusNotFound && x.Status != http.StatusMethodNotAllowed || described && x.Status == http.StatusUnauthorized {
		return fmt.Errorf("%s %s is no operation of the OpenAPI document and is answered with %d", x.Request.Method, x.Request.URL.Path, x.Status)
	}
	if x.Request.Method == http.MethodHead {
		return nil
	}
	return c.valid("#/components/schemas/Problem", x.Body)
}

func (c *Checker) answer(x Exchange, op operation, at string) error {
	status := strconv.Itoa(x.Status)
	resp, ok := op.Responses[status]
	if !ok {
		return errors.New("the status is not there")
	}
	at += "/responses/" + status
	if resp.Ref != "" {
		at = resp.Ref
		resp = c.document.Components.Responses[strings.TrimPrefix(resp.Ref, "#/components/responses/")]
	}
	var errs []error
	known := slices.Clone(everywhere)
	for name := range resp.Headers {
		known = append(known, http.CanonicalHeaderKey(name))
	}
	for name := range x.Header {
		if !slices.Contains(known, name) {
			errs = append(errs, fmt.Errorf("the answer's header %s is not there", name))
		}
	}
	if len(resp.Content) == 0 {
		if len(x.Body) > 0 {
			errs = append(errs, fmt.Errorf("the answer has %d bytes, and no content is there", len(x.Body)))
		}
		return errors.Join(errs...)
	}
	media, _, _ := strings.Cut(x.Header.Get("Content-Type"), ";")
	if _, ok := resp.Content[media]; !ok {
		return errors.Join(append(errs, fmt.Errorf("the answer's content type %q is not there", media))...)
	}
	if isJSON(media) && x.Request.Method != http.MethodHead {
		errs = append(errs, c.valid(at+"/content/"+escape(media)+"/schema", x.Body))
	}
	return errors.Join(errs...)
}

// unpacked returns the body of an answer as it was before it was compressed.
func unpacked(x Exchange) ([]byte, error) {
	if x.Header.Get("Content-Encoding") != "gzip" {
		return x.Body, nil
	}
	zip, err := gzip.NewReader(bytes.NewReader(x.Body))
	if err != nil {
		return nil, fmt.Errorf("the answer is not compressed as it says: %w", err)
	}
	return io.ReadAll(zip)
}

// everywhere are headers that any answer may have.
var everywhere = []string{
	"Cache-Control", "Content-Length", "Content-Security-Policy", "Content-Type", "Date", "Ratelimit", "Ratelimit-Policy", "Referrer-Policy", "Vary",
	"X-Content-Type-Options", "X-Request-Id", "Connection", "Transfer-Encoding", "Content-Encoding",
}

func isJSON(media string) bool {
	return media == "application/json" || strings.HasSuffix(media, "+json")
}

// request checks a request that the server took.
func (c *Checker) request(x Exchange, op operation, at, path string) error {
	var errs []error
	query := x.Request.URL.Query()
	for i, p := range op.Parameters {
		p.pointer = at + "/parameters/" + strconv.Itoa(i) + "/schema"
		if p.Ref != "" {
			ref := p.Ref
			p = c.document.Components.Parameters[strings.TrimPrefix(ref, "#/components/parameters/")]
			p.pointer = ref + "/schema"
		}
		switch p.In {
		case "query":
			values := query[p.Name]
			delete(query, p.Name)
			for _, v := range values {
				if v != "" { // as if it were absent
					errs = append(errs, c.parameter(p, v))
				}
			}
		case "path":
			errs = append(errs, c.parameter(p, segment(x.Request, path, p.Name)))
		case "header":
			if v := x.Request.Header.Get(p.Name); v != "" {
				errs = append(errs, c.parameter(p, v))
			}
		}
	}
	if !lenient[op.OperationID] {
		for name := range query {
			errs = append(errs, fmt.Errorf("the parameter %s is not there", name))
		}
	}
	media, _, err := mime.ParseMediaType(x.Request.Header.Get("Content-Type"))
	if op.RequestBody != nil && op.RequestBody.Content[media] == nil && isJSON(media) {
		media = "application/json" // which a type of its own with +json is, too
	}
	switch {
	case op.RequestBody == nil:
		if len(x.Sent) > 0 {
			errs = append(errs, errors.New("the request has a body, and none is there"))
		}
	case err != nil || op.RequestBody.Content[media] == nil:
		errs = append(errs, fmt.Errorf("the request's content type %q is not there", media))
	default:
		errs = append(errs, c.valid(at+"/requestBody/content/"+escape(media)+"/schema", x.Sent))
	}
	return errors.Join(errs...)
}

// lenient are the operations for probes, whose parameters are not looked at.
var lenient = map[string]bool{"health": true, "live": true, "ready": true}

// parameter checks the text of one parameter, as what its schema says that it is.
func (c *Checker) parameter(p parameter, text string) error {
	var v any = text
	switch {
	case p.Schema["type"] == "integer":
		v = json.Number(text)
		if _, err := strconv.ParseInt(text, 10, 64); err != nil {
			return fmt.Errorf("the parameter %s: %w", p.Name, err)
		}
	case p.Schema["type"] == "array" && p.Explode != nil && !*p.Explode:
		var list []any
		for item := range strings.SplitSeq(text, ",") {
			list = append(list, strings.TrimSpace(item))
		}
		v = list
	}
	s, err := c.compiled(p.pointer)
	if err == nil {
		err = s.Validate(v)
	}
	if err != nil {
		return fmt.Errorf("the parameter %s: %w", p.Name, err)
	}
	return nil
}

// segment returns what stands in a request's path at a name of the template.
func segment(r *http.Request, template, name string) string {
	parts := strings.Split(r.URL.EscapedPath(), "/")
	i := slices.Index(strings.Split(template, "/"), "{"+name+"}")
	if i < 0 || i >= len(parts) {
		return ""
	}
	text, err := url.PathUnescape(parts[i])
	if err != nil {
		return parts[i]
	}
	return text
}

// valid checks a body by the schema at a pointer.
func (c *Checker) valid(pointer string, body []byte) error {
	s, err := c.compiled(pointer)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("the body is no JSON: %w", err)
	}
	return s.Validate(v)
}

func (c *Checker) compiled(pointer string) (*jsonschema.Schema, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.schemas[pointer]; s != nil {
		return s, nil
	}
	s, err := c.compiler.Compile("openapi.json" + pointer)
	if err != nil {
		return nil, fmt.Errorf("schema %s: %w", pointer, err)
	}
	c.schemas[pointer] = s
	return s, nil
}

// escape makes a member's name part of a JSON pointer in a URL.
func escape(name string) string {
	return strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D", "+", "%2B").Replace(name)
}

// Handler returns h with every exchange checked; fault is told what is wrong with
// one, before its answer ends.
func (c *Checker) Handler(h http.Handler, fault func(error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sent := &recording{ReadCloser: r.Body}
		asked := r.Clone(r.Context()) // the handler may change its own
		r.Body = sent
		tee := &tee{ResponseWriter: w}
		h.ServeHTTP(tee, r) // a panic is no answer
		header := tee.sent
		if header == nil {
			header = w.Header()
		}
		x := Exchange{asked, sent.had.Bytes(), tee.status, header, tee.had.Bytes()}
		if x.Status == 0 {
			x.Status = http.StatusOK
		}
		if err := c.Check(x); err != nil {
			fault(err)
		}
	})
}

// recording remembers what is read.
type recording struct {
	io.ReadCloser
	had bytes.Buffer
}

func (r *recording) Read(b []byte) (int, error) {
	n, err := r.ReadCloser.Read(b)
	r.had.Write(b[:n])
	return n, err
}

// tee remembers what is written.
type tee struct {
	http.ResponseWriter
	had    bytes.Buffer
	status int
	sent   http.Header
}

func (t *tee) WriteHeader(status int) {
	if t.status == 0 && status >= 200 {
		t.status, t.sent = status, t.Header().Clone()
	}
	t.ResponseWriter.WriteHeader(status)
}

func (t *tee) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.status, t.sent = http.StatusOK, t.Header().Clone()
	}
	t.had.Write(b)
	return t.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController reach the connection.
func (t *tee) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// Transport makes requests, and fails those whose exchange is not as the document
// has it. Answers of other programs, which have no X-Request-Id, it lets pass.
type Transport struct {
	Next    http.RoundTripper
	Checker func() *Checker
}

// Default has every request that this process makes by [http.DefaultTransport]
// checked by a document from now on. It is for a TestMain.
func Default(document []byte) {
	http.DefaultTransport = &Transport{Next: http.DefaultTransport, Checker: sync.OnceValue(func() *Checker {
		c, err := New(document)
		if err != nil {
			panic(err)
		}
		return c
	})}
}

// RoundTrip implements [http.RoundTripper].
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	var sent []byte
	if r.Body != nil {
		var err error
		sent, err = io.ReadAll(r.Body)
		r.Body.Close()
		if err != nil {
			return nil, err
		}
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := t.Next.RoundTrip(r)
	if err != nil || resp.Header.Get("X-Request-Id") == "" || strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return resp, err // a stream has no end to wait for
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(body))
	if err != nil {
		resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), broken{err})) // as it came
		return resp, nil
	}
	if err := t.Checker().Check(Exchange{r, sent, resp.StatusCode, resp.Header, body}); err != nil {
		return nil, err
	}
	return resp, nil
}

// broken is where an answer broke off.
type broken struct{ err error }

func (b broken) Read([]byte) (int, error) { return 0, b.err }
